"""What a browser is answered: the page, its two files, and the data that it asks for.

The page is the same for everybody and has no data in it. It shows the ticket of its link, once, and
asks for data with the pass that it got. There is no cookie, so nothing that another page makes the
browser send has a pass. Nothing but passes is changed here.
"""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from .._state import Platform
from .overview import Overview
from .tickets import TicketError, Visitors

PREFIX = "/_local/page/"
#: Where a page is in place of the API's answer: the links of jobs and runs, for people.
_FOR_PEOPLE = ("/scripts/", "/jobs/")
_ASSETS = Path(__file__).with_name("assets")
_FILES = {"page.js": "text/javascript", "page.css": "text/css"}
_HEADERS = {
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; "
        "img-src 'self' data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    ),
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
    "Cache-Control": "no-store",
}


class Pages:
    """The pages of one platform."""

    def __init__(self, platform: Platform) -> None:
        self._visitors = Visitors(platform.keys.owner)
        self._overview = Overview(platform)

    async def answer(self, request: Request) -> Response | None:
        """Return what a browser is to get; None if the request is the API's."""
        path = request.scope["path"]
        if path.startswith(PREFIX):
            response = await self._answer(request, path.removeprefix(PREFIX))
        elif request.method == "GET" and _from_a_person(request, path):
            response = Response((_ASSETS / "page.html").read_bytes(), media_type="text/html")
        else:
            return None
        response.headers.update(_HEADERS)
        return response

    async def _answer(self, request: Request, what: str) -> Response:
        if request.method == "GET" and what in _FILES:
            return Response((_ASSETS / what).read_bytes(), media_type=_FILES[what])
        if not _same_origin(request):
            return _refusal(403, "Another page asked for this.")
        if request.method == "POST" and what == "pass":
            return await self._enter(request)
        if request.method != "GET":
            return _refusal(405, "The pages only show.")
        scheme, _, given = request.headers.get("authorization", "").partition(" ")
        if scheme.lower() != "bearer" or not self._visitors.knows(given.strip()):
            return _refusal(401, "This page is opened by a link with a ticket.")
        found = self._data(request, what.split("/"))
        return _refusal(404, "There is nothing here.") if found is None else JSONResponse(found)

    def _data(self, request: Request, parts: list[str]) -> dict[str, Any] | None:
        match parts:
            case ["overview"]:
                return self._overview.whole()
            case ["jobs", number] if _is_id(number):
                return self._overview.job(int(number))
            case ["runs", number] if _is_id(number):
                after = request.query_params.get("after", "")
                return self._overview.run(int(number), int(after) if _is_id(after) else None)
        return None

    async def _enter(self, request: Request) -> Response:
        data = bytearray()
        async for chunk in request.stream():
            data += chunk
            if len(data) > 1000:  # a ticket takes less
                return _refusal(413, "That is no ticket.")
        try:
            given = self._visitors.enter(str(json.loads(data)["ticket"]), time.time())
        except TicketError as error:
            return _refusal(403, str(error))
        except (ValueError, TypeError, LookupError, RecursionError):
            return _refusal(400, "That is no ticket.")
        return JSONResponse({"pass": given})


def _from_a_person(request: Request, path: str) -> bool:
    """Whether this was opened in a browser; clients of the API do not ask for HTML."""
    if path != "/" and not path.startswith(_FOR_PEOPLE):
        return False
    accepts = request.headers.get("accept", "")
    return "text/html" in accepts and "authorization" not in request.headers


def _same_origin(request: Request) -> bool:
    """Browsers say where a request comes from; other clients do not, and need a pass as well."""
    if request.headers.get("sec-fetch-site", "same-origin") not in ("same-origin", "none"):
        return False
    origin = request.headers.get("origin")
    return origin is None or origin.partition("://")[2] == request.headers.get("host")


def _is_id(text: str) -> bool:
    return text.isascii() and text.isdigit() and len(text) < 19


def _refusal(status: int, why: str) -> Response:
    return JSONResponse({"error": why}, status)
