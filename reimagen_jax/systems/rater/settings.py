"""The settings of the rater: its network, and how the renders that it learns from differ from the world's own."""

from dataclasses import dataclass, field
from typing import Annotated, Any, ClassVar, Literal

from annotated_types import Ge

from reimagen_jax.checked import Checked, Count, NonNegative, Number, Share
from reimagen_jax.config import FREE, DataConfig, Experiment, SystemConfig
from reimagen_jax.errors import require

OVERVIEW = 16
"""Side at which the scene is read."""
STRIDE = 8
"""What the sides of images are a multiple of: those that are read are drawn by U-Nets, which halve them."""


@dataclass(frozen=True)
class RaterConfig(Checked):
    """The rater's network. Raises `UserError` on settings that do not fit together."""

    section: ClassVar[str] = "network."

    resolution: Annotated[int, Ge(OVERVIEW)] = 32
    """Side of the images that it reads."""
    look_widths: tuple[Count, Count, Count] = (32, 64, 96)
    """Channels of the look reader after each halving."""
    look_hidden: Count = 160
    scene_widths: tuple[Count, Count] = (32, 64)
    scene_hidden: Count = 96
    groups: Count = 8
    """Of the look reader's group norms; its widths must be multiples."""

    def __post_init__(self) -> None:
        super().__post_init__()
        require(
            self.resolution % STRIDE == 0,
            f"network.resolution {self.resolution} is not a multiple of {STRIDE}: no network here draws such images",
        )
        for width in self.look_widths:
            require(
                width % self.groups == 0,
                f"network.look_widths: {width} is not a multiple of network.groups {self.groups}",
            )


@dataclass(frozen=True)
class Softening(Checked):
    """How far renders are softened, each by amounts of its own."""

    section: ClassVar[str] = "softening."

    share: Share = 0.5
    """Of the renders that are blurred, and (independently) that are noised."""
    blur: Share = 0.7
    """At most so much of an image is replaced by its average over 3 x 3 pixels (binomial weights)."""
    noise: NonNegative = 0.04
    """Largest standard deviation of the noise, in [0, 1]."""


@dataclass(frozen=True)
class RaterSampler(Checked):
    """What is told of an image."""

    section: ClassVar[str] = "sampler."

    of: Literal["values", "logits"] = "values"
    """What it shows: the number of its category, of every value of the look if it shows category c (for every c), and
    of every value of the scene; or the logits of all of them (`net.Logits`), in this order."""


@dataclass(frozen=True)
class RenderData(DataConfig):
    """Renders that a step makes on its device; `seed` and `threads` have no part in them."""

    batch_size: Count = 64
    """Renders a step."""


@dataclass(frozen=True)
class RaterSystemConfig(SystemConfig):
    """The network, and the renders that it learns from."""

    kind: ClassVar[str] = "rater"
    data: ClassVar[type[DataConfig]] = RenderData

    network: RaterConfig = field(default_factory=RaterConfig)
    softening: Softening = field(default_factory=Softening)
    jitter: Annotated[Number, Ge(1)] = 1.4
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
