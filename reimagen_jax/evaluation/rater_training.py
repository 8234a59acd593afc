"""Training the rater: renders of independent looks and scenes, made as they are needed and never seen twice.

    loss = CE(category) + sum_p CE(v_p of the true category) + sum_a CE(scene attribute a)          (1)
Half of the renders are softened: generated images are, slightly, and the rater should read them as a person does. Pose
and light vary somewhat more than in the world, since a model's images do.
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
from reimagen_jax.evaluation.rater_net import SCENE_NAMES, Logits, RaterConfig, RaterNet, of_category


@dataclass(frozen=True)
class Softening:
    """How far renders are softened, each by amounts of its own."""

    share: float = 0.5
    """Of the renders that are blurred, and (independently) that are noised."""
    blur: float = 0.7
    """At most so much of an image is replaced by its average over 3 x 3 pixels (binomial weights)."""
    noise: float = 0.04
    """Largest standard deviation of the noise, in [0, 1]."""


@dataclass(frozen=True)
class RaterTraining:
    """How a rater is trained."""

    num_steps: int = 4000
    batch_size: int = 64
    learning_rate: float = 2e-3
    warmup: float = 0.03
    """Share of the steps in which the learning rate rises."""
    jitter: float = 1.4
    """Largest factor on the world's jitter of pose and light; drawn in [1, jitter] for each image."""
    seed: int = 0
    softening: Softening = field(default_factory=Softening)

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
    """Fresh looks, scenes and their images, softened and rounded to 8 bits."""
    key_look, key_scene, key_jitter, key_soften = jax.random.split(key, 4)
    B = training.batch_size
    looks, scenes = sample_looks(key_look, B), sample_scenes(key_scene, B)
    factor_B1 = jax.random.uniform(key_jitter, (B, 1), minval=1.0, maxval=training.jitter)
    scenes = replace(scenes, jitter=scenes.jitter * factor_B1)
    images = jax.vmap(lambda look, scene: render(look, scene, resolution))(looks, scenes)
    return looks, scenes, jnp.round(soften(key_soften, images, training.softening) * 255.0) / 255.0


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
