"""`reimagen evaluate coco` and `wiki`: the two protocols of Re-Imagen's paper, with each of its databases."""

import dataclasses
import re
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar

import tyro

from reimagen_jax.checked import Count, Natural, Options, Seed
from reimagen_jax.commands.evaluate_distances import FeatureOptions, devices_of, open_chain
from reimagen_jax.commands.options import command_line
from reimagen_jax.commands.prompt_options import AskingOptions, PromptOptions, room_of
from reimagen_jax.commands.sampling_options import CascadeOptions, SamplingOptions
from reimagen_jax.errors import UserError, require
from reimagen_jax.evaluation.settings import Resize
from reimagen_jax.terminal import say

if TYPE_CHECKING:
    from reimagen_jax.config import Experiment
    from reimagen_jax.data.sources.base import Source
    from reimagen_jax.evaluation.features import Features
    from reimagen_jax.evaluation.protocol import Captioned, CaptionedSet
    from reimagen_jax.evaluation.sets import Figure, PictureSet
    from reimagen_jax.inference.jobs import Job
    from reimagen_jax.inference.model import Model
    from reimagen_jax.inference.pipeline import Pipeline
    from reimagen_jax.inference.prompts import Prompt, PromptSource

KIND = "protocol's evaluation"
LIST, RESULTS, REFERENCE, ROWS = "captions.jsonl", "results.json", "reference.npz", "rows"
MANY = 30000
"""Captions of COCO that everybody draws."""
NONE, ALL, SAME = "none", "all", "same"
SHOWN = ("FID", "FID without bias", "KID", "precision", "recall")


@dataclass(frozen=True, kw_only=True)
class _Protocol(Options, ABC):
    """What both have in common."""

    own: ClassVar[tuple[str, ...]] = ()
    """Fields of which a prompt's own value is no neighbour's."""
    named: ClassVar[str] = ""

    model: Path
    """Folder of a training run (its last checkpoint is used) or of weights; `shipped`: the weights in the package."""
    out: Path
    """Folder to write, or to go on with: captions.jsonl, a folder of pictures for each database, results.json."""
    database: Annotated[tuple[str, ...], tyro.conf.arg(metavar="none|NAME=DIR ...")] = (NONE,)
    """Databases that neighbours come from, a row each: none, and folders written by `reimagen index`, each with the
    name that its row is to have."""
    caption_list: Annotated[Path | None, tyro.conf.arg(metavar="FILE")] = None
    """The captions to draw instead of random ones, as others have published theirs: .csv, .tsv, .jsonl or .json with a
    picture (image_id, coco_id, uid, key or file_name) and a caption (caption, prompt or text) in each row."""
    list_seed: Seed = 0
    """Of the random list."""
    reference: Annotated[str, tyro.conf.arg(metavar="all|same|FILE")] = ALL
    """What the drawn pictures are compared with: all pictures of the set, those of the list alone, or statistics
    (reference.npz, which a run leaves) or pictures of your own. Figures against different ones do not compare."""
    side: Count | None = None
    """At which drawn and true pictures are compared, as central squares (default: 256, or what is drawn where that is
    smaller)."""
    resize: Resize = "bicubic"
    """How larger ones come down to it."""
    by: Annotated[FeatureOptions, tyro.conf.arg(name="")] = field(default_factory=FeatureOptions)
    fid_only: bool = False
    """FID alone, with all its bias: no vectors are kept in memory."""
    k: Natural | None = None
    """Neighbours of each prompt (default: as many as the model was trained with)."""
    asking: Annotated[AskingOptions, tyro.conf.arg(name="")] = field(default_factory=AskingOptions)
    how: Annotated[SamplingOptions, tyro.conf.arg(name="")] = field(default_factory=SamplingOptions)
    stages: Annotated[CascadeOptions, tyro.conf.arg(name="")] = field(default_factory=CascadeOptions)
    devices: Count | None = None
    """Devices that draw side by side (default: all of this machine)."""
    follow_links: bool = False
    """Follow symbolic links that lead out of the set's folder: they may lead to any file of yours."""

    def run(self) -> None:
        """Draws, compares and prints row after row. Raises `UserError` on bad options or input."""
        from reimagen_jax.files import growing_dir

        databases, source = self._databases(), self._source()
        if self.reference not in (ALL, SAME):
            there = Path(self.reference).exists()
            require(
                there, f"--reference {self.reference} is neither {ALL} nor {SAME}, nor is there a file of that name"
            )
        with growing_dir(self.out, kind=KIND):
            self._evaluate(databases, source)

    @abstractmethod
    def _source(self) -> "Source":
        """The set's records."""

    @abstractmethod
    def _place(self) -> Path:
        """What the set is called by."""

    @abstractmethod
    def _count(self) -> int | None:
        """Captions to draw; None: as many as there are."""

    def _attributes(self, attributes: Mapping[str, Any]) -> dict[str, Any]:
        """Of a prompt, from those of its picture."""
        return dict(attributes)

    def _databases(self) -> dict[str, Path | None]:
        """Name -> folder. Raises `UserError` for what is no NAME=DIR."""
        found: dict[str, Path | None] = {}
        for word in self.database:
            name, equals, place = word.partition("=")
            plain = word == NONE or (bool(equals and place) and name not in (NONE, ROWS))
            require(
                plain and re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_.-]*", name) is not None,
                f"--database {word}: give {NONE}, or NAME=DIR, such as in-domain=runs/index (a name of letters, "
                "digits, . _ and -)",
            )
            require(name not in found, f"--database: {name} is given twice")
            found[name] = Path(place) if equals else None
        require(bool(found), f"--database is empty: give {NONE}, or NAME=DIR")
        require(
            self.k != 0 or set(found) == {NONE},
            f"--k 0 shows no neighbours: leave out --database {' '.join(self.database)}",
        )
        return found

    def _evaluate(self, databases: Mapping[str, Path | None], source: "Source") -> None:
        from reimagen_jax.evaluation import protocol
        from reimagen_jax.reports.words import table

        shown = protocol.CaptionedSet.of(source, self._place())
        listed = shown.listed(self.caption_list) if self.caption_list else shown.drawn(self._count(), self.list_seed)
        if self.caption_list and (count := self._count()) is not None:
            require(count <= len(listed), f"--count {count}: {self.caption_list} has {len(listed):,} captions")
            listed = listed[:count]
        protocol.settle(self.out / LIST, listed)
        models = open_chain(self.model, self.how, self.stages)
        side = self.side or min(protocol.SIDE, models[-1].config.system.resolution)
        features = protocol.fitted(self.by.open(), side, self.resize)
        pipeline, command = self._drawing(models, databases)
        say(f"{shown.path}: {len(shown.entries):,} pictures, {len(listed):,} captions to draw", f"by {features}")
        jobs = {
            name: self._job(name, index, shown, listed, models, pipeline, command) for name, index in databases.items()
        }
        facts = self._facts(shown, listed, models, pipeline, features, command)
        rows: list[dict[str, Any]] = []
        measured = _Measured(self, shown, listed, features)
        for name, (job, told) in jobs.items():
            rows.append({"database": name, **self._row(name, databases[name], job, told, measured)})
            say(f"database {name}:", *_lines(rows[-1]))
            self._write({"complete": len(rows) == len(jobs), **facts, "rows": rows})
        say(*table(_table(rows)), f"results: {self.out / RESULTS}")

    def _drawing(self, models: "Sequence[Model]", databases: Mapping[str, Path | None]) -> "tuple[Pipeline, _Protocol]":
        """The one program that all rows are drawn by, and the command with nothing left to the experiments."""
        config = models[0].config
        k = room_of(config) if self.k is None else self.k
        asked = [name for name, index in databases.items() if index is not None]
        require(
            k > 0 or not asked,
            f"{self.model} was trained without neighbours: --database {NONE} alone is for it, or give --k",
        )
        devices = devices_of(self.devices)
        first = self.how.settings(config.system.sampler)
        pipeline = self.stages.pipeline(models, self.how, first, k, devices if len(devices) > 1 else ())
        command = dataclasses.replace(
            self, k=k, how=self.how.resolved(pipeline.settings), stages=self.stages.resolved(pipeline), devices=None
        )
        return pipeline, command

    def _job(
        self,
        name: str,
        index: Path | None,
        shown: "CaptionedSet",
        listed: "Sequence[Captioned]",
        models: "Sequence[Model]",
        pipeline: "Pipeline",
        command: "_Protocol",
    ) -> "tuple[Job, dict[str, Any]]":
        """What is drawn with a database, and what is told of this."""
        from reimagen_jax.commands.sample import PLACES
        from reimagen_jax.inference.jobs import Job
        from reimagen_jax.inference.prompts import Prompt
        from reimagen_jax.inference.provenance import origins

        config = models[0].config
        prompts = [
            Prompt(text, (), None, self._attributes(shown.entries[key].attributes), key, shown.name)
            for key, text in listed
        ]
        asked, data = self._asked(prompts, index, shown, config, command.k or 0)
        line = command_line(f"evaluate {self.named}", command)
        said = command_line(f"evaluate {self.named}", dataclasses.replace(command, out=Path("OUT")))

        def tell(n: int, requests: Sequence[Any], images: Sequence[Any], keys: Sequence[str]):
            """As `sample` does, so that `reimagen reproduce` draws them again."""
            return origins(models[:n], pipeline, requests, images, made_by="sample", command=said, records=keys)

        data = {**data, "prompts": f"{len(listed)} captions of {shown.name}", "database": name}
        about = {fact: value for fact, value in data.items() if fact not in PLACES}
        return Job(asked, pipeline, models, self.how.num_images, tell, about), {"command": line, "data": data}

    def _asked(
        self, prompts: "list[Prompt]", index: Path | None, shown: "CaptionedSet", config: "Experiment", k: int
    ) -> "tuple[PromptSource, dict[str, str]]":
        """The prompts with a database's neighbours, none of them a prompt's own picture, and what is told of these."""
        from reimagen_jax.data import images
        from reimagen_jax.evaluation.protocol import read
        from reimagen_jax.inference.prompts import PromptSource, with_retrieved
        from reimagen_jax.retrieval.duplicates import THRESHOLD
        from reimagen_jax.retrieval.knowledge_base import KnowledgeBase

        if index is None:
            return PromptSource.of(prompts), {}
        what = PromptOptions(knowledge_base=index, asking=self.asking, k=k)
        before = what.how_asked(config)
        apart = {"exclude_same": tuple(dict.fromkeys((*before.exclude_same, *self.own)))}
        if self.asking.near_duplicates is None and not before.near_duplicates:
            apart["near_duplicates"] = THRESHOLD
        what = dataclasses.replace(what, asking=dataclasses.replace(self.asking, **apart))
        what.say_how(config)
        base, how, side = KnowledgeBase.open(index), what.how_asked(config), config.system.resolution

        def target(prompt: "Prompt") -> "Prompt":
            try:
                return dataclasses.replace(prompt, target=images.decode(read(shown.entries[prompt.key]), side))
            except images.ImageError as error:
                raise UserError(f"{shown.path}: {prompt.key}: {error}; take it away, or mend it") from None

        def find(some: "Sequence[Prompt]") -> "list[Prompt]":
            return with_retrieved([target(prompt) for prompt in some], base, k, side, how=how)

        return PromptSource.of(what.completed(prompts, config), find, k), what.sources(config)

    def _row(
        self, name: str, index: Path | None, job: "Job", told: Mapping[str, Any], measured: "_Measured"
    ) -> dict[str, Any]:
        """Draws what is missing, and compares: what an earlier run has measured is read."""
        from reimagen_jax.api import complete
        from reimagen_jax.data.pictures import DRAWN
        from reimagen_jax.files import read_json, remove_partials

        folder = self.out / name
        folder.mkdir(exist_ok=True)
        remove_partials(folder)
        complete(job, folder, told)
        drawn = read_json(folder / DRAWN, "what was drawn")["images"]
        found = measured.row(folder)
        without = sum(not each["neighbours"] for each in drawn)
        return {"index": index and str(index), "pictures": len(drawn), "without neighbours": without, **found}

    def _facts(
        self,
        shown: "CaptionedSet",
        listed: "Sequence[Captioned]",
        models: "Sequence[Model]",
        pipeline: "Pipeline",
        features: "Features",
        command: "_Protocol",
    ) -> dict[str, Any]:
        """What the results tell besides their rows."""
        from reimagen_jax.inference.provenance import sampler_facts, versions

        return {
            "command": command_line(f"evaluate {self.named}", command),
            "set": {"name": shown.name, "path": str(shown.path), "pictures": len(shown.entries)},
            "captions": {
                "file": LIST,
                "count": len(listed),
                "pictures": len({each.key for each in listed}),
                "drawn": f"as in {self.caption_list}"
                if self.caption_list
                else f"at random, --list-seed {self.list_seed}",
            },
            "reference": self.reference,
            "features": str(features),
            "model": models[0].facts(),
            **({"cascade": [model.facts() for model in models[1:]]} if len(models) > 1 else {}),
            "sampler": sampler_facts(pipeline.settings, self.how.seed, self.how.num_images),
            "versions": versions(),
        }

    def _write(self, results: dict[str, Any]) -> None:
        from reimagen_jax.files import write_json

        write_json(self.out / RESULTS, results)


class _Measured:
    """Figures of drawn pictures against the reference, which is read once, if it has to be."""

    def __init__(
        self, command: _Protocol, shown: "CaptionedSet", listed: "Sequence[Captioned]", features: "Features"
    ) -> None:
        self.command, self.shown, self.listed, self.features = command, shown, listed, features
        self._read: list[PictureSet] = []

    def row(self, folder: Path) -> dict[str, Any]:
        """The figures of a folder, from an earlier run where nothing has changed since."""
        from reimagen_jax.evaluation import protocol
        from reimagen_jax.evaluation.sets import Figure, compare, read_set, remarks
        from reimagen_jax.evaluation.store import checksum
        from reimagen_jax.files import read_json, signed, unchanged, write_json
        from reimagen_jax.inference.jobs import JOB

        command, features = self.command, self.features
        settings = {
            "job": read_json(folder / JOB, "what was drawn"),
            "features": str(features),
            "reference": [command.reference, self.shown.name, len(self.shown.entries)],
            "fid_only": command.fid_only,
        }
        path = command.out / ROWS / f"{checksum(settings)}.json"
        if path.is_file():
            told = read_json(path, "figures")
            require(
                isinstance(told, dict) and "checksum" in told and unchanged(told),
                f"{path} is not as it was written: delete it to measure again",
            )
            return {"figures": told["figures"], "remarks": told["remarks"]}
        y = self._reference()
        captions = features.clip and features.texts is not None
        x = read_set(folder, features, keep=not command.fid_only, captions=captions, title=folder.name)
        x = dataclasses.replace(x, name=f"database {folder.name}")
        figures = [Figure._asdict(each) for each in protocol.against(compare(x, y, features), self._against(y))]
        told = {"settings": settings, "figures": figures, "remarks": remarks(x, y)}
        path.parent.mkdir(exist_ok=True)
        write_json(path, signed(told))
        return {"figures": figures, "remarks": told["remarks"]}

    def _reference(self) -> "PictureSet":
        from reimagen_jax.evaluation.sets import read_set, write_statistics

        if not self._read:
            command, keep = self.command, not self.command.fid_only
            keys = [each.key for each in self.listed] if command.reference == SAME else None
            own = command.reference not in (ALL, SAME)
            pictures = Path(command.reference) if own else self.shown.pictures(keys)
            self._read.append(read_set(pictures, self.features, keep=keep, title="reference"))
            if command.reference == ALL:
                write_statistics(command.out / REFERENCE, self._read[0], self.features)
        return self._read[0]

    def _against(self, y: "PictureSet") -> str:
        count = y.gaussian.count
        number = "pictures" if count is None else f"{count:,} pictures"
        if self.command.reference == ALL:
            return f"all {number} of {self.shown.path.name}"
        return f"the {number} of the captions" if self.command.reference == SAME else f"{number} in {y.name}"


def _figures(row: Mapping[str, Any]) -> "list[Figure]":
    from reimagen_jax.evaluation.sets import Figure

    return [Figure(**each) for each in row["figures"]]


def _lines(row: Mapping[str, Any]) -> list[str]:
    """Of a row, its figures and what whoever reads them should know."""
    lines = [str(figure) for figure in _figures(row)] + row["remarks"]
    if row["index"] and row["without neighbours"]:
        lines.append(f"{row['without neighbours']:,} of {row['pictures']:,} pictures were drawn without neighbours")
    return lines


def _table(rows: Sequence[Mapping[str, Any]]) -> list[list[str]]:
    """The figures that are compared most, a row for each database."""
    names = dict.fromkeys(figure.name for row in rows for figure in _figures(row))
    names = [name for name in names if name.removeprefix("CLIP-") in SHOWN]
    lines = [["database", "pictures", *names]]
    for row in rows:
        told = {figure.name: figure for figure in _figures(row)}
        cells = [_cell(told[name]) if name in told else "" for name in names]
        lines.append([row["database"], f"{row['pictures']:,}", *cells])
    return lines


def _cell(figure: "Figure") -> str:
    interval = "" if figure.low is None else f" [{figure.low:.4f}, {figure.high:.4f}]"
    return f"{figure.value:.4f}{interval}"


@dataclass(frozen=True, kw_only=True)
class Coco(_Protocol):
    """COCO FID-30K: captions of the validation set, drawn with each database, compared with its pictures.

        reimagen evaluate coco --captions coco/annotations/captions_val2014.json \\
            --model runs/train --out runs/coco30k \\
            --database none in-domain=runs/coco_index out-of-domain=runs/laion \\
            --features pt_inception-2015-12-05-6726825d.pth

    The in-domain database is of the training set; whatever it is of, a prompt's own picture is not shown for it:

        reimagen prepare --source coco/annotations/captions_train2014.json \\
            --out runs/coco --resolution 64
        reimagen index runs/coco --out runs/coco_index

    30,000 pictures at random with one caption of each (or --caption-list), one image of each, from the same noise with
    every database. Images are written as they are drawn: after kill -9 the same command goes on, a batch is lost at
    most; more databases and other --features draw nothing anew. Every figure names its reference, features and
    resizing.
    """

    common: ClassVar[tuple[str, ...]] = ("captions", "pictures", "count", "database", "caption_list", "reference")
    own: ClassVar[tuple[str, ...]] = ("image_id", "image/id")
    named: ClassVar[str] = "coco"

    captions: Annotated[Path, tyro.conf.arg(metavar="FILE")]
    """captions_val2014.json, as it is published."""
    pictures: Annotated[Path | None, tyro.conf.arg(metavar="DIR")] = None
    """Folder of the pictures (default: val2014, beside the captions or beside their folder)."""
    count: Count | None = None
    """Captions to draw (default: 30,000, or all of --caption-list)."""

    def _source(self) -> "Source":
        from reimagen_jax.data.sources import CocoSource

        return CocoSource(self.captions, self.pictures, follow_links=self.follow_links)

    def _place(self) -> Path:
        return self.captions

    def _count(self) -> int | None:
        return self.count or (None if self.caption_list else MANY)

    def _attributes(self, attributes: Mapping[str, Any]) -> dict[str, Any]:
        """With the name that TFDS has for a picture's id, too."""
        return {**attributes, "image/id": attributes["image_id"]}


@dataclass(frozen=True, kw_only=True)
class Wiki(_Protocol):
    """WikiImages: its captions, drawn with each database, compared with its pictures.

        reimagen evaluate wiki --pictures wikiimages --set-where split=val \\
            --model runs/train --out runs/wiki \\
            --database none in-domain=runs/wiki_index out-of-domain=runs/laion \\
            --features pt_inception-2015-12-05-6726825d.pth

    The set is a folder with a metadata.jsonl (or .csv) whose lines have file_name, text, entity, url and split. The
    in-domain database is of its training part; whatever it is of, a prompt's own picture is not shown for it:

        reimagen prepare --source wikiimages --where split=train \\
            --out runs/wiki_train --resolution 64
        reimagen index runs/wiki_train --out runs/wiki_index

    All else is as for `reimagen evaluate coco`.
    """

    common: ClassVar[tuple[str, ...]] = ("pictures", "set_where", "count", "database", "caption_list", "reference")
    own: ClassVar[tuple[str, ...]] = ("image_id", "url")
    named: ClassVar[str] = "wiki"

    pictures: Annotated[Path, tyro.conf.arg(metavar="DIR")]
    """Folder of the set."""
    set_where: Annotated[tuple[str, ...], tyro.conf.UseAppendAction] = ()
    """Only the part with FIELD=VALUE is the set, such as split=val. Repeat it for further values, or for further
    fields."""
    count: Count | None = None
    """Captions to draw, of as many pictures (default: of all, or all of --caption-list)."""

    def _source(self) -> "Source":
        from reimagen_jax.data.sources import FolderSource, Where

        where = Where.parse(self.set_where, "--set-where")
        return FolderSource(self.pictures, where, follow_links=self.follow_links)

    def _place(self) -> Path:
        return self.pictures

    def _count(self) -> int | None:
        return self.count
