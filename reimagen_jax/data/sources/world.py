"""EntityWorld as a source."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from reimagen_jax.data.sources.base import Entry, Source
from reimagen_jax.data.sources.where import EVERYTHING, Where
from reimagen_jax.errors import UserError


@dataclass(frozen=True)
class WorldSource(Source):
    """EntityWorld as a source. Raises `UserError` on a role or split that it does not have."""

    world: Any
    """An `entityworld.World`."""
    where: Where = EVERYTHING
    resolution: int = 64
    """Side of the drawn images."""

    def __post_init__(self) -> None:
        from reimagen_jax.data.entityworld.dataset import ROLES, SPLITS

        for name, known in (("role", ROLES), ("split", SPLITS)):
            if unknown := self.where.allowed.get(name, frozenset()) - set(known):
                raise UserError(f"--where {name}={min(unknown)}: EntityWorld has the {name}s {', '.join(known)}")

    @property
    def name(self) -> str:
        return f"entityworld seed={self.world.seed}"

    @property
    def files(self) -> tuple[str]:
        return ("world",)

    def count(self) -> int:
        return self.world.num_examples(**self._drawn)

    def entries(self, file: int, start: int) -> Iterator[tuple[int, Entry]]:
        examples = self.world.examples(**self._drawn, resolution=self.resolution, start=start)
        for number, example in enumerate(examples, start):
            image = example["image"]
            yield number, Entry(example["key"], (example["text"],), example["attributes"], lambda data=image: data)

    @property
    def _drawn(self) -> dict[str, str | None]:
        """The role and the split to draw, where the filter leaves only one: the others need not be drawn."""
        only = {name: self.where.allowed.get(name, frozenset()) for name in ("role", "split")}
        return {name: next(iter(values)) if len(values) == 1 else None for name, values in only.items()}
