"""EntityDrawBench in numbers."""

import dataclasses
from types import SimpleNamespace

import numpy as np
import pytest

from reimagen_jax.evaluation.entities import answers
from reimagen_jax.evaluation.entities.arms import TRUTH, Arm, plan
from reimagen_jax.evaluation.entities.bench import Outcome
from reimagen_jax.evaluation.entities.tables import MEASURES, by_count, comparisons, row
from reimagen_jax.evaluation.statistics import difference_ci, mean_ci
from reimagen_jax.reports.entities import tables


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
    both = half & outcomes[retrieval].aligned_NS
    assert entry["both"].mean == both.mean() and entry["best_both"].mean == both.any(axis=1).mean()
    assert entry["best_both"].low < entry["best_both"].mean < entry["best_both"].high
    assert entry["parameters"]["category"].mean == outcomes[retrieval].look_right_NSP[..., 0].mean()
    category = np.zeros_like(outcomes[retrieval].look_right_NSP)
    category[..., 0] = True
    nothing_else = row(retrieval, dataclasses.replace(outcomes[retrieval], look_right_NSP=category))
    assert nothing_else["look_right"].mean == pytest.approx(1 / category.shape[-1])
    found = {entry["what"]: entry["difference"] for entry in comparisons(outcomes, 2, 0.5)}
    assert found["faithfulness, unseen: retrieval minus none"].mean == pytest.approx(half.mean())
    assert found["faithfulness with retrieval: frequent minus unseen"].low > 0.3
    assert found["both, unseen: retrieval minus none"].mean == pytest.approx(both.mean())
    assert found["best of 2, unseen: retrieval minus none"].mean == pytest.approx(both.any(axis=1).mean())
    assert found["best of 2 with retrieval: frequent minus unseen"].mean > 0.3
    assert len(found) == 3 * 3


def test_prompts_about_one_entity_are_not_independent():
    """In every table: 24 prompts about eight entities, of which all prompts fare alike."""
    entity_N = np.repeat(np.arange(8), 3)
    right_NS, none_NS = (entity_N < 3)[:, None], np.zeros((24, 1), bool)
    told_NA = np.ones((24, 4), bool)

    def outcome(right_NS):
        look_NSP, scene_NSA = (right_NS[..., None].repeat(parameters, 2) for parameters in (9, 4))
        verdicts = (right_NS, right_NS, look_NSP, scene_NSA, told_NA, right_NS)
        return Outcome(*verdicts, np.zeros(24), np.zeros(24, int), entity_N)

    wide, narrow = mean_ci(right_NS, entity_N), mean_ci(right_NS)
    assert wide.high - wide.low > 1.4 * (narrow.high - narrow.low)
    with_, without = Arm("unseen", "retrieval", 2, 0.5), Arm("unseen", "none")
    entry = row(with_, outcome(right_NS))
    assert {entry[name] for name in MEASURES} | set(entry["parameters"].values()) == {wide}
    outcomes = {with_: outcome(right_NS), without: outcome(none_NS)}
    (counted, _) = by_count(outcomes, {"unseen": np.zeros(24, int)})
    assert counted["faithfulness"] == counted["both"] == wide
    differences = {each["what"]: each["difference"] for each in comparisons(outcomes, 2, 0.5)}
    assert set(differences.values()) == {wide}
    often = {**outcomes, Arm("frequent", "retrieval", 2, 0.5): outcome(right_NS)}
    of_splits = [each["difference"] for each in comparisons(often, 2, 0.5) if "frequent minus" in each["what"]]
    assert set(of_splits) == {difference_ci(right_NS, right_NS, entity_N, entity_N)}
    answer = answers.row("unseen", SimpleNamespace(name="a", num_prompts=24), outcome(right_NS), answers.Cost(1.0, 1))
    assert {answer[name] for name in answers.COMPARED} == {wide}
    pair = {("unseen", "a"): outcome(right_NS), ("unseen", "b"): outcome(none_NS)}
    assert {answers.difference("unseen", "a", "b", pair)[name] for name in answers.COMPARED} == {wide}


def test_an_image_that_is_faithful_and_another_that_is_aligned_are_not_both(bench):
    """The paper's headline asks for one image that shows the entity and what the text tells."""
    arm = Arm("unseen", "retrieval", 2, 0.5)
    outcome = bench.outcome(arm)
    first = np.zeros_like(outcome.faithful_NS)
    first[:, 0] = True
    entry = row(arm, dataclasses.replace(outcome, faithful_NS=first, aligned_NS=~first))
    assert entry["best_faithfulness"].mean == entry["best_alignment"].mean == 1.0
    assert entry["both"].mean == entry["best_both"].mean == 0.0
    printed = tables.line(entry).split()
    assert tables.heading(2).endswith("best of 2") and tables.heading(2).split()[4:7] == ["faithful", "aligned", "both"]
    assert printed.count("0.000") == 2 and printed.count("0.500") == 2
    assert "best of 2: both, in any of a prompt's 2 images" in tables.about_measures(2)
    assert "best of" not in tables.heading(1) and "--num-images 4" in tables.about_measures(1)


def test_rows_by_training_images_are_of_the_prompts_of_all_splits_whose_entities_were_seen_as_often(bench):
    arms = plan(("frequent", "rare", "unseen"), ("retrieval", "none"), 2, 0.5)
    outcomes = {arm: bench.outcome(arm) for arm in arms}
    counts = {split: bench.counts(split) for split in ("frequent", "rare", "unseen")}
    assert counts["frequent"].min() > counts["rare"].max() > counts["unseen"].max() == 0
    some, none = Arm("frequent", "retrieval", 2, 0.5), Arm("frequent", "none")
    outcomes[some] = dataclasses.replace(outcomes[some], faithful_NS=np.zeros_like(outcomes[some].faithful_NS))
    rows = by_count(outcomes, counts)
    assert all(entry["source"] != TRUTH for entry in rows)
    few = {tuple(entry["images"]): entry for entry in rows if entry["source"] == "retrieval"}
    assert few[0, 0]["faithfulness"] == row(arm := Arm("unseen", "retrieval", 2, 0.5), outcomes[arm])["faithfulness"]
    within = (counts["frequent"] >= 1) & (counts["frequent"] <= 9)
    here = [outcomes[some].faithful_NS[within], outcomes[dataclasses.replace(some, split="rare")].faithful_NS]
    assert few[1, 9]["faithfulness"].mean == np.concatenate(here).mean()
    assert few[1, 9]["prompts"] == within.sum() + len(here[1])
    assert sum(entry["prompts"] for entry in few.values()) == 3 * len(outcomes[none].faithful_NS)
    printed = tables.count_lines(rows)
    assert len(printed) == 1 + len(rows) and printed[1].startswith("0  ") and printed[-1].startswith("1 to 9  ")
