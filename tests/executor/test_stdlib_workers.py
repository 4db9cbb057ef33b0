"""Workers: how many there are, how long they live, and their initializer."""

from __future__ import annotations

import os
import sys
import threading
import time
from concurrent.futures import BrokenExecutor, wait

import pytest
from tasks import SECONDS, by_value, wait_at

from civis_futures import BrokenContainerPool

by_value(__name__)


def where():
    """(process, run) of this call."""
    return os.getpid(), os.environ["CIVIS_RUN_ID"]


def remember(*values):
    """An initializer: its values, and how often it was called in this process."""
    calls = sys.modules["builtins"].__dict__.setdefault("_remembered", [])
    calls.append(values)


def remembered():
    return sys.modules["builtins"].__dict__.get("_remembered")


def sign(folder):
    """An initializer that leaves a file for each of its calls."""
    open(f"{folder}/{os.environ['CIVIS_RUN_ID']}-{os.getpid()}-{time.monotonic_ns()}", "w").close()


def fail(text):
    raise ValueError(text)


def fail_at(gate):
    wait_at(gate)
    raise ValueError("late")


# --- how many ----------------------------------------------------------------------------------


def test_never_more_than_max_workers_run(make, platform, max_tasks_per_worker):
    executor = make(3)
    calls = 15 if max_tasks_per_worker else 30
    futures = [executor.submit(time.sleep, 0.02) for _ in range(calls)]
    most = 0
    while not all(future.done() for future in futures):
        stats = platform.stats()
        ours = {future.run_id for future in futures}
        most = max(most, len(ours & stats.active.keys()) + stats.queued)
        time.sleep(0.005)
    assert 2 <= most <= 3


def test_max_workers_run_at_the_same_time(make, gate, until):
    executor = make(3)
    futures = [executor.submit(wait_at, gate.path, n) for n in range(4)]
    until(lambda: len(gate.arrived) == 3)
    time.sleep(0.2)
    assert gate.arrived == {"0", "1", "2"}
    gate.open()
    assert wait(futures, SECONDS).not_done == set()


def test_one_call_needs_one_worker(make, platform):
    executor = make(4)
    before = platform.stats().runs_started
    executor.submit(pow, 2, 2).result(SECONDS)
    executor.shutdown()
    assert platform.stats().runs_started == before + 1


def test_calls_one_after_the_other(make, platform, max_tasks_per_worker):
    executor = make(4)
    before = platform.stats().runs_started
    places = [executor.submit(where).result(SECONDS) for _ in range(3)]
    executor.shutdown()
    workers = 3 if max_tasks_per_worker == 1 else 1
    assert len({pid for pid, _ in places}) == workers
    assert len({run for _, run in places}) == workers
    assert platform.stats().runs_started == before + workers


@pytest.mark.parametrize(("max_workers", "most", "calls"), [(1, 3, 4), (2, 2, 8), (3, 1, 5)])
def test_a_worker_takes_so_many_calls_and_another_takes_its_place(
    make_executor, max_workers, most, calls
):
    executor = make_executor(max_workers, max_tasks_per_worker=most)
    futures = [executor.submit(where) for _ in range(calls)]  # CPython's gh-115634
    executor.shutdown()
    places = [future.result(0) for future in futures]
    runs = [run for _, run in places]
    assert max(runs.count(run) for run in runs) <= most
    if max_workers == 1:
        assert [runs.index(run) for run in runs] == [n // most * most for n in range(calls)]


def test_a_future_knows_its_run(executor):
    future = executor.submit(where)
    assert future.result(SECONDS)[1] == str(future.run_id)


def test_a_killed_worker_costs_only_its_call(make):
    # In a process pool it costs the pool.
    executor = make(1)
    lost, after = executor.submit(os._exit, 1), executor.submit(pow, 2, 2)
    assert lost.exception(SECONDS) is not None
    assert after.result(SECONDS) == 4


# --- idle_timeout ------------------------------------------------------------------------------


@pytest.mark.parametrize("idle_timeout", [0, 0.2])
def test_an_idle_worker_goes_and_another_comes(make, platform, until, idle_timeout):
    executor = make(1, idle_timeout=idle_timeout)
    for _ in range(2):
        future = executor.submit(pow, 2, 2)
        assert future.result(SECONDS) == 4
        until(lambda run=future.run_id: run not in platform.stats().active)


def test_a_worker_waits_out_its_idle_timeout(make_executor):
    executor = make_executor(1, idle_timeout=10)
    first = executor.submit(where).result(SECONDS)
    time.sleep(0.5)
    assert executor.submit(where).result(SECONDS) == first


def test_submissions_at_the_moment_of_going(make):
    executor = make(1, idle_timeout=0.1)
    for pause in (0.05, 0.1, 0.15):
        assert executor.submit(pow, 2, 2).result(SECONDS) == 4
        time.sleep(pause)


# --- initializer -------------------------------------------------------------------------------


def test_the_initializer_is_called_with_its_arguments(make):
    executor = make(1, initializer=remember, initargs=(1, "two"))
    assert executor.submit(remembered).result(SECONDS) == [(1, "two")]
    assert executor.submit(remembered).result(SECONDS) == [(1, "two")]  # and only once


def test_the_initializer_is_called_once_in_each_worker(make, tmp_path, max_tasks_per_worker):
    folder = tmp_path / "signs"
    folder.mkdir()
    executor = make(2, initializer=sign, initargs=[str(folder)])
    futures = [executor.submit(where) for _ in range(4)]
    places = {future.result(SECONDS) for future in futures}
    signs = [path.name.split("-") for path in folder.iterdir()]
    assert sorted((int(pid), run) for run, pid, _ in signs) == sorted(places)


def test_no_worker_no_initializer(make, tmp_path):
    with make(1, initializer=sign, initargs=[str(tmp_path / "nowhere")]):
        pass


def test_initializer_and_arguments_are_taken_as_they_are_now(make):
    values = ["now"]
    executor = make(1, initializer=remember, initargs=(values,))
    values.append("later")
    assert executor.submit(remembered).result(SECONDS) == [(["now"],)]


@pytest.mark.parametrize("error", [ValueError, SystemExit, KeyboardInterrupt])
def test_a_failing_initializer_breaks_the_pool(make, error, until):
    def initializer():
        raise error("in the initializer")

    executor = make(2, initializer=initializer)
    futures = [executor.submit(pow, 2, n) for n in range(4)]
    for future in futures:
        with pytest.raises(BrokenContainerPool, match="in the initializer") as caught:
            future.result(SECONDS)
        assert isinstance(caught.value, BrokenExecutor)
    assert len({id(future.exception()) for future in futures}) == 4
    with pytest.raises(BrokenContainerPool, match="in the initializer"):
        executor.submit(pow, 2, 2)
    with pytest.raises(BrokenContainerPool, match="in the initializer"):
        executor.map(pow, [2], [2])
    executor.shutdown()


def test_an_initializer_that_ends_its_process_breaks_the_pool(make):
    executor = make(1, initializer=os._exit, initargs=(3,))
    with pytest.raises(BrokenContainerPool, match="3"):
        executor.submit(pow, 2, 2).result(SECONDS)


def test_a_call_cancelled_before_its_initializer_fails(make, gate, until):
    executor = make(1, initializer=fail_at, initargs=[gate.path])
    future = executor.submit(pow, 2, 2)
    until(lambda: gate.arrived)
    assert future.cancel()
    gate.open()
    executor.shutdown()


# --- many at once ------------------------------------------------------------------------------


def test_many_threads_submit_at_once(make, max_tasks_per_worker):
    executor, each = make(8), 2 if max_tasks_per_worker else 50
    results, errors = {}, []

    def submit(thread):
        try:
            futures = [executor.submit(pow, thread, n) for n in range(each)]
            results[thread] = [future.result(SECONDS) for future in futures]
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=submit, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not errors
    assert results == {t: [pow(t, n) for n in range(each)] for t in range(8)}


def test_executors_are_independent(make, gates):
    busy, free = make(1), make(1)
    gate = gates()
    held = busy.submit(wait_at, gate.path)
    assert free.submit(pow, 2, 2).result(SECONDS) == 4
    free.shutdown()
    assert not held.done()
    gate.open()
    assert held.result(SECONDS) is None


def test_each_thread_has_a_name_of_ours(make):
    before = set(threading.enumerate())
    executor = make(1, name="the name")
    executor.submit(pow, 2, 2).result(SECONDS)
    names = [thread.name for thread in set(threading.enumerate()) - before]
    assert len(names) > 0
    assert all(name.startswith("civis-futures ") for name in names)
    assert any("the name" in name for name in names)
