"""The platform's API: `PlatformClient`, one method for each endpoint in use; and `LogSource`, the
logs of one kind of jobs over such a client.

This module must not know why it is asked: whether to try again later, look elsewhere or tell the
user is decided by others. When a request may go, and what is tried again on its way, is
`transport`'s business.
"""

from __future__ import annotations

import functools
import math
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, BinaryIO, Literal, NoReturn, TypeVar

import httpx

from .._exceptions import PlatformError
from .._kept.traits import Traits, remember_traits, remembered_traits
from .._pacing import Pacing, default_pacing
from .._types import Job, JobKind, JobRow, LogLine, LogPage, Output, Run, StoredFile
from . import replies
from .budget import platform_clock
from .credentials import DEFAULT_URL, access, checked_key, credentials, headers_for, with_slash
from .discreet import discreet, ours, without_links
from .routes import Routes
from .transport import (
    FOR_HEADER,
    Bytes,
    FileLinks,
    Kind,
    LongPoll,
    RateBudget,
    Section,
    Sender,
    is_json,
)

__all__ = [
    "DEFAULT_URL",
    "LongPoll",
    "PlatformClient",
    "access",
    "credentials",
]

#: The most rows that a page of any list has.
PAGE_SIZE = 50
#: Up to here a file goes as one form, above in parts, which have at least `LEAST_PART`.
SINGLE_UPLOAD_LIMIT = 50 * 1024**2
LEAST_PART = 5 * 1024**2
#: The platform takes no larger file.
FILE_SIZE_LIMIT = 5 * 1024**4

_T = TypeVar("_T")


class PlatformClient:
    """A platform and the key to it. Threads may share it.

    Every method raises PlatformError when the platform refuses, cannot be reached or answers what
    makes no sense. `low_priority=True` marks a request that gives way to others, and gives up soon.

    Args:
        url, api_key, ca_certs, direct: as `access` returns them.
        budget: the rate budget; clients with the same key should share one.
        timeout: seconds for each step of an attempt.
        patience: seconds for which a request is tried again while the platform is out of reach.
        auth: how to present the key; the platform takes both.
        pacing: how long it waits after failures, and for lists.
        single_upload, least_part: in bytes; larger files go in parts of at least `least_part`.
        heard: is told the method and path of each request that was answered, and the headers of
            the answer.
    """

    def __init__(
        self,
        url: str,
        api_key: str,
        ca_certs: str | None = None,
        direct: bool = False,
        *,
        budget: RateBudget | None = None,
        timeout: float = 60.0,
        patience: float = 120.0,
        auth: Literal["basic", "bearer"] = "basic",
        pacing: Pacing | None = None,
        single_upload: int = SINGLE_UPLOAD_LIMIT,
        least_part: int = LEAST_PART,
        heard: Callable[[str, str, Mapping[str, str]], None] | None = None,
    ) -> None:
        self._single_upload, self._least_part = single_upload, least_part
        self.url = with_slash(url)
        self.clock = platform_clock(self.url)
        key = checked_key(api_key)
        #: How this platform behaves where that is open, as far as it was seen.
        self.traits = remembered_traits(self.url, key)
        self.budget = budget or RateBudget(starts_count=self.traits.starts_count)
        self._me: int | None = None
        self.pacing = pacing or default_pacing()
        self._closing = threading.Event()
        #: Whether it is on this machine.
        self.is_local = _host(self.url) in ("127.0.0.1", "localhost", "::1")
        # A proxy of this machine leads away from it.
        direct, only = direct or self.is_local, (_host(self.url), ca_certs)
        routes = Routes(direct=direct, only=only), Routes(direct=direct, only=only)
        routes[0].way(httpx.URL(self.url))  # what cannot be done is reported at once
        limits = httpx.Timeout(timeout, connect=min(timeout, 10.0))
        headers = headers_for(key, auth)
        self._secrets = (key, headers["Authorization"].split()[1])
        self._http = httpx.Client(
            base_url=self.url,
            headers=headers,
            timeout=limits,
            transport=routes[0],
            trust_env=False,
            event_hooks={"response": [] if heard is None else [_telling(heard)]},
        )
        self._links_http = httpx.Client(timeout=limits, transport=routes[1], trust_env=False)
        self._sender = Sender(
            self._http,
            self.budget,
            self._closing,
            self.clock,
            seconds=patience,
            pacing=self.pacing,
        )
        self._links = FileLinks(self._links_http, self._closing, pacing=self.pacing)

    def __repr__(self) -> str:
        """Without the key."""
        return f"<PlatformClient of {self.url}>"

    def __reduce__(self) -> NoReturn:
        """Refuse: a pickle would hold the key."""
        raise TypeError("a PlatformClient cannot be pickled: it holds an API key")

    def close(self) -> None:
        """End all waits with a PlatformError, and close the connections. Twice is no harm."""
        self._closing.set()
        with ours():
            self._http.close()
            self._links_http.close()

    def remember(self, traits: Traits) -> Path | None:
        """Let all clients of this platform know these from now on; the file that has them."""
        return remember_traits(self.url, self._secrets[0], traits)

    def wait_out_lag(self) -> None:
        """Return when lists show all that there was at the time of the call.

        Raises:
            PlatformError: the client was closed meanwhile.
        """
        if self._closing.wait(max(self.pacing.lag, self.traits.list_lag)):
            raise PlatformError("the client was closed")

    def me(self) -> int:
        """The id of the key's user; asked once. GET /users/me."""
        if self._me is None:
            self._me = self._ask("GET", "users/me", replies.identity)
        return self._me

    # Jobs.

    def create_script(self, kind: JobKind, body: Mapping[str, Any]) -> Job:
        """POST /scripts/{kind}. Never repeated after a lost reply: see `find_job`."""
        return Job(
            self._ask("POST", f"scripts/{kind.value}", replies.identity, json=dict(body)), kind
        )

    def find_job(self, kind: JobKind, name: str, hidden: bool = True) -> Job | None:
        """My newest script of exactly this name: GET /scripts, then GET /jobs?q={name}.

        None is no proof: beyond the 50 newest it depends on the platform's search.
        """
        search = {"q": name, "hidden": hidden, "limit": PAGE_SIZE}

        def rows() -> Iterator[JobRow]:
            yield from self.newest_jobs(kind, hidden)
            yield from self._page("jobs", search, replies.job_row)[0]

        return next((Job(row.job_id, kind) for row in rows() if row.name == name), None)

    def newest_jobs(self, kind: JobKind, hidden: bool = True) -> list[JobRow]:
        """My 50 newest scripts. GET /scripts or GET /scripts/custom."""
        path, params = self._mine(kind, hidden)
        params.update(order="created_at", order_dir="desc")
        return self._page(path, params, replies.job_row)[0]

    def search_jobs(
        self, text: str, page: int = 1, user: int | None = None
    ) -> tuple[list[JobRow], bool]:
        """Hidden jobs with this text in their names, and whether more pages follow. GET /jobs.

        Mine only, or that user's: anybody can give a job any name, and what these names say is
        believed.
        """
        params = {"q": text, "hidden": True, "limit": PAGE_SIZE, "page_num": page}
        params["author"] = self.me() if user is None else user
        return self._page("jobs", params, replies.job_row)

    def list_jobs(
        self,
        kind: JobKind,
        *,
        hidden: bool,
        page: int = 1,
        low_priority: bool = True,
        archived: bool = False,
        by_script: bool = False,
        long_poll: LongPoll | None = None,
    ) -> tuple[list[JobRow], bool]:
        """My scripts, the last changed first, and whether more pages follow.

        GET /scripts by the time of the last run's change, or `by_script` by the script's own, as
        its name; GET /scripts/custom by the script's. Rows move between pages while one turns them:
        not seen is not gone.
        """
        path, params = self._mine(kind, hidden)
        by_run = kind is JobKind.CONTAINER and not by_script
        key = "last_run.updated_at" if by_run else "updated_at"
        params.update(order=key, order_dir="desc", page_num=page)
        if archived:  # they are in no list that does not ask for them
            params["archived"] = "true"
        return self._page(
            path, params, replies.job_row, low_priority=low_priority, long_poll=long_poll
        )

    def get_script(self, job: Job) -> dict[str, Any]:
        """The script as the platform has it. GET /scripts/{kind}/{id}."""
        return self._ask("GET", _path(job), replies.document)

    def get_row(
        self, job: Job, *, low_priority: bool = True, long_poll: LongPoll | None = None
    ) -> JobRow:
        """What a list would say of a script. GET /scripts/{kind}/{id}."""
        return self._ask(
            "GET", _path(job), replies.job_row, kind=_kind(low_priority), long_poll=long_poll
        )

    def template_script(self, template_id: int) -> Job:
        """The script behind a template. GET /templates/scripts/{id}."""
        return self._ask("GET", f"templates/scripts/{template_id}", replies.template_script)

    def rename(self, job: Job, name: str) -> None:
        """PATCH /scripts/{kind}/{id}."""
        self._send("PATCH", _path(job), json={"name": name}, idempotent=True)

    def archive(self, job: Job) -> None:
        """PUT /scripts/{kind}/{id}/archive."""
        self._send("PUT", f"{_path(job)}/archive", json={"status": True})

    def job_url(self, job: Job) -> str:
        """The page of the job for people."""
        if self.url == DEFAULT_URL:
            return f"https://platform.civisanalytics.com/spa/#/jobs/{job.id}"
        return f"{self.url}{_path(job)}"

    # Runs.

    def start_run(self, job: Job, wanted: Sequence[object] = (True,)) -> Run:
        """POST /scripts/{kind}/{id}/runs. Never repeated after a lost reply: see `latest_run`.

        Raises:
            Recalled: `wanted` became empty while the rate limit allowed no run.
        """
        path = f"{_path(job)}/runs"
        return self._ask("POST", path, replies.run, kind=Kind.RUN, wanted=wanted)

    def latest_run(self, job: Job, *, low_priority: bool = False) -> Run | None:
        """GET /scripts/{kind}/{id}/runs?limit=1."""
        params = {"limit": 1, "order": "id", "order_dir": "desc"}
        runs, _ = self._page(f"{_path(job)}/runs", params, replies.run, low_priority=low_priority)
        return runs[0] if runs else None

    def get_run(self, job: Job, run_id: int, *, low_priority: bool = False) -> Run:
        """GET /scripts/{kind}/{id}/runs/{run_id}."""
        return self._ask("GET", _path(job, run_id), replies.run, kind=_kind(low_priority))

    def cancel_run(self, job: Job, run_id: int) -> None:
        """DELETE /scripts/{kind}/{id}/runs/{run_id}; a run that is over already is no error."""
        try:
            self._send("DELETE", _path(job, run_id))
        except PlatformError as error:
            if error.status != 409 and not (error.status == 404 and self._is_gone(job, run_id)):
                raise

    def _is_gone(self, job: Job, run_id: int) -> bool:
        try:
            return self.get_run(job, run_id).state.over
        except PlatformError as error:
            return error.status == 404

    def list_outputs(
        self,
        job: Job,
        run_id: int,
        page: int = 1,
        limit: int = PAGE_SIZE,
        *,
        low_priority: bool = True,
    ) -> tuple[list[Output], bool]:
        """The newest first, and whether more pages follow. GET .../runs/{run_id}/outputs."""
        params = {"limit": limit, "page_num": page, "order": "id", "order_dir": "desc"}
        return self._page(
            f"{_path(job, run_id)}/outputs", params, replies.output, low_priority=low_priority
        )

    def list_logs(
        self,
        job: Job,
        run_id: int,
        *,
        limit: int = 1000,
        last_id: int | None = None,
        low_priority: bool = False,
    ) -> list[LogLine]:
        """The last `limit` lines, or the first that follow `last_id`; always the oldest first.

        GET .../runs/{run_id}/logs. A late line may have a lower id than one that was seen.
        """
        return self.log_page(
            job, run_id, limit=limit, last_id=last_id, low_priority=low_priority
        ).lines

    def log_page(
        self,
        job: Job,
        run_id: int,
        *,
        limit: int,
        last_id: int | None = None,
        low_priority: bool = False,
    ) -> LogPage:
        """As `list_logs`, and whether the log can still grow."""
        params = {"limit": limit} if last_id is None else {"limit": limit, "last_id": last_id}
        path = f"{_path(job, run_id)}/logs"
        response = self._send("GET", path, params=params, kind=_kind(low_priority), wants_json=True)
        lines = self._read(
            response, lambda value: [replies.log_line(each) for each in replies.array(value)]
        )
        lines.sort(key=lambda line: (replies.seconds(line.created) or 0.0, line.id))
        may_grow = response.headers.get("civis-cache-control", "no-store")
        return LogPage(lines, "no-store" not in may_grow)

    # JSON values. One that was made twice, or in vain, does no harm: so all of these are repeated.

    def create_json_value(self, name: str, text: str) -> int:
        """POST /json_values; `text` is JSON."""
        body = {"name": name, "valueStr": text}
        return self._ask("POST", "json_values", replies.identity, json=body, idempotent=True)

    def update_json_value(self, value_id: int, text: str, names: Sequence[str] = ()) -> None:
        """PATCH /json_values/{id}. `names`: of the workers for which it is news, if not for all."""
        headers = {FOR_HEADER: ",".join(names)} if names else None
        body = {"valueStr": text}
        path = f"json_values/{value_id}"
        self._send("PATCH", path, json=body, headers=headers, idempotent=True)

    def get_json_value(self, value_id: int, *, low_priority: bool = False) -> Any:
        """The decoded value. GET /json_values/{id}."""
        return self._ask(
            "GET", f"json_values/{value_id}", replies.json_value, kind=_kind(low_priority)
        )

    # Files. An orphan of a lost reply expires: so these are repeated too.

    def upload(
        self, source: Bytes | BinaryIO, size: int, name: str, *, expires_in: timedelta
    ) -> int:
        """The id of a new File with `size` bytes of `source` (from where it stands; seekable).

        POST /files and one form, or POST /files/multipart and a PUT for each part; streamed. The
        parts go one after another, so that any file object will do and none is in memory.
        """
        if not 0 <= size <= FILE_SIZE_LIMIT:
            raise ValueError(f"a file has 0 to {FILE_SIZE_LIMIT:,} bytes, not {size:,}")
        section = Section(source, size)
        expires = datetime.fromtimestamp(self.clock.now(), UTC) + expires_in
        body = {"name": name, "expiresAt": replies.moment(expires)}
        if size > self._single_upload:
            return self._upload_parts(section, body)
        file_id, url, fields = self._ask(
            "POST", "files", replies.upload_form, json=body, idempotent=True
        )
        self._links.post(f"upload of File {file_id}", url, fields, section)
        return file_id

    def _upload_parts(self, section: Section, body: dict[str, Any]) -> int:
        size = section.size
        part = max(int(math.sqrt(self._least_part) * math.sqrt(size)), self._least_part)
        starts = range(0, size, part)
        body = {**body, "numParts": len(starts)}
        file_id, urls = self._ask(
            "POST", "files/multipart", replies.upload_parts, json=body, idempotent=True
        )
        name = f"upload of File {file_id}"
        if len(urls) != len(starts):
            raise PlatformError(f"{name}: {len(urls)} links came for {len(starts)} parts")
        for number, (url, start) in enumerate(zip(urls, starts, strict=True), 1):
            stretch = section.part(start, min(part, size - start))
            self._links.put(f"{name}, part {number}", url, stretch)
        self._send("POST", f"files/multipart/{file_id}/complete", idempotent=True)
        return file_id

    def download(self, file_id: int) -> Iterator[bytes]:
        """The bytes of a File as they come. GET /files/{id}, then GET of its link."""
        return self._links.read(f"download of File {file_id}", lambda: self._link(file_id))

    def download_to(self, file_id: int, target: BinaryIO) -> int:
        """Write the bytes of a File to `target`; their number."""
        return sum(target.write(chunk) for chunk in self.download(file_id))

    def get_file(self, file_id: int) -> StoredFile:
        """Whether a File is there. GET /files/{id}."""
        return self._ask("GET", f"files/{file_id}", replies.stored_file)

    def set_file_expiry(self, file_id: int, when: datetime) -> None:
        """PATCH /files/{id}; `when` must have a time zone."""
        body = {"expiresAt": replies.moment(when)}
        self._send("PATCH", f"files/{file_id}", json=body, idempotent=True)

    def _link(self, file_id: int) -> tuple[str, int | None]:
        url, size = self._ask("GET", f"files/{file_id}", replies.file_link)
        if url is None:
            message = f"File {file_id} is empty or has expired: it has no link"
            raise PlatformError(message, method="GET", path=f"/files/{file_id}")
        return url, size

    # The way of every request.

    def _mine(self, kind: JobKind, hidden: bool) -> tuple[str, dict[str, Any]]:
        params: dict[str, Any] = {"author": self.me(), "hidden": hidden, "limit": PAGE_SIZE}
        if kind is JobKind.CUSTOM:
            return "scripts/custom", params
        return "scripts", {"type": kind.value, **params}

    def _page(
        self,
        path: str,
        params: Mapping[str, Any],
        row: Callable[[Any], _T],
        low_priority: bool = False,
        long_poll: LongPoll | None = None,
    ) -> tuple[list[_T], bool]:
        """The rows of one page, and whether more follow."""
        how: dict[str, Any] = {
            "kind": _kind(low_priority),
            "wants_json": True,
            "long_poll": long_poll,
        }
        response = self._send("GET", path, params=params, **how)
        rows = self._read(response, lambda value: [row(each) for each in replies.array(value)])
        try:
            more = int(response.headers["X-Pagination-Total-Pages"]) > params.get("page_num", 1)
        except (KeyError, ValueError):
            more = len(rows) >= params["limit"]
        return rows, more

    def _ask(self, method: str, path: str, parse: Callable[[Any], _T], **request: Any) -> _T:
        return self._read(self._send(method, path, wants_json=True, **request), parse)

    def _send(
        self,
        method: str,
        path: str,
        *,
        params: Mapping[str, Any] | None = None,
        json: Any = None,
        headers: Mapping[str, str] | None = None,
        long_poll: LongPoll | None = None,
        **how: Any,
    ) -> httpx.Response:
        """The answer, if it is a good one; `how` is what `Sender.send` takes."""
        request = self._http.build_request(method, path, params=params, json=json, headers=headers)
        if long_poll is None:
            response = self._sender.send(request, **how)
        else:
            response = long_poll.send(
                request, lambda r, once: self._sender.send(r, once=once, **how)
            )
        if not response.is_success:
            reason = replies.reason(response.text, response.reason_phrase or "no reason given")
            raise self._error(response, reason)
        return response

    def _read(self, response: httpx.Response, parse: Callable[[Any], _T]) -> _T:
        if not is_json(response):
            raise self._error(response, "answered something that is not JSON")
        try:
            return parse(response.extensions["value"])
        except (ArithmeticError, AttributeError, LookupError, TypeError, ValueError) as error:
            said = f"answered JSON that was not expected ({type(error).__name__}: {error})"
            raise self._error(response, said) from discreet(error)

    def _error(self, response: httpx.Response, said: str) -> PlatformError:
        request, path = response.request, response.request.url.path
        request_id = response.headers.get("X-Request-Id")
        status = response.status_code
        message = f"{request.method} {path}: {status}: {without_links(said)}"
        message += f" [request {request_id}]" if request_id else ""
        for secret in self._secrets:  # a platform may quote what it was sent
            message = message.replace(secret, "(key)")
        return PlatformError(
            message, method=request.method, path=path, status=status, request_id=request_id
        )


def _telling(
    heard: Callable[[str, str, Mapping[str, str]], None],
) -> Callable[[httpx.Response], None]:
    def tell(response: httpx.Response) -> None:
        heard(response.request.method, response.request.url.path, response.headers)

    return tell


def _host(url: str) -> str:
    try:
        parsed = httpx.URL(url)
    except httpx.InvalidURL as error:
        raise ValueError(f"the platform's URL cannot be read: {error}") from None
    if parsed.userinfo:  # it would be sent in place of the key, and be in every repr
        raise ValueError("the platform's URL must not hold a user name or a password")
    if parsed.scheme not in ("http", "https") or not parsed.host:
        raise ValueError(f"the platform's URL must begin with http:// or https://, not {url!r}")
    return parsed.host


def _path(job: Job, run_id: int | None = None) -> str:
    path = f"scripts/{job.kind.value}/{job.id}"
    return path if run_id is None else f"{path}/runs/{run_id}"


def _kind(low_priority: bool) -> Kind:
    return Kind.LOOK if low_priority else Kind.GENERAL


class LogSource:
    """The logs of one kind of jobs, over a client of its own, which it closes.

    Reading them gives way to other requests: users may follow many for hours.
    """

    def __init__(self, client: PlatformClient, kind: JobKind) -> None:
        self._client = client
        self._kind = kind

    @property
    def pace(self) -> float:
        """Seconds per request that the budget sustains."""
        return self._client.budget.pace

    def page(self, job_id: int, run_id: int, last_id: int | None, limit: int) -> LogPage:
        """Some lines of a run's log; patient only where trouble may pass."""
        job = Job(job_id, self._kind)
        read = functools.partial(self._client.log_page, job, run_id, limit=limit, last_id=last_id)
        try:
            return read(low_priority=True)
        except PlatformError as error:
            if error.status is not None and 400 <= error.status < 500 and error.status != 429:
                raise
            return read()

    def close(self) -> None:
        """Close the client."""
        self._client.close()
