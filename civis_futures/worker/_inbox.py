"""The worker's look into the pool's inbox: how often, what counts as news, when to give it up.

It knows nothing of calls but that letters hold them.
"""

from __future__ import annotations

import time

from .. import _wire
from ._http import TIMEOUT, HttpError, RefusedError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from ._pacing import WorkerPacing
    from ._platform import PlatformRequests

# The first pause between two reads once all calls have ended, in seconds, or if that is longer a
# part of `poll`; then pauses grow. When one would be as long as `poll`, the worker reads at its
# turn: once in each period of `poll` seconds by the platform's clock, so the client knows when. One
# whose calls were the only ones in the inbox does so at once, since the next ones are for others,
# who read sooner; unless the period is short (_SHORT seconds), as it is for few workers.
_FIRST_PAUSE = 0.05
_PART_OF_POLL = 1 / 12
_SHORT = 1.5
# One that has further calls reads once in so many periods, if they are long (`WorkerPacing.calm`).
_BUSY = 2
_LOOKS_PER_LEASE = 4.0
# A look is held for at most this many seconds; and after this many in a row that were cut off, or
# answered without news before their time, looks are not held any more: a proxy between us and the
# platform does not bear it.
_LONGEST_HOLD = TIMEOUT / 2
_CUTS = 3


class InboxReader:
    """One worker's view of the JSON value that the order names."""

    def __init__(
        self, platform: PlatformRequests, order: _wire.Order, pacing: WorkerPacing
    ) -> None:
        assert order.inbox is not None
        self._calm = pacing.calm
        self._platform = platform
        self._id = order.inbox
        self._worker = order.worker
        self._lease = self._own_lease = order.lease
        self._idle = self._own_idle = order.idle or order.lease
        self._poll, self._turn = order.poll, order.turn
        self.linger = order.linger
        self._content: Any = None
        self._letter: _wire.Letter | None = None  # as it was last
        self._said: _wire.Letter | None = None  # what there is to be obeyed in the present content
        self._alone = False  # whether the calls that came last were the only ones in the inbox
        self.known = False  # whether it was ever read
        self.holder = 0  # who had written it then
        self._refused = 0
        self._cuts = 0
        self._looked = time.monotonic()
        self._heard = self._listened()
        self.restart()

    def restart(self) -> None:
        """Look often again: there was work, and now there is none."""
        self._idle_since = time.monotonic()
        self._worked = self._listened()

    def silent(self, idle: bool = False) -> bool:
        """Whether nothing at all has been written into the inbox for the whole lease; or, while the
        worker is `idle`, for as long as a client that is there would not have left it idle.
        """
        now = self._listened()
        if idle and now - max(self._heard, self._worked) > self._idle:
            return True
        return now - self._heard > self._lease

    def _listened(self) -> float:
        """A clock that stands still while the platform cannot be reached: that is no silence."""
        return time.monotonic() - self._platform.http.stalled

    def due_in(self, eager: bool, busy: bool = False) -> float:
        """Seconds until the next look; if not `eager`, there is hardly any news to expect; if
        `busy`, news can wait for our turn.
        """
        calm = min(self._lease / _LOOKS_PER_LEASE, max(self._poll, self._calm))
        since = time.monotonic() - self._looked
        idle = self._looked - self._idle_since
        first = max(_FIRST_PAUSE, self._poll * _PART_OF_POLL)
        pause = abs(idle) + first if eager else calm
        late = busy or pause >= self._poll or (self._alone and self._poll > _SHORT)
        if eager and late:
            looked = self._platform.clock.now() - since
            period = self._poll * (_BUSY if busy and self._poll > self._calm else 1)
            pause = _wire.next_turn(self._turn, period, looked) - looked
        return max(0.0, pause - since)

    def wait(self) -> _wire.Letter | None:
        """`look` as soon as there is news, where the platform offers to say when that is; else when
        it is due. For those who have nothing else to do.
        """
        lease = min(self._lease, self._idle)
        most = min(self._platform.offered, lease / _LOOKS_PER_LEASE, _LONGEST_HOLD)
        if most <= 0 or self._cuts >= _CUTS:
            time.sleep(self.due_in(eager=True))
            return self.look()
        began, http = time.monotonic(), self._platform.http
        try:
            changed, content = self._platform.next_json_value(self._id, most, self._worker)
        except HttpError:
            http.stalled += time.monotonic() - began
            stalled = http.stalled
            letter = self.look()  # which is patient, and says what is wrong if anything is
            self._cuts += http.stalled == stalled
            return letter
        self._looked = time.monotonic()
        in_vain = not changed or content == self._content
        early = self._looked - began < most / 2
        self._cuts = self._cuts + 1 if in_vain and early else 0
        return self._read(content) if changed else None

    def look(self) -> _wire.Letter | None:
        """The letter of this worker; None if the inbox holds none, is garbage, or if the process
        that wrote it had no right to: a process that has lost its session may not know that yet.
        """
        try:
            content = self._platform.json_value(self._id)
        except RefusedError:
            self._refused += 1
            if self._refused >= 5:  # in a row: it is lost
                raise
            return None
        finally:
            self._looked = time.monotonic()
        return self._read(content)

    def _read(self, content: Any) -> _wire.Letter | None:
        self._refused = 0
        if content != self._content:
            self._heard = self._listened()
            self._said = self._understood(content)
            self._content = content
        return self._said

    def _understood(self, content: Any) -> _wire.Letter | None:
        try:
            inbox = _wire.inbox_from_json(content, self._worker)
        except _wire.WireError:
            return None
        letter = inbox.letters.get(self._worker)
        # In this order: what was written before the session was lost, the next holder has read.
        if self._is_news(inbox.holder, letter) and self._platform.is_taken(inbox.holder):
            return None
        self.known, self.holder, self._letter = True, inbox.holder, letter
        if letter is not None and letter.calls:
            self._alone = len(inbox.letters) == 1
        lease = inbox.lease
        given = isinstance(lease, (int, float)) and lease > 0
        self._lease = lease if lease and given else self._own_lease
        self._idle = self._lease if given else self._own_idle
        most = self._lease / _LOOKS_PER_LEASE
        if isinstance(inbox.poll, (int, float)) and inbox.poll > 0:
            self._poll = min(inbox.poll, most)
        if isinstance(inbox.linger, (int, float)) and inbox.linger > 0:
            self.linger = min(inbox.linger, self._lease)
        return letter

    def _is_news(self, holder: int, letter: _wire.Letter | None) -> bool:
        if not holder:  # no other process writes it
            return False
        return (self.known, self.holder, self._letter) != (True, holder, letter)
