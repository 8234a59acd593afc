"""Networks that RCG's experiments with MAGE start from, by size.

from the papers  the tokenizer (MaskGIT's), widths, blocks and heads of MAGE-B and -L, vocabulary, masks, dropout
ours             the small ones; precision, rematerialisation
"""

from typing import Any

from reimagen_jax.nets.settings import Tower, VQConfig

VQ_32 = VQConfig(widths=(64, 128), patch=2, codes=512, code_width=16, normalised=True)
"""For 32 x 32 images: 8 x 8 tokens of 512 codes. 2.8M parameters; trains on a CPU."""

VQ_256 = VQConfig()
"""MaskGIT's, for 256 x 256 images: 16 x 16 tokens of 1,024 codes. 54.5M parameters."""

MAGE_32: dict[str, Any] = {
    "vq": VQ_32,
    "tower": Tower(192, 6, 6, 768, "gelu", 1e-6),
    "decoder": Tower(192, 4, 6, 768, "gelu", 1e-6),
}
"""4.7M parameters of its own; trains on a CPU."""

_PUBLISHED = {"vq": VQ_256, "spare_words": 1000, "dtype": "bfloat16", "remat": True}

MAGE_B: dict[str, Any] = _PUBLISHED | {
    "tower": Tower(768, 12, 12, 3072, "gelu", 1e-6),
    "decoder": Tower(768, 8, 16, 3072, "gelu", 1e-6),
}
"""145.1M parameters of its own."""

MAGE_L: dict[str, Any] = _PUBLISHED | {
    "tower": Tower(1024, 24, 16, 4096, "gelu", 1e-6),
    "decoder": Tower(1024, 8, 16, 4096, "gelu", 1e-6),
}
"""408.1M parameters of its own."""
