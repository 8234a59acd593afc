"""What a training's averaged parameters draw for held-out examples, in numbers, as it goes on.

Each example's picture is compared with the true pictures of all of them, its own among them: no field is needed, so it
serves any system whose feed holds examples out and shows what is to be drawn (`Preview`, row `target`). So it is found,
too, whether other weights of guidance would draw better: those of an experiment can be too much for a short training.
"""

from collections.abc import Mapping

import jax
import numpy as np
from jaxtyping import Float

from reimagen_jax.data import images
from reimagen_jax.evaluation.pictures import measures
from reimagen_jax.evaluation.pictures.features import Pictures, Spaces
from reimagen_jax.evaluation.statistics import paired_difference_ci
from reimagen_jax.inference.examples import Draw, draw_all, held_out
from reimagen_jax.systems.base import Feed, Inputs, Params, Preview
from reimagen_jax.training.loop import Watch

NAME, TARGET, NEIGHBOUR, WITH = "evaluation", "target", "neighbour", "with neighbours"
SPACE = "unet"
SCALES = (1.0, 0.5, 2.0, 0.0)
"""Of both weights' excess over 1, the experiment's own first: what is tried for better guidance."""


class HeldOut:
    """Examples that are not trained on, their true pictures, and what a training draws for them."""

    def __init__(self, feed: Feed, draw: Draw, preview: Preview):
        self._draw, self._train, self._preview = draw, feed.config.train, preview
        self._true = true = np.stack([np.asarray(image) for image in preview.shown[TARGET]])
        near = [row for name, row in preview.shown.items() if name.startswith(NEIGHBOUR)]
        rows = [[row[i] for row in near if row[i] is not None] for i in range(len(true))]
        self._shown = [np.stack(found) if found else true[:0] for found in rows]
        self._spaces = Spaces(true)
        self._others = [np.flatnonzero(np.arange(len(true)) != i) for i in range(len(true))]
        self._threshold = measures.copy_threshold(true, self._shown)

    @classmethod
    def of(cls, feed: Feed, draw: Draw) -> "HeldOut | None":
        """None where nothing is held out, or where a training is not to be measured by it."""
        train = feed.config.train
        examples = held_out(feed, train.evaluate_images) if train.evaluate_every else None
        preview = None if examples is None else feed.preview(examples)
        return None if preview is None or TARGET not in preview.shown else cls(feed, draw, preview)

    def __len__(self) -> int:
        return len(self._true)

    @property
    def watch(self) -> Watch:
        """The watch of a training."""
        return Watch(self._train.evaluate_every, self.measure)

    def measure(self, params: Params) -> Mapping[str, float]:
        """Of each row that is drawn."""
        found = {}
        for name, inputs in self._preview.drawn.items():
            drawn = self._drawn(params, inputs)
            if jax.process_index() == 0:
                row = self._measured(drawn, self._shown if name == WITH else [self._true[:0]] * len(self))
                found |= {f"{NAME}/{what}_{name.replace(' ', '_')}": float(value) for what, value in row.items()}
        return found

    def better_guidance(self, params: Params) -> dict[str, float]:
        """The weights with which pictures are likest to the true ones; empty where the experiment's own cannot be told
        from them, by paired differences over the examples, and for a system without weights."""
        inputs = self._preview.drawn.get(WITH)
        names = [name for name in ("text_weight", "neighbour_weight") if hasattr(inputs, f"{name}_B")]
        own = {name: getattr(inputs, f"{name}_B") for name in names}
        if all((weight_B == 1).all() for weight_B in own.values()):
            return {}
        scaled = [{name: 1 + scale * (weight_B - 1) for name, weight_B in own.items()} for scale in SCALES]
        drawn = [self._drawn(params, inputs.replace(**{f"{name}_B": w for name, w in each.items()})) for each in scaled]
        likeness = [self._likeness(each) for each in drawn]
        best = int(np.argmax([each.mean() for each in likeness]))
        if paired_difference_ci(likeness[best], likeness[0]).low <= 0:
            return {}
        return {name: float(weight_B[0]) for name, weight_B in scaled[best].items()}

    def _drawn(self, params: Params, inputs: Inputs) -> Pictures:
        """What is not finite is black."""
        drawn, broken_N = draw_all(self._draw, params, inputs, self._train.seed, self._train.sample_images)
        return np.where(broken_N[:, None, None, None], 0, images.rounded(drawn)).astype(np.uint8)

    def _likeness(self, drawn: Pictures) -> Float[np.ndarray, " n"]:
        """The share of the other true pictures that are farther than its own."""
        pool = self._spaces.own(SPACE)
        rank = measures.ranks(self._spaces(SPACE, drawn), pool, pool, self._others)
        return 1.0 - (rank - 1) / max(len(self) - 1, 1)

    def _measured(self, drawn: Pictures, seen: list[Pictures]) -> dict[str, float]:
        """Of one row."""
        true, flat = self._true, measures.flat(self._true)
        by_pixels = measures.ranks(measures.flat(drawn), flat, flat, self._others)
        return {
            "nearest": (by_pixels == 1).mean(),
            "first_five": (by_pixels <= 5).mean(),
            "likeness": self._likeness(drawn).mean(),
            "copied": measures.copied(drawn, true, seen, measures.pixels(true), self._threshold).mean(),
            "blank": measures.blank(drawn, true).mean(),
            "KID": measures.kid(self._spaces(SPACE, drawn), self._spaces.own(SPACE)),
        }
