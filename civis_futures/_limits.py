"""The time limit of calls that have not begun. Pure; how long one may run, its worker sees to.

What becomes of a task whose time is over is the scheduler's.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from . import _events as e
from ._fleet import Fleet
from ._state import TaskPhase, Tasks, Turn
from ._types import RunState, TaskId


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
