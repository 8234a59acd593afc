"""The systems to choose among: models in a row, what they can be asked for, and what they lack and why."""

from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, get_args

from reimagen_jax.diffusion.settings import Solver
from reimagen_jax.errors import require
from reimagen_jax.inference.abilities import Ability, example, lacking
from reimagen_jax.inference.model import Model
from reimagen_jax.retrieval.asking import BY_CAPTION, Asking
from reimagen_jax.systems.request import Request

EXAMPLES = 3
"""Prompts to begin with."""
KINDS = {"draw": None, "image": "edit", "inpaint": "edit", "vary": "edit", "swap": "neighbours"}
"""What can be done -> what a system has to be able to for it."""


@dataclass(frozen=True)
class Offered:
    """A system to choose: its models, in a row."""

    label: str
    paths: tuple[Path, ...]
    models: tuple[Model, ...] = field(repr=False)

    @property
    def first(self) -> Model:
        return self.models[0]

    @property
    def settings(self) -> Any:
        """Of the first stage, as its experiment says."""
        return self.first.config.system.sampler

    @cached_property
    def lacks(self) -> dict[Ability, str]:
        """What it cannot be asked for, and why."""
        return lacking([model.config for model in self.models], self.settings)

    @property
    def has_eta(self) -> bool:
        """Whether what it draws is asked for by an eta."""
        return "eta" not in self.lacks

    @property
    def takes_neighbours(self) -> bool:
        return "neighbours" not in self.lacks

    @cached_property
    def without(self) -> Any:
        """The first stage's settings that draw without neighbours: its own, or others; None where it needs some."""
        other = self.settings.of_text_alone()
        if "alone" not in self.lacks:
            return self.settings
        return None if "alone" in lacking([self.first.config], other) else other

    @property
    def apart(self) -> bool:
        """Whether images without neighbours are drawn by settings, and so by a program, of their own."""
        return self.without is not None and self.without != self.settings

    @property
    def kinds(self) -> list[str]:
        """What can be done with it."""
        return [kind for kind, ability in KINDS.items() if ability not in self.lacks]

    @property
    def how(self) -> Asking:
        """How the knowledge base is asked: as in training, where that is told."""
        return getattr(self.first.config.data, "asked", None) or BY_CAPTION

    def check(self) -> None:
        """Raises `UserError` where neither a prompt nor neighbours, all that there is to ask by, say anything to it."""
        by_prompt = self.without is not None and "prompt" not in self.lacks
        why = {name: self.lacks.get(name, "") for name in ("prompt", "alone", "neighbours")}
        require(
            by_prompt or self.takes_neighbours,
            f"--model {self.label} cannot be asked by a prompt or by neighbours, as the studio asks: "
            f"{why['prompt'] or why['alone']}; {why['neighbours']}",
        )

    def request(self, room: int) -> Request | None:
        """One that stands for all with room for so many neighbours; None where there is none."""
        if room == 0 and self.without is None:
            return None
        return example(self.first.config, neighbours=room > 0)

    def told(self) -> dict[str, Any]:
        """What the page has to know, in JSON types."""
        own, config, last = self.settings, self.first.config, self.models[-1].config
        k, known = getattr(own, "k", None), config.system.known_prompts
        numbers = {name: getattr(own, name, None) for name in ("eta", "text_weight", "neighbour_weight")}
        return {
            "label": self.label,
            "names": [model.config.name for model in self.models],
            "kind": config.system.kind,
            "kinds": self.kinds,
            "resolution": last.system.resolution,
            "k": config.data.num_neighbours if k is None else k,
            "neighbours": self.takes_neighbours,
            "without": self.without is not None,
            "prompts": None if known is None else list(known[:EXAMPLES]),
            "negative": "negative" not in self.lacks,
            **{name: None if name in self.lacks else value for name, value in numbers.items()},
            "steps": None if getattr(own, "times", ()) else getattr(own, "num_steps", None),
            "solver": getattr(own, "solver", None),
            "solvers": list(get_args(Solver)) if hasattr(own, "solver") else [],
            "lacks": self.lacks if self.without is None else {n: w for n, w in self.lacks.items() if n != "alone"},
        }
