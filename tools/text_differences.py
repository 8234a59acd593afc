"""Whether a reference, moved by the difference of two texts, shows the entity *and* what the prompt tells of the scene.

    python tools/text_differences.py runs/unclip/decoder runs/world/index --split unseen --num-prompts 128

unCLIP draws from one vector, and that of a retrieved picture brings its scene along. Here the picture's code (embedding
and inverted noise) is moved from what its caption says to what the prompt says (`reimagen unclip diff`), by a share of
the way: prompts of EntityDrawBench, each with the first picture retrieved by the entity's name. Prints shares, with
95 % intervals, of images in which the entity is right (faithful), in which what the prompt tells of the scene is
(aligned), and both, as `reimagen evaluate entities` counts them; then each attribute of the scene.
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
class TextDifferences:
    """Move references by the difference of texts, and rate what comes out."""

    model: Annotated[Path, tyro.conf.Positional]
    """A decoder of unCLIP: a run, or weights."""
    knowledge_base: Annotated[Path, tyro.conf.Positional]
    """Written by `reimagen index`, over records of EntityWorld."""
    split: str = "unseen"
    """Of the entities that prompts are about."""
    num_prompts: Count = 128
    """Images of each row."""
    shares: tuple[Share, ...] = (0.0, 0.1, 0.2, 0.3, 0.4, 0.5)
    """Of the way."""
    steps: Count = 50
    """Of inversion and drawing."""
    drawn_noise: bool = False
    """Draw from noise of its own, not from the picture's: position and size are then free to follow the text."""
    batch_size: Count = 16
    """Pictures at once."""
    seed: Natural = 0
    """Of the prompts, and of noise."""


def run(args: TextDifferences) -> list[str]:
    """The lines of the result, in Markdown. Raises `UserError` on bad input."""
    from reimagen_jax.data.entityworld.dataset import SPLITS
    from reimagen_jax.evaluation.entities.inventory import Inventory
    from reimagen_jax.evaluation.entities.prompts import draw_prompts, find_neighbours
    from reimagen_jax.evaluation.rater import Rater
    from reimagen_jax.evaluation.ratings import truth, verdicts
    from reimagen_jax.evaluation.statistics import mean_ci
    from reimagen_jax.inference.codes import Coded, Decoder, towards
    from reimagen_jax.inference.model import Model
    from reimagen_jax.reports.words import table
    from reimagen_jax.retrieval.knowledge_base import KnowledgeBase

    require(args.split in SPLITS, f"--split {args.split}: EntityWorld has {', '.join(SPLITS)}")
    decoder = Decoder(Model.open(args.model), steps=args.steps, seed=args.seed, batch_size=args.batch_size)
    side, rater = decoder.model.config.system.resolution, Rater.open()
    rater.require_resolution(side)
    inventory = Inventory.read(KnowledgeBase.open(args.knowledge_base))
    prompts = draw_prompts(inventory, args.split, args.num_prompts, args.seed)
    found = [each[:1] for each in find_neighbours("retrieval", prompts, inventory, 1, side, args.seed)]
    kept = [i for i, each in enumerate(found) if each]
    require(len(kept) > 0, f"{args.knowledge_base} has no picture of any entity of the split {args.split!r}")
    prompts, found = [prompts[i] for i in kept], [found[i][0] for i in kept]
    truths = [truth(prompt.attributes) for prompt in prompts]
    about = [each.about for each in truths]

    codes = decoder.codes([each.image for each in found])
    to_ND, of_ND = (decoder.texts(texts) for texts in ([p.text for p in prompts], [each.text for each in found]))
    moved = [
        towards(code.vector, *ends, np.array(args.shares)) for code, *ends in zip(codes, to_ND, of_ND, strict=True)
    ]
    # Where both texts are read alike there is no way to go.
    moved = [each or [code.vector] * len(args.shares) for each, code in zip(moved, codes, strict=True)]
    stage, rows = decoder.stage(len(codes)), []
    for s, share in enumerate(args.shares):
        requests = [
            Coded(index=i, start=moved[i][s], noise=None if args.drawn_noise else code.noise)
            for i, code in enumerate(codes)
        ]
        drawn = np.stack(stage.draw(requests, args.seed, f"share {share:g}"))
        said = verdicts(drawn, truths, rater)
        values = [said.faithful, said.aligned, said.faithful & said.aligned, said.look_right[:, 1:].mean(axis=1)]
        rows.append(
            [f"{share:g}", *(str(mean_ci(each.astype(float), about)) for each in (*values, *said.scene_right.T))]
        )
    head = ["share", "faithful", "aligned", "both", "look, of 8", *truths[0].scene]
    noise = "noise of its own" if args.drawn_noise else "the picture's noise"
    return [
        f"{len(codes)} prompts about {args.split} entities, {args.steps} steps from {noise}",
        "",
        *table([head, *rows]),
    ]


def main(args: TextDifferences) -> int:
    """The command; status 2 and one line on stderr on wrong input."""
    return status_of(lambda: say(*run(args)))


if __name__ == "__main__":
    sys.exit(main(tyro.cli(TextDifferences, description=__doc__, config=(tyro.conf.FlagCreatePairsOff,))))
