"""RCG's network for vectors: residual blocks of products, each told the time and a context.

  e  = W_2 silu(W_1 features(t))                          features: conditioning.py (2), as many as the width      (1)
  x  = W_in x_t
  h  = W_a silu(LN(x)) + W_e silu(e) (+ W_c silu(context))                                                         (2)
  x  = x + W_b silu(LN(h))                                of each block, W_b zero at first                         (3)
  prediction = W_out silu(LN(x))                          W_out zero at first                                      (4)

The norm of (4) has another epsilon than those of (2) and (3). Norms, sums and what is told are float32, the blocks'
products are of `config.dtype`. Source: Li et al. 2024 (RCG, arXiv 2312.03701), section 3 and its published network.
"""

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Float

from reimagen_jax.nets.conditioning import timestep_features
from reimagen_jax.nets.settings import LatentMLPConfig

EPSILON, LAST_EPSILON = 1e-5, 1e-6


class LatentMLP(nn.Module):
    """(x_t, t, context) -> prediction, as many values as x_t has, float32."""

    config: LatentMLPConfig

    @nn.compact
    def __call__(
        self, x_BD: Float[Array, "b d"], t_B: Float[Array, " b"], context_BC: Float[Array, "b c"] | None = None
    ) -> Float[Array, "b d"]:
        """t in [0, 1]."""
        config, D = self.config, x_BD.shape[1]
        block = nn.remat(LatentBlock) if config.remat else LatentBlock
        e_BE = nn.Dense(config.time_width, name="time1")(timestep_features(t_B, config.width))
        e_BE = nn.Dense(config.time_width, name="time2")(nn.silu(e_BE))  # (1)
        x_BW = nn.Dense(config.width, name="input")(x_BD)
        for i in range(config.depth):
            x_BW = block(config, name=f"block{i}")(x_BW, e_BE, context_BC)
        h_BW = nn.silu(nn.LayerNorm(LAST_EPSILON, name="norm")(x_BW))
        return nn.Dense(D, kernel_init=nn.initializers.zeros, name="out")(h_BW)  # (4)


class LatentBlock(nn.Module):
    """(2) and (3)."""

    config: LatentMLPConfig

    @nn.compact
    def __call__(
        self, x_BW: Float[Array, "b w"], e_BE: Float[Array, "b e"], context_BC: Float[Array, "b c"] | None
    ) -> Float[Array, "b w"]:
        W, dtype = self.config.width, jnp.dtype(self.config.dtype)

        def product(name: str, x: Array, **init: object) -> Array:
            return nn.Dense(W, dtype=dtype, name=name, **init)(x).astype(jnp.float32)

        h_BW = product("first", nn.silu(nn.LayerNorm(EPSILON, name="norm1")(x_BW)))
        h_BW = h_BW + product("time", nn.silu(e_BE))
        if context_BC is not None:
            h_BW = h_BW + product("context", nn.silu(context_BC))  # (2)
        h_BW = nn.silu(nn.LayerNorm(EPSILON, name="norm2")(h_BW))
        return x_BW + product("second", h_BW, kernel_init=nn.initializers.zeros)  # (3)
