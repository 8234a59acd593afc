"""Help and misspelt command lines: as tyro reads them, on lines that fit; what is wrong in one line."""

import dataclasses
import importlib
import inspect
import re
import shlex
import subprocess
import sys

import pytest
import tyro

from reimagen_jax import cli
from reimagen_jax.commands import COMMANDS, completion, usage
from reimagen_jax.commands.train import parse, unnamed
from reimagen_jax.config import Experiment
from tests.test_ranges import WALKED
from tests.tiny import TINY_CROPS


def leaves():
    """(words, class) of every command."""
    for name, kind in completion.commands().items():
        yield from ((f"{name} {sub}", each) for sub, each in kind.items()) if isinstance(kind, dict) else [(name, kind)]


LEAVES = dict(leaves())
GROUPS = [name for name, kind in completion.commands().items() if isinstance(kind, dict)]


@pytest.fixture
def told(capsys, monkeypatch):
    """What a command line says, and its status; the terminal has so many columns."""

    def tell(words, columns=80):
        monkeypatch.setenv("COLUMNS", str(columns))
        try:
            status = cli.main(words.split() if isinstance(words, str) else words)
        except SystemExit as stop:
            status = stop.code
        said = capsys.readouterr()
        return status, said.out, said.err

    return tell


@pytest.mark.parametrize("columns", [80, 120])
@pytest.mark.parametrize("option", ["--help", "--help-all"])
@pytest.mark.parametrize("words", [*LEAVES, *GROUPS])
def test_help_fits_and_has_no_boxes_and_no_empty_defaults(told, words, option, columns):
    status, text, errors = told(f"{words} {option}", columns)
    assert (status, errors) == (0, "")
    assert text.startswith(f"usage: reimagen {words} ")
    assert max(map(len, text.splitlines())) <= min(columns, 100)
    for never in ("{None}", "None|", "|None", "default: None", "default: False", "(default: )", "│", "MISSING", "\t"):
        assert never not in text


@pytest.mark.parametrize("words", LEAVES)
def test_help_has_the_common_options_and_help_all_what_tyro_reads(told, capsys, monkeypatch, words):
    monkeypatch.setenv("COLUMNS", "100")
    kind, config, default = LEAVES[words], (tyro.conf.FlagCreatePairsOff,), {}
    if words == "train":
        config, default = (tyro.conf.AvoidSubcommands,), {"default": unnamed()}
    with pytest.raises(SystemExit):
        tyro.cli(kind, args=["--help"], config=config, **default)
    reads = names(re.sub("(?m)^(│ |  )(-h, )?", "  ", capsys.readouterr().out)) - {"help"}
    _, common, _ = told(f"{words} --help")
    _, everything, _ = told(f"{words} --help-all")
    assert names(everything) == reads
    hidden = len(reads - names(common))
    assert names(common) <= reads and (f"` shows {hidden} more options." in common) == (hidden > 0)


def names(text):
    """Options that begin a line of a help."""
    return set(re.findall(r"^  --([a-z][\w.-]*)", text, re.MULTILINE))


@pytest.mark.parametrize("columns", [80, 120])
@pytest.mark.parametrize("words", LEAVES)
def test_examples_can_be_pasted(told, monkeypatch, tmp_path, words, columns):
    """They are those of the docstring, whatever the width, and the command reads them."""
    kind = LEAVES[words]
    _, text, _ = told(f"{words} --help", columns)
    shown = [shlex.split(line) for line in examples(text, "    reimagen")]
    assert [line[1 : 1 + len(words.split())] for line in shown].count(words.split()) > 0
    assert shown == [shlex.split(line) for line in examples(inspect.getdoc(kind), r" *reimagen")]
    (tmp_path / "experiments").mkdir()
    (tmp_path / "experiments" / "images32.py").write_text("from tests.tiny import TINY as config\n")
    monkeypatch.chdir(tmp_path)
    for each in LEAVES.values():
        monkeypatch.setattr(each, "run", lambda self: None)
    for line in shown:
        line = line[: line.index(">")] if ">" in line else line
        assert told(line[1:]) == (0, "", ""), line


def examples(text, start):
    joined = re.sub(r"\\\n *", "", text)
    return [line.strip() for line in joined.splitlines() if re.match(rf"{start} [a-z]+(?!.*`)", line)]


@pytest.mark.parametrize(
    "kind", [kind for kind in WALKED if "common" in vars(kind)], ids=lambda kind: kind.__qualname__
)
def test_what_is_common_exists(kind):
    declared = {field.name for field in dataclasses.fields(kind)}
    assert [name for name in kind.common if name not in declared] == []


@pytest.mark.parametrize("words", LEAVES)
def test_every_option_is_explained(words):
    options = usage.options_of(LEAVES[words], unnamed() if words == "train" else tyro.MISSING)
    assert [option.name for option in options if not option.told] == []


def test_what_is_needed_comes_first(told):
    _, text, _ = told("edit outpaint --help")
    options = re.findall(r"^  --([\w.-]+)", text, re.MULTILINE)
    assert options[:2] == ["model", "out"]
    assert text.startswith("usage: reimagen edit outpaint --model PATH --out PATH [options]\n")
    assert "(default: 0)" in text and "(default: 0.5 0.5)" in text
    assert {"scale", "mask", "overwrite"} < set(options) and "jump" not in options


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ("sample --promt x", "there is no option --promt: did you mean --prompt?"),
        ("sample --knowledge_bas=x", "there is no option --knowledge_bas: did you mean --knowledge-base?"),
        ("edit inpaint --masc x", "there is no option --masc: did you mean --mask?"),
        ("prepare --num-entities 3 --out o", "there is no option --num-entities: did you mean --world.num-entities?"),
        ("edit inpant --mask x", "reimagen edit has no command 'inpant': did you mean `reimagen edit inpaint`?"),
        ("evaluate", "reimagen evaluate needs a command: pictures, entities, answers, seedselect, people, judged"),
        ("help evaluate entitis", "did you mean `reimagen evaluate entities`?"),
        ("index", "PATH is needed"),
        ("triples r", "--knowledge-base PATH and --out PATH are needed"),
        ("index r --k1 much", "--k1 'much': a number is needed"),
        ("index r --k1", "--k1: a number is needed"),
        ("sample --out o --model m --num_images many", "--num_images 'many': a whole number is needed"),
        ("sample --out o --model m --solver=foo", "--solver 'foo': one of ddpm, ddim, dpmpp_2m, "),
        ("sample --out o --model m --reference a.png", "--reference 'a.png': 2 values are needed, IMAGE CAPTION"),
        ("sample --out o --model m --share 1", "--share '1': 2 values are needed, N M"),
        ("sample --out o --model m --overwrite=yes", "--overwrite takes no value"),
        ("sample --out o --model m cat", "'cat' belongs to no option"),
        ("prepare --out o --where a=b c=d", "'c=d' belongs to no option: for a further value give --where again"),
        ("sample -m x", "there is no option -m"),
        ("completion tcsh", "'tcsh': one of bash, zsh, fish is needed"),
        ("train", "EXPERIMENT.py and --workdir DIR are needed"),
        ("train FILE --workdir w --train.num-stesp 3", "no option --train.num-stesp: did you mean --train.num-steps?"),
        ("train FILE --workdir w --trian.num-steps 3", "did you mean --sampler.num-steps or --train.num-steps?"),
        ("train FILE --workdir w --unet.levels.0.widht 3", "did you mean --unet.levels.0.width?"),
        ("train FILE --workdir w --unet.levels.7.width 3", "did you mean --unet.levels.0.width"),
        ("train FILE --workdir w --train.fsdp two", "--train.fsdp 'two': a whole number is needed"),
        ("train FILE --workdir w --init.no-adopt=1", "--init.no-adopt takes no value"),
    ],
)
@pytest.mark.parametrize("encoding", ["utf-8", "ascii"])
def test_what_is_wrong_is_named_as_it_was_typed(told, monkeypatch, tmp_path, words, said, encoding):
    path = tmp_path / "tiny.py"
    path.write_text("from tests.tiny import TINY as config\n")
    monkeypatch.setenv("PYTHONIOENCODING", encoding)
    status, out, errors = told([str(path) if word == "FILE" else word for word in words.split()])
    first, *more = errors.splitlines()
    assert (status, out, len(more)) == (2, "", 1)
    assert first.startswith("error: ") and said in first
    assert re.fullmatch(r"`reimagen [a-z -]+ --help` explains it", more[0])


@pytest.mark.parametrize(
    ("option", "said"),
    [("--train.num_steps", "--train.num_steps 0: at"), ("--train.num-steps", "--train.num-steps 0:")],
)
def test_settings_that_are_refused_are_named_as_they_were_typed(told, tmp_path, option, said):
    path = tmp_path / "tiny.py"
    path.write_text("from tests.tiny import TINY as config\n")
    status, _, errors = told(["train", str(path), "--workdir", "w", option, "0"])
    assert status == 2 and errors.startswith(f"error: {said}")


def test_help_of_an_experiment_has_its_values_and_parts(told, tmp_path):
    path = tmp_path / "stage.py"
    path.write_text("from tests.tiny import TINY_CROPS as config\n")
    _, common, _ = told(["train", str(path), "--help"])
    _, everything, _ = told(["train", str(path), "--help-all"])
    part = TINY_CROPS.system.super_resolution
    assert "--super-resolution.crop" not in common
    assert re.search(rf"--super-resolution.crop INT .*\(default: {part.crop}\)", " ".join(everything.split()))
    assert f"(default: {TINY_CROPS.data.batch_size})" in common
    assert isinstance(parse([str(path), "--workdir", "w"]).config, Experiment)


def test_help_is_a_command(told):
    assert told("help") == told("--help")
    assert told("help sample") == told("sample --help")
    assert told("help edit swap") == told("edit swap --help")
    assert "did you mean `help`" in told("hepl")[2]


def test_python_runs_the_package():
    done = subprocess.run([sys.executable, "-m", "reimagen_jax", "--help"], capture_output=True, text=True, check=True)
    assert done.stdout.startswith("usage: reimagen COMMAND")


@pytest.mark.parametrize("words", ["sample --help-all", "train --help", "evaluate --help"])
def test_help_starts_nothing(words):
    code = f"""
import sys
from reimagen_jax import cli
try:
    cli.main({words.split()!r})
except SystemExit:
    pass
sys.exit(bool({{"jax", "flax", "tensorflow_datasets", "matplotlib"}} & set(sys.modules)))
"""
    assert subprocess.run([sys.executable, "-c", code], check=False, stdout=subprocess.DEVNULL).returncode == 0


COMPLETE = """
source "$1"
shift
COMP_WORDS=("$@")
COMP_CWORD=$(($# - 1))
_tyro_reimagen
printf '%s\\n' "${COMPREPLY[@]}"
"""


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ("reimagen se", ["search", "seedselect"]),
        ("reimagen edit in", ["inpaint", "interpolate"]),
        ("reimagen edit inpaint --mas", ["--mask"]),
        ("reimagen sample --solver uni", ["unipc"]),
        ("reimagen train x.py --train.num", ["--train.num-steps"]),
    ],
)
def test_bash_completes(tmp_path_factory, told, words, expected):
    path = tmp_path_factory.getbasetemp() / "completion.bash"
    if not path.exists():
        status, script, _ = told("completion bash")
        assert status == 0
        path.write_text(script)
    run = ["bash", "-c", COMPLETE, "bash", str(path), *words.split()]
    assert sorted(subprocess.run(run, capture_output=True, text=True, check=True).stdout.split("\n")[:-1]) == expected


@pytest.mark.parametrize(("shell", "start"), [("zsh", "#compdef reimagen\n"), ("fish", "# ")])
def test_other_shells_have_scripts(told, shell, start):
    status, script, _ = told(f"completion {shell}")
    assert status == 0 and script.startswith(start) and "knowledge-base" in script


def test_every_command_of_the_table_is_walked():
    assert {words.split()[0] for words in LEAVES} == set(COMMANDS)
    for kind in LEAVES.values():
        assert dataclasses.is_dataclass(kind) and importlib.import_module(kind.__module__)
