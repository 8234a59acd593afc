"""Pictures as people have them: odd metadata, missing ends, 16 bits, transparency, colour profiles, large ones."""

import io
import struct
import subprocess
import sys
import zlib

import numpy as np
import pytest
from PIL import Image, ImageCms, ImageDraw, ImageFile

from reimagen_jax import cli
from reimagen_jax.data import images, parallel
from reimagen_jax.data.records import Records
from tests.samples import encoded, picture, write_folder

SRGB = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
ROTATED = (0x0112, 3, 1, struct.pack("<H", 6))


def chunk(kind: bytes, content: bytes, check: int = 0) -> bytes:
    return struct.pack(">L", len(content)) + kind + content + struct.pack(">L", zlib.crc32(kind + content) ^ check)


def png(width, height, depth, colour, rows: bytes, *before: bytes) -> bytes:
    """A PNG from its raw rows (each with its filter byte), with chunks before the pixels."""
    header = struct.pack(">LLBBBBB", width, height, depth, colour, 0, 0, 0)
    body = chunk(b"IHDR", header) + b"".join(before) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + body


def exif(*entries) -> bytes:
    """Tags (number, type, count, content), written as they are."""
    offset, table, data = 8 + 2 + 12 * len(entries) + 4, struct.pack("<H", len(entries)), b""
    for tag, kind, count, content in entries:
        table += struct.pack("<HHL", tag, kind, count)
        table += content.ljust(4, b"\0") if len(content) <= 4 else struct.pack("<L", offset + len(data))
        data += content if len(content) > 4 else b""
    return b"Exif\0\0II*\0" + struct.pack("<L", 8) + table + struct.pack("<L", 0) + data


def segment(marker: int, content: bytes) -> bytes:
    return struct.pack(">BBH", 0xFF, marker, len(content) + 2) + content


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP"])
@pytest.mark.parametrize(
    "odd",
    [
        (0x011A, 10, 1, struct.pack("<ll", -1, 0)),
        (0x011A, 12, 1, struct.pack("<d", float("nan"))),
        (0x010F, 2, 2**30, b"far outside"),
        (0x010E, 99, 1, b"?"),
    ],
)
def test_an_odd_tag_costs_neither_pixels_nor_rotation(kind, odd):
    image = picture(0, (16, 8))
    for tags in ([odd, ROTATED], [ROTATED, odd]):
        loaded = images.load(encoded(image, kind, exif=exif(*tags), **({"lossless": True} if kind == "WEBP" else {})))
        assert loaded.size == (8, 16)
        if kind != "JPEG":
            np.testing.assert_array_equal(np.asarray(loaded), np.rot90(np.asarray(image), -1))


@pytest.mark.parametrize(
    "tag", [b"", b"II", b"II*\0", b"II*\0\xff\xff\xff\xff", b"MM\0*\0\0\0\x08\xff\xff", b"nothing"]
)
def test_exif_that_is_none_is_no_exif(tag):
    for data in (encoded(picture(0), "PNG", exif=b"Exif\0\0" + tag), encoded(picture(0), "WEBP", exif=tag)):
        assert images.load(data).size == (8, 8)


PASSED_OVER = {
    "long text": chunk(b"zTXt", b"parameters\0\0" + zlib.compress(b"a long prompt, " * 80_000)),
    "long international text": chunk(b"iTXt", b"k\0\1\0\0\0" + zlib.compress(bytes(2**20 + 1))),
    "large profile": chunk(b"iCCP", b"icc\0\0" + zlib.compress(bytes(2**20 + 4096))),
    "profile packed otherwise": chunk(b"iCCP", b"icc\0\1"),
    "no profile": chunk(b"iCCP", b""),
    "EXIF that is no TIFF": chunk(b"eXIf", b"\0\x08\0\2\1\x12\0\3" + b"x" * 40),
    "text packed otherwise": chunk(b"zTXt", b"k\0\1x"),
    "text under a name of Pillow's": chunk(b"tEXt", b"transparency\0x"),
    "short gamma": chunk(b"gAMA", b"x"),
    "short animation": chunk(b"acTL", b"x"),
    "short frame": chunk(b"fcTL", b"x"),
    "short transparency": chunk(b"tRNS", b"x"),
    "unknown": chunk(b"abCd", b"x"),
    "wrong checksum": chunk(b"tEXt", b"k\0x", check=1),
    "wrong checksum of transparency": chunk(b"tRNS", struct.pack(">HHH", 1, 2, 3), check=1),
}


@pytest.mark.parametrize("name", PASSED_OVER)
def test_png_chunks_that_may_be_passed_over_never_cost_the_pixels(name):
    image = picture(1)
    whole = encoded(image)
    for place in (33, len(whole) - 12):  # before the pixels, and behind
        loaded = images.load(whole[:place] + PASSED_OVER[name] + whole[place:])
        np.testing.assert_array_equal(np.asarray(loaded), np.asarray(image))
        again = images.load(loaded.info.get("encoded", whole))
        assert images.digest(again) == images.digest(loaded)
        assert "mended" not in again.info


def test_what_tells_how_pixels_are_seen_survives_the_mending():
    """Orientation, colours and transparency, beside a chunk that Pillow refuses."""
    bad = PASSED_OVER["long text"]
    rows = b"\0\x0a\x14\x1e\xc8\0\0"
    data = png(2, 1, 8, 2, rows, bad, chunk(b"eXIf", exif(ROTATED)[6:]), chunk(b"tRNS", struct.pack(">HHH", 200, 0, 0)))
    loaded = images.load(data)
    assert loaded.info["mended"] == "damaged metadata"
    assert np.asarray(loaded).tolist() == [[[10, 20, 30]], [[255, 255, 255]]]
    wide = png(1, 1, 8, 2, b"\0\x3c\xa0\x46", bad, chunk(b"iCCP", b"p\0\0" + zlib.compress(DISPLAY_P3)))
    assert images.decode(wide)[0, 0] == pytest.approx([0, 164, 52], abs=2)


@pytest.mark.parametrize(
    "odd",
    [
        segment(0xE0, b"JFIF"),
        segment(0xEE, b"Adobe"),
        segment(0xE2, b"ICC_PROFILE\0"),
        segment(0xED, b"Photoshop 3.0\0008BIM\1\1"),
        segment(0xE2, b"MPF\0II*\0"),
        segment(0xE1, exif((0x011A, 10, 1, struct.pack("<ll", -1, 0)))),
    ],
)
def test_jpeg_segments_that_may_be_passed_over_never_cost_the_pixels(odd):
    whole = encoded(picture(2, (24, 16)), "JPEG")
    expected = np.asarray(images.load(whole))
    np.testing.assert_array_equal(np.asarray(images.load(whole[:2] + odd + whole[2:])), expected)
    np.testing.assert_array_equal(np.asarray(images.load(whole[:2] + odd + whole[2:-2])), expected)


def test_webp_metadata_that_is_cut_does_not_cost_the_pixels():
    image = picture(3, (24, 16))
    data = encoded(image, "WEBP", lossless=True, exif=exif(ROTATED), xmp=b"<x/>" * 9)
    for cut in (1, 3, 9, 30):
        loaded = images.load(data[:-cut])
        np.testing.assert_array_equal(np.asarray(loaded), np.rot90(np.asarray(image), -1))
        assert loaded.info["mended"] == "damaged metadata"
    bare = encoded(image, "WEBP", lossless=True)
    with pytest.raises(images.ImageError, match="broken image"):
        images.load(bare[:-8])


JPEGS = [{}, {"progressive": True}, {"restart_marker_blocks": 1}, {"subsampling": 0}, {"optimize": True}]


@pytest.mark.parametrize("options", JPEGS)
@pytest.mark.parametrize("kind", ["noise", "flat", "grey"])
def test_a_jpeg_without_its_end_mark_is_shown_and_one_cut_within_is_not(options, kind):
    image = {"noise": picture(4, (61, 45)), "flat": Image.new("RGB", (64, 64), (10, 20, 30))}.get(kind)
    data = encoded(image or picture(4, (61, 45)).convert("L"), "JPEG", **options)
    assert data.endswith(b"\xff\xd9")
    expected = np.asarray(images.load(data))
    for end in (b"", b"\xff"):
        loaded = images.load(data[:-2] + end)
        np.testing.assert_array_equal(np.asarray(loaded), expected)
        assert loaded.info["mended"] == "JPEG without its end mark"
        assert loaded.info["encoded"] == data
    for share in (0.5, 0.8, 0.95) if kind != "flat" else (0.9, 0.95):
        with pytest.raises(images.ImageError, match="broken image"):
            images.load(data[: int(len(data) * share)])


@pytest.mark.parametrize("options", JPEGS)
def test_wherever_a_jpeg_is_cut_it_is_broken_or_whole(options):
    """Between the scans of a progressive one too, and within what lies between them."""
    data = encoded(Image.linear_gradient("L").resize((40, 40)).convert("RGB"), "JPEG", **options)
    expected = np.asarray(images.load(data))
    end = data.index(b"\xff\xda") + 2
    for cut in range(end, len(data) - 2):
        try:
            shown = images.load(data[:cut])
        except images.ImageError:
            continue
        np.testing.assert_array_equal(np.asarray(shown), expected)


def test_mended_pictures_are_counted_and_stored_whole(tmp_path, capsys):
    whole = encoded(picture(5), "JPEG")
    pictures = {"a.jpg": whole[:-2], "b.jpg": whole, "c.png": encoded(picture(6)), "d.jpg": whole[:-60]}
    png_data = encoded(picture(7))
    pictures["e.png"] = png_data[:33] + PASSED_OVER["large profile"] + png_data[33:]
    folder = write_folder(tmp_path / "f", [{"file_name": name, "text": name} for name in pictures], pictures)
    assert cli.main(["prepare", "--source", str(folder), "--out", str(tmp_path / "r")]) == 0
    said = capsys.readouterr().out
    assert "4 records" in said and "1 items left out" in said
    assert "mended: 1 x JPEG without its end mark" in said and "mended: 1 x damaged metadata" in said
    records = Records.open(tmp_path / "r")
    assert records.manifest["mended"] == {"JPEG without its end mark": 1, "damaged metadata": 1}
    assert [record.image for record in records] == [whole, whole, pictures["c.png"], png_data]


def test_one_value_of_grey_or_colours_may_be_transparent_at_every_depth():
    for depth, row, value in ((1, b"\x40", 1), (2, b"\x10", 1), (4, b"\x07", 7), (8, b"\0\x70", 0x70)):
        data = png(2, 1, depth, 0, b"\0" + row, chunk(b"tRNS", struct.pack(">H", value)))
        shown = images.decode(data, None) if depth == 8 else np.asarray(images.load(data))[0]
        assert np.asarray(images.load(data))[0, 1].tolist() == [255] * 3, depth
        assert shown.shape[-1] == 3
        assert np.asarray(images.load(data))[0, 0].tolist() == [0] * 3
    grey = png(2, 1, 16, 0, b"\0" + struct.pack(">HH", 0x8000, 0x8001), chunk(b"tRNS", struct.pack(">H", 0x8001)))
    assert np.asarray(images.load(grey))[0, :, 0].tolist() == [128, 255]
    colours = struct.pack(">6H", 0x1234, 0x80FF, 0xFFFF, 0x1000, 0x2000, 0x3000)
    rgb = png(2, 1, 16, 2, b"\0" + colours, chunk(b"tRNS", colours[6:]))
    assert np.asarray(images.load(rgb))[0].tolist() == [[0x12, 0x80, 0xFF], [255, 255, 255]]


def bmp(*pixels: tuple[int, int, int, int]) -> bytes:
    """A BMP of one row with four bytes a pixel (blue, green, red, alpha), all of which its header names."""
    content = b"".join(map(bytes, pixels))
    header = struct.pack("<LllHHLLllLL", 108, len(pixels), 1, 1, 32, 3, len(content), 2835, 2835, 0, 0)
    header += struct.pack("<4L", 0xFF0000, 0xFF00, 0xFF, 0xFF000000) + b"BGRs" + bytes(48)
    return b"BM" + struct.pack("<LHHL", 14 + len(header) + len(content), 0, 0, 14 + len(header)) + header + content


def test_a_bmp_without_any_alpha_is_opaque():
    assert np.asarray(images.load(bmp((30, 20, 10, 0), (3, 2, 1, 0)))).tolist() == [[[10, 20, 30], [1, 2, 3]]]
    assert np.asarray(images.load(bmp((30, 20, 10, 0), (3, 2, 1, 255)))).tolist() == [[[255] * 3, [1, 2, 3]]]


def logo(shape: str, mode: str = "RGBA", colour: int = 255) -> Image.Image:
    """White on transparency, beside something dark that all have."""
    image = Image.new("RGBA", (64, 64), (255, 255, 255, 0))
    draw = ImageDraw.Draw(image)
    draw.rectangle([0, 0, 4, 4], fill=(9, 9, 9, 255))
    getattr(draw, shape)([20, 20, 60, 60], fill=(colour, colour, colour, 255))
    return image.convert(mode)


@pytest.mark.parametrize("mode", ["RGBA", "LA"])
def test_white_on_transparency_is_told_apart(tmp_path, capsys, mode):
    pictures = {"a.png": logo("ellipse", mode), "b.png": logo("rectangle", mode)}
    for data in map(encoded, pictures.values()):
        assert (images.decode(data)[10:] == 255).all()  # white is the ground
    pictures["c.webp"] = encoded(logo("ellipse"), "WEBP", lossless=True, exact=False)
    folder = write_folder(tmp_path / "f", [{"file_name": name, "text": "logo"} for name in pictures], pictures)
    assert cli.main(["prepare", "--source", str(folder), "--out", str(tmp_path / "r")]) == 0
    assert "2 records" in capsys.readouterr().out  # c is a, in other words
    digests = {images.digest(images.load(encoded(image.rotate(90)))) for image in list(pictures.values())[:2]}
    assert len(digests) == 2


def test_where_white_hides_nothing_the_digest_is_that_of_the_picture_on_white():
    for image in (logo("ellipse", colour=7), Image.new("RGBA", (4, 4), (255, 255, 255, 0)), picture(1).convert("RGBA")):
        flat = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image).convert("RGB")
        assert images.digest(images.load(encoded(image))) == images.digest(flat)
    turned = exif(ROTATED)
    upright, lying = logo("ellipse"), logo("ellipse").transpose(Image.Transpose.ROTATE_90)
    assert images.digest(images.load(encoded(lying, exif=turned))) == images.digest(images.load(encoded(upright)))


def s15(*numbers: float) -> bytes:
    return b"".join(struct.pack(">i", round(number * 65536)) for number in numbers)


def icc(space: bytes, tags: list[tuple[bytes, bytes]], *, to: bytes = b"XYZ ", kind: bytes = b"mntr") -> bytes:
    """An ICC profile, version 2."""
    offset, table, data = 132 + 12 * len(tags), struct.pack(">L", len(tags)), b""
    for name, content in tags:
        content += bytes(-len(content) % 4)
        table += name + struct.pack(">LL", offset + len(data), len(content))
        data += content
    head = struct.pack(">L", offset + len(data)) + b"lcms\x02\x10\0\0" + kind + space + to
    head += struct.pack(">6H", 2020, 1, 1, 0, 0, 0) + b"acsp" + bytes(28) + s15(0.9642, 1, 0.8249) + bytes(48)
    return head + table + data


def xyz(*numbers: float) -> bytes:
    return b"XYZ \0\0\0\0" + s15(*numbers)


def gamma(exponent: float) -> bytes:
    return b"curv\0\0\0\0" + struct.pack(">LH", 1, round(exponent * 256))


def rgb_profile(red, green, blue, exponent) -> bytes:
    primaries = [(name, xyz(*value)) for name, value in ((b"rXYZ", red), (b"gXYZ", green), (b"bXYZ", blue))]
    curves = [(name, gamma(exponent)) for name in (b"rTRC", b"gTRC", b"bTRC")]
    return icc(b"RGB ", [(b"wtpt", xyz(0.9642, 1, 0.8249)), *primaries, *curves])


DISPLAY_P3 = rgb_profile((0.5151, 0.2412, -0.0011), (0.2920, 0.6922, 0.0419), (0.1571, 0.0666, 0.7841), 2.2)
ADOBE = rgb_profile((0.6097, 0.3111, 0.0195), (0.2053, 0.6257, 0.0609), (0.1492, 0.0632, 0.7446), 2.2)
GREY = icc(b"GRAY", [(b"wtpt", xyz(0.9642, 1, 0.8249)), (b"kTRC", gamma(1.0))])
"""Linear."""


def press() -> bytes:
    """A profile of CMYK by a table of its corners: paper white, each ink takes half of the light's Lab lightness."""
    corners = [
        [max(0, 255 - 64 * (c + m + y) - 128 * k), 128 + 30 * (m - c), 128 + 40 * (y - m)]
        for c in (0, 1)
        for m in (0, 1)
        for y in (0, 1)
        for k in (0, 1)
    ]
    identity, ramp = s15(1, 0, 0, 0, 1, 0, 0, 0, 1), bytes(range(256))
    table = b"mft1\0\0\0\0" + bytes([4, 3, 2, 0]) + identity + ramp * 4 + bytes(np.ravel(corners).tolist()) + ramp * 3
    return icc(b"CMYK", [(b"wtpt", xyz(0.9642, 1, 0.8249)), (b"A2B0", table)], to=b"Lab ", kind=b"prtr")


def managed(image: Image.Image, profile: bytes) -> list[int]:
    """The first pixel as littleCMS has it in sRGB."""
    source, srgb = ImageCms.ImageCmsProfile(io.BytesIO(profile)), ImageCms.createProfile("sRGB")
    return list(ImageCms.profileToProfile(image, source, srgb, outputMode="RGB").getpixel((0, 0)))


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP"])
@pytest.mark.parametrize("profile", [DISPLAY_P3, ADOBE])
def test_colours_of_a_wide_profile_become_srgb(kind, profile):
    image = Image.new("RGB", (16, 16), (60, 160, 70))
    data = encoded(image, kind, icc_profile=profile, **({"lossless": True} if kind == "WEBP" else {}))
    expected = managed(Image.open(io.BytesIO(data)).convert("RGB"), profile)
    assert abs(np.array(expected) - [60, 160, 70]).max() > 10
    assert images.decode(data)[0, 0].tolist() == expected
    if profile is DISPLAY_P3 and kind == "PNG":
        assert expected == pytest.approx([0, 164, 52], abs=2)


def test_profiles_of_grey_palettes_transparency_and_print():
    grey = Image.new("L", (8, 8), 60)
    expected = managed(grey, GREY)
    assert expected[0] > 100
    assert images.decode(encoded(grey, icc_profile=GREY))[0, 0].tolist() == expected
    deep = Image.fromarray(np.full((8, 8), 60 * 257, np.uint16))
    assert images.decode(encoded(deep, icc_profile=GREY))[0, 0].tolist() == expected
    clear = Image.merge("LA", (grey, Image.linear_gradient("L").resize((8, 8))))
    shown = images.decode(encoded(clear, icc_profile=GREY))
    assert shown[0, 0, 0] > 245 and abs(int(shown[-1, 0, 0]) - expected[0]) < 12

    colour = Image.new("RGB", (8, 8), (60, 160, 70))
    expected = managed(colour, DISPLAY_P3)
    assert images.decode(encoded(colour.quantize(4), icc_profile=DISPLAY_P3))[0, 0].tolist() == expected
    half = colour.convert("RGBA")
    half.paste((0, 0, 0, 0), (0, 0, 8, 4))
    shown = images.decode(encoded(half, icc_profile=DISPLAY_P3))
    assert shown[0, 0].tolist() == [255] * 3 and shown[-1, 0].tolist() == expected

    inks = Image.new("CMYK", (16, 16), (200, 30, 60, 10))
    data = encoded(inks, "JPEG", icc_profile=press(), quality=95)
    printed = managed(Image.open(io.BytesIO(data)), press())
    assert images.decode(data)[0, 0].tolist() == printed
    assert printed != images.decode(encoded(inks, "JPEG", quality=95))[0, 0].tolist()


@pytest.mark.parametrize("mode", ["RGB", "L", "CMYK", "RGBA", "P"])
@pytest.mark.parametrize(
    "profile", [SRGB, b"", b"no profile", DISPLAY_P3[:200], b"\xff" * 4096, GREY[:-8], press()[:300]]
)
def test_a_profile_of_srgb_or_a_broken_one_changes_nothing(mode, profile):
    image = picture(8, (8, 8)).convert(mode)
    kind = "JPEG" if mode == "CMYK" else "PNG"
    expected = images.load(encoded(image, kind))
    loaded = images.load(encoded(image, kind, icc_profile=profile))
    np.testing.assert_array_equal(np.asarray(loaded), np.asarray(expected))


def test_a_profile_of_another_kind_of_picture_changes_nothing():
    for image, profile in ((picture(8), GREY), (picture(8), press()), (picture(8).convert("L"), DISPLAY_P3)):
        expected = images.decode(encoded(image))
        np.testing.assert_array_equal(images.decode(encoded(image, icc_profile=profile)), expected)


def test_colours_are_converted_once(tmp_path):
    """Records that were made smaller hold sRGB and say nothing else; others are converted as they are read."""
    image = Image.new("RGB", (32, 32), (60, 160, 70))
    folder = write_folder(
        tmp_path / "f", [{"file_name": "a.png", "text": "x"}], {"a.png": encoded(image, icc_profile=DISPLAY_P3)}
    )
    for name, options in (("small", ["--resolution", "16"]), ("whole", [])):
        assert cli.main(["prepare", "--source", str(folder), "--out", str(tmp_path / name), *options]) == 0
        record = Records.open(tmp_path / name)[0]
        assert images.decode(record.image, 16)[0, 0].tolist() == managed(image, DISPLAY_P3)


@pytest.mark.parametrize(
    "error", [RuntimeError("odd"), AssertionError(), RecursionError(), KeyError("x"), OverflowError()]
)
def test_whatever_a_decoder_raises_costs_that_picture_alone(tmp_path, monkeypatch, capsys, error):
    load = ImageFile.ImageFile.load

    def failing(self):
        if self.size == (9, 9):
            raise error
        return load(self)

    pictures = {"a.bmp": encoded(picture(0, (9, 9)), "BMP"), "b.png": picture(1)}
    folder = write_folder(tmp_path / "f", [{"file_name": name, "text": "x"} for name in pictures], pictures)
    monkeypatch.setattr("PIL.ImageFile.ImageFile.load", failing)
    assert cli.main(["prepare", "--source", str(folder), "--out", str(tmp_path / "r")]) == 0
    assert "left out: a.bmp: broken image" in capsys.readouterr().err


def test_too_little_memory_is_said(monkeypatch):
    def failing(self):
        raise MemoryError

    monkeypatch.setattr("PIL.ImageFile.ImageFile.load", failing)
    with pytest.raises(images.ImageError, match="oversized image: there is not memory enough"):
        images.load(encoded(picture(0)))


def test_animations_show_their_first_frame():
    frames = [picture(seed).convert("RGB") for seed in range(3)]
    for kind, options in (("PNG", {}), ("WEBP", {"lossless": True}), ("GIF", {})):
        shown = images.load(encoded(frames[0], kind, save_all=True, append_images=frames[1:], **options))
        still = images.load(encoded(frames[0], kind, **options))
        np.testing.assert_array_equal(np.asarray(shown), np.asarray(still))


def test_a_pointer_to_an_image_elsewhere_is_named():
    with pytest.raises(images.ImageError, match=r"git-LFS pointer.*git lfs pull"):
        images.load(b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 12345\n")


def test_threads_share_the_memory_for_decoding():
    budget, held, most = parallel.Budget(100), [], []

    def work(size):
        with budget.hold(size):
            held.append(min(size, 100))
            most.append(sum(held))
            held.remove(min(size, 100))

    assert len(list(parallel.ordered_map(work, [30, 60, 1000, 10, 100, 40] * 20))) == 120
    assert max(most) <= 100


def test_results_that_wait_for_their_turn_are_bounded(monkeypatch):
    monkeypatch.setattr(parallel, "AHEAD_BYTES", 100)
    begun = []

    def work(n):
        begun.append(n)
        return n

    for number, _ in enumerate(parallel.ordered_map(work, range(50), weigh=lambda n: 60)):
        assert len(begun) - number <= 3 + parallel.available_cores()
    assert sorted(begun) == list(range(50))
    abandoned = parallel.ordered_map(work, range(50), weigh=lambda n: 60)
    assert next(abandoned) == 0
    abandoned.close()


LARGE = """
import io, resource, sys
import numpy as np
from PIL import Image
from reimagen_jax.data import images, parallel
file = io.BytesIO()
Image.new("L", (5000, 5000), 9).save(file, "PNG", compress_level=1)
data = [file.getvalue()] * 8
images.decode(data[0], 8)
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
parallel.available_cores = lambda: 8
images._memory = parallel.Budget(2**27)
assert len(list(parallel.ordered_map(lambda each: images.decode(each, 8), data))) == 8
print(before, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
"""


def test_memory_is_bounded_over_all_threads():
    """Eight threads, and memory for one such picture: so no more is taken than by one."""
    run = subprocess.run([sys.executable, "-c", LARGE], capture_output=True, text=True, check=True)
    alone, together = map(int, run.stdout.split())
    assert together - alone < 90_000  # KiB; another picture would be 122,000, seven 850,000
