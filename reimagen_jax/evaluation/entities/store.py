"""What arms gave, on disk: written as soon as it is rated, under a checksum of all that it depends on.

So a run that was stopped goes on where it was.

The images kept of an arm, to look at, lie beside its ratings as one strip.
"""

import dataclasses
import time
from pathlib import Path
from typing import Annotated, Any

import numpy as np
from jaxtyping import Int, UInt8
from pydantic import StringConstraints

from reimagen_jax.checked import Checked, Natural, NonNegative, Number, parse
from reimagen_jax.errors import UserError, require
from reimagen_jax.evaluation.entities.arms import Arm
from reimagen_jax.evaluation.entities.bench import EntityBench, Outcome
from reimagen_jax.evaluation.entities.kept import Keeper
from reimagen_jax.evaluation.store import checksum, load_image, save_image
from reimagen_jax.files import read_json, signed, unchanged, write_json

SHOWN = 6
"""Prompts whose images are kept."""


@dataclasses.dataclass(frozen=True)
class _Bits:
    """A boolean array."""

    shape: tuple[Natural, ...]
    bits: tuple[Annotated[str, StringConstraints(pattern=r"^[01]*$")], ...]


@dataclasses.dataclass(frozen=True)
class _Outcome(Checked):
    """An `Outcome` as it is stored."""

    faithful_NS: _Bits
    aligned_NS: _Bits
    look_right_NSP: _Bits
    scene_right_NSA: _Bits
    told_NA: _Bits
    copied_NS: _Bits
    found_N: tuple[Number, ...]
    category_N: tuple[int, ...]
    seconds: NonNegative = 0.0


@dataclasses.dataclass(frozen=True)
class _Stored:
    """What is in a file of ratings."""

    settings: dict[str, Any]
    outcome: dict[str, Any]
    checksum: str = ""
    """Of both; empty where a version of before has written it."""


def run_arm(bench: EntityBench, arm: Arm, folder: Path, keeper: Keeper | None = None) -> Outcome:
    """What an arm gives: read from `folder` if an earlier run has stored it there, else drawn and stored.

    The first image of each of the first prompts is stored too, as a strip; all of them where there is a keeper.
    """
    path = stored(bench, arm, folder)
    if path.is_file() and (keeper is None or keeper.has(arm)):
        told = read_json(path, "ratings")
        outcome = from_json(parse(_Stored, told, str(path)).outcome, bench.entities(arm.split), str(path))
        require(unchanged(told), f"{path} is not as it was written: delete it to draw and rate again")
        return outcome
    began = time.perf_counter()
    images = bench.draw(arm)
    outcome = bench.rated(arm, images, time.perf_counter() - began)
    folder.mkdir(parents=True, exist_ok=True)
    shown = images[:: bench.num_images][:SHOWN]
    save_image(np.concatenate(list(shown), axis=1), strip(bench, arm, folder))
    if keeper is not None:
        keeper.keep(arm, images)
    told = {"settings": bench.settings(arm), "outcome": to_json(outcome)}
    write_json(path, signed(told))  # last: all of it is there
    return outcome


def stored(bench: EntityBench, arm: Arm, folder: Path) -> Path:
    """Where the outcome of an arm is stored, once there is one."""
    return folder / f"{checksum(bench.settings(arm))}.json"


def strip(bench: EntityBench, arm: Arm, folder: Path) -> Path:
    """Where the images kept of an arm are."""
    return stored(bench, arm, folder).with_suffix(".png")


def read_strip(path: Path) -> UInt8[np.ndarray, "n r r 3"]:
    """The images of a strip, in order."""
    image = load_image(path)
    return np.stack(np.split(image, image.shape[1] // image.shape[0], axis=1))


def to_json(outcome: Outcome) -> dict[str, Any]:
    """The fields of an outcome, but for its prompts' entities; ratings as one string of 0 and 1 for each prompt, which
    is short and can be read."""

    def encode(value: Any) -> Any:
        if not isinstance(value, np.ndarray):
            return value
        if value.dtype != bool:
            return value.tolist()
        rows = ["".join("01"[int(x)] for x in row) for row in value.reshape(len(value), -1)]
        return {"shape": list(value.shape), "bits": rows}

    return {f.name: encode(getattr(outcome, f.name)) for f in dataclasses.fields(outcome) if f.name != "entity_N"}


def from_json(stored: dict[str, Any], entity_N: Int[np.ndarray, " n"], where: str = "ratings") -> Outcome:
    """The inverse of `to_json`, of prompts about these entities. Raises `UserError`, beginning with `where`, on what
    that does not write."""

    def decode(value: Any) -> Any:
        if isinstance(value, dict):
            return np.array([bit == "1" for row in value["bits"] for bit in row]).reshape(value["shape"])
        return np.array(value) if isinstance(value, list) else value

    parse(_Outcome, stored, where)
    try:
        decoded = {name: decode(value) for name, value in stored.items()} | {"entity_N": entity_N}
    except ValueError as error:
        raise UserError(f"{where}: {error}; delete it to draw and rate again") from error
    prompts = {len(value) for value in decoded.values() if isinstance(value, np.ndarray)}
    require(len(prompts) == 1, f"{where} tells of {sorted(prompts)} prompts: delete it to draw and rate again")
    return Outcome(**decoded)
