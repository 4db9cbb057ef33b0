"""The workers of a pool: started, given calls, looked after, let go. Pure, as the scheduler is.

A worker is one container run::

    LAUNCHING ──> ALIVE ──> CONCLUDING (over, with calls unanswered) ──> ARCHIVING ──> gone

This room decides which worker gets which calls and when to write and look; what becomes of a task
is the scheduler's. Calls run in the order in which a worker has them.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field

from . import _events as e
from ._pacing import PROOF_SECONDS, Attempts, Ramp
from ._shares import Shares
from ._state import Policy, TaskPhase, Tasks, Turn, Worker, WorkerPhase
from ._types import Resources, RunState, TaskId, WorkerId
from ._watch import Seen, Watch
from ._wire import (
    CALL_NOT_FETCHED,
    CALL_UNPICKLING,
    INITIALIZER,
    MISSING_MODULE,
    PYTHON_MISMATCH,
    RAISED,
    RETURNED,
    REVOKED,
    Answer,
)

#: A cancel that shows no effect is repeated after so many seconds.
CANCEL_AGAIN = 30.0
#: A worker that is asked to end a call has so many seconds, besides the way of the news.
CANCEL_PATIENCE = 10.0
#: So few tasks may all start at once, whatever their containers turn out to be.
FEW = 8
#: After a container that cannot run its call, so many seconds pass until another one is started.
HESITATION = 1.0
#: A sign of life is written so many times per lease.
BEATS = 4.0


@dataclass
class Fleet:
    """All workers of a pool, and what is known of how to treat them."""

    policy: Policy
    tasks: Tasks
    workers: dict[WorkerId, Worker] = field(default_factory=dict)
    ramp: Ramp = field(default_factory=Ramp)
    shares: Shares = field(default_factory=Shares)
    watch: Watch = field(default_factory=Watch)
    launching: Attempts = field(default_factory=Attempts)
    starting: Attempts = field(default_factory=Attempts)  # containers that never start
    writing: Attempts = field(default_factory=Attempts)
    _stale: bool = False
    _sent: dict[WorkerId, frozenset[e.Given]] = field(default_factory=dict)  # revoked, as written
    _beat: float = 0.0  # when the inbox was written
    last: int = 0  # the highest number that a worker has had
    _had: set[Resources] = field(default_factory=set)  # of containers that could be had

    # --- giving calls --------------------------------------------------------------------------

    def give(self, turn: Turn) -> None:
        """Calls for the workers that run and have room."""
        if not self.tasks.count[TaskPhase.READY]:
            return
        workers = [w for w in self._listening() if w.running and not self._is_busy(turn, w)]
        if workers and self._blocked():
            # One must run out, to make room for a container that can serve the oldest call.
            leaving = min(workers, key=lambda worker: len(worker.calls))
            workers.remove(leaving)
            if not leaving.held:
                self._let(turn, leaving)
        idle = [worker for worker in workers if not worker.calls]
        for worker in self._deal(workers):
            if worker in idle:
                worker.since = turn.now
            worker.stop = worker.taken == self.policy.max_tasks_per_worker
            self._news(turn, worker)

    def _blocked(self) -> bool:
        """Whether no container, there or to come, can serve the oldest waiting call."""
        name = self.tasks.next_ready()
        open_ = [worker for worker in self.workers.values() if worker.open]
        if any(worker.stop or worker.cancelled for worker in open_):
            return False  # there will be room
        if name is None or len(open_) < self.policy.max_workers:
            return False
        return not any(self._serves(worker.resources, name) for worker in open_)

    def launch(self, turn: Turn) -> None:
        """New workers for the calls that are left, while there is room for workers."""
        new: list[Worker] = []
        while (name := self.tasks.next_ready()) is not None:
            if not (turn.may(self.launching) and turn.may(self.starting) and self._room(turn)):
                break
            self.last += 1
            worker = Worker(WorkerId(self.last), self.tasks.known[name].resources)
            self.workers[worker.id] = worker
            self.tasks.give(worker, 0)
            self.ramp.start(turn.now)
            new.append(worker)
        self._deal(new)
        sharing = self._sharing()
        for worker in new:
            worker.first, worker.since = tuple(worker.calls), turn.now
            worker.last = worker.taken == self.policy.max_tasks_per_worker
            turn.do(e.Launch(worker.id, worker.first, worker.last, worker.resources, sharing))

    def _room(self, turn: Turn) -> bool:
        """Whether there may be one more worker."""
        number = sum(worker.open for worker in self.workers.values())
        few = len(self.tasks.known) <= FEW and not self.ramp.unfit
        if self.ramp.proven or few:
            return number < self.policy.max_workers
        unclear = sum(worker.concluding for worker in self.workers.values())
        if self.starting.failures and number + unclear:
            return False  # first see whether the others start
        width, at = self.ramp.width(turn.now)
        if number + unclear >= width:
            if at is not None:
                turn.wake(at)
            return False
        return number < self.policy.max_workers

    def _deal(self, workers: list[Worker]) -> list[Worker]:
        """Deal calls out to these workers, in turns, so that the oldest begin first.

        Each gets as many as it should have; the share of those that may still come is left to them.
        Returns those that got any.
        """
        open_ = [worker for worker in self.workers.values() if worker.open]
        waiting = self.tasks.count[TaskPhase.READY] + sum(worker.held for worker in open_)
        fair = math.ceil(waiting / self.policy.max_workers)
        spare = fair * (self.policy.max_workers - len(open_))
        got: dict[WorkerId, Worker] = {}
        while workers:
            hungry = []
            for worker in workers:
                left = self.tasks.count[TaskPhase.READY]
                if left > (spare if worker.held else 0) and self._wants(worker, fair):
                    size = self.policy.letter_bytes - self.tasks.size(worker)
                    if self.tasks.give(worker, size):
                        got[worker.id] = worker
                        hungry.append(worker)
            workers = hungry
        return list(got.values())

    def _wants(self, worker: Worker, fair: int) -> bool:
        """Whether a worker should have one more call."""
        limit = self.policy.max_tasks_per_worker
        number = self.shares.number(fair, self._horizon())
        return worker.held < number and (limit is None or worker.taken < limit)

    def _is_busy(self, turn: Turn, worker: Worker) -> bool:
        """Whether a worker has work for more than half of the time until it can get more.

        Then it gets more later: each time costs requests. So does one that has been at its call
        for long: nobody knows when it ends.
        """
        if not worker.held:
            return False
        if self.shares.seconds is None or turn.now - worker.since > self._horizon():
            return True
        return worker.held * self.shares.seconds > self._horizon() / 2

    def even_out(self, turn: Turn) -> None:
        """Take calls back that wait behind others, for workers that have none."""
        if self.tasks.count[TaskPhase.READY]:
            return
        idle = [w for w in self._listening() if w.running and not w.held]
        for helper in idle:
            alive = [worker for worker in self.workers.values() if worker.alive and worker.open]
            others = [worker for worker in alive if not worker.cancelled]
            victims = [(self._surplus(w, helper, turn.now), w.id) for w in others]
            number, name = max(victims, default=(0, WorkerId(0)))
            if not number:
                return
            victim = self.workers[name]
            victim.revoked.update(victim.unbegun[-number:])
            self._news(turn, victim)

    def may_even_out(self) -> bool:
        """Whether a worker that has nothing to do may get calls of others."""
        return any(
            worker.held > 1 or any(self.tasks.holds(call, worker) for call in worker.revoked)
            for worker in self.workers.values()
            if worker.alive
        )

    def _surplus(self, worker: Worker, helper: Worker, now: float) -> int:
        """How many of its calls, the last ones, the helper should take."""
        unbegun = worker.unbegun
        if worker.last and len(worker.first) == 1:
            return 0  # it reads no inbox
        if not unbegun or any(self.tasks.holds(call, worker) for call in worker.revoked):
            return 0
        if not all(self._serves(helper.resources, name) for name, _ in unbegun):
            return 0
        age, horizon = now - worker.since, self._horizon()
        if worker.running:
            return self.shares.surplus(len(unbegun), age, horizon)
        return self.shares.stuck(len(unbegun), age, horizon)

    def _serves(self, resources: Resources, name: TaskId) -> bool:
        task = self.tasks.known.get(name)
        return task is not None and resources.cover(task.resources)

    def release(self, turn: Turn, call: e.Given, worker: Worker) -> None:
        """Nobody wants this call any more: it must not begin, and must end if it has.

        Only the end of its container surely ends it. But others may be in there with it; then the
        worker is asked to end this call alone, and has some time to say that it did.
        """
        if not any(self.tasks.holds(other, worker) for other in worker.calls):
            worker.drop(call)
            self.cancel(turn, worker)
            return
        self.take_back(turn, call, worker)
        if worker.patience is None:
            worker.patience = turn.now + self._horizon() + CANCEL_PATIENCE

    def take_back(self, turn: Turn, call: e.Given, worker: Worker) -> None:
        """Ask a worker not to begin a call that it was given; it will say whether it has not."""
        worker.revoked.add(call)
        self._news(turn, worker)

    # --- the inbox -----------------------------------------------------------------------------

    def write(self, turn: Turn) -> None:
        """Write the inbox if it is not up to date, or if it has not changed for long."""
        readers = [w for w in self.workers.values() if w.alive]
        if readers:
            beat = self._beat + self.policy.lease / BEATS
            self._stale = self._stale or beat <= turn.now
            if not self._stale:
                turn.wake(beat)
        if not self._stale or not turn.may(self.writing):
            return
        self._stale = False
        if not readers:
            return
        self.writing.busy = True
        letters = []
        for worker in readers:
            worker.told = frozenset()
            letter = self._letter(worker)
            if letter != e.Letter(worker.id):
                letters.append(letter)
        # Even if there is no letter: a call that was dropped must not stay in there.
        turn.do(e.WriteInbox(tuple(letters), self._sharing()))
        self._sent = {worker.id: frozenset(worker.revoked) for worker in readers}

    def _letter(self, worker: Worker) -> e.Letter:
        """All that a worker shall know now."""
        calls = [c for c in worker.calls if c not in worker.revoked and c not in worker.first]
        revoked = sorted(worker.revoked)
        return e.Letter(
            worker.id,
            tuple(calls),
            worker.stop,
            tuple(call for call in revoked if self.tasks.holds(call, worker)),
            tuple(call for call in revoked if not self.tasks.holds(call, worker)),
        )

    def opened(self, turn: Turn) -> None:
        """There is an inbox."""
        self._beat = turn.now

    def written(self, turn: Turn) -> None:
        """The inbox is as it should be."""
        self.writing = Attempts()
        self._beat = turn.now
        for name, revoked in self._sent.items():
            if name in self.workers:
                self.workers[name].told = revoked

    def write_failed(self) -> None:
        """The inbox may be as it was."""
        self._stale = True

    def _news(self, turn: Turn, worker: Worker) -> None:
        """There is something to tell this worker, and soon to hear from it."""
        self._stale = True
        self.watch.fed(turn, worker)

    # --- what a look tells ---------------------------------------------------------------------

    def looked(self, turn: Turn, event: e.Looked) -> list[Seen]:
        """Take in the states of those workers that are alive."""
        seen = self.watch.looked(turn, event, self.workers)
        for each in seen:
            if each.worker.running:
                self._proof(turn, each.worker)
        answers = [answer for each in seen for answer in each.report.answers]
        self.shares.learn([a.busy for a in answers if a.kind in (RETURNED, RAISED)])
        return seen

    def freed(self, seen: list[Seen]) -> list[e.Given]:
        """Calls that were revoked before their worker had started: it will know when it does.

        To be sure of that, the run was asked for directly, after the inbox had been written.
        """
        return [
            call
            for worker, report in ((each.worker, each.report) for each in seen)
            if report.sure and report.run is not None and report.run.state is RunState.QUEUED
            for call in sorted(worker.seen & worker.revoked)
            if self.tasks.holds(call, worker)
        ]

    def answered(self, turn: Turn, worker: Worker, call: e.Given, answer: Answer) -> None:
        """A worker is through with a call."""
        worker.drop(call)
        worker.idle_since = worker.since = turn.now
        if worker.patience is not None:
            worker.patience = turn.now + self._horizon() + CANCEL_PATIENCE
        if worker.calls and self.tasks.holds(worker.calls[0], worker):
            worker.revoked.discard(worker.calls[0])  # too late: it has begun, or it will say so
        self._learn(turn, answer)

    def _learn(self, turn: Turn, answer: Answer) -> None:
        """Whether containers can do the work at all."""
        if answer.kind in (MISSING_MODULE, PYTHON_MISMATCH, CALL_UNPICKLING):
            self.ramp.unfit = not self.ramp.proven
            if self.ramp.unfit:  # who hears of it may want no more of them
                self.starting.not_before = turn.now + HESITATION
        elif answer.kind not in (REVOKED, CALL_NOT_FETCHED, INITIALIZER):
            self._proven()

    def _proven(self) -> None:
        self.ramp.proven = True
        self.starting = Attempts()

    def is_odd(self, resources: Resources) -> bool:
        """Whether these are not what all others ask for, nor what the platform has given."""
        if resources in self._had:
            return False
        return bool(self._had) or any(
            task.resources != resources for task in self.tasks.known.values()
        )

    def launched(self, turn: Turn, worker: Worker) -> None:
        """It has a run."""
        self.launching = Attempts()
        self._had.add(worker.resources)
        worker.phase = WorkerPhase.ALIVE
        worker.idle_since = turn.now
        self.watch.begin(turn, worker)
        if worker.cancelled:
            self.cancel(turn, worker)
        elif worker.revoked:
            self._news(turn, worker)

    def _proof(self, turn: Turn, worker: Worker) -> None:
        """A worker runs; if it goes on so, containers do what they should."""
        assert worker.running_since is not None
        proof_at = worker.running_since + PROOF_SECONDS
        if not self.ramp.proven and not self.ramp.unfit:
            if proof_at <= turn.now:
                self._proven()
            else:
                self.watch.soon(turn)

    def _horizon(self) -> float:
        """About how many seconds pass until a worker that has run out gets more."""
        return self.watch.horizon(self._sharing())

    def _sharing(self) -> int:
        """How many workers share the budget: those that there are, and those that will come."""
        number = sum(worker.open for worker in self.workers.values())
        return max(1, min(number + self.tasks.count[TaskPhase.READY], self.policy.max_workers))

    def adopt(self, turn: Turn, worker: Worker) -> None:
        """An earlier process has launched it."""
        self.workers[worker.id] = worker
        self._news(turn, worker)

    # --- the end of a worker -------------------------------------------------------------------

    def let_go(self, turn: Turn, coming: bool) -> None:
        """Idle workers end: at once if no task is `coming`, else after `idle_timeout`."""
        for worker in self._listening():
            if worker.held:
                continue
            leave_at = worker.idle_since + self.policy.idle_timeout
            if leave_at > turn.now and coming:
                turn.wake(leave_at)
            else:
                self._let(turn, worker)

    def _let(self, turn: Turn, worker: Worker) -> None:
        """Let a worker go that has no calls."""
        if worker.state is RunState.QUEUED:
            self.cancel(turn, worker)  # it reads no inbox before it has started
        else:
            worker.stop = True
            self._news(turn, worker)

    def cancel(self, turn: Turn, worker: Worker) -> None:
        """Stop its run; if the launch is still under way, then so that it starts none."""
        worker.cancelled = True
        worker.cancel_at = turn.now + CANCEL_AGAIN
        self.watch.soon(turn)
        turn.do(e.CancelRun(worker.id))

    def cancel_again(self, turn: Turn) -> None:
        """Repeat the cancels that show no effect; cancel where asking shows none."""
        for worker in self.workers.values():
            if worker.patience is not None and worker.alive and not worker.cancelled:
                self._insist(turn, worker)
            if worker.cancelled and worker.alive:
                if worker.cancel_at <= turn.now:
                    self.cancel(turn, worker)
                turn.wake(worker.cancel_at)

    def _insist(self, turn: Turn, worker: Worker) -> None:
        assert worker.patience is not None
        if all(self.tasks.holds(call, worker) for call in worker.revoked):
            worker.patience = None
        elif worker.patience > turn.now:
            turn.wake(worker.patience)
        elif worker.running:
            self.cancel(turn, worker)
        else:  # it has not begun anything
            worker.patience = turn.now + CANCEL_PATIENCE
            turn.wake(worker.patience)

    def archive(self, turn: Turn, worker: Worker) -> None:
        """Nothing more will come of it."""
        worker.calls, worker.revoked = [], set()
        worker.phase = WorkerPhase.ARCHIVING
        turn.do(e.Archive(worker.id))

    def _listening(self) -> list[Worker]:
        return [worker for worker in self.workers.values() if worker.listens]

    def busy(self) -> bool:
        """Whether a request is under way that must come to its end."""
        return self.writing.busy or self.watch.looking.busy
