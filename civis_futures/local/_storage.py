"""The file links: another port than the API's, no key, only signatures; in the manner of S3.

Bytes go between sockets and the blob folder. A key that is sent here is refused, as S3 refuses two
kinds of authentication at once: a client that leaks its key to a storage host finds out.
"""

from __future__ import annotations

import os
import secrets
import time
from html import escape
from pathlib import Path

from starlette.requests import ClientDisconnect, Request
from starlette.responses import FileResponse, Response

from . import _links as links
from ._files import blob_path
from ._form import FormError, TooLargeError, UploadForm
from ._settings import MAX_FILE_BYTES
from ._site import Site
from ._store import Row


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


async def serve(site: Site, request: Request) -> Response:
    """Answer one request on the storage port."""
    try:
        if "authorization" in request.headers:
            raise _RefusalError(400, "InvalidArgument", "Only one auth mechanism allowed")
        if request.method == "POST":
            return await _post(site, request)
        if request.method == "PUT":
            return await _put(site, request)
        if request.method in ("GET", "HEAD"):
            return _get(site, request)
        raise _RefusalError(405, "MethodNotAllowed", "The method is not allowed")
    except _RefusalError as refusal:
        return refusal.response
    except ClientDisconnect:
        return Response(status_code=400)


def _row(site: Site, blob: str) -> Row:
    row = site.store.one("SELECT * FROM files WHERE blob = ?", blob)
    if row is None:
        raise _RefusalError(404, "NoSuchKey", "The specified key does not exist.")
    return row


def _allowed(site: Site, request: Request) -> tuple[Row, str]:
    blob = request.url.path.strip("/")
    try:
        extra = links.check(site, request.method, blob, request.query_params)
    except links.LinkError as error:
        raise _RefusalError(403, "AccessDenied", str(error)) from None
    return _row(site, blob), extra


def _get(site: Site, request: Request) -> Response:
    row, extra = _allowed(site, request)
    over = row["expires_at"] is not None and row["expires_at"] <= time.time()
    path = blob_path(site, row["blob"])
    if over or row["size"] is None:
        raise _RefusalError(404, "NoSuchKey", "The specified key does not exist.")
    if request.method == "GET":
        site.counters.downloads += 1
    return _Download(
        path,
        media_type="binary/octet-stream",
        filename=row["name"],
        stat_result=os.stat(path),
        content_disposition_type="inline" if extra else "attachment",
    )


async def _put(site: Site, request: Request) -> Response:
    row, extra = _allowed(site, request)
    fresh = _fresh(site)
    size = 0
    try:
        with fresh.open("wb") as target:
            async for chunk in request.stream():
                size += len(chunk)
                if size > min(site.settings.max_file_size, MAX_FILE_BYTES):
                    raise _RefusalError(400, "EntityTooLarge", "The part exceeds the maximum size")
                target.write(chunk)
        if row["size"] is not None:
            raise _RefusalError(404, "NoSuchUpload", "The upload was completed already.")
        os.replace(fresh, blob_path(site, row["blob"], int(extra)))
    finally:
        fresh.unlink(missing_ok=True)
    _count_upload(site, size)
    return Response(status_code=200, headers={"ETag": f'"{secrets.token_hex(16)}"'})


async def _post(site: Site, request: Request) -> Response:
    fresh = _fresh(site)
    found: list[Row] = []

    def allow(fields: dict[str, str]) -> Path:
        try:
            links.check(site, "POST", fields.get("key", ""), {**fields, "extra": ""})
        except links.LinkError as error:
            raise _RefusalError(403, "AccessDenied", str(error)) from None
        found.append(_row(site, fields["key"]))
        return fresh

    form = UploadForm(allow, min(site.settings.max_file_size, MAX_FILE_BYTES))
    try:
        await form.read(request.headers.get("content-type", ""), request.stream())
        os.replace(fresh, blob_path(site, found[0]["blob"]))
    except FormError as error:
        raise _RefusalError(400, "MalformedPOSTRequest", str(error)) from None
    except TooLargeError:
        said = "Your proposed upload exceeds the maximum allowed size"
        raise _RefusalError(400, "EntityTooLarge", said) from None
    finally:
        fresh.unlink(missing_ok=True)
    assert form.size is not None
    site.store.update("files", found[0]["id"], size=form.size)
    _count_upload(site, form.size)
    return Response(status_code=204)


def _fresh(site: Site) -> Path:
    """Return a name to write to; the blob appears whole, under its own name, or not at all."""
    return site.store.blobs / f"new-{secrets.token_hex(16)}"


def _count_upload(site: Site, size: int) -> None:
    site.counters.uploads += 1
    site.counters.upload_bytes += size
