"""`reimagen encode-train`: records into an encoder of texts and images, for search by vectors."""

import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

import tyro
from annotated_types import Ge, Gt, Lt

from reimagen_jax.checked import Count, NonNegative, Number, Options, Seed, Share, Steps
from reimagen_jax.terminal import say

if TYPE_CHECKING:
    from reimagen_jax.config import Experiment
    from reimagen_jax.encoders.dual import DualEncoder
    from reimagen_jax.systems.dual.settings import DualSystemConfig

CARD = """\
# {title}

It turns texts, and images of {resolution} x {resolution} pixels, into vectors of {width} values that point the same way
where a text and an image belong together. `reimagen index RECORDS --encoder THIS_FOLDER` builds a knowledge base that
searches by them.

- Made by `{command}`.
- {towers}
- It knows what was in its {trained_on:,} training records and nothing else of the world: names that it has not seen it
  can only compare letter by letter.
- {num_weights:,} weights.

## Measured

On {held_out:,} records whose pictures were kept out of training:

```
{table}
```
"""


PATCHES = 8
"""Along a side, of an image that a CLIP reads; of 8 pixels it reads four."""


@dataclass(frozen=True)
class EncodeTrain(Options):
    """Train towers of texts and images, so that records can be searched by what these mean: vectors.

    For example:
        reimagen encode-train runs/knowledge --out runs/encoder
        reimagen index runs/knowledge --encoder runs/encoder --out runs/index

    The towers are small ones, or those of a CLIP (--towers clip), which prior and decoder of unCLIP hold, too.

    A part of the records is kept out of training to measure how well it finds texts for images and images for texts.
    Training goes on in a working folder with logs and checkpoints; the same command resumes there. It is that of
    `reimagen train experiments/dual32.py` (dalle2_clip32.py), where more can be set, and whose run becomes an encoder
    by --from-run. So does a run of MoCo-v3 (rcg_moco32.py), an encoder of images alone for RCG; --probe tells what
    its vectors hold of an image.
    """

    common: ClassVar[tuple[str, ...]] = (
        *("workdir", "towers", "resolution", "num_steps", "batch_size", "same_by", "overwrite"),
    )

    records: Annotated[Path, tyro.conf.Positional]
    """Folder written by `reimagen prepare`."""
    out: Path
    """Folder to write; it must not exist yet."""
    workdir: Path | None = None
    """Working folder of the training: logs and checkpoints, to go on from (default: OUT.run)."""
    from_run: Path | None = None
    """Train nothing: measure and write what this run of `reimagen train` (--workdir there) has learned so far."""
    probe: tuple[str, ...] = ()
    """Of a run of MoCo-v3: attributes of the held-out records that a linear probe is to tell from its vectors, beside
    those of random weights (category, scene.place)."""
    towers: Literal["small", "clip"] = "small"
    """small: convolutions, and a transformer over bytes whose tokens are averaged. clip: a vision transformer and a
    causal transformer over bytes, which learn more slowly and tell each token's state, too."""
    resolution: Count = 32
    """Side in pixels at which it reads images: a power of two from 8 on."""
    width: Count = 128
    """Values of a vector."""
    max_bytes: Count = 128
    """Captions are cut after this many UTF-8 bytes (a multiple of 4; a CLIP reads three more)."""
    same_by: str = "caption"
    """Records that agree in this are not told apart: `caption`, or the name of an attribute (entity, for instance)."""
    num_steps: Steps = 2000
    """Of the training."""
    batch_size: Annotated[int, Ge(2)] = 128
    """Records a step; more make it tell finer differences."""
    learning_rate: NonNegative = 1e-3
    """At its highest; it decays to 0."""
    word_drop: Annotated[Share, Lt(1)] = 0.2
    """Probability that a word of a caption is left out in training, so that some of the words find a picture, too."""
    held_out: Annotated[Number, Gt(0), Lt(1)] = 0.1
    """Share of the records that it is measured on and does not learn from, 1000 at most."""
    seed: Seed = 0
    """Of the training, and of which records are held out."""
    overwrite: bool = False
    """Replace the folder in --out, if this command wrote it, once the new one is complete; one of another kind, or with
    other files in it, is kept."""

    def run(self) -> None:
        """Trains, measures, writes and prints the table. Raises `UserError` on bad options and too few records.

        Exits with status 128 + its number when a signal ends the training; the same command goes on.
        """
        from reimagen_jax.commands.encode_images import image_card, image_encoder, image_table
        from reimagen_jax.commands.options import command_line
        from reimagen_jax.commands.train import require_untouched, train_experiment
        from reimagen_jax.errors import require
        from reimagen_jax.files import atomic_dir, require_writable, write_text
        from reimagen_jax.systems import kinds
        from reimagen_jax.systems.moco.settings import MocoConfig
        from reimagen_jax.training.checkpoint import read_run

        require_writable(self.out, kind="encoder", overwrite=self.overwrite)
        if self.from_run is not None:
            require_untouched(self, "records", "out", "from_run", "probe", "overwrite")
            run = self.from_run
        else:
            run = self.workdir or self.out.with_name(f"{self.out.name}.run")
            train_experiment(self.experiment(), run)
        of_images = isinstance(kinds.from_dict(read_run(run)["experiment"]).system, MocoConfig)
        require(
            of_images or not self.probe, "--probe is about an encoder of images alone, a run of MoCo-v3: leave it out"
        )
        if of_images:
            encoder, told = image_encoder(run, self.records, self.probe), (image_card, image_table)
        else:
            encoder, told = trained_encoder(run, self.records), (card, table)
        card_of, table_of = told
        command = dataclasses.replace(self, out=Path("DIR"), workdir=None, overwrite=False)
        with atomic_dir(self.out, kind="encoder", overwrite=self.overwrite) as folder:
            line = command_line("encode-train", command).replace("--records ", "", 1)
            write_text(folder / "README.md", card_of(encoder, line))
            encoder.save(folder)
        say(*table_of(encoder.facts["measured"]).splitlines())
        say(f"encoder of {encoder.width} values in {self.out}")

    def experiment(self) -> "Experiment":
        """The options as settings of the training. Raises `UserError` on those that do not fit together."""
        from reimagen_jax.config import Experiment, TrainConfig
        from reimagen_jax.systems.dual.settings import DualData

        system = self._system()
        return Experiment(
            system.kind,
            system,
            DualData(
                batch_size=self.batch_size,
                seed=self.seed,
                records=str(self.records),
                same_by=self.same_by,
                held_out=self.held_out,
                word_drop=self.word_drop,
            ),
            train=TrainConfig(
                num_steps=self.num_steps,
                learning_rate=self.learning_rate,
                warmup_steps=100,  # whatever the length, so that a run may be made longer
                weight_decay=0.05,
                ema_decay=0.99,
                log_every=100,
                sample_every=0,
                seed=self.seed,
            ),
        )

    def _system(self) -> "DualSystemConfig":
        from reimagen_jax.commands.options import as_typed
        from reimagen_jax.encoders.settings import DualConfig, ImageTowerConfig, JointConfig, TextTowerConfig
        from reimagen_jax.errors import require
        from reimagen_jax.systems.dual.settings import ClipSystemConfig, DualSystemConfig

        if self.towers == "small":
            with as_typed({"network.resolution": "--resolution", "text.max_bytes": "--max-bytes"}):
                return DualSystemConfig(DualConfig(self.resolution, self.max_bytes, self.width))
        side, text, image = self.resolution, JointConfig().text, JointConfig().image
        require(side >= 8 and side.bit_count() == 1, f"--resolution {side} is not a power of two from 8 on")
        image = ImageTowerConfig(image.tower, side, max(2, side // PATCHES), stem=image.stem)
        text = TextTowerConfig(text.tower, max_tokens=self.max_bytes + 1)
        return ClipSystemConfig(JointConfig(self.width, text, image))


def trained_encoder(run: Path, records: Path) -> "DualEncoder":
    """What a run has learned so far, measured on the pairs that it holds out.

    Raises `UserError` when it is no run of a dual encoder, or learned from other records.
    """
    from reimagen_jax.encoders.dual import DualEncoder
    from reimagen_jax.errors import require
    from reimagen_jax.inference.model import Model
    from reimagen_jax.systems import kinds
    from reimagen_jax.systems.dual.feed import DualFeed
    from reimagen_jax.systems.dual.measure import measure
    from reimagen_jax.systems.dual.settings import ClipSystemConfig, DualSystemConfig
    from reimagen_jax.training.checkpoint import read_run

    learned_from, model = read_run(run)["data"], Model.open(run, on_host=True)
    config, train = model.config, model.config.train
    require(
        isinstance(config.system, DualSystemConfig),
        f"{run} is the run of a {config.system.kind}, not of a dual or a clip",
    )
    feed = DualFeed(dataclasses.replace(config, data=dataclasses.replace(config.data, records=str(records))))
    require(feed.fingerprint == learned_from, f"{run} has learned from other records than {records} holds")
    learned, held_out = feed.split
    encoder = DualEncoder(config.system.network, kinds.system_of(config).of_towers(model.params))
    data = dataclasses.asdict(config.data)
    facts = {
        "training": {
            "num_steps": model.step,
            "learning_rate": train.learning_rate,
            "weight_decay": train.weight_decay,
            "shift": config.system.shift,
            **({"targets": config.system.targets} if isinstance(config.system, ClipSystemConfig) else {}),
            **{name: data[name] for name in ("batch_size", "word_drop", "held_out", "seed", "same_by")},
        },
        "records_fingerprint": feed.fingerprint,
        "measured": {"trained_on": len(learned), **measure(encoder, feed.pairs, held_out)},
    }
    return dataclasses.replace(encoder, facts=facts)


def table(measured: dict[str, Any]) -> str:
    """What was measured, as aligned lines of text."""
    ranks = measured["chance"]
    lines = [
        f"among {measured['held_out']} unseen records, found".ljust(34) + "".join(f"in {k}".rjust(9) for k in ranks)
    ]
    for name in ("text to image", "image to text", "chance"):
        lines.append(f"  {name:<32}" + "".join(f"{share:.3f}".rjust(9) for share in measured[name].values()))
    return "\n".join(lines)


def card(encoder: "DualEncoder", command: str) -> str:
    """The README of an encoder's folder."""
    from clu import parameter_overview

    from reimagen_jax.encoders.settings import JointConfig

    measured = encoder.facts["measured"]
    title, towers = "A dual encoder of texts and images", "Its towers are small: convolutions, and a byte transformer."
    if isinstance(encoder.config, JointConfig):
        title, text, image = "A CLIP of texts and images", encoder.config.text, encoder.config.image
        towers = (
            f"Its towers: a vision transformer over {(image.resolution // image.patch) ** 2} patches "
            f"({image.tower.depth} blocks of width {image.tower.width}), and a causal transformer over "
            f"{text.max_tokens} tokens ({text.tower.depth} of {text.tower.width})."
        )
    return CARD.format(
        title=title,
        towers=towers,
        resolution=encoder.resolution,
        width=encoder.width,
        command=command,
        trained_on=measured["trained_on"],
        held_out=measured["held_out"],
        num_weights=int(parameter_overview.count_parameters(encoder.params)),
        table=table(measured),
    )
