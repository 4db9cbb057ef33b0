"""A call becomes bytes, and whatever ends it becomes an outcome: a result or an exception.

The only room on the client's side that pickles. Bytes are unpickled here after `Blob.check` has
compared them with their digest, and only those that came as answers of our own workers.
"""

from __future__ import annotations

import contextlib
import pickle
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import cloudpickle

from . import _wire
from ._events import Verdict
from ._exceptions import (
    BrokenContainerPool,
    CallLostError,
    CallPicklingError,
    CallUnpicklingError,
    EnvironmentMismatchError,
    OutcomePicklingError,
    OutcomeUnpicklingError,
    RemoteTraceback,
    TaskError,
    TaskTimeoutError,
    WorkerCrashedError,
    WorkerMemoryError,
)
from ._types import Attempt

PROTOCOL = 5


@dataclass(frozen=True, slots=True)
class Place:
    """Where a task was answered, for messages: the task's name, its run, and the image."""

    task: str
    image: str
    job_id: int | None = None
    run_id: int | None = None
    job_url: str | None = None
    attempts: tuple[Attempt, ...] = ()

    def __str__(self) -> str:
        """As a clause: who ran where."""
        if self.run_id is None:
            return self.task
        return f"{self.task} in run {self.run_id} of job {self.job_id} ({self.job_url})"

    @property
    def history(self) -> str:
        """What happened to the attempts before the last one, a line each; empty if none."""
        if len(self.attempts) < 2:
            return ""
        lines = [
            f"\n  attempt {number} in run {attempt.run_id}: {attempt.reason}"
            for number, attempt in enumerate(self.attempts[:-1], 1)
        ]
        return f"\nIt was attempt {len(self.attempts)}. Before that:" + "".join(lines)

    @property
    def details(self) -> dict[str, Any]:
        """What every `TaskError` takes."""
        return {
            "task": self.task,
            "job_id": self.job_id,
            "run_id": self.run_id,
            "job_url": self.job_url,
        }


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a future gets: an exception, or else a result."""

    result: Any = None
    exception: BaseException | None = None


def call_bytes(
    task: str, fn: Callable[..., Any], args: Sequence[Any], kwargs: Mapping[str, Any]
) -> bytes:
    """A snapshot of a call as bytes.

    Raises:
        CallPicklingError: the function or an argument cannot be pickled.
    """
    return _dumps(task, (fn, tuple(args), dict(kwargs)))


def chunk_bytes(task: str, fn: Callable[..., Any], rows: Sequence[Sequence[Any]]) -> bytes:
    """A snapshot of one call per row of arguments, to be answered by the list of their results."""
    return _dumps(task, (fn, [tuple(row) for row in rows]))


def _dumps(task: str, value: Any) -> bytes:
    try:
        data: bytes = cloudpickle.dumps(value, protocol=PROTOCOL)
    except Exception as error:
        message = f"{task} cannot be sent: {_brief(error)}"
        raise CallPicklingError(message, task=task) from error
    return data


def load_call(data: bytes) -> Callable[[], Any]:
    """The call that these bytes are, to be made here."""
    parts = pickle.loads(data)
    if len(parts) == 2:
        each, rows = parts
        return lambda: [each(*row) for row in rows]
    function, args, kwargs = parts
    return lambda: function(*args, **kwargs)


def outcome_of(answer: _wire.Answer, data: bytes | None, place: Place, python: str) -> Outcome:
    """The outcome that an answer tells; `data` are its checked bytes, `python` our version."""
    if answer.kind == _wire.RETURNED:
        return _returned(data, place)
    if answer.kind == _wire.RAISED:
        return _raised(answer, data, place)
    return Outcome(exception=_unfit(answer, place, python))


def _returned(data: bytes | None, place: Place) -> Outcome:
    try:
        return Outcome(result=pickle.loads(data or b""))
    except BaseException as error:
        return Outcome(exception=_not_loaded("result", error, place))


def _raised(answer: _wire.Answer, data: bytes | None, place: Place) -> Outcome:
    try:
        exception = pickle.loads(data or b"")
        if not isinstance(exception, BaseException):
            raise TypeError(f"not an exception: {type(exception).__name__}")
    except BaseException as error:
        lost = _not_loaded("exception", error, place)
        lost.add_note(f"What was raised there:\n{answer.text}")
        return Outcome(exception=lost)
    with contextlib.suppress(Exception):  # an exception may refuse any attribute
        exception.__cause__ = RemoteTraceback(answer.text)
        exception.add_note(f"Raised by {place}.{place.history}{_tail(answer.log)}")
    return Outcome(exception=exception)


def _not_loaded(what: str, error: BaseException, place: Place) -> OutcomeUnpicklingError:
    message = f"the {what} of {place} cannot be unpickled here: {_brief(error)}"
    lost = OutcomeUnpicklingError(message, **place.details)
    lost.__cause__ = error
    return lost


def _unfit(answer: _wire.Answer, place: Place, python: str) -> TaskError:
    """The error for a call that the worker could not run, or whose outcome it could not send."""
    error: TaskError
    if answer.kind == _wire.PYTHON_MISMATCH:
        error = EnvironmentMismatchError(
            f"{place} was not run: {place.image} has Python {answer.detail}, and this is Python "
            f"{python}. Pickled functions only run on the same minor version: choose an image "
            f"with Python {python}, or run this with Python {answer.detail}.",
            **place.details,
        )
    elif answer.kind == _wire.MISSING_MODULE:
        top = answer.detail.partition(".")[0]
        error = EnvironmentMismatchError(
            f"{place} was not run: it needs the module {answer.detail!r}, which {place.image} "
            f"does not have. Choose an image that has it or install it with setup_cmd="
            f"'pip install ...'; if it is a module of your own, send it along: "
            f"cloudpickle.register_pickle_by_value({top}).",
            **place.details,
        )
    elif answer.kind == _wire.CALL_UNPICKLING:
        error = CallUnpicklingError(
            f"{place} was not run: the function or its arguments cannot be unpickled there: "
            f"{_last_line(answer.text)}",
            **place.details,
        )
    elif answer.kind == _wire.OUTCOME_PICKLING:
        error = OutcomePicklingError(
            f"the {answer.detail} of {place} cannot be sent back: {_last_line(answer.text)}",
            **place.details,
        )
    else:
        error = TaskError(
            f"{place} ended in a way that this version does not know: {answer.kind!r}",
            **place.details,
        )
    if answer.text:
        error.__cause__ = RemoteTraceback(answer.text)
    return error


def lost_outcome(cause: Verdict | Exception, place: Place) -> Outcome:
    """The outcome of a task that ended without an answer."""
    if isinstance(cause, BrokenContainerPool):
        # A fresh one for each future: raising adds to an exception's traceback.
        broken = BrokenContainerPool(f"{place} was given up: {cause}")
        broken.__cause__ = cause.__cause__
        return Outcome(exception=broken)
    if isinstance(cause, Exception):
        lost = CallLostError(f"{place} could not be sent: {_brief(cause)}", **place.details)
        lost.__cause__ = cause
        return Outcome(exception=lost)
    if cause.timed_out:
        return Outcome(exception=_timed_out(cause, place))
    kind: type[CallLostError] = CallLostError
    if cause.memory:
        kind = WorkerMemoryError
    elif cause.crashed:
        kind = WorkerCrashedError
    message = f"{place} was lost: {cause.reason}{place.history}{_tail(cause.log_tail)}"
    return Outcome(
        exception=kind(
            message,
            state=None if cause.run is None else (cause.run.said or cause.run.state),
            exit_code=cause.exit_code,
            log_tail=cause.log_tail,
            **place.details,
        )
    )


def _timed_out(cause: Verdict, place: Place) -> TaskTimeoutError:
    message = f"{place} was given up: {cause.reason}{place.history}{_tail(cause.log_tail)}"
    return TaskTimeoutError(message, log_tail=cause.log_tail, **place.details)


def _tail(lines: Sequence[str]) -> str:
    """The last lines of a log, as the end of a message."""
    if not lines:
        return ""
    return "\nThe last lines of its log:\n" + "\n".join(f"  {line}" for line in lines)


def _brief(error: BaseException) -> str:
    try:
        text = str(error)
    except Exception:
        text = ""
    return f"{type(error).__name__}: {text}" if text else type(error).__name__


def _last_line(text: str) -> str:
    lines = text.strip().splitlines()
    return lines[-1].strip() if lines else "no reason given"
