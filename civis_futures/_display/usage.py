"""What a pool has used, as sums: by its tasks, by function, and by its containers.

Pure arithmetic, in memory that does not grow with the number of tasks. Times are in seconds, memory
in MB. Nothing here knows futures, runs or the platform.
"""

from __future__ import annotations

import math
import re
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from heapq import nlargest

from .._types import Resources, Run, RunState, TaskState
from .panels import DONE, TaskSummary

#: Functions (or labels) that have sums of their own; all others share one.
MOST_FUNCTIONS = 100
#: The slowest tasks that are remembered.
MOST_SLOWEST = 5
#: Stretches of work that are kept apart; older ones are one sum.
MOST_STRETCHES = 64
#: Seconds; tasks that took less count as this long where their logarithms are added.
SHORTEST = 1e-3
OTHERS = "all others"
_BATCH = re.compile(r" and \d+ more$")


def function_of(task: str) -> str:
    """The function (or label) of a task, by the task's name."""
    return _BATCH.sub("", task.rpartition(" (task ")[0] or task)


@dataclass(slots=True)
class FunctionSums:
    """The tasks of one function that have ended."""

    tasks: int = 0
    failed: int = 0
    compute: float = 0.0
    occupied: float = 0.0
    timed: int = 0  # how many tasks are in that, and in the sums of logarithms
    logs: float = 0.0
    squares: float = 0.0  # of the logarithms
    longest: float = 0.0
    peak_memory: float = 0.0
    peaks: int = 0  # how many tasks have told their peak
    asked_memory: float | None = None  # the least that was asked for; 0.0: not known

    def add(self, summary: TaskSummary) -> None:
        """Count one more."""
        self.tasks += 1
        self.failed += summary.state is TaskState.FAILED
        self.compute += summary.compute or 0.0
        if summary.occupied is not None:
            log = math.log(max(summary.occupied, SHORTEST))
            self.timed, self.occupied = self.timed + 1, self.occupied + summary.occupied
            self.logs, self.squares = self.logs + log, self.squares + log * log
        self.longest = max(self.longest, summary.compute or 0.0)
        self.peak_memory = max(self.peak_memory, summary.peak_memory or 0.0)
        self.peaks += summary.peak_memory is not None
        asked = summary.asked_memory or 0.0
        self.asked_memory = min(asked, asked if self.asked_memory is None else self.asked_memory)


@dataclass(slots=True)
class Stretch:
    """A time without a gap in which there were tasks that were not done; seconds since the epoch.

    `serial` is for how long its tasks had containers, all together, `longest` one of them, and
    `begun` when the last container began its first task, seconds after `begin`. Unless it is
    `plain`, it has tasks of which that is not known, or was no matter of one attempt.
    """

    begin: float
    end: float
    tasks: int = 0
    serial: float = 0.0
    longest: float = 0.0
    last_submitted: float = 0.0
    lag: float = 0.0  # from the end in the container to the end here, of the last one
    begun: float = 0.0
    workers: set[int] = field(default_factory=set)
    plain: bool = True

    @classmethod
    def of(cls, summary: TaskSummary) -> Stretch:
        """That of one task."""
        begin, end = summary.submitted, summary.submitted + summary.elapsed
        occupied, queue, worker = summary.occupied, summary.queue, summary.worker
        if occupied is None or queue is None or worker is None or summary.attempts != 1:
            return cls(begin, end, 1, last_submitted=begin, plain=False)
        lag = max(0.0, summary.elapsed - queue - occupied)
        return cls(begin, end, 1, occupied, occupied, begin, lag, queue, {worker})

    def join(self, other: Stretch) -> None:
        """Take in another one, which ended last."""
        begin = min(self.begin, other.begin)
        if not other.workers <= self.workers:
            self.begun = max(self.begun + self.begin, other.begun + other.begin) - begin
        else:
            self.begun += self.begin - begin
        self.begin, self.end = begin, max(self.end, other.end)
        self.tasks += other.tasks
        self.serial += other.serial
        self.longest = max(self.longest, other.longest)
        self.last_submitted = max(self.last_submitted, other.last_submitted)
        self.lag = other.lag
        self.workers |= other.workers
        self.plain = self.plain and other.plain

    def enough(self, max_workers: int) -> int:
        """With how many workers it would have been over no later, for certain: whatever the order
        of the tasks, if each takes as long as it did. At the most, those that there were.
        """
        used = len(self.workers)
        if not self.plain or used > max_workers:  # containers that ended, and others after them
            return max_workers
        others = self.begun + self.last_submitted - self.begin + self.lag
        for workers in range(1, used):
            # Two bounds of any order in which no worker waits: Graham's, and that of rounds.
            graham = self.serial / workers + self.longest * (1 - 1 / workers)
            rounds = math.ceil(self.tasks / workers) * self.longest
            if others + min(graham, rounds) <= self.end - self.begin:
                return workers
        return used


@dataclass(slots=True)
class WorkSums:
    """The tasks of a pool that have ended, in the order of their ends."""

    functions: dict[str, FunctionSums] = field(default_factory=dict)
    slowest: list[tuple[float, str]] = field(default_factory=list)  # compute, task
    occupied: float = 0.0
    compute: float = 0.0
    stretches: list[Stretch] = field(default_factory=list)
    before: float = 0.0  # seconds of stretches that are not kept
    before_end: float = 0.0
    folded: bool = False

    def add(self, summary: TaskSummary) -> None:
        """Count one more that has ended."""
        if summary.state not in DONE:
            return
        name = function_of(summary.task)
        if name not in self.functions and len(self.functions) >= MOST_FUNCTIONS:
            name = OTHERS
        self.functions.setdefault(name, FunctionSums()).add(summary)
        self.occupied += summary.occupied or 0.0
        self.compute += summary.compute or 0.0
        took, full = summary.compute, len(self.slowest) >= MOST_SLOWEST
        if took is not None and not (full and took <= self.slowest[-1][0]):
            self.slowest = nlargest(MOST_SLOWEST, [*self.slowest, (took, summary.task)])
        self._stretch(summary)

    def _stretch(self, summary: TaskSummary) -> None:
        new = Stretch.of(summary)
        new.begin = max(new.begin, self.before_end)
        new.end = max(new.end, new.begin)
        while self.stretches and self.stretches[-1].end >= new.begin:
            last = self.stretches.pop()
            last.join(new)
            new = last
        self.stretches.append(new)
        if len(self.stretches) > MOST_STRETCHES:
            first = self.stretches.pop(0)
            self.before += first.end - first.begin
            self.before_end, self.folded = first.end, True

    @property
    def elapsed(self) -> float:
        """Seconds in which there was work."""
        return self.before + sum(each.end - each.begin for each in self.stretches)

    def enough(self, max_workers: int) -> int:
        """With how many workers it would have taken no longer."""
        if self.folded or not self.stretches:
            return max_workers
        return max(each.enough(max_workers) for each in self.stretches)

    def copy(self) -> WorkSums:
        """Sums that go on by themselves."""
        functions = {name: replace(sums) for name, sums in self.functions.items()}
        stretches = [replace(each, workers=set(each.workers)) for each in self.stretches]
        return replace(self, functions=functions, stretches=stretches)


@dataclass(slots=True)
class _Container:
    """One of them; times by this machine's monotonic clock. An `adopted` one was started by an
    earlier process of the session, which has paid for the time until then.
    """

    size: Resources
    adopted: bool = False
    running_since: float | None = None
    over: bool = False


@dataclass(slots=True)
class Used:
    """What containers have used up to a moment; hours are of what was reserved.

    `unsized` is how many hours were of containers whose size is not known.
    """

    starts: int = 0
    running: int = 0
    most_running: int = 0
    hours: float = 0.0
    cpu_hours: float = 0.0
    memory_hours: float = 0.0  # GB times hours
    unsized: float = 0.0

    def add(self, seconds: float, size: Resources) -> None:
        """Count a container that has run for so long."""
        hours = seconds / 3600
        self.hours += hours
        self.cpu_hours += hours * size.cpu / 1000
        self.memory_hours += hours * size.memory / 1024
        self.unsized += 0.0 if size.cpu and size.memory else hours


class ContainerSums:
    """The containers of a pool; its manager tells, and any thread may ask."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        # Guards what follows; arithmetic only. Reentrant: a signal's handler may ask, too.
        self._lock = threading.RLock()
        self._containers: dict[int, _Container] = {}
        self._ended = Used()

    def started(self, worker: int, size: Resources) -> None:
        """The platform was asked for it, and said yes."""
        with self._lock:
            self._containers.setdefault(worker, _Container(size))
            self._ended.starts += 1

    def seen(self, worker: int, run: Run) -> None:
        """The platform says that its run is like this."""
        with self._lock:
            each = self._containers.setdefault(worker, _Container(Resources(), adopted=True))
            if each.over:
                return
            if run.state is RunState.RUNNING and each.running_since is None:
                each.running_since = self._clock()
                alive = sum(one.running_since is not None for one in self._containers.values())
                over = sum(one.over for one in self._containers.values())
                self._ended.most_running = max(self._ended.most_running, alive - over)
            elif run.state.over:
                self._end(each, run)

    def gone(self, worker: int) -> None:
        """Nothing will be told of it any more."""
        with self._lock:
            each = self._containers.pop(worker, None)
            if each is not None and not each.over:
                self._end(each, None)

    def _end(self, each: _Container, run: Run | None) -> None:
        seconds = 0.0 if each.running_since is None else self._clock() - each.running_since
        ours = run if not each.adopted else None
        if ours is not None and ours.started is not None and ours.finished is not None:
            seconds = max(0.0, ours.finished - ours.started)
        each.over, each.running_since = True, each.running_since or 0.0
        self._ended.add(seconds, each.size)

    def used(self) -> Used:
        """By all of them up to now; those that run for as long as they were seen to."""
        with self._lock:
            used, now = replace(self._ended), self._clock()
            for each in self._containers.values():
                if not each.over and each.running_since is not None:
                    used.running += 1
                    used.add(now - each.running_since, each.size)
            return used
