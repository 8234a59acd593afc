"""`reimagen augment`: records into more records, each picture drawn anew several times."""

import dataclasses
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar

import tyro
from annotated_types import Le

from reimagen_jax.checked import Count, Natural, Options
from reimagen_jax.commands.sampling_options import CascadeOptions, SamplingOptions, open_drawing
from reimagen_jax.errors import require
from reimagen_jax.systems.seedselect.settings import OURS, SeedSelectConfig
from reimagen_jax.terminal import say

if TYPE_CHECKING:
    from reimagen_jax.encoders.image_function import ImageEncoder
    from reimagen_jax.inference.model import Model
    from reimagen_jax.inference.pipeline import Pipeline

SHARD, SEARCHED_SHARD = 256, 16
"""Records of a shard: what is lost at most when the process is killed. The second where noise is searched."""
SEARCHED_BY = {"steps": 10, "solver": "ddim"}
"""Where noise is searched and nothing else is said: gradients go through all steps."""


@dataclass(frozen=True)
class _Drawing(SamplingOptions):
    """How variants are drawn."""

    common: ClassVar[tuple[str, ...]] = ("num_images", "steps", "seed")

    num_images: Annotated[Count, tyro.conf.arg(name="variants")] = 4
    """Variants of each record, from different noise. With more, those that there were stay the same."""

    @classmethod
    def spelt(cls, name: str) -> str:
        return "variants" if name == "num_images" else super().spelt(name)


@dataclass(frozen=True)
class Augment(Options):
    """Draw variants of every record from its own picture, as records, such as to train on few shots.

        reimagen augment runs/few --model runs/rcg/generator --variants 8 --out runs/more
        reimagen augment runs/few --model runs/unclip/decoder --originals --out runs/more
        reimagen augment runs/few --model shipped --neighbour-weight 2 --out runs/more
        reimagen augment runs/few --model shipped --k 0 --encoder runs/encoder --out runs/more

    A generator of RCG draws from the picture's representation, a decoder of unCLIP from its embedding, a Re-Imagen with
    the record as its one neighbour; the caption is the prompt. With --encoder, the noise is searched until its image is
    like the record (SeedSelect), in 10 steps of DDIM where nothing else is said. What is drawn has the caption and the
    attributes of its record, and tells its key (`source`) and the number of the variant (`variant`; 0 is the record
    itself); what a record has called so itself is `source_before` and `variant_before`. Hold records out before
    variants are drawn: those of one record are not to stand on both sides.

    Interrupted, by whatever, it goes on where it was when the same command is given again.
    """

    common: ClassVar[tuple[str, ...]] = ("originals", "encoder", "overwrite")

    records: Annotated[Path, tyro.conf.Positional]
    """Folder written by `reimagen prepare`."""
    model: Path
    """Folder of a training run (its last checkpoint is used) or of weights; `shipped`: the weights in the package."""
    out: Path
    """Folder of records to write."""
    originals: bool = False
    """Write the records themselves as well, each before its variants."""
    k: Annotated[Natural, Le(1)] = 1
    """0: the network of a Re-Imagen does not see the record; its caption, and with --encoder its noise, tell of it."""
    encoder: Path | None = None
    """What tells how alike images are, where noise is searched: a folder written by `reimagen encode-train`, or a
    CLIP's."""
    search: Annotated[SeedSelectConfig, tyro.conf.arg(name="")] = OURS
    how: Annotated[_Drawing, tyro.conf.arg(name="")] = field(default_factory=_Drawing)
    stages: Annotated[CascadeOptions, tyro.conf.arg(name="")] = field(default_factory=CascadeOptions)
    overwrite: bool = False
    """Replace the folder in --out, if this command wrote it, once the new one is complete; one of another kind, or with
    other files in it, is kept."""

    def run(self) -> None:
        """Draws and writes. Raises `UserError` on bad options or input."""
        from reimagen_jax.commands.sample import DRAWING
        from reimagen_jax.data.preparing import prepare_records
        from reimagen_jax.data.records import Records
        from reimagen_jax.inference.pipeline import check_chain
        from reimagen_jax.inference.variants import Variants

        records = Records.open(self.records)
        paths = (self.model, *(stage.model for stage in self.stages.cascade))
        models = [open_drawing(path, self.how.text_encoder, on_host=True, kinds=DRAWING) for path in paths]
        check_chain([model.config for model in models])
        first, last = models[0].config, models[-1].config
        require(
            first.system.super_resolution is None,
            f"--model {self.model} enlarges images: give it to --cascade, behind the model that draws them",
        )
        for config, option in ((first, "--model"), (last, "--cascade")):
            require(
                config.system.drawn is not None,
                f"{option}: {config.name} is a {config.system.kind}, which draws no pictures: variants are drawn by "
                "a Re-Imagen, a decoder of unCLIP or a generator of RCG",
            )
        encoder = self._encoder()
        pipeline = self._pipeline(models, encoder)
        checksums = "+".join([model.digest for model in models] + ([encoder.fingerprint] if encoder else []))
        variants = Variants(records, pipeline, checksums, self.how.num_images, self.originals)
        written = prepare_records(
            variants,
            self.out,
            settings=self._settings(pipeline),
            overwrite=self.overwrite,
            say=say,
            per_shard=SHARD if encoder is None else SEARCHED_SHARD,
        )
        say(f"{len(written)} records in {self.out}, {self.how.num_images} variants of each of {len(records)}")
        for reason, count in written.manifest["skipped"].items():
            say(f"  left out: {count} x {reason}")

    def _encoder(self) -> "ImageEncoder | None":
        from reimagen_jax.encoders.vectors import open_encoder

        if self.encoder is None:
            require(self.search == OURS, "options of the search are of no use without --encoder, by which it searches")
            return None
        require(
            not self.search.across_images,
            "--contrast and --start-iterations look at all pictures at once, and variants are drawn record by record: "
            "leave them out",
        )
        return open_encoder(self.encoder)

    def _pipeline(self, models: "list[Model]", encoder: "ImageEncoder | None") -> "Pipeline":
        """The stages; with an encoder, the first one searches."""
        from reimagen_jax.inference.pipeline import Pipeline
        from reimagen_jax.inference.searching import SearchedStage

        how = self.how
        if encoder is not None and how.times is None:
            how = dataclasses.replace(how, **{name: getattr(how, name) or of for name, of in SEARCHED_BY.items()})
        settings = how.settings(models[0].config.system.sampler)
        pipeline = self.stages.pipeline(models, how, settings, self.k)
        if encoder is None:
            return pipeline
        first, *later = pipeline.stages
        return Pipeline([SearchedStage.of(first, encoder=encoder, search=self.search), *later], how.seed)

    def _settings(self, pipeline: "Pipeline") -> dict[str, Any]:
        """What variants depend on besides their records and models."""
        stages = [dataclasses.asdict(stage.settings) for stage in pipeline.stages]
        return {
            "variants": self.how.num_images,
            "originals": self.originals,
            "seed": pipeline.seed,
            **({"search": dataclasses.asdict(self.search)} if self.encoder is not None else {}),
            **{f"stage {number}": settings for number, settings in enumerate(stages, 1)},
        }
