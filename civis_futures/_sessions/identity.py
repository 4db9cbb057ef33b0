"""What is called, as a short text: equal in another process if the same cell is run again.

A pickle does not do: that of a function from a notebook has the number of the kernel's process in
it, sets have another order in each process, and of what is pickled by name only the name would
count. So a call is known by what its arguments consist of (`values`), and by all of the user's code
that it reaches.

Functions and classes refer to each other in circles. So each is described by a label where it is
referred to, and described once: the digest of a value is that of the value, with labels in it, and
of the descriptions of all that can be reached from there.

What is installed counts by its name; so does what a module of the user's holds that is neither code
nor plain data, since it may be new in each process (a connection, a random generator). What travels
by value counts with all that it brings.
"""

from __future__ import annotations

import contextvars
import functools
import re
import sys
import types
import typing
import weakref
from collections.abc import Callable, Iterator
from typing import Any

import cloudpickle

from .._data.own import imports_of_code, is_own, own_place, resolved, source_of
from .._files.contents import SharedData
from .._futures.future import ContainerFuture, key_of
from .._pickles.by_value import annotations_of, derived, made_again
from .values import Values, atom, joined

#: What says who makes a call and when, and not what it is: of these the class counts. scikit-learn
#: gives one to each fit of a search, with a random number and the time.
_FLEETING = {("sklearn.callback._callback_context", "CallbackContext")}
#: What a class says of itself that is no code, or follows from the rest.
_ASIDE = {"__module__", "__doc__", "__qualname__", "__firstlineno__", "_abc_impl", "__dict__",
          "__weakref__", "__static_attributes__"}  # fmt: skip
#: Instances of classes from these are plain data, wherever they are.
_PLAIN = {
    "_contextvars", "builtins", "collections", "datetime", "decimal", "enum", "fractions",
    "functools", "numpy", "operator", "pathlib", "re", "types", "uuid",
}  # fmt: skip
_DESCRIPTORS = (
    types.MemberDescriptorType, types.GetSetDescriptorType, types.WrapperDescriptorType,
    types.MethodDescriptorType, types.ClassMethodDescriptorType,
)  # fmt: skip
_CODE = (
    types.FunctionType, types.MethodType, type, staticmethod, classmethod, property,
    functools.cached_property, functools.partial, functools.partialmethod,
    functools.singledispatchmethod, functools._lru_cache_wrapper,
)  # fmt: skip
_WEAK = (weakref.WeakKeyDictionary, weakref.WeakValueDictionary, weakref.WeakSet, weakref.ref)


def identity(fn: Callable[..., Any], arguments: Any) -> str:
    """The name of a function, what it does, and what it is called with: ``name/digest/digest``.

    Raises:
        Exception: whatever pickling raises.
    """
    called: Any = fn
    while type(called) is functools.partial:  # what it holds are arguments
        called, arguments = called.func, (called.args, called.keywords, arguments)
    code: list[Any] = [called]
    arguments = _without_functions(arguments, code)
    inner = called
    while hasattr(inner, "func"):  # a class derived from partial
        inner = inner.func
    name = str(getattr(inner, "__qualname__", type(inner).__qualname__)).replace("/", "_")
    return f"{name[-60:]}/{_digest(code if len(code) > 1 else called)}/{_digest(arguments)}"


def without_code(key: str) -> str:
    """What this has in common with that of a call of changed code: the name, and the arguments."""
    name, _, arguments = key.split("/")
    return f"{name}/{arguments}"


def _without_functions(arguments: Any, code: list[Any], levels: int = 2) -> Any:
    """Arguments, or rows of them, with names in place of functions; these are added to `code`."""
    if type(arguments) is types.FunctionType:
        code.append(arguments)
        return "function", arguments.__qualname__
    if not levels or type(arguments) not in (tuple, list):
        return arguments
    kept = (_without_functions(each, code, levels - 1) for each in arguments)
    return type(arguments)(kept)


def _digest(value: Any) -> str:
    try:
        digest = _Reached().digest(value)
    except RecursionError:  # a chain of some hundred objects, which `pickle` can follow in C
        limit = sys.getrecursionlimit()
        sys.setrecursionlimit(limit + 8_000)  # eight frames for each object of a chain
        try:
            digest = _Reached().digest(value)
        finally:
            sys.setrecursionlimit(limit)
    return digest.hex()[:16]  # enough: only calls of one number are compared


class _Reached:
    def __init__(self) -> None:
        self._values = Values(self._reference)
        self._ahead: list[Any] = []
        self._labels: dict[int, tuple[Any, bytes]] = {}  # of what is described, or is about to be
        self._sources: dict[str, bytes] = {}

    def digest(self, value: Any) -> bytes:
        digest = self._values.digest(value)
        described = set()
        while self._ahead:
            each = self._ahead.pop()
            parts = self._of_class(each) if isinstance(each, type) else self._of_function(each)
            described.add(joined("described", *parts))
        return joined("digest", digest, *sorted(described), *sorted(self._sources.values()))

    def _reference(self, value: Any) -> bytes | None:
        """How code is described where it is referred to; None if it is no code."""
        match value:
            case types.FunctionType() | type():
                return self._label(value)
            case types.ModuleType():
                return joined("module", value.__name__.encode())
            case functools._lru_cache_wrapper():
                return joined(
                    "cache",
                    *map(self._values.digest, (value.__wrapped__, value.cache_parameters())),
                )
            case staticmethod() | classmethod():
                return joined(type(value).__name__, self._values.digest(value.__func__))
            case property():
                return joined("property", *map(self._loose, (value.fget, value.fset, value.fdel)))
            case functools.cached_property():
                return joined("cached_property", self._loose(value.func))
            case functools.singledispatchmethod():
                return joined("dispatch", self._loose(value.dispatcher), self._loose(value.func))
            case contextvars.ContextVar():
                made = made_again(value)
                return joined("context", *map(self._values.digest, (made.args, made.keywords)))
            case types.CodeType():
                return joined("code", *_of_code(value))
            case typing.TypeVar():  # to which cloudpickle gives a random number
                bounds = value.__bound__, value.__constraints__
                return joined("variable", _shown((value, bounds)))
            case types.CellType():
                return joined("cell", *self._of_cell(value))
            case ContainerFuture():  # its call, as what that will give is not known
                return joined("future", key_of(value).encode())
            case SharedData():
                return joined("shared", value._head, repr(value._digests).encode())
        kind = type(value)
        if (kind.__module__, kind.__qualname__) in _FLEETING:
            return joined("any", kind.__qualname__.encode())
        if isinstance(value, _DESCRIPTORS):
            return joined("descriptor", value.__qualname__.encode())
        return joined("weak", type(value).__name__.encode()) if isinstance(value, _WEAK) else None

    def _label(self, code: Any) -> bytes:
        """The name of a function or class; of one that is described, with as much as needs no other
        code to be described.
        """
        if id(code) in self._labels:
            return self._labels[id(code)][1]
        label = name = f"{code.__module__}.{code.__qualname__}".encode("utf-8", "surrogatepass")
        if is_own(code.__module__) or (
            isinstance(code, types.FunctionType) and "<locals>" in code.__qualname__
        ):
            self._labels[id(code)] = code, name  # for who refers to itself
            label = joined("label", name, *self._of_near(code))
            self._labels[id(code)] = code, label
            self._ahead.append(code)
        return label

    def _of_near(self, code: Any) -> Iterator[bytes]:
        if isinstance(code, type):
            for key, value in sorted(vars(code).items()):
                if isinstance(value, types.FunctionType):
                    yield joined(key, *_of_code(value.__code__))
                elif key not in _ASIDE and (digest := atom(value)) is not None:
                    yield joined(key, digest)
            return
        yield from _of_code(code.__code__)
        for value in (*(code.__defaults__ or ()), *_contents(code)):
            if isinstance(value, types.FunctionType):
                yield self._label(value)
            elif (digest := atom(value)) is not None:
                yield digest

    def _of_function(self, function: Any) -> Iterator[bytes]:
        yield self._label(function)
        yield from map(self._loose, function.__defaults__ or ())
        for key, value in sorted((function.__kwdefaults__ or {}).items()):
            yield joined(key, self._loose(value))
        registry = getattr(function, "registry", None)
        if isinstance(registry, types.MappingProxyType) and hasattr(function, "dispatch"):
            yield self._loose(dict(registry))  # of `functools.singledispatch`, which has caches too
            return
        for cell in function.__closure__ or ():
            yield from self._of_cell(cell)
        for key, value in sorted(vars(function).items()):
            yield joined(key, self._loose(value))
        if is_own(function.__globals__.get("__name__")):  # of a wrapper, that is where it is from
            yield from self._of_names(function)

    def _of_cell(self, cell: types.CellType) -> list[bytes]:
        try:
            return [self._loose(cell.cell_contents)]
        except ValueError:
            return [b"empty"]

    def _of_names(self, function: types.FunctionType) -> Iterator[bytes]:
        """What the names in a function stand for, and what it imports when it runs."""
        names = _names(function.__code__)
        variables, by_value = function.__globals__, _travels_by_value(function)
        if "__subclasses__" in names:
            names |= derived(function, names).keys()
        for key in sorted(names & variables.keys()):
            yield joined(key, *self._of_variable(variables[key], names, by_value, set()))
        for name in resolved(imports_of_code(function.__code__), variables.get("__package__")):
            self._read(name)

    def _of_variable(
        self, value: Any, names: set[str], by_value: bool, seen: set[int]
    ) -> Iterator[bytes]:
        """What is behind a name; of a module, what is behind those names that it has."""
        if not isinstance(value, types.ModuleType):
            yield self._loose(value, by_value)
        elif is_own(value.__name__) and id(value) not in seen:
            seen.add(id(value))
            for key in sorted(names & vars(value).keys()):
                yield joined(key, *self._of_variable(vars(value)[key], names, False, seen))
        else:
            yield joined("module", value.__name__.encode())

    def _of_class(self, kind: type) -> Iterator[bytes]:
        yield self._label(kind)
        yield from map(self._label, (type(kind), *kind.__mro__[1:]))
        for key, value in sorted(vars(kind).items()):
            special = key.startswith("__") and key.endswith("__") and key != "__slots__"
            if key in _ASIDE or (special and not _is_code(value)):
                continue
            yield joined(key, self._loose(value))
        if annotations := annotations_of(kind):  # which a dataclass checks, say
            yield joined("annotations", _shown(annotations))

    def _loose(self, value: Any, whole: bool = False) -> bytes:
        """The digest of what code refers to. What is neither code nor plain data may be anything:
        then its class counts, unless the `whole` of it travels.
        """
        kind = type(value)
        if whole or _is_code(value) or kind.__module__ in _PLAIN or is_own(kind.__module__):
            try:
                return self._values.digest(value)
            except Exception:  # it cannot be pickled, and does not travel
                return joined("some", self._label(kind))
        return joined("some", self._label(kind))

    def _read(self, name: str) -> None:
        """A module is imported when a function runs, and may be unknown here till then: its source
        counts, and that of what it imports.
        """
        if name in self._sources or not is_own(name):
            return
        self._sources[name] = b""
        source, package = source_of(name)
        try:
            code = compile(source, name, "exec", dont_inherit=True)
        except (SyntaxError, ValueError):
            self._sources[name] = joined("source", name.encode(), source)
            return
        if source:
            self._sources[name] = joined("source", name.encode(), *_of_code(code))
        for inner in resolved(imports_of_code(code), package):
            self._read(inner)


def _travels_by_value(function: types.FunctionType) -> bool:
    module = function.__module__ or ""
    above = {module[:end] for end, char in enumerate(module + ".") if char == "."}
    registered = not above.isdisjoint(cloudpickle.list_registry_pickle_by_value())
    return registered or own_place(module.partition(".")[0]) is None


def _is_code(value: Any) -> bool:
    return isinstance(value, _CODE)


def _shown(annotations: Any) -> bytes:
    """Types and what else annotations consist of, by their names."""
    text = re.sub(r" at 0x[0-9a-fA-F]+", "", repr(annotations))
    return text.encode("utf-8", "backslashreplace")


def _contents(function: types.FunctionType) -> Iterator[Any]:
    for cell in function.__closure__ or ():
        try:
            yield cell.cell_contents
        except ValueError:  # empty as yet
            yield None


def _of_code(code: types.CodeType) -> list[bytes]:
    """All of it but where it was written."""
    names = code.co_name, code.co_names, code.co_varnames, code.co_freevars, code.co_cellvars
    numbers = code.co_flags, code.co_argcount, code.co_posonlyargcount, code.co_kwonlyargcount
    constants = map(_of_constant, code.co_consts)
    return [repr((names, numbers)).encode("utf-8", "backslashreplace"), code.co_code, *constants]


def _of_constant(value: Any) -> bytes:
    if isinstance(value, types.CodeType):
        return joined("code", *_of_code(value))
    if isinstance(value, frozenset):
        return joined("frozenset", *sorted(map(_of_constant, value)))
    if isinstance(value, tuple):
        return joined("tuple", *map(_of_constant, value))
    return atom(value) or repr(value).encode("utf-8", "backslashreplace")


def _names(code: types.CodeType) -> set[str]:
    """The names that code refers to, that of inner functions included."""
    found = set(code.co_names)
    for each in code.co_consts:
        if isinstance(each, types.CodeType):
            found |= _names(each)
    return found
