"""A queue and the threads that work it off: how the manager does what may take time.

Not `concurrent.futures.ThreadPoolExecutor`: that starts its threads on demand, and at the
interpreter's exit, when a pool of ours still finishes its work, no thread can be started.
"""

from __future__ import annotations

import logging
import queue
import threading
from collections.abc import Callable

_log = logging.getLogger(__name__)


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
            try:
                work()
            except BaseException:
                # A callback of the user's, most likely: the standard library logs those, too.
                _log.exception("exception in %s", threading.current_thread().name)
            del work  # or the last call's arguments would live until the next one comes
