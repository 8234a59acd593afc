"""`reimagen embed`: captions of records into embeddings by a frozen text encoder, once, for all trainings on them."""

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, ClassVar, Literal

import tyro

from reimagen_jax.checked import Count, Options
from reimagen_jax.encoders.settings import Cleaning, FrozenTextConfig
from reimagen_jax.errors import require
from reimagen_jax.terminal import say

if TYPE_CHECKING:
    from reimagen_jax.data.records import Records


@dataclass(frozen=True)
class EmbedOptions(Options):
    """How captions are embedded, and where the embeddings go."""

    common: ClassVar[tuple[str, ...]] = ("text_embeddings", "text_encoder", "text_model")

    text_embeddings: Path | None = None
    """Folder of text embeddings to write, or to add to; it serves any number of records, and has each text once."""
    text_encoder: Path | None = None
    """Folder of the text encoder, a T5 or a CLIP as Hugging Face stores them (default: where --text-model has it)."""
    text_model: Path | None = None
    """A model (run, weights or `shipped`) that the embeddings are for: it tells the five settings that follow."""
    text_tokens: Count = 128
    """Texts are cut after this many tokens."""
    text_padding: Literal["masked", "kept"] = "masked"
    """`kept` stores all tokens of every text, padding too, for models that look at it (DeepFloyd IF)."""
    text_lowercase: bool = False
    """Lower and strip texts first (DeepFloyd IF)."""
    text_cleaning: Cleaning = "none"
    """deepfloyd: clean texts first, of markup, addresses, codes and advertising, as DeepFloyd IF does (needs the extra
    "clean")."""
    text_dtype: Literal["float32", "bfloat16"] = "bfloat16"
    """That the encoder computes in; embeddings are stored as bfloat16."""
    text_batch_size: Count = 32
    """Texts embedded at once."""
    text_device: Literal["accelerator", "host"] = "accelerator"
    """Where they are embedded: on the first device, or on the CPU, if the encoder is too large for the device. (The
    few texts that are drawn from are embedded on the CPU in any case.)"""

    def check(self) -> None:
        """Raises `UserError` on options that do not make sense together; opens nothing."""
        encoder = self.text_encoder or self.text_model
        require(
            (self.text_embeddings is None) == (encoder is None),
            "--text-embeddings DIR goes with --text-encoder DIR (or --text-model DIR): one of them is missing",
        )

    def embed(self, sources: "Sequence[Records]") -> None:
        """Embeds the captions of `sources`, saying first how much there is to do. Raises `UserError` on bad input."""
        from reimagen_jax.encoders.published import open_published, open_text_encoder
        from reimagen_jax.encoders.text_embeddings import embed_records

        settings = self._settings()
        if self.text_model is not None:
            encoder = open_text_encoder(settings, self.text_batch_size, self.text_device)
        else:
            encoder = open_published(
                settings.encoder,
                dtype=settings.dtype,
                max_tokens=settings.max_tokens,
                batch_size=self.text_batch_size,
                device=self.text_device,
            )
        store = embed_records(sources, encoder, settings, self.text_embeddings, say=say)
        captions = sum(len(records) for records in sources)
        say(f"the texts of {captions:,} captions are in {self.text_embeddings} (encoder {store.encoder[:16]})")

    def _settings(self) -> FrozenTextConfig:
        if self.text_model is None:
            return FrozenTextConfig(
                encoder=str(self.text_encoder),
                max_tokens=self.text_tokens,
                padding=self.text_padding,
                lowercase=self.text_lowercase,
                cleaning=self.text_cleaning,
                dtype=self.text_dtype,
            )
        from reimagen_jax.inference.model import experiment_of

        config = experiment_of(self.text_model)
        frozen = getattr(getattr(config.system, "text", None), "frozen", None)
        require(frozen is not None, f"--text-model {self.text_model} has no frozen text encoder")
        given = {} if self.text_encoder is None else {"encoder": str(self.text_encoder)}
        return dataclasses.replace(frozen, **given)


@dataclass(frozen=True)
class Embed(Options):
    """Embed the captions of records by a frozen text encoder: what trainings with `text.frozen` read.

        reimagen embed runs/train runs/knowledge --text-model runs/if64 --text-embeddings runs/text
        reimagen embed runs/train --text-encoder t5-v1_1-small --text-embeddings runs/text --text-tokens 64

    It says first how large the result gets. A text that is there already is not embedded again; a run that was killed
    goes on by the same command. `reimagen prepare` takes the same options.
    """

    records: Annotated[tuple[Path, ...], tyro.conf.Positional]
    """Records whose captions are embedded: those to train on, and those of the knowledge base."""
    how: Annotated[EmbedOptions, tyro.conf.arg(name="")] = field(default_factory=EmbedOptions)

    def run(self) -> None:
        """Embeds what is missing. Raises `UserError` on bad options or input."""
        from reimagen_jax.data.records import Records

        require(self.how.text_embeddings is not None, "--text-embeddings DIR is missing: the folder to write")
        require(len(self.records) > 0, "no records are given: name folders written by `reimagen prepare`")
        self.how.check()
        self.how.embed([Records.open(path) for path in self.records])
