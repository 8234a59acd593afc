"""Which steps of a chain a sampler visits, by the names that people know them by.

  even      from the noisy end to the image at -1, equally spaced, rounded                                        (1)
  trailing  T - i T/n, rounded, less 1                                                                            (2)
  linspace  from T - 1 to 0, equally spaced, rounded                                                              (3)
  leading   the multiples of floor(T / n): they begin short of the noisy end                                      (4)
  ldm       those, each one further; the last step ends at step 0, which has noise, not at the image                (7)
  ddim      the multiples of the least stride that has n of them: they too begin short of it                      (5)
  fast27, smart27, ...   the chain in sections of equal length, (3) in each, by counts                            (6)

A sampler goes on from the last of them to the image, but for (7). Sources: Lin et al. 2023, table 2, and diffusers'
DDPM and DDIM (2, 3, 4); Nichol and Dhariwal's published code (5) and, with its counts, DeepFloyd IF's (6). IF's "10",
"27", "50", "100" and "150" are (3), its "ddim50" is (5) with n = 50. (3) is karlo's, too: diffusers' UnCLIPScheduler.
(7) is the published code of Rombach et al. 2022, and RCG's, where n divides T; diffusers' DDIM with steps_offset 1,
without set_alpha_to_one.
"""

from typing import Literal, get_args

import numpy as np

from reimagen_jax.errors import UserError, require

Respacing = Literal["fast27", "smart27", "smart50", "smart100", "smart185", "super27", "super40", "super100"]
Spacing = Literal["even", "trailing", "linspace", "leading", "ldm", "ddim", "karras", "logsnr", Respacing]
ANY_PROCESS: tuple[Spacing, ...] = ("even", "karras", "logsnr")
"""Those that need no chain."""
SECTIONS: dict[Respacing, tuple[int, ...]] = {
    "fast27": (10, 10, 3, 2, 2),
    "smart27": (7, 4, 2, 1, 2, 4, 7),
    "smart50": (10, 6, 4, 3, 2, 2, 3, 4, 6, 10),
    "smart100": (1, 1, 1, 1, 2, 2, 2, 2, 2, 2, 3, 3, 4, 4, 5, 5, 6, 7, 7, 8, 9, 10, 13),
    "smart185": (1, 1, 2, 2, 2, 3, 3, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16, 18, 20),
    "super27": (1, 1, 1, 1, 1, 1, 1, 2, 5, 13),
    "super40": (2, 2, 2, 2, 2, 2, 3, 4, 6, 15),
    "super100": (4, 4, 6, 6, 8, 8, 10, 10, 14, 30),
}
"""Steps in each section, from the image to the noisy end."""
assert set(SECTIONS) == set(get_args(Respacing))


def chain_steps(num_steps: int, T: int, spacing: Spacing) -> np.ndarray:
    """The `num_steps` steps of a chain of T that a sampler visits, from noise on; karras and logsnr are no lists.

    Raises `UserError` when there are no such steps.
    """
    require(num_steps <= T, f"sampler.num_steps is {num_steps}, but the model's chain has {T} steps")
    if spacing == "trailing":
        return np.round(np.arange(T, 0, -T / num_steps)[:num_steps]) - 1
    if spacing == "linspace":
        return np.round(np.linspace(0, T - 1, num_steps))[::-1] if num_steps > 1 else np.asarray([T - 1.0])
    if spacing == "leading":
        return np.arange(num_steps)[::-1] * (T // num_steps)
    if spacing == "ldm":
        require(num_steps < T, f"sampler.spacing 'ldm' visits {T - 1} steps of a chain of {T} at most: lower num_steps")
        return np.arange(num_steps)[::-1] * (T // num_steps) + 1
    if spacing == "ddim":
        stride = -(-T // num_steps)
        steps = np.arange(0, T, stride)
        said = f"sampler.spacing 'ddim' has no {num_steps} equal strides in a chain of {T} steps"
        require(len(steps) == num_steps, f"{said}: set sampler.num_steps to {len(steps)}")
        return steps[::-1]
    if spacing in SECTIONS:
        return _respaced(num_steps, T, spacing)
    return np.round(np.linspace(T - 1, -1, num_steps + 1))[:-1]


def _respaced(num_steps: int, T: int, name: Respacing) -> np.ndarray:
    """(6)"""
    counts = SECTIONS[name]
    said = f"sampler.spacing {name!r} has {sum(counts)} steps, but sampler.num_steps is {num_steps}: set it to"
    require(num_steps == sum(counts), f"{said} {sum(counts)}")
    sizes = [T // len(counts) + (i < T % len(counts)) for i in range(len(counts))]
    if any(count > size for count, size in zip(counts, sizes, strict=True)):
        raise UserError(f"sampler.spacing {name!r} is for longer chains than the model's, of {T} steps")
    starts = np.cumsum([0, *sizes[:-1]])
    parts = [start + _section(*each) for start, *each in zip(starts, counts, sizes, strict=True)]
    return np.concatenate(parts)[::-1]


def _section(count: int, size: int) -> np.ndarray:
    """`count` of `size` steps, from 0 to the last; of one, the first. Strides are summed up, as the published lists."""
    stride = (size - 1) / (count - 1) if count > 1 else 1.0
    return np.round(np.cumsum([0.0, *[stride] * (count - 1)]))
