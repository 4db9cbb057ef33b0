"""Time limits of calls: when they must have begun, and how long they may run. Pure.

What becomes of a task whose time is over is the scheduler's.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from . import _events as e
from ._fleet import Fleet
from ._state import TaskPhase, Tasks, Turn, Worker
from ._types import TaskId

#: A call that goes on for so many seconds after its timeout is ended with its container.
TIMEOUT_GRACE = 60.0


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
        worker = None if task.worker is None else self.fleet.workers.get(task.worker)
        if task.phase is TaskPhase.HELD and worker is not None and worker.running:
            self.fleet.take_back(turn, (name, task.given), worker)
        elif task.phase in (
            TaskPhase.UPLOADING, TaskPhase.READY, TaskPhase.DELAYED, TaskPhase.HELD,
        ):  # fmt: skip
            reason = f"it had not begun after its queue_timeout of {task.terms.queue_timeout:g} s"
            self.give_up(e.Lose(name, task.worker, e.Verdict(None, reason, timed_out=True)))

    def overrun(self, turn: Turn, worker: Worker) -> None:
        """A worker ends a call that takes too long; should it not, its container ends."""
        call, timeout = self.tasks.first_timeout(worker)
        if timeout is not None and turn.now > worker.since + timeout + TIMEOUT_GRACE:
            reason = f"it ran for longer than its timeout of {timeout:g} seconds"
            self.give_up(e.Lose(call, worker.id, e.Verdict(None, reason, timed_out=True)))
