"""How a scheduler is asked: in threads, never on the event loop's, and bounded in time."""

from __future__ import annotations

import asyncio
import contextlib
import os
import queue
import subprocess
import threading
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from .scheduler import AwayError

SECONDS = 30.0  # a controller that is away is noticed by Slurm's commands after some 10


class FailedError(Exception):
    """A command that ended with an error; the text is what it said."""


class Commands:
    """Runs commands. `close` ends those on their way, and then there are no more."""

    def __init__(self) -> None:
        self._lock = threading.Lock()  # guards the two below; starting a command is under it
        self._running: set[subprocess.Popen[str]] = set()
        self._closed = False

    def run(
        self,
        command: Sequence[str],
        text: str = "",
        environment: Mapping[str, str] | None = None,
    ) -> str:
        """What a command prints, given `text`; in our own environment, if it is given none.

        FailedError with what it says; AwayError if it takes too long or cannot be started.
        """
        process = self._start(command, os.environ if environment is None else environment)
        try:
            printed, said = process.communicate(text, timeout=SECONDS)
        except subprocess.TimeoutExpired:
            raise AwayError(f"{command[0]} took more than {SECONDS:g} s") from None
        finally:
            self._end(process)
        if process.returncode != 0:
            words = " ".join(said.split())[:4_000]
            raise FailedError(words or f"{command[0]} ended with code {process.returncode}")
        return printed

    def _start(
        self, command: Sequence[str], environment: Mapping[str, str]
    ) -> subprocess.Popen[str]:
        with self._lock:
            if self._closed:
                raise AwayError("the platform stops")
            try:
                process = subprocess.Popen(
                    command,
                    stdin=subprocess.PIPE,
                    stdout=subprocess.PIPE,
                    stderr=subprocess.PIPE,
                    text=True,
                    errors="replace",
                    start_new_session=True,
                    env={**environment, "LC_ALL": "C"},
                )
            except OSError as error:
                raise AwayError(f"{command[0]} cannot be started: {error}") from None
            self._running.add(process)
            return process

    def _end(self, process: subprocess.Popen[str]) -> None:
        if process.poll() is None:
            process.kill()
            process.wait()
        for stream in (process.stdin, process.stdout, process.stderr):
            if stream is not None:
                with contextlib.suppress(OSError):
                    stream.close()
        with self._lock:
            self._running.discard(process)

    def close(self) -> None:
        """End all commands; their callers get an AwayError or a FailedError."""
        with self._lock:
            self._closed = True
            for process in self._running:
                process.kill()


class AskingThread:
    """One daemon thread: what it is in must not keep the process from its end."""

    def __init__(self, name: str) -> None:
        self._loop = asyncio.get_running_loop()
        self._queue: queue.SimpleQueue[tuple[Callable[[], Any], Callable[..., None]] | None]
        self._queue = queue.SimpleQueue()
        self._dropped = threading.Event()
        self._thread = threading.Thread(target=self._work, name=name, daemon=True)
        self._thread.start()

    def do(self, act: Callable[[], Any], then: Callable[..., None]) -> None:
        """Call `act` here, and on the loop's thread `then(result, error)`, one of which is None."""
        self._queue.put((act, then))

    def _work(self) -> None:
        while (what := self._queue.get()) is not None:
            act, then = what
            result = error = None
            if self._dropped.is_set():
                continue
            try:
                result = act()
            except Exception as raised:
                error = raised
            with contextlib.suppress(RuntimeError):  # the loop has ended
                self._loop.call_soon_threadsafe(then, result, error)

    def close(self, seconds: float, *, drop: bool) -> None:
        """Wait for what is under way, this many seconds at most; `drop` what has not begun."""
        if drop:
            self._dropped.set()
        self._queue.put(None)
        self._thread.join(seconds)
