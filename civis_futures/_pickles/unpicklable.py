"""The way to what cannot be pickled: which variable, attribute or argument holds it.

Pickle's own error says what type it cannot pickle, and not where in a call or a result such a thing
is. Asked when pickling has failed, by client and worker; each says how it pickles. Standard library
only, as `_wire`.
"""

from __future__ import annotations

import contextlib
import functools
from itertools import islice
from types import CodeType, FunctionType, MappingProxyType, MethodType, ModuleType
from typing import TYPE_CHECKING, Any

from .. import _wire

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

#: How many elements of a list, say, are looked at.
_MOST = 10_000
#: Attributes of a class that are not sent, since they are made anew there.
_NOT_SENT = {"__dict__", "__weakref__", "__annotate_func__"}
#: Characters of a key.
_KEY = 40


def way_to(parts: Iterator[tuple[str, Any]], pickles: Callable[[Any], bool]) -> str:
    """The way to the first thing that cannot be pickled, "f -> closure 'lock' -> _thread.lock";
    `parts` are what to begin with, by their names. Empty if each of them can be.
    """
    steps: list[str] = []
    seen: set[int] = set()
    kind = ""
    while len(steps) < 12:  # each costs a pickle of all that is on it
        left = (part for part in parts if id(part[1]) not in seen and not pickles(part[1]))
        name, value = next(left, ("", None))
        if not name:
            break
        seen.add(id(value))
        steps.append(name)
        kind = f"{type(value).__module__}.{type(value).__qualname__}"
        parts = _parts(value)
    return " -> ".join([*steps, kind.removeprefix("builtins.")]) if steps else ""


def of_call(function: Any, arguments: Any, keywords: Any) -> Iterator[tuple[str, Any]]:
    """What a call consists of."""
    if not isinstance(function, FunctionType):
        function = getattr(function, "__wrapped__", function)
    yield _name(function), function
    for number, value in enumerate(arguments, 1):
        yield f"argument {number}", value
    for name, value in keywords.items():
        yield f"argument {name!r}", value


def of_batch(function: Any, rows: Any) -> Iterator[tuple[str, Any]]:
    """The same of a call with many rows of arguments."""
    yield from of_call(function, (), {})
    for number, row in enumerate(rows):
        for place, value in enumerate(row, 1):
            yield f"argument {place} of item {number}", value


def _name(function: Any) -> str:
    while isinstance(function, functools.partial):
        function = function.func
    return str(getattr(function, "__qualname__", type(function).__qualname__))


def _parts(value: Any) -> Iterator[tuple[str, Any]]:
    """What a thing is made of when it is pickled."""
    if isinstance(value, FunctionType):
        yield from _of_function(value)
    elif isinstance(value, type):
        yield from _of_class(value)
    elif isinstance(value, MethodType):
        yield "the method's object", value.__self__
        yield value.__func__.__qualname__, value.__func__
    elif isinstance(value, functools.partial):
        yield from of_call(value.func, value.args, value.keywords)
    elif isinstance(value, (staticmethod, classmethod)):
        yield value.__func__.__qualname__, value.__func__
    elif isinstance(value, property):
        ways = {"getter": value.fget, "setter": value.fset, "deleter": value.fdel}
        yield from ways.items()
    elif isinstance(value, functools._lru_cache_wrapper):
        yield _name(value.__wrapped__), value.__wrapped__
    elif isinstance(value, ModuleType):
        yield from ((f"variable {name!r}", each) for name, each in vars(value).items())
    elif isinstance(value, (list, tuple, set, frozenset)):
        yield from ((f"[{number}]", each) for number, each in enumerate(islice(value, _MOST)))
    elif isinstance(value, (dict, MappingProxyType)):
        for key, each in islice(value.items(), _MOST):
            yield f"[{_wire.clipped(repr(key), _KEY)}]", each
            yield f"key {_wire.clipped(repr(key), _KEY)}", key
    else:
        yield from _of_instance(value)


def _of_class(kind: type) -> Iterator[tuple[str, Any]]:
    for name, each in vars(kind).items():
        if name not in _NOT_SENT:
            yield f"attribute {name!r}", each
    for base in (*kind.__bases__, type(kind)):
        yield _name_of_part(0, base), base


def _of_function(function: FunctionType) -> Iterator[tuple[str, Any]]:
    code = function.__code__
    registry = getattr(function, "registry", None)
    if isinstance(registry, MappingProxyType) and hasattr(function, "dispatch"):
        for kind, each in registry.items():  # of `functools.singledispatch`; the rest is made anew
            yield f"for {kind.__qualname__}", each
        return
    for name, cell in zip(code.co_freevars, function.__closure__ or (), strict=True):
        with contextlib.suppress(ValueError):  # an empty one
            yield f"closure {name!r}", cell.cell_contents
    for name in dict.fromkeys(_globals_in(code)):
        if name in function.__globals__:
            yield f"global {name!r}", function.__globals__[name]
    names = code.co_varnames[: code.co_argcount]
    defaults = function.__defaults__ or ()
    given = zip(names[len(names) - len(defaults) :], defaults, strict=True)
    for name, each in [*given, *(function.__kwdefaults__ or {}).items()]:
        yield f"default of {name!r}", each
    for name, each in vars(function).items():
        yield f"attribute {name!r}", each
    with contextlib.suppress(Exception):  # since Python 3.14 they are expressions of the user's
        for name, each in function.__annotations__.items():
            yield f"annotation of {name!r}", each


def _globals_in(code: CodeType) -> Iterator[str]:
    yield from code.co_names
    for each in code.co_consts:
        if isinstance(each, CodeType):
            yield from _globals_in(each)


def _of_instance(value: Any) -> Iterator[tuple[str, Any]]:
    try:
        how = value.__reduce_ex__(4)
    except Exception:  # this is what cannot be pickled
        return
    if not isinstance(how, tuple):
        return
    made, given, state, elements, items = (*how, None, None, None)[:5]
    for each in state if isinstance(state, tuple) else (state,):
        if isinstance(each, dict):
            yield from ((f"attribute {name!r}", part) for name, part in each.items())
        else:
            yield "its state", each
    for number, part in enumerate(given, 1):
        yield _name_of_part(number, part), part
    yield from ((f"[{number}]", part) for number, part in enumerate(islice(elements or (), _MOST)))
    for key, part in islice(items or (), _MOST):
        yield f"[{_wire.clipped(repr(key), _KEY)}]", part
    yield "its type" if not isinstance(made, type) else f"class {made.__qualname__}", made


def _name_of_part(number: int, part: Any) -> str:
    return f"class {part.__qualname__}" if isinstance(part, type) else f"part {number}"
