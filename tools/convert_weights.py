"""A stage of DeepFloyd IF (diffusers layout, safetensors) into a Re-Imagen that draws what IF draws.

    python tools/convert_weights.py IF-I-M-v1.0 --out runs/if64
    python tools/convert_weights.py IF-II-M-v1.0 --text-encoder IF-I-M-v1.0/text_encoder --out runs/if256

    reimagen sample --model runs/if64 --prompt "a corgi on a skateboard" --out runs/corgi
    reimagen train experiments/if_finetune_64.py --init.weights runs/if64 --workdir runs/train --data.triples ...

The folders are what `huggingface-cli download DeepFloyd/IF-I-M-v1.0` brings, once its licence is accepted; of it,
`unet`, `scheduler` (stage II: `image_noising_scheduler` too), `text_encoder` and `tokenizer` are read. The result is a
folder of weights like any other: IF's parameters, and neighbour attention that adds nothing until it is trained. Needs
twice the memory of the weights in float32 (IF-I-XL: 35 GB), and no accelerator.
"""

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import tyro

from reimagen_jax.errors import UserError
from reimagen_jax.terminal import say


@dataclass(frozen=True)
class Convert:
    """Convert a stage of DeepFloyd IF, and add attention over neighbours."""

    pipeline: Annotated[Path, tyro.conf.Positional]
    """Folder of a stage I or II pipeline."""
    out: Path
    """Folder to write; it must not exist yet."""
    neighbours_at: tuple[int, ...] | None = None
    """Sides of the feature maps that attend to neighbours (default: the lowest alone, as the paper has one)."""
    no_neighbours: bool = False
    """Plain IF, without attention over neighbours."""
    text_encoder: Path | None = None
    """Folder of IF's T5 (default: text_encoder in the pipeline's folder). It embeds the empty text."""
    cleaning: Literal["none", "deepfloyd"] = "none"
    """deepfloyd: all texts that the model reads are cleaned, as IF's own captions were (needs the extra "clean")."""
    name: str = ""
    """Of the model (default: the pipeline's folder)."""
    dtype: Literal["float32", "float16", "bfloat16"] = "float32"
    """How weights are stored, and with bfloat16 held: half the memory when images are drawn."""
    overwrite: bool = False
    """Replace an existing output folder, once the new one is complete."""

    def run(self) -> None:
        """Reads, converts and writes. Raises `UserError` on a folder that is not a stage of IF."""
        import jax.numpy as jnp

        from reimagen_jax.errors import require
        from reimagen_jax.files import atomic_dir, write_text
        from reimagen_jax.inference.export import CARD, model_card, save_weights
        from reimagen_jax.systems.reimagen.deepfloyd_pipeline import read_stage

        require(
            not (self.no_neighbours and self.neighbours_at),
            f"--no-neighbours and --neighbours-at {self.neighbours_at} contradict each other",
        )
        stage = read_stage(
            self.pipeline,
            self.name or self.pipeline.resolve().name,
            neighbours_at=() if self.no_neighbours else self.neighbours_at,
            text_encoder=self.text_encoder,
            cleaning=self.cleaning,
        )
        about = f"DeepFloyd IF's {self.pipeline.resolve().name}, converted, with attention over neighbours from zero."
        with atomic_dir(self.out, kind="weights", overwrite=self.overwrite) as folder:
            save_weights(folder, stage.config, stage.params, jnp.dtype(self.dtype))
            write_text(folder / CARD, model_card(stage.config, {}, about=about, licence="deepfloyd-if-license"))
        attended = [i for i, level in enumerate(stage.config.system.unet.levels) if level.neighbour_attention]
        side = stage.config.system.resolution
        print(f"{stage.config.name}: {side} x {side} pixels, neighbour attention at levels {attended}, in {self.out}")


def main() -> int:
    """Runs the tool: 0, or 2 on bad input."""
    try:
        tyro.cli(Convert, config=(tyro.conf.FlagCreatePairsOff,)).run()
    except UserError as error:
        say(f"error: {' '.join(str(error).split())}", error=True)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
