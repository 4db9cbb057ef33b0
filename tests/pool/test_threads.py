"""Lanes end, whatever their threads are at."""

from __future__ import annotations

import queue
import threading
import time

from civis_futures._pool.threads import RELIEF, SettleLane, coming


class SlowToEnd(queue.SimpleQueue):
    """Who takes the word that ends a lane keeps it for a while before anybody else sees it."""

    def get(self, *how, **more):
        work = super().get(*how, **more)
        if work is None:
            time.sleep(2 * RELIEF)
        return work


def test_a_lane_ends_though_its_queue_was_empty_for_a_moment():
    lane = SettleLane("test")
    lane._work = SlowToEnd()
    lane.start()
    done = threading.Event()
    lane.put(done.set)
    assert done.wait(20)
    ending = threading.Thread(target=lane.stop, daemon=True)
    ending.start()
    ending.join(20)
    assert not any(thread.is_alive() for thread in lane.threads)


def test_what_comes_soon_is_taken_in_together():
    items = queue.SimpleQueue()
    items.put(1)
    assert list(coming(items)) == [1]
    items.put(1)
    found = coming(items, 60, 60)
    assert next(found) == 1
    later = threading.Timer(0.05, items.put, (2,))
    later.start()
    assert next(found) == 2
    later.join()
    items.put(3)
    assert list(coming(items, 60, 0.01)) == [3]  # and no more in that time
