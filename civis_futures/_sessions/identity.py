"""What is called, as a short text: equal in another process if the same cell is run again.

A pickle does not do: that of a function from a notebook has the number of the kernel's process in
it, and sets have another order in each process. So functions and classes are told by what they do
(bytecode, constants, defaults, what they close over, functions of the same module that they use),
and all else by its pickle, with sets in order.
"""

from __future__ import annotations

import functools
import hashlib
import io
import pickle
import types
from collections.abc import Callable, Iterator
from typing import Any

import cloudpickle

from .._data.contents import SharedData

#: How much of a digest is kept, in hexadecimal digits: calls of one number are compared, no others.
DIGITS = 16
#: The opcodes that a pickle with a set or a frozenset in it surely has.
_OF_SETS = (pickle.EMPTY_SET, pickle.FROZENSET)
#: Globals of these types belong to what a function does.
_PLAIN = (int, float, complex, str, bytes, bool, type(None))
#: What says who makes a call and when, and not what it is: of these the type counts. scikit-learn
#: gives one to each fit of a search, with a random number and the time.
_FLEETING = {("sklearn.callback._callback_context", "CallbackContext")}
#: What a class says of where it was written.
_WHERE = ("__module__", "__doc__", "__firstlineno__")


def identity(fn: Callable[..., Any], arguments: Any) -> str:
    """The name of a function, what it does, and what it is called with: ``name/digest/digest``.

    Raises:
        Exception: whatever pickling raises.
    """
    inner: Any = fn
    while hasattr(inner, "func"):  # a partial
        inner = inner.func
    name = str(getattr(inner, "__qualname__", type(inner).__qualname__)).replace("/", "_")
    return f"{name[-60:]}/{_digest(fn)}/{_digest(arguments)}"


def difference(before: str, now: str) -> str:
    """What differs between two of these, in words."""
    name, function, _ = before.split("/")
    new_name, new_function, _ = now.split("/")
    if name != new_name:
        return f"it called {name}, and now it calls {new_name}"
    if function != new_function:
        return f"{name} does something else now: its code, a default or what it refers to changed"
    return f"{name} is called with other arguments now"


def _digest(value: Any) -> str:
    sha = hashlib.sha256()
    for piece in _pieces(value):
        sha.update(piece)
    return sha.hexdigest()[:DIGITS]


def _pieces(value: Any) -> Iterator[Any]:
    """The bytes that stand for a value."""
    data, buffers = _pickled(value)
    if any(code in data for code in _OF_SETS):
        data, buffers = _pickled(_ordered(value))
    yield data
    for buffer in buffers:
        yield b"buffer"
        try:
            yield buffer.raw()
        except BufferError:  # not contiguous
            yield memoryview(buffer).tobytes()


def _pickled(value: Any) -> tuple[bytes, list[pickle.PickleBuffer]]:
    # Without a memo: whether two equal texts are one object differs from process to process. Of
    # what refers to itself there is no pickle then.
    for fast in (True, False):
        target, buffers = io.BytesIO(), list[pickle.PickleBuffer]()
        pickler = _IdentityPickler(target, 5, lambda buffer, out=buffers: bool(out.append(buffer)))
        pickler.fast = fast
        try:
            pickler.dump(value)
        except (ValueError, RecursionError):
            if not fast:
                raise
        else:
            break
    return target.getvalue(), buffers


def _ordered(value: Any) -> Any:
    """The same with lists in place of sets, as far as builtin containers go."""
    kind = type(value)
    if kind in (set, frozenset):
        return (kind.__name__, sorted(_digest(each) for each in value))
    if kind in (list, tuple):
        return kind(_ordered(each) for each in value)
    if kind is functools.partial:
        return ("partial", value.func, _ordered(value.args), _ordered(value.keywords))
    if kind is dict:
        return {key: _ordered(each) for key, each in value.items()}
    return value


class _IdentityPickler(cloudpickle.Pickler):  # type: ignore[misc]
    """Tells functions, classes and shared data by what they are."""

    def reducer_override(self, value: Any) -> Any:
        """How to pickle this."""
        if isinstance(value, types.FunctionType):
            return str, (f"function {_of_function(value, ())}",)
        if isinstance(value, type) and not _importable(value):
            return str, (f"class {_of_class(value, ())}",)
        if type(value) is SharedData:
            return str, (f"shared {value._head.hex()} {value._digests}",)
        kind = type(value)
        if (kind.__module__, kind.__qualname__) in _FLEETING:
            return str, (f"any {kind.__qualname__}",)
        if isinstance(value, types.ModuleType):
            return str, (f"module {value.__name__}",)
        return super().reducer_override(value)


def _importable(value: Any) -> bool:
    return value.__module__ != "__main__" and "<locals>" not in value.__qualname__


def _of_function(function: types.FunctionType, seen: tuple[Any, ...]) -> str:
    """What a function does, as a text; `seen` are those whose text it will be part of."""
    name = f"{function.__module__}.{function.__qualname__}"
    if function.__code__ in seen:
        return name
    seen = (*seen, function.__code__)
    parts = [name, *_of_code(function.__code__)]
    parts += [_text(each, seen) for each in function.__defaults__ or ()]
    defaults = function.__kwdefaults__ or {}
    parts += [f"{key}={_text(defaults[key], seen)}" for key in sorted(defaults)]
    for cell in function.__closure__ or ():
        try:
            parts.append(_text(cell.cell_contents, seen))
        except ValueError:  # empty as yet
            parts.append("empty")
    for key in sorted(_names(function.__code__)):
        if key in function.__globals__:
            used = function.__globals__[key]
            if isinstance(used, _PLAIN):
                parts.append(f"{key}={used!r}")
            elif getattr(used, "__module__", None) == function.__module__:
                is_code = isinstance(used, types.FunctionType | type)
                parts.append(f"{key}={_text(used, seen) if is_code else ''}")
    return hashlib.sha256("\n".join(parts).encode("utf-8", "backslashreplace")).hexdigest()


def _of_class(kind: type, seen: tuple[Any, ...]) -> str:
    name = f"{kind.__module__}.{kind.__qualname__}"
    if kind in seen:
        return name
    seen = (*seen, kind)
    parts = [name, *(f"{base.__module__}.{base.__qualname__}" for base in kind.__mro__[1:])]
    for key, value in sorted(vars(kind).items()):
        inner = getattr(value, "__func__", value)
        if isinstance(inner, (types.FunctionType, *_PLAIN)) and key not in _WHERE:
            parts.append(f"{key}={_text(inner, seen)}")
    return hashlib.sha256("\n".join(parts).encode("utf-8", "backslashreplace")).hexdigest()


def _text(value: Any, seen: tuple[Any, ...]) -> str:
    if isinstance(value, types.FunctionType):
        return _of_function(value, seen)
    if isinstance(value, type):
        known = f"{value.__module__}.{value.__qualname__}"
        return known if _importable(value) else _of_class(value, seen)
    if isinstance(value, _PLAIN):
        return repr(value)
    return _digest(value)


def _of_code(code: types.CodeType) -> list[str]:
    """All of it but where it was written."""
    parts = [code.co_name, code.co_code.hex(), repr(code.co_names), repr(code.co_varnames)]
    parts += [repr(code.co_freevars), str(code.co_flags), str(code.co_argcount)]
    return parts + [_of_constant(each) for each in code.co_consts]


def _of_constant(value: Any) -> str:
    if isinstance(value, types.CodeType):
        return repr(_of_code(value))
    if isinstance(value, frozenset):
        return f"frozenset {sorted(map(_of_constant, value))}"
    if isinstance(value, tuple):
        return f"tuple {[_of_constant(each) for each in value]}"
    return repr(value)


def _names(code: types.CodeType) -> set[str]:
    """The names that code refers to, that of inner functions included."""
    found = set(code.co_names)
    for each in code.co_consts:
        if isinstance(each, types.CodeType):
            found |= _names(each)
    return found
