"""The demonstration of Re-Imagen's claim: entities that the model has never seen, drawn with and without retrieval.

The knowledge base is made as `reimagen prepare` and `reimagen index` make it: the reference images of all unseen
entities and, so that the comparison is fair, as many of each frequent entity that is asked for. It is asked for the
entity's name, so that an entity's neighbours are its own images, as in EntityDrawBench. Prompts are captions of new
scenes; their true images are known, but never shown to the model.
"""

import tempfile
from collections.abc import Sequence
from itertools import chain
from pathlib import Path

from reimagen_jax.config import Experiment
from reimagen_jax.data.entityworld import World
from reimagen_jax.data.records import ImageText, write_records
from reimagen_jax.data.sources import Where, WorldSource
from reimagen_jax.evaluation.rater import Rater
from reimagen_jax.evaluation.ratings import Ratings, Row, ceilings
from reimagen_jax.inference.prompts import Prompt, asking_by, from_record, with_retrieved
from reimagen_jax.retrieval.knowledge_base import KnowledgeBase
from reimagen_jax.systems.reimagen.settings import ETAS

BALANCE = 0.5
"""The eta of the table."""
NEW_SCENE = 1_000_000
"""Number of an image of an entity, far beyond those in any training set or knowledge base."""


def choose(world: World, split: str, count: int) -> list[int]:
    """At most `count` entities of a split, evenly spread."""
    entities = world.entities(split)
    count = min(count, len(entities))
    return [entities[i * len(entities) // count] for i in range(count)]


def rehearse(world: World, resolution: int) -> None:
    """Makes a knowledge base of one image and gives it up, before another thread may work beside `knowledge_base`.

    TFDS imports its parts at their first use, and turns all imports of the process into later ones meanwhile.
    """
    example = ImageText(**world.example(world.entities("unseen")[0], 0, "reference", resolution))
    with tempfile.TemporaryDirectory() as folder:
        records = write_records([example], Path(folder, "knowledge"), source="rehearsal")
        KnowledgeBase.build(records, Path(folder, "index")).records.fetch([0])


def knowledge_base(world: World, frequent: Sequence[int], folder: Path, resolution: int) -> KnowledgeBase:
    """Writes the records and the index into `folder`."""
    source = WorldSource(world, Where.parse(["role=reference", "split=unseen"]), resolution)
    numbers = range(world.unseen_references)
    theirs = (ImageText(**world.example(i, n, "train", resolution)) for i in frequent for n in numbers)
    total = source.count() + len(frequent) * len(numbers)
    records = write_records(
        chain(source.items(), theirs),
        folder / "knowledge",
        source=source.name,
        total=total,
        settings={"world": vars(world), "resolution": resolution},
    )
    return KnowledgeBase.build(records, folder / "index")


def prompts_about(world: World, entities: Sequence[int], base: KnowledgeBase, config: Experiment) -> list[Prompt]:
    """The caption of a new scene of each entity, with its true image, and its neighbours."""
    new = (ImageText(**world.example(i, NEW_SCENE, "train", config.system.resolution)) for i in entities)
    prompts = [from_record(example, base.records.source, config.system.resolution) for example in new]
    return with_retrieved(asking_by(prompts, "entity"), base, config.data.num_neighbours, config.system.resolution)


def table(unseen: Ratings, frequent: Ratings, rater: Rater) -> tuple[Row, ...]:
    """With and without retrieval, for unseen and frequent entities, and what the rater says of true images.

    `unseen` is of a sweep over `ETAS`, `frequent` of one at `BALANCE` alone.
    """
    rows = []
    for split, ratings, column in (("unseen", unseen, ETAS.index(BALANCE)), ("frequent", frequent, 0)):
        count = len(ratings.applies_P)
        retrieved = tuple(curve.points[column] for curve in ratings.curves)
        rows.append(Row(f"{split} entities, with retrieval (η {BALANCE:g})", retrieved, count))
        rows.append(Row(f"{split} entities, without", tuple(curve.baseline for curve in ratings.curves), count))
    return (*rows, Row("true images (the rater's ceiling)", ceilings(rater), rater.metrics["num_images"]))
