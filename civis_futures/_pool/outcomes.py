"""The last step of a task: its outcome is made and put into its future. This runs user code.

Unpickling, callbacks and `retry_on` are the user's, and may take any time or raise anything; so all
of it happens on a lane of its own, and nothing here knows the manager. Bytes are unpickled here
after `Blob.check` has compared them with their digest, and only those that came as answers of our
own workers.
"""

from __future__ import annotations

import contextlib
import logging
import os
from collections.abc import Callable, Sequence
from concurrent.futures import CancelledError
from dataclasses import dataclass, replace
from typing import Any

from .. import _wire
from .._container.images import proposal
from .._data import sources
from .._data.pickling import brief
from .._data.unpickling import loaded
from .._exceptions import (
    BrokenContainerPool,
    CallLostError,
    CallUnpicklingError,
    ContainerHoursError,
    DependencyError,
    EnvironmentMismatchError,
    OutcomePicklingError,
    OutcomeUnpicklingError,
    RemoteTraceback,
    TaskError,
    TaskTimeoutError,
    UnmetDependency,
    WorkerCrashedError,
    WorkerMemoryError,
)
from .._futures.future import ContainerFuture
from .._scheduling.events import Verdict
from .._types import Attempt
from .._wire import PYTHON, Answer

_log = logging.getLogger(__name__)

_READ_ONLY = (
    "Arrays of 1 MB and more are shared by the calls of a container, and read-only there. Work on "
    "a copy (x = x.copy()), or give each call its own: ContainerPoolExecutor(share_arrays=None), "
    "with joblib Parallel(max_nbytes=None)."
)


_ONLY_HERE = (
    "{0!r} is on this machine, and there was nothing of that name where the call ran. Read it here "
    "and pass what is in it as an argument; or send it along with ContainerPoolExecutor("
    "include=[{0!r}]), which puts it beside your modules there."
)


@dataclass(frozen=True, slots=True)
class CallPlace:
    """Where a task was answered, for messages: the task's name, its run, and the image; and which
    runs have refused it before.
    """

    task: str
    image: str
    job_id: int | None = None
    run_id: int | None = None
    job_url: str | None = None
    attempts: tuple[Attempt, ...] = ()
    refused: tuple[int, ...] = ()

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

    @property
    def errors(self) -> list[BaseException]:
        """The exceptions: also those of the rows of a batch that have outcomes of their own."""
        rows = self.result if type(self.result) is Rows else [self]
        return [row.exception for row in rows if row.exception is not None]


class Rows(list[Outcome]):
    """The outcomes of a batch, row by row; for who asked for them."""


def outcome_of(answer: _wire.Answer, data: bytes | None, place: CallPlace, python: str) -> Outcome:
    """The outcome that an answer tells; `data` are its checked bytes, `python` our version."""
    if answer.kind == _wire.REFUSED:
        return _refused(sources.with_sources(answer), place)
    if answer.detail == _wire.ROWS:
        return _rows(answer, data, place, python)
    if answer.kind == _wire.RETURNED:
        return _returned(data, place)
    own = sources.own_place(answer)
    answer = sources.with_sources(answer)
    if answer.kind == _wire.RAISED:
        return _raised(answer, data, place)
    return Outcome(exception=_unfit(answer, place, python, own))


def _returned(data: bytes | None, place: CallPlace) -> Outcome:
    try:
        return Outcome(result=loaded(data or b""))
    except BaseException as error:
        return Outcome(exception=_not_loaded("result", error, place))


def _rows(answer: _wire.Answer, data: bytes | None, place: CallPlace, python: str) -> Outcome:
    try:
        pairs = loaded(data or b"")
    except BaseException as error:
        return Outcome(exception=_not_loaded("result", error, place))
    rows = Rows()
    for header, row in pairs:
        frames = tuple(_wire.Frame(**frame) for frame in header["frames"])
        own = replace(answer, **{**header, "frames": frames})
        rows.append(outcome_of(own, row, place, python))
    return Outcome(result=rows)


def _raised(answer: _wire.Answer, data: bytes | None, place: CallPlace) -> Outcome:
    try:
        exception = loaded(data or b"")
        if not issubclass(type(exception), BaseException):  # its class may claim to be another
            raise TypeError(f"not an exception: {type(exception).__name__}")
    except BaseException as error:
        lost = _not_loaded("exception", error, place)
        lost.add_note(f"What was raised there:\n{answer.text}")
        return Outcome(exception=lost)
    # An exception may refuse any attribute, with whatever it likes.
    with contextlib.suppress(BaseException):
        exception.__cause__ = RemoteTraceback(answer.text)
    with contextlib.suppress(BaseException):
        exception.add_note(f"Raised by {place}.{place.history}{_tail(answer.log)}")
        if type(exception) is ValueError and "read-only" in str(exception):
            exception.add_note(_READ_ONLY)
        if type(exception) is ModuleNotFoundError and exception.name:
            exception.add_note(_not_found_there(exception.name, place))
        if type(exception) is FileNotFoundError and os.path.exists(exception.filename):
            exception.add_note(_ONLY_HERE.format(exception.filename))
    return Outcome(exception=exception)


def _refused(answer: _wire.Answer, place: CallPlace) -> Outcome:
    said, before = answer.detail or "it raised UnmetDependency", place.refused
    runs = f" (before this run: {', '.join(map(str, before[-4:]))})" if before else ""
    error = DependencyError(
        f"{place} was not run: {said}. It has refused {len(before) + 1} containers{runs}, and no "
        "more than max_workers + 1 are tried. Choose containers that suit it (required_resources=, "
        "another image), or change what it asks of them.",
        **place.details,
    )
    error.__cause__ = UnmetDependency(*filter(None, [answer.detail]))
    error.__cause__.__cause__ = RemoteTraceback(answer.text)
    return Outcome(exception=error)


def _not_found_there(module: str, place: CallPlace) -> str:
    """What to do about a module that the call asked for only when it ran."""
    top = module.partition(".")[0]
    return (
        f"{place.image} does not have {top!r}. Choose an image that has it, install it with "
        f"Container(setup_cmd='pip install ...'), or, if it is your own, say include=[{top!r}]."
    )


def _not_loaded(what: str, error: BaseException, place: CallPlace) -> OutcomeUnpicklingError:
    message = f"the {what} of {place} cannot be unpickled here: {brief(error)}"
    lost = OutcomeUnpicklingError(message, **place.details)
    lost.__cause__ = error
    return lost


def _unfit(answer: _wire.Answer, place: CallPlace, python: str, own: str) -> TaskError:
    """The error for a call that the worker could not run, or whose outcome it could not send; `own`
    is where in the user's modules.
    """
    error: TaskError
    if answer.kind == _wire.PYTHON_MISMATCH:
        error = EnvironmentMismatchError(
            f"{place} was not run: {place.image} has Python {answer.detail}, and this is Python "
            f"{python}. Pickled functions only run on the same minor version: choose an image "
            f"with Python {python} ({proposal(python)}), or run this with Python {answer.detail}.",
            **place.details,
        )
    elif answer.kind == _wire.MISSING_MODULE:
        error = EnvironmentMismatchError(_lacking(answer, place), **place.details)
    elif answer.kind == _wire.CALL_UNPICKLING:
        error = CallUnpicklingError(
            f"{place} was not run: the function or its arguments cannot be unpickled there: "
            f"{_last_line(answer.text)}" + (f" (in your {own})" if own else ""),
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


def _lacking(answer: _wire.Answer, place: CallPlace) -> str:
    """The message for a module that the image does not have, or not as new as it should be."""
    name, _, least = answer.detail.partition(">=")
    if not name:  # a worker of an earlier version, which cannot say
        return f"{place} was not run ({place.image}): {_last_line(answer.text)}"
    if least:
        found = _last_line(answer.text).partition(": ")[2]
        return (
            f"{place} was not run: it needs {name} {least} or later, and {found} ({place.image}). "
            f"Choose another image, or install it with setup_cmd=\"pip install '{name}>={least}'\"."
        )
    return (
        f"{place} was not run: it needs the module {name!r}, which {place.image} does not have. "
        f"Choose an image that has it or install it with setup_cmd='pip install ...'. A module of "
        f"your own goes along if it is imported by name, and neither exclude nor code=False keep "
        f"it here; or else say include=[{name.partition('.')[0]!r}], or, if it has no file, "
        f"cloudpickle.register_pickle_by_value({name.partition('.')[0]})."
    )


def lost_outcome(cause: Verdict | Exception, place: CallPlace) -> Outcome:
    """The outcome of a task that ended without an answer."""
    if isinstance(cause, BrokenContainerPool):
        # A fresh one for each future: raising adds to an exception's traceback.
        broken = BrokenContainerPool(f"{place} was given up: {cause}")
        broken.__cause__ = cause.__cause__
        return Outcome(exception=broken)
    if isinstance(cause, ContainerHoursError):
        spent = ContainerHoursError(
            f"{place} was given up: {cause}", limit=cause.limit, used=cause.used, **place.details
        )
        return Outcome(exception=spent)
    if isinstance(cause, Exception):
        lost = CallLostError(f"{place} could not be sent: {brief(cause)}", **place.details)
        lost.__cause__ = cause
        return Outcome(exception=lost)
    if cause.timed_out:
        return Outcome(exception=_timed_out(cause, place))
    kind: type[CallLostError] = CallLostError
    remedy = ""
    if cause.memory:
        kind = WorkerMemoryError
        remedy = ". Ask for more with required_resources={'memory': ...}, or set memory_growth."
    elif cause.crashed:
        kind = WorkerCrashedError
    message = f"{place} was lost: {cause.reason}{remedy}{place.history}{_tail(cause.log_tail)}"
    return Outcome(
        exception=kind(
            message,
            state=None if cause.run is None else (cause.run.said or cause.run.state),
            exit_code=cause.exit_code,
            log_tail=cause.log_tail,
            **place.details,
        )
    )


def unmet_outcome(needed: ContainerFuture[Any], place: CallPlace) -> Outcome:
    """The outcome of a task that needs another one, which has ended in another way."""
    error: BaseException | None
    if needed.cancelled():
        error = CancelledError(f"{needed.task} was cancelled")
    else:
        error = needed.exception()  # it is being settled, if it is not yet
    root: Any = needed
    said = f"it needs {needed.task}, which {_how(error)}"
    if isinstance(error, DependencyError) and error.root is not None:
        root, error = error.root, error.__cause__
        said = f"it needs {needed.task}, which was not run; in the end, {root.task} {_how(error)}"
    unmet = DependencyError(
        f"{place} was not run: {said}", dependency=needed, root=root, **place.details
    )
    unmet.__cause__ = error
    return Outcome(exception=unmet)


def _how(error: BaseException | None) -> str:
    """How a task has ended, in one line."""
    if error is None:
        return "has succeeded"
    if isinstance(error, CancelledError):
        return "was cancelled"
    first, _, _ = brief(error).partition("\n")  # all of it is the cause
    return f"failed: {first}"


def _timed_out(cause: Verdict, place: CallPlace) -> TaskTimeoutError:
    message = f"{place} was given up: {cause.reason}{place.history}{_tail(cause.log_tail)}"
    return TaskTimeoutError(message, log_tail=cause.log_tail, **place.details)


def _tail(lines: Sequence[str]) -> str:
    """The last lines of a log, as the end of a message."""
    if not lines:
        return ""
    return "\nThe last lines of its log:\n" + "\n".join(f"  {line}" for line in lines)


def _last_line(text: str) -> str:
    lines = text.strip().splitlines()
    return lines[-1].strip() if lines else "no reason given"


def outcome_from(
    cause: Answer | Verdict | Exception, fetched: bytes | None, place: CallPlace
) -> Callable[[], Outcome]:
    """How to find out what a future gets; `fetched` are the bytes of an answer in a File."""
    if not isinstance(cause, Answer):
        return lambda: lost_outcome(cause, place)

    def outcome() -> Outcome:
        data = fetched
        if data is None and cause.data is not None:
            data = cause.data.inline_data()
        return outcome_of(cause, data, place, PYTHON)

    return outcome


def settle(future: ContainerFuture[Any], make: Callable[[], Outcome]) -> None:
    """Claim the future, unless it was cancelled, and settle it; callbacks run in here."""
    try:
        outcome = make()
    except BaseException as error:  # nothing may keep a future from its end
        _log.exception("the outcome of %s cannot be set", future.task)
        outcome = Outcome(exception=error)
    if not future.set_running_or_notify_cancel():
        return
    if outcome.exception is not None:
        future.set_exception(outcome.exception)
    else:
        future.set_result(outcome.result)


def ask_user(
    future: ContainerFuture[Any],
    retry_on: Callable[[BaseException], bool] | None,
    make: Callable[[], Outcome],
) -> tuple[bool, str]:
    """Whether the user's `retry_on` wants another attempt, and what for."""
    try:
        errors = make().errors
        wanted = [error for error in errors if retry_on is not None and bool(retry_on(error))]
    except BaseException:  # of the user's own: then the call ends as it has ended
        _log.exception("retry_on of %s failed", future.task)
        return False, ""
    return bool(wanted), brief((wanted or errors)[0]) if errors else ""
