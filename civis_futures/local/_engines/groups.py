"""Control groups of runs (Linux, v1 and v2): a memory limit, if it was hit, peaks, and signals.

A container's own group goes away with it, and takes along what it could tell. So the limit is that
of a group around it, which is ours. Whether the kernel has killed for want of memory is told by an
event in v1, where counters count what was reclaimed as well, and by a counter in v2.
"""

from __future__ import annotations

import contextlib
import os
import signal
from pathlib import Path

ROOT = Path("/sys/fs/cgroup")
MEGABYTE = 2**20


def tree() -> Path | None:
    """Return where groups with a memory limit can be made; None, if nowhere."""
    v1 = ROOT / "memory"
    if (v1 / "memory.limit_in_bytes").exists():
        return v1 if os.access(v1, os.W_OK) else None
    with contextlib.suppress(OSError):
        if "memory" in (ROOT / "cgroup.subtree_control").read_text().split():
            return ROOT if os.access(ROOT, os.W_OK) else None
    return None


def largest_charge() -> int:
    """Return how many bytes a process is given at once, at the most: a huge page."""
    try:
        return int(Path("/sys/kernel/mm/transparent_hugepage/hpage_pmd_size").read_text())
    except (OSError, ValueError):
        return 2 * MEGABYTE


class Group:
    """One group, and what is below it."""

    def __init__(self, name: str, memory: int) -> None:
        """Make it, with a limit in MB; `name` is a folder's and its own. Raises OSError."""
        top = tree()
        if top is None:
            raise OSError("there are no control groups here that we may make")
        self.name = name
        self._v1 = top != ROOT
        self._folder = top / name
        self._event: tuple[int, int] | None = None  # descriptors
        self._killed = False
        if not self._folder.parent.exists():
            self._folder.parent.mkdir()
            self._share(self._folder.parent)
        self._folder.mkdir()
        limit = str(memory * MEGABYTE)
        if self._v1:
            (self._folder / "memory.limit_in_bytes").write_text(limit)
            self._write("memory.memsw.limit_in_bytes", limit)
            self._listen()
        else:
            self._share(self._folder)
            (self._folder / "memory.max").write_text(limit)
            self._write("memory.swap.max", "0")

    def _share(self, folder: Path) -> None:
        """Let groups below one be limited and measured; in v1 they are."""
        if not self._v1:
            (folder / "cgroup.subtree_control").write_text("+memory")
            with contextlib.suppress(OSError):
                (folder / "cgroup.subtree_control").write_text("+cpu")

    def _write(self, name: str, text: str) -> None:
        """Write a file that kernels without accounting for swap do not have."""
        if (self._folder / name).exists():
            with contextlib.suppress(OSError):
                (self._folder / name).write_text(text)

    def _listen(self) -> None:
        event = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        control = os.open(self._folder / "memory.oom_control", os.O_RDONLY | os.O_CLOEXEC)
        self._event = event, control
        (self._folder / "cgroup.event_control").write_text(f"{event} {control}")

    def killed_for_memory(self) -> bool:
        """Return whether the kernel has killed a process of it because the limit was reached."""
        if self._event is not None:
            with contextlib.suppress(BlockingIOError):
                self._killed = self._killed or os.eventfd_read(self._event[0]) > 0
            return self._killed
        with contextlib.suppress(OSError):
            for line in (self._folder / "memory.events").read_text().splitlines():
                word, _, count = line.partition(" ")
                if word == "oom_kill":
                    return int(count) > 0
        return False

    def peak_memory(self) -> float:
        """Return the most memory that was in use at once, in MB; 0 if the kernel does not say."""
        name = "memory.max_usage_in_bytes" if self._v1 else "memory.peak"
        with contextlib.suppress(OSError, ValueError):
            return int((self._folder / name).read_text()) / MEGABYTE
        return 0.0

    def cpu_seconds(self) -> float:
        """Return the CPU time that was used; 0 if the kernel does not say."""
        with contextlib.suppress(OSError, ValueError, IndexError):
            if self._v1:
                usage = ROOT / "cpuacct" / self.name / "cpuacct.usage"
                return int(usage.read_text()) / 1e9
            return int((self._folder / "cpu.stat").read_text().split()[1]) / 1e6
        return 0.0

    def pids(self) -> list[int]:
        """Return the processes of the container, without the one that watches over it."""
        found: set[int] = set()
        for folder, _, _ in os.walk(self._folder):
            if os.path.basename(folder) != "conmon":
                with contextlib.suppress(OSError):
                    found.update(map(int, Path(folder, "cgroup.procs").read_text().split()))
        return sorted(found)

    def signal(self, number: int) -> None:
        """Send a signal to all; again, as one may just have started another."""
        done: set[int] = set()
        while new := set(self.pids()) - done:
            for pid in new:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, number)
            done |= new
            if number == signal.SIGKILL and len(done) > 100_000:
                break  # a fork bomb: what is left dies of its memory limit

    def remove(self) -> bool:
        """Remove it, and what is empty above it, from each tree that has one of its name.

        False, if it must be tried again: who watched over the container takes a moment to end.
        """
        if self._event is not None:
            for descriptor in self._event:
                os.close(descriptor)
            self._event = None
        gone = True
        for top in [ROOT, *ROOT.iterdir()] if self._v1 else [ROOT]:
            group = top / self.name
            for folder, _, _ in os.walk(group, topdown=False):
                _remove(Path(folder))
            gone &= not group.exists()  # a process may have ended just between two trees
            _remove(group.parent)
        return gone


def _remove(folder: Path) -> None:
    with contextlib.suppress(OSError):  # something is in there
        folder.rmdir()
