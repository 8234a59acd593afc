"""The tokenizers of published text encoders, read from the files that are published with them.

T5's is a unigram model (SentencePiece's `spiece.model`), CLIP's a byte-level BPE (`vocab.json` and `merges.txt`). Both
may come as a `tokenizer.json` instead, which is taken first, as transformers does; all are run by its library, so that
either file gives the same ids. A text's ids are cut so that the special tokens around them still fit; CLIP's are those
of the text in lower case. Special and added tokens within a text: hf_added_tokens.py.

CLIP's words (Radford et al. 2021, code `simple_tokenizer.py`) are those of `CLIP_WORDS`, each spelt in bytes and ended
by `</w>`. The original also mends broken Unicode and undoes HTML escapes first, which transformers does not: neither
do we. T5 (Raffel et al. 2020) has 100 tokens `<extra_id_0>`, ... after its vocabulary, counted down; their number may
be stated as `extra_ids`.
"""

import hashlib
import json
import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import tokenizers
from sentencepiece import sentencepiece_model_pb2
from tokenizers import AddedToken, Regex, models, normalizers, pre_tokenizers

from reimagen_jax.encoders.hf_added_tokens import CONFIG, JSON, Stated, read_stated
from reimagen_jax.errors import UserError, require
from reimagen_jax.files import read_json

CLIP_WORDS = r"<\|startoftext\|>|<\|endoftext\|>|'s|'t|'re|'ve|'m|'ll|'d|\p{L}+|\p{N}|[^\s\p{L}\p{N}]+"
CLIP_START, CLIP_END = "<|startoftext|>", "<|endoftext|>"
CLIP_NAMED = {"bos_token": CLIP_START, "eos_token": CLIP_END, "unk_token": CLIP_END, "pad_token": CLIP_END}
T5_NAMED = {"eos_token": "</s>", "unk_token": "<unk>", "pad_token": "<pad>"}
EXTRA_IDS, MOST_EXTRA_IDS = 100, 100_000
CONTROL, USER_DEFINED = 3, 4
"""Kinds of pieces of SentencePiece: special tokens, and others that are never cut."""


@dataclass(frozen=True)
class HFTokenizer:
    """Texts to rows of ids: `start` (if any), the text's own, `end`, then padding."""

    vocabulary: int
    """Number of ids: one more than the highest."""
    last: str
    """The token of the highest id."""
    end: int
    padding: int
    """Fills rows up; it is masked."""
    fingerprint: str
    """Of the files."""
    ids: Callable[[Sequence[str]], Iterable[Sequence[int]]] = field(repr=False)
    """Texts to their own ids, with nothing around them."""
    start: int | None = None

    def check_fits(self, embeddings: int) -> None:
        """Raises `UserError` when there are more words than a network has embeddings."""
        require(
            self.vocabulary <= embeddings,
            f"the tokenizer has {self.vocabulary} words, the network {embeddings}: they do not belong together",
        )

    def encode(self, texts: Sequence[str], max_tokens: int) -> tuple[np.ndarray, np.ndarray]:
        """Ids int32[N, L] and mask bool[N, L], L the number of tokens of the longest text (cut to `max_tokens`)."""
        before = [] if self.start is None else [self.start]
        room = max_tokens - len(before) - 1
        rows = [[*before, *ids[:room], self.end] for ids in self.ids(list(texts))]
        length = max((len(row) for row in rows), default=1)
        tokens_NL = np.full((len(rows), length), self.padding, np.int32)
        mask_NL = np.zeros((len(rows), length), bool)
        for i, row in enumerate(rows):
            tokens_NL[i, : len(row)], mask_NL[i, : len(row)] = row, True
        return tokens_NL, mask_NL


def open_t5_tokenizer(folder: str | Path) -> HFTokenizer:
    """T5's, from `tokenizer.json` or `spiece.model`, in `folder` or in `tokenizer` beside it."""
    folder = find_tokenizer(folder, ("tokenizer.json",), ("spiece.model",))
    content, listed = _read_json(folder)
    stated = read_stated(folder, "T5Tokenizer", T5_NAMED, listed)
    number = stated.settings.get("extra_ids", EXTRA_IDS)
    counts = isinstance(number, int) and 0 <= number <= MOST_EXTRA_IDS
    require(counts, f"{folder / CONFIG}: extra_ids {number!r} is not a number of tokens")
    extra = [f"<extra_id_{i}>" for i in range(number)]
    usual = [AddedToken(name, special=True) for name in extra]
    if content is not None:
        file = folder / JSON
        words = _from_json(file, content, models.Unigram)
    else:
        file = folder / "spiece.model"
        words, controls = t5_words(file, extra)
        usual = [*controls, *usual]
    return _complete(words, stated, [file], usual, listed, T5_NAMED)


def open_clip_tokenizer(folder: str | Path) -> HFTokenizer:
    """CLIP's, from `tokenizer.json`, or `vocab.json` and `merges.txt`, in `folder` or in `tokenizer` beside it."""
    folder = find_tokenizer(folder, ("tokenizer.json",), ("vocab.json", "merges.txt"))
    content, listed = _read_json(folder)
    stated = read_stated(folder, "CLIPTokenizer", CLIP_NAMED, listed)
    if content is not None:
        files = [folder / JSON]
        words = _from_json(*files, content, models.BPE)
    else:
        files = [folder / "vocab.json", folder / "merges.txt"]
        words = clip_words(*files, str(stated.named["unk_token"]))
    return _complete(words, stated, files, [], listed, CLIP_NAMED)


def find_tokenizer(folder: str | Path, *choices: tuple[str, ...]) -> Path:
    """The first of `folder` and its sibling `tokenizer` that holds all files of one of the choices."""
    folder = Path(folder)
    for place in (folder, folder.parent / "tokenizer"):
        if any(all((place / file).is_file() for file in files) for files in choices):
            return place
    wanted = " or ".join(" with ".join(files) for files in choices)
    raise UserError(f"no tokenizer in {folder} nor in {folder.parent / 'tokenizer'}: {wanted} is needed")


def clip_words(vocab: Path, merges: Path, unknown: str = CLIP_END) -> tokenizers.Tokenizer:
    """CLIP's BPE as its two files define it."""
    with _reading(f"{vocab} and {merges}", "a BPE"):
        bpe = models.BPE.from_file(str(vocab), str(merges), unk_token=unknown, end_of_word_suffix="</w>")
        words = tokenizers.Tokenizer(bpe)
    words.normalizer = normalizers.Sequence(
        [normalizers.NFC(), normalizers.Replace(Regex(r"\s+"), " "), normalizers.Lowercase()]
    )
    words.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(CLIP_WORDS), behavior="removed", invert=True),
            pre_tokenizers.ByteLevel(add_prefix_space=False),
        ]
    )
    return words


def t5_words(file: Path, extra: Sequence[str] = ()) -> tuple[tokenizers.Tokenizer, list[AddedToken]]:
    """A SentencePiece unigram model with `extra` tokens after it, counted down, and the tokens that it never cuts."""
    proto = sentencepiece_model_pb2.ModelProto()
    with _reading(str(file), "a SentencePiece model"):
        proto.ParseFromString(file.read_bytes())
    pieces = [(piece.piece, piece.score) for piece in proto.pieces]
    sound = bool(pieces) and all(math.isfinite(score) for _, score in pieces)
    unigram = proto.trainer_spec.model_type == proto.trainer_spec.UNIGRAM
    require(sound and unigram, f"{file} cannot be read as a SentencePiece model: it has no unigram vocabulary")
    require(
        not set(extra) & {name for name, _ in pieces},
        f'{file} has <extra_id_...> itself: write "extra_ids": 0 into {CONFIG} beside it',
    )
    with _reading(str(file), "a SentencePiece model"):
        pieces += [(name, 0.0) for name in reversed(extra)]
        words = tokenizers.Tokenizer(models.Unigram(pieces, proto.trainer_spec.unk_id, byte_fallback=False))
        if charsmap := proto.normalizer_spec.precompiled_charsmap:
            words.normalizer = normalizers.Precompiled(charsmap)
    words.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.WhitespaceSplit(),
            pre_tokenizers.Metaspace(replacement="\u2581", prepend_scheme="always", split=True),
        ]
    )
    uncut = [
        AddedToken(piece.piece, normalized=False, special=piece.type == CONTROL)
        for piece in proto.pieces
        if piece.type in (CONTROL, USER_DEFINED)
    ]
    return words, uncut


def _read_json(folder: Path) -> tuple[dict[str, Any] | None, list[Any]]:
    """What `tokenizer.json` holds, if there is one, and the added tokens that it lists."""
    file = folder / JSON
    if not file.is_file():
        return None, []
    content = read_json(file, "a tokenizer")
    require(isinstance(content, dict), f"{file} cannot be read as a tokenizer: it is not a table")
    listed = content.get("added_tokens") or []
    require(isinstance(listed, list), f"{file}: added_tokens is not a list of tokens with their ids")
    return content, listed


def _from_json(file: Path, content: dict[str, Any], kind: type) -> tokenizers.Tokenizer:
    """The tokenizer without its added tokens."""
    with _reading(str(file), "a tokenizer"):
        words = tokenizers.Tokenizer.from_str(json.dumps(content | {"added_tokens": []}))
    require(isinstance(words.model, kind), f"{file} is no {kind.__name__}: it is not the tokenizer of this encoder")
    # A published file may ask for a length of its own; cutting and padding are done here.
    words.no_truncation()
    words.no_padding()
    if isinstance(words.model, models.BPE):
        words.model.dropout = None  # a text has one answer
    return words


@contextmanager
def _reading(what: str, kind: str) -> Iterator[None]:
    """Whatever the library raises (a plain Exception, or a panic, which is none) as a `UserError`."""
    try:
        yield
    except BaseException as error:
        if not isinstance(error, Exception) and type(error).__name__ != "PanicException":
            raise
        raise UserError(f"{what} cannot be read as {kind}: {error}") from error


def _complete(
    words: tokenizers.Tokenizer,
    stated: Stated,
    files: Sequence[Path],
    usual: Sequence[AddedToken],
    listed: Sequence[Any],
    named: Mapping[str, str],
) -> HFTokenizer:
    """The tokenizer with the tokens that the files beside it state."""
    special = {part: str(stated.named[part]) for part in named if part != "unk_token"}
    if missing := [name for part, name in special.items() if part != "pad_token" and words.token_to_id(name) is None]:
        raise UserError(f"{files[0]} has no {' and no '.join(missing)}: it is not the tokenizer of this encoder")
    stated.add_to(words, usual)
    known = words.get_vocab(with_added_tokens=True)

    def ids(texts: Sequence[str]) -> list[list[int]]:
        try:
            "".join(texts).encode()
        except UnicodeEncodeError as error:
            raise UserError(f"a text to encode has half of a character in it: {error}") from error
        return [encoding.ids for encoding in words.encode_batch_fast(list(texts), add_special_tokens=False)]

    with _reading(str(files[0]), "a tokenizer"):
        ids(["\U0010ffff"])  # a character that no vocabulary has

    # Only what is not usual counts, so that the fingerprints of plain folders are those of their files.
    plain = {*named.values(), *(token.content for token in usual), *(token["content"] for token in listed)}
    more = {token.content for token in words.get_added_tokens_decoder().values()} ^ plain
    told = {name: known.get(name) for name in sorted(more)}
    told |= {part: name for part, name in special.items() if name != named[part]}
    told |= {} if stated.whole else {"split_special_tokens": True}
    return HFTokenizer(
        vocabulary=max(known.values()) + 1,
        last=max(known, key=known.__getitem__),
        end=known[special["eos_token"]],
        padding=known[special["pad_token"]],
        fingerprint=_digest(files, told),
        ids=ids,
        start=known[special["bos_token"]] if "bos_token" in special else None,
    )


def _digest(files: Sequence[Path], told: Mapping[str, Any]) -> str:
    digest = hashlib.sha256()
    for file in files:
        digest.update(file.read_bytes())
    if told:
        digest.update(json.dumps(told, sort_keys=True).encode())
    return digest.hexdigest()
