"""Options that commands share: what to draw, and how; and the command line that a command stands for."""

import dataclasses
import hashlib
import json
import os
import re
import shlex
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path, PurePath
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal, TypeVar, get_args

import tyro
from tyro.constructors import PrimitiveConstructorSpec

from reimagen_jax.checked import Count, Natural, NonNegative, Options, Seed, Share, checked
from reimagen_jax.config import Experiment, SystemConfig
from reimagen_jax.data.sources.where import Where
from reimagen_jax.diffusion.settings import SamplerConfig, SamplerSteps, Solver, Thresholding, WeightSchedule
from reimagen_jax.diffusion.spacing import Spacing
from reimagen_jax.errors import UserError, require
from reimagen_jax.paths import local
from reimagen_jax.retrieval.asking import BELOW, BY_CAPTION, CAPTION, Asking, Method
from reimagen_jax.stores import place
from reimagen_jax.systems.reimagen.settings import AugNoise, Guidance, HandedOn, ReImagenConfig
from reimagen_jax.systems.unclip.settings import Embedding
from reimagen_jax.terminal import say

if TYPE_CHECKING:
    import jax

    from reimagen_jax.inference.model import Model
    from reimagen_jax.inference.pipeline import Pipeline
    from reimagen_jax.inference.prompts import Prompt, PromptSource

PLACE = PrimitiveConstructorSpec(
    nargs=1,
    metavar="PATH",
    instance_from_str=lambda words: place(words[0]),
    is_instance=lambda value: isinstance(value, PurePath),
    str_from_instance=lambda value: [str(value)],
)
"""Of an option whose path may be in a bucket as well; all others are of this machine (see `usage`)."""


def open_drawing(
    path: Path,
    text_encoder: Path | None = None,
    *,
    on_host: bool = False,
    kinds: tuple[type[SystemConfig], ...] = (ReImagenConfig,),
) -> "Model":
    """Opens a model to draw with by these options. Raises `UserError` also for one of a system that has others."""
    from reimagen_jax.inference.model import CHOSEN, Model

    model = Model.open(path, text_encoder=text_encoder, on_host=on_host)
    system = model.config.system
    others = " or a system of unCLIP" if len(kinds) > 1 else ""
    require(isinstance(system, kinds), f"{path} is a {system.kind}: images are drawn here by a Re-Imagen{others}")
    if model.chosen is not None:
        say(f"{path} draws by the guidance of its {CHOSEN}, where options say nothing else: {model.chosen}", error=True)
    return model


@contextmanager
def as_typed(options: Mapping[str, str]) -> Iterator[None]:
    """What is wrong with settings is said of the options that they were given by: {"sampler.num_steps": "--steps"}."""
    try:
        yield
    except UserError as error:
        said = str(error)
        for name, option in options.items():
            said = re.sub(rf"(?<![\w-]){re.escape(name)}(?: is)?\b", lambda _, option=option: option, said)
        raise UserError(said) from error


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
        require_records(self.records, self.records_where)
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
        among = satisfying(records, Where.parse(self.records_where, "--records-where"))

        def gather(numbers: Sequence[int]) -> "list[Prompt]":
            return self.completed(from_records(records, self.limit, side, numbers, among), config)

        how = self.how_asked(config)
        told = [records.fingerprint, self.limit, self.negative, how.told() if how.options() else None]
        told += [sorted(self.records_where)] if self.records_where else []
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
        set_to = getattr(config.system.sampler, "k", None)
        most = config.data.num_neighbours if set_to is None else set_to
        default = max(given, most) if self.knowledge_base else given
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


def _flat(groups: Sequence[Sequence[str]]) -> list[str]:
    """The values of an option that may be repeated, each time with several."""
    return [value for group in groups for value in group]


@dataclass(frozen=True)
class SamplingOptions(Options):
    """How to draw it; what is not given is as in the model's experiment."""

    common: ClassVar[tuple[str, ...]] = ("num_images", "steps", "seed")

    num_images: Count = 1
    """Images of each prompt (and each eta), from different noise."""
    steps: SamplerSteps | None = None
    """Steps of the sampler (default also: as many as --times lists, or as a --spacing such as fast27 has)."""
    solver: Solver | None = None
    """Of the sampler."""
    spacing: Spacing | None = None
    """Which times it visits: even; by noise, karras and logsnr; the others are of models of a chain, such as DeepFloyd
    IF's."""
    times: Annotated[tuple[Share, ...] | None, tyro.conf.arg(metavar="T ...")] = None
    """The times themselves, falling from 1 (noise); the image follows by itself. Step n of a chain of T is n / T."""
    ddim_noise: Share | None = None
    """Of solver ddim: noise of each step, from 0 (none) to 1 (as much as ddpm)."""
    ddpm_gamma: Share | None = None
    """Of solver ddpm: its variance, from the small (0) to the large bound (1)."""
    text_weight: NonNegative | None = None
    """Guidance weight of steps that strengthen the text; 1 is none, below 0 would draw away from it."""
    neighbour_weight: NonNegative | None = None
    """Guidance weight of steps that strengthen the neighbours; 1 is none."""
    guidance: Guidance | None = None
    """How text and neighbours are strengthened: each at some of the steps, drawn at random (interleaved) or evenly
    spread (stratified); both at once by --text-weight (joint); each by its own weight (compositional: three
    evaluations a step, not two); or as interleaved steps do on average, at every step (mean: three, too; of a distilled
    model, which has the forms with an eta, one)."""
    guidance_schedule: WeightSchedule | None = None
    """Whether both weights are constant, or rise from none to twice their strength."""
    guidance_interval: tuple[Share, Share] | None = None
    """Times, 0 (the image) to 1 (noise), between which anything is strengthened."""
    guidance_rescale: Share | None = None
    """From 0 to 1: how far the spread of a guided prediction is brought back to that of the plain one."""
    thresholding: Thresholding | None = None
    """How predicted images are kept within the range of images."""
    embedding: Embedding | None = None
    """Of an unCLIP decoder: whose embedding it draws, that of the stage before, the mean of the neighbours', or the
    text's own (default: of the stage before, if there is one, else the neighbours')."""
    seed: Seed = 0
    """Of the noise. The noise of image number i depends on the seed and i alone."""
    batch_size: Count = 16
    """Images drawn at once; changes speed and memory, not the images."""
    text_encoder: Annotated[Path | None, tyro.conf.arg(metavar="DIR")] = None
    """Folder of the published text encoder (T5, CLIP) that the models were trained with, for models that have such a
    one (default: where it was then)."""

    def settings(self, config: SamplerConfig) -> SamplerConfig:
        """The experiment's settings with what was given."""
        with as_typed(self.typed()):
            return config.changed(**self._given())

    def typed(self) -> dict[str, str]:
        """Names of the sampler's settings that were given, and the options that they were given by."""
        names = {name: option for option, name in self._settings().items()}
        return {f"sampler.{name}": f"--{names[name].replace('_', '-')}" for name in self._given()}

    def _given(self) -> dict[str, Any]:
        """The settings of the sampler that were given."""
        given = {name: getattr(self, option) for option, name in self._settings().items()}
        return {name: value for name, value in given.items() if value is not None}

    def resolved(self, settings: SamplerConfig) -> "SamplingOptions":
        """The same with nothing left to the experiment."""
        return dataclasses.replace(
            self, **{option: getattr(settings, name, None) for option, name in self._settings().items()}
        )

    def pipeline(self, model: "Model", prompts: "Sequence[Prompt]") -> "Pipeline":
        """The model, to draw with these options, with room for the neighbours that the prompts have."""
        from reimagen_jax.api import pipeline_of

        with as_typed(self.typed()):
            return pipeline_of(model, prompts, self.seed, self.batch_size, **self._given())

    def _settings(self) -> dict[str, str]:
        """Options that are settings of the sampler, and these."""
        return {option: name for option, name in STAGE_SETTINGS.items() if hasattr(self, option)}


@dataclass(frozen=True)
class StageOption:
    """One more stage of a cascade: a model and what is set for it, in one word, MODEL[,SETTING=VALUE,...]."""

    model: Path
    settings: tuple[tuple[str, str], ...] = ()

    @classmethod
    def parse(cls, word: str) -> "StageOption":
        """Reads the word. A folder's name may have commas in it. Raises `UserError` on settings that are not known."""
        parts, given = word.split(","), []
        while len(parts) > 1 and not os.path.exists(",".join(parts)):  # a word too long for a name is none
            name, equals, value = parts.pop().partition("=")
            known = [option.replace("_", "-") for option in (*STAGE_SETTINGS, "batch_size")]
            require(
                bool(equals) and name in known,
                f"--cascade {word}: {name!r} is no setting of a stage, such as steps=30; there are {', '.join(known)}",
            )
            name = name.replace("-", "_")
            require(name not in dict(given), f"--cascade {word}: {name.replace('_', '-')} is set twice")
            given.append((name, value))
        return cls(local(",".join(parts)), tuple(reversed(given)))

    def __str__(self) -> str:
        return ",".join([str(self.model), *(f"{name.replace('_', '-')}={value}" for name, value in self.settings)])

    def applied(self, settings: SamplerConfig) -> SamplerConfig:
        """The model's settings with what was given. Raises `UserError` on values that make no sense."""
        given = {name: value for name, value in self.settings if name in STAGE_SETTINGS}
        for name in given:
            require(
                hasattr(settings, STAGE_SETTINGS[name]),
                f"{self._place(name)}: this model's sampler has no such setting",
            )
        read = {
            STAGE_SETTINGS[name]: settings.checked(STAGE_SETTINGS[name], self._read(name, value), self._place(name))
            for name, value in given.items()
        }
        with as_typed(self.typed()):
            return settings.changed(**read)

    def typed(self) -> dict[str, str]:
        """As `SamplingOptions.typed`."""
        return {
            f"sampler.{STAGE_SETTINGS[name]}": self._place(name) for name, _ in self.settings if name in STAGE_SETTINGS
        }

    def batch_size(self, default: int) -> int:
        """Images drawn at once."""
        size = dict(self.settings).get("batch_size")
        return default if size is None else checked(self._read("batch_size", size), Count, self._place("batch_size"))

    def resolved(self, settings: SamplerConfig, batch_size: int) -> "StageOption":
        """The same with nothing left to the experiment."""
        values = {option: getattr(settings, name, None) for option, name in STAGE_SETTINGS.items()}
        values |= {"batch_size": batch_size}
        return StageOption(self.model, tuple((name, _word(v)) for name, v in values.items() if v not in (None, ())))

    def _place(self, name: str) -> str:
        return f"--cascade {self}: {name.replace('_', '-')}"

    def _read(self, name: str, value: str) -> Any:
        if name in STAGE_CHOICES:
            choices = STAGE_CHOICES[name]
            require(value in choices, f"{self._place(name)} is one of {', '.join(choices)}, not {value!r}")
            return value
        if name == "guidance_interval":
            low, colon, high = value.partition(":")
            require(bool(colon), f"{self._place(name)} {value!r} is no interval, such as 0.2:0.8")
            return self._number(name, low), self._number(name, high)
        if name == "times":
            return tuple(self._number(name, time) for time in value.split(":"))
        return self._number(name, value)

    def _number(self, name: str, value: str) -> float:
        try:
            return (int if name in ("steps", "k", "batch_size") else float)(value)
        except ValueError:
            raise UserError(f"{self._place(name)} {value!r} is not a number") from None


def _word(value: Any) -> str:
    """A value of a stage's setting, as it is typed."""
    return ":".join(map(str, value)) if isinstance(value, tuple) else str(value)


STAGE_SETTINGS = {
    "steps": "num_steps",
    "solver": "solver",
    "eta": "eta",
    "text_weight": "text_weight",
    "neighbour_weight": "neighbour_weight",
    "guidance": "guidance",
    "guidance_schedule": "guidance_schedule",
    "guidance_interval": "guidance_interval",
    "guidance_rescale": "guidance_rescale",
    "spacing": "spacing",
    "times": "times",
    "ddim_noise": "ddim_noise",
    "ddpm_gamma": "ddpm_gamma",
    "thresholding": "thresholding",
    "aug_level": "aug_level",
    "aug_noise": "aug_noise",
    "handed_on": "handed_on",
    "k": "k",
    "embedding": "embedding",
}
"""Options of a stage's sampler -> the settings that they set."""
LOW_RES = ("aug_level", "aug_noise")
"""Those of a super-resolution stage alone."""
STAGE_CHOICES = {
    "solver": get_args(Solver),
    "spacing": get_args(Spacing),
    "guidance": get_args(Guidance),
    "guidance_schedule": get_args(WeightSchedule),
    "thresholding": get_args(Thresholding),
    "aug_noise": get_args(AugNoise),
    "handed_on": get_args(HandedOn),
    "embedding": get_args(Embedding),
}
_STAGE_WORD = tyro.constructors.PrimitiveConstructorSpec(
    nargs=1,
    metavar="MODEL[,SETTING=VALUE]",
    instance_from_str=lambda words: StageOption.parse(words[0]),
    is_instance=lambda value: isinstance(value, StageOption),
    str_from_instance=lambda stage: [str(stage)],
)


@dataclass(frozen=True)
class CascadeOptions(Options):
    """Cascades: further models that enlarge what --model draws, or draw from its embedding."""

    common: ClassVar[tuple[str, ...]] = ()

    cascade: tuple[Annotated[StageOption, _STAGE_WORD], ...] = ()
    """Super-resolution models, each enlarging the images of the one before it; the first those of --model (behind a
    prior of unCLIP, its decoder, then upsamplers). What is not as in a model's experiment stands behind it:
    runs/sr256,steps=30,aug-level=0.2 (also solver, spacing, times=1:0.8:0.4, ddim-noise, ddpm-gamma, eta, text-weight,
    neighbour-weight, guidance, guidance-schedule, guidance-interval=0.2:0.8, guidance-rescale, thresholding, aug-noise,
    handed-on, embedding, batch-size, and k: neighbours, of those found, that it sees)."""
    aug_level: Share | None = None
    """Where --model is a super-resolution model: noise that it puts on its input, 0 to 1 (0.1 to 0.3 work well). More
    hides what the stage before got wrong, and lets more be drawn anew."""
    aug_noise: AugNoise | None = None
    """Where --model is a super-resolution model: whether that noise is drawn once an image, or (every_call) anew each
    time that the network is asked, as DeepFloyd IF does."""
    handed_on: HandedOn | None = None
    """What the models of --cascade enlarge: images as they would be written (bytes), or never rounded (floats)."""

    def settings(self, configs: Sequence[Experiment], first: SamplerConfig, found: int) -> list[SamplerConfig]:
        """Of all stages: `first` of --model, and each experiment's own with what was given; `found` neighbours at most.

        A stage that was trained without neighbours sees none. Raises `UserError` on values out of range.
        """
        own = {name: value for name in LOW_RES if (value := getattr(self, name)) is not None}
        for name, value in own.items():
            require(
                configs[0].system.super_resolution is not None,
                f"--{name.replace('_', '-')} {value}: --model is a base model; write it behind a model of --cascade",
            )
        handed_on = {} if self.handed_on is None else {"handed_on": self.handed_on}
        require(
            not handed_on or bool(self.cascade),
            f"--handed-on {self.handed_on} is about the models of --cascade: none is given",
        )
        stages = [_handing_on(first.with_room(found).changed(**own), handed_on)]
        for option, config in zip(self.cascade, configs[1:], strict=True):
            last = option is self.cascade[-1]
            settings = option.applied(_handing_on(config.system.sampler, {} if last else handed_on))
            most, own = found if config.data.num_neighbours else 0, getattr(settings, "k", None)
            stages.append(settings.with_room(most if own is None else min(own, found)))
        return stages

    def pipeline(
        self,
        models: "Sequence[Model]",
        how: SamplingOptions,
        first: SamplerConfig,
        found: int,
        devices: "Sequence[jax.Device]" = (),
    ) -> "Pipeline":
        """The stages that draw with these models, with room for `found` neighbours; one model is a pipeline of one."""
        from reimagen_jax.inference.pipeline import Pipeline

        sizes = [how.batch_size, *(option.batch_size(how.batch_size) for option in self.cascade)]
        settings = self.settings([model.config for model in models], first, found)
        first_typed = how.typed() | ({"sampler.aug_level": "--aug-level"} if self.aug_level is not None else {})
        typed = [first_typed, *(option.typed() for option in self.cascade)]
        stages = []
        for model, setting, size, options in zip(models, settings, sizes, typed, strict=True):
            with as_typed(options):
                stages.append(model.stage(setting, size, devices))
        return Pipeline(stages, how.seed)

    def resolved(self, pipeline: "Pipeline") -> "CascadeOptions":
        """The same with nothing left to the experiments."""
        stages = zip(self.cascade, pipeline.stages[1:], strict=True)
        first, own = pipeline.stages[0], {}
        if first.config.system.super_resolution is not None:
            own = {name: getattr(first.settings, name, None) for name in LOW_RES}
        own |= {"handed_on": getattr(first.settings, "handed_on", None)} if self.cascade else {}
        cascade = tuple(option.resolved(stage.settings, stage.batch_size) for option, stage in stages)
        return dataclasses.replace(self, cascade=cascade, **own)


def _handing_on(settings: SamplerConfig, given: Mapping[str, HandedOn]) -> SamplerConfig:
    """The settings, by which images are handed on so; an embedding is handed on as it is."""
    return settings.changed(**given) if hasattr(settings, "handed_on") else settings


@dataclass(frozen=True)
class EnlargingOptions(CascadeOptions):
    """Cascades: further models that enlarge what --model draws, or an image for --model itself to enlarge."""

    common: ClassVar[tuple[str, ...]] = ()

    low_res: Annotated[Path | None, tyro.conf.arg(metavar="IMAGE")] = None
    """An image to enlarge, where --model is a super-resolution model itself."""

    def sources(self) -> dict[str, str]:
        """The image to enlarge, if one was given, with its checksum."""
        if self.low_res is None:
            return {}
        checksum = hashlib.sha256(self.low_res.read_bytes()).hexdigest()
        return {"low-resolution image": str(self.low_res.resolve()), "its SHA-256": checksum}


def require_records(records: Path | None, where: Sequence[str]) -> None:
    """Raises `UserError` for a filter of --records that cannot be read, or without them."""
    require(records is not None or not where, "--records-where chooses among --records: none are given")
    Where.parse(where, "--records-where")


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


def command_line(name: str, command: Any) -> str:
    """The command line that a (resolved) command object stands for; options are those that are not None."""
    words = ["reimagen", *name.split()]
    for option, value, positional in _options(command):
        flag = "--" + option.replace("_", "-")
        if positional:
            words += map(str, value if isinstance(value, tuple) else (value,))
        elif isinstance(value, bool):
            words += [flag] if value else []
        elif isinstance(value, tuple) and value and isinstance(value[0], tuple):
            words += [word for group in value for word in (flag, *map(str, group))]
        elif isinstance(value, tuple):
            words += [flag, *map(str, value)] if value else []
        elif value is not None:
            words += [flag, str(value)]
    return shlex.join(words)


def without_folders(value: Any) -> Any:
    """Options with the names of folders and files alone, without the way to them."""
    if isinstance(value, Path):
        return Path(value.name)
    if isinstance(value, tuple):
        return tuple(map(without_folders, value))
    if not dataclasses.is_dataclass(value):
        return value
    named = {item.name: without_folders(getattr(value, item.name)) for item in dataclasses.fields(value)}
    return dataclasses.replace(value, **named)


def _options(command: Any) -> list[tuple[str, Any, bool]]:
    """Names and values of the fields, those of nested groups among them (their options have no prefix), and whether
    they are typed without a name, as those before all others are."""
    from tyro.conf import Positional

    options = []
    for item in dataclasses.fields(command):
        value, marks = getattr(command, item.name), getattr(item.type, "__metadata__", ())
        name = next((mark.name for mark in marks if getattr(mark, "name", None)), item.name)
        nested = dataclasses.is_dataclass(value)
        options += _options(value) if nested else [(name, value, Positional in marks)]
    return sorted(options, key=lambda option: not option[2])
