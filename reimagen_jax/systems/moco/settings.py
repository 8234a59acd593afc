"""The settings of MoCo-v3: the encoder, how views are made of an image, and the records that it learns from."""

from dataclasses import dataclass, field
from typing import Annotated, Any, ClassVar, Literal

from annotated_types import Ge, Le

from reimagen_jax.checked import Checked, Count, Number, Positive, Share, Strength
from reimagen_jax.config import FREE, DataConfig, SystemConfig
from reimagen_jax.encoders.settings import RepresentationConfig
from reimagen_jax.errors import require
from reimagen_jax.systems.settings import RecordsConfig


@dataclass(frozen=True)
class AugmentConfig(Checked):
    """How a view is made of an image (augment.py). By default as MoCo-v3 has it; pairs are of the first and the second
    view."""

    section: ClassVar[str] = "augment."

    crop: tuple[Strength, Strength] = (0.08, 1.0)
    """Least and most share of the image's area that a view shows, enlarged."""
    aspect: Annotated[Number, Ge(1)] = 4 / 3
    """Largest ratio of a crop's sides, either way."""
    flip: Share = 0.5
    """Probability that a view is mirrored."""
    jitter: Share = 0.8
    """Probability that colours are changed, by factors in 1 -+ brightness, contrast and saturation, and by the hue."""
    brightness: Share = 0.4
    contrast: Share = 0.4
    saturation: Share = 0.2
    hue: Annotated[Share, Le(0.5)] = 0.1
    """Colours are turned by up to this share of a full circle, each way."""
    grey: Share = 0.2
    """Probability that a view loses its colours."""
    blur: tuple[Share, Share] = (1.0, 0.1)
    """Probability that a view is blurred."""
    blur_sigma: tuple[Positive, Positive] = (0.1, 2.0)
    """Least and most standard deviation of the blur, in pixels of a view of 224."""
    solarise: tuple[Share, Share] = (0.0, 0.2)
    """Probability that what is brighter than the middle is inverted."""

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("crop", "blur_sigma"):
            low, high = getattr(self, name)
            require(low <= high, f"augment.{name}: the least, {low:g}, is more than the most, {high:g}")


@dataclass(frozen=True)
class MocoSampler(Checked):
    """What is told of an image."""

    section: ClassVar[str] = "sampler."

    of: Literal["representation", "features"] = "representation"
    """What RCG draws from, of an encoder whose statistics are measured; or the class token's vector."""


@dataclass(frozen=True)
class MocoData(RecordsConfig):
    """Records; their captions are not read."""

    batch_size: Annotated[int, Ge(2)] = 256
    """Images a step; each is told from all others of its batch."""
    class_by: str = ""
    """Attribute whose values are the classes, where it learns by labels; a dot reaches into nested ones."""


@dataclass(frozen=True)
class MocoConfig(SystemConfig):
    """The encoder, what it is trained by, and how."""

    common: ClassVar[tuple[str, ...]] = ("objective",)

    kind: ClassVar[str] = "moco"
    data: ClassVar[type[DataConfig]] = MocoData

    network: RepresentationConfig = field(default_factory=RepresentationConfig)
    objective: Literal["moco", "supervised"] = "moco"
    """Two views of an image are to be told from all other images; or, to compare with, its class is to be told."""
    classes: tuple[str, ...] = ()
    """The values of `data.class_by`; by default those that the records have."""
    side: Count | None = None
    """Side of the images that views are cut from; None: `network.resolution`, which views have."""
    predictor_width: Count = 512
    """Channels between the predictor's two products (MoCo-v3: 4096)."""
    temperature: Positive = 0.2
    augment: AugmentConfig = field(default_factory=AugmentConfig)
    sampler: MocoSampler = field(default_factory=MocoSampler, metadata=FREE)

    def check(self, data: MocoData) -> None:
        by_class = self.objective == "supervised"
        require(
            by_class == bool(data.class_by),
            f"objective is {self.objective!r}, data.class_by {data.class_by!r}: classes are for "
            "'supervised', name them there and only there",
        )

    @property
    def drawn(self) -> None:
        return None

    @property
    def seen(self) -> int:
        """Side of the images of a batch."""
        return self.side or self.network.resolution

    def usage(self) -> str:
        return """An encoder of images that has learned without labels (MoCo-v3, arXiv 2104.02057), for RCG.

    reimagen encode-train RECORDS --from-run DIR --out ENCODER"""

    def facts(self, data: MocoData) -> dict[str, Any]:
        return {"resolution": self.network.resolution, "dtype": self.network.dtype}
