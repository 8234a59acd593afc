"""What a knowledge base holds, in numbers: records, captions, words, pictures, attributes, vectors."""

from collections import Counter
from typing import Any

import numpy as np

from reimagen_jax.retrieval import attributes
from reimagen_jax.retrieval.collection import parts_of
from reimagen_jax.retrieval.knowledge_base import KnowledgeBase

COMMONEST = 12
"""How many words, and how many values of an attribute, are named."""


def describe(base: KnowledgeBase) -> dict[str, Any]:
    """The numbers as JSON types; reads all captions."""
    texts, digests = base.records.texts(), base.records.digests()
    folders, _ = parts_of(base.records)
    words_N = [base.lexical.analyser(text) for text in texts]
    return {
        "path": str(base.path),
        "records": len(base),
        "deleted": base.manifest.get("deleted", 0),
        "folders": [{"path": str(f.path), "source": f.source, "records": len(f)} for f in folders],
        "bytes": sum(entry["bytes"] for entry in base.manifest["files"].values()),
        "lexical": {
            "k1": base.lexical.k1,
            "b": base.lexical.b,
            "analyser": base.lexical.analyser.describe(),
        },
        "dense": base.manifest.get("dense"),
        "captions": {
            "words": _spread([len(words) for words in words_N]),
            "without words": sum(not words for words in words_N),
            **_repeated(texts),
        },
        "pictures": _repeated(digests),
        "records repeated": _repeated(list(zip(texts, digests, strict=True)))["repeated"],
        "vocabulary": _vocabulary(base),
        "attributes": {name: _values(values) for name, values in attributes.fields(base.attributes).items()},
    }


def _spread(numbers: list[int]) -> dict[str, float]:
    least, median, most = np.percentile(numbers, (0, 50, 100)).tolist()
    return {"least": int(least), "median": median, "mean": float(np.mean(numbers)), "most": int(most)}


def _repeated(values: list[Any]) -> dict[str, int]:
    """How many are different, and how many are the same as one before."""
    return {"different": len(set(values)), "repeated": len(values) - len(set(values))}


def _vocabulary(base: KnowledgeBase) -> dict[str, Any]:
    having = Counter(base.vocabulary)
    return {
        "words": len(having),
        "in one caption only": sum(count == 1 for count in having.values()),
        "commonest": {word: count / len(base) for word, count in having.most_common(COMMONEST)},
    }


def _values(values: dict[str, int]) -> dict[str, Any]:
    commonest = dict(list(values.items())[:COMMONEST])
    return {"different": len(values), "records of each": _spread(list(values.values())), "commonest": commonest}


def lines(facts: dict[str, Any]) -> list[str]:
    """What `describe` found, for people."""
    captions, pictures, words = facts["captions"], facts["pictures"], facts["vocabulary"]
    text = [
        f"{facts['path']}: {facts['records']:,} records, {facts['bytes'] / 1e6:.1f} MB",
        *(f"  {each['records']:,} from {each['path']} ({each['source']})" for each in facts["folders"]),
    ]
    if facts["deleted"]:
        text.append(f"  {facts['deleted']:,} of them deleted")
    lexical = facts["lexical"]
    text += [
        f"search by words: BM25 (Lucene), k1 {lexical['k1']:g}, b {lexical['b']:g}; analyser {lexical['analyser']}",
        f"search by vectors: {_vectors(facts['dense'])}",
        f"captions: {captions['different']:,} different, {captions['repeated']:,} repeated, "
        f"{captions['without words']:,} without words; {_between(captions['words'])} words",
        f"pictures: {pictures['different']:,} different, {pictures['repeated']:,} repeated; "
        f"{facts['records repeated']:,} records repeat both caption and picture",
        f"vocabulary: {words['words']:,} words, {words['in one caption only']:,} in one caption only",
        "  commonest: " + ", ".join(f"{word} ({share:.0%})" for word, share in words["commonest"].items()),
        f"attributes: {len(facts['attributes']) or 'none'}",
    ]
    for name, values in facts["attributes"].items():
        text.append(f"  {name}: {values['different']:,} values, {_between(values['records of each'])} records of each")
        if values["different"] <= COMMONEST:
            text.append("    " + ", ".join(f"{value} ({count:,})" for value, count in values["commonest"].items()))
    return text


def _between(spread: dict[str, float]) -> str:
    return f"{spread['least']:,} to {spread['most']:,} (median {spread['median']:g}, mean {spread['mean']:.1f})"


def _vectors(dense: dict[str, Any] | None) -> str:
    if dense is None:
        return "none"
    measured = dense["recall"]
    return (
        f"{dense['width']} values of each {dense['of']}, {dense['kind']}, "
        f"recall@{measured['k']} {measured['share']:.4f} on {measured['queries']} queries"
    )
