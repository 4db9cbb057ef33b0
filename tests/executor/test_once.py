"""One task, one execution, whatever happens to requests; and long runs with faults everywhere."""

from __future__ import annotations

import gc
import os
import random
import threading
import time
import uuid
from collections import Counter
from concurrent.futures import ThreadPoolExecutor

import psutil
import pytest
from cases import MODES
from mishaps import CLOCKS, HARMLESS, LATER, LOSSY, RESTARTS
from tasks import by_value

import civis_futures as cf
from civis_futures.testing import Fault, LocalPlatform

by_value(__name__)

pytestmark = pytest.mark.usefixtures("brisk")

REPEATS = pytest.mark.repeats

SECONDS = 300
SCRIPTS, RUNS = "POST /scripts/containers", "POST /scripts/containers/{id}/runs"


def leave_a_trace(folder, number):
    """One file for each execution."""
    (folder / f"{number}-{uuid.uuid4().hex}").touch()
    return number


def executions(folder):
    """How often each call was executed."""
    return Counter(int(path.name.partition("-")[0]) for path in folder.iterdir())


# --- lost replies ------------------------------------------------------------------------------


def run_with_lost_replies(folder, tasks, reuse, bad_seconds):
    """`tasks` tasks, while replies to POSTs are lost, and for some seconds GETs fail."""
    lost = Fault.drop("POST *", done=True, chance=0.2)
    with LocalPlatform(cores=64, seed=5, faults=[lost]) as platform:
        failing = Fault.answer(503, "GET *", chance=0.3)
        platform.faults.add(failing)
        timer = threading.Timer(bad_seconds, platform.faults.remove, [failing])
        timer.start()
        try:
            with cf.ContainerPoolExecutor(
                4, platform=platform, max_tasks_per_worker=reuse
            ) as executor:
                numbers = list(range(tasks))
                assert list(executor.map(leave_a_trace, [folder] * tasks, numbers)) == numbers
        finally:
            timer.cancel()
            timer.join()
        assert platform.faults.hits(lost)
        assert executions(folder) == dict.fromkeys(range(tasks), 1)
        stats = platform.stats()
        assert not stats.active
        # As many as without faults.
        assert stats.runs_started <= (tasks if reuse == 1 else 4)
        scripts = [each.url for each in platform.requests("PUT */archive")]
        assert len(set(scripts)) == stats.runs_started, "a script was made twice, or is left"
        assert stats.count("POST", "/scripts/containers") == stats.runs_started


@pytest.mark.parametrize(
    ("reuse", "tasks"), [(1, 12), pytest.param(None, 60, marks=REPEATS)], ids=["fresh", "reused"]
)
def test_lost_replies_cost_no_second_execution(tmp_path, reuse, tasks):
    run_with_lost_replies(tmp_path, tasks, reuse, bad_seconds=1)


def test_a_lost_reply_while_lists_lag_costs_no_second_execution(tmp_path):
    """The list of runs, and that of scripts, do not show yet what the lost request has made."""
    lost = [Fault.drop(on, done=True, times=2) for on in (SCRIPTS, RUNS)]
    lag = Fault.stale(0.5, "GET *")
    with LocalPlatform(cores=64, faults=[*lost, lag]) as platform:
        with cf.ContainerPoolExecutor(4, platform=platform, max_tasks_per_worker=1) as executor:
            assert list(executor.map(leave_a_trace, [tmp_path] * 4, range(4))) == [0, 1, 2, 3]
        assert [platform.faults.hits(fault) for fault in lost] == [2, 2]
        assert executions(tmp_path) == dict.fromkeys(range(4), 1)
        stats = platform.stats()
        assert stats.runs_started == stats.count("POST", "/scripts/containers") == 4
        assert len({each.url for each in platform.requests("PUT */archive")}) == 4
        assert not stats.active


@pytest.mark.stress
@pytest.mark.parametrize("reuse", MODES)
def test_lost_replies_for_a_minute(tmp_path, reuse):
    run_with_lost_replies(tmp_path, 300, reuse, bad_seconds=60)


# --- started again within a run ----------------------------------------------------------------


@pytest.mark.parametrize("options", [{}, {"max_tasks_per_worker": 3}], ids=["goes on", "three"])
def test_a_container_that_is_started_again_before_it_has_answered(tmp_path, options):
    restart = Fault.restart(says="0 is marked", times=1)
    with LocalPlatform(cores=64, faults=[restart]) as platform:
        with cf.ContainerPoolExecutor(1, platform=platform, **options) as executor:
            futures = [executor.submit(mark_and_wait, tmp_path, number) for number in range(3)]
            error = futures[0].exception(60)
            assert isinstance(error, cf.CallLostError)
            assert "started it again" in str(error)
            assert [future.result(60) for future in futures[1:]] == [1, 2]
        assert platform.faults.hits(restart) == 1
    assert executions(tmp_path) == dict.fromkeys(range(3), 1)


def mark_and_wait(folder, number):
    leave_a_trace(folder, number)
    print(f"{number} is marked", flush=True)
    time.sleep(0.5)
    return number


# --- cancelled for another call -----------------------------------------------------------------


def mark_and_stay(folder, number):
    leave_a_trace(folder, number)
    if len(list(folder.iterdir())) < 3:
        time.sleep(SECONDS)


@REPEATS
def test_a_call_that_begins_when_its_run_is_cancelled_for_another_one(tmp_path, until):
    """The end of the one that was cancelled is not heard of, and the next one has begun."""
    with LocalPlatform(cores=64) as platform:
        with cf.ContainerPoolExecutor(1, platform=platform) as executor:
            futures = [executor.submit(mark_and_stay, tmp_path, number) for number in range(2)]
            until(lambda: executions(tmp_path) == {0: 1}, SECONDS)
            platform.faults.add(Fault.answer(503, "POST /json_values", origin="worker"))
            futures[0].cancel()
            until(lambda: platform.requests("DELETE *", origin="client"), SECONDS)
            platform.faults.clear()
            error = futures[1].exception(SECONDS)
            assert type(error) is cf.CallLostError
            assert "another call in its container did not end" in str(error)
        assert executions(tmp_path) == {0: 1, 1: 1}


# --- an outage ---------------------------------------------------------------------------------


def beat(path):
    while True:
        with open(path, "a") as file:
            file.write(".")
        time.sleep(0.1)


def work(folder, number):
    time.sleep(number % 5)
    return leave_a_trace(folder, number)


@pytest.mark.stress
@pytest.mark.parametrize("reuse", MODES)
def test_the_platform_is_down_for_a_minute(tmp_path, until, reuse):
    tasks = 24
    path, folder = tmp_path / "beats", tmp_path / "done"
    folder.mkdir()
    with (
        LocalPlatform(cores=64) as platform,
        cf.ContainerPoolExecutor(4, platform=platform, max_tasks_per_worker=reuse) as executor,
    ):
        numbers = list(range(tasks))
        endless = executor.options(timeout=10).submit(beat, path)
        found = executor.map(work, [folder] * tasks, numbers)
        until(lambda: path.exists() and len(executions(folder)) > 3, 60)
        platform.faults.add(Fault.down(60.0))
        time.sleep(20)  # its timeout is kept by its container
        size = path.stat().st_size
        time.sleep(20)
        assert path.stat().st_size == size <= 110
        assert list(found) == numbers
        assert type(endless.exception(SECONDS)) is cf.TaskTimeoutError
        executor.shutdown()
        stats = platform.stats()
        assert executions(folder) == dict.fromkeys(numbers, 1)
        assert stats.runs_started == (tasks + 1 if reuse == 1 else 4)
        assert not stats.active
        assert not stats.queued


# --- histories ---------------------------------------------------------------------------------


def large(folder, number):
    leave_a_trace(folder, number)
    return bytes([number % 256]) * 100_000


def fail(folder, number):
    leave_a_trace(folder, number)
    raise ValueError(f"{number} on purpose")


def crash(folder, number):
    leave_a_trace(folder, number)
    os._exit(3)


def doze(folder, number):
    leave_a_trace(folder, number)
    time.sleep(number % 10 / 20)
    return number


KINDS = (leave_a_trace, leave_a_trace, doze, doze, large, fail, crash)


def check_outcome(future, function, number, lossy):
    if future.cancelled():
        return
    error = future.exception(0)
    if function is fail:
        assert (type(error), str(error)) == (ValueError, f"{number} on purpose"), (number, error)
    elif function is crash:
        lost = (cf.WorkerCrashedError, cf.CallLostError, cf.WorkerMemoryError)
        assert type(error) in (lost if lossy else lost[:1]), (number, error)
    else:
        right = bytes([number % 256]) * 100_000 if function is large else number
        assert error is None, (number, error)
        assert future.result(0) == right


def history(platform, folder, chance, tasks, lossy):
    """One pool: calls of all kinds, some of them cancelled; each ends once, with the truth."""
    folder.mkdir()
    calls = [(chance.choice(KINDS), number) for number in range(tasks)]
    ends = Counter()
    with cf.ContainerPoolExecutor(
        chance.choice([1, 2, 4]),
        platform=platform,
        max_tasks_per_worker=chance.choice([None, None, 1, 3]),
        idle_timeout=chance.choice([0.0, 0.5, 60.0]),
    ) as executor:
        views = {True: executor.options(max_retries=9), False: executor.options(max_retries=0)}
        futures = []
        for function, number in calls:
            future = views[function is not crash].submit(function, folder, number)
            future.add_done_callback(lambda _, number=number: ends.update([number]))
            futures.append(future)
            if chance.random() < 0.3:
                time.sleep(chance.random() / 5)
            if chance.random() < 0.15:
                chance.choice(futures).cancel()
    assert ends == dict.fromkeys(range(tasks), 1)
    done = executions(folder)
    for future, (function, number) in zip(futures, calls, strict=True):
        check_outcome(future, function, number, lossy)
        if not future.cancelled() and not (lossy and function is crash):  # it has one chance
            assert done[number] >= 1, number
        if not lossy:
            assert done[number] <= 1, number


def histories(folder, seed, tasks, pools, harmless=HARMLESS, costly=LOSSY):
    """Pools that work at the same time on a platform with some faults."""
    chance = random.Random(seed)
    lossy = chance.random() < 0.4
    faults = chance.sample(harmless, chance.choice([1, 3, 6]))
    faults += chance.sample(costly, 2) if lossy else []
    faults += chance.sample(CLOCKS, chance.choice([0, 1]))
    with (
        LocalPlatform(cores=64, seed=seed, faults=faults) as platform,
        ThreadPoolExecutor(pools) as threads,
    ):
        chances = [random.Random(f"{seed}-{number}") for number in range(pools)]
        folders = [folder / str(number) for number in range(pools)]
        try:
            list(threads.map(lambda *own: history(platform, *own, tasks, lossy), folders, chances))
        except BaseException as error:
            error.add_note(f"seed {seed}, faults: {faults}")
            raise
        assert not platform.stats().active
        assert not platform.stats().queued


@pytest.mark.parametrize(
    # Together they have every fault.
    "seed",
    [51, pytest.param(198, marks=REPEATS), pytest.param(332, marks=REPEATS)],
)
def test_histories(tmp_path, seed):
    histories(tmp_path, seed, tasks=7, pools=5)


@pytest.mark.stress
def test_histories_for_long(tmp_path):
    """For CIVIS_FUTURES_STRESS seconds; the seed is in the failure."""
    end = time.monotonic() + float(os.environ.get("CIVIS_FUTURES_STRESS", "900"))
    seed = time.time_ns() % 1_000_000
    while time.monotonic() < end:
        seed += 1
        (tmp_path / str(seed)).mkdir()
        folder = tmp_path / str(seed)
        histories(folder, seed, 30, 4, (*HARMLESS, *LATER), (*LOSSY, *RESTARTS))


# --- the soak ----------------------------------------------------------------------------------


def soak(folder, tasks, workers=4):
    me = psutil.Process()
    everywhere = [
        *(fault for fault in HARMLESS if fault.kind not in ("down", "stale", "shift")),
        Fault.kill(1.0, chance=0.05), Fault.kill(says="begins", chance=0.0005),
    ]  # fmt: skip
    with LocalPlatform(cores=64, seed=11, faults=everywhere) as platform:
        gc.collect()
        threads, files = threading.active_count(), me.num_fds()
        memory = []
        for start in range(0, tasks, tasks // 4):
            numbers = range(start, start + tasks // 4)
            with cf.ContainerPoolExecutor(
                workers, platform=platform, max_retries=9, max_tasks_per_worker=50
            ) as executor:
                found = list(executor.map(leave_a_trace, [folder] * len(numbers), numbers))
            assert found == list(numbers)
            gc.collect()
            memory.append(me.memory_info().rss / 1e6)
            assert threading.active_count() <= threads
            assert me.num_fds() <= files + 2
            assert not platform.stats().active
            assert not platform.stats().queued
        assert memory[-1] < memory[0] + 20, memory
        done = executions(folder)
    assert set(done) == set(range(tasks))
    assert len([number for number in done if done[number] > 1]) < tasks / 10


@pytest.mark.stress
def test_two_thousand_tasks_with_faults_everywhere(tmp_path):
    soak(tmp_path, 2000)
