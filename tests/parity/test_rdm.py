"""RCG's representation diffusion against PyTorch: the network and the published sampler, on random weights.

Theirs is written here from what the paper and its published code compute, in PyTorch's own modules.
"""

import argparse
import math
import runpy
from pathlib import Path

import flax
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from torch import nn

from reimagen_jax.diffusion import guidance, sampler, schedule, solvers
from reimagen_jax.diffusion.settings import DiffusionConfig, SamplerConfig
from reimagen_jax.errors import UserError
from reimagen_jax.inference.model import Model
from reimagen_jax.nets.latent_mlp import LatentMLP
from reimagen_jax.nets.settings import LatentMLPConfig
from reimagen_jax.systems import kinds
from reimagen_jax.systems.rcg.published import read
from tests.parity import test_moco as moco

ROOT = Path(__file__).parents[2]
D, T = 12, 1000
CONFIG = LatentMLPConfig(width=48, depth=3, time_width=20, class_width=10)
PROCESS = DiffusionConfig(schedule="scaled_linear", prediction="x0")


class TheirBlock(nn.Module):
    def __init__(self, context):
        super().__init__()
        W = CONFIG.width
        self.norm1, self.norm2 = nn.LayerNorm(W, eps=1e-5), nn.LayerNorm(W, eps=1e-5)
        self.first, self.second = nn.Linear(W, W), nn.Linear(W, W)
        self.time = nn.Linear(CONFIG.time_width, W)
        self.context = nn.Linear(CONFIG.class_width, W) if context else None

    def forward(self, x, e, context):
        silu = nn.functional.silu
        h = self.first(silu(self.norm1(x))) + self.time(silu(e))
        if self.context is not None:
            h = h + self.context(silu(context))
        return x + self.second(silu(self.norm2(h)))


class Theirs(nn.Module):
    def __init__(self, context):
        super().__init__()
        W, E = CONFIG.width, CONFIG.time_width
        self.time1, self.time2, self.input = nn.Linear(W, E), nn.Linear(E, E), nn.Linear(D, W)
        self.blocks = nn.ModuleList(TheirBlock(context) for _ in range(CONFIG.depth))
        self.norm, self.out = nn.LayerNorm(W, eps=1e-6), nn.Linear(W, D)

    def forward(self, x, step, context=None):
        half = CONFIG.width // 2
        angles = step[:, None].float() * torch.exp(-math.log(10_000) * torch.arange(half) / half)[None]
        e = self.time2(nn.functional.silu(self.time1(torch.cat([torch.cos(angles), torch.sin(angles)], dim=-1))))
        h = self.input(x)
        for block in self.blocks:
            h = block(h, e, context)
        return self.out(nn.functional.silu(self.norm(h)))


def random_pair(context):
    """Our network with random weights, and theirs with the same."""
    net, torch_net = LatentMLP(CONFIG), Theirs(context)
    told = jnp.zeros((1, CONFIG.class_width)) if context else None
    shapes = jax.eval_shape(net.init, jax.random.key(0), jnp.zeros((1, D)), jnp.zeros(1), told)["params"]
    rng = np.random.default_rng(3)
    params = jax.tree.map(lambda leaf: 0.3 * rng.standard_normal(leaf.shape).astype(np.float32), shapes)
    state = {}
    for path, leaf in flax.traverse_util.flatten_dict(params).items():
        *module, name = path
        module = [part.replace("block", "blocks.") for part in module]
        state[".".join([*module, "bias" if name == "bias" else "weight"])] = torch.from_numpy(leaf.T.copy())
    torch_net.load_state_dict(state)
    return net, params, torch_net.eval()


@pytest.mark.parametrize("context", [False, True], ids=["without classes", "with classes"])
def test_the_network_is_theirs(context):
    net, params, theirs = random_pair(context)
    rng = np.random.default_rng(5)
    x, told = (rng.standard_normal((6, width)).astype(np.float32) for width in (D, CONFIG.class_width))
    step = np.asarray([0, 1, 17, 500, 997, 999])
    t = jnp.asarray(step / T, jnp.float32)
    ours = net.apply({"params": params}, jnp.asarray(x), t, jnp.asarray(told) if context else None)
    with torch.no_grad():
        expected = theirs(torch.from_numpy(x), torch.from_numpy(step), torch.from_numpy(told))
    np.testing.assert_allclose(ours, expected, atol=1e-4)


def test_the_published_sampler_goes_where_theirs_goes_with_the_same_noise():
    """DDIM of 250 steps, all its noise, which ends at the first step of the chain, not at the image."""
    net, params, theirs = random_pair(False)
    settings = SamplerConfig(solver="ddim", num_steps=250, ddim_noise=1.0, spacing="ldm", thresholding="none")
    keys, x_T = sampler.image_keys(0, range(4)), np.random.default_rng(7).standard_normal((4, D)).astype(np.float32)
    ours = sampler.sample(
        lambda x, t, _: net.apply({"params": params}, x, t),
        None,
        jnp.asarray(x_T),
        keys,
        schedule.times(250, PROCESS, "ldm"),
        PROCESS,
        solvers.solver_of(settings, PROCESS),
        guidance.unguided,
        sampler.projection(settings),
    )
    draw = jax.vmap(lambda key, i: jax.random.normal(jax.random.fold_in(key, i), (D,)), (0, None))
    noises = [torch.from_numpy(np.asarray(draw(keys, i)).copy()).double() for i in range(250)]
    signal = np.cumprod(1.0 - np.linspace(math.sqrt(0.0015), math.sqrt(0.0195), T) ** 2)
    steps = np.arange(0, T, T // 250) + 1
    x = torch.from_numpy(x_T).double()
    for i, step in enumerate(reversed(steps)):
        a, before = signal[step], signal[steps[len(steps) - i - 2]] if i < len(steps) - 1 else signal[0]
        with torch.no_grad():
            x0 = theirs(x.float(), torch.full((4,), step)).double()
        eps = (x / math.sqrt(a) - x0) / math.sqrt(1 / a - 1)
        sigma = math.sqrt((1 - before) / (1 - a) * (1 - a / before))
        x = math.sqrt(before) * x0 + math.sqrt(1 - before - sigma**2) * eps + sigma * noises[i]
        assert i < len(steps) - 1 or sigma == pytest.approx(0.02743, abs=1e-5)
        assert i > 0 or sigma == pytest.approx(0.2745, abs=1e-4)
    np.testing.assert_allclose(ours, x, atol=1e-4 * float(x.abs().max()))


PUBLISHED = {"time1": "time_embed.0", "time2": "time_embed.2", "input": "input_proj", "norm": "out.0", "out": "out.2"}
IN_BLOCKS = {
    "norm1": "in_layers.0",
    "first": "in_layers.2",
    "time": "emb_layers.1",
    "context": "context_layers.1",
    "norm2": "out_layers.0",
    "second": "out_layers.3",
}


def stored(theirs, encoder, path, classes):
    """As RCG's training stores it: the network, its average without dots, the encoder, and more."""
    table = {"betas": torch.zeros(T), "model_ema.decay": torch.tensor(0.9999), "model_ema.num_updates": torch.tensor(7)}
    for name, value in theirs.state_dict().items():
        *block, part, leaf = name.split(".")
        there = f"res_blocks.{block[1]}.{IN_BLOCKS[part]}" if block else PUBLISHED[part]
        table[f"model.diffusion_model.{there}.{leaf}"] = value + 1
        table["model_ema." + f"diffusion_model.{there}.{leaf}".replace(".", "")] = value
    table |= {f"pretrained_encoder.{name}": value for name, value in encoder.state_dict().items()}
    table["cond_stage_model.embedding.weight"] = torch.randn(classes, CONFIG.class_width)
    content = {"model": table, "model_ema": None, "optimizer": {"state": {}}, "epoch": 3, "scaler": {"scale": 1.0}}
    torch.save(content | {"args": argparse.Namespace(lr=0.1)}, path)
    return table


@pytest.mark.parametrize("classes", [1, 5], ids=["unconditional", "of classes"])
def test_a_published_file_is_read_with_its_averages_and_its_encoder(classes, tmp_path, monkeypatch, capsys):
    _, params, theirs = random_pair(classes > 1)
    encoder = moco.random(stem=False)
    with torch.no_grad():  # as wide as a representation
        encoder.head[-2], encoder.head[-1] = nn.Linear(moco.HEAD, D, bias=False), nn.BatchNorm1d(D, affine=False)
    table = stored(theirs, encoder.eval(), tmp_path / "rdm.pth", classes)
    words = [str(tmp_path / "rdm.pth"), "--out", str(tmp_path / "out"), "--heads", str(moco.HEADS)]
    monkeypatch.setattr("sys.argv", ["convert_weights.py", *words])
    assert runpy.run_path(str(ROOT / "tools" / "convert_weights.py"))["main"]() == 0, capsys.readouterr().err
    assert "CC BY-NC 4.0" in (tmp_path / "out" / "README.md").read_text()
    model = Model.open(tmp_path / "out")
    jax.tree.map(np.testing.assert_array_equal, model.params["rdm"], params)
    image = np.random.default_rng(0).integers(0, 256, (2, 40, 40, 3), np.uint8)
    ours = kinds.system_of(model.config).represent(model.params, jnp.asarray(image))
    mean, std = (torch.tensor(each)[:, None, None] for each in ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)))
    pixels = (torch.from_numpy(image).permute(0, 3, 1, 2) / 255.0 - mean) / std
    pixels = nn.functional.interpolate(pixels, moco.SIDE, mode="bicubic", align_corners=False)
    with torch.no_grad():
        r = encoder.head(encoder.features(pixels))
    np.testing.assert_allclose(ours, (r - r.mean(1, keepdim=True)) / r.std(1, keepdim=True), atol=1e-4)
    assert model.config.system.classes == (() if classes == 1 else tuple("01234"))
    if classes > 1:
        expected = table["cond_stage_model.embedding.weight"]
        np.testing.assert_array_equal(model.params["classes"]["embedding"][:-1], expected)


def test_a_file_without_averages_is_refused(tmp_path):
    _, _, theirs = random_pair(False)
    table = stored(theirs, moco.random(stem=False), tmp_path / "rdm.pth", 1)
    torch.save({"model": {name: each for name, each in table.items() if "ema" not in name}}, tmp_path / "rdm.pth")
    with pytest.raises(UserError, match="but not its average"):
        read(tmp_path / "rdm.pth", "rdm")
