"""The settings of a search by SeedSelect, and the ways in which paper and published code differ."""

from dataclasses import dataclass
from typing import Annotated, ClassVar, Literal

from annotated_types import Le, MinLen

from reimagen_jax.checked import Checked, Count, Natural, NonNegative, Positive
from reimagen_jax.errors import require


@dataclass(frozen=True)
class SeedSelectConfig(Checked):
    """How the noise is searched; the numbers in brackets are equations of losses.py."""

    section: ClassVar[str] = "search."

    iterations: Annotated[Count, Le(100_000)] = 30
    """Updates of the noise; one evaluation more, since the result of the last one counts too."""
    patience: Count | None = None
    """Stop searching an image whose loss has found no new minimum for so many iterations; None: never."""
    optimizer: Literal["adam", "adamw"] = "adam"
    """adamw shrinks the noise besides, by learning_rate * weight_decay of it at every update."""
    learning_rate: Positive = 0.1
    """How far an update moves each number of the noise, about."""
    weight_decay: NonNegative = 0.01
    """Of adamw."""
    drop_at: Natural | None = None
    """The iteration, counted from 0, from which on the learning rate is a tenth; None: never."""
    norm: Literal["sphere", "chi", "free"] = "sphere"
    """What is done that the noise stays as long as noise is, about sqrt(d): projected to that length after every
    update; a penalty, minus the log density of its length (7); or nothing, as in paper and code."""
    norm_weight: NonNegative = 0.01
    """Of that penalty."""
    distance: Literal["cosine", "euclidean"] = "cosine"
    """Of embeddings (2): 1 - cosine (the code), or Euclidean (the paper)."""
    semantic_weight: NonNegative = 10.0
    """Of the semantic loss (6): lambda in the paper, 10 in the code."""
    step_weights: Annotated[tuple[NonNegative, ...], MinLen(1)] = (1.0,)
    """The semantic loss is of the last steps' images, weighed by these, the last step last (5): 1 1 in the paper."""
    seen: Literal["x0", "x"] = "x0"
    """What is the image of a step: the sample that it predicts, or its noisy end itself (the code)."""
    contrast: bool = False
    """The semantic loss tells the prompt's own references from those of all other prompts (4)."""
    temperature: Positive = 1.0
    """Of (4), that distances are divided by; the paper has none."""
    appearance: Literal["mean_squared", "euclidean"] = "mean_squared"
    """Of images (3): the mean squared difference (the code), or the Euclidean distance (the paper)."""
    appearance_weight: NonNegative = 1.0
    """Of the appearance loss (6): 1 - lambda in the paper, 1 in the code."""
    low_pass: Count | None = 8
    """Side in pixels to which image and mean reference are averaged first, for (3): the mean of several pixel images is
    blurred, and what is sharp would be drawn blurred like it. None: not at all, as with the paper's latents."""
    clamp: Literal["straight_through", "exact"] = "straight_through"
    """How the gradient passes where values are kept within [-1, 1] (thresholding, and images before they are encoded):
    as if they were not, or exactly: then it is 0 for all that was cut."""
    start_iterations: Natural = 0
    """Bootstrap: so long the noise of a prompt's first image is searched by all references; from there each image of
    the prompt goes on for `iterations` with a subset of its own. 0: each has a noise of its own and all references."""
    subset: Count = 2
    """References of a subset, drawn at random for each image."""
    loop: Literal["auto", "scan", "steps"] = "auto"
    """scan: the whole search step is one program; steps: one program a sampler step, called from the host. In loops, a
    CPU computes gradients of convolutions many times slower, and to unroll them takes minutes of compiling: auto is
    steps on a CPU, scan elsewhere."""

    def __post_init__(self) -> None:
        super().__post_init__()
        require(any(self.step_weights) or self.appearance_weight > 0, "search.step_weights and appearance_weight are 0")

    @property
    def across_images(self) -> bool:
        """Whether what is found for an image depends on the other images that are asked for."""
        return self.contrast or self.start_iterations > 0

    def check_steps(self, num_steps: int) -> None:
        """Raises `UserError` where a sampler has fewer steps than there are weights."""
        weights = len(self.step_weights)
        require(weights <= num_steps, f"search.step_weights are {weights}, but the sampler has {num_steps} steps")


OURS = SeedSelectConfig()
PAPER = SeedSelectConfig(
    norm="free",
    distance="euclidean",
    semantic_weight=0.5,
    step_weights=(1.0, 1.0),
    appearance="euclidean",
    appearance_weight=0.5,
    low_pass=None,
    clamp="exact",
)
"""The paper's losses. Its lambda and its optimiser are not in the text that we have: 1/2 and Adam are ours."""
CODE = SeedSelectConfig(
    optimizer="adamw",
    drop_at=3,
    norm="free",
    step_weights=(0.05, 0.25, 0.7),
    seen="x",
    low_pass=None,
    clamp="exact",
)
"""The published code's (github.com/dvirsamuel/SeedSelect, 8a1f3d4)."""
PRESETS = {"ours": OURS, "paper": PAPER, "code": CODE}
