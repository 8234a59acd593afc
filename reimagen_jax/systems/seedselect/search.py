"""SeedSelect's descent: the gradient of the losses by the noise, through all steps of any sampler, and what follows it.

  x_T <- optimiser(x_T, d loss / d x_T)                         the network's parameters are frozen             (1)
  d loss / d state_i = (d step_i / d state_i)^T  d loss / d state_(i+1)  + what the losses see of step i         (2)

A step's activations are never kept: (2) computes the step again from its state (x_t and the solver's memory), so memory
grows by a state a step, and nothing else. Keys are fixed, so plans of guidance and noise of steps are the same in every
iteration, and the losses are functions of x_T alone.

Source: Samuel et al. 2023 (arXiv 2304.14530), section 4.
"""

import time
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Float

from reimagen_jax import progress, runtime
from reimagen_jax.diffusion import sampler
from reimagen_jax.diffusion.base import Project
from reimagen_jax.errors import require
from reimagen_jax.systems import finite
from reimagen_jax.systems.seedselect.losses import Embed, Goal, Scores, on_sphere, passed, score
from reimagen_jax.systems.seedselect.settings import SeedSelectConfig

SamplingOf = Callable[[Any], sampler.Sampling]
"""told -> what is sampled; pure, its shapes and settings fixed. All numbers that differ from search to search are told,
so that one program serves all."""
DROP = 0.1
"""Of the learning rate, at `drop_at`."""


class Objective:
    """The losses as functions of x_T, compiled once for each shape."""

    def __init__(self, sampling_of: SamplingOf, embed: Embed, settings: SeedSelectConfig) -> None:
        """`embed` takes images in [-1, 1] of the sampler's size."""
        self.sampling_of, self.embed, self.settings = sampling_of, embed, settings
        scans = settings.loop == "scan" or (settings.loop == "auto" and jax.default_backend() != "cpu")
        self._run = self._by_scan if scans else self._by_steps
        self.programs: dict[Any, jax.stages.Compiled] = {}
        """Compiled, by their names and the shapes that they are for."""
        self.seconds_compiling = 0.0

    def __call__(
        self, x_T: Float[Array, "b *s"], told: Any, goal: Goal, encoder: Any, gradient: bool = True
    ) -> tuple[Scores, Float[Array, "b *s"] | None]:
        """Scores of noises, and the gradient of each loss by its own noise if it is wanted.

        `encoder` are the parameters of `embed`.
        """
        return self._run(x_T, told, goal, encoder, gradient)

    def memory(self) -> int:
        """Bytes of temporaries of the largest program; what is called with and returned comes on top."""
        return max(program.memory_analysis().temp_size_in_bytes for program in self.programs.values())

    def _sampling(self, x_T: Array, told: Any) -> sampler.Sampling:
        sampling = self.sampling_of(told)
        return sampling._replace(x_T=x_T, project=self._project(sampling.project))

    def _project(self, project: Project) -> Project:
        """The projection, with the gradient that is asked for: what is drawn is what `sample` draws."""
        return lambda x0, x, t: passed(x0, project(x0, x, t), self.settings)

    def _score(self, x_T: Array, steps: sampler.Step, goal: Goal, encoder: Any) -> tuple[Array, Scores]:
        """The sum over the batch, whose gradient is that of each loss by its own noise; and the scores."""
        scores = score(x_T, steps, goal, self.embed, encoder, self.settings)
        return scores.loss_B.sum(), scores

    def _call(self, name: str, program: Callable[..., Any], *inputs: Any) -> Any:
        """What the program of this name returns, compiled where it is first asked for these shapes."""
        leaves, structure = jax.tree.flatten(inputs)
        key = name, structure, tuple((leaf.shape, leaf.dtype) for leaf in leaves)
        if key not in self.programs:
            began = time.perf_counter()
            # Of leaves: lowered with their trees, classes that check their fields would be made of what is no array.
            flat = jax.jit(lambda *leaves: program(*jax.tree.unflatten(structure, leaves)))
            with progress.compiling("the search", runtime.cache()):
                self.programs[key] = flat.lower(*leaves).compile()
            self.seconds_compiling += time.perf_counter() - began
        return self.programs[key](*leaves)

    # --- one program --------------------------------------------------------------------------------------------------

    def _by_scan(self, x_T: Array, told: Any, goal: Goal, encoder: Any, gradient: bool) -> tuple[Scores, Any]:
        def value(x_T: Array, told: Any, goal: Goal, encoder: Any) -> tuple[Array, Scores]:
            steps = sampler.last_steps(self._sampling(x_T, told), len(self.settings.step_weights))
            return self._score(x_T, steps, goal, encoder)

        if not gradient:
            return self._call("value", value, x_T, told, goal, encoder)[1], None
        (_, scores), slope = self._call("gradient", jax.value_and_grad(value, has_aux=True), x_T, told, goal, encoder)
        return scores, slope

    # --- a program a step ---------------------------------------------------------------------------------------------

    def _by_steps(self, x_T: Array, told: Any, goal: Goal, encoder: Any, gradient: bool) -> tuple[Scores, Any]:
        k = len(self.settings.step_weights)
        condition, state, visits = self._call("begin", self._begin, x_T, told)
        visits = list(zip(*visits, strict=True))
        states, steps = [], []
        for visit in visits:
            states.append(state)
            state, step = self._call("step", self._step, told, condition, state, visit)
            steps = [*steps, step][-k:]
        seen = jax.tree.map(lambda *leaves: jnp.stack(leaves), *steps)
        if not gradient:
            return self._call("score", self._score, x_T, seen, goal, encoder)[1], None
        of = jax.value_and_grad(self._score, argnums=(0, 1), has_aux=True)
        (_, scores), (slope, slopes) = self._call("score and gradient", of, x_T, seen, goal, encoder)
        nothing = jax.tree.map(jnp.zeros_like, steps[-1])
        back = [jnp.zeros_like(leaf) for leaf in _floats(state)]
        for i, visit in reversed(list(enumerate(visits))):
            j = i - (len(visits) - k)
            of_step = jax.tree.map(lambda leaf, j=j: leaf[j], slopes) if j >= 0 else nothing
            back = self._call("back", self._back, told, condition, states.pop(), visit, back, of_step)
        # x_T is in the first state, and in what the solver remembers of it from the start.
        return scores, slope + self._call("back to noise", self._back_to_noise, x_T, told, back)

    def _begin(self, x_T: Array, told: Any) -> tuple[Any, sampler.State, sampler.Visit]:
        sampling = self._sampling(x_T, told)
        return sampling.condition, sampler.begin(sampling), sampler.visits(sampling.times_T)

    def _step(
        self, told: Any, condition: Any, state: sampler.State, visit: sampler.Visit
    ) -> tuple[sampler.State, sampler.Step]:
        """One step; the condition is handed in, so that none is computed (what nobody uses is left out)."""
        sampling = self._sampling(state[0], told)._replace(condition=condition)
        return sampler.step_of(sampling)(state, visit)

    def _back(
        self,
        told: Any,
        condition: Any,
        state: sampler.State,
        visit: sampler.Visit,
        slopes: list[Array],
        of_step: sampler.Step,
    ) -> list[Array]:
        """(2)"""

        def step(floats: list[Array]) -> tuple[list[Array], sampler.Step]:
            after, seen = self._step(told, condition, _with_floats(state, floats), visit)
            return _floats(after), seen

        return jax.vjp(step, _floats(state))[1]((slopes, of_step))[0]

    def _back_to_noise(self, x_T: Array, told: Any, slopes: list[Array]) -> Array:
        def begin(x_T: Array) -> list[Array]:
            return _floats(sampler.begin(self._sampling(x_T, told)))

        return jax.vjp(begin, x_T)[1](slopes)[0]


def _is_float(leaf: Array) -> bool:
    return jnp.issubdtype(leaf.dtype, jnp.inexact)


def _floats(tree: Any) -> list[Array]:
    """The leaves that have a gradient."""
    return [leaf for leaf in jax.tree.leaves(tree) if _is_float(leaf)]


def _with_floats(tree: Any, floats: list[Array]) -> Any:
    """The tree with other leaves in the place of `_floats`."""
    rest = iter(floats)
    return jax.tree.map(lambda leaf: next(rest) if _is_float(leaf) else leaf, tree)


class Found(NamedTuple):
    """What the search of B noises has found, and how it went; arrays of numpy."""

    x_T: np.ndarray
    """The best noises, [B, *S]."""
    image_BHWC: np.ndarray
    """Their images, in [-1, 1] up to what the sampler leaves beyond."""
    first_BHWC: np.ndarray
    """The images of the noises that the search began with."""
    best_B: np.ndarray
    """The iteration of each that was best: 0 is before the first update."""
    loss_IB: np.ndarray
    """Of every iteration; NaN for images whose search had stopped."""
    semantic_IB: np.ndarray
    appearance_IB: np.ndarray
    norm_IB: np.ndarray
    """|x_T|"""


def optimizer_of(settings: SeedSelectConfig) -> optax.GradientTransformation:
    """Adam, or AdamW as published: decay of the noise by learning_rate * weight_decay at every update."""
    rate: Any = settings.learning_rate
    if settings.drop_at is not None:
        rate = optax.piecewise_constant_schedule(rate, {settings.drop_at: DROP})
    if settings.optimizer == "adam":
        return optax.adam(rate)
    return optax.adamw(rate, weight_decay=settings.weight_decay)


def search(
    objective: Objective,
    x_T: Float[Array, "b *s"],
    told: Any,
    goal: Goal,
    encoder: Any,
    *,
    iterations: int | None = None,
    track: Callable[[range], Iterable[int]] = iter,
) -> Found:
    """Follows (1) from x_T and returns the best noises that it has met, each by its own loss.

    A noise whose loss has found no new minimum for `patience` iterations is not looked at any more; where none is left,
    the search ends. `iterations` is by default that of the settings. Raises `UserError` where a loss is not finite from
    the start.
    """
    settings, optimizer = objective.settings, optimizer_of(objective.settings)
    iterations = settings.iterations if iterations is None else iterations

    @jax.jit
    def update(x_T: Array, slope: Array, memory: Any) -> tuple[Array, Any]:
        with jax.numpy_dtype_promotion("standard"):  # optax mixes integers and floats, which our tests forbid
            change, memory = optimizer.update(slope, memory, x_T)
        x_T = optax.apply_updates(x_T, change)  # (1)
        return (on_sphere(x_T) if settings.norm == "sphere" else x_T), memory

    B, memory, history = len(x_T), optimizer.init(x_T), []
    lowest_B, best_B, going_B = np.full(B, np.inf), np.zeros(B, int), np.ones(B, bool)
    for i in track(range(iterations + 1)):
        scores, slope = objective(x_T, told, goal, encoder, gradient=i < iterations)
        scores = jax.tree.map(np.asarray, scores)
        require(i > 0 or bool(np.isfinite(scores.loss_B).all()), f"the loss is not finite: {finite.CAUSES}")
        if i == 0:
            first = images = scores.image_BHWC
            best = np.asarray(x_T)
        better_B = going_B & (scores.loss_B < lowest_B)
        lowest_B, best_B = np.where(better_B, scores.loss_B, lowest_B), np.where(better_B, i, best_B)
        best, images = _where(better_B, np.asarray(x_T), best), _where(better_B, scores.image_BHWC, images)
        rows = scores.loss_B, scores.semantic_B, scores.appearance_B, scores.norm_B
        history.append([np.where(going_B, row, np.nan) for row in rows])
        if settings.patience is not None:
            going_B = going_B & (i - best_B < settings.patience)
        if not going_B.any() or slope is None:
            break
        x_T, memory = update(x_T, slope, memory)
    curves = (np.stack(rows) for rows in zip(*history, strict=True))
    return Found(best, images, first, best_B, *curves)


def _where(mask_B: np.ndarray, x: np.ndarray, y: np.ndarray) -> np.ndarray:
    return np.where(mask_B.reshape(-1, *(1,) * (x.ndim - 1)), x, y)
