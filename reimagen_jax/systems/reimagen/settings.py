"""The settings of a Re-Imagen, base model or super-resolution stage, and of the triples that it is trained on."""

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Annotated, Any, ClassVar, Literal

from annotated_types import Lt

from reimagen_jax.checked import Checked, Count, Natural, NonNegative, Share
from reimagen_jax.config import FREE, LOCAL, DataConfig, Experiment, SystemConfig
from reimagen_jax.diffusion.settings import DiffusionConfig, SamplerConfig, SuperResolutionConfig, WeightSchedule
from reimagen_jax.encoders.settings import TextConfig
from reimagen_jax.errors import require
from reimagen_jax.nets.settings import UNetConfig
from reimagen_jax.retrieval.asking import Asking
from reimagen_jax.systems.settings import HandedOn

ETAS = tuple(i / 10 for i in range(11))
"""What a sweep over eta draws by default."""
Guidance = Literal["interleaved", "stratified", "joint", "compositional", "mean"]
EVALUATIONS = {"compositional": 3, "mean": 3}
"""Of the network for a guided prediction, where they are not two."""
AugNoise = Literal["once", "every_call"]


@dataclass(frozen=True)
class GuidedSamplerConfig(SamplerConfig):
    """How an image is drawn (Re-Imagen section 3.3; Imagen section 2.3)."""

    eta: Share = 0.5
    """Share of steps with text-enhanced guidance: 1 is all text, 0 all neighbours. Without neighbours it is 1."""
    guidance: Guidance = "interleaved"
    """How text and neighbours are strengthened (diffusion/guidance.py). interleaved: at each step one of them, drawn at
    random (the paper); stratified: the same with exactly round(eta num_steps) steps of text, evenly spread; joint: both
    at once against neither, by text_weight alone; compositional: each by its own weight, three evaluations a step.
    These two have no eta. mean: at every step the mean of what interleaved steps would do, so that a few steps know any
    eta; three evaluations a step, and one of a distilled model, which draws by the forms that have an eta."""
    guidance_schedule: WeightSchedule = "constant"
    """Of both weights' excess over 1, as t falls: linear and cosine rise from 0 to twice the weight's, of the same
    mean."""
    guidance_interval: tuple[Share, Share] | None = None
    """Least and largest t that is guided (0 the image, 1 noise): outside, both weights are 1. None: everywhere, and no
    request has one of its own."""
    guidance_rescale: Share | None = None
    """phi: how far a guided prediction is brought back to the plain one's standard deviation (Lin et al. 2024: 0.7).
    None: not at all, and no request has one of its own."""
    text_weight: NonNegative = 2.0
    """w_p; 1 is the plain conditional prediction. Below 0 it would draw away from what is asked: refused."""
    neighbour_weight: NonNegative = 2.0
    """w_n; 1 is the plain conditional prediction."""
    aug_level: Share = 0.1
    """Of the noise on the low-resolution image of a super-resolution stage; 0.1 to 0.3 work well (Imagen)."""
    aug_noise: AugNoise = "once"
    """When that noise is drawn: once an image (Imagen), or anew at every call of the network, for each half of a guided
    prediction its own (DeepFloyd IF's own code; diffusers draws once)."""
    handed_on: HandedOn = "bytes"
    """What the next stage of a cascade enlarges: the image as it would be written, or floats in [-1, 1] that were never
    rounded (DeepFloyd IF). What is written is rounded."""
    k: Natural | None = None
    """Neighbours that an image is drawn with, at most; None: as many as in training. Fewer are a mask."""

    def __post_init__(self) -> None:
        super().__post_init__()
        low, high = self.guidance_interval or (0.0, 1.0)
        require(low <= high, f"sampler.guidance_interval {low} .. {high} is not a range")

    @property
    def guided_by(self) -> tuple[str, ...]:
        if self.guidance == "joint":
            return ("text_weight",)
        return ("text_weight", "neighbour_weight", *(("eta",) if self.guidance != "compositional" else ()))

    def told(self) -> dict[str, str]:
        """Also how its guidance is unlike the paper's."""
        facts = {"guidance": self.guidance, "weights over time": self.guidance_schedule}
        facts = {name: said for name, said in facts.items() if said not in ("interleaved", "constant")}
        if self.guidance_interval is not None:
            facts["guided between"] = "t {:g} and {:g}".format(*self.guidance_interval)
        if self.guidance_rescale is not None:
            facts["guidance rescaled by"] = f"{self.guidance_rescale:g}"
        facts |= {"noise on the low resolution": "anew at every call"} if self.aug_noise == "every_call" else {}
        facts |= {"handed on": "floats"} if self.handed_on == "floats" else {}
        return super().told() | facts


@dataclass(frozen=True)
class TriplesConfig(DataConfig):
    """KNN-ImageText triples (Re-Imagen section 3.2), and how many neighbours of an example are shown."""

    common: ClassVar[tuple[str, ...]] = ("triples", "validation", "validation_share")

    triples: str = field(default="", metadata=FREE | LOCAL)
    """Folder written by `reimagen triples`. It may move; its content may not change within a run."""
    text_embeddings: str = field(default="", metadata=FREE | LOCAL)
    """Folder written by `reimagen embed` (or `reimagen prepare --text-encoder`), where the text encoder is frozen."""
    asked: Asking | None = field(default=None, metadata=FREE)
    """How the triples' neighbours were asked for, as the triples tell: so a knowledge base is asked when images are
    drawn, unless options say otherwise. None: nothing tells."""
    num_neighbours: Natural = 2
    """K: neighbours an example carries; fewer found is a mask."""
    enlarge: bool = field(default=False, metadata=FREE)
    """Records may be smaller than what is drawn, and are enlarged; else they are refused."""
    min_neighbours: Natural = 0
    """With a value below `num_neighbours`, each example keeps a uniformly drawn number of neighbours, at least this."""
    validation: str = field(default="", metadata=FREE | LOCAL)
    """Folder of triples of records that are not trained on, which the training is watched by."""
    validation_share: Annotated[Share, Lt(1)] = 0.0
    """Without such a folder: share of the triples that is held out for it, drawn by `seed`."""

    def __post_init__(self) -> None:
        super().__post_init__()
        require(
            not (self.validation and self.validation_share),
            f"data.validation {self.validation} and data.validation_share {self.validation_share} both say what is "
            "held out: give one of them",
        )
        require(
            self.min_neighbours <= self.num_neighbours,
            f"data.min_neighbours {self.min_neighbours} is not between 0 and data.num_neighbours {self.num_neighbours}",
        )


Weights = tuple[NonNegative, NonNegative]


@dataclass(frozen=True)
class Distilled(Checked):
    """Of a model that has learned what another one's guidance does: it is told eta and weights, and evaluated once."""

    section: ClassVar[str] = "distilled."

    teacher: str = ""
    """Name of the model that it was distilled from."""
    sha256: str = ""
    """Of the teacher's parameters, its beginning."""
    text_weights: Weights = (1.0, 3.0)
    """Least and largest text_weight that it has learned."""
    neighbour_weights: Weights = (1.0, 5.0)
    """Least and largest neighbour_weight."""
    steps: Natural = 0
    """Of the sampler that it was made for (ddim, evenly spaced); 0: guidance alone was distilled, for any sampler."""

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("text_weights", "neighbour_weights"):
            low, high = getattr(self, name)
            require(low <= high, f"distilled.{name} {low:g} .. {high:g} is not a range")

    def check(self, settings: GuidedSamplerConfig) -> None:
        """Raises `UserError` for guidance that was not learned."""
        require(
            settings.guidance not in ("joint", "compositional"),
            f"sampler.guidance is {settings.guidance!r}, which a distilled model has not learned: draw with 'mean', "
            "'stratified' or 'interleaved'",
        )
        require(
            settings.guidance_rescale is None,
            "sampler.guidance_rescale: a distilled model has no plain prediction to rescale by, leave it out",
        )
        rising = settings.guidance_schedule != "constant"
        for name in ("text_weight", "neighbour_weight"):
            (low, high), weight = getattr(self, f"{name}s"), getattr(settings, name)
            most = 2.0 * weight - 1.0 if rising else weight
            said = f"{weight:g}, rising to {most:g}" if rising else f"{weight:g}"
            require(
                low <= min(weight, most) and max(weight, most) <= high,
                f"sampler.{name} is {said}: this model was distilled for {low:g} to {high:g}",
            )

    @property
    def said(self) -> str:
        """For a card."""
        low_high = "text weight {:g} to {:g}, neighbour weight {:g} to {:g}"
        steps = f", {self.steps} steps" if self.steps else ""
        weights = low_high.format(*self.text_weights, *self.neighbour_weights)
        return f"{self.teacher} (SHA-256 `{self.sha256}`): {weights}, any eta{steps}"


@dataclass(frozen=True)
class ReImagenConfig(SystemConfig):
    """Text encoder, U-Net, process and sampler, and how often conditions are dropped in training."""

    common: ClassVar[tuple[str, ...]] = ("resolution",)

    kind: ClassVar[str] = "reimagen"
    data: ClassVar[type[DataConfig]] = TriplesConfig

    resolution: Count = 32
    """Side of the image in pixels."""
    unet: UNetConfig = field(default_factory=UNetConfig)
    text: TextConfig = field(default_factory=TextConfig)
    diffusion: DiffusionConfig = field(default_factory=DiffusionConfig)
    super_resolution: SuperResolutionConfig | None = None
    """Of a stage that enlarges another stage's image; None for one that draws from text and neighbours alone."""
    distilled: Distilled | None = None
    """Of a model whose guidance is told, not evaluated (`reimagen distill`); None for all others."""
    sampler: GuidedSamplerConfig = field(default_factory=GuidedSamplerConfig, metadata=FREE)
    text_drop: Share = 0.1
    """Probability that an example's caption is dropped in training (independent of its neighbours)."""
    neighbour_drop: Share = 0.1
    """Probability that all of an example's neighbours are dropped in training."""

    def __post_init__(self) -> None:
        super().__post_init__()
        require(
            self.resolution % self.unet.stride == 0,
            f"resolution {self.resolution} is not a multiple of {self.unet.stride}, "
            f"what unet.patch {self.unet.patch} and {len(self.unet.levels)} levels need",
        )
        if self.super_resolution is not None:
            self.super_resolution.check_stage(self.resolution, self.unet.stride)
        self.check_settings(self.sampler)

    def check_settings(self, settings: GuidedSamplerConfig) -> None:
        """Raises `UserError` for settings that do not fit the process, and for an augmentation level that a
        super-resolution stage is not trained for."""
        settings.check_process(self.diffusion)
        if self.distilled is not None:
            self.distilled.check(settings)
        if self.super_resolution is not None:
            low_level, high_level = self.super_resolution.aug_levels
            require(
                low_level <= settings.aug_level <= high_level,
                f"sampler.aug_level {settings.aug_level} is outside of what the stage is trained for: "
                f"super_resolution.aug_levels {low_level} .. {high_level}",
            )

    def evaluations(self, settings: GuidedSamplerConfig, guided: bool = True) -> int:
        """Of the network for an image: of one condition of one sample. What is not guided needs one a prediction."""
        each = 1 if self.distilled is not None or not guided else EVALUATIONS.get(settings.guidance, 2)
        return each * (2 * settings.num_steps - 1 if settings.solver == "heun" else settings.num_steps)

    def check(self, data: TriplesConfig) -> None:
        crop = self.super_resolution.crop if self.super_resolution is not None else 0
        require(
            not crop or data.num_neighbours == 0,
            f"super_resolution.crop is {crop} and data.num_neighbours {data.num_neighbours}: a stage that is "
            "trained on crops attends to no neighbours, set data.num_neighbours to 0",
        )

    def check_follows(self, before: Experiment, where: str) -> None:
        stage = self.super_resolution
        require(stage is not None, f"{where} is a base model: it enlarges nothing, only the first stage can be one")
        stage.check_follows(before.name, before.system.drawn, where)

    @property
    def factor(self) -> int:
        """How many times a super-resolution stage enlarges a side; 1 for a base stage."""
        return 1 if self.super_resolution is None else self.resolution // self.super_resolution.low_resolution

    @property
    def train_resolution(self) -> int:
        """Side of the images that the network is trained on: that of the crops, where it is trained on crops."""
        return (self.super_resolution and self.super_resolution.crop) or self.resolution

    def adopt(self, theirs: SystemConfig) -> "ReImagenConfig":
        """These settings with what the weights of `theirs` decide, so that one file serves every size of a model.

        theirs   channels, levels and attention of the network; text; schedule, prediction and variance; resolution
        ours     precision, rematerialisation and attention's implementation; loss weights; how low resolution is
                 degraded; sampler and drops; where the text encoder lies; how texts are cleaned

        Raises `UserError` when only one of them is a super-resolution stage, or theirs are of another system.
        """
        require(isinstance(theirs, ReImagenConfig), f"the weights in init.weights are of a {theirs.kind}")
        kinds = [
            "a base model" if each.super_resolution is None else "a super-resolution stage" for each in (self, theirs)
        ]
        require(kinds[0] == kinds[1], f"this is {kinds[0]}, but the weights in init.weights are those of {kinds[1]}")
        stage, text = theirs.super_resolution, theirs.text
        if stage is not None:
            stage = _with(stage, self.super_resolution, "crop", "shrinking", "blur", "blur_width", "aug_levels")
        if text.frozen is not None and self.text.frozen is not None:
            unset = {"encoder": "", "cleaning": "none"}
            said = [name for name, value in unset.items() if getattr(self.text.frozen, name) != value]
            text = dataclasses.replace(text, frozen=_with(text.frozen, self.text.frozen, *said))
        weighed = ("weighting", "snr_limit", "variance_weight", "time_exponent")
        return dataclasses.replace(
            self,
            resolution=theirs.resolution,
            unet=_with(theirs.unet, self.unet, "dtype", "remat", "attention"),
            text=text,
            diffusion=_with(theirs.diffusion, self.diffusion, *weighed),
            super_resolution=stage,
        )

    def with_text_encoder(self, folder: str) -> "ReImagenConfig":
        frozen = self.text.frozen
        require(frozen is not None, f"--text-encoder {folder}: this model has a text encoder of its own, trained along")
        return dataclasses.replace(
            self, text=dataclasses.replace(self.text, frozen=dataclasses.replace(frozen, encoder=folder))
        )

    def usage(self) -> str:
        low = " --low-res IMAGE" if self.super_resolution is not None else ""
        extra = " --text-encoder T5" if self.text.frozen is not None else ""
        return f"""A Re-Imagen (Chen et al., arXiv 2209.14491): it draws from text and retrieved image-text pairs.

    reimagen sample --model DIR --prompt "..." --reference IMAGE "what it shows"{low}{extra} --out OUT"""

    def facts(self, data: TriplesConfig) -> dict[str, Any]:
        drawing = {"solver": self.sampler.solver, "steps": self.sampler.num_steps}
        network = {"dtype": self.unet.dtype, "remat": self.unet.remat}
        return {"neighbours": data.num_neighbours, **network, **drawing}

    def savings(self) -> tuple[str, ...]:
        return self.unet.savings()


@dataclass(frozen=True)
class DistillationConfig(ReImagenConfig):
    """The training of a distilled model (distillation.py): the settings are the student's."""

    kind: ClassVar[str] = "distillation"

    distilled: Distilled = field(default_factory=Distilled)
    teacher_distilled: bool = False
    """The teacher is a distilled model itself, whose steps are made fewer."""
    teacher_steps: Count = 1
    """Of the teacher, that become one of the student's `distilled.steps`."""

    def __post_init__(self) -> None:
        super().__post_init__()
        require(
            self.teacher_steps == 1 or self.distilled.steps > 0,
            f"teacher_steps is {self.teacher_steps}: of how many steps of the student's, distilled.steps has to say",
        )

    @property
    def opened(self) -> ReImagenConfig:
        return ReImagenConfig(**{item.name: getattr(self, item.name) for item in dataclasses.fields(ReImagenConfig)})

    def opened_params(self, params: Any) -> Any:
        return params["student"]

    def begun(self, params: Any) -> Any:
        return {"teacher": params, "student": params}


def from_version_1(fields: Mapping[str, Any]) -> dict[str, Any]:
    """Settings as versions before 0.2 wrote them, when every experiment was a Re-Imagen, in today's form."""
    ours = {item.name for item in dataclasses.fields(ReImagenConfig)}
    train = dict(fields.get("train", {}))
    drops = {name: train.pop(name) for name in ("text_drop", "neighbour_drop") if name in train}
    system = {name: value for name, value in fields.items() if name in ours}
    rest = {name: value for name, value in fields.items() if name not in ours}
    return {**rest, "system": {"kind": ReImagenConfig.kind, **system, **drops}, "train": train}


def _with(settings: Any, others: Any, *names: str) -> Any:
    """The settings with some fields of others."""
    return dataclasses.replace(settings, **{name: getattr(others, name) for name in names})
