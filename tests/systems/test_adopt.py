"""An experiment that adopts: the network of the weights, everything else its own."""

from dataclasses import replace

import numpy as np
import pytest

from reimagen_jax.config import InitConfig, load_experiment
from reimagen_jax.encoders.settings import FrozenTextConfig
from reimagen_jax.errors import UserError
from reimagen_jax.inference.export import save_weights
from reimagen_jax.inference.model import experiment_of, settled
from reimagen_jax.nets.settings import Level
from reimagen_jax.training.checkpoint import settle
from tests.tiny import TINY, TINY_SR, changed
from tests.training.tiny_system import experiment

FROZEN = FrozenTextConfig(encoder="/their/t5", fingerprint="abc", width=8, max_tokens=4)


def test_the_network_is_theirs_and_how_it_is_computed_and_trained_is_ours():
    levels = (Level(16, 2), Level(32, 2, self_attention=True, neighbour_attention=True))
    model = TINY_SR.system
    theirs = replace(
        model,
        unet=replace(model.unet, levels=levels, activation="gelu"),
        text=replace(model.text, frozen=FROZEN),
        diffusion=replace(model.diffusion, schedule="cosine_chain", prediction="eps", learned_variance=True),
        super_resolution=replace(model.super_resolution, enlarging="linear_corners", blur=0.9),
        sampler=replace(model.sampler, num_steps=9),
        text_drop=0.9,
    )
    ours = replace(
        model,
        unet=replace(model.unet, dtype="bfloat16", remat="blocks"),
        text=replace(model.text, frozen=FrozenTextConfig(encoder="/our/t5")),
        diffusion=replace(model.diffusion, weighting="min_snr"),
    )
    adopted = ours.adopt(theirs)
    assert adopted.unet == replace(theirs.unet, dtype="bfloat16", remat="blocks")
    assert adopted.diffusion == replace(theirs.diffusion, weighting="min_snr")
    assert adopted.text.frozen == replace(FROZEN, encoder="/our/t5")
    assert (adopted.super_resolution.enlarging, adopted.super_resolution.blur) == ("linear_corners", 0.5)
    assert (adopted.sampler, adopted.text_drop) == (ours.sampler, ours.text_drop)
    assert theirs.adopt(theirs) == theirs


def test_a_base_model_and_a_stage_do_not_mix():
    with pytest.raises(UserError, match=r"this is a base model.*are those of a super-resolution stage"):
        TINY.system.adopt(TINY_SR.system)


def test_a_system_adopts_from_its_own_kind_alone_and_only_if_it_knows_how():
    with pytest.raises(UserError, match=r"weights in init\.weights are of a regression"):
        TINY.system.adopt(experiment().system)
    with pytest.raises(UserError, match="a regression does not take its network over from weights"):
        experiment().system.adopt(TINY.system)


def test_weights_are_needed_to_adopt_and_a_run_is_as_good(tmp_path):
    adopting = replace(TINY, name="ours", init=InitConfig(adopt=True))
    with pytest.raises(UserError, match=r"--init\.weights DIR"):
        settled(adopting)
    with pytest.raises(UserError, match="nowhere not found"):
        settled(replace(adopting, init=InitConfig(str(tmp_path / "nowhere"), adopt=True)))
    theirs = changed(TINY, unet=replace(TINY.system.unet, cond_width=32))
    folder = tmp_path / "weights"
    save_weights(folder, theirs, {"not": {"read": np.zeros(1)}})
    assert experiment_of(folder) == theirs
    ours = settled(replace(adopting, init=InitConfig(str(folder), adopt=True)))
    assert ours.system.unet.cond_width == 32
    assert (ours.train, ours.data, ours.name) == (TINY.train, TINY.data, "ours")
    assert settled(TINY) is TINY


def test_a_run_that_adopted_goes_on_when_the_weights_are_gone(tmp_path):
    """Under the name that they had, under another, and where none is given."""
    (tmp_path / "run").mkdir()
    theirs = changed(TINY, unet=replace(TINY.system.unet, cond_width=32))
    save_weights(tmp_path / "weights", theirs, {"not": {"read": np.zeros(1)}})
    ours = changed(TINY, sampler=replace(TINY.system.sampler, num_steps=5))
    for weights in (str(tmp_path / "weights"), str(tmp_path / "gone"), ""):
        adopting = replace(ours, init=InitConfig(weights, adopt=True))
        before = settled(replace(ours, init=InitConfig(str(tmp_path / "weights"), adopt=True)))
        settle(tmp_path / "run", before, "data", None)
        again = settled(adopting, before)
        assert again.system == before.system and again.system.unet.cond_width == 32
        assert settle(tmp_path / "run", again, "data", 2) == before
    with pytest.raises(UserError, match=r"init\.adopt: True != False"):
        settle(tmp_path / "run", replace(again, init=InitConfig()), "data", 2)


@pytest.mark.parametrize("name", ["if_finetune_64", "if_finetune_256"])
def test_the_experiments_from_if_adopt(name):
    config = load_experiment(f"experiments/{name}.py")
    assert config.init.adopt
    assert config.system.adopt(config.system) == config.system
