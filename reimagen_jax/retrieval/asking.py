"""How a knowledge base is asked: one way for training data, for search and for drawing.

Who asks is a record or a prompt, with fields: its caption (a prompt's text) and its attributes.
    (1) the query is the fields named in `query_by`, one after the other: a field named n times weighs n times as much
    (2) records that may answer satisfy `where`, none of `where_not`, and have the asking one's value of each of `match`
    (3) left out are those with its value of one of `exclude_same`, and near duplicates of its picture (duplicates.py)
    (4) left out are those that share too little with what is asked for, whose words are w, each weighing idf(w):
            sum of idf(w) over the words of the record  <  floor * sum of idf(w) over all words
        a word that no record has counts as the rarest. What is asked for is the fields of `query_by` but the caption,
        a query given apart, or, where there is neither, the caption
    (5) of records that score the same, those come first whose hash of (tie_seed, query, id) is smaller
Triples tell how they were asked for, and a model how its triples were: that is how it asks when it draws.
"""

import dataclasses
import difflib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

from reimagen_jax.checked import Checked, Seed, Share
from reimagen_jax.data.sources.where import Where, lookup, spellings
from reimagen_jax.errors import UserError, require

CAPTION = "caption"
Method = Literal["lexical", "dense", "hybrid"]
Match = tuple[tuple[str, frozenset[str]], ...]
BELOW = "too little alike"
"""The reason of (4)."""
FLOOR_OF_NAMES = 0.7
"""The floor of (4) by default where records are asked for by names; README.md has what was measured: nearly all that is
cut is of other entities. Captions tell of scenes, of which true neighbours share little: they have none."""


@dataclass(frozen=True, kw_only=True)
class Asking(Checked):
    """How a knowledge base is asked. Raises `UserError` on what contradicts itself or is out of range."""

    query_by: tuple[str, ...] = (CAPTION,)
    """(1): `caption`, and names of attributes."""
    method: Method = "lexical"
    """By words, by vectors, or by both."""
    where: tuple[str, ...] = ()
    """(2): FIELD=VALUE; several of one field are alternatives."""
    where_not: tuple[str, ...] = ()
    """(2): FIELD=VALUE; each leaves out what has it."""
    match: tuple[str, ...] = ()
    """(2): attributes; the query itself stands for one that the asking one does not have."""
    exclude_same: tuple[str, ...] = ()
    """(3): `caption`, and names of attributes; what the asking one does not have excludes nothing."""
    near_duplicates: Share = 0.0
    """(3): largest distance of near duplicates; 0: only equal pixels are duplicates."""
    floor: Share = 0.0
    """(4), of a search by words without `match`; 0 leaves out nothing."""
    tie_seed: Seed | None = None
    """(5); None: the lower id comes first."""

    def __post_init__(self) -> None:
        super().__post_init__()
        require(bool(self.query_by), f"query_by is empty: name {CAPTION!r} or attributes")
        require(CAPTION not in self.match, f"match is of attributes: {CAPTION!r} is none")
        self.conditions()

    def conditions(self) -> tuple[Where, Where]:
        """`where` and `where_not`. Raises `UserError` on what is not FIELD=VALUE."""
        return Where.parse(self.where), Where.parse(self.where_not, "--where-not")

    @property
    def names(self) -> tuple[str, ...]:
        """The fields of `query_by` but the caption, each once."""
        return tuple(name for name in dict.fromkeys(self.query_by) if name != CAPTION)

    def options(self) -> dict[str, Any]:
        """What differs from asking by the caption alone, as the options of commands are named."""
        return {
            item.name: value
            for item in dataclasses.fields(Asking)
            if (value := getattr(self, item.name)) != item.default
        }

    def told(self) -> str:
        """In words that can be typed."""
        words = []
        for name, value in self.options().items():
            values = value if isinstance(value, tuple) else (value,)
            repeated = name in ("where", "where_not")
            option = f"--{name.replace('_', '-')}"
            words += [f"{option} {each}" for each in values] if repeated else [" ".join([option, *map(str, values)])]
        return " ".join(words) or f"--query-by {CAPTION}"


BY_CAPTION = Asking()
"""By the caption alone, best first, nothing left out but the record itself and its picture."""


def floor_of(query_by: Sequence[str]) -> float:
    """The floor of (4) where none is given."""
    return FLOOR_OF_NAMES if set(query_by) - {CAPTION} else 0.0


class Question(NamedTuple):
    """What one record or prompt asks."""

    query: str
    names: str = ""
    """What is asked for in (4); empty: nothing is left out by the floor."""
    match: Match = ()
    """(2): attributes, and the values that will do."""
    who: str = ""
    """A record's key, which is a part of the query in (5): records that ask the same find different ones."""


def question_of(how: Asking, text: str, attributes: Mapping[str, Any], key: str = "", query: str = "") -> Question:
    """What a record or a prompt asks, whose caption is `text`: by (1), unless its `query` is given.

    Raises `UserError`, naming the record and its fields, where it has no field that `how` asks by.
    """
    if query:
        return Question(query, query, matched(how, attributes, query), key)
    told = told_by(how, text, attributes)
    if missing := [name for name in how.query_by if name not in told]:
        who, known = f"record {key}" if key else repr(text), among((CAPTION, *attributes), missing[0])
        raise UserError(f"{who} has no attribute {missing[0]!r} to be asked by: it has {known}")
    query = " ".join(told[name] for name in how.query_by)
    return Question(query, " ".join(told[name] for name in how.names) or text, matched(how, attributes, query), key)


def told_by(how: Asking, text: str, attributes: Mapping[str, Any]) -> dict[str, str]:
    """Those fields of `query_by` that there are, as texts."""
    fields = {CAPTION: text, **attributes}
    found = {name: lookup(fields, name, _NOTHING) for name in how.query_by}
    return {name: "" if value is None else str(value) for name, value in found.items() if value is not _NOTHING}


def among(known: Iterable[str], name: str) -> str:
    """The names that there are, for people, and what was perhaps meant by one that is not among them."""
    names = list(known)
    near = difflib.get_close_matches(name, names, n=1)
    return ", ".join(names) + (f" (did you mean {near[0]}?)" if near else "")


def matched(how: Asking, attributes: Mapping[str, Any], query: str) -> Match:
    """The attributes that have to be equal, and their values: the query where there is no such attribute."""
    return tuple((name, frozenset(spellings(attributes, name) or {query.strip()})) for name in how.match)


_NOTHING = object()
