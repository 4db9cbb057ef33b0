"""What kills a call: one table of (function, argument, error, text), over every leg of its way.

Legs: pickling the call here, unpickling it there, running it, pickling the outcome there,
unpickling it here. On each: an exception, an exit of the process, a kill. The same table from
within a done-callback, where a wrong design would wait for itself.
"""

from __future__ import annotations

import os
import pickle
import signal
import sys
import threading

import pytest
from tasks import by_value, identity

import civis_futures as cf

by_value(__name__)


def refuse(*_):
    raise RuntimeError("on purpose")


def leave(*_):
    os._exit(3)


def kill(*_):
    os.kill(os.getpid(), signal.SIGKILL)


def unpicklable(*_):
    return threading.Lock()


class AtPickle:
    """Does it to the process that pickles it."""

    def __init__(self, deed):
        self.deed = deed

    def __reduce__(self):
        self.deed()
        return identity, (None,)


class AtUnpickle:
    """Does it to the process that unpickles it."""

    def __init__(self, deed):
        self.deed = deed

    def __reduce__(self):
        return self.deed, ()


class Unsendable(Exception):
    """An exception that cannot be pickled."""

    def __reduce__(self):
        raise RuntimeError("on purpose")


class Unreadable(Exception):
    """An exception that cannot be unpickled: its arguments are not those of its constructor."""

    def __init__(self, one, two):
        super().__init__(f"{one} and {two}")


def make_at_pickle(deed):
    return AtPickle(deed)


def make_at_unpickle_here(_):
    return AtUnpickle(only_here)


def only_here():
    if "CIVIS_RUN_ID" not in os.environ:
        raise RuntimeError("on purpose, here")


def raise_unsendable(_):
    raise Unsendable


def raise_unreadable(_):
    raise Unreadable(1, 2)


def exit_politely(_):
    sys.exit("enough")


def interrupt(_):
    raise KeyboardInterrupt


def recurse(_):
    nested = []
    for _ in range(100_000):
        nested = [nested]
    return nested


def exhaust(_):
    raise MemoryError("a list of all lists")


TABLE = {
    "call: raises while it is pickled": (
        identity, AtPickle(refuse), cf.CallPicklingError, "identity (task N) cannot be sent",
    ),
    "call: has what cannot be pickled": (
        identity, threading.Lock(), cf.CallPicklingError, "cannot pickle '_thread.lock' object",
    ),
    "call: raises while it is unpickled": (
        identity, AtUnpickle(refuse), cf.CallUnpicklingError, "RuntimeError: on purpose",
    ),
    "call: exits while it is unpickled": (
        identity, AtUnpickle(leave), cf.WorkerCrashedError, "exit code 3",
    ),
    "call: is killed while it is unpickled": (
        identity, AtUnpickle(kill), cf.WorkerCrashedError, "SIGKILL",
    ),
    "run: raises": (refuse, 1, RuntimeError, "on purpose"),
    "run: exits": (leave, 1, cf.WorkerCrashedError, "exit code 3"),
    "run: is killed": (kill, 1, cf.WorkerCrashedError, "SIGKILL"),
    "run: SystemExit": (exit_politely, 1, SystemExit, "enough"),
    "run: KeyboardInterrupt": (interrupt, 1, KeyboardInterrupt, ""),
    "run: a MemoryError of Python's own": (exhaust, 1, MemoryError, "a list of all lists"),
    "result: raises while it is pickled": (
        make_at_pickle, refuse, cf.OutcomePicklingError, "the result of",
    ),
    "result: exits while it is pickled": (
        make_at_pickle, leave, cf.WorkerCrashedError, "exit code 3",
    ),
    "result: is killed while it is pickled": (
        make_at_pickle, kill, cf.WorkerCrashedError, "SIGKILL",
    ),
    "result: cannot be pickled": (unpicklable, 1, cf.OutcomePicklingError, "the result of"),
    "result: is nested too deep": (recurse, 1, cf.OutcomePicklingError, "the result of"),
    "result: raises while it is unpickled here": (
        make_at_unpickle_here, 1, cf.OutcomeUnpicklingError, "on purpose, here",
    ),
    "exception: cannot be pickled": (
        raise_unsendable, 1, cf.OutcomePicklingError, "the exception of",
    ),
    "exception: cannot be unpickled": (
        raise_unreadable, 1, cf.OutcomeUnpicklingError, "cannot be unpickled here",
    ),
}  # fmt: skip


def check(future, error, text):
    exception = future.exception(timeout=30)
    assert type(exception) is error
    message = "\n".join([str(exception), *getattr(exception, "__notes__", ())])
    assert text.replace("task N", future.task.partition("(")[2].rstrip(")")) in message
    assert future.task in message
    assert future.state is cf.TaskState.FAILED
    if isinstance(exception, cf.CallLostError):
        assert str(future.run_id) in message
        assert exception.run_id == future.run_id
        assert exception.job_url == future.job_url
    if isinstance(exception, cf.TaskError):
        copy = pickle.loads(pickle.dumps(exception))
        assert vars(copy) == vars(exception)


@pytest.fixture(scope="module")
def pool(platform):
    with cf.ContainerPoolExecutor(3, platform=platform) as executor:
        yield executor


@pytest.fixture(scope="module")
def one_each(platform):
    with cf.ContainerPoolExecutor(3, platform=platform, max_tasks_per_worker=1) as executor:
        yield executor


@pytest.mark.parametrize("case", TABLE)
@pytest.mark.parametrize("executor", ["pool", pytest.param("one_each", marks=pytest.mark.repeats)])
def test_each_way_to_die(request, executor, case):
    executor = request.getfixturevalue(executor)
    function, argument, error, text = TABLE[case]
    before, doomed = executor.submit(identity, 1), executor.submit(function, argument)
    after = executor.submit(identity, 2)
    check(doomed, error, text)
    assert (before.result(30), after.result(30)) == (1, 2)


@pytest.mark.parametrize("case", TABLE)
def test_each_way_to_die_from_a_callback(pool, case):
    function, argument, error, text = TABLE[case]
    submitted, there = [], threading.Event()

    def then(_):
        submitted.append(pool.submit(function, argument))
        there.set()

    pool.submit(identity, 1).add_done_callback(then)
    assert there.wait(30)
    check(submitted[0], error, text)
