"""Options that commands share: what to draw, with which neighbours, and how a knowledge base is asked for them."""

import dataclasses
import hashlib
import json
from collections import Counter
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal, TypeVar

import tyro

from reimagen_jax.checked import Count, Natural, Options, Seed, Share
from reimagen_jax.commands.options import as_typed
from reimagen_jax.config import Experiment
from reimagen_jax.data.sources.where import Where
from reimagen_jax.errors import UserError, require
from reimagen_jax.retrieval.asking import BELOW, BY_CAPTION, CAPTION, Asking, Method
from reimagen_jax.terminal import say

if TYPE_CHECKING:
    from reimagen_jax.inference.prompts import Prompt, PromptSource


Way = TypeVar("Way", bound=Asking)


@dataclass(frozen=True)
class AskingOptions(Options):
    """How the knowledge base is asked. What is not given is, when images are drawn, as in the model's training."""

    common: ClassVar[tuple[str, ...]] = ("query_by", "method", "exclude_same")

    query_by: tuple[str, ...] = ()
    """What of a record (or of a prompt with fields, see --prompts) its neighbours are asked by: `caption`, and names of
    attributes. A field named n times counts n times: with `entity entity caption` the entity's name weighs three times
    as much as the caption's other words, which then decide between pictures of one entity."""
    method: Method | None = None
    """Search by words, by vectors, or by both (where the base has vectors; default: lexical)."""
    where: Annotated[tuple[str, ...], tyro.conf.UseAppendAction] = ()
    """Only records of the knowledge base with FIELD=VALUE, such as licence=cc0, are neighbours. Repeat it for further
    values, or for further fields."""
    where_not: Annotated[tuple[str, ...], tyro.conf.UseAppendAction] = ()
    """No records of the knowledge base with FIELD=VALUE. Repeat it for more."""
    match: tuple[str, ...] = ()
    """Only records that have the very value of these attributes that the asking record or prompt has; for one that has
    none, its query is that value: `man` is not `kiss between man and man`."""
    exclude_same: tuple[str, ...] = ()
    """Leave out records that have the asking one's value of one of these fields: `caption`, and attributes, such as
    one that names the file that pictures were cut from."""
    near_duplicates: Share | None = None
    """Pictures at most so far apart count as the same, and none is its own neighbour: the difference of their 8 x 8
    thumbnails in units of their contrast. 0: only those with equal pixels. (default of triples: 0.08)"""
    floor: Share | None = None
    """Leave out records that share less with what is asked for: the weight of the words in common, as a share of all
    its words' (of the attributes' in --query-by, or of the caption's). 0 leaves out none. (default of triples: 0.7,
    or 0 where the caption alone is asked by)"""
    tie_seed: Seed | None = None
    """Of the order of records that score the same, drawn anew for every record that asks. (default of triples: 0;
    elsewhere, in their own order)"""

    def settings(self, default: Way) -> Way:
        """`default`, with what was given. Raises `UserError` on what contradicts itself."""
        with as_typed({item.name: f"--{item.name.replace('_', '-')}" for item in dataclasses.fields(self)}):
            return dataclasses.replace(default, **self.given)

    @property
    def given(self) -> dict[str, Any]:
        """The options that were given."""
        own = {item.name: getattr(self, item.name) for item in dataclasses.fields(self)}
        return {name: value for name, value in own.items() if value not in ((), None)}

    def require_fields(self, who: str, remedy: str) -> None:
        """Raises `UserError` where `who` asks, that has no fields, and one is to be unlike its neighbours'."""
        fields = [name for name in self.exclude_same if name != CAPTION]
        require(not fields, f"--exclude-same {' '.join(fields)}: {who} has no fields; {remedy}")


@dataclass(frozen=True)
class PromptOptions(Options):
    """What to draw: prompts from one place; neighbours given by hand, from a knowledge base, or both."""

    common: ClassVar[tuple[str, ...]] = ("prompt", "prompts", "records", "knowledge_base", "query", "reference", "k")

    prompt: Annotated[tuple[tuple[str, ...], ...], tyro.conf.UseAppendAction, tyro.conf.arg(metavar="TEXT ...")] = ()
    """One or more prompts."""
    prompts: Annotated[Path | None, tyro.conf.arg(metavar="FILE")] = None
    """File of prompts, one a line; or .jsonl with {"text": ..., "negative": ..., "query": ...} on each line: its other
    fields are what a record's attributes are, to --query-by, --match and --exclude-same."""
    negative: Annotated[str | None, tyro.conf.arg(metavar="TEXT")] = None
    """What guidance leads away from, for every prompt that has none of its own, in place of no text at all."""
    records: Annotated[Path | None, tyro.conf.arg(metavar="DIR")] = None
    """Records (`reimagen prepare`) whose captions are the prompts. No record finds itself, or its own picture."""
    records_where: Annotated[tuple[str, ...], tyro.conf.UseAppendAction] = ()
    """With --records: only those with FIELD=VALUE, such as split=test, are prompts; neighbours are chosen by --where.
    Repeat it for further values, or for further fields."""
    records_where_not: Annotated[tuple[str, ...], tyro.conf.UseAppendAction] = ()
    """With --records: none with FIELD=VALUE is a prompt. Repeat it for more."""
    limit: Count = 8
    """With --records: at most this many, spread evenly over all (of --records-where)."""
    knowledge_base: Annotated[Path | None, tyro.conf.arg(metavar="DIR")] = None
    """Where neighbours are looked for: a folder written by `reimagen index`. Any will do, whatever the model was
    trained with."""
    query: Annotated[tuple[tuple[str, ...], ...], tyro.conf.UseAppendAction, tyro.conf.arg(metavar="TEXT ...")] = ()
    """What the knowledge base is asked for, in place of the prompt: one text for all prompts, or one for each."""
    asking: Annotated[AskingOptions, tyro.conf.arg(name="")] = field(default_factory=AskingOptions)
    as_trained: Literal["yes", "no"] | None = None
    """Whether the model's training says how the knowledge base is asked, where options do not (default: yes)."""
    pin: Annotated[tuple[tuple[str, ...], ...], tyro.conf.UseAppendAction, tyro.conf.arg(metavar="KEY ...")] = ()
    """Records of the knowledge base that are neighbours of every prompt (but their own), by their keys."""
    ban: Annotated[tuple[tuple[str, ...], ...], tyro.conf.UseAppendAction, tyro.conf.arg(metavar="KEY ...")] = ()
    """Records of the knowledge base that are nobody's neighbours, by their keys."""
    reference: Annotated[
        tuple[tuple[Path, str], ...], tyro.conf.UseAppendAction, tyro.conf.arg(metavar="IMAGE CAPTION")
    ] = ()
    """A neighbour given by hand, for every prompt: an image file and what it shows. Repeat it for more."""
    k: Natural | None = None
    """Neighbours of each prompt: the first k of the references, the pinned and, best first, those found (default: all
    references and pinned, and with a knowledge base as many as the model's experiment says, or was trained with)."""

    def check(self, *others: str) -> None:
        """Raises `UserError` on options that contradict each other; opens nothing. `others` say what to draw, too."""
        given = [*(name for name in ("prompt", "prompts", "records") if getattr(self, name)), *others]
        if len(given) != 1:
            what = "nothing to draw" if not given else f"--{' and --'.join(given)} are both given"
            raise UserError(f"{what}: give one of --prompt TEXT, --prompts FILE, --records DIR")
        require(all(map(str.strip, self._texts)), "--prompt is empty: say what to draw")
        require(
            not self.k or bool(self.knowledge_base or self.reference),
            f"--k {self.k} asks for neighbours, but there are none: give --knowledge-base DIR, or --reference IMAGE "
            "CAPTION",
        )
        more = {"query": self.query, "pin": self.pin, "ban": self.ban}
        for name in [*self.asking.given, *(name for name, value in more.items() if value)]:
            require(bool(self.knowledge_base), f"--{name.replace('_', '-')} asks a --knowledge-base: none is given")
        require_records(self.records, self.records_where, self.records_where_not)
        self._check_query(*others)
        require_apart(_flat(self.pin), _flat(self.ban))

    def _check_query(self, *others: str) -> None:
        query = _flat(self.query)
        require(all(map(str.strip, query)), "--query is empty: say what to ask for")
        require(not query or not self.asking.query_by, "--query and --query-by are both given: choose one")
        require(not query or not (self.records or others), "--query is for --prompt and --prompts: records have fields")
        require(
            not self.prompt or len(query) in (0, 1, len(self._texts)),
            f"--query has {len(query)} texts for {len(self._texts)} prompts: give one for all, or one for each",
        )
        if self.prompt:
            remedy = "give prompts that have, --prompts FILE.jsonl or --records DIR"
            self.asking.require_fields("a --prompt", remedy)

    @property
    def searches(self) -> bool:
        """Whether neighbours are looked for, so that it is to be said where none are found."""
        return self.knowledge_base is not None and self.k != 0

    def gather(self, config: Experiment) -> "list[Prompt]":
        """The prompts with their neighbours, decoded for the model. Raises `UserError` on bad input."""
        return self.found(self.asked(config), config)

    def asked(self, config: Experiment) -> "list[Prompt]":
        """The prompts, without neighbours yet."""
        source = self.source(config)
        return source.gather(range(source.number))

    def found(self, prompts: "Sequence[Prompt]", config: Experiment) -> "list[Prompt]":
        """The prompts with their neighbours."""
        return self._finder(config)(prompts)

    def source(self, config: Experiment) -> "PromptSource":
        """Prompts and neighbours, to be gathered in parts. Raises `UserError` on bad input."""
        from reimagen_jax.data.records import Records
        from reimagen_jax.inference.prompts import Prompt, PromptSource, from_file, from_records, satisfying

        k, side = self.resolved(config).k, config.system.resolution
        self.say_how(config)
        if not self.records:
            prompts = from_file(self.prompts) if self.prompts else [Prompt(text.strip()) for text in self._texts]
            return PromptSource.of(self.completed(prompts, config), self._finder(config), k)
        records = Records.open(self.records)
        among = satisfying(records, *filters_of_records(self.records_where, self.records_where_not))

        def gather(numbers: Sequence[int]) -> "list[Prompt]":
            return self.completed(from_records(records, self.limit, side, numbers, among), config)

        how = self.how_asked(config)
        told = [records.fingerprint, self.limit, self.negative, how.told() if how.options() else None]
        told += [sorted(self.records_where)] if self.records_where or self.records_where_not else []
        told += [sorted(self.records_where_not)] if self.records_where_not else []
        digest = hashlib.sha256(json.dumps(told).encode()).hexdigest()[:16]
        return PromptSource(min(self.limit, len(among)), digest, gather, self._finder(config), k)

    def completed(self, prompts: "list[Prompt]", config: Experiment) -> "list[Prompt]":
        """Prompts with what the base is asked for, and what they are led away from, where it is not of their own."""
        from reimagen_jax.inference.prompts import asking

        if self.negative:
            prompts = [dataclasses.replace(each, negative=each.negative or self.negative.strip()) for each in prompts]
        query = [text.strip() for text in _flat(self.query)]
        require(
            len(query) in (0, 1, len(prompts)) or not self.prompts,
            f"--query has {len(query)} texts for the {len(prompts)} prompts of {self.prompts}: give one for all, or "
            "one for each",
        )
        if query:
            query = query if len(query) > 1 else query * len(prompts)
            prompts = [dataclasses.replace(each, query=text) for each, text in zip(prompts, query, strict=True)]
        if not self.knowledge_base:
            return prompts
        how, strict = self.how_asked(config), bool(self.asking.query_by)
        return asking(prompts, how, strict=strict, floor_of_texts=self.asking.floor is not None)

    def how_asked(self, config: Experiment) -> Asking:
        """How the knowledge base is asked."""
        return self.asking.settings(self._trained(config) or BY_CAPTION)

    def _trained(self, config: Experiment) -> Asking | None:
        """How training asked, where that is to be followed."""
        return config.data.asked if self.knowledge_base and self.as_trained != "no" else None

    def say_how(self, config: Experiment) -> None:
        """Says once when training tells how the base is asked."""
        if self._trained(config) is not None:
            told = self.how_asked(config).told()
            say(f"the knowledge base is asked as in training, but for what options say: {told}", error=True)

    def _finder(self, config: Experiment) -> "Callable[[Sequence[Prompt]], list[Prompt]]":
        """What gives prompts their neighbours."""
        from reimagen_jax.inference.prompts import with_retrieved
        from reimagen_jax.inference.requests import from_file, pinned
        from reimagen_jax.retrieval.knowledge_base import KnowledgeBase

        k, side = self.resolved(config).k, config.system.resolution
        given = tuple(from_file(path, text, side) for path, text in self.reference)
        if not self.knowledge_base:
            return lambda prompts: [dataclasses.replace(prompt, neighbours=given[:k]) for prompt in prompts]
        base, how = KnowledgeBase.open(self.knowledge_base), self.how_asked(config)
        given += pinned(base, _flat(self.pin), side)

        def find(prompts: "Sequence[Prompt]") -> "list[Prompt]":
            return with_retrieved(prompts, base, k, side, given=given, ban=_flat(self.ban), how=how)

        return find

    def resolved(self, config: Experiment) -> "PromptOptions":
        """The same with nothing left to the experiment."""
        given = len(self.reference) + len(set(_flat(self.pin)))
        default = max(given, room_of(config)) if self.knowledge_base else given
        return dataclasses.replace(self, k=default if self.k is None else self.k)

    def sources(self, config: Experiment) -> dict[str, str]:
        """Where prompts and neighbours come from, with checksums, and how they are asked for, for reports."""
        from reimagen_jax.data.records import Records
        from reimagen_jax.retrieval.knowledge_base import KnowledgeBase

        facts = {"prompts": "given on the command line"}
        if self.prompts:
            facts["prompts"] = str(self.prompts.resolve())
        if self.records:
            those = f" with {', '.join(self.records_where)}" if self.records_where else ""
            those += f" without {', '.join(self.records_where_not)}" if self.records_where_not else ""
            facts["prompts"] = f"captions of {self.records.resolve()}{those}"
            facts["records' checksum"] = Records.open(self.records).fingerprint
        if self.knowledge_base:
            base = KnowledgeBase.open(self.knowledge_base)
            facts["knowledge base"] = str(self.knowledge_base.resolve())
            facts["its checksum"] = base.fingerprint
            facts["its size"] = f"{len(base):,} records"
            how = self.how_asked(config)
            facts["asked for"] = f"the prompts' {' '.join(how.query_by)}" if how.names else "the prompts"
            if self.query:
                facts["asked for"] = ", ".join(_flat(self.query))
            if how.method != "lexical":
                facts["searched by"] = {"dense": "vectors", "hybrid": "words and vectors"}[how.method]
            plain = dataclasses.replace(how, query_by=BY_CAPTION.query_by, method=BY_CAPTION.method)
            facts |= {"asked so": plain.told()} if plain != BY_CAPTION else {}
        if self.reference:
            facts["neighbours"] = f"given by hand: {', '.join(path.name for path, _ in self.reference)}"
            content = b"".join(
                hashlib.sha256(path.read_bytes()).digest() + text.encode() for path, text in self.reference
            )
            facts["their SHA-256"] = hashlib.sha256(content).hexdigest()
        for name, keys in (("pinned", _flat(self.pin)), ("banned", _flat(self.ban))):
            if keys:
                facts[name] = ", ".join(keys)
        return facts

    @property
    def _texts(self) -> list[str]:
        return _flat(self.prompt)


def room_of(config: Experiment) -> int:
    """Neighbours that a model is shown where nothing else is said."""
    set_to = getattr(config.system.sampler, "k", None)
    return config.data.num_neighbours if set_to is None else set_to


def _flat(groups: Sequence[Sequence[str]]) -> list[str]:
    """The values of an option that may be repeated, each time with several."""
    return [value for group in groups for value in group]


def filters_of_records(where: Sequence[str], where_not: Sequence[str]) -> tuple[Where, Where]:
    """What --records have to satisfy, and what none of them may. Raises `UserError` on what is not FIELD=VALUE."""
    return Where.parse(where, "--records-where"), Where.parse(where_not, "--records-where-not")


def require_records(records: Path | None, where: Sequence[str], where_not: Sequence[str]) -> None:
    """Raises `UserError` for a filter of --records that cannot be read, or without them."""
    for each in filters_of_records(where, where_not):
        given = records is not None or not each.allowed
        require(given, f"{each.option} chooses among --records: none are given")


def require_apart(pin: Sequence[str], ban: Sequence[str]) -> None:
    """Raises `UserError` for a key that is both pinned and banned."""
    both = set(pin) & set(ban)
    require(not both, f"{min(both, default='')} is given to --pin and to --ban: choose one")


def warn_without_neighbours(prompts: "Sequence[Prompt]") -> None:
    """Says which prompts have found nothing although a knowledge base was asked."""
    for prompt in prompts:
        if not prompt.neighbours:
            left = f" ({said_left_out(prompt.left_out)})" if prompt.left_out else ""
            say(f"no neighbours found for {prompt.text!r}{left}: it is drawn without", error=True)


def said_left_out(counts: Mapping[str, int]) -> str:
    """How many records were left out, by reason, in one line."""
    told = ", ".join(f"{count} {reason}" for reason, count in counts.items() if count)
    hint = f" (--floor 0 keeps what is {BELOW})" if counts.get(BELOW) else ""
    return f"left out: {told}{hint}"


def say_left_out(of_prompts: Collection[Mapping[str, int]]) -> None:
    """Says, in one line, how many records would have been neighbours, but were left out: of each prompt by reason."""
    counts: Counter[str] = Counter()
    for left_out in of_prompts:
        counts.update(left_out)
    if counts:
        say(f"of the neighbours of {len(of_prompts)} prompts {said_left_out(counts)}", error=True)
