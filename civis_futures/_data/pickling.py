"""A call becomes bytes, and large buffers beside them; what is shared by hand does, too.

The only module that pickles what goes out. What comes back is unpickled in `unpickling`.
"""

from __future__ import annotations

import contextlib
import copyreg
import io
import pickle
import sys
import weakref
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from types import CodeType, FunctionType, MappingProxyType, MethodType
from typing import Any

import cloudpickle

from .. import _wire
from .._exceptions import CallPicklingError
from .._pickles.by_value import reduction, variables_of
from .._pickles.code import with_file_names
from .._pickles.unpicklable import of_batch, of_call, way_to
from . import sources
from .bundles import CodeError
from .contents import Content, ContentStore, SharedData
from .own import OwnModules, References

PROTOCOL = 5
#: Buffers of at least this many bytes leave the pickle, to be uploaded once. Each costs a request
#: to upload and one per worker to find, which takes about as long as it takes to send 1 MB.
LEAST_BUFFER = 1_000_000
#: Arrays of at least this many bytes do so when a second call has them: such a call would take a
#: File of its own, as it is larger than what travels inline (`_wire.INLINE_LIMIT`).
LEAST_REPEATED = 50_000
#: The most buffers that leave one pickle, lest a list of arrays costs hundreds of requests.
MOST_BUFFERS = 16
#: The pickle of shared data (what is left of it without its buffers) travels with each call up to
#: this size, which spares a request to upload it, and one of each worker.
LARGEST_HEAD = 8_000
#: A function whose pickle is larger than this is uploaded once, and not with each call.
LARGE_FUNCTION = _wire.INLINE_LIMIT // 2
#: Characters of a call that has succeeded, which its future keeps: as much as it takes itself.
MOST_KEPT = 4_000
_FUNCTIONS = FunctionType, MethodType, partial
#: What a call consists of, by names for people; the function comes first.
Parts = Callable[[], Iterator[tuple[str, Any]]]
#: Functions that were so large when they were last sent.
_large: weakref.WeakSet[FunctionType] = weakref.WeakSet()
#: How the state of a generator of random numbers is read; by the names of their types, as nobody is
#: to import NumPy for it.
_STATES: dict[str, Callable[[Any], Any]] = {
    "random.Random": lambda value: value.getstate(),
    "numpy.random._generator.Generator": lambda value: value.bit_generator.state,
    "numpy.random.mtrand.RandomState": lambda value: value.get_state(legacy=False),
}
_GENERATORS = {name.rpartition(".")[2] for name in _STATES}
#: Functions that pickles by value name, which every worker has.
_ITS_OWN = {each for each in vars(cloudpickle.cloudpickle).values() if type(each) is FunctionType}
#: Of these types equal values may be one object by chance.
_PLAIN = (int, float, complex, str, bytes, bool, tuple, type(None))
#: Characters of what another error says, in the message of one of ours.
REASON = 2_000


@dataclass(frozen=True, slots=True)
class Carried:
    """A generator of random numbers in a call: what it is, and a digest of its state."""

    kind: str
    state: str

    @classmethod
    def of(cls, value: Any) -> Carried | None:
        """The state of a generator; None if it is none, or has none."""
        kind = f"{type(value).__module__}.{type(value).__name__}"
        read = _STATES.get(kind)
        with contextlib.suppress(Exception):  # a bit generator of somebody's own
            return read and cls(kind, _wire.digest(pickle.dumps(read(value))))
        return None


@dataclass(frozen=True, slots=True)
class Payload:
    """A pickle, and the buffers that it refers to; `modules` are those that it names, whosever they
    are. The last `code` of the buffers are bundles with the user's modules, see `with_modules`.
    `carried` are the generators of random numbers in it, and `parts` what it consists of
    if there are any.
    """

    data: bytes
    buffers: tuple[Content, ...] = ()
    modules: frozenset[str] = frozenset()
    code: int = 0
    carried: tuple[Carried, ...] = ()
    parts: Parts | None = None

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
        """How many bytes a letter needs to name the buffers."""
        return _wire.BUFFER_NAME * len(self.buffers)


@dataclass(slots=True)
class SentCall:
    """A call on its way, and what is kept of it for who runs it again: it has neither `blob` nor
    `data` if that was too large. The pool's own thread alone changes it.

    `blob` is what containers are told, or `data` what is still to be uploaded for that. `retry_on`
    is the user's word on which exceptions are a reason to try again.
    """

    blob: _wire.Blob | None
    data: bytes | None
    buffers: tuple[Content, ...] = ()
    code: int = 0  # so many of these, the last ones, are modules
    key: str = ""
    timeout: float | None = None
    retry_on: Callable[[BaseException], bool] | None = None

    @property
    def kept(self) -> bool:
        """Whether it can be sent again."""
        return self.blob is not None or self.data is not None

    def shrink(self) -> None:
        """It has succeeded, and is seldom run again: it is kept if it costs little."""
        inline = "" if self.blob is None else self.blob.inline or ""
        if len(inline) > MOST_KEPT or self.data is not None:
            self.blob = self.data = None
            self.buffers = ()


def call_payload(
    task: str,
    fn: Callable[..., Any],
    args: Sequence[Any],
    kwargs: Mapping[str, Any],
    contents: ContentStore,
    shared_from: float = 0,
) -> Payload:
    """A snapshot of a call. Arrays of fewer bytes than `shared_from` can be written in the task.

    Raises:
        CallPicklingError: the function or an argument cannot be pickled.
    """
    parts = partial(of_call, fn, args, kwargs)
    return payload(task, (fn, tuple(args), dict(kwargs)), contents, parts, Manner(shared_from))


def initial_payload(
    fn: Callable[..., Any], args: Sequence[Any], contents: ContentStore, shared_from: float = 0
) -> Payload:
    """A snapshot of an initializer.

    The script may know its arguments by a name as well: a dict, an instance whose method
    it is. So it is in the container, where the functions of the script look for it by that name.

    Raises:
        CallPicklingError: the function or an argument cannot be pickled.
    """
    given = [*args]
    inner: Any = fn
    while isinstance(inner, partial):
        given += [*inner.args, *inner.keywords.values()]
        inner = inner.func
    given.append(getattr(inner, "__self__", None))
    manner = Manner(shared_from, {id(each) for each in given if type(each) not in _PLAIN})
    parts = partial(of_call, fn, args, {})
    return payload("the initializer", (fn, tuple(args), {}), contents, parts, manner)


def chunk_payload(
    task: str,
    fn: Callable[..., Any],
    rows: Sequence[Sequence[Any]],
    first: int,
    contents: ContentStore,
    shared_from: float = 0,
    catch: bool = False,
    seed: int | None = None,
) -> Payload:
    """A snapshot of one call per row of arguments, to be answered by the list of their results.

    `first` is the number of the first row, for who reads of a failure. With `catch`, what a row
    raises is its outcome; with a `seed`, each has a generator of its own: see `_pickles.rows`.
    """
    parts = partial(of_batch, fn, rows)
    generators = None
    if seed is not None:
        generators = [SeededGenerator(seed, item) for item in range(first, first + len(rows))]
    # Workers of earlier versions know neither, and are not told if it is not asked for.
    how = [(catch, generators)] if catch or generators else []
    value = fn, (first, [tuple(row) for row in rows], *how)
    return payload(task, value, contents, parts, Manner(shared_from))


@dataclass(frozen=True, slots=True)
class Manner:
    """How a pickle differs from others.

    Arrays of fewer bytes than `shared_from` can be written where they arrive. Global variables go
    along that have an object whose id is in `named`.
    """

    shared_from: float = 0
    named: Collection[int] = ()


def payload(
    what: str,
    value: Any,
    contents: ContentStore,
    parts: Parts,
    manner: Manner,
) -> Payload:
    """A snapshot of a value; `what` names it in an error, and `parts` are what it consists of."""
    try:
        apart, carried = {}, set[Carried]()
        if _large:
            known = (each for _, each in parts() if type(each) is FunctionType and each in _large)
            apart = _apart(known, contents, manner, carried)
        made = _pickled(value, contents, manner, apart)
        if len(made.data) > _wire.INLINE_LIMIT:
            large = _apart(_callables(parts()), contents, manner, carried)
            made = _pickled(value, contents, manner, large) if large else made
    except Exception as error:
        raise _explained(error, what, parts, contents) from error
    carried.update(made.carried)
    return replace(made, carried=tuple(carried), parts=parts) if carried else made


def way_to_carried(carried: Carried, made: Payload, contents: ContentStore) -> str:
    """Where in a call a generator of random numbers is."""

    def is_elsewhere(value: Any) -> bool:
        with contextlib.suppress(Exception):
            return carried not in _pickled(value, contents, Manner()).carried
        return True

    return way_to(made.parts(), is_elsewhere) if made.parts is not None else ""


def _explained(
    error: Exception, what: str, parts: Parts, contents: ContentStore
) -> CallPicklingError:
    """The error that says what another one is about."""
    message = f"{what} cannot be sent: {brief(error)}"
    if way := way_to(parts(), partial(_pickles, contents)):
        message += f": {way}"
    return CallPicklingError(message, task=what)


def _callables(parts: Iterable[tuple[str, Any]]) -> Iterator[Any]:
    """What is called, and functions among its arguments: joblib's are there."""
    for number, (_, value) in enumerate(parts):
        if number == 0 or isinstance(value, _FUNCTIONS):
            yield value


def _pickled(
    value: Any,
    contents: ContentStore,
    manner: Manner,
    apart: Mapping[int, SharedData] = MappingProxyType({}),
) -> Payload:
    """The pickle of a value, with handles in place of the objects with these ids."""
    target, buffers = io.BytesIO(), _Buffers(contents, manner)
    pickler = _Pickler(target, buffers, manner, apart)
    pickler.dump(value)
    modules = frozenset(pickler.references.modules)
    return Payload(target.getvalue(), tuple(buffers.out), modules, 0, tuple(pickler.carried))


def with_modules(what: str, made: Payload, own_modules: OwnModules) -> Payload:
    """The same with bundles of the user's modules that it needs.

    Raises:
        CallPicklingError: these cannot be sent.
    """
    try:
        bundles = own_modules.bundles(made.modules)
    except Exception as error:
        reason = str(error) if isinstance(error, CodeError) else brief(error)
        raise CallPicklingError(f"{what} cannot be sent: {reason}", task=what) from error
    if not bundles:  # of most calls
        return made
    buffers = (*made.buffers, *bundles) if made.buffers else bundles
    return Payload(made.data, buffers, made.modules, len(bundles))


def _pickles(contents: ContentStore, value: Any) -> bool:
    try:
        _pickled(value, contents, Manner())
    except Exception:
        return False
    return True


def _apart(
    functions: Iterable[Any], contents: ContentStore, manner: Manner, carried: set[Carried]
) -> dict[int, SharedData]:
    """Handles of those functions that are large, by what they refer to or are bound to: each of
    their calls has that in common, and would have to be uploaded.
    """
    handles = {}
    for function in {id(each): each for each in functions}.values():
        made = _pickled(function, contents, manner)
        if len(made.data) > LARGE_FUNCTION:
            pieces = contents.keep(made.data), *made.buffers
            carried.update(made.carried)
            handles[id(function)] = SharedData._of(contents.platform, b"", pieces, made.modules)
            if type(function) is FunctionType:
                _large.add(function)
    return handles


def shared(value: Any, contents: ContentStore) -> tuple[SharedData, tuple[Content, ...]]:
    """The handle of a value, and what must be uploaded for it."""
    kind = type(value).__qualname__
    try:
        made = _pickled(value, contents, Manner())
    except Exception as error:
        parts = partial(iter, [(kind, value)])
        raise _explained(error, f"the {kind} to share", parts, contents) from error
    head, pieces = made.data, made.buffers
    if len(head) > LARGEST_HEAD:
        head, pieces = b"", (contents.keep(made.data), *made.buffers)
    return SharedData._of(contents.platform, head, pieces, made.modules), pieces


class _Pickler(cloudpickle.Pickler):  # type: ignore[misc]
    """Cloudpickle's, with large buffers out of band, and handles as what they stand for.

    Code keeps the name of its file, and what it was made of is noted.
    """

    #: Of the class, since the pickler reads it when it is made.
    dispatch_table = with_file_names(cloudpickle.Pickler.dispatch_table)

    def __init__(
        self,
        target: io.BytesIO,
        buffers: _Buffers,
        manner: Manner,
        apart: Mapping[int, SharedData],
    ) -> None:
        super().__init__(target, PROTOCOL, buffers.take)
        self._buffers, self._apart = buffers, apart
        self._shared_from, self._named = manner.shared_from, manner.named
        self._cells: dict[int, Any] = {}
        self.carried: list[Carried] = []
        self.references = References(cloudpickle.list_registry_pickle_by_value())

    def reducer_override(self, value: Any) -> Any:
        """How to pickle this; asked for what has no way of its own in `pickle`."""
        kind = type(value)
        if kind is CodeType or (kind is FunctionType and value in _ITS_OWN):
            return NotImplemented
        value = self._apart.get(id(value), value)
        if type(value) is _Bytes:
            return bytes, (pickle.PickleBuffer(value.data),)
        if type(value) is not SharedData:
            array = _as_buffer(value, self._shared_from, self._buffers.of_array)
            if array is not None:
                return array
            if type(value).__name__ in _GENERATORS and (found := Carried.of(value)) is not None:
                self.carried.append(found)
            reduced = reduction(value, super().reducer_override, self._cells)
            self.references.meet(value, reduced is not NotImplemented)
            if type(value) is FunctionType and reduced is not NotImplemented:  # it goes by value
                sources.note(value)
            return self._with_named(value, reduced) if self._named else reduced
        stand_ins = self._buffers.stand_ins(value)
        self.references.modules.update(value._modules)
        first: Any = value._head or stand_ins.pop(0)
        load: Any = pickle.loads
        return partial(load, buffers=stand_ins) if stand_ins else load, (first,)

    def _with_named(self, value: Any, how: Any) -> Any:
        """How to pickle a function or class, with more global variables of its module."""
        if isinstance(how, tuple) and len(how) == 6 and "__globals__" in how[2][1]:
            variables = variables_of(value)
            more = {name: each for name, each in variables.items() if id(each) in self._named}
            how[2][1]["__globals__"].update(more)
        return how


class SeededGenerator:
    """Stands in a call for the generator of random numbers of this item of a map: NumPy's default
    one, made where it arrives. Items have independent streams, by `SeedSequence`.
    """

    def __init__(self, seed: int, item: int) -> None:
        self._seed, self._item = seed, item

    def __reduce__(self) -> tuple[Any, ...]:
        from numpy.random import SeedSequence, default_rng

        seeds = partial(SeedSequence, spawn_key=(self._item,))
        return default_rng, (_Reduced((seeds, (self._seed,))),)


class _Reduced:
    """Stands for something in a pickle that is made in this way."""

    def __init__(self, how: tuple[Any, ...]) -> None:
        self._how = how

    def __reduce__(self) -> tuple[Any, ...]:
        return self._how


def _as_buffer(
    value: Any, shared_from: float, buffer_of: Callable[[Any], pickle.PickleBuffer]
) -> tuple[Any, ...] | None:
    """How to pickle a large array of NumPy so that its bytes can leave the pickle, if its own way
    would keep them there: strided views, dates, memory-mapped files. One of fewer bytes than
    `shared_from` is copied when it has arrived, so that it can be written.

    As with NumPy's own pickles, what is not contiguous becomes so, in C order. NumPy is not
    imported for this: users who have an array have done so.
    """
    numpy = sys.modules.get("numpy")
    array = getattr(numpy, "ndarray", None)
    if numpy is None or array is None or not isinstance(value, array):
        return None
    if value.nbytes < LEAST_REPEATED or value.dtype.hasobject:
        return None
    if type(value) not in (array, numpy.memmap):
        return _bytes_apart(value)
    order = "F" if value.flags.f_contiguous and not value.flags.c_contiguous else "C"
    whole = numpy.asarray(value, order=order).view(numpy.ndarray)
    data = whole.reshape(-1, order=order).view(numpy.uint8)  # no copy: it is contiguous
    shape, dtype = value.shape, value.dtype
    how = numpy.ndarray, (shape, dtype, buffer_of(data), 0, None, order)
    shared = value.nbytes >= max(shared_from, LEAST_BUFFER)
    return how if shared else (numpy.array, (_Reduced(how),))


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

    def __init__(self, contents: ContentStore, call: object) -> None:
        self.out: list[Content] = []
        self._contents = contents
        self._call = call  # stands for the call: it may be pickled several times
        self._of_arrays: dict[int, pickle.PickleBuffer] = {}  # by id
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
            if view.nbytes < LEAST_BUFFER and not self._is_repeated(buffer, view):
                return True
            self.out.append(self._contents.take(view))
        return False

    def of_array(self, data: Any) -> pickle.PickleBuffer:
        """The buffer of an array that is copied where it arrives, unless it is large: only such a
        one may leave the pickle without becoming read-only there.
        """
        buffer = pickle.PickleBuffer(data)
        self._of_arrays[id(buffer)] = buffer
        return buffer

    def _is_repeated(self, buffer: pickle.PickleBuffer, view: memoryview) -> bool:
        """Whether another call has had the same array before."""
        if view.nbytes < LEAST_REPEATED or id(buffer) not in self._of_arrays:
            return False
        return self._contents.is_repeated(view, self._call)

    def stand_ins(self, handle: SharedData) -> list[pickle.PickleBuffer]:
        """For each piece of a handle, a buffer that `take` will know."""
        if handle.platform != self._contents.platform:
            raise ValueError(f"{handle!r} is not on {self._contents.platform}")
        made = [(pickle.PickleBuffer(b""), self._contents.adopt(x)) for x in handle._pieces]
        self._stand_ins.update((id(buffer), (buffer, content)) for buffer, content in made)
        return [buffer for buffer, _ in made]


def brief(error: BaseException) -> str:
    """What kind of exception it is, and what it says."""
    try:
        text = str(error)
    except BaseException:  # it may be anybody's class
        text = ""
    name = _wire.clipped(type(error).__name__, _wire.LINE_LIMIT)
    return f"{name}: {_wire.clipped(text, REASON)}" if text else name
