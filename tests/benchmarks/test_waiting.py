"""Waiting for many runs: threads, looks, memory, and how soon an end is seen."""

from __future__ import annotations

import gc
import statistics
import time
import tracemalloc

import pytest
from benchmarks.measure import (
    LookWatch,
    done_within,
    pause,
    pool,
    running,
    settled,
    spending,
    submit_all,
    threads_of_ours,
    wait_for_file,
    wait_until,
)
from benchmarks.refusing import Refusing

pytestmark = pytest.mark.bench


def test_two_thousand_futures(row, tmp_path):
    """2,000 futures waiting on 20 running containers, real rate limits"""
    # A pool that was measured before may still wait for a platform that does not answer.
    wait_until(lambda: not threads_of_ours(), 120)
    gate = tmp_path / "open"
    with running(rate_limit="civis") as platform, pool(platform, 20) as executor:
        with spending(platform) as spent:
            futures = submit_all(executor, 2000, wait_for_file, str(gate))
            end = time.monotonic() + 60
            while sum(future.running() for future in futures) < 20 and time.monotonic() < end:
                time.sleep(0.2)
        with spending(platform) as quiet:  # nothing changes in here
            asked = min(_seconds_to_ask(futures) for _ in range(5))
            time.sleep(30)
        gate.touch()
    row.add("threads of ours", max(spent.own_threads, quiet.own_threads), most=12)
    # All that the client asks for while nothing changes is for its looks, answers included.
    asked_for = quiet.count(origin="client")
    row.add("requests of a look while nothing changes", asked_for / max(quiet.looks, 1), most=1)
    row.add("looks in these 30 s", quiet.looks, least=1)
    row.add("workers' requests in these 30 s", quiet.count(origin="worker"))
    row.add("`done()` of all futures, best of five", asked * 1000, "ms", most=10)
    row.add("memory of a future", _bytes_per_future(), "B", most=5000)


def _seconds_to_ask(futures):
    began = time.perf_counter()
    done = [future.done() for future in futures]
    seconds = time.perf_counter() - began
    assert not any(done)
    return seconds


def _bytes_per_future(number=2000):
    with running(start_delay=600) as platform, pool(platform, 2) as executor:
        executor.submit(pow, 1, 1)  # what is imported and made once
        time.sleep(0.5)
        gc.collect()
        tracemalloc.start()
        before, _ = tracemalloc.get_traced_memory()
        futures = submit_all(executor, number, pow, 1, 2)
        time.sleep(1)  # so that the manager has taken them in
        gc.collect()
        after, _ = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        assert len(futures) == number
    return (after - before) / number


def test_an_end_is_seen_soon(row):
    """Runs that end: 24 tasks of 2 to 5 s, a container for each, 8 at once, real rate limits"""
    with running(rate_limit="civis") as platform:
        with pool(platform, 8, max_tasks_per_worker=1) as executor, LookWatch(platform) as looks:
            futures = [executor.submit(pause, 2 + 3 * (n * 7 % 24) / 24) for n in range(24)]
            moments = settled(futures)
            assert done_within(futures, 200) == 24
        late = [moments[future] - future.timings.finished for future in futures]
    latency = statistics.median(late)
    row.add("seconds between two looks, median", looks.interval, "s", most=1.25)
    row.add("from a task's end to its future's, median", latency, "s")
    row.add("the same in looks", latency / looks.interval, "looks", most=1.5)


def test_one_refusal(row):
    """One 429 with `Retry-After: 10`, for the creation of one of four scripts"""
    with running() as platform, Refusing(platform.url, "/scripts/containers", 10) as proxy:
        proxy.api_key = platform.api_key
        with pool(proxy, 4, max_tasks_per_worker=1) as executor:
            began = time.time()
            futures = submit_all(executor, 4, pause, 0.1)
            moments = settled(futures)
            assert done_within(futures, 60) == 4
    assert proxy.refused == 1
    took = sorted(moment - began for moment in moments.values())
    row.add("the three that were not refused", took[2], "s", most=5)
    row.add("the refused one", took[3], "s", least=10)
