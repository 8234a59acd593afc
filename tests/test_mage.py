"""MAGE's experiments: the papers' sizes, two steps by the command of a header, commands that draw by a run."""

import json
import math
import shlex

import jax
import numpy as np
import pytest
from PIL import Image

from reimagen_jax.cli import main
from reimagen_jax.commands import train as command
from reimagen_jax.config import load_experiment
from reimagen_jax.data.entityworld import World
from reimagen_jax.data.records import write_records
from reimagen_jax.data.sources import WorldSource
from reimagen_jax.errors import UserError
from reimagen_jax.inference.export import save_weights
from reimagen_jax.inference.model import Model
from reimagen_jax.systems import kinds
from reimagen_jax.training.checkpoint import load_ema
from tests.mage import VQ
from tests.rcg import RDM
from tests.samples import picture
from tests.trained import EXPERIMENTS, four_steps_and_parts, two_steps
from tests.training.tiny_system import same
from tests.unclip import changed

GIVEN = ("records", "vq", "encoder")


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """What the headers prepare: a small EntityWorld; a tokenizer; an RDM, for its encoder."""
    folder = tmp_path_factory.mktemp("mage")
    write_records(
        WorldSource(World(num_entities=20, num_images=120), resolution=8).items(), folder / "records", source="w"
    )
    for seed, (name, config) in enumerate({"vq": VQ, "encoder": RDM}.items()):
        (folder / name).mkdir()
        save_weights(folder / name, config, jax.jit(kinds.system_of(config).init)(jax.random.key(seed)))
    return folder


def count(tree):
    return sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(tree))


@pytest.mark.parametrize(
    ("name", "own", "published"), [("b", 145_093_376, 146_671_849), ("l", 408_050_944, 410_154_985)]
)
def test_the_papers_sizes_are_the_published_networks(name, own, published):
    """But for what no forward pass of theirs reads."""
    config = changed(load_experiment(EXPERIMENTS / f"rcg_mage_{name}.py"), remat=False)
    shapes = jax.eval_shape(kinds.system_of(config).init, jax.random.key(0))
    D, pixels, places = config.system.tower.width, 3 * 16**2, 257
    patches, positions, predicted = D * pixels + D, 2 * places * D, D * pixels + pixels
    words_that_are_no_codes, class_and_mask = 1001, 2 * D
    assert count(shapes["mage"]) == own
    assert own + patches + positions + predicted + words_that_are_no_codes + class_and_mask == published
    assert count(shapes["vq"]) == 54_515_587


def test_a_paper_size_trains_two_steps_by_its_headers_command(world):
    logged = two_steps("rcg_mage_b", world, *GIVEN)
    assert 0.5 < logged["masked"] <= 1.0
    assert abs(logged["loss"] - math.log(VQ.system.vq.codes)) < 0.7  # it begins by saying little
    ours = Model.open(world / "rcg_mage_b").params
    assert same(ours["vq"], Model.open(world / "vq").params["vq"])
    assert same(ours["encoder"], Model.open(world / "encoder").params["encoder"])


def test_the_papers_tokenizer_trains_against_a_discriminator_and_is_a_tokenizer_alone(world):
    logged = two_steps("rcg_vq_256", world, *GIVEN)
    assert {"perceptual", "told_apart", "telling", "fooling"} <= logged.keys() and logged["adversarial_weight"] > 0
    opened = Model.open(world / "rcg_vq_256")
    assert opened.params.keys() == {"vq"} and opened.config.system == opened.config.system.opened
    assert main(["export", str(world / "rcg_vq_256"), "--out", str(world / "sharp")]) == 0
    assert same(Model.open(world / "sharp").params, opened.params)


@pytest.fixture(scope="module")
def run(world):
    """A MAGE of 4 steps, in two parts, and in one beside it."""
    path = world / "tiny.py"
    path.write_text("from tests.mage import MAGE as config\n")
    options = ["--data.records", str(world / "records"), "--init.weights", str(world / "vq")]
    options += ["--init.beside", str(world / "encoder")]
    return four_steps_and_parts([str(path), *options], world)[1]


def test_4_steps_are_2_and_a_restart_and_2_bit_for_bit(run):
    assert same(Model.open(run).params, Model.open(run.parent / "whole").params)


SHARP = "--perceptual.weight 0.5 --adversarial.weight 0.5 --adversarial.start 3 --adversarial.network.depth 1"
SHARP += " --adversarial.network.width 4 --adversarial.network.groups 2 --init.adopt --init.weights"


@pytest.mark.parametrize("sharp", [False, True], ids=["plain", "sharp"])
def test_a_tokenizer_learns_by_the_same_command(world, tmp_path, sharp):
    path = tmp_path / "tiny.py"
    path.write_text("from tests.mage import VQ as config\n")
    words = ["--data.records", str(world / "records"), *([*SHARP.split(), str(world / "encoder")] if sharp else [])]
    whole, parts = (load_ema(folder)[1] for folder in four_steps_and_parts([str(path), *words], tmp_path))
    assert same(whole, parts)
    assert whole.keys() == ({"vq", "discriminator", "perceptual"} if sharp else {"vq"})
    if sharp:
        assert same(whole["perceptual"], Model.open(world / "encoder").params["encoder"])
        with pytest.raises(UserError, match=r"compares images by an encoder \(perceptual\.weight 0\.5\): pass --init"):
            command.main([str(path), "--workdir", str(tmp_path / "none"), *words[:4]])


@pytest.mark.parametrize(
    ("args", "number"),
    [
        (("draw", "--model", "IN/encoder", "--cascade", "IN/parts,text-weight=1.5,sampling-temperature=0"), 2),
        (("reconstruct", "IN/a.png", "--model", "IN/parts", "--text-weight", "2", "--sampling-temperature", "1"), 2),
    ],
    ids=("draw", "reconstruct"),
)
def test_it_draws_by_rcgs_commands_and_the_same_again(run, tmp_path, capsys, args, number):
    picture(0, (24, 16)).save(run.parent / "a.png")
    words = ["rcg", *(arg.replace("IN/", f"{run.parent}/") for arg in args), "--batch-size", "2", "--num-images", "2"]
    assert main([*words, "--out", str(tmp_path / "out")]) == 0, capsys.readouterr().err
    summary = json.loads((tmp_path / "out" / "sample.json").read_text())
    assert len(summary["images"]) == number
    words = shlex.split(summary["command"].replace(str(tmp_path / "out"), str(tmp_path / "again")))
    assert main(words[1:]) == 0
    for image in summary["images"]:
        before, after = (np.asarray(Image.open(tmp_path / folder / image["file"])) for folder in ("out", "again"))
        np.testing.assert_array_equal(before, after)


def test_without_a_tokenizer_nothing_is_trained(world, tmp_path):
    path = tmp_path / "tiny.py"
    path.write_text("from tests.mage import MAGE as config\n")
    words = [str(path), "--workdir", str(tmp_path / "run"), "--data.records", str(world / "records")]
    with pytest.raises(UserError, match=r"takes its network over from weights: pass --init\.weights DIR"):
        command.main(words)
    with pytest.raises(UserError, match=r"holds encoder frozen, which has no weights in .*/vq: .* --init\.beside DIR"):
        command.main([*words, "--init.weights", str(world / "vq")])
