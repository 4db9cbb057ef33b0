"""The lazy half of `map`: from submissions to results in order. Knows futures, and no pool.

A `Watcher` sees each future when it is submitted, and does the waiting: a bar, for example. How
many items a batch should have is arithmetic, guided by the compute that is measured in the
container, since the wait for one is no work.
"""

from __future__ import annotations

import itertools
import time
from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future
from typing import Any, Protocol, TypeVar

T = TypeVar("T")

#: Nothing is taken for quicker than that, in seconds.
LEAST_SECONDS = 1e-4


class Watcher(Protocol):
    """What sees each future of a `map`, and waits for it: a progress bar."""

    def watch(self, future: Future[Any]) -> None:
        """It was submitted."""

    def wait(self, future: Future[Any], timeout: float | None) -> None:
        """Return when it is done, or after `timeout` seconds."""

    def close(self) -> None:
        """No result is asked for any more."""


def results(
    futures: Iterator[Future[T]],
    timeout: float | None,
    ahead: int | None,
    watcher: Watcher | None = None,
) -> Iterator[T]:
    """The results of `futures`, in order; taking one from the iterator is what submits it.

    `ahead` are taken now (all if None), and one more for each result that is asked for. What is
    left is cancelled when a result raises, is not there in time, or nobody wants it any more.
    """
    end = None if timeout is None else timeout + time.monotonic()
    taken: deque[Future[T]] = deque()
    if watcher is not None:
        futures = _watched(futures, watcher)
    try:
        taken.extend(itertools.islice(futures, ahead))
    except BaseException:  # of the user's iterable: nobody will ever hold these futures
        _cancel(taken)
        if watcher is not None:
            watcher.close()
        raise
    return _results(taken, futures, end, watcher)


def _watched(futures: Iterator[Future[T]], watcher: Watcher) -> Iterator[Future[T]]:
    for future in futures:
        watcher.watch(future)
        box = [future]
        del future  # the generator must not keep it alive
        yield box.pop()


def _results(
    taken: deque[Future[T]],
    futures: Iterator[Future[T]],
    end: float | None,
    watcher: Watcher | None,
) -> Iterator[T]:
    try:
        while taken:
            taken.extend(itertools.islice(futures, 1))
            # No name for the future: the generator must not keep a result alive.
            yield _result(taken.popleft(), end, watcher)
    finally:
        _cancel(taken)
        if watcher is not None:
            watcher.close()


def flat(chunks: Iterator[list[T]]) -> Iterator[T]:
    """The items of lists; each is let go when it has been given out."""
    for chunk in chunks:
        chunk.reverse()
        while chunk:
            yield chunk.pop()


def _result(future: Future[T], end: float | None, watcher: Watcher | None) -> T:
    try:
        if watcher is not None:
            watcher.wait(future, _left(end))
        return future.result(_left(end))
    finally:
        future.cancel()  # of no effect unless the wait was cut short
        del future


def _left(end: float | None) -> float | None:
    return None if end is None else max(0.0, end - time.monotonic())


def _cancel(futures: deque[Future[T]]) -> None:
    for future in futures:
        future.cancel()


class BatchSize:
    """The size for the next batch is `items`, 1 at first; it learns by `took`."""

    def __init__(self, seconds: float) -> None:
        self.ideal_seconds = seconds  # of compute, that a batch should take
        self.items = 1
        self._seconds = 0.0  # of one item, smoothed

    def took(self, items: int, compute: float) -> None:
        """A batch of `items` took `compute` seconds in the container."""
        seconds = max(compute / items, LEAST_SECONDS)
        self._seconds = 0.7 * self._seconds + 0.3 * seconds if self._seconds else seconds
        ideal = int(self.ideal_seconds / self._seconds)
        # Twice what was measured, at the most: the first items may not be like the others.
        self.items = max(1, min(ideal, max(self.items, 2 * items)))
