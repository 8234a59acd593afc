"""Drawing from noise that is searched first (SeedSelect): a stage as any other, which may be the first of a cascade.

Its requests bring the references that their images are to be like; super-resolution stages behind it are run once, on
what was found. With a folder, what was found for each image lies there as soon as its batch is done, and whoever asks
for the same again gets it from there:

  000007.json   all that is known of image 7: what it depends on, losses of every iteration, which one was best
  000007.npz    x_T, the best noise; the image that it draws, and the one that the search began with
"""

import dataclasses
import hashlib
import json
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from itertools import islice
from pathlib import Path
from typing import Any, Self, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import UInt8

from reimagen_jax import randomness
from reimagen_jax.config import Experiment
from reimagen_jax.data import images
from reimagen_jax.diffusion.sampler import image_keys
from reimagen_jax.encoders.image_function import ImageEncoder
from reimagen_jax.errors import UserError, require
from reimagen_jax.files import read_json, write_json
from reimagen_jax.inference.pipeline import Stage
from reimagen_jax.inference.provenance import neighbours_as_json
from reimagen_jax.pretrained.weights import fingerprint
from reimagen_jax.progress import track
from reimagen_jax.systems.base import Params, Settings
from reimagen_jax.systems.pixels import to_model
from reimagen_jax.systems.request import Request
from reimagen_jax.systems.seedselect.losses import Goal, goal
from reimagen_jax.systems.seedselect.search import Found, Objective, search
from reimagen_jax.systems.seedselect.settings import OURS, SeedSelectConfig

T = TypeVar("T")


@dataclass(frozen=True)
class Selected:
    """What was found for one request."""

    x_T: np.ndarray
    """float32 [R, R, 3]"""
    drawn: np.ndarray
    """float32 [R, R, 3] in [-1, 1]: its image."""
    first: UInt8[np.ndarray, "r r 3"]
    """The image of the noise that the search began with."""
    facts: Mapping[str, Any]
    """JSON: `asked`, what it depends on; `best`, the iteration of x_T; `loss`, `semantic`, `appearance` and `norm` of
    every iteration; `seconds`, without compiling, of the batch, over the images in it."""

    @property
    def image(self) -> UInt8[np.ndarray, "r r 3"]:
        """Its image, as it is written."""
        return images.rounded(self.drawn)

    def save(self, folder: Path, index: int) -> None:
        """Writes its two files into an existing folder."""
        path = folder / f"{index:06d}.json"
        with open(path.with_suffix(".npz"), "wb") as file:
            np.savez(file, x_T=self.x_T, drawn=self.drawn, first=self.first)
        write_json(path, self.facts)  # last: all of it is there


class SearchedStage(Stage):
    """A stage that searches the noise of each image, at most `batch_size` at once."""

    def __init__(
        self,
        config: Experiment,
        params: Params,
        settings: Settings | None = None,
        *,
        encoder: ImageEncoder,
        search: SeedSelectConfig = OURS,
        batch_size: int = 8,
        folder: Path | None = None,
    ) -> None:
        """`folder` exists already. Raises `UserError` for settings that do not fit, also where the system's sampling is
        no diffusion."""
        super().__init__(config, params, settings, batch_size=batch_size)
        kind = config.system.kind
        require(hasattr(self.system, "sampling"), f"{config.name} is a {kind}: it has no initial noise to search")
        stage = getattr(config.system, "super_resolution", None)
        require(stage is None, f"{config.name} enlarges images: search the noise of the stage that draws them")
        search.check_steps(self.settings.num_steps)
        self.encoder, self.search, self.folder = encoder, search, folder
        self.selected: list[Selected] = []
        """What the last `draw` has found, request by request."""

    @classmethod
    def of(cls, stage: Stage, *, encoder: ImageEncoder, search: SeedSelectConfig = OURS, **more: Any) -> Self:
        """What draws as `stage` does, from searched noise; `more` as above. Raises `UserError` likewise."""
        more = {"batch_size": stage.batch_size, **more}
        return cls(stage.config, stage.params, stage.settings, encoder=encoder, search=search, **more)

    @cached_property
    def objective(self) -> Objective:
        """The losses, and their gradient by the noise."""

        def sampling_of(told: tuple[Any, ...]) -> Any:
            return self.system.sampling(*told, self.settings)

        return Objective(sampling_of, self._function, self.search)

    def batches(self, requests: Iterable[Request], seed: int) -> Iterator[tuple[list[Request], np.ndarray]]:
        """As `Stage.batches`; all requests at once where images depend on those of other requests."""
        requests = iter(requests)
        while asked := list(requests if self.search.across_images else islice(requests, self.batch_size)):
            yield asked, self.draw(asked, seed)

    def draw(self, requests: Sequence[Request], seed: int = 0, what: str = "searching") -> np.ndarray:
        """The images of the best noises, as `Stage.draw` has them.

        Raises `UserError` for requests without references, and as `Stage.draw` does.
        """
        for request in requests:
            require(request.edit is None, "an image that is drawn on is not searched for: leave the edit out")
            require(len(request.references) > 0, f"no references for {request.prompt!r}: there is nothing to search by")
        if not requests:
            return self._nothing()
        if self.search.contrast:
            prompts = len({request.prompt for request in requests})
            require(prompts > 1, "search.contrast tells prompts from each other, and there is one: leave it out")
        starts = self._firsts(requests)
        asked = [self._asked(request, requests, seed) for request in requests]
        found = [self._stored(request, facts) for request, facts in zip(requests, asked, strict=True)]
        missing = [i for i, each in enumerate(found) if each is None]
        if missing:
            self.prepare([requests[i] for i in missing])
            params = jax.device_put((self.params, self.encoder.image_function().params))
            wanted = {requests[i].prompt for i in missing}
            starts = [request for prompt, request in starts.items() if prompt in wanted]
            noise = self._starts(starts, requests, seed, params, what)
            for some in self._batches(missing):
                title = f"{what}, images {some[0] + 1} to {some[-1] + 1} of {len(requests)}"
                batch = [requests[i] for i in some]
                start = [noise[request.prompt] for request in batch] if noise else None
                references = [self._subset(request, seed) for request in batch]
                results = self._search(batch, references, requests, seed, params, title, start)
                for i, (x_T, drawn, first, facts) in zip(some, results, strict=True):
                    found[i] = Selected(x_T, drawn, first, {"asked": asked[i], **facts})
                    if self.folder is not None:
                        found[i].save(self.folder, requests[i].index)
        self.selected = found
        floats = getattr(self.settings, "handed_on", "bytes") == "floats"
        return np.stack([each.drawn if floats else each.image for each in found])

    # --- searching ----------------------------------------------------------------------------------------------------

    @cached_property
    def _function(self) -> Any:
        return self.encoder.image_function()

    @cached_property
    def _goal(self) -> Any:
        return jax.jit(partial(goal, self._function))

    def _firsts(self, requests: Sequence[Request]) -> dict[str, Request]:
        """Bootstrap: the first image of each prompt, whose noise and plan of guidance all of the prompt begin with."""
        first = dict[str, Request]()
        for request in requests if self.search.start_iterations else ():
            first.setdefault(request.prompt, request)
        return first

    def _starts(
        self, starts: Sequence[Request], requests: Sequence[Request], seed: int, params: Any, what: str
    ) -> dict[str, np.ndarray]:
        """Bootstrap: the common noise of each prompt, found by all references."""
        iterations, found = self.search.start_iterations, dict[str, np.ndarray]()
        for batch in self._batches(starts):
            references = [list(range(len(request.references))) for request in batch]
            title = f"{what}, common start of {len(batch)} prompts"
            results = self._search(batch, references, requests, seed, params, title, iterations=iterations)
            found |= {request.prompt: x_T for request, (x_T, *_) in zip(batch, results, strict=True)}
        return found

    def _subset(self, request: Request, seed: int) -> list[int]:
        """The references that an image is searched by: of all, or of its own random ones."""
        K, few = len(request.references), self.search.subset
        if not self.search.start_iterations or few >= K:
            return list(range(K))
        return np.random.default_rng((seed, request.index)).choice(K, few, replace=False).tolist()

    @randomness.same_numbers()
    def _search(
        self,
        batch: Sequence[Request],
        references: Sequence[Sequence[int]],
        requests: Sequence[Request],
        seed: int,
        params: Any,
        what: str,
        start: Sequence[np.ndarray] | None = None,
        iterations: int | None = None,
    ) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray, dict[str, Any]]]:
        """Searches a batch, padded to its full size; a noise, two images and facts for each request."""
        began, compiling = time.perf_counter(), self.objective.seconds_compiling
        model, encoder = params
        padding = self.batch_size - len(batch)
        full = [*batch, *[batch[-1]] * padding]
        first = self._firsts(requests)
        keys = image_keys(seed, [first.get(request.prompt, request).index for request in full])
        shown = [self.feed.limited(request, self.settings) for request in full]
        told = jax.device_put((model, self.feed.collate(shown, self.settings), keys))
        aim = self._aim(full, [*references, *[references[-1]] * padding], requests, encoder)
        x_T = self._noise(told) if start is None else jnp.stack([*start, *[start[-1]] * padding])
        iterations = self.search.iterations if iterations is None else iterations
        bar = partial(track, total=iterations + 1, what=what, unit="iteration")
        found = search(self.objective, x_T, told, aim, encoder, iterations=iterations, track=bar)
        seconds = time.perf_counter() - began - (self.objective.seconds_compiling - compiling)
        return self._results(found, references, seconds / len(batch))

    @cached_property
    def _noise(self) -> Any:
        return jax.jit(lambda told: self.objective.sampling_of(told).x_T)

    def _batches(self, items: Sequence[T]) -> list[Sequence[T]]:
        return [items[i : i + self.batch_size] for i in range(0, len(items), self.batch_size)]

    def _aim(
        self, batch: Sequence[Request], references: Sequence[Sequence[int]], requests: Sequence[Request], encoder: Any
    ) -> Goal:
        """The centroids of the batch's references, or of those of all prompts that these are told from."""
        own = [[request.references[j] for j in chosen] for request, chosen in zip(batch, references, strict=True)]
        vector_BD, image_BHWC = self._centroids(own, encoder)
        if not self.search.contrast:
            return Goal(vector_BD, image_BHWC, jnp.arange(len(batch)))
        of = {request.prompt: request.references for request in requests}
        number = {prompt: c for c, prompt in enumerate(of)}
        classes = [self._centroids(some, encoder)[0] for some in self._batches(list(of.values()))]
        return Goal(jnp.concatenate(classes), image_BHWC, jnp.asarray([number[request.prompt] for request in batch]))

    def _centroids(self, groups: Sequence[Sequence[Any]], encoder: Any) -> tuple[jax.Array, jax.Array]:
        K, R = max(len(group) for group in groups), self.config.system.resolution
        image_BKHWC, mask_BK = np.zeros((len(groups), K, R, R, 3), np.uint8), np.zeros((len(groups), K), bool)
        for i, group in enumerate(groups):
            for j, reference in enumerate(group):
                image_BKHWC[i, j], mask_BK[i, j] = reference.at(R), True
        return self._goal(encoder, to_model(jnp.asarray(image_BKHWC)), jnp.asarray(mask_BK))

    def _results(
        self, found: Found, references: Sequence[Sequence[int]], seconds: float
    ) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray, dict[str, Any]]]:
        drawn_BHWC, first_BHWC = (np.clip(x, -1.0, 1.0) for x in (found.image_BHWC, found.first_BHWC))
        for b, chosen in enumerate(references):
            went = np.isfinite(found.loss_IB[:, b])
            facts = {"best": int(found.best_B[b]), "references": list(chosen), "seconds": round(seconds, 3)}
            for name in ("loss", "semantic", "appearance", "norm"):
                facts[name] = [round(value, 6) for value in getattr(found, f"{name}_IB")[went, b].tolist()]
            yield found.x_T[b], drawn_BHWC[b], images.rounded(first_BHWC[b]), facts

    # --- on disk ------------------------------------------------------------------------------------------------------

    @cached_property
    def _unchanging(self) -> dict[str, Any]:
        """What all images depend on."""
        facts = {
            "model": fingerprint(self.params)[:16],
            "encoder": self.encoder.fingerprint,
            "sampler": dataclasses.asdict(self.settings),
            "search": dataclasses.asdict(self.search),
        }
        return json.loads(json.dumps(facts))  # tuples as they are read again

    def _asked(self, request: Request, requests: Sequence[Request], seed: int) -> dict[str, Any]:
        """All that an image depends on."""
        asked = {
            **self._unchanging,
            "seed": seed,
            "index": request.index,
            "prompt": request.prompt,
            "negative": request.negative,
            "guidance": {name: np.asarray(value).tolist() for name, value in request.guidance.items()},
            "references": neighbours_as_json(request.references),
            "neighbours": neighbours_as_json(request.neighbours),
        }
        if (first := self._firsts(requests).get(request.prompt)) is not None:
            asked["start"] = first.index
        if self.search.contrast:
            others = [(each.prompt, neighbours_as_json(each.references)) for each in requests]
            asked["classes"] = hashlib.sha256(json.dumps(others).encode()).hexdigest()
        return asked

    def _stored(self, request: Request, asked: Mapping[str, Any]) -> Selected | None:
        """What an earlier run has found. Raises `UserError` where it was asked something else, or it is damaged."""
        if self.folder is None or not (path := self._path(request)).is_file():
            return None
        facts = read_json(path, "what a search has found")
        if not isinstance(facts, dict) or facts.get("asked") != asked:
            raise UserError(f"{path} was found by other settings, or for another prompt: remove {self.folder}")
        try:
            with np.load(path.with_suffix(".npz"), allow_pickle=False) as arrays:
                return Selected(arrays["x_T"], arrays["drawn"], arrays["first"], facts)
        except (OSError, ValueError, KeyError, EOFError) as error:
            raise UserError(f"{path.with_suffix('.npz')} is damaged ({error}): remove {path}") from error

    def _path(self, request: Request) -> Path:
        return self.folder / f"{request.index:06d}.json"
