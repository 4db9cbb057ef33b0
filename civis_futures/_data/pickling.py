"""A call becomes bytes, and large buffers beside them; what is shared by hand does, too.

The only module that pickles what goes out. What comes back is unpickled in `unpickling`.
"""

from __future__ import annotations

import contextlib
import copyreg
import io
import math
import operator
import pickle
import sys
import weakref
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field, replace
from functools import partial
from types import CodeType, FunctionType, MappingProxyType, MethodType
from typing import Any, NamedTuple

import cloudpickle

from .. import _wire
from .._exceptions import CallPicklingError
from .._files.contents import Content, ContentStore, SentCall, SharedData, Value, contents_in
from .._pickles.by_value import Reduced, reduction, variables_of
from .._pickles.code import with_file_names
from .._pickles.unpicklable import of_batch, of_call, way_to
from . import sources
from .alike import PLAIN, is_alike, is_plain
from .bundles import CodeError
from .generators import GENERATORS, Carried, SeededGenerator
from .own import OwnModules, References
from .plain import plain_call

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
_FUNCTIONS = FunctionType, MethodType, partial
#: What a call consists of, by names for people; the function comes first.
Parts = Callable[[], Iterator[tuple[str, Any]]]
#: What stands for the result of a future of this pool, or None if it is to be asked for that;
#: raises TypeError for other futures.
Upstream = Callable[[Future[Any]], Value | None]
#: Functions that were so large when they were last sent.
_large: weakref.WeakSet[FunctionType] = weakref.WeakSet()
#: Functions that pickles by value name, which every worker has.
_ITS_OWN = {each for each in vars(cloudpickle.cloudpickle).values() if type(each) is FunctionType}


class Payload(NamedTuple):
    """A pickle, and the buffers that it refers to; `modules` are those that it names, whosever they
    are. The last `code` of the buffers are bundles with the user's modules, see `with_modules`.
    `carried` are the generators of random numbers in it, and `parts` what it consists of
    if there are any. Of `futures` it has the results, those of the buffers that are a `Value`.
    """

    data: bytes
    buffers: tuple[Content | Value, ...] = ()
    modules: frozenset[str] = frozenset()
    code: int = 0
    carried: tuple[Carried, ...] = ()
    parts: Parts | None = None
    futures: tuple[Future[Any], ...] = ()

    @property
    def contents(self) -> tuple[Content, ...]:
        """The buffers that are known already."""
        return contents_in(self.buffers)

    @property
    def ready(self) -> bool:
        """Whether the buffers are all in their Files."""
        return all(content.ready for content in self.buffers)

    @property
    def blobs(self) -> tuple[_wire.Blob, ...]:
        """The buffers, once they are ready."""
        return tuple(content.blob for content in self.contents)

    @property
    def extent(self) -> int:
        """How many bytes a letter needs to name the buffers."""
        return _wire.BUFFER_NAME * len(self.buffers)


def fill_in(sent: SentCall, most: float = float("inf")) -> None:
    """All that a call needs has ended: results that are in no File become a part of its pickle,
    which travels inline if it has no more than `most` bytes.
    """
    if not sent.needs:
        return
    sent.needs = ()
    if sent.data is None or not sent.values:
        return
    given = [each.inline if isinstance(each, Value) else None for each in sent.buffers]
    if any(given):
        inner = [None if blob is None else blob.inline_data() for blob in given]
        sent.data = _with_buffers(sent.data, inner[: len(inner) - sent.code])
        pairs = zip(sent.buffers, given, strict=True)
        sent.buffers = tuple(each for each, blob in pairs if blob is None)
    if len(sent.data) <= most:
        sent.blob, sent.data = _wire.Blob.of(sent.data), None


def _with_buffers(data: bytes, buffers: Sequence[bytes | None]) -> bytes:
    """A pickle of the same without these of its buffers; None stays out of it."""
    load: Any = pickle.loads
    given = [pickle.PickleBuffer(b"") if each is None else each for each in buffers]
    made = Reduced((partial(load, buffers=given), (data,)))
    return pickle.dumps(made, PROTOCOL, buffer_callback=lambda _: False)


def call_payload(
    task: str,
    fn: Callable[..., Any],
    args: Sequence[Any],
    kwargs: Mapping[str, Any],
    contents: ContentStore,
    shared_from: float = 0,
    upstream: Upstream | None = None,
) -> Payload:
    """A snapshot of a call. Arrays of fewer bytes than `shared_from` can be written in the task.

    Raises:
        CallPicklingError: the function or an argument cannot be pickled.
    """
    if (plain := plain_call(fn, args, kwargs, PROTOCOL, _wire.INLINE_LIMIT)) is not None:
        return Payload(plain[0], modules=frozenset({plain[1]}))
    parts = partial(of_call, fn, args, kwargs)
    manner = Manner(shared_from, upstream=upstream)
    return payload(task, (fn, tuple(args), dict(kwargs)), contents, parts, manner)


def initial_payload(
    fn: Callable[..., Any], args: Sequence[Any], contents: ContentStore, shared_from: float = 0
) -> Payload:
    """A snapshot of an initializer.

    The script may know its arguments by a name as well: a dict, an instance that is called, or
    whose method is. So it is in the container, where its functions look for it by that name.

    Raises:
        CallPicklingError: the function or an argument cannot be pickled.
    """
    given = [*args]
    inner: Any = fn
    while isinstance(inner, partial):
        given += [*inner.args, *inner.keywords.values()]
        inner = inner.func
    given += [inner, getattr(inner, "__self__", None)]
    manner = Manner(shared_from, {id(each) for each in given if type(each) not in PLAIN})
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
    upstream: Upstream | None = None,
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
    return payload(task, value, contents, parts, Manner(shared_from, upstream=upstream))


@dataclass(frozen=True, slots=True)
class Manner:
    """How a pickle differs from others.

    Arrays of fewer bytes than `shared_from` can be written where they arrive. Global variables go
    along that have an object whose id is in `named`. Without `upstream`, no future can be in it.
    Arrays of objects that take at least `apart_from` bytes here, without the objects, are looked
    at: they are content if they are large.
    """

    shared_from: float = 0
    named: Collection[int] = ()
    apart_from: float = LEAST_BUFFER
    upstream: Upstream | None = None
    call: object = field(default_factory=object)  # stands for the call, in all its pickles


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
        raise _explained(error, what, parts, contents, manner) from error
    carried.update(made.carried)
    return made._replace(carried=tuple(carried), parts=parts) if carried else made


def way_to_carried(
    carried: Carried, made: Payload, contents: ContentStore, upstream: Upstream
) -> str:
    """Where in a call a generator of random numbers is."""
    manner = Manner(upstream=upstream)

    def is_elsewhere(value: Any) -> bool:
        with contextlib.suppress(Exception):
            return carried not in _pickled(value, contents, manner).carried
        return True

    return way_to(made.parts(), is_elsewhere) if made.parts is not None else ""


def _explained(
    error: Exception, what: str, parts: Parts, contents: ContentStore, manner: Manner
) -> CallPicklingError:
    """The error that says what another one is about."""
    message = f"{what} cannot be sent: {brief(error)}"
    if way := way_to(parts(), partial(_pickles, contents, manner)):
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
    pickler = _pickler_of(value, contents, manner, apart)
    if pickler.passed_over and len(pickler.data) > LEAST_BUFFER:  # few objects, but large ones
        pickler = _pickler_of(value, contents, replace(manner, apart_from=0), apart)
    if pickler.parts_have_something_in_common():
        pickler = _pickler_of(value, contents, replace(manner, apart_from=math.inf), apart)
    return pickler.payload()


def _pickler_of(value: Any, *given: Any) -> _Pickler:
    """A pickler that has pickled a value."""
    pickler = _Pickler(*given)
    pickler.dump(value)
    return pickler


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
    return made._replace(buffers=buffers, code=len(bundles))


def _pickles(contents: ContentStore, manner: Manner, value: Any) -> bool:
    try:
        _pickled(value, contents, manner)
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
        if len(made.data) > LARGE_FUNCTION and not made.futures:
            carried.update(made.carried)
            handles[id(function)] = _handle(made, contents)
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
        raise _explained(error, f"the {kind} to share", parts, contents, Manner()) from error
    handle = _handle(made, contents, LARGEST_HEAD)
    return handle, handle._pieces


def _handle(made: Payload, contents: ContentStore, largest_head: int = 0) -> SharedData:
    """The handle of what was pickled by itself."""
    head, pieces = made.data, made.contents
    if len(head) > largest_head:
        head, pieces = b"", (contents.keep(made.data), *made.contents)
    return SharedData._of(contents.platform, head, pieces, made.modules)


class _Pickler(cloudpickle.Pickler):  # type: ignore[misc]
    """Cloudpickle's, with large buffers out of band, and handles as what they stand for.

    Code keeps the name of its file, and what it was made of is noted.
    """

    #: Of the class, since the pickler reads it when it is made.
    dispatch_table = with_file_names(cloudpickle.Pickler.dispatch_table)

    def __init__(
        self, contents: ContentStore, manner: Manner, apart: Mapping[int, SharedData]
    ) -> None:
        self._target, self._buffers = io.BytesIO(), _Buffers(contents, manner.call)
        super().__init__(self._target, PROTOCOL, self._buffers.take)
        self._contents, self._manner, self._apart = contents, manner, apart
        self.futures: list[Future[Any]] = []
        self._cells: dict[int, Any] = {}
        self._carried: list[Carried] = []
        self._references = References(cloudpickle.list_registry_pickle_by_value())
        # Arrays of objects that are content, if their objects may be elsewhere in the call, too.
        self._mixed: list[tuple[Any, _Pickler]] = []
        self.passed_over = False  # arrays of objects, as too small to look at

    @property
    def data(self) -> memoryview:
        """The pickle."""
        return self._target.getbuffer()

    def payload(self) -> Payload:
        """The pickle, and what it refers to."""
        modules = frozenset(self._references.modules)
        out = tuple(self._buffers.out)
        return Payload(
            self._target.getvalue(), out, modules, 0, tuple(self._carried),
            futures=tuple(self.futures),
        )  # fmt: skip

    def reducer_override(self, value: Any) -> Any:
        """How to pickle this; asked for what has no way of its own in `pickle`."""
        kind = type(value)
        if kind is CodeType or (kind is FunctionType and value in _ITS_OWN):
            return NotImplemented
        value = self._apart.get(id(value), value)
        if type(value) is _Bytes:
            return bytes, (pickle.PickleBuffer(value.data),)
        if _is_array(value):
            if not value.dtype.hasobject:
                array = _as_buffer(value, self._manner.shared_from, self._buffers.of_array)
                if array is not None:
                    return array
            elif (handle := self._in_a_pickle_of_its_own(value)) is not None:
                value = handle
        elif kind is memoryview and value.nbytes >= LEAST_BUFFER:
            return bytes, (_Bytes(value.tobytes()),)
        elif kind is _kind("array", "array"):
            return _bytes_apart(value)
        elif isinstance(value, Future):
            return self._result_of(value)
        if type(value) is not SharedData:
            if type(value).__name__ in GENERATORS and (found := Carried.of(value)) is not None:
                self._carried.append(found)
            reduced = reduction(value, super().reducer_override, self._cells)
            self._references.meet(value, reduced is not NotImplemented)
            if type(value) is FunctionType and reduced is not NotImplemented:  # it goes by value
                sources.note(value)
            return self._with_named(value, reduced) if self._manner.named else reduced
        stand_ins = self._buffers.stand_ins(value)
        self._references.modules.update(value._modules)
        first: Any = value._head or stand_ins.pop(0)
        load: Any = pickle.loads
        return partial(load, buffers=stand_ins) if stand_ins else load, (first,)

    def _result_of(self, future: Future[Any]) -> Any:
        """How to pickle a future: as the result that it has, or will have."""
        upstream = self._manner.upstream
        if upstream is None:
            raise TypeError(f"{future!r} cannot be part of this: pass its result")
        value = upstream(future)
        if value is None:
            return operator.getitem, ((future.result(timeout=0),), 0)
        self.futures.append(future)
        self._references.modules.update(value.modules)
        load: Any = pickle.loads
        return load, (self._buffers.stand_in(value),)

    def _with_named(self, value: Any, how: Any) -> Any:
        """How to pickle a function or class, with more global variables of its module."""
        if isinstance(how, tuple) and len(how) == 6 and "__globals__" in how[2][1]:
            variables = variables_of(value)
            more = {
                name: each for name, each in variables.items() if id(each) in self._manner.named
            }
            how[2][1]["__globals__"].update(more)
        return how

    def _in_a_pickle_of_its_own(self, array: Any) -> SharedData | None:
        """The handle of an array of objects, if it is large."""
        if array.nbytes < self._manner.apart_from:
            self.passed_over = True
            return None
        if len(self._buffers.out) >= MOST_BUFFERS:
            return None
        manner = replace(self._manner, apart_from=math.inf)
        pickler = _pickler_of(array, self._contents, manner, self._apart)
        if len(pickler.data) < LEAST_BUFFER or pickler.futures:
            return None
        if not is_plain(array):
            self._mixed.append((array, pickler))
        made = pickler.payload()
        self._carried += made.carried
        return _handle(made, self._contents)

    def parts_have_something_in_common(self) -> bool:
        """Whether an object is in two of the pickles that one would miss: where they arrive, there
        are two of it.
        """
        seen = self.memo.copy() if self._mixed else {}
        for array, pickler in self._mixed:
            there = pickler.memo.copy()
            common = (there.keys() & seen.keys()) - {id(array)}
            if not all(is_alike(there[each][1]) for each in common):
                return True
            seen |= there
        return False


def _kind(module: str, name: str) -> Any:
    """A class of a module, which is not imported for this: users who have one have. Else None."""
    return getattr(sys.modules.get(module), name, None)


def _is_array(value: Any) -> bool:
    """Whether it is an array of NumPy."""
    array = _kind("numpy", "ndarray")
    return array is not None and isinstance(value, array)


def _as_buffer(
    value: Any, shared_from: float, buffer_of: Callable[[Any], pickle.PickleBuffer]
) -> tuple[Any, ...] | None:
    """How to pickle a large array of NumPy so that its bytes can leave the pickle, if its own way
    would keep them there: strided views, dates, memory-mapped files. One of fewer bytes than
    `shared_from` is copied when it has arrived, so that it can be written.

    As with NumPy's own pickles, what is not contiguous becomes so, in C order.
    """
    if value.nbytes < LEAST_REPEATED:
        return None
    numpy = sys.modules["numpy"]
    if type(value) not in (numpy.ndarray, numpy.memmap):
        return _bytes_apart(value)
    order = "F" if value.flags.f_contiguous and not value.flags.c_contiguous else "C"
    whole = numpy.asarray(value, order=order).view(numpy.ndarray)
    data = whole.reshape(-1, order=order).view(numpy.uint8)  # no copy: it is contiguous
    shape, dtype = value.shape, value.dtype
    how = numpy.ndarray, (shape, dtype, buffer_of(data), 0, None, order)
    shared = value.nbytes >= max(shared_from, LEAST_BUFFER)
    return how if shared else (numpy.array, (Reduced(how),))


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
        self.out: list[Content | Value] = []
        self._contents = contents
        self._call = call  # stands for the call: it may be pickled several times
        self._of_arrays: dict[int, pickle.PickleBuffer] = {}  # by id
        # By the id of an empty buffer that stands for it.
        self._stand_ins: dict[int, tuple[pickle.PickleBuffer, Content | Value]] = {}

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
        return [self.stand_in(self._contents.adopt(piece)) for piece in handle._pieces]

    def stand_in(self, piece: Content | Value) -> pickle.PickleBuffer:
        """A buffer that `take` will know for this."""
        buffer = pickle.PickleBuffer(b"")
        self._stand_ins[id(buffer)] = buffer, piece
        return buffer


def brief(error: BaseException) -> str:
    """What kind of exception it is, and what it says."""
    try:
        text = str(error)
    except BaseException:  # it may be anybody's class
        text = ""
    name = _wire.clipped(type(error).__name__, _wire.LINE_LIMIT)
    return f"{name}: {_wire.clipped(text, 2_000)}" if text else name
