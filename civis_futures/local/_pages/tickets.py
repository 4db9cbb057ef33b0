"""Who may see the pages: one-time tickets in links, and what a browser has after it showed one.

The owner's key opens everything, so it is in no link. A ticket is made of it without a request: the
server, which has the same key, checks it, and takes it once. What the browser gets in return opens
the pages alone, and ends with the server.
"""

from __future__ import annotations

import hashlib
import hmac
import secrets
from urllib.parse import quote

#: For how long a link opens the pages, once. Long enough to be found in a notebook's output.
TICKET_SECONDS = 600.0


class TicketError(Exception):
    """The ticket opens nothing; the message says what to do."""


def page_link(url: str, key: str, now: float) -> str:
    """Return a link that opens the pages once, within `TICKET_SECONDS` of `now` (since the epoch).

    The ticket is in the fragment, which browsers do not send.
    """
    expires, nonce = str(int(now + TICKET_SECONDS)), secrets.token_urlsafe(12)
    return f"{url}/#ticket={quote(f'{expires}.{nonce}.{_seal(key, expires, nonce)}')}"


class Visitors:
    """The browsers that have shown a ticket, and the tickets that were shown."""

    def __init__(self, key: str) -> None:
        self._key = key
        self._spent: dict[str, float] = {}  # nonce -> when its ticket expires
        self._passes: dict[str, None] = {}  # in the order in which they were given

    def enter(self, ticket: str, now: float) -> str:
        """Take a ticket and return a pass; raises TicketError."""
        expires, _, rest = ticket.partition(".")
        nonce, _, seal = rest.partition(".")
        right = _seal(self._key, expires, nonce)
        if not hmac.compare_digest(right.encode(), seal.encode("utf-8", "replace")):
            raise TicketError("This link is not one of this platform's.")
        # The clocks of owner and server may differ by 60 s.
        if not now < float(expires) <= now + TICKET_SECONDS + 60.0:
            raise TicketError("This link is too old.")
        self._spent = {spent: until for spent, until in self._spent.items() if now < until}
        if nonce in self._spent:
            raise TicketError("This link was used before: each opens the page once.")
        self._spent[nonce] = float(expires)
        given = secrets.token_urlsafe(32)
        self._passes[given] = None
        if len(self._passes) > 1000:  # the oldest one has to show a ticket again
            del self._passes[next(iter(self._passes))]
        return given

    def knows(self, given: str) -> bool:
        """Whether this is the pass of a browser that was let in."""
        return given in self._passes


def _seal(key: str, expires: str, nonce: str) -> str:
    said = f"page\n{expires}\n{nonce}".encode("utf-8", "replace")
    return hmac.new(key.encode(), said, hashlib.sha256).hexdigest()
