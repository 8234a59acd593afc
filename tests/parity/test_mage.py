"""Our MAGE equals PyTorch's for equal weights: network, loss, gradients, decoding with recorded random numbers."""

import dataclasses
import runpy
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch

from reimagen_jax.encoders.settings import RepresentationConfig
from reimagen_jax.errors import UserError
from reimagen_jax.inference.model import Model
from reimagen_jax.nets.settings import Tower, VQConfig
from reimagen_jax.systems.mage.decoding import decoding, guided
from reimagen_jax.systems.mage.net import Mage
from reimagen_jax.systems.mage.published import mage_name, mage_params, vq_params
from reimagen_jax.systems.mage.settings import MageConfig
from reimagen_jax.systems.mage.system import smoothed_nll
from reimagen_jax.systems.stepwise import walked
from tests.parity import rcg_tokens as theirs
from tests.parity import test_moco as moco
from tests.parity.huggingface import randomise, relative_error

ROOT = Path(__file__).parents[2]
CODEBOOK = VQConfig(widths=(8, 8, 16), blocks=2, groups=4, codes=20, code_width=6)
D, R, L, B = 16, 10, 16, 3
CONFIG = MageConfig(
    resolution=16,
    vq=CODEBOOK,
    encoder=RepresentationConfig(width=R),
    tower=Tower(D, 2, 2, 32, "gelu", 1e-6),
    decoder=Tower(D, 2, 4, 32, "gelu", 1e-6),
    spare_words=1000,
)


def state_of(model):
    return {name: tensor.detach().numpy() for name, tensor in model.state_dict().items()}


@pytest.fixture(scope="module")
def mages():
    model = randomise(theirs.Mage(CODEBOOK.codes, L, R, D, 2, 32, 2, 2, 4), 1)
    return model, {"params": jax.tree.map(jnp.asarray, mage_params(state_of(model), CONFIG))}


@pytest.fixture(scope="module")
def told():
    rng = np.random.default_rng(2)
    tokens, order = rng.integers(0, CODEBOOK.codes, (B, L), np.int32), rng.random((B, L)).argsort(axis=1)
    masked, dropped = (np.zeros((B, L), bool) for _ in range(2))
    np.put_along_axis(masked, order[:, :11], True, axis=1)
    np.put_along_axis(dropped, order[:, :8], True, axis=1)
    kept = np.sort(order[:, 8:], axis=1).astype(np.int32)
    return tokens, masked, dropped, kept, rng.standard_normal((B, R)).astype(np.float32)


def in_torch(*arrays):
    return [torch.tensor(array.astype(np.int64) if array.dtype == np.int32 else array) for array in arrays]


@pytest.mark.parametrize("condition", ["representation", "none"])
def test_the_network_and_its_loss_are_theirs(condition, mages, told):
    model, variables = mages
    tokens, masked, dropped, kept, representation = told
    net = Mage(dataclasses.replace(CONFIG, condition=condition))
    with torch.no_grad():
        t, m, d, r = in_torch(tokens, masked, dropped, representation)
        logits = model(t, m, d, r if condition == "representation" else None)
        loss = float(model.loss(logits, t, m))
    told_B = representation if condition == "representation" else np.zeros(B, np.int32)
    ours = jax.jit(net.apply)(variables, tokens, masked, told_B, np.zeros(B, bool), kept)
    assert relative_error(ours, logits.numpy()) < 1e-4
    our_loss = float(smoothed_nll(ours, jnp.asarray(tokens), 0.1)[masked].mean())
    assert our_loss == pytest.approx(loss, rel=1e-5)


def test_gradients_are_theirs_and_none_passes_the_tie(mages, told):
    model, variables = mages
    tokens, masked, dropped, kept, representation = told
    t, m, d, r = in_torch(tokens, masked, dropped, representation)
    model.zero_grad()
    model.loss(model(t, m, d, r), t, m).backward()
    there = {name: param.grad.numpy() for name, param in model.named_parameters() if param.grad is not None}
    there |= {name: np.zeros(param.shape, np.float32) for name, param in model.named_parameters() if name not in there}
    net = Mage(CONFIG)

    def loss(variables, tokens, masked, *others):
        losses = smoothed_nll(net.apply(variables, tokens, masked, *others), tokens, 0.1)
        return jnp.where(masked, losses, 0.0).sum() / masked.sum().astype(jnp.float32)

    ours = jax.jit(jax.grad(loss))(variables, tokens, masked, representation, np.zeros(B, bool), kept)["params"]
    theirs_here = mage_params(there, CONFIG)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-5), ours, theirs_here)
    assert np.abs(theirs_here["words"]["embedding"]).max() > 1e-4  # of the embedding alone


@pytest.mark.parametrize("steps", [5, 6])  # of 6, one masks exactly half
@pytest.mark.parametrize("tau", [0.0, 3.0])
def test_decoding_draws_their_tokens_from_recorded_noise(steps, tau, mages, told):
    model, variables = mages
    representation, rng = told[-1], np.random.default_rng(3)
    gumbel = rng.gumbel(size=(steps, B, L, CODEBOOK.codes)).astype(np.float32)
    noise = rng.gumbel(size=(steps, B, L)).astype(np.float32)
    with torch.no_grad():
        r, g, n = in_torch(representation, gumbel, noise)
        expected = model.draw(r, L, steps, tau, 2.0, g, n)
    net = Mage(CONFIG)

    def predict(token_BL, masked_BL, share):
        full, null = (
            net.apply(variables, token_BL, masked_BL, jnp.asarray(representation), jnp.full(B, dropped))
            for dropped in (False, True)
        )
        return guided(full, null, jnp.full(B, 1.0 + tau), share)

    def draws(s):
        return jnp.asarray(gumbel)[s], jnp.asarray(noise)[s]

    ours = jax.jit(lambda: walked(decoding(predict, draws, B, L, steps, jnp.full(B, 2.0))))()
    np.testing.assert_array_equal(ours, expected.numpy())
    assert len(np.unique(ours)) > 3


def test_what_does_not_fit_is_named(mages):
    state = state_of(mages[0])
    state["blocks.1.attn.other"] = state.pop("blocks.1.attn.qkv.weight")
    with pytest.raises(UserError, match=r"blocks\.1\.attn\.qkv\.weight is missing.*blocks\.1\.attn\.other is unexp"):
        mage_params(state, CONFIG)
    assert mage_name("decoder_blocks_3/mlp1/kernel") == "decoder_blocks.3.mlp.fc1.weight"


@pytest.mark.parametrize("condition", ["representation", "none", "class"])
def test_a_published_file_becomes_a_folder_that_draws(condition, tmp_path, monkeypatch, capsys):
    """With the tokenizer and the encoder that lie in it. What draws from classes is refused."""
    W, heads = 48, moco.HEADS  # one number of heads is for all of a file that is of no published width
    model = randomise(theirs.Mage(20, L, moco.WIDTH, W, heads, 32, 1, 1, heads), 1)
    vq = randomise(theirs.VQ((32, 32, 32), 1, 32, 20, 6), 2)
    own = {name: each for name, each in model.state_dict().items() if condition == "representation"
           or not name.startswith(("latent_prior_proj", "fake_latent"))}  # fmt: skip
    state = own | {f"vqgan.{name}": each for name, each in vq.state_dict().items()}
    if condition == "representation":
        state |= {f"pretrained_encoder.{name}": each for name, each in moco.random(stem=False).state_dict().items()}
    if condition == "class":
        state["class_emb.weight"] = torch.zeros(10, W)
    torch.save({"model": state, "epoch": 3}, tmp_path / "mage.pth")
    words = [str(tmp_path / "mage.pth"), "--out", str(tmp_path / "out"), "--heads", str(heads)]
    monkeypatch.setattr("sys.argv", ["convert_weights.py", *words])
    status = runpy.run_path(str(ROOT / "tools" / "convert_weights.py"))["main"]()
    said = capsys.readouterr().err
    if condition == "class":
        assert status == 2 and "draw from classes are not read" in said
        return
    assert status == 0, said
    assert ("CC BY-NC 4.0" in (tmp_path / "out" / "README.md").read_text()) == (condition == "representation")
    opened = Model.open(tmp_path / "out")
    system = opened.config.system
    assert (system.condition, system.resolution, system.places, system.spare_words) == (condition, 16, L, 1000)
    told = {name: each.numpy() for name, each in own.items()}
    jax.tree.map(np.testing.assert_array_equal, opened.params["mage"], mage_params(told, system))
    jax.tree.map(np.testing.assert_array_equal, opened.params["vq"], vq_params(state_of(vq), system.vq))
    assert ("encoder" in opened.params) == (condition == "representation")
