"""Our encoder of images equals MoCo-v3's vision transformer, written here anew in PyTorch, for equal weights; its file,
as PyTorch writes it, is read as PyTorch reads it."""

import argparse
import collections
import dataclasses
import math
import runpy
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from torch import nn

from reimagen_jax.encoders.moco_published import published
from reimagen_jax.encoders.representation import Representation, bicubic
from reimagen_jax.encoders.vectors import open_encoder
from reimagen_jax.errors import UserError
from reimagen_jax.inference.model import start_of
from reimagen_jax.pretrained import pickles
from tests.parity.huggingface import relative_error

ROOT = Path(__file__).parents[2]
D, DEPTH, HEADS, PATCH, SIDE, HEAD, WIDTH = 48, 3, 3, 8, 32, 40, 20


class Attention(nn.Module):
    """One product for queries, keys and values."""

    def __init__(self):
        super().__init__()
        self.qkv, self.proj = nn.Linear(D, 3 * D), nn.Linear(D, D)

    def forward(self, x):
        B, L, _ = x.shape
        q, k, v = self.qkv(x).reshape(B, L, 3, HEADS, D // HEADS).permute(2, 0, 3, 1, 4)
        weight = (q @ k.transpose(-2, -1) * (D // HEADS) ** -0.5).softmax(dim=-1)
        return self.proj((weight @ v).transpose(1, 2).reshape(B, L, D))


class Mlp(nn.Module):
    def __init__(self):
        super().__init__()
        self.fc1, self.fc2 = nn.Linear(D, 4 * D), nn.Linear(4 * D, D)

    def forward(self, x):
        return self.fc2(nn.functional.gelu(self.fc1(x)))


class Block(nn.Module):
    def __init__(self):
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(D, eps=1e-6), nn.LayerNorm(D, eps=1e-6)
        self.attn, self.mlp = Attention(), Mlp()

    def forward(self, x):
        x = x + self.attn(self.norm1(x))
        return x + self.mlp(self.norm2(x))


class Patches(nn.Module):
    """By one product, or by convolutions that halve the sides."""

    def __init__(self, stem):
        super().__init__()
        if not stem:
            self.proj = nn.Conv2d(3, D, PATCH, PATCH)
            return
        halvings = int(math.log2(PATCH))
        layers, before = [], 3
        for i in range(halvings):
            after = D // 2 ** (halvings - 1 - i)
            layers += [nn.Conv2d(before, after, 3, 2, 1, bias=False), nn.BatchNorm2d(after), nn.ReLU()]
            before = after
        self.proj = nn.Sequential(*layers, nn.Conv2d(D, D, 1))

    def forward(self, x):
        return self.proj(x).flatten(2).transpose(1, 2)


def waves():
    """The table of positions: the grid of the first axis against that of the second, as `ij` has it."""
    side = SIDE // PATCH
    first, second = torch.meshgrid(torch.arange(side).float(), torch.arange(side).float(), indexing="ij")
    omega = 1.0 / 10000 ** (torch.arange(D // 4) / (D // 4))
    a, b = (torch.einsum("m,d->md", axis.flatten(), omega) for axis in (first, second))
    rows = torch.cat([torch.sin(a), torch.cos(a), torch.sin(b), torch.cos(b)], dim=1)
    return torch.cat([torch.zeros(1, D), rows])[None]


class Theirs(nn.Module):
    """A vision transformer with its positions among its parameters, and MoCo-v3's projector as its head."""

    def __init__(self, stem, depth):
        super().__init__()
        self.patch_embed = Patches(stem)
        self.cls_token = nn.Parameter(torch.zeros(1, 1, D))
        self.pos_embed = nn.Parameter(waves(), requires_grad=False)
        self.blocks = nn.Sequential(*(Block() for _ in range(depth)))
        self.norm = nn.LayerNorm(D, eps=1e-6)
        sizes = [(D, HEAD), (HEAD, HEAD)]
        layers = [layer for a, b in sizes for layer in (nn.Linear(a, b, bias=False), nn.BatchNorm1d(b), nn.ReLU())]
        self.head = nn.Sequential(*layers, nn.Linear(HEAD, WIDTH, bias=False), nn.BatchNorm1d(WIDTH, affine=False))

    def features(self, x):
        x = self.patch_embed(x)
        x = torch.cat([self.cls_token.expand(len(x), -1, -1), x], dim=1) + self.pos_embed
        return self.norm(self.blocks(x))[:, 0]


def random(stem, depth=DEPTH):
    """Random weights and statistics, all away from what they begin as."""
    torch.manual_seed(0)
    net = Theirs(stem, depth).eval()
    with torch.no_grad():
        for name, value in net.state_dict().items():
            if name != "pos_embed" and value.is_floating_point():
                fan_in = max(value[0].numel(), 1) if value.ndim > 1 else 100
                noise = torch.randn_like(value) / fan_in**0.5
                value.copy_(noise.abs() + 0.5 if name.endswith("running_var") else noise + 1.0 * ("norm" in name))
    return net


def stored(net, path):
    """As MoCo-v3's training stores it, the average and the optimizer beside."""
    table = collections.OrderedDict()
    for name, value in net.state_dict().items():
        table[f"module.base_encoder.{name}"] = value
        table[f"module.momentum_encoder.{name}"] = value + 1 if value.is_floating_point() else value
    table["module.predictor.0.weight"] = torch.zeros(3, 3)
    optimizer = {
        "state": {0: {"step": 3, "exp_avg": torch.zeros(3)}},
        "param_groups": [{"lr": 0.1, "betas": (0.9, 0.99)}],
    }
    args = argparse.Namespace(lr=0.1, arch="vit_base")
    torch.save({"epoch": 300, "arch": "vit_base", "state_dict": table, "optimizer": optimizer, "args": args}, path)
    return path


@pytest.fixture(scope="module", params=[False, True], ids=["product", "stem"])
def both(request, tmp_path_factory):
    net = random(request.param)
    config, params = published(stored(net, tmp_path_factory.mktemp("moco") / "vit.pth.tar"), heads=HEADS)
    return net, Representation(config), params


def images(count, side, seed=0):
    return np.random.default_rng(seed).uniform(-1.0, 1.0, (count, side, side, 3)).astype(np.float32)


def as_theirs(encoder, x_BHWC):
    """Normalised, then resized by PyTorch."""
    mean, std = (np.array(each, np.float32) for each in (encoder.config.mean, encoder.config.std))
    x = torch.from_numpy((((x_BHWC + 1) / 2 - mean) / std).transpose(0, 3, 1, 2))
    return nn.functional.interpolate(x, (SIDE, SIDE), mode="bicubic", align_corners=False)


@pytest.mark.parametrize("side", [SIDE, 48, 20])
def test_features_and_representations_are_theirs(both, side):
    net, encoder, params = both
    x_BHWC = images(3, side)
    with torch.no_grad():
        f_BD = net.features(as_theirs(encoder, x_BHWC))
        p_BD = net.head(f_BD)
        r_BD = (p_BD - p_BD.mean(dim=1, keepdim=True)) / p_BD.std(dim=1, keepdim=True)
    assert relative_error(encoder.features(params, jnp.asarray(x_BHWC)), f_BD) < 1e-4
    assert relative_error(encoder.represent(params, jnp.asarray(x_BHWC)), r_BD) < 1e-4


def test_in_training_they_are_theirs_too(both):
    net, encoder, params = both
    x_BHWC = images(6, SIDE)
    net = random(encoder.config.stem).train()
    with torch.no_grad():
        p_BD = net.head(net.features(as_theirs(encoder, x_BHWC)))
    assert relative_error(encoder.training(params, jnp.asarray(x_BHWC))[1], p_BD) < 1e-4


@pytest.mark.parametrize("sizes", [(256, 224), (20, 32), (32, 20), (7, 5)])
def test_resizing_is_pytorchs(sizes):
    x_BHWC = images(2, sizes[0], seed=3)
    theirs = nn.functional.interpolate(torch.from_numpy(x_BHWC.transpose(0, 3, 1, 2)), (sizes[1],) * 2, mode="bicubic")
    np.testing.assert_allclose(bicubic(jnp.asarray(x_BHWC), sizes[1]), theirs.numpy().transpose(0, 2, 3, 1), atol=1e-4)


def test_a_file_is_read_as_pytorch_reads_it(both, tmp_path):
    net, *_ = both
    path = stored(net, tmp_path / "w.pth.tar")
    theirs = torch.load(path, weights_only=False)
    ours = pickles.load(path)
    assert list(ours["state_dict"]) == list(theirs["state_dict"])
    for name, tensor in theirs["state_dict"].items():
        np.testing.assert_array_equal(ours["state_dict"][name].read(), tensor.numpy())
    assert ours["epoch"] == 300 and ours["optimizer"]["param_groups"] == theirs["optimizer"]["param_groups"]
    assert isinstance(ours["args"], pickles.Skipped)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float16, torch.bfloat16, torch.int32, torch.uint8, torch.bool])
def test_types_views_and_parameters_are_pytorchs(dtype, tmp_path):
    x = (torch.arange(24) % 5).to(dtype).reshape(4, 6)
    saved = {"x": x, "turned": x.T, "cut": x[1:3, 2:], "none": x[:0], "one": x[0, 0], "size": x.shape}
    if dtype.is_floating_point:
        saved["parameter"] = nn.Parameter(x)
    torch.save(saved, tmp_path / "x.pt")
    ours = pickles.load(tmp_path / "x.pt")
    assert ours.pop("size") == (4, 6)
    for name, tensor in ours.items():
        np.testing.assert_array_equal(tensor.read().astype(np.float64), saved[name].detach().double().numpy())


def test_the_misspelt_names_of_the_large_one_are_meant_as_they_should_be(tmp_path):
    net = random(stem=False, depth=15)
    odd = {
        "blocks.13.norm1.": "blocks.13.norm13.",
        "blocks.13.mlp.fc1.": "blocks.13.mlp.fc13.",
        "blocks.14.norm2.": "blocks.14.norm14.",
        "blocks.14.mlp.fc2.": "blocks.14.mlp.fc14.",
    }
    config, right = published(changed(net, tmp_path / "right.pth.tar"), heads=HEADS)
    table = net.state_dict()
    for meant, written in odd.items():
        for name in [name for name in table if name.startswith(meant)]:
            table[name.replace(meant, written)] = table.pop(name)
    torch.save({"state_dict": {f"module.base_encoder.{name}": x for name, x in table.items()}}, tmp_path / "w.pth.tar")
    same, params = published(tmp_path / "w.pth.tar", heads=HEADS)
    assert same == config and config.tower.depth == 15
    jax.tree.map(np.testing.assert_array_equal, params, right)


def test_a_file_becomes_the_folder_of_an_encoder(both, tmp_path, capsys, monkeypatch):
    net, encoder, params = both
    path = stored(net, tmp_path / "vit.pth.tar")
    tool = runpy.run_path(str(ROOT / "tools" / "convert_weights.py"))
    words = ["convert", str(path), "--out", str(tmp_path / "encoder")]
    for options, code, said in (
        (["--heads", str(HEADS)], 0, "encoder of 20 values, a vision transformer of width 48"),
        (["--heads", str(HEADS)], 2, "already exists"),
        (["--heads", str(HEADS), "--overwrite", "--cleaning", "deepfloyd"], 2, "--cleaning: of text-to-image models"),
        (["--overwrite"], 2, "how many heads"),
    ):
        monkeypatch.setattr("sys.argv", [*words, *options])
        assert tool["main"]() == code
        told = capsys.readouterr()
        assert said in told.out + told.err
    card = (tmp_path / "encoder" / "README.md").read_text()
    assert "license: cc-by-nc-4.0" in card and "not for commercial use" in card and "`vit.pth.tar`" in card
    opened = open_encoder(tmp_path / "encoder")
    jax.tree.map(np.testing.assert_array_equal, opened.params, params)
    assert opened.config == encoder.config and opened.width == WIDTH
    settings, begun = start_of(tmp_path / "encoder")
    assert settings.network == encoder.config and set(begun()) == {"tower", "head", "statistics"}


def changed(net, path, **changes):
    """The file with tensors replaced (None: left out)."""
    table = {**net.state_dict(), **changes}
    table = {f"module.base_encoder.{name}": value for name, value in table.items() if value is not None}
    torch.save({"state_dict": table}, path)
    return path


def test_other_files_are_refused(both, tmp_path):
    net, encoder, _ = both
    path = tmp_path / "w.pth.tar"
    moved = net.pos_embed.detach().clone()
    moved[:, 1:] = moved[:, 1:].reshape(1, SIDE // PATCH, SIDE // PATCH, D).transpose(1, 2).reshape(1, -1, D)
    for changes, said in (
        ({"pos_embed": moved}, "its positions are not"),
        ({"norm.bias": None}, "norm.bias is missing"),
        ({"head.6.weight": None}, "has no head.6.weight of 2 axes"),
        ({"blocks.1.ls1.gamma": torch.ones(D)}, "blocks.1.ls1.gamma is unknown"),
        ({"norm.weight": torch.full((D,), math.nan)}, "not finite"),
    ):
        with pytest.raises(UserError, match=said):
            published(changed(net, path, **changes), heads=HEADS)
    with pytest.raises(UserError, match="how many heads"):
        published(changed(net, path))
    with pytest.raises(UserError, match=r"no tensors called module\.base_encoder\."):
        torch.save(net.state_dict(), path)
        published(path)
    assert dataclasses.asdict(encoder.config)["mean"] == (0.485, 0.456, 0.406)
    assert jax.tree.all(jax.tree.map(lambda leaf: leaf.dtype == np.float32, encoder.init(jax.random.key(0))))
