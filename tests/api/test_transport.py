"""Retries, by transports that break as they are told and a clock of ours: nothing sleeps."""

from __future__ import annotations

import ssl
import threading
from collections.abc import Callable, Iterator
from typing import Any

import httpx
import pytest

from civis_futures._api.transport import FileLinks, Kind, RateBudget, Section, Sender
from civis_futures._exceptions import PlatformError, Recalled

URL = "http://platform.test/scripts/1"


class Clock:
    """Time that passes when somebody waits; waits in `waits`."""

    def __init__(self) -> None:
        self.now = 1000.0
        self.waits: list[float] = []

    def __call__(self) -> float:
        return self.now

    def wait(self, seconds: float) -> None:
        self.waits.append(seconds)
        self.now += seconds


@pytest.fixture
def clock() -> Clock:
    return Clock()


Reply = httpx.Response | Exception | Callable[[httpx.Request], httpx.Response]


class Broken(httpx.SyncByteStream):
    """A body that is cut short."""

    def __iter__(self) -> Iterator[bytes]:
        yield b"half of"
        raise httpx.RemoteProtocolError("peer closed connection without sending complete body")


class Script(httpx.BaseTransport):
    """Answers in turn, whatever is asked; the last one for ever. Requests in `requests`."""

    def __init__(self, *replies: Reply) -> None:
        self.replies = list(replies)
        self.requests: list[httpx.Request] = []
        self.closed = False

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        self.requests.append(request)
        reply = self.replies.pop(0) if len(self.replies) > 1 else self.replies[0]
        if isinstance(reply, Exception):
            raise reply
        if callable(reply):
            return reply(request)
        # A new one: a response is read once.
        return httpx.Response(reply.status_code, headers=reply.headers, content=reply.content)

    def close(self) -> None:
        self.closed = True


def status(code: int, **headers: str) -> httpx.Response:
    names = {name.replace("_", "-"): value for name, value in headers.items()}
    return httpx.Response(code, headers=names, content=b"said")


OK = status(200)
CUT = lambda request: httpx.Response(200, stream=Broken())  # noqa: E731


def over(transport: httpx.BaseTransport) -> httpx.Client:
    return httpx.Client(transport=transport)


def send(script: Script, clock: Clock, method: str = "GET", **how: Any) -> httpx.Response:
    sender = Sender(
        over(script), RateBudget(clock=clock), threading.Event(), wait=clock.wait, clock=clock
    )
    return sender.send(httpx.Request(method, URL), **how)


IDEMPOTENT = [("GET", {}), ("PUT", {}), ("DELETE", {}), ("PATCH", {"idempotent": True})]
NOT = [("POST", {}), ("PATCH", {}), ("POST", {"kind": Kind.RUN})]
NOT_OPENED = [httpx.ConnectError("no"), httpx.ConnectTimeout("no"), httpx.PoolTimeout("no")]
LOST = [httpx.ReadError("cut"), httpx.ReadTimeout("late"), httpx.WriteError("cut"), CUT]


@pytest.mark.parametrize(("method", "marks"), IDEMPOTENT)
@pytest.mark.parametrize(
    "reply",
    [*map(status, (429, 500, 502, 503, 504)), *NOT_OPENED, *LOST, httpx.RemoteProtocolError("x")],
)
def test_the_idempotent_is_tried_again(
    clock: Clock, method: str, marks: dict[str, object], reply: Reply
) -> None:
    script = Script(reply, reply, OK)
    assert send(script, clock, method, **marks).status_code == 200
    assert len(script.requests) == 3
    assert len(clock.waits) == 2


@pytest.mark.parametrize(("method", "marks"), NOT)
@pytest.mark.parametrize("reply", [status(429), *NOT_OPENED, httpx.ProxyError("no")])
def test_what_did_not_arrive_is_tried_again_on_every_verb(
    clock: Clock, method: str, marks: dict[str, object], reply: Reply
) -> None:
    script = Script(reply, OK)
    assert send(script, clock, method, **marks).status_code == 200
    assert len(script.requests) == 2


def test_what_is_not_wanted_any_more_does_not_wait_for_the_budget(clock: Clock) -> None:
    wanted, begin = [True], clock.now

    def wait(seconds: float) -> None:
        clock.wait(seconds)
        wanted.clear()

    budget = RateBudget(runs=1, clock=clock)
    assert budget.delay(Kind.RUN) == 0.0
    script = Script(OK)
    sender = Sender(over(script), budget, threading.Event(), wait=wait, clock=clock)
    marks = {"kind": Kind.RUN, "wanted": wanted}
    with pytest.raises(Recalled):
        sender.send(httpx.Request("POST", URL), **marks)
    assert script.requests == []
    assert clock.now - begin <= 5  # of the 300 until the next run may start


@pytest.mark.parametrize(("method", "marks"), NOT)
@pytest.mark.parametrize("reply", LOST)
def test_a_lost_reply_to_what_is_not_idempotent(
    clock: Clock, method: str, marks: dict[str, object], reply: Reply
) -> None:
    script = Script(reply, OK)
    with pytest.raises(PlatformError, match=f"{method} /scripts/1: no answer") as caught:
        send(script, clock, method, **marks)
    assert len(script.requests) == 1
    error = caught.value
    assert (error.sent, error.status, error.method, error.path) == (
        True,
        None,
        method,
        "/scripts/1",
    )
    assert isinstance(error.__cause__, httpx.RequestError)


@pytest.mark.parametrize(("method", "marks"), NOT)
@pytest.mark.parametrize("code", [500, 502, 503, 504])
def test_a_failure_inside_the_platform_is_the_answer_to_what_is_not_idempotent(
    clock: Clock, method: str, marks: dict[str, object], code: int
) -> None:
    assert send(Script(status(code), OK), clock, method, **marks).status_code == code


@pytest.mark.parametrize("code", [200, 204, 301, 400, 401, 403, 404, 409, 501])
def test_other_answers_are_final(clock: Clock, code: int) -> None:
    script = Script(status(code))
    response = send(script, clock)
    assert (response.status_code, response.content) == (code, b"said")
    assert len(script.requests) == 1


@pytest.mark.parametrize("error", [httpx.UnsupportedProtocol("x"), httpx.LocalProtocolError("x")])
def test_a_request_that_cannot_be_sent_is_not_tried_again(clock: Clock, error: Exception) -> None:
    with pytest.raises(PlatformError) as caught:
        send(Script(error), clock)
    assert not caught.value.sent
    assert not clock.waits


def test_a_certificate_does_not_get_better(clock: Clock) -> None:
    def app(request: httpx.Request) -> httpx.Response:
        raise httpx.ConnectError("refused") from ssl.SSLCertVerificationError("self-signed")

    with pytest.raises(PlatformError) as caught:
        send(Script(app), clock)
    assert not caught.value.sent
    assert not clock.waits


def test_an_answer_that_cannot_be_decoded_is_tried_again(clock: Clock) -> None:
    def garbled(request: httpx.Request) -> httpx.Response:
        stream = httpx.ByteStream(b"not gzip")
        return httpx.Response(200, headers={"Content-Encoding": "gzip"}, stream=stream)

    assert send(Script(garbled, OK), clock).content == b"said"


def test_garbage_is_tried_again(clock: Clock) -> None:
    garbage, fine = httpx.Response(200, text="<html>"), httpx.Response(200, json="fine")
    assert send(Script(garbage, garbage, fine), clock, wants_json=True).json() == "fine"
    assert send(Script(garbage, fine), clock, "POST", wants_json=True).text == "<html>"
    script = Script(garbage, fine)
    assert send(script, clock, "POST", wants_json=True, idempotent=True).json() == "fine"


def test_what_is_no_platform_is_found_out_soon(clock: Clock) -> None:
    script = Script(httpx.Response(200, text="<html>"))
    assert send(script, clock, wants_json=True).text == "<html>"
    assert len(script.requests) == 3


def test_ten_attempts_and_the_last_answer_is_returned(clock: Clock) -> None:
    script = Script(status(429))
    assert send(script, clock, "POST").status_code == 429
    assert len(script.requests) == 10


def test_ten_attempts_and_the_last_error_is_told(clock: Clock) -> None:
    script = Script(httpx.ConnectError("refused"))
    with pytest.raises(PlatformError, match="refused") as caught:
        send(script, clock, "POST")
    assert len(script.requests) <= 10
    assert not caught.value.sent


def test_sent_if_any_attempt_may_have_arrived(clock: Clock) -> None:
    script = Script(httpx.ReadError("cut"), httpx.ConnectError("refused"))
    with pytest.raises(PlatformError) as caught:
        send(script, clock, "DELETE")
    assert caught.value.sent


def test_not_for_ever(clock: Clock) -> None:
    def slow(request: httpx.Request) -> httpx.Response:
        clock.now += 50.0
        return status(502)

    assert send(script := Script(slow), clock).status_code == 502
    assert len(script.requests) in (2, 3)  # 120 s in all


def test_a_retry_after_of_503_is_respected_or_too_long(clock: Clock) -> None:
    assert send(Script(status(503, Retry_After="40"), OK), clock).status_code == 200
    assert clock.waits[0] >= 40
    assert send(Script(status(503, Retry_After="4000"), OK), clock).status_code == 503


def test_a_429_is_waited_for_whatever_it_asks(clock: Clock) -> None:
    script = Script(status(429, Retry_After="900"), status(502), status(429, Retry_After="800"), OK)
    assert send(script, clock).status_code == 200
    assert clock.waits[0] >= 900
    assert clock.waits[2] >= 800


def test_waits_grow_and_are_jittered(clock: Clock) -> None:
    waits = []
    for _ in range(20):
        send(Script(status(502)), one := Clock())
        waits.append(one.waits)
    assert len({tuple(each) for each in waits}) == 20
    assert all(each <= 2**n for row in waits for n, each in enumerate(row))
    assert max(max(row) for row in waits) > 2


def test_a_look_gives_up_soon(clock: Clock) -> None:
    script = Script(status(502))
    assert send(script, clock, kind=Kind.LOOK).status_code == 502
    assert len(script.requests) == 2


def test_every_attempt_spends(clock: Clock) -> None:
    budget = RateBudget(3, 3, 300.0, clock)
    sender = Sender(
        over(Script(status(502), status(502), status(502), OK)),
        budget,
        threading.Event(),
        wait=clock.wait,
        clock=clock,
    )
    began = clock.now
    assert sender.send(httpx.Request("GET", URL)).status_code == 200
    assert clock.now - began >= 300.0  # waiting for the budget does not count against 120 s
    assert max(clock.waits) <= 5.0  # and the budget is looked at again and again


def test_waiting_for_the_budget_uses_up_no_patience(clock: Clock) -> None:
    script = Script(status(502), status(502), OK)
    sender = Sender(
        over(script),
        RateBudget(1, 1, 300.0, clock),
        threading.Event(),
        wait=clock.wait,
        clock=clock,
    )
    assert sender.send(httpx.Request("GET", URL)).status_code == 200
    assert sum(clock.waits) == pytest.approx(600.0, abs=0.1)


@pytest.mark.parametrize(
    ("kind", "limit", "remaining", "pace"),
    [
        (Kind.GENERAL, "500", "499", 0.3006),
        (Kind.LOOK, "500", "499", 0.3006),
        (Kind.RUN, "100", "99", 0.15),
        (Kind.GENERAL, "many", "few", 0.15),
        (Kind.GENERAL, "1000000000", "1000000000", 0.0),
    ],
)
def test_the_budget_learns_from_answers(
    clock: Clock, kind: Kind, limit: str, remaining: str, pace: float
) -> None:
    budget = RateBudget(clock=clock)
    reply = status(200, X_RateLimit_Limit=limit, X_RateLimit_Remaining=remaining)
    sender = Sender(over(Script(reply)), budget, threading.Event(), clock=clock)
    sender.send(httpx.Request("POST", URL), kind=kind)
    assert budget.pace == pytest.approx(pace, rel=0.01)


class Waiting:
    """A `closing` that says when somebody waits for it."""

    def __init__(self) -> None:
        self.closing = threading.Event()
        self.asked: list[float] = []
        self.begun = threading.Event()

    def __call__(self, seconds: float) -> bool:
        self.asked.append(seconds)
        self.begun.set()
        return self.closing.wait(seconds)


def in_thread(call: Callable[[], object]) -> tuple[threading.Thread, list[object]]:
    ends: list[object] = []

    def run() -> None:
        try:
            ends.append(call())
        except Exception as error:
            ends.append(error)

    thread = threading.Thread(target=run, name="a request")
    thread.start()
    return thread, ends


def test_a_429_delays_that_request_and_no_other() -> None:
    def app(request: httpx.Request) -> httpx.Response:
        return status(429, Retry_After="10") if request.url.path == "/slow" else OK

    waiting = Waiting()
    sender = Sender(over(httpx.MockTransport(app)), RateBudget(), waiting.closing, wait=waiting)
    slow = httpx.Request("GET", "http://platform.test/slow")
    thread, ends = in_thread(lambda: sender.send(slow))
    assert waiting.begun.wait(5)
    for _ in range(20):
        assert sender.send(httpx.Request("GET", URL)).status_code == 200
    assert waiting.asked[0] >= 10
    assert not ends  # it waits still
    waiting.closing.set()
    thread.join(5)
    assert isinstance(ends[0], PlatformError)


@pytest.mark.parametrize(
    ("reply", "method", "sent"),
    [
        (status(429, Retry_After="100"), "POST", False),
        (httpx.ConnectError("refused"), "POST", False),
        (status(502, Retry_After="100"), "GET", True),
    ],
)
def test_closing_ends_a_wait_at_once(reply: Reply, method: str, sent: bool) -> None:
    waiting = Waiting()
    script = Script(reply)
    sender = Sender(over(script), RateBudget(), waiting.closing, wait=waiting)
    thread, ends = in_thread(lambda: sender.send(httpx.Request(method, URL)))
    assert waiting.begun.wait(5)
    waiting.closing.set()
    thread.join(5)
    (error,) = ends
    assert isinstance(error, PlatformError)
    assert "the client was closed" in str(error)
    assert error.sent is sent


def test_closing_ends_a_wait_for_the_budget() -> None:
    waiting = Waiting()
    budget = RateBudget(limit=1)
    budget.delay(Kind.GENERAL)
    sender = Sender(over(Script(OK)), budget, waiting.closing, wait=waiting)
    thread, ends = in_thread(lambda: sender.send(httpx.Request("GET", URL)))
    assert waiting.begun.wait(5)
    waiting.closing.set()
    thread.join(5)
    (error,) = ends
    assert isinstance(error, PlatformError)
    assert not error.sent


def test_what_breaks_while_closing_was_closed() -> None:
    closing = threading.Event()

    def app(request: httpx.Request) -> httpx.Response:
        closing.set()
        raise RuntimeError("Cannot send a request, as the client has been closed.")

    sender = Sender(over(httpx.MockTransport(app)), RateBudget(), closing)
    with pytest.raises(PlatformError, match="the client was closed") as caught:
        sender.send(httpx.Request("GET", URL))
    assert caught.value.sent
    with pytest.raises(PlatformError, match="the client was closed") as caught:
        sender.send(httpx.Request("GET", URL))
    assert not caught.value.sent


class Drip(httpx.SyncByteStream):
    """A body of which a byte comes each second, for hours."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock

    def __iter__(self) -> Iterator[bytes]:
        for _ in range(100_000):
            self._clock.now += 1
            yield b" "


def test_an_answer_that_drips_is_not_waited_for(clock: Clock) -> None:
    begin = clock.now
    with pytest.raises(PlatformError, match="the answer took longer than 120 s"):
        send(Script(lambda request: httpx.Response(200, stream=Drip(clock))), clock, "POST")
    assert clock.now - begin < 130


def test_an_upload_may_take_longer_than_its_answer(clock: Clock) -> None:
    def app(request: httpx.Request) -> httpx.Response:
        clock.now += 500
        return httpx.Response(201, text="<PostResponse/>")

    links = FileLinks(over(Script(app)), threading.Event(), attempts=1, clock=clock)
    links.put("it", URL, Section(b"x" * 500_000, 500_000))


def test_a_download_that_drips_is_given_up(clock: Clock) -> None:
    client = over(Script(lambda request: httpx.Response(200, stream=Drip(clock))))
    links = FileLinks(client, threading.Event(), attempts=3, wait=clock.wait, clock=clock)
    begin = clock.now
    with pytest.raises(PlatformError, match=r"given up after 3 attempts: .* bytes took 6. s"):
        list(links.read("it", lambda: (URL, None)))
    assert clock.now - begin < 300
