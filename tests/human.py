"""Folders as systems leave them, for people to rate: pictures with origins, of prompts with references in a base."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from reimagen_jax.data import images
from reimagen_jax.data.records import write_records
from reimagen_jax.evaluation.human import contents, drawn
from reimagen_jax.evaluation.human.study import Study
from reimagen_jax.inference.jobs import picture_name
from reimagen_jax.inference.origin import FORMAT, NeighbourOrigin, Origin, pixels_sha256, save_image
from reimagen_jax.retrieval.knowledge_base import KnowledgeBase
from tests.samples import example, picture

PROMPTS = ("a cat on a mat", "a dog in the snow", "a jay on a twig")
ENTITIES = ("cat", "dog", "jay")
SPLITS = ("frequent", "rare", "unseen")


def base_of(folder: Path, entities: Sequence[str] = ENTITIES, each: int = 2) -> KnowledgeBase:
    """A knowledge base with pictures of every entity: keys cat-0, cat-1, dog-0, ..."""
    records = [
        example(10 * e + i, f"{name} number {i}", f"{name}-{i}", entity=name)
        for e, name in enumerate(entities)
        for i in range(each)
    ]
    return KnowledgeBase.build(write_records(records, folder / "records", source="test"), folder / "index")


def draw(
    folder: Path,
    seed: int,
    prompts: Sequence[str] = PROMPTS,
    number: int = 4,
    base: KnowledgeBase | None = None,
    about: Sequence[dict[str, Any]] = (),
    side: int = 8,
) -> Path:
    """A folder with so many pictures of each prompt; with neighbours, those of the base in its order, two each."""
    folder.mkdir(parents=True)
    for p, prompt in enumerate(prompts):
        neighbours = ()
        if base is not None:
            neighbours = tuple(_neighbour(base, record) for record in base.records.fetch([2 * p, 2 * p + 1]))
        for s in range(number):
            image = np.asarray(picture(1000 * seed + 10 * p + s, (side, side)))
            origin = Origin(
                format=FORMAT,
                made_by="sample",
                prompt=prompt,
                negative="",
                record="",
                seed=seed,
                index=p * number + s,
                neighbours=neighbours,
                start=None,
                stages=(),
                pixels_sha256=pixels_sha256(image),
                device="cpu",
                versions={},
                command="reimagen sample",
                more=about[p] if about else {},
            )
            save_image(folder / picture_name(p, s, prompt), image, origin)
    picture(0).save(folder / "grid.png")
    return folder


def _neighbour(base: KnowledgeBase, record: Any) -> NeighbourOrigin:
    told = {"base": base.fingerprint, "place": str(base.path), "source": "test"}
    return NeighbourOrigin(record.key, record.text, 1.0, pixels_sha256(images.decode(record.image)), **told)


def study_of(
    folder: Path,
    systems: Sequence[str] = ("ours", "theirs", "others"),
    prompts: Sequence[str] = PROMPTS,
    number: int = 4,
    best_of: int = 4,
    side: int = 8,
    base: KnowledgeBase | None = None,
    about: Sequence[dict[str, Any]] = (),
    seed: int = 0,
) -> Study:
    """A study of systems with pictures of noise."""
    for n, name in enumerate(systems, 1):
        draw(folder / name, n, prompts, number, base, about, side)
    read = drawn.read_systems([f"{name}={folder / name}" for name in systems])
    told = contents.Contents(
        read,
        list(prompts),
        contents.about(read, list(prompts), {}),
        contents.references(read, list(prompts), "", (), 4),
        *contents.group_size(read, list(prompts), best_of),
        seed,
    )
    (folder / "study").mkdir()
    told.write(folder / "study")
    return Study.open(folder / "study")
