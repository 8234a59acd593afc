"""The process of its own: what comes of it is what the function yields, and its end is an error by name."""

import os
import resource
import signal
import sys
import time

import pytest

from reimagen_jax.data.sources import apart


def numbers(count):
    yield from range(count)


def raising(count):
    yield from range(count)
    raise KeyError("a key\nof two lines")


def dying(count, number):
    yield from range(count)
    print("terminate called after throwing an instance of X\n  what():  the histogram", file=sys.stderr, flush=True)
    os.kill(os.getpid(), number)


def silent():
    yield 1
    time.sleep(60)


def greedy(size):
    yield len(bytes(size))


def where():
    yield os.getpid()


def limits():
    yield resource.getrlimit(resource.RLIMIT_CORE)[0]


def until_broken(*request):
    items = []
    with pytest.raises(apart.Broken) as error:
        for item in apart.run(*request):
            items.append(item)
    return items, str(error.value)


def test_items_come_as_they_are_yielded_from_another_process():
    assert list(apart.run(numbers, 1000)) == list(range(1000))
    (first,), (second,) = apart.run(where), apart.run(where)
    assert first == second != os.getpid()


def test_what_the_function_raises_leaves_the_process_as_it_is():
    (before,) = apart.run(where)
    assert until_broken(raising, 3) == ([0, 1, 2], "'a key\\nof two lines'")
    assert list(apart.run(where)) == [before]


@pytest.mark.parametrize("number", [signal.SIGABRT, signal.SIGSEGV, signal.SIGKILL])
def test_a_process_that_ends_is_named_with_its_last_words_and_replaced(number):
    items, said = until_broken(dying, 3, number)
    assert items == [0, 1, 2]
    assert said == f"its reader ended with {number.name}, saying: what(): the histogram"
    assert list(apart.run(numbers, 2)) == [0, 1]
    assert list(apart.run(limits)) == [0]  # no core files left behind


def test_a_process_that_falls_silent_is_given_up(monkeypatch):
    assert list(apart.run(numbers, 1)) == [0]
    monkeypatch.setattr(apart, "SILENCE", 0.3)
    start = time.monotonic()
    items, said = until_broken(silent)
    assert items == [1]
    assert "0.3 seconds" in said
    assert time.monotonic() - start < 10
    monkeypatch.undo()
    assert list(apart.run(numbers, 1)) == [0]


def test_memory_beyond_the_limit_is_refused_there():
    assert until_broken(greedy, 2 * apart.MAX_MEMORY) == ([], "MemoryError")


def test_reading_may_stop_anywhere_and_a_process_may_be_gone_between_two_requests():
    for item in apart.run(numbers, 10**9):
        if item == 5:
            break
    assert list(apart.run(numbers, 3)) == [0, 1, 2]
    (pid,) = apart.run(where)
    os.kill(pid, signal.SIGKILL)
    time.sleep(0.1)
    assert list(apart.run(numbers, 3)) == [0, 1, 2]
