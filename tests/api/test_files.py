"""Files: what goes up, what comes down, in which steps, and what happens when a step fails."""

from __future__ import annotations

import contextlib
import io
import json
import socketserver
import tempfile
import threading
import tracemalloc
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from typing import Any, BinaryIO

import httpx
import pytest
import python_multipart

from civis_futures._api.client import FILE_SIZE_LIMIT, SINGLE_UPLOAD_LIMIT, PlatformClient
from civis_futures._api.transport import Section
from civis_futures._exceptions import PlatformError

API, STORE = "api.civis.test", "store.test"
DAY = timedelta(days=1)
MB = 1_000_000
Trouble = Callable[[httpx.Request], httpx.Response | Exception | None]


class Storage:
    """The platform's Files and the storage behind their links, in place of the network.

    `trouble` sees each request to the storage first, and may answer in its stead.
    """

    def __init__(self) -> None:
        self.asked: list[str] = []
        self.bodies: list[dict[str, Any]] = []
        self.links: list[httpx.Request] = []
        self.stored: dict[str, bytes] = {}
        self.forms: list[list[tuple[str, bytes]]] = []
        self.trouble: Trouble = lambda request: None
        self.file: dict[str, Any] = {"id": 4, "fileUrl": f"http://{STORE}/4?sig=S", "fileSize": 0}
        self.links_made = 0

    def __call__(self, request: httpx.Request) -> httpx.Response:
        if request.url.host == API:
            return self.api(request)
        self.links.append(request)
        answer = self.trouble(request)
        if isinstance(answer, Exception):
            raise answer
        response = answer or self.storage(request)
        if hasattr(response, "_content"):  # as from the network, where it has not been read
            response = httpx.Response(
                response.status_code, stream=httpx.ByteStream(response.content)
            )
        return response

    def api(self, request: httpx.Request) -> httpx.Response:
        path = request.url.path
        self.asked.append(f"{request.method} {path}")
        body = request.read()
        if body:
            self.bodies.append(json.loads(body))
        if path == "/files":
            fields = {"Policy": "p", "X-Amz-Date": "d", "key": "k/4"}
            url = f"http://{STORE}/form?sig=S"
            return httpx.Response(201, json={"id": 4, "uploadUrl": url, "uploadFields": fields})
        if path == "/files/multipart":
            count = self.bodies[-1]["numParts"]
            urls = [f"http://{STORE}/{n}?sig=S" for n in range(1, count + 1)]
            return httpx.Response(201, json={"id": 4, "uploadUrls": urls})
        if path == "/files/4":
            self.links_made += 1
            return httpx.Response(200, json=self.file)
        return httpx.Response(204)

    def storage(self, request: httpx.Request) -> httpx.Response:
        path = request.url.path
        if request.method == "GET":
            first = int(request.headers.get("Range", "bytes=0-")[6:-1])
            return httpx.Response(206 if first else 200, content=self.stored[path][first:])
        body = b"".join(request.stream)  # type: ignore[arg-type]
        assert len(body) == int(request.headers["Content-Length"])
        if request.method == "POST":
            self.forms.append(form_of(request, body))
        self.stored[path] = body
        return httpx.Response(204)


def form_of(request: httpx.Request, body: bytes) -> list[tuple[str, bytes]]:
    """The fields of a multipart form in their order, as a server reads them."""
    fields: list[tuple[str, bytes]] = []
    python_multipart.parse_form(
        {
            "Content-Type": request.headers["Content-Type"].encode(),
            "Content-Length": request.headers["Content-Length"].encode(),
        },
        io.BytesIO(body),
        lambda field: fields.append((field.field_name.decode(), field.value)),
        lambda file: fields.append((file.field_name.decode(), read_all(file.file_object))),
    )
    return fields


def read_all(file: BinaryIO) -> bytes:
    file.seek(0)
    return file.read()


@pytest.fixture
def storage(monkeypatch: pytest.MonkeyPatch) -> Storage:
    storage = Storage()
    monkeypatch.setattr(
        httpx.HTTPTransport, "handle_request", lambda self, request: storage(request)
    )
    return storage


@pytest.fixture
def limits() -> dict[str, int]:
    """What the client sends in one piece; the usual, if it is empty."""
    return {}


@pytest.fixture
def client(limits: dict[str, int]) -> Iterator[PlatformClient]:
    client = PlatformClient(f"https://{API}", "aSecret-Key_123", **limits)
    client._sender._wait = client._links._wait = lambda seconds: None
    yield client
    client.close()


@pytest.fixture
def small_limit(limits: dict[str, int]) -> None:
    """Files above 10 bytes go in parts of at least 4. Name it before `client`."""
    limits.update(single_upload=10, least_part=4)


def times(count: int, answer: httpx.Response | Exception, path: str = "") -> Trouble:
    """Trouble for the first `count` requests to `path`."""
    seen: list[int] = []

    def trouble(request: httpx.Request) -> httpx.Response | Exception | None:
        if path and request.url.path != path:
            return None
        seen.append(1)
        if len(seen) > count:
            return None
        if isinstance(answer, Exception):
            return answer
        return httpx.Response(answer.status_code, content=answer.content)

    return trouble


SOURCES = ["bytes", "bytearray", "memoryview", "memory", "file"]


@contextlib.contextmanager
def source_of(which: str, data: bytes) -> Iterator[Any]:
    """`data` as one of SOURCES; a file object stands where they begin."""
    if which in ("bytes", "bytearray", "memoryview"):
        yield {"bytes": bytes, "bytearray": bytearray, "memoryview": memoryview}[which](data)
        return
    with io.BytesIO() if which == "memory" else tempfile.TemporaryFile() as file:
        file.write(b"ahead" + data + b"behind")
        file.seek(5)
        yield file


# Up.


@pytest.mark.parametrize("which", SOURCES)
@pytest.mark.parametrize("data", [b"", b"x", b"line\r\n--boundary\x00\xff" * 10_000])
def test_one_form(client: PlatformClient, storage: Storage, data: bytes, which: str) -> None:
    before = datetime.now(UTC)
    with source_of(which, data) as source:
        assert client.upload(source, len(data), "näme", expires_in=DAY) == 4
    assert storage.asked == ["POST /files"]
    (body,) = storage.bodies
    assert body["name"] == "näme"
    assert body["expiresAt"].endswith("+00:00")
    expires = datetime.fromisoformat(body["expiresAt"])
    assert timedelta(0) <= expires - before - DAY + timedelta(seconds=1) < timedelta(minutes=1)
    # The key first, the others verbatim, the file last.
    (form,) = storage.forms
    assert form == [("key", b"k/4"), ("Policy", b"p"), ("X-Amz-Date", b"d"), ("file", data)]


@pytest.mark.parametrize("which", SOURCES)
def test_parts(small_limit: None, client: PlatformClient, storage: Storage, which: str) -> None:
    data = bytes(range(100))
    with source_of(which, data) as source:
        assert client.upload(source, 100, "n", expires_in=DAY) == 4
    # Parts of sqrt(4 * 100) = 20 bytes.
    assert storage.bodies[0]["numParts"] == 5
    assert [storage.stored[f"/{n}"] for n in range(1, 6)] == [
        data[start : start + 20] for start in range(0, 100, 20)
    ]
    assert {request.method for request in storage.links} == {"PUT"}
    assert storage.asked == ["POST /files/multipart", "POST /files/multipart/4/complete"]


def test_the_last_part_may_be_short(
    small_limit: None, client: PlatformClient, storage: Storage
) -> None:
    client.upload(b"0123456789abc", 13, "n", expires_in=DAY)
    assert [len(storage.stored[f"/{n}"]) for n in (1, 2)] == [7, 6]


def test_no_key_goes_to_the_storage(
    small_limit: None, client: PlatformClient, storage: Storage
) -> None:
    client.upload(b"x", 1, "n", expires_in=DAY)
    client.upload(b"x" * 30, 30, "n", expires_in=DAY)
    storage.stored["/4"] = b"x"
    assert b"".join(client.download(4)) == b"x"
    assert len(storage.links) > 3
    for request in storage.links:
        assert "Authorization" not in request.headers
        assert "X-Civis-Job-ID" not in request.headers


def test_links_spend_nothing(client: PlatformClient, storage: Storage) -> None:
    client.upload(b"x", 1, "n", expires_in=DAY)
    assert len(client.budget._sent) == 1


@pytest.mark.parametrize(
    "answer",
    [
        httpx.Response(503),
        httpx.Response(500),
        httpx.Response(429),
        httpx.ReadError("cut"),
        httpx.WriteTimeout("late"),
        httpx.ConnectError("refused"),
    ],
)
@pytest.mark.parametrize("size", [8, 30])
def test_storage_is_tried_again(
    small_limit: None,
    client: PlatformClient,
    storage: Storage,
    size: int,
    answer: httpx.Response | Exception,
) -> None:
    storage.trouble = times(3, answer)
    data = bytes(range(size))
    with tempfile.TemporaryFile() as file:
        file.write(data)
        file.seek(0)
        client.upload(file, size, "n", expires_in=DAY)
    assert len(storage.links) > 3
    whole = storage.forms[0][-1][1] if size == 8 else b"".join(storage.stored.values())
    assert whole == data


@pytest.mark.parametrize("which", SOURCES)
@pytest.mark.parametrize("size", [200_000, 400_000])
@pytest.mark.parametrize("limits", [{"single_upload": 300_000, "least_part": 150_000}])
def test_a_body_that_was_half_sent_is_sent_anew_from_its_start(
    client: PlatformClient,
    storage: Storage,
    which: str,
    size: int,
) -> None:

    def trouble(request: httpx.Request) -> Exception | None:
        if len(storage.links) % 3 == 0:
            return None
        chunks = iter(request.stream)  # type: ignore[arg-type]
        sent.append(sum(len(next(chunks)) for _ in range(2)))
        return httpx.WriteError("cut")

    sent: list[int] = []
    storage.trouble = trouble
    data = bytes(n * n % 251 for n in range(size))
    with source_of(which, data) as source:
        client.upload(source, size, "n", expires_in=DAY)
    parts = [storage.forms[0][-1][1]] if storage.forms else list(storage.stored.values())
    assert len(sent) == 2 * len(parts)
    assert b"".join(parts) == data


def test_the_last_word_of_an_upload_is_repeated(
    small_limit: None, client: PlatformClient, storage: Storage
) -> None:
    def flaky(request: httpx.Request) -> httpx.Response:
        response = api(request)
        if request.url.path.endswith("complete") and len(storage.asked) == 2:
            raise httpx.ReadError("cut")
        return response

    api, storage.api = storage.api, flaky  # type: ignore[method-assign]
    client.upload(bytes(30), 30, "n", expires_in=DAY)
    assert storage.asked == ["POST /files/multipart"] + ["POST /files/multipart/4/complete"] * 2


@pytest.mark.parametrize("times_", [1, 100])
def test_a_failed_part_fails_the_upload(
    small_limit: None, client: PlatformClient, storage: Storage, times_: int
) -> None:
    code, said = (403, "PUT answered 403 AccessDenied") if times_ == 1 else (500, "8 attempts")
    body = b"<Error><Code>AccessDenied</Code><Message>sig=S</Message></Error>"
    storage.trouble = times(times_, httpx.Response(code, content=body), "/2")
    with pytest.raises(PlatformError, match=f"upload of File 4, part 2: .*{said}") as caught:
        client.upload(bytes(100), 100, "n", expires_in=DAY)
    assert "sig=" not in str(caught.value)  # a link is a secret
    assert "complete" not in " ".join(storage.asked)
    assert "/3" not in storage.stored


def test_too_few_links(small_limit: None, client: PlatformClient, storage: Storage) -> None:
    api = storage.api
    storage.api = lambda request: (  # type: ignore[method-assign]
        httpx.Response(201, json={"id": 4, "uploadUrls": ["http://store.test/1"]})
        if request.url.path == "/files/multipart"
        else api(request)
    )
    with pytest.raises(PlatformError, match="1 links came for 5 parts"):
        client.upload(bytes(100), 100, "n", expires_in=DAY)


@pytest.mark.parametrize("size", [-1, FILE_SIZE_LIMIT + 1])
def test_a_size_that_no_file_has(client: PlatformClient, storage: Storage, size: int) -> None:
    with pytest.raises(ValueError, match="a file has 0 to"):
        client.upload(b"", size, "n", expires_in=DAY)
    assert not storage.asked


@pytest.mark.parametrize("size", [9, 30])
def test_a_source_that_ends_too_early(
    small_limit: None, client: PlatformClient, storage: Storage, size: int
) -> None:
    for source in (b"12345", io.BytesIO(b"12345")):
        with pytest.raises(ValueError, match="too early"):
            client.upload(source, size, "n", expires_in=DAY)
    assert len(storage.links) == 2  # and it is not tried again


def test_a_section_is_a_file() -> None:
    section = Section(io.BytesIO(b"0123456789"), 8, start=1).part(2, 5)
    assert list(section) == [b"34567"]
    assert section.tell() == section.seek(0, 2) == 5
    assert section.seek(1) == 1
    assert (section.read(2), section.read(99), section.read(99)) == (b"45", b"67", b"")


@pytest.mark.parametrize("url", ["presigned_url", "http://x:y/", "ftp://store.test/"])
def test_a_link_of_no_use(
    client: PlatformClient, storage: Storage, monkeypatch: pytest.MonkeyPatch, url: str
) -> None:
    monkeypatch.undo()  # the real transport is to judge it
    with pytest.raises(PlatformError, match="File 4: the link is of no use"):
        client._links.post("File 4", url, {}, Section(b"", 0))


# Down.


@pytest.mark.parametrize("data", [b"", b"x", bytes(300_000)])
def test_download(client: PlatformClient, storage: Storage, data: bytes) -> None:
    storage.stored["/4"] = data
    storage.file["fileSize"] = len(data)
    assert b"".join(client.download(4)) == data
    target = io.BytesIO()
    assert client.download_to(4, target) == len(data)
    assert target.getvalue() == data


@pytest.mark.parametrize("url", [None, ""])
def test_an_empty_file(client: PlatformClient, storage: Storage, url: str | None) -> None:
    storage.file["fileUrl"] = url
    with pytest.raises(PlatformError, match="File 4 is empty or has expired"):
        list(client.download(4))


def test_an_expired_link_is_fetched_anew(client: PlatformClient, storage: Storage) -> None:
    storage.stored["/4"] = b"data"
    storage.trouble = times(1, httpx.Response(403))
    assert b"".join(client.download(4)) == b"data"
    assert storage.links_made == 2


def test_a_fresh_link_that_is_refused(client: PlatformClient, storage: Storage) -> None:
    storage.trouble = times(9, httpx.Response(403))
    with pytest.raises(PlatformError, match="download of File 4: GET answered 403") as caught:
        list(client.download(4))
    assert caught.value.status == 403
    assert len(storage.links) == 2


def test_no_such_object(client: PlatformClient, storage: Storage) -> None:
    storage.trouble = times(9, httpx.Response(404))
    with pytest.raises(PlatformError, match="404"):
        list(client.download(4))
    assert len(storage.links) == 1


def test_a_platform_that_is_down_ends_a_download(client: PlatformClient, storage: Storage) -> None:
    storage.api = lambda request: httpx.Response(503)  # type: ignore[method-assign]
    with pytest.raises(PlatformError, match="GET /files/4: 503"):
        list(client.download(4))


class CutAfter(httpx.SyncByteStream):
    def __init__(self, data: bytes) -> None:
        self.data = data

    def __iter__(self) -> Iterator[bytes]:
        yield self.data[:3]
        yield self.data[3:]
        raise httpx.ReadError("cut")


@pytest.mark.parametrize("ranges", [True, False])
def test_a_broken_download_goes_on(client: PlatformClient, storage: Storage, ranges: bool) -> None:
    data = bytes(range(50))

    def trouble(request: httpx.Request) -> httpx.Response | None:
        first = int(request.headers.get("Range", "bytes=0-")[6:-1]) if ranges else 0
        code = 206 if first else 200
        if len(storage.links) <= 4:
            done = 10 * len(storage.links)
            return httpx.Response(code, stream=CutAfter(data[first:done]))
        return httpx.Response(code, content=data[first:])

    storage.trouble = trouble
    assert b"".join(client.download(4)) == data
    assert [request.headers.get("Range") for request in storage.links] == [
        None,
        *(f"bytes={done}-" for done in (10, 20, 30, 40)),
    ]


def test_a_download_that_ends_early_without_a_word(
    client: PlatformClient, storage: Storage
) -> None:
    storage.stored["/4"] = b"0123456789"
    storage.file["fileSize"] = 10
    storage.trouble = times(1, httpx.Response(200, content=b"0123"))
    assert b"".join(client.download(4)) == b"0123456789"


def test_a_break_after_the_last_byte(client: PlatformClient, storage: Storage) -> None:
    answers = [httpx.Response(200, stream=CutAfter(b"012345")), httpx.Response(416)]
    storage.trouble = lambda request: answers.pop(0)
    assert b"".join(client.download(4)) == b"012345"


def test_a_download_that_never_ends_well(client: PlatformClient, storage: Storage) -> None:
    storage.trouble = lambda request: httpx.ReadError("cut")
    with pytest.raises(PlatformError, match="given up after 8 attempts: ReadError: cut") as caught:
        list(client.download(4))
    assert isinstance(caught.value.__cause__, httpx.ReadError)


def test_a_download_that_nobody_reads_to_its_end(client: PlatformClient, storage: Storage) -> None:
    storage.stored["/4"] = b"data"
    chunks = client.download(4)
    assert not storage.links  # nothing happens before it is read
    next(chunks)
    chunks.close()  # type: ignore[attr-defined]
    assert len(storage.links) == 1


def test_close_ends_a_download(client: PlatformClient, storage: Storage) -> None:
    class Whole(httpx.SyncByteStream):
        def __iter__(self) -> Iterator[bytes]:
            yield from (b"0", b"1", b"2")

    # Nothing breaks on the way: closing alone has to end it.
    storage.trouble = lambda request: httpx.Response(200, stream=Whole())
    chunks = client.download(4)
    next(chunks)
    client.close()
    with pytest.raises(PlatformError, match="download of File 4: the client was closed"):
        list(chunks)


def test_close_ends_the_wait_of_an_upload(client: PlatformClient, storage: Storage) -> None:
    storage.trouble = lambda request: httpx.Response(503)
    client._links._wait = lambda seconds: client.close()
    with pytest.raises(PlatformError, match="upload of File 4: the client was closed"):
        client.upload(b"x", 1, "n", expires_in=DAY)


# Nothing is in memory as a whole.


@contextlib.contextmanager
def peak_below(limit: int) -> Iterator[None]:
    tracemalloc.start()
    try:
        yield
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < limit


@pytest.mark.parametrize("size", [20 * MB, SINGLE_UPLOAD_LIMIT + 1])
@pytest.mark.parametrize("in_memory", [True, False])
def test_uploads_stream(
    client: PlatformClient, storage: Storage, size: int, in_memory: bool
) -> None:
    def swallow(request: httpx.Request) -> httpx.Response:
        received.append(sum(len(chunk) for chunk in request.stream))  # type: ignore[arg-type]
        return httpx.Response(200)

    received: list[int] = []
    storage.trouble = swallow
    with tempfile.TemporaryFile() as file:
        file.truncate(size)
        source = bytes(size) if in_memory else file
        with peak_below(2 * MB):
            client.upload(source, size, "n", expires_in=DAY)
    assert size <= sum(received) < size + 2000


def test_downloads_stream(client: PlatformClient, storage: Storage) -> None:
    class Long(httpx.SyncByteStream):
        def __iter__(self) -> Iterator[bytes]:
            for _ in range(500):
                yield bytes(50_000)

    class Counting(io.RawIOBase):
        def write(self, data: Any) -> int:
            return len(data)

    storage.trouble = lambda request: httpx.Response(200, stream=Long())
    with peak_below(2 * MB):
        assert client.download_to(4, Counting()) == 25 * MB  # type: ignore[arg-type]


# Real sockets, where a connection really breaks.


@contextlib.contextmanager
def server(answers: list[bytes]) -> Iterator[str]:
    """Sends the answers as they are, one a connection; the base URL."""

    class Answer(socketserver.StreamRequestHandler):
        def handle(self) -> None:
            while self.rfile.readline().strip():
                pass
            self.wfile.write(answers.pop(0))

    with socketserver.ThreadingTCPServer(("127.0.0.1", 0), Answer) as tcp:
        thread = threading.Thread(target=tcp.serve_forever, args=(0.01,))
        thread.start()
        try:
            yield f"http://127.0.0.1:{tcp.server_address[1]}/"
        finally:
            tcp.shutdown()
            thread.join()


def whole(body: bytes, status: str = "200 OK", length: int | None = None) -> bytes:
    length = len(body) if length is None else length
    return f"HTTP/1.1 {status}\r\nContent-Length: {length}\r\n\r\n".encode() + body


def test_a_body_cut_short_on_a_socket() -> None:
    answers = [whole(b'{"id"', length=10), b"", b"HTTP/1.1 nonsense\r\n\r\n", whole(b'{"id": 5}')]
    with server(answers) as url:
        client = PlatformClient(url, "aSecret-Key_123")
        client._sender._wait = lambda seconds: None
        assert client.me() == 5
        client.close()
    assert not answers


def test_a_download_cut_short_on_a_socket() -> None:
    answers: list[bytes] = []
    with server(answers) as url:
        file = whole(f'{{"fileUrl": "{url}f", "fileSize": 10}}'.encode())
        answers += [file, whole(b"01234", length=10), file, whole(b"56789", "206 Partial")]
        client = PlatformClient(url, "aSecret-Key_123")
        client._links._wait = lambda seconds: None
        assert b"".join(client.download(4)) == b"0123456789"
        client.close()


def test_a_platform_that_is_down() -> None:
    with server([]) as url:
        pass
    client = PlatformClient(url, "aSecret-Key_123", patience=0.0)
    with pytest.raises(PlatformError, match=r"GET /users/me: no answer .*refused") as caught:
        client.me()
    assert not caught.value.sent
    client.close()
