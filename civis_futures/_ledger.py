"""What the manager knows of tasks and workers at home, and what their futures show of it.

Written by the manager thread only. The scheduler names tasks and workers by id; what belongs to an
id is here: future, call, run, inbox token. Futures are shown a new frozen `View` with each change.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

from . import _events as e
from . import _wire
from ._future import ContainerFuture, Timings
from ._mailbox import Posting, Station
from ._serialize import Place
from ._types import Job, RunState, TaskId, TaskState, WorkerId


@dataclass(slots=True)
class WorkItem:
    """A task at home: its future, and its call until nobody can ask for it any more."""

    id: TaskId
    future: ContainerFuture[Any]
    call: _wire.Blob | None  # None until it is uploaded
    data: bytes | None = None  # what to upload; dropped then
    fetched: bytes | None = None  # the bytes of its answer, if these were in a File


@dataclass(slots=True)
class Ledger:
    """The tables. `image` and `job_url` are for what futures and errors say."""

    image: str
    job_url: Callable[[Job], str]
    items: dict[TaskId, WorkItem] = field(default_factory=dict)
    postings: dict[WorkerId, Posting] = field(default_factory=dict)
    #: What each worker has in hand, as far as futures show it.
    calls: dict[WorkerId, tuple[TaskId, ...]] = field(default_factory=dict)
    #: A list that is empty once the worker is no longer wanted; its launch looks at it.
    wanted: dict[WorkerId, list[object]] = field(default_factory=dict)
    station: Station | None = None

    def take_in(self, event: e.Event, goods: Any) -> None:
        """Put the goods of an event where they belong, before the scheduler decides."""
        match event:
            case e.Submitted():
                self.items[event.task] = goods
            case e.Uploaded() if event.task in self.items:
                item = self.items[event.task]
                item.call, item.data = goods, None
            case e.Fetched() if event.task in self.items:
                self.items[event.task].fetched = goods
            case e.Prepared():
                self.station = goods
            case e.Launched():
                self.postings[event.worker] = goods
                self._show(event.worker, RunState.QUEUED)
            case e.Looked():
                self.postings.update({posting.worker: posting for posting in goods})
                for report in event.reports:
                    if report.run is not None:
                        self._show(report.worker, report.run.state)
            case e.Diagnosed():
                self._take_back(event.worker, event.tasks)
            case e.LaunchFailed() | e.Archived():
                for table in (self.postings, self.calls, self.wanted):
                    table.pop(event.worker, None)
            case _:
                pass

    def give(self, worker: WorkerId, calls: tuple[e.Given, ...]) -> None:
        """These calls are for this worker."""
        if not calls:
            return
        self.calls[worker] = tuple(task for task, _ in calls)
        for task in self.calls[worker]:  # an inbox names those that it named before, too
            item = self.items.get(task)
            if item is not None and item.future.worker != worker:
                self._view(task, worker=int(worker))
        if worker in self.postings:
            self._show(worker, RunState.QUEUED)

    def letter(self, given: tuple[e.Given, ...], stop: bool) -> _wire.Letter:
        """The letter with these calls."""
        calls = []
        for task, attempt in given:
            call = self.items[task].call
            assert call is not None, "a call is uploaded before it is given away"
            calls.append(_wire.Call(task, call, attempt))
        return _wire.Letter(tuple(calls), stop)

    def settle(self, task: TaskId, answer: _wire.Answer) -> tuple[WorkItem, Place]:
        """The task has ended with this answer."""
        item = self.items[task]
        known = item.future.timings
        timings = Timings(
            known.submitted, known.queued, answer.started, answer.finished, answer.seconds
        )
        self._view(task, timings=timings)
        return self.remove(task)

    def remove(self, task: TaskId) -> tuple[WorkItem, Place]:
        """The task has ended."""
        item = self.items.pop(task)
        view = item.future._view
        place = Place(item.future.task, self.image, view.job_id, view.run_id, view.job_url)
        return item, place

    def _take_back(self, worker: WorkerId, tasks: tuple[TaskId, ...]) -> None:
        if worker in self.calls:  # it may be gone by now
            self.calls[worker] = tuple(x for x in self.calls[worker] if x not in tasks)
        for task in tasks:
            self._view(task, state=TaskState.PENDING)

    def _show(self, worker: WorkerId, state: RunState) -> None:
        """The run of a worker is in this state: so are the calls that it has."""
        posting = self.postings[worker]
        url, now = self.job_url(posting.job), time.time()
        shown = TaskState.RUNNING if state is RunState.RUNNING else TaskState.QUEUED
        for task in self.calls.get(worker, ()):
            item = self.items.get(task)
            if item is None:
                continue
            view = item.future._view
            if view.run_id != posting.run_id:
                self._view(
                    task,
                    job_id=posting.job.id,
                    run_id=posting.run_id,
                    job_url=url,
                    state=shown,
                    timings=replace(view.timings, queued=now),
                )
            elif shown is TaskState.RUNNING and view.state is not shown:
                self._view(task, state=shown)

    def _view(self, task: TaskId, **changes: Any) -> None:
        item = self.items.get(task)
        if item is not None:
            item.future._view = item.future._view._replace(**changes)
