"""The settings of MAGE and of the tokenizer that it holds."""

import dataclasses
from dataclasses import dataclass, field
from typing import Annotated, Any, ClassVar, Literal

from annotated_types import Ge, Lt

from reimagen_jax.checked import Checked, Count, Natural, NonNegative, Positive, Share, Strength
from reimagen_jax.config import FREE, DataConfig, GroupRate, SystemConfig
from reimagen_jax.diffusion.settings import DrawingConfig, SamplerSteps
from reimagen_jax.encoders.settings import ImageNetwork, LpipsConfig, RepresentationConfig
from reimagen_jax.errors import require
from reimagen_jax.nets.settings import PatchGANConfig, Tower, VQConfig
from reimagen_jax.systems.rcg.settings import PicturesConfig, PixelsConfig, encoder_of, encoder_params
from reimagen_jax.systems.settings import HandedOn, RecordsConfig

AdversarialLoss = Literal["hinge", "nonsaturating"]
FROZEN = GroupRate("^(encoder|vq)/", 0.0)
"""For `train.rates`: the tokenizer and the encoder that MAGE holds do not learn."""


FROZEN_FEATURES = GroupRate("^perceptual/", 0.0)
"""For `train.rates`: the encoder in whose features a tokenizer's images are compared does not learn."""


@dataclass(frozen=True)
class PerceptualConfig(Checked):
    """Images are compared in the features of an encoder that the tokenizer holds frozen as it learns, and only then."""

    common: ClassVar[tuple[str, ...]] = ("weight",)

    section: ClassVar[str] = "perceptual."

    weight: NonNegative = 0.0
    """Weight of the distance of features (VQGAN: 1, by LPIPS; 0: none, and no encoder is held)."""
    encoder: ImageNetwork = field(default_factory=RepresentationConfig)
    """Whose features: LPIPS' VGG, MoCo-v3's, or a CLIP's; its parameters come from `init.weights` or `init.beside`."""


@dataclass(frozen=True)
class LpipsWeights(SystemConfig):
    """A folder of LPIPS' weights, that a run starts from; no kind of its own, for nothing trains it here."""

    kind: ClassVar[str] = "lpips"

    network: LpipsConfig = field(default_factory=LpipsConfig)


@dataclass(frozen=True)
class AdversarialConfig(Checked):
    """A discriminator that learns along to tell a tokenizer's images from true ones (losses.py)."""

    common: ClassVar[tuple[str, ...]] = ("weight",)

    section: ClassVar[str] = "adversarial."

    weight: NonNegative = 0.0
    """Weight of fooling it (VQGAN: 0.8 on ImageNet; 0: none, and there is no discriminator)."""
    loss: AdversarialLoss = "hinge"
    """Of both: hinge, as in VQGAN, or the non-saturating one."""
    start: Annotated[int, Ge(0), Lt(2**31)] = 0
    """Updates before it sets in, for tokenizer and discriminator alike (VQGAN: 250,000 on ImageNet)."""
    adaptive: bool = True
    """The weight is times the ratio of the gradients' sizes at the decoder's last convolution, as in VQGAN."""
    network: PatchGANConfig = field(default_factory=PatchGANConfig)
    """The discriminator's."""


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
    data: ClassVar[type[DataConfig]] = RecordsConfig
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
    perceptual: PerceptualConfig = field(default_factory=PerceptualConfig)
    adversarial: AdversarialConfig = field(default_factory=AdversarialConfig)
    sampler: VQSamplerConfig = field(default_factory=VQSamplerConfig, metadata=FREE)

    def __post_init__(self) -> None:
        super().__post_init__()
        check_side(self.resolution, self.vq)
        require(self.l1 + self.l2 > 0, "l1 and l2 are both 0: nothing would be learned of the pixels")
        side, encoder, network = self.resolution, self.perceptual.encoder, self.adversarial.network
        if self.perceptual.weight and isinstance(encoder, LpipsConfig):
            encoder.check_side(side, "resolution")
        require(
            not self.adversarial.weight or side >= 2**network.depth,
            f"adversarial.network.depth {network.depth} halves a side of resolution {side} to less than one pixel",
        )

    @property
    def opened(self) -> "VQSystemConfig":
        """Without what it was trained by."""
        return dataclasses.replace(self, perceptual=PerceptualConfig(), adversarial=AdversarialConfig())

    def opened_params(self, params: Any) -> Any:
        return {"vq": params["vq"]}

    def adopt(self, theirs: SystemConfig) -> "VQSystemConfig":
        """These settings with the network of `theirs`, a tokenizer or what holds one, or with its encoder to compare
        images by."""
        found: dict[str, Any] = {}
        if isinstance(theirs, VQSystemConfig | MageConfig):
            found = {"vq": theirs.vq, "resolution": theirs.resolution}
        encoder = None
        if self.perceptual.weight and isinstance(theirs, VQSystemConfig):  # as it was begun with
            encoder = theirs.perceptual.encoder if theirs.perceptual.weight else None
        elif self.perceptual.weight and not found and isinstance(encoder_of(theirs), ImageNetwork):
            encoder = encoder_of(theirs)
        require(
            bool(found) or encoder is not None,
            f"the weights that it starts from are of a {theirs.kind}, which has no tokenizer"
            + (" and no encoder of images" if self.perceptual.weight else ""),
        )
        if encoder is not None:
            found["perceptual"] = dataclasses.replace(self.perceptual, encoder=encoder)
        return dataclasses.replace(self, **found)

    def begun(self, params: Any) -> Any:
        """Of the weights of a tokenizer, or of what holds one: the tokenizer's; of those of an encoder, or of what
        holds one: the encoder's, where images are compared by it."""
        if "vq" in params:
            return {"vq": params["vq"]}
        return {"perceptual": encoder_params(params)} if self.perceptual.weight else params

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

    def facts(self, data: RecordsConfig) -> dict[str, Any]:
        return {"dtype": self.vq.dtype, "tokens": (self.resolution // self.vq.stride) ** 2, "codes": self.vq.codes}


def check_side(side: int, vq: VQConfig) -> None:
    """Raises `UserError` where an image's side is no whole number of tokens."""
    require(
        side % vq.stride == 0,
        f"resolution {side} is not a multiple of {vq.stride}, the pixels of a token's side (vq.patch {vq.patch}, "
        f"{len(vq.widths)} vq.widths)",
    )


@dataclass(frozen=True)
class MageSamplerConfig(DrawingConfig):
    """How the tokens of an image are drawn (decoding.py)."""

    num_steps: SamplerSteps = 20
    """Steps from nothing to all tokens."""
    text_weight: NonNegative = 1.0
    """Of guidance by what is drawn from (a representation, a class), reached in the last step: 1 + tau of RCG; 1 is
    none."""
    temperature: NonNegative = 6.0
    """How far chance has a say in which tokens are kept (RCG: 6 for MAGE-B, 11 for MAGE-L); not in what they are."""
    k: Natural | None = None
    """Neighbours that an image is drawn from, at most; None: as many as `data.num_neighbours`."""
    handed_on: HandedOn = "bytes"
    """What the next stage enlarges: the image as it would be written, or floats in [-1, 1] that were never rounded."""

    def told(self) -> dict[str, str]:
        return {"temperature": f"{self.temperature:g}"}


@dataclass(frozen=True)
class MageConfig(PixelsConfig):
    """A transformer that draws the tokens of an image from its representation, its class or nothing (system.py)."""

    kind: ClassVar[str] = "mage"
    frozen: ClassVar[GroupRate] = FROZEN
    own: ClassVar[tuple[str, ...]] = ("mage",)

    vq: VQConfig = field(default_factory=VQConfig)
    """The tokenizer; its parameters come from `init.weights` or `init.beside`, as the encoder's, and do not change."""
    tower: Tower = field(default_factory=lambda: Tower(256, 6, 8, 1024, "gelu", 1e-6))
    """The encoder's transformer."""
    decoder: Tower = field(default_factory=lambda: Tower(256, 4, 8, 1024, "gelu", 1e-6))
    """The decoder's."""
    dropout: Share = 0.1
    """In training: of the embedding, of attention's weights and of what each half of a block adds."""
    spare_words: Count = 1
    """Words between the codes and the mask's: one stands in slot 0 where nothing is known (published: 1000)."""
    mask_mean: Share = 0.75
    """Of the share of tokens that is masked, drawn for each batch from a normal distribution within bounds."""
    mask_spread: Positive = 0.25
    """Its standard deviation, before it is cut."""
    mask_least: Annotated[Strength, Lt(1)] = 0.5
    """The least share (the most is 1); as many tokens, masked ones, are not looked at by the encoder."""
    smoothing: Annotated[Share, Lt(1)] = 0.1
    """Share of the target that is spread over all codes alike."""
    dtype: Literal["float32", "bfloat16"] = "float32"
    """Of matrix products; parameters, norms, softmax and the output stay float32. The tokenizer has its own."""
    remat: bool = False
    """Backpropagation computes the inside of blocks again: less memory, more time."""
    sampler: MageSamplerConfig = field(default_factory=MageSamplerConfig, metadata=FREE)

    def __post_init__(self) -> None:
        super().__post_init__()
        check_side(self.resolution, self.vq)
        require(self.places > 1, "an image of one token leaves nothing to be masked: take a larger resolution")
        self.check_settings(self.sampler)

    @property
    def places(self) -> int:
        """L: tokens of an image."""
        return (self.resolution // self.vq.stride) ** 2

    @property
    def held(self) -> tuple[str, ...]:
        return (*super().held, "vq")

    def adopt(self, theirs: SystemConfig) -> "MageConfig":
        """These settings with the tokenizer of `theirs`, with its encoder, or with both."""
        found = {}
        if isinstance(theirs, VQSystemConfig | MageConfig):
            found = {"vq": theirs.vq, "resolution": theirs.resolution}
        if isinstance(theirs, VQSystemConfig) or "encoder" not in self.held:
            require(bool(found), f"the weights that it starts from are of a {theirs.kind}, which has no tokenizer")
            return dataclasses.replace(self, **found)
        return dataclasses.replace(super().adopt(theirs), **found)

    def evaluations(self, settings: MageSamplerConfig) -> int:
        """Of the network for an image."""
        return settings.num_steps * (1 if self.condition == "none" else 2)

    def usage(self) -> str:
        return """MAGE (Li et al., arXiv 2211.09117) as RCG's pixel generator (arXiv 2312.03701): it draws the tokens of
an image from a representation.

    reimagen rcg draw --model RDM --cascade DIR --num-images 16 --out OUT
    reimagen rcg reconstruct IMAGE --model DIR --out OUT
    reimagen sample --model DIR --prompt "..." --reference IMAGE "what it shows" --out OUT"""

    def facts(self, data: PicturesConfig) -> dict[str, Any]:
        return {"dtype": self.dtype, "remat": self.remat, "tokens": self.places, "steps": self.sampler.num_steps}

    def savings(self) -> tuple[str, ...]:
        return () if self.remat else ("--remat: activations are computed again, not kept",)
