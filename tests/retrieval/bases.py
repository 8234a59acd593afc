"""Knowledge bases for tests: with an encoder that needs no training, and as older versions wrote them."""

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from reimagen_jax.data.manifest import NAME, link, write_manifest
from reimagen_jax.data.records import ImageText, Records, write_records
from reimagen_jax.retrieval.analysis import words_1
from reimagen_jax.retrieval.building import Dense
from tests.samples import example


class LetterEncoder:
    """Texts by how often they have each letter, images by the mean of each column: no meaning, but exact."""

    width = 26
    resolution = 26
    fingerprint = "letters"

    def texts(self, texts: Sequence[str]) -> np.ndarray:
        """float32 [N, 26]"""
        counts = [[0.01 + text.casefold().count(chr(ord("a") + i)) for i in range(26)] for text in texts]
        return np.array(counts, np.float32).reshape(-1, 26)

    def images(self, images: np.ndarray) -> np.ndarray:
        """float32 [N, 26]"""
        return images.mean(axis=(1, 3)).astype(np.float32)


def dense(**settings) -> Dense:
    """Vectors of captions by letters."""
    return Dense(**{"encoder": Path("letters"), "of": "text", **settings})


def described(folder: Path, texts: Sequence[str], *, source: str = "test", first: int = 0) -> Records:
    """Records with a colour (the second word), the number of letters, and a nested field as attributes."""
    examples = [
        example(first + i, text, colour=text.split()[1], size={"letters": len(text)}, words=text.split())
        for i, text in enumerate(texts)
    ]
    return write_records(examples, folder, source=source)


def records_with(folder: Path, examples: Sequence[ImageText], source: str = "test") -> Records:
    """Records of these examples."""
    return write_records(examples, folder, source=source)


def write_version_1(records: Records, out: Path) -> Path:
    """A knowledge base of format 1: by bm25s, without any word of the analyser."""
    import bm25s

    vocabulary: dict[str, int] = {}
    documents = [[vocabulary.setdefault(word, len(vocabulary)) for word in words_1(text)] for text in records.texts()]
    model = bm25s.BM25(k1=1.5, b=0.75, method="lucene")
    model.index((documents, vocabulary), create_empty_token=False, show_progress=False)
    model.save(out, show_progress=False)
    fields = {
        "count": len(records),
        "records": link(records.path, out),
        "records_fingerprint": records.fingerprint,
        "method": "BM25 (Lucene)",
        "k1": 1.5,
        "b": 0.75,
    }
    manifest = write_manifest(out, "knowledge base", fields)
    (out / NAME).write_text(json.dumps(manifest | {"version": 1}))
    return out


def change_manifest(folder: Path, **fields) -> None:
    """Writes other values into a manifest."""
    manifest = json.loads((folder / NAME).read_text())
    (folder / NAME).write_text(json.dumps(manifest | fields))
