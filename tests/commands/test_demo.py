"""`reimagen demo`: says first and last where the report is, replaces its own output and nobody else's."""

import json
import subprocess
import sys
import time

import pytest

from reimagen_jax.cli import main
from reimagen_jax.commands.demo import Demo
from reimagen_jax.evaluation import demonstration
from tests.commands.conftest import SMALL_WORLD


@pytest.fixture(autouse=True)
def small(monkeypatch):
    """The demo's own world has 4,096 entities."""
    monkeypatch.setattr("reimagen_jax.data.entityworld.World", lambda: SMALL_WORLD)


@pytest.fixture
def pipelines(monkeypatch):
    """Those that draw; no images for a knowledge base are made before the program is being compiled."""
    made, pipeline, base = [], Demo._pipeline, demonstration.knowledge_base

    def noted(self, model):
        made.append(pipeline(self, model))
        return made[-1]

    def late(*args):
        end = time.monotonic() + 100
        while not made[-1].stages[0].compilations:
            assert time.monotonic() < end, "the program waits for the images"
            time.sleep(0.01)
        return base(*args)

    monkeypatch.setattr(Demo, "_pipeline", noted)
    monkeypatch.setattr(demonstration, "knowledge_base", late)
    return made


def test_the_demo_says_where_its_report_is_and_can_run_again(model, rater, tmp_path, capsys, pipelines):
    out = tmp_path / "demo"
    args = ["demo", "--model", str(model), "--rater", str(rater), "--out", str(out), "--num-prompts", "2"]
    assert main(args) == 0
    said = capsys.readouterr().out.strip().splitlines()
    assert said[0].startswith(f"report: {out / 'report.html'}") and said[-1] == f"report: {out / 'report.html'}"
    assert any(line.startswith("unseen entities, with retrieval") for line in said)

    noted = json.loads((out / "demo.json").read_text())
    assert [row["images"] for row in noted["results"]] == [2, 2, 2, 2, 64]
    unseen = SMALL_WORLD.entities("unseen")
    for prompt in noted["prompts"]:
        entity = int(prompt["record"].split("-")[0])
        assert entity in unseen, "the prompts are about entities that no training image shows"
        assert [int(hit["key"].split("-")[0]) for hit in prompt["neighbours"]] == [entity, entity]
    page = (out / "report.html").read_text()
    assert "absent from its training data" in page and page.count("<article") == 2

    assert main(args) == 0
    assert (out / "report.html").read_text() == page, "the same demo draws the same report"
    assert [each.stages[0].compilations for each in pipelines] == [1, 1]


def test_after_the_rehearsal_nothing_of_tfds_is_imported(tmp_path):
    """It would replace the imports of another thread by later ones."""
    code = f"""
import sys
from pathlib import Path
from reimagen_jax.evaluation import demonstration
from tests.commands.conftest import SMALL_WORLD
assert not any(name.startswith("tensorflow_datasets.core") for name in sys.modules)
demonstration.rehearse(SMALL_WORLD, 16)
before = set(sys.modules)
frequent = demonstration.choose(SMALL_WORLD, "frequent", 2)
base = demonstration.knowledge_base(SMALL_WORLD, frequent, Path({str(tmp_path)!r}), 16)
base.records.fetch(range(len(base)))
assert not [name for name in sys.modules if name.startswith("tensorflow_datasets") and name not in before]
"""
    done = subprocess.run([sys.executable, "-c", code], check=False, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_the_demo_does_not_replace_what_is_not_its_own(model, rater, tmp_path, capsys):
    (tmp_path / "thesis.txt").write_text("years of work")
    args = ["demo", "--model", str(model), "--rater", str(rater), "--num-prompts", "1"]
    assert main([*args, "--out", str(tmp_path)]) == 2
    assert "choose another --out" in capsys.readouterr().err
    assert (tmp_path / "thesis.txt").read_text() == "years of work"


def test_entities_are_chosen_evenly_and_their_prompts_are_new(tmp_path):
    chosen = demonstration.choose(SMALL_WORLD, "unseen", 3)
    assert len(set(chosen)) == 3 and set(chosen) <= set(SMALL_WORLD.entities("unseen"))
    assert demonstration.choose(SMALL_WORLD, "unseen", 1000) == list(SMALL_WORLD.entities("unseen"))
    base = demonstration.knowledge_base(SMALL_WORLD, demonstration.choose(SMALL_WORLD, "frequent", 2), tmp_path, 16)
    texts = set(base.records.texts())
    assert len(base) == SMALL_WORLD.num_examples("reference", "unseen") + 2 * SMALL_WORLD.unseen_references
    new = [SMALL_WORLD.example(i, demonstration.NEW_SCENE, resolution=16)["text"] for i in chosen]
    assert not texts & set(new)
