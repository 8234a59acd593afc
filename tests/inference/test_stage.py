"""A stage: one program for everything, and images that do not depend on their company."""

import dataclasses

import jax
import numpy as np
import pytest

from reimagen_jax.errors import UserError
from reimagen_jax.inference import pipeline
from reimagen_jax.inference.pipeline import Pipeline, Stage
from reimagen_jax.inference.prompts import Prompt
from reimagen_jax.systems import finite
from reimagen_jax.systems.request import Neighbour, Request
from tests.fake_encoder import FROZEN, FakeEncoder
from tests.samples import encoded, picture
from tests.tenant import RINGS, Ring
from tests.tiny import TINY, TINY_SR, changed, random_params

FROZEN_TEXT = dataclasses.replace(TINY.system.text, frozen=FROZEN)


@pytest.fixture(scope="module")
def params():
    return random_params(TINY)


@pytest.fixture(scope="module")
def stage(params):
    """With room for the two neighbours of TINY's training; tests share its program."""
    return Stage(TINY, params, batch_size=4)


def neighbour(seed: int) -> Neighbour:
    file = picture(seed, (32, 32))
    return Neighbour(np.asarray(file.resize((16, 16))), f"neighbour {seed}", 1.0, str(seed), encoded(file))


def request(index: int, eta: float = 0.5, k: int = 2, weight: float = 2.0) -> Request:
    guidance = {"eta": eta, "text_weight": weight, "neighbour_weight": weight}
    return Request(f"prompt {index}", tuple(neighbour(10 * index + j) for j in range(k)), index, guidance)


def test_an_eta_sweep_over_11_values_compiles_once(params):
    stage = Stage(TINY, params, batch_size=4)
    sweep = [request(i, eta) for eta in np.linspace(0, 1, 11) for i in range(2)]
    images = stage.draw(sweep)
    stage.draw([request(i, k=k, weight=w) for i in range(3) for k in (0, 1, 2) for w in (1.0, 4.0)], seed=3)
    assert images.shape == (22, 16, 16, 3) and images.dtype == np.uint8
    assert stage.compilations == 1


def test_who_opens_a_model_again_compiles_nothing_also_for_other_parameters(params):
    """Told from others by what it draws with: other settings, or another system, have a program of their own."""
    config, requests = dataclasses.replace(TINY, name="opened_again"), [request(i) for i in range(4)]
    first, again = (Stage(config, each, batch_size=4, shared=True) for each in (params, random_params(TINY, seed=1)))
    drawn = first.draw(requests)
    assert first.compilations == again.compilations == 1
    other = again.draw(requests)
    assert again.compilations == 1 and np.any(drawn != other)
    np.testing.assert_array_equal(Stage(config, again.params, batch_size=4).draw(requests), other)
    longer = Stage(config, params, TINY.system.sampler.changed(num_steps=4), batch_size=4, shared=True)
    others = [
        Stage(config, params, batch_size=size, devices=at, shared=True)
        for size, at in ((5, ()), (4, jax.devices()[:2]))
    ]
    others += [longer, Stage(TINY_SR, {}, batch_size=4, shared=True)]
    assert [other.compilations for other in others] == [0] * 4


def test_what_cannot_be_hashed_is_not_shared():
    assert pipeline.shared(list, (1,)) is pipeline.shared(list, (1,))
    assert pipeline.shared(list, [1]) is not pipeline.shared(list, [1])


def test_an_image_depends_on_its_request_and_seed_only(stage):
    requests = [request(i, k=i % 3) for i in range(6)]
    together = stage.draw(requests)
    np.testing.assert_array_equal(stage.draw(requests[4:5])[0], together[4])
    np.testing.assert_array_equal(stage.draw(requests[::-1])[::-1], together)
    assert np.any(stage.draw(requests[4:5], seed=1)[0] != together[4])


@pytest.mark.parametrize("number", [1, 2, 8])
def test_devices_side_by_side_draw_what_one_draws(stage, params, number):
    """Bit for bit, at the same batch a device; the last round is not full."""
    requests = [request(i, eta=i / 10, k=i % 3) for i in range(10)]
    beside = Stage(TINY, jax.device_get(params), batch_size=4, devices=jax.devices()[:number])
    np.testing.assert_array_equal(beside.draw(requests), stage.draw(requests))
    assert beside.at_once == 4 * number and beside.compilations == 1


def test_requests_are_taken_as_they_are_drawn(stage):
    taken = []

    def asked():
        for i in range(40):
            taken.append(i)
            yield request(i, k=0)

    drawn = stage.batches(asked(), seed=0)
    together = np.concatenate([next(drawn)[1] for _ in range(3)])
    assert len(taken) <= 4 * 4
    np.testing.assert_array_equal(together, stage.draw([request(i, k=0) for i in range(12)]))
    assert [len(batch) for batch, _ in drawn] == [4] * 7


def test_every_part_of_a_request_matters(stage):
    base = request(1)
    variants = [
        base,
        dataclasses.replace(base, prompt="something else entirely"),
        dataclasses.replace(base, neighbours=base.neighbours[:1]),
        dataclasses.replace(base, neighbours=()),
        dataclasses.replace(base, guidance={**base.guidance, "eta": 0.0}),
        dataclasses.replace(base, index=2),
        dataclasses.replace(base, guidance={**base.guidance, "neighbour_weight": 5.0, "text_weight": 5.0}),
    ]
    images = stage.draw(variants)
    for i in range(1, len(variants)):
        assert np.any(images[0] != images[i]), variants[i]


def test_numbers_that_are_not_given_are_as_in_the_settings(stage):
    own = stage.settings
    given = request(0, own.eta, weight=own.text_weight)
    assert own.text_weight == own.neighbour_weight
    one, other = stage.draw([given, dataclasses.replace(given, guidance={})])
    np.testing.assert_array_equal(one, other)


def test_a_baseline_without_neighbours_equals_masked_ones(stage, params):
    masked = stage.draw([request(0, k=0)])
    imagen = Stage(TINY, params, dataclasses.replace(TINY.system.sampler, k=0), batch_size=4).draw([request(0, k=0)])
    assert np.abs(masked.astype(int) - imagen.astype(int)).max() <= 1


def test_without_neighbours_eta_is_1_whatever_is_asked(stage):
    """Else steps of the other kind would strengthen the text against itself: no guidance at all."""
    etas = (0.0, 0.25, 1.0)
    asked = [request(0, eta, k) for k in (0, 1) for eta in etas] + [dataclasses.replace(request(0, k=0), guidance={})]
    inputs = stage.feed.collate(asked, stage.settings)
    assert inputs.eta_B.tolist() == [1.0, 1.0, 1.0, *etas, 1.0]
    assert inputs.text_weight_B.tolist() == [2.0] * 7


def test_in_a_sweep_a_prompt_that_found_nothing_is_its_baseline_at_every_eta(stage):
    """And that is guided: a weight of 8 draws another image than a weight of 1."""
    nothing = Prompt("zzz")
    drawn = {
        weight: stage.draw([nothing.request(0, eta=eta, text_weight=weight) for eta in (0.0, 0.5, 1.0)])
        for weight in (stage.settings.text_weight, 1.0, 8.0)
    }
    (baseline,) = stage.draw([nothing.baseline(0)])
    np.testing.assert_array_equal(drawn[stage.settings.text_weight], np.stack([baseline] * 3))
    assert np.any(drawn[8.0] != drawn[1.0], axis=(1, 2, 3)).all()


def test_what_a_request_may_not_have_is_refused(stage):
    one = dataclasses.replace(stage.settings, k=1)
    with pytest.raises(UserError, match="at most 1"):
        Stage(TINY, None, one).draw([request(0, k=2)])
    with pytest.raises(UserError, match=r"'weight' is no number of guidance.*eta, text_weight, neighbour_weight"):
        stage.draw([dataclasses.replace(request(0), guidance={"weight": 2.0})])


def test_nothing_asked_is_nothing_drawn_of_the_right_shape(params):
    stage = Stage(TINY, params)
    drawn = stage.draw([])
    assert drawn.shape == (0, 16, 16, 3) and drawn.dtype == np.uint8
    assert stage.compilations == 0


@pytest.mark.parametrize("k", [None, 0, 3])
@pytest.mark.parametrize(
    "config", [TINY, TINY_SR, changed(TINY, text=FROZEN_TEXT)], ids=["base", "stage", "frozen text"]
)
def test_requests_become_what_the_program_is_said_to_take(monkeypatch, config, k):
    monkeypatch.setattr("reimagen_jax.encoders.published.open_text_encoder", lambda settings: FakeEncoder())
    stage = Stage(config, None, dataclasses.replace(config.system.sampler, k=k))
    start = None if config.system.super_resolution is None else np.zeros((16, 16, 3), np.uint8)
    requests = [Request("a prompt", (neighbour(0),) if number and k != 0 else (), start=start) for number in range(2)]
    inputs, spec = stage.feed.collate(requests, stage.settings), stage.system.inputs_spec(2, stage.settings)
    assert jax.tree.structure(inputs) == jax.tree.structure(spec)
    for leaf, expected in zip(jax.tree.leaves(inputs), jax.tree.leaves(spec), strict=True):
        assert (leaf.shape, leaf.dtype) == (expected.shape, expected.dtype)


@pytest.mark.parametrize(
    ("guidance", "said"),
    [
        ({"eta": 1.5}, "sampler.eta is 1.5: at most 1"),
        ({"eta": -0.1}, "sampler.eta is -0.1: at least 0"),
        ({"eta": float("nan")}, "sampler.eta is nan: a finite number"),
        ({"text_weight": float("inf")}, "sampler.text_weight is inf: a finite number"),
        ({"neighbour_weight": -3.0}, "sampler.neighbour_weight is -3.0: at least 0"),
        ({"neighbour_weight": 1e39}, "sampler.neighbour_weight is 1e.39: at most 3.4e.38"),
        ({"text_weight": "2"}, "sampler.text_weight is '2': a number is needed"),
        ({"text_weight": True}, "sampler.text_weight is True: a number is needed"),
    ],
)
def test_guidance_out_of_range_is_refused_by_the_settings_own_rule(stage, guidance, said):
    with pytest.raises(UserError, match=said):
        stage.draw([dataclasses.replace(request(0), guidance=guidance)])


def test_numbers_of_numpy_are_numbers(stage):
    numbers = {"eta": np.float32(0.5), "text_weight": np.float64(2.0), "neighbour_weight": np.int64(2)}
    one, other = stage.draw([dataclasses.replace(request(0), guidance=numbers), request(0)])
    np.testing.assert_array_equal(one, other)


def broken(params):
    """The parameters with one that is not a number, which every image meets."""
    leaves, tree = jax.tree.flatten(params)
    return jax.tree.unflatten(tree, [leaves[0].at[..., 0].set(np.nan), *leaves[1:]])


def test_images_that_are_not_finite_are_an_error_and_never_black(params):
    stage = Stage(TINY, broken(params), batch_size=2)
    with pytest.raises(UserError, match=r"tiny has drawn .* not finite \(2 of 2 .* number 4, 'prompt 4'\).*float16"):
        stage.draw([request(4), request(5), request(6)])
    assert stage.compilations == 1


def test_the_one_image_that_is_not_finite_is_named(stage):
    programs = stage.compilations
    overflowing = {"text_weight": 3e38, "neighbour_weight": 3e38}
    requests = [request(i) for i in range(6)]
    requests[5] = dataclasses.replace(requests[5], guidance=overflowing)
    with pytest.raises(UserError, match=r"not finite \(3 of 4 in a batch, the first is number 5, 'prompt 5'\)"):
        stage.draw(requests)  # the last batch is filled up with its last request
    assert stage.compilations <= max(programs, 1)


def test_what_is_watched_is_the_same_program_every_time():
    """So that a stage made anew finds its own in the compilation cache."""

    def image(x):
        finite.mark(x)
        return x.astype(np.uint8)

    for sample in (image, lambda x: x):
        spec = jax.ShapeDtypeStruct((4, 2), np.float32)
        one, other = (jax.jit(finite.watched(sample)).lower(spec).as_text() for _ in range(2))
        assert one == other and "is_finite" in one


def test_a_stage_of_a_cascade_that_draws_what_is_not_finite_is_named(params):
    second = Stage(TINY_SR, broken(random_params(TINY_SR)), batch_size=2)
    with pytest.raises(UserError, match="tiny_sr has drawn"):
        Pipeline([Stage(TINY, params, batch_size=2), second])([request(0)])


def test_vectors_that_are_not_finite_are_an_error():
    params = jax.tree.map(lambda leaf: leaf * np.nan, Ring(RINGS).init(jax.random.key(0)))
    with pytest.raises(UserError, match=r"rings has drawn .*'inner'"):
        Stage(RINGS, params, batch_size=2).draw([Request("inner"), Request("outer", index=1)])


@pytest.mark.parametrize("seed", [-1, 2**32, 2**64, 1.5, True])
def test_what_is_no_seed_is_refused(stage, seed):
    with pytest.raises(UserError, match=f"seed is {seed}"):
        Pipeline([stage], seed)
