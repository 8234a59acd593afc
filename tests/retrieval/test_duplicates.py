"""Perceptual hashes: copies made over are near, other pictures are not; the same bytes give the same hash."""

import numpy as np
import pytest
from PIL import Image, ImageEnhance, ImageOps

from reimagen_jax.data import images
from reimagen_jax.data.entityworld import World
from reimagen_jax.data.records import ImageText, write_records
from reimagen_jax.retrieval.duplicates import (
    THRESHOLD,
    Hashes,
    are_near,
    finely_near,
    hash_records,
    hash_thumbnails,
    near_pictures,
)
from reimagen_jax.retrieval.knowledge_base import KnowledgeBase
from reimagen_jax.retrieval.neighbours import build_triples
from tests.samples import SHAPES, encoded, icon, picture


@pytest.fixture(scope="module")
def pictures():
    """Renders of EntityWorld at 64 x 64, all of different scenes with the same few entities."""
    world = World(num_entities=4, num_images=40, frequent_share=1.0, rare_share=0.0)
    return [images.load(example["image"]) for example in world.examples("train", resolution=64)]


def hashed(some) -> Hashes:
    thumbnails = [np.asarray(images.square(image.convert("RGB"), 8)) for image in some]
    return hash_thumbnails(np.stack(thumbnails).reshape(len(thumbnails), -1))


def jpeg(image, quality):
    return images.load(encoded(image, "JPEG", quality=quality))


COPIES = {
    "recompressed": lambda image: jpeg(image, 75),
    "halved": lambda image: image.resize((32, 32), Image.Resampling.LANCZOS),
    "doubled": lambda image: image.resize((128, 128), Image.Resampling.BICUBIC),
    "wide, cut to the square": lambda image: ImageOps.expand(image, (9, 0), "red"),
    "brighter": lambda image: ImageEnhance.Brightness(image).enhance(1.1),
    "darker": lambda image: ImageEnhance.Brightness(image).enhance(0.9),
    "flatter": lambda image: ImageEnhance.Contrast(image).enhance(0.9),
}


@pytest.mark.parametrize("name", COPIES)
def test_copies_are_near(pictures, name):
    near = are_near(hashed(pictures), hashed([COPIES[name](image) for image in pictures]))
    assert near.mean() >= 0.9


@pytest.mark.parametrize("name", COPIES)
def test_copies_are_near_at_a_finer_scale_too(pictures, name):
    assert all(finely_near(image, COPIES[name](image)) for image in pictures)


@pytest.mark.parametrize(
    "how",
    [
        {},
        {"width": 26},
        {"side": 64, "width": 12},
        {"side": 300, "width": 50},
        {"ink": "white", "ground": "black"},
        {"ink": "#c8c8c8"},
        {"ink": "#dc1414", "ground": "#f0f0ff"},
    ],
)
def test_small_shapes_on_a_plain_ground_are_told_apart_and_their_copies_found(how):
    icons = [icon(shape, **how) for shape in SHAPES]
    alike = 0
    for i, first in enumerate(icons):
        for second in icons[:i]:
            alike += are_near(hashed([first]), hashed([second])).item()
            assert not finely_near(first, second)
    assert alike >= 5  # so the hash alone is not enough
    side = icons[0].width
    for image in icons:
        copies = [image.resize((n, n), Image.Resampling.LANCZOS) for n in (side // 2, side * 3 // 4, side + 21)]
        copies += [jpeg(image, 50), jpeg(copies[0], 80), *(COPIES[name](image) for name in ("brighter", "flatter"))]
        for copy in copies:
            assert finely_near(image, copy) and finely_near(copy, image)


def test_blank_pictures_are_near_whatever_their_noise():
    noise = np.random.default_rng(0).integers(-1, 2, (64, 64, 3))
    blank = [Image.new("RGB", (64, 64), "white"), Image.fromarray((252 + noise).astype(np.uint8))]
    assert are_near(hashed(blank[:1]), hashed(blank[1:])).all() and finely_near(*blank)


def test_other_pictures_are_not(pictures):
    """Even where they show the same entity; nor is a picture near its mirror image, its negative or its grey self."""
    hashes = hashed(pictures)
    for shift in range(1, len(pictures)):
        order = np.roll(np.arange(len(pictures)), shift)
        assert not are_near(hashes, Hashes(*(field[order] for field in hashes))).any()
    for change in (ImageOps.mirror, ImageOps.invert, ImageOps.grayscale):
        assert are_near(hashes, hashed([change(image) for image in pictures])).mean() <= 0.05


def test_shapes_alone_do_not_make_a_copy():
    """A white and a black square on grey, contrasts of different strength, a red and a blue heart."""

    def square(ground, figure):
        image = Image.new("RGB", (64, 64), ground)
        image.paste(figure, (16, 16, 48, 48))
        return image

    same = [((128,) * 3, (250,) * 3), ((128,) * 3, (160,) * 3), ((255,) * 3, (250, 20, 20)), ((0,) * 3, (0,) * 3)]
    others = [((128,) * 3, (5,) * 3), ((128,) * 3, (250,) * 3), ((255,) * 3, (20, 20, 250)), ((255,) * 3, (255,) * 3)]
    first, second = (hashed([square(*colours) for colours in pairs]) for pairs in (same, others))
    assert are_near(first, first).all()
    assert not are_near(first, second).any()


def test_the_threshold_is_the_distance_as_defined(pictures):
    """Equations (1) and (2) in floating point, on either side of the threshold; near is symmetric."""
    hashes = hashed(pictures)
    x_NP = np.stack([np.asarray(images.square(image, 8), np.float64).reshape(-1) for image in pictures])
    u_NP = (x_NP - x_NP.mean(axis=1, keepdims=True)) / x_NP.std(axis=1, keepdims=True)
    order = np.argsort([u_NP[0] @ u for u in u_NP])[::-1]  # what is most like picture 0 first
    first = Hashes(*(field[np.zeros(len(order), int)] for field in hashes))
    second = Hashes(*(field[order] for field in hashes))
    stronger = np.exp(abs(np.log(first.contrast_N / second.contrast_N)))
    alike = (abs(first.mean_N - second.mean_N) < 32) & (stronger < 4 / 3)
    distance = np.sqrt(((u_NP[0] - u_NP[order]) ** 2).mean(axis=1))
    for threshold in (THRESHOLD, 0.5, 1.0):
        certain = abs(distance - threshold) > 0.03
        near = are_near(first, second, threshold)
        assert (near == are_near(second, first, threshold)).all()
        assert (near == (alike & (distance < threshold)))[certain].all()
    assert near.sum() > 1


def test_records_are_hashed_in_order(pictures, tmp_path):
    examples = [ImageText(str(i), encoded(image), "a") for i, image in enumerate(pictures)]
    hashes = hash_records(write_records(examples, tmp_path / "r", source="test"))
    for ours, expected in zip(hashes, hashed(pictures), strict=True):
        np.testing.assert_array_equal(ours, expected)
    assert hashes.shape_NP.dtype == np.int8 and hashes.mean_N.dtype == hashes.contrast_N.dtype == np.float32


@pytest.mark.parametrize("side", [1, 2, 5, 7, 8, 9])
def test_pictures_of_few_pixels_have_near_duplicates_too(side):
    one, other = picture(1, (side, side)), picture(2, (side, side))
    enlarged = one.resize((8 * side, 8 * side), Image.Resampling.NEAREST)
    assert finely_near(one, one) and finely_near(one, enlarged, 8 * 0.5)
    assert near_pictures(np.asarray(one), np.asarray(one))
    assert not near_pictures(np.asarray(one), np.asarray(other)) or side == 1, "one pixel has no shape"


def test_triples_of_pictures_of_few_pixels(tmp_path):
    sizes = [(1, 1), (3, 7), (5, 5), (7, 7), (7, 7), (40, 7)]
    pictures = [picture(0, size) for size in sizes[:-2]] + [picture(3, (7, 7)).resize((40, 40)), picture(9, (40, 7))]
    examples = [ImageText(f"k{i}", encoded(each), "a small thing") for i, each in enumerate(pictures)]
    examples.append(ImageText("copy", encoded(pictures[3], "BMP"), "a small thing"))
    records = write_records(examples, tmp_path / "r", source="test")
    triples = build_triples(records, KnowledgeBase.build(records, tmp_path / "kb"), 3, tmp_path / "t")
    assert (triples.neighbours >= 0).all()
    copy = len(records) - 1
    assert not (triples.neighbours[[3, copy]] == np.array([[copy], [3]])).any(), "not its own copy"
