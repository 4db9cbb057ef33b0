"""What a run is given to, and what that tells of it: the seam below the runner.

A place runs commands: as processes of this machine, in containers, as jobs of a cluster. It knows
no store, no API and no states of runs; these are the runner's. All of it happens on the event
loop's thread, and nothing may hold that up: what takes time is done elsewhere, and told when it is
over.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Collection, Iterable, Mapping
from typing import Protocol

from .._settings import MILLICORES

Line = tuple[float, str, str]  # seconds since the epoch, level, message


@dataclasses.dataclass(frozen=True)
class LaunchPlan:
    """One run, ready to be started."""

    run_id: int
    job_id: int
    command: str | None
    environment: Mapping[str, str]
    cpu: int  # millicores, of which 1024 are a core
    memory: int  # MB
    cancel_timeout: int  # seconds between TERM and KILL
    image: str | None = None  # name and tag
    repository: str | None = None  # to be cloned into /app
    reference: str | None = None  # a branch, tag or commit of it


@dataclasses.dataclass(frozen=True)
class Ending:
    """How a run ended, as its place knows it.

    One that has no exit code was lost, or never began; then `why` says why. It is for the run's
    log, in the words of who refused or ended it.
    """

    exit_code: int | None = None  # 128 + n for a signal
    out_of_memory: bool = False  # it was killed for that
    cancelled_outside: bool = False  # by somebody who asked the place, and not us
    why: str | None = None
    max_memory: float = 0.0  # MB
    max_cpu: float = 0.0  # cores


class RunListener(Protocol):
    """Who is told of runs: the runner. Each run that was started ends exactly once."""

    def begun(self, run_id: int, where: str | None) -> None:
        """Note that the command of a run runs; where, if that is worth a line in its log."""

    def printed(self, run_id: int, lines: list[Line]) -> None:
        """Keep what a run has printed, or what the place says of it, before it begins as well."""

    def ended(self, run_id: int, ending: Ending) -> None:
        """Note how a run ended; after its last lines."""

    def keep(self, run_id: int, note: str) -> None:
        """Keep what the place needs to find this run again after a restart (`RunPlace.adopt`)."""


class RunPlace(Protocol):
    """Where runs run. Methods know the runs that were started, and whose end was not told."""

    def check(self) -> None:
        """Raise UnusableError if nothing can run here; it takes some seconds at most."""

    def attach(self, listener: RunListener) -> None:
        """Say who is told of runs; before anything is started."""

    def fits(self, plan: LaunchPlan) -> bool:
        """Return whether there is room now. True, where the place has a queue of its own."""

    def start(self, plan: LaunchPlan, key: str) -> None:
        """Start a run, whose own key for the platform is `key`.

        It is told of by `begun` and `ended`, now or later; what goes wrong by `ended` alone.
        """

    def alive(self, run_id: int) -> bool:
        """Return whether a run has begun, and is not over; its end may not be told yet."""

    def terminate(self, run_id: int) -> None:
        """End a run that has not begun; send one that has TERM, and KILL after `cancel_timeout`."""

    def kill(self, run_id: int) -> None:
        """End a run at once, as a crash would."""

    def freeze(self, run_id: int) -> bool:
        """Stop all processes of a run; False, and nothing is done, where that is impossible."""

    def go_on(self, run_id: int) -> None:
        """Let a run go on that was frozen."""

    def pids(self) -> dict[int, list[int]]:
        """Return the runs that have begun, each with its processes on this machine, if any."""

    def adopt(self, plan: LaunchPlan, key: str, note: str) -> bool:
        """Go on with a run that a server before this one had started here, and told `keep`.

        False, if that is impossible; nothing of that run runs then, or will.
        """

    def close(self) -> Collection[int]:
        """Leave in bounded time; return the runs that go on and can be adopted, end all others."""


class UnusableError(Exception):
    """Nothing can run at this place; the text is for the user."""


@dataclasses.dataclass(frozen=True)
class Capacity:
    """How much may be in use at once, of a place that has no queue of its own."""

    cores: float | None
    memory: int | None  # MB

    def fits(self, plan: LaunchPlan, running: Iterable[LaunchPlan]) -> bool:
        """Return whether there is room; a run that asks for more than there is runs alone."""
        beside = list(running)
        if not beside:
            return True
        cpu = plan.cpu + sum(other.cpu for other in beside)
        memory = plan.memory + sum(other.memory for other in beside)
        enough = self.memory is None or memory <= self.memory
        return enough and cpu <= (math.inf if self.cores is None else self.cores * MILLICORES)
