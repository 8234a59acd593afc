"""The tokenizers of published text encoders, read from the files that are published with them.

T5's is a SentencePiece unigram model (`spiece.model`), CLIP's a byte-level BPE (`vocab.json` and `merges.txt`). Both
may come as a `tokenizer.json` instead, which is taken first, as transformers does. A text's ids are cut so that the
special tokens around them still fit; CLIP's are those of the text in lower case.

CLIP's words (Radford et al. 2021, code `simple_tokenizer.py`) are those of `CLIP_WORDS`, each spelt in bytes and ended
by `</w>`. The original also mends broken Unicode and undoes HTML escapes first, which transformers does not: neither
do we.
"""

import hashlib
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import sentencepiece
import tokenizers
from tokenizers import Regex, models, normalizers, pre_tokenizers

from reimagen_jax.errors import UserError, require
from reimagen_jax.files import read_json

CLIP_WORDS = r"<\|startoftext\|>|<\|endoftext\|>|'s|'t|'re|'ve|'m|'ll|'d|\p{L}+|\p{N}|[^\s\p{L}\p{N}]+"
CLIP_START, CLIP_END = "<|startoftext|>", "<|endoftext|>"
T5_END, T5_PADDING = "</s>", "<pad>"


@dataclass(frozen=True)
class HFTokenizer:
    """Texts to rows of ids: `start` (if any), the text's own, `end`, then padding."""

    vocabulary: int
    """Number of ids."""
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
    if (file := folder / "tokenizer.json").is_file():
        return _from_library(_read_json_tokenizer(file), [file], end=T5_END, padding=T5_PADDING)
    file = folder / "spiece.model"
    try:
        words = sentencepiece.SentencePieceProcessor(model_file=str(file))
    except (OSError, RuntimeError) as error:
        raise UserError(f"{file} cannot be read as a SentencePiece model: {error}") from error
    if missing := [name for name in (T5_END, T5_PADDING) if words.piece_to_id(name) == words.unk_id()]:
        raise UserError(f"{file} has no {' and no '.join(missing)}: it is not the tokenizer of a T5")
    return HFTokenizer(
        vocabulary=words.vocab_size(),
        end=words.piece_to_id(T5_END),
        padding=words.piece_to_id(T5_PADDING),
        fingerprint=_digest([file]),
        ids=words.encode,
    )


def open_clip_tokenizer(folder: str | Path) -> HFTokenizer:
    """CLIP's, from `tokenizer.json`, or `vocab.json` and `merges.txt`, in `folder` or in `tokenizer` beside it."""
    folder = find_tokenizer(folder, ("tokenizer.json",), ("vocab.json", "merges.txt"))
    if (file := folder / "tokenizer.json").is_file():
        words, files = _read_json_tokenizer(file), [file]
    else:
        files = [folder / "vocab.json", folder / "merges.txt"]
        words = clip_words(*files)
    return _from_library(words, files, start=CLIP_START, end=CLIP_END, padding=_padding_of_clip(folder))


def find_tokenizer(folder: str | Path, *choices: tuple[str, ...]) -> Path:
    """The first of `folder` and its sibling `tokenizer` that holds all files of one of the choices."""
    folder = Path(folder)
    for place in (folder, folder.parent / "tokenizer"):
        if any(all((place / file).is_file() for file in files) for files in choices):
            return place
    wanted = " or ".join(" with ".join(files) for files in choices)
    raise UserError(f"no tokenizer in {folder} nor in {folder.parent / 'tokenizer'}: {wanted} is needed")


def clip_words(vocab: Path, merges: Path) -> tokenizers.Tokenizer:
    """CLIP's BPE as its two files define it."""
    try:
        bpe = models.BPE.from_file(str(vocab), str(merges), unk_token=CLIP_END, end_of_word_suffix="</w>")
    except Exception as error:  # the library raises Exception itself
        raise UserError(f"{vocab} and {merges} cannot be read as a BPE: {error}") from error
    words = tokenizers.Tokenizer(bpe)
    words.normalizer = normalizers.Sequence(
        [normalizers.NFC(), normalizers.Replace(Regex(r"\s+"), " "), normalizers.Lowercase()]
    )
    words.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(CLIP_WORDS), behavior="removed", invert=True),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    words.add_special_tokens([token for token in (CLIP_START, CLIP_END) if words.token_to_id(token) is not None])
    return words


def _padding_of_clip(folder: Path) -> str:
    """As `tokenizer_config.json` says (some networks pad with "!"); the end token else."""
    file = folder / "tokenizer_config.json"
    settings = read_json(file, "the settings of a tokenizer") if file.is_file() else {}
    padding = settings.get("pad_token") if isinstance(settings, dict) else None
    padding = padding.get("content") if isinstance(padding, dict) else padding
    return padding if isinstance(padding, str) else CLIP_END


def _read_json_tokenizer(file: Path) -> tokenizers.Tokenizer:
    try:
        words = tokenizers.Tokenizer.from_file(str(file))
    except Exception as error:  # the library raises Exception itself
        raise UserError(f"{file} cannot be read as a tokenizer: {error}") from error
    # A published file may ask for a length of its own; cutting and padding are done here.
    words.no_truncation()
    words.no_padding()
    return words


def _from_library(
    words: tokenizers.Tokenizer, files: Sequence[Path], *, end: str, padding: str, start: str | None = None
) -> HFTokenizer:
    special = {name: words.token_to_id(name) for name in (start, end, padding) if name is not None}
    if missing := [name for name, token in special.items() if token is None]:
        raise UserError(f"{files[0]} has no {' and no '.join(missing)}: it is not the tokenizer of this encoder")

    def ids(texts: Sequence[str]) -> list[list[int]]:
        return [encoding.ids for encoding in words.encode_batch_fast(list(texts), add_special_tokens=False)]

    return HFTokenizer(
        vocabulary=words.get_vocab_size(with_added_tokens=True),
        end=special[end],
        padding=special[padding],
        fingerprint=_digest(files),
        ids=ids,
        start=None if start is None else special[start],
    )


def _digest(files: Sequence[Path]) -> str:
    digest = hashlib.sha256()
    for file in files:
        digest.update(file.read_bytes())
    return digest.hexdigest()
