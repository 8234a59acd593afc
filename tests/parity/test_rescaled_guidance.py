"""Rescaled guidance is diffusers' (Lin et al. 2024)."""

import jax.numpy as jnp
import numpy as np
import pytest
import torch
from diffusers.pipelines.stable_diffusion.pipeline_stable_diffusion import rescale_noise_cfg

from reimagen_jax.diffusion import guidance


@pytest.mark.parametrize("share", [0.0, 0.3, 0.7, 1.0])
def test_a_rescaled_prediction_is_that_of_diffusers(share):
    rng = np.random.default_rng(0)
    full, dropped = rng.normal(0.3, [[[[0.5]]], [[[2.0]]]], (2, 2, 8, 8, 3)).astype(np.float32)
    guided = full + 4.0 * (full - dropped)
    theirs = rescale_noise_cfg(torch.from_numpy(guided), torch.from_numpy(full), guidance_rescale=share)
    ours = guidance.rescaled(jnp.asarray(guided), jnp.asarray(full), share)
    np.testing.assert_allclose(ours, theirs.numpy(), rtol=1e-5, atol=1e-6)
