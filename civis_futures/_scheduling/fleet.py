"""The workers of a pool: started, given calls, looked after, let go. Pure, as the scheduler is.

A worker is one container run::

    LAUNCHING ──> ALIVE ──> CONCLUDING (over, with calls unanswered) ──> ARCHIVING ──> gone

This module decides which worker gets which calls and when to write and look; what becomes of a task
is the scheduler's. Calls run in the order in which a worker has them.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass, field

from .._pacing import Pacing
from .._types import Resources, RunState, TaskId, WorkerId
from .._wire import (
    CALL_NOT_FETCHED,
    CALL_UNPICKLING,
    INITIALIZER,
    MISSING_MODULE,
    PYTHON_MISMATCH,
    REVOKED,
    Answer,
)
from . import events as e
from .looks import Looks, Observation, took
from .pacing import BEATS, LAST_REPEAT, REPEAT, Ramp, RetriedRequest, Shares, Step, affordable
from .state import Policy, TaskPhase, Tasks, Worker, WorkerPhase

#: Seconds after which a cancel that shows no effect is repeated.
CANCEL_AGAIN = 30.0
#: Seconds that a worker has to end a call when asked to, besides the time until it hears of that.
CANCEL_PATIENCE = 10.0
#: Up to this many tasks may all start at once, before a container has shown that it can run them.
FEW = 8
#: The launches that are under way at a time, which is more than the launch lane makes at a time;
#: and those that begin every AGAIN_SECONDS where the platform seems to be full.
MOST_UNDER_WAY, AGAIN_SECONDS = 8, 5.0
#: Seconds between the answer of a container that cannot run its call and the start of another one.
HESITATION = 1.0


@dataclass
class Fleet:
    """All workers of a pool, and what is known of how to treat them."""

    policy: Policy
    tasks: Tasks
    pacing: Pacing = field(default_factory=Pacing)
    workers: dict[WorkerId, Worker] = field(default_factory=dict)
    ramp: Ramp = field(default_factory=Ramp)
    shares: Shares = field(default_factory=Shares)
    looks: Looks = field(default_factory=Looks)
    launching: RetriedRequest = field(default_factory=RetriedRequest)
    starting: RetriedRequest = field(default_factory=RetriedRequest)  # fails by false starts
    writing: RetriedRequest = field(default_factory=RetriedRequest)
    cancelling: RetriedRequest = field(default_factory=RetriedRequest)
    _stale: bool = False  # the inbox on the platform is not what it should be
    # Which calls the inbox that is being written revokes.
    _sent: dict[WorkerId, frozenset[e.Given]] = field(default_factory=dict)
    #: Workers that stay for the next process, once the inbox says so.
    handed_on: set[WorkerId] = field(default_factory=set)
    _told: bool = False  # the inbox that is being written says so
    _overdue: list[Worker] = field(default_factory=list)  # as of the last look
    _beat: float = 0.0  # when the inbox was written
    _whole: float = -math.inf  # and when all inboxes were, unless that is in doubt
    _repeat: float = math.inf  # seconds from then until it is written again as it is
    _launched_at: float = 0.0  # when a worker was launched last
    _started: int = 0  # the highest number of a worker that has started
    _period: float = 0.0  # of idle workers' turns, as the inbox says that is being written
    lag: float = 0.0  # how many seconds an answer may be old when a look shows it
    startup: float = 0.0  # seconds from a launch until a look finds it running; a moving mean
    #: Since when another pool of this process has a container that waits for room, if one has.
    others_wait_since: float | None = None
    highest_id: int = 0  # the highest number that a worker has had
    _had: set[Resources] = field(default_factory=set)  # sizes that the platform has started

    # --- giving calls --------------------------------------------------------------------------

    def give(self, step: Step, but: Collection[WorkerId]) -> None:
        """Calls for workers that have room, `but` for these; those first that can begin soon."""
        if not self.tasks.count[TaskPhase.READY]:
            return
        surplus, horizon = self._surplus().union(but), self.horizon()
        workers = [
            w
            for w in self.listening()
            if (w.running or w.fills) and w.id not in surplus and not self.is_busy(step, w, horizon)
        ]
        if (leaving := self._in_the_way(step, workers, horizon)) is not None:
            workers.remove(leaving)
            if not leaving.held:
                self._let(step, leaving)
        idle = {worker.id for worker in workers if not worker.calls}
        workers.sort(key=lambda w: (bool(w.held), self.looks.reads_at(w, step.now)))
        for worker in self._deal(step, workers):
            worker.note_present(step.now)
            worker.stop = worker.calls_given == self.policy.max_tasks_per_worker
            seconds = (self.shares.seconds or 0.0) * len(worker.calls) / worker.processes
            self.news(step, worker, seconds if worker.id in idle else None)

    def _in_the_way(self, step: Step, workers: list[Worker], horizon: float) -> Worker | None:
        """Who must run out, to make room for a container that can serve the oldest call: if none
        can; or one that is idle and has refused it, if who can has been at others for long.
        """
        name, open_ = self.tasks.next_ready(), [w for w in self.workers.values() if w.open]
        leaving = any(worker.stop or worker.cancelled for worker in open_)
        if leaving or not workers or name is None or self.room_left() > 0:
            return None  # there is room, or there will be
        if not self.some_serve(open_)(name):
            return min(workers, key=lambda worker: len(worker.calls))
        refused, late = self.tasks.known[name].refused, step.now - horizon
        idle = [w for w in workers if w.id in refused and not w.calls]
        able = (worker for worker in open_ if self.serves(worker, name))
        return idle[0] if idle and all(w.held and w.at_call_since < late for w in able) else None

    def launch(self, step: Step) -> None:
        """New workers for the calls that are left, while there is room for workers."""
        new: list[Worker] = []
        while (name := self.tasks.next_ready()) is not None and not self._room_is_coming(name):
            allowed = step.may(self.launching) and step.may(self.starting)
            if not (allowed and self._may_launch(step)):
                break
            self.highest_id += 1
            worker = Worker(WorkerId(self.highest_id), self.tasks.known[name].resources)
            worker.processes = self.policy.processes(self.room_left())
            self.workers[worker.id] = worker
            size = self.policy.letter_bytes(worker) - self.tasks.give(worker, 0)
            while worker.free and (more := self.tasks.give(worker, size)):
                size -= more
            self.ramp.start(step.now)
            new.append(worker)
        if not self._is_full():  # or they would only wait with it
            self._deal(step, new)
        sharing, turns = self.sharing(), self.looks.turns
        if new:
            self._launched_at = step.now
            turns.begin(step.now, sharing, self.looks.pace)
        for w in new:
            w.launch_calls, w.launched = tuple(w.calls), step.now
            w.note_present(step.now)
            w.one_shot = w.calls_given == self.policy.max_tasks_per_worker
            said = w.launch_calls, w.one_shot, w.resources
            step.do(e.Launch(w.id, *said, sharing, w.processes, turns.period))

    def room_left(self) -> int:
        """How many calls more could run at once, in workers that there are not yet."""
        open_ = sum(worker.processes for worker in self.workers.values() if worker.open)
        return self.policy.max_workers - open_

    def _room_is_coming(self, name: TaskId) -> bool:
        """Whether launches that are under way bring room for this call, and for all others."""
        coming = (w for w in self.workers.values() if w.fills and not w.alive)
        room = sum(worker.free for worker in coming if self.serves(worker, name))
        return room >= self.tasks.count[TaskPhase.READY]

    def _may_launch(self, step: Step) -> bool:
        """Whether there may be one more worker."""
        number = sum(worker.open for worker in self.workers.values())
        under_way = sum(w.phase is WorkerPhase.LAUNCHING for w in self.workers.values())
        if under_way >= MOST_UNDER_WAY:
            return False  # calls that would wait for the next ones may as well wait for any
        # Where the platform is full, the next one would wait, too; but perhaps it would not.
        if self._is_full() and (again := self._launched_at + AGAIN_SECONDS) > step.now:
            step.wake(again)
            return False
        few = len(self.tasks.known) <= FEW and not self.ramp.unfit
        if self.ramp.proven or few:
            return self.room_left() > 0
        unclear = sum(worker.concluding for worker in self.workers.values())
        if self.starting.failures and number + unclear:
            return False  # first see whether the others start
        width, at = self.ramp.width(step.now, self.pacing.probe)
        if number + unclear >= width:
            if at is not None:
                step.wake(at)
            return False
        return self.room_left() > 0

    def _deal(self, step: Step, workers: list[Worker]) -> list[Worker]:
        """Deal calls out to these workers, in turns, so that the oldest begin first.

        Each gets as many as it should have; the share of those that may still come is left to them.
        Returns those that got any.
        """
        here, ready = self.policy.max_workers - self.room_left(), self.tasks.count[TaskPhase.READY]
        # More would cost more requests than they are worth.
        most = affordable(ready, self.shares.seconds, self.looks.pace)
        fair, sharing = max(self.fair_share(step), math.ceil(ready / most)), self._sharers()
        spare = fair * max(min(self._width() - here, most - len(workers)), 0)
        if most < len(workers):
            workers = [w for w in workers if self.tasks.next_ready(w) is not None][:most]
        letters = {w.id: self.policy.letter_bytes(w) - self.tasks.size(w) for w in workers}
        got: dict[WorkerId, Worker] = {}
        while workers:
            hungry = []
            for worker in workers:
                left = self.tasks.count[TaskPhase.READY]
                if left <= (0 if worker.free else spare):
                    continue
                horizon = self.looks.horizon(self._some_of(*sharing, left))
                if self.room(step, worker, fair, horizon) > 0:
                    size = self.tasks.give(worker, letters[worker.id])
                    if size:
                        letters[worker.id] -= size
                        got[worker.id] = worker
                        hungry.append(worker)
            workers = hungry
        return list(got.values())

    def room(self, step: Step, worker: Worker, fair: int, horizon: float) -> int:
        """How many more calls a worker should have, if `fair` calls are its share."""
        number = self.shares.number(fair, horizon, worker.took) * worker.processes
        number -= self._to_do(step, worker)
        limit = self.policy.max_tasks_per_worker
        return number if limit is None else min(number, limit - worker.calls_given)

    def _to_do(self, step: Step, worker: Worker) -> int:
        """About how many of its calls a worker still has to do. For all that is known, it goes on
        with them since a look showed the last answers; unless more of these would be seen by now.
        """
        age = step.now - worker.at_call_since
        done = self.shares.done(worker.took, age) * worker.processes if age < self.lag else 0
        return max(worker.held - done, 0) if worker.running else worker.held

    def fair_share(self, step: Step) -> int:
        """How many calls there are for each that can run at once, now or soon."""
        held = sum(self._to_do(step, worker) for worker in self.workers.values() if worker.open)
        return math.ceil((self.tasks.count[TaskPhase.READY] + held) / self._width())

    def _width(self) -> int:
        """How many calls can run at once, now or soon."""
        most = self.policy.max_workers - (self.room_left() if self._is_full() else 0)
        return max(most - sum(worker.processes for worker in self.held_up), 1)

    @property
    def held_up(self) -> list[Worker]:
        """Open ones that wait for their start for longer than one takes, while others run."""
        return [w for w in self._overdue if w.held_up and w.id in self.workers]

    def _is_full(self) -> bool:
        """Whether the platform has room for no more workers: some of them wait for their start. One
        of which a later one has started waits for a reason of its own.
        """
        return any(worker.id > self._started for worker in self.held_up)

    def is_busy(self, step: Step, worker: Worker, horizon: float) -> bool:
        """Whether a worker has work for more than half of the `horizon`, until it can get more.

        Then it gets more later, since each time costs requests. The same holds for one that has
        been at its call for long, since its end cannot be foreseen.
        """
        if worker.free:
            return False
        if self.shares.seconds is None or step.now - worker.at_call_since > horizon:
            return True
        return worker.held * self.shares.each(worker.took) > horizon / 2 * worker.processes

    def serves(self, worker: Worker, name: TaskId) -> bool:
        """Whether a worker can do this task's call, and has not refused it."""
        task = self.tasks.known.get(name)
        if task is None or worker.id in task.refused:
            return False
        return worker.resources.cover(task.resources)

    def some_serve(self, workers: Iterable[Worker]) -> Callable[[TaskId], bool]:
        """What tells whether one of these workers serves a task: for many tasks."""
        sizes: dict[Resources, set[WorkerId]] = {}
        for worker in workers:
            sizes.setdefault(worker.resources, set()).add(worker.id)

        def serve(name: TaskId) -> bool:
            if (task := self.tasks.known.get(name)) is None:
                return False
            return any(
                size.cover(task.resources) and not names <= task.refused
                for size, names in sizes.items()
            )

        return serve

    def release(self, step: Step, call: e.Given, worker: Worker) -> None:
        """A call is not wanted any more: it must not begin, and must end if it has.

        Only the end of its container is certain to end it. If other calls are in there with it, the
        worker is asked to end this call alone, and has some time to say that it did.
        """
        if not any(self.tasks.holds(other, worker) for other in worker.calls):
            worker.drop(call)
            self.cancel(step, worker)
            return
        self.take_back(step, call, worker)
        if worker.must_end_by is None:
            worker.must_end_by = step.now + self.horizon() + CANCEL_PATIENCE

    def take_back(self, step: Step, call: e.Given, worker: Worker) -> None:
        """Ask a worker not to begin a call that it was given; it will say whether it has not."""
        worker.revoked.add(call)
        self.news(step, worker)

    # --- the inbox -----------------------------------------------------------------------------

    def write(self, step: Step) -> None:
        """Write the inbox if it is not up to date, or if it has not changed for long."""
        readers = [w for w in self.workers.values() if w.alive]
        sign = self.policy.lease / BEATS
        whole = self.policy.inboxes == 1 or self._whole + sign <= step.now
        if readers:
            told = any(worker.calls or worker.stop or worker.revoked for worker in readers)
            beat = self._beat + min(sign, self._repeat if told else math.inf)
            whole = whole or beat <= step.now
            listen = any(w.listens and len(w.calls) > w.processes for w in readers)
            off = listen and self.looks.turns.are_off(self.sharing(), self.looks.pace)
            if self._stale or off:  # each write doubles it
                least = max(REPEAT, 2 * self.looks.turns.period)
                self._repeat = (least if any(w.calls for w in readers) else LAST_REPEAT) / 2
            self._stale = self._stale or off or beat <= step.now
            if not self._stale:
                step.wake(beat)
        if not self._stale or not step.may(self.writing):
            return
        self._stale = False
        if not readers:
            return
        self.writing.busy = True
        for worker in readers:
            worker.revoked_in_inbox &= self._taken_back(worker)  # which each version has
        every = map(self._letter, readers)
        letters = tuple(letter for letter in every if letter != e.LetterContent(letter.worker))
        for worker in (self.workers[each.worker] for each in letters if each.calls):
            worker.alone = len(letters) == 1
        self._repeat = 2 * self._repeat if letters else math.inf
        # Even if there is no letter: a call that was dropped must not stay in there.
        sharing = self.sharing()
        self._period = self.looks.turns.fitting(sharing, self.looks.pace)
        self._told = bool(self.handed_on)
        lease = self.policy.keep_alive if self._told else None
        self._whole = step.now if whole else self._whole
        step.do(e.WriteInbox(letters, sharing, self._period, lease, whole))
        self._sent = {worker.id: self._taken_back(worker) for worker in readers}

    def _taken_back(self, worker: Worker) -> frozenset[e.Given]:
        """Calls that this worker shall not begin, and may have begun for all we know."""
        return frozenset(call for call in worker.revoked if self.tasks.holds(call, worker))

    def _letter(self, worker: Worker) -> e.LetterContent:
        """All that a worker shall know now."""
        others = {*worker.revoked, *worker.launch_calls}
        revoked = sorted(worker.revoked)
        return e.LetterContent(
            worker.id,
            tuple(call for call in worker.calls if call not in others),
            worker.stop,
            tuple(call for call in revoked if self.tasks.holds(call, worker)),
            tuple(call for call in revoked if not self.tasks.holds(call, worker)),
        )

    def opened(self, step: Step) -> None:
        """There is an inbox."""
        self._beat = step.now

    def written(self, step: Step) -> None:
        """The inbox is as it should be."""
        self.looks.turns.tell(step.now, self._period)
        self.writing = RetriedRequest()
        self._beat = step.now
        for name, revoked in self._sent.items():
            if name in self.workers:
                self.workers[name].revoked_in_inbox = revoked
        for name in self.handed_on.intersection(self.workers) if self._told else ():
            if self.workers[name].alive:  # or its script is being archived
                del self.workers[name]

    def write_failed(self) -> None:
        """The inbox may be as it was."""
        self._stale, self._whole = True, -math.inf

    def news(self, step: Step, worker: Worker, seconds: float | None = None) -> None:
        """There is something to tell this worker, and soon to hear from it."""
        self._stale = True
        self.looks.fed(step, worker, seconds)

    # --- what a look tells ---------------------------------------------------------------------

    def looked(self, step: Step, looked: e.Looked) -> list[Observation]:
        """Take in the states of those workers that are alive."""
        seen = self.looks.looked(step, looked, self.workers)
        self.lag = self.looks.lag(self.sharing())
        for each in seen:
            if each.worker.running:
                self._proof(step, each.worker)
        for each in seen:
            if each.changed and each.worker.running:
                self._begun(step, each.worker)
        if any(worker.running for worker in self.workers.values()):
            for worker in self.workers.values():
                worker.passed_over(step.now, self.startup)
            self._overdue = [worker for worker in self.workers.values() if worker.held_up]
        for each in seen:
            self.shares.learn_from(each.worker.took, took(each))
        return seen

    def _begun(self, step: Step, worker: Worker) -> None:
        """A worker has started."""
        self._started = max(self._started, worker.id)
        if not worker.overdue:  # how long it was held up says nothing of how long a start takes
            took = step.now - worker.launched
            self.startup = (self.startup + took) / 2 if self.startup else took

    def freed(self, seen: list[Observation]) -> list[e.Given]:
        """Calls that were revoked before their worker had started: it will know when it does.

        To be sure of that, the run was asked for directly, after the inbox had been written.
        """
        free = []
        for worker, report in ((each.worker, each.report) for each in seen):
            queued = report.run is not None and report.run.state is RunState.QUEUED
            if report.asked_directly and queued:
                calls = worker.revoked_at_look & self._taken_back(worker)
                worker.revoked_in_inbox -= calls
                worker.freed |= calls
                free += sorted(calls)
        return free

    def answered(self, step: Step, worker: Worker, call: e.Given, answer: Answer) -> None:
        """A worker is through with a call."""
        worker.drop(call)
        worker.note_present(step.now)
        worker.idle_since = worker.at_call_since = step.now
        if worker.must_end_by is not None:
            worker.must_end_by = step.now + self.horizon() + CANCEL_PATIENCE
        for other in worker.present:
            if self.tasks.holds(other, worker):
                worker.revoked.discard(other)  # too late: it has begun, or it will say so
        self._learn(step, answer)

    def _learn(self, step: Step, answer: Answer) -> None:
        """Whether containers can do the work at all."""
        if answer.kind in (MISSING_MODULE, PYTHON_MISMATCH, CALL_UNPICKLING):
            self.ramp.unfit = not self.ramp.proven
            if self.ramp.unfit:  # who hears of it may want no more of them
                self.starting.not_before = step.now + HESITATION
        elif answer.kind not in (REVOKED, CALL_NOT_FETCHED, INITIALIZER):
            self._proven()

    def _proven(self) -> None:
        self.ramp.proven = True
        self.starting = RetriedRequest()

    def is_odd(self, resources: Resources) -> bool:
        """Whether no container of this size has been started, while other tasks ask for others."""
        if resources in self._had:
            return False
        return bool(self._had) or any(
            task.resources != resources for task in self.tasks.known.values()
        )

    def launched(self, step: Step, worker: Worker) -> None:
        """It has a run."""
        self.launching = RetriedRequest()
        self._had.add(worker.resources)
        worker.phase, worker.recalled, worker.looks_passed = WorkerPhase.ALIVE, False, 0
        worker.idle_since = step.now
        self.looks.begin(step, worker)
        if worker.cancelled:
            self.cancel(step, worker)
        elif worker.revoked:
            self.news(step, worker)

    def _proof(self, step: Step, worker: Worker) -> None:
        """A worker runs; if it goes on so, containers do what they should."""
        assert worker.running_since is not None
        proof_at = worker.running_since + self.pacing.proof
        if not self.ramp.proven and not self.ramp.unfit:
            if proof_at <= step.now:
                self._proven()
            else:
                self.looks.soon(step)

    def horizon(self) -> float:
        """About how many seconds pass until a worker that has run out gets more."""
        return self.looks.horizon(self.sharing())

    def sharing(self) -> int:
        """How many workers share the budget: those that there are, and those that will come."""
        return self._some_of(*self._sharers(), self.tasks.count[TaskPhase.READY])

    def _sharers(self) -> tuple[int, int]:
        """How many they are now, and how many they may become."""
        number = sum(worker.open for worker in self.workers.values()) - len(self.held_up)
        most = math.ceil(self._width() / self.policy.worker_processes)
        return number, max(most, number)  # more than `max_workers`, perhaps, as yet

    def _some_of(self, now: int, most: int, coming: int) -> int:
        """How many share it, with as many tasks `coming` for which there is none."""
        return max(1, min(now + math.ceil(coming / self.policy.worker_processes), most))

    # --- the end of a worker -------------------------------------------------------------------

    def let_go(self, step: Step, coming: bool) -> None:
        """Idle workers end: at once if no task is `coming`, else after `idle_timeout`."""
        free = [worker for worker in self.listening() if not worker.held]
        idle = [worker for worker in free if not self._taken_back(worker)]
        wanted = self._room_wanted() if idle else []
        surplus = self._surplus()
        for worker in idle:
            if worker.id in self.handed_on:
                continue
            leave_at = worker.idle_since + self.policy.idle_timeout
            # It is of no use to make room again for what has not taken it.
            makes_room = bool(wanted) and worker.running and worker.launched < wanted[-1]
            in_the_way = worker.id in surplus or (
                self.others_wait_since is not None and worker.launched < self.others_wait_since
            )
            if leave_at > step.now and coming and not makes_room and not in_the_way:
                step.wake(leave_at)
                continue
            if makes_room:
                wanted.pop()
            self._let(step, worker)

    def _surplus(self) -> set[WorkerId]:
        """Those that are too many since `max_workers` was lowered: those with the least to do."""
        staying = [w for w in self.workers.values() if w.open and not (w.stop or w.cancelled)]
        too_many = sum(worker.processes for worker in staying) - self.policy.max_workers
        leaving = set()
        for worker in sorted(staying, key=lambda worker: worker.held):
            if too_many > 0:
                leaving.add(worker.id)
                too_many -= worker.processes
        return leaving

    def _room_wanted(self) -> list[float]:
        """When those were launched, in order, that wait for their start with calls that none which
        runs could do; without as many of them as there are workers about to make room.
        """
        open_ = [worker for worker in self.workers.values() if worker.open]
        serve = self.some_serve(w for w in open_ if w.running and w.listens)
        leaving = sum(worker.running and (worker.stop or worker.cancelled) for worker in open_)
        times = (
            worker.launched
            for worker in self.held_up
            for name, _ in worker.unbegun[:1]
            if not serve(name)
        )
        return sorted(times)[leaving:]

    def _let(self, step: Step, worker: Worker) -> None:
        """Let a worker go that has no calls."""
        if worker.state is RunState.QUEUED:
            self.cancel(step, worker)  # it reads no inbox before it has started
        else:
            worker.stop = True
            self.news(step, worker)

    def cancel(self, step: Step, worker: Worker) -> None:
        """Stop its run; if the launch is still under way, then so that it starts none."""
        worker.cancelled = True
        worker.cancel_asked = step.now
        worker.cancel_at = step.now + CANCEL_AGAIN
        self.looks.soon(step)
        step.do(e.CancelRun(worker.id))

    def cancel_again(self, step: Step) -> None:
        """Repeat the cancels that show no effect; cancel where asking shows none."""
        for worker in self.workers.values():
            if worker.must_end_by is not None and worker.alive and not worker.cancelled:
                self._insist(step, worker)
            if worker.cancelled and worker.alive:
                if worker.cancel_at <= step.now:
                    self.cancel(step, worker)
                step.wake(worker.cancel_at)

    def _insist(self, step: Step, worker: Worker) -> None:
        assert worker.must_end_by is not None
        if all(self.tasks.holds(call, worker) for call in worker.revoked):
            worker.must_end_by = None
        elif worker.must_end_by > step.now:
            step.wake(worker.must_end_by)
        elif worker.running:
            self.cancel(step, worker)
        else:  # it has not begun anything
            worker.must_end_by = step.now + CANCEL_PATIENCE
            step.wake(worker.must_end_by)

    def archive(self, step: Step, worker: Worker) -> None:
        """Nothing more will come of it."""
        worker.calls, worker.revoked = [], set()
        worker.phase = WorkerPhase.ARCHIVING
        step.do(e.Archive(worker.id))

    def listening(self) -> list[Worker]:
        return [worker for worker in self.workers.values() if worker.listens]

    def busy(self) -> bool:
        """Whether a request is under way that must come to its end."""
        return self.writing.busy or self.looks.looking.busy
