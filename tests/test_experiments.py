"""The experiment files: each loads, and each trains two steps on a CPU by the command that its header gives."""

import dataclasses
import json
import os
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import pytest

from reimagen_jax.commands.train import parse
from reimagen_jax.config import load_experiment, to_json
from reimagen_jax.data.entityworld import World
from reimagen_jax.data.records import write_records
from reimagen_jax.data.sources import WorldSource
from reimagen_jax.retrieval.knowledge_base import KnowledgeBase
from reimagen_jax.retrieval.neighbours import build_triples
from reimagen_jax.systems.kinds import from_json
from reimagen_jax.systems.reimagen.batches import draw_kept_neighbours
from tests.compiling import FLAGS
from tests.trained import commands

ROOT = Path(__file__).parents[1]
FILES = sorted(path for path in (ROOT / "experiments").glob("*.py") if not path.stem.startswith("tour_"))
SMALL = [ROOT / "experiments" / f"{name}.py" for name in ("entityworld64_sr", "entityworld128_sr")]
LARGE = [ROOT / "experiments" / f"re_imagen_{name}.py" for name in ("64", "64_small", "256", "1024")]
FROM_IF = [ROOT / "experiments" / f"if_finetune_{name}.py" for name in ("64", "256")]


@pytest.fixture(scope="module")
def triples(tmp_path_factory):
    """What the headers prepare: a small EntityWorld of 128 pixels."""
    folder = tmp_path_factory.mktemp("experiments")
    source = WorldSource(World(num_entities=8, num_images=50), resolution=128)
    records = write_records(source.items(), folder / "records", source=source.name)
    build_triples(records, KnowledgeBase.build(records, folder / "index"), 2, folder / "triples")
    return folder / "triples"


def run(path: Path, words: list[str], triples: Path, workdir: Path) -> list[dict]:
    """Trains in a process of its own, and returns what was logged. Compiles without optimising: it runs two steps."""
    words = [str(path) if word.startswith("experiments/") else word for word in words]
    words[words.index("--workdir") + 1] = str(workdir)
    words[words.index("--data.triples") + 1] = str(triples)
    environment = {
        **os.environ,
        "XLA_FLAGS": FLAGS,
        "JAX_COMPILATION_CACHE_DIR": jax.config.jax_compilation_cache_dir,
        "PYTHONPATH": str(ROOT),
    }
    command = [sys.executable, "-m", "reimagen_jax.cli", "train", *words]
    done = subprocess.run(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    assert done.returncode == 0, done.stdout
    return [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_an_experiment_loads_and_bears_its_files_name(path):
    config = load_experiment(path)
    assert config.name == path.stem
    assert from_json(to_json(config)) == config


@pytest.mark.parametrize("path", [*LARGE, *FROM_IF], ids=lambda path: path.stem)
def test_a_paper_size_experiment_shows_both_neighbours_or_none(path):
    """So a batch has none in the 10 % of its examples that drop them, and two in all others."""
    config = load_experiment(path)
    expected = 0 if path.stem == "re_imagen_1024" else 2
    assert (config.data.num_neighbours, config.data.min_neighbours) == (expected, expected)
    assert (config.system.text_drop, config.system.neighbour_drop) == (0.1, 0.1)
    found = np.ones((1000, expected), bool)
    kept = draw_kept_neighbours(np.random.default_rng(0), found, config.data.min_neighbours)
    assert kept.sum(axis=1).tolist() == [expected] * 1000


@pytest.mark.parametrize("path", LARGE, ids=lambda path: path.stem)
def test_a_paper_size_experiment_has_its_papers_optimizer_and_guidance(path):
    config = load_experiment(path)
    base = path.stem.startswith("re_imagen_64")
    assert config.train.optimizer == ("adafactor" if base else "adamw")
    assert config.train.clip_norm is None and config.train.learning_rate == 1e-4
    assert config.system.sampler.text_weight == (1.35 if base else 8.0)
    assert path.stem.endswith("1024") or config.system.sampler.neighbour_weight == config.system.sampler.text_weight
    header = path.read_text(encoding="utf-8").split('"""')[1]
    assert path.stem == "re_imagen_64_small" or all(
        whose in header for whose in ("Re-Imagen  ", "Imagen   ", "ours  ", "not published  ")
    )


@pytest.mark.parametrize("path", SMALL, ids=lambda path: path.stem)
def test_a_small_stage_trains(path, triples, tmp_path):
    shorter = ["--train.num-steps", "2", "--data.batch-size", "2"]
    (logged,) = run(path, [*commands(path)[0], *shorter], triples, tmp_path / "run")
    assert logged["step"] == 2 and 0.1 < logged["loss"] < 5.0


@pytest.mark.parametrize("path", [p for p in LARGE if p.stem != "re_imagen_64_small"], ids=lambda path: path.stem)
def test_a_paper_size_experiment_trains_two_steps_by_its_headers_command(path, triples, tmp_path):
    (logged,) = run(path, commands(path)[-1], triples, tmp_path / "run")
    assert logged["step"] == 2 and 0.1 < logged["loss"] < 5.0


def test_the_smaller_base_stage_shrinks_to_the_same_as_the_larger(monkeypatch):
    """So it is not trained a second time."""
    monkeypatch.chdir(ROOT)
    larger, smaller = (
        parse(commands(ROOT / "experiments" / f"re_imagen_{name}.py")[-1]).config for name in ("64", "64_small")
    )
    assert dataclasses.replace(smaller, name=larger.name) == larger
