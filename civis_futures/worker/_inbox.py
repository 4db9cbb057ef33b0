"""The worker's look into the pool's inbox: how often, what counts as news, when to give it up.

It knows nothing of calls but that letters hold them.
"""

from __future__ import annotations

import time

from .. import _wire
from ._http import RefusedError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from ._platform import Platform

# Seconds, of a worker that looks often; others start at a part of `poll`. A smaller part would
# spend on idle looks, between two calls, what the client needs for its own.
_FIRST_PAUSE = 0.05
_PART_OF_POLL = 1 / 6
_GROWTH = 1.3
_REFUSALS = 5  # in a row, after which the inbox is taken for lost


class Inbox:
    """One worker's view of the JSON value `value_id`."""

    def __init__(self, platform: Platform, value_id: int, order: _wire.Order) -> None:
        self._platform = platform
        self._id = value_id
        self._worker = order.worker
        self._lease = order.lease
        self._poll = order.poll
        self._content: Any = None
        self._refused = 0
        self.restart()

    def restart(self) -> None:
        """Look often again, and count silence from now: there was work."""
        self._pause = max(_FIRST_PAUSE, self._poll * _PART_OF_POLL)
        self._heard = time.monotonic()

    @property
    def silent(self) -> bool:
        """Whether nothing at all has been written into the inbox for the whole lease."""
        return time.monotonic() - self._heard > self._lease

    def look(self) -> _wire.Letter | None:
        """After a pause, this worker's letter; None if the inbox holds none or is garbage."""
        time.sleep(min(self._pause, self._poll))
        self._pause = min(self._pause * _GROWTH, self._poll)
        try:
            content = self._platform.json_value(self._id)
        except RefusedError:
            self._refused += 1
            if self._refused >= _REFUSALS:
                raise
            return None
        self._refused = 0
        if content != self._content:
            self._content = content
            self._heard = time.monotonic()
        try:
            inbox = _wire.inbox_from_json(content)
        except _wire.WireError:
            return None
        if isinstance(inbox.poll, (int, float)) and inbox.poll > 0:
            self._poll = inbox.poll
        return inbox.letters.get(self._worker)
