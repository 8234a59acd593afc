"""Sweeps over grids: one program for all that is traced, every image its own request's, and nothing drawn twice."""

from dataclasses import replace
from pathlib import Path
from typing import get_args

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from reimagen_jax.diffusion.sampler import image_keys
from reimagen_jax.diffusion.settings import Solver
from reimagen_jax.errors import UserError
from reimagen_jax.evaluation import grids
from reimagen_jax.evaluation.axes import axes_of
from reimagen_jax.evaluation.grids import Asked, about, draw, plan
from reimagen_jax.evaluation.store import Images
from reimagen_jax.inference.model import Model
from reimagen_jax.inference.pipeline import Pipeline
from reimagen_jax.inference.prompts import Prompt
from reimagen_jax.systems.pixels import to_bytes
from reimagen_jax.systems.reimagen.system import ReImagen
from reimagen_jax.systems.request import Neighbour
from tests.tiny import TINY, TINY_SR, random_params

TRACED = [
    "eta=1,0",
    "text-weight=2,3",
    "guidance-rescale=0,0.7",
    "guidance-interval=none,0.2:0.8",
    "k=2,0",
    "seed=0,1",
    "words=cat,dog",
    "negative=blurry,grey",
]


@pytest.fixture(scope="module")
def params():
    return random_params(TINY)


def other(params, number: int):
    """Other weights."""
    return jax.tree.map(lambda leaf: leaf + 0.1 * number, params)


def sketched(self, params, inputs, keys_B, settings):
    """Images that depend on all that a Re-Imagen is told, and compile at once."""
    seen = jnp.where(inputs.nbr_mask_BK[..., None, None, None], inputs.nbr_image_BKHWC, 0).astype(jnp.float32)
    numbers = [inputs.eta_B, 0.1 * inputs.text_weight_B, 0.1 * inputs.neighbour_weight_B]
    numbers += [
        inputs.tokens_BL.sum(axis=1).astype(jnp.float32) * 1e-4,
        0.1 * inputs.nbr_mask_BK.sum(axis=1).astype(jnp.float32),
    ]
    if inputs.guidance_rescale_B is not None:
        numbers.append(inputs.guidance_rescale_B)
    noise = jax.vmap(lambda key: jax.random.normal(key, (16, 16, 3)))(keys_B)
    own = 0.1 * params["text"]["embed"]["embedding"].mean() + 0.01 * settings.num_steps
    told = (0.1 * sum(numbers) + own)[:, None, None, None]
    return to_bytes(0.2 * noise + seen.sum(axis=1) / 1000.0 + told)


@pytest.fixture
def quick(monkeypatch):
    """For what is about the grid and not about the pictures."""
    monkeypatch.setattr(ReImagen, "sample", sketched)


@pytest.fixture(scope="module")
def model(params):
    return Model(Path("tiny"), TINY, params, None)


def neighbour(seed: int) -> Neighbour:
    image = np.random.default_rng(seed).integers(0, 256, (16, 16, 3), dtype=np.uint8)
    return Neighbour(image, f"near {seed}", 1.0, str(seed))


PROMPTS = [
    Prompt("a cat on a mat", (neighbour(0), neighbour(1)), query="cat"),
    Prompt("cat in the snow", (neighbour(2),)),
]


def keep(prompts, method, most):
    """The neighbours that the prompts have."""
    return list(prompts)


def grid_of(model, *over: str, **asked):
    return plan(
        axes_of(list(over)), Asked(**{"model": model, "prompts": PROMPTS, "find": keep, "batch_size": 4, **asked})
    )


def everything(grid, images):
    return np.stack([grid.images_of(point, images) for point in grid.points])


def counted(grid, monkeypatch):
    """How many images the programs of a grid are asked for, as they are."""
    asked = []
    drawn = Pipeline.draw

    def draw_and_count(self, requests, what="sampling"):
        asked.extend(requests)
        return drawn(self, requests, what)

    monkeypatch.setattr(Pipeline, "draw", draw_and_count)
    return asked


def test_all_that_is_traced_shares_one_program(model):
    grid = grid_of(model, *TRACED, prompts=PROMPTS[:1], batch_size=64)
    draw(grid, images := Images())
    assert len(grid.points) == 2**8
    assert [program.stage.compilations for program in grid.programs] == [1]
    first = {axis.name: axis.values[0] for axis in grid.axes}
    by_values = {tuple(point.values.values()): grid.images_of(point, images) for point in grid.points}
    for axis in grid.axes:
        other = by_values[tuple((first | {axis.name: axis.values[1]}).values())]
        assert np.any(by_values[tuple(first.values())] != other), f"{axis.name} matters"


def test_what_is_not_traced_is_a_program_each_compiled_once(quick, model):
    grid = grid_of(model, "eta=0,1", "steps=1,2", "guidance=interleaved,compositional")
    draw(grid, images := Images())
    assert len(grid.points) == 8 and len(grid.programs) == 4
    assert [program.stage.compilations for program in grid.programs] == [1] * 4
    assert all(grid.seconds(program, images) > 0 for program in grid.programs)


@pytest.mark.parametrize(
    ("solver", "guidance"),
    [*((solver, "joint") for solver in get_args(Solver)), ("ddim", "interleaved"), ("heun", "compositional")],
)
def test_evaluations_are_those_that_the_sampler_makes(model, params, monkeypatch, guidance, solver):
    """Counted while it runs, not in the program as it is traced: the last step of Heun's method makes one only."""
    grid = grid_of(model, "steps=3", "k=0", f"solver={solver}", f"guidance={guidance}")
    program, counts = grid.programs[0], []

    def denoise(x, t, condition):
        jax.debug.callback(lambda: counts.append(len(x)))
        return 0.1 * x

    monkeypatch.setattr(ReImagen, "denoiser", lambda self, params: denoise)
    stage = program.stage
    inputs = jax.tree.map(jnp.asarray, stage.feed.collate(grid.points[0].requests[:1], stage.settings))
    jax.jit(stage.system.sample, static_argnums=3)(params, inputs, image_keys(0, [0]), stage.settings)
    jax.effects_barrier()
    assert program.evaluations == sum(counts)


def test_every_image_is_the_one_that_its_request_draws(model):
    grid = grid_of(model, "eta=0,0.5", "seed=3,4", "k=1,2", num_images=2)
    draw(grid, images := Images())
    point = next(p for p in grid.points if p.values == {"eta": 0.5, "seed": 4, "k": 1})
    stage = model.stage(replace(TINY.system.sampler, k=2), 4)
    shorter = replace(PROMPTS[0], neighbours=PROMPTS[0].neighbours[:1])
    asked = [shorter.request(1, eta=0.5), PROMPTS[1].request(2, eta=0.5)]
    expected = Pipeline([stage], seed=4)(asked)
    drawn = grid.images_of(point, images)
    np.testing.assert_array_equal(np.stack([drawn[0, 1], drawn[1, 0]]), expected)
    assert point.settings == replace(TINY.system.sampler, k=2, eta=0.5)


def test_devices_draw_side_by_side_what_one_draws(quick, model):
    one, several = (grid_of(model, "eta=0,0.5,1", "seed=1,2", devices=some) for some in ((), jax.local_devices()[:2]))
    draw(one, alone := Images())
    draw(several, together := Images())
    assert [program.stage.at_once for program in several.programs] == [2 * 4]
    assert [program.stage.compilations for program in several.programs] == [1]
    np.testing.assert_array_equal(everything(one, alone), everything(several, together))


def test_noise_is_the_same_along_each_row(model):
    grid = grid_of(model, "eta=0,1", "steps=1,2", num_images=2)
    assert {tuple(request.index for request in point.requests) for point in grid.points} == {(0, 1, 2, 3)}


def test_a_killed_sweep_goes_on_and_is_the_same(quick, model, tmp_path, monkeypatch):
    over = ("eta=0,0.5,1", "steps=1,2")
    grid = grid_of(model, *over)
    draw(grid, whole := Images(tmp_path / "whole"))

    class Killed(BaseException):
        pass

    stored = []
    setter = Images.__setitem__

    def killed(self, key, image):
        if len(stored) == 6:  # in the second batch
            raise Killed
        stored.append(key)
        setter(self, key, image)

    monkeypatch.setattr(Images, "__setitem__", killed)
    with pytest.raises(Killed):
        draw(grid_of(model, *over), Images(tmp_path / "killed"))
    monkeypatch.setattr(Images, "__setitem__", setter)
    again = grid_of(model, *over)
    requests = counted(again, monkeypatch)
    draw(again, resumed := Images(tmp_path / "killed"))
    np.testing.assert_array_equal(everything(again, resumed), everything(grid, whole))
    timed = 2 * 4  # of each program that was not timed before, a batch
    assert len(requests) <= 12 - 6 + timed

    requests.clear()
    draw(grid_of(model, *over), Images(tmp_path / "killed"))
    assert requests == []


def test_added_values_alone_are_drawn(quick, model, tmp_path, monkeypatch):
    images = Images(tmp_path)
    draw(grid_of(model, "eta=0,1"), images)
    before = {path.name: path.read_bytes() for path in tmp_path.glob("*.png")}
    requests = counted(None, monkeypatch)
    draw(grid_of(model, "eta=0,0.5,1", "guidance-rescale=0", "guidance-interval=none", "seed=0"), images)
    assert [request.guidance["eta"] for request in requests] == [0.5, 0.5], "new axes at what they were are not new"
    assert before.items() <= {path.name: path.read_bytes() for path in tmp_path.glob("*.png")}.items()


def test_what_draws_the_same_is_drawn_once(quick, model, monkeypatch):
    requests = counted(None, monkeypatch)
    grid = grid_of(model, "k=0", "eta=0,0.5,1", batch_size=1)  # without neighbours eta is 1, whatever is asked
    draw(grid, Images())
    assert len(requests) == 2 and len({point.keys for point in grid.points}) == 1


@pytest.mark.parametrize(
    "change",
    [
        {"prompts": [replace(PROMPTS[0], text="another"), PROMPTS[1]]},
        {"prompts": [replace(PROMPTS[0], negative="grey"), PROMPTS[1]]},
        {"prompts": [replace(PROMPTS[0], neighbours=PROMPTS[0].neighbours[::-1]), PROMPTS[1]]},
        {"prompts": [replace(PROMPTS[0], neighbours=(replace(neighbour(0), text="x"), neighbour(1))), PROMPTS[1]]},
        {"seed": 1},
        {"settings": {"ddim_noise": 0.5}},
        {"settings": {"neighbour_weight": 7.0}},
    ],
)
def test_images_are_stored_by_all_that_they_depend_on(model, change):
    asked = {"model": model, "prompts": PROMPTS, "find": keep}
    one, other = (plan(axes_of(["eta=0.5"]), Asked(**{**asked, **more})) for more in ({}, change))
    assert one.points[0].keys[0] != other.points[0].keys[0]


@pytest.mark.parametrize("change", [{"eta": 0.1}, {"k": 0}, {"num_steps": 9}, {"aug_level": 0.3}])
def test_images_of_a_cascade_depend_on_all_settings_of_its_later_stages(change):
    models = [Model(Path(each.name), each, {"w": np.zeros(3, np.float32)}, None) for each in (TINY, TINY_SR)]
    first, later = TINY.system.sampler, TINY_SR.system.sampler
    assert about(models, [first, later]) != about(models, [first, replace(later, **change)])


def test_other_weights_are_other_images(model, params):
    moved = Model(Path("other"), TINY, other(params, 5), None)
    assert grid_of(model, "eta=0").points[0].keys != grid_of(moved, "eta=0").points[0].keys


def test_words_take_each_others_place_and_neighbours_are_found_anew(model):
    asked = []

    def find(prompts, method, most):
        asked.append(([each.query or each.text for each in prompts], method, most))
        return [replace(each, neighbours=(neighbour(len(asked)),)) for each in prompts]

    prompts = [replace(each, neighbours=(), attributes={"look": 1}) for each in PROMPTS]
    grid = plan(axes_of(["words=cat,big dog", "k=1"]), Asked(model, prompts, find))
    assert [[each.text for each in point.prompts] for point in grid.points] == [
        ["a cat on a mat", "cat in the snow"],
        ["a big dog on a mat", "big dog in the snow"],
    ]
    assert asked == [(["cat", "cat in the snow"], None, 1), (["big dog", "big dog in the snow"], None, 1)]
    assert [bool(point.prompts[0].attributes) for point in grid.points] == [True, False], "of what is not asked for"


def test_methods_of_search_share_a_program(quick, model):
    def find(prompts, method, most):
        return [replace(each, neighbours=(neighbour(len(method)),)) for each in prompts]

    grid = plan(axes_of(["method=lexical,dense,hybrid"]), Asked(model, PROMPTS, find, batch_size=4))
    draw(grid, images := Images())
    drawn = everything(grid, images)
    assert [program.stage.compilations for program in grid.programs] == [1]
    assert np.any(drawn[0] != drawn[1]) and np.any(drawn[1] != drawn[2])


def test_checkpoints_are_programs_of_their_own(quick, model, params):
    opened = []

    def opener(name):
        opened.append(name)
        return Model(Path(name), TINY, other(params, int(name)), int(name))

    grid = grid_of(model, "eta=0,1", "checkpoint=1,2", open=opener)
    draw(grid, images := Images())
    assert opened == ["1", "2"] and len(grid.programs) == 2
    drawn = everything(grid, images)
    assert np.any(drawn[0] != drawn[1])
    alone = grid_of(opener("2"), "eta=1")
    draw(alone, own := Images())
    np.testing.assert_array_equal(drawn[3], everything(alone, own)[0])


def test_a_sweep_says_what_it_will_draw_and_how_long_it_takes(quick, model, capsys):
    draw(grid_of(model, "eta=0,0.5,1", "steps=1,2", batch_size=2), images := Images())
    first, second = capsys.readouterr().out.splitlines()
    assert first == "6 points, 12 images: 2 programs to compile" and second.startswith("about ")
    draw(grid_of(model, "eta=0,0.5,1", "steps=1,2", batch_size=2), images)
    assert capsys.readouterr().out == "6 points, 12 images, 12 of them there already: 0 programs to compile\n"


@pytest.mark.parametrize(
    ("over", "said"),
    [
        (["words=fox,dog"], "--over words: 'fox', the first value, is not in the prompt 'a cat on a mat'"),
        (["eta=0", "spacing=even,trailing"], "--over, at η 0, spacing trailing: .*no chain"),
        (["checkpoint=7"], "--over checkpoint 7: there is none"),
        (["checkpoint=sr"], "--over checkpoint sr draws 32 pixels, --model 16"),
    ],
)
def test_what_cannot_be_drawn_is_refused_before_anything_is(model, over, said):
    def opener(name):
        if name == "sr":
            return Model(Path(name), TINY_SR, None, None)
        raise UserError("there is none")

    with pytest.raises(UserError, match=said):
        grid_of(model, *over, open=opener)


def test_a_damaged_image_is_named(tmp_path):
    images = Images(tmp_path)
    images["a"] = np.zeros((4, 4, 3), np.uint8)
    np.testing.assert_array_equal(images["a"], 0)
    (tmp_path / "a.png").write_bytes((tmp_path / "a.png").read_bytes()[:40])
    with pytest.raises(UserError, match=r"a\.png is damaged"):
        images["a"]


@pytest.mark.parametrize(("seconds", "said"), [(3, "3 seconds"), (600, "10 minutes"), (7200, "2.0 hours")])
def test_durations_in_words(seconds, said):
    assert grids.duration(seconds) == said


def test_what_is_asked_of_the_times_sets_their_number(model):
    """As everywhere that settings are given: by `SamplerConfig.changed`."""
    grid = grid_of(model, "eta=0,1", settings={"times": (0.9, 0.4)})
    assert {point.settings.num_steps for point in grid.points} == {2}
    with pytest.raises(UserError, match=r"sampler\.times lists 2, but sampler\.num_steps is 3"):
        grid_of(model, "steps=3", settings={"times": (0.9, 0.4)})
