"""What neighbours cost at a denoising step: with k neighbours remembered, encoded anew, and without any.

    python tools/step_cost.py experiments/entityworld32.py [--k 2] [--batch 32] [--rounds 15]

Prints the time of a guided step's doubled batch for each of the three, and the ratios to the step without neighbours,
as medians over interleaved rounds (a busy machine slows all three alike).
"""

import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated

import tyro

from reimagen_jax import runtime


@dataclass(frozen=True)
class StepCost:
    """Time a denoising step with and without neighbours."""

    experiment: Annotated[Path, tyro.conf.Positional]
    """Experiment file whose network is timed (with random weights)."""
    k: int = 2
    """Neighbours."""
    batch: int = 32
    """Images; a guided step evaluates twice as many."""
    rounds: int = 15
    """Interleaved measurements."""


def main(args: StepCost) -> None:
    """Compiles the three steps, times them in turn and prints medians and ratios."""
    import jax
    import jax.numpy as jnp
    import numpy as np

    from reimagen_jax.config import load_experiment
    from reimagen_jax.systems.reimagen.system import ReImagen

    config = load_experiment(args.experiment)
    system = ReImagen(config)
    params = jax.jit(system.init)(jax.random.key(0))
    B, K, R = 2 * args.batch, args.k, config.system.resolution
    x, t_B = jnp.zeros((B, R, R, 3)), jnp.full(B, 0.5)

    def ones(k):
        spec = system.inputs_spec(B, replace(system.settings, k=k))
        return jax.tree.map(lambda leaf: jnp.ones(leaf.shape, leaf.dtype), spec)

    def predict(params, x, condition):
        return system.denoiser(params)(x, t_B, condition)

    def predict_anew(params, x, inputs):
        return predict(params, x, system.condition(params, inputs))

    condition, with_neighbours = jax.jit(system.condition), ones(K)
    steps = {
        "without neighbours": (jax.jit(predict), (params, x, condition(params, ones(0)))),
        f"k = {K}, remembered": (jax.jit(predict), (params, x, condition(params, with_neighbours))),
        f"k = {K}, encoded at every step": (jax.jit(predict_anew), (params, x, with_neighbours)),
    }
    for step, inputs in steps.values():
        jax.block_until_ready(step(*inputs))
    seconds = {name: [] for name in steps}
    for _ in range(args.rounds):
        for name, (step, inputs) in steps.items():
            start = time.perf_counter()
            jax.block_until_ready(step(*inputs))
            seconds[name].append(time.perf_counter() - start)

    base = np.array(seconds["without neighbours"])
    print(f"{config.name}, {args.batch} images, {jax.devices()[0].device_kind}, JAX {jax.__version__}")
    for name, times in seconds.items():
        ratio = np.median(np.array(times) / base)
        print(f"  {name:<32} {1e3 * np.median(times):8.1f} ms   ratio {ratio:.2f}")


if __name__ == "__main__":
    runtime.configure()
    main(tyro.cli(StepCost, description=__doc__))
