"""Classifier-free guidance: a prediction strengthened against one with a part of the condition dropped.

eps(a, b) is the prediction at x_t under a condition of two parts, 0 in the place of one that is dropped. In Re-Imagen
(Chen et al. 2023, section 3.3) the first part is the text, the second the neighbours, and the share of (4) and (5) eta.

  single         w eps(a, b) - (w - 1) eps(what is left)                                                         (1)
  interleaved    (1) with w_1 and eps(0, b), or with w_2 and eps(a, 0), by a plan over the steps                 (2)
  joint          (1) with eps(0, 0)
  compositional  eps(0, 0) + w_2 (eps(0, b) - eps(0, 0)) + w_1 (eps(a, b) - eps(0, b))                           (3)

  plan at random   step i of T is of the first kind where R_i ~ U[0, 1] lies below its share                     (4)
  plan stratified  where floor((i + 1) n / T + 1/2) > floor(i n / T + 1/2), with n = round(share T)              (5)

  mean        eps(a, b) + g_1 (eps(a, b) - eps(0, b)) + g_2 (eps(a, b) - eps(a, 0)),                             (9)
              g_1 = share (w_1 - 1),  g_2 = (1 - share) (w_2 - 1):  the mean of (2) over plans, at every step
  told        a network that has learned (9) is told g_1 and g_2: one evaluation                                (10)

  over time   w(t) = 1 + (w - 1) f(t),  f = 1, or linear 2 (1 - t), or cosine 1 + cos(pi t): of mean 1           (6)
  interval    w(t) where low <= t <= high, and 1 elsewhere                                                       (7)
  rescaled    (phi std(eps(a, b)) / std(eps_w) + 1 - phi) eps_w,  eps_w guided, std of a sample's own numbers    (8)

(1) and (2) are two evaluations, [full, dropped], made as one doubled batch, whatever plan and weight say; (3) and (9)
are three. A step of (2) is (9) with the share 1 or 0, so a network that is told can follow a plan, too (`planned`).
(3) is InstructPix2Pix's (Brooks et al. 2023, equation 3, the neighbours in the image's place), not the sum of
w_j (eps(c_j) - eps(0)) of Composable Diffusion (Liu et al. 2022): that never asks for both parts at once, and is not
the plain prediction where all weights are 1. Steps of (5) are n exactly, spread as evenly as whole numbers can be, the
same for every sample; those of (4) are n on average, and nested: a growing share turns steps into the first kind one by
one.

All combinations are affine with weights that sum to one, and so is the map between eps, x_0 and v at a given x_t:
guiding any of the three is guiding eps. (8) is not: it is of the quantity that the network predicts, as published. What
a network says of the variance (variance.py) is not guided: it is taken as it is said with the full condition.

Sources: (6) Wang et al. 2024, analysis of weight schedulers; (7) Kynkaanniemi et al. 2024, equation 5, in t for sigma;
(8) Lin et al. 2024, equations 15 and 16; (10) Meng et al. 2023, section 3.1, there with one weight.
"""

from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, Key

from reimagen_jax.diffusion.base import Condition, Denoiser, Guide
from reimagen_jax.diffusion.process import expand
from reimagen_jax.diffusion.settings import WeightSchedule

Numbers = Float[Array, " b"] | Float[Array, ""] | float
Weight = Numbers | Callable[[Float[Array, " b"]], Numbers]
"""A weight, or what it is at t."""
Excess = Callable[[Float[Array, " b"], Int[Array, ""]], Float[Array, "b 2"]]
"""(t, i) -> g_1 and g_2 of (9)."""
EDGE = 1e-6
"""Times are of float32: one that was meant to lie on the edge of an interval lies within."""


def unguided(
    denoise: Denoiser, x: Float[Array, "b *s"], t_B: Float[Array, " b"], condition: Condition, i: Int[Array, ""]
) -> Float[Array, "b *d"]:
    """The plain conditional prediction: a guide."""
    return denoise(x, t_B, condition)


def single(drop: Callable[[Condition], Condition], weight: Weight, rescale: Numbers | None = None) -> Guide:
    """(1): `drop` gives the condition without its part, or without both (joint). `rescale` is phi of (8)."""

    def guide(denoise: Denoiser, x: Array, t_B: Array, condition: Condition, i: Array) -> Array:
        return strengthened(denoise, x, t_B, condition, drop(condition), at(weight, t_B), rescale)

    return guide


def interleaved(
    drop: Callable[[Condition, Bool[Array, " b"]], Condition],
    plan_BT: Bool[Array, "b t"],
    first_weight: Weight,
    second_weight: Weight,
    rescale: Numbers | None = None,
) -> Guide:
    """(2): `drop(condition, first_B)` drops the first part where `first_B` is true and the second elsewhere.

    All of the numbers may be traced: a sweep over them compiles once.
    """

    def guide(denoise: Denoiser, x: Array, t_B: Array, condition: Condition, i: Array) -> Array:
        first_B = plan_BT[:, i]
        weight_B = jnp.where(first_B, at(first_weight, t_B), at(second_weight, t_B))
        return strengthened(denoise, x, t_B, condition, drop(condition, first_B), weight_B, rescale)

    return guide


def compositional(
    drop_first: Callable[[Condition], Condition],
    drop_both: Callable[[Condition], Condition],
    first_weight: Weight,
    second_weight: Weight,
    rescale: Numbers | None = None,
) -> Guide:
    """(3): three evaluations a step."""

    def guide(denoise: Denoiser, x: Array, t_B: Array, condition: Condition, i: Array) -> Array:
        conditions = condition, drop_first(condition), drop_both(condition)
        full, second, none = _evaluated(denoise, x, t_B, conditions)
        C, w_1, w_2 = x.shape[-1], _expanded(at(first_weight, t_B), x), _expanded(at(second_weight, t_B), x)
        # (3), its terms gathered: where a weight is 1, a prediction that cancels does so exactly.
        prediction = w_1 * full[..., :C] + (w_2 - w_1) * second[..., :C] - (w_2 - 1.0) * none[..., :C]
        return _finished(prediction, full, rescale)

    return guide


def mean(
    drop_first: Callable[[Condition], Condition],
    drop_second: Callable[[Condition], Condition],
    excess: Excess,
    rescale: Numbers | None = None,
) -> Guide:
    """(9): three evaluations a step."""

    def guide(denoise: Denoiser, x: Array, t_B: Array, condition: Condition, i: Array) -> Array:
        conditions = condition, drop_first(condition), drop_second(condition)
        full, second, first = _evaluated(denoise, x, t_B, conditions)
        C, g_B2 = x.shape[-1], excess(t_B, i)
        g_1, g_2 = (expand(g_B2[:, j], x) for j in range(2))
        prediction = (1.0 + g_1 + g_2) * full[..., :C] - g_1 * second[..., :C] - g_2 * first[..., :C]
        return _finished(prediction, full, rescale)

    return guide


def told(tell: Callable[[Condition, Float[Array, "b 2"]], Condition], excess: Excess) -> Guide:
    """(10): `tell` puts the numbers into the condition."""

    def guide(denoise: Denoiser, x: Array, t_B: Array, condition: Condition, i: Array) -> Array:
        return denoise(x, t_B, tell(condition, excess(t_B, i)))

    return guide


def shared(share: Numbers, first_weight: Weight, second_weight: Weight) -> Excess:
    """g of (9)."""

    def excess(t_B: Array, i: Array) -> Array:
        parts = share * (at(first_weight, t_B) - 1.0), (1.0 - share) * (at(second_weight, t_B) - 1.0)
        return jnp.stack([jnp.broadcast_to(jnp.asarray(part, jnp.float32), t_B.shape) for part in parts], axis=-1)

    return excess


def planned(plan_BT: Bool[Array, "b t"], first_weight: Weight, second_weight: Weight) -> Excess:
    """g of (9) for the steps of (2)."""
    return lambda t_B, i: shared(plan_BT[:, i].astype(jnp.float32), first_weight, second_weight)(t_B, i)


def interleave(share: Float[Array, ""] | float, num_steps: int, key: Key[Array, ""]) -> Bool[Array, " t"]:
    """(4) for one sample: true where a step is of the first kind. `share` may be traced."""
    return jax.random.uniform(key, (num_steps,)) < share


def stratify(share: Float[Array, ""] | float, num_steps: int) -> Bool[Array, " t"]:
    """(5): true where a step is of the first kind. `share` may be traced; halves are rounded to even, as in Python."""
    twice = 2.0 * num_steps * jnp.asarray(share, jnp.float32)
    # 0.3 of 95 is a half, which 0.3 in float32 is a bit beside.
    twice = jnp.where(jnp.abs(twice - jnp.round(twice)) <= 1e-6 * twice, jnp.round(twice), twice)
    n = jnp.round(0.5 * twice).astype(jnp.int32)

    def step(rest: Array, _: None) -> tuple[Array, Array]:
        """Bresenham's line: what is beyond whole numbers is carried on, since i n is beyond 32 bits."""
        return (rest + n) % num_steps, rest + n >= num_steps

    return jax.lax.scan(step, jnp.int32(num_steps // 2), None, length=num_steps)[1]


def at(weight: Weight, t_B: Float[Array, " b"]) -> Numbers:
    """A weight at t."""
    return weight(t_B) if callable(weight) else weight


def over_time(weight: Weight, schedule: WeightSchedule) -> Weight:
    """(6)"""
    if schedule == "constant":
        return weight

    def scheduled(t_B: Array) -> Array:
        f_B = 2.0 * (1.0 - t_B) if schedule == "linear" else 1.0 + jnp.cos(jnp.pi * t_B)
        return 1.0 + (at(weight, t_B) - 1.0) * f_B

    return scheduled


def within(weight: Weight, low: Numbers, high: Numbers) -> Weight:
    """(7). The evaluations stay as many: where samples of a batch have intervals of their own, some need them."""
    return lambda t_B: jnp.where((t_B >= low - EDGE) & (t_B <= high + EDGE), at(weight, t_B), 1.0)


def rescaled(guided: Float[Array, "b *s"], full: Float[Array, "b *s"], share: Numbers) -> Float[Array, "b *s"]:
    """(8), with phi = `share`: a high weight widens a prediction's distribution, which whitens and burns images."""
    axes = tuple(range(1, guided.ndim))
    std_B, std_full_B = jnp.std(guided, axis=axes), jnp.std(full, axis=axes)
    ratio_B = std_full_B / jnp.where(std_B > 0.0, std_B, 1.0)
    return guided * expand(share * ratio_B + (1.0 - share), guided)


def strengthened(
    denoise: Denoiser,
    x: Float[Array, "b *s"],
    t_B: Float[Array, " b"],
    condition: Condition,
    less: Condition,
    weight: Numbers,
    rescale: Numbers | None = None,
) -> Float[Array, "b *d"]:
    """(1), given the condition and what is left of it.

    The prediction is the first C channels of the output, C those of `x`; channels beyond are handed on from the full
    condition.
    """
    full, dropped = _evaluated(denoise, x, t_B, (condition, less))
    C, weight = x.shape[-1], _expanded(weight, x)
    prediction = weight * full[..., :C] - (weight - 1.0) * dropped[..., :C]
    return _finished(prediction, full, rescale)


def _evaluated(denoise: Denoiser, x: Array, t_B: Array, conditions: Sequence[Condition]) -> list[Array]:
    """The outputs [B, ...] under each of the conditions, by one call."""
    E = len(conditions)
    output = denoise(_beside(*[x] * E), _beside(*[t_B] * E), jax.tree.map(_beside, *conditions))
    output_BED = output.reshape(len(x), E, *output.shape[1:])
    return [output_BED[:, e] for e in range(E)]


def _finished(prediction: Array, full: Array, rescale: Numbers | None) -> Array:
    """The guided prediction, rescaled if at all, with the channels that are not guided behind it."""
    C = prediction.shape[-1]
    if rescale is not None:
        prediction = rescaled(prediction, full[..., :C], rescale)
    return jnp.concatenate([prediction, full[..., C:]], axis=-1) if full.shape[-1] > C else prediction


def _expanded(weight: Numbers, x: Array) -> Array:
    return expand(jnp.broadcast_to(jnp.asarray(weight), (len(x),)), x)


def _beside(*arrays: Array) -> Array:
    """E times [B, ...] to [E B, ...], a sample's rows one after the other: all stay on its device."""
    return jnp.stack(arrays, axis=1).reshape(len(arrays) * len(arrays[0]), *arrays[0].shape[1:])
