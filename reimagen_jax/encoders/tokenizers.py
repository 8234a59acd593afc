"""Text into token ids."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from reimagen_jax.encoders.settings import END_OF_BYTES

PADDING = 0


@dataclass(frozen=True)
class ByteTokenizer:
    """UTF-8 bytes as tokens: byte b is id b + 1, 0 is padding; longer texts are cut at a whole character."""

    max_bytes: int

    @property
    def vocabulary(self) -> int:
        """Number of ids, padding included."""
        return 257

    def encode(self, texts: Sequence[str]) -> np.ndarray:
        """Texts to int32[N, max_bytes]."""
        tokens_NL = np.zeros((len(texts), self.max_bytes), np.int32)
        for row, text in zip(tokens_NL, texts, strict=True):
            cut = text.encode("utf-8")[: self.max_bytes].decode("utf-8", errors="ignore").encode("utf-8")
            row[: len(cut)] = np.frombuffer(cut, np.uint8).astype(np.int32) + 1
        return tokens_NL

    def decode(self, tokens_L: np.ndarray) -> str:
        """The inverse of `encode` for one text that was not cut."""
        return bytes(int(token) - 1 for token in tokens_L if token != PADDING).decode("utf-8", errors="replace")


@dataclass(frozen=True)
class EndedByteTokenizer:
    """UTF-8 bytes as `ByteTokenizer` has them, and an end (257) after them, for which room is kept."""

    max_tokens: int

    def encode(self, texts: Sequence[str]) -> np.ndarray:
        """Texts to int32[N, max_tokens]."""
        bytes_NL = ByteTokenizer(self.max_tokens - 1).encode(texts)
        tokens_NL = np.pad(bytes_NL, ((0, 0), (0, 1)))
        tokens_NL[np.arange(len(texts)), np.count_nonzero(bytes_NL, axis=1)] = END_OF_BYTES
        return tokens_NL
