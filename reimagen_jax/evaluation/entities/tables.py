"""EntityDrawBench in numbers: a row for every arm, means with 95 % intervals, and the comparisons that it is made for.

The headline is the mean over images. As in the paper, the best of a prompt's images is reported too: with S images of a
prompt, whether any is faithful, any is aligned, any is both.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np

from reimagen_jax.evaluation.entities.arms import Arm
from reimagen_jax.evaluation.entities.bench import Outcome
from reimagen_jax.evaluation.rater_check import accuracies
from reimagen_jax.evaluation.statistics import difference_ci, mean_ci, paired_difference_ci

Outcomes = Mapping[Arm, Outcome]
MEASURES = ("faithfulness", "alignment", "both", "best_faithfulness", "best_alignment", "best_both", "copied")


def row(arm: Arm, outcome: Outcome) -> dict[str, Any]:
    """One arm as JSON types; shares are `Interval`s.

    "both" is faithful and aligned at once; "copied" shows the entity of the first neighbour, whoever that is; "found"
    is the share of the neighbours that show the prompt's entity.
    """
    faithful, aligned = outcome.faithful_NS, outcome.aligned_NS
    both = faithful & aligned
    N, S = faithful.shape
    return {
        "split": arm.split,
        "source": arm.source,
        "k": arm.k,
        "eta": arm.eta,
        "prompts": N,
        "images_per_prompt": S,
        "faithfulness": mean_ci(faithful),
        "alignment": mean_ci(aligned),
        "both": mean_ci(both),
        "best_faithfulness": mean_ci(faithful.any(axis=1)),
        "best_alignment": mean_ci(aligned.any(axis=1)),
        "best_both": mean_ci(both.any(axis=1)),
        "copied": mean_ci(outcome.copied_NS),
        "found": float(np.mean(outcome.found_N)),
        "seconds": round(outcome.seconds, 1),
        "parameters": accuracies(outcome.category_N, outcome.look_right_NSP, outcome.scene_right_NSA, outcome.told_NA),
    }


def comparisons(outcomes: Outcomes, k: int, eta: float) -> list[dict[str, Any]]:
    """What the benchmark asks: retrieval minus none on each split, and, with retrieval, frequent minus the others.

    The first is over the same prompts (paired), the second is not.
    """
    found = []
    retrieved = {arm.split: o for arm, o in outcomes.items() if arm == Arm(arm.split, "retrieval", k, eta)}
    without = {arm.split: o for arm, o in outcomes.items() if arm.source == "none"}
    for split in retrieved.keys() & without.keys():
        difference = paired_difference_ci(retrieved[split].faithful_NS, without[split].faithful_NS)
        found.append({"what": f"faithfulness, {split}: retrieval minus none", "difference": difference})
    if "frequent" in retrieved:
        for split in retrieved.keys() - {"frequent"}:
            difference = difference_ci(retrieved["frequent"].faithful_NS, retrieved[split].faithful_NS)
            found.append({"what": f"faithfulness with retrieval: frequent minus {split}", "difference": difference})
    return sorted(found, key=lambda entry: entry["what"])
