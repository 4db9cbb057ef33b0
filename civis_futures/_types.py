"""The frozen values that cross rooms. Of other rooms it knows which image has which Python.

What users see of it: `Container`, `Template` and `TaskState`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum, StrEnum
from typing import Any, ClassVar, NewType

from . import _images

#: One submitted call, from submit to result; unique within an executor.
TaskId = NewType("TaskId", int)
#: One worker (one container run) of an executor; unique within it.
WorkerId = NewType("WorkerId", int)

#: What Platform accepts at the least (api contract, section 2): millicores, MB.
MINIMUM_RESOURCES = {"cpu": 2, "memory": 4}
#: What a container asks for unless told otherwise: millicores, MB, GB.
DEFAULT_RESOURCES = {"cpu": 1000, "memory": 2048, "disk_space": 1.0}
_RESOURCE_NAMES = ("cpu", "memory", "disk_space")


class TaskState(StrEnum):
    """Where a task is. It prints as its value."""

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

    @property
    def over(self) -> bool:
        """Whether the run can have no further state."""
        return self in (RunState.SUCCEEDED, RunState.FAILED, RunState.CANCELLED)


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
    """

    max_retries: int = 0
    timeout: float | None = None
    queue_timeout: float | None = None
    resources: Resources = Resources()
    memory_growth: float | None = None
    max_memory: float = 0.0
    judged: bool = False


#: Fits every container; and terms without any wish.
ANY_RESOURCES = Resources()
PLAIN_TERMS = Terms()


@dataclass(frozen=True, slots=True)
class Attempt:
    """One time that a call was handed to a container, and how that ended.

    `state` is how it ended for the call ("running" if it has not); `reason` why, in one line, ""
    after a success. `started` and `finished` are seconds since the epoch by the container's
    clock; `peak_memory` is in MB. None: nobody knows.
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
    first: tuple[tuple[TaskId, int], ...] = ()
    taken: int = 0
    last: bool = False
    stop: bool = False
    resources: Resources = ANY_RESOURCES


@dataclass(frozen=True, slots=True)
class Standing:
    """How the containers of a pool are, as far as tasks wait for them. Times are monotonic, in
    seconds.

    `containers` are all that there are to be just now, `launching` those that the platform has not
    been asked for yet, `queued` and `running` what it says of the others. `refused` is why the last
    one could not be started, which is tried again at `again_at`; `next_start` is when the rate
    limit allows one. `room_wanted_since` is when the first of the queued ones with calls was
    launched, `idle` are those of the running ones without calls, and `probing` says that more will
    be started once one has shown that it can do the work.
    """

    containers: int = 0
    launching: int = 0
    queued: int = 0
    running: int = 0
    queued_since: float = 0.0
    unanswered_since: float | None = None
    refused: str = ""
    again_at: float = 0.0
    next_start: float = 0.0
    idle: int = 0
    room_wanted_since: float | None = None
    tasks_wait: bool = False
    probing: bool = False


@dataclass(frozen=True, slots=True)
class JobRow:
    """A row of a list of jobs: the job and the run it had last, if any."""

    job_id: int
    name: str
    run: Run | None


@dataclass(frozen=True, slots=True)
class Output:
    """An output of a run; `value` is the decoded JSON of a JSONValue, None for other types."""

    object_type: str
    object_id: int
    name: str
    value: Any = None


@dataclass(frozen=True, slots=True)
class StoredFile:
    """A File; `stored` says that its bytes are there. `size` is in bytes, and `expires` in seconds
    since the epoch; None: nobody knows, or never.
    """

    name: str
    size: int | None
    expires: float | None
    stored: bool


@dataclass(frozen=True, slots=True)
class LogLine:
    """A line of a run's log; it prints as its message.

    `level`: "info" is stdout, "error" is stderr; but a record of `logging` has its own, one of
    "debug", "info", "warn", "error", "fatal". `created` is the platform's time, as it says it.
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


def checked_resources(given: Mapping[str, float] | None) -> dict[str, float]:
    """A copy of what a user asked for; TypeError or ValueError if there is no such thing."""
    if given is not None and not isinstance(given, Mapping):
        raise TypeError(f"required_resources must be a mapping, not {type(given).__name__}")
    resources = dict(given or {})
    for name, value in resources.items():
        if name not in _RESOURCE_NAMES:
            raise ValueError(
                f"required_resources has no {name!r}; it takes {', '.join(_RESOURCE_NAMES)}"
            )
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise TypeError(f"required_resources[{name!r}] must be a number, not {value!r}")
        least = MINIMUM_RESOURCES.get(name, 0)
        if value < least:
            raise ValueError(
                f"required_resources[{name!r}] is {value}: the platform's minimum is {least}"
            )
    return resources


@dataclass(frozen=True, kw_only=True)
class Container:
    """The container that each worker of a pool runs in; fields as in the API's container scripts.

    Args:
        docker_image_name, docker_image_tag: an image with Python of the same minor version as
            this one, and with every package that the functions import. If no tag is given, it is
            one of the official image with this Python, where one is known, and else ``"latest"``.
        required_resources: ``cpu`` in millicores (1000 = one core), ``memory`` in MB,
            ``disk_space`` in GB; what is left out has the values of 1000, 2048 and 1.0.
        repo_http_uri, repo_ref, git_credential_id: a repository to clone to ``/app``.
        setup_cmd: a shell command to run first. If None and there is a repository, it is
            installed with pip.
        remote_host_credential_id: a database credential to put into the environment.
        params, arguments: more parameters of the script and their values, as the API takes them;
            they are environment variables of the container.
        environment: more environment variables, as text. The platform writes their names in
            capitals.
        cancel_timeout: seconds between the TERM and the KILL of a cancelled container. One that
            has a pool of its own needs some to end it: 30, say.
        instance_type, partition_label: placement.
        time_zone: the zone of the script, e.g. ``"America/Chicago"``.
        target_project_id, running_as_id, user_context: as in the API.
        notifications: as in the API; by default nobody gets an e-mail.
        hidden: whether the scripts are hidden in the platform's lists.

    Raises:
        ValueError: resources below the platform's minimum, or of an unknown name.
        TypeError: a field is of the wrong type, or what is in `environment` is no text.
    """

    docker_image_name: str = _images.OFFICIAL
    docker_image_tag: str | None = None
    required_resources: Mapping[str, float] = field(default_factory=dict)
    repo_http_uri: str | None = None
    repo_ref: str | None = None
    git_credential_id: int | None = None
    setup_cmd: str | None = None
    remote_host_credential_id: int | None = None
    params: Sequence[Mapping[str, Any]] = ()
    arguments: Mapping[str, Any] = field(default_factory=dict, repr=False)
    cancel_timeout: int = 0
    instance_type: str | None = None
    partition_label: str | None = None
    time_zone: str | None = None
    target_project_id: int | None = None
    running_as_id: int | None = None
    user_context: str | None = None
    notifications: Mapping[str, Any] = field(
        default_factory=lambda: {"success_on": False, "failure_on": False}
    )
    hidden: bool = True
    environment: Mapping[str, str] = field(default_factory=dict, repr=False)
    #: Whether the tag is neither the user's nor known to fit this Python.
    _tag_is_a_guess: ClassVar[bool] = False

    def __post_init__(self) -> None:
        """Choose a tag, and take copies: a later change of the caller's dicts does not reach us."""
        if self.docker_image_tag is None:
            tag, is_known = _images.tag_of(self.docker_image_name)
            object.__setattr__(self, "docker_image_tag", tag)
            object.__setattr__(self, "_tag_is_a_guess", not is_known)
        resources = {**DEFAULT_RESOURCES, **checked_resources(self.required_resources)}
        _check_mappings(self, "arguments", "notifications", "environment")
        params = tuple(self.params)
        if not all(isinstance(param, Mapping) for param in params):
            raise TypeError(f"params must be mappings, not {self.params!r}")
        object.__setattr__(self, "required_resources", resources)
        object.__setattr__(self, "params", tuple(dict(param) for param in params))
        object.__setattr__(self, "arguments", dict(self.arguments))
        object.__setattr__(self, "notifications", dict(self.notifications))
        object.__setattr__(self, "environment", dict(self.environment))
        for name, value in self.environment.items():
            if not isinstance(name, str) or not isinstance(value, str):
                raise TypeError(f"environment must be of text only, not {name!r}: {value!r}")
        if not isinstance(self.cancel_timeout, int | float):
            raise TypeError(f"cancel_timeout must be a number, not {self.cancel_timeout!r}")
        if self.cancel_timeout < 0:
            raise ValueError("cancel_timeout must not be negative")

    @property
    def image(self) -> str:
        """The image with its tag."""
        return f"{self.docker_image_name}:{self.docker_image_tag}"

    @property
    def doubt(self) -> str | None:
        """What speaks against the image, if it was not chosen: perhaps it has another Python."""
        return _images.doubt() if self._tag_is_a_guess else None


@dataclass(frozen=True, kw_only=True)
class Template:
    """Run the workers as Custom Scripts of a template, for those who may only use templates.

    The template's script must run `civis-futures-worker` (from this package, in its image) and
    have a parameter ``CIVIS_FUTURES_ORDER`` of type ``multi_line_string``. Or it hands the id of a
    File to it: `civis-futures-worker --file ${JOBLIB_FUNC_FILE_ID}`, with such a parameter, of
    type ``integer``, and `order_in_file`.

    Args:
        from_template_id: the id of the template.
        arguments: values for the template's other parameters.
        order_param: the parameter that takes the worker's order, if it has another name.
        order_in_file: give it the id of a File with the order, and not the order itself.
        required_resources: overrides those of the template's script; names and units as in
            `Container`.
        remote_host_id, credential_id: a database and its credential.
        partition_label, time_zone, target_project_id, running_as_id, notifications, hidden: as in
            `Container`.
    """

    from_template_id: int
    arguments: Mapping[str, Any] = field(default_factory=dict, repr=False)
    order_param: str = "CIVIS_FUTURES_ORDER"
    order_in_file: bool = False
    required_resources: Mapping[str, float] | None = None
    remote_host_id: int | None = None
    credential_id: int | None = None
    partition_label: str | None = None
    time_zone: str | None = None
    target_project_id: int | None = None
    running_as_id: int | None = None
    notifications: Mapping[str, Any] = field(
        default_factory=lambda: {"success_on": False, "failure_on": False}
    )
    hidden: bool = True

    def __post_init__(self) -> None:
        """Take copies, so that a later change of the caller's dicts does not reach us."""
        _check_mappings(self, "arguments", "notifications")
        object.__setattr__(self, "arguments", dict(self.arguments))
        object.__setattr__(self, "notifications", dict(self.notifications))
        if self.required_resources is not None:
            resources = checked_resources(self.required_resources)
            object.__setattr__(self, "required_resources", resources)

    @property
    def image(self) -> str:
        """What to call the image in a message: only the template knows it."""
        return f"the image of template {self.from_template_id}"


def _check_mappings(of: object, *names: str) -> None:
    """Raise TypeError for the first of these fields that is no mapping."""
    for name in names:
        if not isinstance(value := getattr(of, name), Mapping):
            raise TypeError(f"{name} must be a mapping, not {type(value).__name__}")


def disk_space(resources: Resources) -> float:
    """The disk that a container may use, in MB; a guess where only its template knows."""
    return 1000.0 * (resources.disk_space or DEFAULT_RESOURCES["disk_space"])
