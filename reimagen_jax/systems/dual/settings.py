"""The settings of a dual encoder's training, and of the records that it learns from."""

from dataclasses import dataclass, field
from typing import Annotated, Any, ClassVar, Literal

from annotated_types import Ge, Gt, Le, Lt

from reimagen_jax.checked import Checked, NonNegative, Number, Share
from reimagen_jax.config import FREE, LOCAL, DataConfig, Experiment, SystemConfig
from reimagen_jax.encoders.settings import DualConfig, JointConfig
from reimagen_jax.errors import require


@dataclass(frozen=True)
class DualSampler(Checked):
    """Which tower is asked for vectors."""

    section: ClassVar[str] = "sampler."

    of: Literal["text", "image"] = "text"
    """A request's prompt, or the image that it starts from."""


@dataclass(frozen=True)
class DualData(DataConfig):
    """Records, which of them belong together, and what is left out of a step."""

    batch_size: Annotated[int, Ge(2)] = 128
    """Pairs a step; each is told from all others of its batch."""
    records: str = field(default="", metadata=FREE | LOCAL)
    """Folder written by `reimagen prepare`. It may move; its content may not change within a run."""
    same_by: str = "caption"
    """What of two records makes them belong together: `caption`, or the name of an attribute (entity, for instance)."""
    held_out: Annotated[Number, Gt(0), Lt(1)] = 0.1
    """Share of the pictures that are kept for measuring, 1000 at most."""
    word_drop: Annotated[Share, Lt(1)] = 0.2
    """Probability that a word of a caption is left out of a step."""
    views_by: str = ""
    """The attribute (entity, for instance) in which records agree that show the same thing, for `views`."""


@dataclass(frozen=True)
class DualSystemConfig(SystemConfig):
    """The two towers, and how far images are shifted in training."""

    kind: ClassVar[str] = "dual"
    data: ClassVar[type[DataConfig]] = DualData

    network: DualConfig = field(default_factory=DualConfig)
    shift: Annotated[Number, Ge(0), Le(0.5)] = 0.08
    """Images are shifted by up to this share of their side, each way."""
    views: NonNegative = 0.0
    """Weight of a loss among images: each is told by another picture of the same thing (`data.views_by`) from the
    pictures of other things. Where captions say much of a scene and little of what a thing looks like, vectors learn
    the scene alone from them; with this they keep the thing, too."""
    sampler: DualSampler = field(default_factory=DualSampler, metadata=FREE)

    def check(self, data: DualData) -> None:
        require(
            (self.views > 0) == bool(data.views_by),
            f"views is {self.views:g} and data.views_by {data.views_by!r}: the weight of a loss among pictures of the "
            "same thing, and the attribute that says which these are, are set both or neither",
        )

    def check_follows(self, before: Experiment, where: str) -> None:
        side, drawn = self.network.resolution, before.system.drawn
        draws = "draws none" if drawn is None else f"draws {drawn}"
        require(
            drawn == side, f"{where} reads images of {side} pixels, but the stage before it, {before.name}, {draws}"
        )

    def usage(self) -> str:
        return """A dual encoder of texts and images, for knowledge bases that search by vectors.

    reimagen encode-train RECORDS --from-run DIR --out ENCODER
    reimagen index RECORDS --encoder ENCODER --out INDEX"""

    def facts(self, data: DualData) -> dict[str, Any]:
        return {"width": self.network.width, "resolution": self.network.resolution}


@dataclass(frozen=True)
class ClipSystemConfig(DualSystemConfig):
    """The same with the towers of a CLIP, which prior and decoder of unCLIP hold frozen."""

    kind: ClassVar[str] = "clip"

    network: JointConfig = field(default_factory=JointConfig)
    targets: Literal["groups", "pairs"] = "groups"
    """What is near an image: all texts of its batch that belong to it (equal captions, equal pictures), or its own
    alone, as CLIP has it."""

    def __post_init__(self) -> None:
        super().__post_init__()
        require(self.network.image is not None, "network.image is missing: an image tower is trained, too")

    def usage(self) -> str:
        return super().usage().replace("A dual encoder of texts and images, for", "A CLIP, for unCLIP and")
