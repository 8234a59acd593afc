"""What a model can be asked for, found out by asking: its feed is shown a request of each sort, and says why not.

Whoever lets people choose among systems (the studio) hides what a system lacks by this, and need not know its kind: the
reasons are the words of `Feed.check`, which refuses the same when it is drawn; but for options of the command line.
"""

import math
from collections.abc import Sequence
from dataclasses import replace
from itertools import pairwise
from typing import Literal, get_args

import numpy as np
import PIL.Image

from reimagen_jax.config import Experiment
from reimagen_jax.data import images
from reimagen_jax.errors import UserError
from reimagen_jax.systems import kinds
from reimagen_jax.systems.base import Settings
from reimagen_jax.systems.request import Edit, Neighbour, Request

Number = Literal["eta", "text_weight", "neighbour_weight"]
Ability = Literal["prompt", "neighbours", "alone", "edit", "negative", Number]
"""That its prompt says something; to draw from neighbours, or without any; on a picture; away from a text; by a number
of guidance."""


def example(config: Experiment, *, neighbours: bool) -> Request:
    """A request that stands for all of its sort: a prompt that the model knows, and a grey neighbour or none."""
    known = config.system.known_prompts
    hits = (_grey(config),) if neighbours else ()
    return Request(known[0] if known else "", hits)


def lacking(configs: Sequence[Experiment], settings: Settings) -> dict[Ability, str]:
    """What models in a row cannot be asked for, and why, the first drawing by these settings."""
    first, names = configs[0], get_args(Number)
    settings = settings.with_room(min(1, first.data.num_neighbours))
    lacks: dict[Ability, str] = {
        "alone": _refusal(first, settings, example(first, neighbours=False)),
        "neighbours": _refusal(first, settings, example(first, neighbours=True)),
    }
    served = example(first, neighbours=bool(lacks["alone"]))
    lacks["negative"] = _refusal(first, settings, replace(served, negative="a dog"))
    lacks["edit"] = _refusal(first, settings, replace(served, edit=Edit(_grey(first).image))) or _later(configs)
    for name in names:
        asked = replace(served, guidance={name: getattr(settings, name, 1.0)})
        lacks[name] = _refusal(first, settings, asked)
        if not lacks[name] and name not in settings.guided_by:
            lacks[name] = f"the guidance that {first.name} draws by has no {name.replace('_', ' ')}"
    if lacks["neighbours"]:  # which the one number is, and the other weighs
        lacks["eta"] = lacks["neighbour_weight"] = lacks["neighbours"]
    if first.system.known_prompts == ():
        lacks["prompt"] = f"{first.name} reads no prompt"
    return {name: why for name, why in lacks.items() if why}


def _later(configs: Sequence[Experiment]) -> str:
    """Why models that enlarge what those before have drawn refuse to do so on a picture."""
    for before, config in pairwise(configs):
        if before.system.drawn is None:
            continue
        low = np.zeros((before.system.drawn, before.system.drawn, 3), np.uint8)
        if why := _refusal(config, config.system.sampler, Request(start=low, edit=Edit(low))):
            return why
    return ""


def _refusal(config: Experiment, settings: Settings, request: Request) -> str:
    """Why the model does not serve a request; empty where it does."""
    try:
        kinds.feed_of(config).check(request, settings)
    except UserError as error:
        return error.wrong
    return ""


def _grey(config: Experiment) -> Neighbour:
    """A picture that a stage of any resolution can read."""
    side = max(1, config.system.resolution)
    picture = PIL.Image.new("RGB", (side, side), (128, 128, 128))
    return Neighbour(np.asarray(picture), "", math.nan, "", images.encode(picture, lossy=False))
