"""`civis_futures.testing` as its users meet it: faults through a pool, and the pytest fixture."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
from tasks import by_value

import civis_futures as cf
from civis_futures.testing import Fault

by_value(__name__)

pytestmark = pytest.mark.usefixtures("brisk")

PLACE = Path(cf.__file__).parents[1]  # where the package is, of whichever kind
RUNS = "POST /scripts/containers/{id}/runs"


def say(word):
    print(word, flush=True)
    time.sleep(60 if word == "stay" else 0)
    return word


def large(size):
    return b"x" * size


# --- what a pool makes of it


def outcomes(platform, *words, **options):
    """What becomes of these calls, in a pool of containers of their own."""
    with cf.ContainerPoolExecutor(
        3, platform=platform, max_tasks_per_worker=1, **options
    ) as executor:
        futures = [executor.submit(say, word) for word in words]
        return [future.exception(60) or future.result() for future in futures]


def test_a_lost_container(faulty):
    with faulty.fault(Fault.kill(says="stay")) as fault:
        one, lost, two = outcomes(faulty, "one", "stay", "two")
    assert (one, two) == ("one", "two")
    assert type(lost) is cf.CallLostError
    assert (lost.state, lost.exit_code) == ("failed", 137)
    assert faulty.faults.hits(fault) == 1


def test_out_of_memory(faulty):
    faulty.faults.add(Fault.out_of_memory(says="stay"))
    [lost] = outcomes(faulty, "stay")
    assert type(lost) is cf.WorkerMemoryError


def test_an_image_that_cannot_be_pulled(faulty):
    faulty.faults.add(Fault.no_image(script="*unlucky*"))
    [lost] = outcomes(faulty, "one", name="unlucky")
    assert type(lost) is cf.BrokenContainerPool
    assert "could not be pulled" in str(lost)


def test_cancelled_from_outside(faulty):
    faulty.faults.add(Fault.cancel(says="stay"))
    [lost] = outcomes(faulty, "stay")
    assert type(lost) is cf.CallLostError
    assert lost.state == "cancelled"


def test_a_node_is_lost(faulty):
    faulty.faults.add(Fault.lose_node(0.1, says="stay"))
    lost = outcomes(faulty, "stay", "stay")
    assert {type(each) for each in lost} == {cf.CallLostError}
    assert not any("Failed" in line for each in lost for line in each.log_tail)


@pytest.mark.parametrize(
    "fault",
    [
        Fault.drop(RUNS, done=True, times=1),
        Fault.drop("POST /scripts/containers", done=True, times=1),
        Fault.answer(429, RUNS, retry_after=1, times=1),
        Fault.answer(503, "GET /*", chance=0.3, origin="client"),
        Fault.drop("/*", chance=0.4, origin="worker"),
        Fault.drop("POST */outputs", done=True, times=2),
        Fault.delay(0.2, "POST /*", done=True),
        Fault.down(0.5, skip=12),
        Fault.late_outputs(1.0),
        Fault.garbage("GET /*", every=2, skip=1),
    ],
    ids=repr,
)
def test_what_a_pool_gets_over(faulty, fault):
    faulty.reset()
    with faulty.fault(fault):
        assert outcomes(faulty, "one", "two", "three") == ["one", "two", "three"]
        assert faulty.faults.hits(fault)
        assert faulty.stats().runs_started == 3


@pytest.mark.parametrize("kind", [Fault.cut, Fault.corrupt, Fault.drop])
@pytest.mark.parametrize("on", ["GET link", "POST link"])
def test_links_that_break_once(faulty, kind, on):
    origin = "client" if on.startswith("GET") else "worker"
    with (
        faulty.fault(kind(on, times=1, origin=origin)) as fault,
        cf.ContainerPoolExecutor(1, platform=faulty) as executor,
    ):
        assert len(executor.submit(large, 200_000).result(60)) == 200_000
        assert faulty.faults.hits(fault) == 1


# --- the fixture


def run_pytest(folder, *arguments, **files):
    """What pytest says to these tests in a project of its own."""
    for name, text in files.items():
        (folder / f"{name}.py").write_text(text, "utf-8")
    mine = ("COV", "PYTEST_ADDOPTS")
    environment = {k: v for k, v in os.environ.items() if not any(word in k for word in mine)}
    environment |= {"PYTHONPATH": str(PLACE), "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"}
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "pytest_civis_futures", *arguments],
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
        timeout=60,
    )
    return done.returncode, done.stdout + done.stderr


FIRST = """
import json
import os
import time
import urllib.request

import pytest
from civis_futures import CallLostError, ContainerPoolExecutor
from civis_futures.testing import Fault

URLS = []


def train(n):
    print("begun", flush=True)
    time.sleep(60)


def post(platform, path, body=None):
    headers = {"Authorization": f"Bearer {platform.api_key}"}
    data = json.dumps(body or {}).encode()
    request = urllib.request.Request(platform.url + path, data, headers)
    return json.loads(urllib.request.urlopen(request).read())["id"]


def test_a_lost_container(civis_platform):
    civis_platform.faults.add(Fault.kill(says="begun"))
    with ContainerPoolExecutor(1) as executor, pytest.raises(CallLostError):
        executor.submit(train, 1).result()


def test_the_next_one_has_no_faults_and_counts_from_zero(civis_platform):
    assert list(civis_platform.faults) == []
    assert civis_platform.stats().runs_started == 0
    assert civis_platform.requests() == []
    assert civis_platform.url == os.environ["CIVIS_API_ENDPOINT"]
    URLS.append(civis_platform.url)


def test_what_a_test_leaves_behind(civis_platform):
    assert URLS == [civis_platform.url]
    resources = {"cpu": 10, "memory": 50}
    body = {"dockerCommand": "sleep 60", "requiredResources": resources}
    job = post(civis_platform, "/scripts/containers", body)
    post(civis_platform, f"/scripts/containers/{job}/runs")
    civis_platform.faults.add(Fault.down(600))


def test_is_not_there_for_the_next(civis_platform):
    assert not civis_platform.stats().active
    assert list(civis_platform.faults) == []


def test_without_the_fixture_nothing_points_there():
    assert "CIVIS_API_ENDPOINT" not in os.environ
"""


def test_the_fixture(tmp_path, monkeypatch):
    monkeypatch.delenv("CIVIS_API_ENDPOINT", raising=False)
    monkeypatch.delenv("CIVIS_API_KEY", raising=False)
    code, said = run_pytest(tmp_path, test_first=FIRST)
    assert code == 0, said
    assert "5 passed" in said


def test_the_options_of_the_fixture(tmp_path):
    code, said = run_pytest(
        tmp_path,
        conftest="""
import pytest
from civis_futures.testing import Fault


@pytest.fixture(scope="session")
def civis_platform_options():
    return {"cores": 2, "faults": [Fault.answer(503, "GET /users/me", times=1)], "seed": 3}
""",
        test_it="""
import pytest


@pytest.mark.parametrize("time", [1, 2])
def test_it(civis_platform, time):
    [fault] = civis_platform.faults
    assert fault.status == 503
    civis_platform.faults.clear()
""",
    )
    assert code == 0, said
    assert "2 passed" in said


def test_the_fixtures_are_listed_with_what_they_are(tmp_path):
    _code, said = run_pytest(tmp_path, "--fixtures", test_it="")
    assert "civis_platform -- " in said, said
    assert "with nothing wrong, as long as the test lasts" in said
    assert "_civis_platform " not in said


# --- its weight


def test_the_import_is_light():
    code = """
import sys
import pytest_civis_futures
print("civis_futures" in sys.modules)
import civis_futures.testing
heavy = {"asyncio", "cloudpickle", "httpx", "ssl", "starlette", "uvicorn", "sqlite3", "psutil"}
print(sorted(heavy & sys.modules.keys()), "pytest" in sys.modules)
"""
    mine = ("COV", "PYTEST_ADDOPTS")
    environment = {k: v for k, v in os.environ.items() if not any(word in k for word in mine)}
    done = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True
    )
    assert done.stdout == "False\n[] True\n"
