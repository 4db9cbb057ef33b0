"""Waiting for many futures: `as_completed` and `as_completed_async`. Knows futures of any kind."""

from __future__ import annotations

import concurrent.futures
from collections.abc import AsyncIterator, Iterable, Iterator
from concurrent.futures import Future
from typing import Any, TypeVar

from .._types import seconds

F = TypeVar("F", bound=Future[Any])


def as_completed(fs: Iterable[F], timeout: float | None = None) -> Iterator[F]:
    """The futures, each when it is done, as `concurrent.futures.as_completed` does.

    A Ctrl-C (or the stop button of a notebook) while it waits also cancels those that are not
    done.

    Args:
        fs: the futures; one that is there twice comes once.
        timeout: seconds from now until which all must be done.

    Raises:
        TimeoutError: they are not.
    """
    pending = set(fs)
    completed: Iterator[Any] = concurrent.futures.as_completed(pending, seconds(timeout))
    return _interruptible(completed, pending)


def _interruptible(completed: Iterator[Any], pending: set[Any]) -> Iterator[Any]:
    try:
        for future in completed:
            pending.discard(future)
            box = [future]
            del future  # what was given out may be collected
            yield box.pop()
    except KeyboardInterrupt:
        for future in pending:
            future.cancel()
        raise


def as_completed_async(fs: Iterable[F]) -> AsyncIterator[F]:
    """The futures, each when it is done, for ``async for``.

    Nothing happens to a future when the loop ends early or its task is cancelled.
    """
    from .awaiting import as_completed

    return as_completed(fs)
