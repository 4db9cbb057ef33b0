"""Where something cannot be pickled, the error names the way to it."""

from __future__ import annotations

import collections
import functools
import threading
import types

import pytest
from tasks import by_value

import civis_futures as cf
from civis_futures._data import pickling
from civis_futures._files.contents import ContentStore
from civis_futures.worker import _child

by_value(__name__)

LOCK = threading.Lock()
TYPE = "_thread.lock"


def closure():
    lock = threading.Lock()

    def f():
        return lock

    return f


def of_global():
    return LOCK


def two_steps():
    return of_global()


def inner():
    return [LOCK for _ in range(2)]


def default(x, y=LOCK, *, z=1):
    return x, y, z


def keyword(*, z=LOCK):
    return z


def attribute():
    pass


attribute.lock = LOCK


@functools.cache
def cached():
    return LOCK


class Model:
    def __init__(self, lock):
        self.parts = {"a": [1, lock]}

    def fit(self):
        pass


class Slotted:
    __slots__ = ("lock",)

    def __init__(self):
        self.lock = LOCK


class Holder:
    lock = LOCK


class Itself:
    def __init__(self):
        self.me, self.lock = self, LOCK


class OfBase(Holder):
    pass


class Meta(type):
    lock = LOCK


class OfMeta(metaclass=Meta):
    pass


class Properties:
    @property
    def lock(self):
        return LOCK


def annotated(x=None):
    return x


annotated.__annotations__ = {"x": LOCK}


@functools.singledispatch
def by_type(x):
    return x


@by_type.register
def _(x: int):
    return LOCK


def calls_cached():
    return cached()


made = types.ModuleType("made")
made.lock = LOCK


def of_module():
    return made


class MyList(list):
    pass


class MyError(Exception):
    pass


WAYS = {
    "closure": (closure(), (), {}, f"f -> closure 'lock' -> {TYPE}"),
    "global": (of_global, (), {}, f"of_global -> global 'LOCK' -> {TYPE}"),
    "two steps": (two_steps, (), {}, f"two_steps -> global 'of_global' -> global 'LOCK' -> {TYPE}"),
    "inner function": (inner, (), {}, f"inner -> global 'LOCK' -> {TYPE}"),
    "default": (default, (1,), {}, f"default -> default of 'y' -> {TYPE}"),
    "keyword default": (keyword, (), {}, f"keyword -> default of 'z' -> {TYPE}"),
    "attribute of a function": (attribute, (), {}, f"attribute -> attribute 'lock' -> {TYPE}"),
    "cached": (cached, (), {}, f"cached -> global 'LOCK' -> {TYPE}"),
    "argument": (len, (1, LOCK), {}, f": argument 2 -> {TYPE}"),
    "keyword": (len, (), {"x": [LOCK]}, f": argument 'x' -> [0] -> {TYPE}"),
    "instance": (len, (Model(LOCK),), {}, "argument 1 -> attribute 'parts' -> ['a'] -> [1] -> _th"),
    "slots": (len, (Slotted(),), {}, f"argument 1 -> attribute 'lock' -> {TYPE}"),
    "itself": (len, (Itself(),), {}, f"argument 1 -> attribute 'lock' -> {TYPE}"),
    "class": (Holder, (), {}, f"Holder -> attribute 'lock' -> {TYPE}"),
    "class of": (len, (Holder(),), {}, f"argument 1 -> class Holder -> attribute 'lock' -> {TYPE}"),
    "base class": (OfBase, (), {}, f"OfBase -> class Holder -> attribute 'lock' -> {TYPE}"),
    "metaclass": (OfMeta, (), {}, f"OfMeta -> class Meta -> attribute 'lock' -> {TYPE}"),
    "property": (Properties, (), {}, f"attribute 'lock' -> getter -> global 'LOCK' -> {TYPE}"),
    "annotation": (annotated, (), {}, f"annotated -> annotation of 'x' -> {TYPE}"),
    "by type": (by_type, (), {}, f"by_type -> for int -> global 'LOCK' -> {TYPE}"),
    "calls cached": (calls_cached, (), {}, f"global 'cached' -> cached -> global 'LOCK' -> {TYPE}"),
    "module": (of_module, (), {}, f"of_module -> global 'made' -> variable 'lock' -> {TYPE}"),
    "view": (len, (types.MappingProxyType({"a": LOCK}),), {}, f"argument 1 -> ['a'] -> {TYPE}"),
    "method": (Model(LOCK).fit, (), {}, "Model.fit -> the method's object -> attribute 'parts'"),
    "partial": (functools.partial(len, LOCK), (), {}, f"len -> argument 1 -> {TYPE}"),
    "list": (len, (MyList([1, LOCK]),), {}, f"argument 1 -> [1] -> {TYPE}"),
    "dict": (len, (collections.OrderedDict(a=LOCK),), {}, f"argument 1 -> ['a'] -> {TYPE}"),
    "generator": (len, ((x for x in ()),), {}, ": argument 1 -> generator"),
}  # fmt: skip


@pytest.mark.parametrize("what", WAYS)
def test_of_a_call(what):
    function, args, kwargs, way = WAYS[what]
    with pytest.raises(cf.CallPicklingError) as caught:
        pickling.call_payload("it", function, args, kwargs, ContentStore("here"))
    assert way in str(caught.value)
    assert str(caught.value).startswith("it cannot be sent: TypeError: ")


def test_of_a_batch():
    rows = [(1, 2), (3, {"x": LOCK})]
    with pytest.raises(cf.CallPicklingError, match=r": argument 2 of item 1 -> \['x'\] -> _thread"):
        pickling.chunk_payload("it", max, rows, 0, ContentStore("here"))


def test_of_what_is_shared():
    with pytest.raises(cf.CallPicklingError, match=r": list -> \[1\] -> _thread.lock"):
        pickling.shared([1, LOCK], ContentStore("here"))


def test_of_an_initializer():
    with pytest.raises(cf.CallPicklingError, match=r": of_global -> global 'LOCK' -> _thread.lock"):
        pickling.initial_payload(of_global, (), ContentStore("here"))


def test_of_a_result_and_an_exception():
    answer, data = _child._returned({"a": [LOCK]})
    assert data is None
    assert f"object: result -> ['a'] -> [0] -> {TYPE}" in answer["text"]
    answer, _ = _child._raised(MyError(1, LOCK))
    assert f"object: MyError -> part 2 -> {TYPE}" in answer["text"]


def test_what_differs_from_time_to_time_has_no_way():
    class Once:
        failed = False

        def __reduce__(self):
            if not Once.failed:
                Once.failed = True
                raise ValueError("only once")
            return object, ()

    with pytest.raises(cf.CallPicklingError, match=r"only once$"):
        pickling.call_payload("it", len, (Once(),), {}, ContentStore("here"))
