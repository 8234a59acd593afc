"""A model to be handed on: weights as safetensors, the experiment as JSON, and a model card.

What is written opens by `--model DIR` in every command. Folders of the machine that it was trained on are left out.
"""

from collections.abc import Mapping
from pathlib import Path

import numpy as np
from clu import parameter_overview

from reimagen_jax.config import Experiment, to_json, without_local
from reimagen_jax.data.manifest import write_manifest
from reimagen_jax.files import write_text
from reimagen_jax.inference.model import EXPERIMENT
from reimagen_jax.pretrained.weights import WEIGHTS, save_params
from reimagen_jax.systems import kinds
from reimagen_jax.systems.base import Params

CARD = "README.md"


def save_weights(folder: str | Path, config: Experiment, params: Params, dtype: np.dtype | type = np.float32) -> None:
    """Writes a folder of weights: parameters and experiment."""
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    save_params(folder / WEIGHTS, params, dtype)
    write_text(folder / EXPERIMENT, to_json(config))


def export(
    folder: str | Path,
    config: Experiment,
    params: Params,
    *,
    dtype: np.dtype | type = np.float32,
    facts: Mapping[str, str] | None = None,
    about: str = "",
    licence: str = "",
) -> None:
    """Writes a folder of weights with its card. `facts` are further lines of the card's table, `about` its text."""
    config = without_local(config)
    save_weights(folder, config, params, dtype)
    stored = f"{int(parameter_overview.count_parameters(params)):,}, stored as {np.dtype(dtype).name}"
    write_text(
        Path(folder) / CARD, model_card(config, {"Parameters": stored, **(facts or {})}, about=about, licence=licence)
    )
    write_manifest(Path(folder), "weights", {"experiment": config.name}, leave=(CARD, EXPERIMENT))  # people edit those


def model_card(config: Experiment, facts: Mapping[str, str], *, about: str = "", licence: str = "") -> str:
    """The card as Markdown: front matter as Hugging Face reads it, what the model is, how it was trained and is used.

    What is not known (data, licence, intended use) the card asks for: it is to be completed by whoever hands it on.
    """
    train = config.train
    table = {
        **kinds.system_of(config).about(),
        "Training": f"batch {config.data.batch_size}, {train.optimizer}, learning rate {train.learning_rate:g}",
        **facts,
    }
    rows = "\n".join(f"| {name} | {value} |" for name, value in table.items())
    return f"""---
library_name: reimagen_jax
pipeline_tag: text-to-image
license: {licence or "unknown"}
---
# {config.name}

{about or "To be completed: what it draws, which images it was trained on, what it is meant for and what not."}

| | |
|---|---|
{rows}

{config.system.usage()}

`weights.safetensors` holds the averaged parameters, `experiment.json` the settings. Nothing here is unpickled.
"""
