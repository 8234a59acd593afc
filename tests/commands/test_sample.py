"""`reimagen sample`: what it writes, that it can be drawn again, and what it refuses."""

import hashlib
import json
import re
import shlex

import numpy as np
import pytest
from PIL import Image

from reimagen_jax.cli import main
from reimagen_jax.commands.prompt_options import PromptOptions
from reimagen_jax.data.records import ImageText, Records, write_records
from reimagen_jax.retrieval.knowledge_base import KnowledgeBase
from tests.samples import encoded, picture
from tests.tiny import TINY


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
    args[-1] = str(tmp_path / "b")
    assert main(["sample", "--model", str(model), *args, "--k", "0"]) == 0
    assert "no neighbours found" not in capsys.readouterr().err, "none was asked for"


def test_references_pinned_banned_and_found_are_mixed_and_drawn_again(model, world, tmp_path):
    """The model was trained with two neighbours; three are chosen by hand, and a fourth is found."""
    keys = Records.open(world / "records").keys()
    Image.new("RGB", (40, 30), "red").save(tmp_path / "own.png")
    args = ["sample", "--model", str(model), "--num-images", "1", "--steps", "2", "--prompt", "a big one"]
    args += ["--knowledge-base", f"{world}/index"]

    def drawn(name, *chosen):
        assert main([*args, *chosen, "--out", str(tmp_path / name)]) == 0
        noted = json.loads((tmp_path / name / "sample.json").read_text())
        return noted, [hit["key"] for hit in noted["images"][0]["neighbours"]]

    _, found = drawn("found")
    mixed = ["--reference", str(tmp_path / "own.png"), "mine", "--pin", keys[3], keys[2], "--ban", found[0]]
    noted, chosen = drawn("mixed", *mixed, "--k", "4")
    assert chosen[:3] == ["own.png", keys[3], keys[2]]
    assert len(chosen) == 4 and chosen[3] not in (*chosen[:3], found[0])
    assert (noted["data"]["pinned"], noted["data"]["banned"]) == (f"{keys[3]}, {keys[2]}", found[0])
    assert [hit["score"] is None for hit in noted["images"][0]["neighbours"]] == [True, True, True, False]
    assert main(again(noted["command"], tmp_path / "again")) == 0
    assert images(tmp_path / "again") == images(tmp_path / "mixed") != images(tmp_path / "found")


@pytest.mark.parametrize(
    ("chosen", "k", "kinds"),
    [
        ({}, None, "ff"),
        ({"reference": 1}, None, "rf"),
        ({"reference": 1, "pin": 2}, None, "rpp"),
        ({"reference": 1, "pin": 2}, 2, "rp"),
        ({"reference": 1, "pin": 1}, 4, "rpff"),
        ({"reference": 3, "knowledge_base": None}, None, "rrr"),
        ({"reference": 3, "knowledge_base": None}, 2, "rr"),
        ({"pin": 1}, 0, ""),
    ],
)
def test_how_many_neighbours_of_each_kind(world, tmp_path, chosen, k, kinds):
    """References first, then the pinned, then those found, k in all: by default two, as TINY has, or more."""
    options = {"knowledge_base": world / "index", **chosen}
    for i in range(options.get("reference", 0)):
        Image.new("RGB", (16, 16), (i, 0, 0)).save(tmp_path / f"r{i}.png")
    options["reference"] = tuple((tmp_path / f"r{i}.png", "mine") for i in range(options.get("reference", 0)))
    options["pin"] = tuple((key,) for key in Records.open(world / "records").keys()[5 : 5 + options.get("pin", 0)])
    what = PromptOptions(prompt=(("a big one",),), k=k, **options)
    what.check()
    (prompt,) = what.gather(TINY)
    names = {"r": {path.name for path, _ in options["reference"]}, "p": {key for (key,) in options["pin"]}}
    shown = [next((kind for kind in names if hit.key in names[kind]), "f") for hit in prompt.neighbours]
    assert "".join(shown) == kinds
    assert what.resolved(TINY).k == (len(kinds) if k is None else k)


def test_the_knowledge_base_is_swapped_at_sampling(model, world, tmp_path):
    """The same weights draw with whatever base they are given: here one of records that the first does not have."""
    other = write_records(
        [ImageText(f"other{i}", encoded(picture(i)), f"a big other {i}") for i in range(3)],
        tmp_path / "records",
        source="other",
    )
    KnowledgeBase.build(other, tmp_path / "index")
    args = ["sample", "--model", str(model), "--num-images", "1", "--steps", "2", "--prompt", "a big one"]
    seen = []
    for place in (world, tmp_path):
        out = tmp_path / f"out{len(seen)}"
        assert main([*args, "--knowledge-base", f"{place}/index", "--out", str(out)]) == 0
        noted = json.loads((out / "sample.json").read_text())
        seen.append((noted["model"], [hit["key"] for hit in noted["images"][0]["neighbours"]], images(out)))
    assert seen[0][0] == seen[1][0] and seen[0][2] != seen[1][2]
    assert set(seen[1][1]) <= set(other.keys()) and not set(seen[0][1]) & set(other.keys())


QUICK = ["--num-images", "2", "--steps", "2"]


def test_a_cascade_writes_every_stage_and_can_be_drawn_again(model, stages, world, tmp_path, capsys):
    places = ["--records", f"{world}/records", "--knowledge-base", f"{world}/index", "--limit", "2"]
    asked = ["--model", str(model), *places, *QUICK]
    own = ["steps=2,aug-level=0.3,eta=0.25,text-weight=1.5", "aug-level=0.2,eta=1,steps=2,text-weight=1.5,batch-size=3"]
    cascade = ["--cascade", *(f"{path},{word}" for path, word in zip(stages, own, strict=True))]
    assert main(["sample", *asked, *cascade, "--out", str(tmp_path / "all")]) == 0
    assert "images of 16 pixels, which the stage of 32 pixels sees enlarged" in capsys.readouterr().err
    for folder, side in (("all/stage1", 16), ("all/stage2", 32), ("all", 64)):
        for path in (tmp_path / folder).glob("0*.png"):
            assert Image.open(path).size == (side, side)
    assert main(["sample", *asked, "--out", str(tmp_path / "base")]) == 0
    base = images(tmp_path / "base")
    del base["grid.png"]
    assert images(tmp_path / "all" / "stage1") == base

    noted = json.loads((tmp_path / "all" / "sample.json").read_text())
    settings = [stage["sampler"] for stage in noted["cascade"]]
    assert [each["aug_level"] for each in settings] == [0.3, 0.2]
    assert [each["eta"] for each in settings] == [0.25, 1.0]
    assert [each["text_weight"] for each in settings] == [1.5, 1.5]
    assert [each["num_steps"] for each in settings] == [2, 2]
    assert [stage["experiment"]["name"] for stage in noted["cascade"]] == ["tiny_sr", "tiny_crops"]
    assert main(again(noted["command"], tmp_path / "again")) == 0
    for folder in (".", "stage1", "stage2"):
        assert images(tmp_path / "again" / folder) == images(tmp_path / "all" / folder)


def test_a_stage_may_see_fewer_neighbours_than_the_one_before(model, stages, world, tmp_path):
    places = ["--records", f"{world}/records", "--knowledge-base", f"{world}/index", "--limit", "1"]
    asked = ["--model", str(model), *places, *QUICK]
    for k in ("0", "2"):
        cascade = ["--cascade", f"{stages[0]},steps=2,k={k}"]
        assert main(["sample", *asked, *cascade, "--out", str(tmp_path / k)]) == 0
    assert images(tmp_path / "0" / "stage1") == images(tmp_path / "2" / "stage1")
    assert images(tmp_path / "0") != images(tmp_path / "2")


def test_an_image_of_ones_own_is_enlarged(stages, tmp_path, capsys):
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (16, 16, 3), np.uint8)).save(tmp_path / "own.png")
    Image.new("RGB", (40, 30)).save(tmp_path / "large.png")
    args = ["--model", str(stages[0]), "--prompt", "a thing", "--num-images", "1", "--steps", "2"]
    for name, said in (("own", ""), ("large", "40 x 30 pixels: its central square is resized to 16 x 16")):
        low_res = ["--low-res", str(tmp_path / f"{name}.png"), "--aug-level", "0.2"]
        assert main(["sample", *args, *low_res, "--out", str(tmp_path / name)]) == 0
        error = capsys.readouterr().err
        assert said in error and (said or not error)
        noted = json.loads((tmp_path / name / "sample.json").read_text())
        assert Image.open(tmp_path / name / noted["images"][0]["file"]).size == (32, 32)
        assert noted["sampler"]["aug_level"] == 0.2 and noted["data"]["low-resolution image"].endswith(f"{name}.png")
    noted = json.loads((tmp_path / "own" / "sample.json").read_text())
    assert main(again(noted["command"], tmp_path / "again")) == 0
    assert images(tmp_path / "again") == images(tmp_path / "own") != images(tmp_path / "large")


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["MODEL", "--cascade", "MODEL"], "stage 2 of the cascade, tiny, is a base model"),
        (["MODEL", "--cascade", "SR64"], "enlarges images of 32 pixels, but the stage before it, tiny, draws 16"),
        (["SR32"], "is a super-resolution model: give it an image to enlarge, --low-res IMAGE"),
        (["MODEL", "--low-res", "IMAGE"], "is a base model: --low-res is for a super-resolution model"),
        (["SR32", "--low-res", "NONE"], "none.png cannot be read"),
        (["SR32", "--low-res", "TEXT"], "not an image"),
        (["SR32", "--low-res", "IMAGE", "--aug-level", "2"], "--aug-level 2.0"),
        (
            ["MODEL", "--aug-level", "0.1"],
            "--aug-level 0.1: --model is a base model; write it behind a model of --cascade",
        ),
        (["MODEL", "--aug-level", "0.1", "--cascade", "SR32"], "--aug-level 0.1: --model is a base model"),
        (["MODEL", "--cascade", "SR32,steps=0"], "SR32,steps=0: steps 0: at least 1"),
        (["MODEL", "--cascade", "SR32,k=-1"], "SR32,k=-1: k -1: at least 0"),
        (["MODEL", "--cascade", "SR32,batch-size=0"], "SR32,batch-size=0: batch-size 0"),
        (["MODEL", "--cascade", "SR32,step=4"], "SR32,step=4: 'step' is no setting of a stage"),
        (["MODEL", "--cascade", "SR32,steps=four"], "SR32,steps=four: steps 'four' is not a number"),
        (
            ["MODEL", "--cascade", "SR32,solver=euler"],
            "SR32,solver=euler: solver is one of ddpm, ddim, dpmpp_2m, dpmpp_2m_sde, unipc, heun, not 'euler'",
        ),
        (["MODEL", "--cascade", "NONE"], "not found"),
    ],
)
def test_stages_that_do_not_fit_are_one_line_and_leave_nothing(model, stages, tmp_path, capsys, args, message):
    inputs = tmp_path / "inputs"
    inputs.mkdir()
    Image.new("RGB", (16, 16)).save(inputs / "image.png")
    (inputs / "text.png").write_text("words")
    places = {
        "MODEL": model,
        "SR32": stages[0],
        "SR64": stages[1],
        "IMAGE": inputs / "image.png",
        "TEXT": inputs / "text.png",
        "NONE": inputs / "none.png",
    }
    args = [re.sub("^[A-Z0-9]+", lambda name: str(places[name[0]]), arg) if arg[0].isupper() else arg for arg in args]
    out = tmp_path / "results" / "out"
    assert main(["sample", "--prompt", "a thing", "--out", str(out), "--model", *args]) == 2
    error = capsys.readouterr().err
    assert message.replace("SR32", str(stages[0])) in error and error.count("\n") == 1
    assert not list(tmp_path.glob("results/*"))


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
        (["--prompt", "a", "--pin", "k"], "--pin asks a --knowledge-base"),
        (["--prompt", "a", "--ban", "k"], "--ban asks a --knowledge-base"),
        (["--prompt", "a", "--method", "dense"], "--method asks a --knowledge-base"),
        (["--prompt", "a", "--knowledge-base", "{world}/index", "--method", "dense"], "no vectors"),
        (["--prompt", "a", "--knowledge-base", "{world}/index", "--pin", "k"], "no record with the key 'k'"),
        (["--prompt", "a", "--knowledge-base", "{world}/index", "--ban", "k"], "no record with the key 'k'"),
        (["--prompt", "a", "--knowledge-base", "{world}/index", "--pin", "k", "--ban", "k"], "k is given to --pin"),
        (["--prompt", "a", "--knowledge-base", "{world}/index", "--query-by", "entity"], "has no such text"),
        (["--prompt", "a", "--eta", "1.5"], "--eta 1.5"),
        (["--prompt", "a", "--steps", "0"], "--steps 0"),
        (["--prompt", "a", "--k", "-1"], "--k -1"),
        (["--prompt", "a", "--k", "2"], "--k 2 asks for neighbours, but there are none"),
        (["--prompt", "a", "--text-weight", "nan"], "--text-weight nan: a finite number"),
        (["--prompt", "a", "--neighbour-weight", "inf"], "--neighbour-weight inf: a finite number"),
        (["--prompt", "a", "--text-weight", "-3"], "--text-weight -3.0: at least 0"),
        (["--prompt", "a", "--text-weight", "1e39"], "--text-weight 1e+39: at most"),
        (["--prompt", "a", "--seed", "18446744073709551616"], "--seed 18446744073709551616: less than 4294967296"),
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
