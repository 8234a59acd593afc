"""Images drawn again from what they tell of themselves (origin.py), and how far they are from what they were.

What is told may be a stranger's, so nothing of it is trusted: a model is the one told of where its parameters have the
checksum, a neighbour where its pixels have.
"""

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

from reimagen_jax.checked import parse
from reimagen_jax.data import images
from reimagen_jax.errors import UserError, require
from reimagen_jax.inference.model import Model
from reimagen_jax.inference.origin import ModelOrigin, NeighbourOrigin, NoOrigin, Origin, pixels_sha256, read_origin
from reimagen_jax.inference.pipeline import Pipeline
from reimagen_jax.inference.provenance import origins
from reimagen_jax.inference.requests import from_file
from reimagen_jax.retrieval.knowledge_base import KnowledgeBase
from reimagen_jax.systems import kinds
from reimagen_jax.systems.request import Neighbour, Request
from reimagen_jax.terminal import say

AT_ONCE = 256
"""Images of which all is known at once."""
MOST_NEIGHBOURS = 1000
"""That there is made room for, whatever is told."""


@dataclass(frozen=True)
class Again:
    """An image that was drawn again."""

    path: Path
    before: np.ndarray | None = field(repr=False)
    """uint8 [H, W, 3], as it lies in the file; None where its origin alone is known."""
    image: np.ndarray = field(repr=False)
    """As it is drawn now."""
    told: Origin
    """By the file."""
    origin: Origin
    """Of the new image."""

    @property
    def equal(self) -> bool:
        """No pixel differs."""
        return np.array_equal(self.image, self.before) if self.before is not None else self.as_drawn

    @property
    def as_drawn(self) -> bool:
        """It is what was drawn then, whatever the file shows."""
        return self.origin.pixels_sha256 == self.told.pixels_sha256

    def difference(self) -> tuple[int, float] | None:
        """The greatest and the mean difference in grey levels (of 255); None where no picture of the size is there."""
        if self.before is None or self.before.shape != self.image.shape:
            return None
        levels = np.abs(self.before.astype(int) - self.image)
        return int(levels.max()), float(levels.mean())

    def changed(self) -> list[str]:
        """What else is not as it was: libraries, device, times, plan."""
        now, then = (
            self.origin.versions | {"device": self.origin.device},
            self.told.versions | {"device": self.told.device},
        )
        lines = [f"{name} {then.get(name, 'not told')}, now {now.get(name, 'none')}" for name in {**then, **now}]
        lines = [line for name, line in zip({**then, **now}, lines, strict=True) if now.get(name) != then.get(name)]
        for number, (was, stage) in enumerate(zip(self.told.stages, self.origin.stages, strict=True), 1):
            names = [name for name in ("times", "text_steps") if getattr(was, name) != getattr(stage, name)]
            lines += [f"{name} of stage {number}" for name in names]
        return lines


@dataclass(frozen=True)
class Reproducer:
    """Where models, neighbours and pictures are looked for; where nothing is given, in the places that are told."""

    models: tuple[Path, ...] = ()
    knowledge_bases: tuple[Path, ...] = ()
    references: tuple[Path, ...] = ()
    low_res: Path | None = None
    text_encoder: Path | None = None
    _opened: dict[Any, Any] = field(default_factory=dict, repr=False)
    """Models, bases and pipelines, by what they are asked for by."""

    def draw(self, paths: Sequence[Path]) -> Iterator[Again]:
        """The images of PNG or JSON files, drawn again as they once were, at the same batch a device.

        Raises `UserError`, naming the file, for what is no origin, and where a model, a neighbour or a picture is not
        found or another one.
        """
        paths = iter(paths)
        while some := [(path, *read_origin(path)) for path in islice(paths, AT_ONCE)]:
            groups: dict[str, list[tuple[Path, Origin, np.ndarray | None]]] = {}
            for path, origin, before in some:
                stages = [[each.model.sha256, each.sampler, each.batch_size] for each in origin.stages]
                groups.setdefault(json.dumps([origin.seed, stages]), []).append((path, origin, before))
            for key, group in groups.items():
                models, pipeline = self._pipeline(key, group[0][0], group[0][1])
                requests = [_named(path, self._request, path, origin, models[0]) for path, origin, _ in group]
                _named(group[0][0], pipeline.prepare, requests)
                drawn = np.concatenate([stages[-1] for _, stages in pipeline.stream(requests)])
                told = origins(models, pipeline, requests, drawn, made_by="reproduce", command="")
                for (path, origin, before), image, now in zip(group, drawn, told, strict=True):
                    yield Again(path, before, image, origin, replace(now, record=origin.record, command=origin.command))

    def _pipeline(self, key: str, path: Path, origin: Origin) -> tuple[list[Model], Pipeline]:
        require(
            origin.made_by in ("sample", "reproduce"),
            f"{path} was made by `reimagen {origin.made_by}`, which this command does not repeat; give its own again: "
            f"{origin.command}",
        )
        require(bool(origin.stages), f"{path}.stages is empty: nothing tells what drew it")
        if key not in self._opened:
            models, stages = [self._model(each.model, path) for each in origin.stages], []
            for number, (told, model) in enumerate(zip(origin.stages, models, strict=True)):
                kind = type(model.config.system.sampler)
                settings = parse(kind, told.sampler, f"{path}.stages[{number}].sampler")
                k = getattr(settings, "k", None)
                require(
                    k is None or k <= MOST_NEIGHBOURS,
                    f"{path}.stages[{number}].sampler.k is {k}: at most {MOST_NEIGHBOURS} is taken",
                )
                stages.append(_named(path, model.stage, settings, told.batch_size))
            self._opened[key] = models, _named(path, Pipeline, stages, origin.seed)
        return self._opened[key]

    def _model(self, told: ModelOrigin, path: Path) -> Model:
        """The model with the checksum that is told. Raises `UserError` that names another one."""
        wanted = f"{path} was drawn by {told.name} (checksum {told.sha256})"
        require(bool(self.models or told.folder), f"{wanted}; nothing tells where it lies: give --model DIR")
        others = []
        for folder in self.models or (Path(told.folder),):
            require(
                bool(self.models) or str(folder) == "shipped" or folder.is_dir(),
                f"{wanted}; {folder} is not here: give --model DIR",
            )
            for step in dict.fromkeys((told.step, None)):  # a run that went on may have the step still
                model = self._open(folder, step)
                if model is not None and model.digest == told.sha256:
                    return model
            others.append(f"{folder} holds {model.config.name} ({model.digest})")
        raise UserError(f"{wanted}, but {', '.join(others)}: give the folder of the model that drew it, --model DIR")

    def _open(self, folder: Path, step: int | None) -> Model | None:
        """A model; None where a step is asked for that is not there."""
        if (folder, step) not in self._opened:
            try:
                model = Model.open(folder, text_encoder=self.text_encoder, on_host=True, step=step)
            except UserError:
                if step is None:
                    raise
                model = None
            require(
                model is None or hasattr(kinds.system_of(model.config), "visited"),
                f"{folder} is a {model and model.config.system.kind}: it draws no such images",
            )
            self._opened[folder, step] = model
        return self._opened[folder, step]

    def _request(self, path: Path, origin: Origin, model: Model) -> Request:
        neighbours = tuple(self._neighbour(told, model.config.system.resolution) for told in origin.neighbours)
        numbers = {name: _as_tuple(value) for name, value in origin.stages[0].guidance.items()}
        return Request(origin.prompt, neighbours, origin.index, numbers, self._start(origin, model), origin.negative)

    def _neighbour(self, told: NeighbourOrigin, side: int) -> Neighbour:
        found = self._in_bases(told, side) if told.base else self._in_files(told, side)
        for hit in found:
            if pixels_sha256(hit.image) == told.pixels_sha256:
                return hit
        option = "--knowledge-base DIR" if told.base else "--reference IMAGE"
        others = " (only others of this name are)" if found else ""
        raise UserError(f"its neighbour {told.key}, {told.text!r}, is not found{others}: give {option}, where it lies")

    def _in_bases(self, told: NeighbourOrigin, side: int) -> list[Neighbour]:
        found = []
        for folder in self.knowledge_bases or ([Path(told.place)] if told.place and Path(told.place).is_dir() else []):
            if folder not in self._opened:
                self._opened[folder] = KnowledgeBase.open(folder)
            base = self._opened[folder]
            try:
                ids = base.ids_of([told.key])
            except UserError:  # another base may have it
                continue
            score = np.nan if told.score is None else told.score
            place = str(folder), base.fingerprint
            found += [Neighbour.of(record, score, side, told.source, *place) for record in base.records.fetch(ids)]
        return found

    def _in_files(self, told: NeighbourOrigin, side: int) -> list[Neighbour]:
        files = self.references or ([Path(told.place)] if told.place else [])
        return [from_file(path, told.text, side) for path in files if path.is_file()]

    def _start(self, origin: Origin, model: Model) -> np.ndarray | None:
        if origin.start is None:
            return None
        stage = model.config.system.super_resolution
        require(stage is not None, "it was drawn from a picture, which its model does not take")
        file = self.low_res or (Path(origin.start.file) if origin.start.file else None)
        require(file is not None and file.is_file(), "the picture that it enlarges is not found: give --low-res IMAGE")
        image = images.decode(images.read(file), stage.low_resolution)
        require(
            pixels_sha256(image) == origin.start.pixels_sha256,
            f"{file} is not the picture that it enlarges: give --low-res IMAGE",
        )
        return image


def pictures_of(paths: Sequence[Path]) -> Iterator[Path]:
    """The files, and in the place of a folder its pictures that tell where they come from."""
    for path in paths:
        if not path.is_dir():
            yield path
            continue
        found = 0
        for picture in sorted(path.glob("*.png")):
            if picture.name == "grid.png":
                continue
            try:
                read_origin(picture)
            except NoOrigin as error:
                say(error, error=True)
                continue
            found += 1
            yield picture
        require(found > 0, f"{path} holds no picture that tells where it comes from")


def _named(path: Path, call: Any, *args: Any) -> Any:
    """What is wrong with what a file tells is said of the file."""
    try:
        return call(*args)
    except UserError as error:
        raise UserError(f"{path}: {error}") from error


def _as_tuple(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value
