"""Grids of images as one picture: contact sheets, labelled grids, and the grid drawn as training goes on.

Small images are enlarged by whole factors without smoothing, so that their pixels can be seen; large ones are shrunk.
"""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from PIL import Image, ImageDraw

from reimagen_jax.data.batch import Batch, Embedded
from reimagen_jax.data.degrade import shrink
from reimagen_jax.diffusion.sampler import image_keys
from reimagen_jax.encoders.tokenizers import ByteTokenizer
from reimagen_jax.evaluation.drawing import (
    FAINT,
    GAP,
    MARGIN,
    PAPER,
    cell_side,
    fit,
    font,
    line_height,
    wrap,
    write_lines,
)
from reimagen_jax.systems.reimagen import ReImagen, to_bytes, to_model
from reimagen_jax.training import distributed

LABEL_WIDTH = 260


def contact_sheet(images: Sequence[np.ndarray], num_columns: int | None = None, side: int = 128) -> Image.Image:
    """Images, uint8 [R, R, 3] each, in rows of `num_columns` (default: nearly a square), without words."""
    num_columns = num_columns or int(np.ceil(np.sqrt(len(images))))
    rows = [list(images[i : i + num_columns]) for i in range(0, len(images), num_columns)]
    return labelled_grid(rows, side=side)


def labelled_grid(
    rows: Sequence[Sequence[np.ndarray | None]],
    row_labels: Sequence[str] = (),
    column_labels: Sequence[str] = (),
    side: int = 96,
) -> Image.Image:
    """Rows of images, uint8 [R, R, 3] each (None: an empty place), with words left of rows and above columns."""
    resolution = next((image.shape[0] for row in rows for image in row if image is not None), side)
    side = cell_side(resolution, side)
    left_face, top_face = font(13), font(12)
    left = [wrap(label, left_face, LABEL_WIDTH, 4) for label in row_labels]
    top = [wrap(label, top_face, side, 6) for label in column_labels]
    left_width = max((round(left_face.getlength(line)) + MARGIN for lines in left for line in lines), default=0)
    top_height = max((len(lines) * line_height(top_face) + GAP for lines in top), default=0)

    x_C = [MARGIN + left_width + c * (side + GAP) for c in range(max(map(len, rows)))]
    y_R = [MARGIN + top_height + r * (side + GAP) for r in range(len(rows))]
    sheet = Image.new("RGB", (x_C[-1] + side + MARGIN, y_R[-1] + side + MARGIN), PAPER)
    draw = ImageDraw.Draw(sheet)
    for x, lines in zip(x_C, top, strict=False):
        write_lines(draw, (x, MARGIN + top_height - GAP - len(lines) * line_height(top_face)), lines, top_face, FAINT)
    for y, lines in zip(y_R, left, strict=False):
        write_lines(draw, (MARGIN, y + (side - len(lines) * line_height(left_face)) // 2), lines, left_face)
    for y, row in zip(y_R, rows, strict=True):
        for x, image in zip(x_C, row, strict=False):
            if image is not None:
                sheet.paste(fit(image, side), (x, y))
    return sheet


def training_grid(system: ReImagen, batch: Batch, folder: str | Path) -> Callable[[int, Any], Path]:
    """Makes the hook that the training loop calls as `on_sample(step, ema_params)`: it draws, saves, returns the path.

    The picture's columns are the first `train.sample_images` examples of `batch`, always from the same noise; its rows
    the neighbours, the low-resolution image that a super-resolution stage enlarges, the target, and a sample without
    and one with the neighbours. Files are `folder/<step>.png`.
    """
    config = system.config
    shown = jax.tree.map(lambda x: np.asarray(x)[: config.train.sample_images], batch)
    shown = distributed.from_first_process(shown)  # each has its own share of the data, and all draw one picture
    tokenizer, texts = ByteTokenizer(config.text.max_bytes), shown.tokens_BL
    said = texts.caption_BC if isinstance(texts, Embedded) else texts
    captions = [tokenizer.decode(tokens_L) for tokens_L in said]
    count, k = shown.nbr_mask_BK.shape
    low_res = None
    if config.super_resolution is not None:
        low_res = to_bytes(shrink(to_model(jnp.asarray(shown.image_BHWC)), config.train_resolution // config.factor))

    @jax.jit
    def draw(params: Any, with_neighbours: jax.Array) -> jax.Array:
        # One program for both rows. Without neighbours every step is text-enhanced, which is Imagen's guidance.
        asked = jax.tree.map(jnp.asarray, shown)
        return system.sample(
            params,
            asked.tokens_BL,
            asked.nbr_image_BKHWC,
            asked.nbr_tokens_BKL,
            asked.nbr_mask_BK & with_neighbours,
            image_keys(config.train.seed, range(count)),
            config.sampler,
            jnp.where(with_neighbours, config.sampler.eta, 1.0),
            config.sampler.text_weight,
            config.sampler.neighbour_weight,
            low_res,
        )

    def hook(step: int, ema_params: Any) -> Path:
        neighbour_rows = [
            [shown.nbr_image_BKHWC[b, j] if shown.nbr_mask_BK[b, j] else None for b in range(count)] for j in range(k)
        ]
        drawn = [list(distributed.whole(draw(ema_params, np.bool_(flag)))) for flag in (False, True)[: k + 1]]
        labels = [*(f"neighbour {j + 1}" for j in range(k)), "target", "without neighbours", "with neighbours"]
        rows = [*neighbour_rows, list(shown.image_BHWC), *drawn]
        if low_res is not None:
            labels.insert(k, "low resolution")
            rows.insert(k, list(np.asarray(low_res)))
        path = Path(folder) / f"{step:08d}.png"
        if jax.process_index() == 0:
            path.parent.mkdir(parents=True, exist_ok=True)
            labelled_grid(rows, labels, captions).save(path)
        return path

    return hook
