"""Options that commands share: what to draw, and how; and the command line that a command stands for."""

import dataclasses
import hashlib
import shlex
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import tyro

from reimagen_jax.config import Experiment, SamplerConfig, Solver, Thresholding, require
from reimagen_jax.errors import UserError

if TYPE_CHECKING:
    from reimagen_jax.inference.prompts import Prompt


STAGE_SETTINGS = {
    "steps": "num_steps",
    "solver": "solver",
    "eta": "eta",
    "text_weight": "text_weight",
    "neighbour_weight": "neighbour_weight",
    "thresholding": "thresholding",
}
"""Options of a stage's sampler -> the settings that they set."""


@dataclass(frozen=True)
class PromptOptions:
    """What to draw: prompts from one place; neighbours given by hand, from a knowledge base, or both."""

    prompt: Annotated[tuple[tuple[str, ...], ...], tyro.conf.UseAppendAction, tyro.conf.arg(metavar="TEXT ...")] = ()
    """One or more prompts."""
    prompts: Annotated[Path | None, tyro.conf.arg(metavar="FILE")] = None
    """File of prompts, one a line; or .jsonl with {"text": ...} on each line."""
    records: Annotated[Path | None, tyro.conf.arg(metavar="DIR")] = None
    """Records (`reimagen prepare`) whose captions are the prompts. No record finds itself, or its own picture."""
    limit: int = 8
    """With --records: at most this many, spread evenly over all."""
    knowledge_base: Annotated[Path | None, tyro.conf.arg(metavar="DIR")] = None
    """Where neighbours are looked for: a folder written by `reimagen index`. Any will do, whatever the model was
    trained with."""
    query_by: str | None = None
    """Ask the knowledge base for this attribute of the prompts' records (such as entity), not for the whole text."""
    method: Literal["lexical", "dense", "hybrid"] = "lexical"
    """Search the knowledge base by words, by vectors, or by both (where it has vectors)."""
    pin: Annotated[tuple[tuple[str, ...], ...], tyro.conf.UseAppendAction, tyro.conf.arg(metavar="KEY ...")] = ()
    """Records of the knowledge base that are neighbours of every prompt (but their own), by their keys."""
    ban: Annotated[tuple[tuple[str, ...], ...], tyro.conf.UseAppendAction, tyro.conf.arg(metavar="KEY ...")] = ()
    """Records of the knowledge base that are nobody's neighbours, by their keys."""
    reference: Annotated[
        tuple[tuple[Path, str], ...], tyro.conf.UseAppendAction, tyro.conf.arg(metavar="IMAGE CAPTION")
    ] = ()
    """A neighbour given by hand, for every prompt: an image file and what it shows. Repeat it for more."""
    k: int | None = None
    """Neighbours of each prompt: the first k of the references, the pinned and, best first, those found (default: all
    references and pinned, and with a knowledge base as many as the model was trained with)."""

    def check(self) -> None:
        """Raises `UserError` on options that contradict each other; opens nothing."""
        given = [name for name in ("prompt", "prompts", "records") if getattr(self, name)]
        if len(given) != 1:
            what = "nothing to draw" if not given else f"--{' and --'.join(given)} are both given"
            raise UserError(f"{what}: give one of --prompt TEXT, --prompts FILE, --records DIR")
        require(all(map(str.strip, self._texts)), "--prompt is empty: say what to draw")
        require(self.limit > 0, f"--limit {self.limit} is not a number of prompts")
        require(self.k is None or self.k >= 0, f"--k {self.k} is not a number of neighbours")
        asked = {"--query-by": self.query_by, "--pin": self.pin, "--ban": self.ban, "--method": self._searches_vectors}
        for option in (name for name, value in asked.items() if value):
            require(bool(self.knowledge_base), f"{option} asks a --knowledge-base: none is given")
        both = set(_flat(self.pin)) & set(_flat(self.ban))
        require(not both, f"{min(both, default='')} is given to --pin and to --ban: choose one")

    def gather(self, config: Experiment) -> "list[Prompt]":
        """The prompts with their neighbours, decoded for the model. Raises `UserError` on bad input."""
        from reimagen_jax.inference.prompts import asking_by, with_retrieved
        from reimagen_jax.inference.requests import from_file, pinned
        from reimagen_jax.retrieval.knowledge_base import KnowledgeBase

        prompts, k = self._prompts(config.resolution), self.resolved(config).k
        given = tuple(from_file(path, text, config.resolution) for path, text in self.reference)
        if not self.knowledge_base:
            return [dataclasses.replace(prompt, neighbours=given[:k]) for prompt in prompts]
        prompts = asking_by(prompts, self.query_by) if self.query_by else prompts
        base = KnowledgeBase.open(self.knowledge_base)
        given += pinned(base, _flat(self.pin), config.resolution)
        return with_retrieved(prompts, base, k, config.resolution, given=given, ban=_flat(self.ban), method=self.method)

    def resolved(self, config: Experiment) -> "PromptOptions":
        """The same with nothing left to the experiment."""
        given = len(self.reference) + len(set(_flat(self.pin)))
        default = max(given, config.data.num_neighbours) if self.knowledge_base else given
        return dataclasses.replace(self, k=default if self.k is None else self.k)

    def sources(self) -> dict[str, str]:
        """Where prompts and neighbours come from, with checksums, for reports."""
        from reimagen_jax.data.records import Records
        from reimagen_jax.retrieval.knowledge_base import KnowledgeBase

        facts = {"prompts": "given on the command line"}
        if self.prompts:
            facts["prompts"] = str(self.prompts.resolve())
        if self.records:
            facts["prompts"] = f"captions of {self.records.resolve()}"
            facts["records' checksum"] = Records.open(self.records).fingerprint
        if self.knowledge_base:
            base = KnowledgeBase.open(self.knowledge_base)
            facts["knowledge base"] = str(self.knowledge_base.resolve())
            facts["its checksum"] = base.fingerprint
            facts["its size"] = f"{len(base):,} records"
            facts["asked for"] = f"the prompts' {self.query_by}" if self.query_by else "the prompts"
            if self._searches_vectors:
                facts["searched by"] = {"dense": "vectors", "hybrid": "words and vectors"}[self.method]
        if self.reference:
            facts["neighbours"] = f"given by hand: {', '.join(path.name for path, _ in self.reference)}"
        for name, keys in (("pinned", _flat(self.pin)), ("banned", _flat(self.ban))):
            if keys:
                facts[name] = ", ".join(keys)
        return facts

    @property
    def _searches_vectors(self) -> bool:
        return self.method != "lexical"

    @property
    def _texts(self) -> list[str]:
        return _flat(self.prompt)

    def _prompts(self, resolution: int) -> "list[Prompt]":
        from reimagen_jax.data.records import Records
        from reimagen_jax.inference.prompts import Prompt, from_file, from_records

        if self.records:
            return from_records(Records.open(self.records), self.limit, resolution)
        return from_file(self.prompts) if self.prompts else [Prompt(text.strip()) for text in self._texts]


def _flat(groups: Sequence[Sequence[str]]) -> list[str]:
    """The values of an option that may be repeated, each time with several."""
    return [value for group in groups for value in group]


@dataclass(frozen=True)
class SamplingOptions:
    """How to draw it; what is not given is as in the model's experiment."""

    num_images: int = 1
    """Images of each prompt (and each eta), from different noise."""
    steps: int | None = None
    """Steps of the sampler."""
    solver: Solver | None = None
    """Of the sampler."""
    text_weight: float | None = None
    """Guidance weight of steps that strengthen the text; 1 is none."""
    neighbour_weight: float | None = None
    """Guidance weight of steps that strengthen the neighbours; 1 is none."""
    thresholding: Thresholding | None = None
    """How predicted images are kept within the range of images."""
    seed: int = 0
    """Of the noise. The noise of image number i depends on the seed and i alone."""
    batch_size: int = 16
    """Images drawn at once; changes speed and memory, not the images."""
    text_encoder: Annotated[Path | None, tyro.conf.arg(metavar="DIR")] = None
    """Folder of the published text encoder (T5, CLIP) that the models were trained with, for models that have such a
    one (default: where it was then)."""

    def settings(self, config: SamplerConfig) -> SamplerConfig:
        """The experiment's settings with what was given. Raises `UserError` on values out of range."""
        require(self.num_images > 0, f"--num-images {self.num_images}: at least 1 is needed")
        require(self.batch_size > 0, f"--batch-size {self.batch_size}: at least 1 is needed")
        require(0 <= self.seed < 2**32, f"--seed {self.seed} is not between 0 and 2^32 - 1")
        given = {STAGE_SETTINGS[option]: getattr(self, option) for option in STAGE_SETTINGS if option != "eta"}
        return dataclasses.replace(config, **{name: value for name, value in given.items() if value is not None})

    def resolved(self, sampler: SamplerConfig) -> "SamplingOptions":
        """The same with nothing left to the experiment."""
        settings = {option: getattr(sampler, name) for option, name in STAGE_SETTINGS.items() if option != "eta"}
        return dataclasses.replace(self, **settings)


@dataclass(frozen=True)
class CascadeOptions:
    """Super-resolution: further models that enlarge what --model draws."""

    cascade: Annotated[tuple[Path, ...], tyro.conf.arg(metavar="MODEL ...")] = ()
    """Super-resolution models, each enlarging the images of the one before it; the first those of --model. Options
    --cascade-... are about them: one value for all of them, or one for each; default: as in each one's experiment."""
    aug_level: tuple[float, ...] = ()
    """Noise that a super-resolution model puts on its input, 0 to 1 (0.1 to 0.3 work well): more hides what the stage
    before got wrong, and lets more be drawn anew. One for all super-resolution models, or one each (--model too)."""
    cascade_steps: tuple[int, ...] = ()
    """--steps of the models of --cascade."""
    cascade_solver: tuple[Solver, ...] = ()
    """--solver of the models of --cascade."""
    cascade_eta: tuple[float, ...] = ()
    """--eta of the models of --cascade."""
    cascade_text_weight: tuple[float, ...] = ()
    """--text-weight of the models of --cascade."""
    cascade_neighbour_weight: tuple[float, ...] = ()
    """--neighbour-weight of the models of --cascade."""
    cascade_thresholding: tuple[Thresholding, ...] = ()
    """--thresholding of the models of --cascade."""
    cascade_k: tuple[int, ...] = ()
    """Neighbours, of those found, that the models of --cascade see (0: none; default: all, where a model was trained
    with neighbours)."""
    cascade_batch_size: tuple[int, ...] = ()
    """--batch-size of the models of --cascade: large images may need a smaller one."""

    def check(self) -> None:
        """Raises `UserError` on numbers of values that do not fit the models; opens nothing."""
        for option in (*STAGE_SETTINGS, "k", "batch_size"):
            self._each(f"cascade_{option}")
        require(all(k >= 0 for k in self.cascade_k), f"--cascade-k {self.cascade_k}: 0 or more is needed")
        sizes = self.cascade_batch_size
        require(all(size > 0 for size in sizes), f"--cascade-batch-size {sizes}: at least 1 is needed")

    def samplers(self, configs: Sequence[Experiment], first: SamplerConfig) -> list[SamplerConfig]:
        """The settings of all stages: `first` of --model, and each experiment's own with what was given.

        Raises `UserError` on values out of range.
        """
        samplers = [first, *(config.sampler for config in configs[1:])]
        for option, name in STAGE_SETTINGS.items():
            for i, value in enumerate(self._each(f"cascade_{option}"), 1):
                if value is not None:
                    samplers[i] = dataclasses.replace(samplers[i], **{name: value})
        enlarging = [i for i, config in enumerate(configs) if config.super_resolution is not None]
        levels = _spread("aug_level", self.aug_level, len(enlarging), "super-resolution models")
        for i, level in zip(enlarging, levels, strict=True):
            if level is not None:
                samplers[i] = dataclasses.replace(samplers[i], aug_level=level)
        return samplers

    def neighbours(self, configs: Sequence[Experiment], found: int) -> list[int]:
        """How many neighbours each stage sees: --model all that were found, others none if trained without."""
        given = zip(configs[1:], self._each("cascade_k"), strict=True)
        wanted = [0 if config.data.num_neighbours == 0 else found if k is None else k for config, k in given]
        return [found, *(min(k, found) for k in wanted)]

    def batch_sizes(self, first: int) -> list[int]:
        """Of all stages."""
        return [first, *(size or first for size in self._each("cascade_batch_size"))]

    def resolved(
        self, configs: Sequence[Experiment], samplers: Sequence[SamplerConfig], neighbours: Sequence[int]
    ) -> "CascadeOptions":
        """The same with nothing left to the experiments."""
        levels = (s.aug_level for c, s in zip(configs, samplers, strict=True) if c.super_resolution is not None)
        settings = {
            f"cascade_{option}": tuple(getattr(sampler, name) for sampler in samplers[1:])
            for option, name in STAGE_SETTINGS.items()
        }
        return dataclasses.replace(self, aug_level=tuple(levels), cascade_k=tuple(neighbours[1:]), **settings)

    def _each(self, name: str) -> list[Any]:
        return _spread(name, getattr(self, name), len(self.cascade), "models of --cascade")


@dataclass(frozen=True)
class EnlargingOptions(CascadeOptions):
    """Super-resolution: further models that enlarge what --model draws, or an image for --model itself to enlarge."""

    low_res: Annotated[Path | None, tyro.conf.arg(metavar="IMAGE")] = None
    """An image to enlarge, where --model is a super-resolution model itself."""

    def sources(self) -> dict[str, str]:
        """The image to enlarge, if one was given, with its checksum."""
        if self.low_res is None:
            return {}
        checksum = hashlib.sha256(self.low_res.read_bytes()).hexdigest()
        return {"low-resolution image": str(self.low_res.resolve()), "its SHA-256": checksum}


def _spread(name: str, values: tuple[Any, ...], count: int, of: str) -> list[Any]:
    """One value for each of `count`: all None where none is given. Raises `UserError` when the numbers do not fit."""
    flag = "--" + name.replace("_", "-")
    require(count > 0 or not values, f"{flag} is given, but there are no {of}")
    require(
        len(values) in (0, 1, count),
        f"{flag} has {len(values)} values for {count} {of}: give one for all of them, or one for each",
    )
    return list(values) if len(values) == count else [values[0] if values else None] * count


def warn_without_neighbours(prompts: "Sequence[Prompt]") -> None:
    """Says which prompts have found nothing although a knowledge base was asked."""
    for prompt in prompts:
        if not prompt.neighbours:
            print(f"no neighbours found for {prompt.text!r}: it is drawn without", file=sys.stderr)


def warn_of_small_neighbours(prompts: "Sequence[Prompt]", resolution: int) -> None:
    """Says when the neighbours' images are smaller than what a stage shows its network (judged by the first)."""
    side = next((hit.side for prompt in prompts for hit in prompt.neighbours), resolution)
    if side < resolution:
        print(
            f"the neighbours are images of {side} pixels, which the stage of {resolution} pixels sees enlarged: prepare"
            f" the knowledge base with --resolution {resolution} (or more) to show it their detail",
            file=sys.stderr,
        )


def command_line(name: str, command: Any) -> str:
    """The command line that a (resolved) command object stands for; options are those that are not None."""
    words = ["reimagen", name]
    for option, value in _options(command):
        flag = "--" + option.replace("_", "-")
        if isinstance(value, bool):
            words += [flag] if value else []
        elif isinstance(value, tuple) and value and isinstance(value[0], tuple):
            words += [word for group in value for word in (flag, *map(str, group))]
        elif isinstance(value, tuple):
            words += [flag, *map(str, value)] if value else []
        elif value is not None:
            words += [flag, str(value)]
    return shlex.join(words)


def _options(command: Any) -> list[tuple[str, Any]]:
    """Names and values of the fields, those of nested groups among them: their options have no prefix."""
    options = []
    for item in dataclasses.fields(command):
        value = getattr(command, item.name)
        options += _options(value) if dataclasses.is_dataclass(value) else [(item.name, value)]
    return options
