"""The picture drawn in training shows what it says."""

from dataclasses import replace
from pathlib import Path

import jax
import numpy as np
import pytest
from PIL import Image

from reimagen_jax.config import Experiment
from reimagen_jax.encoders.tokenizers import ByteTokenizer
from reimagen_jax.reports.drawing import GAP, MARGIN, STRUCK, font, line_height
from reimagen_jax.reports.previews import preview_hook
from reimagen_jax.systems.reimagen.condition import Batch
from reimagen_jax.systems.reimagen.feed import ReImagenFeed
from reimagen_jax.systems.reimagen.system import ReImagen
from tests.tiny import TINY, TINY_CROPS, random_params


@pytest.fixture(scope="module")
def params():
    params = jax.jit(ReImagen(TINY).init)(jax.random.key(0))
    return jax.tree.map(lambda leaf: leaf + 0.05, params)  # away from the zeros that a network starts with


def batch(seed: int, neighbour_seed: int, mask) -> Batch:
    mask_BK = np.asarray(mask)
    (B, K), R = mask_BK.shape, TINY.system.resolution
    draw, draw_nbr = np.random.default_rng(seed), np.random.default_rng(neighbour_seed)
    tokens = ByteTokenizer(TINY.system.text.max_bytes).encode([f"thing {i}" for i in range(B)])
    nbr_tokens = ByteTokenizer(TINY.system.text.max_bytes).encode([f"near {i}" for i in range(B * K)]).reshape(B, K, -1)
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


def hook(config: Experiment, shown: Batch, folder: Path):
    config = replace(config, train=replace(config.train, sample_every=1))
    return preview_hook(ReImagen(config), ReImagenFeed(config), [shown], folder)


def test_the_training_grid_shows_neighbours_target_and_both_samples(params, tmp_path):
    mask = [[True, True], [True, False]]
    one = hook(TINY, batch(0, 1, mask), tmp_path / "one")
    other = hook(TINY, batch(0, 2, mask), tmp_path / "other")
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
    path = hook(TINY_CROPS, shown, tmp_path)(1, random_params(TINY_CROPS))
    cells = rows_of(path, 0, (3, 2))
    low = shown.image_BHWC.reshape(2, 8, 2, 8, 2, 3).mean(axis=(2, 4))
    assert np.abs(np.array(cells[0], float)[:, ::2, ::2] - low).max() <= 1.0
    np.testing.assert_array_equal(cells[1], shown.image_BHWC)
    assert np.asarray(Image.open(path)).shape[0] < 2 * MARGIN + 40 + 3 * (96 + GAP), "one row of samples, no neighbours"


def test_a_preview_that_is_not_finite_is_told_of_left_empty_and_ends_nothing(params, tmp_path, capsys):
    shown = batch(0, 1, [[True, True], [True, False]])
    broken = jax.tree.map(lambda leaf: leaf * np.nan, params)
    cells = rows_of(hook(TINY, shown, tmp_path)(30, broken), 0, (5, 2))
    np.testing.assert_array_equal(cells[2], shown.image_BHWC)
    assert (np.asarray(cells[3:]) == 255).all(), "an empty place, no black picture"
    said = capsys.readouterr().out
    assert "step 30, preview without neighbours: 2 of 2 images are not finite" in said and "with neighbours" in said


def test_a_feed_that_holds_examples_out_has_a_row_for_each_of_them(params, tmp_path):
    """With its caption, what was not found said, and the same rows whatever is trained on."""
    shown = batch(0, 1, [[True, True], [True, False], [False, False]])

    class Keeping(ReImagenFeed):
        def held_out(self, number, process_index=None, process_count=None):
            return [shown]

    config = replace(TINY, train=replace(TINY.train, sample_every=1, sample_images=3))
    path = preview_hook(ReImagen(config), Keeping(config), [], tmp_path)(7, params)
    cells = rows_of(path, 0, (3, 5))
    np.testing.assert_array_equal([row[2] for row in cells], shown.image_BHWC)
    np.testing.assert_array_equal(cells[1][0], shown.nbr_image_BKHWC[1, 0])
    marked = np.asarray(Image.open(path))
    missing = marked[MARGIN + 40 :, :][..., 0]
    assert (np.array(cells[2][3]) == np.array(cells[2][4])).all(), "without any neighbours, both are drawn alike"
    assert (np.array(cells[0][3]) != np.array(cells[0][4])).any()
    assert missing.min() < 200


def test_what_was_left_out_is_crossed_out_in_the_rows_of_held_out_examples(params, tmp_path):
    mask = np.array([[True, True], [True, False], [False, False]])
    shown = batch(0, 1, mask).replace(left_out_BK=np.array([[False, False], [False, True], [False, False]]))

    class Keeping(ReImagenFeed):
        def held_out(self, number, process_index=None, process_count=None):
            return [shown]

    config = replace(TINY, train=replace(TINY.train, sample_every=1, sample_images=3))
    path = preview_hook(ReImagen(config), Keeping(config), [], tmp_path)(7, params)
    picture = np.asarray(Image.open(path)).astype(int)
    red = (picture == STRUCK).all(axis=2).nonzero()
    bottom = picture.shape[0] - MARGIN - line_height(font(11)) - GAP
    top, right = bottom - 2 * 96 - GAP, picture.shape[1] - MARGIN - 3 * (96 + GAP)
    assert top <= red[0].min() < top + 3 and top + 93 <= red[0].max() < top + 96, "its own row"
    assert right - 96 <= red[1].min() < right - 93 and right - 3 <= red[1].max() < right, "its own column"
    faces = picture[top : top + 96, right - 96 : right]
    pale = (np.kron(shown.nbr_image_BKHWC[1, 1], np.ones((6, 6, 1), int)) + 255) // 2
    assert (np.abs(faces - pale).max(axis=2) <= 1).mean() > 0.85, "the picture itself, paler"
    assert (picture[bottom + GAP :] < 200).any(), "what the cross means is said"
