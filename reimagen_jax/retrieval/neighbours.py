"""Leak-safe neighbours: the best k candidates of a knowledge base for every record, without the record itself.

Candidates are what a search finds, or are drawn for ablations (see `candidates`); what is left out, and why, is said in
`leaks`. Where fewer than k candidates remain, the record has fewer neighbours. Every candidate left out that would have
been among the k is counted and listed. The same inputs give the same bytes, whatever the number of cores.
Reference: Re-Imagen, section 3.2.
"""

import json
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

import numpy as np

from reimagen_jax.checked import Seed, Share
from reimagen_jax.data.manifest import link, write_manifest
from reimagen_jax.data.records import ImageTexts, Records
from reimagen_jax.errors import require
from reimagen_jax.files import atomic_dir
from reimagen_jax.progress import track
from reimagen_jax.retrieval import candidates, serving
from reimagen_jax.retrieval.asker import ask
from reimagen_jax.retrieval.asking import Asking, Question
from reimagen_jax.retrieval.candidates import Candidates, Kind
from reimagen_jax.retrieval.duplicates import HASH, THRESHOLD
from reimagen_jax.retrieval.fields import numbered, questions
from reimagen_jax.retrieval.knowledge_base import KnowledgeBase
from reimagen_jax.retrieval.leaks import KEPT, LeakTest
from reimagen_jax.retrieval.triples import EXCLUDED_FILE, KIND, NEIGHBOURS_FILE, SCORES_FILE, SERVING_FILE, Triples

SPARE_CANDIDATES = 4
"""Candidates fetched beyond k at first; a record for which that is too few is asked again for four times as many."""
_CANDIDATES_AT_ONCE = 2**23
"""Bounds the memory: so many candidates (8 bytes each) are held at a time."""


@dataclass(frozen=True)
class Rules(Asking):
    """What becomes a neighbour. Raises `UserError` on rules that contradict each other or are out of range."""

    kind: Kind = "retrieved"
    """Where candidates come from: see `candidates`. Only retrieved ones are asked for, but `exclude_same` and
    `near_duplicates` apply to all."""
    near_duplicates: Share = field(default=THRESHOLD, kw_only=True)
    entity_field: str = "entity"
    """Of wrong and oracle ones: the attribute that names what a picture shows."""
    category_field: str = "category"
    """Of wrong ones: the attribute in which the other entity is the same; empty: of any category."""
    seed: Seed = 0
    """Of what is drawn."""

    def __post_init__(self) -> None:
        super().__post_init__()
        searching = self.options().keys() - {"exclude_same", "near_duplicates", "tie_seed"}
        require(
            self.kind == "retrieved" or not searching,
            f"{' and '.join(sorted(searching))} would be for retrieved neighbours: {self.kind} ones are drawn without "
            "a search",
        )
        require(
            self.kind != "oracle" or self.entity_field not in self.exclude_same,
            f"oracle neighbours have the record's {self.entity_field}, which exclude_same leaves out",
        )

    def facts(self) -> dict[str, Any]:
        """For the manifest: what applies."""
        facts = {
            "neighbours": self.kind,
            "exclude_same": list(self.exclude_same),
            "near_duplicates": {"hash": HASH, "threshold": self.near_duplicates} if self.near_duplicates else None,
        }
        if self.kind == "retrieved":
            asked = {item.name: getattr(self, item.name) for item in fields(Asking)}
            return facts | {"query_by": list(self.query_by), "method": self.method, "asked": asked}
        named = {"oracle": {"entity_field": self.entity_field}}
        named["wrong"] = named["oracle"] | {"category_field": self.category_field}
        return facts | {"seed": self.seed} | named.get(self.kind, {})


@dataclass(frozen=True, eq=False)
class Found:
    """Neighbours of N records, and the candidates that were left out."""

    ids_NK: np.ndarray
    """int32: -1 where there are fewer than K."""
    scores_NK: np.ndarray
    """float32: 0 where there is no neighbour, NaN where it was drawn."""
    left_out_E3: np.ndarray
    """int32: a record, a candidate, and the number of the reason, in the order of records and candidates."""
    reasons: tuple[str, ...]
    """By number."""

    @property
    def excluded(self) -> Counter[str]:
        """Candidates left out, by reason, the reasons without any among them."""
        counts = np.bincount(self.left_out_E3[:, 2], minlength=len(self.reasons))
        return Counter(dict(zip(self.reasons, counts.tolist(), strict=True)))


def build_triples(
    records: Records,
    knowledge_base: KnowledgeBase,
    k: int,
    out: str | Path,
    rules: Rules = Rules(),
    *,
    num_candidates: int | None = None,
    overwrite: bool = False,
    beside: Callable[[Path, Triples], None] = lambda folder, triples: None,
) -> Triples:
    """Finds up to k neighbours of every record, writes them to the new folder `out` and opens it.

    With `num_candidates`, at least k, so many are found, and training draws k of them anew each time.

    The manifest counts the candidates left out, by reason, and the records by their number of neighbours;
    `excluded.jsonl` lists the former one by one, `serving.tsv` how often each record of the base is a neighbour.
    `beside` may write more into the folder, before it is in its place.
    Raises `UserError` when `out` exists and `overwrite` is false, or a field that `rules` name is missing.
    """
    kept = k if num_candidates is None else num_candidates
    require(kept >= k, f"num_candidates is {kept}: at least as many as neighbours, {k}, are needed")
    with atomic_dir(out, kind=KIND, overwrite=overwrite) as folder:
        found = find_neighbours(records, knowledge_base, kept, rules)
        np.save(folder / NEIGHBOURS_FILE, found.ids_NK)
        np.save(folder / SCORES_FILE, found.scores_NK)
        with (folder / EXCLUDED_FILE).open("w", encoding="utf-8") as file:
            file.writelines(_lines(found, records, knowledge_base.records))
        with (folder / SERVING_FILE).open("w", encoding="utf-8") as file:
            file.writelines(serving.lines(serving.served(found.ids_NK, len(knowledge_base)), knowledge_base.keys()))
        facts = {
            "count": len(records),
            "num_neighbours": k,
            **({} if num_candidates is None else {"num_candidates": num_candidates}),
            **rules.facts(),
            "records": link(records.path, out),
            "records_fingerprint": records.fingerprint,
            "knowledge_base": link(knowledge_base.path, out),
            "knowledge_base_fingerprint": knowledge_base.fingerprint,
            "excluded": dict(found.excluded),
            "records_by_neighbours_found": np.bincount((found.ids_NK >= 0).sum(axis=1), minlength=kept + 1).tolist(),
        }
        write_manifest(folder, KIND, facts)
        beside(folder, Triples.open(folder))
    return Triples.open(out)


def find_neighbours(records: Records, base: KnowledgeBase, k: int, rules: Rules = Rules()) -> Found:
    """Finds up to k neighbours of every record. Raises `UserError` when a field that `rules` name is missing."""
    source = _source(records, base, rules)
    test = LeakTest.of(records, base.records, rules.exclude_same, rules.near_duplicates, bool(rules.floor))
    ids_NK = np.full((len(records), k), -1, np.int32)
    scores_NK = np.zeros((len(records), k), np.float32)
    left_out = []
    open_N, width = np.arange(len(records)), k + SPARE_CANDIDATES
    while open_N.size:
        width = min(width, len(base))
        rows = max(1, _CANDIDATES_AT_ONCE // width)
        blocks = [open_N[start : start + rows] for start in range(0, open_N.size, rows)]
        again = []
        for block_Q in track(blocks, len(blocks), "neighbours", "block"):
            ids_QC, scores_QC, below_QC, over_Q = source(block_Q, width)
            verdict_QC = test(block_Q, ids_QC, k, below_QC)
            exhausted_Q = over_Q | (width == len(base))
            done_Q = exhausted_Q | ((verdict_QC == KEPT).sum(axis=1) >= k)
            ids_NK[block_Q], scores_NK[block_Q] = _first(k, verdict_QC == KEPT, ids_QC, scores_QC)
            q, c = np.nonzero((verdict_QC > KEPT) & done_Q[:, None])
            left_out.append(np.stack([block_Q[q], ids_QC[q, c], verdict_QC[q, c] - 1], axis=1).astype(np.int32))
            again.append(block_Q[~done_Q])
        open_N, width = np.concatenate(again), width * 4
    left_out_E3 = np.concatenate(left_out) if left_out else np.zeros((0, 3), np.int32)
    in_order = np.argsort(left_out_E3[:, 0], kind="stable")
    return Found(ids_NK, scores_NK, left_out_E3[in_order], test.reasons)


def _source(records: Records, base: KnowledgeBase, rules: Rules) -> Candidates:
    if rules.kind == "retrieved":
        ask(base, [Question("")], 1, rules)  # says what cannot be searched before pictures are hashed
        return candidates.retrieved(base, questions(records, rules), rules)
    if rules.kind == "random":
        return candidates.random(base, rules.seed)
    names = (rules.entity_field, rules.category_field) if rules.kind == "wrong" else (rules.entity_field,)
    number_FN, number_FM = numbered(records, base.records, tuple(filter(None, names)))
    if rules.kind == "oracle":
        return candidates.oracle(number_FN[0], number_FM[0], rules.seed)
    if not rules.category_field:  # all are of one category
        number_FN, number_FM = (np.concatenate([x_FN, np.zeros_like(x_FN)]) for x_FN in (number_FN, number_FM))
    return candidates.wrong(number_FN[0], number_FM[0], number_FN[1], number_FM[1], rules.seed)


def _first(k: int, keep_QC: np.ndarray, ids_QC: np.ndarray, scores_QC: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The first k candidates that are kept, in order, padded with -1 and 0."""
    order_QK = np.argsort(~keep_QC, axis=1, kind="stable")[:, :k]
    kept_QK = np.take_along_axis(keep_QC, order_QK, axis=1)
    padding = ((0, 0), (0, k - order_QK.shape[1]))
    ids_QK = np.where(kept_QK, np.take_along_axis(ids_QC, order_QK, axis=1), np.int32(-1))
    scores_QK = np.where(kept_QK, np.take_along_axis(scores_QC, order_QK, axis=1), np.float32(0))
    return np.pad(ids_QK, padding, constant_values=-1), np.pad(scores_QK, padding)


def _lines(found: Found, records: Records, others: ImageTexts) -> Iterator[str]:
    """The list of what was left out, as JSON lines."""
    keys, other_keys = records.keys(), others.keys()
    for record, candidate, reason in found.left_out_E3.tolist():
        line = {"record": keys[record], "left_out": other_keys[candidate], "reason": found.reasons[reason]}
        yield json.dumps(line, ensure_ascii=False) + "\n"
