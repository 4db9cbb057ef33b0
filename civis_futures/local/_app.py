"""The wire: who may come in, what was asked, and what is said back. Two ports, one application.

This is the only room that knows headers of requests. What the endpoints do is not known here; they
are sync functions on the event loop's thread (a request costs a few SQL statements), so no two of
them ever interleave.
"""

from __future__ import annotations

import base64
import hashlib
import inspect
import json
import sys
import time
import traceback
import uuid
from collections.abc import Mapping
from typing import Any
from urllib.parse import parse_qsl

from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from . import _breakage as breakage
from . import _storage as storage
from ._exchange import Answer, ApiError, Ask, Origin, not_found
from ._faults import LINK, Fault
from ._fields import refuse, snake
from ._journal import Request as Asked
from ._links import asker
from ._record import Recorder
from ._routes import ROUTES, Route
from ._settings import MAX_BODY_BYTES
from ._site import Site

LOOPBACK = frozenset({"127.0.0.1", "localhost", "[::1]"})
TABLE = {(route.method, route.key()): route for route in ROUTES}
PATHS = {route.key() for route in ROUTES}
OPERATIONS = tuple((route.method, route.template) for route in ROUTES if not route.private)


def make_app(site: Site, blob_port: int, recorder: Recorder) -> ASGIApp:
    """Return the application: the API on one port, the file links on the other."""
    site.operations = OPERATIONS

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return
        request = Request(scope, receive)
        server = scope.get("server") or ("", 0)
        if _foreign(request):
            answer = _encode(ApiError(403, "forbidden", "Only loopback is served here."))
            await answer(scope, receive, send)
        elif server[1] == blob_port:
            await _link(site, request, recorder)(scope, receive, _counting(site, request, send))
        else:
            await _api(site, request, recorder)(scope, receive, send)

    return app


def _foreign(request: Request) -> bool:
    """Tell a page in a browser that reached us by a name of its own (DNS rebinding)."""
    host = request.headers.get("host", "")
    return host.rsplit(":", 1)[0] not in LOOPBACK and host not in LOOPBACK


def _counting(site: Site, request: Request, send: Send) -> Send:
    if request.method != "GET":
        return send

    async def counted(message: Message) -> None:
        site.counters.download_bytes += len(message.get("body", b""))
        await send(message)

    return counted


def _link(site: Site, request: Request, recorder: Recorder) -> ASGIApp:
    async def respond(scope: Scope, receive: Receive, send: Send) -> None:
        method, origin = request.method, asker(request.query_params)
        fault = site.rules.of_request(method, LINK, origin, None, time.monotonic())
        response = await breakage.instead(fault) if fault and not fault.done else None
        if response is None:
            response = await storage.serve(site, request)
            if fault is None:
                recorder.link(request, response)
        app, status = await breakage.on_the_way_out(fault, response)
        site.journal.add(Asked(method, LINK, request.url.path, origin, status, fault))
        await app(scope, receive, send)

    return respond


def _api(site: Site, request: Request, recorder: Recorder) -> ASGIApp:
    async def respond(scope: Scope, receive: Receive, send: Send) -> None:
        started = time.perf_counter()
        exchange = _Exchange(site, request)
        try:
            body = await exchange.answer()
        except ClientDisconnect:
            return
        response = _encode(body, exchange.headers)
        response.headers["X-Runtime"] = f"{time.perf_counter() - started:.6f}"
        if exchange.private:
            await response(scope, receive, send)
            return
        if exchange.fault is None:
            recorder.exchange(request, exchange.body, response)
        app, status = await breakage.on_the_way_out(exchange.fault, exchange.instead or response)
        site.journal.add(exchange.asked(status))
        await app(scope, receive, send)

    return respond


class _Exchange:
    """One API request on its way to its endpoint; what is known so far, for whoever answers."""

    def __init__(self, site: Site, request: Request) -> None:
        self.site = site
        self.request = request
        self.headers: dict[str, str] = {}
        self.route: Route | None = None
        self.body: dict[str, Any] | None = None
        self.origin: Origin | None = None
        self.fault: Fault | None = None
        self.instead: Response | breakage.Reset | None = None  # of our answer

    @property
    def private(self) -> bool:
        """Whether it is between us and our owner."""
        return self.route is not None and self.route.private

    def asked(self, status: int | None) -> Asked:
        """Return what the journal says of it."""
        path = self.request.url.path
        template = path if self.route is None else self.route.template
        return Asked(self.request.method, template, path, self.origin, status, self.fault)

    async def answer(self) -> Answer | ApiError:
        try:
            return await self._answer()
        except ApiError as error:
            return error
        except UnicodeEncodeError:
            return refuse("the body has characters that are none (lone surrogates)")
        except ClientDisconnect:
            raise
        except Exception:
            traceback.print_exc(file=sys.stderr)
            said = "The local platform failed; its log has the traceback."
            return ApiError(500, "internal_server_error", said)

    async def _answer(self) -> Answer:
        origin = self.origin = self._origin()
        if origin is None:
            self.headers["WWW-Authenticate"] = 'Bearer realm="Civis API", error="invalid_token"'
            raise ApiError(401, "unauthorized", "The API key is missing or not valid.")
        ids = self._find()
        assert self.route is not None
        if not self.route.private:
            self._account(self.route, origin)
            if await self._fails(self.route, origin):
                return Answer()
        self.body, fault = await self._json(), self.fault
        ask = Ask(
            self.route.method,
            self.route.template,
            ids,
            _query(self.request.url.query),
            self.body or {},
            origin,
            as_of=time.time() - fault.seconds if fault and fault.kind == "stale" else None,
            moved=fault.rows if fault and fault.kind == "shift" else 0,
        )
        answer = self.route.endpoint(self.site, ask)
        return await answer if inspect.isawaitable(answer) else answer

    def _origin(self) -> Origin | None:
        scheme, _, given = self.request.headers.get("authorization", "").partition(" ")
        given = given.strip()
        if scheme.lower() == "basic":
            try:
                given = base64.b64decode(given, validate=True).decode().partition(":")[0]
            except ValueError:
                return None
        elif scheme.lower() != "bearer":
            return None
        return self.site.keys.origin(given)

    def _find(self) -> Mapping[str, int]:
        """Find the route and return the ids in the path."""
        parts = self.request.url.path.strip("/").split("/")
        digits = [part for part in parts if part.isascii() and part.isdigit() and len(part) < 19]
        key = tuple("*" if part in digits else part for part in parts)
        self.route = TABLE.get((self.request.method, key))
        if self.route is None:
            if key in PATHS:
                raise ApiError(405, "method_not_allowed", "The method is not allowed here.")
            raise not_found()
        return dict(zip(self.route.names(), map(int, digits), strict=True))

    def _account(self, route: Route, origin: Origin) -> None:
        headers, passes = self.site.budget.take(time.monotonic(), creates_run=route.creates_run)
        self.headers.update(headers)
        self.site.counters.requests[(route.method, route.template, origin)] += 1
        if not passes:
            self.site.counters.refused += 1
            raise ApiError(429, "too_many_requests", None)

    async def _fails(self, route: Route, origin: Origin) -> bool:
        """Tell whether a fault answers, or hangs up, before the request has any effect."""
        page = None
        if route.paged:
            given = _query(self.request.url.query).get("page_num", "")
            page = int(given) if given.isdecimal() else 1
        now = time.monotonic()
        self.fault = self.site.rules.of_request(route.method, route.template, origin, page, now)
        if self.fault is not None and not self.fault.done:
            self.instead = await breakage.instead(self.fault)
        return self.instead is not None

    async def _json(self) -> dict[str, Any] | None:
        """Return the body; that of a GET or DELETE is read and ignored, as clients send `{}`."""
        data = bytearray()
        async for chunk in self.request.stream():
            data += chunk
            if len(data) > MAX_BODY_BYTES:
                raise ApiError(413, "payload_too_large", "The body is too large.")
        if not data.strip() or self.request.method in ("GET", "DELETE"):
            return None
        try:
            body = json.loads(data)
        except (ValueError, RecursionError):
            raise refuse("the body is not valid JSON") from None
        if not isinstance(body, dict):
            raise refuse("the body is not an object")
        return body


def _query(text: str) -> dict[str, str]:
    """Return the query in snake_case; `a[]=x&a[]=y` and `a=x,y` are the same."""
    found: dict[str, list[str]] = {}
    for name, value in parse_qsl(text, keep_blank_values=True):
        if name.endswith("[]"):
            found.setdefault(snake(name[:-2]), []).append(value)
        else:
            found[snake(name)] = [value]
    return {name: ",".join(values) for name, values in found.items()}


def _encode(answer: Answer | ApiError, more: Mapping[str, str] | None = None) -> Response:
    if isinstance(answer, ApiError):
        answer = Answer(answer.status, answer.body())
    content = answer.raw
    if content is None and answer.body is not None:
        content = json.dumps(answer.body, separators=(",", ":")).encode()
    headers = {
        "Cache-Control": "private, no-store",
        "X-Request-Id": str(uuid.uuid4()),
        **(more or {}),
        **answer.headers,
    }
    if content is not None:
        headers["Content-Type"] = "application/json; charset=utf-8"
        if answer.status < 300:
            headers["ETag"] = f'W/"{hashlib.blake2b(content, digest_size=16).hexdigest()}"'
    elif answer.status != 204:
        headers["Content-Type"] = "text/plain; charset=utf-8"
    return Response(content or b"", answer.status, headers)
