"""The client's end of the post: prepare, launch, send, look, fetch, cancel, archive.

Each method performs one command against the platform and may be repeated: what a lost reply left
open is looked up, never done twice. It knows runs, letters and files, and nothing of futures,
pickles or scheduling. Methods raise PlatformError; the manager makes events of them.
"""

from __future__ import annotations

import itertools
import json
import logging
import secrets
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from collections.abc import Container as Container_
from dataclasses import asdict, dataclass, replace
from datetime import timedelta
from typing import Protocol, TypeVar

from .. import _wire
from .._api.client import LongPoll, PlatformClient
from .._api.failures import is_ambiguous, is_hopeless, is_running_already
from .._container.container import Container, Template, job_kind
from .._data import sources
from .._exceptions import PlatformError, Recalled
from .._scheduling import events as e
from .._types import ANY_RESOURCES, Job, JobRow, Output, Resources, Run, RunState, WorkerId
from .launch import bootstrap, script_body
from .verdict import part_of, reached, told_by_run, told_by_worker

_log = logging.getLogger(__name__)
_T = TypeVar("_T")

#: Files of ours live so long: longer than a run may (5 days), queueing and retries included.
FILE_LIFE = timedelta(days=14)
#: How many runs a look asks for one by one, besides the list and those of which it must be sure:
#: those it has not seen for longest.
DIRECT_LOOKS = 2
#: Where lists go on after what they have shown, that is for what is lost: once in this many looks.
DIRECT_EVERY = 10
#: How many pages of a list a look reads at the most; PAGE rows each.
LIST_PAGES, PAGE = 20, 50
#: How many outputs are asked for at once, at the most: what the platform gives.
MOST_OUTPUTS = 50
#: For how many workers at the most a version of the inbox is news, without being so for all.
MOST_NAMED = 200
#: How many looks find the same answers unreadable before they count as garbled.
GARBLED_LOOKS = 3
#: How often a request is sent whose reply is lost each time, and which has had no effect.
TRIES = 3
#: How much of a log is read to find out why a run ended, and which call it was at.
LOG_LINES = 1000
#: What is said of a run that the platform does not know any more.
GONE = "not found"


@dataclass(frozen=True, slots=True)
class PoolFiles:
    """What is on the platform for all workers of a pool."""

    inboxes: tuple[int, ...]
    initializer: _wire.Blob | None = None


@dataclass(frozen=True, slots=True)
class WorkerRun:
    """A worker as the mailbox knows it: its token, its run, how many of its letters it has read
    without a gap, and how many looks have found the next one there but unreadable.
    """

    worker: WorkerId
    token: str
    job: Job
    run_id: int
    read: int = 0
    unreadable: int = 0


class Book(Protocol):
    """Where a pool's workers are written down, so that other processes find them: a session."""

    @property
    def inbox(self) -> int:
        """The JSON value that is the inbox of all workers."""

    @property
    def holder(self) -> int:
        """The script that stands for this process: once it is marked, workers obey it no more."""

    def signed(self, inbox: _wire.Inbox) -> _wire.Inbox:
        """What workers are to read, as of this process."""

    def record(self, job: Job, order: _wire.Order, resources: Resources) -> None:
        """A worker has a script, and is about to get a run."""

    def forget(self, token: str, run_id: int) -> None:
        """All that a worker was given has ended."""


class Mailbox:
    """The post of one pool, over one `PlatformClient`; `book` has the inbox, if there is one; `key`
    is what answers must be sealed with, if there is one.

    All methods may be called from any thread; `look` from one at a time (the scheduler sees to
    that), since it alone owns the memory of what it saw before.
    """

    def __init__(
        self,
        client: PlatformClient,
        container: Container | Template,
        book: Book | None = None,
        key: str = "",
    ) -> None:
        self._client = client
        self._container = container
        self._book = book
        self._key = key
        self._kind = job_kind(container)
        self._states: dict[WorkerId, RunState] = {}  # owned by `look`
        self._unseen: Counter[WorkerId] = Counter()  # owned by `look`
        self._looks = itertools.count()  # owned by `look`
        self.long_poll = LongPoll()  # owned by `look`
        self._inboxes: dict[int, _wire.Inbox] = {}  # as they are on the platform for certain

    # --- prepare, upload, fetch ----------------------------------------------------------------

    def prepare(self, name: str, inboxes: int) -> tuple[int, ...]:
        """See whether the platform knows us; the ids of so many inboxes. Each time they are new."""
        self._client.me()
        if self._book is not None:
            return (self._book.inbox,)
        empty = _wire.to_json(_wire.Inbox())
        create = self._client.create_json_value
        return tuple(create(f"{name} inbox", empty) for _ in range(inboxes))

    def upload(self, data: bytes, name: str) -> _wire.Blob:
        """Put bytes into a File."""
        file_id = self._client.upload(data, len(data), name, expires_in=FILE_LIFE)
        return _wire.Blob.in_file(file_id, _wire.digest(data), len(data))

    def fetch(self, blob: _wire.Blob) -> bytes:
        """The bytes of a File, checked; read twice before they count as wrong.

        Raises:
            PlatformError: the File cannot be read.
            WireError: the bytes are not those that were sent.
        """
        if blob.file_id is None:
            return blob.inline_data()
        try:
            return blob.check(b"".join(self._client.download(blob.file_id)))
        except _wire.WireError:
            return blob.check(b"".join(self._client.download(blob.file_id)))

    # --- launch, send, cancel, archive ---------------------------------------------------------

    def launch(
        self,
        pool: str,
        worker: int,
        order: _wire.Order,
        program: _wire.Blob | None,
        wanted: Sequence[object],
        resources: Resources = ANY_RESOURCES,
    ) -> tuple[Job, Run]:
        """Create the script of a pool's worker, of this size, and start its run.

        `program` is what it runs, unless its template has one.
        `wanted` is emptied by the manager when the worker is no longer wanted.

        Raises:
            Recalled: it was no longer wanted, and no run was started.
        """
        if not wanted:
            raise Recalled
        name = _wire.script_name(pool, worker, order.worker, secrets.token_hex(4))
        holder = 0 if self._book is None else self._book.holder
        traits = self._client.traits
        renamed = name if traits.renaming else ""  # workers rename their scripts if they know them
        version = _wire.WIRE_VERSION if order.processes == 1 else _wire.SEVERAL_VERSION
        order = replace(order, name=renamed, holder=holder, key=self._key, version=version)
        text = _wire.packed(order)
        container = self._container
        if resources != ANY_RESOURCES:
            container = replace(container, required_resources=asdict(resources))
        if len(text) > min(_wire.ORDER_LIMIT, traits.text_limit):
            text = str(self.upload(text.encode(), f"order of {name}").file_id)
        said: str | int | None = text
        if isinstance(container, Template) and container.order_in_file:
            assert program is not None, "it goes along"
            assert program.file_id is not None, "it travels in a File"
            start = bootstrap(order.url, program.sha256, program.file_id)
            said = self.upload(_wire.for_template(text, start), f"start of {name}").file_id
        assert said is not None, "what was uploaded is in a File"
        body = script_body(container, name=name, order=said, program=program, url=order.url)
        job = self._create(name, body)
        try:
            if not wanted:
                raise Recalled
            if self._book is not None:
                self._book.record(job, order, resources)
            return job, self._start(job, wanted)
        except (PlatformError, Recalled):
            self._archive_quietly(job)
            raise

    def _create(self, name: str, body: dict[str, object]) -> Job:
        hidden = self._container.hidden
        for _ in range(TRIES):
            try:
                return self._client.create_script(self._kind, body)
            except PlatformError as error:
                if not is_ambiguous(error):
                    raise
                failure = error
            job = self._look_up(lambda: self._client.find_job(self._kind, name, hidden))
            if job is not None:
                return job
        raise failure

    def _start(self, job: Job, wanted: Sequence[object]) -> Run:
        for _ in range(TRIES):
            try:
                return self._client.start_run(job, wanted)
            except PlatformError as error:
                if not is_ambiguous(error) and error.status != 409:
                    raise
                failure = error
            run = self._look_up(lambda: self._client.latest_run(job))
            if run is not None:
                return run
            if failure.status == 409 and not is_running_already(failure):
                raise failure  # a conflict of another kind
        raise failure

    def _look_up(self, find: Callable[[], _T | None]) -> _T | None:
        """What a request whose reply was lost has made; None only if it is certain that it has made
        nothing.

        Taking it for nothing when the platform could not be asked would have calls run twice.
        """
        for shown in (False, True):  # whether lists are certain to show it
            if shown:
                self._client.wait_out_lag()
            while True:
                try:
                    found = find()
                    break
                except PlatformError as error:
                    if is_hopeless(error):
                        raise
            if found is not None:
                return found
        return None

    def write_inboxes(self, inboxes: Mapping[int, _wire.Inbox], whole: bool) -> None:
        """Replace what the workers read: the `whole`, or where it says something new."""

        def said(inbox: _wire.Inbox) -> object:
            return inbox.letters, inbox.poll, inbox.lease

        before = {number: said(inbox) for number, inbox in self._inboxes.items()}
        new = [number for number in inboxes if said(inboxes[number]) != before.get(number)]
        for number in inboxes if whole or not new else new:
            self.write_inbox(number, inboxes[number])

    def write_inbox(self, inbox_id: int, inbox: _wire.Inbox) -> None:
        """Replace what the workers read.

        Raises:
            Recalled: it is another process that writes it now.
        """
        if self._book is not None:
            inbox = self._book.signed(inbox)
        before = self._inboxes.pop(inbox_id, None)
        names = _with_news(inbox, before) if before is not None and self.long_poll.offered else ()
        self._client.update_json_value(inbox_id, json.dumps(_wire.packed(inbox)), names)
        self._inboxes[inbox_id] = inbox

    def cancel(self, worker_run: WorkerRun) -> None:
        """Ask for the end of a run; one that is over already is fine."""
        self._client.cancel_run(worker_run.job, worker_run.run_id)

    def archive(self, worker_run: WorkerRun) -> None:
        """Archive the script of a worker."""
        self._client.archive(worker_run.job)
        if self._book is not None:  # not before: who comes after us archives what is not over
            self._book.forget(worker_run.token, worker_run.run_id)

    def _archive_quietly(self, job: Job) -> None:
        try:
            self._client.archive(job)
        except PlatformError as error:
            _log.warning("script %s was created but not run, and not archived: %s", job.id, error)

    # --- look ----------------------------------------------------------------------------------

    def look(
        self,
        watches: Sequence[tuple[WorkerRun, e.Reading]],
        sure: Container_[WorkerId] = frozenset(),
        hold: float = 0.0,
    ) -> tuple[tuple[e.Report, ...], tuple[WorkerRun, ...], int]:
        """See how these workers are, and read their new answers. The platform may wait for `hold`
        seconds, where it has offered that, until there is news.

        Returns the reports, the worker's runs with what was read counted in, and how many requests
        the states took. States come first: or what a worker posts in between, and ends, would be
        lost.
        """
        self.long_poll.seconds = hold
        rows, direct, cost = self._rows([worker_run for worker_run, _ in watches], sure)
        reports, worker_runs = [], []
        for worker_run, reading in watches:
            row = rows.get(worker_run.worker)
            run = None if row is None else row.run
            letters_posted = None if row is None else _wire.count_in(row.name)
            state = run.state if run is not None else self._states.get(worker_run.worker)
            at_end = state is not None and state not in (RunState.QUEUED, RunState.RUNNING)
            due = reading is e.Reading.RUNNING or (letters_posted or 0) > worker_run.read
            report = e.Report(
                worker_run.worker,
                run,
                letters_posted=letters_posted,
                asked_directly=worker_run.worker in direct,
            )
            if reading is not e.Reading.NEVER and (at_end or (due and state is RunState.RUNNING)):
                # Of a run that is over, nothing may be missing: then they are asked for.
                told = () if at_end or row is None else row.outputs
                report, worker_run = self._read(replace(report, read=True), worker_run, told)
                if (
                    worker_run.read < (letters_posted or 0) and not at_end
                ):  # posted, and not listed (yet)
                    report = replace(report, complete=False)
            reports.append(report)
            worker_runs.append(worker_run)
        return tuple(reports), tuple(worker_runs), cost

    def _rows(
        self, worker_runs: Sequence[WorkerRun], sure: Container_[WorkerId]
    ) -> tuple[dict[WorkerId, JobRow], set[WorkerId], int]:
        """The scripts and runs as the platform has them now, as far as a few requests can tell;
        which of them were asked for directly; and the requests.
        """
        rows: dict[WorkerId, JobRow] = {}
        direct: set[WorkerId] = set()
        failed: PlatformError | None = None
        cost, more, number = 0, False, next(self._looks)
        for gone in self._states.keys() - {worker_run.worker for worker_run in worker_runs}:
            del self._states[gone], self._unseen[gone]
        if len(worker_runs) > 1:
            cost, more = self._lists(worker_runs, rows, number)
        missed = [p for p in worker_runs if p.worker not in rows or p.worker in sure]
        missed.sort(key=lambda worker_run: -self._unseen[worker_run.worker])
        # A list that shows none of ours (its filters are not fully documented) is no help.
        blind = len(worker_runs) > 1 and not rows
        asked = [worker_run for worker_run in missed if worker_run.worker in sure]
        others = [worker_run for worker_run in missed if worker_run.worker not in sure]
        others = others[: DIRECT_LOOKS * (3 if blind else 1)]
        if more and not blind and number % DIRECT_EVERY:
            others = []  # the list would show them if they had changed
        cost += len(others)  # what must be sure is asked once, and need not slow down the looks
        for worker_run in asked + others:
            try:
                rows[worker_run.worker] = self._row(worker_run, len(worker_runs) == 1)
                direct.add(worker_run.worker)
            except PlatformError as error:
                failed = error
        if failed is not None and not rows:
            raise failed
        for worker_run in worker_runs:
            self._unseen[worker_run.worker] += 1
        for worker, row in rows.items():
            self._unseen[worker] = 0
            if row.run is not None:
                self._states[worker] = row.run.state
        return rows, direct, cost

    def _row(self, worker_run: WorkerRun, alone: bool) -> JobRow:
        """What a list would say of a worker, asked for directly. A run that is gone is over."""
        job, run_id = worker_run.job, worker_run.run_id
        try:
            row = self._client.get_row(job, long_poll=self.long_poll if alone else None)
            if row.run is not None and row.run.id == run_id:
                return row
            # Others have run it again.
        except PlatformError as error:
            if error.status != 404:
                raise
            row = JobRow(job.id, "", None)
        try:
            run = self._client.get_run(job, run_id, low_priority=True)
        except PlatformError as error:
            if error.status != 404:
                raise
            run = Run(run_id, RunState.UNKNOWN, GONE, finished=0.0)
        return replace(row, run=run)

    def _lists(
        self, worker_runs: Sequence[WorkerRun], found: dict[WorkerId, JobRow], number: int
    ) -> tuple[int, bool]:
        """Read the list of jobs in the order in which their runs have changed.

        Where one page cannot show all, the answers of those behind it would never be seen. So
        it is read by turns in the order in which the scripts have changed, names included; that is
        what can be waited for. Returns the requests, and whether the list goes on.
        """
        by_script = len(worker_runs) > PAGE and (number % 2 == 1 or self.long_poll.seconds > 0)
        by_run = len(worker_runs) <= PAGE or number % 2 == 0
        cost, more = 0, False
        if by_script:
            cost, more = self._list(worker_runs, found, by_script=True, long_poll=self.long_poll)
        if by_run:
            long_poll = None if by_script else self.long_poll
            pages, more = self._list(worker_runs, found, by_script=False, long_poll=long_poll)
            cost += pages
        return cost, more

    def _list(
        self,
        worker_runs: Sequence[WorkerRun],
        found: dict[WorkerId, JobRow],
        *,
        by_script: bool,
        long_poll: LongPoll | None,
    ) -> tuple[int, bool]:
        """Read the list, newest change first, while it brings news of these workers."""
        ours = {(worker_run.job.id, worker_run.run_id): worker_run for worker_run in worker_runs}
        hidden = self._container.hidden
        for page in range(1, LIST_PAGES + 1):
            rows, more = self._client.list_jobs(
                self._kind,
                hidden=hidden,
                page=page,
                by_script=by_script,
                long_poll=long_poll if page == 1 else None,
            )
            news = self._take(rows, ours, found, answers=by_script)
            if not (news and more and len(found) < len(worker_runs)):
                break
        return page, more

    def _take(
        self,
        rows: Sequence[JobRow],
        ours: dict[tuple[int, int], WorkerRun],
        found: dict[WorkerId, JobRow],
        *,
        answers: bool,
    ) -> bool:
        """Take our runs out of a page; whether there was news in it: a state, or `answers`."""
        news = False
        for row in rows:
            worker_run = ours.get((row.job_id, row.run.id)) if row.run is not None else None
            if worker_run is None or row.run is None or worker_run.worker in found:
                continue  # a row may move to the next page while we read; the first one counts
            news |= self._states.get(worker_run.worker) is not row.run.state
            news |= answers and (_wire.count_in(row.name) or 0) > worker_run.read
            found[worker_run.worker] = row
        return news

    def _read(
        self, report: e.Report, worker_run: WorkerRun, told: Sequence[Output] = ()
    ) -> tuple[e.Report, WorkerRun]:
        """The answers that a worker has posted since the last time, oldest first. Some outputs may
        have been `told` already.
        """
        found = _numbered(told, worker_run.token, worker_run.read, self._key)
        page, more = 0, True
        # Each output comes with its value, so the known ones would be sent again and again.
        limit = min(max((report.letters_posted or 0) - worker_run.read, 0) + 5, MOST_OUTPUTS)
        try:
            while more and worker_run.read not in found:
                page += 1
                outputs, more = self._client.list_outputs(
                    worker_run.job, worker_run.run_id, page=page, limit=limit
                )
                numbers = _numbered(outputs, worker_run.token, worker_run.read, self._key)
                found.update(numbers)
                # Newest first: what is older than the newest one we know, we know.
                more = more and not any(number < worker_run.read for number in numbers)
        except PlatformError as error:
            if error.status == 404 and report.run is not None and report.run.said == GONE:
                return report, worker_run  # they will never be read
            _log.info("the answers of run %s could not be read: %s", worker_run.run_id, error)
            hopeless = is_hopeless(error)
            return replace(report, complete=False, error=error, hopeless=hopeless), worker_run
        answers: list[_wire.Answer] = []
        for number in sorted(found):
            if number >= worker_run.read and (letter := found[number]) is not None:
                answers += map(_intact, letter.answers)
        read = worker_run.read
        while found.get(read) is not None:
            read += 1
        unreadable = worker_run.unreadable + 1 if read in found else 0
        report = replace(report, answers=tuple(answers), garbled=unreadable >= GARBLED_LOOKS)
        return report, replace(worker_run, read=read, unreadable=unreadable)

    def find(self, worker_run: WorkerRun) -> tuple[e.Report, WorkerRun] | None:
        """The run of a worker that another process has launched, and all that it has answered; None
        if it never got a run. A worker's run that has an id here is one that is over.

        Raises:
            PlatformError: what it has answered cannot be read.
        """
        # How one ended that is over is of no interest any more.
        over = Run(worker_run.run_id, RunState.SUCCEEDED) if worker_run.run_id else None
        if (run := over or self._client.latest_run(worker_run.job)) is None:
            return None
        worker_run = replace(worker_run, run_id=run.id)
        report, worker_run = self._read(e.Report(worker_run.worker, run, read=True), worker_run)
        if not report.complete:
            raise PlatformError(f"the answers of run {run.id} cannot be read")
        return report, worker_run

    # --- diagnose ------------------------------------------------------------------------------

    def diagnose(self, worker_run: WorkerRun, asked: e.Diagnose, processes: int = 1) -> e.Diagnosis:
        """Why calls of this worker were lost, and which of them it was at, with its `processes`."""
        calls, answer = asked.calls, asked.answer
        run, lines, unknown = None, [], ""
        try:
            run = self._client.get_run(worker_run.job, worker_run.run_id)
            lines = self._client.list_logs(worker_run.job, worker_run.run_id, limit=LOG_LINES)
        except PlatformError as error:
            unknown = f" (why, cannot be looked into: {error})"
            _log.warning("run %s cannot be looked into: %s", worker_run.run_id, error)
        said = [line.message.rstrip() for line in lines]
        if answer is not None:
            return e.Diagnosis(((0, told_by_worker(answer, run, part_of(said, calls[0]))),))
        verdicts = []
        for at in reached(calls, said, processes, asked.gone):
            verdict = told_by_run(run, said, self._container.image, calls[at])
            verdicts.append((at, replace(verdict, reason=verdict.reason + unknown)))
        return e.Diagnosis(tuple(verdicts))


def _with_news(inbox: _wire.Inbox, before: _wire.Inbox) -> Sequence[str]:
    """The tokens of the workers that have something to do now that the inbox was another one
    before; none if that concerns all, or none: then it is a sign of life.
    """
    if (inbox.holder, inbox.lease) != (before.holder, before.lease):
        return ()
    nothing = _wire.Letter()

    def said(letter: _wire.Letter) -> object:  # new calls come last
        return letter.calls[-1:], letter.stop, letter.revoked, letter.ended

    names = [
        token
        for token, letter in inbox.letters.items()
        if said(letter) != said(before.letters.get(token, nothing))
    ]
    return names if len(names) <= MOST_NAMED else ()


def _numbered(
    outputs: Sequence[Output], token: str, known: int, key: str
) -> dict[int, _wire.Answers | None]:
    """Those outputs that are letters of this worker, by their number; None if unreadable, or if
    all up to that one are `known`.

    User code may post outputs too, of any name.
    """
    letters: dict[int, _wire.Answers | None] = {}
    for output in outputs:
        number = _wire.answers_number(output.name, token)
        if number is None or output.object_type != "JSONValue":
            continue
        if number < known:
            letters[number] = None
            continue
        try:
            letter = _wire.answers_from_json(output.value)
        except _wire.WireError as error:
            _log.warning("output %s cannot be read: %s", output.name, error)
            letters.setdefault(number, None)
            continue
        if letter.worker == token and all(_wire.is_sealed(x, token, key) for x in letter.answers):
            letters[number] = letter
        else:
            _log.warning("output %s is not from the worker of this pool: not used", output.name)
    return letters


def _intact(answer: _wire.Answer) -> _wire.Answer:
    """The answer, or one that says that its inline bytes are not those that were sent."""
    if answer.data is None or answer.data.file_id is not None:
        return sources.with_sources(answer) if answer.kind == _wire.INITIALIZER else answer
    try:
        answer.data.inline_data()
    except ValueError as error:
        return replace(answer, kind=e.CORRUPT, data=None, text=str(error))
    return answer
