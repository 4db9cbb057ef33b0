"""Calls that are pickled in a short way: the pickle is the same, and all others go the long way."""

from __future__ import annotations

import math
import operator
import pickle
import sys
import textwrap
import time
import types
from functools import partial

import cloudpickle
import pytest

from civis_futures._data import pickling
from civis_futures._data.plain import plain_call
from civis_futures._files.contents import ContentStore


@pytest.fixture(autouse=True)
def nothing_by_value():
    """Other tests of this process may have asked for it."""
    asked = [sys.modules[name] for name in cloudpickle.list_registry_pickle_by_value()]
    for module in asked:
        cloudpickle.unregister_pickle_by_value(module)
    yield
    for module in asked:
        cloudpickle.register_pickle_by_value(module)


def of_a_module(*args, **kwargs):
    return args, kwargs


class Number(int):
    pass


def short(fn, args=(), kwargs=None, most=64_000):
    return plain_call(fn, args, kwargs or {}, pickling.PROTOCOL, most)


@pytest.mark.parametrize("fn", [abs, time.sleep, operator.add, textwrap.dedent, of_a_module])
@pytest.mark.parametrize(
    ("args", "kwargs"),
    [((), {}), ((1, -2.5), {}), (["x", "x", b"y", None, True], {"a": 1, "b": "x" * 300})],
)
def test_it_is_what_the_long_way_makes(fn, args, kwargs):
    contents = ContentStore("http://x/")
    long = pickling._pickled((fn, tuple(args), kwargs), contents, pickling.Manner())
    assert short(fn, args, kwargs) == (long.data, fn.__module__)
    made = pickling.call_payload("task", fn, args, kwargs, contents)
    assert made == long
    assert pickle.loads(made.data) == (fn, tuple(args), kwargs)


def made(name="f", module=__name__):
    fn = types.FunctionType(of_a_module.__code__, globals(), name)
    fn.__module__, fn.__qualname__ = module, name
    return fn


@pytest.mark.parametrize(
    "fn",
    [
        made(),
        made("of_a_module"),  # another one has that name
        made("of_a_module", "__main__"),
        made(module=None),
        made(module=[]),
        made(module="not_there"),
        lambda: None,
        [].append,
        "x".join,
        partial(abs, 1),
        int,
        Number(1).__add__,
        math,
        None,
    ],
)
def test_what_is_not_found_by_its_name_goes_the_long_way(fn):
    assert short(fn) is None


@pytest.mark.parametrize("value", [Number(1), 1j, (1,), [1], {}, object(), abs, int, range(3)])
def test_what_may_bring_something_along_goes_the_long_way(value):
    assert short(abs, (value,)) is None
    assert short(abs, (), {"x": value}) is None


def test_what_is_large_or_may_come_by_value_goes_the_long_way():
    assert short(len, (bytes(100),), most=50) is None
    cloudpickle.register_pickle_by_value(sys.modules[__name__])
    try:
        assert short(of_a_module) is None
    finally:
        cloudpickle.unregister_pickle_by_value(sys.modules[__name__])
