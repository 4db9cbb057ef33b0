"""`wait` and `as_completed` of the standard library, unchanged, on our futures and on others."""

from __future__ import annotations

import gc
import itertools
import threading
import weakref
from concurrent.futures import (
    ALL_COMPLETED,
    FIRST_COMPLETED,
    FIRST_EXCEPTION,
    Future,
    as_completed,
    wait,
)

import pytest
from tasks import SECONDS, by_value, wait_at

by_value(__name__)


def wait_and_fail(gate):
    wait_at(gate)
    raise ValueError("after the gate")


def succeeded():
    future = Future()
    future.set_result(42)
    return future


def failed():
    future = Future()
    future.set_exception(OSError("before"))
    return future


def cancelled():
    """Cancelled, but nobody has told those who wait."""
    future = Future()
    future.cancel()
    return future


def cancelled_and_told():
    future = cancelled()
    future.set_running_or_notify_cancel()
    return future


# --- wait --------------------------------------------------------------------------------------


def test_wait_for_all(executor):
    ready = [succeeded(), cancelled_and_told(), failed()]
    ours = [executor.submit(divmod, 2, 0), executor.submit(pow, 2, 3)]
    done, not_done = wait(ready + ours, SECONDS, ALL_COMPLETED)
    assert done == {*ready, *ours}
    assert not_done == set()


def test_wait_for_the_same_twice(executor):
    future = executor.submit(pow, 1, 2)
    assert wait([future, future], SECONDS) == ({future}, set())


def test_wait_for_nothing():
    assert wait([], SECONDS) == (set(), set())


def test_wait_for_the_first(executor, gate):
    quick, slow = executor.submit(pow, 2, 2), executor.submit(wait_at, gate.path)
    untold = cancelled()
    done, not_done = wait([untold, quick, slow], SECONDS, FIRST_COMPLETED)
    assert done == {quick}
    assert not_done == {untold, slow}


def test_wait_for_the_first_when_some_are_done(executor, gate):
    slow = executor.submit(wait_at, gate.path)
    ready = [cancelled_and_told(), succeeded()]
    done, not_done = wait([*ready, slow], SECONDS, FIRST_COMPLETED)
    assert done == set(ready)
    assert not_done == {slow}


def test_wait_for_the_first_exception(executor, gates):
    early, late = gates(), gates()
    quick = executor.submit(pow, 2, 2)
    bad = executor.submit(wait_and_fail, early.path)
    slow = executor.submit(wait_at, late.path)
    quick.add_done_callback(lambda _: early.open())
    done, not_done = wait([quick, bad, slow], SECONDS, FIRST_EXCEPTION)
    assert done == {quick, bad}
    assert not_done == {slow}


def test_wait_for_the_first_exception_among_finished(executor, gate):
    bad, slow = executor.submit(divmod, 1, 0), executor.submit(wait_at, gate.path)
    good, untold, told = succeeded(), cancelled(), cancelled_and_told()
    done, not_done = wait([good, untold, told, bad, slow], SECONDS, FIRST_EXCEPTION)
    assert done == {good, told, bad}
    assert not_done == {untold, slow}


def test_wait_for_the_first_exception_that_is_there_already(executor, gate):
    slow, bad = executor.submit(wait_at, gate.path), failed()
    assert wait([bad, slow], SECONDS, FIRST_EXCEPTION) == ({bad}, {slow})


def test_wait_for_an_exception_that_never_comes(executor):
    futures = {executor.submit(pow, 2, n) for n in range(3)}
    assert wait(futures, SECONDS, FIRST_EXCEPTION) == (futures, set())


def test_wait_has_its_limit(executor, gate):
    slow = executor.submit(wait_at, gate.path)
    ready = [cancelled_and_told(), failed(), succeeded()]
    done, not_done = wait([*ready, slow], 0.05, ALL_COMPLETED)  # though nobody opens the gate
    assert done == set(ready)
    assert not_done == {slow}


@pytest.mark.parametrize(
    ("moment", "running"), [("before", False), ("during", False), ("during", True)]
)
def test_wait_sees_a_cancelled_future(executor, gate, until, moment, running):
    future = executor.submit(wait_at, gate.path)
    if running:
        until(future.running)
    timer = threading.Timer(0 if moment == "before" else 0.1, future.cancel)
    timer.start()
    if moment == "before":
        timer.join()
    done, _ = wait([future], SECONDS)
    timer.join()
    assert done == {future}
    assert future.cancelled()


def test_wait_for_something_else_is_refused(executor):
    with pytest.raises(ValueError, match="return condition"):
        wait([executor.submit(pow, 2, 2), succeeded()], 0, "SOME_COMPLETED")


def test_many_threads_may_wait_for_the_same(executor, gate):
    futures = [executor.submit(wait_at, gate.path, n) for n in range(3)]
    seen = []
    threads = [
        threading.Thread(target=lambda: seen.append(wait(futures, SECONDS).done)) for _ in range(5)
    ]
    for thread in threads:
        thread.start()
    gate.open()
    for thread in threads:
        thread.join()
    assert seen == [set(futures)] * 5


# --- as_completed ------------------------------------------------------------------------------


def test_as_completed_gives_each_once(executor):
    ready = [cancelled_and_told(), failed(), succeeded()]
    ours = [executor.submit(pow, 2, 3), executor.submit(divmod, 1, 0)]
    completed = list(as_completed([*ready, *ours], SECONDS))
    assert len(completed) == 5
    assert set(completed) == {*ready, *ours}


def test_as_completed_gives_them_as_they_end(executor, gates, until):
    doors = [gates() for _ in range(3)]
    futures = [executor.submit(wait_at, door.path, n) for n, door in enumerate(doors)]
    until(lambda: all(door.arrived for door in doors))
    order = [2, 0, 1]
    doors[order[0]].open()
    seen = []
    for future in as_completed(futures, SECONDS):
        seen.append(future.result())
        if len(seen) < 3:
            doors[order[len(seen)]].open()
    assert seen == order


@pytest.mark.parametrize("seconds", [0, 0.1])
def test_as_completed_has_its_limit(executor, gate, seconds):
    ready = {cancelled_and_told(), failed(), succeeded()}
    slow = executor.submit(wait_at, gate.path)
    completed = set()
    with pytest.raises(TimeoutError, match=r"^1 \(of 4\) futures unfinished$"):
        completed.update(as_completed(ready | {slow}, seconds))
    assert completed == ready


def test_as_completed_gives_duplicates_once(executor, gate):
    future = executor.submit(wait_at, gate.path)
    gate.open()
    assert list(as_completed(itertools.repeat(future, 3), SECONDS)) == [future]


@pytest.mark.parametrize("running", [False, True], ids=["waiting", "running"])
def test_as_completed_sees_a_cancelled_future(executor, gate, until, running):
    future = executor.submit(wait_at, gate.path)
    if running:
        until(future.running)
    timer = threading.Timer(0.05, future.cancel)
    timer.start()
    assert list(as_completed([future], SECONDS)) == [future]
    assert future.cancelled()
    timer.join()


def test_as_completed_keeps_no_future(executor):
    futures = [executor.submit(pow, 2, n) for n in range(4)]
    wait(futures, SECONDS)
    for future in as_completed(futures, SECONDS):
        futures.remove(future)
        reference = weakref.ref(future)
        del future
        gc.collect()
        assert reference() is None


def test_as_completed_takes_futures_of_many_executors(fresh, reused):
    futures = [executor.submit(pow, 2, 3) for executor in (fresh, reused)]
    assert set(as_completed(futures, SECONDS)) == set(futures)
