"""The interpreter's exit: no more tasks come, and those that there are get finished.

And its end by a TERM, if it runs in a container of the platform: pools end with it.

Knows managers only as something to post to and to wait for.
"""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import threading
import time
import weakref
from functools import partial
from typing import Any, Protocol

from ._events import ShutdownRequested, TerminateRequested
from ._exceptions import BrokenContainerPool

#: How long an exit that was interrupted, or a TERM, waits for the containers to be cancelled, in
#: seconds.
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


def end_pools_on_term() -> None:
    """Let a TERM end the pools of this process before it ends, with 143.

    Of a run that is cancelled the platform asks just that; and what its pools have started would
    go on without it. Of no effect outside of such runs, on threads other than the main one, and
    where somebody else has a handler.
    """
    if (
        os.environ.get("CIVIS_JOB_ID")
        and threading.current_thread() is threading.main_thread()
        and signal.getsignal(signal.SIGTERM) is signal.SIG_DFL
    ):
        signal.signal(signal.SIGTERM, partial(_end_pools, os.getpid()))


def _end_pools(process: int, *_: Any) -> None:
    """The handler. What it interrupts may hold any lock: the managers' gates are reentrant."""
    managers = list(interpreter_exit.managers)
    if not managers or os.getpid() != process:  # a fork has no pools, only what looks like them
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        os.kill(os.getpid(), signal.SIGTERM)
        return
    signal.signal(signal.SIGTERM, signal.SIG_IGN)  # it may come twice: from platform and worker
    for manager in managers:
        manager.post(TerminateRequested(BrokenContainerPool("this container is being stopped")))
    end = time.monotonic() + LAST_SECONDS
    while interpreter_exit.managers and time.monotonic() < end:
        time.sleep(0.02)
    if interpreter_exit.begun:  # all but output is done, and an exception would not be obeyed
        for stream in (sys.stdout, sys.stderr):
            with contextlib.suppress(Exception):
                stream.flush()
        os._exit(143)
    sys.exit(143)
