"""What concerns a pool as a whole: cancel all, is it broken, are these its options; and a TERM."""

from __future__ import annotations

import dataclasses
import inspect
import os
import signal
import subprocess
import sys
import textwrap
import time
from concurrent.futures import CancelledError

import pytest
from tasks import by_value

import civis_futures as cf
from civis_futures import ContainerPoolExecutor
from civis_futures._executor.options import PoolOptions

by_value(__name__)


def test_cancel_all(make, until, mine):
    executor = make(2)
    futures = [executor.submit(time.sleep, 60) for _ in range(5)]
    until(lambda: any(future.running() for future in futures))
    executor.cancel_all()
    assert all(future.cancelled() for future in futures)
    with pytest.raises(CancelledError, match=r"'sleep \(task 4\)' cancelled.* was cancelled"):
        futures[4].result()
    assert executor.submit(pow, 2, 3).result(20) == 8  # it lives on
    executor.cancel_all()
    executor.shutdown()
    assert not mine()


def raise_cancelled():
    raise CancelledError("mine")


def test_a_cancelled_error_of_the_function(executor):
    with pytest.raises(CancelledError) as caught:
        executor.submit(raise_cancelled).result(20)
    assert caught.value.args == ("mine",)


def test_broken(make_executor, until):
    executor = make_executor(1, initializer=divmod, initargs=(1, 0))
    assert executor.broken is None
    with pytest.raises(cf.BrokenContainerPool):
        executor.submit(pow, 2, 3).result(20)
    until(lambda: executor.broken is not None)
    assert isinstance(executor.broken, cf.BrokenContainerPool)


def test_the_executors_arguments_are_the_options_of_a_pool():
    """In the same order, since they are handed over by it, and with the same defaults."""
    _, *arguments = inspect.signature(ContainerPoolExecutor.__init__).parameters.values()
    options = [(each.name, each.default) for each in dataclasses.fields(PoolOptions)]
    assert [(each.name, each.default) for each in arguments] == options


def test_options_are_checked_without_a_pool(leftovers):
    ContainerPoolExecutor.check_options({})
    ContainerPoolExecutor.check_options({"max_workers": 3, "name": "x", "own": 1}, also=["own"])
    with pytest.raises(TypeError, match="no option 'max_worker': did you mean 'max_workers'"):
        ContainerPoolExecutor.check_options({"max_worker": 3})
    with pytest.raises(TypeError, match="no option 'own': did you mean 'owner'"):
        ContainerPoolExecutor.check_options({"own": 3}, also=["owner"])
    assert not leftovers()


@pytest.mark.parametrize(("name", "value", "error"), [
    ("max_workers", 0, ValueError), ("max_workers", "3", TypeError),
    ("max_tasks_per_worker", 0, ValueError), ("idle_timeout", -1, ValueError),
    ("max_retries", 1.5, TypeError), ("initializer", 1, TypeError), ("initargs", 1, TypeError),
    ("name", 1, TypeError), ("container", "python", TypeError), ("requires", ["x"], TypeError),
])  # fmt: skip
def test_checked_values_are_those_of_the_constructor(platform, name, value, error):
    with pytest.raises(error, match=name) as checked:
        ContainerPoolExecutor.check_options({name: value})
    with pytest.raises(error, match=name) as made:
        ContainerPoolExecutor(platform=platform, **{name: value})
    assert str(checked.value) == str(made.value)


# --- a TERM, in a container --------------------------------------------------------------------

POOL = """
import os, signal, sys, time
from civis_futures import ContainerPoolExecutor
from civis_futures._executor.options import PoolOptions
"""


@pytest.fixture
def start(platform, tmp_path):
    """start(body, **environment): a script with a pool, in an interpreter of its own."""
    started = []

    def start(body, **environment):
        path = tmp_path / "script.py"
        path.write_text(POOL + textwrap.dedent(body))
        keys = {"CIVIS_API_ENDPOINT": platform.url, "CIVIS_API_KEY": platform.api_key}
        # Coverage has a handler of its own for TERM, and we leave a process alone that has one.
        plain = {name: value for name, value in os.environ.items() if not name.startswith("COV")}
        process = subprocess.Popen(
            [sys.executable, str(path)],
            env={**plain, "CIVIS_JOB_ID": "1", "CIVIS_RUN_ID": "1", **keys, **environment},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        started.append(process)
        return process

    yield start
    for process in started:
        process.kill()
        process.communicate()


@pytest.mark.parametrize("body", [
    """
    with ContainerPoolExecutor(2) as executor:
        list(executor.map(time.sleep, [60] * 3))
    """,
    """
    executor = ContainerPoolExecutor(2)
    futures = [executor.submit(time.sleep, 60) for _ in range(3)]
    time.sleep(60)
    """,
    """
    executor = ContainerPoolExecutor(2)
    futures = [executor.submit(time.sleep, 60) for _ in range(3)]
    """,
], ids=["with", "forgotten", "at exit"])  # fmt: skip
def test_a_term_ends_the_containers_of_the_pool(start, mine, until, body):
    process = start(body)
    until(lambda: len([pids for pids in mine().values() if pids]) == 2)
    process.terminate()
    assert "Exception ignored" not in process.communicate(timeout=20)[1]
    assert process.returncode == 143
    until(lambda: not mine())


def test_a_term_without_a_pool_is_as_ever(start, mine):
    process = start("""
        with ContainerPoolExecutor(1) as executor:
            assert executor.submit(pow, 2, 3).result() == 8
        print("begun", flush=True)
        time.sleep(60)
    """)
    assert process.stdout.readline() == "begun\n"
    process.terminate()
    process.communicate(timeout=20)
    assert process.returncode == -signal.SIGTERM


def test_a_fork_does_not_end_the_pool(start, mine):
    process = start("""
        with ContainerPoolExecutor(1) as executor:
            executor.submit(pow, 2, 3).result()
            ready, here = os.pipe()
            child = os.fork()
            if child == 0:
                os.write(here, b"x")
                time.sleep(60)
                os._exit(1)
            os.read(ready, 1)  # Python forgets signals that come while it forks
            os.kill(child, signal.SIGTERM)
            assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -signal.SIGTERM
            print(executor.submit(pow, 2, 3).result())
    """)
    assert process.communicate(timeout=20)[0] == "8\n"
    assert process.returncode == 0


@pytest.mark.parametrize("setup", [
    "os.environ.pop('CIVIS_JOB_ID')", "signal.signal(signal.SIGTERM, signal.SIG_IGN)",
])  # fmt: skip
def test_other_handlers_are_left_alone(start, setup):
    process = start(f"""
        {setup}
        before = signal.getsignal(signal.SIGTERM)
        with ContainerPoolExecutor(1) as executor:
            assert signal.getsignal(signal.SIGTERM) is before
    """)
    assert process.communicate(timeout=20)[1] == ""
    assert process.returncode == 0
