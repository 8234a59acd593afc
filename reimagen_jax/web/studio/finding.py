"""What the knowledge base finds for a prompt, beside pictures of one's own, and why."""

import math
import threading
from collections.abc import Mapping
from dataclasses import replace
from typing import Any, NamedTuple

from reimagen_jax.data import images
from reimagen_jax.errors import require
from reimagen_jax.inference.prompts import Prompt, asking, find
from reimagen_jax.inference.provenance import rights
from reimagen_jax.inference.requests import pinned
from reimagen_jax.retrieval.knowledge_base import KnowledgeBase
from reimagen_jax.systems.request import Neighbour
from reimagen_jax.web.studio.asked import Chosen, Search
from reimagen_jax.web.studio.offered import EXAMPLES, Offered
from reimagen_jax.web.studio.pictures import SHOWN, Pictures, as_png


class Asked(NamedTuple):
    """A prompt with its neighbours, as the knowledge base has found them."""

    prompt: Prompt
    ids: tuple[int | None, ...]
    """Of the neighbours in the base; None for one's own."""
    left_out: Mapping[str, int]


class Finder:
    """A knowledge base, or none, and the pictures that were sent; asked by any thread, one at a time."""

    def __init__(self, base: KnowledgeBase | None, pictures: Pictures) -> None:
        self.base, self.pictures, self.retrievals = base, pictures, 0
        self._lock = threading.Lock()

    def told(self) -> dict[str, Any] | None:
        """What the page has to know of the base, in JSON types."""
        return None if self.base is None else {"records": len(self.base), "name": self.base.path.name}

    def examples(self) -> list[dict[str, str]]:
        """Prompts to begin with: captions of a few records, each asked for by its entity's name where it has one."""
        base, number = self.base, EXAMPLES
        if base is None:
            return []
        with self._lock:
            found = base.records.fetch([i * len(base) // number for i in range(min(number, len(base)))])
        names = [record.attributes.get("entity") for record in found]
        return [
            {"prompt": record.text, "query": name if isinstance(name, str) else ""}
            for record, name in zip(found, names, strict=True)
        ]

    def search(self, offered: Offered, asked: Search) -> dict[str, Any]:
        """What an image would be drawn with, and why, in JSON types."""
        found = self.asked(offered, asked.prompt, asked.chosen)
        return {
            "neighbours": self.hits(offered, found, asked.chosen),
            "left_out": dict(found.left_out),
            "query": found.prompt.query or found.prompt.text,
        }

    def shown(self, n: int) -> bytes:
        """The picture of a record of the base, as PNG. Raises `UserError` where there is none."""
        require(self.base is not None and 0 <= n < len(self.base), "there is no such record")
        with self._lock:
            (record,) = self.base.records.fetch([n])
        image = images.decode(record.image)
        return as_png(images.decode(record.image, SHOWN) if len(image) > SHOWN else image)

    def asked(self, offered: Offered, text: str, chosen: Chosen, negative: str = "") -> Asked:
        """As `reimagen sample` finds them: one's own, the pinned, then the best of the base."""
        config, base, k = offered.first.config, self.base, chosen.k
        side = getattr(config.system, "resolution", SHOWN)
        prompt = Prompt(text.strip(), query=chosen.query.strip(), negative=negative.strip())
        if not offered.takes_neighbours:
            require(not (chosen.own or chosen.pin), offered.lacks.get("neighbours", ""))
            return Asked(prompt, (), {})
        own = tuple(self._own(each.picture, each.caption, side) for each in chosen.own)
        if base is None:
            require(not chosen.pin, "there is no knowledge base to pin records of")
            return Asked(replace(prompt, neighbours=own[:k]), (None,) * len(own[:k]), {})
        how = offered.how
        with self._lock:
            self.retrievals += 1
            base.allowed(exclude=chosen.ban)
            by_hand = (*own, *pinned(base, chosen.pin, side))[:k]
            ids = (*(None for _ in own), *base.ids_of(dict.fromkeys(chosen.pin)).tolist())[:k]
            (prompt,) = asking([prompt], how)
            found = find(prompt, base, k - len(by_hand), side, given=by_hand, ban=chosen.ban, how=how)
        return Asked(replace(prompt, neighbours=by_hand + found.neighbours), (*ids, *found.ids), found.left_out)

    def _own(self, picture: str, caption: str, side: int) -> Neighbour:
        sent = self.pictures[picture]
        return Neighbour(images.decode(sent.data, side), caption.strip(), math.nan, sent.name, sent.data)

    def hits(self, offered: Offered, found: Asked, chosen: Chosen) -> list[dict[str, Any]]:
        """The neighbours, with what makes their scores."""
        how = offered.how
        query = found.prompt.query or found.prompt.text
        hits = []
        for position, (hit, n) in enumerate(zip(found.prompt.neighbours, found.ids, strict=True)):
            own = chosen.own[position].picture if n is None else ""
            with self._lock:
                why = None if n is None else self.base.explain(query, n, method=how.method)
            hits.append(
                {
                    "key": hit.key,
                    "text": hit.text,
                    "score": None if math.isnan(hit.score) else round(hit.score, 3),
                    "own": own,
                    "url": f"/api/pictures/{own}" if n is None else f"/api/records/{n}",
                    "pinned": hit.key in chosen.pin and n is not None,
                    "rights": rights(hit),
                    "words": [] if why is None else [[m.word, round(m.score, 3), m.documents] for m in why.matches],
                    "unknown": [] if why is None else list(why.unknown),
                }
            )
        return hits
