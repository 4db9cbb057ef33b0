"""What the scheduler remembers: of the pool's policy, of each task, of each worker.

Only the scheduler writes these. The phases are drawn in its docstring.
"""

from __future__ import annotations

import math
from collections import Counter, deque
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from enum import Enum, auto
from heapq import heappop, heappush

from .._types import (
    ANY_RESOURCES,
    PLAIN_TERMS,
    Inherited,
    Resources,
    Run,
    RunState,
    TaskId,
    Terms,
    WorkerId,
)
from .._wire import (
    CALL_NOT_FETCHED,
    CALL_OVERHEAD,
    CRASHED,
    INBOX_CALLS,
    MEMORY,
    ORDER_CALLS,
    RETURNED,
    TIMED_OUT,
    Answer,
    inline_limit,
)
from .events import CORRUPT, FoundTask, Given, Need, Reading, Report, Verdict
from .pacing import Mean, Pause

#: Answers of calls that were lost.
LOST = (CRASHED, MEMORY, CALL_NOT_FETCHED, TIMED_OUT, CORRUPT)
#: Seconds that a run may be in a state that is not documented, before it counts as over.
UNKNOWN_STATE_PATIENCE = 300.0
#: How often the answers of a run that is over are read again before one counts as missing; and for
#: how many seconds if the run succeeded, since outputs may be listed late.
REREADS, LATE_ANSWERS = 2, 30.0
#: Seconds in which no look could read a worker's answers, after which the worker is given up; fewer
#: if they are refused (True).
UNREADABLE = {False: 600.0, True: 30.0}
#: The calls of a worker that has not started may move to others once PASSED_OVER looks have found
#: others running. It is overdue when it waits for STARTS times as long as a start takes; one whose
#: launch is under way, when that takes SLOW_LAUNCH seconds.
PASSED_OVER, STARTS, SLOW_LAUNCH = 2, 2.0, 30.0


@dataclass(frozen=True, slots=True)
class Policy:
    """What the user asked for; times in seconds.

    `max_workers` is how many calls may run at once, of which one container has up to
    `worker_processes`. `max_tasks_per_worker` is of a container. `inboxes` is how many there are;
    each worker reads one of them.
    """

    max_workers: int
    max_tasks_per_worker: int | None = None
    idle_timeout: float = 60.0
    lease: float = 3600.0
    setup: bool = False  # containers may have something to do before their first call
    keep_alive: float = 0.0  # how long idle workers stay after the end for the next process
    max_seconds: float = math.inf  # for how long containers may run, all together
    worker_processes: int = 1
    inboxes: int = 1

    def processes(self, room: int) -> int:
        """How many the next worker has, if `room` calls more may run at once."""
        most = self.max_tasks_per_worker
        return max(1, min(self.worker_processes, room, room if most is None else most))

    def letter_bytes(self, worker: Worker) -> int:
        """How many bytes the calls in a worker's letter may take."""
        return min(INBOX_CALLS * self.inboxes // self.max_workers * worker.processes, ORDER_CALLS)

    @property
    def inline_bytes(self) -> int:
        """How many bytes a call may have that is not uploaded."""
        return inline_limit(math.ceil(self.max_workers / self.inboxes))


class TaskPhase(Enum):
    """Where a task is."""

    __hash__ = object.__hash__  # tasks are counted by it, and that of an enum is slow

    WAITING = auto()  # for other tasks
    UPLOADING = auto()
    READY = auto()
    DELAYED = auto()
    HELD = auto()
    LOSING = auto()
    FETCHING = auto()
    JUDGING = auto()
    UNCLAIMED = auto()  # it ended under an earlier process, and is not yet submitted to this one


class WorkerPhase(Enum):
    """Where a worker is."""

    LAUNCHING = auto()
    ALIVE = auto()
    CONCLUDING = auto()
    ARCHIVING = auto()


# Asked for of each worker at each event, and Python 3.11 finds a member of an enum slowly.
_LAUNCHING, _ALIVE = WorkerPhase.LAUNCHING, WorkerPhase.ALIVE
_QUEUED, _RUNNING = RunState.QUEUED, RunState.RUNNING


@dataclass(slots=True)
class Wait:
    """What is known of a need: how many of its tasks have not ended; 0 once it is decided."""

    need: Need
    left: int


@dataclass(slots=True)
class Task:
    """One task that has not ended."""

    phase: TaskPhase
    terms: Terms = PLAIN_TERMS
    resources: Resources = ANY_RESOURCES
    size: int = 0
    expires: float | None = None  # monotonic time by which it must have begun
    worker: WorkerId | None = None
    given: int = 0  # how often it was handed to a worker
    attempts: int = 0  # how often it was lost after it may have begun
    claimed: bool = True  # submitted to this process, and not only to an earlier one
    end: Answer | Verdict | None = None  # how it ended while UNCLAIMED; None: it never began
    unsent: bool = False  # its call must be uploaded before it is given to a worker
    data: int = 0  # bytes of its pickle, if results of others are added to it
    returned: bool = False  # its function has, with a result that is in a File
    waits: tuple[Wait, ...] = ()
    unmet: int = 0  # how many of these are not met
    blocked: TaskId | None = None  # the task for whose sake one of them cannot be met any more
    refused: frozenset[WorkerId] = frozenset()  # by these workers, each of which was asked once

    def measure(self, policy: Policy) -> None:
        """Its call is known now, with what was added to it: see whether it must be uploaded."""
        self.unsent = self.unsent or self.data > policy.inline_bytes
        self.data = 0

    def grow(self) -> bool:
        """Ask for more memory, if the terms allow; whether they do."""
        now, terms = self.resources.memory, self.terms
        more = min(now * (terms.memory_growth or 1.0), terms.max_memory)
        if more <= now:
            return False
        self.resources = replace(self.resources, memory=more)
        return True


class Tasks:
    """All tasks that have not ended; those that are READY in a queue, by priority, then by age."""

    def __init__(self) -> None:
        self.known: dict[TaskId, Task] = {}
        self.count: Counter[TaskPhase] = Counter()
        # Heaps; entries whose task has meanwhile left that phase are skipped.
        self._ready: dict[tuple[Resources, frozenset[WorkerId]], list[tuple[float, TaskId]]] = {}
        self._delayed: list[tuple[float, TaskId]] = []
        self._expiring: list[tuple[float, TaskId]] = []
        #: Of all that have ended, those whose function has not returned.
        self.failed: set[TaskId] = set()
        # By the tasks that are waited for: who waits, some of whom may have ended meanwhile.
        self._awaited: dict[TaskId, list[tuple[TaskId, Wait]]] = {}
        self._ends: deque[tuple[TaskId, Answer | None]] = deque()  # who waits is not told yet

    def add(self, name: TaskId, task: Task) -> None:
        """A new task."""
        self.known[name] = task
        self.count[task.phase] += 1
        if task.expires is not None:
            heappush(self._expiring, (task.expires, name))
        if task.phase is TaskPhase.READY:
            self._queue(name, task)

    def remove(self, name: TaskId, answer: Answer | None = None) -> Task:
        """The task has ended, with this answer if there is one."""
        task = self.known.pop(name)
        self.count[task.phase] -= 1
        if not task.returned and (answer is None or answer.kind != RETURNED):
            self.failed.add(name)
        self.tell(name, answer)
        return task

    def move(self, name: TaskId, phase: TaskPhase) -> Task:
        """The task is in another phase now."""
        task = self.known[name]
        if phase is TaskPhase.READY and task.unsent:
            phase = TaskPhase.UPLOADING
        self.count[task.phase] -= 1
        self.count[phase] += 1
        task.phase = phase
        if phase is TaskPhase.READY:
            task.worker = None
            self._queue(name, task)
        return task

    def inherit(self, call: Given, worker: WorkerId) -> None:
        """A worker of an earlier process has this call in hand."""
        self.add(call[0], Task(TaskPhase.HELD, worker=worker, given=call[1], claimed=False))

    def claim(self, name: TaskId, found: FoundTask, wish: Task) -> Task:
        """A task that was given away by an earlier process is submitted now, with these terms."""
        if name not in self.known:
            past = Task(TaskPhase.UNCLAIMED, worker=found.worker, given=found.attempt)
            past.end = found.answer
            self.add(name, past)
        task = self.known[name]
        task.terms, task.resources, task.size = wish.terms, wish.resources, wish.size
        task.claimed, task.expires = True, wish.expires
        task.unsent, task.data = wish.unsent, wish.data
        if task.expires is not None:
            heappush(self._expiring, (task.expires, name))
        return task

    def keep(self, name: TaskId, end: Answer | Verdict | None) -> bool:
        """Keep how it ended for who claims it; False if that has been done."""
        task = self.known[name]
        if task.claimed:
            return False
        self.move(name, TaskPhase.UNCLAIMED).end = end
        return True

    # --- what waits for other tasks ------------------------------------------------------------

    def wait_for(self, name: TaskId, needs: tuple[Need, ...]) -> None:
        """A task needs others, which may have ended."""
        task = self.known[name]
        task.waits = tuple(Wait(need, len(need.tasks)) for need in needs)
        task.unmet = len(needs)
        for wait in task.waits:
            for other in wait.need.tasks:
                if self._has_ended(other):
                    _tell(task, wait, other, other not in self.failed)
                else:
                    self._awaited.setdefault(other, []).append((name, wait))

    def _has_ended(self, name: TaskId) -> bool:
        task = self.known.get(name)
        return task is None or task.returned

    def tell(self, name: TaskId, answer: Answer | None) -> None:
        """Tell those that wait for it, in `waiters`, that a task has ended."""
        if name in self._awaited:
            self._ends.append((name, answer))

    def waiters(self) -> Iterator[TaskId]:
        """Those that may begin now, or never, since tasks have ended for which they waited; more
        of these may end meanwhile.
        """
        while self._ends:
            name, answer = self._ends.popleft()
            returned = answer is not None and answer.kind == RETURNED
            for waiting, wait in self._awaited.pop(name, ()):
                task = self.known.get(waiting)
                if task is None:
                    continue
                if wait.need.values and answer is not None and answer.data is not None:
                    inline = answer.data.size if answer.data.file_id is None else 0
                    task.size += inline * 4 // 3  # as text
                    task.data += inline
                _tell(task, wait, name, returned)
                if not task.unmet or task.blocked is not None:
                    yield waiting

    def awaited_by(self, name: TaskId) -> TaskId | None:
        """The first task that this one still waits for, if there is any."""
        open_ = (wait.need.tasks for wait in self.known[name].waits if wait.left)
        tasks = (other for tasks in open_ for other in tasks if not self._has_ended(other))
        return next(tasks, None)

    # --- what may begin, and when --------------------------------------------------------------

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

    def expired(self, now: float) -> tuple[list[TaskId], float | None]:
        """The tasks that should have begun by now, once; and when to ask again, if ever."""
        names: list[TaskId] = []
        while self._expiring:
            expires, name = self._expiring[0]
            if name in self.known:
                if expires > now:
                    return names, expires
                names.append(name)
            heappop(self._expiring)
        return names, None

    def next_ready(self, worker: Worker | None = None) -> TaskId | None:
        """The READY task that is next; of those only that this worker can serve."""
        heads = []
        for (needs, refused), heap in list(self._ready.items()):
            while heap and not self._is_ready(heap[0][1]):
                heappop(heap)
            if not heap:
                del self._ready[needs, refused]
            elif worker is None or (worker.id not in refused and worker.resources.cover(needs)):
                heads.append(heap[0])
        return min(heads)[1] if heads else None

    def give(self, worker: Worker, size: int) -> int:
        """Hand the next READY task that it can serve to a worker; the bytes of its call, 0 if there
        was none.

        It has room for `size` bytes more; the first call that it gets may be of any size.
        """
        name = self.next_ready(worker)
        if name is None or (worker.held and self.known[name].size + CALL_OVERHEAD > size):
            return 0
        task = self.move(name, TaskPhase.HELD)
        task.worker = worker.id
        task.given += 1
        worker.calls_given += 1
        worker.calls.append((name, task.given))
        return task.size + CALL_OVERHEAD

    def size(self, worker: Worker) -> int:
        """The bytes of the calls that a worker holds."""
        held = (self.known.get(name) for name, _ in worker.calls)
        return sum(task.size + CALL_OVERHEAD for task in held if task is not None)

    def holds(self, call: Given, worker: Worker) -> bool:
        """Whether a task is held by this worker, and it is this time that it was given away."""
        task = self.known.get(call[0])
        return (
            task is not None
            and task.phase is TaskPhase.HELD
            and (task.worker, task.given) == (worker.id, call[1])
        )

    def _queue(self, name: TaskId, task: Task) -> None:
        heap = self._ready.setdefault((task.resources, task.refused), [])
        heappush(heap, (-task.terms.priority, name))

    def _is_ready(self, name: TaskId) -> bool:
        task = self.known.get(name)
        return task is not None and task.phase is TaskPhase.READY


def _tell(task: Task, wait: Wait, other: TaskId, returned: bool) -> None:
    """One of the tasks that a task waits for has ended."""
    need = wait.need
    if not wait.left:
        return
    wait.left -= 1
    good = need.success if returned else need.failure
    if good is not need.all:  # which decides it, whatever becomes of the others
        wait.left = 0
    if not wait.left and good:
        task.unmet -= 1
    elif not wait.left and task.blocked is None:
        task.blocked = other


@dataclass(slots=True, eq=False)
class Worker:
    """One container run, from the decision to launch it until its script is archived.

    `calls` are those it has not answered, in the order in which it begins them; it runs `processes`
    of them at once. `revoked` are those of them that it was asked not to begin; it answers these as
    well. Times are monotonic, in seconds.
    """

    id: WorkerId
    resources: Resources = ANY_RESOURCES
    one_shot: bool = False  # it ends after the calls of its launch, and reads no inbox for more
    launch_calls: tuple[Given, ...] = ()  # those that travelled with its launch
    calls: list[Given] = field(default_factory=list)
    revoked: set[Given] = field(default_factory=set)
    # Of the revoked calls, those that an inbox in place names; and as it was when a look began.
    revoked_in_inbox: frozenset[Given] = frozenset()
    revoked_at_look: frozenset[Given] = frozenset()
    calls_given: int = 0  # in all its life
    #: Those revoked that are certain never to begin in it.
    freed: set[Given] = field(default_factory=set)
    phase: WorkerPhase = WorkerPhase.LAUNCHING
    state: RunState = RunState.QUEUED
    launched: float = 0.0  # when its launch began
    at_call_since: float = 0.0  # when it got to the last of its present calls, as looks tell
    began: dict[Given, float] = field(default_factory=dict)  # and to each of these
    idle_since: float = 0.0
    alone: bool = False  # whether the calls that it was given last were the only ones in the inbox
    awaited: float = math.inf  # when it may have answered, at the soonest, what it was given idle
    running_since: float | None = None  # when a look first found it running
    ran: float | None = None  # for how long it has run, once its run is over
    adopted: bool = False  # whether an earlier process has launched it
    begun: bool = False  # whether its run has started, for all we know
    late: set[Given] = field(default_factory=set)  # the calls that should long have ended
    took: Mean = field(default_factory=Mean)  # how long its calls have
    reads: Pause = field(default_factory=Pause)  # until its answers are read without any news
    stop: bool = False  # it has to end after its calls
    cancelled: bool = False  # its run was asked to end
    cancel_asked: float = 0.0  # when it was asked last
    cancel_at: float = 0.0  # when to ask again, if it goes on
    cancel_taken: bool = False  # the platform has taken that
    must_end_by: float | None = None  # when its run is cancelled for a call that does not end
    garbled: bool = False  # its answers cannot be read, so it was given up
    rereads: int = 0  # how often its answers were read after its run was over
    over_since: float | None = None  # when they were read so for the first time
    unread_since: float | None = None  # since when its answers cannot be read
    unread: str = ""  # and why
    unknown_since: float | None = None  # since when its run is in a state that we do not know
    looks_passed: int = 0  # looks that found others running, and this one not started
    overdue: bool = False  # it has waited for longer than a start takes
    recalled: bool = False  # its launch was asked not to happen, if it has not yet
    processes: int = 1

    @classmethod
    def inherited(cls, found: Inherited, now: float) -> Worker:
        """One that an earlier process has launched."""
        known = found.id, found.resources, found.one_shot, found.launch_calls, list(found.calls)
        worker = cls(*known, adopted=True)
        worker.processes, worker.revoked = found.processes, set(found.revoked)
        worker.calls_given, worker.stop = found.calls_given, found.stop
        worker.phase, worker.state = WorkerPhase.ALIVE, found.state
        worker.launched = worker.at_call_since = worker.idle_since = now
        worker.running_since = now if found.state is RunState.RUNNING else None
        worker.note_present(now)
        return worker

    @property
    def present(self) -> list[Given]:
        """The calls that it may be at, if it runs."""
        return self.calls[: self.processes]

    @property
    def free(self) -> int:
        """How many calls more it could begin at once."""
        return max(self.processes - self.held, 0)

    @property
    def fills(self) -> bool:
        """Whether it has not started, and has calls, and room to begin more with them."""
        waits = self.state is RunState.QUEUED and not self.is_passed
        wanted = not (self.ends or self.recalled)
        return self.open and waits and wanted and 0 < self.held < self.processes

    def note_present(self, now: float) -> None:
        """Note which calls it may have come to."""
        self.began = {call: self.began.get(call, now) for call in self.present}
        self.at_call_since = max(self.began.values(), default=self.at_call_since)

    @property
    def open(self) -> bool:
        """Whether it counts against `max_workers`."""
        return self.phase is _LAUNCHING or (self.phase is _ALIVE and not self.state.over)

    @property
    def concluding(self) -> bool:
        """Whether its run is over, and what became of its calls is still being found out."""
        return self.phase is WorkerPhase.CONCLUDING or (self.alive and self.state.over)

    @property
    def alive(self) -> bool:
        """Whether it has a run that is not known to be over."""
        return self.phase is _ALIVE

    @property
    def listens(self) -> bool:
        """Whether it may be given more calls."""
        return self.alive and not self.ends

    @property
    def ends(self) -> bool:
        """Whether it ends after the calls that it has, or has ended."""
        return self.one_shot or self.stop or self.cancelled or self.state.over

    @property
    def running(self) -> bool:
        """Whether its run was seen to run."""
        return self.phase is _ALIVE and self.state is _RUNNING

    @property
    def is_passed(self) -> bool:
        """Whether it waits for its start, though others have started."""
        waits = self.state is _QUEUED and self.looks_passed >= PASSED_OVER
        return waits and self.open and not self.cancelled

    @property
    def held_up(self) -> bool:
        """Whether it has waited so for longer than a start takes: the platform may be full."""
        return self.overdue and self.is_passed

    def passed_over(self, now: float, startup: float) -> None:
        """Take in that a look found others running; a start takes `startup` seconds."""
        waited = now - self.launched
        self.overdue = waited >= (STARTS * startup if self.alive else SLOW_LAUNCH)
        self.looks_passed += self.state is RunState.QUEUED and (self.alive or self.overdue)

    @property
    def reads_inbox(self) -> bool:
        """Whether calls can be taken back from it: not if its only call came with its launch."""
        return not (self.one_shot and len(self.launch_calls) == 1)

    @property
    def held(self) -> int:
        """How many calls it has that are not taken back."""
        return len(self.calls) - len(self.revoked)

    @property
    def unbegun(self) -> list[Given]:
        """Its calls that it cannot have begun, without those that were revoked."""
        calls = self.calls[self.processes :] if self.state is RunState.RUNNING else self.calls
        return [call for call in calls if call not in self.revoked]

    @property
    def owes_answers(self) -> bool:
        """Whether it may post answers before its end."""
        return bool(self.calls) and not (self.one_shot and len(self.calls) == 1)

    def reading(self, now: float, hold: float = 0.0) -> Reading:
        """When a look should read its answers; while one is held, it may be given calls."""
        if not self.calls and not hold:
            return Reading.NEVER
        due = self.owes_answers and self.reads.at <= now
        return Reading.RUNNING if due else Reading.AT_END

    def drop(self, call: Given) -> None:
        """The call is answered, or else not this worker's any more."""
        self.calls.remove(call)
        self.revoked.discard(call)

    def has_said_all(self, complete: bool, now: float) -> bool:
        """Whether no more answers will come from a run that is over; `complete` if this look could
        read its answers.

        A run that succeeded has answered all calls, so its answers are waited for a little longer.
        """
        self.rereads += complete or self.garbled
        if self.over_since is None and self.rereads:
            self.over_since = now
        if self.over_since is None or self.rereads <= REREADS:
            return False
        late = self.state is RunState.SUCCEEDED and now < self.over_since + LATE_ANSWERS
        return self.garbled or not late

    def unreadable(self, report: Report, now: float) -> bool:
        """Take in whether a look could read its answers; whether to give the worker up."""
        if report.read and report.complete:
            self.unread_since = None
        elif report.read and self.unread_since is None:
            self.unread_since = now
        self.unread = self.unread if report.error is None else str(report.error)
        since = now if self.unread_since is None else self.unread_since
        return report.garbled or now - since >= UNREADABLE[report.hopeless]

    def is_over(self, run: Run, now: float) -> bool:
        """Take in what a look tells of its run; whether that is over.

        The API's documentation says that any state but queued and running is final. One that we do
        not know is taken for final only if the run has an end, or stays in it: a state such as
        "pending" would not stay.
        """
        self.begun = self.begun or run.started is not None or run.state is RunState.RUNNING
        if run.state is not RunState.UNKNOWN:
            if run.state is RunState.RUNNING and self.running_since is None:
                self.running_since = self.at_call_since = now
                self.began = dict.fromkeys(self.present, now)
            self.state, self.unknown_since = run.state, None
            over = run.state.over
        else:
            since = self.unknown_since = now if self.unknown_since is None else self.unknown_since
            over = run.finished is not None or now - since >= UNKNOWN_STATE_PATIENCE
        if over:  # of one that was adopted, an earlier process has had a part
            self.ran = (None if self.adopted else run.seconds) or self.seconds(now)
        return over

    def seconds(self, now: float) -> float:
        """For how long it has run, as far as looks tell."""
        since = now if self.running_since is None else self.running_since
        return now - since if self.ran is None else self.ran
