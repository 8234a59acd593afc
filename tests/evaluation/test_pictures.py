"""Pictures of any records: features, judges and measures say what they promise; the bench goes on where it was."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from reimagen_jax.data.records import write_records
from reimagen_jax.errors import UserError
from reimagen_jax.evaluation.pictures import measures
from reimagen_jax.evaluation.pictures.bench import TRUE, WITH, WITHOUT, WRONG, Arm, PictureBench, best_of, gallery
from reimagen_jax.evaluation.pictures.features import FEATURES, Spaces, resized
from reimagen_jax.evaluation.pictures.judges import choose
from reimagen_jax.evaluation.pictures.watching import HeldOut
from reimagen_jax.evaluation.statistics import mean_ci
from reimagen_jax.evaluation.store import Images
from reimagen_jax.inference.pipeline import Pipeline, Stage
from reimagen_jax.inference.prompts import from_record
from reimagen_jax.reports import pictures as report
from reimagen_jax.systems import finite
from reimagen_jax.systems.reimagen.condition import Batch
from reimagen_jax.systems.reimagen.feed import ReImagenFeed
from reimagen_jax.systems.request import Neighbour
from tests.samples import SHAPES, encoded, icon
from tests.tiny import TINY, changed, random_params

INKS = ("red", "blue", "green")
SIDE = 16


def drawn_icon(shape, ink, width, ground="white"):
    return np.asarray(icon(shape, 64, width, ink, ground).resize((SIDE, SIDE)))


@pytest.fixture(scope="module")
def records(tmp_path_factory):
    """Every shape in every ink, in four sizes."""
    from reimagen_jax.data.records import ImageText

    examples = [
        ImageText(
            f"{shape}-{ink}-{width}",
            encoded(icon(shape, 64, width, ink)),
            f"a {shape} in {ink}",
            {"entity": shape, "style": ink, "entity_split": "rare" if shape == "ex" else "frequent"},
        )
        for shape in SHAPES
        for ink in INKS
        for width in (10, 12, 14, 16)
    ]
    return write_records(examples, tmp_path_factory.mktemp("icons") / "records", source="icons")


@pytest.fixture(scope="module")
def prompts(records):
    """One of each shape, in one ink; each with two others of its shape in other inks."""
    found = []
    for shape in SHAPES:
        ids = {key: i for i, key in enumerate(records.keys())}
        prompt = from_record(records[ids[f"{shape}-red-12"]], records.source, SIDE)
        near = [Neighbour.of(records[ids[f"{shape}-{ink}-14"]], 1.0, SIDE) for ink in ("blue", "green")]
        found.append(replace(prompt, neighbours=tuple(near)))
    return found


@pytest.fixture(scope="module")
def true(records, prompts):
    return gallery([records, records], prompts, ["entity", "style"], SIDE, 1000)


@pytest.fixture(scope="module")
def bench_of(prompts, true):
    spaces = Spaces(true.pictures)
    judges = [choose(name, true.values[name], spaces, ["looks"]) for name in ("entity", "style")]

    params = random_params(TINY)

    def make(images, asked=prompts, group_by="entity_split"):
        stage = Stage(TINY, params, replace(TINY.system.sampler, k=2), batch_size=4)
        return PictureBench(Pipeline([stage], 0), "tiny", asked, true, spaces, *judges, images, group_by=group_by)

    return make


def test_the_gallery_has_no_prompts_own_picture_and_no_record_twice(records, prompts, true):
    assert len(true.pictures) == len(records) - len(prompts)
    own = {prompt.target.tobytes() for prompt in prompts}
    assert not own & {picture.tobytes() for picture in true.pictures}
    few = gallery([records], prompts[:1], ["entity"], SIDE, 11)
    assert few.values["entity"] == ("disc",) * 11, "those of the prompts' entities come first"
    with pytest.raises(UserError, match="no true pictures to compare with"):
        everything = [from_record(record, records.source, SIDE) for record in records]
        gallery([records], everything, ["entity"], SIDE, 10)


@pytest.mark.parametrize("name", sorted(FEATURES))
def test_features_are_finite_and_tell_pictures_apart_one_by_one(name):
    pictures = resized(np.stack([drawn_icon(shape, ink, 14) for shape in SHAPES[:2] for ink in INKS[:2]]), 32)
    found = FEATURES[name](pictures)
    assert found.dtype == np.float32 and np.isfinite(found).all()
    np.testing.assert_allclose(found[1], FEATURES[name](pictures[1:2])[0], rtol=2e-3, atol=2e-4)
    assert len(np.unique(found.round(4), axis=0)) >= 2


def test_a_colour_that_no_true_picture_has_does_not_swamp_the_others():
    rng = np.random.default_rng(0)
    true = np.stack([np.full((32, 32, 3), level, np.uint8) for level in range(256)])
    true = np.clip(true.astype(int) + rng.integers(-20, 20, true.shape), 0, 255).astype(np.uint8)
    drawn = true.copy()
    drawn[:, :4, :4] = (255, 0, 255)
    spaces = Spaces(true)
    assert np.abs(spaces("surface", drawn)).max() < 30
    assert (
        measures.fid(spaces("surface", drawn), spaces.own("surface"))
        > measures.fid(spaces("surface", true), spaces.own("surface")) + 1
    )


def test_judges_read_true_pictures_and_know_what_they_have_not_seen(prompts, true):
    spaces = Spaces(true.pictures)
    for field, least in (("entity", 0.8), ("style", 1.0)):
        judge = choose(field, true.values[field], spaces, ["looks"])
        asked = judge.knows([prompt.attributes[field] for prompt in prompts])
        assert (judge(np.stack([prompt.target for prompt in prompts])) == asked).mean() >= least
        assert max(judge.tried.values()) - judge.tried[f"{judge.space}, {judge.how}"] < 0.2
        assert judge.knows(["unheard of", None]).tolist() == [-1, -1]
    with pytest.raises(UserError, match="no two values with two pictures each"):
        choose("entity", [str(i) for i in range(len(true.pictures))], spaces, ["looks"])


@pytest.mark.parametrize("how", ["mean", "nearest", "svm"])
def test_each_way_of_judging_can_be_asked_for(true, how):
    judge = choose("style", true.values["style"], Spaces(true.pictures), ["looks"], [how])
    assert judge.how == how and list(judge.tried) == [f"looks, {how}"]


class TestMeasures:
    x = np.random.default_rng(0).normal(size=(200, 4)).astype(np.float32)
    y = np.random.default_rng(1).normal(size=(200, 4)).astype(np.float32)

    def test_kid_and_fid_are_near_zero_for_one_distribution_and_grow_with_the_distance(self):
        kids, fids = zip(
            *((measures.kid(self.x, self.y + d), measures.fid(self.x, self.y + d)) for d in (0, 1, 2)), strict=True
        )
        assert abs(kids[0]) < 0.1 and kids[0] < kids[1] < kids[2]
        assert fids[0] < 0.2 and fids[1] == pytest.approx(fids[0] + 4, abs=0.6) and fids[2] > fids[1]
        assert measures.fid(self.x, self.x) == pytest.approx(0.0, abs=1e-4)
        found = measures.kid_ci(self.x, self.y + 1)
        assert found.low < found.mean < found.high and found.low > 0
        assert np.isnan(measures.kid(self.x[:1], self.y)) and np.isnan(measures.fid(self.x[:1], self.y))

    def test_fid_is_that_of_gaussians(self):
        a, b = np.array([[1.0], [-1.0]]), np.array([[5.0], [1.0]])  # variances 2 and 8, means 0 and 3
        assert measures.fid(a, b) == pytest.approx(9 + 2 + 8 - 2 * 4)

    def test_a_rank_counts_those_that_are_nearer(self):
        pool = np.array([[0.0], [1.0], [2.0], [10.0]], np.float32)
        drawn, own = np.array([[0.0], [9.0]], np.float32), np.array([[1.5], [10.5]], np.float32)
        others = [np.array([0, 1, 2, 3]), np.array([0, 1])]
        assert measures.ranks(drawn, own, pool, others).tolist() == [3, 1]

    def test_a_copy_is_told_from_a_picture_of_ones_own(self):
        true = np.stack([drawn_icon(shape, "red", 12) for shape in SHAPES])
        near = [drawn_icon(shape, "blue", 14)[None] for shape in SHAPES]
        pool = measures.pixels(np.stack([drawn_icon(shape, "green", 16) for shape in SHAPES]))
        threshold = measures.copy_threshold(true, near)
        copies = np.stack([picture[0] for picture in near])
        assert measures.copied(copies, true, near, pool, threshold).all()
        assert not measures.copied(true, true, near, pool, threshold).any()
        assert not measures.copied(copies, true, [copies[:0]] * len(copies), pool, threshold).any()
        assert measures.copied(true, None, near, pool, threshold).mean() <= 0.2, "true pictures hardly ever"

    def test_a_blank_has_less_contrast_than_true_pictures(self):
        true = np.stack([drawn_icon(shape, ink, 14) for shape in SHAPES for ink in INKS])
        grey = np.full((2, SIDE, SIDE, 3), 200, np.uint8)
        assert measures.blank(grey, true).all() and measures.blank(true, true).mean() <= 0.06


def test_arms_have_their_neighbours_and_what_is_stored_is_not_drawn_again(bench_of, tmp_path, prompts):
    bench = bench_of(Images(tmp_path))
    own = [[hit.key for hit in hits] for hits in bench.neighbours(Arm(WITH))]
    assert own == [[hit.key for hit in prompt.neighbours] for prompt in prompts]
    wrong = bench.neighbours(Arm(WRONG))
    assert all(
        hits and not hits[0].key.startswith(prompt.attributes["entity"])
        for hits, prompt in zip(wrong, prompts, strict=True)
    )
    assert bench.neighbours(Arm(WITHOUT)) == [()] * len(prompts)
    assert bench.prepare([Arm(WITH)]) == len(prompts)
    bench.draw(Arm(WITH))
    pictures = bench.drawn(Arm(WITH))
    again = bench_of(Images(tmp_path))
    assert again.prepare([Arm(WITH)]) == 0 and again.prepare([Arm(WITH, (("eta", 0.25),))]) == len(prompts)
    np.testing.assert_array_equal(again.drawn(Arm(WITH)), pictures)


def test_pictures_that_are_right_are_judged_right_and_copies_are_counted(bench_of, tmp_path, prompts):
    bench = bench_of(Images(tmp_path))
    for request, prompt in zip(bench.requests(Arm(WITH)), prompts, strict=True):
        bench.images[bench.name(request)] = prompt.target
    for request in bench.requests(Arm(WRONG)):
        bench.images[bench.name(request)] = request.neighbours[0].image
    right, copies, truth = (bench.outcome(Arm(name)) for name in (WITH, WRONG, TRUE))
    assert right["entity"].mean() > 0.8 and right["nearest"].all() and (right["likeness"] == 1).all()
    assert not right["copied"].any() and not right["blank"].any()
    assert copies["copied"].mean() > 0.8 and not copies["entity"].any() and not copies["rest"].any()
    np.testing.assert_array_equal(truth["entity"], right["entity"])
    assert "nearest" not in truth
    rows = list(bench.rows(Arm(WITH), bench.outcome(Arm(WITH))))
    assert bench.about == [prompt.attributes["entity"] for prompt in prompts]
    bench.about, mixed = ["a", "a", "a", "b", "c", "c"], np.array([[1.0], [1.0], [0.0], [np.nan], [0.0], [0.0]])
    row = bench.row(Arm(TRUE), "all", {"entity": mixed, "blank": mixed * np.nan})
    assert row["entity"] == mean_ci(mixed[[0, 1, 2, 4, 5]], ["a", "a", "a", "c", "c"]) and "blank" not in row
    assert [(row["group"], row["prompts"]) for row in rows] == [("all", 6), ("frequent", 5), ("rare", 1)]
    assert rows[0]["KID"].low <= rows[0]["KID"].mean and "KID" not in rows[1]
    report.write(bench, rows, None, {"command": "reimagen <again>"}, tmp_path, 4)
    text = (tmp_path / report.TABLE).read_text()
    assert "| with | rare | 1 |" in text and "1st of 65" in text
    page = (tmp_path / report.PAGE).read_text()
    assert "reimagen &lt;again&gt;" in page and "<script" not in page and "http" not in page.split("</head>")[1]
    assert (tmp_path / report.SHEET).stat().st_size > 1000


def test_prompts_are_grouped_by_how_many_other_pictures_there_are(bench_of):
    assert set(bench_of(Images(), group_by="count").groups) == {"5 to 16"}
    assert set(bench_of(Images(), group_by="").groups) == {"all"}


def test_an_entity_that_is_in_no_other_picture_is_not_judged(bench_of, prompts):
    stranger = replace(prompts[0], attributes={"entity": "cube", "style": "red"})
    found = bench_of(Images(), [stranger, *prompts[1:]]).outcome(Arm(TRUE))
    assert np.isnan(found["entity"][0]) and np.isfinite(found["entity"][1:]).all() and np.isfinite(found["rest"]).all()


def test_of_guidance_that_cannot_be_told_apart_the_least_is_taken():
    arms = [Arm(WITH, (("text_weight", weight),)) for weight in (1.0, 2.0, 8.0)]
    gentle = {arm: arm.guidance[0][1] for arm in arms}
    values, about = np.linspace(0, 1, 40)[:, None], list(map(str, range(40)))
    outcomes = {
        arms[0]: {"m": values * 0.1},
        arms[1]: {"m": values},
        arms[2]: {"m": values + 0.001 * np.cos(9 * values)},
    }
    assert best_of(arms, outcomes, "m", gentle, about)[1] == [arms[1], arms[2]]
    outcomes[arms[1]] = {"m": np.where(values < 0.1, np.nan, values)}
    assert best_of(arms, outcomes, "m", gentle, about)[1][0] == arms[1], "what is not judged does not count"
    few = np.repeat([0.0, 1.0], 20)[:, None]  # two entities alone are drawn differently
    alike = {arms[0]: {"m": few * 0.0}, arms[1]: {"m": few * 0.0}, arms[2]: {"m": few}}
    assert best_of(arms, alike, "m", gentle, about)[1] == [arms[2]]
    assert arms[0] in best_of(arms, alike, "m", gentle, ["one"] * 20 + ["other"] * 20)[1]


def test_a_training_is_watched_by_what_it_draws(tmp_path, prompts):
    """The measures of true pictures, drawn by a system that draws the target, and of one that draws grey."""
    K = 2
    target = np.stack([prompt.target for prompt in prompts])
    near = np.stack([[hit.image for hit in prompt.neighbours] for prompt in prompts])
    tokens = np.zeros((len(prompts), 32), np.int32)
    batch = Batch(target, tokens, near, np.zeros((len(prompts), K, 32), np.int32), np.ones((len(prompts), K), bool))

    class Keeping(ReImagenFeed):
        def held_out(self, number, process_index=None, process_count=None):
            return [batch]

    train = replace(TINY.train, evaluate_every=5, evaluate_images=6, sample_images=6)
    feed = Keeping(replace(TINY, train=train))

    def draw(params, inputs, keys):
        return jnp.where(inputs.nbr_mask_BK.any(), target, jnp.full_like(target, 128))

    draw = jax.jit(finite.watched(draw))
    held = HeldOut.of(feed, draw)
    watch = held.watch
    assert watch.every == 5 and watch.due(10, 12) and watch.due(12, 12) and not watch.due(11, 12)
    found = watch.measure({})
    assert found["evaluation/nearest_with_neighbours"] == 1 and found["evaluation/blank_with_neighbours"] < 0.2
    assert found["evaluation/blank_without_neighbours"] == 1 and found["evaluation/nearest_without_neighbours"] < 0.5
    assert found["evaluation/likeness_with_neighbours"] == 1 > found["evaluation/likeness_without_neighbours"]
    assert HeldOut.of(ReImagenFeed(replace(TINY, train=train)), draw) is None, "nothing is held out"
    assert HeldOut.of(Keeping(TINY), draw) is None, "it is not asked for"
    assert held.better_guidance({}) == {}, "pictures do not depend on it"

    def gentle(params, inputs, keys):
        weight = inputs.neighbour_weight_B.max()
        return jnp.where(weight < params["most"], target, jnp.full_like(target, 128))

    sampler = replace(TINY.system.sampler, text_weight=2.0, neighbour_weight=4.0)
    held = HeldOut.of(Keeping(replace(changed(TINY, sampler=sampler), train=train)), jax.jit(finite.watched(gentle)))
    assert held.better_guidance({"most": 5.0}) == {}, "the experiment's own is not changed without need"
    assert held.better_guidance({"most": 3.0}) == {"text_weight": 1.5, "neighbour_weight": 2.5}
    assert held.better_guidance({"most": 2.0}) == {"text_weight": 1.0, "neighbour_weight": 1.0}
