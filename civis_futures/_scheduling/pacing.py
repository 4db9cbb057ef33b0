"""When to ask again, and when no more: pauses between looks and after failures. And how many calls
a worker gets at a time. Pure arithmetic.

A request costs more than many a call, so a worker gets as many calls as keep it busy until it can
get more, and not more than its share of what is left, so that all end together. That is a guess;
where it was wrong, workers that run out take over what others have not begun.

Time and chance are arguments; this room knows no other.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

#: Bounds of the pause between two looks, in seconds; in between the budget decides.
SHORTEST_LOOK, LONGEST_LOOK = 0.05, 60.0
#: A fresh budget affords a look every so many requests' worth of time (1 s at 1,000 per 300 s).
LOOK_PACE = 20 / 3
#: Looks that were not made are saved, up to so many, and may then be made ahead of that pace: the
#: first so many seconds after news, and then after so many times longer each time. So what is short
#: is not waited for for long, as one call of joblib's after the other; and it costs no more than
#: these looks.
SAVED_LOOKS, QUICK_LOOK, QUICK_GROWTH = 40.0, 0.1, 1.5
#: While nothing happens each pause is so much longer than the last, up to so many first pauses.
LOOK_GROWTH, LOOK_STRETCH = 1.25, 15.0
#: So many failures in a row of one kind of request to the platform break the pool.
HOPE = 5
#: So many containers in a row that never start, before any has, break the pool.
FALSE_STARTS = 2
#: A platform that has not answered any look for so long, in seconds, is gone for good.
OUTAGE = 3600.0
#: When only the end of containers is waited for, and for so many seconds no look has brought
#: anything, the waiting ends; sooner if there is nobody to answer it (True).
LAST_PATIENCE = {False: 75.0, True: 8.0}
#: Bounds of the pause after a failure, in seconds, before jitter.
FIRST_BACKOFF, LONGEST_BACKOFF = 1.0, 60.0
#: One part in so many of the budget is for the workers' looks at the inbox, and as much for their
#: answers.
INBOX_SHARE, ANSWER_SHARE = 4, 4
#: Bounds of a worker's pause between two looks at the inbox, in seconds.
SHORTEST_POLL, LONGEST_POLL = 0.25, 30.0
#: Bounds of the time that an answer waits for others, in seconds.
SHORTEST_LINGER, LONGEST_LINGER = 0.5, 30.0
#: How many containers may start before one of them has shown that it can do the work; and twice
#: as many after each of so many seconds.
PROBES, PROBE_SECONDS = 2, 5.0
#: A worker that has run for so many seconds, and said nothing, has reached the user's code.
PROOF_SECONDS = 2.0

#: As long as nobody knows how long calls take, a worker gets its share, up to so many.
BLIND = 100
#: The shortest call that is believed, in seconds.
SHORTEST_CALL = 1e-4


def backoff(failures: int, chance: float) -> float:
    """Seconds to wait after so many failures in a row; `chance` in [0, 1) spreads them."""
    return float(min(FIRST_BACKOFF * 2.0 ** (failures - 1), LONGEST_BACKOFF)) * (0.5 + chance)


def poll(readers: int, pace: float) -> float:
    """How long a worker may pause between two looks at the inbox: by budget, not by taste."""
    return min(max(SHORTEST_POLL, readers * pace * INBOX_SHARE), LONGEST_POLL)


def linger(readers: int, pace: float) -> float:
    """How long an answer may wait for others: a post takes two requests."""
    return min(max(SHORTEST_LINGER, 2 * readers * pace * ANSWER_SHARE), LONGEST_LINGER)


@dataclass(slots=True)
class RetriedRequest:
    """A request that must not be in flight twice, and its failures in a row."""

    busy: bool = False
    failures: int = 0
    not_before: float = 0.0
    failed_at: float = 0.0
    error: str = ""  # of the last one

    def fail(self, now: float, chance: float, error: str = "") -> None:
        """It failed: the next one waits, longer each time."""
        self.busy = False
        self.error = error
        self.failed_at = now
        self.failures += 1
        self.not_before = now + backoff(self.failures, chance)


@dataclass(slots=True)
class Pause:
    """The pause between looks: short after news, longer while nothing happens, always so long
    that the budget can pay for it.

    `saved` are looks that may be made ahead of the pace, as of `counted_at`.
    """

    shortest: float = SHORTEST_LOOK
    length: float = SHORTEST_LOOK
    at: float = 0.0
    saved: float = 0.0
    counted_at: float = 0.0

    def after(self, now: float, *, news: bool, cost: int, pace: float) -> None:
        """A look of `cost` requests is over; `pace` is seconds per request that we can afford."""
        self.shortest = min(max(SHORTEST_LOOK, LOOK_PACE * pace), LONGEST_LOOK)
        # Half of the budget is for looks; the workers' own requests come out of the other half.
        least = max(self.shortest, 2 * cost * pace)
        self.saved = min(self.saved + (now - self.counted_at) / self.shortest, SAVED_LOOKS) - cost
        self.counted_at = now
        first = self.first(least)
        growth = LOOK_GROWTH if self.length >= least else QUICK_GROWTH
        grown = first if news else max(first, self.length * growth)
        self.length = min(grown, max(least, self.shortest * LOOK_STRETCH), LONGEST_LOOK)
        self.at = now + self.length

    def first(self, least: float) -> float:
        """The first pause after news, where `least` is what the pace allows."""
        return min(least, QUICK_LOOK) if self.saved >= 1 else least

    def soon(self, now: float) -> None:
        """Something was done whose effect is worth a look."""
        self.length = self.first(self.shortest)
        at = now + self.length
        self.at = min(self.at, at) if self.at > now else at


@dataclass(slots=True)
class Ramp:
    """How wide a pool may be while nobody knows whether its containers can do the work at all.

    An image without the needed module fails each call in the same way, and the first two tell.
    But who waits for an answer before starting the rest makes everybody wait twice for a start;
    so the width grows with time, too.
    """

    proven: bool = False
    unfit: bool = False
    begun: float | None = None

    def start(self, now: float) -> None:
        """A container is started."""
        if self.begun is None:
            self.begun = now

    def width(self, now: float) -> tuple[int, float | None]:
        """How many containers there may be as long as nothing is proven; when it may be more."""
        if self.begun is None or self.unfit:
            return PROBES, None
        steps = int((now - self.begun) / PROBE_SECONDS + 1e-6)  # or it might wake a hair too soon
        return PROBES * 2 ** min(steps, 30), self.begun + (steps + 1) * PROBE_SECONDS


@dataclass(slots=True)
class Shares:
    """What is known of how long calls take: `seconds` for one, None before the first answer."""

    seconds: float | None = None

    def learn(self, durations: list[float]) -> None:
        """So long did calls take that were answered."""
        if durations:
            mean = max(sum(durations) / len(durations), SHORTEST_CALL)
            self.seconds = mean if self.seconds is None else (self.seconds + mean) / 2

    def number(self, fair: int, horizon: float) -> int:
        """How many calls a worker may hold whose fair share this is, if more can come after
        `horizon` seconds.
        """
        useful = BLIND if self.seconds is None else math.ceil(horizon / self.seconds)
        return max(1, min(fair, useful))

    def surplus(self, unbegun: int, age: float, horizon: float) -> int:
        """How many of the calls that a worker has not begun are better done by one that is idle.

        `age` is how many seconds ago it was heard of; a part of that is the way of the news. What
        it will have done before they are there is not worth the move.
        """
        each = max(self.seconds or 0.0, age - horizon)
        return math.ceil(unbegun / 2) if unbegun * each > horizon else 0
