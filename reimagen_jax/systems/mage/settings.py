"""The settings of MAGE and of the tokenizer that it holds."""

from dataclasses import dataclass, field
from typing import Annotated, Any, ClassVar

from annotated_types import Lt

from reimagen_jax.checked import Count, NonNegative, Positive, Share
from reimagen_jax.config import FREE, LOCAL, DataConfig, SystemConfig
from reimagen_jax.diffusion.settings import DrawingConfig
from reimagen_jax.errors import require
from reimagen_jax.nets.settings import VQConfig
from reimagen_jax.systems.reimagen.settings import HandedOn


@dataclass(frozen=True)
class ImagesConfig(DataConfig):
    """Records; their captions are not read."""

    common: ClassVar[tuple[str, ...]] = ("records", "validation_share")

    records: str = field(default="", metadata=FREE | LOCAL)
    """Folder written by `reimagen prepare`. It may move; its content may not change within a run."""
    enlarge: bool = field(default=False, metadata=FREE)
    """Records may be smaller than what is drawn, and are enlarged; else they are refused."""
    validation_share: Annotated[Share, Lt(1)] = 0.0
    """Share of the records that is held out, drawn by `seed`; the training is watched by it."""


@dataclass(frozen=True)
class VQSamplerConfig(DrawingConfig):
    """How an image is put together again out of its tokens."""

    handed_on: HandedOn = "bytes"
    """Images as they would be written, or floats in [-1, 1] that were never rounded."""


@dataclass(frozen=True)
class VQSystemConfig(SystemConfig):
    """A tokenizer of images (tokenizer.py)."""

    common: ClassVar[tuple[str, ...]] = ("resolution",)

    kind: ClassVar[str] = "vq"
    data: ClassVar[type[DataConfig]] = ImagesConfig
    super_resolution: ClassVar[None] = None

    resolution: Count = 256
    """Side of the image in pixels."""
    vq: VQConfig = field(default_factory=VQConfig)
    l1: NonNegative = 1.0
    """Weight of the absolute error of pixels in [0, 1]."""
    l2: NonNegative = 1.0
    """Weight of the squared error of pixels in [0, 1]."""
    codebook: NonNegative = 1.0
    """Weight of the distance of codes to what becomes them."""
    commitment: NonNegative = 0.25
    """Weight of the distance of what becomes a code to it."""
    entropy: NonNegative = 0.1
    """Weight of the term that wants each token sure of its code, and all codes used (MaskGIT's; 0: none)."""
    temperature: Positive = 0.01
    """What distances to codes are divided by in that term."""
    sampler: VQSamplerConfig = field(default_factory=VQSamplerConfig, metadata=FREE)

    def __post_init__(self) -> None:
        super().__post_init__()
        check_side(self.resolution, self.vq)
        require(self.l1 + self.l2 > 0, "l1 and l2 are both 0: nothing would be learned of the pixels")

    @property
    def seen(self) -> int:
        """Side of the images of a batch."""
        return self.resolution

    def evaluations(self, settings: VQSamplerConfig) -> int:
        """Of the network for an image."""
        return 1

    def usage(self) -> str:
        return """A tokenizer of images (Esser et al., arXiv 2012.09841), which MAGE holds frozen:

    reimagen train experiments/rcg_mage32.py --workdir RUN --data.records RECORDS --init.weights DIR"""

    def facts(self, data: ImagesConfig) -> dict[str, Any]:
        return {"dtype": self.vq.dtype, "tokens": (self.resolution // self.vq.stride) ** 2, "codes": self.vq.codes}


def check_side(side: int, vq: VQConfig) -> None:
    """Raises `UserError` where an image's side is no whole number of tokens."""
    require(
        side % vq.stride == 0,
        f"resolution {side} is not a multiple of {vq.stride}, the pixels of a token's side (vq.patch {vq.patch}, "
        f"{len(vq.widths)} vq.widths)",
    )
