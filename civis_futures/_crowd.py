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
#: what containers of this platform have taken to start.
PATIENCE, STARTS = 5.0, 2.0


@dataclass(eq=False)
class Place:
    """One pool's place in the crowd. `tell` is called, on any thread, with whether others wait."""

    crowd: Crowd
    tell: Callable[[bool], None]
    waits: bool = False

    def update(self, waited: float, startup: float) -> None:
        """For how many seconds a container with work has been queued (0.0: there is none), and
        what the quickest start took (0.0: nobody knows).
        """
        self.crowd.update(self, waited, startup)

    def leave(self) -> None:
        """The pool has ended."""
        self.crowd.leave(self)


@dataclass(eq=False)
class Crowd:
    """The pools on one platform."""

    _places: list[Place] = field(default_factory=list)
    _startup: float = 0.0
    # Guards the two above. `tell` puts an event into a queue, so it may be called under it.
    _lock: threading.RLock = field(default_factory=threading.RLock)

    def join(self, tell: Callable[[bool], None]) -> Place:
        """A new pool."""
        place = Place(self, tell)
        with self._lock:
            if any(other.waits for other in self._places):
                tell(True)
            self._places.append(place)
        return place

    def update(self, place: Place, waited: float, startup: float) -> None:
        """See `Place.update`."""
        if startup and (not self._startup or startup < self._startup):
            self._startup = startup
        waits = waited > max(PATIENCE, STARTS * self._startup)
        if waits != place.waits:
            with self._lock:
                self._change(place, waits)

    def leave(self, place: Place) -> None:
        """See `Place.leave`."""
        with self._lock:
            self._change(place, waits=False)
            self._places.remove(place)

    def _change(self, place: Place, waits: bool) -> None:
        if waits == place.waits:
            return
        place.waits = waits
        for other in self._places:
            if other is not place:
                other.tell(any(each.waits for each in self._places if each is not other))


_crowds: dict[tuple[int, str], Crowd] = {}


def crowd(platform: str) -> Crowd:
    """The pools of this process on this platform; a fork begins with none."""
    return _crowds.setdefault((os.getpid(), platform), Crowd())
