"""Proxies and certificates of the environment: as with `requests`, or an error that names them."""

from __future__ import annotations

import contextlib
import os
import socket
import ssl
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import certifi
import httpx
import pytest

from civis_futures import ContainerPoolExecutor, PlatformError
from civis_futures._api import routes
from civis_futures._api.client import PlatformClient
from civis_futures._api.routes import CERTIFICATES, Routes, proxy_for

PROXY, OTHER = "http://proxy.test:3128", "http://other.test:8080"
VARIABLES = (*CERTIFICATES, "HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "NO_PROXY")
Set = Callable[[dict[str, str]], None]


@pytest.fixture
def environment(monkeypatch: pytest.MonkeyPatch) -> Iterator[Set]:
    """environment({...}): these variables, and no other one of their kind."""
    for name in VARIABLES:
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.lower(), raising=False)

    def change(given: dict[str, str]) -> None:
        for name, value in given.items():
            monkeypatch.setenv(name, value)

    routes._believing.cache_clear()
    yield change
    routes._believing.cache_clear()


# --- which way ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("given", "url", "proxy"),
    [
        ({}, "https://api.test", None),
        ({"HTTPS_PROXY": PROXY}, "https://api.test", PROXY),
        ({"HTTPS_PROXY": PROXY}, "http://api.test", None),
        ({"HTTP_PROXY": PROXY}, "http://api.test", PROXY),
        ({"https_proxy": OTHER, "HTTPS_PROXY": PROXY}, "https://api.test", OTHER),
        ({"HTTPS_PROXY": "proxy.test:3128"}, "https://api.test", PROXY),
        ({"HTTPS_PROXY": ""}, "https://api.test", None),
        ({"ALL_PROXY": PROXY}, "https://api.test", PROXY),
        ({"ALL_PROXY": OTHER, "HTTPS_PROXY": PROXY}, "https://api.test", PROXY),
        ({"ALL_PROXY": OTHER, "HTTPS_PROXY": PROXY}, "http://api.test", OTHER),
    ],
)
def test_the_proxy_of_an_address(
    environment: Set, given: dict[str, str], url: str, proxy: str | None
) -> None:
    environment(given)
    name, found = proxy_for(httpx.URL(url))
    assert found == proxy
    assert name in (*given, None)


@pytest.mark.parametrize(
    ("no_proxy", "url", "exempt"),
    [
        ("*", "https://api.test", True),
        ("api.test", "https://api.test", True),
        ("API.test", "https://api.TEST", True),
        (".test", "https://api.test", True),
        ("*.test", "https://api.test", True),
        ("test", "https://api.test", True),
        ("pi.test", "https://api.test", False),
        ("other.test", "https://api.test", False),
        ("other.test, api.test", "https://api.test", True),
        ("other.test api.test", "https://api.test", True),
        ("api.test:443", "https://api.test", True),
        ("api.test:8443", "https://api.test", False),
        ("api.test:8443", "https://api.test:8443", True),
        ("10.0.0.7", "https://10.0.0.7", True),
        ("10.0.0.0/8", "https://10.1.2.3", True),
        ("10.0.0.1/8", "https://10.1.2.3", True),
        ("10.0.0.0/8", "https://11.1.2.3", False),
        ("10.0.0.0/8", "https://api.test", False),
        ("[::1]", "https://[::1]", True),
        ("::1", "https://[::1]", True),
        ("[fd00::7]:443", "https://[fd00::7]", True),
        ("[fd00::7]:444", "https://[fd00::7]", False),
        ("fd00::/8", "https://[fd12::3]", True),
        ("fd00::/8", "https://[fe80::3]", False),
        ("fd00::/8", "https://10.0.0.1", False),
        ("10.0.0.0/99, ://, ..., [, ,", "https://10.0.0.1", False),
    ],
)
def test_who_is_exempt(environment: Set, no_proxy: str, url: str, exempt: bool) -> None:
    environment({"HTTPS_PROXY": PROXY, "NO_PROXY": no_proxy})
    assert (proxy_for(httpx.URL(url))[1] is None) is exempt
    PlatformClient(url, "key").close()  # whatever is on that list


# --- through it --------------------------------------------------------------------------------


@pytest.fixture
def proxy() -> Iterator[tuple[str, list[str]]]:
    """A proxy that answers for everybody, and what it was asked for."""
    asked: list[str] = []

    class Proxy(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            asked.append(f"{self.command} {self.path}")
            body = b'{"id": 7}'
            self.send_response(200)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def do_CONNECT(self) -> None:
            asked.append(f"{self.command} {self.path}")
            self.send_error(403)

        def log_message(self, *args: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Proxy)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}", asked
    server.shutdown()
    server.server_close()
    thread.join()


def test_requests_go_through_it(environment: Set, proxy: tuple[str, list[str]]) -> None:
    url, asked = proxy
    environment({"HTTP_PROXY": url})
    with closing(PlatformClient("http://civis.test/prefix/api", "key")) as client:
        assert client.me() == 7
    assert asked == ["GET http://civis.test/prefix/api/users/me"]


def test_so_do_those_with_tls(environment: Set, proxy: tuple[str, list[str]]) -> None:
    url, asked = proxy
    environment({"ALL_PROXY": url})
    with (
        closing(PlatformClient("https://civis.test", "key", patience=0)) as client,
        pytest.raises(PlatformError, match="403"),
    ):
        client.me()
    assert set(asked) == {"CONNECT civis.test:443"}


def test_one_that_does_not_answer_is_named(environment: Set) -> None:
    environment({"HTTPS_PROXY": "user:secret@127.0.0.1:1"})
    with (
        closing(PlatformClient("https://civis.test", "key", patience=0)) as client,
        pytest.raises(PlatformError, match=r"refused; by HTTPS_PROXY=http://127.0.0.1:1\)"),
    ):
        client.me()


@pytest.fixture
def dripping() -> Iterator[str]:
    """The address of a server whose answers have a head that comes byte by byte."""

    class Dripping(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.wfile.write(b"HTTP/1.1 200 OK\r\nX-Long: ")
            with contextlib.suppress(OSError):  # the client has hung up
                for _ in range(400):
                    self.wfile.write(b"x")
                    time.sleep(0.05)
                self.wfile.write(b'\r\nContent-Length: 8\r\n\r\n{"id":7}')

        def log_message(self, *args: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Dripping)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()
    thread.join()


def test_a_head_that_drips_is_not_waited_for(dripping: str) -> None:
    with (
        httpx.Client(transport=Routes(direct=True, seconds=0.5)) as client,
        pytest.raises(httpx.ReadTimeout),
    ):
        client.get(dripping)


# --- what cannot be done -----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ({"ALL_PROXY": "socks4://127.0.0.1:1"}, "ALL_PROXY=socks4://127.0.0.1:1 cannot be used"),
        ({"all_proxy": "socks://127.0.0.1:1"}, "all_proxy=socks://127.0.0.1:1 cannot be used"),
        ({"HTTPS_PROXY": "http://a:b:c"}, "HTTPS_PROXY="),
        ({"HTTPS_PROXY": "ftp://user:secret@proxy.test"}, "HTTPS_PROXY=ftp://proxy.test"),
        *[
            (
                {"HTTPS_PROXY": f"http://user:sec{odd}ret@proxy.test:1"},
                "proxy.test:1 cannot be used",
            )
            for odd in "/?#\n"
        ],
        ({"HTTPS_PROXY": "http://"}, "HTTPS_PROXY=http:// cannot be used: it names no host"),
        *[({name: "/nowhere/ca.pem"}, f"{name}=/nowhere/ca.pem cannot") for name in CERTIFICATES],
        ({"SSL_CERT_FILE": __file__}, f"SSL_CERT_FILE={__file__} cannot be used"),
    ],
)
def test_what_cannot_be_done_is_named(environment: Set, given: dict[str, str], says: str) -> None:
    environment(given)
    with pytest.raises(PlatformError) as caught:
        PlatformClient("https://civis.test", "key")
    assert says in str(caught.value)
    assert "sec" not in str(caught.value)
    assert not caught.value.sent


def test_socks_needs_a_package(environment: Set, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "socksio", None)
    environment({"ALL_PROXY": "socks5h://user:secret@127.0.0.1:1"})
    says = r"^ALL_PROXY=socks5h://127.0.0.1:1 needs another package: pip install 'httpx\[socks\]'$"
    with pytest.raises(PlatformError, match=says):
        PlatformClient("https://civis.test", "key")


def test_nothing_of_it_matters_on_this_machine(environment: Set) -> None:
    environment(dict.fromkeys(CERTIFICATES, "/nowhere/ca.pem"))
    environment(
        {"ALL_PROXY": "socks5://127.0.0.1:1", "HTTP_PROXY": "::", "NO_PROXY": "[::1],fd00::/8"}
    )
    with ContainerPoolExecutor(1, platform="local") as executor:
        assert executor.submit(abs, -1).result(60) == 1


# --- TLS ---------------------------------------------------------------------------------------


@pytest.fixture
def one_authority(tmp_path: Path) -> Path:
    path = tmp_path / "ca.pem"
    end = "-----END CERTIFICATE-----\n"
    path.write_text(Path(certifi.where()).read_text("utf-8").partition(end)[0] + end, "utf-8")
    return path


@pytest.mark.parametrize("name", ["REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE", "SSL_CERT_FILE"])
def test_private_authorities(environment: Set, one_authority: Path, name: str) -> None:
    environment({name: str(one_authority)})
    assert len(routes._tls().get_ca_certs()) == 1


def test_the_one_of_requests_comes_first(environment: Set, one_authority: Path) -> None:
    environment({"REQUESTS_CA_BUNDLE": str(one_authority), "SSL_CERT_FILE": "/nowhere/ca.pem"})
    assert len(routes._tls().get_ca_certs()) == 1


@pytest.mark.parametrize("name", ["REQUESTS_CA_BUNDLE", "SSL_CERT_DIR"])
def test_a_folder_of_authorities(environment: Set, one_authority: Path, name: str) -> None:
    environment({name: str(one_authority.parent)})
    assert routes._tls().get_ca_certs() == []  # they are read when they are needed


def test_several_folders_of_authorities(
    environment: Set, one_authority: Path, tmp_path: Path
) -> None:
    folders = tmp_path / "missing", one_authority.parent
    environment({"SSL_CERT_DIR": os.pathsep.join(map(str, folders))})
    assert routes._tls().get_ca_certs() == []


def test_the_usual_authorities(environment: Set) -> None:
    assert len(routes._tls().get_ca_certs()) > 50


def test_tls_is_set_up_for_who_uses_it(environment: Set, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object, **__: object) -> None:
        raise AssertionError("it reads certificates")

    monkeypatch.setattr(ssl, "create_default_context", fail)
    environment({"HTTP_PROXY": PROXY})
    Routes().way(httpx.URL("http://civis.test"))
    PlatformClient("http://127.0.0.1:9", "key").close()
    with pytest.raises(AssertionError):
        Routes().way(httpx.URL("https://civis.test"))


# --- the end -----------------------------------------------------------------------------------


def failure_of_closed(
    address: tuple[str, int], begun: threading.Event, closed: threading.Event
) -> BaseException:
    """What a request of another thread fails with if its Routes are closed once it has begun."""
    found: list[BaseException] = []
    ways = Routes(direct=True)

    def ask() -> None:
        try:
            ways.handle_request(httpx.Request("GET", "http://{}:{}/".format(*address)))
        except httpx.TransportError as error:
            found.append(error)

    thread = threading.Thread(target=ask)
    thread.start()
    assert begun.wait(30)
    ways.close()
    closed.set()
    thread.join(30)
    assert not thread.is_alive()
    return found[0]


def test_closing_wakes_who_waits_for_an_answer() -> None:
    begun = threading.Event()
    with socket.create_server(("127.0.0.1", 0)) as server:

        def accept() -> None:
            with server.accept()[0] as peer:
                peer.recv(1000)
                time.sleep(0.2)  # until the other thread reads; nothing tells when
                begun.set()
                assert peer.recv(1000) == b""  # until it is closed

        thread = threading.Thread(target=accept)
        thread.start()
        error = failure_of_closed(server.getsockname(), begun, threading.Event())
        thread.join(30)
        assert not thread.is_alive()
    assert isinstance(error, (httpx.ReadError, httpx.RemoteProtocolError))


def test_a_connection_that_is_made_while_the_client_closes_is_closed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    begun, go_on = threading.Event(), threading.Event()
    made: list[socket.socket] = []
    connect = socket.create_connection

    def slow(*args: object, **options: object) -> socket.socket:
        made.append(connect(*args, **options))  # type: ignore[arg-type]
        begun.set()
        assert go_on.wait(30)
        return made[0]

    monkeypatch.setattr(socket, "create_connection", slow)
    with socket.create_server(("127.0.0.1", 0)) as server:
        error = failure_of_closed(server.getsockname(), begun, go_on)
    assert isinstance(error, httpx.ConnectError)
    assert made[0].fileno() == -1
