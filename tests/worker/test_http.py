"""The worker's smaller modules, from within: requests, transfers, orders, frames."""

import contextlib
import os
import socket
import threading
import time
from functools import partial

import pytest

from civis_futures import _wire
from civis_futures.worker import _entry, _frames
from civis_futures.worker._http import Http, HttpError, RefusedError, UnreachableError
from civis_futures.worker._pacing import WorkerPacing
from civis_futures.worker._platform import Outgoing, PlatformRequests

QUICK = WorkerPacing(first_pause=0.01, longest_pause=1.0)


@pytest.fixture
def requests_to(stub):
    """requests_to(**limits): what a worker would use, but for short pauses."""
    http = Http(pacing=QUICK)
    yield partial(PlatformRequests, stub.url + "/", "the key", "11", "22", http)
    http.close()


@pytest.fixture
def platform(requests_to):
    return requests_to()


def test_patience_has_an_end(stub, platform):
    platform.http.patience = 0.5
    stub.fault("GET", "/json_values", *[503] * 50)
    with pytest.raises(UnreachableError, match=r"GET /json_values/5: HTTP 503 .*gave up after"):
        platform.json_value(5)
    stub.fault("GET", "/files", (429, {"Retry-After": "7"}))
    with pytest.raises(UnreachableError, match="HTTP 429"):
        platform.download(5, "unused")


def test_nobody_there(stub):
    platform = PlatformRequests("http://127.0.0.1:9", "the key", "11", "22", Http(patience=0.5))
    with pytest.raises(UnreachableError, match="ConnectionRefusedError") as caught:
        platform.post_output("name", "{}")
    assert "the key" not in str(caught.value)


def test_one_connection_serves_many_requests(stub, platform):
    number = stub.put_value(3)
    assert [platform.json_value(number) for _ in range(3)] == [3] * 3
    assert len(platform.http._connections) == 1


def test_upload_streams_from_a_file_in_parts(stub, requests_to, tmp_path):
    platform = requests_to(single_upload=10 << 20, smallest_part=1 << 20)
    data = os.urandom(11 << 20)
    path = tmp_path / "data"
    path.write_bytes(data)
    stub.fault("PUT", "/store", 500, "drop")
    source = Outgoing(path=str(path))
    assert not path.exists()  # nobody can take it away
    number = platform.upload("name", source)
    assert stub.path(number).read_bytes() == data
    assert source.digest() == _wire.digest(data)
    assert stub.count("PUT", "/store") == 4 + 2
    source.close()


def test_a_failed_part_fails_the_upload(stub, requests_to):
    platform = requests_to(single_upload=1)
    stub.fault("PUT", "/store", *[403] * 9)
    with pytest.raises(RefusedError, match="HTTP 403"):
        platform.upload("name", Outgoing(b"data"))
    assert stub.count("POST", "/files/multipart") == 3  # a new link each time
    assert not any(path.endswith("complete") for _, path, _ in stub.log)


def test_a_form_whose_link_has_expired(stub, platform):
    stub.fault("POST", "/store", 403, 500)
    number = platform.upload("name", Outgoing(b"\r\n--data\0"))
    assert stub.path(number).read_bytes() == b"\r\n--data\0"


def test_a_download_that_cannot_be_stored(stub, platform, tmp_path):
    number = stub.put_file(b"x" * 100)
    if not os.path.exists("/dev/full"):
        pytest.skip("no /dev/full here")
    with pytest.raises(HttpError, match="no room"):
        platform.download(number, "/dev/full")


def test_a_file_without_content(stub, platform, monkeypatch):
    number = stub.put_file(b"")
    stub.fault("GET", f"/files/{number}", b'{"fileUrl": null}')
    with pytest.raises(HttpError, match="empty or has expired"):
        platform.download(number, "unused")


def test_an_order_is_read_from_text_or_from_a_file(order):
    text = _wire.to_json(order())
    files = {7: text}
    for value in (text, f"  {text}\n", "7", "file:7", " 7 "):
        assert _entry.read_order(value, files.__getitem__) == order()
    with pytest.raises(_wire.WireError):
        _entry.read_order("file:x", files.__getitem__)


def test_frames_survive_rubbish():
    mark = _frames.new_mark()
    frames = _frames.Frames(mark)
    whole = _frames.packed(mark, {"a": 1}, b"body") + _frames.packed(mark, {"b": "é"})
    for byte in b"rubbish" + whole[:40] + whole[40:]:
        frames.add(bytes([byte]))
        if frames._bytes.endswith(b"body"):
            assert frames.next() == ({"a": 1}, b"body")
    assert frames.next() == ({"b": "é"}, b"")
    assert frames.next() is None
    frames.add(b"more rubbish" * 100)
    assert frames.next() is None
    assert len(frames._bytes) <= _frames.MARK_SIZE
    frames.add(mark + (3).to_bytes(4, "big") + bytes(8) + b"{]}")
    with pytest.raises(ValueError):
        frames.next()


@pytest.mark.parametrize(
    "says",
    ["inf", "nan", "-inf", "-5", "soon", "Fri, 31 Dec 9999 23:59:59 GMT", "\xe9", "", "1e-300"],
)
def test_a_wait_without_sense_is_none(stub, platform, says):
    number = stub.put_value(3)
    stub.fault("GET", "/json_values", (429, {"Retry-After": says}), (503, {"Retry-After": says}))
    assert platform.json_value(number) == 3


def test_a_wait_without_end_has_one(stub):
    http = Http(pacing=QUICK, longest_wait=0.2)
    platform = PlatformRequests(stub.url + "/", "the key", "11", "22", http)
    number = stub.put_value(3)
    stub.fault("GET", "/json_values", (429, {"Retry-After": "1e300"}))
    begin = time.monotonic()
    assert platform.json_value(number) == 3
    http.close()
    assert time.monotonic() - begin >= 0.2


class Dripping:
    """A server that answers a byte at a time, for ever; `head` comes at once."""

    def __init__(self, head):
        self.head = head
        self.asked = 0
        self.over = threading.Event()
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self.listener.getsockname()[1]}"
        self.thread = threading.Thread(target=self.serve)
        self.thread.start()

    def serve(self):
        while not self.over.is_set():
            connection, _ = self.listener.accept()
            self.asked += 1
            with connection, contextlib.suppress(OSError):
                connection.recv(1 << 16)
                connection.sendall(self.head)
                while not self.over.wait(0.02):
                    connection.sendall(b"x")

    def close(self):
        self.over.set()
        with contextlib.suppress(OSError), socket.create_connection(self.listener.getsockname()):
            pass
        self.thread.join()
        self.listener.close()


@pytest.mark.parametrize(
    "head", [b"HTTP/1.1 200 OK\r\nContent-Length: 1000000\r\n\r\n", b"", b"HTTP/1.1 "]
)
def test_an_answer_that_drips_is_no_answer(head):
    server = Dripping(head)
    try:
        http = Http(patience=1.0, timeout=0.2, pacing=QUICK._replace(longest_pause=0.01))
        platform = PlatformRequests(server.url, "the key", "11", "22", http)
        with pytest.raises(UnreachableError, match="bytes in more than 0"):
            platform.json_value(5)
        platform.http.close()
        assert server.asked > 1
    finally:
        server.close()
