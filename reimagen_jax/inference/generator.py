"""The generator: an opened model, one stage, that draws batches of requests with one compiled program.

Batches are padded to one size and neighbours to one K, so that whatever is asked (any eta, any weights, 0 to K
neighbours) runs through the same program: a sweep compiles once. A frozen text encoder (texts.py) has done its work,
and has left memory, before the parameters go to the device.
"""

from collections.abc import Sequence
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Any

import jax
import numpy as np

from reimagen_jax.config import Experiment, SamplerConfig, require
from reimagen_jax.diffusion.sampler import image_keys
from reimagen_jax.errors import UserError
from reimagen_jax.inference.requests import Request
from reimagen_jax.inference.texts import scattered, text_input
from reimagen_jax.pretrained.weights import EXPERIMENT, WEIGHTS, load_weights
from reimagen_jax.progress import track
from reimagen_jax.systems.reimagen import ReImagen


class Generator:
    """A model with its sampler settings; call it with requests."""

    def __init__(
        self,
        config: Experiment,
        params: Any,
        sampler: SamplerConfig | None = None,
        *,
        max_neighbours: int,
        batch_size: int = 32,
        seed: int = 0,
    ) -> None:
        """`max_neighbours` is K of the program; 0 makes the Imagen baseline, in which no neighbour is encoded.

        `params` may be arrays of numpy: they are on the device then only while images are drawn. Raises `UserError`
        when `sampler` does not fit the model.
        """
        replace(config, sampler=sampler or config.sampler)  # refuses an augmentation level that it is not trained for
        self.config = config
        self.system = ReImagen(config)
        self.params = params
        self.sampler = sampler or config.sampler
        self.max_neighbours = max_neighbours
        self.batch_size = batch_size
        self.seed = seed
        self.compilations = 0
        self.texts = text_input(config.text)

    @classmethod
    def open(cls, path: str | Path, sampler: SamplerConfig | None = None, **settings: Any) -> "Generator":
        """Opens a training run's folder (its latest averaged weights) or a folder of weights."""
        return cls(*open_weights(path), sampler, **settings)

    @cached_property
    def _program(self):
        def program(params, *arrays):
            self.compilations += 1  # runs when JAX traces, not when the program runs
            return self.system.sample(params, *arrays[:5], self.sampler, *arrays[5:])

        return jax.jit(program)

    def __call__(self, requests: Sequence[Request], what: str = "sampling") -> np.ndarray:
        """uint8 [N, R, R, 3], one image per request.

        Raises `UserError` for more neighbours than `max_neighbours`, where a low-resolution image is missing, has
        another size than this stage enlarges, or is given to a base stage, and when a frozen text encoder is missing.
        """
        for request in requests:
            self._check(request)
        self.texts.prepare(
            [text for each in requests for text in (each.prompt, *(neighbour.text for neighbour in each.neighbours))]
        )
        params = jax.device_put(self.params)
        batches = range(0, len(requests), self.batch_size)
        images = [
            self._program(params, *self._arrays(requests[first : first + self.batch_size]))
            for first in track(batches, len(batches), what, "batch")
        ]
        size = self.config.resolution
        drawn = np.concatenate([np.asarray(x) for x in images]) if images else np.zeros((0, size, size, 3), np.uint8)
        return drawn[: len(requests)]

    def _check(self, request: Request) -> None:
        found, most = len(request.neighbours), self.max_neighbours
        require(found <= most, f"{found} neighbours for a prompt, but this generator takes at most {most}")
        stage, name, image = self.config.super_resolution, self.config.name, request.low_res
        if stage is None:
            require(image is None, f"{name} is a base model: it takes no low-resolution image")
            return
        low = stage.low_resolution
        require(
            image is not None,
            f"{name} is a super-resolution model: it enlarges images of {low} pixels to {self.config.resolution}, "
            "and none is given",
        )
        size = image.shape[:2]
        require(size == (low, low), f"{name} enlarges images of {low} x {low} pixels, not {size[0]} x {size[1]}")

    def _arrays(self, requests: Sequence[Request]) -> tuple[Any, ...]:
        """The arguments of the program, padded to one size by the last request."""
        requests = [*requests, *[requests[-1]] * (self.batch_size - len(requests))]
        B, K, R = len(requests), self.max_neighbours, self.config.resolution
        image = np.zeros((B, K, R, R, 3), np.uint8)
        mask = np.zeros((B, K), bool)
        for i, request in enumerate(requests):
            for j, neighbour in enumerate(request.neighbours):
                image[i, j], mask[i, j] = neighbour.at(R), True
        keys = image_keys(self.seed, [request.index for request in requests])
        numbers = [
            np.asarray([getattr(request, name) for request in requests], np.float32)
            for name in ("eta", "text_weight", "neighbour_weight")
        ]
        low_res = None if self.config.super_resolution is None else np.stack([each.low_res for each in requests])
        prompts = self.texts([request.prompt for request in requests])
        captions = [neighbour.text for request in requests for neighbour in request.neighbours]
        nbr_texts = scattered(self.texts(captions) if captions else prompts, mask)
        return prompts, image, nbr_texts, mask, keys, *numbers, low_res


def open_weights(path: str | Path, *, on_host: bool = False) -> tuple[Experiment, Any]:
    """The experiment and (averaged) parameters in a training run's folder or a folder of weights.

    With `on_host` a folder's weights do not go to a device: one alone may not have room for what many are to share.
    """
    path = Path(path)
    if (path / WEIGHTS).is_file() and (path / EXPERIMENT).is_file():
        return load_weights(path, on_host=on_host)
    if not path.is_dir():
        raise UserError(f"{path} not found: give the folder of a training run (--workdir) or of weights")
    from reimagen_jax.training.checkpoint import load_ema

    return load_ema(path)
