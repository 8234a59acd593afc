"""Settings: contradictions are refused with both values named; an experiment survives its JSON."""

import dataclasses
import json
from dataclasses import replace

import numpy as np
import pytest

from reimagen_jax.config import (
    DataConfig,
    Experiment,
    GroupRate,
    InitConfig,
    TrainConfig,
    differences,
    is_free,
    load_experiment,
    to_dict,
    to_json,
    without_local,
)
from reimagen_jax.diffusion.settings import DiffusionConfig, SamplerConfig
from reimagen_jax.encoders.settings import FrozenTextConfig, TextConfig
from reimagen_jax.errors import UserError
from reimagen_jax.nets.settings import Level, UNetConfig
from reimagen_jax.systems.kinds import from_dict, from_json
from reimagen_jax.systems.reimagen.settings import GuidedSamplerConfig, ReImagenConfig, TriplesConfig
from tests.tiny import TINY, TINY_CROPS, TINY_SR, as_version_1, changed
from tests.training.tiny_system import RegressionConfig, experiment


def stage(**settings) -> Experiment:
    """`TINY_SR` with other super-resolution settings."""
    return changed(TINY_SR, super_resolution=replace(TINY_SR.system.super_resolution, **settings))


def eps(schedule="cosine", **sampler) -> Experiment:
    """A model that predicts noise, and how it is drawn."""
    diffusion = DiffusionConfig(schedule=schedule, prediction="eps")
    return changed(TINY, diffusion=diffusion, sampler=GuidedSamplerConfig(**sampler))


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
        (lambda: eps(thresholding="none"), ["sampler.thresholding", "diffusion.prediction 'eps'", "static"]),
        (lambda: eps().system.check_settings(GuidedSamplerConfig(thresholding="none")), ["sampler.thresholding"]),
        (lambda: eps(spacing="leading"), ["sampler.spacing", "'cosine' is no chain"]),
        (lambda: eps(spacing="smart27"), ["sampler.spacing", "'cosine' is no chain"]),
        (lambda: eps("cosine_chain", spacing="smart27"), ["'smart27' has 27 steps", "sampler.num_steps is 25"]),
        (lambda: eps(times=(0.5, 0.0), num_steps=2), ["sampler.times ends at 0.0", "image"]),
        (lambda: eps("cosine_chain", num_steps=1001), ["sampler.num_steps is 1001", "chain has 1000"]),
        (lambda: GuidedSamplerConfig(num_steps=0), ["num_steps", "0"]),
        (lambda: GuidedSamplerConfig(eta=1.5), ["eta", "1.5"]),
        (lambda: GuidedSamplerConfig(percentile=0.0), ["percentile", "0.0"]),
        (lambda: GuidedSamplerConfig(ddpm_gamma=-1.0), ["ddpm_gamma", "-1.0"]),
        (lambda: GuidedSamplerConfig(ddim_noise=2.0), ["ddim_noise", "2.0"]),
        (lambda: DataConfig(batch_size=0), ["batch_size", "0"]),
        (lambda: TriplesConfig(num_neighbours=-1), ["num_neighbours", "-1"]),
        (lambda: TriplesConfig(num_neighbours=2, min_neighbours=3), ["min_neighbours", "3", "2"]),
        (lambda: TrainConfig(num_steps=0), ["num_steps", "0"]),
        (lambda: ReImagenConfig(text_drop=1.5), ["text_drop", "1.5"]),
        (lambda: TrainConfig(warmup_steps=-1), ["warmup_steps", "-1"]),
        (lambda: TrainConfig(ema_decay=1.5), ["ema_decay", "1.5"]),
        (lambda: TrainConfig(fsdp=2, parallel="pmap"), ["fsdp is 2", "pmap"]),
        (lambda: SamplerConfig(num_steps=0), ["num_steps", "0"]),
        (lambda: GuidedSamplerConfig(k=-1), ["sampler.k", "-1"]),
        (lambda: Experiment("mine", ReImagenConfig(), DataConfig()), ["mine", "reimagen", "TriplesConfig"]),
        (lambda: changed(TINY, resolution=18), ["resolution", "18", "4"]),
        (lambda: GuidedSamplerConfig(aug_level=1.5), ["aug_level", "1.5"]),
        (lambda: stage(low_resolution=0), ["low_resolution", "0"]),
        (lambda: stage(low_resolution=12), ["resolution 32", "low_resolution 12"]),
        (lambda: stage(low_resolution=32), ["resolution 32", "low_resolution 32"]),
        (lambda: stage(crop=-4), ["crop", "-4"]),
        (lambda: stage(crop=6), ["crop 6", "4"]),
        (lambda: stage(crop=32), ["crop 32", "resolution 32"]),
        (lambda: stage(crop=16), ["crop is 16", "num_neighbours 2"]),
        (lambda: stage(shrinking=()), ["shrinking"]),
        (lambda: stage(blur=2.0), ["super_resolution.blur", "2.0"]),
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
        TINY.system.resolution = 8


@pytest.mark.parametrize(
    "config",
    [
        *(TINY, TINY_SR, TINY_CROPS),
        Experiment("default", ReImagenConfig()),
        replace(TINY, name="with_rates", train=TrainConfig(rates=(GroupRate("unet", 0.5), GroupRate("text", 0.0)))),
        changed(TINY, text=TextConfig(frozen=FrozenTextConfig(width=8))),
    ],
    ids=lambda c: c.name,
)
def test_json_comes_back_equal(config):
    assert from_json(to_json(config)) == config


def test_json_of_another_version_is_refused():
    fields = json.loads(to_json(TINY))
    fields["system"]["unet"]["wings"] = 2
    with pytest.raises(UserError, match="wings"):
        from_json(json.dumps(fields))


def test_json_is_checked_like_any_other_settings():
    fields = json.loads(to_json(TINY))
    fields["system"]["sampler"]["eta"] = 7.0
    with pytest.raises(UserError, match=r"sampler\.eta is 7\.0"):
        from_json(json.dumps(fields))


def test_numbers_of_numpy_become_pythons_own():
    train = TrainConfig(num_steps=np.int64(3), learning_rate=np.float32(0.5), beta2=np.float64(0.5))
    assert [type(value) for value in (train.num_steps, train.learning_rate, train.beta2)] == [int, float, float]
    with pytest.raises(UserError, match=r"train\.num_steps is 3\.0: a whole number"):
        TrainConfig(num_steps=np.float32(3))


def test_differences_name_the_fields():
    assert differences(TINY, TINY) == {}
    other = replace(changed(TINY, resolution=32), train=replace(TINY.train, seed=5))
    assert differences(TINY, other) == {"resolution": "resolution: 16 != 32", "train.seed": "train.seed: 0 != 5"}
    deeper = changed(TINY, unet=replace(TINY.system.unet, levels=(*TINY.system.unet.levels, Level(16))))
    assert any(line.startswith("unet.levels.2.width: None") for line in differences(TINY, deeper).values())


def test_a_missing_part_differs_in_all_its_fields():
    assert differences(TINY_SR, TINY_SR) == {}
    said = differences(changed(TINY_SR, super_resolution=None), TINY_SR).values()
    assert "super_resolution.low_resolution: None != 16" in said
    assert all(line.startswith("super_resolution.") for line in said)


def test_another_kind_of_system_is_a_difference():
    assert differences(TINY, experiment())["kind"] == "kind: 'reimagen' != 'regression'"


# --- what may change ---------------------------------------------------------------------------------------------

FROZEN = FrozenTextConfig(encoder="/their/t5", fingerprint="abc", width=8, max_tokens=4)
WITH_ALL_PARTS = changed(TINY_SR, text=replace(TINY_SR.system.text, frozen=FROZEN))
FREE = {
    *(f"train.{name}" for name in ("num_steps", "fsdp", "accumulate", "sample_every", "sample_images")),
    *(f"train.{name}" for name in ("log_every", "checkpoint_every", "keep_checkpoints")),
    *(f"train.{name}" for name in ("validate_every", "validate_examples", "evaluate_every", "evaluate_images")),
    "data.validation",
    *(
        "data.threads",
        "data.triples",
        "data.text_embeddings",
        "data.asked",
        "data.stage",
        "data.enlarge",
        "text.frozen.encoder",
    ),
    *(f"sampler.{item.name}" for item in dataclasses.fields(GuidedSamplerConfig)),
}
"""Lengths and cadences, what spreads or saves memory, where things lie, what the data tell, how samples are drawn."""


def names_of(config: Experiment) -> set[str]:
    """Every setting, as `differences` names it."""

    def walk(value, prefix):
        items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, tuple) else None
        return (
            {prefix}
            if items is None or not value
            else {n for key, each in items for n in walk(each, f"{prefix}.{key}")}
        )

    fields = to_dict(config)
    return {name[1:] for name in walk(fields.pop("system"), "") | walk(fields, "")}


def test_of_all_settings_these_are_free_on_resuming_and_no_others():
    names = names_of(WITH_ALL_PARTS)
    assert names > FREE and len(names) > 80
    assert {name for name in names if is_free(WITH_ALL_PARTS, name)} == FREE


def test_a_setting_is_not_free_because_its_name_begins_like_one_that_is():
    assert is_free(TINY, "sampler.eta") and not is_free(TINY, "samplers") and not is_free(TINY, "train.num_steps_more")


def test_what_is_handed_on_has_no_folder_and_keeps_the_rest():
    local = replace(
        WITH_ALL_PARTS,
        data=replace(TINY.data, triples="/my/triples", text_embeddings="/my/text", seed=3),
        init=InitConfig("/my/weights", ("new",), adopt=True, beside=("/my/encoder",)),
    )
    handed_on = without_local(local)
    expected = {
        "data.triples",
        "data.text_embeddings",
        "init.weights",
        "init.adopt",
        "init.beside.0",
        "text.frozen.encoder",
    }
    assert differences(local, handed_on).keys() == expected
    assert "/" not in to_json(handed_on)


# --- kinds -------------------------------------------------------------------------------------------------------


def test_a_registered_kind_is_read_back_as_itself():
    config = experiment(num_steps=9)
    assert isinstance(from_json(to_json(config)).system, RegressionConfig)
    assert from_json(to_json(config)) == config


def test_an_unknown_kind_and_an_unknown_part_are_refused_by_name():
    fields = to_dict(TINY)
    with pytest.raises(UserError, match=r"kind 'other' is not known, only reimagen.*import the code"):
        from_dict(fields | {"system": fields["system"] | {"kind": "other"}})
    with pytest.raises(UserError, match=r"wings is no setting that this version knows"):
        from_dict(fields | {"wings": {}})


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"system": 5}, r"experiment\.system is no table"),
        ({"system": ["kind"]}, r"experiment\.system is no table"),
        ({"system": {"kind": ["reimagen"]}}, r"kind \['reimagen'\] is not known"),
        ({"train": [1]}, r"experiment\.train is no table"),
        ({"name": None}, r"experiment\.name is missing, or no text"),
    ],
)
def test_parts_of_an_experiment_that_are_no_tables_are_refused_by_name(change, says):
    with pytest.raises(UserError, match=says):
        from_dict(to_dict(TINY) | change)
    with pytest.raises(UserError, match="an experiment is a table of settings"):
        from_dict([])


def test_an_experiment_that_does_not_name_its_system_is_a_re_imagen_as_earlier_versions_wrote_it():
    config = changed(TINY_SR, text_drop=0.3, neighbour_drop=0.0)
    assert from_dict(as_version_1(config)) == config


# --- Re-Imagen's sizes, experiment files -------------------------------------------------------------------------


def test_sizes_of_a_stage():
    sizes = [(config.system.factor, config.system.train_resolution) for config in (TINY, TINY_SR, TINY_CROPS)]
    assert sizes == [(1, 16), (2, 32), (2, 16)]


def test_experiment_file(tmp_path):
    path = tmp_path / "experiment.py"
    path.write_text(
        "from reimagen_jax.config import Experiment\n"
        "from reimagen_jax.systems.reimagen.settings import ReImagenConfig\n"
        "config = Experiment('mine', ReImagenConfig(resolution=64))\n"
    )
    assert load_experiment(path) == Experiment("mine", ReImagenConfig(resolution=64), TriplesConfig())


@pytest.mark.parametrize("content", [None, "", "config = 3\n"])
def test_no_experiment_in_the_file(tmp_path, content):
    path = tmp_path / "experiment.py"
    if content is not None:
        path.write_text(content)
    with pytest.raises(UserError, match=r"experiment\.py"):
        load_experiment(path)
