"""A call becomes bytes, and whatever ends it becomes an outcome: a result or an exception.

The only room on the client's side that pickles. Bytes are unpickled here after `Blob.check` has
compared them with their digest, and only those that came as answers of our own workers.
"""

from __future__ import annotations

import contextlib
import functools
import io
import pickle
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from types import FunctionType
from typing import Any

import cloudpickle

from . import _sources, _wire
from ._content import Content, ContentStore
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
from ._images import proposal
from ._shared import SharedData
from ._types import Attempt

PROTOCOL = 5
#: Bytes of JSON that name a buffer: its digest, size and File.
NAME_OF_BUFFER = 160
#: Buffers of so many bytes leave the pickle, to be uploaded once. Each costs a request to upload
#: and one per worker to find, which takes about as long as it takes to send 1 MB.
LEAST_BUFFER = 1_000_000
#: At most so many leave one pickle, lest a list of arrays costs the budget hundreds of requests.
MOST_BUFFERS = 16
#: The pickle of shared data (what is left of it without its buffers) travels with each call up to
#: this size, which spares a request to upload it, and one of each worker.
LARGEST_HEAD = 8_000


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


@dataclass(frozen=True, slots=True)
class Payload:
    """A pickle, and the buffers that it refers to."""

    data: bytes
    buffers: tuple[Content, ...] = ()

    @property
    def ready(self) -> bool:
        """Whether the buffers are all in their Files."""
        return all(content.ready for content in self.buffers)

    @property
    def blobs(self) -> tuple[_wire.Blob, ...]:
        """The buffers, once they are ready."""
        return tuple(content.blob for content in self.buffers)

    @property
    def extent(self) -> int:
        """So many bytes does a letter need to name the buffers."""
        return NAME_OF_BUFFER * len(self.buffers)


def call_payload(
    task: str,
    fn: Callable[..., Any],
    args: Sequence[Any],
    kwargs: Mapping[str, Any],
    contents: ContentStore,
) -> Payload:
    """A snapshot of a call.

    Raises:
        CallPicklingError: the function or an argument cannot be pickled.
    """
    return payload(task, (fn, tuple(args), dict(kwargs)), contents)


def chunk_payload(
    task: str,
    fn: Callable[..., Any],
    rows: Sequence[Sequence[Any]],
    first: int,
    contents: ContentStore,
) -> Payload:
    """A snapshot of one call per row of arguments, to be answered by the list of their results.

    `first` is the number of the first row, for who reads of a failure.
    """
    return payload(task, (fn, (first, [tuple(row) for row in rows])), contents)


def payload(what: str, value: Any, contents: ContentStore) -> Payload:
    """A snapshot of a value; `what` names it in an error."""
    buffers = _Buffers(contents)
    target = io.BytesIO()
    try:
        _Pickler(target, buffers).dump(value)
    except Exception as error:
        message = f"{what} cannot be sent: {brief(error)}"
        raise CallPicklingError(message, task=what) from error
    return Payload(target.getvalue(), tuple(buffers.out))


def shared(value: Any, contents: ContentStore) -> tuple[SharedData, tuple[Content, ...]]:
    """The handle of a value, and what must be uploaded for it."""
    made = payload(f"the {type(value).__qualname__} to share", value, contents)
    head, pieces = made.data, made.buffers
    if len(head) > LARGEST_HEAD:
        head, pieces = b"", (contents.keep(made.data), *made.buffers)
    return SharedData._of(contents.platform, head, pieces), pieces


class _Pickler(cloudpickle.Pickler):  # type: ignore[misc]
    """Cloudpickle's, with large buffers out of band, and handles as what they stand for.

    Code keeps the name of its file, and what it was made of is noted.
    """

    #: Of the class, since the pickler reads it when it is made.
    dispatch_table = _wire.with_file_names(cloudpickle.Pickler.dispatch_table)

    def __init__(self, target: io.BytesIO, buffers: _Buffers) -> None:
        super().__init__(target, PROTOCOL, buffers.take)
        self._buffers = buffers

    def reducer_override(self, value: Any) -> Any:
        """How to pickle this; asked for what has no way of its own in `pickle`."""
        if type(value) is not SharedData:
            reduced = super().reducer_override(value)
            if type(value) is FunctionType and reduced is not NotImplemented:  # it goes by value
                _sources.note(value)
            return reduced
        stand_ins = self._buffers.stand_ins(value)
        first: Any = value._head or stand_ins.pop(0)
        load: Any = pickle.loads
        return functools.partial(load, buffers=stand_ins) if stand_ins else load, (first,)


class _Buffers:
    """Decides which buffers leave a pickle, and keeps their order. (It must not know the pickler:
    in a cycle with it, all that was pickled would live on for a while.)
    """

    def __init__(self, contents: ContentStore) -> None:
        self.out: list[Content] = []
        self._contents = contents
        # By the id of an empty buffer that stands for it.
        self._stand_ins: dict[int, tuple[pickle.PickleBuffer, Content]] = {}

    def take(self, buffer: pickle.PickleBuffer) -> bool:
        """Whether the buffer stays in the pickle."""
        if id(buffer) in self._stand_ins:
            self.out.append(self._stand_ins[id(buffer)][1])
            return False
        if len(self.out) >= MOST_BUFFERS:
            return True
        try:
            view = buffer.raw()
        except BufferError:  # not contiguous
            return True
        with view:
            if view.nbytes < LEAST_BUFFER:
                return True
            self.out.append(self._contents.take(view))
        return False

    def stand_ins(self, handle: SharedData) -> list[pickle.PickleBuffer]:
        """For each piece of a handle, a buffer that `take` will know."""
        if handle.platform != self._contents.platform:
            raise ValueError(f"{handle!r} is not on {self._contents.platform}")
        made = [(pickle.PickleBuffer(b""), self._contents.adopt(x)) for x in handle._pieces]
        self._stand_ins.update((id(buffer), (buffer, content)) for buffer, content in made)
        return [buffer for buffer, _ in made]


def load_call(data: bytes, buffers: Sequence[bytes]) -> Callable[[], Any]:
    """The call that these bytes are, to be made here."""
    parts = pickle.loads(data, buffers=buffers)
    if len(parts) == 2:
        each, (_, rows) = parts
        return lambda: [each(*row) for row in rows]
    function, args, kwargs = parts
    return lambda: function(*args, **kwargs)


def outcome_of(answer: _wire.Answer, data: bytes | None, place: Place, python: str) -> Outcome:
    """The outcome that an answer tells; `data` are its checked bytes, `python` our version."""
    if answer.kind == _wire.RETURNED:
        return _returned(data, place)
    answer = _sources.with_sources(answer)
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
    return Outcome(exception=exception)


def _not_loaded(what: str, error: BaseException, place: Place) -> OutcomeUnpicklingError:
    message = f"the {what} of {place} cannot be unpickled here: {brief(error)}"
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
            f"with Python {python} ({proposal(python)}), or run this with Python {answer.detail}.",
            **place.details,
        )
    elif answer.kind == _wire.MISSING_MODULE:
        error = EnvironmentMismatchError(_lacking(answer, place), **place.details)
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


def _lacking(answer: _wire.Answer, place: Place) -> str:
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
        f"Choose an image that has it or install it with setup_cmd='pip install ...'; if it is a "
        f"module of your own, send it along: "
        f"cloudpickle.register_pickle_by_value({name.partition('.')[0]})."
    )


def lost_outcome(cause: Verdict | Exception, place: Place) -> Outcome:
    """The outcome of a task that ended without an answer."""
    if isinstance(cause, BrokenContainerPool):
        # A fresh one for each future: raising adds to an exception's traceback.
        broken = BrokenContainerPool(f"{place} was given up: {cause}")
        broken.__cause__ = cause.__cause__
        return Outcome(exception=broken)
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


def _timed_out(cause: Verdict, place: Place) -> TaskTimeoutError:
    message = f"{place} was given up: {cause.reason}{place.history}{_tail(cause.log_tail)}"
    return TaskTimeoutError(message, log_tail=cause.log_tail, **place.details)


def _tail(lines: Sequence[str]) -> str:
    """The last lines of a log, as the end of a message."""
    if not lines:
        return ""
    return "\nThe last lines of its log:\n" + "\n".join(f"  {line}" for line in lines)


def brief(error: BaseException) -> str:
    """What kind of exception it is, and what it says."""
    try:
        text = str(error)
    except BaseException:  # it may be anybody's class
        text = ""
    return f"{type(error).__name__}: {text}" if text else type(error).__name__


def _last_line(text: str) -> str:
    lines = text.strip().splitlines()
    return lines[-1].strip() if lines else "no reason given"
