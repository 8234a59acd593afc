"""What RCG draws: images out of nothing or of a class, a picture again and again, what lies between two.

  draw         r of an RDM, then an image of r; or an image of a class, or of nothing, by a generator alone
  reconstruct  r of a picture, then images of r from several noises: what stays is what r tells                   (1)
  interpolate  normalised((1 - share) r_1 + share r_2), from one noise along the way                              (2)

They are plans of `edits.py`; a pixel generator is any system that represents images and draws from what it finds: by
diffusion, or MAGE. Source: Li et al. 2024 (RCG, arXiv 2312.03701), figures 6 (1) and 7 (2), which does not say whether
(2) is normalised.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from reimagen_jax.checked import Count, checked
from reimagen_jax.encoders.representation import normalised
from reimagen_jax.errors import require
from reimagen_jax.inference.codes import embedded
from reimagen_jax.inference.edits import Plan, Row
from reimagen_jax.inference.model import Model
from reimagen_jax.inference.prompts import Prompt
from reimagen_jax.systems import kinds
from reimagen_jax.systems.request import Request

COLUMNS = 8
"""Images in a row of the contact sheet, at most, where they have nothing in common."""


@dataclass(frozen=True)
class Representer:
    """A pixel generator, to find the representations that it draws from."""

    model: Model
    batch_size: Count = 16

    def __post_init__(self) -> None:
        config = self.model.config
        require(
            hasattr(self._system, "represent") and getattr(config.system, "condition", "") == "representation",
            f"{self.model.path} is a {config.system.kind}"
            + "".join(f" of condition {each!r}" for each in filter(None, [getattr(config.system, "condition", "")]))
            + ": give a pixel generator of RCG that draws from representations",
        )

    def images(self, pictures: Sequence[np.ndarray]) -> Float[np.ndarray, "n d"]:
        """Representations of images, uint8 [S, S, 3] of any sizes."""
        side = self.model.config.system.seen
        return embedded(self._represent, self._encoder, pictures, side, self.batch_size)

    @property
    def _system(self) -> Any:
        return kinds.system_of(self.model.config)

    @cached_property
    def _encoder(self) -> Any:
        return jax.device_put({"encoder": self.model.params["encoder"]})

    @cached_property
    def _represent(self) -> Any:
        return jax.jit(self._system.represent)


def drawings(classes: Sequence[str] = (), num_images: int = 16) -> Plan:
    """Images of each class, a row each; without any, of whatever comes."""
    checked(num_images, Count, "num_images")
    if not classes:
        across = max(n for n in range(1, COLUMNS + 1) if num_images % n == 0)
        requests = [Request(index=i) for i in range(num_images)]
        rows = [_row("", requests[i : i + across]) for i in range(0, num_images, across)]
    else:
        rows = [
            _row(name, [Request(name, index=p * num_images + s) for s in range(num_images)])
            for p, name in enumerate(classes)
        ]
    return Plan("draw", tuple(rows), {"classes": list(classes)})


def reconstructions(representer: Representer, pictures: Mapping[str, np.ndarray], num_images: int = 4) -> Plan:
    """(1): a row for each picture, with what is drawn of it from noises that are the same for all."""
    checked(num_images, Count, "num_images")
    rows = [
        _row(name, [Request(index=s, start=r_D) for s in range(num_images)], {"picture": picture})
        for (name, picture), r_D in zip(pictures.items(), representer.images(list(pictures.values())), strict=True)
    ]
    return Plan("reconstruct", tuple(rows), {})


def interpolations(
    representer: Representer, first: np.ndarray, second: np.ndarray, *, frames: int = 7, num_images: int = 1
) -> Plan:
    """(2): `num_images` ways from one picture to another, each from a noise of its own."""
    require(checked(frames, Count, "frames") > 1, "frames 1: from one picture to another are 2 at least")
    checked(num_images, Count, "num_images")
    shares, ends = np.linspace(0.0, 1.0, frames), representer.images([first, second])
    between = between_of(ends, shares)
    rows = []
    for s in range(num_images):
        requests = [
            Request(index=s, start=r_D, told={"share": float(share)})
            for r_D, share in zip(between, shares, strict=True)
        ]
        shown = {"first": first} | {f"{share:.2f}": i for i, share in enumerate(shares)} | {"second": second}
        rows.append(Row(Prompt(f"noise {s + 1}"), tuple(requests), shown))
    return Plan("interpolate", tuple(rows), {"shares": shares.tolist()})


def between_of(ends_2D: Float[np.ndarray, "2 d"], shares_F: Float[np.ndarray, " f"]) -> Float[np.ndarray, "f d"]:
    """(2); the ends as they are."""
    mixed_FD = (1.0 - shares_F)[:, None] * ends_2D[0] + shares_F[:, None] * ends_2D[1]
    return np.asarray(normalised(jnp.asarray(mixed_FD, jnp.float32)))


def _row(label: str, requests: Sequence[Request], before: Mapping[str, np.ndarray] | None = None) -> Row:
    drawn = {f"{i + 1}": i for i in range(len(requests))}
    return Row(Prompt(label), tuple(requests), {**(before or {}), **drawn})
