"""The errors of civis_futures, and nothing else: this module knows no other module.

::

    CivisFuturesError
    ├── CredentialsError                 no key, and no platform named (also a ValueError)
    ├── PlatformError                    the platform refused a request, or could not be reached
    ├── TaskError                        one task ended without the result of its function
    │   ├── CallLostError                its container ended before it had answered
    │   │   ├── WorkerCrashedError       the process that ran it died (exit code, signal)
    │   │   └── WorkerMemoryError        it was killed for its use of memory
    │   ├── TaskTimeoutError             it ran, or waited, for too long (also a TimeoutError)
    │   ├── ContainerHoursError          the containers have run for max_container_hours
    │   ├── DependencyError              it was not run: one that it needs has failed, or
    │   │                                no container would do
    │   ├── EnvironmentMismatchError     the image is not fit: Python version, missing module
    │   └── SerializationError           also a pickle.PicklingError
    │       ├── CallPicklingError        here:   function or arguments -> bytes
    │       ├── CallUnpicklingError      there:  bytes -> function or arguments
    │       ├── OutcomePicklingError     there:  result or exception -> bytes
    │       └── OutcomeUnpicklingError   here:   bytes -> result or exception
    ├── SessionInUseError                another process has this session open
    ├── SessionMismatchError             a call is not what it was when the session began
    └── BrokenContainerPool              the pool can do no more work (also a BrokenExecutor)

    RemoteTraceback                      the ``__cause__`` of an exception raised in a container
    UnmetDependency                      raised by a call that wants another container

An exception that the user's function raises is none of these: it arrives as itself, with a
`RemoteTraceback` as its ``__cause__``. Every error pickles with its attributes.
"""

from __future__ import annotations

import pickle
from concurrent.futures import BrokenExecutor, Future
from typing import Any

__all__ = [
    "BrokenContainerPool",
    "CallLostError",
    "CallPicklingError",
    "CallUnpicklingError",
    "CivisFuturesError",
    "ContainerHoursError",
    "CredentialsError",
    "DependencyError",
    "EnvironmentMismatchError",
    "OutcomePicklingError",
    "OutcomeUnpicklingError",
    "PlatformError",
    "RemoteTraceback",
    "SerializationError",
    "SessionInUseError",
    "SessionMismatchError",
    "TaskError",
    "TaskTimeoutError",
    "UnmetDependency",
    "WorkerCrashedError",
    "WorkerMemoryError",
]


class CivisFuturesError(Exception):
    """The base class of all errors of civis_futures."""


class Recalled(Exception):
    """Not for users: a run that is not wanted any more was not started."""


class CredentialsError(CivisFuturesError, ValueError):
    """There is no API key that could be used, and no platform was given."""


class PlatformError(CivisFuturesError):
    """The platform refused a request, or could not be reached.

    Attributes:
        method, path: the request, such as ``"POST"`` and ``"/scripts/containers"``.
        status: the HTTP status; None if there was no answer.
        request_id: the platform's ``X-Request-Id``, which its support may ask for; or None.
        sent: False if the request certainly did not reach the platform, and so had no effect.
    """

    def __init__(
        self,
        message: str,
        *,
        method: str = "",
        path: str = "",
        status: int | None = None,
        request_id: str | None = None,
        sent: bool = True,
    ) -> None:
        super().__init__(message)
        self.method = method
        self.path = path
        self.status = status
        self.request_id = request_id
        self.sent = sent


class SessionInUseError(CivisFuturesError):
    """Another process, or another executor of this one, has the session open."""


class SessionMismatchError(CivisFuturesError):
    """The code of a call has changed since the session was begun, or the kind of container has."""


class TaskError(CivisFuturesError):
    """A task ended without a result or an exception of its function.

    Attributes:
        task: the name of the task, such as ``"train (task 3)"``.
        job_id, run_id: the ids of the script and the run in which it was, or None.
        job_url: the URL of the script's page on the platform, or None.
    """

    def __init__(
        self,
        message: str,
        *,
        task: str = "",
        job_id: int | None = None,
        run_id: int | None = None,
        job_url: str | None = None,
    ) -> None:
        super().__init__(message)
        self.task = task
        self.job_id = job_id
        self.run_id = run_id
        self.job_url = job_url


class CallLostError(TaskError):
    """The container ended, or could not be started, before the call was answered.

    Attributes:
        state: how the run ended, in the platform's words, such as ``"failed"``; or None.
        exit_code: the exit code of the process that ran the call (-9: killed by signal 9); None
            if it is not known.
        log_tail: the last lines of the run's log, oldest first.
    """

    def __init__(
        self,
        message: str,
        *,
        state: str | None = None,
        exit_code: int | None = None,
        log_tail: tuple[str, ...] = (),
        **details: Any,
    ) -> None:
        super().__init__(message, **details)
        self.state = state
        self.exit_code = exit_code
        self.log_tail = log_tail


class WorkerCrashedError(CallLostError):
    """The process that ran the call died: by ``os._exit``, a signal or a crash."""


class WorkerMemoryError(CallLostError):
    """The container was killed because it used more memory than it had asked for."""


class TaskTimeoutError(TaskError, TimeoutError):
    """The call ran for longer than its `timeout`, or had not begun after its `queue_timeout`.

    Attributes:
        log_tail: the last lines of the call's log, oldest first.
    """

    def __init__(self, message: str, *, log_tail: tuple[str, ...] = (), **details: Any) -> None:
        super().__init__(message, **details)
        self.log_tail = log_tail


class ContainerHoursError(TaskError):
    """The call was given up: the containers of its pool have run for `max_container_hours`.

    Attributes:
        limit: the value of `max_container_hours`.
        used: the sum of the hours that the containers had run.
    """

    def __init__(
        self, message: str, *, limit: float = 0.0, used: float = 0.0, **details: Any
    ) -> None:
        super().__init__(message, **details)
        self.limit = limit
        self.used = used


class DependencyError(TaskError):
    """The call was not run, since a call that it needs did not end as required; or since no
    container would do for it: see `UnmetDependency`.

    The ``__cause__`` is the exception of `root`, if it has one, or the `UnmetDependency`.

    Attributes:
        dependency: the future of the call that it needs.
        root: the future of the first call that did not end as required. It is another one than
            `dependency` if that call was not run for the same reason.

    Both are None if no container would do, and in an error that was pickled.
    """

    def __init__(
        self,
        message: str,
        *,
        dependency: Future[Any] | None = None,
        root: Future[Any] | None = None,
        **details: Any,
    ) -> None:
        super().__init__(message, **details)
        self.dependency = dependency
        self.root = root

    def __reduce__(self) -> tuple[Any, ...]:
        """Without the futures, which cannot travel."""
        return type(self), self.args, {**self.__dict__, "dependency": None, "root": None}


class EnvironmentMismatchError(TaskError):
    """The image cannot run the call: it has another Python version, or lacks a module."""


class SerializationError(TaskError, pickle.PicklingError):
    """A call or its outcome cannot be pickled or unpickled."""


class CallPicklingError(SerializationError):
    """The function or its arguments cannot be pickled here."""


class CallUnpicklingError(SerializationError):
    """The function or its arguments cannot be unpickled in the container."""


class OutcomePicklingError(SerializationError):
    """The result or the exception cannot be pickled in the container."""


class OutcomeUnpicklingError(SerializationError):
    """The result or the exception cannot be unpickled here."""


class BrokenContainerPool(CivisFuturesError, BrokenExecutor):
    """The pool can do no more work, for the reason that its message gives."""


class UnmetDependency(Exception):
    """For a call to raise: its container will not do, but another one may.

    The call goes back, and its container does not get it again; this is no attempt, and `retry_on`
    is not asked. It fails with a `DependencyError` once as many containers have refused it as the
    pool may have at a time, and one more (`max_workers` + 1).

    `depend` and `dependent` raise it for you, before the function is called.
    """


class RemoteTraceback(Exception):
    """The text of a traceback from a container, as the ``__cause__`` of what was raised there."""

    def __init__(self, text: str) -> None:
        super().__init__(text)
        self.text = text

    def __str__(self) -> str:
        """Set off from the traceback below it, as the standard library's pools do."""
        return f'\n"""\n{self.text.rstrip()}\n"""'
