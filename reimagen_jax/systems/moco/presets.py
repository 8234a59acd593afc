"""Encoders that RCG's experiments start from, by size.

from the paper   widths, blocks, heads, patches, the head's and the predictor's widths (MoCo-v3; L by RCG's encoder)
ours             the small one; precision
"""

from reimagen_jax.encoders.settings import RepresentationConfig
from reimagen_jax.nets.settings import Tower

MOCO_32 = RepresentationConfig(
    Tower(128, 4, 4, 512, "gelu", 1e-6),
    resolution=32,
    patch=8,
    stem=True,
    head_width=512,
    width=128,
    mean=(0.5, 0.5, 0.5),
    std=(0.25, 0.25, 0.25),
    smoothed=True,
)
"""1.3M parameters for 32 x 32 images, whose 16 patches are made by convolutions; trains on a CPU."""


def _vit(width: int, depth: int, heads: int) -> RepresentationConfig:
    tower = Tower(width, depth, heads, 4 * width, "gelu", 1e-6)
    return RepresentationConfig(tower, resolution=224, patch=16, head_width=4096, width=256)


MOCO_S, MOCO_B, MOCO_L = _vit(384, 12, 12), _vit(768, 12, 12), _vit(1024, 24, 16)
"""ViT-S/16 with 12 heads, B/16 and L/16: with their heads, B has 106.8M parameters, L 325.3M."""
