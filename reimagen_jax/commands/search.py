"""`reimagen search`: what a knowledge base finds for a text, in words and in pictures."""

import difflib
import math
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import tyro

from reimagen_jax.checked import Count, Options, Share
from reimagen_jax.errors import UserError
from reimagen_jax.terminal import json_line, say

if TYPE_CHECKING:
    import numpy as np

    from reimagen_jax.data.records import ImageText
    from reimagen_jax.retrieval.hybrid import Fusion
    from reimagen_jax.retrieval.knowledge_base import KnowledgeBase


@dataclass(frozen=True)
class FusionOptions(Options):
    """How --method hybrid makes one list of two."""

    fusion: Literal["reciprocal", "weighted"] = "reciprocal"
    """By ranks, or by scores."""
    dense_weight: Share = 0.5
    """Of the vectors, 0 to 1; the words have the rest."""
    depth: Count = 100
    """Candidates that words and vectors propose, each."""

    def settings(self) -> "Fusion":
        """Raises `UserError` on values out of range."""
        from reimagen_jax.retrieval.hybrid import Fusion

        return Fusion(self.fusion, self.dense_weight, self.depth)


@dataclass(frozen=True)
class Search(Options):
    """Ask a knowledge base: prints the records found for each query, best first, and draws them on a contact sheet.

    For example:
        reimagen search runs/index "a red bird" "a dog at the beach" --k 6 --sheet hits.png

    With a filter, and with reasons:
        reimagen search runs/index "a red bird" --where category=bird --explain

    By words (BM25), by vectors (of the encoder that the base was made with), or by both:
        reimagen search runs/index "a red bird" --method hybrid

    A query that shares no word with any caption finds nothing by words; that is said, and is no error.
    """

    knowledge_base: Annotated[Path, tyro.conf.Positional]
    """Folder written by `reimagen index`."""
    queries: Annotated[tuple[str, ...], tyro.conf.Positional]
    """What to look for; each text is a query of its own."""
    k: Count = 6
    """Records to find for each query."""
    method: Literal["lexical", "dense", "hybrid"] = "lexical"
    """By words, by vectors, or by both."""
    where: Annotated[tuple[str, ...], tyro.conf.UseAppendAction] = ()
    """Only records with FIELD=VALUE, such as licence=cc0. Repeat it for further values, or for further fields."""
    ban: tuple[str, ...] = ()
    """Keys of records that are not to be found."""
    pin: tuple[str, ...] = ()
    """Keys of records that come first, whatever is asked."""
    how: Annotated[FusionOptions, tyro.conf.arg(name="")] = field(default_factory=FusionOptions)
    sheet: Path | None = Path("search.png")
    """The contact sheet to write (None: none); a sheet of an earlier search is replaced, no other file."""
    explain: bool = False
    """Say what makes each score."""
    json: bool = False
    """Print one JSON object a line for each record found, for programs."""

    def run(self) -> None:
        """Searches, prints and draws. Raises `UserError` on bad input."""
        from reimagen_jax.data.sources import Where
        from reimagen_jax.retrieval.knowledge_base import KnowledgeBase

        where, fusion = Where.parse(self.where), self.how.settings()
        self._check()
        base = KnowledgeBase.open(self.knowledge_base)
        ids_QK, scores_QK = base.search(
            self.queries, self.k, method=self.method, where=where, exclude=self.ban, pin=self.pin, fusion=fusion
        )
        if self.k > len(base):
            print(f"--k {self.k}: {self.knowledge_base} has {len(base)} records in all", file=sys.stderr)
        found = [
            (query, base.records.fetch(ids[ids >= 0]), ids, scores)
            for query, ids, scores in zip(self.queries, ids_QK, scores_QK, strict=True)
        ]
        for query, records, ids, scores in found:
            self._print(base, query, records, ids, scores, fusion)
        if self.sheet is not None:
            self._draw(base, [(query, records, scores) for query, records, _, scores in found])

    @property
    def _filters(self) -> str:
        return " with ".join(name for name, given in (("--where", self.where), ("--ban", self.ban)) if given)

    def _check(self) -> None:
        if not self.queries:
            raise UserError('nothing to look for: give a text, such as "a red bird"')
        for query in self.queries:
            if not query.strip():
                raise UserError(f"the query {query!r} is empty: say what to look for")
            try:
                query.encode()
            except UnicodeEncodeError:
                raise UserError(f"the query {query!r} is not valid text (half of a character)") from None
        if self.sheet is not None:
            from reimagen_jax.reports import hits_sheet

            hits_sheet.check(self.sheet)

    def _print(
        self,
        base: "KnowledgeBase",
        query: str,
        records: "list[ImageText]",
        ids: "np.ndarray",
        scores: "np.ndarray",
        fusion: "Fusion",
    ) -> None:
        from reimagen_jax.reports.hits_sheet import score_text

        if self.json:
            for rank, (record, score) in enumerate(zip(records, scores.tolist(), strict=False), 1):
                about = {"query": query, "rank": rank, "score": None if math.isnan(score) else score}
                content = {"key": record.key, "text": record.text, "attributes": record.attributes}
                print(json_line(about | content))
            return
        say(query)
        for rank, (record, n, score) in enumerate(zip(records, ids, scores.tolist(), strict=False), 1):
            say(f"  {rank:>3}  {score_text(score, 4):>9}  {record.text}  [{record.key}]")
            if self.explain:
                lines = base.explain(query, int(n), method=self.method, fusion=fusion).lines()
                say(*(f"         {line}" for line in lines))
        if not records:
            say(f"  nothing found: {_why_nothing(base, query, self.method, self._filters)}")

    def _draw(self, base: "KnowledgeBase", found: "list[tuple[str, list[ImageText], np.ndarray]]") -> None:
        from reimagen_jax.data.images import decode
        from reimagen_jax.reports.hits_sheet import Hit, hits_sheet, save

        sections = [
            (query, [Hit(decode(r.image), r.text, r.key, s) for r, s in zip(records, scores.tolist(), strict=False)])
            for query, records, scores in found
        ]
        filters = "".join(f", where {condition}" for condition in self.where)
        about = f"{self.knowledge_base} ({len(base):,} records), {self.method} search{filters}"
        save(hits_sheet(sections, about), self.sheet)
        print(f"contact sheet in {self.sheet}", file=sys.stderr)


def _why_nothing(base: "KnowledgeBase", query: str, method: str, filters: str) -> str:
    """For people: what a query lacks that found nothing; `filters` are the options that leave out records."""
    left = f" that {filters} leaves" if filters else ""
    if method == "dense":
        return f"there is no record{left}"
    words = list(dict.fromkeys(base.lexical.analyser(query)))
    if not words:
        return (
            "the query has no word (stop words do not count)" if base.lexical.analyser.stop_words else "it has no word"
        )
    if any(word in base.vocabulary for word in words):
        return f"no caption{left} has any of the words {', '.join(words)}"
    near = {word: difflib.get_close_matches(word, base.vocabulary, n=2) for word in words}
    hints = "; ".join(f"{word}: {' or '.join(others)}?" for word, others in near.items() if others)
    return f"no caption has any of the words {', '.join(words)}{f' ({hints})' if hints else ''}"
