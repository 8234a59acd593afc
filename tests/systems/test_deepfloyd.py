"""Settings of published U-Nets and schedulers: whatever would draw something else is refused by name."""

import jax
import numpy as np
import pytest
from flax.traverse_util import flatten_dict

from reimagen_jax.errors import UserError
from reimagen_jax.systems.reimagen.deepfloyd import expected_shapes, their_names, unet_config, unet_params
from reimagen_jax.systems.reimagen.deepfloyd_pipeline import stage_config

STAGE_1 = {
    "sample_size": 16,
    "in_channels": 3,
    "out_channels": 6,
    "block_out_channels": [32, 64],
    "layers_per_block": 1,
    "down_block_types": ["ResnetDownsampleBlock2D", "SimpleCrossAttnDownBlock2D"],
    "mid_block_type": "UNetMidBlock2DSimpleCrossAttn",
    "up_block_types": ["SimpleCrossAttnUpBlock2D", "ResnetUpsampleBlock2D"],
    "attention_head_dim": 16,
    "cross_attention_dim": 32,
    "encoder_hid_dim": 48,
    "addition_embed_type": "text",
    "addition_embed_type_num_heads": 3,
    "cross_attention_norm": "group_norm",
    "resnet_time_scale_shift": "scale_shift",
    "act_fn": "gelu",
}
STAGE_2 = STAGE_1 | {
    "in_channels": 6,
    "only_cross_attention": True,
    "class_embed_type": "timestep",
    "time_embedding_act_fn": "gelu",
    "resnet_skip_time_act": True,
    "resnet_out_scale_factor": 1.4142,
    "mid_block_scale_factor": 1.4142,
}
SCHEDULER = {"_class_name": "DDPMScheduler", "beta_schedule": "squaredcos_cap_v2", "variance_type": "learned_range"}


@pytest.mark.parametrize("stage", [STAGE_1, STAGE_2])
def test_what_says_nothing_else_is_read(stage):
    usual = {"dropout": 0.1, "upcast_attention": True, "_diffusers_version": "0.17", "new_switch": False, "new": None}
    usual |= {"flip_sin_to_cos": True, "freq_shift": 0.0, "norm_num_groups": 32, "conv_in_kernel": 3, "dual": []}
    assert unet_config(stage | usual) == unet_config(stage)
    noising = {"beta_schedule": "squaredcos_cap_v2", "variance_type": "fixed_small", "timestep_spacing": "linspace"}
    assert stage_config("x", stage, SCHEDULER, noising if stage is STAGE_2 else None).system.resolution == 16


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"flip_sin_to_cos": False}, "flip_sin_to_cos is False, not True"),
        ({"freq_shift": 1}, "freq_shift is 1, not 0"),
        ({"act_fn": "silu"}, "act_fn is 'silu'"),
        ({"act_fn": "gelu_new"}, "act_fn is 'gelu_new'"),
        ({"norm_num_groups": 16}, "norm_num_groups is 16"),
        ({"norm_eps": 0}, "norm_eps is 0, not a number between 0 and 1"),
        ({"norm_eps": None}, "norm_eps is None"),
        ({"down_block_types": ["DownBlock2D", "SimpleCrossAttnDownBlock2D"]}, r"down_block_types are \['DownBlock2D'"),
        ({"down_block_types": ["ResnetDownsampleBlock2D"]}, "for each of 2 levels"),
        ({"up_block_types": ["ResnetUpsampleBlock2D", "SimpleCrossAttnUpBlock2D"]}, "up_block_types are"),
        ({"up_block_types": ["SimpleCrossAttnUpBlock2D", "UpBlock2D"]}, "up_block_types are"),
        ({"mid_block_type": "UNetMidBlock2DCrossAttn"}, "mid_block_type is"),
        ({"mid_block_only_cross_attention": True}, "mid_block_only_cross_attention is True"),
        ({"mid_block_scale_factor": 1.4142}, "mid_block_scale_factor 1.4142 are not one"),
        ({"resnet_out_scale_factor": 0}, "resnet_out_scale_factor 0"),
        ({"only_cross_attention": [True, False]}, r"only_cross_attention is \[True, False\]"),
        ({"resnet_skip_time_act": True}, "resnet_skip_time_act is True, where time_embedding_act_fn is None"),
        ({"time_embedding_act_fn": "gelu"}, "where time_embedding_act_fn is 'gelu'"),
        ({"timestep_post_act": "silu"}, "timestep_post_act is 'silu'"),
        ({"time_embedding_type": "fourier"}, "time_embedding_type is 'fourier'"),
        ({"class_embed_type": "projection"}, "class_embed_type is 'projection'"),
        ({"class_embed_type": "timestep"}, "in_channels is 3, not 6"),
        ({"in_channels": 6}, "in_channels is 6, not 3"),
        ({"out_channels": 3}, "out_channels is 3, not 6"),
        ({"center_input_sample": True}, "center_input_sample is True"),
        ({"conv_in_kernel": 1}, "conv_in_kernel is 1"),
        ({"resnet_time_scale_shift": "default"}, "resnet_time_scale_shift is 'default'"),
        ({"cross_attention_norm": None}, "cross_attention_norm is None"),
        ({"encoder_hid_dim_type": "text_image_proj"}, "encoder_hid_dim_type is 'text_image_proj'"),
        ({"attention_head_dim": [8, 16]}, r"attention_head_dim is \[8, 16\]"),
        ({"attention_head_dim": 8}, "pooled by 3 heads"),
        ({"addition_embed_type": "text_time"}, "addition_embed_type is 'text_time'"),
        ({"attention_bias": True}, "attention_bias is True, which is not known here"),
        ({"quantization_config": {"bits": 8}}, "quantization_config is"),
        ({"block_out_channels": [32, 10**9]}, "block_out_channels"),
        ({"block_out_channels": [16, 32]}, "block_out_channels"),
        ({"block_out_channels": 7}, "block_out_channels"),
        ({"layers_per_block": 10**9}, "layers_per_block"),
        ({"layers_per_block": [1]}, "layers_per_block"),
        ({"layers_per_block": True}, "layers_per_block"),
    ],
)
def test_a_network_that_would_draw_something_else_is_refused(change, message):
    with pytest.raises(UserError, match=message):
        unet_config(STAGE_1 | change)


@pytest.mark.parametrize("missing", ["act_fn", "cross_attention_norm", "in_channels", "mid_block_type"])
def test_a_missing_key_means_what_diffusers_takes_it_for(missing):
    with pytest.raises(UserError, match=missing):
        unet_config({name: value for name, value in STAGE_1.items() if name != missing})


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"_class_name": "EulerDiscreteScheduler"}, "scheduler: _class_name is 'EulerDiscreteScheduler'"),
        ({"num_train_timesteps": 500}, "num_train_timesteps is 500"),
        ({"beta_schedule": "linear"}, "beta_schedule is 'linear'"),
        ({"variance_type": "fixed_small"}, "variance_type is 'fixed_small'"),
        ({"timestep_spacing": "trailing"}, "timestep_spacing is 'trailing'"),
        ({"steps_offset": 1}, "steps_offset is 1"),
        ({"clip_sample_range": 2.0}, "clip_sample_range is 2.0"),
        ({"trained_betas": [0.1]}, "trained_betas is"),
        ({"rescale_betas_zero_snr": True}, "rescale_betas_zero_snr is True"),
        ({"thresholding": "yes"}, "thresholding is 'yes'"),
        ({"thresholding": True, "sample_max_value": None}, "sample_max_value None"),
        ({"use_karras_sigmas": True}, "use_karras_sigmas is True, which is not known here"),
    ],
)
def test_another_scheduler_is_refused(change, message):
    with pytest.raises(UserError, match=message):
        stage_config("x", STAGE_1, SCHEDULER | change)


@pytest.mark.parametrize("size", [None, 15, 0, "16", [16, 16], 10**9])
def test_a_side_that_does_not_fit_is_refused(size):
    with pytest.raises(UserError, match="sample_size"):
        stage_config("x", STAGE_1 | {"sample_size": size}, SCHEDULER)


@pytest.fixture(scope="module")
def state():
    """Random weights of stage I under their names."""
    config, rng = unet_config(STAGE_1), np.random.default_rng(0)
    text = {"add_embedding.norm1.weight": np.ones(48, np.float32)}
    made = {}
    for path, shape in expected_shapes(text, config).items():
        ours = rng.normal(size=shape).astype(np.float32)
        theirs = ours.transpose(3, 2, 0, 1) if len(shape) == 4 else ours.T if path.endswith("kernel") else ours
        names = their_names(path, len(config.levels))
        made |= dict(zip(names, np.split(theirs, len(names)), strict=True))
    return config, made


def test_weights_beside_the_network_are_passed_over_and_others_refused(state):
    config, theirs = state
    plain = unet_params(theirs, config)
    beside = unet_params(theirs | {"ema.decay": np.zeros(1), "safety.weight": np.zeros(3)}, config)
    jax.tree.map(np.testing.assert_array_equal, plain, beside)
    assert len(flatten_dict(plain)) == len(flatten_dict(beside))
    with pytest.raises(UserError, match=r"down_blocks\.0\.resnets\.9\.norm1\.bias is unexpected"):
        unet_params(theirs | {"down_blocks.0.resnets.9.norm1.bias": np.zeros(3)}, config)


def test_weights_that_are_not_finite_or_do_not_fit_are_refused_by_name(state):
    config, theirs = state
    for value in (np.nan, np.inf):
        bad = theirs["conv_in.weight"].copy()
        bad[3, 1, 0, 2] = value
        with pytest.raises(UserError, match=r"numbers of conv_in\.weight are not finite"):
            unet_params(theirs | {"conv_in.weight": bad}, config)
    for name, odd in (
        ("conv_out.weight", np.ones((3, 32, 3, 3), np.float32)),
        ("conv_out.weight", np.ones((), np.float32)),
        ("add_embedding.pool.k_proj.weight", np.ones((48, 47), np.float32)),
    ):
        with pytest.raises(UserError, match=r"conv_out\.weight has shape|pool_kv|ustack/out"):
            unet_params(theirs | {name: odd}, config)
