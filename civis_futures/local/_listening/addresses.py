"""The sockets that the platform listens on, and the names by which it may be asked for there.

Loopback, or the one address that was named: never all of the machine's. It knows no HTTP but the
header that says whom a request is for.
"""

from __future__ import annotations

import contextlib
import errno
import ipaddress
import re
import socket
from dataclasses import dataclass

from .._settings import Settings, StartError

LOOPBACK = ("127.0.0.1", "localhost", "[::1]")
#: A name in the letters of the DNS, or an address of IPv4.
_NAME = r"[A-Za-z0-9_][A-Za-z0-9_-]*(\.[A-Za-z0-9_-]+)*"


@dataclass(frozen=True)
class Listening:
    """Two open sockets, the API's and the file links'; how both are called in addresses."""

    sockets: list[socket.socket]
    names: tuple[str, ...]  # as in a URL; the first one is the one to tell
    api_host: str  # host:port
    blob_host: str

    def is_for_us(self, host: str) -> bool:
        """Whether a request with this header `Host` means us.

        A page in a browser may reach us by a name of its own (DNS rebinding).
        """
        host = host.lower()
        return host in self.names or host.rsplit(":", 1)[0] in self.names


def unclear(settings: Settings) -> str:
    """What is wrong with how others are to reach us, before anything is tried; "" if nothing is."""
    host, own = settings.advertise, (settings.certificate, settings.private_key)
    if host is None:
        if settings.plain_http or any(own):
            return "certificate, private_key and plain_http are for a platform that you advertise"
        return ""
    if not (isinstance(host, str) and (re.fullmatch(_NAME, host) or _is_ipv6(host))):
        return (
            "advertise must be a name or an IP address of this machine, without scheme, port or "
            f"path, not {host!r}"
        )
    if settings.plain_http and any(own):
        return "plain_http needs no certificate: choose one of them"
    if any(own) and not all(own):
        return "certificate and private_key go together (they may be the same file)"
    return ""


def _is_ipv6(host: str) -> bool:
    """Whether it is an address of IPv6 that means the same on each link."""
    try:
        return ipaddress.IPv6Address(host).scope_id is None
    except ValueError:
        return False


def listen(advertise: str | None, port: int) -> Listening:
    """Listen at `port`, and at a free one for file links: on loopback, or where we are to be found.

    Raises:
        StartError: it cannot be; the message says what to do.
    """
    host = LOOPBACK[0] if advertise is None else advertise.lower()
    family, address = _resolved(host)
    with contextlib.ExitStack() as opened:
        wanted = (port, 0)
        sockets = [opened.enter_context(_listener(family, address, each)) for each in wanted]
        opened.pop_all()
    names = LOOPBACK if advertise is None else (_in_url(host), _in_url(address))
    api, blob = (f"{names[0]}:{listener.getsockname()[1]}" for listener in sockets)
    return Listening(sockets, names, api, blob)


def _in_url(host: str) -> str:
    return f"[{host}]" if ":" in host else host


def _resolved(host: str) -> tuple[socket.AddressFamily, str]:
    """The one address that a host has here; of several, one of IPv4."""
    try:
        found = socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)
    except OSError as error:
        raise StartError(
            f"this machine does not know the name {host} ({error.strerror}): advertise a name or "
            "an IP address by which the other machines find this one"
        ) from None
    family, _, _, _, where = min(found, key=lambda each: each[0] != socket.AF_INET)
    address = str(where[0])
    if ipaddress.ip_address(address).is_unspecified:
        raise StartError(f"advertise the address that others ask for: nobody asks for {address}")
    if ipaddress.ip_address(address).is_loopback and host not in (address, "localhost"):
        raise StartError(
            f"on this machine {host} is {address}, which others cannot reach: advertise its IP "
            "address in their network (`ip address` or `ifconfig` lists them)"
        )
    return family, address


def _listener(family: socket.AddressFamily, address: str, port: int) -> socket.socket:
    # With the protocol named, or asyncio leaves Nagle's delay on: 40 ms for each answer.
    listener = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((address, port))
        listener.listen(512)
    except (OSError, OverflowError) as error:
        listener.close()
        raise StartError(_told(error, address, port)) from None
    return listener


def _told(error: Exception, address: str, port: int) -> str:
    remedy = {
        errno.EADDRINUSE: "another program has it; choose another port, or 0 for a free one",
        errno.EADDRNOTAVAIL: "this machine does not have this address; advertise one that it has "
        "(`ip address` or `ifconfig` lists them)",
        errno.EACCES: "this user may not; choose a port of 1024 or more, or 0 for a free one",
    }.get(getattr(error, "errno", None) or 0, str(error))
    where = f"port {port} of {address}" if port else address
    return f"cannot listen on {where}: {remedy}"
