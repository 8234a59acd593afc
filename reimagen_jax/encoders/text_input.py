"""Prompts and captions as a model takes them: bytes, or embeddings by the frozen encoder that it was trained with.

The frozen encoder may be several times as large as the network that draws. So it is opened when a text comes that has
not been embedded yet, works on the host's CPU, where it takes nothing from the devices that draw, and its memory is
given back before anything is drawn; embeddings are remembered, in the host's memory, also for the later stages of a
cascade that share the encoder.
"""

from collections import OrderedDict
from collections.abc import Sequence
from functools import lru_cache
from typing import Protocol, runtime_checkable

import numpy as np

from reimagen_jax.encoders.settings import FrozenTextConfig, TextConfig
from reimagen_jax.encoders.text_embeddings import encode, normalised
from reimagen_jax.encoders.texts import Embedded, Texts
from reimagen_jax.encoders.tokenizers import ByteTokenizer

REMEMBERED_BYTES = 2**31
"""Of embeddings; the texts of one call are kept in any case."""
WHOLE = 2**20
"""Tokens that no text has."""


@runtime_checkable
class TextInput(Protocol):
    """Texts to what a system takes, arrays of numpy."""

    def prepare(self, texts: Sequence[str]) -> None:
        """Does all that is expensive for these texts, before they are asked for."""
        ...

    def __call__(self, texts: Sequence[str]) -> Texts:
        """Leaves [N, ...], for N > 0 texts."""
        ...

    def cut(self, text: str) -> str:
        """How much of a text that was prepared is beyond what is read ("3 of its 99 bytes"); empty where it is all."""
        ...


class ByteTexts:
    """Texts as bytes, for the encoder that is trained along."""

    def __init__(self, config: TextConfig) -> None:
        self._tokenizer = ByteTokenizer(config.max_bytes)

    def prepare(self, texts: Sequence[str]) -> None:
        """Nothing to do."""

    def __call__(self, texts: Sequence[str]) -> np.ndarray:
        return self._tokenizer.encode(texts)

    def cut(self, text: str) -> str:
        kept = np.count_nonzero(self._tokenizer.encode([text]))
        return _of(len(text.encode()), int(kept), "bytes")


class FrozenTexts:
    """Texts embedded by a published encoder."""

    def __init__(self, settings: FrozenTextConfig, remembered_bytes: int = REMEMBERED_BYTES) -> None:
        self._settings = settings
        self._most = remembered_bytes
        self._bytes = 0
        self._known: OrderedDict[str, tuple[np.ndarray, np.ndarray]] = OrderedDict()
        self._lengths: dict[str, int] = {}

    def prepare(self, texts: Sequence[str]) -> None:
        """Embeds the texts that are not known yet; the encoder is in memory only meanwhile.

        Raises `UserError` when it cannot be opened or is not the one that the model was trained with.
        """
        from reimagen_jax.encoders.published import open_text_encoder

        texts = list(dict.fromkeys(normalised(texts, self._settings)))
        new = [text for text in texts if text not in self._known]
        for text in texts:
            if text in self._known:
                self._known.move_to_end(text)
        if not new:
            return
        encoder = open_text_encoder(self._settings)
        try:
            embedding_NLD, mask_NL = encode(encoder, new, self._settings)
        finally:
            encoder.release()
        whole_NL = encoder.tokenizer.encode(new, WHOLE)[1]
        self._lengths |= dict(zip(new, whole_NL.sum(axis=1).tolist(), strict=True))
        for text, embedding_LD, mask_L in zip(new, embedding_NLD, mask_NL, strict=True):
            self._known[text] = embedding_LD, mask_L
            self._bytes += embedding_LD.nbytes
        while self._bytes > self._most and len(self._known) > len(texts):
            self._bytes -= self._known.popitem(last=False)[1][0].nbytes

    def __call__(self, texts: Sequence[str]) -> Embedded:
        texts = normalised(texts, self._settings)
        self.prepare(texts)
        embeddings, masks = zip(*(self._known[text] for text in texts), strict=True)
        return Embedded(np.stack(embeddings), np.stack(masks))

    def cut(self, text: str) -> str:
        length = self._lengths[normalised([text], self._settings)[0]]
        return _of(length, min(length, self._settings.max_tokens), "tokens")


def _of(length: int, kept: int, what: str) -> str:
    return f"{length - kept} of its {length} {what}" if kept < length else ""


def text_input(config: TextConfig) -> TextInput:
    """How the models of an experiment take their texts. Models with one frozen encoder share what is remembered."""
    return ByteTexts(config) if config.frozen is None else _frozen_texts(config.frozen)


@lru_cache(maxsize=4)
def _frozen_texts(settings: FrozenTextConfig) -> FrozenTexts:
    return FrozenTexts(settings)
