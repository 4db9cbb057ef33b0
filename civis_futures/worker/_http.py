"""HTTP for the worker: one request at a time over kept connections, repeated until it is answered.

Standard library only, and of it `http.client`: `urllib.request` takes longer to import. This module
knows nothing of the platform but how a server refuses (429 with Retry-After) and stumbles (5xx).

Every request is repeated after a lost reply, POSTs too. That is safe here, because each POST of a
worker may happen twice: of two equal answers the client takes the first, a spare File expires.
"""

from __future__ import annotations

import base64
import http.client
import io
import math
import re
import sys
import time
from urllib.parse import urlsplit

from ._pacing import WorkerPacing

TYPE_CHECKING = False
if TYPE_CHECKING:
    import ssl
    from collections.abc import Callable, Iterable
    from typing import Any, TypeVar

    T = TypeVar("T")
    Body = Callable[[], Iterable[bytes]]
    Reader = Callable[[http.client.HTTPResponse], T]

#: Seconds without a byte after which an attempt has failed.
TIMEOUT = 60.0

#: A reply that brings fewer bytes per second, after these seconds, has failed as well.
SLOWEST = 10_000.0

_PARTIAL_CHAIN = 0x80000  # ssl.VERIFY_X509_PARTIAL_CHAIN, which Python has since 3.10
_STUMBLES = (429, 500, 502, 503, 504)


class HttpError(Exception):
    """The request has failed for good. The text names method, path and reason, and no secret."""


class RefusedError(HttpError):
    """The server answered with a status that a further attempt will not change."""

    def __init__(self, message: str, status: int) -> None:
        super().__init__(message)
        self.status = status


class UnreachableError(HttpError):
    """No usable answer within the patience."""


class _Watched(io.RawIOBase):
    """What a socket brings, as long as it is not too slow: a byte now and then is never late."""

    def __init__(self, raw: io.RawIOBase, timeout: float) -> None:
        self._raw = raw
        self._timeout = timeout
        self._began = time.monotonic()
        self._size = 0

    def readable(self) -> bool:
        """As the reader on top of it wants to know."""
        return True

    def readinto(self, target: Any) -> int | None:
        """Read what there is."""
        if time.monotonic() - self._began > self._timeout + self._size / SLOWEST:
            raise TimeoutError(f"{self._size:,} bytes in more than {self._timeout:g} seconds")
        size = self._raw.readinto(target)
        self._size += size or 0
        return size

    def close(self) -> None:
        """Close what is below, too."""
        self._raw.close()
        super().close()


class _Response(http.client.HTTPResponse):
    def __init__(self, sock: Any, *args: Any, **options: Any) -> None:
        super().__init__(sock, *args, **options)
        self.fp = io.BufferedReader(_Watched(self.fp.detach(), sock.gettimeout() or TIMEOUT))


class Http:
    """Requests over one kept connection per host. For a single thread.

    `stalled` is how many seconds it has waited for a server that did not answer; `only` a host, and
    the certificates (as PEM) that alone are believed there.
    """

    def __init__(
        self,
        patience: float = WorkerPacing().request,
        *,
        timeout: float = TIMEOUT,
        longest_wait: float = 600.0,  # seconds; Platform's limits are for 300
        pacing: WorkerPacing = WorkerPacing(),  # noqa: B008 (a tuple)
        only: tuple[str | None, str] = ("", ""),
    ) -> None:
        self.patience = patience
        self._timeout = timeout
        self._longest_wait = longest_wait
        self._pacing = pacing
        self._only = only
        self.stalled = 0.0
        self.sent = 0.0  # when the newest attempt at a request was made (monotonic), and
        self.date: str | None = None  # what its answer calls the time
        self._connections: dict[tuple[str, str], http.client.HTTPConnection] = {}

    def anew(self, patience: float) -> Http:
        """The same with other connections: those of this one may be in mid-request."""
        return Http(patience, pacing=self._pacing, only=self._only)

    def close(self) -> None:
        """Close every connection; the next request opens its own."""
        for connection in self._connections.values():
            connection.close()
        self._connections.clear()

    def request(
        self,
        method: str,
        url: str,
        read: Reader[T],
        headers: dict[str, str],
        body: Body | None = None,
    ) -> T:
        """What `read` makes of the first 2xx answer.

        `read` and `body` are called anew in each attempt; the headers must state the length of the
        body. A ValueError of `read` (HTML from a proxy, say) counts as a lost reply.
        """
        what = f"{method} {urlsplit(url).path}"
        began = time.monotonic()
        deadline = began + self.patience
        attempt = 0
        while True:
            attempt += 1
            wait = 0.0
            try:
                self.sent = time.monotonic()
                reply = self._send(method, url, headers, body)
                self.date = reply.headers.get("Date")
                if 200 <= reply.status < 300:
                    return read(reply)
                content = reply.read()
                problem = f"HTTP {reply.status}{_reason(content, headers)}"
                if reply.status not in _STUMBLES:
                    raise RefusedError(f"{what}: {problem}", reply.status)
                wait = min(_retry_after(reply), self._longest_wait)
            except (OSError, ValueError, http.client.HTTPException) as error:
                self.close()  # what is left in the connection belongs to a lost reply
                # Some errors quote the address, and what follows in that may be a signature.
                problem = f"{type(error).__name__}: {error}".partition("?")[0]
                if type(error).__name__ == "SSLCertVerificationError":
                    raise UnreachableError(f"{what}: {problem}") from error
            self._pause(f"{what}: {problem}", attempt, wait, deadline)
            now = time.monotonic()
            self.stalled, began = self.stalled + now - began, now

    def _send(
        self, method: str, url: str, headers: dict[str, str], body: Body | None
    ) -> http.client.HTTPResponse:
        parts = urlsplit(url)
        key = (parts.scheme, parts.netloc)
        connection = self._connections.get(key)
        if connection is None:
            if key[0] != "https":
                connection = http.client.HTTPConnection(parts.netloc, timeout=self._timeout)
            else:
                host, pem = self._only
                context = believing(pem) if pem and parts.hostname == host else None
                connection = http.client.HTTPSConnection(
                    parts.netloc, timeout=self._timeout, context=context
                )
            self._connections[key] = connection
            connection.response_class = _Response
        target = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
        connection.request(method, target, body=body() if body else None, headers=headers)
        return connection.getresponse()

    def _pause(self, problem: str, attempt: int, at_least: float, deadline: float) -> None:
        """Sleep before the next attempt; UnreachableError if there is no time for one."""
        import random

        pacing = self._pacing
        growing = min(pacing.first_pause * 2.0 ** (attempt - 1), pacing.longest_pause)
        pause = max(at_least, growing * random.uniform(0.5, 1.0))
        if time.monotonic() + pause > deadline:
            raise UnreachableError(f"{problem} (gave up after attempt {attempt})")
        # After four failed attempts, a line in the log says why nothing moves.
        if attempt == 4:
            print(f"civis_futures: {problem}; trying again", file=sys.stderr, flush=True)
        time.sleep(pause)


def believing(pem: str) -> ssl.SSLContext:
    """What believes these certificates, each by itself, and no others; UnreachableError if none."""
    import ssl  # which http.client has imported

    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    try:
        context.load_verify_locations(cadata=pem)
    except (ssl.SSLError, ValueError) as error:
        raise UnreachableError(f"the platform's certificates cannot be read: {error}") from error
    context.verify_flags |= _PARTIAL_CHAIN
    return context


def _retry_after(reply: http.client.HTTPResponse) -> float:
    """Seconds to wait at the least, if the server says that; whatever it says, not for ever."""
    try:
        seconds = float(reply.headers.get("Retry-After", "0"))
    except ValueError:
        return 0.0  # the form with a date, which Platform does not use
    return seconds if 0.0 < seconds < math.inf else 0.0


def _reason(content: bytes, headers: dict[str, str]) -> str:
    """What the server says about it, in one short line, without the secrets that it may quote.

    Storage answers with XML that may hold a signature and what was signed; its code says enough.
    """
    text = " ".join(content[:10_000].decode("utf-8", "replace").split())
    if "<Error>" in text:
        text = text.partition("<Code>")[2].partition("</Code>")[0]
    for shown in headers.get("Authorization", "").split()[1:]:
        key = base64.b64decode(shown).decode("utf-8", "replace").rstrip(":")
        text = text.replace(shown, "(key)").replace(key, "(key)")
    text = re.sub(r"\?[^\s\"'<>=]*=[^\s\"'<>]*", "?...", text)[:300]
    return f" ({text})" if text else ""
