"""Prompts and their neighbours: texts or the captions of records, and what retrieval finds for them.

A record used as a prompt must not find itself: a hit is left out when it is the record (same source and key) or shows
the record's own picture (equal pixels at the model's resolution), and further hits take its place. Neighbours chosen
by hand come before those found, which then show no picture again that was chosen.
"""

import hashlib
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from reimagen_jax.data.images import decode
from reimagen_jax.data.records import ImageText, Records
from reimagen_jax.errors import UserError
from reimagen_jax.inference.requests import retrieve
from reimagen_jax.retrieval.knowledge_base import KnowledgeBase, Method
from reimagen_jax.systems.base import Neighbour, Request

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
    other fields are attributes.

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


def from_records(records: Records, limit: int, resolution: int, numbers: Sequence[int] | None = None) -> list[Prompt]:
    """The captions of at most `limit` records, spread evenly over all, with their images as targets; or, of these, the
    ones with these numbers."""
    ids = np.linspace(0, len(records) - 1, min(limit, len(records))).round().astype(int)
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
    for prompt in prompts:
        if not isinstance(value := prompt.attributes.get(attribute), str) or not value.strip():
            known = ", ".join(name for name, value in prompt.attributes.items() if isinstance(value, str)) or "none"
            raise UserError(f"--query-by {attribute}: {prompt.text!r} has no such text; the texts it has: {known}")
    return [replace(prompt, query=prompt.attributes[attribute]) for prompt in prompts]


def with_retrieved(
    prompts: Sequence[Prompt],
    base: KnowledgeBase,
    k: int,
    resolution: int,
    *,
    given: Sequence[Neighbour] = (),
    ban: Sequence[str] = (),
    method: Method = "lexical",
) -> list[Prompt]:
    """The prompts with k neighbours each: first those `given`, then the best of the knowledge base, fewer where fewer
    are found. Records with a key of `ban` are not found; of the records given, a prompt's own is not its neighbour.

    Raises `UserError` for a banned key that no record has, and where the base cannot search by `method`.
    """
    base.ids_of(ban)

    def neighbours(prompt: Prompt) -> tuple[Neighbour, ...]:
        first = tuple(hit for hit in given if not (hit.source and _is_own(hit, prompt)))[:k]
        return first + _found(prompt, base, k - len(first), resolution, first, ban, method)

    return [replace(prompt, neighbours=neighbours(prompt)) for prompt in prompts]


def _found(
    prompt: Prompt,
    base: KnowledgeBase,
    k: int,
    resolution: int,
    given: Sequence[Neighbour],
    ban: Sequence[str],
    method: Method,
) -> tuple[Neighbour, ...]:
    """The best k that are neither the prompt's own record nor given: asks for twice as many while too few remain."""
    width = k
    while True:
        found = retrieve(base, [prompt.query or prompt.text], width, resolution, method=method, ban=ban)[0]
        others = tuple(hit for hit in found if not (_is_own(hit, prompt) or _is_among(hit, given)))
        if len(others) >= k or len(found) < width:
            return others[:k]
        width *= 2


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
    negative = fields.pop("negative", "")
    if not isinstance(negative, str):
        raise UserError(f"{where}: negative is {negative!r}, a text is expected")
    return Prompt(texts[0].strip(), attributes=fields, negative=negative.strip())
