"""`ContainerFuture`: a standard future that also tells where its call is.

Knows the leaves only. It never does I/O but in `logs`: everything else is what the last look
brought, put there by the manager as one frozen `View`. Nor does it touch the private state of
`concurrent.futures.Future`: for the standard library it stays pending until its outcome is there,
which is what keeps `cancel` possible until then.
"""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import CancelledError, Future
from dataclasses import dataclass
from typing import NamedTuple, NoReturn, TypeVar

from ._types import Attempt, LogLine, TaskState
from ._wire import Call

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Timings:
    """When a task was where, in seconds since the epoch (None: not yet, or never).

    `submitted` and `queued` (given to a container) are by this machine's clock, `started` and
    `finished` by the container's; `compute` is the seconds that the function itself took,
    measured in the container.
    """

    submitted: float
    queued: float | None = None
    started: float | None = None
    finished: float | None = None
    compute: float | None = None


class View(NamedTuple):
    """What is known of a task; the manager replaces it as a whole.

    (A tuple, since a new one is made with each change of each task, and this costs least.)
    """

    timings: Timings
    state: TaskState = TaskState.PENDING
    job_id: int | None = None
    run_id: int | None = None
    job_url: str | None = None
    worker: int | None = None
    attempts: tuple[Attempt, ...] = ()
    call: Call | None = None  # of a task that failed


class ContainerFuture(Future[T]):
    """The future of one call in a container.

    Made by `ContainerPoolExecutor.submit` only. On top of `concurrent.futures.Future` it tells
    where the call is; all of it but `logs()` comes from memory and returns at once.
    """

    def __init__(
        self,
        task: str,
        view: View,
        cancelled: Callable[[], None],
        read_logs: Callable[[int, int], list[LogLine]],
        load: Callable[[Call], Callable[[], T]],
        label: str | None = None,
    ) -> None:
        super().__init__()
        self._task = task
        self._label = label
        self._load = load
        self._view = view
        self._on_cancel = cancelled
        self._read_logs = read_logs

    @property
    def task(self) -> str:
        """The name of the call: the function's, and its number within the executor."""
        return self._task

    @property
    def label(self) -> str | None:
        """The `label` that the call was submitted with."""
        return self._label

    @property
    def job_id(self) -> int | None:
        """The id of the script whose run has the call, or None before there is one."""
        return self._view.job_id

    @property
    def run_id(self) -> int | None:
        """The id of the run that has the call, or None before there is one."""
        return self._view.run_id

    @property
    def job_url(self) -> str | None:
        """The page of the script on the platform, or None before there is one."""
        return self._view.job_url

    @property
    def worker(self) -> int | None:
        """The number of the worker, within the executor, that has the call."""
        return self._view.worker

    @property
    def timings(self) -> Timings:
        """When the call was where, as far as it is known."""
        return self._view.timings

    @property
    def attempts(self) -> tuple[Attempt, ...]:
        """Each time that the call was handed to a container, the first one first."""
        return self._view.attempts

    @property
    def state(self) -> TaskState:
        """Where the call is."""
        if not self.done():
            return self._view.state
        if self.cancelled():
            return TaskState.CANCELLED
        failed = self.exception(timeout=0) is not None
        return TaskState.FAILED if failed else TaskState.SUCCEEDED

    def running(self) -> bool:
        """Whether the call's container was seen running, with the call in hand, and no end yet."""
        return not self.done() and self._view.state is TaskState.RUNNING

    def cancel(self) -> bool:
        """Cancel the call; also one that runs: its container is stopped in the background.

        Returns False only if the outcome is already here. `shutdown(wait=True)` of the executor
        returns after the container has ended.
        """
        cancelled = super().cancel()
        if cancelled:
            self._on_cancel()
        return cancelled

    def result(self, timeout: float | None = None) -> T:
        """As of any future; the CancelledError names the call."""
        try:
            return super().result(timeout)
        except CancelledError:
            if not self.cancelled():
                raise
            raise CancelledError(f"{self!r} was cancelled") from None

    def logs(self) -> list[LogLine]:
        """The log of the run that has (or had) the call, oldest line first; asks the platform.

        The last 10,000 lines at the most. A reused worker has one log for all of its calls.
        Empty before there is a run.

        Raises:
            PlatformError: the platform cannot be reached, or refuses.
        """
        view = self._view
        if view.job_id is None or view.run_id is None:
            return []
        return self._read_logs(view.job_id, view.run_id)

    def replay(self, *, debug: bool = False) -> T:
        """Run the call of a failed future here and now, in this process; its result.

        The function and its arguments are those that were sent. With `debug`, an exception opens
        the debugger where it was raised (`pdb.post_mortem`), and is raised again after that.

        Raises:
            RuntimeError: the future has not failed.
            PlatformError: the call was in a File, and that cannot be read.
            Exception: whatever the call raises.
        """
        call = self._view.call
        if call is None or not self.done() or self.cancelled():
            raise RuntimeError(f"only a call that failed can be replayed, not {self!r}")
        function = self._load(call)
        try:
            return function()
        except BaseException as error:
            if debug:
                import pdb

                pdb.post_mortem(error.__traceback__)
            raise

    def __reduce__(self) -> NoReturn:
        """As the standard library's futures: what they wait for cannot travel."""
        raise TypeError(f"cannot pickle a {type(self).__name__}")

    def __repr__(self) -> str:
        """What is known of it, from memory."""
        view = self._view
        where = "" if view.run_id is None else f" job={view.job_id} run={view.run_id}"
        return f"<{type(self).__name__} {self._task!r} {self.state}{where}>"
