"""Every key that diffusers and transformers have for a network or a scheduler is one that we decide about."""

import inspect

import pytest
from diffusers import DDPMScheduler, UNet2DConditionModel
from transformers import CLIPConfig, CLIPTextConfig, CLIPVisionConfig, T5Config

from reimagen_jax.encoders import clip, t5
from reimagen_jax.errors import UserError
from reimagen_jax.systems.reimagen import deepfloyd
from reimagen_jax.systems.reimagen import deepfloyd_pipeline as pipeline


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
