"""Options that commands share: how a model draws, and how others enlarge what it has drawn."""

import dataclasses
import hashlib
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, get_args

import tyro

from reimagen_jax.checked import Count, NonNegative, Options, Seed, Share, Strength, checked
from reimagen_jax.commands.options import as_typed
from reimagen_jax.config import Experiment, SystemConfig
from reimagen_jax.diffusion.settings import DrawingConfig, SamplerSteps, Solver, Thresholding, WeightSchedule
from reimagen_jax.diffusion.spacing import Spacing
from reimagen_jax.errors import UserError, require
from reimagen_jax.paths import local
from reimagen_jax.systems.reimagen.settings import AugNoise, Guidance, ReImagenConfig
from reimagen_jax.systems.settings import HandedOn
from reimagen_jax.systems.unclip.settings import Embedding
from reimagen_jax.terminal import say

if TYPE_CHECKING:
    import jax

    from reimagen_jax.inference.model import Model
    from reimagen_jax.inference.pipeline import Pipeline
    from reimagen_jax.inference.prompts import Prompt


def open_drawing(
    path: Path,
    text_encoder: Path | None = None,
    *,
    on_host: bool = False,
    kinds: tuple[type[SystemConfig], ...] = (ReImagenConfig,),
) -> "Model":
    """Opens a model to draw with by these options. Raises `UserError` also for one of a system that has others."""
    from reimagen_jax.inference.model import CHOSEN, Model

    model = Model.open(path, text_encoder=text_encoder, on_host=on_host)
    system = model.config.system
    others = " or a system of unCLIP or RCG" if len(kinds) > 1 else ""
    require(isinstance(system, kinds), f"{path} is a {system.kind}: images are drawn here by a Re-Imagen{others}")
    if model.chosen is not None:
        say(f"{path} draws by the guidance of its {CHOSEN}, where options say nothing else: {model.chosen}", error=True)
    return model


@dataclass(frozen=True)
class SamplingOptions(Options):
    """How to draw it; what is not given is as in the model's experiment."""

    common: ClassVar[tuple[str, ...]] = ("num_images", "steps", "seed")

    num_images: Count = 1
    """Images of each prompt (and each eta), from different noise."""
    steps: SamplerSteps | None = None
    """Steps of the sampler (default also: as many as --times lists, or as a --spacing such as fast27 has)."""
    solver: Solver | None = None
    """Of the sampler."""
    spacing: Spacing | None = None
    """Which times it visits: even; by noise, karras and logsnr; the others are of models of a chain, such as DeepFloyd
    IF's."""
    times: Annotated[tuple[Share, ...] | None, tyro.conf.arg(metavar="T ...")] = None
    """The times themselves, falling from 1 (noise); the image follows by itself. Step n of a chain of T is n / T."""
    ddim_noise: Share | None = None
    """Of solver ddim: noise of each step, from 0 (none) to 1 (as much as ddpm)."""
    ddpm_gamma: Share | None = None
    """Of solver ddpm: its variance, from the small (0) to the large bound (1)."""
    text_weight: NonNegative | None = None
    """Guidance weight of steps that strengthen the text; 1 is none, below 0 would draw away from it."""
    neighbour_weight: NonNegative | None = None
    """Guidance weight of steps that strengthen the neighbours; 1 is none."""
    guidance: Guidance | None = None
    """How text and neighbours are strengthened: each at some of the steps, drawn at random (interleaved) or evenly
    spread (stratified); both at once by --text-weight (joint); each by its own weight (compositional: three
    evaluations a step, not two); or as interleaved steps do on average, at every step (mean: three, too; of a distilled
    model, which has the forms with an eta, one)."""
    guidance_schedule: WeightSchedule | None = None
    """Whether both weights are constant, or rise from none to twice their strength."""
    guidance_interval: tuple[Share, Share] | None = None
    """Times, 0 (the image) to 1 (noise), between which anything is strengthened."""
    guidance_rescale: Share | None = None
    """From 0 to 1: how far the spread of a guided prediction is brought back to that of the plain one."""
    thresholding: Thresholding | None = None
    """How predicted images are kept within the range of images."""
    embedding: Embedding | None = None
    """Of an unCLIP decoder: whose embedding it draws, that of the stage before, the mean of the neighbours', or the
    text's own (default: of the stage before, if there is one, else the neighbours')."""
    prior_top: Strength | None = None
    """Of an autoregressive prior of unCLIP: how like the text its embedding is to be, drawn from this share of what is
    likely, the largest (the paper: 0.5); 1: from all of it."""
    sampling_temperature: NonNegative | None = None
    """Of such a prior: what its logits are divided by, 1 as it was learned. Of MAGE: how far chance has a say in which
    tokens are kept, from 0."""
    seed: Seed = 0
    """Of the noise. The noise of image number i depends on the seed and i alone."""
    batch_size: Count = 16
    """Images drawn at once; changes speed and memory, not the images."""
    text_encoder: Annotated[Path | None, tyro.conf.arg(metavar="DIR")] = None
    """Folder of the published text encoder (T5, CLIP) that the models were trained with, for models that have such a
    one (default: where it was then)."""

    def settings(self, config: DrawingConfig) -> DrawingConfig:
        """The experiment's settings with what was given."""
        with as_typed(self.typed()):
            return config.changed(**self._given())

    def typed(self) -> dict[str, str]:
        """Names of the sampler's settings that were given, and the options that they were given by."""
        names = {name: option for option, name in self._settings().items()}
        return {f"sampler.{name}": f"--{names[name].replace('_', '-')}" for name in self._given()}

    def _given(self) -> dict[str, Any]:
        """The settings of the sampler that were given."""
        given = {name: getattr(self, option) for option, name in self._settings().items()}
        return {name: value for name, value in given.items() if value is not None}

    def resolved(self, settings: DrawingConfig) -> "SamplingOptions":
        """The same with nothing left to the experiment."""
        return dataclasses.replace(
            self, **{option: getattr(settings, name, None) for option, name in self._settings().items()}
        )

    def pipeline(self, model: "Model", prompts: "Sequence[Prompt]") -> "Pipeline":
        """The model, to draw with these options, with room for the neighbours that the prompts have."""
        from reimagen_jax.api import pipeline_of

        with as_typed(self.typed()):
            return pipeline_of(model, prompts, self.seed, self.batch_size, **self._given())

    def _settings(self) -> dict[str, str]:
        """Options that are settings of the sampler, and these."""
        return {option: name for option, name in STAGE_SETTINGS.items() if hasattr(self, option)}


@dataclass(frozen=True)
class StageOption:
    """One more stage of a cascade: a model and what is set for it, in one word, MODEL[,SETTING=VALUE,...]."""

    model: Path
    settings: tuple[tuple[str, str], ...] = ()

    @classmethod
    def parse(cls, word: str) -> "StageOption":
        """Reads the word. A folder's name may have commas in it. Raises `UserError` on settings that are not known."""
        parts, given = word.split(","), []
        while len(parts) > 1 and not os.path.exists(",".join(parts)):  # a word too long for a name is none
            name, equals, value = parts.pop().partition("=")
            known = [option.replace("_", "-") for option in (*STAGE_SETTINGS, "batch_size")]
            require(
                bool(equals) and name in known,
                f"--cascade {word}: {name!r} is no setting of a stage, such as steps=30; there are {', '.join(known)}",
            )
            name = name.replace("-", "_")
            require(name not in dict(given), f"--cascade {word}: {name.replace('_', '-')} is set twice")
            given.append((name, value))
        return cls(local(",".join(parts)), tuple(reversed(given)))

    def __str__(self) -> str:
        return ",".join([str(self.model), *(f"{name.replace('_', '-')}={value}" for name, value in self.settings)])

    def applied(self, settings: DrawingConfig) -> DrawingConfig:
        """The model's settings with what was given. Raises `UserError` on values that make no sense."""
        given = {name: value for name, value in self.settings if name in STAGE_SETTINGS}
        for name in given:
            known = hasattr(settings, STAGE_SETTINGS[name])
            require(known, f"{self._place(name)}: this model's sampler has no such setting")
        read = {
            STAGE_SETTINGS[name]: settings.checked(STAGE_SETTINGS[name], self._read(name, value), self._place(name))
            for name, value in given.items()
        }
        with as_typed(self.typed()):
            return settings.changed(**read)

    def typed(self) -> dict[str, str]:
        """As `SamplingOptions.typed`."""
        return {
            f"sampler.{STAGE_SETTINGS[name]}": self._place(name) for name, _ in self.settings if name in STAGE_SETTINGS
        }

    def batch_size(self, default: int) -> int:
        """Images drawn at once."""
        size = dict(self.settings).get("batch_size")
        return default if size is None else checked(self._read("batch_size", size), Count, self._place("batch_size"))

    def resolved(self, settings: DrawingConfig, batch_size: int) -> "StageOption":
        """The same with nothing left to the experiment."""
        values = {option: getattr(settings, name, None) for option, name in STAGE_SETTINGS.items()}
        values |= {"batch_size": batch_size}
        return StageOption(self.model, tuple((name, _word(v)) for name, v in values.items() if v not in (None, ())))

    def without(self, names: Iterable[str]) -> "StageOption":
        """The same, with these settings left to others."""
        left = set(names)
        return StageOption(self.model, tuple((name, value) for name, value in self.settings if name not in left))

    def _place(self, name: str) -> str:
        return f"--cascade {self}: {name.replace('_', '-')}"

    def _read(self, name: str, value: str) -> Any:
        if name in STAGE_CHOICES:
            choices = STAGE_CHOICES[name]
            require(value in choices, f"{self._place(name)} is one of {', '.join(choices)}, not {value!r}")
            return value
        if name == "guidance_interval":
            low, colon, high = value.partition(":")
            require(bool(colon), f"{self._place(name)} {value!r} is no interval, such as 0.2:0.8")
            return self._number(name, low), self._number(name, high)
        if name == "times":
            return tuple(self._number(name, time) for time in value.split(":"))
        return self._number(name, value)

    def _number(self, name: str, value: str) -> float:
        try:
            return (int if name in ("steps", "k", "batch_size") else float)(value)
        except ValueError:
            raise UserError(f"{self._place(name)} {value!r} is not a number") from None


def _word(value: Any) -> str:
    """A value of a stage's setting, as it is typed."""
    return ":".join(map(str, value)) if isinstance(value, tuple) else str(value)


STAGE_SETTINGS = {
    "steps": "num_steps",
    "solver": "solver",
    "eta": "eta",
    "text_weight": "text_weight",
    "neighbour_weight": "neighbour_weight",
    "guidance": "guidance",
    "guidance_schedule": "guidance_schedule",
    "guidance_interval": "guidance_interval",
    "guidance_rescale": "guidance_rescale",
    "spacing": "spacing",
    "times": "times",
    "ddim_noise": "ddim_noise",
    "ddpm_gamma": "ddpm_gamma",
    "thresholding": "thresholding",
    "aug_level": "aug_level",
    "aug_noise": "aug_noise",
    "handed_on": "handed_on",
    "k": "k",
    "embedding": "embedding",
    "prior_top": "top",
    "sampling_temperature": "temperature",
}
"""Options of a stage's sampler -> the settings that they set."""
LOW_RES = ("aug_level", "aug_noise")
"""Those of a super-resolution stage alone."""
STAGE_CHOICES = {
    "solver": get_args(Solver),
    "spacing": get_args(Spacing),
    "guidance": get_args(Guidance),
    "guidance_schedule": get_args(WeightSchedule),
    "thresholding": get_args(Thresholding),
    "aug_noise": get_args(AugNoise),
    "handed_on": get_args(HandedOn),
    "embedding": get_args(Embedding),
}
_STAGE_WORD = tyro.constructors.PrimitiveConstructorSpec(
    nargs=1,
    metavar="MODEL[,SETTING=VALUE]",
    instance_from_str=lambda words: StageOption.parse(words[0]),
    is_instance=lambda value: isinstance(value, StageOption),
    str_from_instance=lambda stage: [str(stage)],
)


@dataclass(frozen=True)
class CascadeOptions(Options):
    """Cascades: further models that enlarge what --model draws, or draw from its embedding."""

    common: ClassVar[tuple[str, ...]] = ()

    cascade: tuple[Annotated[StageOption, _STAGE_WORD], ...] = ()
    """Super-resolution models, each enlarging the images of the one before it; the first those of --model (behind a
    prior of unCLIP, its decoder, then upsamplers; behind an RDM, a pixel generator). What is not as in a model's
    experiment stands behind it: runs/sr256,steps=30,aug-level=0.2 (also solver, spacing, times=1:0.8:0.4, ddim-noise,
    ddpm-gamma, eta, text-weight, neighbour-weight, guidance, guidance-schedule, guidance-interval=0.2:0.8,
    guidance-rescale, thresholding, sampling-temperature, aug-noise, handed-on, embedding, batch-size, and k:
    neighbours, of those found, that it sees)."""
    aug_level: Share | None = None
    """Where --model is a super-resolution model: noise that it puts on its input, 0 to 1 (0.1 to 0.3 work well). More
    hides what the stage before got wrong, and lets more be drawn anew."""
    aug_noise: AugNoise | None = None
    """Where --model is a super-resolution model: whether that noise is drawn once an image, or (every_call) anew each
    time that the network is asked, as DeepFloyd IF does."""
    handed_on: HandedOn | None = None
    """What the models of --cascade enlarge: images as they would be written (bytes), or never rounded (floats)."""

    def settings(self, configs: Sequence[Experiment], first: DrawingConfig, found: int) -> list[DrawingConfig]:
        """Of all stages: `first` of --model, and each experiment's own with what was given; `found` neighbours at most.

        A stage that was trained without neighbours sees none. Raises `UserError` on values out of range.
        """
        own = {name: value for name in LOW_RES if (value := getattr(self, name)) is not None}
        for name, value in own.items():
            require(
                configs[0].system.super_resolution is not None,
                f"--{name.replace('_', '-')} {value}: --model is a base model; write it behind a model of --cascade",
            )
        handed_on = self.of_all_but_the_last
        require(
            not handed_on or bool(self.cascade),
            f"--handed-on {self.handed_on} is about the models of --cascade: none is given",
        )
        stages = [_handing_on(first.with_room(found).changed(**own), handed_on)]
        for option, config in zip(self.cascade, configs[1:], strict=True):
            last = option is self.cascade[-1]
            settings = option.applied(_handing_on(config.system.sampler, {} if last else handed_on))
            most, own = found if config.data.num_neighbours else 0, getattr(settings, "k", None)
            stages.append(settings.with_room(most if own is None else min(own, found)))
        return stages

    @property
    def of_all_but_the_last(self) -> dict[str, str]:
        """What is given for all stages but the last."""
        return {} if self.handed_on is None else {"handed_on": self.handed_on}

    def pipeline(
        self,
        models: "Sequence[Model]",
        how: SamplingOptions,
        first: DrawingConfig,
        found: int,
        devices: "Sequence[jax.Device]" = (),
    ) -> "Pipeline":
        """The stages that draw with these models, with room for `found` neighbours; one model is a pipeline of one."""
        from reimagen_jax.inference.pipeline import Pipeline

        sizes = [how.batch_size, *(option.batch_size(how.batch_size) for option in self.cascade)]
        settings = self.settings([model.config for model in models], first, found)
        first_typed = how.typed() | ({"sampler.aug_level": "--aug-level"} if self.aug_level is not None else {})
        typed = [first_typed, *(option.typed() for option in self.cascade)]
        stages = []
        for model, setting, size, options in zip(models, settings, sizes, typed, strict=True):
            with as_typed(options):
                stages.append(model.stage(setting, size, devices))
        return Pipeline(stages, how.seed)

    def resolved(self, pipeline: "Pipeline") -> "CascadeOptions":
        """The same with nothing left to the experiments."""
        stages = zip(self.cascade, pipeline.stages[1:], strict=True)
        first, own = pipeline.stages[0], {}
        if first.config.system.super_resolution is not None:
            own = {name: getattr(first.settings, name, None) for name in LOW_RES}
        own |= {"handed_on": getattr(first.settings, "handed_on", None)} if self.cascade else {}
        cascade = tuple(option.resolved(stage.settings, stage.batch_size) for option, stage in stages)
        return dataclasses.replace(self, cascade=cascade, **own)


def _handing_on(settings: DrawingConfig, given: Mapping[str, HandedOn]) -> DrawingConfig:
    """The settings, by which images are handed on so; an embedding is handed on as it is."""
    return settings.changed(**given) if hasattr(settings, "handed_on") else settings


@dataclass(frozen=True)
class EnlargingOptions(CascadeOptions):
    """Cascades: further models that enlarge what --model draws, or an image for --model itself to enlarge."""

    common: ClassVar[tuple[str, ...]] = ()

    low_res: Annotated[Path | None, tyro.conf.arg(metavar="IMAGE")] = None
    """An image to enlarge, where --model is a super-resolution model itself."""

    def sources(self) -> dict[str, str]:
        """The image to enlarge, if one was given, with its checksum."""
        if self.low_res is None:
            return {}
        checksum = hashlib.sha256(self.low_res.read_bytes()).hexdigest()
        return {"low-resolution image": str(self.low_res.resolve()), "its SHA-256": checksum}
