"""EntityDrawBench in numbers."""

import dataclasses

import pytest

from reimagen_jax.evaluation.entities.arms import Arm, plan
from reimagen_jax.evaluation.entities.tables import comparisons, row


def test_rows_and_comparisons_are_means_of_the_ratings(bench):
    arms = plan(("frequent", "unseen"), ("retrieval", "none"), 2, 0.5)
    outcomes = {arm: bench.outcome(arm) for arm in arms}
    retrieval = Arm("unseen", "retrieval", 2, 0.5)
    half = outcomes[retrieval].faithful_NS.copy()
    half[:, 1], half[:5, 0] = False, False
    outcomes[retrieval] = dataclasses.replace(outcomes[retrieval], faithful_NS=half)
    entry = row(retrieval, outcomes[retrieval])
    assert entry["faithfulness"].mean == half.mean() <= 0.25
    assert entry["best_faithfulness"].mean == half.any(axis=1).mean()
    assert entry["alignment"].mean == outcomes[retrieval].aligned_NS.mean()
    assert entry["parameters"]["category"].mean == outcomes[retrieval].look_right_NSP[..., 0].mean()
    found = {entry["what"]: entry["difference"] for entry in comparisons(outcomes, 2, 0.5)}
    assert found["faithfulness, unseen: retrieval minus none"].mean == pytest.approx(half.mean())
    assert found["faithfulness with retrieval: frequent minus unseen"].low > 0.3
    assert len(found) == 3
