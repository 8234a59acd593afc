"""An image as a code of two parts, from which a decoder of unCLIP draws it: an embedding and a noise.

  code        z = CLIP(image),  x_T by DDIM inversion of the image under z            what an image shows, and the rest
  vary        z, x_T; DDIM of some stochasticity: 0 gives the image back, 1 keeps of it little but z                (1)
  blend       slerp(z_1, z_2, share); x_T by slerp of both too, or one noise for all                                (2)
  diff        slerp(z, d, share),  d = z_to - z_from of two texts, as long as z;  x_T of the image                  (3)
  components  mean + the first principal components of z - mean; one noise for all                                  (4)

Edits are plans of `edits.py`, whose requests have codes; what draws them is a stage like any other, so further stages
may enlarge it. Source: Ramesh et al. 2022, sections 3.1 (1), 3.2 (2), 3.3 (3), 4 (4).
"""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import PIL.Image
from jaxtyping import Array, Bool, Float, Key
from sklearn.decomposition import PCA

from reimagen_jax import randomness
from reimagen_jax.checked import Count, Natural, NonNegative, Share, checked
from reimagen_jax.data import images
from reimagen_jax.diffusion import guidance, inversion, sampler, solvers
from reimagen_jax.errors import require
from reimagen_jax.inference.edits import Plan, Row
from reimagen_jax.inference.model import Model
from reimagen_jax.inference.pipeline import Stage
from reimagen_jax.inference.prompts import Prompt
from reimagen_jax.progress import track
from reimagen_jax.systems import kinds
from reimagen_jax.systems.base import Params
from reimagen_jax.systems.pixels import handed_on, to_model
from reimagen_jax.systems.request import Request


@dataclass(frozen=True)
class Coded(Request):
    """A request for a decoder, with more than it tells a system: `start` is the embedding."""

    image: np.ndarray | None = field(default=None, repr=False)
    """uint8 [R, R, 3]: whose noise is looked for."""
    noise: np.ndarray | None = field(default=None, repr=False)
    """x_T, float32 [R, R, 3]; None: as the seed and the index say."""
    stochasticity: Share = 0.0
    """Of DDIM."""


class Noise(NamedTuple):
    """What the program takes besides a system's inputs."""

    x_BHWC: Float[Array, "b h w 3"]
    given_B: Bool[Array, " b"]
    """Where not, the noise is that of the key."""
    stochasticity_B: Float[Array, " b"]


class _DdimStage(Stage):
    """A stage that draws by DDIM and predicts images as they come: inversion needs both."""

    def __init__(self, config: Any, params: Params, settings: Any = None, **how: Any) -> None:
        """As `Stage`. Raises `UserError` where the system's sampling is no diffusion."""
        settings = config.system.sampler if settings is None else settings
        # A prediction of noise needs to be kept in range (SamplerConfig.thresholding); others are left as they are.
        free = {} if config.system.diffusion.prediction == "eps" else {"thresholding": "none"}
        super().__init__(config, params, replace(settings, solver="ddim", ddim_noise=0.0, repeats=1, **free), **how)
        kind = config.system.kind
        require(hasattr(self.system, "sampling"), f"{config.name} is a {kind}: it has no initial noise to look for")

    def sampling(self, params: Params, inputs: Any, keys_B: Key[Array, " b"]) -> sampler.Sampling:
        """What is sampled, unguided where no weight is."""
        sampling = self.system.sampling(params, inputs, keys_B, self.settings)
        return sampling._replace(guide=guidance.unguided) if self.settings.text_weight == 1.0 else sampling


class InvertingStage(_DdimStage):
    """Draws noises: those from which a stage of these settings draws the requests' images."""

    def __init__(self, config: Any, params: Params, settings: Any = None, *, refine: Natural = 0, **how: Any) -> None:
        """`refine` as in `inversion.inverted`."""
        super().__init__(config, params, settings, **how)
        self.settings, self.refine = replace(self.settings, text_weight=1.0), checked(refine, Natural, "refine")

    def told(self, batch: Sequence[Coded], seed: int) -> tuple[Any, ...]:
        return *super().told(batch, seed), np.stack([request.image for request in batch])

    def sample(self, params: Params, inputs: Any, keys_B: Array, image_BHWC: Array) -> Float[Array, "b h w 3"]:
        sampling = self.sampling(params, inputs, keys_B)
        return sampler.sample(*inversion.inverted(sampling, to_model(image_BHWC), self.refine))


class CodeStage(_DdimStage):
    """Draws requests from their noises, each with its own stochasticity."""

    def told(self, batch: Sequence[Coded], seed: int) -> tuple[Any, ...]:
        R = self.config.system.resolution
        nothing = np.zeros((R, R, 3), np.float32)
        noise = Noise(
            np.stack([nothing if request.noise is None else request.noise for request in batch]),
            np.asarray([request.noise is not None for request in batch]),
            np.asarray([request.stochasticity for request in batch], np.float32),
        )
        return *super().told(batch, seed), noise

    def sample(self, params: Params, inputs: Any, keys_B: Array, noise: Noise) -> Array:
        sampling = self.sampling(params, inputs, keys_B)
        x_T = jnp.where(noise.given_B[:, None, None, None], noise.x_BHWC, sampling.x_T)
        solver = solvers.ddim(sampling.process, noise.stochasticity_B[:, None, None, None])
        drawn = sampler.sample(*sampling._replace(x_T=x_T, solver=solver))
        return handed_on(drawn, self.settings.handed_on)


class Code(NamedTuple):
    """An image as a decoder draws it."""

    image: np.ndarray
    """uint8 [S, S, 3], in its own size."""
    vector: np.ndarray
    """z, float32 [D]"""
    noise: np.ndarray
    """x_T, float32 [R, R, 3]"""


@dataclass(frozen=True)
class Decoder:
    """A decoder of unCLIP, to find codes and to draw them."""

    model: Model
    prompt: str = ""
    """The text beside the embedding, of all that is done."""
    steps: Count = 100
    """Of inversion, and of drawing: with 100, an image is found again within a percent."""
    refine: Natural = 0
    """Iterations of each step of inversion: each costs as many evaluations as all steps."""
    guidance: NonNegative = 1.0
    """Of drawing; inversion has none, and gives the image back where drawing has none."""
    seed: int = 0
    batch_size: Count = 16

    def __post_init__(self) -> None:
        kind = self.model.config.system.kind
        require(
            kind == "unclip_decoder",
            f"{self.model.path} is a {kind}: give a decoder of unCLIP, which draws from embeddings",
        )

    def stage(self, number: int) -> CodeStage:
        """Draws so many requests; no larger a batch than they fill."""
        settings, size = self._settings(text_weight=self.guidance), min(self.batch_size, number)
        return CodeStage(self.model.config, self.model.params, settings, batch_size=size)

    def codes(self, pictures: Sequence[np.ndarray], vectors: np.ndarray | None = None) -> list[Code]:
        """Of images, uint8 [S, S, 3] of any sizes, under their own embeddings, or others."""
        vectors = self.images(pictures) if vectors is None else vectors
        R = self.model.config.system.resolution
        requests = [
            Coded(self.prompt, index=i, start=vector, image=_at(picture, R))
            for i, (picture, vector) in enumerate(zip(pictures, vectors, strict=True))
        ]
        stage = InvertingStage(
            self.model.config,
            self.model.params,
            self._settings(),
            refine=self.refine,
            batch_size=min(self.batch_size, len(requests)),
        )
        noises = stage.draw(requests, self.seed, "inverting")
        return [Code(*each) for each in zip(pictures, vectors, noises, strict=True)]

    def images(self, pictures: Sequence[np.ndarray]) -> Float[np.ndarray, "n d"]:
        """Embeddings of images of any sizes."""
        return embedded(self._embed, self._clip, pictures, self.model.config.system.seen, self.batch_size)

    @randomness.same_numbers()
    def texts(self, texts: Sequence[str]) -> Float[np.ndarray, "n d"]:
        """Embeddings of texts."""
        clip = self._system.clip
        tokens_BL = clip.tokenizer().encode(texts)
        read = jax.jit(lambda params, tokens_BL: clip.texts(params["clip"], tokens_BL).vector_BD)
        return np.asarray(read(self._clip, tokens_BL))

    @property
    def _system(self) -> Any:
        return kinds.system_of(self.model.config)

    @cached_property
    def _clip(self) -> Params:
        return jax.device_put({"clip": self.model.params["clip"]})

    @cached_property
    def _embed(self) -> Any:
        return jax.jit(self._system.embed)

    def _settings(self, **numbers: float) -> Any:
        settings = self.model.config.system.sampler.changed(num_steps=self.steps, **numbers)
        return dataclasses.replace(settings, embedding="start")


def embedded(
    embed: Callable[[Params, np.ndarray], Array],
    params: Params,
    pictures: Sequence[np.ndarray],
    side: int,
    batch_size: int,
) -> Float[np.ndarray, "n d"]:
    """What a program makes of images, uint8 [S, S, 3] of any sizes, at this side, batch by batch."""
    found = []
    for first in track(range(0, len(pictures), batch_size), None, "embedding images", "batch"):
        batch = [_at(picture, side) for picture in pictures[first : first + batch_size]]
        padded = batch + batch[-1:] * (min(batch_size, len(pictures)) - len(batch))
        with randomness.same_numbers():
            found.append(np.asarray(embed(params, np.stack(padded)))[: len(batch)])
    return np.concatenate(found)


def variations(
    decoder: Decoder, picture: np.ndarray, stochasticity: Sequence[float] = (0.5, 1.0), num_images: int = 4
) -> Plan:
    """(1): a row for each stochasticity, with the image, what its code gives back, and variations."""
    checked(num_images, Count, "num_images")
    require(len(stochasticity) > 0, "stochasticity: give at least one, above 0")
    (code,) = decoder.codes([picture])
    again = _coded(decoder, code.vector, 0, code.noise, stochasticity=0.0)
    rows = []
    for share in stochasticity:
        require(share > 0, "stochasticity 0 varies nothing: it gives the image back, which is shown besides")
        varied = {"stochasticity": checked(share, Share, "stochasticity")}
        others = [_coded(decoder, code.vector, s, code.noise, **varied) for s in range(1, num_images + 1)]
        shown = {"image": picture, "given back": 0} | {f"variation {s}": s for s in range(1, num_images + 1)}
        rows.append(Row(Prompt(f"stochasticity {share:g}"), (again, *others), shown))
    return Plan("vary", tuple(rows), _told(decoder, stochasticity=list(stochasticity)))


def blends(
    decoder: Decoder,
    first: np.ndarray,
    second: np.ndarray,
    *,
    frames: int = 7,
    noise: Literal["slerp", "fixed"] = "slerp",
    num_images: int = 1,
) -> Plan:
    """(2): from one image to another; the ends give both back where their noises are theirs (slerp), and `num_images`
    noises that stay the same (fixed) are as many other ways."""
    _check_frames(frames)
    require(noise == "fixed" or num_images == 1, f"num_images {num_images}: with noise by slerp there is one way only")
    shares, codes = np.linspace(0.0, 1.0, frames), None
    if noise == "slerp":
        codes = decoder.codes([first, second])
        vectors = [code.vector for code in codes]
        noises = _between(codes[0].noise, codes[1].noise, shares)
    else:
        vectors, noises = decoder.images([first, second]), [None] * frames
    between = _between(*vectors, shares)
    rows = []
    for s in range(checked(num_images, Count, "num_images")):
        requests = [
            _coded(decoder, vector, s, x_T, share=float(share))
            for vector, x_T, share in zip(between, noises, shares, strict=True)
        ]
        shown = {"first": first} | {f"{share:.2f}": i for i, share in enumerate(shares)} | {"second": second}
        label = "noise by slerp" if noise == "slerp" else f"noise {s + 1}"
        rows.append(Row(Prompt(label), tuple(requests), shown))
    return Plan("blend", tuple(rows), _told(decoder, noise=noise, shares=shares.tolist()))


def differences(
    decoder: Decoder, picture: np.ndarray, to: str, of: str = "", *, most: float = 0.4, frames: int = 5
) -> Plan:
    """(3): the image on the way from what one text says, `of`, to what another does; without `of`, to the other."""
    _check_frames(frames)
    require(bool(to.strip()), "to is empty: say what the image is to become")
    require(to != of, f"from and to are the same, {to!r}: nothing lies between them")
    shares = np.linspace(0.0, checked(most, Share, "most"), frames)
    require(most > 0, "most 0: the image would stay as it is")
    (code,) = decoder.codes([picture])
    vectors = decoder.texts([to, of] if of else [to])
    moved = towards(code.vector, vectors[0], vectors[1] if of else None, shares)
    require(len(moved) > 0, f"from {of!r} to {to!r} is no way: the model reads the same in both")
    requests = [
        _coded(decoder, vector, 0, code.noise, share=float(share)) for vector, share in zip(moved, shares, strict=True)
    ]
    shown = {"image": picture} | {f"{share:.2f}": i for i, share in enumerate(shares)}
    label = f"{of} → {to}" if of else f"→ {to}"
    told = _told(decoder, **{"from": of, "to": to, "shares": shares.tolist()})
    return Plan("diff", (Row(Prompt(label), tuple(requests), shown),), told)


def towards(
    vector_D: np.ndarray, to_D: np.ndarray, of_D: np.ndarray | None, shares: Float[np.ndarray, " n"]
) -> list[np.ndarray]:
    """The embeddings of (3): an image's, moved as the embedding of one text differs from that of another (None: towards
    the one); none where both texts are the same to the model."""
    to_D, of_D = (None if each is None else each / np.linalg.norm(each) for each in (to_D, of_D))
    direction_D = to_D if of_D is None else to_D - of_D
    length = np.linalg.norm(direction_D)
    return [] if length <= 1e-6 else _between(vector_D, direction_D * (np.linalg.norm(vector_D) / length), shares)


@dataclass(frozen=True)
class Components:
    """The principal components of embeddings, by falling variance."""

    pca: PCA
    unit: bool
    """Embeddings are of length 1."""

    @classmethod
    def of(cls, vectors: Float[np.ndarray, "n d"], unit: bool) -> "Components":
        """All that these embeddings have. Raises `UserError` for fewer than two."""
        require(len(vectors) > 1, f"{len(vectors)} embedding has no principal components: give more records")
        return cls(PCA().fit(np.asarray(vectors, np.float64)), unit)

    @property
    def number(self) -> int:
        """How many there are: at most the embeddings less one."""
        return min(self.pca.n_components_, self.pca.n_samples_ - 1)

    def kept(self, vector: Float[np.ndarray, " d"], dims: int) -> Float[np.ndarray, " d"]:
        """The embedding by its first components alone."""
        axes = self.pca.components_[:dims]
        kept = self.pca.mean_ + (vector - self.pca.mean_) @ axes.T @ axes
        return (kept / max(np.linalg.norm(kept), 1e-12) if self.unit else kept).astype(np.float32)

    def explained(self, dims: int) -> float:
        """Share of the variance."""
        return float(self.pca.explained_variance_ratio_[:dims].sum())


def compositions(
    decoder: Decoder,
    pictures: Mapping[str, np.ndarray],
    components: Components,
    dims: Sequence[int] = (),
    num_images: int = 1,
) -> Plan:
    """(4): images by more and more of their components, from the same noise; by default 0, 1, 2, 4, ..., and all."""
    most = components.number
    dims = list(dims) or [0, *(2**n for n in range(most.bit_length()) if 2**n < most), most]
    for number in dims:
        checked(number, Natural, "dims")
        require(number <= most, f"dims {number}: the embeddings have {most} principal components")
    headings = [f"{number}: {components.explained(number):.0%}" for number in dims]
    vectors = decoder.images(list(pictures.values()))
    rows = []
    for (name, picture), vector in zip(pictures.items(), vectors, strict=True):
        for s in range(checked(num_images, Count, "num_images")):
            embeddings = [*(components.kept(vector, number) for number in dims), vector]
            requests = [_coded(decoder, each, s, dims=d) for each, d in zip(embeddings, [*dims, None], strict=True)]
            shown = {"image": picture} | {heading: i for i, heading in enumerate([*headings, "whole"])}
            rows.append(Row(Prompt(name), tuple(requests), shown))
    explained = [round(components.explained(number), 4) for number in dims]
    return Plan("components", tuple(rows), _told(decoder, dims=dims, explained=explained))


def given_back(plan: Plan, drawn_NHWC: np.ndarray) -> float:
    """RMS between the first image of a plan and what its code gave back, in parts of the range of images."""
    row = plan.rows[0]
    picture, image = next(iter(row.shown.values())), drawn_NHWC[0]
    return float(np.sqrt(np.mean((_at(picture, len(image)).astype(float) - image) ** 2)) / 255.0)


def _coded(decoder: Decoder, vector: np.ndarray, index: int, noise: np.ndarray | None = None, **told: Any) -> Coded:
    stochasticity = told.get("stochasticity", 0.0)
    told = {name: value for name, value in told.items() if value is not None}
    return Coded(decoder.prompt, (), index, start=vector, noise=noise, stochasticity=stochasticity, told=told)


def _between(a: np.ndarray, b: np.ndarray, shares: np.ndarray) -> list[np.ndarray]:
    """The way from one to the other."""
    a, b = (np.broadcast_to(each, (len(shares), *each.shape)) for each in (a, b))
    return list(np.asarray(inversion.slerp(jnp.asarray(a), jnp.asarray(b), jnp.asarray(shares, jnp.float32))))


def _told(decoder: Decoder, **numbers: Any) -> dict[str, Any]:
    return {"steps": decoder.steps, "refine": decoder.refine, "guidance": decoder.guidance, **numbers}


def _check_frames(frames: int) -> None:
    require(checked(frames, Count, "frames") > 1, "frames 1: from one to another are 2 at least")


def _at(picture: np.ndarray, side: int) -> np.ndarray:
    return picture if len(picture) == side else np.asarray(images.square(PIL.Image.fromarray(picture), side))
