"""What variations of a picture keep of it, and what they lose: read off by the rater, over many pictures.

    python tools/variations.py runs/unclip/decoder runs/world/all --split unseen --num-images 128

Each picture of EntityWorld is turned into its code, and drawn from it once for each stochasticity of DDIM (`reimagen
unclip vary` shows a few). Prints how far the pictures that the codes give back are off (root mean square over all of
them, of the range of images), and for each stochasticity the shares, with 95 % intervals, of variations in which the
category, a parameter of the look (the mean over all eight), and each attribute of the scene are the picture's own.
"""

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import numpy as np
import tyro

from reimagen_jax.checked import Count, Natural, Share
from reimagen_jax.cli import status_of
from reimagen_jax.errors import require
from reimagen_jax.terminal import say


@dataclass(frozen=True)
class Variations:
    """Vary pictures of EntityWorld, and count what stays."""

    model: Annotated[Path, tyro.conf.Positional]
    """A decoder of unCLIP: a run, or weights."""
    records: Annotated[Path, tyro.conf.Positional]
    """Records of EntityWorld that `reimagen prepare` wrote."""
    split: str = "unseen"
    """Of the entities that are varied."""
    num_images: Count = 128
    """Pictures."""
    stochasticity: tuple[Share, ...] = (0.25, 0.5, 1.0)
    """Of DDIM."""
    steps: Count = 100
    """Of inversion and drawing."""
    batch_size: Count = 16
    """Pictures at once."""
    seed: Natural = 0
    """Of the choice of pictures, and of noise."""


def run(args: Variations) -> list[str]:
    """The lines of the result, in Markdown. Raises `UserError` on bad input."""
    from reimagen_jax.data import images
    from reimagen_jax.data.records import Records
    from reimagen_jax.evaluation.rater import Rater
    from reimagen_jax.evaluation.ratings import truth, verdicts
    from reimagen_jax.evaluation.statistics import mean_ci
    from reimagen_jax.inference.codes import Coded, Decoder
    from reimagen_jax.inference.model import Model
    from reimagen_jax.reports.words import table

    decoder = Decoder(Model.open(args.model), steps=args.steps, seed=args.seed, batch_size=args.batch_size)
    side, rater = decoder.model.config.system.resolution, Rater.open()
    rater.require_resolution(side)
    records = Records.open(args.records)
    order = np.random.default_rng(args.seed).permutation(len(records))
    pictures, truths = [], []
    for i in order:
        (record,) = records.fetch(np.array([i]))
        true = truth(record.attributes)
        require(true is not None, f"{args.records} is not of EntityWorld: record {i} tells no look")
        if record.attributes["split"] == args.split:
            pictures.append(images.decode(record.image, side))
            truths.append(true)
        if len(pictures) == args.num_images:
            break
    require(len(pictures) > 0, f"{args.records} has no entities of the split {args.split!r}")

    codes, about = decoder.codes(pictures), [each.about for each in truths]
    stage, rows = decoder.stage(len(codes)), []
    for share in (0.0, *args.stochasticity):
        requests = [
            Coded(index=i, start=code.vector, noise=code.noise, stochasticity=share) for i, code in enumerate(codes)
        ]
        drawn = np.stack(stage.draw(requests, args.seed, f"stochasticity {share:g}"))
        if share == 0.0:
            off = np.sqrt(np.mean((drawn.astype(np.float64) - np.stack(pictures)) ** 2)) / 255
        found = verdicts(drawn, truths, rater)
        kept = [found.look_right[:, 0], found.look_right[:, 1:].mean(axis=1), *found.scene_right.T]
        rows.append([f"{share:g}", *(str(mean_ci(each.astype(float), about)) for each in kept)])
    head = ["stochasticity", "category", "look, of 8", *truths[0].scene]
    return [
        f"{len(codes)} pictures of {args.split} entities, {args.steps} steps; given back within {off:.2%} (RMS)",
        "",
        *table([head, *rows]),
    ]


def main(args: Variations) -> int:
    """The command; status 2 and one line on stderr on wrong input."""
    return status_of(lambda: say(*run(args)))


if __name__ == "__main__":
    sys.exit(main(tyro.cli(Variations, description=__doc__, config=(tyro.conf.FlagCreatePairsOff,))))
