"""Distances between sets of vectors: closed forms, reference formulas, invariances, the bias that is taken away."""

import itertools

import numpy as np
import pytest
from scipy import linalg, stats
from sklearn.metrics import pairwise_distances

from reimagen_jax.errors import UserError
from reimagen_jax.evaluation import distances
from reimagen_jax.evaluation.distances import (
    Gaussian,
    Moments,
    discrepancy,
    fewest,
    frechet,
    frechet_infinity,
    frechet_unbiased,
    inception_score,
    kernels,
    kid,
    neighbourhoods,
)

D = 6
RNG = np.random.default_rng(0)
X = RNG.normal(size=(150, D)) @ RNG.normal(size=(D, D)) + 0.5
Y = RNG.normal(size=(130, D)) @ RNG.normal(size=(D, D))


def spread(sides):
    return Gaussian(np.zeros(len(sides)), np.diag(np.array(sides, float) ** 2))


class TestFrechet:
    def test_of_gaussians_whose_covariances_commute_it_is_known(self):
        a, b = spread([1, 2, 3]), spread([4, 2, 0])
        moved = Gaussian(np.array([1.0, -2.0, 2.0]), b.cov_DD)
        assert frechet(a, b) == pytest.approx(9 + 0 + 9, rel=1e-12)
        assert frechet(a, moved) == pytest.approx(18 + 9, rel=1e-12)

    def test_of_any_gaussians_it_is_that_of_the_matrix_root(self):
        a, b = Gaussian.of(X), Gaussian.of(Y)
        root = linalg.sqrtm(a.cov_DD @ b.cov_DD)
        expected = ((a.mean_D - b.mean_D) ** 2).sum() + np.trace(a.cov_DD + b.cov_DD - 2 * root.real)
        assert frechet(a, b) == pytest.approx(expected, rel=1e-9)
        assert frechet(b, a) == pytest.approx(expected, rel=1e-12)

    def test_it_does_not_depend_on_where_vectors_are_nor_how_they_are_turned_and_grows_with_their_square(self):
        turn, _ = np.linalg.qr(np.random.default_rng(1).normal(size=(D, D)))
        before = frechet(Gaussian.of(X), Gaussian.of(Y))
        after = frechet(Gaussian.of(3 * X @ turn + 1e3), Gaussian.of(3 * Y @ turn + 1e3))
        assert after == pytest.approx(9 * before, rel=1e-8)

    def test_of_fewer_vectors_than_values_it_is_exact(self):
        """Two points each, on lines at right angles: nothing of the covariances is in common."""
        x, y = np.zeros((2, 50)), np.zeros((2, 50))
        x[:, 0], y[:, 1] = (-1, 1), (-3, 3)
        assert frechet(Gaussian.of(x), Gaussian.of(y)) == pytest.approx(2 + 18, rel=1e-12)
        assert Gaussian.of(x).deficient and not Gaussian.of(X).deficient
        few = np.random.default_rng(2).normal(size=(2, 20, 64))
        a, b = map(Gaussian.of, few)
        eigen = np.sqrt(np.maximum(np.linalg.eigvals(a.cov_DD @ b.cov_DD).real, 0)).sum()
        expected = ((a.mean_D - b.mean_D) ** 2).sum() + np.trace(a.cov_DD + b.cov_DD) - 2 * eigen
        assert frechet(a, b) == pytest.approx(expected, rel=1e-6)

    def test_few_vectors_are_a_factor_of_their_covariance_and_many_are_not_kept(self):
        moments = Moments()
        for part in np.array_split(X[:D], 3):
            moments.add(part)
        few = moments.gaussian
        assert few.factor_DR.shape == (D, D) and len(few.vectors_ND) == D
        np.testing.assert_allclose(few.factor_DR @ few.factor_DR.T, few.cov_DD, atol=1e-12)
        assert frechet(few, Gaussian.of(Y)) == pytest.approx(
            frechet(Gaussian(few.mean_D, few.cov_DD), Gaussian.of(Y)), rel=1e-9
        )
        moments.add(X[D:])
        assert moments.gaussian.vectors_ND is None

    def test_a_set_is_not_apart_from_itself_and_equal_vectors_from_equal_ones(self):
        assert frechet(Gaussian.of(X), Gaussian.of(X)) == pytest.approx(0, abs=1e-12)
        same = Gaussian.of(np.ones((5, 3)))
        assert frechet(same, same) == 0 and frechet(same, Gaussian.of(np.zeros((4, 3)))) == pytest.approx(3)

    def test_other_features_few_vectors_and_broken_ones_are_refused(self):
        with pytest.raises(UserError, match="not of the same features"):
            frechet(Gaussian.of(X), Gaussian.of(X[:, 1:]))
        for broken, said in ((X[:1], "2 at least"), (X[:0], "2 at least"), (X * np.inf, "not finite")):
            with pytest.raises(UserError, match=said):
                Gaussian.of(broken)


def test_moments_of_parts_are_those_of_the_whole_even_far_from_zero():
    far = X.astype(np.float32) * np.float32(1e-2) + np.float32(1e3)
    moments = Moments()
    for part in np.array_split(far, [1, 2, 40, 40, 149]):
        moments.add(part)
    whole = far.astype(np.float64)
    np.testing.assert_allclose(moments.gaussian.mean_D, whole.mean(axis=0), rtol=1e-14)
    np.testing.assert_allclose(moments.gaussian.cov_DD, np.cov(whole, rowvar=False), rtol=1e-9, atol=1e-16)
    assert moments.gaussian.count == moments.count == len(X)


class TestWithoutBias:
    width, n = 24, 80
    sides = np.linspace(0.2, 1.5, 24)

    def drawn(self, seed, shift):
        rng = np.random.default_rng(seed)
        return rng.normal(size=(self.n, self.width)) * self.sides + shift, rng.normal(size=(self.n, self.width))

    @pytest.mark.parametrize("shift", [0.0, 0.3])
    def test_it_is_right_on_average_where_the_plain_distance_is_not_and_its_interval_holds_the_truth(self, shift):
        moved = Gaussian(np.full(self.width, shift), np.diag(self.sides**2))
        truth = frechet(moved, spread(np.ones(self.width)))
        sets = [self.drawn(seed, shift) for seed in range(30)]
        plain = np.mean([frechet(Gaussian.of(x), Gaussian.of(y)) for x, y in sets])
        found = np.array([frechet_unbiased(x, y) for x, y in sets])
        error = found[:, 0].std(ddof=1) / len(sets) ** 0.5
        assert plain - truth > 20 * error
        assert abs(found[:, 0].mean() - truth) < 4 * error
        assert ((found[:, 1] < truth) & (truth < found[:, 2])).sum() >= 26
        assert found[:, 2].mean() - found[:, 1].mean() < 12 * error * len(sets) ** 0.5

    def test_where_the_reference_is_known_by_its_statistics_half_of_the_bias_is_taken_away(self):
        sets = [self.drawn(seed, 0.0) for seed in range(12)]
        truth = frechet(spread(self.sides), spread(np.ones(self.width)))
        exact = [frechet_unbiased(x, spread(np.ones(self.width))).mean for x, _ in sets]
        assert np.mean(exact) == pytest.approx(truth, abs=4 * np.std(exact) / len(sets) ** 0.5)
        half = [frechet_unbiased(x, Gaussian.of(y)).mean for x, y in sets]
        plain = [frechet(Gaussian.of(x), Gaussian.of(y)) for x, y in sets]
        assert truth < np.mean(half) < np.mean(plain)

    def test_the_jackknife_of_the_mean_of_a_variance_is_known(self):
        """In one dimension against a point, the distance is m^2 + s^2: its bias is the variance of m, s^2 / n."""
        x = np.random.default_rng(0).normal(size=(40, 1))
        point = Gaussian(np.zeros(1), np.zeros((1, 1)))
        found = frechet_unbiased(x, point, parts=40)
        assert found.mean == pytest.approx(x.mean() ** 2 + x.var(ddof=1) * (1 - 1 / 40), rel=1e-9)
        pseudo = np.array([40 * frechet(Gaussian.of(x), point) - 39 * frechet(Gaussian.of(np.delete(x, i, 0)), point)
                           for i in range(40)])  # fmt: skip
        error = pseudo.std(ddof=1) / 40**0.5
        assert found.high - found.mean == pytest.approx(stats.t.ppf(0.975, 39) * error, rel=1e-9)

    def test_too_few_are_refused(self):
        least = fewest(D)
        frechet_unbiased(X[:least], Y[:least])
        for x, y in ((X[: least - 1], Y), (X, Y[: least - 1])):
            with pytest.raises(UserError, match=f"{least} at least"):
                frechet_unbiased(x, y)


class TestInfinity:
    """Against a Gaussian that is known, where the distance without any bias is known as well."""

    width = 24
    sides = np.linspace(0.2, 1.5, 24)
    known = spread(np.ones(24))

    def drawn(self, seed, count, shift):
        return np.random.default_rng(seed).normal(size=(count, self.width)) * self.sides + shift

    @pytest.mark.parametrize(("count", "shift"), [(100, 0.0), (200, 0.3), (500, 0.0)])
    def test_it_is_nearer_than_the_plain_distance_and_its_interval_holds_the_truth(self, count, shift):
        truth = frechet(Gaussian(np.full(self.width, shift), np.diag(self.sides**2)), self.known)
        sets = [self.drawn(seed, count, shift) for seed in range(30)]
        plain = np.array([frechet(Gaussian.of(x), self.known) for x in sets])
        found = np.array([frechet_infinity(x, self.known) for x in sets])
        assert abs(found[:, 0].mean() - truth) < 0.25 * (plain.mean() - truth), "three quarters of the bias, at least"
        assert (abs(found[:, 0] - truth) < abs(plain - truth)).mean() > 0.75
        assert ((found[:, 1] < truth) & (truth < found[:, 2])).sum() >= 26
        reach = (found[:, 2] - found[:, 1]).mean() / 2
        assert 1.2 * found[:, 0].std() < reach < 4 * found[:, 0].std(), "and is not so by being wide"

    def test_it_is_the_value_at_0_of_a_line_over_subsets(self):
        x, sizes, rng = self.drawn(0, 120, 0.1), [49, 84, 120], np.random.default_rng(3)
        apart = [frechet(Gaussian.of(x[rng.choice(120, n, replace=False)]), self.known) for n in sizes[:2]]
        line = np.polyfit(1 / np.array(sizes), [*apart, frechet(Gaussian.of(x), self.known)], 1)
        assert frechet_infinity(x, self.known, points=3, seed=3).mean == pytest.approx(line[1], rel=1e-9)

    def test_of_one_dimension_what_a_vector_adds_is_known(self):
        """Against a point the distance is m^2 + s^2, to which a vector z + m adds z^2 + 2 m z."""
        x = np.random.default_rng(1).normal(size=(200, 1)) + 0.7
        found = frechet_infinity(x, Gaussian(np.zeros(1), np.zeros((1, 1))))
        sizes = np.linspace(20, 200, 15)
        weights = np.linalg.pinv(np.stack([np.ones(15), 1 / sizes], axis=1))[0]
        variance = ((x - x.mean()) ** 2 + 2 * x.mean() * (x - x.mean())).var(ddof=1)
        error = (variance * (1 / 200 + (weights**2 * (1 / sizes - 1 / 200)).sum())) ** 0.5
        assert found.high - found.mean == pytest.approx(stats.norm.ppf(0.975) * error, rel=0.01)

    def test_too_few_are_refused(self):
        least = 2 * (2 * D + 1)
        frechet_infinity(X[:least], Gaussian.of(Y))
        with pytest.raises(UserError, match=f"{least} at least"):
            frechet_infinity(X[: least - 1], Gaussian.of(Y))


class TestKid:
    def plain(self, x, y):
        """(3), pair by pair."""

        def k(a, b):
            return (a @ b / D + 1) ** 3

        def within(z):
            return np.mean([k(a, b) for i, a in enumerate(z) for j, b in enumerate(z) if i != j])

        return within(x) + within(y) - 2 * np.mean([k(a, b) for a in x for b in y])

    def test_it_is_the_formula(self):
        assert kid(X[:12], Y[:12]) == pytest.approx((self.plain(X[:12], Y[:12]), 0, 1, 12))
        assert discrepancy(*kernels(X[:9], Y[:14])) == pytest.approx(self.plain(X[:9], Y[:14]))

    def test_subsets_are_drawn_as_torch_fidelity_draws_them(self):
        rng, expected = np.random.RandomState(2020), []
        for _ in range(5):
            x = X[rng.choice(len(X), 10, replace=False)]
            expected.append(self.plain(x, Y[rng.choice(len(Y), 10, replace=False)]))
        found = kid(X, Y, subsets=5, size=10)
        assert found == pytest.approx((np.mean(expected), np.std(expected), 5, 10))
        assert kid(X, Y)[2:] == (distances.KID_SUBSETS, len(Y)), "as large as the smaller set"

    def test_it_is_unbiased(self):
        sets = [np.random.default_rng(seed).normal(size=(2, 30, 4)) for seed in range(60)]
        found = [kid(*pair).mean for pair in sets]
        assert abs(np.mean(found)) < 4 * np.std(found) / len(found) ** 0.5 and min(found) < 0

    def test_one_picture_is_refused(self):
        with pytest.raises(UserError, match="2 pictures at least, there are 150 and 1"):
            kid(X, Y[:1])


class TestInceptionScore:
    logits = np.random.default_rng(4).normal(size=(57, 5)) * 3

    def plain(self, rows):
        p = np.exp(rows) / np.exp(rows).sum(axis=1, keepdims=True)
        mean = p.mean(axis=0)
        return np.exp(np.mean([sum(a * np.log(a / b) for a, b in zip(each, mean, strict=True)) for each in p]))

    def test_it_is_the_formula_over_splits_in_torch_fidelitys_order(self):
        order = np.random.RandomState(2020).permutation(57)
        bounds = [0, 5, 11, 17, 22, 28, 34, 39, 45, 51, 57]
        parts = [self.plain(self.logits[order[a:b]]) for a, b in itertools.pairwise(bounds)]
        assert inception_score(self.logits) == pytest.approx((np.mean(parts), np.std(parts), 10))

    def test_it_is_between_one_and_the_number_of_classes(self):
        sure = np.tile(np.eye(5) * 2000, (8, 1))
        assert inception_score(sure, splits=1).mean == pytest.approx(5), "each class is seen, and none in doubt"
        assert inception_score(np.repeat(sure[:1], 20, axis=0)).mean == pytest.approx(1)
        assert inception_score(np.zeros((20, 5))).mean == pytest.approx(1)
        assert inception_score(self.logits + 1e3) == pytest.approx(inception_score(self.logits))

    def test_fewer_pictures_than_splits_are_refused(self):
        with pytest.raises(UserError, match="9 pictures: the Inception Score has 10 splits"):
            inception_score(self.logits[:9])


class TestNeighbourhoods:
    def plain(self, x, y, nearest=3, inside=5):
        """The published definitions, on whole matrices."""
        xx, yy, xy = pairwise_distances(x), pairwise_distances(y), pairwise_distances(x, y)
        x_reach, y_reach = np.sort(xx)[:, nearest], np.sort(yy)[:, nearest]
        balls = np.sort(yy)[:, inside]
        return (
            (xy <= y_reach).any(axis=1).mean(),
            (xy <= x_reach[:, None]).any(axis=0).mean(),
            (xy < balls).sum() / (inside * len(x)),
            (xy.min(axis=0) < balls).mean(),
        )

    @pytest.mark.parametrize("block", [1, 1000, 2**24])
    def test_they_are_the_definitions_whatever_the_blocks(self, monkeypatch, block):
        monkeypatch.setattr(distances, "_BLOCK_VALUES", block)
        found = neighbourhoods(X, Y)
        assert found == pytest.approx(self.plain(X, Y)) and 0 < found.precision < 1 and 0 < found.recall < 1
        assert neighbourhoods(X, Y, 1, 2) == pytest.approx(self.plain(X, Y, 1, 2))
        np.testing.assert_allclose(neighbourhoods(X + 1e4, Y + 1e4), found, atol=1e-9)

    def test_a_set_covers_itself_also_where_vectors_are_many_times_there(self):
        assert neighbourhoods(X, X)[:2] == (1, 1) and neighbourhoods(X, X).coverage == 1
        repeated = np.repeat(X[:9] * 1e3 + 7e5, 6, axis=0)
        precision, recall, density, coverage = neighbourhoods(repeated, repeated)
        assert (precision, recall) == (1, 1), "an edge is in the ball"
        assert (density, coverage) == (0, 0), "and is not inside of it"

    def test_what_each_tells(self):
        rng = np.random.default_rng(3)
        wide, narrow = rng.normal(size=(300, 2)), rng.normal(size=(300, 2)) * 0.1
        one_mode, far = neighbourhoods(narrow, wide), neighbourhoods(wide + 50, wide)
        assert one_mode.precision > 0.95 and one_mode.recall < 0.2 and one_mode.density > 0.9 > one_mode.coverage
        assert far == (0, 0, 0, 0)

    def test_too_few_are_refused(self):
        with pytest.raises(UserError, match="5 pictures have no 5 neighbours: 6 at least"):
            neighbourhoods(X, Y[:5])
