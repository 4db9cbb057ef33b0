"""All of the user's code that a call reaches counts, wherever it is; and nothing else does."""

from __future__ import annotations

import importlib
import linecache
import logging
import sys
import textwrap

import pytest

from civis_futures._sessions.identity import identity

SCRIPT = """
import collections, contextvars, dataclasses, enum, functools, operator, random, threading, types
import typing

def helper(x): return x + 1
def deeper(x): return helper(x)
def even(x): return x == 0 or odd(x - 1)
def odd(x): return x != 0 and even(x - 1)
ready = functools.partial(helper, 10)
first, second = (lambda x: x * 3), (lambda x: x * 4)

@functools.lru_cache(maxsize=7)
def cached(x): return x - 1

def logged(function):
    @functools.wraps(function)
    def inner(*args): return function(*args), "log"
    return inner

@logged
def decorated(x): return x / 2

@functools.singledispatch
def shown(x): return "any"
@shown.register
def _(x: int): return "whole"

def scaled(factor):
    def inner(x): return x * factor
    return inner
times = scaled(5)
also = scaled(6)

class Meta(type):
    def __len__(cls): return 11

class Base(metaclass=Meta):
    def of_base(self): return 12
    @property
    def level(self): return 13

class Inner:
    def of_inner(self): return 14

class Model(Base):
    sizes = (15, 16)
    steps = [17, {"deep": {18}}]
    late = functools.partialmethod(helper, 19)
    class Nested:
        def of_nested(self): return 20
    @functools.cached_property
    def lazy(self): return 21
    @staticmethod
    def static(): return 22
    @classmethod
    def made(cls): return 23
    @functools.lru_cache
    def known(self): return 24
    def __init__(self): self.inner = Inner()
    def fit(self): return self.of_base() + super().level

class Color(enum.Enum):
    RED = 25
    def rgb(self): return 26

@dataclasses.dataclass
class Data:
    weight: int = 27
    more: list = dataclasses.field(default_factory=lambda: [28])

@dataclasses.dataclass
class Typed:
    share: float

class Fields(typing.TypedDict):
    width: int

Bound = typing.TypeVar("Bound", bound=complex)
Point = collections.namedtuple("Point", "x y")
LIMITS = {"low": 29, "all": [30, (31,)]}
MODEL = Model()

class Stage: pass
class Last(Stage):
    size = 37
def stages(): return Stage.__subclasses__()

class Missing:
    def __init__(self, level): self.level = level
    def __reduce__(self): return "MISSING"
class Single(Missing):
    def __reduce__(self): return single, ()
def single(): return SINGLE
MISSING, SINGLE = Missing(38), Single(39)
depth = contextvars.ContextVar("depth", default=40)
Whole = typing.NewType("Whole", tp=bytes)

def use(x, default=32, *, keyword=(33, helper)):
    def nested(y): return y + 34
    return [deeper, even, ready, first, second, cached, decorated, shown, times, also, Model, Color,
            Data, Typed, Fields, Bound, Point, LIMITS, MODEL.fit, x in {"35", "36"},
            stages, MISSING, SINGLE, depth, Whole, operator.add, random.random]

def other(x): return 99
"""
CHANGES = [
    "x + 1", "x == 0", "x != 0", "helper, 10", "x * 3", "x * 4", "maxsize=7", "x - 1\n\ndef logged",
    '"log"', "x / 2", '"any"', '"whole"', "x * factor", "scaled(5)", "scaled(6)", "return 11",
    "return 12", "return 13", "return 14", "15, 16", "17", "18", "helper, 19", "return 20",
    "return 21", "return 22", "return 23", "return 24", "super().level", "RED = 25", "return 26",
    "= 27", "[28]", '"x y"', "29", "30", "(31,)", "default=32", "33, helper", "y + 34", '"36"',
    "operator.add", "share: float", "width", "bound=complex", "size = 37", "Missing(38)",
    "Single(39)", "default=40", "tp=bytes",
]  # fmt: skip

OTHERS = {
    "operator.add": "operator.sub", "x y": "x z", "super().level": "Base().level", '"': '"!',
    "33": "34", "x *": "x +", "x -": "x +", "x +": "x -", "y +": "y -", "x /": "x *", "==": "<",
    "!=": ">", "float": "int", "width": "height", "complex": "str",
    "bytes": "str",
}  # fmt: skip


def key_of(text, module="__main__"):
    names = {"__name__": module}
    exec(compile(text, "<a cell>", "exec"), names)
    return identity(names["use"], (1,))


def changed(text, part):
    """The text with another constant or operator in that part."""
    for old, new in OTHERS.items():
        if old in part:
            return text.replace(part, part.replace(old, new, 1), 1)
    digit = next(char for char in reversed(part) if char.isdigit())
    return text.replace(part, part.replace(digit, str((int(digit) + 5) % 10)), 1)


@pytest.mark.parametrize("part", CHANGES)
def test_what_is_reached_counts(part):
    assert SCRIPT.count(part) >= 1
    assert changed(SCRIPT, part) != SCRIPT
    assert key_of(changed(SCRIPT, part)) != key_of(SCRIPT)


def test_what_is_swapped_counts():
    swapped = SCRIPT.replace("x * 3", "x * 0").replace("x * 4", "x * 3").replace("x * 0", "x * 4")
    assert key_of(swapped) != key_of(SCRIPT)
    swapped = SCRIPT.replace("scaled(5)", "scaled(6)", 1).replace(
        "also = scaled(6)", "also = scaled(5)"
    )
    assert key_of(swapped) != key_of(SCRIPT)


@pytest.mark.parametrize(
    ("old", "new"),
    [("return 99", "return 98"), ("\ndef helper", "\n\n# so\ndef helper"), ("x + 1", "(x  +  1)")],
    ids=["what is not reached", "comments", "layout"],
)  # fmt: skip
def test_nothing_else_counts(old, new):
    assert old in SCRIPT
    assert key_of(SCRIPT.replace(old, new)) == key_of(SCRIPT)


def test_nor_does_what_the_code_has_done():
    names = {"__name__": "__main__"}
    exec(SCRIPT, names)
    before = identity(names["use"], ())
    names["cached"](1), names["shown"](1), names["MODEL"].known(), names["decorated"](3)
    assert identity(names["use"], ()) == before


def test_classes_of_arguments_count():
    def key(text):
        names = {"__name__": "__main__"}
        exec(text, names)
        return identity(
            print, ([names["Model"]()], {"m": names["MODEL"].fit, "f": names["deeper"]})
        )

    for part in ("return 12", "return 14", "return 20", "x + 1"):
        assert key(changed(SCRIPT, part)) != key(SCRIPT)
    assert key(SCRIPT.replace("return 99", "return 98")) == key(SCRIPT)


# --- modules of the user's -----------------------------------------------------------------------

FILES = {
    "plan/__init__.py": "",
    "plan/entry.py": """
        import plan.steps
        from . import rules
        from .steps import Step
        import threading
        LOCK, CONNECTION = threading.Lock(), object()
        def run(x):
            LOCK, CONNECTION
            import importlib, lazily
            importlib.import_module("by_name")
            return plan.steps.go(x), rules.LIMIT, Step
        """,
    "plan/steps.py": """
        from plan import rules as their_rules
        def go(x): return their_rules.apply(x)
        def unused(x): return 4
        class Step:
            def do(self): return 5
        """,
    "plan/rules.py": "LIMIT = [6]\ndef apply(x): return x * 7\ndef unused(): return 8\n",
    "lazily.py": "import indeed\ndef f(): return 9\n",
    "indeed.py": "def f(): return 10\n",
    "by_name.py": "def f(): return 12\n",
    "apart.py": "def f(): return 11\n",
}


@pytest.fixture
def key(tmp_path, monkeypatch):
    """key(name, old, new): of a call of `plan.entry`, in a process with that change."""
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setattr(sys, "dont_write_bytecode", True)

    def key(name="", old="", new=""):
        for file, text in FILES.items():
            if file == name:
                assert old in text
                text = text.replace(old, new)
            (tmp_path / file).parent.mkdir(exist_ok=True)
            (tmp_path / file).write_text(textwrap.dedent(text))
        forget()
        importlib.invalidate_caches()
        entry = importlib.import_module("plan.entry")
        direct = identity(entry.run, (1,))
        names = {"__name__": "__main__", "entry": entry}
        exec("def use(x): return entry.run(x)", names)
        return direct, identity(names["use"], (1,))

    def forget():
        for module in [
            x for x in sys.modules if x.partition(".")[0] in ("plan", "lazily", "indeed", "by_name")
        ]:
            del sys.modules[module]
        linecache.clearcache()

    yield key
    forget()


@pytest.mark.parametrize(
    ("name", "old", "new"),
    [
        ("plan/entry.py", "LIMIT, Step", "LIMIT, 1"), ("plan/steps.py", "apply(x)", "apply(1)"),
        ("plan/steps.py", "return 5", "return 6"), ("plan/rules.py", "[6]", "[7]"),
        ("plan/rules.py", "x * 7", "x * 8"), ("lazily.py", "9", "8"), ("indeed.py", "10", "12"),
        ("by_name.py", "12", "13"),
    ],
)  # fmt: skip
def test_own_modules_count(key, name, old, new):
    (direct, through), (now, through_now) = key(), key(name, old, new)
    assert direct != now
    assert through != through_now


@pytest.mark.parametrize(
    ("name", "old", "new"),
    [
        ("", "", ""), ("plan/steps.py", "return 4", "return 3"),
        ("plan/rules.py", "return 8", "return 9"), ("apart.py", "11", "12"),
        ("lazily.py", "import", "# a comment\n\nimport"),
    ],
)  # fmt: skip
def test_but_not_what_is_unused_there(key, name, old, new):
    assert key() == key(name, old, new)


def test_of_what_is_installed_the_name_counts():
    import json

    json.dumps, before = (lambda x: x), json.dumps
    try:
        names = {"__name__": "__main__", "json": json}
        exec("def use(x): return json.dumps(x)", names)
        now = identity(names["use"], ())
    finally:
        json.dumps = before
    assert identity(names["use"], ()) == now


def test_of_what_is_pickled_by_a_name_that_is_there_the_name_counts(monkeypatch, tmp_path):
    """Its state may be anything, and does not travel: locks, and what the process has done."""
    (tmp_path / "with_names.py").write_text(
        "import threading\n"
        "class Named:\n"
        "    def __init__(self): self.lock = threading.Lock()\n"
        "    def __reduce__(self): return 'NAMED'\n"
        "NAMED = Named()\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    named = importlib.import_module("with_names").NAMED
    root = logging.getLogger()
    monkeypatch.setattr(root, "handlers", [logging.StreamHandler()])
    before = identity(len, (named, root))
    named.count = 3
    monkeypatch.setattr(root, "handlers", [])
    assert identity(len, (named, root)) == before
    assert identity(len, (root, named)) != before
    del sys.modules["with_names"]
