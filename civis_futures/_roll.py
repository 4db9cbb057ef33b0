"""The roll of one executor: its futures that somebody holds, and sums of all that have ended.

So its size is bounded by what the user holds and by what has not ended. It knows futures and how
they are shown; it must not know executors, since it outlives them with the futures that count here.
"""

from __future__ import annotations

import threading
import time
import weakref
from typing import Any

from ._display import Glance, Panel, Totals
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

    def panel(self, title: str) -> Panel:
        """All tasks in numbers, and those that somebody holds one by one."""
        glances = []
        with self._lock:
            totals, span = self._ended.copy(), self._span
        active = False
        for future in self.futures():
            glance = future._glance()
            glances.append(glance)
            if future._ended is None:
                active = True
                totals.add(glance)
                span = (min(span[0], glance.submitted), span[1]) if span else (glance.submitted, 0)
        elapsed = 0.0 if span is None else (time.time() if active else span[1]) - span[0]
        return Panel(title, totals, tuple(glances), max(0.0, elapsed))

    def totals(self) -> Totals:
        """All tasks in numbers."""
        with self._lock:
            totals = self._ended.copy()
        for future in self.futures():
            if future._ended is None:
                totals.add(future._glance())
        return totals
