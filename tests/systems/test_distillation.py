"""Distillation: a student begins as its teacher, learns its guidance, is told eta, is evaluated once a step."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from reimagen_jax.config import differences, to_dict
from reimagen_jax.diffusion.settings import DiffusionConfig
from reimagen_jax.errors import UserError
from reimagen_jax.inference.pipeline import Stage
from reimagen_jax.nets import unet
from reimagen_jax.systems import kinds
from reimagen_jax.systems.reimagen.distillation import Distillation
from reimagen_jax.systems.reimagen.settings import DistillationConfig, Distilled, ReImagenConfig
from tests.inference.test_stage import request
from tests.systems.test_reimagen import random_batch
from tests.tiny import TINY, TINY_SR, changed, random_params

DISTILLED = Distilled("tiny", "ab12")
MEAN = dataclasses.replace(TINY.system.sampler, guidance="mean")


def distillation(config=TINY, *, teacher_distilled=False, teacher_steps=1, steps=0, **settings) -> Distillation:
    """The training of a student of a Re-Imagen."""
    fields = {item.name: getattr(config.system, item.name) for item in dataclasses.fields(ReImagenConfig)}
    fields |= {"distilled": dataclasses.replace(DISTILLED, steps=steps)} | settings
    how = {"teacher_distilled": teacher_distilled, "teacher_steps": teacher_steps}
    system = DistillationConfig(**fields, **how)
    return kinds.system_of(dataclasses.replace(config, system=system))


def begun(system: Distillation, seed: int = 0):
    """Parameters of a training that begins: the student's are the teacher's, and those that are new."""
    params = jax.jit(system.init)(jax.random.key(seed))
    teacher = random_params(system.teacher.config, seed)
    conditioning = teacher["unet"]["conditioning"]
    new = {name: leaf for name, leaf in params["student"]["unet"]["conditioning"].items() if name not in conditioning}
    student = {**teacher, "unet": {**teacher["unet"], "conditioning": conditioning | new}}
    return {"teacher": teacher, "student": student}


@pytest.fixture(scope="module")
def student():
    """Parameters of a distilled model, away from the zeros that it begins with."""
    return random_params(changed(TINY, distilled=DISTILLED, sampler=MEAN))


def stage_of(params, **settings) -> Stage:
    config = changed(TINY, distilled=DISTILLED, sampler=dataclasses.replace(MEAN, **settings))
    return Stage(config, params, batch_size=4)


def numbered(index=0, **guidance):
    return dataclasses.replace(request(index), guidance=guidance)


# --- drawing -----------------------------------------------------------------------------------------------------


def test_eta_and_the_weights_are_inputs_of_one_program(student):
    stage = stage_of(student)
    told = [{}, {"eta": 0.0}, {"eta": 1.0}, {"text_weight": 1.0}, {"neighbour_weight": 4.0}]
    drawn = stage.draw([numbered(**each) for each in told])
    assert np.any(drawn[1:] != drawn[0], axis=(1, 2, 3)).all()
    stage.draw([numbered(i, eta=eta) for i, eta in enumerate(np.linspace(0, 1, 11))], seed=1)
    assert stage.compilations == 1


def test_a_step_is_one_evaluation_whatever_eta(student, monkeypatch):
    seen, predict = [], unet.predict

    def counted(net, params, x, t_B, condition):
        seen.append(len(x))
        return predict(net, params, x, t_B, condition)

    monkeypatch.setattr("reimagen_jax.systems.reimagen.system.predict", counted)
    for guidance in ("mean", "stratified", "interleaved"):
        stage = stage_of(student, guidance=guidance)
        stage.draw([numbered(eta=0.3)])
        assert stage.config.system.evaluations(stage.settings) == stage.settings.num_steps
    assert seen == [4] * 3, "a scan traces its body once"
    teacher = TINY.system
    assert [teacher.evaluations(dataclasses.replace(MEAN, guidance=name)) for name in ("mean", "joint")] == [9, 6]


def test_plans_of_all_text_and_of_all_neighbours_are_the_ends_of_the_mean(student):
    for eta in (0.0, 1.0):
        by_mean, by_plan = (
            stage_of(student, guidance=name).draw([numbered(eta=eta)]) for name in ("mean", "stratified")
        )
        np.testing.assert_array_equal(by_mean, by_plan)


def test_without_neighbours_all_is_text(student):
    stage = stage_of(student)
    alone = [request(0, k=0, eta=eta) for eta in (0.0, 0.5, 1.0)]
    drawn = stage.draw(alone)
    assert not np.any(drawn[1:] != drawn[0])


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"guidance": "joint"}, "sampler.guidance is 'joint', which a distilled model has not learned"),
        ({"guidance": "compositional"}, "sampler.guidance is 'compositional'"),
        ({"guidance_rescale": 0.5}, "sampler.guidance_rescale: a distilled model has no plain prediction"),
        ({"text_weight": 3.5}, "sampler.text_weight is 3.5: this model was distilled for 1 to 3"),
        ({"neighbour_weight": 0.5}, "sampler.neighbour_weight is 0.5: this model was distilled for 1 to 5"),
        (
            {"text_weight": 2.5, "guidance_schedule": "linear"},
            "sampler.text_weight is 2.5, rising to 4: this model was distilled for 1 to 3",
        ),
    ],
)
def test_guidance_that_was_not_learned_is_refused(student, settings, said):
    with pytest.raises(UserError, match=said):
        stage_of(student, **settings)


def test_so_is_that_of_a_request(student):
    stage = stage_of(student)
    with pytest.raises(UserError, match=r"sampler\.text_weight is 4: this model was distilled for 1 to 3"):
        stage.draw([numbered(text_weight=4.0)])
    with pytest.raises(UserError, match="not learned to be led away from a negative prompt"):
        stage.draw([dataclasses.replace(numbered(), negative="blue")])


def test_a_range_has_an_order():
    with pytest.raises(UserError, match=r"distilled.text_weights 3 .. 2 is not a range"):
        Distilled(text_weights=(3.0, 2.0))


# --- training ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("steps", [0, 2])
def test_the_student_begins_as_its_teacher(steps):
    system = distillation(sampler=MEAN, steps=steps, teacher_steps=2 if steps else 1)
    params = begun(system)
    sums = jax.jit(system.measure)(params, random_batch(0), jax.random.key(1))
    (loss, number), (untaught, _) = sums["loss"], sums["loss_untaught"]
    assert number == 8 and loss > 1e-3
    np.testing.assert_allclose(loss, untaught, rtol=1e-5)


def test_what_it_learns_is_the_guided_prediction_of_its_teacher():
    """In a few steps on random weights, which guidance changes much; of examples that it has not seen."""
    system = distillation(sampler=MEAN, neighbour_drop=0.0)
    params, optimizer = begun(system), optax.adam(3e-4)
    teacher = params["teacher"]

    @jax.jit
    def step(student, state, batch, key):
        loss = lambda student: system.loss({"teacher": teacher, "student": student}, batch, key)[0]  # noqa: E731
        value, gradient = jax.value_and_grad(loss)(student)
        with jax.numpy_dtype_promotion("standard"):
            updates, state = optimizer.update(gradient, state, student)
        return optax.apply_updates(student, updates), state, value

    student, state = params["student"], optimizer.init(params["student"])
    for i in range(60):
        student, state, _ = step(student, state, random_batch(i, 8), jax.random.key(i))
    measured = jax.jit(system.measure)({"teacher": teacher, "student": student}, random_batch(999), jax.random.key(5))
    assert measured["loss"][0] < 0.75 * measured["loss_untaught"][0]


def test_no_gradient_reaches_the_teacher():
    system = distillation(sampler=MEAN)
    loss = lambda params, batch: system.loss(params, batch, jax.random.key(0))[0]  # noqa: E731
    gradient = jax.jit(jax.grad(loss))(begun(system), random_batch(0))
    assert all(not np.any(leaf) for leaf in jax.tree.leaves(gradient["teacher"]))
    assert any(np.any(leaf) for leaf in jax.tree.leaves(gradient["student"]))


CHAIN = DiffusionConfig(schedule="cosine_chain", prediction="eps", learned_variance=True, weighting="min_snr")


@pytest.mark.parametrize("steps", [0, 2])
@pytest.mark.parametrize(
    "config", [TINY_SR, changed(TINY, diffusion=CHAIN)], ids=["super-resolution", "chain with learned variance"]
)
def test_every_kind_of_re_imagen_can_be_taught(config, steps):
    system = distillation(config, steps=steps, teacher_steps=2 if steps else 1)
    batch = system.batch_spec(2)
    batch = jax.tree.map(lambda leaf: np.ones(leaf.shape, leaf.dtype), batch)
    loss = jax.jit(lambda *args: system.loss(*args)[0])(begun(system), batch, jax.random.key(3))
    assert loss.shape == () and np.isfinite(loss) and loss > 0


def test_a_distilled_teacher_is_told_as_its_student_is():
    """Whose first prediction, of one step for one, is right already."""
    plain = dataclasses.replace(MEAN, thresholding="none")
    system = distillation(sampler=plain, teacher_distilled=True, steps=2)
    params = begun(system)
    assert jax.tree.structure(params["teacher"]) == jax.tree.structure(params["student"])
    sums = jax.jit(system.measure)(params, random_batch(0), jax.random.key(1))
    assert sums["loss"][0] < 1e-4 * 8
    more = distillation(sampler=plain, teacher_distilled=True, steps=2, teacher_steps=3)
    assert jax.jit(more.measure)(params, random_batch(0), jax.random.key(1))["loss"][0] > 1e-3


def test_a_student_of_few_steps_learns_at_their_times_alone():
    few, any_time = distillation(steps=2, teacher_steps=2), distillation()
    times = np.stack(few._times(jax.random.key(0), 8))
    assert times.shape == (3, 8) and set(map(tuple, times.T)) == {(1.0, 0.75, 0.5), (0.5, 0.25, 0.0)}
    assert len(set(np.asarray(any_time._times(jax.random.key(0), 8)[0]).tolist())) == 8
    with pytest.raises(UserError, match="teacher_steps is 2: of how many steps of the student's"):
        distillation(teacher_steps=2)


def test_its_settings_are_json_and_are_opened_as_those_of_a_re_imagen():
    config = distillation(sampler=MEAN).config
    again = kinds.from_dict(to_dict(config))
    assert differences(config, again) == {} and type(again.system) is DistillationConfig
    opened = config.system.opened
    assert type(opened) is ReImagenConfig and opened == changed(TINY, distilled=DISTILLED, sampler=MEAN).system
    assert (
        "tiny (SHA-256 `ab12`)" in kinds.system_of(dataclasses.replace(config, system=opened)).about()["Distilled from"]
    )
    assert jnp.shape(
        jax.eval_shape(kinds.system_of(config).init, jax.random.key(0))["student"]["unet"]["conditioning"]["guidance2"][
            "kernel"
        ]
    ) == (16, 16)
