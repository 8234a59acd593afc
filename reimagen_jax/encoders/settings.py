"""Settings of encoders: of texts, trained along or published and frozen; and of texts and images, the dual one."""

import math
from dataclasses import dataclass, field
from typing import ClassVar, Literal

from reimagen_jax.checked import Checked, Count, Natural
from reimagen_jax.config import FREE, LOCAL
from reimagen_jax.errors import require

Cleaning = Literal["none", "deepfloyd"]
LAST_SIDE = 4
"""Pixels, at which the image tower stops halving; where something is in the picture is told by these."""


@dataclass(frozen=True)
class FrozenTextConfig(Checked):
    """A published text encoder (T5) that is not trained: texts enter as its embeddings, computed beforehand."""

    section: ClassVar[str] = "text.frozen."

    encoder: str = field(default="", metadata=FREE | LOCAL)
    """Folder of the encoder, as Hugging Face stores it. Needed where new texts are embedded: for drawing."""
    fingerprint: str = ""
    """Of the encoder whose embeddings the network was trained with: another one is refused; empty: any is taken."""
    width: Count = 4096
    """Channels of an embedding."""
    max_tokens: Count = 128
    """Texts are cut after this many tokens."""
    padding: Literal["masked", "kept"] = "masked"
    """What fills a text up to `max_tokens`: masked, or tokens like all others, as DeepFloyd IF has it. If kept, a
    dropped text is the empty text (a parameter of the network), not one without any token."""
    lowercase: bool = False
    """Texts are lowered and stripped before they are embedded (DeepFloyd IF)."""
    cleaning: Cleaning = "none"
    """deepfloyd: texts (prompts, neighbours' captions, what is embedded) are cleaned and lowered as the captions that
    DeepFloyd IF was trained on (cleaning.py)."""
    dtype: Literal["float32", "bfloat16"] = "bfloat16"
    """That the encoder computes in; embeddings are stored as bfloat16 in any case."""


@dataclass(frozen=True)
class TextConfig(Checked):
    """The byte-level transformer that is trained jointly (embedded experiments), or a frozen encoder in its place."""

    section: ClassVar[str] = "text."

    max_bytes: Count = 96
    """Captions are cut after this many UTF-8 bytes."""
    stride: Count = 4
    """Bytes merged into one token by strided convolution before the transformer."""
    width: Count = 128
    """Channels of a token."""
    depth: Natural = 2
    """Layers of the transformer."""
    head_width: Count = 64
    """Channels of an attention head."""
    frozen: FrozenTextConfig | None = None
    """A published encoder instead; what is said above is then about nothing but captions in pictures of samples."""

    def __post_init__(self) -> None:
        super().__post_init__()
        require(
            self.max_bytes % self.stride == 0,
            f"text.max_bytes {self.max_bytes} is not a multiple of text.stride {self.stride}",
        )
        require(
            self.width % self.head_width == 0,
            f"text.width {self.width} is not a multiple of text.head_width {self.head_width}",
        )


@dataclass(frozen=True)
class DualConfig(Checked):
    """The dual encoder's network (dual.py). Raises `UserError` on settings that do not fit together."""

    section: ClassVar[str] = "network."

    resolution: Count = 32
    """Side of the images that it reads: 8, 16, 32, 64, ..."""
    max_bytes: Count = 128
    """Texts are cut after this many UTF-8 bytes."""
    width: Count = 128
    """D: values of a vector."""
    text_width: Count = 128
    text_depth: Natural = 2
    head_width: Count = 32
    """Of the text tower's attention."""
    channels: Count = 32
    """Of the image tower after its first halving; they double with each, up to `most_channels`."""
    most_channels: Count = 128
    groups: Count = 8
    """Of the image tower's group norms."""

    def __post_init__(self) -> None:
        super().__post_init__()
        side = self.resolution
        require(
            side >= 2 * LAST_SIDE and side & (side - 1) == 0,
            f"network.resolution {side} is not a power of two from {2 * LAST_SIDE} on (32, 64, 128, ...)",
        )
        for channels in self.image_channels:
            require(
                channels % self.groups == 0,
                f"network.channels: {channels} channels are not a multiple of network.groups {self.groups}",
            )
        _ = self.text

    @property
    def image_channels(self) -> tuple[int, ...]:
        """Of the image tower, after each halving."""
        halvings = int(math.log2(self.resolution // LAST_SIDE))
        return tuple(min(self.channels * 2**i, self.most_channels) for i in range(halvings))

    @property
    def text(self) -> TextConfig:
        """Of the byte transformer."""
        return TextConfig(self.max_bytes, width=self.text_width, depth=self.text_depth, head_width=self.head_width)
