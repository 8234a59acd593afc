"""An experiment that goes on from published weights takes over what the weights decide, and keeps what is its own.

  theirs   channels, levels and attention of the network; text; schedule, prediction and variance; resolution
  ours     precision, rematerialisation and attention's implementation; loss weights; how low resolution is degraded;
           sampler, data, training; where the text encoder lies

So one experiment file serves every size of a published model: `init.adopt`.
"""

import dataclasses
from pathlib import Path

from reimagen_jax.config import Experiment, from_json, require
from reimagen_jax.pretrained.weights import EXPERIMENT

COMPUTED = ("dtype", "remat", "attention")
WEIGHED = ("weighting", "snr_limit", "variance_weight", "time_exponent")
DEGRADED = ("crop", "shrinking", "blur", "blur_width", "aug_levels")


def adopt(ours: Experiment, theirs: Experiment) -> Experiment:
    """`ours` with the network of `theirs`. Raises `UserError` when only one of them is a super-resolution stage."""
    kinds = ["a base model" if each.super_resolution is None else "a super-resolution stage" for each in (ours, theirs)]
    require(
        kinds[0] == kinds[1],
        f"{ours.name} is {kinds[0]}, but the weights in init.weights, {theirs.name}, are those of {kinds[1]}",
    )
    stage = theirs.super_resolution
    if stage is not None:
        stage = dataclasses.replace(stage, **_fields(ours.super_resolution, DEGRADED))
    text = theirs.text
    if text.frozen is not None and ours.text.frozen is not None and ours.text.frozen.encoder:
        text = dataclasses.replace(text, frozen=dataclasses.replace(text.frozen, encoder=ours.text.frozen.encoder))
    return dataclasses.replace(
        ours,
        resolution=theirs.resolution,
        unet=dataclasses.replace(theirs.unet, **_fields(ours.unet, COMPUTED)),
        text=text,
        diffusion=dataclasses.replace(theirs.diffusion, **_fields(ours.diffusion, WEIGHED)),
        super_resolution=stage,
    )


def settled(config: Experiment) -> Experiment:
    """The experiment as it is trained: its network taken over from its weights, where it says so.

    Raises `UserError` when `init.adopt` is set without `init.weights`, and when these are no run and no weights.
    """
    if not config.init.adopt:
        return config
    require(
        bool(config.init.weights),
        f"{config.name} takes its network over from weights: pass --init.weights DIR (written by "
        "tools/convert_weights.py, for instance)",
    )
    return adopt(config, experiment_of(config.init.weights))


def experiment_of(path: str | Path) -> Experiment:
    """The experiment of a folder of weights or of a training run; no weights are read."""
    path = Path(path)
    if (path / EXPERIMENT).is_file():
        return from_json((path / EXPERIMENT).read_text(encoding="utf-8"))
    require(path.is_dir(), f"{path} not found: give the folder of a training run (--workdir) or of weights")
    import json

    from reimagen_jax.training.checkpoint import read_run

    return from_json(json.dumps(read_run(path)["experiment"]))


def _fields(settings: object, names: tuple[str, ...]) -> dict[str, object]:
    return {name: getattr(settings, name) for name in names}
