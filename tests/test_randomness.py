"""Random numbers are of (seed, index, step), whatever generator the environment names."""

import ast
import dataclasses
import os
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import pytest

import reimagen_jax
from reimagen_jax import randomness
from reimagen_jax.diffusion.sampler import image_keys, initial_noise
from reimagen_jax.inference.pipeline import Stage
from reimagen_jax.systems.request import Request
from reimagen_jax.training.loop import train
from tests.tiny import TINY, TINY_SR, random_params
from tests.training.tiny_system import Regression, dataset, experiment

PACKAGE = Path(reimagen_jax.__file__).parent
MAKERS = ("key", "PRNGKey", "wrap_key_data", "default_prng_impl")


def test_keys_begin_in_one_place():
    """No module but `randomness` makes a key out of a seed, under whatever name it imports jax.random."""
    made = []
    for path in sorted(PACKAGE.rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            by_attribute = isinstance(node, ast.Attribute) and node.attr in MAKERS
            by_attribute = by_attribute and ast.unparse(node.value) in ("jax.random", "random", "jrandom", "jr", "jax")
            by_name = isinstance(node, ast.ImportFrom) and (node.module or "").startswith("jax.random")
            if by_attribute or by_name:
                made.append(path.relative_to(PACKAGE).as_posix())
    assert made == ["randomness.py"]


@pytest.mark.parametrize("implementation", ["rbg", "unsafe_rbg"])
def test_an_image_depends_on_its_seed_and_index_under_any_default_generator(implementation):
    def drawn(indices):
        return np.asarray(initial_noise(image_keys(7, indices), (4, 4, 3)))

    expected = drawn([0, 1, 2])
    with jax.default_prng_impl(implementation):
        np.testing.assert_array_equal(drawn([0, 1, 2]), expected)
        np.testing.assert_array_equal(drawn([2, 0]), expected[[2, 0]])


def test_the_environment_does_not_choose_the_numbers():
    program = (
        "from reimagen_jax.diffusion.sampler import image_keys, initial_noise\n"
        "print(initial_noise(image_keys(2**32 - 1, [5]), (3,)).tolist())"
    )
    settings = {"JAX_DEFAULT_PRNG_IMPL": "rbg", "JAX_THREEFRY_PARTITIONABLE": "0", "JAX_PLATFORMS": "cpu"}
    shown = subprocess.run(
        [sys.executable, "-c", program], env={**os.environ, **settings}, capture_output=True, text=True, check=True
    )
    assert shown.stdout.strip() == str(initial_noise(image_keys(2**32 - 1, [5]), (3,)).tolist())


@pytest.mark.parametrize("config", [TINY, TINY_SR], ids=["base", "stage"])
@pytest.mark.parametrize(
    "setting",
    [
        lambda: jax.enable_x64(True),
        lambda: jax.default_matmul_precision("bfloat16"),
        lambda: jax.threefry_partitionable(False),
        lambda: jax.default_prng_impl("rbg"),
        lambda: jax.numpy_rank_promotion("warn"),
    ],
    ids=["x64", "matmul precision", "partitionable", "generator", "rank promotion"],
)
def test_images_are_the_same_under_any_settings_of_jax(config, setting):
    """Compiled anew under each: ancestral noise, a plan at random, dynamic thresholding."""
    sampler = dataclasses.replace(config.system.sampler, solver="ddpm", thresholding="dynamic", num_steps=2)
    start = None if config is TINY else np.full((16, 16, 3), 100, np.uint8)
    requests = [Request(f"prompt {i}", index=i, start=start, negative="ink") for i in range(2)]
    params = random_params(config)

    def drawn():
        return Stage(config, params, sampler, batch_size=2).draw(requests, seed=7)

    expected = drawn()
    with setting():
        np.testing.assert_array_equal(drawn(), expected)


def test_a_run_goes_on_with_the_same_numbers_under_another_default_generator(tmp_path):
    def ended(folder):
        return train(experiment(num_steps=4, checkpoint_every=2), tmp_path / folder, Regression(), dataset())

    expected = ended("undisturbed").state
    train(experiment(num_steps=2, checkpoint_every=2), tmp_path / "resumed", Regression(), dataset())
    with jax.default_prng_impl("rbg"):
        state = ended("resumed").state
    jax.tree.map(np.testing.assert_array_equal, state.ema, expected.ema)


def test_random_parameters_are_the_same_under_another_default_generator():
    from reimagen_jax.systems.reimagen.system import ReImagen

    expected = jax.jit(ReImagen(TINY).init)(randomness.key(3))
    with jax.default_prng_impl("rbg"):
        jax.tree.map(np.testing.assert_array_equal, jax.jit(ReImagen(TINY).init)(randomness.key(3)), expected)


def test_all_seeds_that_are_taken_make_different_keys():
    seeds = [0, 1, 2**31 - 1, 2**31, 2**32 - 1]
    assert len({jax.random.key_data(randomness.key(seed)).tobytes() for seed in seeds}) == len(seeds)
