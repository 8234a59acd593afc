"""`reimagen evaluate answers`: all systems on the same entities, each row stored as it is done."""

import json
import re

import pytest
from PIL import Image

from reimagen_jax.cli import main
from reimagen_jax.inference.export import save_weights
from reimagen_jax.inference.pipeline import Stage
from reimagen_jax.reports.keeping import keep
from tests import rcg, unclip
from tests.seeing import tiny_dual_in


@pytest.fixture(scope="module")
def others(tmp_path_factory) -> dict[str, str]:
    """Options of what Re-Imagen is compared with."""
    folder = tmp_path_factory.mktemp("others")
    drawn = {
        "prior": unclip.PRIOR,
        "decoder": unclip.changed(unclip.DECODER, resolution=32),
        "generator": unclip.changed(rcg.GENERATOR, resolution=32),
    }
    for name, config in drawn.items():
        save_weights(folder / name, config, rcg.random_params(config))
    tiny_dual_in(folder / "encoder")
    return {name: str(folder / name) for name in (*drawn, "encoder")}


def line(base, model, out, **given) -> list[str]:
    options = {"model": str(model), "knowledge-base": str(base.path), "out": str(out), "splits": "unseen", **given}
    options |= {"num-prompts": "2", "k": "1", "references": "2", "search-steps": "2", "iterations": "1"}
    return ["evaluate", "answers", *(word for name, value in options.items() for word in (f"--{name}", value))]


def test_all_answers_are_rows_of_one_table(base, model, others, tmp_path, capsys, monkeypatch):
    words = [*line(base, model, tmp_path / "out", **others), "--batch-size", "2"]
    assert main(words) == 0
    said = capsys.readouterr()
    results = json.loads((tmp_path / "out" / "results.json").read_text())
    names = ["Re-Imagen, no neighbours", "Re-Imagen", "SeedSelect", "Re-Imagen with SeedSelect"]
    names += ["unCLIP, by its prior", "unCLIP, of a reference", "RCG, of a reference"]
    assert [row["drawn by"] for row in results["rows"]] == names and all(name in said.out for name in names)
    assert all(row["seconds"] > 0 and row["MiB"] > 0 and len(row["both"]) == 3 for row in results["rows"])
    assert [entry["what"] for entry in results["differences"]] == [f"{name} minus {names[0]}" for name in names[1:]]
    assert set(results["models"]) == {"model", "prior", "decoder", "generator"}
    assert min(Image.open(tmp_path / "out" / "unseen.png").size) > 100
    table = keep([str(tmp_path / "out")], "Answers", "Two prompts.")
    assert [row.labels for row in table.rows] == [("unseen", name) for name in names]
    monkeypatch.setattr(Stage, "draw", lambda *_, **__: pytest.fail("what is there is drawn again"))
    assert main(words) == 0
    assert json.loads((tmp_path / "out" / "results.json").read_text())["rows"] == results["rows"]


def test_what_is_not_given_is_left_out_and_another_imagen_is_taken(base, model, tmp_path):
    assert main(line(base, model, tmp_path / "out", imagen=str(model))) == 0
    results = json.loads((tmp_path / "out" / "results.json").read_text())
    assert [row["drawn by"] for row in results["rows"]] == ["Imagen", "Re-Imagen"]
    assert set(results["models"]) == {"model", "imagen"}


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"prior": "prior"}, "draws embeddings, not images: give --decoder, too"),
        (
            {"generator": "decoder"},
            "--generator .*decoder is of the system unclip_decoder: give one of rcg_generator or mage",
        ),
        ({"decoder": "generator"}, "--decoder .*generator is of the system rcg_generator: give one of unclip_decoder"),
    ],
)
def test_what_does_not_fit_is_refused(base, model, others, tmp_path, capsys, given, message):
    told = {option: others[name] for option, name in given.items()}
    assert main(line(base, model, tmp_path / "out", **told)) == 2
    assert re.search(message, " ".join(capsys.readouterr().err.split()))
