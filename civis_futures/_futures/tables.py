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

from .._display import live, markup, panels
from .._display.forecast import Forecast, PoolSize, Undone, forecast_of
from .._display.panels import MOST_PAGED, MOST_ROWS, WAITING, Panel, TaskSummary, Totals, rank
from .._display.usage import Used, WorkSums, function_of
from .._types import TaskState
from .future import ContainerFuture, has_ended, number_of, state_soon_of, summary_of, view_of


class Table(Sequence[ContainerFuture[Any]]):
    """A sequence of futures that displays as a table, in a notebook, a terminal or by ``print``."""

    def __init__(self, futures: Iterable[ContainerFuture[Any]], *, ordered: bool = False) -> None:
        self._futures, self._ordered = tuple(futures), ordered
        for future in self._futures:
            if not isinstance(future, ContainerFuture):
                raise TypeError(f"a table shows futures of a container pool, not {future!r}")

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
            return Table(self._futures[index], ordered=self._ordered)
        return self._futures[index]

    def sort_by(self, column: str, *, ascending: bool = False) -> Table:
        """Return a table of the same futures in another order, which is also that of its display.

        Otherwise a display shows failures first, then what runs, what has ended, and what waits;
        in each group, the latest first. It shows the first 12 futures. To see the next ones, take
        a slice: ``table(futures).sort_by("compute")[12:24]``.

        Args:
            column: a key of `status`. Futures for which it is not known come last.
            ascending: if True, the smallest value comes first.

        Raises:
            ValueError: there is no such column.
        """
        rows = [(future, summary_of(future)) for future in self._futures]
        if column not in panels.COLUMNS:
            raise ValueError(f"there is no column {column!r}: {', '.join(panels.COLUMNS)}")
        known = [row for row in rows if getattr(row[1], column) is not None]
        known.sort(key=lambda row: getattr(row[1], column), reverse=not ascending)
        unknown = [row for row in rows if getattr(row[1], column) is None]
        return Table((future for future, _ in known + unknown), ordered=True)

    def status(self) -> list[dict[str, Any]]:
        """Like `ContainerPoolExecutor.status`, of these futures."""
        return panels.records(self._panel().summaries)

    def _panel(self, most: int = MOST_ROWS) -> Panel:
        del most  # all are known one by one
        summaries = list(map(summary_of, self._futures))
        title = f"{len(summaries):,} futures"
        return panels.panel_of(title, summaries, time.time(), self._ordered)

    def _is_over(self) -> bool:
        return all(map(has_ended, self._futures))

    def __repr__(self) -> str:
        """Several lines, as wide as the terminal."""
        return panels.text(self._panel(), shutil.get_terminal_size().columns)

    def _repr_html_(self) -> str:
        """For notebooks."""
        return markup.html(self._panel(), MOST_PAGED)

    def _ipython_display_(self) -> None:
        """For notebooks, where it changes."""
        live.show_live(self, keep=True)


def table(futures: Iterable[ContainerFuture[Any]]) -> Table:
    """Show futures as a table: counts, a bar, times, peak memory, and why calls have failed.

    It makes no request. What it returns is also a sequence of the futures.

    Raises:
        TypeError: one of them is not a `ContainerFuture`.
    """
    return Table(futures)


class EndedTasks:
    """Sums of tasks that have ended, and in `work`, if there is one, what they took; all threads
    may use it.
    """

    def __init__(self, work: WorkSums | None = None) -> None:
        self._work = work
        self._uncounted: deque[TaskSummary] = deque()
        # Guards the sums, and what is taken from those that are not counted yet; arithmetic only.
        self._lock = threading.RLock()
        self._counting = False
        self._totals = Totals()
        self._span: tuple[float, float] | None = None

    def count(self, summary: TaskSummary) -> None:
        """One has ended like this."""
        self._uncounted.append(summary)
        if len(self._uncounted) > 1000 and self._lock.acquire(blocking=False):
            try:
                self._sum_up()
            finally:
                self._lock.release()

    def sums(self) -> tuple[Totals, tuple[float, float] | None]:
        """The sums, and from when to when these tasks were there, in seconds since the epoch."""
        with self._lock:
            self._sum_up()
            return self._totals.copy(), self._span

    def work(self) -> WorkSums:
        """What they took, as it is now."""
        with self._lock:
            self._sum_up()
            return WorkSums() if self._work is None else self._work.copy()

    def _sum_up(self) -> None:
        """Under the lock."""
        if self._counting:  # this thread does so already: a signal's handler looks at us
            return
        self._counting = True
        try:
            while self._uncounted:
                summary = self._uncounted.popleft()
                self._totals.add(summary)
                if self._work is not None:
                    self._work.add(summary)
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
        # nothing waits here, not even a future that ends while a handler looks.
        self._futures: weakref.WeakValueDictionary[int, ContainerFuture[Any]] = (
            weakref.WeakValueDictionary()
        )
        self._ended = EndedTasks(WorkSums())
        self.count, self.work = self._ended.count, self._ended.work

    def add(self, future: ContainerFuture[Any]) -> None:
        """Take in a new one. The pool holds it until it has ended; we do not."""
        self._futures[number_of(future)] = future

    def futures(self) -> list[ContainerFuture[Any]]:
        """Those that the user holds, in the order of their submission."""
        alive = (reference() for reference in self._futures.valuerefs())
        found = [future for future in alive if future is not None]
        return sorted(found, key=number_of)

    def summaries(self) -> list[TaskSummary]:
        """How those are that the user holds, one by one."""
        return list(map(summary_of, self.futures()))

    def forecast(self, used: Used, size: PoolSize) -> Forecast | None:
        """When all will be done, if that can be told; `used` by the containers up to now."""
        now, undone = time.time(), dict[str, Undone]()
        for future in self.futures():
            if not has_ended(future):
                tasks = undone.setdefault(function_of(future.task), Undone())
                view = view_of(future)
                if view.state is TaskState.RUNNING and view.running_since is not None:
                    tasks.running.append(max(0.0, now - view.running_since))
                else:
                    tasks.waiting += 1
        done = self._ended.sums()[0].done
        return forecast_of(undone, done, self._ended.work(), used, size, now)

    def totals(self) -> Totals:
        """All tasks in numbers."""
        return self.panel("").totals

    def panel(self, title: str, waiting: str = "", most: int = MOST_ROWS) -> Panel:
        """All tasks in numbers, and `most` of those that the user holds one by one; `waiting` is
        what those wait for that no container has begun.
        """
        return panel_of(title, self._ended, self.futures(), waiting, most)


def panel_of(
    title: str,
    ended: EndedTasks,
    futures: Iterable[ContainerFuture[Any]],
    waiting: str = "",
    most: int = MOST_ROWS,
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
        most, futures, key=lambda future: rank(state_soon_of(future), number_of(future))
    )
    summaries = tuple(map(summary_of, listed))
    waiting = waiting if any(totals.counts[state] for state in WAITING) else ""
    return Panel(title, totals, summaries, max(0.0, end - begin), waiting)
