"""Codes of images: what they give back, and what is drawn between and around them."""

from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest

from reimagen_jax.errors import UserError
from reimagen_jax.inference.codes import Coded, Components, Decoder, blends, compositions, differences, variations
from reimagen_jax.inference.codes import given_back as rms_of
from reimagen_jax.inference.model import Model
from tests.samples import picture
from tests.systems.test_unclip import random_params
from tests.tiny import TINY
from tests.unclip import DECODER

SIDE = DECODER.system.resolution


@pytest.fixture(scope="module")
def decoder():
    return Decoder(Model(Path("tiny"), DECODER, random_params(DECODER), None), steps=60, batch_size=8)


def smooth(seed, side=SIDE):
    return np.asarray(picture(seed, (side, side)))


def draw(decoder, requests):
    return decoder.stage(8).draw(requests, decoder.seed)


def rms(a, b):
    return float(np.sqrt(np.mean((a.astype(float) - b) ** 2)) / 255)


@pytest.fixture(scope="module")
def codes(decoder):
    return decoder.codes([smooth(0), smooth(1, 21)])


def test_a_code_gives_its_image_back_until_there_is_noise_on_the_way(decoder, codes):
    first, second = codes
    shares = (0.0, 0.0, 0.3, 1.0, 1.0)
    asked = [
        Coded(index=i, start=code.vector, noise=code.noise, stochasticity=share)
        for i, (code, share) in enumerate(zip((first, second, first, first, first), shares, strict=True))
    ]
    drawn = draw(decoder, asked)
    assert rms(drawn[0], first.image) < 0.01
    small = Coded(start=second.vector, image=None)  # of 21 pixels: given back at the decoder's own
    assert small.noise is None and drawn[1].shape == (SIDE, SIDE, 3)
    far = [rms(image, first.image) for image in drawn[[0, 2, 3]]]
    assert far[0] < far[1] < far[2]
    assert rms(drawn[3], drawn[4]) > 0.01  # by the index's noise


def test_without_a_noise_it_is_that_of_seed_and_index(decoder, codes):
    asked = [Coded(index=i, start=codes[0].vector) for i in (3, 4, 3)]
    drawn = draw(decoder, asked)
    np.testing.assert_array_equal(drawn[0], drawn[2])
    assert rms(drawn[0], drawn[1]) > 0.01


def test_variations_are_rows_of_stochasticity_that_begin_with_what_is_given_back(decoder):
    plan = variations(decoder, smooth(0), (0.5, 1.0), num_images=2)
    assert [row.prompt.text for row in plan.rows] == ["stochasticity 0.5", "stochasticity 1"]
    for row, share in zip(plan.rows, (0.5, 1.0), strict=True):
        assert [request.stochasticity for request in row.requests] == [0.0, share, share]
        assert list(row.shown) == ["image", "given back", "variation 1", "variation 2"]
        np.testing.assert_array_equal(row.requests[1].noise, row.requests[0].noise)
        assert row.requests[1].told == {"stochasticity": share}
    drawn = draw(decoder, plan.requests)
    assert rms_of(plan, drawn) == rms(drawn[0], smooth(0)) < 0.01


def test_a_blend_begins_and_ends_with_its_images(decoder, codes):
    plan = blends(decoder, codes[0].image, codes[1].image, frames=3)
    requests = plan.rows[0].requests
    for request, code in ((requests[0], codes[0]), (requests[-1], codes[1])):
        np.testing.assert_allclose(request.start, code.vector, atol=1e-5)
        np.testing.assert_allclose(request.noise, code.noise, atol=1e-4)
    assert {request.index for request in requests} == {0} and requests[1].told["share"] == 0.5
    np.testing.assert_allclose(np.linalg.norm(requests[1].start), 1.0, atol=1e-5)


def test_a_fixed_noise_stays_along_each_way(decoder, codes):
    plan = blends(decoder, codes[0].image, codes[1].image, frames=3, noise="fixed", num_images=2)
    for number, row in enumerate(plan.rows):
        assert all(request.noise is None and request.index == number for request in row.requests)


def test_a_difference_of_texts_leads_from_the_image_to_it(decoder, codes):
    image, (code, _) = codes[0].image, codes
    plan = differences(decoder, image, "a dog", "a cat", most=1.0, frames=3)
    requests, vectors = plan.rows[0].requests, decoder.texts(["a dog", "a cat"])
    np.testing.assert_allclose(requests[0].start, code.vector, atol=1e-5)
    difference = vectors[0] - vectors[1]
    np.testing.assert_allclose(requests[-1].start, difference / np.linalg.norm(difference), atol=1e-4)
    assert all(np.array_equal(request.noise, requests[0].noise) for request in requests)
    alone = differences(decoder, image, "a dog", most=1.0, frames=2)
    np.testing.assert_allclose(alone.rows[0].requests[-1].start, vectors[0], atol=1e-5)


def test_components_tell_more_and_more_of_an_embedding():
    rng = np.random.default_rng(0)
    vectors = (rng.standard_normal((50, 4)) * [4, 2, 1, 0.5]) @ rng.standard_normal((4, 6))
    components = Components.of(vectors, unit=False)
    assert components.number == 6
    errors = [np.linalg.norm(components.kept(vectors[0], d) - vectors[0]) for d in range(7)]
    assert all(after <= before + 1e-6 for before, after in pairwise(errors))
    assert errors[4] < 1e-5 < errors[3] and components.explained(4) > 0.999 > components.explained(1)
    np.testing.assert_allclose(components.kept(vectors[0], 0), vectors.mean(axis=0), rtol=1e-5)
    unit = Components.of(vectors, unit=True)
    np.testing.assert_allclose(np.linalg.norm(unit.kept(vectors[0], 2)), 1.0, rtol=1e-5)


def test_compositions_go_on_to_the_whole_embedding_from_one_noise(decoder, codes):
    components = Components.of(decoder.images([smooth(i) for i in range(8)]), unit=True)
    plan = compositions(decoder, {"a": codes[0].image}, components)
    (row,) = plan.rows
    assert [request.told.get("dims") for request in row.requests] == [0, 1, 2, 4, 7, None]
    np.testing.assert_allclose(row.requests[-1].start, codes[0].vector, atol=1e-5)
    np.testing.assert_allclose(row.requests[0].start, components.kept(codes[0].vector, 0), atol=1e-5)
    assert all(request.noise is None and request.index == 0 for request in row.requests)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda d: variations(d, smooth(0), ()), "at least one, above 0"),
        (lambda d: variations(d, smooth(0), (0.0,)), "varies nothing"),
        (lambda d: variations(d, smooth(0), (1.5,)), "at most 1"),
        (lambda d: variations(d, smooth(0), num_images=0), "at least 1"),
        (lambda d: blends(d, smooth(0), smooth(1), frames=1), "2 at least"),
        (lambda d: blends(d, smooth(0), smooth(1), num_images=2), "one way only"),
        (lambda d: differences(d, smooth(0), " "), "to is empty"),
        (lambda d: differences(d, smooth(0), "a", "a"), "the same"),
        (lambda d: differences(d, smooth(0), "a", most=0.0), "stay as it is"),
        (lambda d: Components.of(np.ones((1, 4)), True), "more records"),
        (lambda d: compositions(d, {"a": smooth(0)}, Components.of(np.eye(4), True), (9,)), "3 principal components"),
        (lambda d: replace(d, model=Model(Path("x"), TINY, {}, None)), "x is a reimagen: give a decoder of unCLIP"),
    ],
)
def test_bad_input_is_refused(decoder, call, message):
    with pytest.raises(UserError, match=message):
        call(decoder)
