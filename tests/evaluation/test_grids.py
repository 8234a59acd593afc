"""Grids: images come through unharmed, words fit, and the training grid shows what it says."""

import jax
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from reimagen_jax.data.batch import Batch
from reimagen_jax.encoders.tokenizers import ByteTokenizer
from reimagen_jax.evaluation.grids import (
    GAP,
    MARGIN,
    cell_side,
    contact_sheet,
    fit,
    font,
    labelled_grid,
    training_grid,
    wrap,
)
from reimagen_jax.systems.reimagen import ReImagen
from tests.tiny import TINY, TINY_CROPS, random_params


def noise(seed: int, side: int) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (side, side, 3), dtype=np.uint8)


def test_small_images_are_enlarged_by_whole_pixels():
    image = noise(0, 32)
    np.testing.assert_array_equal(np.asarray(fit(image, 100)), image.repeat(3, axis=0).repeat(3, axis=1))
    assert fit(noise(1, 256), 96).size == (96, 96)
    assert [cell_side(side, 96) for side in (16, 32, 64, 96, 256)] == [96, 96, 128, 96, 96]


@settings(deadline=None)
@given(st.text(st.characters(codec="utf-8", exclude_categories=["C"]), max_size=80), st.integers(40, 400))
def test_wrapped_lines_fit_and_lose_nothing(text, width):
    face = font(12)
    lines = wrap(text, face, width, 1000)
    assert "".join("".join(lines).split()) == "".join(text.split())
    assert all(face.getlength(line) <= width for line in lines)
    assert len(wrap(text, face, width, 2)) <= 2


def test_a_text_that_is_cut_ends_with_an_ellipsis():
    lines = wrap("one two three four five six seven", font(12), 60, 2)
    assert len(lines) == 2 and lines[-1].endswith("…") and font(12).getlength(lines[-1]) <= 60


def test_every_image_stands_in_its_place():
    images = [noise(i, 16) for i in range(5)]
    sheet = np.asarray(contact_sheet(images, num_columns=3, side=32))
    for i, image in enumerate(images):
        y, x = (MARGIN + place * (32 + GAP) for place in divmod(i, 3))
        np.testing.assert_array_equal(sheet[y : y + 32, x : x + 32], image.repeat(2, axis=0).repeat(2, axis=1))


def test_labels_take_room_of_their_own():
    rows = [[noise(0, 16), None], [None, noise(1, 16)]]
    plain, labelled = labelled_grid(rows), labelled_grid(rows, ["first row", "second"], ["a", "b"])
    np.testing.assert_array_equal(
        np.asarray(labelled)[-plain.height + MARGIN :, -plain.width + MARGIN :], np.asarray(plain)[MARGIN:, MARGIN:]
    )
    assert labelled.width > plain.width and labelled.height > plain.height


@pytest.fixture(scope="module")
def params():
    params = jax.jit(ReImagen(TINY).init)(jax.random.key(0))
    return jax.tree.map(lambda leaf: leaf + 0.05, params)  # away from the zeros that a network starts with


def batch(seed: int, neighbour_seed: int, mask) -> Batch:
    mask_BK = np.asarray(mask)
    (B, K), R = mask_BK.shape, TINY.resolution
    draw, draw_nbr = np.random.default_rng(seed), np.random.default_rng(neighbour_seed)
    tokens = ByteTokenizer(TINY.text.max_bytes).encode([f"thing {i}" for i in range(B)])
    nbr_tokens = ByteTokenizer(TINY.text.max_bytes).encode([f"near {i}" for i in range(B * K)]).reshape(B, K, -1)
    return Batch(
        draw.integers(0, 256, (B, R, R, 3), dtype=np.uint8),
        tokens,
        draw_nbr.integers(0, 256, (B, K, R, R, 3), dtype=np.uint8),
        nbr_tokens,
        mask_BK,
    )


def rows_of(path, labels_width, shape):
    """The cells of a grid with `shape` rows and columns of 96 pixels, from its lower right corner."""
    picture, (rows, columns) = np.asarray(Image.open(path)), shape
    bottom, right = picture.shape[0] - MARGIN, picture.shape[1] - MARGIN
    y = [bottom - (rows - r) * 96 - (rows - 1 - r) * GAP for r in range(rows)]
    x = [right - (columns - c) * 96 - (columns - 1 - c) * GAP for c in range(columns)]
    return [[picture[top : top + 96 : 6, left : left + 96 : 6] for left in x] for top in y]


def test_the_training_grid_shows_neighbours_target_and_both_samples(params, tmp_path):
    system, mask = ReImagen(TINY), [[True, True], [True, False]]
    one = training_grid(system, batch(0, 1, mask), tmp_path / "one")
    other = training_grid(system, batch(0, 2, mask), tmp_path / "other")
    path = one(30, params)
    assert path == tmp_path / "one" / "00000030.png" and path.is_file()
    assert one(31, params).read_bytes() == path.read_bytes(), "the same parameters draw the same picture"

    first, second = rows_of(path, 0, (5, 2)), rows_of(other(30, params), 0, (5, 2))
    np.testing.assert_array_equal(first[0][1], batch(0, 1, mask).nbr_image_BKHWC[1, 0])
    assert (first[1][1] == 255).all(), "a neighbour that is not there leaves its place empty"
    np.testing.assert_array_equal(first[2], batch(0, 1, mask).image_BHWC)
    np.testing.assert_array_equal(first[3], second[3], "without neighbours they do not matter")
    assert np.any(np.array(first[4]) != np.array(second[4])), "with neighbours they do"


def test_the_training_grid_of_a_stage_on_crops_shows_what_it_enlarges(tmp_path):
    shown = batch(0, 1, [[True, True], [True, True]])
    shown = shown.replace(**{n: getattr(shown, n)[:, :0] for n in ("nbr_image_BKHWC", "nbr_tokens_BKL", "nbr_mask_BK")})
    path = training_grid(ReImagen(TINY_CROPS), shown, tmp_path)(1, random_params(TINY_CROPS))
    cells = rows_of(path, 0, (3, 2))
    low = shown.image_BHWC.reshape(2, 8, 2, 8, 2, 3).mean(axis=(2, 4))
    assert np.abs(np.array(cells[0], float)[:, ::2, ::2] - low).max() <= 1.0
    np.testing.assert_array_equal(cells[1], shown.image_BHWC)
    assert np.asarray(Image.open(path)).shape[0] < 2 * MARGIN + 40 + 3 * (96 + GAP), "one row of samples, no neighbours"
