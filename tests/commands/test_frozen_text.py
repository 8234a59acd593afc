"""The road of a model with a frozen text encoder, by commands: embed, train, go on, export, sample."""

import json

import numpy as np
import pytest
from PIL import Image

from reimagen_jax import cli
from reimagen_jax.commands.train import parse
from reimagen_jax.encoders.text_embeddings import TextEmbeddings
from reimagen_jax.systems.kinds import from_json
from tests.commands.test_sample import again, images
from tests.encoders.published import T5, write_t5
from tests.samples import picture, write_folder
from tests.training.tiny_system import read_state

EXPERIMENT = """
from dataclasses import replace
from reimagen_jax.config import GroupRate
from reimagen_jax.encoders.settings import FrozenTextConfig
from tests.tiny import TINY, changed

frozen = FrozenTextConfig(width=%d, max_tokens=12, padding="kept", lowercase=True)
rates = (GroupRate("neighbour_attention|ustack/out", 1.0), GroupRate(".", 0.0))
sampler = replace(TINY.system.sampler, num_steps=1)
train = replace(TINY.train, rates=rates, num_steps=1, log_every=1)
config = replace(changed(TINY, text=replace(TINY.system.text, frozen=frozen), sampler=sampler), train=train)
"""
HOW = ["--text-tokens", "12", "--text-padding", "kept", "--text-lowercase"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A T5, and pictures with captions, as records with triples and embeddings."""
    folder = tmp_path_factory.mktemp("frozen")
    write_t5(folder / "t5")
    colours = ["red", "green", "blue"]
    lines = [{"file_name": f"{i}.png", "text": f"Picture {i} of a {colours[i % 3]} cat"} for i in range(12)]
    pictures = {f"{i}.png": picture(i, (16, 16)) for i in range(12)}
    write_folder(folder / "pictures", lines, pictures)
    (folder / "experiment.py").write_text(EXPERIMENT % T5["d_model"])
    where = ["--text-encoder", str(folder / "t5"), "--text-embeddings", str(folder / "text")]
    run("prepare", "--source", folder / "pictures", "--out", folder / "records", *where, *HOW)
    run("index", folder / "records", "--out", folder / "index")
    run("triples", folder / "records", "--knowledge-base", folder / "index", "--out", folder / "triples")
    return folder


def run(*words):
    assert cli.main([str(word) for word in words]) == 0


def train(folder, *options):
    data = ["--data.triples", folder / "triples", "--data.text-embeddings", folder / "text"]
    run("train", folder / "experiment.py", "--workdir", folder / "run", *data, *options)


def test_what_is_embedded_is_not_embedded_again(folder, capsys):
    assert len(list((folder / "text").glob("*.texts.npy"))) == 1
    where = ["--text-encoder", folder / "t5", "--text-embeddings", folder / "text"]
    run("embed", folder / "records", *where, *HOW)
    said = capsys.readouterr().out
    assert "13 different texts, 13 of them there already; 0 to embed" in said
    assert cli.main(["embed", str(folder / "records"), *map(str, where)]) == 2
    assert "max_tokens 12, the experiment text.frozen.max_tokens 128" in capsys.readouterr().err


def test_trains_goes_on_exports_and_draws(folder, capsys):
    train(folder)
    train(folder, "--train.num-steps", 2)
    before, after = (read_state(folder / "run", step) for step in (1, 2))
    assert all(
        np.array_equal(a, b)
        for a, b in zip(*(state["params"]["unet"]["dstack"]["stem"].values() for state in (before, after)), strict=True)
    ), "frozen"
    assert "dstack" not in after["ema"]["unet"], "what is frozen has no average"
    assert not np.array_equal(*(state["params"]["unet"]["ustack"]["out"]["kernel"] for state in (before, after)))
    run("export", folder / "run", "--out", folder / "model")
    config = from_json((folder / "model" / "experiment.json").read_text())
    assert config.system.text.frozen.encoder == ""
    assert config.system.text.frozen.fingerprint == TextEmbeddings.open(folder / "text").encoder
    capsys.readouterr()

    draw = ["sample", "--model", folder / "model", "--prompt", "a red cat", "--num-images", 1, "--batch-size", 1]
    draw += ["--reference", folder / "pictures" / "0.png", "a blue cat"]
    assert cli.main([*map(str, draw), "--out", str(folder / "none")]) == 2
    assert "no text encoder is named: pass --text-encoder DIR" in capsys.readouterr().err
    run(*draw, "--text-encoder", folder / "t5", "--out", folder / "drawn")
    noted = json.loads((folder / "drawn" / "sample.json").read_text())
    assert Image.open(folder / "drawn" / noted["images"][0]["file"]).size == (16, 16)
    assert cli.main(again(noted["command"], folder / "again")) == 0
    assert images(folder / "again") == images(folder / "drawn")

    write_t5(folder / "other", seed=1)
    assert cli.main([*map(str, draw), "--text-encoder", str(folder / "other"), "--out", str(folder / "none")]) == 2
    assert "is not the text encoder that the model was trained with" in capsys.readouterr().err


def test_options_that_do_not_go_together_are_refused(folder, capsys):
    words = ["prepare", "--source", "x", "--out", str(folder / "y"), "--text-embeddings", str(folder / "z")]
    assert cli.main(words) == 2
    assert "--text-embeddings DIR goes with --text-encoder DIR" in capsys.readouterr().err
    words = ["sample", "--model", "shipped", "--prompt", "x", "--text-encoder", "t5", "--out", str(folder / "none")]
    assert cli.main(words) == 2
    assert "has a text encoder of its own" in capsys.readouterr().err


def test_the_if_experiments_freeze_by_one_option():
    config = parse(["experiments/if_finetune_64.py", "--workdir", "x", "--train.rates.1.factor", "0"]).config
    assert [rate.factor for rate in config.train.rates] == [1.0, 0.0]
