"""What a failure tells, how to repeat it here, and that a hopeless map ends early."""

from __future__ import annotations

import io
import pdb
import sys

import pytest
from cases import MODES
from tasks import SECONDS, by_value

import civis_futures as cf
from civis_futures.testing import Fault, LocalPlatform

by_value(__name__)

pytestmark = pytest.mark.usefixtures("brisk")


def train(number):
    for line in range(30):
        print(f"{number}: line {line}", flush=True)
    if number % 2:
        raise ValueError(f"no model for {number}")
    return number


def stay(number):
    import time

    print(f"stay {number}", flush=True)
    time.sleep(SECONDS if number % 2 else 0)
    return number


def divide(data, by):
    return len(data) / by


class Distant:
    """Of a module that is here alone."""

    def __reduce__(self):
        return __import__, ("module_of_this_machine_alone",)


def told(error):
    """All that one can read of an error."""
    return "\n".join([str(error), *getattr(error, "__notes__", ()), str(error.__cause__)])


def test_two_failures_of_one_map_are_told_apart(make_executor):
    executor = make_executor(2)
    seen = []
    for number in (1, 3):
        with pytest.raises(ValueError, match=f"no model for {number}") as caught:
            list(executor.options(label="North").map(train, [0, 2, 4, 6, number]))
        seen.append(told(caught.value))
    for text, number, task in zip(seen, (1, 3), (4, 9), strict=True):
        assert f"North (task {task}, item 4) in run " in text
        assert "/scripts/containers/" in text, "the page of its run"
        assert "in train" in text, "the traceback from the container"
        lines = [line.strip() for line in text.splitlines()]
        assert f"{number}: line 29" in lines
        assert f"{number}: line 15" in lines
        assert f"{number}: line 14" not in lines, "15 lines"
        assert not any(line.startswith(f"{4 - number}: line") for line in lines)


def test_in_chunks(make_executor):
    with pytest.raises(ValueError, match="no model for 7") as caught:
        list(make_executor(2).map(train, [0, 2, 4, 6, 8, 7, 10], chunksize=3))
    text = told(caught.value)
    assert "The item that failed is number 5 of the call" in text
    assert "(task 1" in text


@pytest.mark.parametrize("reuse", MODES)
def test_a_lost_call_tells_of_each_attempt(reuse):
    with (
        LocalPlatform(cores=16, faults=[Fault.kill(says="stay 1")]) as platform,
        cf.ContainerPoolExecutor(
            1, platform=platform, max_tasks_per_worker=reuse, max_retries=1
        ) as executor,
    ):
        fine, lost = executor.submit(stay, 0), executor.submit(stay, 1)
        error = lost.exception(SECONDS)
        assert fine.result(SECONDS) == 0
    text = told(error)
    assert "stay (task 1) in run" in text
    one, two = lost.attempts
    assert str(one.run_id) in text
    assert f"run {two.run_id} of job {two.job_id} ({two.job_url})" in text
    assert "stay 1" in text, "the last lines of the log"
    assert any("stay 1" in line for line in error.log_tail)
    assert not any("stay 0" in line for line in error.log_tail)


# --- replay ------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [10, 300_000, 2_000_000], ids=["small", "large", "buffers"])
def test_replay(make_executor, size):
    future = make_executor(1).submit(divide, bytearray(size), 0)
    assert type(future.exception(SECONDS)) is ZeroDivisionError
    with pytest.raises(ZeroDivisionError) as caught:
        future.replay()
    assert caught.traceback[-1].name == "divide"
    assert caught.traceback[-1].frame.f_locals["by"] == 0
    assert len(caught.traceback[-1].frame.f_locals["data"]) == size


def test_replay_of_an_array(make_executor):
    numpy = pytest.importorskip("numpy")
    future = make_executor(1).submit(divide, numpy.ones(400_000), 0)
    assert type(future.exception(SECONDS)) is ZeroDivisionError
    with pytest.raises(ZeroDivisionError) as caught:
        future.replay()
    assert caught.traceback[-1].frame.f_locals["data"].sum() == 400_000


def test_replay_of_a_batch(make_executor):
    future = make_executor(1).submit_batch(divide, [(b"abc", 1), (b"abcd", 0)])
    assert type(future.exception(SECONDS)) is ZeroDivisionError
    with pytest.raises(ZeroDivisionError) as caught:
        future.replay()
    assert caught.traceback[-1].frame.f_locals["data"] == b"abcd"


def test_replay_under_the_debugger(make_executor, monkeypatch):
    future = make_executor(1).submit(divide, b"12345", 0)
    assert type(future.exception(SECONDS)) is ZeroDivisionError
    out = io.StringIO()
    monkeypatch.setattr(sys, "stdin", io.StringIO("p len(data), by\nwhere\nq\n"))
    monkeypatch.setattr(sys, "stdout", out)
    monkeypatch.setattr(pdb.Pdb, "use_rawinput", False, raising=False)
    with pytest.raises(ZeroDivisionError):
        future.replay(debug=True)
    monkeypatch.undo()
    assert "(5, 0)" in out.getvalue()
    assert "return len(data) / by" in out.getvalue()


def test_only_what_failed(make_executor):
    executor = make_executor(1)
    future = executor.submit(pow, 2, 3)
    assert future.result(SECONDS) == 8
    with pytest.raises(RuntimeError, match="only a call that failed can be replayed"):
        future.replay()


# --- fail early --------------------------------------------------------------------------------


@pytest.mark.parametrize("reuse", MODES)
def test_a_map_over_a_missing_module_ends_early(reuse, paced):
    # On a busy machine the first container takes longer than usual to say what is missing.
    paced(probe=60, proof=60)
    with (
        LocalPlatform(cores=64) as platform,
        cf.ContainerPoolExecutor(50, platform=platform, max_tasks_per_worker=reuse) as executor,
    ):
        with pytest.raises(cf.EnvironmentMismatchError) as caught:
            list(executor.map(train, [Distant() for _ in range(500)]))
        executor.shutdown(cancel_futures=True)
        assert platform.stats().runs_started <= 2
    message = str(caught.value)
    assert "'module_of_this_machine_alone'" in message
    assert cf.Container().image in message
    assert "setup_cmd='pip install ...'" in message
