"""What is here of the client's script: functions, classes and variables that came by value.

A function that travels by value brings copies of all that it uses, with each call. In a process of
the standard library's pools these things are there once: what an initializer puts into them stays,
``if model is None: model = load()`` loads once, and they are found by their names. So here is a
module for each one that things come from by value, ``__main__`` above all, whose variables are the
globals of all functions of it; and a function or class with a name there is made once for each
version of its code.

What has come is put in its *place*: a variable of such a module, an attribute of such a class or
function, a cell of a closure. If the same was sent for that place before, what is there now stays,
whatever has become of it since; if the client has changed it, it is replaced. So each call finds
what it was submitted with, but for what the process itself has done to it.

The same: a function or class of which there is one here is compared as such, plain values by their
value, and all else by a digest of its pickle, taken before anybody could change it.

Part of the child. It knows what cloudpickle's pickles are made of, and not where they come from.
"""

from __future__ import annotations

import builtins
import collections
import contextlib
import functools
import io
import itertools
import operator
import sys
from types import (
    BuiltinFunctionType,
    FunctionType,
    MemberDescriptorType,
    MethodType,
    ModuleType,
)

from .. import _wire
from .._pickles.by_value import reduction
from .._pickles.classes import fill_members, made_class, made_enumeration, metaclass, put_all
from .._pickles.code import BY_VALUE, with_file_names

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Hashable, Iterable, Iterator
    from typing import Any

_CLOUDPICKLE = "cloudpickle.cloudpickle"
#: Values of these types are compared as they are.
_PLAIN = (int, str, bytes, bool, type(None), type(Ellipsis))
#: What has a place of its own, or refers to nothing that has come.
_NOT_CHANGED = (type, FunctionType, BuiltinFunctionType, ModuleType)
#: Characters or bytes.
_SHORT = 1000
#: What a module says of itself that its functions bring along.
_MODULE_NAMES = ("__file__", "__package__", "__path__")
#: What every module has from its beginning.
_NAMES = frozenset(vars(ModuleType("")))
#: What a function has besides its attributes, and may be changed.
_OF_FUNCTIONS = ("__defaults__", "__kwdefaults__")


class MainModule(ModuleType):
    """The ``__main__`` of a child.

    Its functions may ask for `__file__`, as far as they know. Who starts other processes must not:
    he would run the script in them, if it is here, or else would miss it. `multiprocessing`, which
    runs that file in each interpreter that it starts, gets one that makes what is here.
    """

    #: Writes a file with some variables, and gives its path; of the class, as the user's variables
    #: are those of the module.
    __write: Callable[[dict[str, Any]], str] | None = None

    @classmethod
    def _written_by(cls, write: Callable[[dict[str, Any]], str] | None) -> None:
        cls.__write = staticmethod(write) if write is not None else None

    @property
    def __file__(self) -> str:  # type: ignore[override]
        """A file for `multiprocessing`, and for others none that could be run."""
        asks = sys._getframe(1).f_globals.get("__name__")
        if self.__write is not None and asks == "multiprocessing.spawn":
            own = {name: value for name, value in vars(self).items() if name[:2] != "__"}
            if own:
                return self.__write(own)
        raise AttributeError("this module has come by value")


class _Home:
    """A module, class or function that has places, with what was sent for each of them."""

    def __init__(self, thing: Any, module: str) -> None:
        self.thing = thing
        self.module = module
        self.sent: dict[Hashable, Any] = {}
        self.number = next(_numbers)


_numbers = itertools.count()


class Script:
    """All of it in this process. While a call is unpickled, its functions stand in for those of
    cloudpickle; when that is done, `settle`. `write`: puts variables into a file, see `MainModule`.
    """

    def __init__(self, write: Callable[[dict[str, Any]], str] | None = None) -> None:
        main = MainModule("__main__")
        MainModule._written_by(write)
        vars(main)[BY_VALUE] = True
        sys.modules["__main__"] = main
        self._modules = {"__main__": _Home(main, "__main__")}
        self._named: dict[tuple[str, str], _Home] = {}  # by module and name: what came last
        self._homes: dict[int, _Home] = {}  # of the same, by the id of the function or class
        self._wrapped: dict[tuple[Any, ...], Any] = {}
        self._fresh: list[_Place] = []
        self._doubtful: list[_Place] = []
        self._changes = 0  # so often has something in a place given way to what was sent
        self._recalled: dict[str, tuple[int, Any]] = {}
        #: The ids of what is of a file, and its name: buffers, and what was unpickled from them.
        self.of_files: dict[int, str] = {}

    def stand_in(self, module: str, name: str) -> Any:
        """What to call in place of such a function; None if it is that one."""
        if module == _CLOUDPICKLE and name in _STAND_INS:
            stand_in: Any = _STAND_INS[name]
            return functools.partial(stand_in, self)
        if module == "functools" and name in ("_lru_cache_wrapper", "singledispatch"):
            make: Any = getattr(functools, name)
            return functools.partial(self._wrap, make)
        return None

    def settle(self) -> None:
        """All of a call is here: what is the same as before gives way to what it has become."""
        own: dict[int, Any] = {}
        for place in self._doubtful:
            key = self._digest(place.value)
            if place.home.sent[place.name] != key:
                self._replace(place, key)
            else:
                own[id(place.value)] = place.get()
        for place in self._fresh:
            key = self._plain(place.value)
            place.home.sent[place.name] = self._digest(place.value) if key is None else key
        if own:
            self._put_own(own)
        self.drop()

    def _put_own(self, own: dict[int, Any]) -> None:
        """What came for other places may have copies of things that are here: these take their
        place, however deep.
        """
        things = _OwnThings(own)
        for place in [*self._fresh, *self._doubtful]:
            if id(place.value) not in own and place.get() is place.value:
                value = things.within(place.value)
                if value is not place.value:
                    place.put(value)

    def give_up(self) -> None:
        """A call could not be unpickled: what it has changed is not known any more."""
        self._changes += 1
        self.drop()

    def drop(self) -> None:
        """The rest of a call after it was unpickled, or could not be."""
        self._doubtful, self._fresh = [], []
        self.of_files = {}

    def recall(self, file: str | None) -> Any:
        """The function of a module that was unpickled from this file, if all is still as it was
        sent then; None if not.
        """
        changes, function = self._recalled.get(file or "", (-1, None))
        return function if changes == self._changes else None

    def note(self, file: str | None, value: Any) -> None:
        """A value was unpickled from a file."""
        if file is None:
            return
        self.of_files[id(value)] = file
        if id(value) in self._homes and type(value) is FunctionType:
            self._recalled[file] = self._changes, value

    # --- instead of cloudpickle's ----------------------------------------------------------------

    def make_function(
        self, code: Any, variables: dict[str, Any], name: str | None, defaults: Any, closure: Any
    ) -> Any:
        """A function without its state: the one that is here, if it has that code."""
        if BY_VALUE not in variables:
            return _way("_make_function")(code, variables, name, defaults, closure)
        module = self._module(variables)
        known = self._named.get((module.__name__, name or ""))
        if known is not None and type(known.thing) is FunctionType and known.thing.__code__ == code:
            if known.thing.__code__.co_filename != code.co_filename:  # which is not compared
                known.thing.__code__ = code
            return known.thing
        made = FunctionType(code, vars(module), None, defaults, closure)
        if name is not None:
            self._settle_down(module.__name__, name, made)
        return made

    def fill_function(self, function: Any, state: Any) -> None:
        """Its state: what it refers to, and its own attributes."""
        attributes, slots = state
        variables = function.__globals__
        if BY_VALUE not in variables:
            _way("_function_setstate")(function, state)
            return
        self._put_variables(variables["__name__"], slots["__globals__"])
        home = self._homes.get(id(function))
        fresh = home is None or not home.sent
        own = {**attributes, **{name: slots[name] for name in _OF_FUNCTIONS}}
        name = slots["__qualname__"]
        cells = [*zip(function.__closure__ or (), slots["__closure__"] or (), strict=True)]
        if fresh:
            _way("_function_setstate")(function, (attributes, {**slots, "__globals__": {}}))
        if home is None:
            return
        for part, value in own.items():
            self._put(home, _Place(home, part, function, part, value), fresh)
        for number, (cell, came) in enumerate(cells):
            with contextlib.suppress(ValueError):  # an empty one
                value = came.cell_contents
                place = _Place(home, f"cell {number}", cell, "cell_contents", value)
                self._put(home, place, fresh)
        self._bind(function, name)

    def make_class(
        self, kind: Any, name: str, bases: Any, options: Any, tracker: str, extra: Any
    ) -> Any:
        """A class without its state: the one that is here, if it has the same bases."""
        given = kind, name, bases, options, tracker, extra
        make = functools.partial(made_class, self._known, *given)
        shape = kind, options.get("__orig_bases__", bases)
        return self._class(make, options.get("__module__"), extra, tracker, shape)

    def make_enum(self, bases: Any, *given: Any) -> Any:
        """The same for an enumeration: if it has the same members."""
        _, _, members, module, tracker, extra = given
        make = functools.partial(made_enumeration, self._known, bases, *given)
        return self._class(make, module, extra, tracker, (metaclass(bases, extra), bases, members))

    def _class(
        self, make: Callable[[], Any], module: Any, extra: Any, tracker: str, shape: Any
    ) -> Any:
        if not extra or "name" not in extra:
            known = _way("_DYNAMIC_CLASS_TRACKER_BY_ID").get(tracker)
            return make() if known is None else known
        self._module({"__name__": module})
        known = self._named.get((module, extra["name"]))
        if known is not None and isinstance(known.thing, type):
            with contextlib.suppress(Exception):  # members compare as the user likes
                if _shape(known.thing, len(shape)) == shape:
                    made = _way("_lookup_class_or_track")(tracker, known.thing)
                    if made is known.thing:
                        return made
        made = make()
        self._settle_down(module, extra["name"], made)
        return made

    def _known(self, kind: Any) -> bool:
        return id(kind) in self._homes

    def make_instance(self, where: tuple[str, str], value: Any) -> Any:
        """What the script has by a name, without its state: the one that is here."""
        known = self._named.get(where)
        if known is None or type(known.thing) is not type(value):
            module, name = where
            self._module({"__name__": module})
            self._settle_down(module, name, value)
        return self._named[where].thing

    def fill_class(self, kind: Any, state: Any) -> Any:
        """Attributes, methods among them: of a class, or of an instance that has a name."""
        attributes, slots = state
        home = self._homes.get(id(kind))
        if home is None:
            put_all(kind, attributes)
            fill_members(kind, slots)
            return kind
        if "__globals__" not in slots:  # of the result of another call: it is the one that is here
            return kind
        self._put_variables(home.module, slots["__globals__"])
        fresh = not home.sent
        if fresh:
            put_all(kind, attributes)
        for place in _in_members(home, slots):
            self._put(home, place)
        for name in home.sent.keys() - attributes.keys():  # the client has deleted it
            if type(name) is tuple:  # of a member of an enumeration
                continue
            del home.sent[name]
            with contextlib.suppress(AttributeError):  # gone already
                delattr(kind, name)
        for name, value in attributes.items():
            if name != "_abc_impl":
                self._put(home, _Place(home, name, kind, name, value), fresh)
            elif not fresh:
                for each in value:
                    kind.register(each)
        if isinstance(kind, type):
            self._bind(kind, kind.__qualname__)
        return kind

    def _wrap(self, make: Any, function: Any, *given: Any) -> Any:
        """A function with a cache, or one that chooses: the same again for the same function."""
        if id(function) not in self._homes:
            return make(function, *given)
        key = make, function, *given
        if key not in self._wrapped:
            self._wrapped[key] = make(function, *given)
        return self._wrapped[key]

    # --- places ----------------------------------------------------------------------------------

    def _module(self, variables: dict[str, Any]) -> Any:
        name = variables["__name__"]
        if name not in self._modules:
            self._modules[name] = _Home(ModuleType(name), name)
        module = self._modules[name].thing
        own = vars(module)
        own.update({part: variables[part] for part in _MODULE_NAMES if part in variables})
        own[BY_VALUE] = True
        own.setdefault("__builtins__", builtins)
        return module

    def _settle_down(self, module: str, name: str, thing: Any) -> None:
        before = self._named.get((module, name))
        if before is not None and type(before.thing) is FunctionType:
            del self._homes[id(before.thing)]  # classes may come back, see `make_class`
        home = self._homes.get(id(thing)) or _Home(thing, module)
        self._homes[id(thing)] = self._named[module, name] = home

    def _bind(self, thing: Any, name: str) -> None:
        """Things with a name of their own in their module are found there."""
        named = self._named.get((thing.__module__, name))
        if "." not in name and named is not None and named.thing is thing:
            self._put_variables(thing.__module__, {name: thing})

    def _put_variables(self, module: str, variables: dict[str, Any]) -> None:
        home = self._modules[module]
        for name, value in variables.items():
            # What is there and was not sent, the process itself has put there.
            own = name not in home.sent and name in vars(home.thing) and name not in _NAMES
            self._put(home, _Place(home, name, home.thing, name, value), done=own)

    def _put(self, home: _Home, place: _Place, done: bool = False) -> None:
        """Something was sent for a place; `done` if it need not be put there the first time."""
        if place.name not in home.sent:
            home.sent[place.name] = None
            if not done:
                place.put(place.value)
            self._fresh.append(place)
            return
        key = self._plain(place.value)
        if key is None:
            self._doubtful.append(place)
        elif key != home.sent[place.name]:
            self._replace(place, key)

    def _replace(self, place: _Place, key: Any) -> None:
        place.home.sent[place.name] = key
        place.put(place.value)
        self._changes += 1

    # --- what is the same ------------------------------------------------------------------------

    def _plain(self, value: Any) -> Any:
        """What tells a value from others at once; None if nothing does."""
        kind = type(value)
        if kind in _PLAIN:
            # Long values are not kept for that.
            return None if kind in (str, bytes) and len(value) > _SHORT else (kind, value)
        if kind in (float, complex):
            return kind, repr(value)
        if id(value) in self._homes or kind is ModuleType or kind is BuiltinFunctionType:
            return _Same(value)
        if kind is tuple and len(value) < 10:
            keys = tuple(map(self._plain, value))
            return None if None in keys else (kind, keys)
        if kind in (staticmethod, classmethod) and id(value.__func__) in self._homes:
            return kind, _Same(value.__func__)
        return None

    def _digest(self, value: Any) -> Any:
        """The same for what is compared by its pickle; what has none is equal to nothing."""
        if id(value) in self.of_files:
            return self.of_files[id(value)]
        target = io.BytesIO()
        buffers: list[Any] = []
        try:
            _pickler()(target, buffers.append, self).dump(value)
            parts = [target.getvalue(), *(each.raw() for each in buffers)]
            return " ".join(map(_wire.digest, parts))
        except Exception:
            return object()

    def stand_for(self, value: Any) -> Any:
        """What a value is in a digest: something else to pickle, or None."""
        if id(value) in self._homes:
            return str, (f"{self._homes[id(value)].number}",)
        if id(value) in self.of_files:
            return str, (self.of_files[id(value)],)
        return None


class _Same:
    """Equal if it is the same object."""

    def __init__(self, value: Any) -> None:
        self._value = value

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Same) and other._value is self._value

    __hash__ = None  # type: ignore[assignment]


class _Place:
    """Where something was sent to: an attribute of an owner, and by what name its home knows it."""

    __slots__ = ("attribute", "home", "name", "owner", "value")

    def __init__(self, home: _Home, name: Hashable, owner: Any, attribute: str, value: Any) -> None:
        self.home, self.name, self.owner = home, name, owner
        self.attribute, self.value = attribute, value

    def put(self, value: Any) -> None:
        """Put it there."""
        if isinstance(self.owner, ModuleType):
            vars(self.owner)[self.attribute] = value
        elif isinstance(self.owner, type):
            setattr(self.owner, self.attribute, value)
        else:  # as `pickle` does it: it may be frozen
            object.__setattr__(self.owner, self.attribute, value)

    def get(self) -> Any:
        """What is there; if nothing is any more, what was sent."""
        if isinstance(self.owner, (type, ModuleType)):
            return vars(self.owner).get(self.attribute, self.value)
        return getattr(self.owner, self.attribute, self.value)


class _OwnThings:
    """What has just come, with what is here in place of its copies: `own`, by the ids of these.

    Lists, dicts and instances that have come are changed, and not copied: something else that has
    come may refer to them, too. What is here already is left as it is.
    """

    def __init__(self, own: dict[int, Any]) -> None:
        self._own = own
        self._seen = {id(each): each for each in own.values()}
        self._ahead: list[Any] = []

    def within(self, value: Any) -> Any:
        """The value, or what stands for it here."""
        value = self._instead_of(value)
        while self._ahead and len(self._seen) < 1_000_000:
            self._change(self._ahead.pop())
        return value

    def _change(self, value: Any) -> None:
        if isinstance(value, dict):
            self._change_items(dict.__setitem__, value, dict.items(value))
        if isinstance(value, list):
            self._change_items(list.__setitem__, value, enumerate(list.__iter__(value)))
        if isinstance(value, collections.deque):
            self._change_items(collections.deque.__setitem__, value, enumerate(value))
        with contextlib.suppress(AttributeError):
            attributes = object.__getattribute__(value, "__dict__")  # no code of the user's
            self._change_items(dict.__setitem__, attributes, attributes.items())
        for kind in type(value).__mro__:
            slots = [each for each in vars(kind).values() if type(each) is MemberDescriptorType]
            for slot in slots:
                with contextlib.suppress(AttributeError):  # an empty one
                    self._change_items(_fill, value, [(slot, slot.__get__(value))])

    def _change_items(self, put: Any, owner: Any, items: Iterable[tuple[Any, Any]]) -> None:
        for key, value in list(items):
            instead = self._instead_of(value)
            if instead is not value:
                put(owner, key, instead)

    def _instead_of(self, value: Any) -> Any:
        if id(value) in self._own:
            return self._own[id(value)]
        kind = type(value)
        if kind in _PLAIN or kind is float or isinstance(value, _NOT_CHANGED):
            return value
        if kind is MethodType:
            instance = self._instead_of(value.__self__)
            return value if instance is value.__self__ else MethodType(value.__func__, instance)
        if kind is tuple:
            made = tuple(map(self._instead_of, value))
            return value if all(map(operator.is_, made, value)) else made
        if id(value) not in self._seen:
            self._seen[id(value)] = value
            self._ahead.append(value)
        return value


def _fill(owner: Any, slot: MemberDescriptorType, value: Any) -> None:
    slot.__set__(owner, value)


def _in_members(home: _Home, slots: dict[str, Any]) -> Iterator[_Place]:
    """What the members of an enumeration have of their own."""
    for member, own in slots.get("members", {}).items():
        for name, value in own.items():
            owner = home.thing.__members__[member]
            yield _Place(home, (member, name), owner, name, value)


def _shape(kind: Any, parts: int) -> tuple[Any, ...]:
    """What cannot be changed in a class: of an enumeration, its members too."""
    bases = vars(kind).get("__orig_bases__", kind.__bases__)
    shape = type(kind), bases
    if parts == 2:
        return shape
    return *shape, {name: member._value_ for name, member in kind.__members__.items()}


def _way(name: str) -> Any:
    from cloudpickle import cloudpickle

    return getattr(cloudpickle, name)


@functools.cache
def _pickler() -> Any:
    """The class of picklers for digests. Whoever needs it has cloudpickle."""
    import cloudpickle

    class DigestPickler(cloudpickle.Pickler):  # type: ignore[misc]
        dispatch_table = with_file_names(cloudpickle.Pickler.dispatch_table)

        def __init__(self, target: Any, take: Callable[[Any], None], script: Script) -> None:
            super().__init__(target, 5, take)
            self._script = script

        def reducer_override(self, value: Any) -> Any:
            how = self._script.stand_for(value)
            how = how or reduction(value, super().reducer_override, {})
            if type(value) is FunctionType and how is not NotImplemented:
                # Without its globals: these have places of their own.
                own = value.__defaults__, value.__kwdefaults__, value.__closure__, value.__dict__
                return FunctionType, (value.__code__,), own
            return how

    return DigestPickler


_STAND_INS = {
    "_make_function": Script.make_function,
    "_function_setstate": Script.fill_function,
    "_make_skeleton_class": Script.make_class,
    "_make_skeleton_enum": Script.make_enum,
    "_lookup_class_or_track": Script.make_instance,
    "_class_setstate": Script.fill_class,
}
