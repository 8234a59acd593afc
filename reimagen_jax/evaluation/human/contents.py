"""What there is to rate, gathered and stored: pictures of systems, references, what is known of the prompts.

Pictures are stored anew from their pixels alone, numbered in an order that tells no system: the files that systems have
written tell in themselves what drew them.
"""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from reimagen_jax.checked import read_lines
from reimagen_jax.data import images
from reimagen_jax.data.manifest import write_manifest
from reimagen_jax.data.records import Records
from reimagen_jax.errors import UserError, require
from reimagen_jax.evaluation.entities.people import CATEGORY_FIELD, ENTITY_FIELDS
from reimagen_jax.evaluation.human.drawn import Reference, System, Told, frequency, halves, picture
from reimagen_jax.evaluation.human.study import KIND, Prompt, Shown, Task
from reimagen_jax.evaluation.store import save_image
from reimagen_jax.files import listed
from reimagen_jax.inference.origin import pixels_sha256
from reimagen_jax.progress import track
from reimagen_jax.retrieval.knowledge_base import KnowledgeBase


@dataclass(frozen=True)
class Contents:
    """What there is to rate, before it is stored."""

    systems: Sequence[System]
    texts: Sequence[str]
    """The prompts, in order."""
    about: Mapping[str, Mapping[str, Any]]
    references: Mapping[str, Sequence[tuple[np.ndarray, str]]]
    """Pictures with captions, by prompt."""
    images_per_prompt: int
    best_of: int
    seed: int

    def told(self, text: str) -> list[Told]:
        """What each system has of a prompt."""
        return [system.prompts[text] for system in self.systems]

    @cached_property
    def checksums(self) -> dict[str, str]:
        """Of everything that is rated, by names."""
        prompts = [[text, self.about.get(text, {})] for text in self.texts]
        pictures = [
            [pixels_sha256(picture(path)) for path in told.pictures[: self.images_per_prompt]]
            for text in track(self.texts, len(self.texts), "comparing pictures", "prompt")
            for told in self.told(text)
        ]
        references = [
            [[pixels_sha256(image), caption] for image, caption in self.references.get(text, ())] for text in self.texts
        ]
        return {
            "systems": ", ".join(system.label for system in self.systems),
            "prompts": _sha256(prompts),
            "pictures": _sha256(pictures),
            "references": _sha256(references),
            "best of": str(self.best_of),
            "seed": str(self.seed),
        }

    def write(self, folder: Path) -> None:
        """Stores pictures and manifest in an existing, empty folder, in an order that tells no system."""
        S, g = self.images_per_prompt, self.best_of
        order = np.random.default_rng((self.seed, 0)).permutation(len(self.texts) * len(self.systems) * S)
        names = iter(f"{int(place) + 1:06d}.png" for place in order)
        prompts, tasks = [], []
        for p, text in enumerate(track(self.texts, len(self.texts), "storing pictures", "prompt")):
            shown = []
            for j, (image, caption) in enumerate(self.references.get(text, ()), 1):
                shown.append(Shown(f"reference-{p + 1:05d}-{j}.png", caption))
                save_image(image, folder / shown[-1].file)
            about = self.about.get(text, {})
            prompts.append(Prompt(text, about.get("category", ""), about.get("frequency", ""), tuple(shown)))
            for s, told in enumerate(self.told(text)):
                stored = []
                for path in told.pictures[:S]:
                    stored.append(next(names))
                    save_image(picture(path), folder / stored[-1])
                tasks += [Task(p, s, tuple(stored[first : first + g])) for first in range(0, S, g)]
        fields = {
            "seed": self.seed,
            "best_of": g,
            "images_per_prompt": S,
            "systems": [system.label for system in self.systems],
            "prompts": [asdict(prompt) for prompt in prompts],
            "tasks": [asdict(task) for task in tasks],
            "contents": self.checksums,
        }
        write_manifest(folder, KIND, fields)


def group_size(systems: Sequence[System], texts: Sequence[str], best_of: int) -> tuple[int, int]:
    """How many pictures of each prompt and system are rated, and how many at once.

    As many as each system has of each prompt, at most; of these a multiple of `best_of`, or all where they are fewer.
    """
    fewest = min(len(system.prompts[text].pictures) for system in systems for text in texts)
    size = min(best_of, fewest)
    return fewest - fewest % size, size


def read_about(path: Path) -> dict[str, dict[str, Any]]:
    """What is known of prompts, by their texts: from records whose captions they are, or lines of JSON with a `text`.

    Where entities are named and nothing tells how frequent they are, the records are counted.
    """
    if path.is_dir():
        rows = [{**record.attributes, "text": record.text} for record in Records.open(path)]
    else:
        rows = list(read_lines(path, dict[str, Any], "what is known of prompts"))
    found: dict[str, dict[str, Any]] = {}
    counts: dict[str, int] = {}
    for number, row in enumerate(rows, 1):
        text = row.get("text", row.get("prompt"))
        require(isinstance(text, str), f"{path}, line {number} has no text: the prompt belongs there")
        found.setdefault(text, row)
        if entity := _entity(row):
            counts[entity] = counts.get(entity, 0) + 1
    half = halves(counts) if path.is_dir() else {}
    return {text: described(row, half) for text, row in found.items()}


def described(row: Mapping[str, Any], half: Mapping[str, str] | None = None) -> dict[str, str]:
    """Category and frequency, as far as a row tells them."""
    often = frequency(row) or (half or {}).get(_entity(row), "")
    category = row.get(CATEGORY_FIELD)
    told = {"category": str(category) if category not in (None, "") else "", "frequency": often}
    return {name: value for name, value in told.items() if value}


def _entity(row: Mapping[str, Any]) -> str:
    return next((str(row[name]) for name in ENTITY_FIELDS if row.get(name)), "")


def about(systems: Sequence[System], texts: Sequence[str], more: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """Category and frequency of each prompt: `more` goes before what the folders tell."""
    found = {}
    for text in texts:
        rows = [described(system.prompts[text].about) for system in reversed(systems)]
        found[text] = {name: value for row in [*rows, more.get(text, {})] for name, value in row.items()}
    return found


def references(
    systems: Sequence[System], texts: Sequence[str], of: str, bases: Sequence[Path], most: int
) -> dict[str, list[tuple[np.ndarray, str]]]:
    """At most so many references of each prompt, with captions: the same for all systems.

    They are those of the system with the label `of`, or of the first that has some. Raises `UserError` where one is
    not found, naming its knowledge base.
    """
    labels = [system.label for system in systems]
    require(not of or of in labels, f"--references-of {of}: the systems are {listed(labels)}")
    from_all = [system for system in systems if of in ("", system.label)]
    opened: dict[Path, KnowledgeBase] = {}
    found = {}
    for text in texts:
        told = next((t.references for s in from_all if (t := s.prompts[text]).references), ())[:most]
        found[text] = [(_image_of(reference, bases, opened), reference.caption) for reference in told]
    return found


def _image_of(reference: Reference, bases: Sequence[Path], opened: dict[Path, KnowledgeBase]) -> np.ndarray:
    what = f"the reference {reference.key or reference.place}, {reference.caption!r},"
    if not reference.base and not reference.key:
        return picture(Path(reference.place))
    if not reference.base:  # a file that a picture was drawn with
        require(bool(reference.place) and Path(reference.place).is_file(), f"{what} is not found: it was a file")
        return _same(reference, picture(Path(reference.place)), what)
    places = list(bases) or ([Path(reference.place)] if reference.place else [])
    for place in places:
        if not place.is_dir():
            continue
        if place not in opened:
            opened[place] = KnowledgeBase.open(place)
        base = opened[place]
        if base.fingerprint != reference.base:
            continue
        record = next(iter(base.records.fetch(base.ids_of([reference.key]))))
        return _same(reference, images.decode(record.image), what)
    raise UserError(
        f"{what} is not found: give --knowledge-base DIR, the one that it was drawn with ({reference.base}), "
        "or --references-of another system"
    )


def _same(reference: Reference, image: np.ndarray, what: str) -> np.ndarray:
    """The image. Raises `UserError` where it is another one than was told."""
    if reference.side and reference.pixels_sha256:
        seen = images.decode(images.encode(Image.fromarray(image), lossy=False), reference.side)
        require(pixels_sha256(seen) == reference.pixels_sha256, f"{what} is another picture than it was drawn with")
    return image


def _sha256(value: Any) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True, ensure_ascii=False).encode()).hexdigest()[:16]
