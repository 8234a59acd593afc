"""Runs by the command line, as tests of several systems want them: two steps by a header's command, and a restart."""

import json
import re
import shlex
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import jax
import pytest

from reimagen_jax import sharding
from reimagen_jax.commands import train as command

EXPERIMENTS = Path(__file__).parents[1] / "experiments"


@contextmanager
def few_devices() -> Iterator[None]:
    """Training runs on one device here, or on as many as share its parameters: large steps take twice as long to
    compile for eight, and what is trained on eight is the training loop's own tests' to tell."""
    make_mesh = sharding.make_mesh

    def smallest(fsdp: int = 1, devices: Any = None) -> Any:
        return make_mesh(fsdp, jax.devices()[:fsdp] if devices is None else devices)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sharding, "make_mesh", smallest)
        yield


def commands(path: Path) -> list[list[str]]:
    """The `reimagen train` commands of an experiment's header, as arguments."""
    text = re.sub(r"\\\n\s*", "", path.read_text(encoding="utf-8").split('"""')[1])
    return [shlex.split(line)[2:] for line in text.splitlines() if line.strip().startswith("reimagen train")]


def small_command(name: str, folder: Path, *given: str) -> list[str]:
    """The last `reimagen train` command of an experiment's header, as arguments: it trains in `folder / name`, and what
    it names `runs/tiny/X` is `folder / X` for each X that is given."""
    path = EXPERIMENTS / f"{name}.py"
    places = {f"runs/tiny/{part}": folder / part for part in given} | {f"experiments/{name}.py": path}
    words = [str(places.get(word, word)) for word in commands(path)[-1]]
    words[words.index("--workdir") + 1] = str(folder / name)
    return words


def two_steps(name: str, folder: Path, *given: str) -> dict[str, Any]:
    """Of an experiment, by that command: what is logged of the second."""
    with few_devices():
        command.main(small_command(name, folder, *given))
    (logged,) = (json.loads(line) for line in (folder / name / "metrics.jsonl").read_text().splitlines())
    assert logged["step"] == 2
    return logged


def four_steps_and_parts(words: list[str], folder: Path) -> tuple[Path, Path]:
    """A run of four steps, and one that was stopped after two and gone on with: their folders."""
    whole, parts = folder / "whole", folder / "parts"
    words = [*words, "--train.num-steps", "4", "--train.checkpoint-every", "2"]
    with few_devices():
        command.main([*words, "--workdir", str(whole)])
        shutil.copytree(whole, parts)
        shutil.rmtree(parts / "checkpoints" / "4")
        command.main([*words, "--workdir", str(parts)])
    assert (parts / "checkpoints" / "4").is_dir()
    return whole, parts
