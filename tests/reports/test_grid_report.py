"""The report of a grid: every image in its place, nothing run or loaded, the choice in words, all numbers as CSV."""

import csv
import io
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from reimagen_jax.evaluation.axes import axes_of
from reimagen_jax.evaluation.grids import Asked, plan
from reimagen_jax.evaluation.pareto import MEASURES, Result, chosen
from reimagen_jax.evaluation.statistics import mean_ci
from reimagen_jax.evaluation.store import Images
from reimagen_jax.inference.model import Model
from reimagen_jax.inference.prompts import Prompt
from reimagen_jax.reports import grid_report
from reimagen_jax.reports.grid_report import GridReport, choice, render, write_grid_report
from reimagen_jax.reports.grid_results import as_csv, as_json
from tests.reports.test_report import EVIL, Reader, noise, pixels
from tests.tiny import TINY

OVER = ["eta=0,0.5,1", "steps=2,4", "solver=ddim,heun"]


def report(rated: bool = True, over=OVER, prompts: int = 12, shown: int = 2, images_each: int = 2) -> GridReport:
    asked = [Prompt(f"prompt {p} {EVIL}") for p in range(prompts)]
    grid = plan(
        axes_of(over), Asked(Model(Path("tiny"), TINY, {}, None), asked, lambda told, *_: told, num_images=images_each)
    )
    images, draw = Images(), np.random.default_rng(0)
    for place, point in enumerate(grid.points):
        for i, key in enumerate(point.keys):
            images[key] = noise(1000 * place + i)
    results = []
    for number, point in enumerate(grid.points, 1):
        result = Result(number, point.values, point.program.evaluations, 0.25, point.program.evaluations)
        if rated:
            said = draw.random((2, prompts, images_each)) < 0.2 + 0.05 * number
            said = np.concatenate([said, said.all(axis=0)[None]])
            shares = {name: mean_ci(each) for name, each in zip(MEASURES, said, strict=True)}
            result = replace(result, verdict_VQS=said, shares=shares)
        results.append(result)
    return GridReport(
        title=f"Title {EVIL}",
        introduction="Introduction.",
        grid=grid,
        images=images,
        table=chosen(results, "both", "evaluations", np.ones(prompts, bool)),
        command=f"reimagen sweep --prompt '{EVIL}'",
        drawn_by=lambda point: f"reimagen sample --eta {point.settings.eta:g} --steps {point.settings.num_steps}",
        settings={"Model": {"name": EVIL}},
        why_unrated="" if rated else "There are no curves because of the moon.",
        about_rater="The rater reads well.",
        shown=shown,
    )


@pytest.fixture(autouse=True)
def distinct(monkeypatch):
    """Without neighbours eta would be 1 at every point: here each point is to have images of its own."""
    from reimagen_jax.systems.reimagen import feed

    monkeypatch.setattr(
        "reimagen_jax.evaluation.grids.guidance_of",
        lambda request, settings: feed.guidance_of(request, settings) | dict(request.guidance),
    )


def written(shown: GridReport, folder: Path) -> dict[str, str]:
    write_grid_report(shown, folder)
    return {path.name: path.read_text(encoding="utf-8") for path in folder.glob("*.html")}


@pytest.mark.parametrize("rated", [True, False])
def test_the_pages_need_nothing_and_run_nothing(rated, tmp_path):
    for page in written(report(rated), tmp_path).values():
        reader = Reader(page)
        assert not {"script", "link", "iframe", "object", "embed", "base", "form"} & set(reader.tags)
        assert "default-src 'none'" in page and "http" not in page.replace("http-equiv", "")
        assert all(image["src"].startswith("data:") for image in reader.images)


def test_every_image_of_the_prompts_shown_is_on_the_sheet_in_order(tmp_path, monkeypatch):
    monkeypatch.setattr(grid_report, "PAGE_IMAGES", 30)
    shown = report()
    pages = written(shown, tmp_path)
    assert sorted(pages) == ["report.html", "sheet-2.html"], "four blocks of 12 images"
    found = [pixels(image["src"]) for name in sorted(pages) for image in Reader(pages[name]).images]
    expected = []
    for solver in ("ddim", "heun"):
        for p in range(2):
            for steps in (2, 4):
                for s in range(2):
                    for eta in (0.0, 0.5, 1.0):
                        values = {"eta": eta, "steps": steps, "solver": solver}
                        point = next(each for each in shown.grid.points if each.values == values)
                        expected.append(shown.grid.images_of(point, shown.images)[p, s].tobytes())
    assert found == expected
    for name, page in pages.items():
        assert all(f'href="{other}#sheet"' in page for other in pages if other != name)
    assert "Of 12 prompts the first" in pages["report.html"]
    monkeypatch.setattr(grid_report, "PAGE_IMAGES", 480)
    assert sorted(written(shown, tmp_path)) == ["report.html"], "pages of a larger sheet are gone"


def test_the_choice_is_told_with_its_interval_and_its_command():
    shown = report()
    text = " ".join(" ".join(Reader(render(shown, [])).text).split())
    best, cheapest = shown.table.best, shown.table.cheapest
    assert choice(shown)[0].startswith("Best (faithful and aligned in one image): η ")
    assert f"{best.shares['both'].low:.2f} to {best.shares['both'].high:.2f}" in choice(shown)[0]
    assert all(sentence in text for sentence in choice(shown))
    settings = shown.grid.points[cheapest.number - 1].settings
    assert f"reimagen sample --eta {settings.eta:g} --steps {settings.num_steps}" in text
    assert best.number != cheapest.number and cheapest.tied and cheapest.cost < best.cost


def test_the_numbers_are_all_there_and_what_is_on_the_front_comes_first():
    shown = report()
    page = render(shown, [])
    rows = page[page.index('<section id="points">') :].split("</table>")[0].split("<tr")[2:]
    assert len(rows) == 12
    assert [("★" in row) for row in rows] == sorted([("★" in row) for row in rows], reverse=True)
    assert page.count("<svg") == 1 + 3 + 1, "what it costs, each axis, and the first two together"


def test_an_unrated_sheet_says_why_and_has_no_curves():
    shown = report(rated=False)
    page = render(shown, [])
    assert "because of the moon" in page and "<svg" not in page and choice(shown) == []
    assert json.loads(json.dumps(as_json(shown, TINY)))["unrated"] == shown.why_unrated


@pytest.mark.parametrize("over", [["eta=0"], ["steps=2,4"], ["negative=,grey", "eta=0:1:0.25"], OVER])
@pytest.mark.parametrize("rated", [True, False])
def test_all_shapes_of_grids_are_shown_and_told(over, rated, tmp_path):
    shown = report(rated, over, prompts=3, images_each=1)
    pages = written(shown, tmp_path)
    assert len(Reader(pages["report.html"]).images) == 2 * len(shown.grid.points)
    assert Image.open(tmp_path / "report.png").size[0] > 64
    told = json.loads(json.dumps(as_json(shown, TINY), allow_nan=False))
    assert [point["number"] for point in told["points"]] == list(range(1, len(shown.grid.points) + 1))
    for point, planned in zip(told["points"], shown.grid.points, strict=True):
        assert [key for keys in point["images_prompt_seed"] for key in keys] == list(planned.keys)
    lines = list(csv.DictReader(io.StringIO(as_csv(shown))))
    assert len(lines) == len(shown.grid.points)
    if rated:
        for line, result in zip(lines, shown.table.results, strict=True):
            assert float(line["both_low"]) == result.shares["both"].low
        assert told["best"] == shown.table.best.number
