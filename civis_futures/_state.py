"""What the scheduler remembers: of the pool's policy, of each task, of each worker.

Only the scheduler writes these. The phases are drawn in its docstring.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from enum import Enum, auto
from heapq import heappop, heappush

from ._events import Given, Reading
from ._types import Run, RunState, TaskId, WorkerId

#: A run state nobody has heard of may last so long before the run counts as over, in seconds.
UNKNOWN_STATE_PATIENCE = 300.0


@dataclass(frozen=True, slots=True)
class Policy:
    """What the user asked for. `calls_per_worker`: unanswered calls a worker may hold at once."""

    max_workers: int
    max_tasks_per_worker: int | None = None
    idle_timeout: float = 60.0
    max_retries: int = 0
    calls_per_worker: int = 1


class TaskPhase(Enum):
    """Where a task is."""

    UPLOADING = auto()
    READY = auto()
    DELAYED = auto()
    HELD = auto()
    LOSING = auto()
    FETCHING = auto()


class WorkerPhase(Enum):
    """Where a worker is."""

    LAUNCHING = auto()
    ALIVE = auto()
    CONCLUDING = auto()
    ARCHIVING = auto()


@dataclass(slots=True)
class Task:
    """One task that has not ended."""

    phase: TaskPhase
    worker: WorkerId | None = None
    given: int = 0  # how often it was handed to a worker
    attempts: int = 0  # how many of these count: it may have begun, and was lost


class Tasks:
    """All tasks that have not ended, with a queue of those that are READY, the oldest first."""

    def __init__(self) -> None:
        self.known: dict[TaskId, Task] = {}
        self.count: Counter[TaskPhase] = Counter()
        # Heaps; entries whose task has meanwhile left that phase are skipped.
        self._ready: list[TaskId] = []
        self._delayed: list[tuple[float, TaskId]] = []

    def add(self, name: TaskId, phase: TaskPhase) -> None:
        """A new task."""
        self.known[name] = Task(phase)
        self.count[phase] += 1
        if phase is TaskPhase.READY:
            heappush(self._ready, name)

    def remove(self, name: TaskId) -> Task:
        """The task has ended."""
        task = self.known.pop(name)
        self.count[task.phase] -= 1
        return task

    def move(self, name: TaskId, phase: TaskPhase) -> Task:
        """The task is in another phase now."""
        task = self.known[name]
        self.count[task.phase] -= 1
        self.count[phase] += 1
        task.phase = phase
        if phase is TaskPhase.READY:
            task.worker = None
            heappush(self._ready, name)
        return task

    def delay(self, name: TaskId, until: float) -> None:
        """The task will be READY at this time."""
        self.move(name, TaskPhase.DELAYED)
        heappush(self._delayed, (until, name))

    def wake(self, now: float) -> float | None:
        """Make READY what was delayed until now; when to do so again, if ever."""
        while self._delayed:
            until, name = self._delayed[0]
            task = self.known.get(name)
            if task is not None and task.phase is TaskPhase.DELAYED:
                if until > now:
                    return until
                self.move(name, TaskPhase.READY)
            heappop(self._delayed)
        return None

    def give(self, number: int, worker: Worker) -> tuple[TaskId, ...]:
        """Hand up to `number` READY tasks to a worker."""
        given: list[TaskId] = []
        while self._ready and len(given) < number:
            name = heappop(self._ready)
            task = self.known.get(name)
            if task is not None and task.phase is TaskPhase.READY:
                self.move(name, TaskPhase.HELD)
                task.worker = worker.id
                task.given += 1
                given.append(name)
        worker.taken += len(given)
        worker.calls += given
        return tuple(given)


@dataclass(slots=True)
class Worker:
    """One container run, from the wish for it until its script is archived."""

    id: WorkerId
    inbox: bool
    first: tuple[Given, ...]
    calls: list[TaskId]
    taken: int
    phase: WorkerPhase = WorkerPhase.LAUNCHING
    state: RunState = RunState.QUEUED
    idle_since: float = 0.0
    stop: bool = False
    cancelled: bool = False
    cancel_at: float = 0.0
    garbled: bool = False
    rereads: float = 0.0
    unknown_since: float | None = None

    @property
    def open(self) -> bool:
        """Whether it counts against `max_workers`."""
        return self.phase in (WorkerPhase.LAUNCHING, WorkerPhase.ALIVE)

    @property
    def alive(self) -> bool:
        """Whether it has a run that is not known to be over."""
        return self.phase is WorkerPhase.ALIVE

    @property
    def listens(self) -> bool:
        """Whether it may be given more calls."""
        return self.alive and self.inbox and not (self.stop or self.cancelled)

    @property
    def reading(self) -> Reading:
        """When a look should read its answers."""
        if not self.calls:
            return Reading.NEVER
        return Reading.RUNNING if self.inbox else Reading.AT_END

    def is_over(self, run: Run, now: float) -> bool:
        """Take in what a look tells of its run: whether it is over.

        Platform says that any state but queued and running is final. One that we do not know is
        taken for final only if the run has an end, or if it stays: "pending" would not.
        """
        if run.state is not RunState.UNKNOWN:
            self.state, self.unknown_since = run.state, None
            return run.state.over
        if self.unknown_since is None:
            self.unknown_since = now
        return run.finished is not None or now - self.unknown_since >= UNKNOWN_STATE_PATIENCE
