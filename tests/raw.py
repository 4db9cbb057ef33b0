"""A plain HTTP client for tests of our own platform: the standard library, nothing of ours."""

from __future__ import annotations

import dataclasses
import http.client
import json
import time
from urllib.parse import urlsplit

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
