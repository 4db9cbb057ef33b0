"""What waits for many futures: `as_completed` and `as_completed_async`, which know any kind, and
`Dependency`, for calls that wait.
"""

from __future__ import annotations

import concurrent.futures
import itertools
import os
from collections.abc import AsyncIterator, Iterable, Iterator
from concurrent.futures import Future
from dataclasses import KW_ONLY, dataclass
from typing import Any, TypeVar

from .._types import TaskState, seconds
from .future import ContainerFuture, check_process, state_soon_of

F = TypeVar("F", bound=Future[Any])
_OPEN = (TaskState.PENDING, TaskState.QUEUED, TaskState.RUNNING)


def as_completed(fs: Iterable[F], timeout: float | None = None) -> Iterator[F]:
    """Yield each future when it is done, as `concurrent.futures.as_completed` does.

    A Ctrl-C while it waits (or the stop button of a notebook) also cancels the futures that are
    not done.

    Args:
        fs: the futures; one that is given twice is yielded once.
        timeout: seconds from now within which all must be done.

    Raises:
        TimeoutError: not all were done in time.
        RuntimeError: this process is a fork, and a future that is not done belongs to the process
            from which it was forked.
    """
    pending = set(fs)
    completed: Iterator[Any] = concurrent.futures.as_completed(pending, seconds(timeout))
    return _interruptible(completed, pending)


def _interruptible(completed: Iterator[Any], pending: set[Any]) -> Iterator[Any]:
    process = None
    try:
        while True:
            if process != os.getpid():  # it may have been forked meanwhile
                process = os.getpid()
                check_process(pending)
            box = list(itertools.islice(completed, 1))
            if not box:
                return
            pending.discard(box[0])
            yield box.pop()  # no name for it: what was given out may be collected
    except KeyboardInterrupt:
        for future in pending:
            future.cancel()
        raise


def as_completed_async(fs: Iterable[F]) -> AsyncIterator[F]:
    """Yield each future when it is done, for ``async for``.

    The futures are left alone if the loop ends early, or if the task that runs it is cancelled.
    """
    from .awaiting import as_completed

    return as_completed(fs)


@dataclass(frozen=True, slots=True)
class Dependency:
    """How other calls must have ended before a call is run; for ``options(after=...)``.

    Args:
        futures: one or more futures of the same executor.
        all: if True, all of them must have ended as required; if False, one of them is enough.
        success: whether a call that succeeds has ended as required.
        failure: whether a call that fails or is cancelled has ended as required.

    Raises:
        TypeError: `futures` has something else in it than futures of a container pool, or a flag
            is neither True nor False.
        ValueError: there are no futures, or `success` and `failure` are both False.
    """

    futures: tuple[ContainerFuture[Any], ...]
    _: KW_ONLY
    all: bool = True
    success: bool = True
    failure: bool = False

    def __init__(
        self,
        futures: ContainerFuture[Any] | Iterable[ContainerFuture[Any]],
        *,
        all: bool = True,  # noqa: A002
        success: bool = True,
        failure: bool = False,
    ) -> None:
        some = (futures,) if isinstance(futures, Future) else tuple(futures)
        for each in some:
            if not isinstance(each, ContainerFuture):
                raise TypeError(f"a call can wait for futures of its executor only, not {each!r}")
        flags = {"all": all, "success": success, "failure": failure}
        for name, flag in flags.items():
            if not isinstance(flag, bool):
                raise TypeError(f"{name} must be True or False, not {flag!r}")
        if not some:
            raise ValueError("a Dependency needs a future at least")
        if not (success or failure):
            raise ValueError("a Dependency must allow success or failure, or it cannot be met")
        # The same future twice is one.
        for name, value in {"futures": tuple(dict.fromkeys(some)), **flags}.items():
            object.__setattr__(self, name, value)

    @property
    def awaited(self) -> ContainerFuture[Any] | None:
        """The first of the futures that is waited for; None if it is decided already."""
        open_ = None
        for future in self.futures:
            state = state_soon_of(future)
            if state in _OPEN:
                open_ = open_ or future
            elif (self.success if state is TaskState.SUCCEEDED else self.failure) is not self.all:
                return None
        return open_
