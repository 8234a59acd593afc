"""Opened models that draw: stages in a row, each with settings of its own and one compiled program.

A stage's batches are padded to one size, so whatever is asked (any guidance, any number of neighbours up to the most)
runs through the same program: a sweep compiles once. A frozen text encoder has done its work, and has left memory,
before the parameters go to the device. Stage by stage over all requests: with parameters that lie in the host's memory,
one stage at a time is on the device. On several devices each draws a batch of its own, by the program that one would
run: an image does not depend on how many there are. A stage's image is where the next one starts; the prompt, the
neighbours (decoded at each stage's own resolution) and the image's index are the same for all. Source: Imagen section
2.4; Re-Imagen 3.1.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import nullcontext
from dataclasses import replace
from functools import lru_cache
from itertools import islice, pairwise
from typing import Any

import jax
import numpy as np
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P

from reimagen_jax import randomness, runtime
from reimagen_jax.checked import Count, Seed, checked
from reimagen_jax.config import Experiment
from reimagen_jax.data import images
from reimagen_jax.diffusion.sampler import image_keys
from reimagen_jax.errors import UserError, require
from reimagen_jax.pretrained import weights
from reimagen_jax.progress import compiling, track
from reimagen_jax.sharding import batch_sharding, make_mesh
from reimagen_jax.systems import finite, kinds
from reimagen_jax.systems.base import Params, Settings, System
from reimagen_jax.systems.request import Request


class Program:
    """What draws a batch: compiled at the first, and for each further form of a batch (edits, negative prompts)."""

    def __init__(self, sample: Callable[..., jax.Array]) -> None:
        """`sample` takes parameters, inputs and keys, as `System.sample` does."""
        self.compilations = 0

        def program(*told: Any) -> jax.Array:
            self.compilations += 1  # runs when JAX traces, not when the program runs
            return sample(*told)

        # Nothing is donated: the noise is drawn inside, and but for an edited image's no input has the samples' shape.
        self._jitted = jax.jit(finite.watched(program))

    def __call__(self, *told: Any) -> tuple[finite.Note, jax.Array]:
        """Which samples are not finite, and the samples."""
        return self._jitted(*told)

    @classmethod
    def of(cls, system: System, settings: Settings) -> "Program":
        """What draws by a system with these settings."""
        return cls(lambda *told: system.sample(*told, settings))


def shared(make: Callable[..., Any], *told: Any, where: tuple[Any, ...] = ()) -> Any:
    """What `make` makes of these, the same again for the same, there: what was compiled for a model serves whoever
    opens it again, be it with other parameters. Made anew where a system's settings cannot be hashed."""
    try:
        hash(told)
    except TypeError:
        return make(*told)
    return _shared(make, told, where)


@lru_cache(maxsize=64)
def _shared(make: Callable[..., Any], told: tuple[Any, ...], where: tuple[Any, ...]) -> Any:
    return make(*told)


def forget() -> None:
    """Lets nothing that was shared serve again: for who changes a system's code while Python runs."""
    _shared.cache_clear()


class Stage:
    """A model with the settings that it draws with."""

    def __init__(
        self,
        config: Experiment,
        params: Params,
        settings: Settings | None = None,
        *,
        batch_size: int = 32,
        devices: Sequence[jax.Device] = (),
        shared: bool = False,
    ) -> None:
        """`settings` are those of the experiment by default; each of the devices (default: JAX's) draws `batch_size`
        images at once. With `shared` its program is that of all stages that draw alike.

        `params` may be arrays of numpy: they are on the devices then only while this stage draws. Raises `UserError`
        when the settings do not fit the model.
        """
        self.config = config
        self.system, self.feed = kinds.system_of(config), kinds.feed_of(config)
        self.params = params
        self.settings = self.system.settings if settings is None else settings
        config.system.check_settings(self.settings)
        self.batch_size = checked(batch_size, Count, "batch_size")
        self.mesh = make_mesh(devices=devices) if devices else None
        self.shared = shared
        self._program = self._made()

    def _made(self) -> Any:
        return self._shared(Program.of) if self.shared else Program(self.sample)

    def _shared(self, make: Callable[..., Any]) -> Any:
        """What all stages have that draw the same number at once by the same system, with the same settings, there."""
        return shared(make, self.system, self.settings, where=(self.batch_size, self.mesh))

    @property
    def compilations(self) -> int:
        """How often what draws was compiled."""
        return self._program.compilations

    @property
    def at_once(self) -> int:
        """Images that all devices draw at once."""
        return self.batch_size * (1 if self.mesh is None else self.mesh.size)

    def told(self, batch: Sequence[Request], seed: int) -> tuple[Any, ...]:
        """What the program takes for requests besides the parameters."""
        inputs = self.feed.collate([self.feed.limited(each, self.settings) for each in batch], self.settings)
        return inputs, image_keys(seed, [request.index for request in batch])

    def sample(self, params: Params, inputs: Any, keys_B: jax.Array) -> jax.Array:
        """What the program does with it."""
        return self.system.sample(params, inputs, keys_B, self.settings)

    def temporaries(self, batch: Sequence[Request], seed: int) -> int:
        """Bytes of temporaries of the program that draws a batch."""
        self.prepare(batch)
        program = jax.jit(self.sample).lower(self.params, *self.told(batch, seed))
        return program.compile().memory_analysis().temp_size_in_bytes

    def draw(self, requests: Sequence[Request], seed: int = 0, what: str = "sampling") -> np.ndarray:
        """One sample for each request: uint8 [N, R, R, 3], float32 in [-1, 1] (`handed_on`), or float32 [N, D].

        Raises `UserError` for requests that the system cannot serve, when a frozen text encoder is missing, and for
        samples that are not finite, naming the first.
        """
        if not requests:
            return self._nothing()
        self.prepare(requests)
        number = -(-len(requests) // self.at_once)
        return np.concatenate([drawn for _, drawn in track(self.batches(requests, seed), number, what, "batch")])

    def prepare(self, requests: Sequence[Request]) -> None:
        """Checks requests and embeds their texts, before they are drawn. Raises `UserError` as `draw` does."""
        for request in requests:
            self.feed.check(request, self.settings)
        with randomness.same_numbers():
            self.feed.prepare(requests)

    def batches(self, requests: Iterable[Request], seed: int) -> Iterator[tuple[list[Request], np.ndarray]]:
        """As many requests as are drawn at once, with their samples, as soon as these are there.

        The requests, which are prepared, are taken one by one; no more than two batches of them are held. The best of
        their neighbours are shown, as many as there is room for.
        """
        params, running, requests = None, [], iter(requests)
        while asked := list(islice(requests, self.at_once)):
            batch = [*asked, *[asked[-1]] * (self.at_once - len(asked))]
            with randomness.same_numbers():
                if params is None:
                    params = self._laid(self.params)
                told = self._laid(self.told(batch, seed), split=True)
                with nullcontext() if self.compilations else compiling("the sampler", runtime.cache()):
                    running.append((asked, batch, self._program(params, *told)))
            if len(running) > 1:  # looking at one batch while the next one runs keeps the device busy
                yield self._finished(*running.pop(0))
        if running:
            yield self._finished(*running.pop())

    def _laid(self, tree: Any, split: bool = False) -> Any:
        """Arrays on the devices: the same on all, or the batch split."""
        if self.mesh is None:
            return tree if split else jax.device_put(tree)
        return jax.device_put(tree, batch_sharding(self.mesh) if split else NamedSharding(self.mesh, P()))

    def _finished(
        self, asked: list[Request], batch: Sequence[Request], output: tuple[finite.Note, jax.Array]
    ) -> tuple[list[Request], np.ndarray]:
        note, samples = output
        broken_B = finite.broken(note)
        if broken_B.any():
            first = batch[broken_B.argmax()]
            what = f"{broken_B.sum()} of {len(batch)} in a batch, the first is number {first.index}, {first.prompt!r}"
            raise UserError(f"{self.config.name} has drawn samples that are not finite ({what}): {finite.CAUSES}")
        return asked, np.asarray(samples)[: len(asked)]

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
        _check_encoders(stages)
        self.stages, self.seed = tuple(stages), checked(seed, Seed, "seed")

    @property
    def config(self) -> Experiment:
        """Of the last stage, whose samples are drawn."""
        return self.stages[-1].config

    @property
    def settings(self) -> Settings:
        """Of the first stage, which the requests' numbers are for."""
        return self.stages[0].settings

    @property
    def at_once(self) -> int:
        """Images that `stream` yields at once."""
        return max(stage.at_once for stage in self.stages)

    def __call__(self, requests: Sequence[Request], what: str = "sampling") -> np.ndarray:
        """What the last stage draws, one for each request."""
        return self.draw(requests, what)[-1]

    def draw(self, requests: Sequence[Request], what: str = "sampling") -> list[np.ndarray]:
        """What every stage draws, in order, images as bytes. The requests' own numbers are for the first stage."""
        drawn: list[np.ndarray] = []
        for number, stage in enumerate(self.stages, 1):
            title = f"{what}, stage {number}: {stage.config.name}" if len(self.stages) > 1 else what
            drawn.append(stage.draw(self.asked(number, requests, drawn), self.seed, title))
        return [_as_bytes(each) for each in drawn]

    def temporaries(self, requests: Sequence[Request]) -> int:
        """Bytes of temporaries of the largest of the stages' programs, for batches of these; all but the last draw."""
        drawn: list[np.ndarray] = []
        most = 0
        for number, stage in enumerate(self.stages, 1):
            asked = self.asked(number, requests, drawn)
            most = max(most, stage.temporaries(asked[: stage.batch_size], self.seed))
            if number < len(self.stages):
                drawn.append(stage.draw(asked, self.seed, f"stage {number}: {stage.config.name}"))
        return most

    def stream(self, requests: Iterable[Request]) -> Iterator[tuple[list[Request], list[np.ndarray]]]:
        """The requests in batches, each with what every stage has drawn of it, as soon as that is there.

        The requests are taken as they are needed: any number of them takes the memory of a few batches. What `prepare`
        does is done. A batch of a cascade goes through all stages before the next one begins.
        """
        most, requests = self.at_once, iter(requests)
        if len(self.stages) == 1:
            (stage,) = self.stages
            limited = (stage.feed.limited(request, stage.settings) for request in requests)
            for asked, drawn in stage.batches(limited, self.seed):
                yield asked, [_as_bytes(drawn)]
            return
        while asked := list(islice(requests, most)):
            drawn: list[np.ndarray] = []
            for number, stage in enumerate(self.stages, 1):
                told = self.asked(number, asked, drawn)
                drawn.append(np.concatenate([samples for _, samples in stage.batches(told, self.seed)]))
            yield asked, [_as_bytes(each) for each in drawn]

    def prepare(self, requests: Sequence[Request]) -> None:
        """Checks requests and embeds their texts for all stages. Raises `UserError` as `draw` does."""
        first, *later = self.stages
        first.prepare(self.asked(1, requests, []))
        for stage in later:
            with randomness.same_numbers():
                stage.feed.prepare([stage.feed.limited(request, stage.settings) for request in requests])

    def asked(self, number: int, requests: Sequence[Request], drawn: Sequence[np.ndarray]) -> list[Request]:
        """What stage `number`, from 1 on, is asked after those before have drawn."""
        stage = self.stages[number - 1]
        if number > 1:
            pairs = zip(requests, drawn[number - 2], strict=True)
            requests = [replace(request, start=image, guidance={}) for request, image in pairs]
        return [stage.feed.limited(request, stage.settings) for request in requests]


def _as_bytes(samples: np.ndarray) -> np.ndarray:
    """Images as they are written; vectors as they are."""
    return images.rounded(samples) if samples.ndim == 4 else samples


def _check_encoders(stages: Sequence[Stage]) -> None:
    """Raises `UserError` where a stage draws from vectors of another encoder than those that the one before draws: of
    the same width, they mean nothing to it."""
    for before, stage in pairwise(stages):
        told, drawn = stage.config.system.encoder_params, before.config.system.encoder_params
        if told is None or drawn is None or before.config.system.drawn is not None:
            continue
        require(
            weights.same(before.params[drawn], stage.params[told]),
            f"{stage.config.name} draws from vectors of another encoder than that of {before.config.name}, whose "
            "vectors it would be given: take two that were trained with one encoder",
        )


def check_chain(configs: Sequence[Experiment]) -> None:
    """Raises `UserError` unless every stage but the first takes what the one before draws."""
    require(len(configs) > 0, "a pipeline without stages draws nothing")
    for number, (before, config) in enumerate(pairwise(configs), 2):
        config.system.check_follows(before, f"stage {number} of the cascade, {config.name},")
