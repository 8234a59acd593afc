"""How fast each solver's error falls with the number of evaluations, where the best denoiser is a formula.

    python tools/solver_orders.py --out runs/solver_orders.png

Left, the solvers without noise, on a mixture of two Gaussians: the root mean square distance of what a solver makes of
a noise from what the exact flow makes of it (many steps of the classical Runge-Kutta method). Right, those with noise,
whose paths say nothing, on one Gaussian: what they draw is affine in the noises, so its variance is a sum, and the
error is that of the variance, relative. Times are evenly spaced, and end short of the image: the last step, to the
image itself, is of first order for all. The order in the legend is the slope of the last points. Heun's method asks
twice a step.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import tyro

from reimagen_jax import runtime

if TYPE_CHECKING:
    from matplotlib.figure import Figure

PATHS = ("ddim", "dpmpp_2m", "heun", "unipc")
DISTRIBUTIONS = ("ddpm", "ddim, noise 0.5", "dpmpp_2m_sde")
MIXTURE = ((0.3, -0.6, 0.15), (0.7, 0.5, 0.15))
"""Weight, mean and standard deviation of each part."""
GAUSSIAN = ((1.0, 0.3, 0.4),)
FITTED = 4
"""Points that the slope is of."""
Errors = Mapping[str, Sequence[float]]


@dataclass(frozen=True)
class SolverOrders:
    """Plot error against evaluations for all solvers."""

    out: Path = Path("solver_orders.png")
    """PNG file to write."""
    evaluations: tuple[int, ...] = (8, 12, 16, 24, 32, 48, 64, 96, 128)
    """Of the denoiser, for a sample."""
    start: float = 0.9
    """t where the flow begins."""
    end: float = 0.3
    """t where it ends."""
    samples: int = 256
    """Noises that are followed."""
    exact_steps: int = 5_000
    """Of the method that stands for the exact flow."""

    def run(self) -> None:
        """Prints errors and orders, and draws them."""
        import jax

        from reimagen_jax.reports import figures

        with jax.enable_x64(True), jax.numpy_dtype_promotion("standard"):  # the schedule's constants are of float32
            panels = {
                "a path, on a mixture": path_errors(self),
                "the variance, on a Gaussian": variance_errors(self),
            }
        for title, curves in panels.items():
            print(f"error of {title}")
            for solver, error_N in curves.items():
                said = " ".join(f"{error:.1e}" for error in error_N)
                print(f"  {solver:16} order {order(self.evaluations, error_N):.2f}: {said}")
        figures.save(figure(self.evaluations, panels), self.out)
        print(f"written: {self.out}")


def denoised(x: Any, alpha: Any, sigma: Any, parts: Sequence[tuple[float, float, float]]) -> Any:
    """E[x_0 | x_t] of a mixture: each part's, weighed by how likely it is at x_t."""
    import jax
    import jax.numpy as jnp

    said, predicted = [], []
    for weight, mean, std in parts:
        beside, variance = x - alpha * mean, alpha**2 * std**2 + sigma**2
        said.append(math.log(weight) - 0.5 * jnp.log(variance) - 0.5 * beside**2 / variance)
        predicted.append(mean + alpha * std**2 / variance * beside)
    return (jax.nn.softmax(jnp.stack(said), axis=0) * jnp.stack(predicted)).sum(axis=0)


def drawn(name: str, n: int, args: SolverOrders, parts: Sequence[tuple[float, float, float]]) -> Callable[..., Any]:
    """What n steps of a solver make of (x at the start, noises [n, ...])."""
    import jax
    import jax.numpy as jnp

    from reimagen_jax.diffusion import schedule, solvers
    from reimagen_jax.diffusion.base import Prediction
    from reimagen_jax.diffusion.settings import DiffusionConfig, SamplerConfig

    process = DiffusionConfig()
    kind, _, share = name.partition(", noise ")
    solver = solvers.solver_of(SamplerConfig(solver=kind, ddim_noise=float(share or 0.0)), process)
    times = jnp.linspace(args.start, args.end, n + 1)

    def predict(x: Any, t: Any) -> Prediction:
        alpha, sigma = schedule.alpha_sigma(t, process)
        x0 = denoised(x, alpha, sigma, parts)
        return Prediction(x0, (x - alpha * x0) / sigma)

    def step(state: Any, inputs: Any) -> tuple[Any, None]:
        return solver.step(predict, *state, *inputs), None

    return lambda x, noises: jax.lax.scan(step, (x, solver.init(x)), (times[:-1], times[1:], noises))[0][0]


def scales(args: SolverOrders) -> Any:
    """alpha and sigma, each at the start and at the end."""
    import jax.numpy as jnp
    import numpy as np

    from reimagen_jax.diffusion import schedule
    from reimagen_jax.diffusion.settings import DiffusionConfig

    return [np.asarray(each) for each in schedule.alpha_sigma(jnp.asarray([args.start, args.end]), DiffusionConfig())]


def path_errors(args: SolverOrders) -> Errors:
    """Of the solvers without noise."""
    import jax
    import jax.numpy as jnp
    import numpy as np

    alphas, sigmas = scales(args)
    low, high = np.log(sigmas / alphas)
    h, rng = (high - low) / args.exact_steps, np.random.default_rng(0)

    def slope(y: Any, u: Any) -> Any:
        """dy / du of y = x / alpha, u = log(sigma / alpha): y - x_0."""
        alpha = 1.0 / jnp.sqrt(1.0 + jnp.exp(2.0 * u))
        return y - denoised(alpha * y, alpha, alpha * jnp.exp(u), MIXTURE)

    def step(y: Any, i: Any) -> tuple[Any, None]:
        u = low + i * h
        first = slope(y, u)
        second = slope(y + 0.5 * h * first, u + 0.5 * h)
        third = slope(y + 0.5 * h * second, u + 0.5 * h)
        last = slope(y + h * third, u + h)
        return y + h / 6.0 * (first + 2.0 * second + 2.0 * third + last), None

    x = alphas[0] * rng.choice([-0.6, 0.5], args.samples) + sigmas[0] * rng.normal(size=args.samples)
    exact = jax.jit(lambda y: jax.lax.scan(step, y, jnp.arange(args.exact_steps))[0])
    true = alphas[1] * np.asarray(exact(x / alphas[0]))

    def error(name: str, evaluations: int) -> float:
        n = evaluations // 2 if name == "heun" else evaluations
        ours = jax.jit(drawn(name, n, args, MIXTURE))(jnp.asarray(x), jnp.zeros((n, args.samples)))
        return float(np.sqrt(np.mean((np.asarray(ours) - true) ** 2)))

    return {name: [error(name, n) for n in args.evaluations] for name in PATHS}


def variance_errors(args: SolverOrders) -> Errors:
    """Of the solvers with noise."""
    import jax
    import jax.numpy as jnp

    alphas, sigmas = scales(args)
    first, last = alphas**2 * GAUSSIAN[0][2] ** 2 + sigmas**2

    def error(name: str, n: int) -> float:
        gradient = jax.jit(jax.grad(drawn(name, n, args, GAUSSIAN), argnums=(0, 1)))
        by_x, by_noise = gradient(jnp.asarray(0.1), jnp.zeros(n))
        return abs(float(by_x**2 * first + jnp.sum(by_noise**2)) / last - 1.0)

    return {name: [error(name, n) for n in args.evaluations] for name in DISTRIBUTIONS}


def order(evaluations: Sequence[int], error_N: Sequence[float]) -> float:
    """The slope of the last points."""
    import numpy as np

    return -float(np.polyfit(np.log(evaluations[-FITTED:]), np.log(error_N[-FITTED:]), 1)[0])


def figure(evaluations: Sequence[int], panels: Mapping[str, Errors]) -> "Figure":
    """Errors against evaluations, both in logarithms."""
    from matplotlib.figure import Figure
    from matplotlib.ticker import NullFormatter

    from reimagen_jax.reports.figures import COLOURS, GRID
    from reimagen_jax.reports.plots import MARKERS

    drawing = Figure(figsize=(8.4, 3.6), layout="constrained")
    for axes, (title, curves) in zip(drawing.subplots(1, len(panels)), panels.items(), strict=True):
        for (name, error_N), colour, marker in zip(curves.items(), COLOURS, MARKERS, strict=False):
            label = f"{name}: order {order(evaluations, error_N):.2f}"
            axes.loglog(evaluations, error_N, color=colour, marker=marker, markersize=4, linewidth=1.4, label=label)
        axes.set_title(f"error of {title}", loc="left", fontsize=10)
        axes.set_xlabel("evaluations of the denoiser")
        axes.set_xticks(evaluations[::2], [str(n) for n in evaluations[::2]])
        axes.xaxis.set_minor_formatter(NullFormatter())
        axes.grid(color=GRID, linewidth=0.6)
        axes.legend(frameon=False, fontsize=8.5, loc="lower left")
    return drawing


if __name__ == "__main__":
    runtime.configure()
    tyro.cli(SolverOrders, description=__doc__).run()
