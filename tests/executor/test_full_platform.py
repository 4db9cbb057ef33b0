"""A platform that cannot start all containers at once: nothing waits for those that it has queued.

How long work takes is compared with a pool that is no larger than the platform, in the same run.
"""

from __future__ import annotations

import sys
import threading
import time

import cloudpickle
import joblib
import pytest
from benchmarks.measure import pause
from tasks import wait_at

import civis_joblib
from civis_futures import ContainerPoolExecutor, progress
from civis_futures.local import LocalPlatform

# No container has this module: what is defined here travels by value.
cloudpickle.register_pickle_by_value(sys.modules[__name__])

# On a busy machine comparisons are made again.
pytestmark = [pytest.mark.alone, pytest.mark.timeout(300)]

#: At most so many times as long as with a pool of the platform's size.
WORSE = 1.3
#: On a busy machine one comparison says little; of so many one must do.
TRIES = 4


@pytest.fixture(params=[1, 2, 3], ids="{} slots".format)
def slots(request):
    """How many containers the platform can run at once."""
    return request.param


@pytest.fixture
def full(slots):
    """A platform with room for so many containers."""
    with LocalPlatform(cores=slots) as platform:
        yield platform


def in_one_executor(platform, workers, calls, each=0.2, **options):
    """`each` call takes so many seconds."""
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
    civis_joblib.register()
    with joblib.parallel_config("civis", n_jobs=workers, platform=platform):
        run = joblib.Parallel()
        results = run(joblib.delayed(pause)(0.2, number) for number in range(calls))
    civis_joblib.shutdown()
    assert results == list(range(calls))


def seconds(work, *args, **options):
    begin = time.perf_counter()
    work(*args, **options)
    return time.perf_counter() - begin


def check(work, platform, slots, calls, sizes=(10, 50), **options):
    """That `work` takes about as long with pools of these sizes as with one that fits."""
    for workers in sizes:
        ratios = []
        for _ in range(TRIES):
            fitting = seconds(work, platform, slots, calls, **options)
            ratios.append(seconds(work, platform, workers, calls, **options) / fitting)
            if ratios[-1] <= WORSE:
                break
        assert min(ratios) <= WORSE, f"{workers} workers: {ratios}"


def test_more_workers_than_the_platform_can_start(full, slots):
    check(in_one_executor, full, slots, 15 * slots, sizes=[10])


def test_many_more_workers_than_the_platform_can_start(full, slots):
    """To ask for 50 containers, and to end them, takes some time by itself."""
    check(in_one_executor, full, slots, 24 * slots, sizes=[50], each=0.5)


@pytest.mark.parametrize("slots", [2], indirect=True)
def test_one_container_for_each_call(full, slots):
    check(in_one_executor, full, slots, 12, sizes=[10], max_tasks_per_worker=1)


@pytest.mark.parametrize("slots", [2], indirect=True)
def test_some_calls_for_each_container(full, slots):
    check(in_one_executor, full, slots, 24, sizes=[10], max_tasks_per_worker=5)


@pytest.mark.parametrize("slots", [2, 3], indirect=True)
def test_over_joblib(full, slots):
    check(over_joblib, full, slots, 20 * slots, sizes=[10])


@pytest.mark.parametrize("slots", [2], indirect=True)
def test_two_executors_on_one_platform(full, slots):
    check(in_two_executors, full, slots, 40, sizes=[10])


@pytest.mark.parametrize("slots", [1], indirect=True)
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


@pytest.mark.parametrize("slots", [1], indirect=True)
def test_an_idle_container_makes_room_for_a_larger_one(full):
    small_then_large(full)


@pytest.mark.parametrize("slots", [1], indirect=True)
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
