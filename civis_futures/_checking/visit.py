"""Looking at a platform: two runs, at most a hundred requests, and nothing is left behind.

`visit` does what the client and its workers do, and notes what it has `Observed`. What follows
from it is said in `assumptions`. A request that is refused costs what it would have shown, and no
more.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import math
import secrets
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from typing import Any, TypeVar

from .._api.client import PlatformClient
from .._exceptions import PlatformError
from .._types import Job, JobKind, LogLine, Run
from . import probe

_T = TypeVar("_T")

#: Texts that are tried, in bytes, the largest first: what an order may have, and less.
TEXTS = (100_000, 30_000, 1_000)
#: Seconds before each look at a list that does not show yet what was made.
LAGS = (0.0, 0.25, 0.5, 1.0, 2.0, 4.0, 8.0)
#: The first pause between two looks and the longest one, in seconds, and by which factor the next
#: one is longer: 13 minutes in all.
PAUSES = (0.2, 40.0, 1.4)
#: How long the File lives if nothing ends it before.
LIFE = timedelta(days=1)


@dataclass
class Observed:
    """What was seen; None, or empty, is what was not.

    Args:
        refused: why something was not seen, by what it was.
        text: the size of the longest text that a script took, in bytes.
        ids: those of the scripts, in the order in which they were made.
        names_are_new: whether a script that was renamed had its new name at once, each time.
        lag: seconds until a list showed a script that had been made; infinite if none did.
        hidden: whether the list of hidden scripts had ours, and whether it had the one that is not.
        searched: whether a search for a part of the name found a hidden script.
        general_limit, start_limit: what answers to run starts, and to others, say of the limit.
        spent: by how much the requests left fell with a start and one request more, each time.
        grows, settled: whether the log of an active run was said to grow, and that of one that is
            over was not.
        rows: scripts and runs of ours in the list when both had ended, in its order.
        runs: as they were when asked for directly.
        logs: the lines of each.
        archived_outputs: the names of the outputs of the probe's run, once archived.
        archived_listed: whether the list of archived scripts had it.
        changed: whether a script's own time of change followed its run.
        times: texts of times that the platform gave.
        page: the address of a script's page, as we say it.
        requests, starts: how many of each were answered.
    """

    refused: dict[str, str] = field(default_factory=dict)
    user: int | None = None
    text: int | None = None
    ids: tuple[int, ...] = ()
    names_are_new: bool | None = None
    lag: float | None = None
    hidden: tuple[bool, bool] | None = None
    searched: bool | None = None
    general_limit: int | None = None
    start_limit: int | None = None
    spent: tuple[int, ...] = ()
    grows: bool | None = None
    settled: bool | None = None
    rows: tuple[tuple[int, Run], ...] | None = None
    runs: dict[str, Run] = field(default_factory=dict)
    logs: dict[str, list[LogLine]] = field(default_factory=dict)
    reported: dict[str, Any] = field(default_factory=dict)
    archived_outputs: tuple[str, ...] | None = None
    archived_listed: bool | None = None
    changed: bool | None = None
    times: tuple[str, ...] = ()
    page: str = ""
    requests: int = 0
    starts: int = 0


class Ear:
    """Hears what a client is answered: how many requests there were, and what is said of limits."""

    def __init__(self) -> None:
        self.counts: Counter[bool] = Counter()  # of run starts, and of all others
        self.limits: dict[bool, tuple[int, int]] = {}  # the last limit and what was left of it

    def __call__(self, method: str, path: str, headers: Mapping[str, str]) -> None:
        """As a client calls it."""
        start = method == "POST" and path.endswith("/runs")
        self.counts[start] += 1
        with contextlib.suppress(KeyError, ValueError):
            limit, left = headers["X-RateLimit-Limit"], headers["X-RateLimit-Remaining"]
            self.limits[start] = int(limit), int(left)


class UnfinishedError(Exception):
    """The runs have not ended in time; the text says how they were."""


def visit(client: PlatformClient, ear: Ear, image: tuple[str, str], seconds: float) -> Observed:
    """See what there is to see, and clean up.

    Args:
        ear: what the client was made with.
        image: the name and tag of an image with Python 3.
        seconds: how long the runs may take.

    Raises:
        PlatformError: nothing can be seen: no script can be made, or no run started.
        UnfinishedError: the runs did not end in time.
    """
    visitor = _Visitor(client, ear, image)
    try:
        visitor.make()
        visitor.look_at_lists()
        visitor.start()
        visitor.wait(seconds)
        visitor.look_back()
    finally:
        visitor.clean_up()
    visitor.seen.requests, visitor.seen.starts = sum(ear.counts.values()), ear.counts[True]
    return visitor.seen


class _Visitor:
    def __init__(self, client: PlatformClient, ear: Ear, image: tuple[str, str]) -> None:
        self._client = client
        self._ear = ear
        self._image = image
        self._token = secrets.token_hex(8)
        self._files: list[int] = []
        self._jobs: dict[str, Job] = {}
        self._runs: dict[str, Run] = {}
        self._archived: set[str] = set()
        self.seen = Observed()

    def _tried(self, what: str, do: Callable[[], _T]) -> _T | None:
        """What this gives, or None where it is refused."""
        try:
            return do()
        except PlatformError as error:
            self.seen.refused[what] = " ".join(str(error).split())
            return None

    def _name(self, what: str) -> str:
        return f"civis_futures check-platform {what} [{self._token}]"

    def make(self) -> None:
        """A File and three scripts; that of the probe with the longest text that is taken."""
        client, seen = self._client, self.seen
        seen.user = client.me()
        content = probe.CONTENT
        name = f"civis_futures.probe.{self._token}"
        file = client.upload(io.BytesIO(content), len(content), name, expires_in=LIFE)
        self._files.append(file)
        for size in TEXTS:
            body = probe.probe(
                self._name("probe"), client.url, self._image, file, probe.text_of(size)
            )
            try:
                self._jobs["probe"] = client.create_script(JobKind.CONTAINER, body)
                seen.text = size
                break
            except PlatformError as error:
                if error.status not in (400, 413, 422) or size == TEXTS[-1]:
                    raise
                seen.refused["text"] = " ".join(str(error).split())
        body = probe.glutton(self._name("glutton"), self._image)
        self._jobs["glutton"] = client.create_script(JobKind.CONTAINER, body)
        body = {**body, "name": self._name("visible"), "hidden": False}
        self._jobs["visible"] = client.create_script(JobKind.CONTAINER, body)
        seen.ids = tuple(job.id for job in self._jobs.values())
        seen.page = client.job_url(self._jobs["probe"])

    def look_at_lists(self) -> None:
        """When they show what was made, and what they show; and whether names are up to date."""
        self.seen.lag = self._tried("lag", self._lag)
        self.seen.hidden = self._tried("hidden", self._hidden)
        self.seen.searched = self._tried("searched", self._searched)
        self.seen.names_are_new = self._tried("names_are_new", self._names_are_new)

    def _lag(self) -> float:
        wanted, made = self._jobs["visible"].id, time.monotonic()
        for pause in LAGS:
            time.sleep(pause)
            asked = time.monotonic()
            rows = self._client.newest_jobs(JobKind.CONTAINER, hidden=False)
            if any(row.job_id == wanted for row in rows):
                return asked - made
        return math.inf

    def _hidden(self) -> tuple[bool, bool]:
        found = {row.job_id for row in self._client.newest_jobs(JobKind.CONTAINER)}
        ours = {self._jobs["probe"].id, self._jobs["glutton"].id} <= found
        return ours, self._jobs["visible"].id in found

    def _searched(self) -> bool:
        rows, _ = self._client.search_jobs(f"glutton [{self._token}")
        return any(row.job_id == self._jobs["glutton"].id for row in rows)

    def _names_are_new(self) -> bool:
        job, good = self._jobs["glutton"], True
        for number in range(3):
            name = f"{self._name('glutton')} #{number}"
            self._client.rename(job, name)
            good &= self._client.get_row(job, low_priority=False).name == name
        return good

    def start(self) -> None:
        """Both runs; and what a start takes from the general limit, with one request after it."""
        before = self._script("glutton")
        for what in ("probe", "glutton"):
            left = self._ear.limits.get(False)
            self._runs[what] = self._client.start_run(self._jobs[what])
            start_limit = self._ear.limits.get(True)
            after = self._script("glutton")
            now = self._ear.limits.get(False)
            if left is not None and now is not None:
                self.seen.general_limit = now[0]
                self.seen.spent += (left[1] - now[1],)
            if start_limit is not None:
                self.seen.start_limit = start_limit[0]
        self._before = (before or after or {}).get("updatedAt")
        self.seen.grows = self._grows("probe")
        if self.seen.grows is False:  # which says nothing if it has ended meanwhile
            run = self._client.get_run(self._jobs["probe"], self._runs["probe"].id)
            self.seen.grows = None if run.state.over else False

    def _script(self, what: str) -> dict[str, Any] | None:
        return self._tried("script", lambda: self._client.get_script(self._jobs[what]))

    def _grows(self, what: str) -> bool | None:
        """Whether the platform says that the log of a run may grow."""
        job, run = self._jobs[what], self._runs[what]
        page = self._tried("log", lambda: self._client.log_page(job, run.id, limit=1))
        return None if page is None else not page.complete

    def wait(self, seconds: float) -> None:
        """Until both runs are over: by the list of scripts, as the pool does it."""
        end, (pause, longest, growth) = time.monotonic() + seconds, PAUSES
        for look in range(32):  # so all requests together stay below 100
            rows = self._tried("rows", self._list)
            listed = dict(rows or ())
            for what, job in list(self._jobs.items())[:2]:
                # A list that does not help shall not keep us here.
                if job.id in listed and listed[job.id].state.over:
                    self._runs[what] = listed[job.id]
                # Every eighth look asks directly: a list may not show it.
                elif (look + 1) % 8 == 0 and not self._runs[what].state.over:
                    self._runs[what] = self._client.get_run(job, self._runs[what].id)
            if all(run.state.over for run in self._runs.values()):
                self.seen.rows = self._tried("rows", self._list)
                return
            if time.monotonic() + pause > end:
                break
            time.sleep(pause)
            pause = min(pause * growth, longest)
        states = ", ".join(f"run {run.id} is {run.said}" for run in self._runs.values())
        raise UnfinishedError(f"{states} after {seconds:g} seconds")

    def _list(self) -> tuple[tuple[int, Run], ...]:
        rows, _ = self._client.list_jobs(JobKind.CONTAINER, hidden=True, low_priority=False)
        ours = {self._jobs[what].id for what in self._runs}
        return tuple((row.job_id, row.run) for row in rows if row.job_id in ours and row.run)

    def look_back(self) -> None:
        """What is there when all is over, and when it is archived."""
        client, seen = self._client, self.seen
        for what, run in self._runs.items():
            job = self._jobs[what]
            seen.runs[what] = client.get_run(job, run.id)
            seen.logs[what] = self._log(what)
        seen.reported = probe.reported([line.message.strip() for line in seen.logs["probe"]])
        grows = self._grows("probe")
        seen.settled = None if grows is None else not grows
        after = self._script("glutton") or {}
        if self._before is not None and after:
            seen.changed = after.get("updatedAt") != self._before
        seen.times = tuple(str(after[name]) for name in ("createdAt", "updatedAt") if name in after)
        seen.times += tuple(line.created for lines in seen.logs.values() for line in lines)
        self._archive("probe")
        seen.archived_outputs = self._tried("archived_outputs", self._outputs)
        seen.archived_listed = self._tried("archived_listed", self._archived_listed)

    def _log(self, what: str) -> list[LogLine]:
        """The whole log: its last lines may come some seconds after the end of the run."""
        job, run, lines = self._jobs[what], self._runs[what], list[LogLine]()
        for pause in (0.0, 1.0, 3.0):
            time.sleep(pause)
            lines = self._client.list_logs(job, run.id)
            if any(line.message.startswith("Error on job") for line in lines):
                break
        return lines

    def _outputs(self) -> tuple[str, ...]:
        outputs, _ = self._client.list_outputs(
            self._jobs["probe"], self._runs["probe"].id, low_priority=False
        )
        return tuple(output.name for output in outputs)

    def _archived_listed(self) -> bool:
        rows, _ = self._client.list_jobs(
            JobKind.CONTAINER, hidden=True, low_priority=False, archived=True
        )
        return any(row.job_id == self._jobs["probe"].id for row in rows)

    def _archive(self, what: str) -> None:
        self._client.archive(self._jobs[what])
        self._archived.add(what)

    def clean_up(self) -> None:
        """End what runs, archive the scripts, and let the File end; whatever else went wrong."""
        for what, run in self._runs.items():
            if not run.state.over:
                with contextlib.suppress(PlatformError):
                    self._client.cancel_run(self._jobs[what], run.id)
        for what in self._jobs.keys() - self._archived:
            with contextlib.suppress(PlatformError):
                self._archive(what)
        for file in self._files:
            with contextlib.suppress(PlatformError):
                soon = datetime.fromtimestamp(self._client.clock.now(), UTC) + timedelta(seconds=5)
                self._client.set_file_expiry(file, soon)


def digest(content: bytes) -> str:
    """The SHA-256 in hexadecimal, as the probe tells it."""
    return hashlib.sha256(content).hexdigest()


def in_order(rows: Sequence[tuple[int, Run]]) -> bool:
    """Whether the run that changed last comes first; ends of the same second may be either way."""
    ends = [run.finished or 0.0 for _, run in rows]
    return all(first > second - 1.0 for first, second in pairwise(ends))
