"""The roll of one executor: its futures that somebody holds, and sums of all that have ended.

So its size is bounded by what the user holds and by what has not ended. It knows futures and how
they are shown; it must not know executors, since it outlives them with the futures that count here.
"""

from __future__ import annotations

import threading
import time
import weakref
from heapq import nsmallest
from typing import Any

from ._display import MOST_ROWS, WAITING, Glance, Panel, Totals, rank
from ._future import ContainerFuture


class Roll:
    """Which tasks there are, were, and how they ended; all threads may use it."""

    def __init__(self) -> None:
        # Guards the three below; arithmetic only. Reentrant, since a future may be cancelled by
        # the collection of what held it, on whatever thread that happens.
        self._lock = threading.RLock()
        self._futures: weakref.WeakSet[ContainerFuture[Any]] = weakref.WeakSet()
        self._ended = Totals()
        self._span: tuple[float, float] | None = None

    def add(self, future: ContainerFuture[Any]) -> None:
        """Take in a new one. The pool holds it until it has ended; we do not."""
        with self._lock:
            self._futures.add(future)

    def count(self, glance: Glance) -> None:
        """One has ended like this."""
        with self._lock:
            self._ended.add(glance)
            begin, end = glance.submitted, glance.submitted + glance.elapsed
            if self._span is not None:
                begin, end = min(begin, self._span[0]), max(end, self._span[1])
            self._span = begin, end

    def futures(self) -> list[ContainerFuture[Any]]:
        """Those that somebody holds, in the order of their submission."""
        with self._lock:
            held = list(self._futures)
        return sorted(held, key=lambda future: future._number)

    def glances(self) -> list[Glance]:
        """How those are that somebody holds, one by one."""
        return [future._glance() for future in self.futures()]

    def totals(self) -> Totals:
        """All tasks in numbers."""
        return self.panel("").totals

    def panel(self, title: str, waiting: str = "") -> Panel:
        """All tasks in numbers, and some of those that somebody holds one by one; `waiting` is what
        those wait for that no container has begun.
        """
        now = time.time()
        with self._lock:
            totals, span = self._ended.copy(), self._span
        futures = self.futures()
        begin, end = span or (now, now)
        for future in futures:
            if future._ended is None:  # without a glance each: there may be many thousands
                state, submitted = future._state_soon, future._view.timings.submitted
                totals.counts[state] += 1
                totals.queue += now - submitted if state in WAITING else 0.0
                begin, end = min(begin, submitted), now
        listed = nsmallest(
            MOST_ROWS, futures, key=lambda future: rank(future._state_soon, future._number)
        )
        glances = tuple(future._glance() for future in listed)
        waiting = waiting if any(totals.counts[state] for state in WAITING) else ""
        return Panel(title, totals, glances, max(0.0, end - begin), waiting)
