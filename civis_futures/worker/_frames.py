"""What passes between the worker and its child over a pipe: a JSON header and a body of bytes.
And how such a child, and such a pipe, are made.

A frame starts with a mark that only these two processes know, made anew for each child. User code
that writes to file descriptors which are not its own may leave rubbish in the pipe; the reader
skips what comes before the next mark. The pipe's descriptors are kept high, out of the way of code
that closes or overwrites the low ones.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import resource
import signal
import sys

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import Any

MARK_SIZE = 16
#: A body above this size travels as a file instead: a pipe is slow, and holds 64 kB.
BODY_LIMIT = 1_000_000
#: Bytes of a permit: the number of the frame, from 1, that may be begun.
PERMIT = 8
_HEADER = 4  # bytes of the header's length
_BODY = 8  # bytes of the body's length


def new_mark() -> bytes:
    """A mark for the frames of one child."""
    return os.urandom(MARK_SIZE)


def packed(mark: bytes, header: dict[str, Any], body: bytes = b"") -> bytes:
    """A frame as bytes."""
    text = json.dumps(header).encode()
    sizes = len(text).to_bytes(_HEADER, "big") + len(body).to_bytes(_BODY, "big")
    return b"".join((mark, sizes, text, body))


class Frames:
    """Collects what a pipe brings, and cuts it into frames."""

    def __init__(self, mark: bytes) -> None:
        self._mark = mark
        self._bytes = bytearray()

    def add(self, data: bytes) -> None:
        """Take what has been read."""
        self._bytes += data

    def next(self) -> tuple[dict[str, Any], bytes] | None:
        """The next whole frame, or None if it has not come yet. ValueError if it is damaged."""
        begin = self._bytes.find(self._mark)
        if begin < 0:
            del self._bytes[:-MARK_SIZE]  # what is left may be the beginning of a mark
            return None
        del self._bytes[:begin]
        text_at = MARK_SIZE + _HEADER + _BODY
        if len(self._bytes) < text_at:
            return None
        sizes = self._bytes[MARK_SIZE:text_at]
        body_at = text_at + int.from_bytes(sizes[:_HEADER], "big")
        end = body_at + int.from_bytes(sizes[_HEADER:], "big")
        if len(self._bytes) < end:
            return None
        header = json.loads(str(self._bytes[text_at:body_at], "ascii"))
        body = bytes(self._bytes[body_at:end])
        del self._bytes[:end]
        return header, body


def forked() -> int:
    """Fork, without what is still to be printed, or both would print it.

    TERM is blocked, and unblocked by each of the two when it is ready: it must find either no
    child, or one whose pid is known.
    """
    for stream in (sys.stdout, sys.stderr):
        if stream is not None:
            stream.flush()
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
    return os.fork()


@contextlib.contextmanager
def term(how: int = signal.SIG_BLOCK) -> Iterator[None]:
    """TERM waits within the block, or comes through (`signal.SIG_BLOCK`, `SIG_UNBLOCK`)."""
    before = signal.pthread_sigmask(how, {signal.SIGTERM})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def high_copy(fd: int) -> int:
    """A copy of `fd` with a high number, closed on exec."""
    lowest = min(resource.getrlimit(resource.RLIMIT_NOFILE)[0], 1024) - 64
    try:
        return fcntl.fcntl(fd, fcntl.F_DUPFD_CLOEXEC, max(3, lowest))
    except OSError:  # no room up there
        return fcntl.fcntl(fd, fcntl.F_DUPFD_CLOEXEC, 3)


def high_pipe() -> tuple[int, int]:
    """A pipe, both ends high: (to read from, to write to)."""
    low = os.pipe()
    high = high_copy(low[0]), high_copy(low[1])
    for fd in low:
        os.close(fd)
    return high


def plain(text: str) -> str:
    """Without what no database takes in a text: lone surrogates, and the null character."""
    return text.encode("utf-8", "backslashreplace").decode().replace("\0", "\\x00")
