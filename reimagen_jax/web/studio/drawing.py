"""What was drawn: images, where they come from, and what the page is told of it."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any

import numpy as np

from reimagen_jax.inference import edits
from reimagen_jax.inference.origin import Origin
from reimagen_jax.inference.pipeline import Pipeline
from reimagen_jax.inference.prompts import Prompt
from reimagen_jax.inference.provenance import origins
from reimagen_jax.systems.request import Request
from reimagen_jax.web.studio.asked import Drawn
from reimagen_jax.web.studio.offered import Offered
from reimagen_jax.web.studio.programs import Part


@dataclass(frozen=True)
class Line:
    """What a command line that draws the same has to say."""

    offered: Offered
    asked: Drawn
    prompt: Prompt
    pipeline: Pipeline
    eta: float | None
    baseline: bool
    """Whether an edit is drawn without neighbours, too."""
    files: Mapping[str, str]
    """Picture that was sent here -> the name that its file is to have."""


@dataclass
class Drawing:
    """What was drawn."""

    number: int
    asked: Drawn
    offered: Offered
    parts: list[Part] = field(repr=False)
    requests: list[Request] = field(repr=False)
    image_NHWC: np.ndarray = field(repr=False)
    origins: list[Origin] = field(repr=False)
    columns: list[dict[str, Any]] = field(repr=False)
    """Of every image: its row and label, its eta if it has one, whether it is without neighbours, or which is the same
    without."""
    hits: list[dict[str, Any]] = field(repr=False)
    other_hits: list[dict[str, Any]] = field(repr=False)
    files: dict[str, bytes] = field(repr=False)
    """Pictures that the command line reads, by name."""
    plan: edits.Plan | None = field(repr=False)
    """Of an edit."""
    seconds: float = 0.0

    def name(self, n: int) -> str:
        """Of an image's file."""
        slug = "-".join(re.findall(r"[a-z0-9]+", self.asked.prompt.lower()))[:40].strip("-") or "image"
        label = re.sub(r"[^a-z0-9.]+", "-", self.columns[n]["name"].lower()).strip("-")
        return f"{self.number:03d}-{slug}-{label}-{self.columns[n]['row'] + 1}"

    def told(self) -> dict[str, Any]:
        """In JSON types."""
        shown = [
            column | {"url": f"/api/drawings/{self.number}/{n}.png", "file": self.name(n)}
            for n, column in enumerate(self.columns)
        ]
        about = [{"command": origin.command, "index": origin.index} for origin in self.origins]
        return {
            "number": self.number,
            "asked": asdict(self.asked),
            "images": [one | told for one, told in zip(shown, about, strict=True)],
            "neighbours": self.hits,
            "others": self.other_hits,
            "files": sorted(self.files),
            "model": self.offered.label,
            "resolution": self.image_NHWC.shape[1],
            "seconds": round(self.seconds, 2),
        }


def origins_of(
    offered: Offered, parts: Sequence[Part], requests: Sequence[Request], drawn: np.ndarray,
    plan: edits.Plan | None, commands: Sequence[str],
) -> list[Origin]:  # fmt: skip
    """Where the images of requests come from; each tells its own command."""
    by = {"made_by": "sample"} if plan is None else {"made_by": "edit"}
    by |= {} if plan is None else {"more": {"edit": {"kind": plan.kind, **plan.told}}}
    origin_of = {}
    for part in parts:
        asked = [requests[n] for n in part.places]
        told = origins(offered.models, part.pipeline, asked, drawn[list(part.places)], command="", **by)
        origin_of |= dict(zip(part.places, told, strict=True))
    return [replace(origin_of[n], command=command) for n, command in enumerate(commands)]
