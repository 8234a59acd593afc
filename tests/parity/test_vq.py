"""Our tokenizer of images equals PyTorch's for equal weights, and reads the published names."""

import math
import runpy
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch

from reimagen_jax.errors import UserError
from reimagen_jax.inference.model import Model
from reimagen_jax.nets.settings import VQConfig
from reimagen_jax.nets.vq import VQ
from reimagen_jax.systems.mage.published import vq_name, vq_params
from tests.parity import rcg_tokens as theirs
from tests.parity.huggingface import randomise, relative_error

ROOT = Path(__file__).parents[2]
CODEBOOK = VQConfig(widths=(8, 8, 16), blocks=2, groups=4, codes=20, code_width=6)


def state_of(model):
    return {name: tensor.detach().numpy() for name, tensor in model.state_dict().items()}


@pytest.fixture(scope="module")
def tokenizers():
    model = randomise(theirs.VQ(CODEBOOK.widths, CODEBOOK.blocks, CODEBOOK.groups, CODEBOOK.codes, 6), 0)
    return model, {"params": jax.tree.map(jnp.asarray, vq_params(state_of(model), CODEBOOK))}


def test_the_tokenizer_is_theirs_both_ways(tokenizers):
    model, variables = tokenizers
    net = VQ(CODEBOOK)
    x = np.random.default_rng(0).random((2, 16, 24, 3)).astype(np.float32)
    with torch.no_grad():
        their_x = torch.tensor(x).permute(0, 3, 1, 2)
        z, tokens = model.encoder(their_x).permute(0, 2, 3, 1), model.tokens(their_x)
        again = model.decode(tokens).permute(0, 2, 3, 1)
    ours = jax.jit(lambda v, x: net.apply(v, x, method="encode"))(variables, x)
    assert ours.shape == (2, 4, 6, 6)
    assert relative_error(ours, z.numpy()) < 1e-4
    our_tokens = net.apply(variables, jnp.asarray(z.numpy()), method="tokens")
    np.testing.assert_array_equal(our_tokens, tokens.numpy())
    assert len(np.unique(our_tokens)) > 3
    decoded = jax.jit(lambda v, t: net.apply(v, net.apply(v, t, method="look_up"), method="decode"))
    assert relative_error(decoded(variables, our_tokens), again.numpy()) < 1e-4


def test_the_tokenizers_names_are_those_of_the_published_file():
    shapes = jax.eval_shape(VQ(VQConfig()).init, jax.random.key(0), jnp.zeros((1, 16, 16, 3)))["params"]
    leaves = jax.tree_util.tree_leaves_with_path(shapes)
    names = {vq_name(jax.tree_util.keystr(path, simple=True, separator="/")): leaf.shape for path, leaf in leaves}
    shortcuts = sorted(name.removesuffix(".nin_shortcut.weight") for name in names if "nin_shortcut" in name)
    assert shortcuts == ["decoder.up.1.block.0", "decoder.up.3.block.0", *(f"encoder.down.{i}.block.0" for i in (2, 4))]
    upsampled = {name for name in names if "upsample" in name}
    assert upsampled == {f"decoder.up.{i}.upsample.conv.{leaf}" for i in range(1, 5) for leaf in ("weight", "bias")}
    assert names["encoder.conv_out.weight"] == (1, 1, 512, 256) and names["decoder.conv_out.weight"] == (3, 3, 128, 3)
    assert names["quantize.embedding.weight"] == (1024, 256) and "encoder.conv_in.bias" not in names
    count = {part: sum(math.prod(shape) for name, shape in names.items() if name.startswith(part)) for part in
             ("encoder.", "decoder.", "quantize.")}  # fmt: skip
    assert count == {"encoder.": 23_775_104, "decoder.": 30_478_339, "quantize.": 262_144}


def test_what_does_not_fit_is_named(tokenizers):
    state = state_of(tokenizers[0])
    state["encoder.conv_in.bias"] = np.zeros(8, np.float32)
    state["decoder.conv_in.other"] = state.pop("decoder.conv_in.weight")
    with pytest.raises(
        UserError, match=r"conv_in\.weight is missing.*other is unexpected.*conv_in\.bias is unexpected"
    ):
        vq_params(state, CODEBOOK)


@pytest.mark.parametrize("under", ["", "state_dict"])
def test_a_published_file_becomes_a_folder_of_weights(under, tmp_path, monkeypatch, capsys):
    model = randomise(theirs.VQ((32, 64), 1, 32, 20, 6), 0)
    torch.save({under: model.state_dict()} if under else model.state_dict(), tmp_path / "vqgan_strong.ckpt")
    words = [str(tmp_path / "vqgan_strong.ckpt"), "--out", str(tmp_path / "out")]
    monkeypatch.setattr("sys.argv", ["convert_weights.py", *words])
    assert runpy.run_path(str(ROOT / "tools" / "convert_weights.py"))["main"]() == 0, capsys.readouterr().err
    opened = Model.open(tmp_path / "out")
    config = VQConfig((32, 64), 1, 1, 32, 20, 6)
    assert (opened.config.name, opened.config.system.vq, opened.config.system.resolution) == (
        "vqgan_strong",
        config,
        32,
    )
    jax.tree.map(np.testing.assert_array_equal, opened.params["vq"], vq_params(state_of(model), config))
