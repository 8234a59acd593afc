"""`reimagen search`: what a knowledge base finds for a text, in words and in pictures."""

import difflib
import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, ClassVar, Literal

import numpy as np
import tyro

from reimagen_jax.checked import Count, Options, Share
from reimagen_jax.commands.prompt_options import (
    AskingOptions,
    filters_of_records,
    require_apart,
    require_records,
    said_left_out,
)
from reimagen_jax.errors import UserError, require
from reimagen_jax.retrieval.asking import BY_CAPTION, CAPTION, Match, matched
from reimagen_jax.terminal import json_line, say

if TYPE_CHECKING:
    from reimagen_jax.inference.prompts import Found, Prompt
    from reimagen_jax.retrieval.asking import Asking
    from reimagen_jax.retrieval.hybrid import Fusion
    from reimagen_jax.retrieval.knowledge_base import KnowledgeBase

SIDE = 64
"""Pixels at which pictures are compared."""


@dataclass(frozen=True)
class FusionOptions(Options):
    """How --method hybrid makes one list of two."""

    common: ClassVar[tuple[str, ...]] = ()

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
    """Ask a knowledge base: prints the records found for each query, best first; --sheet draws them.

    For example:
        reimagen search runs/index "a red bird" "a dog at the beach" --k 6 --sheet hits.png

    With a filter, and with reasons:
        reimagen search runs/index "a red bird" --where category=bird --explain

    By words (BM25), by vectors (of the encoder that the base was made with), or by both:
        reimagen search runs/index "a red bird" --method hybrid

    What `reimagen triples` or `reimagen sample` would find for records, or for prompts with fields:
        reimagen search runs/index --records runs/test --limit 4 --query-by entity entity caption --exclude-same style
        reimagen search runs/index --prompts prompts.jsonl --model runs/train

    A query that shares no word with any caption finds nothing by words; that is said, and is no error.
    """

    knowledge_base: Annotated[Path, tyro.conf.Positional]
    """Folder written by `reimagen index`."""
    queries: Annotated[tuple[str, ...], tyro.conf.Positional]
    """What to look for; each text is a query of its own."""
    k: Count = 6
    """Records to find for each query."""
    prompts: Annotated[Path | None, tyro.conf.arg(metavar="FILE")] = None
    """Ask for the prompts of a file, as `reimagen sample` would; a .jsonl gives them fields."""
    records: Annotated[Path | None, tyro.conf.arg(metavar="DIR")] = None
    """Ask for records, as `reimagen sample` would: their captions are the prompts. No record finds itself."""
    records_where: Annotated[tuple[str, ...], tyro.conf.UseAppendAction] = ()
    """With --records: only those with FIELD=VALUE ask; what is found is chosen by --where. Repeat it for more."""
    records_where_not: Annotated[tuple[str, ...], tyro.conf.UseAppendAction] = ()
    """With --records: none with FIELD=VALUE asks. Repeat it for more."""
    limit: Count = 8
    """With --records: at most this many, spread evenly over all (of --records-where)."""
    model: Annotated[Path | None, tyro.conf.arg(metavar="DIR")] = None
    """Ask as this model's training did, where options do not say how; `shipped`: the one in the package."""
    asking: Annotated[AskingOptions, tyro.conf.arg(name="")] = field(default_factory=AskingOptions)
    ban: tuple[str, ...] = ()
    """Keys of records that are not to be found."""
    pin: tuple[str, ...] = ()
    """Keys of records that come first, whatever is asked."""
    how: Annotated[FusionOptions, tyro.conf.arg(name="")] = field(default_factory=FusionOptions)
    sheet: Annotated[Path | None, tyro.conf.arg(metavar="FILE.png")] = None
    """Draw what is found on a contact sheet, and write it there; a sheet of an earlier search is replaced, no other
    file."""
    explain: bool = False
    """Say what makes each score."""
    json: bool = False
    """Print one JSON object a line for each record found, for programs."""

    def run(self) -> None:
        """Searches, prints and draws. Raises `UserError` on bad input."""
        from reimagen_jax.inference.prompts import find
        from reimagen_jax.inference.requests import pinned
        from reimagen_jax.retrieval.knowledge_base import KnowledgeBase

        how, fusion = self._how(), self.how.settings()
        self._check()
        base = KnowledgeBase.open(self.knowledge_base)
        given, pinned_ids = pinned(base, self.pin, SIDE), base.ids_of(dict.fromkeys(self.pin)).tolist()
        require(self.k >= len(given), f"--k {self.k}: at least {len(given)} is needed for those pinned")
        prompts, found = self._prompts(how), []
        for prompt in prompts:
            hits = find(prompt, base, self.k - len(given), SIDE, given=given, ban=self.ban, how=how, fusion=fusion)
            neighbours, ids = (*given, *hits.neighbours), (*pinned_ids, *hits.ids)
            found.append(hits._replace(neighbours=neighbours, ids=ids))
        if self.k > len(base):
            say(f"--k {self.k}: {self.knowledge_base} has {len(base)} records in all", error=True)
        for prompt, hits in zip(prompts, found, strict=True):
            self._print(base, prompt, hits, how, fusion)
        if self.sheet is not None:
            self._draw(base, prompts, found, how)

    def _how(self) -> "Asking":
        trained = None
        if self.model is not None:
            from reimagen_jax.inference.model import experiment_of  # imports JAX, which others can do without

            trained = getattr(experiment_of(self.model).data, "asked", None)
            told = "does not tell how its training asked" if trained is None else f"was trained by {trained.told()}"
            say(f"{self.model} {told}", error=True)
        return self.asking.settings(trained or BY_CAPTION)

    def _prompts(self, how: "Asking") -> "list[Prompt]":
        from reimagen_jax.data.records import Records
        from reimagen_jax.inference.prompts import Prompt, asking, from_file, from_records, satisfying

        prompts = [Prompt(query) for query in self.queries]
        prompts += from_file(self.prompts) if self.prompts else []
        if self.records:
            records = Records.open(self.records)
            among = satisfying(records, *filters_of_records(self.records_where, self.records_where_not))
            prompts += from_records(records, self.limit, SIDE, among=among)
        return asking(prompts, how, strict=bool(self.asking.query_by), floor_of_texts=True)

    @property
    def _filters(self) -> str:
        """The options that leave out records."""
        given = {name: getattr(self.asking, name) for name in ("where", "where_not", "exclude_same", "floor")}
        given["ban"] = self.ban
        return " with ".join(f"--{name.replace('_', '-')}" for name, value in given.items() if value)

    def _check(self) -> None:
        if not (self.queries or self.prompts or self.records):
            raise UserError('nothing to look for: give a text, such as "a red bird"')
        named = [name for name in self.asking.query_by if name != CAPTION]
        if self.queries and named:
            raise UserError(f"--query-by {' '.join(named)}: a text has no fields; give --prompts, or --records")
        if self.queries:
            self.asking.require_fields("a text", "give --prompts, or --records")
        require_records(self.records, self.records_where, self.records_where_not)
        require_apart(self.pin, self.ban)
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

    def _print(self, base: "KnowledgeBase", prompt: "Prompt", found: "Found", how: "Asking", fusion: "Fusion") -> None:
        from reimagen_jax.reports.hits_sheet import score_text

        query = prompt.query or prompt.text
        if self.json:
            for rank, hit in enumerate(found.neighbours, 1):
                about = {"query": query, "rank": rank, "score": None if math.isnan(hit.score) else hit.score}
                content = {"key": hit.key, "text": hit.text, "attributes": hit.attributes}
                print(json_line(about | content))
            return
        say(query)
        for rank, (hit, n) in enumerate(zip(found.neighbours, found.ids, strict=True), 1):
            say(f"  {rank:>3}  {score_text(hit.score, 4):>9}  {hit.text}  [{hit.key}]")
            if self.explain:
                lines = base.explain(query, n, method=how.method, fusion=fusion).lines()
                share = float(base.words.shares([prompt.names or query], np.array([[n]]))[0, 0])
                lines += [f"it shares {share:.2f} of what is asked for"] if how.method == "lexical" else []
                say(*(f"         {line}" for line in lines))
        if not found.neighbours and not found.left_out:
            match = matched(how, prompt.attributes, query)
            why = _none_matches(match, self._filters) or _why_nothing(base, query, how.method, self._filters)
            say(f"  nothing found: {why}")
        if found.left_out:
            say(f"  {said_left_out(found.left_out)}")

    def _draw(
        self, base: "KnowledgeBase", prompts: "Sequence[Prompt]", found: "Sequence[Found]", how: "Asking"
    ) -> None:
        from reimagen_jax.data.images import decode
        from reimagen_jax.reports.hits_sheet import Hit, hits_sheet, save

        sections = [
            (prompt.query or prompt.text, [Hit(decode(h.encoded), h.text, h.key, h.score) for h in hits.neighbours])
            for prompt, hits in zip(prompts, found, strict=True)
        ]
        filters = "".join(f", where {condition}" for condition in how.where)
        about = f"{self.knowledge_base} ({len(base):,} records), {how.method} search{filters}"
        save(hits_sheet(sections, about), self.sheet)
        say(f"contact sheet in {self.sheet}", error=True)


def _none_matches(match: Match, filters: str) -> str:
    """For people: what no other record has, as those that match are found whatever their captions say."""
    wanted = " and ".join(f"{name}={' or '.join(sorted(values))}" for name, values in match)
    return f"no other record{f' that {filters} leaves' if filters else ''} has {wanted} (--match)" if match else ""


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
