"""Where a record's neighbours may come from: what a search finds, or, for ablations, what is drawn without one.

    retrieved   the best of the knowledge base for the record's query
    random      any records
    wrong       records of one other entity, of the same category: well made neighbours that mislead
    oracle      records of the same entity: what a perfect retriever would find

What is drawn for record i depends on (seed, i) and the data alone. `reimagen evaluate entities` has conditions of the
same names for sampling. A source yields as many candidates as it is asked for, best first; which of them become
neighbours is decided in `neighbours`.
"""

from collections.abc import Callable, Sequence
from typing import Literal, Protocol, get_args

import numpy as np

from reimagen_jax.retrieval.asker import Answer, ask, whole
from reimagen_jax.retrieval.asking import Asking, Question
from reimagen_jax.retrieval.knowledge_base import KnowledgeBase

Kind = Literal["retrieved", "random", "wrong", "oracle"]
KINDS = get_args(Kind)


class Candidates(Protocol):
    """A source of candidates."""

    def __call__(self, record_Q: np.ndarray, width: int) -> Answer:
        """The first `width` candidates of Q records."""
        ...


def retrieved(base: KnowledgeBase, questions: Sequence[Question], how: Asking) -> Candidates:
    """The best records of the base for each record's question."""

    def candidates(record_Q: np.ndarray, width: int) -> Answer:
        return ask(base, [questions[i] for i in record_Q], width, how)

    return candidates


def random(base: KnowledgeBase, seed: int) -> Candidates:
    """Any records of the base, all equally likely."""

    def members(i: int, rng: np.random.Generator, width: int) -> np.ndarray:
        return rng.choice(len(base), min(width, len(base)), replace=False)

    return _drawn("random", seed, members)


def oracle(entity_N: np.ndarray, entity_M: np.ndarray, seed: int) -> Candidates:
    """Records of the base (M) that show the same entity; none for a record without one (number -1)."""
    groups = _groups(entity_M)

    def members(i: int, rng: np.random.Generator, width: int) -> np.ndarray:
        return rng.permutation(groups.get(int(entity_N[i]), _NONE))[:width]

    return _drawn("oracle", seed, members)


def wrong(
    entity_N: np.ndarray, entity_M: np.ndarray, category_N: np.ndarray, category_M: np.ndarray, seed: int
) -> Candidates:
    """Records of the base (M) that show one other entity of the same category; all such entities are equally likely.

    Numbers that are the same for all stand for no categories. None for a record without entity or category.
    """
    groups = _groups(entity_M)
    # An entity is of every category that one of its records names.
    rivals = {
        category: np.unique(entity_M[of_category][entity_M[of_category] >= 0])
        for category, of_category in _groups(category_M).items()
    }

    def members(i: int, rng: np.random.Generator, width: int) -> np.ndarray:
        own, others = entity_N[i], rivals.get(int(category_N[i]), _NONE)
        place = int(np.searchsorted(others, own))
        present = place < len(others) and others[place] == own
        if own < 0 or len(others) - present < 1:
            return _NONE
        choice = int(rng.integers(len(others) - present))
        rival = others[choice + (present and choice >= place)]  # its own is passed over
        return rng.permutation(groups[int(rival)])[:width]

    return _drawn("wrong", seed, members)


_NONE = np.zeros(0, np.int64)


def _drawn(kind: Kind, seed: int, members: Callable[[int, np.random.Generator, int], np.ndarray]) -> Candidates:
    """Candidates that `members(record, generator, width)` draws, with a generator for each record."""

    def candidates(record_Q: np.ndarray, width: int) -> Answer:
        ids_QC = np.full((len(record_Q), width), -1, np.int32)
        scores_QC = np.zeros((len(record_Q), width), np.float32)
        for q, i in enumerate(record_Q.tolist()):
            ids = members(i, np.random.default_rng((seed, KINDS.index(kind), i)), width)
            ids_QC[q, : len(ids)], scores_QC[q, : len(ids)] = ids, np.nan
        return whole(ids_QC, scores_QC)

    return candidates


def _groups(number_M: np.ndarray) -> dict[int, np.ndarray]:
    """The places of every number but -1, ascending."""
    order_M = np.argsort(number_M, kind="stable")
    numbers, starts = np.unique(number_M[order_M], return_index=True)
    places = np.split(order_M, starts[1:])
    return {int(number): place for number, place in zip(numbers, places, strict=True) if number >= 0}
