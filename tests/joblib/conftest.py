"""The backend by name, on the local platform; and which containers ran at once."""

from __future__ import annotations

import threading
from functools import partial

import by_hand
import pytest
from joblib.parallel import BACKENDS

import civis_joblib


@pytest.fixture(autouse=True)
def environment(platform, monkeypatch):
    """As in a shell that is set up for this platform."""
    monkeypatch.setenv("CIVIS_API_ENDPOINT", platform.url)
    monkeypatch.setenv("CIVIS_API_KEY", platform.api_key)
    for name in ("CIVIS_JOB_ID", "CIVIS_RUN_ID"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture(autouse=True)
def civis(environment):
    """The backend "civis" is registered, and is not after the test."""
    civis_joblib.register()
    yield
    civis_joblib.shutdown()
    for name in BACKENDS.keys() - {"loky", "multiprocessing", "sequential", "threading"}:
        del BACKENDS[name]


@pytest.fixture
def mine(mine):
    """mine(): what still runs of calls that have ended. What only waits for the next call ends at
    once when told to; what runs would take an hour.
    """

    def running():
        civis_joblib.shutdown()
        return mine()

    return running


@pytest.fixture
def ask(platform):
    """ask(method, path, body): what the platform says."""
    return partial(by_hand.ask, platform)


@pytest.fixture
def most(platform):
    """most(): how many runs have been active or queued at once since the test began; those that
    were there before are of executors that many tests share.
    """
    end, peak = threading.Event(), [0]
    before = platform.stats().active.keys()

    def watch():
        while not end.wait(0.01):
            stats = platform.stats()
            peak[0] = max(peak[0], len(stats.active.keys() - before) + stats.queued)

    thread = threading.Thread(target=watch, name="watching runs")
    thread.start()
    yield lambda: peak[0]
    end.set()
    thread.join()
