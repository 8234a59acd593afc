"""`reimagen encode-train`: records into an encoder of texts and images, for search by vectors."""

import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import tyro

CARD = """\
# A dual encoder of texts and images

It turns texts, and images of {resolution} x {resolution} pixels, into vectors of {width} values that point the same way
where a text and an image belong together. `reimagen index RECORDS --encoder THIS_FOLDER` builds a knowledge base that
searches by them.

- Made by `{command}`.
- It knows what was in its {trained_on:,} training records and nothing else of the world: names that it has not seen it
  can only compare letter by letter.
- {num_weights:,} weights.

## Measured

On {held_out:,} records whose pictures were kept out of training:

```
{table}
```
"""


@dataclass(frozen=True)
class EncodeTrain:
    """Train a small dual encoder, so that records can be searched by what texts and images mean: vectors.

    For example:
        reimagen encode-train runs/knowledge --out runs/encoder
        reimagen index runs/knowledge --encoder runs/encoder --out runs/index

    A part of the records is kept out of training to measure how well it finds texts for images and images for texts.
    """

    records: Annotated[Path, tyro.conf.Positional]
    """Folder written by `reimagen prepare`."""
    out: Path
    """Folder to write; it must not exist yet."""
    resolution: int = 32
    """Side in pixels at which it reads images: a power of two from 8 on."""
    width: int = 128
    """Values of a vector."""
    max_bytes: int = 128
    """Captions are cut after this many UTF-8 bytes (a multiple of 4)."""
    same_by: str = "caption"
    """Records that agree in this are not told apart: `caption`, or the name of an attribute (entity, for instance)."""
    num_steps: int = 2000
    batch_size: int = 128
    """Records a step; more make it tell finer differences."""
    learning_rate: float = 1e-3
    """At its highest; it decays to 0."""
    word_drop: float = 0.2
    """Probability that a word of a caption is left out in training, so that some of the words find a picture, too."""
    held_out: float = 0.1
    """Share of the records that it is measured on and does not learn from, 1000 at most."""
    seed: int = 0
    overwrite: bool = False
    """Replace an existing output folder, once the new one is complete."""

    def run(self) -> None:
        """Trains, measures, writes and prints the table. Raises `UserError` on bad options and too few records."""
        from reimagen_jax.commands.options import command_line
        from reimagen_jax.data.records import Records
        from reimagen_jax.encoders.dual import DualConfig
        from reimagen_jax.encoders.dual_training import DualTraining, Pairs, train
        from reimagen_jax.files import atomic_dir, write_text

        config = DualConfig(resolution=self.resolution, width=self.width, max_bytes=self.max_bytes)
        training = DualTraining(
            self.num_steps,
            self.batch_size,
            self.learning_rate,
            word_drop=self.word_drop,
            held_out=self.held_out,
            seed=self.seed,
        )
        records = Records.open(self.records)
        with atomic_dir(self.out, overwrite=self.overwrite) as folder:
            encoder, measured = train(Pairs(records, config, self.same_by), config, training)
            facts = {
                "training": dataclasses.asdict(training) | {"same_by": self.same_by},
                "records_fingerprint": records.fingerprint,
                "measured": measured,
            }
            encoder = dataclasses.replace(encoder, facts=facts)
            command = command_line("encode-train", dataclasses.replace(self, out=Path("DIR"), overwrite=False))
            write_text(folder / "README.md", card(encoder, command))
            encoder.save(folder)
        print(table(measured))
        print(f"encoder of {encoder.width} values in {self.out}")


def table(measured: dict[str, Any]) -> str:
    """What was measured, as aligned lines of text."""
    ranks = measured["chance"]
    lines = [
        f"among {measured['held_out']} unseen records, found".ljust(34) + "".join(f"in {k}".rjust(9) for k in ranks)
    ]
    for name in ("text to image", "image to text", "chance"):
        lines.append(f"  {name:<32}" + "".join(f"{share:.3f}".rjust(9) for share in measured[name].values()))
    return "\n".join(lines)


def card(encoder: Any, command: str) -> str:
    """The README of an encoder's folder."""
    import jax

    measured = encoder.facts["measured"]
    return CARD.format(
        resolution=encoder.resolution,
        width=encoder.width,
        command=command,
        trained_on=measured["trained_on"],
        held_out=measured["held_out"],
        num_weights=sum(leaf.size for leaf in jax.tree.leaves(encoder.params)),
        table=table(measured),
    )
