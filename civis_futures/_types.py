"""The frozen values that pass between modules, and the checks of users' numbers.

It knows no other module.

What users see of it: `TaskState`, `Attempt` and `LogLine`.
"""

from __future__ import annotations

import numbers
import operator
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from enum import Enum, StrEnum
from typing import Any, NewType, SupportsIndex

#: One submitted call, from submit to result; unique within an executor.
TaskId = NewType("TaskId", int)
#: One worker (one container run) of an executor; unique within it.
WorkerId = NewType("WorkerId", int)


class TaskState(StrEnum):
    """The state of a task. It prints as its value."""

    PENDING = "pending"  #: not yet handed to a container
    QUEUED = "queued"  #: handed to a container that has not started
    RUNNING = "running"  #: its container runs, and has it in hand
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    CANCELLED = "cancelled"


class RunState(StrEnum):
    """The state of a run, in Platform's words; UNKNOWN is any word that we do not know."""

    QUEUED = "queued"
    RUNNING = "running"
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    CANCELLED = "cancelled"
    UNKNOWN = "unknown"

    over: bool  #: whether the run can have no further state

    def __init__(self, value: str) -> None:
        self.over = value in ("succeeded", "failed", "cancelled")


class JobKind(Enum):
    """The two kinds of script that we start; the value is their segment in the API's paths."""

    CONTAINER = "containers"
    CUSTOM = "custom"


@dataclass(frozen=True, slots=True)
class Job:
    """A script on the platform, which is a job there."""

    id: int
    kind: JobKind = JobKind.CONTAINER


@dataclass(frozen=True, slots=True)
class Run:
    """One execution of a job, as the platform last told it. Times are seconds since the epoch.

    `said` is the platform's own word for the state; `max_memory` the peak in MB (only after the
    end, and only from the scripts endpoints).
    """

    id: int
    state: RunState
    said: str = ""
    created: float | None = None
    started: float | None = None
    finished: float | None = None
    error: str | None = None
    max_memory: float | None = None

    @property
    def seconds(self) -> float | None:
        """For how long it ran; None: that is not known."""
        if self.started is None or self.finished is None:
            return None
        return max(0.0, self.finished - self.started)


@dataclass(frozen=True, slots=True)
class Resources:
    """What a container asks for: millicores, MB, GB. Zeros: whatever its template says."""

    cpu: float = 0.0
    memory: float = 0.0
    disk_space: float = 0.0

    def cover(self, other: Resources) -> bool:
        """Whether a container with these can serve a call that needs `other`."""
        return (
            self.cpu >= other.cpu
            and self.memory >= other.memory
            and self.disk_space >= other.disk_space
        )


@dataclass(frozen=True, slots=True)
class Terms:
    """What is agreed for one call; times in seconds, memory in MB.

    `judged`: an exception of the function may be a reason to try again; ask before it settles.
    `priority`: of the calls that wait, those with a higher one begin first.
    """

    max_retries: int = 0
    timeout: float | None = None
    queue_timeout: float | None = None
    resources: Resources = Resources()
    memory_growth: float | None = None
    max_memory: float = 0.0
    judged: bool = False
    priority: float = 0.0


#: Fits every container; and terms without any wish.
ANY_RESOURCES = Resources()
PLAIN_TERMS = Terms()


@dataclass(frozen=True, slots=True)
class Attempt:
    """What happened when a call was given to a container once. None: not known.

    `state` is how the attempt ended for the call, or "running"; `reason` is why, in one line, and
    empty after a success. `started` and `finished` are in seconds since the epoch, by the
    container's clock. `peak_memory` is in MB: the most that the process had while it ran the call,
    including modules and globals from before, and without what processes that it has started
    had. (Where the kernel cannot tell this, it is the most
    that the process ever had until then.)
    """

    worker: int
    job_id: int | None = None
    run_id: int | None = None
    job_url: str | None = None
    state: TaskState = TaskState.QUEUED
    reason: str = ""
    exit_code: int | None = None
    started: float | None = None
    finished: float | None = None
    peak_memory: float | None = None


@dataclass(frozen=True, slots=True)
class Inherited:
    """A worker that another process has launched, with the calls that it has not answered.

    `wanted` are those of its calls that count for their tasks, `revoked` those that it was asked
    not to begin, `first` those that came with its launch, `taken` is how many it ever got.
    """

    id: WorkerId
    state: RunState
    calls: tuple[tuple[TaskId, int], ...] = ()
    wanted: tuple[tuple[TaskId, int], ...] = ()
    revoked: tuple[tuple[TaskId, int], ...] = ()
    launch_calls: tuple[tuple[TaskId, int], ...] = ()
    calls_given: int = 0
    one_shot: bool = False
    stop: bool = False
    resources: Resources = ANY_RESOURCES
    processes: int = 1


@dataclass(frozen=True, slots=True)
class Standing:
    """How the containers of a pool are, as far as tasks wait for them. Times are monotonic, in
    seconds.

    `containers` are all that there are to be just now, `launching` those that the platform has not
    been asked for yet, `queued` and `running` what it says of the others. `refused` is why the last
    one could not be started, which is tried again at `again_at`; `next_start` is when the rate
    limit allows one. `room_wanted_since` is when the first of the queued ones with calls was
    launched, `idle` are those of the running ones without calls, and `probing` says that more will
    be started once one has shown that it can do the work. Looks have been in vain since
    `unseen_since`, because of `unseen`; `troubles` are all that fails just now: what cannot be
    done, and the last error.
    """

    containers: int = 0
    launching: int = 0
    queued: int = 0
    running: int = 0
    queued_since: float = 0.0
    unseen_since: float | None = None
    unseen: str = ""
    refused: str = ""
    again_at: float = 0.0
    next_start: float = 0.0
    idle: int = 0
    room_wanted_since: float | None = None
    tasks_wait: bool = False
    probing: bool = False
    troubles: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True, slots=True)
class Output:
    """An output of a run; `value` is the decoded JSON of a JSONValue, None for other types."""

    object_type: str
    object_id: int
    name: str
    value: Any = None


@dataclass(frozen=True, slots=True)
class JobRow:
    """A row of a list of jobs: the job and the run it had last, if any; and those of its newest
    `outputs` that the platform has told of unasked.
    """

    job_id: int
    name: str
    run: Run | None
    outputs: tuple[Output, ...] = ()


@dataclass(frozen=True, slots=True)
class StoredFile:
    """A File; `stored` says that its bytes are there. `size` is in bytes, and `expires` in seconds
    since the epoch; None: not known, or never.
    """

    name: str
    size: int | None
    expires: float | None
    stored: bool


@dataclass(frozen=True, slots=True)
class LogLine:
    """A line of a run's log. It prints as its message.

    `level` is "info" for stdout and "error" for stderr; a record of `logging` has its own level:
    "debug", "info", "warn", "error" or "fatal". `created` is the time by the platform's clock, as
    text, exactly as the platform gives it.
    """

    id: int
    created: str
    level: str
    message: str

    def __str__(self) -> str:
        """The message alone."""
        return self.message


@dataclass(frozen=True, slots=True)
class LogPage:
    """Some lines of a run's log, the oldest first; `complete` once it can have no more."""

    lines: list[LogLine]
    complete: bool


def whole(name: str, value: SupportsIndex, *, least: int = 1) -> int:
    """`value` as an int if it is a whole number of at least `least`, of NumPy's too; TypeError or
    ValueError otherwise.
    """
    try:
        if isinstance(value, bool):
            raise TypeError
        plain = operator.index(value)
    except TypeError:
        raise TypeError(f"{name} must be an integer, not {value!r}") from None
    if plain < least:
        raise ValueError(f"{name} must be {least} or more, not {value}")
    return plain


def number(name: str, value: Any) -> float:
    """`value` as an int or a float if it is a number, of NumPy's too; TypeError otherwise."""
    if isinstance(value, bool) or not isinstance(value, numbers.Real):
        raise TypeError(f"{name} must be a number, not {value!r}")
    return int(value) if isinstance(value, numbers.Integral) else float(value)


def seconds(timeout: Any) -> float | None:
    """How long to wait at the most; None: without end."""
    return None if timeout is None else number("timeout", timeout)


def make_plain(
    frozen: Any, names: Iterable[str], check: Callable[..., float], **options: Any
) -> None:
    """Put what `whole` or `number` gives in the place of these fields, unless they are None, and
    that is their default.
    """
    for name in names:
        value = getattr(frozen, name)
        if value is not None or frozen.__dataclass_fields__[name].default is not None:
            object.__setattr__(frozen, name, check(name, value, **options))


# --- options -------------------------------------------------------------------------------------

RetryOn = (
    type[BaseException] | tuple[type[BaseException], ...] | Callable[[BaseException], object] | None
)


class _Unchanged:
    """Stands for an option that was not given."""

    def __repr__(self) -> str:
        """For signatures."""
        return "<unchanged>"


#: The default of each parameter of `options` and `resubmit`: editors list them by name.
UNCHANGED: Any = _Unchanged()


def given(parameters: Mapping[str, Any]) -> dict[str, Any]:
    """The options among these parameters that were given; `unknown` has misspelt ones, if any."""
    others = ("self", "unknown")
    changes = dict(parameters.get("unknown", ()))
    for name, value in parameters.items():
        if name not in others and value is not UNCHANGED:
            changes[name] = value
    return changes
