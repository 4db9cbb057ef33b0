"""What tells a call from another: the same in each process, and different where it matters."""

from __future__ import annotations

import functools
import os
import subprocess
import sys

import numpy as np
import pytest

from civis_futures._sessions.identity import identity, without_code

CELL = """
import functools, sys
from civis_futures._sessions.identity import identity

class Model:
    rate = 0.1
    def fit(self, x):
        return x in {"a", "b", "c"}
    @staticmethod
    def helper():
        return 1

def inner(x):
    return x + 1

def make(step):
    def outer(x, *, tags=frozenset({"p", "q", "r"})):
        return [inner(y) for y in x if y in {"u", "v", "w"}], step
    return outer

arguments = ({"x", "y", "z"}, {"k": [1, {"a", "b"}]}, Model(), Model, lambda x: x * 2)
for fn in (make(3), functools.partial(make(3), tags={"a", "b"}), Model().fit, print):
    print(identity(fn, arguments))
"""


def keys_of(cell, name, seed):
    """What a process prints whose cell is in a file of this name."""
    code = f"exec(compile({cell!r}, {name!r}, 'exec'))"
    environment = {**os.environ, "PYTHONHASHSEED": seed}
    result = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True
    )
    return result.stdout.splitlines()


def test_another_process_makes_the_same():
    first, *others = (
        keys_of("\n" * int(seed) + CELL, f"<cell {seed}>", seed) for seed in ("1", "2", "3")
    )
    assert len(set(first)) == 4
    assert others == [first, first]


@pytest.mark.parametrize(
    ("old", "new"),
    [("x + 1", "x + 2"), ("make(3)", "make(4)"), ('"u"', '"t"'), ('"r"})', '"s"})')],
    ids=["a helper", "what it closes over", "a constant", "a default"],
)
def test_what_a_function_does_counts(old, new):
    before, now = keys_of(CELL, "<c>", "1")[0], keys_of(CELL.replace(old, new), "<c>", "1")[0]
    assert before.startswith("make.<locals>.outer/")
    assert before != now
    assert without_code(before) == without_code(now)


def test_arguments_count():
    def key(*arguments):
        return identity(functools.partial(pow, 2), arguments)

    array = np.arange(1_000_000.0)
    assert key(array) == key(array.copy())
    changed = array.copy()
    changed[-1] = 0
    assert key(array) != key(changed)
    assert key({"a": 1}) == key({"a": 1})
    text = "".join(["a", "b"])
    assert key("ab", "ab") == key("ab", text)  # one object or two
    ring = []
    ring.append(ring)
    assert key(ring) == key(ring)
    assert without_code(key(1)) != without_code(key(2))
    assert without_code(key(1)) != without_code(identity(abs, (1,)))


def test_what_a_partial_holds_are_arguments():
    def key(exponent, base=2):
        return identity(functools.partial(pow, base), ((exponent,), {}))

    def code(key):
        return key.split("/")[1]

    assert code(key(1)) == code(key(1, base=3)) == code(identity(pow, ((2, 1), {})))
    assert without_code(key(1)) != without_code(key(1, base=3))


def test_functions_among_the_arguments_are_code():
    """A batch of joblib's is a function of ours that calls one of these for each row."""

    def first(x):
        return x

    def second(x):
        return x + 1

    second.__qualname__ = first.__qualname__
    for arguments in (lambda f: ((f, 1), {}), lambda f: [(f, (1,), {}), (f, (2,), {})]):
        before, now = identity(map, arguments(first)), identity(map, arguments(second))
        assert before != now
        assert without_code(before) == without_code(now)
    both = identity(map, ((first, second), {})), identity(map, ((second, first), {}))
    assert both[0] != both[1]
