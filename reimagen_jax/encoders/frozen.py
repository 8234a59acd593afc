"""Frozen text encoders: what T5 and CLIP's text towers have in common when they turn captions into embeddings.

Texts are sorted into buckets of length, so that a short caption does not pay for a long one, and into batches of few
sizes, so that little is compiled. A text's embedding does not depend on its bucket or its batch, but for rounding:
padding is masked in attention.
"""

import hashlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from reimagen_jax.encoders.hf_tokenizers import HFTokenizer
from reimagen_jax.errors import require
from reimagen_jax.files import read_json
from reimagen_jax.nets.transformer import Dtype
from reimagen_jax.pretrained.safetensors_reader import Place
from reimagen_jax.sharding import Rules, leaf_spec

T = TypeVar("T")
Padding = Literal["zero", "encoded"]

SHORTEST_BUCKET = 16
WITHOUT_EFFECT = (
    *("architectures", "auto_map", "torch_dtype", "dtype", "transformers_version", "tokenizer_class", "torchscript"),
    *(
        "id2label",
        "label2id",
        "problem_type",
        "finetuning_task",
        "task_specific_params",
        "prefix",
        "is_encoder_decoder",
    ),
    *("return_dict", "output_attentions", "output_hidden_states", "gradient_checkpointing", "chunk_size_feed_forward"),
    *("bos_token_id", "eos_token_id", "pad_token_id", "sep_token_id", "decoder_start_token_id", "vocab_size"),
    *("max_length", "min_length", "do_sample", "early_stopping", "num_beams", "num_beam_groups", "diversity_penalty"),
    *("temperature", "top_k", "top_p", "typical_p", "repetition_penalty", "length_penalty", "no_repeat_ngram_size"),
    *("encoder_no_repeat_ngram_size", "bad_words_ids", "num_return_sequences", "output_scores", "use_bfloat16"),
    *("return_dict_in_generate", "forced_bos_token_id", "forced_eos_token_id", "remove_invalid_values"),
    *("exponential_decay_length_penalty", "suppress_tokens", "begin_suppress_tokens", "tf_legacy_loss"),
    *("tie_encoder_decoder", "tie_word_embeddings", "max_time", "attn_implementation"),
)
"""Of what transformers writes into any `config.json`: about files, training and the generation of text."""


@dataclass(frozen=True)
class TextEncoder:
    """Texts to the embeddings of their tokens, by a network whose weights do not change."""

    width: int
    max_tokens: int
    """Longer texts are cut; their last token is still the end of the text."""
    fingerprint: str
    """Of weights, tokenizer, precision and `max_tokens`: equal fingerprints, equal embeddings."""
    dtype: Dtype
    tokenizer: HFTokenizer
    apply: Callable[..., jax.Array] = field(repr=False)
    """(params, tokens_BL, mask_BL) to embeddings [B, L, width]; compiled."""
    params: Any = field(repr=False)
    batch_size: int = 32
    mesh: Mesh | None = field(default=None, repr=False)

    def encode(self, texts: Sequence[str], *, padding: Padding = "zero") -> tuple[np.ndarray, np.ndarray]:
        """Embeddings [N, max_tokens, width] in `dtype`, and bool[N, max_tokens], true at the tokens of the text.

        Embeddings of padding are zero; with `padding="encoded"` they are what the network makes of padding, which
        costs full length for every text. (DeepFloyd IF's U-Nets look at all 77 tokens, padding too.)
        Raises `UserError` after `release`.
        """
        check_not_released(self.params)
        tokens_NL, mask_NL = self.tokenizer.encode(texts, self.max_tokens)
        all_tokens_NL = pad_to(tokens_NL, self.max_tokens, self.tokenizer.padding)
        all_mask_NL = pad_to(mask_NL, self.max_tokens, False)
        length_N = mask_NL.sum(axis=1) if padding == "zero" else np.full(len(texts), self.max_tokens)

        def batches() -> Iterator[tuple[np.ndarray, jax.Array]]:
            for rows, B, L in bucketed(length_N, self.max_tokens, self.batch_size, self.mesh):
                tokens_BL = pad_rows(all_tokens_NL[rows, :L], B, self.tokenizer.padding)
                mask_BL = pad_rows(all_mask_NL[rows, :L], B, False)
                yield rows, self.apply(self.params, *on_mesh((tokens_BL, mask_BL), self.mesh))

        embedding_NLD = np.zeros((len(texts), self.max_tokens, self.width), jnp.dtype(self.dtype))
        for rows, embedding_BLD in one_behind(batches()):
            embedding_NLD[rows, : embedding_BLD.shape[1]] = embedding_BLD[: len(rows)]
        if padding == "zero":
            embedding_NLD[~all_mask_NL] = 0
        return embedding_NLD, all_mask_NL

    def release(self) -> None:
        """Gives the weights' memory back, on devices and host; the encoder cannot encode any more."""
        for leaf in jax.tree.leaves(self.params):
            leaf.delete()


def check_not_released(params: Any) -> None:
    """Raises `UserError` when the parameters' memory was given back."""
    require(not any(leaf.is_deleted() for leaf in jax.tree.leaves(params)), "this encoder was released: open it again")


def bucketed(
    length_N: np.ndarray, longest: int, batch_size: int, mesh: Mesh | None
) -> Iterator[tuple[np.ndarray, int, int]]:
    """Texts of these lengths in batches: (indices of at most `batch_size` texts, rows B >= as many, length L).

    L is 16, 32, 64, ... or `longest`, B is 1, 2, 4, ... or `batch_size`, and a multiple of the devices along "data".
    """
    bucket_N = np.array([min(max(SHORTEST_BUCKET, power_of_two(length)), longest) for length in length_N.tolist()], int)
    for L in np.unique(bucket_N).tolist():
        for rows, B in in_batches(np.flatnonzero(bucket_N == L), batch_size, mesh):
            yield rows, B, L


def in_batches(members_N: np.ndarray, batch_size: int, mesh: Mesh | None) -> Iterator[tuple[np.ndarray, int]]:
    """At most `batch_size` of the members at a time, and the rows that they are padded to (see `bucketed`)."""
    data = 1 if mesh is None else mesh.shape["data"]
    for start in range(0, len(members_N), batch_size):
        rows = members_N[start : start + batch_size]
        B = min(power_of_two(len(rows)), batch_size)
        yield rows, -(-B // data) * data


def power_of_two(number: int) -> int:
    """The smallest that is at least `number`."""
    return 1 << (number - 1).bit_length()


def pad_to(x_NL: np.ndarray, length: int, value: Any) -> np.ndarray:
    """Columns added on the right until there are `length`."""
    return np.pad(x_NL, ((0, 0), (0, length - x_NL.shape[1])), constant_values=value)


def pad_rows(x_B: np.ndarray, rows: int, value: Any) -> np.ndarray:
    """Rows added at the end until there are `rows`."""
    return np.pad(x_B, ((0, rows - len(x_B)), *((0, 0),) * (x_B.ndim - 1)), constant_values=value)


def on_mesh(arrays: Sequence[np.ndarray], mesh: Mesh | None) -> Sequence[Any]:
    """Host arrays, their first axis split over "data"; untouched without a mesh."""
    return arrays if mesh is None else [jax.device_put(x, NamedSharding(mesh, P("data"))) for x in arrays]


def one_behind(batches: Iterable[tuple[T, jax.Array]]) -> Iterator[tuple[T, np.ndarray]]:
    """Results as host arrays, each read after the next batch is dispatched, so that devices do not wait for hosts."""
    previous = None
    for batch in batches:
        if previous is not None:
            yield previous[0], np.asarray(previous[1])
        previous = batch
    if previous is not None:
        yield previous[0], np.asarray(previous[1])


def jitted(apply: Callable[..., jax.Array], mesh: Mesh | None) -> Callable[..., jax.Array]:
    """`apply` compiled; over a mesh, its result lies whole on every device, where the host reads it."""
    return jax.jit(apply, out_shardings=None if mesh is None else NamedSharding(mesh, P()))


def placement(mesh: Mesh | None, rules: Rules) -> Place | None:
    """Where each parameter lies on a mesh ("data", "fsdp"); None, the first device, without one."""
    if mesh is None:
        return None
    return lambda path, shape: NamedSharding(mesh, leaf_spec(path, shape, mesh, rules))


def check_dtype(dtype: str) -> None:
    """Raises `UserError` unless it is a precision that encoders compute in."""
    require(dtype in ("float32", "bfloat16"), f"dtype {dtype!r} is not float32 or bfloat16")


def read_settings(folder: Path) -> dict[str, Any]:
    """A folder's `config.json`. Raises `UserError` when it is missing or no table of settings."""
    settings = read_json(folder / "config.json", "the settings of a network")
    require(isinstance(settings, dict), f"{folder / 'config.json'} is not a table of settings")
    return settings


def identify(*parts: Any) -> str:
    """A digest of whatever decides what an encoder's embeddings are."""
    return hashlib.sha256(" ".join(map(str, parts)).encode()).hexdigest()
