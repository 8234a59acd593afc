"""Every key that diffusers and transformers have for a network or a scheduler is one that we decide about."""

import inspect

import pytest
from diffusers import DDPMScheduler, PriorTransformer, UnCLIPScheduler, UNet2DConditionModel, UNet2DModel
from diffusers.pipelines.deprecated.unclip.text_proj import UnCLIPTextProjModel
from transformers import CLIPConfig, CLIPTextConfig, CLIPVisionConfig, T5Config

from reimagen_jax.encoders import clip, t5
from reimagen_jax.errors import UserError
from reimagen_jax.systems.reimagen import deepfloyd
from reimagen_jax.systems.reimagen import deepfloyd_pipeline as pipeline
from reimagen_jax.systems.unclip import karlo


def defaults(kind):
    """Keys and values of the settings of a class of diffusers'."""
    parameters = list(inspect.signature(kind.__init__).parameters.values())[1:]
    return {parameter.name: parameter.default for parameter in parameters}


def test_every_key_of_a_u_net_is_decided_about():
    theirs = defaults(UNet2DConditionModel)
    known = {*deepfloyd.RELATED, *deepfloyd.FIXED, *deepfloyd.HARMLESS}
    assert theirs.keys() == known
    for name, value in deepfloyd.DEFAULTS.items():
        assert theirs[name] == value, name
    set_by_if = set(deepfloyd.DEFAULTS) & set(deepfloyd.FIXED)
    for name in deepfloyd.FIXED.keys() - set_by_if:
        assert theirs[name] == deepfloyd.FIXED[name], name


def test_every_key_of_a_scheduler_is_decided_about():
    theirs = defaults(DDPMScheduler)
    known = {*pipeline.SAMPLED, *pipeline.THRESHOLDING, *pipeline.BETAS} - {"_class_name"}
    assert theirs.keys() == known == {*pipeline.CHAIN, *pipeline.NOT_SAMPLED, *pipeline.BETAS} - {"_class_name"}
    for name, value in pipeline.SCHEDULER_DEFAULTS.items():
        assert name == "variance_type" or theirs[name] == value, name


@pytest.mark.parametrize(
    ("kind", "known", "ours", "harmless"),
    [
        (UNet2DConditionModel, deepfloyd.RELATED, deepfloyd.DEFAULTS | karlo.DECODER_FIXED, deepfloyd.HARMLESS),
        (
            UNet2DModel,
            karlo.UPSAMPLER_RELATED,
            karlo.UPSAMPLER_FIXED | karlo.UPSAMPLER_DEFAULTS,
            karlo.UPSAMPLER_HARMLESS,
        ),
        (PriorTransformer, (), karlo.PRIOR_DEFAULTS | karlo.PRIOR_FIXED, karlo.PRIOR_HARMLESS),
        (UnCLIPTextProjModel, (), karlo.TEXT_PROJ_DEFAULTS, ()),
        (UnCLIPScheduler, (), karlo.SCHEDULER_FIXED | karlo.SCHEDULER_DEFAULTS, ()),
    ],
)
def test_every_key_of_karlo_is_decided_about(kind, known, ours, harmless):
    theirs = defaults(kind)
    assert theirs.keys() == {*known, *ours, *harmless} - {"_class_name"}


@pytest.mark.parametrize(
    ("kind", "ours"),
    [
        (UNet2DModel, karlo.UPSAMPLER_DEFAULTS),
        (PriorTransformer, karlo.PRIOR_DEFAULTS),
        (UnCLIPTextProjModel, {name: karlo.TEXT_PROJ_DEFAULTS[name] for name in list(karlo.TEXT_PROJ_DEFAULTS)[:2]}),
        (UnCLIPScheduler, karlo.SCHEDULER_DEFAULTS),
    ],
)
def test_a_key_that_is_not_there_is_what_karlo_has(kind, ours):
    theirs = defaults(kind)
    assert {name: theirs[name] for name in ours} == ours


@pytest.mark.parametrize(
    ("read", "theirs"),
    [
        (clip.clip_config, CLIPConfig()),
        (clip.clip_config, CLIPTextConfig()),
        (clip.clip_config, CLIPVisionConfig()),
        (t5.t5_config, T5Config()),
        (t5.t5_config, T5Config(feed_forward_proj="gated-gelu")),
    ],
)
def test_what_they_write_is_read_and_another_key_refused(read, theirs):
    settings = theirs.to_dict()
    read(settings)
    with pytest.raises(UserError, match="rope_theta is 5, which is not known here"):
        read(settings | {"rope_theta": 5})
