"""Answers to one question beside each other: how is something drawn that a model has hardly or never seen?

    Imagen             from the text alone                                                                      (1)
    Re-Imagen          k neighbours are attended to                                                             (2)
    SeedSelect         (1) or (2), from noise that references have chosen (seedselect.py)                       (3)
    unCLIP             from an image embedding: drawn by a prior from the text, or that of a reference          (4)
    RCG                from a reference's representation, without any text                                      (5)

All draw the same prompts; references and neighbours are the first that retrieval finds for the name. Each draws
by settings of its own, so what an image costs stands beside: seconds, and temporaries of the largest program.
"""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from reimagen_jax.checked import Checked, Natural, NonNegative, read
from reimagen_jax.evaluation.entities.arms import Arm
from reimagen_jax.evaluation.entities.bench import EntityBench, Outcome
from reimagen_jax.evaluation.entities.store import SHOWN, read_strip, run_arm, stored, strip
from reimagen_jax.evaluation.statistics import mean_ci, paired_difference_ci
from reimagen_jax.files import write_json
from reimagen_jax.inference.pipeline import Pipeline
from reimagen_jax.systems.request import Neighbour

Outcomes = Mapping[tuple[str, str], Outcome]
"""By split and name."""
COMPARED: Mapping[str, Callable[[Outcome], np.ndarray]] = {
    "faithfulness": lambda o: o.faithful_NS,
    "alignment": lambda o: o.aligned_NS,
    "both": lambda o: o.faithful_NS & o.aligned_NS,
    "look right": lambda o: o.look_right_NSP.mean(axis=2),
}
"""What an outcome is told by: "look right" is the share of the look's parameters, the category among them."""


@dataclasses.dataclass(frozen=True)
class Cost(Checked):
    """Of an image, in batches of one size."""

    seconds: NonNegative
    """Without compiling."""
    bytes: Natural
    """Temporaries of the largest program, for a batch."""


class Answer(EntityBench):
    """One of them: a pipeline by the name of its row, which sees the first k that are found, or nothing."""

    def __init__(self, name: str, k: int, pipeline: Pipeline, *inputs: Any, **counts: Any) -> None:
        """As `EntityBench`, `inputs` being the models' checksum, the rater and the inventory."""
        super().__init__(pipeline, *inputs, **counts)
        self.name, self.k = name, k

    def arm(self, split: str) -> Arm:
        """The row of a split."""
        if not self.k:
            return Arm(split, "none")
        return Arm(split, "retrieval", self.k, getattr(self.pipeline.settings, "eta", 1.0))

    def placed(self, split: str, folder: Path) -> None:
        """Told where its row of a split is stored, before it is drawn."""

    def cost(self, arm: Arm) -> Cost:
        """By drawing a batch again."""
        size = max(stage.batch_size for stage in self.pipeline.stages)
        requests = self.requests(arm)
        batch = [requests[i % len(requests)] for i in range(size)]
        return Cost(self.seconds_per_image(arm), self.pipeline.temporaries(batch))


def run(
    answers: Sequence[Answer], splits: Sequence[str], folder: Path, tell: Callable[[dict[str, Any]], None]
) -> tuple[list[dict[str, Any]], Outcomes]:
    """Draws and rates all, each row stored in `folder` as it is done; `tell` is called with each row."""
    rows, outcomes = [], {}
    for split in splits:
        for answer in answers:
            arm = answer.arm(split)
            answer.placed(split, folder)
            path = stored(answer, arm, folder).with_suffix(".cost.json")
            outcome = outcomes[split, answer.name] = run_arm(answer, arm, folder)
            if not path.is_file():
                write_json(path, dataclasses.asdict(answer.cost(arm)))
            rows.append(row(split, answer, outcome, read(path, Cost, "what an image costs")))
            tell(rows[-1])
    return rows, outcomes


def row(split: str, answer: Answer, outcome: Outcome, cost: Cost) -> dict[str, Any]:
    """JSON types; shares are `Interval`s."""
    return {
        "split": split,
        "drawn by": answer.name,
        "prompts": answer.num_prompts,
        **{name: mean_ci(of(outcome), outcome.entity_N) for name, of in COMPARED.items()},
        "seconds": round(cost.seconds, 3),
        "MiB": round(cost.bytes / 2**20, 1),
    }


def difference(split: str, name: str, base: str, outcomes: Outcomes) -> dict[str, Any]:
    """Of a row to another one of the same split, prompt by prompt."""
    one, other = outcomes[split, name], outcomes[split, base]
    differences = {measure: paired_difference_ci(of(one), of(other), one.entity_N) for measure, of in COMPARED.items()}
    return {"split": split, "what": f"{name} minus {base}", **differences}


def picture_rows(
    answers: Sequence[Answer], groups: Sequence[Sequence[Neighbour]], split: str, folder: Path
) -> tuple[list[list[np.ndarray | None]], list[str], list[str]]:
    """The first prompts of a split: cells, the prompts, and headings: references, of which `groups` has those of every
    prompt, then the answers."""
    most = max(map(len, groups), default=0)
    texts = [prompt.text for prompt in answers[0].prompts(split)[:SHOWN]]
    shown = [list(read_strip(strip(answer, answer.arm(split), folder))) for answer in answers]
    rows = [
        [*(hit.image for hit in group), *[None] * (most - len(group)), *(each[i] for each in shown)]
        for i, group in enumerate(groups[:SHOWN])
    ]
    headings = [f"reference {j + 1}" for j in range(most)] + [answer.name for answer in answers]
    return rows, texts, headings
