"""Options that commands share: what to draw, and how; and the command line that a command stands for."""

import dataclasses
import shlex
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import tyro

from reimagen_jax.config import Experiment, SamplerConfig, Solver, require
from reimagen_jax.errors import UserError

if TYPE_CHECKING:
    from reimagen_jax.inference.prompts import Prompt
    from reimagen_jax.inference.requests import Neighbour


@dataclass(frozen=True)
class PromptOptions:
    """What to draw: prompts from one place, neighbours from one place."""

    prompt: Annotated[tuple[tuple[str, ...], ...], tyro.conf.UseAppendAction, tyro.conf.arg(metavar="TEXT ...")] = ()
    """One or more prompts."""
    prompts: Annotated[Path | None, tyro.conf.arg(metavar="FILE")] = None
    """File of prompts, one a line; or .jsonl with {"text": ...} on each line."""
    records: Annotated[Path | None, tyro.conf.arg(metavar="DIR")] = None
    """Records (`reimagen prepare`) whose captions are the prompts. No record finds itself, or its own picture."""
    limit: int = 8
    """With --records: at most this many, spread evenly over all."""
    knowledge_base: Annotated[Path | None, tyro.conf.arg(metavar="DIR")] = None
    """Where neighbours are looked for: a folder written by `reimagen index`."""
    query_by: str | None = None
    """Ask the knowledge base for this attribute of the prompts' records (such as entity), not for the whole text."""
    reference: Annotated[
        tuple[tuple[Path, str], ...], tyro.conf.UseAppendAction, tyro.conf.arg(metavar="IMAGE CAPTION")
    ] = ()
    """A neighbour given by hand, for every prompt: an image file and what it shows. Repeat it for more."""
    k: int | None = None
    """Neighbours of each prompt (default: as many as the model was trained with, or all references)."""

    def check(self) -> None:
        """Raises `UserError` on options that contradict each other; opens nothing."""
        given = [name for name in ("prompt", "prompts", "records") if getattr(self, name)]
        if len(given) != 1:
            what = "nothing to draw" if not given else f"--{' and --'.join(given)} are both given"
            raise UserError(f"{what}: give one of --prompt TEXT, --prompts FILE, --records DIR")
        require(all(map(str.strip, self._texts)), "--prompt is empty: say what to draw")
        require(self.limit > 0, f"--limit {self.limit} is not a number of prompts")
        require(self.k is None or self.k >= 0, f"--k {self.k} is not a number of neighbours")
        require(
            not (self.knowledge_base and self.reference),
            "--knowledge-base and --reference are both given: neighbours come from one of them",
        )
        require(bool(self.knowledge_base) or not self.query_by, "--query-by asks a --knowledge-base: none is given")

    def gather(self, config: Experiment) -> "list[Prompt]":
        """The prompts with their neighbours, decoded for the model. Raises `UserError` on bad input."""
        from reimagen_jax.inference.prompts import asking_by, with_retrieved
        from reimagen_jax.retrieval.knowledge_base import KnowledgeBase

        prompts = self._prompts(config.resolution)
        if self.knowledge_base:
            prompts = asking_by(prompts, self.query_by) if self.query_by else prompts
            base, k = KnowledgeBase.open(self.knowledge_base), self.resolved(config).k
            return with_retrieved(prompts, base, k, config.resolution)
        given = tuple(_reference(path, text, config.resolution) for path, text in self.reference)[: self.k]
        return [dataclasses.replace(prompt, neighbours=given) for prompt in prompts]

    def resolved(self, config: Experiment) -> "PromptOptions":
        """The same with nothing left to the experiment."""
        default = config.data.num_neighbours if self.knowledge_base else None
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
        if self.reference:
            facts["neighbours"] = f"given by hand: {', '.join(path.name for path, _ in self.reference)}"
        return facts

    @property
    def _texts(self) -> list[str]:
        return [text for group in self.prompt for text in group]

    def _prompts(self, resolution: int) -> "list[Prompt]":
        from reimagen_jax.data.records import Records
        from reimagen_jax.inference.prompts import Prompt, from_file, from_records

        if self.records:
            return from_records(Records.open(self.records), self.limit, resolution)
        return from_file(self.prompts) if self.prompts else [Prompt(text.strip()) for text in self._texts]


def _reference(path: Path, text: str, resolution: int) -> "Neighbour":
    from reimagen_jax.data.images import ImageError
    from reimagen_jax.inference.requests import from_file

    try:
        return from_file(str(path), text, resolution)
    except ImageError as error:
        raise UserError(f"reference image {path}: {error}") from error


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
    seed: int = 0
    """Of the noise. The noise of image number i depends on the seed and i alone."""
    batch_size: int = 16
    """Images drawn at once; changes speed and memory, not the images."""

    def settings(self, config: SamplerConfig) -> SamplerConfig:
        """The experiment's settings with what was given. Raises `UserError` on values out of range."""
        require(self.num_images > 0, f"--num-images {self.num_images}: at least 1 is needed")
        require(self.batch_size > 0, f"--batch-size {self.batch_size}: at least 1 is needed")
        require(0 <= self.seed < 2**32, f"--seed {self.seed} is not between 0 and 2^32 - 1")
        given = {
            "num_steps": self.steps,
            "solver": self.solver,
            "text_weight": self.text_weight,
            "neighbour_weight": self.neighbour_weight,
        }
        return dataclasses.replace(config, **{name: value for name, value in given.items() if value is not None})

    def resolved(self, sampler: SamplerConfig) -> "SamplingOptions":
        """The same with nothing left to the experiment."""
        return dataclasses.replace(
            self,
            steps=sampler.num_steps,
            solver=sampler.solver,
            text_weight=sampler.text_weight,
            neighbour_weight=sampler.neighbour_weight,
        )


def warn_without_neighbours(prompts: "Sequence[Prompt]") -> None:
    """Says which prompts have found nothing although a knowledge base was asked."""
    for prompt in prompts:
        if not prompt.neighbours:
            print(f"no neighbours found for {prompt.text!r}: it is drawn without", file=sys.stderr)


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
