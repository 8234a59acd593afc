"""Prompts and their neighbours: texts or the captions of records, and what retrieval finds for them.

A record used as a prompt must not find itself: a hit is left out when it is the record (same source and key) or shows
the record's own picture (equal pixels at the model's resolution), and further hits take its place. Neighbours chosen
by hand come before those found, which then show no picture again that was chosen.
"""

import hashlib
import json
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from reimagen_jax.data.images import decode
from reimagen_jax.data.records import ImageText, Records
from reimagen_jax.data.sources.where import EVERYTHING, Census, Where, lookup
from reimagen_jax.data.spread import spread
from reimagen_jax.errors import UserError, require
from reimagen_jax.inference.requests import neighbours_of
from reimagen_jax.progress import track
from reimagen_jax.retrieval import asker
from reimagen_jax.retrieval.asking import BELOW, BY_CAPTION, CAPTION, Asking, Question, matched, told_by
from reimagen_jax.retrieval.duplicates import near_pictures
from reimagen_jax.retrieval.fields import value_of
from reimagen_jax.retrieval.hybrid import BY_RANK, Fusion
from reimagen_jax.retrieval.knowledge_base import KnowledgeBase
from reimagen_jax.systems.request import Neighbour, Request

TEXT_FIELDS = ("text", "prompt", "caption")


@dataclass(frozen=True)
class Prompt:
    """A text to draw, its neighbours, and what is known of the image that it asks for."""

    text: str
    neighbours: tuple[Neighbour, ...] = ()
    """Best first."""
    target: np.ndarray | None = field(default=None, repr=False)
    """uint8 [R, R, 3]: the record's own image, never shown to the model; None where there is none."""
    attributes: Mapping[str, Any] = field(default_factory=dict)
    """Of the record; a rater may find in them what the image has to show."""
    key: str = ""
    """Of the record; empty for a text of one's own."""
    source: str = ""
    """Of the record: equal sources and keys mean the same record."""
    query: str = ""
    """What the knowledge base is asked for; the text where empty."""
    names: str = ""
    """Of that, what a neighbour has to share in part: see `retrieval.asking`. Empty: nothing."""
    left_out: Mapping[str, int] = field(default_factory=dict)
    """How many records would have been neighbours, but were left out, by reason."""
    negative: str = ""
    """What guidance leads away from, in place of no text at all."""

    def request(self, index: int, **guidance: Any) -> Request:
        """Asks for image number `index`; numbers of guidance that are not given are as in the model's settings."""
        return Request(self.text, self.neighbours, index, guidance, negative=self.negative)

    def baseline(self, index: int) -> Request:
        """The same image without neighbours: Imagen, in the same weights."""
        return Request(self.text, (), index, negative=self.negative)


@dataclass(frozen=True)
class PromptSource:
    """Prompts, and their neighbours, that are gathered in parts as they are wanted: any number takes little memory."""

    number: int
    digest: str
    """Of the prompts."""
    gather: Callable[[Sequence[int]], list[Prompt]]
    """The prompts of these numbers, without neighbours."""
    find: Callable[[Sequence[Prompt]], list[Prompt]] = list
    """Prompts with their neighbours."""
    most: int = 0
    """Neighbours that a prompt has at most."""

    @classmethod
    def of(cls, prompts: Sequence[Prompt], find: Callable[[Sequence[Prompt]], list[Prompt]] = list, most: int = 0):
        """Prompts that are at hand."""
        told = [(prompt.text, prompt.negative, prompt.query, prompt.key, prompt.source) for prompt in prompts]
        seen = [[hashlib.sha256(hit.image.tobytes()).hexdigest() for hit in prompt.neighbours] for prompt in prompts]
        digest = hashlib.sha256(json.dumps([told, seen]).encode()).hexdigest()
        most = max([most, *(len(prompt.neighbours) for prompt in prompts)])
        return cls(len(prompts), digest[:16], lambda numbers: [prompts[i] for i in numbers], find, most)

    def parts(self, size: int) -> Iterator[list[Prompt]]:
        """All prompts with their neighbours, so many at a time."""
        for first in range(0, self.number, size):
            yield self.find(self.gather(range(self.number)[first : first + size]))


def from_file(path: str | Path) -> list[Prompt]:
    """Reads prompts: one text a line, or (`.jsonl`) one JSON object a line with `text`, and `negative` if there is one;
    other fields are attributes, by which it asks as a record does; `query` is what it asks for instead.

    Raises `UserError` when the file cannot be read, holds no prompt, or has a bad line (its number is named).
    """
    path = Path(path)
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except OSError as error:
        raise UserError(f"--prompts {path} cannot be read: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise UserError(f"--prompts {path} is not UTF-8 text (byte {error.start})") from error
    read = _from_json if path.suffix == ".jsonl" else _from_text
    prompts = [read(line, f"{path}:{number}") for number, line in enumerate(lines, 1) if line.strip()]
    if not prompts:
        raise UserError(f"--prompts {path} holds no prompt: write one on each line")
    return prompts


def satisfying(records: Records, where: Where, where_not: Where = EVERYTHING) -> np.ndarray:
    """The ids of the records with attributes that satisfy a filter, and no condition of the other one, rising.

    Raises `UserError` where there are none, and for a condition of the other that no record has, saying what there is
    instead.
    """
    if where == where_not == EVERYTHING:
        return np.arange(len(records))
    census, refused, fitting, ids = Census(where), Census(where_not), 0, []
    for i, record in enumerate(track(records, len(records), "reading fields", "record")):
        refused.add(record.attributes)
        if not where(record.attributes):
            census.add(record.attributes)
            continue
        fitting += 1
        if not where_not.refuses(record.attributes):
            ids.append(i)
    if not fitting:
        raise UserError(census.explain(str(records.path)))
    if unknown := refused.unknown(str(records.path)):
        raise UserError(unknown)
    require(bool(ids), f"{where_not.option} leaves out all of the {fitting} records of {records.path} to choose among")
    return np.array(ids)


def from_records(
    records: Records,
    limit: int,
    resolution: int,
    numbers: Sequence[int] | None = None,
    among: np.ndarray | None = None,
) -> list[Prompt]:
    """The captions of at most `limit` records, spread evenly over all (or over the ids of `among`), with their images
    as targets; or, of these, the ones with these numbers."""
    among = np.arange(len(records)) if among is None else among
    ids = among[spread(len(among), limit)]
    ids = ids if numbers is None else ids[list(numbers)]
    return [from_record(record, records.source, resolution) for record in records.fetch(ids)]


def from_record(record: ImageText, source: str, resolution: int) -> Prompt:
    """The caption of one record, with its image as target."""
    target = decode(record.image, resolution)
    return Prompt(record.text, (), target, record.attributes, record.key, source)


def asking_by(prompts: Sequence[Prompt], attribute: str) -> list[Prompt]:
    """The prompts, to ask a knowledge base for an attribute (an entity's name, say) instead of the whole text.

    BM25 adds up words: in a small knowledge base several common words outweigh the one that matters.
    Raises `UserError` when a prompt does not have the attribute as a text.
    """
    return asking(prompts, Asking(query_by=(attribute,)), strict=True)


def asking(
    prompts: Sequence[Prompt], how: Asking, *, strict: bool = False, floor_of_texts: bool = False
) -> list[Prompt]:
    """The prompts with what each asks for: by the fields of `how.query_by`, unless it has a query of its own.

    A prompt without one of the fields is asked by the others, one with none of them by its text; `strict` takes it as
    an error, and asks by the fields whatever query a prompt has. A text that is asked for lack of fields tells of a
    whole scene: no floor is laid on it, unless `floor_of_texts`. Raises `UserError` naming the prompt and what it has.
    """

    def of(prompt: Prompt) -> Prompt:
        if prompt.query and not strict:
            return replace(prompt, names=prompt.query)
        told = {name: said for name, said in told_by(how, prompt.text, prompt.attributes).items() if said.strip()}
        fields = {CAPTION: prompt.text, **prompt.attributes}
        texts = [name for name in told if isinstance(lookup(fields, name), str)]
        if strict and (missing := [name for name in how.query_by if name not in texts]):
            known = ", ".join(name for name, value in prompt.attributes.items() if isinstance(value, str)) or "none"
            raise UserError(f"--query-by {missing[0]}: {prompt.text!r} has no such text; the texts it has: {known}")
        names = " ".join(told[name] for name in how.names if name in told)
        if how.names and not names:
            return replace(prompt, names=prompt.text if floor_of_texts else "")
        query = " ".join(told[name] for name in how.query_by if name in told)
        return replace(prompt, query="" if query == prompt.text else query, names=names or prompt.text)

    return [of(prompt) for prompt in prompts]


def with_retrieved(
    prompts: Sequence[Prompt],
    base: KnowledgeBase,
    k: int,
    resolution: int,
    *,
    given: Sequence[Neighbour] = (),
    ban: Sequence[str] = (),
    how: Asking = BY_CAPTION,
) -> list[Prompt]:
    """The prompts with k neighbours each: first those `given`, then the best of the knowledge base, fewer where fewer
    are found. Records with a key of `ban` are not found; of the records given, a prompt's own is not its neighbour.

    What each asks for it brings with it (see `asking`); all else is as `how` says. Raises `UserError` for a banned key
    or a condition that no record has, and where the base cannot be searched so.
    """
    base.allowed(exclude=ban)

    def neighbours(prompt: Prompt) -> Prompt:
        first = tuple(hit for hit in given if not (hit.source and _is_own(hit, prompt)))[:k]
        found = find(prompt, base, k - len(first), resolution, given=first, ban=ban, how=how)
        return replace(prompt, neighbours=first + found.neighbours, left_out=found.left_out)

    return [neighbours(prompt) for prompt in prompts]


class Found(NamedTuple):
    """What a knowledge base has for a prompt, best first."""

    neighbours: tuple[Neighbour, ...] = ()
    ids: tuple[int, ...] = ()
    """Theirs, in the base."""
    left_out: Mapping[str, int] = {}
    """How many would have been among them, but were left out, by reason."""


def find(
    prompt: Prompt,
    base: KnowledgeBase,
    k: int,
    resolution: int,
    *,
    given: Sequence[Neighbour] = (),
    ban: Sequence[str] = (),
    how: Asking = BY_CAPTION,
    fusion: Fusion = BY_RANK,
) -> Found:
    """The best k that are neither the prompt's own record nor given, nor left out: asks for twice as many while too few
    remain. Raises `UserError` as `with_retrieved` does."""
    query, width = prompt.query or prompt.text, k
    question = Question(query, prompt.names, matched(how, prompt.attributes, query), prompt.key)
    while k:
        answer = asker.ask(base, [question], width, how, exclude=ban, fusion=fusion)
        ids = answer.ids_QC[0][answer.ids_QC[0] >= 0]
        kept, kept_ids, left_out = [], [], Counter()
        hits = neighbours_of(base, ids, answer.scores_QC[0][: len(ids)], resolution)
        for n, hit, below in zip(ids.tolist(), hits, answer.below_QC[0].tolist(), strict=False):
            if len(kept) == k:
                break
            if _is_own(hit, prompt) or _is_among(hit, given):
                continue
            if below and len(kept) + left_out[BELOW] >= k:
                continue
            if reason := _leak(hit, prompt, (*given, *kept), how) or (BELOW if below else ""):
                left_out[reason] += 1
            else:
                kept.append(hit)
                kept_ids.append(n)
        if len(kept) == k or answer.over_Q[0] or width >= len(base):
            return Found(tuple(kept), tuple(kept_ids), left_out)
        width *= 2
    return Found()


def _leak(hit: Neighbour, prompt: Prompt, taken: Sequence[Neighbour], how: Asking) -> str:
    """Why it gives the prompt's own picture away, or shows one again; empty where it does not."""
    for name in how.exclude_same:
        own = value_of(prompt.text, prompt.attributes, name)
        if own and own == value_of(hit.text, hit.attributes, name):
            return f"same {name}"
    if how.near_duplicates:
        if prompt.target is not None and near_pictures(hit.image, prompt.target, how.near_duplicates):
            return "near-duplicate picture"
        if any(near_pictures(hit.image, other.image, how.near_duplicates) for other in taken):
            return "near duplicate of one taken"
    return ""


def _is_own(hit: Neighbour, prompt: Prompt) -> bool:
    same_record = bool(prompt.key) and (hit.key, hit.source) == (prompt.key, prompt.source)
    return same_record or (prompt.target is not None and np.array_equal(hit.image, prompt.target))


def _is_among(hit: Neighbour, given: Sequence[Neighbour]) -> bool:
    return any(np.array_equal(hit.image, other.image) for other in given)


def _from_text(line: str, where: str) -> Prompt:
    return Prompt(line.strip())


def _from_json(line: str, where: str) -> Prompt:
    try:
        fields = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise UserError(f"{where} is not JSON: {error}") from error
    texts = [fields.pop(name) for name in TEXT_FIELDS if name in fields] if isinstance(fields, dict) else []
    if not texts or not isinstance(texts[0], str) or not texts[0].strip():
        raise UserError(f'{where} has no text: a line such as {{"text": "a cat on a mat"}} is expected')
    own = {name: fields.pop(name, "") for name in ("negative", "query")}
    for name, value in own.items():
        if not isinstance(value, str):
            raise UserError(f"{where}: {name} is {value!r}, a text is expected")
    return Prompt(texts[0].strip(), attributes=fields, **{name: value.strip() for name, value in own.items()})
