"""The kinds of systems: from settings, or from the JSON that they were stored as, to the system and its feed.

A system of one's own joins by `register`: then `reimagen train` trains it, and its runs open like any other's.
"""

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from pkgutil import resolve_name
from typing import Any

from reimagen_jax.checked import parse
from reimagen_jax.config import Experiment, InitConfig, SystemConfig, TrainConfig
from reimagen_jax.errors import UserError, require
from reimagen_jax.systems.base import Feed, System
from reimagen_jax.systems.dual.settings import ClipSystemConfig, DualSystemConfig
from reimagen_jax.systems.mage import settings as mage
from reimagen_jax.systems.moco.settings import MocoConfig
from reimagen_jax.systems.rater.settings import RaterSystemConfig
from reimagen_jax.systems.rcg import settings as rcg
from reimagen_jax.systems.reimagen import settings as reimagen
from reimagen_jax.systems.unclip import settings as unclip


@dataclass(frozen=True)
class Kind:
    """A kind of system. `system` and `feed` make theirs of an experiment; a text is where they are found."""

    settings: type[SystemConfig]
    system: Callable[[Experiment], System] | str
    feed: Callable[[Experiment], Feed] | str


_HERE = "reimagen_jax.systems"
_kinds = {
    kind.settings.kind: kind
    for kind in (
        Kind(reimagen.ReImagenConfig, f"{_HERE}.reimagen.system:ReImagen", f"{_HERE}.reimagen.feed:ReImagenFeed"),
        Kind(
            reimagen.DistillationConfig,
            f"{_HERE}.reimagen.distillation:Distillation",
            f"{_HERE}.reimagen.feed:ReImagenFeed",
        ),
        Kind(DualSystemConfig, f"{_HERE}.dual.system:DualSystem", f"{_HERE}.dual.feed:DualFeed"),
        Kind(ClipSystemConfig, f"{_HERE}.dual.system:ClipSystem", f"{_HERE}.dual.feed:DualFeed"),
        Kind(MocoConfig, f"{_HERE}.moco.system:Moco", f"{_HERE}.moco.feed:MocoFeed"),
        Kind(RaterSystemConfig, f"{_HERE}.rater.system:RaterSystem", f"{_HERE}.rater.feed:RaterFeed"),
        Kind(unclip.PriorConfig, f"{_HERE}.unclip.prior:Prior", f"{_HERE}.unclip.feed:PriorFeed"),
        Kind(unclip.ARPriorConfig, f"{_HERE}.unclip.ar_prior:ARPrior", f"{_HERE}.unclip.feed:ARPriorFeed"),
        Kind(unclip.DecoderConfig, f"{_HERE}.unclip.decoder:Decoder", f"{_HERE}.unclip.feed:DecoderFeed"),
        Kind(unclip.UpsamplerConfig, f"{_HERE}.unclip.upsampler:Upsampler", f"{_HERE}.unclip.feed:UpsamplerFeed"),
        Kind(rcg.RdmConfig, f"{_HERE}.rcg.rdm:Rdm", f"{_HERE}.rcg.feed:RdmFeed"),
        Kind(rcg.GeneratorConfig, f"{_HERE}.rcg.generator:Generator", f"{_HERE}.rcg.feed:GeneratorFeed"),
        Kind(mage.VQSystemConfig, f"{_HERE}.mage.tokenizer:Tokenizer", f"{_HERE}.mage.feed:VQFeed"),
        Kind(mage.MageConfig, f"{_HERE}.mage.system:MageSystem", f"{_HERE}.mage.feed:MageFeed"),
    )
}


def register(kind: Kind) -> None:
    """Makes a kind known under its settings' name; a file that is run again may register its kind anew.

    Raises `UserError` where another class of settings has the name, and for a setting that is named as a part of
    `Experiment`: on the command line, a system's settings have no prefix.
    """
    name, settings = kind.settings.kind, kind.settings
    known = _kinds[name].settings if name in _kinds else settings
    same = (known.__module__, known.__qualname__) == (settings.__module__, settings.__qualname__)
    where = f"{known.__module__}.{known.__qualname__}"
    require(same, f"a system of kind {name!r} is known already, {where}: name it otherwise")
    taken = {item.name for item in fields(settings)} & {item.name for item in fields(Experiment)}
    require(not taken, f"{where}: {', '.join(sorted(taken))} is a part of every experiment: name the setting otherwise")
    _kinds[name] = kind


def system_of(config: Experiment) -> System:
    """The system that an experiment describes."""
    return _made(_kind(config.system.kind).system, config)


def feed_of(config: Experiment) -> Feed:
    """What the host does for that system."""
    return _made(_kind(config.system.kind).feed, config)


def from_json(text: str) -> Experiment:
    """The inverse of `config.to_json`; experiments of earlier versions are read too.

    Raises `UserError` on a kind or a field that this version does not know.
    """
    return from_dict(json.loads(text))


def from_dict(fields: Mapping[str, Any]) -> Experiment:
    """The inverse of `config.to_dict`."""
    require(isinstance(fields, Mapping), "an experiment is a table of settings, not a list or a value")
    for name in ("system", "train"):
        require(isinstance(fields.get(name, {}), Mapping), f"experiment.{name} is no table of settings")
    fields = dict(fields if "system" in fields else reimagen.from_version_1(fields))
    system = dict(fields.pop("system"))
    settings = _kind(system.pop("kind", "")).settings
    parts = {"data": settings.data, "init": InitConfig, "train": TrainConfig}
    unknown = sorted(fields.keys() - parts.keys() - {"name"})
    require(not unknown, f"experiment.{min(unknown, default='')} is no setting that this version knows")
    require(isinstance(fields.get("name"), str), "experiment.name is missing, or no text")
    rest = {name: parse(parts[name], fields[name], f"experiment.{name}") for name in parts if name in fields}
    return Experiment(fields["name"], parse(settings, system, "experiment.system"), **rest)


def _kind(name: str) -> Kind:
    if not isinstance(name, str) or name not in _kinds:
        raise UserError(
            f"a system of kind {name!r} is not known, only {', '.join(_kinds)}: import the code that has it"
        )
    return _kinds[name]


def _made(maker: Callable[[Experiment], Any] | str, config: Experiment) -> Any:
    return (resolve_name(maker) if isinstance(maker, str) else maker)(config)
