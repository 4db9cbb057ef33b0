"""The lazy half of `map`: from submissions to results in order. Knows futures, and no pool."""

from __future__ import annotations

import itertools
import time
from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future
from typing import TypeVar

T = TypeVar("T")


def results(futures: Iterator[Future[T]], timeout: float | None, ahead: int | None) -> Iterator[T]:
    """The results of `futures`, in order; taking one from the iterator is what submits it.

    `ahead` are taken now (all if None), and one more for each result that is asked for. What is
    left is cancelled when a result raises, is not there in time, or nobody wants it any more.
    """
    end = None if timeout is None else timeout + time.monotonic()
    taken: deque[Future[T]] = deque()
    try:
        taken.extend(itertools.islice(futures, ahead))
    except BaseException:  # of the user's iterable: nobody will ever hold these futures
        _cancel(taken)
        raise
    return _results(taken, futures, end)


def _results(
    taken: deque[Future[T]], futures: Iterator[Future[T]], end: float | None
) -> Iterator[T]:
    try:
        while taken:
            taken.extend(itertools.islice(futures, 1))
            # No name for the future: the generator must not keep a result alive.
            yield _result(taken.popleft(), end)
    finally:
        _cancel(taken)


def flat(chunks: Iterator[list[T]]) -> Iterator[T]:
    """The items of lists; each is let go when it has been given out."""
    for chunk in chunks:
        chunk.reverse()
        while chunk:
            yield chunk.pop()


def _result(future: Future[T], end: float | None) -> T:
    try:
        return future.result(None if end is None else max(0.0, end - time.monotonic()))
    finally:
        future.cancel()  # of no effect unless the wait was cut short
        del future


def _cancel(futures: deque[Future[T]]) -> None:
    for future in futures:
        future.cancel()
