"""`reimagen verify`: whether folders are whole, whatever they hold."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from pkgutil import resolve_name
from typing import Annotated

import tyro

from reimagen_jax.errors import UserError, require
from reimagen_jax.terminal import say


@dataclass(frozen=True)
class Verify:
    """Check folders against all checksums that were noted when they were written, and against what they refer to.

        reimagen verify runs/train runs/index runs/triples runs/text runs/model

    Records, knowledge bases, triples, text embeddings, encoders, raters, exported weights, what people have rated,
    and training runs with all their checkpoints. Opening a folder compares the sizes of its files and the checksums
    of small ones; this reads everything but what is only for people to look at (cards, tables and pictures). Where
    one is damaged, the others are checked all the same.
    """

    folders: Annotated[tuple[Path, ...], tyro.conf.Positional]
    """Written by `reimagen`; `shipped`: the weights in the package."""

    def run(self) -> None:
        """Checks all, one after the other. Raises `UserError` that names those that are not whole, of which each was
        told of; of a single folder, what is wrong."""
        from reimagen_jax.inference.model import placed

        require(bool(self.folders), "no folder is given: name folders written by `reimagen`")
        damaged = []
        for folder in self.folders:
            try:
                say(f"{folder} is whole: {verify(placed(folder))}")
            except UserError as error:
                if len(self.folders) == 1:
                    raise
                say(f"{folder} is not whole: {error}", error=True)
                damaged.append(str(folder))
        require(not damaged, f"{len(damaged)} of {len(self.folders)} folders are not whole: {', '.join(damaged)}")


def verify(folder: Path) -> str:
    """Reads all of a folder and says what was found whole. Raises `UserError` naming what is damaged."""
    from reimagen_jax.files import called, kind_of, recover

    recover(folder)
    if not folder.is_dir():
        raise UserError(f"{folder} is no folder: name one that was written by `reimagen`")
    kind = kind_of(folder)
    if kind not in _KINDS:
        what = f"{called(kind)}, of which no checksums are kept" if kind else "nothing that `reimagen` knows"
        raise UserError(f"{folder} holds {what}")
    return _KINDS[kind](folder)


def _all(checks: Iterable[Callable[[], object]]) -> None:
    """Makes all checks. Raises `UserError` with what is wrong by any of them."""
    wrong = []
    for check in checks:
        try:
            check()
        except UserError as error:
            wrong.append(str(error))
    require(not wrong, "; ".join(wrong))


def _opened(place: str, told: str) -> Callable[[Path], str]:
    """Opens what has a `verify` of its own, and says how much there is."""

    def check(folder: Path) -> str:
        found = resolve_name(f"reimagen_jax.{place}").open(folder)
        found.verify()
        return f"{told.format(len(found))} as they should be"

    return check


def _encoder(folder: Path) -> str:
    from reimagen_jax.data.manifest import open_folder
    from reimagen_jax.encoders import dual

    open_folder(folder, dual.KIND).verify()
    return f"an encoder of {dual.open(folder).width} values, all checksums as they should be"


def _rater(folder: Path) -> str:
    from reimagen_jax.evaluation.rater import Rater

    return f"a rater of {Rater.open(folder).config.resolution} pixels (no checksums are kept of it)"


def _weights(folder: Path) -> str:
    from reimagen_jax.data.manifest import NAME, open_folder
    from reimagen_jax.inference.model import Model

    told = "no checksums are kept of them"
    if (folder / NAME).is_file():
        open_folder(folder, "weights").verify()
        told = "all checksums as they should be"
    return f"weights of {Model.open(folder, on_host=True).config.name}, {told}"


def _run(folder: Path) -> str:
    from reimagen_jax.inference.model import Model

    checkpoints = folder / "checkpoints"
    names = [path.name for path in checkpoints.iterdir()] if checkpoints.is_dir() else []
    steps = sorted(int(name) for name in names if name.isdigit())
    _all(partial(Model.open, folder, on_host=True, step=step) for step in steps or [None])
    return f"a training run with {len(steps)} checkpoints, each as it was written"


def _split(folder: Path) -> str:
    from reimagen_jax.data.splitting import FILE
    from reimagen_jax.files import read_json

    parts = read_json(folder / FILE, "what a split has written")["parts"]
    _all(partial(verify, folder / name) for name in parts)
    return f"{len(parts)} parts of records, {' and '.join(parts)}, each as it should be"


def _ratings(folder: Path) -> str:
    from reimagen_jax.evaluation.human.store import FILE, Ratings
    from reimagen_jax.evaluation.human.study import Study

    study = Study.open(folder)
    study.verify()
    if not (study.path / FILE).is_file():
        return f"{len(study)} tasks, all checksums as they should be, and no ratings yet"
    with Ratings.open(study) as ratings:
        ratings.verify()
        return f"{len(study)} tasks, all checksums, and {len(ratings)} ratings as they should be"


_KINDS: dict[str, Callable[[Path], str]] = {
    "records": _opened("data.records:Records", "{} records, all checksums"),
    "knowledge base": _opened("retrieval.knowledge_base:KnowledgeBase", "{} records, all checksums and all words"),
    "triples": _opened("retrieval.triples:Triples", "neighbours of {} records, all checksums"),
    "text embeddings": _opened("encoders.text_embeddings:TextEmbeddings", "{} embedded texts, all checksums"),
    "encoder": _encoder,
    "rater": _rater,
    "split": _split,
    "weights": _weights,
    "run": _run,
    "human ratings": _ratings,
}
"""What a folder holds -> what reads all of it and says what it is."""
