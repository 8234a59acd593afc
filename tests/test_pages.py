"""The pages: their links lead somewhere, what they name exists, their commands parse with today's options."""

import ast
import configparser
import dataclasses
import difflib
import importlib
import os
import pkgutil
import re
import runpy
import shlex
import subprocess
import sys
from fnmatch import fnmatch
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import pytest
import tyro

from reimagen_jax import cli, commands
from reimagen_jax.diffusion import guidance, sampler, schedule, solvers
from reimagen_jax.diffusion.settings import DiffusionConfig, SamplerConfig
from tests.compiling import FLAGS

sys.path.insert(0, str(Path(__file__).parents[1] / "tools"))  # its files import each other as they do when they run
import pages
import run_pages

ROOT, PACKAGE, README = pages.ROOT, pages.PACKAGE, pages.ROOT / "README.md"
PAGES = pages.pages()
WITH_COMMANDS = [page for page in [*PAGES, *pages.headers()] if pages.commands(page)]
FIRST = (
    "python3 -m venv .venv && .venv/bin/pip install -q . && .venv/bin/reimagen demo",
    "python3 -m venv .venv && .venv/bin/pip install -q '.[test]' && .venv/bin/python -m pytest",
)


def name(page: Path) -> str:
    return str(page.relative_to(ROOT))


def setup() -> configparser.ConfigParser:
    parser = configparser.ConfigParser()
    parser.read(ROOT / "setup.cfg")
    return parser


def test_the_front_page_is_short_and_begins_with_the_two_commands():
    assert len(README.read_text(encoding="utf-8").splitlines()) <= 180
    assert tuple(command.text for command in pages.commands(README))[:2] == FIRST


def test_every_folder_has_a_page_that_is_found_from_the_front_page():
    """Small folders are on the package's own page."""
    found, next_pages = set(), [README]
    while next_pages:
        page = next_pages.pop()
        found.add(page)
        targets = [(page.parent / target).resolve() for target in pages.links(page)]
        next_pages += [path for path in targets if path.suffix == ".md" and path not in found]
    assert {name(page) for page in PAGES} <= {name(page) for page in found}
    folders = {path.parent for path in PACKAGE.rglob("*.py")}
    top = {folder for folder in folders if folder.parent == PACKAGE}
    without = {folder.name for folder in top if folder / "README.md" not in found}
    assert without <= {"api", "commands", "pretrained", "web", "assets"}


def test_every_experiment_and_tool_is_on_its_page():
    for folder in ("experiments", "tools"):
        page = (ROOT / folder / "README.md").read_text(encoding="utf-8")
        assert [path.name for path in (ROOT / folder).glob("*.py") if f"`{path.name}`" not in page] == []


def test_pages_are_not_part_of_the_installed_package():
    patterns = setup()["options.package_data"]["reimagen_jax"].split()
    inside = [page.relative_to(PACKAGE).as_posix() for page in PAGES if PACKAGE in page.parents]
    assert len(inside) > 10
    shipped = [page for page in inside for pattern in patterns if _matches(page, pattern)]
    assert shipped == []


def _matches(path: str, pattern: str) -> bool:
    return path.count("/") == pattern.count("/") and fnmatch(path, pattern)


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_links_are_not_dead(page):
    dead = [target for target in pages.links(page) if not (page.parent / target).exists()]
    assert dead == []


@pytest.mark.parametrize("page", [*PAGES, *pages.headers()], ids=name)
def test_files_and_names_in_backticks_exist(page):
    own = pages.python_files(page) if page.suffix == ".md" else {}
    wrong = []
    for path, defined in pages.files(page):
        target = pages.resolve(page, path)
        if target is None and not any(path in (file, Path(file).name) for file in own):
            wrong.append(path)
        elif defined and not pages.defines(target, defined):
            wrong.append(f"{path}:{defined}")
    assert wrong == []


@pytest.mark.parametrize("page", [*PAGES, *pages.headers()], ids=name)
def test_files_outside_of_the_package_exist(page):
    named = re.findall(r"\b(?:experiments|tests|tools)/[\w/.]*\w", page.read_text(encoding="utf-8"))
    assert [path for path in named if not (ROOT / path).exists()] == []


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_what_is_to_be_installed_can_be(page):
    extras = setup()["options.extras_require"]
    asked = {
        extra
        for names in re.findall(r"'?\.\[([\w,]+)\]", page.read_text(encoding="utf-8"))
        for extra in names.split(",")
    }
    assert asked <= set(extras)


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_python_is_python(page):
    for line, content in pages.blocks(page, "python"):
        compile(content, f"{page}:{line}", "exec")


class Parsed(BaseException):
    """A tool's command line was read without a complaint."""


@pytest.fixture
def parse(tmp_path, monkeypatch):
    """Parses a call with the parsers of the commands and tools themselves; nothing runs.

    In a folder as the pages see it: experiments and tools, the checkout as pods have it, and what pages write there.
    """
    for found in ("experiments", "tools"):
        (tmp_path / found).symlink_to(ROOT / found)
    (tmp_path / "reimagen_jax").symlink_to(ROOT)
    for page in PAGES:
        for file, content in pages.python_files(page).items():
            (tmp_path / file).parent.mkdir(exist_ok=True)
            (tmp_path / file).write_text(content)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path / "tools"))
    for item in pkgutil.iter_modules(commands.__path__):
        module = importlib.import_module(f"{commands.__name__}.{item.name}")
        for value in vars(module).values():
            if dataclasses.is_dataclass(value) and isinstance(value, type) and "run" in vars(value):
                monkeypatch.setattr(value, "run", lambda self: None)
    really = tyro.cli

    def parse_only(*args, **options):
        really(*args, **options)
        raise Parsed

    def parse(call: pages.Call) -> None:
        if "PYTHONPATH" in call.environment:
            monkeypatch.syspath_prepend(str(tmp_path / call.environment["PYTHONPATH"]))
        if call.words[0] == "reimagen":
            assert cli.main(call.words[1:]) == 0
        elif call.words[1].startswith("tools/"):
            with monkeypatch.context() as patch:
                patch.setattr(tyro, "cli", parse_only)
                patch.setattr(sys, "argv", call.words[1:])
                patch.setattr(os, "environ", dict(os.environ))
                with pytest.raises(Parsed):
                    runpy.run_path(str(ROOT / call.words[1]), run_name="__main__")
        elif call.words[1] == "-m" and call.words[2].startswith("reimagen_jax."):
            _parse_beam(call.words)
        else:
            assert call.words[1] == "-m" or (tmp_path / call.words[1]).is_file()

    return parse


def _parse_beam(words: list[str]) -> None:
    """The pipeline's own options, which can only be imported where Beam is; what it does not know goes to Beam."""
    path = ROOT / f"{words[2].replace('.', '/')}.py"
    arguments = next(node for node in ast.parse(path.read_text()).body if getattr(node, "name", "") == "Arguments")
    fields = {node.target.id: node.value for node in arguments.body if isinstance(node, ast.AnnAssign)}
    given = {word.removeprefix("--") for word in words if word.startswith("--")}
    assert {field for field, default in fields.items() if default is None} <= given
    names = [field.replace("_", "-") for field in fields]
    for option in given - fields.keys() - set(names):
        assert not difflib.get_close_matches(option, names, 1, cutoff=0.8), option


@pytest.mark.parametrize("page", WITH_COMMANDS, ids=name)
def test_commands_parse_with_todays_options(page, parse, capsys):
    failed = []
    for command in pages.commands(page):
        for call in pages.calls(command):
            try:
                parse(call)
            except (SystemExit, AssertionError) as error:
                said = capsys.readouterr()
                failed.append(f"{command.place}: {shlex.join(call.words)}\n{error!r}\n{said.err}{said.out}")
    assert not failed, "\n".join(failed)


@pytest.mark.parametrize(
    "line",
    [
        "reimagen sample --model shipped --cascade runs/sr --cascade-k 0 --out x",
        "reimagen train experiments/images32.py --workdir w --train.text-drop 0.1",
        "python tools/preflight.py experiments/images32.py --topologie v4:2x2x1",
    ],
)
def test_an_option_that_is_no_more_is_found(line, parse):
    with pytest.raises(SystemExit):
        parse(pages.Call({}, shlex.split(line)))


@pytest.mark.parametrize("page", [page for page in WITH_COMMANDS if page.name != "RESULTS.md"], ids=name)
def test_run_pages_runs_every_command_or_says_why_not(page, tmp_path):
    for command in pages.commands(page):
        for call, why in run_pages.parts(command):
            assert why or (call is not None and run_pages.small(call, tmp_path)), command.place


def test_the_system_of_ones_own_trains_and_draws_what_it_was_trained_on(tmp_path):
    page = PACKAGE / "systems" / "README.md"
    for file, content in pages.python_files(page).items():
        (tmp_path / file).parent.mkdir(exist_ok=True)
        (tmp_path / file).write_text(content)
    train, draw = (call for command in pages.commands(page) for call in pages.calls(command))
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(["ring", str(ROOT)]), "XLA_FLAGS": FLAGS}  # one device

    def run(words: list[str]) -> str:
        done = subprocess.run(words, cwd=tmp_path, env=environment, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        return done.stdout

    shorter = ["--train.num-steps", "400", "--train.log-every", "200"]
    assert "step 400/400" in run([sys.executable, "-m", "reimagen_jax.cli", *train.words[1:], *shorter])
    radius, deviation = map(float, re.findall(r"\d\.\d+", run([sys.executable, *draw.words[1:]])))
    assert abs(radius - 1.0) < 0.1 and deviation < 0.15


def test_the_solver_of_ones_own_samples_a_gaussian():
    """Of mean 0.3 and standard deviation 0.5, by its best denoiser; nearer to it than steps of first order."""
    names = {}
    exec(pages.python_files(PACKAGE / "diffusion" / "README.md")["heun.py"], names)
    process, mean, deviation = DiffusionConfig(prediction="x0"), 0.3, 0.5

    def denoise(x_BD, t_B, condition):
        alpha, sigma = (scale[:, None] for scale in schedule.alpha_sigma(t_B, process))
        gain = deviation**2 * alpha / (alpha**2 * deviation**2 + sigma**2)
        return mean + gain * (x_BD - alpha * mean)

    def draw(solver):
        start_B, _, step_B = sampler.split_keys(sampler.image_keys(0, range(2000)))
        noise = sampler.initial_noise(start_B, (1,))
        noise = (noise - noise.mean()) / noise.std()
        project = sampler.projection(SamplerConfig(thresholding="none"))
        times = schedule.times(50, process)
        return sampler.sample(denoise, None, noise, step_B, times, process, solver, guidance.unguided, project)

    heun, ddim = draw(names["heun"](process)), draw(solvers.ddim(process))
    np.testing.assert_allclose(heun.mean(), mean, atol=0.01)
    np.testing.assert_allclose(heun.std(), deviation, atol=0.01)
    assert jnp.abs(heun.std() - deviation) < 0.5 * jnp.abs(ddim.std() - deviation)
