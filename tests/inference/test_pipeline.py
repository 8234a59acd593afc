"""The pipeline: the same as its stages by hand, each with neighbours at its own resolution; what does not chain."""

import dataclasses
from dataclasses import dataclass
from typing import ClassVar

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from reimagen_jax.config import Experiment, SystemConfig
from reimagen_jax.data import images
from reimagen_jax.diffusion.sampler import image_keys
from reimagen_jax.errors import UserError
from reimagen_jax.inference.pipeline import Pipeline, Stage
from reimagen_jax.systems import kinds
from reimagen_jax.systems.pixels import to_bytes, to_model
from reimagen_jax.systems.request import Neighbour, Request
from tests.samples import encoded, picture
from tests.tiny import TINY, TINY_CROPS, TINY_SR, changed, random_params

CONFIGS = (TINY, TINY_SR, TINY_CROPS)


@pytest.fixture(scope="module")
def params():
    return [random_params(config, seed) for seed, config in enumerate(CONFIGS)]


@pytest.fixture(scope="module")
def pipeline(params):
    """Tests share its programs."""
    return Pipeline([Stage(config, p, batch_size=3) for config, p in zip(CONFIGS, params, strict=True)])


@pytest.fixture(scope="module")
def enlarging(params):
    """The second stage again, whose programs may be several: of bytes, and of floats."""
    return Stage(TINY_SR, params[1], batch_size=3)


def neighbour(seed: int) -> Neighbour:
    """A picture of 64 pixels, decoded for the first stage."""
    data = encoded(picture(seed, (64, 64)))
    return Neighbour(images.decode(data, 16), f"neighbour {seed}", 1.0, str(seed), data)


def request(index: int, k: int = 2) -> Request:
    neighbours = tuple(neighbour(10 * index + j) for j in range(k))
    guidance = {"eta": 0.5 if k else 1.0, "text_weight": 3.0, "neighbour_weight": 5.0}
    return Request(f"prompt {index}", neighbours, index, guidance)


def test_a_cascade_is_its_stages_by_hand(pipeline):
    requests = [request(0), request(1, k=0), request(2, k=1), request(3)]
    drawn = pipeline.draw(requests)
    base, middle, last = pipeline.stages
    first = base.draw(requests)
    own = TINY_SR.system.sampler
    second = middle.draw(
        [
            dataclasses.replace(
                each,
                start=image,
                guidance={
                    "eta": own.eta if each.neighbours else 1.0,
                    "text_weight": own.text_weight,
                    "neighbour_weight": own.neighbour_weight,
                },
            )
            for each, image in zip(requests, first, strict=True)
        ]
    )
    own = {"eta": 1.0, "text_weight": TINY_CROPS.system.sampler.text_weight, "neighbour_weight": 1.0}
    third = last.draw(
        [Request(each.prompt, (), each.index, own, image) for each, image in zip(requests, second, strict=True)]
    )
    for ours, by_hand in zip(drawn, (first, second, third), strict=True):
        np.testing.assert_array_equal(ours, by_hand)
    assert drawn[-1].shape == (4, 64, 64, 3)
    np.testing.assert_array_equal(pipeline(requests), third)
    assert (pipeline.config, pipeline.settings) == (TINY_CROPS, TINY.system.sampler)


def test_a_stage_hands_on_floats_where_its_settings_say_so(pipeline, enlarging):
    base = pipeline.stages[0]
    unrounded = Stage(TINY, base.params, dataclasses.replace(base.settings, handed_on="floats"), batch_size=3)
    requests = [request(0), request(1)]
    floats = unrounded.draw(requests)
    assert floats.dtype == np.float32 and np.abs(floats).max() <= 1.0
    assert unrounded.draw([]).shape == (0, 16, 16, 3)
    first, second = Pipeline([unrounded, enlarging]).draw(requests)
    np.testing.assert_array_equal(first, base.draw(requests))  # what is written is rounded
    asked = [dataclasses.replace(each, guidance={}) for each in requests]
    by_hand = [dataclasses.replace(each, start=image) for each, image in zip(asked, floats, strict=True)]
    np.testing.assert_array_equal(second, enlarging.draw(by_hand))
    assert second.dtype == np.uint8 and np.any(second != Pipeline([base, enlarging])(requests))
    assert Pipeline([unrounded])(requests).dtype == np.uint8


def test_bytes_are_those_floats_that_they_mean(pipeline, enlarging):
    image = pipeline.stages[0].draw([request(0)])[0]
    one, same = (
        dataclasses.replace(request(0), start=start) for start in (image, np.asarray(to_model(jnp.asarray(image))))
    )
    np.testing.assert_array_equal(enlarging.draw([one]), enlarging.draw([same]))
    for wrong in (image.astype(np.float32), np.full((16, 16, 3), np.nan, np.float32)):
        with pytest.raises(UserError, match="tiny_sr enlarges bytes, or floats from -1 to 1"):
            enlarging.draw([dataclasses.replace(one, start=wrong)])


def test_floats_are_rounded_as_on_the_device():
    ties = (np.arange(-20, 300) + 0.5) / 127.5 - 1.0
    x = np.concatenate([ties, np.random.default_rng(0).uniform(-1.2, 1.2, 9_760)]).astype(np.float32)
    x = x.reshape(-1, 4, 4, 3)
    np.testing.assert_array_equal(images.rounded(x), jax.jit(to_bytes)(jnp.asarray(x)))
    assert images.rounded(images.rounded(x)).dtype == np.uint8


def test_an_image_depends_on_its_request_and_seed_only(pipeline):
    requests = [request(i, k=i % 3) for i in range(4)]
    together = pipeline(requests)
    np.testing.assert_array_equal(pipeline(requests[::-1])[::-1], together)
    np.testing.assert_array_equal(pipeline(requests[2:3])[0], together[2])
    assert np.any(Pipeline(pipeline.stages, seed=1)(requests[2:3])[0] != together[2])
    assert [stage.compilations for stage in pipeline.stages] == [1, 1, 1]


def test_one_seed_is_that_of_all_stages(pipeline):
    base, middle, _ = pipeline.stages
    first, second = Pipeline([base, middle], seed=1).draw([request(0)])
    np.testing.assert_array_equal(first, base.draw([request(0)], seed=1))
    asked = dataclasses.replace(request(0), start=first[0], guidance={})
    np.testing.assert_array_equal(second, middle.draw([asked], seed=1))
    assert np.any(second != middle.draw([asked], seed=0))


def test_stages_draw_from_noise_of_their_own(pipeline):
    """From the same image and the same key, two numbers of the image give two results at the second stage too."""
    image = np.zeros((16, 16, 3), np.uint8)
    one, two = (dataclasses.replace(request(0), index=i, start=image) for i in (0, 1))
    drawn = pipeline.stages[1].draw([one, two])
    assert np.any(drawn[0] != drawn[1])


def test_every_stage_sees_the_neighbours_at_its_own_resolution(pipeline):
    base, middle, last = pipeline.stages
    asked = request(0)
    for stage, side in ((base, 16), (middle, 32)):
        start = None if stage is base else np.zeros((16, 16, 3), np.uint8)
        inputs = stage.feed.collate([dataclasses.replace(asked, start=start)], stage.settings)
        expected = [images.decode(hit.encoded, side) for hit in asked.neighbours]
        np.testing.assert_array_equal(inputs.nbr_image_BKHWC[0], np.stack(expected))
    asked = dataclasses.replace(asked, neighbours=(), start=np.zeros((32, 32, 3), np.uint8))
    assert last.feed.collate([asked], last.settings).nbr_image_BKHWC.shape[1] == 0


def test_a_stage_sees_the_best_of_the_neighbours_as_many_as_it_has_room_for(pipeline):
    base, middle, _ = pipeline.stages
    narrow = Stage(TINY_SR, middle.params, dataclasses.replace(middle.settings, k=1), batch_size=3)
    first, second = Pipeline([base, narrow]).draw([request(0)])
    np.testing.assert_array_equal(first, base.draw([request(0)]))
    asked = dataclasses.replace(request(0, k=1), start=first[0], guidance={})
    np.testing.assert_array_equal(second, narrow.draw([asked]))


def test_a_neighbour_without_its_file_has_one_resolution():
    hit = Neighbour(np.zeros((16, 16, 3), np.uint8), "a", 1.0, "some key")
    assert hit.at(16) is hit.image and hit.side == 16
    with pytest.raises(UserError, match="some key is at hand at 16 pixels only, not 32"):
        hit.at(32)
    assert neighbour(0).side == 64


def test_weights_may_lie_in_the_hosts_memory(pipeline):
    on_host = [Stage(each.config, jax.device_get(each.params), batch_size=3) for each in pipeline.stages]
    assert all(isinstance(leaf, np.ndarray) for leaf in jax.tree.leaves(on_host[0].params))
    np.testing.assert_array_equal(Pipeline(on_host)([request(0)]), pipeline([request(0)]))


@pytest.mark.parametrize(
    ("order", "said"),
    [
        ((0, 0), "stage 2 of the cascade, tiny, is a base model"),
        ((1, 0), "stage 2 of the cascade, tiny, is a base model"),
        ((0, 2), "tiny_crops, enlarges images of 32 pixels, but the stage before it, tiny, draws 16"),
        ((0, 1, 1), "stage 3 of the cascade, tiny_sr, enlarges images of 16 pixels"),
        ((), "without stages"),
    ],
)
def test_stages_that_do_not_chain_are_refused(pipeline, order, said):
    with pytest.raises(UserError, match=said):
        Pipeline([pipeline.stages[i] for i in order])


def test_images_that_a_stage_cannot_enlarge_are_refused(pipeline):
    base, middle, _ = pipeline.stages
    with pytest.raises(UserError, match="takes no low-resolution image"):
        base.draw([dataclasses.replace(request(0), start=np.zeros((8, 8, 3), np.uint8))])
    with pytest.raises(UserError, match="none is given"):
        middle.draw([request(0)])
    with pytest.raises(UserError, match="16 x 16 pixels, not 8 x 8"):
        middle.draw([dataclasses.replace(request(0), start=np.zeros((8, 8, 3), np.uint8))])
    sampler = dataclasses.replace(TINY_SR.system.sampler, aug_level=0.9)
    narrow = dataclasses.replace(TINY_SR.system.super_resolution, aug_levels=(0.0, 0.5))
    with pytest.raises(UserError, match=r"aug_level 0\.9 is outside"):
        Stage(changed(TINY_SR, super_resolution=narrow), None, sampler)


def test_nothing_asked_is_nothing_drawn_by_every_stage(pipeline):
    shapes = [drawn.shape for drawn in pipeline.draw([])]
    assert shapes == [(0, 16, 16, 3), (0, 32, 32, 3), (0, 64, 64, 3)]


@dataclass(frozen=True)
class VectorConfig(SystemConfig):
    """Of a system that draws a vector, noise around what the stage before has drawn."""

    kind: ClassVar[str] = "vectors"
    width: int = 5
    scale: float = 1.0

    def check_follows(self, before, where):
        """Any may."""


class Vectors:
    """No diffusion, no images: `System.sample` and the feed are all that a pipeline knows."""

    def __init__(self, config):
        self.config, self.settings = config, config.system

    def sample(self, params, inputs, keys_B, settings):
        noise = jax.vmap(lambda key: jax.random.normal(key, (settings.width,)))(keys_B)
        return params + inputs["start"] + settings.scale * noise

    def inputs_spec(self, B, settings):
        return {"start": jax.ShapeDtypeStruct((B, settings.width), jnp.float32)}


class VectorFeed:
    """Takes any request."""

    def __init__(self, config):
        self.config = config

    def check(self, request, settings):
        """Nothing is refused."""

    def prepare(self, requests):
        """Nothing to do."""

    def limited(self, request, settings):
        return request

    def collate(self, requests, settings):
        zeros = np.zeros(settings.width, np.float32)
        return {"start": np.stack([zeros if each.start is None else each.start for each in requests])}


def test_a_system_of_another_kind_draws_by_the_same_pipeline(monkeypatch):
    monkeypatch.setitem(kinds._kinds, "vectors", kinds.Kind(VectorConfig, Vectors, VectorFeed))
    config = Experiment("vectors", VectorConfig())
    params = jnp.ones(())
    stage = Stage(config, params, batch_size=2)
    far = Stage(config, params, dataclasses.replace(stage.settings, scale=2.0), batch_size=4)
    requests = [Request(index=i) for i in (7, 8, 9)]
    first, second = Pipeline([stage, far], seed=3).draw(requests)
    noise = jax.vmap(lambda key: jax.random.normal(key, (5,)))(image_keys(3, (7, 8, 9)))
    np.testing.assert_allclose(first, 1.0 + noise, rtol=1e-6)
    np.testing.assert_allclose(second, 2.0 + 3.0 * noise, rtol=1e-5, atol=1e-6)
    assert (stage.compilations, far.compilations) == (1, 1)
    nothing = Pipeline([stage, far])([])
    assert nothing.shape == (0, 5) and nothing.dtype == np.float32
