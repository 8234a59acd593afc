"""Where nothing was found, an image is the baseline, whatever eta says: in sweeps, in training's grid, from Python.

The other kind of guidance would compare the full condition with itself: no guidance at all.
"""

import dataclasses

import numpy as np
import pytest

import reimagen_jax as rj
from reimagen_jax.evaluation.sweeps import draw_sweep
from reimagen_jax.inference.model import Model
from reimagen_jax.inference.pipeline import Pipeline, Stage
from reimagen_jax.inference.prompts import Prompt
from reimagen_jax.systems.reimagen.feed import ReImagenFeed
from tests.reports.test_previews import batch
from tests.tiny import TINY, random_params


@pytest.fixture(scope="module")
def params():
    return random_params(TINY)


def swept(params, weight):
    settings = dataclasses.replace(TINY.system.sampler, text_weight=weight, neighbour_weight=weight)
    pipeline = Pipeline([Stage(TINY, params, settings, batch_size=4)])
    return draw_sweep(pipeline, [Prompt("zzz")], [0.0, 0.5, 1.0], 1).image_PSCHWC[0, 0]


def test_every_column_of_a_sweep_is_the_guided_baseline(params):
    strong, plain = swept(params, 8.0), swept(params, 1.0)
    for column in strong:
        np.testing.assert_array_equal(column, strong[0])
    assert np.abs(strong.astype(int) - plain.astype(int)).mean(axis=(1, 2, 3)).min() > 1.0, "the weight counts"


def test_drawn_from_python(params, tmp_path):
    model = Model(tmp_path, TINY, params, None)
    drawn = [rj.draw(model, [Prompt("zzz")], eta=eta, text_weight=8.0).image_PSHWC for eta in (0.0, 1.0)]
    np.testing.assert_array_equal(*drawn)


def test_the_grid_that_training_draws_guides_examples_without_neighbours_by_text():
    drawn = ReImagenFeed(TINY).preview(batch(0, 1, [[True, False], [False, False]])).drawn
    assert drawn["with neighbours"].eta_B.tolist() == [TINY.system.sampler.eta, 1.0]
    assert drawn["without neighbours"].eta_B.tolist() == [1.0, 1.0]
