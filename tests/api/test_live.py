"""Each method of the client against a real local platform, over real HTTP."""

from __future__ import annotations

import hashlib
import io
import json
import tempfile
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from civis_futures._api.client import PlatformClient, credentials
from civis_futures._api.failures import is_ambiguous
from civis_futures._api.transport import RateBudget
from civis_futures._exceptions import PlatformError
from civis_futures._types import Job, JobKind, Run, RunState
from civis_futures.local import LocalPlatform

DAY = timedelta(days=1)


@pytest.fixture(scope="module")
def platform() -> Iterator[LocalPlatform]:
    with LocalPlatform() as platform:
        yield platform


@pytest.fixture
def client(platform: LocalPlatform) -> Iterator[PlatformClient]:
    platform.reset()
    client = PlatformClient(*credentials(platform))
    yield client
    client.close()


def script(command: str, **more: Any) -> dict[str, Any]:
    return {
        "name": "a test",
        "requiredResources": {"cpu": 100, "memory": 100},
        "dockerImageName": "python",
        "dockerCommand": command,
        "hidden": True,
        **more,
    }


def until(condition: Callable[[], Any]) -> Any:
    for _ in range(500):
        if value := condition():
            return value
        time.sleep(0.02)
    raise AssertionError("it did not come about")


def ended(client: PlatformClient, job: Job, run: Run) -> Run:
    def look() -> Run | None:
        now = client.get_run(job, run.id, low_priority=True)
        return now if now.state.over else None

    return until(look)


def test_a_run_from_start_to_end(client: PlatformClient) -> None:
    job = client.create_script(JobKind.CONTAINER, script("echo out; echo err >&2; exit 3"))
    assert client.latest_run(job) is None
    run = client.start_run(job)
    assert run.state in (RunState.QUEUED, RunState.RUNNING)
    over = ended(client, job, run)
    assert (over.id, over.state, over.said, over.error) == (run.id, RunState.FAILED, "failed", None)
    assert over.created is not None
    assert over.started is not None
    assert over.finished is not None
    assert time.time() - 60 < over.created <= over.started <= over.finished < time.time() + 60
    assert client.latest_run(job) == over
    lines = until(lambda: client.list_logs(job, run.id))
    said = {(line.level, line.message) for line in lines}
    assert {("info", "out"), ("error", "err")} <= said
    assert lines == sorted(lines, key=lambda line: line.created)
    assert not client.list_logs(job, run.id, last_id=max(line.id for line in lines))


def test_outputs(client: PlatformClient) -> None:
    values = [client.create_json_value(f"value {n}", f'{{"n": {n}}}') for n in range(3)]
    post = (
        "import os, json, urllib.request as u\n"
        "e = os.environ; url = e['CIVIS_API_ENDPOINT'].rstrip('/')\n"
        "url += f\"/scripts/containers/{e['CIVIS_JOB_ID']}/runs/{e['CIVIS_RUN_ID']}/outputs\"\n"
        f"for value in {values}:\n"
        "    body = json.dumps({'objectType': 'JSONValue', 'objectId': value}).encode()\n"
        "    heads = {'Authorization': 'Bearer ' + e['CIVIS_API_KEY'],\n"
        "             'Content-Type': 'application/json'}\n"
        "    u.urlopen(u.Request(url, body, heads)).close()\n"
    )
    job = client.create_script(JobKind.CONTAINER, script(f"python - <<'END'\n{post}\nEND"))
    run = client.start_run(job)
    assert ended(client, job, run).state is RunState.SUCCEEDED, client.list_logs(job, run.id)
    outputs, more = client.list_outputs(job, run.id)
    assert not more
    assert [output.object_id for output in outputs] == values[::-1]
    assert outputs[0].object_type == "JSONValue"
    assert (outputs[0].name, outputs[0].value) == ("value 2", {"n": 2})


def test_cancel_twice(client: PlatformClient) -> None:
    job = client.create_script(JobKind.CONTAINER, script("sleep 60"))
    run = client.start_run(job)
    until(lambda: client.get_run(job, run.id).state is RunState.RUNNING)
    client.cancel_run(job, run.id)
    assert ended(client, job, run).state is RunState.CANCELLED
    client.cancel_run(job, run.id)


def test_a_second_active_run_is_refused(client: PlatformClient) -> None:
    job = client.create_script(JobKind.CONTAINER, script("sleep 60"))
    run = client.start_run(job)
    with pytest.raises(PlatformError) as caught:
        client.start_run(job)
    assert caught.value.status == 409
    assert not is_ambiguous(caught.value)
    client.cancel_run(job, run.id)
    ended(client, job, run)


@pytest.mark.parametrize("hidden", [True, False])
def test_jobs_are_listed_and_found(client: PlatformClient, hidden: bool) -> None:
    jobs = [
        client.create_script(
            JobKind.CONTAINER, script("true", name=f"job {n} {hidden}", hidden=hidden)
        )
        for n in range(52)
    ]
    run = client.start_run(jobs[20])
    ended(client, jobs[20], run)
    first, more = client.list_jobs(JobKind.CONTAINER, hidden=hidden)
    assert (len(first), more) == (50, True)
    assert (first[0].job_id, first[0].name) == (jobs[20].id, f"job 20 {hidden}")
    assert first[0].run is not None
    assert (first[0].run.id, first[0].run.state) == (run.id, RunState.SUCCEEDED)
    second, _ = client.list_jobs(JobKind.CONTAINER, hidden=hidden, page=2)
    assert {row.job_id for row in first + second} >= {job.id for job in jobs}
    # The newest by the list, the oldest by the search.
    for n in (51, 0):
        assert client.find_job(JobKind.CONTAINER, f"job {n} {hidden}", hidden=hidden) == jobs[n]
    assert client.find_job(JobKind.CONTAINER, "job", hidden=hidden) is None


def test_archived_jobs_are_not_listed(client: PlatformClient) -> None:
    job = client.create_script(JobKind.CONTAINER, script("true", name="to be archived"))
    assert client.find_job(JobKind.CONTAINER, "to be archived") == job
    client.archive(job)
    assert client.find_job(JobKind.CONTAINER, "to be archived") is None


def test_custom_scripts(client: PlatformClient) -> None:
    params = [{"name": "WHO", "type": "string", "required": True}]
    backing = client.create_script(
        JobKind.CONTAINER, script("echo hello $WHO", params=params, hidden=False)
    )
    template = {"scriptId": backing.id, "name": "greeter"}
    template_id = client._send("POST", "templates/scripts", json=template).json()["id"]
    body = {"fromTemplateId": template_id, "name": "c", "arguments": {"WHO": "you"}, "hidden": True}
    job = client.create_script(JobKind.CUSTOM, body)
    assert job.kind is JobKind.CUSTOM
    run = client.start_run(job)
    assert ended(client, job, run).state is RunState.SUCCEEDED
    assert "hello you" in [line.message for line in client.list_logs(job, run.id)]
    assert client.list_outputs(job, run.id) == ([], False)
    assert client.find_job(JobKind.CUSTOM, "c") == job
    (row,), _ = client.list_jobs(JobKind.CUSTOM, hidden=True)
    assert row.run is not None
    assert row.run.id == run.id
    client.archive(job)


@pytest.mark.parametrize("text", ["null", "[1, 2.5]", '"ü\\u0000"', '{"a": {"b": [true]}}'])
def test_json_values(client: PlatformClient, text: str) -> None:
    value_id = client.create_json_value("n", "0")
    assert client.get_json_value(value_id) == 0
    client.update_json_value(value_id, text)
    assert client.get_json_value(value_id, low_priority=True) == json.loads(text)


@pytest.mark.parametrize("size", [0, 1, 1_000_000, 60_000_000])
@pytest.mark.parametrize("in_memory", [True, False])
def test_files(client: PlatformClient, size: int, in_memory: bool) -> None:
    block = bytes(range(251))  # a prime, so that no part looks like another
    data = (block * (size // 251 + 1))[:size]
    if in_memory:
        file_id = client.upload(data, size, "a file", expires_in=DAY)
    else:
        with tempfile.TemporaryFile() as file:
            file.write(data)
            file.seek(0)
            file_id = client.upload(file, size, "a file", expires_in=DAY)
    target = io.BytesIO()
    assert client.download_to(file_id, target) == size
    assert hashlib.sha256(target.getbuffer()).digest() == hashlib.sha256(data).digest()
    when = datetime.now(UTC) + timedelta(hours=3)
    client.set_file_expiry(file_id, when)
    expires = client._send("GET", f"files/{file_id}").json()["expiresAt"]
    assert abs(datetime.fromisoformat(expires) - when) < timedelta(seconds=2)


def test_an_expired_file(client: PlatformClient) -> None:
    file_id = client.upload(b"x", 1, "n", expires_in=DAY)
    client.set_file_expiry(file_id, datetime.now(UTC) - DAY)
    with pytest.raises(PlatformError, match="empty or has expired"):
        list(client.download(file_id))


def test_what_is_not_there(client: PlatformClient) -> None:
    for call in (
        lambda: client.get_run(Job(1), 1),
        lambda: client.start_run(Job(1)),
        lambda: client.get_json_value(1),
        lambda: list(client.download(1)),
    ):
        with pytest.raises(PlatformError) as caught:
            call()
        assert caught.value.status == 404
    client.cancel_run(Job(1), 1)


def test_a_body_that_does_not_fit(client: PlatformClient) -> None:
    with pytest.raises(PlatformError, match="required") as caught:
        client.create_script(JobKind.CONTAINER, {"name": "x"})
    assert caught.value.status == 400


@pytest.mark.parametrize("auth", ["basic", "bearer"])
def test_both_ways_to_show_the_key(platform: LocalPlatform, auth: Any) -> None:
    url, key = credentials(platform)
    client = PlatformClient(url, key, auth=auth)
    assert client.me() > 0
    assert client.budget.pace == 0.0  # the local platform has no limit
    client.close()
    wrong = PlatformClient(url, "another-key", auth=auth)
    with pytest.raises(PlatformError) as caught:
        wrong.me()
    assert caught.value.status == 401
    wrong.close()


def test_the_budget_keeps_below_the_limit() -> None:
    with LocalPlatform(rate_limit=(8, 4, 0.5)) as platform:
        url, key = credentials(platform)
        # 20 in two windows and a half; a window of ours is longer than theirs, by more than a
        # request is on its way.
        client = PlatformClient(url, key, budget=RateBudget(window=0.9))
        began = time.monotonic()
        for _ in range(20):
            client.create_json_value("n", "1")
        assert time.monotonic() - began >= 1.0
        assert 0.9 / 16 < client.budget.pace <= 0.9 / 2
        assert platform.stats().refused == 0
        client.close()


class Blind(RateBudget):
    """Learns nothing, so that the platform has to refuse."""

    def observe(self, limit: int, remaining: int) -> None:
        pass


@pytest.mark.usefixtures("brisk")
def test_a_429_is_waited_out() -> None:
    with LocalPlatform(rate_limit=(3, 4, 0.5)) as platform:
        client = PlatformClient(*credentials(platform), budget=Blind())
        began = time.monotonic()
        for _ in range(4):
            client.create_json_value("n", "1")
        assert platform.stats().refused == 1
        assert time.monotonic() - began >= 1.0  # it asks for whole seconds
        client.close()
