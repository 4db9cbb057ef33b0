"""One run as a process: started, its output cut into lines, signalled, reaped; without a thread.

It lives on the event loop's thread, knows no store and no API, and never waits.
"""

from __future__ import annotations

import asyncio
import codecs
import contextlib
import os
import resource
import signal
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from .guard import kill_group
from .meter import Sample, kill_seen, session_members
from .place import Ending, Line

LONGEST_LINE = 32_768  # characters; a longer one becomes several


class OutputPipe:
    """One of the two streams of a run: bytes in, whole lines out."""

    def __init__(self, descriptor: int, level: str, lines: Callable[[list[Line]], None]) -> None:
        self.open = True
        self._descriptor = descriptor
        self._level = level
        self._lines = lines
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")
        self._rest = ""
        os.set_blocking(descriptor, False)
        asyncio.get_running_loop().add_reader(descriptor, self._ready)

    def _ready(self) -> None:
        try:
            data = os.read(self._descriptor, 65_536)
        except BlockingIOError:
            return
        if data:
            self._cut(self._decoder.decode(data))
        else:
            self.close()

    def _cut(self, text: str) -> None:
        *whole, self._rest = (self._rest + text).split("\n")
        while len(self._rest) > LONGEST_LINE:
            whole.append(self._rest[:LONGEST_LINE])
            self._rest = self._rest[LONGEST_LINE:]
        self._emit(whole)

    def _emit(self, texts: list[str]) -> None:
        now = time.time()
        cut = [
            text[start : start + LONGEST_LINE].removesuffix("\r")
            for text in texts
            for start in range(0, len(text) or 1, LONGEST_LINE)
        ]
        if cut:
            self._lines([(now, self._level, text) for text in cut])

    def drain(self) -> None:
        """Take what is in the pipe now: at most a pipe's capacity, for a writer may be left."""
        for _ in range(16):
            if not self.open:
                return
            self._ready()

    def close(self) -> None:
        """Stop listening; what is left is a line."""
        if self.open:
            self.open = False
            asyncio.get_running_loop().remove_reader(self._descriptor)
            rest = self._rest + self._decoder.decode(b"", final=True)
            if rest:
                self._emit([rest])


@dataclass(frozen=True, slots=True)
class Command:
    """What is started: its command line, where, and with which file mode mask."""

    arguments: Sequence[str]
    environment: Mapping[str, str]
    folder: str
    umask: int


class RunProcess:
    """A command as a session of its own."""

    measured = True  # by the meter, which also keeps its memory limit

    def __init__(self, command: Command, lines: Callable[[list[Line]], None]) -> None:
        """Start it; raises OSError or ValueError if the system will not have it."""
        self.started = time.monotonic()
        self.exit_code: int | None = None
        self.signalled = False  # whether a signal has ended it
        self.cpu_seconds = 0.0
        self.own_memory = 0.0  # MB; the largest single process, by the kernel's account
        self.sample: Sample | None = None  # the meter's last measurement
        self._out_of_memory = False
        self._max_memory = 0.0  # MB
        self._max_cpu = 0.0  # cores
        self._measured: tuple[float, float] | None = None  # monotonic time (s), CPU until then (s)
        self._popen = subprocess.Popen(
            command.arguments,
            cwd=command.folder,
            env=dict(command.environment),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            start_new_session=True,
            umask=command.umask,
        )
        assert self._popen.stdout is not None
        assert self._popen.stderr is not None
        self.pipes = (
            OutputPipe(self._popen.stdout.fileno(), "info", lines),
            OutputPipe(self._popen.stderr.fileno(), "error", lines),
        )

    @property
    def pid(self) -> int:
        """Return the pid, which is also the process group's and the session's."""
        return self._popen.pid

    @property
    def begun(self) -> bool:
        """Whether what was ordered runs, or has run: a process does at once."""
        return True

    def terminate(self) -> None:
        """Ask the whole group to end."""
        if self.exit_code is None:
            kill_group(self.pid, signal.SIGTERM)

    def stop(self) -> bool:
        """Stop all that there is of it, children that have a group of their own as well."""
        self._signal(signal.SIGSTOP)
        return True

    def go_on(self) -> None:
        """Let what was stopped go on."""
        self._signal(signal.SIGCONT)

    def _signal(self, number: int) -> None:
        done: set[int] = set()
        # Again, while one that was not stopped yet has just started another.
        while new := {self.pid, *session_members(self.pid)} - done:
            if self.exit_code is not None:
                return  # the pids may belong to other processes by now
            for pid in new:
                with contextlib.suppress(ProcessLookupError, PermissionError):
                    os.kill(pid, number)
            done |= new

    def kill(self) -> None:
        """End the group, and processes that left it but not the session or the tree."""
        if self.exit_code is not None:
            return  # the pid may belong to another process by now
        kill_group(self.pid)
        for pid in session_members(self.pid):
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.kill(pid, signal.SIGKILL)
        if self.sample is not None:
            kill_seen(self.sample.processes)

    def sweep(self) -> None:
        """End what is left of it, when the command has ended."""
        self.kill()

    def pids(self) -> list[int]:
        """Return the command's pid and those below it, as the meter found them last."""
        seen = () if self.sample is None else self.sample.processes
        return sorted({self.pid, *(process.pid for process in seen)})

    def note(self, sample: Sample) -> None:
        """Keep what the meter found, and end what uses too much memory."""
        now = time.monotonic()
        self.sample = sample
        self._max_memory = max(self._max_memory, sample.memory)
        if self._measured is not None:
            then, before = self._measured
            self._max_cpu = max(self._max_cpu, (sample.cpu_seconds - before) / (now - then))
        self._measured = now, sample.cpu_seconds
        if sample.over and not self._out_of_memory:
            self._out_of_memory = True
            self.kill()

    def ending(self) -> Ending:
        """Return how it ended, after `close`."""
        wall = max(time.monotonic() - self.started, 0.001)
        return Ending(
            exit_code=self.exit_code,
            out_of_memory=self._out_of_memory,
            max_memory=max(self._max_memory, self.own_memory),
            max_cpu=max(self._max_cpu, self.cpu_seconds / wall),
        )

    def reap(self) -> bool:
        """Return whether the command has ended; if so, end what is left of it, and note its usage.

        The leader is looked at before it is reaped: until then its pid is that of no other process,
        so the signals hit the right group. (Before 3.13, Python on macOS cannot look at it without
        reaping it.)
        """
        if self.exit_code is not None:
            return True
        can_look = hasattr(os, "waitid")
        if can_look:
            if os.waitid(os.P_PID, self.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is None:
                return False
            self.sweep()
        pid, status, usage = os.wait4(self.pid, os.WNOHANG)
        if pid == 0:
            return False
        if not can_look:
            self.sweep()
        code = os.waitstatus_to_exitcode(status)
        self.signalled = code < 0
        self.exit_code = self._popen.returncode = code if code >= 0 else 128 - code
        self._account(usage)
        return True

    def _account(self, usage: resource.struct_rusage) -> None:
        self.cpu_seconds = usage.ru_utime + usage.ru_stime
        unit = 2**20 if os.uname().sysname == "Darwin" else 2**10
        # A process that was started from us begins its account with our own size.
        ours = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        self.own_memory = usage.ru_maxrss / unit if usage.ru_maxrss > ours else 0.0

    def close(self) -> None:
        """Close the pipes, even if a process still holds their other ends."""
        for pipe in self.pipes:
            pipe.drain()
            pipe.close()
        for stream in (self._popen.stdout, self._popen.stderr):
            if stream is not None:
                stream.close()
