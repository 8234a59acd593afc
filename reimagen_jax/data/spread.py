"""Which of many are looked at where all would take too long, or are too many to be shown."""

import numpy as np
from jaxtyping import Int


def spread(count: int, most: int) -> Int[np.ndarray, " n"]:
    """Numbers from 0 to `count` - 1, rising and evenly spaced: all, or `most` with the first and the last among them
    (one alone is the first)."""
    return np.linspace(0, count - 1, min(count, most)).round().astype(int)
