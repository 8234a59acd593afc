"""`config.json` of a T5 or a CLIP: what would make it another network, or is none at all, is refused by name."""

import pytest

from reimagen_jax.encoders.clip import clip_config
from reimagen_jax.encoders.t5 import t5_config
from reimagen_jax.errors import UserError
from tests.encoders.published import CLIP, CLIP_IMAGE, CLIP_TEXT, T5


def test_what_says_nothing_else_is_read():
    usual = {"architectures": ["T5EncoderModel"], "torch_dtype": "float16", "dropout_rate": 0.1, "top_k": 50}
    usual |= {"dense_act_fn": "gelu_new", "is_gated_act": True, "_name_or_path": "x", "pruned_heads": {}, "new": None}
    assert t5_config(T5 | usual) == t5_config(T5)
    usual = {"attention_dropout": 0.1, "initializer_factor": 1.0, "chunk_size_feed_forward": 0, "num_beams": 1}
    text = {**CLIP_TEXT, **usual, "is_decoder": False}
    assert clip_config({**CLIP, **usual, "text_config": text}) == clip_config(CLIP)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"is_decoder": True}, "is_decoder is True"),
        ({"dense_act_fn": "gelu"}, "dense_act_fn is 'gelu', not 'gelu_new'"),
        ({"is_gated_act": False}, "is_gated_act is False"),
        ({"feed_forward_proj": "gated-silu"}, "feed_forward_proj is 'gated-silu'"),
        ({"pruned_heads": {"0": [1]}}, "pruned_heads is .* not known here"),
        ({"quantization_config": {"load_in_8bit": True}}, "quantization_config is"),
        ({"d_model": "24"}, "d_model is '24', not a number from 1"),
        ({"d_kv": 0}, "d_kv is 0"),
        ({"d_ff": -1}, "d_ff is -1"),
        ({"vocab_size": 1e3}, "vocab_size is 1000.0"),
        ({"num_heads": True}, "num_heads is True"),
        ({"num_layers": 10**9}, "num_layers is 1000000000, not a number from 1 to 1000"),
        ({"layer_norm_epsilon": 0}, "layer_norm_epsilon is 0"),
        ({"layer_norm_epsilon": float("nan")}, "layer_norm_epsilon is nan"),
        ({"relative_attention_num_buckets": 2}, "2 relative_attention_num_buckets"),
        ({"relative_attention_max_distance": 8}, "do not reach 8 tokens"),
    ],
)
def test_another_t5_is_refused(change, message):
    with pytest.raises(UserError, match=message):
        t5_config(T5 | change)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"projection_dim": None}, "projection_dim is None"),
        ({"text_config": 7}, "is no table"),
        ({"rope_theta": 1e4}, "rope_theta is 10000.0, which is not known here"),
        ({"text_config": {**CLIP_TEXT, "is_decoder": True}}, "is_decoder is True"),
        ({"text_config": {**CLIP_TEXT, "hidden_act": "relu"}}, "hidden_act 'relu'"),
        ({"text_config": {**CLIP_TEXT, "attention_bias": "q"}}, "attention_bias is 'q'"),
        ({"text_config": {**CLIP_TEXT, "layer_norm_eps": "1e-5"}}, "layer_norm_eps is '1e-5'"),
        ({"text_config": {**CLIP_TEXT, "num_hidden_layers": 10**9}}, "num_hidden_layers is 1000000000"),
        ({"vision_config": {**CLIP_IMAGE, "num_attention_heads": 0}}, "num_attention_heads is 0"),
        ({"vision_config": {**CLIP_IMAGE, "image_size": 4}}, "patches of side 8 in images of side 4"),
        ({"vision_config": {**CLIP_IMAGE, "interpolate": True}}, "interpolate is True"),
        ({"vision_config_dict": {"hidden_size": 25}}, "hidden_size 25 is not a multiple of 3 heads"),
    ],
)
def test_another_clip_is_refused(change, message):
    with pytest.raises(UserError, match=message):
        clip_config(CLIP | change)
