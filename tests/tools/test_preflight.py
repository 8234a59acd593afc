"""tools/preflight.py as a command: its exit status, its errors, its files."""

import dataclasses
import json

import jax
import pytest

from reimagen_jax.preflight import chips, gpus, programs
from tests.preflight.test_report import regression_program
from tools import preflight

EXPERIMENT = "experiments/entityworld32.py"


@pytest.fixture
def on_cpus(monkeypatch):
    """The compiler at hand in the place of that of TPUs, and a program that it compiles in a second."""
    monkeypatch.setattr(preflight, "prepare_environment", lambda where: None)
    monkeypatch.setattr(chips, "devices", lambda where: jax.devices()[: where.size])
    monkeypatch.setattr(gpus, "devices", lambda where: jax.devices()[: where.size])
    monkeypatch.setattr(programs, "train_program", lambda config, mesh: regression_program(mesh, gathered=True))


def test_what_fits_ends_with_status_0_and_leaves_figures(on_cpus, tmp_path, capsys):
    out = tmp_path / "figures.json"
    arguments = ["--topology", "v4:2x2x2", "--fsdp", "4", "--batch", "1024", "--json", str(out), "--hlo", str(tmp_path)]
    assert preflight.main([EXPERIMENT, *arguments]) == 0
    printed = capsys.readouterr().out
    assert "fits" in printed and "no activation travels" in printed
    (figures,) = json.loads(out.read_text())
    assert figures["settings"]["fsdp"] == 4 and figures["chips"] == 8
    assert figures["memory"]["peak"] > 0 and figures["roofline"]["bound"] > 0
    assert (tmp_path / "entityworld32.train.txt").read_text().startswith("HloModule")


def test_cards_have_the_same_table(on_cpus, tmp_path, capsys):
    out = tmp_path / "figures.json"
    arguments = ["--topology", "h100:2x4", "--fsdp", "4", "--batch", "1024", "--json", str(out)]
    assert preflight.main([EXPERIMENT, *arguments]) == 0
    printed = capsys.readouterr().out
    assert "on h100:2x4 (8 GPUs)" in printed and "of 75.15: fits" in printed and "fastest possible" in printed
    (figures,) = json.loads(out.read_text())
    assert figures["topology"] == "h100:2x4" and figures["chips"] == 8 and figures["fits"]
    assert figures["attentions"] == [] and figures["calls"] == {}  # CPUs have neither


def test_what_does_not_fit_ends_with_status_1(on_cpus, monkeypatch, capsys):
    tight = dataclasses.replace(chips.CHIPS["v4"], hbm=2**17, reserved=0)
    monkeypatch.setitem(chips.CHIPS, "v4", tight)
    assert preflight.main([EXPERIMENT, "--topology", "v4:2x2x2", "--fsdp", "4", "--data.batch-size", "1024"]) == 1
    printed = capsys.readouterr().out
    assert "DOES NOT FIT" in printed and "to make it fit" in printed


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["nowhere.py", "--topology", "v4:2x2x2"], "nowhere.py not found"),
        ([EXPERIMENT, "--topology", "v4:8"], "3 sides"),
        ([EXPERIMENT, "--topology", "v1:2x2"], "no chip 'v1'"),
        ([EXPERIMENT, "--topology", "h100"], "such as h100:8 or h100:2x8"),
        ([EXPERIMENT, "--topology", "a100:8"], "did you mean a100-80 or a100-40?"),
        ([EXPERIMENT, "--topology", "h100:8", "--fsdp", "3"], "train.fsdp 3 does not divide the 8 devices"),
        ([EXPERIMENT, "--topology", "v4:2x2x2", "--fsdp", "3"], "train.fsdp 3 does not divide the 8 devices"),
    ],
)
def test_wrong_input_ends_with_status_2_and_one_line(on_cpus, capsys, arguments, says):
    assert preflight.main(arguments) == 2
    error = capsys.readouterr().err
    assert says in error and error.startswith("error: ") and error.count("\n") == 1


def test_a_batch_that_cannot_be_shared_is_refused(monkeypatch, capsys):
    monkeypatch.setattr(preflight, "prepare_environment", lambda where: None)
    monkeypatch.setattr(chips, "devices", lambda where: jax.devices()[: where.size])
    assert preflight.main([EXPERIMENT, "--topology", "v4:2x2x2", "--batch", "12"]) == 2
    assert "not divisible by the 8 devices" in capsys.readouterr().err


@pytest.mark.parametrize(("options", "asked"), [([], (8, "float32")), (["--stored", "bfloat16"], (8, "bfloat16"))])
def test_the_sampler_is_compiled_with_weights_as_they_are_stored(on_cpus, monkeypatch, options, asked):
    told = []

    def sampler_program(config, mesh, *what):
        told.append(what)
        return regression_program(mesh, gathered=True)

    monkeypatch.setattr(programs, "sampler_program", sampler_program)
    assert preflight.main([EXPERIMENT, "--topology", "v4:2x2x2", "--fsdp", "4", "--what", "sampler", *options]) == 0
    assert told == [asked]


def test_without_libtpu_it_says_what_to_install(monkeypatch, capsys):
    monkeypatch.setattr(chips.importlib.util, "find_spec", lambda name: None)
    assert preflight.main([EXPERIMENT, "--topology", "v4:2x2x2"]) == 2
    assert 'pip install "jax[tpu]"' in capsys.readouterr().err


def test_without_the_compiler_for_gpus_it_says_how_to_get_it(monkeypatch, capsys):
    monkeypatch.setattr(gpus.importlib.util, "find_spec", lambda name: None)
    assert preflight.main([EXPERIMENT, "--topology", "rtx4090:1"]) == 2
    error = capsys.readouterr().err
    assert "cuda/bin/pip install '.[cuda]'" in error and error.count("\n") == 1
