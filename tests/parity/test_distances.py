"""Figures equal those of the references on given features: torch-fidelity's Inception Score and KID, its precision and
recall, PRDC's, and Frechet's distance by a root of the product of the covariances; written anew from their formulas."""

import numpy as np
import pytest
import torch
from scipy import linalg

from reimagen_jax.evaluation.distances import Gaussian, frechet, inception_score, kid, neighbourhoods

RNG = np.random.default_rng(0)
D = 32
X = (RNG.normal(size=(400, D)) @ RNG.normal(size=(D, D)) * 0.3 + 0.2).astype(np.float32)
Y = (RNG.normal(size=(350, D)) @ RNG.normal(size=(D, D)) * 0.3).astype(np.float32)


@pytest.mark.parametrize("count", [350, 20], ids=["full rank", "fewer than values"])
def test_frechets_distance_of_given_statistics(count):
    """Eigenvalues of the product, as torch-fidelity has them; of full rank also SciPy's root, as pytorch-fid has it."""
    x, y = X[:count].astype(np.float64), Y[:count].astype(np.float64)
    a, b = np.cov(x, rowvar=False), np.cov(y, rowvar=False)
    apart = ((x.mean(axis=0) - y.mean(axis=0)) ** 2).sum() + np.trace(a) + np.trace(b)
    found = frechet(Gaussian.of(x), Gaussian.of(y))
    roots = torch.sqrt(torch.linalg.eigvals(torch.from_numpy(a) @ torch.from_numpy(b))).real.sum().item()
    assert found == pytest.approx(apart - 2 * roots, rel=1e-6)
    if count > D:
        assert found == pytest.approx(apart - 2 * np.trace(linalg.sqrtm(a @ b).real), rel=1e-6)


def test_inception_score_is_torch_fidelitys():
    logits = torch.from_numpy(RNG.normal(size=(403, 50)) * 2)
    shuffled = logits[np.random.RandomState(2020).permutation(403)]
    scores = []
    for k in range(10):
        part = shuffled[k * 403 // 10 : (k + 1) * 403 // 10].softmax(dim=1)
        scores.append((part * (part.log() - part.mean(dim=0, keepdim=True).log())).sum(dim=1).mean().exp().item())
    assert inception_score(logits.numpy()) == pytest.approx((np.mean(scores), np.std(scores), 10), rel=1e-9)


def test_kid_is_torch_fidelitys():
    def kernel(a, b):
        return (a @ b.T / D + 1) ** 3

    x, y = torch.from_numpy(X).double(), torch.from_numpy(Y).double()
    rng, found, m = np.random.RandomState(2020), [], 100
    for _ in range(100):
        some = [each[rng.choice(len(each), m, replace=False)] for each in (x, y)]
        within = [kernel(each, each) for each in some]
        off = sum(((each.sum() - each.diagonal().sum()) / (m * (m - 1))).item() for each in within)
        found.append(off - 2 * kernel(*some).mean().item())
    assert kid(X, Y, 100, m) == pytest.approx((np.mean(found), np.std(found), 100, m), rel=1e-6)


def test_precision_recall_density_and_coverage_are_those_of_the_references():
    """torch-fidelity's edges are in a ball (3 neighbours), PRDC's are not (5)."""
    x, y = torch.from_numpy(X).double(), torch.from_numpy(Y).double()
    mode = {"compute_mode": "donot_use_mm_for_euclid_dist"}
    xy = torch.cdist(x, y, **mode)
    reach = {k: torch.cdist(y, y, **mode).kthvalue(k + 1, dim=1).values for k in (3, 5)}
    of_x = torch.cdist(x, x, **mode).kthvalue(4, dim=1).values
    expected = (
        (xy <= reach[3][None]).any(dim=1).double().mean(),
        (xy <= of_x[:, None]).any(dim=0).double().mean(),
        (xy < reach[5][None]).sum(dim=1).double().mean() / 5,
        (xy.min(dim=0).values < reach[5]).double().mean(),
    )
    found = neighbourhoods(X, Y)
    assert found == pytest.approx([each.item() for each in expected]) and 0 < found.precision < 1 > found.coverage > 0
