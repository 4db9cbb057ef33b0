"""Economy where it can be counted: requests, threads, memory, I/O. Counts do not flicker.

`make bench` measures the same with seconds; see tests/benchmarks.
"""

from __future__ import annotations

import gc
import operator
import socket
import sys
import threading
import time
import tracemalloc

import pytest
from benchmarks.measure import (
    done_within,
    no_op,
    pause,
    pool,
    running,
    settled,
    spending,
    submit_all,
    wait_for_file,
    wait_until,
)
from benchmarks.refusing import Refusing

from civis_futures.local import LocalPlatform

#: The goals of one container for each task: requests of both sides, looks not counted.
MOST_REQUESTS = 6
MOST_THREADS = 13
MOST_BYTES = 5_000


@pytest.fixture(scope="module")
def asleep():
    """A platform whose runs never start: futures that wait cost no processes."""
    with LocalPlatform(start_delay=3600) as platform:
        yield platform


@pytest.fixture
def waiting(asleep):
    """An executor whose workers are under way for ever, with all that is made once."""
    with pool(asleep, 2) as executor:
        executor.submit(pow, 1, 1)
        yield executor


def test_a_pool_has_few_threads(make_executor):
    before = set(threading.enumerate())
    executor = make_executor(4)
    assert done_within(submit_all(executor, 50, no_op), 60) == 50
    assert len(set(threading.enumerate()) - before) <= MOST_THREADS


def test_requests_of_one_container_for_one_task():
    # A platform of its own: others' workers would be counted, too.
    with running() as platform, pool(platform, 3, max_tasks_per_worker=1) as executor:
        executor.submit(no_op).result(60)  # what the pool needs once
        wait_until(lambda: platform.stats().count("PUT"))  # its script is archived
        with spending(platform) as spent:
            assert done_within(submit_all(executor, 6, no_op), 60) == 6
            executor.shutdown()
    assert spent.count() - spent.watching <= MOST_REQUESTS * 6
    assert spent.starts == 6


def test_calls_that_share_a_container_cost_fewer_starts_and_requests(tmp_path):
    spent = {}
    for processes in (1, 3):
        gate = tmp_path / f"open-{processes}"
        with (
            running() as platform,
            pool(platform, 6, worker_processes=processes) as executor,
            spending(platform) as spent[processes],
        ):
            futures = submit_all(executor, 6, wait_for_file, str(gate))
            wait_until(lambda these=futures: all(future.running() for future in these))
            gate.touch()
            assert done_within(futures, 60) == 6
            executor.shutdown()
    assert (spent[1].starts, spent[3].starts) == (6, 2)
    requests = {number: each.count() - each.watching for number, each in spent.items()}
    assert requests[3] < requests[1]


def test_a_graph_costs_no_request_more_than_its_calls():
    """Two diamonds, as above; each call in a container of its own."""
    with running() as platform, pool(platform, 3, max_tasks_per_worker=1) as executor:
        executor.submit(no_op).result(60)
        wait_until(lambda: platform.stats().count("PUT"))
        with spending(platform) as spent:
            last = 0
            for _ in range(2):
                first = executor.submit(operator.add, last, 1)
                sides = [executor.submit(operator.add, first, 1) for _ in range(2)]
                last = executor.submit(operator.add, *sides)
            assert last.result(60) == 12
            executor.shutdown()
    assert spent.count() - spent.watching <= MOST_REQUESTS * 8
    assert spent.starts == 8


def test_a_large_result_does_not_come_back_through_here():
    size = 3_000_000
    with running() as platform, pool(platform, 1) as executor:
        executor.submit(no_op).result(60)
        with spending(platform) as spent:
            large = executor.submit(bytes, size)
            pending = executor.submit(len, large)
            assert pending.result(60) == len(large.result(60)) == size
            assert executor.submit(len, large).result(60) == size  # it is here, now
    assert spent.uploads == 1  # the container's own
    assert spent.downloads == 2  # by the future, and by the container, once


def test_a_look_costs_one_request_while_nothing_changes(tmp_path):
    gate = tmp_path / "open"
    with running(rate_limit="civis") as platform, pool(platform, 3) as executor:
        futures = submit_all(executor, 9, wait_for_file, str(gate))
        wait_until(lambda: sum(future.running() for future in futures) == 3)
        time.sleep(1)
        with spending(platform) as quiet:
            time.sleep(3)
        gate.touch()
        assert done_within(futures, 30) == 9
    assert 1 <= quiet.looks == quiet.count(origin="client")


def test_one_refusal_delays_one_request(platform):
    with Refusing(platform.url, "/scripts/containers", 4) as proxy:
        proxy.api_key = platform.api_key
        with pool(proxy, 4, max_tasks_per_worker=1) as executor:
            futures = submit_all(executor, 4, no_op)
            moments = settled(futures)
            assert done_within(futures, 60) == 4
    assert proxy.refused == 1
    *others, refused = sorted(moments.values())
    assert refused >= proxy.refused_at + 4
    assert all(moment < proxy.refused_at + 4 for moment in others)


def test_asking_two_thousand_futures_costs_no_request(waiting, asleep):
    futures = submit_all(waiting, 2000, no_op)
    time.sleep(0.2)
    own = asleep.stats()
    with spending(asleep) as spent:
        done = [future.done() for future in futures]
        assert [future.state for future in futures[-10:]] == ["pending"] * 10
    assert not any(done)
    # Looks go on meanwhile; there is no request of another kind.
    assert spent.count() == spent.watching, own


def test_memory_of_a_waiting_future(waiting):
    submit_all(waiting, 100, pow, 1, 2)
    time.sleep(0.3)
    gc.collect()
    tracemalloc.start()
    try:
        before, _ = tracemalloc.get_traced_memory()
        futures = submit_all(waiting, 2000, pow, 1, 2)
        time.sleep(0.5)
        gc.collect()
        after, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert (after - before) / len(futures) < MOST_BYTES


class Audit:
    """What Python tells of its own I/O on one thread; with a switch, as a hook stays for ever."""

    thread: int | None = None
    events: list[str] = []
    IO = ("open", "os.", "shutil.", "socket.", "sqlite3.", "subprocess.", "tempfile.", "urllib.")

    @classmethod
    def hook(cls, event, args):
        if (
            cls.thread is not None
            and cls.thread == threading.get_ident()
            and event.startswith(cls.IO)
        ):
            cls.events.append(event)


@pytest.fixture
def audit():
    sys.addaudithook(Audit.hook)
    Audit.events = []
    yield Audit
    Audit.thread = None


class Silent:
    """A platform that takes connections and never says a word."""

    api_key = "none"

    def __init__(self, listener):
        self.url = f"http://127.0.0.1:{listener.getsockname()[1]}"


def test_submit_does_no_io(audit):
    with (
        socket.create_server(("127.0.0.1", 0)) as listener,
        pool(Silent(listener), 2, patience=0.1) as executor,
    ):
        executor.submit(no_op)  # cloudpickle looks at a module's file once
        audit.thread = threading.get_ident()
        futures = submit_all(executor, 500, pause, 1)
        audit.thread = None
        assert not any(future.done() for future in futures)
    assert audit.events == []


def test_calls_that_are_submitted_together_are_sent_together():
    """As joblib submits them; where requests are limited, a second write of the inbox is dear."""
    rounds = 6
    with running(rate_limit="civis") as platform, pool(platform, 2) as executor:
        assert done_within(submit_all(executor, 4, no_op), 60) == 4
        with spending(platform) as spent:
            for _ in range(rounds):
                futures = []
                for _ in range(4):
                    futures.append(executor.submit(no_op))
                    time.sleep(0.001)  # as long as it takes to pickle some
                assert done_within(futures, 60) == 4
    assert spent.count("PATCH", "/json_values/{id}", "client") < 2 * rounds
