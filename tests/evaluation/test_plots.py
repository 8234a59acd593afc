"""Plots: what is drawn is what was measured, and it can be told apart."""

import io

import numpy as np
import pytest
from matplotlib.colors import to_rgb
from PIL import Image

from reimagen_jax.evaluation import plots
from reimagen_jax.evaluation.statistics import Interval, wilson

X = (0.0, 0.5, 1.0)
RISING = [wilson(s, 20) for s in (2, 10, 18)]
FALLING = RISING[::-1]


def test_curves_show_means_and_bands():
    lines = [plots.Curve("aligned", X, RISING), plots.Curve("faithful", X, FALLING)]
    figure = plots.curves(lines, x_label="eta", levels={"ceiling": 0.95})
    (axes,) = figure.axes
    drawn = {line.get_label(): line for line in axes.lines}
    for line in lines:
        np.testing.assert_allclose(drawn[line.label].get_ydata(), [y.mean for y in line.y])
    np.testing.assert_allclose(drawn["ceiling"].get_ydata(), 0.95)
    for band, line in zip(axes.collections, lines, strict=True):
        reached = band.get_paths()[0].get_extents()
        assert reached.y0 == pytest.approx(min(y.low for y in line.y))
        assert reached.y1 == pytest.approx(max(y.high for y in line.y))
    assert axes.get_ylim()[0] == 0 and axes.get_ylim()[1] >= 1
    assert [text.get_text() for text in axes.get_legend().get_texts()] == ["aligned", "faithful", "ceiling"]


def test_bars_show_means_and_whiskers_and_leave_out_what_is_missing():
    figure = plots.bars(("unseen", "rare"), {"retrieval": RISING[:2], "none": [None, RISING[2]]})
    (axes,) = figure.axes
    assert [bar.get_height() for bar in axes.patches] == [y.mean for y in (RISING[0], RISING[1], RISING[2])]
    centres = [bar.get_x() + bar.get_width() / 2 for bar in axes.patches]
    assert np.round(centres).tolist() == [0, 1, 1] and len(set(centres)) == 3
    whiskers = [segment for lines in axes.collections for segment in lines.get_segments()]
    np.testing.assert_allclose([w[:, 1] for w in whiskers], [(y.low, y.high) for y in RISING])


def test_series_differ_in_more_than_colour():
    assert len(set(plots.MARKERS)) == len(set(plots.HATCHES)) == len(set(plots.COLOURS)) == 6
    brightness = sorted(np.dot(to_rgb(c), (0.299, 0.587, 0.114)) for c in plots.COLOURS[:2])
    assert brightness[1] - brightness[0] > 0.05  # the two curves of every sweep differ in print too


def test_files_are_png_and_the_same_every_time(tmp_path):
    def figure():
        return plots.curves([plots.Curve("a", X, [Interval(0.5, 0.4, 0.6)] * 3)], x_label="x", title="t")

    plots.save(figure(), tmp_path / "plot.png")
    content = (tmp_path / "plot.png").read_bytes()
    assert content == plots.png(figure())
    with Image.open(io.BytesIO(content)) as image:
        assert image.format == "PNG" and min(image.size) > 300
    assert [path.name for path in tmp_path.iterdir()] == ["plot.png"]
