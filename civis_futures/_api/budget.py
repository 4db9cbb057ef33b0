"""What we may ask of the platform, and when: a log of what was sent, and what it said of its limit;
and what time it is there.

Arithmetic only. This module must not know what a request is, send one, or wait: it says how long.
"""

from __future__ import annotations

import email.utils
import math
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping
from datetime import UTC
from enum import Enum

#: The share of the general budget that looks must leave to starts, sends and cancels. It is small:
#: when workers have spent all the rest, a pool that may not look has to wait for minutes.
KEPT_FROM_LOOKS = 0.02
#: A limit from here on is no limit: nothing is counted any more.
UNLIMITED = 1_000_000
#: Seconds that a ``Retry-After`` is obeyed at the most, whatever it says.
LONGEST_RETRY_AFTER = 3600.0


class Kind(Enum):
    """What a request spends: the general budget, a run start as well, or only what is spare."""

    GENERAL = "general"
    RUN = "run"
    LOOK = "look"


class RateBudget:
    """Never more than `limit` requests, and `runs` run starts, in any `window` of seconds.

    A log of what was sent, not a bucket: Platform counts by window, and a bucket would let twice
    the limit through in some of them. (pyrate-limiter has neither the priority of starts over
    looks nor a way to learn from response headers, and keeps a thread of its own.)

    Whether a run start counts against the general limit too is not documented; it does here,
    unless `starts_count` is False.
    """

    def __init__(
        self,
        limit: int = 1000,
        runs: int = 100,
        window: float = 300.0,
        clock: Callable[[], float] = time.monotonic,
        starts_count: bool = True,
    ) -> None:
        if limit < 1 or runs < 1 or window <= 0:
            raise ValueError("a budget has at least one request, one run start, and some time")
        self._run_limit = runs
        self._starts_count = starts_count
        self._window = window
        self._clock = clock
        # Guards all that follows. Held for arithmetic only: who must wait does so outside.
        # Reentrant, since a signal's handler may ask, too.
        self._lock = threading.RLock()
        self._limit = limit
        self._sent: deque[float] = deque()
        self._sent_runs: deque[float] = deque()
        self._reported = 0.0  # what the platform said was left, less what we sent since
        self._reported_at = -math.inf
        self._requests = 0

    @property
    def pace(self) -> float:
        """Seconds per request that we can afford now; 0.0 when there is no limit.

        Half of what is left, spread over a window: the fresh budget is spent faster than it comes
        back, the last of it slower, and in the long run half of it is kept.
        """
        with self._lock:
            if self._limit >= UNLIMITED:
                return 0.0
            now = self._clock()
            self._forget(now)
            left = float(self._limit - len(self._sent))
            age = now - self._reported_at
            if age < self._window:
                left = min(left, self._reported + age * self._limit / self._window)
            return self._window / (2 * max(left, 1.0))

    def delay(self, kind: Kind) -> float:
        """Seconds until such a request may go. 0.0 is now, and has spent what it needs."""
        with self._lock:
            if self._limit >= UNLIMITED:
                self._requests += 1
                return 0.0
            now = self._clock()
            self._forget(now)
            kept = int(self._limit * KEPT_FROM_LOOKS) if kind is Kind.LOOK else 0
            counts = kind is not Kind.RUN or self._starts_count
            wait = 0.0
            if counts:
                wait = self._wait(self._sent, self._limit - kept, now)
                wait = max(wait, self._wait_by_report(1 + kept, now))
            if kind is Kind.RUN:
                wait = max(wait, self._wait(self._sent_runs, self._run_limit, now))
            if wait > 0:
                return max(wait, 0.001)  # or rounding would make threads spin
            self._requests += 1
            if counts:
                self._sent.append(now)
                self._reported -= 1
            if kind is Kind.RUN:
                self._sent_runs.append(now)
            return 0.0

    @property
    def requests(self) -> int:
        """How many have gone so far."""
        with self._lock:
            return self._requests

    @property
    def next_start(self) -> float:
        """Seconds until the next run may start, as far as the limit of starts goes."""
        with self._lock:
            now = self._clock()
            self._forget(now)
            return max(self._wait(self._sent_runs, self._run_limit, now), 0.0)

    def observe(self, limit: int, remaining: int) -> None:
        """Learn from a response's headers: others spend the same budget, and it may change.

        Not to be called for the response of a run start: it may speak of the run limit.
        """
        if limit < 1 or not 0 <= remaining <= limit:
            return
        with self._lock:
            self._limit = limit
            if limit >= UNLIMITED:
                self._sent.clear()
                self._sent_runs.clear()
            self._reported, self._reported_at = remaining, self._clock()

    def _forget(self, now: float) -> None:
        """What was sent a window ago does not count any more."""
        for log in (self._sent, self._sent_runs):
            while log and log[0] <= now - self._window:
                log.popleft()

    def _wait(self, log: deque[float], limit: int, now: float) -> float:
        """Until `log` has room for one more below `limit`."""
        excess = len(log) - limit
        return log[excess] + self._window - now if excess >= 0 else 0.0

    def _wait_by_report(self, needed: int, now: float) -> float:
        """Until the last report, with a linear regain, allows `needed`.

        It says nothing once it is a window old. Nor does it ask for more than that: what it could
        ask beyond, we have sent since, and our own log asks it too.
        """
        age = now - self._reported_at
        if age >= self._window:
            return 0.0
        pace = self._window / self._limit
        missing = needed - (self._reported + age / pace)
        return missing * pace


class PlatformClock:
    """What time it is on a platform, in seconds since the epoch: by the ``Date`` of its answers.

    That has whole seconds. So each says when a second had begun at the latest, and the one that
    came soonest after that tells the most: after some answers, the time is right to a fraction.

    This machine's own clock may be wrong by any time, or stand still in a test. It is asked only as
    long as no answer has had a date. Threads may share one.
    """

    def __init__(
        self,
        clock: Callable[[], float] = time.monotonic,
        here: Callable[[], float] = lambda: time.time(),
    ) -> None:
        self._clock = clock
        self._here = here
        self._ahead: float | None = None  # of `clock`

    def observe(self, headers: Mapping[str, str], took: float = 0.0) -> None:
        """Learn from the headers of an answer that has just come, `took` seconds after its request
        was sent.
        """
        date = _http_date(headers.get("Date", ""))
        # The year 2200: what is later is not believed.
        if date is not None and 0.0 < date < 7_258_118_400.0:
            least, known = date - self._clock(), self._ahead
            behind = known is None or known > least + took + 1.0  # or its clock was set back
            self._ahead = least if known is None or behind else max(known, least)

    @property
    def ahead(self) -> float:
        """How many seconds it is ahead of `clock`."""
        return self.now() - self._clock()

    def now(self) -> float:
        """The time there; right to a second, and to less after some answers."""
        return self._here() if self._ahead is None else self._clock() + self._ahead


_clocks: dict[str, PlatformClock] = {}


def platform_clock(url: str) -> PlatformClock:
    """The clock of the platform at this address, for all of this process."""
    return _clocks.setdefault(url, PlatformClock())


def retry_after(headers: Mapping[str, str], now: Callable[[], float] = time.time) -> float:
    """The seconds that ``Retry-After`` asks for, by a number or a date; 0.0 if there is none. A
    date is compared with the answer's own, or else with `now`.

    If an answer asks for more, `LONGEST_RETRY_AFTER` is obeyed.
    """
    text = headers.get("Retry-After", "").strip()
    try:
        seconds = float(text)
    except ValueError:
        then, date = _http_date(text), _http_date(headers.get("Date", ""))
        seconds = 0.0 if then is None else then - (now() if date is None else date)
    return min(max(seconds, 0.0), LONGEST_RETRY_AFTER) if math.isfinite(seconds) else 0.0


def _http_date(text: str) -> float | None:
    """Seconds since the epoch, or None if this is no date that there can be."""
    try:
        date = email.utils.parsedate_to_datetime(text)
        return (date if date.tzinfo else date.replace(tzinfo=UTC)).timestamp()
    except (ValueError, TypeError, IndexError, OverflowError):
        return None
