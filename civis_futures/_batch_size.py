"""How many items a batch should have, by the compute that items took so far: arithmetic.

Guided by what is measured in the container, since the wait for one is no work. Knows no other room.
"""

from __future__ import annotations

#: Seconds of compute that a batch should take: some ten times what a call costs besides.
BATCH_SECONDS = 2.0
#: Nothing is taken for quicker than that, in seconds.
LEAST_SECONDS = 1e-4


class BatchSize:
    """The size for the next batch is `items`, 1 at first; it learns by `took`."""

    def __init__(self) -> None:
        self.items = 1
        self._seconds = 0.0  # of one item, smoothed

    def took(self, items: int, compute: float) -> None:
        """A batch of so many items took so many seconds of compute."""
        seconds = max(compute / items, LEAST_SECONDS)
        self._seconds = 0.7 * self._seconds + 0.3 * seconds if self._seconds else seconds
        ideal = int(BATCH_SECONDS / self._seconds)
        # Twice what was measured, at the most: the first items may not be like the others.
        self.items = max(1, min(ideal, max(self.items, 2 * items)))
