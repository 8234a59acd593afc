"""`reimagen train`: any setting from the command line, one clear line on bad input, and a run that survives kill -9."""

import dataclasses
import io
import json
import os
import re
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace
from typing import ClassVar

import jax
import numpy as np
import pytest
from PIL import Image

from reimagen_jax import cli
from reimagen_jax.commands.train import keep_guidance, parse
from reimagen_jax.config import Experiment
from reimagen_jax.data.records import ImageText, write_records
from reimagen_jax.errors import UserError
from reimagen_jax.retrieval.knowledge_base import KnowledgeBase
from reimagen_jax.retrieval.neighbours import build_triples
from reimagen_jax.training.loop import Outcome
from tests.compiling import FLAGS
from tests.tiny import TINY, TINY_CROPS, changed
from tests.training.tiny_system import read_state, same

EXPERIMENT = "from tests.tiny import TINY as config\n"


@pytest.fixture
def experiment(tmp_path):
    """An experiment file."""
    path = tmp_path / "tiny.py"
    path.write_text(EXPERIMENT)
    return path


@pytest.fixture(scope="module")
def triples(tmp_path_factory):
    """Triples of 24 small pictures."""
    folder, rng = tmp_path_factory.mktemp("data"), np.random.default_rng(0)

    def example(number):
        png = io.BytesIO()
        Image.fromarray(rng.integers(0, 255, (16, 16, 3), dtype=np.uint8)).save(png, "png")
        return ImageText(
            str(number), png.getvalue(), f"picture {number} of a {['red', 'green', 'blue'][number % 3]} cat"
        )

    records = write_records((example(number) for number in range(24)), folder / "records", source="test")
    build_triples(records, KnowledgeBase.build(records, folder / "index"), 2, folder / "triples")
    return folder / "triples"


def test_any_setting_can_be_overridden_and_the_others_come_from_the_file(experiment):
    options = "--train.num-steps 10 --data.triples there --unet.levels.0.width 32 --unet.levels.1.no-self-attention"
    options += " --text-drop 0.2"
    command = parse([str(experiment), "--workdir", "run", *options.split()])
    first, second = TINY.system.unet.levels
    levels = (dataclasses.replace(first, width=32), dataclasses.replace(second, self_attention=False))
    assert command.config == dataclasses.replace(
        changed(TINY, unet=dataclasses.replace(TINY.system.unet, levels=levels), text_drop=0.2),
        train=dataclasses.replace(TINY.train, num_steps=10),
        data=dataclasses.replace(TINY.data, triples="there"),
    )
    assert (command.workdir, command.experiment_file) == (Path("run"), experiment)
    assert parse(["--train.num-steps", "10", "--workdir", "run", str(experiment)]).config.train.num_steps == 10


def test_an_optional_part_has_options_where_the_experiment_has_it(tmp_path, experiment, capsys):
    path = tmp_path / "stage.py"
    path.write_text("from tests.tiny import TINY_CROPS as config\n")
    options = "--super-resolution.crop 32 --super-resolution.aug-levels 0 0.5 --super-resolution.shrinking area cubic"
    command = parse([str(path), "--workdir", "run", *options.split()])
    part = TINY_CROPS.system.super_resolution
    part = dataclasses.replace(part, crop=32, aug_levels=(0.0, 0.5), shrinking=("area", "cubic"))
    assert command.config == changed(TINY_CROPS, super_resolution=part)
    assert parse([str(path), "--workdir", "run"]).config == TINY_CROPS
    with pytest.raises(SystemExit) as stopped:
        parse([str(path), "--help-all"])
    assert stopped.value.code == 0 and "--super-resolution.low-resolution INT" in capsys.readouterr().out
    with pytest.raises(SystemExit) as stopped:
        parse([str(experiment), "--workdir", "run", "--super-resolution.crop", "32"])
    assert stopped.value.code == 2 and "--super-resolution.crop" in capsys.readouterr().err


def test_help_shows_every_setting_with_the_experiments_values(experiment, capsys):
    with pytest.raises(SystemExit) as stopped:
        parse([str(experiment), "--help-all"])
    assert stopped.value.code == 0
    text = capsys.readouterr().out
    for name in settings(TINY):
        assert f"--{name}" in text, name
    assert re.search(r"--unet.levels.1.width INT\s.*\(default: 16\)", text, re.DOTALL)


def settings(value, prefix=""):
    """All option names: fields of dataclasses, their fields, elements of tuples; not of a part that is absent. Those of
    the system have no prefix."""
    if prefix in ("super_resolution", "distilled", "text.frozen", "data.asked") and value is None:
        return
    if dataclasses.is_dataclass(value):
        for field in dataclasses.fields(value):
            name = "" if isinstance(value, Experiment) and field.name == "system" else field.name
            yield from settings(getattr(value, field.name), f"{prefix}.{name}" if prefix else name)
    elif isinstance(value, tuple):
        for index, element in enumerate(value):
            yield from settings(element, f"{prefix}.{index}")
    else:
        yield prefix.replace("_", "-")


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--train.num-step", "10"], "--train.num-steps"),
        (["--train.num-steps", "ten"], "'ten'"),
        (["--train.decay", "sometimes"], "cosine"),
    ],
)
def test_unknown_names_and_malformed_values_exit_2_and_help(experiment, capsys, options, said):
    with pytest.raises(SystemExit) as stopped:
        parse([str(experiment), "--workdir", "run", *options])
    assert stopped.value.code == 2
    assert said in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["FILE", "--workdir", "DIR", "--train.num-steps", "0"], "--train.num-steps 0: at least 1"),
        (["FILE", "--workdir", "DIR", "--unet.levels.0.width", "30"], "not a multiple of unet.groups"),
        (["missing.py", "--workdir", "DIR"], "missing.py not found"),
        (["FILE.txt", "--workdir", "DIR"], "is not a .py file"),
        (["FILE", "--workdir", "DIR"], "data.triples is not set"),
        (["FILE", "--workdir", "DIR", "--data.triples", "nowhere"], "nowhere not found"),
        (["FILE", "--workdir", "FILE/run", "--data.triples", "TRIPLES"], "cannot write to --workdir"),
        (["FILE", "--workdir", "DIR", "--data.triples", "TRIPLES", "--data.batch-size", "9"], "not divisible by the 8"),
    ],
)
def test_bad_input_is_one_line_and_exit_2(experiment, triples, tmp_path, capsys, arguments, said):
    places = {"FILE": str(experiment), "DIR": str(tmp_path / "run"), "TRIPLES": str(triples)}
    status = cli.main(["train", *(re.sub("FILE|DIR|TRIPLES", lambda m: places[m[0]], each) for each in arguments)])
    error = capsys.readouterr().err
    assert status == 2 and said in error
    assert error.startswith("error: ") and error.count("\n") == 1
    assert not (tmp_path / "run").exists()


def test_suggestions_do_not_hide_a_missing_workdir(experiment, capsys):
    with pytest.raises(SystemExit) as stopped:
        parse([str(experiment)])
    assert stopped.value.code == 2 and "--workdir" in capsys.readouterr().err


def test_another_exception_type_is_not_swallowed(tmp_path):
    broken = tmp_path / "broken.py"
    broken.write_text("config = 3\n")
    with pytest.raises(UserError, match="does not define `config = Experiment"):
        parse([str(broken), "--workdir", "run"])


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("config = (\n", "odd.py, line 1: SyntaxError: '\\(' was never closed"),
        ("import os\n\nconfig = nothing\n", "odd.py, line 3: NameError: name 'nothing'"),
        ("\nimport no_such_module\n", "odd.py, line 2: ModuleNotFoundError"),
        ("def half():\n    return 1 / 0\n\n\nconfig = half()\n", "odd.py, line 2: ZeroDivisionError"),
        ("import json\njson.loads('{')\n", "odd.py, line 2: JSONDecodeError"),
        ("raise SystemExit(7)\n", "odd.py, line 1: SystemExit: 7"),
        ("config = '\udcff'\n", "odd.py, line 1: SyntaxError: .*utf-8"),
        ("from tests.tiny import TINY as config\nconfig = config(1)\n", "odd.py, line 2: TypeError"),
    ],
)
def test_an_experiment_file_that_cannot_be_run_is_named_with_its_line(tmp_path, text, said):
    (tmp_path / "odd.py").write_text(text, errors="surrogateescape")
    with pytest.raises(UserError, match=said):
        parse([str(tmp_path / "odd.py"), "--workdir", "run"])


@pytest.mark.parametrize(
    "options",
    [
        ["--workdir", "hdfs://host/run"],
        ["--workdir", "run", "--data.triples", "file:///triples"],
        ["--workdir", "run", "--data.triples", "t", "--init.weights", "hdfs://host/weights"],
        ["--workdir", "run", "--data.triples", "t", "--data.text-embeddings", "file:///embeddings"],
    ],
)
def test_an_address_is_refused_before_anything_is_made(experiment, tmp_path, monkeypatch, capsys, options):
    monkeypatch.chdir(tmp_path)
    before = sorted(tmp_path.rglob("*"))
    assert cli.main(["train", str(experiment), *options]) == 2
    error = capsys.readouterr().err
    assert "is an address, not a folder or file of this machine" in error and error.count("\n") == 1
    assert sorted(tmp_path.rglob("*")) == before


def test_records_do_not_become_a_run(experiment, triples, capsys):
    records = triples.parent / "records"
    before = sorted(records.rglob("*"))
    assert cli.main(["train", str(experiment), "--workdir", str(records), "--data.triples", str(triples)]) == 2
    assert "holds records, not a training run: choose another --workdir" in capsys.readouterr().err
    assert sorted(records.rglob("*")) == before


def start(workdir, experiment, triples, *options):
    """The command in a process of its own, on one device."""
    command = [sys.executable, "-m", "reimagen_jax.cli", "train", str(experiment), "--workdir", str(workdir)]
    command += ["--data.triples", str(triples), "--train.num-steps", "24", "--train.checkpoint-every", "6", *options]
    cache = jax.config.jax_compilation_cache_dir
    environment = {**os.environ, "XLA_FLAGS": FLAGS, "JAX_COMPILATION_CACHE_DIR": cache}
    environment["PYTHONPATH"] = str(Path(__file__).parents[2])
    return subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


def test_kill_9_and_the_same_command_end_where_an_undisturbed_run_does_bit_for_bit(experiment, triples, tmp_path):
    """The undisturbed run draws samples besides, which changes nothing either."""
    whole = start(tmp_path / "whole", experiment, triples, "--train.sample-every", "16")
    output = whole.communicate()[0]
    assert whole.returncode == 0, output

    killed = start(tmp_path / "killed", experiment, triples)
    while not any(path.name.isdecimal() for path in (tmp_path / "killed").glob("checkpoints/*")):
        assert killed.poll() is None, killed.stdout.read()
        time.sleep(0.001)
    killed.kill()
    killed.communicate()
    assert killed.returncode == -9
    assert not (tmp_path / "killed" / "checkpoints" / "24").exists(), "it was to be killed before its end"

    again = start(tmp_path / "killed", experiment, triples)
    output = again.communicate()[0]
    assert again.returncode == 0 and "going on from the checkpoint of step" in output, output
    assert same(read_state(tmp_path / "killed", 24), read_state(tmp_path / "whole", 24))
    losses = [
        [json.loads(line)["loss"] for line in (tmp_path / name / "metrics.jsonl").read_text().splitlines()]
        for name in ("killed", "whole")
    ]
    assert losses[0] == losses[1] and len(losses[0]) == 24
    assert [path.name for path in (tmp_path / "whole" / "samples").iterdir()] == ["00000016.png"]


def test_a_run_keeps_guidance_that_draws_held_out_examples_better_as_long_as_it_does(tmp_path, capsys):
    class Held:
        better: ClassVar[dict] = {"text_weight": 1.5, "neighbour_weight": 2.0}

        def __len__(self):
            return 48

        def better_guidance(self, params):
            return self.better

    outcome = Outcome(7, SimpleNamespace(averaged={}), taken=7)
    keep_guidance(Held(), outcome, tmp_path)
    kept = json.loads((tmp_path / "guidance.json").read_text())
    assert kept == {"step": 7, "by": "likeness of 48 held-out examples", "text_weight": 1.5, "neighbour_weight": 2.0}
    assert "text weight 1.5, neighbour weight 2, chosen at step 7" in capsys.readouterr().out
    Held.better = {}
    keep_guidance(Held(), outcome, tmp_path)
    assert not (tmp_path / "guidance.json").exists()
    assert "no other draws held-out examples better" in capsys.readouterr().out
