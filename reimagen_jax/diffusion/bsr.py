"""The BSR degradation: a large image made small as cameras, programs and the web do it, by steps in random order.

  blur     by a Gaussian: half of the time anisotropic, the eigenvalues of its covariance up to (4 + f) / 4, else of
           a standard deviation up to (2 + f / 5) / 4                                                              (1)
  shrink   by a random factor of 1 to 2 f, to be resized once more; or, a fifth of the time, by f, each pixel weighed
           by a Gaussian of a standard deviation of 0.1 to 0.6 f                                                   (2)
  resize   to the side that is asked for, always after (2)                                                         (3)
  noise    of 1 or 2 grey levels: independent in the channels, the same in all, or mixed at random                 (4)
  jpeg     of quality 80 to 95 (jpeg.py), 9 times of 10; and at the end always                                     (5)

f is how many times larger than asked for the side is. Where that is 4, a quarter of the images is halved beforehand,
and f is 2 for what follows. (2) and (3) interpolate linearly, cubically or by area, without antialiasing. Each image
draws its own. These are the moderate parameters of latent diffusion, which unCLIP refers to; ours: Gaussians that are
not cut off, edges that are repeated, how channels are mixed, no sensor's noise (which that code leaves out, too).
Sources: Zhang et al. 2021 (arXiv 2103.14006), section 3; Rombach et al. 2022 (arXiv 2112.10752), appendix D.6.1.

An image of n x n pixels, n traced (a float), lies in the corner of N x N, N fixed; beyond, its edge is repeated.
"""

import math

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int32, Key

from reimagen_jax.diffusion import jpeg

EXACT = jax.lax.Precision.HIGHEST
STEPS = 5
NUMBERS = 14
"""Uniform in [0, 1), that a step is drawn by."""
CUBIC = -0.75
"""Of Keys's cubic convolution, as in OpenCV."""

Square = Float[Array, "n n 3"]


def degrade(x_BHWC: Float[Array, "b h h 3"], side: int, key: Key[Array, ""]) -> Float[Array, "b s s 3"]:
    """RGB images in [-1, 1] to `side`, which divides theirs; in whole levels of 8 bits, like an image file."""
    return jax.vmap(lambda x_HWC, key: _degrade(x_HWC, side, key))(x_BHWC, jax.random.split(key, len(x_BHWC)))


def _degrade(x_HWC: Square, side: int, key: Key[Array, ""]) -> Float[Array, "s s 3"]:
    large, more = len(x_HWC), -len(x_HWC) % jpeg.MACROBLOCK
    x = jnp.pad(x_HWC, ((0, more), (0, more), (0, 0)), mode="edge")
    n, f = jnp.float32(large), jnp.float32(large / side)
    key_u, key_eps = jax.random.split(key)
    u_order, u_halving, *u_steps = jax.random.uniform(key_u, (2 + STEPS + 1, NUMBERS))
    eps = jax.random.normal(key_eps, x.shape)
    if large == 4 * side:
        halved = u_halving[0] < 0.25
        x = jnp.where(halved, resized(x, n, n / 2.0, interpolation(u_halving[1])), x)
        n, f = (jnp.where(halved, size / 2.0, size) for size in (n, f))

    steps = (
        lambda x, n, u: (filled(blurred(x, covariance(f, u), reach=_reach(large / side)), n), n),
        lambda x, n, u: shrunk(x, n, f, u),
        lambda x, n, u: (resized(x, n, jnp.float32(side), interpolation(u[0])), jnp.float32(side)),
        lambda x, n, u: (filled(jnp.clip(x + noise(eps, u), -1.0, 1.0), n), n),
        lambda x, n, u: (jnp.where(u[0] < 0.9, filled(jpeg.compressed(x, 80.0 + jnp.floor(16.0 * u[1])), n), x), n),
    )

    def step(image: tuple[Square, Array], now: tuple[Array, Array]) -> tuple[tuple[Square, Array], None]:
        which, u = now
        return jax.lax.switch(which, steps, *image, u), None

    order = jnp.append(random_order(u_order[:STEPS]), STEPS - 1)
    u_steps = jnp.stack(u_steps).at[STEPS, 0].set(0.0)  # (5) once more, for certain
    (x, _), _ = jax.lax.scan(step, (x, n), (order, u_steps))
    return x[:side, :side]


def random_order(u_5: Float[Array, " 5"]) -> Int32[Array, " 5"]:
    """Of the steps (1) to (5), here 0 to 4: all orders in which (3) comes after (2) are as likely."""
    place = (u_5[None, :] < u_5[:, None]).sum(axis=1)
    place = place.at[1].set(place[1:3].min()).at[2].set(place[1:3].max())
    return (place[None, :] == jnp.arange(STEPS)[:, None]).argmax(axis=1)


def interpolation(u: Float[Array, ""]) -> Int32[Array, ""]:
    """One of the first three filters of `resizing_matrix`."""
    return jnp.floor(3.0 * u).astype(jnp.int32)


def covariance(f: Float[Array, ""], u: Float[Array, " u"]) -> Float[Array, "2 2"]:
    """(1), in square pixels."""
    large, small = (4.0 + f) / 4.0 * u[1], (4.0 + f) / 4.0 * u[2]
    cos, sin = jnp.cos(math.pi * u[3]), jnp.sin(math.pi * u[3])
    turned = jnp.array([[cos, -sin], [sin, cos]])
    anisotropic = (turned * jnp.stack([large, small])[None, :]) @ turned.T
    return jnp.where(u[0] < 0.5, anisotropic, ((2.0 + f / 5.0) / 4.0 * u[4]) ** 2 * jnp.eye(2))


def _reach(f: float) -> int:
    """Pixels within which such a Gaussian lies: three and a half standard deviations."""
    return math.ceil(3.5 * math.sqrt((4.0 + f) / 4.0))


def blurred(x: Square, covariance: Float[Array, "2 2"], *, reach: int) -> Square:
    """By a Gaussian: for each of its rows i, the image i rows further down times a band of that row's weights."""
    (a, b), (_, d) = covariance + 1e-3 * jnp.eye(2)  # that of no width has an inverse, too, and blurs nothing
    N, rows = len(x), range(-reach, reach + 1)
    wide = jnp.pad(x, ((reach, reach), (reach, reach), (0, 0)), mode="edge")
    down = jnp.stack([wide[reach + i : reach + i + N] for i in rows])
    i = jnp.array(rows, jnp.float32)[:, None, None]
    j = (jnp.arange(-reach, N + reach)[None, :] - jnp.arange(N)[:, None]).astype(jnp.float32)[None]
    distance = (d * i**2 - 2.0 * b * i * j + a * j**2) / (a * d - b**2)
    weight = jnp.where(jnp.abs(j) <= reach, jnp.exp(-0.5 * distance), 0.0)
    return jnp.einsum("ihkc,iwk->hwc", down, weight / weight[:, :1].sum(), precision=EXACT)


def shrunk(x: Square, n: Float[Array, ""], f: Float[Array, ""], u: Float[Array, " u"]) -> tuple[Square, Array]:
    """(2), and how many pixels are left of n."""
    weighed = u[0] < 0.2
    factor = jnp.where(weighed, f, 1.0 + (2.0 * f - 1.0) * u[1])
    m = jnp.maximum(jnp.floor(n / factor), 1.0)
    return resized(x, n, m, jnp.where(weighed, 3, interpolation(u[2])), 0.1 + (0.6 * f - 0.1) * u[3]), m


def resized(
    x: Square, n: Float[Array, ""], m: Float[Array, ""], filter: Int32[Array, ""], width: Float[Array, ""] | float = 1.0
) -> Square:
    """The image of n x n pixels to m x m, within [-1, 1]."""
    S = resizing_matrix(len(x), n, m, filter, width)
    return jnp.clip(jnp.einsum("li,ijc,kj->lkc", S, x, S, precision=EXACT), -1.0, 1.0)


def resizing_matrix(
    N: int, n: Float[Array, ""], m: Float[Array, ""], filter: Int32[Array, ""], width: Float[Array, ""] | float = 1.0
) -> Float[Array, "{N} {N}"]:
    """Each row holds the weights of one new pixel, which sum to 1; those from m on are like row m - 1.

    Filters: 0 linear, 1 cubic, 2 area, 3 a Gaussian of a standard deviation of `width` pixels.
    """
    old = jnp.arange(N, dtype=jnp.float32)[None, :]
    factor = n / m
    begin = jnp.minimum(old, m - 1.0).T * factor
    d = jnp.abs(old + 0.5 - (begin + factor / 2.0))
    near = ((CUBIC + 2.0) * d - (CUBIC + 3.0)) * d**2 + 1.0
    far = CUBIC * (((d - 5.0) * d + 8.0) * d - 4.0)
    weights = (
        jnp.maximum(1.0 - d, 0.0),
        jnp.where(d < 1.0, near, jnp.where(d < 2.0, far, 0.0)),
        jnp.maximum(jnp.minimum(begin + factor, old + 1.0) - jnp.maximum(begin, old), 0.0),
        jnp.exp(-0.5 * (d / width) ** 2),
    )
    weight = jnp.where(old < n, jax.lax.select_n(filter, *weights), 0.0)
    return weight / weight.sum(axis=1, keepdims=True)


def noise(eps: Square, u: Float[Array, " u"]) -> Square:
    """(4) of Gaussian noise, in the units of [-1, 1]."""
    level = (1.0 + jnp.floor(2.0 * u[1])) / 127.5
    same = jnp.zeros((3, 3)).at[:, 0].set(1.0)
    mix = u[2:11].reshape(3, 3)
    mix = 2.0 / 127.5 * jnp.sqrt(u[11:14, None]) * mix / jnp.linalg.norm(mix, axis=1, keepdims=True)
    A = jnp.where(u[0] < 0.4, level * same, jnp.where(u[0] < 0.8, level * jnp.eye(3), mix))
    return jnp.einsum("ck,hwk->hwc", A, eps, precision=EXACT)


def filled(x: Square, n: Float[Array, ""]) -> Square:
    """What is beyond n x n pixels repeats their edge."""
    inside = jnp.minimum(jnp.arange(len(x)), n.astype(jnp.int32) - 1)
    return x[inside][:, inside]
