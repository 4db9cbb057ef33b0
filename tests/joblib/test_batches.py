"""How many items a batch of joblib's has: as many as the executor has learned to be good."""

from __future__ import annotations

import time

from joblib import Parallel, delayed
from tasks import by_value, slept

import civis_joblib
from civis_joblib._backend import CivisBackend

by_value(__name__)


def test_500_short_tasks():
    parallel = Parallel(4, backend="civis")
    assert len(parallel(delayed(slept)(0.02) for _ in range(500))) == 500
    # joblib hands over the first 8 one by one, and cuts up what is left at the end.
    assert parallel.n_dispatched_batches < 200


def test_long_tasks_are_not_batched(paced):
    paced(batch=0.2)  # a minute is too long
    parallel = Parallel(5, backend="civis")
    assert len(parallel(delayed(slept)(0.2) for _ in range(20))) == 20
    assert parallel.n_dispatched_batches == 20


def test_waiting_for_a_container_is_no_work(platform):
    civis_joblib.register(max_tasks_per_worker=1)  # some 0.5 s of waiting for each
    with Parallel(2, backend="civis", batch_size="auto") as parallel:
        parallel(delayed(slept)(0.0) for _ in range(6))
        parallel._backend.batch_completed(1, 100)  # what joblib measures is not listened to
        assert parallel._backend.compute_batch_size() >= 2


def test_each_call_starts_anew():
    assert CivisBackend().compute_batch_size() == 1
    parallel = Parallel(2, backend="civis")
    parallel(delayed(slept)(0.0) for _ in range(6))
    assert parallel._backend.compute_batch_size() == 1


def read_ahead(n, **options):
    """For each of n short tasks, how many others had ended when it was read."""
    parallel = Parallel(2, backend="civis", **options)
    ended = []

    def tasks():
        for _ in range(n):
            ended.append(parallel.n_completed_tasks)
            yield delayed(slept)(0.0)

    assert len(parallel(tasks())) == n
    return ended


def test_short_tasks_are_sent_without_waiting_for_others():
    """Once the first has ended, it is known that they are short."""
    assert read_ahead(40)[-1] <= 2


def test_who_says_how_far_to_read_ahead_is_obeyed():
    assert read_ahead(40, pre_dispatch=4)[-1] > 4
    ended = read_ahead(20, batch_size=1)
    assert all(number - count <= 6 for number, count in enumerate(ended))


def test_tasks_that_are_slow_to_read_do_not_hold_up_results():
    """joblib's lock is held while tasks are read: 100 of them once were, before any result."""
    began = time.monotonic()

    def tasks():
        for _ in range(100):
            time.sleep(0.05)
            yield delayed(slept)(0.0)

    output = Parallel(2, backend="civis", return_as="generator")(tasks())
    next(output)
    first = time.monotonic() - began
    assert len(list(output)) == 99
    assert first < (time.monotonic() - began) / 2
