"""MAGE's parallel decoding: all tokens are masked at first, and a few more of them are known after each step.

For s = 0 .. N - 1, with the share r = (s + 1) / N of the steps:
  logits    l = l_c + (w - 1) r (l_c - l_u)                       guided more and more; w = 1 is not guided        (1)
  sampled   k_i ~ softmax(l_i) where token i is masked                                                             (2)
  certain   c_i = ln p(k_i) + temperature (1 - r) g_i,  g_i ~ Gumbel(0, 1); infinite where it was known            (3)
  masked    again those whose c_i is at most the m-th smallest, m = floor(L cos(pi r / 2)), but at least one       (4)
            and at most one less than before

After the last step the tokens are as they were sampled. w - 1 is the papers' tau.
Sources: Chang et al. 2022 (MaskGIT, arXiv 2202.04200); Li et al. 2024 (RCG, arXiv 2312.03701).
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int32, Key

from reimagen_jax.systems.stepwise import Steps

Predict = Callable[[Int32[Array, "b l"], Bool[Array, "b l"], Float[Array, ""]], Float[Array, "b l k"]]
"""(tokens, which are masked, r) -> (1)."""
Draws = Callable[[Int32[Array, ""]], tuple[Float[Array, "b l k"], Float[Array, "b l"]]]
"""s -> Gumbel noise of (2), as argmax_k (l + noise), and of (3)."""


def decoding(
    predict: Predict, draws: Draws, B: int, L: int, num_steps: int, temperature_B: Float[Array, " b"]
) -> Steps:
    """Steps to the tokens of B images, int32 [B, L]; in the state beside them, which of them are masked."""

    def step(known: tuple[Array, Array], now: tuple[Array, Array, Array]) -> tuple[Array, Array]:
        (token_BL, masked_BL), (s, share, number) = known, now
        logits_BLK, (gumbel_BLK, noise_BL) = predict(token_BL, masked_BL, share), draws(s)
        token_BL = jnp.where(masked_BL, (logits_BLK + gumbel_BLK).argmax(axis=-1).astype(jnp.int32), token_BL)  # (2)
        log_p_BLK = jax.nn.log_softmax(logits_BLK)
        certain_BL = jnp.take_along_axis(log_p_BLK, token_BL[..., None], axis=-1)[..., 0]
        certain_BL = certain_BL + temperature_B[:, None] * (1.0 - share) * noise_BL
        certain_BL = jnp.where(masked_BL, certain_BL, jnp.inf)  # (3)
        left_B = masked_BL.sum(axis=1, dtype=jnp.int32)
        number_B = jnp.maximum(1, jnp.minimum(left_B - 1, number))
        last_B1 = jnp.take_along_axis(jnp.sort(certain_BL, axis=1), number_B[:, None] - 1, axis=1)
        return token_BL, certain_BL <= last_B1  # (4)

    begun = jnp.zeros((B, L), jnp.int32), jnp.ones((B, L), bool)
    share_N = np.arange(1, num_steps + 1) / num_steps
    number_N = np.floor(L * np.cos(0.5 * np.pi * share_N))  # in float64: half of them is half of them
    told = jnp.arange(num_steps, dtype=jnp.int32), jnp.asarray(share_N, jnp.float32), jnp.asarray(number_N, jnp.int32)
    return Steps(begun, told, step)


def draws_of(keys_B: Key[Array, " b"], L: int, K: int) -> Draws:
    """Noise of each image's own key."""

    def each(key: Array, s: Array) -> tuple[Array, Array]:
        key_token, key_order = jax.random.split(jax.random.fold_in(key, s))
        return jax.random.gumbel(key_token, (L, K)), jax.random.gumbel(key_order, (L,))

    return lambda s: jax.vmap(each, (0, None))(keys_B, s)


def guided(
    full_BLK: Float[Array, "b l k"], null_BLK: Float[Array, "b l k"], weight_B: Float[Array, " b"], share: Array
) -> Float[Array, "b l k"]:
    """(1)"""
    return full_BLK + ((weight_B - 1.0) * share)[:, None, None] * (full_BLK - null_BLK)
