"""`this_container`: what the script of the run that we are in says, as a `Container`."""

from __future__ import annotations

import pytest

import civis_futures as cf
from civis_futures import this_container

BASE = "http://127.0.0.1:9"
SCRIPT = {
    "id": 7, "name": "x", "fromTemplateId": None, "dockerCommand": "true", "hidden": False,
    "dockerImageName": "image", "dockerImageTag": None, "repoHttpUri": "github.com/a/b",
    "requiredResources": {"cpu": 300, "memory": 200, "diskSpace": None, "wholeNode": None},
    "params": [
        {"name": "COLOUR", "type": "string", "label": None, "default": "red", "value": None},
        {"name": "civis_parent_run_id", "type": "integer"},
    ],
    "arguments": {"COLOUR": None, "SHAPE": "round", "CIVIS_FUTURES_BUNDLE": 5},
    "cancelTimeout": 4, "userContext": "runner", "notifications": {"urls": ["u"]},
    "runningAsId": 9, "somethingNew": 1,
}  # fmt: skip


class Platform:
    url = BASE
    api_key = "key"


@pytest.fixture
def here(monkeypatch):
    monkeypatch.setenv("CIVIS_JOB_ID", "7")
    return Platform()


def answer(httpx_mock, path, body, status=200):
    httpx_mock.add_response(url=f"{BASE}/{path}", json=body, status_code=status)


def test_a_container_script(here, httpx_mock):
    answer(httpx_mock, "scripts/containers/7", SCRIPT)
    assert this_container(here) == cf.Container(
        docker_image_name="image",
        repo_http_uri="github.com/a/b",
        required_resources={"cpu": 300, "memory": 200},
        params=[{"name": "COLOUR", "type": "string", "default": "red"}],
        arguments={"SHAPE": "round"},
        cancel_timeout=4,
        user_context="runner",
    )


def test_a_custom_script(here, httpx_mock):
    own = {"id": 7, "fromTemplateId": 3, "arguments": {"SHAPE": "flat"}, "timeZone": None,
           "requiredResources": {"cpu": 900, "memory": 200}}  # fmt: skip
    answer(httpx_mock, "scripts/containers/7", own)
    answer(httpx_mock, "templates/scripts/3", {"id": 3, "scriptId": 5})
    answer(httpx_mock, "scripts/containers/5", {**SCRIPT, "timeZone": "UTC"})
    container = this_container(here)
    assert container.image == "image:latest"
    assert container.arguments == {"SHAPE": "flat"}
    assert container.required_resources["cpu"] == 900
    assert container.time_zone == "UTC"


@pytest.mark.parametrize(("status", "error", "text"), [
    (403, RuntimeError, "job 7 is made from template 3, whose script 5 cannot be read"),
    (404, RuntimeError, "job 7 is made from template 3, whose script 5 cannot be read"),
    (400, cf.PlatformError, "400"),
])  # fmt: skip
def test_a_template_whose_script_cannot_be_read(here, httpx_mock, status, error, text):
    answer(httpx_mock, "scripts/containers/7", {"id": 7, "fromTemplateId": 3})
    answer(httpx_mock, "templates/scripts/3", {"id": 3, "scriptId": 5})
    answer(httpx_mock, "scripts/containers/5", {"error": "no"}, status)
    with pytest.raises(error, match=text):
        this_container(here)


def test_all_that_is_taken_over(here, httpx_mock):
    script = {
        "repoRef": "main", "gitCredentialId": 5, "remoteHostCredentialId": 6, "instanceType": "m5",
        "partitionLabel": "p", "timeZone": "UTC", "targetProjectId": 8, "dockerImageTag": "3",
    }  # fmt: skip
    answer(httpx_mock, "scripts/containers/7", {**SCRIPT, **script})
    found = this_container(here)
    assert (found.image, found.repo_http_uri, found.repo_ref) == (
        "image:3",
        "github.com/a/b",
        "main",
    )
    assert (found.git_credential_id, found.remote_host_credential_id) == (5, 6)
    assert (found.instance_type, found.partition_label, found.time_zone) == ("m5", "p", "UTC")
    assert found.target_project_id == 8


@pytest.mark.parametrize("number", [None, "", "seven"])
def test_no_container(monkeypatch, number):
    monkeypatch.delenv("CIVIS_JOB_ID", raising=False)
    if number is not None:
        monkeypatch.setenv("CIVIS_JOB_ID", number)
    with pytest.raises(RuntimeError, match="does not run in a container"):
        this_container(Platform())


def test_no_key(monkeypatch, here):
    monkeypatch.delenv("CIVIS_API_KEY", raising=False)
    with pytest.raises(cf.CredentialsError):
        this_container()


def test_changes_come_on_top(here, httpx_mock):
    answer(httpx_mock, "scripts/containers/7", SCRIPT)
    container = this_container(
        here,
        required_resources={"cpu": 500},
        params=[{"name": "colour", "default": "blue"}, {"name": "N", "type": "integer"}],
        arguments={"N": 3},
        environment={"A": "b"},
        docker_image_tag="2",
        setup_cmd="true",
        cancel_timeout=None,
    )
    assert container == cf.Container(
        docker_image_name="image",
        docker_image_tag="2",
        repo_http_uri="github.com/a/b",
        setup_cmd="true",
        required_resources={"cpu": 500, "memory": 200},
        params=[
            {"name": "colour", "type": "string", "default": "blue"},
            {"name": "N", "type": "integer"},
        ],
        arguments={"SHAPE": "round", "N": 3},
        environment={"A": "b"},
        cancel_timeout=4,
        user_context="runner",
    )


def test_a_change_of_nothing_that_there_is(here, httpx_mock):
    answer(httpx_mock, "scripts/containers/7", SCRIPT)
    with pytest.raises(TypeError, match="docker_image"):
        this_container(here, docker_image="x")
