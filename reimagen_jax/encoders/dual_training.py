"""Training the dual encoder on image-text pairs, and measuring what it finds among pairs that it has not seen.

In a batch of B pairs, with u_i of image i, w_j of text j, and m_ij = 1 where they belong together, else 0:
    (1) p_ij = m_ij / sum_j m_ij
    (2) L    = 1/2 [ CE(p_i., softmax_j(scale u_i . w_j)) + CE(p_.j, softmax_i(scale u_i . w_j)) ],  mean over the batch
Pairs of one caption, or of one picture, belong together, too: with templates and short captions, many do. Images are
shifted a little and words are left out, so that a name alone, or a few of the words, find a picture as well.
Source: (2) CLIP (Radford et al. 2021) with the targets (1) of supervised contrastive learning (Khosla et al. 2020).
"""

import functools
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Bool, Float, Int32, Key, UInt8

from reimagen_jax.config import TrainConfig, require
from reimagen_jax.data import images
from reimagen_jax.data.parallel import ordered_map
from reimagen_jax.data.records import ImageText, Records
from reimagen_jax.encoders import dual
from reimagen_jax.encoders.dual import DualConfig, DualEncoder, DualNet
from reimagen_jax.encoders.tokenizers import ByteTokenizer
from reimagen_jax.errors import UserError
from reimagen_jax.progress import track
from reimagen_jax.training import sharding
from reimagen_jax.training.state import init_state
from reimagen_jax.training.step import make_optimizer, train_step

RANKS = (1, 5, 10)
"""k of the recalls that are measured."""
MOST_HELD_OUT = 1000
CACHE_BYTES = 2**31
"""Decoded images are kept in memory while all together take less."""
_CHECK_EVERY = 50


@dataclass(frozen=True)
class DualTraining:
    """How a dual encoder is trained. Raises `UserError` on values out of range."""

    num_steps: int = 2000
    batch_size: int = 128
    """Pairs a step; each is told from all others of its batch."""
    learning_rate: float = 1e-3
    """At its highest; it rises over the first twentieth of the steps and decays to 0."""
    weight_decay: float = 0.05
    word_drop: float = 0.2
    """Probability that a word of a caption is left out."""
    shift: float = 0.08
    """Images are shifted by up to this share of their side, each way."""
    held_out: float = 0.1
    """Share of the pictures that are kept for measuring, 1000 pairs at most."""
    seed: int = 0

    def __post_init__(self) -> None:
        require(self.num_steps > 0, f"num_steps is {self.num_steps}: at least 1 is needed")
        require(self.batch_size > 1, f"batch_size is {self.batch_size}: at least 2 are needed to tell one from another")
        require(0 <= self.word_drop < 1, f"word_drop {self.word_drop} is not in [0, 1)")
        require(0 <= self.shift <= 0.5, f"shift {self.shift} is not between 0 and 0.5")
        require(0 < self.held_out < 1, f"held_out {self.held_out} is not between 0 and 1")

    @property
    def optimisation(self) -> TrainConfig:
        """For the common training step."""
        return TrainConfig(
            num_steps=self.num_steps,
            learning_rate=self.learning_rate,
            warmup_steps=self.num_steps // 20,
            weight_decay=self.weight_decay,
            ema_decay=0.99,
            seed=self.seed,
        )


class DualBatch(NamedTuple):
    """A batch of pairs."""

    image_BHWC: UInt8[Array, "b r r 3"]
    tokens_BL: Int32[Array, "b l"]
    group_BG: Int32[Array, "b g"]
    """Pairs with a number in common, in the same column, belong together: column 0 numbers texts, 1 pictures."""


@dataclass(frozen=True)
class DualSystem:
    """What the common training step trains."""

    config: DualConfig
    shift: float = 0.0

    def init(self, key: Key[Array, ""]) -> Any:
        """Random parameters."""
        return dual.init(self.config, key)

    def loss(self, params: Any, batch: DualBatch, key: Key[Array, ""]) -> tuple[Float[Array, ""], dict[str, Array]]:
        """(2), and the share of images whose best text is one of theirs."""
        image_BHWC = shifted(key, batch.image_BHWC, round(self.shift * self.config.resolution))
        image_BD, text_BD, scale = DualNet(self.config).apply({"params": params}, image_BHWC, batch.tokens_BL)
        score_BB = scale * jnp.einsum("id,jd->ij", image_BD, text_BD)
        match_BB = matches(batch.group_BG)
        right_B = jnp.take_along_axis(match_BB, score_BB.argmax(axis=1, keepdims=True), axis=1)
        return contrast(score_BB, match_BB), {"right": right_B.astype(jnp.float32).mean(), "scale": scale}


def matches(group_BG: Int32[Array, "b g"]) -> Bool[Array, "b b"]:
    """m: which pairs belong together."""
    return (group_BG[:, None, :] == group_BG[None, :, :]).any(axis=-1)


def contrast(score_BB: Float[Array, "b b"], match_BB: Bool[Array, "b b"]) -> Float[Array, ""]:
    """(2) for logits of images (rows) and texts (columns); m is symmetric."""
    target_BB = match_BB.astype(jnp.float32) / match_BB.sum(axis=1, keepdims=True).astype(jnp.float32)  # (1)
    by_image_B = optax.softmax_cross_entropy(score_BB, target_BB)
    by_text_B = optax.softmax_cross_entropy(score_BB.T, target_BB)
    return 0.5 * (by_image_B + by_text_B).mean()  # (2)


def shifted(key: Key[Array, ""], image_BHWC: UInt8[Array, "b h w c"], most: int) -> UInt8[Array, "b h w c"]:
    """Each image moved by its own up to `most` pixels both ways; edges repeat."""
    if most == 0:
        return image_BHWC
    padded = jnp.pad(image_BHWC, ((0, 0), (most, most), (most, most), (0, 0)), mode="edge")
    corner_B2 = jax.random.randint(key, (len(image_BHWC), 2), 0, 2 * most + 1)

    def cut(image_HWC: Array, corner_2: Array) -> Array:
        return jax.lax.dynamic_slice(image_HWC, (corner_2[0], corner_2[1], 0), image_BHWC.shape[1:])

    return jax.vmap(cut)(padded, corner_B2)


class Pairs:
    """Records as what the encoder learns from, by number."""

    def __init__(self, records: Records, config: DualConfig, same_by: str = "caption", cache_bytes: int = CACHE_BYTES):
        """`same_by` is what of two records makes them belong together: `caption`, or the name of an attribute.

        Raises `UserError` naming the first record without that attribute.
        """
        self.records = records
        self.texts = records.texts()
        self._tokenizer = ByteTokenizer(config.max_bytes)
        self._side = config.resolution
        same = self.texts if same_by == "caption" else _attribute(records, same_by)
        columns = [np.unique(np.array(column), return_inverse=True)[1] for column in (same, records.digests())]
        self.group_NG = np.stack(columns, axis=1).astype(np.int32)
        self._cache = None
        if len(records) * self._side**2 * 3 < cache_bytes:
            decoded = ordered_map(self._decode, track(records, len(records), "images", "image"))
            self._cache = np.stack(list(decoded))

    def __len__(self) -> int:
        return len(self.texts)

    def images(self, ids: np.ndarray) -> np.ndarray:
        """uint8 [B, R, R, 3]"""
        if self._cache is not None:
            return self._cache[ids]
        return np.stack([self._decode(record) for record in self.records.fetch(ids.tolist())])

    def batch(self, ids: np.ndarray, rng: np.random.Generator, word_drop: float) -> DualBatch:
        """Some of the pairs, words of their captions left out at random."""
        texts = [drop_words(self.texts[i], rng, word_drop) for i in ids]
        return DualBatch(self.images(ids), self._tokenizer.encode(texts), self.group_NG[ids])

    def _decode(self, record: ImageText) -> np.ndarray:
        return images.decode(record.image, self._side)


def drop_words(text: str, rng: np.random.Generator, share: float) -> str:
    """The text without some of its words, as spaces part them; at least one stays."""
    words = text.split()
    kept = [word for word, u in zip(words, rng.random(len(words)), strict=True) if u >= share]
    return " ".join(kept) or text


def split(group_NG: np.ndarray, training: DualTraining) -> tuple[np.ndarray, np.ndarray]:
    """Numbers of the pairs to learn from and of those to measure by; no picture is in both.

    Raises `UserError` when there are too few for a batch and a measurement.
    """
    rng, picture_N = np.random.default_rng(training.seed), group_NG[:, 1]
    pictures = np.unique(picture_N)
    number = min(max(math.ceil(training.held_out * len(pictures)), 1), MOST_HELD_OUT)
    held_N = np.isin(picture_N, rng.permutation(pictures)[:number])
    learned, held = np.flatnonzero(~held_N), np.flatnonzero(held_N)[:MOST_HELD_OUT]
    require(
        len(learned) >= training.batch_size and len(held) > 1,
        f"{len(group_NG)} records are too few: {len(held)} are kept for measuring, and the other {len(learned)} are to "
        f"fill a batch of {training.batch_size}; choose a smaller --batch-size, or bring more records",
    )
    return learned, held


def order(ids: np.ndarray, batch_size: int, seed: int) -> Iterator[np.ndarray]:
    """Batches without end: every epoch in an order of its own, what does not fill a batch left out of it."""
    for epoch in range(2**31):
        shuffled = np.random.default_rng((seed, epoch)).permutation(ids)
        for start in range(0, len(ids) - batch_size + 1, batch_size):
            yield shuffled[start : start + batch_size]


def train(pairs: Pairs, config: DualConfig, training: DualTraining) -> tuple[DualEncoder, dict[str, Any]]:
    """Trains an encoder and measures it on held-out pairs: the encoder, and what was measured (JSON).

    The batch is spread over all devices. Raises `UserError` when there are too few pairs, when the devices do not
    divide the batch, and when the loss stops being finite.
    """
    learned, held = split(pairs.group_NG, training)
    mesh = sharding.make_mesh()
    require(
        training.batch_size % mesh.size == 0,
        f"--batch-size {training.batch_size} is not a multiple of the {mesh.size} devices",
    )
    system, settings = DualSystem(config, training.shift), training.optimisation
    optimizer, (key_init, key_steps) = make_optimizer(settings), jax.random.split(jax.random.key(training.seed))
    begin = functools.partial(init_state, system, optimizer, key_init)
    abstract = sharding.abstract_state(begin, mesh)
    state = sharding.sharded_init(begin, abstract)
    advance = sharding.jit_step(train_step(system, optimizer, settings), abstract, mesh)

    def draw(step_and_ids: tuple[int, np.ndarray]) -> DualBatch:
        step, ids = step_and_ids
        return pairs.batch(ids, np.random.default_rng((training.seed, 0, step)), training.word_drop)

    numbered = zip(range(training.num_steps), order(learned, training.batch_size, training.seed), strict=False)
    batches = track(ordered_map(draw, numbered, ahead=4), training.num_steps, "training the encoder", "step")
    for step, batch in enumerate(batches, 1):
        state, metrics = advance(state, sharding.global_batch(batch, mesh), key_steps)
        if step % _CHECK_EVERY == 0 or step == training.num_steps:
            loss = float(metrics["loss"])
            if not math.isfinite(loss):
                raise UserError(f"the loss is {loss} at step {step}: choose a lower --learning-rate")
    encoder = DualEncoder(config, jax.device_get(state.ema))
    facts = {"loss": loss, "trained_on": len(learned), **measure(encoder, pairs, held)}
    return encoder, facts


def measure(encoder: DualEncoder, pairs: Pairs, ids: np.ndarray) -> dict[str, Any]:
    """How often what belongs to a held-out text, or image, is among its first k: by name of the direction, then k.

    `chance` is the same for a random order.
    """
    score_TI = encoder.texts([pairs.texts[i] for i in ids]) @ encoder.images(pairs.images(ids)).T
    match_TI = np.asarray(matches(jnp.asarray(pairs.group_NG[ids])))
    return {
        "held_out": len(ids),
        "text to image": _by_rank(found(score_TI, match_TI)),
        "image to text": _by_rank(found(score_TI.T, match_TI)),
        "chance": _by_rank([chance(match_TI, k) for k in RANKS]),
    }


def found(score_QN: np.ndarray, match_QN: np.ndarray) -> list[float]:
    """Share of queries with a match among their best k, for each k of `RANKS`; ties count as the worst order."""
    best_Q1 = np.where(match_QN, score_QN, -np.inf).max(axis=1, keepdims=True)
    before_Q = ((score_QN >= best_Q1) & ~match_QN).sum(axis=1)
    return [float((before_Q < k).mean()) for k in RANKS]


def chance(match_QN: np.ndarray, k: int) -> float:
    """Share of queries with a match among k drawn without replacement."""
    N, number_Q = match_QN.shape[1], match_QN.sum(axis=1)
    missed_Q = np.ones(len(match_QN))
    for i in range(min(k, N)):
        missed_Q *= np.maximum(N - number_Q - i, 0) / (N - i)
    return float((1 - missed_Q).mean())


def _by_rank(shares: Sequence[float]) -> dict[str, float]:
    return {str(k): round(share, 4) for k, share in zip(RANKS, shares, strict=True)}


def _attribute(records: Records, name: str) -> list[str]:
    def value(record: ImageText) -> str:
        if name not in record.attributes:
            raise UserError(f"record {record.key} has no attribute {name!r}: it has {list(record.attributes)}")
        return str(record.attributes[name])

    return [value(record) for record in track(records, len(records), name, "record")]
