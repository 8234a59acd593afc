"""A stage that tells of every step: its images are those of the stage that does not, bit for bit."""

import jax
import numpy as np
import pytest

from reimagen_jax.inference.pipeline import Pipeline, Stage
from reimagen_jax.inference.stepping import SteppedStage, stepped
from reimagen_jax.systems.request import Edit, Neighbour, Request
from tests import rcg
from tests.mage import MAGE
from tests.samples import picture
from tests.systems import test_mage, test_unclip
from tests.tiny import TINY, TINY_SR, random_params
from tests.unclip import AR_PRIOR, PRIOR, neighbour

SIDE = TINY.system.resolution
NEIGHBOURS = tuple(Neighbour(np.asarray(picture(j, (SIDE, SIDE))), f"neighbour {j}", 1.0, str(j)) for j in range(2))
REQUESTS = [
    Request("a cat"),
    *(Request("a cat", NEIGHBOURS, i, {"eta": i / 2, "text_weight": 3.0}) for i in range(3)),
]


@pytest.fixture(scope="module")
def params():
    return random_params(TINY)


@pytest.mark.parametrize("solver", ["ddpm", "dpmpp_2m"])
def test_images_are_equal_and_every_step_is_told(params, solver):
    settings, told = TINY.system.sampler.changed(solver=solver), []
    whole = Stage(TINY, params, settings, batch_size=3)
    steps = SteppedStage(TINY, params, settings, batch_size=3, tell=lambda *step: told.append(step))
    assert np.array_equal(whole.draw(REQUESTS, 5), steps.draw(REQUESTS, 5))
    assert told == [(0, 3), (1, 3), (2, 3), (3, 3)] * 2, "two batches"
    before = steps.compilations
    others = [Request("a dog", NEIGHBOURS[:1], 7, {"eta": 0.7, "neighbour_weight": 4.0})]
    assert np.array_equal(whole.draw(others, 6), steps.draw(others, 6))
    assert steps.compilations == before == 1, "what is asked changes no program"


@pytest.mark.parametrize(
    ("config", "made", "asked", "number"),
    [
        (MAGE, test_mage.random_params, [Request(neighbours=(neighbour(i),), index=i) for i in range(3)], 3),
        (AR_PRIOR, test_unclip.random_params, [Request("a cat", index=i) for i in range(3)], AR_PRIOR.system.dims),
        (PRIOR, test_unclip.random_params, [Request("a cat", index=i) for i in range(3)], 3),
        (rcg.CLASS_RDM, rcg.random_params, [Request("cat", index=i) for i in range(3)], 4),
    ],
    ids=lambda value: getattr(value, "name", ""),
)
def test_what_draws_no_images_or_by_no_diffusion_takes_steps_too(config, made, asked, number):
    whole, told = Stage(config, made(config), batch_size=2), []
    steps = stepped(whole, lambda *step: told.append(step))
    drawn = steps.draw(asked, 5)
    assert np.array_equal(whole.draw(asked, 5), drawn)
    assert told == [(i, number) for i in range(number + 1)] * 2, "two batches"
    assert len({each.tobytes() for each in drawn}) == 3


def test_edits_and_negative_prompts_have_programs_of_their_own(params):
    whole, steps = (kind(TINY, params, batch_size=2) for kind in (Stage, SteppedStage))
    image = np.asarray(picture(9, (SIDE, SIDE)))
    mask = np.zeros((4, 4), np.uint8)
    mask[1:] = 255
    asked = [
        [Request("a cat", NEIGHBOURS, 0)],
        [Request("a cat", NEIGHBOURS, 0, edit=Edit(image, mask, 0.8))],
        [Request("a cat", NEIGHBOURS, 0, negative="a dog")],
    ]
    drawn = [(whole.draw(requests), steps.draw(requests)) for requests in [*asked, *asked]]
    assert all(np.array_equal(a, b) for a, b in drawn)
    assert len({a.tobytes() for a, _ in drawn}) == 3


def test_a_cascade_of_such_stages(params):
    enlarging = random_params(TINY_SR, 1)
    of = [(TINY, params), (TINY_SR, enlarging)]
    asked = [Request("a cat", (), 4)]
    drawn = [Pipeline([kind(*each, batch_size=1) for each in of], 2).draw(asked) for kind in (Stage, SteppedStage)]
    assert all(np.array_equal(a, b) for a, b in zip(*drawn, strict=True))


def test_what_is_raised_ends_the_drawing_between_two_steps(params):
    told = []

    def tell(step, steps):
        told.append(step)
        if step == 1:
            raise InterruptedError

    stage = SteppedStage(TINY, params, batch_size=3, tell=tell)
    with pytest.raises(InterruptedError):
        stage.draw(REQUESTS)
    assert told == [0, 1]
    stage.tell = lambda *step: None
    assert np.array_equal(stage.draw(REQUESTS), Stage(TINY, params, batch_size=3).draw(REQUESTS))


def test_a_stage_becomes_one_where_it_takes_steps(params):
    stage = Stage(TINY, params, batch_size=3)
    assert isinstance(stepped(stage, lambda *step: None), SteppedStage)
    spread = Stage(TINY, params, batch_size=3, devices=jax.devices()[:2])
    assert stepped(spread, lambda *step: None) is spread
