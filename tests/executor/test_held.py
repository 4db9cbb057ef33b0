"""One call on a warm pool where the platform is ours: no pause, and few requests."""

from __future__ import annotations

import time

import pytest
from benchmarks.measure import (
    done_within,
    no_op,
    pause,
    pool,
    running,
    spending,
    submit_all,
    wait_until,
)

INBOX = "/json_values/{id}"
WORKERS = 3


def warm(executor):
    """All workers are there, and have nothing to do."""
    assert done_within(submit_all(executor, 3 * WORKERS, pause, 0.1), 60) == 3 * WORKERS
    wait_until(lambda: executor._manager.standing.idle == WORKERS)


@pytest.fixture(scope="module")
def ours():
    with running() as platform, pool(platform, WORKERS) as executor:
        warm(executor)
        yield platform, executor


def reads(spent):
    return spent.count("GET", INBOX, "worker")


def test_idle_workers_ask_for_nothing(ours):
    """They would ask four times a second each. The platform holds for 20 s what they ask."""
    platform, _ = ours
    time.sleep(0.5)
    with spending(platform) as spent:
        time.sleep(1.5)
    assert reads(spent) <= WORKERS
    assert spent.count(origin="worker") == reads(spent)


def test_the_requests_of_one_call(ours):
    """The inbox is written once, and read by the worker that has the call; an answer is posted in
    one request, and comes with a look.
    """
    platform, executor = ours
    calls = 10
    with spending(platform) as spent:
        for _ in range(calls):
            executor.submit(no_op).result(60)
    assert spent.count("PATCH", INBOX, "client") <= calls + 1  # perhaps a sign of life
    assert reads(spent) <= calls + 2 * WORKERS  # who was not told reads it in the end
    posts = spent.count("POST", origin="worker") + spent.count("PATCH", origin="worker")
    assert posts <= calls
    outputs = "/scripts/containers/{id}/runs/{run_id}/outputs"
    assert spent.count("GET", outputs, "client") == 0


@pytest.mark.parametrize("workers", [1, 2])
def test_a_limited_platform_is_treated_as_ever(workers):
    with running(rate_limit="civis") as platform, pool(platform, workers) as executor:
        executor.submit(no_op).result(60)
        with spending(platform) as spent:
            time.sleep(1.0)
        assert reads(spent) > 0  # idle workers read what has not changed
        assert executor._manager.mailbox.long_poll.offered == 0
