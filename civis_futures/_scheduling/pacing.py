"""When to ask again, and when no more: pauses between looks and after failures. And how many calls
a worker gets at a time. Pure arithmetic.

A request costs more than many a call, so a worker gets as many calls as keep it busy until it can
get more, and not more than its share of what is left, so that all end together. That is a guess;
where it was wrong, workers that run out take over what others have not begun.

Time and chance are arguments; this module knows no other.
"""

from __future__ import annotations

import math
import sys
from dataclasses import dataclass, field

from .._pacing import Pacing
from .._wire import next_turn
from .events import Command

#: Bounds of the pause between two looks, in seconds; in between the budget decides.
SHORTEST_LOOK, LONGEST_LOOK = 0.05, 60.0
#: The shortest pause between two looks, in requests: as long as the budget takes to regain these
#: (1 s at 1,000 requests per 300 s).
LOOK_PACE = 20 / 3
#: Looks that were not made are saved, SAVED_LOOKS at the most, and may be made ahead of that pace:
#: QUICK_LOOK seconds after news, and then after QUICK_GROWTH times longer each time. So what is
#: short, as one call of joblib's after the other, is not waited for for a second each.
SAVED_LOOKS, QUICK_LOOK, QUICK_GROWTH = 40.0, 0.1, 1.5
#: While nothing happens each pause is longer than the last by this factor, until it is this many
#: times as long as the first.
LOOK_GROWTH, LOOK_STRETCH = 1.25, 15.0
#: The failures in a row of one kind of command that break the pool: refusals, where others go on.
HOPE = 5
#: The containers in a row that end without having started, before any has started, that break it.
FALSE_STARTS = 2
#: The workers' reads of the inbox may spend one part in INBOX_SHARE of the budget, their answers
#: one part in ANSWER_SHARE.
INBOX_SHARE, ANSWER_SHARE = 4, 3
#: The requests for one post of answers: three of the worker, and the client reads it; and for one
#: use of a worker: it reads the inbox besides, and the client looks.
POST_REQUESTS, USE_REQUESTS = 4, 7
#: The shortest pause of a worker between two reads of the inbox, in seconds; and the longest time
#: that it waits for anything, where it is not one of so many that this would be more requests than
#: their share of what the platform gives in the long run, one in STEADY_PACE seconds: a quarter for
#: reads, a half for answers. LONGEST_POLL is a quarter of the default lease: who reads more rarely
#: may miss that the client is gone.
SHORTEST_POLL, LONG_WAIT, LONGEST_POLL = 0.25, 60.0, 900.0
STEADY_PACE, STEADY_SHARE = 0.3, 2
#: A crowd of so many workers goes by STEADY_PACE, however much of the budget is left: one use of
#: each spends half of it.
CROWD = 100
#: The period of idle workers' turns is changed when it should be STEADY times as long, or as short:
#: they hear of that at different times.
STEADY = 1.25
#: And if it should be FAR times as long, or as short, they are told although there is nothing else
#: to tell: they are asking too often, then, or too rarely.
FAR = 1.5
#: The turn of a worker is this part of each period after that of the worker before it: the golden
#: ratio, by which any number of turns are spread over the period.
TURN = (math.sqrt(5) - 1) / 2
#: Seconds after which what is written now can be read for certain; clocks differ by less.
LEAD = 0.3
#: Bounds of the seconds from there until an answer is expected: of a worker that reads at its turn,
#: by a clock that is not exact; and of one that has just been at work, where it is known how long
#: calls take. Then looks are not saved up for them any more: others may be shorter.
SHORTEST_ANSWER, SOONEST_ANSWER, LONGEST_ANSWER = 0.2, 0.05, 1.0
#: A worker that has just run out reads the inbox after this part of a period, and then each time
#: that it has been idle for twice as long, and for that.
FIRST_READ = 1 / 12
#: As in the worker: one that had the only calls in the inbox does not, if the period is longer.
SHORT = 1.5
#: The shortest time that an answer waits for others, to be sent together, in seconds.
SHORTEST_LINGER = 0.5
#: How many containers may start before one of them has shown that it can do the work; the number
#: doubles every `Pacing.probe` seconds.
PROBES = 2

#: The most calls that a worker gets at a time before the first answer tells how long calls take.
BLIND = 100
#: Calls that took less than this many seconds count as this long.
SHORTEST_CALL = 1e-4
#: A mean is of about so many calls, the last ones. How long one worker's calls take is known from
#: its own, and as if PRIOR more had taken as long as those of all workers: fewer, where the calls
#: of a worker take equally long, and more where they differ much.
MEMORY, PRIOR = 20, 3
#: How many signs of life are written in the time of one lease.
BEATS = 4.0
#: The inbox is written again, as it is, REPEAT seconds after a change (or after two periods of idle
#: workers' turns, if that is longer), then after twice as many, and so on: an older version of it
#: may arrive late and take its place. LAST_REPEAT, if all that it says is that workers shall end,
#: which they would have done by then.
REPEAT, LAST_REPEAT = 20.0, 2.5


def poll(readers: int, pace: float) -> float:
    """Seconds between a worker's reads of the inbox, if `readers` share a budget of `pace` seconds
    per request.
    """
    requests = readers * INBOX_SHARE
    wanted = max(SHORTEST_POLL, requests * _crowded(readers, pace))
    return min(wanted, max(LONG_WAIT, requests * STEADY_PACE), LONGEST_POLL)


def linger(readers: int, pace: float) -> float:
    """Seconds that an answer may wait for others, likewise."""
    requests = readers * POST_REQUESTS
    wanted = max(SHORTEST_LINGER, requests * ANSWER_SHARE * _crowded(readers, pace))
    return min(wanted, max(LONG_WAIT, requests * STEADY_SHARE * STEADY_PACE))


def _crowded(workers: int, pace: float) -> float:
    """The pace for so many workers."""
    return max(pace, min(workers / CROWD, 1.0) * STEADY_PACE) if pace else 0.0


def worthwhile(pace: float) -> float:
    """How many seconds it must save to use one worker more, or once more: none while all of the
    budget is left, and 1 s when half of it is gone.
    """
    return USE_REQUESTS * max(pace - STEADY_PACE / 2, 0.0)


def affordable(calls: int, seconds: float | None, pace: float) -> int:
    """How many workers should share so many calls, of so many seconds each: with one more, they
    would take less time, but by less than that is worth.
    """
    least = worthwhile(pace)
    if seconds is None or not least:
        return sys.maxsize
    return max(round(math.sqrt(calls * seconds / least)), 1)


def turn(number: int) -> float:
    """At which part of each period the worker of this number looks, while it is idle."""
    return number * TURN % 1.0


@dataclass(slots=True)
class Turns:
    """When idle workers look for calls: each at its turn, once in a `period` of seconds, all by the
    platform's clock, which is `ahead` seconds of ours. They have been told of the period in time
    for turns from `since` on, and before of another one. Times are monotonic, in seconds.

    Who has just been at work looks more often.
    """

    period: float = 0.0  # seconds; 0.0: no worker was told yet
    since: float = 0.0
    before: float = 0.0
    ahead: float = 0.0

    def fitting(self, readers: int, pace: float) -> float:
        """The period for this many idle workers; the present one, unless that is far off."""
        wanted = poll(readers, pace)
        if self.period and 1 / STEADY < wanted / self.period < STEADY:
            return self.period
        return wanted

    def are_off(self, readers: int, pace: float) -> bool:
        """Whether workers were told to read, and to answer, far too often or too rarely."""
        return bool(self.period) and not 1 / FAR < poll(readers, pace) / self.period < FAR

    def begin(self, now: float, readers: int, pace: float) -> None:
        """The first workers are launched with this."""
        if not self.period:
            self.tell(now, self.fitting(readers, pace))

    def tell(self, now: float, period: float) -> None:
        """The inbox says so."""
        if period != self.period:
            self.period, self.since, self.before = period, now, self.period or period

    def next(self, number: int, now: float) -> float:
        """When the worker of this number looks that can see what is written now."""
        if not self.period:
            return now
        part, after = turn(number), now + self.ahead + LEAD
        at = next_turn(part, self.before, self.since + self.ahead)
        if at < after:
            at = next_turn(part, self.period, after)
        return at - self.ahead


@dataclass(slots=True)
class RetriedRequest:
    """A kind of command of which one is in flight at a time: when the next one may be made, after
    this many `failures` in a row. Times are monotonic, in seconds.
    """

    busy: bool = False
    failures: int = 0
    not_before: float = 0.0
    failed_at: float = 0.0
    since: float = 0.0  # when the first one was
    what: str = ""  # cannot be done
    error: str = ""  # what the last failure said

    def fail(
        self, now: float, pacing: Pacing, chance: float, what: str = "", error: str = ""
    ) -> None:
        """It failed: the next one waits, longer each time."""
        self.busy = False
        self.what, self.error = what, error
        self.failed_at = now
        self.since = self.since if self.failures else now
        self.failures += 1
        self.not_before = now + pacing.backoff(self.failures, chance)

    def is_last(self, hopeless: bool) -> bool:
        """Whether one more failure is one too many where nothing is at work yet."""
        return hopeless or self.failures + 1 >= HOPE

    def in_vain(self, pacing: Pacing, refused: bool) -> bool:
        """Whether it makes no sense to go on, now that one has failed again, or was `refused`."""
        if self.failures < HOPE:
            return False
        return refused or self.failed_at - self.since >= pacing.outage


@dataclass(slots=True)
class Step:
    """One call of `Scheduler.advance`: its time, its commands so far, when to be called again."""

    now: float
    out: list[Command] = field(default_factory=list)
    deadline: float | None = None

    def do(self, command: Command) -> None:
        """One more command."""
        self.out.append(command)

    def wake(self, at: float) -> None:
        """Be called at that time, at the latest."""
        self.deadline = at if self.deadline is None else min(self.deadline, at)

    def may(self, attempts: RetriedRequest) -> bool:
        """Whether such a request may be made now."""
        if attempts.busy:
            return False
        if attempts.not_before > self.now:
            self.wake(attempts.not_before)
            return False
        return True


@dataclass(slots=True)
class Pause:
    """The pause between two looks, in seconds: short after news, longer while nothing happens, and
    never shorter than the budget allows. The next look is due `at` this monotonic time. `saved` are
    looks that may be made ahead of the pace, as of `counted_at`.
    """

    shortest: float = SHORTEST_LOOK
    length: float = SHORTEST_LOOK
    at: float = 0.0
    saved: float = 0.0
    counted_at: float = 0.0

    def after(self, now: float, *, news: bool, cost: int, pace: float) -> None:
        """A look of `cost` requests is over; `pace` is seconds per request that we can afford."""
        self.shortest = min(max(SHORTEST_LOOK, LOOK_PACE * pace), LONGEST_LOOK)
        # Half of the budget is for looks; the workers' own requests come out of the other half.
        least = max(self.shortest, 2 * cost * pace)
        self.saved = min(self.saved + (now - self.counted_at) / self.shortest, SAVED_LOOKS) - cost
        self.counted_at = now
        first = self.first(least)
        growth = LOOK_GROWTH if self.length >= least else QUICK_GROWTH
        grown = first if news else max(first, self.length * growth)
        self.length = min(grown, max(least, self.shortest * LOOK_STRETCH), LONGEST_LOOK)
        self.at = now + self.length

    def put_off(self, seen_at: float) -> None:
        """Nothing is expected: the next look may come as long after the last one as ever."""
        longest = min(self.shortest * LOOK_STRETCH, LONGEST_LOOK)
        self.at = max(self.at, seen_at + longest)

    def first(self, least: float) -> float:
        """The first pause after news, where `least` is what the pace allows."""
        return min(least, QUICK_LOOK) if self.saved >= 1 else least

    def soon(self, now: float, quick: bool = True) -> None:
        """Something was done whose effect is worth a look; a `quick` one, if it may be."""
        self.length = self.first(self.shortest) if quick else self.shortest
        at = now + self.length
        self.at = min(self.at, at) if self.at > now else at


@dataclass(slots=True)
class Ramp:
    """How many containers a pool may have while none has shown that it can do the work.

    An image without the needed module fails each call in the same way, and the first two tell.
    But to wait for an answer before the rest is started costs everybody two starts;
    so the width grows with time, too.
    """

    proven: bool = False
    unfit: bool = False
    begun: float | None = None

    def start(self, now: float) -> None:
        """A container is started."""
        if self.begun is None:
            self.begun = now

    def width(self, now: float, probe: float) -> tuple[int, float | None]:
        """How many containers there may be before anything is proven; when it may be more."""
        if self.begun is None or self.unfit:
            return PROBES, None
        steps = int((now - self.begun) / probe + 1e-6)  # or it might wake a hair too soon
        return PROBES * 2 ** min(steps, 30), self.begun + (steps + 1) * probe


@dataclass(slots=True)
class Mean:
    """What is known of how long calls take: `seconds` for one, None before the first answer; the
    mean `of` so many.
    """

    seconds: float | None = None
    of: int = 0

    def learn(self, durations: list[float]) -> None:
        """Calls that were answered took these seconds."""
        if durations:
            mean = max(sum(durations) / len(durations), SHORTEST_CALL)
            self.of = min(self.of, MEMORY) + len(durations)
            before = mean if self.seconds is None else self.seconds
            self.seconds = before + (mean - before) * len(durations) / self.of


@dataclass(slots=True)
class Shares(Mean):
    """The same of all workers, and how many calls each of them gets. `spread` is how much the calls
    of one worker differ: the mean square of that, as a part of their mean.
    """

    spread: float = 1.0

    def learn_from(self, own: Mean, durations: list[float]) -> None:
        """Calls that a worker answered took these seconds; `own` is its mean."""
        self.learn(durations)
        own.learn(durations)
        if own.of > 1 and self.seconds and own.seconds:
            for seconds in durations:
                differs = (seconds - own.seconds) / self.seconds
                self.spread += (differs**2 - self.spread) / MEMORY

    def number(self, fair: int, horizon: float, own: Mean) -> int:
        """How many calls a worker may hold for each that it runs at once: its fair share, but no
        more than keep it busy for the `horizon`, the seconds until it can get more.
        """
        if self.seconds is None:
            return max(1, min(fair, BLIND))
        slow = max(self.each(own) / self.seconds, 1.0)
        return max(1, min(math.ceil(fair / slow), math.ceil(horizon / self.seconds / slow)))

    def done(self, own: Mean, seconds: float) -> int:
        """How many calls a worker has done in so many seconds, as far as can be told."""
        return 0 if self.seconds is None else int(seconds / self.each(own))

    def each(self, own: Mean, age: float = 0.0) -> float:
        """How long a call takes a worker, as far as its `own` calls and those of others tell, and
        that it has been at its present one for `age` seconds.
        """
        if self.seconds is None:
            return max(age, SHORTEST_CALL)
        mean, weight = self.seconds, PRIOR * self.spread
        if own.seconds is not None:
            mean = (weight * mean + own.of * own.seconds) / (weight + own.of)
        return max(mean, age)
