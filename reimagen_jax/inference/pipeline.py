"""Opened models that draw: stages in a row, each with settings of its own and one compiled program.

A stage's batches are padded to one size, so whatever is asked (any guidance, any number of neighbours up to the most)
runs through the same program: a sweep compiles once. A frozen text encoder has done its work, and has left memory,
before the parameters go to the device. Stage by stage over all requests: with parameters that lie in the host's memory,
one stage at a time is on the device. A stage's image is where the next one starts; the prompt, the neighbours (decoded
at each stage's own resolution) and the image's index are the same for all. Source: Imagen section 2.4; Re-Imagen 3.1.
"""

from collections.abc import Sequence
from dataclasses import replace
from functools import cached_property
from itertools import pairwise

import jax
import numpy as np

from reimagen_jax import randomness
from reimagen_jax.checked import Count, Seed, checked
from reimagen_jax.config import Experiment
from reimagen_jax.data import images
from reimagen_jax.diffusion.sampler import image_keys
from reimagen_jax.errors import UserError, require
from reimagen_jax.progress import track
from reimagen_jax.systems import finite, kinds
from reimagen_jax.systems.base import Params, Request, Settings


class Stage:
    """A model with the settings that it draws with."""

    def __init__(
        self, config: Experiment, params: Params, settings: Settings | None = None, *, batch_size: int = 32
    ) -> None:
        """`settings` are those of the experiment by default.

        `params` may be arrays of numpy: they are on the device then only while this stage draws. Raises `UserError`
        when the settings do not fit the model.
        """
        self.config = config
        self.system, self.feed = kinds.system_of(config), kinds.feed_of(config)
        self.params = params
        self.settings = self.system.settings if settings is None else settings
        config.system.check_settings(self.settings)
        self.batch_size = checked(batch_size, Count, "batch_size")
        self.compilations = 0

    @cached_property
    def _program(self):
        def program(params, inputs, keys):
            self.compilations += 1  # runs when JAX traces, not when the program runs
            return self.system.sample(params, inputs, keys, self.settings)

        return jax.jit(finite.watched(program))

    def draw(self, requests: Sequence[Request], seed: int = 0, what: str = "sampling") -> np.ndarray:
        """One sample for each request: uint8 [N, R, R, 3], float32 in [-1, 1] (`handed_on`), or float32 [N, D].

        Raises `UserError` for requests that the system cannot serve, when a frozen text encoder is missing, and for
        samples that are not finite, naming the first.
        """
        for request in requests:
            self.feed.check(request, self.settings)
        if not requests:
            return self._nothing()
        self.feed.prepare(requests)
        params = jax.device_put(self.params)
        firsts, drawn, running = range(0, len(requests), self.batch_size), [], []
        for first in track(firsts, len(firsts), what, "batch"):
            batch = requests[first : first + self.batch_size]
            batch = [*batch, *[batch[-1]] * (self.batch_size - len(batch))]
            keys = image_keys(seed, [request.index for request in batch])
            running.append((batch, self._program(params, self.feed.collate(batch, self.settings), keys)))
            if len(running) > 1:  # looking at one batch while the next one runs keeps the device busy
                drawn.append(self._finished(*running.pop(0)))
        drawn.append(self._finished(*running.pop()))
        return np.concatenate(drawn)[: len(requests)]

    def _finished(self, batch: Sequence[Request], output: tuple[finite.Note, jax.Array]) -> np.ndarray:
        note, samples = output
        broken_B = finite.broken(note, len(batch))
        if broken_B.any():
            first = batch[broken_B.argmax()]
            what = f"{broken_B.sum()} of {len(batch)} in a batch, the first is number {first.index}, {first.prompt!r}"
            raise UserError(f"{self.config.name} has drawn samples that are not finite ({what}): {finite.CAUSES}")
        return np.asarray(samples)

    def _nothing(self) -> np.ndarray:
        spec = self.system.inputs_spec(1, self.settings), jax.eval_shape(lambda: jax.random.split(randomness.key(0), 1))
        shape = jax.eval_shape(
            lambda params, *told: self.system.sample(params, *told, self.settings), self.params, *spec
        )
        return np.zeros((0, *shape.shape[1:]), shape.dtype)


class Pipeline:
    """Stages in order; each starts from what the one before has drawn, the first from what is asked alone."""

    def __init__(self, stages: Sequence[Stage], seed: int = 0) -> None:
        """`seed` is of the noise of all stages. Raises `UserError` when the stages do not chain, or it is no seed."""
        check_chain([stage.config for stage in stages])
        self.stages, self.seed = tuple(stages), checked(seed, Seed, "seed")

    @property
    def config(self) -> Experiment:
        """Of the last stage, whose samples are drawn."""
        return self.stages[-1].config

    @property
    def settings(self) -> Settings:
        """Of the first stage, which the requests' numbers are for."""
        return self.stages[0].settings

    def __call__(self, requests: Sequence[Request], what: str = "sampling") -> np.ndarray:
        """What the last stage draws, one for each request."""
        return self.draw(requests, what)[-1]

    def draw(self, requests: Sequence[Request], what: str = "sampling") -> list[np.ndarray]:
        """What every stage draws, in order, images as bytes. The requests' own numbers are for the first stage."""
        drawn: list[np.ndarray] = []
        for number, stage in enumerate(self.stages, 1):
            if drawn:
                pairs = zip(requests, drawn[-1], strict=True)
                requests = [replace(request, start=image, guidance={}) for request, image in pairs]
            title = f"{what}, stage {number}: {stage.config.name}" if len(self.stages) > 1 else what
            asked = [stage.feed.limited(request, stage.settings) for request in requests]
            drawn.append(stage.draw(asked, self.seed, title))
        return [images.rounded(each) if each.ndim == 4 else each for each in drawn]


def check_chain(configs: Sequence[Experiment]) -> None:
    """Raises `UserError` unless every stage but the first takes what the one before draws."""
    require(len(configs) > 0, "a pipeline without stages draws nothing")
    for number, (before, config) in enumerate(pairwise(configs), 2):
        config.system.check_follows(before, f"stage {number} of the cascade, {config.name},")
