"""What the manager knows of tasks and workers at home, and what their futures show of it.

Written by the manager thread only. The scheduler names tasks and workers by id; what belongs to an
id is here: future, call, run, inbox token. Futures are shown a new frozen `View` with each change.
"""

from __future__ import annotations

import logging
import threading
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from itertools import islice
from typing import Any

from .. import _wire
from .._data.pickling import fill_in
from .._files.contents import Content, SentCall
from .._futures.future import ContainerFuture, Timings, number_of, show, value_in, view_of
from .._pacing import present
from .._scheduling import events as e
from .._types import Attempt, Job, RunState, TaskId, TaskState, WorkerId
from .mailbox import PoolFiles, WorkerRun
from .outcomes import CallPlace


@dataclass(frozen=True, slots=True)
class Inheritance:
    """What earlier processes of a session left: their workers, and the calls still in an inbox."""

    worker_runs: dict[WorkerId, WorkerRun] = field(default_factory=dict)
    calls: dict[e.Given, _wire.Call] = field(default_factory=dict)


@dataclass(slots=True)
class HeldTasks:
    """The tasks that a worker holds, in the order in which it runs them, as futures show it."""

    state: RunState = RunState.QUEUED
    tasks: dict[TaskId, None] = field(default_factory=dict)
    processes: int = 1
    inbox: int = 0  # which of those that there are


@dataclass(slots=True)
class Ledger:
    """The tables. `image` and `job_url` are for what futures and errors say."""

    image: str
    job_url: Callable[[Job], str]
    items: dict[TaskId, SentCall] = field(default_factory=dict)
    futures: dict[TaskId, ContainerFuture[Any]] = field(default_factory=dict)
    #: The runs that have refused a task, of those that go on.
    refused: dict[TaskId, tuple[int, ...]] = field(default_factory=dict)
    #: The bytes of answers that were in a File.
    fetched: dict[TaskId, bytes] = field(default_factory=dict)
    worker_runs: dict[WorkerId, WorkerRun] = field(default_factory=dict)
    held: dict[WorkerId, HeldTasks] = field(default_factory=dict)
    holder: dict[TaskId, WorkerId] = field(default_factory=dict)
    #: A list that is empty once the worker is no longer wanted; its launch looks at it.
    wanted: dict[WorkerId, list[object]] = field(default_factory=dict)
    files: PoolFiles | None = None
    inheritance: Inheritance = Inheritance()
    #: Set when no call runs any more that was cancelled before.
    waiting: list[threading.Event] = field(default_factory=list)

    def take_in(self, event: e.Event, attachment: Any) -> e.Event:
        """Put the attachment of an event where it belongs, before the scheduler decides. Gives the
        event, with what is known here alone.
        """
        match event:
            case e.Submitted():
                self.futures[event.task], sent = attachment
                self.items[event.task] = sent
                if event.found is not None:
                    self._find(event.task, event.found)
                there = [each.inline for each in sent.values] if event.needs else []
                if more := sum(blob.size for blob in there if blob is not None):
                    size = event.size + more * 4 // 3  # as text
                    return replace(event, size=size, data=event.data + more)
            case e.Attached():
                self.inheritance = attachment
                for found in event.workers:
                    self.worker_runs[found.id] = attachment.worker_runs[found.id]
                    self.held[found.id] = HeldTasks(found.state, processes=found.processes)
            case e.Done(e.Upload(task)) if task in self.items:
                item = self.items[task]
                item.blob, item.data = attachment, None
                self._show(task, note="")
            case e.Done(e.Fetch(task)) if task in self.items:
                self.fetched[task] = attachment
            case e.Done(e.Prepare()):
                self.files = attachment
            case e.CancelsAwaited():
                self.waiting.append(attachment)
            case e.Done(e.Launch(worker)):
                self.worker_runs[worker] = attachment
                for task in self.held[worker].tasks:
                    self._arrive(task, attachment)
            case e.Done(e.Look(), e.Looked(reports)):
                self.worker_runs.update(
                    {worker_run.worker: worker_run for worker_run in attachment}
                )
                for report in reports:
                    if report.run is not None and report.worker in self.held:
                        self.held[report.worker].state = report.run.state
                        self._show_first(report.worker)
            case e.Failed(e.Launch(worker)) | e.Done(e.Archive(worker)):
                for table in (self.worker_runs, self.held, self.wanted):
                    table.pop(worker, None)
            case _:
                pass
        return event

    def cancels_done(self) -> None:
        """Wake those who wait for it."""
        while self.waiting:
            self.waiting.pop().set()

    def uploading(self, task: TaskId) -> None:
        """Its function or arguments are on their way to the platform."""
        self._show(task, note="what it was called with is being uploaded")

    def launch(
        self, worker: WorkerId, calls: tuple[e.Given, ...], processes: int = 1
    ) -> list[object]:
        """A worker is about to be started with these calls; what its launch looks at."""
        assert self.files is not None, "no launch before Prepare is done"
        read = Counter(held.inbox for held in self.held.values())
        inbox = min(range(len(self.files.inboxes)), key=read.__getitem__)
        wanted = self.wanted[worker] = [worker]
        self.held[worker] = HeldTasks(processes=processes, inbox=inbox)
        self.give(worker, calls)
        return wanted

    def give(self, worker: WorkerId, calls: tuple[e.Given, ...]) -> None:
        """These calls are for this worker."""
        worker_run = self.worker_runs.get(worker)
        for task, _ in calls:
            if self.holder.get(task) == worker or task not in self.items:
                continue
            self.take_back(task)
            self.holder[task] = worker
            self.held[worker].tasks[task] = None
            if worker_run is None:
                self._show(task, worker=int(worker), note="")
            else:
                self._arrive(task, worker_run, worker=int(worker), note="")
        self._show_first(worker)

    def processes(self, worker: WorkerId) -> int:
        """How many calls it runs at once, if it is there."""
        return self.held[worker].processes if worker in self.held else 1

    def _find(self, task: TaskId, found: e.FoundTask) -> None:
        """An earlier process has given it to this worker, which may be gone."""
        if found.answer is not None:
            self.returned(task, found.answer)
        if found.worker in self.held:
            self.give(found.worker, ((task, found.attempt),))
        elif found.worker in self.inheritance.worker_runs:  # else it never had a run
            self._show(task, worker=int(found.worker))
            self._arrive(task, self.worker_run(found.worker))

    def worker_run(self, worker: WorkerId) -> WorkerRun:
        """That of a worker, also if it ended before this process came."""
        return self.worker_runs.get(worker) or self.inheritance.worker_runs[worker]

    def take_back(self, task: TaskId) -> None:
        """No worker holds the task any more; the next one that its worker holds comes first."""
        worker = self.holder.pop(task, None)
        if worker in self.held:
            self.held[worker].tasks.pop(task, None)
            self._show_first(worker)

    def letter(
        self, given: tuple[e.Given, ...], letter: e.LetterContent | None = None, stop: bool = False
    ) -> _wire.Letter:
        """The letter with these calls, and what else there is to say."""
        calls = []
        for task, attempt in given:
            call = self.inheritance.calls.get((task, attempt)) or self._call(
                task, self.items[task], attempt
            )
            assert call is not None, "a call is uploaded before it is given away"
            calls.append(call)
        if letter is None:
            return _wire.Letter(tuple(calls), stop)
        return _wire.Letter(tuple(calls), letter.stop, letter.revoked, letter.ended)

    @staticmethod
    def _call(task: TaskId, sent: SentCall, attempt: int = 1) -> _wire.Call | None:
        """The call, if all of it is on the platform, or in here."""
        fill_in(sent)
        if sent.blob is None or not all(content.ready for content in sent.buffers):
            return None
        buffers = tuple(content.blob for content in sent.buffers)
        return _wire.Call(task, sent.blob, attempt, sent.timeout, buffers, sent.key, sent.code)

    def not_fetched(self, command: e.Diagnose) -> set[Content]:
        """What calls refer to that a worker could not fetch, or not all of it."""
        if command.answer is None or command.answer.kind != _wire.CALL_NOT_FETCHED:
            return set()
        items = [self.items[task] for task, _ in command.calls if task in self.items]
        return {content for item in items for content in item.contents}

    # --- the end of a call, and of a task ------------------------------------------------------

    def attempted(
        self,
        task: TaskId,
        worker: WorkerId | None,
        cause: _wire.Answer | e.Verdict,
        reason: str,
        **more: Any,
    ) -> None:
        """An attempt at a task has ended like this; and what `more` there is to show."""
        future = self.futures.get(task)
        if future is None or worker is None:
            return self._show(task, **more)
        view = view_of(future)
        place = (int(worker), view.job_id, view.run_id, view.job_url)
        if isinstance(cause, _wire.Answer):
            good = cause.kind == _wire.RETURNED
            attempt = Attempt(
                *place,
                state=TaskState.SUCCEEDED if good else TaskState.FAILED,
                started=cause.started or None,
                finished=cause.finished or None,
                peak_memory=cause.peak_mb or None,
                reason=reason,
            )
        else:
            attempt = Attempt(
                *place,
                state=TaskState.FAILED,
                exit_code=cause.exit_code,
                started=cause.started,
                finished=cause.finished,
                peak_memory=cause.peak_memory,
                reason=reason,
            )
        return show(future, attempts=(*view.attempts, attempt), **more)

    def again(self, command: e.Again) -> None:
        """The task waits again."""
        cause, worker = command.cause, command.worker
        if isinstance(cause, _wire.Answer) and cause.kind == _wire.REFUSED:
            assert worker is not None, "who refuses is a worker"
            runs = (*self.refused.get(command.task, ()), self.worker_run(worker).run_id)
            self.refused[command.task] = runs
            said = "a container has" if len(runs) == 1 else f"{len(runs)} containers have"
            self._show(command.task, note=f"{said} refused it, and it waits for another one")
        elif cause is not None:
            reason = getattr(cause, "reason", "") or command.reason
            self.attempted(command.task, worker, cause, reason)
        self.fetched.pop(command.task, None)  # of that attempt
        self.take_back(command.task)
        self._show(command.task, state=TaskState.PENDING, running_since=None)

    def returned(self, task: TaskId, answer: _wire.Answer) -> None:
        """Who needs the result of the task can have it, if this is one."""
        if answer.kind == _wire.RETURNED:
            self.items[task].came = answer.data  # first: see `upstream`
            value = value_in(self.futures[task])
            if value is not None:
                value.fill(answer.data)

    def settle(self, command: e.Settle) -> tuple[ContainerFuture[Any], CallPlace]:
        """The task has ended with this answer."""
        item, answer = self.items[command.task], command.answer
        self.returned(command.task, answer)
        known = self.futures[command.task].timings
        timings = Timings(
            known.submitted,
            known.queued,
            answer.started,
            answer.finished,
            answer.seconds,
            answer.importing,
            answer.unpickling,
            answer.upload,
        )
        self.attempted(command.task, command.worker, answer, reason_of(answer), timings=timings)
        if answer.kind == _wire.RETURNED:
            item.shrink()
        elif all(each.came is not None for each in item.values):
            fill_in(item)  # if it is not complete, an earlier process has sent it
        return self._remove(command.task)

    def lose(self, command: e.Lose) -> tuple[ContainerFuture[Any], CallPlace]:
        """The task has ended without an answer."""
        if isinstance(command.cause, e.Verdict):
            self.attempted(command.task, command.worker, command.cause, command.cause.reason)
        return self._remove(command.task)

    def needed(self, task: TaskId, other: TaskId) -> ContainerFuture[Any]:
        """The future of another task that this one needs."""
        needs = self.items[task].needs
        return next(f for need in needs for f in need.futures if number_of(f) == other)

    def log_failure(self, log: logging.Logger, pool: str, command: e.Command) -> None:
        """What users would write down of a task that is tried again, or lost."""
        match command:
            case e.Again(task, cause=cause, reason=reason) if cause is not None:
                why = reason or reason_of(cause)
                log.info("%s: %s is tried again: %s", pool, self.name(task), why)
            case e.Lose(task, cause=cause):
                log.info("%s: %s is lost: %s", pool, self.name(task), reason_of(cause))
            case _:
                pass

    def name(self, task: TaskId) -> str:
        """What a task is called in messages."""
        future = self.futures.get(task)
        return f"task {task}" if future is None else future.task

    def drop(self, task: TaskId) -> ContainerFuture[Any]:
        """The task was cancelled."""
        return self._remove(task)[0]

    def place(self, task: TaskId) -> CallPlace:
        """Where a task is, for messages."""
        future = self.futures[task]
        view = view_of(future)
        where, refused = (view.job_id, view.run_id, view.job_url), self.refused.get(task, ())
        return CallPlace(future.task, self.image, *where, view.attempts, refused)

    def _remove(self, task: TaskId) -> tuple[ContainerFuture[Any], CallPlace]:
        place = self.place(task)
        self.take_back(task)
        del self.items[task]
        self.fetched.pop(task, None)
        self.refused.pop(task, None)
        return self.futures.pop(task), place

    # --- what futures show ---------------------------------------------------------------------

    def _arrive(self, task: TaskId, worker_run: WorkerRun, **more: Any) -> None:
        """The task is held by this worker, which has a run."""
        future = self.futures.get(task)
        if future is not None:
            show(
                future,
                job_id=worker_run.job.id,
                run_id=worker_run.run_id,
                job_url=self.job_url(worker_run.job),
                state=TaskState.QUEUED,
                timings=Timings(future.timings.submitted, present()),
                **more,
            )

    def _show_first(self, worker: WorkerId) -> None:
        """A worker that runs is at the first of its calls, one in each process."""
        held = self.held[worker]
        if held.state is not RunState.RUNNING:
            return
        for task in islice(held.tasks, held.processes):
            future = self.futures.get(task)
            if future is not None and view_of(future).state is not TaskState.RUNNING:
                show(future, state=TaskState.RUNNING, running_since=present())

    def _show(self, task: TaskId, **changes: Any) -> None:
        future = self.futures.get(task)
        if future is not None:
            show(future, **changes)


def reason_of(cause: _wire.Answer | e.Verdict | e.Unmet | Exception) -> str:
    """How a call ended, in one line; empty if it returned."""
    if isinstance(cause, e.Unmet):
        return f"it needs task {cause.task}, which has not ended as it should"
    if isinstance(cause, e.Verdict):
        return cause.reason
    if isinstance(cause, Exception):
        return str(cause)
    if cause.kind == _wire.RETURNED:
        return ""
    lines = cause.text.strip().splitlines()
    last = lines[-1].strip() if lines else ""
    return last if cause.kind == _wire.RAISED else f"{cause.kind}: {last}".rstrip(": ")


def outline(said: e.Event | e.Command) -> str:
    """An event or a command for the log: its name, and whom it is about; nothing of the user's."""
    about = getattr(said, "command", None)
    words = [type(said).__name__, *([type(about).__name__] if about is not None else ())]
    for name in ("task", "worker"):
        number = getattr(said if about is None else about, name, None)
        if number is not None:
            words.append(f"{name} {number}")
    return " ".join(words)
