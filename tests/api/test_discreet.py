"""What is logged of our requests, and what errors say of them; over real HTTP."""

from __future__ import annotations

import contextlib
import http.server
import io
import logging
import os
import pickle
import re
import subprocess
import sys
import threading
import traceback
import urllib.parse
from datetime import timedelta

import httpx
import pytest

from civis_futures import ContainerPoolExecutor, PlatformError
from civis_futures._api import discreet
from civis_futures._api.client import PlatformClient, credentials
from civis_futures.testing import Fault
from civis_futures.worker._http import Http, HttpError

LARGE = 1_500_000  # bytes; calls with so many go through signed links
LIBRARIES = ("httpx", "httpcore")


@pytest.fixture
def told():
    """told(level, ...): what a handler of the root logger is told from now on."""
    with contextlib.ExitStack() as ends:

        def listen(level, *asked):
            records = Records()
            for name, at in [(None, level), *((name, logging.DEBUG) for name in asked)]:
                logger = logging.getLogger(name)
                ends.callback(logger.setLevel, logger.level)
                logger.setLevel(at)
            logging.getLogger().addHandler(records)
            ends.callback(logging.getLogger().removeHandler, records)
            return records

        yield listen


class Records(logging.Handler):
    def __init__(self):
        super().__init__()
        self.found = []

    def emit(self, record):
        self.found.append((record.name, self.format(record) + repr(vars(record))))

    def of_libraries(self):
        return [text for name, text in self.found if name.partition(".")[0] in LIBRARIES]

    def text(self):
        return "\n".join(text for _, text in self.found)


def is_clean(text, platform):
    """Whether it holds nothing by which somebody else could read a File, or ask the platform."""
    secrets = ("signature", "Basic ", "Bearer ", platform.api_key, "expires=")
    found = [text[max(0, at - 200) :][:400] for each in secrets if (at := text.find(each)) >= 0]
    print(*found, sep="\n")
    return not found


def three_calls(platform, **options):
    with ContainerPoolExecutor(1, platform=platform, **options) as executor:
        value = bytearray(os.urandom(LARGE))
        futures = [executor.submit(len, value + bytes([n])) for n in range(3)]
        assert [future.result() for future in futures] == [LARGE + 1] * 3


@pytest.fixture
def client(faulty):
    client = PlatformClient(*credentials(faulty))
    yield client
    client.close()


@pytest.fixture
def file(client):
    return client.upload(b"x" * LARGE, LARGE, "data", expires_in=timedelta(days=1))


# --- logs --------------------------------------------------------------------------------------


@pytest.mark.parametrize("level", [logging.INFO, logging.DEBUG])
def test_libraries_are_silent_about_our_requests(level, told, platform):
    records = told(level)
    three_calls(platform)
    assert records.of_libraries() == []
    assert is_clean(records.text(), platform)


def test_a_user_hears_of_their_own_requests(told, platform, client, file):
    records = told(logging.INFO)
    ask = f"{platform.url}/mine"
    for _ in client.download(file):
        httpx.get(ask)  # between two steps of ours, on the same thread
    with ContainerPoolExecutor(1, platform=platform) as executor:
        executor.submit(pow, 2, 3).add_done_callback(lambda _: httpx.get(ask))
    with httpx.Client() as mine:
        mine.get(ask)
    lines = records.of_libraries()
    assert len(lines) >= 3
    assert all("/mine" in line for line in lines)


def test_who_asks_for_it_hears_of_ours_but_no_secret(told, platform, faulty, client, file):
    records = told(logging.WARNING, *LIBRARIES)
    three_calls(platform)
    faulty.faults.add(Fault.answer(503, on="GET link", times=1), Fault.drop(on="GET link", times=1))
    assert len(b"".join(client.download(file))) == LARGE
    lines = records.of_libraries()
    assert any("POST" in line and "/scripts/containers" in line for line in lines)
    assert any("send_request_headers" in line for line in lines)
    for each in (platform, faulty):
        assert is_clean("\n".join(lines), each)


@pytest.mark.parametrize("name", ["httpx", "httpcore", "httpcore.http11"])
def test_one_logger_may_be_asked_alone(name, told, platform):
    records = told(logging.DEBUG, name)
    three_calls(platform)
    assert {found.partition(".")[0] for found, _ in records.found} & set(LIBRARIES) == {
        name.partition(".")[0]
    }
    assert is_clean(records.text(), platform)


PROGRAM = """
import logging
logging.basicConfig(level=logging.DEBUG)
import joblib, civis_joblib
from civis_futures import Container, ContainerPoolExecutor

SMALL = Container(required_resources={"cpu": 100})

def talk(data):
    import logging
    logging.basicConfig(level=logging.DEBUG)
    from civis_futures import ContainerPoolExecutor
    with ContainerPoolExecutor(1, container=SMALL) as inner:  # a pool of a container's own
        return inner.submit(len, data).result()

if __name__ == "__main__":
    with ContainerPoolExecutor(2, container=SMALL, platform="local") as executor:
        futures = [executor.submit(talk, bytearray(1_500_000)) for _ in range(3)]
        print([future.result() for future in futures])
        print(*(line for future in futures for line in future.logs()), sep=chr(10))
    civis_joblib.register(platform="local", max_workers=2, container=SMALL)
    with joblib.parallel_config("civis"):
        print(joblib.Parallel(n_jobs=2)(joblib.delayed(pow)(2, n) for n in range(3)))
"""


def test_of_a_whole_program_at_debug_the_pool_alone_speaks(tmp_path):
    """Not asyncio, uvicorn and others either, for the local platform is a process of its own."""
    (tmp_path / "program.py").write_text(PROGRAM)
    done = subprocess.run(
        [sys.executable, "program.py"], cwd=tmp_path, capture_output=True, text=True, timeout=100
    )
    assert done.returncode == 0
    first, *within, last, _ = done.stdout.split("\n")
    assert (first, last) == (str([1_500_000] * 3), str([1, 2, 4]))
    ours = re.compile(r"(DEBUG|INFO):civis_futures\._pool\.manager:")
    lines = [*done.stderr.splitlines(), *within]
    assert [line for line in lines if not ours.match(line) or "signature" in line] == []


def test_the_log_of_a_local_platform_has_no_secrets(tmp_path):
    from civis_futures.local import LocalPlatform

    log = tmp_path / "log"
    with LocalPlatform(log=log) as platform:
        three_calls(platform)
        assert is_clean(log.read_text(), platform)


# --- errors ------------------------------------------------------------------------------------


def everything(error):
    """All that a person or a tool may see of an error, with what led to it."""
    seen, rest = [], [error]
    while rest:
        one = rest.pop()
        if one is None or any(one is other for other in seen):
            continue
        seen.append(one)
        rest += [one.__cause__, one.__context__]
    texts = ["".join(traceback.format_exception(error))]
    for one in seen:
        texts += [str(one), repr(one), repr(one.args), repr(vars(one))]
        with contextlib.suppress(AttributeError, RuntimeError):
            texts += [str(one.request.url), repr(one.request.headers.raw)]
        with contextlib.suppress(Exception):
            texts.append(repr(pickle.dumps(one)))
    return "\n".join(texts)


@pytest.mark.parametrize(
    "fault",
    [
        Fault.answer(403, on="GET link"),
        Fault.answer(404, on="GET link"),
        Fault.drop(on="GET link"),
        Fault.cut(on="GET link"),
    ],
    ids=lambda fault: fault.kind,
)
def test_a_download_that_fails(fault, faulty, client, file, brisk):
    client._links._wait = lambda seconds: None
    faulty.faults.add(fault)
    with pytest.raises(PlatformError) as caught:
        list(client.download(file))
    assert is_clean(everything(caught.value), faulty)


@pytest.mark.parametrize("kind", ["drop", "answer"])
def test_an_upload_that_fails(kind, faulty, client):
    client._links._wait = lambda seconds: None
    make = Fault.drop if kind == "drop" else lambda on: Fault.answer(400, on=on)
    faulty.faults.add(make(on="POST link"))
    with pytest.raises(PlatformError) as caught:
        client.upload(b"x" * 100, 100, "data", expires_in=timedelta(days=1))
    assert is_clean(everything(caught.value), faulty)


def test_a_request_that_is_not_answered(faulty):
    client = PlatformClient(*credentials(faulty), patience=0.1)
    client.me()
    faulty.faults.add(Fault.drop())
    query = "sig" + "nature"  # lines of source are part of a traceback
    with pytest.raises(PlatformError) as caught:
        client.search_jobs(query)
    client.close()
    assert caught.value.__cause__ is not None
    assert is_clean(everything(caught.value), faulty)


class Strange(http.server.BaseHTTPRequestHandler):
    """Storage that leads elsewhere, and refuses with all that it knows."""

    def do_GET(self):
        if self.path.startswith("/elsewhere"):
            self.send_response(302)
            self.send_header("Location", "nonsense://there/?signature=abc")
            self.end_headers()
            return
        body = f"<Error><Code>Denied</Code><It>{self.path}</It></Error>"
        if self.path.startswith("/api"):
            body = f"you sent {self.headers['Authorization']} to {self.path} with open sesame"
        self.send_response(403)
        self.end_headers()
        self.wfile.write(body.encode())

    def log_message(self, *args):
        pass


@pytest.fixture
def storage():
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Strange) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()


@pytest.fixture
def hasty(paced):
    """Before the client is made."""
    paced(request_backoff=0.001, longest_request_backoff=0.001)


def test_links_of_many_kinds_are_in_no_error(hasty, storage, faulty, client, file, monkeypatch):
    for link in (
        f"{storage}/elsewhere?signature=abc",
        f"{storage}/denied?signature=abc",
        "nonsense://there/?signature=abc",
        "http://127.0.0.1:1/?signature=abc",
        "http://user:signature@127.0.0.1:1/?x=signature",
        f"{storage}/\n?signature=abc",
        "http://127.0.0.1:99999999/?signature=abc",
    ):
        monkeypatch.setattr(client, "_link", lambda _, link=link: (link, None))
        with pytest.raises(PlatformError) as caught:
            list(client.download(file))
        assert is_clean(everything(caught.value), faulty), link


def test_what_the_platform_quotes_is_no_secret(faulty, client):
    said = "you may not open https://storage/x?signature=abc&expires=3 (see /y?signature=abc)"
    client._secrets = (*client._secrets, "open sesame")
    response = httpx.Response(400, request=httpx.Request("GET", f"{faulty.url}/x"))
    text = str(client._error(response, said))
    assert is_clean(text, faulty)
    assert "https://storage/x" in text


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("GET https://a/b?c=d&e=f done", "GET https://a/b?... done"),
        ("'http://u:p@host/x'", "'http://host/x'"),
        ("(b'Location', b'/x?sig=1')", "(b'Location', b'/x?...')"),
        ("why? because a=b", "why? because a=b"),
        ("really?yes", "really?yes"),
    ],
)
def test_what_is_left_of_a_text(text, shown):
    assert discreet.without_links(text) == shown


# --- in the container --------------------------------------------------------------------------


def test_a_worker_tells_no_secret(storage, capsys):
    key = "b3BlbiBzZXNhbWU6"  # of "open sesame:"
    headers = {"Authorization": f"Basic {key}"}
    for url, own in (
        (f"{storage}/denied?signature=abc", {}),
        (f"{storage}/with a space?signature=a bc&expires=3", {}),
        (f"{storage}/api?signature=abc", headers),
    ):
        http_ = Http(patience=0.1)
        with pytest.raises(HttpError) as caught:
            http_.request("GET", url, lambda reply: reply.read(), own)
        http_.close()
        said = everything(caught.value) if own else str(caught.value) + capsys.readouterr().err
        assert not any(word in said for word in ("signature", "expires", key, "open sesame")), said


def test_the_bootstrap_tells_no_secret(faulty):
    from civis_futures._pool.launch import docker_command

    link = f"{faulty.url}/with a space?signature=abc d"
    done = subprocess.run(
        ["sh", "-c", docker_command(faulty.url, "0" * 64, 1)],
        env={
            **os.environ,
            "CIVIS_FUTURES_BUNDLE_URL": link,
            "CIVIS_API_KEY": urllib.parse.quote("wrong"),
        },
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode != 0
    assert "signature" not in done.stdout + done.stderr
    assert io.StringIO(done.stderr).readline()
