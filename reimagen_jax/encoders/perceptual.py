"""How far images are from each other in the features of an encoder that the package reads, to learn to draw by.

    LPIPS (lpips.py), where its weights are given; or, of a transformer of images (MoCo-v3's, a CLIP's):
    u_l = the tokens after block l, each of length 1                                                                (1)
    d(x, y) = mean_l mean_tokens |u_l(x) - u_l(y)|^2                                                                (2)

(2) is LPIPS' distance with all blocks and channels counting alike, for networks that nobody has fitted to judgements.
The tokens keep their places, which the one vector of an image does not tell. It is ours.
Sources: Johnson et al. 2016 (arXiv 1603.08155); Zhang et al. 2018 (arXiv 1801.03924).
"""

from collections.abc import Callable
from typing import Any

import jax.numpy as jnp
from jaxtyping import Array, Float

from reimagen_jax.encoders.joint import Joint
from reimagen_jax.encoders.lpips import Lpips, unit_channels
from reimagen_jax.encoders.representation import Representation
from reimagen_jax.encoders.settings import ImageNetwork, LpipsConfig, RepresentationConfig
from reimagen_jax.errors import require

Distance = Callable[[Any, Float[Array, "b h w 3"], Float[Array, "b h w 3"]], Float[Array, " b"]]
"""(parameters, images, as many others), all in [-1, 1] and of one size."""


def distance_of(config: ImageNetwork) -> Distance:
    """The distance by these settings' features. Raises `UserError` for a network without blocks of images."""
    if isinstance(config, LpipsConfig):
        return Lpips(config).distance
    if isinstance(config, RepresentationConfig):
        tower, states = config.tower, Representation(config).states
    else:
        require(config.image is not None, "this CLIP has no image tower (image): it cannot compare images")
        tower, states = config.image.tower, Joint(config).image_states
    require(tower.depth > 0, "this encoder has no blocks (tower.depth 0), whose tokens would be compared")

    def distance(params: Any, x_BHWC: Float[Array, "b h w 3"], y_BHWC: Float[Array, "b h w 3"]) -> Float[Array, " b"]:
        B = len(x_BHWC)
        found = [unit_channels(u_EMD) for u_EMD in states(params, jnp.concatenate([x_BHWC, y_BHWC]))]  # (1)
        apart = [((u_EMD[:B] - u_EMD[B:]) ** 2).sum(axis=-1).mean(axis=1) for u_EMD in found]
        return jnp.stack(apart).mean(axis=0)  # (2)

    return distance


def init(config: ImageNetwork, key: Array) -> Any:
    """Random parameters of an encoder by which images are compared."""
    if isinstance(config, LpipsConfig):
        return Lpips(config).init(key)
    return (Representation if isinstance(config, RepresentationConfig) else Joint)(config).init(key)
