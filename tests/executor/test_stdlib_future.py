"""Futures: callbacks, cancellation, what they tell of themselves, and asyncio.

What the mode of the pool cannot touch is tested in one of them only.
"""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from concurrent.futures import CancelledError

import pytest
from tasks import SECONDS, by_value, wait_at

by_value(__name__)


class RoughError(BaseException):
    """Not an Exception."""


# --- callbacks ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("call", "told"),
    [((pow, 2, 3), 8), ((divmod, 1, 0), ZeroDivisionError)],
    ids=["result", "exception"],
)
def test_a_callback_gets_the_finished_future(executor, call, told):
    future = executor.submit(*call)
    seen, there = [], threading.Event()
    future.add_done_callback(lambda it: (seen.append((it, it.done())), there.set()))
    assert there.wait(SECONDS)
    assert seen == [(future, True)]
    if told == 8:
        assert future.result() == told
    else:
        assert type(future.exception()) is told


def test_callbacks_come_in_order_and_once(executor, gate):
    future = executor.submit(wait_at, gate.path)
    seen, last = [], threading.Event()
    for number in range(5):
        future.add_done_callback(lambda _, number=number: seen.append(number))
    future.add_done_callback(lambda _: last.set())
    gate.open()
    assert last.wait(SECONDS)
    assert seen == [0, 1, 2, 3, 4]


def test_a_callback_that_raises_is_logged_and_others_come(executor, gate, caplog):
    future = executor.submit(wait_at, gate.path)
    last = threading.Event()
    future.add_done_callback(lambda _: 1 / 0)
    future.add_done_callback(lambda _: last.set())
    with caplog.at_level(logging.ERROR, logger="concurrent.futures"):
        gate.open()
        assert last.wait(SECONDS)
    assert "exception calling callback" in caplog.text
    assert "ZeroDivisionError" in caplog.text
    assert executor.submit(pow, 2, 2).result(SECONDS) == 4


@pytest.mark.parametrize("error", [RoughError, SystemExit])
def test_a_callback_that_raises_no_exception_is_logged_too(executor, gate, caplog, until, error):
    def callback(_):
        raise error("from the callback")

    future = executor.submit(wait_at, gate.path, 1)
    future.add_done_callback(callback)
    with caplog.at_level(logging.ERROR):
        gate.open()
        assert future.result(SECONDS) == 1
        assert executor.submit(pow, 2, 2).result(SECONDS) == 4  # nothing has died of it
        until(lambda: "from the callback" in caplog.text)
    assert error.__name__ in caplog.text


def test_a_callback_may_submit(executor):
    results, last = [], threading.Event()

    def then(future):
        results.append(future.result())
        if len(results) == 3:
            last.set()
        else:
            executor.submit(pow, 2, len(results)).add_done_callback(then)

    executor.submit(pow, 2, 0).add_done_callback(then)
    assert last.wait(SECONDS)
    assert results == [1, 2, 4]


def test_a_callback_may_cancel_others(make, gate):
    executor = make(1)
    first = executor.submit(wait_at, gate.path)
    others = [executor.submit(pow, 2, n) for n in range(3)]
    first.add_done_callback(lambda _: [other.cancel() for other in others])
    gate.open()
    executor.shutdown()
    assert first.done()
    assert all(other.done() for other in others)


def test_a_callback_on_a_done_future_is_called_here_and_now(reused):
    future = reused.submit(pow, 2, 2)
    future.result(SECONDS)
    seen = []
    future.add_done_callback(lambda it: seen.append((it, threading.current_thread())))
    assert seen == [(future, threading.current_thread())]


def test_a_callback_on_a_done_future_raises_into_the_log(reused, caplog):
    future = reused.submit(pow, 2, 2)
    future.result(SECONDS)
    future.add_done_callback(lambda _: 1 / 0)
    assert "ZeroDivisionError" in caplog.text


def test_callbacks_are_called_in_a_thread_with_a_name_of_ours(reused, gate):
    future = reused.submit(wait_at, gate.path)
    names, there = [], threading.Event()
    future.add_done_callback(lambda _: (names.append(threading.current_thread().name), there.set()))
    gate.open()
    assert there.wait(SECONDS)
    assert names[0].startswith("civis-futures ")


def test_cancel_calls_the_callbacks_before_it_returns(executor, gate):
    future = executor.submit(wait_at, gate.path)
    seen = []
    future.add_done_callback(lambda it: seen.append(it.cancelled()))
    future.cancel()
    assert seen == [True]


# --- cancel ------------------------------------------------------------------------------------


def test_a_waiting_call_can_be_cancelled_and_never_runs(make, gates, until):
    busy, never = gates(), gates()
    executor = make(1)
    running = executor.submit(wait_at, busy.path)
    until(lambda: busy.arrived)
    waiting = executor.submit(wait_at, never.path)
    assert waiting.cancel()
    assert waiting.cancelled()
    assert waiting.done()
    assert not waiting.running()
    busy.open()
    executor.shutdown()
    assert running.result() is None
    assert never.arrived == set()


def test_a_running_call_can_be_cancelled_and_its_container_ends(make, platform, gate, until):
    # Unlike in the standard library, whose processes cannot be stopped one by one.
    executor = make(1)
    future = executor.submit(wait_at, gate.path)
    until(lambda: gate.arrived and future.running())
    run = future.run_id
    assert run in platform.stats().active
    assert future.cancel()
    assert future.cancelled()
    until(lambda: run not in platform.stats().active)
    assert executor.submit(pow, 2, 2).result(SECONDS) == 4  # in another container


def test_a_finished_call_cannot_be_cancelled(executor):
    for future in (executor.submit(pow, 2, 2), executor.submit(divmod, 1, 0)):
        future.exception(SECONDS)
        assert not future.cancel()
        assert not future.cancelled()


def test_cancelling_twice_is_cancelling_once(executor, gate):
    future = executor.submit(wait_at, gate.path)
    seen = []
    future.add_done_callback(seen.append)
    assert future.cancel()
    assert future.cancel()
    assert seen == [future]


def test_who_waits_is_told_of_the_cancel(executor, gate):
    future = executor.submit(wait_at, gate.path)
    threading.Timer(0.05, future.cancel).start()
    with pytest.raises(CancelledError):
        future.result(SECONDS)
    with pytest.raises(CancelledError):
        future.exception()


@pytest.mark.parametrize("seconds", [0, 0.05, 0.2])
def test_cancel_at_any_moment_leaves_nothing_behind(executor, gate, seconds):
    future = executor.submit(wait_at, gate.path)
    time.sleep(seconds)
    assert future.cancel()
    assert executor.submit(pow, 2, 2).result(SECONDS) == 4


def test_cancelling_everything_from_many_threads(make, gate):
    executor = make(2)
    futures = [executor.submit(wait_at, gate.path) for _ in range(20)]
    threads = [
        threading.Thread(target=lambda: [future.cancel() for future in futures]) for _ in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert all(future.cancelled() for future in futures)
    executor.shutdown()


# --- what it tells of itself -------------------------------------------------------------------


def test_running_tells_the_truth(make, gate, until):
    executor = make(1)
    first, second = (executor.submit(wait_at, gate.path, n) for n in range(2))
    assert not first.running()
    until(first.running)
    assert gate.arrived <= {"0"}
    assert not second.running()
    assert not first.done()
    gate.open()
    first.result(SECONDS)
    assert not first.running()


def test_states_from_submission_to_end(make, gate, until):
    future = make(1).submit(wait_at, gate.path)  # whose container has yet to start
    seen = [str(future.state)]
    until(future.running)
    seen.append(str(future.state))
    gate.open()
    future.result(SECONDS)
    seen.append(str(future.state))
    assert seen == ["pending", "running", "succeeded"]


@pytest.mark.parametrize(
    ("call", "state"), [((pow, 2, 2), "succeeded"), ((divmod, 1, 0), "failed")]
)
def test_its_text_says_what_became_of_it(reused, call, state):
    future = reused.submit(*call)
    assert call[0].__name__ in repr(future)
    future.exception(SECONDS)
    assert state in repr(future)


# --- asyncio -----------------------------------------------------------------------------------


def test_asyncio_wraps_a_future(executor):
    async def main():
        return await asyncio.wrap_future(executor.submit(pow, 2, 3))

    assert asyncio.run(main()) == 8


def test_asyncio_gets_the_exception(reused):
    async def main():
        await asyncio.wrap_future(reused.submit(divmod, 1, 0))

    with pytest.raises(ZeroDivisionError):
        asyncio.run(main())


def test_asyncio_runs_in_the_executor(executor):
    async def main():
        loop = asyncio.get_running_loop()
        calls = [loop.run_in_executor(executor, pow, 2, n) for n in range(4)]
        return await asyncio.gather(*calls)

    assert asyncio.run(main()) == [1, 2, 4, 8]


def test_asyncio_cancels_the_call(reused, gate):
    ours = []

    async def main():
        ours.append(reused.submit(wait_at, gate.path))
        async with asyncio.timeout(0.1):
            await asyncio.wrap_future(ours[0])

    with pytest.raises(TimeoutError):
        asyncio.run(main())
    assert ours[0].cancelled()


def test_asyncio_hears_of_a_cancel(reused, gate):
    async def main():
        ours = reused.submit(wait_at, gate.path)
        theirs = asyncio.wrap_future(ours)
        asyncio.get_running_loop().call_later(0.05, ours.cancel)
        await theirs

    with pytest.raises(asyncio.CancelledError):
        asyncio.run(main())
