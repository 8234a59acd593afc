"""A second system in this house: a diffusion of points in the plane, on an inner and an outer ring. No image, no text.

It joins from outside, by the contracts of systems/base.py alone; importing this module makes its kind known.
"""

from dataclasses import dataclass, field
from typing import ClassVar, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from reimagen_jax.config import FREE, DataConfig, Experiment, SystemConfig, TrainConfig
from reimagen_jax.data.loader import make_steps
from reimagen_jax.diffusion import guidance, objective, sampler, schedule, solvers
from reimagen_jax.diffusion.settings import DiffusionConfig, SamplerConfig
from reimagen_jax.errors import require
from reimagen_jax.systems import kinds

CLASSES = ("inner", "outer")
RADII = (0.3, 0.8)


@dataclass(frozen=True)
class RingSampler(SamplerConfig):
    weight: float = 1.0
    """Of guidance by the class."""


@dataclass(frozen=True)
class RingData(DataConfig):
    examples: int = 512


@dataclass(frozen=True)
class RingConfig(SystemConfig):
    kind: ClassVar[str] = "circle"
    data: ClassVar[type[DataConfig]] = RingData

    width: int = 64
    class_drop: float = 0.2
    diffusion: DiffusionConfig = field(default_factory=DiffusionConfig)
    sampler: RingSampler = field(default_factory=RingSampler, metadata=FREE)


class Batch(NamedTuple):
    x_BD: jax.Array
    class_B: jax.Array


class Inputs(NamedTuple):
    class_B: jax.Array
    weight_B: jax.Array


class Condition(NamedTuple):
    class_B: jax.Array
    told_B: jax.Array
    """Whether the network is told the class."""


@dataclass(frozen=True)
class Ring:
    """An MLP denoiser of x, t and the class."""

    config: Experiment

    @property
    def settings(self):
        return self.config.system.sampler

    def init(self, key):
        width, keys = self.config.system.width, jax.random.split(key, 3)
        sizes = {"in": (2 + 16 + len(CLASSES), width), "hidden": (width, width), "out": (width, 2)}

        def layer(key, size):
            return {"kernel": jax.random.normal(key, size) / np.sqrt(size[0]), "bias": jnp.zeros(size[1])}

        return {name: layer(key, size) for key, (name, size) in zip(keys, sizes.items(), strict=True)}

    def denoiser(self, params):
        def denoise(x_BD, t_B, condition):
            wave = t_B[:, None] * 2.0 ** jnp.arange(8, dtype=jnp.float32)[None, :]
            told = jax.nn.one_hot(condition.class_B, len(CLASSES)) * condition.told_B[:, None].astype(jnp.float32)
            h = jnp.concatenate([x_BD, jnp.sin(wave), jnp.cos(wave), told], axis=-1)
            for name in ("in", "hidden"):
                h = jax.nn.silu(h @ params[name]["kernel"] + params[name]["bias"][None, :])
            return h @ params["out"]["kernel"] + params["out"]["bias"][None, :]

        return denoise

    def loss(self, params, batch, key, *, ema):
        """The loss, and beside it that of the average on the same noise."""
        model, (key_drop, key_loss) = self.config.system, jax.random.split(key)
        told_B = ~objective.dropped(key_drop, len(batch.class_B), model.class_drop)
        losses = (
            objective.diffusion_loss(
                self.denoiser(each), batch.x_BD, Condition(batch.class_B, told_B), key_loss, model.diffusion
            ).mean()
            for each in (params, ema)
        )
        loss, of_average = losses
        return loss, {"loss_of_average": of_average}

    def sample(self, params, inputs, keys_B, settings):
        process = self.config.system.diffusion
        start_B, _, step_B = sampler.split_keys(keys_B)
        return sampler.sample(
            self.denoiser(params),
            Condition(inputs.class_B, jnp.ones_like(inputs.class_B, dtype=bool)),
            sampler.initial_noise(start_B, (2,)),
            step_B,
            schedule.times(settings.num_steps, process, settings.spacing, settings.times),
            process,
            solvers.solver_of(settings, process),
            guidance.single(lambda c: c._replace(told_B=jnp.zeros_like(c.told_B)), inputs.weight_B),
            sampler.projection(settings),
        )

    def batch_spec(self, B):
        return Batch(jax.ShapeDtypeStruct((B, 2), jnp.float32), jax.ShapeDtypeStruct((B,), jnp.int32))

    def inputs_spec(self, B, settings):
        return Inputs(jax.ShapeDtypeStruct((B,), jnp.int32), jax.ShapeDtypeStruct((B,), jnp.float32))

    def about(self):
        return {"Points": f"in the plane, on {len(CLASSES)} rings"}


@dataclass(frozen=True)
class RingFeed:
    """Points at angles drawn at random; a prompt is a class."""

    config: Experiment

    def settled(self):
        return self

    @property
    def fingerprint(self):
        return f"{self.config.data.examples} points"

    def dataset(self, process_index=None, process_count=None):
        def draw(ids_B, rng):
            return ids_B % len(CLASSES), rng.uniform(0.0, 2.0 * np.pi, len(ids_B))

        def read(class_B, angle_B):
            x_BD = np.asarray(RADII)[class_B, None] * np.stack([np.cos(angle_B), np.sin(angle_B)], axis=1)
            return Batch(x_BD.astype(np.float32), class_B.astype(np.int32))

        data, share = self.config.data, {"process_index": process_index, "process_count": process_count}
        return make_steps(data.examples, data, draw, read, **share)

    def preview(self, batch):
        return None

    def check(self, request, settings):
        require(request.prompt in CLASSES, f"{request.prompt!r} is no ring: there are {', '.join(CLASSES)}")

    def prepare(self, requests):
        pass

    def collate(self, requests, settings):
        weights = [request.guidance.get("weight", settings.weight) for request in requests]
        return Inputs(
            np.asarray([CLASSES.index(r.prompt) for r in requests], np.int32), np.asarray(weights, np.float32)
        )

    def limited(self, request, settings):
        return request


kinds.register(kinds.Kind(RingConfig, Ring, RingFeed))

RINGS = Experiment(
    "rings",
    RingConfig(),
    RingData(batch_size=64),
    train=TrainConfig(
        num_steps=4, learning_rate=1e-2, warmup_steps=0, decay="constant", log_every=1, checkpoint_every=1000
    ),
)
