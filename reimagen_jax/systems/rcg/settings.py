"""The settings of RCG's systems that draw by diffusion (representations, pixels), and of the records that they learn
from."""

import dataclasses
from dataclasses import dataclass, field
from typing import Annotated, Any, ClassVar, Literal

from annotated_types import Lt

from reimagen_jax.checked import Count, Natural, NonNegative, Share
from reimagen_jax.config import FREE, DataConfig, Experiment, GroupRate, SystemConfig
from reimagen_jax.diffusion.settings import DiffusionConfig, SamplerConfig, SamplerSteps, Solver
from reimagen_jax.diffusion.spacing import Spacing
from reimagen_jax.encoders.settings import JointConfig, RepresentationConfig
from reimagen_jax.errors import require
from reimagen_jax.nets.settings import LatentMLPConfig, UNetConfig
from reimagen_jax.systems.settings import HandedOn
from reimagen_jax.systems.unclip.settings import TOKENS, PairsConfig, check_side

FROZEN = GroupRate("^encoder/", 0.0)
"""For `train.rates`: the encoder whose representations are drawn, or drawn from, does not learn."""


@dataclass(frozen=True)
class PicturesConfig(PairsConfig):
    """Records: pictures, whose captions are not read, and their classes."""

    class_by: str = ""
    """Attribute whose values are the classes, where something is drawn by its class; a dot reaches into nested ones."""
    flip: bool = False
    """Half of the pictures are mirrored in training."""


@dataclass(frozen=True)
class RdmSamplerConfig(SamplerConfig):
    """How a representation is drawn; by default as published."""

    thresholding: Literal["none"] = "none"
    """Representations have no range that they are kept in."""
    solver: Solver = "ddim"
    """How a step is taken (diffusion/solvers.py)."""
    num_steps: SamplerSteps = 250
    """Steps from noise to the representation."""
    ddim_noise: Share = 1.0
    """As published: as much noise as the ancestral step."""
    spacing: Spacing = "ldm"
    """As published: the last step ends at the chain's first, which has noise, and so has what is drawn."""
    normalised: bool = False
    """What is drawn is brought to mean 0 and standard deviation 1, as representations are; published: as it is."""
    text_weight: NonNegative = 1.0
    """Of guidance by the class; 1 is the plain conditional prediction."""

    def told(self) -> dict[str, str]:
        return super().told() | ({"normalised": "yes"} if self.normalised else {})


@dataclass(frozen=True)
class GeneratorSamplerConfig(SamplerConfig):
    """How an image is drawn from a representation or a class."""

    text_weight: NonNegative = 1.0
    """Of guidance by representation or class; 1 is the plain conditional prediction."""
    k: Natural | None = None
    """Neighbours that an image is drawn from, at most; None: as many as `data.num_neighbours`."""
    handed_on: HandedOn = "bytes"
    """What the next stage enlarges: the image as it would be written, or floats in [-1, 1] that were never rounded."""

    def told(self) -> dict[str, str]:
        return super().told() | ({"handed on": "floats"} if self.handed_on == "floats" else {})


def encoder_of(theirs: SystemConfig) -> Any:
    """The settings of the encoder of images that a system is, or holds; None where it has none."""
    return getattr(theirs, "encoder", getattr(theirs, "network", getattr(theirs, "clip", None)))


def encoder_params(params: Any) -> Any:
    """The encoder's parameters, of those of a system that is one or holds one. Raises `UserError` as `require_measured`
    does."""
    require_measured(params)
    return params.get("encoder", params.get("clip", params))


def require_measured(params: Any) -> None:
    """Raises `UserError` for the parameters of a training run of an encoder."""
    require(
        not {"predictor", "classifier"} & params.keys(),
        "init.weights is a training run of an encoder, whose statistics are not measured yet: make a folder of it, "
        "reimagen encode-train RECORDS --from-run RUN --out DIR, and name that",
    )


@dataclass(frozen=True)
class _Represented(SystemConfig):
    """What holds a frozen encoder of images among its parameters."""

    data: ClassVar[type[DataConfig]] = PicturesConfig
    super_resolution: ClassVar[None] = None
    frozen: ClassVar[GroupRate] = FROZEN
    """What `train.rates` must freeze."""
    own: ClassVar[tuple[str, ...]] = ()
    """Parameters beside the encoder's, which begin anew where a run starts from an encoder alone."""

    encoder: RepresentationConfig | JointConfig = field(default_factory=RepresentationConfig)
    """Whose representations these are, or a CLIP, whose images' vectors they are then; its parameters come from
    `init.weights`, and do not change."""
    classes: tuple[str, ...] = ()
    """The values of `data.class_by`; by default those that the records have."""

    @property
    def known_prompts(self) -> tuple[str, ...]:
        """Its classes."""
        return self.classes

    @property
    def held(self) -> tuple[str, ...]:
        """The parameters that it holds of others."""
        return ("encoder",)

    @property
    def encoder_params(self) -> str | None:
        return "encoder" if "encoder" in self.held else None

    @property
    def representation_width(self) -> int:
        """D: values of a representation."""
        return self.encoder.width if getattr(self.encoder, "projected", True) else self.encoder.tower.width

    def adopt(self, theirs: SystemConfig) -> "_Represented":
        """These settings with the encoder of `theirs`, from whose weights a run starts: an encoder, or what holds
        one."""
        encoder = encoder_of(theirs)
        require(
            isinstance(encoder, RepresentationConfig | JointConfig),
            f"the weights in init.weights are of a {theirs.kind}, which has no encoder of images",
        )
        return dataclasses.replace(self, encoder=encoder)

    def begun(self, params: Any) -> Any:
        """Of the weights of an encoder, or of what holds one: the encoder's, and all if they are of this kind, which
        the first of `own` tells."""
        if not {"encoder", *self.held, self.own[0]} & params.keys():
            return {"encoder": encoder_params(params)}
        require_measured(params)
        own = self.own if self.own[0] in params else ()
        return {name: part for name, part in params.items() if name in (*self.held, *own)}


@dataclass(frozen=True)
class RdmConfig(_Represented):
    """What draws an image's representation out of nothing, or of its class, by diffusion (rdm.py)."""

    kind: ClassVar[str] = "rdm"
    own: ClassVar[tuple[str, ...]] = ("rdm", "classes")

    mlp: LatentMLPConfig = field(default_factory=LatentMLPConfig)
    diffusion: DiffusionConfig = field(
        default_factory=lambda: DiffusionConfig(schedule="scaled_linear", prediction="x0")
    )
    side: Count | None = None
    """Side of the images that representations are made of (published: 256, which the encoder resizes); None: the
    encoder's own."""
    class_drop: Annotated[Share, Lt(1)] = 0.1
    """Where classes are known, the probability that an example's is dropped in training, which guidance needs; 0, as
    published, has none."""
    sampler: RdmSamplerConfig = field(default_factory=RdmSamplerConfig, metadata=FREE)

    def __post_init__(self) -> None:
        super().__post_init__()
        require(
            not self.diffusion.learned_variance,
            "diffusion.learned_variance is for images, whose bytes judge it: here a representation alone is predicted",
        )
        self.check_settings(self.sampler)

    @property
    def resolution(self) -> int:
        """Side of the images that are represented; 0 where none is read."""
        return self.side or self.encoder.resolution or 0

    @property
    def seen(self) -> int:
        """Side of the images of a batch."""
        return self.resolution

    @property
    def drawn(self) -> None:
        return None

    def check_settings(self, settings: RdmSamplerConfig) -> None:
        settings.check_process(self.diffusion)

    def evaluations(self, settings: RdmSamplerConfig) -> int:
        """Of the network for a representation."""
        return 2 * settings.num_steps

    def usage(self) -> str:
        return """A representation diffusion model of RCG (Li et al., arXiv 2312.03701): it draws what images are drawn
from.

    reimagen rcg draw --model DIR --cascade GENERATOR --num-images 16 --out OUT"""

    def facts(self, data: PicturesConfig) -> dict[str, Any]:
        drawing = {"solver": self.sampler.solver, "steps": self.sampler.num_steps}
        return {"dtype": self.mlp.dtype, "remat": self.mlp.remat, **drawing}

    def savings(self) -> tuple[str, ...]:
        return () if self.mlp.remat else ("--mlp.remat: activations are computed again, not kept",)


@dataclass(frozen=True)
class PixelsConfig(_Represented):
    """What draws an image from its representation, its class or nothing."""

    common: ClassVar[tuple[str, ...]] = ("resolution", "condition")

    resolution: Count = 32
    """Side of the image in pixels."""
    condition: Literal["representation", "class", "none"] = "representation"
    """What an image is drawn from: its representation, its class, or nothing. The last two hold no encoder."""
    condition_drop: Annotated[Share, Lt(1)] = 0.1
    """Probability that an example's condition is dropped in training, which guidance needs; a learned representation
    takes its place."""

    @property
    def held(self) -> tuple[str, ...]:
        return ("encoder",) if self.condition == "representation" else ()

    def check(self, data: PicturesConfig) -> None:
        by_class = self.condition == "class"
        require(
            by_class == bool(data.class_by),
            f"condition is {self.condition!r}, data.class_by {data.class_by!r}: name an attribute for 'class', and "
            "only there",
        )

    @property
    def seen(self) -> int:
        """Side of the images of a batch, and of neighbours: a multiple of `resolution`, and as large at least as those
        that the encoder reads."""
        reads = (self.encoder.resolution or 0) if self.condition == "representation" else 0
        return self.resolution * max(1, -(-reads // self.resolution))

    def check_settings(self, settings: Any) -> None:
        require(
            self.condition != "none" or settings.text_weight == 1.0,
            f"sampler.text_weight is {settings.text_weight:g}, but condition is 'none': nothing guides it, set 1",
        )

    def check_follows(self, before: Experiment, where: str) -> None:
        theirs = before.system
        require(
            self.condition == "representation",
            f"{where} draws from {'its class' if self.condition == 'class' else 'nothing'}, and from no other stage",
        )
        require(
            theirs.drawn is None and isinstance(theirs, _Represented),
            f"{where} draws from a representation, but the stage before it, {before.name}, is a {theirs.kind}",
        )
        require(
            theirs.representation_width == self.representation_width,
            f"{where} draws from representations of {self.representation_width} values, but the stage before it, "
            f"{before.name}, draws {theirs.representation_width}",
        )


@dataclass(frozen=True)
class GeneratorConfig(PixelsConfig):
    """A U-Net that draws an image from its representation, its class or nothing (generator.py)."""

    kind: ClassVar[str] = "rcg_generator"
    own: ClassVar[tuple[str, ...]] = ("unet", "condition")

    told_by: Literal["time", "token"] = "time"
    """How the network is told: by what is added to the embedding of the time (as RCG's ADM), or by a token that
    attention sees beside the pixels (as its latent diffusion)."""
    unet: UNetConfig = field(default_factory=lambda: UNetConfig(**TOKENS))
    diffusion: DiffusionConfig = field(default_factory=DiffusionConfig)
    sampler: GeneratorSamplerConfig = field(default_factory=GeneratorSamplerConfig, metadata=FREE)

    def __post_init__(self) -> None:
        super().__post_init__()
        check_side(self.resolution, self.unet)
        for name, value in TOKENS.items():
            said = getattr(self.unet, name)
            require(said == value, f"unet.{name} is {said!r}: a generator reads no text, set {value!r}")
        require(self.unet.text_width is None, f"unet.text_width is {self.unet.text_width}: a generator reads no text")
        require(
            self.told_by == "time" or any(level.self_attention or level.text_attention for level in self.unet.levels),
            "told_by is 'token', but no level of unet.levels has attention that would see it",
        )
        for i, level in enumerate(self.unet.levels):
            attends = level.neighbour_attention or (level.text_attention and self.told_by == "time")
            require(not attends, f"unet.levels[{i}] attends to text or neighbours: a generator knows neither")
        self.check_settings(self.sampler)

    def adopt(self, theirs: SystemConfig) -> "GeneratorConfig":
        """These settings with the encoder of `theirs`; unchanged by a system of pixels without one (a Re-Imagen), whose
        U-Net a run may start from."""
        return self if hasattr(theirs, "unet") and encoder_of(theirs) is None else super().adopt(theirs)

    def check_settings(self, settings: GeneratorSamplerConfig) -> None:
        super().check_settings(settings)
        settings.check_process(self.diffusion)

    def evaluations(self, settings: GeneratorSamplerConfig) -> int:
        """Of the network for an image: of one condition of one sample."""
        return 2 * (2 * settings.num_steps - 1 if settings.solver == "heun" else settings.num_steps)

    def usage(self) -> str:
        if self.condition != "representation":
            return "    reimagen rcg draw --model DIR --num-images 16 --out OUT"
        return """A pixel generator of RCG (Li et al., arXiv 2312.03701): it draws images from representations.

    reimagen rcg draw --model RDM --cascade DIR --num-images 16 --out OUT
    reimagen rcg reconstruct IMAGE --model DIR --out OUT
    reimagen sample --model DIR --prompt "..." --reference IMAGE "what it shows" --out OUT"""

    def facts(self, data: PicturesConfig) -> dict[str, Any]:
        drawing = {"solver": self.sampler.solver, "steps": self.sampler.num_steps}
        return {"dtype": self.unet.dtype, "remat": self.unet.remat, **drawing}

    def savings(self) -> tuple[str, ...]:
        return self.unet.savings()
