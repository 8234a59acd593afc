"""What the host does for RCG's systems: records as batches to train on, requests as inputs to draw from."""

import dataclasses
import difflib
from collections.abc import Sequence
from functools import cached_property
from typing import Any

import numpy as np

from reimagen_jax.errors import UserError, require
from reimagen_jax.systems.base import Preview, Settings
from reimagen_jax.systems.examples import Examples, unread
from reimagen_jax.systems.moco.feed import labels_of
from reimagen_jax.systems.rcg.arrays import NO_CLASS, GeneratorInputs, PictureBatch, RdmInputs
from reimagen_jax.systems.rcg.generator import Generator
from reimagen_jax.systems.rcg.represented import Pixels
from reimagen_jax.systems.rcg.settings import (
    PixelsConfig,
    RdmSamplerConfig,
)
from reimagen_jax.systems.records_feed import RecordsFeed
from reimagen_jax.systems.reimagen.feed import check_weights
from reimagen_jax.systems.request import Request


class PicturesFeed(RecordsFeed):
    """Pictures with their classes, and an encoder that represents them."""

    def settled(self) -> "PicturesFeed":
        """The feed with the classes of its records. Raises `UserError` where encoder or records are missing, or a class
        of theirs is not named."""
        name, model, init = self.config.name, self.config.system, self.config.init
        if model.held:
            require(
                any(rate == model.frozen for rate in self.config.train.rates),
                f"train.rates does not freeze the {' and the '.join(model.held)} of {name}: add {model.frozen}, "
                "FROZEN of its settings",
            )
            require(
                bool(init.weights),
                f"{name} holds an encoder that does not learn: pass --init.weights DIR, a folder that `reimagen "
                "encode-train` has written of a run of rcg_moco32.py, a CLIP, or what holds one of them (or name it by "
                "--init.beside, where --init.weights is what the U-Net starts from)",
            )
        super().settled()
        fresh = (*init.fresh, *(part for part in model.own if part not in init.fresh))
        config = dataclasses.replace(self.config, init=dataclasses.replace(init, fresh=fresh))
        if self.config.data.class_by:
            known = sorted(set(self.labels))
            classes = model.classes or tuple(known)
            lost = sorted(set(known) - set(classes))
            require(
                not lost,
                f"classes lacks {', '.join(map(repr, lost[:5]))}, which records have ({self.config.data.class_by})",
            )
            config = dataclasses.replace(config, system=dataclasses.replace(model, classes=classes))
        return dataclasses.replace(self, config=config)

    @cached_property
    def labels(self) -> list[str]:
        """The value of `data.class_by` of each record."""
        return labels_of(self.records, self.config.data.class_by)

    def drawn(self, rng: np.random.Generator, batch: int) -> tuple[np.ndarray, ...]:
        """Which pictures are mirrored."""
        return (rng.random(batch) < 0.5 if self.config.data.flip else np.zeros(batch, bool),)

    def reader(self, cache_bytes: int) -> Any:
        """Ids of records, and which are mirrored -> `PictureBatch`."""
        examples = Examples(self.records, self.config.system.seen, unread).kept(cache_bytes)
        class_N = np.full(len(self.records), NO_CLASS, np.int32)
        if self.config.data.class_by:
            number = {name: i for i, name in enumerate(self.config.system.classes)}
            class_N = np.asarray([number[label] for label in self.labels], np.int32)

        def read(ids_B: np.ndarray, mirrored_B: np.ndarray) -> PictureBatch:
            image_BHWC, _ = examples(ids_B)
            image_BHWC = np.where(mirrored_B[:, None, None, None], image_BHWC[:, :, ::-1], image_BHWC)
            return PictureBatch(image_BHWC, class_N[ids_B])

        return read

    def class_of(self, prompt: str) -> int:
        """The number of the class that a prompt names, whatever its case; of none, where it is empty. Raises
        `UserError` for another, with those that are near."""
        classes, asked = self.config.system.classes, prompt.strip()
        if not asked:
            return NO_CLASS
        known = {name.casefold(): i for i, name in enumerate(classes)} | {name: i for i, name in enumerate(classes)}
        found = known.get(asked, known.get(asked.casefold()))
        if found is not None:
            return found
        near = difflib.get_close_matches(asked, classes, 3, 0.5) or classes[:5]
        raise UserError(
            f"{self.config.name} knows no class {asked!r} among its {len(classes)}: such are "
            f"{', '.join(map(repr, near))}"
        )

    def classes_of(self, requests: Sequence[Request]) -> np.ndarray:
        """The numbers of their classes."""
        by_class = bool(self.config.data.class_by)
        return np.asarray([self.class_of(each.prompt) if by_class else NO_CLASS for each in requests], np.int32)

    @property
    def guided(self) -> bool:
        """Whether it is told anything that guidance could strengthen."""
        return bool(self.config.data.class_by)

    @property
    def named(self) -> tuple[str, ...]:
        """Numbers that a request may say."""
        return ("text_weight",) if self.guided else ()

    def numbers(self, request: Request, settings: Settings) -> dict[str, float]:
        return {name: float(request.guidance.get(name, getattr(settings, name))) for name in self.named}

    def weights(self, requests: Sequence[Request], settings: Settings) -> np.ndarray:
        """Of guidance; 1 where there is none."""
        return np.asarray([self.numbers(each, settings).get("text_weight", 1.0) for each in requests], np.float32)

    def check_class(self, request: Request, drop: float) -> None:
        """Raises `UserError` for a class that it does not know, and none where it always knows one. A prompt says
        nothing to a system without classes."""
        if self.config.data.class_by and self.class_of(request.prompt) == NO_CLASS:
            require(
                drop > 0,
                f"{self.config.name} has learned no class for an empty prompt (class_drop, condition_drop): name one, "
                f"such as {self.config.system.classes[0]!r}",
            )

    def check_nothing_else(self, request: Request, settings: Settings) -> None:
        """Raises `UserError` for what none of these systems looks at."""
        require(not request.negative, f"{self.config.name} reads no text: it cannot be led away from a negative prompt")
        self.check_plain(request, settings, self.named)


class RdmFeed(PicturesFeed):
    """The feed of a representation diffusion model."""

    def preview(self, batch: PictureBatch) -> None:
        """None: no image is drawn."""

    def check(self, request: Request, settings: RdmSamplerConfig) -> None:
        """Raises `UserError` for what it does not look at, and for a class that it does not know."""
        require(
            not request.neighbours and request.start is None,
            f"{self.config.name} draws a representation out of nothing or of a class, neighbours and pictures have "
            "their own, which a generator draws from",
            "give that to --model",
        )
        self.check_class(request, self.config.system.class_drop)
        self.check_nothing_else(request, settings)

    def collate(self, requests: Sequence[Request], settings: RdmSamplerConfig) -> RdmInputs:
        """The inputs of `requests`."""
        return RdmInputs(self.classes_of(requests), self.weights(requests, settings))


class GeneratorFeed(PicturesFeed):
    """The feed of a pixel generator."""

    @property
    def model(self) -> PixelsConfig:
        """The experiment's settings of this system."""
        return self.config.system

    @property
    def system(self) -> Pixels:
        """What it is the feed of."""
        return Generator(self.config)

    @property
    def guided(self) -> bool:
        return self.model.condition != "none"

    def preview(self, batch: PictureBatch) -> Preview:
        """The target; drawn from its representation or class, and from nothing."""
        B, image_BHWC, system = len(batch.image_BHWC), np.asarray(batch.image_BHWC), self.system
        K = 1 if system.represents else 0

        def inputs(there: bool) -> GeneratorInputs:
            return GeneratorInputs(
                np.where(there, batch.class_B, NO_CLASS).astype(np.int32),
                np.full(B, self.model.sampler.text_weight, np.float32),
                np.zeros((B, system.start_width), np.float32),
                np.zeros(B, bool),
                image_BHWC[:, None][:, :K],
                np.full((B, K), there, np.float32),
            )

        drawn = {"from nothing": inputs(False)}
        if self.model.condition != "none":
            drawn = {f"from its {self.model.condition}": inputs(True)} | drawn
        captions = [self.model.classes[i] if i >= 0 else f"example {n + 1}" for n, i in enumerate(batch.class_B)]
        return Preview(captions, {"target": list(image_BHWC)}, drawn)

    def check(self, request: Request, settings: Settings) -> None:
        """Raises `UserError` for a request without what it draws from, or with what it does not look at."""
        name, model, start = self.config.name, self.model, request.start
        if model.condition == "representation":
            require(
                start is not None or bool(request.neighbours),
                f"{name} draws from a representation, and {request.prompt!r} has none",
                "draw one by an RDM, --model RDM --cascade GENERATOR; or draw from neighbours, --knowledge-base DIR or "
                "--reference IMAGE CAPTION; or from pictures, `reimagen rcg reconstruct`",
            )
            width = model.representation_width
            require(
                start is None or (start.shape == (width,) and np.issubdtype(start.dtype, np.floating)),
                f"{name} starts from a representation, {width} floats, not "
                f"{getattr(start, 'dtype', '')} {list(np.shape(start))}",
            )
            check_weights(request)
            found, most = len(request.neighbours), self.system.room(settings)
            require(found <= most, f"{found} neighbours for a prompt, but this generator takes at most {most}")
        else:
            require(
                start is None and not request.neighbours,
                f"{name} draws from {'a class' if model.condition == 'class' else 'nothing'} alone: it has no place "
                "for neighbours or pictures",
            )
            self.check_class(request, model.condition_drop)
        self.check_nothing_else(request, settings)

    def collate(self, requests: Sequence[Request], settings: Settings) -> GeneratorInputs:
        """The inputs of `requests`."""
        system, R = self.system, self.model.seen
        B, K = len(requests), system.room(settings)
        start, given = np.zeros((B, system.start_width), np.float32), np.zeros(B, bool)
        image, weight = np.zeros((B, K, R, R, 3), np.uint8), np.zeros((B, K), np.float32)
        for i, request in enumerate(requests):
            if request.start is not None:
                start[i], given[i] = request.start, True
            for j, neighbour in enumerate(request.neighbours[:K]):
                image[i, j], weight[i, j] = neighbour.at(R), neighbour.weight
        return GeneratorInputs(self.classes_of(requests), self.weights(requests, settings), start, given, image, weight)

    def limited(self, request: Request, settings: Settings) -> Request:
        """The request with its best neighbours only, as many as these settings have room for."""
        return dataclasses.replace(request, neighbours=request.neighbours[: self.system.room(settings)])
