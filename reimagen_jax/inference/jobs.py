"""Pictures of many prompts in a folder: each is written when its batch is drawn, and what is there is not drawn again.

Prompts are taken in parts: neighbours are retrieved, and texts embedded, for one part at a time, so that a job of any
length takes the memory of a part. A process that dies loses the batches that were on the device; the same job given
again goes on, and ends in what an undisturbed one leaves, since an image depends on its request, the settings and
(seed, index) alone. What the job is lies in job.json: the pictures of another one are not mixed in.
"""

import json
import re
import textwrap
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, suppress
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from reimagen_jax.errors import require
from reimagen_jax.files import read_json, resumed_dir, write_json
from reimagen_jax.inference.model import Model
from reimagen_jax.inference.origin import Origin, read_origin, save_image
from reimagen_jax.inference.pipeline import Pipeline
from reimagen_jax.inference.prompts import Prompt, PromptSource
from reimagen_jax.progress import track
from reimagen_jax.systems.request import Request

JOB, RESULTS = "job.json", "sample.json"
PART = 256
"""Prompts whose neighbours are in memory at once."""
_WHOSE = {
    "its checksum": "the knowledge base's checksum",
    "its size": "the knowledge base's size",
    "its SHA-256": "the low-resolution image's SHA-256",
    "their SHA-256": "the references' SHA-256",
}
"""Facts that stand in reports behind what they are of, as they are named where they stand alone."""
_PICTURE = re.compile(r"\d{3,}-[a-z0-9-]+-\d+\.png")

Tell = Callable[[int, Sequence[Request], Sequence[np.ndarray], Sequence[str]], list[Origin]]
"""Of stage number n, from 1 on: where these images of these requests come from, whose prompts are of these records."""


@dataclass(frozen=True)
class Job:
    """Every prompt of a share, drawn `num_images` times by the stages of a pipeline."""

    asked: PromptSource
    pipeline: Pipeline
    models: Sequence[Model]
    num_images: int
    tell: Tell
    about: Mapping[str, Any] = field(default_factory=dict)
    """What the images depend on besides, by names, in JSON types: where the neighbours are looked for."""
    start: np.ndarray | None = None
    """An image for the first stage to enlarge."""
    share: tuple[int, int] = (1, 1)
    """Number n of m equal shares of the prompts."""

    @property
    def prompts(self) -> range:
        """The numbers of the prompts to draw."""
        which, among = self.share
        return range(which - 1, self.asked.number, among)

    def __len__(self) -> int:
        """Images."""
        return len(self.prompts) * self.num_images

    def names(self) -> Iterator[str]:
        """The files of all images, in order."""
        for first in range(0, len(self.prompts), PART):
            numbers = self.prompts[first : first + PART]
            for number, prompt in zip(numbers, self.asked.gather(numbers), strict=True):
                yield from (picture_name(number, s, prompt.text) for s in range(self.num_images))

    def draw(self, folder: Path) -> None:
        """Draws and writes what is missing in an existing folder. Raises `UserError` where another job's images are."""
        places = places_of(folder, len(self.models))
        self._begin(folder)
        try:
            there = _pictures(folder)
            for name, images in track(self._drawn(there), len(self) - len(there), "sampling", "image"):
                for place, (image, origin) in zip(places, images, strict=True):
                    if image.ndim == 3:  # an embedding is no picture
                        place.mkdir(exist_ok=True)
                        save_image(place / name, image, origin)
        except BaseException:
            if not _pictures(folder):  # nothing came of it
                (folder / JOB).unlink()
                for place in places[:-1]:
                    with suppress(OSError):
                        place.rmdir()
            raise

    def _begin(self, folder: Path) -> None:
        stages = {}
        for number, (model, stage) in enumerate(zip(self.models, self.pipeline.stages, strict=True), 1):
            of = f"stage {number}: " if len(self.models) > 1 else ""
            facts = {"model": f"{model.config.name} {model.digest}", **asdict(stage.settings)}
            stages |= {f"{of}{name}": value for name, value in facts.items()}
        facts = {"prompts": self.asked.digest, "images of each": self.num_images, "share": self.share}
        facts = json.loads(json.dumps({**facts, "seed": self.pipeline.seed, **stages, **self.about}))
        if (folder / JOB).is_file() and _pictures(folder):
            before = read_json(folder / JOB, "what was drawn here")
            before = before if isinstance(before, dict) else {}
            differ = [name for name in {**before, **facts} if before.get(name) != facts.get(name)]
            told = "; ".join(
                f"{_WHOSE.get(name, name)}: {_word(before, name)} then, {_word(facts, name)} now" for name in differ[:4]
            )
            require(
                not differ,
                f"{folder} has the images of another job ({told}): give the same options to go on with it, choose "
                "another --out, or pass --overwrite",
            )
        write_json(folder / JOB, facts)

    def _drawn(self, there: set[str]) -> Iterator[tuple[str, list[tuple[np.ndarray, Origin]]]]:
        """The names of images that are missing; of each stage, the image and where it comes from."""
        records: dict[int, str] = {}
        for requests, images in self.pipeline.stream(self._missing(there, records)):
            keys = [records.pop(request.index) for request in requests]
            origins = [self.tell(number, requests, of_stage, keys) for number, of_stage in enumerate(images, 1)]
            for i, request in enumerate(requests):
                name = picture_name(*divmod(request.index, self.num_images), request.prompt)
                yield name, [(of_stage[i], told[i]) for of_stage, told in zip(images, origins, strict=True)]

    def _missing(self, there: set[str], records: dict[int, str]) -> Iterator[Request]:
        """The requests for what is not there; `records` holds their prompts' keys meanwhile."""
        S = self.num_images
        for first in range(0, len(self.prompts), PART):
            numbers, wanted = self.prompts[first : first + PART], []
            for number, prompt in zip(numbers, self.asked.gather(numbers), strict=True):
                left = [number * S + s for s in range(S) if picture_name(number, s, prompt.text) not in there]
                wanted += [(prompt, left)] if left else []
            found = self.asked.find([prompt for prompt, _ in wanted])
            requests = [
                replace(prompt.request(index), start=self.start)
                for prompt, (_, left) in zip(found, wanted, strict=True)
                for index in left
            ]
            self.pipeline.prepare(requests)
            records |= {index: prompt.key for prompt, left in wanted for index in left}
            yield from requests


def job_dir(out: Path, *, overwrite: bool) -> AbstractContextManager[Path]:
    """The folder of a job (see `resumed_dir`)."""
    return resumed_dir(out, kind="images", begun=JOB, overwrite=overwrite)


def most_neighbours(asked: PromptSource) -> tuple[int, list[Prompt]]:
    """The most neighbours that any prompt has, for which there has to be room, and prompts of which one has so many."""
    most, which = 0, []
    for prompts in asked.parts(PART):
        found = max(len(prompt.neighbours) for prompt in prompts)
        if found > most:
            most, which = found, prompts
        if found == asked.most:  # in a long job, that of the first part
            break
    return most, which


def places_of(folder: Path, stages: int) -> list[Path]:
    """The folders of the stages' images; the last one's is the folder itself."""
    return [folder / f"stage{number}" for number in range(1, stages)] + [folder]


def picture_name(number: int, s: int, text: str) -> str:
    """The file of image s of a prompt, by its number and text."""
    slug = "-".join(re.findall(r"[a-z0-9]+", text.lower()))[:48].strip("-") or "image"
    return f"{number:03d}-{slug}-{s}.png"


def write_summary(folder: Path, facts: Mapping[str, Any], names: Iterable[str]) -> None:
    """Writes sample.json: the facts, then what lies beside each of these images, read one by one."""
    partial = folder / f".{RESULTS}.partial"
    with partial.open("w", encoding="utf-8") as file:
        head = json.dumps({**facts, "images": []}, indent=2, ensure_ascii=False, allow_nan=False)
        file.write(head.removesuffix("]\n}"))
        for i, name in enumerate(names):
            entry = json.dumps(_entry(name, read_origin(folder / name)[0]), indent=2, ensure_ascii=False)
            file.write(("," if i else "") + "\n" + textwrap.indent(entry, "    "))
        file.write("\n  ]\n}\n")
    partial.replace(folder / RESULTS)


def _entry(name: str, origin: Origin) -> dict[str, Any]:
    """An image in sample.json."""
    told = {"file": name, "record": origin.record, "prompt": origin.prompt, "index": origin.index}
    told |= {"negative": origin.negative} if origin.negative else {}
    told |= {name: value for name, value in origin.more.items() if isinstance(value, int | float)}
    neighbours = [
        {
            "key": hit.key,
            "text": hit.text,
            "score": None if hit.score is None else round(hit.score, 4),
            "pixels_sha256": hit.pixels_sha256,
        }
        | ({} if hit.weight == 1 else {"weight": hit.weight})
        | ({"rights": hit.rights} if hit.rights else {})
        for hit in origin.neighbours
    ]
    return told | origin.stages[0].guidance | {"neighbours": neighbours}


def _pictures(folder: Path) -> set[str]:
    """The images that are there. A file without content is what a machine leaves that went off."""
    return {path.name for path in folder.iterdir() if _PICTURE.fullmatch(path.name) and path.stat().st_size}


def _word(facts: Mapping[str, Any], name: str) -> str:
    return json.dumps(facts[name], ensure_ascii=False)[:80] if name in facts else "nothing"
