"""The contracts of this house: what the loop, the pipeline, previews, preflight and evaluation know of a system.

  System     pure functions of (parameters, arrays, keys): an init, a loss, a way to draw, and the shapes they take
  Feed       what the host does for a system: batches of its data to train on, requests as arrays to draw from
  Request    one thing to draw (request.py)
  Pipeline   systems in a row, each drawing from what the one before has drawn

A system may be `Watched` and its feed may hold examples out (`HoldsOut`) besides: then a training is watched by them.
Its loss may depend on how far the training is (`Paced`). A feed may fit (`Fits`) what of the first parameters the data
decide.

A system whose sampling is no diffusion never calls the diffusion sampler: `System.sample` is the only door.
"""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple, Protocol, runtime_checkable

import numpy as np
from jaxtyping import Array, Float, Int32, Key, UInt8

from reimagen_jax.config import Experiment
from reimagen_jax.systems.request import Request

Params = Any
"""A pytree of arrays; dictionaries all the way down for Linen."""
Batch = Any
"""A pytree of arrays, the batch axis first."""
Inputs = Any
"""A named pytree of arrays, the batch axis first."""
Metrics = dict[str, Array]
Settings = Any
"""How a system draws: a frozen dataclass, static in the compiled program."""


@runtime_checkable
class System(Protocol):
    """A generative model, an encoder, a reader: what can be trained and asked. All of it is pure."""

    config: Experiment

    def init(self, key: Key[Array, ""]) -> Params:
        """Random parameters."""
        ...

    def loss(
        self, params: Params, batch: Batch, key: Key[Array, ""], *, ema: Params
    ) -> tuple[Float[Array, ""], Metrics]:
        """The mean over the batch, and further scalars to log. `ema` is the parameters' average so far, which
        a system may use as a teacher; nothing is differentiated through it."""
        ...

    @property
    def settings(self) -> Settings:
        """How it draws, as its experiment says."""
        ...

    def sample(
        self, params: Params, inputs: Inputs, keys_B: Key[Array, " b"], settings: Settings
    ) -> UInt8[Array, "b h w 3"] | Float[Array, "b h w 3"] | Float[Array, "b d"]:
        """Images (bytes, or floats in [-1, 1] where the settings hand these on), or vectors; sample b depends on its
        own inputs and its own key alone."""
        ...

    def batch_spec(self, B: int) -> Batch:
        """The shapes of a training batch: a pytree of `jax.ShapeDtypeStruct`."""
        ...

    def inputs_spec(self, B: int, settings: Settings) -> Inputs:
        """The shapes of what `sample` takes."""
        ...

    def about(self) -> Mapping[str, str]:
        """What it is, in words: the lines of a model card's table."""
        ...


@runtime_checkable
class Paced(Protocol):
    """What a system may have beside: a loss that depends on how far the training is, as where a part of it sets in."""

    def loss_at(
        self, params: Params, batch: Batch, key: Key[Array, ""], step: Int32[Array, ""], *, ema: Params
    ) -> tuple[Float[Array, ""], Metrics]:
        """`loss` after so many updates, which a step takes in its place; `loss` itself is that of the end."""
        ...


Sums = dict[str, tuple[Array, Array]]
"""What is measured of examples: name -> its sum over those that it is about, and their number. A name with a slash
(`loss/t_0.00-0.50`) is a detail: it is drawn as a curve, not told."""


@runtime_checkable
class Watched(Protocol):
    """What a system may have beside: more to tell of held-out examples than its loss."""

    def measure(self, params: Params, batch: Batch, key: Key[Array, ""]) -> Sums:
        """What a training is watched by; `loss` among it. All examples of the batch with all of their condition."""
        ...


@runtime_checkable
class HoldsOut(Protocol):
    """What a feed may have beside: a part of its data that is not trained on."""

    def held_out(self, number: int, process_index: int | None = None, process_count: int | None = None) -> list[Batch]:
        """About `number` examples that are never trained on, always the same: this process's share of whole batches.
        Empty where nothing is held out."""
        ...


@runtime_checkable
class Fits(Protocol):
    """What a feed may have beside: parameters that are fitted to its data before the first step, and then stay."""

    def fitted(self, params: Params) -> Params:
        """The parameters that a run begins with, those of its weights, completed by what is fitted."""
        ...


class Preview(NamedTuple):
    """A picture of a few examples, drawn as training goes on: a column for each, named rows."""

    captions: Sequence[str]
    shown: Mapping[str, Sequence[np.ndarray | None]]
    """Rows of images that are there; `target` is what is to be drawn, the rows `neighbour ...` what it is shown."""
    drawn: Mapping[str, Inputs]
    """Rows to draw, all with inputs of one shape."""
    left_out: Mapping[str, Sequence[np.ndarray | None]] = {}
    """For rows of `shown`: what was found, but is not shown to the system, in places where there is nothing."""


@runtime_checkable
class Feed(Protocol):
    """What the host does for a system."""

    config: Experiment

    def settled(self) -> "Feed":
        """The feed with its experiment completed by what the data decide. Raises `UserError` when they are missing."""
        ...

    @property
    def fingerprint(self) -> str:
        """Of the data that `dataset` reads: a run does not resume on others."""
        ...

    def dataset(self, process_index: int | None = None, process_count: int | None = None) -> Any:
        """An endless grain data set of this process's share of each step's batch, numpy leaves."""
        ...

    def preview(self, batch: Batch) -> Preview | None:
        """What to draw of these examples as training goes on; None for a system that draws no images."""
        ...

    def check(self, request: Request, settings: Settings) -> None:
        """Raises `UserError` for a request that the system cannot serve."""
        ...

    def prepare(self, requests: Sequence[Request]) -> None:
        """Does all that is expensive for these requests, before they are collated batch by batch."""
        ...

    def collate(self, requests: Sequence[Request], settings: Settings) -> Inputs:
        """The requests as `inputs_spec(len(requests), settings)` says, numpy leaves."""
        ...

    def limited(self, request: Request, settings: Settings) -> Request:
        """The request without what is more than these settings take."""
        ...


@runtime_checkable
class Pipeline(Protocol):
    """Stages that draw for requests, one after the other."""

    seed: int

    @property
    def config(self) -> Experiment:
        """Of the last stage, whose samples are drawn."""
        ...

    @property
    def settings(self) -> Settings:
        """Of the first stage, which the requests' numbers are for."""
        ...

    def __call__(self, requests: Sequence[Request], what: str = "sampling") -> np.ndarray:
        """What the last stage draws, one for each request."""
        ...
