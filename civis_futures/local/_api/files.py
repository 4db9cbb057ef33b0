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
from .._schema.exchange import Ask, Origin, Reply, not_found
from .._schema.fields import moment, read, refuse, truth
from .._settings import MIN_PART_BYTES
from .._site import USER, Site
from .._storage import links
from .._storage.transfers import blob_path
from .._store import Row

RETENTION_SECONDS = 30 * 24 * 3600.0
UNKNOWN: dict[str, Any] = {
    "includeHeader": None,
    "columnDelimiter": None,
    "compression": None,
    "tableColumns": [],
}


def file_row(site: Site, key: int) -> Row:
    """Return one file, or raise 404."""
    row = site.store.one("SELECT * FROM files WHERE id = ?", key)
    if row is None:
        raise not_found(f"The file with id {key}")
    return row


def download_url(
    site: Site, row: Row, expires: float, asker: Origin, *, inline: bool = False
) -> str | None:
    """Return a link to the bytes, None while there are none or when the file is over."""
    over = row["expires_at"] is not None and row["expires_at"] <= site.now()
    if row["size"] is None or over:
        return None
    return links.download_url(site, row["blob"], expires, asker, inline=inline)


def _new(site: Site, given: Mapping[str, Any], parts: int | None) -> tuple[Row, dict[str, Any]]:
    now = site.now()
    # Left out means the Platform's retention; an explicit null means for ever.
    expires = given["expiresAt"] if "expiresAt" in given else now + RETENTION_SECONDS
    key = site.store.insert(
        "files",
        name=given["name"],
        created_at=now,
        expires_at=expires,
        description=given.get("description"),
        blob=secrets.token_hex(20),
        parts=parts,
    )
    row = file_row(site, key)
    return row, _identity(site, row)


def _identity(site: Site, row: Row) -> dict[str, Any]:
    return {
        "id": row["id"],
        "name": row["name"],
        "createdAt": site.time(row["created_at"]),
        "fileSize": row["size"] or 0,
        "expiresAt": site.time(row["expires_at"]),
        "description": row["description"],
    }


def create_file(site: Site, ask: Ask) -> Reply:
    """POST /files: the form to upload with."""
    row, body = _new(site, read(tables.NEW_FILE, ask.body), None)
    url, fields = links.upload_form(site, row["blob"], ask.origin)
    body |= {"uploadUrl": url, "uploadFields": fields, "myPermissionLevel": "manage"}
    return Reply(201, body)


def create_multipart(site: Site, ask: Ask) -> Reply:
    """POST /files/multipart: a URL for each part."""
    given = read(tables.NEW_MULTIPART, ask.body)
    if given["numParts"] > 10_000:
        raise refuse("numParts must be less than or equal to 10000")
    row, body = _new(site, given, given["numParts"])
    parts = range(1, given["numParts"] + 1)
    urls = [links.part_url(site, row["blob"], part, ask.origin) for part in parts]
    return Reply(201, {**body, "uploadUrls": urls})


async def complete_multipart(site: Site, ask: Ask) -> Reply:
    """POST /files/multipart/{id}/complete: all parts are there, and only the last is small."""
    async with site.joining:  # a repeated call waits for the first, and finds it done
        row = file_row(site, ask.id())
        if row["parts"] is None:
            raise not_found(f"The multipart upload of file {row['id']}")
        if row["size"] is None:
            size = await asyncio.to_thread(
                _join, _taken_parts(site, row), blob_path(site, row["blob"])
            )
            site.store.update("files", row["id"], size=size)
    return Reply(204)


def _taken_parts(site: Site, row: Row) -> list[Path]:
    """Take the parts away, so that a late upload of one cannot change what is being joined."""
    paths = [blob_path(site, row["blob"], part) for part in range(1, row["parts"] + 1)]
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


def _shown(site: Site, row: Row, expires: float, asker: Origin, *, inline: bool) -> dict[str, Any]:
    return {
        **_identity(site, row),
        "author": USER,
        "downloadUrl": download_url(site, row, expires, asker),
        "fileUrl": download_url(site, row, expires, asker, inline=inline),
        "detectedInfo": UNKNOWN,
        "myPermissionLevel": "manage",
    }


def get_file(site: Site, ask: Ask) -> Reply:
    """GET /files/{id}, with links that live 30 minutes unless another end is asked for."""
    now = site.now()
    expires = now + links.DOWNLOAD_SECONDS
    asked = ask.query.get("link_expires_at")
    try:
        if asked:
            expires = moment(asked)
        inline = truth(ask.query.get("inline") or "false")
    except ValueError:
        raise refuse("link_expires_at or inline is invalid") from None
    if not now - 1 <= expires <= now + links.MOST_DOWNLOAD_SECONDS:
        raise refuse("link_expires_at must be between now and 36 hours from now")
    return Reply(200, _shown(site, file_row(site, ask.id()), expires, ask.origin, inline=inline))


def patch_file(site: Site, ask: Ask) -> Reply:
    """PATCH /files/{id}."""
    row = file_row(site, ask.id())
    given = read(tables.FILE_CHANGE, ask.body)
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
        site.store.update("files", row["id"], **changes)
    row = file_row(site, row["id"])
    return Reply(
        200, _shown(site, row, site.now() + links.DOWNLOAD_SECONDS, ask.origin, inline=False)
    )
