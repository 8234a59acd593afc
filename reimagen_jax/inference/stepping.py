"""A stage that tells of every step, and stops between two of them; its images are those of `Stage`, bit for bit.

`Stage` compiles the whole of a drawing. Here three programs make it: what is done before the first step, some steps,
and what is done with what is drawn. All that a step needs besides its state (the condition as it was read, the plan of
guidance, numbers, keys) leaves the first program as arrays, whatever system, guide, solver or edit they belong to: they
are the constants of the step's jaxpr. The steps stay a loop over the same body, whose bounds are arguments, so that XLA
computes a step of it as it does within the whole.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from itertools import islice
from typing import Any

import jax
import numpy as np
from jax.extend.core import ClosedJaxpr, jaxpr_as_fun

from reimagen_jax import randomness
from reimagen_jax.inference.pipeline import Stage
from reimagen_jax.systems import finite, stepwise
from reimagen_jax.systems.base import Settings, System
from reimagen_jax.systems.request import Request
from reimagen_jax.systems.stepwise import State, Steps

Tell = Callable[[int, int], None]
"""Is told after each step of how many there are; what it raises ends the drawing."""


def _silent(step: int, steps: int) -> None:
    return None


class Walk:
    """The three programs for inputs of one shape."""

    def __init__(self, steps: Callable[..., Steps], end: Callable[..., jax.Array]) -> None:
        """`steps` takes parameters, inputs and keys, `end` makes samples of parameters, inputs and what is drawn."""
        self.steps = steps
        self.begin, self.advance, self.end = jax.jit(self._begin), jax.jit(self._advance), jax.jit(finite.watched(end))

    def _begin(self, *told: Any) -> tuple[State, Any, list[jax.Array]]:
        """Where drawing begins, what its steps are told, and the constants of a step."""
        steps = self.steps(*told)
        visit = jax.tree.map(lambda leaf: leaf[0], steps.visits)
        leaves, tree = jax.tree.flatten((steps.begin, visit))
        closed = jax.make_jaxpr(lambda *leaves: jax.tree.leaves(steps.step(*jax.tree.unflatten(tree, leaves))))(*leaves)
        self._step = closed.jaxpr  # of the inputs' shapes alone, as is all that is traced
        return steps.begin, steps.visits, closed.consts

    def _advance(
        self, constants: Sequence[jax.Array], state: State, visits: Any, first: jax.Array, end: jax.Array
    ) -> State:
        """The state after the steps from `first` to before `end`."""
        step = jaxpr_as_fun(ClosedJaxpr(self._step, constants))

        def body(i: jax.Array, state: State) -> State:
            visit = jax.tree.map(lambda leaf: leaf[i], visits)
            return jax.tree.unflatten(jax.tree.structure(state), step(*jax.tree.leaves((state, visit))))

        return jax.lax.fori_loop(first, end, body, state)


class Walks:
    """What draws step by step: the programs for inputs of each shape. Edits and negative prompts have their own."""

    def __init__(self, system: System, settings: Settings) -> None:
        self.compilations = 0
        self._system, self._settings = system, settings
        self._known: dict[Any, Walk] = {}

    def of(self, told: Any) -> Walk:
        """The programs for these inputs."""
        leaves, tree = jax.tree.flatten(told)
        shape = tree, tuple((np.shape(leaf), leaf.dtype) for leaf in leaves)
        if shape not in self._known:
            end = partial(stepwise.finished, self._system, settings=self._settings)
            self._known[shape] = Walk(self._steps, end)
        return self._known[shape]

    def _steps(self, *told: Any) -> Steps:
        self.compilations += 1  # runs when JAX traces, not when the program runs
        return stepwise.steps_of(self._system, *told, self._settings)


class SteppedStage(Stage):
    """A stage whose system takes steps (systems/stepwise.py); `tell` is called before the first step of a batch, and
    after each."""

    def __init__(self, *args: Any, tell: Tell = _silent, **how: Any) -> None:
        """As `Stage`, on one device."""
        super().__init__(*args, **how)
        self.tell = tell

    def _made(self) -> Walks:
        return self._shared(Walks) if self.shared else Walks(self.system, self.settings)

    def batches(self, requests: Iterable[Request], seed: int) -> Iterator[tuple[list[Request], np.ndarray]]:
        """As `Stage.batches`, one batch after the other."""
        params, requests = None, iter(requests)
        while asked := list(islice(requests, self.at_once)):
            batch = [*asked, *[asked[-1]] * (self.at_once - len(asked))]
            with randomness.same_numbers():
                if params is None:
                    params = jax.device_put(self.params)
                output = self._walked(params, *self.told(batch, seed))
            yield self._finished(asked, batch, output)

    @property
    def num_steps(self) -> int:
        """Of a batch; but for those that are walked again (`repeats`)."""
        return stepwise.number_of(self.system, self.settings)

    def _walked(self, params: Any, inputs: Any, keys_B: jax.Array) -> tuple[finite.Note, jax.Array]:
        walk = self._program.of((inputs, keys_B))
        state, visits, constants = walk.begin(params, inputs, keys_B)
        steps = len(jax.tree.leaves(visits)[0])
        self.tell(0, steps)
        for i in range(steps):
            state = walk.advance(constants, state, visits, np.int32(i), np.int32(i + 1))
            jax.block_until_ready(state)
            self.tell(i + 1, steps)
        return walk.end(params, inputs, state[0])


def stepped(stage: Stage, tell: Tell) -> Stage:
    """The stage, to tell of its steps; as it is where its system takes none, or several devices draw."""
    if stage.mesh is not None or not stepwise.takes_steps(stage.system):
        return stage
    return SteppedStage(
        stage.config, stage.params, stage.settings, batch_size=stage.batch_size, shared=stage.shared, tell=tell
    )
