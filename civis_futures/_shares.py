"""How many calls a worker gets at a time, and when one takes some of another's. Pure arithmetic.

A request costs more than many a call, so a worker gets as many calls as keep it busy until it can
get more, and not more than its share of what is left, so that all end together. That is a guess;
where it was wrong, workers that run out take over what others have not begun.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

#: As long as nobody knows how long calls take, a worker gets its share, up to so many.
BLIND = 100
#: The shortest call that is believed, in seconds.
SHORTEST_CALL = 1e-4


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
