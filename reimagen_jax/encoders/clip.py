"""A CLIP as Hugging Face publishes it: its settings and weights read, its towers as encoders of texts and images."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax.traverse_util import flatten_dict
from jax.sharding import Mesh
from PIL import Image

from reimagen_jax import randomness
from reimagen_jax.encoders.clip_net import RULES, Clip, ClipConfig, ImageTowerConfig, TextTowerConfig
from reimagen_jax.encoders.frozen import (
    WITHOUT_EFFECT,
    TextEncoder,
    bucketed,
    check_dtype,
    check_not_released,
    identify,
    in_batches,
    jitted,
    on_mesh,
    one_behind,
    pad_rows,
    pad_to,
    placement,
    read_settings,
)
from reimagen_jax.encoders.hf_tokenizers import HFTokenizer, open_clip_tokenizer
from reimagen_jax.encoders.image_function import ImageFunction
from reimagen_jax.errors import UserError, require
from reimagen_jax.nets.settings import Tower
from reimagen_jax.nets.transformer import ACTIVATIONS, Dtype
from reimagen_jax.pretrained import published_settings
from reimagen_jax.pretrained.published_settings import LARGEST, not_counts
from reimagen_jax.pretrained.safetensors_reader import (
    CONVOLUTION,
    KERNEL,
    Checkpoint,
    Source,
    fingerprint,
    load,
    open_checkpoint,
)

BUFFERS = (r"position_ids$", r"^logit_scale$")
"""Numbers in the files that are no part of a tower."""

TEXT_DEFAULTS = {"hidden_size": 512, "num_hidden_layers": 12, "num_attention_heads": 8, "intermediate_size": 2048}
TEXT_DEFAULTS |= {"vocab_size": 49408, "max_position_embeddings": 77, "projection_dim": 512}
IMAGE_DEFAULTS = {"hidden_size": 768, "num_hidden_layers": 12, "num_attention_heads": 12, "intermediate_size": 3072}
IMAGE_DEFAULTS |= {"image_size": 224, "patch_size": 32, "num_channels": 3, "projection_dim": 512}
DEFAULTS = {"hidden_act": "quick_gelu", "layer_norm_eps": 1e-5}
"""What transformers leaves out of `config.json`: the settings of ViT-B/32."""
COUNTS = {"hidden_size": LARGEST, "num_attention_heads": LARGEST, "intermediate_size": LARGEST}
COUNTS |= {"num_hidden_layers": 1000}
FIXED = {"is_decoder": False, "add_cross_attention": False}
HARMLESS = ("attention_dropout", "dropout", "initializer_range", "initializer_factor", "logit_scale_init_value")
KINDS = ("clip", "clip_text_model", "clip_vision_model")
PARTS = ("text_config", "vision_config", "text_config_dict", "vision_config_dict", "projection_dim", "model_type")


def clip_config(theirs: Mapping[str, Any]) -> ClipConfig:
    """Our settings for a `config.json` of a CLIP, of its text tower or of its image tower.

    Raises `UserError` naming what makes it another network.
    """
    kind = theirs.get("model_type")
    require(
        kind in KINDS,
        f"config.json is not that of a CLIP: model_type is {kind!r}, "
        "not 'clip', 'clip_text_model' or 'clip_vision_model'",
    )
    projection = theirs.get("projection_dim", 512)
    problems = not_counts({"projection_dim": projection}, ["projection_dim"])
    if kind == "clip":
        # The older of two ways to write it down; where both are there, transformers believes this one.
        parts = [theirs.get(name) or {} for name in PARTS[:4]]
        require(all(isinstance(part, dict) for part in parts), "config.json: text_config or vision_config is no table")
        problems += published_settings.problems(theirs, used=PARTS, fixed=FIXED, harmless=(*HARMLESS, *WITHOUT_EFFECT))
        require(not problems, "config.json is not that of a CLIP: " + "; ".join(problems))
        return ClipConfig(_text_config(parts[0] | parts[2]), _image_config(parts[1] | parts[3]), projection)
    require(not problems, "config.json is not that of a CLIP: " + "; ".join(problems))
    if kind == "clip_text_model":
        return ClipConfig(_text_config(theirs), None, projection)
    return ClipConfig(None, _image_config(theirs), projection)


def _text_config(theirs: Mapping[str, Any]) -> TextTowerConfig:
    theirs = DEFAULTS | TEXT_DEFAULTS | dict(theirs)
    tower = _tower(theirs, TEXT_DEFAULTS, {"vocab_size": LARGEST, "max_position_embeddings": 2**20})
    return TextTowerConfig(tower, theirs["vocab_size"], theirs["max_position_embeddings"])


def _image_config(theirs: Mapping[str, Any]) -> ImageTowerConfig:
    theirs = DEFAULTS | IMAGE_DEFAULTS | dict(theirs)
    resolution, patch = theirs["image_size"], theirs["patch_size"]
    require(
        theirs["num_channels"] == 3 and isinstance(resolution, int) and isinstance(patch, int),
        f"config.json: images of {theirs['num_channels']} channels, sides {resolution}, patches {patch}: "
        "square RGB images and square patches are needed",
    )
    tower = _tower(theirs, IMAGE_DEFAULTS, {"image_size": 2**16, "patch_size": 2**16})
    require(patch <= resolution, f"config.json: patches of side {patch} in images of side {resolution}")
    return ImageTowerConfig(tower, resolution, patch)


def _tower(theirs: Mapping[str, Any], defaults: Mapping[str, Any], counts: Mapping[str, int]) -> Tower:
    used, harmless = {**DEFAULTS, **defaults, "model_type": None}, (*HARMLESS, *WITHOUT_EFFECT)
    problems = published_settings.problems(theirs, used=used, fixed=FIXED, harmless=harmless)
    problems += not_counts(theirs, {**COUNTS, **counts}) + published_settings.not_small(theirs, "layer_norm_eps")
    require(not problems, "config.json is not that of a CLIP: " + "; ".join(problems))
    width, heads, activation = theirs["hidden_size"], theirs["num_attention_heads"], theirs["hidden_act"]
    require(width % heads == 0, f"config.json: hidden_size {width} is not a multiple of {heads} heads")
    require(activation in ACTIVATIONS, f"config.json: hidden_act {activation!r} is not one of {', '.join(ACTIVATIONS)}")
    return Tower(
        width, theirs["num_hidden_layers"], heads, theirs["intermediate_size"], activation, theirs["layer_norm_eps"]
    )


BLOCK_NAMES = {"norm1": "layer_norm1", "norm2": "layer_norm2", "mlp1": "mlp.fc1", "mlp2": "mlp.fc2"}
BLOCK_NAMES |= {name: f"self_attn.{name[0]}_proj" for name in ("query", "key", "value")} | {"out": "self_attn.out_proj"}
NAMES = {
    "text/embed/embedding": "text_model.embeddings.token_embedding.weight",
    "text/position": "text_model.embeddings.position_embedding.weight",
    "text/norm": "text_model.final_layer_norm",
    "text_projection": "text_projection",
    "image/class": "vision_model.embeddings.class_embedding",
    "image/position": "vision_model.embeddings.position_embedding.weight",
    "image/patches": "vision_model.embeddings.patch_embedding",
    "image/norm_in": "vision_model.pre_layrnorm",
    "image_norm": "vision_model.post_layernorm",
    "image_projection": "visual_projection",
}


def source(path: str) -> Source:
    """The tensor there that is the parameter `path` here."""
    if path in NAMES:
        return _with_alias(NAMES[path])
    module, leaf = path.rsplit("/", 1)
    if module in NAMES:
        name = NAMES[module]
    else:
        tower, block, part = module.split("/")
        their_tower = {"text": "text_model", "image": "vision_model"}[tower]
        name = f"{their_tower}.encoder.layers.{block.removeprefix('block')}.{BLOCK_NAMES[part]}"
    axes = None if leaf != "kernel" else CONVOLUTION if module == "image/patches" else KERNEL
    return _with_alias(f"{name}.{'bias' if leaf == 'bias' else 'weight'}", axes)


def _with_alias(name: str, axes: tuple[int, ...] | None = None) -> Source:
    """A tower alone may lack the tower's name in front."""
    short = name.removeprefix("text_model.").removeprefix("vision_model.")
    return Source(name, axes, () if short == name else (short,))


def check_end(settings: Mapping[str, Any], words: HFTokenizer) -> None:
    """Raises `UserError` unless a text's vector is read, there and here, at the same token: the first end.

    Transformers takes the token of the highest id for the end where `eos_token_id` is 2, as old folders have it: the
    same, unless tokens were added after it.
    """
    text = (settings.get("text_config") or {}) | (settings.get("text_config_dict") or {}) or settings
    end = text.get("eos_token_id", words.end)
    if end == 2 and words.vocabulary > words.end + 1:
        raise UserError(
            f"config.json: eos_token_id is 2, so transformers would read a text's vector at the token of the highest "
            f"id, which an added one ({words.last}) has: write the end's own id there, {words.end}"
        )
    require(end in (2, words.end), f"config.json: eos_token_id is {end!r}, but the tokenizer ends texts by {words.end}")


def load_params(
    checkpoint: Checkpoint, config: ClipConfig, dtype: Dtype, mesh: Mesh | None = None, ignore: Sequence[str] = ()
) -> Any:
    """The parameters of the towers in `config`, split over `mesh` as `RULES` say."""
    expected = jax.eval_shape(lambda key: Clip(config, dtype).init(key, method="everything"), randomness.key(0))
    place = placement(mesh, RULES)
    return load(checkpoint, expected["params"], source, ignore=(*BUFFERS, *ignore), place=place)


def _fingerprint(checkpoint: Checkpoint, params: Any) -> str:
    names = [source(path).found(checkpoint) for path in flatten_dict(params, sep="/")]
    return fingerprint(checkpoint, names)


def open_text(
    folder: str | Path,
    *,
    dtype: Dtype = "float32",
    max_tokens: int | None = None,
    mesh: Mesh | None = None,
    tokenizer: str | Path | None = None,
    batch_size: int = 32,
) -> TextEncoder:
    """CLIP's text tower as an encoder of tokens, from a folder of a CLIP or of a text tower alone.

    `max_tokens` is the tower's (77) by default, and at most that. Tokenizer and mesh as in `encoders.t5.open`. Raises
    `UserError` for what is missing, and naming everything that does not fit.
    """
    folder = Path(folder)
    check_dtype(dtype)
    config = clip_config(read_settings(folder))
    require(config.text is not None, f"{folder} holds an image tower alone: no text can be encoded with it")
    longest = config.text.max_tokens
    max_tokens = longest if max_tokens is None else max_tokens
    require(3 <= max_tokens <= longest, f"max_tokens {max_tokens}: this CLIP takes 3 to {longest}")
    words = open_clip_tokenizer(folder if tokenizer is None else tokenizer)
    words.check_fits(config.text.vocabulary)
    checkpoint = open_checkpoint(folder)
    alone = ClipConfig(config.text, None, None)
    params = load_params(checkpoint, alone, dtype, mesh, ignore=(r"^vision_model\.", r"^(text|visual)_projection\."))
    network = Clip(alone, dtype)

    def apply(params: Any, tokens_BL: jax.Array, mask_BL: jax.Array) -> jax.Array:
        del mask_BL  # padding comes after the text, where causal attention does not look
        return network.apply({"params": params}, tokens_BL, method="tokens")

    return TextEncoder(
        width=config.text.tower.width,
        max_tokens=max_tokens,
        fingerprint=identify(
            "clip text", alone, dtype, max_tokens, words.fingerprint, _fingerprint(checkpoint, params)
        ),
        dtype=dtype,
        tokenizer=words,
        apply=jitted(apply, mesh),
        params=params,
        batch_size=batch_size,
        mesh=mesh,
    )


@dataclass(frozen=True)
class ClipEncoder:
    """Texts and images to unit vectors of one space (a `VectorEncoder` of dense retrieval)."""

    width: int
    fingerprint: str
    """Of weights, tokenizer and precision."""
    resolution: int | None
    """Images of other sides are resized as CLIP's own are; None for a text tower alone."""
    config: ClipConfig
    params: Any = field(repr=False)
    tokenizer: HFTokenizer | None = field(repr=False)
    embed_texts: Callable[..., jax.Array] = field(repr=False)
    embed_images: Callable[..., jax.Array] = field(repr=False)
    batch_size: int = 32
    mesh: Mesh | None = field(default=None, repr=False)

    def texts(self, texts: Sequence[str]) -> np.ndarray:
        """Unit vectors float32[N, width]."""
        require(self.tokenizer is not None, "an image tower alone cannot encode texts")
        check_not_released(self.params)
        longest, end = self.config.text.max_tokens, self.tokenizer.end
        tokens_NL, mask_NL = self.tokenizer.encode(texts, longest)
        tokens_NL, length_N = pad_to(tokens_NL, longest, end), mask_NL.sum(axis=1)

        def batches() -> Iterator[tuple[np.ndarray, jax.Array]]:
            for rows, B, L in bucketed(length_N, longest, self.batch_size, self.mesh):
                tokens_BL = pad_rows(tokens_NL[rows, :L], B, end)
                last_B = (tokens_BL == end).argmax(axis=1).astype(np.int32)  # the first end
                yield rows, self.embed_texts(self.params, *on_mesh((tokens_BL, last_B), self.mesh))

        return _unit(self._vectors(len(texts), batches()))

    def images(self, images_NHWC: np.ndarray) -> np.ndarray:
        """Unit vectors float32[N, width] of uint8[N, H, W, 3]."""
        return _unit(self.image_vectors(images_NHWC))

    def image_vectors(self, images_NHWC: np.ndarray) -> np.ndarray:
        """The same as the tower gives them, of any length: what CLIP-FID is of."""
        require(self.resolution is not None, "a text tower alone cannot encode images")
        require(images_NHWC.dtype == np.uint8, f"images are {images_NHWC.dtype}, not uint8")
        check_not_released(self.params)

        def batches() -> Iterator[tuple[np.ndarray, jax.Array]]:
            for rows, B in in_batches(np.arange(len(images_NHWC)), self.batch_size, self.mesh):
                fitted = np.stack([fit(image_HWC, self.resolution) for image_HWC in images_NHWC[rows]])
                yield rows, self.embed_images(self.params, *on_mesh((pad_rows(fitted, B, 0),), self.mesh))

        return self._vectors(len(images_NHWC), batches())

    def image_function(self) -> ImageFunction:
        """The image tower as a function to differentiate; its vectors are not of unit length."""
        require(self.resolution is not None, "a text tower alone cannot encode images")
        return ImageFunction(
            lambda params, x_BHWC: self.embed_images(params, (x_BHWC + 1.0) * 127.5), self.params, self.resolution
        )

    def release(self) -> None:
        """Gives the weights' memory back, on devices and host; the encoder cannot encode any more."""
        for leaf in jax.tree.leaves(self.params):
            leaf.delete()

    def _vectors(self, number: int, batches: Iterator[tuple[np.ndarray, jax.Array]]) -> np.ndarray:
        vectors_ND = np.zeros((number, self.width), np.float32)
        for rows, vector_BD in one_behind(batches):
            vectors_ND[rows] = vector_BD[: len(rows)]
        return vectors_ND


def _unit(vectors_ND: np.ndarray) -> np.ndarray:
    return vectors_ND / np.linalg.norm(vectors_ND, axis=1, keepdims=True)


def fit(image_HWC: np.ndarray, resolution: int) -> np.ndarray:
    """The middle square of an image, uint8[resolution, resolution, 3], after its shorter side was resized (bicubic)."""
    H, W, _ = image_HWC.shape
    if H == W == resolution:
        return image_HWC
    short = min(H, W)
    width, height = (resolution * side // short for side in (W, H))
    resized = Image.fromarray(image_HWC).resize((width, height), Image.Resampling.BICUBIC)
    left, top = (width - resolution) // 2, (height - resolution) // 2
    return np.asarray(resized)[top : top + resolution, left : left + resolution]


def open(
    folder: str | Path,
    *,
    dtype: Dtype = "float32",
    mesh: Mesh | None = None,
    tokenizer: str | Path | None = None,
    batch_size: int = 32,
) -> ClipEncoder:
    """A CLIP from a folder as Hugging Face publishes it: both towers, or one with its projection.

    Tokenizer and mesh as in `encoders.t5.open`. Raises `UserError` for what is missing, and naming everything that does
    not fit.
    """
    folder = Path(folder)
    check_dtype(dtype)
    settings = read_settings(folder)
    config = clip_config(settings)
    words = None
    if config.text is not None:
        words = open_clip_tokenizer(folder if tokenizer is None else tokenizer)
        words.check_fits(config.text.vocabulary)
        check_end(settings, words)
    checkpoint = open_checkpoint(folder)
    params = load_params(checkpoint, config, dtype, mesh)
    network, read = Clip(config, dtype), None if words is None else words.fingerprint

    def embed_texts(params: Any, tokens_BL: jax.Array, last_B: jax.Array) -> jax.Array:
        return network.apply({"params": params}, tokens_BL, last_B, method="texts")

    def embed_images(params: Any, images_BHWC: jax.Array) -> jax.Array:
        return network.apply({"params": params}, images_BHWC.astype(jnp.float32) / 255.0, method="images")

    return ClipEncoder(
        width=config.projection,
        fingerprint=identify("clip", config, dtype, read, _fingerprint(checkpoint, params)),
        resolution=None if config.image is None else config.image.resolution,
        config=config,
        params=params,
        tokenizer=words,
        embed_texts=jitted(embed_texts, mesh),
        embed_images=jitted(embed_images, mesh),
        batch_size=batch_size,
        mesh=mesh,
    )
