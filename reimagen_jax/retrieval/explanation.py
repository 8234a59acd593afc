"""Why a record was found: the words that it shares with the query, how near its vector is, and its ranks."""

from dataclasses import dataclass

from reimagen_jax.retrieval.bm25 import Match


@dataclass(frozen=True)
class Explanation:
    """What makes the score of one record for one query."""

    method: str
    score: float
    matches: tuple[Match, ...] = ()
    """Words in common, weightiest first; their scores add up to `lexical`."""
    unknown: tuple[str, ...] = ()
    """Words of the query that no caption has."""
    lexical: float | None = None
    """The BM25 score; None where words were not asked."""
    cosine: float | None = None
    """Of the two vectors; None where vectors were not asked."""
    ranks: tuple[float, float] | None = None
    """By words and by vectors, of a hybrid search; infinite where it is not among the candidates."""

    def lines(self) -> list[str]:
        """For people."""
        lines = []
        if self.lexical is not None:
            lines.append(f"words: {self.lexical:.4f}")
            lines += [
                f"  {match.score:8.4f}  {match.word}  ({_times(match.in_query)} in the query, "
                f"{_times(match.in_document)} in the caption, in {match.documents:,} captions, idf {match.idf:.3f})"
                for match in self.matches
            ]
            if self.unknown:
                lines.append(f"  in no caption: {', '.join(self.unknown)}")
        if self.cosine is not None:
            lines.append(f"vectors: cosine {self.cosine:.4f}")
        if self.ranks is not None:
            lines.append("ranks: {} by words, {} by vectors".format(*map(_rank, self.ranks)))
        return lines


def _times(number: int) -> str:
    return "once" if number == 1 else f"{number} times"


def _rank(rank: float) -> str:
    return "none" if rank == float("inf") else f"{rank:.0f}"
