"""What a pool leaves and spends on the platform. Counts do not flicker, so they are exact."""

from __future__ import annotations

import json
import os
import sys
import urllib.error
import urllib.request
from base64 import b64encode
from contextlib import closing
from datetime import UTC, datetime, timedelta

import cloudpickle
import pytest
from by_hand import ask, get
from tasks import by_value, identity

import civis_futures as cf
from civis_futures._api.client import PlatformClient
from civis_futures._pool import launch
from civis_futures.local import LocalPlatform

by_value(__name__)


@pytest.fixture(scope="module")
def quiet():
    """A platform that nobody else uses meanwhile."""
    with LocalPlatform(cores=32) as platform:
        yield platform


@pytest.fixture
def counted(quiet, new_user):
    """It has seen no executor yet, as far as this process and the cache folder know."""
    quiet.reset()
    return quiet


def environment(*names):
    return {name: os.environ.get(name) for name in names}


def test_what_a_script_looks_like(counted):
    container = cf.Container(
        docker_image_name="an/image",
        docker_image_tag="1.2",
        required_resources={"cpu": 300},
        repo_http_uri="github.com/me/mine.git",
        repo_ref="main",
        setup_cmd="export PREPARED=yes",
        cancel_timeout=2,
        time_zone="America/Chicago",
        params=[{"name": "COLOUR", "type": "string"}],
        arguments={"COLOUR": "it's green"},
    )
    with cf.ContainerPoolExecutor(
        1, platform=counted, container=container, name="the winter model"
    ) as executor:
        future = executor.submit(environment, "COLOUR", "PREPARED", "CIVIS_PARENT_JOB_ID")
        seen = future.result(60)
    assert seen == {"COLOUR": "it's green", "PREPARED": "yes", "CIVIS_PARENT_JOB_ID": None}
    script = get(counted, f"/scripts/containers/{future.job_id}")
    assert script["name"].startswith("the winter model, worker 1 [")
    assert script["hidden"] is True
    assert script["archived"] is True
    assert script["notifications"]["successOn"] is False
    assert script["notifications"]["failureOn"] is False
    assert (script["dockerImageName"], script["dockerImageTag"]) == ("an/image", "1.2")
    assert script["requiredResources"] == {"cpu": 300, "memory": 2048, "diskSpace": 1.0}
    assert (script["repoHttpUri"], script["repoRef"]) == ("github.com/me/mine.git", "main")
    assert (script["cancelTimeout"], script["timeZone"]) == (2, "America/Chicago")
    assert counted.api_key not in json.dumps(script)


def test_a_container_that_runs_a_pool_names_itself_as_parent(counted, monkeypatch):
    monkeypatch.setenv("CIVIS_JOB_ID", "17")
    monkeypatch.setenv("CIVIS_RUN_ID", "18")
    container = cf.Container(
        params=[{"name": "civis_parent_job_id", "type": "integer"}],
        arguments={"civis_parent_job_id": 3},
    )
    names = ("CIVIS_PARENT_JOB_ID", "CIVIS_PARENT_RUN_ID")
    with cf.ContainerPoolExecutor(1, platform=counted, container=container) as executor:
        assert executor.submit(environment, *names).result(60) == dict(
            zip(names, ["17", "18"], strict=True)
        )


def test_files_expire_and_say_when_with_an_offset(counted):
    with cf.ContainerPoolExecutor(1, platform=counted) as executor:
        future = executor.submit(identity, os.urandom(200_000))
        future.result(60)
    script = get(counted, f"/scripts/containers/{future.job_id}")
    bundle_id = script["arguments"]["CIVIS_FUTURES_BUNDLE"]
    # Call and bundle go up side by side, in either order, and then the result.
    found = 0
    for file_id in range(bundle_id - 1, bundle_id + 3):
        try:
            expires = get(counted, f"/files/{file_id}")["expiresAt"]
        except urllib.error.HTTPError as error:
            error.close()
            continue
        found += 1
        left = datetime.fromisoformat(expires) - datetime.now(UTC)
        assert timedelta(days=13) < left < timedelta(days=31)
    assert found >= 3


@pytest.mark.parametrize("order", ["multi_line_string", "string"])
def test_workers_from_a_template(counted, order):
    """The template's script runs our worker; here by the bundle, in an image by its own command."""
    packed = launch.bundle()
    with closing(PlatformClient(counted.url, counted.api_key)) as client:
        bundle_id = client.upload(
            packed.data, len(packed.data), "bundle", expires_in=timedelta(days=1)
        )
    command = launch.docker_command(counted.url + "/", packed.sha256, bundle_id, None)
    backing = ask(
        counted,
        "POST",
        "/scripts/containers",
        {
            "requiredResources": {"cpu": 100, "memory": 500},
            "dockerCommand": command,
            "params": [
                {"name": "CIVIS_FUTURES_ORDER", "type": order},
                {"name": "FLAVOUR", "type": "string"},
            ],
        },
    )
    body = {"scriptId": backing["id"], "name": "ours"}
    template = ask(counted, "POST", "/templates/scripts", body)
    container = cf.Template(from_template_id=template["id"], arguments={"FLAVOUR": "sour"})
    with cf.ContainerPoolExecutor(2, platform=counted, container=container) as executor:
        future = executor.submit(environment, "FLAVOUR")
        assert future.result(60) == {"FLAVOUR": "sour"}
        assert sorted(executor.map(identity, range(6))) == list(range(6))
    script = get(counted, f"/scripts/custom/{future.job_id}")
    assert script["fromTemplateId"] == template["id"]
    assert script["archived"] is True
    assert script["hidden"] is True


def test_a_template_whose_worker_knows_nothing_of_several_calls(counted):
    """One error says so to all calls."""
    start = "from civis_futures import _wire; _wire.SEVERAL_VERSION = 1; from civis_futures.worker"
    command = f"{sys.executable} -c '{start} import main; main()'"
    backing = ask(
        counted,
        "POST",
        "/scripts/containers",
        {
            "requiredResources": {"cpu": 100, "memory": 500},
            "dockerCommand": command,
            "params": [{"name": "CIVIS_FUTURES_ORDER", "type": "multi_line_string"}],
        },
    )
    body = {"scriptId": backing["id"], "name": "of an earlier version"}
    template = ask(counted, "POST", "/templates/scripts", body)
    container = cf.Template(from_template_id=template["id"])
    options = {"platform": counted, "container": container, "worker_processes": 2}
    with cf.ContainerPoolExecutor(8, **options) as executor:
        futures = [executor.submit(identity, number) for number in range(8)]
        for future in futures:
            with pytest.raises(cf.BrokenContainerPool, match="its version of civis_futures can re"):
                future.result(60)


def test_one_container_per_task_costs_six_requests(counted):
    tasks = 12
    with cf.ContainerPoolExecutor(4, platform=counted, max_tasks_per_worker=1) as executor:
        assert list(executor.map(identity, range(tasks))) == list(range(tasks))
    stats = counted.stats()
    once = {
        ("GET", "/users/me", "client"): 1,
        ("POST", "/files", "client"): 1,
        ("POST", "/json_values", "client"): 1,
    }
    each = {
        ("POST", "/scripts/containers", "client"): tasks,
        ("POST", "/scripts/containers/{id}/runs", "client"): tasks,
        ("PUT", "/scripts/containers/{id}/archive", "client"): tasks,
        ("POST", "/json_values", "worker"): tasks,
        ("POST", "/scripts/containers/{id}/runs/{run_id}/outputs", "worker"): tasks,
        # Reading the answer is the sixth: once per task, unless its run had not yet ended.
        ("GET", "/scripts/containers/{id}/runs/{run_id}/outputs", "client"): tasks,
    }
    looks = {
        ("GET", "/scripts", "client"),
        ("GET", "/scripts/containers/{id}", "client"),
        ("GET", "/scripts/containers/{id}/runs/{run_id}", "client"),
    }
    spent = {key: count for key, count in stats.requests.items() if key not in looks}
    assert spent == {**once, **each}
    assert stats.runs_started == tasks


def test_a_reused_worker_costs_one_start(counted):
    with cf.ContainerPoolExecutor(1, platform=counted) as executor:
        assert list(executor.map(identity, range(20))) == list(range(20))
    stats = counted.stats()
    assert stats.runs_started == 1
    assert stats.count("POST", "/scripts/containers", "client") == 1
    assert stats.uploads == 1  # the bundle
    assert stats.downloads == 1


def test_a_large_call_is_uploaded_once_and_a_large_result_downloaded_once(counted):
    data = os.urandom(3_000_000)
    with cf.ContainerPoolExecutor(1, platform=counted) as executor:
        assert executor.submit(identity, data).result(60) == data
    stats = counted.stats()
    assert stats.uploads == 3  # bundle, call, result
    assert 6_000_000 < stats.upload_bytes < 6_000_000 + 1_000_000
    assert stats.downloads == 3


def test_the_limits_of_the_platform_are_kept():
    with (
        LocalPlatform(cores=32, rate_limit="civis") as strict,
        cf.ContainerPoolExecutor(4, platform=strict) as executor,
    ):
        assert list(executor.map(identity, range(8))) == list(range(8))
        executor.shutdown()
        assert strict.stats().refused == 0


def test_no_key_in_what_others_can_see(counted, caplog, capfd):
    import logging

    caplog.set_level(logging.DEBUG)
    key = counted.api_key
    with cf.ContainerPoolExecutor(1, platform=counted) as executor:
        future = executor.submit(environment, "NOTHING")
        future.result(60)
        seen = [repr(executor), repr(future), str(vars(future)), caplog.text, *capfd.readouterr()]
        script = get(counted, f"/scripts/containers/{future.job_id}")
        seen += [json.dumps(script), "\n".join(map(str, future.logs()))]
        with pytest.raises(TypeError, match="cannot pickle"):
            cloudpickle.dumps(executor)
        with pytest.raises(TypeError, match="cannot pickle"):
            cloudpickle.dumps(future)
    for text in seen:
        assert key not in text
        assert b64encode(f"{key}:".encode()).decode() not in text
