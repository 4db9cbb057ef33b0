"""A plain HTTP client for tests of the local platform: the standard library, nothing of ours."""

from __future__ import annotations

import dataclasses
import http.client
import importlib.util
import json
import time
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from civis_futures.local import LocalPlatform

SMALL = {"cpu": 64, "memory": 256}
DONE = ("succeeded", "failed", "cancelled")


@dataclasses.dataclass
class Reply:
    status: int
    headers: dict
    body: object
    data: bytes

    def __getitem__(self, name):
        return self.body[name]


def http_call(url, method="GET", data=None, headers=None):
    """One request on a connection of its own."""
    parts = urlsplit(url)
    connection = http.client.HTTPConnection(parts.netloc, timeout=30)
    try:
        path = parts.path + (f"?{parts.query}" if parts.query else "")
        connection.request(method, path or "/", data, headers or {})
        response = connection.getresponse()
        found = response.read()
    finally:
        connection.close()
    body = None
    if "json" in (response.headers["Content-Type"] or "") and found:
        body = json.loads(found)
    names = {name.lower(): value for name, value in response.headers.items()}
    return Reply(response.status, names, body, found)


class Api:
    """Requests with a key, and the few sequences that most tests need."""

    def __init__(self, url, key):
        self.url, self.key = url, key

    def __call__(self, method, path, body=None, **headers):
        data = None if body is None else json.dumps(body)
        sent = {"Authorization": f"Bearer {self.key}", "Content-Type": "application/json"}
        return http_call(self.url + path, method, data, sent | headers)

    def ok(self, method, path, body=None):
        reply = self(method, path, body)
        assert reply.status < 300, (method, path, reply.status, reply.body)
        return reply.body

    def create(self, command="true", **fields):
        body = {"dockerCommand": command, "requiredResources": SMALL} | fields
        return self.ok("POST", "/scripts/containers", body)["id"]

    def start(self, job):
        return self.ok("POST", f"/scripts/containers/{job}/runs")["id"]

    def run(self, command="true", **fields):
        job = self.create(command, **fields)
        return job, self.start(job)

    def look(self, job, run):
        return self.ok("GET", f"/scripts/containers/{job}/runs/{run}")

    def wait(self, job, run, states=DONE, seconds=20):
        return until(lambda: (r := self.look(job, run))["state"] in states and r, seconds)

    def logs(self, job, run, level=None):
        path = f"/scripts/containers/{job}/runs/{run}/logs?last_id=0&limit=10000"
        return [
            line["message"]
            for line in self.ok("GET", path)
            if level is None or line["level"] == level
        ]

    def says(self, job, run, text, seconds=20):
        """Wait until a run has printed something."""
        until(lambda: any(text in line for line in self.logs(job, run)), seconds)


def until(condition, seconds=20.0):
    """Return the first true value of a condition; a test never just sleeps."""
    end = time.monotonic() + seconds
    while True:
        found = condition()
        if found:
            return found
        assert time.monotonic() < end, "it did not happen"
        time.sleep(0.01)


def alive(pid):
    """Whether a process runs; a zombie does not."""
    try:
        with open(f"/proc/{pid}/stat") as stream:
            return stream.read().rpartition(")")[2].split()[0] not in "ZX"
    except OSError:
        return False


@pytest.fixture(scope="session")
def tools():
    """What tests need besides fixtures; importlib mode has no imports between test files."""
    import types

    return types.SimpleNamespace(until=until, alive=alive, call=http_call, Api=Api, small=SMALL)


@pytest.fixture(scope="session")
def validator():
    path = Path(__file__).parents[1] / "contract" / "validator.py"
    spec = importlib.util.spec_from_file_location("contract_validator", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="session")
def record(tmp_path_factory, validator):
    """All that the platforms of these tests answer; held against the spec at the end."""
    path = tmp_path_factory.mktemp("record") / "exchanges.jsonl"
    path.touch()
    yield path
    assert validator.validate_record(path) == []


@pytest.fixture
def make(record):
    """Start platforms that end with the test."""
    started = []

    def start(**settings):
        platform = LocalPlatform(**({"record": record, "cores": 4} | settings)).start()
        started.append(platform)
        return platform

    yield start
    for platform in started:
        platform.stop()


@pytest.fixture(scope="module")
def platform(record):
    with LocalPlatform(record=record, cores=4) as running:
        yield running


@pytest.fixture
def api(platform):
    yield Api(platform.url, platform.api_key)
    until(lambda: not platform.stats().active or _cancel_all(platform))


def _cancel_all(platform):
    api = Api(platform.url, platform.api_key)
    for hidden in ("true", "false"):
        query = f"/jobs?state=queued,running&hidden={hidden}&archived=all"
        for job in api.ok("GET", query):
            api("POST", f"/scripts/{job['id']}/cancel")
