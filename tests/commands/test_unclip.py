"""`reimagen unclip`: what each of them writes, that its command draws the same again, and what is refused."""

import json
import shlex

import numpy as np
import pytest
from PIL import Image

from reimagen_jax.cli import main
from reimagen_jax.inference.export import save_weights
from reimagen_jax.inference.origin import read_origin
from tests.samples import picture, records_of
from tests.systems.test_unclip import random_params
from tests.unclip import DECODER, UPSAMPLER

STEPS = ("--steps", "3")


@pytest.fixture(scope="module")
def inputs(tmp_path_factory):
    folder = tmp_path_factory.mktemp("inputs")
    for seed, name in enumerate(("a.png", "b.png")):
        picture(seed, (24, 16)).save(folder / name)
    for name, config in (("decoder", DECODER), ("upsampler", UPSAMPLER)):
        (folder / name).mkdir()
        save_weights(folder / name, config, random_params(config))
    records_of(folder / "records", [f"a cat {i}" for i in range(6)])
    return folder


def unclip(inputs, out, kind, *args):
    named = [arg.replace("IN/", f"{inputs}/") for arg in args]
    return main(["unclip", kind, *named, "--model", str(inputs / "decoder"), "--out", str(out), *STEPS])


@pytest.mark.parametrize(
    ("args", "number", "told"),
    [
        (("vary", "IN/a.png", "--num-images", "2"), 6, "stochasticity"),
        (("blend", "IN/a.png", "IN/b.png", "--frames", "3"), 3, "share"),
        (("diff", "IN/a.png", "--from", "a cat", "--to", "a dog", "--frames", "2"), 2, "share"),
        (("components", "IN/a.png", "IN/b.png", "--records", "IN/records", "--dims", "0", "1"), 6, "dims"),
    ],
    ids=lambda value: value[0] if isinstance(value, tuple) else "",
)
def test_each_writes_its_images_and_the_command_that_draws_them_again(inputs, tmp_path, capsys, args, number, told):
    assert unclip(inputs, tmp_path / "out", *args) == 0
    said = capsys.readouterr().out
    assert f"{number} images in" in said and ("given back within" in said) == (args[0] == "vary")
    summary = json.loads((tmp_path / "out" / "sample.json").read_text())
    assert len(summary["images"]) == number and summary["edit"]["kind"] == args[0]
    assert all(told in image for image in summary["images"][:2])
    assert "SHA-256" in json.dumps(summary["data"])
    assert Image.open(tmp_path / "out" / "grid.png").width > 300
    origin, _ = read_origin(tmp_path / "out" / summary["images"][0]["file"])
    assert origin.made_by == "unclip" and origin.more["edit"]["steps"] == 3
    capsys.readouterr()
    assert main(["reproduce", str(tmp_path / "out")]) == 2
    assert f"which this command does not repeat; give its own again: {summary['command']}\n" in capsys.readouterr().err
    words = shlex.split(summary["command"].replace(str(tmp_path / "out"), str(tmp_path / "again")))
    assert words[:3] == ["reimagen", "unclip", args[0]] and main(words[1:]) == 0
    for image in summary["images"]:
        same = [np.asarray(Image.open(tmp_path / folder / image["file"])) for folder in ("out", "again")]
        np.testing.assert_array_equal(*same)


def test_further_models_enlarge_what_is_drawn(inputs, tmp_path):
    cascade = ("--cascade", str(inputs / "upsampler"), "--prompt", "a cat", "--guidance", "2", "--refine", "1")
    assert unclip(inputs, tmp_path / "out", "vary", "IN/a.png", "--num-images", "1", *cascade) == 0
    sizes = [Image.open(path).width for path in sorted((tmp_path / "out").glob("0*.png"))]
    assert set(sizes) == {UPSAMPLER.system.resolution}
    assert len(list((tmp_path / "out" / "stage1").glob("*.png"))) == len(sizes) == 4


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (("vary", "IN/none.png"), "none.png cannot be read"),
        (("vary", "IN/a.png", "--stochasticity", "0"), "--stochasticity 0"),
        (("vary", "IN/a.png", "--steps", "1"), "one step cannot be inverted"),
        (("vary", "IN/a.png", "--cascade", "IN/decoder"), "draws from an embedding"),
        (("blend", "IN/a.png", "IN/b.png", "--frames", "1"), "--frames 1"),
        (("blend", "IN/a.png", "IN/b.png", "--num-images", "2"), "--noise fixed"),
        (("diff", "IN/a.png", "--from", "a cat", "--to", "a cat"), "the same"),
        (("diff", "IN/a.png", "--to", " "), "--to is empty"),
        (("components", "IN/a.png", "IN/a.png", "--records", "IN/records"), "two images of one name"),
        (("components", "IN/a.png", "--records", "IN/decoder"), "decoder"),
    ],
)
def test_bad_input_is_one_line_and_leaves_nothing(inputs, tmp_path, capsys, args, message):
    named = [arg.replace("IN/", f"{inputs}/") for arg in args]
    steps = () if "--steps" in args else STEPS
    status = main(["unclip", *named, "--model", str(inputs / "decoder"), "--out", str(tmp_path / "out"), *steps])
    error = capsys.readouterr().err
    assert status == 2 and message in error and "Traceback" not in error
    assert not (tmp_path / "out").exists()


def test_another_system_is_refused(inputs, tmp_path, capsys):
    words = ["unclip", "vary", f"{inputs}/a.png", "--model", f"{inputs}/upsampler", "--out", str(tmp_path / "out")]
    assert main(words) == 2 and "give a decoder of unCLIP" in capsys.readouterr().err
