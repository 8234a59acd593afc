"""`reimagen sample`: what it writes, that it can be drawn again, and what it refuses."""

import hashlib
import json
import shlex

import numpy as np
import pytest
from PIL import Image

from reimagen_jax.cli import main
from reimagen_jax.data.records import Records


def again(command: str, out) -> list[str]:
    """The noted command line, to write somewhere else."""
    args = shlex.split(command)[1:]
    args[args.index("--out") + 1] = str(out)
    return args


def images(folder) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(folder.glob("*.png"))}


def test_records_are_drawn_with_neighbours_that_are_not_themselves(model, world, tmp_path):
    out = tmp_path / "out"
    places = ["--records", f"{world}/records", "--knowledge-base", f"{world}/index", "--limit", "3"]
    assert main(["sample", "--model", str(model), *places, "--num-images", "2", "--out", str(out)]) == 0
    noted = json.loads((out / "sample.json").read_text())
    assert [entry["index"] for entry in noted["images"]] == list(range(6))
    assert len(images(out)) == 7 and (out / "grid.png").is_file()
    texts = dict(zip(Records.open(world / "records").keys(), Records.open(world / "records").texts(), strict=True))
    for entry in noted["images"]:
        assert np.asarray(Image.open(out / entry["file"])).shape == (16, 16, 3)
        assert entry["prompt"] == texts[entry["record"]]
        keys = [hit["key"] for hit in entry["neighbours"]]
        assert len(keys) == 2 and entry["record"] not in keys
    assert noted["model"]["SHA-256"] and noted["versions"]["jax"] and noted["experiment"]["name"] == "tiny"


def test_the_noted_command_draws_the_same_images(model, world, tmp_path):
    asked = ["--prompt", "a big one", "-", "--prompt", "third; it's", "--knowledge-base", f"{world}/index"]
    settings = ["--eta", "0.25", "--k", "1", "--steps", "2", "--solver", "ddpm", "--seed", "5", "--num-images", "1"]
    assert main(["sample", "--model", str(model), "--out", str(tmp_path / "a"), *asked, *settings]) == 0
    noted = json.loads((tmp_path / "a" / "sample.json").read_text())
    assert main(again(noted["command"], tmp_path / "b")) == 0
    assert images(tmp_path / "a") == images(tmp_path / "b")
    entry = noted["images"][0]
    assert (entry["eta"], noted["seed"], noted["sampler"]["num_steps"], noted["sampler"]["solver"]) == (
        0.25,
        5,
        2,
        "ddpm",
    )


def test_neighbours_given_by_hand_are_those_drawn_with(model, tmp_path):
    given = []
    for name, level in (("dark", 10), ("light", 240)):
        Image.new("RGB", (40, 30), (level, level, level)).save(tmp_path / f"{name}.png")
        given += ["--reference", str(tmp_path / f"{name}.png"), f"a {name} thing"]
    args = ["--model", str(model), "--num-images", "1", "--out", str(tmp_path / "out")]
    assert main(["sample", *args, "--prompt", "a thing", *given]) == 0
    (entry,) = json.loads((tmp_path / "out" / "sample.json").read_text())["images"]
    pixels = [np.full((16, 16, 3), level, np.uint8).tobytes() for level in (10, 240)]
    for hit, name, content in zip(entry["neighbours"], ("dark", "light"), pixels, strict=True):
        assert (hit["key"], hit["text"], hit["score"]) == (f"{name}.png", f"a {name} thing", None)
        assert hit["pixels_sha256"] == hashlib.sha256(content).hexdigest()


def test_a_prompt_that_finds_nothing_is_drawn_without_and_said(model, world, tmp_path, capsys):
    args = [
        "--prompt",
        "xyzzy",
        "--knowledge-base",
        f"{world}/index",
        "--num-images",
        "1",
        "--out",
        str(tmp_path / "a"),
    ]
    assert main(["sample", "--model", str(model), *args]) == 0
    assert "no neighbours found for 'xyzzy'" in capsys.readouterr().err
    (entry,) = json.loads((tmp_path / "a" / "sample.json").read_text())["images"]
    assert entry["neighbours"] == [] and entry["eta"] == 1.0, "without neighbours it is Imagen"


@pytest.mark.parametrize(
    ("args", "message"),
    [
        ([], "nothing to draw"),
        (["--prompt", " "], "--prompt is empty"),
        (["--prompt", "a", "--records", "{world}/records"], "both given"),
        (["--prompt", "a", "--knowledge-base", "{world}/records"], "reimagen index"),
        (["--records", "{world}/nothing"], "not found"),
        (["--records", "{world}/records", "--limit", "0"], "--limit 0"),
        (["--prompt", "a", "--reference", "{world}/none.png", "b"], "none.png cannot be read"),
        (["--prompt", "a", "--reference", "{world}/index/manifest.json", "b"], "manifest.json: not an image"),
        (["--prompt", "a", "--query-by", "entity"], "--query-by"),
        (["--prompt", "a", "--knowledge-base", "{world}/index", "--query-by", "entity"], "has no such text"),
        (["--prompt", "a", "--eta", "1.5"], "eta 1.5"),
        (["--prompt", "a", "--steps", "0"], "num_steps is 0"),
        (["--prompt", "a", "--k", "-1"], "--k -1"),
        (["--prompt", "a", "--num-images", "0"], "--num-images 0"),
        (["--prompt", "a", "--seed", "-1"], "--seed -1"),
    ],
)
def test_bad_input_is_one_line_and_leaves_nothing(model, world, tmp_path, capsys, args, message):
    args = [arg.format(world=world) for arg in args]
    assert main(["sample", "--model", str(model), "--out", str(tmp_path / "out"), *args]) == 2
    error = capsys.readouterr().err
    assert message in error and error.count("\n") == 1
    assert list(tmp_path.iterdir()) == []


def test_a_missing_model_and_an_existing_output_are_refused(model, tmp_path, capsys):
    assert main(["sample", "--model", str(tmp_path / "m"), "--prompt", "a", "--out", str(tmp_path / "out")]) == 2
    assert "training run" in capsys.readouterr().err
    (tmp_path / "out").mkdir()
    assert main(["sample", "--model", str(model), "--prompt", "a", "--out", str(tmp_path / "out")]) == 2
    assert "--overwrite" in capsys.readouterr().err
