"""A discriminator of patches: one logit for each place of an image, high where what is around it looks true.

  x <- lrelu(conv_1 x)                               4 x 4, halving the sides                                     (1)
  x <- lrelu(GN(conv_i x)),  i = 2 .. depth + 1      twice the channels each; the last keeps the sides            (2)
  D  = conv x                                        one channel                                                  (3)

lrelu has a slope of 0.2. Sides are padded so that they are halved and kept exactly; published ones lose a row in (2)
and in (3). In the norms' place stand published BatchNorms: their statistics would have to be carried beside the
parameters, and would tell true images from others by the batch that they come in, whose cut over devices they depend
on besides. A group norm is of one image, and has no state.
Sources: Isola et al. 2017 (pix2pix, arXiv 1611.07004), section 3.2.2; as VQGAN has it, Esser et al. 2021 (2012.09841).
"""

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Float

from reimagen_jax.nets.settings import PatchGANConfig

INIT = nn.initializers.normal(0.02)
MOST = 8
"""Times the first width, at most."""


class PatchGAN(nn.Module):
    """(1) to (3) of images in [-1, 1]."""

    config: PatchGANConfig

    @nn.compact
    def __call__(self, x_BHWC: Float[Array, "b h w 3"]) -> Float[Array, "b ph pw"]:
        config, x = self.config, x_BHWC
        for i in range(config.depth + 1):
            stride = 2 if i < config.depth else 1
            width = config.width * min(2**i, MOST)
            x = nn.Conv(
                width, (4, 4), (stride, stride), dtype=jnp.dtype(config.dtype), kernel_init=INIT, name=f"conv{i}"
            )(x)
            if i > 0:
                norm = nn.GroupNorm(config.groups, epsilon=1e-6, dtype=jnp.float32, name=f"norm{i}")
                x = norm(x.astype(jnp.float32))
            x = nn.leaky_relu(x, 0.2)  # (1), (2)
        return nn.Conv(1, (4, 4), dtype=jnp.float32, kernel_init=INIT, name="out")(x)[..., 0]  # (3)
