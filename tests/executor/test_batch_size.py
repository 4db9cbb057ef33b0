"""How many items a batch has: by seconds of compute in the container, and by nothing else."""

from __future__ import annotations

import pytest

from civis_futures._executor.map import BatchSize

BATCH_SECONDS = 2.0


def sizes(seconds, number):
    """The sizes of the batches for `number` items of so many seconds, one after the other."""
    size, found = BatchSize(BATCH_SECONDS), []
    while number > 0:
        found.append(min(size.items, number))
        size.took(found[-1], found[-1] * seconds)
        number -= found[-1]
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
    size = BatchSize(BATCH_SECONDS)
    for _ in range(10):
        size.took(size.items, 0.0)
    assert size.items == 1024
    size.took(1024, 1024.0)
    assert size.items <= 7
    size.took(1, 60.0)
    assert size.items == 1


def test_it_does_not_run_away():
    size = BatchSize(BATCH_SECONDS)
    for _ in range(100):
        size.took(size.items, 0.0)
    assert size.items == BATCH_SECONDS / 1e-4
