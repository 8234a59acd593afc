"""`reimagen evaluate seedselect`: four ways to draw an entity, each stored as it is done."""

import json

from PIL import Image

from reimagen_jax.cli import main
from tests.seeing import tiny_dual_in


def test_four_ways_are_compared_and_gone_on_with(base, model, tmp_path, capsys):
    encoder = tiny_dual_in(tmp_path / "encoder")
    words = ["evaluate", "seedselect", "--model", str(model), "--encoder", str(encoder)]
    words += ["--knowledge-base", str(base.path), "--num-prompts", "2", "--k", "1", "--references", "2"]
    words += [
        "--splits",
        "unseen",
        "--steps",
        "2",
        "--iterations",
        "1",
        "--batch-size",
        "2",
        "--out",
        str(tmp_path / "out"),
    ]
    assert main(words) == 0
    said = capsys.readouterr().out
    noted = json.loads((tmp_path / "out" / "results.json").read_text())
    ways = ["plain", "SeedSelect", "Re-Imagen", "Re-Imagen with SeedSelect"]
    assert [row["drawn by"] for row in noted["rows"]] == ways and all(way in said for way in ways)
    assert all(row["seconds"] > 0 and row["MiB"] > 0 for row in noted["rows"])
    assert [entry["what"] for entry in noted["differences"]] == [
        "SeedSelect minus plain",
        "Re-Imagen with SeedSelect minus Re-Imagen",
    ]
    assert min(Image.open(tmp_path / "out" / "unseen.png").size) > 100
    rows = {path: path.stat().st_mtime_ns for path in (tmp_path / "out" / "rows").rglob("*.json")}
    assert len(rows) == 4 + 4 + 4, "rows, costs, and noises of two ways"
    assert main(words) == 0
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "out" / "rows").rglob("*.json")} == rows
    assert json.loads((tmp_path / "out" / "results.json").read_text())["rows"] == noted["rows"]
