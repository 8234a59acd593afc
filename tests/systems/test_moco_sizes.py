"""MoCo-v3's sizes, counted against what was published, and two steps of the paper's by its header's command."""

import json
import math
import re
import shlex
from pathlib import Path

import jax
import pytest

from reimagen_jax.commands import train
from reimagen_jax.config import load_experiment
from reimagen_jax.data.records import ImageText, write_records
from reimagen_jax.encoders.representation import Representation
from reimagen_jax.systems.kinds import system_of
from reimagen_jax.systems.moco.presets import MOCO_32, MOCO_B, MOCO_L, MOCO_S
from tests.samples import encoded, picture

EXPERIMENT = Path(__file__).parents[2] / "experiments" / "rcg_moco_b.py"


def count(tree):
    return sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(tree))


@pytest.mark.parametrize("config,published", [(MOCO_B, 106_786_560), (MOCO_L, 325_338_112)], ids=["base", "large"])
def test_an_encoder_has_as_many_parameters_as_the_published_one(config, published):
    """Statistics are no parameters; positions are there, and are not here."""
    shapes = jax.eval_shape(Representation(config).init, jax.random.key(0))
    tokens = (config.resolution // config.patch) ** 2 + 1
    assert count(shapes["tower"]) + count(shapes["head"]) + tokens * config.tower.width == published


def test_the_other_sizes():
    assert (MOCO_S.tower.width, MOCO_S.tower.depth, MOCO_S.tower.heads) == (384, 12, 12)
    assert all((each.tower.activation, each.tower.epsilon) == ("gelu", 1e-6) for each in (MOCO_S, MOCO_B, MOCO_L))
    shapes = jax.eval_shape(Representation(MOCO_32).init, jax.random.key(0))
    assert round((count(shapes["tower"]) + count(shapes["head"])) / 1e6, 1) == 1.3


def test_the_paper_size_experiment_trains_two_steps_by_its_headers_command(tmp_path):
    write_records(
        [ImageText(f"k{i}", encoded(picture(i, (40, 40))), "a thing", {}) for i in range(20)],
        tmp_path / "records",
        source="test",
    )
    text = re.sub(r"\\\n\s*", "", EXPERIMENT.read_text(encoding="utf-8").split('"""')[1])
    line = [line for line in text.splitlines() if line.strip().startswith("reimagen train")][-1]
    places = {"runs/tiny/records": tmp_path / "records", "runs/tiny/moco": tmp_path / "run"}
    places |= {"experiments/rcg_moco_b.py": EXPERIMENT}
    train.main([str(places.get(word, word)) for word in shlex.split(line)[2:]])
    (logged,) = (json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines())
    assert logged["step"] == 2 and 0.5 < logged["loss"] < 6.0


def test_its_patches_stay_as_they_begin():
    config = load_experiment(EXPERIMENT)
    shapes = jax.eval_shape(system_of(config).init, jax.random.key(0))
    assert set(shapes["encoder"]["tower"]["patches"]) == {"kernel", "bias"}
    assert [(rate.where, rate.factor) for rate in config.train.rates] == [("^encoder/tower/patches/", 0.0)]
