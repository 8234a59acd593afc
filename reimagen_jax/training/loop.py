"""The training loop, the only one: it feeds batches to the step, and looks after logs, checkpoints and signals.

A run is a function of (experiment, data, seed): killed at any moment and started again, it continues from its last
checkpoint and ends in the same state, bit for bit. For that, a checkpoint holds the state and the position in the data
of one and the same step, and a step draws from a key that depends on its number alone.

Step n is the n-th update, from 1; its metrics, and the checkpoint and samples after it, bear its number.
"""

import collections
import functools
import math
import signal
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import numpy as np
from clu import parameter_overview
from PIL import Image

from reimagen_jax import progress, randomness, runtime, sharding, stores
from reimagen_jax.config import Experiment, differences
from reimagen_jax.errors import UserError
from reimagen_jax.pretrained.weights import fingerprint
from reimagen_jax.progress import track
from reimagen_jax.systems.base import Metrics, Params, System
from reimagen_jax.training import groups, parallel, telemetry
from reimagen_jax.training.checkpoint import Checkpoints, claim, note, settle, started_as
from reimagen_jax.training.signals import stop_requests
from reimagen_jax.training.state import TrainState, as_before, check_frozen, init_state, start_from, unlike
from reimagen_jax.training.step import make_memory, make_optimizer, make_schedule

COMPILING = 0.25
"""Seconds for each array of parameters that compiling a step takes: a minute or so for a U-Net of 317, on two cores."""
OnSample = Callable[[int, Params], Path]
"""(step, averaged parameters) -> the image file that it has drawn.

All processes of a run draw together, since each may hold only its part of the parameters; the first one writes.
"""


@dataclass(frozen=True)
class Watch:
    """Numbers that are read off the averaged parameters, as training goes on and at its end."""

    every: int
    """Steps; 0: never."""
    measure: Callable[[Params], Mapping[str, float]]
    """Called in all processes of a run together. It changes nothing of the training."""

    def due(self, step: int, num_steps: int) -> bool:
        return self.every > 0 and (step % self.every == 0 or step == num_steps)


@dataclass(frozen=True)
class Outcome:
    """How a call of `train` ended; there is a checkpoint of `state`."""

    step: int
    state: TrainState
    stopped: signal.Signals | None = None
    """The signal that ended it before `num_steps`, if one did."""
    taken: int = 0
    """Steps of this call."""


def train(
    config: Experiment,
    workdir: str | Path,
    system: System,
    dataset: Any,
    on_sample: OnSample | None = None,
    data_fingerprint: str = "",
    initial: Callable[[], Params] | None = None,
    watches: Sequence[Watch] = (),
) -> Outcome:
    """Trains `system` for `config.train.num_steps` steps, going on from the last checkpoint in `workdir` if it has one.

    `dataset` is a grain dataset of this process's share of the batches: pytrees of numpy arrays, the batch axis first,
    without end. `data_fingerprint` tells its content: a run does not resume on other data. `on_sample` is called every
    `train.sample_every` steps, each of `watches` as often as it says. A fresh run starts from the parameters that
    `initial` returns (random ones by default), one that goes on does not ask for them. SIGTERM and Ctrl-C save and
    leave; a second one is not held back.

    Raises `UserError` if the workdir cannot be used or holds a run with other settings or data or of more steps, if its
    checkpoint is damaged, if the devices do not divide the batch, if the data end, or if the loss stops being finite
    (the checkpoints stay as they were).
    """
    workdir = stores.place(workdir)
    mesh = sharding.make_mesh(config.train.fsdp)
    sharding.check_batch_size(config.data.batch_size, mesh, config.train.accumulate)
    optimizer, key = make_optimizer(config.train), randomness.key(config.train.seed)
    key_init, key_steps = jax.random.split(key)
    init = functools.partial(init_state, system, optimizer, key_init, config.train)
    abstract = parallel.abstract_state(init, mesh)
    groups.check(abstract.params, config.train.rates)
    advance = parallel.make_advance(system, optimizer, config.train, abstract, mesh)

    with (
        claim(workdir),
        closing(Checkpoints(workdir, config.train.keep_checkpoints)) as checkpoints,
        stop_requests() as stop,
    ):
        start = checkpoints.latest()
        before = settle(workdir, config, data_fingerprint, start)
        data = iter(dataset)
        if start is None:
            start, state = 0, parallel.sharded_init(init, abstract)
            if initial is not None:
                state = _begin(state, initial(), config, workdir)
        else:
            earlier = functools.partial(as_before, system, optimizer, key_init)
            state = checkpoints.restore(start, abstract, data, lambda: parallel.abstract_state(earlier, mesh))
        if start == config.train.num_steps:
            telemetry.say(f"nothing left to do: {workdir} holds a run of {start} steps, and so many are wanted")
            return Outcome(start, state)
        _announce(config, workdir, mesh, abstract, start, before)
        seconds = COMPILING * len(jax.tree.leaves(abstract.params))
        telemetry.say(progress.about_compiling("the step", runtime.cache(), seconds))
        with closing(telemetry.default_writers(workdir, start, config.train.num_steps)) as writers:
            report = _Report(config, writers, checkpoints)
            for step in track(range(start + 1, config.train.num_steps + 1), config.train.num_steps - start, "training"):
                state, metrics = advance(state, _next(data, step, config.data.batch_size), key_steps)
                report.dispatched(step, metrics)

                last = stop.agreed() or step == config.train.num_steps
                save = last or step % config.train.checkpoint_every == 0
                sample = on_sample is not None and _due(step, config.train.sample_every)
                due = [watch for watch in watches if watch.due(step, config.train.num_steps)]
                # Reading step n-1 while n runs keeps the devices busy; only a state that is used has to be known good.
                report.read(until=step if save or sample or due else step - 1, last=last)
                for watch in due:  # before the checkpoint: what a run that goes on finds written is whole
                    writers.write_scalars(step, watch.measure(state.averaged))
                if save:
                    writers.flush()
                    checkpoints.save(state, data)
                if sample:
                    writers.write_images(step, _picture(on_sample(step, state.averaged)))
                if save or sample or due:
                    report.pause_over()
                if last:
                    break
            checkpoints.wait()
    stopped = stop.received if int(state.step) < config.train.num_steps else None
    if stopped is not None:
        telemetry.say(f"{stopped.name}: saved step {int(state.step)}; the same command goes on from there")
    return Outcome(int(state.step), state, stopped, int(state.step) - start)


def _begin(state: TrainState, params: Params, config: Experiment, workdir: Path) -> TrainState:
    """The state that starts from `params`; says whose they are, and keeps it with the run."""
    check_frozen(state.params, params, config)
    digest = fingerprint(params)[:16]
    begun = [f"starts from {config.init.weights or 'given weights'}, SHA-256 {digest}", *unlike(state.params, params)]
    state = start_from(state, params, config.init.fresh, config.init.left_out)
    note(workdir, begun)
    for line in begun:
        telemetry.say(line)
    return state


class _Report:
    """Holds the metrics of steps still running, checks them when they are read, and logs them."""

    def __init__(self, config: Experiment, writers: telemetry.Writers, checkpoints: Checkpoints):
        self._log_every = config.train.log_every
        self._writers, self._checkpoints = writers, checkpoints
        self._meter = telemetry.Meter(config.data.batch_size, config.train.num_steps)
        self._told = False
        self._running: collections.deque[tuple[int, Metrics]] = collections.deque()

    def dispatched(self, step: int, metrics: Metrics) -> None:
        self._running.append((step, metrics))

    def read(self, until: int, last: bool) -> None:
        """Waits for the steps up to `until`; raises `UserError` if one was not finite; logs where a log is due."""
        while self._running and self._running[0][0] <= until:
            step, metrics = self._running.popleft()
            scalars = {name: float(value) for name, value in jax.device_get(metrics).items()}
            self._require_finite(step, scalars)
            self._meter.add(scalars)
            if not self._told and not _due(step, self._log_every):
                self._writers.write_first(step, scalars)
            self._told = True
            if _due(step, self._log_every) or (last and not self._running):
                self._writers.write_scalars(step, self._meter.read(step))

    def pause_over(self) -> None:
        self._meter.pause_over()

    def _require_finite(self, step: int, scalars: dict[str, float]) -> None:
        for name in ("loss", "grad_norm"):
            if not math.isfinite(scalars[name]):
                self._checkpoints.wait()
                good = self._checkpoints.latest()
                path = "none" if good is None else self._checkpoints.path / str(good)
                raise UserError(
                    f"{name} is {scalars[name]} at step {step}; the last good checkpoint: {path}. "
                    "Lower train.learning_rate, or set or lower train.clip_norm, in a new --workdir"
                )


def _picture(path: Path) -> dict[str, np.ndarray]:
    """What the first process has drawn, for its writers."""
    if jax.process_index() != 0:
        return {}
    with stores.told(path), path.open("rb") as file:
        return {"samples": np.asarray(Image.open(file))}


def _due(step: int, every: int) -> bool:
    return every > 0 and step % every == 0


def _next(data: Iterator[Any], step: int, batch_size: int) -> Any:
    """This process's share of the step's batch."""
    try:
        batch = next(data)
    except StopIteration:
        raise UserError(f"the data end before step {step}: the data set has to repeat") from None
    sizes = {leaf.shape[0] for leaf in jax.tree.leaves(batch)}
    if sizes != {batch_size // jax.process_count()}:
        raise UserError(
            f"the batch of step {step} has {', '.join(map(str, sorted(sizes)))} examples in this process, "
            f"but data.batch_size over all {jax.process_count()} is {batch_size}"
        )
    return batch


def _announce(
    config: Experiment,
    workdir: Path,
    mesh: jax.sharding.Mesh,
    abstract: TrainState,
    start: int,
    before: Experiment | None,
) -> None:
    """Says what is about to run, and what is different from before."""
    count = int(parameter_overview.count_parameters(abstract.params))
    telemetry.say(
        f"{config.name}: {count:,} parameters, {mesh.size} x {mesh.devices.flat[0].device_kind} "
        f"(data {mesh.shape['data']} x fsdp {mesh.shape['fsdp']}), batch {config.data.batch_size}, in {workdir}"
    )
    if before is None:
        return
    telemetry.say(f"going on from the checkpoint of step {start} of {config.train.num_steps}")
    for line in differences(before, started_as(before, config)).values():
        telemetry.say(f"changed since then: {line.replace(' != ', ' -> ')}")
    done = np.arange(start, dtype=np.int32)
    for what, plan_of in (("learning rate", make_schedule), ("average's memory", make_memory)):
        planned = plan_of(config.train)
        if not np.array_equal(planned(done), plan_of(before.train)(done)):
            telemetry.say(
                f"the {what} goes on from {float(planned(start)):.2e}, as planned for {config.train.num_steps} "
                f"steps; the steps so far followed a plan for {before.train.num_steps}: the result is not that of one "
                "run"
            )
