"""The rate limit: the most requests and the most run starts in any window of some seconds.

It counts and says how long to wait; it never waits. Time is an argument.
"""

from __future__ import annotations

import collections
import dataclasses
import math
from collections.abc import Mapping

UNLIMITED = 1_000_000_000  # requests; what the headers say where there is no limit


@dataclasses.dataclass
class _Window:
    limit: int  # requests
    seconds: float  # the length of the window
    moments: collections.deque[float] = dataclasses.field(default_factory=collections.deque)

    def take(self, now: float) -> float | None:
        """Count one request; if the window is full, return the seconds until it is not."""
        while self.moments and self.moments[0] <= now - self.seconds:
            self.moments.popleft()
        if len(self.moments) >= self.limit:
            return self.moments[0] + self.seconds - now if self.moments else self.seconds
        self.moments.append(now)
        return None

    def headers(self) -> dict[str, str]:
        left = max(0, self.limit - len(self.moments))
        return {"X-RateLimit-Limit": str(self.limit), "X-RateLimit-Remaining": str(left)}


class Budget:
    """Two windows: one for requests that create a run, one for all others."""

    def __init__(self, limit: tuple[int, int, float] | None) -> None:
        self._limit = limit
        self.reset()

    def reset(self) -> None:
        """Forget every request so far."""
        general, runs, seconds = self._limit or (UNLIMITED, UNLIMITED, 300.0)
        self._windows = {False: _Window(general, seconds), True: _Window(runs, seconds)}

    def take(self, now: float, *, creates_run: bool) -> tuple[Mapping[str, str], bool]:
        """Return the headers to send, and whether the request may pass."""
        if self._limit is None:
            whole = str(UNLIMITED)
            return {"X-RateLimit-Limit": whole, "X-RateLimit-Remaining": whole}, True
        window = self._windows[creates_run]
        wait = window.take(now)
        if wait is None:
            return window.headers(), True
        return {**window.headers(), "Retry-After": str(max(1, math.ceil(wait)))}, False
