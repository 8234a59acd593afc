"""Which floor keeps strangers away: how many neighbours are of the record's own entity, and how many of these are lost.

    python tools/neighbour_floors.py runs/train --knowledge-base runs/index --query-by entity entity caption \\
        --exclude-same style --where style=noto --where style=twemoji

Prints, for each floor, the share of the neighbours that are of the same entity (precision), the share of those of the
same entity found without a floor that are found still (recall), and of the records those without any neighbour.
"""

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Annotated

import tyro

from reimagen_jax.commands.prompt_options import AskingOptions
from reimagen_jax.data.records import Records
from reimagen_jax.retrieval.fields import numbered
from reimagen_jax.retrieval.knowledge_base import KnowledgeBase
from reimagen_jax.retrieval.neighbours import Rules, find_neighbours


@dataclass(frozen=True)
class Floors:
    """What to measure on."""

    records: Annotated[Path, tyro.conf.Positional]
    """Records that ask."""
    knowledge_base: Path
    asking: Annotated[AskingOptions, tyro.conf.arg(name="")] = field(default_factory=AskingOptions)
    num_neighbours: int = 2
    entity_field: str = "entity"
    floors: tuple[float, ...] = (0.0, 0.3, 0.5, 0.6, 0.7, 0.8, 0.9)

    def run(self) -> None:
        """Measures and prints."""
        records, base = Records.open(self.records), KnowledgeBase.open(self.knowledge_base)
        entity_FN, entity_FM = numbered(records, base.records, (self.entity_field,))
        rules, found = self.asking.settings(Rules(tie_seed=0)), 0
        print("floor  precision  recall  none found")
        for floor in self.floors:
            ids_NK = find_neighbours(records, base, self.num_neighbours, replace(rules, floor=floor)).ids_NK
            there_NK = ids_NK >= 0
            same = int((there_NK & (entity_FM[0][ids_NK] == entity_FN[0][:, None])).sum())
            found = found or same
            none = 1 - there_NK.any(axis=1).mean()
            print(f"{floor:5.2f}  {same / max(1, there_NK.sum()):9.4f}  {same / max(1, found):6.4f}  {none:10.4f}")


if __name__ == "__main__":
    tyro.cli(Floors, config=(tyro.conf.FlagCreatePairsOff,)).run()
