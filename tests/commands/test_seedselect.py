"""`reimagen seedselect`: what it writes, that it goes on, and what it refuses."""

import json

import pytest
from PIL import Image

from reimagen_jax.cli import main
from reimagen_jax.commands.seedselect import SeedSelect, _defaults
from reimagen_jax.systems.seedselect.settings import CODE, OURS, PAPER
from tests.samples import picture
from tests.seeing import tiny_dual_in

FEW = ["--iterations", "1", "--batch-size", "2", "--low-pass", "4"]


@pytest.fixture(scope="module")
def encoder(tmp_path_factory):
    return tiny_dual_in(tmp_path_factory.mktemp("made") / "encoder")


def fails(capsys, *args):
    assert main([str(arg) for arg in args]) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ") and error.count("\n") == 1
    return error


def test_references_of_a_knowledge_base(model, world, encoder, stages, tmp_path, capsys):
    out, base = tmp_path / "out", ["--knowledge-base", str(world / "index")]
    words = ["seedselect", "--model", str(model), "--encoder", str(encoder), "--prompt", "a big one", "a small one"]
    words += [*base, "--k", "1", "--references", "3", "--steps", "2", "--out", str(out), *FEW]
    words += ["--cascade", f"{stages[0]},steps=1"]
    assert main(words) == 0
    assert "2 images of 2 prompts" in capsys.readouterr().out
    noted = json.loads((out / "sample.json").read_text())
    for i, entry in enumerate(noted["images"]):
        assert Image.open(out / entry["file"]).size == (32, 32) and len(entry["neighbours"]) == 1
        told = json.loads((out / "search" / f"{i:06d}.json").read_text())
        assert len(told["asked"]["references"]) == 3 and len(told["loss"]) == 2
    for name in ("before_and_after.png", "losses.png", "grid.png"):
        assert min(Image.open(out / name).size) > 100
    wide = Image.open(out / "before_and_after.png").width
    assert Image.open(out / "grid.png").width < wide, "three references are shown there, the one neighbour here"
    written = {path: path.stat().st_mtime_ns for path in (out / "search").iterdir()}
    assert main(words) == 0
    assert {path: path.stat().st_mtime_ns for path in (out / "search").iterdir()} == written, "found, not searched for"
    other = [*words, "--learning-rate", "0.3"]
    capsys.readouterr()
    assert main(other) == 2
    *told, error = capsys.readouterr().err.splitlines()
    assert "found by other settings" in error and all("16 pixels" in line for line in told)
    assert main([*other, "--overwrite"]) == 0
    again = json.loads((out / "search" / "000000.json").read_text())
    assert again["asked"]["search"]["learning_rate"] == 0.3


@pytest.mark.parametrize(("words", "search"), [([], OURS), (["--preset", "code"], CODE), (["--preset=paper"], PAPER)])
def test_presets_are_defaults(words, search):
    assert _defaults(["--out", "x", *words])["search"] == search


def test_help_shows_the_settings_of_the_preset(capsys):
    with pytest.raises(SystemExit):
        main(["seedselect", "--preset", "code", "--help-all"])
    said = " ".join(capsys.readouterr().out.split())
    assert "(default: 0.05 0.25 0.7)" in said and "ours|paper|code" in said


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--prompt", "x"], "a search needs references"),
        (
            ["--prompt", "x", "--reference", "{image}", "x", "--step-weights", "1", "1", "--steps", "1"],
            "--step-weights are",
        ),
        (["--prompt", "qqq", "--knowledge-base", "{kb}"], "no references for 'qqq'"),
        (["--prompt", "a big", "--knowledge-base", "{kb}", "--contrast"], "contrast tells prompts from each other"),
    ],
)
def test_bad_input(model, world, encoder, tmp_path, capsys, words, said):
    picture(0).save(tmp_path / "image.png")
    places = {"{kb}": str(world / "index"), "{image}": str(tmp_path / "image.png")}
    words = [places.get(word, word) for word in words]
    args = ["seedselect", "--model", model, "--encoder", encoder, "--out", tmp_path / "out", *words]
    assert said in fails(capsys, *args)


def test_the_command_is_a_dataclass_whose_defaults_are_ours(tmp_path):
    assert SeedSelect(tmp_path, tmp_path, tmp_path).search == OURS
