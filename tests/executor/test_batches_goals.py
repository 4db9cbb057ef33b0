"""What guided batches of calls must reach: counts, asserted.

The limits of Civis Platform are on: without them nobody has a reason to save requests.
"""

from __future__ import annotations

from itertools import repeat

from benchmarks.measure import (
    done_within,
    most_at_once,
    no_op,
    pause,
    pool,
    running,
    spending,
    submit_all,
)


def test_a_thousand_no_ops_on_ten_workers():
    with (
        running(rate_limit="civis") as platform,
        pool(platform, 10) as executor,
        spending(platform) as spent,
    ):
        assert done_within(submit_all(executor, 1000, no_op), 100) == 1000
        executor.shutdown()
    assert spent.starts <= 10
    assert spent.count() <= 250, spent.requests
    assert spent.refused == 0


def test_a_hundred_no_ops_on_eight_workers():
    with (
        running(rate_limit="civis") as platform,
        spending(platform) as spent,
        pool(platform, 8) as executor,
    ):
        assert done_within(submit_all(executor, 100, no_op), 60) == 100
        executor.shutdown()
    assert spent.starts <= 8
    # Some 105 in the 1.3 seconds that a quiet machine takes; while it takes longer, looks go on,
    # the client's and those of eight workers.
    assert spent.count() <= 110 + 12 * max(0.0, spent.seconds - 1.5), spent.requests


def test_short_tasks_after_a_long_start():
    """A thousand tasks of 0.02 s after 2 s: the first letters must hold more than one call each."""
    options = {"rate_limit": "civis", "start_delay": 2.0}
    with (
        running(**options) as platform,
        pool(platform, 10) as executor,
        spending(platform) as spent,
    ):
        results = list(executor.map(pause, repeat(0.02), range(1000), timeout=100))
        executor.shutdown()
    assert results == list(range(1000))
    assert spent.starts <= 10
    assert spent.count() <= 300, spent.requests


def test_long_tasks_are_not_held_back(paced):
    paced(proof=0.5)  # until all the others start
    with running() as platform, pool(platform, 12) as executor:
        futures = submit_all(executor, 12, pause, 4.0)
        assert done_within(futures, 60) == 12
        spans = [(future.timings.started, future.timings.finished) for future in futures]
    assert most_at_once(spans) == 12


def test_long_tasks_behind_short_ones_are_spread():
    """What a worker was given ahead by the short ones' measure must not queue behind a long one."""
    with running() as platform, pool(platform, 4) as executor:
        assert done_within(submit_all(executor, 200, no_op), 60) == 200
        futures = submit_all(executor, 4, pause, 2.5)
        assert done_within(futures, 60) == 4
        spans = [(future.timings.started, future.timings.finished) for future in futures]
    assert most_at_once(spans) == 4
