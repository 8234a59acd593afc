"""Networks whose features sets of pictures are compared by, each with its own way to resize a picture, by which it is
named: a figure is of these features, and compares with those of the same ones alone.

    rater, encoder   a central square, averaged over areas on the way down, bicubic on the way up
    CLIP             the shorter side resized (bicubic), the central square of that; vectors as the tower gives them
    Inception        the whole picture, squeezed to 299 x 299 in one of three ways (inception_published.py)

Products are as precise as the device has them: in TF32 or bfloat16, near neighbours would change places. Batches of one
size are split over all devices of the machine; what the last one is filled up with is left out again.
"""

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P
from jaxtyping import Float
from PIL import Image

from reimagen_jax.data import images
from reimagen_jax.encoders import clip, vectors
from reimagen_jax.encoders.dual import DualEncoder
from reimagen_jax.encoders.frozen import on_mesh, pad_rows
from reimagen_jax.encoders.inception import PLACES, POINTS, SIDE, SPATIAL
from reimagen_jax.encoders.inception_published import RESIZINGS, published, resized
from reimagen_jax.encoders.settings import InceptionPoint, JointConfig, Resizing
from reimagen_jax.errors import require
from reimagen_jax.evaluation.rater import SETTINGS, Rater
from reimagen_jax.sharding import make_mesh

RATER = "rater"
PICKLES = (".pth", ".pt")
"""What Inception's weights come in."""
SQUARE = "central square, averaged over areas on the way down, bicubic on the way up"
CLIPS = "the shorter side bicubic, its central square, as CLIP's own"
VITS = {(768, 12, 32): "ViT-B/32", (768, 12, 16): "ViT-B/16", (1024, 24, 14): "ViT-L/14"}
"""Width, depth and patch of a published CLIP's image tower, to what people call it."""


AT_ONCE, ON_CPU = 64, 8
"""Pictures that Inception reads at once on each device; on CPUs, which share one memory, in all."""


class Read(NamedTuple):
    """Of B pictures."""

    vector_BD: Float[np.ndarray, "b d"]
    logits_BC: Float[np.ndarray, "b c"] | None = None
    """Of Inception's classes, without bias."""
    spatial_BS: Float[np.ndarray, "b s"] | None = None
    """Of one of its maps, for sFID."""


@dataclass(frozen=True, eq=False)
class Features:
    """A network that turns pictures into vectors."""

    name: str
    fingerprint: str
    resizing: str
    """How pictures come to it, in a sentence."""
    label: str
    """Beside every figure: the network, and what tells its figures from others."""
    width: int
    batch: int
    prepare: Callable[[Image.Image], np.ndarray] = field(repr=False)
    """A whole picture as an array of the network's own size."""
    embed: Callable[[np.ndarray], Read] = field(repr=False)
    """Vectors of what was prepared, at most `batch` at once; they may be on their way still, and more than asked for:
    those of what a batch was filled up with stand behind."""
    texts: Callable[[Sequence[str]], np.ndarray] | None = field(default=None, repr=False)
    """Unit vectors of texts in the same space; None where it reads none."""
    scores: bool = False
    """Whether it tells classes, for the Inception Score."""
    spatial_width: int = 0
    """Values of the map that it tells, for sFID; 0 where it tells none."""
    spatial_label: str = ""
    """Beside sFID, as `label` is beside the others."""
    clip: bool = False
    suite: bool = False
    """Whether it is what the ADM suite's statistics are of: Inception's 2,048, resized as TensorFlow 1."""

    def __str__(self) -> str:
        return f"{self.name} ({self.fingerprint}), {self.resizing}"

    def read(self, batches: Iterable[np.ndarray]) -> Iterator[Read]:
        """Vectors of prepared pictures, each batch's once the next one is under way."""
        running: deque[tuple[Read, int]] = deque()
        for batch in batches:
            with jax.default_matmul_precision("highest"):
                running.append((self.embed(batch), len(batch)))
            if len(running) > 1:
                yield _on_host(*running.popleft())
        for left in running:
            yield _on_host(*left)


def open_features(spec: str | Path, resizing: Resizing | None = None, point: InceptionPoint | None = None) -> Features:
    """`rater`, the one that comes with the package; a file of Inception's weights; a folder of a rater, an encoder or a
    CLIP.

    `resizing` (default: pytorch-fid) and `point` (default: 2048) are of Inception alone. Raises `UserError` where there
    is none of these, and for what does not go with it.
    """
    path = Path(spec)
    if str(spec) != RATER and (path.is_file() or path.suffix in PICKLES):
        return _inception(path, resizing or "pytorch-fid", point or 2048)
    for option, value in (("--resizing", resizing), ("--point", point)):
        require(value is None, f"{option} {value} is of Inception, and {spec} is none: give its weights, a .pth file")
    if str(spec) == RATER or (path / SETTINGS).is_file():
        return _rater(Rater.open(None if str(spec) == RATER else path))
    encoder = vectors.open_encoder(path, _mesh())
    require(encoder.resolution is not None, f"{path} holds an encoder of texts alone: give one that reads pictures")
    return _clip(encoder) if isinstance(encoder, clip.ClipEncoder) else _encoder(encoder)


def _rater(rater: Rater) -> Features:
    side = rater.config.resolution
    return Features(
        name="the rater's features",
        fingerprint=rater.digest,
        resizing=_at(side, SQUARE),
        label=f"rater {rater.digest[:8]}",
        width=rater.config.look_hidden + rater.config.scene_hidden,
        batch=256,
        prepare=partial(_square, side=side),
        embed=lambda pictures: Read(rater.features(pictures)),
    )


def _encoder(encoder: Any) -> Features:
    own = isinstance(encoder, DualEncoder)
    joint = own and isinstance(encoder.config, JointConfig)
    kind = "CLIP of one's own" if joint else "encoder"
    return Features(
        name="vectors of the encoder",
        fingerprint=encoder.fingerprint,
        resizing=_at(encoder.resolution, SQUARE),
        label=f"{kind} {encoder.fingerprint[-8:]}, unit vectors",
        width=encoder.width,
        batch=256,
        prepare=partial(_square, side=encoder.resolution),
        embed=lambda pictures: Read(encoder.images(pictures)),
        texts=None if getattr(encoder, "kind", "") == "representation" else encoder.texts,
        clip=joint,
    )


def _clip(encoder: clip.ClipEncoder) -> Features:
    tower, side = encoder.config.image, encoder.resolution
    known = VITS.get((tower.tower.width, tower.tower.depth, tower.patch))
    kind = known or f"ViT {tower.tower.width} x {tower.tower.depth}/{tower.patch}"
    name = f"CLIP {kind} at {side}"
    return Features(
        name=f"image vectors of {name}, not normalised",
        fingerprint=encoder.fingerprint,
        resizing=_at(side, CLIPS),
        label=f"{name}, {encoder.fingerprint[:8]}",
        width=encoder.width,
        batch=64,
        prepare=lambda image: clip.fit(np.asarray(image), side),
        embed=lambda pictures: Read(encoder.image_vectors(pictures)),
        texts=None if encoder.config.text is None else encoder.texts,
        clip=True,
    )


def _inception(path: Path, resizing: Resizing, point: InceptionPoint) -> Features:
    require(point in POINTS, f"--point {point}: Inception's features are of {', '.join(map(str, POINTS))} values")
    net, params, fingerprint = published(path)
    mesh = _mesh()
    devices = 1 if mesh is None else mesh.size
    batch = AT_ONCE * devices if jax.default_backend() != "cpu" else -(-ON_CPU // devices) * devices
    if mesh is not None:
        params = jax.device_put(params, NamedSharding(mesh, P()))
    program = jax.jit(lambda params, x_BHWC: tuple(net.apply({"params": params}, x_BHWC, point)))

    def embed(x_BHWC: np.ndarray) -> Read:
        return Read(*program(params, *on_mesh((pad_rows(x_BHWC, batch, 0.0),), mesh)))

    narrow = "" if net.shrink == 1 else f" of 1/{net.shrink} of the width"
    name, last = f"Inception {point}{narrow}", point == POINTS[-1]
    by = f"{resizing}'s resizing" if resizing != "clean" else "clean resizing"
    return Features(
        name=f"features of {name}",
        fingerprint=fingerprint[:16],
        resizing=f"whole pictures at {SIDE} x {SIDE} as {resizing} resizes them: {RESIZINGS[resizing]}",
        label=f"{name}, {by}",
        width=point // net.shrink,
        batch=batch,
        prepare=lambda image: resized(np.asarray(image), resizing),
        embed=embed,
        scores=last,
        spatial_width=PLACES**2 * SPATIAL if last else 0,
        spatial_label=f"Inception's Mixed_6d{narrow}, {SPATIAL} channels of {PLACES} x {PLACES}, {by}" if last else "",
        suite=last and resizing == "torch-fidelity",
    )


def _square(image: Image.Image, side: int) -> np.ndarray:
    return np.asarray(images.square(image, side))


def _at(side: int, how: str) -> str:
    return f"pictures at {side} x {side}: {how}"


def _mesh() -> Mesh | None:
    """All devices of this machine; None where there is one."""
    devices = jax.local_devices()
    return make_mesh(devices=devices) if len(devices) > 1 else None


def _on_host(read: Read, count: int) -> Read:
    return Read(*(None if each is None else np.asarray(each)[:count] for each in read))
