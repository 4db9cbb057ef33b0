"""How many items a batch has: by seconds of compute in the container, and by nothing else."""

from __future__ import annotations

import sys
import time

import cloudpickle
import pytest
from joblib import Parallel, delayed

import civis_joblib
from civis_joblib._backend import BATCH_SECONDS, CivisBackend

cloudpickle.register_pickle_by_value(sys.modules[__name__])


def slept(seconds):
    time.sleep(seconds)
    return seconds


def sizes(seconds, number, start=0.0):
    """The sizes of the batches for `number` items of so many seconds, one after the other."""
    backend, found = CivisBackend(), []
    while number > 0:
        size = min(backend.compute_batch_size(), number)
        found.append(size)
        backend._took(size, size * seconds)
        backend.batch_completed(size, 100 + size * seconds)  # the wait for a container
        number -= size
    return found


@pytest.mark.parametrize(("seconds", "expected"), [
    (60.0, [1] * 20), (BATCH_SECONDS, [1] * 20), (0.9, [1, *[2] * 9, 1]),
    (0.25, [1, 2, 4, 8, 5]), (0.0, [1, 2, 4, 8, 5]),
])  # fmt: skip
def test_sizes(seconds, expected):
    assert sizes(seconds, 20) == expected


def test_a_size_that_fits_stays():
    found = sizes(0.05, 500)
    assert max(found) * 0.05 == BATCH_SECONDS
    assert len(found) < 30


def test_items_that_get_slower():
    backend = CivisBackend()
    for _ in range(10):
        backend._took(backend.compute_batch_size(), 0.0)
    assert backend.compute_batch_size() == 1024
    backend._took(1024, 1024.0)
    assert backend.compute_batch_size() <= 7
    backend._took(1, 60.0)
    assert backend.compute_batch_size() == 1


def test_it_does_not_run_away():
    backend = CivisBackend()
    for _ in range(100):
        backend._took(backend.compute_batch_size(), 0.0)
    assert backend.compute_batch_size() == BATCH_SECONDS / 1e-4


def test_500_short_tasks():
    parallel = Parallel(8, backend="civis")
    assert len(parallel(delayed(slept)(0.05) for _ in range(500))) == 500
    # joblib hands over the first 16 one by one, and cuts up what is left at the end.
    assert parallel.n_dispatched_batches < 200


def test_long_tasks_are_not_batched(monkeypatch):
    monkeypatch.setattr("civis_joblib._backend.BATCH_SECONDS", 0.2)  # a minute is too long for us
    parallel = Parallel(5, backend="civis")
    assert len(parallel(delayed(slept)(0.2) for _ in range(20))) == 20
    assert parallel.n_dispatched_batches == 20


def test_waiting_for_a_container_is_no_work(platform):
    civis_joblib.register(max_tasks_per_worker=1)  # some 0.5 s of waiting for each
    with Parallel(2, backend="civis", batch_size="auto") as parallel:
        parallel(delayed(slept)(0.0) for _ in range(6))
        assert parallel._backend.compute_batch_size() >= 2


def test_each_call_starts_anew():
    backend = CivisBackend()
    backend._took(1, 0.0)
    assert backend.compute_batch_size() == 2
    backend.terminate()
    assert backend.compute_batch_size() == 1
