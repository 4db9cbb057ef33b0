"""Futures in an event loop: waiting for one, and for many as they complete.

The only module of the client that knows asyncio, so it is imported when a loop waits for a future.
Cancelling a wait leaves the futures alone: others may wait for them.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable, Iterable
from concurrent.futures import Future
from functools import partial
from typing import Any, TypeVar

F = TypeVar("F", bound=Future[Any])


async def ended(done: Callable[[], bool], watchers: set[Callable[[], None]]) -> None:
    """Return when `done()`; what makes it true calls the watchers then.

    (`asyncio.shield(asyncio.wrap_future(...))` would leave a callback behind with each wait that
    is cut short, and report the call's error where nothing waits any more.)
    """
    loop = asyncio.get_running_loop()
    event = asyncio.Event()
    watcher = partial(_in_loop, loop, event.set)
    watchers.add(watcher)
    try:
        if not done():
            await event.wait()
    finally:
        watchers.discard(watcher)


async def as_completed(futures: Iterable[F]) -> AsyncIterator[F]:
    """The futures, each when it is done; those that are done already first."""
    loop = asyncio.get_running_loop()
    completed: asyncio.Queue[Any] = asyncio.Queue()
    pending = set(futures)
    count = len(pending)
    while pending:  # no name is kept: what was given out may be collected
        pending.pop().add_done_callback(partial(_put, loop, completed))
    for _ in range(count):
        yield await completed.get()


def _put(loop: asyncio.AbstractEventLoop, completed: asyncio.Queue[Any], future: Any) -> None:
    _in_loop(loop, partial(completed.put_nowait, future))


def _in_loop(loop: asyncio.AbstractEventLoop, call: Callable[[], object]) -> None:
    with contextlib.suppress(RuntimeError):  # the loop was closed: nothing waits any more
        loop.call_soon_threadsafe(call)
