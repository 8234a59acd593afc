"""Sweeps and their ratings: every image is the one that its request draws, every verdict is of its image."""

from dataclasses import replace
from types import SimpleNamespace

import jax
import numpy as np
import pytest

from reimagen_jax.data.entityworld import SCENE_PARAMETERS, World
from reimagen_jax.evaluation.ratings import rate, truth, why_unrated
from reimagen_jax.evaluation.statistics import mean_ci
from reimagen_jax.evaluation.sweeps import Sweep, draw_sweep
from reimagen_jax.inference.pipeline import Pipeline, Stage
from reimagen_jax.inference.prompts import Prompt
from reimagen_jax.systems.reimagen.settings import GuidedSamplerConfig
from reimagen_jax.systems.reimagen.system import ReImagen
from reimagen_jax.systems.request import Neighbour
from tests.tiny import TINY

ATTRIBUTES = World(num_entities=20, num_images=200).example(3, 0, resolution=16)["attributes"]


def prompt(i: int, k: int = 2, **fields) -> Prompt:
    draw = np.random.default_rng(i)
    image = draw.integers(0, 256, (k, 16, 16, 3), dtype=np.uint8)
    return Prompt(f"thing {i}", tuple(Neighbour(image[j], f"near {j}", 1.0, f"{i}-{j}") for j in range(k)), **fields)


def test_a_sweep_over_11_etas_compiles_once_and_every_image_is_its_requests():
    params = jax.jit(ReImagen(TINY).init)(jax.random.key(0))
    params = jax.tree.map(lambda leaf: leaf + 0.05, params)
    stage = Stage(TINY, params, replace(TINY.system.sampler, k=2), batch_size=8)
    pipeline = Pipeline([stage], seed=3)
    prompts, etas = [prompt(0), prompt(1, k=1)], [i / 10 for i in range(11)]
    sweep = draw_sweep(pipeline, prompts, etas, num_seeds=2)
    assert sweep.image_PSCHWC.shape == (2, 2, 12, 16, 16, 3) and len(sweep.columns) == 12
    assert (sweep.num_seeds, sweep.resolution, sweep.seed) == (2, 16, 3)

    asked = [prompts[1].request(3, eta=0.3), prompts[0].baseline(1)]
    drawn = pipeline(asked)
    np.testing.assert_array_equal(sweep.image_PSCHWC[1, 1, 1 + 3], drawn[0])
    np.testing.assert_array_equal(sweep.image_PSCHWC[0, 1, 0], drawn[1])
    assert stage.compilations == 1
    assert np.any(sweep.image_PSCHWC[0, 0, 1] != sweep.image_PSCHWC[0, 0, 11]), "eta matters"
    assert np.any(sweep.image_PSCHWC[0, 0] != sweep.image_PSCHWC[0, 1]), "the seed matters"


def test_the_truth_of_an_entityworld_record_is_read_off_its_attributes():
    known = truth(ATTRIBUTES)
    assert known.look.tolist() == ATTRIBUTES["look"]
    assert {p.name: p.values[known.scene[p.name]] for p in SCENE_PARAMETERS} == ATTRIBUTES["scene"]
    assert [p.name for p, told in zip(SCENE_PARAMETERS, known.tells, strict=True) if told] == ATTRIBUTES["tells"]


@pytest.mark.parametrize(
    "attributes",
    [
        {},
        {"look": "casual", "scene": "beach", "tells": []},
        ATTRIBUTES | {"look": ATTRIBUTES["look"][:-1]},
        ATTRIBUTES | {"look": [99, *ATTRIBUTES["look"][1:]]},
        ATTRIBUTES | {"look": [*ATTRIBUTES["look"][:-1], 99]},
        ATTRIBUTES | {"look": [*ATTRIBUTES["look"][:-1], None]},
        ATTRIBUTES | {"scene": {**ATTRIBUTES["scene"], "place": "moon"}},
        ATTRIBUTES | {"scene": {"place": "desert"}},
        ATTRIBUTES | {"tells": None},
    ],
)
def test_other_attributes_are_no_truth(attributes):
    assert truth(attributes) is None
    assert "no EntityWorld look" in why_unrated([prompt(0, attributes=attributes)])


class Oracle:
    """Rates images whose first pixel says, by red and green, what the verdicts on them have to be."""

    def __init__(self):
        shares = {"faithful": [0.9, 0.8, 1.0], "aligned": [1.0, 0.9, 1.0]}
        self.metrics = {"num_images": 100, **shares, "parameters": {"x": [0.99, 0.98, 1.0]}}

    def rate(self, images, looks, scenes, tells):
        own = (images[:, 0, 0, 2] == looks[:, 1] * 10) & (images[:, 0, 1, 2] == scenes["place"] * 10)
        assert own.all(), "every image is judged by its own prompt's truth"
        return SimpleNamespace(faithful=images[:, 0, 0, 0] > 0, aligned=images[:, 0, 0, 1] > 0)


def rated_sweep(
    num_prompts: int, num_seeds: int, stranger: int | None = None, entities: int = 20
) -> tuple[Sweep, np.ndarray]:
    """A sweep of images for the oracle, and the verdicts [2, P, S, C] written into them."""
    world, etas = World(num_entities=20, num_images=200), (0.0, 0.5, 1.0)
    image = np.zeros((num_prompts, num_seeds, 4, 16, 16, 3), np.uint8)
    verdict = np.random.default_rng(0).random((2, num_prompts, num_seeds, 4)) < 0.5
    image[:, :, :, 0, 0, :2] = np.moveaxis(verdict, 0, -1) * 255
    prompts = []
    for p in range(num_prompts):
        attributes = world.example(p % entities, p // entities, resolution=16)["attributes"]
        known = truth(attributes)
        image[p, :, :, 0, 0, 2], image[p, :, :, 0, 1, 2] = known.look[1] * 10, known.scene["place"] * 10
        prompts.append(prompt(p, attributes={} if p == stranger else attributes))
    return Sweep(tuple(prompts), etas, image, GuidedSamplerConfig(), 0), verdict


@pytest.mark.parametrize("num_seeds", [1, 3])
def test_verdicts_and_curves_belong_to_their_images(num_seeds):
    sweep, verdict = rated_sweep(6, num_seeds)
    ratings = rate(sweep, Oracle())
    np.testing.assert_array_equal(ratings.verdict_VPSC, verdict)
    for curve, verdict_PSC in zip(ratings.curves, verdict, strict=True):
        assert curve.baseline == mean_ci(verdict_PSC[:, :, 0])
        assert list(curve.points) == [mean_ci(verdict_PSC[:, :, 1 + e]) for e in range(3)]
    assert [curve.ceiling for curve in ratings.curves] == [0.9, 1.0]
    assert "100 true images" in ratings.about_rater and "6 prompts" in ratings.note


def test_prompts_about_one_entity_are_drawn_together_for_the_curves_intervals():
    sweep, verdict = rated_sweep(12, 1, entities=4)
    curve = rate(sweep, Oracle()).curves[0]
    assert curve.baseline == mean_ci(verdict[0][:, :, 0], list(range(4)) * 3) != mean_ci(verdict[0][:, :, 0])


def test_prompts_without_truth_are_left_out_of_the_curves():
    sweep, verdict = rated_sweep(4, 1, stranger=2)
    ratings = rate(sweep, Oracle())
    assert ratings.applies_P.tolist() == [True, True, False, True]
    assert not ratings.verdict_VPSC[:, 2].any()
    assert ratings.curves[0].baseline == mean_ci(verdict[0][[0, 1, 3], :, 0])
    assert "1 prompts without" in ratings.note and not why_unrated(sweep.prompts)


def test_a_sweep_is_the_same_whatever_the_order_of_its_columns():
    sweep, _ = rated_sweep(3, 2)
    turned = replace(sweep, etas=sweep.etas[::-1], image_PSCHWC=sweep.image_PSCHWC[:, :, [0, 3, 2, 1]])
    for curve, other in zip(rate(sweep, Oracle()).curves, rate(turned, Oracle()).curves, strict=True):
        assert curve.points == other.points[::-1] and curve.baseline == other.baseline
