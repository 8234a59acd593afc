"""One training step: a pure function (state, batch, key) -> (state, metrics).

  lr(n)  = lr_max min(1, n / warmup) d(n)                                                                      (1)
  d(n)   = 1                                                                                       (constant)   (2)
           (1 + cos(pi p)) / 2,  p = (n - warmup) / (num_steps - warmup) in [0, 1]                 (cosine)
           min(1, (num_steps - n) / (0.2 num_steps))                                               (tail)
  g      = grad L(theta),  g <- g min(1, clip / |g|) where clip is set            (accumulation.py)            (3)
  theta  = theta - r lr(n) (s u + decay theta),  u = AdamW's or Adafactor's direction for g                    (4)
  theta' = a theta' + (1 - a) theta   with a = min(decay, (1 + n) / (10 + n))                                  (5)
           or, with `ema_growth` "cosine", a = 1 - (1 - decay) (1 + cos(pi n / num_steps)) / 2                 (6)

n counts from 0; r is 1, or the factor of the group that a parameter belongs to: 0 where it is frozen (groups.py). s is
1, or with `multiply_by_parameter_scale` max(0.001, rms(theta)) of the parameter (Adafactor's relative rates).
Sources: AdamW, Loshchilov and Hutter 2019; Adafactor, Shazeer and Stern 2018, whose u has an rms of 1 at most
by itself; (3) Pascanu et al. 2013 over all parameters at once; (6) BYOL, Grill et al. 2020 (section 3.3), and MoCo-v3.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float, Int32, Key

from reimagen_jax.config import TrainConfig
from reimagen_jax.systems.base import Metrics, Paced, Params, System
from reimagen_jax.training import accumulation, groups
from reimagen_jax.training.state import TrainState

Step = Callable[[TrainState, Any, Key[Array, ""]], tuple[TrainState, Metrics]]


def make_schedule(config: TrainConfig) -> Callable[[Int32[Array, "*n"]], Float[Array, "*n"]]:
    """Equations (1) and (2): the learning rate of step n (an integer, or an array of them), in float32."""
    steps, warmup = config.num_steps, config.warmup_steps
    decay = {
        "constant": optax.constant_schedule(1.0),
        "cosine": optax.join_schedules(
            [optax.constant_schedule(1.0), optax.cosine_decay_schedule(1.0, max(steps - warmup, 1))], [warmup]
        ),
        "tail": optax.linear_schedule(1.0, 0.0, 0.2 * steps, transition_begin=0.8 * steps),
    }[config.decay]

    def learning_rate(step: Int32[Array, "*n"]) -> Float[Array, "*n"]:
        n = jnp.asarray(step).astype(jnp.float32)
        # Not by optax, which subtracts n / warmup from 1 and loses the first steps' digits.
        warm = jnp.minimum(1.0, n / warmup) if warmup else jnp.ones_like(n)
        # Rounding may put the tail's end below 0.
        return config.learning_rate * warm * jnp.maximum(decay(n), 0.0)

    return learning_rate


def make_optimizer(config: TrainConfig) -> optax.GradientTransformation:
    """Equations (3) and (4). Biases, norms' scales and other vectors do not decay."""
    learning_rate = make_schedule(config)

    def decays(params: Params) -> Any:
        return jax.tree.map(lambda p: p.ndim > 1, params)

    if config.optimizer == "adafactor":
        descend = optax.chain(
            optax.adafactor(None, multiply_by_parameter_scale=config.multiply_by_parameter_scale),
            optax.add_decayed_weights(-config.weight_decay, decays),
            optax.scale_by_schedule(learning_rate),
        )
    else:
        descend = optax.adamw(
            learning_rate,
            b1=config.beta1,
            b2=config.beta2,
            eps=config.epsilon,
            weight_decay=config.weight_decay,
            mask=decays,
        )
    # Not clipping is `identity`, whose state is as empty as that of clipping: a checkpoint fits both.
    clip = optax.identity() if config.clip_norm is None else optax.clip_by_global_norm(config.clip_norm)
    return optax.chain(clip, groups.scaled(descend, config.rates))


def ema_decay(step: Int32[Array, ""], decay: float) -> Float[Array, ""]:
    """a of equation (5): short at first, so that the average forgets the random initialisation."""
    n = step.astype(jnp.float32)
    return jnp.minimum(decay, (1.0 + n) / (10.0 + n))


def make_memory(config: TrainConfig) -> Callable[[Int32[Array, "*n"]], Float[Array, "*n"]]:
    """a of step n (an integer, or an array of them): (5) or (6), in float32."""
    if config.ema_growth == "none":
        return lambda step: ema_decay(jnp.asarray(step), config.ema_decay)

    def memory(step: Int32[Array, "*n"]) -> Float[Array, "*n"]:
        share = jnp.minimum(jnp.asarray(step).astype(jnp.float32) / config.num_steps, 1.0)
        return 1.0 - (1.0 - config.ema_decay) * 0.5 * (1.0 + jnp.cos(jnp.pi * share))  # (6)

    return memory


def loss_at(
    system: System, params: Params, batch: Any, key: Key[Array, ""], step: Int32[Array, ""], *, ema: Params
) -> tuple[Float[Array, ""], Metrics]:
    """A system's loss after so many updates, whether or not it depends on them."""
    if isinstance(system, Paced):
        return system.loss_at(params, batch, key, step, ema=ema)
    return system.loss(params, batch, key, ema=ema)


def train_step(
    system: System, optimizer: optax.GradientTransformation, config: TrainConfig, axis_name: str | None = None
) -> Step:
    """The step of an experiment, for `jit` over a sharded batch or, with `axis_name`, for a map over devices.

    `key` is the experiment's key, the same at every step: step n draws from `fold_in(key, n)`, so a restored run draws
    what an uninterrupted one would. The metrics are scalars: the system's own, `loss`, `learning_rate` and `grad_norm`
    (before clipping), all of the parameters before the update.

    With `axis_name` the function sees one device's share of the batch: each device draws from its own key, and
    gradients and metrics are averaged over the axis.
    """
    learning_rate, memory = make_schedule(config), make_memory(config)

    def step(state: TrainState, batch: Any, key: Key[Array, ""]) -> tuple[TrainState, Metrics]:
        key = jax.random.fold_in(key, state.step)
        if axis_name is not None:
            key = jax.random.fold_in(key, jax.lax.axis_index(axis_name))

        free, frozen = groups.split(state.params, config.rates)

        def loss_of(free: Params, batch: Any, key: Key[Array, ""]) -> tuple[Float[Array, ""], Metrics]:
            params, ema = groups.joined(frozen, free), groups.joined(frozen, state.ema)
            return loss_at(system, params, batch, key, state.step, ema=ema)

        (loss, metrics), grads = accumulation.value_and_grad(loss_of, free, batch, key, config.accumulate)
        metrics = {**metrics, "loss": loss}
        if axis_name is not None:
            grads, metrics = jax.lax.pmean((grads, metrics), axis_name)
        metrics |= {"learning_rate": learning_rate(state.step), "grad_norm": optax.tree.norm(grads)}

        # optax mixes integers and floats, which strict promotion (our tests) forbids; the rest of the step keeps to it.
        with jax.numpy_dtype_promotion("standard"):
            updates, opt_state = optimizer.update(grads, state.opt_state, free)  # (3), (4)
        free = optax.apply_updates(free, updates)
        a = memory(state.step)
        ema = jax.tree.map(lambda old, new: a * old + (1.0 - a) * new, state.ema, free)  # (5), (6)
        params = groups.joined(frozen, free)
        return TrainState(step=state.step + 1, params=params, ema=ema, opt_state=opt_state), metrics

    return step
