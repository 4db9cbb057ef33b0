"""What to do next: events in, commands out. Pure: no clock, thread, lock, I/O or bytes in here.

A task is known from `Submitted` until exactly one of `Settle`, `Lose`, `Drop` names it; whatever
comes of it later is ignored. Between the two it is in one phase::

    (WAITING) ──> UPLOADING ──> READY ──> HELD by one worker ──> FETCHING ──> (JUDGING) ──> Settle
        │                         ^         │         │             │             │
        └──> Lose              DELAYED <────┴─ LOSING ┴─────────────┴─────────────┘  ──> Lose
                                                 from anywhere, on cancel  ──> Drop

WAITING is for other tasks, which were submitted before: so none waits for itself. What waits is in
no worker's hands. Once what it needs cannot be had any more, it is lost, and so down the line.

What workers do is in `fleet`. What always holds, after every event of the random histories in
`tests/scheduling/test_scheduler.py`:

1. A task is in one phase, and HELD tasks and the workers' lists of calls say the same.
2. The workers that are launching or alive run at most `max_workers` calls at once, whatever
   happens; where that number was lowered, no worker is launched until it is so.
3. A task ends once; the pool finishes once, with no task and no worker left.
4. There is never a second look, inbox write or preparation in flight.
5. A worker that has to stop, or is cancelled, is given no call; one that is to end after its
   first calls gets only those; none gets more than `max_tasks_per_worker`; and none gets a call
   that needs a larger container.
6. No task is attempted more often than 1 + `max_retries` times, not counting what certainly never
   began, nor those that got more memory.
7. While a task that was submitted, or a worker, is left, a command is in flight or `deadline` is
   set: no waiting for nothing.
8. A call that is given to a second worker is certain not to begin in the first one any more.
9. Each idle worker that is no slow one has a call on its way to it, if any that it could do is tied
   to a worker that two looks have found waiting for its start while others run; unless some are too
   many since `max_workers` was lowered, or one must make room for a call that none can do.
10. `CancelsDone` comes once nothing that was cancelled can run any more.
11. No worker is given a call while one with a higher priority is READY that it could do.
12. A task waits for others as long as it is not decided whether it may begin, and no longer; one is
    given to a worker only when all that it needs has come.
13. Once containers have run for `max_seconds`, no worker is launched or given a call, and only
    what workers have in hand is left.
14. No worker is launched while launches that are under way bring room for all that is READY.
15. No worker is given a call that it has refused; and as many refuse one at the most as there may
    be workers, and one more.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any

from .._exceptions import BrokenContainerPool
from .._pacing import Pacing
from .._types import Standing, TaskId, WorkerId
from .._wire import INITIALIZER, REFUSED, RETURNED, REVOKED, Answer
from . import balance
from . import events as e
from .fleet import Fleet
from .limits import HoursLimit, TimeLimits
from .pacing import FALSE_STARTS, RetriedRequest, Step
from .state import LOST, Policy, Task, TaskPhase, Tasks, Worker, WorkerPhase


@dataclass
class Scheduler:
    """All tasks and workers of one pool. `advance` takes an event and returns the commands."""

    policy: Policy
    pacing: Pacing = field(default_factory=Pacing)
    jitter: Callable[[], float] = field(default=random.random)

    def __post_init__(self) -> None:
        """Start with nothing: no task, no worker, and a platform that does not know us."""
        self.tasks = Tasks()
        self.fleet = Fleet(self.policy, self.tasks, self.pacing)
        self.limits = TimeLimits(self.tasks, self.fleet, self.pacing, self._give_up, self._lost)
        self.hours = HoursLimit(self.tasks, self.fleet, self._give_up)
        self.deadline: float | None = None  # when to send a Tick, at the latest
        self._known = False  # bundle and inbox are on the platform
        self._preparing = RetriedRequest()
        self._closing = self._finished = self._cancels_awaited = False
        self._broken: Exception | None = None
        self._broken_at = self._last_look = 0.0
        self._step = Step(0.0)
        self._handlers: dict[type, Callable[[Any], None]] = {
            e.Submitted: self._submitted,
            e.NotSent: lambda event: self.tasks.failed.add(event.task),
            e.Attached: self._attached,
            e.CancelRequested: self._cancel_requested,
            e.Done: lambda event: self._done[type(event.command)](event.command, event.news),
            e.Failed: lambda event: self._failed[type(event.command)](event.command, event),
            e.ShutdownRequested: self._shutdown_requested,
            e.TerminateRequested: self._terminate,
            e.Resized: lambda event: balance.resize(self.fleet, self._step, event.max_workers),
            e.CancelsAwaited: self._await_cancels,
            e.OthersWait: self._others_wait,
            e.InboxInDoubt: lambda _: self.fleet.write_failed(),
            e.Tick: lambda _: None,
        }
        self._know_replies()

    def _know_replies(self) -> None:
        """The handlers for a command that is done, and for one that has failed."""
        self._done: dict[type, Callable[[Any, Any], None]] = {
            e.Prepare: self._prepared,
            e.Upload: self._uploaded,
            e.Launch: self._launched,
            e.WriteInbox: lambda *_: self.fleet.written(self._step),
            e.Look: self._looked,
            e.Fetch: self._fetched,
            e.Diagnose: self._diagnosed,
            e.Judge: self._judged,
            e.CancelRun: self._run_cancelled,
            e.Archive: self._archived,  # or it cannot be
        }
        self._failed: dict[type, Callable[[Any, e.Failed], None]] = {
            e.Prepare: self._prepare_failed,
            e.Upload: self._upload_failed,
            e.Launch: self._launch_failed,
            e.WriteInbox: self._inbox_failed,
            e.Look: self._look_failed,
            e.Fetch: self._fetch_failed,
            e.CancelRun: self._cancel_failed,
        }

    def advance(self, event: e.Event, now: float, more: Iterable[e.Event] = ()) -> list[e.Command]:
        """Take in an event at time `now` (monotonic, seconds), and perhaps `more` that came with
        it; what to do about it, in order.
        """
        step = self._step = Step(now)
        self._handlers[type(event)](event)
        for another in more:
            self._handlers[type(another)](another)
        if (at := self.tasks.wake(now)) is not None:
            step.wake(at)
        self._tell_dependants()
        self.limits.expire(step)
        self.hours.expire(step)
        self._tell_dependants()
        self._prepare()
        if self._known:
            self.fleet.give(step, balance.slow_ones(self.fleet, step))
            self.fleet.launch(step)
            balance.even_out(self.fleet, step)
        keeps = self._closing and self._broken is None and self.hours.may_keep
        if keeps and not self.tasks.known:
            balance.hand_on(self.fleet)
        self.fleet.let_go(step, self._more_may_come() or (keeps and bool(self.tasks.known)))
        self.fleet.cancel_again(step)
        if self._known:
            self.fleet.write(step)
        self.fleet.looks.look(step, [w for w in self.fleet.workers.values() if w.alive])
        self._tell_of_cancels()
        self._finish_if_done()
        self.deadline = step.deadline
        return step.out

    # --- tasks ---------------------------------------------------------------------------------

    def _submitted(self, event: e.Submitted) -> None:
        phase = TaskPhase.UPLOADING if event.upload else TaskPhase.READY
        limit = event.terms.queue_timeout
        expires = None if limit is None else self._step.now + limit
        task = Task(phase, event.terms, event.terms.resources, event.size, expires)
        task.unsent, task.data = event.upload, event.data
        if event.found is not None:
            self._claimed(event, event.found, task)
            return
        if event.needs:
            task.phase = TaskPhase.WAITING
        self.tasks.add(event.task, task)
        if self._broken is not None:  # it was under way when the pool broke
            self._end(e.Lose(event.task, None, self._broken))
        elif event.needs:
            self.tasks.wait_for(event.task, event.needs)
            self._begin(event.task)
        elif event.upload:
            self._step.do(e.Upload(event.task))

    def _tell_dependants(self) -> None:
        """Who waits for what has ended begins, or ends as well; and so down the line."""
        for name in self.tasks.waiters():
            self._begin(name)

    def _begin(self, name: TaskId) -> None:
        """Let a task begin that waits for others, or end if it never can."""
        task = self.tasks.known[name]
        if task.phase is not TaskPhase.WAITING:  # an earlier process has given it to a worker
            return
        if task.blocked is not None:
            self._end(e.Lose(name, None, e.Unmet(task.blocked)))
        elif not task.unmet:
            task.measure(self.fleet.policy)
            if self.tasks.move(name, TaskPhase.READY).phase is TaskPhase.UPLOADING:
                self._step.do(e.Upload(name))

    def _uploaded(self, command: e.Upload, _: object) -> None:
        if command.task in self.tasks.known:
            task = self.tasks.known[command.task]
            task.unsent = False
            if task.phase is TaskPhase.UPLOADING:
                self.tasks.move(command.task, TaskPhase.READY)

    def _attached(self, event: e.Attached) -> None:
        self._last_look = self._step.now
        balance.adopt(self.fleet, self._step, event)

    def _claimed(self, event: e.Submitted, found: e.FoundTask, wish: Task) -> None:
        """A task that an earlier process has given away: go on from there."""
        name, task = event.task, self.tasks.claim(event.task, found, wish)
        self.tasks.wait_for(name, event.needs)
        if self._broken is not None:
            self._end(e.Lose(name, None, self._broken))
        elif task.phase is TaskPhase.UNCLAIMED:
            if isinstance(task.end, Answer):
                self._ended(name, task.end)
            else:
                self._again(name) if task.end is None else self._lost(name, task.end)

    def _upload_failed(self, command: e.Upload, failure: e.Failed) -> None:
        if command.task in self.tasks.known:
            self._give_up(e.Lose(command.task, None, failure.error))

    def _cancel_requested(self, event: e.CancelRequested) -> None:
        if event.task in self.tasks.known:
            self._give_up(e.Drop(event.task))

    def _give_up(self, last_word: e.Lose | e.Drop) -> None:
        """End a task before its call has ended, and so the call as well."""
        task = self.tasks.known[last_word.task]
        self._end(last_word)
        if task.phase is TaskPhase.HELD and task.worker is not None:
            call = (last_word.task, task.given)
            self.fleet.release(self._step, call, self.fleet.workers[task.worker])

    def _answered(self, worker: Worker, answer: Answer) -> None:
        name = TaskId(answer.task)
        call = (name, answer.attempt)
        if call not in worker.calls:
            return  # it came twice, or too late
        wanted = self.tasks.holds(call, worker)
        self.fleet.answered(self._step, worker, call, answer)
        if wanted and not self.tasks.keep(name, answer):
            self._ended(name, answer)

    def _ended(self, name: TaskId, answer: Answer) -> None:
        """A call was answered."""
        task = self.tasks.known[name]
        assert task.worker is not None, "who answers is a worker"
        if answer.kind == REVOKED:
            self._again(name)
        elif answer.kind == REFUSED:
            self._refused(name, task.worker, answer)
        elif answer.kind == INITIALIZER:
            self._break(
                BrokenContainerPool(f"the initializer failed in a container:\n{answer.text}")
            )
        elif answer.kind in LOST:
            self.tasks.move(name, TaskPhase.LOSING)
            self._step.do(e.Diagnose(task.worker, ((name, task.given),), answer))
        elif answer.data is not None and answer.data.file_id is not None:
            task = self.tasks.move(name, TaskPhase.FETCHING)
            self._step.do(e.Fetch(name, answer))
            if answer.kind == RETURNED:  # who needs the result can have it, even if we cannot
                task.returned = True
                self.tasks.tell(name, answer)
        else:
            self._settle(name, answer)

    def _refused(self, name: TaskId, worker: WorkerId, answer: Answer) -> None:
        """It is another worker's, or nobody's if all and a fresh one have refused it."""
        task = self.tasks.known[name]
        task.refused |= {worker}
        if len(task.refused) > self.fleet.policy.max_workers:
            self._end(e.Settle(name, worker, answer))
        else:
            self._again(name, e.Again(name, worker, answer))

    def _fetched(self, command: e.Fetch, _: object) -> None:
        if command.task in self.tasks.known:
            self._settle(command.task, command.answer)

    def _fetch_failed(self, command: e.Fetch, failure: e.Failed) -> None:
        if command.task in self.tasks.known:
            reason = f"its result cannot be read (max_retries runs it again): {failure.error}"
            self._lost(command.task, e.Verdict(None, reason))

    def _settle(self, name: TaskId, answer: Answer) -> None:
        """A call has ended; if the user wants a word on that, ask."""
        task = self.tasks.known[name]
        assert task.worker is not None, "who answers is a worker"
        if answer.kind == RETURNED or not self._judge(name, answer):
            self._end(e.Settle(name, task.worker, answer))

    def _judge(self, name: TaskId, cause: Answer | e.Verdict) -> bool:
        task = self.tasks.known[name]
        if not task.terms.judged or not self.hours.may_retry(task) or task.worker is None:
            return False
        self.tasks.move(name, TaskPhase.JUDGING)
        self._step.do(e.Judge(name, task.worker, cause))
        return True

    def _judged(self, command: e.Judge, judgement: e.Judgement) -> None:
        name, worker, cause = command.task, command.worker, command.cause
        if name not in self.tasks.known:
            return
        if judgement.again:
            self.tasks.known[name].attempts += 1
            self._delay(e.Again(name, worker, cause, judgement.reason))
        elif isinstance(cause, Answer):
            self._end(e.Settle(name, worker, cause))
        else:
            self._end(e.Lose(name, worker, cause))

    def _lost(self, name: TaskId, verdict: e.Verdict) -> None:
        """An attempt has failed through no fault of the function: again, or the end."""
        if self.tasks.keep(name, verdict):
            return
        task = self.tasks.known[name]
        task.expires = None  # it may have begun
        again = e.Again(name, task.worker, verdict)
        if verdict.memory and not self.hours.reached and task.grow():
            self._delay(again)
            return
        if verdict.timed_out and self._judge(name, verdict):
            return
        # Users who cancel a run on the platform do not want it to come back.
        if verdict.outside or verdict.timed_out or not self.hours.may_retry(task):
            self._end(e.Lose(name, task.worker, verdict))
        else:
            task.attempts += 1
            self._delay(again)

    def _delay(self, again: e.Again) -> None:
        """The next attempt, after a while."""
        task = self.tasks.known[again.task]
        pause = self.pacing.backoff(max(task.attempts, 1), self.jitter())
        self._wait(again, self._step.now + pause)

    def _again(self, name: TaskId, again: e.Again | None = None) -> None:
        """The call is not to blame: it never began, or had ended before."""
        if self.tasks.keep(name, None):
            return
        self._wait(again or e.Again(name), self._step.now)
        if name in self.tasks.known:
            self.limits.expire_if_due(self._step, name)

    def _wait(self, again: e.Again, until: float) -> None:
        task = self.tasks.known[again.task]
        if task.unmet:  # given away by an earlier process, as the rest
            self.tasks.move(again.task, TaskPhase.WAITING)
            self._step.do(again)
            self._begin(again.task)
            return
        task.measure(self.fleet.policy)
        if task.unsent:
            self._step.do(e.Upload(again.task))
        self.tasks.delay(again.task, until)
        self._step.do(again)

    def _end(self, last_word: e.Settle | e.Lose | e.Drop) -> None:
        answer = last_word.answer if isinstance(last_word, e.Settle) else None
        if self.tasks.remove(last_word.task, answer).claimed:
            self._step.do(last_word)

    # --- the platform and its workers ----------------------------------------------------------

    def _prepare(self) -> None:
        # Workers that are there already are those of an earlier process: they must hear of us.
        waiting = (self.tasks.count[TaskPhase.READY] or self.fleet.workers) and not self._known
        if waiting and self._step.may(self._preparing):
            self._preparing.busy = True
            self._step.do(e.Prepare())

    def _prepared(self, _: e.Prepare, prepared: e.Prepared | None) -> None:
        self._preparing = RetriedRequest()
        if prepared is not None:
            self.fleet.looks.pace, self.fleet.looks.turns.ahead = prepared.pace, prepared.ahead
        self._known = True
        self.fleet.opened(self._step)

    def _prepare_failed(self, _: e.Prepare, failure: e.Failed) -> None:
        over = self._preparing.is_last(failure.hopeless)
        self._count(self._preparing, failure, "the platform cannot be used", over)

    def _inbox_failed(self, _: e.WriteInbox, failure: e.Failed) -> None:
        self.fleet.write_failed()
        over = True if failure.refused else None
        self._count(self.fleet.writing, failure, "calls cannot be sent", over)

    def _launched(self, command: e.Launch, _: object) -> None:
        self._last_look = self._step.now
        self.fleet.launched(self._step, self.fleet.workers[command.worker])

    def _launch_failed(self, command: e.Launch, failure: e.Failed) -> None:
        worker = self.fleet.workers.pop(command.worker)
        held = [name for name, given in worker.calls if self.tasks.holds((name, given), worker)]
        if failure.refused and self.fleet.is_odd(worker.resources):
            for name in held:  # what these calls ask for is not to be had; others ask for less
                self._end(e.Lose(name, None, failure.error))
            return
        # One that is not wanted any more has not failed; and of a wave of them, one counts.
        unwanted = worker.cancelled or worker.recalled
        if not unwanted and worker.launched >= self.fleet.launching.failed_at:
            # As long as containers run, their calls go on, and so may the rest later.
            launching = self.fleet.launching
            patient = any(other.alive for other in self.fleet.workers.values())
            over = launching.is_last(failure.hopeless) and not patient
            self._count(launching, failure, "no container can be started", over)
        for name in held:
            if name in self.tasks.known:
                self._again(name)

    def _looked(self, _: e.Look, looked: e.Looked) -> None:
        self._last_look = self._step.now
        seen = self.fleet.looked(self._step, looked)
        # As they ended, so that as_completed yields them in that order.
        answers = [(each.worker, answer) for each in seen for answer in each.report.answers]
        for worker, answer in sorted(answers, key=lambda pair: pair[1].finished):
            self._answered(worker, answer)
        for each in seen:
            if each.worker.unreadable(each.report, self._step.now) and each.worker.calls:
                self._give_up_reading(each.worker)
            if each.over:
                self._conclude(each.worker, each.report.complete)
        for call in self.fleet.freed(seen):
            self._again(call[0])
        self.limits.looked(self._step, seen)
        if (unread := self.fleet.looks.unread(self._step, looked)) is not None:
            self._count(self.fleet.looks.reading, unread, "answers cannot be read")

    def _look_failed(self, _: e.Look, failure: e.Failed) -> None:
        # A failed look says nothing of any task.
        self._count(self.fleet.looks.looking, failure, "runs cannot be watched")
        self._wait_no_longer(self._last_look, failure.hopeless)

    def _conclude(self, worker: Worker, complete: bool) -> None:
        """A run is over. Answers may show up late: read again before a call counts as lost."""
        held = [call for call in worker.calls if self.tasks.holds(call, worker)]
        if not held:
            self.fleet.archive(self._step, worker)
        elif not worker.has_said_all(complete, self._step.now):
            return
        elif worker.cancelled and not (worker.begun or worker.garbled):
            for call in held:
                self._again(call[0])
            self.fleet.archive(self._step, worker)
        else:
            if not worker.state.over:  # an unknown state, for too long: make sure
                self._step.do(e.CancelRun(worker.id))
            worker.phase = WorkerPhase.CONCLUDING
            text = "what its container has answered cannot be read, or is nowhere to be found"
            text += f": {worker.unread}" if worker.unread else ""
            answer = Answer(held[0][0], e.CORRUPT, text=text) if worker.garbled else None
            gone = tuple(call for call in worker.calls if call not in held)
            self._step.do(e.Diagnose(worker.id, tuple(held), answer, gone))

    def _give_up_reading(self, worker: Worker) -> None:
        """Its answers cannot be read, so its calls will be lost: end it, and then they are."""
        if not worker.garbled:
            worker.garbled = True
            self.fleet.cancel(self._step, worker)

    def _diagnosed(self, command: e.Diagnose, found: e.Diagnosis) -> None:
        worker = self.fleet.workers.get(command.worker)
        verdicts, last = dict(found.verdicts), max(dict(found.verdicts), default=-1)
        unstarted = [verdict for verdict in verdicts.values() if verdict.unstarted]
        if unstarted and worker is not None:
            self._false_start(command, unstarted[-1])
        for number, (name, given) in enumerate(command.calls):
            task = self.tasks.known.get(name)
            if task is None or (task.worker, task.given) != (command.worker, given):
                continue
            if number < last:
                task.expires = None  # it had ended, so it had begun
            if number in verdicts and not unstarted:
                self._lost(name, self.limits.ours(self._step, name, worker, verdicts[number]))
            else:
                self._again(name)
        if worker is None or worker.phase is not WorkerPhase.CONCLUDING:
            return
        if not any(self.tasks.holds(call, worker) for call in worker.calls):  # or they come next
            self.fleet.archive(self._step, worker)

    def _false_start(self, command: e.Diagnose, verdict: e.Verdict) -> None:
        """A container that never ran the worker. If none has, then none will."""
        starting = self.fleet.starting
        lines = "".join(f"\n  {line}" for line in verdict.log_tail)
        error = BrokenContainerPool(f"{verdict.reason}{lines}")
        hopeless = not self.fleet.ramp.proven and starting.failures + 1 >= FALSE_STARTS
        patient = any(other.running for other in self.fleet.workers.values())
        over = starting.is_last(hopeless) and not patient
        self._count(
            starting, e.Failed(command, error, hopeless), "no container can be started", over
        )

    def _run_cancelled(self, command: e.CancelRun, _: object) -> None:
        self.fleet.looks.soon(self._step)
        if (worker := self.fleet.workers.get(command.worker)) is not None:
            worker.cancel_taken = True
            self.fleet.cancelling = RetriedRequest()

    def _cancel_failed(self, command: e.CancelRun, failure: e.Failed) -> None:
        """It is asked for again as long as the run goes on."""
        self.fleet.looks.soon(self._step)
        worker, cancelling = self.fleet.workers.get(command.worker), self.fleet.cancelling
        if worker is None:
            return
        # Of a wave of them, one counts.
        if not cancelling.failures or worker.cancel_asked > cancelling.failed_at:
            self._count(cancelling, failure, "runs cannot be cancelled")
        worker.cancel_at = cancelling.not_before
        self._wait_no_longer(max(cancelling.since, self._broken_at), failure.hopeless)

    def _wait_no_longer(self, since: float, refused: bool) -> None:
        """For the end of containers, if that is all, and asking has been in vain `since` then."""
        in_vain = self._step.now - since >= self.pacing.last_words(refused)
        if self._closing and not self.tasks.known and in_vain:
            self._finish()

    def _archived(self, command: e.Archive, _: object) -> None:
        self.hours.remove(command.worker, self._step.now)

    def _others_wait(self, event: e.OthersWait) -> None:
        self.fleet.others_wait_since = event.since

    def _await_cancels(self, _: e.CancelsAwaited) -> None:
        self._cancels_awaited = True

    def _tell_of_cancels(self) -> None:
        if self._cancels_awaited and not balance.has_unwanted_calls(self.fleet):
            self._cancels_awaited = False
            self._step.do(e.CancelsDone())

    def standing(self, now: float) -> Standing:
        """What tasks wait for, if any do."""
        return balance.standing(self.fleet, now, self._preparing, self._last_look)

    # --- the end -------------------------------------------------------------------------------

    def _more_may_come(self) -> bool:
        """Whether there will be calls for a worker that has none."""
        if not self._closing:
            return not self.hours.reached
        coming = len(self.tasks.known) - self.tasks.count[TaskPhase.HELD]
        return bool(coming) or balance.may_even_out(self.fleet)

    def _finish_if_done(self) -> None:
        busy = self._preparing.busy or self.fleet.busy()
        if self._closing and not (self.tasks.known or self.fleet.workers or busy):
            self._finish()

    def _finish(self) -> None:
        if not self._finished:
            self._finished = True
            left = [worker for worker in self.fleet.workers.values() if not worker.state.over]
            asked = tuple(worker.id for worker in left if worker.cancel_taken)
            troubles = self.standing(self._step.now).troubles if left else ()
            reason = "; ".join(map(": ".join, troubles))
            self._step.do(e.Finish(tuple(worker.id for worker in left), asked, reason))
            self.fleet.workers.clear()

    def _shutdown_requested(self, _: e.ShutdownRequested) -> None:
        self._closing = True
        for name in [name for name, task in self.tasks.known.items() if not task.claimed]:
            self._give_up(e.Drop(name))

    def _terminate(self, event: e.TerminateRequested) -> None:
        if event.leave:
            balance.leave(self.fleet)
        self._break(event.error)

    def _break(self, error: Exception) -> None:
        """End all tasks with this error, stop all workers, take nothing more."""
        if self._broken is not None:
            return
        self._broken, self._closing = error, True
        self._broken_at = self._last_look = self._step.now  # the cancels below have time to be seen
        self._step.do(e.Break(error))
        for name, task in list(self.tasks.known.items()):
            self._end(e.Lose(name, task.worker, error))
        for worker in self.fleet.workers.values():
            worker.calls, worker.revoked = [], set()
            if worker.open and not worker.cancelled:
                self.fleet.cancel(self._step, worker)

    def _count(
        self,
        request: RetriedRequest,
        failed: e.Failed | e.Report,
        what: str,
        over: bool | None = None,
    ) -> None:
        """It will be tried again, unless it is `over` with the pool, which then breaks. If not
        told, that is so after many refusals, or a long outage.
        """
        request.fail(self._step.now, self.pacing, self.jitter(), what, str(failed.error))
        if request.in_vain(self.pacing, failed.hopeless) if over is None else over:
            broken = BrokenContainerPool(f"{what}: {failed.error}")
            broken.__cause__ = failed.error
            self._break(broken)
