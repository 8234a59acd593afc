"""An encoder of images alone, of a run of MoCo-v3: a part of `reimagen encode-train`."""

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from reimagen_jax.encoders.dual import DualEncoder

CARD = """\
# An encoder of images

It turns images of {resolution} x {resolution} pixels into vectors of {width} values, without having seen a text:
{how}. RCG holds it frozen (`--init.weights THIS_FOLDER`); `reimagen verify` checks it.

- Made by `{command}`.
- A vision transformer over {patches} patches ({depth} blocks of width {tower}), {num_weights:,} weights with the head
  that it was trained through.
- The means and variances of its BatchNorms were measured on training records, after the last step.
"""
PUBLISHED = """\
---
license: {licence}
---

# An encoder of images

It turns images of {resolution} x {resolution} pixels into vectors of {width} values, without having seen a text:
MoCo-v3's vision transformer of {depth} blocks of width {tower}, {num_weights:,} weights with the head that it was
trained through. RCG holds it frozen (`--init.weights THIS_FOLDER`).

Converted from `{name}` as Meta AI published it, or RCG's authors after them. The weights are licensed under CC BY-NC
4.0, and so is what is made of them: **not for commercial use**.
"""
PROBES = """
## Measured

Attributes that a line tells from its vectors, of {held_out:,} records that were kept out of training:

```
{table}
```
"""


def image_encoder(run: Path, records: Path, probe: Sequence[str]) -> "DualEncoder":
    """The encoder of a run of MoCo-v3, complete, and what a linear probe tells from it of each of these attributes.

    Raises `UserError` when it learned from other records, and as `measure.probes` does.
    """
    from reimagen_jax.data.loader import CACHE_BYTES
    from reimagen_jax.encoders.dual import DualEncoder
    from reimagen_jax.errors import require
    from reimagen_jax.inference.model import Model
    from reimagen_jax.systems import kinds
    from reimagen_jax.systems.moco.feed import MocoFeed
    from reimagen_jax.systems.moco.measure import completed, probes
    from reimagen_jax.training.checkpoint import read_run

    learned_from, model = read_run(run)["data"], Model.open(run, on_host=True)
    config, train = model.config, model.config.train
    feed = MocoFeed(dataclasses.replace(config, data=dataclasses.replace(config.data, records=str(records))))
    require(feed.fingerprint == learned_from, f"{run} has learned from other records than {records} holds")
    read = feed.reader(CACHE_BYTES)
    params = completed(feed, kinds.system_of(config).encoder, model.params["encoder"], read)
    facts = {
        "training": {
            "num_steps": model.step,
            "objective": config.system.objective,
            "class_by": config.data.class_by,
            "augment": dataclasses.asdict(config.system.augment),
            "temperature": config.system.temperature,
            "batch_size": config.data.batch_size,
            "seed": config.data.seed,
            "momentum": train.ema_decay,
            "momentum_growth": train.ema_growth,
            "learning_rate": train.learning_rate,
            "weight_decay": train.weight_decay,
        },
        "records_fingerprint": feed.fingerprint,
        "measured": {"trained_on": len(feed.parts[0]), **(probes(feed, params, probe, read) if probe else {})},
    }
    return DualEncoder(config.system.network, params, facts)


def image_table(measured: dict[str, Any]) -> str:
    """What was measured, as aligned lines of text; one line without probes."""
    if "probes" not in measured:
        return f"trained on {measured['trained_on']:,} records; nothing was probed (--probe)"
    columns = ("representation", "features", "random", "chance")
    lines = [f"told right of {measured['held_out']} unseen".ljust(32) + "".join(name.rjust(16) for name in columns)]
    for name, found in measured["probes"].items():
        lines.append(f"  {name:<30}" + "".join(f"{found[column]:.3f}".rjust(16) for column in columns))
    return "\n".join(lines)


def image_card(encoder: "DualEncoder", command: str) -> str:
    """The README of such an encoder's folder."""
    measured, training = encoder.facts["measured"], encoder.facts["training"]
    how = "by MoCo-v3's loss, without labels"
    if training["objective"] == "supervised":
        how = f"by telling {training['class_by']}"
    head = CARD.format(how=how, command=command, **_told(encoder))
    if "probes" not in measured:
        return head
    return head + PROBES.format(held_out=measured["held_out"], table=image_table(measured))


def published_card(encoder: "DualEncoder", name: str, licence: str) -> str:
    """The README of the folder of a published encoder, out of the file `name`."""
    return PUBLISHED.format(name=name, licence=licence, **_told(encoder))


def _told(encoder: "DualEncoder") -> dict[str, Any]:
    """What both cards say of it."""
    from clu import parameter_overview

    config = encoder.config
    return {
        "resolution": config.resolution,
        "width": encoder.width,
        "patches": (config.resolution // config.patch) ** 2,
        "depth": config.tower.depth,
        "tower": config.tower.width,
        "num_weights": int(parameter_overview.count_parameters(encoder.params)),
    }
