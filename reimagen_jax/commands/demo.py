"""`reimagen demo`: Re-Imagen's claim on entities that the model has never seen, from nothing to a report.

The knowledge base is made as `reimagen prepare` and `reimagen index` make it: the reference images of the unseen
entities and, so that the comparison is fair, as many of the frequent entities that are asked for. Prompts are captions
of new scenes, whose true images are known, and rated, but never shown to the model.
"""

import time
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING

from reimagen_jax.commands.options import SamplingOptions, command_line
from reimagen_jax.config import require
from reimagen_jax.errors import UserError

if TYPE_CHECKING:
    from reimagen_jax.commands.provenance import Model
    from reimagen_jax.config import Experiment
    from reimagen_jax.data.entityworld import World
    from reimagen_jax.evaluation.ratings import Ceiling, Rater, Ratings
    from reimagen_jax.evaluation.report import Report, Row
    from reimagen_jax.evaluation.sweeps import Sweep
    from reimagen_jax.inference.prompts import Prompt
    from reimagen_jax.retrieval.knowledge_base import KnowledgeBase

ETAS = tuple(i / 10 for i in range(11))
BALANCE = 0.5
"""The eta of the table."""
NEW_SCENE = 1_000_000
"""Number of an image far beyond those in any training set or knowledge base."""
RESULTS = "demo.json"


@dataclass(frozen=True)
class Demo:
    """Show that retrieval draws what the model has never seen. Takes about two minutes on a laptop's CPU.

    With weights that come with the package: makes a knowledge base of EntityWorld, retrieves for entities that were
    absent from the training data, sweeps eta, rates every image, and writes a report to open in a browser.
    """

    out: Path = Path("demo")
    """Folder to write; one written by an earlier demo is replaced."""
    num_prompts: int = 24
    """Prompts about unseen entities, and as many about frequent ones. Fewer are faster, more narrow the intervals."""
    seed: int = 0
    """Of the noise."""
    model: Path = Path("shipped")
    """Another model trained on EntityWorld: folder of a training run or of weights."""
    rater: Path | None = None
    """Another rater (default: the one that comes with the package)."""

    def run(self) -> None:
        """Runs all of it. Raises `UserError` on bad options."""
        from reimagen_jax.commands.provenance import Model, as_json
        from reimagen_jax.data.entityworld import World
        from reimagen_jax.evaluation.rater import Rater
        from reimagen_jax.evaluation.report import PAGE, write_report
        from reimagen_jax.files import atomic_dir, write_json

        require(self.num_prompts > 0, f"--num-prompts {self.num_prompts}: at least 1 is needed")
        if not _may_replace(self.out):
            raise UserError(f"{self.out} exists and was not written by `reimagen demo`: choose another --out")
        start, page = time.monotonic(), self.out.resolve() / PAGE
        print(f"report: {page} (in about two minutes)\n", flush=True)
        world, model, rater = World(), Model.open(self.model), Rater.open(self.rater)
        with atomic_dir(self.out, overwrite=True) as folder:
            chosen = {split: _spread(world.entities(split), self.num_prompts) for split in ("unseen", "frequent")}
            _say("1/4 knowledge base: reference images of the unseen entities, and some of the frequent ones asked for")
            base = _knowledge_base(world, chosen["frequent"], folder, model.config.resolution)
            _say(f"2/4 retrieval among {len(base):,} images, for captions of new scenes")
            prompts = {split: _prompts(world, entities, base, model.config) for split, entities in chosen.items()}
            _say("3/4 sampling (a program is compiled first)")
            unseen, frequent = self._draw(model, prompts["unseen"], prompts["frequent"])
            _say("4/4 rating, and writing the report")
            report = self._report(model, base, rater, unseen, frequent)
            write_report(report, folder)
            write_json(folder / RESULTS, as_json(report, model.config))
        print(f"\n{_table(report)}\n\n{report.introduction}\n({time.monotonic() - start:.0f} s)\n\nreport: {page}")

    def _draw(self, model: "Model", unseen: "Sequence[Prompt]", frequent: "Sequence[Prompt]") -> "tuple[Sweep, Sweep]":
        """The sweep over eta of the unseen entities, and the frequent ones at one eta, by one program."""
        from reimagen_jax.evaluation.sweeps import draw_sweep

        how = SamplingOptions(seed=self.seed, batch_size=min(self.num_prompts, 24))
        generator = model.generator(how.settings(model.config.sampler), how, [*unseen, *frequent])
        return draw_sweep(generator, unseen, ETAS, 1), draw_sweep(generator, frequent, (BALANCE,), 1)

    def _report(
        self, model: "Model", base: "KnowledgeBase", rater: "Rater", unseen: "Sweep", frequent: "Sweep"
    ) -> "Report":
        """Rates everything, true images too, and puts it together."""
        from reimagen_jax.commands.provenance import sampler_facts, versions
        from reimagen_jax.evaluation.ratings import ceiling, rate
        from reimagen_jax.evaluation.report import Report

        most = ceiling(rater, model.config.resolution)
        rated, rated_frequent = rate(unseen, rater, most), rate(frequent, rater, most)
        how = SamplingOptions(seed=self.seed)
        return Report(
            title="Drawing what the model has never seen",
            introduction=_introduction(rated),
            sweep=unseen,
            command=command_line("demo", self),
            settings={
                "Model": model.facts(),
                "Data": {
                    "prompts": f"captions of new scenes of {self.num_prompts} unseen and as many frequent entities",
                    "knowledge base": f"{len(base):,} images of EntityWorld (seed 0)",
                    "its checksum": base.fingerprint,
                },
                "Sampler": sampler_facts(unseen.sampler, how),
                "Versions": versions(),
            },
            ratings=rated,
            rows=_rows(rated, rated_frequent, most),
        )


def _rows(unseen: "Ratings", frequent: "Ratings", most: "Ceiling") -> "tuple[Row, ...]":
    """The table: with and without retrieval, for unseen and frequent entities, and what is the most."""
    from reimagen_jax.evaluation.report import Row

    rows = []
    for split, ratings, column in (("unseen", unseen, ETAS.index(BALANCE)), ("frequent", frequent, 0)):
        images = len(ratings.applies_P)
        with_retrieval = tuple(curve.points[column] for curve in ratings.curves)
        rows.append(Row(f"{split} entities, with retrieval (η {BALANCE:g})", with_retrieval, images))
        rows.append(Row(f"{split} entities, without", tuple(curve.baseline for curve in ratings.curves), images))
    return (*rows, Row("true images: the ceiling of the rater", most.shares, most.images))


def _introduction(unseen: "Ratings") -> str:
    faithful_PC = unseen.verdict_VPSC[0, :, 0]
    with_retrieval, without = faithful_PC[:, 1 + ETAS.index(BALANCE)].sum(), faithful_PC[:, 0].sum()
    return (
        f"Asked for {len(faithful_PC)} entities that were absent from its training data, the model draws "
        f"{with_retrieval} of them right when it retrieves images of them (η {BALANCE:g}), "
        f"and {without} when it does not."
    )


def _table(report: "Report") -> str:
    """The rows for the terminal."""
    from reimagen_jax.evaluation.svg import say

    lines = [["", *(curve.name for curve in report.ratings.curves), "images"]]
    lines += [[row.name, *map(say, row.shares), str(row.images)] for row in report.rows]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    return "\n".join("  ".join(word.ljust(width) for word, width in zip(line, widths, strict=True)) for line in lines)


def _knowledge_base(world: "World", frequent: "Sequence[int]", folder: Path, resolution: int) -> "KnowledgeBase":
    """Records and index of all reference images of unseen entities, and of as many of each of the frequent ones."""
    from reimagen_jax.data.records import ImageText, write_records
    from reimagen_jax.data.sources import Where, WorldSource
    from reimagen_jax.retrieval.knowledge_base import KnowledgeBase

    source = WorldSource(world, Where.parse(["role=reference", "split=unseen"]), resolution)
    numbers = range(world.unseen_references)
    own = (ImageText(**world.example(i, n, "train", resolution)) for i in frequent for n in numbers)
    total = source.count() + len(frequent) * len(numbers)
    records = write_records(chain(source.items(), own), folder / "knowledge", source=source.name, total=total)
    return KnowledgeBase.build(records, folder / "index")


def _prompts(world: "World", entities: "Sequence[int]", base: "KnowledgeBase", config: "Experiment") -> "list[Prompt]":
    """Captions of a new scene of each entity, with their true images, and their neighbours."""
    from reimagen_jax.data.records import ImageText
    from reimagen_jax.inference.prompts import from_record, with_retrieved

    new = (ImageText(**world.example(i, NEW_SCENE, "train", config.resolution)) for i in entities)
    prompts = [from_record(example, base.records.source, config.resolution) for example in new]
    return with_retrieved(prompts, base, config.data.num_neighbours, config.resolution)


def _spread(entities: range, count: int) -> list[int]:
    """At most `count` of the entities, evenly spread."""
    count = min(count, len(entities))
    return [entities[i * len(entities) // count] for i in range(count)]


def _may_replace(out: Path) -> bool:
    """Whether nothing of the user's is lost: there is nothing, an empty folder, or an earlier demo."""
    return not out.exists() or (out.is_dir() and ((out / RESULTS).is_file() or not any(out.iterdir())))


def _say(text: str) -> None:
    print(text, flush=True)
