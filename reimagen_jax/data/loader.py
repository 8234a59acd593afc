"""Step number -> this process's share of the step's batch, a function of settings and data; nothing of any system.

The records' order is a new permutation each epoch; with batches of B, step s takes the places s B .. s B + B - 1 of the
endless sequence of epochs. So the step number is the whole position in the data, and training resumes exactly.
"""

from collections.abc import Callable
from typing import Any

import grain
import jax
import numpy as np

from reimagen_jax.config import DataConfig
from reimagen_jax.errors import require

CACHE_BYTES = 2**31
"""Decoded images and tokens are kept in memory while all of them together take less."""
_BUFFERED_STEPS = 8

Draw = Callable[[np.ndarray, np.random.Generator], tuple[np.ndarray, ...]]
"""(ids of the whole batch, generator) -> arrays [B, ...]: the ids, and what is drawn for each at random."""


def make_steps(
    number: int,
    settings: DataConfig,
    draw: Draw,
    read: Callable[..., Any],
    *,
    process_index: int | None = None,
    process_count: int | None = None,
) -> grain.IterDataset:
    """The endless data set whose element s is `read(*draw(ids of step s))`, of this process's share of the batch.

    Processes take equal, consecutive parts of a step's batch (by default, as JAX numbers them), so that the batch as a
    whole does not depend on their number. The iterator's state is the next step's number. Raises `UserError` when the
    batch cannot be shared evenly by the processes.
    """
    index = jax.process_index() if process_index is None else process_index
    count = jax.process_count() if process_count is None else process_count
    require(
        settings.batch_size % count == 0,
        f"data.batch_size {settings.batch_size} is not a multiple of the {count} processes",
    )
    share = settings.batch_size // count
    part = slice(index * share, (index + 1) * share)
    steps = (
        grain.MapDataset.range(number)
        .seed(settings.seed)
        .shuffle()
        .repeat()
        .batch(settings.batch_size)
        .random_map(lambda ids_B, rng: tuple(drawn[part] for drawn in draw(ids_B, rng)))
        .map(lambda drawn: read(*drawn))
    )
    buffered = max(_BUFFERED_STEPS, settings.threads)
    return steps.to_iter_dataset(grain.ReadOptions(num_threads=settings.threads, prefetch_buffer_size=buffered))
