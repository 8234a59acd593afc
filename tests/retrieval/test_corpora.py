"""Retrieval on real captions: sibling captions find each other, in English and in 28 languages and scripts.

The excerpts in tests/retrieval/corpora come with the repository. Where the whole corpora are at hand (REIMAGEN_CORPORA
names their folder), they are searched as well.
"""

import gzip
import json
import os
from collections import defaultdict
from pathlib import Path

import numpy as np
import pytest

from reimagen_jax.retrieval import bm25
from reimagen_jax.retrieval.analysis import ENGLISH_STOP_WORDS, Analyser, words_1

EXCERPTS = Path(__file__).parent / "corpora"
WHOLE = Path(os.environ.get("REIMAGEN_CORPORA", "."))
UNSPACED = ("ja", "km", "ko", "lo", "my", "th", "yue", "zh")


def lines(path: Path) -> list[dict]:
    """The objects of a JSON lines file."""
    with gzip.open(path, "rt", encoding="utf-8") as file:
        return [json.loads(line) for line in file]


def siblings(rows: list[dict], folder: Path, analyser: Analyser, **settings) -> tuple[float, float]:
    """P@1 and recall@10: captions of the same image are relevant; the query itself is left out."""
    texts = [row["caption"] for row in rows]
    bm25.build(texts, folder, **{"k1": 1.2, "b": 0.75} | settings, analyser=analyser)
    ids_QC, _ = bm25.load(folder, analyser).search(texts, 11)
    own_QC = ids_QC == np.arange(len(texts))[:, None]
    ids_QK = np.take_along_axis(ids_QC, np.argsort(own_QC, axis=1, kind="stable")[:, :10], axis=1)
    image_N = np.unique([row["image_id"] for row in rows], return_inverse=True)[1]
    relevant_QK = (image_N[ids_QK] == image_N[:, None]) & (ids_QK >= 0)
    others_N = np.bincount(image_N)[image_N] - 1
    return float(relevant_QK[:, 0].mean()), float((relevant_QK.sum(axis=1) / others_N).mean())


def names_find_keywords(rows: list[dict], folder: Path, analyser) -> float:
    """How often an emoji's name finds its keywords (the name not among them) within the first ten of a language."""
    documents = [" / ".join(word for word in row["keywords"] if word != row["name"]) for row in rows]
    bm25.build(documents, folder, 1.5, 0.75, analyser)
    ids_QK, _ = bm25.load(folder, analyser).search([row["name"] for row in rows], 10)
    return float((ids_QK == np.arange(len(rows))[:, None]).any(axis=1).mean())


@pytest.mark.parametrize(
    ("path", "plain_least", "best_least"),
    [
        (EXCERPTS / "coco.jsonl.gz", (0.40, 0.40), (0.40, 0.40)),
        *((path, (0.236, 0.216), (0.255, 0.23)) for path in WHOLE.glob("coco_captions_val2017.jsonl.gz")),
    ],
    ids=lambda value: value.name if isinstance(value, Path) else None,
)
def test_siblings_find_each_other(tmp_path, path, plain_least, best_least):
    rows = lines(path)
    plain = siblings(rows, tmp_path / "plain", Analyser())
    best = siblings(rows, tmp_path / "best", Analyser(stemming="english", stop_words=ENGLISH_STOP_WORDS), k1=0.5)
    print(f"{path.name}: P@1 and recall@10 {plain} as they are, {best} with stemming and stop words")
    for found, least in ((plain, plain_least), (best, best_least), (best, plain)):
        assert (np.array(found) >= least).all()


def test_every_script_is_segmented(tmp_path):
    by_locale = defaultdict(list)
    for row in lines(EXCERPTS / "cldr.jsonl.gz"):
        by_locale[row["locale"]].append(row)
    assert len(by_locale) == 28
    for locale, rows in by_locale.items():
        (tmp_path / locale).mkdir()
        now, before = (
            names_find_keywords(rows, tmp_path / locale / name, analyser)
            for name, analyser in (("now", Analyser()), ("before", words_1))
        )
        assert now > max(0.4, before - 0.03), locale  # one or two of sixty, by chance
        if locale in UNSPACED:
            assert now > before + 0.1, locale
            assert all(len(Analyser()(row["name"])) > 1 for row in rows if len(row["name"]) > 3)
