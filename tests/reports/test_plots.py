"""Plots: what is drawn is what was measured, and it can be told apart."""

import io
import re
from xml.etree import ElementTree

import numpy as np
import pytest
from matplotlib.colors import to_rgb
from PIL import Image

from reimagen_jax.evaluation.statistics import Curve, Interval, wilson
from reimagen_jax.reports import figures, plots

X = (0.0, 0.5, 1.0)
RISING = tuple(wilson(s, 20) for s in (2, 10, 18))
FALLING = RISING[::-1]


def test_curves_show_means_and_bands():
    lines = [Curve("aligned", X, RISING), Curve("faithful", X, FALLING)]
    figure = plots.curves(lines, x_label="eta", levels={"ceiling": 0.95})
    (axes,) = figure.axes
    drawn = {line.get_label(): line for line in axes.lines}
    for line in lines:
        np.testing.assert_allclose(drawn[line.name].get_ydata(), [y.mean for y in line.points])
    np.testing.assert_allclose(drawn["ceiling"].get_ydata(), 0.95)
    for band, line in zip(axes.collections, lines, strict=True):
        reached = band.get_paths()[0].get_extents()
        assert reached.y0 == pytest.approx(min(y.low for y in line.points))
        assert reached.y1 == pytest.approx(max(y.high for y in line.points))
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


def test_points_show_means_and_whiskers_from_the_left_to_the_right():
    values = {"faithful": RISING[:2], "aligned": [None, RISING[2]], "both": [None, None]}
    (axes,) = plots.points(("unseen", "rare"), values, x_label="share of images", limits=(0, 1)).axes
    drawn = {line.get_label(): line for line in axes.lines}
    assert list(drawn) == ["faithful", "aligned"], "what has no value has no place"
    np.testing.assert_allclose(drawn["faithful"].get_xdata(), [y.mean for y in RISING[:2]])
    assert np.round(drawn["faithful"].get_ydata()).tolist() == [0, 1] and np.round(drawn["aligned"].get_ydata()) == [1]
    assert drawn["faithful"].get_ydata()[1] < drawn["aligned"].get_ydata()[0], "side by side, not on one another"
    whiskers = [segment for lines in axes.collections for segment in lines.get_segments()]
    np.testing.assert_allclose([w[:, 0] for w in whiskers], [(y.low, y.high) for y in RISING])
    assert axes.get_xlim() == (0, 1) and axes.get_ylim() == (1.5, -0.5), "rows from the top down"
    assert [tick.get_text() for tick in axes.get_yticklabels()] == ["unseen", "rare"]


def test_series_differ_in_more_than_colour():
    assert len(set(plots.MARKERS)) == len(set(plots.HATCHES)) == len(set(plots.COLOURS)) == 6
    brightness = sorted(np.dot(to_rgb(c), (0.299, 0.587, 0.114)) for c in plots.COLOURS[:2])
    assert brightness[1] - brightness[0] > 0.05  # the two curves of every sweep differ in print too


def test_files_are_png_and_the_same_every_time(tmp_path):
    def figure():
        return plots.curves([Curve("a", X, [Interval(0.5, 0.4, 0.6)] * 3)], x_label="x", title="t")

    figures.save(figure(), tmp_path / "plot.png")
    content = (tmp_path / "plot.png").read_bytes()
    assert content == figures.png(figure())
    with Image.open(io.BytesIO(content)) as image:
        assert image.format == "PNG" and min(image.size) > 300
    assert [path.name for path in tmp_path.iterdir()] == ["plot.png"]


# -- as SVG


def over_eta(name: str, *means: int) -> Curve:
    return Curve(name, X, tuple(wilson(mean, 10) for mean in means[1:]), wilson(means[0], 10), 0.97)


def svg(*lines: Curve) -> ElementTree.Element:
    return ElementTree.fromstring(figures.svg(plots.over_eta(lines, 8.0), 'a "title"', plots.tooltips(lines)))


def markers(root: ElementTree.Element, name: str) -> list[tuple[float, float]]:
    (group,) = (group for group in root.iter("g") if group.get("id") == name)
    return [(float(marker.get("x")), float(marker.get("y"))) for marker in group.iter("use")]


def test_the_chart_is_well_formed_and_higher_means_higher():
    root = svg(over_eta("faithful", 0, 9, 7, 3), over_eta("aligned & so on", 9, 3, 8, 4))
    (baseline,), points = markers(root, "baseline-0"), markers(root, "points-0")
    circles = [baseline, *points]
    assert [x for x, _ in circles] == sorted(x for x, _ in circles)
    assert points[0][1] < points[1][1] < points[2][1] < baseline[1]
    squares = [*markers(root, "baseline-1"), *markers(root, "points-1")]
    assert [x for x, _ in squares[1:]] == [x for x, _ in points], "both curves stand over the same etas"
    assert squares[0][0] != baseline[0], "the baselines' intervals do not hide each other"
    titles = [title.text for title in root.iter("title")]
    assert len(titles) == 2 * 4 and any("aligned & so on, η 0.5: 0.80" in title for title in titles)
    assert root.get("aria-label") == 'a "title"'


def test_names_of_curves_that_end_together_do_not_touch():
    root = svg(*(Curve(name, X, (Interval(0.5, 0.4, 0.6),) * 3, Interval(0.5, 0.4, 0.6)) for name in ("one", "two")))
    names = [text for text in root.iter("text") if text.text in ("one", "two")]
    (x, y), (next_x, next_y) = ((float(text.get("x")), float(text.get("y"))) for text in names)
    size = float(re.search(r"font-size: ([\d.]+)px", names[0].get("style"))[1])
    assert y == next_y and next_x - x > len("one") * size, "beside each other, with room for the word"


def test_a_page_gives_the_chart_its_colours_and_its_font_and_nothing_else():
    lines = [over_eta(name, 0, 9, 7, 3) for name in ("faithful", "aligned")]
    first, second = (figures.svg(plots.over_eta(lines, 8.0), "shares") for _ in "ab")
    assert first == second
    assert not re.search(r"#[0-9A-Fa-f]{6}", re.sub(r"var\(--[\w-]+, #\w{6}\)", "", first).replace('"#', '"'))
    assert {f"var(--series-{i}, {plots.COLOURS[i]})" in first for i in range(2)} == {True}
    assert "font-family" not in first and "font: " not in first and not re.search(r"https?://|url\(|<style", first)
