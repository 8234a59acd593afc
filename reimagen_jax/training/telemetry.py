"""What a run reports: to the console, to TensorBoard event files, and to `metrics.jsonl`, one object a line.

The writers have the methods of `clu.metric_writers.MetricWriter` (clu's own need TensorFlow), so a clu writer can take
the place of any of them.
"""

import json
import math
import resource
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path, PurePath
from typing import Protocol

import jax
import numpy as np
from clu import metrics

from reimagen_jax import progress, stores
from reimagen_jax.errors import UserError, require
from reimagen_jax.files import write_text

GIB = 1024.0**3
LOG = "metrics.jsonl"


class Writer(Protocol):
    """The part of clu's writer interface that the loop speaks."""

    def write_scalars(self, step: int, scalars: Mapping[str, float]) -> None: ...

    def write_images(self, step: int, images: Mapping[str, np.ndarray]) -> None:
        """Images are uint8 [H, W, C] or [N, H, W, C]."""
        ...

    def flush(self) -> None: ...

    def close(self) -> None: ...


class TensorBoardWriter:
    """Event files in `folder`; what an earlier process wrote at later steps than `start` is marked as void."""

    def __init__(self, folder: Path, start: int):
        from tensorboardX import SummaryWriter

        self._writer = SummaryWriter(str(folder), purge_step=start + 1)

    def write_scalars(self, step: int, scalars: Mapping[str, float]) -> None:
        for name, value in scalars.items():
            if math.isfinite(value):
                self._writer.add_scalar(name, value, global_step=step)

    def write_images(self, step: int, images: Mapping[str, np.ndarray]) -> None:
        for name, image in images.items():
            layout = "HWC" if image.ndim == 3 else "NHWC"
            self._writer.add_image(name, image, global_step=step, dataformats=layout)

    def flush(self) -> None:
        self._writer.flush()

    def close(self) -> None:
        self._writer.close()


class JsonLinesWriter:
    """`{"step": ..., "loss": ..., ...}` a line; lines later than `start`, and a torn last line, are cut away first."""

    def __init__(self, path: Path, start: int):
        require(not path.is_dir(), f"{path} is a folder, where the log of the run is to be: move it away")
        if path.exists():
            write_text(path, "".join(_lines_until(path.read_text(encoding="utf-8", errors="replace"), start)))
        self._file = path.open("a", encoding="utf-8")

    def write_scalars(self, step: int, scalars: Mapping[str, float]) -> None:
        # JSON has no NaN: an undefined number is null.
        values = {name: float(value) if math.isfinite(value) else None for name, value in scalars.items()}
        self._file.write(json.dumps({"step": step, **values}) + "\n")
        self._file.flush()

    def write_images(self, step: int, images: Mapping[str, np.ndarray]) -> None:
        """Images do not belong into JSON lines."""

    def flush(self) -> None:
        self._file.flush()

    def close(self) -> None:
        self._file.close()


def _lines_until(text: str, step: int) -> list[str]:
    kept = []
    for line in text.splitlines(keepends=True):
        try:
            if line.endswith("\n") and json.loads(line)["step"] <= step:
                kept.append(line)
        except (ValueError, KeyError, TypeError, RecursionError):
            continue  # torn by a kill while it was written, or damaged since
    return kept


class ConsoleWriter:
    """One line of text per log step on standard output, above the progress bar where there is one."""

    def __init__(self, num_steps: int):
        self._num_steps = num_steps

    def write_scalars(self, step: int, scalars: Mapping[str, float]) -> None:
        values = dict(scalars)
        if "loss" not in values:
            self._watched(step, values)
            return
        parts = [f"step {step}/{self._num_steps}", f"loss {values.pop('loss'):.4f}"]
        parts.append(f"lr {values.pop('learning_rate'):.2e}")
        parts.append(f"|g| {values.pop('grad_norm'):.3g}")
        speed = values.pop("images_per_second")
        parts.append(f"{speed:.1f} images/s" if math.isfinite(speed) else "? images/s")
        parts.append(f"ETA {duration(values.pop('eta_seconds'))}")
        parts += [f"{name} {value:.4g}" for name, value in values.items()]
        say("  ".join(parts))

    def _watched(self, step: int, values: Mapping[str, float]) -> None:
        """What a training is watched by, `what/name`; details, `what/name/...`, are left to the curves."""
        told: dict[str, list[str]] = {}
        for name, value in values.items():
            what, _, rest = name.partition("/")
            if "/" not in rest:
                told.setdefault(what, []).append(f"{rest.replace('_', ' ')} {value:.4g}")
        for what, parts in told.items():
            say(f"step {step}/{self._num_steps}  {what}: {', '.join(parts)}")

    def write_images(self, step: int, images: Mapping[str, np.ndarray]) -> None:
        """Images do not belong on a console."""

    def flush(self) -> None:
        """Every line is flushed as it is written."""

    def close(self) -> None:
        """The console stays open."""


class Writers:
    """Several writers as one. Raises `UserError` where a log cannot be written, as when the disk is full."""

    def __init__(self, *writers: Writer):
        self._writers = writers

    def write_scalars(self, step: int, scalars: Mapping[str, float]) -> None:
        self._each(lambda writer: writer.write_scalars(step, scalars))

    def write_first(self, step: int, scalars: Mapping[str, float]) -> None:
        """Tells people of the first step of all as soon as it is done; it counts in the means of the next line."""
        unknown = {"images_per_second": math.nan, "eta_seconds": math.nan}
        for writer in self._writers:
            if isinstance(writer, ConsoleWriter):
                writer.write_scalars(step, {**scalars, **unknown, **memory()})

    def write_images(self, step: int, images: Mapping[str, np.ndarray]) -> None:
        self._each(lambda writer: writer.write_images(step, images))

    def flush(self) -> None:
        self._each(lambda writer: writer.flush())

    def close(self) -> None:
        self._each(lambda writer: writer.close())

    def _each(self, act: Callable[[Writer], None]) -> None:
        try:
            for writer in self._writers:
                act(writer)
        except OSError as error:
            raise UserError(f"logs cannot be written ({error}): make room, then run the same command again") from error


class Uploaded(Writers):
    """TensorBoard and JSON lines for a bucket, where no file grows: written here, copied there at every `flush`."""

    def __init__(self, place: PurePath, start: int):
        self._here = tempfile.TemporaryDirectory(prefix="reimagen_jax_logs_", ignore_cleanup_errors=True)
        self._place, self._copied = place, {}
        log = Path(self._here.name) / LOG
        with stores.told(place):
            if (place / LOG).exists():
                stores.copy(place / LOG, log)
        super().__init__(TensorBoardWriter(log.with_name("tensorboard"), start), JsonLinesWriter(log, start))

    def flush(self) -> None:
        super().flush()
        self._copy()

    def close(self) -> None:
        try:
            super().close()
            self._copy()
        finally:
            self._here.cleanup()

    def _copy(self) -> None:
        for file in sorted(Path(self._here.name).rglob("*")):
            size = file.stat().st_size
            if file.is_file() and self._copied.get(file) != size:  # logs only grow
                with stores.told(self._place):
                    stores.copy(file, self._place / file.relative_to(self._here.name).as_posix())
                self._copied[file] = size


def default_writers(workdir: PurePath, start: int, num_steps: int) -> Writers:
    """Console, TensorBoard and JSON lines on the first process; nothing on the others."""
    if jax.process_index() != 0:
        return Writers()
    if stores.kind(workdir):
        return Writers(ConsoleWriter(num_steps), Uploaded(workdir, start))
    return Writers(
        ConsoleWriter(num_steps),
        TensorBoardWriter(workdir / "tensorboard", start),
        JsonLinesWriter(workdir / LOG, start),
    )


def say(text: str) -> None:
    """One line on standard output, from the first process; a training does not end because it cannot be told."""
    if jax.process_index() == 0:
        progress.say(text)


def duration(seconds: float) -> str:
    """Seconds as 1:02:03, or ? when there is nothing to tell from yet."""
    if not math.isfinite(seconds):
        return "?"
    minutes, second = divmod(round(seconds), 60)
    return f"{minutes // 60}:{minutes % 60:02}:{second:02}"


def memory() -> dict[str, float]:
    """The largest memory used so far in GiB: of this process's first device, or of the process where devices tell none.

    On the CPU, arrays live in the process's own memory, so that is what is reported, under its own name.
    """
    stats = jax.local_devices()[0].memory_stats()
    if stats and "peak_bytes_in_use" in stats:
        return {"device_peak_GiB": stats["peak_bytes_in_use"] / GIB}
    unit = 1 if sys.platform == "darwin" else 1024
    return {"process_peak_GiB": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / GIB}


class Meter:
    """Gathers the metrics of steps between two log lines, and the time they took.

    Time before `pause_over` (checkpoints, sample grids) does not count, nor does the first step, which compiles.
    """

    def __init__(self, batch_size: int, num_steps: int, clock: Callable[[], float] = time.perf_counter):
        self._batch_size, self._num_steps, self._clock = batch_size, num_steps, clock
        self._metrics: list[dict[str, float]] = []
        self._lap = _Lap()
        self._whole = _Lap()
        self._since: float | None = None

    def add(self, scalars: Mapping[str, float]) -> None:
        """Counts a finished step."""
        now = self._clock()
        if self._since is not None:
            self._lap.add(now - self._since)
            self._whole.add(now - self._since)
        self._since = now
        self._metrics.append(dict(scalars))

    def pause_over(self) -> None:
        """The time since the last step was spent on something else."""
        if self._since is not None:
            self._since = self._clock()

    def read(self, step: int) -> dict[str, float]:
        """Means since the last `read` (the learning rate: its last value), images/s, time to go, memory."""
        with jax.numpy_dtype_promotion("standard"):  # clu divides floats by integers, which our tests forbid
            averages = {name: metrics.Average.from_model_output(self._values(name)) for name in self._metrics[0]}
            scalars = {name: float(average.compute()) for name, average in averages.items()}
        scalars["learning_rate"] = self._metrics[-1]["learning_rate"]
        scalars["images_per_second"] = self._batch_size / self._lap.seconds_per_step
        scalars["eta_seconds"] = (self._num_steps - step) * self._whole.seconds_per_step
        self._metrics, self._lap = [], _Lap()
        return scalars | memory()

    def _values(self, name: str) -> np.ndarray:
        return np.asarray([step[name] for step in self._metrics], np.float32)


class _Lap:
    def __init__(self) -> None:
        self._steps, self._seconds = 0, 0.0

    def add(self, seconds: float) -> None:
        self._steps += 1
        self._seconds += seconds

    @property
    def seconds_per_step(self) -> float:
        """NaN before the first step that counts."""
        return self._seconds / self._steps if self._seconds > 0.0 else math.nan
