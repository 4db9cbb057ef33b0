"""Out-of-band buffers in a worker: fetched once, mapped, and kept while there is room."""

from __future__ import annotations

import os
import pickle
import sys

import cloudpickle
import pytest

from civis_futures import _wire


class Bytes:
    """As an array of numpy: its bytes may be out of band."""

    def __init__(self, data):
        self.data = data

    def __reduce_ex__(self, protocol):
        return Bytes, (pickle.PickleBuffer(self.data),)


@pytest.fixture
def call(stub):
    """call(task, function, bytes, ...) -> a call of it, whose bytes are in Files of the stub."""
    files = {}

    def call(task, function, *some):
        cloudpickle.register_pickle_by_value(sys.modules[__name__])
        found = []
        parts = (function, tuple(Bytes(data) for data in some), {})
        data = cloudpickle.dumps(parts, buffer_callback=found.append)
        blobs = []
        for buffer in found:
            content = bytes(buffer.raw())
            if content not in files:
                files[content] = stub.put_file(content)
            blobs.append(_wire.Blob.in_file(files[content], _wire.digest(content), len(content)))
        return _wire.Call(task, _wire.Blob.of(data), buffers=tuple(blobs))

    call.files = files
    return call


def look(*given):
    return [(bytes(x.data[:3]), len(x.data), memoryview(x.data).readonly) for x in given]


def fetches(stub, call):
    return {data[:1]: stub.count("GET", f"/files/{number}") for data, number in call.files.items()}


def test_each_is_fetched_once_and_read_only(run, stub, call):
    a, b = b"a" * 70_000, b"b" * 80_000
    answers = run([call(1, look, a), call(2, look, b, a), call(3, look, a, a)])
    assert [stub.outcome(answer) for answer in answers] == [
        [(b"aaa", 70_000, True)],
        [(b"bbb", 80_000, True), (b"aaa", 70_000, True)],
        [(b"aaa", 70_000, True)] * 2,
    ]
    assert fetches(stub, call) == {b"a": 1, b"b": 1}


def test_with_little_disk_the_least_recently_used_goes(run, stub, call):
    a, b, c = (letter * 100_000 for letter in (b"a", b"b", b"c"))
    calls = [call(n, look, data) for n, data in enumerate((a, b, a, c, a, b), 1)]
    answers = run(calls, disk=0.3)  # room for two
    assert [stub.outcome(answer)[0][0] for answer in answers] == [
        b"aaa", b"bbb", b"aaa", b"ccc", b"aaa", b"bbb",
    ]  # fmt: skip
    assert fetches(stub, call) == {b"a": 1, b"b": 2, b"c": 1}


def test_what_a_call_needs_is_there_however_little_disk_there_is(run, stub, call):
    some = [bytes([65 + n]) * 50_000 for n in range(4)]
    answers = run([call(n, look, *some) for n in range(1, 4)], disk=0.0)
    for answer in answers:
        assert [found[0][:1] for found in stub.outcome(answer)] == [x[:1] for x in some]


def test_bytes_that_are_wrong_or_gone_cost_their_call_only(run, stub, call):
    good, wrong, gone = call(1, look, b"a" * 10), call(2, look, b"b" * 10), call(3, look, b"c")
    stub.path(call.files[b"b" * 10]).write_bytes(b"x" * 10)
    del stub.files[call.files[b"c"]]
    answers = run([wrong, gone, good])
    assert [answer.kind for answer in answers] == [
        _wire.CALL_NOT_FETCHED, _wire.CALL_NOT_FETCHED, _wire.RETURNED,
    ]  # fmt: skip
    assert "SHA-256" in answers[0].text


def test_a_file_that_a_call_removed_is_fetched_again(run, stub, call):
    def remove(given):
        folder = os.environ["TMPDIR"]
        for place, _, names in os.walk(folder):
            for name in names:
                if name.startswith("buffer-"):
                    os.unlink(os.path.join(place, name))
        return bytes(given.data)

    # The second call is fetched while the first one runs; the third is not.
    answers = run([call(1, remove, b"abc"), call(2, len, b"else"), call(3, look, b"abc")])
    assert stub.outcome(answers[0]) == b"abc"
    assert stub.outcome(answers[2]) == [(b"abc", 3, True)]
