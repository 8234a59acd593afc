"""EntityDrawBench in numbers: a row for every arm, means with 95 % intervals, and the comparisons that it is made for.

  both       an image is faithful (to the entity) and aligned (with the text): what the paper calls faithful     (1)
  best of S  any of a prompt's S images is (1): the paper's headline, with four images of a prompt               (2)

Beside them stand the means over images of faithful and of aligned alone, and the best of S of each.
Source: Re-Imagen (Chen et al., ICLR 2023), section 4.3; there people judge, and choose the best.
"""

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import numpy as np

from reimagen_jax.evaluation.entities.arms import TRUTH, Arm
from reimagen_jax.evaluation.entities.bench import Outcome
from reimagen_jax.evaluation.rater_check import accuracies
from reimagen_jax.evaluation.statistics import difference_ci, mean_ci, paired_difference_ci

Outcomes = Mapping[Arm, Outcome]
COUNTS = ((0, 0), (1, 9), (10, 99), (100, 999), (1_000, None))
"""From how many training images of an entity to how many, in the table by these."""
MEASURES = (
    "faithfulness", "alignment", "both", "best_faithfulness", "best_alignment", "best_both", "look_right", "copied",
)  # fmt: skip
PAPERS_IMAGES = 4
"""Images of a prompt, of which the paper's headline takes the best."""


def best_of(several: int) -> str:
    """What (2) is called."""
    return f"best of {several}"


def row(arm: Arm, outcome: Outcome) -> dict[str, Any]:
    """One arm as JSON types; shares are `Interval`s.

    "both" is (1) and "best_both" (2), of as many images as "images_per_prompt" says; "look_right" is the share of the
    look's parameters that are right, the category among them: of models that draw no entity wholly, it tells more.
    "copied" shows the entity of the first neighbour, whoever that is; "found" is the share of the neighbours that show
    the prompt's entity.
    """
    faithful, aligned = outcome.faithful_NS, outcome.aligned_NS
    both = faithful & aligned
    N, S = faithful.shape
    share = partial(mean_ci, of=outcome.entity_N)
    return {
        "split": arm.split,
        "source": arm.source,
        "k": arm.k,
        "eta": arm.eta,
        "prompts": N,
        "images_per_prompt": S,
        "faithfulness": share(faithful),
        "alignment": share(aligned),
        "both": share(both),  # (1)
        "best_faithfulness": share(faithful.any(axis=1)),
        "best_alignment": share(aligned.any(axis=1)),
        "best_both": share(both.any(axis=1)),  # (2)
        "look_right": share(outcome.look_right_NSP.mean(axis=2)),
        "copied": share(outcome.copied_NS),
        "found": float(np.mean(outcome.found_N)),
        "seconds": round(outcome.seconds, 1),
        "parameters": accuracies(
            outcome.category_N, outcome.look_right_NSP, outcome.scene_right_NSA, outcome.told_NA, outcome.entity_N
        ),
    }


def by_count(outcomes: Outcomes, counts: Mapping[str, np.ndarray]) -> list[dict[str, Any]]:
    """Faithfulness by how often the entity was seen in training, whatever split it is of: a row for each of `COUNTS` of
    which there are prompts, and each source, k and eta. `counts` are those of every prompt's entity, by split."""
    alike: dict[tuple[str, int, float], list[Arm]] = {}
    for arm in outcomes:
        if arm.source != TRUTH:
            alike.setdefault((arm.source, arm.k, arm.eta), []).append(arm)
    rows = []
    for low, high in COUNTS:
        most = np.inf if high is None else high
        within = {split: (low <= count_N) & (count_N <= most) for split, count_N in counts.items()}
        for (source, k, eta), arms in alike.items():
            faithful, aligned, entity_N = (
                np.concatenate([getattr(outcomes[arm], name)[within[arm.split]] for arm in arms])
                for name in ("faithful_NS", "aligned_NS", "entity_N")
            )
            if len(faithful):
                shares = {"faithfulness": mean_ci(faithful, entity_N), "both": mean_ci(faithful & aligned, entity_N)}
                named = {"images": (low, high), "source": source, "k": k, "eta": eta, "prompts": len(faithful)}
                rows.append(named | shares)
    return rows


def comparisons(outcomes: Outcomes, k: int, eta: float) -> list[dict[str, Any]]:
    """What the benchmark asks: retrieval minus none on each split, and, with retrieval, frequent minus the others.

    The first is over the same prompts (paired), the second is not. Both of the faithful, of (1), and of (2) where there
    are several images of a prompt.
    """
    found = []
    for name, of in _compared(outcomes).items():
        values = {arm: (of(outcome), outcome.entity_N) for arm, outcome in outcomes.items()}
        found += _differences(name, values, k, eta)
    return sorted(found, key=lambda entry: entry["what"])


def _compared(outcomes: Outcomes) -> dict[str, Callable[[Outcome], np.ndarray]]:
    """By what arms are compared: values of N prompts, one each or one an image."""
    several = max((outcome.faithful_NS.shape[1] for outcome in outcomes.values()), default=1)
    compared: dict[str, Callable[[Outcome], np.ndarray]] = {
        "faithfulness": lambda o: o.faithful_NS,
        "both": lambda o: o.faithful_NS & o.aligned_NS,
    }
    if several > 1:
        compared[best_of(several)] = lambda o: (o.faithful_NS & o.aligned_NS).any(axis=1)
    return compared


def _differences(
    name: str, values: Mapping[Arm, tuple[np.ndarray, np.ndarray]], k: int, eta: float
) -> list[dict[str, Any]]:
    """`values` are those of an arm's prompts, and what these are about."""
    found = []
    retrieved = {arm.split: v for arm, v in values.items() if arm == Arm(arm.split, "retrieval", k, eta)}
    without = {arm.split: v for arm, v in values.items() if arm.source == "none"}
    for split in retrieved.keys() & without.keys():
        (with_N, entity_N), (without_N, _) = retrieved[split], without[split]
        difference = paired_difference_ci(with_N, without_N, entity_N)
        found.append({"what": f"{name}, {split}: retrieval minus none", "difference": difference})
    if "frequent" in retrieved:
        for split in retrieved.keys() - {"frequent"}:
            (frequent_N, often_N), (other_N, entity_N) = retrieved["frequent"], retrieved[split]
            difference = difference_ci(frequent_N, other_N, often_N, entity_N)
            found.append({"what": f"{name} with retrieval: frequent minus {split}", "difference": difference})
    return found
