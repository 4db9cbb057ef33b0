"""Public methods may be interrupted at any line: by a signal's handler that uses the pool as well,
or by a Ctrl-C.
"""

from __future__ import annotations

import os
import sys
from concurrent.futures import CancelledError

import numpy
import pytest

import civis_futures
from civis_futures import as_completed

OURS = os.path.dirname(civis_futures.__file__)
LARGE = numpy.arange(200_000.0)  # travels in a File


@pytest.fixture(params=[23, pytest.param(1, marks=pytest.mark.stress)], ids="every {}th".format)
def every(request):
    """One of this many lines is tried."""
    return request.param


class Lines:
    """Runs `do` before one of the lines of ours that this thread comes to: the `number`th.

    Python runs the handlers of signals between two instructions, so on lines just as well.
    """

    def __init__(self, number=0, do=str):
        self.seen = 0
        self._number = number
        self._do = do

    def __enter__(self):
        self._before = sys.gettrace()
        sys.settrace(self._trace)
        return self

    def __exit__(self, *_):
        sys.settrace(self._before)

    def _trace(self, frame, event, _):
        if not frame.f_code.co_filename.startswith(OURS):
            return None
        if event == "line":
            self.seen += 1
            if self.seen == self._number:
                sys.settrace(self._before)
                self._do()
                return None
        return self._trace


def interrupt():
    raise KeyboardInterrupt


def interrupted(number, work):
    """Do `work`, with a Ctrl-C before its `number`th line.

    If that is in an `except`, Python takes the exception there for handled from then on, since a
    tracer has raised the new one: of a generator as long as it lives, else of the tests after this.
    """

    def once():
        with Lines(number, interrupt):
            work()
        yield

    next(once())


def unfinished(executor):
    ended = ("succeeded", "failed", "cancelled")
    return [row for row in executor.status() if row["state"] not in ended]


def lines_of(work):
    """How many lines of ours that is."""
    with Lines() as lines:
        work()
    return lines.seen


SUBMISSIONS = {
    "submit": lambda executor: [executor.submit(abs, -1)],
    "submit of much": lambda executor: [executor.submit(numpy.sum, LARGE)],
    "submit_batch": lambda executor: [executor.submit_batch(abs, [(-1,), (-2,)])],
    "map": lambda executor: list(executor.map(abs, [-1, -2])) and [],
    "put": lambda executor: executor.put(LARGE) and [],
}


@pytest.mark.parametrize("submit", SUBMISSIONS.values(), ids=SUBMISSIONS.keys())
def test_a_shutdown_in_the_midst_of_a_submission(make_executor, submit, every):
    with make_executor(1) as executor:
        count = lines_of(lambda: submit(executor))
    for number in range(1, count + 1, every):
        executor = make_executor(1)
        futures = []
        try:
            with Lines(number, executor.shutdown):
                futures = submit(executor)
        except RuntimeError:  # it was too late
            pass
        executor.shutdown()
        assert all(future.done() for future in futures), number


USES = {
    "submit": lambda executor: executor.submit(abs, -2),
    "status": lambda executor: (executor.status(), repr(executor), executor._repr_html_()),
    "cancel_all": lambda executor: executor.cancel_all(),
    "put": lambda executor: executor.put(LARGE),
}


@pytest.mark.parametrize("use", USES.values(), ids=USES.keys())
def test_a_handler_uses_the_pool_in_the_midst_of_a_submission(make_executor, use, every):
    with make_executor(1) as executor:
        for submit in SUBMISSIONS.values():
            for number in range(1, lines_of(lambda submit=submit: submit(executor)), every):
                try:
                    with Lines(number, lambda: use(executor)):
                        submit(executor)
                except CancelledError:  # in a map
                    assert use is USES["cancel_all"]
        assert executor.submit(abs, -3).result() == 3


@pytest.mark.parametrize("look", [USES["status"], USES["submit"]], ids=["status", "submit"])
def test_a_handler_uses_the_pool_while_somebody_looks_at_it(make_executor, look, every):
    with make_executor(1) as executor:
        done = [executor.submit(abs, -n) for n in range(5)]
        for number in range(1, lines_of(lambda: USES["status"](executor)), every):
            with Lines(number, lambda: look(executor)):
                USES["status"](executor)
        for future in as_completed(done):
            future.result()


@pytest.mark.parametrize("submit", SUBMISSIONS.values(), ids=SUBMISSIONS.keys())
def test_a_ctrl_c_in_the_midst_of_a_submission(make_executor, until, submit, every):
    """Nothing goes on that nobody has a future of, and the pool is as it was."""
    with make_executor(1) as executor:
        for number in range(1, lines_of(lambda: submit(executor)), every):
            try:
                interrupted(number, lambda: submit(executor))
            except KeyboardInterrupt:
                until(lambda: not unfinished(executor), seconds=20)
        assert executor.submit(abs, -3).result() == 3


def test_a_ctrl_c_in_the_midst_of_a_shutdown(make_executor, every):
    with make_executor(1) as executor:
        executor.submit(abs, -1).result()
        count = lines_of(executor.shutdown)
    for number in range(1, count + 1, every):
        executor = make_executor(1)
        future = executor.submit(abs, -1)
        with pytest.raises(KeyboardInterrupt):
            interrupted(number, executor.shutdown)
        executor.shutdown()
        assert future.result(0) == 1
