"""The cascade: the same as its stages by hand, each with neighbours at its own resolution; what does not chain."""

import dataclasses

import numpy as np
import pytest

from reimagen_jax.data import images
from reimagen_jax.errors import UserError
from reimagen_jax.inference.cascade import Cascade
from reimagen_jax.inference.generator import Generator
from reimagen_jax.inference.requests import Neighbour, Request
from tests.samples import encoded, picture
from tests.tiny import TINY, TINY_CROPS, TINY_SR, random_params

CONFIGS = (TINY, TINY_SR, TINY_CROPS)


@pytest.fixture(scope="module")
def params():
    return [random_params(config, seed) for seed, config in enumerate(CONFIGS)]


@pytest.fixture(scope="module")
def cascade(params):
    return Cascade(stages(params))


def stages(params, seed: int = 0):
    return [
        Generator(config, p, max_neighbours=config.data.num_neighbours, batch_size=3, seed=seed)
        for config, p in zip(CONFIGS, params, strict=True)
    ]


def neighbour(seed: int) -> Neighbour:
    """A picture of 64 pixels, decoded for the first stage."""
    data = encoded(picture(seed, (64, 64)))
    return Neighbour(images.decode(data, 16), f"neighbour {seed}", 1.0, str(seed), data)


def request(index: int, k: int = 2) -> Request:
    neighbours = tuple(neighbour(10 * index + j) for j in range(k))
    return Request(f"prompt {index}", neighbours, 0.5 if k else 1.0, 3.0, 5.0, index)


def test_a_cascade_is_its_stages_by_hand(cascade, params):
    requests = [request(0), request(1, k=0), request(2, k=1), request(3)]
    drawn = cascade.draw(requests)
    base, middle, last = stages(params)
    first = base(requests)
    own = TINY_SR.sampler
    second = middle(
        [
            dataclasses.replace(
                each,
                low_res=image,
                eta=own.eta if each.neighbours else 1.0,
                text_weight=own.text_weight,
                neighbour_weight=own.neighbour_weight,
            )
            for each, image in zip(requests, first, strict=True)
        ]
    )
    third = last(
        [
            Request(each.prompt, (), 1.0, TINY_CROPS.sampler.text_weight, 1.0, each.index, image)
            for each, image in zip(requests, second, strict=True)
        ]
    )
    for ours, by_hand in zip(drawn, (first, second, third), strict=True):
        np.testing.assert_array_equal(ours, by_hand)
    assert drawn[-1].shape == (4, 64, 64, 3)
    np.testing.assert_array_equal(cascade(requests), third)


def test_an_image_depends_on_its_request_and_seed_only(cascade, params):
    requests = [request(i, k=i % 3) for i in range(4)]
    together = cascade(requests)
    np.testing.assert_array_equal(cascade(requests[::-1])[::-1], together)
    np.testing.assert_array_equal(cascade(requests[2:3])[0], together[2])
    assert np.any(Cascade(stages(params, seed=1))(requests[2:3])[0] != together[2])


def test_stages_draw_from_noise_of_their_own(params):
    """From the same image and the same key, two numbers of the image give two results at the second stage too."""
    middle = stages(params)[1]
    image = np.zeros((16, 16, 3), np.uint8)
    one, two = (dataclasses.replace(request(0), index=i, low_res=image) for i in (0, 1))
    drawn = middle([one, two])
    assert np.any(drawn[0] != drawn[1])


def test_every_stage_sees_the_neighbours_at_its_own_resolution(params):
    base, middle, last = stages(params)
    asked = request(0)
    for stage, side in ((base, 16), (middle, 32)):
        low_res = None if stage is base else np.zeros((16, 16, 3), np.uint8)
        neighbours = stage._arrays([dataclasses.replace(asked, low_res=low_res)])[1]
        expected = [images.decode(hit.encoded, side) for hit in asked.neighbours]
        np.testing.assert_array_equal(neighbours[0], np.stack(expected))
    seen = last._arrays([dataclasses.replace(asked, neighbours=(), low_res=np.zeros((32, 32, 3), np.uint8))])[1]
    assert seen.shape[1] == 0


def test_a_neighbour_without_its_file_has_one_resolution():
    hit = Neighbour(np.zeros((16, 16, 3), np.uint8), "a", 1.0, "some key")
    assert hit.at(16) is hit.image and hit.side == 16
    with pytest.raises(UserError, match="some key is at hand at 16 pixels only, not 32"):
        hit.at(32)
    assert neighbour(0).side == 64


def test_weights_may_lie_in_the_hosts_memory(params):
    import jax

    on_host = [jax.device_get(p) for p in params]
    requests = [request(0)]
    np.testing.assert_array_equal(Cascade(stages(on_host))(requests), Cascade(stages(params))(requests))


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
def test_stages_that_do_not_chain_are_refused(params, order, said):
    with pytest.raises(UserError, match=said):
        Cascade([stages(params)[i] for i in order])


def test_stages_of_different_seeds_are_refused(params):
    with pytest.raises(UserError, match="one seed"):
        Cascade([stages(params)[0], stages(params, seed=1)[1]])


def test_images_that_a_stage_cannot_enlarge_are_refused(params):
    base, middle, _ = stages(params)
    with pytest.raises(UserError, match="takes no low-resolution image"):
        base([dataclasses.replace(request(0), low_res=np.zeros((8, 8, 3), np.uint8))])
    with pytest.raises(UserError, match="none is given"):
        middle([request(0)])
    with pytest.raises(UserError, match="16 x 16 pixels, not 8 x 8"):
        middle([dataclasses.replace(request(0), low_res=np.zeros((8, 8, 3), np.uint8))])
    sampler = dataclasses.replace(TINY_SR.sampler, aug_level=0.9)
    narrow = dataclasses.replace(TINY_SR.super_resolution, aug_levels=(0.0, 0.5))
    with pytest.raises(UserError, match=r"aug_level 0\.9 is outside"):
        Generator(dataclasses.replace(TINY_SR, super_resolution=narrow), None, sampler, max_neighbours=0)
