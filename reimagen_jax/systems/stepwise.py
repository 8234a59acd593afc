"""Drawing taken apart into steps, so that whoever watches is told of each, and can stop between two of them.

  begin, then for each of the visits v:  state = step(state, v);  state[0] is what is drawn in the end

A system whose sampling is a diffusion has them by its `sampling` (`steps_of`); one that draws otherwise says them
itself (`Stepwise`), and draws by them: `walked`.
"""

from collections.abc import Callable
from typing import Any, NamedTuple, Protocol, runtime_checkable

import jax
from jaxtyping import Array, Key

from reimagen_jax.diffusion import sampler
from reimagen_jax.systems.base import Inputs, Params, Settings, System
from reimagen_jax.systems.pixels import handed_on

State = tuple[Any, ...]
"""Any pytrees of arrays; the first is what is drawn."""


class Steps(NamedTuple):
    """A drawing, to be walked."""

    begin: State
    visits: Any
    """A pytree of arrays, the axis of the steps first: what each step is told."""
    step: Callable[[State, Any], State]


@runtime_checkable
class Stepwise(Protocol):
    """What a system may have beside: steps of its own, where its sampling is no diffusion."""

    def steps(self, params: Params, inputs: Inputs, keys_B: Key[Array, " b"], settings: Settings) -> Steps:
        """How it draws."""
        ...

    def num_steps(self, settings: Settings) -> int:
        """How many they are."""
        ...

    def finished(self, params: Params, inputs: Inputs, drawn: Any, settings: Settings) -> Array:
        """The samples, of what is drawn in the end."""
        ...


def walked(steps: Steps) -> Any:
    """What is drawn after all steps, as one loop."""
    state, _ = jax.lax.scan(lambda state, visit: (steps.step(state, visit), None), steps.begin, steps.visits)
    return state[0]


def takes_steps(system: System) -> bool:
    """Whether its drawing can be taken apart."""
    return isinstance(system, Stepwise) or hasattr(system, "sampling")


def steps_of(system: Any, params: Params, inputs: Inputs, keys_B: Key[Array, " b"], settings: Settings) -> Steps:
    """How a system draws that takes steps."""
    if isinstance(system, Stepwise):
        return system.steps(params, inputs, keys_B, settings)
    sampling = system.sampling(params, inputs, keys_B, settings)
    step = sampler.step_of(sampling)
    return Steps(sampler.begin(sampling), sampler.visits(sampling.times_T), lambda state, visit: step(state, visit)[0])


def number_of(system: Any, settings: Settings) -> int:
    """How many steps it takes."""
    return system.num_steps(settings) if isinstance(system, Stepwise) else len(system.visited(settings)) - 1


def finished(system: Any, params: Params, inputs: Inputs, drawn: Any, settings: Settings) -> Array:
    """The samples, of what is drawn in the end: by the system, or images as they are handed on."""
    if hasattr(system, "finished"):
        return system.finished(params, inputs, drawn, settings)
    return handed_on(drawn, settings.handed_on)
