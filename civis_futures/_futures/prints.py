"""What tasks print, for who waits for them: lines of many logs, each with the name of its task.

A thread of its own reads them, one page of one log at a time, and ends at `close`. All of it costs
at most one request per pause, however many tasks there are, and the pause is as that of one log
that is followed. It knows futures of containers, and no terminal.
"""

from __future__ import annotations

import logging
import queue
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

from .._types import LogLine, TaskState
from .._wire import BEGIN_LINE, GO_ON_LINE
from .future import ContainerFuture, number_of, pool_of, state_soon_of, view_of
from .logs import LogAccess, LogPages, RunTail, is_of_stderr, pause_of

_log = logging.getLogger(__name__)


class Borders:
    """Says of which call each line of a log is; of none before the first one begins.

    Args:
        alone: the call that has the log for itself, if it does.
        known: the calls that may begin where a line had no end: others may be what a task says.
    """

    def __init__(self, alone: int | None, known: Callable[[int], bool]) -> None:
        self._alone, self._known = alone, known
        self._now: dict[bool, int | None] = {False: None, True: None}
        self._begun: set[tuple[bool, int]] = set()
        self._blank: dict[bool, LogLine | None] = {False: None, True: None}

    def label(self, lines: Iterable[LogLine]) -> Iterator[tuple[int, LogLine]]:
        """The next lines, each with the number of its task."""
        for line in lines:
            if self._alone is not None:
                yield self._alone, line
                continue
            stream = is_of_stderr(line)
            if goes_on := GO_ON_LINE.match(line.message.rstrip()):
                self._blank[stream] = None
                self._now[stream] = None if goes_on[1] is None else int(goes_on[1])
                continue
            mark = BEGIN_LINE.search(line.message.rstrip())
            number = -1 if mark is None else int(mark[1])
            inside = mark is not None and mark.start() > 0
            if mark is None or (
                inside and (not self._known(number) or (stream, number) in self._begun)
            ):
                yield from self._line(stream, line)
                continue
            self._blank[stream] = None  # it belongs to the mark
            if inside and (before := self._now[stream]) is not None:
                yield before, LogLine(line.id, "", line.level, line.message[: mark.start()])
            self._now[stream] = number
            self._begun.add((stream, number))

    def _line(self, stream: bool, line: LogLine) -> Iterator[tuple[int, LogLine]]:
        now, blank = self._now[stream], self._blank[stream]
        self._blank[stream] = None if line.message else line
        if now is None:
            return
        if blank is not None:
            yield now, blank
        if line.message:
            yield now, line


@dataclass(slots=True)
class _PrintedRun:
    """A run whose log is read. Times are monotonic, in seconds."""

    tail: RunTail
    borders: Borders
    read: float = 0.0  # when it was read last
    running: bool = False  # a task of ours is in it
    ended: float | None = None  # when the last one of ours was seen to end, if it may print more
    over: bool = False  # there will be no more, or it cannot be read


@dataclass(slots=True)
class _PrintedPool:
    """The runs of one pool."""

    access: LogAccess
    source: LogPages
    runs: dict[tuple[int, int], _PrintedRun] = field(default_factory=dict)
    names: dict[int, str] = field(default_factory=dict)


class Prints:
    """Reads what futures print, from their begin on, until `close`.

    Args:
        wake: called when there are new `lines`.
    """

    def __init__(self, wake: Callable[[], None]) -> None:
        self.lines: queue.SimpleQueue[str] = queue.SimpleQueue()
        self.requests = 0
        self._wake = wake
        self._new: queue.SimpleQueue[ContainerFuture[Any]] = queue.SimpleQueue()
        self._open: list[ContainerFuture[Any]] = []
        self._pools: dict[int, _PrintedPool] = {}
        self._finish, self._stop = threading.Event(), threading.Event()
        self._thread = threading.Thread(target=self._run, name="civis-futures prints", daemon=True)
        self._thread.start()

    def watch(self, future: ContainerFuture[Any]) -> None:
        """Print what this one prints, too."""
        self._new.put(future)

    def finish(self) -> None:
        """Return when the last lines of those that have ended are there."""
        self._finish.set()
        self._thread.join()

    def close(self) -> None:
        """Read no more."""
        self._stop.set()
        for pool in list(self._pools.values()):
            pool.source.close()  # which ends its waits
        self._thread.join()

    def _run(self) -> None:
        try:
            pause = 0.0
            while not self._stop.wait(pause):
                self._look()
                found = self._next()
                if found is None and self._finish.is_set():
                    return
                pools = list(self._pools.values())
                pause = max((pause_of(pool.access, pool.source) for pool in pools), default=0.2)
                # With more lines that wait to be printed, no more are read.
                if found is not None and self.lines.qsize() < 10_000:
                    self._read(*found)
        finally:
            for pool in self._pools.values():
                pool.source.close()

    def _look(self) -> None:
        """Which runs have something for us."""
        while not self._new.empty():
            future = self._new.get()
            access = pool_of(future).logs
            if id(access) not in self._pools:
                self._pools[id(access)] = _PrintedPool(access, access.open())
            self._pools[id(access)].names[number_of(future)] = future.task
            self._open.append(future)
        for pool in self._pools.values():
            for run in pool.runs.values():
                run.running = False
        left = []
        for future in self._open:
            done, view = future.done(), view_of(future)
            if not done:
                left.append(future)
            if view.job_id is None or view.run_id is None:
                continue
            if done or state_soon_of(future) is TaskState.RUNNING:
                run = self._printed(future, (view.job_id, view.run_id))
                run.running = run.running or not done
                run.ended = time.monotonic() if done else run.ended
        self._open = left

    def _printed(self, future: ContainerFuture[Any], where: tuple[int, int]) -> _PrintedRun:
        pool = self._pools[id(pool_of(future).logs)]
        if where not in pool.runs:
            alone = None if pool.access.reused else number_of(future)
            borders = Borders(alone, pool.names.__contains__)
            pool.runs[where] = _PrintedRun(RunTail(pool.source, where), borders)
        return pool.runs[where]

    def _next(self) -> tuple[_PrintedPool, _PrintedRun] | None:
        """The run to read: of those that may have something, the one not read for longest."""
        more = not self._finish.is_set()
        due = [
            (pool, run)
            for pool in self._pools.values()
            for run in pool.runs.values()
            if not run.over and (run.ended is not None or (run.running and more))
        ]
        return min(due, key=lambda each: each[1].read, default=None)

    def _read(self, pool: _PrintedPool, run: _PrintedRun) -> None:
        now = run.read = time.monotonic()
        self.requests += 1
        try:
            new, full, complete = run.tail.read()
        except Exception as error:
            run.over = True
            if not self._stop.is_set():
                _log.warning("what tasks print in run %s is not read: %s", run.tail.where[1], error)
            return
        found = False
        for number, line in run.borders.label(new):
            if number in pool.names:
                self.lines.put(f"{pool.names[number]}: {line.message}")
                found = True
        run.over = complete and not full
        grace = pool.access.pacing.log_grace
        if run.ended is not None and not full and now - run.ended > grace:
            run.ended = None
        if found:
            self._wake()
