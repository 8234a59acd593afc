"""Networks that experiments start from, by size."""

from reimagen_jax.config import Level, TextConfig, UNetConfig

UNET_32 = UNetConfig(
    levels=(
        Level(48, 1, neighbour_attention=True, head_width=48),
        Level(96, 1, self_attention=True, neighbour_attention=True),
        Level(160, 1, self_attention=True, neighbour_attention=True),
    ),
    patch=2,
    head_width=32,
    cond_width=192,
)
"""6.2M parameters for 32 x 32 images; trains on a CPU."""

TEXT_BYTES = TextConfig(max_bytes=80, width=128, depth=2)
"""0.5M parameters; captions of up to 80 bytes."""
