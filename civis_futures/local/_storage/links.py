"""Links to stored bytes: unguessable, for one purpose, until a moment.

A link is what gives access, so it names the verb, the blob, the part and its end, all signed.
"""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Mapping
from urllib.parse import urlencode

from .._schema.exchange import Origin
from .._site import Site

UPLOAD_SECONDS = 12 * 3600.0
DOWNLOAD_SECONDS = 30 * 60.0
MOST_DOWNLOAD_SECONDS = 36 * 3600.0


class LinkError(Exception):
    """The link is not one of ours, or its time is over."""


def _signature(site: Site, verb: str, blob: str, extra: str, expires: str) -> str:
    said = "\n".join((verb, blob, extra, expires)).encode("utf-8", "surrogatepass")
    return hmac.new(site.store.secret, said, hashlib.sha256).hexdigest()


def download_url(site: Site, blob: str, expires: float, asker: Origin, *, inline: bool) -> str:
    """Return a link to GET a blob."""
    return _url(site, "GET", blob, "inline" if inline else "", expires, asker)


def part_url(site: Site, blob: str, part: int, asker: Origin) -> str:
    """Return a link to PUT one part of a multipart upload."""
    return _url(site, "PUT", blob, str(part), site.now() + UPLOAD_SECONDS, asker)


def asker(query: Mapping[str, str]) -> Origin | None:
    """Return to whom a link was given: nothing depends on it but tests, so it is not signed."""
    askers: dict[str, Origin] = {"client": "client", "worker": "worker"}
    return askers.get(query.get("asker", ""))


def _url(site: Site, verb: str, blob: str, extra: str, expires: float, asker: Origin) -> str:
    until = str(int(expires))
    signature = _signature(site, verb, blob, extra, until)
    given = {"extra": extra, "expires": until, "signature": signature, "asker": asker}
    query = urlencode(given)
    return f"http://{site.blob_host}/{blob}?{query}"


def upload_form(site: Site, blob: str, asker: Origin) -> tuple[str, dict[str, str]]:
    """Return the URL and the fields of a form POST; lower case, as a client may re-case them."""
    until = str(int(site.now() + UPLOAD_SECONDS))
    signature = _signature(site, "POST", blob, "", until)
    fields = {"key": blob, "policy": until, "signature": signature}
    return f"http://{site.blob_host}/?asker={asker}", fields


def check(site: Site, verb: str, blob: str, given: Mapping[str, str]) -> str:
    """Return the link's extra word, or raise LinkError.

    HEAD goes with the GET link. `given` is the query, or the fields of an upload form.
    """
    verb = "GET" if verb == "HEAD" else verb
    extra = given.get("extra", "")
    expires = given.get("policy" if verb == "POST" else "expires", "")
    signature = _signature(site, verb, blob, extra, expires)
    if not hmac.compare_digest(
        signature, given.get("signature", "").encode("ascii", "replace").decode()
    ):
        raise LinkError("The request signature does not match")
    if site.now() >= float(expires):
        raise LinkError("Request has expired")
    return extra
