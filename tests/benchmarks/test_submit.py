"""What `submit` costs the thread that calls it, whatever the network does."""

from __future__ import annotations

import socket
import statistics
import time
from concurrent.futures import ProcessPoolExecutor

import pytest
from benchmarks.measure import done_within, no_op, pool, running, submit_all

pytestmark = pytest.mark.bench

NUMBER, MANY = 10_000, 20_000


class Silent:
    """A platform that takes connections and never says a word."""

    api_key = "none"

    def __init__(self):
        self._socket = socket.create_server(("127.0.0.1", 0), backlog=64)
        self.url = f"http://127.0.0.1:{self._socket.getsockname()[1]}"

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self._socket.close()


def _submit(row, executor):
    took = []
    began = time.perf_counter()
    for number in range(NUMBER):
        before = time.perf_counter()
        executor.submit(pow, number, 2)
        took.append(time.perf_counter() - before)
    row.add(f"{NUMBER:,} submits", time.perf_counter() - began, "s", most=3)
    row.add("one submit, median", statistics.median(took) * 1000, "ms", most=1)
    row.add("one submit, the slowest of 1,000", sorted(took)[-NUMBER // 1000] * 1000, "ms")


def test_submit(row):
    """`submit` of a small call, while containers start"""
    with running(start_delay=600) as platform, pool(platform, 10) as executor:
        _submit(row, executor)


def test_submit_of_a_graph(row):
    """10,000 calls that each need the one before, beside as many that need nothing"""
    with running(start_delay=600) as platform, pool(platform, 10) as executor:
        began = time.perf_counter()
        for number in range(NUMBER):
            executor.submit(pow, number, 2)
        alone = time.perf_counter() - began
        link = executor.submit(pow, 1, 1)
        began = time.perf_counter()
        for _ in range(NUMBER):
            link = executor.submit(pow, link, 1)
        took = time.perf_counter() - began
    row.add(f"{NUMBER:,} submits, each with an edge", took, "s", most=4)
    row.add("of that, for the edges", took - alone, "s", most=1)


def test_submit_to_nobody(row):
    """`submit` of a small call, to a platform that does not answer"""
    with Silent() as silent, pool(silent, 10, patience=2) as executor:
        _submit(row, executor)


def test_submit_beside_a_process_pool(row):
    """20,000 `submit`s of a no-op in a row, beside ProcessPoolExecutor; then `status()` of them"""

    def submit_many(executor):
        began, cpu = time.perf_counter(), time.thread_time()
        futures = [executor.submit(abs, number) for number in range(MANY)]
        row_of = time.perf_counter() - began, (time.thread_time() - cpu) / MANY * 1e6
        return futures, *row_of

    with running(start_delay=600) as platform, pool(platform, 2) as executor:
        _held, seconds, each = submit_many(executor)
        row.add("here", seconds, "s")
        row.add("here, the caller's CPU for one", each, "µs")
        began, cpu = time.perf_counter(), time.thread_time()
        executor.status()
        row.add("status() of all", time.perf_counter() - began, "s")
        row.add("status() of all, its CPU for one", (time.thread_time() - cpu) / MANY * 1e6, "µs")
    with ProcessPoolExecutor(2) as processes:
        others, seconds, each = submit_many(processes)
        row.add("ProcessPoolExecutor", seconds, "s")
        row.add("ProcessPoolExecutor, the caller's CPU for one", each, "µs")
        for future in others:
            future.cancel()


def test_cpu_of_one_call(row):
    """1,000 no-op tasks on 4 warm workers"""
    with running() as platform, pool(platform, 4) as executor:
        assert done_within(submit_all(executor, 4, no_op), 60) == 4
        began = time.process_time()
        done = done_within(submit_all(executor, 1000, no_op), 60)
        seconds = time.process_time() - began
    row.add("client's CPU for one call, looks included", seconds / max(done, 1) * 1000, "ms")
