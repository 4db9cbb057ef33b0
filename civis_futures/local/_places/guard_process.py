"""The guard as the server sees it: started, told which runs there are, and replaced if it dies."""

from __future__ import annotations

import contextlib
import json
import subprocess
import sys
from pathlib import Path

from . import guard


class GuardProcess:
    """One guard process and the pipe to it; the event loop's thread owns it."""

    def __init__(self, mark: str, remove: str | None, last: str | None = None) -> None:
        """Start it. If the server dies, it removes a folder, and runs a last shell command."""
        self._first_line = json.dumps({"mark": mark, "remove": remove, "last": last})
        self._needed = False
        self._groups: set[int] = set()
        self._process = self._start()

    def _start(self) -> subprocess.Popen[str]:
        process = subprocess.Popen(
            [sys.executable, "-I", "-S", str(Path(guard.__file__))],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
            text=True,
            bufsize=1,
        )
        assert process.stdin is not None
        process.stdin.write(self._first_line + "\n")
        for group in self._groups:
            process.stdin.write(f"run {group}\n")
        return process

    def _say(self, line: str) -> None:
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(line + "\n")
        except OSError:
            self.check()

    def check(self) -> None:
        """Replace the guard if it died."""
        if self._process.poll() is not None:
            self._drop()
            self._process = self._start()

    def started(self, group: int) -> None:
        """Tell of a run that has begun."""
        self._groups.add(group)
        self._say(f"run {group}")

    def ended(self, group: int) -> None:
        """Tell of a run that is over."""
        self._groups.discard(group)
        self._say(f"end {group}")

    def finish_later(self) -> None:
        """Let the guard do at the end what it does when the server dies: something is left."""
        self._needed = True

    def dismiss(self) -> None:
        """End the guard: the server has ended all runs itself, or has none of its time left."""
        if self._needed:
            self._drop()
            return
        self._say("bye")
        self._drop()
        self._process.wait()

    def _drop(self) -> None:
        assert self._process.stdin is not None
        with contextlib.suppress(OSError):  # it died before it had read everything
            self._process.stdin.close()
