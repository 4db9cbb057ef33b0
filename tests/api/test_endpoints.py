"""Each endpoint: how it is asked, what its answer becomes, what it spends."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import httpx
import pytest
from pytest_httpx import HTTPXMock

from civis_futures._api.client import DEFAULT_URL, PlatformClient
from civis_futures._api.failures import is_ambiguous
from civis_futures._api.transport import Kind, RateBudget
from civis_futures._exceptions import PlatformError
from civis_futures._types import Job, JobKind, JobRow, LogLine, Output, Run, RunState

KEY = "aSecret-Key_123"
BASE = "https://api.civis.test"
CONTAINER, CUSTOM = Job(7), Job(8, JobKind.CUSTOM)
EXAMPLES = json.loads(
    (Path(__file__).parents[1] / "contract" / "civis_api_examples.json").read_text(encoding="utf-8")
)
Call = Callable[[PlatformClient], Any]


@pytest.fixture
def client() -> Iterator[PlatformClient]:
    client = PlatformClient(BASE, KEY)
    client._sender._wait = lambda seconds: None
    yield client
    client.close()


def recorded(endpoint: str, number: int = 0) -> Any:
    """The body that the platform was recorded to answer."""
    return EXAMPLES[endpoint][number]["response_body"]


# Each endpoint: how it is asked.

ROWS = "author=5&hidden=true&limit=50"
ENDPOINTS: list[tuple[str, Call, str, Any, Any]] = [
    # what is asked for · the call · body of the request · answer · result
    (
        "POST /scripts/containers",
        lambda c: c.create_script(JobKind.CONTAINER, {"name": "x"}),
        {"name": "x"},
        {"id": 7},
        CONTAINER,
    ),
    (
        "POST /scripts/custom",
        lambda c: c.create_script(JobKind.CUSTOM, {"fromTemplateId": 3}),
        {"fromTemplateId": 3},
        {"id": 8},
        CUSTOM,
    ),
    (
        "POST /scripts/containers/7/runs",
        lambda c: c.start_run(CONTAINER),
        None,
        recorded("POST /scripts/containers/{id}/runs"),
        Run(255, RunState.QUEUED, "queued", created=1776959675.0),
    ),
    (
        "POST /scripts/custom/8/runs",
        lambda c: c.start_run(CUSTOM),
        None,
        recorded("POST /scripts/custom/{id}/runs"),
        None,
    ),
    (
        "GET /scripts/containers/7/runs/9",
        lambda c: c.get_run(CONTAINER, 9),
        None,
        recorded("GET /scripts/containers/{id}/runs/{run_id}"),
        None,
    ),
    (
        "GET /scripts/containers/7/runs?limit=1&order=id&order_dir=desc",
        lambda c: c.latest_run(CONTAINER),
        None,
        [{"id": 9, "state": "succeeded", "maxMemoryUsage": 12.5, "error": "why"}],
        Run(9, RunState.SUCCEEDED, "succeeded", error="why", max_memory=12.5),
    ),
    (
        "GET /scripts/custom/8/runs?limit=1&order=id&order_dir=desc",
        lambda c: c.latest_run(CUSTOM, low_priority=True),
        None,
        [],
        None,
    ),
    (
        f"GET /scripts?type=containers&{ROWS}&order=last_run.updated_at&order_dir=desc&page_num=2",
        lambda c: c.list_jobs(JobKind.CONTAINER, hidden=True, page=2),
        None,
        [
            {"id": 1, "name": "a", "lastRun": None},
            {"id": 2, "name": "b", "lastRun": {"id": 4, "state": "failed", "error": None}},
        ],
        ([JobRow(1, "a", None), JobRow(2, "b", Run(4, RunState.FAILED, "failed"))], False),
    ),
    (
        f"GET /scripts/custom?{ROWS}&order=updated_at&order_dir=desc&page_num=1",
        lambda c: c.list_jobs(JobKind.CUSTOM, hidden=True),
        None,
        recorded("GET /scripts/custom"),
        None,
    ),
    (
        "GET /scripts/custom/8/runs/9/outputs?limit=50&page_num=1&order=id&order_dir=desc",
        lambda c: c.list_outputs(CUSTOM, 9)[0][-1],
        None,
        recorded("GET /jobs/{id}/runs/{run_id}/outputs"),
        Output("JSONValue", 10, "my awesome JSON value", {"foo": "bar"}),
    ),
    (
        "GET /scripts/containers/7/runs/9/logs?limit=1000",
        lambda c: c.list_logs(CONTAINER, 9)[0],
        None,
        recorded("GET /jobs/{id}/runs/{run_id}/logs")[::-1],
        LogLine(0, "2026-04-17T17:29:45.613Z", "debug", "Log message 0"),
    ),
    (
        "GET /scripts/containers/7/runs/9/logs?limit=10&last_id=3",
        lambda c: c.list_logs(CONTAINER, 9, limit=10, last_id=3, low_priority=True),
        None,
        [],
        [],
    ),
    ("DELETE /scripts/containers/7/runs/9", lambda c: c.cancel_run(CONTAINER, 9), None, b"", None),
    (
        "PUT /scripts/containers/7/archive",
        lambda c: c.archive(CONTAINER),
        {"status": True},
        recorded("GET /scripts/containers/{id}"),
        None,
    ),
    (
        "PUT /scripts/custom/8/archive",
        lambda c: c.archive(CUSTOM),
        {"status": True},
        recorded("GET /scripts/custom/{id}"),
        None,
    ),
    (
        "POST /json_values",
        lambda c: c.create_json_value("n", "[1]"),
        {"name": "n", "valueStr": "[1]"},
        recorded("POST /json_values/"),
        11,
    ),
    (
        "PATCH /json_values/3",
        lambda c: c.update_json_value(3, "[]"),
        {"valueStr": "[]"},
        recorded("PATCH /json_values/{id}"),
        None,
    ),
    (
        "GET /json_values/3",
        lambda c: c.get_json_value(3),
        None,
        {"id": 3, "name": "x", "value": [1, None]},
        [1, None],
    ),
    (
        "PATCH /files/3",
        lambda c: c.set_file_expiry(
            3, datetime(2030, 1, 1, 2, tzinfo=timezone(timedelta(hours=2)))
        ),
        {"expiresAt": "2030-01-01T00:00:00+00:00"},
        recorded("PATCH /files/{id}"),
        None,
    ),
]


@pytest.mark.parametrize(
    ("asked", "call", "body", "answer", "result"), ENDPOINTS, ids=[row[0] for row in ENDPOINTS]
)
def test_endpoints(
    client: PlatformClient,
    httpx_mock: HTTPXMock,
    asked: str,
    call: Call,
    body: Any,
    answer: Any,
    result: Any,
) -> None:
    client._me = 5
    content = answer if isinstance(answer, bytes) else json.dumps(answer).encode()
    httpx_mock.add_response(content=content)
    value = call(client)
    (request,) = httpx_mock.get_requests()
    url = httpx.URL(f"{BASE}{asked.split()[1]}")
    assert (request.method, request.url) == (asked.split()[0], url)
    assert (json.loads(request.content) if request.content else None) == body
    if result is not None:
        assert value == result


def test_me_is_asked_once(client: PlatformClient, httpx_mock: HTTPXMock) -> None:
    httpx_mock.add_response(url=f"{BASE}/users/me", json=recorded("GET /users/me"))
    assert client.me() == client.me() == recorded("GET /users/me")["id"]


def test_a_time_without_zone_is_refused(client: PlatformClient) -> None:
    with pytest.raises(ValueError, match="zone"):
        client.set_file_expiry(3, datetime(2030, 1, 1))


@pytest.mark.parametrize("answer", ["GET /scripts/", "GET /jobs/"])
def test_recorded_lists(client: PlatformClient, httpx_mock: HTTPXMock, answer: str) -> None:
    client._me = 5
    for number in range(len(EXAMPLES[answer])):
        rows = recorded(answer, number)
        httpx_mock.add_response(json=rows)
        listed, _ = client.list_jobs(JobKind.CONTAINER, hidden=False)
        assert [row.job_id for row in listed] == [row["id"] for row in rows]


def test_a_job_is_found_among_the_newest(client: PlatformClient, httpx_mock: HTTPXMock) -> None:
    client._me = 5
    rows = [{"id": n, "name": name, "lastRun": None} for n, name in ((3, "xx"), (2, "x"), (1, "x"))]
    newest = f"{BASE}/scripts?type=containers&{ROWS}&order=created_at&order_dir=desc"
    httpx_mock.add_response(url=newest, json=rows)
    assert client.find_job(JobKind.CONTAINER, "x") == Job(2)


@pytest.mark.parametrize(("rows", "found"), [([], None), ([("x.", 1), ("x", 2)], 2)])
def test_a_job_is_found_by_search(
    client: PlatformClient, httpx_mock: HTTPXMock, rows: list[tuple[str, int]], found: int | None
) -> None:
    client._me = 5
    newest = f"{BASE}/scripts/custom?{ROWS}&order=created_at&order_dir=desc"
    httpx_mock.add_response(url=newest, json=[])
    httpx_mock.add_response(
        url=f"{BASE}/jobs?q=x&hidden=true&limit=50",
        json=[{"id": job_id, "name": name, "lastRun": None} for name, job_id in rows],
    )
    job = client.find_job(JobKind.CUSTOM, "x")
    assert job == (None if found is None else Job(found, JobKind.CUSTOM))


@pytest.mark.parametrize(
    ("pages", "rows", "more"),
    [("3", 1, True), ("2", 50, False), ("", 50, True), (None, 50, True), (None, 49, False)],
)
def test_whether_more_pages_follow(
    client: PlatformClient, httpx_mock: HTTPXMock, pages: str | None, rows: int, more: bool
) -> None:
    headers = {} if pages is None else {"X-Pagination-Total-Pages": pages}
    output = recorded("GET /jobs/{id}/runs/{run_id}/outputs")[0]
    httpx_mock.add_response(json=[output] * rows, headers=headers)
    outputs, follows = client.list_outputs(CONTAINER, 9, page=2)
    assert (len(outputs), follows) == (rows, more)


@pytest.mark.parametrize(
    ("said", "state"),
    [*((s.value, s) for s in RunState), ("success", RunState.SUCCEEDED), ("pending", None)],
)
def test_states(
    client: PlatformClient, httpx_mock: HTTPXMock, said: str, state: RunState | None
) -> None:
    httpx_mock.add_response(json={"id": 1, "state": said})
    run = client.get_run(CONTAINER, 1)
    assert (run.state, run.said) == (state or RunState.UNKNOWN, said)
    assert run.state.over is (run.state.value in ("succeeded", "failed", "cancelled"))


@pytest.fixture
def elsewhere(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A machine whose own time is not UTC."""
    with monkeypatch.context() as there:
        there.setenv("TZ", "America/Chicago")
        time.tzset()
        yield
    time.tzset()


@pytest.mark.parametrize(
    ("said", "seconds"),
    [
        ("2026-04-23T15:53:23.500Z", 1776959603.5),
        ("2026-04-23T17:53:23+02:00", 1776959603.0),
        ("2026-04-23 15:53:23", 1776959603.0),
        (None, None),
        ("yesterday", None),
        (5, None),
    ],
)
def test_times(
    client: PlatformClient,
    httpx_mock: HTTPXMock,
    elsewhere: None,
    said: Any,
    seconds: float | None,
) -> None:
    httpx_mock.add_response(json={"id": 1, "state": "queued", "finishedAt": said})
    assert client.get_run(CONTAINER, 1).finished == seconds


def test_logs_are_sorted_by_time_and_then_by_id(
    client: PlatformClient, httpx_mock: HTTPXMock
) -> None:
    moments = {1: "2026-04-23T15:53:23.000Z", 2: "2026-04-23T15:53:23Z", 3: "2026-04-23T15:53:22Z"}
    httpx_mock.add_response(
        json=[{"id": n, "createdAt": moments[n], "message": None, "level": None} for n in (2, 1, 3)]
    )
    lines = client.list_logs(CONTAINER, 9)
    assert [line.id for line in lines] == [3, 1, 2]
    assert (lines[0].message, lines[0].level) == ("", "unknown")


def test_pages_for_people() -> None:
    client = PlatformClient(DEFAULT_URL, KEY)
    assert client.job_url(CONTAINER) == "https://platform.civisanalytics.com/spa/#/jobs/7"
    client.close()
    client = PlatformClient("http://127.0.0.1:8", KEY)
    assert client.job_url(CUSTOM) == "http://127.0.0.1:8/scripts/custom/8"
    client.close()


@pytest.mark.parametrize("codes", [[409], [404, 404]])
def test_cancelling_what_is_over(
    client: PlatformClient, httpx_mock: HTTPXMock, codes: list[int]
) -> None:
    for code in codes:  # what is not found there is asked for
        httpx_mock.add_response(code, json={"error": "not_found", "code": code})
    client.cancel_run(CONTAINER, 9)


@pytest.mark.parametrize(("state", "over"), [("running", False), ("failed", True)])
def test_a_run_that_is_there_cannot_be_cancelled(
    client: PlatformClient, httpx_mock: HTTPXMock, state: str, over: bool
) -> None:
    httpx_mock.add_response(404, json={"error": "not_found", "code": 404})
    httpx_mock.add_response(json={"id": 9, "state": state})
    with nullcontext() if over else pytest.raises(PlatformError, match="DELETE"):
        client.cancel_run(CONTAINER, 9)


# What a request spends, and when it is repeated.


@pytest.mark.parametrize(
    ("call", "kind"),
    [
        (lambda c: c.start_run(CONTAINER), Kind.RUN),
        (lambda c: c.get_run(CONTAINER, 1), Kind.GENERAL),
        (lambda c: c.get_run(CONTAINER, 1, low_priority=True), Kind.LOOK),
        (lambda c: c.latest_run(CONTAINER, low_priority=True), Kind.LOOK),
        (lambda c: c.list_jobs(JobKind.CONTAINER, hidden=True), Kind.LOOK),
        (lambda c: c.list_jobs(JobKind.CONTAINER, hidden=True, low_priority=False), Kind.GENERAL),
        (lambda c: c.list_outputs(CONTAINER, 1), Kind.LOOK),
        (lambda c: c.list_logs(CONTAINER, 1, low_priority=True), Kind.LOOK),
        (lambda c: c.get_json_value(1, low_priority=True), Kind.LOOK),
        (lambda c: c.cancel_run(CONTAINER, 1), Kind.GENERAL),
        (lambda c: c.create_script(JobKind.CUSTOM, {}), Kind.GENERAL),
    ],
)
def test_what_a_request_spends(httpx_mock: HTTPXMock, call: Call, kind: Kind) -> None:
    class Spy(RateBudget):
        def delay(self, kind: Kind) -> float:
            spent.append(kind)
            return 0.0

    spent: list[Kind] = []
    httpx_mock.add_response(json={"error": "no"}, status_code=400)
    client = PlatformClient(BASE, KEY, budget=Spy())
    client._me = 5
    with pytest.raises(PlatformError):
        call(client)
    assert spent == [kind]
    client.close()


@pytest.mark.parametrize(
    ("call", "repeated"),
    [
        (lambda c: c.create_script(JobKind.CONTAINER, {}), False),
        (lambda c: c.start_run(CONTAINER), False),
        (lambda c: c.update_json_value(1, "1"), True),
        (lambda c: c.create_json_value("n", "1"), True),
        (lambda c: c.set_file_expiry(1, datetime.now(UTC)), True),
        (lambda c: c.archive(CONTAINER), True),
        (lambda c: c.cancel_run(CONTAINER, 1), True),
        (lambda c: c.upload(b"", 0, "n", expires_in=timedelta(1)), True),
    ],
)
def test_what_is_repeated_after_a_lost_reply(
    client: PlatformClient, httpx_mock: HTTPXMock, call: Call, repeated: bool
) -> None:
    httpx_mock.add_exception(httpx.ReadError("cut"))
    if repeated:
        httpx_mock.add_response(400)
    with pytest.raises(PlatformError) as caught:
        call(client)
    assert is_ambiguous(caught.value) is not repeated
    assert caught.value.status == (400 if repeated else None)
