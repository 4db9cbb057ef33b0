"""What a scheduler is to us: three functions. They are called in threads, and may take their time.

So somebody else's scheduler is one file with these functions, which needs to import nothing of
ours; docs/engine-protocol.md shows one.
"""

from __future__ import annotations

import dataclasses
import importlib.util
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import ModuleType
from typing import Literal, Protocol, get_args

JobState = Literal["waiting", "running", "ended", "cancelled", "out_of_memory", "lost"]


class SubmitRefusedError(Exception):
    """The scheduler will not have this job, now or later; the text is its own."""


class AwayError(Exception):
    """Nobody has answered, so it is not known what has happened; it is tried again."""


@dataclasses.dataclass(frozen=True)
class JobRequest:
    """What is to be started: `script` by a shell, on one machine."""

    name: str  # unique, and no secret: other users may see it
    script: str  # holds a key, so it goes where other users cannot read it
    cores: int
    memory: int  # MB


@dataclasses.dataclass(frozen=True)
class JobSeen:
    """What a scheduler says of one job.

    `lost`: the job has ended without a fault of its own (its machine, or who takes precedence).
    """

    state: JobState
    name: str = ""
    why: str = ""  # for people: what it waits for, or how it ended
    exit_code: int | None = None  # of one that has ended


class JobScheduler(Protocol):
    """The three functions. Each may raise AwayError."""

    def submit(self, job: JobRequest) -> str:
        """Take a job; return its id. SubmitRefusedError if it will not be taken."""
        ...

    def look(self) -> Mapping[str, JobSeen]:
        """All jobs of this user, by their ids, with one question; those that have ended as well,
        for as long as the scheduler knows of them.
        """
        ...

    def end(self, ids: Sequence[str]) -> None:
        """End these jobs; one that has ended already is no error."""
        ...


class FileScheduler:
    """The three functions of a user's own file.

    OSError there means that there was no answer, and in `submit` ValueError a refusal.
    """

    def __init__(self, file: str, options: Sequence[str]) -> None:
        """Load it; ValueError if that is impossible, or something is missing."""
        self._module = _load(file)
        missing = [name for name in ("submit", "look", "end") if not hasattr(self._module, name)]
        if missing:
            raise ValueError(f"{file} lacks these functions: {', '.join(missing)}")
        if options and not hasattr(self._module, "configure"):
            raise ValueError(f"{file} takes no options: it has no function configure")
        if not all("=" in option for option in options):
            raise ValueError(f"options of {file} are NAME=VALUE, not {list(options)}")
        if options:
            self._module.configure(dict(option.split("=", 1) for option in options))

    def submit(self, job: JobRequest) -> str:
        """`submit(name, script, cores, memory)` of the file, which returns the job's id."""
        try:
            return str(self._module.submit(job.name, job.script, job.cores, job.memory))
        except OSError as error:
            raise AwayError(str(error)) from error
        except ValueError as error:
            raise SubmitRefusedError(str(error)) from error

    def look(self) -> Mapping[str, JobSeen]:
        """`look()` of the file: ids, each with a dictionary of what `JobSeen` has."""
        try:
            found = {str(job): JobSeen(**about) for job, about in self._module.look().items()}
        except OSError as error:
            raise AwayError(str(error)) from error
        for seen in found.values():
            if seen.state not in get_args(JobState):
                raise AwayError(f"look() returned the unknown state {seen.state!r}")
        return found

    def end(self, ids: Sequence[str]) -> None:
        """`end(ids)` of the file."""
        try:
            self._module.end(list(ids))
        except OSError as error:
            raise AwayError(str(error)) from error


def _load(file: str) -> ModuleType:
    path = Path(file)
    spec = importlib.util.spec_from_file_location(path.stem, path)
    if spec is None or spec.loader is None:
        raise ValueError(f"{file} is no file of Python")
    module = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
    except Exception as error:
        raise ValueError(f"{file} cannot be loaded: {type(error).__name__}: {error}") from error
    return module
