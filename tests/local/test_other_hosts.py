"""Another host for real: a network namespace with an address of its own, and nothing in common.

Its loopback is down, so whatever is baked for 127.0.0.1 leads nowhere there. Needs root, and the
command `ip` of iproute2.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from contextlib import closing
from types import SimpleNamespace

import pytest
import trustme
from cases import mostly_repeats
from tasks import by_value

from civis_futures import BrokenContainerPool, Container, ContainerPoolExecutor, PlatformError
from civis_futures._api.client import PlatformClient, access
from civis_futures.local import LocalPlatform

by_value(__name__)


class Host:
    """The other host, at the other end of a wire."""

    def __init__(self, name, here, there):
        self.name, self.here, self.there = name, here, there

    def run(self, command, **environment):
        """What a command there prints, and its exit code."""
        done = subprocess.run(
            ["ip", "netns", "exec", self.name, *command],
            env={**os.environ, **environment}, capture_output=True, text=True, timeout=100,
        )  # fmt: skip
        return done.returncode, done.stdout + done.stderr


def _ip(*words):
    return subprocess.run(["ip", *words], capture_output=True, text=True, timeout=20)


@pytest.fixture(scope="module")
def host(request):
    """The other host, with addresses of IPv4 or IPv6."""
    if sys.platform != "linux" or os.geteuid() != 0 or not shutil.which("ip"):
        pytest.skip("only root can make another host, with `ip` of iproute2")
    number = os.getpid() % 250 + 1
    name = f"civis-{os.getpid()}-{request.param}"
    wire = f"cv{request.param}-{os.getpid()}"[:14]
    base, bits = (f"10.213.{number}.", 24) if request.param == 4 else (f"fd13:{number}::", 64)
    host = Host(name, f"{base}1", f"{base}2")
    if _ip("netns", "add", name).returncode:
        pytest.skip("this root may not make network namespaces")
    try:
        flags = ("nodad",) if request.param == 6 else ()
        for words in (
            ("link", "add", wire, "type", "veth", "peer", "name", "wire", "netns", name),
            ("address", "add", f"{host.here}/{bits}", "dev", wire, *flags),
            ("link", "set", wire, "up"),
            ("-n", name, "address", "add", f"{host.there}/{bits}", "dev", "wire", *flags),
            ("-n", name, "link", "set", "wire", "up"),
        ):
            done = _ip(*words)
            if done.returncode:
                pytest.skip(f"there is no wire to another host here: {done.stderr.strip()}")
        yield host
    finally:
        _ip("link", "delete", wire)
        _ip("netns", "delete", name)


@pytest.fixture
def there(host, tmp_path):
    """there(...) -> what is run before a worker, so that its `python3` runs on the other host."""

    def there(first=""):
        path = tmp_path / "python3"
        path.write_text(f'#!/bin/sh\nexec ip netns exec {host.name} {sys.executable} "$@"\n')
        path.chmod(0o755)
        return Container(setup_cmd=f"export PATH={tmp_path}:$PATH\n{first}")

    return there


def where_am_i():
    said = subprocess.run(["ip", "-j", "address", "show", "scope", "global"], capture_output=True)
    links = json.loads(said.stdout)
    found = [each for link in links for each in link.get("addr_info", ())]
    return [each["local"] for each in found if each]


CLIENT = """
from civis_futures import ContainerPoolExecutor
if __name__ == "__main__":
    with ContainerPoolExecutor(1) as executor:
        print(executor.submit(pow, 3, 4).result(60))
"""


@pytest.mark.parametrize("host", mostly_repeats([4, 6], 4), indirect=True)
def test_work_on_another_host(host, there):
    data = os.urandom(200_000)  # as a File, in both directions
    with LocalPlatform(advertise=host.here) as platform:
        shown = f"[{host.here}]" if ":" in host.here else host.here
        assert platform.url.startswith(f"https://{shown}:")
        with ContainerPoolExecutor(1, platform=platform, container=there()) as executor:
            assert executor.submit(where_am_i).result(60) == [host.there]
            assert executor.submit(bytes.__add__, data, data).result(60) == data + data
        # A client over there, with what the command prints.
        way = {
            "CIVIS_API_ENDPOINT": platform.url,
            "CIVIS_API_KEY": platform.api_key,
            "CIVIS_FUTURES_CA_CERTS": platform.ca_certs,
        }
        assert host.run([sys.executable, "-c", CLIENT], **way) == (0, "81\n")


@pytest.mark.parametrize("host", [4], ids=["IPv4"], indirect=True)
def test_another_host_with_the_wrong_certificate_is_refused(host, there):
    wrong = trustme.CA().cert_pem.bytes().decode()
    with LocalPlatform(advertise=host.here) as platform:
        way = {"CIVIS_API_ENDPOINT": platform.url, "CIVIS_API_KEY": platform.api_key}
        for certificates in (wrong, ""):
            code, said = host.run(
                [sys.executable, "-c", CLIENT], **way, CIVIS_FUTURES_CA_CERTS=certificates
            )
            assert code != 0
            assert "CERTIFICATE_VERIFY_FAILED" in said
            assert platform.api_key not in said
        assert not platform.stats().requests  # nobody was heard
        change = f"export CIVIS_FUTURES_CA_CERTS='{wrong}'"
        with ContainerPoolExecutor(1, platform=platform, container=there(change)) as executor:
            error = executor.submit(abs, -1).exception(100)
        assert isinstance(error, BrokenContainerPool)
        assert "CERTIFICATE_VERIFY_FAILED" in str(error)
        assert platform.stats().count(origin="worker") == 0


@pytest.mark.parametrize("host", [4], ids=["IPv4"], indirect=True)
def test_loopback_is_for_this_host_alone(host, there):
    """A platform that is not advertised is as unreachable from there as ever."""
    look = (
        "import socket, sys; s = socket.socket(); s.settimeout(5); "
        "print(s.connect_ex((sys.argv[1], int(sys.argv[2]))))"
    )
    with LocalPlatform() as platform:
        assert platform.url.startswith("http://127.0.0.1:")
        port = platform.url.rpartition(":")[2]
        for address in (host.here, "127.0.0.1"):
            _, said = host.run([sys.executable, "-c", look, address, port])
            assert said.strip() != "0", address
    with LocalPlatform(advertise=host.here) as platform:  # and so that the look itself works
        port = platform.url.rpartition(":")[2]
        assert host.run([sys.executable, "-c", look, host.here, port]) == (0, "0\n")
        own = SimpleNamespace(
            url=f"https://127.0.0.1:{port}", api_key=platform.api_key, ca_certs=platform.ca_certs
        )
        client = PlatformClient(*access(own), patience=1)
        # Refused, unless another test's platform has this port on loopback.
        with closing(client), pytest.raises(PlatformError, match="no answer from"):
            client.me()
