"""The generator: one program for everything, and images that do not depend on their company."""

import dataclasses

import jax
import numpy as np
import pytest

from reimagen_jax.errors import UserError
from reimagen_jax.inference.generator import Generator, open_weights
from reimagen_jax.inference.requests import Neighbour, Request
from reimagen_jax.pretrained.weights import save_weights
from reimagen_jax.systems.reimagen import ReImagen
from tests.tiny import TINY


@pytest.fixture(scope="module")
def params():
    """Random weights, away from the zeros that training starts with, so that every input matters."""
    params = jax.jit(ReImagen(TINY).init)(jax.random.key(0))
    keys = jax.random.split(jax.random.key(1), len(jax.tree.leaves(params)))
    keys = jax.tree.unflatten(jax.tree.structure(params), list(keys))
    return jax.tree.map(lambda p, k: p + 0.1 * jax.random.normal(k, p.shape), params, keys)


def neighbour(seed: int) -> Neighbour:
    image = np.random.default_rng(seed).integers(0, 256, (16, 16, 3), dtype=np.uint8)
    return Neighbour(image, f"neighbour {seed}", 1.0, str(seed))


def request(index: int, eta: float = 0.5, k: int = 2, weight: float = 2.0) -> Request:
    return Request(f"prompt {index}", tuple(neighbour(10 * index + j) for j in range(k)), eta, weight, weight, index)


def test_an_eta_sweep_over_11_values_compiles_once(params):
    generator = Generator(TINY, params, max_neighbours=2, batch_size=4)
    sweep = [request(i, eta) for eta in np.linspace(0, 1, 11) for i in range(2)]
    images = generator(sweep)
    generator([request(i, k=k, weight=w) for i in range(3) for k in (0, 1, 2) for w in (1.0, 4.0)])
    assert images.shape == (22, 16, 16, 3) and images.dtype == np.uint8
    assert generator.compilations == 1


def test_an_image_depends_on_its_request_and_seed_only(params):
    generator = Generator(TINY, params, max_neighbours=2, batch_size=4)
    requests = [request(i, k=i % 3) for i in range(6)]
    together = generator(requests)
    np.testing.assert_array_equal(generator(requests[4:5])[0], together[4])
    np.testing.assert_array_equal(generator(requests[::-1])[::-1], together)
    other = Generator(TINY, params, max_neighbours=2, batch_size=4, seed=1)
    assert np.any(other(requests[4:5])[0] != together[4])


def test_every_part_of_a_request_matters(params):
    generator = Generator(TINY, params, max_neighbours=2, batch_size=8)
    base = request(1)
    variants = [
        base,
        dataclasses.replace(base, prompt="something else entirely"),
        dataclasses.replace(base, neighbours=base.neighbours[:1]),
        dataclasses.replace(base, neighbours=()),
        dataclasses.replace(base, eta=0.0),
        dataclasses.replace(base, index=2),
        dataclasses.replace(base, neighbour_weight=5.0, text_weight=5.0),
    ]
    images = generator(variants)
    for i in range(1, len(variants)):
        assert np.any(images[0] != images[i]), variants[i]


def test_a_baseline_without_neighbours_equals_masked_ones(params):
    masked = Generator(TINY, params, max_neighbours=2, batch_size=2)([request(0, k=0)])
    imagen = Generator(TINY, params, max_neighbours=0, batch_size=2)([request(0, k=0)])
    assert np.abs(masked.astype(int) - imagen.astype(int)).max() <= 1


def test_too_many_neighbours_and_no_weights_are_refused(params, tmp_path):
    with pytest.raises(UserError, match="at most 1"):
        Generator(TINY, params, max_neighbours=1)([request(0, k=2)])
    with pytest.raises(UserError, match="not found"):
        open_weights(tmp_path / "nothing")


def test_saved_weights_draw_the_same_image(params, tmp_path):
    save_weights(tmp_path, TINY, params)
    again = Generator.open(tmp_path, max_neighbours=2, batch_size=2)
    np.testing.assert_array_equal(
        again([request(0)]), Generator(TINY, params, max_neighbours=2, batch_size=2)([request(0)])
    )
    assert again([]).shape == (0, 16, 16, 3)
