"""Workers and tasks of an earlier process of a session: taken over, then claimed one by one. Pure.

A task that such a worker has in hand is known, and HELD, before this process submits it. Should its
call end before that, how it ended is kept, and the task is UNCLAIMED. It is given to no worker
anew before it is claimed, and counts for the pool's end only then.
"""

from __future__ import annotations

from . import _events as e
from ._fleet import Fleet
from ._state import Task, TaskPhase, Tasks, Turn, Worker, WorkerPhase


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


def claim(tasks: Tasks, event: e.Submitted, found: e.Found, wish: Task) -> Task:
    """A task that was given away is submitted, with these wishes."""
    if event.task not in tasks.known:
        past = Task(TaskPhase.UNCLAIMED, worker=found.worker, given=found.attempt)
        past.end = found.answer
        tasks.add(event.task, past)
    task = tasks.claim(event.task, wish)
    task.unsent = event.upload
    return task
