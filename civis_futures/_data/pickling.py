"""A call becomes bytes, and large buffers beside them; what is shared by hand does, too.

The only room that pickles what goes out. What comes back is unpickled in `_pool.outcomes`.
"""

from __future__ import annotations

import copyreg
import functools
import io
import pickle
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from types import FunctionType
from typing import Any

import cloudpickle

from .. import _wire
from .._exceptions import CallPicklingError
from . import sources
from .bundles import CodeError
from .contents import Content, ContentStore, SharedData
from .own import Library, References

PROTOCOL = 5
#: Buffers of at least this many bytes leave the pickle, to be uploaded once. Each costs a request
#: to upload and one per worker to find, which takes about as long as it takes to send 1 MB.
LEAST_BUFFER = 1_000_000
#: The most buffers that leave one pickle, lest a list of arrays costs hundreds of requests.
MOST_BUFFERS = 16
#: The pickle of shared data (what is left of it without its buffers) travels with each call up to
#: this size, which spares a request to upload it, and one of each worker.
LARGEST_HEAD = 8_000
#: Characters of what another error says, in the message of one of ours.
REASON = 2_000


@dataclass(frozen=True, slots=True)
class Payload:
    """A pickle, and the buffers that it refers to; `modules` are those that it names, whosever they
    are. The last `code` of the buffers are bundles with the user's modules, see `with_modules`.
    """

    data: bytes
    buffers: tuple[Content, ...] = ()
    modules: frozenset[str] = frozenset()
    code: int = 0

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
        return _wire.BUFFER_NAME * len(self.buffers)


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
        pickler = _Pickler(target, buffers)
        pickler.dump(value)
    except Exception as error:
        message = f"{what} cannot be sent: {brief(error)}"
        raise CallPicklingError(message, task=what) from error
    return Payload(target.getvalue(), tuple(buffers.out), frozenset(pickler.references.modules))


def with_modules(what: str, made: Payload, library: Library) -> Payload:
    """The same with bundles of the user's modules that it needs.

    Raises:
        CallPicklingError: these cannot be sent.
    """
    try:
        bundles = library.bundles(made.modules)
    except Exception as error:
        reason = str(error) if isinstance(error, CodeError) else brief(error)
        raise CallPicklingError(f"{what} cannot be sent: {reason}", task=what) from error
    return replace(made, buffers=(*made.buffers, *bundles), code=len(bundles))


def shared(value: Any, contents: ContentStore) -> tuple[SharedData, tuple[Content, ...]]:
    """The handle of a value, and what must be uploaded for it."""
    made = payload(f"the {type(value).__qualname__} to share", value, contents)
    head, pieces = made.data, made.buffers
    if len(head) > LARGEST_HEAD:
        head, pieces = b"", (contents.keep(made.data), *made.buffers)
    return SharedData._of(contents.platform, head, pieces, made.modules), pieces


class _Pickler(cloudpickle.Pickler):  # type: ignore[misc]
    """Cloudpickle's, with large buffers out of band, and handles as what they stand for.

    Code keeps the name of its file, and what it was made of is noted.
    """

    #: Of the class, since the pickler reads it when it is made.
    dispatch_table = _wire.with_file_names(cloudpickle.Pickler.dispatch_table)

    def __init__(self, target: io.BytesIO, buffers: _Buffers) -> None:
        super().__init__(target, PROTOCOL, buffers.take)
        self._buffers = buffers
        self.references = References(cloudpickle.list_registry_pickle_by_value())

    def reducer_override(self, value: Any) -> Any:
        """How to pickle this; asked for what has no way of its own in `pickle`."""
        if type(value) is _Bytes:
            return bytes, (pickle.PickleBuffer(value.data),)
        if type(value) is not SharedData:
            array = _as_buffer(value)
            if array is not None:
                return array
            reduced = super().reducer_override(value)
            self.references.meet(value, reduced is not NotImplemented)
            if type(value) is FunctionType and reduced is not NotImplemented:  # it goes by value
                sources.note(value)
            return reduced
        stand_ins = self._buffers.stand_ins(value)
        self.references.modules.update(value._modules)
        first: Any = value._head or stand_ins.pop(0)
        load: Any = pickle.loads
        return functools.partial(load, buffers=stand_ins) if stand_ins else load, (first,)


def _as_buffer(value: Any) -> tuple[Any, ...] | None:
    """How to pickle a large array of NumPy so that its bytes can leave the pickle, if its own way
    would keep them there: strided views, dates, memory-mapped files.

    As with NumPy's own pickles, what is not contiguous becomes so, in C order. NumPy is not
    imported for this: who has an array has done so.
    """
    numpy = sys.modules.get("numpy")
    array = getattr(numpy, "ndarray", None)
    if numpy is None or array is None or not isinstance(value, array):
        return None
    if value.nbytes < LEAST_BUFFER or value.dtype.hasobject:
        return None
    if type(value) not in (array, numpy.memmap):
        return _bytes_apart(value)
    order = "F" if value.flags.f_contiguous and not value.flags.c_contiguous else "C"
    whole = numpy.asarray(value, order=order).view(numpy.ndarray)
    data = whole.reshape(-1, order=order).view(numpy.uint8)  # no copy: it is contiguous
    shape, dtype = value.shape, value.dtype
    return numpy.ndarray, (shape, dtype, pickle.PickleBuffer(data), 0, None, order)


class _Bytes:
    """Many bytes of a pickle that can leave it; there they are bytes again."""

    def __init__(self, data: bytes) -> None:
        self.data = data


def _bytes_apart(value: Any) -> tuple[Any, ...] | None:
    """How a subclass of NumPy's array wants to be pickled, with its bytes apart."""
    if type(value) in copyreg.dispatch_table:
        return None
    reduced = value.__reduce_ex__(PROTOCOL)

    def apart(part: Any) -> Any:
        if type(part) is bytes and len(part) >= LEAST_BUFFER:
            return _Bytes(part)
        return tuple(map(apart, part)) if type(part) is tuple else part

    return apart(reduced) if type(reduced) is tuple else None


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
        return lambda: [_wire.finished(each(*row)) for row in rows]
    function, args, kwargs = parts
    return lambda: _wire.finished(function(*args, **kwargs))


def brief(error: BaseException) -> str:
    """What kind of exception it is, and what it says."""
    try:
        text = str(error)
    except BaseException:  # it may be anybody's class
        text = ""
    name = _wire.clipped(type(error).__name__, _wire.LINE_LIMIT)
    return f"{name}: {_wire.clipped(text, REASON)}" if text else name
