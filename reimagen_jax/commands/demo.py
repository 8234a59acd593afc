"""`reimagen demo`: Re-Imagen's claim, from nothing to a report (see evaluation/demonstration.py)."""

import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from reimagen_jax.checked import Count, Options, Seed
from reimagen_jax.commands.options import command_line
from reimagen_jax.commands.sampling_options import open_drawing
from reimagen_jax.terminal import say

if TYPE_CHECKING:
    from reimagen_jax.evaluation.rater import Rater
    from reimagen_jax.evaluation.sweeps import Sweep
    from reimagen_jax.inference.model import Model
    from reimagen_jax.inference.pipeline import Pipeline
    from reimagen_jax.reports.report import Report
    from reimagen_jax.retrieval.knowledge_base import KnowledgeBase

RESULTS = "demo.json"
KIND = "demonstration"
MAX_BATCH = 20


@dataclass(frozen=True)
class Demo(Options):
    """Show that retrieval draws what the model has never seen. Takes about a minute on a laptop's CPU.

        reimagen demo

    With weights that come with the package: makes a knowledge base of EntityWorld, retrieves for entities that were
    absent from the training data, sweeps eta, rates every image, and writes a report to open in a browser.
    """

    out: Path = Path("demo")
    """Folder to write; one written by an earlier demo is replaced."""
    num_prompts: Count = 20
    """Prompts about unseen entities, and as many about frequent ones. With fewer it is faster and less certain."""
    seed: Seed = 0
    """Of the noise."""
    model: Path = Path("shipped")
    """Another model trained on EntityWorld: folder of a training run or of weights; `shipped`: that in the package."""
    rater: Path | None = None
    """Another rater (default: the one that comes with the package)."""

    def run(self) -> None:
        """Runs all of it. Raises `UserError` on bad options."""
        from reimagen_jax.api import Swept
        from reimagen_jax.data.entityworld import World
        from reimagen_jax.evaluation import demonstration
        from reimagen_jax.evaluation.rater import Rater
        from reimagen_jax.files import atomic_dir, require_writable
        from reimagen_jax.reports.demonstration import table_as_text
        from reimagen_jax.reports.report import PAGE

        require_writable(self.out, kind=KIND, overwrite=True)
        start, page = time.monotonic(), self.out.resolve() / PAGE
        _say(f"report: {page} (in about a minute)\n")
        world, model, rater = World(), open_drawing(self.model), Rater.open(self.rater)
        unseen, frequent = (demonstration.choose(world, split, self.num_prompts) for split in ("unseen", "frequent"))
        pipeline = self._pipeline(model)
        demonstration.rehearse(world, model.config.system.resolution)
        # XLA compiles on a core of its own while images for the knowledge base are made on another.
        with atomic_dir(self.out, kind=KIND, overwrite=True) as folder, ThreadPoolExecutor(1) as beside:
            ready = beside.submit(_compiled, pipeline)
            _say("1/4 knowledge base: images of all unseen entities, and of the frequent ones asked for")
            base = demonstration.knowledge_base(world, frequent, folder, model.config.system.resolution)
            _say(f"2/4 retrieval among {len(base):,} images by the entities' names; prompts are captions of new scenes")
            prompts = [demonstration.prompts_about(world, asked, base, model.config) for asked in (unseen, frequent)]
            _say("3/4 sampling (once the program is compiled)")
            ready.result()
            sweeps = self._draw(pipeline, *prompts)
            _say("4/4 rating, and writing the report")
            report = self._report(model, base, rater, *sweeps)
            Swept(model, report).write(folder, RESULTS)
        names = [curve.name for curve in report.ratings.curves]
        _say(f"\n{table_as_text(report.rows, names)}\n{report.ratings.about_rater}\n")
        _say(f"{report.introduction} ({time.monotonic() - start:.0f} s)\n\nreport: {page}")

    def _pipeline(self, model: "Model") -> "Pipeline":
        """The model, with room for as many neighbours as prompts get."""
        from reimagen_jax.inference.pipeline import Pipeline

        settings = model.config.system.sampler.changed(k=model.config.data.num_neighbours)
        return Pipeline([model.stage(settings, min(self.num_prompts, MAX_BATCH))], self.seed)

    def _draw(self, pipeline: "Pipeline", unseen: list, frequent: list) -> "tuple[Sweep, Sweep]":
        """The sweep over eta of the unseen entities, and the frequent ones at one eta, by one program."""
        from reimagen_jax.evaluation.demonstration import BALANCE, ETAS
        from reimagen_jax.evaluation.sweeps import draw_sweep

        return draw_sweep(pipeline, unseen, ETAS, 1), draw_sweep(pipeline, frequent, (BALANCE,), 1)

    def _report(
        self, model: "Model", base: "KnowledgeBase", rater: "Rater", unseen: "Sweep", frequent: "Sweep"
    ) -> "Report":
        """Rates both sweeps and puts it together."""
        from reimagen_jax.api import report_settings
        from reimagen_jax.evaluation.demonstration import table
        from reimagen_jax.evaluation.ratings import rate
        from reimagen_jax.reports.demonstration import in_words
        from reimagen_jax.reports.report import Report

        ratings = rate(unseen, rater)
        data = {
            "prompts": f"captions of new scenes of {self.num_prompts} unseen and as many frequent entities",
            "knowledge base": f"{len(base):,} images of EntityWorld",
            "its checksum": base.fingerprint,
            "asked for": "the entities' names",
        }
        return Report(
            title="Drawing what the model has never seen",
            introduction=in_words(ratings),
            sweep=unseen,
            command=command_line("demo", self),
            settings=report_settings(model, data, unseen),
            ratings=ratings,
            rows=table(ratings, rate(frequent, rater), rater),
        )


def _compiled(pipeline: "Pipeline") -> None:
    """Returns when the program of the pipeline is compiled, and has drawn something."""
    from reimagen_jax.systems.request import Request

    requests = [Request("a dog")]
    pipeline.prepare(requests)
    for _ in pipeline.stream(requests):
        pass


def _say(text: str) -> None:
    say(*text.split("\n"))
