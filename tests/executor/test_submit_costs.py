"""What thousands of calls cost, in counts: `make bench` has the seconds."""

from __future__ import annotations

import gc
import time
from collections import Counter

from civis_futures._scheduling.scheduler import Scheduler

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
