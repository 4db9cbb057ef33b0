"""From the bytes of a call to what is to be called, and the seconds that its imports took; and from
what it gave to bytes.

Part of the child: payloads are unpickled here, and results pickled, and nowhere else. It does not
know where they come from, nor where they go.
"""

from __future__ import annotations

import contextlib
import copyreg
import io
import os
import pickle
import sys
from time import perf_counter  # user code may leave that of the module mocked

from .._pickles.by_value import reduction
from .._pickles.code import with_file_names
from .._pickles.rows import finished, in_turn
from .._wire import clipped, digest
from ._frames import plain

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence
    from typing import IO, Any

    from ._script import Script

#: What a module becomes that a function travelling by value refers to, say ``np``.
_MODULE = "cloudpickle.cloudpickle", "subimport"
#: What a call raises that wants another container; and what stands for it where we are not
#: installed, or an earlier version is.
UNMET = "civis_futures", "UnmetDependency"
_Unmet = type(UNMET[1], (Exception,), {"__module__": UNMET[0]})
#: The function that unpickles a pickle within another one.
_INNER = pickle.loads.__module__, "loads"
_PROTOCOL = 5


def load(
    body: bytes,
    path: str | None,
    buffers: Sequence[str],
    script: Script,
    catch: Callable[[BaseException], Any] | None = None,
) -> tuple[Callable[[], Any], float]:
    """The call that a payload holds, of one function once or for each of many rows; and the
    seconds of the imports that it took to get it. `catch` makes something of what a row raises, if
    the payload asks for that.
    """
    views = [_mapped(buffer, script) for buffer in buffers]
    try:
        if path is None:
            loader = _Loader(io.BytesIO(body), views, script)
            parts = loader.loaded()
        else:
            with open(path, "rb") as file:
                os.unlink(path)  # its room is free again as soon as it is read
                loader = _Loader(file, views, script)
                parts = loader.loaded()
        script.settle()
    except BaseException:
        script.give_up()
        raise
    if len(parts) == 2:
        each, (first, rows, *how) = parts
        caught, generators = how[0] if how else (False, None)
        catch_row = catch if caught else None
        return lambda: in_turn(each, rows, first, catch_row, generators), loader.importing
    function, args, kwargs = parts
    return lambda: finished(function(*args, **kwargs)), loader.importing


class _Loader(pickle.Unpickler):
    """Unpickles, and tells how long that was for want of a module."""

    def __init__(self, file: IO[bytes], views: Iterable[Any], script: Script) -> None:
        super().__init__(file, buffers=views)
        self.importing = 0.0
        self._script = script

    def loaded(self) -> Any:
        """What the payload is. It is not kept: methods of this are in its memo, and in such a cycle
        a call's arguments would live on until the garbage collector comes.
        """
        try:
            return self.load()
        finally:
            self.memo.clear()

    def find_class(self, module: str, name: str) -> Any:
        """A global that the payload names; its module is imported if it is not yet."""
        try:
            found = self._timed(super().find_class, module, name)
        except (ImportError, AttributeError):
            if (module, name) != UNMET:
                raise
            return _Unmet
        if (module, name) == _MODULE:
            return lambda *args: self._timed(found, *args)
        if (module, name) == _INNER:
            return self._inner
        return self._script.stand_in(module, name) or found

    def _inner(self, data: Any, *, buffers: Iterable[Any] = ()) -> Any:
        """What is a pickle of its own within the payload: it may be in a file that is known."""
        file = self._script.of_files.get(id(memoryview(data).obj))
        found = self._script.recall(file)
        if found is None:
            loader = _Loader(io.BytesIO(data), buffers, self._script)
            found = loader.loaded()
            self.importing += loader.importing
            self._script.note(file, found)
        return found

    def _timed(self, function: Callable[..., Any], *args: Any) -> Any:
        begin = perf_counter()
        try:
            return function(*args)
        finally:
            self.importing += perf_counter() - begin


def dumped(value: Any) -> bytes:
    """The pickle of what a call has returned or raised.

    By value is what is local or of the client's ``__main__``: there it may be another one by now.
    """
    own = _own_arrays()
    with contextlib.suppress(Exception):
        target = io.BytesIO()
        pickler = pickle.Pickler(target, _PROTOCOL)
        if own:
            pickler.dispatch_table = {**copyreg.dispatch_table, **own}
        pickler.dump(value)
        data = target.getvalue()
        if b"__main__" not in data:
            return data
    import cloudpickle

    cells: dict[int, Any] = {}

    class OutcomePickler(cloudpickle.Pickler):  # type: ignore[misc]
        dispatch_table = with_file_names(cloudpickle.Pickler.dispatch_table).new_child(own)

        def reducer_override(self, value: Any) -> Any:
            return reduction(value, super().reducer_override, cells, keyed=True)

    target = io.BytesIO()
    OutcomePickler(target, _PROTOCOL).dump(value)
    return target.getvalue()


def as_file(folder: str, variables: dict[str, Any]) -> str:
    """The path of a file that, when it is run, makes these variables: what can be pickled of them.

    The same variables give the same path, so that a process which has run it need not do so again.
    """
    try:
        data = dumped(variables)
    except Exception:  # a lock, say
        data = dumped({name: each for name, each in variables.items() if _pickles(each)})
    path = os.path.join(folder, f"main-{digest(data)[:16]}.py")
    if not os.path.exists(path):
        with open(path + ".pickle", "wb") as file:
            file.write(data)
        bytes_there = f"__import__('pathlib').Path({path + '.pickle'!r}).read_bytes()"
        with open(path + ".new", "w") as script:
            script.write(f"globals().update(__import__('pickle').loads({bytes_there}))\n")
        os.rename(path + ".new", path)
    return path


def _pickles(value: Any) -> bool:
    try:
        dumped(value)
    except BaseException:
        return False
    return True


def way_to_trouble(name: str, value: Any) -> str:
    """Which part of what a call gave has no pickle: the end of a message, or empty."""
    from .._pickles.unpicklable import way_to  # few calls need it

    with contextlib.suppress(BaseException):  # it is the user's, and may be anything
        way = way_to(iter([(name, value)]), _pickles)
        return f": {plain(clipped(way, 1000))}" if way else ""
    return ""


def _own_arrays() -> dict[Any, Any]:
    """How arrays are pickled so that the caller may write into hers.

    An array that is read-only here, as a part of one that is mapped is, would be so there as well.
    """
    array: Any = getattr(sys.modules.get("numpy"), "ndarray", None)

    def reduce(value: Any) -> Any:
        own = value if value.flags.writeable else value.copy(order="K")
        return own.__reduce_ex__(_PROTOCOL)

    return {array: reduce} if isinstance(array, type) else {}


def _mapped(path: str, script: Script) -> memoryview:
    """A file in memory, read-only: other calls, and other processes, are given the same bytes."""
    import mmap  # few calls need it

    with open(path, "rb") as file:
        try:
            view = memoryview(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ))
        except (OSError, ValueError):  # a disk that cannot map, or an empty file
            view = memoryview(file.read())
    script.of_files[id(view.obj)] = path
    return view
