"""Who has no right gets nothing: thousands of requests without one, or with odd headers.

Every endpoint, with every kind of wrong key; links that were altered; hosts and methods that are
not served; bytes that are no request. None is answered with a success or with a failure of the
server's, none says the key, and all is as it was afterwards.
"""

from __future__ import annotations

import base64
import http.client
import json
import socket
from contextlib import closing
from datetime import timedelta
from urllib.parse import parse_qsl, urlencode, urlsplit

import pytest

from civis_futures._api.client import PlatformClient
from civis_futures.local._api.app import ROUTES
from civis_futures.testing import LocalPlatform

METHODS = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE", "CONNECT", "BREW")


def basic(user, password=""):
    return "Basic " + base64.b64encode(f"{user}:{password}".encode()).decode()


def keys(right, others):
    """Each `Authorization` that gives no right."""
    swapped = right.swapcase()
    wrong = [
        right[:-1],
        right + "x",
        f"{right[:-1]}{'a' if right[-1] != 'a' else 'b'}",
        right[::-1],
    ]
    wrong += [swapped] if swapped != right else []
    wrong += [
        "",
        "0",
        "None",
        "null",
        "*",
        "' OR 1=1 --",
        "../../",
        right.replace(right[0], "\xe9"),
    ]
    for key in [*wrong, *others]:
        yield f"Bearer {key}"
        yield basic(key)
    yield from ("", "Basic", "Bearer", "Basic !!!", "Basic ====", "Bearer\t", basic("", right))
    yield from (right, f"Token {right}", f"Digest {right}", f"Negotiate {right}", f"{right}:")
    yield f"Bearer {base64.b64encode(right.encode()).decode()}"
    yield f"Bearer {right} {right}"
    yield "Basic " + "A" * 6_000


@pytest.fixture(scope="module")
def platform():
    with LocalPlatform(cores=4) as running:
        yield running


@pytest.fixture(scope="module")
def others():
    """Keys that were right, or are elsewhere."""
    with LocalPlatform() as elsewhere:
        return [elsewhere.api_key]


class Line:
    """One kept connection."""

    def __init__(self, url):
        parts = urlsplit(url)
        self._connection = http.client.HTTPConnection(parts.netloc, timeout=30)
        self.asked = 0

    def __call__(self, method, target, headers, body=b""):
        """The status, and all that was said."""
        self.asked += 1
        connection = self._connection
        connection.putrequest(method, target, skip_host=True, skip_accept_encoding=True)
        given = {"Host": f"{connection.host}:{connection.port}", **headers}
        given["Content-Length"] = str(len(body))
        for name, value in given.items():
            connection.putheader(name, value.encode("latin-1"))
        connection.endheaders(body)
        response = connection.getresponse()
        said = response.read()
        if response.will_close:
            connection.close()
        return response.status, str(response.headers).encode() + said

    def close(self):
        self._connection.close()


@pytest.fixture
def line(platform):
    with closing(Line(platform.url)) as line:
        yield line


@pytest.fixture
def owner(platform, line):
    """owner(method, path, body): as who has the right."""

    def ask(method, path, body=None):
        headers = {
            "Authorization": f"Bearer {platform.api_key}",
            "Content-Type": "application/json",
        }
        data = b"" if body is None else json.dumps(body).encode()
        status, said = line(method, path, headers, data)
        assert status < 300, said
        return json.loads(said.partition(b"\n\n")[2])

    return ask


@pytest.fixture
def things(platform, owner):
    """Ids of what there is to be had; and all of it is as it was at the end."""
    script = owner(
        "POST", "/scripts/containers",
        {"dockerCommand": "true", "requiredResources": {"cpu": 64, "memory": 64}},
    )["id"]  # fmt: skip
    value = owner("POST", "/json_values", {"name": "a", "valueStr": '"precious"'})["id"]
    file = owner("POST", "/files", {"name": "a"})
    known = {"script": script, "value": value, "file": file}

    def state():
        rows = owner("GET", "/jobs?hidden=false&limit=50&order=updated_at")
        value = owner("GET", f"/json_values/{known['value']}")
        found = owner("GET", f"/files/{known['file']['id']}")
        return rows, value, found["name"], found["fileSize"], platform.stats().runs_started

    before = state()
    yield known
    assert state() == before


def paths(things):
    """Each endpoint, with ids of things that are there where it has some."""
    for route in ROUTES:
        path = route.template.replace("{run_id}", "1")
        family = "file" if path.startswith("/files") else "script"
        number = things["value"] if path.startswith("/json") else things[family]
        number = number["id"] if family == "file" and "json" not in path else number
        yield route.method, path.replace("{id}", str(number))


def test_no_endpoint_lets_anybody_in_without_the_key(platform, line, things, others):
    secret = platform.api_key.encode()
    body = json.dumps({"name": "mine now", "valueStr": "1", "status": True}).encode()
    given = [None, *keys(platform.api_key, others)]
    for method, path in paths(things):
        for sent in given:
            headers = {"Content-Type": "application/json"}
            if sent is not None:
                headers["Authorization"] = sent
            status, said = line(method, path, headers, b"" if method == "GET" else body)
            assert status in (400, 401, 403), (method, path, sent, status)
            assert secret not in said
    assert line.asked > 2_000


def test_no_other_way_to_give_the_key(platform, line, things):
    """In the address, in cookies, in other headers, twice."""
    key = platform.api_key
    for headers in (
        {"Cookie": f"api_key={key}"}, {"X-Api-Key": key}, {"Proxy-Authorization": basic(key)},
        {"X-Forwarded-Authorization": f"Bearer {key}"}, {"X-Original-URL": "/users/me"},
        {"X-HTTP-Method-Override": "GET"}, {"X-Forwarded-For": "127.0.0.1"},
    ):  # fmt: skip
        for target in ("/users/me", f"/users/me?api_key={key}", f"/users/me?Authorization={key}"):
            status, said = line("GET", target, headers)
            assert status == 401, (headers, target)
            assert b'"email"' not in said


def test_other_hosts_and_origins_are_not_served(platform, line, things):
    right = {"Authorization": f"Bearer {platform.api_key}"}
    hosts = ("evil.example", "evil.example:80", "127.0.0.1.evil.example", "0.0.0.0", "[::2]")
    more = ("localhost.evil.example", "169.254.169.254", "", "localhost@evil.example")
    for host in hosts + more:
        for method, path in paths(things):
            for headers in ({}, right):
                if headers and method != "GET":
                    continue
                status, _ = line(method, path, {"Host": host, **headers})
                assert status in (400, 401, 403), (host, method, path, status)
    for origin in ("http://evil.example", "null", "file://", "http://localhost.evil.example"):
        for method in ("GET", "OPTIONS", "POST"):
            asked = {"Origin": origin, "Access-Control-Request-Method": "GET"}
            status, said = line(method, "/users/me", asked)
            assert status >= 400, (origin, method)
            assert b"access-control-allow" not in said.lower()


def test_other_methods_are_refused(line, things):
    for _, path in paths(things):
        for method in METHODS:
            status, _ = line(method, path, {})
            assert 400 <= status < 500, (method, path, status)


def altered(link):
    """The link with each of its parts changed, left out, or twice."""
    parts = urlsplit(link)
    query = parse_qsl(parts.query, keep_blank_values=True)
    for index, (name, value) in enumerate(query):
        if name == "asker":  # not signed: only tests depend on it
            continue
        rest = query[:index] + query[index + 1 :]
        others = ["", value + "0", value[:-1], value.swapcase(), "0", "-1", "nan", "inf", "1e400"]
        others += ["\xe9", "\x00", "99999999999", value[::-1]]
        for other in others:
            if other != value:
                yield f"{parts.path}?{urlencode([*rest, (name, other)])}"
        if value:  # what is left out is empty
            yield f"{parts.path}?{urlencode(rest)}"
    path = parts.path
    for other in (path[:-1], path + "0", "/", path + "/../x", "/../../etc/passwd", "/%2e%2e/x"):
        yield f"{other}?{parts.query}"
    yield path


@pytest.mark.parametrize("kind", ["download", "part"])
def test_a_link_that_was_altered_gives_nothing(platform, owner, kind):
    if kind == "part":
        form = owner("POST", "/files/multipart", {"name": "b", "numParts": 2})
        link, right = form["uploadUrls"][0], "PUT"
    else:
        with closing(PlatformClient(platform.url, platform.api_key)) as client:
            number = client.upload(b"precious", 8, "b", expires_in=timedelta(days=1))
        link, right = owner("GET", f"/files/{number}")["fileUrl"], "GET"
    with closing(Line(link)) as line:
        for target in altered(link):
            for method in {right, "GET", "PUT", "POST", "DELETE"}:
                status, said = line(method, target, {}, b"mine now" if method != "GET" else b"")
                assert 400 <= status < 500, (method, target, status, said)
        for method in {"GET", "PUT", "POST", "DELETE", "PATCH", "BREW"} - {right}:
            parts = urlsplit(link)
            status, _ = line(method, f"{parts.path}?{parts.query}", {})
            assert 400 <= status < 500, (method, status)


ODD = [
    b"", b"\r\n\r\n", b"\x00" * 64, b"GET\r\n\r\n", b"GET / HTTP/9.9\r\n\r\n",
    b"\x16\x03\x01\x02\x00",
    b"GET /users/me HTTP/1.1\r\n\r\n", b"GET /users/me HTTP/1.0\r\n\r\n",
    b"GET http://127.0.0.1/users/me HTTP/1.1\r\nHost: evil.example\r\n\r\n",
    b"GET /users/me HTTP/1.1\r\nHost: localhost\r\nHost: evil.example\r\n\r\n",
    b"GET /users/me HTTP/1.1\r\nHost: localhost\r\nContent-Length: -1\r\n\r\n",
    b"GET /users/me HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n",
    b"POST /files HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
    b"GET /users/me HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer \xff\xfe\r\n\r\n",
    b"GET /users/me HTTP/1.1\r\nHost: localhost\r\nX: " + b"y" * 100_000 + b"\r\n\r\n",
    b"GET /" + b"a/" * 20_000 + b" HTTP/1.1\r\nHost: localhost\r\n\r\n",
    b"GET /%00%ff%2e%2e/users/me HTTP/1.1\r\nHost: localhost\r\n\r\n",
    b"GET //users//me HTTP/1.1\r\nHost: localhost\r\n\r\n",
    b"GET /scripts/containers/99999999999999999999 HTTP/1.1\r\nHost: localhost\r\n\r\n",
    b"GET / HTTP/1.1\r\nHost: localhost\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\r\n",
    b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
]  # fmt: skip


@pytest.mark.parametrize("number", range(len(ODD)))
def test_bytes_that_are_no_request(platform, line, things, number):
    parts = urlsplit(platform.url)
    with socket.create_connection((parts.hostname, parts.port), timeout=30) as connection:
        connection.sendall(ODD[number])
        connection.shutdown(socket.SHUT_WR)
        said = b""
        while part := connection.recv(65_536):
            said += part
    assert not said or said.startswith((b"HTTP/1.1 4", b"HTTP/1.0 4")), said[:200]
    assert platform.api_key.encode() not in said
    assert line("GET", "/users/me", {})[0] == 401  # it is still there
