"""What the host does for Re-Imagen: triples as batches to train on, requests as inputs to draw from."""

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import grain
import jax.numpy as jnp
import numpy as np

from reimagen_jax.checked import NonNegative, Strength, checked
from reimagen_jax.config import Experiment
from reimagen_jax.diffusion import schedule
from reimagen_jax.diffusion.degrade import shrink
from reimagen_jax.diffusion.editing import lets_go
from reimagen_jax.encoders.text_embeddings import TextEmbeddings
from reimagen_jax.encoders.text_input import TextInput, text_input
from reimagen_jax.encoders.texts import scattered, to_captions
from reimagen_jax.errors import require
from reimagen_jax.retrieval.triples import Triples
from reimagen_jax.systems.base import Preview
from reimagen_jax.systems.examples import split
from reimagen_jax.systems.pixels import to_bytes, to_model
from reimagen_jax.systems.reimagen.batches import check, held_out_batches, make_dataset
from reimagen_jax.systems.reimagen.condition import Batch, Inputs
from reimagen_jax.systems.reimagen.settings import GuidedSamplerConfig, ReImagenConfig
from reimagen_jax.systems.request import Edit, Neighbour, Request
from reimagen_jax.terminal import say

GUIDANCE = {
    "eta": "eta_B",
    "text_weight": "text_weight_B",
    "neighbour_weight": "neighbour_weight_B",
    "guidance_rescale": "guidance_rescale_B",
    "guidance_interval": "guidance_interval_B2",
}
"""What a request may set of its own, if the settings have it; and where it is in `Inputs`."""


def guidance_of(request: Request, settings: GuidedSamplerConfig) -> dict[str, Any]:
    """The numbers that a request is drawn with: its own, else those of the settings.

    Without neighbours every step is text-enhanced, as in Imagen: eta is 1, whatever is asked, since the other kind of
    guidance would be none at all.
    """
    known = {name: getattr(settings, name) for name in GUIDANCE}
    numbers = {name: request.guidance.get(name, own) for name, own in known.items() if own is not None}
    numbers = {name: np.asarray(number, np.float64).tolist() for name, number in numbers.items()}
    return numbers if request.neighbours else numbers | {"eta": 1.0}


def stacked(guidances: Sequence[Mapping[str, Any]]) -> dict[str, np.ndarray]:
    """The numbers of several requests, as `Inputs` has them."""
    return {GUIDANCE[name]: np.asarray([each[name] for each in guidances], np.float32) for name in guidances[0]}


def check_low_res(image: np.ndarray | None, low: int, side: int, name: str) -> None:
    """Raises `UserError` unless it is what the super-resolution model of this name enlarges from `low` to `side`."""
    require(
        image is not None,
        f"{name} is a super-resolution model: it enlarges images of {low} pixels to {side}, and none is given",
    )
    size = image.shape[:2]
    require(image.ndim == 3 and size == (low, low), f"{name} enlarges images of {low} x {low} pixels, not {_by(size)}")
    within = image.dtype == np.uint8 or bool(np.abs(image).max(initial=0.0) <= 1.0)  # false for NaN
    require(within, f"{name} enlarges bytes, or floats from -1 to 1: these are others")


def _by(sides: Sequence[int]) -> str:
    return " x ".join(map(str, sides))


def check_weights(request: Request) -> None:
    """Raises `UserError` for weights of neighbours that are no weights."""
    for neighbour in request.neighbours:
        checked(neighbour.weight, NonNegative, f"the weight of neighbour {neighbour.key}")
    weights = [np.float32(neighbour.weight) for neighbour in request.neighbours]
    require(not weights or max(weights) > 0, "all neighbours have weight 0: draw without neighbours")


@dataclass(frozen=True)
class ReImagenFeed:
    """The feed of an experiment; opens its triples, and its text encoder, when they are asked for."""

    config: Experiment

    @property
    def model(self) -> ReImagenConfig:
        """The experiment's settings of this system."""
        return self.config.system

    @cached_property
    def triples(self) -> Triples:
        """What is trained on."""
        path = self.config.data.triples
        require(bool(path), "data.triples is not set: pass --data.triples DIR, a folder written by `reimagen triples`")
        return Triples.open(path)

    @cached_property
    def _validation(self) -> Triples:
        """What the training is watched by."""
        return Triples.open(self.config.data.validation)

    @cached_property
    def texts(self) -> TextInput:
        """How texts to draw become arrays."""
        return text_input(self.model.text)

    @cached_property
    def _embeddings(self) -> TextEmbeddings | None:
        """The embedded captions; None where the text encoder is trained along, or none are named."""
        frozen = self.model.text.frozen
        if frozen is None or not self.config.data.text_embeddings:
            return None
        store = TextEmbeddings.open(self.config.data.text_embeddings)
        store.check(frozen)
        return store

    def settled(self) -> "ReImagenFeed":
        """The feed, its experiment with how the triples were asked for, and with the fingerprint of the text encoder by
        which its captions were embedded."""
        # The first read imports TFDS piece by piece: threads of the loader that begin with it can block each other.
        self.triples.records.fetch([0])
        system, text, told = self.model, self.model.text, self.triples.asked
        if self._embeddings is not None:
            frozen = dataclasses.replace(text.frozen, fingerprint=self._embeddings.encoder)
            system = dataclasses.replace(system, text=dataclasses.replace(text, frozen=frozen))
        data = dataclasses.replace(self.config.data, asked=told or self.config.data.asked)
        feed = ReImagenFeed(dataclasses.replace(self.config, system=system, data=data))
        vars(feed).update(triples=self.triples, _embeddings=self._embeddings)  # which are open already
        return feed

    @property
    def fingerprint(self) -> str:
        """Of the triples, and of the embeddings of their captions."""
        own = self.triples.fingerprint
        return own if self._embeddings is None else f"{own}-{self._embeddings.fingerprint}"

    def dataset(self, process_index: int | None = None, process_count: int | None = None) -> grain.IterDataset:
        """Batches of the triples (see `make_dataset`)."""
        return make_dataset(self.triples, self.config, process_index=process_index, process_count=process_count)

    def held_out(self, number: int, process_index: int | None = None, process_count: int | None = None) -> list[Batch]:
        """Batches of `data.validation`, or of what `data.validation_share` holds out; none without either.

        Says how many of the records are trained on all the same. Raises `UserError` as `dataset` does.
        """
        data = self.config.data
        if not (data.validation or data.validation_share):
            return []
        triples = self.triples
        if data.validation:
            triples = self._validation
            check(triples, self.config)
            learned = set(zip(self.triples.records.sources(), self.triples.records.keys(), strict=True))
            again = learned.intersection(zip(triples.records.sources(), triples.records.keys(), strict=True))
            if again:
                say(f"{data.validation} is to be held out, but {len(again)} of its records are trained on", error=True)
            ids = np.arange(len(triples))
        else:
            _, ids = split(len(triples), data, "triples")
        share = {"process_index": process_index, "process_count": process_count}
        return held_out_batches(triples, ids, self.config, number, **share)

    def preview(self, batch: Batch) -> Preview:
        """The neighbours, and what was left out, what a super-resolution stage enlarges, the target; drawn without and
        with the neighbours."""
        model, settings = self.model, self.model.sampler
        mask_BK, image_BKHWC, low_res = np.asarray(batch.nbr_mask_BK), np.asarray(batch.nbr_image_BKHWC), None
        (B, K), shown, left_out = mask_BK.shape, {}, {}
        for rows, there_BK in ((shown, mask_BK), (left_out, batch.left_out_BK)):
            for j in range(K if there_BK is not None else 0):
                there = zip(image_BKHWC[:, j], there_BK[:, j], strict=True)
                rows[f"neighbour {j + 1}"] = [image if found else None for image, found in there]
        if model.super_resolution is not None:
            low_res = to_bytes(shrink(to_model(jnp.asarray(batch.image_BHWC)), model.train_resolution // model.factor))
            shown["low resolution"] = list(np.asarray(low_res))
        shown["target"] = list(np.asarray(batch.image_BHWC))

        def inputs(with_neighbours: bool) -> Inputs:
            shown_BK = mask_BK & with_neighbours
            numbers = stacked([guidance_of(Request(), settings)] * B)
            numbers["eta_B"] = np.where(shown_BK.any(axis=1), settings.eta, 1.0).astype(np.float32)
            neighbours = batch.nbr_image_BKHWC, batch.nbr_tokens_BKL, shown_BK
            return Inputs(batch.tokens_BL, *neighbours, low_res_BHWC=low_res, **numbers)

        drawn = {"without neighbours": inputs(False)} | ({"with neighbours": inputs(True)} if K else {})
        return Preview(to_captions(batch.tokens_BL, model.text), shown, drawn, left_out)

    def check(self, request: Request, settings: GuidedSamplerConfig) -> None:
        """Raises `UserError` for more neighbours than there is room for, for numbers that guidance does not have, and
        where a low-resolution image is missing, of another size than this stage enlarges, or given to a base stage."""
        found, most = len(request.neighbours), self._most(settings)
        require(found <= most, f"{found} neighbours for a prompt, but this generator takes at most {most}")
        for name, number in request.guidance.items():
            require(name in GUIDANCE, f"{name!r} is no number of guidance: there are {', '.join(GUIDANCE)}")
            require(
                getattr(settings, name) is not None,
                f"a request has a {name} of its own, but sampler.{name} is not set: what is not set is not computed",
            )
            settings.checked(name, number)
        if "guidance_interval" in request.guidance:  # whose two numbers have an order
            dataclasses.replace(settings, guidance_interval=request.guidance["guidance_interval"])
        if self.model.distilled is not None:
            require(not request.negative, "a distilled model has not learned to be led away from a negative prompt")
            self.model.distilled.check(dataclasses.replace(settings, **request.guidance))
        check_weights(request)
        if self._drawn_on(request):
            self._check_edit(request.edit, settings)
        stage, name, image = self.model.super_resolution, self.config.name, request.start
        if stage is None:
            require(image is None, f"{name} is a base model: it takes no low-resolution image")
            return
        check_low_res(image, stage.low_resolution, self.model.resolution, name)

    def _check_edit(self, edit: Edit, settings: GuidedSamplerConfig) -> None:
        """Raises `UserError` for an edit that changes nothing."""
        strength, side = checked(edit.strength, Strength, "strength"), self.model.resolution
        most = edit.mask_at(side).max() / 255
        require(most > 0, "the mask is black: nothing would be drawn (white is drawn anew, black is kept)")
        if self.model.super_resolution is None:
            times = schedule.times(settings.num_steps, self.model.diffusion, settings.spacing, settings.times)
            require(
                lets_go(most * strength, np.asarray(times).tolist()),
                f"strength {strength:g} is less than a step of {settings.num_steps}"
                f"{f', at a mask of {most:.0%} at most' if most < 1 else ''}: the image would stay as it is",
            )

    def numbers(self, request: Request, settings: GuidedSamplerConfig) -> dict[str, Any]:
        """The numbers of guidance that the request is drawn with."""
        return guidance_of(request, settings)

    def prepare(self, requests: Sequence[Request]) -> None:
        """Embeds all texts, where that is done by a frozen encoder; raises `UserError` when it is missing.

        Says, once of each, which prompts are longer than what the model reads.
        """
        negatives = [each.negative for each in requests if each.negative]
        told = [text for each in requests for text in (each.prompt, *(n.text for n in each.neighbours))]
        self.texts.prepare(told + negatives)
        for prompt in dict.fromkeys([each.prompt for each in requests] + negatives):
            if prompt not in self._told_of_cut and (cut := self.texts.cut(prompt)):
                self._told_of_cut.add(prompt)
                say(f"{self.config.name} does not read the end of a prompt, {cut}: {prompt!r}", error=True)
        self._tell_of_small([neighbour for each in requests for neighbour in each.neighbours])

    def _tell_of_small(self, neighbours: Sequence[Neighbour]) -> None:
        """Says, once, that neighbours' images are smaller than what the network is shown."""
        R = self.model.resolution
        sides = {each.side for each in {(n.place, n.key): n for n in neighbours}.values()}
        if (small := min(sides, default=R)) < R and not self._told_of_small:
            self._told_of_small.append(small)
            say(
                f"some neighbours are images of {small} pixels, which the stage of {R} pixels sees enlarged: prepare "
                f"the knowledge base with --resolution {R} (or more) to show it their detail",
                error=True,
            )

    @cached_property
    def _told_of_small(self) -> list[int]:
        """What was said already."""
        return []

    @cached_property
    def _told_of_cut(self) -> set[str]:
        """The prompts of which it was said."""
        return set()

    def collate(self, requests: Sequence[Request], settings: GuidedSamplerConfig) -> Inputs:
        """The inputs of `requests`."""
        B, K, R = len(requests), self._most(settings), self.model.resolution
        image = np.zeros((B, K, R, R, 3), np.uint8)
        mask = np.zeros((B, K), bool)
        for i, request in enumerate(requests):
            for j, neighbour in enumerate(request.neighbours):
                image[i, j], mask[i, j] = neighbour.at(R), True
        prompts = self.texts([request.prompt for request in requests])
        captions = [neighbour.text for request in requests for neighbour in request.neighbours]
        negatives = [request.negative for request in requests if request.negative]
        against = np.asarray([bool(request.negative) for request in requests])
        low_res = None if self.model.super_resolution is None else np.stack([each.start for each in requests])
        weight, known, share = np.ones((B, K), np.float32), None, None
        for i, request in enumerate(requests):
            weight[i, : len(request.neighbours)] = [neighbour.weight for neighbour in request.neighbours]
        if any(map(self._drawn_on, requests)):
            known, share = (np.stack(parts) for parts in zip(*map(self._edited, requests), strict=True))
        return Inputs(
            prompts,
            image,
            scattered(self.texts(captions) if captions else prompts, mask),
            mask,
            low_res_BHWC=low_res,
            negative_BL=scattered(self.texts(negatives), against) if negatives else None,
            nbr_weight_BK=None if (weight == 1.0).all() else weight,
            known_BHWC=known,
            share_BHW1=share,
            **stacked([guidance_of(request, settings) for request in requests]),
        )

    def _drawn_on(self, request: Request) -> bool:
        """Whether this stage draws on the request's image: one that enlarges, where it is as large as what it draws."""
        edit = request.edit
        return edit is not None and (self.model.super_resolution is None or len(edit.image) >= self.model.resolution)

    def _edited(self, request: Request) -> tuple[np.ndarray, np.ndarray]:
        """The image that is drawn on, and the share of each pixel.

        A stage that enlarges draws all that is not kept anew: what becomes of it, the stage before has decided.
        """
        R = self.model.resolution
        if not self._drawn_on(request):
            return np.zeros((R, R, 3), np.uint8), np.ones((R, R, 1), np.float32)
        share = request.edit.mask_at(R)[..., None] / np.float32(255) * np.float32(request.edit.strength)
        if self.model.super_resolution is not None:
            share = (share > 0).astype(np.float32)
        return request.edit.image_at(R), share

    def limited(self, request: Request, settings: GuidedSamplerConfig) -> Request:
        """The request with its best neighbours only, as many as these settings have room for."""
        return dataclasses.replace(request, neighbours=request.neighbours[: self._most(settings)])

    def _most(self, settings: GuidedSamplerConfig) -> int:
        return self.config.data.num_neighbours if settings.k is None else settings.k
