"""`reimagen export`: a training run into weights to hand on."""

from dataclasses import dataclass
from pathlib import Path, PurePath
from typing import Annotated, Literal

import tyro

from reimagen_jax.checked import Options
from reimagen_jax.commands.options import PLACE
from reimagen_jax.terminal import say


@dataclass(frozen=True)
class Export(Options):
    """Write a model as safetensors, its settings as JSON, and a model card to complete.

        reimagen export runs/train --out my-model --dtype float16

    Other programs and machines open the result by --model, and --init.weights starts a training from it. Folders of
    this machine are not in it; a model with a frozen text encoder asks for that encoder (--text-encoder) when it draws.
    """

    model: Annotated[PurePath, PLACE, tyro.conf.Positional]
    """Folder of a training run (its last checkpoint's averaged weights) or of weights, also in a bucket (gs://, s3://),
    or `shipped`."""
    out: Path
    """Folder to write; it must not exist yet."""
    dtype: Literal["float32", "float16", "bfloat16"] = "float32"
    """How weights are stored; they are read as float32, those of bfloat16 as they are, in half the memory."""
    about: str = ""
    """The card's first paragraph: what the model draws, from which images, what it is meant for."""
    licence: str = ""
    """Of the weights, as the card states it (an SPDX name, such as apache-2.0)."""
    overwrite: bool = False
    """Replace the folder in --out, if this command wrote it, once the new one is complete; one of another kind, or with
    other files in it, is kept."""

    def run(self) -> None:
        """Writes the folder. Raises `UserError` when the model cannot be opened."""
        import jax.numpy as jnp

        from reimagen_jax.files import atomic_dir
        from reimagen_jax.inference.export import export
        from reimagen_jax.inference.model import Model
        from reimagen_jax.inference.provenance import versions

        model = Model.open(self.model)
        facts = model.facts()
        told = {
            "Checkpoint": facts["checkpoint"],
            "SHA-256 of the parameters": f"`{model.digest}`",
            "Written by": f"reimagen_jax {versions()['reimagen_jax']}, jax {versions()['jax']}",
        }
        if began := model.config.init.weights:
            told["Started from the weights"] = Path(began).name
        with atomic_dir(self.out, kind="weights", overwrite=self.overwrite) as folder:
            export(
                folder,
                model.config,
                model.params,
                dtype=jnp.dtype(self.dtype),
                facts=told,
                about=self.about,
                licence=self.licence,
            )
        say(f"{facts['model']} ({facts['parameters']} parameters, {facts['checkpoint']}) in {self.out}")
