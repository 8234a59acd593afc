"""What RCG's systems have in common: a frozen encoder, whose representations of a batch are made in the step."""

from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, UInt8

from reimagen_jax.config import Experiment
from reimagen_jax.encoders.representation import Represents, representation_of
from reimagen_jax.systems.base import Params
from reimagen_jax.systems.rcg.arrays import PictureBatch
from reimagen_jax.systems.reimagen.system import to_model


@dataclass(frozen=True)
class Represented:
    """A system with an encoder; holds settings only."""

    config: Experiment

    @property
    def encoder(self) -> Represents:
        """Whose representations these are."""
        return representation_of(self.config.system.encoder)

    def represent(self, params: Params, image: UInt8[Array, "*b h w 3"]) -> Float[Array, "*b d"]:
        """Images' representations; nothing is learned through them."""
        r_ND = self.encoder.represent(params["encoder"], to_model(image.reshape(-1, *image.shape[-3:])))
        return jax.lax.stop_gradient(r_ND).reshape(*image.shape[:-3], -1)

    def pictures(self, B: int) -> Any:
        """The shapes of a training batch."""
        side = self.config.system.seen
        return PictureBatch(jax.ShapeDtypeStruct((B, side, side, 3), jnp.uint8), jax.ShapeDtypeStruct((B,), jnp.int32))
