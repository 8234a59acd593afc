"""What the page may ask for, and in which bounds."""

from dataclasses import dataclass, field
from typing import Annotated, Literal

from annotated_types import Ge, Le, MaxLen

from reimagen_jax.checked import Checked, Natural, NonNegative, Seed, Share, Strength
from reimagen_jax.diffusion.settings import Solver
from reimagen_jax.errors import require

Kind = Literal["draw", "image", "inpaint", "vary", "swap"]
"""A strip over eta; on a picture; into a picture; an image and others like it; the same noise, other neighbours."""
Text = Annotated[str, MaxLen(2000)]
Key = Annotated[str, MaxLen(2000)]
Id = Annotated[str, MaxLen(64)]
Few = Annotated[int, Ge(1), Le(8)]
Weight = Annotated[NonNegative, Le(100)]
StepCount = Annotated[int, Ge(1), Le(250)]
MOST = 16
"""Neighbours of an image."""
MASK = 32
"""Side of a mask, in squares."""


@dataclass(frozen=True)
class Own(Checked):
    """A picture that was sent here, as a neighbour."""

    picture: Id
    caption: Text


@dataclass(frozen=True)
class Chosen(Checked):
    """Which neighbours: first one's own, then the pinned, then what the knowledge base finds."""

    query: Text = ""
    """What it is asked for; empty: the prompt."""
    k: Annotated[int, Ge(0), Le(MOST)] = 2
    """All together."""
    own: Annotated[tuple[Own, ...], MaxLen(MOST)] = ()
    pin: Annotated[tuple[Key, ...], MaxLen(MOST)] = ()
    ban: Annotated[tuple[Key, ...], MaxLen(100)] = ()

    def __post_init__(self) -> None:
        super().__post_init__()
        both = set(self.pin) & set(self.ban)
        require(not both, f"{min(both, default='')} is pinned and banned: choose one")
        for own in self.own:
            require(bool(own.caption.strip()), "a picture of yours has no caption: say what it shows")


@dataclass(frozen=True)
class Search(Checked):
    """What the knowledge base has for a prompt."""

    model: Text
    prompt: Text
    chosen: Chosen = field(default_factory=Chosen)

    def __post_init__(self) -> None:
        super().__post_init__()
        require(bool(self.prompt.strip()), "there is no prompt: say what to draw")


@dataclass(frozen=True)
class Drawn(Search):
    """What to draw, and how; what is None is as in the model's experiment."""

    kind: Kind = "draw"
    negative: Text = ""
    eta: Share | None = None
    """Of what is edited; a strip has all of them."""
    text_weight: Weight | None = None
    neighbour_weight: Weight | None = None
    steps: StepCount | None = None
    solver: Solver | None = None
    seed: Seed = 0
    num_images: Few = 1
    picture: Id = ""
    """That is drawn on: one that was sent here, or was drawn."""
    mask: Annotated[str, MaxLen(MASK * MASK)] = ""
    """MASK x MASK signs, row by row: 1 is drawn anew, 0 is kept."""
    strength: Strength = 0.6
    to_prompt: Text = ""
    """That is swapped to; empty: the same."""
    to: Chosen | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        require(
            self.kind != "inpaint" or (len(self.mask) == MASK**2 and set(self.mask) <= {"0", "1"}),
            f"the mask is not {MASK} x {MASK} signs of 0 and 1",
        )
        require(self.kind not in ("image", "inpaint") or bool(self.picture), "there is no picture to draw on: give one")
        require(self.kind != "swap" or self.to is not None, "there is nothing to swap to")


@dataclass(frozen=True)
class Warm(Checked):
    """A model whose program is to be compiled."""

    model: Text
    k: Annotated[Natural, Le(MOST)] = 2
    steps: StepCount | None = None
    solver: Solver | None = None
