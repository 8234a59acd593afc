"""All that is owed on a real GPU, in order of worth, within the minutes at hand; what is done is kept.

    python tools/gpu_day.py --out runs/gpu_day --minutes 25 --triples runs/world/triples64
    python tools/gpu_day.py --out runs/tried --scale small --minutes 10        # the same parts, small, on a CPU

  device      the card and the software; what bfloat16 products and copies reach on it
  parity      the shipped model on the GPU against the CPU: loss, gradient, drawings; the same in any batch and order
  attention   cuDNN's against XLA's and plain products, forward and gradient: seconds, memory, error
  NAME        training and drawing of a network: images/s, MFU, peak memory and the compiler's plan, k = 2 and none
  rival       the base network beside imagen-pytorch's of the same size, if that is installed
  sampler     seconds an image of the shipped model, every solver by batch
  train       the experiment of `--experiment` on `--triples`, for the time that is left; exported as weights

Each part is a process of its own. A part that fails is told with the end of what it said, and the next one begins; the
same command does what is missing. OUT/results.json has all figures, OUT/NAME.log what a part printed.
"""

import json
import os
import re
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import tyro

from reimagen_jax import runtime

NETWORKS = ("if_finetune_64", "re_imagen_64_small", "re_imagen_256", "re_imagen_64")
"""Experiments whose network is measured, the commonest first."""
BATCHES = {"if_finetune_64": 64, "re_imagen_64_small": 64, "re_imagen_256": 32, "re_imagen_64": 64}
PARTS = ("device", "parity", "attention", NETWORKS[0], "rival", "sampler", *NETWORKS[1:], "train")
SPARE_S = 20.0
"""Of the time at hand: to end a training and to export its weights."""
CONSTANT = 0.7
"""Of the time of a training, before its rate begins to fall: a fifth of the steps, and a start, are to come."""
ROOT = Path(__file__).resolve().parent.parent


@dataclass(frozen=True)
class GpuDay:
    """Run what has not run yet."""

    out: Path
    """Folder of the results; made, or gone on with."""
    minutes: float = 25.0
    """At hand, for everything."""
    parts: tuple[str, ...] = PARTS
    """What to do, in this order."""
    scale: Literal["auto", "paper", "small"] = "auto"
    """Networks of their own size, or 1/8 as wide; auto: small on a CPU."""
    experiment: Path = ROOT / "experiments" / "entityworld32.py"
    """What the time that is left trains."""
    triples: Path | None = None
    """Its training data; without, nothing is trained."""
    options: str = ""
    """Further settings of that training, as in --options="--resolution 64 --data.batch-size 256"."""
    part: str = ""
    """Do this part alone and print its figures: for the tool's own use."""


def device(args: GpuDay) -> dict[str, Any]:
    """What this is, and its two ceilings, measured."""
    import jax
    import jax.numpy as jnp
    import measure  # beside this file

    small = is_small(args)
    side, items = (512, 2**20) if small else (8192, 2**31)
    x = jax.random.normal(jax.random.key(0), (side, side), jnp.bfloat16)
    y = jax.random.normal(jax.random.key(1), (items,), jnp.bfloat16)
    product, copy = jax.jit(lambda x: x @ x), jax.jit(lambda y: y + 1)
    times = measure.timed(
        {"product": lambda: product(x).block_until_ready(), "copy": lambda: copy(y).block_until_ready()}, 10
    )
    card = jax.devices()[0]
    return {
        "kind": card.device_kind,
        "count": len(jax.devices()),
        "driver": told_by("nvidia-smi", "--query-gpu=name,driver_version,memory.total", "--format=csv,noheader"),
        "versions": versions(),
        "bytes_limit": (card.memory_stats() or {}).get("bytes_limit"),
        "bfloat16_flops": 2 * side**3 / times["product"]["seconds"],
        "copy_bytes_per_second": 2 * 2 * items / times["copy"]["seconds"],
    }


def parity(args: GpuDay) -> dict[str, Any]:
    """The shipped model on both kinds of device, by products of both precisions; images of every batch and order."""
    import jax
    import numpy as np

    from reimagen_jax import api
    from reimagen_jax.inference.model import Model
    from reimagen_jax.inference.prompts import Prompt
    from reimagen_jax.systems import kinds

    model, B = Model.open("shipped"), 4 if is_small(args) else 16
    system, settings, rng = kinds.system_of(model.config), model.config.system.sampler, np.random.default_rng(0)

    def told(spec: Any) -> Any:
        def fill(leaf: jax.ShapeDtypeStruct) -> np.ndarray:
            if leaf.dtype == bool:
                return np.ones(leaf.shape, bool)
            if np.issubdtype(leaf.dtype, np.integer):
                return rng.integers(1, 256, leaf.shape).astype(leaf.dtype)
            return np.full(leaf.shape, 0.5, leaf.dtype)

        return jax.tree.map(fill, spec)

    batch, inputs = told(system.batch_spec(B)), told(system.inputs_spec(B, settings))
    key, keys = jax.random.key(0), jax.random.split(jax.random.key(1), B)

    def step(params: Any, batch: Any, key: Any) -> Any:
        (loss, _), grads = jax.value_and_grad(system.loss, has_aux=True)(params, batch, key, ema=params)
        return loss, grads

    def draw(params: Any, inputs: Any, keys: Any) -> Any:
        return system.sample(params, inputs, keys, settings)

    def on(where: Any, precision: str) -> tuple[Any, Any, Any]:
        arguments = jax.device_put((model.params, batch, key, inputs, keys), where)
        with jax.default_matmul_precision(precision), jax.default_device(where):
            loss, grads = jax.jit(step)(*arguments[:3])
            drawn = jax.jit(draw)(arguments[0], *arguments[3:])
        return jax.device_get((loss, grads, drawn))

    loss, grads, drawn = on(jax.devices("cpu")[0], "highest")
    figures: dict[str, Any] = {"images": B}
    for precision in ("highest", "default"):
        found = on(jax.devices()[0], precision)
        wrong = np.abs(found[2].astype(int) - drawn)
        figures[precision] = {
            "loss, relative error": abs(float(found[0]) / float(loss) - 1),
            "gradient, relative error": off(found[1], grads),
            "drawn bytes, largest difference of 255": int(wrong.max()),
            "drawn bytes that differ": float(np.mean(wrong > 0)),
            "drawn bytes that differ by more than 2": float(np.mean(wrong > 2)),
        }
    base = [Prompt(f"a big cat number {n}") for n in range(B)]
    requests = [prompt.request(index) for index, prompt in enumerate(base)]
    pipeline = api.pipeline_of(model, base, 0, B // 2)
    once, again, backwards = pipeline(requests), pipeline(requests), pipeline(requests[::-1])[::-1]
    figures["again, bytes that differ"] = float(np.mean(once != again))
    figures["backwards, bytes that differ"] = float(np.mean(once != backwards))
    return figures


def attention(args: GpuDay) -> dict[str, Any]:
    """Every implementation against plain products in float32, forward and gradient, whole rows masked among them.

    Pixels of 32 x 32 that attend to themselves and to text (IF's 77 tokens make an odd number of keys), then the small
    attentions of the shipped network: to text at 4 x 4, to neighbours at 4 x 4 and 16 x 16.
    """
    import jax
    import jax.numpy as jnp
    import measure

    from reimagen_jax.nets.attention import attend

    large = [(64, 1024, 1024 + tokens, 8, 64) for tokens in (77, 78, 128)]
    shapes = [*large, (256, 16, 36, 5, 32), (256, 16, 64, 5, 32), (256, 256, 1024, 1, 48)]
    if is_small(args):
        shapes = [(2, 64, 64 + 78, 2, 64)]
    gpu, figures = jax.default_backend() == "gpu", {}
    for B, Q, M, H, D in shapes:
        sides = [(B, Q, H, D), (B, M, H, D), (B, M, H, D)]
        told = [jax.random.normal(jax.random.key(i), shape, jnp.bfloat16) for i, shape in enumerate(sides)]
        # Of every image some keys, of one in four none: what is drawn there is thrown away, its gradient is 0.
        kept_B = jnp.arange(B) % 4 > 0
        mask = kept_B[:, None] & (jnp.arange(M) < M - 7)

        def loss(
            q: Any, k: Any, v: Any, how: Any, kept_B: Any = kept_B, mask: Any = mask
        ) -> tuple[jax.Array, jax.Array]:
            out = jnp.where(kept_B[:, None, None, None], attend(q, k, v, mask, how), 0)
            return jnp.sum(out.astype(jnp.float32) ** 2), out

        step = jax.jit(jax.value_and_grad(loss, (0, 1, 2), has_aux=True), static_argnums=3)
        (_, exact), slopes = step(*(x.astype(jnp.float32) for x in told), "einsum")
        for how in ("einsum", "xla", *(("cudnn",) if gpu else ())):
            name = f"{B} images, {Q} queries, {M} keys, {H} heads of {D}: {how}"
            try:
                program = step.lower(*told, how).compile()
            except Exception as error:
                figures[name] = {"refused": str(error).splitlines()[0][:200]}
                continue
            (_, out), grads = program(*told)
            seconds = measure.timed({"step": lambda p=program, x=told: jax.block_until_ready(p(*x))}, 10)["step"]
            figures[name] = {
                "seconds": seconds["seconds"],
                "temporaries": program.memory_analysis().temp_size_in_bytes,
                "error": off(out, exact),
                "gradient, error": off(grads, slopes),
            }
    return figures


def off(tree: Any, exact: Any) -> float:
    """The relative error of a tree; NaN where anything of it is."""
    import jax
    import numpy as np

    def norm(tree: Any) -> float:
        return float(np.sqrt(sum(np.sum(np.square(np.float64(leaf))) for leaf in jax.tree.leaves(tree))))

    return norm(jax.tree.map(lambda a, b: np.float64(a) - np.float64(b), tree, exact)) / norm(exact)


def network(args: GpuDay) -> dict[str, Any]:
    """Training and drawing of an experiment's network, on random batches."""
    import measure

    from reimagen_jax.config import load_experiment

    if is_small(args):
        stage = "sr256" if args.part.endswith("256") else "base-small"
        return measure.stage_figures(measure.experiment(stage, True, 4), 2, 2)
    config = load_experiment(ROOT / "experiments" / f"{args.part}.py")
    config = replace(config, data=replace(config.data, batch_size=BATCHES[args.part]))
    return measure.stage_figures(config, 5, 10)


def rival(args: GpuDay) -> dict[str, Any]:
    """Both base networks without neighbours, in turn."""
    import bench
    import rival as beside

    if not beside.installed():
        return {"not installed": "PyTorch or imagen-pytorch"}
    scale, batch, rounds = ("small", 4, 2) if is_small(args) else ("paper", 32, 10)
    return bench.rival_figures(bench.Bench(scale=scale, batch=batch, rounds=rounds), "base-small")


def sampler(args: GpuDay) -> dict[str, Any]:
    """Seconds an image of the shipped model, at 12 guided evaluations."""
    import sampling_speed

    settings = sampling_speed.SamplingSpeed()
    if is_small(args):
        settings = replace(settings, solvers=("ddpm",), batches=(1,), evaluations=2, rounds=1)
    else:
        settings = replace(settings, batches=(1, 64), rounds=3)
    return {"seconds an image": sampling_speed.solvers(settings)}


def is_small(args: GpuDay) -> bool:
    import jax

    return args.scale == "small" or (args.scale == "auto" and jax.default_backend() == "cpu")


def versions() -> dict[str, str]:
    from reimagen_jax.inference.provenance import versions as ours

    return {name: str(version) for name, version in ours().items()}


def told_by(*command: str) -> str | None:
    try:
        return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return None


FUNCTIONS: dict[str, Callable[[GpuDay], dict[str, Any]]] = {
    "device": device,
    "parity": parity,
    "attention": attention,
    "rival": rival,
    "sampler": sampler,
} | dict.fromkeys(NETWORKS, network)


def train(args: GpuDay, until: float) -> dict[str, Any]:
    """Trains until then, at a constant rate first; in the last fifth of all steps, as many as the time allows, it falls
    to 0 (train.decay "tail"). Goes on where it was. Exports what there is."""
    reimagen = [sys.executable, "-m", "reimagen_jax.cli"]
    workdir, weights, log = args.out / "train", args.out / "weights", args.out / "train.log"
    command = [*reimagen, "train", args.experiment, "--workdir", workdir, "--data.triples", args.triples]
    command += shlex.split(args.options)
    command += ["--train.decay", "tail", "--train.num-steps"]
    begin = time.monotonic()
    with open(log, "a") as stream:

        def do(*words: object, end: float = float("inf")) -> int:
            process = subprocess.Popen(list(map(str, words)), stdout=stream, stderr=stream)
            try:
                process.wait(max(end - time.monotonic(), 1.0) if end < float("inf") else None)
            except subprocess.TimeoutExpired:
                process.send_signal(signal.SIGTERM)
            return process.wait()

        status = do(*command, 10**7, end=begin + CONSTANT * (until - begin))
        if saved := re.findall(r"saved step (\d+)", log.read_text()):
            status = do(*command, int(saved[-1]) * 5 // 4, end=until)
        export = do(*reimagen, "export", workdir, "--out", weights, "--dtype", "float16", "--overwrite")
    return {"status": status, "exported": export, "said": log.read_text()[-2000:].splitlines()[-8:]}


def run(args: GpuDay) -> dict[str, Any]:
    """Part after part; returns all results."""
    until = time.monotonic() + 60 * args.minutes
    args.out.mkdir(parents=True, exist_ok=True)
    path = args.out / "results.json"
    results = json.loads(path.read_text()) if path.exists() else {}
    for name in args.parts:
        left = until - time.monotonic()
        if "figures" in results.get(name, {}) or left < SPARE_S:
            continue
        start = time.monotonic()
        if name == "train":
            found = {"figures": train(args, until - SPARE_S)} if args.triples else {"left out": "no --triples"}
        else:
            found = in_process(args, name, left)
        results[name] = found | {"wall_s": round(time.monotonic() - start, 1)}
        path.write_text(json.dumps(results, indent=2) + "\n")
        print(f"{name}: {json.dumps(results[name])}", flush=True)
    return results


def in_process(args: GpuDay, name: str, left: float) -> dict[str, Any]:
    """A part's figures, or why there are none."""
    log = args.out / f"{re.sub('[^a-z0-9_]', '_', name)}.log"
    command = [sys.executable, __file__, "--out", args.out, "--part", name, "--scale", args.scale]
    try:
        with open(log, "w") as stream:
            done = subprocess.run(
                list(map(str, command)), stdout=subprocess.PIPE, stderr=stream, text=True, timeout=left
            )
    except subprocess.TimeoutExpired:
        return {"failed": f"took more than the {left:.0f} s that were left"}
    with open(log, "a") as stream:
        stream.write(done.stdout)
    if done.returncode:
        return {"failed": log.read_text()[-1000:]}
    return {"figures": json.loads(done.stdout.splitlines()[-1])}


def main(args: GpuDay) -> int:
    """Status 1 where a part has failed."""
    if args.part:
        print(json.dumps(FUNCTIONS[args.part](args)))
        return 0
    return int(any("failed" in found for found in run(args).values()))


if __name__ == "__main__":
    runtime.configure()
    os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")  # PyTorch, and what runs beside, need their part
    sys.exit(main(tyro.cli(GpuDay, description=__doc__)))
