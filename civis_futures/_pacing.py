"""When to ask again, and when no more: pauses between looks and after failures. Pure arithmetic.

Time and chance are arguments; this room knows no other.
"""

from __future__ import annotations

from dataclasses import dataclass

#: Bounds of the pause between two looks, in seconds; in between the budget decides.
SHORTEST_LOOK, LONGEST_LOOK = 0.05, 60.0
#: A fresh budget affords a look every so many requests' worth of time (1 s at 1,000 per 300 s).
LOOK_PACE = 10 / 3
#: While nothing happens each pause is so much longer than the last, up to so many first pauses.
LOOK_GROWTH, LOOK_STRETCH = 1.25, 15.0
#: So many failures in a row of one kind of request to the platform break the pool.
HOPE = 5
#: A platform that has not answered any look for so long, in seconds, is gone for good.
OUTAGE = 3600.0
#: When only the end of containers is waited for, so many failed looks in a row end the waiting.
LAST_LOOKS = 4
#: Bounds of the pause after a failure, in seconds, before jitter.
FIRST_BACKOFF, LONGEST_BACKOFF = 1.0, 60.0


def backoff(failures: int, chance: float) -> float:
    """Seconds to wait after so many failures in a row; `chance` in [0, 1) spreads them."""
    return float(min(FIRST_BACKOFF * 2.0 ** (failures - 1), LONGEST_BACKOFF)) * (0.5 + chance)


@dataclass(slots=True)
class Attempts:
    """A request that must not be in flight twice, and its failures in a row."""

    busy: bool = False
    failures: int = 0
    not_before: float = 0.0

    def fail(self, now: float, chance: float) -> None:
        """It failed: the next one waits, longer each time."""
        self.busy = False
        self.failures += 1
        self.not_before = now + backoff(self.failures, chance)


@dataclass(slots=True)
class Pause:
    """The pause between looks: short after news, longer while nothing happens, always so long
    that the budget can pay for it.
    """

    shortest: float = SHORTEST_LOOK
    length: float = SHORTEST_LOOK
    at: float = 0.0

    def after(self, now: float, *, news: bool, cost: int, pace: float) -> None:
        """A look of `cost` requests is over; `pace` is seconds per request that we can afford."""
        self.shortest = min(max(SHORTEST_LOOK, LOOK_PACE * pace), LONGEST_LOOK)
        # Half of the budget is for looks; the workers' own requests come out of the other half.
        least = max(self.shortest, 2 * cost * pace)
        grown = least if news else max(least, self.length * LOOK_GROWTH)
        self.length = min(grown, max(least, self.shortest * LOOK_STRETCH), LONGEST_LOOK)
        self.at = now + self.length

    def soon(self, now: float) -> None:
        """Something was done whose effect is worth a look."""
        self.length = self.shortest
        at = now + self.shortest
        self.at = min(self.at, at) if self.at > now else at
