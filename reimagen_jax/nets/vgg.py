"""VGG's convolutions: features of images at falling resolutions, each taken before the sides are halved.

Source: Simonyan and Zisserman 2015 (arXiv 1409.1556), configuration D for 16 layers.
"""

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Float

from reimagen_jax.nets.settings import VGGConfig


class VGG(nn.Module):
    """3 x 3 convolutions with relu, 2 x 2 maxima between resolutions."""

    config: VGGConfig

    @nn.compact
    def __call__(self, x_BHWC: Float[Array, "b h w 3"]) -> tuple[Float[Array, "b _ _ _"], ...]:
        config, x, found = self.config, x_BHWC, []
        for level, (width, count) in enumerate(zip(config.widths, config.convolutions, strict=True)):
            if level > 0:
                x = nn.max_pool(x, (2, 2), (2, 2))
            for i in range(count):
                x = nn.relu(nn.Conv(width, (3, 3), dtype=jnp.dtype(config.dtype), name=f"conv{level}_{i}")(x))
            found.append(x.astype(jnp.float32))
        return tuple(found)
