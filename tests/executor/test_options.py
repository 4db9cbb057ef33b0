"""Options of single calls: what each does to real containers, what attempts tell of it."""

from __future__ import annotations

import os
import signal
import time
from contextlib import closing

import pytest
from cases import MODES
from tasks import SECONDS, by_value, identity, wait_at

import civis_futures as cf
from civis_futures._api.client import PlatformClient
from civis_futures._types import Job
from civis_futures.testing import Fault, LocalPlatform

by_value(__name__)

pytestmark = pytest.mark.usefixtures("brisk")

#: Each promise holds for one container for each call, and for containers that are reused.
BOTH = pytest.mark.parametrize("reuse", MODES)


def sleep(seconds):
    time.sleep(seconds)
    return seconds


def beat(path, seconds=SECONDS):
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        with open(path, "a") as file:
            file.write(".")
        time.sleep(0.05)


def process_of_worker(_=None):
    return os.getppid()


def tries(path):
    """How often this was called with this path, this time included."""
    with open(path, "a") as file:
        file.write("x")
        return file.tell()


def raise_until(path, number, kind=ValueError):
    count = tries(path)
    if count < number:
        raise kind(f"try {count}")
    return count


def kill_container_until(path, number):
    count = tries(path)
    if count < number:
        os.kill(os.getppid(), signal.SIGKILL)
        os.kill(os.getpid(), signal.SIGKILL)
    return count


def eat(megabytes):
    eaten = [os.urandom(1) * 1_000_000 for _ in range(megabytes)]
    time.sleep(1.0)  # so that the platform, which looks now and then, sees it
    return len(eaten)


def raise_memory_error():
    raise MemoryError("too much for me")


def resources_of(platform, future):
    with closing(PlatformClient(platform.url, platform.api_key)) as client:
        return client.get_script(Job(future.job_id))["requiredResources"]


# --- timeout -----------------------------------------------------------------------------------


@BOTH
def test_a_timeout_ends_the_call_alone(make_executor, tmp_path, reuse):
    path = tmp_path / "beats"
    executor = make_executor(1, max_tasks_per_worker=reuse)
    before = executor.submit(process_of_worker)
    slow = executor.options(timeout=0.5).submit(beat, path)
    after = executor.submit(process_of_worker)
    error = slow.exception(SECONDS)
    size = path.stat().st_size
    assert type(error) is cf.TaskTimeoutError
    assert isinstance(error, TimeoutError)
    assert "beat (task 1) in run" in str(error)
    assert "it ran for longer than its timeout of 0.5 s" in str(error)
    [attempt] = slow.attempts
    assert (attempt.state, attempt.run_id) == ("failed", error.run_id)
    assert attempt.reason == "it ran for longer than its timeout of 0.5 s"
    assert attempt.peak_memory > 0
    assert 0.5 <= attempt.finished - attempt.started < 20
    assert (before.result(SECONDS) == after.result(SECONDS)) == (reuse is None)
    assert path.stat().st_size == size, "it went on"


def test_a_timeout_is_of_run_time_alone(make_executor):
    executor = make_executor(1, max_tasks_per_worker=None)
    calls = [executor.options(timeout=1.5).submit(sleep, 0.5) for _ in range(4)]
    assert [call.result(SECONDS) for call in calls] == [0.5] * 4


# --- queue_timeout -----------------------------------------------------------------------------


def test_what_has_not_begun_in_time_never_begins():
    with (
        LocalPlatform(faults=[Fault.stay_queued()]) as platform,
        cf.ContainerPoolExecutor(1, platform=platform) as executor,
    ):
        waits = executor.options(queue_timeout=0.5).submit(identity, 1)
        error = waits.exception(SECONDS)
        assert type(error) is cf.TaskTimeoutError
        assert "identity (task 0)" in str(error)
        assert "it had not begun after its queue_timeout of 0.5 s" in str(error)
        executor.shutdown()
        assert not platform.stats().active
        assert not platform.stats().queued


@BOTH
def test_behind_another_call(make_executor, gate_file, reuse):
    executor = make_executor(1, max_tasks_per_worker=reuse)
    first = executor.submit(hold, gate_file)
    tired = executor.options(queue_timeout=0.5).submit(tries, f"{gate_file}.tired")
    patient = executor.options(queue_timeout=50).submit(identity, 1)
    assert type(tired.exception(SECONDS)) is cf.TaskTimeoutError
    assert not first.done()
    gate_file.touch()
    assert first.result(SECONDS) == "open"
    assert patient.result(SECONDS) == 1
    assert not os.path.exists(f"{gate_file}.tired"), "it was begun after all"


def hold(path):
    end = time.monotonic() + SECONDS
    while not path.exists() and time.monotonic() < end:
        time.sleep(0.02)
    return "open"


@pytest.fixture
def gate_file(tmp_path):
    path = tmp_path / "gate"
    yield path
    path.touch()


# --- retries -----------------------------------------------------------------------------------


@BOTH
@pytest.mark.parametrize(
    "retry_on",
    [ValueError, (KeyError, ValueError), lambda error: "try" in str(error)],
    ids=["type", "types", "predicate"],
)
def test_exceptions_that_are_tried_again(make_executor, tmp_path, retry_on, reuse):
    view = make_executor(1, max_tasks_per_worker=reuse).options(max_retries=2, retry_on=retry_on)
    future = view.submit(raise_until, tmp_path / "tries", 3)
    assert future.result(SECONDS) == 3
    assert [each.state for each in future.attempts] == ["failed", "failed", "succeeded"]
    assert [each.reason for each in future.attempts] == [
        "ValueError: try 1", "ValueError: try 2", "",
    ]  # fmt: skip
    assert all(each.run_id and each.worker and each.started for each in future.attempts)


def test_not_more_often_than_was_said(make_executor, tmp_path):
    view = make_executor(1).options(max_retries=1, retry_on=ValueError)
    future = view.submit(raise_until, tmp_path / "tries", 9)
    error = future.exception(SECONDS)
    assert (type(error), str(error)) == (ValueError, "try 2")
    assert len(future.attempts) == 2
    assert "try 1" in error.__notes__[0], "the notes tell of the attempt before"


def broken_predicate(error):
    raise RuntimeError("on purpose")


@pytest.mark.parametrize("retry_on", [KeyError, lambda error: False, broken_predicate])
def test_other_exceptions_are_not(make_executor, tmp_path, retry_on, caplog):
    view = make_executor(1).options(max_retries=5, retry_on=retry_on)
    future = view.submit(raise_until, tmp_path / "tries", 9)
    assert str(future.exception(SECONDS)) == "try 1"
    assert len(future.attempts) == 1
    assert ("retry_on of raise_until (task 0) failed" in caplog.text) == (
        retry_on is broken_predicate
    )


@BOTH
def test_lost_calls_are_tried_again(make_executor, tmp_path, reuse):
    executor = make_executor(1, max_tasks_per_worker=reuse)
    future = executor.options(max_retries=1).submit(kill_container_until, tmp_path / "tries", 2)
    assert future.result(SECONDS) == 2
    lost, good = future.attempts
    assert (lost.state, lost.exit_code) == ("failed", 137)
    assert "failed with exit code 137" in lost.reason
    assert lost.run_id != good.run_id
    assert lost.worker != good.worker
    assert lost.started <= lost.finished
    assert good.state == "succeeded"
    assert good.peak_memory > 0


def test_how_each_attempt_failed_is_told(make_executor, tmp_path):
    executor = make_executor(1, max_tasks_per_worker=1)
    future = executor.options(max_retries=1).submit(kill_container_until, tmp_path / "tries", 9)
    error = future.exception(SECONDS)
    assert type(error) is cf.CallLostError
    assert len(future.attempts) == 2
    assert all(str(each.run_id) in str(error) for each in future.attempts)


# --- label, resources, memory ------------------------------------------------------------------


def test_a_label_is_the_name(make_executor):
    future = make_executor(1).options(label="North 7").submit(raise_memory_error)
    error = future.exception(SECONDS)
    assert type(error) is MemoryError, "one of Python's own is not a killed container"
    assert future.label == "North 7"
    assert future.task == "North 7 (task 0)"
    assert "North 7 (task 0)" in error.__notes__[0]
    assert [each.reason for each in future.attempts] == ["MemoryError: too much for me"]


@BOTH
def test_a_larger_call_gets_a_larger_container(platform, make_executor, reuse):
    container = cf.Container(required_resources={"cpu": 512, "memory": 500})
    executor = make_executor(1, container=container, max_tasks_per_worker=reuse, idle_timeout=300)
    small = executor.submit(process_of_worker)
    assert small.result(SECONDS)
    # There is one worker at most: the idle one, which is too small, is let go.
    large = executor.options(required_resources={"memory": 900}).submit(process_of_worker)
    assert large.result(SECONDS) != small.result()
    assert (resources_of(platform, small)["memory"], resources_of(platform, small)["cpu"]) == (
        500, 512,
    )  # fmt: skip
    assert (resources_of(platform, large)["memory"], resources_of(platform, large)["cpu"]) == (
        900, 512,
    )  # fmt: skip
    if reuse is None:  # what is large enough for it serves a small one too
        assert executor.submit(process_of_worker).result(SECONDS) == large.result()


def test_more_memory_after_a_container_ran_out_of_it(platform, make_executor):
    container = cf.Container(required_resources={"memory": 120})
    executor = make_executor(1, container=container)
    assert executor.submit(identity, 1).result(SECONDS) == 1
    future = executor.options(memory_growth=4.0).submit(eat, 200)
    assert future.result(SECONDS) == 200
    killed, good = future.attempts
    assert (killed.state, good.state) == ("failed", "succeeded")
    assert "more memory than it had asked for" in killed.reason
    assert killed.exit_code == 137
    assert good.peak_memory > 200
    assert resources_of(platform, future)["memory"] == 480


def test_up_to_a_cap(make_executor):
    container = cf.Container(required_resources={"memory": 120})
    executor = make_executor(1, container=container, max_tasks_per_worker=1)
    future = executor.options(memory_growth=2.0, max_memory=150).submit(eat, 400)
    assert type(future.exception(SECONDS)) is cf.WorkerMemoryError
    assert len(future.attempts) == 2


# --- what comes first, and how many at a time ----------------------------------------------------


def test_of_what_waits_the_highest_priority_begins_first(make_executor, gate, until):
    executor = make_executor(1, max_tasks_per_worker=1)
    held = executor.submit(wait_at, gate.path)
    until(lambda: gate.arrived)
    futures = [executor.options(priority=each).submit(identity, each) for each in (0, -1, 2.5, 2)]
    last = executor.submit(identity, "last")
    gate.open()
    assert held.result(SECONDS) is None
    ended = [future.result() for future in cf.as_completed([*futures, last], SECONDS)]
    assert ended == [2.5, 2, 0, "last", -1]


def test_a_pool_that_is_scaled(make_executor, gate, until):
    with LocalPlatform(cores=4) as platform:
        scaled(platform, make_executor(1, platform=platform), gate, until)


def scaled(platform, executor, gate, until):
    futures = [executor.submit(wait_at, gate.path, number) for number in range(3)]
    until(lambda: gate.arrived)
    executor.scale(3)
    until(lambda: len(gate.arrived) == 3)
    assert executor.max_workers == 3
    executor.scale(1)
    gate.open()
    assert [future.result(SECONDS) for future in futures] == [0, 1, 2]
    assert len({future.worker for future in futures}) == 3, "none was ended for it"
    until(lambda: len(platform.stats().active) == 1)
    assert executor.submit(identity, 7).result(SECONDS) == 7
    for number, error in ((0, ValueError), (-1, ValueError), (1.5, TypeError), ("2", TypeError)):
        with pytest.raises(error, match="max_workers"):
            executor.scale(number)


# --- what cannot be ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"max_retries": -1}, ValueError, "max_retries must be 0 or more"),
        ({"max_retries": 1.5}, TypeError, "max_retries must be an integer"),
        ({"retry_on": "ValueError"}, TypeError, "retry_on must be"),
        ({"retry_on": (ValueError, "x")}, TypeError, "retry_on must be"),
        ({"retry_on": (print, ValueError)}, TypeError, "retry_on must be"),
        ({"retry_on": int}, TypeError, "retry_on must be"),
        ({"timeout": 0}, ValueError, "timeout must be a finite number of seconds, above 0"),
        ({"timeout": float("inf")}, ValueError, "timeout must be a finite number"),
        ({"timeout": "1"}, TypeError, "timeout must be a number"),
        ({"queue_timeout": -1}, ValueError, "queue_timeout must be a finite number"),
        ({"queue_timeout": float("nan")}, ValueError, "queue_timeout must be a finite number"),
        ({"label": 7}, TypeError, "label must be a str"),
        ({"required_resources": {"gpu": 1}}, ValueError, "gpu"),
        ({"required_resources": {"memory": -1}}, ValueError, "memory"),
        ({"required_resources": {"memory": "1"}}, TypeError, "memory"),
        ({"memory_growth": 1.0}, ValueError, "memory_growth must be above 1"),
        ({"memory_growth": float("nan")}, ValueError, "memory_growth must be"),
        ({"max_memory": 0}, ValueError, "max_memory must be a positive number"),
        ({"max_memory": float("nan")}, ValueError, "max_memory must be a positive number"),
        ({"priority": "high"}, TypeError, "priority must be a number, not 'high'"),
        ({"priority": None}, TypeError, "priority must be a number"),
        ({"priority": float("nan")}, ValueError, "priority must be a finite number"),
        ({"priority": float("inf")}, ValueError, "priority must be a finite number"),
        ({"nonsense": 1}, TypeError, "nonsense"),
    ],
    ids=str,
)
def test_what_cannot_be(make_executor, options, error, message):
    with pytest.raises(error, match=message):
        make_executor(1).options(**options)


def test_a_view_of_a_view(make_executor):
    executor = make_executor(1)
    view = executor.options(label="a", max_retries=1).options(max_retries=2)
    assert view.submit(identity, 1).task.startswith("a (task")
    assert list(view.map(identity, range(3))) == [0, 1, 2]
