"""What a value consists of, as a digest: the same in each process, whatever the hash seed.

Equal containers are described alike: sets and dicts whatever their order, an `OrderedDict` in its
order. Types count: 1 is not True. All else is taken apart as `pickle` would do it.
"""

from __future__ import annotations

import hashlib
import marshal
import pickle
import sys
from collections import OrderedDict
from collections.abc import Callable, Iterable
from typing import Any

import cloudpickle

from .._pickles.by_value import is_there, says_how, variable_in

_ATOMS = {bool, int, float, complex, str, bytes, type(None), type(...)}
_NOWHERE = sys.maxsize
#: Parts of what refers to itself are described anew on each way that leads there, this many times.
_PATIENCE = 10_000


def joined(kind: str, *parts: bytes) -> bytes:
    """One digest of several."""
    sha = hashlib.sha256(kind.encode())
    for part in parts:
        sha.update(b" %d:" % len(part))
        sha.update(part)
    return sha.digest()


def atom(value: Any) -> bytes | None:
    """A number, text or constant as it is; None if it is anything else."""
    kind = type(value)
    if kind not in _ATOMS:
        return None
    if kind is str:
        return b"str " + bytes(value.encode("utf-8", "surrogatepass"))
    if kind is bytes:
        return b"bytes " + bytes(value)
    text = hex(value) if kind is int else repr(value)  # of long ones there is no decimal
    return f"{kind.__name__} {text}".encode()


class Values:
    """Digests of values. `special` tells those that are not to be taken apart, or says None."""

    def __init__(self, special: Callable[[Any], bytes | None]) -> None:
        self._special = special
        self._path: dict[int, int] = {}  # the ids of what is being told, by how deep it lies
        self._lowest = _NOWHERE  # how far up what was described last refers to
        self._known: dict[int, tuple[Any, bytes]] = {}
        self._patience = _PATIENCE

    def digest(self, value: Any) -> bytes:
        """What stands for a value.

        Raises:
            Exception: whatever pickling raises.
        """
        digest = atom(value) or _flat(value)
        if digest is not None:
            return digest
        me, depth = id(value), len(self._path)
        if me in self._known:
            return self._known[me][1]
        if me in self._path:
            self._lowest = min(self._lowest, self._path[me])
            return b"up %d" % (depth - self._path[me])
        self._path[me] = depth
        outer, self._lowest = self._lowest, _NOWHERE
        try:
            digest = self._taken_apart(value)
            if self._lowest >= depth:
                self._lowest = _NOWHERE
            else:
                self._patience -= 1
            if self._lowest == _NOWHERE or self._patience < 0:
                self._known[me] = value, digest
        finally:
            del self._path[me]
            self._lowest = min(self._lowest, outer)
        return digest

    def _taken_apart(self, value: Any) -> bytes:
        kind = type(value)
        if kind in (list, tuple):
            return joined(kind.__name__, *map(self.digest, value))
        if kind is dict:
            return joined("dict", *self._pairs(value.items()))
        return self._special(value) or self._other(value)

    def _other(self, value: Any) -> bytes:
        kind = type(value)
        if isinstance(value, set | frozenset):
            return joined("set", self.digest(kind), *sorted(map(self.digest, value)), *self._of(
                getattr(value, "__dict__", None)))  # fmt: skip
        if kind in (bytearray, pickle.PickleBuffer):
            return joined(kind.__name__, memoryview(value).tobytes())
        if kind is getattr(sys.modules.get("numpy"), "ndarray", ()) and not value.dtype.hasobject:
            return joined("array", self.digest(value.dtype), repr(value.shape).encode(),
                          value.tobytes())  # fmt: skip
        return self._reduced(value)

    def _reduced(self, value: Any) -> bytes:
        kind = type(value)
        reduce: Any = cloudpickle.Pickler.dispatch_table.get(kind)
        parts: Any = reduce(value) if reduce is not None else value.__reduce_ex__(5)
        name = variable_in(parts, value)
        there = bool(name) and is_there(parts, value, name)
        if name and (isinstance(parts, str) or not there):
            module = getattr(value, "__module__", None) or kind.__module__
            named = joined("name", f"{module}.{name}".encode())
            if there or not says_how(kind):
                return named
            return joined("named", named, self.digest(kind), *self._of(value.__getstate__()))
        make, args, state, items, pairs = (tuple(parts) + (None,) * 3)[:5]
        parts = [self.digest(make), self.digest(tuple(args)), *self._of(state)]
        parts += [b"items", *map(self.digest, items or ())]
        in_order = self._pairs(pairs or (), ordered=isinstance(value, OrderedDict))
        return joined("made", *parts, b"pairs", *in_order)

    def _of(self, state: Any) -> list[bytes]:
        return [] if state is None or state == {} else [self.digest(state)]

    def _pairs(self, items: Iterable[tuple[Any, Any]], *, ordered: bool = False) -> list[bytes]:
        made = [joined("", self.digest(key), self.digest(value)) for key, value in items]
        return made if ordered else sorted(made)


def _flat(value: Any) -> bytes | None:
    """A list, tuple or dict with texts and numbers only, which takes no time; None for others."""
    kind = type(value)
    if kind in (list, tuple):
        return _marshalled(kind, value) if _ATOMS.issuperset(map(type, value)) else None
    if kind is not dict or set(map(type, value)) != {str}:
        return None
    if not _ATOMS.issuperset(map(type, value.values())):
        return None
    return _marshalled(kind, [part for key in sorted(value) for part in (key, value[key])])


def _marshalled(kind: type, values: Iterable[Any]) -> bytes:
    # Its last format in which it makes no difference whether two things are one.
    return joined(kind.__name__, marshal.dumps(list(values), 2))
