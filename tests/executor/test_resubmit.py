"""`future.resubmit()`: the call that was sent, once more; the old future stays as it is."""

from __future__ import annotations

import os
import threading

import numpy as np
import pytest
from tasks import SECONDS, by_value, wait_at

import civis_futures
from civis_futures import CallLostError, TaskState
from civis_futures.testing import Fault

by_value(__name__)


def fail_once(folder, data=b""):
    """How much there is; the first time it fails."""
    mark = f"{folder}/failed"
    if not os.path.exists(mark):
        open(mark, "w").close()
        raise ConnectionError("once")
    return len(data)


@pytest.mark.parametrize("size", [10, 300_000, 2_000_000], ids=["small", "large", "buffers"])
def test_what_failed_is_run_again(make_executor, tmp_path, size):
    executor = make_executor(1)
    data = np.zeros(size, "u1")
    future = executor.submit(fail_once, str(tmp_path), data)
    error = future.exception(SECONDS)
    data.resize(0, refcheck=False)  # what was sent was a snapshot
    again = future.resubmit()
    assert again.result(SECONDS) == size
    assert (again is future, future.exception(), future.state) == (False, error, TaskState.FAILED)
    assert again.task == f"fail_once (task {again._number})"
    assert len(again.attempts) == 1


def test_what_has_succeeded_is_run_again(reused):
    future = reused.submit(os.urandom, 8)
    first = future.result(SECONDS)
    again = future.resubmit()
    assert again.result(SECONDS) != first
    assert future.result() == first
    assert again.resubmit().result(SECONDS) != again.result()


def test_what_was_cancelled_is_run_again(make_executor, gate, until):
    executor = make_executor(1)
    running = executor.submit(wait_at, gate.path, "a")
    waiting = executor.submit(pow, 2, 3)
    until(lambda: gate.arrived)
    assert running.cancel()
    assert waiting.cancel()
    gate.open()
    assert running.resubmit().result(SECONDS) == "a"  # at once: nobody waits for the manager
    assert waiting.resubmit().result(SECONDS) == 8


def test_a_batch_is_run_again(reused):
    future = reused.submit_batch(pow, [(2, 3), (3, 2)])
    future.result(SECONDS)
    assert future.resubmit().result(SECONDS) == [8, 9]


def test_options_may_be_others(make_executor, tmp_path):
    executor = make_executor(1)
    future = executor.options(label="mine", max_retries=0).submit(os._exit, 3)
    assert isinstance(future.exception(SECONDS), CallLostError)
    again = future.resubmit(label="yours", max_retries=1)
    assert isinstance(again.exception(SECONDS), CallLostError)
    assert (future.label, again.label) == ("mine", "yours")
    assert again.task == f"yours (task {again._number})"
    assert (len(future.attempts), len(again.attempts)) == (1, 2)
    third = again.resubmit()  # with the options that the second one had
    assert isinstance(third.exception(SECONDS), CallLostError)
    assert (third.label, len(third.attempts)) == ("yours", 2)


def test_what_could_not_be_uploaded_is_sent_again(faulty, make_executor):
    executor = make_executor(1, platform=faulty)
    faulty.faults.add(Fault.answer(400, "POST /files"))
    future = executor.submit(len, b"x" * 300_000)
    assert isinstance(future.exception(SECONDS), CallLostError)
    faulty.faults.clear()
    assert future.resubmit().result(SECONDS) == 300_000


def test_what_is_not_done_is_refused(make_executor, gate):
    future = make_executor(1).submit(wait_at, gate.path)
    with pytest.raises(RuntimeError, match="only a call that is done"):
        future.resubmit()
    gate.open()


def test_what_was_never_sent_is_refused(reused):
    future = reused.submit(len, threading.Lock())
    with pytest.raises(RuntimeError, match="never sent"):
        future.resubmit()


def test_what_has_succeeded_and_is_large_is_not_kept(reused):
    future = reused.submit(len, os.urandom(20_000))
    assert future.result(SECONDS) == 20_000
    with pytest.raises(RuntimeError, match="too large to be kept"):
        future.resubmit()


def test_no_such_option(reused):
    future = reused.submit(abs, -1)
    future.result(SECONDS)
    with pytest.raises(TypeError, match="did you mean 'label'"):
        future.resubmit(lable="x")
    with pytest.raises(ValueError, match="max_retries"):
        future.resubmit(max_retries=-1)


def test_not_after_the_shutdown(make_executor):
    executor = make_executor(1)
    future = executor.submit(abs, -1)
    executor.shutdown()
    with pytest.raises(RuntimeError, match="shutdown"):
        future.resubmit()


def test_in_a_session_it_is_the_next_place(platform, make_executor):
    seen = []
    for _ in range(2):  # another client, with the same cell
        executor = make_executor(1, session="resubmitted")
        first = executor.submit(os.urandom, 8)
        value = first.result(SECONDS)
        again = first.resubmit()
        seen.append((value, again.result(SECONDS), executor.submit(abs, -1).result(SECONDS)))
        executor.shutdown()
    assert seen[0] == seen[1]
    assert seen[0][0] != seen[0][1]
    civis_futures.purge("resubmitted", platform)
