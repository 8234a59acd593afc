"""RCG's experiments by diffusion: the paper's size, and two steps of each by the command that its header gives."""

import math
from dataclasses import replace

import jax
import pytest

from reimagen_jax.config import load_experiment, to_json
from reimagen_jax.data.entityworld import World
from reimagen_jax.data.records import write_records
from reimagen_jax.data.sources import WorldSource
from reimagen_jax.inference.model import EXPERIMENT, Model
from reimagen_jax.pretrained.weights import WEIGHTS, save_params
from reimagen_jax.systems import kinds
from tests.rcg import GENERATOR, random_params
from tests.trained import EXPERIMENTS, four_steps_and_parts, two_steps
from tests.training.tiny_system import same


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """What the headers prepare: a small EntityWorld; and a generator, for its encoder."""
    folder = tmp_path_factory.mktemp("rcg")
    source = WorldSource(World(num_entities=20, num_images=120), resolution=8)
    write_records(source.items(), folder / "records", source=source.name)
    (folder / "encoder").mkdir()
    (folder / "encoder" / EXPERIMENT).write_text(to_json(GENERATOR))
    save_params(folder / "encoder" / WEIGHTS, random_params(GENERATOR))
    return folder


def count(tree):
    return sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(tree))


def test_the_paper_size_is_the_published_networks():
    config = load_experiment(EXPERIMENTS / "rcg_rdm.py")
    shapes = jax.eval_shape(kinds.system_of(config).init, jax.random.key(0))
    assert count(shapes["rdm"]) == 62_721_280
    classed = replace(config, data=replace(config.data, class_by="label"))
    assert count(jax.eval_shape(kinds.system_of(classed).init, jax.random.key(0))["rdm"]) == 72_176_896
    sampler = config.system.sampler
    assert (sampler.solver, sampler.num_steps, sampler.ddim_noise, sampler.spacing) == ("ddim", 250, 1.0, "ldm")


def test_the_three_that_are_compared_are_one_network():
    configs = [load_experiment(EXPERIMENTS / f"rcg_{name}32.py") for name in ("generator", "class", "none")]
    counts = [count(jax.eval_shape(kinds.system_of(each).init, jax.random.key(0))["unet"]) for each in configs]
    assert counts == [5_651_100] * 3
    plain = [replace(each.system, condition="none", encoder=configs[0].system.encoder, classes=()) for each in configs]
    assert plain[0] == plain[1] == plain[2]


def test_the_paper_size_trains_two_steps_by_its_headers_command(world):
    assert 0.5 < two_steps("rcg_rdm", world, "records", "encoder")["loss"] < 1.5  # it begins by saying nothing
    ours, theirs = (Model.open(world / each).params["encoder"] for each in ("rcg_rdm", "encoder"))
    assert same(ours, theirs)


@pytest.mark.parametrize("name", ["CLASS_RDM", "GENERATOR"])
def test_4_steps_are_2_and_a_restart_and_2_bit_for_bit(name, world, tmp_path):
    path = tmp_path / "tiny.py"
    path.write_text(f"from tests.rcg import {name} as config\n")
    options = ["--data.records", str(world / "records"), "--init.weights", str(world / "encoder")]
    options += ["--classes"] if name == "CLASS_RDM" else []
    whole, parts = (Model.open(folder) for folder in four_steps_and_parts([str(path), *options], tmp_path))
    assert same(whole.params, parts.params)
    classes = () if name == "GENERATOR" else ("bird", "character", "dog", "food", "landmark")
    assert whole.config.system.classes == classes
