"""A session: its state on the platform, found by name; opened by one process at a time.

The anchor is a script that is never run; its name tells the session's, and which JSON value is the
head. A worker is in the head before its run is started, so no run is ever unknown. The head is
written whole, and never twice at once: what comes meanwhile goes with the next version.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Any

from .. import _wire
from .._api.client import PlatformClient
from .._container import Container, Template, job_kind
from .._exceptions import PlatformError, SessionInUseError, SessionMismatchError
from .._pool.mailbox import Mailbox, WorkerRun
from .._scheduling.events import FoundTask
from .._types import Job, JobKind, Resources, TaskId, WorkerId
from .anchor import Anchor, find_anchor, make_anchor
from .head import BEAT, Entry, Head, Holder
from .identity import difference, identity
from .recovery import Findings, FoundWorker, findings

_log = logging.getLogger(__name__)

#: Who has written himself in looks again after so many seconds, whether somebody else has as well.
SETTLE = 0.3
#: So many workers are read at a time.
READERS = 4


class Session:
    """A session that this process holds, until `close`."""

    def __init__(self, client: PlatformClient, anchor: Anchor) -> None:
        self._client = client
        self._anchor = anchor
        self.head = anchor.head
        self.findings = Findings()
        self._refused: SessionMismatchError | None = None
        # Guards the head and whether it is being written; the writing itself is outside.
        self._turn = threading.Condition()
        self._asked = self._done = 0
        self._writing = False
        self._entries: dict[str, Entry] = {}
        self._closing = threading.Event()

    # --- holding it ----------------------------------------------------------------------------

    def hold(self) -> None:
        """Write ourselves in as the holder, unless there is one.

        Raises:
            SessionInUseError: somebody else holds it.
        """
        before = self.head.holder
        if before is not None and not before.gone:
            raise _in_use(self.head.name, before)
        self._mine = self.head.holder = Holder.here()
        self._write()
        time.sleep(SETTLE)
        self._check()

    def start(self, lost: Callable[[Exception], object]) -> None:
        """Give signs of life from now on; `lost` is told if somebody else takes it over."""
        name = f"civis-futures session {self.head.name}"
        threading.Thread(target=self._beat, args=(lost,), name=name, daemon=True).start()

    def _check(self) -> None:
        holder = self._anchor.read(self._client).holder
        if holder is None or holder.token != self._mine.token:
            raise _in_use(self.head.name, holder)

    def _beat(self, lost: Callable[[Exception], object]) -> None:
        while not self._closing.wait(BEAT):
            try:
                self._check()
                with self._turn:
                    self.head.holder = replace(self._mine, beat=time.time())
                self._write()
            except SessionInUseError as error:
                self._closing.set()
                lost(error)
            except (PlatformError, ValueError) as error:
                _log.warning("no sign of life for session %s: %s", self.head.name, error)

    def close(self) -> None:
        """Nobody holds it any more, and the client is closed."""
        self.release()
        self._client.close()

    def release(self) -> None:
        """Nobody holds it any more."""
        taken = self._closing.is_set()
        self._closing.set()
        if not taken:
            try:
                self._check()
                with self._turn:
                    self.head.holder = None
                self._write()
            except (PlatformError, ValueError, SessionInUseError) as error:
                _log.warning("session %s is not closed: %s", self.head.name, error)

    def _write(self) -> None:
        """Return when the head is on the platform as it is now, or newer."""
        with self._turn:
            self._asked += 1
            mine = self._asked
            while self._writing:
                self._turn.wait()
            if self._done >= mine:
                return
            self._writing = True
            covered, text = self._asked, self.head.to_json()
        written = False
        try:
            self._client.update_json_value(self._anchor.value, text)
            written = True
        finally:
            with self._turn:
                self._writing = False
                self._done = covered if written else self._done
                self._turn.notify_all()

    # --- what was there ------------------------------------------------------------------------

    def read(self, mailbox: Mailbox) -> None:
        """See what earlier processes have left."""
        kind = self.head.kind
        with ThreadPoolExecutor(READERS) as readers:

            def read(pair: tuple[int, Entry]) -> tuple[WorkerId, FoundWorker | None]:
                number, entry = WorkerId(pair[0]), pair[1]
                job = Job(entry.job, kind)
                return number, mailbox.find(WorkerRun(number, entry.token, job, entry.run))

            pairs = list(readers.map(read, enumerate(self.head.workers, 1)))
        inbox = _wire.inbox_from_json(self._client.get_json_value(self.head.inbox))
        seen = {number: found for number, found in pairs if found is not None}
        self.findings = findings(self.head, seen, inbox)
        self._entries = {entry.token: entry for entry in self.head.workers}

    def tidy(self) -> None:
        """Archive the scripts of workers of which nothing more will come."""
        going_on = {worker.id for worker in self.findings.workers}
        for number, entry in enumerate(self.head.workers, 1):
            if WorkerId(number) not in going_on and not entry.over:  # nobody was left to tidy up
                self._client.archive(Job(entry.job, self.head.kind))
                worker_run = self.findings.inheritance.worker_runs.get(WorkerId(number))
                self.forget(entry.token, 0 if worker_run is None else worker_run.run_id)
        for row in self._client.newest_jobs(self.head.kind):
            ours = _wire.ScriptName.parsed(row.name)
            if ours is None or ours.session != self.head.name:
                continue
            if row.run is None and ours.token not in self._entries:  # died in between
                self._client.archive(Job(row.job_id, self.head.kind))

    def claim(
        self, task: TaskId, fn: Callable[..., Any], arguments: Any
    ) -> tuple[str, FoundTask | None]:
        """What tells this call from others, and what was found of it.

        Raises:
            SessionMismatchError: it is not what was called before, or one before it was not.
        """
        if self._refused is not None:
            raise SessionMismatchError(str(self._refused))
        key = identity(fn, arguments)
        known = self.findings.keys.get(task, key)
        if known != key:
            self._refused = SessionMismatchError(
                f"task {task} of session {self.head.name!r} is not what it was: "
                f"{difference(known, key)}. Nothing more is run in it: take another name, or "
                f"civis_futures.purge({self.head.name!r}) and begin anew"
            )
            raise self._refused
        return key, self.findings.found.pop(task, None)

    # --- workers, as a `Book` ------------------------------------------------------------------

    @property
    def inbox(self) -> int:
        """The JSON value that is the inbox of all workers."""
        return self.head.inbox

    def record(self, job: Job, order: _wire.Order, resources: Resources) -> None:
        """A worker is about to get a run."""
        entry = Entry.of(order, job.id, resources)
        with self._turn:
            self._entries[entry.token] = entry
            self.head.workers.append(entry)
        self._write()

    def forget(self, token: str, run_id: int) -> None:
        """All that this worker was given has ended; to be written when there is more to write."""
        with self._turn:
            entry = self._entries.get(token)
            if entry is not None:
                entry.over, entry.first, entry.run = True, [], run_id


def attach(client: PlatformClient, name: str, container: Container | Template) -> Session:
    """Open a session: find it or make it, hold it, read what is there. The client is its own then.

    Raises:
        SessionInUseError: another process holds it.
        SessionMismatchError: it was begun with a Template, and this is a Container, or vice versa.
        PlatformError: the platform cannot be reached, or refuses.
    """
    try:
        anchor = find_anchor(client, name) or make_anchor(client, name, container)
        _check_kind(anchor.head, container)
        session = Session(client, anchor)
        session.hold()
        try:
            session.read(Mailbox(client, container))
            session.tidy()
        except BaseException:
            session.close()
            raise
        return session
    except BaseException:
        client.close()
        raise


def _check_kind(head: Head, container: Container | Template) -> None:
    """Scripts of one kind cannot be found, nor ended, as if they were of the other."""
    if head.kind is not job_kind(container):
        before, now = "a Container", "a Template"
        if head.kind is JobKind.CUSTOM:
            before, now = now, before
        raise SessionMismatchError(
            f"session {head.name!r} was begun with {before}, and now there is {now}: give it what "
            f"it had, or take another name"
        )


def _in_use(name: str, holder: Holder | None) -> SessionInUseError:
    who = "another process" if holder is None else str(holder)
    return SessionInUseError(f"session {name!r} is held by {who}: shut that executor down first")
