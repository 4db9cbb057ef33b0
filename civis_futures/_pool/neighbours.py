"""Pools of this process that share a platform: which wait there for room, and which could make
some.

Containers without work keep their place for the `idle_timeout` of their pool. Where the platform is
full, that keeps others out; so a pool whose containers wait for their start says so to the others,
and these let idle containers go. It knows no pool: only what to call.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from dataclasses import dataclass, field

#: A container waits for room when it has been queued for PATIENCE seconds, and for STARTS times as
#: long as containers of this platform take to start.
PATIENCE, STARTS = 5.0, 2.0


@dataclass(eq=False)
class Neighbour:
    """One pool among its neighbours. `tell` is called, on any thread, with the time (monotonic, in
    seconds) since when another pool waits for room, or None if none does.
    """

    neighbours: Neighbours
    tell: Callable[[float | None], None]
    waits_since: float | None = None

    def update(self, since: float | None, now: float, startup: float) -> None:
        """Since when a container with work is queued, if one is; and how many seconds a start takes
        (0.0: not known yet).
        """
        self.neighbours.update(self, since, now, startup)

    def leave(self) -> None:
        """The pool has ended."""
        self.neighbours.leave(self)


@dataclass(eq=False)
class Neighbours:
    """The pools on one platform."""

    _pools: list[Neighbour] = field(default_factory=list)
    _startup: float = 0.0  # seconds that a container takes to start, as was seen
    # Guards the two above. `tell` puts an event into a queue, so it may be called under it.
    _lock: threading.RLock = field(default_factory=threading.RLock)

    def join(self, tell: Callable[[float | None], None]) -> Neighbour:
        """A new pool."""
        pool = Neighbour(self, tell)
        with self._lock:
            self._pools.append(pool)
            if (since := self._others_wait(pool)) is not None:
                tell(since)
        return pool

    def update(self, pool: Neighbour, since: float | None, now: float, startup: float) -> None:
        """See `Neighbour.update`."""
        self._startup = startup or self._startup
        patience = max(PATIENCE, STARTS * self._startup)
        waits_since = since if since is not None and now - since > patience else None
        if waits_since != pool.waits_since:
            with self._lock:
                self._change(pool, waits_since)

    def leave(self, pool: Neighbour) -> None:
        """See `Neighbour.leave`."""
        with self._lock:
            self._change(pool, None)
            self._pools.remove(pool)

    def _change(self, pool: Neighbour, waits_since: float | None) -> None:
        if waits_since == pool.waits_since:
            return
        pool.waits_since = waits_since
        for other in self._pools:
            if other is not pool:
                other.tell(self._others_wait(other))

    def _others_wait(self, pool: Neighbour) -> float | None:
        """Since when any other pool waits: the last that began to."""
        times = [each.waits_since for each in self._pools if each is not pool]
        return max((time for time in times if time is not None), default=None)


_all_neighbours: dict[tuple[int, str], Neighbours] = {}


def neighbours(platform: str) -> Neighbours:
    """The pools of this process on this platform; a fork begins with none."""
    return _all_neighbours.setdefault((os.getpid(), platform), Neighbours())
