"""Few shots: what is learned from and what is asked about stay apart, whatever was made; learners learn; rows stay."""

import dataclasses
import warnings

import numpy as np
import pytest
from PIL import Image

from reimagen_jax.errors import UserError
from reimagen_jax.evaluation.fewshot import bench as module
from reimagen_jax.evaluation.fewshot import learners
from reimagen_jax.evaluation.fewshot.bench import Bench, Setting
from reimagen_jax.evaluation.fewshot.episodes import GROUPS, episodes, group_of, tails, zipf
from reimagen_jax.evaluation.fewshot.learners import Learner
from reimagen_jax.evaluation.fewshot.pools import Pool, Reader, augmented, made_pictures, true_pictures
from tests.fewshot import COLOURS, means, write_squares

CLASS_N = np.repeat(np.arange(8), [2, 4, 6, 7, 8, 9, 10, 30])


class TestTasks:
    @pytest.mark.parametrize("ways", [3, None])
    def test_support_and_queries_of_an_episode_are_of_its_classes_and_apart(self, ways):
        found = episodes(CLASS_N, ways, 3, 4, 40, seed=1)
        assert len(found) == 40 and {task.ways for task in found} == {ways or 7}
        for task in found:
            classes = []
            for support, asked in zip(task.support, task.queries, strict=True):
                both = np.concatenate([support, asked])
                assert len(support) == 3 and 1 <= len(asked) <= 4 and len(np.unique(both)) == len(both)
                classes.append({int(c) for c in CLASS_N[both]})
            assert all(len(each) == 1 for each in classes) and len(set().union(*classes)) == task.ways
            np.testing.assert_array_equal(
                CLASS_N[task.asked], [*map(list(map(min, classes)).__getitem__, task.asked_class)]
            )
        assert len({tuple(task.asked) for task in found}) > 30, "they are drawn anew"

    def test_fewer_shots_are_the_beginning_of_more_and_are_asked_the_same(self):
        for task in episodes(CLASS_N, 3, 5, 4, 10, seed=1):
            few = task.first(1)
            assert [list(each) for each in few.support] == [list(each[:1]) for each in task.support]
            np.testing.assert_array_equal(few.asked, task.asked)

    def test_they_depend_on_the_seed_and_their_number_alone(self):
        def told(number, seed):
            return [(*map(tuple, t.support), *map(tuple, t.queries)) for t in episodes(CLASS_N, 3, 3, 4, number, seed)]

        assert told(5, 0) == told(9, 0)[:5] and told(5, 0) != told(5, 1)

    def test_too_few_classes_are_said(self):
        with pytest.raises(UserError, match="8 classes with 5 records each and one more to ask about: there are 6"):
            episodes(CLASS_N, 8, 5, 4, 1, 0)
        with pytest.raises(UserError, match="2 classes have 9 records and one more to ask about: three at least"):
            tails(CLASS_N, 9, 1.0, 4, 1, 0)

    def test_a_tail_has_zipfs_counts_over_ranks_that_are_drawn_anew(self):
        assert zipf(6, 12, 1.0) == [12, 6, 4, 3, 2, 2] and zipf(4, 3, 2.0) == [3, 1, 1, 1]
        assert list(group_of(6)) == [name for name in GROUPS for _ in range(2)] and list(group_of(3)) == list(GROUPS)
        found = tails(CLASS_N, 5, 1.0, 4, 12, seed=0)
        assert {tuple(map(len, task.support)) for task in found} == {(5, 2, 2, 1, 1, 1)}
        firsts = {int(CLASS_N[task.support[0][0]]) for task in found}
        assert len(firsts) > 2
        for task in found:
            assert not set(np.concatenate(task.support)) & set(task.asked)


def test_pictures_are_made_of_what_may_be_learned_from_or_not_seen():
    pool = Pool("made", "f", ((0,), (1,), (0, 1), (1, 2), (0,), (2,)))
    assert pool.made_of([0]) == [0, 4] and pool.made_of([0, 1]) == [0, 2, 4, 1]
    assert sorted(pool.made_of([0, 1, 2])) == [0, 1, 2, 3, 4, 5] and pool.made_of([7]) == []
    assert module._spread(pool, [0, 1]) == [0, 1, 2, 4], "the first of each before the second of any"


class TestLearners:
    rng = np.random.default_rng(0)

    def test_the_probe_does_not_see_how_long_vectors_are(self):
        y = np.repeat([0, 1, 2], 10)
        x = np.eye(3)[y] * 4 + self.rng.normal(size=(30, 3))
        said = learners.probe(x[::2], y[::2], x[1::2], 3, 0)
        assert (said == y[1::2]).mean() > 0.8
        np.testing.assert_array_equal(said, learners.probe(x[::2] * 7, y[::2], x[1::2] * 0.01, 3, 0))

    def test_the_network_learns_from_nothing_and_the_same_again(self):
        y = np.tile([0, 1], 12)
        x = self.rng.integers(0, 120, (24, 8, 8, 3), dtype=np.uint8)
        x[y == 1, :, :4] += 120
        learn = learners.net(40)
        said = learn(x[:8], y[:8], x[8:], 2, 3)
        assert (said == y[8:]).mean() > 0.9
        np.testing.assert_array_equal(said, learn(x[:8], y[:8], x[8:], 2, 3))


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return write_squares(tmp_path_factory.mktemp("fewshot"))


def pixels_reader():
    return Reader(None, 8)


def test_what_is_made_of_one_class_of_known_records_is_read(folder):
    truth = true_pictures(folder / "true", "colour", pixels_reader())
    assert truth.classes == tuple(sorted(COLOURS)) and np.bincount(truth.class_N).tolist() == [9] * 4
    pool = made_pictures("p", folder / "pairs", truth, 4, pixels_reader())
    assert [tuple(truth.keys[n] for n in of) for of in pool.of] == [("red1", "red2")]
    assert len(made_pictures("p", folder / "pure", truth, 2, pixels_reader()).of) == 36 * 2
    with pytest.raises(UserError, match=r"u: nothing in .* was made of the records .*the first one: None"):
        made_pictures("u", folder / "unmade", truth, 2, pixels_reader())
    with pytest.raises(UserError, match="0 classes by 'shape'"):
        true_pictures(folder / "true", "shape", pixels_reader())


def test_classical_augmentation_is_a_square_of_most_of_the_picture():
    image = Image.fromarray(np.random.default_rng(0).integers(0, 256, (40, 60, 3), dtype=np.uint8))
    sizes = {augmented(image, np.random.default_rng(seed)).size for seed in range(30)}
    assert all(width == height and 28 <= width <= 40 for width, height in sizes) and len(sizes) > 5
    flat = Image.new("RGB", (9, 9), (100, 100, 100))
    greys = {augmented(flat, np.random.default_rng(seed)).getpixel((0, 0))[0] for seed in range(30)}
    assert min(greys) >= 69 and max(greys) <= 131 and len(greys) > 10


def bench_of(folder, out, made, **how):
    truth = true_pictures(folder / "true", "colour", pixels_reader())
    pools = {label: made_pictures(label, folder / label, truth, 3, pixels_reader()) for label in made}
    settings = {"number": 40, "queries": 4, "seed": 0, "shots": 3, "most": 4} | how
    return Bench(truth, pools, {"net": Learner(means, "pixels_NHWC", {})}, out, **settings)


def test_good_pictures_help_those_who_learn_from_few_and_rows_are_kept(folder, tmp_path, monkeypatch):
    bench = bench_of(folder, tmp_path / "rows", ["pure"])
    settings = [Setting("net", 3, 1), Setting("net", None, 3), Setting("net", None, None)]
    rows = list(bench.rows(settings))
    assert [(row.arm, row.classes, row.pictures) for row in rows] == [
        ("none", 3, 3), ("pure", 3, 12), ("none", 4, 12), ("pure", 4, 48), ("none", 4, 8), ("pure", 4, 16),
    ]  # fmt: skip
    plain, filled = rows[:2]
    assert filled.accuracy["all"].low > plain.accuracy["all"].mean and filled.difference["all"].low > 0
    assert filled.difference["all"].mean == pytest.approx(filled.accuracy["all"].mean - plain.accuracy["all"].mean)
    assert plain.accuracy["all"].mean > 0.4 and plain.difference == {}
    assert list(rows[-1].accuracy) == ["all", *GROUPS] and rows[-1].tasks == 40
    never = Learner(lambda *_: pytest.fail("it was learned anew"), "pixels_NHWC", {})
    for name in ("net", "probe"):
        monkeypatch.setitem(bench.learners, name, never)
    assert list(bench.rows(settings)) == rows
    monkeypatch.setitem(bench.learners, "probe", dataclasses.replace(never, facts={"features": "others"}))
    assert list(bench.rows(settings)) == rows, "of one learner's facts no other's rows depend"
    with pytest.raises(pytest.fail.Exception, match="learned anew"):
        list(dataclasses.replace(bench, seed=1).rows(settings))
    monkeypatch.setitem(bench.learners, "net", dataclasses.replace(never, facts={"steps": 9}))
    with pytest.raises(pytest.fail.Exception, match="learned anew"):
        list(bench.rows(settings))


def test_what_is_made_of_what_is_asked_about_is_never_seen(folder, tmp_path):
    """Pictures of one record alone are learned from in episodes alone that have it in their support."""
    truth = true_pictures(folder / "true", "colour", pixels_reader())
    seen = []

    def learner(x, y, q, ways, seed):
        seen.append(x)
        return means(x, y, q, ways, seed)

    marked = np.full((len(truth.keys), 8, 8, 3), 255, np.uint8)
    marked[:, 0, 0, 0] = np.arange(len(truth.keys))
    pool = Pool("marked", "m", tuple((n,) for n in range(len(truth.keys))), None, marked)
    known = {"net": Learner(learner, "pixels_NHWC", {})}
    bench = Bench(truth, {"marked": pool}, known, tmp_path, 20, 4, 0, shots=2)
    setting = Setting("net", 2, 2)
    list(bench.rows([setting]))
    for task, x in zip(bench.tasks(setting), seen[20:], strict=True):
        made = {int(each[0, 0, 0]) for each in x if (each[1:] == 255).all()}
        assert made == set(np.concatenate(task.support).tolist()) and not made & set(task.asked.tolist())


def test_one_picture_of_each_of_many_classes_is_learned_from_without_complaints():
    x_ND, y_N = np.eye(30), np.arange(30)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        said = learners.probe(x_ND, y_N, x_ND, 30, seed=0)
    np.testing.assert_array_equal(said, y_N)
