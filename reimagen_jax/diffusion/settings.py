"""Settings of the diffusion process, of its samplers, and of the low-resolution input of a super-resolution stage."""

from dataclasses import dataclass, fields, replace
from itertools import pairwise
from typing import Annotated, Any, ClassVar, Literal

import numpy as np
from annotated_types import Ge, Gt, Le

from reimagen_jax.checked import Checked, Count, Natural, NonNegative, Number, Positive, Share
from reimagen_jax.diffusion.spacing import ANY_PROCESS, SECTIONS, Spacing, chain_steps
from reimagen_jax.errors import require

Prediction = Literal["eps", "x0", "v"]
Weighting = Literal["plain", "min_snr"]
Solver = Literal["ddpm", "ddim", "dpmpp_2m", "dpmpp_2m_sde", "unipc", "heun"]
Thresholding = Literal["dynamic", "static", "none"]
WeightSchedule = Literal["constant", "linear", "cosine"]
Degradation = Literal["blur", "bsr"]
Shrinking = Literal["area", "linear", "cubic", "lanczos3"]
Enlarging = Literal["linear", "cubic", "linear_corners"]
SamplerSteps = Annotated[Count, Le(100_000)]
"""Of a sampler; their times are listed beforehand."""
Repeats = Annotated[Count, Le(1000)]
"""Of a stretch of steps; their times are listed beforehand."""
LogSNR = Annotated[Number, Ge(-30), Le(30)]
"""Of signal to noise, its natural logarithm: float32 tells 1 - 1e-13 from 1 no more."""


@dataclass(frozen=True)
class DiffusionConfig(Checked):
    """The forward process and what the network predicts."""

    section: ClassVar[str] = "diffusion."

    schedule: Literal["cosine", "linear", "cosine_chain", "scaled_linear"] = "cosine"
    """cosine_chain: the chain of `variance_steps` steps that DeepFloyd IF and its ancestors were trained on;
    scaled_linear: that of latent diffusion and RCG, trained at its whole steps alone."""
    prediction: Prediction = "v"
    """What the network's output means; the loss is the squared error of this quantity."""
    weighting: Weighting = "plain"
    """Of that squared error: plain is 1 at every t; min_snr is Hang et al.'s, which weighs the error of x0 with the
    signal-to-noise ratio, at most `snr_limit` (plain eps weighs it with the whole ratio: mostly the last details)."""
    snr_limit: Positive = 5.0
    """gamma of min_snr."""
    learned_variance: bool = False
    """The network has twice the channels: besides its prediction, where the variance of an ancestral step lies between
    its bounds (learned range, Nichol and Dhariwal). A variational term trains it, the ddpm solver uses it."""
    variance_steps: Annotated[int, Ge(2), Le(100_000)] = 1000
    """T: the chain whose steps that term judges."""
    variance_weight: NonNegative = 0.001
    """Of that term, in bits a pixel channel summed over the T steps, beside the squared error."""
    logsnr_min: LogSNR = -15.0
    """Log signal-to-noise ratio at t = 1 (noise)."""
    logsnr_max: LogSNR = 15.0
    """And at t = 0 (the image)."""
    logsnr_shift: LogSNR = 0.0
    """Added to the log signal-to-noise ratio at every t; negative values put more noise at every t (large images)."""
    time_exponent: Positive = 1.0
    """Training draws t = u^time_exponent, u uniform in [0, 1]: 0.5 has density 2 t, more of the noise where the
    condition decides, less of the fine denoising where it hardly matters."""

    def __post_init__(self) -> None:
        super().__post_init__()
        require(
            self.logsnr_min < self.logsnr_max,
            f"diffusion.logsnr_min {self.logsnr_min} is not below diffusion.logsnr_max {self.logsnr_max}",
        )

    @property
    def chain(self) -> bool:
        """Whether it is a chain of `variance_steps` steps, step n at the time n / variance_steps."""
        return self.schedule in ("cosine_chain", "scaled_linear")

    @property
    def first_time(self) -> float:
        """The noisiest one."""
        return 1.0 - 1.0 / self.variance_steps if self.chain else 1.0

    @property
    def clean_time(self) -> float:
        """The time of the image itself, where the last step of a sampler ends."""
        return 0.0 if self.schedule == "cosine" else -1.0 / self.variance_steps

    def output_channels(self, image_channels: int) -> int:
        """Channels that a network's output needs for images of so many."""
        return image_channels * (2 if self.learned_variance else 1)


@dataclass(frozen=True)
class SuperResolutionConfig(Checked):
    """A stage that enlarges the image of the stage before it (Imagen section 2.4, appendix C; DALL-E 2 appendix C)."""

    section: ClassVar[str] = "super_resolution."

    low_resolution: Count = 64
    """Side in pixels of the image that the stage before draws; the system's resolution is a multiple."""
    crop: Natural = 0
    """Side of the random crops that the network is trained on, 0 for whole images. Drawing is always of whole images,
    so the network has to be convolutional."""
    enlarging: Enlarging = "cubic"
    """How the low-resolution image is brought to this stage's resolution before the network sees it: with pixels'
    centres in place, or (linear_corners) with the corner pixels' centres in the corners (DeepFloyd IF)."""
    degradation: Degradation = "blur"
    """How the low-resolution image is made in training: blurred and shrunk as said below; or (bsr) as cameras, programs
    and the web would do it, with a blur, two resizings, noise and JPEG in random order (diffusion/bsr.py)."""
    shrinking: tuple[Shrinking, ...] = ("area", "linear", "cubic")
    """Filters that make the low-resolution image in training, one drawn for each image. Drawing uses area
    averaging, as does the data set of the stage before."""
    blur: Share = 0.5
    """Probability that a training image is blurred (Gaussian) before it is shrunk."""
    blur_width: tuple[NonNegative, NonNegative] = (0.2, 0.8)
    """Least and largest standard deviation of the blur, drawn uniformly, in pixels of the low-resolution image."""
    aug_levels: tuple[Share, Share] = (0.0, 1.0)
    """Least and largest level of the noise-conditioning augmentation in training, drawn uniformly: 0 leaves the
    low-resolution image as it is, 1 leaves nothing but noise. The network is told the level."""
    aug_schedule: Literal["cosine", "linear", "cosine_chain"] = "cosine"
    """How much noise a level means; cosine_chain: as in DeepFloyd IF (`diffusion.schedule`)."""

    def __post_init__(self) -> None:
        super().__post_init__()
        require(len(self.shrinking) > 0, "super_resolution.shrinking is empty: give at least one filter")
        plain = {item.name: item.default for item in fields(self)}
        for name in ("shrinking", "blur", "blur_width") if self.degradation == "bsr" else ():
            require(
                getattr(self, name) == plain[name],
                f"super_resolution.{name} is {getattr(self, name)}, but super_resolution.degradation 'bsr' draws its "
                "own: leave it out",
            )
        for name in ("blur_width", "aug_levels"):
            low, high = getattr(self, name)
            require(low <= high, f"super_resolution.{name} {low} .. {high} is not a range")
        require(
            self.blur == 0.0 or self.blur_width[0] > 0.0,
            f"super_resolution.blur_width begins at {self.blur_width[0]}: a blur has a width above 0",
        )

    def check_stage(self, resolution: int, stride: int) -> None:
        """Raises `UserError` where a stage of this resolution, whose network takes multiples of `stride`, cannot
        enlarge so."""
        low, crop = self.low_resolution, self.crop
        require(
            low < resolution and resolution % low == 0,
            f"resolution {resolution} is not a multiple (2 or more) of super_resolution.low_resolution {low}",
        )
        factor = resolution // low
        require(
            crop % factor == 0 and crop % stride == 0 and crop < resolution,
            f"super_resolution.crop {crop} has to be a multiple of {factor} (resolution / low_resolution) and of "
            f"{stride} (what the U-Net needs), below resolution {resolution}; 0 trains on whole images",
        )

    def check_follows(self, before: str, drawn: int | None, where: str) -> None:
        """Raises `UserError`, beginning with `where`, unless it enlarges what the stage named `before` has drawn."""
        require(
            self.low_resolution == drawn,
            f"{where} enlarges images of {self.low_resolution} pixels, but the stage before it, {before}, draws "
            f"{drawn}",
        )


@dataclass(frozen=True)
class DrawingConfig(Checked):
    """How a system draws, be it by diffusion or not."""

    section: ClassVar[str] = "sampler."

    def changed(self, **given: Any) -> "DrawingConfig":
        """The same with what is given. Raises `UserError` for what such a sampler does not have."""
        known = [item.name for item in fields(self)]
        lost = [name for name in given if name not in known]
        require(
            not lost,
            f"sampler.{min(lost, default='')}: this model's sampler has no such setting, but {', '.join(known)}",
        )
        return replace(self, **given)

    def with_room(self, number: int) -> "DrawingConfig":
        """The same with room for so many neighbours (k), where it has room for any."""
        return replace(self, k=number) if hasattr(self, "k") else self

    def of_text_alone(self) -> "DrawingConfig":
        """The same, to draw from the text alone: other settings where a request without neighbours is not enough."""
        return self

    @property
    def guided_by(self) -> tuple[str, ...]:
        """The numbers of guidance that have a say in what is drawn."""
        return ("text_weight",) if hasattr(self, "text_weight") else ()

    def told(self) -> dict[str, str]:
        """What is unlike the plain sampler's, in words."""
        return {}


@dataclass(frozen=True)
class SamplerConfig(DrawingConfig):
    """How a sampler goes from noise to a sample; systems add their guidance."""

    solver: Solver = "ddim"
    """How a step is taken (diffusion/solvers.py)."""
    num_steps: SamplerSteps = 25
    """Steps from noise to the image."""
    thresholding: Thresholding = "static"
    """How a predicted sample is kept within [-1, 1] (Imagen section 2.3). A network that predicts noise needs it: near
    t = 1, an error of the noise is 1 / alpha times as large in the sample (1800 times in the cosine schedule)."""
    percentile: Annotated[Number, Gt(0), Le(1)] = 0.995
    """Of |x0| in dynamic thresholding."""
    threshold_limit: Annotated[Number, Ge(1)] | None = None
    """Dynamic thresholding divides by this at most, and cuts what is beyond (DeepFloyd IF: 1.5); None: no limit."""
    ddpm_gamma: Share = 0.0
    """Variance of the ancestral step, in log space between the small (0) and the large (1) bound."""
    ddim_noise: Share = 0.0
    """Stochasticity of DDIM: 0 deterministic, 1 as much noise as the ancestral step."""
    spacing: Spacing = "even"
    """Of the times that are visited. karras: sigma / alpha to the power of 1/7 in equal parts (Karras et al. 2022);
    logsnr: its logarithm in equal parts. The others but even are about chains, `spacing.py`: of diffusers, DeepFloyd
    IF. leading, ldm and ddim begin short of the noisy end, to compare with who does so; ldm ends short of the image."""
    times: tuple[Share, ...] = ()
    """The times themselves, `num_steps` of them, falling from noise; on a chain of T steps, step n is at n / T. The
    image follows by itself. Empty: by `spacing`."""
    repeats: Repeats = 1
    """How often each stretch of `jump` steps is walked, going back up with new noise in between (RePaint's r): what is
    drawn comes into line with what is kept. So many times the evaluations, nearly."""
    jump: Count = 5
    """Steps of such a stretch (RePaint's j)."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.times:
            return
        require(self.spacing == "even", f"sampler.times are listed: leave sampler.spacing {self.spacing!r} out")
        for before, after in pairwise(self.times):
            require(
                np.float32(after) < np.float32(before),
                f"sampler.times has {after} after {before}: times fall from noise to the image",
            )
        require(
            len(self.times) == self.num_steps,
            f"sampler.times lists {len(self.times)}, but sampler.num_steps is {self.num_steps}: set it to "
            f"{len(self.times)}",
        )

    def changed(self, **given: Any) -> "SamplerConfig":
        """The same with what is given; what is said of the times decides all of them.

        Listed times set their own number, a respacing of a chain its own; and where a number or a spacing is given,
        times that were listed before are no more. Raises `UserError` as `DrawingConfig.changed`.
        """
        if given.get("times"):
            given = {"spacing": "even", "num_steps": len(given["times"]), **given}
        elif given.keys() & {"spacing", "num_steps"}:
            respaced = SECTIONS.get(given.get("spacing"))
            given = {"times": ()} | ({"num_steps": sum(respaced)} if respaced else {}) | given
        return super().changed(**given)

    def told(self) -> dict[str, str]:
        facts = {"spacing": self.spacing if self.spacing != "even" else ""}
        facts["times"] = ", ".join(f"{t:g}" for t in self.times)
        facts["DDIM's noise"] = f"{self.ddim_noise:g}" if self.ddim_noise and self.solver == "ddim" else ""
        facts["DDPM's gamma"] = f"{self.ddpm_gamma:g}" if self.ddpm_gamma and self.solver == "ddpm" else ""
        return {name: said for name, said in facts.items() if said}

    def check_process(self, process: DiffusionConfig) -> None:
        """Raises `UserError` where samples in [-1, 1] of this process cannot be drawn like this."""
        require(
            process.prediction != "eps" or self.thresholding != "none",
            "sampler.thresholding is 'none', but the network predicts noise (diffusion.prediction 'eps'): at the noisy "
            "end its smallest error would be all of the sample, draw with 'static' or 'dynamic'",
        )
        chain = process.chain
        if self.times:
            first, last = process.first_time, self.times[-1]
            require(
                np.float32(self.times[0]) <= np.float32(first),
                f"sampler.times begins at {self.times[0]}, but the model's noisiest time is {first}",
            )
            require(
                np.float32(last) > np.float32(process.clean_time),
                f"sampler.times ends at {last}, where the image is: leave it out, the image follows by itself",
            )
        elif chain:
            chain_steps(self.num_steps, process.variance_steps, self.spacing)
        require(
            chain or self.spacing in ANY_PROCESS,
            f"sampler.spacing is {self.spacing!r}, but diffusion.schedule {process.schedule!r} is no chain",
        )
