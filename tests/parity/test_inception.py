"""Our Inception of FID equals PyTorch's for equal weights, map by map; files and resizings are theirs."""

import jax
import numpy as np
import pytest
import torch
from flax import linen as nn
from PIL import Image

from reimagen_jax.encoders import inception
from reimagen_jax.encoders.inception import POINTS
from reimagen_jax.encoders.inception_published import published, resized
from reimagen_jax.evaluation.features import open_features
from reimagen_jax.evaluation.sets import compare, read_set
from tests.parity import inception as theirs
from tests.parity.huggingface import relative_error


@pytest.fixture(scope="module", params=[1, 8], ids=["published", "narrow"])
def both(request, tmp_path_factory):
    """Theirs, and ours from the file as PyTorch wrote files when it was published."""
    net = theirs.random(request.param)
    path = tmp_path_factory.mktemp("inception") / "pt_inception.pth"
    torch.save(net.state_dict(), path, _use_new_zipfile_serialization=False)
    return net, published(path)


def pixels(height, width, count=2):
    return np.random.default_rng(height).uniform(-1, 1, (count, height, width, 3)).astype(np.float32)


def of_blocks(module, _):
    """Blocks and units of the stem, by their names in the file."""
    return isinstance(module, nn.Module) and str(module.name).startswith(("Mixed", "Conv2d"))


@pytest.mark.parametrize("sides", [(107, 139), (299, 299)], ids=str)
def test_every_map_the_features_and_the_logits_are_theirs(both, sides):
    net, ours = both
    x_BHWC = pixels(*sides, count=1 if sides[0] == 299 else 2)
    with torch.no_grad():
        expected = net(torch.from_numpy(x_BHWC.transpose(0, 3, 1, 2)))
    run = jax.jit(lambda params, x: ours.net.apply({"params": params}, x, capture_intermediates=of_blocks))
    found, kept = run(ours.params, x_BHWC)
    maps = {name: value["__call__"][0] for name, value in kept["intermediates"].items() if name.startswith(("M", "C"))}
    assert len(maps) == 16 and set(maps) == {name for name in expected if isinstance(name, str)} - {"logits"}
    for name, x in maps.items():
        assert relative_error(x, expected[name].numpy().transpose(0, 2, 3, 1)) < 1e-4, name
    assert relative_error(found.vector_BD, expected[2048]) < 1e-4
    assert relative_error(found.logits_BC, expected["logits"]) < 1e-4
    spatial = of_the_suite(net, expected)
    assert relative_error(found.spatial_BS, spatial) < 1e-4
    assert sides[0] != 299 or spatial.shape == (1, 2023)


def of_the_suite(net, maps):
    """What the ADM suite calls mixed_6/conv, its first 7 channels, as TensorFlow lays them out."""
    with torch.no_grad():
        spatial = net.Mixed_6d.branch1x1(maps["Mixed_6c"])[:, :7]
    return spatial.permute(0, 2, 3, 1).flatten(1).numpy()


def test_sfid_is_that_of_the_suites_map(tmp_path):
    """Of pictures, by PyTorch's map and plain NumPy: roots of the product are singular values of x's with y's."""
    net = theirs.random(8)
    torch.save(net.state_dict(), tmp_path / "pt_inception.pth", _use_new_zipfile_serialization=False)
    features, sets, maps = open_features(tmp_path / "pt_inception.pth", "torch-fidelity"), [], []
    for name, count in (("x", 4), ("y", 5)):
        pictures = np.random.default_rng(count).integers(0, 256, (count, 40, 48, 3), dtype=np.uint8)
        np.savez(tmp_path / f"{name}.npz", arr_0=pictures)
        sets.append(read_set(tmp_path / f"{name}.npz", features))
        x_BCHW = np.stack([theirs.from_the_corner(picture) for picture in pictures]).transpose(0, 3, 1, 2)
        with torch.no_grad():
            maps.append(of_the_suite(net, net(torch.from_numpy(x_BCHW))).astype(np.float64))
    x, y = ((each - each.mean(axis=0)) / (len(each) - 1) ** 0.5 for each in maps)
    apart = ((maps[0].mean(axis=0) - maps[1].mean(axis=0)) ** 2).sum()
    expected = apart + (x**2).sum() + (y**2).sum() - 2 * np.linalg.norm(x @ y.T, "nuc")
    found = {figure.name: figure for figure in compare(*sets, features)}
    assert found["sFID"].value == pytest.approx(expected, rel=1e-4)
    assert found["sFID"].by == "Inception's Mixed_6d of 1/8 of the width, 7 channels of 17 x 17, torch-fidelity's " \
        "resizing"  # fmt: skip


def test_features_at_every_place_are_theirs(both):
    net, ours = both
    x_BHWC = pixels(91, 75)
    with torch.no_grad():
        expected = net(torch.from_numpy(x_BHWC.transpose(0, 3, 1, 2)))
    for point, width in zip(POINTS, inception.widths(ours.net.shrink), strict=True):
        run = jax.jit(lambda params, x, point=point: ours.net.apply({"params": params}, x, point))
        found = run(ours.params, x_BHWC)
        assert found.vector_BD.shape == (2, width)
        assert (found.logits_BC is None) == (found.spatial_BS is None) == (point != 2048)
        assert relative_error(found.vector_BD, expected[point]) < 1e-4


def test_the_network_has_as_many_values_as_the_published_one(both):
    net, ours = both
    count = sum(leaf.size for leaf in jax.tree.leaves(ours.params))
    assert count == sum(value.numel() for name, value in net.state_dict().items() if "tracked" not in name)
    if ours.net.shrink == 1:
        assert count == 23_885_392 and len(net.state_dict()) == 566


@pytest.mark.parametrize("sides", [(40, 53), (299, 299), (512, 300), (331, 700)], ids=str)
def test_resizings_are_theirs(sides):
    image = np.random.default_rng(1).integers(0, 256, (*sides, 3), dtype=np.uint8)
    np.testing.assert_allclose(resized(image, "pytorch-fid"), theirs.half_pixel(image), atol=2e-5)
    np.testing.assert_allclose(resized(image, "torch-fidelity"), theirs.from_the_corner(image), atol=2e-5)
    bands = [Image.fromarray(image[..., c].astype(np.float32)).resize((299, 299), Image.BICUBIC) for c in range(3)]
    clean = (np.clip(np.stack([np.asarray(band) for band in bands], axis=-1), 0, 255) - 128) / 128
    np.testing.assert_array_equal(resized(image, "clean"), clean)


def test_the_three_resizings_are_three():
    image = np.random.default_rng(1).integers(0, 256, (512, 512, 3), dtype=np.uint8)
    found = [resized(image, how) for how in ("pytorch-fid", "torch-fidelity", "clean")]
    assert all(each.shape == (299, 299, 3) and each.dtype == np.float32 for each in found)
    assert min(np.abs(found[i] - found[j]).max() for i in range(3) for j in range(i)) > 0.3
