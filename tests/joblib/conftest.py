"""The backend by name, on the local platform; and which containers ran at once."""

from __future__ import annotations

import json
import threading
import urllib.request
from base64 import b64encode

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
    for name in BACKENDS.keys() - {"loky", "multiprocessing", "sequential", "threading"}:
        del BACKENDS[name]


@pytest.fixture
def ask(platform):
    """ask(method, path, body): what the platform says."""

    def ask(method, path, body=None):
        key = b64encode(f"{platform.api_key}:".encode()).decode()
        request = urllib.request.Request(
            f"{platform.url}/{path}",
            None if body is None else json.dumps(body).encode(),
            {"Authorization": f"Basic {key}", "Content-Type": "application/json"},
            method=method,
        )
        with urllib.request.urlopen(request, timeout=10) as response:
            return json.loads(response.read() or b"null")

    return ask


@pytest.fixture
def most(platform):
    """most(): how many runs have been active or queued at once since the test began."""
    end, peak = threading.Event(), [0]

    def watch():
        while not end.wait(0.01):
            stats = platform.stats()
            peak[0] = max(peak[0], len(stats.active) + stats.queued)

    thread = threading.Thread(target=watch, name="watching runs")
    thread.start()
    yield lambda: peak[0]
    end.set()
    thread.join()
