"""A process beside the server: when the server dies, it ends the runs, and then itself.

It is started as a script of its own, with the standard library only, and learns the process groups
of the runs through its standard input. End of input without a goodbye means that the server died.
It also looks for processes that carry a run's key in their environment, for those that left their
group, or started while the server died. Nothing else of the package is imported here.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import sys
import time


def kill_group(group: int, number: int = signal.SIGKILL) -> None:
    """Send a signal to a process group that may be gone."""
    # A group of nothing but zombies is "not permitted" on macOS.
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(group, number)


def marked(mark: str) -> list[int]:
    """Return the processes that were started with a key that has our mark (Linux only)."""
    needle = mark.encode()
    found = []
    for name in os.listdir("/proc") if os.path.isdir("/proc") else []:
        if not name.isdigit() or int(name) == os.getpid():
            continue
        with contextlib.suppress(OSError), open(f"/proc/{name}/environ", "rb") as stream:
            if needle in stream.read():
                found.append(int(name))
    return found


def kill_marked(mark: str) -> None:
    """Kill all of them; again, while a dying one may just have started another."""
    for _ in range(20):
        found = marked(mark)
        if not found:
            return
        for pid in found:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.kill(pid, signal.SIGKILL)
        time.sleep(0.02)


def main() -> None:
    """Watch one server; its first line says what to look for and which folder to remove."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    first = sys.stdin.readline()
    if not first:
        return
    settings = json.loads(first)
    groups: set[int] = set()
    for line in sys.stdin:
        word, _, group = line.strip().partition(" ")
        if word == "bye":
            return
        if word == "run":
            groups.add(int(group))
        elif word == "end":
            groups.discard(int(group))
    for left in groups:
        kill_group(left)
    kill_marked(settings["mark"])
    if settings.get("last"):
        # What containers leave: their engine knows of them.
        os.system(settings["last"])
    if settings["remove"]:
        shutil.rmtree(settings["remove"], ignore_errors=True)


if __name__ == "__main__":
    main()
