"""Settings: contradictions are refused with both values named; an experiment survives its JSON."""

import dataclasses
import json
from dataclasses import replace

import pytest

from reimagen_jax.config import (
    DataConfig,
    DiffusionConfig,
    Experiment,
    Level,
    SamplerConfig,
    TextConfig,
    TrainConfig,
    UNetConfig,
    differences,
    from_json,
    load_experiment,
    to_json,
)
from reimagen_jax.errors import UserError
from tests.tiny import TINY, TINY_CROPS, TINY_SR


def stage(**settings) -> Experiment:
    """`TINY_SR` with other super-resolution settings."""
    return replace(TINY_SR, super_resolution=replace(TINY_SR.super_resolution, **settings))


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda: UNetConfig(levels=()), ["levels"]),
        (lambda: UNetConfig(levels=(Level(64, 0),)), ["levels[0].blocks", "0"]),
        (lambda: UNetConfig(levels=(Level(64), Level(60)), groups=16), ["levels[1].width", "60", "16"]),
        (lambda: UNetConfig(levels=(Level(96, self_attention=True),), head_width=64), ["96", "64"]),
        (lambda: UNetConfig(levels=(Level(96, neighbour_attention=True),), head_width=64), ["96", "64"]),
        (lambda: TextConfig(max_bytes=95, stride=4), ["95", "4"]),
        (lambda: TextConfig(width=100, head_width=64), ["100", "64"]),
        (lambda: DiffusionConfig(logsnr_min=3.0, logsnr_max=2.0), ["3.0", "2.0"]),
        (lambda: SamplerConfig(num_steps=0), ["num_steps", "0"]),
        (lambda: SamplerConfig(eta=1.5), ["eta", "1.5"]),
        (lambda: SamplerConfig(percentile=0.0), ["percentile", "0.0"]),
        (lambda: SamplerConfig(ddpm_gamma=-1.0), ["ddpm_gamma", "-1.0"]),
        (lambda: SamplerConfig(ddim_noise=2.0), ["ddim_noise", "2.0"]),
        (lambda: DataConfig(batch_size=0), ["batch_size", "0"]),
        (lambda: DataConfig(num_neighbours=-1), ["num_neighbours", "-1"]),
        (lambda: DataConfig(num_neighbours=2, min_neighbours=3), ["min_neighbours", "3", "2"]),
        (lambda: TrainConfig(num_steps=0), ["num_steps", "0"]),
        (lambda: TrainConfig(text_drop=1.5), ["text_drop", "1.5"]),
        (lambda: TrainConfig(warmup_steps=-1), ["warmup_steps", "-1"]),
        (lambda: replace(TINY, resolution=18), ["resolution", "18", "4"]),
        (lambda: SamplerConfig(aug_level=1.5), ["aug_level", "1.5"]),
        (lambda: stage(low_resolution=0), ["low_resolution", "0"]),
        (lambda: stage(low_resolution=12), ["resolution 32", "low_resolution 12"]),
        (lambda: stage(low_resolution=32), ["resolution 32", "low_resolution 32"]),
        (lambda: stage(crop=-4), ["crop", "-4"]),
        (lambda: stage(crop=6), ["crop 6", "4"]),
        (lambda: stage(crop=32), ["crop 32", "resolution 32"]),
        (lambda: stage(crop=16), ["crop is 16", "num_neighbours 2"]),
        (lambda: stage(shrinking=()), ["shrinking"]),
        (lambda: stage(blur=2.0), ["blur 2.0"]),
        (lambda: stage(blur_width=(0.0, 1.0)), ["blur_width", "0.0"]),
        (lambda: stage(blur_width=(2.0, 1.0)), ["blur_width", "2.0", "1.0"]),
        (lambda: stage(aug_levels=(0.0, 1.5)), ["aug_levels", "1.5"]),
        (lambda: stage(aug_levels=(0.3, 0.5)), ["sampler.aug_level 0.1", "0.3", "0.5"]),
    ],
)
def test_contradictions_are_named(make, said):
    with pytest.raises(UserError) as caught:
        make()
    for part in said:
        assert part in str(caught.value)


def test_settings_are_hashable_and_frozen():
    assert hash(TINY) == hash(replace(TINY))
    with pytest.raises(dataclasses.FrozenInstanceError):
        TINY.resolution = 8


@pytest.mark.parametrize("config", [TINY, TINY_SR, TINY_CROPS, Experiment(name="default")], ids=lambda c: c.name)
def test_json_comes_back_equal(config):
    assert from_json(to_json(config)) == config


def test_json_of_another_version_is_refused():
    fields = json.loads(to_json(TINY))
    fields["unet"]["wings"] = 2
    with pytest.raises(UserError, match="wings"):
        from_json(json.dumps(fields))


def test_json_is_checked_like_any_other_settings():
    fields = json.loads(to_json(TINY))
    fields["sampler"]["eta"] = 7.0
    with pytest.raises(UserError, match=r"eta 7\.0"):
        from_json(json.dumps(fields))


def test_differences_name_the_fields():
    assert differences(TINY, TINY) == []
    other = replace(TINY, resolution=32, train=replace(TINY.train, seed=5))
    assert differences(TINY, other) == ["resolution: 16 != 32", "train.seed: 0 != 5"]
    deeper = replace(TINY, unet=replace(TINY.unet, levels=(*TINY.unet.levels, Level(16))))
    assert any(line.startswith("unet.levels.2.width: None") for line in differences(TINY, deeper))


def test_a_missing_part_differs_in_all_its_fields():
    assert differences(TINY_SR, TINY_SR) == []
    said = differences(replace(TINY_SR, super_resolution=None), TINY_SR)
    assert "super_resolution.low_resolution: None != 16" in said
    assert all(line.startswith("super_resolution.") for line in said)


def test_sizes_of_a_stage():
    assert (TINY.factor, TINY.train_resolution) == (1, 16)
    assert (TINY_SR.factor, TINY_SR.train_resolution) == (2, 32)
    assert (TINY_CROPS.factor, TINY_CROPS.train_resolution) == (2, 16)


def test_experiment_file(tmp_path):
    path = tmp_path / "experiment.py"
    path.write_text("from reimagen_jax.config import Experiment\nconfig = Experiment(name='mine', resolution=64)\n")
    assert load_experiment(path) == Experiment(name="mine", resolution=64)


@pytest.mark.parametrize("content", [None, "", "config = 3\n"])
def test_no_experiment_in_the_file(tmp_path, content):
    path = tmp_path / "experiment.py"
    if content is not None:
        path.write_text(content)
    with pytest.raises(UserError, match=r"experiment\.py"):
        load_experiment(path)
