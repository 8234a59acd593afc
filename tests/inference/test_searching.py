"""A stage that searches its noise: what it finds, keeps, goes on with, and refuses."""

import copy
import dataclasses
import functools
import json

import jax
import numpy as np
import pytest

from reimagen_jax.diffusion import sampler
from reimagen_jax.errors import UserError
from reimagen_jax.inference import searching
from reimagen_jax.inference.pipeline import Pipeline, Stage
from reimagen_jax.inference.searching import SearchedStage
from reimagen_jax.systems.pixels import to_bytes
from reimagen_jax.systems.reimagen.system import ReImagen
from reimagen_jax.systems.request import Neighbour, Request
from reimagen_jax.systems.seedselect.settings import SeedSelectConfig
from tests.samples import encoded, picture
from tests.seeing import tiny_dual
from tests.tiny import TINY, TINY_SR, random_params

PARAMS = random_params(TINY)
SETTINGS = dataclasses.replace(TINY.system.sampler, k=1)


def reference(seed):
    image = picture(seed, (16, 16))
    return Neighbour(np.asarray(image), f"thing {seed}", float("nan"), f"{seed}.png", encoded(image))


def requests(number=3, references=3):
    """The network sees the first reference."""
    shown = [tuple(reference(10 * i + j) for j in range(references)) for i in range(number)]
    return [Request(f"prompt {i}", group[:1], i, references=group) for i, group in enumerate(shown)]


def stage(folder=None, **settings):
    """Of settings that differ in how long and how far they go, one objective: it compiles once."""
    search = SeedSelectConfig(**{"iterations": 2, "low_pass": 4, **settings})
    made = SearchedStage(TINY, PARAMS, SETTINGS, encoder=tiny_dual(), search=search, batch_size=2, folder=folder)
    if not search.contrast:
        made.objective = copy.copy(_base().objective)
        made.objective.settings = search
    return made


@functools.cache
def _base():
    return SearchedStage(TINY, PARAMS, SETTINGS, encoder=tiny_dual(), search=SeedSelectConfig(low_pass=4), batch_size=2)


def test_it_draws_what_the_plain_stage_draws_and_then_what_is_nearer(tmp_path):
    searched = stage(iterations=4)
    images = searched.draw(requests(), seed=3)
    plain = Stage(TINY, PARAMS, SETTINGS, batch_size=2).draw(requests(), seed=3)
    np.testing.assert_array_equal(np.stack([found.first for found in searched.selected]), plain)
    for image, found in zip(images, searched.selected, strict=True):
        np.testing.assert_array_equal(image, found.image)
        loss = found.facts["loss"]
        assert len(loss) == 5 and loss[found.facts["best"]] == min(loss) < loss[0]
        assert np.linalg.norm(found.x_T) == pytest.approx(768**0.5, rel=1e-4)
        assert found.facts["seconds"] > 0 and len(found.facts["asked"]["references"]) == 3
    # The noise that was found is what draws the image.
    inputs, keys = searched.feed.collate(requests()[:2], SETTINGS), sampler.image_keys(3, [0, 1])

    @jax.jit
    def draw(inputs, x_T):
        return to_bytes(sampler.sample(*ReImagen(TINY).sampling(PARAMS, inputs, keys, SETTINGS)._replace(x_T=x_T)))

    drawn = draw(inputs, np.stack([found.x_T for found in searched.selected[:2]]))
    np.testing.assert_allclose(np.asarray(drawn, int), images[:2].astype(int), atol=1)


def test_what_was_found_is_not_searched_for_again(tmp_path, monkeypatch):
    first = stage(tmp_path).draw(requests(), seed=1)
    told = json.loads((tmp_path / "000001.json").read_text())
    assert told["asked"]["prompt"] == "prompt 1" and len(told["loss"]) == 3

    def refuse(*args, **kwargs):
        raise AssertionError("it is searched for")

    with monkeypatch.context() as patch:
        patch.setattr(searching, "search", refuse)
        np.testing.assert_array_equal(stage(tmp_path).draw(requests(), seed=1), first)
    (tmp_path / "000002.json").unlink()  # as after a stop: the images alone are not enough
    np.testing.assert_array_equal(stage(tmp_path).draw(requests(), seed=1), first)
    with pytest.raises(UserError, match=r"000000\.json was found by other settings"):
        stage(tmp_path, learning_rate=0.2).draw(requests(), seed=1)
    with pytest.raises(UserError, match="other settings, or for another prompt"):
        stage(tmp_path).draw(requests(), seed=2)
    (tmp_path / "000000.npz").write_bytes(b"PK")
    with pytest.raises(UserError, match=r"000000\.npz is damaged"):
        stage(tmp_path).draw(requests(), seed=1)


def test_bootstrap_goes_on_from_a_common_start_with_subsets():
    prompt = requests(1)[0]
    several = [dataclasses.replace(prompt, index=i) for i in range(4)]
    searched = stage(start_iterations=3, iterations=1, subset=2)
    searched.draw(several)
    firsts = [found.first for found in searched.selected]
    assert all(np.array_equal(first, firsts[0]) for first in firsts), "all begin with the common start"
    chosen = [tuple(found.facts["references"]) for found in searched.selected]
    assert all(len(set(some)) == 2 for some in chosen) and len(set(chosen)) > 1
    alone = stage(iterations=3)
    alone.draw(several[:1])
    assert np.abs(alone.selected[0].image.astype(int) - firsts[0]).max() <= 1


def test_contrast_is_between_the_prompts_of_a_search():
    searched = stage(contrast=True, iterations=1)
    searched.draw(requests(3))
    assert all(0 < found.facts["semantic"][0] < 3 * np.log(3) for found in searched.selected)
    with pytest.raises(UserError, match="contrast tells prompts from each other, and there is one"):
        searched.draw(requests(1))


def test_super_resolution_is_run_once_on_what_was_found():
    first, last = stage(), Stage(TINY_SR, random_params(TINY_SR), batch_size=2)
    drawn = Pipeline([first, last], seed=1).draw(requests(2))
    np.testing.assert_array_equal(drawn[0], np.stack([found.image for found in first.selected]))
    starts = [
        dataclasses.replace(each, start=image, references=()) for each, image in zip(requests(2), drawn[0], strict=True)
    ]
    np.testing.assert_array_equal(drawn[1], last.draw(starts, seed=1))


def test_what_cannot_be_searched_is_refused():
    with pytest.raises(UserError, match="no references for 'prompt 0'"):
        stage().draw([dataclasses.replace(requests()[0], references=())])
    with pytest.raises(UserError, match="step_weights are 4, but the sampler has 3 steps"):
        stage(step_weights=(1.0,) * 4)
    with pytest.raises(UserError, match="tiny_sr enlarges images"):
        SearchedStage(TINY_SR, random_params(TINY_SR), encoder=tiny_dual())
