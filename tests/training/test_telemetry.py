"""Writers and meter: what was lost with a kill is not logged twice, and speed counts training alone."""

import json
import math

import numpy as np
import pytest

from reimagen_jax.errors import UserError
from reimagen_jax.training import telemetry
from reimagen_jax.training.telemetry import ConsoleWriter, JsonLinesWriter, Meter, TensorBoardWriter, Writers


def test_lines_after_the_checkpoint_and_a_torn_last_line_are_cut_away(tmp_path):
    path = tmp_path / "metrics.jsonl"
    writer = JsonLinesWriter(path, start=0)
    for step in (1, 2, 3, 4):
        writer.write_scalars(step, {"loss": step / 10})
    writer.close()
    path.write_text(path.read_text() + '{"step": 5, "lo')
    writer = JsonLinesWriter(path, start=2)
    writer.write_scalars(3, {"loss": math.nan})
    writer.close()
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    assert rows == [{"step": 1, "loss": 0.1}, {"step": 2, "loss": 0.2}, {"step": 3, "loss": None}]


def test_damaged_lines_are_cut_away_and_the_run_goes_on(tmp_path):
    path = tmp_path / "metrics.jsonl"
    path.write_bytes(b'{"step": 1, "loss": 0.1}\n{"step": 2, "lo\xff\n{"step": "2"}\n[2]\n' + b"[" * 100_000 + b"\n")
    JsonLinesWriter(path, start=2).close()
    assert path.read_text() == '{"step": 1, "loss": 0.1}\n'


def test_scalars_and_images_reach_the_event_files(tmp_path):
    writer = TensorBoardWriter(tmp_path, start=0)
    writer.write_scalars(1, {"loss": 0.5, "undefined": math.nan})
    writer.write_images(1, {"one": np.zeros((4, 4, 3), np.uint8), "many": np.zeros((2, 4, 4, 3), np.uint8)})
    writer.close()
    events = b"".join(path.read_bytes() for path in tmp_path.iterdir())
    assert all(name in events for name in (b"loss", b"one", b"many")) and b"undefined" not in events


def test_the_console_line_tells_what_a_person_wants_to_know(capsys):
    values = {"loss": 0.25, "learning_rate": 1e-3, "grad_norm": 2.0, "images_per_second": 12.5, "eta_seconds": 3723.0}
    ConsoleWriter(num_steps=100).write_scalars(10, {**values, "process_peak_GiB": 1.5})
    line = capsys.readouterr().out
    for part in ("step 10/100", "loss 0.2500", "lr 1.00e-03", "|g| 2", "12.5 images/s", "ETA 1:02:03", "1.5"):
        assert part in line
    ConsoleWriter(100).write_scalars(1, {**values, "images_per_second": math.nan, "eta_seconds": math.nan})
    assert "nan" not in capsys.readouterr().out


def test_a_full_disk_is_a_users_error():
    class Full:
        def write_scalars(self, step, scalars):
            raise OSError(28, "No space left on device")

    with pytest.raises(UserError, match="No space left on device"):
        Writers(Full()).write_scalars(1, {})


def test_speed_counts_neither_compilation_nor_pauses(monkeypatch):
    monkeypatch.setattr(telemetry, "memory", dict)
    now = 0.0
    meter = Meter(batch_size=8, num_steps=100, clock=lambda: now)
    metrics = {"loss": 1.0, "learning_rate": 0.1}
    now = 60.0  # compilation
    meter.add(metrics)
    assert math.isnan(meter.read(1)["images_per_second"])
    for _ in range(3):
        now += 2.0
        meter.add({"loss": 3.0, "learning_rate": 0.2})
        now += 100.0  # a checkpoint
        meter.pause_over()
    assert meter.read(4) == {
        "loss": 3.0,
        "learning_rate": 0.2,
        "images_per_second": pytest.approx(4.0),
        "eta_seconds": pytest.approx(96 * 2.0),
    }


def test_memory_of_a_cpu_is_the_process_under_its_own_name():
    (name, value), *others = telemetry.memory().items()
    assert not others and name == "process_peak_GiB" and 0.05 < value < 100
