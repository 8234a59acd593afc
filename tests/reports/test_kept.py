"""Measurements that are kept: what is written is read, pages have their tables, and the repository's own agree."""

import json
import re
from dataclasses import replace
from pathlib import Path

import pytest
from PIL import Image

from reimagen_jax.errors import UserError
from reimagen_jax.reports import kept_page
from reimagen_jax.reports.kept import (
    BEGIN,
    END,
    FORMAT,
    UNKNOWN,
    Column,
    Kept,
    Made,
    Row,
    filled,
    markdown,
    read_all,
    read_kept,
    write_kept,
)
from tests.reports.test_report import EVIL, Reader

ROOT = Path(__file__).parents[2]
KEPT = ROOT / "experiments" / "results"
PAGES = [path for path in sorted(ROOT.rglob("*.md")) if re.search(f"^{BEGIN}", path.read_text(), re.MULTILINE)]
SHARE = "share of images"
SMALL = Kept(
    FORMAT,
    title="Two ways",
    measured="Ten images a row.",
    labels=("entities", "neighbours"),
    columns=(Column("faithful", SHARE), Column("aligned", SHARE, 2), Column("FID", "FID", 1)),
    rows=(
        Row(("unseen", "retrieved"), {"faithful": (0.7, 0.4, 0.9), "aligned": 0.96, "FID": 1234.56}, ("faithful",)),
        Row(("unseen", "none"), {"faithful": (0.0, 0.0, 0.3)}),
        Row(("rare", "none"), {"faithful": (0.1, 0.0, 0.4), "aligned": 1.0}),
    ),
    made=(Made("reimagen evaluate entities", 0, "2 CPU cores", None, "0.2.0", None),),
)


def page(words: str, *lines: str) -> str:
    return "\n".join(["# A page", "", f"{BEGIN}{words} -->", *lines, END, "", "Its end."])


def test_what_is_written_is_read_and_a_row_is_a_line(tmp_path):
    write_kept(tmp_path / "small.json", SMALL)
    assert read_kept(tmp_path / "small.json") == SMALL
    assert read_all(tmp_path) == {"small": SMALL}
    lines = (tmp_path / "small.json").read_text().splitlines()
    assert sum('"unseen", "none"' in line for line in lines) == 1 and "bold" not in "".join(lines[12:])


def test_a_table_has_what_was_measured_and_nothing_for_what_was_not():
    assert markdown(SMALL) == [
        "| entities | neighbours | faithful | aligned | FID |",
        "| --- | --- | --- | --- | --- |",
        "| unseen | retrieved | **0.700** [0.400, 0.900] | 0.96 | 1,234.6 |",
        "| unseen | none | 0.000 [0.000, 0.300] |  |  |",
        "| rare | none | 0.100 [0.000, 0.400] | 1.00 |  |",
    ]
    odd = replace(SMALL, rows=(Row(("a | b", "c"), {}),))
    assert markdown(odd)[2] == r"| a \| b | c |  |  |  |"
    odd = replace(SMALL, rows=(Row((r"a\|b *c* <b>", "`[d](e)"), {}),))
    assert markdown(odd)[2] == r"| a\\\|b \*c\* \<b> | \`\[d](e) |  |  |  |", "words, and no marks"


def test_rows_and_columns_are_chosen_in_the_order_that_is_asked_for():
    some = SMALL.where({"neighbours": ["none"], "column": ["aligned", "faithful"]})
    assert [row.labels for row in some.rows] == [("unseen", "none"), ("rare", "none")]
    assert [column.name for column in some.columns] == ["aligned", "faithful"]
    both = SMALL.where({"entities": ["rare", "unseen"], "neighbours": ["retrieved"], "column": ["FID"]})
    assert both.rows == (Row(("unseen", "retrieved"), {"FID": 1234.56}),), "what is stressed is not shown"
    assert SMALL.where({}) == SMALL


def test_a_page_is_filled_and_the_rest_of_it_stays():
    stale = page('small entities=unseen "neighbours=none" column=faithful', "| old |", "| --- |", "| 0.9 |")
    new = filled(stale, {"small": SMALL}, "a.md")
    table = ["| entities | neighbours | faithful |", "| --- | --- | --- |", "| unseen | none | 0.000 [0.000, 0.300] |"]
    assert new.splitlines()[3:6] == table
    assert new.splitlines()[:3] == stale.splitlines()[:3] and new.endswith(f"{END}\n\nIts end.")
    assert filled(new, {"small": SMALL}, "a.md") == new
    assert filled(f"{page('small')}\n{page('small')}", {"small": SMALL}, "a.md").count("1,234.6") == 2
    fenced = f"```\n{page('large')}\n```\n"
    assert filled(fenced + stale, {"small": SMALL}, "a.md") == fenced + new, "what is shown stays"
    shown = "    <!-- results: small -->\n    <!-- /results -->\n"  # as text about such comments has them
    assert filled(shown, {}, "a.md") == shown


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (page("large"), "a.md, <!-- results: large -->: there are no results large, there are small"),
        (page("small entities"), "entities is not LABEL=VALUE"),
        (page("small 'entities"), "it cannot be read"),
        (page("small entity=rare"), "entity: there is no such label, there are entities, neighbours, column"),
        (page("small entities=often"), "entities=often: there are unseen, rare"),
        (page("small column=KID"), "column=KID: there are faithful, aligned, FID"),
        (page("small entities=rare neighbours=retrieved"), "no row is all of these"),
        (page("small").replace(END, ""), "1 tables begin by .* and 0 end by"),
        (page("small").replace(f"{BEGIN}small -->", ""), "0 tables begin by .* and 1 end by"),
        (page("small", f"{BEGIN}small -->"), "2 tables begin by .* and 1 end by"),
        (page("small", "a text of somebody's"), "1 tables begin .* and 1 end by .* nothing but a table"),
        (page("small", "| a |", "text <!-- a"), "1 tables begin .* and 1 end by .* nothing but a table"),
        (page("small").replace("results: ", "Results: "), "`<!-- Results: small -->` is no comment that a table"),
        (page("small").replace("<!-- results", "<!--results"), "`<!--results: small -->` is no comment"),
        (page("small").replace("<!-- results", "  <!-- results"), "`  <!-- results: small -->` is no comment"),
        (page("small").replace("small -->", "small --> "), "`<!-- results: small --> ` is no comment"),
    ],
)
def test_what_does_not_go_together_is_refused(text, said):
    with pytest.raises(UserError, match=said):
        filled(text, {"small": SMALL}, "a.md")


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"format": 2}, "format 2: this version reads 1"),
        ({"rows": []}, "there are no rows"),
        ({"made": []}, "nothing says what made the figures"),
        ({"columns": []}, "there are no columns"),
        ({"title": "a\x1b[2J"}, "has control characters"),
        ({"rows": [{"labels": ["a\nb", "c"], "values": {}}]}, "has control characters"),
        ({"rows": [{"labels": ["a", "b"], "values": {"FID": [None, 0.4, 0.6]}}]}, r"FID\[0\] is None: a number"),
        ({"rows": [{"labels": ["a", "b"], "values": {"FID": [0.5, 0.4]}}]}, r"values\.FID\[2\] is missing"),
        ({"labels": ["entities"]}, "row unseen, retrieved: a word for each of entities"),
        ({"labels": ["faithful", "neighbours"]}, "share a name"),
        ({"rows": [{"labels": ["a", "b"], "values": {"KID": 1.0}}]}, "row a, b: there is no column KID"),
        ({"rows": [{"labels": ["a", "b"], "values": {"FID": [3.0, 1.0, 2.0]}}]}, "a, b, FID: 3.0 is not within"),
        ({"rows": [{"labels": ["a", "b"], "values": {"FID": "3"}}]}, "FID.* is '3': a number is needed"),
        ({"rows": [{"labels": ["a", "b"], "values": {}}] * 2}, "several rows are a, b"),
        ({"made": [{"command": "x"}]}, r"made\[0\]\.seed is missing"),
        ({"more": 1}, "more is no setting that this version knows"),
    ],
)
def test_files_that_are_none_are_refused_by_name(tmp_path, change, said):
    write_kept(tmp_path / "small.json", SMALL)
    content = json.loads((tmp_path / "small.json").read_text())
    (tmp_path / "small.json").write_text(json.dumps(content | change))
    with pytest.raises(UserError, match=f"small.json.*{said}"):
        read_all(tmp_path)


def test_what_would_not_be_read_again_is_not_written(tmp_path):
    for change, said in (
        ({"made": (replace(SMALL.made[0], seed=-1),)}, r"made\[0\]\.seed is -1"),
        ({"made": (replace(SMALL.made[0], hardware=3),)}, r"made\[0\]\.hardware is 3: a text"),
        ({"rows": (Row(("a", "b"), {"FID": 1e300}),)}, "FID.* is 1e.300"),
    ):
        with pytest.raises(UserError, match=said):
            write_kept(tmp_path / "small.json", replace(SMALL, **change))
    assert not list(tmp_path.iterdir())


def test_the_page_shows_what_made_each_figure_and_runs_nothing(tmp_path):
    made = (SMALL.made[0], Made(f"reimagen sample --prompt '{EVIL}'", None, None, "0a1b", None, "2026-11-26", EVIL))
    odd = replace(SMALL, title=f"Three {EVIL}", measured=EVIL, labels=("entities", "k"), made=made)
    odd = replace(odd, rows=tuple(replace(row, labels=(row.labels[0], str(i))) for i, row in enumerate(odd.rows)))
    kept_page.write_page({"small": SMALL, "odd": odd}, tmp_path)
    html = (tmp_path / kept_page.PAGE).read_text()
    reader = Reader(html)
    assert "script" not in reader.tags and reader.images == [] and reader.tags.count("svg") == 2
    assert "default-src 'none'" in html and "://" not in html
    assert "unseen · k 0, faithful: 0.700 [0.400, 0.900]" in html, "what a point says"
    text = (tmp_path / kept_page.TEXT).read_text()
    for fact in ("seed 0, hardware 2 CPU cores, commit not recorded, version 0.2.0", "commit 0a1b", "date 2026-11-26"):
        assert fact in text
    assert markdown(SMALL)[2] in text and html.count(UNKNOWN) == text.count(UNKNOWN) == 2 + 2 + 3
    assert sorted(re.findall(r"\((\S+\.png)\)", text)) == ["odd.png", "small.png"], (
        "FID, without intervals, has no plot"
    )
    for name in ("odd.png", "small.png"):
        with Image.open(tmp_path / name) as image:
            assert image.format == "PNG"


def test_measurements_of_the_repository_can_be_traced():
    results = read_all(KEPT)
    assert {"entities", "unclip"} <= results.keys()
    for name, kept in results.items():
        assert kept.measured.endswith(".") and all(made.command and made.hardware for made in kept.made), name
        assert not any(re.search(r"(^|[ =])[/~]", made.command) for made in kept.made), f"{name} names places"


@pytest.mark.parametrize("path", PAGES, ids=lambda path: str(path.relative_to(ROOT)))
def test_tables_of_pages_are_those_of_the_results(path):
    """`reimagen report tables PAGE --results experiments/results` writes them anew."""
    text = path.read_text(encoding="utf-8")
    assert text == filled(text, read_all(KEPT), str(path))


def test_the_front_page_and_the_measured_ones_have_such_tables():
    assert {path.relative_to(ROOT).as_posix() for path in PAGES} >= {
        "README.md",
        "experiments/README.md",
        "experiments/RESULTS.md",
    }
