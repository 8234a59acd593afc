"""Figures of matplotlib as PNG files, as pictures, and as SVG in a page, without a window and without global state.

In SVG a page may set colours of its own, light or dark: `--series-0`, `--series-1`, ... for what is measured (COLOURS),
`--soft` for INK, `--rule` for GRID, `--card` for PAPER.
"""

import io
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from xml.etree import ElementTree

import matplotlib
import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure
from PIL import Image

COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")
INK, GRID, PAPER = "#333333", "#DDDDDD", "#FFFFFF"
DPI = 150
VARIABLES = {INK: "--soft", GRID: "--rule", PAPER: "--card"} | {c: f"--series-{i}" for i, c in enumerate(COLOURS)}
"""The CSS variables that may stand for colours."""


def png(figure: Figure) -> bytes:
    """The figure as a PNG file."""
    buffer = io.BytesIO()
    FigureCanvasAgg(figure).print_figure(buffer, format="png", dpi=DPI, facecolor="white")
    return buffer.getvalue()


def save(figure: Figure, path: str | Path) -> None:
    """Writes the figure as a PNG file, whole or not at all."""
    path = Path(path)
    partial = path.with_name(f".{path.name}.partial")
    partial.write_bytes(png(figure))
    partial.replace(path)


def image(figure: Figure) -> Image.Image:
    """The figure to paste into a picture, 100 pixels an inch."""
    figure.set_dpi(100)
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    return Image.fromarray(np.asarray(canvas.buffer_rgba())).convert("RGB")


def svg(figure: Figure, about: str, told: Mapping[str, Sequence[str]] | None = None) -> str:
    """The figure as an element of an HTML page: its text is text, in the page's font, and refers to nothing outside.

    `about` is what it shows, for those who do not see it; `told` has what to say of the markers of a line with an id
    (`plots.tooltips`).
    """
    buffer = io.StringIO()
    with matplotlib.rc_context({"svg.fonttype": "none", "svg.hashsalt": "reimagen"}):  # text; the same ids every time
        nothing = dict.fromkeys(("Date", "Creator", "Format", "Type"))
        FigureCanvasSVG(figure).print_figure(buffer, format="svg", facecolor="none", metadata=nothing)
    root = ElementTree.fromstring(buffer.getvalue())
    for element in root.iter():
        element.tag = element.tag.rpartition("}")[2]
        fields = {name.rpartition("}")[2]: value for name, value in element.attrib.items()}
        fields.pop("clip-path", None)  # nothing lies outside of the axes
        if "style" in fields:
            fields["style"] = _restyled(fields["style"])
        element.attrib = fields
        for child in [each for each in element if each.tag.endswith(("}style", "}clipPath", "}metadata"))]:
            element.remove(child)
    for name, texts in (told or {}).items():
        markers = [use for group in root.iter("g") if group.get("id") == name for use in group.iter("use")]
        for marker, text in zip(markers, texts, strict=True):
            ElementTree.SubElement(marker, "title").text = text
    root.attrib = {"class": "curves", "viewBox": root.attrib["viewBox"], "role": "img", "aria-label": about}
    return ElementTree.tostring(root, encoding="unicode")


def _restyled(style: str) -> str:
    """The page's colours and font for those of matplotlib."""
    for colour, variable in VARIABLES.items():
        style = style.replace(colour.lower(), f"var({variable}, {colour})")
    style = re.sub(r"font-family: [^;]*(; )?", "", style)
    return re.sub(r"font: ([\d.]+px) [^;]*", r"font-size: \1", style)  # as older versions of matplotlib write it
