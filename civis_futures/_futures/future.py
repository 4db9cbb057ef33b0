"""`ContainerFuture`: a standard future that also tells where its call is.

Knows leaves only. It never does I/O but in `logs`: everything else is what the last look
brought, put there by the manager as one frozen `View`. Nor does it touch the private state of
`concurrent.futures.Future`: for the standard library it stays pending until its outcome is there,
which is what keeps `cancel` possible until then.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping
from concurrent.futures import CancelledError, Future, wait
from dataclasses import dataclass, replace
from typing import Any, Literal, NamedTuple, Never, NoReturn, Protocol, TypeVar, overload

from .._display import live, markup, panels
from .._display.forecast import Forecast
from .._types import UNCHANGED, Attempt, LogLine, RetryOn, TaskState, given, seconds, whole
from . import logs as _logs

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Timings:
    """When a call reached each stage, and how long it took; None: it has not, or never will.

    Times are in seconds since the epoch: `submitted` and `queued` (when it was given to a
    container) by this machine's clock, `started` and `finished` by the container's.

    Durations are in seconds, measured in the container: `importing` is the time of the imports
    that unpickling the call caused, `unpickling` the rest of the unpickling, `compute` the time of
    the function itself, and `upload` the time to store a large result.
    """

    submitted: float
    queued: float | None = None
    started: float | None = None
    finished: float | None = None
    compute: float | None = None
    importing: float | None = None
    unpickling: float | None = None
    upload: float | None = None


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
    note: str = ""  # what this task alone waits for
    running_since: float | None = None  # seconds since the epoch, by this machine's clock
    asked_memory: float = 0.0  # MB that its container was to have; 0.0: not known


class Sent(Protocol):
    """A call that was sent."""

    key: str

    @property
    def kept(self) -> bool:
        """Whether it can be sent again."""

    @property
    def complete(self) -> bool:
        """Whether it needs nothing more of others."""

    @property
    def awaited(self) -> Any:
        """The first future that it waits for, if there is one."""

    def settled(self) -> bool:
        """Its future has the result. Whether that has to do for others."""


class Origin(Protocol):
    """What a future's executor does for it later."""

    @property
    def logs(self) -> _logs.LogAccess:
        """Where its log is read."""

    def load(self, call: Any) -> Callable[[], Any]:
        """What the call would run, as a function without arguments."""

    def cancel(self, number: int) -> None:
        """The task with this number is cancelled."""

    def why_waiting(self) -> str:
        """What a task waits for that waits for no other one."""

    def resubmit(
        self, future: ContainerFuture[T], changes: Mapping[str, Any]
    ) -> ContainerFuture[T]:
        """The call once more, with some options changed."""

    def forecast(self) -> Forecast | None:
        """When all of its calls will be done."""


class ContainerFuture(Future[T]):
    """The future of one call in a container.

    It is made by `ContainerPoolExecutor.submit` only. In addition to what a
    `concurrent.futures.Future` has, it tells where the call is. Only `logs()`,
    `container_logs()`, `replay()` and `resubmit()` may make requests; all else is known here.
    """

    def __init__(
        self,
        task: str,
        number: int,
        view: View,
        pool: Origin,
        options: Any,
        count: Callable[[panels.TaskSummary], None] | None = None,
    ) -> None:
        super().__init__()
        self._task, self._number, self._view = task, number, view
        self._pool, self._options = pool, options
        self._count = count
        self._sent: Sent | None = None  # None: nothing was sent
        self._end_state: TaskState | None = None
        self._ended: float | None = None  # by this machine's clock, as `Timings.submitted`
        self._process = os.getpid()
        self.add_done_callback(_note_end)

    @property
    def task(self) -> str:
        """The name of the call: that of its function, with a number within the executor."""
        return self._task

    @property
    def label(self) -> str | None:
        """The `label` that the call was submitted with."""
        label: str | None = self._options.label
        return label

    @property
    def job_id(self) -> int | None:
        """The id of the script in whose run the call is; None as long as there is none."""
        return self._view.job_id

    @property
    def run_id(self) -> int | None:
        """The id of the run in which the call is; None as long as there is none."""
        return self._view.run_id

    @property
    def job_url(self) -> str | None:
        """The URL of the script's page on the platform; None as long as there is none."""
        return self._view.job_url

    @property
    def worker(self) -> int | None:
        """The number, within the executor, of the worker that has the call."""
        return self._view.worker

    @property
    def timings(self) -> Timings:
        """When the call reached each stage, and how long it took, as far as is known."""
        return self._view.timings

    @property
    def attempts(self) -> tuple[Attempt, ...]:
        """One `Attempt` for each time that the call was given to a container, oldest first."""
        return self._view.attempts

    @property
    def state(self) -> TaskState:
        """Whether the call waits, runs, or how it has ended."""
        if not self.done():
            return self._view.state
        if self.cancelled():
            return TaskState.CANCELLED
        failed = self.exception(timeout=0) is not None
        return TaskState.FAILED if failed else TaskState.SUCCEEDED

    @property
    def reason(self) -> str:
        """Why the call failed, or what it waits for if it has not begun; in one line.

        It is empty if the call runs, has succeeded or was cancelled.
        """
        return self._summary().reason

    def running(self) -> bool:
        """Whether the call was seen to run in a container, and is not known to have ended."""
        return not self.done() and self._view.state is TaskState.RUNNING

    def cancel(self) -> bool:
        """Cancel the call, even if it runs: then its container is stopped in the background.

        Returns False only if the call is done already. The executor's `shutdown(wait=True)` waits
        until the container has ended.

        Raises:
            RuntimeError: this process is a fork of the one to which the future belongs. (The same
                goes for `result`, `exception`, `await`, `logs` and `add_done_callback` if the call
                is not done.)
        """
        self._check_process()
        cancelled = super().cancel()
        if cancelled:
            self._pool.cancel(self._number)
        return cancelled

    def result(self, timeout: float | None = None) -> T:
        """Like `concurrent.futures.Future.result`; a `CancelledError` names the call."""
        try:
            self._check_process()
            return super().result(seconds(timeout))
        except CancelledError:
            if not self.cancelled():
                raise
            raise CancelledError(f"{self!r} was cancelled") from None
        finally:
            # This frame becomes a part of the exception, which the future has. In such a cycle both
            # would live on, and with them the frames of the callers.
            del self

    def exception(self, timeout: float | None = None) -> BaseException | None:
        """Like `concurrent.futures.Future.exception`."""
        self._check_process()
        return super().exception(seconds(timeout))

    def add_done_callback(self, fn: Callable[[Future[T]], object]) -> None:
        """Like `concurrent.futures.Future.add_done_callback`."""
        self._check_process()
        super().add_done_callback(fn)

    def _check_process(self) -> None:
        """In a fork nothing would ever settle it, or learn that it is cancelled."""
        if os.getpid() != self._process and self._ended is None:
            raise RuntimeError(
                f"{self._task} belongs to process {self._process}, of which this one is a fork: "
                "its outcome comes there alone"
            )

    def __await__(self) -> Generator[Any, None, T]:
        """Wait in an event loop; cancelling the wait leaves the call alone.

        Raises:
            concurrent.futures.CancelledError: the call was cancelled. It is not asyncio's, which
                would say that the waiting task was.
            Exception: whatever the call raised.
        """
        self._check_process()
        if not self.done():
            from .awaiting import ended

            # What to call at the end, and can be taken back; the standard callbacks cannot. Only
            # those that are awaited have it. Single operations of a dict and of a set are atomic,
            # so this needs no lock.
            watchers = self.__dict__.setdefault("_watchers", set())
            yield from ended(self.done, watchers).__await__()
        try:
            return self.result(timeout=0)
        finally:
            del self  # as in `result`

    def set_result(self, result: T) -> None:
        """For the pool alone."""
        # Before the waiters wake: what they look at then must count this one.
        self._end(TaskState.SUCCEEDED)
        super().set_result(result)
        if self._sent is None or self._sent.settled():
            self.__dict__.pop("_value", None)

    def set_exception(self, exception: BaseException | None) -> None:
        """For the pool alone."""
        self._end(TaskState.FAILED)
        super().set_exception(exception)

    def _end(self, state: TaskState) -> None:
        if self._ended is None:
            self._ended, self._end_state = time.time(), state
            if self._count is not None:
                self._count(self._summary_as(state))
                self._count = None

    @overload
    def logs(self, tail: int | None = None, follow: Literal[False] = False) -> list[LogLine]: ...
    @overload
    def logs(self, tail: int | None = None, *, follow: Literal[True]) -> Iterator[LogLine]: ...
    @overload
    def logs(self, tail: int | None, follow: Literal[True]) -> Iterator[LogLine]: ...
    def logs(
        self, tail: int | None = None, follow: bool = False
    ) -> list[LogLine] | Iterator[LogLine]:
        """What the call has printed, oldest line first. Makes requests to the platform.

        If the container runs many calls, only this call's part of the log is returned, and of
        several attempts only the last one's. The list is empty as long as there is no run. A
        record of `logging` has its own level.

        Args:
            tail: how many lines, counted from the end; 10,000 at most, which is the default.
            follow: if True, return an iterator. It begins with the last `tail` lines that exist,
                waits for further ones, and ends when the call is done. You can drop it earlier.

        Raises:
            PlatformError: the platform cannot be reached, or refuses.
            TypeError, ValueError: `tail` is not a number of lines.
        """
        call, most = self._logged(self._number, tail)
        return (_logs.follow if follow else _logs.read)(self._pool.logs, call, most)

    def container_logs(self, tail: int | None = None) -> list[LogLine]:
        """What the call's container has printed, oldest line first. Makes requests to the platform.

        This includes the output of `setup_cmd` and of other calls. The list is empty as long as
        there is no run.

        Args:
            tail: how many lines, counted from the end; 10,000 at most, which is the default.

        Raises:
            PlatformError: the platform cannot be reached, or refuses.
            TypeError, ValueError: `tail` is not a number of lines.
        """
        call, most = self._logged(None, tail)
        return _logs.read(replace(self._pool.logs, reused=False), call, most)

    def _logged(self, number: int | None, tail: int | None) -> tuple[_logs.LoggedCall, int | None]:
        """Whose lines are wanted, of the whole run if `number` is None; how many, checked."""
        self._check_process()
        most = None if tail is None else whole("tail", tail, least=0)
        return _logs.LoggedCall(number, self._where, self.done, self._await_end), most

    def _where(self) -> tuple[int, int] | None:
        view = self._view
        if view.job_id is None or view.run_id is None:
            return None
        return view.job_id, view.run_id

    def _await_end(self, seconds: float) -> None:
        wait([self], seconds)

    def replay(self, *, debug: bool = False) -> T:
        """Run the call of a failed future in this process, and return its result.

        It uses the function and the arguments that were sent. If `debug` is True and the call
        raises an exception, the debugger opens where it was raised (`pdb.post_mortem`); after
        that, the exception is raised.

        Raises:
            RuntimeError: the future has not failed; or its function is a coroutine function, and an
                event loop runs in this thread already, as in a notebook.
            PlatformError: the call was sent in a File, which cannot be read.
            Exception: whatever the call raises.
        """
        call = self._sent
        failed = self._end_state is TaskState.FAILED and self.done() and not self.cancelled()
        if call is None or not (call.kept and call.complete) or not failed:
            raise RuntimeError(
                f"only a call that failed can be replayed, and one that was sent; not {self!r}"
            )
        function: Callable[[], T] = self._pool.load(call)
        try:
            return function()
        except BaseException as error:
            if debug:
                import pdb

                pdb.post_mortem(error.__traceback__)
            raise

    def resubmit(
        self,
        *,
        max_retries: int = UNCHANGED,
        retry_on: RetryOn = UNCHANGED,
        timeout: float | None = UNCHANGED,
        queue_timeout: float | None = UNCHANGED,
        label: str | None = UNCHANGED,
        required_resources: Mapping[str, float] | None = UNCHANGED,
        memory_growth: float | None = UNCHANGED,
        max_memory: float = UNCHANGED,
        priority: float = UNCHANGED,
        after: Any = UNCHANGED,
        requires: Mapping[str, str] | None = UNCHANGED,
        **unknown: Never,
    ) -> ContainerFuture[T]:
        """Submit the same call again, perhaps with other options, and return its new future.

        It uses the function and the arguments that were sent. This future stays as it is. If it
        failed with a `DependencyError`, the calls that caused it are submitted again as well.

        The options are those of `ContainerPoolExecutor.options`; those that you leave out stay as
        they were. `requires` cannot be changed, since it was sent with the call.

        Raises:
            RuntimeError: this future is not done; its call was never sent; it has succeeded and
                was too large to be kept; or the executor is shut down.
            TypeError, ValueError: there is no such option, or its value is not allowed.
            BrokenContainerPool: the pool can do no more work.
        """
        changes = given(locals())
        self._check_process()
        if not self.done():
            raise RuntimeError(f"only a call that is done can be submitted again, not {self!r}")
        if self._sent is None:
            raise RuntimeError(f"the call was never sent, so it cannot be sent again: {self!r}")
        if not self._sent.kept:
            raise RuntimeError(f"the call succeeded, and was too large to be kept: {self!r}")
        return self._pool.resubmit(self, changes)

    def __reduce__(self) -> NoReturn:
        """As the standard library's futures: what they wait for cannot travel."""
        raise TypeError(f"cannot pickle a {type(self).__name__}")

    @property
    def _state_soon(self) -> TaskState:
        """As `state`, and some microseconds ahead of it at the end; it takes no lock."""
        return self._end_state or self._view.state

    def _summary(self) -> panels.TaskSummary:
        """How it is now, from memory."""
        state = self._state_soon
        failed = state is TaskState.FAILED and self.done() and not self.cancelled()
        return self._summary_as(state, self.exception(timeout=0) if failed else None)

    def _summary_as(
        self, state: TaskState, error: BaseException | None = None
    ) -> panels.TaskSummary:
        view = self._view
        timings, attempts = view.timings, view.attempts
        elapsed = max(0.0, (self._ended or time.time()) - timings.submitted)
        queue = None
        if timings.started is not None:  # by another clock
            queue = min(max(0.0, timings.started - timings.submitted), elapsed)
        elif state in panels.WAITING:
            queue = elapsed
        running = None
        if state is TaskState.RUNNING and view.running_since is not None:
            running = min(max(0.0, time.time() - view.running_since), elapsed)
            queue = elapsed - running
        reasons = [attempt.reason for attempt in attempts if attempt.reason]
        if state in panels.WAITING:
            reasons.append(view.note or self._needed() or self._pool.why_waiting())
        peaks = [each.peak_memory for each in attempts if each.peak_memory is not None]
        return panels.TaskSummary(
            task=self._task,
            number=self._number,
            state=state,
            reason=panels.one_line(error) if error is not None else _last(reasons),
            attempts=len(attempts),
            elapsed=elapsed,
            queue=queue,
            compute=timings.compute,
            peak_memory=max(peaks, default=None),
            submitted=timings.submitted,
            worker=view.worker,
            job_id=view.job_id,
            run_id=view.run_id,
            job_url=view.job_url,
            running=running,
            occupied=_between(timings.started, timings.finished),
            asked_memory=view.asked_memory or None,
        )

    def _needed(self) -> str:
        """What it waits for, if that is another call."""
        other = None if self._sent is None else self._sent.awaited
        return "" if other is None else f"waits for {other.task}"

    def __repr__(self) -> str:
        """What is known of it, from memory."""
        seen = self._summary()
        where = "" if seen.run_id is None else f" job={seen.job_id} run={seen.run_id}"
        numbers = [f"elapsed {panels.duration(seen.elapsed)}"]
        numbers += [] if seen.running is None else [f"running {panels.duration(seen.running)}"]
        numbers += [] if seen.compute is None else [f"compute {panels.duration(seen.compute)}"]
        numbers += [panels.memory(seen.peak_memory)] if seen.peak_memory else []
        why = f": {seen.reason}" if seen.reason else ""
        name = type(self).__name__
        return f"<{name} {self._task!r} {seen.state}{where} ({', '.join(numbers)}){why}>"

    def _repr_html_(self) -> str:
        """For notebooks; from memory."""
        return markup.html(self._panel())

    def _panel(self, most: int = panels.MOST_ROWS) -> panels.Panel:
        del most  # there is one
        return panels.panel_of(self._task, [self._summary()], time.time())

    def _is_over(self) -> bool:
        return self.done()

    def _ipython_display_(self) -> None:
        """For notebooks, where it changes."""
        live.show_live(self, keep=True)


# For the pool, and for what shows many at once: no methods, since users hold futures.


def check_process(futures: Iterable[Future[Any]]) -> None:
    """RuntimeError if one of them will never end here, as this process is a fork of its own."""
    for future in futures:
        if isinstance(future, ContainerFuture):
            future._check_process()


def view_of(future: ContainerFuture[Any]) -> View:
    """What is known of its task."""
    return future._view


def show(future: ContainerFuture[Any], **changes: Any) -> None:
    """Replace fields of its view. For the manager's thread alone."""
    future._view = future._view._replace(**changes)


def pool_of(future: ContainerFuture[Any]) -> Origin:
    """Its executor's part that submits calls."""
    return future._pool


def key_of(future: ContainerFuture[Any]) -> str:
    """What tells its call from others, in a session."""
    return future._task if future._sent is None else future._sent.key


def value_in(future: ContainerFuture[Any], new: Any = None) -> Any:
    """What stands for its result in other calls: the `new` one if there is none."""
    # Few futures have it. Single operations of a dict are atomic, so this needs no lock.
    known = future.__dict__
    return known.get("_value") if new is None else known.setdefault("_value", new)


def number_of(future: ContainerFuture[Any]) -> int:
    """That of its task."""
    return future._number


def summary_of(future: ContainerFuture[Any]) -> panels.TaskSummary:
    """How it is now, from memory."""
    return future._summary()


def state_soon_of(future: ContainerFuture[Any]) -> TaskState:
    """Its state, some microseconds ahead at the end; it takes no lock."""
    return future._state_soon


def has_ended(future: ContainerFuture[Any]) -> bool:
    """Whether it has counted itself among those that have ended."""
    return future._ended is not None


def _between(began: float | None, ended: float | None) -> float | None:
    return None if began is None or ended is None else max(0.0, ended - began)


def _last(reasons: list[str]) -> str:
    return next((reason for reason in reversed(reasons) if reason), "")


def _note_end(future: Future[Any]) -> None:
    assert isinstance(future, ContainerFuture)
    if future.cancelled():
        future._end(TaskState.CANCELLED)
    for watcher in list(future.__dict__.get("_watchers", ())):
        watcher()
