"""A network in which there is nothing but the platform (Linux, root): for containers.

A network namespace with a loopback of its own, on which sockets of this process listen: what runs
in it reaches them by the addresses that they have here, and nothing else. A thread goes there to
make it, since a namespace is a thread's own, and ends.
"""

from __future__ import annotations

import ctypes
import errno
import fcntl
import os
import socket
import struct
import threading
from collections.abc import Iterable
from typing import Any

CLONE_NEWNET = 0x40000000
SIOCSIFADDR, SIOCSIFFLAGS, SIOCGIFFLAGS, IFF_UP = 0x8916, 0x8914, 0x8913, 0x1


class Enclosure:
    """One such network, as long as it is not closed."""

    def __init__(self, addresses: Iterable[tuple[Any, ...]]) -> None:
        """Make it, with sockets that listen where those with these names do, by IPv4; raises
        OSError.
        """
        self.sockets: list[socket.socket] = []
        self._descriptor = -1
        self._error: OSError | None = None
        maker = threading.Thread(
            target=self._make, args=(tuple(addresses),), name="civis-local-enclosure"
        )
        maker.start()
        maker.join()
        if self._error is not None:
            for listener in self.sockets:
                listener.close()
            self.close()
            raise self._error

    @property
    def path(self) -> str:
        """Return a path by which other processes of this user find the namespace."""
        return f"/proc/{os.getpid()}/fd/{self._descriptor}"

    def _make(self, addresses: Iterable[tuple[Any, ...]]) -> None:
        try:
            if ctypes.CDLL(None, use_errno=True).unshare(CLONE_NEWNET) != 0:
                number = ctypes.get_errno()
                raise OSError(number, os.strerror(number))
            self._descriptor = os.open("/proc/thread-self/ns/net", os.O_RDONLY | os.O_CLOEXEC)
            known: set[str] = set()
            for host, port, *more in addresses:
                if more:
                    raise OSError(errno.EAFNOSUPPORT, f"{host} is no IPv4 address")
                listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP)
                self.sockets.append(listener)
                _turn_on(listener)
                if not host.startswith("127.") and host not in known:
                    known.add(host)
                    _add_address(listener, len(known), host)
                listener.bind((host, port))
                listener.listen(512)
        except OSError as error:
            self._error = error

    def close(self) -> None:
        """Let it go, with who is left in it; the sockets are closed by who serves on them."""
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1


def _turn_on(within: socket.socket) -> None:
    request = struct.pack("16sh22x", b"lo", 0)
    flags = struct.unpack("16sh22x", fcntl.ioctl(within, SIOCGIFFLAGS, request))[1]
    fcntl.ioctl(within, SIOCSIFFLAGS, struct.pack("16sh22x", b"lo", flags | IFF_UP))


def _add_address(within: socket.socket, number: int, host: str) -> None:
    """Give loopback one more address, by which this machine is known outside."""
    name, family = f"lo:{number}".encode(), socket.AF_INET
    request = struct.pack("16sHH4s8x", name, family, 0, socket.inet_aton(host))
    fcntl.ioctl(within, SIOCSIFADDR, request)
