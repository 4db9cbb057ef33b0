"""What a scheduler is to us: three functions. They are called in threads, and may take their time.

So somebody else's scheduler is one file with such a class; docs/engine-protocol.md shows one.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Literal, Protocol

JobState = Literal["waiting", "running", "ended", "cancelled", "out_of_memory", "lost"]


class RefusedError(Exception):
    """The scheduler will not have this job, now or later; the text is its own."""


class AwayError(Exception):
    """Nobody has answered, so it is not known what has happened; it is tried again."""


@dataclasses.dataclass(frozen=True)
class Job:
    """What is to be started: `script` by a shell, on one machine."""

    name: str  # unique, and no secret: other users may see it
    script: str  # holds a key, so it goes where nobody else reads it
    cores: int
    memory: int  # MB


@dataclasses.dataclass(frozen=True)
class Seen:
    """What a scheduler says of one job.

    `lost`: the job has ended without a fault of its own (its machine, or who takes precedence).
    """

    state: JobState
    name: str = ""
    why: str = ""  # for people: what it waits for, or how it ended
    exit_code: int | None = None  # of one that has ended


class Scheduler(Protocol):
    """The three functions. Each may raise AwayError."""

    def submit(self, job: Job) -> str:
        """Take a job; return its id. RefusedError if it will not be taken."""
        ...

    def look(self) -> Mapping[str, Seen]:
        """All jobs of this user, by their ids, with one question; those that have ended as well,
        for as long as the scheduler knows of them.
        """
        ...

    def end(self, ids: Sequence[str]) -> None:
        """End these jobs; one that has ended already is no error."""
        ...
