"""Vectors for tests of dense retrieval, and the plain search that all kinds of index are held to."""

import numpy as np


def clustered(count: int, width: int, seed: int = 0, centres: int = 0) -> np.ndarray:
    """float32 [N, D] around a few centres, of many lengths: there are neighbours to find."""
    centre_CD = np.random.default_rng(centres).standard_normal((16, width))
    rng = np.random.default_rng(seed)
    row_ND = centre_CD[rng.integers(len(centre_CD), size=count)] + 0.5 * rng.standard_normal((count, width))
    return (row_ND * rng.uniform(0.1, 10.0, (count, 1))).astype(np.float32)


def plain(row_ND: np.ndarray, query_QD: np.ndarray, k: int, allowed: np.ndarray | None = None):
    """Ids and cosines of the best k, by a full sort: the definition of the result."""
    row, query = (x / np.linalg.norm(x.astype(np.float64), axis=1, keepdims=True) for x in (row_ND, query_QD))
    score_QN = (query @ row.T).astype(np.float32)
    possible = np.arange(len(row)) if allowed is None else np.flatnonzero(allowed)
    order = np.array([possible[np.lexsort((possible, -score[possible]))] for score in score_QN])[:, :k]
    score = np.take_along_axis(score_QN, order.astype(np.int64), axis=1)
    padding = ((0, 0), (0, k - order.shape[1]))
    return np.pad(order, padding, constant_values=-1).astype(np.int32), np.pad(score, padding).astype(np.float32)
