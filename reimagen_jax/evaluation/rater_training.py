"""Training the rater: renders of independent looks and scenes, made as they are needed and never seen twice.

    loss = CE(category) + sum_p CE(v_p of the true category) + sum_a CE(scene attribute a)          (1)
Generated images are imperfect in ways that renders are not, and the rater should read them as a person does: shapes
are a little off, edges soft, colours blotched and noisy. So renders are distorted in these ways, each with probability
1/2 and by an amount of its own; and pose and light vary somewhat more than in the world.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float, Int, Key

from reimagen_jax.config import require
from reimagen_jax.data.entityworld import Scene, render, sample_looks, sample_scenes
from reimagen_jax.evaluation.rater_net import SCENE_NAMES, Logits, RaterConfig, RaterNet, of_category, resampling

WARP_GRID, BLOTCH_GRID = 5, 8
"""Points along a side at which smooth distortions are drawn."""


@dataclass(frozen=True)
class Distortion:
    """How far renders are distorted; amounts are drawn uniformly from 0 to the largest given here."""

    share: float = 0.5
    """Of the renders, for each kind of distortion independently."""
    warp: float = 0.02
    """Standard deviation of the displacement of points of the image, of its side; it varies smoothly."""
    blur: float = 1.0
    """So much of an image is replaced by its average over 3 x 3 pixels (binomial weights)."""
    blotches: float = 0.08
    """Standard deviation of the smoothly varying change of colour, in [0, 1]."""
    noise: float = 0.06
    """Standard deviation of the change of colour of single pixels."""


@dataclass(frozen=True)
class RaterTraining:
    """How a rater is trained."""

    num_steps: int = 5000
    batch_size: int = 64
    learning_rate: float = 2e-3
    warmup: float = 0.03
    """Share of the steps in which the learning rate rises."""
    jitter: float = 1.4
    """Largest factor on the world's jitter of pose and light; drawn in [1, jitter] for each image."""
    seed: int = 0
    distortion: Distortion = field(default_factory=Distortion)

    def __post_init__(self) -> None:
        for name in ("num_steps", "batch_size"):
            require(getattr(self, name) > 0, f"{name} is {getattr(self, name)}: at least 1 is needed")


def train(config: RaterConfig, training: RaterTraining) -> Iterator[tuple[Any, float]]:
    """Yields (parameters, loss) after every step; the last are the trained rater's."""
    net = RaterNet(config)
    key_init, key_data = jax.random.split(jax.random.key(training.seed))
    params = jax.jit(net.init)(key_init, jnp.zeros((1, config.resolution, config.resolution, 3)))["params"]
    optimizer = make_optimizer(training)
    step = jax.jit(make_step(net, optimizer, training))
    opt_state = optimizer.init(params)
    for i in range(training.num_steps):
        params, opt_state, loss = step(params, opt_state, jax.random.fold_in(key_data, i))
        yield params, float(loss)


def make_optimizer(training: RaterTraining) -> optax.GradientTransformation:
    """Adam, warmed up, then decaying to 0 along a cosine."""
    rising, steps = round(training.warmup * training.num_steps), training.num_steps
    rate = optax.warmup_cosine_decay_schedule(0.0, training.learning_rate, rising, steps)
    return optax.adam(rate, b2=0.99)


def make_step(net: RaterNet, optimizer: optax.GradientTransformation, training: RaterTraining) -> Callable:
    """The pure step (params, opt_state, key) -> (params, opt_state, loss); it renders its own batch."""

    def step(params: Any, opt_state: Any, key: Key[Array, ""]) -> tuple[Any, Any, Array]:
        looks, scenes, images = draw_batch(key, training, net.config.resolution)

        def batch_loss(params: Any) -> Array:
            return loss(net.apply({"params": params}, images, scenes.position, scenes.size), looks, scenes)

        value, gradient = jax.value_and_grad(batch_loss)(params)
        with jax.numpy_dtype_promotion("standard"):  # optax mixes integers and floats, which strict promotion forbids
            updates, opt_state = optimizer.update(gradient, opt_state, params)
        return optax.apply_updates(params, updates), opt_state, value

    return step


def loss(logits: Logits, looks: Int[Array, "b l"], scenes: Scene) -> Float[Array, ""]:
    """(1), mean over the batch."""
    cross_entropy = optax.softmax_cross_entropy_with_integer_labels
    category_B = looks[:, 0]
    scene_BA = jnp.stack([getattr(scenes, name) for name in SCENE_NAMES], axis=1)
    return (
        cross_entropy(logits.category_BC, category_B)
        + cross_entropy(of_category(logits.look_BCPV, category_B), looks[:, 1:]).sum(axis=1)
        + cross_entropy(logits.scene_BAV, scene_BA).sum(axis=1)
    ).mean()  # (1)


def draw_batch(
    key: Key[Array, ""], training: RaterTraining, resolution: int
) -> tuple[Int[Array, "b l"], Scene, Float[Array, "b r r 3"]]:
    """Fresh looks, scenes and their images, distorted and rounded to 8 bits."""
    key_look, key_scene, key_jitter, key_distort = jax.random.split(key, 4)
    B = training.batch_size
    looks, scenes = sample_looks(key_look, B), sample_scenes(key_scene, B)
    factor_B1 = jax.random.uniform(key_jitter, (B, 1), minval=1.0, maxval=training.jitter)
    scenes = replace(scenes, jitter=scenes.jitter * factor_B1)
    images = jax.vmap(lambda look, scene: render(look, scene, resolution))(looks, scenes)
    return looks, scenes, jnp.round(distort(key_distort, images, training.distortion) * 255.0) / 255.0


def distort(
    key: Key[Array, ""], image_BHWC: Float[Array, "b h w c"], distortion: Distortion
) -> Float[Array, "b h w c"]:
    """Warps, blurs, blotches and noises a share of the images each; stays in [0, 1]."""
    B, H, W, C = image_BHWC.shape
    key_which, key_amount, key_warp, key_blotch, key_noise = jax.random.split(key, 5)
    which_4B = jax.random.bernoulli(key_which, distortion.share, (4, B))
    amount_4B = jnp.where(which_4B, jax.random.uniform(key_amount, (4, B)), 0.0)
    warp, blur, blotch, level = amount_4B[..., None, None, None]
    shift_BHW2 = distortion.warp * H * warp * smooth_noise(key_warp, (B, H, W, 2), WARP_GRID)
    x = jax.vmap(displace)(image_BHWC, shift_BHW2)
    x = x + distortion.blur * blur * (average(x) - x)
    x = x + distortion.blotches * blotch * smooth_noise(key_blotch, (B, H, W, C), BLOTCH_GRID)
    return jnp.clip(x + distortion.noise * level * jax.random.normal(key_noise, x.shape), 0.0, 1.0)


def smooth_noise(key: Key[Array, ""], shape: tuple[int, int, int, int], grid: int) -> Float[Array, "b h w c"]:
    """Normal noise on a grid x grid raster, interpolated linearly to [B, H, W, C]."""
    B, H, W, C = shape
    rows, columns = (jnp.asarray(resampling(grid, side, 0.0, 1.0)) for side in (H, W))
    return jnp.einsum("hg,bgkc,wk->bhwc", rows, jax.random.normal(key, (B, grid, grid, C)), columns)


def displace(image_HWC: Float[Array, "h w c"], shift_HW2: Float[Array, "h w 2"]) -> Float[Array, "h w c"]:
    """Takes every pixel from where `shift` (rows, columns; in pixels) points, interpolated linearly; edges repeat."""
    H, W = image_HWC.shape[:2]
    y, x = jnp.meshgrid(jnp.arange(H, dtype=jnp.float32), jnp.arange(W, dtype=jnp.float32), indexing="ij")
    y, x = jnp.clip(y + shift_HW2[..., 0], 0.0, H - 1.0), jnp.clip(x + shift_HW2[..., 1], 0.0, W - 1.0)
    top, left = jnp.floor(y), jnp.floor(x)
    down, right = (y - top)[..., None], (x - left)[..., None]
    i, j = top.astype(jnp.int32), left.astype(jnp.int32)
    below, beside = jnp.minimum(i + 1, H - 1), jnp.minimum(j + 1, W - 1)
    upper = image_HWC[i, j] * (1.0 - right) + image_HWC[i, beside] * right
    lower = image_HWC[below, j] * (1.0 - right) + image_HWC[below, beside] * right
    return upper * (1.0 - down) + lower * down


def average(image_BHWC: Float[Array, "b h w c"]) -> Float[Array, "b h w c"]:
    """Every pixel averaged with its neighbours, weights (1 2 1) / 4 in both directions; edges repeat."""
    x = jnp.pad(image_BHWC, ((0, 0), (1, 1), (1, 1), (0, 0)), mode="edge")
    x = (x[:, :, :-2] + 2.0 * x[:, :, 1:-1] + x[:, :, 2:]) / 4.0
    return (x[:, :-2] + 2.0 * x[:, 1:-1] + x[:, 2:]) / 4.0
