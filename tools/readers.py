"""The readers of everything that comes from a disk, each as a command would call it: what fuzz.py and flip.py ask.

A reader gets a folder with specimens (specimens.py) in it, some of them changed, and reads all there is to read. It
returns a digest of what it read. It raises `UserError` where the program refuses; whatever else it raises is a fault.
"""

import contextlib
import dataclasses
import functools
import hashlib
import io
import json
import re
import threading
from pathlib import Path
from typing import Any

import jax
import numpy as np
import specimens
from flax.traverse_util import flatten_dict
from tqdm import tqdm
from workers import CHANGED, Target

from reimagen_jax import cli
from reimagen_jax.commands import train as train_command
from reimagen_jax.data import images
from reimagen_jax.data.records import Records
from reimagen_jax.encoders import clip, dual
from reimagen_jax.encoders.hf_tokenizers import open_clip_tokenizer, open_t5_tokenizer
from reimagen_jax.encoders.published import open_published
from reimagen_jax.encoders.text_embeddings import TextEmbeddings
from reimagen_jax.errors import UserError
from reimagen_jax.evaluation.entities import store
from reimagen_jax.evaluation.entities.arms import Arm
from reimagen_jax.evaluation.entities.tables import row
from reimagen_jax.evaluation.features import Features, Read
from reimagen_jax.evaluation.rater import Rater
from reimagen_jax.evaluation.ratings import why_unrated
from reimagen_jax.evaluation.sets import read_set
from reimagen_jax.inference.edits import read_square
from reimagen_jax.inference.model import Model
from reimagen_jax.inference.origin import read_origin
from reimagen_jax.inference.prompts import from_file
from reimagen_jax.inference.requests import from_file as reference
from reimagen_jax.retrieval.knowledge_base import KnowledgeBase
from reimagen_jax.retrieval.triples import Triples
from reimagen_jax.systems import kinds
from reimagen_jax.training.checkpoint import Checkpoints, read_run
from reimagen_jax.training.telemetry import JsonLinesWriter

tqdm.set_lock(threading.RLock())  # one of processes would be left behind by those that are killed
write_specimens = specimens.write

CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")
"""What must not reach a terminal: it moves the cursor, changes titles, or worse. (Tabs and line ends may.)"""


class Fault(Exception):
    """What is wrong although nothing was raised."""


def digest(*values: Any) -> str:
    """Of texts, bytes, arrays and JSON types (hex)."""
    content = hashlib.sha256()
    for value in values:
        if isinstance(value, np.ndarray | jax.Array):
            value = np.asarray(value)
            part = f"{value.dtype} {value.shape}".encode() + value.tobytes()
        elif isinstance(value, bytes):
            part = value
        else:
            part = json.dumps(value, sort_keys=True, default=str).encode()
        content.update(hashlib.sha256(part).digest())
    return content.hexdigest()


def tree_digest(params: Any) -> str:
    """Of a parameter tree."""
    leaves = sorted(flatten_dict(params, sep="/").items())
    return digest(*(part for name, leaf in leaves for part in (name, leaf)))


def command(*args: Any) -> str:
    """Runs a command in this process; what it printed. Raises `UserError` where it ends with status 2."""
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            status = cli.main([str(arg) for arg in args])
        except SystemExit as end:  # the parser's, which repeats what was typed
            raise UserError(f"status {end.code}") from None
    said, complained = out.getvalue(), err.getvalue()
    if found := CONTROL.search(said + complained):
        around = (said + complained)[max(0, found.start() - 60) : found.end() + 20]
        raise Fault(f"{found[0]!r} is printed raw: {around!r}")
    if "Traceback (most" in complained:
        raise Fault(f"a traceback is printed: {complained.strip().splitlines()[-1]}")
    if status == cli.USAGE_ERROR:
        if complained.startswith("error:") and complained.count("\n") != 1:
            raise Fault(f"an error of {complained.count(chr(10))} lines: {complained[:200]!r}")
        raise UserError(complained.strip() or "status 2 without a word")
    if status:
        raise Fault(f"status {status}: {complained[-200:]}")
    return said


def records_digest(records: Any) -> str:
    """Of all that records hold."""
    parts = []
    for record in records:
        try:
            pixels = images.digest(images.load(record.image))
        except images.ImageError as error:
            pixels = str(error)
        parts += [record.key, record.text, record.attributes, record.digest, pixels]
    return digest(*parts, records.keys(), records.texts(), records.digests(), records.sources())


def _prepare(folder: Path, *args: Any) -> str:
    """Prepares, and accounts for everything: what is no record is a problem that the list names."""
    command("prepare", "--out", folder / "prepared", *args)
    records = Records.open(folder / "prepared")
    records.verify()
    skipped = [json.loads(line) for line in (folder / "prepared" / "skipped.jsonl").open(encoding="utf-8")]
    if len(skipped) != sum(records.manifest["skipped"].values()):
        raise Fault(f"{len(skipped)} lines of skipped.jsonl, but {records.manifest['skipped']} are counted")
    return digest(records_digest(records), records.manifest["skipped"])


def pictures(folder: Path) -> str:
    """The picture that was changed, as records, as a reference and as what is drawn again read it."""
    parts = []
    for path in _changed(folder, "pictures"):
        try:
            image = images.load(path.read_bytes())
        except OSError as error:
            raise UserError(f"{path}: {error.strerror}") from error
        except images.ImageError:
            if path.suffix == ".tiff":  # which is not read at all
                continue
            raise
        parts.append(images.digest(image))
        images.encode(images.square(image, 8), lossy=True)
        reference(path, "a text", 8)
        read_square(path, "image")
    return digest(parts)


def records(folder: Path) -> str:
    return records_digest(Records.open(folder / "records"))


def base(folder: Path, name: str = "base", method: str = "lexical") -> str:
    path = folder / name
    found = [
        command("search", path, query, "--k", 3, "--method", method, "--explain", "--sheet", folder / "sheet.png")
        for query in ("a red cat", "dogs", "istanbul zzz")
    ]
    found.append(
        command("search", path, "a", "--k", 4, "--where", "category=animal", "--pin", "k0", "--json", "--sheet", "None")
    )
    found.append(command("index", path, "--stats"))
    opened = KnowledgeBase.open(path)
    content = opened.content
    arrays = [*dataclasses.astuple(content.captions), *dataclasses.astuple(content.attributes), content.rows]
    found = [said.replace(str(folder), "") for said in found]  # each process reads at a place of its own
    return digest(found, opened.keys(), *arrays, *content.vectors)


def triples(folder: Path) -> str:
    opened = Triples.open(folder / "triples")
    excluded = [dataclasses.astuple(one) for one in opened.excluded()]
    config = specimens.experiment(folder)
    feed = kinds.feed_of(config).settled()
    batch = next(iter(feed.dataset()))
    return digest(opened.neighbours, opened.scores, excluded, *jax.tree.leaves(batch))


def embeddings(folder: Path) -> str:
    opened = TextEmbeddings.open(folder / "embeddings")
    opened.check(specimens.FROZEN)
    opened.require_records(Records.open(folder / "records"))
    return digest(*opened.fetch([*specimens.CAPTIONS, ""], specimens.FROZEN))


def encoder(folder: Path, name: str = "encoder") -> str:
    opened = dual.open(folder / name)
    return digest(opened.fingerprint, dataclasses.asdict(opened.config), tree_digest(opened.params))


def weights(folder: Path, name: str = "model") -> str:
    model = Model.open(folder / name, on_host=True)
    return digest(dataclasses.asdict(model.config), tree_digest(model.params))


def run(folder: Path) -> str:
    model = Model.open(folder / "run", on_host=True)
    return digest(dataclasses.asdict(model.config), model.step, tree_digest(model.params))


@functools.cache
def _abstract() -> Any:
    return specimens.abstract_state(specimens.EXPERIMENT)


def checkpoint(folder: Path) -> str:
    """As `train` goes on."""
    feed = kinds.feed_of(specimens.experiment(folder)).settled()
    read_run(folder / "run")
    with contextlib.closing(Checkpoints(folder / "run", 3)) as checkpoints:
        step = checkpoints.latest()
        if step is None:
            raise UserError("there is no checkpoint")
        placed = jax.tree.map(
            lambda leaf: jax.ShapeDtypeStruct(
                leaf.shape, leaf.dtype, sharding=jax.sharding.SingleDeviceSharding(jax.devices()[0])
            ),
            _abstract(),
        )
        data = iter(feed.dataset())
        state = checkpoints.restore(step, placed, data)
        leaves = [np.asarray(leaf) for leaf in jax.tree.leaves(state)]
        return digest(step, data.get_state(), *leaves)


def rater(folder: Path) -> str:
    opened = Rater.open(folder / "rater")
    return digest(dataclasses.asdict(opened.config), opened.metrics, opened.ceilings, tree_digest(opened.params))


class _Bench:
    """As much of a bench as the store asks where a row is stored already."""

    num_images = 2

    def settings(self, arm: Arm) -> dict[str, Any]:
        return {}

    def entities(self, split: str) -> np.ndarray:
        return np.arange(4)

    def draw(self, arm: Arm) -> None:
        raise UserError("a row that is not stored is drawn")


def ratings(folder: Path) -> str:
    arm = Arm("unseen", "retrieval", 2, 0.5)
    outcome = store.run_arm(_Bench(), arm, folder / "ratings")
    return digest(row(arm, outcome))


def judged(folder: Path) -> str:
    return digest(command("evaluate", "judged", folder / "judged"))


def metrics(folder: Path) -> str:
    """As `train` goes on after step 2."""
    path = folder / "run" / "metrics.jsonl"
    JsonLinesWriter(path, 2).close()
    return digest(path.read_bytes())


def encoder_t5(folder: Path, name: str = "t5") -> str:
    opened = open_published(folder / name, dtype="float32", max_tokens=8)
    return digest(opened.fingerprint, opened.tokenizer.encode(specimens.CAPTIONS, 8), tree_digest(opened.params))


def encoder_clip(folder: Path) -> str:
    text, both = clip.open_text(folder / "clip", max_tokens=8), clip.open(folder / "clip")
    return digest(text.fingerprint, both.fingerprint, tree_digest(text.params), tree_digest(both.params))


HOSTILE = (
    *specimens.CAPTIONS,
    "",
    " ",
    "\0",
    "</s> <extra_id_0> <|endoftext|>",
    "\U0010ffff" * 3,
    "a" * 500,
    "é\u0301",
)


def tokenizer(folder: Path, name: str = "clip") -> str:
    opened = (open_clip_tokenizer if name.startswith("clip") else open_t5_tokenizer)(folder / name)
    opened.check_fits(2**20)
    return digest(opened.vocabulary, opened.end, opened.padding, *opened.encode(HOSTILE, 8))


def origin(folder: Path, name: str) -> str:
    told, image = read_origin(folder / "pictures_told" / name)
    return digest(repr(told), image)


def prompts(folder: Path, name: str) -> str:
    found = from_file(folder / "prompts" / name)
    return digest([(one.text, one.attributes) for one in found], why_unrated(found))


def options(folder: Path) -> str:
    """The command line that was changed: it is understood, or refused, since nothing is there that it names."""
    return digest([_command_line(folder, path) for path in _changed(folder, "options")])


def _command_line(folder: Path, path: Path) -> str:
    try:
        text = path.read_text(encoding="utf-8", errors="surrogateescape")
    except OSError as error:
        raise UserError("no command line") from error
    words = [word for word in text.replace("\0", "").split("\n") if word]
    if words[:1] == ["train"]:
        file = folder / "experiment.py"
        file.write_text("from specimens import EXPERIMENT as config\n", encoding="utf-8")
        words = [str(file) if word == "EXPERIMENT" else word for word in words[1:]]
        with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
            try:
                return digest(dataclasses.asdict(train_command.parse(words).config))
            except SystemExit as end:
                raise UserError(f"status {end.code}") from None
    if words[:1] not in ([name] for name in cli.COMMANDS if name not in ("demo", "rater")):
        raise UserError("another command, which may begin to work")
    if words[0] == "prepare" and not any(word.startswith("--source") for word in words):
        raise UserError("would draw a world")
    with contextlib.chdir(folder):
        try:
            return digest(command(*words))
        except UserError:
            return "refused"  # as the unchanged ones are: nothing is there


def _changed(folder: Path, name: str) -> list[Path]:
    """The file that was changed, or all there are."""
    note = folder / CHANGED
    return [folder / note.read_text(encoding="utf-8")] if note.is_file() else sorted((folder / name).iterdir())


def sets(folder: Path) -> str:
    """Sets of pictures and statistics, by the means of their colours."""

    def means(pictures: np.ndarray) -> Read:
        return Read(pictures.mean(axis=(1, 2), dtype=np.float32))

    features = Features(
        "means", "none", "at 8", "means", 3, 256, lambda image: np.asarray(images.square(image, 8)), means
    )
    found = [read_set(path, features).gaussian for path in sorted((folder / "sets").iterdir())]
    return digest(*(part for each in found for part in (each.mean_D, each.cov_DD, each.count)))


def _source(name: str, *args: str) -> Target:
    folder = f"sources/{name}"

    def read(root: Path) -> str:
        given = [arg.replace("HERE", str(root / folder)) for arg in args]
        return _prepare(root, *given)

    return Target(read, (folder,), (f"{folder}/*",), ours=False)


def _base(name: str, method: str) -> Target:
    folders = ("records", name) if method == "lexical" else ("records", "encoder", name)
    return Target(lambda root: base(root, name, method), folders, (f"{name}/*",))


def _weights(name: str) -> Target:
    return Target(lambda root: weights(root, name), (name,), (f"{name}/*",))


def _tokenizer(name: str, *files: str) -> Target:
    changed = tuple(f"{name}/{file}" for file in files)
    return Target(lambda root: tokenizer(root, name), (name,), changed, ours=False)


def _verified(target: Target, name: str) -> Target:
    def read(root: Path) -> str:
        return digest(command("verify", root / name).replace(str(root), ""))

    return Target(read, target.folders, target.changed)


def _prompts(name: str) -> Target:
    return Target(lambda root: prompts(root, name), ("prompts",), (f"prompts/{name}",), ours=False)


def _origin(name: str) -> Target:
    return Target(lambda root: origin(root, name), ("pictures_told",), (f"pictures_told/{name}",), ours=False)


def _unfinished(folder: Path) -> str:
    """As an interrupted `prepare` goes on."""
    place = folder / "sources" / "unfinished"
    command("prepare", "--source", place / "photos", "--out", place / "out")
    return records_digest(Records.open(place / "out"))


TARGETS: dict[str, Target] = {
    "metadata.jsonl": _source("jsonl", "--source", "HERE"),
    "metadata.csv": _source("csv", "--source", "HERE"),
    "parquet": _source("parquet", "--source", "HERE"),
    "webdataset": _source("webdataset", "--source", "HERE"),
    "tfds array_record": _source("tfds", "--source", "tfds:image_text", "--split", "records", "--data-dir", "HERE"),
    "tfds tfrecord": _source("tfrecord", "--source", "tfds:image_text", "--split", "records", "--data-dir", "HERE"),
    "unfinished": Target(_unfinished, ("sources/unfinished",), ("sources/unfinished/.out.unfinished/*",)),
    "pictures": Target(pictures, ("pictures",), ("pictures/*",), ours=False),
    "sets": Target(sets, ("sets",), ("sets/*", "sets/drawn/*"), ours=False),
    "records": Target(records, ("records",), ("records/*",)),
    "base": _base("base", "lexical"),
    "base, changed": _base("changed", "lexical"),
    "base, dense": _base("dense", "hybrid"),
    "base, ivf": _base("ivf", "dense"),
    "triples": Target(triples, ("records", "base", "triples"), ("triples/*",)),
    "embeddings": Target(embeddings, ("records", "embeddings"), ("embeddings/*",)),
    "encoder": Target(encoder, ("encoder",), ("encoder/*",)),
    "encoder, clip": Target(lambda root: encoder(root, "encoder_clip"), ("encoder_clip",), ("encoder_clip/*",)),
    "encoder, images": Target(lambda root: encoder(root, "encoder_images"), ("encoder_images",), ("encoder_images/*",)),
    "encoder, lpips": Target(lambda root: encoder(root, "encoder_lpips"), ("encoder_lpips",), ("encoder_lpips/*",)),
    "weights": _weights("model"),
    **{f"weights, {name}": _weights(name) for name in specimens.UNCLIP | specimens.RCG},
    "run": Target(run, ("run",), ("run/run.json", "run/checkpoints/*")),
    "checkpoint": Target(checkpoint, ("records", "base", "triples", "run"), ("run/run.json", "run/checkpoints/*")),
    "rater": Target(rater, ("rater",), ("rater/*",)),
    "metrics": Target(metrics, ("run",), ("run/metrics.jsonl",), ours=False),
    "judged": Target(judged, ("judged",), ("judged/*",), ours=False),
    "ratings": Target(ratings, ("ratings",), ("ratings/*",)),
    "t5": Target(encoder_t5, ("t5",), ("t5/*",), ours=False),
    "t5, sharded": Target(
        lambda root: encoder_t5(root, "t5_sharded"), ("t5_sharded",), ("t5_sharded/*.safetensors*",), ours=False
    ),
    "clip": Target(encoder_clip, ("clip",), ("clip/config.json", "clip/model.safetensors"), ours=False),
    "vocab+merges": _tokenizer("clip", "vocab.json", "merges.txt", "tokenizer_config.json"),
    "tokenizer.json clip": _tokenizer("clip_json", "tokenizer.json"),
    "tokenizer.json t5": _tokenizer("t5_json", "tokenizer.json"),
    "spiece.model": _tokenizer("t5", "spiece.model"),
    "origin in a PNG": _origin("a.png"),
    "origin beside it": _origin("b.json"),
    "prompts.txt": _prompts("prompts.txt"),
    "prompts.jsonl": _prompts("prompts.jsonl"),
    "options": Target(options, ("options",), ("options/*",), ours=False),
}
_FOLDERS = {
    "records": "records",
    "base": "base",
    "base, changed": "changed",
    "base, dense": "dense",
    "base, ivf": "ivf",
    "triples": "triples",
    "embeddings": "embeddings",
    "encoder": "encoder",
    "encoder, clip": "encoder_clip",
    "encoder, images": "encoder_images",
    "encoder, lpips": "encoder_lpips",
    "weights": "model",
    **{f"weights, {name}": name for name in specimens.UNCLIP | specimens.RCG},
    "rater": "rater",
    "run": "run",
    "checkpoint": "run",
}
VERIFIED = {name: f"verify {folder}" for name, folder in _FOLDERS.items()}
"""Readers -> those that check everything in the same folders (`reimagen verify`)."""
for _name, _folder in _FOLDERS.items():
    TARGETS[f"verify {_folder}"] = _verified(TARGETS[_name], _folder)
