"""Solvers of the reverse process: each one a function that returns its step from time t to an earlier time s.

  alpha_ts = alpha_t / alpha_s,   sigma_ts^2 = sigma_t^2 - alpha_ts^2 sigma_s^2

  DDPM   x_s = (alpha_ts sigma_s^2 / sigma_t^2) x_t + (alpha_s sigma_ts^2 / sigma_t^2) x_0 + sd * noise          (1)
         sd^2 between sigma_ts^2 sigma_s^2 / sigma_t^2 (gamma = 0) and sigma_ts^2 (gamma = 1), in log space:
         the former times (sigma_t^2 / sigma_s^2)^gamma                                                          (2)
         gamma is a setting, or f of variance.py: what the network says for each pixel
  DDIM   x_s = alpha_s x_0 + sqrt(sigma_s^2 - sd^2) eps + sd * noise                                             (3)
         sd = noise share * sqrt(sigma_ts^2 sigma_s^2 / sigma_t^2);  share 0 is deterministic                    (4)

The others go from one half log SNR to the next, lambda = log(alpha / sigma), h = lambda_s - lambda_t:

  first order      A(D) = (sigma_s / sigma_t) x_t + alpha_s (1 - e^-h) D,  D = x_0: DDIM without noise             (5)
  DPM-Solver++ 2M  x_s = A(D),  D = x_0 + q/2 (x_0 - x_0'),  q = h / h'; ' is of the step before                  (6)
  its SDE          x_s = e^-h (sigma_s / sigma_t) x_t + alpha_s (1 - e^-2h) D + sigma_s sqrt(1 - e^-2h) * noise    (7)
  UniPC            (6), from an x_t that the prediction at it has corrected first: with '' of two steps before,
         x_t = A'(x_0') + alpha_t h' (a (x_0 - x_0') + b (x_0' - x_0'')),  q = h' / h''                            (8)
         b = (phi_2 - 2 phi_3) q^2 / (1 + q),  a = phi_2 - b / q,  phi_k at -h';  without '', b = 0, a = phi_1 / 2
         phi_1 = (e^z - 1) / z,  phi_k+1 = (phi_k - 1/k!) / z                                                      (9)
  Heun             x_s = A(x_0) + alpha_s (e^h - 1) / 2 (x_0+ - x_0),  x_0+ as predicted at A(x_0)                (10)

(10) is Heun's rule of EDM for d(x / alpha) = eps d(sigma / alpha), in terms of x_0, where no large numbers cancel. It
extrapolates over e^h: give it steps of alike h (spacing "karras"). Of first order are a step to the image itself, those
whose memory is too short, and those of (6) to (8) that are `LONGEST` times as long as the one before: two predictions
close together say nothing of what is far (IF's lists hold pairs of neighbours; a schedule may be cut off in a step).

Sources: Ho et al. 2020, Nichol and Dhariwal 2021 (1, 2); Song et al. 2021 (3, 4); Lu et al. 2022, DPM-Solver++ (5-7);
Zhao et al. 2023, UniPC-2 with B_2 (8, 9); Karras et al. 2022, algorithm 1 without churn (10). UniPC stands where a
third-order multistep could: (8) brings (6) to that order for no further evaluation, without extrapolating twice.
"""

import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from reimagen_jax.diffusion import schedule
from reimagen_jax.diffusion.base import Carry, Predict, Solver
from reimagen_jax.diffusion.settings import DiffusionConfig, SamplerConfig
from reimagen_jax.errors import require

LONGEST = 10.0
"""Times the step before, that a step looks back on it. Diffusers' spacings stay below 6."""


class Scales(NamedTuple):
    """alpha and sigma at t and at s < t; scalars."""

    alpha_t: Float[Array, ""]
    sigma_t: Float[Array, ""]
    alpha_s: Float[Array, ""]
    sigma_s: Float[Array, ""]

    @classmethod
    def at(cls, t: Float[Array, ""], s: Float[Array, ""], process: DiffusionConfig) -> "Scales":
        """Those of a process."""
        return cls(*schedule.alpha_sigma(t, process), *schedule.alpha_sigma(s, process))

    @property
    def alpha_ts(self) -> Float[Array, ""]:
        return self.alpha_t / self.alpha_s

    @property
    def variance_ts(self) -> Float[Array, ""]:
        return jnp.maximum(self.sigma_t**2 - self.alpha_ts**2 * self.sigma_s**2, 0.0)

    @property
    def posterior_variance(self) -> Float[Array, ""]:
        return self.variance_ts * self.sigma_s**2 / self.sigma_t**2


def solver_of(config: SamplerConfig, process: DiffusionConfig) -> Solver:
    """The solver that the settings name.

    Raises `UserError` if they set a variance that the network has learned.
    """
    if config.solver == "ddim":
        return ddim(process, config.ddim_noise)
    plain = {"dpmpp_2m": dpmpp_2m, "dpmpp_2m_sde": dpmpp_2m_sde, "unipc": unipc, "heun": heun}
    if config.solver in plain:
        return plain[config.solver](process)
    require(
        not process.learned_variance or config.ddpm_gamma == 0,
        f"sampler.ddpm_gamma is {config.ddpm_gamma}, but the model has learned its variance: leave it at 0",
    )
    return ddpm(process, config.ddpm_gamma)


def ddpm(process: DiffusionConfig, gamma: float = 0.0) -> Solver:
    """Ancestral sampling, (1) and (2); a learned variance takes the place of `gamma`."""

    def step(predict: Predict, x: Array, carry: Carry, t: Array, s: Array, noise: Array) -> tuple[Array, Carry]:
        scales, (x0, _, fraction) = Scales.at(t, s, process), predict(x, t)
        share = gamma if fraction is None else fraction
        from_x = scales.alpha_ts * scales.sigma_s**2 / scales.sigma_t**2
        from_x0 = scales.alpha_s * scales.variance_ts / scales.sigma_t**2
        # As a ratio, which is at least 1: a step without any variance (between times where the schedule is cut off)
        # keeps none, where a power of the one variance by a power of the other would be 0 times infinity.
        added = jnp.sqrt(scales.posterior_variance) * (scales.sigma_t / scales.sigma_s) ** share * noise
        if process.chain:  # whose last step is the image itself, without any noise
            added = jnp.where(s < 0.0, jnp.zeros_like(noise), added)
        return from_x * x + from_x0 * x0 + added, carry  # (1), (2)

    return Solver(_remember_nothing, step, stochastic=True)


def ddim(process: DiffusionConfig, noise_share: float | Float[Array, "b *one"] = 0.0) -> Solver:
    """Implicit sampling, (3) and (4); a share of each sample's own may be traced."""

    def step(predict: Predict, x: Array, carry: Carry, t: Array, s: Array, noise: Array) -> tuple[Array, Carry]:
        scales, (x0, eps, _) = Scales.at(t, s, process), predict(x, t)
        variance = noise_share**2 * scales.posterior_variance  # (4)
        kept = jnp.sqrt(jnp.maximum(scales.sigma_s**2 - variance, 0.0))  # with all noise, rounding may go below
        return scales.alpha_s * x0 + kept * eps + jnp.sqrt(variance) * noise, carry  # (3)

    stochastic = isinstance(noise_share, Array) or noise_share > 0.0
    return Solver(_remember_nothing, step, stochastic)


class Stride(NamedTuple):
    """From t to s in terms of lambda; scalars, or a number for each sample."""

    h: Float[Array, "*b"]
    alpha: Float[Array, "*b"]
    """At s."""
    sigma: Float[Array, "*b"]
    """At s."""
    shrink: Float[Array, "*b"]
    """sigma_s / sigma_t"""
    last: Bool[Array, "*b"]
    """Whether s is the image itself."""

    @classmethod
    def between(cls, t: Float[Array, ""], s: Float[Array, ""], process: DiffusionConfig) -> "Stride":
        """That of a process."""
        scales = Scales.at(t, s, process)
        h = 0.5 * (schedule.logsnr(s, process) - schedule.logsnr(t, process))
        last = s <= schedule.clean_time(process)
        return cls(h, scales.alpha_s, scales.sigma_s, scales.sigma_s / scales.sigma_t, last)

    def along(self, x: Array, D: Array) -> Array:
        """(5): exact where the prediction stays D."""
        return self.shrink * x - self.alpha * jnp.expm1(-self.h) * D

    def over(self, before_B: Float[Array, "*b"]) -> Float[Array, "*b"]:
        """q of (6), 0 where the step is of first order."""
        foreseen_B = ~self.last & (before_B > 0.0) & (self.h < LONGEST * before_B)
        return jnp.where(foreseen_B, self.h / jnp.where(foreseen_B, before_B, 1.0), 0.0)


class Memory(NamedTuple):
    """Of the step before: what was predicted, and its h, 0 before the first step."""

    x0: Float[Array, "b *s"]
    h_B: Float[Array, " b"]


def _nothing_before(x: Array) -> Memory:
    return Memory(jnp.zeros_like(x), jnp.zeros(x.shape[:1], x.dtype))


def _foreseen(x0: Array, before: Memory, stride: Stride) -> Array:
    """D of (6)."""
    return x0 + 0.5 * _expanded(stride.over(before.h_B), x0) * (x0 - before.x0)


def _remembered(x0: Array, stride: Stride) -> Memory:
    return Memory(x0, jnp.full(x0.shape[:1], stride.h))


def dpmpp_2m(process: DiffusionConfig) -> Solver:
    """DPM-Solver++ (2M), (6)."""

    def step(predict: Predict, x: Array, before: Carry, t: Array, s: Array, noise: Array) -> tuple[Array, Carry]:
        stride, x0 = Stride.between(t, s, process), predict(x, t).x0
        return stride.along(x, _foreseen(x0, before, stride)), _remembered(x0, stride)  # (6)

    return Solver(_nothing_before, step, stochastic=False)


def dpmpp_2m_sde(process: DiffusionConfig) -> Solver:
    """SDE-DPM-Solver++ (2M), (7); the image is reached without noise."""

    def step(predict: Predict, x: Array, before: Carry, t: Array, s: Array, noise: Array) -> tuple[Array, Carry]:
        stride, x0 = Stride.between(t, s, process), predict(x, t).x0
        D = _foreseen(x0, before, stride)
        renewed = -jnp.expm1(-2.0 * stride.h)
        sd = jnp.where(stride.last, 0.0, stride.sigma * jnp.sqrt(renewed))
        x = jnp.exp(-stride.h) * stride.shrink * x + stride.alpha * renewed * D + sd * noise  # (7)
        return x, _remembered(x0, stride)

    return Solver(_nothing_before, step, stochastic=True)


class Corrected(NamedTuple):
    """UniPC's memory of the step before: where it began, what was predicted there and earlier, how it went."""

    x: Float[Array, "b *s"]
    x0: Float[Array, "b *s"]
    earlier: Float[Array, "b *s"]
    stride_B: Stride
    """Of each sample; h is 0 before the first step."""
    q_B: Float[Array, " b"]


def unipc(process: DiffusionConfig) -> Solver:
    """UniPC-2 with B_2: (6) and its corrector (8), one evaluation a step."""

    def init(x: Array) -> Corrected:
        zero_B = jnp.zeros(x.shape[:1], x.dtype)
        stride_B = Stride(zero_B, zero_B, zero_B, zero_B, zero_B > 0)
        return Corrected(x, jnp.zeros_like(x), jnp.zeros_like(x), stride_B, zero_B)

    def corrected(x: Array, x0: Array, before: Corrected) -> Array:
        stride, q = (jax.tree.map(lambda each_B: _expanded(each_B, x), part) for part in (before.stride_B, before.q_B))
        h, (phi_1, phi_2, phi_3) = stride.h, phi(-stride.h)
        b = (phi_2 - 2.0 * phi_3) * q**2 / (1.0 + q)
        a = jnp.where(q > 0.0, phi_2 - (phi_2 - 2.0 * phi_3) * q / (1.0 + q), 0.5 * phi_1)  # (8)
        change = a * (x0 - before.x0) + b * (before.x0 - before.earlier)
        better = stride.along(before.x, before.x0) + stride.alpha * h * change
        return jnp.where(h > 0.0, better, x)

    def step(predict: Predict, x: Array, before: Carry, t: Array, s: Array, noise: Array) -> tuple[Array, Carry]:
        stride, x0 = Stride.between(t, s, process), predict(x, t).x0
        x, q_B = corrected(x, x0, before), stride.over(before.stride_B.h)
        D = x0 + 0.5 * _expanded(q_B, x0) * (x0 - before.x0)
        stride_B = Stride(*(jnp.full(x.shape[:1], each) for each in stride))
        return stride.along(x, D), Corrected(x, x0, before.x0, stride_B, q_B)  # (6)

    return Solver(init, step, stochastic=False)


def heun(process: DiffusionConfig) -> Solver:
    """Heun's method of EDM, (10): two evaluations a step, one in the last."""

    def step(predict: Predict, x: Array, carry: Carry, t: Array, s: Array, noise: Array) -> tuple[Array, Carry]:
        stride, x0 = Stride.between(t, s, process), predict(x, t).x0
        euler = stride.along(x, x0)

        def better() -> Array:
            return euler + 0.5 * stride.alpha * jnp.expm1(stride.h) * (predict(euler, s).x0 - x0)  # (10)

        return jax.lax.cond(stride.last, lambda: euler, better), carry

    return Solver(_remember_nothing, step, stochastic=False)


def phi(z: Float[Array, "*b"]) -> tuple[Float[Array, "*b"], Float[Array, "*b"], Float[Array, "*b"]]:
    """phi_1 to phi_3 of (9), near 0 by their series: sums of z^i / (i + k)!."""
    near = jnp.abs(z) < 0.5
    far = jnp.where(near, 1.0, z)
    small = jnp.where(near, z, 0.0)
    series = [sum(small**i / math.factorial(i + k) for i in range(8)) for k in (1, 2, 3)]
    phi_1 = jnp.expm1(far) / far
    phi_2 = (phi_1 - 1.0) / far
    closed = (phi_1, phi_2, (phi_2 - 0.5) / far)
    return tuple(jnp.where(near, *each) for each in zip(series, closed, strict=True))


def _expanded(each_B: Array, x: Array) -> Array:
    """A number of each sample, or flag, shaped to go with x; of a single number without a batch, as it is."""
    return each_B.reshape(*each_B.shape, *(1,) * (x.ndim - each_B.ndim))


def _remember_nothing(x: Array) -> None:
    """The memory of a solver of single steps."""
