"""What a sampler is made of: the signatures of denoisers, guides, solvers and projections, and one step's prediction.

x is a batch of samples of any shape S, [B, *S]; a condition is any pytree whose leaves have the batch axis first.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

from jaxtyping import Array, Float, Int

Condition = Any
"""What a network is told besides x and t. Dropping a part of it is a mask: shapes and program stay."""

Denoiser = Callable[[Float[Array, "b *s"], Float[Array, " b"], Condition], Float[Array, "b *d"]]
"""(x_t, t, condition) -> prediction; with a learned variance the last axis is twice as long as that of x (variance.py).
"""

Guide = Callable[[Denoiser, Float[Array, "b *s"], Float[Array, " b"], Condition, Int[Array, ""]], Float[Array, "b *d"]]
"""(denoise, x_t, t, condition, i) -> guided prediction of step i, counted from 0 at the noisy end."""

Project = Callable[[Float[Array, "b *s"], Float[Array, "b *s"], Float[Array, ""]], Float[Array, "b *s"]]
"""(x_0, x_t, t) -> x_0 where it may lie: thresholding, inpainting."""


class Prediction(NamedTuple):
    """What is known at x_t: the sample, projected, the noise that it implies, and f of variance.py where learned."""

    x0: Float[Array, "b *s"]
    eps: Float[Array, "b *s"]
    fraction: Float[Array, "b *s"] | None = None


Predict = Callable[[Float[Array, "b *s"], Float[Array, ""]], Prediction]
"""(x_t, t) -> prediction, guided and projected; a solver may ask several times in a step."""

Carry = Any
"""What a solver remembers from step to step (earlier predictions, for one of several steps). Its leaves have the batch
axis first, so that one sample can forget without the others (editing.py)."""


class Solver(NamedTuple):
    """One way from t to s < t, with its own memory."""

    init: Callable[[Float[Array, "b *s"]], Carry]
    """(x_T) -> carry"""
    step: Callable[
        [Predict, Float[Array, "b *s"], Carry, Float[Array, ""], Float[Array, ""], Float[Array, "b *s"]],
        tuple[Float[Array, "b *s"], Carry],
    ]
    """(predict, x_t, carry, t, s, noise) -> (x_s, carry)"""
    stochastic: bool
    """Whether `noise` is looked at; where not, none is drawn."""
