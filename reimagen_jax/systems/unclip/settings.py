"""The settings of unCLIP's systems (prior, decoder, upsampler), and of the records that they are trained on."""

import dataclasses
from dataclasses import dataclass, field
from typing import Annotated, Any, ClassVar, Literal

from annotated_types import Ge, Le

from reimagen_jax.checked import Count, Natural, NonNegative, Positive, Share, Strength
from reimagen_jax.config import FREE, DataConfig, Experiment, GroupRate, SystemConfig
from reimagen_jax.diffusion.settings import (
    DiffusionConfig,
    DrawingConfig,
    SamplerConfig,
    SamplerSteps,
    Solver,
    SuperResolutionConfig,
)
from reimagen_jax.encoders.settings import JointConfig
from reimagen_jax.errors import require
from reimagen_jax.nets.settings import Tower, UNetConfig
from reimagen_jax.retrieval.asking import Asking
from reimagen_jax.systems.settings import HandedOn, RecordsConfig

FROZEN = GroupRate("^(clip|statistics)/", 0.0)
"""For `train.rates`: what a prior or a decoder holds of a CLIP does not learn."""
TOKENS = {"text_norm": "none", "text_pooling": "none"}
"""Of a decoder's U-Net: tokens come projected and normed, and no vector is made of them."""
Embedding = Literal["start", "neighbours", "text"]


@dataclass(frozen=True)
class PairsConfig(RecordsConfig):
    """Records: pictures with their captions."""

    num_neighbours: Natural = field(default=4, metadata=FREE)
    """Of a decoder: neighbours whose embeddings an image may be drawn from. Training knows of none."""
    asked: Asking | None = field(default=None, metadata=FREE)
    """How a knowledge base is asked for them, where options do not say."""


@dataclass(frozen=True)
class PriorSamplerConfig(SamplerConfig):
    """How an embedding is drawn."""

    thresholding: Literal["none"] = "none"
    """Embeddings have no range that they are kept in, but for `limit`."""
    solver: Solver = "ddpm"
    """How a step is taken (diffusion/solvers.py)."""
    text_weight: NonNegative = 1.0
    """Of guidance, on the predicted embedding; 1 is the plain conditional prediction (karlo: 4)."""
    limit: Positive | None = None
    """A predicted embedding's values, scaled, are cut at this (karlo: 10, diffusers' karlo: 5). None: not at all."""
    candidates: Count = 2
    """So many embeddings are drawn, and the one with the largest dot product with the text's is kept."""


@dataclass(frozen=True)
class ARPriorSamplerConfig(DrawingConfig):
    """How an embedding is drawn, number by number."""

    text_weight: NonNegative = 1.0
    """Of guidance, on the logits; 1 is the plain conditional distribution."""
    top: Strength = 0.5
    """The dot product of embedding and text is drawn from this share of its distribution, the largest ones (the paper:
    half); 1: from all of it."""
    temperature: Positive = 1.0
    """What the logits are divided by; below 1 draws what is likely more often."""

    def told(self) -> dict[str, str]:
        facts = {"top": self.top if self.top != 0.5 else 0, "temperature": self.temperature * (self.temperature != 1)}
        return {name: f"{value:g}" for name, value in facts.items() if value}


@dataclass(frozen=True)
class DecoderSamplerConfig(SamplerConfig):
    """How an image is drawn from an embedding."""

    text_weight: NonNegative = 2.0
    """Of guidance by embedding and text together, against neither; 1 is the plain conditional prediction."""
    embedding: Embedding | None = None
    """Whose embedding is drawn: what the stage before has drawn, or is given in its place (start); the mean of the
    neighbours' images, by their weights (neighbours); the text's own, as if it were an image's (text). None: the start
    of a request that has one, and the neighbours of one that has not."""
    k: Natural | None = None
    """Neighbours that an image is drawn from, at most; None: as many as `data.num_neighbours`."""
    handed_on: HandedOn = "bytes"
    """What the next stage enlarges: the image as it would be written, or floats in [-1, 1] that were never rounded."""

    def of_text_alone(self) -> "DecoderSamplerConfig":
        """From the text's own embedding."""
        return self.with_room(0).changed(embedding="text")

    def told(self) -> dict[str, str]:
        facts = {"embedding": self.embedding or "", "handed on": self.handed_on.removesuffix("bytes")}
        return super().told() | {name: said for name, said in facts.items() if said}


@dataclass(frozen=True)
class UpsamplerSamplerConfig(SamplerConfig):
    """How an image is enlarged: without guidance."""

    num_steps: SamplerSteps = 27
    """Steps from noise to the image."""
    handed_on: HandedOn = "bytes"
    """As of a decoder."""


@dataclass(frozen=True)
class _WithClip(SystemConfig):
    """What holds a frozen CLIP among its parameters."""

    data: ClassVar[type[DataConfig]] = PairsConfig
    super_resolution: ClassVar[None] = None
    own: ClassVar[tuple[str, ...]] = ()
    """Parameters beside the CLIP's, which begin anew where a run starts from a CLIP alone."""

    clip: JointConfig = field(default_factory=JointConfig)
    """Whose embeddings these are; its parameters come from `init.weights`, and do not change."""

    @property
    def encoder_params(self) -> str:
        return "clip"

    def adopt(self, theirs: SystemConfig) -> "_WithClip":
        """These settings with the CLIP of `theirs`, from whose weights a run starts: a CLIP, or what holds one."""
        return dataclasses.replace(self, clip=self._clip_of(theirs))

    def _clip_of(self, theirs: SystemConfig) -> JointConfig:
        clip = getattr(theirs, "clip", getattr(theirs, "network", None))
        require(isinstance(clip, JointConfig), f"the weights in init.weights are of a {theirs.kind}, which has no CLIP")
        return clip

    def with_text_encoder(self, folder: str) -> "_WithClip":
        """These settings with the published tokenizer in `folder`."""
        require(self.clip.tokens == "published", f"--text-encoder {folder}: this model's CLIP reads bytes")
        return dataclasses.replace(self, clip=dataclasses.replace(self.clip, tokenizer=folder))

    def begun(self, params: Any) -> Any:
        """Of the weights of a CLIP, or of what holds one: the CLIP's, and all if they are of this kind, which the first
        of `own` tells."""
        if "clip" not in params:
            return {"clip": params}
        own = self.own if set(self.own[:1]) <= params.keys() else ()
        return {name: part for name, part in params.items() if name in ("clip", *own)}


@dataclass(frozen=True)
class TextPriorConfig(_WithClip):
    """What draws the CLIP embedding of an image from a text, by a causal transformer."""

    tower: Tower = field(default_factory=lambda: Tower(256, 6, 8, 1024, "gelu"))
    """The causal transformer."""
    dtype: Literal["float32", "bfloat16"] = "float32"
    """Of its matrix products; parameters, norms, softmax and the output stay float32."""
    remat: bool = False
    """Backpropagation computes the inside of its blocks again: less memory, more time."""
    null: Literal["empty", "learned"] = "empty"
    """What a dropped text is: the empty text, read by CLIP as any other (karlo), or learned tokens in its place."""
    text_drop: Share = 0.1
    """Probability that an example's text is dropped in training."""

    def __post_init__(self) -> None:
        super().__post_init__()
        require(self.tower.depth > 0, "tower.depth is 0: a prior needs a block at least")

    @property
    def resolution(self) -> int:
        """Side of the images that its CLIP reads; 0 where it reads none."""
        return self.clip.resolution or 0

    @property
    def seen(self) -> int:
        """Side of the images of a batch."""
        return self.resolution

    @property
    def drawn(self) -> None:
        return None

    def savings(self) -> tuple[str, ...]:
        return () if self.remat else ("--remat: activations are computed again, not kept",)


@dataclass(frozen=True)
class PriorConfig(TextPriorConfig):
    """A prior by diffusion (prior.py)."""

    kind: ClassVar[str] = "unclip_prior"
    own: ClassVar[tuple[str, ...]] = ("prior", "null", "statistics")

    diffusion: DiffusionConfig = field(default_factory=lambda: DiffusionConfig(prediction="x0"))
    scaling: Literal["constant", "statistics"] = "constant"
    """How embeddings are brought to the size of noise: times `scale`; or by means and standard deviations that lie
    among the parameters (karlo)."""
    scale: Positive = 17.2
    """17.2 is of the paper, whose embeddings have 1024 values and length 1; the square root of their number gives
    values of variance 1."""
    sampler: PriorSamplerConfig = field(default_factory=PriorSamplerConfig, metadata=FREE)

    def __post_init__(self) -> None:
        super().__post_init__()
        require(self.tower.width % 2 == 0, f"tower.width {self.tower.width} is odd: sines and cosines come in pairs")
        require(
            not self.diffusion.learned_variance,
            "diffusion.learned_variance is for images, whose bytes judge it: a prior predicts an embedding alone",
        )
        self.check_settings(self.sampler)

    def check_settings(self, settings: PriorSamplerConfig) -> None:
        require(
            self.diffusion.prediction != "eps" or settings.limit is not None,
            "diffusion.prediction is 'eps', but sampler.limit is not set: at the noisy end its smallest error would be "
            "all of the embedding",
        )

    def evaluations(self, settings: PriorSamplerConfig) -> int:
        """Of the network for an embedding."""
        return 2 * settings.candidates * settings.num_steps

    def usage(self) -> str:
        return """A prior of unCLIP (Ramesh et al., arXiv 2204.06125): it draws an image's CLIP embedding from a text.

    reimagen sample --model DIR --cascade DECODER --prompt "..." --out OUT"""

    def facts(self, data: PairsConfig) -> dict[str, Any]:
        drawing = {"solver": self.sampler.solver, "steps": self.sampler.num_steps}
        return {"dtype": self.dtype, "remat": self.remat, **drawing}


@dataclass(frozen=True)
class ARPriorConfig(TextPriorConfig):
    """A prior number by number (ar_prior.py)."""

    kind: ClassVar[str] = "unclip_ar_prior"
    own: ClassVar[tuple[str, ...]] = ("ar_prior", "null", "statistics")

    dims: Count = 64
    """Principal components that embeddings are told by, those of the largest variance (the paper: 319 of 1,024)."""
    buckets: Annotated[int, Ge(2), Le(2**16)] = 1024
    """Of equal width, that the values of each fall into."""
    fitted_on: Count = 2**16
    """Records that components and buckets are fitted to before the first step, at most."""
    sampler: ARPriorSamplerConfig = field(default_factory=ARPriorSamplerConfig, metadata=FREE)

    def __post_init__(self) -> None:
        super().__post_init__()
        require(
            self.dims <= self.clip.width,
            f"dims is {self.dims}, but an embedding has {self.clip.width} values (clip.width), and no more components",
        )
        require(
            self.dims < self.fitted_on,
            f"fitted_on is {self.fitted_on}: {self.dims} components (dims) need more records than that",
        )

    def evaluations(self, settings: ARPriorSamplerConfig) -> int:
        """Of the network for an embedding; most of them are of one token."""
        return 2 * (self.dims + 1)

    def usage(self) -> str:
        return """An autoregressive prior of unCLIP (Ramesh et al., arXiv 2204.06125): it draws an image's CLIP
embedding from a text.

    reimagen sample --model DIR --cascade DECODER --prompt "..." --out OUT"""

    def facts(self, data: PairsConfig) -> dict[str, Any]:
        return {"dtype": self.dtype, "remat": self.remat, "numbers": self.dims + 1}


@dataclass(frozen=True)
class DecoderTextConfig(Tower):
    """A decoder's own text encoder, trained along (GLIDE's, in the paper)."""

    section: ClassVar[str] = "text."


@dataclass(frozen=True)
class DecoderConfig(_WithClip):
    """A U-Net that draws an image from its CLIP embedding and, beside it, a text (decoder.py)."""

    common: ClassVar[tuple[str, ...]] = ("resolution",)

    kind: ClassVar[str] = "unclip_decoder"
    own: ClassVar[tuple[str, ...]] = ("embedding", "unet", "text")

    resolution: Count = 32
    """Side of the image in pixels."""
    unet: UNetConfig = field(default_factory=lambda: UNetConfig(**TOKENS))
    text: DecoderTextConfig | None = None
    """A text encoder of its own, over CLIP's ids; None: CLIP's states of the text."""
    diffusion: DiffusionConfig = field(default_factory=DiffusionConfig)
    token_width: Count = 128
    """Of the tokens that attention sees: those of the embedding, and the text's."""
    image_tokens: Natural = 4
    """Tokens that an embedding becomes, beside the text; besides, it is added to the embedding of the time."""
    text_in_time: bool = False
    """The text's own embedding is added to that of the time, too (karlo)."""
    scale: Positive = 1.0
    """What embeddings are multiplied by before they are projected."""
    trained_on: Literal["image", "text"] = "image"
    """Whose embedding it learns to draw from: the image's, or the text's in its place, to compare with."""
    embedding_drop: Share = 0.1
    """Probability that an example's embedding is dropped in training (independent of its text)."""
    text_drop: Share = 0.5
    """Probability that an example's text is dropped in training: the empty text takes its place."""
    sampler: DecoderSamplerConfig = field(default_factory=DecoderSamplerConfig, metadata=FREE)

    def __post_init__(self) -> None:
        super().__post_init__()
        check_side(self.resolution, self.unet)
        for name, value in TOKENS.items():
            said = getattr(self.unet, name)
            require(
                said == value, f"unet.{name} is {said!r}: a decoder's tokens come projected and normed, set {value!r}"
            )
        require(self.unet.text_width is None, f"unet.text_width is {self.unet.text_width}: set token_width instead")
        self.check_settings(self.sampler)

    @property
    def seen(self) -> int:
        """Side of the images of a batch, and of neighbours: a multiple of `resolution`, and as large at least as those
        that its CLIP reads."""
        return self.resolution * max(1, -(-(self.clip.resolution or 0) // self.resolution))

    def check_settings(self, settings: DecoderSamplerConfig) -> None:
        settings.check_process(self.diffusion)

    def check_follows(self, before: Experiment, where: str) -> None:
        theirs = before.system
        require(
            isinstance(theirs, TextPriorConfig),
            f"{where} draws from an embedding, but the stage before it, {before.name}, is a {theirs.kind}",
        )
        require(
            theirs.clip.width == self.clip.width,
            f"{where} draws from embeddings of {self.clip.width} values, but the stage before it, {before.name}, draws "
            f"{theirs.clip.width}",
        )

    def evaluations(self, settings: DecoderSamplerConfig) -> int:
        """Of the network for an image: of one condition of one sample."""
        return 2 * (2 * settings.num_steps - 1 if settings.solver == "heun" else settings.num_steps)

    def usage(self) -> str:
        return """A decoder of unCLIP (Ramesh et al., arXiv 2204.06125): it draws an image from a CLIP embedding.

    reimagen sample --model PRIOR --cascade DIR --prompt "..." --out OUT
    reimagen sample --model DIR --prompt "..." --reference IMAGE "what it shows" --out OUT"""

    def facts(self, data: PairsConfig) -> dict[str, Any]:
        return _facts(self)

    def savings(self) -> tuple[str, ...]:
        return self.unet.savings()


@dataclass(frozen=True)
class UpsamplerConfig(SystemConfig):
    """A U-Net that enlarges images without looking at their texts (upsampler.py)."""

    common: ClassVar[tuple[str, ...]] = ("resolution",)

    kind: ClassVar[str] = "unclip_upsampler"
    data: ClassVar[type[DataConfig]] = PairsConfig

    resolution: Count = 64
    """Side of the image in pixels."""
    unet: UNetConfig = field(default_factory=lambda: UNetConfig(aug_level=False, text_pooling="none"))
    diffusion: DiffusionConfig = field(default_factory=DiffusionConfig)
    super_resolution: SuperResolutionConfig = field(
        default_factory=lambda: SuperResolutionConfig(low_resolution=32, aug_levels=(0.0, 0.0))
    )
    """What it enlarges, and how that is made of its images in training."""
    last_step: bool = False
    """The last step of the sampler is taken by a network of its own (karlo), `unet_last` among the parameters."""
    sampler: UpsamplerSamplerConfig = field(default_factory=UpsamplerSamplerConfig, metadata=FREE)

    def __post_init__(self) -> None:
        super().__post_init__()
        check_side(self.resolution, self.unet)
        self.super_resolution.check_stage(self.resolution, self.unet.stride)
        require(
            not self.unet.aug_level and self.super_resolution.aug_levels == (0.0, 0.0),
            f"super_resolution.aug_levels is {self.super_resolution.aug_levels}, unet.aug_level {self.unet.aug_level}: "
            "an upsampler's input is not noised, set (0, 0) and false",
        )
        attending = [i for i, level in enumerate(self.unet.levels) if level.text_attention or level.neighbour_attention]
        require(
            not attending,
            f"unet.levels{attending} attend to text or neighbours: an upsampler knows neither",
        )
        self.check_settings(self.sampler)

    @property
    def seen(self) -> int:
        """Side of the images that a batch is made of."""
        return self.resolution

    @property
    def factor(self) -> int:
        """How many times it enlarges a side."""
        return self.resolution // self.super_resolution.low_resolution

    @property
    def train_resolution(self) -> int:
        """Side of the images that the network is trained on: that of the crops, where it is trained on crops."""
        return self.super_resolution.crop or self.resolution

    def check_settings(self, settings: UpsamplerSamplerConfig) -> None:
        settings.check_process(self.diffusion)

    def with_text_encoder(self, folder: str) -> "UpsamplerConfig":
        """The same: it reads no text, whatever the stages before it read."""
        return self

    def check_follows(self, before: Experiment, where: str) -> None:
        self.super_resolution.check_follows(before.name, before.system.drawn, where)

    def evaluations(self, settings: UpsamplerSamplerConfig) -> int:
        """Of the network for an image."""
        return 2 * settings.num_steps - 1 if settings.solver == "heun" else settings.num_steps

    def usage(self) -> str:
        return """An upsampler of unCLIP (Ramesh et al., arXiv 2204.06125): it enlarges images.

    reimagen sample --model PRIOR --cascade DECODER DIR --prompt "..." --out OUT
    reimagen sample --model DIR --prompt "" --low-res IMAGE --out OUT"""

    def facts(self, data: PairsConfig) -> dict[str, Any]:
        return _facts(self)

    def savings(self) -> tuple[str, ...]:
        return self.unet.savings()


def check_side(side: int, unet: UNetConfig) -> None:
    """Raises `UserError` where a U-Net cannot take images of this side."""
    require(
        side % unet.stride == 0,
        f"resolution {side} is not a multiple of {unet.stride}, what unet.patch {unet.patch} and {len(unet.levels)} "
        "levels need",
    )


def _facts(config: DecoderConfig | UpsamplerConfig) -> dict[str, Any]:
    drawing = {"solver": config.sampler.solver, "steps": config.sampler.num_steps}
    return {"dtype": config.unet.dtype, "remat": config.unet.remat, **drawing}
