"""Containers that outlive their executor: the next process of the session begins with them."""

from __future__ import annotations

import os
import time

import pytest
from tasks import SECONDS, by_value

import civis_futures
from civis_futures import CallLostError

by_value(__name__)


@pytest.fixture
def name(platform, request):
    yield request.node.name
    civis_futures.purge(request.node.name, platform)


def process(_):
    time.sleep(0.1)
    return os.getppid()


def test_the_next_process_begins_with_warm_containers(make_executor, platform, name, until):
    options = {"session": name, "keep_alive": 60}
    with make_executor(2, **options) as executor:
        first = {executor.submit(process, number).result(SECONDS) for number in range(2)}
        first |= set(executor.map(process, range(10, 14)))
    runs, active = platform.stats().runs_started, platform.stats().active
    assert active, "they stay"
    with make_executor(2, **options) as executor:
        again = set(executor.map(process, range(20, 26)))
        assert executor.submit(process, 30).result(SECONDS) in first
    assert again & first
    assert platform.stats().runs_started - runs == 2 - len(active)
    with make_executor(2, session=name) as executor:  # and this one ends them
        assert set(executor.map(process, range(20, 26))) == again
    until(lambda: not platform.stats().active.keys() & active.keys())


def test_they_end_by_themselves(make_executor, platform, name, until):
    with make_executor(1, session=name, keep_alive=1.0) as executor:
        process_ = executor.submit(process, 1).result(SECONDS)
    [run] = platform.stats().active
    until(lambda: run not in platform.stats().active)
    with make_executor(1, session=name, keep_alive=1.0) as executor:
        assert executor.submit(process, 2).result(SECONDS) != process_


def test_what_a_purge_ends(make_executor, platform, until):
    with make_executor(1, session="purged while warm", keep_alive=60) as executor:
        executor.submit(process, 1).result(SECONDS)
    [run] = platform.stats().active
    civis_futures.purge("purged while warm", platform)
    until(lambda: run not in platform.stats().active)


def leave_hard(_):
    os.kill(os.getppid(), 9)


def test_only_idle_ones_stay(make_executor, platform, name):
    """Nothing that was cancelled goes on, and what has died is told."""
    with make_executor(2, session=name, keep_alive=60) as executor:
        sleeping = executor.submit(time.sleep, 3600)
        lost = executor.submit(leave_hard, 1)
        assert type(lost.exception(SECONDS)) is CallLostError
        executor.shutdown(cancel_futures=True, wait=False)
        sleeping.cancel()
    assert sleeping.cancelled()
    for pids in platform.stats().active.values():
        assert pids


def test_with_fresh_containers_there_is_nothing_to_keep(make_executor, platform, name):
    options = {"session": name, "keep_alive": 60, "max_tasks_per_worker": 1}
    with make_executor(2, **options) as executor:
        assert len(set(executor.map(process, range(3)))) == 3
    assert not platform.stats().active


@pytest.mark.parametrize(
    ("keep_alive", "error", "text"),
    [
        (-1, ValueError, "keep_alive must be a finite number of seconds, 0 or more"),
        (float("inf"), ValueError, "keep_alive must be a finite"),
        (float("nan"), ValueError, "keep_alive must be a finite"),
        ("60", TypeError, "keep_alive must be a number"),
        (True, TypeError, "keep_alive must be a number"),
    ],
)
def test_what_cannot_be(make_executor, keep_alive, error, text):
    with pytest.raises(error, match=text):
        make_executor(1, session="never", keep_alive=keep_alive)


def test_without_a_session_there_is_no_next_process(make_executor):
    with pytest.raises(ValueError, match="keep_alive is for the next process of a session"):
        make_executor(1, keep_alive=60)
