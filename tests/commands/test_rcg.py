"""`reimagen rcg`, and `reimagen sample` by RCG's models: what they write, that it is drawn again, what is refused."""

import json
import shlex

import numpy as np
import pytest
from PIL import Image

from reimagen_jax.cli import main
from reimagen_jax.inference.export import save_weights
from reimagen_jax.inference.origin import read_origin
from reimagen_jax.inference.representations import between_of
from tests.rcg import CLASS_RDM, GENERATOR, OF_CLASS, OF_NOTHING, RDM, random_params
from tests.samples import picture
from tests.unclip import DECODER

MODELS = {
    "rdm": RDM,
    "class_rdm": CLASS_RDM,
    "generator": GENERATOR,
    "class": OF_CLASS,
    "none": OF_NOTHING,
    "decoder": DECODER,
}
FEW = ("--batch-size", "2", "--num-images", "2")


@pytest.fixture(scope="module")
def inputs(tmp_path_factory):
    folder = tmp_path_factory.mktemp("inputs")
    for seed, name in enumerate(("a.png", "b.png")):
        picture(seed, (24, 16)).save(folder / name)
    for name, config in MODELS.items():
        (folder / name).mkdir()
        save_weights(folder / name, config, random_params(config))
    return folder


def words_of(inputs, args):
    return [arg.replace("IN/", f"{inputs}/") for arg in args]


@pytest.mark.parametrize(
    ("args", "number"),
    [
        (("draw", "--model", "IN/rdm", "--cascade", "IN/generator,text-weight=1.5"), 2),
        (("draw", "--model", "IN/class_rdm", "--cascade", "IN/generator", "--classes", "cat", "hen"), 4),
        (("draw", "--model", "IN/class", "--text-weight", "2", "--classes", "dog"), 2),
        (("draw", "--model", "IN/none"), 2),
        (("reconstruct", "IN/a.png", "IN/b.png", "--model", "IN/generator"), 4),
        (("interpolate", "IN/a.png", "IN/b.png", "--model", "IN/generator", "--frames", "3"), 6),
    ],
    ids=("rdm", "class rdm", "class", "none", "reconstruct", "interpolate"),
)
def test_each_writes_its_images_and_the_command_that_draws_them_again(inputs, tmp_path, capsys, args, number):
    words = ["rcg", *words_of(inputs, args), *FEW, "--out", str(tmp_path / "out")]
    assert main(words) == 0, capsys.readouterr().err
    assert f"{number} images in" in capsys.readouterr().out
    summary = json.loads((tmp_path / "out" / "sample.json").read_text())
    assert len(summary["images"]) == number and summary["edit"]["kind"] == args[0]
    assert ("SHA-256" in json.dumps(summary["data"])) == (args[0] != "draw")
    assert Image.open(tmp_path / "out" / "grid.png").width > 200
    images = [np.asarray(Image.open(tmp_path / "out" / image["file"])) for image in summary["images"]]
    assert images[0].shape == (8, 8, 3) and all((images[0] != other).any() for other in images[1:])
    origin, _ = read_origin(tmp_path / "out" / summary["images"][0]["file"])
    assert origin.made_by == "rcg"
    words = shlex.split(summary["command"].replace(str(tmp_path / "out"), str(tmp_path / "again")))
    assert words[:3] == ["reimagen", "rcg", args[0]] and main(words[1:]) == 0
    for image, before in zip(summary["images"], images, strict=True):
        np.testing.assert_array_equal(np.asarray(Image.open(tmp_path / "again" / image["file"])), before)


def test_the_ends_of_an_interpolation_are_what_is_reconstructed(inputs, tmp_path):
    how = ["--model", str(inputs / "generator"), *FEW[:2], "--num-images", "1"]
    pictures = [str(inputs / name) for name in ("a.png", "b.png")]
    assert main(["rcg", "reconstruct", *pictures, *how, "--out", str(tmp_path / "again")]) == 0
    assert main(["rcg", "interpolate", *pictures, *how, "--frames", "3", "--out", str(tmp_path / "between")]) == 0
    again, between = (
        [np.asarray(Image.open(path)).astype(int) for path in sorted((tmp_path / name).glob("0*.png"))]
        for name in ("again", "between")
    )
    assert np.abs(between[0] - again[0]).max() <= 1 and np.abs(between[2] - again[1]).max() <= 1
    assert min(np.abs(between[1] - again[i]).max() for i in (0, 1)) > 4


def test_between_two_representations_all_are_normalised():
    ends = np.random.default_rng(0).standard_normal((2, 16)).astype(np.float32)
    ends = (ends - ends.mean(axis=1, keepdims=True)) / ends.std(axis=1, ddof=1, keepdims=True)
    between = between_of(ends, np.linspace(0, 1, 5))
    np.testing.assert_allclose(between[[0, 4]], ends, atol=1e-5)
    np.testing.assert_allclose(between.std(axis=1, ddof=1), 1.0, atol=1e-5)
    np.testing.assert_allclose(between.mean(axis=1), 0.0, atol=1e-5)


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (("draw", "--model", "IN/rdm"), "let a generator draw from them, --cascade GENERATOR"),
        (("draw", "--model", "IN/generator"), "draw one by an RDM, --model RDM --cascade GENERATOR"),
        (("draw", "--model", "IN/rdm", "--cascade", "IN/decoder"), "is a rdm"),
        (("draw", "--model", "IN/none", "--classes", "cat"), "(tiny_none) knows no classes"),
        (("draw", "--model", "IN/class", "--classes", "cot"), "no class 'cot' among its 3: such are 'cat'"),
        (("draw", "--model", "IN/class", "--classes", "cat", "cat"), "--classes has one twice"),
        (("draw", "--model", "IN/none", "--text-weight", "2"), "nothing guides it"),
        (("reconstruct", "IN/a.png", "--model", "IN/class"), "is a rcg_generator of condition 'class': give a pixel"),
        (("reconstruct", "IN/a.png", "--model", "IN/decoder"), "is a unclip_decoder: give a pixel generator"),
        (("draw", "--model", "IN/decoder"), "is a unclip_decoder: give a pixel generator, or an RDM"),
        (("reconstruct", "IN/a.png", "IN/a.png", "--model", "IN/generator"), "two images of one name"),
        (("reconstruct", "IN/none.png", "--model", "IN/generator"), "none.png cannot be read"),
        (("interpolate", "IN/a.png", "IN/b.png", "--model", "IN/generator", "--frames", "1"), "--frames 1"),
    ],
)
def test_bad_input_is_one_line_and_leaves_nothing(inputs, tmp_path, capsys, args, message):
    status = main(["rcg", *words_of(inputs, args), "--out", str(tmp_path / "out")])
    error = capsys.readouterr().err
    assert status == 2 and message in error and "Traceback" not in error
    assert not (tmp_path / "out").exists()


def test_sample_draws_by_both_and_from_references_and_reproduce_draws_it_again(inputs, tmp_path, capsys):
    both = ["--model", str(inputs / "rdm"), "--cascade", f"{inputs}/generator,steps=2", "--prompt", "x"]
    given = ["--model", str(inputs / "generator"), "--prompt", "a cat", "--reference", str(inputs / "a.png"), "a cat"]
    for name, words in (("both", both), ("given", given)):
        out = tmp_path / name
        assert main(["sample", *words, *FEW, "--out", str(out)]) == 0, capsys.readouterr().err
        pictures = sorted(out.glob("0*.png"))
        assert len(pictures) == 2
        assert main(["reproduce", str(pictures[0])]) == 0
        said = capsys.readouterr()
        assert "1 of 1 images are equal" in said.out + said.err
    assert (
        main(["sample", "--model", str(inputs / "generator"), "--prompt", "a cat", "--out", str(tmp_path / "no")]) == 2
    )
    assert "'a cat' has none: draw one by an RDM" in capsys.readouterr().err
