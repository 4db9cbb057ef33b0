"""What to do next: events in, commands out. Pure: no clock, thread, lock, I/O or bytes in here.

A task is known from `Submitted` until exactly one of `Settle`, `Lose`, `Drop` names it; whatever
comes of it later is ignored. Between the two it is in one phase::

    UPLOADING ──> READY ──> HELD by one worker ──> FETCHING ──> Settle
                    ^         │         │             │
                 DELAYED <────┴─ LOSING ┴─────────────┘  (attempts left)   ──> Lose
                                                 from anywhere, on cancel  ──> Drop

A worker is one container run::

    LAUNCHING ──> ALIVE ──> CONCLUDING (over, with calls unanswered) ──> ARCHIVING ──> gone

What always holds (`tests/test_scheduler.py` checks it after every event of random histories):

1. A task is in one phase, and HELD tasks and the workers' lists of calls say the same.
2. At most `max_workers` workers are launching or alive, whatever happens.
3. A task ends once; the pool finishes once, with no task and no worker left.
4. There is never a second look, inbox write or preparation in flight.
5. A worker that is told to stop, or cancelled, is given no call; one without an inbox gets only
   the calls of its launch; none gets more than `max_tasks_per_worker`.
6. No task is attempted more often than 1 + `max_retries` times, not counting what surely never
   began.
7. While a task or a worker is left, a command is in flight or `deadline` is set: no waiting for
   nothing.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from . import _events as e
from ._exceptions import BrokenContainerPool
from ._pacing import HOPE, LAST_LOOKS, OUTAGE, Attempts, Pause, backoff
from ._state import Policy, TaskPhase, Tasks, Worker, WorkerPhase
from ._types import RunState, TaskId, WorkerId
from ._wire import CALL_NOT_FETCHED, CRASHED, INITIALIZER, MEMORY, Answer

_Failure = e.PrepareFailed | e.LaunchFailed | e.InboxFailed | e.LookFailed

#: How often a run that is over is read again before an answer counts as missing.
REREADS = 2
#: A cancel that shows no effect is repeated after so many seconds.
CANCEL_AGAIN = 30.0


@dataclass
class Scheduler:
    """All tasks and workers of one pool. `advance` takes an event and returns the commands."""

    policy: Policy
    jitter: Callable[[], float] = field(default=random.random)

    def __post_init__(self) -> None:
        """Start with nothing: no task, no worker, and a platform that does not know us."""
        self.tasks = Tasks()
        self.workers: dict[WorkerId, Worker] = {}
        self.deadline: float | None = None  # when to send a Tick, at the latest
        self._known = False  # Prepared has come
        self._preparing, self._launching = Attempts(), Attempts()
        self._writing, self._looking = Attempts(), Attempts()
        self._inbox_stale = False
        self._pause = Pause()
        self._closing = self._finished = False
        self._broken: Exception | None = None
        self._last_worker = 0
        self._now = self._last_look = 0.0
        self._out: list[e.Command] = []
        self._steps: dict[type, Callable[[Any], None]] = {
            e.Submitted: self._submitted,
            e.Uploaded: self._uploaded,
            e.UploadFailed: self._upload_failed,
            e.CancelRequested: self._cancel_requested,
            e.Prepared: self._prepared,
            e.PrepareFailed: self._prepare_failed,
            e.Launched: self._launched,
            e.LaunchFailed: self._launch_failed,
            e.InboxWritten: self._inbox_written,
            e.InboxFailed: self._inbox_failed,
            e.Looked: self._looked,
            e.LookFailed: self._look_failed,
            e.Fetched: self._fetched,
            e.FetchFailed: self._fetch_failed,
            e.Diagnosed: self._diagnosed,
            e.RunCancelled: lambda _: self._pause.soon(self._now),
            e.Archived: self._archived,
            e.ShutdownRequested: self._shutdown_requested,
            e.TerminateRequested: lambda event: self._break(event.error),
            e.Tick: lambda _: None,
        }

    def advance(self, event: e.Event, now: float) -> list[e.Command]:
        """Take in one event at time `now` (monotonic, seconds); what to do about it, in order."""
        self._now, self._out, self.deadline = now, [], None
        self._steps[type(event)](event)
        if (at := self.tasks.wake(now)) is not None:
            self._wake(at)
        self._prepare()
        self._give()
        self._launch()
        self._let_go()
        self._cancel_again()
        self._write_inbox()
        self._look()
        if self._closing and not (self.tasks.known or self.workers or self._busy()):
            self._finish()
        return self._out

    # --- tasks ---------------------------------------------------------------------------------

    def _submitted(self, event: e.Submitted) -> None:
        self.tasks.add(event.task, TaskPhase.UPLOADING if event.upload else TaskPhase.READY)
        if self._broken is not None:  # it was under way when the pool broke
            self._end(event.task, e.Lose(event.task, None, self._broken))
        elif event.upload:
            self._out.append(e.Upload(event.task))

    def _uploaded(self, event: e.Uploaded) -> None:
        if event.task in self.tasks.known:
            self.tasks.move(event.task, TaskPhase.READY)

    def _upload_failed(self, event: e.UploadFailed) -> None:
        if event.task in self.tasks.known:
            self._end(event.task, e.Lose(event.task, None, event.error))

    def _cancel_requested(self, event: e.CancelRequested) -> None:
        task = self.tasks.known.get(event.task)
        if task is None:
            return
        self._end(event.task, e.Drop(event.task))
        if task.phase is TaskPhase.HELD and task.worker is not None:
            worker = self.workers[task.worker]
            begun = worker.calls[0] == event.task
            worker.calls.remove(event.task)
            # Calls run in order: the first unanswered one may be running, and only the end of
            # its container surely ends it. One further back has not begun: the inbox drops it.
            if begun:
                self._cancel(worker)
            else:
                self._inbox_stale = True

    def _answered(self, worker: Worker, answer: Answer) -> None:
        task = self.tasks.known.get(TaskId(answer.task))
        if task is None or task.phase is not TaskPhase.HELD or task.worker != worker.id:
            return  # it came twice, or too late
        if task.given != answer.attempt:
            return  # likewise, and the same worker has the task again
        name = TaskId(answer.task)
        worker.calls.remove(name)
        worker.idle_since = self._now
        if answer.kind == INITIALIZER:
            self._break(
                BrokenContainerPool(f"the initializer failed in a container:\n{answer.text}")
            )
        elif answer.kind in (CRASHED, MEMORY, CALL_NOT_FETCHED, e.CORRUPT):
            self.tasks.move(name, TaskPhase.LOSING)
            self._out.append(e.Diagnose(worker.id, (name,), answer))
        elif answer.data is not None and answer.data.file_id is not None:
            self.tasks.move(name, TaskPhase.FETCHING)
            self._out.append(e.Fetch(name, answer))
        else:
            self._end(name, e.Settle(name, worker.id, answer))

    def _fetched(self, event: e.Fetched) -> None:
        task = self.tasks.known.get(event.task)
        if task is not None and task.worker is not None:
            self._end(event.task, e.Settle(event.task, task.worker, event.answer))

    def _fetch_failed(self, event: e.FetchFailed) -> None:
        task = self.tasks.known.get(event.task)
        if task is not None:
            self._lost(event.task, e.Verdict(None, f"its result was lost: {event.error}"))

    def _lost(self, name: TaskId, verdict: e.Verdict) -> None:
        """An attempt has failed through no fault of the function: again, or the end."""
        task = self.tasks.known[name]
        task.attempts += 1
        # Who cancels a run on the platform does not want it to come back.
        if verdict.outside or task.attempts > self.policy.max_retries:
            self._end(name, e.Lose(name, task.worker, verdict))
        else:
            self.tasks.delay(name, self._now + backoff(task.attempts, self.jitter()))

    def _end(self, name: TaskId, last_word: e.Settle | e.Lose | e.Drop) -> None:
        self.tasks.remove(name)
        self._out.append(last_word)

    # --- giving calls to workers ---------------------------------------------------------------

    def _prepare(self) -> None:
        waiting = self.tasks.count[TaskPhase.READY] and not self._known
        if waiting and self._may(self._preparing):
            self._preparing.busy = True
            self._out.append(e.Prepare(self.policy.max_tasks_per_worker != 1))

    def _prepared(self, _: e.Prepared) -> None:
        self._preparing = Attempts()
        self._known = True

    def _prepare_failed(self, event: e.PrepareFailed) -> None:
        self._failed(self._preparing, event, "the platform cannot be used", patient=False)

    def _give(self) -> None:
        """Calls for the workers that run and have room."""
        if not self._known:
            return
        for worker in filter(lambda worker: worker.listens, self.workers.values()):
            if self._fill(worker):
                worker.stop = worker.taken == self.policy.max_tasks_per_worker
                self._inbox_stale = True
                self._pause.soon(self._now)

    def _launch(self) -> None:
        """New workers for the calls that are left, while there is room for workers."""
        room = self.policy.max_workers - sum(worker.open for worker in self.workers.values())
        while room > 0 and self._known and self.tasks.count[TaskPhase.READY]:
            if not self._may(self._launching):
                return
            room -= 1
            self._last_worker += 1
            worker = Worker(WorkerId(self._last_worker), True, (), [], 0)
            self.workers[worker.id] = worker
            self._fill(worker)
            worker.first = self._given(worker.calls)
            worker.inbox = worker.taken != self.policy.max_tasks_per_worker
            self._out.append(e.Launch(worker.id, worker.first, worker.inbox))

    def _fill(self, worker: Worker) -> tuple[TaskId, ...]:
        """Give a worker as many calls as it may have."""
        room = self.policy.calls_per_worker - len(worker.calls)
        if self.policy.max_tasks_per_worker is not None:
            room = min(room, self.policy.max_tasks_per_worker - worker.taken)
        return self.tasks.give(room, worker)

    def _given(self, names: list[TaskId]) -> tuple[e.Given, ...]:
        return tuple((name, self.tasks.known[name].given) for name in names)

    def _write_inbox(self) -> None:
        if not self._inbox_stale or self._writing.busy or not self._may(self._writing):
            return
        self._inbox_stale = False
        readers = [w for w in self.workers.values() if w.inbox and w.alive]
        letters = []
        for worker in readers:
            calls = tuple(call for call in self._given(worker.calls) if call not in worker.first)
            if calls or worker.stop:
                letters.append((worker.id, calls, worker.stop))
        if readers:  # even if there is no letter: a call that was dropped must not stay in there
            self._writing.busy = True
            self._out.append(e.WriteInbox(tuple(letters), len(readers)))

    def _inbox_written(self, _: e.InboxWritten) -> None:
        self._writing = Attempts()

    def _inbox_failed(self, event: e.InboxFailed) -> None:
        self._inbox_stale = True
        self._failed(self._writing, event, "calls cannot be sent", patient=False)

    # --- workers -------------------------------------------------------------------------------

    def _launched(self, event: e.Launched) -> None:
        self._launching, self._last_look = Attempts(), self._now
        worker = self.workers[event.worker]
        worker.phase = WorkerPhase.ALIVE
        worker.idle_since = self._now
        self._pause.soon(self._now)
        if worker.cancelled:
            self._cancel(worker)

    def _launch_failed(self, event: e.LaunchFailed) -> None:
        worker = self.workers.pop(event.worker)
        # As long as containers run, their calls go on, and so may the rest later. One that was
        # cancelled meanwhile has not failed.
        patient = any(other.alive for other in self.workers.values())
        if not worker.cancelled:
            self._failed(self._launching, event, "no container can be started", patient)
        for name in worker.calls:  # none of them has begun
            if name in self.tasks.known:
                self.tasks.delay(name, self._now)

    def _let_go(self) -> None:
        """Idle workers end: at once if no task can come, else after `idle_timeout`."""
        coming = len(self.tasks.known) - self.tasks.count[TaskPhase.HELD]
        for worker in self.workers.values():
            if worker.calls or not worker.listens:
                continue
            leave_at = worker.idle_since + self.policy.idle_timeout
            if leave_at > self._now and not (self._closing and not coming):
                self._wake(leave_at)
            elif worker.state is RunState.QUEUED:
                self._cancel(worker)  # it reads no inbox before it has started
            else:
                worker.stop = self._inbox_stale = True
                self._pause.soon(self._now)

    def _cancel(self, worker: Worker) -> None:
        """Stop its run; if the launch is still under way, then so that it starts none."""
        worker.cancelled = True
        worker.cancel_at = self._now + CANCEL_AGAIN
        self._pause.soon(self._now)
        self._out.append(e.CancelRun(worker.id))

    def _cancel_again(self) -> None:
        for worker in self.workers.values():
            if worker.cancelled and worker.alive:
                if worker.cancel_at <= self._now:
                    self._cancel(worker)
                self._wake(worker.cancel_at)

    def _diagnosed(self, event: e.Diagnosed) -> None:
        worker = self.workers.get(event.worker)
        for number, name in enumerate(event.tasks):
            task = self.tasks.known.get(name)
            if task is None or task.worker != event.worker:
                continue
            if number == 0:
                self._lost(name, event.verdict)
            else:  # calls run in order, so this one had not begun
                self.tasks.delay(name, self._now)
        if worker is not None and worker.phase is WorkerPhase.CONCLUDING:
            self._archive(worker)

    def _archive(self, worker: Worker) -> None:
        worker.calls = []
        worker.phase = WorkerPhase.ARCHIVING
        self._out.append(e.Archive(worker.id))

    def _archived(self, event: e.Archived) -> None:
        self.workers.pop(event.worker, None)

    # --- looks ---------------------------------------------------------------------------------

    def _look(self) -> None:
        watched = [w for w in self.workers.values() if w.alive]
        if not watched or not self._may(self._looking):
            return
        if self._pause.at > self._now:
            self._wake(self._pause.at)
            return
        self._looking.busy = True
        self._out.append(e.Look(tuple((worker.id, worker.reading) for worker in watched)))

    def _looked(self, event: e.Looked) -> None:
        self._looking, self._last_look = Attempts(), self._now
        seen = [
            (worker, report)
            for report in event.reports
            if (worker := self.workers.get(report.worker)) and worker.alive
        ]
        states = [worker.state for worker, _ in seen]
        over = [
            (worker, report.complete)
            for worker, report in seen
            if report.run is not None and worker.is_over(report.run, self._now)
        ]
        # As they ended, so that as_completed yields them in that order.
        answers = [(worker, answer) for worker, report in seen for answer in report.answers]
        for worker, answer in sorted(answers, key=lambda pair: pair[1].finished):
            self._answered(worker, answer)
        for worker, report in seen:
            if report.garbled and worker.calls:
                self._give_up(worker)
        for worker, complete in over:
            self._conclude(worker, complete)
        news = bool(answers) or states != [worker.state for worker, _ in seen]
        self._pause.after(self._now, news=news, cost=event.cost, pace=event.pace)

    def _look_failed(self, event: e.LookFailed) -> None:
        # A failed look says nothing of any task: an outage passes, unless the key is refused.
        refused = event.hopeless and self._looking.failures + 1 >= HOPE
        patient = not refused and self._now - self._last_look < OUTAGE
        self._failed(self._looking, event, "runs cannot be watched", patient)
        if self._closing and not self.tasks.known and self._looking.failures >= LAST_LOOKS:
            self._finish()

    def _conclude(self, worker: Worker, complete: bool) -> None:
        """A run is over. Answers may show up late: read again before a call counts as lost."""
        worker.rereads += 1.0 if complete else 0.1
        if not worker.calls:
            self._archive(worker)
        elif worker.cancelled:  # for the sake of another call; these had not begun
            for name in worker.calls:
                self.tasks.delay(name, self._now)
            self._archive(worker)
        elif worker.rereads > REREADS:
            if not worker.state.over:  # a state nobody knows, for too long: make sure
                self._out.append(e.CancelRun(worker.id))
            worker.phase = WorkerPhase.CONCLUDING
            answer = Answer(worker.calls[0], e.CORRUPT) if worker.garbled else None
            self._out.append(e.Diagnose(worker.id, tuple(worker.calls), answer))

    def _give_up(self, worker: Worker) -> None:
        """Its answers cannot be read, so its calls will be lost: end it, and then they are."""
        if not worker.garbled:
            worker.garbled = True
            self._out.append(e.CancelRun(worker.id))

    # --- the end -------------------------------------------------------------------------------

    def _finish(self) -> None:
        if not self._finished:
            self._finished = True
            self._out.append(e.Finish(tuple(self.workers)))
            self.workers.clear()

    def _shutdown_requested(self, _: e.ShutdownRequested) -> None:
        self._closing = True

    def _break(self, error: Exception) -> None:
        """End all tasks with this error, stop all workers, take nothing more."""
        if self._broken is not None:
            return
        self._broken, self._closing = error, True
        self._looking.failures = 0  # the cancels below have chances of their own to be seen
        self._out.append(e.Break(error))
        for name, task in list(self.tasks.known.items()):
            self._end(name, e.Lose(name, task.worker, error))
        for worker in self.workers.values():
            worker.calls = []
            if worker.open and not worker.cancelled:
                self._cancel(worker)

    def _failed(self, attempts: Attempts, event: _Failure, what: str, patient: bool) -> None:
        attempts.fail(self._now, self.jitter())
        if (event.hopeless or attempts.failures >= HOPE) and not patient:
            broken = BrokenContainerPool(f"{what}: {event.error}")
            broken.__cause__ = event.error
            self._break(broken)

    # --- time ----------------------------------------------------------------------------------

    def _may(self, attempts: Attempts) -> bool:
        if attempts.busy:
            return False
        if attempts.not_before > self._now:
            self._wake(attempts.not_before)
            return False
        return True

    def _wake(self, at: float) -> None:
        self.deadline = at if self.deadline is None else min(self.deadline, at)

    def _busy(self) -> bool:
        return self._preparing.busy or self._writing.busy or self._looking.busy
