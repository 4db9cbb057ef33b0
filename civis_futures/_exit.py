"""The interpreter's exit: no more tasks come, and those that there are get finished.

Knows managers only as something to post to and to wait for.
"""

from __future__ import annotations

import threading
import weakref
from typing import Protocol

from ._events import ShutdownRequested, TerminateRequested
from ._exceptions import BrokenContainerPool

#: How long an exit that was interrupted waits for the containers to be cancelled, in seconds.
LAST_SECONDS = 10.0


class Manager(Protocol):
    """The owner of a pool."""

    def post(self, event: ShutdownRequested | TerminateRequested) -> None:
        """Tell it what happened."""

    def join(self, timeout: float | None = None) -> None:
        """Wait for its end."""


class InterpreterExit:
    """The hook, and the managers that are at work."""

    def __init__(self) -> None:
        self.begun = False  # set once, before the managers are told
        self.managers: weakref.WeakSet[Manager] = weakref.WeakSet()

    def __call__(self) -> None:
        """Finish all pools."""
        self.begun = True
        managers = list(self.managers)
        try:
            for manager in managers:
                manager.post(ShutdownRequested())
            for manager in managers:
                manager.join()
        except BaseException:  # a second Ctrl-C: leave now, but leave no container running
            for manager in managers:
                manager.post(TerminateRequested(BrokenContainerPool("interrupted at exit")))
            for manager in managers:
                manager.join(LAST_SECONDS)
            raise


interpreter_exit = InterpreterExit()
# As CPython's own pools do. A hook of `atexit` would come too late: by then the interpreter has
# waited for all threads and stopped those that are daemons.
threading._register_atexit(interpreter_exit)  # type: ignore[attr-defined]
