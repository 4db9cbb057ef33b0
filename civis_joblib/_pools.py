"""Where the executor of a call comes from, if it is not lent to it: the user, or a session. And how
many batches of a call are under way.

This module must not know joblib, nor anything of `civis_futures` that is not public.
"""

from __future__ import annotations

import weakref
from collections import deque
from collections.abc import Callable, Mapping
from concurrent.futures import Future
from typing import Any, Protocol

from civis_futures import ContainerPoolExecutor, WarmPool

#: Sends a batch.
Send = Callable[[], Future[Any]]
#: Takes a batch that has ended.
Ended = Callable[[Future[Any]], object]

#: The executors of sessions, by name: a session is open once in a process.
_sessions: dict[str, ContainerPoolExecutor] = {}


class LentPool(Protocol):
    """An executor for a while."""

    @property
    def executor(self) -> ContainerPoolExecutor:
        """The executor."""

    def give_back(self) -> None:
        """The call is over, and none of its batches runs."""


class UsersPool:
    """The user's own executor: when it ends is the user's affair."""

    def __init__(self, executor: ContainerPoolExecutor) -> None:
        self.executor = executor

    def give_back(self) -> None:
        """Nothing is to be done."""


def check_executor(executor: object, options: Mapping[str, Any], remote: Any, threads: Any) -> None:
    """Raise what speaks against these options for the calls of the user's own executor."""
    if not isinstance(executor, ContainerPoolExecutor):
        raise TypeError(f"executor must be a ContainerPoolExecutor, not {type(executor).__name__}")
    if options or threads is not None:
        names = sorted({*options, *(() if threads is None else ("inner_max_num_threads",))})
        raise TypeError(f"the executor has options of its own: {', '.join(names)} cannot be set")
    if remote == "civis":
        raise ValueError(
            "remote_backend='civis' shares out n_jobs; an executor has its max_workers"
        )


def check_call_options(cap: object, progress: object) -> None:
    """Raise what is wrong with the options that are joblib's calls' own."""
    if cap is not None and (isinstance(cap, bool) or not isinstance(cap, int)):
        raise TypeError(f"cap must be None or an integer, not {cap!r}")
    if cap is not None and cap < 1:
        raise ValueError(f"cap must be 1 or more, not {cap}")
    if not isinstance(progress, bool):
        raise TypeError(f"progress must be True or False, not {progress!r}")


class SessionCalls:
    """The calls of one session, one after the other, in one executor. It ends when nobody has this
    any more, that is, with the block of its `parallel_config`.
    """

    def __init__(self, options: Mapping[str, Any]) -> None:
        self._name: str = options["session"]
        self._executor: ContainerPoolExecutor | None = None
        self._busy = False

    @property
    def executor(self) -> ContainerPoolExecutor:
        """The executor of the call that runs."""
        assert self._executor is not None, "a call has begun"
        return self._executor

    def begin(self, number: int, **options: Any) -> SessionCalls:
        """A call begins, with at most this many containers.

        Raises:
            RuntimeError: another one runs: their tasks would be another sequence each time.
            SessionInUseError, PlatformError: as of the executor.
        """
        if self._busy:
            raise RuntimeError(
                f"session {self._name!r} has a call under way: in a session one Parallel runs "
                "after the other, each to its end"
            )
        if self._executor is None or self._executor.broken:
            earlier = _sessions.pop(self._name, None)
            if earlier is not None:
                earlier.shutdown()
            self._executor = _sessions[self._name] = ContainerPoolExecutor(number, **options)
            weakref.finalize(self, self._executor.shutdown, wait=False)
        self._executor.scale(number)
        self._busy = True
        return self

    def give_back(self) -> None:
        """The next call may begin."""
        self._busy = False


class BoundedCalls:
    """The batches of one call that are under way, in an executor that others may use, too: at most
    `most` at a time if it has more containers than that. But for `cancel`, under joblib's lock.
    """

    def __init__(
        self, executor: ContainerPoolExecutor | None = None, most: int | None = None
    ) -> None:
        self._executor = executor
        self._most = most
        self._under_way: set[Future[Any]] = set()
        self.waiting: deque[tuple[Send, Ended]] = deque()

    def submit(self, send: Send, ended: Ended) -> Future[Any]:
        """Send a batch, or keep it until others have ended; the future is of no use then."""
        if self._room() <= 0:
            self.waiting.append((send, ended))
            return Future()
        return self._send(send, ended)

    def ended(self, batch: Future[Any]) -> None:
        """A batch has ended; the next one may go."""
        self._under_way.discard(batch)
        while self.waiting and self._room() > 0:
            self._send(*self.waiting.popleft())

    def cancel(self) -> None:
        """Cancel all, and wait until none runs."""
        batches, self._under_way = tuple(self._under_way), set()
        if self._executor is not None:
            self._executor.cancel_all(batches, wait=True)

    def _room(self) -> float:
        if self._most is None or self._executor is None or self._executor.max_workers <= self._most:
            return 1
        return self._most - len(self._under_way)

    def _send(self, send: Send, ended: Ended) -> Future[Any]:
        future = send()
        self._under_way.add(future)
        future.add_done_callback(ended)
        return future


def shutdown(wait: bool = True) -> None:
    """End the containers that are kept for joblib's next call.

    Without it, they end after their `idle_timeout` (one minute), or when the interpreter exits.
    Calls that run go on, and their containers end after them. An executor of your own is left
    alone.

    Args:
        wait: return only when all these containers have ended.
    """
    WarmPool.end_all(wait)
    for executor in list(_sessions.values()):
        executor.shutdown(wait=wait)
