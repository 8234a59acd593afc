"""Settings of encoders: of texts, trained along or published and frozen; of texts and images, small ones and CLIP."""

import math
from dataclasses import dataclass, field
from typing import ClassVar, Literal

from reimagen_jax.checked import Checked, Count, Natural, Number, Positive
from reimagen_jax.config import FREE, LOCAL
from reimagen_jax.errors import require
from reimagen_jax.nets.settings import Tower, VGGConfig

Cleaning = Literal["none", "deepfloyd"]
InceptionPoint = Literal[64, 192, 768, 2048]
"""Where features of FID's Inception are taken, by their number of values (inception.py)."""
Resizing = Literal["pytorch-fid", "torch-fidelity", "clean"]
"""How pictures come to it (inception_published.py)."""
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
    def max_tokens(self) -> int:
        """L: ids of a text."""
        return self.max_bytes

    @property
    def image_channels(self) -> tuple[int, ...]:
        """Of the image tower, after each halving."""
        halvings = int(math.log2(self.resolution // LAST_SIDE))
        return tuple(min(self.channels * 2**i, self.most_channels) for i in range(halvings))

    @property
    def text(self) -> TextConfig:
        """Of the byte transformer."""
        return TextConfig(self.max_bytes, width=self.text_width, depth=self.text_depth, head_width=self.head_width)


BYTES, END_OF_BYTES = 258, 257
"""Ids of texts as bytes (tokenizers.py) with an end; and that end's id."""


@dataclass(frozen=True)
class TextTowerConfig(Checked):
    """CLIP's text tower."""

    section: ClassVar[str] = "text."

    tower: Tower = field(default_factory=Tower)
    vocabulary: Count = BYTES
    max_tokens: Count = 128
    """Ids of a text, its end among them; longer texts are cut."""


@dataclass(frozen=True)
class ImageTowerConfig(Checked):
    """CLIP's image tower."""

    section: ClassVar[str] = "image."

    tower: Tower = field(default_factory=Tower)
    resolution: Count = 32
    """Side of the images that it reads."""
    patch: Count = 4
    """Side of the squares that become its tokens."""
    stem: bool = field(default=False, repr=False)  # by what the others print, stored vectors know their encoder
    """Patches become tokens by convolutions that halve the sides, not by one product, as CLIP has it: meant for small
    towers, which have much to learn of where things are."""

    def __post_init__(self) -> None:
        super().__post_init__()
        require(
            self.patch <= self.resolution,
            f"image.patch {self.patch} is larger than an image, image.resolution {self.resolution}",
        )
        require(
            not self.stem or (self.patch.bit_count() == 1 < self.patch and self.resolution % self.patch == 0),
            f"image.patch {self.patch} is not 2, 4, 8, ... that divides image.resolution {self.resolution}: image.stem "
            "halves the sides until a patch is a token",
        )


@dataclass(frozen=True)
class JointConfig(Checked):
    """A CLIP whose parameters lie among those of a system (joint.py). By default, a small one for 32 pixels."""

    section: ClassVar[str] = "clip."

    width: Count = 128
    """D: values of a vector."""
    text: TextTowerConfig = field(default_factory=lambda: TextTowerConfig(Tower(depth=2)))
    image: ImageTowerConfig | None = field(default_factory=lambda: ImageTowerConfig(Tower(depth=3), stem=True))
    """None: no image is read."""
    tokens: Literal["bytes", "published"] = "bytes"
    """What a text is spelt in: UTF-8 bytes, or the words of a published tokenizer."""
    tokenizer: str = field(default="", metadata=FREE | LOCAL)
    """Folder of the published tokenizer, as Hugging Face stores it. Needed where new texts come."""
    fingerprint: str = ""
    """Of the published tokenizer: another one is refused; empty: any is taken."""
    end: Natural = END_OF_BYTES
    """Id that ends a text: at its first place the text's vector is read, and what comes after it is nothing."""
    normalised: bool = True
    """Vectors are of length 1; else as the projections give them."""
    dtype: Literal["float32", "bfloat16"] = "float32"
    """Of matrix products."""

    def __post_init__(self) -> None:
        super().__post_init__()
        require(
            self.end < self.text.vocabulary,
            f"clip.end {self.end} is no id of clip.text.vocabulary, {self.text.vocabulary}",
        )
        ours = (self.text.vocabulary, self.end) == (BYTES, END_OF_BYTES)
        require(
            self.tokens == "published" or ours,
            f"clip.tokens 'bytes' has a clip.text.vocabulary of {BYTES} and the clip.end {END_OF_BYTES}, not "
            f"{self.text.vocabulary} and {self.end}",
        )

    @property
    def text_width(self) -> int:
        """Channels of a text's states."""
        return self.text.tower.width

    @property
    def max_tokens(self) -> int:
        """L: ids of a text, and its states."""
        return self.text.max_tokens

    @property
    def resolution(self) -> int | None:
        """Side of the images that it reads; others are resized. None without an image tower."""
        return None if self.image is None else self.image.resolution


@dataclass(frozen=True)
class RepresentationConfig(Checked):
    """An encoder of images alone (representation.py), with the head that it was trained through. By default, a small
    one for 32 pixels; MoCo-v3's published sizes are in systems/moco/presets.py."""

    section: ClassVar[str] = "encoder."

    tower: Tower = field(default_factory=lambda: Tower(activation="gelu", epsilon=1e-6))
    """The vision transformer; its width is a multiple of 4."""
    resolution: Count = 32
    """Side of the images that it reads; others are resized."""
    patch: Count = 4
    """Side of the squares that become its tokens."""
    stem: bool = False
    """Patches become tokens by convolutions that halve the sides, each with a BatchNorm, not by one product."""
    head_width: Count = 512
    """Channels between the head's three products (MoCo-v3: 4096)."""
    width: Count = 256
    """D: values of the head's output."""
    projected: bool = True
    """A representation is the head's output, as in RCG; false: the class token's, of `tower.width` values."""
    mean: tuple[Number, Number, Number] = (0.485, 0.456, 0.406)
    """Of the pixels that it is trained on, in [0, 1], RGB; by default ImageNet's."""
    std: tuple[Positive, Positive, Positive] = (0.229, 0.224, 0.225)
    smoothed: bool = False
    """Larger images are smoothed before they are made smaller; published encoders read them unsmoothed."""
    dtype: Literal["float32", "bfloat16"] = "float32"
    """Of matrix products."""

    def __post_init__(self) -> None:
        super().__post_init__()
        require(
            self.tower.width % 4 == 0,
            f"encoder.tower.width {self.tower.width} is not a multiple of 4: positions are sines and "
            "cosines of two axes",
        )
        require(
            self.resolution % self.patch == 0,
            f"encoder.patch {self.patch} does not divide encoder.resolution {self.resolution}",
        )
        halvings = self.patch.bit_length() - 1
        require(
            not self.stem or (self.patch.bit_count() == 1 < self.patch and self.tower.width % 2 ** (halvings - 1) == 0),
            f"encoder.patch {self.patch} is not 2, 4, 8, ..., or half of it does not divide encoder.tower.width "
            f"{self.tower.width}: encoder.stem halves the sides, and doubles the channels, until a patch is a token",
        )


@dataclass(frozen=True)
class LpipsConfig(Checked):
    """What measures how alike two images look (lpips.py): a VGG, and how much each of its channels counts."""

    section: ClassVar[str] = "encoder."

    vgg: VGGConfig = field(default_factory=VGGConfig)
    resolution: Count = 224
    """Side of the images whose vectors are asked for; distances are of images of any side."""

    def __post_init__(self) -> None:
        super().__post_init__()
        self.check_side(self.resolution, "encoder.resolution")

    def check_side(self, side: int, name: str) -> None:
        """Raises `UserError` for images that are gone before the last features."""
        least = 2 ** (len(self.vgg.widths) - 1)
        require(
            side >= least,
            f"{name} {side}: a VGG of {len(self.vgg.widths)} resolutions reads images of {least} pixels at least",
        )


Network = DualConfig | JointConfig | RepresentationConfig | LpipsConfig
"""Of an encoder of vectors."""
ImageNetwork = RepresentationConfig | JointConfig | LpipsConfig
"""Of an encoder by which images are compared."""
