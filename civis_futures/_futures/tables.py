"""Futures that are shown together: in a `table`, as they are whenever it is shown; and all those of
an executor, of which it knows those that the user holds, and sums of the others.
"""

from __future__ import annotations

import shutil
import threading
import time
import weakref
from collections import deque
from collections.abc import Iterable, Sequence
from heapq import nsmallest
from typing import Any, overload

from .._display import markup, panels
from .._display.panels import MOST_ROWS, WAITING, Panel, TaskSummary, Totals, rank
from .future import ContainerFuture, has_ended, number_of, state_soon_of, summary_of, view_of

#: Futures that have ended are added up when the sums are asked for, or when there are this many.
MOST_UNCOUNTED = 1000


class Table(Sequence[ContainerFuture[Any]]):
    """Futures as a sequence that displays: in a notebook, a terminal, and by ``print``."""

    def __init__(self, futures: Iterable[ContainerFuture[Any]]) -> None:
        self._futures = tuple(futures)
        for future in self._futures:
            if not isinstance(future, ContainerFuture):
                kind = type(future).__name__
                raise TypeError(f"a table shows the futures of a container pool, not a {kind}")

    def __len__(self) -> int:
        """How many futures there are."""
        return len(self._futures)

    @overload
    def __getitem__(self, index: int) -> ContainerFuture[Any]: ...
    @overload
    def __getitem__(self, index: slice) -> Table: ...
    def __getitem__(self, index: int | slice) -> ContainerFuture[Any] | Table:
        """One of them, or a table of some."""
        if isinstance(index, slice):
            return Table(self._futures[index])
        return self._futures[index]

    def status(self) -> list[dict[str, Any]]:
        """As `ContainerPoolExecutor.status`."""
        return panels.records(self._panel().summaries)

    def _panel(self) -> panels.Panel:
        summaries = list(map(summary_of, self._futures))
        return panels.panel_of(f"{len(summaries):,} futures", summaries, time.time())

    def __repr__(self) -> str:
        """Several lines, as wide as the terminal."""
        return panels.text(self._panel(), shutil.get_terminal_size().columns)

    def _repr_html_(self) -> str:
        """For notebooks."""
        return markup.html(self._panel())


def table(futures: Iterable[ContainerFuture[Any]]) -> Table:
    """Futures to look at: counts, a bar, times, peak memory, and failures with their reason.

    Looking makes no request, so it returns at once. The table is a sequence of the futures, too.

    Raises:
        TypeError: one of them is not a `ContainerFuture`.
    """
    return Table(futures)


class EndedTasks:
    """Sums of tasks that have ended; all threads may use it."""

    def __init__(self) -> None:
        self._uncounted: deque[TaskSummary] = deque()
        # Guards the sums, and what is taken from those that are not counted yet; arithmetic only.
        self._lock = threading.RLock()
        self._counting = False
        self._totals = Totals()
        self._span: tuple[float, float] | None = None

    def count(self, summary: TaskSummary) -> None:
        """One has ended like this."""
        self._uncounted.append(summary)
        if len(self._uncounted) > MOST_UNCOUNTED and self._lock.acquire(blocking=False):
            try:
                self._sum_up()
            finally:
                self._lock.release()

    def sums(self) -> tuple[Totals, tuple[float, float] | None]:
        """The sums, and from when to when these tasks were there, in seconds since the epoch."""
        with self._lock:
            self._sum_up()
            return self._totals.copy(), self._span

    def _sum_up(self) -> None:
        """Under the lock."""
        if self._counting:  # this thread does so already: a signal's handler looks at us
            return
        self._counting = True
        try:
            while self._uncounted:
                summary = self._uncounted.popleft()
                self._totals.add(summary)
                begin, end = summary.submitted, summary.submitted + summary.elapsed
                if self._span is not None:
                    begin, end = min(begin, self._span[0]), max(end, self._span[1])
                self._span = begin, end
        finally:
            self._counting = False


class PoolFutures:
    """Which tasks there are, were, and how they ended; all threads may use it."""

    def __init__(self) -> None:
        # By number. It is used in single operations, which no thread and no signal interrupts; so
        # nobody waits here, not even a future that ends while a handler looks.
        self._futures: weakref.WeakValueDictionary[int, ContainerFuture[Any]] = (
            weakref.WeakValueDictionary()
        )
        self._ended = EndedTasks()
        self.count = self._ended.count

    def add(self, future: ContainerFuture[Any]) -> None:
        """Take in a new one. The pool holds it until it has ended; we do not."""
        self._futures[number_of(future)] = future

    def futures(self) -> list[ContainerFuture[Any]]:
        """Those that the user holds, in the order of their submission."""
        held = (reference() for reference in self._futures.valuerefs())
        found = [future for future in held if future is not None]
        return sorted(found, key=number_of)

    def summaries(self) -> list[TaskSummary]:
        """How those are that the user holds, one by one."""
        return list(map(summary_of, self.futures()))

    def totals(self) -> Totals:
        """All tasks in numbers."""
        return self.panel("").totals

    def panel(self, title: str, waiting: str = "") -> Panel:
        """All tasks in numbers, and some of those that the user holds one by one; `waiting` is what
        those wait for that no container has begun.
        """
        return panel_of(title, self._ended, self.futures(), waiting)


def panel_of(
    title: str, ended: EndedTasks, futures: Iterable[ContainerFuture[Any]], waiting: str = ""
) -> Panel:
    """The sums of those that have ended, and those of these futures that have not; some of the
    futures one by one.
    """
    now, futures = time.time(), tuple(futures)
    totals, span = ended.sums()
    begin, end = span or (now, now)
    for future in futures:
        if not has_ended(future):  # without a summary each: there may be many thousands
            state, submitted = state_soon_of(future), view_of(future).timings.submitted
            totals.counts[state] += 1
            totals.queue += now - submitted if state in WAITING else 0.0
            begin, end = min(begin, submitted), now
    listed = nsmallest(
        MOST_ROWS, futures, key=lambda future: rank(state_soon_of(future), number_of(future))
    )
    summaries = tuple(map(summary_of, listed))
    waiting = waiting if any(totals.counts[state] for state in WAITING) else ""
    return Panel(title, totals, summaries, max(0.0, end - begin), waiting)
