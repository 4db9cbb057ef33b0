"""The threads of a pool: lanes, by which the manager does what may take time; and how all of it
ends with the interpreter.

A lane is not `concurrent.futures.ThreadPoolExecutor`: that starts its threads on demand, and at the
interpreter's exit, when a pool of ours still finishes its work, no thread can be started. At that
exit no more tasks come, and those that there are get finished. A TERM ends the pools with the
process, if it runs in a container of the platform. Managers are known here only as something to
post to and to wait for.
"""

from __future__ import annotations

import contextlib
import itertools
import logging
import os
import queue
import signal
import sys
import threading
import time
import weakref
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any, Protocol, TypeVar

from .._exceptions import BrokenContainerPool
from .._scheduling.events import ShutdownRequested, TerminateRequested

_log = logging.getLogger(__name__)

T = TypeVar("T")

#: How long an exit that was interrupted, or a TERM, waits for the containers to be cancelled, in
#: seconds.
LAST_SECONDS = 10.0
#: After how many seconds another thread settles futures in place of one that is in a callback.
RELIEF = 0.2


class Lane:
    """`number` threads that run what is `put`, each thing once, in order of arrival."""

    def __init__(self, name: str, number: int) -> None:
        self._work: queue.SimpleQueue[Callable[[], None] | None] = queue.SimpleQueue()
        # Daemons, since the manager stops them; were it ever to fail at that, the interpreter
        # must still be able to exit.
        self.threads = tuple(
            threading.Thread(target=self._run, name=f"civis-futures {name} {n}", daemon=True)
            for n in range(number)
        )

    def start(self) -> None:
        """Start all threads."""
        for thread in self.threads:
            thread.start()

    def put(self, work: Callable[[], None]) -> None:
        """Run `work` soon."""
        self._work.put(work)

    def stop(self) -> None:
        """Finish what was put, and end the threads; waits, but not for itself."""
        for _ in self.threads:
            self._work.put(None)
        for thread in self.threads:
            if thread is not threading.current_thread():
                thread.join()

    def _run(self) -> None:
        while (work := self._work.get()) is not None:
            _run(work)
            del work  # or the last call's arguments would live until the next one comes


def coming(items: queue.SimpleQueue[T], pause: float = 0.0, longest: float = 0.0) -> Iterator[T]:
    """What is in a queue, and what comes within `pause` seconds of that, for `longest` seconds."""
    end = time.monotonic() + longest
    with contextlib.suppress(queue.Empty):
        while True:
            yield items.get(timeout=min(pause, max(end - time.monotonic(), 0.0)))


class SettleLane(Lane):
    """One thread that runs what is `put`; while a callback of the user's holds it up, another one.

    For the callback may wait for a future that no other thread would settle. The second may be held
    up too, so each thread is watched by another one. The first two are there from the beginning,
    since at the interpreter's exit no thread can be started.
    """

    def __init__(self, name: str) -> None:
        super().__init__(name, 0)
        self._name = name
        self._news = threading.Event()  # something was put since those who watch saw nothing left
        first = _Seat()
        for run in (self._serve, self._stand_by):
            self.threads = (*self.threads, self._thread(partial(run, first)))

    def put(self, work: Callable[[], None]) -> None:
        """Run `work` soon."""
        super().put(work)
        if not self._news.is_set():
            self._news.set()

    def stop(self) -> None:
        """As of any lane."""
        self._work.put(None)  # the thread that takes it puts it back, for the others
        self._news.set()
        ended = {threading.current_thread()}
        while left := set(self.threads) - ended:  # the last one may start another one meanwhile
            for thread in left:
                thread.join()
            ended |= left

    def _thread(self, run: Callable[[], None]) -> threading.Thread:
        name = f"civis-futures {self._name} {len(self.threads)}"
        return threading.Thread(target=run, name=name, daemon=True)

    def _serve(self, seat: _Seat) -> None:
        while (work := self._work.get()) is not None:
            self._do(work, seat)
            del work
        self._work.put(None)
        self._leave(seat)

    def _leave(self, seat: _Seat) -> None:
        """For good. Who watches may have found the queue empty meanwhile, and wait for news."""
        seat.left.set()
        self._news.set()

    def _do(self, work: Callable[[], None], seat: _Seat) -> None:
        seat.turn = next(seat.turns)
        try:
            _run(work)
        finally:
            seat.turn = 0

    def _stand_by(self, watched: _Seat) -> None:
        seat, alone = _Seat(), True
        while not watched.left.is_set():
            self._news.wait()
            turn = watched.turn
            watched.left.wait(RELIEF)
            if self._work.empty():
                self._news.clear()
                if not self._work.empty():
                    self._news.set()
            elif turn and watched.turn == turn:
                if alone:
                    with contextlib.suppress(RuntimeError):  # at the interpreter's exit
                        thread = self._thread(partial(self._stand_by, seat))
                        thread.start()
                        self.threads = (*self.threads, thread)
                        alone = False
                self._stand_in(watched, turn, seat)
        self._leave(seat)

    def _stand_in(self, watched: _Seat, turn: int, seat: _Seat) -> None:
        while watched.turn == turn:
            try:
                work = self._work.get(timeout=RELIEF)
            except queue.Empty:
                continue
            if work is None:
                self._work.put(None)
                return
            self._do(work, seat)
            del work


class _Seat:
    """At which piece of its work a thread is, as others see it, if at any (0: none); and whether it
    has left for good.
    """

    def __init__(self) -> None:
        self.turn = 0
        self.turns = itertools.count(1)
        self.left = threading.Event()


def _run(work: Callable[[], None]) -> None:
    try:
        work()
    except BaseException:
        # A callback of the user's, most likely: the standard library logs those, too.
        _log.exception("exception in %s", threading.current_thread().name)


class PoolOwner(Protocol):
    """The owner of a pool."""

    def post(self, event: ShutdownRequested | TerminateRequested) -> None:
        """Tell it what happened."""

    def join(self, timeout: float | None = None) -> None:
        """Wait for its end."""


class InterpreterExit:
    """The hook, and the managers that are at work."""

    def __init__(self) -> None:
        self.begun = False  # set once, before the managers are told
        self.managers: weakref.WeakSet[PoolOwner] = weakref.WeakSet()

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
    where other code has a handler.
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
