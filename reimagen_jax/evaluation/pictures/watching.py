"""What a training's averaged parameters draw for held-out examples, in numbers, as it goes on.

Each example's picture is compared with the true pictures of all of them, its own among them: no field is needed, so it
serves any system whose feed holds examples out and shows what is to be drawn (`Preview`, row `target`).
"""

from collections.abc import Mapping

import jax
import numpy as np

from reimagen_jax.data import images
from reimagen_jax.evaluation.pictures import measures
from reimagen_jax.evaluation.pictures.features import Spaces
from reimagen_jax.inference.examples import Draw, draw_all, held_out
from reimagen_jax.systems.base import Feed, Params
from reimagen_jax.training.loop import Watch

NAME, TARGET, NEIGHBOUR = "evaluation", "target", "neighbour"
SPACE = "unet"


def evaluation(feed: Feed, draw: Draw) -> Watch | None:
    """The watch of a training; None where nothing is held out, or none is wanted."""
    train = feed.config.train
    examples = held_out(feed, train.evaluate_images) if train.evaluate_every else None
    preview = None if examples is None else feed.preview(examples)
    if preview is None or TARGET not in preview.shown:
        return None
    true = np.stack([np.asarray(image) for image in preview.shown[TARGET]])
    near = [row for name, row in preview.shown.items() if name.startswith(NEIGHBOUR)]
    rows = [[row[i] for row in near if row[i] is not None] for i in range(len(true))]
    shown = [np.stack(found) if found else true[:0] for found in rows]
    spaces, at_once = Spaces(true), train.sample_images
    others = [np.flatnonzero(np.arange(len(true)) != i) for i in range(len(true))]
    threshold = measures.copy_threshold(true, shown)

    def measured(drawn: np.ndarray, seen: list[np.ndarray]) -> dict[str, float]:
        """Of one row."""
        flat, pool = measures.flat(true), spaces.own(SPACE)
        vectors = spaces(SPACE, drawn)
        by_pixels = measures.ranks(measures.flat(drawn), flat, flat, others)
        rank = measures.ranks(vectors, pool, pool, others)
        return {
            "nearest": (by_pixels == 1).mean(),
            "first_five": (by_pixels <= 5).mean(),
            "likeness": 1.0 - ((rank - 1) / max(len(true) - 1, 1)).mean(),
            "copied": measures.copied(drawn, true, seen, measures.pixels(true), threshold).mean(),
            "blank": measures.blank(drawn, true).mean(),
            "KID": measures.kid(vectors, pool),
        }

    def measure(params: Params) -> Mapping[str, float]:
        found = {}
        for name, inputs in preview.drawn.items():
            drawn, broken_N = draw_all(draw, params, inputs, train.seed, at_once)
            drawn = np.where(broken_N[:, None, None, None], 0, images.rounded(drawn)).astype(np.uint8)
            if jax.process_index() == 0:
                row = measured(drawn, shown if name.startswith("with ") else [true[:0]] * len(true))
                found |= {f"{NAME}/{what}_{name.replace(' ', '_')}": float(value) for what, value in row.items()}
        return found

    return Watch(train.evaluate_every, measure)
