"""`reimagen reproduce`: images drawn again from what they tell of themselves, and what is said where they are not."""

import json
import shutil

import jax
import numpy as np
import pytest
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from reimagen_jax.cli import main
from reimagen_jax.inference.export import save_weights
from reimagen_jax.inference.origin import KEY, read_origin
from tests.samples import picture
from tests.tiny import TINY, random_params


@pytest.fixture(scope="module")
def drawn(model, stages, world, tmp_path_factory):
    """Folders of images: `plain`, with neighbours retrieved and by hand; `cascade`; `large`, of an own picture."""
    folder = tmp_path_factory.mktemp("drawn")
    picture(1, (40, 40)).save(folder / "a.png")
    asked = [
        "--prompt",
        "a big one",
        "a small one",
        "--negative",
        "ink",
        "--knowledge-base",
        f"{world}/index",
        "--k",
        "2",
    ]
    asked += ["--reference", str(folder / "a.png"), "mine", "--steps", "3", "--solver", "ddpm", "--batch-size", "3"]
    sample = ["sample", "--model", str(model), *asked, "--num-images", "2", "--seed", "9"]
    assert main([*sample, "--out", str(folder / "plain")]) == 0
    assert main([*sample, "--cascade", f"{stages[0]},steps=2,k=1", "--out", str(folder / "cascade")]) == 0
    large = [
        "sample",
        "--model",
        str(stages[0]),
        "--low-res",
        str(folder / "a.png"),
        "--prompt",
        "a thing",
        "--steps",
        "2",
    ]
    assert main([*large, "--num-images", "1", "--out", str(folder / "large")]) == 0
    return folder


def first(folder):
    return sorted(path for path in folder.glob("0*.png"))[0]


def rewritten(source, target, **told):
    """A picture whose origin says something else."""
    chunk, origin = PngInfo(), json.loads(source.with_suffix(".json").read_text())
    chunk.add_itxt(KEY, json.dumps(origin | told))
    with Image.open(source) as image:
        image.save(target, pnginfo=chunk)
    return target


@pytest.mark.parametrize("which", ["plain", "cascade", "cascade/stage1", "large"])
def test_images_are_drawn_again_bit_for_bit(drawn, capsys, which):
    assert main(["reproduce", str(drawn / which)]) == 0
    number = len(list((drawn / which).glob("0*.png")))
    said = capsys.readouterr()
    assert said.out.count(": equal\n") == number and f"{number} of {number} images are equal" in said.out
    assert not said.err


def test_one_image_alone_and_what_lies_beside_it(drawn, tmp_path, capsys):
    """In any company, and where the picture itself is gone."""
    last = sorted((drawn / "plain").glob("0*.png"))[-1]
    shutil.copy(last.with_suffix(".json"), tmp_path / "alone.json")
    assert main(["reproduce", str(last), str(last.with_suffix(".json")), str(tmp_path / "alone.json")]) == 0
    assert capsys.readouterr().out.count(": equal\n") == 3


def test_the_new_images_are_kept_beside_the_old(drawn, tmp_path):
    assert main(["reproduce", str(drawn / "plain"), "--out", str(tmp_path / "again")]) == 0
    for path in (drawn / "plain").glob("0*.png"):
        again = tmp_path / "again" / path.name
        np.testing.assert_array_equal(np.asarray(Image.open(again)), np.asarray(Image.open(path)))
        assert read_origin(again)[0].command == read_origin(path)[0].command
        assert again.with_name(f"{path.stem}-compared.png").is_file()
    assert main(["reproduce", str(tmp_path / "again" / path.name)]) == 0


def test_what_is_not_where_it_was_is_given(drawn, model, world, tmp_path, capsys):
    hidden = tmp_path / "hidden"
    asked = [
        "sample",
        "--model",
        str(model),
        "--prompt",
        "a big one",
        "--knowledge-base",
        f"{world}/index",
        "--steps",
        "2",
    ]
    asked += ["--reference", str(drawn / "a.png"), "mine", "--num-images", "1", "--k", "2", "--hide-paths"]
    assert main([*asked, "--out", str(hidden)]) == 0
    for path in hidden.iterdir():
        for place in (model, world, drawn, hidden):
            assert str(place.parent).encode() not in path.read_bytes(), path.name
    wanted = [
        ("give --model DIR", ["--model", str(model)]),
        ("give --reference IMAGE", ["--reference", str(drawn / "a.png")]),
        ("give --knowledge-base DIR", ["--knowledge-base", f"{world}/index"]),
    ]
    given = []
    for said, options in wanted:
        assert main(["reproduce", str(first(hidden)), *given]) == 2
        error = capsys.readouterr().err
        assert said in error and first(hidden).name in error and error.count("\n") == 1
        given += options
    assert main(["reproduce", str(first(hidden)), *given]) == 0


def test_another_model_is_refused_by_name(drawn, stages, tmp_path, capsys):
    other = tmp_path / "other"
    save_weights(other, TINY, random_params(TINY, seed=5))
    assert main(["reproduce", str(first(drawn / "plain")), "--model", str(other), str(stages[1])]) == 2
    error = capsys.readouterr().err
    assert "was drawn by tiny (checksum" in error and f"{other} holds tiny (" in error and "holds tiny_crops (" in error


def test_an_image_that_was_changed_differs_and_is_told_from_one_drawn_otherwise(drawn, tmp_path, capsys):
    source = first(drawn / "plain")
    origin, image = read_origin(source)
    image = image.copy()
    image[0, 0, 0] ^= 8
    changed = tmp_path / "changed.png"
    chunk = PngInfo()
    chunk.add_itxt(KEY, source.with_suffix(".json").read_text())
    Image.fromarray(image).save(changed, pnginfo=chunk)
    assert main(["reproduce", str(changed)]) == 1
    said = capsys.readouterr().out
    assert f"at most 8 of 255 grey levels, {8 / image.size:.3g} on average; the file was changed since" in said
    assert "0 of 1 images are equal" in said

    versions = origin.versions | {"jax": "0.1"}
    told = {"index": origin.index + 1, "versions": versions, "device": "abacus", "pixels_sha256": "0" * 64}
    assert main(["reproduce", str(rewritten(source, tmp_path / "otherwise.png", **told))]) == 1
    said = capsys.readouterr().out
    assert (
        f"jax 0.1, now {jax.__version__}" in said and "device abacus, now cpu" in said and "changed since" not in said
    )


def test_neighbours_are_known_by_their_pixels(drawn, world, tmp_path, capsys):
    picture(7, (40, 40)).save(tmp_path / "b.png")
    assert main(["reproduce", str(first(drawn / "plain")), "--reference", str(tmp_path / "b.png")]) == 2
    assert "its neighbour a.png, 'mine', is not found (only others of this name are)" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("told", "said"),
    [
        ({"made_by": "edit"}, "was made by `reimagen edit`, which this command does not repeat"),
        ({"stages": []}, "stages is empty"),
        ({"seed": 2**40}, "seed is 1099511627776: less than 4294967296"),
        (
            {"start": {"pixels_sha256": "0" * 64, "file": ""}},
            "it was drawn from a picture, which its model does not take",
        ),
    ],
)
def test_what_cannot_be_drawn_is_one_line_that_names_the_file(drawn, tmp_path, capsys, told, said):
    path = rewritten(first(drawn / "plain"), tmp_path / "x.png", **told)
    assert main(["reproduce", str(path)]) == 2
    error = capsys.readouterr().err
    assert said in error and str(path) in error and error.count("\n") == 1


@pytest.mark.parametrize(
    ("setting", "value", "said"),
    [
        ("k", 10**6, "sampler.k is 1000000: at most 1000"),
        ("eta", 2.0, "sampler.eta is 2.0: at most 1"),
        ("solver", "magic", "sampler.solver is 'magic'"),
        ("charm", 1, "sampler.charm is no setting that this version knows"),
        ("num_steps", 0, "sampler.num_steps is 0: at least 1"),
    ],
)
def test_settings_of_a_stranger_are_checked(drawn, tmp_path, capsys, setting, value, said):
    source = first(drawn / "plain")
    (stage,) = json.loads(source.with_suffix(".json").read_text())["stages"]
    stage["sampler"][setting] = value
    assert main(["reproduce", str(rewritten(source, tmp_path / "x.png", stages=[stage]))]) == 2
    error = capsys.readouterr().err
    assert f"x.png.stages[0].{said}" in error and error.count("\n") == 1


def test_numbers_of_a_stranger_are_checked(drawn, tmp_path, capsys):
    source = first(drawn / "plain")
    (stage,) = json.loads(source.with_suffix(".json").read_text())["stages"]
    for numbers, said in (({"eta": 7.0}, "sampler.eta is 7.0: at most 1"), ({"charm": 1}, "is no number of guidance")):
        stage["guidance"] = numbers
        assert main(["reproduce", str(rewritten(source, tmp_path / "x.png", stages=[stage]))]) == 2
        assert said in capsys.readouterr().err


def test_a_folder_of_other_pictures_says_so(tmp_path, capsys):
    picture(0).save(tmp_path / "a.png")
    assert main(["reproduce", str(tmp_path)]) == 2
    error = capsys.readouterr().err
    assert "a.png tells no origin" in error and f"{tmp_path} holds no picture that tells where it comes from" in error
    assert main(["reproduce"]) == 2
