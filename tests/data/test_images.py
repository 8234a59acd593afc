"""Decoding: the same pixels whatever the encoding, and a short reason for what cannot be decoded."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from reimagen_jax.data import images
from reimagen_jax.errors import UserError
from tests.samples import encoded, picture


@pytest.mark.parametrize("kind", ["PNG", "BMP", "WEBP"])
def test_lossless_encodings_give_the_pixels_back(kind):
    image = picture(0, (9, 9))
    data = encoded(image, kind, **({"lossless": True} if kind == "WEBP" else {}))
    np.testing.assert_array_equal(images.decode(data), np.asarray(image))


def test_jpeg_is_close():
    smooth = Image.linear_gradient("L").resize((32, 32)).convert("RGB")
    assert np.abs(images.decode(encoded(smooth, "JPEG", quality=95)).astype(int) - np.asarray(smooth)).max() <= 4


def test_half_the_side_is_the_mean_of_four_pixels():
    image = picture(1, (8, 8))
    mean = np.asarray(image).astype(float).reshape(4, 2, 4, 2, 3).mean((1, 3))
    assert np.abs(images.decode(encoded(image), 4) - mean).max() <= 1.0  # Pillow rounds after rows, then after columns


@settings(max_examples=30, deadline=None)
@given(
    width=st.integers(1, 40),
    height=st.integers(1, 40),
    resolution=st.none() | st.integers(1, 40),
    mode=st.sampled_from(["RGB", "L", "LA", "RGBA"]),
)
def test_result_is_always_a_square_of_bytes(width, height, resolution, mode):
    decoded = images.decode(encoded(picture(2, (width, height), mode)), resolution)
    side = resolution or min(width, height)
    assert decoded.shape == (side, side, 3)
    assert decoded.dtype == np.uint8


def test_centre_is_kept():
    image = Image.new("RGB", (12, 4), "black")
    image.paste("red", (4, 0, 8, 4))
    assert (images.decode(encoded(image)) == [255, 0, 0]).all()


def test_transparency_is_white():
    clear = Image.new("RGBA", (4, 4), (200, 0, 0, 0))
    assert (images.decode(encoded(clear)) == 255).all()
    palette = Image.new("P", (4, 4), 0)
    palette.putpalette([10, 20, 30])
    assert (images.decode(encoded(palette, transparency=0)) == 255).all()
    assert (images.decode(encoded(palette)) == [10, 20, 30]).all()


def test_sixteen_bit_grey_keeps_its_range():
    ramp = np.linspace(0, 65535, 16).astype(np.uint16).reshape(4, 4)
    decoded = images.decode(encoded(Image.fromarray(ramp)))
    assert np.abs(decoded[..., 0] - ramp / 257).max() <= 0.5


def test_exif_rotation_is_applied():
    image = picture(3, (6, 6))
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned by 90 degrees clockwise
    np.testing.assert_array_equal(images.decode(encoded(image, exif=exif)), np.rot90(np.asarray(image), -1))


def test_digest_depends_on_pixels_alone():
    image = picture(4)
    same = [
        encoded(image),
        encoded(image, "BMP"),
        encoded(image, compress_level=0),
        encoded(image, "WEBP", lossless=True),
    ]
    assert len({images.digest(images.load(data)) for data in same}) == 1
    others = [picture(5), image.rotate(90), image.crop((0, 0, 8, 7))]
    assert len({images.digest(images.load(encoded(other))) for other in [image, *others]}) == 4
    flat = [Image.new("RGB", size, "blue") for size in ((2, 8), (8, 2), (4, 4))]
    assert len({images.digest(each) for each in flat}) == 3


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "not an image"),
        (b"<html>no picture here</html>", "not an image"),
        (encoded(picture(0, (64, 64)))[:-40], "broken image"),
        (encoded(picture(0, (64, 64)), "JPEG")[:400], "broken image"),
        (encoded(picture(0, (64, 64)), "WEBP")[:600], "broken image"),
        (encoded(Image.new("1", (20000, 20000))), "oversized image"),
        (encoded(Image.new("1", (8193, 8192))), "oversized image"),
    ],
)
def test_reasons(data, reason):
    with pytest.raises(images.ImageError) as caught:
        images.load(data)
    assert caught.value.reason == reason
    assert isinstance(caught.value, UserError)


@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
@settings(max_examples=150, deadline=None)
@given(data=st.data(), kind=st.sampled_from(["PNG", "JPEG", "WEBP", "GIF", "BMP"]))
def test_damage_never_escapes_as_another_exception(data, kind):
    content = bytearray(encoded(picture(6, (16, 16)), kind))
    for _ in range(data.draw(st.integers(1, 8))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    cut = data.draw(st.integers(0, len(content)))
    try:
        assert images.load(bytes(content[:cut])).mode == "RGB"
    except images.ImageError as error:
        assert error.reason in ("not an image", "broken image", "oversized image")
