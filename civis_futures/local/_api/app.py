"""The HTTP application of both ports: keys, the rate limit, routes, faults, and answers as bytes.

This is the only module that knows headers of requests. What the endpoints do is not known here;
they are sync functions on the event loop's thread (a request costs a few SQL statements), so no two
of them ever interleave. Which request goes where is data: the templates are the official spec's.
"""

from __future__ import annotations

import base64
import contextlib
import dataclasses
import email.utils
import hashlib
import inspect
import json
import sys
import time
import traceback
import uuid
from collections.abc import Awaitable, Callable, Mapping
from functools import partial
from typing import Any
from urllib.parse import parse_qsl, unquote

from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from .._elsewhere import endpoints as agents
from .._faults import breakage
from .._faults.fault import LINK, Fault
from .._journal import Request as JournalEntry
from .._pages.serving import Pages
from .._record import Recorder
from .._schema.exchange import ApiError, ApiRequest, Origin, Reply, not_found
from .._schema.fields import refuse, snake
from .._settings import MAX_BODY_BYTES
from .._state import Platform, Topic
from .._storage import transfers
from .._storage.links import origin_of
from . import about, files, json_values, lists, runs, scripts

#: How a request is held until there is news. An answer says by it for how many seconds at the
#: most; a request for how many at the most it will wait for another answer than `If-None-Match`.
HOLD_HEADER = "Civis-Local-Hold"
#: For whom a change is news: names, with commas between. A request that is held and has such a name
#: waits for changes that are for it, or for everybody.
FOR_HEADER = "Civis-Local-For"
#: How a JSON value becomes an output at once (job/run), and a script gets another name with that
#: (percent-encoded). An answer that has the first one says so.
OUTPUT_HEADER, NAME_HEADER = "Civis-Local-Output", "Civis-Local-Name"
#: Which output was the newest at an answer. A request that says so is answered with the newer ones,
#: too, of the runs that it shows.
SINCE_HEADER = "Civis-Local-Outputs"
PAGED = ("scripts", "custom", "jobs", "runs", "outputs")  # how the paths of lists end
Endpoint = Callable[[Platform, ApiRequest], Reply | Awaitable[Reply]]


@dataclasses.dataclass(frozen=True)
class Route:
    """One operation of the API. A `private` one is the owner's: neither counted nor limited.

    So are those for the `agent` of a run, which no other key opens; nor does its key open others.
    """

    method: str
    template: str
    endpoint: Endpoint
    creates_run: bool = False
    private: bool = False
    agent: bool = False
    #: The tables whose changes may change the answer; of the first one only the row that the path
    #: names, if it does. Such a request can be held: see HOLD_HEADER.
    news: tuple[str, ...] = ()

    def key(self) -> tuple[str, ...]:
        """Return the segments of the path, with a star for an id."""
        return tuple("*" if part.startswith("{") else part for part in self.template[1:].split("/"))

    @property
    def paged(self) -> bool:
        """Whether it answers with pages."""
        return self.method == "GET" and self.key()[-1] in PAGED

    def topics(self, ids: Mapping[str, int]) -> list[Topic]:
        """Return what a request waits for that is held."""
        first, *others = self.news
        return [(first, ids["id"]) if "id" in ids else first, *others]

    def names(self) -> list[str]:
        """Return the names of the ids in the path, in order."""
        return [part[1:-1] for part in self.template.split("/") if part.startswith("{")]


def _script_routes(family: str) -> list[Route]:
    """Return what containers and custom scripts have in common."""
    script = f"/scripts/{family}/{{id}}"
    run = f"{script}/runs/{{run_id}}"
    return [
        Route("GET", script, scripts.get_script, news=("scripts", "runs")),
        Route("PUT", script, scripts.put_script),
        Route("PATCH", script, scripts.patch_script),
        Route("DELETE", script, scripts.delete_script),
        Route("PUT", f"{script}/archive", scripts.put_archive),
        Route("GET", f"{script}/runs", lists.list_runs),
        Route("POST", f"{script}/runs", runs.start_run, creates_run=True),
        Route("GET", run, runs.get_run),
        Route("DELETE", run, runs.cancel_run),
        Route("GET", f"{run}/logs", runs.get_logs),
        Route("GET", f"{run}/outputs", lists.list_outputs),
        Route("POST", f"{run}/outputs", runs.post_output),
    ]


ROUTES: list[Route] = [
    Route("POST", "/scripts/containers", scripts.create_container),
    Route("POST", "/scripts/containers/{id}/clone", scripts.clone_container),
    Route("POST", "/scripts/containers/{id}/runs/{run_id}/logs", runs.post_logs),
    *_script_routes("containers"),
    Route("GET", "/scripts/custom", lists.list_custom, news=("scripts", "runs")),
    Route("POST", "/scripts/custom", scripts.create_custom),
    *_script_routes("custom"),
    Route("GET", "/scripts", lists.list_scripts, news=("scripts", "runs")),
    Route("POST", "/scripts/{id}/cancel", runs.cancel_script),
    Route("GET", "/jobs", lists.list_jobs),
    Route("GET", "/jobs/{id}", runs.get_job),
    Route("GET", "/jobs/{id}/runs", lists.list_runs),
    Route("POST", "/jobs/{id}/runs", runs.start_job, creates_run=True),
    Route("GET", "/jobs/{id}/runs/{run_id}", runs.get_job_run),
    Route("DELETE", "/jobs/{id}/runs/{run_id}", runs.cancel_run),
    Route("GET", "/jobs/{id}/runs/{run_id}/outputs", lists.list_outputs),
    Route("GET", "/jobs/{id}/runs/{run_id}/logs", runs.get_logs),
    Route("GET", "/jobs/{id}/children", runs.get_children),
    Route("GET", "/jobs/{id}/parents", runs.get_parents),
    Route("POST", "/files", files.create_file),
    Route("POST", "/files/multipart", files.create_multipart),
    Route("POST", "/files/multipart/{id}/complete", files.complete_multipart),
    Route("GET", "/files/{id}", files.get_file),
    Route("PATCH", "/files/{id}", files.patch_file),
    Route("POST", "/json_values", json_values.create_json_value),
    Route("GET", "/json_values/{id}", json_values.get_json_value, news=("json_values",)),
    Route("PATCH", "/json_values/{id}", json_values.patch_json_value),
    Route("GET", "/templates/scripts", lists.list_templates),
    Route("POST", "/templates/scripts", scripts.create_template),
    Route("GET", "/templates/scripts/{id}", scripts.get_template),
    Route("GET", "/users/me", about.get_me),
    Route("GET", "/endpoints", about.get_endpoints),
    Route("GET", "/notifications", about.get_notifications),
    Route("GET", "/_local/stats", about.get_stats, private=True),
    Route("POST", "/_local/reset", about.post_reset, private=True),
    Route("GET", "/_local/requests", about.get_requests, private=True),
    Route("GET", "/_local/faults", about.get_faults, private=True),
    Route("POST", "/_local/faults", about.post_faults, private=True),
    Route("POST", "/_local/agents/order", agents.post_order, private=True, agent=True),
    Route("POST", "/_local/agents/report", agents.post_report, private=True, agent=True),
    Route("POST", "/_local/agents/word", agents.post_word, private=True, agent=True),
]
TABLE = {(route.method, route.key()): route for route in ROUTES}
PATHS = {route.key() for route in ROUTES}
OPERATIONS = tuple((route.method, route.template) for route in ROUTES if not route.private)


def make_app(platform: Platform, recorder: Recorder) -> ASGIApp:
    """Return the application: the API on one port, the file links on the other."""
    platform.operations = OPERATIONS
    blob_port = int(platform.listening.blob_host.rpartition(":")[2])
    pages = Pages(platform)

    async def app(scope: Scope, receive: Receive, plain_send: Send) -> None:
        if scope["type"] != "http":
            return
        send = _dated(platform, plain_send)
        request = Request(scope, receive)
        server = scope.get("server") or ("", 0)
        if not platform.listening.is_for_us(request.headers.get("host", "")):
            served = " or ".join(platform.listening.names)
            refusal = ApiError(403, "forbidden", f"Only {served} is served here.")
            await _encode(refusal)(scope, receive, send)
        elif server[1] == blob_port:
            await _answer_link(platform, recorder, request, _counting(platform, request, send))
        elif (page := await pages.answer(request)) is not None:
            await page(scope, receive, send)
        else:
            await _answer_api(platform, recorder, request, send)

    return app


def _dated(platform: Platform, send: Send) -> Send:
    """With the platform's own time, which may differ from that of the machine."""

    async def dated(message: Message) -> None:
        if message["type"] == "http.response.start":
            date = email.utils.formatdate(platform.now(), usegmt=True).encode()
            message = {**message, "headers": [*message.get("headers", ()), (b"date", date)]}
        await send(message)

    return dated


def _counting(platform: Platform, request: Request, send: Send) -> Send:
    if request.method != "GET":
        return send

    async def counted(message: Message) -> None:
        platform.counters.download_bytes += len(message.get("body", b""))
        await send(message)

    return counted


async def _answer_link(
    platform: Platform, recorder: Recorder, request: Request, send: Send
) -> None:
    method, origin = request.method, origin_of(request.query_params)
    fault = platform.rules.of_request(method, LINK, origin, None, time.monotonic())
    response = await breakage.instead(fault) if fault and not fault.done else None
    if response is None:
        response = await transfers.serve(platform, request)
        if fault is None:
            recorder.link(request, response)
    app, status = await breakage.on_the_way_out(fault, response)
    platform.journal.add(JournalEntry(method, LINK, request.scope["path"], origin, status, fault))
    await app(request.scope, request.receive, send)


async def _answer_api(platform: Platform, recorder: Recorder, request: Request, send: Send) -> None:
    started = time.perf_counter()
    exchange = _Exchange(platform, request)
    try:
        body = await exchange.answer()
    except ClientDisconnect:
        return
    response = _encode(body, exchange.headers)
    response.headers["X-Runtime"] = f"{time.perf_counter() - started:.6f}"
    if exchange.private:
        await response(request.scope, request.receive, send)
        return
    if exchange.fault is None:
        recorder.exchange(request, exchange.body, response)
        response = exchange.with_outputs(body, response)
    app, status = await breakage.on_the_way_out(exchange.fault, exchange.instead or response)
    platform.journal.add(exchange.entry(status))
    await app(request.scope, request.receive, send)


class _Exchange:
    """One API request on its way to its endpoint, and what is known of it so far."""

    def __init__(self, platform: Platform, request: Request) -> None:
        self.platform = platform
        self.request = request
        self.headers: dict[str, str] = {}
        self.route: Route | None = None
        self.body: dict[str, Any] | None = None
        self.origin: Origin | None = None
        self.fault: Fault | None = None
        self.instead: Response | breakage.Reset | None = None  # of our answer

    @property
    def private(self) -> bool:
        """Whether it is between the server and its owner."""
        return self.route is not None and self.route.private

    def entry(self, status: int | None) -> JournalEntry:
        """Return what the journal is to say of it."""
        path = self.request.scope["path"]
        template = path if self.route is None else self.route.template
        return JournalEntry(self.request.method, template, path, self.origin, status, self.fault)

    async def answer(self) -> Reply | ApiError:
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

    async def _answer(self) -> Reply:
        given = self._key()
        agent = self.platform.keys.agents.get(given)
        origin = self.origin = "worker" if agent is not None else self.platform.keys.origin(given)
        if origin is None:
            self.headers["WWW-Authenticate"] = 'Bearer realm="Civis API", error="invalid_token"'
            raise ApiError(401, "unauthorized", "The API key is missing or not valid.")
        ids = self._find()
        assert self.route is not None
        if self.route.agent != (agent is not None):
            raise ApiError(403, "forbidden", "This key is not for that.")
        if not self.route.private:
            self._account(self.route, origin)
        elif origin != "client" and agent is None:
            raise ApiError(403, "forbidden", "This is between the platform and its owner.")
        # Before a fault happens: a request that waits, or is late, has its effect even if the
        # client has gone by then.
        self.body = await self._json()
        fails = not self.route.private and await self._fails(self.route, origin)
        fault = self.fault
        asked = ApiRequest(
            self.route.method,
            self.route.template,
            ids,
            _query(self.request.scope["query_string"]),
            self.body or {},
            origin,
            as_of=self.platform.now() - fault.seconds if fault and fault.kind == "stale" else None,
            moved=fault.rows if fault and fault.kind == "shift" else 0,
            run=agent,
        )
        if fault and fault.kind == "late":
            self.platform.later(fault.seconds, partial(_perform, self.platform, self.route, asked))
        if fails:
            return Reply()
        names = _names(self.request.headers.get(FOR_HEADER, ""))
        with self.platform.news.only_for(names if self.route.method == "PATCH" else ()):
            reply = await _perform(self.platform, self.route, asked)
        if (self.route.method, self.route.template) == ("POST", "/json_values"):
            self._make_output(asked, reply)
        hold = self._hold()
        if hold is not None:
            reply = await self._until_news(asked, reply, *hold)
        if HOLD_HEADER in self.headers and "runs" in self.route.news and self._extends:
            self.headers[SINCE_HEADER] = f"{lists.newest_output(self.platform)}"
        return reply

    def _hold(self) -> tuple[str, float] | None:
        """Offer to hold such a request; return the answer that is known, and the seconds, if that
        is asked for. A fault is not held: when it happens is its own affair.
        """
        assert self.route is not None
        most = self.platform.settings.holds
        if not (most and self.route.news and self.fault is None):
            return None
        self.headers[HOLD_HEADER] = f"{most:g}"
        known = self.request.headers.get("if-none-match")
        try:
            seconds = float(self.request.headers.get(HOLD_HEADER, "0"))
        except ValueError:
            return None
        return (known, min(seconds, most)) if known and seconds > 0 else None

    def _make_output(self, asked: ApiRequest, value: Reply) -> None:
        """Make an output of the JSON value that was made, and rename its script, if that was asked
        for; all or nothing. Where requests are made to fail, each is made by itself.
        """
        first, _, second = self.request.headers.get(OUTPUT_HEADER, "").partition("/")
        job, run = _number(first), _number(second)
        if not self._extends or job is None or run is None:
            return
        name = unquote(self.request.headers.get(NAME_HEADER, ""))
        request = dataclasses.replace(
            asked,
            template="/scripts/containers/{id}/runs/{run_id}/outputs",
            ids={"id": job, "run_id": run},
            body={"objectType": "JSONValue", "objectId": value.body["id"]},
        )
        with contextlib.suppress(ApiError), self.platform.store.transaction():
            runs.post_output(self.platform, request)
            if name:
                scripts.rename(self.platform, job, name)
            self.headers[OUTPUT_HEADER] = f"{job}/{run}"

    @property
    def _extends(self) -> bool:
        """Whether one request may do what is several."""
        platform = self.platform
        return bool(platform.settings.holds) and not platform.rules.of_requests

    def with_outputs(self, reply: Reply | ApiError, response: Response) -> Response:
        """Return the answer with the outputs that there are since another one, if that was asked
        for. For its tag they do not count: what is waited for is news of the scripts.
        """
        since = _number(self.request.headers.get(SINCE_HEADER, ""))
        if SINCE_HEADER not in self.headers or since is None or response.status_code != 200:
            return response
        assert isinstance(reply, Reply)
        if not lists.add_outputs(self.platform, reply.body, since):
            return response
        kept = {**reply.headers, "ETag": response.headers["ETag"]}
        return _encode(Reply(200, reply.body, kept), self.headers)

    async def _until_news(self, asked: ApiRequest, reply: Reply, known: str, wait: float) -> Reply:
        """Answer as soon as there is another answer than the one that is known, or that there is
        none. It takes no thread, and others are served meanwhile.
        """
        assert self.route is not None
        end, topics = time.monotonic() + wait, self.route.topics(asked.ids)
        name, news = self.request.headers.get(FOR_HEADER, "").strip(), True
        while True:
            reply = dataclasses.replace(reply, raw=_content(reply))
            if _tag(reply.raw or b"") != known:
                return reply
            if not news:
                return Reply(304, headers={"ETag": known})
            news = await self.platform.news.wait(topics, end - time.monotonic(), name)
            reply = await _perform(self.platform, self.route, asked)

    def _key(self) -> str:
        scheme, _, given = self.request.headers.get("authorization", "").partition(" ")
        given = given.strip()
        if scheme.lower() == "basic":
            try:
                return base64.b64decode(given, validate=True).decode().partition(":")[0]
            except ValueError:
                return ""
        return given if scheme.lower() == "bearer" else ""

    def _find(self) -> Mapping[str, int]:
        """Find the route and return the ids in the path."""
        parts = self.request.scope["path"].strip("/").split("/")
        digits = [part for part in parts if part.isascii() and part.isdigit() and len(part) < 19]
        key = tuple("*" if part in digits else part for part in parts)
        self.route = TABLE.get((self.request.method, key))
        if self.route is None:
            if key in PATHS:
                raise ApiError(405, "method_not_allowed", "The method is not allowed here.")
            raise not_found()
        return dict(zip(self.route.names(), map(int, digits), strict=True))

    def _account(self, route: Route, origin: Origin) -> None:
        headers, passes = self.platform.budget.take(time.monotonic(), creates_run=route.creates_run)
        self.headers.update(headers)
        self.platform.counters.requests[(route.method, route.template, origin)] += 1
        if not passes:
            self.platform.counters.refused += 1
            raise ApiError(429, "too_many_requests", None)

    async def _fails(self, route: Route, origin: Origin) -> bool:
        """Tell whether a fault answers, or hangs up, before the request has any effect."""
        page = None
        if route.paged:
            given = _query(self.request.scope["query_string"]).get("page_num", "")
            page = _number(given) or 1
        now = time.monotonic()
        self.fault = self.platform.rules.of_request(route.method, route.template, origin, page, now)
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


async def _perform(platform: Platform, route: Route, request: ApiRequest) -> Reply:
    answer = route.endpoint(platform, request)
    return await answer if inspect.isawaitable(answer) else answer


def _names(given: str) -> list[str]:
    return [name for each in given.split(",") if (name := each.strip())]


def _query(given: bytes) -> dict[str, str]:
    """Return the query in snake_case; `a[]=x&a[]=y` and `a=x,y` are the same."""
    found: dict[str, list[str]] = {}
    for name, value in parse_qsl(given.decode("latin-1"), keep_blank_values=True):
        if name.endswith("[]"):
            found.setdefault(snake(name[:-2]), []).append(value)
        else:
            found[snake(name)] = [value]
    return {name: ",".join(values) for name, values in found.items()}


def _number(text: str) -> int | None:
    """The number that a text is, if it is one that the store can hold."""
    return int(text) if text.isdecimal() and len(text) < 19 else None


def _content(answer: Reply) -> bytes | None:
    if answer.raw is None and answer.body is not None:
        return json.dumps(answer.body, separators=(",", ":")).encode()
    return answer.raw


def _tag(content: bytes) -> str:
    return f'W/"{hashlib.blake2b(content, digest_size=16).hexdigest()}"'


def _encode(answer: Reply | ApiError, more: Mapping[str, str] | None = None) -> Response:
    if isinstance(answer, ApiError):
        answer = Reply(answer.status, answer.body())
    content = _content(answer)
    headers = {
        "Cache-Control": "private, no-store",
        "X-Request-Id": str(uuid.uuid4()),
        **(more or {}),
        **answer.headers,
    }
    if content is not None:
        headers["Content-Type"] = "application/json; charset=utf-8"
        if answer.status < 300:
            headers.setdefault("ETag", _tag(content))
    elif answer.status not in (204, 304):
        headers["Content-Type"] = "text/plain; charset=utf-8"
    return Response(content or b"", answer.status, headers)
