"""`MapResult`: what a map tells of itself; results as they come; exceptions in their places."""

from __future__ import annotations

import itertools
import os
import threading
from concurrent.futures import CancelledError

import numpy as np
import pytest
from tasks import HOUR, by_value, identity, slept, wait_at

from civis_futures import CallPicklingError, MapResult, TaskTimeoutError, WorkerCrashedError

by_value(__name__)

CHUNKS = [{}, {"chunksize": 3}]


def wait_if(gate, value):
    return wait_at(gate, value) if value else value


def fail_at(value, bad):
    """The value; at `bad` it raises, exits, or gives what cannot be pickled."""
    if value not in bad:
        return value
    how = bad[value]
    if isinstance(how, BaseException):
        raise how
    if how == "exit":
        os._exit(3)
    if how == "lock":
        return threading.Lock()
    raise type("Odd", (Exception,), {"__reduce__": lambda self: 1 / 0})


def kinds(results):
    return [each if isinstance(each, int) else type(each).__name__ for each in results]


# --- what it tells -----------------------------------------------------------------------------


@pytest.mark.parametrize("options", CHUNKS, ids=str)
def test_it_tells_how_far_it_is(reused, gate, until, options):
    results = reused.map(wait_if, [gate.path] * 6, [0, 0, 0, 1, 2, 3], **options)
    assert isinstance(results, MapResult)
    assert len(results) == 6
    until(lambda: results.progress == 3)
    assert results.elapsed > 0
    assert "of wait_if: 3 of 6 done" in repr(results)
    assert "6 items of wait_if" in results._repr_html_()
    gate.open()
    assert list(results) == [0, 0, 0, 1, 2, 3]
    assert (results.progress, len(results)) == (6, 6)
    elapsed = results.elapsed
    assert results.elapsed == elapsed  # it has ended
    assert "6 of 6 done" in repr(results)


def test_it_adds_up_what_was_computed(reused):
    results = reused.map(slept, [0.1, 0.1, 0.1], chunksize=2)
    list(results)
    assert results.serial_time >= 0.3
    assert results.speedup == pytest.approx(results.serial_time / results.elapsed)


def test_an_empty_one_has_nothing_to_tell(reused):
    results = reused.map(abs, [])
    assert (len(results), results.progress, results.serial_time, results.elapsed) == (0, 0, 0, 0)
    assert results.speedup == 0
    assert "0 of 0 done" in repr(results)
    assert "0 items" in results._repr_html_()
    results.cancel()
    assert list(results) == []


def test_its_length_grows_with_what_is_read(reused):
    results = reused.map(abs, itertools.count(), buffersize=2, chunksize=2)
    assert len(results) == 4
    next(results)
    assert len(results) == 6
    results.close()


def test_failures_count_as_done(reused):
    results = reused.map(fail_at, range(2), [{1: ValueError("no")}] * 2, return_exceptions=True)
    assert kinds(results) == [0, "ValueError"]
    assert results.progress == 2
    assert "1 failed" in results._repr_html_()


# --- cancel ------------------------------------------------------------------------------------


def test_cancel_leaves_what_is_there(make_executor, gate, until):
    executor = make_executor(1)
    results = executor.map(wait_if, [gate.path] * 4, [0, 1, 2, 3])
    until(lambda: results.progress == 1)
    results.cancel()
    assert results.progress == 4
    assert next(results) == 0
    with pytest.raises(CancelledError, match="item 1"):
        next(results)
    assert list(results) == []
    executor.shutdown()  # returns, though nobody has opened the gate


def test_cancelled_items_are_exceptions_in_their_places(make_executor, gate, until):
    executor = make_executor(1)
    results = executor.map(wait_if, [gate.path] * 3, [0, 1, 2], return_exceptions=True)
    until(lambda: results.progress == 1)
    results.cancel()
    assert kinds(results) == [0, "CancelledError", "CancelledError"]


def test_cancel_reads_no_more(make_executor):
    executor = make_executor(1)
    results = executor.map(abs, itertools.count(), buffersize=2, return_exceptions=True)
    assert next(results) == 0
    results.cancel()
    assert len(list(results)) == 2


# --- as they come ------------------------------------------------------------------------------


@pytest.mark.parametrize("options", [{}, {"buffersize": 3}, {"progress": True}], ids=str)
def test_without_order_results_come_as_they_are_there(reused, gate, options):
    results = reused.map(wait_if, [gate.path] * 4, [1, 0, 0, 2], ordered=False, **options)
    assert [next(results), next(results)] == [0, 0]  # the first waits at the gate
    gate.open()
    assert sorted(results) == [1, 2]
    assert len(results) == 4


def test_without_order_chunks_come_as_they_are_there(reused, gate):
    results = reused.map(wait_if, [gate.path] * 4, [1, 2, 0, 0], ordered=False, chunksize=2)
    assert [next(results), next(results)] == [0, 0]
    gate.open()
    assert list(results) == [1, 2]


def test_without_order_the_first_exception_ends_the_map(make_executor, gate):
    executor = make_executor(2)
    values = [gate.path, None]
    results = executor.map(wait_at, values, [1, 2], ordered=False)
    with pytest.raises(OSError, match="None"):
        next(results)
    assert list(results) == []
    executor.shutdown()  # returns, though nobody has opened the gate


def test_without_order_a_timeout_ends_the_map(make_executor, gate):
    executor = make_executor(1)
    results = executor.map(wait_at, [gate.path] * 2, [1, 2], ordered=False, timeout=0.3)
    with pytest.raises(TimeoutError):
        next(results)
    executor.shutdown()


def test_without_order_who_drops_it_cancels_the_rest(make_executor, gate):
    executor = make_executor(1)
    results = executor.map(wait_if, [gate.path] * 4, [0, 1, 2, 3], ordered=False)
    assert next(results) == 0
    del results
    executor.shutdown()


# --- exceptions in their places ----------------------------------------------------------------


@pytest.mark.parametrize("ordered", [True, False])
@pytest.mark.parametrize("options", CHUNKS, ids=str)
def test_one_failure_does_not_lose_the_others(executor, options, ordered):
    bad = {4: ValueError("four"), 5: SystemExit(3)}
    results = executor.map(
        fail_at, range(8), [bad] * 8, return_exceptions=True, ordered=ordered, **options
    )
    found = list(results)
    if ordered:
        assert kinds(found) == [0, 1, 2, 3, "ValueError", "SystemExit", 6, 7]
    assert sorted(map(str, kinds(found))) == [*"012367", "SystemExit", "ValueError"]
    error = next(each for each in found if isinstance(each, ValueError))
    assert "in fail_at\n    raise how\n" in str(error.__cause__)
    assert any("fail_at" in note and "in run" in note for note in error.__notes__)


def test_what_cannot_be_pickled_is_one_item(reused):
    bad = {1: "lock", 3: "odd"}
    results = reused.map(fail_at, range(5), [bad] * 5, return_exceptions=True, chunksize=5)
    assert kinds(results) == [0, "OutcomePicklingError", 2, "OutcomePicklingError", 4]


def test_a_crash_takes_its_chunk_along_and_no_other(make_executor):
    executor = make_executor(1)
    bad = {1: "exit"}
    results = executor.map(fail_at, range(4), [bad] * 4, return_exceptions=True, chunksize=2)
    found = list(results)
    assert kinds(found) == ["WorkerCrashedError", "WorkerCrashedError", 2, 3]
    assert isinstance(found[0], WorkerCrashedError)


def test_what_never_was_sent_is_an_item(reused):
    results = reused.map(str, [1, threading.Lock(), 3], return_exceptions=True)
    one, error, three = results
    assert (one, three) == ("1", "3")
    assert isinstance(error, CallPicklingError)


def test_a_time_limit_of_a_call_is_an_item_and_that_of_the_map_is_raised(make_executor):
    executor = make_executor(2)
    limited = executor.options(timeout=0.5)
    (error,) = limited.map(slept, [HOUR], return_exceptions=True)
    assert isinstance(error, TaskTimeoutError)
    results = executor.map(slept, [HOUR], return_exceptions=True, timeout=0.1)
    with pytest.raises(TimeoutError):
        next(results)


def flaky(path, value):
    """Fails the first time."""
    mark = f"{path}/{value}"
    if value % 2 and not os.path.exists(mark):
        open(mark, "w").close()
        raise ConnectionError(value)
    return value


@pytest.mark.parametrize("options", [{}, {"chunksize": 2}], ids=str)
def test_what_is_tried_again_is_no_failure(make_executor, tmp_path, options):
    executor = make_executor(1)
    again = executor.options(retry_on=ConnectionError, max_retries=1)
    results = again.map(flaky, [str(tmp_path)] * 4, range(4), return_exceptions=True, **options)
    assert list(results) == [0, 1, 2, 3]


def test_a_chunk_can_be_told_from_its_rows(reused):
    # A list of pairs, as any function may return one.
    results = reused.map(lambda x: [(False, x)], range(3), chunksize=2, return_exceptions=True)
    assert list(results) == [[(False, 0)], [(False, 1)], [(False, 2)]]


@pytest.mark.parametrize("name", ["ordered", "return_exceptions"])
def test_what_is_no_yes_or_no_is_refused(reused, name):
    with pytest.raises(TypeError, match=name):
        reused.map(abs, [1], **{name: 1})


# --- random numbers ----------------------------------------------------------------------------


def draw(item, rng):
    return item, float(rng.random())


EXPECTED = [
    (item, float(np.random.default_rng(np.random.SeedSequence(42, spawn_key=(item,))).random()))
    for item in range(6)
]


@pytest.mark.parametrize("options", [{}, {"chunksize": 4}, {"chunksize": 2}], ids=str)
def test_each_item_has_its_own_generator_whatever_the_chunks(reused, options):
    catch = "chunksize" in options
    results = reused.map(draw, range(6), seed=42, return_exceptions=catch, **options)
    assert list(results) == EXPECTED


@pytest.mark.parametrize(
    ("seed", "error"), [("a", TypeError), (1.5, TypeError), (True, TypeError), (-1, ValueError)]
)
def test_a_seed_that_is_none_is_refused(reused, seed, error):
    with pytest.raises(error, match="seed"):
        reused.map(draw, [1], seed=seed)


def test_a_function_that_takes_no_generator_says_so(reused):
    with pytest.raises(TypeError, match="rng"):
        list(reused.map(identity, [1], seed=1))
