"""EntityDrawBench: the same prompts and noise in every arm, outcomes stored once, one compiled program."""

import dataclasses
import json

import numpy as np
import pytest

from reimagen_jax.errors import UserError
from reimagen_jax.evaluation.entities import store
from reimagen_jax.evaluation.entities.arms import TRUTH, Arm, plan
from reimagen_jax.evaluation.entities.bench import EntityBench
from reimagen_jax.evaluation.entities.prompts import SOURCES
from reimagen_jax.inference.model import Model
from reimagen_jax.inference.pipeline import Pipeline, Stage
from reimagen_jax.systems.reimagen.feed import guidance_of
from tests.evaluation.entities.conftest import MODEL, SPLITS
from tests.tiny import TINY, TINY_SR, random_params


def test_the_plan_has_every_arm_once():
    rows = plan(SPLITS, SOURCES, 2, 0.5, range(5), np.arange(11) / 10, ("unseen",))
    assert len(rows) == len(set(rows)) == 3 + len(SOURCES) * 3 + 3 + 10  # k 0 is none; k 2 at eta 0.5 is retrieval
    assert sum(row.source == "none" for row in rows) == sum(row.source == TRUTH for row in rows) == 3
    unseen = [row for row in rows if row.split == "unseen" and row.source == "retrieval"]
    assert {row.k for row in unseen} == {1, 2, 3, 4} and len({row.eta for row in unseen}) == 11


def test_verdicts_are_about_the_prompts_entity(bench):
    ceiling = bench.outcome(Arm("unseen", TRUTH))
    retrieval = bench.outcome(Arm("unseen", "retrieval", 2, 0.5))
    wrong = bench.outcome(Arm("unseen", "wrong", 2, 0.5))
    none = bench.outcome(Arm("unseen", "none"))
    assert ceiling.faithful_NS.mean() >= 0.9 and ceiling.aligned_NS.mean() >= 0.9
    assert retrieval.faithful_NS.mean() >= 0.9 and retrieval.copied_NS.mean() >= 0.9
    assert wrong.faithful_NS.mean() == 0 and wrong.copied_NS.mean() >= 0.9
    assert none.faithful_NS.mean() == 0 and none.copied_NS.mean() == 0
    for outcome in (retrieval, wrong, none):  # the scene is that of the prompt whatever the neighbours show
        assert outcome.aligned_NS.shape == (10, 2) and outcome.aligned_NS.mean() >= 0.9
    assert retrieval.found_N.tolist() == [1.0] * 10 and wrong.found_N.tolist() == none.found_N.tolist() == [0.0] * 10


def test_prompts_and_noise_are_the_same_in_every_arm(bench):
    first, second = (bench.requests(Arm("rare", "retrieval", k, eta)) for k, eta in ((3, 0.5), (1, 0.1)))
    assert [r.prompt for r in first] == [r.prompt for r in second]
    assert [r.index for r in first] == [r.index for r in second] == list(range(20))
    assert {len(r.neighbours) for r in first} == {3} and {len(r.neighbours) for r in second} == {1}
    assert [r.neighbours[0].key for r in first] == [r.neighbours[0].key for r in second]
    assert {r.guidance["eta"] for r in second} == {0.1}


def test_an_arm_without_neighbours_is_the_baseline_whatever_its_eta(bench):
    for eta in (0.0, 0.5):
        requests = bench.requests(Arm("rare", "none", 0, eta))
        assert {guidance_of(request, bench.pipeline.settings)["eta"] for request in requests} == {1.0}


def test_outcomes_are_stored_and_found_again_until_a_setting_changes(bench, tmp_path):
    arm = Arm("unseen", "retrieval", 2, 0.5)
    drawn = store.run_arm(bench, arm, tmp_path)
    again = store.run_arm(bench, arm, tmp_path)
    assert bench.pipeline.calls == 1
    for field in dataclasses.fields(drawn):
        one, other = getattr(drawn, field.name), getattr(again, field.name)
        np.testing.assert_array_equal(one, other)
        assert np.asarray(one).dtype.kind == np.asarray(other).dtype.kind
    for changed in ({"model": "other"}, {"num_prompts": 5}, {"num_images": 1}):
        for name, value in changed.items():
            before = getattr(bench, name)
            setattr(bench, name, value)
            assert not store.stored(bench, arm, tmp_path).is_file()
            setattr(bench, name, before)
    assert not store.stored(bench, Arm("unseen", "retrieval", 2, 0.6), tmp_path).is_file()
    assert {path.suffix for path in tmp_path.iterdir()} == {".json", ".png"} and len(list(tmp_path.iterdir())) == 2
    strip = store.read_strip(store.strip(bench, arm, tmp_path))
    np.testing.assert_array_equal(strip, bench.draw(arm)[::2][: store.SHOWN])


def test_all_arms_run_through_one_program(inventory, rater, model):
    stage = Model.open(model).stage(dataclasses.replace(MODEL.system.sampler, k=3), batch_size=4)
    bench = EntityBench(Pipeline([stage]), "tiny", rater, inventory, num_prompts=5)
    bench.seconds_per_image(Arm("unseen", "retrieval", 2, 0.5))
    for arm in plan(("unseen",), ("retrieval", "none", "wrong"), 2, 0.5, (1, 3), (0.0, 1.0), ("unseen",)):
        assert bench.outcome(arm).faithful_NS.shape == (5, 1)
    assert stage.compilations == 1


# -- super-resolution


def stage(config, k: int) -> Stage:
    return Stage(config, random_params(config), dataclasses.replace(config.system.sampler, k=k), batch_size=4)


def test_a_super_resolution_model_alone_enlarges_the_true_images(inventory, rater):
    bench = EntityBench(Pipeline([stage(TINY_SR, k=2)]), "tiny", rater, inventory, num_prompts=3, num_images=2)
    requests = bench.requests(Arm("unseen", "none"))
    truth = bench.draw(Arm("unseen", TRUTH))
    for request, image in zip(requests, truth, strict=True):
        low = image.reshape(16, 2, 16, 2, 3).mean(axis=(1, 3))
        assert request.start.shape == (16, 16, 3) and np.abs(request.start - low).max() <= 0.5
    assert bench.outcome(Arm("unseen", "retrieval", 2, 0.5)).faithful_NS.shape == (3, 2)


def test_a_cascades_last_images_are_rated_and_every_stage_counts_for_the_checksum(inventory, rater):
    first = stage(TINY, k=2)
    with_neighbours, without = (Pipeline([first, stage(TINY_SR, k=k)]) for k in (2, 0))
    one, other = (EntityBench(each, "x", rater, inventory, num_prompts=3) for each in (with_neighbours, without))
    arm = Arm("unseen", "retrieval", 2, 0.5)
    assert one.outcome(arm).faithful_NS.shape == (3, 1)
    assert one.settings(arm) != other.settings(arm)
    assert all(request.start is None for request in one.requests(arm))


def test_a_stored_outcome_with_a_name_that_is_not_its_own_is_refused_by_file_and_name(bench, tmp_path):
    arm = Arm("unseen", "retrieval", 2, 0.5)
    store.run_arm(bench, arm, tmp_path)
    path = store.stored(bench, arm, tmp_path)
    whole = path.read_text()
    path.write_text(whole.replace('"seconds"', '"suconds"'))
    with pytest.raises(UserError, match=r"\.json.*suconds is no setting that this version knows"):
        store.run_arm(bench, arm, tmp_path)
    fewer = json.loads(whole)
    del fewer["outcome"]["category_N"][0]
    path.write_text(json.dumps(fewer))
    with pytest.raises(UserError, match=r"\.json tells of \[\d+, \d+\] prompts: delete it"):
        store.run_arm(bench, arm, tmp_path)
    told = json.loads(whole)
    told["outcome"]["seconds"] += 1.0
    path.write_text(json.dumps(told))
    with pytest.raises(UserError, match=r"\.json is not as it was written: delete it"):
        store.run_arm(bench, arm, tmp_path)
