"""`shipped` is a model wherever one is asked for; prompts too long for a model are told of wherever one draws."""

import numpy as np
import pytest
from PIL import Image

import reimagen_jax as rj
from reimagen_jax.cli import main
from reimagen_jax.commands import usage
from reimagen_jax.errors import UserError
from reimagen_jax.inference.prompts import Prompt
from reimagen_jax.systems.reimagen.feed import ReImagenFeed
from tests.commands.test_usage import LEAVES

LONG = "a cat " + "that sleeps " * 100
SAID = "does not read the end of a prompt"


@pytest.fixture
def prepared(monkeypatch):
    """Nothing is drawn: that ends once the texts are prepared."""
    really = ReImagenFeed.prepare

    def prepare(self, requests):
        really(self, requests)
        raise UserError("prepared")

    monkeypatch.setattr(ReImagenFeed, "prepare", prepare)


@pytest.mark.parametrize(
    "command",
    [
        "sample",
        "edit vary",
        "edit image --image IMAGE",
        "sweep --reference IMAGE cat",
        "sweep --reference IMAGE cat --over eta=0,1",
        "seedselect --encoder ENCODER --reference IMAGE cat --references 1",
    ],
)
def test_a_prompt_that_is_too_long_is_told_of(prepared, model, tmp_path, capsys, command, tiny_encoder):
    image = tmp_path / "image.png"
    Image.fromarray(np.full((16, 16, 3), 90, np.uint8)).save(image)
    words = [{"IMAGE": str(image), "ENCODER": str(tiny_encoder)}.get(word, word) for word in command.split()]
    for prompt, count in ((LONG, 1), ("a cat", 0)):
        assert main([*words, "--model", str(model), "--prompt", prompt, "--out", str(tmp_path / "out")]) == 2
        errors = capsys.readouterr().err
        assert "error: prepared" in errors and errors.count(SAID) == count


def test_a_prompt_that_is_too_long_is_told_of_in_python(prepared, model, capsys):
    with pytest.raises(UserError, match="prepared"):
        rj.draw(rj.open_model(model), [Prompt(LONG)])
    assert capsys.readouterr().err.count(SAID) == 1


def test_it_is_told_of_once_however_often_a_pipeline_is_called(model, capsys):
    feed = rj.open_model(model).stage().feed
    for prompt in (LONG, LONG, LONG + "!", "a cat", LONG):
        feed.prepare([Prompt(prompt).request(0)])
    assert capsys.readouterr().err.count(SAID) == 2


def test_every_option_for_a_model_says_that_there_is_one():
    asked = [
        (words, option.name)
        for words, kind in LEAVES.items()
        if words != "train"
        for option in usage.options_of(kind)
        if option.name in ("model", "text-model") and "shipped" not in option.told
    ]
    assert asked == []


@pytest.mark.parametrize(
    ("words", "status", "said"),
    [
        ("verify shipped", 0, "shipped is whole: weights of entityworld32"),
        ("export shipped --out OUT", 0, "entityworld32"),
        ("embed RECORDS --text-model shipped --text-embeddings OUT", 2, "shipped has no frozen text encoder"),
    ],
)
def test_shipped_is_a_model(world, tmp_path, capsys, words, status, said):
    places = {"OUT": str(tmp_path / "out"), "RECORDS": str(world / "records")}
    assert main([places.get(word, word) for word in words.split()]) == status
    assert said in "".join(capsys.readouterr())
