"""Pools that may have very many workers, and what is kept of very many calls."""

from __future__ import annotations

import gc
import time
import tracemalloc


def test_workers_read_one_inbox_of_several(make_executor, platform):
    """Where there may be hundreds, one JSON value would hold too little for each."""
    before = platform.stats().count("POST", "/json_values", "client")
    executor = make_executor(250, idle_timeout=60)
    first = [executor.submit(time.sleep, 0.3) for _ in range(3)]
    assert [future.result(60) for future in first] == [None] * 3
    assert platform.stats().count("POST", "/json_values", "client") - before == 10
    ran = {future.run_id for future in first}
    assert len(ran) == 3
    later = [executor.submit(time.sleep, 0.5) for _ in range(3)]  # one for each
    assert [future.result(60) for future in later] == [None] * 3
    assert ran == {future.run_id for future in later}


def test_little_is_kept_of_a_call_that_is_done_and_not_held(make_executor):
    executor, number = make_executor(2), 3000

    def all_done(calls):
        for future in [executor.submit(abs, call) for call in range(calls)]:
            future.result(60)

    all_done(1500)  # as many are kept until they are summed up, so there are as many each time
    tracemalloc.start(1)
    try:
        all_done(number)
        gc.collect()
        before, _ = tracemalloc.get_traced_memory()
        all_done(number)
        gc.collect()
        after, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert (after - before) / number < 1000  # bytes; a future that is held has some 3,500
