"""What grows with the tasks, the workers and the bytes: the client's time and memory for each."""

from __future__ import annotations

import gc
import threading
import time
import tracemalloc
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy
import pytest
from benchmarks.measure import done_within, no_op, pool, running, spending, submit_all
from virtual import Virtual

pytestmark = pytest.mark.bench

FEW, MANY, WORKERS = 10_000, 100_000, 10
MEGABYTES = 200


def test_a_hundred_thousand_no_ops(row):
    """100,000 no-op tasks on 10 warm workers, all futures held, beside 10,000"""
    with running() as platform, pool(platform, WORKERS) as executor:
        _all_done(executor, 2000)
        before = _memory()
        own, collecting = _cpu_for_each(executor, FEW)
        with _peak() as peak:
            own_of_many, collecting_of_many = _cpu_for_each(executor, MANY)
        memory = _bytes_left_of_each(executor)
    row.add("client's CPU for one of 10,000", own + collecting, "ms")
    row.add("client's CPU for one of 100,000", own_of_many + collecting_of_many, "ms")
    ratio = (own_of_many + collecting_of_many) / (own + collecting)
    row.add("that of 100,000, times that of 10,000", ratio, most=1.2)
    row.add("the same without Python's collection of garbage", own_of_many / own, most=1.2)
    row.add("part of that collection, of 100,000", collecting_of_many / own_of_many)
    row.add("peak memory for one of 100,000", (peak[0] - before) / MANY, "B")
    row.add("memory of a call that is done and not held", memory, "B", most=1000)


def _all_done(executor, number):
    """So many calls are done; nothing of them is kept."""
    futures = submit_all(executor, number, no_op)
    assert done_within(futures, 900) == number


def _cpu_for_each(executor, number):
    """Milliseconds of this process's CPU for one call: our own, and Python's collection's."""
    spent, began = [0.0], [0.0]

    def note(phase, _info):
        if phase == "start":
            began[0] = time.thread_time()
        else:
            spent[0] += time.thread_time() - began[0]

    gc.collect()
    gc.callbacks.append(note)
    before = time.process_time()
    try:
        _all_done(executor, number)
        total = time.process_time() - before
    finally:
        gc.callbacks.remove(note)
    return (total - spent[0]) / number * 1000, spent[0] / number * 1000


def _bytes_left_of_each(executor, number=FEW):
    tracemalloc.start(1)
    try:
        _all_done(executor, 1000)
        gc.collect()
        before, _ = tracemalloc.get_traced_memory()
        _all_done(executor, number)
        gc.collect()
        after, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    return (after - before) / number


def _memory():
    """Bytes of this process that are in memory."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4096


@contextmanager
def _peak() -> Iterator[list[float]]:
    """The most bytes that there were in memory within the block, to some 5 ms."""
    most, over = [float(_memory())], threading.Event()

    def look() -> None:
        while not over.wait(0.005):
            most[0] = max(most[0], _memory())

    watcher = threading.Thread(target=look, name="benchmark", daemon=True)
    watcher.start()
    try:
        yield most
    finally:
        over.set()
        watcher.join()


def test_one_large_array(row):
    """A call with an array of its own of 200 MB"""
    data = numpy.random.default_rng(0).random(MEGABYTES * 125_000)
    with running() as platform, pool(platform, 1) as executor:
        executor.submit(len, bytes(2_000_000)).result(60)
        before = _memory()
        with spending(platform) as spent, _peak() as peak:
            assert executor.submit(len, data).result(300) == len(data)
    row.add(
        "memory beside the array itself, times its size", (peak[0] - before) / data.nbytes, most=1.1
    )
    row.add("uploaded, times its size", spent.upload_bytes / data.nbytes, most=1.01)
    row.add("bytes a second, there and into the worker", data.nbytes / 1e6 / spent.seconds, "MB/s")


def test_a_thousand_workers(row):
    """1,000 workers with tasks of 60 s, real rate limits, simulated, starts not counted"""
    workers, seconds, begin, end = 1000, 60.0, 3600.0, 7200.0  # 100 start in 300 s
    before = time.process_time()
    tasks = [seconds] * (workers * int(end / seconds))
    work = Virtual(tasks, workers, limit=1000, longest=end)
    took = time.process_time() - before
    begun = sum(begin <= at < end for at in work.began.values())
    asked = sum(begin <= at < end for at in work.asked)
    row.add("begun, of the ideal", begun * seconds / workers / (end - begin), least=0.9)
    row.add("requests, times what is allowed", asked * 0.3 / (end - begin), most=1)
    # Of five requests each: it reads the inbox, and posts answers, which the client reads.
    row.add("tasks for each use of a worker, at the least", 5 * workers * 0.3 / seconds)
    row.add("tasks for each use of a worker", len(work.ended) / (work.asked_for["post"] / 3))
    row.add(
        "CPU of the simulation for one task, its containers included",
        took / len(work.began) * 1e3,
        "ms",
    )
