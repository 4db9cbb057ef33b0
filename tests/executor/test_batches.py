"""`submit_batch`, and the size of batches that the executor has learned to be good."""

from __future__ import annotations

import sys

import pytest
from tasks import by_value, slept

import civis_futures as cf

by_value(__name__)


def divide(x, y):
    return x / y


class Frozen(Exception):
    """Takes no note."""

    def add_note(self, note):
        raise TypeError("no notes")


def raise_frozen():
    raise Frozen("as it is")


def test_results_in_order(executor):
    future = executor.submit_batch(divide, [(1, 1), [6, 2], (1, 4)])
    assert future.result(20) == [1.0, 3.0, 0.25]
    assert future.task.startswith("divide and 2 more (task ")
    assert executor.submit_batch(divide, [(6, 3)]).result(20) == [2.0]
    assert executor.submit_batch(divide, []).result(20) == []


def test_a_failure_names_the_row(executor):
    future = executor.submit_batch(divide, [(1, 1), (1, 0), (1, 2)], first=30)
    with pytest.raises(ZeroDivisionError) as caught:
        future.result(20)
    assert caught.value.__notes__[0] == (
        "The item that failed is number 31 of the call, number 1 of a batch of 3; "
        "the first is number 0."
    )
    assert "Raised by divide and 2 more (task" in caught.value.__notes__[1]


def test_a_failure_in_a_chunk_of_map_names_the_item(executor):
    with pytest.raises(ZeroDivisionError) as caught:
        list(executor.map(divide, [1] * 8, [1, 1, 1, 1, 1, 1, 0, 1], chunksize=4))
    assert "number 6 of the call, number 2 of a batch of 4" in caught.value.__notes__[0]


def test_an_exception_that_takes_no_note(executor):
    with pytest.raises(Frozen, match="as it is"):
        executor.submit_batch(raise_frozen, [()]).result(20)


def test_the_traceback_is_the_users(executor):
    with pytest.raises(ZeroDivisionError) as caught:
        executor.submit_batch(divide, [(1, 0)]).result(20)
    text = str(caught.value.__cause__)
    assert "in divide" in text
    assert "_child.py" not in text


def test_what_cannot_be_pickled(executor):
    with pytest.raises(cf.CallPicklingError):
        executor.submit_batch(divide, [(1, sys._getframe())]).result(20)


def test_the_size_is_learned_from_compute(make):
    executor = make(1)
    assert executor.batch_size == 1
    executor.submit_batch(slept, [(0.0,)] * 8).result(20)
    assert executor.batch_size == 16
    executor.submit_batch(slept, [(0.4,)] * 2).result(20)
    assert 4 <= executor.batch_size <= 16
    before = executor.batch_size
    assert executor.submit_batch(divide, [(1, 0)] * 99).exception(20)
    assert executor.batch_size == before  # 99 rows were not called


def test_after_the_shutdown(make):
    executor = make(1)
    executor.shutdown()
    with pytest.raises(RuntimeError, match="after shutdown"):
        executor.submit_batch(divide, [(1, 1)])
