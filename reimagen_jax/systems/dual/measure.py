"""What a trained dual encoder finds among pairs that it has not seen."""

from collections.abc import Sequence
from typing import Any

import jax.numpy as jnp
import numpy as np
from scipy.stats import hypergeom

from reimagen_jax.encoders.vectors import VectorEncoder
from reimagen_jax.systems.dual.pairs import Pairs
from reimagen_jax.systems.dual.system import matches

RANKS = (1, 5, 10)
"""k of the recalls that are measured."""


def measure(encoder: VectorEncoder, pairs: Pairs, ids: np.ndarray) -> dict[str, Any]:
    """How often what belongs to a held-out text, or image, is among its first k: by name of the direction, then k.

    `chance` is the same for a random order.
    """
    score_TI = encoder.texts([pairs.texts[i] for i in ids]) @ encoder.images(pairs.images(ids)).T
    match_TI = np.asarray(matches(jnp.asarray(pairs.group_NG[ids])))
    return {
        "held_out": len(ids),
        "text to image": _by_rank(found(score_TI, match_TI)),
        "image to text": _by_rank(found(score_TI.T, match_TI)),
        "chance": _by_rank([chance(match_TI, k) for k in RANKS]),
    }


def found(score_QN: np.ndarray, match_QN: np.ndarray) -> list[float]:
    """Share of queries with a match among their best k, for each k of `RANKS`; ties count as the worst order."""
    best_Q1 = np.where(match_QN, score_QN, -np.inf).max(axis=1, keepdims=True)
    before_Q = ((score_QN >= best_Q1) & ~match_QN).sum(axis=1)
    return [float((before_Q < k).mean()) for k in RANKS]


def chance(match_QN: np.ndarray, k: int) -> float:
    """Share of queries with a match among k drawn without replacement."""
    N = match_QN.shape[1]
    return float(1.0 - hypergeom.pmf(0, N, match_QN.sum(axis=1), min(k, N)).mean())


def _by_rank(shares: Sequence[float]) -> dict[str, float]:
    return {str(k): round(share, 4) for k, share in zip(RANKS, shares, strict=True)}
