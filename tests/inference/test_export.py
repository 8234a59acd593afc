"""Models to hand on: what is written opens as it was, and says nothing of the machine; what is broken is named."""

from dataclasses import replace

import jax
import numpy as np
import pytest

from reimagen_jax.cli import main
from reimagen_jax.config import InitConfig
from reimagen_jax.encoders.settings import FrozenTextConfig
from reimagen_jax.errors import UserError
from reimagen_jax.inference.export import CARD, export, model_card, save_weights
from reimagen_jax.inference.model import EXPERIMENT, Model
from reimagen_jax.pretrained.weights import WEIGHTS
from reimagen_jax.systems.kinds import from_json
from reimagen_jax.systems.reimagen.system import ReImagen
from tests.tiny import TINY, TINY_SR, changed

FROZEN = FrozenTextConfig(encoder="/their/t5", fingerprint="abc", width=8, max_tokens=4)


@pytest.fixture(scope="module")
def params():
    return jax.jit(ReImagen(TINY).init)(jax.random.key(0))


def test_a_folder_of_weights_round_trips(tmp_path, params):
    save_weights(tmp_path, TINY, params)
    model = Model.open(tmp_path)
    assert model.config == TINY and model.step is None
    jax.tree.map(np.testing.assert_array_equal, model.params, params)
    save_weights(tmp_path / "half", TINY, params, np.float16)
    half = Model.open(tmp_path / "half").params
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-7), half, params)
    assert all(leaf.dtype == np.float32 for leaf in jax.tree.leaves(half))
    assert all(isinstance(leaf, np.ndarray) for leaf in jax.tree.leaves(Model.open(tmp_path, on_host=True).params))


def test_what_float16_cannot_hold_is_not_exported(tmp_path, params, capsys):
    large = jax.tree.map(np.array, params)
    name = "unet/ustack/out/bias"
    large["unet"]["ustack"]["out"]["bias"][1] = -1e5
    save_weights(tmp_path / "model", TINY, large)
    asked = ["export", str(tmp_path / "model"), "--out", str(tmp_path / "half"), "--dtype", "float16"]
    assert main(asked) == 2
    said = capsys.readouterr().err
    assert said.startswith(f"error: {name} holds 100000, and float16 ends at 65504") and said.count("\n") == 1
    assert [path.name for path in tmp_path.iterdir()] == ["model"]
    assert main([*asked[:-1], "float32"]) == 0
    np.testing.assert_array_equal(Model.open(tmp_path / "half").params["unet"]["ustack"]["out"]["bias"][1], -1e5)


def test_a_card_says_which_weights_a_model_began_from_and_not_where_they_lay(tmp_path, params):
    save_weights(tmp_path / "run", replace(TINY, init=InitConfig("/my/place/theirs")), params)
    assert main(["export", str(tmp_path / "run"), "--out", str(tmp_path / "out")]) == 0
    card = (tmp_path / "out" / CARD).read_text()
    assert "| Started from the weights | theirs |" in card and "/my" not in card


def test_a_digest_is_of_the_values_whatever_file_they_came_from(tmp_path, params):
    save_weights(tmp_path / "one", TINY, params)
    save_weights(tmp_path / "two", replace(TINY, name="another"), params)
    save_weights(tmp_path / "three", TINY, jax.tree.map(lambda leaf: leaf + 1e-3, params))
    one, two, three = (Model.open(tmp_path / name).digest for name in ("one", "two", "three"))
    assert one == two != three and len(one) == 16


def test_broken_files_are_refused_by_name(tmp_path, params):
    with pytest.raises(UserError, match=EXPERIMENT):
        Model.open(tmp_path)
    with pytest.raises(UserError, match="nowhere not found"):
        Model.open(tmp_path / "nowhere")
    save_weights(tmp_path, TINY, params)
    with pytest.raises(UserError, match="there is no step 3"):
        Model.open(tmp_path, step=3)
    whole = (tmp_path / WEIGHTS).read_bytes()
    (tmp_path / WEIGHTS).write_bytes(whole[: len(whole) // 2])
    with pytest.raises(UserError, match=WEIGHTS):
        Model.open(tmp_path)


def test_a_model_that_is_handed_on_opens_and_names_no_folder(tmp_path, params):
    config = replace(
        TINY,
        data=replace(TINY.data, triples="/home/me/triples", text_embeddings="/home/me/text"),
        init=InitConfig("/home/me/weights"),
    )
    export(tmp_path, config, params, dtype=np.float16, facts={"Checkpoint": "step 7"}, licence="apache-2.0")
    model = Model.open(tmp_path)
    assert model.config == replace(TINY, init=InitConfig())
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-7), model.params, params)
    card = (tmp_path / CARD).read_text()
    for part in ("license: apache-2.0", "# tiny", "| Checkpoint | step 7 |", "stored as float16", "16 x 16 pixels"):
        assert part in card
    assert "/home/me" not in card + (tmp_path / EXPERIMENT).read_text()


def test_the_card_says_what_a_stage_and_a_frozen_encoder_need():
    card = model_card(changed(TINY_SR, text=replace(TINY_SR.system.text, frozen=FROZEN)), {})
    assert "--low-res IMAGE" in card and "--text-encoder" in card and "fingerprint `abc`" in card
    assert "/their/t5" not in card


def test_an_experiment_written_before_there_were_these_settings_means_the_same():
    text = (  # as `to_json` wrote it then: none of the new fields
        '{"name": "old", "text": {"max_bytes": 32, "width": 16, "depth": 1, "head_width": 8}, '
        '"init": {"weights": "", "fresh": []}, "data": {"triples": ""}, "train": {"num_steps": 3}}'
    )
    config = from_json(text)
    assert config.system.text.frozen is None and not config.init.adopt and config.train.rates == ()
    assert config.system.sampler.threshold_limit is None and config.data.text_embeddings == ""
