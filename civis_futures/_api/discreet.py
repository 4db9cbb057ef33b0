"""What must not be read of our requests: links that give access, and keys.

httpx logs each request at INFO, its address included, and httpcore each step at DEBUG, with the
headers of the answers. The address of a File's content is signed: anyone who has it can read the
File. So of requests made within `ours` these libraries log nothing, unless the user asked for it
by giving their loggers a level of their own; and then without links. Requests that others make
with httpx in this process are logged as ever.

Errors stay as they are, but for links, and for the requests that httpx attaches to them.

This module knows no other module of ours.
"""

from __future__ import annotations

import contextlib
import logging
import re
from collections.abc import Callable, Generator, Iterator
from contextvars import ContextVar
from functools import wraps
from typing import ParamSpec, TypeVar

import httpx

E = TypeVar("E", bound=BaseException)
P = ParamSpec("P")
T = TypeVar("T")

#: Whether what this thread does now is a request of ours.
_in_ours: ContextVar[bool] = ContextVar("civis_futures_request", default=False)
#: The secret parts of an address, wherever it stands in a text: a query with values, a password.
_QUERY = re.compile(r"\?[^\s\"'<>)\]=]*=[^\s\"'<>)\]]*")
_PASSWORD = re.compile(r"(://)[^\s/@\"']+@")
_LIBRARIES = ("httpx", "httpcore")


@contextlib.contextmanager
def ours() -> Generator[None]:
    """Whatever request is made within, on this thread, is ours."""
    token = _in_ours.set(True)
    try:
        yield
    finally:
        _in_ours.reset(token)


def each_ours(make: Callable[P, Generator[T]]) -> Callable[P, Iterator[T]]:
    """A generator whose own steps are `ours`, and not what is done between two of them."""

    @wraps(make)
    def stepwise(*args: P.args, **kwargs: P.kwargs) -> Iterator[T]:
        steps = make(*args, **kwargs)
        try:
            while True:
                with ours():
                    try:
                        step = next(steps)
                    except StopIteration:
                        return
                yield step
        finally:
            with ours():
                steps.close()

    return stepwise


def without_links(text: str) -> str:
    """`text` without what makes an address in it a secret."""
    return _PASSWORD.sub(r"\1", _QUERY.sub("?...", text))


def discreet(error: E) -> E:
    """`error` itself; neither it nor what led to it holds a link or a header any more."""
    seen: set[int] = set()
    rest: list[BaseException | None] = [error]
    while rest:
        one = rest.pop()
        if one is None or id(one) in seen:
            continue
        seen.add(id(one))
        rest += [one.__cause__, one.__context__]
        args = tuple(without_links(x) if isinstance(x, str) else x for x in one.args)
        if args != one.args:
            one.args = args
        if isinstance(one, httpx.RequestError):
            with contextlib.suppress(RuntimeError):  # it has no request
                one.request = _bare(one.request)
    return error


def _bare(request: httpx.Request) -> httpx.Request:
    return httpx.Request(
        request.method, request.url.copy_with(userinfo=b"", query=None, fragment=None)
    )


class _Discretion(logging.Filter):
    """Passes what others do, and what the user has asked for."""

    def filter(self, record: logging.LogRecord) -> bool:
        """Whether the record may be seen; if so and it is ours, it is shortened."""
        if not _in_ours.get():
            return True
        if not _asked_for(record.name):
            return False
        text = record.getMessage()
        if record.name.startswith("httpcore"):
            text = text.partition(" ")[0]  # the event; what follows are headers and errors
        record.msg, record.args = without_links(text), ()
        return True


def _asked_for(name: str) -> bool:
    """Whether this logger, or one above it that is not the root, was given a level."""
    while name:
        if logging.getLogger(name).level != logging.NOTSET:
            return True
        name = name.rpartition(".")[0]
    return False


def _watch() -> None:
    """Filter the libraries' loggers: each of them, since what is logged below passes no filter."""
    import httpcore  # noqa: F401  (so that all of its loggers are there)

    discretion = _Discretion()
    for name in list(logging.root.manager.loggerDict):
        if name.partition(".")[0] in _LIBRARIES:
            logging.getLogger(name).addFilter(discretion)


_watch()
