"""The rater: reads off an image of EntityWorld what it shows, and says whether that is what was asked for.

    (1) faithful   the category and every parameter of the look are right
    (2) aligned    every attribute of the scene that the caption tells is right
Both are 0 or 1 for an image, as in EntityDrawBench (Re-Imagen, section 4.3). The look is read as one of the true
category; an image of another category is not faithful whatever else it shows. How well the rater reads is measured on
fresh true renders, and stored with its weights: the share of them that it calls faithful is the ceiling of the measure.
"""

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any, NamedTuple

import jax
import numpy as np
from annotated_types import MinLen
from jaxtyping import Bool, Float, Int, UInt8

from reimagen_jax import randomness
from reimagen_jax.checked import Number, identity, parse
from reimagen_jax.data.entityworld.version import world_version
from reimagen_jax.errors import UserError, require
from reimagen_jax.files import read_json, signed, unchanged, write_json
from reimagen_jax.pretrained.weights import WEIGHTS, fingerprint, load_params, save_params
from reimagen_jax.systems.rater.net import HIDDEN, SCENE_NAMES, Logits, RaterConfig, RaterNet

SHIPPED = Path(__file__).parent.parent / "assets" / "rater32"
SETTINGS = "rater.json"
FORMAT = 1
BATCH = 128
REMEDY = "train one with `reimagen rater train`"
_Share = tuple[Number, Number, Number]
"""With its interval."""


@dataclass(frozen=True)
class _Measured:
    """What `rater_check.measure` has told of a rater."""

    faithful: _Share
    aligned: _Share
    parameters: Annotated[dict[str, _Share], MinLen(1)]
    num_images: int = 0
    seed: int = 0
    deceived: _Share | None = None
    softened: "_Measured | None" = None


@dataclass(frozen=True)
class _Stored:
    """`rater.json`."""

    format: int
    world: str
    network: RaterConfig
    metrics: dict[str, Any]
    digest: str = ""
    """Of network and weights, see `Rater.digest`; raters of versions before have none."""
    checksum: str = ""
    """Of all else; raters of versions before have none."""


class Readings(NamedTuple):
    """What N images show."""

    category_N: Int[np.ndarray, " n"]
    look_NCP: Int[np.ndarray, "n c p"]
    """If the image shows category c: the value of its parameter p."""
    scene_NA: Int[np.ndarray, "n a"]

    def look_right(self, looks: Int[np.ndarray, "n l"]) -> Bool[np.ndarray, "n l"]:
        """Which of (category, v_1 .. v_P) are as in the true looks."""
        category_N = looks[:, 0]
        values_NP = self.look_NCP[np.arange(len(looks)), category_N]
        return np.concatenate([(self.category_N == category_N)[:, None], values_NP == looks[:, 1:]], axis=1)


class Verdicts(NamedTuple):
    """On N images, and what they rest on."""

    faithful: Bool[np.ndarray, " n"]
    aligned: Bool[np.ndarray, " n"]
    look_right: Bool[np.ndarray, "n l"]
    """Category, then the look's parameters."""
    scene_right: Bool[np.ndarray, "n a"]
    """Every attribute of the scene, told or not."""


class Rater:
    """A trained rater with its measured accuracy."""

    def __init__(self, config: RaterConfig, params: Any, metrics: Mapping[str, Any] | None = None) -> None:
        """`metrics` is what `rater_check.measure` returns."""
        self.config = config
        self.params = params
        self.metrics = dict(metrics or {})

    @classmethod
    def rounded(cls, config: RaterConfig, params: Any) -> "Rater":
        """A rater with the parameters as they will be read again once saved: rounded to float16."""
        return cls(config, jax.tree.map(lambda leaf: np.asarray(leaf, np.float16).astype(np.float32), params))

    @classmethod
    def open(cls, path: str | Path | None = None) -> "Rater":
        """Opens a folder written by `reimagen rater train`; None: the rater that comes with the package.

        Raises `UserError` when there is none, when it is damaged, or when it was trained on another EntityWorld.
        """
        path = SHIPPED if path is None else Path(path)
        if not (path / SETTINGS).is_file():
            raise UserError(f"{path} holds no rater (there is no {SETTINGS} in it): {REMEDY}")
        told = read_json(path / SETTINGS, "the settings of a rater")
        stored = parse(_Stored, told, str(path / SETTINGS))
        if stored.format != FORMAT:
            raise UserError(f"{path} has a rater of format {stored.format}, this version reads {FORMAT}: {REMEDY}")
        if stored.world != world_version():
            versions = f"{stored.world}, this one is {world_version()}"
            raise UserError(f"the rater in {path} was trained on EntityWorld {versions}: {REMEDY}")
        if stored.metrics:
            parse(_Measured, stored.metrics, f"{path / SETTINGS}.metrics")
        require(unchanged(told), f"{path / SETTINGS} is not as it was written: fetch it again, or {REMEDY}")
        rater = cls(stored.network, load_params(path / WEIGHTS, shapes(stored.network)), stored.metrics)
        if stored.digest not in ("", rater.digest):
            raise UserError(f"{path} is damaged: its network is not the one that was measured; fetch it again")
        return rater

    def save(self, folder: str | Path) -> None:
        """Writes the weights (float16) and the settings with the metrics into an existing folder."""
        folder = Path(folder)
        save_params(folder / WEIGHTS, self.params, np.float16)
        settings = {
            "format": FORMAT,
            "world": world_version(),
            "network": dataclasses.asdict(self.config),
            "digest": Rater.rounded(self.config, self.params).digest,
            "metrics": self.metrics,
        }
        write_json(folder / SETTINGS, signed(settings))

    @property
    def ceilings(self) -> tuple[float, float]:
        """Shares of true renders that it calls faithful and aligned. Raises `UserError` when it was never measured."""
        if not self.metrics:
            raise UserError(f"this rater has not been measured: {REMEDY}, or measure it with `reimagen rater check`")
        return self.metrics["faithful"][0], self.metrics["aligned"][0]

    @cached_property
    def digest(self) -> str:
        """Checksum of the network and its weights (hex)."""
        return fingerprint(self.params, identity(self.config))[:16]

    def require_resolution(self, resolution: int) -> None:
        """Raises `UserError` when images of this size are not what the rater reads."""
        size = self.config.resolution
        if resolution != size:
            raise UserError(
                f"this rater reads images of {size} x {size} pixels, not {resolution} x {resolution}: "
                f"train one with `reimagen rater train --resolution {resolution}`"
            )

    def read(self, images: UInt8[np.ndarray, "n r r 3"]) -> Readings:
        """What the images show. Raises `UserError` when they do not have the resolution that the rater reads."""
        self.require_resolution(images.shape[1])
        parts = [self._read_batch(images[start : start + BATCH]) for start in range(0, max(len(images), 1), BATCH)]
        return Readings(*(np.concatenate(part) for part in zip(*parts, strict=True)))

    def features(self, images: UInt8[np.ndarray, "n r r 3"]) -> Float[np.ndarray, "n d"]:
        """What it reads from, before it decides: the hidden layers of look and scene, each of unit root mean square,
        float32 [N, look_hidden + scene_hidden]. For distances between sets of pictures. Raises `UserError` like `read`.
        """
        self.require_resolution(images.shape[1])
        starts = range(0, max(len(images), 1), BATCH)
        return np.concatenate([self._batch(self._hidden, images[start : start + BATCH])[0] for start in starts])

    def rate(
        self,
        images: UInt8[np.ndarray, "n r r 3"],
        looks: Int[np.ndarray, "n l"],
        scenes: Mapping[str, Int[np.ndarray, " n"]],
        tells: Bool[np.ndarray, "n a"],
    ) -> Verdicts:
        """Compares images with what they have to show.

        `looks` are (category, v_1 .. v_P); `scenes` has the value indices of every attribute by its name; `tells` says
        which attributes the captions tell, in the order of SCENE_PARAMETERS.
        """
        readings = self.read(images)
        look_right = readings.look_right(np.asarray(looks))
        scene_right = readings.scene_NA == np.stack([np.asarray(scenes[name]) for name in SCENE_NAMES], axis=1)
        return Verdicts(
            faithful=look_right.all(axis=1),  # (1)
            aligned=(scene_right | ~np.asarray(tells)).all(axis=1),  # (2)
            look_right=look_right,
            scene_right=scene_right,
        )

    def _read_batch(self, images: np.ndarray) -> Readings:
        return Readings(*self._batch(self._program, images))

    def _batch(self, program: Any, images: np.ndarray) -> list[np.ndarray]:
        """What a program makes of at most BATCH images: one program for every number of them."""
        padded = np.concatenate([images, np.zeros((BATCH - len(images), *images.shape[1:]), np.uint8)])
        return [np.asarray(part)[: len(images)] for part in program(self.params, padded)]

    @cached_property
    def _program(self):
        net = RaterNet(self.config)

        def program(params: Any, image_BHWC: jax.Array) -> Readings:
            logits: Logits = net.apply({"params": params}, image_BHWC.astype(np.float32) / 255.0)
            return Readings(*(part.argmax(axis=-1) for part in logits))

        return jax.jit(program)

    @cached_property
    def _hidden(self):
        net = RaterNet(self.config)

        def program(params: Any, image_BHWC: jax.Array) -> tuple[jax.Array]:
            image_BHWC = image_BHWC.astype(np.float32) / 255.0
            _, kept = net.apply({"params": params}, image_BHWC, mutable=HIDDEN)
            layers = [kept[HIDDEN][reader]["hidden"][0] for reader in ("LookReader_0", "SceneReader_0")]
            # The scene's is not normalised in the network, and would be all that a distance sees.
            scaled = [x_BD * jax.lax.rsqrt((x_BD**2).mean(axis=-1, keepdims=True) + 1e-6) for x_BD in layers]
            return (jax.numpy.concatenate(scaled, axis=-1),)

        return jax.jit(program)


def shapes(config: RaterConfig) -> Any:
    """The tree of the network's parameters, as shapes."""
    image = jax.ShapeDtypeStruct((1, config.resolution, config.resolution, 3), np.float32)
    return jax.eval_shape(RaterNet(config).init, randomness.key(0), image)["params"]
