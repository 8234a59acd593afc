"""Captions embedded beforehand by a frozen text encoder: a folder that a training reads instead of running the encoder.

A text is stored once, under a checksum of what it says, however many records bear it:

  key(text) = BLAKE2b-128 of the normalised text,     value = its n tokens' embeddings, bfloat16 [n, D]           (1)
  bytes     = 2 D (tokens of all texts) + 26 (texts)                                                              (2)

n is the text's own length, or `max_tokens` where padding counts. The folder belongs to one encoder and one way of
cutting and padding texts. It grows by shards, each complete or absent, so that a run that was killed goes on after the
last one, and records added later cost what their new captions cost. Records whose captions are all there are noted, and
the checksums of shards. One process at a time adds to it.
"""

import dataclasses
import hashlib
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Literal, Protocol, runtime_checkable

import ml_dtypes
import numpy as np

from reimagen_jax.checked import Count, parse
from reimagen_jax.data.manifest import Entry, FileName
from reimagen_jax.data.opened import Opened, load_array
from reimagen_jax.data.records import Records
from reimagen_jax.data.spread import spread
from reimagen_jax.encoders.cleaning import cleaned
from reimagen_jax.encoders.settings import Cleaning, FrozenTextConfig
from reimagen_jax.encoders.texts import Embedded
from reimagen_jax.encoders.tokenizers import ByteTokenizer
from reimagen_jax.errors import UserError, require
from reimagen_jax.files import locked, read_json, write_json
from reimagen_jax.progress import track

KIND, VERSION, NAME = "text embeddings", 1, "text_embeddings.json"
ENTRY = np.dtype([("key", "<u8", 2), ("start", "<i8"), ("tokens", "<i2")])
SHARD_BYTES = 2**28
SAMPLE = 20_000
"""So many texts, evenly spread, tell how long texts are, for (2)."""
_BLOCK = 1024
_REMEDY = "run `reimagen embed` again"


@dataclass(frozen=True)
class _Settings:
    """Of the encoder, and of how texts are cut and padded: `FrozenTextConfig` but for the encoder's folder."""

    fingerprint: str
    width: Count
    max_tokens: Count
    padding: Literal["masked", "kept"]
    lowercase: bool
    dtype: Literal["float32", "bfloat16"]
    cleaning: Cleaning = "none"
    """Written where there is one only, as older versions know none."""


@dataclass(frozen=True)
class _Manifest:
    """What is in `text_embeddings.json`."""

    kind: Literal["text embeddings"]
    version: Literal[1]
    settings: _Settings
    records: tuple[str, ...]
    files: dict[FileName, Entry] = dataclasses.field(default_factory=dict)
    """Of shards; older versions did not note them."""


@runtime_checkable
class Encoder(Protocol):
    """What is needed of `encoders.frozen.TextEncoder`."""

    width: int
    max_tokens: int
    fingerprint: str
    tokenizer: Any

    def encode(self, texts: Sequence[str], *, padding: Any = "zero") -> tuple[np.ndarray, np.ndarray]: ...


Encode = Callable[[Sequence[str]], tuple[np.ndarray, np.ndarray]]
"""Texts to embeddings [N, L, D] and bool[N, L], the tokens that count."""


def normalised(texts: Sequence[str], settings: FrozenTextConfig) -> list[str]:
    """The texts as they are embedded."""
    if settings.cleaning == "deepfloyd":
        return [cleaned(text) for text in texts]
    return [text.lower().strip() for text in texts] if settings.lowercase else list(texts)


def encode(encoder: Encoder, texts: Sequence[str], settings: FrozenTextConfig) -> tuple[np.ndarray, np.ndarray]:
    """Embeddings [N, L, D] of normalised texts, and bool[N, L]: the tokens that a network is told of."""
    if settings.padding == "masked":
        return encoder.encode(texts)
    embedding_NLD, mask_NL = encoder.encode(texts, padding="encoded")
    return embedding_NLD, np.ones_like(mask_NL)


@dataclass(frozen=True)
class Estimate:
    """What embedding texts will take."""

    texts: int
    """Distinct ones."""
    missing: int
    """Of them, those not stored yet."""
    tokens: int
    """Of the missing ones; extrapolated from a sample where there are many."""
    bytes: int
    """(2) of the missing ones."""


@dataclass(frozen=True, eq=False)
class TextEmbeddings:
    """A folder of embedded texts; safe to read from several threads."""

    path: Path
    manifest: dict[str, Any]

    @classmethod
    def open(cls, path: str | Path) -> "TextEmbeddings":
        """Opens a folder of embeddings. Raises `UserError` on what is missing, or of an unknown version."""
        path = Path(path)
        if not (path / NAME).is_file():
            raise UserError(
                f"{path} holds no text embeddings (there is no {NAME} in it): write them by `reimagen embed`"
            )
        manifest = read_json(path / NAME, KIND)
        if not isinstance(manifest, dict) or (manifest.get("kind"), manifest.get("version")) != (KIND, VERSION):
            raise UserError(f"{path / NAME} is not of {KIND}, version {VERSION}: run `reimagen embed` of this version")
        parse(_Manifest, manifest, str(path / NAME))
        return cls(path, manifest)

    def __len__(self) -> int:
        """Texts."""
        return len(self._index)

    @property
    def fingerprint(self) -> str:
        """Of the encoder and of how texts are cut and padded: equal ones give equal embeddings."""
        return hashlib.sha256(repr(sorted(self.manifest["settings"].items())).encode()).hexdigest()[:32]

    @property
    def encoder(self) -> str:
        """The encoder's fingerprint."""
        return self.manifest["settings"]["fingerprint"]

    def check(self, settings: FrozenTextConfig) -> None:
        """Raises `UserError` naming every setting in which an experiment differs from what was written here."""
        wrong = [
            f"{name} {ours!r}, the experiment text.frozen.{name} {wanted!r}"
            for name, ours in ({"cleaning": "none"} | self.manifest["settings"]).items()
            if (wanted := getattr(settings, name)) != ours and (name, wanted) != ("fingerprint", "")
        ]
        require(not wrong, f"the embeddings in {self.path} do not fit: they have " + "; they have ".join(wrong))

    def require_records(self, records: Records) -> None:
        """Raises `UserError` unless the captions of these records are all there."""
        require(
            records.fingerprint in self.manifest["records"],
            f"{self.path} does not have the captions of {records.path}: run `reimagen embed {records.path} --out "
            f"{self.path}` with the text encoder first",
        )

    def fetch(self, texts: Sequence[str], settings: FrozenTextConfig) -> tuple[np.ndarray, np.ndarray]:
        """Embeddings bfloat16[N, max_tokens, D], zero beyond a text's tokens, and bool[N, max_tokens].

        `texts` are normalised. Raises `UserError` naming one that is not there.
        """
        embedding_NLD = np.zeros((len(texts), settings.max_tokens, settings.width), ml_dtypes.bfloat16)
        mask_NL = np.zeros((len(texts), settings.max_tokens), bool)
        places = self._index.find(keys_of(texts))
        for row, (text, place) in enumerate(zip(texts, places.tolist(), strict=True)):
            if place < 0:
                raise UserError(f"{self.path} does not have {text[:80]!r}: run `reimagen embed` for its records first")
            shard, start, n = self._index.at(place)
            if n > settings.max_tokens:
                entries = _shard_files(self.path, shard)[1]
                raise UserError(f"{entries} is damaged (a text of {n} tokens): delete it and {_REMEDY}")
            embedding_NLD[row, :n] = self._shard(shard)[start : start + n].view(ml_dtypes.bfloat16)
            mask_NL[row, :n] = True
        return embedding_NLD, mask_NL

    @cached_property
    def _index(self) -> "_Index":
        return _Index({number: _entries(self.path, number) for number in _shard_numbers(self.path)})

    @cached_property
    def _shards(self) -> dict[int, np.ndarray]:
        return {}

    def _shard(self, number: int) -> np.ndarray:
        if number not in self._shards:
            path, entries = _shard_files(self.path, number)
            try:
                array = load_array(path, mapped=True)
                told = _entries(self.path, number)
                rows = int((told["start"] + told["tokens"]).max(initial=0))
                if array.dtype != np.uint16 or array.shape != (rows, self.manifest["settings"]["width"]):
                    raise ValueError(f"{array.dtype} {list(array.shape)}, where {rows} rows are listed")
            except (OSError, ValueError) as error:
                raise UserError(
                    f"{path} is missing or damaged ({error}): delete {entries.name} beside it and {_REMEDY}"
                ) from error
            self._shards[number] = array
        return self._shards[number]

    def verify(self) -> None:
        """Compares the checksums of all shards, and what is listed with what there is.

        Raises `UserError` naming the first that is damaged.
        """
        opened = Opened(self.path)
        for name, entry in self.manifest.get("files", {}).items():
            with opened.reading(_REMEDY):
                if opened.sha256(name) != entry["sha256"]:
                    raise UserError(f"{self.path / name} does not have the checksum that {NAME} notes: it is damaged")
        for number in _shard_numbers(self.path):
            self._shard(number)


def reader(
    store: TextEmbeddings, settings: FrozenTextConfig, caption_bytes: int
) -> Callable[[Sequence[str]], Embedded]:
    """What the loader asks: captions as they stand in records to what a batch holds of them."""
    tokenizer = ByteTokenizer(caption_bytes)
    return lambda texts: Embedded(*store.fetch(normalised(texts, settings), settings), tokenizer.encode(texts))


def embed_records(
    sources: Sequence[Records],
    encoder: Encoder,
    settings: FrozenTextConfig,
    out: str | Path,
    *,
    say: Callable[[str], None] = lambda line: None,
    shard_bytes: int = SHARD_BYTES,
) -> TextEmbeddings:
    """Embeds all captions of `sources`, and the empty text, in the folder `out`, going on where a run before stopped.

    `say` is told, before it starts, what there is to do and how large it gets. Raises `UserError` when `out` holds the
    embeddings of another encoder or of other settings, and when the disk has no room for them.
    """
    settings = dataclasses.replace(settings, fingerprint=encoder.fingerprint, width=encoder.width)
    out = Path(out)
    _make_folder(out.parent)
    with locked(out, wait=True):
        _add(sources, encoder, settings, out, say, shard_bytes)
    return TextEmbeddings.open(out)


def _add(
    sources: Sequence[Records],
    encoder: Encoder,
    settings: FrozenTextConfig,
    out: Path,
    say: Callable[[str], None],
    shard_bytes: int,
) -> None:
    """What `embed_records` does, while no other process writes there."""
    store = _begin(out, settings)
    texts = normalised([text for records in sources for text in records.texts()], settings)
    missing, distinct = _missing(store, [*texts, ""])
    plan = estimate(missing, distinct, encoder, settings)
    say(
        f"{plan.texts:,} different texts, {plan.texts - plan.missing:,} of them there already; "
        f"{plan.missing:,} to embed, about {plan.tokens:,} tokens: {plan.bytes / 1e9:.3g} GB in {out}"
    )
    free = shutil.disk_usage(store.path).free
    require(plan.bytes < free, f"{out} needs about {plan.bytes / 1e9:.3g} GB, but {free / 1e9:.3g} GB are free there")
    _write_shards(store.path, missing, lambda part: encode(encoder, part, settings), shard_bytes)
    known = sorted({*store.manifest["records"], *(records.fingerprint for records in sources)})
    write_json(store.path / NAME, {**store.manifest, "records": known, "files": _checksums(store)})


def estimate(missing: Sequence[str], distinct: int, encoder: Encoder, settings: FrozenTextConfig) -> Estimate:
    """(2), before anything is embedded."""
    if settings.padding == "kept":
        tokens = len(missing) * settings.max_tokens
    else:
        sample = [missing[i] for i in spread(len(missing), SAMPLE)]
        counted = int(encoder.tokenizer.encode(sample, settings.max_tokens)[1].sum()) if sample else 0
        tokens = round(counted * len(missing) / max(len(sample), 1))
    return Estimate(distinct, len(missing), tokens, 2 * encoder.width * tokens + ENTRY.itemsize * len(missing))


def keys_of(texts: Sequence[str]) -> np.ndarray:
    """(1): uint64[N, 2]."""
    digests = (hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=16).digest() for text in texts)
    return np.frombuffer(b"".join(digests), "<u8").reshape(-1, 2)


class _Index:
    """Entries of all shards, sorted by the first half of their keys."""

    def __init__(self, shards: Mapping[int, np.ndarray]) -> None:
        entries = np.concatenate([np.empty(0, ENTRY), *shards.values()])
        shard_N = np.repeat(np.array(list(shards), np.int32), [len(shard) for shard in shards.values()])
        order = np.argsort(entries["key"][:, 0], kind="stable")
        self._entries, self._first, self._shard_N = entries[order], entries["key"][order, 0], shard_N[order]

    def __len__(self) -> int:
        return len(self._entries)

    def find(self, keys_N2: np.ndarray) -> np.ndarray:
        """Where each key stands, -1 where it does not."""
        place_N = np.searchsorted(self._first, keys_N2[:, 0])
        found_N = np.full(len(keys_N2), -1)
        for row, place in enumerate(place_N.tolist()):
            while place < len(self._first) and self._first[place] == keys_N2[row, 0]:
                if self._entries["key"][place, 1] == keys_N2[row, 1]:
                    found_N[row] = place
                    break
                place += 1
        return found_N

    def at(self, place: int) -> tuple[int, int, int]:
        """Shard, first row in it, and number of tokens."""
        entry = self._entries[place]
        return int(self._shard_N[place]), int(entry["start"]), int(entry["tokens"])


def _begin(path: Path, settings: FrozenTextConfig) -> TextEmbeddings:
    """Opens the folder, or makes it."""
    kept = {name: value for name, value in dataclasses.asdict(settings).items() if name != "encoder"}
    kept |= {} if kept.pop("cleaning") == "none" else {"cleaning": settings.cleaning}
    for left in path.glob(".*.partial"):  # by a process that died
        left.unlink()
    if (path / NAME).is_file():
        store = TextEmbeddings.open(path)
        store.check(settings)
        return store
    require(
        not path.exists() or (path.is_dir() and not any(path.iterdir())),
        f"{path} exists and holds no text embeddings: choose another folder",
    )
    _make_folder(path)
    write_json(path / NAME, {"kind": KIND, "version": VERSION, "settings": kept, "records": []})
    return TextEmbeddings.open(path)


def _make_folder(path: Path) -> None:
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"cannot write {path}: {error.strerror}; choose a folder you may write to") from error


def _checksums(store: TextEmbeddings) -> dict[str, Any]:
    """Size and SHA-256 of the files of all shards; those noted before are not read again."""
    opened, noted = Opened(store.path), store.manifest.get("files", {})
    names = [file.name for number in _shard_numbers(store.path) for file in _shard_files(store.path, number)]
    return {
        name: noted.get(name) or {"bytes": opened.size(name), "sha256": opened.sha256(name)} for name in sorted(names)
    }


def _missing(store: TextEmbeddings, texts: Sequence[str]) -> tuple[list[str], int]:
    """The different texts that are not stored, in order of their first occurrence, and how many different ones."""
    keys_N2 = keys_of(texts)
    _, first = np.unique(keys_N2, axis=0, return_index=True)
    first.sort()
    absent = first[store._index.find(keys_N2[first]) < 0]
    return [texts[i] for i in absent.tolist()], len(first)


def _write_shards(path: Path, texts: Sequence[str], encode: Encode, shard_bytes: int) -> None:
    number = max(_shard_numbers(path), default=-1) + 1
    held: list[np.ndarray] = []
    written = size = 0
    for embedding_nD in track(_encoded(texts, encode), len(texts), "embedding", "text"):
        held.append(embedding_nD)
        size += embedding_nD.nbytes
        if size >= shard_bytes:
            _write_shard(path, number, texts[written : written + len(held)], held)
            number, written, size, held = number + 1, written + len(held), 0, []
    if held:
        _write_shard(path, number, texts[written:], held)


def _encoded(texts: Sequence[str], encode: Encode) -> Iterator[np.ndarray]:
    """The tokens that count of each text, bfloat16 [n, D]."""
    for start in range(0, len(texts), _BLOCK):
        embedding_NLD, mask_NL = encode(texts[start : start + _BLOCK])
        for embedding_LD, n in zip(embedding_NLD, mask_NL.sum(axis=1).tolist(), strict=True):
            yield embedding_LD[:n].astype(ml_dtypes.bfloat16)


def _write_shard(path: Path, number: int, texts: Sequence[str], parts: Sequence[np.ndarray]) -> None:
    """The embeddings first: the entries, whose file comes last, make the shard complete."""
    entries = np.zeros(len(texts), ENTRY)
    entries["key"], entries["tokens"] = keys_of(texts), [len(part) for part in parts]
    entries["start"][1:] = np.cumsum(entries["tokens"].astype(np.int64))[:-1]
    for file, array in zip(_shard_files(path, number), (np.concatenate(parts).view(np.uint16), entries), strict=True):
        partial = file.with_name(f".{file.name}.partial")
        with partial.open("wb") as stream:
            np.save(stream, array)
        partial.replace(file)


def _entries(path: Path, number: int) -> np.ndarray:
    """The entries of a shard. Raises `UserError` where they are damaged."""
    file = _shard_files(path, number)[1]
    try:
        entries = load_array(file)
        if entries.dtype != ENTRY or entries.ndim != 1 or (entries["start"] < 0).any() or (entries["tokens"] < 0).any():
            raise ValueError("entries of another kind")
    except (OSError, ValueError, SyntaxError, EOFError) as error:
        raise UserError(f"{file} is damaged ({error}): delete it and {_REMEDY}") from error
    return entries


def _shard_files(path: Path, number: int) -> tuple[Path, Path]:
    return path / f"{number:06d}.embeddings.npy", path / f"{number:06d}.texts.npy"


def _shard_numbers(path: Path) -> list[int]:
    return sorted(int(file.name.split(".")[0]) for file in path.glob("[0-9]*.texts.npy"))
