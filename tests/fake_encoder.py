"""A frozen text encoder without weights, for tests of what is made of its embeddings."""

import ml_dtypes
import numpy as np

from reimagen_jax.encoders.settings import FrozenTextConfig


class FakeTokenizer:
    """A word is a token, and so is the end."""

    def encode(self, texts, max_tokens):
        lengths = [min(len(text.split()) + 1, max_tokens) for text in texts]
        mask_NL = np.arange(max(lengths)) < np.array(lengths)[:, None]
        return mask_NL.astype(np.int32), mask_NL


class FakeEncoder:
    """Has the signature of `encoders.frozen.TextEncoder`; counts what it is asked for."""

    def __init__(self, width: int = 4, max_tokens: int = 6, fingerprint: str = "fake"):
        self.width, self.max_tokens, self.fingerprint = width, max_tokens, fingerprint
        self.tokenizer = FakeTokenizer()
        self.asked: list[str] = []
        self.released = False

    def encode(self, texts, *, padding="zero"):
        assert not self.released
        self.asked += texts
        lengths = self.tokenizer.encode(texts, self.max_tokens)[1].sum(axis=1)
        mask_NL = np.arange(self.max_tokens) < lengths[:, None]
        rows = [np.random.default_rng(list(text.encode())).normal(size=(self.max_tokens, self.width)) for text in texts]
        embedding_NLD = np.stack(rows).astype(ml_dtypes.bfloat16)
        if padding == "zero":
            embedding_NLD[~mask_NL] = 0
        return embedding_NLD, mask_NL

    def release(self):
        self.released = True


FROZEN = FrozenTextConfig(encoder="somewhere", fingerprint="fake", width=4, max_tokens=6)
