"""`shutdown`, `with`, forgetting an executor, `terminate_workers`: all of them end, none hangs."""

from __future__ import annotations

import functools
import gc
import inspect
import operator
import threading
import time
import weakref
from concurrent.futures import BrokenExecutor, Executor, ProcessPoolExecutor, wait

import pytest
from tasks import SECONDS, by_value, wait_at

from civis_futures import ContainerPoolExecutor
from civis_futures.local import LocalPlatform

by_value(__name__)


def fail_after(seconds):
    time.sleep(seconds)
    raise ValueError(seconds)


def threads_of_ours():
    return {thread for thread in threading.enumerate() if thread.name.startswith("civis-futures")}


@pytest.fixture
def calm(until):
    """until nothing of the test's executors runs in this process."""
    before = threads_of_ours()
    return functools.partial(until, lambda: threads_of_ours() <= before)


# --- after it ----------------------------------------------------------------------------------


@pytest.mark.parametrize("used", [False, True])
def test_nothing_is_taken_after_the_shutdown(make, used):
    executor = make(2)
    if used:
        executor.submit(pow, 2, 2)
    executor.shutdown()
    with pytest.raises(RuntimeError, match="shutdown"):
        executor.submit(pow, 2, 5)
    with pytest.raises(RuntimeError, match="shutdown"):
        executor.map(pow, [2], [5])


@pytest.mark.parametrize("first", [True, False])
@pytest.mark.parametrize("used", [False, True])
def test_shutdown_may_be_repeated(make, first, used):
    executor = make(2)
    future = executor.submit(pow, 2, 2) if used else None
    executor.shutdown(wait=first)
    executor.shutdown()
    executor.shutdown(wait=False, cancel_futures=True)
    assert future is None or future.result(0) == 4


def test_shutdown_by_many_threads(make, gate):
    executor = make(2)
    future = executor.submit(wait_at, gate.path, 1)
    ended = []

    def end():
        executor.shutdown()
        ended.append(future.done())

    threads = [threading.Thread(target=end) for _ in range(4)]
    for thread in threads:
        thread.start()
    gate.open()
    for thread in threads:
        thread.join(SECONDS)
    assert ended == [True] * 4


def test_no_container_runs_after_the_shutdown(make, platform):
    executor = make(2)
    runs = {f.run_id for f in wait([executor.submit(pow, 2, n) for n in range(3)], SECONDS).done}
    executor.shutdown()
    assert not runs & platform.stats().active.keys()
    assert platform.stats().queued == 0


# --- what was submitted before it --------------------------------------------------------------


def test_shutdown_waits_for_all_that_was_submitted(make, max_tasks_per_worker):
    executor = make(4)
    futures = [executor.submit(time.sleep, 0.01) for _ in range(6 if max_tasks_per_worker else 50)]
    executor.shutdown()
    assert all(future.done() for future in futures)
    assert [future.result(0) for future in futures] == [None] * len(futures)


def test_results_arrive_after_a_shutdown_that_does_not_wait(make, gate, calm):
    executor = make(2)
    future = executor.submit(wait_at, gate.path, 1)
    results = executor.map(abs, range(-2, 1))
    executor.shutdown(wait=False)  # the gate is closed: who waits does not return
    assert not future.done()
    gate.open()
    assert future.result(SECONDS) == 1
    assert list(results) == [2, 1, 0]
    calm()


def test_a_failed_call_does_not_disturb_a_shutdown_that_does_not_wait(make, calm):
    # CPython's gh-132969.
    executor = make(2)
    good, bad, late = (
        executor.submit(abs, 1), executor.submit(fail_after, 0.01), executor.submit(abs, 3),
    )  # fmt: skip
    with pytest.raises(ValueError):
        bad.result(SECONDS)
    executor.shutdown(wait=False)
    assert good.result(SECONDS) == 1
    assert late.result(SECONDS) == 3
    calm()


def test_a_call_cancelled_right_before_the_shutdown(make):
    # CPython's gh-94440.
    executor = make(1)
    executor.submit(int).result(SECONDS)
    executor.submit(int).cancel()
    executor.shutdown()


# --- cancel_futures ----------------------------------------------------------------------------


def test_cancel_futures_keeps_what_runs(make, gate, until):
    executor = make(2)
    futures = [executor.submit(wait_at, gate.path, n) for n in range(8)]
    until(lambda: sum(future.running() for future in futures) == 2)
    threading.Timer(3.0, gate.open).start()  # by then the containers have read what is cancelled
    executor.shutdown(cancel_futures=True)
    assert all(future.done() for future in futures)
    kept = [future for future in futures if not future.cancelled()]
    assert [future.result(0) for future in kept] == [0, 1]
    assert gate.arrived == {"0", "1"}


def test_cancel_futures_before_anything_runs(make):
    executor = make(2)
    futures = [executor.submit(time.sleep, 0.1) for _ in range(20)]
    executor.shutdown(cancel_futures=True)
    assert all(future.done() for future in futures)
    assert sum(future.cancelled() for future in futures) >= 16


def test_cancel_futures_without_waiting(make, gate, until, calm):
    executor = make(1)
    first, second = (executor.submit(wait_at, gate.path, n) for n in range(2))
    until(first.running)
    executor.shutdown(wait=False, cancel_futures=True)
    assert second.cancelled()
    gate.open()
    assert first.result(SECONDS) == 0
    calm()


def test_cancel_futures_in_a_second_shutdown(make, gate, until):
    executor = make(1)
    first, second = (executor.submit(wait_at, gate.path, n) for n in range(2))
    until(first.running)
    executor.shutdown(wait=False)
    threading.Timer(0.1, gate.open).start()
    executor.shutdown(cancel_futures=True)
    assert second.cancelled()
    assert first.result(0) == 0


# --- with --------------------------------------------------------------------------------------


def test_with_waits_for_the_results(make):
    with make(2) as executor:
        future = executor.submit(pow, 2, 3)
    assert future.done()
    assert future.result(0) == 8
    with pytest.raises(RuntimeError):
        executor.submit(pow, 2, 3)


# A KeyboardInterrupt cancels first, unlike the standard library's: tests/futures/test_waiting.py.
@pytest.mark.parametrize("error", [ValueError, SystemExit])
def test_with_lets_errors_through_and_waits(make, error):
    futures = []

    def work():
        with make(2) as executor:
            futures.append(executor.submit(pow, 2, 3))
            raise error

    with pytest.raises(error):
        work()
    assert futures[0].result(0) == 8


def test_with_of_an_executor_that_was_never_used(make):
    with make(2):
        pass


# --- shutdown from where it is awkward ---------------------------------------------------------


def test_shutdown_in_a_callback(make, calm):
    executor = make(2)
    ended = threading.Event()
    future = executor.submit(pow, 2, 2)
    other = executor.submit(pow, 2, 3)
    future.add_done_callback(lambda _: (executor.shutdown(wait=True), ended.set()))
    assert ended.wait(SECONDS)
    assert other.result(SECONDS) == 8
    calm()


def test_the_last_reference_goes_in_a_callback(make, calm):
    executors = [make(1)]
    future = executors[0].submit(pow, 2, 2)
    gone = threading.Event()
    future.add_done_callback(lambda _: (executors.clear(), gone.set()))
    assert gone.wait(SECONDS)
    assert future.result(SECONDS) == 4
    calm()


def test_shutdown_while_others_submit(make):
    executor = make(2)
    taken, refused = [], threading.Event()

    def submit():
        try:
            while True:
                taken.append(executor.submit(pow, 2, 2))
                time.sleep(0.02)
        except RuntimeError:
            refused.set()

    thread = threading.Thread(target=submit)
    thread.start()
    time.sleep(0.1)
    executor.shutdown()
    assert refused.wait(SECONDS)
    thread.join()
    assert taken
    assert [future.result(0) for future in taken] == [4] * len(taken)


# --- forgotten ---------------------------------------------------------------------------------


def test_a_forgotten_executor_finishes_its_work(make, gate, calm):
    executor = make(2)
    reference = weakref.ref(executor)
    future = executor.submit(wait_at, gate.path, 1)
    results = executor.map(abs, range(-2, 0))
    del executor
    gc.collect()
    assert reference() is None  # neither futures nor threads keep it
    gate.open()
    assert list(results) == [2, 1]
    assert future.result(SECONDS) == 1
    calm()


def test_an_executor_forgotten_in_a_cycle_finishes_its_work(make, gate, calm):
    executor = make(1)
    future = executor.submit(wait_at, gate.path, 1)
    holder = {"executor": executor}
    holder["itself"] = holder
    del executor, holder
    gc.collect()
    gate.open()
    assert future.result(SECONDS) == 1
    calm()


def test_a_forgotten_executor_with_its_futures_forgotten(make, gate, calm):
    executor = make(1)
    executor.submit(wait_at, gate.path, "it")
    del executor
    gc.collect()
    gate.open()
    calm()
    assert gate.arrived == {"it"}


def test_a_forgotten_executor_that_is_idle_goes(make, platform, calm, until):
    executor = make(1)
    run = executor.submit(pow, 2, 2)
    assert run.result(SECONDS) == 4
    del executor
    gc.collect()
    calm()
    assert run.run_id not in platform.stats().active


def test_a_forgotten_executor_that_was_never_used(make, calm):
    make(1)
    gc.collect()
    calm()


def test_a_lazy_map_of_a_forgotten_executor(make, calm):
    executor = make(2)
    results = executor.map(abs, iter(range(0, -6, -1)), buffersize=2)
    del executor
    gc.collect()
    assert next(results) == 0
    assert next(results) == 1
    results.close()
    del results
    gc.collect()
    calm()


# --- terminate_workers -------------------------------------------------------------------------


@pytest.fixture(params=["terminate_workers", "kill_workers"])
def stop(request):
    """Python 3.14 has two methods, which are one here."""
    return operator.methodcaller(request.param)


def test_terminate_stops_what_runs_and_what_waits(make, platform, gate, until, stop):
    executor = make(2)
    futures = [executor.submit(wait_at, gate.path, n) for n in range(6)]
    until(lambda: sum(future.running() for future in futures) == 2)
    runs = {future.run_id for future in futures[:2]}
    stop(executor)
    executor.shutdown()
    assert not runs & platform.stats().active.keys()
    assert gate.arrived <= {"0", "1"}
    assert all(future.cancelled() for future in futures[2:])
    errors = [future.exception(0) for future in futures[:2]]
    assert all(isinstance(error, BrokenExecutor) for error in errors)
    assert errors[0] is not errors[1]  # each raise adds to a traceback of its own


def test_terminate_stops_the_pool(make, stop):
    executor = make(1)
    assert executor.submit(time.sleep, 0).result(SECONDS) is None
    stop(executor)
    with pytest.raises(RuntimeError):
        executor.submit(time.sleep, 0)
    executor.shutdown()


def test_terminate_before_anything_began(make, stop):
    with make(1) as executor:
        stop(executor)
        stop(executor)


def test_all_that_the_standard_librarys_pools_have(make):
    # Not ThreadPoolExecutor: 3.14 has added methods to it for those who derive from it.
    for pool in (Executor, ProcessPoolExecutor):
        for name, method in inspect.getmembers(pool, inspect.isroutine):
            if not name.startswith("_"):
                ours = inspect.signature(getattr(ContainerPoolExecutor, name)).parameters
                assert inspect.signature(method).parameters.keys() <= ours.keys(), name


def test_terminate_right_after_a_submission(make):
    with make(1) as executor:
        future = executor.submit(time.sleep, 30)
        executor.terminate_workers()
    assert future.done()


def test_terminate_after_a_shutdown(make, gate, until):
    executor = make(1)
    future = executor.submit(wait_at, gate.path)
    until(future.running)
    executor.shutdown(wait=False)
    executor.terminate_workers()
    executor.shutdown()
    assert isinstance(future.exception(0), BrokenExecutor)


def test_terminate_when_the_platform_is_gone(make_executor, gate, until, calm, brisk):
    with LocalPlatform(cores=4) as platform:
        executor = make_executor(1, platform=platform)
        future = executor.submit(wait_at, gate.path)
        until(future.running)
    executor.terminate_workers()
    assert isinstance(future.exception(SECONDS), BrokenExecutor)
    calm(SECONDS)
