"""The pieces of which the U-Net is built: folding pixels into channels, norms, BigGAN residual blocks.

  block(x, c) = s (skip(x) + conv(act(GN(conv(resample(act(GN(x))))) (1 + scale(c)) + shift(c))))           (1)
  block(x, c) = s (skip(x) + conv(act(GN(conv(resample(act(GN(x)))) + shift(c)))))                          (2)

(2) is `config.time` "add". The activation act is swish (Imagen) or gelu (DeepFloyd IF), and s = 1, or 1/sqrt(2) to keep
the variance of a sum. Norms and what follows them up to the next convolution are float32 in every network; convolutions
compute in `config.dtype`.
Sources: Imagen (Saharia et al. 2022) appendix B; the residual block is BigGAN's (Brock et al. 2019) with the
scale-shift conditioning of ADM (Dhariwal and Nichol 2021), or the addition of Ho et al. 2020.
"""

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any, Literal

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from reimagen_jax.nets.settings import UNetConfig

Resample = Literal["same", "down", "up"]


def fold(x_BHWC: Float[Array, "b h w c"], patch: int) -> Float[Array, "b h2 w2 c2"]:
    """Space to depth: patch x patch pixels become channels."""
    B, H, W, C = x_BHWC.shape
    x = x_BHWC.reshape(B, H // patch, patch, W // patch, patch, C)
    return x.transpose(0, 1, 3, 2, 4, 5).reshape(B, H // patch, W // patch, patch * patch * C)


def unfold(x_BHWC: Float[Array, "b h w c"], patch: int) -> Float[Array, "b h2 w2 c2"]:
    """Depth to space, the inverse of `fold`."""
    B, H, W, C = x_BHWC.shape
    x = x_BHWC.reshape(B, H, W, patch, patch, C // patch**2)
    return x.transpose(0, 1, 3, 2, 4, 5).reshape(B, H * patch, W * patch, C // patch**2)


def resample(x_BHWC: Float[Array, "b h w c"], how: Resample) -> Float[Array, "b h2 w2 c"]:
    """Halves the sides by 2 x 2 averaging, doubles them by repetition, or leaves them."""
    if how == "down":
        B, H, W, C = x_BHWC.shape
        return x_BHWC.reshape(B, H // 2, 2, W // 2, 2, C).mean(axis=(2, 4))
    if how == "up":
        return x_BHWC.repeat(2, axis=1).repeat(2, axis=2)
    return x_BHWC


def activation(config: UNetConfig) -> Callable[[Array], Array]:
    """The network's activation function; gelu is the exact one, by erf (jax's, by erfc, takes CPUs twice as long)."""
    return nn.swish if config.activation == "swish" else lambda x: 0.5 * x * (1.0 + jax.lax.erf(x * math.sqrt(0.5)))


def group_norm(config: UNetConfig, name: str | None = None) -> Callable[[Array], Array]:
    """The network's group norm, in float32 whatever comes in."""
    norm = nn.GroupNorm(config.groups, epsilon=config.norm_epsilon, dtype=jnp.float32, name=name)
    return lambda x: norm(x.astype(jnp.float32))


def layer_norm(config: UNetConfig, name: str) -> Callable[[Array], Array]:
    """The network's layer norm, in float32 whatever comes in."""
    norm = nn.LayerNorm(epsilon=config.norm_epsilon, dtype=jnp.float32, name=name)
    return lambda x: norm(x.astype(jnp.float32))


def rematerialised(module: type[nn.Module], config: UNetConfig) -> type[nn.Module]:
    """The module class, its inside computed again by backpropagation as `config.remat` says; same parameters."""
    if config.remat == "none":
        return module
    return nn.remat(module, policy=None if config.remat == "blocks" else _is_matmul)


TOLD = "told"
"""The collection of variables in which layers keep what a text is to them (unet.py:read)."""


_BATCH: ContextVar[jax.sharding.Sharding | None] = ContextVar("_BATCH", default=None)


@contextmanager
def batch_lies(where: jax.sharding.Sharding) -> Iterator[None]:
    """What is traced within has the first axis of its activations there: `batch_stays` says so to the compiler."""
    token = _BATCH.set(where)
    try:
        yield
    finally:
        _BATCH.reset(token)


def batch_stays(x: Float[Array, "*b"]) -> Float[Array, "*b"]:
    """`x`, which lies, like its gradient, where `batch_lies` says. Seldom needed: the batch's place spreads from a
    network's inputs by itself. It is where a kernel of which the gradient is split over the devices meets attention by
    plain products, whose heads can be split as well: the compiler may then move the activations between devices."""
    where = _BATCH.get()
    return x if where is None else jax.lax.with_sharding_constraint(x, where)


def once(module: nn.Module, name: str, make: Callable[[], Array]) -> Array:
    """What `make` gives, which depends on the text alone: remembered where `TOLD` has it, else made (and kept)."""
    if module.has_variable(TOLD, name):
        return module.get_variable(TOLD, name)
    value = make()
    if module.is_mutable_collection(TOLD) and not module.is_initializing():
        module.put_variable(TOLD, name, value)
    return value


def _is_matmul(primitive: Any, *_: Any, **params: Any) -> bool:
    """Results worth keeping: convolutions and projections, but not attention's batched products (Q x M large)."""
    if primitive is jax.lax.conv_general_dilated_p:
        return True
    return jax.checkpoint_policies.dots_with_no_batch_dims_saveable(primitive, *_, **params)


class ResBlock(nn.Module):
    """Equation (1) or (2): a residual block that the condition scales and shifts, or is added to; optionally halves or
    doubles the sides."""

    config: UNetConfig
    width: int
    how: Resample = "same"

    @nn.compact
    def __call__(self, x_BHWC: Float[Array, "b h w c"], cond_BD: Float[Array, "b d"]) -> Float[Array, "b h2 w2 c2"]:
        config, act, dtype = self.config, activation(self.config), jnp.dtype(self.config.dtype)
        h = resample(act(group_norm(config, "norm1")(x_BHWC)).astype(dtype), self.how)
        h = nn.Conv(self.width, (3, 3), dtype=dtype, name="conv1")(h)
        parts = 2 if config.time == "scale_shift" else 1
        told = nn.Dense(parts * self.width, dtype=dtype, name="cond")(act(cond_BD))[:, None, None, :]
        if config.time == "scale_shift":
            scale, shift = jnp.split(told.astype(jnp.float32), 2, axis=-1)
            h = act(group_norm(config, "norm2")(h) * (1.0 + scale) + shift)  # (1)
        else:
            h = act(group_norm(config, "norm2")(h + told))  # (2)
        # Zero output: every block starts as the identity (times s).
        h = nn.Conv(self.width, (3, 3), kernel_init=nn.initializers.zeros, dtype=dtype, name="conv2")(h)
        x = resample(x_BHWC, self.how)
        x = x if x.shape[-1] == self.width else nn.Conv(self.width, (1, 1), dtype=dtype, name="skip")(x)
        return scaled_sum(config, h, x)


def scaled_sum(
    config: UNetConfig, branch: Float[Array, "b h w c"], skip: Float[Array, "b h w c"]
) -> Float[Array, "b h w c"]:
    """The sum of a branch and its skip, times `config.residual_scale`."""
    total = branch + skip
    return total if config.residual_scale == 1.0 else total * config.residual_scale
