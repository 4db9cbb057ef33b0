"""`map`: results in order, eagerly submitted, or lazily with `buffersize`."""

from __future__ import annotations

import contextlib
import itertools
import os
import sys
import time

import pytest
from tasks import by_value, wait_at

by_value(__name__)


def wait_if(gate, value):
    return wait_at(gate, value) if value else value


def fail_at(value, bad):
    if value == bad:
        raise ValueError(value)
    return value


class Counted:
    """An iterable that knows how many of its items were taken, and may raise instead of one."""

    def __init__(self, items, bad=None):
        self._items = iter(items)
        self._bad = bad
        self.taken = 0

    def __iter__(self):
        return self

    def __next__(self):
        if self.taken == self._bad:
            raise LookupError(f"item {self._bad} is bad")
        item = next(self._items)
        self.taken += 1
        return item


# --- what comes out ----------------------------------------------------------------------------


def test_map_is_the_builtin_map(executor):
    table = [
        (pow, range(4), range(4)),
        (pow, range(2), range(100)),  # the shortest ends it
        (pow, [2, 3], itertools.repeat(2)),
        (str, []),
    ]
    maps = [executor.map(*row) for row in table]
    assert [list(results) for results in maps] == [list(map(*row)) for row in table]
    assert list(executor.map(str)) == []


def test_results_are_in_the_order_of_the_items(executor, gate, until):
    results = executor.map(wait_if, [gate.path] * 3, [1, 0, 0])
    until(lambda: gate.arrived)  # the first is the last to end
    gate.open()
    assert list(results) == [1, 0, 0]


def test_map_submits_all_at_once(executor, gate):
    items = Counted([0] * 3)
    results = executor.map(wait_if, itertools.repeat(gate.path), items)
    assert items.taken == 3
    assert list(results) == [0] * 3


def test_an_exception_comes_in_its_place_and_ends_the_map(executor):
    results = executor.map(divmod, [1, 1, 1, 1], [2, 3, 0, 5])
    assert next(results) == (0, 1)
    assert next(results) == (0, 1)
    with pytest.raises(ZeroDivisionError):
        next(results)
    assert list(results) == []


# --- timeout -----------------------------------------------------------------------------------


@pytest.mark.parametrize("options", [{}, {"buffersize": 3}, {"chunksize": 3}], ids=str)
def test_timeout_ends_the_map(executor, gate, options):
    results = executor.map(wait_if, [gate.path] * 3, [0, 0, 1], timeout=0.4, **options)
    seen = []
    with pytest.raises(TimeoutError):  # though nobody opens the gate
        seen.extend(results)
    assert seen == [0, 0][: len(seen)]
    assert list(results) == []


def test_timeout_of_zero_allows_what_is_there(executor, gate):
    with pytest.raises(TimeoutError):
        next(executor.map(wait_at, [gate.path], timeout=0))


def test_timeout_counts_from_the_call(executor, gate):
    timeout = 2.0
    results = executor.map(wait_at, [gate.path], timeout=timeout)
    time.sleep(timeout)
    began = time.monotonic()
    with pytest.raises(TimeoutError):
        next(results)
    assert time.monotonic() - began < timeout  # it has not waited as long once more


def test_timeout_cancels_the_rest(make, gate, until):
    executor = make(1)
    results = executor.map(wait_at, [gate.path] * 3, "abc", timeout=0.3)
    with pytest.raises(TimeoutError):
        next(results)
    executor.shutdown()  # returns, though nobody has opened the gate
    assert gate.arrived <= {"a"}


# --- chunksize ---------------------------------------------------------------------------------


def test_chunks_change_no_result(executor):
    maps = {
        chunksize: executor.map(pow, range(6), range(6), chunksize=chunksize)
        for chunksize in (4, 6, 7, sys.maxsize)
    }
    for results in maps.values():
        assert list(results) == [pow(n, n) for n in range(6)]


def test_chunks_are_one_call_each(make):
    executor = make(2)
    pids = list(executor.map(_pid_of, range(5), chunksize=3))
    assert len(set(pids[:3])) == 1
    assert len(set(pids[3:])) == 1
    if len(set(pids)) == 1:  # the same container took both
        pytest.skip("one worker was faster than two")


def _pid_of(_):
    return os.getpid()


def test_an_exception_in_a_chunk_takes_the_whole_chunk(executor):
    results = executor.map(fail_at, range(6), [4] * 6, chunksize=3)
    assert list(itertools.islice(results, 3)) == [0, 1, 2]
    with pytest.raises(ValueError, match="4"):
        next(results)
    assert list(results) == []


# --- buffersize --------------------------------------------------------------------------------


@pytest.mark.parametrize("chunksize", [1, 2])
def test_a_buffer_changes_no_result(executor, chunksize):
    maps = {
        buffersize: executor.map(
            pow, range(3), range(3), buffersize=buffersize, chunksize=chunksize
        )
        for buffersize in (1, 5)
    }
    for results in maps.values():
        assert list(results) == [1, 1, 4]


def test_a_buffer_of_nothing_is_empty(executor):
    assert list(executor.map(str, [], buffersize=2)) == []
    assert list(executor.map(str, buffersize=2)) == []


@pytest.mark.parametrize("chunksize", [1, 2])
def test_a_buffer_reads_only_so_far_ahead(executor, chunksize):
    items = Counted(range(30))
    results = executor.map(abs, items, buffersize=2, chunksize=chunksize)
    assert items.taken == 2 * chunksize
    for seen in range(1, 4):
        next(results)
        calls = -(-seen // chunksize)
        assert items.taken == (2 + calls) * chunksize
    results.close()


def test_a_full_buffer_waits_for_its_consumer(executor, until):
    items = Counted(range(20))
    results = executor.map(abs, items, buffersize=4)
    time.sleep(0.3)
    assert items.taken == 4
    assert next(results) == 0
    assert items.taken == 5


def test_input_may_be_infinite(executor):
    results = executor.map(pow, itertools.count(), itertools.repeat(2), buffersize=2)
    assert list(itertools.islice(results, 4)) == [0, 1, 4, 9]


def test_input_may_be_infinite_in_chunks(executor):
    results = executor.map(abs, itertools.count(), buffersize=2, chunksize=2)
    assert list(itertools.islice(results, 3)) == [0, 1, 2]


def test_shutdown_ends_a_lazy_map_at_its_next_submission(make):
    executor = make(2)
    results = executor.map(abs, itertools.count(), buffersize=2)
    assert next(results) == 0
    executor.shutdown()
    with pytest.raises(RuntimeError, match="shutdown"):
        list(results)


# --- bad input ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("option", "value", "error"),
    [
        ("chunksize", 0, ValueError),
        ("chunksize", -1, ValueError),
        ("chunksize", "3", TypeError),
        ("chunksize", 2.5, TypeError),
        ("chunksize", None, TypeError),
        ("buffersize", 0, ValueError),
        ("buffersize", -1, ValueError),
        ("buffersize", "foo", TypeError),
        ("buffersize", 2.0, TypeError),
        ("timeout", -1, ValueError),
        ("timeout", "3", TypeError),
    ],
)
def test_bad_options_are_refused_before_anything_is_read(reused, option, value, error):
    items = Counted(range(3))
    with pytest.raises(error, match=option):
        reused.map(str, items, **{option: value})
    assert items.taken == 0


def test_map_without_a_function_is_refused(reused):
    with pytest.raises(TypeError):
        reused.map()


@pytest.mark.parametrize("options", [{}, {"chunksize": 2}, {"buffersize": 5}], ids=str)
def test_an_iterable_that_raises_at_once_cancels_the_rest(make_executor, gate, options):
    executor = make_executor(1)
    with pytest.raises(LookupError, match="item 4 is bad"):
        executor.map(wait_at, [gate.path] * 9, Counted(range(9), bad=4), **options)
    executor.shutdown()  # returns, though nobody has opened the gate
    assert gate.arrived <= {"0"}


def test_an_iterable_that_raises_later_ends_the_map(executor):
    results = executor.map(abs, Counted(range(9), bad=2), buffersize=2)
    with pytest.raises(LookupError, match="item 2 is bad"):
        next(results)
    assert list(results) == []


# --- an iterator that nobody wants -------------------------------------------------------------


@pytest.mark.parametrize("options", [{}, {"chunksize": 2}, {"buffersize": 3}], ids=str)
def test_a_dropped_iterator_cancels_the_rest(make, gate, options):
    executor = make(1)
    values = [0, 0, *range(1, 8)]
    results = executor.map(wait_if, itertools.repeat(gate.path), values, **options)
    assert next(results) == 0
    del results
    executor.shutdown()  # returns, though nobody has opened the gate
    assert gate.arrived <= {"1"}


@pytest.mark.parametrize("chunksize", [1, 2])
def test_an_iterator_can_be_closed(make_executor, gate, chunksize):
    executor = make_executor(1)
    results = executor.map(wait_if, itertools.repeat(gate.path), [0, 0, 1, 2], chunksize=chunksize)
    with contextlib.closing(results):
        assert next(results) == 0
    executor.shutdown()  # returns, though nobody has opened the gate


@pytest.mark.parametrize("options", [{}, {"chunksize": 2}], ids=str)
def test_who_ignores_the_iterator_wants_the_work_done(make, gates, options):
    # For the sake of side effects, as many do: the standard library cancels nothing either.
    executor, signs = make(2), gates()
    signs.open()
    executor.map(wait_at, [signs.path] * 4, "abcd", **options)
    executor.shutdown()
    assert signs.arrived == {"a", "b", "c", "d"}


def test_results_may_be_taken_after_the_shutdown(make):
    executor = make(2)
    results = executor.map(abs, range(-2, 2))
    executor.shutdown()
    assert list(results) == [2, 1, 0, 1]
