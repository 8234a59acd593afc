"""A stage that tells of every step, and stops between two of them; its images are those of `Stage`, bit for bit.

`Stage` compiles the whole of a drawing. Here three programs make it: what is done before the first step, some steps,
and what is done with the last x. All that a step needs besides x_t and the solver's memory (the condition as it was
read, the plan of guidance, numbers, keys) leaves the first program as arrays, whatever system, guide, solver or edit
they belong to: they are the constants of the step's jaxpr. The steps stay a loop over the same body, whose bounds are
arguments, so that XLA computes a step of it as it does within the whole.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from itertools import islice
from typing import Any

import jax
import numpy as np
from jax.extend.core import ClosedJaxpr, jaxpr_as_fun

from reimagen_jax import randomness
from reimagen_jax.diffusion import sampler
from reimagen_jax.inference.pipeline import Stage
from reimagen_jax.systems import finite
from reimagen_jax.systems.pixels import handed_on
from reimagen_jax.systems.request import Request

Tell = Callable[[int, int], None]
"""Is told after each step of how many there are; what it raises ends the drawing."""


def _silent(step: int, steps: int) -> None:
    return None


class Walk:
    """The three programs for inputs of one shape."""

    def __init__(self, sampling: Callable[..., sampler.Sampling], end: Callable[[jax.Array], jax.Array]) -> None:
        """`sampling` gives what is sampled for parameters and inputs, `end` makes images of the last x."""
        self.sampling = sampling
        self.begin, self.advance, self.end = jax.jit(self._begin), jax.jit(self._advance), jax.jit(finite.watched(end))

    def _begin(self, *told: Any) -> tuple[sampler.State, jax.Array, list[jax.Array]]:
        """Where sampling begins, the times that it visits, and the constants of a step."""
        sampling = self.sampling(*told)
        state, step = sampler.begin(sampling), sampler.step_of(sampling)
        visit = jax.tree.map(lambda leaf: leaf[0], sampler.visits(sampling.times_T))
        leaves, tree = jax.tree.flatten((state, visit))
        closed = jax.make_jaxpr(lambda *leaves: jax.tree.leaves(step(*jax.tree.unflatten(tree, leaves))[0]))(*leaves)
        self._step = closed.jaxpr  # of the inputs' shapes alone, as is all that is traced
        return state, sampling.times_T, closed.consts

    def _advance(
        self, constants: Sequence[jax.Array], state: sampler.State, times_T: jax.Array, first: jax.Array, end: jax.Array
    ) -> sampler.State:
        """The state after the steps from `first` to before `end`."""
        step, visits = jaxpr_as_fun(ClosedJaxpr(self._step, constants)), sampler.visits(times_T)

        def body(i: jax.Array, state: sampler.State) -> sampler.State:
            visit = jax.tree.map(lambda leaf: leaf[i], visits)
            return jax.tree.unflatten(jax.tree.structure(state), step(*jax.tree.leaves((state, visit))))

        return jax.lax.fori_loop(first, end, body, state)


class SteppedStage(Stage):
    """A stage whose system's sampling is a diffusion; `tell` is called before the first step of a batch, and after
    each."""

    def __init__(self, *args: Any, tell: Tell = _silent, **how: Any) -> None:
        """As `Stage`, on one device."""
        super().__init__(*args, **how)
        self.tell = tell
        self._walks: dict[Any, Walk] = {}

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

    def _walked(self, params: Any, *told: Any) -> tuple[finite.Note, jax.Array]:
        walk = self._walk(told)
        state, times_T, constants = walk.begin(params, *told)
        steps = len(times_T) - 1
        self.tell(0, steps)
        for i in range(steps):
            state = walk.advance(constants, state, times_T, np.int32(i), np.int32(i + 1))
            jax.block_until_ready(state)
            self.tell(i + 1, steps)
        return walk.end(state[0])

    def _walk(self, told: Any) -> Walk:
        """The programs for these inputs: edits and negative prompts have their own."""
        leaves, tree = jax.tree.flatten(told)
        shape = tree, tuple((np.shape(leaf), leaf.dtype) for leaf in leaves)
        if shape not in self._walks:
            self._walks[shape] = Walk(self._sampling, partial(handed_on, form=self.settings.handed_on))
        return self._walks[shape]

    def _sampling(self, *told: Any) -> sampler.Sampling:
        self.compilations += 1  # runs when JAX traces, not when the program runs
        return self.system.sampling(*told, self.settings)


def stepped(stage: Stage, tell: Tell) -> Stage:
    """The stage, to tell of its steps; as it is where its system takes none, or several devices draw."""
    images_by_steps = hasattr(stage.system, "sampling") and hasattr(stage.settings, "handed_on")
    if stage.mesh is not None or not images_by_steps:
        return stage
    return SteppedStage(stage.config, stage.params, stage.settings, batch_size=stage.batch_size, tell=tell)
