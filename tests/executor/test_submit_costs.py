"""What thousands of calls cost, in counts: `make bench` has the seconds."""

from __future__ import annotations

import gc
import time
from collections import Counter

from civis_futures._scheduling.scheduler import Scheduler

NUMBER = 2_000


def test_what_a_call_leaves_to_the_garbage_collector(make_executor):
    """Its traversals are half of what a submit costs. A future of the standard library has ten
    objects of its own: with that of ours, and with what else belongs to a call, it is 17.
    """
    executor = make_executor(1)
    held = [executor.submit(time.sleep, 100) for _ in range(100)]
    gc.collect()
    before = len(gc.get_objects())
    held += [executor.submit(time.sleep, 100) for _ in range(NUMBER)]
    gc.collect()
    each = (len(gc.get_objects()) - before) / NUMBER
    executor.terminate_workers()
    assert each < 18, each


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
