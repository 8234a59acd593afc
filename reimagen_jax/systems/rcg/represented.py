"""What RCG's systems have in common: a frozen encoder, whose representations of a batch are made in the step."""

from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int32, UInt8

from reimagen_jax.config import Experiment
from reimagen_jax.encoders.representation import Represents, normalised, representation_of
from reimagen_jax.systems.base import Params
from reimagen_jax.systems.pixels import to_model
from reimagen_jax.systems.rcg.arrays import NO_CLASS, GeneratorInputs, PictureBatch


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


@dataclass(frozen=True)
class Pixels(Represented):
    """A system that draws images from representations, classes or nothing; holds settings only."""

    @property
    def represents(self) -> bool:
        """Whether it draws from representations."""
        return self.config.system.condition == "representation"

    def learned(self, params: Params, batch: PictureBatch) -> Array:
        """What images are drawn from."""
        return self.represent(params, batch.image_BHWC) if self.represents else batch.class_B

    def nothing(self, class_B: Int32[Array, " b"]) -> Bool[Array, " b"]:
        """Who has no class, where classes are drawn from; all, where nothing is."""
        return (class_B == NO_CLASS) & (not self.represents) | (self.config.system.condition == "none")

    def drawn_from(self, params: Params, inputs: GeneratorInputs) -> tuple[Array, Bool[Array, " b"]]:
        """What images are drawn from (the representation of the stage before, or the mean of the neighbours' by their
        weights, normalised again; or a class), and for whom there is something."""
        if not self.represents:
            return inputs.class_B, ~self.nothing(inputs.class_B)
        if inputs.nbr_image_BKHWC.shape[1] == 0:
            return inputs.start_BD, inputs.given_B
        weight_BK = inputs.nbr_weight_BK
        mean_BD = normalised(jnp.einsum("bk,bkd->bd", weight_BK, self.represent(params, inputs.nbr_image_BKHWC)))
        r_BD = jnp.where(inputs.given_B[:, None], inputs.start_BD, mean_BD)
        return r_BD, inputs.given_B | (weight_BK.sum(axis=1) > 0)

    def batch_spec(self, B: int) -> PictureBatch:
        return self.pictures(B)

    def inputs_spec(self, B: int, settings: Any) -> GeneratorInputs:
        side, K, D, shape = self.config.system.seen, self.room(settings), self.start_width, jax.ShapeDtypeStruct
        return GeneratorInputs(
            shape((B,), jnp.int32),
            shape((B,), jnp.float32),
            shape((B, D), jnp.float32),
            shape((B,), jnp.bool_),
            shape((B, K, side, side, 3), jnp.uint8),
            shape((B, K), jnp.float32),
        )

    @property
    def start_width(self) -> int:
        """D: values of a representation; 0 where none is drawn from."""
        return self.config.system.representation_width if self.represents else 0

    def room(self, settings: Any) -> int:
        """Neighbours whose representations are made."""
        if not self.represents:
            return 0
        return self.config.data.num_neighbours if settings.k is None else settings.k
