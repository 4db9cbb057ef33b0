"""Functions and classes that travel by value: what is said of them beyond what cloudpickle says.

Client and worker both pickle them, each for the other, and both need to know which of its own a
thing is that has come. So each says by which name it is found in its module, and that its globals
are those of the module. All of this is said in places that a reader without this module ignores.

And what the standard library makes of functions, and cloudpickle cannot pickle: functions with a
cache, cached properties, functions that choose by a type. Standard library only, as `_wire`;
cloudpickle is used only where it was imported before.
"""

from __future__ import annotations

import contextlib
import copyreg
import functools
import importlib
import sys
from contextvars import Context, ContextVar
from enum import Enum
from types import BuiltinFunctionType, CodeType, FunctionType, ModuleType
from typing import TYPE_CHECKING, Any

from .._wire import digest
from .classes import enumeration
from .code import BY_VALUE, code_key

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Set

#: Functions with a cache, as `functools.lru_cache` makes them.
Cached: Any = type(functools.lru_cache(len))
#: The code that all functions share which `functools.singledispatch` makes.
_DISPATCH = functools.singledispatch(len).__code__  # type: ignore[attr-defined]
_LAZY = sys.version_info >= (3, 14)
#: Where a class has its annotations after they were asked for, since Python 3.14.
_CACHED = "__annotations_cache__"
#: What is a function's own beside its code, its defaults and what it refers to.
_OF_FUNCTIONS = "__module__", "__qualname__", "__doc__", "__kwdefaults__", "__dict__"
_REDUCE: Any = object.__reduce__
_REDUCE_EX: Any = object.__reduce_ex__
_ALIAS = "kind(name, value, type_params=parameters)"
#: By what a table has its entries, as far as it can be said in a name.
_PLAIN = str, int, float, bool, bytes, type(None)
#: How many wrappers there may be around a function that is found by the name of the outermost.
_DEEPEST = 4
_METHODS = functools.cached_property, functools.partialmethod, functools.singledispatchmethod
#: What may stand in a class or module in a function's place, with the attributes that lead to it.
_WRAPPERS: tuple[tuple[Any, tuple[str, ...]], ...] = (
    ((FunctionType, Cached), ("__wrapped__",)),
    ((classmethod, staticmethod), ("__func__",)),
    (property, ("fget", "fset", "fdel")),
    (_METHODS, ("func",)),
)


class Reduced:
    """Stands for something in a pickle that is made in this way."""

    def __init__(self, how: tuple[Any, ...]) -> None:
        self._how = how

    def __reduce__(self) -> tuple[Any, ...]:
        return self._how


def found(variables: Mapping[str, Any], name: str) -> Any:
    """What has this name among the variables of a module: of a function ("f"), a method ("C.f"), or
    what is within a wrapper ("f.__wrapped__"). None if there is none.
    """
    first, *rest = name.split(".")
    value = variables.get(first)
    for part in rest:
        value = vars(value).get(part) if isinstance(value, type) else getattr(value, part, None)
    return value


def name_of(thing: Any, variables: Mapping[str, Any]) -> str | None:
    """By which name `found` gives just this function or class, if it is there at all."""
    name = thing.__qualname__
    if variables.get(name) is thing:
        return str(name)
    if not isinstance(name, str) or "<" in name:
        return None
    return next((name + way for way, each in within(found(variables, name)) if each is thing), None)


def within(thing: Any, depth: int = _DEEPEST) -> Iterator[tuple[str, Any]]:
    """A thing, and what it is wrapped around, each with the attributes that lead there."""
    yield "", thing
    for kinds, parts in _WRAPPERS if depth else ():
        if isinstance(thing, kinds):
            for part in parts:
                for way, inner in within(getattr(thing, part, None), depth - 1):
                    yield f".{part}{way}", inner


def reduction(
    value: Any, usual: Callable[[Any], Any], cells: dict[int, Any], keyed: bool = False
) -> Any:
    """How to pickle a value: `usual` is cloudpickle's way, to which a name is added; or another way
    where it has none. With `keyed`, classes say what their code is.

    `cells` is empty at the beginning of a pickle: cells of closures as they will be there, by the
    ids of those that are here. So functions that share a variable share it there, too.
    """
    kind = type(value)
    if kind is FunctionType:
        how = usual(_with_known_names(value))
        if how is NotImplemented:
            return how
        if value.__code__ is _DISPATCH:
            return _dispatcher(value)
        make, (*given, closure), *state = how
        if closure is not None:
            pairs = zip(value.__closure__, closure, strict=True)
            closure = tuple(cells.setdefault(id(cell), empty) for cell, empty in pairs)
        return _named_function(value, (make, (*given, closure), *state), keyed)
    if issubclass(kind, type):
        how = usual(value)
        made_anew = isinstance(how, tuple) and len(how) == 6
        return _named_class(value, how, keyed) if made_anew else how
    if kind is Cached:
        return NotImplemented if _importable(value) else _cached(value)
    if kind is functools.cached_property or kind is functools.singledispatchmethod:
        # Before Python 3.12 the first has a lock, in 3.13.0 the second a cache of weak references.
        left = "lock", "_method_cache"
        state = {name: part for name, part in vars(value).items() if name not in left}
        return kind, (value.func,), state
    if kind is ContextVar:
        return _variable_of_module(value) or (made_again(value), ())
    if kind is functools.partialmethod:  # since Python 3.14 it cannot be made without its function
        method: Any = kind
        return functools.partial(method, value.func, *value.args, **value.keywords), ()
    if kind.__name__ == "ForwardRef" and kind.__module__ == "annotationlib":
        return _forward_ref(value)
    if not keyed and (kind.__reduce__ is not _REDUCE or kind.__reduce_ex__ is not _REDUCE_EX):
        return _named_instance(value, usual)
    return usual(value)


def made_again(variable: ContextVar[Any]) -> functools.partial[ContextVar[Any]]:
    """What makes such a context variable."""
    default = {}
    with contextlib.suppress(LookupError):  # it has none
        default["default"] = Context().run(variable.get)
    return functools.partial(ContextVar, variable.name, **default)


def _variable_of_module(value: Any) -> tuple[Any, ...] | None:
    """How to get a value from the module that has it by a name, if that is there, too: an object
    that does not say of which module it is.
    """
    import cloudpickle.cloudpickle as ways

    for place, module in list(sys.modules.items()):
        if place not in ("__main__", "__mp_main__") and type(module) is ModuleType:
            for name, each in list(vars(module).items()):
                if each is value and ways._should_pickle_by_reference(module):
                    return getattr, (module, name)
    return None


def _named_function(function: FunctionType, how: Any, keyed: bool) -> Any:
    make, (code, variables, _, *rest), (attributes, slots), *more = how
    if not _of_its_module(function.__globals__):
        return how
    variables[BY_VALUE] = True
    slots["__globals__"].update(_annotated(slots["__annotations__"], function.__globals__))
    if "__subclasses__" in (names := _names_in_code(code)):
        slots["__globals__"].update(derived(function, names))
    name = name_of(function, function.__globals__)
    if name is None and keyed and "<" not in function.__qualname__ and _is_all(code):
        name = function.__qualname__  # its class is not here
    return make, (code, variables, name, *rest), (attributes, slots), *more


def _is_all(code: CodeType) -> bool:
    """Whether functions of this code are alike: a wrapper has variables that another has not."""
    return set(code.co_freevars) <= {"__class__"}


def _named_class(kind: type, how: Any, keyed: bool) -> Any:
    make, (*given, tracker, _), (attributes, slots), *more = how
    extra: dict[str, Any] = {}
    if issubclass(kind, Enum):
        given, extra, slots = enumeration(kind, given, attributes)
    elif _made_by_typing(kind):
        meta, name, _, options = given
        given = meta, name, kind.__bases__, {**options, **_orig_bases(kind)}
        extra["plain"] = True
    options = given[-1] if type(given[-1]) is dict else {}  # enumerations have none
    if "__slots__" in vars(kind):  # or instances would not fit into this class when they are back
        options["__slots__"] = kind.__slots__  # type: ignore[attr-defined]
    annotations = annotations_of(kind)
    if annotations:
        attributes.pop(_CACHED, None)
        attributes["__annotations__"] = annotations
    variables = variables_of(kind)
    name = name_of(kind, variables)
    options["__qualname__"] = name or kind.__qualname__
    if name is not None:
        slots = {**slots, "__globals__": _annotated(annotations, variables)}
        extra |= {"name": name, "key": class_key(kind) if keyed else ""}
    return make, (*given, tracker, extra), (attributes, slots), *more


def _aliased(alias: Any) -> Any:
    """What a type alias stands for; None if that cannot be told, or is made of the alias."""
    seen: list[Any] = []
    with contextlib.suppress(Exception):  # it is an expression of the user's
        ahead = [alias.__value__]
        while ahead:
            each = ahead.pop()
            if each is alias:
                return None
            if not any(each is known for known in seen):
                seen.append(each)
                ahead += getattr(each, "__args__", ())
                ahead += [each.__value__] if type(each) is type(alias) else []
        return alias.__value__
    return None


def _made_by_typing(kind: Any) -> bool:
    """Whether it is a named tuple or typed dict, which are derived from other classes than they
    say.
    """
    named_tuple = tuple in kind.__bases__ and hasattr(kind, "_fields")
    return named_tuple or type(kind).__name__ == "_TypedDictMeta"


def _orig_bases(kind: Any) -> dict[str, Any]:
    name = "__orig_bases__"
    return {name: vars(kind)[name]} if name in vars(kind) else {}


def _named_instance(value: Any, usual: Callable[[Any], Any]) -> Any:
    """How to pickle an instance that says so itself: if that is by the name of a variable of a
    module that is not there, or by a function that gives the variable, or looks it up in a table
    there, with all that it has.
    """
    import cloudpickle.cloudpickle as ways

    kind = type(value)
    how = usual(value)
    if how is not NotImplemented or kind in ways.Pickler.dispatch_table or issubclass(kind, Enum):
        return how
    if kind.__module__ != "typing" and not says_how(kind):
        return how
    how = value.__reduce_ex__(5)
    name = variable_in(how, value)
    entry = "" if name else entry_of_table(how, value)
    if not (name or entry) or is_there(how, value, name):
        return how
    make, state = _blank(kind, value, plainly=bool(entry))
    parts = state if isinstance(state, tuple) else (state,)
    own: dict[str, Any] = {}
    if all(part is None or type(part) is dict for part in parts):
        own, state = {key: each for part in parts for key, each in (part or {}).items()}, None
    fill = None, None, ways._class_setstate
    if not entry and found(variables_of(value), name) is not value:  # local: no other is like it
        return (make, (), (own, {}), *fill) if state is None else (make, (), state)
    variables = {} if entry or "." in name else {name: value}
    known = (value.__module__, name or entry), Reduced((make, (), state))
    return ways._lookup_class_or_track, known, (own, {"__globals__": variables}), *fill


def says_how(kind: Any) -> bool:
    """Whether a class says in Python how its instances are pickled."""
    return FunctionType in (type(kind.__reduce__), type(kind.__reduce_ex__))


def variable_in(how: Any, value: Any) -> str:
    """The variable that a value is, if it is pickled as that: by its name, or by a function that
    gives it; else empty.
    """
    if isinstance(how, str):
        return how
    names = getattr(getattr(how[0], "__code__", None), "co_names", ())
    return next((name for name in names if how[0].__globals__.get(name) is value), "")


def entry_of_table(how: Any, value: Any) -> str:
    """How to ask for a value that is pickled as what a function or class gives for plain arguments,
    if that has it in a table, by one of them; else empty. Where such a function arrives, the table
    may not be there yet, as it has the value itself.
    """
    if isinstance(how, str) or not how[1] or not _is_plain(how[1]):
        return ""
    kind = type(value)
    makers = (kind.__new__, kind.__init__) if how[0] is kind else (how[0],)
    for maker in makers:
        names = getattr(getattr(maker, "__code__", None), "co_names", ())
        variables = getattr(maker, "__globals__", {})
        things = [variables[name] for name in names if name in variables]
        things.append(getattr(maker, "__self__", None))
        parts = [vars(each) for each in (*kind.__mro__, *things) if hasattr(each, "__dict__")]
        for table in [*things, *(each[name] for each in parts for name in names if name in each)]:
            if any(_has(table, key, value) for key in how[1]):
                return f"{how[0].__qualname__}{how[1]!r}"
    return ""


def _is_plain(key: Any) -> bool:
    return all(map(_is_plain, key)) if type(key) is tuple else type(key) in _PLAIN


def _has(table: Any, key: Any, value: Any) -> bool:
    """Whether a dict or list has this value there."""
    try:
        return isinstance(table, dict | list) and table[key] is value
    except (LookupError, TypeError):
        return False


def is_there(how: Any, value: Any, name: str) -> bool:
    """Whether the variable that a value is, or the function that gives it, is found by its name
    where it arrives.
    """
    return _importable(value, name) if isinstance(how, str) else _importable(how[0])


def _blank(kind: Any, value: Any, plainly: bool) -> tuple[Callable[[], Any], Any]:
    """What makes such an instance, and its state; `plainly`: as if its class did not say how."""
    if kind.__module__ == "typing" and kind.__name__ == "TypeAliasType":
        names = {"kind": kind, "name": value.__name__, "parameters": value.__type_params__}
        names |= {"value": _aliased(value), "__name__": value.__module__}  # says whose it is
        return functools.partial(eval, _ALIAS, names), None
    if kind.__module__ == "typing" and kind.__name__ in ("ParamSpec", "TypeVarTuple"):
        return functools.partial(kind, value.__name__), {"__module__": value.__module__}
    # Not as `pickle` would do it, which asks whether this is the class of what stands for it.
    new: Any = copyreg.__newobj__  # type: ignore[attr-defined]
    args: Any = getattr(value, "__getnewargs__", tuple)()
    if plainly:
        ways = (vars(base).get("__new__") for base in kind.__mro__)
        plain: Any = next(way for way in ways if isinstance(way, BuiltinFunctionType))
        return functools.partial(plain, kind, *args), value.__getstate__()
    return functools.partial(new, kind, *args), value.__getstate__()


def variables_of(thing: Any) -> dict[str, Any]:
    """The variables of the module that a function or class is of."""
    if type(thing) is FunctionType:
        return thing.__globals__
    variables: dict[str, Any] = getattr(sys.modules.get(thing.__module__), "__dict__", {})
    return variables


def _of_its_module(variables: dict[str, Any]) -> bool:
    """Whether these are all the variables of a module, and not those of a piece of code that was
    executed by itself and says that it is of one.
    """
    if BY_VALUE in variables:
        return True
    name = variables.get("__name__")
    module = sys.modules.get(name) if isinstance(name, str) else None
    return getattr(module, "__dict__", None) is variables


def _forward_ref(value: Any) -> Any:
    """What stands in an annotation for what was not there when it was evaluated, as in the fields
    of a dataclass that refers to itself. It has all variables of its module, which are there, too.
    """
    module = value.__forward_module__
    if module is None and value.__owner__ is None and value.__globals__ is not None:
        module = value.__globals__.get("__name__")
    kind: Any = type(value)
    make = functools.partial(
        kind, module=module, owner=value.__owner__, is_class=value.__forward_is_class__
    )
    cells = value.__cell__
    if isinstance(cells, dict):  # the names of its class are those of its owner
        cells = {name: cell for name, cell in cells.items() if name != "__classdict__"}
    rest = {"__cell__": cells, "__extra_names__": value.__extra_names__}
    return make, (value.__forward_arg__,), (None, rest)


def _with_known_names(function: FunctionType) -> FunctionType:
    """A function whose annotations can be evaluated: itself, or one that is like it.

    Since Python 3.14 they are evaluated when they are asked for, as pickling does. They may name
    what is imported for type checkers only.
    """
    if not _LAZY or _evaluated(function) is not None:
        return function
    known = FunctionType(
        function.__code__, function.__globals__, function.__name__,
        function.__defaults__, function.__closure__,
    )  # fmt: skip
    for name in _OF_FUNCTIONS:
        setattr(known, name, getattr(function, name))
    known.__annotations__ = _as_texts(function)
    return known


def _names_in_code(code: CodeType) -> set[str]:
    inner = (_names_in_code(each) for each in code.co_consts if type(each) is CodeType)
    return set(code.co_names).union(*inner)


def derived(function: FunctionType, names: Set[str]) -> dict[str, type]:
    """The classes that are derived from those that a function names, or is a method of; or from any
    in its module if there are none: for one that asks for `__subclasses__`, which it need not name.
    """
    variables = function.__globals__
    module, own = variables.get("__name__"), function.__qualname__.partition(".")[0]
    kinds = {name: each for name, each in variables.items() if isinstance(each, type)}
    named = {kind for name, kind in kinds.items() if name in names or name == own}
    return {
        name: kind
        for name, kind in kinds.items()
        if kind.__module__ == module
        and any(
            base in named or (not named and base.__module__ == module) for base in kind.__mro__[1:]
        )
    }


def annotations_of(kind: type) -> Any:
    """The annotations of a class itself, without those of its bases.

    Since Python 3.14 a class has a function that makes them. That has the names of the class, and
    cannot be pickled, so cloudpickle leaves it out.
    """
    own = vars(kind)
    if own.get("__annotate_func__") is None:
        return own.get("__annotations__", own.get(_CACHED))
    annotations = _evaluated(kind)
    return _as_texts(kind) if annotations is None else annotations


def _evaluated(thing: Any) -> Any:
    """Annotations as things; None if they name what is not there."""
    try:
        return thing.__annotations__
    except Exception:  # they are expressions of the user's
        return None


def _as_texts(thing: Any) -> dict[str, str]:
    """Annotations as they are written, which can be evaluated where all of their names are."""
    library = importlib.import_module("annotationlib")  # since Python 3.14
    try:
        texts: dict[str, str] = library.get_annotations(thing, format=library.Format.STRING)
    except Exception:  # the user may have made what makes them
        return {}
    return texts


def _annotated(annotations: Any, variables: dict[str, Any]) -> dict[str, Any]:
    """The variables that annotations name in texts, for `typing.get_type_hints`."""
    if not annotations or type(annotations) is not dict:
        return {}
    names = {name for each in annotations.values() for name in _names_in(each)}
    return {name: variables[name] for name in sorted(names) if name in variables}


def _names_in(annotation: Any) -> Iterator[str]:
    text = getattr(annotation, "__forward_arg__", annotation)
    if isinstance(text, str):
        yield from _names_in_text(text)
    for inner in getattr(annotation, "__args__", None) or ():
        if inner is not annotation:
            yield from _names_in(inner)


@functools.lru_cache(1000)
def _names_in_text(text: str) -> tuple[str, ...]:
    try:
        return compile(text, "<annotation>", "eval", dont_inherit=True).co_names
    except (SyntaxError, ValueError):  # a text for people
        return ()


def class_key(kind: type) -> str:
    """What tells a class from another one of the same name, the same in client and worker: its
    bases, and the code of its methods.
    """
    parts = [f"{base.__module__}.{base.__qualname__}" for base in kind.__bases__]
    for name, value in sorted(vars(kind).items()):
        if not name.startswith("__annotate"):  # since Python 3.14, made anew by each class
            parts += [f"{name} {key}" for key in _keys_in(value, _DEEPEST)]
    return digest("\n".join(parts).encode("utf-8", "backslashreplace"))[:16]


def _keys_in(value: Any, depth: int) -> Iterator[str]:
    """The keys of the code of a method, also within what it is wrapped in."""
    code = getattr(value, "__code__", None)
    if isinstance(code, CodeType):
        for each in all_code(code):
            yield code_key(each)
    for kinds, parts in _WRAPPERS if depth else ():
        if isinstance(value, kinds):
            for part in parts:
                yield from _keys_in(getattr(value, part, None), depth - 1)


def all_code(code: CodeType) -> list[CodeType]:
    """Some code, and that of the functions and classes within it."""
    found = [code]
    for each in found:
        found += [constant for constant in each.co_consts if isinstance(constant, CodeType)]
    return found


# --- what the standard library makes of functions ------------------------------------------------


def _importable(thing: Any, name: str | None = None) -> bool:
    """Whether a function, or what has that name, is found by its name where it arrives."""
    import cloudpickle.cloudpickle as ways

    place = ways._lookup_module_and_qualname(thing, name)
    return place is not None and not ways._is_registered_pickle_by_value(place[0])


def _cached(cached: Any) -> Any:
    """A function with a cache, without what is in the cache."""
    import cloudpickle.cloudpickle as ways

    given = cached.cache_parameters()
    make = cached.__wrapped__, given["maxsize"], given["typed"], functools._CacheInfo
    # So that who has one of its own can leave that as it is.
    return Cached, make, (vars(cached), {}), None, None, ways._class_setstate


def _dispatcher(function: Any) -> Any:
    """A function that chooses an implementation by the type of its first argument."""
    kinds = dict(function.registry)
    add = adder()
    return functools.singledispatch, (kinds.pop(object),), kinds, None, None, add


def adder() -> Callable[[Any, Mapping[type, Any]], None]:
    """What registers implementations; by value, as there may be no such module there."""

    def add(function: Any, kinds: Mapping[type, Any]) -> None:
        for kind, implementation in kinds.items():
            function.register(kind, implementation)

    return add
