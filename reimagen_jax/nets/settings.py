"""Settings of the networks: frozen dataclasses, contradictions refused at construction."""

from dataclasses import dataclass, field, replace
from typing import Annotated, ClassVar, Literal

from annotated_types import Ge, Le

from reimagen_jax.checked import LATER, Checked, Count, Natural, Number, Positive
from reimagen_jax.errors import require

Wanted = Literal["auto", "einsum", "xla", "cudnn"]
"""Of attention's implementations (attention.py)."""


def on_platform(attention: Wanted, platform: str, dtype: str = "bfloat16") -> Wanted:
    """What `auto` becomes on "tpu" or "cuda" for activations of `dtype`, where that is known; there too, cuDNN serves
    what it takes, and XLA the rest."""
    if attention != "auto":
        return attention
    return "cudnn" if platform == "cuda" and dtype == "bfloat16" else "xla"


@dataclass(frozen=True)
class Level(Checked):
    """One resolution of the U-Net, from high (first) to low (last)."""

    __pydantic_config__ = Checked.__pydantic_config__ | {"revalidate_instances": "always"}

    width: Count
    """Channels."""
    blocks: Count = 2
    """Residual blocks on the way down; the way up has as many."""
    self_attention: bool = False
    """Self-attention over this level's pixels and the text tokens after each residual block."""
    neighbour_attention: bool = False
    """Attention over the neighbours' features of this level, where DStack hands over to UStack."""
    head_width: Count | None = None
    """Channels of an attention head here; `unet.head_width` when not given."""
    text_attention: bool = False
    """Instead of self-attention: this level's pixels attend to the text tokens alone (large images)."""
    attention_every: Count = 1
    """Self- or text attention follows every n-th residual block only."""

    def __post_init__(self) -> None:
        """Checked as a part of `UNetConfig`, which knows its number."""


@dataclass(frozen=True)
class UNetConfig(Checked):
    """DStack and UStack (Re-Imagen section 3; Imagen appendix B)."""

    section: ClassVar[str] = "unet."

    levels: tuple[Level, ...] = (
        Level(64, 1),
        Level(128, 2, self_attention=True, neighbour_attention=True),
        Level(192, 2, self_attention=True, neighbour_attention=True),
    )
    patch: Count = 1
    """Pixels are folded into patch x patch channels before the first level (space to depth), to save compute."""
    head_width: Count = 64
    """Channels of an attention head."""
    groups: Count = 16
    """Groups of every group norm; each level's width must be a multiple."""
    cond_width: Count = 256
    """Width of the timestep-and-pooled-text embedding."""
    time: Literal["scale_shift", "add"] = "scale_shift"
    """What a residual block does with that embedding: features are scaled and shifted by it (ADM), or it is added to
    them (Ho et al. 2020; karlo's super-resolution)."""
    efficient: bool = False
    """Imagen's Efficient U-Net, for large images: every level, the first too, halves the sides by a convolution
    *before* its blocks and doubles them after; one skip a level, added; no middle blocks."""
    residual_scale: Positive = 1.0
    """What the sum of a block and its skip is multiplied by: 1/sqrt(2) keeps the variance (super-resolution)."""
    activation: Literal["swish", "gelu"] = "swish"
    """Of all its layers."""
    norm_epsilon: Annotated[Number, Ge(1e-12), Le(1)] = 1e-6
    """Added to the variance in every norm."""
    time_features: Count | None = None
    """Sines and cosines that t is given as; `cond_width` of them when not given."""
    aug_level: bool = True
    """Whether, in a super-resolution stage, it is told how much its low-resolution image was noised (Imagen); unCLIP's
    upsamplers are not."""
    text_width: Count | None = None
    """Text tokens are projected to this width first, inside the network; taken as they are when not given."""
    text_pooling: Literal["score", "attention", "none"] = "score"
    """How tokens become one vector: one learned score a token, or a learned token that attends (DeepFloyd IF); none:
    texts are read by attention alone (unCLIP), or there are none."""
    text_norm: Literal["layer", "group", "none"] = "layer"
    """Norm of the text in attention: each token by itself, or groups of channels over all tokens (DeepFloyd IF); none:
    tokens come as attention takes them (unCLIP)."""
    dtype: Literal["float32", "bfloat16"] = "float32"
    """Of convolutions and matrix products; parameters, norms, softmax and the output stay float32."""
    remat: Literal["none", "blocks", "matmuls"] = "none"
    """What backpropagation computes again: nothing; all inside residual blocks and attentions (least memory); or that
    without the results of convolutions and projections (norms, activations and attention weights only)."""
    attention: Wanted = "auto"
    """Implementation: plain einsum, or `jax.nn.dot_product_attention` by XLA or by cuDNN (fused, no scores in memory;
    bfloat16 on NVIDIA GPUs, where it takes the sizes, else XLA). `auto` takes what is fastest where the program is
    traced: einsum on CPUs (in groups where scores are many), cuDNN where it can, else XLA."""

    def __post_init__(self) -> None:
        super().__post_init__()
        require(len(self.levels) > 0, "unet.levels is empty: give at least one Level")
        for i, level in enumerate(self.levels):
            name, head_width = f"unet.levels[{i}]", self.head_width_at(i)
            attends = level.self_attention or level.text_attention or level.neighbour_attention
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
                level.attention_every <= level.blocks,
                f"{name}.attention_every {level.attention_every} is not between 1 and its {level.blocks} blocks",
            )
        for name in ("cond_width", "time_features"):
            value = getattr(self, name)
            require(value is None or value % 2 == 0, f"unet.{name} {value} is odd: sines and cosines come in pairs")
        require(
            self.text_norm != "group" or self.text_width is None or self.text_width % self.groups == 0,
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

    def for_platform(self, platform: str) -> "UNetConfig":
        """As it runs on "tpu" or "cuda": the attention that `auto` would choose there."""
        return replace(self, attention=on_platform(self.attention, platform, self.dtype))

    def savings(self) -> tuple[str, ...]:
        """Command line options that would save memory in training."""
        if self.remat != "none":
            return ()
        return ('--unet.remat blocks: activations are computed again, not kept ("matmuls" keeps more, is faster)',)


@dataclass(frozen=True)
class VQConfig(Checked):
    """A vector-quantising autoencoder (vq.py); by default MaskGIT's, for images of 256 pixels."""

    section: ClassVar[str] = "vq."

    widths: tuple[Count, ...] = (128, 128, 256, 256, 512)
    """Channels of each resolution, from high to low; a side is halved from one to the next."""
    blocks: Count = 2
    """Residual blocks of each resolution, of the encoder and of the decoder."""
    patch: Count = 1
    """Pixels are folded into patch x patch channels before the first resolution, to save compute."""
    groups: Count = 32
    """Of every group norm; each width must be a multiple."""
    codes: Annotated[int, Ge(2), Le(2**20)] = 1024
    """Vectors of the codebook."""
    code_width: Count = 256
    """Values of each."""
    normalised: bool = False
    """Codes, and what is compared with them, are brought to length 1 (Yu et al. 2022, section 3.2)."""
    dtype: Literal["float32", "bfloat16"] = "float32"
    """Of convolutions; parameters, norms, distances to codes and the output stay float32."""

    def __post_init__(self) -> None:
        super().__post_init__()
        require(len(self.widths) > 0, "vq.widths is empty: give at least one")
        for i, width in enumerate(self.widths):
            require(width % self.groups == 0, f"vq.widths[{i}] {width} is not a multiple of vq.groups {self.groups}")

    @property
    def stride(self) -> int:
        """Pixels of a side that become one token."""
        return self.patch * 2 ** (len(self.widths) - 1)


@dataclass(frozen=True)
class PatchGANConfig(Checked):
    """What tells an autoencoder's images from true ones, patch by patch (patchgan.py); by default VQGAN's."""

    section: ClassVar[str] = "network."

    width: Count = 64
    """Channels of the first convolution; they double with each, to eight times as many."""
    depth: Count = 3
    """Convolutions that halve the sides; with 3 a patch is of some 70 pixels."""
    groups: Count = 32
    """Of the group norms of all but the first and the last convolution; `width` doubled must be a multiple."""
    dtype: Literal["float32", "bfloat16"] = "float32"
    """Of convolutions; parameters, norms and the output stay float32."""

    def __post_init__(self) -> None:
        super().__post_init__()
        require(
            2 * self.width % self.groups == 0,
            f"network.width {self.width} doubled is not a multiple of network.groups {self.groups}",
        )


@dataclass(frozen=True)
class VGGConfig(Checked):
    """A VGG without its classifier (vgg.py); by default of 16 layers."""

    section: ClassVar[str] = "vgg."

    widths: tuple[Count, ...] = (64, 128, 256, 512, 512)
    """Channels of each resolution, from high to low; a side is halved from one to the next."""
    convolutions: tuple[Count, ...] = (2, 2, 3, 3, 3)
    """Of each resolution."""
    dtype: Literal["float32", "bfloat16"] = "float32"
    """Of convolutions."""

    def __post_init__(self) -> None:
        super().__post_init__()
        require(
            len(self.widths) == len(self.convolutions) > 0,
            f"vgg.widths has {len(self.widths)} resolutions, vgg.convolutions {len(self.convolutions)}: give as many",
        )


@dataclass(frozen=True)
class Tower(Checked):
    """A transformer (transformer.py)."""

    section: ClassVar[str] = "tower."

    width: Count = 128
    """Channels of a token."""
    depth: Natural = 4
    """Blocks."""
    heads: Count = 4
    """Of attention; they divide `width`."""
    mlp_width: Count = 512
    """Channels between a block's last two matrix products."""
    activation: Literal["quick_gelu", "gelu"] = "quick_gelu"
    epsilon: Positive = 1e-5
    """Of its norms."""
    attention: Wanted = field(default="auto", repr=False, metadata=LATER)
    """Implementation, as of a U-Net (`unet.attention`): cuDNN's where it can, else products with scores in memory."""

    def for_platform(self, platform: str) -> "Tower":
        """As it runs on "tpu" or "cuda": the attention that `auto` would choose there."""
        return replace(self, attention=on_platform(self.attention, platform))

    def __post_init__(self) -> None:
        super().__post_init__()
        require(self.width % self.heads == 0, f"tower.width {self.width} is not a multiple of tower.heads {self.heads}")


@dataclass(frozen=True)
class LatentMLPConfig(Checked):
    """RCG's network for vectors (latent_mlp.py); the published sizes."""

    section: ClassVar[str] = "mlp."

    width: Count = 1536
    """Channels of its blocks; the time enters as so many sines and cosines."""
    depth: Count = 12
    """Blocks."""
    time_width: Count = 256
    """Channels of the time's embedding."""
    class_width: Count = 512
    """Channels of a class's embedding."""
    dtype: Literal["float32", "bfloat16"] = "float32"
    """Of its blocks' matrix products; parameters, norms, what is told and the output stay float32."""
    remat: bool = False
    """Backpropagation computes the inside of its blocks again: less memory, more time."""

    def __post_init__(self) -> None:
        super().__post_init__()
        require(self.width % 2 == 0, f"mlp.width {self.width} is odd: sines and cosines come in pairs")
