"""A client that dies at any step: whatever it was about to do, each task is run once in the end."""

from __future__ import annotations

import contextlib
import json

import pytest
from cases import mostly_repeats

TASKS = 5
SQUARES = [number * number for number in range(TASKS)]

#: The client ends at its request number `at` of those that change something and whose method and
#: path fit `on`: before it is sent, or when it was answered.
DYING = """
import re, threading
import httpx
from civis_futures import _pacing

_pacing.set_default_pacing(_pacing.Pacing(lag=0.3))
_send, _lock, _count = httpx.Client.send, threading.Lock(), [0]

def _mortal(self, request, **options):
    said = f"{{request.method}} {{request.url.path}}"
    counts = request.method != "GET" and re.search({on!r}, said)
    with _lock:
        number = _count[0]
        _count[0] += bool(counts)
        if counts and number == {at} and not {after}:
            os._exit(9)
    response = _send(self, request, **options)
    if counts and number == {at}:
        os._exit(9)
    return response

httpx.Client.send = _mortal

def work(number):
    with open(folder / "runs", "a") as file:  # one line for each execution
        file.write(f"{{number}}\\n")
    time.sleep(seconds)
    return number * number
"""


def die_and_come_back(client, options, on, at, after):
    """Whether the client has died; a second one finds everything, then."""
    dying = DYING.format(on=on, at=at, after=after)
    first = client.start(TASKS, 0.05, functions=dying, **options)
    out, errors = first.communicate(timeout=60)
    assert first.returncode in (0, 9), errors
    if first.returncode == 0:
        assert json.loads(out) == SQUARES
    living = DYING.format(on=on, at=-1, after=after)
    assert client(TASKS, 0.05, functions=living, **options) == SQUARES, (at, after)
    assert sorted(client.runs) == list(range(TASKS)), (at, after)
    return first.returncode == 9


RUNS = r"POST .*/runs$"
STEPS = {
    "its anchor is made": ("POST /scripts/containers$", 0, True),
    "the head is there": ("PATCH /json_values", 0, False),
    "the script of a worker is made": ("POST /scripts/containers$", 1, True),
    "a worker is in the head": (RUNS, 0, False),  # and has no run yet
    "a run is started": (RUNS, 0, True),
    "a later run is started": (RUNS, 1, True),
    "a script is archived": ("PUT .*/archive", 0, True),
}


@pytest.mark.parametrize(
    "step", mostly_repeats(STEPS, "the head is there", "a worker is in the head")
)
def test_killed_when(client, mine, until, step):
    on, at, after = STEPS[step]
    options = {"session": step, "max_workers": 2}
    assert die_and_come_back(client, options, on, at, after)
    until(lambda: not mine())


@pytest.mark.stress
@pytest.mark.parametrize("limit", [None, 1], ids=["reused", "fresh"])
@pytest.mark.parametrize("after", [False, True], ids=["before", "after"])
def test_killed_at_every_step(client, mine, until, limit, after, tmp_path):
    for at in range(200):
        options = {
            "session": f"step {at} {after} {limit}", "max_workers": 2, "max_tasks_per_worker": limit
        }  # fmt: skip
        died = die_and_come_back(client, options, "", at, after)
        until(lambda: not mine())
        if not died:
            return
        with contextlib.suppress(FileNotFoundError):
            (tmp_path / "runs").unlink()
    raise AssertionError("it never comes to its end")
