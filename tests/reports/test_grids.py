"""Grids: images come through unharmed, and words fit."""

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from reimagen_jax.reports.drawing import GAP, MARGIN, cell_side, fit, font, wrap
from reimagen_jax.reports.grids import contact_sheet, labelled_grid


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
