"""The settings of an experiment: frozen dataclasses, contradictions refused at construction.

An experiment file is a Python file that defines `config`, an `Experiment`; every field can be overridden on the command
line (`--train.num-steps 10`). Settings are data: no functions, no arrays, so an experiment prints, compares and
is stored beside its checkpoints as JSON.
"""

import dataclasses
import json
import re
import runpy
from dataclasses import dataclass, field
from pathlib import Path
from types import NoneType, UnionType
from typing import Any, Literal, get_args, get_origin, get_type_hints

from reimagen_jax.errors import UserError

Prediction = Literal["eps", "x0", "v"]
Weighting = Literal["plain", "min_snr"]
Solver = Literal["ddpm", "ddim"]
Thresholding = Literal["dynamic", "static", "none"]
Shrinking = Literal["area", "linear", "cubic", "lanczos3"]
Enlarging = Literal["linear", "cubic", "linear_corners"]


def require(condition: bool, message: str) -> None:
    """Raises `UserError(message)` unless `condition` holds."""
    if not condition:
        raise UserError(message)


@dataclass(frozen=True)
class Level:
    """One resolution of the U-Net, from high (first) to low (last)."""

    width: int
    """Channels."""
    blocks: int = 2
    """Residual blocks on the way down; the way up has as many."""
    self_attention: bool = False
    """Self-attention over this level's pixels and the text tokens after each residual block."""
    neighbour_attention: bool = False
    """Attention over the neighbours' features of this level, where DStack hands over to UStack."""
    head_width: int | None = None
    """Channels of an attention head here; `unet.head_width` when not given."""
    text_attention: bool = False
    """Instead of self-attention: this level's pixels attend to the text tokens alone (large images)."""
    attention_every: int = 1
    """Self- or text attention follows every n-th residual block only."""


@dataclass(frozen=True)
class UNetConfig:
    """DStack and UStack (Re-Imagen section 3; Imagen appendix B)."""

    levels: tuple[Level, ...] = (
        Level(64, 1),
        Level(128, 2, self_attention=True, neighbour_attention=True),
        Level(192, 2, self_attention=True, neighbour_attention=True),
    )
    patch: int = 1
    """Pixels are folded into patch x patch channels before the first level (space to depth), to save compute."""
    head_width: int = 64
    """Channels of an attention head."""
    groups: int = 16
    """Groups of every group norm; each level's width must be a multiple."""
    cond_width: int = 256
    """Width of the timestep-and-pooled-text embedding."""
    efficient: bool = False
    """Imagen's Efficient U-Net, for large images: every level, the first too, halves the sides by a convolution
    *before* its blocks and doubles them after; one skip a level, added; no middle blocks."""
    residual_scale: float = 1.0
    """What the sum of a block and its skip is multiplied by: 1/sqrt(2) keeps the variance (super-resolution)."""
    activation: Literal["swish", "gelu"] = "swish"
    norm_epsilon: float = 1e-6
    """Added to the variance in every norm."""
    time_features: int | None = None
    """Sines and cosines that t is given as; `cond_width` of them when not given."""
    text_width: int | None = None
    """Text tokens are projected to this width first, inside the network; taken as they are when not given."""
    text_pooling: Literal["score", "attention"] = "score"
    """How tokens become one vector: one learned score a token, or a learned token that attends (DeepFloyd IF)."""
    text_norm: Literal["layer", "group"] = "layer"
    """Norm of the text in attention: each token by itself, or groups of channels over all tokens (DeepFloyd IF)."""
    dtype: Literal["float32", "bfloat16"] = "float32"
    """Of convolutions and matrix products; parameters, norms, softmax and the output stay float32."""
    remat: Literal["none", "blocks", "matmuls"] = "none"
    """What backpropagation computes again: nothing; all inside residual blocks and attentions (least memory); or that
    without the results of convolutions and projections (norms, activations and attention weights only)."""
    attention: Literal["auto", "einsum", "xla", "cudnn"] = "auto"
    """Implementation: plain einsum, or `jax.nn.dot_product_attention` by XLA or by cuDNN (flash; bfloat16 on NVIDIA
    GPUs). `auto` takes what is fastest where the program is traced: einsum on CPUs (in groups where
    scores are many), cuDNN where it can, else XLA."""

    def __post_init__(self) -> None:
        require(len(self.levels) > 0, "unet.levels is empty: give at least one Level")
        for i, level in enumerate(self.levels):
            name, head_width = f"unet.levels[{i}]", self.head_width_at(i)
            attends = level.self_attention or level.text_attention or level.neighbour_attention
            require(level.blocks > 0, f"{name}.blocks is {level.blocks}: at least 1 is needed")
            require(
                level.width % self.groups == 0,
                f"{name}.width {level.width} is not a multiple of unet.groups {self.groups}",
            )
            require(
                not attends or level.width % head_width == 0,
                f"{name}.width {level.width} is not a multiple of its head_width {head_width}",
            )
            require(
                not (level.self_attention and level.text_attention),
                f"{name} has both self_attention (pixels and text) and text_attention (text alone): choose one",
            )
            require(
                1 <= level.attention_every <= level.blocks,
                f"{name}.attention_every {level.attention_every} is not between 1 and its {level.blocks} blocks",
            )
        for name in ("cond_width", "time_features"):
            value = getattr(self, name)
            require(value is None or value % 2 == 0, f"unet.{name} {value} is odd: sines and cosines come in pairs")
        require(
            self.text_norm == "layer" or self.text_width is None or self.text_width % self.groups == 0,
            f"unet.text_width {self.text_width} is not a multiple of unet.groups {self.groups}, "
            "what unet.text_norm 'group' needs",
        )
        require(
            self.attention != "cudnn" or self.dtype == "bfloat16",
            f"unet.attention 'cudnn' needs unet.dtype 'bfloat16', not {self.dtype!r}",
        )

    def head_width_at(self, level: int) -> int:
        """Channels of an attention head at a level."""
        return self.levels[level].head_width or self.head_width

    @property
    def stride(self) -> int:
        """The image's side must be a multiple of this many pixels."""
        return self.patch * 2 ** (len(self.levels) - (0 if self.efficient else 1))


@dataclass(frozen=True)
class FrozenTextConfig:
    """A published text encoder (T5) that is not trained: texts enter as its embeddings, computed beforehand."""

    encoder: str = ""
    """Folder of the encoder, as Hugging Face stores it. Needed where new texts are embedded: for drawing."""
    fingerprint: str = ""
    """Of the encoder whose embeddings the network was trained with: another one is refused; empty: any is taken."""
    width: int = 4096
    """Channels of an embedding."""
    max_tokens: int = 128
    """Texts are cut after this many tokens."""
    padding: Literal["masked", "kept"] = "masked"
    """What fills a text up to `max_tokens`: masked, or tokens like all others, as DeepFloyd IF has it. If kept, a
    dropped text is the empty text (a parameter of the network), not one without any token."""
    lowercase: bool = False
    """Texts are lowered and stripped before they are embedded (DeepFloyd IF)."""
    dtype: Literal["float32", "bfloat16"] = "bfloat16"
    """That the encoder computes in; embeddings are stored as bfloat16 in any case."""

    def __post_init__(self) -> None:
        for name in ("width", "max_tokens"):
            require(getattr(self, name) > 0, f"text.frozen.{name} is {getattr(self, name)}: at least 1 is needed")


@dataclass(frozen=True)
class TextConfig:
    """The byte-level transformer that is trained jointly (embedded experiments), or a frozen encoder in its place."""

    max_bytes: int = 96
    """Captions are cut after this many UTF-8 bytes."""
    stride: int = 4
    """Bytes merged into one token by strided convolution before the transformer."""
    width: int = 128
    depth: int = 2
    head_width: int = 64
    frozen: FrozenTextConfig | None = None
    """A published encoder instead; what is said above is then about nothing but captions in pictures of samples."""

    def __post_init__(self) -> None:
        require(
            self.max_bytes % self.stride == 0,
            f"text.max_bytes {self.max_bytes} is not a multiple of text.stride {self.stride}",
        )
        require(
            self.width % self.head_width == 0,
            f"text.width {self.width} is not a multiple of text.head_width {self.head_width}",
        )


@dataclass(frozen=True)
class DiffusionConfig:
    """The forward process and what the network predicts."""

    schedule: Literal["cosine", "linear", "cosine_chain"] = "cosine"
    """cosine_chain: the chain of `variance_steps` steps that DeepFloyd IF and its ancestors were trained on."""
    prediction: Prediction = "v"
    """What the network's output means; the loss is the squared error of this quantity."""
    weighting: Weighting = "plain"
    """Of that squared error: plain is 1 at every t; min_snr is Hang et al.'s, which weighs the error of x0 with the
    signal-to-noise ratio, at most `snr_limit` (plain eps weighs it with the whole ratio: mostly the last details)."""
    snr_limit: float = 5.0
    """gamma of min_snr."""
    learned_variance: bool = False
    """The network has twice the channels: besides its prediction, where the variance of an ancestral step lies between
    its bounds (learned range, Nichol and Dhariwal). A variational term trains it, the ddpm solver uses it."""
    variance_steps: int = 1000
    """T: the chain whose steps that term judges."""
    variance_weight: float = 0.001
    """Of that term, in bits a pixel channel summed over the T steps, beside the squared error."""
    logsnr_min: float = -15.0
    logsnr_max: float = 15.0
    logsnr_shift: float = 0.0
    """Added to the log signal-to-noise ratio at every t; negative values put more noise at every t (large images)."""
    time_exponent: float = 1.0
    """Training draws t = u^time_exponent, u uniform in [0, 1]: 0.5 has density 2 t, more of the noise where text and
    neighbours decide, less of the fine denoising where they hardly matter."""

    def __post_init__(self) -> None:
        require(
            self.logsnr_min < self.logsnr_max,
            f"diffusion.logsnr_min {self.logsnr_min} is not below diffusion.logsnr_max {self.logsnr_max}",
        )
        require(self.time_exponent > 0, f"diffusion.time_exponent {self.time_exponent} is not above 0")
        require(self.snr_limit > 0, f"diffusion.snr_limit {self.snr_limit} is not above 0")
        require(self.variance_steps > 1, f"diffusion.variance_steps is {self.variance_steps}: at least 2 are needed")
        require(self.variance_weight >= 0, f"diffusion.variance_weight {self.variance_weight} is below 0")

    def output_channels(self, image_channels: int) -> int:
        """Channels that a network's output needs for images of so many."""
        return image_channels * (2 if self.learned_variance else 1)


@dataclass(frozen=True)
class SuperResolutionConfig:
    """A stage that enlarges the image of the stage before it (Imagen section 2.4, appendix C; DALL-E 2 appendix C)."""

    low_resolution: int = 64
    """Side in pixels of the image that the stage before draws; the experiment's resolution is a multiple."""
    crop: int = 0
    """Side of the random crops that the network is trained on, 0 for whole images. Drawing is always of whole images,
    so the network has to be convolutional, and it attends to no neighbours."""
    enlarging: Enlarging = "cubic"
    """How the low-resolution image is brought to this stage's resolution before the network sees it: with pixels'
    centres in place, or (linear_corners) with the corner pixels' centres in the corners (DeepFloyd IF)."""
    shrinking: tuple[Shrinking, ...] = ("area", "linear", "cubic")
    """Filters that make the low-resolution image in training, one drawn for each image. Drawing, and neighbours, use
    area averaging, as does the data set of the stage before."""
    blur: float = 0.5
    """Probability that a training image is blurred (Gaussian) before it is shrunk."""
    blur_width: tuple[float, float] = (0.2, 0.8)
    """Least and largest standard deviation of the blur, drawn uniformly, in pixels of the low-resolution image."""
    aug_levels: tuple[float, float] = (0.0, 1.0)
    """Least and largest level of the noise-conditioning augmentation in training, drawn uniformly: 0 leaves the
    low-resolution image as it is, 1 leaves nothing but noise. The network is told the level."""
    aug_schedule: Literal["cosine", "linear", "cosine_chain"] = "cosine"
    """How much noise a level means; cosine_chain: as in DeepFloyd IF (`diffusion.schedule`)."""

    def __post_init__(self) -> None:
        require(
            self.low_resolution > 0,
            f"super_resolution.low_resolution is {self.low_resolution}: give the side of the stage before in pixels",
        )
        require(self.crop >= 0, f"super_resolution.crop is {self.crop}: a side in pixels, or 0 for whole images")
        require(len(self.shrinking) > 0, "super_resolution.shrinking is empty: give at least one filter")
        require(0.0 <= self.blur <= 1.0, f"super_resolution.blur {self.blur} is not between 0 and 1")
        for name, most in (("blur_width", float("inf")), ("aug_levels", 1.0)):
            low, high = getattr(self, name)
            require(
                0.0 <= low <= high <= most,
                f"super_resolution.{name} {low} .. {high} is not a range{'' if most > 1 else ' within 0 .. 1'}",
            )
        require(
            self.blur == 0.0 or self.blur_width[0] > 0.0,
            f"super_resolution.blur_width begins at {self.blur_width[0]}: a blur has a width above 0",
        )


@dataclass(frozen=True)
class SamplerConfig:
    """How an image is drawn (Re-Imagen section 3.3; Imagen section 2.3)."""

    solver: Solver = "ddim"
    num_steps: int = 25
    eta: float = 0.5
    """Share of steps with text-enhanced guidance: 1 is all text, 0 all neighbours."""
    text_weight: float = 2.0
    """w_p; 1 is the plain conditional prediction."""
    neighbour_weight: float = 2.0
    """w_n; 1 is the plain conditional prediction."""
    thresholding: Thresholding = "static"
    percentile: float = 0.995
    """Of |x0| in dynamic thresholding."""
    threshold_limit: float | None = None
    """Dynamic thresholding divides by this at most, and cuts what is beyond (DeepFloyd IF: 1.5); None: no limit."""
    ddpm_gamma: float = 0.0
    """Variance of the ancestral step, in log space between the small (0) and the large (1) bound."""
    ddim_noise: float = 0.0
    """Stochasticity of DDIM: 0 deterministic, 1 as much noise as the ancestral step."""
    aug_level: float = 0.1
    """Of the noise on the low-resolution image of a super-resolution stage; 0.1 to 0.3 work well (Imagen)."""

    def __post_init__(self) -> None:
        require(self.num_steps > 0, f"sampler.num_steps is {self.num_steps}: at least 1 is needed")
        require(0.0 <= self.eta <= 1.0, f"sampler.eta {self.eta} is not between 0 and 1")
        require(0.0 < self.percentile <= 1.0, f"sampler.percentile {self.percentile} is not in (0, 1]")
        require(
            self.threshold_limit is None or self.threshold_limit >= 1.0,
            f"sampler.threshold_limit {self.threshold_limit} is below 1: images lie in [-1, 1]",
        )
        require(0.0 <= self.ddpm_gamma <= 1.0, f"sampler.ddpm_gamma {self.ddpm_gamma} is not between 0 and 1")
        require(0.0 <= self.ddim_noise <= 1.0, f"sampler.ddim_noise {self.ddim_noise} is not between 0 and 1")
        require(0.0 <= self.aug_level <= 1.0, f"sampler.aug_level {self.aug_level} is not between 0 and 1")


@dataclass(frozen=True)
class DataConfig:
    """What is read, and how a step's batch is made of it."""

    triples: str = ""
    """Folder written by `reimagen triples`."""
    text_embeddings: str = ""
    """Folder written by `reimagen embed` (or `reimagen prepare --text-encoder`), where the text encoder is frozen."""
    batch_size: int = 32
    """Images a step, over all devices and hosts."""
    num_neighbours: int = 2
    """K: neighbours an example carries; fewer found is a mask."""
    min_neighbours: int = 0
    """With a value below `num_neighbours`, each example keeps a uniformly drawn number of neighbours, at least this."""
    seed: int = 0
    threads: int = 4
    """Reader threads."""

    def __post_init__(self) -> None:
        require(self.batch_size > 0, f"data.batch_size is {self.batch_size}: at least 1 is needed")
        require(self.num_neighbours >= 0, f"data.num_neighbours is {self.num_neighbours}: 0 or more is needed")
        require(
            0 <= self.min_neighbours <= self.num_neighbours,
            f"data.min_neighbours {self.min_neighbours} is not between 0 and data.num_neighbours {self.num_neighbours}",
        )


@dataclass(frozen=True)
class InitConfig:
    """What a run starts from, when it does not go on from its own checkpoint."""

    weights: str = ""
    """Folder of another run (its averaged parameters) or of weights, with the same network; random when empty."""
    fresh: tuple[str, ...] = ()
    """Modules that the weights need not have, by how their names begin (`neighbour_attention`): what is missing there
    starts as in a network made anew (neighbour attention: as the identity)."""
    adopt: bool = False
    """The network, how it is told of text, its process and its resolution are those of the weights, whatever this
    experiment says of them; it keeps its own say in how things are computed and trained (pretrained/adopt.py)."""


@dataclass(frozen=True)
class GroupRate:
    """A group of parameters that learns faster or slower than the others."""

    where: str
    """Regular expression; the group has the parameters in whose path (`unet/dstack/stem/kernel`) it is found."""
    factor: float
    """What the learning rate is multiplied by; 0 freezes: no gradient, no moments, no decay."""

    def __post_init__(self) -> None:
        require(self.factor >= 0, f"train.rates: the factor of {self.where!r} is {self.factor}, below 0")
        try:
            re.compile(self.where)
        except re.error as error:
            raise UserError(f"train.rates: {self.where!r} is not a regular expression: {error}") from error


@dataclass(frozen=True)
class TrainConfig:
    """Optimisation, logging and checkpoints."""

    num_steps: int = 10_000
    optimizer: Literal["adamw", "adafactor"] = "adamw"
    """Adafactor keeps a row and a column of second moments for a matrix, where AdamW keeps two moments of its size."""
    learning_rate: float = 1e-3
    rates: tuple[GroupRate, ...] = ()
    """Groups with a rate of their own; a parameter belongs to the first that fits, and to none otherwise (1)."""
    warmup_steps: int = 500
    """Linear warm-up from 0."""
    decay: Literal["constant", "cosine", "tail"] = "cosine"
    """Of the learning rate after warm-up; cosine ends at 0 after `num_steps`, tail is constant and falls linearly to 0
    over the last fifth of `num_steps` (so that a run can be prolonged until then)."""
    weight_decay: float = 0.0
    """Share of a matrix that a step takes away, times the learning rate."""
    beta2: float = 0.99
    """Of AdamW; Adafactor's memory grows with the steps, as 1 - n^-0.8."""
    clip_norm: float = 1.0
    """Largest global gradient norm."""
    accumulate: int = 1
    """Micro-batches that a step's batch is cut into, one after the other, to save memory: the update is that of the
    whole batch, but for rounding and for which random numbers an example meets."""
    ema_decay: float = 0.999
    """Of the averaged parameters; warmed up as min(ema_decay, (1 + step) / (10 + step))."""
    text_drop: float = 0.1
    """Probability that an example's caption is dropped (independent of its neighbours)."""
    neighbour_drop: float = 0.1
    """Probability that all of an example's neighbours are dropped."""
    log_every: int = 50
    checkpoint_every: int = 500
    keep_checkpoints: int = 3
    sample_every: int = 1000
    """Steps between sample grids; 0 draws none."""
    sample_images: int = 8
    fsdp: int = 1
    """Devices over which parameters are sharded; the rest of the mesh is data-parallel."""
    seed: int = 0

    def __post_init__(self) -> None:
        for name in ("num_steps", "log_every", "checkpoint_every", "keep_checkpoints", "fsdp", "accumulate"):
            require(getattr(self, name) > 0, f"train.{name} is {getattr(self, name)}: at least 1 is needed")
        for name in ("text_drop", "neighbour_drop", "ema_decay"):
            require(0.0 <= getattr(self, name) <= 1.0, f"train.{name} {getattr(self, name)} is not between 0 and 1")
        require(self.warmup_steps >= 0, f"train.warmup_steps is {self.warmup_steps}: 0 or more is needed")


@dataclass(frozen=True)
class Experiment:
    """All settings of one experiment."""

    name: str
    resolution: int = 32
    """Side of the image in pixels."""
    unet: UNetConfig = field(default_factory=UNetConfig)
    text: TextConfig = field(default_factory=TextConfig)
    diffusion: DiffusionConfig = field(default_factory=DiffusionConfig)
    super_resolution: SuperResolutionConfig | None = None
    """Of a stage that enlarges another stage's image; None for one that draws from text and neighbours alone."""
    sampler: SamplerConfig = field(default_factory=SamplerConfig)
    data: DataConfig = field(default_factory=DataConfig)
    init: InitConfig = field(default_factory=InitConfig)
    train: TrainConfig = field(default_factory=TrainConfig)

    def __post_init__(self) -> None:
        require(
            self.resolution > 0 and self.resolution % self.unet.stride == 0,
            f"resolution {self.resolution} is not a multiple of {self.unet.stride}, "
            f"what unet.patch {self.unet.patch} and {len(self.unet.levels)} levels need",
        )
        if self.super_resolution is not None:
            self._check_stage(self.super_resolution)

    def _check_stage(self, stage: SuperResolutionConfig) -> None:
        low, crop = stage.low_resolution, stage.crop
        require(
            low < self.resolution and self.resolution % low == 0,
            f"resolution {self.resolution} is not a multiple (2 or more) of super_resolution.low_resolution {low}",
        )
        require(
            crop % self.factor == 0 and crop % self.unet.stride == 0 and crop < self.resolution,
            f"super_resolution.crop {crop} has to be a multiple of {self.factor} (resolution / low_resolution) and of "
            f"{self.unet.stride} (what the U-Net needs), below resolution {self.resolution}; 0 trains on whole images",
        )
        require(
            not crop or self.data.num_neighbours == 0,
            f"super_resolution.crop is {crop} and data.num_neighbours {self.data.num_neighbours}: a stage that is "
            "trained on crops attends to no neighbours, set data.num_neighbours to 0",
        )
        low_level, high_level = stage.aug_levels
        require(
            low_level <= self.sampler.aug_level <= high_level,
            f"sampler.aug_level {self.sampler.aug_level} is outside of what the stage is trained for: "
            f"super_resolution.aug_levels {low_level} .. {high_level}",
        )

    @property
    def factor(self) -> int:
        """How many times a super-resolution stage enlarges a side; 1 for a base stage."""
        return 1 if self.super_resolution is None else self.resolution // self.super_resolution.low_resolution

    @property
    def train_resolution(self) -> int:
        """Side of the images that the network is trained on: that of the crops, where it is trained on crops."""
        return (self.super_resolution and self.super_resolution.crop) or self.resolution


def load_experiment(path: str | Path) -> Experiment:
    """Runs an experiment file and returns its `config`.

    Raises `UserError` when the file is missing or does not define `config = Experiment(...)`.
    """
    path = Path(path)
    require(path.is_file(), f"experiment file {path} not found")
    config = runpy.run_path(str(path)).get("config")
    require(isinstance(config, Experiment), f"{path} does not define `config = Experiment(...)`")
    return config


def to_json(config: Experiment) -> str:
    """The settings as indented JSON."""
    return json.dumps(dataclasses.asdict(config), indent=2) + "\n"


def from_json(text: str) -> Experiment:
    """The inverse of `to_json`. Raises `UserError` on a field that this version does not know."""
    return _build(Experiment, json.loads(text), "experiment")


def _build(kind: Any, value: Any, where: str) -> Any:
    if dataclasses.is_dataclass(kind):
        hints = get_type_hints(kind)
        unknown = sorted(set(value) - set(hints))
        require(not unknown, f"{where} has unknown settings {unknown}: it was written by another version")
        return kind(**{name: _build(hints[name], item, f"{where}.{name}") for name, item in value.items()})
    if get_origin(kind) is UnionType:
        return None if value is None else _build(next(k for k in get_args(kind) if k is not NoneType), value, where)
    if get_origin(kind) is tuple:
        element = get_args(kind)[0]
        return tuple(_build(element, item, f"{where}[{i}]") for i, item in enumerate(value))
    return value


def differences(ours: Experiment, theirs: Experiment) -> list[str]:
    """The fields in which two experiments differ, as `name: ours != theirs` lines."""

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

    a, b = flatten(dataclasses.asdict(ours), ""), flatten(dataclasses.asdict(theirs), "")
    return [f"{k}: {a.get(k)!r} != {b.get(k)!r}" for k in sorted(a.keys() | b.keys()) if a.get(k) != b.get(k)]
