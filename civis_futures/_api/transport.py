"""How requests reach the platform: when they may go, when they are tried again, when we give up.

Two parts. `Sender` sends API requests as the `RateBudget` allows, again and again where this is
safe. `FileLinks` moves bytes by the links of Files, which lead elsewhere: no key is sent there, and
nothing there counts against the budget.

This module must not know what a request is about: it knows verbs, statuses, and whether an answer
is JSON.
"""

from __future__ import annotations

import contextlib
import logging
import os
import re
import ssl
import threading
import time
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, BinaryIO, cast

import httpx
import tenacity

from .._exceptions import PlatformError, Recalled
from .._pacing import Pacing, default_pacing
from .budget import Kind, PlatformClock, RateBudget, retry_after
from .discreet import discreet, each_ours, ours, without_links

__all__ = ["Bytes", "FileLinks", "Kind", "LongPoll", "RateBudget", "Section", "Sender", "is_json"]

_log = logging.getLogger("civis_futures")

#: The longest pause of a request that waits for the budget, so that it notices when a response has
#: changed the budget.
_LONGEST_PAUSE = 5.0

_IDEMPOTENT_VERBS = frozenset({"GET", "HEAD", "PUT", "DELETE", "OPTIONS"})
_BROKEN_STATUSES = frozenset({500, 502, 503, 504})
#: Errors of a connection that never came about: the platform cannot have seen the request.
_NEVER_OPENED = (httpx.ConnectError, httpx.ConnectTimeout, httpx.PoolTimeout, httpx.ProxyError)
#: Errors that another attempt would meet again; see `_is_hopeless`.
_HOPELESS = (httpx.UnsupportedProtocol, httpx.LocalProtocolError, ssl.SSLCertVerificationError)
#: Seconds that one answer may take to be read, however many bytes it has and however they drip.
_LONGEST_ANSWER = 120.0
#: A download gets _DOWNLOAD_SECONDS, and one more for each _SLOWEST bytes.
_DOWNLOAD_SECONDS, _SLOWEST = 60.0, 1000


#: How a platform of ours says for how many seconds it holds such a request until there is another
#: answer, and how it is asked to.
HOLD_HEADER = "Civis-Local-Hold"
#: How a change says for whom it is news: who waits by another name is not told of it at once.
FOR_HEADER = "Civis-Local-For"
#: How it says which output is the newest, and is asked for those that are newer than that was.
SINCE_HEADER = "Civis-Local-Outputs"


class LongPoll:
    """A request that is made again and again, and is held until there is news where the platform
    offers that. For one thread at a time. `seconds` is for how long the next one is held at most.
    """

    def __init__(self) -> None:
        self.seconds = 0.0
        self._offered = 0.0
        self._cuts = 0
        self._last: httpx.Response | None = None

    @property
    def offered(self) -> float:
        """Seconds for which it may be; 0.0 if nothing is offered, or if it is of no use."""
        # Three in a row were cut off, or answered too soon and without news: a proxy between us and
        # the platform does not bear it.
        return self._offered if self._cuts < 3 else 0.0

    def send(
        self, request: httpx.Request, send: Callable[[httpx.Request, bool], httpx.Response]
    ) -> httpx.Response:
        """The answer by `send(request, once)`; the one before again if it still is the same."""
        wait, last, cut = min(self.seconds, self.offered), self._last, False
        if last is not None and SINCE_HEADER in last.headers:
            request.headers[SINCE_HEADER] = last.headers[SINCE_HEADER]
        if wait > 0 and last is not None:
            more = {"If-None-Match": _tag(last), HOLD_HEADER: f"{wait:g}"}
            request.headers.update(more)
            began, response = time.monotonic(), None
            with contextlib.suppress(PlatformError):
                response = send(request, True)
            if response is not None and (response.is_success or response.status_code == 304):
                same = not response.is_success or _tag(response) == _tag(last)
                early = same and time.monotonic() - began < wait / 2
                self._cuts = self._cuts + 1 if early else 0
                return last if same else self._note(response)
            cut = True  # which counts if the same works when it is not held
            for name in more:
                del request.headers[name]
        response = self._note(send(request, False))
        self._cuts += cut
        return response

    def _note(self, response: httpx.Response) -> httpx.Response:
        self._last, self._offered = None, 0.0
        if response.is_success and is_json(response):
            with contextlib.suppress(ValueError):
                self._offered = float(response.headers.get(HOLD_HEADER, "0"))
                # Without its bytes: what came along with it is in memory no longer than it is used.
                self._last = httpx.Response(
                    response.status_code,
                    headers=response.headers,
                    request=response.request,
                    extensions=response.extensions,
                )
        return response


def _tag(response: httpx.Response) -> str:
    return str(response.headers.get("ETag", ""))


class _Checked(httpx.SyncByteStream):
    """A body; `check` is called before each part of it, and raises where it must not go on."""

    def __init__(self, body: httpx.SyncByteStream, check: Callable[[], None]) -> None:
        self._body = body
        self._check = check

    def __iter__(self) -> Iterator[bytes]:
        for part in self._body:
            self._check()
            yield part

    def close(self) -> None:
        self._body.close()


def _read_answer(
    client: httpx.Client, request: httpx.Request, clock: Callable[[], float]
) -> httpx.Response:
    """The answer with its body. (The client's time limits are for each step, not for all.)"""
    response = client.send(request, stream=True)  # which may take long: it uploads, say
    end = clock() + _LONGEST_ANSWER

    def check() -> None:
        if clock() > end:
            raise httpx.ReadTimeout(f"the answer took longer than {_LONGEST_ANSWER:g} s")

    try:
        response.stream = _Checked(cast(httpx.SyncByteStream, response.stream), check)
        response.read()
    finally:
        response.close()
    return response


@dataclass(slots=True)
class _Trial:
    """One request on its way, over all its attempts."""

    request: httpx.Request
    kind: Kind
    idempotent: bool
    wants_json: bool
    wanted: Sequence[object]
    once: bool
    began: float
    excused: float = 0.0  # seconds that do not count: told to wait, or waiting for the budget
    arrived: bool = False  # whether an attempt may have reached the platform
    readable: bool = True  # whether the last answer was what a platform says

    @property
    def name(self) -> str:
        return f"{self.request.method} {self.request.url.path}"

    def error(self, message: str) -> PlatformError:
        request = self.request
        return PlatformError(
            f"{self.name}: {without_links(message)}",
            method=request.method,
            path=request.url.path,
            sent=self.arrived,
        )


class Sender:
    """Sends by the budget, reads the whole answer, and tries again where that is safe.

    429 on every verb, never sooner than ``Retry-After``. 500, 502, 503, 504, answers that should be
    JSON and are not, and errors of the connection or of the answer only on what is idempotent:
    after a POST these leave open whether it took effect. A connection that never opened: on every
    verb.

    The last answer is returned whatever it is; without one the error is a `PlatformError`. Each
    waiting request waits by itself, so none delays another; `closing` ends all waits at once.

    Args:
        platform_clock: it is set by each answer.
        seconds: for which a request is tried again; time spent waiting for the budget or as told
            by a 429 does not count.
        wait: how to wait, for tests; by default until `closing` is set.
    """

    def __init__(
        self,
        client: httpx.Client,
        budget: RateBudget,
        closing: threading.Event,
        platform_clock: PlatformClock | None = None,
        *,
        seconds: float = 120.0,
        pacing: Pacing | None = None,
        wait: Callable[[float], object] | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._client = client
        self._budget = budget
        self._closing = closing
        self._platform_clock = platform_clock or PlatformClock()
        self._seconds = seconds
        self._reached = False  # only ever becomes True, on whatever thread: no lock needed
        self._pacing = pacing or default_pacing()
        self._wait = wait or closing.wait
        self._clock = clock

    def send(
        self,
        request: httpx.Request,
        *,
        kind: Kind = Kind.GENERAL,
        idempotent: bool = False,
        wants_json: bool = False,
        wanted: Sequence[object] = (True,),
        once: bool = False,
    ) -> httpx.Response:
        """The answer to `request`, its body read.

        Args:
            kind: what it spends.
            idempotent: whether it may be repeated, whatever its verb.
            wants_json: whether a good answer is JSON; then `is_json` has decoded it.
            wanted: empty once the request is not wanted any more; looked at while it waits.
            once: not to try it again.

        Raises:
            PlatformError: there was no answer.
            Recalled: it was no longer wanted, and was not sent.
        """
        safe = idempotent or request.method in _IDEMPOTENT_VERBS
        trial = _Trial(request, kind, safe, wants_json, wanted, once, self._clock())
        retrying = tenacity.Retrying(
            retry=lambda state: _is_worth_another(state, trial),
            wait=self._pause_before_next,
            stop=lambda state: self._is_enough(state, trial),
            before_sleep=lambda state: self._before_sleep(state, trial),
            sleep=lambda seconds: self._pause(seconds, trial),
            retry_error_callback=_last_outcome,
        )
        try:
            return retrying(self._attempt, trial)
        except httpx.RequestError as error:
            where = f"{request.url.scheme}://{request.url.netloc.decode()}"
            raise trial.error(f"no answer from {where} ({_said(error)})") from error

    def _attempt(self, trial: _Trial) -> httpx.Response:
        while (delay := self._budget.delay(trial.kind)) > 0:
            delay = min(delay, _LONGEST_PAUSE)
            trial.excused += delay
            self._pause(delay, trial)
            if not trial.wanted:
                raise Recalled
        self._check_open(trial)
        sent = self._clock()
        try:
            with ours():
                response = _read_answer(self._client, trial.request, self._clock)
        except Exception as error:
            discreet(error)
            trial.arrived |= not (isinstance(error, _NEVER_OPENED) or _is_hopeless(error))
            # Closing the pool under a request makes errors of many kinds; this is what they mean.
            self._check_open(trial, error)
            raise
        trial.readable = not (response.is_success and trial.wants_json) or is_json(response)
        self._reached |= trial.readable
        trial.arrived |= response.status_code != 429
        if trial.readable:
            self._platform_clock.observe(response.headers, self._clock() - sent)
        self._learn(trial.kind, response.headers)
        return response

    def _learn(self, kind: Kind, headers: httpx.Headers) -> None:
        if kind is Kind.RUN:
            return
        try:
            limit = int(headers["X-RateLimit-Limit"])
            remaining = int(headers["X-RateLimit-Remaining"])
        except (KeyError, ValueError):
            return
        self._budget.observe(limit, remaining)

    def _is_enough(self, state: tenacity.RetryCallState, trial: _Trial) -> bool:
        attempts, seconds = 10, self._seconds
        if trial.kind is Kind.LOOK:  # the next one comes anyway, and knows more
            attempts, seconds = 2, 20.0
        if not self._reached:  # a wrong address shall not look like a slow platform
            seconds = min(seconds, 15.0)
            # Three answers that make no sense, before any that does, are no platform's.
            attempts = attempts if trial.readable else 3
        if trial.once or state.attempt_number >= attempts:
            return True
        if _status(state) == 429:
            return False
        spent = self._clock() - trial.began - trial.excused
        return spent + state.upcoming_sleep > seconds

    def _before_sleep(self, state: tenacity.RetryCallState, trial: _Trial) -> None:
        if (status := _status(state)) == 429:
            trial.excused += state.upcoming_sleep
        reason = (status if trial.readable else "garbage") or _said(_failure(state))
        # After three failed attempts a warning says why nothing moves.
        level = logging.WARNING if state.attempt_number == 3 else logging.INFO
        _log.log(level, "%s: %s; again in %.1f s", trial.name, reason, state.upcoming_sleep)

    def _pause_before_next(self, state: tenacity.RetryCallState) -> float:
        """Jittered and growing, on top of what the answer asked for."""
        asked = 0.0
        if _status(state) is not None and state.outcome is not None:
            headers = state.outcome.result().headers
            asked = retry_after(headers, self._platform_clock.now)
        return asked + _backoff(self._pacing)(state)

    def _pause(self, seconds: float, trial: _Trial) -> None:
        self._wait(seconds)
        self._check_open(trial)

    def _check_open(self, trial: _Trial, cause: Exception | None = None) -> None:
        if self._closing.is_set():
            raise trial.error("the client was closed") from cause


def is_json(response: httpx.Response) -> bool:
    """Whether a body is JSON; what it says is then in `response.extensions["value"]`."""
    with contextlib.suppress(ValueError, RecursionError):
        if "value" not in response.extensions:
            response.extensions["value"] = response.json()
    return "value" in response.extensions


def _failure(state: tenacity.RetryCallState) -> BaseException | None:
    return state.outcome.exception() if state.outcome else None


def _status(state: tenacity.RetryCallState) -> int | None:
    """The status of the answer that the last attempt had, or None if it had none."""
    if state.outcome is None or state.outcome.failed:
        return None
    return int(state.outcome.result().status_code)


def _said(error: BaseException | None) -> str:
    return f"{type(error).__name__}: {error}"


def _is_hopeless(error: BaseException | None) -> bool:
    # What httpx says of a certificate is told by its cause alone, and that one has it as argument.
    while error is not None:
        if any(isinstance(each, _HOPELESS) for each in (error, *error.args)):
            return True
        error = error.__cause__
    return False


def _last_outcome(state: tenacity.RetryCallState) -> Any:
    return state.outcome.result() if state.outcome else None


def _is_worth_another(state: tenacity.RetryCallState, trial: _Trial) -> bool:
    error = _failure(state)
    if error is None:
        status = _status(state)
        broken = status in _BROKEN_STATUSES or not trial.readable
        return status == 429 or (trial.idempotent and broken)
    if not isinstance(error, httpx.RequestError) or _is_hopeless(error):
        return False
    return trial.idempotent or isinstance(error, _NEVER_OPENED)


def _backoff(pacing: Pacing) -> tenacity.wait_random_exponential:
    return tenacity.wait_random_exponential(
        multiplier=pacing.request_backoff, max=pacing.longest_request_backoff
    )


#: What is uploaded from memory; anything else is a file object, which can seek.
Bytes = bytes | bytearray | memoryview

_CHUNK = 65_536


class Section:
    """`size` bytes of `source` from `start` on, by default from where it stands; a file object.

    Sections of one file share its position: they are read one after another, each from its start.
    """

    def __init__(self, source: Bytes | BinaryIO, size: int, start: int | None = None) -> None:
        self._source = source
        if start is None:
            start = 0 if isinstance(source, Bytes) else source.tell()
        self._start = start
        self.size = size
        self._position = self.seek(0)

    def part(self, start: int, size: int) -> Section:
        """`size` bytes of this section from `start` on."""
        return Section(self._source, size, self._start + start)

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        """As of a file; relative to the start or (os.SEEK_END) to the end of the section."""
        self._position = offset + (self.size if whence == os.SEEK_END else 0)
        if not isinstance(self._source, Bytes):
            self._source.seek(self._start + self._position)
        return self._position

    def tell(self) -> int:
        """As of a file."""
        return self._position

    def read(self, size: int) -> bytes:
        """As of a file; but a source that ends before the section does is a ValueError."""
        size = min(size, self.size - self._position)
        first = self._start + self._position
        if isinstance(self._source, Bytes):
            chunk = bytes(memoryview(self._source).cast("B")[first : first + size])
        else:
            chunk = self._source.read(size)
        if size and not chunk:
            raise ValueError(f"the source ended {self.size - self._position:,} bytes too early")
        self._position += len(chunk)
        return chunk

    def __iter__(self) -> Iterator[bytes]:
        """Chunks, from the position to the end."""
        while chunk := self.read(_CHUNK):
            yield chunk


class _LinkError(Exception):
    """What went wrong with a link, where another attempt may do better."""


class _ExpiredLinkError(_LinkError):
    """The link is refused; a fresh one may not be."""


class FileLinks:
    """Bytes to and from the links of Files, streamed; tried again whatever breaks, until closed.

    `name` in each method is what to call the file in an error: links are secrets.
    """

    def __init__(
        self,
        client: httpx.Client,
        closing: threading.Event,
        *,
        attempts: int = 8,
        pacing: Pacing | None = None,
        wait: Callable[[float], object] | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._client = client
        self._closing = closing
        self._attempts = attempts
        self._pacing = pacing or default_pacing()
        self._wait = wait or closing.wait
        self._clock = clock

    def post(self, name: str, url: str, fields: Mapping[str, str], section: Section) -> None:
        """Post `section` as the form that storage wants: ``key`` first, the file last."""
        form = {"key": fields["key"], **fields} if "key" in fields else dict(fields)
        files = {"file": ("file", cast(BinaryIO, section), "application/octet-stream")}
        # httpx goes back to the start of the section itself.
        self._send(name, lambda: self._client.build_request("POST", url, data=form, files=files))

    def put(self, name: str, url: str, section: Section) -> None:
        """Put `section`: one part of an upload."""

        def build() -> httpx.Request:
            section.seek(0)
            return self._client.build_request("PUT", url, content=section)

        self._send(name, build)

    def read(self, name: str, find: Callable[[], tuple[str, int | None]]) -> Iterator[bytes]:
        """The bytes behind the link that `find` returns with their number, or None if unknown.

        After a break it goes on where it was. Each attempt asks `find` for a fresh link, so that
        an expired one is no special case; a fresh link that is refused is an error.
        """
        done, refused_at = 0, -1
        for attempt in self._retrying(name):
            with attempt:
                url, size = find()
                try:
                    for chunk in self._chunks(name, url, done):
                        done += len(chunk)
                        yield chunk
                except _ExpiredLinkError as error:
                    if refused_at == done:
                        raise PlatformError(f"{name}: {error}", method="GET", status=403) from None
                    refused_at = done
                    raise
                if size is not None and done < size:
                    raise _LinkError(f"it ended after {done:,} of {size:,} bytes")

    @each_ours
    def _chunks(self, name: str, url: str, position: int) -> Generator[bytes]:
        headers = {"Accept-Encoding": "identity"}
        if position:
            headers["Range"] = f"bytes={position}-"
        with (
            self._own_errors(name),
            self._client.stream("GET", url, headers=headers, follow_redirects=True) as response,
        ):
            if position and response.status_code == 416:
                return  # nothing follows: the break came after the last byte
            _check_accepted(name, response)
            # Storage that knows no ranges begins anew; then pass over what we have.
            skip = 0 if response.status_code == 206 else position
            began, received = self._clock(), 0
            for chunk in response.iter_raw():
                self._check_open(name)
                received += len(chunk)
                took = self._clock() - began
                if took > _DOWNLOAD_SECONDS + received / _SLOWEST:
                    raise _LinkError(f"{received:,} bytes took {took:.0f} s")
                if rest := chunk[skip:]:
                    yield rest
                skip = max(0, skip - len(chunk))

    def _send(self, name: str, build: Callable[[], httpx.Request]) -> None:
        def attempt() -> None:
            self._check_open(name)
            with self._own_errors(name), ours():
                _check_accepted(name, _read_answer(self._client, build(), self._clock))

        self._retrying(name)(attempt)

    def _retrying(self, name: str) -> tenacity.Retrying:
        def give_up(state: tenacity.RetryCallState) -> None:
            error = _failure(state)
            cause = error.__cause__ if error else None
            tried = state.attempt_number
            raise PlatformError(f"{name}: given up after {tried} attempts: {error}") from cause

        return tenacity.Retrying(
            retry=tenacity.retry_if_exception_type(_LinkError),
            wait=_backoff(self._pacing),
            stop=tenacity.stop_after_attempt(self._attempts),
            sleep=lambda seconds: self._pause(seconds, name),
            before_sleep=lambda state: _log.info("%s: %s; again", name, _failure(state)),
            retry_error_callback=give_up,
        )

    @contextlib.contextmanager
    def _own_errors(self, name: str) -> Iterator[None]:
        try:
            yield
        except (httpx.RequestError, httpx.InvalidURL, RuntimeError) as error:
            discreet(error)
            self._check_open(name, error)
            if isinstance(error, httpx.RequestError) and not _is_hopeless(error):
                raise _LinkError(_said(error)) from error
            raise PlatformError(f"{name}: the link is of no use ({_said(error)})") from error

    def _pause(self, seconds: float, name: str) -> None:
        self._wait(seconds)
        self._check_open(name)

    def _check_open(self, name: str, cause: Exception | None = None) -> None:
        if self._closing.is_set():
            raise PlatformError(f"{name}: the client was closed") from cause


def _check_accepted(name: str, response: httpx.Response) -> None:
    """Nothing, if storage did what it was asked; else the error that fits."""
    if response.is_success:
        return
    status, method = response.status_code, response.request.method
    code = re.search(rb"<Code>(\w{1,60})</Code>", response.read()[:10_000])
    said = f"{method} answered {status}" + (f" {code[1].decode()}" if code else "")
    if status >= 500 or status == 429:
        raise _LinkError(said)
    if status == 403 and method == "GET":
        raise _ExpiredLinkError(said)
    raise PlatformError(f"{name}: {said}", method=method, status=status)
