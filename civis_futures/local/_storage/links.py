"""Links to stored bytes: signed, for one purpose, until a certain time.

A link is what gives access, so it names the verb, the blob, the part and its end, all signed.
"""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Mapping
from urllib.parse import urlencode

from .._schema.exchange import Origin
from .._state import Platform

UPLOAD_SECONDS = 12 * 3600.0
DOWNLOAD_SECONDS = 30 * 60.0
MOST_DOWNLOAD_SECONDS = 36 * 3600.0


class LinkError(Exception):
    """The link is not one of ours, or its time is over."""


def _signature(platform: Platform, verb: str, blob: str, extra: str, expires: str) -> str:
    said = "\n".join((verb, blob, extra, expires)).encode("utf-8", "surrogatepass")
    return hmac.new(platform.store.secret, said, hashlib.sha256).hexdigest()


def download_url(
    platform: Platform, blob: str, expires: float, origin: Origin, *, inline: bool
) -> str:
    """Return a link to GET a blob."""
    return _url(platform, "GET", blob, "inline" if inline else "", expires, origin)


def part_url(platform: Platform, blob: str, part: int, origin: Origin) -> str:
    """Return a link to PUT one part of a multipart upload."""
    return _url(platform, "PUT", blob, str(part), platform.now() + UPLOAD_SECONDS, origin)


def origin_of(query: Mapping[str, str]) -> Origin | None:
    """Return to whom a link was given. Only tests depend on it, so it is not signed."""
    origins: dict[str, Origin] = {"client": "client", "worker": "worker"}
    return origins.get(query.get("asker", ""))


def _url(
    platform: Platform, verb: str, blob: str, extra: str, expires: float, origin: Origin
) -> str:
    until = str(int(expires))
    signature = _signature(platform, verb, blob, extra, until)
    given = {"extra": extra, "expires": until, "signature": signature, "asker": origin}
    query = urlencode(given)
    return f"{platform.blob_url}/{blob}?{query}"


def upload_form(platform: Platform, blob: str, origin: Origin) -> tuple[str, dict[str, str]]:
    """Return the URL and the fields of a form POST; lower case, as a client may re-case them."""
    until = str(int(platform.now() + UPLOAD_SECONDS))
    signature = _signature(platform, "POST", blob, "", until)
    fields = {"key": blob, "policy": until, "signature": signature}
    return f"{platform.blob_url}/?asker={origin}", fields


def check(platform: Platform, verb: str, blob: str, given: Mapping[str, str]) -> str:
    """Return the link's extra word, or raise LinkError.

    HEAD goes with the GET link. `given` is the query, or the fields of an upload form.
    """
    verb = "GET" if verb == "HEAD" else verb
    extra = given.get("extra", "")
    expires = given.get("policy" if verb == "POST" else "expires", "")
    signature = _signature(platform, verb, blob, extra, expires)
    if not hmac.compare_digest(
        signature, given.get("signature", "").encode("ascii", "replace").decode()
    ):
        raise LinkError("The request signature does not match")
    if platform.now() >= float(expires):
        raise LinkError("Request has expired")
    return extra
