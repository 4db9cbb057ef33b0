"""From the bytes of a call to what is to be called, and the seconds that its imports took.

Part of the child: payloads are unpickled here, and nowhere else. It does not know where they come
from, nor what becomes of the results.
"""

from __future__ import annotations

import contextlib
import io
import os
import pickle
from time import perf_counter  # user code may leave that of the module mocked

from .._wire import finished

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence
    from typing import IO, Any

#: What a module becomes that a function travelling by value refers to, say ``np``.
_MODULE = "cloudpickle.cloudpickle", "subimport"


def load(body: bytes, path: str | None, buffers: Sequence[str]) -> tuple[Callable[[], Any], float]:
    """The call that a payload holds, of one function once or for each of many rows; and the
    seconds of the imports that it took to get it.
    """
    views = [_mapped(buffer) for buffer in buffers]
    if path is None:
        loader = _Loader(io.BytesIO(body), views)
        parts = loader.load()
    else:
        with open(path, "rb") as file:
            os.unlink(path)  # its room is free again as soon as it is read
            loader = _Loader(file, views)
            parts = loader.load()
    if len(parts) == 2:
        each, (first, rows) = parts
        return lambda: _in_turn(each, rows, first), loader.importing
    function, args, kwargs = parts
    return lambda: finished(function(*args, **kwargs)), loader.importing


class _Loader(pickle.Unpickler):
    """Unpickles, and tells how long that was for want of a module."""

    def __init__(self, file: IO[bytes], views: Iterable[memoryview]) -> None:
        super().__init__(file, buffers=views)
        self.importing = 0.0

    def find_class(self, module: str, name: str) -> Any:
        """A global that the payload names; its module is imported if it is not yet."""
        found = self._timed(super().find_class, module, name)
        if (module, name) == _MODULE:
            return lambda *args: self._timed(found, *args)
        return found

    def _timed(self, function: Callable[..., Any], *args: Any) -> Any:
        begin = perf_counter()
        try:
            return function(*args)
        finally:
            self.importing += perf_counter() - begin


def _in_turn(each: Callable[..., Any], rows: list[Any], first: int) -> list[Any]:
    """The results for all rows; `first` is the number of the first one, for who reads of failures.

    What fails says for which it was: the others of the batch would do as well.
    """
    results = []
    for number, row in enumerate(rows):
        try:
            results.append(finished(each(*row)))
        except BaseException as error:
            with contextlib.suppress(BaseException):  # an exception may refuse any attribute
                error.add_note(
                    f"The item that failed is number {first + number} of the call, number "
                    f"{number} of a batch of {len(rows)}; the first is number 0."
                )
            raise
    return results


def _mapped(path: str) -> memoryview:
    """A file in memory, read-only: other calls, and other processes, are given the same bytes."""
    import mmap  # few calls need it

    with open(path, "rb") as file:
        try:
            return memoryview(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ))
        except (OSError, ValueError):  # a disk that cannot map, or an empty file
            return memoryview(file.read())
