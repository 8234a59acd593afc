"""Guidance by its settings: one program each for all numbers that a sweep varies; negative prompts."""

import dataclasses

import jax.numpy as jnp
import numpy as np
import pytest

from reimagen_jax.encoders.texts import Embedded
from reimagen_jax.errors import UserError
from reimagen_jax.inference.pipeline import Stage
from reimagen_jax.inference.prompts import Prompt
from reimagen_jax.nets.unet import Condition
from reimagen_jax.systems.reimagen.condition import drop
from reimagen_jax.systems.reimagen.system import ReImagen
from tests.fake_encoder import FROZEN
from tests.inference.test_stage import request
from tests.tiny import TINY, changed, random_params


@pytest.fixture(scope="module")
def params():
    return random_params(TINY)


def stage_of(params, **settings) -> Stage:
    return Stage(TINY, params, dataclasses.replace(TINY.system.sampler, **settings), batch_size=4)


def differ(images) -> np.ndarray:
    """Which images are others than the first."""
    return np.any(images[1:] != images[0], axis=(1, 2, 3))


def numbered(**guidance):
    return dataclasses.replace(request(0), guidance=guidance)


def test_numbers_of_guidance_are_traced_and_each_of_them_matters(params):
    stage = stage_of(params, guidance="stratified", guidance_rescale=0.0, guidance_interval=(0.0, 1.0))
    numbers = [
        {},
        {"eta": 0.0},
        {"eta": 1.0},
        {"text_weight": 6.0},
        {"neighbour_weight": 6.0},
        {"guidance_rescale": 1.0},
        {"guidance_interval": (0.5, 0.9)},
    ]
    drawn = stage.draw([numbered(**each) for each in numbers])
    assert differ(drawn).all() and stage.compilations == 1
    plain = stage.draw([numbered(text_weight=1.0, neighbour_weight=1.0), numbered(guidance_interval=(0.9, 0.95))])
    assert not differ(plain).any(), "no step's time lies in the interval"


def test_compositional_without_neighbours_is_joint_and_its_weights_are_both_heard(params):
    alone = [request(0, k=0, weight=4.0)]
    joint, both = (stage_of(params, guidance=name) for name in ("joint", "compositional"))
    by_joint, by_both = (stage.draw(alone)[0].astype(int) for stage in (joint, both))
    assert np.abs(by_joint - by_both).max() <= 1
    numbers = [numbered(), numbered(text_weight=6.0), numbered(neighbour_weight=6.0), numbered(eta=0.0)]
    assert differ(both.draw(numbers)).tolist() == [True, True, False]
    assert differ(joint.draw(numbers)).tolist() == [True, False, False]


def test_what_is_not_in_the_settings_no_request_has(params):
    stage = stage_of(params)
    for guidance in ({"guidance_rescale": 0.5}, {"guidance_interval": (0.1, 0.9)}):
        with pytest.raises(UserError, match=f"{next(iter(guidance))} of its own, but sampler.* is not set"):
            stage.draw([numbered(**guidance)])
    stage = stage_of(params, guidance_interval=(0.0, 1.0))
    for interval, said in (((0.9, 0.1), "not a range"), ((0.0, 1.5), "at most 1"), (0.5, "is 0.5")):
        with pytest.raises(UserError, match=f"sampler.guidance_interval.*{said}"):
            stage.draw([numbered(guidance_interval=interval)])


def test_a_request_is_drawn_by_the_same_numbers_given_by_itself_or_by_the_settings(params):
    inputs = stage_of(params, guidance_rescale=0.3, guidance_interval=(0.2, 0.7)).feed
    inputs = inputs.collate(
        [numbered(), numbered(guidance_rescale=0.6)],
        stage_of(params, guidance_rescale=0.3, guidance_interval=(0.2, 0.7)).settings,
    )
    np.testing.assert_array_equal(inputs.guidance_rescale_B, np.float32([0.3, 0.6]))
    np.testing.assert_array_equal(inputs.guidance_interval_B2, np.float32([[0.2, 0.7]] * 2))


# --- negative prompts --------------------------------------------------------------------------------------------


def test_a_negative_prompt_is_led_away_from_where_the_text_is_strengthened(params):
    stage = stage_of(params)

    def drawn(negatives, **guidance):
        return stage.draw([dataclasses.replace(numbered(**guidance), negative=each) for each in negatives])

    images = drawn(["", "blue", "green", ""], eta=1.0, text_weight=4.0)
    assert differ(images).tolist() == [True, True, False] and np.any(images[1] != images[2])
    np.testing.assert_array_equal(drawn([""] * 4, eta=1.0, text_weight=4.0)[0], images[0])
    for nothing in ({"eta": 0.0}, {"eta": 1.0, "text_weight": 1.0}):
        assert not differ(drawn(["", "blue"], **nothing)).any()
    own = drawn(["prompt 0", ""], eta=1.0, text_weight=4.0)[0]
    np.testing.assert_array_equal(own, drawn(["", ""], eta=1.0, text_weight=1.0)[0], "away from itself: no guidance")


def test_prompts_hand_their_negative_on(tmp_path):
    from reimagen_jax.inference.prompts import from_file

    prompt = Prompt("a cat", negative="a dog")
    assert prompt.request(3).negative == prompt.baseline(3).negative == "a dog"
    (tmp_path / "p.jsonl").write_text('{"text": "a cat", "negative": " a dog ", "entity": "x"}\n{"text": "b"}\n')
    first, second = from_file(tmp_path / "p.jsonl")
    assert (first.negative, second.negative, dict(first.attributes)) == ("a dog", "", {"entity": "x"})
    (tmp_path / "bad.jsonl").write_text('{"text": "a cat", "negative": 3}\n')
    with pytest.raises(UserError, match=r"bad.jsonl:1: negative is 3, a text is expected"):
        from_file(tmp_path / "bad.jsonl")


def test_where_a_text_is_dropped_the_negative_one_comes_with_its_own_mask():
    text, negative = jnp.ones((2, 3, 1)), jnp.full((2, 3, 1), 2.0)
    mask, negative_mask = jnp.asarray([[True, True, False]] * 2), jnp.asarray([[True, False, False]] * 2)
    told = Condition(text, mask, empty_text_BLD=negative, empty_mask_BL=negative_mask)
    dropped = drop(told, jnp.asarray([True, False]), jnp.zeros(2, bool))
    np.testing.assert_array_equal(dropped.text_BLD[:, 0, 0], [2.0, 1.0])
    np.testing.assert_array_equal(dropped.text_mask_BL, [[True, False, False], [True, True, False]])


def test_where_the_empty_text_is_embedded_a_negative_one_takes_its_place():
    """As in DeepFloyd IF; samples that have none keep the model's empty text, and their own mask."""
    system = ReImagen(changed(TINY, text=dataclasses.replace(TINY.system.text, frozen=FROZEN)))
    texts, mask = jnp.ones((2, 3, 1)), jnp.asarray([[True, True, False]] * 2)
    negative = Embedded(2.0 * texts, jnp.asarray([[True, False, False], [False] * 3]))
    told = system.against(Condition(texts, mask, empty_text_BLD=7.0 * texts), {}, negative)
    np.testing.assert_array_equal(told.empty_text_BLD[:, 0, 0], [2.0, 7.0])
    np.testing.assert_array_equal(told.empty_mask_BL, [[True, False, False], [True, True, False]])
