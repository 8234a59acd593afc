"""What was said, in numbers: shares by group, the best of four, differences, agreement."""

import csv
import json

import numpy as np
import pytest
from PIL import Image

from reimagen_jax.evaluation.human.results import Agreement, agreement, alpha, groups, kappa, results
from reimagen_jax.evaluation.human.store import Rating
from reimagen_jax.evaluation.statistics import mean_ci, paired_difference_ci
from reimagen_jax.reports import human
from tests.human import study_of

CATEGORIES = ("pets", "pets", "birds")
ABOUT = [{"category": c, "split": s} for c, s in zip(CATEGORIES, ("frequent", "rare", "unseen"), strict=True)]


@pytest.fixture(scope="module")
def best(tmp_path_factory):
    return study_of(tmp_path_factory.mktemp("best"), ("ours", "theirs"), about=ABOUT)


@pytest.fixture(scope="module")
def each(tmp_path_factory):
    return study_of(tmp_path_factory.mktemp("each"), ("ours", "theirs"), number=2, best_of=1, about=ABOUT)


def say(study, rater, told):
    """Ratings of one rater: of the tasks in order (prompts, in them systems), photorealism and faithfulness."""
    return [
        Rating(i, rater, i, i, study.tasks[i].pictures[0], *verdict, "2026-01-01T00:00:00+00:00")
        for i, verdict in enumerate(told)
        if verdict is not None
    ]


def row(found, group, system):
    return next(row for row in found.rows if (row.group, row.system) == (group, system))


def test_prompts_are_grouped_by_category_and_by_frequency(best):
    assert [(by, name, members) for by, name, members in groups(best)] == [
        ("all", "all", [0, 1, 2]),
        ("category", "birds", [2]),
        ("category", "pets", [0, 1]),
        ("frequency", "frequent", [0]),
        ("frequency", "infrequent", [1, 2]),
    ]


def test_a_prompts_value_is_the_mean_of_its_raters(best):
    ann = say(best, "Ann", [(1, 1), (0, 0), (1, 0), (1, 1), (0, 1), (0, 0)])
    bob = say(best, "Bob", [(1, 1), (0, 0), (1, 1), (1, 1), None, None])
    found = results(best, [*ann, *bob])
    ours = row(found, "all", "ours")
    assert (ours.prompts, ours.ratings) == (3, 5)
    assert ours.shares["photorealism"] == mean_ci([1.0, 1.0, 0.0])
    assert ours.shares["faithfulness"] == mean_ci([1.0, 0.5, 1.0])
    assert ours.shares["both"] == mean_ci([1.0, 0.5, 0.0]), "both is of the same picture"
    assert row(found, "birds", "ours").shares["faithfulness"].mean == 1.0
    assert row(found, "infrequent", "theirs").shares["both"] == mean_ci([1.0, 0.0])
    assert "best" not in ours.shares, "the rater has taken the best already"


def test_differences_are_of_the_same_prompts(best):
    ann = say(best, "Ann", [(1, 1), (0, 0), (1, 0), None, None, (0, 1)])
    differences = {(each.what, each.measure): each for each in results(best, ann).differences}
    found = differences["ours - theirs", "faithfulness"]
    assert found.prompts == 1 and found.difference == paired_difference_ci([1.0], [0.0])
    assert ("theirs: frequent - infrequent", "both") in differences
    assert differences["theirs: frequent - infrequent", "faithfulness"].difference.mean == -1.0


def test_the_best_of_pictures_that_were_rated_one_by_one_is_any_that_is_both(each):
    assert len(each) == 12 and all(len(task.pictures) == 1 for task in each.tasks)
    # ours: one picture is only real, the other only faithful; then one is both; the third has one rating yet.
    told = [(1, 0), (0, 1), (0, 0), (0, 0), (1, 1), (0, 0), (0, 0), (0, 0), (1, 1), None, (0, 0), (0, 0)]
    found = results(each, say(each, "Ann", told))
    ours = row(found, "all", "ours").shares
    assert ours["photorealism"] == mean_ci([0.5, 0.5, 1.0])
    assert ours["both"] == mean_ci([0.0, 0.5, 1.0])
    assert ours["best"] == mean_ci([0.0, 1.0]), "a prompt counts once all of its pictures are rated"


def test_raters_who_say_the_same_agree_and_who_say_the_opposite_do_not():
    a = np.array([0.0, 1.0, 1.0, 0.0, 1.0, 0.0])
    assert alpha(np.stack([a, a])) == kappa(a, a) == 1.0
    assert alpha(np.stack([a, 1 - a])) < 0 and kappa(a, 1 - a) == -1.0
    assert alpha(np.ones((2, 6))) is None and kappa(np.ones(6), np.ones(6)) is None
    assert alpha(np.array([[1.0, np.nan], [np.nan, 0.0]])) is None


def test_alpha_is_krippendorffs():
    """By its definition for nominal data, 1 - D_o / D_e, with what is missing left out; coincidences by hand."""
    said_RT = np.array([[0, 1, 0, 0, np.nan, 1], [1, 1, 0, 0, 1, 0], [np.nan, 1, 0, 1, 1, np.nan]])
    coincide = np.zeros((2, 2))
    for told in said_RT.T:
        told = told[~np.isnan(told)].astype(int)
        for i in range(len(told)):
            for j in range(len(told)):
                if i != j:
                    coincide[told[i], told[j]] += 1 / (len(told) - 1)
    n_c, n = coincide.sum(axis=0), coincide.sum()
    expected = 1 - (coincide[0, 1] + coincide[1, 0]) / (2 * n_c[0] * n_c[1] / (n - 1))
    np.testing.assert_allclose(alpha(said_RT), expected)


def test_kappa_is_cohens():
    a, b = np.array([1.0, 1, 0, 0, 1, 0, 1, 0, 0, 0]), np.array([1.0, 0, 0, 0, 1, 1, 1, 0, 0, 0])
    observed, chance = 0.8, 0.4 * 0.4 + 0.6 * 0.6
    np.testing.assert_allclose(kappa(a, b), (observed - chance) / (1 - chance))


def test_agreement_is_of_what_several_have_rated(best):
    ann = say(best, "Ann", [(1, 1), (0, 0), (1, 0), (1, 1), None, None])
    bob = say(best, "Bob", [(1, 0), (0, 0), (0, 0), None, None, (1, 1)])
    cid = say(best, "Cid", [None] * 5 + [(1, 1)])
    found = list(agreement(best, [*ann, *bob, *cid]))
    everybody, *pairs = [each for each in found if each.question == "photorealism"]
    assert (everybody.raters, everybody.tasks, everybody.agree) == (("Ann", "Bob", "Cid"), 4, 0.75)
    assert everybody.alpha is not None and everybody.kappa is None
    assert [(each.raters, each.tasks) for each in pairs] == [(("Ann", "Bob"), 3), (("Bob", "Cid"), 1)]
    alone = next(iter(agreement(best, ann)))
    assert alone == Agreement("photorealism", ("Ann",), 0, None)


def test_tables_and_plots(best, tmp_path):
    from reimagen_jax.evaluation.human.store import Ratings, Verdict

    with Ratings.open(best) as ratings:
        for name in ("Ann", "Bob"):
            rater = ratings.join(name)
            while shown := ratings.next(rater):
                ratings.rate(rater, shown.place, Verdict(shown.task.system, 1, shown.place % 4))
        found = results(best, ratings.ratings())
        human.write(ratings, found, tmp_path, {"command": "x"})
        lines = human.rating_lines(ratings)
        told = human.lines(best, found)
    written = json.loads((tmp_path / "results.json").read_text())
    assert written["raters"] == [{"rater": name, "rated": 6, "of": 6, "complete": True} for name in ("Ann", "Bob")]
    assert written["rows"][0]["photorealism"] == list(row(found, "all", "ours").shares["photorealism"])
    with (tmp_path / "results.csv").open() as file:
        table = list(csv.DictReader(file))
    assert len(table) == len(found.rows) == 10
    assert {float(each["photorealism"]) for each in table if each["system"] == "theirs"} == {1.0}
    with (tmp_path / "agreement.csv").open() as file:
        agreed = list(csv.DictReader(file))
    assert [each["alpha"] for each in agreed if each["raters"] == "Ann and Bob"][:2] == ["1.0", ""]
    assert agreed[1]["kappa"] == "1.0"
    names = {"all.png"} | {f"{by}_{m}.png" for by in ("category", "frequency") for m in human.words(best)}
    assert {path.name for path in tmp_path.glob("*.png")} == names
    for name in names:
        with Image.open(tmp_path / name) as image:
            assert image.width > 300 and len(image.convert("RGB").getcolors(2**20)) > 10
    assert len(lines) == 12 and {line["rater"] for line in lines} == {"Ann", "Bob"}
    assert {line["system"] for line in lines if line["photorealism"]} == {"theirs"}
    assert all(line["rated_picture"] in line["pictures"].split() for line in lines)
    assert any("Krippendorff's alpha 1.000" in line for line in told)
    assert any("all say the same" in line for line in told), "faithfulness is 1 throughout"
