"""By which way requests leave this machine: directly or through a proxy, and whom TLS believes.

The environment says, as it does for `requests`, which the civis package uses: ``HTTPS_PROXY``,
``HTTP_PROXY``, ``ALL_PROXY``, ``NO_PROXY``; ``REQUESTS_CA_BUNDLE``, ``CURL_CA_BUNDLE``; and
``SSL_CERT_FILE``, ``SSL_CERT_DIR``. A local platform may have told its certificates:
then these count there, and nothing else. What it says and cannot be done is an error that names the
variable; and nothing is set up before a request needs it.

A connection also has a time limit for a request until the head of its answer is there. (Those
of httpx are for each step, and a server that sends a byte now and then would never be late.)

This module must not know what a request is about.
"""

from __future__ import annotations

import contextlib
import functools
import ipaddress
import math
import os
import socket
import ssl
import time
from collections.abc import Iterable, Iterator
from contextvars import ContextVar
from urllib.request import getproxies, proxy_bypass

import httpcore
import httpx

from .._exceptions import PlatformError
from .discreet import without_links

#: What names certificates to believe, the first one that is set.
CERTIFICATES = ("REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE", "SSL_CERT_FILE", "SSL_CERT_DIR")


#: When it must be there, by the monotonic clock.
_due: ContextVar[float] = ContextVar("_due", default=math.inf)


class Routes(httpx.BaseTransport):
    """Sends each request the way that the environment says.

    Args:
        direct: without any proxy.
        only: a host, and the certificates (as PEM) that alone are believed there; or None.
        seconds: until the head of an answer must be there.
    """

    def __init__(
        self,
        *,
        direct: bool = False,
        only: tuple[str, str | None] = ("", None),
        seconds: float = 120.0,
    ) -> None:
        self._direct = direct
        self._seconds = seconds
        self._only = only
        self._ways: dict[tuple[bool, str | None, str | None], httpx.HTTPTransport] = {}
        self._network = _Network()

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        """As of any transport.

        Raises:
            PlatformError: what the environment says cannot be done.
            httpx.TransportError: as of any transport; it names the proxy, if there is one.
        """
        way = self.way(request.url)
        length = request.headers.get("Content-Length", "0")
        # It gets one second more for each 1,000 bytes of its own.
        due = _due.set(time.monotonic() + self._seconds + int(length) / 1000)
        try:
            return way.handle_request(request)
        except httpx.TransportError as error:
            name, proxy = self._proxy(request.url)
            if proxy is not None:
                error.args = (f"{error}; by {name}={_shown(proxy)}",)
            raise
        finally:
            _due.reset(due)

    def way(self, url: httpx.URL) -> httpx.HTTPTransport:
        """The connections that lead to this address; PlatformError as above."""
        name, proxy = self._proxy(url)
        pem = self._only[1] if url.host == self._only[0] else None
        key = url.scheme == "https", proxy, pem
        if key not in self._ways:
            # Two threads may both come here: the first one counts.
            self._ways.setdefault(key, self._transport(key[0], name, proxy, pem))
        return self._ways[key]

    def _proxy(self, url: httpx.URL) -> tuple[str | None, str | None]:
        return (None, None) if self._direct else proxy_for(url)

    def _transport(
        self, tls: bool, name: str | None, proxy: str | None, pem: str | None
    ) -> httpx.HTTPTransport:
        # Without TLS, a context without certificates: httpx would read all for its own.
        verify = _nobody() if not tls else _tls() if pem is None else _pinned(pem)
        with _named(f"{name}={_shown(proxy or '')}", secret="@" in (proxy or "")):
            through = None if proxy is None else httpx.Proxy(proxy)
            if through is not None and not through.url.host:
                raise ValueError("it names no host")
            transport = httpx.HTTPTransport(verify=verify, trust_env=False, proxy=through)
        transport._pool._network_backend = self._network  # httpx has no public name for it
        return transport

    def close(self) -> None:
        """Close all connections, also those that are being made; what waits for an answer fails."""
        self._network.close()
        for way in list(self._ways.values()):
            way.close()


def proxy_for(url: httpx.URL) -> tuple[str | None, str | None]:
    """The proxy that leads to this address, and the variable that names it; twice None if none."""
    proxies = getproxies()  # of the environment, or else of the system
    scheme = url.scheme if url.scheme in proxies else "all"
    proxy = proxies.get(scheme)
    if not proxy or _is_exempt(proxies.get("no", ""), url) or proxy_bypass(url.host):
        return None, None
    names = (f"{scheme}_proxy", f"{scheme}_PROXY".upper())
    name = next((name for name in names if os.environ.get(name)), "the system's proxy settings")
    return name, proxy if "://" in proxy else f"http://{proxy}"


def _is_exempt(no_proxy: str, url: httpx.URL) -> bool:
    """Whether the list names this address: by name, domain, IP address or network; ``*`` is all."""
    port = url.port or {"http": 80, "https": 443}.get(url.scheme)
    for entry in no_proxy.lower().replace(",", " ").split():
        name, _, ending = entry.rpartition(":")
        if not ending.isdigit() or (":" in name and not name.endswith("]")):  # no port, or IPv6
            name, ending = entry, ""
        if name == "*" or ((not ending or int(ending) == port) and _names(name, url.host)):
            return True
    return False


def _names(name: str, host: str) -> bool:
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        domain = name.removeprefix("*").removeprefix(".")
        return bool(domain) and f".{host.lower()}".endswith(f".{domain}")
    try:
        return address in ipaddress.ip_network(name.replace("[", "").replace("]", ""), strict=False)
    except ValueError:
        return False


class _Network(httpcore.NetworkBackend):
    """Connections that end when the head of an answer is due, or when `close` is called.

    A pool of httpcore that is closed forgets a connection that is being made: whoever makes it
    closes it here.
    """

    def __init__(self) -> None:
        self._open: set[_Connection] = set()
        self._closed = False

    def close(self) -> None:
        """Wake the threads that wait for an answer; a closed socket alone would not."""
        self._closed = True
        for connection in list(self._open):
            connection.end()

    def note(self, stream: httpcore.NetworkStream) -> _Connection:
        """A stream that was made just now; httpcore.ConnectError after `close`."""
        connection = _Connection(self, stream)
        self._open.add(connection)
        if self._closed:
            connection.close()
            raise httpcore.ConnectError("the client is closed")
        return connection

    def forget(self, connection: _Connection) -> None:
        """It is closed."""
        self._open.discard(connection)

    def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,
        local_address: str | None = None,
        socket_options: Iterable[httpcore.SOCKET_OPTION] | None = None,
    ) -> httpcore.NetworkStream:
        """As of any network."""
        below = httpcore.SyncBackend()
        return self.note(below.connect_tcp(host, port, timeout, local_address, socket_options))


class _Connection(httpcore.NetworkStream):
    def __init__(self, network: _Network, below: httpcore.NetworkStream) -> None:
        self._network = network
        self._below = below

    def read(self, max_bytes: int, timeout: float | None = None) -> bytes:
        return self._below.read(max_bytes, _left(timeout))

    def write(self, buffer: bytes, timeout: float | None = None) -> None:
        self._below.write(buffer, _left(timeout))

    def close(self) -> None:
        self._network.forget(self)
        self._below.close()

    def end(self) -> None:
        """Whoever reads from it or writes to it fails now, or reads the end."""
        below = self.get_extra_info("socket")
        assert isinstance(below, socket.socket)
        with contextlib.suppress(OSError):  # it has ended
            # Not the method of a socket with TLS, which from then on reads what is not encrypted.
            socket.socket.shutdown(below, socket.SHUT_RDWR)

    def start_tls(
        self,
        ssl_context: ssl.SSLContext,
        server_hostname: str | None = None,
        timeout: float | None = None,
    ) -> httpcore.NetworkStream:
        self._network.forget(self)
        secure = self._below.start_tls(ssl_context, server_hostname, _left(timeout))
        return self._network.note(secure)

    def get_extra_info(self, info: str) -> object:
        return self._below.get_extra_info(info)


def _left(timeout: float | None) -> float | None:
    """Seconds for the next step; httpcore.ReadTimeout if there are none."""
    left = _due.get() - time.monotonic()
    if left <= 0:
        raise httpcore.ReadTimeout("the head of the answer took too long")
    if left == math.inf:
        return timeout
    return left if timeout is None else min(timeout, left)


def _shown(proxy: str) -> str:
    """The address of a proxy without user name and password, wherever these may end."""
    scheme, mark, rest = proxy.partition("://")
    return without_links(f"{scheme}{mark}{rest.rpartition('@')[2]}")


@contextlib.contextmanager
def _named(setting: str, secret: bool = False) -> Iterator[None]:
    """Errors name what the environment says. If that has a `secret`, they quote nothing of it."""
    try:
        yield
    except ImportError as error:
        said = f"{setting} needs another package: pip install 'httpx[socks]'"
        raise PlatformError(said, sent=False) from error
    except (UnicodeError, httpx.InvalidURL) as error:
        hint = "it is no URL; in a user name or password, all but letters and digits must be"
        why = f"{hint} percent-encoded" if secret else without_links(str(error))
        raise PlatformError(f"{setting} cannot be used: {why}", sent=False) from None
    except (OSError, ValueError) as error:
        said = f"{setting} cannot be used: {without_links(str(error))}"
        raise PlatformError(said, sent=False) from None


def _tls() -> ssl.SSLContext:
    for name in CERTIFICATES:
        if value := os.environ.get(name):
            return _believing(name, value)
    return _believing("", "")


@functools.cache
def _believing(name: str, path: str) -> ssl.SSLContext:
    """One for all clients: reading the certificates takes longer than all else in making one."""
    if not path:
        return httpx.create_ssl_context(trust_env=False)
    with _named(f"{name}={path}"):
        if os.path.isdir(path) or (name == "SSL_CERT_DIR" and os.pathsep in path):  # several
            return ssl.create_default_context(capath=path)
        return ssl.create_default_context(cafile=path)


@functools.cache
def _pinned(pem: str) -> ssl.SSLContext:
    """Each of these certificates is believed by itself: what signed it need not be there."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    try:
        context.load_verify_locations(cadata=pem)
    except (ssl.SSLError, ValueError) as error:
        raise PlatformError(
            "the platform's certificates (its ca_certs, or CIVIS_FUTURES_CA_CERTS) cannot be used: "
            f"what is needed is the text of a PEM file, and not its path ({error})",
            sent=False,
        ) from None
    context.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN
    return context


@functools.cache
def _nobody() -> ssl.SSLContext:
    return ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
