"""A cancelled call has ended: in each phase, with nothing of it going on and nobody else hurt."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
import time
from concurrent.futures import CancelledError
from pathlib import Path

import pytest
from cases import MODES
from tasks import SECONDS, by_value

import civis_futures as cf
from civis_futures.testing import Fault

by_value(__name__)

LARGE = 200_000  # bytes: what is larger than an order may hold travels as a File
BOTH = pytest.mark.parametrize("reuse", MODES)


def beat(path, *_):
    """Append to a file every 50 ms."""
    while True:
        with open(path, "a") as file:
            file.write(".")
        time.sleep(0.05)


def trace(folder, name):
    """One file for each execution."""
    (folder / f"{name}-{os.getpid()}-{time.time_ns()}").touch()
    return name


def traces(folder, name):
    return len(list(folder.glob(f"{name}-*")))


def large_result(path):
    path.touch()
    return bytes(LARGE)


def fail_and_say(path):
    with open(path, "a") as file:
        file.write(".")
    raise ValueError("once more")


def slow_to_pickle(path):
    return Slow(path)


class Slow:
    """What takes long to pickle: the call has returned, and its worker has no answer yet."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        self.path.touch()
        time.sleep(SECONDS)
        return str, ()


def assert_still(path):
    """Nobody writes there any more."""
    size = path.stat().st_size if path.exists() else 0
    time.sleep(0.2)
    assert (path.stat().st_size if path.exists() else 0) == size, "it goes on"


# --- each phase --------------------------------------------------------------------------------

# phase: (function, extra argument, faults, when to cancel)
PHASES = {
    "not sent": (beat, b"", (Fault.delay(1, "GET /users/me"),), lambda future, path: True),
    "uploading": (
        beat, os.urandom(LARGE), (Fault.delay(1, "POST link", origin="client"),),
        lambda future, path: True,
    ),
    "queued": (
        beat, b"", (Fault.stay_queued(),), lambda future, path: future.state == "queued",
    ),
    "running": (beat, b"", (), lambda future, path: path.exists() and future.running()),
    "finishing": (slow_to_pickle, b"", (), lambda future, path: path.exists()),
    "fetching": (
        large_result, b"", (Fault.delay(1.5, "GET link", origin="client"),),
        lambda future, path: path.exists() and time.time() > path.stat().st_mtime + 1,
    ),
    "retrying": (fail_and_say, b"", (), lambda future, path: future.attempts),
}  # fmt: skip


@BOTH
@pytest.mark.parametrize("phase", PHASES)
def test_cancelled_in_each_phase(faulty, tmp_path, until, phase, reuse):
    function, more, faults, ready = PHASES[phase]
    faulty.reset()
    faulty.faults.add(*faults)
    path = tmp_path / "beats"
    arguments = (path, more) if more else (path,)
    with cf.ContainerPoolExecutor(1, platform=faulty, max_tasks_per_worker=reuse) as executor:
        view = executor.options(max_retries=9, retry_on=ValueError)
        future = view.submit(function, *arguments)
        until(lambda: ready(future, path), SECONDS)
        assert future.cancel()
        assert future.cancelled()
        faulty.faults.clear()
        other = executor.submit(trace, tmp_path, "other")
        assert other.result(SECONDS) == "other"
        with pytest.raises(CancelledError):
            future.result(0)
        executor.shutdown()
        assert not faulty.stats().active, "shutdown returns when all containers are over"
        assert not faulty.stats().queued
    assert_still(path)
    assert traces(tmp_path, "other") == 1
    assert future.state is cf.TaskState.CANCELLED


def test_nothing_of_it_goes_on_a_moment_later(faulty, tmp_path, until):
    """The grace period, for a call that others wait behind in the same worker."""
    path = tmp_path / "beats"
    with cf.ContainerPoolExecutor(1, platform=faulty) as executor:
        future = executor.submit(beat, path)
        behind = [executor.submit(trace, tmp_path, name) for name in ("one", "two", "three")]
        until(path.exists)
        assert future.cancel()
        assert [each.result(SECONDS) for each in behind] == ["one", "two", "three"]
        assert_still(path)
    assert [traces(tmp_path, name) for name in ("one", "two", "three")] == [1, 1, 1]


def test_many_cancelled_among_many(faulty, tmp_path, until):
    path = tmp_path / "beats"
    with cf.ContainerPoolExecutor(3, platform=faulty) as executor:
        futures = []
        for number in range(40):
            if number % 4 == 1:
                futures.append(executor.submit(beat, path))
            else:
                futures.append(executor.submit(trace, tmp_path, number))
        until(path.exists)
        for future in futures[1::4]:
            assert future.cancel()
        kept = [future for number, future in enumerate(futures) if number % 4 != 1]
        found = [future.result(SECONDS) for future in kept]
    assert found == [number for number in range(40) if number % 4 != 1]
    assert all(future.done() for future in futures)
    assert all(traces(tmp_path, number) == 1 for number in found)
    assert_still(path)


# --- the client dies ---------------------------------------------------------------------------

CLIENT = """
    import sys, time
    from pathlib import Path
    import civis_futures as cf

    def beat(path):
        while True:
            with open(path, "a") as file:
                file.write(".")
            time.sleep(0.05)

    folder = Path(sys.argv[1])
    reuse = 1 if sys.argv[2] == "fresh" else None
    executor = cf.ContainerPoolExecutor(
        2, max_tasks_per_worker=reuse, lease=1.5, idle_timeout=3600
    )
    executor.submit(beat, folder / "beats")
    if reuse is None:
        executor.submit(pow, 2, 3).result()  # the other one is idle now
    while not (folder / "beats").exists():
        time.sleep(0.02)
    print("ready", flush=True)
    time.sleep(3600)
"""


@pytest.mark.parametrize("mode", ["fresh", "reused"])
def test_containers_end_when_their_client_is_killed(faulty, tmp_path, until, mode):
    faulty.reset()
    program = tmp_path / "client.py"
    program.write_text(textwrap.dedent(CLIENT))
    place = os.pathsep.join([str(Path(cf.__file__).parents[1]), os.environ.get("PYTHONPATH", "")])
    keys = {"CIVIS_API_KEY": faulty.api_key, "CIVIS_API_ENDPOINT": faulty.url}
    environment = {**os.environ, "PYTHONPATH": place, **keys}
    client = subprocess.Popen(
        [sys.executable, program, tmp_path, mode],
        stdout=subprocess.PIPE, env=environment,
    )  # fmt: skip
    try:
        assert client.stdout.readline() == b"ready\n"
        assert len(faulty.stats().active) == (1 if mode == "fresh" else 2)
        time.sleep(2)
        assert len(faulty.stats().active) == (1 if mode == "fresh" else 2), "the client lives"
        client.send_signal(signal.SIGKILL)
        client.wait(10)
        until(lambda: not faulty.stats().active, 30)
        assert_still(tmp_path / "beats")
    finally:
        client.kill()
        client.wait(10)
        client.stdout.close()
