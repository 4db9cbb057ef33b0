"""Sessions whose workers come from a template, and whose results in Files have expired."""

from __future__ import annotations

import functools
import json
from contextlib import closing
from datetime import UTC, datetime, timedelta

import pytest
from tasks import by_value

import civis_futures
from civis_futures import CallLostError, ContainerPoolExecutor, SessionMismatchError, Template
from civis_futures._api.client import PlatformClient
from civis_futures._api.replies import identity
from civis_futures._pool.launch import bundle, docker_command
from civis_futures._types import JobKind
from civis_futures.testing import Fault

by_value(__name__)


@pytest.fixture(autouse=True)
def no_lag(paced):
    """Lists show everything at once here."""
    paced(lag=0.0)


@pytest.fixture
def api(platform):
    with closing(PlatformClient(platform.url, platform.api_key)) as client:
        yield client


@pytest.fixture
def template(api):
    """Its script runs our worker; in an image it would be there."""
    packed = bundle()
    file_id = api.upload(packed.data, len(packed.data), "bundle", expires_in=timedelta(days=1))
    body = {
        "required_resources": {"cpu": 100, "memory": 500},
        "docker_command": docker_command(api.url, packed.sha256, file_id, None),
        "params": [
            {"name": "CIVIS_FUTURES_ORDER", "type": "multi_line_string", "required": True},
        ],
    }
    job = api.create_script(JobKind.CONTAINER, body)
    made = {"scriptId": job.id, "name": "for sessions"}
    number = api._ask("POST", "templates/scripts", identity, json=made)
    yield Template(from_template_id=number)
    api.archive(job)


def test_a_session_through_a_template(make_executor, platform, template, api):
    name = "through a template"
    runs = []
    for _ in range(2):
        with make_executor(2, session=name, container=template) as executor:
            futures = [executor.submit(pow, n, 2) for n in range(4)]
            assert [future.result(30) for future in futures] == [0, 1, 4, 9]
            runs.append({future.run_id for future in futures})
    assert runs[0] == runs[1]  # the second one has started none
    with pytest.raises(SessionMismatchError, match="begun with a Template, and now there is a C"):
        make_executor(session=name)
    civis_futures.purge(name, platform)
    assert name not in [each.name for each in civis_futures.sessions(platform)]
    assert not [row.name for row in api.newest_jobs(JobKind.CUSTOM) if name in row.name]


def large(number):
    return str(number) * 100_000


def test_a_result_whose_file_has_expired(make_executor, platform, api):
    name = "expired"
    with make_executor(1, session=name) as executor:
        future = executor.submit(large, 7)
        assert len(future.result(30)) == 100_000
    [file_id] = files_of(api, future)
    assert api.get_file(file_id).expires > (datetime.now(UTC) + timedelta(days=29)).timestamp()
    api.set_file_expiry(file_id, datetime.now(UTC) - timedelta(seconds=1))
    with make_executor(1, session=name) as executor:
        error = executor.submit(large, 7).exception(30)
        assert isinstance(error, CallLostError)
        said = f"its result cannot be read (max_retries runs it again): File {file_id} is empty or"
        assert said in str(error)
    for retries in (1, 0):  # it is run again, and then it is there again
        with make_executor(1, session=name, max_retries=retries) as executor:
            assert len(executor.submit(large, 7).result(30)) == 100_000
    civis_futures.purge(name, platform)


def files_of(api, future):
    from civis_futures._types import Job
    from civis_futures._wire import answers_from_json

    outputs, _ = api.list_outputs(Job(future.job_id, JobKind.CONTAINER), future.run_id)
    for output in outputs:
        for answer in answers_from_json(output.value).answers:
            yield answer.data.file_id


def test_a_platform_that_ends_with_the_executor_keeps_no_session():
    with pytest.raises(ValueError, match="a session outlives its executor"):
        ContainerPoolExecutor(platform="local", session="lost at once")


def test_scripts_tell_the_session_once(make_executor, platform, api):
    with make_executor(1, session="told once", name="the pool") as executor:
        job = executor.submit(pow, 1, 1)
        job.result(30)
        rows = [row for row in api.newest_jobs(JobKind.CONTAINER) if row.job_id == job.job_id]
        assert rows[0].name.startswith("the pool, session told once, worker 1 [")
    civis_futures.purge("told once", platform)


def test_a_purge_that_fails_leaves_the_session_to_others(make_executor, platform):
    with make_executor(1, session="refused"):
        pass
    platform.faults.add(refused := Fault.answer(403, "PUT /scripts/containers/*/archive"))
    try:
        with pytest.raises(civis_futures.PlatformError):
            civis_futures.purge("refused", platform)
    finally:
        platform.faults.remove(refused)
    civis_futures.purge("refused", platform)


def test_a_session_that_cannot_be_read_is_told_by_name(make_executor, platform, api):
    with make_executor(1, session="garbled") as executor:
        head = executor._intake._opened.session._anchor.value
    good = api.get_json_value(head)
    api.update_json_value(head, json.dumps({**good, "version": 99}))
    for ask in (
        functools.partial(make_executor, session="garbled"),
        functools.partial(civis_futures.sessions, platform),
    ):
        with pytest.raises(civis_futures.PlatformError, match="session 'garbled' cannot be read"):
            ask()
    api.update_json_value(head, json.dumps(good))
    civis_futures.purge("garbled", platform)
