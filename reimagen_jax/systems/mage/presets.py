"""Networks that RCG's experiments with MAGE start from, by size."""

from reimagen_jax.nets.settings import VQConfig

VQ_32 = VQConfig(widths=(64, 128), patch=2, codes=512, code_width=16, normalised=True)
"""For 32 x 32 images: 8 x 8 tokens of 512 codes. 2.8M parameters; trains on a CPU."""

VQ_256 = VQConfig()
"""MaskGIT's, for 256 x 256 images: 16 x 16 tokens of 1,024 codes. 54.5M parameters."""
