"""Plans of edits drawn (`inference/edits.py`)."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import PIL.Image

from reimagen_jax.api.drawing import Drawing, pipeline_of
from reimagen_jax.inference.edits import Plan
from reimagen_jax.inference.model import Model
from reimagen_jax.inference.origin import pixels_sha256
from reimagen_jax.inference.pipeline import Pipeline
from reimagen_jax.inference.prompts import Prompt
from reimagen_jax.reports.grids import labelled_grid


@dataclass(frozen=True)
class Edited(Drawing):
    """The images of a plan of edits; `prompts` has the one of each row."""

    plan: Plan

    def grid(self) -> PIL.Image.Image:
        """A row for each of the plan's: what was there before, neighbours, what was drawn."""
        image_PSHWC = self.image_PSHWC
        headings = list(max((row.shown for row in self.plan.rows), key=len))
        rows = []
        for row, images in zip(self.plan.rows, image_PSHWC, strict=True):
            shown = (row.shown.get(heading) for heading in headings)
            rows.append([images[each] if isinstance(each, int) else each for each in shown])
        return labelled_grid(rows, [row.prompt.text for row in self.plan.rows], headings, side=128)

    def write(
        self,
        folder: Path,
        facts: Mapping[str, Any] | None = None,
        *,
        by: Mapping[str, Any] | None = None,
        paths: bool = True,
    ) -> None:
        """As `Drawing.write`, with before.png and mask.png where one image is drawn on, and the edit's numbers."""
        told, edit = {"kind": self.plan.kind, **self.plan.told}, self.plan.edit
        if edit is not None:
            R = self.pipeline.stages[0].config.system.resolution
            told |= {"before": "before.png", "before_sha256": pixels_sha256(edit.image)}
            PIL.Image.fromarray(edit.image_at(R)).save(folder / "before.png")
        if edit is not None and edit.mask is not None:
            told |= {"mask": "mask.png", "mask_sha256": pixels_sha256(edit.mask)}
            PIL.Image.fromarray(edit.mask_at(R)).save(folder / "mask.png")
        by = {"made_by": "edit", **(by or {}), "more": {"edit": told}}
        super().write(folder, {**(facts or {}), "edit": told}, by=by, paths=paths)


def edit(model: Model, plan: Plan, *, seed: int = 0, batch_size: int = 16, **settings: Any) -> Edited:
    """Draws a plan of `inference/edits.py`: `image_to_image`, `inpainting`, `outpainting`, `variations`,
    `interpolation` or `swapping`. `settings` as for `draw`; `repeats` and `jump` walk stretches of steps again."""
    asked = [Prompt("", request.neighbours) for request in plan.requests]
    return edit_by(pipeline_of(model, asked, seed, batch_size, **settings), [model], plan)


def edit_by(pipeline: Pipeline, models: Sequence[Model], plan: Plan) -> Edited:
    """Draws a plan by the stages of a pipeline, whose models these are."""
    requests, stages = plan.drawn(pipeline.draw)
    return Edited([row.prompt for row in plan.rows], requests, models, pipeline, stages, plan)
