"""What to do next: events in, commands out. Pure: no clock, thread, lock, I/O or bytes in here.

A task is known from `Submitted` until exactly one of `Settle`, `Lose`, `Drop` names it; whatever
comes of it later is ignored. Between the two it is in one phase::

    UPLOADING ──> READY ──> HELD by one worker ──> FETCHING ──> (JUDGING) ──> Settle
                    ^         │         │             │             │
                 DELAYED <────┴─ LOSING ┴─────────────┴─────────────┘  (attempts left)  ──> Lose
                                                 from anywhere, on cancel  ──> Drop

What workers do is in `fleet`. What always holds (`tests/test_scheduler.py` checks it after every
event of random histories):

1. A task is in one phase, and HELD tasks and the workers' lists of calls say the same.
2. At most `max_workers` workers are launching or alive, whatever happens; where that number was
   lowered, no worker is launched until it is so.
3. A task ends once; the pool finishes once, with no task and no worker left.
4. There is never a second look, inbox write or preparation in flight.
5. A worker that is told to stop, or cancelled, is given no call; one that is to end after its
   first calls gets only those; none gets more than `max_tasks_per_worker`; and none gets a call
   that needs a larger container.
6. No task is attempted more often than 1 + `max_retries` times, not counting what surely never
   began, nor those that got more memory.
7. While a task that was submitted, or a worker, is left, a command is in flight or `deadline` is
   set: no waiting for nothing.
8. A call that is given to a second worker surely never begins in the first one any more.
9. Each idle worker has a call on its way to it, if any that it could do is tied to a worker that
   two looks have found waiting for its start while others run.
10. Who waits for the end of what was cancelled is told, once none of it can run any more.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace
from typing import Any

from .._exceptions import BrokenContainerPool
from .._types import RunState, Standing, TaskId
from .._wire import INITIALIZER, RETURNED, REVOKED, Answer
from . import events as e
from .balance import even_out, may_even_out
from .fleet import Fleet
from .pacing import FALSE_STARTS, HOPE, LAST_PATIENCE, OUTAGE, Attempts, backoff
from .state import LOST, Policy, Task, TaskPhase, Tasks, Turn, Worker, WorkerPhase

_Failure = e.PrepareFailed | e.LaunchFailed | e.InboxFailed | e.LookFailed


@dataclass
class Scheduler:
    """All tasks and workers of one pool. `advance` takes an event and returns the commands."""

    policy: Policy
    jitter: Callable[[], float] = field(default=random.random)

    def __post_init__(self) -> None:
        """Start with nothing: no task, no worker, and a platform that does not know us."""
        self.tasks = Tasks()
        self.fleet = Fleet(self.policy, self.tasks)
        self.limits = TimeLimits(self.tasks, self.fleet, self._give_up)
        self.deadline: float | None = None  # when to send a Tick, at the latest
        self._known = False  # Prepared has come
        self._preparing = Attempts()
        self._closing = self._finished = False
        self._cancels_awaited = False
        self._broken: Exception | None = None
        self._last_look = 0.0
        self._turn = Turn(0.0)
        self._steps: dict[type, Callable[[Any], None]] = {
            e.Submitted: self._submitted,
            e.Attached: self._attached,
            e.Uploaded: self._uploaded,
            e.UploadFailed: self._upload_failed,
            e.CancelRequested: self._cancel_requested,
            e.Prepared: self._prepared,
            e.PrepareFailed: self._prepare_failed,
            e.Launched: self._launched,
            e.LaunchFailed: self._launch_failed,
            e.InboxWritten: lambda _: self.fleet.written(self._turn),
            e.InboxFailed: self._inbox_failed,
            e.Looked: self._looked,
            e.LookFailed: self._look_failed,
            e.Fetched: self._fetched,
            e.FetchFailed: self._fetch_failed,
            e.Diagnosed: self._diagnosed,
            e.Judged: self._judged,
            e.RunCancelled: lambda _: self.fleet.watch.soon(self._turn),
            e.Archived: self._archived,
            e.ShutdownRequested: self._shutdown_requested,
            e.TerminateRequested: self._terminate,
            e.Resized: lambda event: self.fleet.resize(event.max_workers),
            e.CancelsAwaited: self._await_cancels,
            e.Crowded: self._crowded,
            e.Tick: lambda _: None,
        }

    def advance(self, event: e.Event, now: float, more: Iterable[e.Event] = ()) -> list[e.Command]:
        """Take in an event at time `now` (monotonic, seconds), and perhaps `more` that came with
        it; what to do about it, in order.
        """
        turn = self._turn = Turn(now)
        self._steps[type(event)](event)
        for another in more:
            self._steps[type(another)](another)
        if (at := self.tasks.wake(now)) is not None:
            turn.wake(at)
        self.limits.expire(turn)
        self._prepare()
        if self._known:
            self.fleet.give(turn)
            self.fleet.launch(turn)
            even_out(self.fleet, turn)
        self.fleet.let_go(turn, self._more_may_come())
        self.fleet.cancel_again(turn)
        if self._known:
            self.fleet.write(turn)
        self.fleet.watch.look(turn, [w for w in self.fleet.workers.values() if w.alive])
        self._tell_of_cancels()
        self._finish_if_done()
        self.deadline = turn.deadline
        return turn.out

    # --- tasks ---------------------------------------------------------------------------------

    def _submitted(self, event: e.Submitted) -> None:
        phase = TaskPhase.UPLOADING if event.upload else TaskPhase.READY
        limit = event.terms.queue_timeout
        expires = None if limit is None else self._turn.now + limit
        task = Task(phase, event.terms, event.terms.resources, event.size, expires)
        if event.found is not None:
            self._claimed(event, event.found, task)
            return
        self.tasks.add(event.task, task)
        if self._broken is not None:  # it was under way when the pool broke
            self._end(e.Lose(event.task, None, self._broken))
        elif event.upload:
            self._turn.do(e.Upload(event.task))

    def _uploaded(self, event: e.Uploaded) -> None:
        if event.task in self.tasks.known:
            task = self.tasks.known[event.task]
            task.unsent = False
            if task.phase is TaskPhase.UPLOADING:
                self.tasks.move(event.task, TaskPhase.READY)

    def _attached(self, event: e.Attached) -> None:
        self._last_look = self._turn.now
        take_over(self.fleet, self.tasks, self._turn, event)

    def _claimed(self, event: e.Submitted, found: e.FoundTask, wish: Task) -> None:
        """A task that an earlier process has given away: go on from there."""
        name, task = event.task, claim(self.tasks, event, found, wish)
        if self._broken is not None:
            self._end(e.Lose(name, None, self._broken))
        elif task.phase is TaskPhase.UNCLAIMED:
            if isinstance(task.end, Answer):
                self._ended(name, task.end)
            else:
                self._again(name) if task.end is None else self._lost(name, task.end)

    def _upload_failed(self, event: e.UploadFailed) -> None:
        if event.task in self.tasks.known:
            self._give_up(e.Lose(event.task, None, event.error))

    def _cancel_requested(self, event: e.CancelRequested) -> None:
        if event.task in self.tasks.known:
            self._give_up(e.Drop(event.task))

    def _give_up(self, last_word: e.Lose | e.Drop) -> None:
        """End a task before its call has ended, and so the call as well."""
        task = self.tasks.known[last_word.task]
        self._end(last_word)
        if task.phase is TaskPhase.HELD and task.worker is not None:
            call = (last_word.task, task.given)
            self.fleet.release(self._turn, call, self.fleet.workers[task.worker])

    def _answered(self, worker: Worker, answer: Answer) -> None:
        name = TaskId(answer.task)
        call = (name, answer.attempt)
        if call not in worker.calls:
            return  # it came twice, or too late
        wanted = self.tasks.holds(call, worker)
        self.fleet.answered(self._turn, worker, call, answer)
        if wanted and not self.tasks.keep(name, answer):
            self._ended(name, answer)

    def _ended(self, name: TaskId, answer: Answer) -> None:
        """A call was answered."""
        task = self.tasks.known[name]
        assert task.worker is not None, "who answers is a worker"
        if answer.kind == REVOKED:
            self._again(name)
        elif answer.kind == INITIALIZER:
            self._break(
                BrokenContainerPool(f"the initializer failed in a container:\n{answer.text}")
            )
        elif answer.kind in LOST:
            self.tasks.move(name, TaskPhase.LOSING)
            self._turn.do(e.Diagnose(task.worker, ((name, task.given),), answer))
        elif answer.data is not None and answer.data.file_id is not None:
            self.tasks.move(name, TaskPhase.FETCHING)
            self._turn.do(e.Fetch(name, answer))
        else:
            self._settle(name, answer)

    def _fetched(self, event: e.Fetched) -> None:
        if event.task in self.tasks.known:
            self._settle(event.task, event.answer)

    def _fetch_failed(self, event: e.FetchFailed) -> None:
        if event.task in self.tasks.known:
            reason = f"its result cannot be read (max_retries runs it again): {event.error}"
            self._lost(event.task, e.Verdict(None, reason))

    def _settle(self, name: TaskId, answer: Answer) -> None:
        """A call has ended; if the user wants a word on that, ask."""
        task = self.tasks.known[name]
        assert task.worker is not None, "who answers is a worker"
        if answer.kind == RETURNED or not self._judge(name, answer):
            self._end(e.Settle(name, task.worker, answer))

    def _judge(self, name: TaskId, cause: Answer | e.Verdict) -> bool:
        task = self.tasks.known[name]
        if not task.terms.judged or task.attempts >= task.terms.max_retries or task.worker is None:
            return False
        self.tasks.move(name, TaskPhase.JUDGING)
        self._turn.do(e.Judge(name, task.worker, cause))
        return True

    def _judged(self, event: e.Judged) -> None:
        task = self.tasks.known.get(event.task)
        if task is None:
            return
        if event.again:
            task.attempts += 1
            self._delay(e.Again(event.task, event.worker, event.cause, event.reason))
        elif isinstance(event.cause, Answer):
            self._end(e.Settle(event.task, event.worker, event.cause))
        else:
            self._end(e.Lose(event.task, event.worker, event.cause))

    def _lost(self, name: TaskId, verdict: e.Verdict) -> None:
        """An attempt has failed through no fault of the function: again, or the end."""
        if self.tasks.keep(name, verdict):
            return
        task = self.tasks.known[name]
        task.expires = None  # it may have begun
        again = e.Again(name, task.worker, verdict)
        if verdict.memory and task.grow():
            self._delay(again)
            return
        if verdict.timed_out and self._judge(name, verdict):
            return
        # Who cancels a run on the platform does not want it to come back.
        final = verdict.outside or verdict.timed_out or task.attempts >= task.terms.max_retries
        if final:
            self._end(e.Lose(name, task.worker, verdict))
        else:
            task.attempts += 1
            self._delay(again)

    def _delay(self, again: e.Again) -> None:
        """The next attempt, after a while."""
        task = self.tasks.known[again.task]
        pause = backoff(max(task.attempts, 1), self.jitter())
        self._wait(again, self._turn.now + pause)

    def _again(self, name: TaskId) -> None:
        """What happened was no fault of this call: it never began, or had ended before."""
        if self.tasks.keep(name, None):
            return
        self._wait(e.Again(name), self._turn.now)
        self.limits.expire_if_due(self._turn, name)

    def _wait(self, again: e.Again, until: float) -> None:
        if self.tasks.known[again.task].unsent:  # given away by an earlier process
            self._turn.do(e.Upload(again.task))
        self.tasks.delay(again.task, until)
        self._turn.do(again)

    def _end(self, last_word: e.Settle | e.Lose | e.Drop) -> None:
        if self.tasks.remove(last_word.task).claimed:
            self._turn.do(last_word)

    # --- the platform and its workers ----------------------------------------------------------

    def _prepare(self) -> None:
        # Workers that are there already are those of an earlier process: they must hear of us.
        waiting = (self.tasks.count[TaskPhase.READY] or self.fleet.workers) and not self._known
        if waiting and self._turn.may(self._preparing):
            self._preparing.busy = True
            self._turn.do(e.Prepare())

    def _prepared(self, _: e.Prepared) -> None:
        self._preparing = Attempts()
        self._known = True
        self.fleet.opened(self._turn)

    def _prepare_failed(self, event: e.PrepareFailed) -> None:
        self._failed(self._preparing, event, "the platform cannot be used", patient=False)

    def _inbox_failed(self, event: e.InboxFailed) -> None:
        self.fleet.write_failed()
        patient = not event.refused and self._turn.now - self._last_look < OUTAGE
        self._failed(self.fleet.writing, event, "calls cannot be sent", patient)

    def _launched(self, event: e.Launched) -> None:
        self._last_look = self._turn.now
        self.fleet.launched(self._turn, self.fleet.workers[event.worker])

    def _launch_failed(self, event: e.LaunchFailed) -> None:
        worker = self.fleet.workers.pop(event.worker)
        held = [name for name, given in worker.calls if self.tasks.holds((name, given), worker)]
        if event.refused and self.fleet.is_odd(worker.resources):
            for name in held:  # what these calls ask for is not to be had; others ask for less
                self._end(e.Lose(name, None, event.error))
            return
        # One that is not wanted any more has not failed; and of a wave of them, one counts.
        unwanted = worker.cancelled or worker.recalled
        if not unwanted and worker.since >= self.fleet.launching.failed_at:
            # As long as containers run, their calls go on, and so may the rest later.
            patient = any(other.alive for other in self.fleet.workers.values())
            self._failed(self.fleet.launching, event, "no container can be started", patient)
        for name in held:
            if name in self.tasks.known:
                self._again(name)

    def _looked(self, event: e.Looked) -> None:
        self._last_look = self._turn.now
        seen = self.fleet.looked(self._turn, event)
        # As they ended, so that as_completed yields them in that order.
        answers = [(each.worker, answer) for each in seen for answer in each.report.answers]
        for worker, answer in sorted(answers, key=lambda pair: pair[1].finished):
            self._answered(worker, answer)
        for each in seen:
            if each.worker.unreadable(each.report, self._turn.now) and each.worker.calls:
                self._give_up_reading(each.worker)
            if each.over:
                self._conclude(each.worker, each.report.complete)
        for call in self.fleet.freed(seen):
            self._again(call[0])

    def _look_failed(self, event: e.LookFailed) -> None:
        # A failed look says nothing of any task: an outage passes, unless the key is refused.
        looking = self.fleet.watch.looking
        refused = event.hopeless and looking.failures + 1 >= HOPE
        patient = not refused and self._turn.now - self._last_look < OUTAGE
        self._failed(looking, event, "runs cannot be watched", patient)
        silent = self._turn.now - self._last_look >= LAST_PATIENCE[event.hopeless]
        if self._closing and not self.tasks.known and silent:
            self._finish()

    def _conclude(self, worker: Worker, complete: bool) -> None:
        """A run is over. Answers may show up late: read again before a call counts as lost."""
        held = [call for call in worker.calls if self.tasks.holds(call, worker)]
        if not held:
            self.fleet.archive(self._turn, worker)
        elif not worker.has_said_all(complete, self._turn.now):
            return
        elif worker.cancelled and not worker.garbled:  # for the sake of another call
            for name, _ in held:
                self._again(name)
            self.fleet.archive(self._turn, worker)
        else:
            if not worker.state.over:  # a state nobody knows, for too long: make sure
                self._turn.do(e.CancelRun(worker.id))
            worker.phase = WorkerPhase.CONCLUDING
            text = "what its container has answered cannot be read, or is nowhere to be found"
            answer = Answer(held[0][0], e.CORRUPT, text=text) if worker.garbled else None
            self._turn.do(e.Diagnose(worker.id, tuple(held), answer))

    def _give_up_reading(self, worker: Worker) -> None:
        """Its answers cannot be read, so its calls will be lost: end it, and then they are."""
        if not worker.garbled:
            worker.garbled = True
            self.fleet.cancel(self._turn, worker)

    def _diagnosed(self, event: e.Diagnosed) -> None:
        worker = self.fleet.workers.get(event.worker)
        if event.verdict.unstarted and worker is not None:
            self._false_start(worker, event.verdict)
        for number, (name, given) in enumerate(event.calls):
            task = self.tasks.known.get(name)
            if task is None or (task.worker, task.given) != (event.worker, given):
                continue
            if number == event.at and not event.verdict.unstarted:
                self._lost(name, event.verdict)
            else:
                self._again(name)
        if worker is not None and worker.phase is WorkerPhase.CONCLUDING:
            self.fleet.archive(self._turn, worker)

    def _false_start(self, worker: Worker, verdict: e.Verdict) -> None:
        """A container that never ran the worker. If none has, then none will."""
        starting = self.fleet.starting
        lines = "".join(f"\n  {line}" for line in verdict.log_tail)
        error = BrokenContainerPool(f"{verdict.reason}{lines}")
        hopeless = not self.fleet.ramp.proven and starting.failures + 1 >= FALSE_STARTS
        event = e.LaunchFailed(worker.id, error, hopeless)
        patient = any(other.running for other in self.fleet.workers.values())
        self._failed(starting, event, "no container can be started", patient)

    def _archived(self, event: e.Archived) -> None:
        self.fleet.workers.pop(event.worker, None)

    def _crowded(self, event: e.Crowded) -> None:
        self.fleet.crowded_since = event.since

    def _await_cancels(self, _: e.CancelsAwaited) -> None:
        self._cancels_awaited = True

    def _tell_of_cancels(self) -> None:
        if self._cancels_awaited and not self.fleet.has_unwanted_calls():
            self._cancels_awaited = False
            self._turn.do(e.CancelsDone())

    def standing(self, now: float) -> Standing:
        """What tasks wait for, if any do."""
        count = self.tasks.count
        found = self.fleet.standing(now, bool(count[TaskPhase.READY]))
        looking = self.fleet.watch.looking
        tried = (self._preparing, self.fleet.launching, self.fleet.starting, self.fleet.writing)
        failed = max(tried, key=lambda attempts: attempts.not_before)
        return replace(
            found,
            unanswered_since=self._last_look if looking.failures else None,
            refused=failed.error if failed.not_before > now else "",
            again_at=failed.not_before,
        )

    # --- the end -------------------------------------------------------------------------------

    def _more_may_come(self) -> bool:
        """Whether there will be calls for a worker that has none."""
        if not self._closing:
            return True
        coming = len(self.tasks.known) - self.tasks.count[TaskPhase.HELD]
        return bool(coming) or may_even_out(self.fleet)

    def _finish_if_done(self) -> None:
        busy = self._preparing.busy or self.fleet.busy()
        if self._closing and not (self.tasks.known or self.fleet.workers or busy):
            self._finish()

    def _finish(self) -> None:
        if not self._finished:
            self._finished = True
            self._turn.do(e.Finish(tuple(self.fleet.workers)))
            self.fleet.workers.clear()

    def _shutdown_requested(self, _: e.ShutdownRequested) -> None:
        self._closing = True
        for name in [name for name, task in self.tasks.known.items() if not task.claimed]:
            self._give_up(e.Drop(name))

    def _terminate(self, event: e.TerminateRequested) -> None:
        if event.leave:
            leave(self.fleet)
        self._break(event.error)

    def _break(self, error: Exception) -> None:
        """End all tasks with this error, stop all workers, take nothing more."""
        if self._broken is not None:
            return
        self._broken, self._closing = error, True
        self._last_look = self._turn.now  # the cancels below have time to be seen
        self._turn.do(e.Break(error))
        for name, task in list(self.tasks.known.items()):
            self._end(e.Lose(name, task.worker, error))
        for worker in self.fleet.workers.values():
            worker.calls, worker.revoked = [], set()
            if worker.open and not worker.cancelled:
                self.fleet.cancel(self._turn, worker)

    def _failed(self, attempts: Attempts, event: _Failure, what: str, patient: bool) -> None:
        attempts.fail(self._turn.now, self.jitter(), str(event.error))
        if (event.hopeless or attempts.failures >= HOPE) and not patient:
            broken = BrokenContainerPool(f"{what}: {event.error}")
            broken.__cause__ = event.error
            self._break(broken)


def take_over(fleet: Fleet, tasks: Tasks, turn: Turn, event: e.Attached) -> None:
    """These workers are ours now."""
    fleet.last = event.last
    for found in event.workers:
        fleet.adopt(turn, Worker.inherited(found, turn.now))
        for call in found.wanted:
            tasks.inherit(call, found.id)


def leave(fleet: Fleet) -> None:
    """These workers are another process's now; those that it cannot know of stay."""
    for worker in list(fleet.workers.values()):
        if worker.phase in (WorkerPhase.ALIVE, WorkerPhase.CONCLUDING):
            del fleet.workers[worker.id]


def claim(tasks: Tasks, event: e.Submitted, found: e.FoundTask, wish: Task) -> Task:
    """A task that was given away is submitted, with these wishes."""
    if event.task not in tasks.known:
        past = Task(TaskPhase.UNCLAIMED, worker=found.worker, given=found.attempt)
        past.end = found.answer
        tasks.add(event.task, past)
    task = tasks.claim(event.task, wish)
    task.unsent = event.upload
    return task


@dataclass(frozen=True, slots=True)
class TimeLimits:
    """The limits of all tasks; `give_up` ends a task before its call has ended."""

    tasks: Tasks
    fleet: Fleet
    give_up: Callable[[e.Lose], None]

    def expire(self, turn: Turn) -> None:
        """End the tasks that should have begun by now and have not."""
        names, at = self.tasks.expired(turn.now)
        if at is not None:
            turn.wake(at)
        for name in names:
            self.expire_if_due(turn, name)

    def expire_if_due(self, turn: Turn, name: TaskId) -> None:
        """End this one, if it should have begun by now and has not."""
        task = self.tasks.known[name]
        if task.expires is None or task.expires > turn.now or task.attempts:
            return
        if task.phase is TaskPhase.HELD and task.worker is not None:
            call, worker = (name, task.given), self.fleet.workers[task.worker]
            begun = worker.state is not RunState.QUEUED and (worker.last or worker.calls[0] == call)
            if begun or not worker.open:
                task.expires = None  # it has begun, or what has become of it will be known
                return
            if not worker.last:  # ask the worker: it may begin it at any moment
                self.fleet.take_back(turn, call, worker)
                return
        elif task.phase not in (TaskPhase.UPLOADING, TaskPhase.READY, TaskPhase.DELAYED):
            return
        reason = f"it had not begun after its queue_timeout of {task.terms.queue_timeout:g} s"
        self.give_up(e.Lose(name, None, e.Verdict(None, reason, timed_out=True)))
