"""A model to be handed on: weights as safetensors, the experiment as JSON, and a model card.

What is written opens by `--model DIR` in every command. Folders of the machine that it was trained on are left out.
"""

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np

from reimagen_jax.config import Experiment
from reimagen_jax.files import write_text
from reimagen_jax.pretrained.weights import save_weights

CARD = "README.md"


def export(
    folder: str | Path,
    config: Experiment,
    params: Any,
    *,
    dtype: np.dtype | type = np.float32,
    facts: Mapping[str, str] | None = None,
    about: str = "",
    licence: str = "",
) -> None:
    """Writes a folder of weights with its card. `facts` are further lines of the card's table, `about` its text."""
    config = without_paths(config)
    save_weights(folder, config, params, dtype)
    count = sum(leaf.size for leaf in jax.tree.leaves(params))
    stored = {"Parameters": f"{count:,}, stored as {np.dtype(dtype).name}"}
    write_text(Path(folder) / CARD, model_card(config, {**stored, **(facts or {})}, about, licence))


def without_paths(config: Experiment) -> Experiment:
    """The experiment without the folders that it was trained with."""
    text = config.text
    if text.frozen is not None:
        text = dataclasses.replace(text, frozen=dataclasses.replace(text.frozen, encoder=""))
    data = dataclasses.replace(config.data, triples="", text_embeddings="")
    init = dataclasses.replace(config.init, weights="", adopt=False)
    return dataclasses.replace(config, text=text, data=data, init=init)


def model_card(config: Experiment, facts: Mapping[str, str], about: str = "", licence: str = "") -> str:
    """The card as Markdown: front matter as Hugging Face reads it, what the model is, how it was trained and is used.

    What is not known (data, licence, intended use) the card asks for: it is to be completed by whoever hands it on.
    """
    stage, train = config.super_resolution, config.train
    takes = f"{stage.low_resolution} x {stage.low_resolution} pixels, enlarged to " if stage is not None else ""
    table = {
        "Images": f"{takes}{config.resolution} x {config.resolution} pixels",
        "Neighbours": f"{config.data.num_neighbours} in training",
        "Text encoder": _text(config),
        "Process": f"{config.diffusion.schedule} schedule, predicts {config.diffusion.prediction}"
        + (", learned variance" if config.diffusion.learned_variance else ""),
        "Training": f"batch {config.data.batch_size}, {train.optimizer}, learning rate {train.learning_rate:g}",
        "Sampler": f"{config.sampler.solver}, {config.sampler.num_steps} steps, text weight "
        f"{config.sampler.text_weight:g}, neighbour weight {config.sampler.neighbour_weight:g}",
        **facts,
    }
    rows = "\n".join(f"| {name} | {value} |" for name, value in table.items())
    extra = " --text-encoder T5" if config.text.frozen is not None else ""
    low = " --low-res IMAGE" if stage is not None else ""
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

A Re-Imagen (Chen et al., arXiv 2209.14491): it draws from a text and from retrieved image-text pairs.

    reimagen sample --model DIR --prompt "..." --reference IMAGE "what it shows"{low}{extra} --out OUT

`weights.safetensors` holds the averaged parameters, `experiment.json` the settings. Nothing here is unpickled.
"""


def _text(config: Experiment) -> str:
    frozen = config.text.frozen
    if frozen is None:
        return f"bytes, trained along, up to {config.text.max_bytes}"
    return f"frozen, width {frozen.width}, {frozen.max_tokens} tokens, fingerprint `{frozen.fingerprint[:16]}`"
