"""Our LPIPS equals a plain one in PyTorch for equal weights, which are read as they are published; its gradient is a
number where that of a plain one is none."""

import runpy
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from reimagen_jax.encoders import dual
from reimagen_jax.encoders.lpips import Lpips
from reimagen_jax.encoders.lpips_published import published
from reimagen_jax.encoders.settings import LpipsConfig
from reimagen_jax.errors import UserError
from reimagen_jax.inference.model import start_of
from reimagen_jax.nets.settings import VGGConfig
from tests.parity.huggingface import relative_error

ROOT = Path(__file__).parents[2]
WIDTHS, COUNTS = (6, 8, 10), (2, 1, 3)


def layers():
    """As torchvision numbers them."""
    found, before = [], 3
    for level, (width, count) in enumerate(zip(WIDTHS, COUNTS, strict=True)):
        found += [nn.MaxPool2d(2)] if level else []
        for _ in range(count):
            found += [nn.Conv2d(before, width, 3, padding=1), nn.ReLU()]
            before = width
    return nn.Sequential(*found, nn.MaxPool2d(2))


class Theirs(nn.Module):
    def __init__(self):
        super().__init__()
        self.features = layers()
        self.classifier = nn.Linear(3, 3)
        for i, width in enumerate(WIDTHS):
            linear = nn.Conv2d(width, 1, 1, bias=False)
            linear.weight.data.abs_()
            lin = nn.Module()
            lin.model = nn.Sequential(nn.Dropout(), linear)
            self.add_module(f"lin{i}", lin)

    def taps(self, x):
        shift, scale = (torch.tensor(each)[None, :, None, None] for each in ([-0.030, -0.088, -0.188],
                                                                            [0.458, 0.448, 0.450]))  # fmt: skip
        x, found = (x - shift) / scale, []
        for layer in self.features:
            if isinstance(layer, nn.MaxPool2d):
                found.append(x)
            x = layer(x)
        return [f / (f.pow(2).sum(1, keepdim=True).sqrt() + 1e-10) for f in found]

    def forward(self, x, y):
        pairs = enumerate(zip(self.taps(x), self.taps(y), strict=True))
        return sum(getattr(self, f"lin{i}").model((u - v) ** 2).mean((1, 2, 3)) for i, (u, v) in pairs)


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    torch.manual_seed(0)
    folder, model = tmp_path_factory.mktemp("lpips"), Theirs().eval()
    state = model.state_dict()
    parts = {"vgg16.safetensors": "features", "vgg.pth": "lin"}
    for name, part in parts.items():
        tensors = {key: value for key, value in state.items() if key.startswith(part)}
        if name.endswith(".pth"):
            torch.save(tensors, folder / name)
        else:
            save_file(tensors | {"classifier.weight": state["classifier.weight"]}, folder / name)
    return folder, model


def images(seed, side=16):
    return np.random.default_rng(seed).uniform(-1, 1, (3, side, side, 3)).astype(np.float32)


def test_distances_are_theirs_of_weights_that_the_tool_converts(files, tmp_path, monkeypatch, capsys):
    folder, model = files
    words = [str(folder / "vgg16.safetensors"), "--lpips", str(folder / "vgg.pth"), "--out", str(tmp_path / "out")]
    monkeypatch.setattr("sys.argv", ["convert_weights.py", *words])
    assert runpy.run_path(str(ROOT / "tools" / "convert_weights.py"))["main"]() == 0, capsys.readouterr().err
    encoder = dual.open(tmp_path / "out")
    assert encoder.config == LpipsConfig(VGGConfig(WIDTHS, COUNTS)) and encoder.kind == "lpips"
    x, y = images(0), images(1)
    with torch.no_grad():
        expected = model(*(torch.tensor(each).permute(0, 3, 1, 2) for each in (x, y)))
    ours = jax.jit(Lpips(encoder.config).distance)(encoder.params, x, y)
    assert relative_error(ours, expected.numpy()) < 1e-4 and ours.min() > 1e-5
    settings, params = start_of(tmp_path / "out")
    assert settings.network == encoder.config and params() is not None
    vectors = Lpips(encoder.config).embed_images(encoder.params, jnp.asarray(x))
    assert vectors.shape == (3, 10)
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1.0, atol=1e-4)


def test_the_gradient_is_a_number_where_nothing_is_seen_and_where_images_are_equal(files):
    config, params = published(files[0] / "vgg16.safetensors", files[0] / "vgg.pth")
    blind = {**params, "vgg": jax.tree.map(jnp.zeros_like, params["vgg"])}
    gradient = jax.jit(jax.grad(lambda p, x, y: Lpips(config).distance(p, x, y).sum(), argnums=1))
    assert np.isfinite(gradient(blind, images(0), images(1))).all()
    assert np.abs(gradient(params, images(0), images(0))).max() == 0
    assert np.abs(gradient(params, images(0), images(1))).max() > 0


def test_what_does_not_fit_is_named(files, tmp_path):
    folder, model = files
    state = {name: value for name, value in model.state_dict().items() if name.startswith("lin")}
    torch.save(state | {"lin1.model.1.weight": -state["lin1.model.1.weight"]}, tmp_path / "negative.pth")
    torch.save({name: value for name, value in state.items() if "lin1" not in name}, tmp_path / "few.pth")
    for file, said in (
        ("negative.pth", r"lin1\.model\.1\.weight has negative values"),
        ("few.pth", "does not tell how much the channels"),
    ):
        with pytest.raises(UserError, match=said):
            published(folder / "vgg16.safetensors", tmp_path / file)
    with pytest.raises(UserError, match="holds no VGG"):
        published(folder / "vgg.pth", folder / "vgg.pth")


def test_files_of_before_pytorch_1_6_are_read_alike(files, tmp_path):
    folder, model = files
    state = {name: value for name, value in model.state_dict().items() if name.startswith("lin")}
    for name, new in (("new.pth", True), ("old.pth", False)):
        torch.save(state, tmp_path / name, _use_new_zipfile_serialization=new)
    told = [published(folder / "vgg16.safetensors", tmp_path / name) for name in ("new.pth", "old.pth")]
    assert told[0][0] == told[1][0]
    jax.tree.map(np.testing.assert_array_equal, told[0][1], told[1][1])
