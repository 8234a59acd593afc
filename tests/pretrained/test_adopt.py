"""An experiment that adopts: the network of the weights, everything else its own; and models to hand on."""

from dataclasses import replace

import jax
import numpy as np
import pytest

from reimagen_jax.config import FrozenTextConfig, InitConfig, Level, from_json, load_experiment
from reimagen_jax.errors import UserError
from reimagen_jax.pretrained.adopt import adopt, experiment_of, settled
from reimagen_jax.pretrained.export import CARD, export, model_card
from reimagen_jax.pretrained.weights import EXPERIMENT, load_weights, save_weights
from reimagen_jax.systems.reimagen import ReImagen
from tests.tiny import TINY, TINY_SR

FROZEN = FrozenTextConfig(encoder="/their/t5", fingerprint="abc", width=8, max_tokens=4)


def test_the_network_is_theirs_and_how_it_is_computed_and_trained_is_ours():
    levels = (Level(16, 2), Level(32, 2, self_attention=True, neighbour_attention=True))
    theirs = replace(
        TINY_SR,
        unet=replace(TINY_SR.unet, levels=levels, activation="gelu"),
        text=replace(TINY_SR.text, frozen=FROZEN),
        diffusion=replace(TINY_SR.diffusion, schedule="cosine_chain", prediction="eps", learned_variance=True),
        super_resolution=replace(TINY_SR.super_resolution, enlarging="linear_corners", blur=0.9),
        train=replace(TINY_SR.train, seed=9),
    )
    ours = replace(
        TINY_SR,
        name="ours",
        unet=replace(TINY_SR.unet, dtype="bfloat16", remat="blocks"),
        text=replace(TINY_SR.text, frozen=FrozenTextConfig(encoder="/our/t5")),
        diffusion=replace(TINY_SR.diffusion, weighting="min_snr"),
    )
    adopted = adopt(ours, theirs)
    assert adopted.unet == replace(theirs.unet, dtype="bfloat16", remat="blocks")
    assert adopted.diffusion == replace(theirs.diffusion, weighting="min_snr")
    assert adopted.text.frozen == replace(FROZEN, encoder="/our/t5")
    assert (adopted.super_resolution.enlarging, adopted.super_resolution.blur) == ("linear_corners", 0.5)
    assert (adopted.train, adopted.data, adopted.sampler, adopted.name) == (ours.train, ours.data, ours.sampler, "ours")
    assert adopt(theirs, theirs) == theirs


def test_a_base_model_and_a_stage_do_not_mix():
    with pytest.raises(UserError, match=r"tiny is a base model.*tiny_sr, are those of a super-resolution stage"):
        adopt(TINY, TINY_SR)


def test_weights_are_needed_to_adopt_and_a_run_is_as_good(tmp_path):
    adopting = replace(TINY, name="ours", init=InitConfig(adopt=True))
    with pytest.raises(UserError, match=r"--init\.weights DIR"):
        settled(adopting)
    with pytest.raises(UserError, match="nowhere not found"):
        settled(replace(adopting, init=InitConfig(str(tmp_path / "nowhere"), adopt=True)))
    theirs = replace(TINY, unet=replace(TINY.unet, cond_width=32))
    folder = tmp_path / "weights"
    save_weights(folder, theirs, {"not": {"read": np.zeros(1)}})
    assert experiment_of(folder) == theirs
    assert settled(replace(adopting, init=InitConfig(str(folder), adopt=True))).unet.cond_width == 32
    assert settled(TINY) is TINY


@pytest.mark.parametrize("name", ["if_finetune_64", "if_finetune_256"])
def test_the_experiments_from_if_adopt(name):
    config = load_experiment(f"experiments/{name}.py")
    assert config.init.adopt
    assert adopt(config, config) == config


def test_a_model_that_is_handed_on_opens_and_names_no_folder(tmp_path):
    params = jax.jit(ReImagen(TINY).init)(jax.random.key(0))
    config = replace(
        TINY,
        data=replace(TINY.data, triples="/home/me/triples", text_embeddings="/home/me/text"),
        init=InitConfig("/home/me/weights"),
    )
    export(tmp_path, config, params, dtype=np.float16, facts={"Checkpoint": "step 7"}, licence="apache-2.0")
    read, loaded = load_weights(tmp_path)
    assert read == replace(TINY, init=InitConfig())
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-7), loaded, params)
    card = (tmp_path / CARD).read_text()
    for part in ("license: apache-2.0", "# tiny", "| Checkpoint | step 7 |", "stored as float16", "16 x 16 pixels"):
        assert part in card
    assert "/home/me" not in card + (tmp_path / EXPERIMENT).read_text()


def test_the_card_says_what_a_stage_and_a_frozen_encoder_need():
    config = replace(TINY_SR, text=replace(TINY_SR.text, frozen=FROZEN))
    card = model_card(config, {})
    assert "--low-res IMAGE" in card and "--text-encoder" in card and "fingerprint `abc`" in card
    assert "/their/t5" not in card


def test_an_experiment_written_before_there_were_these_settings_means_the_same():
    text = (  # as `to_json` wrote it then: none of the new fields
        '{"name": "old", "text": {"max_bytes": 32, "width": 16, "depth": 1, "head_width": 8}, '
        '"init": {"weights": "", "fresh": []}, "data": {"triples": ""}, "train": {"num_steps": 3}}'
    )
    config = from_json(text)
    assert config.text.frozen is None and not config.init.adopt and config.train.rates == ()
    assert config.sampler.threshold_limit is None and config.data.text_embeddings == ""
