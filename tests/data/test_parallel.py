"""The ordered map: order, laziness and errors as in the built-in `map`."""

import threading
import time

import pytest

from reimagen_jax.data.parallel import ordered_map


def test_order_is_kept_though_the_first_take_longest():
    def slow_start(n):
        time.sleep(0.02 if n < 3 else 0.0)
        return n * n

    assert list(ordered_map(slow_start, range(50), ahead=5)) == [n * n for n in range(50)]


def test_reads_no_further_ahead_than_asked():
    taken = []

    def items():
        for n in range(100):
            taken.append(n)
            yield n

    results = ordered_map(lambda n: n, items(), ahead=4)
    assert next(results) == 0
    assert len(taken) <= 6
    results.close()


def test_error_comes_in_its_turn():
    results = ordered_map(lambda n: 1 // (2 - n), range(5))
    assert [next(results), next(results)] == [0, 1]
    with pytest.raises(ZeroDivisionError):
        next(results)


def test_source_is_read_in_the_calling_thread():
    threads = []

    def items():
        threads.append(threading.current_thread())
        yield 1

    assert list(ordered_map(str, items())) == ["1"]
    assert threads == [threading.current_thread()]
