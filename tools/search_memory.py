"""What a search of the noise costs by the number of sampler steps: memory of its programs, of what it keeps, and time.

    python tools/search_memory.py experiments/entityworld32.py [--steps 10 20 50] [--batch 4] [--loop steps]

A row for each number of steps, in one process: temporaries of the largest program, as compiled; the states that are
kept, one a step; the largest memory that the process had until then; seconds of a gradient, and of compiling. Random
weights, no neighbours, DDIM, and a mean of pixels in the place of an encoder.
"""

import resource
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Literal

import tyro

from reimagen_jax import runtime


@dataclass(frozen=True)
class SearchMemory:
    """Measure one gradient by the noise."""

    experiment: Annotated[Path, tyro.conf.Positional]
    """Experiment file whose network is searched through."""
    steps: tuple[int, ...] = (10, 20, 50)
    """Of the sampler."""
    batch: int = 4
    """Images; a guided step evaluates twice as many."""
    loop: Literal["auto", "scan", "steps"] = "auto"
    """As the setting of the search: one program, or a program a step."""


def main(args: SearchMemory) -> None:
    """Compiles and runs; prints a row for each number of steps."""
    import jax
    import jax.numpy as jnp

    from reimagen_jax.config import load_experiment
    from reimagen_jax.diffusion.sampler import image_keys
    from reimagen_jax.systems import kinds
    from reimagen_jax.systems.reimagen.system import ReImagen
    from reimagen_jax.systems.request import Request
    from reimagen_jax.systems.seedselect.losses import Goal
    from reimagen_jax.systems.seedselect.search import Objective
    from reimagen_jax.systems.seedselect.settings import SeedSelectConfig

    config = load_experiment(args.experiment)
    system, B, R = ReImagen(config), args.batch, config.system.resolution
    params = jax.jit(system.init)(jax.random.key(0))
    goal = Goal(jnp.ones((B, 3)), jnp.zeros((B, R, R, 3)), jnp.arange(B))
    x_T = jax.random.normal(jax.random.key(1), (B, R, R, 3))
    print(f"{config.name}, {B} images, {jax.devices()[0].device_kind}, JAX {jax.__version__}, loop {args.loop}")
    for steps in args.steps:
        settings = replace(system.settings, num_steps=steps, solver="ddim", k=0)
        inputs = kinds.feed_of(config).collate([Request("a dog", (), i) for i in range(B)], settings)
        told = jax.device_put((params, inputs, image_keys(0, range(B))))
        objective = Objective(
            lambda told, settings=settings: system.sampling(*told, settings),
            lambda params, image: image.mean(axis=(1, 2)),
            SeedSelectConfig(loop=args.loop),
        )
        jax.block_until_ready(objective(x_T, told, goal, None))
        began, cpu = time.perf_counter(), time.process_time()
        jax.block_until_ready(objective(x_T, told, goal, None))
        seconds, cpu = time.perf_counter() - began, time.process_time() - cpu
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**10
        kept = x_T.nbytes * (steps + 1) / 2**20
        print(
            f"{steps:4d} steps: temporaries {objective.memory() / 2**20:7.1f} MiB, states {kept:6.2f} MiB, "
            f"peak of the process {peak:6.0f} MiB, gradient {seconds:6.1f} s ({cpu:.1f} CPU-s), "
            f"compiling {objective.seconds_compiling:5.0f} s",
            flush=True,
        )


if __name__ == "__main__":
    runtime.configure()
    main(tyro.cli(SearchMemory, description=__doc__))
