"""When to look at the workers, and whose answers to read then: as often as the budget can pay for.

One list tells the states of all workers. Reading answers costs a request for each worker; but
workers tell in the name of their script how many letters they have posted, so that the list tells
whose answers are worth it. Pure arithmetic; it must not know what is done about what is seen.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from itertools import islice

from .._types import RunState, WorkerId
from .._wire import RAISED, RETURNED
from .events import Look, Looked, Report
from .pacing import (
    FIRST_READ,
    LEAD,
    LONGEST_ANSWER,
    POST_REQUESTS,
    SAVED_LOOKS,
    SHORT,
    SHORTEST_ANSWER,
    SHORTEST_LINGER,
    SOONEST_ANSWER,
    Pause,
    RetriedRequest,
    Step,
    Turns,
    linger,
    poll,
)
from .state import Worker

#: Where the list tells how many letters a worker has posted, its answers are read without such news
#: only after TRUST seconds, and after twice as many each time that there are none.
TRUST, LONGEST_TRUST = 60.0, 240.0
#: Before it is known whether the list tells that, reads of answers count as DOUBT times as many
#: requests, and are at least LEAST_DOUBT seconds apart.
DOUBT, LEAST_DOUBT = 4, 1.0
#: The most workers of which one look makes certain, by a request each, that they have not started.
MOST_SURE = 20


@dataclass(frozen=True, slots=True)
class Observation:
    """What a look showed of a worker that is alive: `over` if its run is, `changed` if it was in
    another state before.
    """

    worker: Worker
    report: Report
    over: bool
    changed: bool


@dataclass
class Looks:
    """The looks of one pool."""

    pause: Pause = field(default_factory=lambda: Pause(saved=SAVED_LOOKS))
    looking: RetriedRequest = field(default_factory=RetriedRequest)
    reading: RetriedRequest = field(default_factory=RetriedRequest)  # of answers
    pace: float = 0.0
    turns: Turns = field(default_factory=Turns)
    _seen_at: float = 0.0  # when the last look was over
    _next: float = 0.0  # no look before this monotonic time
    _asked_at: float = 0.0  # when the present look began
    _takes: float = 0.0  # seconds that the last one took
    _heard: bool | None = None  # whether workers tell of their answers in the list
    # For how many seconds the platform may hold the next look until there is news.
    _hold: float = 0.0
    _held_until: float = 0.0  # the present look, if it brings no news

    def soon(self, step: Step) -> None:
        """Something was done whose effect is worth a look."""
        self.pause.soon(step.now)

    def fed(self, step: Step, worker: Worker, seconds: float | None = None) -> None:
        """There is something new to hear from this worker soon: if it was idle, and now has calls
        for so many `seconds`, after its turn; or sooner if it has just been at work.
        """
        if self._heard is False:
            worker.reads.soon(step.now)
        if seconds is not None and self.turns.period > LEAD:
            takes = SHORTEST_ANSWER
            if step.now - worker.idle_since < self.turns.period and seconds:
                posting = (POST_REQUESTS - 1) * self._takes
                takes = min(max(SOONEST_ANSWER, seconds + posting), LONGEST_ANSWER)
            worker.awaited = self.reads_at(worker, step.now) + takes
        else:
            self.pause.soon(step.now)

    def reads_at(self, worker: Worker, now: float) -> float:
        """When a worker without calls will have read what is written now: at its turn, or sooner if
        it has just been at work.
        """
        at, idle = self.turns.next(worker.id, now), now - worker.idle_since
        if worker.alone and self.turns.period > SHORT:
            return at
        return min(at, now + idle + self.turns.period * FIRST_READ)

    def begin(self, step: Step, worker: Worker) -> None:
        """A worker has a run now."""
        if self._heard is not False:
            worker.reads.at = step.now + (TRUST if self._heard else LEAST_DOUBT)
        self.pause.soon(step.now, quick=False)  # containers take a while to start

    def look(self, step: Step, watched: list[Worker]) -> None:
        """Look at these workers, if it is time to."""
        if not watched or not step.may(self.looking):
            return
        reads = (w.reads.at for w in watched if w.running and w.owes_answers)
        if all(w.running and w.listens and not w.calls for w in watched):
            self.pause.put_off(self._seen_at)
        awaited = min(w.awaited for w in watched)
        at = max(min(self.pause.at, awaited, min(reads, default=self.pause.at)), self._next)
        sure = self._sure(watched)
        hold = 0.0 if sure else max(min(at - step.now, self._hold), 0.0)
        if at > step.now and hold <= 0:
            step.wake(at)
            return
        self.looking.busy = True
        for worker in watched:
            worker.revoked_at_look = worker.revoked_in_inbox
        self._asked_at, self._held_until = step.now, step.now + hold
        workers = tuple((worker.id, worker.reading(step.now, hold)) for worker in watched)
        step.do(Look(workers, sure, hold))

    @staticmethod
    def _sure(watched: list[Worker]) -> frozenset[WorkerId]:
        """Of which it must be certain that they have not started, so that their calls can move."""
        waiting = (
            worker.id
            for worker in watched
            if worker.state is RunState.QUEUED and worker.revoked_in_inbox
        )
        return frozenset(islice(waiting, MOST_SURE))

    def looked(
        self, step: Step, event: Looked, workers: Mapping[WorkerId, Worker]
    ) -> list[Observation]:
        """Take in the states of those workers that are alive."""
        self.looking, self.pace, self.turns.ahead = RetriedRequest(), event.pace, event.ahead
        seen = list(_seen(event.reports, workers, step.now))
        readers = sum(each.worker.running and each.worker.owes_answers for each in seen)
        for each in seen:
            self._hear(each.report)
            if each.report.read or each.changed:
                self._plan_reading(step, each, readers)
        news = any(each.changed or each.report.answers for each in seen)
        for each in seen:
            if each.worker.awaited <= step.now:
                each.worker.awaited = math.inf
                self.pause.soon(step.now)
        self.pause.after(step.now, news=news, cost=event.cost, pace=event.pace)
        self._seen_at, self._takes = step.now, step.now - self._asked_at
        self._next = step.now + self.pause.first(self.pause.shortest)
        # Where the platform holds looks, the pause is spent there. But one that was answered early,
        # with other pools' news alone, is followed by a pause here: these might go on for ever.
        vain = not news and step.now < self._held_until
        self._hold = 0.0 if vain else event.hold
        return seen

    def unread(self, step: Step, event: Looked) -> Report | None:
        """One whose answers could not be read, if none could; once for each pause after that."""
        asked = [report for report in event.reports if report.read]
        failed = [report for report in asked if report.error is not None]
        if len(failed) < len(asked):
            self.reading = RetriedRequest()
        elif failed and self.reading.not_before <= step.now:
            return failed[0]
        return None

    def horizon(self, readers: int) -> float:
        """About how many seconds pass until a worker without calls gets more; `readers` share."""
        return 2 * (self.lag(readers) + poll(readers, self.pace)) - SHORTEST_LINGER

    def lag(self, readers: int) -> float:
        """How many seconds an answer may be old when a look shows it."""
        return linger(readers, self.pace) + self.pause.shortest

    def move(self, readers: int) -> float:
        """About how many seconds pass until a call that is taken back can begin elsewhere."""
        return poll(readers, self.pace) + 2 * self.pause.shortest

    def _hear(self, report: Report) -> None:
        """Learn whether workers tell of their answers in the list."""
        if report.letters_posted is not None:
            self._heard = True
        elif report.answers and report.run is not None and not report.run.state.over:
            self._heard = self._heard or False

    def _plan_reading(self, step: Step, each: Observation, readers: int) -> None:
        """When to read the answers of a worker, unless the list says sooner that there are some.

        Before it is known whether it does, a smaller part of the budget is for that.
        """
        reads, answered = each.worker.reads, bool(each.report.answers)
        if self._heard:
            trust = TRUST if answered else min(max(2 * reads.length, TRUST), LONGEST_TRUST)
            reads.length, reads.at = trust, step.now + trust
        elif self._heard is False:
            reads.after(step.now, news=answered, cost=readers, pace=self.pace)
        else:
            reads.after(step.now, news=answered, cost=DOUBT * readers, pace=self.pace)
            reads.at = max(reads.at, step.now + LEAST_DOUBT)


def took(seen: Observation) -> list[float]:
    """How long the calls took, in seconds, that have ended as they should; but for imports, which
    later ones find done.
    """
    ended = (each for each in seen.report.answers if each.kind in (RETURNED, RAISED))
    return [max(each.busy - each.importing, 0.0) for each in ended]


def _seen(
    reports: Iterable[Report], workers: Mapping[WorkerId, Worker], now: float
) -> Iterable[Observation]:
    for report in reports:
        worker = workers.get(report.worker)
        if worker is not None and worker.alive:
            before = worker.state
            over = report.run is not None and worker.is_over(report.run, now)
            yield Observation(worker, report, over, worker.state is not before)
