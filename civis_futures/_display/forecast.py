"""What is left to do for a pool, how long that takes, and for how long containers run meanwhile.

Pure arithmetic with what ended tasks have shown. Where they have shown too little, there is no
forecast, and nothing is said.
"""

from __future__ import annotations

import math
import time
from dataclasses import dataclass, field
from typing import Any

from .usage import OTHERS, SHORTEST, FunctionSums, Used, WorkSums

#: Of the fit to how long tasks take: its rounds; the least variance of the logarithms; the largest
#: factor by which tasks may take longer than those that have ended; and what is never reached.
ROUNDS, LEAST_VARIANCE, MOST_CORRECTION, NEVER = 20, 1e-4, 4.0, 1e-12
#: Seconds in a day, and in a week: a time of another day is shown with the day.
DAY, WEEK = 86_400.0, 7 * 86_400.0


@dataclass(frozen=True, slots=True)
class Forecast:
    """What is left to do for an executor. It prints as one line.

    Args:
        left: how many tasks are not done; `tasks` is how many there are in all.
        seconds: how long it will take until the last task is done.
        done_at: when that will be, in seconds since the epoch, by this machine's clock.
        container_hours: the sum of the hours that containers will run until then.
        hours_left: what is left of `max_container_hours`; None: there is no such limit.
    """

    left: int
    tasks: int
    container_hours: float
    seconds: float
    done_at: float
    hours_left: float | None = None

    def __str__(self) -> str:
        """One line."""
        return f"{self.left:,} of {self.tasks:,} to go, {self.brief}"

    @property
    def brief(self) -> str:
        """The same line without the number of tasks."""
        said = f"{_about(self.container_hours)} container hours"
        if self.hours_left is not None and self.hours_left < self.container_hours:
            return f"{said}, and max_container_hours leaves {_hours(self.hours_left)}"
        return f"{said}, done {_moment(self.done_at, self.done_at - self.seconds)}"


class Status(list[dict[str, Any]]):
    """What `ContainerPoolExecutor.status` returns: a list with a dict for each task.

    Attributes:
        forecast: a `Forecast` of when all tasks of the executor will be done; None if that cannot
            be told yet, or if nothing is left to do.
    """

    forecast: Forecast | None = None


@dataclass(slots=True)
class Undone:
    """The tasks of one function that are not done: how many wait, and for how many seconds each of
    the others was seen to run.
    """

    waiting: int = 0
    running: list[float] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class PoolSize:
    """The containers that a pool may have: `workers` at a time, each for `tasks_each` tasks at the
    most, and for `seconds_left` all together, if there are such limits. There are `started` now,
    and each runs `processes` tasks at once.
    """

    workers: int
    started: int = 0
    tasks_each: int | None = None
    seconds_left: float | None = None
    processes: int = 1


def forecast_of(
    undone: dict[str, Undone], done: int, work: WorkSums, used: Used, size: PoolSize, now: float
) -> Forecast | None:
    """The forecast at `now` (seconds since the epoch), if there is something to say: if of each
    function with tasks that are not done some have ended.
    """
    waiting = 0
    seconds = longest = spent = 0.0
    for name, tasks in undone.items():
        sums = work.functions.get(name) or work.functions.get(OTHERS)
        if sums is None or sums.timed < 3:  # too few to tell the time of the others
            return None
        each, rests = _estimate(sums, tasks.running)
        seconds += tasks.waiting * each + sum(rests)
        longest = max(longest, each if tasks.waiting else max(rests, default=0.0))
        spent += sum(tasks.running)
        waiting += tasks.waiting
    left = waiting + sum(len(tasks.running) for tasks in undone.values())
    if not left:
        return None
    workers = max(1, min(size.workers, left))
    # What a container took besides its tasks, for its start above all, the next ones take as well.
    each = size.processes
    besides = max(0.0, used.hours * 3600 - (work.occupied + spent) / each) / max(1, used.starts)
    starts = max(0, -(-workers // each) - size.started)
    if size.tasks_each is not None:
        starts = -(-waiting // size.tasks_each)
    seconds += starts * besides * each
    takes = max(seconds / workers, longest)
    hours_left = None if size.seconds_left is None else max(0.0, size.seconds_left) / 3600
    return Forecast(left, left + done, seconds / each / 3600, takes, now + takes, hours_left)


def _estimate(sums: FunctionSums, running: list[float]) -> tuple[float, list[float]]:
    """How long a task takes, and for how long those will go on that run, each for this many seconds
    up to now.

    Those that end first are the short ones: by their mean alone, the others would seem to be nearly
    done. So a lognormal distribution is fitted to all, by expectation and maximization, where of
    those that run it is known that they take longer. The mean is corrected by what that changes.
    """
    number, total = sums.timed, sums.timed + len(running)
    mean = seen = sums.logs / number
    variance = spread = max((sums.squares - number * seen * seen) / (number - 1), LEAST_VARIANCE)
    logs = [math.log(max(seconds, SHORTEST)) for seconds in running]
    for _ in range(ROUNDS):
        first, second, deviation = sums.logs, sums.squares, math.sqrt(variance)
        for log in logs:
            excess = deviation * _hazard((log - mean) / deviation)
            first += mean + excess
            second += mean * mean + variance + excess * (log + mean)
        mean = first / total
        variance = max(second / total - mean * mean, LEAST_VARIANCE)
    deviation = math.sqrt(variance)
    longer = math.exp(min(mean + variance / 2 - seen - spread / 2, math.log(MOST_CORRECTION)))
    each, rests = sums.occupied / number * max(1.0, longer), []
    for log in logs:
        place, seconds = (log - mean) / deviation, math.exp(log)
        if (tail := _tail(place)) < NEVER:
            rest = seconds * deviation / max(place, 1.0)
        else:
            rest = math.exp(mean + variance / 2) * _tail(place - deviation) / tail - seconds
        rests.append(min(max(rest, 0.0), MOST_CORRECTION * max(each, seconds)))
    return each, rests


def _tail(place: float) -> float:
    """Which part of a normal distribution is above that many deviations."""
    return math.erfc(place / math.sqrt(2)) / 2


def _hazard(place: float) -> float:
    """How many deviations the mean of that part is above the middle."""
    tail = _tail(place)
    if tail < NEVER:
        return place
    return math.exp(-place * place / 2) / math.sqrt(2 * math.pi) / tail


def _about(hours: float) -> str:
    return "less than 0.01" if hours < 0.01 else f"about {_hours(hours)}"


def _hours(hours: float) -> str:
    return (
        f"{hours:,.0f}" if hours >= 9.95 else f"{hours:.1f}" if hours >= 0.095 else f"{hours:.2f}"
    )


def _moment(at: float, now: float) -> str:
    """A time for people, with the day if it is not today's."""
    then, today = time.localtime(at), time.localtime(now)
    if (then.tm_year, then.tm_yday) == (today.tm_year, today.tm_yday):
        return time.strftime("at %H:%M", then)
    return time.strftime("on %a at %H:%M" if at - now < WEEK - DAY else "on %Y-%m-%d", then)
