"""A platform and its containers in virtual time, around a real scheduler: what takes how long.

Exact, and the same on a busy machine. Each request takes its time, containers start after
`start(number)` seconds if there is a slot, read the inbox and post answers as the real ones do, in
simpler form. Nothing fails here; that is for the random histories.
"""

from __future__ import annotations

import heapq
import itertools
import math
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

from civis_futures import _wire
from civis_futures._api.budget import Kind, RateBudget
from civis_futures._exceptions import Recalled
from civis_futures._executor.options import READERS
from civis_futures._scheduling import events as e
from civis_futures._scheduling.pacing import linger, turn
from civis_futures._scheduling.scheduler import Scheduler
from civis_futures._scheduling.state import Policy
from civis_futures._types import ANY_RESOURCES, Resources, Run, RunState, TaskId, Terms, WorkerId
from civis_futures._wire import next_turn

INLINE = _wire.Blob.of(b"x")
#: Seconds that requests take: a look, a write of the inbox, a launch (three at a time), others.
LOOK, WRITE, LAUNCH, OTHER = 0.05, 0.08, 0.2, 0.1
LANES = 3
#: As in the worker: a period that is short, and the first pause as a part of a period.
SHORT, PART = 1.5, 1 / 12
#: Seconds by which the platform's clock is ahead.
AHEAD = 1000.0
#: Seconds that the three requests take with which a container posts answers.
POST = 0.1
#: As in the worker: the first pause between two readings, that while its only call runs; and how
#: long the first answers wait for others, unless they may wait for more than CROWDED seconds.
FIRST_PAUSE, CALM, FIRST_LINGER, CROWDED = 0.05, 10.0, 0.5, 30.0
#: As there: who has further calls reads once in so many periods, if one is longer than CALM.
BUSY = 2


@dataclass
class Box:
    """One container run."""

    todo: list[e.Given]
    stop: bool
    ready_at: float
    state: RunState = RunState.QUEUED
    known: set[e.Given] = field(default_factory=set)
    running: e.Given | None = None
    unposted: list[_wire.Answer] = field(default_factory=list)
    posted: list[_wire.Answer] = field(default_factory=list)
    oldest: float = 0.0  # when the first of the unposted ones was there
    letters: int = 0
    idle: float = 0.0  # since when it has no calls
    alone: bool = False  # whether those were the only ones in the inbox
    looked: float = 0.0  # when it read the inbox
    asking: bool = False  # it reads the inbox, or waits until it may
    reading: int = 0  # only the last reading that was planned takes place
    linger: float = 0.5
    longest: float = 0.5
    poll: float = 0.25
    posted_at: float = -math.inf
    posting: int = 0  # posts that are under way


@dataclass
class Virtual:
    """One pool on one platform; `seconds` until all calls are done, as far as they are.

    `durations` are those of the calls, in seconds; `later` says when which of them are submitted,
    if not all at once. `stuck` are the numbers of the starts that never come about.
    """

    durations: Sequence[float]
    workers: int
    slots: float = math.inf
    start: Callable[[int], float] = lambda _: 0.1
    pace: float = 0.0
    stuck: frozenset[int] = frozenset()
    later: Sequence[tuple[float, Iterable[int]]] = ()
    resources: dict[int, Resources] = field(default_factory=dict)
    max_tasks_per_worker: int | None = None
    longest: float = 5000.0
    #: Requests in 300 s that the platform allows; looks and pauses then go by what is left of them,
    #: and whoever asks for more waits.
    limit: int | None = None
    idle_timeout: float = 60.0
    #: How much longer than others the container of this number takes for a call.
    slow: dict[int, float] = field(default_factory=dict)
    #: By how many seconds the clock of the container of this number is wrong.
    wrong_by: Callable[[int], float] = lambda _: 0.0

    def __post_init__(self) -> None:
        inboxes = self._inboxes = math.ceil(self.workers / READERS)
        policy = Policy(self.workers, self.max_tasks_per_worker, self.idle_timeout, inboxes=inboxes)
        self.scheduler = Scheduler(policy, jitter=lambda: 0.5)
        self.now = 0.0
        self.seconds = math.inf
        self.starts = 0
        self.begun: Counter[int] = Counter()
        self.began: dict[int, float] = {}
        self.submitted: dict[int, float] = {}
        self.asked: list[float] = []  # when requests were made
        self.asked_for: Counter[str] = Counter()  # and what for
        self._budget = RateBudget(self.limit or 10**6, clock=lambda: self.now)
        self.ended: dict[int, float] = {}
        self._boxes: dict[WorkerId, Box] = {}
        self._inbox: dict[WorkerId, e.LetterContent] = {}
        self._poll = self._linger = 0.0  # what the inbox says of them, if anything
        self._events: list[tuple[float, int, Callable[..., None], tuple[Any, ...]]] = []
        self._numbers = itertools.count()
        self._launches: list[e.Launch] = []
        self._recalled: set[WorkerId] = set()
        self._lanes = self._step = 0
        for at, names in self.later or [(0.0, range(len(self.durations)))]:
            self._after(at, self._submit, list(names))
        while self._events and self.now < self.longest and len(self.ended) < len(self.durations):
            at, _, do, args = heapq.heappop(self._events)
            self.now = max(self.now, at)
            do(*args)
        if len(self.ended) == len(self.durations):
            self.seconds = max(self.ended.values())

    def _after(self, seconds: float, do: Callable[..., None], *args: Any) -> None:
        heapq.heappush(self._events, (self.now + seconds, next(self._numbers), do, args))

    @property
    def requests(self) -> int:
        return len(self.asked)

    @property
    def _pace(self) -> float:
        return self._budget.pace if self.limit else self.pace

    def _ask(self, what: str, number: int, then: Callable[..., None], *args: Any) -> None:
        """Make so many requests, as soon as each may be made, and then do something."""
        while number:
            kind = Kind.RUN if what == "launch" and number == 1 else Kind.GENERAL
            kind = Kind.LOOK if what == "look" else kind
            if (wait := self._budget.delay(kind)) > 0:
                # A container does not know the budget: it is refused, and told when to come again.
                pause = math.ceil(wait) if what in ("read", "post") else wait
                self._after(pause, self._ask, what, number, then, *args)
                return
            self.asked.append(self.now)
            self.asked_for[what] += 1
            number -= 1
        then(*args)

    def _submit(self, names: list[int]) -> None:
        self.submitted.update(dict.fromkeys(names, self.now))
        first, *rest = [
            e.Submitted(
                TaskId(name),
                size=100,
                terms=Terms(resources=self.resources.get(name, ANY_RESOURCES)),
            )
            for name in names
        ]
        self._send(first, rest)

    def _send(self, event: e.Event, more: Iterable[e.Event] = ()) -> None:
        for command in self.scheduler.advance(event, self.now, more):
            self._obey(command)
        self._step += 1
        if (at := self.scheduler.deadline) is not None:
            self._after(max(at - self.now, 0.0) + 1e-4, self._tick, self._step)

    def _tick(self, turn: int) -> None:
        if turn == self._step:  # else something has happened meanwhile
            self._send(e.Tick())

    def _obey(self, command: e.Command) -> None:
        match command:
            case e.Prepare():
                self._after(OTHER, self._send, e.Done(e.Prepare(), e.Prepared(self._pace, AHEAD)))
            case e.Launch():
                self._launches.append(command)
                self._launch()
            case e.Recall():
                self._recalled.add(command.worker)
                self._launch()
            case e.WriteInbox():
                self._write(command)
            case e.Look():
                self._ask("look", 1, self._after, LOOK, self._looked, command)
            case e.CancelRun():
                self._ask("cancel", 1, self._after, OTHER, self._cancelled, command.worker)
            case e.Archive():
                self._ask("archive", 1, self._after, OTHER, self._send, e.Done(command))
            case e.Settle():
                self.ended[command.task] = self.now
            case e.Again():
                pass
            case _:
                raise AssertionError(command)

    def _launch(self) -> None:
        for command in [each for each in self._launches if each.worker in self._recalled]:
            self._launches.remove(command)
            self._after(0.0, self._send, e.Failed(command, Recalled()))
        while self._launches and self._lanes < LANES:
            self._lanes += 1
            launch = self._launches.pop(0)
            self._ask("launch", 3, self._after, LAUNCH, self._launched, launch)

    def _launched(self, command: e.Launch) -> None:
        self._lanes -= 1
        self.starts += 1
        takes = math.inf if self.starts in self.stuck else self.start(self.starts)
        box = Box(list(command.calls), command.one_shot, self.now + takes, known=set(command.calls))
        box.poll, box.longest = command.period, linger(command.readers, self._pace)
        self._boxes[command.worker] = box
        if takes < math.inf:
            self._after(takes, self._fill)
        self._send(e.Done(command))
        self._launch()

    def _fill(self) -> None:
        """Start those that may, first come first, as far as there are slots."""
        active = sum(box.state is RunState.RUNNING for box in self._boxes.values())
        for worker, box in self._boxes.items():
            if box.state is RunState.QUEUED and box.ready_at <= self.now and active < self.slots:
                box.state = RunState.RUNNING
                active += 1
                self._read(worker)

    def _cancelled(self, worker: WorkerId) -> None:
        box = self._boxes.get(worker)
        if box is not None and not box.state.over:
            box.state = RunState.CANCELLED
            self._fill()
        self._send(e.Done(e.CancelRun(worker)))

    def _write(self, command: e.WriteInbox) -> None:
        """One request for each inbox with something new."""
        new = {letter.worker: letter for letter in command.letters}
        names = new.keys() | self._inbox.keys()
        changed = {n % self._inboxes for n in names if new.get(n) != self._inbox.get(n)}
        all_ = command.whole or command.period != self._poll or not changed
        number = self._inboxes if all_ else len(changed)
        self._ask("write", number, self._after, WRITE, self._written, command)

    def _written(self, command: e.WriteInbox) -> None:
        self._inbox = {letter.worker: letter for letter in command.letters}
        self._poll = command.period
        self._linger = linger(command.workers, self._pace)
        self._send(e.Done(command))

    def _looked(self, command: e.Look) -> None:
        reports, asked = [], len(command.ask_directly)
        for worker, reading in command.workers:
            box, answers = self._boxes[worker], ()
            wanted = reading is not e.Reading.NEVER and (box.posted or box.state.over)
            if wanted:
                answers, box.posted = tuple(box.posted), []
                asked += 1
            run = Run(int(worker), box.state, box.state.value)
            sure = worker in command.ask_directly
            reports.append(
                e.Report(
                    worker,
                    run,
                    answers,
                    read=bool(wanted),
                    letters_posted=box.letters,
                    asked_directly=sure,
                )
            )
        self._ask("answers", asked, self._seen, command, tuple(reports))

    def _seen(self, command: e.Look, reports: tuple[e.Report, ...]) -> None:
        self._send(e.Done(command, e.Looked(reports, 1, self._pace, ahead=AHEAD)))

    def _read(self, worker: WorkerId, number: int = 0) -> None:
        """A container reads the inbox, and plans to do so again."""
        box = self._boxes[worker]
        if box.state is RunState.RUNNING and number == box.reading and not box.asking:
            box.asking = True
            self._ask("read", 1, self._has_read, worker)

    def _has_read(self, worker: WorkerId) -> None:
        box = self._boxes[worker]
        box.asking = False
        if box.state is not RunState.RUNNING:
            return
        box.looked = self.now
        box.poll, box.longest = self._poll or box.poll, self._linger or box.longest
        letter = self._inbox.get(worker, e.LetterContent(worker))
        new = [call for call in letter.calls if call not in box.known]
        box.todo += new
        if new:
            box.alone = len(self._inbox) == 1
        box.known.update(new)
        box.stop = box.stop or letter.stop
        for call in letter.revoked + letter.ended:
            if call in box.todo or call not in box.known:
                box.known.add(call)
                if call in box.todo:
                    box.todo.remove(call)
                self._answer(box, call, _wire.REVOKED, self.now)
        self._work(worker)
        self._plan(worker)

    def _plan(self, worker: WorkerId) -> None:
        """The next reading of the inbox."""
        box = self._boxes[worker]
        if box.asking:
            return
        box.reading += 1
        at = box.looked + max(box.poll, CALM)
        if box.todo or not box.running:
            pause = abs(box.looked - box.idle) + max(FIRST_PAUSE, box.poll * PART)
            wrong = AHEAD + self.wrong_by(worker)
            at = box.looked + pause
            if box.todo or pause >= box.poll or (box.alone and box.poll > SHORT):
                period = box.poll * (BUSY if box.todo and box.poll > CALM else 1)
                at = next_turn(turn(worker), period, box.looked + wrong) - wrong
        self._after(max(at - self.now, 0.0) + 0.001, self._read, worker, box.reading)

    def _work(self, worker: WorkerId) -> None:
        box = self._boxes[worker]
        if box.running is not None or box.state is not RunState.RUNNING:
            return
        if box.todo:
            box.running = box.todo.pop(0)
            name = box.running[0]
            self.begun[name] += 1
            self.began[name] = self.now
            takes = self.durations[name] * self.slow.get(worker, 1.0)
            self._after(takes, self._end, worker, box.running, self.now)
        else:
            self._post(box)
            self._end_if_done(box)

    def _end(self, worker: WorkerId, call: e.Given, begun: float) -> None:
        box = self._boxes[worker]
        if box.running != call or box.state is not RunState.RUNNING:
            return
        box.running = None
        self._answer(box, call, _wire.RETURNED, begun)
        self._work(worker)
        if not box.todo and not box.running:
            box.idle = self.now
        self._plan(worker)

    def _answer(self, box: Box, call: e.Given, kind: str, begun: float) -> None:
        data = INLINE if kind == _wire.RETURNED else None
        task, attempt = call
        if not box.unposted and self.now - box.posted_at > 2 * box.longest:
            box.linger = FIRST_LINGER
        box.unposted.append(
            _wire.Answer(task, kind, data, attempt=attempt, started=begun, finished=self.now)
        )
        few = bool(box.todo) and len(box.unposted) >= len(box.todo) and box.longest <= CROWDED
        if len(box.unposted) == 1:
            box.oldest = self.now
        elif not few and kind != _wire.REVOKED:
            return  # it goes with the first
        wait = self._patience(box)
        if few:
            wait = min(wait, max(FIRST_LINGER, box.longest / 2))
        if kind == _wire.REVOKED:
            wait = 0.0
        self._after(max(box.oldest + wait - self.now, 0.0), self._post, box, box.oldest)

    @staticmethod
    def _patience(box: Box) -> float:
        """Seconds that its answers wait now for others."""
        least = box.longest / 4 if box.longest > CROWDED else 0.0
        return min(max(box.linger, least), box.longest)

    def _post(self, box: Box, oldest: float | None = None) -> None:
        """The answers and the name of the script, in three requests."""
        if box.unposted and (oldest is None or box.oldest == oldest):
            box.posted_at = self.now
            box.linger = box.longest
            going, box.unposted = box.unposted, []
            box.posting += 1
            self._ask("post", 3, self._after, POST, self._arrive, box, going)

    def _arrive(self, box: Box, going: list[_wire.Answer]) -> None:
        box.posted += going
        box.letters += 1
        box.posting -= 1
        self._end_if_done(box)

    def _end_if_done(self, box: Box) -> None:
        busy = box.todo or box.running or box.unposted or box.posting
        if box.stop and not busy and box.state is RunState.RUNNING:
            box.state = RunState.SUCCEEDED
            self._fill()
