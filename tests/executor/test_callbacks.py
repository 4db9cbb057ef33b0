"""Callbacks that wait: for other futures of the same pool, and for each other."""

from __future__ import annotations

import concurrent.futures
import os
import queue
import subprocess
import sys
import threading

import pytest

SECONDS = 60


def noted(done, work):
    """A callback that puts what `work` gives, or raises, into a queue."""

    def callback(future):
        try:
            done.put(work(future))
        except BaseException as error:
            done.put(error)

    return callback


def results(future, others):
    return [each.result(SECONDS) for each in (future, *others)]


def completed(_, others):
    return sorted(each.result() for each in concurrent.futures.as_completed(others, SECONDS))


@pytest.mark.parametrize("wait", [results, completed])
def test_a_callback_that_waits_for_another_future(make_executor, wait):
    executor, done = make_executor(2), queue.SimpleQueue()
    others = []
    first = executor.submit(pow, 2, 1)
    first.add_done_callback(noted(done, lambda future: wait(future, others)))
    others += [executor.submit(pow, 2, n) for n in range(3)]
    assert sum(done.get(timeout=SECONDS)) in (7, 9)


def test_each_waits_for_the_next(make_executor):
    """So that each thread that stands in for another is held up, too."""
    executor, done = make_executor(1), queue.SimpleQueue()
    last = executor.submit(pow, 2, 9)
    for _ in range(4):
        made = executor.submit(pow, 2, 3)
        # Settled in the order of submission: the last one first is what nobody waits for.
        made.add_done_callback(noted(done, lambda _, before=last: before.result(SECONDS)))
        last = made
    gate = threading.Event()
    waiting = executor.submit(pow, 2, 4)
    waiting.add_done_callback(noted(done, lambda _: gate.wait(SECONDS)))
    after = executor.submit(pow, 2, 5)
    after.add_done_callback(noted(done, lambda _: gate.set()))
    found = [done.get(timeout=SECONDS) for _ in range(6)]
    assert sorted(map(int, filter(None, found))) == [1, 8, 8, 8, 512]


def test_a_callback_that_submits_and_waits(make_executor):
    executor, done = make_executor(1), queue.SimpleQueue()

    def again(future):
        if future.result() < 100:
            made = executor.submit(pow, future.result(), 2)
            made.add_done_callback(noted(done, again))
            return made.result(SECONDS)
        return future.result()

    executor.submit(pow, 2, 1).add_done_callback(noted(done, again))
    assert sorted(done.get(timeout=SECONDS) for _ in range(4)) == [4, 16, 256, 256]


def test_while_no_callback_holds_it_up_all_are_settled_in_order(make_executor):
    executor, seen = make_executor(1), []
    futures = [executor.submit(pow, 2, n) for n in range(50)]
    for future in futures:
        future.add_done_callback(lambda future: seen.append(futures.index(future)))
    executor.shutdown()
    assert seen == list(range(50))


AT_EXIT = """
from civis_futures import ContainerPoolExecutor

executor = ContainerPoolExecutor(1)
first = executor.submit(pow, 2, 1)
first.add_done_callback(lambda _: print(second.result()))
second = executor.submit(pow, 2, 2)
"""


def test_at_the_exit_of_the_interpreter(platform):
    environment = {"CIVIS_API_KEY": platform.api_key, "CIVIS_API_ENDPOINT": platform.url}
    done = subprocess.run(
        [sys.executable, "-c", AT_EXIT],
        env={**os.environ, **environment}, capture_output=True, text=True, timeout=SECONDS,
    )  # fmt: skip
    assert (done.stdout, done.stderr) == ("4\n", "")
