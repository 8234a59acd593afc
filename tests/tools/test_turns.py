"""tools/turns.py: programs of other processes, asked in turn. No time is asserted."""

import io
import json
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[2] / "tools"))
import turns

CALLED = """
import sys
sys.path.insert(0, sys.argv[1])
import turns
log = open(sys.argv[2], "a", buffering=1)
turns.serve({"name": sys.argv[3]}, {"write": lambda: print(sys.argv[3], file=log), "stop": lambda: sys.exit(3)})
"""


def served(log: Path, name: str) -> turns.Served:
    return turns.Served([sys.executable, "-c", CALLED, str(Path(turns.__file__).parent), str(log), name])


def test_two_processes_take_turns_the_first_round_does_not_count_and_both_end(tmp_path):
    with served(tmp_path / "log", "a") as one, served(tmp_path / "log", "b") as other:
        assert [process.facts for process in (one, other)] == [{"name": "a"}, {"name": "b"}]
        taken = turns.in_turn((one, other), "write", rounds=3)
    assert (tmp_path / "log").read_text() == "a\nb\n" * 4
    assert [len(rounds) for rounds in taken] == [3, 3]
    assert one.process.returncode == other.process.returncode == 0


def test_a_process_that_ends_is_told(tmp_path):
    with served(tmp_path / "log", "a") as one, pytest.raises(RuntimeError, match="ended with status 3"):
        one.take("stop")


def test_what_was_asked_is_answered_line_by_line():
    said, done = io.StringIO(), []
    actions = {"a": lambda: done.append("a"), "b": lambda: done.append("b")}
    turns.serve({"what": 1}, actions, io.StringIO("b\na\nb\n"), said)
    facts, *taken = map(json.loads, said.getvalue().splitlines())
    assert facts == {"what": 1} and done == ["b", "a", "b"] and len(taken) == 3


def test_pages_that_are_touched_for_the_first_time_are_counted():
    fresh = turns.once(lambda: bytearray(b"1") * (256 * 2**20))  # larger than any block that the C library keeps
    assert fresh["faults"] > turns.once(lambda: None)["faults"]
    assert 0 <= fresh["kernel_seconds"] <= fresh["cpu_seconds"]


def test_a_load_that_slows_both_of_a_round_is_not_in_their_ratio():
    def took(seconds: float) -> turns.Took:
        return {"seconds": seconds, "cpu_seconds": 2 * seconds}

    fast, loads = [took(1.0), took(7.0), took(2.0)], (1.5, 3.0, 2.0)
    slow = [took(load * one["seconds"]) for load, one in zip(loads, fast, strict=True)]
    assert turns.ratios(slow, fast) == {name: [1.75, 2.0, 2.5] for name in ("seconds", "cpu_seconds")}
    assert turns.median(fast) == took(2.0)
