"""A platform that other machines may reach: at one address, over TLS, known by its certificate.

127.0.0.2 stands for the address in their network: on Linux it is one of its own, and needs no
rights. Real other hosts are in `test_other_hosts`.
"""

from __future__ import annotations

import datetime
import importlib.util
import os
import shutil
import socket
import ssl
import subprocess
import sys
import tempfile
from contextlib import closing
from pathlib import Path
from urllib.parse import urlsplit

import httpx
import pytest
import trustme
from cases import mostly_repeats
from tasks import by_value

from civis_futures import BrokenContainerPool, Container, ContainerPoolExecutor, PlatformError
from civis_futures._api.client import PlatformClient, access
from civis_futures.local import LocalPlatform
from civis_futures.local._listening.certificates import believing, identity
from civis_futures.local._settings import Settings, StartError
from civis_futures.testing import Fault
from civis_futures.worker._http import Http, UnreachableError
from civis_futures.worker._http import believing as believing_worker

by_value(__name__)

HERE = "127.0.0.2"
pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="127.0.0.2 is Linux's")


@pytest.fixture(scope="module")
def served():
    with LocalPlatform(advertise=HERE) as platform:
        yield platform


def write(path, text, mode=0o600):
    path.write_bytes(text)
    path.chmod(mode)
    return path


@pytest.fixture(scope="module")
def authority():
    return trustme.CA()


@pytest.fixture
def issued(authority, tmp_path):
    """issued(names) -> the options for a certificate of the user's, for these names."""

    def issued(*names, **options):
        leaf = authority.issue_cert(*names, **options)
        chain = b"".join(pem.bytes() for pem in leaf.cert_chain_pems)
        return {
            "certificate": write(tmp_path / f"{names[0]}.pem", chain),
            "private_key": write(tmp_path / f"{names[0]}.key", leaf.private_key_pem.bytes()),
        }

    return issued


def status(platform, host=None, **options):
    """What a request for `host` is answered with."""
    headers = {"Authorization": f"Bearer {platform.api_key}"}
    if host is not None:
        headers["Host"] = host
    return httpx.get(f"{platform.url}/users/me", headers=headers, trust_env=False, **options)


def connects(host, port):
    with socket.socket() as tried:
        tried.settimeout(10)
        return tried.connect_ex((host, port)) == 0


def within(number):
    """A pool in a container: it finds the platform by the environment alone."""
    from civis_futures import ContainerPoolExecutor

    with ContainerPoolExecutor(1) as inner:
        return inner.submit(pow, number, 2).result(60)


@pytest.mark.parametrize("brought", mostly_repeats([False, True], True))
def test_a_pool_over_tls(issued, brought):
    data = os.urandom(200_000)  # as a File, in both directions
    with LocalPlatform(advertise=HERE, **(issued(HERE) if brought else {})) as platform:
        assert platform.url.startswith(f"https://{HERE}:")
        with ContainerPoolExecutor(2, platform=platform) as executor:
            assert executor.submit(bytes.__add__, data, data).result(60) == data + data
            future = executor.submit(within, 7)
            assert future.result(60) == 49
        assert platform.stats().count(origin="worker") > 0


def test_it_listens_at_that_address_only(served):
    """Neither the API nor the links of files are anywhere else."""
    with closing(PlatformClient(*access(served))) as client:
        link = client.create_file("a").upload_url if hasattr(client, "create_file") else None
    ports = {urlsplit(served.url).port}
    body = {"name": "a"}
    options = {"headers": {"Authorization": f"Bearer {served.api_key}"}, "trust_env": False}
    made = httpx.post(
        f"{served.url}/files", json=body, verify=believing(served.ca_certs), **options
    )
    link = made.json()["uploadUrl"]
    assert link.startswith(f"https://{HERE}:")
    ports.add(urlsplit(link).port)
    assert len(ports) == 2
    for port in ports:
        assert connects(HERE, port)
        assert not connects("127.0.0.1", port)
        assert not connects("127.0.0.3", port)


def test_who_is_asked_for_by_another_name_is_not_there(served):
    """So a page that has its name changed to our address (DNS rebinding) gets nothing."""
    verify = believing(served.ca_certs)
    port = urlsplit(served.url).port
    for host in (None, HERE, f"{HERE}:{port}"):
        assert status(served, host, verify=verify).status_code == 200
    for host in ("evil.example", f"evil.example:{port}", "127.0.0.1", "localhost", "0.0.0.0", ""):
        assert status(served, host, verify=verify).status_code in (400, 403), host
    with LocalPlatform() as plain:  # as ever
        assert status(plain, "LOCALHOST").status_code == 200
        assert status(plain, HERE).status_code == 403


def test_only_its_own_certificate_is_believed(served, authority):
    for trust in (None, authority.cert_pem.bytes().decode()):
        verify = True if trust is None else believing(trust)
        with pytest.raises(httpx.ConnectError, match="CERTIFICATE_VERIFY_FAILED"):
            status(served, verify=verify)
    # By another name the same certificate is no better.
    port = urlsplit(served.url).port
    context = believing(served.ca_certs)
    with (
        socket.create_connection((HERE, port)) as plain,
        pytest.raises(ssl.SSLCertVerificationError, match=r"127\.0\.0\.3"),
    ):
        context.wrap_socket(plain, server_hostname="127.0.0.3")


def test_without_tls_nothing_is_said(served):
    url = served.url.replace("https", "http")
    with pytest.raises(httpx.HTTPError):
        httpx.get(url, headers={"Authorization": f"Bearer {served.api_key}"}, trust_env=False)
    for garbage in (b"", b"\x16\x03\x01\xff\xff" + bytes(100), os.urandom(1000)):
        with socket.create_connection((HERE, urlsplit(served.url).port)) as plain:
            plain.sendall(garbage)
    with socket.create_connection((HERE, urlsplit(served.url).port)):  # one that says nothing
        assert status(served, verify=believing(served.ca_certs)).status_code == 200


class Impostor:
    """The right address and key, and the certificate of another platform."""

    def __init__(self, platform, ca_certs):
        self.url, self.api_key, self.ca_certs = platform.url, platform.api_key, ca_certs


def test_a_client_with_another_certificate_is_told_at_once(served, authority, monkeypatch, caplog):
    caplog.set_level("INFO", "civis_futures")
    other = Impostor(served, authority.cert_pem.bytes().decode())
    with closing(PlatformClient(*access(other))) as client:
        with pytest.raises(PlatformError, match="CERTIFICATE_VERIFY_FAILED") as caught:
            client.me()
        assert not caught.value.sent
        assert "again in" not in caplog.text
    monkeypatch.setenv("CIVIS_API_ENDPOINT", served.url)
    monkeypatch.setenv("CIVIS_API_KEY", served.api_key)
    client = PlatformClient(*access())  # nothing said, so the system's count
    with closing(client), pytest.raises(PlatformError, match="CERTIFICATE_VERIFY_FAILED"):
        client.me()
    monkeypatch.setenv("CIVIS_FUTURES_CA_CERTS", served.ca_certs)
    monkeypatch.setenv("HTTPS_PROXY", "http://127.0.0.1:9")  # no proxy leads to it
    with closing(PlatformClient(*access())) as client:
        assert client.me() == 77
    monkeypatch.setenv("CIVIS_FUTURES_CA_CERTS", "/etc/ssl/ca.pem")
    with pytest.raises(PlatformError, match="the text of a PEM file, and not its path"):
        PlatformClient(*access())


def test_the_variable_is_for_the_platform_of_the_environment_alone(monkeypatch):
    from types import SimpleNamespace

    monkeypatch.setenv("CIVIS_FUTURES_CA_CERTS", "those of my own platform")
    monkeypatch.setenv("CIVIS_API_KEY", "abc")
    monkeypatch.delenv("CIVIS_API_ENDPOINT", raising=False)
    assert access() == ("https://api.civisanalytics.com/", "abc", None, False)
    elsewhere = SimpleNamespace(url="https://civis.example.com/", api_key="key")
    assert access(elsewhere) == ("https://civis.example.com/", "key", None, False)
    monkeypatch.setenv("CIVIS_API_ENDPOINT", "https://10.0.0.1:80")
    assert access() == ("https://10.0.0.1:80/", "abc", "those of my own platform", True)
    assert access(elsewhere).ca_certs is None
    elsewhere.ca_certs = None
    assert access(elsewhere).direct


def test_a_worker_with_another_certificate_gives_up(served, authority):
    """At once, and not after minutes of trying again: before its program is there, and after."""
    wrong = authority.cert_pem.bytes().decode()
    container = Container(setup_cmd=f"export CIVIS_FUTURES_CA_CERTS='{wrong}'")
    with ContainerPoolExecutor(1, platform=served, container=container) as executor:
        future = executor.submit(abs, -1)
        error = future.exception(100)
    assert isinstance(error, BrokenContainerPool)
    assert "CERTIFICATE_VERIFY_FAILED" in str(error)
    headers = {"Authorization": f"Bearer {served.api_key}"}
    # As for its last words after a TERM.
    with closing(Http(only=(HERE, served.ca_certs)).anew(30.0)) as again:
        me = f"{served.url}/users/me"
        assert again.request("GET", me, lambda reply: reply.status, headers) == 200
    for only in ((HERE, wrong), (HERE, ""), ("127.0.0.3", served.ca_certs)):
        with pytest.raises(UnreachableError, match="SSLCertVerificationError"):
            Http(only=only).request("GET", f"{served.url}/users/me", lambda reply: None, {})
    with pytest.raises(UnreachableError, match="cannot be read"):
        believing_worker("/etc/ssl/ca.pem")


@pytest.mark.parametrize("kind", ["drop", "cut", "corrupt"])
def test_faults_happen_over_tls_too(served, kind):
    fault = getattr(Fault, kind)("GET /users/me", times=1)
    with served.fault(fault):
        with closing(PlatformClient(*access(served))) as client:
            assert client.me() == 77  # it tries again
        assert served.faults.hits(fault) == 1


def test_certificates_of_an_authority_that_is_not_told(authority, issued, tmp_path):
    """Nor is it known here: what is in the user's file is believed by itself."""
    options = issued("localhost")
    first = options["certificate"].read_text().partition("-----END CERTIFICATE-----\n")
    options["certificate"].write_text("".join(first[:2]))
    both = write(tmp_path / "both.pem", b"".join(p.read_bytes() for p in options.values()))
    with LocalPlatform(advertise="localhost", certificate=both, private_key=both) as platform:
        assert platform.url.startswith("https://localhost:")
        assert "PRIVATE" not in platform.ca_certs
        assert platform.ca_certs.strip() == "".join(first[:2]).strip()
        with closing(PlatformClient(*access(platform))) as client:
            assert client.me() == 77


def test_what_is_made_is_kept_with_the_state(tmp_path):
    state = tmp_path / "state"
    with LocalPlatform(advertise=HERE, state=state) as platform:
        first = platform.ca_certs
    with LocalPlatform(advertise=HERE, state=state) as platform:
        assert platform.ca_certs == first
        assert status(platform, verify=believing(first)).status_code == 200
    with LocalPlatform(advertise="127.0.0.3", state=state) as platform:
        assert platform.ca_certs != first
        assert status(platform, verify=believing(platform.ca_certs)).status_code == 200
    assert {path.stat().st_mode & 0o077 for path in (state / "tls").iterdir()} == {0}


def test_plain_http_when_asked_for_by_name():
    with LocalPlatform(advertise=HERE, plain_http=True) as platform:
        assert platform.url.startswith(f"http://{HERE}:")
        assert platform.ca_certs is None
        with ContainerPoolExecutor(1, platform=platform) as executor:
            assert executor.submit(pow, 2, 5).result(60) == 32
            assert executor.submit(os.environ.get, "CIVIS_FUTURES_CA_CERTS").result(60) is None


def test_what_makes_no_sense_is_refused_at_once():
    for options, said in (
        ({"plain_http": True}, "for a platform that you advertise"),
        ({"certificate": "a.pem", "private_key": "a.key"}, "for a platform that you advertise"),
        ({"advertise": HERE, "certificate": "a.pem"}, "go together"),
        ({"advertise": HERE, "private_key": "a.key"}, "go together"),
        ({"advertise": HERE, "certificate": "a", "private_key": "b", "plain_http": True}, "choose"),
        *(
            ({"advertise": host}, "a name or an IP address of this machine")
            for host in ("", "https://me", "me:80", "10.0.0.1:80", "me/x", "a b", "fe80::1%eth0",
                         "[::1]", "m\xe9", "fd00::x", "-", 7)
        ),
    ):  # fmt: skip
        with pytest.raises(ValueError, match=said):
            LocalPlatform(**options)


def refused(**options):
    platform = LocalPlatform(**options)
    with pytest.raises(RuntimeError) as caught:
        platform.start()
    assert not platform.running
    return str(caught.value)


def test_errors_of_addresses_say_what_to_do():
    options = {"plain_http": True}
    said = refused(advertise="192.0.2.77", **options)  # of nobody, by RFC 5737
    assert "this machine does not have this address" in said
    assert "choose" not in said
    for everywhere in ("0", "0.0.0.0", "::"):
        assert "nobody asks for" in refused(advertise=everywhere, **options)
    said = refused(advertise="no-such-host.invalid", **options)
    assert "does not know the name no-such-host.invalid" in said
    with LocalPlatform(advertise=HERE, **options) as taken:
        port = urlsplit(taken.url).port
        said = refused(advertise=HERE, port=port, **options)
        assert f"port {port} of {HERE}: another program has it; choose another port" in said


def test_a_name_that_means_loopback_here_is_not_advertised():
    """As Debian writes a machine's own name into /etc/hosts: nobody else would reach it."""
    names = [name for line in Path("/etc/hosts").read_text().splitlines()
             for name in line.partition("#")[0].split()[1:] if line.startswith("127.")
             and name != "localhost"]  # fmt: skip
    name = names[0] if names else "me.localhost"
    try:
        socket.getaddrinfo(name, None)
    except OSError:
        pytest.skip("no name but localhost leads to loopback here")
    assert "which others cannot reach" in refused(advertise=name, plain_http=True)


def test_errors_of_certificates_say_what_to_do(issued, authority, tmp_path):
    good = issued(HERE)
    other = issued("elsewhere.example")
    old = issued("127.0.0.2", not_after=datetime.datetime(2020, 1, 1))
    mixed = {**other, "private_key": issued("third.example")["private_key"]}
    for options, said in (
        (other, "Give one that is for 127.0.0.2, or none, to have one made"),
        (old, "certificate has expired"),
        (mixed, "not a pair"),
        ({**other, "certificate": other["private_key"]}, "there is no certificate in"),
        ({**other, "private_key": other["certificate"]}, "not a pair"),
        ({**other, "certificate": tmp_path / "missing"}, "cannot read the certificate"),
        ({**other, "private_key": tmp_path / "missing"}, "cannot read the certificate"),
    ):
        text = refused(advertise=HERE, **options)
        assert said in text, text
    good["private_key"].chmod(0o644)
    assert "chmod o-r" in refused(advertise=HERE, **good)


def test_a_name_for_which_none_can_be_made(tmp_path):
    with pytest.raises(StartError, match="advertise the IP address"):
        identity(Settings(advertise="my_host"), tmp_path)
    assert not (tmp_path / "tls").exists()


def test_a_key_with_a_password_is_not_asked_for(issued, tmp_path):
    options = issued(HERE)
    if not shutil.which("openssl"):
        pytest.skip("there is no openssl to lock a key with")
    locked = tmp_path / "locked.key"
    command = ["openssl", "pkcs8", "-topk8", "-in", options["private_key"], "-out", locked]
    subprocess.run([*command, "-passout", "pass:secret"], check=True, capture_output=True)
    locked.chmod(0o600)
    said = refused(advertise=HERE, **{**options, "private_key": locked})
    assert "has a password, and nobody is there to type it" in said


def test_without_the_extra_the_ways_are_named(monkeypatch):
    real = importlib.util.find_spec

    def none(name, *rest):
        return None if name == "trustme" else real(name, *rest)

    monkeypatch.setattr(importlib.util, "find_spec", none)
    platform = LocalPlatform(advertise=HERE)
    with pytest.raises(ImportError) as caught:
        platform.start()
    for way in ("certificate and private_key", "civis-futures[tls]", "plain_http"):
        assert way in str(caught.value)


LOOK = """
for pid in %s; do
    cat /proc/$pid/cmdline /proc/$pid/environ
    ls -l /proc/$pid/fd /proc/$pid/cwd
    for fd in /proc/$pid/fd/*; do [ -f "$fd" ] && cat "$fd"; done
done
ps -e -ww -o args
find %s -type f -exec cat {} +
"""


def pids_below(pid):
    path = Path(f"/proc/{pid}/task/{pid}/children")
    for child in map(int, path.read_text().split()):
        yield child
        yield from pids_below(child)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can look as another user")
@pytest.mark.skipif(not shutil.which("setpriv"), reason="there is no setpriv")
@pytest.mark.parametrize("kept", [True, False], ids=["with a state", "without"])
def test_another_user_sees_no_secret(kept, tools):
    """Neither keys, nor parameters, nor environments: in processes, folders and files."""
    with tempfile.TemporaryDirectory() as open_folder:
        os.chmod(open_folder, 0o755)  # pytest's own folders would hide it all
        state = Path(open_folder, "state") if kept else None
        with LocalPlatform(
            advertise=HERE, state=state, environment={"MINE": "secret-environment"},
            log=Path(open_folder, "log"), record=Path(open_folder, "record"),
        ) as platform:  # fmt: skip
            headers = {"Authorization": f"Bearer {platform.api_key}"}
            with httpx.Client(base_url=platform.url, headers=headers, trust_env=False,
                              verify=believing(platform.ca_certs)) as client:  # fmt: skip
                script = client.post("/scripts/containers", json={
                    "dockerCommand": "echo begun; sleep 600 & wait",
                    "requiredResources": {"cpu": 64, "memory": 64},
                    "params": [{"name": "P", "type": "string", "value": "secret-parameter"}],
                }).json()["id"]  # fmt: skip
                run = client.post(f"/scripts/containers/{script}/runs").json()["id"]
                logs = f"/scripts/containers/{script}/runs/{run}/logs"
                tools.until(lambda: "begun" in client.get(logs).text)
                pids = [platform._process.pid, *pids_below(platform._process.pid)]
                assert len(pids) >= 3
                # Each run works in a folder of its own, two below the platform's.
                works = [Path(os.readlink(f"/proc/{pid}/cwd")).parent for pid in pids]
                own = {path.parent for path in works if (path.parent / "blobs").is_dir()}
                assert own == {state} if kept else len(own) == 1
                look = LOOK % (" ".join(map(str, pids)), " ".join(map(str, [*own, open_folder])))
                done = {
                    who: subprocess.run(
                        [*command, "sh", "-c", look], capture_output=True, timeout=60
                    ).stdout
                    for who, command in (
                        ("root", []),
                        ("nobody", ["setpriv", "--reuid=65534", "--regid=65534",
                                    "--clear-groups"]),
                    )
                }  # fmt: skip
                client.delete(f"/scripts/containers/{script}/runs/{run}")
            key = platform.api_key.encode()
            secrets = [b"secret-parameter", b"secret-environment", b"local-run-", b"PRIVATE KEY"]
            for secret in [*secrets, *([key] if kept else [])]:
                assert secret in done["root"], secret  # so they are where we look
            for secret in [*secrets, key]:
                assert secret not in done["nobody"], secret
            assert b"_server" in done["nobody"] or b"__main__.py" in done["nobody"]
