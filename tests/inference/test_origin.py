"""What an image tells of itself: the same in the PNG and beside it, true, and refused where a stranger changed it."""

import dataclasses
import json
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from reimagen_jax.data.image_text import ImageText
from reimagen_jax.diffusion import guidance, schedule
from reimagen_jax.diffusion.sampler import image_keys
from reimagen_jax.errors import UserError
from reimagen_jax.inference.model import Model
from reimagen_jax.inference.origin import KEY, NoOrigin, pixels_sha256, read_origin, save_image
from reimagen_jax.inference.pipeline import Pipeline
from reimagen_jax.inference.provenance import origins, rights
from reimagen_jax.systems.request import Neighbour, Request
from tests.samples import encoded, picture
from tests.tiny import TINY, TINY_SR, random_params

MODELS = [Model(f"runs/{config.name}", config, random_params(config), 7) for config in (TINY, TINY_SR)]
ATTRIBUTES = {
    "licence": "CC BY 4.0",
    "author_name": "Ada",
    "page_url": "https://example.org/1",
    "size": 3,
    "hurl": "no",
}
HIT = Neighbour.of(ImageText("k", encoded(picture(0, (16, 16))), "ein Hühnchen", ATTRIBUTES), 2.5, 16, "s", "/b", "f")


REQUEST = Request("größer 🐈", (HIT,), 4)


def told(stages=1, requests=(REQUEST,), **settings):
    """The origins of requests as these stages would draw them, and what they drew (nothing but noise)."""
    sampler = [dataclasses.replace(model.config.system.sampler, **settings) for model in MODELS]
    pipeline = Pipeline([model.stage(each, 4) for model, each in zip(MODELS, sampler, strict=True)][:stages], seed=3)
    images = [np.asarray(picture(i, (16, 16))) for i in range(len(requests))]
    return origins(MODELS[:stages], pipeline, requests, images, made_by="sample", command="reimagen sample"), images


def test_the_picture_and_the_file_beside_it_tell_the_same(tmp_path):
    (origin,), (image,) = told(2)
    save_image(tmp_path / "a.png", image, origin)
    with Image.open(tmp_path / "a.png") as file:
        assert json.loads(file.text[KEY]) == json.loads((tmp_path / "a.json").read_text(encoding="utf-8"))
        assert "größer 🐈" in file.text[KEY]
    for name in ("a.png", "a.json"):
        found, pixels = read_origin(tmp_path / name)
        assert found == origin
        np.testing.assert_array_equal(pixels, image)
    (tmp_path / "a.png").unlink()
    assert read_origin(tmp_path / "a.json") == (origin, None)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.json"]


def test_what_is_told_is_true():
    (origin,), (image,) = told(2, num_steps=5, k=1)
    assert (origin.seed, origin.index, origin.pixels_sha256) == (3, 4, pixels_sha256(image))
    (hit,) = origin.neighbours
    assert (hit.key, hit.text, hit.score, hit.source, hit.base) == ("k", "ein Hühnchen", 2.5, "s", "f")
    assert hit.pixels_sha256 == pixels_sha256(HIT.image)
    assert hit.rights == {"licence": "CC BY 4.0", "author_name": "Ada", "page_url": "https://example.org/1"}
    for stage, model in zip(origin.stages, MODELS, strict=True):
        assert (stage.model.name, stage.model.step, stage.model.sha256) == (model.config.name, 7, model.digest)
        assert stage.sampler["num_steps"] == 5 and stage.batch_size == 4
        times = schedule.times(5, model.config.system.diffusion)
        np.testing.assert_array_equal(np.asarray(stage.times, np.float32), times)


def test_a_neighbour_is_told_at_the_resolution_that_it_is_shown_at():
    """Whatever it was decoded at before."""
    file = encoded(picture(0, (64, 64)))
    large, small = (Neighbour.of(ImageText("k", file, "a"), 1.0, side) for side in (64, 16))
    (one,), _ = told(1, [Request("a", (large,))])
    (other,), _ = told(1, [Request("a", (small,))])
    assert one == other


@pytest.mark.parametrize("model", MODELS, ids=["base", "stage"])
@pytest.mark.parametrize("kind", ["interleaved", "stratified"])
def test_the_plan_that_is_told_is_the_plan_that_is_drawn(monkeypatch, model, kind):
    """That of the guide itself, for each image its own."""
    seen, interleaved = [], guidance.interleaved

    def spy(drop, plan_BT, *rest):
        seen.append(plan_BT)
        return interleaved(drop, plan_BT, *rest)

    monkeypatch.setattr(guidance, "interleaved", spy)
    settings = dataclasses.replace(model.config.system.sampler, num_steps=12, guidance=kind, k=1)
    stage, start = model.stage(settings, 4), np.zeros((16, 16, 3), np.uint8)
    start = None if model.config is TINY else start
    requests = [Request("a", (HIT,), i, {"eta": eta}, start) for i, eta in enumerate((0.3, 0.5, 0.9))]
    inputs = jax.tree.map(jnp.asarray, stage.feed.collate(requests, settings))

    @jax.jit
    def plan(params, inputs, keys):
        stage.system.sampling(params, inputs, keys, settings)
        return seen.pop()

    drawn = np.asarray(plan(model.params, inputs, image_keys(3, range(3))))
    pipeline = SimpleNamespace(stages=[stage], seed=3)
    found = origins([model], pipeline, requests, [HIT.image] * 3, made_by="sample", command="")
    plans = [np.isin(np.arange(12), each.stages[0].text_steps) for each in found]
    np.testing.assert_array_equal(plans, drawn)
    assert len({plan.tobytes() for plan in plans}) == 3


@pytest.mark.parametrize("kind", ["joint", "compositional"])
def test_guidance_without_a_choice_has_no_plan(kind):
    assert told(1, guidance=kind)[0][0].stages[0].text_steps is None


def test_without_neighbours_every_step_is_of_the_text():
    (origin,), _ = told(2, [Request("a")], num_steps=4)
    assert [stage.text_steps for stage in origin.stages] == [(0, 1, 2, 3)] * 2
    assert origin.stages[0].guidance["eta"] == 1.0


def test_rights_are_texts_of_bounded_length():
    hit = dataclasses.replace(HIT, attributes={"licence": "x" * 10_000, "author": "", "url": ["a"], "License URL": "u"})
    assert {name: len(value) for name, value in rights(hit).items()} == {"licence": 2000, "License URL": 1}


def change(origin, *path, to):
    """The origin's JSON with another value at a place."""
    value = json.loads(json.dumps(dataclasses.asdict(origin)))
    place = value
    for step in path[:-1]:
        place = place[step]
    place[path[-1]] = to
    return value


@pytest.mark.parametrize(
    ("path", "to", "said"),
    [
        (["format"], 2, "a.png.format is 2: it was written by a newer version"),
        (["format"], "1", "a.png.format is '1'"),
        (["seed"], -1, "a.png.seed is -1: at least 0"),
        (["seed"], 2**32, "a.png.seed is 4294967296: less than"),
        (["index"], "0", "a.png.index is '0': a whole number"),
        (["prompt"], 5, "a.png.prompt is 5: a text"),
        (["prompt"], "x" * (2**20 + 1), "a.png.prompt is 'xxx"),
        (["pixels_sha256"], "12", "a.png.pixels_sha256 is '12'"),
        (["stages", 0, "batch_size"], 10**9, "a.png.stages[0].batch_size is 1000000000: at most 65536"),
        (["stages", 0, "times"], [0.0] * 100_002, "a.png.stages[0].times"),
        (["stages", 0, "model", "sha256"], "../x", "a.png.stages[0].model.sha256 is '../x'"),
        (["neighbours", 0, "score"], "high", "a.png.neighbours[0].score is 'high'"),
        (["neighbours", 0, "extra"], 1, "a.png.neighbours[0].extra is no setting that this version knows"),
        (["stages"], {}, "a.png.stages is {}"),
        (["versions"], {"jax": 1}, "a.png.versions.jax is 1: a text"),
    ],
)
def test_what_a_stranger_changed_is_refused_by_file_and_field(tmp_path, path, to, said):
    (origin,), (image,) = told()
    chunk = PngInfo()
    chunk.add_itxt(KEY, json.dumps(change(origin, *path, to=to)))
    Image.fromarray(image).save(tmp_path / "a.png", pnginfo=chunk)
    with pytest.raises(UserError) as error:
        read_origin(tmp_path / "a.png")
    assert said in str(error.value) and "\n" not in str(error.value)


@pytest.mark.parametrize("text", ["", "[", "3", "null", "[" * 100_000, '{"format": 1}', "9" * 5000])
@pytest.mark.parametrize("suffix", ["png", "json"])
def test_what_is_no_origin_is_refused(tmp_path, text, suffix):
    path = tmp_path / f"a.{suffix}"
    chunk = PngInfo()
    chunk.add_itxt(KEY, text)
    if suffix == "png":
        picture(0).save(path, pnginfo=chunk)
    else:
        path.write_text(text)
    with pytest.raises(UserError, match=str(path)):
        read_origin(path)


def test_files_without_an_origin_say_so(tmp_path):
    picture(0).save(tmp_path / "plain.png")
    picture(0).save(tmp_path / "photo.jpg")
    (tmp_path / "words.png").write_text("words")
    compressed = PngInfo()
    compressed.add_itxt(KEY, "x" * 5_000_000, zip=True)
    picture(0).save(tmp_path / "bomb.png", pnginfo=compressed)
    for name in ("plain.png", "photo.jpg", "words.png", "bomb.png"):
        with pytest.raises(NoOrigin, match=f"{name} tells no origin"):
            read_origin(tmp_path / name)
    with pytest.raises(UserError, match="cannot be read: No such file"):
        read_origin(tmp_path / "none.png")
    (tmp_path / "huge.json").write_bytes(b" " * (2**22 + 1))
    with pytest.raises(UserError, match="larger than the origin of an image can be"):
        read_origin(tmp_path / "huge.json")


def test_a_broken_picture_is_refused(tmp_path):
    (origin,), (image,) = told()
    save_image(tmp_path / "a.png", image, origin)
    data = (tmp_path / "a.png").read_bytes()
    (tmp_path / "a.png").write_bytes(data[: len(data) - 200])
    with pytest.raises(UserError, match=r"a\.png"):
        read_origin(tmp_path / "a.png")
