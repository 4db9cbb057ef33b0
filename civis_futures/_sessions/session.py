"""A session: its state on the platform, found by name; opened by one process at a time (`holding`).

A worker is in the head before its run is started, so no run is ever unknown. The head is written
whole, and never twice at once: what comes meanwhile goes with the next version.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Any

from .. import _wire
from .._api.client import PlatformClient
from .._container.container import Container, Template
from .._exceptions import PlatformError, Recalled, SessionInUseError, SessionMismatchError
from .._pool.mailbox import Mailbox, WorkerRun
from .._scheduling.events import Claimed
from .._types import Job, JobRow, Resources, WorkerId
from .anchor import anchors
from .head import Entry, Head
from .holding import Claim, claim, in_use, withdraw
from .identity import identity
from .recovery import Calls, Findings, FoundWorker, findings

_log = logging.getLogger(__name__)


class Session:
    """A session that this process holds, until `close`."""

    def __init__(self, client: PlatformClient, claimed: Claim) -> None:
        self._client = client
        self._sign_of_life = client.pacing.sign_of_life
        self._anchor = claimed.anchor
        self._before, self._seized = claimed.before, claimed.seized
        self.head = claimed.head
        self.findings = Findings()
        self._calls = Calls(self.findings)
        self._refused = ""  # why nothing more is run
        # Guards the head and whether it is being written; the writing itself is outside.
        self._turn = threading.Condition()
        self._asked = self._done = 0
        self._writing = False
        self._entries: dict[str, Entry] = {}
        #: Workers of earlier processes: those that the inbox names may go on.
        self._adopted: set[str] = set()
        self._closing = threading.Event()
        self._lost: Callable[[Exception], object] = lambda _: None
        self._in_doubt: Callable[[], object] = lambda: None
        self._seen = time.time()  # when it was seen that we hold it

    # --- holding it ----------------------------------------------------------------------------

    def start(self, lost: Callable[[Exception], object], in_doubt: Callable[[], object]) -> None:
        """Give signs of life from now on; `lost` is called if another process takes it over, and
        `in_doubt` is called now and then if who had it before may overwrite the inbox.
        """
        self._lost, self._in_doubt = lost, in_doubt
        name = f"civis-futures session {self.head.name}"
        threading.Thread(target=self._beat, name=name, daemon=True).start()

    def _check(self) -> None:
        """Raise SessionInUseError if another process has taken it over."""
        if self._anchor.is_taken(self._client, self.head.kind):
            others = [x for x in anchors(self._client, self.head.name) if x != self._anchor]
            holder = max(others).read(self._client).holder if others else None
            raise in_use(self.head.name, holder)
        self._seen = time.time()

    def _check_after_pause(self) -> None:
        """Raise Recalled if another process has taken it over, which we have given time to.

        A machine that sleeps does not know for how long, except by its clock. Workers would not
        obey us anyway; but none would be started in vain, nor the inbox overwritten.
        """
        if abs(time.time() - self._seen) > 2 * self._sign_of_life:
            try:
                self._check()
            except SessionInUseError as error:
                self._lose(error)
                raise Recalled from error

    def _lose(self, error: SessionInUseError) -> None:
        self._closing.set()
        self._lost(error)

    def _beat(self) -> None:
        while not self._closing.wait(self._sign_of_life):
            try:
                self._check()
                assert self.head.holder is not None
                with self._turn:
                    self.head.holder = replace(self.head.holder, beat=self._client.clock.now())
                self._write()
                if self._seized:
                    self._in_doubt()
            except SessionInUseError as error:
                self._lose(error)
            except (PlatformError, ValueError) as error:
                _log.warning("no sign of life for session %s: %s", self.head.name, error)

    def close(self) -> None:
        """Let go of it, and close the client."""
        self.release()
        self._client.close()

    def release(self) -> None:
        """Let go of it."""
        taken = self._closing.is_set()
        self._closing.set()
        if not taken and not self.head.ready:  # what there is, is with those before us
            withdraw(self._client, self._anchor, self.head.kind)
        elif not taken:
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

    def begin(self, mailbox: Mailbox) -> None:
        """See what earlier processes have left, and say that it is ours."""
        self.findings, inbox = gather(self._client, self.head, mailbox)
        self._calls = Calls(self.findings)
        self._entries = {entry.token: entry for entry in self.head.workers}
        self.head.ready = True
        self._write()
        found = self.findings.workers
        tokens = {worker.id: self.head.workers[worker.id - 1].token for worker in found}
        self._adopted = {tokens[worker.id] for worker in found if not worker.state.over}
        # What those had in hand that are over must stay there, for the next process if we are
        # killed now.
        letters = {token: inbox.letters.get(token, _wire.Letter()) for token in tokens.values()}
        mailbox.write_inbox(self.head.inbox, self.signed(replace(inbox, letters=letters)))
        self._tidy()

    def _tidy(self) -> None:
        """Archive the anchors of those before us, and the scripts of workers of which nothing more
        will come.
        """
        for anchor in self._before:
            withdraw(self._client, anchor, self.head.kind)
        going_on = {worker.id for worker in self.findings.workers}
        for number, entry in enumerate(self.head.workers, 1):
            if WorkerId(number) not in going_on and not entry.over:  # none was left to tidy up
                self._client.archive(Job(entry.job, self.head.kind))
                worker_run = self.findings.inheritance.worker_runs.get(WorkerId(number))
                self.forget(entry.token, 0 if worker_run is None else worker_run.run_id)
        for token, row in newest_workers(self._client, self.head):
            # The process that launched it has died in between, or had lost the session.
            if token not in self._entries and (row.run is None or row.run.state.over):
                self._client.archive(Job(row.job_id, self.head.kind))

    def claim(self, fn: Callable[..., Any], arguments: Any) -> Claimed:
        """Which task this call is, and what was found of it."""
        try:
            key = identity(fn, arguments)
        except Exception as error:  # it cannot be pickled either, which will say more
            return Claimed(self._calls.new(), error=error)
        return self.claim_again(key)

    def claim_again(self, key: str) -> Claimed:
        """The same of a call with this key.

        If it must not be sent, that is for good, and no later call is sent.
        """
        changed = None if self._refused else self._calls.changed(key)
        if changed is not None:
            name = key.partition("/")[0]
            self._refused = (
                f"task {changed} of session {self.head.name!r} is not what it was: {name} does "
                "something else now: its code, a default or what it refers to changed. Nothing "
                "more is run in it: give the new function another name, take another session, or "
                f"civis_futures.purge({self.head.name!r}) and begin anew"
            )
        if self._refused:
            task = self._calls.new() if changed is None else changed
            return Claimed(task, key, error=SessionMismatchError(self._refused))
        task = self._calls.claim(key)
        return Claimed(task, key, self.findings.found.pop(task, None))

    # --- workers, as a `Book` ------------------------------------------------------------------

    @property
    def inbox(self) -> int:
        """The JSON value that is the inbox of all workers."""
        return self.head.inbox

    @property
    def holder(self) -> int:
        """The script that stands for us."""
        return self._anchor.number

    def signed(self, inbox: _wire.Inbox) -> _wire.Inbox:
        """What is to be written, as ours: who was launched by others is named, and so may go on.

        Raises:
            Recalled: the session is another process's now.
        """
        self._check_after_pause()
        with self._turn:
            named = dict.fromkeys(self._adopted, _wire.Letter())
        return replace(inbox, holder=self.holder, letters={**named, **inbox.letters})

    def record(self, job: Job, order: _wire.Order, resources: Resources) -> None:
        """A worker is about to get a run.

        Raises:
            Recalled: the session is another process's now.
        """
        self._check_after_pause()
        entry = Entry.of(order, job.id, resources)
        with self._turn:
            self._entries[entry.token] = entry
            self.head.workers.append(entry)
        self._write()

    def forget(self, token: str, run_id: int) -> None:
        """All that this worker was given has ended; to be written when there is more to write."""
        with self._turn:
            self._adopted.discard(token)
            entry = self._entries.get(token)
            if entry is not None:
                entry.over, entry.first, entry.run = True, [], run_id


def newest_workers(client: PlatformClient, head: Head) -> Iterator[tuple[str, JobRow]]:
    """Tokens and scripts of the session's workers, be they in the head or not; of my newest."""
    for row in client.newest_jobs(head.kind):
        ours = _wire.ScriptName.parsed(row.name)
        if ours is not None and ours.session == head.name:
            yield ours.token, row


def gather(client: PlatformClient, head: Head, mailbox: Mailbox) -> tuple[Findings, _wire.Inbox]:
    """What the processes before have left, and the inbox as they wrote it last."""
    with ThreadPoolExecutor(4) as readers:

        def read(pair: tuple[int, Entry]) -> tuple[WorkerId, FoundWorker | None]:
            number, entry = WorkerId(pair[0]), pair[1]
            job = Job(entry.job, head.kind)
            return number, mailbox.find(WorkerRun(number, entry.token, job, entry.run))

        pairs = list(readers.map(read, enumerate(head.workers, 1)))
    inbox = _wire.inbox_from_json(client.get_json_value(head.inbox))
    seen = {number: found for number, found in pairs if found is not None}
    return findings(head, seen, inbox), inbox


def attach(client: PlatformClient, name: str, container: Container | Template) -> Session:
    """Open a session: find it or make it, hold it, read what is there. The client is its own then.

    Raises:
        SessionInUseError: another process holds it.
        SessionMismatchError: it was begun with a Template, and this is a Container, or vice versa.
        PlatformError: the platform cannot be reached, or refuses.
    """
    try:
        session = Session(client, claim(client, name, container))
        try:
            session.begin(Mailbox(client, container, key=session.head.key))
        except BaseException:
            session.close()
            raise
        return session
    except BaseException:
        client.close()
        raise
