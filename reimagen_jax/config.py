"""What all experiments have in common: frozen dataclasses, contradictions refused at construction.

An experiment is a name, a system (what is trained: its settings stand beside its code, in `systems`), its data, what it
starts from, and how it is trained. An experiment file is a Python file that defines `config`, an `Experiment`; every
field can be overridden on the command line (`--train.num-steps 10`; the system's own fields have no prefix). Settings
are data: no functions, no arrays, so an experiment prints, compares and is stored beside its checkpoints as JSON, in
which the system names its kind (systems/kinds.py reads it).
"""

import dataclasses
import functools
import json
import re
import runpy
import traceback
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal, Self

import tyro
from annotated_types import Lt

from reimagen_jax.checked import Checked, Count, Natural, NonNegative, Positive, Seed, Share, Steps
from reimagen_jax.errors import UserError, require

FREE = {"free": True}
"""Marks a setting that a resumed run may change: it does not touch what a step computes, or says itself how far."""
LOCAL = {"local": True}
"""Marks a setting that is about the machine or about how a run began: weights that are handed on are without it."""


@dataclass(frozen=True)
class DataConfig(Checked):
    """What is read, and how a step's batch is made of it. Systems add where their data lie."""

    common: ClassVar[tuple[str, ...]] = ("batch_size",)

    section: ClassVar[str] = "data."

    batch_size: Count = 32
    """Examples a step, over all devices and hosts."""
    seed: Seed = 0
    """Of the order of the examples."""
    threads: Count = field(default=4, metadata=FREE)
    """Reader threads."""
    stage: str = field(default="", metadata=FREE | LOCAL)
    """Folder of this machine to which data in a bucket (gs://, s3://) are copied before they are read, and checked."""


@dataclass(frozen=True)
class SystemConfig(Checked):
    """Base of a system's settings, and what the rest of the program may ask them."""

    kind: ClassVar[str] = ""
    """The system's name in JSON."""
    data: ClassVar[type[DataConfig]] = DataConfig
    """The settings of its data."""

    def check(self, data: DataConfig) -> None:
        """Raises `UserError` where these settings and those of the data contradict each other."""

    def check_settings(self, settings: Any) -> None:
        """Raises `UserError` where settings to draw with do not fit what was trained."""

    def check_follows(self, before: "Experiment", where: str) -> None:
        """Raises `UserError`, beginning with `where`, unless this system draws from what that of `before` has drawn."""
        raise UserError(f"{where} is a {self.kind}: it draws from no other stage, only the first stage can be one")

    @property
    def drawn(self) -> int | None:
        """Side in pixels of the images that it draws; None where it draws none."""
        return getattr(self, "resolution", None)

    @property
    def encoder_params(self) -> str | None:
        """Where the encoder lies among its parameters whose vectors it draws, or draws from: two stages in a row need
        the same. None where there is none."""
        return None

    @property
    def known_prompts(self) -> tuple[str, ...] | None:
        """What a prompt may name, where that is a list; empty: no prompt says anything to it. None: it reads texts."""
        return None

    def adopt(self, theirs: "SystemConfig") -> Self:
        """These settings with the network of `theirs`, from whose weights a run starts (`init.adopt`)."""
        raise UserError(f"init.adopt: a {self.kind} does not take its network over from weights")

    @property
    def opened(self) -> "SystemConfig":
        """What a run of it is, when it is opened to draw: other settings where the training was for another system."""
        return self

    def opened_params(self, params: Any) -> Any:
        """Of a run's parameters, those of `opened`."""
        return params

    def begun(self, params: Any) -> Any:
        """The parameters that a run begins with, from those of `init.weights`."""
        return params

    def with_text_encoder(self, folder: str) -> Self:
        """These settings with the frozen text encoder in `folder`. Raises `UserError` where there is none."""
        raise UserError(f"--text-encoder {folder}: this model has no frozen text encoder")

    def for_platform(self, platform: str) -> Self:
        """As the program runs on "tpu" or "cuda": what it would decide by the device that traces it is settled, in
        each part that has such a choice."""
        return _on_platform(self, platform, inside=True)

    def usage(self) -> str:
        """How a model of it is used, in Markdown, for its card."""
        return ""

    def facts(self, data: DataConfig) -> dict[str, Any]:
        """What shapes the speed and memory of its programs, for tables."""
        return {}

    def savings(self) -> tuple[str, ...]:
        """Command line options that would save memory in training, the cheapest first."""
        return ()


def _on_platform(settings: Any, platform: str, inside: bool = False) -> Any:
    """Settings with those within them as they run there."""
    if not inside and hasattr(settings, "for_platform"):
        return settings.for_platform(platform)
    if not dataclasses.is_dataclass(settings):
        return settings
    told = {each.name: getattr(settings, each.name) for each in dataclasses.fields(settings)}
    changed = {name: _on_platform(value, platform) for name, value in told.items()}
    return dataclasses.replace(settings, **{name: new for name, new in changed.items() if new is not told[name]})


@dataclass(frozen=True)
class InitConfig(Checked):
    """What a run starts from, when it does not go on from its own checkpoint."""

    common: ClassVar[tuple[str, ...]] = ("weights",)

    section: ClassVar[str] = "init."

    weights: str = field(default="", metadata=LOCAL)
    """`shipped` (the weights that come with the package), or a folder of another run (its averaged parameters) or of
    weights, with the same network; random when empty. The side of the images and how long texts are may differ."""
    fresh: tuple[str, ...] = ()
    """Modules that the weights need not have, by how their names begin (a new attention's, say): what is missing there
    starts as in a network made anew."""
    left_out: tuple[str, ...] = ()
    """Modules that this network need not have, by how their names begin in the weights: what it lacks of them is not
    taken over."""
    adopt: bool = field(default=False, metadata=LOCAL)
    """What the weights decide (the network, its process, its resolution) is as with the weights, whatever this
    experiment says of it; it keeps its own say in how things are computed and trained."""
    beside: tuple[str, ...] = field(default=(), metadata=LOCAL)
    """Folders of what else the system holds frozen, in parts that `weights` do not have: an encoder's, say, beside a
    tokenizer's."""


@dataclass(frozen=True)
class GroupRate(Checked):
    """A group of parameters that learns faster or slower than the others."""

    section: ClassVar[str] = "train.rates: "

    where: str
    """Regular expression; the group has the parameters in whose path (`unet/dstack/stem/kernel`) it is found."""
    factor: NonNegative
    """What the learning rate is multiplied by; 0 freezes: no gradient, no moments, no decay, no average."""

    def __post_init__(self) -> None:
        super().__post_init__()
        try:
            re.compile(self.where)
        except re.error as error:
            raise UserError(f"train.rates: {self.where!r} is not a regular expression: {error}") from error


@dataclass(frozen=True)
class TrainConfig(Checked):
    """Optimisation, logging and checkpoints."""

    common: ClassVar[tuple[str, ...]] = (
        "num_steps",
        "learning_rate",
        "log_every",
        "checkpoint_every",
        "sample_every",
        "seed",
    )

    section: ClassVar[str] = "train."

    num_steps: Steps = field(default=10_000, metadata=FREE)
    """Of the whole run. Free on resuming: training longer is the commonest wish. The rate of the steps to come follows
    the new length; where the steps so far would have had another rate under it (cosine decay always, tail decay once
    the tail has begun), the result is not that of a run of the new length: the loop says so, and `run.json` keeps the
    change. So with the average's memory, where that grows."""
    optimizer: Literal["adamw", "adafactor"] = "adamw"
    """Adafactor keeps a row and a column of second moments for a matrix, where AdamW keeps two moments of its size."""
    multiply_by_parameter_scale: bool = False
    """Of Adafactor: a step is the learning rate times the root mean square of the parameter (at least 0.001), as its
    paper has it and optax by default; else the learning rate itself, as with AdamW."""
    learning_rate: NonNegative = 1e-3
    """At its highest, after warm-up."""
    rates: tuple[GroupRate, ...] = ()
    """Groups with a rate of their own; a parameter belongs to the first that fits, and to none otherwise (1)."""
    frozen_dtype: Literal["float32", "bfloat16"] = "float32"
    """Precision in which matrices and kernels that are frozen (`rates`) are held; what they compute in is the network's
    own. bfloat16 halves their memory. A network that computes in bfloat16 rounds all of them anyway, but for the few
    that it keeps in float32 (the embedding of the time, the last convolution)."""
    warmup_steps: Natural = 500
    """Linear warm-up from 0."""
    decay: Literal["constant", "cosine", "tail"] = "cosine"
    """Of the learning rate after warm-up; cosine ends at 0 after `num_steps`, tail is constant and falls linearly to 0
    over the last fifth of `num_steps` (so that a run can be prolonged until then)."""
    weight_decay: NonNegative = 0.0
    """Share of a matrix that a step takes away, times the learning rate."""
    beta1: Annotated[NonNegative, Lt(1)] = 0.9
    """Of AdamW; two networks that learn against each other want less (VQGAN: 0.5). Adafactor has none."""
    beta2: Annotated[NonNegative, Lt(1)] = 0.99
    """Of AdamW; Adafactor's memory grows with the steps, as 1 - n^-0.8."""
    epsilon: Positive = 1e-8
    """Of AdamW: added to the root of the second moment, which an update is divided by."""
    clip_norm: Positive | None = 1.0
    """Largest global gradient norm; None: gradients are not clipped."""
    accumulate: Count = field(default=1, metadata=FREE)
    """Micro-batches that a step's batch is cut into, one after the other, to save memory: the update is that of the
    whole batch, but for rounding and for which random numbers an example meets."""
    ema_decay: Share = 0.999
    """Of the averaged parameters; warmed up as min(ema_decay, (1 + step) / (10 + step))."""
    ema_growth: Literal["none", "cosine"] = "none"
    """cosine: it grows from `ema_decay` to 1 over the run, along half a cosine and without that warm-up, as the
    momentum of MoCo-v3's teacher does."""
    parallel: Literal["jit", "pmap"] = "jit"
    """How a step is spread over devices: one program over sharded arrays, or a map over devices with a state whole on
    each (no fsdp, one process), for those who stand on `jax.pmap`."""
    log_every: Count = field(default=50, metadata=FREE)
    """Steps between lines of metrics, each with their means."""
    checkpoint_every: Count = field(default=500, metadata=FREE)
    """Steps between checkpoints: as many are lost at most when the machine goes off."""
    keep_checkpoints: Count = field(default=3, metadata=FREE)
    """The last so many stay on the disk."""
    sample_every: Natural = field(default=1000, metadata=FREE)
    """Steps between sample grids; 0 draws none."""
    sample_images: Count = field(default=8, metadata=FREE)
    """Images of a grid."""
    validate_every: Natural = field(default=500, metadata=FREE)
    """Steps between measurements of the loss on held-out examples, where the data hold any out; 0: none."""
    validate_examples: Count = field(default=256, metadata=FREE)
    """Held-out examples that it is measured on, about: whole batches."""
    evaluate_every: Natural = field(default=0, metadata=FREE)
    """Steps between measurements of what is drawn for held-out examples, where the data hold any out; 0: none. At the
    end, weights of guidance that draw them better than the experiment's are kept with the run."""
    evaluate_images: Count = field(default=48, metadata=FREE)
    """Held-out examples that are drawn for it."""
    fsdp: Count = field(default=1, metadata=FREE)
    """Devices over which parameters are sharded; the rest of the mesh is data-parallel. It changes rounding."""
    seed: Seed = 0
    """Of the first parameters, and of each step's random numbers."""

    def __post_init__(self) -> None:
        super().__post_init__()
        require(
            self.optimizer == "adafactor" or not self.multiply_by_parameter_scale,
            f"train.multiply_by_parameter_scale is Adafactor's: with train.optimizer {self.optimizer!r} leave it out",
        )
        require(
            self.parallel == "jit" or self.fsdp == 1,
            f"train.fsdp is {self.fsdp}, but train.parallel 'pmap' keeps the state whole on every device: leave "
            "train.fsdp at 1, or train.parallel at 'jit'",
        )


@dataclass(frozen=True)
class Experiment(Checked):
    """All settings of one experiment."""

    name: str
    """As logs, cards and reports call it."""
    system: Annotated[SystemConfig, tyro.conf.arg(name="")]
    """What is trained."""
    data: DataConfig | None = None
    """Of the class that the system's settings name; None: its defaults."""
    init: InitConfig = field(default_factory=InitConfig)
    train: TrainConfig = field(default_factory=TrainConfig)

    def __post_init__(self) -> None:
        super().__post_init__()
        kind = self.system.data
        if self.data is None:
            object.__setattr__(self, "data", kind())
        require(
            isinstance(self.data, kind),
            f"the data of {self.name}, a {self.system.kind}, are {kind.__name__}, not {type(self.data).__name__}",
        )
        self.system.check(self.data)


def load_experiment(path: str | Path) -> Experiment:
    """Runs an experiment file and returns its `config`.

    Raises `UserError` when the file is missing, cannot be run, or does not define `config = Experiment(...)`.
    """
    path = Path(path)
    require(path.is_file(), f"experiment file {path} not found")
    try:
        config = runpy.run_path(str(path)).get("config")
    except UserError:
        raise
    except (Exception, SystemExit) as error:
        raise UserError(f"experiment file {path}{_line(error, path)}: {type(error).__name__}: {error}") from error
    require(isinstance(config, Experiment), f"{path} does not define `config = Experiment(...)`")
    return config


def _line(error: BaseException, path: Path) -> str:
    """Where in the file an exception arose, or where it cannot be read as Python."""
    if isinstance(error, SyntaxError) and error.filename == str(path):
        return f", line {error.lineno}"
    lines = [frame.lineno for frame in traceback.extract_tb(error.__traceback__) if frame.filename == str(path)]
    return f", line {lines[-1]}" if lines else ""


def to_dict(config: Experiment) -> dict[str, Any]:
    """The settings as JSON types; the system's name their kind."""
    fields = dataclasses.asdict(config)
    return fields | {"system": {"kind": config.system.kind, **fields["system"]}}


def to_json(config: Experiment) -> str:
    """The settings as indented JSON."""
    return json.dumps(to_dict(config), indent=2) + "\n"


def differences(ours: Experiment, theirs: Experiment) -> dict[str, str]:
    """The fields in which two experiments differ: name -> `name: ours != theirs`. A system's fields have no prefix."""

    def flatten(value: Any, prefix: str) -> dict[str, Any]:
        if isinstance(value, dict):
            items = value.items()
        elif isinstance(value, tuple | list):
            items = enumerate(value)
        else:
            return {prefix: value}
        return {
            k: v for key, item in items for k, v in flatten(item, f"{prefix}.{key}" if prefix else str(key)).items()
        }

    def flat(config: Experiment) -> dict[str, Any]:
        fields = to_dict(config)
        return flatten(fields.pop("system"), "") | flatten(fields, "")

    a, b = flat(ours), flat(theirs)
    return {k: f"{k}: {a.get(k)!r} != {b.get(k)!r}" for k in sorted(a.keys() | b.keys()) if a.get(k) != b.get(k)}


def is_free(config: Experiment, name: str) -> bool:
    """Whether the setting with this name (as `differences` has it) may change when a run resumes."""
    free = [*_marked(config.system, "free", ""), *_marked(config, "free", "")]
    return any(name == path or name.startswith(f"{path}.") for path in free)


def places(settings: Any) -> list[str]:
    """What the settings say of where things lie on this machine."""
    values = [functools.reduce(getattr, name.split("."), settings) for name in _marked(settings, "local", "")]
    return [value for value in values if isinstance(value, str) and value]


def moved(settings: Any, move: Callable[[str], str]) -> Any:
    """The settings with each of their own (not of nested) words on where things lie as `move` has it."""
    said = {
        item.name: getattr(settings, item.name) for item in dataclasses.fields(settings) if item.metadata.get("local")
    }
    return dataclasses.replace(settings, **{n: move(v) for n, v in said.items() if isinstance(v, str) and v})


def without_local(settings: Any) -> Any:
    """The settings without what is about the machine, or about how a run began: those are as by default."""
    changed = {}
    for item in dataclasses.fields(settings):
        value = getattr(settings, item.name)
        if item.metadata.get("local"):
            changed[item.name] = item.default
        elif dataclasses.is_dataclass(value):
            changed[item.name] = without_local(value)
    return dataclasses.replace(settings, **changed)


def _marked(settings: Any, mark: str, prefix: str) -> Iterator[str]:
    """The names of the fields that bear a mark, those of nested settings among them."""
    for item in dataclasses.fields(settings):
        value = getattr(settings, item.name)
        if item.metadata.get(mark):
            yield prefix + item.name
        elif dataclasses.is_dataclass(value):
            yield from _marked(value, mark, f"{prefix}{item.name}.")
