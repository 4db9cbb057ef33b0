"""A session over processes that die, sleep and are overtaken, where all goes wrong."""

from __future__ import annotations

import json
import os
import random
import signal
import time
from contextlib import closing

import pytest
from mishaps import CLOCKS, HARMLESS

import civis_futures
from civis_futures._api.client import PlatformClient
from civis_futures._types import JobKind
from civis_futures.testing import LocalPlatform

TASKS = 12
SQUARES = [number * number for number in range(TASKS)]
NAME = "a long history"

#: A client that is in no doubt that the one before is gone, and that dies at a write of its own.
CLIENT = """
import itertools
import httpx
from civis_futures import _pacing
from civis_futures._sessions import head, session

session.BEAT = 3.0
_pacing.set_default_pacing(_pacing.Pacing(
    first_backoff=0.1, request_backoff=0.1, longest_request_backoff=1.0, lag=0.8
))
head.Holder.gone = lambda self, now: True
_send, _count = httpx.Client.send, itertools.count()

def _mortal(self, request, **options):
    number = next(_count) if request.method != "GET" else -1
    if number == {at} and not {after}:
        os._exit(9)
    response = _send(self, request, **options)
    if number == {at}:
        os._exit(9)
    return response

httpx.Client.send = _mortal

def work(number):
    with open(folder / "runs", "a") as file:  # one line for each execution
        file.write(f"{{number}}\\n")
    time.sleep(seconds * (1 + number % 4))
    return number * number
"""


def history(platform, client, chance):
    """Some processes that do not come to their ends, at times two at once; and one that does."""
    options = {
        "session": NAME,
        "max_workers": chance.choice([1, 2, 3]),
        "max_tasks_per_worker": chance.choice([None, None, 1, 3]),
        "max_retries": 0,
    }
    asleep = []
    for _ in range(chance.choice([1, 2, 3])):
        at = chance.choice([-2, chance.randrange(12), chance.randrange(60)])
        text = CLIENT.format(at=at, after=chance.random() < 0.5)
        process = client.start(TASKS, 0.1, functions=text, **options)
        end = time.monotonic() + chance.choice([0.5, 1, 2, 4, 8])
        while process.poll() is None and time.monotonic() < end:
            time.sleep(0.02)
        if process.poll() is None and chance.random() < 0.5:
            client.kill(process)
        elif process.poll() is None:
            process.send_signal(signal.SIGSTOP)
            asleep.append(process)
    text = CLIENT.format(at=-2, after=False)
    last = client.start(TASKS, 0.1, functions=text, **options)
    for process in asleep:  # they wake up, and know nothing of the others
        time.sleep(chance.random() * 3)
        process.send_signal(signal.SIGCONT)
    out, errors = last.communicate(timeout=120)
    for process in asleep:
        client.kill(process)
    if "is held by process" in errors:  # one was asleep while it opened the session
        last = client.start(TASKS, 0.1, functions=text, **options)
        out, errors = last.communicate(timeout=120)
    assert last.returncode == 0, errors
    assert json.loads(out) == SQUARES
    assert sorted(client.runs) == list(range(TASKS))
    platform.faults.clear()


def nothing_is_left(platform, until):
    civis_futures.purge(NAME, platform)
    until(lambda: not platform.stats().active and not platform.stats().queued, 60)
    with closing(PlatformClient(platform.url, platform.api_key)) as api:
        assert [row.name for row in api.newest_jobs(JobKind.CONTAINER) if NAME in row.name] == []


@pytest.mark.stress
def test_sessions_for_long(tmp_path, make_client, until):
    """For CIVIS_FUTURES_STRESS seconds; the seed is in the failure."""
    end = time.monotonic() + float(os.environ.get("CIVIS_FUTURES_STRESS", "900"))
    seed = int(os.environ.get("CIVIS_FUTURES_SEED", time.time_ns() % 1_000_000))
    while time.monotonic() < end:
        seed += 1
        chance = random.Random(seed)
        faults = chance.sample(HARMLESS, chance.choice([0, 1, 3]))
        faults += chance.sample(CLOCKS, chance.choice([0, 1]))
        folder = tmp_path / str(seed)
        folder.mkdir()
        with LocalPlatform(cores=64, seed=seed, faults=faults) as platform:
            client = make_client(platform, folder)
            try:
                history(platform, client, chance)
                nothing_is_left(platform, until)
            except BaseException as error:
                error.add_note(f"seed {seed}, faults: {faults}")
                raise
            finally:
                client.end()
