"""Bars: in a terminal, in a log file, and where tqdm is not installed."""

from __future__ import annotations

import io
import os
import pty
import re
import subprocess
import sys
import threading
import time
import weakref
from concurrent.futures import Future

import pytest
from tasks import by_value

from civis_futures import ProgressBar, progress
from civis_futures._futures.progress import MOST, Meter
from civis_futures._types import TaskState

by_value(__name__)


def fail(number):
    if number % 2:
        raise ValueError(number)
    return number


class Terminal(io.StringIO):
    def isatty(self):
        return True


@pytest.fixture
def stderr(monkeypatch):
    """stderr(stream): it takes the place of the real one. (In a fixture, pytest would undo it.)"""

    def put(stream):
        monkeypatch.setattr(sys, "stderr", stream)
        return stream

    return put


def test_a_bar_in_a_terminal(shared, stderr):
    terminal = stderr(Terminal())
    futures = [shared.submit(fail, number) for number in range(6)]
    shown = progress(futures)
    assert list(shown) == futures
    last = terminal.getvalue().rpartition("\r")[2]
    assert "6/6" in last
    assert "3 failed" in last
    assert not [t for t in threading.enumerate() if "TMonitor" in type(t).__name__]


@pytest.mark.parametrize(("expected", "error"), [("x", TypeError), (-1, ValueError)])
def test_how_many_is_a_number(expected, error):
    with pytest.raises(error, match="expected must be"):
        ProgressBar(expected)


def test_map_with_a_bar(shared, stderr):
    terminal = stderr(Terminal())
    results = shared.map(pow, [2, 3, 4], [2, 2, 2], progress=True)
    assert "0/3" in terminal.getvalue()
    assert list(results) == [4, 9, 16]
    assert "3/3" in terminal.getvalue().rpartition("\r")[2]


def test_map_with_a_bar_that_knows_no_end(shared, stderr):
    terminal = stderr(Terminal())
    numbers = (number for number in range(5))
    assert list(shared.map(abs, numbers, progress=True, chunksize=2, buffersize=1)) == [
        0, 1, 2, 3, 4,
    ]  # fmt: skip
    assert "3/3" in terminal.getvalue().rpartition("\r")[2]  # it counts calls


def test_map_with_a_bar_fails_and_times_out_as_ever(shared, stderr):
    terminal = stderr(Terminal())
    with pytest.raises(ValueError, match="1"):
        list(shared.map(fail, range(2), progress=True))
    with pytest.raises(TimeoutError):
        list(shared.map(time.sleep, [30], timeout=0.1, progress=True))
    assert "1 cancelled" in terminal.getvalue()


def test_a_log_file_gets_few_lines(shared, stderr):
    log = stderr(io.StringIO())
    progress([shared.submit(fail, number) for number in range(40)])
    lines = log.getvalue().splitlines()
    assert 1 <= len(lines) <= 11
    assert "\r" not in log.getvalue()
    assert re.fullmatch(r"civis_futures: 40 of 40 tasks done, 20 failed, .*", lines[-1])


def test_nobody_is_there(shared, stderr):
    stderr(None)
    assert len(progress([shared.submit(pow, 1, 1)])) == 1


def test_running_and_queued_are_counted(stderr):
    stderr(io.StringIO())
    meter, futures = Meter(5), [Future() for _ in range(4)]
    for future in futures:
        meter.watch(future)
    futures[0].set_running_or_notify_cancel()
    futures[1].cancel()
    futures[2].set_result(None)
    meter.wait(futures[3], 0.05)
    counts = meter._look().counts
    assert counts[TaskState.RUNNING] == 1
    assert counts[TaskState.QUEUED] == 2  # one of them was not submitted yet
    assert counts[TaskState.CANCELLED] == counts[TaskState.SUCCEEDED] == 1


def test_what_has_ended_is_not_held(stderr):
    stderr(io.StringIO())
    meter, future = Meter(), Future()
    meter.watch(future)
    future.set_result(None)
    reference = weakref.ref(future)
    del future
    assert reference() is None


def test_waiting_is_no_busy_loop(stderr):
    stderr(io.StringIO())
    meter, future = Meter(1), Future()
    meter.watch(future)
    steps, step = [], meter._step
    meter._step = lambda seconds: [steps.append(seconds), step(seconds)]
    meter.wait(future, 1.0)
    assert 1.0 / MOST <= len(steps) < 5 / MOST  # each waits MOST seconds for an end


def test_an_interrupt_ends_the_waiting_only(shared, stderr, monkeypatch):
    stderr(io.StringIO())

    def interrupted(self, seconds):
        raise KeyboardInterrupt

    future = shared.submit(time.sleep, 0.3)
    monkeypatch.setattr(Meter, "_step", interrupted)
    with pytest.raises(KeyboardInterrupt):
        progress([future])
    assert future.result(10) is None


def test_without_tqdm_it_says_what_to_install(shared, monkeypatch):
    monkeypatch.setitem(sys.modules, "tqdm", None)
    monkeypatch.setitem(sys.modules, "tqdm.auto", None)
    for ask in (lambda: progress([]), lambda: shared.map(abs, [1], progress=True)):
        with pytest.raises(ModuleNotFoundError, match=r"civis-futures\[progress\]"):
            ask()
    assert list(shared.map(abs, [1])) == [1]


def test_a_real_terminal_of_40_columns(platform, tmp_path):
    script = tmp_path / "script.py"
    script.write_text(
        "from civis_futures import ContainerPoolExecutor\n"
        "with ContainerPoolExecutor(2) as executor:\n"
        "    print(list(executor.map(abs, range(5), progress=True)))\n"
    )
    here, there = pty.openpty()
    environment = {
        **os.environ,
        "CIVIS_API_ENDPOINT": platform.url,
        "CIVIS_API_KEY": platform.api_key,
    }
    os.set_blocking(there, True)
    subprocess.run(["stty", "cols", "40", "rows", "20"], stdin=there, check=True)
    with subprocess.Popen(
        [sys.executable, script],
        env=environment,
        stdin=there,
        stdout=subprocess.PIPE,
        stderr=there,
        text=True,
    ) as process:
        os.close(there)
        drawn = b""
        while True:
            try:
                data = os.read(here, 65536)
            except OSError:  # Linux's word for the end
                break
            if not data:
                break
            drawn += data
        assert process.stdout.read() == "[0, 1, 2, 3, 4]\n"
    os.close(here)
    assert process.returncode == 0
    text = drawn.decode()
    assert "5/5" in text
    assert all(len(part) <= 40 for part in re.split(r"[\r\n]", text)), text
