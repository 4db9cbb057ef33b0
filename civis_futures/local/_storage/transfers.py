"""The file links: another port than the API's, no key, only signatures; in the manner of S3.

Bytes go between sockets and the blob folder. A key that is sent here is refused, as S3 refuses two
kinds of authentication at once: a client that leaks its key to a storage host finds out.

A form upload is read as it comes: small fields first, then one file that goes straight to disk.
Parts may have a filename or not (some clients give every field one); whether they may come is asked
once, when the file begins.
"""

from __future__ import annotations

import os
import secrets
from collections.abc import AsyncIterator, Callable
from html import escape
from pathlib import Path
from typing import IO

from python_multipart.multipart import MultipartParser, parse_options_header
from starlette.requests import ClientDisconnect, Request
from starlette.responses import FileResponse, Response

from .._settings import MAX_FILE_BYTES
from .._state import Platform
from .._store import Row
from . import links


class _RefusalError(Exception):
    def __init__(self, status: int, code: str, message: str) -> None:
        super().__init__(message)
        self.response = Response(
            '<?xml version="1.0" encoding="UTF-8"?>\n'
            f"<Error><Code>{code}</Code><Message>{escape(message)}</Message></Error>",
            status,
            media_type="application/xml",
        )


class _Download(FileResponse):
    chunk_size = 256 * 1024  # each chunk is a trip to a thread


async def serve(platform: Platform, request: Request) -> Response:
    """Answer one request on the storage port."""
    try:
        if "authorization" in request.headers:
            raise _RefusalError(400, "InvalidArgument", "Only one auth mechanism allowed")
        if request.method == "POST":
            return await _post(platform, request)
        if request.method == "PUT":
            return await _put(platform, request)
        if request.method in ("GET", "HEAD"):
            return _get(platform, request)
        raise _RefusalError(405, "MethodNotAllowed", "The method is not allowed")
    except _RefusalError as refusal:
        return refusal.response
    except ClientDisconnect:
        return Response(status_code=400)


def _row(platform: Platform, blob: str) -> Row:
    row = platform.store.one("SELECT * FROM files WHERE blob = ?", blob)
    if row is None:
        raise _RefusalError(404, "NoSuchKey", "The specified key does not exist.")
    return row


def _allowed(platform: Platform, request: Request) -> tuple[Row, str]:
    blob = request.scope["path"].strip("/")
    try:
        extra = links.check(platform, request.method, blob, request.query_params)
    except links.LinkError as error:
        raise _RefusalError(403, "AccessDenied", str(error)) from None
    return _row(platform, blob), extra


def _get(platform: Platform, request: Request) -> Response:
    row, extra = _allowed(platform, request)
    over = row["expires_at"] is not None and row["expires_at"] <= platform.now()
    path = blob_path(platform, row["blob"])
    if over or row["size"] is None:
        raise _RefusalError(404, "NoSuchKey", "The specified key does not exist.")
    if request.method == "GET":
        platform.counters.downloads += 1
    return _Download(
        path,
        media_type="binary/octet-stream",
        filename=row["name"],
        stat_result=os.stat(path),
        content_disposition_type="inline" if extra else "attachment",
    )


async def _put(platform: Platform, request: Request) -> Response:
    row, extra = _allowed(platform, request)
    fresh = _fresh(platform)
    size = 0
    try:
        with fresh.open("wb") as target:
            async for chunk in request.stream():
                size += len(chunk)
                if size > min(platform.settings.max_file_size, MAX_FILE_BYTES):
                    raise _RefusalError(400, "EntityTooLarge", "The part exceeds the maximum size")
                target.write(chunk)
        if row["size"] is not None:
            raise _RefusalError(404, "NoSuchUpload", "The upload was completed already.")
        os.replace(fresh, blob_path(platform, row["blob"], int(extra)))
    finally:
        fresh.unlink(missing_ok=True)
    _count_upload(platform, size)
    return Response(status_code=200, headers={"ETag": f'"{secrets.token_hex(16)}"'})


async def _post(platform: Platform, request: Request) -> Response:
    fresh = _fresh(platform)
    found: list[Row] = []

    def allow(fields: dict[str, str]) -> Path:
        try:
            links.check(platform, "POST", fields.get("key", ""), {**fields, "extra": ""})
        except links.LinkError as error:
            raise _RefusalError(403, "AccessDenied", str(error)) from None
        found.append(_row(platform, fields["key"]))
        return fresh

    form = UploadForm(allow, min(platform.settings.max_file_size, MAX_FILE_BYTES))
    try:
        await form.read(request.headers.get("content-type", ""), request.stream())
        os.replace(fresh, blob_path(platform, found[0]["blob"]))
    except FormError as error:
        raise _RefusalError(400, "MalformedPOSTRequest", str(error)) from None
    except TooLargeError:
        said = "Your proposed upload exceeds the maximum allowed size"
        raise _RefusalError(400, "EntityTooLarge", said) from None
    finally:
        fresh.unlink(missing_ok=True)
    assert form.size is not None
    platform.store.update("files", found[0]["id"], size=form.size)
    _count_upload(platform, form.size)
    return Response(status_code=204)


def _fresh(platform: Platform) -> Path:
    """Return a name to write to; the blob appears whole, under its own name, or not at all."""
    return platform.store.blobs / f"new-{secrets.token_hex(16)}"


def _count_upload(platform: Platform, size: int) -> None:
    platform.counters.uploads += 1
    platform.counters.upload_bytes += size


class FormError(Exception):
    """The body is not such a form."""


class TooLargeError(Exception):
    """There is more of it than allowed."""


class UploadForm:
    """The state of one upload; `fields` are complete when `allow` is called."""

    def __init__(self, allow: Callable[[dict[str, str]], Path], most: int) -> None:
        self.fields: dict[str, str] = {}
        self.size: int | None = None
        self._allow = allow
        self._most = most  # bytes of the file
        self._room = 20_000  # bytes that all fields but the file may still have
        self._header: list[bytearray] = [bytearray(), bytearray()]
        self._name = ""
        self._value = bytearray()
        self._file: IO[bytes] | None = None

    async def read(self, content_type: str, body: AsyncIterator[bytes]) -> None:
        """Read the whole body, or raise FormError, TooLargeError or what `allow` raises."""
        kind, options = parse_options_header(content_type)
        if kind != b"multipart/form-data" or b"boundary" not in options:
            raise FormError("The body is not multipart/form-data")
        parser = MultipartParser(
            options[b"boundary"],
            {
                "on_part_begin": self._begin,
                "on_header_field": lambda data, start, end: self._add_header(0, data[start:end]),
                "on_header_value": lambda data, start, end: self._add_header(1, data[start:end]),
                "on_header_end": self._end_header,
                "on_headers_finished": self._open,
                "on_part_data": lambda data, start, end: self._add(data[start:end]),
                "on_part_end": self._close_part,
            },
        )
        try:
            async for chunk in body:
                parser.write(chunk)
            parser.finalize()
        except ValueError as error:  # the parser's own errors are among them
            raise FormError(str(error)) from error
        finally:
            if self._file is not None:
                self._file.close()
        if self.size is None:
            raise FormError("POST requires exactly one file upload per request")

    def _begin(self) -> None:
        self._name, self._value = "", bytearray()

    def _add_header(self, which: int, data: bytes) -> None:
        self._spend(len(data))
        self._header[which] += data

    def _end_header(self) -> None:
        field, value = self._header
        if field.lower() == b"content-disposition":
            _, options = parse_options_header(bytes(value))
            self._name = options.get(b"name", b"").decode("utf-8", "replace")
        self._header = [bytearray(), bytearray()]

    def _open(self) -> None:
        if self._name == "file":
            if self.size is not None:
                raise FormError("POST requires exactly one file upload per request")
            self._file = self._allow(self.fields).open("wb")
            self.size = 0

    def _add(self, data: bytes) -> None:
        if self._file is None:
            self._spend(len(data))
            self._value += data
            return
        assert self.size is not None
        self.size += len(data)
        if self.size > self._most:
            raise TooLargeError
        self._file.write(data)

    def _close_part(self) -> None:
        if self._file is not None:
            self._file.close()
            self._file = None
        elif self._name:
            self.fields[self._name] = self._value.decode("utf-8", "replace")

    def _spend(self, size: int) -> None:
        self._room -= size
        if self._room < 0:
            raise FormError("The form's fields are too large")


def blob_path(platform: Platform, blob: str, part: int | None = None) -> Path:
    """Return where the bytes are; `blob` is a name that we made."""
    return platform.store.blobs / (blob if part is None else f"{blob}.{part}")
