"""What there is to rate: the pictures of systems, by prompt, as `reimagen` commands have left them in folders.

A folder holds one system or several parts:
    sample, others     pictures with their origins in them; one system
    evaluate people    own, none: where the neighbours came from
    evaluate entities  with --pictures, a folder for each arm (retrieval-k2-eta0.5, none, ...)
    sweep              its columns over eta (eta=0.5, none), or the points of a grid by their numbers
Prompts are told apart by their texts alone. What is read of strangers' folders names files in these folders only; the
places of references, which origins tell, are opened where no knowledge base is given.
"""

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

import numpy as np
from annotated_types import MinLen

from reimagen_jax.checked import Count, Number, parse
from reimagen_jax.data import images
from reimagen_jax.errors import UserError, require
from reimagen_jax.evaluation.entities import people
from reimagen_jax.evaluation.human.study import FREQUENT, INFREQUENT
from reimagen_jax.files import kind_of, listed, read_json
from reimagen_jax.inference.origin import NoOrigin, Origin, pixels_sha256, read_origin
from reimagen_jax.progress import track

PICTURES = "pictures"
"""Where `evaluate entities` and `evaluate people` put them."""
FREQUENCIES = {"frequent": FREQUENT, "infrequent": INFREQUENT, "rare": INFREQUENT, "unseen": INFREQUENT}
"""What records and prompts say of how often their entity is in the training data."""
FREQUENCY_FIELDS = ("frequency", "entity_split", "split")
ABOUT_THE_ENTITY = ("own", "retrieval")
"""Arms of `evaluate entities` whose neighbours are of the prompt's entity, or mostly."""
_LABEL = re.compile(r"[^=]{1,60}")


@dataclass(frozen=True)
class Reference:
    """A picture of what a prompt is about, with its caption: a record of a knowledge base, or a file."""

    caption: str
    key: str = ""
    """Of the record."""
    base: str = ""
    """Checksum of its knowledge base; empty for a file."""
    place: str = ""
    """Folder of the knowledge base, or the file; empty where that was left out."""
    pixels_sha256: str = ""
    """At `side`; empty where it is not told."""
    side: int = 0


@dataclass
class Told:
    """What the folders of a system tell of a prompt."""

    pictures: list[Path] = field(default_factory=list)
    """In the order of their numbers."""
    references: tuple[Reference, ...] = ()
    about: dict[str, Any] = field(default_factory=dict)
    """Its category, its entity, how often that is in the training data: what is known of it."""


@dataclass(frozen=True)
class System:
    """What drew the pictures, by the name that it has in the results."""

    label: str
    prompts: dict[str, Told]


def read_systems(given: Sequence[str]) -> list[System]:
    """The systems of `LABEL=FOLDER` and `LABEL=FOLDER:PART`; a folder of several parts without one is as many systems.

    Raises `UserError` for what is no folder of pictures, and for a label that two systems have.
    """
    systems: list[System] = []
    for text in given:
        label, equals, place = text.partition("=")
        require(
            bool(equals and place and _LABEL.fullmatch(label.strip())),
            f"{text!r}: give systems as LABEL=FOLDER, such as with=runs/with without=runs/without",
        )
        folder, part = _placed(place)
        found = dict(_parts(folder))
        if part:
            require(part in found, f"{folder} has no part {part!r}: there are {listed(list(found))}")
            found = {"": found[part]}
        for name, prompts in found.items():
            require(bool(prompts), f"{folder} holds no picture that tells where it comes from")
            systems.append(System(f"{label.strip()} {name}".strip(), prompts))
    labels = [system.label for system in systems]
    twice = sorted({label for label in labels if labels.count(label) > 1})
    require(not twice, f"two systems are called {listed(twice)}: each needs a label of its own")
    return systems


def common(systems: Sequence[System], *, only: bool) -> list[str]:
    """The prompts that all systems have, in the first one's order; says of each which it lacks, on raising `UserError`.

    With `only`, prompts that one of them lacks are left out.
    """
    every = list(dict.fromkeys(text for system in systems for text in system.prompts))
    lacking = {system.label: [text for text in every if text not in system.prompts] for system in systems}
    shared = [text for text in every if all(text in system.prompts for system in systems)]
    said = "; ".join(
        f"{label} lacks {len(texts)} of {len(every)} prompts, such as {texts[0]!r}"
        for label, texts in lacking.items()
        if texts
    )
    require(bool(shared), f"the systems have no prompt in common: {said}")
    require(
        only or len(shared) == len(every),
        f"the systems were not drawn for the same prompts: {said}; give --only-common to rate the {len(shared)} in all",
    )
    return shared


def lacking(systems: Sequence[System]) -> Iterator[str]:
    """A line for each system that lacks prompts of the others."""
    every = dict.fromkeys(text for system in systems for text in system.prompts)
    for system in systems:
        if missing := [text for text in every if text not in system.prompts]:
            yield f"{system.label} lacks {len(missing)} of {len(every)} prompts, such as {missing[0]!r}: left out"


def frequency(about: Mapping[str, Any]) -> str:
    """Frequent, infrequent, or empty where nothing tells."""
    told = (FREQUENCIES.get(str(about[name])) for name in FREQUENCY_FIELDS if name in about)
    return next((each for each in told if each), "")


def halves(counts: Mapping[str, int]) -> dict[str, str]:
    """Which half each entity is in by how often it is counted: the paper's top half by frequency is frequent.

    An entity as often as the median one is infrequent; all are without a half where all are as often.
    """
    if len(set(counts.values())) < 2:
        return {}
    median = float(np.median(list(counts.values())))
    return {name: FREQUENT if count > median else INFREQUENT for name, count in counts.items()}


def picture(path: Path) -> np.ndarray:
    """uint8 [H, W, 3]. Raises `UserError` that names the file."""
    try:
        data = images.read(path)
        with images.room(data):
            return np.asarray(images.load(data))
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror}") from error
    except images.ImageError as error:
        raise UserError(f"{path}: {error}") from error


def _placed(place: str) -> tuple[Path, str]:
    """A folder and, behind the last colon, the name of a part."""
    if Path(place).is_dir():
        return Path(place), ""
    folder, colon, part = place.rpartition(":")
    require(bool(colon) and Path(folder).is_dir(), f"{place} is not a folder: give one with pictures to rate")
    return Path(folder), part


def _parts(folder: Path) -> Iterable[tuple[str, dict[str, Told]]]:
    kind = kind_of(folder)
    if kind == "pictures to judge":
        return _of_people(folder)
    if kind == "sweep over a grid":
        return _of_grid(folder)
    if kind == "sweep":
        return _of_etas(folder)
    if kind == "evaluation":
        arms = sorted((path for path in (folder / PICTURES).glob("*") if path.is_dir()), key=_own_first)
        require(
            bool(arms),
            f"{folder} has figures and no pictures: give its `reimagen evaluate entities` again with --pictures",
        )
        return [(arm.name, _of_arm(arm)) for arm in arms]
    return [("", _of_origins(folder))]


def _of_origins(folder: Path) -> dict[str, Told]:
    """Pictures that tell where they come from. Raises `UserError` where one is not as it was drawn."""
    found: list[tuple[Origin, Path, int]] = []
    paths = sorted(folder.glob("*.png"))
    for path in track(paths, len(paths), f"reading {folder.name}", "picture"):
        try:
            origin, image = read_origin(path)
        except NoOrigin:  # grids and contact sheets
            continue
        assert image is not None  # a PNG has one
        require(pixels_sha256(image) == origin.pixels_sha256, f"{path} is not as it was drawn: its pixels were changed")
        found.append((origin, path, image.shape[0] if len(origin.stages) == 1 else 0))
    prompts: dict[str, Told] = {}
    for origin, path, side in sorted(found, key=lambda each: each[0].index):
        told = prompts.setdefault(origin.prompt, Told())
        told.pictures.append(path)
        told.references = told.references or tuple(
            Reference(hit.text, hit.key, hit.base, hit.place, hit.pixels_sha256, side) for hit in origin.neighbours
        )
        told.about |= {name: each for name, each in origin.more.items() if isinstance(each, str | int)}
    return prompts


def _of_arm(folder: Path) -> dict[str, Told]:
    """Of `evaluate entities`, where neighbours may be of any entity: those that are of the prompt's are references."""
    prompts = _of_origins(folder)
    if folder.name.partition("-")[0] not in ABOUT_THE_ENTITY:
        for told in prompts.values():
            told.references = ()
    return prompts


def _own_first(arm: Path) -> tuple[int, str]:
    source = arm.name.partition("-")[0]
    return (ABOUT_THE_ENTITY.index(source) if source in ABOUT_THE_ENTITY else len(ABOUT_THE_ENTITY), arm.name)


def _of_people(folder: Path) -> Iterator[tuple[str, dict[str, Told]]]:
    drawn = people.read_drawn(folder / people.DRAWN)
    counts = {prompt.entity: len(prompt.keys) for prompt in drawn.prompts}
    half = halves(counts)
    shown = people.shown(folder)
    for source in drawn.sources:
        prompts: dict[str, Told] = {}
        for sheet in sorted(drawn.pictures, key=lambda each: (each.prompt, each.image)):
            if sheet.source != source:
                continue
            asked = drawn.prompts[sheet.prompt]
            told = prompts.setdefault(asked.text, Told())
            told.pictures.append(_inside(folder, sheet.picture))
            told.references = tuple(
                Reference(asked.entity, place=str(_inside(folder, name))) for name in shown.get(sheet.picture, ())
            )
            told.about = {"entity": asked.entity, "category": asked.category}
            told.about |= {"frequency": half[asked.entity]} if asked.entity in half else {}
        yield source, prompts


@dataclass(frozen=True)
class _Asked:
    """A prompt of sweep.json."""

    prompt: str


@dataclass(frozen=True)
class _Point:
    """A point of a grid."""

    number: Count
    images_prompt_seed: tuple[tuple[str, ...], ...]


@dataclass(frozen=True)
class _Grid:
    """What is needed of the sweep.json of a grid."""

    prompts: Annotated[tuple[_Asked, ...], MinLen(1)]
    points: tuple[_Point, ...]


@dataclass(frozen=True)
class _Etas:
    """What is needed of the sweep.json of a sweep over eta."""

    prompts: Annotated[tuple[_Asked, ...], MinLen(1)]
    etas: tuple[Number, ...]
    images_prompt_seed_column: tuple[tuple[tuple[str, ...], ...], ...]


def _of_grid(folder: Path) -> Iterator[tuple[str, dict[str, Told]]]:
    swept = parse(_Grid, _sweep_json(folder), str(folder / "sweep.json"))
    for point in swept.points:
        yield str(point.number), _by_prompt(folder, swept.prompts, point.images_prompt_seed)


def _of_etas(folder: Path) -> Iterator[tuple[str, dict[str, Told]]]:
    told = _sweep_json(folder)
    require(
        "images_prompt_seed_column" in told,
        f"{folder} was written by an earlier version, which did not tell the files: give its command again",
    )
    swept = parse(_Etas, told, str(folder / "sweep.json"))
    for column, name in enumerate(["none", *(f"eta={eta:g}" for eta in swept.etas)]):
        keys = [[seed[column] for seed in seeds if column < len(seed)] for seeds in swept.images_prompt_seed_column]
        yield name, _by_prompt(folder, swept.prompts, keys)


def _by_prompt(folder: Path, prompts: Sequence[_Asked], keys: Sequence[Sequence[str]]) -> dict[str, Told]:
    require(len(prompts) == len(keys), f"{folder / 'sweep.json'} does not tell of every prompt's images")
    found: dict[str, Told] = {}
    for asked, names in zip(prompts, keys, strict=True):
        found.setdefault(asked.prompt, Told()).pictures += [_inside(folder / "images", f"{name}.png") for name in names]
    return found


def _sweep_json(folder: Path) -> dict[str, Any]:
    told = read_json(folder / "sweep.json", "what a sweep has drawn")
    require(isinstance(told, dict), f"{folder / 'sweep.json'} is not as a sweep writes it")
    return told


def _inside(folder: Path, name: str) -> Path:
    """A file of a folder. Raises `UserError` for a name that leads out of it."""
    path = folder / name
    require(path.resolve().is_relative_to(folder.resolve()), f"{folder}: {name!r} leads out of the folder")
    return path
