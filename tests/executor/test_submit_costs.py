"""What thousands of calls cost, in counts: `make bench` has the seconds."""

from __future__ import annotations

import gc
import sys
import time
from collections import Counter

import pytest

from civis_futures._scheduling import events as e
from civis_futures._scheduling.scheduler import Scheduler
from civis_futures._scheduling.state import Policy
from civis_futures._types import TaskId

NUMBER = 1_000


def test_what_a_call_leaves_to_the_garbage_collector(make_executor, until):
    """Its traversals are half of what a submit costs. A future of the standard library has ten
    objects of its own: with that of ours, and with what else belongs to a call, it is 17.
    """
    executor = make_executor(1)
    held = []

    def objects():
        until(executor._manager._events.empty)  # all that was submitted is taken in
        gc.collect()
        return len(gc.get_objects())

    rounds = []
    for _ in range(4):  # other threads have objects, too, so the least counts
        before = objects()
        held += [executor.submit(time.sleep, 100) for _ in range(NUMBER // 4)]
        rounds.append((objects() - before) / (NUMBER // 4))
    executor.terminate_workers()
    assert min(rounds) < 18, rounds


def test_many_cancels_are_taken_in_together(make_executor, monkeypatch, until):
    seen = Counter()
    advance = Scheduler.advance

    def count(self, event, now, more=()):
        seen[type(event).__name__] += 1
        return advance(self, event, now, more)

    monkeypatch.setattr(Scheduler, "advance", count)
    executor = make_executor(1)
    futures = [executor.submit(time.sleep, 100) for _ in range(NUMBER)]
    executor.cancel_all()
    until(lambda: all(future.cancelled() for future in futures))
    executor.shutdown()
    assert seen["CancelRequested"] < NUMBER / 4
    assert seen["Submitted"] < NUMBER / 4


def calls_in(function):
    """How many functions are called in there, of Python and of C, by this thread."""
    number = 0

    def count(frame, event, argument):
        nonlocal number
        number += event in ("call", "c_call")

    sys.setprofile(count)
    try:
        function()
    finally:
        sys.setprofile(None)
    return number


@pytest.mark.parametrize(("needed", "needing"), [(1000, 1), (100, 100)], ids=["1000", "10000"])
def test_what_an_edge_costs_who_submits(make_executor, needed, needing):
    """Ten calls of functions are a few microseconds, so 10,000 edges are well below a second."""
    executor = make_executor(1)
    before = [executor.submit(time.sleep, 100) for _ in range(needed)]
    first, rest = before[:1], []

    def submit(after):
        rest.extend(executor.options(after=after).submit(time.sleep, 0) for _ in range(needing))

    submit(first)  # what is done once
    one, all_ = calls_in(lambda: submit(first)), calls_in(lambda: submit(before))
    executor.terminate_workers()
    assert (all_ - one) / (needed * needing) < 10


@pytest.mark.parametrize(("needed", "needing"), [(1000, 1), (100, 100)], ids=["1000", "10000"])
def test_what_an_edge_costs_the_scheduler(needed, needing):
    scheduler = Scheduler(Policy(2))
    for number in range(needed):
        scheduler.advance(e.Submitted(TaskId(number)), 0.0)

    def submit(first, tasks):
        need = (e.Need(tuple(map(TaskId, tasks))),)
        for number in range(first, first + needing):
            scheduler.advance(e.Submitted(TaskId(number), needs=need), 0.0)

    def cancel():
        for number in range(needed):
            scheduler.advance(e.CancelRequested(TaskId(number)), 0.0)

    one = calls_in(lambda: submit(needed, range(1)))
    all_ = calls_in(lambda: submit(needed + needing, range(needed)))
    assert (all_ - one) / (needed * needing) < 10
    assert calls_in(cancel) < 200 * needed + 10 * needed * needing
    assert not scheduler.tasks.known
