"""A sweep over a grid: every prompt at every point of the grid, from the same noise.

Images are numbered p S + s (prompt p, seed s of S) as in a sweep over eta, so only what the axes vary changes from
point to point. Points that differ in traced numbers alone, or in what is told (words, neighbours), share one compiled
program: its images are drawn together, batch by batch. In a cascade a program is one of each stage. An image is stored
as soon as its batch is drawn, under a checksum of all that it depends on; what is stored is not drawn again, whatever
grid it was drawn for. How many neighbours there is room for, and what else is in a batch, changes the last bits at
most, and is left out of it.
"""

import dataclasses
import hashlib
import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import UInt8

from reimagen_jax.config import to_dict, without_local
from reimagen_jax.errors import UserError, require
from reimagen_jax.evaluation.axes import (
    CHECKPOINT,
    METHOD,
    NEGATIVE,
    REQUESTED,
    SEED,
    SETTINGS,
    WORDS,
    Axis,
    K,
    field_of_stage,
    points_of,
    replaced,
    stage_of,
)
from reimagen_jax.evaluation.store import Images, checksum
from reimagen_jax.inference.model import Model
from reimagen_jax.inference.pipeline import Pipeline, Stage
from reimagen_jax.inference.prompts import Prompt
from reimagen_jax.progress import say, track
from reimagen_jax.systems.reimagen.feed import GUIDANCE, guidance_of
from reimagen_jax.systems.reimagen.settings import GuidedSamplerConfig, ReImagenConfig
from reimagen_jax.systems.request import Neighbour, Request

FORMAT = 1
"""Of what is stored."""
UNLIMITED = {"guidance_rescale": 0.0, "guidance_interval": (0.0, 1.0)}
"""What changes nothing, for settings that are computed only where they are set."""


@dataclass(frozen=True)
class Asked:
    """What a grid is drawn of, and with."""

    model: Model
    prompts: Sequence[Prompt]
    """Without neighbours to be found, or with those that they have."""
    find: Callable[[Sequence[Prompt], str | None, int | None], list[Prompt]]
    """Gives prompts their neighbours: (prompts, method of search, most of them); None as it would be without axes."""
    settings: Mapping[str, Any] = field(default_factory=dict)
    """Of the sampler, where they are not as in a model's experiment."""
    open: Callable[[str], Model] | None = None
    """Opens what a value of the axis `checkpoint` names."""
    num_images: int = 1
    seed: int = 0
    batch_size: int = 16
    """Of each device."""
    devices: Sequence[Any] = ()
    """JAX's, that draw side by side; none: the one that JAX takes."""
    later: Callable[[GuidedSamplerConfig, int], Sequence["Enlarging"]] | None = None
    """The stages of a cascade after the first, which has these settings, with room for so many neighbours."""


class Enlarging(NamedTuple):
    """A stage of a cascade after the first, as it is where no axis is its own."""

    model: Model
    settings: GuidedSamplerConfig
    batch_size: int


class Group(NamedTuple):
    """What is drawn in one batch."""

    place: int
    """Of the program."""
    against: bool
    """Whether there are negative prompts: they are an input, so images without any are another program."""
    seed: int


@dataclass(frozen=True)
class Program:
    """A model with the settings that are its own program's; or several, one after the other."""

    stages: tuple[Stage, ...]
    about: str
    """A checksum of all that its images depend on but for what is requested."""
    parameters: int

    @property
    def note(self) -> str:
        """The name of what is noted of it."""
        return f"program-{self.about}"

    @property
    def stage(self) -> Stage:
        """The first, which the numbers of a request are for."""
        return self.stages[0]

    @property
    def evaluations(self) -> int:
        """Of the network for an image: of one condition of one sample; of a cascade, of all its networks."""
        return sum(stage.config.system.evaluations(stage.settings) for stage in self.stages)

    def pipeline(self, seed: int) -> Pipeline:
        """The stages, with a seed of the noise."""
        return Pipeline(self.stages, seed)


@dataclass(frozen=True)
class Point:
    """One combination of the axes' values, and what is asked for it."""

    values: Mapping[str, Any]
    program: Program
    seed: int
    prompts: tuple[Prompt, ...]
    requests: tuple[Request, ...]
    """P S of them, prompt by prompt."""
    keys: tuple[str, ...]
    """Checksums, under which the images are stored."""

    @property
    def settings(self) -> GuidedSamplerConfig:
        """Of the sampler, with the numbers that are the point's own."""
        own = {REQUESTED[name]: value for name, value in self.values.items() if name in REQUESTED}
        return replace(self.program.stage.settings, **own)


@dataclass(frozen=True)
class Grid:
    """P prompts with S images each at every point, as they are to be drawn."""

    axes: tuple[Axis, ...]
    prompts: tuple[Prompt, ...]
    points: tuple[Point, ...]
    """The first axis the slowest."""
    num_images: int
    resolution: int

    @cached_property
    def programs(self) -> tuple[Program, ...]:
        """Those that draw it, each once."""
        return tuple({id(point.program): point.program for point in self.points}.values())

    def missing(self, images: Images) -> dict[Group, dict[str, Request]]:
        """What is not stored, a program's together: checksum -> request."""
        places = {id(program): place for place, program in enumerate(self.programs)}
        found: dict[Group, dict[str, Request]] = {}
        for point in self.points:
            for key, request in zip(point.keys, point.requests, strict=True):
                group = Group(places[id(point.program)], bool(request.negative), point.seed)
                found.setdefault(group, {})[key] = request
        new = {group: {key: own[key] for key in own if key not in images} for group, own in found.items()}
        return {group: new[group] for group in sorted(new) if new[group]}

    def images_of(self, point: Point, images: Images) -> UInt8[np.ndarray, "p s r r 3"]:
        """What was drawn at a point."""
        drawn = np.stack([images[key] for key in point.keys])
        return drawn.reshape(len(self.prompts), self.num_images, *drawn.shape[1:])

    def seconds(self, program: Program, images: Images) -> float | None:
        """What an image takes, once the program is compiled; None before any was drawn."""
        noted = images.noted(program.note)
        return None if noted is None else noted["seconds_per_image"]


def plan(axes: Sequence[Axis], asked: Asked) -> Grid:
    """The grid, with all models open and all neighbours found; nothing is compiled.

    Raises `UserError`, naming the point, where settings do not go together, and on an axis that has nothing to vary.
    """
    by_name = {axis.name: axis for axis in axes}
    most = max(by_name[K].values) if K in by_name else asked.settings.get("k")
    prompts, programs, keyed, points = _Told(by_name, asked, most), _Programs(by_name, asked), Keys(), []
    room = max(len(each.neighbours[:most]) for told in prompts.all() for each in told)
    for values in points_of(axes):
        program = programs.of(values, room)
        told = tuple(prompts.at(values))
        guidance = {REQUESTED[name]: value for name, value in values.items() if name in REQUESTED}
        guidance = {name: UNLIMITED[name] if number is None else number for name, number in guidance.items()}
        requests = tuple(
            each.request(p * asked.num_images + s, **guidance)
            for p, each in enumerate(told)
            for s in range(asked.num_images)
        )
        seed = values.get(SEED, asked.seed)
        for request in requests[:1]:
            program.stage.feed.check(request, program.stage.settings)
        keys = tuple(keyed.of(program.about, program.stages, seed, request) for request in requests)
        points.append(Point(values, program, seed, told, requests, keys))
    resolution = points[0].program.stages[-1].config.system.resolution
    return Grid(tuple(axes), tuple(asked.prompts), tuple(points), asked.num_images, resolution)


def draw(grid: Grid, images: Images) -> None:
    """Draws what is not stored yet, and stores it batch by batch; says how much it is, and how long it will take."""
    missing = grid.missing(images)
    count, wanted = sum(map(len, missing.values())), len({key for point in grid.points for key in point.keys})
    there = f", {wanted - count:,} of them there already" if count < wanted else ""
    programs = _count(len({group[:2] for group in missing}), "program")
    say(f"{_count(len(grid.points), 'point')}, {_count(wanted, 'image')}{there}: {programs} to compile")
    for group, own in missing.items():  # a frozen text encoder works before the networks do
        grid.programs[group.place].pipeline(group.seed).prepare(list(own.values()))
    batches, clock = list(_batches(grid, missing)), _Clock(grid, missing)
    for group, own in track(batches, len(batches), "sweep", "batch"):
        program = grid.programs[group.place]
        pipeline, began = program.pipeline(group.seed), time.perf_counter()
        for (key, _), image in zip(own, pipeline([request for _, request in own], ""), strict=True):
            images[key] = image
        clock.took(group.place, time.perf_counter() - began)
        if (seconds := clock.seconds(group.place)) is not None:
            images.note(program.note, {"seconds_per_image": seconds})
    for point in grid.points:
        if grid.seconds(point.program, images) is None:  # it had one batch, in which it was compiled
            images.note(point.program.note, {"seconds_per_image": _timed(point)})


def _batches(
    grid: Grid, missing: Mapping[Group, Mapping[str, Request]]
) -> Iterator[tuple[Group, list[tuple[str, Request]]]]:
    for group, own in missing.items():
        keyed, size = list(own.items()), grid.programs[group.place].stage.at_once
        for first in range(0, len(keyed), size):
            yield group, keyed[first : first + size]


def _timed(point: Point) -> float:
    """Seconds an image of a whole batch takes."""
    stage, pipeline = point.program.stage, point.program.pipeline(point.seed)
    requests = point.requests[: stage.at_once]
    if not all(each.compilations for each in pipeline.stages):
        pipeline(requests, "")
    began = time.perf_counter()
    pipeline(requests, "")
    return (time.perf_counter() - began) / stage.at_once


class _Clock:
    """How long images take, and what remains. A program's first batch compiles it."""

    def __init__(self, grid: Grid, missing: Mapping[Group, Mapping[str, Request]]) -> None:
        self._programs, self._told = grid.programs, False
        self._left: dict[int, int] = {}
        for group, own in missing.items():
            batches = math.ceil(len(own) / self._programs[group.place].stage.at_once)
            self._left[group.place] = self._left.get(group.place, 0) + batches
        self._times: dict[int, list[float]] = {}
        self._compiling = 0.0

    def took(self, place: int, seconds: float) -> None:
        """Notes a batch; says once what remains, as soon as that is known."""
        self._left[place] -= 1
        if place in self._times:
            self._times[place].append(seconds / self._programs[place].stage.at_once)
        else:
            self._times[place], self._compiling = [], seconds
        if not self._told and sum(self._left.values()) and (self._times[place] or not self._left[place]):
            self._told = True
            say(f"about {duration(self._remaining(place))} more")

    def seconds(self, place: int) -> float | None:
        """An image's, where there was more than the first batch."""
        return float(np.median(self._times[place])) if self._times[place] else None

    def _remaining(self, place: int) -> float:
        """By evaluations of the network: they take in all programs what they take in this; each is compiled besides."""

        def work(other: int) -> int:
            return self._programs[other].stage.at_once * self._programs[other].evaluations

        drawing = (self.seconds(place) or 0.0) / self._programs[place].evaluations
        compiling = self._compiling - drawing * work(place)
        new = sum(left > 0 and other not in self._times for other, left in self._left.items())
        return drawing * sum(left * work(other) for other, left in self._left.items()) + compiling * new


class Keys:
    """Checksums under which images are stored, of all that they depend on."""

    def __init__(self) -> None:
        self._digests: dict[tuple[int, int], str] = {}

    def of(self, about: str, stages: Sequence[Stage], seed: int, request: Request) -> str:
        """That of what a request draws by these stages, which `about` is of."""
        first, *later = (
            [self._digest(hit, each.config.system.resolution) for hit in request.neighbours] for each in stages
        )
        numbers = UNLIMITED | guidance_of(request, stages[0].settings)
        asked = {"prompt": request.prompt, "negative": request.negative, "neighbours": first, "guidance": numbers}
        asked |= {"later": later} if later else {}
        return checksum({"program": about, "seed": seed, "index": request.index, **asked})

    def _digest(self, hit: Neighbour, resolution: int) -> str:
        """Of what a network sees. A neighbour is kept by the prompts, so its identity is its own all the while."""
        if (id(hit), resolution) not in self._digests:
            pixels = hashlib.sha256(hit.at(resolution).tobytes())
            self._digests[id(hit), resolution] = checksum([hit.text, pixels.hexdigest()])
        return self._digests[id(hit), resolution]


def about(models: Sequence[Model], settings: Sequence[GuidedSamplerConfig]) -> str:
    """A checksum of models that draw by these settings, one after the other; but for what a request tells the first."""
    first, *later = zip(models, settings, strict=True)
    told = _about(*first, but=(*GUIDANCE, "k"))
    return checksum([told, *(_about(*each) for each in later)]) if later else told


def draw_missing(pipeline: Pipeline, wanted: Mapping[str, Request], images: Images) -> None:
    """Draws what is not stored of the requests, which are given by their checksums, and stores it batch by batch."""
    missing = {key: request for key, request in wanted.items() if key not in images}
    if missing and len(missing) < len(wanted):
        say(f"{_count(len(wanted), 'image')}, {len(wanted) - len(missing):,} of them there already")
    pipeline.prepare(list(missing.values()))
    keys, batches = iter(missing), math.ceil(len(missing) / pipeline.at_once)
    for _, drawn in track(pipeline.stream(missing.values()), batches, "sampling", "batch"):
        for image in drawn[-1]:
            images[next(keys)] = image


def duration(seconds: float) -> str:
    """In words."""
    if seconds < 90:
        return f"{seconds:.0f} seconds"
    return f"{seconds / 60:.0f} minutes" if seconds < 5400 else f"{seconds / 3600:.1f} hours"


class _Told:
    """The prompts at a point: with other words, against others, with neighbours found otherwise, and fewer."""

    def __init__(self, axes: Mapping[str, Axis], asked: Asked, most: int | None) -> None:
        self._axes, self._asked, self._most = axes, asked, most
        self._found: dict[tuple[str | None, str | None], list[Prompt]] = {}
        self._words = axes[WORDS].values[0] if WORDS in axes else ""
        if self._words:
            for each in asked.prompts:
                require(
                    replaced(each.text, self._words, "") != each.text,
                    f"--over {WORDS}: {self._words!r}, the first value, is not in the prompt {each.text!r}",
                )

    def all(self) -> Iterator[list[Prompt]]:
        """At the values of all axes that change neighbours."""
        for words in self._axes[WORDS].values if WORDS in self._axes else (None,):
            for method in self._axes[METHOD].values if METHOD in self._axes else (None,):
                yield self._of(words, method)

    def at(self, values: Mapping[str, Any]) -> Iterator[Prompt]:
        """With their neighbours."""
        for each in self._of(values.get(WORDS), values.get(METHOD)):
            each = replace(each, neighbours=each.neighbours[: values.get(K, self._most)])
            yield replace(each, negative=values[NEGATIVE].strip()) if NEGATIVE in values else each

    def _of(self, words: str | None, method: str | None) -> list[Prompt]:
        if (words, method) not in self._found:
            prompts = list(self._asked.prompts)
            if words not in (None, self._words):
                prompts = [_reworded(each, self._words, words) for each in prompts]
            self._found[words, method] = self._asked.find(prompts, method, self._most)
        return self._found[words, method]


def _reworded(prompt: Prompt, old: str, new: str) -> Prompt:
    """A prompt with other words. What its image had to show, it has to show no more."""
    told = {name: replaced(getattr(prompt, name), old, new) for name in ("text", "query", "names")}
    return replace(prompt, **told, attributes={}, target=None)


class _Programs:
    """The programs of a grid: one for each combination of what is not traced."""

    def __init__(self, axes: Mapping[str, Axis], asked: Asked) -> None:
        self._axes, self._asked = axes, asked
        self._models: dict[str | None, Model] = {None: asked.model}
        self._known: dict[tuple[str | None, tuple[GuidedSamplerConfig, ...]], Program] = {}
        self._stages: dict[tuple[int, str, GuidedSamplerConfig], Stage] = {}

    def of(self, values: Mapping[str, Any], room: int) -> Program:
        """The one that draws a point, with room for so many neighbours. Raises `UserError` naming the point."""
        checkpoint = values.get(CHECKPOINT)
        model = self._model(checkpoint)
        own = {SETTINGS[name][0]: values[name] for name in values if name in SETTINGS and name not in REQUESTED}
        try:
            settings = model.config.system.sampler.changed(**{**self._asked.settings, **own, "k": room})
            for option, name in REQUESTED.items():
                if option in self._axes and getattr(settings, name) is None:
                    settings = replace(settings, **{name: UNLIMITED[name]})
            stages = [Enlarging(model, settings, self._asked.batch_size), *self._later(values, settings, room)]
            if (known := (checkpoint, tuple(each.settings for each in stages))) not in self._known:
                self._known[known] = self._program(stages)
        except UserError as error:
            point = ", ".join(self._axes[name].say(value) for name, value in values.items())
            raise UserError(f"--over, at {point}: {error}") from None
        return self._known[known]

    def _later(self, values: Mapping[str, Any], first: GuidedSamplerConfig, room: int) -> list[Enlarging]:
        stages = [] if self._asked.later is None else list(self._asked.later(first, room))
        for name in values:
            there = stage_of(name) <= 1 + len(stages)
            require(there, f"there is no stage {stage_of(name)} of a cascade: give its model, --cascade MODEL ...")
        for n, stage in enumerate(stages):
            own = {field: values[name] for name in values if (field := field_of_stage(name, n + 2))}
            settings = stage.settings.changed(**own)
            stages[n] = stage._replace(settings=replace(settings, k=min(settings.k, room)))
        return stages

    def _program(self, stages: Sequence[Enlarging]) -> Program:
        opened = []
        for n, (model, settings, size) in enumerate(stages):
            key = n, model.digest, settings
            if key not in self._stages:
                self._stages[key] = model.stage(settings, size, self._asked.devices)
            opened.append(self._stages[key])
        models = [stage.model for stage in stages]
        told = about(models, [stage.settings for stage in stages])
        program = Program(tuple(opened), told, sum(map(_parameters, models)))
        program.pipeline(0)  # raises where one does not take what the one before draws
        return program

    def _model(self, checkpoint: str | None) -> Model:
        if checkpoint not in self._models:
            require(self._asked.open is not None, f"--over {CHECKPOINT}: nothing opens {checkpoint}")
            place = f"--over {CHECKPOINT} {checkpoint}"
            try:
                model = self._asked.open(checkpoint)
            except UserError as error:
                raise UserError(f"{place}: {error}") from error
            require(isinstance(model.config.system, ReImagenConfig), f"{place} is a {model.config.system.kind}")
            sides = [each.config.system.resolution for each in (model, self._asked.model)]
            require(
                sides[0] == sides[1],
                f"{place} draws {sides[0]} pixels, --model {sides[1]}: side by side they are of one size",
            )
            self._models[checkpoint] = model
        return self._models[checkpoint]


def _about(model: Model, settings: GuidedSamplerConfig, but: Sequence[str] = ()) -> str:
    system = to_dict(without_local(model.config))["system"]
    del system["sampler"]
    sampler = {name: value for name, value in dataclasses.asdict(settings).items() if name not in but}
    return checksum({"format": FORMAT, "model": model.digest, "system": system, "sampler": sampler})


def _parameters(model: Model) -> int:
    return int(model.facts()["parameters"].replace(",", ""))


def _count(n: int, what: str) -> str:
    return f"{n:,} {what}{'' if n == 1 else 's'}"
