"""A CLIP as a system holds one among its parameters: texts and images to one space, by pure functions.

    text:   state_M = norm(tower(tokens)),  z = P state at the end      every state, and the vector       (1)
    image:  z = P norm(tower(image) at the class token)                 of an image of any size           (2)

Its parameters are those of the towers (clip_net.py), trained by `reimagen encode-train --towers clip` or published; a
prior or a decoder keeps them frozen beside its own (`train.rates`: "^clip/", 0), so that the embeddings of a batch are
made in the step and no store of them is needed. What comes after a text's first end is nothing: it changes no number,
and its states are zeros under a false mask.
"""

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int32, Key

from reimagen_jax.encoders import clip
from reimagen_jax.encoders.clip_net import Clip, ClipConfig
from reimagen_jax.encoders.frozen import pad_to, read_settings
from reimagen_jax.encoders.hf_tokenizers import HFTokenizer, open_clip_tokenizer
from reimagen_jax.encoders.image_function import ImageFunction, resized
from reimagen_jax.encoders.settings import JointConfig
from reimagen_jax.encoders.tokenizers import PADDING, EndedByteTokenizer
from reimagen_jax.encoders.towers import Tokenizer, unit
from reimagen_jax.errors import require
from reimagen_jax.nets.transformer import states
from reimagen_jax.pretrained.safetensors_reader import open_checkpoint


class TextReading(NamedTuple):
    """What texts are to a CLIP."""

    state_BMD: Float[Array, "b m d"]
    """float32, after the last norm; M is `JointConfig.max_tokens`."""
    mask_BM: Bool[Array, "b m"]
    """True up to the end, with it."""
    vector_BD: Float[Array, "b d"]


@dataclass(frozen=True)
class PublishedTokenizer:
    """Texts in the words of a published tokenizer."""

    words: HFTokenizer
    max_tokens: int

    def encode(self, texts: Sequence[str]) -> np.ndarray:
        """int32[N, max_tokens], an end in each row."""
        tokens_NL, _ = self.words.encode(texts, self.max_tokens)
        return pad_to(tokens_NL, self.max_tokens, self.words.padding)


@dataclass(frozen=True)
class Joint:
    """The functions of a CLIP; holds settings only."""

    config: JointConfig

    @property
    def net(self) -> Clip:
        """Both towers."""
        return Clip(ClipConfig(self.config.text, self.config.image, self.config.width), self.config.dtype)

    @property
    def width(self) -> int:
        """D: values of a vector."""
        return self.config.width

    def init(self, key: Key[Array, ""]) -> Any:
        """Random parameters, float32 whatever they compute in."""
        return dataclasses.replace(self.net, dtype="float32").init(key, method="everything")["params"]

    def texts(self, params: Any, tokens_BL: Int32[Array, "b l"]) -> TextReading:
        """Equation (1) of rows of ids as `tokenizer` gives them."""
        config, L = self.config, tokens_BL.shape[1]
        last_B = (tokens_BL == config.end).argmax(axis=1).astype(jnp.int32)
        told_BL = jnp.where(jnp.arange(L)[None] <= last_B[:, None], tokens_BL, PADDING)
        state_BMD, vector_BD = self.net.apply({"params": params}, told_BL, last_B, method="read")
        mask_BM = jnp.arange(state_BMD.shape[1])[None] <= last_B[:, None]
        state_BMD = jnp.where(mask_BM[..., None], state_BMD.astype(jnp.float32), 0.0)
        return TextReading(state_BMD, mask_BM, self._scaled(vector_BD))

    def images(self, params: Any, x_BHWC: Float[Array, "b h w 3"]) -> Float[Array, "b d"]:
        """Equation (2) of images in [-1, 1] of any size, which are resized (cubic; smoothed on the way down).

        Raises `UserError` without an image tower.
        """
        require(self.config.image is not None, "this CLIP has no image tower (clip.image): it cannot read images")

        def embed(params: Any, x_BHWC: Float[Array, "b r r 3"]) -> Float[Array, "b d"]:
            vector_BD = self.net.apply({"params": params}, (x_BHWC + 1.0) * 0.5, method="images")
            return self._scaled(vector_BD)

        return ImageFunction(embed, params, self.config.image.resolution)(params, x_BHWC)

    def image_states(self, params: Any, x_BHWC: Float[Array, "b h w 3"]) -> list[Float[Array, "b m width"]]:
        """The image tower's tokens after each block, of images as in `images`."""
        x_BHWC = resized(x_BHWC, self.config.image.resolution)
        return states(self.net, {"params": params}, (x_BHWC + 1.0) * 0.5, "images")

    def embed_texts(self, params: Any, tokens_BL: Int32[Array, "b l"]) -> Float[Array, "b d"]:
        """Unit vectors of texts."""
        return unit(self.texts(params, tokens_BL).vector_BD)

    def embed_images(self, params: Any, x_BHWC: Float[Array, "b h w 3"]) -> Float[Array, "b d"]:
        """Unit vectors of images in [-1, 1]."""
        return unit(self.images(params, x_BHWC))

    def tokenizer(self) -> Tokenizer:
        """How texts become rows of ids. Raises `UserError` where a published one is not named, or another."""
        config = self.config
        if config.tokens == "bytes":
            return EndedByteTokenizer(config.max_tokens)
        require(
            bool(config.tokenizer),
            "no tokenizer is named (clip.tokenizer): name the folder of the CLIP's own, as Hugging Face stores it",
        )
        words = open_clip_tokenizer(config.tokenizer)
        require(
            config.fingerprint in ("", words.fingerprint),
            f"{config.tokenizer} is not the tokenizer of this CLIP (fingerprint {words.fingerprint[:16]}, not "
            f"{config.fingerprint[:16]})",
        )
        return PublishedTokenizer(words, config.max_tokens)

    def _scaled(self, vector_BD: Float[Array, "b d"]) -> Float[Array, "b d"]:
        return unit(vector_BD) if self.config.normalised else vector_BD


def published(
    folder: str | Path,
    *,
    image: str | Path | None = None,
    tokenizer: str | Path | None = None,
    normalised: bool = True,
) -> tuple[JointConfig, Any]:
    """Settings and parameters (float32) of a published CLIP: both towers in `folder`, or the text tower there and the
    image tower, if any, in `image`, as Hugging Face stores them.

    The tokenizer lies in `tokenizer`, in `folder`, or beside it. Raises `UserError` for what is missing or unfit.
    """
    folder = Path(folder)
    settings = read_settings(folder)
    found, checkpoint = clip.clip_config(settings), open_checkpoint(folder)
    require(found.text is not None, f"{folder} holds an image tower alone: name the folder of its text tower")
    params, tower = clip.load_params(checkpoint, found, "float32"), found.image
    if image is not None:
        require(tower is None, f"{folder} holds an image tower itself: leave out {image}")
        other = clip.clip_config(read_settings(Path(image)))
        require(
            other.text is None and other.projection == found.projection,
            f"{image} is no image tower to the text tower in {folder}: that has vectors of {found.projection} values",
        )
        params = {**params, **clip.load_params(open_checkpoint(Path(image)), other, "float32")}
        tower = other.image
    where = folder if tokenizer is None else Path(tokenizer)
    words = open_clip_tokenizer(where)
    words.check_fits(found.text.vocabulary)
    clip.check_end(settings, words)
    config = JointConfig(
        found.projection,
        found.text,
        tower,
        tokens="published",
        tokenizer=str(where),
        fingerprint=words.fingerprint,
        end=words.end,
        normalised=normalised,
    )
    return config, params
