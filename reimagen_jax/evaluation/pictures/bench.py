"""What a model draws for the captions of held-out records, in several arms, and how it is judged.

    with      the neighbours that retrieval finds
    without   none: Imagen, in the same weights
    wrong     those of another prompt, about something else
    true      the records' own pictures, judged like drawn ones: the ceiling of every figure

Further arms are `with` by other numbers of guidance. In every arm the same prompts are drawn from the same noise. The
gallery, true pictures of other records, is what judges learn from; no prompt's own record is in it. Pictures lie on
disk under a checksum of all that they depend on, written batch by batch: who was stopped goes on.
"""

import dataclasses
import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from jaxtyping import UInt8

from reimagen_jax.data import images
from reimagen_jax.data.image_text import ImageText
from reimagen_jax.data.records import ImageTexts
from reimagen_jax.data.sources.where import lookup
from reimagen_jax.errors import require
from reimagen_jax.evaluation.pictures import measures
from reimagen_jax.evaluation.pictures.features import Pictures, Spaces
from reimagen_jax.evaluation.pictures.judges import Judge
from reimagen_jax.evaluation.statistics import mean_ci, told_apart
from reimagen_jax.evaluation.store import Images, checksum
from reimagen_jax.inference.pipeline import Pipeline
from reimagen_jax.inference.prompts import Prompt
from reimagen_jax.progress import track
from reimagen_jax.systems.reimagen.feed import guidance_of
from reimagen_jax.systems.request import Neighbour, Request

WITH, WITHOUT, WRONG, TRUE = "with", "without", "wrong", "true"
FORMAT = 1
"""Of what is stored of a picture."""
AMONG = 65
"""True pictures, its own among them, that a drawn one is compared with."""
EVERYTHING = "all"
_READ_AT_ONCE = 1024
SHARES = ("entity", "rest", "both", "nearest", "first five", "likeness", "copied", "blank")


@dataclass(frozen=True)
class Arm:
    """A way of drawing: a row of the table."""

    neighbours: str
    guidance: tuple[tuple[str, Any], ...] = ()
    """Numbers that are not the model's."""

    def __str__(self) -> str:
        return ", ".join([self.neighbours, *(f"{name.replace('_', ' ')} {value:g}" for name, value in self.guidance)])


@dataclass(frozen=True)
class Gallery:
    """True pictures with their values of the fields that are judged."""

    pictures: Pictures = field(repr=False)
    values: Mapping[str, tuple[str | None, ...]]
    """Field -> of every picture."""


def gallery(
    sources: Sequence[ImageTexts],
    prompts: Sequence[Prompt],
    fields: Sequence[str],
    resolution: int,
    most: int,
    seed: int = 0,
) -> Gallery:
    """At most so many pictures of these records that are no prompt's own, drawn at random: first those that share a
    prompt's value of the first field.

    Records that are twice there, and pictures equal to a prompt's, are left out.
    """
    seen, wanted = {(prompt.source, prompt.key) for prompt in prompts}, set()
    if fields:
        wanted = {value_of(prompt.attributes, fields[0]) for prompt in prompts}
    others: list[tuple[int, int]] = []
    for number, records in enumerate(sources):
        names = list(zip(records.sources(), records.keys(), strict=True))
        others += [(number, i) for i, name in enumerate(names) if name not in seen]
        seen.update(names)
    drawn = {others[i]: rank for rank, i in enumerate(np.random.default_rng(seed).permutation(len(others)))}
    found: list[tuple[bool, int, ImageText]] = []
    for number, records in enumerate(sources):
        ids = [i for place, i in others if place == number]
        for part in np.array_split(np.array(ids, np.int64), -(-len(ids) // _READ_AT_ONCE) or 1):
            for i, record in zip(part.tolist(), records.fetch(part), strict=True):
                shared, rank = bool(fields) and value_of(record.attributes, fields[0]) in wanted, drawn[number, i]
                if shared or rank < most:
                    found.append((not shared, rank, record))
    kept = [record for _, _, record in sorted(found, key=lambda each: each[:2])[:most]]
    targets = {prompt.target.tobytes() for prompt in prompts}
    decoded = [(images.decode(record.image, resolution), record) for record in kept]
    decoded = [(picture, record) for picture, record in decoded if picture.tobytes() not in targets]
    require(
        len(decoded) > 1,
        "there are no true pictures to compare with: all records are prompts; give fewer (--limit), or a --gallery",
    )
    values = {name: tuple(value_of(record.attributes, name) for _, record in decoded) for name in fields}
    return Gallery(np.stack([picture for picture, _ in decoded]), values)


def value_of(attributes: Mapping[str, Any], name: str) -> str | None:
    """A field's value as a text; None where there is none."""
    value = lookup(attributes, name)
    return None if value is None or isinstance(value, list | Mapping) else str(value)


class PictureBench:
    """Draws arms and judges them."""

    def __init__(
        self,
        pipeline: Pipeline,
        model: str,
        prompts: Sequence[Prompt],
        true: Gallery,
        spaces: Spaces,
        entity: Judge | None,
        rest: Judge | None,
        images: Images,
        *,
        num_images: int = 1,
        group_by: str = "",
    ) -> None:
        """`model` is a checksum of the pipeline's parameters."""
        self.pipeline, self.model, self.prompts, self.gallery = pipeline, model, tuple(prompts), true
        self.spaces, self.entity, self.rest = spaces, entity, rest
        self.images, self.num_images = images, num_images
        self.true = np.stack([prompt.target for prompt in prompts])
        self.space = entity.space if entity is not None else "all"
        """For likeness, KID and FID."""
        self.about = [(value_of(each.attributes, entity.about) if entity else None) or each.text for each in prompts]
        """Of every prompt its entity, where there is a judge of it, else its text: several may be about the same."""
        self.groups = _groups(prompts, group_by, true, entity)
        self._true_ND, self._pool_MD = spaces(self.space, self.true), spaces.own(self.space)
        self._flat_pool_MD = measures.flat(true.pictures)
        self._pixel_pool_MD = measures.pixels(true.pictures)
        self._others = [self._others_of(i) for i in range(len(prompts))]
        shown = [_pictures(prompt.neighbours, self.true) for prompt in prompts]
        self.copy_threshold = measures.copy_threshold(self.true, shown)

    def neighbours(self, arm: Arm) -> list[tuple[Neighbour, ...]]:
        """Of every prompt."""
        own = [prompt.neighbours for prompt in self.prompts]
        if arm.neighbours in (WITH, TRUE):
            return own
        return [own[self._another(i)] for i in range(len(own))] if arm.neighbours == WRONG else [()] * len(own)

    def requests(self, arm: Arm) -> list[Request]:
        """S images of each prompt, each from noise that is its own."""
        S, found = self.num_images, self.neighbours(arm)
        return [
            Request(prompt.text, hits, i * S + s, dict(arm.guidance), negative=prompt.negative)
            for i, (prompt, hits) in enumerate(zip(self.prompts, found, strict=True))
            for s in range(S)
        ]

    def missing(self, arm: Arm) -> dict[str, Request]:
        """What is not drawn yet, by the names that it will have."""
        if arm.neighbours == TRUE:
            return {}
        named = {self.name(request): request for request in self.requests(arm)}
        return {name: request for name, request in named.items() if name not in self.images}

    def prepare(self, arms: Sequence[Arm]) -> int:
        """What is expensive for all that is missing, once; how many pictures that is. Raises `UserError` as drawing."""
        missing = {name: request for arm in arms for name, request in self.missing(arm).items()}
        if missing:
            self.pipeline.prepare(list(missing.values()))
        return len(missing)

    def draw(self, arm: Arm) -> None:
        """Draws and stores what is missing, as `prepare` has prepared it."""
        missing = self.missing(arm)
        names, number = iter(missing), max(stage.at_once for stage in self.pipeline.stages)
        batches = self.pipeline.stream(missing.values())
        for asked, drawn in track(batches, -(-len(missing) // number), str(arm), "batch"):
            for _, image in zip(asked, drawn[-1], strict=True):
                self.images[next(names)] = image

    def drawn(self, arm: Arm) -> UInt8[np.ndarray, "n s r r 3"]:
        """What was drawn."""
        if arm.neighbours == TRUE:
            return self.true[:, None]
        found = np.stack([self.images[self.name(request)] for request in self.requests(arm)])
        return found.reshape(len(self.prompts), self.num_images, *found.shape[1:])

    def name(self, request: Request) -> str:
        """A checksum of all that a picture depends on."""
        pipeline = self.pipeline
        told = [(hit.text, hashlib.sha256(hit.image.tobytes()).hexdigest()) for hit in request.neighbours]
        stages = [dataclasses.asdict(stage.settings) for stage in pipeline.stages]
        asked = {"prompt": request.prompt, "negative": request.negative, "neighbours": told, "index": request.index}
        guidance = guidance_of(request, pipeline.settings)
        return checksum(
            {
                "format": FORMAT,
                "model": self.model,
                "stages": stages,
                "seed": pipeline.seed,
                "guidance": guidance,
                **asked,
            }
        )

    def outcome(self, arm: Arm) -> dict[str, np.ndarray]:
        """Every measure that is a share, of each picture: float [N, S]; NaN where it is about nothing."""
        drawn_NS = self.drawn(arm)
        N, S = drawn_NS.shape[:2]
        drawn, rows = drawn_NS.reshape(-1, *drawn_NS.shape[2:]), np.repeat(np.arange(N), S)
        found: dict[str, np.ndarray] = {}
        for name, judge in (("entity", self.entity), ("rest", self.rest)):
            if judge is not None:
                asked = judge.knows([value_of(prompt.attributes, judge.about) for prompt in self.prompts])[rows]
                found[name] = np.where(asked < 0, np.nan, judge(drawn) == asked)
        if len(found) == 2:
            found["both"] = found["entity"] * found["rest"]
        others = [self._others[i] for i in rows]
        if arm.neighbours != TRUE and all(map(len, others)):
            by_pixels = measures.ranks(measures.flat(drawn), measures.flat(self.true)[rows], self._flat_pool_MD, others)
            found |= {"nearest": by_pixels == 1, "first five": by_pixels <= 5}
            vectors = self.spaces(self.space, drawn)
            rank = measures.ranks(vectors, self._true_ND[rows], self._pool_MD, others)
            found["likeness"] = 1.0 - (rank - 1) / np.array(list(map(len, others)))
        shown = [_pictures(hits, self.true) for hits in self.neighbours(arm)]
        true = None if arm.neighbours == TRUE else self.true[rows]
        each_shown = [shown[i] for i in rows]
        found["copied"] = measures.copied(drawn, true, each_shown, self._pixel_pool_MD, self.copy_threshold)
        found["blank"] = measures.blank(drawn, self.true)
        return {name: np.asarray(values, np.float64).reshape(N, S) for name, values in found.items()}

    def row(self, arm: Arm, group: str, outcome: Mapping[str, np.ndarray]) -> dict[str, Any]:
        """A row of the table: JSON types, shares are `Interval`s; KID and FID are over all groups alone."""
        within = np.array([group in (EVERYTHING, own) for own in self.groups])
        about_N = np.array(self.about)[within]
        row: dict[str, Any] = {"arm": str(arm), "group": group, "prompts": int(within.sum())}
        for name in SHARES:
            values = outcome.get(name, np.empty((len(within), 0)))[within]
            known = ~np.isnan(values).any(axis=1) & (values.shape[1] > 0)
            if known.any():
                row[name] = mean_ci(values[known], about_N[known])
        if arm.neighbours != TRUE and group == EVERYTHING:
            drawn = self.drawn(arm)
            vectors = self.spaces(self.space, drawn.reshape(-1, *drawn.shape[2:]))
            row |= {"KID": measures.kid_ci(vectors, self._true_ND), "FID": measures.fid(vectors, self._true_ND)}
        return row

    def rows(self, arm: Arm, outcome: Mapping[str, np.ndarray]) -> Iterator[dict[str, Any]]:
        """A row for everything, and for each group, of what `outcome` has found."""
        groups = list(dict.fromkeys(self.groups))
        for group in [EVERYTHING, *(groups if len(groups) > 1 else [])]:
            yield self.row(arm, group, outcome)

    def nearest_true(self, pictures: Pictures) -> Pictures:
        """The true picture, of the gallery or of a prompt, that is nearest to each."""
        pool, every = np.concatenate([self.gallery.pictures, self.true]), np.concatenate
        vectors = every([self._pool_MD, self._true_ND])
        found = [np.argmin(((vectors - x) ** 2).sum(axis=1)) for x in self.spaces(self.space, pictures)]
        return pool[found]

    def _another(self, i: int) -> int:
        """A prompt about something else, that has neighbours, for prompt i."""
        rivals = [j for j, prompt in enumerate(self.prompts) if self.about[j] != self.about[i] and prompt.neighbours]
        require(bool(rivals), f"no other prompt has neighbours that would be wrong for {self.prompts[i].text!r}")
        return rivals[np.random.default_rng((self.pipeline.seed, i)).integers(len(rivals))]

    def _others_of(self, i: int) -> np.ndarray:
        """Numbers of pictures of the gallery that prompt i's is told from: of another entity, alike in the rest."""
        allowed = np.ones(len(self.gallery.pictures), bool)
        for judge, same in ((self.entity, False), (self.rest, True)):
            if judge is not None:
                own = value_of(self.prompts[i].attributes, judge.about)
                allowed &= np.array([(value == own) == same for value in self.gallery.values[judge.about]])
        ids = np.flatnonzero(allowed)
        return np.random.default_rng((self.pipeline.seed, i)).permutation(ids)[: AMONG - 1]


def _pictures(hits: Sequence[Neighbour], like: Pictures) -> Pictures:
    side = like.shape[1]
    return np.stack([hit.at(side) for hit in hits]) if hits else like[:0]


def _groups(prompts: Sequence[Prompt], group_by: str, true: Gallery, entity: Judge | None) -> list[str]:
    """Of every prompt: its value of a field; or by `count`, how many pictures of its entity the gallery has."""
    if group_by != "count" or entity is None:
        return [value_of(prompt.attributes, group_by) or "" if group_by else EVERYTHING for prompt in prompts]
    values = list(true.values[entity.about])
    counts = [values.count(value_of(prompt.attributes, entity.about)) for prompt in prompts]
    bounds = [(0, "no picture"), (1, "1 picture"), (4, "2 to 4"), (16, "5 to 16"), (10**9, "more")]
    return [next(name for most, name in bounds if count <= most) for count in counts]


def best_of(
    arms: Sequence[Arm],
    outcomes: Mapping[Arm, Mapping[str, np.ndarray]],
    measure: str,
    gentle: Mapping[Arm, float],
    about: Sequence[str],
) -> tuple[Arm, list[Arm]]:
    """The arm with the highest mean of a measure; and, with it, those that cannot be told from it over what the prompts
    are `about` (`statistics.told_apart`), the one with the least guidance first: that is the one to take."""
    values = {arm: outcomes[arm][measure] for arm in arms}
    known = ~np.isnan(np.stack([value.mean(axis=1) for value in values.values()])).any(axis=0)
    values = {arm: value[known] for arm, value in values.items()}
    about_N = np.array(about)[known]
    best = max(arms, key=lambda arm: values[arm].mean())
    tied = [arm for arm in arms if not told_apart(values[best], values[arm], about_N)]
    return best, sorted(tied, key=lambda arm: (gentle[arm], -values[arm].mean()))
