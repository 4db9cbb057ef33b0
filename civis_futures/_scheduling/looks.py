"""When to look at the workers, and whose answers to read then: as often as the budget can pay for.

One list tells the states of all workers. Reading answers costs a request for each worker; but
workers tell in the name of their script how many letters they have posted, so that the list tells
whose answers are worth it. Pure arithmetic; it must not know what is done about what is seen.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from itertools import islice

from .._types import RunState, WorkerId
from .events import Look, Looked, LookFailed, Report
from .pacing import SHORTEST_LINGER, Attempts, Pause, linger, poll
from .state import Turn, Worker

#: Where workers tell of their answers, one looks for oneself only after so many seconds, and twice
#: as many each time that there are none.
TRUST, LONGEST_TRUST = 60.0, 240.0
#: As long as none has, the looks at their answers count so many times, and are so far apart, in
#: seconds.
DOUBT, LEAST_DOUBT = 4, 1.0
#: Of so many workers at the most one look makes sure that they have not started: a request each.
MOST_SURE = 20


@dataclass(frozen=True, slots=True)
class Seen:
    """What a look told of a worker that is alive: `over` if its run is, `changed` if it was in
    another state before.
    """

    worker: Worker
    report: Report
    over: bool
    changed: bool


@dataclass
class Watch:
    """The looks of one pool."""

    pause: Pause = field(default_factory=Pause)
    looking: Attempts = field(default_factory=Attempts)
    reading: Attempts = field(default_factory=Attempts)  # of answers
    pace: float = 0.0
    _next: float = 0.0  # not before
    _heard: bool | None = None  # whether workers tell of their answers in the list

    def soon(self, turn: Turn) -> None:
        """Something was done whose effect is worth a look."""
        self.pause.soon(turn.now)

    def fed(self, turn: Turn, worker: Worker) -> None:
        """There is something new to hear from this worker soon."""
        if self._heard is False:
            worker.reads.soon(turn.now)
        self.pause.soon(turn.now)

    def begin(self, turn: Turn, worker: Worker) -> None:
        """A worker has a run now."""
        if self._heard is not False:
            worker.reads.at = turn.now + (TRUST if self._heard else LEAST_DOUBT)
        self.pause.soon(turn.now)

    def look(self, turn: Turn, watched: list[Worker]) -> None:
        """Look at these workers, if it is time to."""
        if not watched or not turn.may(self.looking):
            return
        reads = (w.reads.at for w in watched if w.running and w.owes_answers)
        at = max(min(self.pause.at, min(reads, default=self.pause.at)), self._next)
        if at > turn.now:
            turn.wake(at)
            return
        self.looking.busy = True
        for worker in watched:
            worker.seen = worker.told
        turn.do(Look(tuple((w.id, w.reading(turn.now)) for w in watched), self._sure(watched)))

    @staticmethod
    def _sure(watched: list[Worker]) -> frozenset[WorkerId]:
        """Of which it must be certain that they have not started, so that their calls can move."""
        waiting = (
            worker.id for worker in watched if worker.state is RunState.QUEUED and worker.told
        )
        return frozenset(islice(waiting, MOST_SURE))

    def looked(self, turn: Turn, event: Looked, workers: Mapping[WorkerId, Worker]) -> list[Seen]:
        """Take in the states of those workers that are alive."""
        self.looking, self.pace = Attempts(), event.pace
        seen = list(_seen(event.reports, workers, turn.now))
        readers = sum(each.worker.running and each.worker.owes_answers for each in seen)
        for each in seen:
            self._hear(each.report)
            if each.report.read or each.changed:
                self._plan_reading(turn, each, readers)
        news = any(each.changed or each.report.answers for each in seen)
        self.pause.after(turn.now, news=news, cost=event.cost, pace=event.pace)
        self._next = turn.now + self.pause.shortest
        return seen

    def unread(self, turn: Turn, event: Looked) -> LookFailed | None:
        """Why no answers could be read, if none could; once for each pause after a failure."""
        asked = [report for report in event.reports if report.read]
        failures = [report.failure for report in asked if report.failure is not None]
        if len(failures) < len(asked):
            self.reading = Attempts()
        elif failures and self.reading.not_before <= turn.now:
            return failures[0]
        return None

    def horizon(self, readers: int) -> float:
        """About how many seconds pass until one of so many workers that has run out gets more."""
        wait = linger(readers, self.pace) + poll(readers, self.pace)
        return 2 * (wait + self.pause.shortest) - SHORTEST_LINGER

    def _hear(self, report: Report) -> None:
        """Learn whether workers tell of their answers in the list."""
        if report.told is not None:
            self._heard = True
        elif report.answers and report.run is not None and not report.run.state.over:
            self._heard = self._heard or False

    def _plan_reading(self, turn: Turn, each: Seen, readers: int) -> None:
        """When to read the answers of a worker, unless the list says sooner that there are some.

        As long as nobody knows whether it will, a smaller part of the budget is for that.
        """
        reads, answered = each.worker.reads, bool(each.report.answers)
        if self._heard:
            trust = TRUST if answered else min(max(2 * reads.length, TRUST), LONGEST_TRUST)
            reads.length, reads.at = trust, turn.now + trust
        elif self._heard is False:
            reads.after(turn.now, news=answered, cost=readers, pace=self.pace)
        else:
            reads.after(turn.now, news=answered, cost=DOUBT * readers, pace=self.pace)
            reads.at = max(reads.at, turn.now + LEAST_DOUBT)


def _seen(
    reports: Iterable[Report], workers: Mapping[WorkerId, Worker], now: float
) -> Iterable[Seen]:
    for report in reports:
        worker = workers.get(report.worker)
        if worker is not None and worker.alive:
            before = worker.state
            over = report.run is not None and worker.is_over(report.run, now)
            yield Seen(worker, report, over, worker.state is not before)
