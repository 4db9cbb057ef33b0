"""Platforms of their own for the tests of the local platform, and a plain HTTP client."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest
from raw import SMALL, Api, alive, http_call, until

from civis_futures.local import LocalPlatform


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
def faulty(platform):
    """The platform, with books that begin here, and no faults."""
    platform.reset()
    yield platform
    platform.faults.clear()


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
