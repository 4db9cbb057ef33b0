"""A network with nothing in it but the platform: seen from within, without containers."""

from __future__ import annotations

import contextlib
import ctypes
import os
import socket
import sys
import threading

import pytest

from civis_futures.local._engines.enclosure import Enclosure

pytestmark = pytest.mark.skipif(
    not sys.platform.startswith("linux") or os.geteuid() != 0, reason="it needs Linux and root"
)
CLONE_NEWNET = 0x40000000


def within(path, look):
    """What a function returns in there; in a thread, which does not come back."""
    found = []

    def enter():
        descriptor = os.open(path, os.O_RDONLY)
        assert ctypes.CDLL(None).setns(descriptor, CLONE_NEWNET) == 0
        os.close(descriptor)
        found.append(look())

    thread = threading.Thread(target=enter)
    thread.start()
    thread.join()
    return found[0]


def test_the_platform_is_there_by_its_own_addresses_and_nothing_else():
    with contextlib.ExitStack() as ending, socket.create_server(("127.0.0.1", 0)) as other:
        enclosure = Enclosure([("127.0.0.1", 9), ("10.11.12.13", 9)])
        ending.callback(enclosure.close)
        for listener in enclosure.sockets:
            ending.enter_context(listener)

        def look():
            for listener in enclosure.sockets:
                socket.create_connection(listener.getsockname(), timeout=5).close()
            with pytest.raises(ConnectionRefusedError):
                socket.create_connection(other.getsockname(), timeout=5)
            with pytest.raises(OSError, match="unreachable"):
                socket.create_connection(("192.0.2.1", 9), timeout=5)
            return [name for _, name in socket.if_nameindex()]

        assert within(enclosure.path, look) == ["lo"]


def test_an_address_that_cannot_be_is_told():
    with pytest.raises(OSError):
        Enclosure([("127.0.0.1", 9), ("127.0.0.1", 9)])


def test_two_ports_of_one_address_as_of_a_platform_that_is_advertised():
    with contextlib.ExitStack() as ending:
        enclosure = Enclosure([("10.11.12.13", 9), ("10.11.12.13", 10)])
        ending.callback(enclosure.close)
        for listener in enclosure.sockets:
            ending.enter_context(listener)
        names = [listener.getsockname() for listener in enclosure.sockets]
        assert names == [("10.11.12.13", 9), ("10.11.12.13", 10)]

        def look():
            for name in names:
                socket.create_connection(name, timeout=5).close()
            return True

        assert within(enclosure.path, look)


def test_an_ipv6_address_is_refused():
    with pytest.raises(OSError, match="::1 is no IPv4 address"):
        Enclosure([("::1", 9, 0, 0)])
