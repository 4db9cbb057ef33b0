"""Files as the API sees them: names, sizes, ends and links.

The bytes pass through `_storage.transfers`.
"""

from __future__ import annotations

import asyncio
import os
import secrets
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from .._schema import tables
from .._schema.exchange import ApiRequest, Origin, Reply, not_found
from .._schema.fields import moment, read, refuse, truth
from .._settings import MIN_PART_BYTES
from .._state import USER, Platform
from .._storage import links
from .._storage.transfers import blob_path
from .._store import Row

UNKNOWN: dict[str, Any] = {
    "includeHeader": None,
    "columnDelimiter": None,
    "compression": None,
    "tableColumns": [],
}


def file_row(platform: Platform, key: int) -> Row:
    """Return one file, or raise 404."""
    row = platform.store.one("SELECT * FROM files WHERE id = ?", key)
    if row is None:
        raise not_found(f"The file with id {key}")
    return row


def download_url(
    platform: Platform, row: Row, expires: float, origin: Origin, *, inline: bool = False
) -> str | None:
    """Return a link to the bytes, None while there are none or when the file is over."""
    over = row["expires_at"] is not None and row["expires_at"] <= platform.now()
    if row["size"] is None or over:
        return None
    return links.download_url(platform, row["blob"], expires, origin, inline=inline)


def _new(
    platform: Platform, given: Mapping[str, Any], parts: int | None
) -> tuple[Row, dict[str, Any]]:
    now = platform.now()
    # Left out means the Platform's 30 days; an explicit null means for ever.
    expires = given["expiresAt"] if "expiresAt" in given else now + 30 * 24 * 3600.0
    key = platform.store.insert(
        "files",
        name=given["name"],
        created_at=now,
        expires_at=expires,
        description=given.get("description"),
        blob=secrets.token_hex(20),
        parts=parts,
    )
    row = file_row(platform, key)
    return row, _identity(platform, row)


def _identity(platform: Platform, row: Row) -> dict[str, Any]:
    return {
        "id": row["id"],
        "name": row["name"],
        "createdAt": platform.time(row["created_at"]),
        "fileSize": row["size"] or 0,
        "expiresAt": platform.time(row["expires_at"]),
        "description": row["description"],
    }


def create_file(platform: Platform, request: ApiRequest) -> Reply:
    """POST /files: the form to upload with."""
    row, body = _new(platform, read(tables.NEW_FILE, request.body), None)
    url, fields = links.upload_form(platform, row["blob"], request.origin)
    body |= {"uploadUrl": url, "uploadFields": fields, "myPermissionLevel": "manage"}
    return Reply(201, body)


def create_multipart(platform: Platform, request: ApiRequest) -> Reply:
    """POST /files/multipart: a URL for each part."""
    given = read(tables.NEW_MULTIPART, request.body)
    if given["numParts"] > 10_000:
        raise refuse("numParts must be less than or equal to 10000")
    row, body = _new(platform, given, given["numParts"])
    parts = range(1, given["numParts"] + 1)
    urls = [links.part_url(platform, row["blob"], part, request.origin) for part in parts]
    return Reply(201, {**body, "uploadUrls": urls})


async def complete_multipart(platform: Platform, request: ApiRequest) -> Reply:
    """POST /files/multipart/{id}/complete: all parts are there, and only the last is small."""
    async with platform.joining:  # a repeated call waits for the first, and finds it done
        row = file_row(platform, request.id())
        if row["parts"] is None:
            raise not_found(f"The multipart upload of file {row['id']}")
        if row["size"] is None:
            size = await asyncio.to_thread(
                _join, _taken_parts(platform, row), blob_path(platform, row["blob"])
            )
            platform.store.update("files", row["id"], size=size)
    return Reply(204)


def _taken_parts(platform: Platform, row: Row) -> list[Path]:
    """Take the parts away, so that a late upload of one cannot change what is being joined."""
    paths = [blob_path(platform, row["blob"], part) for part in range(1, row["parts"] + 1)]
    missing = [str(index) for index, path in enumerate(paths, 1) if not path.exists()]
    if missing:
        raise refuse(f"parts {', '.join(missing)} were not uploaded")
    if any(path.stat().st_size < MIN_PART_BYTES for path in paths[:-1]):
        raise refuse("Your proposed upload is smaller than the minimum allowed size")
    taken = [path.with_name(f"taken-{path.name}") for path in paths]
    for path, new in zip(paths, taken, strict=True):
        os.replace(path, new)
    return taken


def _join(paths: list[Path], whole: Path) -> int:
    """Append the later parts to the first and give it the name of the whole; in a thread."""
    with paths[0].open("ab") as target:
        for path in paths[1:]:
            with path.open("rb") as source:
                shutil.copyfileobj(source, target, 2**20)
            path.unlink()
        size = target.tell()
    os.replace(paths[0], whole)
    return size


def _shown(
    platform: Platform, row: Row, expires: float, origin: Origin, *, inline: bool
) -> dict[str, Any]:
    return {
        **_identity(platform, row),
        "author": USER,
        "downloadUrl": download_url(platform, row, expires, origin),
        "fileUrl": download_url(platform, row, expires, origin, inline=inline),
        "detectedInfo": UNKNOWN,
        "myPermissionLevel": "manage",
    }


def get_file(platform: Platform, request: ApiRequest) -> Reply:
    """GET /files/{id}, with links that live 30 minutes unless another end is asked for."""
    now = platform.now()
    expires = now + links.DOWNLOAD_SECONDS
    asked = request.query.get("link_expires_at")
    try:
        if asked:
            expires = moment(asked)
        inline = truth(request.query.get("inline") or "false")
    except ValueError:
        raise refuse("link_expires_at or inline is invalid") from None
    if not now - 1 <= expires <= now + links.MOST_DOWNLOAD_SECONDS:
        raise refuse("link_expires_at must be between now and 36 hours from now")
    return Reply(
        200,
        _shown(platform, file_row(platform, request.id()), expires, request.origin, inline=inline),
    )


def patch_file(platform: Platform, request: ApiRequest) -> Reply:
    """PATCH /files/{id}."""
    row = file_row(platform, request.id())
    given = read(tables.FILE_CHANGE, request.body)
    changes: dict[str, Any] = {}
    if given.get("name") is not None:
        if os.path.splitext(given["name"])[1] != os.path.splitext(row["name"])[1]:
            raise refuse("name must keep the extension")
        changes["name"] = given["name"]
    if "expiresAt" in given:
        changes["expires_at"] = given["expiresAt"]
    if "description" in given:
        changes["description"] = given["description"]
    if changes:
        platform.store.update("files", row["id"], **changes)
    row = file_row(platform, row["id"])
    return Reply(
        200,
        _shown(
            platform, row, platform.now() + links.DOWNLOAD_SECONDS, request.origin, inline=False
        ),
    )
