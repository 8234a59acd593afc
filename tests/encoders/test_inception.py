"""FID's Inception: files of its weights, what is refused, the resizings, what features depend on."""

import jax
import numpy as np
import pytest

from reimagen_jax.encoders.inception import POINTS, Inception, widths
from reimagen_jax.encoders.inception_published import RESIZINGS, published, resized
from reimagen_jax.errors import UserError
from tests.inception import SHRINK, random_tensors, write_inception


@pytest.fixture(scope="module")
def file(tmp_path_factory):
    return write_inception(tmp_path_factory.mktemp("inception") / "narrow.pth")


def test_the_published_network_has_the_published_number_of_values():
    picture = jax.ShapeDtypeStruct((1, 299, 299, 3), np.float32)
    shapes = jax.eval_shape(Inception().init, jax.random.key(0), picture)["params"]
    assert sum(leaf.size for leaf in jax.tree.leaves(shapes)) == 23_885_392
    assert sum(name == "conv" for path, _ in jax.tree_util.tree_leaves_with_path(shapes) for name in _names(path)) == 94
    for point in POINTS:
        told = jax.eval_shape(lambda x, p=point: Inception().init_with_output(jax.random.key(0), x, p), picture)
        assert told[0].vector_BD.shape == (1, point)


def _names(path):
    return [part.key for part in path]


def test_a_file_is_read_and_its_weights_decide_the_fingerprint(file, tmp_path):
    found, again = published(file), published(file)
    assert found.net.shrink == SHRINK and found.fingerprint == again.fingerprint
    tensors = random_tensors()
    np.testing.assert_array_equal(
        found.params["Mixed_6b"]["branch7x7_2"]["conv"]["kernel"],
        tensors["Mixed_6b.branch7x7_2.conv.weight"].transpose(2, 3, 1, 0),
    )
    np.testing.assert_array_equal(found.params["fc"]["kernel"], tensors["fc.weight"].T)
    tensors["Mixed_7c.branch1x1.bn.running_var"] = tensors["Mixed_7c.branch1x1.bn.running_var"] + 1
    assert published(write_inception(tmp_path / "other.pth", tensors)).fingerprint != found.fingerprint
    tracked = {name.replace("running_var", "num_batches_tracked"): np.array(3, np.int64) for name in tensors}
    tracked = {name: value for name, value in tracked.items() if name not in tensors}
    with_counters = published(write_inception(tmp_path / "counters.pth", {**random_tensors(), **tracked}))
    assert with_counters.fingerprint == found.fingerprint, "counters are no part of it"


@pytest.mark.parametrize(
    ("name", "value", "said"),
    [
        ("Mixed_6b.branch7x7_2.conv.weight", None, "Mixed_6b.branch7x7_2.conv.weight is missing"),
        ("fc.weight", np.zeros((1000, 256), np.float32), r"fc.weight has shape \(1000, 256\), not \(1008, 256\)"),
        ("Mixed_5b.branch1x1.conv.bias", np.zeros(8, np.float32), "Mixed_5b.branch1x1.conv.bias is unknown"),
        ("fc.bias", np.full(1008, np.nan, np.float32), "not finite"),
        ("Conv2d_1a_3x3.conv.weight", None, "holds no Inception of FID's"),
        ("Conv2d_1a_3x3.conv.weight", np.zeros((31, 3, 3, 3), np.float32), "holds no Inception of FID's"),
    ],
)
def test_other_files_are_refused(tmp_path, name, value, said):
    tensors = {key: array for key, array in {**random_tensors(), name: value}.items() if array is not None}
    with pytest.raises(UserError, match=said):
        published(write_inception(tmp_path / "w.pth", tensors))


def test_features_of_all_places_are_means_over_maps_and_logits_come_without_bias(file):
    net, params, _ = published(file)
    x_BHWC = np.random.default_rng(0).uniform(-1, 1, (2, 75, 91, 3)).astype(np.float32)
    for point, width in zip(POINTS, widths(SHRINK), strict=True):
        found = jax.jit(lambda params, x, point=point: net.apply({"params": params}, x, point))(params, x_BHWC)
        assert found.vector_BD.shape == (2, width)
    biased = {**params, "fc": {**params["fc"], "bias": params["fc"]["bias"] + 5}}
    again = jax.jit(lambda params, x: net.apply({"params": params}, x))(biased, x_BHWC)
    np.testing.assert_array_equal(found.logits_BC, again.logits_BC)
    np.testing.assert_allclose(found.logits_BC, found.vector_BD @ params["fc"]["kernel"], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("how", RESIZINGS)
def test_a_picture_of_one_colour_stays_it_and_sides_do_not_matter(how):
    image = np.full((40, 90, 3), (0, 128, 255), np.uint8)
    found = resized(image, how)
    assert found.shape == (299, 299, 3) and found.dtype == np.float32
    top = 1.0 if how == "pytorch-fid" else 127 / 128
    np.testing.assert_allclose(found, np.broadcast_to([-1, 0.00392157 if top == 1 else 0, top], found.shape), atol=2e-6)


def test_where_pixels_go_tells_the_resizings_apart():
    """A ramp doubled: by half-pixel centres it stays in the middle, from the corner it lags a quarter of a pixel."""
    ramp = np.broadcast_to(np.arange(20, 220, 20, dtype=np.uint8)[None, :, None], (10, 10, 3))
    half = (resized(ramp, "pytorch-fid", 20)[5, :, 0] + 1) * 127.5
    corner = resized(ramp, "torch-fidelity", 20)[5, :, 0] * 128 + 128
    np.testing.assert_allclose(half[1:-1], 20 + 20 * ((np.arange(1, 19) + 0.5) / 2 - 0.5), atol=1e-3)
    np.testing.assert_allclose(corner[:-1], 20 + 20 * np.arange(19) / 2, atol=1e-3)
    assert corner[-1] == corner[-2] == 200, "beyond the last pixel there is the last pixel"
    noise = np.random.default_rng(0).integers(0, 256, (640, 640, 3), dtype=np.uint8)
    spread = {how: resized(noise, how, 64).std() for how in RESIZINGS}
    assert spread["clean"] < 0.2 * spread["pytorch-fid"], "the clean one alone averages what it leaves out"
