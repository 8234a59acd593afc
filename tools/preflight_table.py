"""Every preset on every card and slice, in a table: compiled by preflight.py, one after the other, and kept.

    python tools/preflight_table.py --cuda cuda/bin/python --tpu tpu/bin/python
    python tools/preflight_table.py --kept runs/some.json --out runs/some.md --only IF-I-XL --on rtx4090:1 l4:1

A cell is a program (a preset's training step or sampler) on one topology, compiled in a process of its own; cards that
run the same machine code (h100 and h200, a100-40 and a100-80, rtx4090 and l4) share the program. Where it
does not fit, micro-batches (a sampler's images) are halved until it does, or until there is no half. What is done is
kept at once, so that the same command, given again, does what is missing; what that is stands on the page. A program
that does not compile is kept with the end of what was said, stands in the table, and is tried again. Status 1: one did
not compile.
"""

import json
import shlex
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import tyro

from reimagen_jax.cli import status_of
from reimagen_jax.errors import require
from reimagen_jax.files import read_json, write_json, write_text
from reimagen_jax.preflight import gpus
from reimagen_jax.preflight.topology import parse_topology
from reimagen_jax.terminal import say

ROOT = Path(__file__).resolve().parent.parent


@dataclass(frozen=True)
class Row:
    """A program and where it is compiled for."""

    name: str
    experiment: str
    what: Literal["train", "sampler"]
    images: int
    """A step; drawn at once."""
    on: Mapping[str, tuple[int, int]]
    """Topology -> train.fsdp and the train.accumulate to begin with; both 1 for a sampler."""
    options: str = ""

    @property
    def key(self) -> str:
        """Of what is kept."""
        return f"{self.name}, {self.what}, {self.images}"


def widths(base: int) -> str:
    """A network of IF's first stage as wide as a published one: its four levels are 1, 2, 3 and 4 times `base`."""
    levels = " ".join(f"--unet.levels.{i}.width {(i + 1) * base}" for i in range(4))
    return f"{levels} --unet.cond-width {4 * base} --unet.text-width {4 * base} --unet.time-features {base}"


LARGE, XL = widths(320), widths(704)
FROZEN = "--train.rates.1.factor 0 --train.frozen-dtype bfloat16"
"""Neighbour attention alone learns."""
HALF = "--stored bfloat16"
"""Weights to draw with as `reimagen export --dtype bfloat16` stores them."""


def everywhere(*names: str) -> dict[str, tuple[int, int]]:
    """Single cards, nothing shared, the whole batch at once."""
    return dict.fromkeys(names, (1, 1))


SINGLE = ("rtx4090:1", "l4:1", "a100-40:1", "a100-80:1", "h100:1", "h200:1")
ROWS = (
    Row("IF-I-M, all of it", "if_finetune_64", "train", 64, everywhere(*SINGLE)),
    Row("IF-I-L, all of it", "if_finetune_64", "train", 16, everywhere(*SINGLE), LARGE),
    Row("IF-I-XL, neighbours alone", "if_finetune_64", "train", 16, everywhere(*SINGLE), f"{XL} {FROZEN}"),
    Row("IF-I-XL, all of it", "if_finetune_64", "train", 64, {"h100:8": (8, 1), "a100-40:8": (8, 1)}, XL),
    Row("IF-II-M, all of it", "if_finetune_256", "train", 32, everywhere(*SINGLE)),
    Row("IF-I-M", "if_finetune_64", "sampler", 4, everywhere("rtx4090:1", "l4:1")),
    Row("IF-I-XL, bfloat16", "if_finetune_64", "sampler", 1, everywhere("rtx4090:1", "l4:1", "h100:1"), f"{XL} {HALF}"),
    Row("IF-II-M", "if_finetune_256", "sampler", 4, everywhere("rtx4090:1", "l4:1")),
    *(
        Row(name, experiment, "train", batch, {f"{card}:8": (8, accumulate) for card, accumulate in begin.items()})
        for name, experiment, batch, begin in (
            ("Re-Imagen 64, 2.5B", "re_imagen_64", 256, {"h100": 4, "h200": 2, "a100-80": 4, "a100-40": 8}),
            ("Re-Imagen 64, 1.4B", "re_imagen_64_small", 256, {"h100": 2, "h200": 2, "a100-80": 2, "a100-40": 4}),
            ("Re-Imagen 64 to 256", "re_imagen_256", 128, {"h100": 1, "h200": 1, "a100-80": 1, "a100-40": 1}),
            ("Re-Imagen 256 to 1024", "re_imagen_1024", 128, {"h100": 1, "h200": 1, "a100-80": 1, "a100-40": 1}),
        )
    ),
    Row("Re-Imagen 64, 2.5B", "re_imagen_64", "train", 256, {"h100:2x8": (8, 2)}),
    *(
        Row(name, experiment, "sampler", 4, everywhere("rtx4090:1", "a100-40:1", "h100:1"))
        for name, experiment in (
            ("Re-Imagen 64, 2.5B", "re_imagen_64"),
            ("Re-Imagen 64, 1.4B", "re_imagen_64_small"),
            ("Re-Imagen 64 to 256", "re_imagen_256"),
            ("Re-Imagen 256 to 1024", "re_imagen_1024"),
        )
    ),
    *(
        Row(name, experiment, "train", batch, {"h100:8": (8, accumulate), "v4:4x4x4": pod})
        for name, experiment, batch, accumulate, pod in (
            ("DALL-E 2's prior", "dalle2_prior", 4096, 4, (4, 2)),
            ("DALL-E 2's decoder", "dalle2_decoder", 2048, 8, (16, 4)),
            ("DALL-E 2, 64 to 256", "dalle2_256", 1024, 1, (4, 1)),
            ("DALL-E 2, 256 to 1024", "dalle2_1024", 512, 1, (4, 1)),
        )
    ),
    *(
        Row(name, experiment, "sampler", 4, everywhere("rtx4090:1", "h100:1"), HALF)
        for name, experiment in (
            ("DALL-E 2's prior, bfloat16", "dalle2_prior"),
            ("DALL-E 2's decoder, bfloat16", "dalle2_decoder"),
            ("DALL-E 2, 64 to 256, bfloat16", "dalle2_256"),
            ("DALL-E 2, 256 to 1024, bfloat16", "dalle2_1024"),
        )
    ),
    *(
        Row(name, experiment, "train", batch, {"h100:8": (8, accumulate), "v4:4x4x4": (4, 1)})
        for name, experiment, batch, accumulate in (
            ("RCG's MoCo-v3, ViT-B", "rcg_moco_b", 4096, 1),
            ("RCG's RDM", "rcg_rdm", 512, 1),
            ("RCG's MAGE-B", "rcg_mage_b", 4096, 4),
            ("RCG's MAGE-L", "rcg_mage_l", 4096, 4),
        )
    ),
    Row("RCG's tokenizer", "rcg_vq_256", "train", 32, {"h100:8": (8, 1)}),
    Row("Re-Imagen 64, 2.5B", "re_imagen_64", "train", 2048, {"v5p:4x4x4": (16, 8), "v6e:8x8": (8, 8)}),
    Row("Re-Imagen 64, 1.4B", "re_imagen_64_small", "train", 2048, {"v5e:16x16": (16, 4)}),
    Row("Re-Imagen 64, 2.5B", "re_imagen_64", "sampler", 64, {"v4:4x4x4": (1, 1)}),
)


@dataclass(frozen=True)
class PreflightTable:
    """Compile what is not kept yet, and write the table."""

    kept: Path = ROOT / "experiments" / "devices.json"
    """JSON of what is finished; made, or gone on with."""
    out: Path = ROOT / "experiments" / "DEVICES.md"
    """Markdown with the table of all that is kept."""
    cuda: Path = Path(sys.executable)
    """Python of an environment with '.[cuda]', for cards."""
    tpu: Path = Path(sys.executable)
    """Python of an environment with '.[tpu]', for slices."""
    only: tuple[str, ...] = ()
    """Rows with one of these words in their name, or `train`, `sampler`; all."""
    on: tuple[str, ...] = ()
    """Topologies; all."""
    limit: int | None = None
    """Compile so many cells at most; 0 writes the table alone."""


def tries(row: Row, topology: str) -> Iterator[dict[str, int]]:
    """Settings to try one after the other: half as much at once each time, as long as all devices have something."""
    size, (fsdp, accumulate) = parse_topology(topology).size, row.on[topology]
    at_once = row.images // accumulate
    while at_once >= size and at_once % size == 0:
        if row.what == "sampler":
            yield {"sample_images": at_once}
        else:
            yield {"batch": row.images, "fsdp": fsdp, "accumulate": row.images // at_once}
        at_once = at_once // 2 if at_once % 2 == 0 else 0


def alike(row: Row, topology: str, missing: Sequence[tuple[Row, str]]) -> tuple[str, ...]:
    """The other missing cells of the row for which the same program is compiled, to begin with."""
    where = parse_topology(topology)
    return tuple(
        other
        for same, other in missing
        if same is row and other != topology and row.on[other] == row.on[topology]
        if isinstance(where, gpus.Hosts) and where.alike(parse_topology(other))
    )


def command(row: Row, topologies: Sequence[str], settings: Mapping[str, int], args: PreflightTable) -> list[str]:
    """What compiles a cell, and counts it for others; its figures go to a file of which the name is to follow."""
    topology, *others = topologies
    card = isinstance(parse_topology(topology), gpus.Hosts)
    options = shlex.split(row.options) + ([] if card else ["--quick"])
    for name, value in settings.items():
        options += [{"accumulate": "--train.accumulate"}.get(name, f"--{name.replace('_', '-')}"), str(value)]
    also = ["--also", *others] if others else []
    experiment = f"experiments/{row.experiment}.py"
    python = str(args.cuda if card else args.tpu)
    return [
        python,
        "tools/preflight.py",
        experiment,
        "--topology",
        topology,
        "--what",
        row.what,
        *options,
        *also,
        "--json",
    ]


def compiled(row: Row, topologies: Sequence[str], args: PreflightTable) -> dict[str, dict[str, Any]]:
    """Cells of topologies that run the same program: the figures of the first settings that fit (or of the last), or
    why there are none."""
    cells: dict[str, dict[str, Any]] = {}
    for settings in tries(row, topologies[0]):
        rest = [topology for topology in topologies if not cells.get(topology, {}).get("figures", {}).get("fits")]
        if not rest:
            break
        words = command(row, rest, settings, args)
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "figures.json"
            begin = time.monotonic()
            done = subprocess.run([*words, str(path)], cwd=ROOT, capture_output=True, text=True)
            told = {"settings": settings, "command": shlex.join(words[1:-1]), "wall_s": round(time.monotonic() - begin)}
            if not path.exists():
                return cells | {rest[0]: told | {"failed": (done.stderr or done.stdout)[-1500:]}}
            for topology, figures in zip(rest, json.loads(path.read_text()), strict=False):  # refused: of the first
                cells[topology] = told | {"figures": kept_of(figures)}
    return cells


def kept_of(figures: Mapping[str, Any]) -> dict[str, Any]:
    """Of a report's figures, what is kept: no lists of all attentions, collectives and calls."""
    found = figures["attentions"]
    fused, places = (sum(len(one["places"]) for one in some) for some in ([x for x in found if x["fused"]], found))
    return {name: figures[name] for name in KEPT} | {"cudnn": fused, "attentions": places}


def run(args: PreflightTable) -> int:
    """Cell after cell; returns the exit status. Raises `UserError` for what is asked wrongly."""
    for topology in args.on:
        parse_topology(topology)
    for python in (args.cuda, args.tpu):
        require(shutil.which(python) is not None, f"{python} is no Python that can be run: give that of an environment")
    kept: dict[str, Any] = read_json(args.kept, "cells") if args.kept.exists() else {}
    todo = [
        (row, topology)
        for row, topology in missing(kept)
        if (not args.on or topology in args.on)
        and (not args.only or any(word in row.name or word == row.what for word in args.only))
    ]
    for i, (row, topology) in enumerate(todo[: args.limit]):
        if "figures" in kept.get(row.key, {}).get(topology, {}):  # by the program of another
            continue
        say(f"{i + 1} of {len(todo)}: {row.key}, on {topology}")
        cells = compiled(row, [topology, *alike(row, topology, todo[: args.limit])], args)
        if args.kept.exists():  # another may be at other rows
            kept = read_json(args.kept, "cells")
        kept.setdefault(row.key, {}).update(cells)
        args.kept.parent.mkdir(parents=True, exist_ok=True)
        write_json(args.kept, kept)
        for each, cell in cells.items():
            say(f"  {each}: {' | '.join(told(cell))}")
    write_text(args.out, page(kept))
    return 1 if any("failed" in cell for cells in kept.values() for cell in cells.values()) else 0


def missing(kept: Mapping[str, Mapping[str, Any]]) -> list[tuple[Row, str]]:
    """Rows and topologies without figures."""
    return [
        (row, topology)
        for row in ROWS
        for topology in row.on
        if "figures" not in kept.get(row.key, {}).get(topology, {})
    ]


KEPT = ("memory", "roofline", "model_flops", "flops", "hbm_traffic", "fits", "sound", "notes")
HEAD = """# Every preset on every card

    python tools/preflight_table.py --cuda cuda/bin/python --tpu tpu/bin/python

Compiled for cards and slices that were not here, none of it run ([preflight](../reimagen_jax/preflight/README.md) says
what makes the two environments). Of one device, in GiB: *held* are parameters, their average, the optimizer's moments
and the batch; *temporaries* are activations, gradients and gathered parameters; *of* is what programs can have of its
memory (95 % of a GPU's; JAX takes 75 % until `XLA_PYTHON_CLIENT_MEM_FRACTION=0.95` is set). *At best* is the slowest of
compute, memory traffic and network at the vendor's peaks (`reimagen_jax/preflight/gpus.toml` has them, with their
sources): no step, or drawing, is faster. *cuDNN* says how many of the attentions became cuDNN's; scores of the others
lie in memory. Where a program did not fit, more accumulation, or fewer images, was tried: what stands here fits, or is
the last that was tried. Re-Imagen and IF look at two neighbours (256 to 1024: none); bfloat16, every block
rematerialised. For TPUs compiled with little effort (`--quick`): upper bounds.
"""
COLUMNS = ("program", "on", "images", "accumulate", "fsdp", "held + temporaries", "of", "", "at best", "MFU", "cuDNN")


def page(kept: Mapping[str, Mapping[str, Any]]) -> str:
    """The Markdown page of all cells, training first; in the order of `ROWS`."""
    lines = [HEAD]
    for what, title in (("train", "Training"), ("sampler", "Drawing")):
        lines += [f"## {title}", "", f"| {' | '.join(COLUMNS)} |", f"|{'---|' * len(COLUMNS)}"]
        for row in ROWS:
            cells = kept.get(row.key, {}) if row.what == what else {}
            lines += [
                f"| {row.name} | `{where}` | {' | '.join(told(cells[where]))} |" for where in row.on if where in cells
            ]
        lines.append("")
    return "\n".join([*lines, *to_do(kept)])


def to_do(kept: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """The page's lines on what is not compiled yet; none when all is."""
    rest = [(row, topology) for row, topology in missing(kept) if topology not in kept.get(row.key, {})]
    if not rest:
        return []
    lines = [
        "## Not compiled yet",
        "",
        f"{len(rest)} of {sum(len(row.on) for row in ROWS)}. The command above compiles them, one after the other, and "
        "adds them to this page.",
        "",
    ]
    for row in ROWS:
        if where := [f"`{topology}`" for other, topology in rest if other is row]:
            lines.append(f"- {row.name} ({'training' if row.what == 'train' else 'drawing'}): {', '.join(where)}")
    return [*lines, ""]


def told(cell: Mapping[str, Any]) -> Sequence[str]:
    """A cell's columns, from "images" on."""
    settings = cell["settings"]
    images = settings.get("batch", settings.get("sample_images"))
    begin = [str(images), *(str(settings[name]) if name in settings else "" for name in ("accumulate", "fsdp"))]
    if "failed" in cell:
        return [*begin, "", "", "**does not compile**", "", "", ""]
    figures = cell["figures"]
    memory, roof = figures["memory"], figures["roofline"]
    gib = [size / 2**30 for size in (sum(memory["held"].values()), memory["temporaries"] or 0, memory["available"])]
    taken = f"{gib[0]:.1f} + {gib[1]:.1f}" if memory["temporaries"] is not None else f"{memory['peak'] / 2**30:.1f}"
    fits = "fits" if figures["fits"] else "**does not fit**"
    fits += "" if figures["sound"] else ", **activations travel**"
    best = f"{roof['bound']:.3g} s ({roof['limit']})" if roof else ""
    cudnn = f"{figures['cudnn']} of {figures['attentions']}" if figures["attentions"] else ""
    return [*begin, taken, f"{gib[2]:.1f}", fits, best, f"{roof['mfu']:.0%}" if roof else "", cudnn]


def main(args: PreflightTable) -> int:
    """The command; status 2 and one line on stderr on wrong input."""
    return status_of(lambda: run(args))


if __name__ == "__main__":
    sys.exit(main(tyro.cli(PreflightTable, description=__doc__, config=(tyro.conf.FlagCreatePairsOff,))))
