"""tools/sampling_speed.py: what it times is what it says, on the smallest network. No time is asserted."""

import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from reimagen_jax.inference.model import Model
from tests.tiny import TINY, random_params

sys.path.insert(0, str(Path(__file__).parents[2] / "tools"))  # its files import each other as they do when it runs
import sampling_speed
from sampling_speed import SamplingSpeed


@pytest.mark.parametrize(("solver", "evaluations"), [("ddim", 12), ("heun", 12), ("heun", 11)])
def test_solvers_are_compared_at_equal_evaluations(solver, evaluations):
    steps = sampling_speed.steps_of(solver, evaluations)
    done = 2 * steps - 1 if solver == "heun" else steps  # Heun's last step has one
    assert evaluations - done in (0, 1)


def test_actions_are_timed_in_turn_and_the_first_round_does_not_count():
    called = []
    times = sampling_speed.in_turn({"a": lambda: called.append("a"), "b": lambda: called.append("b")}, rounds=3)
    assert called == ["a", "b"] * 4
    assert all(found.shape == (3, 2) and (found >= 0).all() for found in times.values())


def test_every_solver_asked_for_has_a_line_by_batch(monkeypatch, capsys):
    monkeypatch.setattr(Model, "open", lambda path: SimpleNamespace(config=TINY, params=random_params(TINY)))
    sampling_speed.solvers(SamplingSpeed(solvers=("unipc",), batches=(1, 2), evaluations=2, rounds=1))
    head, *lines = capsys.readouterr().out.splitlines()
    assert head.startswith("tiny, 2 guided evaluations")
    assert [line.split()[:3] for line in lines] == [["batch", "1", "unipc"], ["batch", "2", "unipc"]]
