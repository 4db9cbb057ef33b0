"""Classes that travel by value: how they are made where they arrive, before they have their state.

What the script's own code did when a class was made (a metaclass, a hook of a base class, what
makes the members of an enumeration) is not done again: it may not be here yet, nobody knows what
it was given, and what it came to has come along. Standard library only, as `_wire`; cloudpickle is
used only where it was imported before.
"""

from __future__ import annotations

import contextlib
import enum
from types import FunctionType, resolve_bases
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    #: Whether a class came by value, or is the caller's own.
    Known = Callable[[Any], bool]

_HOOK = "__init_subclass__"
#: What an enumeration gives its members itself.
_OF_MEMBERS = {"_value_", "_name_", "_sort_order_", "__objclass__"}


def made_class(
    own: Known, kind: Any, name: str, bases: Any, options: Any, tracker: str, extra: Any = None
) -> Any:
    """A class without its state."""
    import cloudpickle.cloudpickle as ways

    def make(*given: Any) -> Any:
        return (type if plain else _imported(known, kind)).__new__(kind, *given)

    known = _by_value(own)
    plain = bool(extra) and "plain" in extra
    meta = make if plain or known(kind) else kind
    given = meta, name, bases, options, tracker, extra
    try:
        with _unnoticed(known, bases):
            return ways._make_skeleton_class(*given)
    except TypeError:  # the hook of a library wants to be given what nobody has noted
        with _unnoticed(lambda kind: type(vars(kind)[_HOOK]) is classmethod, bases):
            return ways._make_skeleton_class(*given)


def made_enumeration(
    own: Known, bases: Any, name: str, qualname: str, members: Any, module: str, tracker: str,
    extra: Any,
) -> Any:  # fmt: skip
    """The same for an enumeration, with its members."""
    import cloudpickle.cloudpickle as ways

    extra, known = extra or {}, _by_value(own)
    meta = metaclass(bases, extra)
    variables = meta.__prepare__(name, bases)
    if "made_of" in extra:
        left = iter(list(zip(extra["made_of"], members.values(), strict=True)))
        data = extra["data"]

        def new(kind: Any, *_: Any) -> Any:
            parts, value = next(left)
            member = data.__new__(kind, *parts)
            member._value_ = value
            return member

        variables["__new__"], variables["__init__"] = new, lambda *_: None
    for each, value in members.items():
        variables[each] = enum.member(value)
    with _unnoticed(known, bases):
        made = _imported(known, meta).__new__(meta, name, bases, variables)
    for each in ("__init__", "__new_member__") if "made_of" in extra else ():
        if each in vars(made):
            type.__delattr__(made, each)
    for value, each in extra.get("aliases", {}).items():
        made._value2member_map_[value] = made.__members__[each]
    made.__module__, made.__qualname__ = module, qualname
    return ways._lookup_class_or_track(tracker, made)


def metaclass(bases: Any, extra: Any) -> Any:
    """That of an enumeration."""
    return (extra or {}).get("meta") or type(bases[-1])


def enumeration(
    kind: Any, given: Any, attributes: dict[str, Any]
) -> tuple[Any, dict[str, Any], dict[str, Any]]:
    """What an enumeration is made of, aliases included; what else there is to say of that; and as a
    part of its state, what members have beyond names and values.
    """
    bases, name, qualname, _, *rest = given
    members = kind.__members__
    for each in members:
        attributes.pop(each, None)
    slots = {"members": {name: _own_of_member(member) for name, member in members.items()}}
    extra: dict[str, Any] = {}
    if type(kind) is not type(bases[-1]):
        extra["meta"] = type(kind)
    ways = kind._new_member_, kind.__init__
    if any(type(way) is FunctionType and way.__module__ != "enum" for way in ways):
        reduced = (object.__reduce_ex__(member, 2)[1] for member in members.values())
        extra["data"] = kind._member_type_
        extra["made_of"] = [tuple(part for part in args if part is not kind) for args in reduced]
    aliases = {
        value: member._name_
        for value, member in kind._value2member_map_.items()
        if members.get(member._name_) is member and value != member._value_
    }
    if aliases:
        extra["aliases"] = aliases
    values = {name: member._value_ for name, member in members.items()}
    return (bases, name, qualname, values, *rest), extra, slots


def put_all(thing: Any, attributes: dict[str, Any]) -> None:
    """Give a class its attributes; or an instance, as `pickle` would, which may be frozen."""
    import cloudpickle.cloudpickle as ways

    if isinstance(thing, type):
        ways._class_setstate(thing, (attributes, {}))
        return
    for name, value in attributes.items():
        object.__setattr__(thing, name, value)


def fill_members(kind: Any, slots: dict[str, Any]) -> None:
    """The rest of an enumeration's state: what its members have of their own."""
    for name, own in slots.get("members", {}).items():
        vars(kind.__members__[name]).update(own)


def _own_of_member(member: Any) -> dict[str, Any]:
    return {name: value for name, value in vars(member).items() if name not in _OF_MEMBERS}


def _by_value(own: Known) -> Known:
    """Whether a class is one's own, or has come or gone by value, as local ones do."""
    import cloudpickle.cloudpickle as ways

    return lambda kind: own(kind) or kind in ways._DYNAMIC_CLASS_TRACKER_BY_CLASS


def _imported(known: Known, kind: Any) -> Any:
    """The nearest class from which a metaclass is derived, if not itself, that is of no script."""
    return next(each for each in kind.__mro__ if not known(each))


@contextlib.contextmanager
def _unnoticed(known: Known, bases: Any) -> Iterator[None]:
    """The known ones among these bases are not told that they have one more subclass."""
    above = {each for base in resolve_bases(bases) for each in getattr(base, "__mro__", ())}
    hooks = {each: vars(each)[_HOOK] for each in above if _HOOK in vars(each) and known(each)}
    for each in hooks:
        type.__delattr__(each, _HOOK)
    try:
        yield
    finally:
        for each, hook in hooks.items():
            type.__setattr__(each, _HOOK, hook)
