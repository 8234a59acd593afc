"""Prompts drawn at every eta, from the same noise, and what a report says of it."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import UInt8

from reimagen_jax.checked import Count, Share, checked
from reimagen_jax.evaluation.grids import about
from reimagen_jax.evaluation.ratings import rate, rater_for
from reimagen_jax.evaluation.store import Images
from reimagen_jax.evaluation.sweeps import Sweep, draw_sweep
from reimagen_jax.files import atomic_dir, write_json
from reimagen_jax.inference.model import Model
from reimagen_jax.inference.pipeline import Pipeline
from reimagen_jax.inference.prompts import Prompt
from reimagen_jax.inference.provenance import sampler_facts, stage_facts, versions
from reimagen_jax.reports.report import Report, write_report
from reimagen_jax.reports.results import as_json

IMAGES = "images"
"""The folder of the images, within that of a sweep."""


@dataclass(frozen=True)
class Swept:
    """Prompts drawn at a range of eta, and once without neighbours, with what a rater says of the images."""

    model: Model
    report: Report
    cascade: Sequence[Mapping[str, Any]] = ()
    """What sweep.json tells of the stages after the first."""

    @property
    def image_PSCHWC(self) -> UInt8[np.ndarray, "p s c h w 3"]:
        """Prompts, seeds, and columns: without neighbours, then one for each eta."""
        return self.report.sweep.image_PSCHWC

    def save(self, folder: str | Path, *, overwrite: bool = False) -> Path:
        """Writes a folder: report.html (one file that needs nothing else), report.png, sweep.json."""
        with atomic_dir(folder, kind="sweep", overwrite=overwrite) as partial:
            self.write(partial)
        return Path(folder)

    def write(self, folder: Path, name: str = "sweep.json") -> None:
        """The same into an existing folder, the numbers in a file of this name."""
        write_report(self.report, folder)
        told = as_json(self.report, self.model.config)
        write_json(folder / name, told | ({"cascade": self.cascade} if self.cascade else {}))


def sweep_by(
    pipeline: Pipeline,
    models: Sequence[Model],
    prompts: Sequence[Prompt],
    etas: Sequence[float],
    num_images: int,
    *,
    rater: str | Path | None = None,
    command: str | Callable[[Sweep], str],
    data: Mapping[str, str] | None = None,
    images: Images | None = None,
) -> Swept:
    """Draws by a pipeline of these models what is not among the `images` yet; `command` and `data` are what the report
    says of where it comes from."""
    model = models[0]
    checked(tuple(etas), tuple[Share, ...], "etas")
    checked(num_images, Count, "num_images")
    found, why_unrated = rater_for(prompts, pipeline.config.system.resolution, rater)  # before hours of drawing
    told = about(models, [stage.settings for stage in pipeline.stages])
    drawn = draw_sweep(pipeline, prompts, sorted(set(etas)), num_images, images, told)
    counts = (count(len(prompts), "prompt"), count(len(drawn.etas), "value"), count(num_images, "image"))
    report = Report(
        title=f"From neighbours to text: {model.config.name}",
        introduction=f"{counts[0]}, {counts[1]} of η and the same without neighbours, {counts[2]} of each.",
        sweep=drawn,
        command=command if isinstance(command, str) else command(drawn),
        settings=report_settings(model, data or {"prompts": "given in Python"}, drawn) | later_facts(models, pipeline),
        ratings=rate(drawn, found) if found is not None else None,
        why_unrated=why_unrated,
    )
    return Swept(model, report, tuple(map(stage_facts, models, pipeline.stages))[1:])


def later_facts(models: Sequence[Model], pipeline: Pipeline) -> dict[str, Mapping[str, str]]:
    """What a report tells of the stages after the first, in groups."""
    later = list(zip(models, pipeline.stages, strict=True))[1:]
    told = [model.facts() | {"steps": str(stage.settings.num_steps)} | stage.settings.told() for model, stage in later]
    return {f"Stage {number}": facts for number, facts in enumerate(told, 2)}


def report_settings(model: Model, data: Mapping[str, str], drawn: Sweep) -> dict[str, Mapping[str, str]]:
    """The settings that a report shows, in groups."""
    sampler = sampler_facts(drawn.sampler, drawn.seed, drawn.num_seeds)
    return {"Model": model.facts(), "Data": data, "Sampler": sampler, "Versions": versions()}


def count(n: int, what: str) -> str:
    return f"{n} {what}{'' if n == 1 else 's'}"
