"""`reimagen edit`: what each of them writes, that it can be drawn again, and what is refused."""

import json
import shlex

import numpy as np
import pytest
from PIL import Image

from reimagen_jax.cli import main
from reimagen_jax.retrieval.knowledge_base import KnowledgeBase
from tests.samples import picture


@pytest.fixture
def folder(tmp_path):
    inputs = tmp_path / "inputs"
    inputs.mkdir()
    picture(0, (48, 32)).save(inputs / "image.png")
    for seed in (1, 2, 3):
        picture(seed, (16, 16)).save(inputs / f"n{seed}.png")
    mask = np.zeros((32, 48), np.uint8)
    mask[:, 24:] = 255
    Image.fromarray(mask).save(inputs / "mask.png")
    Image.fromarray(mask[:, :7]).save(inputs / "crooked.png")
    Image.fromarray(mask[:8, :8]).save(inputs / "black.png")
    (inputs / "text.png").write_text("words")
    return tmp_path


def edit(folder, model, *args):
    out = folder / "out"
    named = [arg.replace("IN/", f"{folder}/inputs/") for arg in args]
    shared = ["--model", str(model), "--out", str(out), "--steps", "4", "--batch-size", "2"]
    return main(["edit", named[0], *shared, *named[1:]]), out


def images(folder) -> dict[str, bytes]:
    """The pixels of a folder's pictures."""
    return {path.name: Image.open(path).tobytes() for path in sorted(folder.glob("*.png"))}


PROMPT = ["--prompt", "a thing"]
TWO = [*PROMPT, "--reference", "IN/n1.png", "one", "--reference", "IN/n2.png", "two"]


@pytest.mark.parametrize(
    ("args", "number"),
    [
        (["image", *PROMPT, "--image", "IN/image.png", "--num-images", "2"], 2),
        (["inpaint", *PROMPT, "--image", "IN/image.png", "--mask", "IN/mask.png", "--repeats", "2", "--jump", "1"], 1),
        (["outpaint", *TWO, "--at", "0", "1"], 1),
        (["vary", *PROMPT, "--num-images", "2"], 3),
        (["interpolate", *TWO, "--frames", "3"], 3),
        (["swap", *TWO, "--to-prompt", "another", "--to-reference", "IN/n3.png", "three"], 2),
    ],
    ids=lambda value: value[0] if isinstance(value, list) else "",
)
def test_each_leaves_images_a_grid_and_the_command_that_draws_them_again(folder, model, args, number):
    status, out = edit(folder, model, *args)
    assert status == 0
    noted = json.loads((out / "sample.json").read_text())
    assert len(noted["images"]) == number and (out / "grid.png").is_file()
    assert noted["edit"]["kind"] == args[0] and noted["command"].startswith(f"reimagen edit {args[0]} ")
    again = shlex.split(noted["command"])[1:]
    again[again.index("--out") + 1] = str(folder / "again")
    assert main(again) == 0
    assert images(folder / "again") == images(out)
    drawn = np.stack([np.asarray(Image.open(out / entry["file"])) for entry in noted["images"]])
    if (out / "mask.png").is_file():
        kept = np.asarray(Image.open(out / "mask.png")) == 0
        assert kept.any() and np.array_equal(drawn[0][kept], np.asarray(Image.open(out / "before.png"))[kept])
    assert args[0] != "inpaint" or noted["sampler"]["repeats"] == 2
    if args[0] == "interpolate":
        assert [entry["neighbours"][0].get("weight", 1) for entry in noted["images"]] == [1, 0.5, 0]
    if args[0] == "swap":
        assert [entry["prompt"] for entry in noted["images"]] == ["a thing", "another"]
        assert [len(entry["neighbours"]) for entry in noted["images"]] == [2, 1]


def test_a_swap_asks_for_the_other_prompt_by_itself(folder, model, world, capsys):
    """`--query` is for the first; a prompt that finds nothing is nothing to swap to."""
    captions = [record.text for record in KnowledgeBase.open(world / "index").records]
    first, other = captions[0], next(text for text in captions if text.split()[2] != captions[0].split()[2])
    base = ["--knowledge-base", f"{world}/index", "--query", first, "--num-images", "1"]
    found = {}
    for name, args in {
        "prompt": ["--to-prompt", other],
        "query": ["--to-prompt", "xyzzy", "--to-query", other],
    }.items():
        status, out = edit(folder, model, "swap", *PROMPT, *base, *args, "--overwrite")
        assert status == 0
        entries = json.loads((out / "sample.json").read_text())["images"]
        found[name] = [[hit["key"] for hit in entry["neighbours"]] for entry in entries]
    (mine, others), same = found.values()
    assert mine and others and mine != others and same == [mine, others]
    capsys.readouterr()
    assert edit(folder, model, "swap", *PROMPT, *base, "--to-prompt", "xyzzy", "--overwrite")[0] == 2
    assert "'xyzzy' has no neighbours" in capsys.readouterr().err


def test_a_cascade_keeps_what_is_black_at_its_own_resolution(folder, model, stages):
    args = ["--image", "IN/image.png", "--mask", "IN/mask.png", "--cascade", str(stages[0])]
    status, out = edit(folder, model, "inpaint", *PROMPT, *args)
    assert status == 0
    (entry,) = json.loads((out / "sample.json").read_text())["images"]
    large = np.asarray(Image.open(out / entry["file"]))
    original = np.asarray(Image.open(folder / "inputs" / "image.png"))[:, 8:40]
    np.testing.assert_array_equal(large[:, :16], original[:, :16])


@pytest.mark.parametrize(
    ("args", "said"),
    [
        (["image", *PROMPT, "--image", "IN/none.png"], "--image"),
        (["image", *PROMPT, "--image", "IN/text.png"], "text.png: not an image"),
        (["image", *PROMPT, "--image", "IN/n1.png", "--strength", "0"], "--strength 0"),
        (["image", *PROMPT, "--image", "IN/n1.png", "--strength", "1.5"], "--strength 1.5"),
        (["image", *PROMPT, "--image", "IN/n1.png", "--strength", "0.1"], "strength 0.1 is less than a step of 4"),
        (["inpaint", *PROMPT, "--image", "IN/n1.png", "--mask", "IN/black.png"], "black.png is black"),
        (["inpaint", *PROMPT, "--image", "IN/n1.png", "--mask", "IN/crooked.png"], "of the image's proportions"),
        (["inpaint", *PROMPT, "--image", "IN/n1.png", "--mask", "IN/n2.png", "--repeats", "0"], "--repeats 0"),
        (["outpaint", *PROMPT], "no neighbour to draw around"),
        (["outpaint", *TWO, "--mask", "IN/mask.png"], "give it as --image"),
        (["outpaint", *TWO, "--scale", "1"], "nothing would be drawn"),
        (["interpolate", *PROMPT], "has 0 neighbours"),
        (["interpolate", *TWO, "--weights", "0", "0"], "all neighbours have weight 0"),
        (["swap", *TWO], "nothing to swap to"),
        (["swap", *TWO, "--to-query", "b"], "--to-query asks a --knowledge-base"),
        (["vary"], "nothing to draw"),
    ],
    ids=lambda value: value[0] if isinstance(value, list) else "",
)
def test_bad_input_is_one_line_and_leaves_nothing(folder, model, capsys, args, said):
    status, _ = edit(folder, model, *args)
    error = capsys.readouterr().err
    assert status == 2 and said in error and error.count("\n") == 1
    assert [path.name for path in folder.iterdir()] == ["inputs"]


def test_a_super_resolution_model_is_refused(folder, stages, capsys):
    status, _ = edit(folder, stages[0], "image", *PROMPT, "--image", "IN/n1.png")
    assert status == 2 and "give the base model" in capsys.readouterr().err
