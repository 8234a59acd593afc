"""The settings of the rater: its network, and how the renders that it learns from differ from the world's own."""

from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal

from reimagen_jax.config import FREE, DataConfig, Experiment, SystemConfig
from reimagen_jax.errors import require

OVERVIEW = 16
"""Side at which the scene is read."""


@dataclass(frozen=True)
class RaterConfig:
    """The rater's network. Raises `UserError` on settings that do not fit together."""

    resolution: int = 32
    """Side of the images that it reads."""
    look_widths: tuple[int, int, int] = (32, 64, 96)
    """Channels of the look reader after each halving."""
    look_hidden: int = 160
    scene_widths: tuple[int, int] = (32, 64)
    scene_hidden: int = 96
    groups: int = 8
    """Of the look reader's group norms; its widths must be multiples."""

    def __post_init__(self) -> None:
        require(self.resolution >= OVERVIEW, f"resolution {self.resolution} is below {OVERVIEW}: nothing can be read")
        for width in self.look_widths:
            require(width % self.groups == 0, f"look width {width} is not a multiple of groups {self.groups}")


@dataclass(frozen=True)
class Softening:
    """How far renders are softened, each by amounts of its own."""

    share: float = 0.5
    """Of the renders that are blurred, and (independently) that are noised."""
    blur: float = 0.7
    """At most so much of an image is replaced by its average over 3 x 3 pixels (binomial weights)."""
    noise: float = 0.04
    """Largest standard deviation of the noise, in [0, 1]."""


@dataclass(frozen=True)
class RaterSampler:
    """What is told of an image."""

    of: Literal["values", "logits"] = "values"
    """What it shows: the number of its category, of every value of the look if it shows category c (for every c), and
    of every value of the scene; or the logits of all of them (`net.Logits`), in this order."""


@dataclass(frozen=True)
class RenderData(DataConfig):
    """Renders that a step makes on its device; `seed` and `threads` have no part in them."""

    batch_size: int = 64
    """Renders a step."""


@dataclass(frozen=True)
class RaterSystemConfig(SystemConfig):
    """The network, and the renders that it learns from."""

    kind: ClassVar[str] = "rater"
    data: ClassVar[type[DataConfig]] = RenderData

    network: RaterConfig = field(default_factory=RaterConfig)
    softening: Softening = field(default_factory=Softening)
    jitter: float = 1.4
    """Largest factor on the world's jitter of pose and light; drawn in [1, jitter] for each image."""
    sampler: RaterSampler = field(default_factory=RaterSampler, metadata=FREE)

    def check_follows(self, before: Experiment, where: str) -> None:
        side, drawn = self.network.resolution, getattr(before.system, "resolution", None)
        draws = "draws none" if drawn is None else f"draws {drawn}"
        require(
            drawn == side, f"{where} reads images of {side} pixels, but the stage before it, {before.name}, {draws}"
        )

    def usage(self) -> str:
        return """A rater: it reads off an image of EntityWorld what it shows.

    reimagen rater train --from-run DIR --out RATER
    reimagen evaluate entities --rater RATER ..."""

    def facts(self, data: RenderData) -> dict[str, Any]:
        return {"resolution": self.network.resolution}
