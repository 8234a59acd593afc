"""Starting from given weights: what fits is taken, what may be new is made anew, the rest is refused by name."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from reimagen_jax.errors import UserError
from reimagen_jax.training.state import TrainState, start_from


def state(**modules):
    params = {"unet": {name: {"kernel": jnp.full(shape, 1.0)} for name, shape in modules.items()}}
    return TrainState(jnp.int32(0), params, jax.tree.map(jnp.copy, params), ())


def weights(**modules):
    return {"unet": {name: {"kernel": np.full(shape, 2.0, np.float32)} for name, shape in modules.items()}}


def values(state):
    return {name: float(module["kernel"].ravel()[0]) for name, module in state.params["unet"].items()}


def test_weights_become_parameters_and_average():
    started = start_from(state(stem=(2, 3)), weights(stem=(2, 3)))
    np.testing.assert_array_equal(started.params["unet"]["stem"]["kernel"], 2.0)
    np.testing.assert_array_equal(started.ema["unet"]["stem"]["kernel"], 2.0)
    assert started.params["unet"]["stem"]["kernel"] is not started.ema["unet"]["stem"]["kernel"]


def test_only_modules_named_fresh_may_be_missing():
    ours = state(stem=(2, 3), neighbour_attention_level0=(4,), neighbour_attention_level1=(4,))
    theirs = weights(stem=(2, 3), neighbour_attention_level1=(4,))
    with pytest.raises(UserError, match=r"differ in unet/neighbour_attention_level0/kernel$"):
        start_from(ours, theirs)
    started = start_from(ours, theirs, fresh=("neighbour_attention",))
    assert values(started) == {"stem": 2.0, "neighbour_attention_level0": 1.0, "neighbour_attention_level1": 2.0}


def test_fresh_does_not_excuse_another_shape_or_another_module():
    ours = state(stem=(2, 3), neighbour_attention=(4,))
    with pytest.raises(UserError, match="unet/extra/kernel, unet/neighbour_attention/kernel"):
        start_from(ours, weights(stem=(2, 3), neighbour_attention=(5,), extra=(1,)), fresh=("neighbour_attention",))
