"""Numbers in words."""

import math

from reimagen_jax.evaluation.statistics import Interval
from reimagen_jax.systems.base import Neighbour


def say(share: Interval) -> str:
    """A share with its interval."""
    return f"{share.mean:.2f} ({share.low:.2f} to {share.high:.2f})"


def origin(hit: Neighbour) -> str:
    """Where a neighbour comes from: its score, or a person."""
    return "given by hand" if math.isnan(hit.score) else f"score {hit.score:.1f}"
