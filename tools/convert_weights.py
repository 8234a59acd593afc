"""Published weights into ours: a stage of DeepFloyd IF, karlo, which is an unCLIP, or the parts of RCG.

    python tools/convert_weights.py IF-I-M-v1.0 --out runs/if64
    python tools/convert_weights.py IF-II-M-v1.0 --text-encoder IF-I-M-v1.0/text_encoder --out runs/if256

    reimagen sample --model runs/if64 --prompt "a corgi on a skateboard" --out runs/corgi
    reimagen train experiments/if_finetune_64.py --init.weights runs/if64 --workdir runs/train --data.triples ...

The folders are what `huggingface-cli download DeepFloyd/IF-I-M-v1.0` brings, once its licence is accepted; of it,
`unet`, `scheduler` (stage II: `image_noising_scheduler` too), `text_encoder` and `tokenizer` are read. The result is a
folder of weights like any other: IF's parameters, and neighbour attention that adds nothing until it is trained. Needs
twice the memory of the weights in float32 (IF-I-XL: 35 GB), and no accelerator.

    python tools/convert_weights.py karlo-v1-alpha --out runs/karlo \
        --image-encoder karlo-v1-alpha-image-variations/image_encoder

    reimagen sample --model runs/karlo/prior --cascade runs/karlo/decoder runs/karlo/upsampler \
        --prompt "a corgi on a skateboard" --out runs/corgi

karlo's weights (kakaobrain/karlo-v1-alpha, and its sibling of image variations, which has no prior) become three
folders. The image encoder is CLIP's; without one, no picture can be embedded. The weights are licensed under CreativeML
Open RAIL-M, and so is what is made of them: its use restrictions go with them.

    python tools/convert_weights.py vit-b-300ep.pth.tar --out runs/moco_b
    python tools/convert_weights.py rdm-mocov3vitb.pth --out runs/rdm_b

An encoder of MoCo-v3 (github.com/facebookresearch/moco-v3; ViT-L of github.com/LTH14/rcg) becomes the folder of an
encoder, as `reimagen encode-train` writes it; a representation diffusion model of RCG (github.com/LTH14/rcg), with the
encoder that lies in its file, a folder of weights. PyTorch's files are read without running them, and PyTorch is not
needed. The encoder is licensed under CC BY-NC 4.0, and so is what is made of it: not for commercial use.

    python tools/convert_weights.py vqgan_jax_strongaug.ckpt --out runs/vq_256
    python tools/convert_weights.py mage-mocov3vitb.pth --out runs/mage_b
    python tools/convert_weights.py vgg16.safetensors --lpips vgg.pth --out runs/lpips

MaskGIT's tokenizer as MAGE's authors publish it becomes a folder of weights of a tokenizer, which a MAGE starts from
(`--init.weights`); a MAGE (of RCG, from representations, or of github.com/LTH14/mage, from nothing) a folder that
draws, with the tokenizer and the encoder that lie in its file. LPIPS, a VGG by torchvision's names and the weights of
its channels by LPIPS' own, becomes an encoder that a tokenizer's images are compared by as it learns.
"""

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import tyro

from reimagen_jax.cli import status_of


@dataclass(frozen=True)
class Convert:
    """Convert a stage of DeepFloyd IF, and add attention over neighbours; or karlo; or a part of RCG; or LPIPS."""

    pipeline: Annotated[Path, tyro.conf.Positional]
    """Folder of a stage I or II pipeline, or of karlo; or MoCo-v3's file (.pth.tar), an RDM's or a MAGE's of RCG, the
    tokenizer's of MAGE; or a VGG's, with --lpips."""
    out: Path
    """Folder to write; it must not exist yet."""
    neighbours_at: tuple[int, ...] | None = None
    """Sides of the feature maps that attend to neighbours (default: the lowest alone, as the paper has one)."""
    no_neighbours: bool = False
    """Plain IF, without attention over neighbours."""
    text_encoder: Path | None = None
    """Folder of IF's T5 (default: text_encoder in the pipeline's folder). It embeds the empty text."""
    image_encoder: Path | None = None
    """Of karlo: folder of CLIP's image tower (default: image_encoder in the pipeline's folder, if there is one)."""
    heads: int | None = None
    """Of MoCo-v3, and of a MAGE's encoder: heads of attention (default: those of the published sizes, by width)."""
    lpips: Path | None = None
    """Of a VGG: the file of LPIPS' weights of its channels."""
    cleaning: Literal["none", "deepfloyd"] = "none"
    """deepfloyd: all texts that the model reads are cleaned, as IF's own captions were (needs the extra "clean")."""
    name: str = ""
    """Of the model (default: the pipeline's folder)."""
    dtype: Literal["float32", "float16", "bfloat16"] = "float32"
    """How weights are stored, and with bfloat16 held: half the memory when images are drawn."""
    overwrite: bool = False
    """Replace an existing output folder, once the new one is complete."""

    def run(self) -> None:
        """Reads, converts and writes. Raises `UserError` on what is none of these."""
        from reimagen_jax.systems.mage.published import holds
        from reimagen_jax.systems.rcg.published import holds_rdm
        from reimagen_jax.systems.unclip.karlo import is_karlo

        if self.lpips is not None:
            self._lpips(self.lpips)
        elif self.pipeline.is_file() and (part := holds(self.pipeline)):
            self._mage(part)
        elif self.pipeline.is_file() and holds_rdm(self.pipeline):
            self._rdm()
        elif self.pipeline.is_file():
            self._moco()
        elif is_karlo(self.pipeline):
            self._karlo()
        else:
            self._stage_of_if()

    def _of_images(self, what: str, *, alone: bool) -> None:
        """Raises `UserError` for options that are about texts, or, of what is an encoder alone, about models."""
        from reimagen_jax.errors import require

        odd = {"--neighbours-at": self.neighbours_at, "--no-neighbours": self.no_neighbours}
        odd |= {"--text-encoder": self.text_encoder, "--image-encoder": self.image_encoder}
        odd |= {"--cleaning": self.cleaning != "none"}
        if alone:
            odd |= {"--name": self.name, "--dtype": self.dtype != "float32"}
        said = [name for name, value in odd.items() if value]
        require(not said, f"{', '.join(said)}: of text-to-image models, but {self.pipeline} is {what}")

    def _lpips(self, channels: Path) -> None:
        from reimagen_jax.encoders.dual import DualEncoder
        from reimagen_jax.encoders.lpips_published import published
        from reimagen_jax.errors import require
        from reimagen_jax.files import atomic_dir, require_writable, write_text

        require(self.heads is None, f"--heads: of MoCo-v3's file, but {self.pipeline} is a VGG")
        self._of_images("a VGG (--lpips)", alone=True)
        require_writable(self.out, kind="encoder", overwrite=self.overwrite)
        encoder = DualEncoder(*published(self.pipeline, channels), {"published": self.pipeline.name})
        card = f"# LPIPS\n\nHow alike images look, by features of a VGG. Converted from `{self.pipeline.name}` and "
        card += f"`{channels.name}`, whose licences go with them. A tokenizer's images are compared by it as it learns "
        card += "(`--perceptual.weight 1 --init.adopt --init.weights THIS_FOLDER`).\n"
        with atomic_dir(self.out, kind="encoder", overwrite=self.overwrite) as folder:
            write_text(folder / "README.md", card)
            encoder.save(folder)
        print(f"LPIPS, a VGG of widths {', '.join(map(str, encoder.config.vgg.widths))}, in {self.out}")

    def _mage(self, part: str) -> None:
        import jax.numpy as jnp

        from reimagen_jax.errors import require
        from reimagen_jax.files import atomic_dir, require_writable, write_text
        from reimagen_jax.inference.export import CARD, model_card, save_weights
        from reimagen_jax.systems.mage.published import LICENCE, read_mage, read_vq

        self._of_images("a tokenizer" if part == "vq" else "a MAGE", alone=False)
        require_writable(self.out, kind="weights", overwrite=self.overwrite)
        name = self.name or self.pipeline.name.partition(".")[0]
        if part == "vq":
            require(self.heads is None, f"--heads: of MoCo-v3's file, but {self.pipeline} is a tokenizer")
            config, params = read_vq(self.pipeline, name)
        else:
            config, params = read_mage(self.pipeline, name, self.heads)
        held = "encoder" in params
        about = f"{self.pipeline.name}, published by the authors of MAGE and RCG, converted"
        about += "; its encoder is MoCo-v3's, by Meta AI, licensed under CC BY-NC 4.0: not for commercial use." * held
        with atomic_dir(self.out, kind="weights", overwrite=self.overwrite) as folder:
            save_weights(folder, config, params, jnp.dtype(self.dtype))
            licence = LICENCE if held else ""
            card = model_card(config, {"Training": "by the authors of MAGE and RCG"}, about=about, licence=licence)
            write_text(folder / CARD, card)
        print(f"{config.name}: {config.system.kind}, {config.system.resolution} pixels, in {self.out}")
        if held:
            print("The encoder's licence, CC BY-NC 4.0, excludes commercial use; the card names it")

    def _rdm(self) -> None:
        import jax.numpy as jnp

        from reimagen_jax.files import atomic_dir, require_writable, write_text
        from reimagen_jax.inference.export import CARD, model_card, save_weights
        from reimagen_jax.systems.rcg.published import LICENCE, read

        self._of_images("an RDM of RCG", alone=False)
        require_writable(self.out, kind="weights", overwrite=self.overwrite)
        config, params = read(self.pipeline, self.name or self.pipeline.stem, self.heads)
        about = f"{self.pipeline.name}, a representation diffusion model of RCG by its authors, converted; its encoder "
        about += "is MoCo-v3's, by Meta AI, licensed under CC BY-NC 4.0: not for commercial use."
        with atomic_dir(self.out, kind="weights", overwrite=self.overwrite) as folder:
            save_weights(folder, config, params, jnp.dtype(self.dtype))
            card = model_card(config, {"Training": "by the authors of RCG"}, about=about, licence=LICENCE)
            write_text(folder / CARD, card)
        print(f"{config.name}: {config.system.kind}, {config.system.representation_width} values, in {self.out}")
        print("The encoder's licence, CC BY-NC 4.0, excludes commercial use; the card names it")

    def _moco(self) -> None:
        from reimagen_jax.commands.encode_images import published_card
        from reimagen_jax.encoders.dual import DualEncoder
        from reimagen_jax.encoders.moco_published import LICENCE, published
        from reimagen_jax.files import atomic_dir, require_writable, write_text

        self._of_images("a file, as MoCo-v3's is", alone=True)
        require_writable(self.out, kind="encoder", overwrite=self.overwrite)
        config, params = published(self.pipeline, self.heads)
        encoder = DualEncoder(config, params, {"published": self.pipeline.name, "licence": LICENCE})
        with atomic_dir(self.out, kind="encoder", overwrite=self.overwrite) as folder:
            write_text(folder / "README.md", published_card(encoder, self.pipeline.name, LICENCE))
            encoder.save(folder)
        print(f"encoder of {encoder.width} values, a vision transformer of width {config.tower.width}, in {self.out}")
        print("The weights' licence, CC BY-NC 4.0, excludes commercial use; the card names it")

    def _karlo(self) -> None:
        import jax.numpy as jnp

        from reimagen_jax.errors import require
        from reimagen_jax.files import atomic_dir, require_writable, write_text
        from reimagen_jax.inference.export import CARD, model_card, save_weights
        from reimagen_jax.systems.unclip.karlo import LICENCE, parts_of, read

        odd = {"--neighbours-at": self.neighbours_at, "--no-neighbours": self.no_neighbours}
        odd |= {"--text-encoder": self.text_encoder, "--cleaning": self.cleaning != "none"}
        said = [name for name, value in odd.items() if value]
        require(not said, f"{', '.join(said)}: of a stage of DeepFloyd IF, but {self.pipeline} is karlo")
        require(self.heads is None, f"--heads: of MoCo-v3's file, but {self.pipeline} is karlo")
        for part in parts_of(self.pipeline):
            require_writable(self.out / part, kind="weights", overwrite=self.overwrite)
        name = self.name or self.pipeline.resolve().name
        for part, stage in read(self.pipeline, name, image_encoder=self.image_encoder).items():
            about = (
                f"The {part} of {self.pipeline.resolve().name}, an unCLIP by Kakao Brain, converted. Its weights are "
            )
            about += "licensed under CreativeML Open RAIL-M, whose use restrictions go with them."
            with atomic_dir(self.out / part, kind="weights", overwrite=self.overwrite) as folder:
                save_weights(folder, stage.config, stage.params, jnp.dtype(self.dtype))
                write_text(
                    folder / CARD,
                    model_card(stage.config, {"Training": "by Kakao Brain"}, about=about, licence=LICENCE),
                )
            print(f"{stage.config.name}: {stage.config.system.kind}, in {self.out / part}")
        print("The weights' licence, CreativeML Open RAIL-M, restricts what they may be used for; the cards name it")

    def _stage_of_if(self) -> None:
        import jax.numpy as jnp

        from reimagen_jax.errors import require
        from reimagen_jax.files import atomic_dir, write_text
        from reimagen_jax.inference.export import CARD, model_card, save_weights
        from reimagen_jax.systems.reimagen.deepfloyd_pipeline import read_stage

        require(self.heads is None, f"--heads: of MoCo-v3's file, but {self.pipeline} is a folder")
        require(self.image_encoder is None, f"--image-encoder: of karlo, but {self.pipeline} has no text_proj")
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
    return status_of(lambda: tyro.cli(Convert, config=(tyro.conf.FlagCreatePairsOff,)).run())


if __name__ == "__main__":
    sys.exit(main())
