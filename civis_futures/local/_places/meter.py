"""How much memory and processor the process trees of the runs use; measured in a thread.

Memory is the resident set summed over the tree, which counts shared pages more than once. So where
the sum passes the limit, the proportional set (Linux) or the unique set is asked for, which costs
more to find out, and that decides. Knows pids and numbers only, nothing of runs or their states.
"""

from __future__ import annotations

import contextlib
import dataclasses
import os
import sys
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence

import psutil

MEGABYTE = 2**20


@dataclasses.dataclass(frozen=True)
class Sample:
    """One measurement of one process tree."""

    processes: tuple[psutil.Process, ...]
    memory: float  # MB
    cpu_seconds: float  # used so far by the processes that live
    over: bool  # whether the memory is more than the run may use


def kill_seen(processes: Iterable[psutil.Process]) -> None:
    """Kill processes that were measured; psutil notices if a pid belongs to another one by now."""
    for process in processes:
        with contextlib.suppress(psutil.Error):
            process.kill()


def session_members(leader: int) -> list[int]:
    """Return the pids in a session, without the leader's."""
    found = []
    for pid in psutil.pids():
        try:
            if pid != leader and os.getsid(pid) == leader:
                found.append(pid)
        except (ProcessLookupError, PermissionError):
            continue
    return found


def measure(limits: Mapping[int, int]) -> tuple[dict[int, Sample], float]:
    """Measure the trees below some session leaders; also return the seconds that this took.

    `limits` gives the MB that each leader's tree may use.
    """
    started = time.perf_counter()
    children: dict[int, list[int]] = {}
    sessions: dict[int, list[int]] = {}
    for pid, parent, session in _relations():
        children.setdefault(parent, []).append(pid)
        sessions.setdefault(session, []).append(pid)
    samples = {}
    for leader, limit in limits.items():
        pids = {leader, *_below(leader, children), *sessions.get(leader, [])}
        samples[leader] = _sample(list(_processes(sorted(pids))), limit)
    return samples, time.perf_counter() - started


def _relations() -> Iterator[tuple[int, int, int]]:
    """Return (pid, parent, session) of every process.

    By hand on Linux: psutil reads three files for what is in one, and this is most of the cost.
    """
    if not sys.platform.startswith("linux"):
        for process in psutil.process_iter(["ppid"]):
            with contextlib.suppress(ProcessLookupError, PermissionError):
                yield process.pid, process.info["ppid"], os.getsid(process.pid)
        return
    for name in os.listdir("/proc"):
        if not name.isdigit():
            continue
        try:
            with open(f"/proc/{name}/stat", "rb", buffering=0) as file:
                line = file.read()
        except OSError:
            continue  # it has ended
        # "pid (name) state parent group session ...", and the name may hold anything.
        _, parent, _, session, _ = line[line.rindex(b")") + 2 :].split(None, 4)
        yield int(name), int(parent), int(session)


def _processes(pids: Iterable[int]) -> Iterator[psutil.Process]:
    for pid in pids:
        with contextlib.suppress(psutil.Error):  # it has ended
            yield psutil.Process(pid)


def _below(leader: int, children: Mapping[int, list[int]]) -> Iterator[int]:
    stack = [leader]
    while stack:
        for child in children.get(stack.pop(), []):
            yield child
            stack.append(child)


def _sample(tree: Sequence[psutil.Process], limit: int) -> Sample:
    memory, cpu = 0.0, 0.0
    for process in tree:
        try:
            with process.oneshot():
                memory += process.memory_info().rss / MEGABYTE
                times = process.cpu_times()
                cpu += times.user + times.system
        except psutil.Error:
            continue
    if memory > limit:
        memory = sum(_fair_share(process) for process in tree)
    return Sample(tuple(tree), memory, cpu, memory > limit)


def _fair_share(process: psutil.Process) -> float:
    """Return a process's memory without what it shares."""
    try:
        full = process.memory_full_info()
        return float(getattr(full, "pss", full.uss)) / MEGABYTE
    except psutil.AccessDenied:
        return float(process.memory_info().rss) / MEGABYTE
    except psutil.Error:
        return 0.0
