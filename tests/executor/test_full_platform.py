"""A platform that cannot start all containers at once: nothing waits for those that it has queued.

How long work takes is compared with a pool that is no larger than the platform, in the same run.
"""

from __future__ import annotations

import threading
import time
from concurrent.futures import ThreadPoolExecutor

import joblib
import pytest
from benchmarks.measure import pause
from tasks import by_value, wait_at

import civis_joblib
from civis_futures import ContainerPoolExecutor, progress
from civis_futures.local import LocalPlatform

by_value(__name__)

# On a busy machine comparisons are made again.
pytestmark = [pytest.mark.alone, pytest.mark.timeout(300)]

#: At most this many times as long as with a pool of the platform's size.
WORSE = 1.3
#: On a busy machine one comparison says little; one of this many must do.
TRIES = 4


@pytest.fixture
def full():
    """A platform with room for one container."""
    with LocalPlatform(cores=1) as platform:
        yield platform


def in_one_executor(platform, workers, calls, each=0.2, **options):
    """Each call takes `each` seconds."""
    with ContainerPoolExecutor(workers, platform=platform, **options) as executor:
        assert list(executor.map(pause, [each] * calls, range(calls))) == list(range(calls))


def in_two_executors(platform, workers, calls, **options):
    """Both are open until both have ended their work."""
    with (
        ContainerPoolExecutor(workers, platform=platform, **options) as one,
        ContainerPoolExecutor(workers, platform=platform, **options) as other,
    ):
        half = calls // 2
        results = [each.map(pause, [0.2] * half, range(half)) for each in (one, other)]
        assert [list(each) for each in results] == [list(range(half))] * 2


def over_joblib(platform, workers, calls):
    """Its containers are kept afterwards, as the platform's end is theirs."""
    with joblib.parallel_config("civis", n_jobs=workers, platform=platform):
        run = joblib.Parallel()
        results = run(joblib.delayed(pause)(0.2, number) for number in range(calls))
    assert results == list(range(calls))


def seconds(work, slots, *args, **options):
    """How long `work` takes on a platform of its own with room for this many containers."""
    with LocalPlatform(cores=slots) as platform:
        begin = time.perf_counter()
        work(platform, *args, **options)
        return time.perf_counter() - begin


def check(work, cases, workers, **options):
    """That `work` takes about as long with pools of this size as with those that fit.

    The cases are pairs: how many containers there is room for, and how many calls. All pools are
    at work at the same time, so what else the machine does slows down both sides alike; the calls
    only sleep.
    """
    ratios: dict[int, list[float]] = {slots: [] for slots, _ in cases}
    for _ in range(TRIES):
        with ThreadPoolExecutor() as threads:
            pairs = [
                (
                    slots,
                    [
                        threads.submit(seconds, work, slots, size, calls, **options)
                        for size in (slots, workers)
                    ],
                )
                for slots, calls in cases
            ]
        for slots, (fitting, larger) in pairs:
            ratios[slots].append(larger.result() / fitting.result())
        cases = [(slots, calls) for slots, calls in cases if min(ratios[slots]) > WORSE]
        if not cases:
            return
    pytest.fail(f"{workers} workers: {ratios}")


def test_more_workers_than_the_platform_can_start():
    check(in_one_executor, [(slots, 15 * slots) for slots in (1, 2, 3)], 10)


@pytest.mark.repeats
def test_many_more_workers_than_the_platform_can_start():
    """To ask for 50 containers, and to end them, takes some time by itself."""
    check(in_one_executor, [(slots, 24 * slots) for slots in (1, 2, 3)], 50, each=0.5)


@pytest.mark.repeats
def test_one_container_for_each_call():
    check(in_one_executor, [(2, 12)], 10, max_tasks_per_worker=1)


@pytest.mark.repeats
def test_some_calls_for_each_container():
    check(in_one_executor, [(2, 24)], 10, max_tasks_per_worker=5)


def test_over_joblib():
    civis_joblib.register()
    try:
        check(over_joblib, [(slots, 20 * slots) for slots in (2, 3)], 10)
    finally:
        civis_joblib.shutdown()


@pytest.mark.repeats
def test_two_executors_on_one_platform():
    check(in_two_executors, [(2, 40)], 10)


def test_an_idle_executor_makes_room_for_another(full, until):
    """Its `idle_timeout` is a minute; the other one's calls wait for seconds."""
    with ContainerPoolExecutor(3, platform=full) as idle:
        assert idle.submit(abs, -1).result() == 1
        with ContainerPoolExecutor(3, platform=full) as other:
            began = time.time()
            other.submit(abs, -2).result()
            assert time.time() - began < 30  # of the 60 that it would keep its place


def small_then_large(platform):
    """Seconds until a call that needs a larger container is done, after one in a small one."""
    with ContainerPoolExecutor(4, platform=platform) as executor:
        small = executor.submit(abs, -1)
        assert small.result() == 1
        large = executor.options(required_resources={"memory": 4096}).submit(abs, -2)
        assert large.result(timeout=45) == 2
        assert large.worker != small.worker


def test_an_idle_container_makes_room_for_a_larger_one(full):
    small_then_large(full)


def test_what_tasks_wait_for_is_said(full, until, gate, capsys):
    with ContainerPoolExecutor(3, platform=full) as executor:
        futures = [executor.submit(wait_at, gate.path, number) for number in range(3)]
        until(lambda: any(future.running() for future in futures))
        said = "2 of 3 containers are queued on the platform for"
        waiting = [future for future in futures if not future.running()]
        until(lambda: all(future.reason.startswith(said) for future in waiting))
        assert said in repr(waiting[0])
        rows = [row for row in executor.status() if row["state"] == "queued"]
        assert len(rows) == 2
        assert all(row["reason"].startswith(said) for row in rows)
        assert all(row["reason"].endswith("1 runs") for row in rows)
        assert f"waiting: {said}" in executor._repr_html_()
        threading.Timer(1.5, gate.open).start()
        progress(futures)
    assert said in capsys.readouterr().err
