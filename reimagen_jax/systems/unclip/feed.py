"""What the host does for unCLIP's systems: records as batches to train on, requests as inputs to draw from."""

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import multihost_utils

from reimagen_jax import randomness
from reimagen_jax.diffusion.degrade import shrink
from reimagen_jax.diffusion.settings import DrawingConfig
from reimagen_jax.encoders.joint import Joint
from reimagen_jax.encoders.tokenizers import PADDING, ByteTokenizer
from reimagen_jax.encoders.towers import Tokenizer
from reimagen_jax.errors import require
from reimagen_jax.progress import track
from reimagen_jax.systems.base import Params, Preview, Settings
from reimagen_jax.systems.examples import Examples, crop, draw_corners, unread
from reimagen_jax.systems.pixels import to_bytes, to_model
from reimagen_jax.systems.records_feed import RecordsFeed
from reimagen_jax.systems.reimagen.feed import check_low_res, check_weights
from reimagen_jax.systems.request import Request
from reimagen_jax.systems.unclip.ar_prior import ARPrior
from reimagen_jax.systems.unclip.arrays import DecoderInputs, ImageBatch, PairBatch, PriorInputs, UpsamplerInputs
from reimagen_jax.systems.unclip.decoder import Decoder
from reimagen_jax.systems.unclip.settings import (
    FROZEN,
    DecoderConfig,
    DecoderSamplerConfig,
    TextPriorConfig,
    UpsamplerConfig,
    UpsamplerSamplerConfig,
)
from reimagen_jax.terminal import say


@dataclass(frozen=True)
class _TextFeed(RecordsFeed):
    """Pictures with their captions, and a CLIP that reads both."""

    @cached_property
    def tokenizer(self) -> Tokenizer:
        """How texts become CLIP's ids."""
        return Joint(self.config.system.clip).tokenizer()

    def settled(self) -> "RecordsFeed":
        model, train, init = self.config.system, self.config.train, self.config.init
        require(
            any(rate == FROZEN for rate in train.rates),
            f"train.rates does not freeze the CLIP of {self.config.name}: add {FROZEN}, systems/unclip/settings.py:"
            "FROZEN",
        )
        require(
            bool(init.weights),
            f"{self.config.name} holds a CLIP that does not learn: pass --init.weights DIR, a CLIP that `reimagen "
            "encode-train --towers clip` has trained, or a prior or decoder to go on from",
        )
        needs_images = isinstance(model, TextPriorConfig) or model.trained_on == "image"
        require(
            model.clip.image is not None or not needs_images,
            "clip.image is not set: without an image tower no picture has an embedding to learn",
        )
        super().settled()
        init = dataclasses.replace(init, fresh=(*init.fresh, *(name for name in model.own if name not in init.fresh)))
        return dataclasses.replace(self, config=dataclasses.replace(self.config, init=init))

    def reader(self, cache_bytes: int) -> Any:
        """Ids of records -> `PairBatch`."""
        encode, side = self.tokenizer.encode, self.config.system.seen
        examples, empty_1L = Examples(self.records, side, encode).kept(cache_bytes), encode([""])

        def read(ids_B: np.ndarray) -> PairBatch:
            image_BHWC, tokens_BL = examples(ids_B)
            return PairBatch(image_BHWC, tokens_BL, empty_1L.repeat(len(ids_B), axis=0))

        return read

    def texts(self, requests: Sequence[Request]) -> tuple[np.ndarray, np.ndarray]:
        """The prompts, and what they are led away from."""
        prompts, negatives = ([getattr(each, name) for each in requests] for name in ("prompt", "negative"))
        return self.tokenizer.encode(prompts), self.tokenizer.encode(negatives)

    def weights(self, requests: Sequence[Request], settings: Settings) -> np.ndarray:
        """Of guidance."""
        return np.asarray([self.numbers(each, settings)["text_weight"] for each in requests], np.float32)

    def captions(self, tokens_BL: np.ndarray) -> list[str]:
        """What a batch of texts says, for people."""
        clip = self.config.system.clip
        if clip.tokens != "bytes":
            return [f"example {i + 1}" for i in range(len(tokens_BL))]
        read = ByteTokenizer(clip.max_tokens)
        return [read.decode(np.where(tokens_L == clip.end, PADDING, tokens_L)) for tokens_L in np.asarray(tokens_BL)]


class PriorFeed(_TextFeed):
    """The feed of a prior."""

    def preview(self, batch: PairBatch) -> None:
        """None: no image is drawn."""

    def check(self, request: Request, settings: DrawingConfig) -> None:
        """Raises `UserError` for what a prior does not look at, and for a negative prompt that it could not know."""
        name, model = self.config.name, self.config.system
        require(
            not request.neighbours and request.start is None,
            f"{name} draws an embedding from the text alone, neighbours and pictures are for its decoder",
            "give that to --model",
        )
        require(
            not request.negative or model.null == "empty",
            f"{name} has learned what a dropped text is (null): it cannot be led away from a negative prompt",
        )
        self.check_plain(request, settings, ("text_weight",))

    def collate(self, requests: Sequence[Request], settings: DrawingConfig) -> PriorInputs:
        """The inputs of `requests`."""
        return PriorInputs(*self.texts(requests), self.weights(requests, settings))


class ARPriorFeed(PriorFeed):
    """The feed of an autoregressive prior."""

    def settled(self) -> "RecordsFeed":
        """Raises `UserError` for too few records, besides."""
        feed, dims, number = super().settled(), self.config.system.dims, len(self.parts[0])
        require(
            dims < number,
            f"dims is {dims}, but there are {number} records to fit as many components to: take more records, or "
            f"--dims {number - 1} at most",
        )
        return feed

    def fitted(self, params: Params) -> Params:
        """The parameters with the statistics of ar_prior.py, of embeddings of the records that are learned from, or of
        `fitted_on` of them. Those that a run starts from stay: its network knows their buckets."""
        if "statistics" in params:
            return params
        model, (ids, _) = self.config.system, self.parts
        if len(ids) > model.fitted_on:
            ids = np.sort(np.random.default_rng(self.config.data.seed).permutation(ids)[: model.fitted_on])
        with randomness.same_numbers():
            pairs, read, B = jax.jit(ARPrior(self.config).pairs), self.reader(0), self.config.data.batch_size
            clip, size = {"clip": jax.device_put(params["clip"])}, -(-len(ids) // B) * B
            batches = track(np.resize(ids, size).reshape(-1, B), size // B, "embedding records", "batch")
            parts = [jax.tree.map(np.asarray, pairs(clip, read(ids_B))) for ids_B in batches]
        z_ND, w_ND = (np.concatenate(part)[: len(ids)].astype(np.float64) for part in zip(*parts, strict=True))
        statistics = multihost_utils.broadcast_one_to_all(statistics_of(z_ND, w_ND, model.dims))
        kept = statistics["components"].astype(np.float64) @ (z_ND - statistics["mean"]).T
        share = (kept**2).sum() / ((z_ND - z_ND.mean(axis=0)) ** 2).sum()
        if jax.process_index() == 0:
            say(
                f"{model.dims} of {model.clip.width} components hold {share:.1%} of the variance of {len(ids):,} images"
            )
        return {**params, "statistics": statistics}


def statistics_of(z_ND: np.ndarray, w_ND: np.ndarray, dims: int) -> dict[str, np.ndarray]:
    """Of embeddings of images and of their texts, float64: what ar_prior.py knows of them."""
    from sklearn.decomposition import PCA  # a second to import, for this alone

    pca = PCA(dims, svd_solver="covariance_eigh").fit(z_ND)
    y_NP = np.concatenate([(z_ND * w_ND).sum(axis=1, keepdims=True), pca.transform(z_ND)], axis=1)
    low, high = y_NP.min(axis=0), y_NP.max(axis=0)
    high = np.maximum(high, low + 1e-6)  # where all are alike
    known = {"mean": pca.mean_, "components": pca.components_, "low": low, "high": high}
    return {name: value.astype(np.float32) for name, value in known.items()}


class DecoderFeed(_TextFeed):
    """The feed of a decoder."""

    @property
    def model(self) -> DecoderConfig:
        """The experiment's settings of this system."""
        return self.config.system

    def preview(self, batch: PairBatch) -> Preview:
        """The target; drawn from its own embedding, and from its text without any."""
        B, image_BHWC = len(batch.image_BHWC), np.asarray(batch.image_BHWC)
        settings = self.model.sampler

        def inputs(weight: float) -> DecoderInputs:
            return DecoderInputs(
                batch.tokens_BL,
                batch.empty_BL,
                np.full(B, settings.text_weight, np.float32),
                np.zeros((B, self.model.clip.width), np.float32),
                np.zeros(B, bool),
                image_BHWC[:, None],
                np.full((B, 1), weight, np.float32),
            )

        drawn = {"from its embedding": inputs(1.0)}
        if settings.embedding is None:
            drawn |= {"from its text": inputs(0.0)}
        return Preview(self.captions(batch.tokens_BL), {"target": list(image_BHWC)}, drawn)

    def check(self, request: Request, settings: DecoderSamplerConfig) -> None:
        """Raises `UserError` for a request without what its embedding comes from, or with an embedding of another
        width."""
        name, width, start = self.config.name, self.model.clip.width, request.start
        if settings.embedding == "text":
            require(
                not request.neighbours,
                f"{name} is to draw the text's own embedding, which neighbours have no part in",
                "leave out --knowledge-base, --pin and --reference, or --embedding text",
            )
        else:
            there = {"start": start is not None, "neighbours": bool(request.neighbours)}
            wanted = [settings.embedding] if settings.embedding else list(there)
            require(
                any(there[each] for each in wanted),
                f"{name} draws from an embedding, and {request.prompt!r} has none",
                "draw by a prior, --model PRIOR --cascade DECODER; or from neighbours, --knowledge-base DIR or "
                "--reference IMAGE CAPTION; or from the text's own, --embedding text",
            )
        if start is not None:
            require(
                start.shape == (width,) and np.issubdtype(start.dtype, np.floating),
                f"{name} starts from an embedding, {width} floats, not {start.dtype} {list(start.shape)}",
            )
        check_weights(request)
        found, most = len(request.neighbours), self._most(settings)
        require(found <= most, f"{found} neighbours for a prompt, but this generator takes at most {most}")
        self.check_plain(request, settings, ("text_weight",))

    def collate(self, requests: Sequence[Request], settings: DecoderSamplerConfig) -> DecoderInputs:
        """The inputs of `requests`."""
        system = Decoder(self.config)
        B, K, R = len(requests), system.room(settings), self.model.seen
        start, given = np.zeros((B, self.model.clip.width), np.float32), np.zeros(B, bool)
        image, weight = np.zeros((B, K, R, R, 3), np.uint8), np.zeros((B, K), np.float32)
        for i, request in enumerate(requests):
            if request.start is not None and settings.embedding in (None, "start"):
                start[i], given[i] = request.start, True
            for j, neighbour in enumerate(request.neighbours[:K]):
                image[i, j], weight[i, j] = neighbour.at(R), neighbour.weight
        return DecoderInputs(*self.texts(requests), self.weights(requests, settings), start, given, image, weight)

    def limited(self, request: Request, settings: DecoderSamplerConfig) -> Request:
        """The request with its best neighbours only, as many as these settings have room for."""
        return dataclasses.replace(request, neighbours=request.neighbours[: self._most(settings)])

    def _most(self, settings: DecoderSamplerConfig) -> int:
        return self.config.data.num_neighbours if settings.k is None else settings.k


class UpsamplerFeed(RecordsFeed):
    """The feed of an upsampler."""

    @property
    def model(self) -> UpsamplerConfig:
        """The experiment's settings of this system."""
        return self.config.system

    def settled(self) -> "RecordsFeed":
        require(
            not self.model.last_step,
            f"{self.config.name} has a network of its own for the last step, which is not trained here: train another "
            "upsampler, or set last_step to false",
        )
        return super().settled()

    def drawn(self, rng: np.random.Generator, batch: int) -> tuple[np.ndarray, ...]:
        return (draw_corners(rng, batch, self.model),)

    def reader(self, cache_bytes: int) -> Any:
        """Ids of records and corners of crops -> `ImageBatch`."""
        examples = Examples(self.records, self.model.resolution, unread).kept(cache_bytes)
        return lambda ids_B, corner_B2: ImageBatch(crop(examples(ids_B)[0], corner_B2, self.model.train_resolution))

    def preview(self, batch: ImageBatch) -> Preview:
        """What is enlarged, the target; drawn."""
        image_BHWC = np.asarray(batch.image_BHWC)
        low = image_BHWC.shape[1] // self.model.factor
        low_BHWC = np.asarray(to_bytes(shrink(to_model(jnp.asarray(image_BHWC)), low)))
        shown = {"low resolution": list(low_BHWC), "target": list(image_BHWC)}
        captions = [f"example {i + 1}" for i in range(len(image_BHWC))]
        return Preview(captions, shown, {"enlarged": UpsamplerInputs(low_BHWC)})

    def numbers(self, request: Request, settings: UpsamplerSamplerConfig) -> Mapping[str, float]:
        """None: nothing guides it."""
        return {}

    def check(self, request: Request, settings: UpsamplerSamplerConfig) -> None:
        """Raises `UserError` for an image that it does not enlarge."""
        low = self.model.super_resolution.low_resolution
        check_low_res(request.start, low, self.model.resolution, self.config.name)
        self.check_plain(request, settings, ())

    def collate(self, requests: Sequence[Request], settings: UpsamplerSamplerConfig) -> UpsamplerInputs:
        """The inputs of `requests`."""
        return UpsamplerInputs(np.stack([request.start for request in requests]))
