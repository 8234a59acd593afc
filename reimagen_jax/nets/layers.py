"""The pieces of which the U-Net is built: timestep features, BigGAN residual blocks, folding pixels into channels.

  block(x, c) = skip(x) + conv(swish(GN(conv(resample(swish(GN(x))))) (1 + scale(c)) + shift(c)))            (1)

Sources: Imagen (Saharia et al. 2022) appendix B; the residual block is BigGAN's (Brock et al. 2019) with the
scale-shift conditioning of ADM (Dhariwal and Nichol 2021).
"""

from typing import Literal

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

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


def timestep_features(t_B: Float[Array, " b"], width: int) -> Float[Array, "b width"]:
    """Sines and cosines of 1000 t at `width` / 2 geometric frequencies; t in [0, 1]."""
    frequencies = jnp.exp(-jnp.log(10_000.0) * jnp.arange(width // 2, dtype=jnp.float32) / (width // 2))
    angles_BD = 1000.0 * t_B[:, None] * frequencies[None, :]
    return jnp.concatenate([jnp.cos(angles_BD), jnp.sin(angles_BD)], axis=-1)


class ResBlock(nn.Module):
    """Equation (1): a residual block that the condition scales and shifts; optionally halves or doubles the sides."""

    width: int
    groups: int
    how: Resample = "same"

    @nn.compact
    def __call__(self, x_BHWC: Float[Array, "b h w c"], cond_BD: Float[Array, "b d"]) -> Float[Array, "b h2 w2 c2"]:
        h = resample(nn.swish(nn.GroupNorm(self.groups, name="norm1")(x_BHWC)), self.how)
        h = nn.Conv(self.width, (3, 3), name="conv1")(h)
        scale_shift = nn.Dense(2 * self.width, name="cond")(nn.swish(cond_BD))[:, None, None, :]
        scale, shift = jnp.split(scale_shift, 2, axis=-1)
        h = nn.swish(nn.GroupNorm(self.groups, name="norm2")(h) * (1.0 + scale) + shift)
        # Zero output: every block starts as the identity.
        h = nn.Conv(self.width, (3, 3), kernel_init=nn.initializers.zeros, name="conv2")(h)
        x = resample(x_BHWC, self.how)
        return h + (x if x.shape[-1] == self.width else nn.Conv(self.width, (1, 1), name="skip")(x))


class Conditioning(nn.Module):
    """The timestep, plus the attention-pooled text, as one vector; without text a learned vector stands in."""

    width: int

    @nn.compact
    def __call__(
        self, t_B: Float[Array, " b"], text_BLD: Float[Array, "b l d"], text_mask_BL: Array
    ) -> Float[Array, "b width"]:
        time_BD = nn.Dense(self.width, name="time1")(timestep_features(t_B, self.width))
        time_BD = nn.Dense(self.width, name="time2")(nn.swish(time_BD))

        score_BL = nn.Dense(1, name="pool_score")(nn.LayerNorm(name="pool_norm")(text_BLD))[..., 0]
        weight_BL = jax.nn.softmax(jnp.where(text_mask_BL, score_BL, -1e9), axis=-1)
        pooled_BD = jnp.einsum("bl,bld->bd", weight_BL, nn.Dense(self.width, name="pool_value")(text_BLD))
        pooled_BD = nn.Dense(self.width, name="pool_out")(nn.swish(pooled_BD))
        absent_D = self.param("no_text", nn.initializers.normal(0.02), (self.width,))
        has_text_B1 = text_mask_BL.any(axis=-1)[:, None]
        return time_BD + jnp.where(has_text_B1, pooled_BD, absent_D[None, :])
