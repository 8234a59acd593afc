"""The pictures of arms, kept for people to rate: a folder for each arm, that of all splits together."""

from types import SimpleNamespace

import numpy as np

from reimagen_jax.data.entityworld import CATEGORIES
from reimagen_jax.evaluation.entities import kept
from reimagen_jax.evaluation.entities.arms import TRUTH, Arm
from reimagen_jax.evaluation.human.contents import about, references
from reimagen_jax.evaluation.human.drawn import common, read_systems
from reimagen_jax.files import mark
from reimagen_jax.inference.origin import FORMAT, NeighbourOrigin, Origin, pixels_sha256
from tests.evaluation.entities.conftest import MODEL

NEIGHBOURS = (("none", 0), ("own", 1), ("wrong", 1))
ARMS = [Arm(split, source, k) for split in ("frequent", "unseen") for source, k in NEIGHBOURS]


def told(models, pipeline, requests, images, **facts):
    """Origins without stages: these pictures were copied."""
    return [
        Origin(
            format=FORMAT,
            prompt=request.prompt,
            negative="",
            record="",
            seed=0,
            index=request.index,
            neighbours=tuple(
                NeighbourOrigin(hit.key, hit.text, None, pixels_sha256(hit.image), hit.source, hit.base, hit.place)
                for hit in request.neighbours
            ),
            start=None,
            stages=(),
            pixels_sha256=pixels_sha256(image),
            device="cpu",
            versions={},
            more=dict(request.told),
            **facts,
        )
        for request, image in zip(requests, images, strict=True)
    ]


def test_arms_are_systems_with_what_is_known_of_their_prompts(bench, tmp_path, monkeypatch):
    monkeypatch.setattr(kept, "origins", told)
    keeper = kept.Keeper(bench, [SimpleNamespace(config=MODEL)], tmp_path / kept.PICTURES, "reimagen evaluate entities")
    for arm in ARMS:
        assert not keeper.has(arm)
        keeper.keep(arm, np.stack([np.full((32, 32, 3), i, np.uint8) for i in range(20)]))
        assert keeper.has(arm)
    assert keeper.has(Arm("unseen", TRUTH)), "of true renders nothing is kept"
    mark(tmp_path, "evaluation")
    own, none, wrong = systems = read_systems([f"all={tmp_path}"])
    assert [each.label for each in systems] == ["all own-k1-eta1", "all none", "all wrong-k1-eta1"]
    texts, asked = common(systems, only=False), [*bench.prompts("frequent"), *bench.prompts("unseen")]
    assert set(texts) == {prompt.text for prompt in asked} and len(texts) == 20
    known = about(systems, texts, {})
    for i, prompt in enumerate(asked):
        expected = {"category": CATEGORIES[prompt.look[0]], "frequency": "frequent" if i < 10 else "infrequent"}
        assert known[prompt.text] == expected
        pictures = none.prompts[prompt.text].pictures
        assert [path.name.rpartition("-")[2] for path in pictures] == ["0.png", "1.png"]
        (reference,) = own.prompts[prompt.text].references
        assert prompt.name in reference.caption
        assert wrong.prompts[prompt.text].references == (), "another entity's pictures are no references"
    shown = references(systems, texts[:2], "", (), 4)
    assert all(len(some) == 1 and some[0][0].shape == (32, 32, 3) for some in shown.values())
