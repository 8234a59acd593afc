"""Small pictures and records for tests."""

import io
import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw

from reimagen_jax.data.records import ImageText, Records, write_records


def picture(seed: int, size: tuple[int, int] = (8, 8), mode: str = "RGB") -> Image.Image:
    """Noise; width x height."""
    channels = len(Image.new(mode, (1, 1)).getbands())
    pixels = np.random.default_rng(seed).integers(0, 256, (size[1], size[0], channels), np.uint8)
    return Image.fromarray(pixels.squeeze(-1) if channels == 1 else pixels, mode=None)


def encoded(image: Image.Image, kind: str = "PNG", **options) -> bytes:
    """The bytes of an image file."""
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


SHAPES = ("disc", "square", "ring", "cross", "diamond", "ex")


def icon(shape, side=256, width=46, ink="black", ground="white") -> Image.Image:
    """A shape in the middle, drawn at four times the size."""
    image, r, c = Image.new("RGB", (4 * side, 4 * side), ground), 2 * width, 2 * side
    draw = ImageDraw.Draw(image)
    if shape == "disc":
        draw.ellipse([c - r, c - r, c + r, c + r], ink)
    if shape == "square":
        draw.rectangle([c - 0.87 * r, c - 0.87 * r, c + 0.87 * r, c + 0.87 * r], ink)
    if shape == "ring":
        draw.ellipse([c - 1.2 * r, c - 1.2 * r, c + 1.2 * r, c + 1.2 * r], ink)
        draw.ellipse([c - 0.78 * r, c - 0.78 * r, c + 0.78 * r, c + 0.78 * r], ground)
    if shape == "cross":
        draw.rectangle([c - 0.3 * r, c - 1.4 * r, c + 0.3 * r, c + 1.4 * r], ink)
        draw.rectangle([c - 1.4 * r, c - 0.3 * r, c + 1.4 * r, c + 0.3 * r], ink)
    if shape == "diamond":
        draw.polygon([(c, c - 1.25 * r), (c + 1.25 * r, c), (c, c + 1.25 * r), (c - 1.25 * r, c)], ink)
    if shape == "ex":
        draw.line([c - r, c - r, c + r, c + r], ink, width=int(0.7 * r))
        draw.line([c - r, c + r, c + r, c - r], ink, width=int(0.7 * r))
    return image.resize((side, side), Image.Resampling.BOX)


def example(seed: int, text: str, key: str | None = None, **attributes) -> ImageText:
    """An example whose picture is determined by `seed`."""
    return ImageText(f"k{seed}" if key is None else key, encoded(picture(seed)), text, attributes)


def records_of(folder: Path, texts: Sequence[str], *, source: str = "test", first_seed: int = 0) -> Records:
    """Records with these captions, each with a picture of its own."""
    return write_records([example(first_seed + i, text) for i, text in enumerate(texts)], folder, source=source)


def write_folder(folder: Path, lines: Sequence[dict | str], pictures: dict[str, Image.Image | bytes]) -> Path:
    """A folder as users have it: image files and metadata.jsonl."""
    folder.mkdir(parents=True)
    for name, content in pictures.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content if isinstance(content, bytes) else encoded(content))
    text = "".join((line if isinstance(line, str) else json.dumps(line)) + "\n" for line in lines)
    (folder / "metadata.jsonl").write_text(text, encoding="utf-8", errors="surrogatepass")
    return folder
