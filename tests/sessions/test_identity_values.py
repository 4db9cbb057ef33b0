"""Equal arguments are equal in each process, and all code that a call reaches counts."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

#: A process that tells the identity of whatever it is sent.
TELLER = """
import sys
from collections import *
from dataclasses import dataclass, field
from functools import partial
from types import MappingProxyType, SimpleNamespace
from civis_futures._sessions.identity import identity

Pair = namedtuple("Pair", "left right")

@dataclass
class Data:
    value: object = None

@dataclass(frozen=True, slots=True)
class Slotted:
    value: object = None

class Tags(set):
    pass

for line in sys.stdin:
    print(identity(pow, eval(line)).rpartition("/")[2], flush=True)
"""


class Teller:
    def __init__(self, seed):
        self._process = subprocess.Popen(
            [sys.executable, "-c", TELLER],
            env={**os.environ, "PYTHONHASHSEED": seed},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            encoding="utf-8",
        )

    def __call__(self, expression):
        self._process.stdin.write(f"{expression}\n")
        self._process.stdin.flush()
        key = self._process.stdout.readline().strip()
        assert key, "it has failed"
        return key

    def end(self):
        self._process.stdin.close()
        self._process.stdout.close()
        self._process.wait(30)


@pytest.fixture(scope="module")
def tellers():
    """One for each of two hash seeds."""
    tellers = [Teller("1"), Teller("2")]
    yield tellers
    for teller in tellers:
        teller.end()


def build(template):
    """An expression of some others."""
    return lambda parts: template.format(", ".join(parts))


def pairs(template):
    return lambda parts: template.format(", ".join(f"({key}, {value})" for key, value in parts))


ATOMS = st.one_of(
    st.none(), st.booleans(), st.integers(), st.floats(allow_nan=False, allow_infinity=False),
    st.text("abcä\n", max_size=3), st.binary(max_size=2), st.sampled_from(["a", "b", "c", "d"]),
).map(ascii)  # fmt: skip
KEYS = st.recursive(
    ATOMS,
    lambda inner: st.one_of(
        st.lists(inner, max_size=4).map(build("frozenset([{}])")),
        st.lists(inner, max_size=3).map(build("tuple([{}])")),
        inner.map("Slotted({})".format),
    ),
    max_leaves=5,
)


def containers(inner):
    lists = st.lists(inner, max_size=4)
    keys = st.lists(KEYS, max_size=4)
    items = st.lists(st.tuples(KEYS, inner), max_size=4)
    return st.one_of(
        lists.map(build("[{}]")), lists.map(build("tuple([{}])")), lists.map(build("deque([{}])")),
        keys.map(build("{{*[{}]}}")), keys.map(build("Counter([{}])")),
        keys.map(build("Tags([{}])")), keys.map(build("dict.fromkeys({{*[{}]}}, 1)")),
        items.map(pairs("dict([{}])")), items.map(pairs("OrderedDict([{}])")),
        items.map(pairs("defaultdict(list, [{}])")),
        items.map(pairs("MappingProxyType(dict([{}]))")),
        st.tuples(inner, inner).map(build("Pair({})")), inner.map("Data({})".format),
        inner.map("SimpleNamespace(x={})".format), inner.map("partial(print, {})".format),
        inner.map("ChainMap({{'x': {}}})".format),
    )  # fmt: skip


VALUES = st.recursive(KEYS, containers, max_leaves=12)
MODEST = settings(
    max_examples=80,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)


@MODEST
@given(VALUES)
def test_the_hash_seed_makes_no_difference(tellers, expression):
    first, second = (teller(expression) for teller in tellers)
    assert first == second


@MODEST
@given(st.lists(st.text("abc", max_size=3).map(ascii), unique=True, max_size=6), st.randoms())
def test_nor_does_the_order_of_what_has_none(tellers, keys, random):
    shuffled = random.sample(keys, len(keys))
    for template in ("{{*[{}]}}", "frozenset([({})])", "dict.fromkeys([{}])", "Counter([{}])"):
        first, second = build(template)(keys), build(template)(shuffled)
        if eval(f"{first} == {second}", NAMES):
            assert tellers[0](first) == tellers[1](second)


NAMES: dict[str, object] = {"__name__": "names"}
exec(TELLER.partition("@dataclass")[0], NAMES)
exec("""
class Data:
    def __init__(self, value=None):
        self.value = value
    def __eq__(self, other):
        return type(self) is type(other) and self.value == other.value
    def __hash__(self):
        return hash(self.value)
class Slotted(Data):
    pass
class partial(Data):
    def __init__(self, *values):
        self.value = values
class Tags(set):
    pass
""", NAMES)  # fmt: skip


@MODEST
@given(VALUES, VALUES)
def test_what_is_not_equal_is_told_apart(tellers, one, other):
    if not eval(f"[{one}] == [{other}]", NAMES):
        assert tellers[0](one) != tellers[0](other)


@pytest.mark.parametrize("kind", ["[x]", "Data(x)"])
def test_long_chains(tellers, kind):
    """Of so many objects, each within the one before, that pickle can just follow."""
    for length in (50, 200):
        chain = f"__import__('functools').reduce(lambda x, _: {kind}, range({length}), {{}})"
        one, same, other = (
            teller(chain.format(end))
            for teller, end in ((tellers[0], 1), (tellers[1], 1), (tellers[1], 2))
        )
        assert one == same
        assert one != other


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("1", "True"), ("1", "1.0"), ("0.0", "-0.0"), ("[]", "()"), ("'a'", "b'a'"),
        ("{1}", "frozenset([1])"), ("[1, [2]]", "[[1], 2]"), ("['a', 'b']", "['ab']"),
        ("OrderedDict(a=1, b=2)", "OrderedDict(b=2, a=1)"), ("{'a': 1}", "['a', 1]"),
        ("defaultdict(list)", "defaultdict(set)"), ("Data({1})", "Data({2})"),
        ("{1: {2}, 3: {4}}", "{1: {4}, 3: {2}}"), ("Tags([1])", "{1}"),
    ],
)  # fmt: skip
def test_these_are_told_apart(tellers, one, other):
    assert tellers[0](one) != tellers[1](other)
