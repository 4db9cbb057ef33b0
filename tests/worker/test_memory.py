"""What of a call is still in memory when the next one runs: nothing, as in a process pool."""

import os
import resource
import time

import cloudpickle
import pytest
from tasks import by_value

from civis_futures import _wire

by_value(__name__)

BIG = 150_000_000
#: Bytes; what the interpreter and the allocator keep for themselves stays below it.
LITTLE = 30_000_000


def resident(pid):
    with open(f"/proc/{pid}/status") as file:
        return sum(1000 * int(line.split()[1]) for line in file if line.startswith("VmRSS"))


def in_memory():
    """Of this process and its parent, which gets a while to post what it has."""
    deadline = time.monotonic() + 5
    parent = resident(os.getppid())
    while parent > 2 * LITTLE and time.monotonic() < deadline:
        time.sleep(0.05)
        parent = resident(os.getppid())
    return resident(os.getpid()), parent


def data():
    return b"x" * BIG


def data_by_the_pipe():
    """There is no room for a file."""
    resource.setrlimit(
        resource.RLIMIT_FSIZE, (LITTLE, resource.getrlimit(resource.RLIMIT_FSIZE)[1])
    )
    return data()


def with_large_locals():
    large = data()
    raise ValueError(len(large))


def with_a_large_exception():
    raise ValueError(data())


def with_a_cause():
    large = data()
    try:
        raise ValueError(len(large))
    except ValueError:
        raise KeyError(0) from None


def not_picklable():
    return data(), (each for each in ())


class NotPicklable(Exception):
    def __reduce__(self):
        raise TypeError("not this one")


def with_an_exception_that_is_not_picklable():
    raise NotPicklable(data())


def prints():
    print("x" * BIG)


@pytest.mark.parametrize(
    "function",
    [
        data,
        data_by_the_pipe,
        with_large_locals,
        with_a_large_exception,
        with_a_cause,
        not_picklable,
        with_an_exception_that_is_not_picklable,
        prints,
    ],
)
def test_nothing_of_a_call_is_there_in_the_next_one(run, calls, stub, function):
    answers = run(calls(in_memory, function, in_memory))

    assert [answers[0].text, answers[2].text] == ["", ""]
    before, after = stub.outcome(answers[0]), stub.outcome(answers[2])
    grown = [b - a for a, b in zip(before, after, strict=True)]
    assert max(grown) < LITTLE, (answers[1].kind, grown)


@pytest.mark.parametrize(
    "function", [len, lambda large: len(large) + os.getpid()], ids=["by name", "with a module"]
)
def test_arguments_are_let_go(run, calls, stub, function):
    large = os.urandom(BIG // 3)
    given = cloudpickle.dumps((function, (large,), {}))
    file = stub.put_file(given)
    [first, last] = calls(in_memory, in_memory)
    call = _wire.Call(9, _wire.Blob.in_file(file, _wire.digest(given), len(given)))
    answers = run([first, call, last])

    assert [answers[0].text, answers[2].text] == ["", ""]
    before, after = stub.outcome(answers[0]), stub.outcome(answers[2])
    assert max(b - a for a, b in zip(before, after, strict=True)) < LITTLE


def test_an_initializer_is_not_kept_in_memory(run, calls, stub):
    """Neither here nor in the parent, although later processes need it again."""
    given = cloudpickle.dumps((len, (os.urandom(BIG // 2),), {}))
    blob = _wire.Blob.in_file(stub.put_file(given), _wire.digest(given), len(given))
    first, _, last = run(calls(in_memory, (os._exit, 1), in_memory), initializer=blob)
    for answer in (first, last):
        assert max(stub.outcome(answer)) < 2 * LITTLE
    assert stub.count("GET", f"/files/{blob.file_id}") == 1


def test_large_outcomes_do_not_wait_for_others(stub, start, calls, put_inbox):
    """They would fill the memory of the worker, or its disk."""
    inbox = put_inbox()
    start(calls(lambda: bytes(11_000_000)), inbox=inbox.id, poll=0.05, linger=1000.0)
    stub.until_answered(1)
    inbox.write(
        calls(lambda: 0, lambda: bytes(11_000_000), first=2) + calls((time.sleep, 1000), first=4)
    )
    stub.until_answered(2, 3)


def test_the_peak_is_that_of_the_call(run, calls, stub):
    def fails():
        return data()[-1:] + None

    def is_killed():
        large = b"x" * (BIG // 3)
        os.kill(os.getpid(), len(large) and 9)

    quiet, loud, failing = lambda: 0, data, fails
    answers = run(calls(quiet, loud, quiet, failing, quiet, is_killed, quiet))
    peaks = [answer.peak_mb for answer in answers]
    for place in (2, 4, 6):
        assert peaks[place] < 60, peaks
    assert min(peaks[1], peaks[3]) > BIG / 1.1e6, peaks
    assert 45 < peaks[5] < 110, peaks
