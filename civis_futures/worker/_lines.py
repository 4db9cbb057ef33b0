"""What several processes of a worker print, as one log: whole lines, and where they are of another
call than the line before, a line that says so.

By a process of its own, since pipes hold little and the worker may be in a request for long.
Imported only where there are several. It knows nothing of calls but the lines at which they begin.
"""

from __future__ import annotations

import os
import select
import signal
import time

from .. import _wire
from ._frames import forked, high_pipe

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import NoReturn


def go_on_line(task: str, process: int) -> str:
    """What is printed where a task goes on to print, if it is at one: a `_wire.GO_ON_LINE`."""
    return f"civis_futures: {f'task {task}' if task else f'process {process}'} goes on"


class Lines:
    """The worker's end: pipes for this many processes, and a process that reads them. `in_child` is
    called in there, to close what is the worker's.
    """

    def __init__(self, processes: int, in_child: Callable[[], None]) -> None:
        pipes = [(high_pipe(), high_pipe()) for _ in range(processes)]
        self._ends = [(out[1], err[1]) for out, err in pipes]
        self._pid = forked()
        if self._pid == 0:
            in_child()
            self._close_ends()
            _live([(out[0], err[0]) for out, err in pipes])
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGTERM})
        for pipe in pipes:
            for reader, _ in pipe:
                os.close(reader)

    def print_as(self, process: int) -> None:
        """In a fork: have it print as this one of the processes, from 1."""
        out, err = self._ends[process - 1]
        os.dup2(out, 1)
        os.dup2(err, 2)
        self._close_ends()

    def close(self) -> None:
        """No process prints any more; wait until all is said."""
        self._close_ends()
        end = time.monotonic() + 1.0  # for what a process that was left behind may still print
        try:
            while os.waitpid(self._pid, os.WNOHANG)[0] == 0:
                if time.monotonic() > end:
                    os.kill(self._pid, signal.SIGKILL)
                time.sleep(0.005)
        except (ChildProcessError, ProcessLookupError):  # it was reaped with the others
            pass

    def _close_ends(self) -> None:
        for ends in self._ends:
            for fd in ends:
                os.close(fd)
        self._ends = []


def _live(pipes: list[tuple[int, int]]) -> NoReturn:
    """All that the reading process does."""
    try:
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGALRM):
            signal.signal(number, signal.SIG_IGN)  # it ends after the others
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGTERM})
        _pass_on(pipes)
    finally:
        os._exit(0)


def _pass_on(pipes: list[tuple[int, int]]) -> None:
    out, err = Log(1), Log(2)
    sources: dict[int, Source] = {}
    for number, (own_out, own_err) in enumerate(pipes, 1):
        sources[own_out], sources[own_err] = Source(number, out), Source(number, err)
    poll = select.poll()
    for fd in sources:
        poll.register(fd, select.POLLIN)
    while sources:
        for fd, _ in poll.poll():
            data = os.read(fd, 1 << 16)
            sources[fd].add(data)
            if not data:
                poll.unregister(fd)
                os.close(fd)
                del sources[fd]


class Log:
    """One of the worker's own two streams."""

    def __init__(self, fd: int) -> None:
        self._fd = fd
        self._last: Source | None = None  # whose line was the last one

    def say(self, source: Source, lines: list[bytes], *, marked: bool = False) -> None:
        """Write lines of this one; `marked` if the first says whose they are."""
        if self._last is not source and not marked:
            lines = [go_on_line(source.task, source.process).encode(), *lines]
            marked = True
        if marked and self._last is not None:  # as the worker begins where there is only one
            lines = [b"", *lines]
        self._last = source
        view = memoryview(b"\n".join([*lines, b""]))
        while view:
            view = view[os.write(self._fd, view) :]


class Source:
    """What one process prints on one of its streams."""

    def __init__(self, process: int, log: Log) -> None:
        self.process = process
        self.task = ""  # that it is at
        self._log = log
        self._rest = b""
        self._blank = False  # the last line was empty: perhaps the first half of a beginning

    def add(self, data: bytes) -> None:
        """Take in what was read; nothing: that was all."""
        *lines, self._rest = (self._rest + data).split(b"\n")
        # A megabyte without an end is taken for a line.
        if self._rest and (not data or len(self._rest) > 1_000_000):
            lines.append(self._rest)
            self._rest = b""
        pending: list[bytes] = []
        marked = False
        for line in lines:
            task = self._begins(line)
            if task:
                if pending:
                    self._log.say(self, pending, marked=marked)
                self.task, pending, marked, self._blank = task, [], True, False
            elif self._blank:
                pending.append(b"")
                self._blank = False
            if line:
                pending.append(line)
            else:
                self._blank = True
        if not data and self._blank:
            pending.append(b"")
        if pending:
            self._log.say(self, pending, marked=marked)

    def _begins(self, line: bytes) -> str:
        """The task that begins at this line, if one does."""
        if not line.startswith(b"civis_futures: "):
            return ""
        mark = _wire.BEGIN_LINE.match(line.decode("utf-8", "replace"))
        return mark[1] if mark is not None and mark[3] == str(self.process) else ""
