"""Settings of the diffusion process, of its samplers, and of the low-resolution input of a super-resolution stage."""

from dataclasses import dataclass
from typing import Literal

from reimagen_jax.errors import require

Prediction = Literal["eps", "x0", "v"]
Weighting = Literal["plain", "min_snr"]
Solver = Literal["ddpm", "ddim"]
Thresholding = Literal["dynamic", "static", "none"]
Shrinking = Literal["area", "linear", "cubic", "lanczos3"]
Enlarging = Literal["linear", "cubic", "linear_corners"]


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
    """Training draws t = u^time_exponent, u uniform in [0, 1]: 0.5 has density 2 t, more of the noise where the
    condition decides, less of the fine denoising where it hardly matters."""

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
    """Side in pixels of the image that the stage before draws; the system's resolution is a multiple."""
    crop: int = 0
    """Side of the random crops that the network is trained on, 0 for whole images. Drawing is always of whole images,
    so the network has to be convolutional."""
    enlarging: Enlarging = "cubic"
    """How the low-resolution image is brought to this stage's resolution before the network sees it: with pixels'
    centres in place, or (linear_corners) with the corner pixels' centres in the corners (DeepFloyd IF)."""
    shrinking: tuple[Shrinking, ...] = ("area", "linear", "cubic")
    """Filters that make the low-resolution image in training, one drawn for each image. Drawing uses area
    averaging, as does the data set of the stage before."""
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
    """How a sampler goes from noise to a sample; systems add their guidance."""

    solver: Solver = "ddim"
    num_steps: int = 25
    thresholding: Thresholding = "static"
    """How a predicted sample is kept within [-1, 1] (Imagen section 2.3)."""
    percentile: float = 0.995
    """Of |x0| in dynamic thresholding."""
    threshold_limit: float | None = None
    """Dynamic thresholding divides by this at most, and cuts what is beyond (DeepFloyd IF: 1.5); None: no limit."""
    ddpm_gamma: float = 0.0
    """Variance of the ancestral step, in log space between the small (0) and the large (1) bound."""
    ddim_noise: float = 0.0
    """Stochasticity of DDIM: 0 deterministic, 1 as much noise as the ancestral step."""

    def __post_init__(self) -> None:
        require(self.num_steps > 0, f"sampler.num_steps is {self.num_steps}: at least 1 is needed")
        require(0.0 < self.percentile <= 1.0, f"sampler.percentile {self.percentile} is not in (0, 1]")
        require(
            self.threshold_limit is None or self.threshold_limit >= 1.0,
            f"sampler.threshold_limit {self.threshold_limit} is below 1: images lie in [-1, 1]",
        )
        require(0.0 <= self.ddpm_gamma <= 1.0, f"sampler.ddpm_gamma {self.ddpm_gamma} is not between 0 and 1")
        require(0.0 <= self.ddim_noise <= 1.0, f"sampler.ddim_noise {self.ddim_noise} is not between 0 and 1")
