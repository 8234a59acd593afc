"""Where one image comes from: a record that lies beside it as JSON and in its PNG, enough to draw it again.

A PNG has it in an iTXt chunk (UTF-8) under the key `reimagen_jax`. People send pictures around, so what is read here is
a stranger's: sizes are bounded, and a field that is not as it should be is a `UserError` that names file and field.
"""

import dataclasses
import hashlib
import io
import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
import PIL.Image
from annotated_types import Le, MaxLen
from PIL.PngImagePlugin import PngInfo
from pydantic import StringConstraints

from reimagen_jax.checked import Count, Known, Natural, NonNegative, Number, Seed, parse
from reimagen_jax.data import images
from reimagen_jax.errors import UserError, require

KEY = "reimagen_jax"
FORMAT = 1
LARGEST = 2**22
"""Bytes of a record."""
Text = Annotated[str, MaxLen(2**20)]
Sha256 = Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{64}$")]
Checksum = Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{1,64}$")]
Times = Annotated[tuple[Number, ...], MaxLen(100_001)]
Texts = Annotated[dict[Text, Text], MaxLen(100)]


@dataclass(frozen=True)
class NeighbourOrigin(Known):
    """A neighbour that an image was drawn with."""

    key: Text
    """Of the record, or the file's name."""
    text: Text
    score: Number | None
    """None where a person chose it."""
    pixels_sha256: Sha256
    """At the resolution of the first stage."""
    source: Text = ""
    """Of the record; empty for a file."""
    base: Text = ""
    """Checksum of the knowledge base; empty for a file."""
    place: Text = ""
    """Folder of the knowledge base, or the file; empty where that is left out."""
    rights: Texts = field(default_factory=dict)
    """What its source tells of licence and author."""
    weight: NonNegative = 1.0
    """In the attention, beside the others."""


@dataclass(frozen=True)
class ModelOrigin(Known):
    """The model of a stage."""

    name: Text
    folder: Text
    """As it was opened; empty where that is left out."""
    step: Natural | None
    """Of the checkpoint; None for weights."""
    sha256: Checksum
    """Of the parameters, its beginning."""
    teacher: Text = ""
    """What it was distilled from, name and SHA-256; empty for others."""


@dataclass(frozen=True)
class StageOrigin(Known):
    """How one stage drew."""

    model: ModelOrigin
    sampler: dict[str, Any]
    """All settings."""
    guidance: dict[Text, Any]
    """Its numbers: eta, the weights."""
    times: Times
    """Those visited, from noise to the image."""
    text_steps: Annotated[tuple[Natural, ...], MaxLen(100_000)] | None
    """The plan of eta: numbers of the steps that strengthened the text. None where no step chose."""
    batch_size: Annotated[Count, Le(2**16)]
    """Images that a device drew at once."""


@dataclass(frozen=True)
class StartOrigin(Known):
    """A picture that was given to be enlarged (or edited)."""

    pixels_sha256: Sha256
    """At the size in which the model takes it."""
    file: Text = ""
    """Empty where that is left out."""


@dataclass(frozen=True)
class Origin(Known):
    """Where an image comes from. Stages in order; the last one drew it."""

    format: Literal[1]
    made_by: Text
    """The command's name, such as sample."""
    prompt: Text
    negative: Text
    record: Text
    """Key of the record whose caption is the prompt; empty for a text of one's own."""
    seed: Seed
    index: Natural
    """Of the image: with the seed it is all the randomness there is."""
    neighbours: Annotated[tuple[NeighbourOrigin, ...], MaxLen(10_000)]
    start: StartOrigin | None
    stages: Annotated[tuple[StageOrigin, ...], MaxLen(100)]
    pixels_sha256: Sha256
    """Of the image: uint8 [H, W, 3], row by row."""
    device: Text
    versions: Texts
    command: Text
    more: dict[str, Any] = field(default_factory=dict)
    """What only one command knows."""


class NoOrigin(UserError):
    """A picture that does not tell where it comes from."""


def save_image(path: Path, image: np.ndarray, origin: Origin) -> None:
    """Writes an image, uint8 [H, W, 3], as PNG with its origin, and the origin beside it: NAME.png and NAME.json.

    Each is whole or not there, the picture the last: where it is, both are.
    """
    text, picture = encoded(image, origin)
    for place, content in ((path.with_suffix(".json"), text), (path, picture)):
        partial = place.with_name(f".{place.name}.partial")
        partial.write_bytes(content)
        partial.replace(place)


def encoded(image: np.ndarray, origin: Origin) -> tuple[bytes, bytes]:
    """An origin as JSON, and an image, uint8 [H, W, 3], as PNG with that in it."""
    text, chunk = json.dumps(dataclasses.asdict(origin), ensure_ascii=False, allow_nan=False), PngInfo()
    chunk.add_itxt(KEY, text)
    buffer = io.BytesIO()
    PIL.Image.fromarray(image).save(buffer, "PNG", pnginfo=chunk)
    return text.encode() + b"\n", buffer.getvalue()


def read_origin(path: str | Path) -> tuple[Origin, np.ndarray | None]:
    """The origin in a PNG or a JSON file, with the picture: uint8 [H, W, 3]; beside a JSON file it may be missing.

    Raises `UserError`, naming the file and what is amiss, for whatever holds no origin.
    """
    path = Path(path)
    picture = path.with_suffix(".png") if path.suffix == ".json" else path
    try:
        data = images.read(picture) if picture is path or picture.is_file() else b""
        text = _beside(path) if picture is not path else _within(data, path)
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror}") from error
    try:
        value = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise UserError(f"{path} cannot be read as the origin of an image: {error}") from error
    if not data:
        return _parsed(value, path), None
    try:
        with images.room(data):
            return _parsed(value, path), np.asarray(images.load(data))
    except images.ImageError as error:
        raise UserError(f"{picture}: {error}") from error


def pixels_sha256(image: np.ndarray) -> str:
    """Of uint8 [H, W, 3]."""
    return hashlib.sha256(np.ascontiguousarray(image).tobytes()).hexdigest()


def _parsed(value: Any, path: Path) -> Origin:
    found = value.get("format") if isinstance(value, dict) else None
    require(
        found is None or isinstance(found, int) is False or found <= FORMAT,
        f"{path}.format is {found}: it was written by a newer version of reimagen_jax, install that",
    )
    return parse(Origin, value, str(path))


def _beside(path: Path) -> bytes:
    with path.open("rb") as file:
        text = file.read(LARGEST + 1)
    require(len(text) <= LARGEST, f"{path} is larger than the origin of an image can be ({LARGEST} bytes)")
    return text


def _within(data: bytes, path: Path) -> str:
    try:
        with PIL.Image.open(io.BytesIO(data), formats=("PNG",)) as image:
            text = image.info.get(KEY)
    except Exception as error:  # Pillow's decoders let all kinds through when a file is broken
        said = "it is no PNG" if isinstance(error, PIL.UnidentifiedImageError) else error
        raise NoOrigin(f"{path} tells no origin: {said}; give a picture as `reimagen sample` writes it") from None
    if not isinstance(text, str):
        raise NoOrigin(
            f"{path} tells no origin (a PNG keeps it in a text chunk, {KEY}, which some programs drop): give the JSON "
            "file that was beside it"
        )
    require(len(text) <= LARGEST, f"{path} tells more than an origin can ({LARGEST} bytes)")
    return text
