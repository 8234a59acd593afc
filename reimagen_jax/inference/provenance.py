"""Where images come from: models, settings, neighbours, libraries; for reports and for drawing again."""

import dataclasses
import hashlib
import math
import platform
from collections.abc import Sequence
from importlib.metadata import version
from typing import Any

import jax

from reimagen_jax import __version__
from reimagen_jax.config import to_dict
from reimagen_jax.inference.model import Model
from reimagen_jax.inference.pipeline import Stage
from reimagen_jax.systems.base import Neighbour
from reimagen_jax.systems.reimagen.settings import GuidedSamplerConfig

LIBRARIES = ("jax", "jaxlib", "flax", "numpy", "pillow")


def versions() -> dict[str, str]:
    """What the program ran on."""
    return {
        "reimagen_jax": __version__,
        **{name: version(name) for name in LIBRARIES},
        "Python": platform.python_version(),
        "system": platform.platform(),
        "device": f"{jax.device_count()} x {jax.devices()[0].device_kind}",
    }


def stage_facts(model: Model, stage: Stage) -> dict[str, Any]:
    """A model, the settings that it drew with, and its experiment, as JSON types."""
    return {
        "model": model.facts(),
        "sampler": dataclasses.asdict(stage.settings),
        "experiment": to_dict(model.config),
    }


def neighbours_as_json(neighbours: Sequence[Neighbour]) -> list[dict[str, Any]]:
    """What identifies the neighbours; the score is None where a person chose them."""
    return [
        {
            "key": hit.key,
            "text": hit.text,
            "score": None if math.isnan(hit.score) else round(hit.score, 4),
            "pixels_sha256": hashlib.sha256(hit.image.tobytes()).hexdigest(),
            **({} if hit.weight == 1 else {"weight": hit.weight}),
        }
        for hit in neighbours
    ]


def sampler_facts(settings: GuidedSamplerConfig, seed: int, num_images: int) -> dict[str, str]:
    """How it was drawn, in words."""
    return {
        "solver": settings.solver,
        "steps": str(settings.num_steps),
        "text weight": f"{settings.text_weight:g}",
        "neighbour weight": f"{settings.neighbour_weight:g}",
        **settings.told(),
        "thresholding": settings.thresholding,
        "seed": str(seed),
        "images per prompt and column": str(num_images),
    }
