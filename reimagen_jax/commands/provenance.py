"""Where images come from: the model that was opened, the settings, the libraries; for reports and for drawing again."""

import hashlib
import platform
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp

from reimagen_jax import __version__
from reimagen_jax.commands.options import SamplingOptions
from reimagen_jax.config import Experiment, SamplerConfig
from reimagen_jax.evaluation.ratings import Ratings
from reimagen_jax.evaluation.report import Report
from reimagen_jax.evaluation.svg import Curve
from reimagen_jax.inference.cascade import Cascade
from reimagen_jax.inference.generator import Generator, open_weights
from reimagen_jax.inference.prompts import Prompt
from reimagen_jax.inference.requests import Neighbour
from reimagen_jax.inference.texts import with_text_encoder
from reimagen_jax.training.checkpoint import load_ema

SHIPPED = "shipped"
SHIPPED_MODEL = Path(__file__).parent.parent / "assets" / "entityworld32"
LIBRARIES = ("jax", "jaxlib", "flax", "numpy", "pillow")


@dataclass(frozen=True)
class Model:
    """An opened model, and how to know it again."""

    path: Path
    config: Experiment
    params: Any
    step: int | None
    """Of the checkpoint; None for a folder of weights."""
    digest: str
    """SHA-256 of the parameters (the first 16 hex digits), whatever file they came from."""

    @classmethod
    def open(cls, path: str | Path, text_encoder: str | Path | None = None) -> "Model":
        """Opens the last checkpoint of a training run, a folder of weights, or the `shipped` weights.

        `text_encoder` is where the frozen text encoder of the model lies, if it is not where it was in training.
        Raises `UserError` when one is given to a model that has none.
        """
        path = SHIPPED_MODEL if str(path) == SHIPPED else Path(path)
        step = _last_step(path)
        config, params = open_weights(path) if step is None else load_ema(path, step)
        config = with_text_encoder(config, text_encoder)
        return cls(path, config, params, step, _digest(params))

    def generator(self, sampler: SamplerConfig, options: SamplingOptions, prompts: Sequence[Prompt]) -> Generator:
        """A generator with room for the neighbours that the prompts have."""
        most = max(len(prompt.neighbours) for prompt in prompts)
        return Generator(
            self.config, self.params, sampler, max_neighbours=most, batch_size=options.batch_size, seed=options.seed
        )

    def facts(self) -> dict[str, str]:
        """For reports."""
        return {
            "model": self.config.name,
            "folder": str(self.path.resolve()),
            "checkpoint": "weights" if self.step is None else f"step {self.step}",
            "parameters": f"{_count(self.params):,}",
            "SHA-256": self.digest,
            "resolution": f"{self.config.resolution} x {self.config.resolution}",
        }


def cascade(
    models: Sequence[Model],
    samplers: Sequence[SamplerConfig],
    neighbours: Sequence[int],
    batch_sizes: Sequence[int],
    seed: int,
) -> Cascade:
    """The stages that draw with these models, each with its own settings; one model is a cascade of one stage."""
    each = zip(models, samplers, neighbours, batch_sizes, strict=True)
    return Cascade(
        [
            Generator(model.config, model.params, sampler, max_neighbours=k, batch_size=size, seed=seed)
            for model, sampler, k, size in each
        ]
    )


def versions() -> dict[str, str]:
    """What the program ran on."""
    return {
        "reimagen_jax": __version__,
        **{name: version(name) for name in LIBRARIES},
        "Python": platform.python_version(),
        "system": platform.platform(),
        "device": f"{jax.device_count()} x {jax.devices()[0].device_kind}",
    }


def sampler_facts(sampler: SamplerConfig, options: SamplingOptions) -> dict[str, str]:
    """For reports."""
    return {
        "solver": sampler.solver,
        "steps": str(sampler.num_steps),
        "text weight": f"{sampler.text_weight:g}",
        "neighbour weight": f"{sampler.neighbour_weight:g}",
        "thresholding": sampler.thresholding,
        "seed": str(options.seed),
        "images per prompt and column": str(options.num_images),
    }


def neighbours_as_json(neighbours: Sequence[Neighbour]) -> list[dict[str, Any]]:
    """What identifies the neighbours; the score is None where a person chose them."""
    return [
        {
            "key": hit.key,
            "text": hit.text,
            "score": None if hit.score != hit.score else round(hit.score, 4),
            "pixels_sha256": hashlib.sha256(hit.image.tobytes()).hexdigest(),
        }
        for hit in neighbours
    ]


def as_json(report: Report, config: Experiment) -> dict[str, Any]:
    """A report's numbers and settings, and each prompt with its neighbours, for programs."""
    sweep, ratings = report.sweep, report.ratings
    facts = {
        "command": report.command,
        "settings": report.settings,
        "sampler": asdict(sweep.sampler),
        "seed": sweep.seed,
        "columns": sweep.columns,
        "etas": sweep.etas,
        "prompts": [
            {
                "prompt": prompt.text,
                "record": prompt.key,
                "indices": [p * sweep.num_seeds + s for s in range(sweep.num_seeds)],
                "neighbours": neighbours_as_json(prompt.neighbours),
            }
            for p, prompt in enumerate(sweep.prompts)
        ],
        "experiment": asdict(config),
    }
    if ratings is None:
        return facts | {"unrated": report.why_unrated}
    return facts | {
        "results": [
            {"name": row.name, "images": row.images, **_named(ratings, [share._asdict() for share in row.shares])}
            for row in report.rows
        ],
        "curves": _named(ratings, [_curve(curve) for curve in ratings.curves]),
        "rated_prompts": ratings.applies_P.tolist(),
        "verdicts_prompt_seed_column": _named(ratings, ratings.verdict_VPSC.tolist()),
        "note": f"{ratings.note} {ratings.about_rater}",
    }


def _named(ratings: Ratings, values: Sequence[Any]) -> dict[str, Any]:
    return {curve.name: value for curve, value in zip(ratings.curves, values, strict=True)}


def _curve(curve: Curve) -> dict[str, Any]:
    return {
        "over_eta": [point._asdict() for point in curve.points],
        "no_neighbours": curve.baseline._asdict(),
        "true_images": curve.ceiling,
    }


def _last_step(path: Path) -> int | None:
    """The number of a training run's last checkpoint; None where there is none."""
    folder = path.absolute() / "checkpoints"
    return max(ocp.utils.checkpoint_steps(folder), default=None) if folder.is_dir() else None


def _digest(params: Any) -> str:
    digest = hashlib.sha256()
    for place, leaf in jax.tree_util.tree_leaves_with_path(params):
        digest.update(jax.tree_util.keystr(place).encode())
        digest.update(np.ascontiguousarray(leaf).tobytes())
    return digest.hexdigest()[:16]


def _count(params: Any) -> int:
    return sum(leaf.size for leaf in jax.tree.leaves(params))
