"""What is told while one waits: on a terminal alone, and only where there is something to wait for."""

import threading

import pytest

from reimagen_jax import progress


@pytest.fixture
def terminal(monkeypatch):
    """Somebody watches."""
    monkeypatch.setattr(progress, "_watched", lambda: True)


@pytest.mark.parametrize(
    ("seconds", "kept", "said"),
    [
        (10, "/c", "compiling it: less than a minute the first time, kept for the next time in /c"),
        (79, "/c", "compiling it: about a minute the first time, kept for the next time in /c"),
        (200, "/c", "compiling it: about 3 minutes the first time, kept for the next time in /c"),
        (None, "/c", "compiling it: the first time takes a while, kept for the next time in /c"),
        (200, None, "compiling it: about 3 minutes the first time, kept nowhere"),
    ],
)
def test_what_is_said_of_compiling(seconds, kept, said):
    assert progress.about_compiling("it", kept, seconds) == said


def test_waiting_is_told_on_a_terminal(terminal, monkeypatch, capsys):
    told = threading.Event()
    really = progress.about_compiling
    monkeypatch.setattr(progress, "PATIENCE", 0.0)
    monkeypatch.setattr(progress, "say", lambda text: (print(text), told.set()))
    with progress.compiling("the sampler", "/cache"):
        assert told.wait(10)
    assert capsys.readouterr().out == really("the sampler", "/cache") + "\n"


def test_what_is_there_at_once_is_not_told(terminal, capsys):
    with progress.compiling("the sampler", "/cache"):
        pass
    assert capsys.readouterr().out == ""


def test_nothing_is_told_in_a_log(monkeypatch, capsys):
    monkeypatch.setattr(progress, "PATIENCE", 0.0)
    timers = []
    monkeypatch.setattr(threading.Timer, "start", timers.append)
    with progress.compiling("the sampler", "/cache"):
        pass
    assert timers == [] and capsys.readouterr().out == ""
