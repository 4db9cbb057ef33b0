"""The client against canned answers: the key, each way in which an answer can be wrong, the end."""

from __future__ import annotations

import base64
import json
import logging
import pickle
import threading
from collections.abc import Callable, Iterator
from datetime import timedelta
from typing import Any

import httpcore
import httpx
import pytest
from pytest_httpx import HTTPXMock

from civis_futures._api.client import DEFAULT_URL, PlatformClient, credentials
from civis_futures._api.failures import is_ambiguous
from civis_futures._exceptions import CredentialsError, PlatformError
from civis_futures._types import Job, JobKind

KEY = "aSecret-Key_123"
BASE = "https://api.civis.test"
CONTAINER = Job(7)
Call = Callable[[PlatformClient], Any]


@pytest.fixture
def client() -> Iterator[PlatformClient]:
    client = PlatformClient(BASE, KEY, single_upload=5)  # what is longer goes in parts
    client._sender._wait = lambda seconds: None
    yield client
    client.close()


# Which platform, and the key to it.


class Platform:
    url, api_key = "http://127.0.0.1:9", f" {KEY}\n"


def test_the_environment_is_the_default(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CIVIS_API_KEY", f"{KEY}\n")
    monkeypatch.delenv("CIVIS_API_ENDPOINT", raising=False)
    assert credentials() == (DEFAULT_URL, KEY)
    monkeypatch.setenv("CIVIS_API_ENDPOINT", "https://elsewhere/v2")
    assert credentials() == ("https://elsewhere/v2/", KEY)


def test_an_object_names_a_platform() -> None:
    assert credentials(Platform()) == ("http://127.0.0.1:9/", KEY)


def test_a_client_of_civis_names_its_key(monkeypatch: pytest.MonkeyPatch) -> None:
    client = type("APIClient", (), {"_session_kwargs": {"api_key": f"{KEY}\n"}})()
    monkeypatch.delenv("CIVIS_API_KEY", raising=False)
    monkeypatch.delenv("CIVIS_API_ENDPOINT", raising=False)
    assert credentials(client) == (DEFAULT_URL, KEY)
    monkeypatch.setenv("CIVIS_API_ENDPOINT", "https://elsewhere/v2")
    assert credentials(client) == ("https://elsewhere/v2/", KEY)


@pytest.mark.parametrize("value", [None, "", " \n"])
def test_no_key_names_both_ways_out(monkeypatch: pytest.MonkeyPatch, value: str | None) -> None:
    monkeypatch.delenv("CIVIS_API_KEY", raising=False)
    if value is not None:
        monkeypatch.setenv("CIVIS_API_KEY", value)
    with pytest.raises(CredentialsError, match=r'CIVIS_API_KEY .* platform="local"'):
        credentials()


@pytest.mark.parametrize("wrong", ["remote", 3, object(), type("P", (), {"url": "http://x"})()])
def test_what_is_no_platform(wrong: object) -> None:
    with pytest.raises(TypeError, match=r"\.url and \.api_key"):
        credentials(wrong)


@pytest.mark.parametrize("key", ["", " ", "two words", "new\nline", "schlüssel", "nul\0"])
def test_what_is_no_key_is_not_quoted(key: str) -> None:
    with pytest.raises(CredentialsError) as caught:
        PlatformClient(BASE, key)
    assert not key.strip() or key not in str(caught.value)


@pytest.mark.parametrize(
    "url", ["api.civis.test", "ftp://x/", "http://", "http://x:y/", "file:///"]
)
def test_what_is_no_url(url: str) -> None:
    with pytest.raises(ValueError, match="the platform's URL"):
        PlatformClient(url, KEY)


def test_a_url_with_a_password_is_refused_and_not_quoted() -> None:
    with pytest.raises(ValueError, match="password") as caught:
        PlatformClient("https://me:hush@civis.test", KEY)
    assert "hush" not in str(caught.value)


@pytest.mark.parametrize(
    ("auth", "header"),
    [
        ("basic", "Basic " + base64.b64encode(f"{KEY}:".encode()).decode()),
        ("bearer", f"Bearer {KEY}"),
    ],
)
def test_what_each_request_carries(
    monkeypatch: pytest.MonkeyPatch, httpx_mock: HTTPXMock, auth: Any, header: str
) -> None:
    monkeypatch.setenv("CIVIS_JOB_ID", "11")
    monkeypatch.setenv("CIVIS_RUN_ID", "12")
    httpx_mock.add_response(json={"id": 1})
    client = PlatformClient(BASE, KEY, auth=auth)
    client.me()
    headers = httpx_mock.get_requests()[0].headers
    assert headers["Authorization"] == header
    assert headers["User-Agent"].startswith("civis-futures/")
    assert (headers["X-Civis-Job-ID"], headers["X-Civis-Run-ID"]) == ("11", "12")
    client.close()


def test_there_is_no_third_way_to_present_a_key() -> None:
    with pytest.raises(ValueError, match="auth"):
        PlatformClient(BASE, KEY, auth="digest")  # type: ignore[arg-type]


def test_outside_a_container_no_job_is_named(client: PlatformClient, httpx_mock: HTTPXMock) -> None:
    httpx_mock.add_response(json={"id": 1})
    client.me()
    assert "X-Civis-Job-ID" not in httpx_mock.get_requests()[0].headers


def test_the_key_is_nowhere(
    client: PlatformClient, httpx_mock: HTTPXMock, caplog: pytest.LogCaptureFixture
) -> None:
    for name in (None, "httpx", "httpcore"):
        caplog.set_level(logging.DEBUG, name)
    encoded = base64.b64encode(f"{KEY}:".encode()).decode()
    httpx_mock.add_response(503, text="down")
    httpx_mock.add_response(400, json={"errorDescription": f"what is {KEY} in Basic {encoded}?"})
    with pytest.raises(PlatformError) as caught:
        client.get_json_value(3)
    httpx_mock.add_exception(httpx.ReadError("cut"))
    with pytest.raises(PlatformError) as lost:
        client.start_run(CONTAINER)
    seen = [repr(client), str(client), caplog.text]
    for error in (caught.value, lost.value, lost.value.__cause__):
        seen += [str(error), repr(error), repr(vars(error))]
    assert "api.civis.test" in caplog.text
    for text in seen:
        assert KEY not in text
        assert encoded not in text


def test_a_client_does_not_pickle(client: PlatformClient) -> None:
    with pytest.raises(TypeError, match="key"):
        pickle.dumps(client)


def test_a_proxy_leads_away_from_this_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HTTP_PROXY", "http://proxy.test:3128")
    monkeypatch.setenv("HTTPS_PROXY", "http://proxy.test:3128")
    monkeypatch.delenv("NO_PROXY", raising=False)
    for url, proxied in ((BASE, True), ("http://127.0.0.1:9/", False), ("http://[::1]:9", False)):
        client = PlatformClient(url, KEY)
        for http in (client._http, client._links_http):
            pool = http._transport.way(httpx.URL(url))._pool
            assert isinstance(pool, httpcore.HTTPProxy) is proxied
        client.close()


# What can be wrong with an answer.

CALL = "GET /scripts/containers/7/runs/9"
REFUSALS: list[tuple[str, dict[str, Any], str]] = [
    (
        "as recorded",
        {
            "json": {
                "error": "not_found",
                "errorDescription": "The job cannot be found",
                "code": 404,
            }
        },
        "The job cannot be found",
    ),
    ("no description", {"json": {"error": "too_many", "code": 404}}, "too_many"),
    ("nothing said", {"json": {}}, "Not Found"),
    ("a list", {"json": ["no"]}, "Not Found"),
    ("a text", {"json": "no"}, "Not Found"),
    ("a page", {"html": "<html>gone</html>"}, "Not Found"),
    ("no text", {"content": b"\xff\xfe"}, "Not Found"),
    ("deep", {"text": "[" * 100_000}, "Not Found"),
    ("empty", {}, "Not Found"),
]


@pytest.mark.parametrize(
    ("answer", "said"), [row[1:] for row in REFUSALS], ids=[row[0] for row in REFUSALS]
)
def test_refusals(
    client: PlatformClient, httpx_mock: HTTPXMock, answer: dict[str, Any], said: str
) -> None:
    httpx_mock.add_response(404, headers={"X-Request-Id": "abc-1"}, **answer)
    with pytest.raises(PlatformError) as caught:
        client.get_run(CONTAINER, 9)
    error = caught.value
    assert str(error) == f"{CALL}: 404: {said} [request abc-1]"
    assert (error.status, error.request_id, error.sent) == (404, "abc-1", True)
    assert (error.method, error.path) == ("GET", CALL.split()[1])
    assert not is_ambiguous(error)
    again = pickle.loads(pickle.dumps(error))
    assert (str(again), vars(again)) == (str(error), vars(error))


def test_a_401_without_the_header_that_goes_with_it(
    client: PlatformClient, httpx_mock: HTTPXMock
) -> None:
    httpx_mock.add_response(401)
    with pytest.raises(PlatformError, match="401: Unauthorized"):
        client.me()


def test_a_redirect_is_a_refusal(client: PlatformClient, httpx_mock: HTTPXMock) -> None:
    httpx_mock.add_response(302, headers={"Location": "https://login.test/"})
    with pytest.raises(PlatformError, match="302"):
        client.start_run(CONTAINER)


@pytest.mark.parametrize("body", [b"", b"<html>", b"{", b'"\xff"', b"[" * 100_000])
def test_what_is_not_json(client: PlatformClient, httpx_mock: HTTPXMock, body: bytes) -> None:
    httpx_mock.add_response(201, content=body)
    with pytest.raises(PlatformError, match="something that is not JSON") as caught:
        client.create_script(JobKind.CONTAINER, {})
    assert caught.value.status == 201
    assert is_ambiguous(caught.value)  # it may well exist


@pytest.mark.parametrize("body", [None, 3, "x", [], [3], {}, {"id": "1"}, {"id": True}])
@pytest.mark.parametrize(
    "call",
    [
        lambda c: c.create_script(JobKind.CONTAINER, {}),
        lambda c: c.start_run(CONTAINER),
        lambda c: c.get_run(CONTAINER, 1),
        lambda c: c.me(),
        lambda c: c.create_json_value("n", "1"),
        lambda c: c.upload(b"", 0, "n", expires_in=timedelta(1)),
        lambda c: c.upload(b"a" * 6, 6, "n", expires_in=timedelta(1)),
        lambda c: list(c.download(1)),
        lambda c: c.get_json_value(1),
    ],
)
def test_json_of_another_shape(
    client: PlatformClient,
    httpx_mock: HTTPXMock,
    call: Call,
    body: Any,
) -> None:
    httpx_mock.add_response(content=json.dumps(body).encode())
    with pytest.raises(PlatformError, match="JSON that was not expected"):
        call(client)


@pytest.mark.parametrize("url", [None, "", 3])
def test_a_new_file_without_a_link(client: PlatformClient, httpx_mock: HTTPXMock, url: Any) -> None:
    httpx_mock.add_response(json={"id": 1, "uploadUrl": url, "uploadFields": {}})
    with pytest.raises(PlatformError, match="JSON that was not expected"):
        client.upload(b"", 0, "n", expires_in=timedelta(1))


@pytest.mark.parametrize("body", [None, 3, "x", {}, [3], [None], [{}], [{"id": 1}]])
@pytest.mark.parametrize(
    "call",
    [
        lambda c: c.list_jobs(JobKind.CONTAINER, hidden=True),
        lambda c: c.find_job(JobKind.CONTAINER, "x"),
        lambda c: c.latest_run(CONTAINER),
        lambda c: c.list_outputs(CONTAINER, 1),
        lambda c: c.list_logs(CONTAINER, 1),
    ],
)
def test_lists_of_another_shape(
    client: PlatformClient, httpx_mock: HTTPXMock, call: Call, body: Any
) -> None:
    client._me = 5
    httpx_mock.add_response(content=json.dumps(body).encode())
    with pytest.raises(PlatformError, match="JSON that was not expected"):
        call(client)


@pytest.mark.parametrize(
    ("error", "ambiguous"),
    [
        (PlatformError("x"), True),
        (PlatformError("x", sent=False), False),
        *((PlatformError("x", status=code), True) for code in (200, 302, 500, 502, 503, 504)),
        *((PlatformError("x", status=code), False) for code in (400, 401, 404, 409, 429)),
    ],
)
def test_ambiguity(error: PlatformError, ambiguous: bool) -> None:
    assert is_ambiguous(error) is ambiguous


# The end.


def test_close_may_be_called_twice_and_ends_everything(client: PlatformClient) -> None:
    client.close()
    client.close()
    for call in (client.me, lambda: list(client.download(1))):
        with pytest.raises(PlatformError, match="the client was closed") as caught:
            call()
        assert not caught.value.sent


def test_close_ends_a_wait(httpx_mock: HTTPXMock) -> None:
    client = PlatformClient(BASE, KEY)
    begun, errors = threading.Event(), []
    real_wait = client._closing.wait

    def wait(seconds: float) -> bool:
        begun.set()
        return real_wait(seconds)

    def run() -> None:
        try:
            client.me()
        except PlatformError as error:
            errors.append(str(error))

    client._sender._wait = wait
    httpx_mock.add_response(429, headers={"Retry-After": "500"})
    thread = threading.Thread(target=run)
    thread.start()
    assert begun.wait(5)
    client.close()
    thread.join(5)
    assert errors == ["GET /users/me: the client was closed"]


@pytest.mark.parametrize("memory", [10**400, 1e300, -1, True, "9", [], None])
def test_a_memory_that_makes_no_sense_is_not_known(
    client: PlatformClient, httpx_mock: HTTPXMock, memory: object
) -> None:
    said = {"id": 5, "state": "running", "maxMemoryUsage": memory}
    httpx_mock.add_response(json=said)
    assert client.get_run(Job(1), 5).max_memory is None
