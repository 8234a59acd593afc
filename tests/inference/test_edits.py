"""Edits by a whole stage, and by a cascade: one program for strengths, masks and weights; what is kept is kept."""

import dataclasses
from itertools import pairwise

import numpy as np
import PIL.Image
import pytest

from reimagen_jax.errors import UserError
from reimagen_jax.inference import edits
from reimagen_jax.inference.pipeline import Pipeline, Stage
from reimagen_jax.inference.prompts import Prompt
from reimagen_jax.systems.request import Edit, Neighbour
from tests.inference.test_stage import request
from tests.samples import picture
from tests.tiny import TINY, TINY_SR, random_params

IMAGE = np.asarray(picture(3, (40, 40)))
SMALL = Edit(IMAGE).image_at(16)
HALF = np.zeros((16, 16), np.uint8)
HALF[:, 8:] = 255


@pytest.fixture(scope="module")
def params():
    return random_params(TINY)


@pytest.fixture(scope="module")
def stage(params):
    return stage_of(params)


def stage_of(params, **settings) -> Stage:
    return Stage(TINY, params, dataclasses.replace(TINY.system.sampler, num_steps=4, **settings), batch_size=4)


def edited(index=0, **edit):
    return dataclasses.replace(request(0), index=index, edit=Edit(**{"image": IMAGE, **edit}))


def neighbours(*seeds):
    return tuple(Neighbour(np.asarray(picture(seed, (16, 16))), f"n{seed}", float("nan"), str(seed)) for seed in seeds)


def test_strengths_and_masks_are_traced_and_nearer_to_the_image_the_lower(stage):
    drawn = stage.draw([edited(strength=strength) for strength in (1.0, 0.75, 0.5, 0.25)])
    distance = np.abs(drawn.astype(float) - SMALL).mean(axis=(1, 2, 3))
    assert np.all(np.diff(distance) < 0) and distance[-1] > 0
    masked = stage.draw([edited(mask=HALF), edited(mask=255 - HALF), edited(mask=HALF // 2), request(0)])
    assert stage.compilations == 1
    np.testing.assert_array_equal(masked[3], drawn[0], "drawn anew, whatever the image")
    alone = stage.draw([edited(strength=0.5)])
    np.testing.assert_array_equal(alone[0], drawn[2], "whatever is beside it")


@pytest.mark.parametrize("settings", [{}, {"solver": "unipc"}, {"solver": "ddpm", "repeats": 2, "jump": 1}], ids=str)
def test_what_is_black_in_the_mask_is_kept_byte_for_byte(params, settings):
    drawn = stage_of(params, **settings).draw([edited(mask=HALF), edited(1, mask=HALF // 2)])
    for image in drawn:
        np.testing.assert_array_equal(image[:, :8], SMALL[:, :8])
        assert np.any(image[:, 8:] != SMALL[:, 8:])


def test_an_image_drawn_anew_is_that_of_sampling(stage, params):
    plain = stage_of(params).draw([request(0)])
    assert np.abs(stage.draw([edited()])[0].astype(int) - plain[0]).max() <= 1


def test_weights_are_traced_and_of_one_neighbour_alone_it_is_that_one(stage):
    hits = neighbours(1, 2)
    rows = [(1.0, 0.0), (0.5, 0.5), (0.25, 0.75), (0.0, 1.0)]
    asked = [dataclasses.replace(request(0), neighbours=edits.weighed(hits, row)) for row in rows]
    before = stage.compilations
    drawn = stage.draw(asked)
    assert stage.compilations == before + 1 and all(np.any(a != b) for a, b in pairwise(drawn))
    plain = [dataclasses.replace(request(0), neighbours=each) for each in (hits[:1], hits, hits[1:])]
    for weighed, own in zip(drawn[[0, 1, 3]], stage.draw(plain), strict=True):
        assert np.abs(weighed.astype(int) - own).max() <= 1


def test_what_is_kept_is_kept_at_each_stage_s_resolution(params):
    pipeline = Pipeline([stage_of(params), Stage(TINY_SR, random_params(TINY_SR), batch_size=4)])
    base, large = pipeline.draw([edited(mask=HALF, strength=0.5)])
    np.testing.assert_array_equal(base[0, :, :8], SMALL[:, :8])
    np.testing.assert_array_equal(large[0, :, :16], Edit(IMAGE).image_at(32)[:, :16])
    _, small = pipeline.draw([edited(image=SMALL, mask=HALF, strength=0.5)])
    assert np.any(small[0, :, :16] != Edit(SMALL).image_at(32)[:, :16]), "16 pixels are no original for 32"


def test_masks_of_any_size_keep_what_is_wholly_black():
    dot = np.zeros((100, 100), np.uint8)
    dot[50, 50] = 255
    assert (Edit(IMAGE, dot).mask_at(16) == 255).sum() == 1, "a single white pixel is not lost"
    for size in (1, 3, 16, 24, 100):
        mask = np.random.default_rng(size).choice(np.uint8([0, 255]), (size, size))
        shrunk = Edit(IMAGE, mask).mask_at(8)
        assert shrunk.shape == (8, 8) and set(np.unique(shrunk)) <= {0, 255}
        black = (
            np.asarray(PIL.Image.fromarray(mask).resize((8 * size,) * 2, 0)).reshape(8, size, 8, size).max(axis=(1, 3))
        )
        np.testing.assert_array_equal(shrunk, black)


def test_variations_are_drawn_on_the_first_and_a_swap_from_the_same_noise(stage):
    prompts = [Prompt("a cat", neighbours(1)), Prompt("a dog", neighbours(2))]
    plan = edits.variations(prompts, strength=0.5, num_images=2)
    requests, (drawn,) = plan.drawn(Pipeline([stage]).draw)
    assert [each.index for each in requests] == list(range(6)) and drawn.shape == (6, 16, 16, 3)
    np.testing.assert_array_equal(drawn[[0, 3]], stage.draw([row.requests[0] for row in plan.rows]))
    for number, first in ((1, 0), (2, 0), (4, 3), (5, 3)):
        np.testing.assert_array_equal(requests[number].edit.image, drawn[first])
        assert np.any(drawn[number] != drawn[first])
    swap = edits.swapping(prompts[:1], prompts[1:], num_images=2)
    assert [each.index for each in swap.requests] == [0, 0, 1, 1]
    _, (drawn,) = swap.drawn(Pipeline([stage]).draw)
    np.testing.assert_array_equal(drawn[1], stage.draw([prompts[1].request(0)])[0])
    (other,) = edits.swapping(prompts[:1], prompts[1:], strength=0.5).drawn(Pipeline([stage]).draw)[1]
    assert np.any(other[1] != drawn[1])


def test_each_image_without_neighbours_stands_behind_it(stage):
    prompts = [Prompt("a cat", neighbours(1)), Prompt("a dog")]
    plan = edits.with_baselines(edits.image_to_image(prompts, IMAGE, strength=0.5, num_images=2))
    assert [len(request.neighbours) for request in plan.requests] == [1, 0, 1, 0, 0, 0, 0, 0], "rows of equal length"
    assert list(plan.rows[0].shown)[2:4] == ["after 1", "after 1, without neighbours"]
    _, (drawn,) = plan.drawn(Pipeline([stage]).draw)
    bare = edits.image_to_image([Prompt("a cat")], IMAGE, strength=0.5, num_images=2)
    np.testing.assert_array_equal(drawn[[1, 3]], bare.drawn(Pipeline([stage]).draw)[1][0])
    plan = edits.with_baselines(edits.variations(prompts[:1], strength=0.5, num_images=1))
    requests, (drawn,) = plan.drawn(Pipeline([stage]).draw)
    assert [(each.index, each.edit is None) for each in requests] == [(0, True), (0, True), (1, False), (1, False)]
    for other in requests[2:]:
        np.testing.assert_array_equal(other.edit.image, drawn[0])
    swap = edits.swapping(prompts[:1], [Prompt("a cat", neighbours(2))], num_images=2)
    once = edits.with_baselines(swap).rows[1]
    assert [len(request.neighbours) for request in once.requests] == [1, 0, 1], "it is the same for both"
    assert dict(once.without) == {0: 1, 2: 1} and once.shown["swapped"] == 2
    on_first = edits.with_baselines(dataclasses.replace(swap, again=0.5))
    assert dict(on_first.rows[0].without) == {0: 1, 2: 3} and on_first.fresh == 2
    nothing = edits.image_to_image(prompts[1:], IMAGE, strength=0.5)
    assert edits.with_baselines(nothing).rows[0].requests == nothing.rows[0].requests


def test_outpainting_places_the_image_on_the_grid():
    plan = edits.outpainting([Prompt("a")], IMAGE, [16, 32], scale=0.5, at=(0.0, 1.0))
    assert plan.edit.image.shape == (32, 32, 3)
    for resolution, side in ((16, 8), (32, 16)):
        kept = plan.edit.mask_at(resolution) == 0
        assert kept[-side:, :side].all() and kept.sum() == side**2
        np.testing.assert_array_equal(
            plan.edit.image_at(resolution)[-side:, :side], Edit(Edit(IMAGE).image_at(16)).image_at(side)
        )


@pytest.mark.parametrize(
    ("ask", "said"),
    [
        (lambda: edits.inpainting([], IMAGE, np.zeros((4, 4), np.uint8)), "mask is black"),
        (lambda: edits.inpainting([], IMAGE, np.full((4, 4), 255, np.uint8)), "mask is white"),
        (lambda: edits.image_to_image([], IMAGE, strength=0.0), "strength is 0.0: more than 0"),
        (lambda: edits.image_to_image([], IMAGE, strength=1.1), r"strength is 1\.1: at most 1"),
        (lambda: edits.outpainting([], IMAGE, [16], scale=1.0), "nothing would be drawn"),
        (lambda: edits.outpainting([], IMAGE, [16], scale=0.01), "nothing of the image would be kept"),
        (lambda: edits.interpolation([Prompt("a", neighbours(1))]), "has 1 neighbours, of which 2"),
        (lambda: edits.interpolation([Prompt("a", neighbours(1, 2))], frames=1), "2 at least"),
        (lambda: edits.interpolation([Prompt("a", neighbours(1))], [(-1.0,)]), "weights"),
        (lambda: edits.swapping([Prompt("a")], [Prompt("b")]), "nothing to swap to"),
        (lambda: edits.variations([], strength=2.0), "strength"),
    ],
)
def test_plans_of_nothing_are_refused(ask, said):
    with pytest.raises(UserError, match=said):
        ask()


def test_edits_that_a_stage_cannot_do_are_refused(stage):
    weights = dataclasses.replace(request(0), neighbours=edits.weighed(neighbours(1, 2), (0.0, 0.0)))
    negative = dataclasses.replace(request(0), neighbours=edits.weighed(neighbours(1), (-1.0,)))
    for asked, said in (
        (edited(strength=0.2), "less than a step of 4: "),
        (edited(mask=HALF // 4), "less than a step of 4, at a mask of 25% at most"),
        (edited(mask=HALF * 0), "mask is black"),
        (edited(strength=0.0), "strength is 0.0"),
        (weights, "all neighbours have weight 0"),
        (negative, "the weight of neighbour 1 is -1.0"),
    ):
        with pytest.raises(UserError, match=said):
            stage.draw([asked])
