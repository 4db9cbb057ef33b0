"""Pools of this process that share a platform: who waits there for room, and who could make some.

Containers without work keep their place for the `idle_timeout` of their pool. Where the platform is
full, that keeps others out; so a pool whose containers wait for their start says so to the others,
and these let idle containers go. It knows no pool: only what to call.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from dataclasses import dataclass, field

#: A container waits for room when it has been queued for so many seconds, and for so many times
#: what containers of this platform take to start.
PATIENCE, STARTS = 5.0, 2.0


@dataclass(eq=False)
class CrowdMember:
    """One pool's place in the crowd. `tell` is called, on any thread, with the time since when
    (monotonic, seconds) others wait, or None if they do not.
    """

    crowd: Crowd
    tell: Callable[[float | None], None]
    waits_since: float | None = None

    def update(self, since: float | None, now: float, startup: float) -> None:
        """Since when a container with work is queued, if one is; and how many seconds a start takes
        (0.0: nobody knows).
        """
        self.crowd.update(self, since, now, startup)

    def leave(self) -> None:
        """The pool has ended."""
        self.crowd.leave(self)


@dataclass(eq=False)
class Crowd:
    """The pools on one platform."""

    _places: list[CrowdMember] = field(default_factory=list)
    _startup: float = 0.0
    # Guards the two above. `tell` puts an event into a queue, so it may be called under it.
    _lock: threading.RLock = field(default_factory=threading.RLock)

    def join(self, tell: Callable[[float | None], None]) -> CrowdMember:
        """A new pool."""
        place = CrowdMember(self, tell)
        with self._lock:
            self._places.append(place)
            if (since := self._others_wait(place)) is not None:
                tell(since)
        return place

    def update(self, place: CrowdMember, since: float | None, now: float, startup: float) -> None:
        """See `Place.update`."""
        self._startup = startup or self._startup
        patience = max(PATIENCE, STARTS * self._startup)
        waits_since = since if since is not None and now - since > patience else None
        if waits_since != place.waits_since:
            with self._lock:
                self._change(place, waits_since)

    def leave(self, place: CrowdMember) -> None:
        """See `Place.leave`."""
        with self._lock:
            self._change(place, None)
            self._places.remove(place)

    def _change(self, place: CrowdMember, waits_since: float | None) -> None:
        if waits_since == place.waits_since:
            return
        place.waits_since = waits_since
        for other in self._places:
            if other is not place:
                other.tell(self._others_wait(other))

    def _others_wait(self, place: CrowdMember) -> float | None:
        """Since when any other pool waits: the last that began to."""
        times = [each.waits_since for each in self._places if each is not place]
        return max((time for time in times if time is not None), default=None)


_crowds: dict[tuple[int, str], Crowd] = {}


def crowd(platform: str) -> Crowd:
    """The pools of this process on this platform; a fork begins with none."""
    return _crowds.setdefault((os.getpid(), platform), Crowd())
