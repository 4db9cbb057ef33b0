"""Arrays of middle size: in each call's pickle, until a second call has the same one."""

import pickle

import numpy as np
import pytest

from civis_futures._data.pickling import LEAST_BUFFER, LEAST_REPEATED, call_payload
from civis_futures._files.contents import ContentStore

SHARED_FROM = 1_000_000


@pytest.fixture
def store():
    return ContentStore("here")


def made(store, *args, fn=len):
    return call_payload("it", fn, args, {}, store, SHARED_FROM)


def arrived(payload):
    """Its arguments in a container, where content is mapped and read-only."""
    buffers = [bytes(content.data) for content in payload.buffers]
    return pickle.loads(payload.data, buffers=buffers)[1]


def array(size, seed=0):
    return np.random.default_rng(seed).integers(0, 255, size, np.uint8)


def test_it_leaves_the_pickle_of_the_second_call(store):
    x = array(LEAST_REPEATED)
    first, second, third = (made(store, x, n) for n in range(3))
    assert [len(each.buffers) for each in (first, second, third)] == [0, 1, 1]
    assert second.buffers == third.buffers
    assert len(second.data) < 1_000
    for number, payload in enumerate((first, second, third)):
        same, n = arrived(payload)
        np.testing.assert_array_equal(same, x)
        assert n == number
        same[0] += 1  # each call has its own


@pytest.mark.parametrize("size", [LEAST_REPEATED - 1, 1_000])
def test_small_ones_stay(store, size):
    x = array(size)
    assert [made(store, x).buffers for _ in range(3)] == [()] * 3


def test_large_ones_leave_at_once_and_are_shared(store):
    payload = made(store, array(LEAST_BUFFER))
    assert len(payload.buffers) == 1
    assert not arrived(payload)[0].flags.writeable


def test_equal_bytes_count_and_a_change_is_another_array(store):
    x = array(100_000)
    made(store, x)
    assert made(store, x.copy()).buffers
    x[0] += 1
    changed = made(store, x)
    assert not changed.buffers
    np.testing.assert_array_equal(arrived(changed)[0], x)


def test_twice_in_one_call_is_not_a_second_call(store):
    """A call that is large is pickled twice."""
    x = array(200_000)
    function = lambda *_: x.sum()  # noqa: E731
    first = made(store, x, x, x.copy(), fn=function)
    assert x.nbytes not in [content.size for content in first.buffers]
    second = made(store, x, fn=len)
    assert [content.size for content in second.buffers] == [x.nbytes]


@pytest.mark.parametrize("kind", [
    lambda x: x[::2], lambda x: x.reshape(400, 500).T, lambda x: x.view("M8[s]"),
    lambda x: x.view([("a", "i4"), ("b", "u2", 2)]),
])  # fmt: skip
def test_whatever_its_layout(store, kind):
    x = kind(array(200_000))
    first, second = made(store, x), made(store, x)
    assert (len(first.buffers), len(second.buffers)) == (0, 1)
    for payload in (first, second):
        (same,) = arrived(payload)
        np.testing.assert_array_equal(same, x)
        assert same.dtype == x.dtype
        assert same.flags.writeable


def test_other_kinds_of_data_stay_in_each_call(store):
    for value in (bytes(100_000), bytearray(100_000), ["a"] * 100_000):
        assert [made(store, value).buffers for _ in range(2)] == [()] * 2


def test_calls_with_the_same_labels_send_them_once(make_executor, platform):
    def sum_up(x, n):
        x.sort()  # it is the call's own
        return float(x.sum()) + n

    x = np.random.default_rng(1).random(40_000)  # 320 kB
    before = platform.stats().uploads
    with make_executor(1) as executor:
        found = list(executor.map(sum_up, [x] * 8, range(8)))
    assert found == [float(np.sort(x).sum()) + n for n in range(8)]
    # In the first call, and as content; the worker's program perhaps.
    assert platform.stats().uploads - before <= 3
