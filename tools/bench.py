"""How fast the networks train and draw on the device at hand, and beside imagen-pytorch where PyTorch is installed.

    python tools/bench.py                                  # paper-size stages on a GPU or TPU, small ones on a CPU
    python tools/bench.py --stages base-small --batch 16   # one stage
    python tools/bench.py --threads 1                      # on a busy CPU: one core, and CPU time besides the clock's

For each stage: training images/s, step time, model FLOPs, MFU and peak memory; seconds to draw an image with k = 2
neighbours and without, and their ratio; seconds to compile, cold and from the cache. Then, in turn, our base U-Net and
imagen-pytorch's of the same number of parameters (tools/rival.py): training and guided denoising, as ratios of
neighbouring turns, their median and quartiles. Each part, and each of the two, runs in a process of its own. How
things are measured: tools/measure.py, tools/turns.py.
"""

import json
import os
import subprocess
import sys
import tempfile
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import turns  # beside this file
import tyro

from reimagen_jax import runtime

Stage = Literal["base", "base-small", "sr256", "sr1024"]


@dataclass(frozen=True)
class Bench:
    """Time training and drawing on this device."""

    stages: tuple[Stage, ...] = ("base", "sr256")
    """Which networks."""
    scale: Literal["auto", "paper", "small"] = "auto"
    """As large as the paper's; or 1/8 as wide, with one block a level and smaller images. auto: small on a CPU."""
    batch: int = 8
    """Images a training step, and images drawn at once."""
    rounds: int = 5
    """Measurements of each kind."""
    sampler_steps: int = 25
    """Denoising steps of the drawings that are timed."""
    no_compile: bool = False
    """Leave out the compilation's times."""
    no_rival: bool = False
    """Leave out imagen-pytorch."""
    compiled: bool = False
    """imagen-pytorch by torch.compile, where that works, not in eager mode."""
    threads: int = 0
    """CPU threads, 0 for all. With 1, other work on the machine hardly changes the CPU time that is reported."""
    json: Path | None = None
    """File to write the figures to."""
    part: str = ""
    """Do this part only and print it as JSON (compile:STAGE, stage:STAGE, rival:STAGE; ours:STAGE takes turns): for the
    bench's own use."""


def do_part(args: Bench) -> None:
    """One part, in this process: prints its figures."""
    what, _, stage = args.part.partition(":")
    if what == "rival":
        print(json.dumps(rival_figures(args, stage)))
        return
    import jax
    import measure  # beside this file

    small = args.scale == "small" or (args.scale == "auto" and jax.default_backend() == "cpu")
    config = measure.experiment(stage, small, args.batch)
    if what == "ours":
        turns.serve(*measure.ours_beside(config))
    elif what == "compile":
        print(json.dumps(measure.compile_figures(config)))
    else:
        print(json.dumps({"name": config.name} | measure.stage_figures(config, args.rounds, args.sampler_steps)))


def rival_figures(args: Bench, stage: Stage) -> dict[str, Any]:
    """Both base U-Nets without neighbours, in turn; imagen-pytorch's as wide as gives it our number of parameters."""
    import rival  # beside this file

    with turns.Served(command(args, f"ours:{stage}")) as ours:
        setting = ours.facts["setting"]
        words = [sys.executable, rival.__file__, json.dumps(setting), str(ours.facts["parameters"])]
        words += ["compiled"] if args.compiled else []
        with turns.Served(words) as theirs:
            taken = {what: turns.in_turn((ours, theirs), what, args.rounds) for what in ("train", "guided")}
            both = ours.facts, theirs.facts
    return {
        **{name: theirs.facts[name] for name in ("name", "stood_in_for")},
        **{name: ours.facts[name] for name in ("stage", "dtype")},
        "batch": setting["batch"],
        **{name: [facts[name] for facts in both] for name in ("width", "parameters", "forward_flops")},
        "times": {what: [turns.median(one) for one in pair] for what, pair in taken.items()},
        "ratios": {what: turns.ratios(*pair[::-1]) for what, pair in taken.items()},
    }


def command(args: Bench, part: str) -> list[str]:
    """What does a part in a process of its own."""
    words = [sys.executable, __file__, "--part", part]
    for name in ("scale", "batch", "rounds", "sampler_steps", "threads"):
        words += [f"--{name.replace('_', '-')}", str(getattr(args, name))]
    return [*words, *(["--compiled"] if args.compiled else [])]


def in_process(args: Bench, part: str, **environment: str) -> dict[str, Any]:
    """One part's figures, from a fresh process."""
    done = subprocess.run(
        command(args, part), env=os.environ | environment, check=True, stdout=subprocess.PIPE, text=True
    )
    return json.loads(done.stdout.splitlines()[-1])


def run(args: Bench) -> dict[str, Any]:
    """All figures, printed as they come."""
    figures: dict[str, Any] = {"load": os.getloadavg()[0], "stages": {}}
    for stage in args.stages:
        found = in_process(args, f"stage:{stage}")
        if not args.no_compile:
            with tempfile.TemporaryDirectory() as cache:
                settings = {"JAX_COMPILATION_CACHE_DIR": cache, "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0"}
                found["cold"], found["cached"] = (in_process(args, f"compile:{stage}", **settings) for _ in range(2))
        figures["stages"][stage] = found
        print("\n".join(stage_lines(found)), flush=True)
    base = next((stage for stage in args.stages if stage.startswith("base")), None)
    if base and not args.no_rival:
        import rival  # beside this file

        if rival.installed():
            figures["rival"] = in_process(args, f"rival:{base}")
            print("\n".join(rival_lines(figures["rival"])), flush=True)
        else:
            print("PyTorch or imagen-pytorch is not installed: no comparison", file=sys.stderr)
    figures["load after"] = os.getloadavg()[0]
    print(f"load of the machine {figures['load']:.1f} before, {figures['load after']:.1f} after")
    return figures


def stage_lines(stage: dict[str, Any]) -> list[str]:
    """A stage's figures to read."""
    mfu = f"MFU {stage['mfu']:.1%}" if stage["mfu"] is not None else "no MFU"
    if stage["mfu_of_cpu"] is not None:
        mfu += f" ({stage['mfu_of_cpu']:.1%} in CPU time)"
    lines = [
        f"{stage['name']}: {stage['parameters']:,} parameters, batch {stage['batch']}, {stage['dtype']}",
        f"  {stage['device']}, peak {stage['peak_flops'] / 1e12:.3g} TFLOP/s ({stage['peak_source']})",
        f"  train    {stage['images_per_second']:9.3f} images/s, step {_seconds(stage['step'])}",
        f"  model    {stage['model_flops_per_image'] / 1e9:9.2f} GFLOP an image (jaxpr), "
        f"{stage['model_flops_per_second'] / 1e12:.3f} TFLOP/s a device, {mfu}",
        f"  memory   {stage['peak_memory']['bytes'] / 2**30:9.3f} GiB ({stage['peak_memory']['source']})",
    ]
    for what, times in stage["drawing"].items():
        lines.append(f"  draw     {_seconds(times)} an image, {what}, {stage['sampler_steps']} steps")
    if "neighbours_cost" in stage:
        cost = stage["neighbours_cost"]
        lines.append(
            f"  k = 2 takes {cost['seconds']:.3f} x of k = 0 by the clock, {cost['cpu_seconds']:.3f} x in CPU time"
        )
    for name, says in (("cold", "cold"), ("cached", "from the cache")):
        if name in stage:
            times = stage[name]
            lines.append(f"  compile  {times['compile']:9.1f} s {says}, after {times['trace']:.1f} s of tracing")
    return lines


def rival_lines(rival: dict[str, Any]) -> list[str]:
    """The comparison to read."""
    (ours, theirs), (our_flops, their_flops) = rival["parameters"], rival["forward_flops"]
    lines = [
        f"beside {rival['name']}: {rival['stage']} without neighbours, batch {rival['batch']}, {rival['dtype']}, AdamW",
        f"  of it, the U-Net alone is imported, with stand-ins for {', '.join(rival['stood_in_for'])}",
        f"  parameters {ours:,} and {theirs:,}, first level {rival['width'][0]} and {rival['width'][1]} wide, "
        f"forward {our_flops / 1e9:.2f} and {their_flops / 1e9:.2f} GFLOP an image",
    ]
    for what, says in (("train", "training"), ("guided", "guided denoising")):
        lines.append(f"  {says}: ours {{}}, theirs {{}}".format(*map(_turn, rival["times"][what])))
        clock, cpu = (
            "{1:.2f} x as fast [{0:.2f}, {2:.2f}]".format(*rival["ratios"][what][name])
            for name in ("seconds", "cpu_seconds")
        )
        lines.append(f"    ours is {clock} by the clock, {cpu} in CPU time")
    return lines


def _turn(took: turns.Took) -> str:
    return (
        f"{_seconds(took)[:-1]}, of it {took['kernel_seconds']:.3f} s in the kernel; {took['faults']:,.0f} page faults)"
    )


def _seconds(times: dict[str, float]) -> str:
    return f"{times['seconds']:.3f} s (CPU {times['cpu_seconds']:.3f} s)"


def main(args: Bench) -> None:
    """Measures, prints, writes."""
    if args.threads:  # before JAX and PyTorch count the cores
        os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[: args.threads])
        os.environ["OMP_NUM_THREADS"] = str(args.threads)
    if args.part:
        do_part(args)
        return
    figures = run(args)
    if args.json:
        args.json.write_text(json.dumps({"arguments": asdict(args)} | figures, indent=2, default=str))


if __name__ == "__main__":
    runtime.configure()
    os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")  # PyTorch needs its part of a GPU's memory
    main(tyro.cli(Bench, description=__doc__, config=(tyro.conf.FlagCreatePairsOff,)))
