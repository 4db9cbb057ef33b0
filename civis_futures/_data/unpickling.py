"""From bytes that a worker has sent to what the caller gets, without harm to what she has.

A function or class that came by value there and comes back is the caller's own, if that is still
here with the same code: the very thing that was sent, or one of that name. Cloudpickle would make a
copy of a function, and put the container's attributes into the caller's class.

The only module that unpickles what comes back; whether the bytes may be trusted is known before.
"""

from __future__ import annotations

import functools
import io
import pickle
import sys
from collections.abc import Callable, Sequence
from types import FunctionType
from typing import Any

import cloudpickle.cloudpickle as ways

from .._pickles.by_value import adder, class_key, found, within
from .._pickles.classes import fill_members, made_class, made_enumeration, metaclass, put_all
from .._pickles.code import BY_VALUE
from .._pickles.rows import finished, in_turn

_add = adder()
#: What is made of functions, and has them as its `__wrapped__`.
_WRAPPERS = {"_lru_cache_wrapper", "singledispatch"}
#: The function that unpickles a pickle within another one.
_INNER = pickle.loads.__module__, "loads"


def loaded(data: bytes, buffers: Sequence[bytes] = ()) -> Any:
    """What these bytes are the pickle of.

    Raises:
        Exception: whatever unpickling raises.
    """
    unpickler = _Unpickler(io.BytesIO(data), buffers=buffers)
    try:
        return unpickler.load()
    finally:
        unpickler.let_go()


def loaded_call(data: bytes, buffers: Sequence[bytes]) -> Callable[[], Any]:
    """The call that these bytes are, to be made here; what a row of it raises is raised."""
    parts = loaded(data, buffers)
    if len(parts) == 2:
        each, (first, rows, *how) = parts
        generators = how[0][1] if how else None
        return lambda: in_turn(each, rows, first, generators=generators)
    function, args, kwargs = parts
    return lambda: finished(function(*args, **kwargs))


class _Unpickler(pickle.Unpickler):
    """Knows what is the caller's own."""

    def __init__(self, file: io.BytesIO, *, buffers: Sequence[bytes]) -> None:
        super().__init__(file, buffers=buffers)
        self._own: dict[int, Any] = {}
        self._of_modules: list[dict[str, Any]] = []  # globals
        self._stand_ins: dict[str, Callable[..., Any]] = {
            "_make_function": self._function,
            "_make_skeleton_class": self._class,
            "_make_skeleton_enum": self._enum,
            "_function_setstate": self._fill_function,
            "_class_setstate": self._fill_class,
            "_lookup_class_or_track": self._instance,
        }

    def let_go(self) -> None:
        """Of all that was unpickled. (These methods of its own are in its memo: in such a cycle, it
        would all live until the garbage collector comes.)
        """
        self._stand_ins.clear()
        self._own.clear()
        self.memo.clear()

    def find_class(self, module: str, name: str) -> Any:
        """What a pickle names."""
        if module == ways.__name__ and name in self._stand_ins:
            return self._stand_ins[name]
        if module == "functools" and name in _WRAPPERS:
            return functools.partial(self._wrapper, getattr(functools, name))
        if (module, name) == _INNER:  # a pickle within this one
            return lambda data, *, buffers=(): loaded(data, buffers)
        return super().find_class(module, name)

    def _function(self, code: Any, variables: dict[str, Any], name: str | None, *rest: Any) -> Any:
        if _is_add(code):  # to a function that chooses by a type; not to the caller's own
            here: Any = self._add
            self._own[id(here)] = here
            return here
        if variables.pop(BY_VALUE, False):  # a copy that stays here is of no module
            self._of_modules.append(variables)
        if name is not None and any(known is variables for known in self._of_modules):
            for _, here in within(_here(variables["__name__"], name)):
                if type(here) is FunctionType and here.__code__ == code:
                    self._own[id(here)] = here
                    return here
        made: FunctionType = ways._make_function(code, variables, None, *rest)
        return made

    def _wrapper(self, make: Any, function: Any, *given: Any) -> Any:
        """What is around a function: the caller's own, if the function is."""
        if id(function) in self._own:
            name = function.__qualname__
            here = _here(function.__module__, name)
            if getattr(here, "__wrapped__", None) is function:
                self._own[id(here)] = here
                return here
        return make(function, *given)

    def _class(self, *given: Any) -> Any:
        kind, _, _, options, tracker, extra = given
        module = options.get("__module__")
        own = self._own_class(kind, module, tracker, extra)
        return made_class(self._known, *given) if own is None else own

    def _enum(self, *given: Any) -> Any:
        bases, _, _, _, module, tracker, extra = given
        own = self._own_class(metaclass(bases, extra), module, tracker, extra)
        return made_enumeration(self._known, *given) if own is None else own

    def _instance(self, where: tuple[str, str], value: Any) -> Any:
        """What the caller has by a name, in place of a blank copy."""
        here = _here(*where)
        if type(here) is not type(value):
            return value
        self._own[id(here)] = here
        return here

    def _known(self, kind: Any) -> bool:
        return id(kind) in self._own

    def _own_class(self, kind: Any, module: Any, tracker: str, extra: Any) -> Any:
        """The class that was sent; or one of that name with the same code, if the sender says what
        that is.
        """
        own = ways._DYNAMIC_CLASS_TRACKER_BY_ID.get(tracker)
        if own is None and extra and extra.get("key"):
            here = _here(module, extra["name"])
            if type(here) is kind and class_key(here) == extra["key"]:
                own = here
        if own is not None:
            self._own[id(own)] = own
        return own

    def _fill_function(self, function: Any, state: Any) -> None:
        if id(function) not in self._own:
            ways._function_setstate(function, state)

    def _add(self, function: Any, kinds: Any) -> None:
        if id(function) not in self._own:
            _add(function, kinds)

    def _fill_class(self, kind: Any, state: Any) -> Any:
        if id(kind) not in self._own:
            put_all(kind, state[0])
            fill_members(kind, state[1])
        return kind


def _is_add(code: Any) -> bool:
    """Whether it is that of `_add`; in the worker's program, it has no columns."""
    ours = _add.__code__
    return (code.co_qualname, code.co_names, code.co_code) == (
        ours.co_qualname, ours.co_names, ours.co_code,
    )  # fmt: skip


def _here(module: Any, name: str) -> Any:
    loaded = sys.modules.get(module) if isinstance(module, str) else None
    return found(getattr(loaded, "__dict__", {}), name)
