"""Whether an experiment fits TPUs or GPUs that are not here, and how fast it can be there at best: it is compiled.

    pip install '.[tpu]'                                                    # for TPUs
    python tools/preflight.py experiments/re_imagen_64.py --topology v4:4x4x4 [--batch 2048] [--fsdp 8]
        [--what train sampler] [--json FILE] [any setting of the experiment, such as --train.accumulate 8]

    python -m venv cuda && cuda/bin/pip install '.[cuda]'                   # for NVIDIA GPUs, 4.4 GB
    cuda/bin/python tools/preflight.py experiments/if_finetune_64.py --topology rtx4090:1 [the same options]

Prints, for one chip (or card): memory by what it is for, against what the chip has; FLOPs, memory traffic and what
travels between chips, counted in the compiled program; the time that these take at best, and with it the highest
possible MFU; on GPUs, what each attention became (cuDNN's or XLA's), and the calls of cuBLAS and cuDNN. Exits with
status 1 when a program does not fit (and says what to change) or when it moves activations between chips, 2 when it
was asked wrongly. A step of the paper's size takes some ten minutes to compile for TPUs on two cores, which `--quick`
halves, and one to three for GPUs.
"""

import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Literal

import tyro

from reimagen_jax.cli import status_of
from reimagen_jax.config import Experiment, load_experiment
from reimagen_jax.errors import require
from reimagen_jax.preflight.gpus import Hosts
from reimagen_jax.preflight.topology import mesh, parse_topology, prepare_environment
from reimagen_jax.systems.reimagen.settings import ReImagenConfig


@dataclass(frozen=True)
class Preflight:
    """Compile an experiment's programs for devices that are not here, and say what they need of them."""

    experiment_file: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="EXPERIMENT.py")]
    """Python file that defines `config = Experiment(...)`."""
    topology: str
    """A slice of TPUs by its sides, v4:4x4x4, v5e:8x8, v5p:4x4x4, v6e:8x8; or GPUs: h100:8, h200:1, a100-80:8,
    a100-40:8, l4:1, rtx4090:1; two hosts of eight: h100:2x8."""
    config: Annotated[Experiment, tyro.conf.arg(name="")]
    also: tuple[str, ...] = ()
    """As many cards of other kinds that run the same machine code (h200:8 beside h100:8, a100-80 beside a100-40,
    l4 beside rtx4090): the program is compiled once, and counted for each."""
    batch: int | None = None
    """Images a step over all devices (data.batch_size)."""
    fsdp: int | None = None
    """Devices over which parameters are sharded (train.fsdp)."""
    what: tuple[Literal["train", "sampler"], ...] = ("train",)
    """Programs to compile."""
    sample_images: int | None = None
    """Images that the sampler draws at once (default: one a device)."""
    stored: Literal["float32", "bfloat16"] = "float32"
    """How the weights are stored that the sampler draws with, which is how they are held (reimagen export --dtype)."""
    json: Path | None = None
    """File to write the figures to."""
    hlo: Path | None = None
    """Folder to write the optimized programs to, as text."""
    quick: bool = False
    """Let the compiler for TPUs do less: half the time, but more memory and traffic than would really be needed."""

    @property
    def settings(self) -> Experiment:
        """The experiment with what was given."""
        config = self.config
        if self.batch is not None:
            config = replace(config, data=replace(config.data, batch_size=self.batch))
        if self.fsdp is not None:
            config = replace(config, train=replace(config.train, fsdp=self.fsdp))
        return config


def parse(args: Sequence[str]) -> Preflight:
    """The command line, with the experiment file's settings as defaults. Raises `UserError` if the file is missing."""
    path = next((Path(arg) for arg in args if arg.endswith(".py")), None)
    config = load_experiment(path) if path is not None else Experiment("unnamed", ReImagenConfig())
    default = Preflight(tyro.MISSING, tyro.MISSING, config)
    return tyro.cli(
        Preflight,
        prog="preflight.py",
        args=list(args),
        default=default,
        description=__doc__,
        config=(tyro.conf.AvoidSubcommands, tyro.conf.FlagCreatePairsOff),
    )


def run(args: Preflight) -> int:
    """Compiles, prints, writes; returns the exit status. Raises `UserError` on what cannot be compiled for."""
    where, *others = (parse_topology(name) for name in (args.topology, *args.also))
    for other in others:
        require(
            isinstance(where, Hosts) and where.alike(other),
            f"--also {other.name}: not as many cards as {where.name} that run the same code; compile for it alone",
        )
    prepare_environment(where)

    # Only now: what is set above is read when JAX starts.
    import jax

    from reimagen_jax.preflight import programs, report

    if args.quick:
        effort = "jax_exec_time_optimization_effort"  # as JAX before 0.12 has it
        jax.config.update(*((effort, -1.0) if hasattr(jax.config, effort) else ("jax_optimization_level", "O1")))
    config = programs.for_platform(args.settings, where.platform)
    chips = mesh(where, config.train.fsdp)
    reports = []
    for name in args.what:
        if name == "train":
            program = programs.train_program(config, chips)
        else:
            program = programs.sampler_program(config, chips, args.sample_images or chips.size, args.stored)
        made = report.compiled(program, config, where)
        if args.hlo and made.text:
            args.hlo.mkdir(parents=True, exist_ok=True)
            (args.hlo / f"{config.name}.{name}.txt").write_text(made.text)
        for each in (where, *(() if made.refused else others)):
            reports.append(report.counted(made, program, config, each, chips))
            print(report.table(reports[-1]), flush=True)
        if args.quick:
            print("compiled with little effort (--quick): memory and traffic are upper bounds")
    if args.json:
        args.json.write_text(json.dumps([report.to_dict(one) | {"quick": args.quick} for one in reports], indent=2))
    return 0 if all(one.memory.fits and one.sound for one in reports) else 1


def main(args: Sequence[str] | None = None) -> int:
    """The command; status 2 and one line on stderr on wrong input."""
    return status_of(lambda: run(parse(list(sys.argv[1:] if args is None else args))))


if __name__ == "__main__":
    sys.exit(main())
