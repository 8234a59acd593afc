"""SeedSelect beside Re-Imagen, on entities that were hardly or never seen: the four ways to draw them are compared.

    plain                        the network sees no neighbours                                                 (1)
    SeedSelect                   nor here, but the noise is searched by references                              (2)
    Re-Imagen                    the network sees k neighbours                                                  (3)
    Re-Imagen with SeedSelect    it sees them, and the noise is searched by references                          (4)

The references are the first that retrieval finds for the entity's name, and the neighbours are the first of these: in
(2) to (4), what is known of the entity is the same. Prompts, noise and sampler are the same in all. The encoder that
the search is by must not be the rater that judges.
"""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np

from reimagen_jax.checked import Checked, Natural, NonNegative, read
from reimagen_jax.diffusion.sampler import image_keys
from reimagen_jax.evaluation.entities.arms import Arm
from reimagen_jax.evaluation.entities.bench import EntityBench, Outcome
from reimagen_jax.evaluation.entities.prompts import find_neighbours
from reimagen_jax.evaluation.entities.store import SHOWN, read_strip, run_arm, stored, strip
from reimagen_jax.evaluation.statistics import mean_ci, paired_difference_ci
from reimagen_jax.files import write_json
from reimagen_jax.inference.pipeline import Pipeline, Stage
from reimagen_jax.inference.searching import SearchedStage
from reimagen_jax.systems.request import Neighbour, Request

NAMES = {
    (False, False): "plain",
    (False, True): "SeedSelect",
    (True, False): "Re-Imagen",
    (True, True): "Re-Imagen with SeedSelect",
}
"""(sees neighbours, noise is searched) -> what it is called: (1) to (4)."""
FOUND = "found"
"""The folder of what was found, a folder for each way and split."""


@dataclasses.dataclass(frozen=True)
class Cost(Checked):
    """Of an image, in batches of one size."""

    seconds: NonNegative
    """Without compiling."""
    bytes: Natural
    """Temporaries of the largest program, for a batch."""


class SearchBench(EntityBench):
    """One of the four ways: a stage, which searches or not, with the references of every prompt."""

    def __init__(self, stage: Stage, seed: int, *inputs: Any, references: int, **counts: Any) -> None:
        """As `EntityBench`, `inputs` being the model's checksum, the rater and the inventory."""
        super().__init__(Pipeline([stage], seed), *inputs, **counts)
        self.stage, self.num_references = stage, references
        self._references: dict[str, list[tuple[Neighbour, ...]]] = {}

    @property
    def searches(self) -> bool:
        return isinstance(self.stage, SearchedStage)

    @property
    def name(self) -> str:
        """Which of the four it is."""
        return NAMES[self.stage.settings.k > 0, self.searches]

    def arm(self, split: str) -> Arm:
        """The row of a split."""
        k = self.stage.settings.k
        return Arm(split, "retrieval", k, self.stage.settings.eta) if k else Arm(split, "none")

    def references(self, split: str) -> list[tuple[Neighbour, ...]]:
        """Of every prompt; the neighbours are the first of them."""
        if split not in self._references:
            most, side = max(self.num_references, self.stage.settings.k), self.stage.config.system.resolution
            prompts = self.prompts(split)
            self._references[split] = find_neighbours(
                "retrieval", prompts, self.inventory, most, side, self.pipeline.seed
            )
        return self._references[split]

    def neighbours(self, arm: Arm) -> list[tuple[Neighbour, ...]]:
        return [found[: arm.k] for found in self.references(arm.split)]

    def requests(self, arm: Arm) -> list[Request]:
        groups = [found[: self.num_references] for found in self.references(arm.split) for _ in range(self.num_images)]
        pairs = zip(super().requests(arm), groups, strict=True)
        return [dataclasses.replace(request, references=group) for request, group in pairs]

    def settings(self, arm: Arm) -> dict[str, Any]:
        facts = super().settings(arm) | {"references": self.num_references}
        if self.searches:
            facts |= {"search": dataclasses.asdict(self.stage.search), "encoder": self.stage.encoder.fingerprint}
        return facts

    def cost(self, arm: Arm) -> Cost:
        """Measured as it is drawn, or by drawing a batch again."""
        if self.searches:
            seconds = [found.facts["seconds"] for found in self.stage.selected]
            return Cost(float(np.mean(seconds)), self.stage.objective.memory())
        return Cost(self.seconds_per_image(arm), _memory(self.stage, self.requests(arm)))


def _memory(stage: Stage, requests: Sequence[Request]) -> int:
    """Bytes of temporaries of the program that draws a batch."""
    batch = [requests[i % len(requests)] for i in range(stage.batch_size)]
    batch = [stage.feed.limited(request, stage.settings) for request in batch]
    inputs = stage.feed.collate(batch, stage.settings), image_keys(0, [request.index for request in batch])
    program = jax.jit(lambda params, *told: stage.system.sample(params, *told, stage.settings))
    return program.lower(stage.params, *inputs).compile().memory_analysis().temp_size_in_bytes


def run(
    benches: Sequence[SearchBench], splits: Sequence[str], folder: Path, tell: Callable[[dict[str, Any]], None]
) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Draws and rates all, each row stored in `folder` as it is done; the rows, and the differences by searching.

    `tell` is called with each row.
    """
    rows, outcomes = [], {}
    for split in splits:
        for bench in benches:
            arm = bench.arm(split)
            if bench.searches:
                bench.stage.folder = folder / FOUND / f"{split}-k{arm.k}"
                bench.stage.folder.mkdir(parents=True, exist_ok=True)
            path = stored(bench, arm, folder).with_suffix(".cost.json")
            outcome = outcomes[split, bench.name] = run_arm(bench, arm, folder)
            if not path.is_file():
                write_json(path, dataclasses.asdict(bench.cost(arm)))
            rows.append(row(split, bench, outcome, read(path, Cost, "what an image costs")))
            tell(rows[-1])
    differences = [_difference(split, sees, outcomes) for split in splits for sees in (False, True)]
    return rows, differences


def row(split: str, bench: SearchBench, outcome: Outcome, cost: Cost) -> dict[str, Any]:
    """JSON types; shares are `Interval`s."""
    return {
        "split": split,
        "drawn by": bench.name,
        "prompts": bench.num_prompts,
        "faithfulness": mean_ci(outcome.faithful_NS),
        "alignment": mean_ci(outcome.aligned_NS),
        "look right": mean_ci(outcome.look_right_NSP.mean(axis=2)),
        "seconds": round(cost.seconds, 3),
        "MiB": round(cost.bytes / 2**20, 1),
    }


def _difference(split: str, sees: bool, outcomes: Mapping[tuple[str, str], Outcome]) -> dict[str, Any]:
    without, searched = (outcomes[split, NAMES[sees, searches]] for searches in (False, True))
    values = {"faithfulness": lambda o: o.faithful_NS, "alignment": lambda o: o.aligned_NS}
    values["look right"] = lambda o: o.look_right_NSP.mean(axis=2)
    differences = {name: paired_difference_ci(of(searched), of(without)) for name, of in values.items()}
    return {"split": split, "what": f"{NAMES[sees, True]} minus {NAMES[sees, False]}", **differences}


def picture_rows(
    benches: Sequence[SearchBench], split: str, folder: Path
) -> tuple[list[list[np.ndarray | None]], list[str], list[str]]:
    """The first prompts of a split: cells, the prompts, and headings: references, then the four ways."""
    first = benches[0]
    groups = [found[: first.num_references] for found in first.references(split)[:SHOWN]]
    texts = [prompt.text for prompt in first.prompts(split)[:SHOWN]]
    shown = [list(read_strip(strip(bench, bench.arm(split), folder))) for bench in benches]
    rows = [
        [*(hit.image for hit in group), *[None] * (first.num_references - len(group)), *(each[i] for each in shown)]
        for i, group in enumerate(groups)
    ]
    headings = [f"reference {j + 1}" for j in range(first.num_references)] + [bench.name for bench in benches]
    return rows, texts, headings
