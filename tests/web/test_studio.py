"""The studio behind its page: what is found, what is drawn, that the command line draws the same, what is refused."""

import io
import json
import shlex
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from reimagen_jax.cli import main
from reimagen_jax.errors import UserError
from reimagen_jax.inference.model import Model
from reimagen_jax.inference.origin import pixels_sha256, read_origin
from reimagen_jax.web.studio.asked import MASK, Drawn
from reimagen_jax.web.studio.offered import Offered
from reimagen_jax.web.studio.programs import STRIP
from reimagen_jax.web.studio.studio import Studio
from tests import rcg
from tests.samples import encoded, picture

PICTURE = encoded(picture(3, (40, 24)))
HALF = "1" * (MASK * MASK // 2) + "0" * (MASK * MASK // 2)


def records(studio):
    """Captions and keys of the base."""
    return list(zip(studio.base.records.texts(), studio.base.records.keys(), strict=True))


def ask(studio, **more):
    text, _ = records(studio)[0]
    return {"model": "tiny", "prompt": text, "chosen": {"k": 2}, **more}


def drawn(page, asked):
    """The drawing, once it is there."""
    job = page.json("POST", "/api/drawings", asked)
    assert "number" in job, job
    return done(page, job["number"])


def done(page, number):
    end = time.monotonic() + 600
    while time.monotonic() < end:
        state = page.json("GET", "/api/state")
        found = [drawing for drawing in state["history"] if drawing["number"] == number]
        if found:
            return found[0]
        assert any(job["number"] == number for job in state["jobs"]), "it failed"
        time.sleep(0.05)
    raise AssertionError("nothing is drawn")


def pixels(page, url):
    return np.asarray(Image.open(io.BytesIO(page.ask("GET", url)[2])))


def by_command(page, drawing, image, folder):
    """The image of the command line that the page shows, run in a folder with the files that it names, once for all."""
    if not folder.exists():
        folder.mkdir()
        for name in drawing["files"]:
            (folder / name).write_bytes(page.ask("GET", f"/api/drawings/{drawing['number']}/files/{name}")[2])
        command = [str(folder / "out") if word == "OUT" else word for word in shlex.split(image["command"])[1:]]
        assert main(command) == 0
    noted = json.loads((folder / "out" / "sample.json").read_text())
    prompt = page.json("GET", image["url"].replace(".png", ".json"))["prompt"]
    same = [each for each in noted["images"] if (each["index"], each["prompt"]) == (image["index"], prompt)]
    (entry,) = [each for each in same if bool(each["neighbours"]) != image["without"]] if len(same) > 1 else same
    return np.asarray(Image.open(folder / "out" / entry["file"]))


def test_what_is_found_and_why(page, studio):
    text, _ = records(studio)[0]
    found = page.json("POST", "/api/search", ask(studio))["neighbours"]
    assert len(found) == 2
    assert found[0]["text"] == text
    assert found[0]["score"] >= found[1]["score"]
    assert sum(score for _, score, _ in found[0]["words"]) == pytest.approx(found[0]["score"], abs=0.01)
    assert pixels(page, found[0]["url"]).shape[2] == 3


def test_own_pictures_come_first_then_what_is_pinned_and_nothing_that_is_banned(page, studio):
    (first, second) = [hit["key"] for hit in page.json("POST", "/api/search", ask(studio))["neighbours"]]
    other = next(key for _, key in records(studio) if key not in (first, second))
    sent = page.json("POST", "/api/pictures?name=..%2F..%2Fmy%20cat.png", PICTURE)
    assert sent["name"] == "my-cat.png"
    assert pixels(page, sent["url"]).shape == (24, 24, 3)
    own = [{"picture": sent["picture"], "caption": " a cat "}]
    chosen = {"k": 3, "own": own, "pin": [other], "ban": [first]}
    found = page.json("POST", "/api/search", ask(studio, chosen=chosen))["neighbours"]
    assert [hit["key"] for hit in found] == ["my-cat.png", other, second]
    assert [hit["pinned"] for hit in found] == [False, True, False]
    assert (found[0]["text"], found[0]["score"]) == ("a cat", None)


def test_a_strip_is_what_the_command_line_draws_bit_for_bit(page, studio, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    sent = page.json("POST", "/api/pictures?name=mine.png", PICTURE)
    own = [{"picture": sent["picture"], "caption": "a cat"}]
    numbers = {"text_weight": 1.5, "neighbour_weight": 3.5, "seed": 7, "steps": 3, "solver": "ddim"}
    drawing = drawn(page, ask(studio, chosen={"k": 2, "own": own}, num_images=2, **numbers))
    images = drawing["images"]
    assert len(images) == 2 * STRIP
    assert [image["label"] for image in images[:3]] == ["without neighbours", "η 0", "η 0.1"]
    assert len({page.ask("GET", image["url"])[2] for image in images}) > 4
    image = images[STRIP + 1 + 3]
    assert (image["eta"], image["row"], image["index"]) == (0.3, 1, 1)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine.png").write_bytes(PICTURE)
    assert np.array_equal(by_command(page, drawing, image, tmp_path / "a"), pixels(page, image["url"]))
    content = page.ask("GET", f"{image['url']}?save")[2]
    (tmp_path / "sent.png").write_bytes(content)
    origin, shown = read_origin(tmp_path / "sent.png")
    assert origin.pixels_sha256 == pixels_sha256(shown)
    assert (origin.seed, origin.index, origin.neighbours[0].text) == (7, 1, "a cat")
    beside = page.json("GET", image["url"].replace("png", "json"))
    assert beside["command"] == origin.command == image["command"]


def test_without_neighbours_can_be_drawn_again_from_its_file(page, studio, tmp_path):
    drawing = drawn(page, ask(studio))
    without = drawing["images"][0]
    (tmp_path / "without.png").write_bytes(page.ask("GET", without["url"])[2])
    assert main(["reproduce", str(tmp_path / "without.png")]) == 0
    assert "--knowledge-base" not in without["command"]


def test_moving_along_a_strip_asks_and_compiles_nothing_and_so_do_other_numbers(page, studio):
    first = drawn(page, ask(studio))
    pipeline = studio.drawing(first["number"]).parts[0].pipeline
    before = studio.finder.retrievals, pipeline.stages[0].compilations
    for image in first["images"]:
        assert page.ask("GET", image["url"])[0] == 200
    assert (studio.finder.retrievals, pipeline.stages[0].compilations) == before
    other = drawn(page, ask(studio, seed=9, text_weight=4.0, neighbour_weight=1.0))
    assert studio.drawing(other["number"]).parts[0].pipeline.stages[0] is pipeline.stages[0]
    assert pipeline.stages[0].compilations == before[1]
    assert page.json("POST", "/api/warm", {"model": "tiny", "k": 2}) == {"job": None}


@pytest.mark.parametrize("kind", ["inpaint", "swap"])
def test_edits_are_what_the_command_line_draws(page, studio, tmp_path, monkeypatch, kind):
    sent = page.json("POST", "/api/pictures?name=before.png", PICTURE)
    to = {"k": 2, "own": [{"picture": sent["picture"], "caption": "a dog of mine"}]}
    more = {"inpaint": {"picture": sent["picture"], "mask": HALF}, "swap": {"to": to, "to_prompt": "a big dog"}}
    drawing = drawn(page, ask(studio, kind=kind, eta=0.4, **more[kind]))
    folder = tmp_path / "a"
    for name in drawing["files"]:
        (tmp_path / name).write_bytes(page.ask("GET", f"/api/drawings/{drawing['number']}/files/{name}")[2])
    monkeypatch.chdir(tmp_path)
    image, without = drawing["images"][-2:]
    assert (without["without"], drawing["images"][image["beside"]]) == (True, without)
    assert without["command"] == image["command"], "in one program"
    assert np.array_equal(by_command(page, drawing, image, folder), pixels(page, image["url"]))
    assert np.array_equal(by_command(page, drawing, without, folder), pixels(page, without["url"]))
    kept = studio.drawing(drawing["number"])
    assert np.array_equal(studio.again(kept, lambda *step: None), kept.image_NHWC)


def test_variations_stand_beside_the_same_without_neighbours(page, studio):
    steps = []
    drawing = drawn(page, ask(studio, kind="vary", num_images=2))
    told = [(image["label"], image["beside"]) for image in drawing["images"]]
    assert told[::2] == [("image", 1), ("variation 1", 3), ("variation 2", 5)]
    assert told[1::2] == [(f"{label}, without neighbours", None) for label, _ in told[::2]]
    kept = studio.drawing(drawing["number"])
    studio.again(kept, lambda step, of: steps.append((step, of)))
    assert steps[-1][0] == steps[-1][1]
    bare = drawn(page, ask(studio, kind="vary", chosen={"k": 0}))
    assert [image["without"] for image in bare["images"]] == [False, False], "they are it themselves"


def test_a_cascade_draws_larger(page, studio):
    drawing = drawn(page, ask(studio, model="large", chosen={"k": 0}))
    assert drawing["resolution"] == 32
    assert len(drawing["images"]) == 1, "without neighbours there is nothing to move between"
    assert "--cascade" in drawing["images"][0]["command"]


def told(page, label):
    return next(each for each in page.json("GET", "/api/state")["models"] if each["label"] == label)


def test_a_decoder_draws_from_neighbours_and_beside_it_from_the_text(page, studio, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    drawing = drawn(page, ask(studio, model="decoder", num_images=2, text_weight=1.5, seed=3))
    images = drawing["images"]
    assert [image["label"] for image in images] == ["without neighbours", "image 1", "without neighbours", "image 2"]
    assert [image["index"] for image in images] == [0, 0, 1, 1], "from the same noise"
    assert len({page.ask("GET", image["url"])[2] for image in images}) == 4
    assert "--embedding text" in images[2]["command"] and "--knowledge-base" not in images[2]["command"]
    for n in (2, 3):
        assert np.array_equal(by_command(page, drawing, images[n], tmp_path / f"{n}"), pixels(page, images[n]["url"]))
    kept = studio.drawing(drawing["number"])
    assert np.array_equal(studio.again(kept, lambda *step: None), kept.image_NHWC)
    bare = drawn(page, ask(studio, model="decoder", chosen={"k": 0}))
    assert [image["label"] for image in bare["images"]] == ["without neighbours"]


def test_a_prior_with_its_decoder_draws_from_the_text_alone(page, studio, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    drawing = drawn(page, ask(studio, model="dalle2"))
    (image,) = drawing["images"]
    assert (image["label"], drawing["neighbours"], drawing["resolution"]) == ("image 1", [], 8)
    assert page.json("POST", "/api/search", ask(studio, model="dalle2"))["neighbours"] == []
    assert np.array_equal(by_command(page, drawing, image, tmp_path / "a"), pixels(page, image["url"]))


def test_a_decoder_swaps_the_neighbours_at_the_same_seed(page, studio, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    _, key = records(studio)[-1]
    drawing = drawn(page, ask(studio, model="decoder", kind="swap", to={"k": 2, "pin": [key]}, to_prompt="a dog"))
    first, _, swapped, without = drawing["images"]
    assert drawing["others"][0]["key"] == key and first["index"] == swapped["index"] == without["index"]
    assert (swapped["beside"], "--embedding text" in without["command"]) == (3, True), "by other settings"
    for n, image in enumerate((swapped, without)):
        assert np.array_equal(by_command(page, drawing, image, tmp_path / f"{n}"), pixels(page, image["url"]))


def test_what_a_system_lacks_is_told_with_its_reason(page):
    assert told(page, "tiny")["lacks"] == {}
    decoder, dalle2 = told(page, "decoder"), told(page, "dalle2")
    assert (decoder["kinds"], decoder["neighbours"], decoder["without"]) == (["draw", "swap"], True, True)
    assert (dalle2["kinds"], dalle2["neighbours"], dalle2["negative"]) == (["draw"], False, True)
    assert not any("--" in why for each in (decoder, dalle2) for why in each["lacks"].values()), "it has controls"
    for each in (decoder, dalle2):
        assert each["eta"] is None and each["neighbour_weight"] is None and each["text_weight"] > 0
        assert each["steps"] == 3 and "draws on no picture" in each["lacks"]["edit"]
    assert "draws an embedding from the text alone" in dalle2["lacks"]["neighbours"]
    assert "alone" not in decoder["lacks"], "other settings draw without neighbours"


@pytest.mark.parametrize(
    ("label", "more", "said"),
    [
        ("decoder", {"kind": "vary"}, "draws on no picture"),
        ("dalle2", {"kind": "swap", "to": {"k": 2}, "to_prompt": "a dog"}, "from the text alone"),
        ("dalle2", {"chosen": {"pin": ["a"]}}, "from the text alone"),
    ],
)
def test_what_a_system_lacks_is_refused(page, studio, label, more, said):
    status, _, content = page.ask("POST", "/api/drawings", ask(studio, model=label, **more))
    assert status == 400
    assert said in json.loads(content)["error"]


def offered(*configs):
    return Offered("it", tuple(map(Path, "ab")), tuple(Model(Path("a"), each, None, None) for each in configs))


def test_what_needs_neighbours_and_has_none_is_told_what_to_do_on_the_page():
    behind = Studio([offered(rcg.GENERATOR)], None, lambda line: "")
    with pytest.raises(UserError, match="it draws from neighbours alone, and there are none"):
        behind.draw(Drawn(model="it", prompt="a cat"))
    behind.close()


def test_what_cannot_be_asked_is_refused_at_the_start():
    for configs in ((rcg.RDM, rcg.GENERATOR), (rcg.OF_NOTHING,)):
        with pytest.raises(UserError, match=f"--model it cannot be asked.*{configs[0].name} reads no prompt"):
            offered(*configs).check()
    for configs in ((rcg.GENERATOR,), (rcg.CLASS_RDM, rcg.GENERATOR), (rcg.OF_CLASS,)):
        offered(*configs).check()
    assert offered(rcg.GENERATOR).told()["without"] is False
    assert offered(rcg.OF_CLASS).told()["prompts"] == list(rcg.CLASSES)


def test_reproducing_draws_again(page, studio):
    first = drawn(page, ask(studio))
    job = page.json("POST", f"/api/drawings/{first['number']}/reproduce")
    while any(each["number"] == job["number"] for each in page.json("GET", "/api/state")["jobs"]):
        time.sleep(0.05)
    drawing = studio.drawing(first["number"])
    assert np.array_equal(studio.again(drawing, lambda *step: None), drawing.image_NHWC)


@pytest.mark.parametrize(
    ("more", "said"),
    [
        ({"prompt": "  "}, "no prompt"),
        ({"model": "/etc"}, "no model '/etc'"),
        ({"seed": -1}, "seed is -1"),
        ({"num_images": 99}, "num_images is 99"),
        ({"solver": "rk9"}, "solver"),
        ({"kind": "image"}, "no picture"),
        ({"kind": "image", "picture": "../../etc/passwd"}, "not here any more"),
        ({"kind": "inpaint", "picture": "x", "mask": "01"}, "mask"),
        ({"kind": "swap"}, "nothing to swap to"),
        ({"kind": "swap", "to": {"k": 2}}, "nothing to swap to"),
        ({"chosen": {"pin": ["nowhere"]}}, "nowhere"),
        ({"chosen": {"pin": ["a"], "ban": ["a"]}}, "pinned and banned"),
        ({"chosen": {"own": [{"picture": "x", "caption": " "}]}}, "no caption"),
        ({"path": "/etc/passwd"}, "path"),
    ],
)
def test_what_cannot_be_drawn_is_one_line(page, studio, more, said):
    status, _, content = page.ask("POST", "/api/drawings", ask(studio, **more))
    assert status == 400
    assert said in json.loads(content)["error"]


@pytest.mark.parametrize("path", ["/api/records/999999", "/api/pictures/..%2f..%2fx", "/api/drawings/99/0.png"])
def test_what_is_not_there_is_said(page, path):
    assert page.ask("GET", path)[0] in (400, 404)


def test_another_page_cannot_draw(page, studio):
    forged = {"Origin": "http://evil.example"}
    before = len(page.json("GET", "/api/state")["history"])
    assert page.ask("POST", "/api/drawings", ask(studio), forged)[0] == 403
    assert page.ask("POST", "/api/pictures", PICTURE, forged)[0] == 403
    state = page.json("GET", "/api/state")
    assert (len(state["history"]), state["jobs"]) == (before, [])
