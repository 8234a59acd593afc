"""Networks that RCG's experiments start from, by size; the paper's by its appendix and published code.

from the paper   the RDM's width, blocks and embeddings
ours             the small ones
"""

from reimagen_jax.nets.settings import LatentMLPConfig, Level, UNetConfig
from reimagen_jax.systems.rcg.settings import RdmSamplerConfig
from reimagen_jax.systems.unclip.settings import TOKENS

RDM_32 = LatentMLPConfig(width=512, depth=6, time_width=128, class_width=128)
"""3.8M parameters for 128 values; trains on a CPU."""

RDM = LatentMLPConfig()
"""The published one: 62.7M parameters for 256 values, 72.2M with classes (the paper: 63M)."""

OURS = RdmSamplerConfig(solver="dpmpp_2m", num_steps=50, ddim_noise=0.0, spacing="even", normalised=True)
"""A fifth of the published sampler's evaluations, to the representation itself, without noise."""

GENERATOR_32 = UNetConfig(
    levels=(Level(48, 1), Level(96, 1, self_attention=True), Level(160, 1, self_attention=True)),
    patch=2,
    head_width=32,
    cond_width=192,
    **TOKENS,
)
"""5.7M parameters for 32 x 32 images, as wide as unCLIP's small decoder and the shipped Re-Imagen."""
