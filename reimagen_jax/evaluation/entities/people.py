"""EntityDrawBench on real entities: prompts about the entities of a knowledge base, drawn for people to judge.

A knowledge base of photographs knows what its records show by their fields alone (an entity's name, a prompt about it,
a category), and no rater reads photographs. So pictures are written, not figures: S of each prompt in each arm, in an
order that does not tell the arm, beside pictures of the entity and a table to fill in with 0 and 1.
    own     the neighbours are the entity's own records, in their order
    none    nothing: Imagen, in the same weights
Once the table is filled in, for each category and arm, and for all categories:
    faithful   the entity is right                                                                       (1)
    aligned    what the prompt tells is right                                                            (2)
    both       (1) and (2) in the same picture: what the paper calls faithful                            (3)
    best of S  (3) in any of a prompt's pictures; the paper's headline, S = 4                            (4)
    realistic  without noticeable artifacts: the paper's photorealism                                    (5)
Source: Re-Imagen (Chen et al., ICLR 2023), section 4.3. There people judge the best of four pictures, of 1024 pixels.
"""

import csv
import io
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import numpy as np
from annotated_types import MinLen
from PIL import Image

from reimagen_jax.checked import Count, Natural, parse
from reimagen_jax.data.image_text import ImageText
from reimagen_jax.data.sources.fields import Captions, texts_in
from reimagen_jax.data.sources.where import lookup
from reimagen_jax.errors import UserError, require
from reimagen_jax.evaluation.statistics import mean_ci
from reimagen_jax.files import read_json, write_json, write_text
from reimagen_jax.inference.pipeline import Pipeline
from reimagen_jax.inference.requests import pinned
from reimagen_jax.progress import track
from reimagen_jax.retrieval.knowledge_base import KnowledgeBase
from reimagen_jax.systems.request import Neighbour, Request

SOURCES = ("own", "none")
ENTITY_FIELDS = ("entity", "entity_name", "name", "subject", "label", "class", "title")
"""Where an entity's name is looked for, best first; it is the caption where a record has none of them."""
PROMPT_FIELDS = ("prompt", "prompts")
"""Where prompts are looked for; the caption is the prompt where a record has none of them."""
CATEGORY_FIELD = "category"
"""Without it the category is the folder that the record came from, as a data set with a folder a category has it."""
RATINGS, DRAWN, PICTURES, REFERENCES = "ratings.csv", "drawn.json", "pictures", "references"
JUDGED = {"faithful": "entity_right", "aligned": "text_right", "realistic": "realistic"}
"""(1), (2), (5), and their columns in the table."""
MEASURES = ("faithful", "aligned", "both", "best", "realistic")
EVERYTHING = "all"
CHUNK = 16
"""Prompts whose pictures are in memory at once."""


@dataclass(frozen=True)
class RealPrompt:
    """A text to draw, and the entity that it is about."""

    text: str
    entity: str
    category: str
    keys: tuple[str, ...]
    """Of the records that show the entity, in their order."""
    is_caption: bool
    """The text is what one of these records is captioned with."""


def real_prompts(
    base: KnowledgeBase, entity: str | None = None, prompts: Sequence[str] = (), most: int | None = None
) -> list[RealPrompt]:
    """The different prompts about every entity of a knowledge base, in the records' order, at most so many a category.

    `entity` is the field of its name, `prompts` are fields or templates ("a {entity} in the snow"); without them they
    are looked for by name. Raises `UserError` where a named field is nowhere.
    """
    keys: dict[tuple[str, str], list[str]] = {}
    texts: dict[tuple[str, str], dict[str, bool]] = {}
    for record in track(base.records, len(base), "reading records", "record"):
        fields = {"text": record.text, **record.attributes}
        about = (_category(record), _entity(record, fields, entity))
        keys.setdefault(about, []).append(record.key)
        found = texts.setdefault(about, {})
        for text in _prompts(record, {"entity": about[1], **fields}, prompts):
            found[text] = found.get(text, False) or text == record.text
    drawn, number = [], dict.fromkeys((category for category, _ in keys), 0)
    for (category, name), found in texts.items():
        for text, is_caption in found.items():
            if most is None or number[category] < most:
                drawn.append(RealPrompt(text, name, category, tuple(keys[category, name]), is_caption))
                number[category] += 1
    return drawn


def _entity(record: ImageText, fields: Mapping[str, Any], named: str | None) -> str:
    for name in [named] if named else ENTITY_FIELDS:
        if found := texts_in(lookup(fields, name), numbers=True):
            return found[0].strip()
    require(named is None, f"record {record.key} has no text in its field {named}: name the entity's with --entity")
    return record.text


def _category(record: ImageText) -> str:
    folder = record.key.split("/")[0] if "/" in record.key else EVERYTHING
    return str(record.attributes.get(CATEGORY_FIELD) or folder)


def _prompts(record: ImageText, fields: Mapping[str, Any], named: Sequence[str]) -> list[str]:
    found = [Captions(place).split(fields)[0] for place in named or PROMPT_FIELDS]
    for place, texts in zip(named, found, strict=False):
        require(bool(texts), f"--prompt: {Captions(place).why_none(fields, f'record {record.key}')}")
    return [text for texts in found for text in texts] or [record.text]


def draw(
    pipeline: Pipeline,
    base: KnowledgeBase,
    prompts: Sequence[RealPrompt],
    sources: Sequence[str],
    k: int,
    eta: float,
    num_images: int,
    folder: Path,
) -> list[dict[str, Any]]:
    """Draws S pictures of every prompt in every arm, from the same noise in all, into an existing folder.

    Writes pictures/, references/ and ratings.csv, to be filled in. Returns a fact sheet for each picture, in the order
    of the table: what ratings.csv does not tell.
    """
    S, number = num_images, len(sources) * len(prompts) * num_images
    order = np.random.default_rng(pipeline.seed).permutation(number)
    sheets: list[dict[str, Any]] = [{}] * number
    rows: list[dict[str, str]] = [{}] * number
    for each in (PICTURES, REFERENCES):
        (folder / each).mkdir()
    for first in range(0, len(prompts), CHUNK):
        some = prompts[first : first + CHUNK]
        shown = [pinned(base, prompt.keys[: max(k, 1)], pipeline.config.system.resolution) for prompt in some]
        references = [_save_references(found, first + i, folder) for i, found in enumerate(shown)]
        for a, source in enumerate(sources):
            requests = list(_requests(some, shown, source, k, eta, first, S))
            images = pipeline(requests, f"{source}, prompt {first + 1} of {len(prompts)}")
            for j, image in enumerate(images):
                p, s = first + j // S, j % S
                place = int(order[(a * len(prompts) + p) * S + s])
                name = f"{PICTURES}/{place + 1:06d}.png"
                Image.fromarray(image).save(folder / name)
                asked = prompts[p]
                rows[place] = {
                    "picture": name,
                    "prompt": asked.text,
                    "entity": asked.entity,
                    "references": " ".join(references[p - first]),
                    **dict.fromkeys(JUDGED.values(), ""),
                }
                keys = [neighbour.key for neighbour in requests[j].neighbours]
                facts = {"source": source, "prompt": p, "image": s, "category": asked.category, "neighbours": keys}
                sheets[place] = {"picture": name, **facts}
    write_text(folder / RATINGS, _as_csv(rows))
    return sheets


def _requests(
    prompts: Sequence[RealPrompt],
    shown: Sequence[tuple[Neighbour, ...]],
    source: str,
    k: int,
    eta: float,
    first: int,
    S: int,
) -> Iterator[Request]:
    for i, (prompt, neighbours) in enumerate(zip(prompts, shown, strict=True), first):
        for s in range(S):
            yield Request(prompt.text, neighbours[:k] if source == "own" else (), i * S + s, {"eta": eta})


def _save_references(neighbours: Sequence[Neighbour], number: int, folder: Path) -> list[str]:
    names = [f"{REFERENCES}/{number + 1:05d}_{j + 1}.png" for j in range(len(neighbours))]
    for name, neighbour in zip(names, neighbours, strict=True):
        Image.fromarray(neighbour.image).save(folder / name)
    return names


def _as_csv(rows: Sequence[Mapping[str, str]]) -> str:
    text = io.StringIO()
    writer = csv.DictWriter(text, list(rows[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()


def judged(folder: Path) -> list[dict[str, Any]]:
    """A row for each category and arm, and for all categories, with (1) to (5) as `Interval`s.

    Raises `UserError` where the table is not that of these pictures, or not filled in with 0 and 1 throughout.
    """
    drawn = read_drawn(folder / DRAWN)
    verdicts = _verdicts(folder / RATINGS, [sheet.picture for sheet in drawn.pictures])
    S, prompts = drawn.images_per_prompt, len(drawn.prompts)
    rows = []
    categories = list(dict.fromkeys(prompt.category for prompt in drawn.prompts))
    of, entity_N = (np.array([getattr(prompt, name) for prompt in drawn.prompts]) for name in ("category", "entity"))
    for source in drawn.sources:
        value = {name: np.zeros((prompts, S), bool) for name in JUDGED}
        for sheet in drawn.pictures:
            if sheet.source == source:
                for name in JUDGED:
                    value[name][sheet.prompt, sheet.image] = verdicts[sheet.picture][name]
        for category in [*categories, *([EVERYTHING] if len(categories) > 1 else [])]:
            within = (of == category) | (category == EVERYTHING)
            here = {name: v[within] for name, v in value.items()}
            both = here["faithful"] & here["aligned"]  # (3)
            told = {**here, "both": both, "best": both.any(axis=1)}
            shares = {name: mean_ci(v, entity_N[within]) for name, v in told.items()}
            counts = {"prompts": len(both), "images_per_prompt": S}
            rows.append({"category": category, "source": source, **counts, **shares})
    return rows


@dataclass(frozen=True)
class Sheet:
    """What is known of a picture, see `draw`."""

    picture: str
    source: str
    prompt: Natural
    image: Natural
    category: str
    neighbours: tuple[str, ...]


@dataclass(frozen=True)
class Drawn:
    """What is needed of `drawn.json`."""

    images_per_prompt: Count
    sources: Annotated[tuple[str, ...], MinLen(1)]
    prompts: Annotated[tuple[RealPrompt, ...], MinLen(1)]
    pictures: tuple[Sheet, ...]


def read_drawn(path: Path) -> Drawn:
    """Raises `UserError` where it is not as `evaluate people` writes it: each picture once."""
    told = read_json(path, "what was drawn for people to judge")
    if isinstance(told, dict):  # the rest is for people
        told = {name: value for name, value in told.items() if name in Drawn.__dataclass_fields__}
    drawn = parse(Drawn, told, str(path))
    prompts, images = range(len(drawn.prompts)), range(drawn.images_per_prompt)
    found = {(sheet.source, sheet.prompt, sheet.image) for sheet in drawn.pictures}
    whole = len(drawn.pictures) == len(found) == len(drawn.sources) * len(prompts) * len(images)
    inside = all(s in drawn.sources and p in prompts and i in images for s, p, i in found)
    require(whole and inside, f"{path} does not tell of every picture once: it was changed since they were drawn")
    return drawn


def shown(folder: Path) -> dict[str, tuple[str, ...]]:
    """The pictures of the entity that stand beside each drawn one, by its name: what ratings.csv tells of them."""
    return {row.get("picture") or "": tuple((row.get("references") or "").split()) for row in _table(folder / RATINGS)}


def _table(path: Path) -> list[dict[str, Any]]:
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            return list(csv.DictReader(file))
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise UserError(f"{path} cannot be read: {error}; it is the table that the pictures came with") from error


def _verdicts(path: Path, pictures: Sequence[str]) -> dict[str, dict[str, bool]]:
    known, found = set(pictures), dict[str, dict[str, bool]]()
    for line, row in enumerate(_table(path), 2):
        name = row.get("picture") or ""
        require(name in known, f"{path}, line {line}: {name!r} is none of the pictures that were drawn")
        require(name not in found, f"{path}, line {line}: {name} is judged twice")
        found[name] = {}
        for measure, column in JUDGED.items():
            value = (row.get(column) or "").strip()
            require(value in ("0", "1"), f"{path}, line {line}: {column} is {value!r}, fill in 0 or 1")
            found[name][measure] = value == "1"
    missing = [name for name in pictures if name not in found]
    require(not missing, f"{path} has no line for {len(missing)} of {len(pictures)} pictures, such as {missing[:1]}")
    return found


def write_results(rows: Sequence[Mapping[str, Any]], folder: Path) -> Path:
    """results.json beside the pictures: the rows, with the settings that they were drawn with."""
    drawn = read_json(folder / DRAWN, "what was drawn for people to judge")
    facts = {name: value for name, value in drawn.items() if name not in ("pictures", "prompts")}
    write_json(folder / "results.json", {**facts, "rows": rows})
    return folder / "results.json"
