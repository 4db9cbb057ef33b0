"""Waiting in an event loop, and Ctrl-C while waiting."""

from __future__ import annotations

import asyncio
import concurrent.futures
import signal
import subprocess
import sys
import threading
import time
from concurrent.futures import Future

import pytest
from tasks import by_value

from civis_futures import as_completed, as_completed_async

by_value(__name__)


def nap(seconds, value=None):
    time.sleep(seconds)
    return value


def fail():
    raise ValueError("no")


def test_await_gives_results_and_errors(shared):
    async def main():
        assert await shared.submit(pow, 2, 5) == 32
        done = shared.submit(pow, 2, 6)
        concurrent.futures.wait([done])
        assert await done == 64
        with pytest.raises(ValueError, match="no"):
            await shared.submit(fail)
        assert await asyncio.gather(*(shared.submit(pow, 2, n) for n in range(5))) == [
            1, 2, 4, 8, 16,
        ]  # fmt: skip

    asyncio.run(main())


def test_cancelling_the_await_leaves_the_future_alone(shared):
    async def main():
        future = shared.submit(nap, 0.6, "here")
        for _ in range(3):
            with pytest.raises(asyncio.TimeoutError):
                await asyncio.wait_for(future, 0.02)
        assert not future.cancelled()
        assert not future._watchers  # nothing is left of a wait that was cut short
        task = asyncio.ensure_future(future)
        await asyncio.sleep(0)
        task.cancel()
        assert await future == "here"

    asyncio.run(main())


def test_awaiting_a_cancelled_future_is_not_being_cancelled(shared):
    async def main():
        future = shared.submit(nap, 60)
        asyncio.get_running_loop().call_later(0.1, future.cancel)
        with pytest.raises(concurrent.futures.CancelledError):
            await future

    asyncio.run(main())


def test_a_loop_that_is_gone_is_no_trouble(shared):
    async def main():
        pending = asyncio.ensure_future(future)
        await asyncio.sleep(0)
        pending.cancel()
        iterator = as_completed_async([future])
        with pytest.raises(asyncio.TimeoutError):
            await asyncio.wait_for(anext(iterator), 0.01)

    future = shared.submit(nap, 0.5, 1)
    asyncio.run(main())
    assert future.result(10) == 1


def test_as_completed_async(shared):
    async def main():
        slow, quick = shared.submit(nap, 0.5), shared.submit(nap, 0.0)
        found = [future async for future in as_completed_async([slow, quick, quick])]
        assert found == [quick, slow]
        assert [future async for future in as_completed_async([])] == []

    asyncio.run(main())


def test_as_completed_is_the_standard_one():
    futures = [Future() for _ in range(3)]
    futures[1].set_result(1)
    iterator = as_completed(futures)
    assert next(iterator) is futures[1]
    futures[0].set_result(0)
    assert next(iterator) is futures[0]
    iterator.close()
    with pytest.raises(TimeoutError):
        list(as_completed(futures, timeout=0.01))
    assert not futures[2].cancelled()


def test_a_keyboard_interrupt_in_as_completed_cancels_what_is_not_done():
    done, waiting = Future(), Future()
    done.set_result(1)
    timer = threading.Timer(
        0.2, signal.pthread_kill, [threading.main_thread().ident, signal.SIGINT]
    )
    iterator = as_completed([done, waiting])
    assert next(iterator) is done
    timer.start()
    with pytest.raises(KeyboardInterrupt):
        next(iterator)
    timer.join()
    assert waiting.cancelled()


def test_a_keyboard_interrupt_in_map_cancels_what_it_started(make_executor, until):
    executor = make_executor(1)
    other = executor.submit(nap, 0.01, 7)
    results = executor.map(nap, [0.05, 60, 60])
    next(results)
    until(lambda: any(row["state"] == "running" for row in executor.status()))
    interrupt = [threading.main_thread().ident, signal.SIGINT]
    timer = threading.Timer(0.3, signal.pthread_kill, interrupt)
    timer.start()
    with pytest.raises(KeyboardInterrupt):
        next(results)
    timer.join()
    executor.shutdown()  # returns only when no container runs any more
    assert other.result(0) == 7
    assert str(executor.status()[0]["state"]) == "succeeded"


def test_a_with_block_left_by_a_keyboard_interrupt_cancels_first(make_executor, until):
    futures = []

    def work():
        with make_executor(1) as executor:
            futures.extend(executor.submit(nap, 60) for _ in range(3))
            until(futures[0].running)
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        work()
    assert all(future.cancelled() for future in futures)


def test_importing_the_package_does_not_import_asyncio():
    code = (
        "import sys, civis_futures as c; c.as_completed, c.as_completed_async\n"
        "assert 'asyncio' not in sys.modules and 'tqdm' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
