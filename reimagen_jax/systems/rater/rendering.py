"""The renders that a rater learns from: independent looks and scenes, made as they are needed and never seen twice.

Half of the renders are softened: generated images are, slightly, and the rater should read them as a person does. Pose
and light vary somewhat more than in the world, since a model's images do.
"""

from dataclasses import replace

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, Key

from reimagen_jax.data.entityworld import Scene, render, sample_looks, sample_scenes
from reimagen_jax.systems.rater.settings import RaterSystemConfig, Softening


def draw_batch(
    key: Key[Array, ""], index_B: Int[Array, " b"], number: int, settings: RaterSystemConfig
) -> tuple[Int[Array, "b l"], Scene, Float[Array, "b r r 3"]]:
    """Fresh looks, scenes and their images, softened and rounded to 8 bits: of `number` of them, those of `index_B`.

    What is drawn of all is small; where the index is split over devices, each renders its own part.
    """
    key_look, key_scene, key_jitter, key_soften = jax.random.split(key, 4)
    looks, scenes = sample_looks(key_look, number), sample_scenes(key_scene, number)
    factor_N1 = jax.random.uniform(key_jitter, (number, 1), minval=1.0, maxval=settings.jitter)
    scenes = replace(scenes, jitter=scenes.jitter * factor_N1)
    looks, scenes = jax.tree.map(lambda leaf: leaf[index_B], (looks, scenes))
    resolution = settings.network.resolution
    images = jax.vmap(lambda look, scene: render(look, scene, resolution))(looks, scenes)
    return looks, scenes, jnp.round(soften(key_soften, images, settings.softening) * 255.0) / 255.0


def soften(key: Key[Array, ""], image_BHWC: Float[Array, "b h w c"], softening: Softening) -> Float[Array, "b h w c"]:
    """Blurs and noises a share of the images, each by an amount of its own; stays in [0, 1]."""
    shape = (image_BHWC.shape[0], 1, 1, 1)
    key_which, key_blur, key_level, key_noise = jax.random.split(key, 4)
    blurred, noised = jax.random.bernoulli(key_which, softening.share, (2, *shape))
    blur = jnp.where(blurred, jax.random.uniform(key_blur, shape, maxval=softening.blur), 0.0)
    level = jnp.where(noised, jax.random.uniform(key_level, shape, maxval=softening.noise), 0.0)
    image_BHWC = image_BHWC + blur * (average(image_BHWC) - image_BHWC)
    return jnp.clip(image_BHWC + level * jax.random.normal(key_noise, image_BHWC.shape), 0.0, 1.0)


def average(image_BHWC: Float[Array, "b h w c"]) -> Float[Array, "b h w c"]:
    """Every pixel averaged with its neighbours, weights (1 2 1) / 4 in both directions; edges repeat."""
    x = jnp.pad(image_BHWC, ((0, 0), (1, 1), (1, 1), (0, 0)), mode="edge")
    x = (x[:, :, :-2] + 2.0 * x[:, :, 1:-1] + x[:, :, 2:]) / 4.0
    return (x[:, :-2] + 2.0 * x[:, 1:-1] + x[:, 2:]) / 4.0
