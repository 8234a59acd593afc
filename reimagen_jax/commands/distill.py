"""`reimagen distill`: a trained Re-Imagen into one that draws in a few evaluations of its network."""

import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, ClassVar

import tyro

from reimagen_jax.checked import Count, Natural, NonNegative, Options, Seed, Steps
from reimagen_jax.errors import require

if TYPE_CHECKING:
    from reimagen_jax.config import Experiment

FEW = 4
"""Steps that a model draws with by default, into which guidance alone was distilled."""


@dataclass(frozen=True)
class Distill(Options):
    """Train a model that draws in a few evaluations of its network what another one draws in many.

    A guided step evaluates a network two or three times. The student is told eta and the weights instead, as numbers,
    and learns the guided prediction: one evaluation a step, whatever eta. It draws with any sampler, in any number of
    steps, and opens like any model; a sweep over eta takes the same options. Where its steps are to be fewer than the
    teacher can do with, several of the teacher's become one:

        reimagen distill --model shipped --triples runs/triples --out runs/distilled
        reimagen distill --model runs/distilled --triples runs/triples --steps 2 --teacher-steps 4 --out runs/two

    Training goes on in a working folder with logs and checkpoints; the same command resumes there. It is that of
    `reimagen train` with a system of kind `distillation`; what has been learned so far, `reimagen export` takes out.
    """

    common: ClassVar[tuple[str, ...]] = ("workdir", "steps", "teacher_steps", "num_steps", "batch_size", "overwrite")

    model: Path
    """The teacher: folder of a training run (its last checkpoint is used) or of weights, or `shipped`."""
    triples: Path
    """Folder written by `reimagen triples`: what the teacher was trained on, or alike."""
    out: Path
    """Folder of weights to write; it must not exist yet."""
    workdir: Path | None = None
    """Working folder of the training: logs and checkpoints, to go on from (default: OUT.run)."""
    steps: Natural = 0
    """Of the student's sampler (ddim, evenly spaced), each of which learns several of the teacher's; 0: guidance alone
    is distilled, for any sampler."""
    teacher_steps: Count = 1
    """Of the teacher (ddim), that become one of the student's."""
    text_weights: Annotated[tuple[NonNegative, NonNegative] | None, tyro.conf.arg(metavar="LOW HIGH")] = None
    """Text weights that the student learns (default: from 1 to twice the teacher's strength, or those of a distilled
    teacher)."""
    neighbour_weights: Annotated[tuple[NonNegative, NonNegative] | None, tyro.conf.arg(metavar="LOW HIGH")] = None
    """Neighbour weights that the student learns."""
    num_steps: Steps = 3000
    """Of the training."""
    batch_size: Count = 16
    """Triples a step."""
    learning_rate: NonNegative = 5e-4
    """At its highest; it falls to 0 over the last fifth."""
    validation: Path | None = None
    """Folder of triples that are not trained on, which the training is watched by."""
    text_embeddings: Path | None = None
    """Folder written by `reimagen embed`, where the teacher's text encoder is frozen."""
    seed: Seed = 0
    """Of the training."""
    overwrite: bool = False
    """Replace the folder in --out, if this command wrote it, once the new one is complete; one of another kind, or with
    other files in it, is kept."""

    def run(self) -> None:
        """Trains and writes. Raises `UserError` on bad options and data, and for a teacher that cannot be one.

        Exits with status 128 + its number when a signal ends the training; the same command goes on.
        """
        from reimagen_jax.commands.export import Export
        from reimagen_jax.commands.train import train_experiment
        from reimagen_jax.files import require_writable

        require_writable(self.out, kind="weights", overwrite=self.overwrite)
        run = self.workdir or self.out.with_name(f"{self.out.name}.run")
        train_experiment(self.experiment(), run)
        Export(run, self.out, overwrite=self.overwrite).run()

    def experiment(self) -> "Experiment":
        """The options as settings of the training. Raises `UserError` on those that do not fit the teacher."""
        from reimagen_jax.commands.options import as_typed
        from reimagen_jax.commands.sampling_options import open_drawing
        from reimagen_jax.config import Experiment, GroupRate, InitConfig, TrainConfig
        from reimagen_jax.systems.reimagen.settings import DistillationConfig, Distilled, ReImagenConfig

        model = open_drawing(self.model, on_host=True)
        system, data, before = model.config.system, model.config.data, model.config.system.distilled
        require(
            self.steps > 0 or before is None,
            f"{self.model} is distilled already: give --steps, how many the student is to draw with, and "
            "--teacher-steps",
        )
        weights = {
            f"{name}s": getattr(before, f"{name}s")
            if before
            else (1.0, max(1.0, 2.0 * getattr(system.sampler, name) - 1.0))
            for name in ("text_weight", "neighbour_weight")
        }
        given = {name: getattr(self, name) for name in weights if getattr(self, name) is not None}
        few = (
            {"num_steps": self.steps, "solver": "ddim", "ddim_noise": 0.0, "spacing": "even"}
            if self.steps
            else {"num_steps": FEW}
        )
        typed = {f"distilled.{name}": f"--{name.replace('_', '-')}" for name in weights} | {
            "teacher_steps": "--teacher-steps"
        }
        with as_typed(typed | {"distilled.steps": "--steps"}):
            distilled = Distilled(model.config.name, model.digest, **weights | given, steps=self.steps)
            taught = {item.name: getattr(system, item.name) for item in dataclasses.fields(ReImagenConfig)}
            student = DistillationConfig(
                **taught
                | {
                    "distilled": distilled,
                    "sampler": system.sampler.changed(guidance="mean", guidance_rescale=None, **few),
                },
                teacher_distilled=before is not None,
                teacher_steps=self.teacher_steps,
            )
        return Experiment(
            f"{model.config.name.removesuffix('-distilled')}-distilled",
            student,
            dataclasses.replace(
                data,
                batch_size=self.batch_size,
                seed=self.seed,
                triples=str(self.triples),
                text_embeddings=str(self.text_embeddings or ""),
                validation=str(self.validation or ""),
                validation_share=0.0,
            ),
            InitConfig(weights=str(self.model), fresh=("guidance",)),
            TrainConfig(
                num_steps=self.num_steps,
                learning_rate=self.learning_rate,
                rates=(GroupRate("^teacher/", 0.0),),
                warmup_steps=80,  # whatever the length, so that a run may be made longer
                decay="tail",
                ema_decay=0.999,
                sample_every=0,
                seed=self.seed,
            ),
        )
