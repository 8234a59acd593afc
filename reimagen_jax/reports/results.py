"""What a report shows as JSON types, for programs: its numbers and settings, and each prompt with its neighbours."""

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

import numpy as np

from reimagen_jax.config import Experiment, to_dict
from reimagen_jax.evaluation.ratings import Ratings
from reimagen_jax.evaluation.statistics import Curve
from reimagen_jax.inference.provenance import neighbours_as_json
from reimagen_jax.reports.report import Report


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
        "experiment": to_dict(config),
    }
    if sweep.keys:  # of the images in `images`
        shape = sweep.image_PSCHWC.shape[:3]
        facts["images_prompt_seed_column"] = np.asarray(sweep.keys, object).reshape(shape).tolist()
    if ratings is None:
        return facts | {"unrated": report.why_unrated}
    return facts | {
        "results": [
            {"name": row.name, "images": row.images, **_named(ratings, [share._asdict() for share in row.shares])}
            for row in report.rows
        ],
        "curves": _named(ratings, [_as_json(curve) for curve in ratings.curves]),
        "rated_prompts": ratings.applies_P.tolist(),
        "verdicts_prompt_seed_column": _named(ratings, ratings.verdict_VPSC.tolist()),
        "note": f"{ratings.note} {ratings.about_rater}",
    }


def _named(ratings: Ratings, values: Sequence[Any]) -> dict[str, Any]:
    return {curve.name: value for curve, value in zip(ratings.curves, values, strict=True)}


def _as_json(curve: Curve) -> dict[str, Any]:
    return {
        "over_eta": [point._asdict() for point in curve.points],
        "no_neighbours": curve.baseline._asdict(),
        "true_images": curve.ceiling,
    }
