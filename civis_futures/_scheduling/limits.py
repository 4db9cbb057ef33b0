"""The limits that the client keeps: of calls `queue_timeout`, and `timeout` if a worker does not;
of a pool `max_container_hours`.

Pure, as the scheduler is. A worker keeps the `timeout` of its calls itself, by a timer. But it may
be frozen, with its machine, and say nothing any more; then its call ends here, some time later.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace

from .._exceptions import ContainerHoursError
from .._pacing import Pacing
from .._types import RunState, TaskId, WorkerId
from . import events as e
from .fleet import Fleet
from .looks import Observation
from .pacing import Step
from .state import Task, TaskPhase, Tasks, Worker, WorkerPhase

#: Seconds more for the first call of a container that is set up by a command, which may take long:
#: it is not seen when the call begins.
SETUP = 900.0
#: Seconds of containers that are as good as none.
LEAST_LEFT = 1e-3
_NOT_BEGUN = (TaskPhase.WAITING, TaskPhase.UPLOADING, TaskPhase.READY, TaskPhase.DELAYED)


@dataclass(frozen=True, slots=True)
class TimeLimits:
    """The limits of all tasks; `give_up` ends a task before its call has ended, `lost` ends the
    attempt that such a verdict is about.
    """

    tasks: Tasks
    fleet: Fleet
    pacing: Pacing
    give_up: Callable[[e.Lose], None]
    lost: Callable[[TaskId, e.Verdict], None]

    def expire(self, step: Step) -> None:
        """End the tasks that should have begun by now and have not; see to calls that are late."""
        names, at = self.tasks.expired(step.now)
        if at is not None:
            step.wake(at)
        for name in names:
            self.expire_if_due(step, name)
        margin = self.pacing.frozen + 2 * self.fleet.horizon()
        for worker in self.fleet.workers.values():
            for call in (*worker.present, *worker.revoked):
                late_at = self._late_at(worker, call, margin)
                if late_at is None or call in worker.late:
                    continue
                if late_at > step.now:
                    step.wake(late_at)
                    continue
                worker.late.add(call)  # unless its answer is there, and was not read yet
                worker.reads.at = step.now
                self.fleet.looks.soon(step)

    # --- begun too late ------------------------------------------------------------------------

    def expire_if_due(self, step: Step, name: TaskId) -> None:
        """End this one, if it should have begun by now and has not."""
        task = self.tasks.known[name]
        if task.expires is None or task.expires > step.now or task.attempts:
            return
        if task.phase is TaskPhase.HELD and task.worker is not None:
            call, worker = (name, task.given), self.fleet.workers[task.worker]
            begun = worker.state is not RunState.QUEUED and (
                worker.one_shot or call in worker.present
            )
            if begun or not worker.open:
                task.expires = None  # it has begun, or what has become of it will be known
            elif not worker.one_shot:  # ask the worker: it may begin it at any moment
                self.fleet.take_back(step, call, worker)
            elif not worker.cancelled:  # it may begin until its run has ended: see `ours`
                self.fleet.cancel(step, worker)
            return
        if task.phase not in _NOT_BEGUN:
            return
        reason = f"it had not begun after its queue_timeout of {task.terms.queue_timeout:g} s"
        if task.phase is TaskPhase.WAITING:
            reason += f"; it waited for task {self.tasks.awaited_by(name)}"
        self.give_up(e.Lose(name, None, e.Verdict(None, reason, timed_out=True)))

    def ours(
        self, step: Step, name: TaskId, worker: Worker | None, verdict: e.Verdict
    ) -> e.Verdict:
        """The verdict on a call that had begun, if it was us who have cancelled its run: for
        another call that did not end, or since this one was late.
        """
        if worker is None or not worker.cancelled or not verdict.outside:
            return verdict
        task = self.tasks.known[name]
        if worker.one_shot and task.expires is not None and task.expires <= step.now:
            limit = f"its queue_timeout of {task.terms.queue_timeout:g} s"
            reason = f"it began when {limit} had just passed, and its run was cancelled for that"
            return replace(verdict, reason=reason, outside=False, timed_out=True)
        reason = "it began when its run was being cancelled for a limit of this pool"
        if worker.must_end_by is not None:
            other = "another call in its container did not end when it was asked to"
            reason = f"its run was cancelled, since {other}"
        return replace(verdict, reason=reason, outside=False)

    # --- ended too late ------------------------------------------------------------------------

    def looked(self, step: Step, seen: Iterable[Observation]) -> None:
        """End the late calls of which a look has brought nothing either."""
        for worker, report in ((each.worker, each.report) for each in seen):
            read = (report.read and report.complete) or not worker.owes_answers
            for call in [call for call in worker.calls if call in worker.late]:
                # Else it was cancelled meanwhile.
                if worker.running and read and self.tasks.holds(call, worker):
                    self._end_late(step, worker, call)

    def _late_at(self, worker: Worker, call: e.Given, margin: float) -> float | None:
        """When it should long have told the end of this call, or that it has not begun it, if that
        has a limit: `margin` seconds after the limit.
        """
        if not worker.running or worker.cancelled:
            return None
        if not self.tasks.holds(call, worker):
            return None
        task = self.tasks.known[call[0]]
        if call in worker.revoked and task.expires is not None:
            return task.expires + margin
        limit = task.terms.timeout
        if limit is None or call not in worker.present:
            return None
        first = worker.calls_given == len(worker.calls)  # it has not answered any
        setup = SETUP if first and self.fleet.policy.setup else 0.0
        since = worker.began.get(call, worker.at_call_since)
        return since + limit + setup + margin

    def _end_late(self, step: Step, worker: Worker, call: e.Given) -> None:
        task = self.tasks.known[call[0]]
        if call in worker.revoked and task.expires is not None:
            reason = (
                f"it was not seen to begin within its queue_timeout of {task.terms.queue_timeout:g}"
                " s, and its container does not say whether it has: it may be frozen, or lost"
            )
            self.lost(call[0], e.Verdict(None, reason, timed_out=True))
            return
        reason = (
            f"it had longer than its timeout of {task.terms.timeout:g} s, and its container "
            "has not ended it, nor said anything since: it may be frozen, or lost"
        )
        self.lost(call[0], e.Verdict(None, reason, timed_out=True))
        self.fleet.release(step, call, worker)


@dataclass(slots=True)
class HoursLimit:
    """How long the containers of a pool may run, all together. Once they have, what is not in hand
    is given up: so no call is given away any more, and no container started. What runs ends.
    """

    tasks: Tasks
    fleet: Fleet
    give_up: Callable[[e.Lose], None]
    reached: bool = False
    _gone: float = 0.0  # seconds of containers that are no more in the fleet

    def used(self, now: float) -> float:
        """Seconds that containers have run."""
        return self._gone + sum(worker.seconds(now) for worker in self.fleet.workers.values())

    @property
    def may_keep(self) -> bool:
        """Whether workers stay for the next process, which cost what others cost."""
        return self.fleet.policy.keep_alive > 0 and not self.reached

    def may_retry(self, task: Task) -> bool:
        """Whether a failed attempt may be followed by another one."""
        return task.attempts < task.terms.max_retries and not self.reached

    def remove(self, worker: WorkerId, now: float) -> None:
        """It leaves the fleet, but not the sum."""
        if (gone := self.fleet.workers.pop(worker, None)) is not None:
            self._gone += gone.seconds(now)

    def expire(self, step: Step) -> None:
        """See whether the limit is reached; if so, end the tasks that no container has begun."""
        if self.fleet.policy.max_seconds == math.inf:
            return
        if not self.reached:
            left = self.fleet.policy.max_seconds - self.used(step.now)
            running = sum(worker.running for worker in self.fleet.workers.values())
            self.reached = left <= LEAST_LEFT
            if not self.reached and running:
                step.wake(step.now + left / running)
        if self.reached:
            self._take_back(step)
            error = self._error(step.now)
            for name, task in list(self.tasks.known.items()):
                if task.phase in _NOT_BEGUN and task.claimed:
                    self.give_up(e.Lose(name, None, error))

    def _error(self, now: float) -> ContainerHoursError:
        limit, used = self.fleet.policy.max_seconds / 3600, self.used(now) / 3600
        return ContainerHoursError(
            f"containers have run for {used:.4g} hours, and max_container_hours is {limit:.4g}. "
            "Calls that were seen to run go on to their end. For the rest, open another executor, "
            "with more hours if need be; with the same session, it runs only what is missing",
            limit=limit,
            used=used,
        )

    def _take_back(self, step: Step) -> None:
        """Take back what workers have not begun; it comes back as READY, and is ended then."""
        for worker in self.fleet.workers.values():
            if worker.phase is WorkerPhase.LAUNCHING and not (worker.recalled or worker.cancelled):
                worker.recalled = True
                step.do(e.Recall(worker.id))
            if worker.cancelled or not worker.open:
                continue
            if worker.reads_inbox:
                for call in worker.unbegun:
                    self.fleet.take_back(step, call, worker)
            elif worker.alive and worker.state is RunState.QUEUED:
                self.fleet.cancel(step, worker)
