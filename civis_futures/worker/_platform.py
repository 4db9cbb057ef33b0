"""The requests that a worker makes of the platform. No policy but what the API's contract asks for.

It knows paths, bodies and links; it does not know what the bytes mean.
"""

from __future__ import annotations

import base64
import hashlib
import json
import os
import time
from email.utils import parsedate_to_datetime  # which http.client has imported
from urllib.parse import quote  # which `_http` imports as well

from .._wire import TAKEN, WireError
from ._http import Http, HttpError, RefusedError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from email.message import Message
    from http.client import HTTPResponse
    from io import FileIO
    from typing import Any

    from .._wire import Blob

#: How a platform of ours says for how many seconds it holds the request for a JSON value until the
#: value changes, and how it is asked to.
HOLD_HEADER = "Civis-Local-Hold"
#: By which name we wait: what is changed for others alone need not be told at once.
FOR_HEADER = "Civis-Local-For"
#: How it is asked, and says, that a JSON value is an output at once; and the script's name then.
OUTPUT_HEADER, NAME_HEADER = "Civis-Local-Output", "Civis-Local-Name"
_CHUNK = 1 << 20
_NEWEST, _FIRST_LINES = 5, 1000
_LINKS = 3  # how many links to ask for before a transfer is given up: they expire
_LAST_TIME = 7_258_118_400.0  # the year 2200: a later date, which may have no time, is not meant
_DAY = 86400.0  # seconds
_KEEP_FOR = 30 * _DAY  # seconds; as Files of the platform live, for those who come back late


class NoRoomError(HttpError):
    """The disk has no room for what is being fetched."""


class PlatformRequests:
    """The API at `url` for the run `run_id` of the job `job_id`."""

    def __init__(
        self,
        url: str,
        key: str,
        job_id: str,
        run_id: str,
        http: Http,
        *,
        single_upload: int = 50 << 20,  # bytes; a larger file goes up in parts
        smallest_part: int = 5 << 20,
    ) -> None:
        self.http = http
        self._single_upload = single_upload
        self._smallest_part = smallest_part
        self._url = url.rstrip("/")
        self._ids = f"{job_id}/{run_id}"
        self._job = f"/scripts/containers/{job_id}"
        self._run = f"{self._job}/runs/{run_id}"
        self.clock = ServerClock()
        secret = base64.b64encode(f"{key}:".encode()).decode()
        self.offered = 0.0  # seconds for which it held the request for the JSON value read last
        self._tag = ""  # of that JSON value
        self._headers = {"Authorization": f"Basic {secret}", "User-Agent": "civis-futures-worker"}

    def json_value(self, value_id: int) -> Any:
        """What a JSON value holds; then `offered` says whether one can wait for it to change."""
        return self._json_value(value_id, {})

    def next_json_value(self, value_id: int, seconds: float, name: str) -> tuple[bool, Any]:
        """What it holds as soon as it is changed for who has this `name`, or for everybody; False
        if it is what was read last, after so long.

        Raises:
            HttpError: there was no answer. It was asked once only: it may be that a proxy between
                us and the platform does not bear it that requests wait.
        """
        patience, self.http.patience = self.http.patience, 0.0
        held = {"If-None-Match": self._tag, HOLD_HEADER: f"{seconds:g}", FOR_HEADER: name}
        try:
            return True, self._json_value(value_id, held)
        except RefusedError as error:
            if error.status != 304:  # as it was
                raise
            return False, None
        finally:
            self.http.patience = patience

    def _json_value(self, value_id: int, more: dict[str, str]) -> Any:
        def note(headers: Message) -> None:
            try:
                self.offered = float(headers.get(HOLD_HEADER, "0"))
            except ValueError:
                self.offered = 0.0
            self._tag = headers.get("ETag", "")

        path = f"/json_values/{value_id}"
        return self._api("GET", path, "value", headers=more, note=note)["value"]

    def post_output(self, name: str, text: str, script: str = "") -> bool:
        """Make a JSON value out of `text`, and an output of the run out of that. A platform of ours
        does this in one request, and gives the script its new name; whether that is done.
        """
        more, done = {}, ""

        def note(headers: Message) -> None:
            nonlocal done
            done = headers.get(OUTPUT_HEADER, "")

        if self.offered:
            more = {OUTPUT_HEADER: self._ids, **({NAME_HEADER: quote(script)} if script else {})}
        body: dict[str, Any] = {"name": name, "valueStr": text}
        value = self._api("POST", "/json_values", "id", body, headers=more, note=note)
        if done:
            return bool(script)
        body = {"objectType": "JSONValue", "objectId": value["id"]}
        self._api("POST", f"{self._run}/outputs", "objectId", body)
        return False

    def first_lines(self) -> list[str]:
        """The first lines of this run's log, however often it was started."""
        rows = self._list(f"{self._run}/logs?last_id=0&limit={_FIRST_LINES}")
        return [str(row.get("message")) for row in rows]

    def newest_outputs(self) -> list[str]:
        """The names of the newest outputs of the run; of few, as each comes with its value."""
        return [str(row.get("name")) for row in self._list(f"{self._run}/outputs?limit={_NEWEST}")]

    def _list(self, path: str) -> list[dict[str, Any]]:
        def read(reply: HTTPResponse) -> list[dict[str, Any]]:
            rows = json.loads(reply.read())
            if not isinstance(rows, list):
                raise ValueError("not a list")
            return [row for row in rows if isinstance(row, dict)]

        return self.http.request("GET", self._url + path, read, self._headers)

    def rename(self, name: str, patience: float) -> None:
        """Give the script of this run another name; try it for `patience` seconds at the most."""
        before = self.http.patience
        self.http.patience = min(before, patience)
        try:
            self._api("PATCH", self._job, "id", {"name": name})
        finally:
            self.http.patience = before

    def is_taken(self, script: int) -> bool:
        """Whether the process that a script stands for has lost its session to another one.

        Asked for by its id, it is as it is: lists may lag behind. Where it may not be read, nobody
        can tell.
        """
        try:
            answer = self._api("GET", f"/scripts/containers/{script}", "name")
        except RefusedError:
            return False
        return str(answer["name"]).endswith(TAKEN)

    def upload(self, name: str, source: Outgoing) -> int:
        """Put bytes into a new File that expires in 30 days; its id."""
        send = self._upload_parts if source.size > self._single_upload else self._upload_form
        for attempt in range(1, _LINKS + 1):
            try:
                return send(name, source)
            except RefusedError:  # a link may have expired while we tried; a new File has a new one
                if attempt == _LINKS:
                    raise
                self.clock.observe(self.http.date, self.http.sent)
        raise AssertionError("unreachable")

    def download(self, file_id: int, path: str, blob: Blob | None = None) -> None:
        """Write a File's bytes to `path`; WireError if they are not those of `blob`."""
        for attempt in range(_LINKS):
            link = self._api("GET", f"/files/{file_id}", "fileUrl")["fileUrl"]
            if not link:
                raise HttpError(f"File {file_id} is empty or has expired")
            try:
                digest, size = self.http.request("GET", link, _saver(path), {})
            except RefusedError:
                if attempt == _LINKS - 1:
                    raise
                continue
            if blob is None or (digest, size) == (blob.sha256, blob.size):
                return
            if attempt:
                raise WireError(
                    f"the bytes in File {file_id} are not those that were sent: "
                    f"{size:,} bytes for {blob.size:,}, or another SHA-256"
                )

    def _api(
        self,
        method: str,
        path: str,
        expected: str,
        body: dict[str, Any] | None = None,
        *,
        headers: dict[str, str] | None = None,
        note: Callable[[Message], None] | None = None,
    ) -> dict[str, Any]:
        """The object that the API answers with; an answer without the field `expected` is none."""

        def read(reply: HTTPResponse) -> dict[str, Any]:
            value = json.loads(reply.read())
            if not isinstance(value, dict) or expected not in value:
                raise ValueError(f"not an answer with {expected!r}")
            self.clock.observe(reply.headers.get("Date"), self.http.sent)
            if note is not None:
                note(reply.headers)
            return value

        headers = {**self._headers, **(headers or {})}
        if body is None:
            return self.http.request(method, self._url + path, read, headers)
        data = json.dumps(body).encode()
        headers.update({"Content-Type": "application/json", "Content-Length": str(len(data))})
        return self.http.request(method, self._url + path, read, headers, lambda: (data,))

    def _new_file(self, path: str, expected: str, name: str, **more: Any) -> dict[str, Any]:
        """A new File that expires in 30 days.

        It may be the first thing that is asked. If the answer tells that the platform's clock is
        another one, and the File's end is wrong by a day, there is another File.
        """
        while True:
            end = self.clock.now() + _KEEP_FOR
            body = {"name": name, "expiresAt": _timestamp(end), **more}
            file = self._api("POST", path, expected, body)
            if abs(self.clock.now() + _KEEP_FOR - end) < _DAY:
                return file

    def _upload_form(self, name: str, source: Outgoing) -> int:
        """One POST of a form, as S3 wants it: the fields as given, `key` first, `file` last."""
        file = self._new_file("/files", "uploadUrl", name)
        fields = dict(file["uploadFields"])
        fields = {**{k: v for k, v in fields.items() if k == "key"}, **fields}
        edge = os.urandom(16).hex()
        head = "".join(
            f'--{edge}\r\nContent-Disposition: form-data; name="{field}"\r\n\r\n{value}\r\n'
            for field, value in fields.items()
        )
        head += (
            f'--{edge}\r\nContent-Disposition: form-data; name="file"; filename="outcome"\r\n'
            "Content-Type: application/octet-stream\r\n\r\n"
        )
        first, last = head.encode(), f"\r\n--{edge}--\r\n".encode()

        def content() -> Iterator[bytes]:
            yield first
            yield from source.pieces(0, source.size)
            yield last

        headers = {
            "Content-Type": f"multipart/form-data; boundary={edge}",
            "Content-Length": str(len(first) + source.size + len(last)),
        }
        self.http.request("POST", file["uploadUrl"], _nothing, headers, content)
        return int(file["id"])

    def _upload_parts(self, name: str, source: Outgoing) -> int:
        """A PUT for each part. The parts grow with the file, as those of the `civis` client do."""
        step = max(int((self._smallest_part * source.size) ** 0.5), self._smallest_part)
        starts = range(0, source.size, step)
        file = self._new_file("/files/multipart", "uploadUrls", name, numParts=len(starts))
        for start, link in zip(starts, file["uploadUrls"]):  # noqa: B905 (no `strict` in 3.8)
            size = min(step, source.size - start)
            headers = {"Content-Length": str(size)}
            self.http.request("PUT", link, _nothing, headers, source.part(start, size))
        complete = f"{self._url}/files/multipart/{file['id']}/complete"
        self.http.request("POST", complete, _nothing, self._headers)
        return int(file["id"])


class Outgoing:
    """Bytes to upload: in memory, or in a file, which is removed at once: what is open stays, and
    user code cannot take it away. OSError if it has done so already.
    """

    def __init__(self, data: bytes = b"", path: str | None = None) -> None:
        self._data = data
        self._file: FileIO | None = None
        self.size = len(data)
        if path is not None:
            self._file = open(path, "rb", buffering=0)  # noqa: SIM115 (see `close`)
            os.unlink(path)
            self.size = os.fstat(self._file.fileno()).st_size

    def pieces(self, start: int, size: int) -> Iterator[bytes]:
        """`size` bytes from `start` on, some at a time."""
        if self._file is None:
            yield self._data[start : start + size]
            return
        self._file.seek(start)
        while size > 0:
            piece = self._file.read(min(_CHUNK, size))
            if not piece:
                raise HttpError("the file of an outcome has become shorter")
            size -= len(piece)
            yield piece

    def part(self, start: int, size: int) -> Callable[[], Iterator[bytes]]:
        """`pieces`, for a request that may need them again."""
        return lambda: self.pieces(start, size)

    def close(self) -> None:
        """Let go of the file."""
        if self._file is not None:
            self._file.close()

    def digest(self) -> str:
        """The SHA-256 of the bytes."""
        total = hashlib.sha256()
        for piece in self.pieces(0, self.size):
            total.update(piece)
        return total.hexdigest()


def _nothing(reply: HTTPResponse) -> None:
    reply.read()


def _saver(path: str) -> Callable[[HTTPResponse], tuple[str, int]]:
    """A reader that writes a reply to `path`, and returns its SHA-256 and its size."""

    def save(reply: HTTPResponse) -> tuple[str, int]:
        total, size = hashlib.sha256(), 0
        with _created(path) as file:
            while True:
                piece = reply.read(_CHUNK)
                if not piece:
                    break
                total.update(piece)
                size += len(piece)
                _store(file, piece)
        if reply.length:  # `read(n)`, unlike `read()`, does not mind an early end
            raise ConnectionError(f"{reply.length:,} bytes are missing")
        return total.hexdigest(), size

    return save


def _created(path: str) -> FileIO:
    """A new file there, in a folder that user code may have removed."""
    try:
        os.makedirs(os.path.dirname(path) or ".", 0o700, exist_ok=True)
        return open(path, "wb", buffering=0)
    except OSError as error:  # must not pass for a network error, which would be tried again
        raise NoRoomError(f"no room for the bytes of a call: {error}") from error


def _store(file: FileIO, piece: bytes) -> None:
    view = memoryview(piece)
    try:
        while view:
            view = view[file.write(view) :]
    except OSError as error:  # as above
        raise NoRoomError(f"no room for the bytes of a call: {error}") from error


class ServerClock:
    """What time it is on the platform, in seconds since the epoch, by the `Date` of its answers.

    A date has whole seconds. So each says when a second had begun at the latest, and the one that
    came soonest after that tells the most. This machine's own clock counts until one has come.
    """

    def __init__(self) -> None:
        self._ahead: float | None = None  # of the monotonic clock

    def observe(self, date: str | None, sent: float) -> None:
        """Take in the date of an answer that has just come; it was asked for at `sent`."""
        try:
            seconds = parsedate_to_datetime(date or "").timestamp()
        except (TypeError, ValueError, IndexError, OverflowError):
            return
        if 0.0 < seconds < _LAST_TIME:
            least, most = seconds - time.monotonic(), seconds + 1.0 - sent
            known = self._ahead
            self._ahead = least if known is None or known > most else max(known, least)

    def now(self) -> float:
        """The time there; right to a second, and to less after some answers."""
        return time.time() if self._ahead is None else time.monotonic() + self._ahead


def _timestamp(seconds: float) -> str:
    """A time as the API writes it. The offset matters: without one it is taken for UTC."""
    return time.strftime("%Y-%m-%dT%H:%M:%S+00:00", time.gmtime(seconds))
