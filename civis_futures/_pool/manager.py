"""The one thread that owns a pool: it feeds events to the scheduler and performs its commands.

::

    submit, cancel, shutdown ──> events ──> manager thread ──> scheduler
                                   ^             │ commands, with their attachment
                                   │             v
                              I/O lanes (launch, look, post, transfer): one command, one event
                                                 │
                                                 └─> settle lane: outcomes into futures

The ledger (calls, workers' runs, ...) is read and written by the manager thread alone. Lanes
get frozen values and answer with an event and its attachment. Futures are settled on a lane of
their own, since their callbacks are the user's code and may take any time. The manager holds no
reference to the executor, so that a forgotten executor can be collected.
"""

from __future__ import annotations

import itertools
import logging
import queue
import secrets
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

from .. import _wire
from .._api.client import PlatformClient
from .._api.failures import is_hopeless, is_refused, is_stranger
from .._container.container import Container, Template, disk_space
from .._data.pickling import Payload, fill_in
from .._display.outlook import why_waiting
from .._display.usage import ContainerSums
from .._exceptions import BrokenContainerPool, PlatformError, Recalled
from .._files.contents import Content, ContentStore, SentCall
from .._files.deposit import Deposit
from .._futures.future import ContainerFuture
from .._scheduling import events as e
from .._scheduling.pacing import linger, turn
from .._scheduling.scheduler import Scheduler
from .._types import ANY_RESOURCES, Resources, Standing
from .._wire import PYTHON
from .launch import bundle
from .ledger import Ledger, outline
from .mailbox import Mailbox, PoolFiles, WorkerRun
from .neighbours import neighbours
from .outcomes import Outcome, ask_user, outcome_from, settle, unmet_outcome
from .threads import Lane, SettleLane, coming, interpreter_exit

_log = logging.getLogger(__name__)

#: The most events that are taken in together, when many come at once.
MOST_AT_ONCE = 1000
#: Where requests are limited: seconds from one call to the next, and for all, that go together.
TOGETHER = 0.005, 0.02
#: Seconds that containers must be queued before the log says so; it does again after twice as many.
LONG_WAIT = 30.0

_FAILURES = (PlatformError, _wire.WireError, Recalled)
#: Events of which thousands may come at once.
_MANY = (e.Submitted, e.CancelRequested, e.Done)
#: What belongs to an event, and is no business of the scheduler's: bytes, runs, futures.
_Attachment = Any
#: What a lane has to do for a command: it returns what belongs to the event that tells of it; of a
#: look and a diagnosis, first the news.
_Work = Callable[[], Any]


@dataclass(frozen=True, slots=True)
class Pool:
    """What all workers of a pool have in common."""

    name: str
    url: str
    container: Container | Template
    initializer: Payload


@dataclass(slots=True)
class _Defect:
    """Not an event: an error of ours on a lane, to be raised where the loop is."""

    error: BaseException


@dataclass(eq=False)
class Manager:
    """The owner of one pool's state; `start` it, then `submit` and `post` from any thread."""

    scheduler: Scheduler
    mailbox: Mailbox
    client: PlatformClient
    pool: Pool
    contents: ContentStore
    at_end: Callable[[], None] = lambda: None
    #: Whether the platform was stopped in this very process, so that nothing of it is left.
    stopped: Callable[[], bool] = lambda: False

    def __post_init__(self) -> None:
        """Nothing runs before `start`."""
        self._ledger = Ledger(self.pool.container.image, self.client.job_url)
        # Set by the manager thread, in this order. No lock: a thread that uses the queue may be
        # interrupted at any line, by a signal's handler that waits for the manager's end.
        self.broken: Exception | None = None
        self._closed = False
        self._events: queue.SimpleQueue[tuple[Any, _Attachment]] = queue.SimpleQueue()
        self._ahead: tuple[Any, _Attachment] | None = None  # the manager thread's, one event
        self._beat = 0  # the manager thread's
        self.containers = ContainerSums()
        self.standing = Standing()  # replaced as a whole by the manager thread
        self._said = 0.0  # the manager thread's: after how many seconds a wait was logged last
        self._troubles: frozenset[str] = frozenset()  # the manager thread's: those that were logged
        self._ended = threading.Event()
        self._thread = threading.Thread(
            target=self._run, name=f"civis-futures manager of {self.pool.name}", daemon=True
        )
        lanes = Lane("launch", 3), Lane("look", 1), Lane("post", 2), Lane("transfer", 4)
        launches, looks, posts, transfers = lanes
        self._settlements = SettleLane("settle")
        self._lanes = (*lanes, self._settlements)
        self.deposit = Deposit(self.contents, self.client, transfers.put)
        self._program = self._worker_program()  # the manager thread's
        first, limit = self.pool.initializer.data, _wire.INLINE_LIMIT
        self._initializer = (self.contents.keep(first),) if len(first) > limit else ()
        self._on_lanes: dict[type, tuple[Lane, Callable[[Any], _Work | None]]] = {
            e.Prepare: (posts, self._prepare),
            e.Upload: (transfers, self._upload),
            e.Launch: (launches, self._launch),
            e.WriteInbox: (posts, self._write_inbox),
            e.Look: (looks, self._look),
            e.Fetch: (transfers, self._fetch),
            e.Diagnose: (posts, self._diagnose),
            e.CancelRun: (posts, self._cancel_run),
            e.Archive: (posts, self._archive),
        }
        self._here = self._commands_done_here()

    def _commands_done_here(self) -> dict[type, Callable[[Any], None]]:
        return {
            e.Recall: lambda command: self._ledger.wanted[command.worker].clear(),
            e.Judge: self._judge,
            e.Settle: self._settle,
            e.Lose: self._lose,
            e.Again: lambda command: self._ledger.again(command),
            e.Drop: self._drop,
            e.CancelsDone: lambda _: self._ledger.cancels_done(),
            e.Break: self._break,
            e.Finish: self._finish,
        }

    # --- for other threads ---------------------------------------------------------------------

    def start(self) -> None:
        """Start all threads now: at the interpreter's exit, when we still work, none can start."""
        for lane in self._lanes:
            lane.start()
        self._thread.start()
        interpreter_exit.managers.add(self)

    def raise_if_closed(self) -> None:
        """Raise what `submit` would, before anything is pickled for nothing."""
        if interpreter_exit.begun:
            raise RuntimeError("cannot schedule new futures after interpreter shutdown")
        broken = self.broken
        if broken is not None:
            raise BrokenContainerPool(str(broken)) from broken.__cause__

    def submit(
        self,
        event: e.Submitted,
        future: ContainerFuture[Any],
        sent: SentCall,
    ) -> None:
        """Take in a task.

        Raises:
            RuntimeError: the interpreter is about to exit.
            BrokenContainerPool: the pool can do no more work.
        """
        self.raise_if_closed()
        self._events.put((event, (future, sent)))
        if self._closed:  # perhaps the queue was not read since
            self._refuse_late_tasks(lambda settle: settle())

    def post(self, event: e.Event | _Defect, attachment: _Attachment = None) -> None:
        """Tell the manager what happened; of no effect after its end."""
        if not self._closed:
            self._events.put((event, attachment))

    def await_cancels(self) -> None:
        """Wait until no container runs a call any more that was cancelled before."""
        if threading.current_thread() in self._threads() or not self._thread.is_alive():
            return
        done = threading.Event()
        self._events.put((e.CancelsAwaited(), done))
        if self._closed:  # perhaps the queue was not read since
            self._refuse_late_tasks(lambda settle: settle())
        done.wait()

    def why_waiting(self) -> str:
        """What tasks wait for that no container has begun; from memory."""
        return why_waiting(self.standing, time.monotonic())

    def join(self, timeout: float | None = None) -> None:
        """Wait until nothing of the pool runs any more, here or on the platform."""
        if threading.current_thread() in self._threads():
            return
        # Not by `Thread.join` alone: a Ctrl-C in it may leave the thread taken for ended
        # (bpo-45274), and a second join would return at once.
        # In a fork of this process the thread is not alive, and nothing is to be waited for.
        if self._thread.is_alive() and self._ended.wait(timeout):
            self._thread.join()

    def _threads(self) -> set[threading.Thread]:
        return {self._thread, *itertools.chain(*(lane.threads for lane in self._lanes))}

    # --- the loop ------------------------------------------------------------------------------

    def _run(self) -> None:
        self._place = neighbours(self.pool.url).join(lambda since: self.post(e.OthersWait(since)))
        _log.info("%s: a pool on %s", self.pool.name, self.pool.url)
        try:
            while not self._closed:
                event, attachment = self._next()
                if isinstance(event, _Defect):
                    raise event.error
                self._log_event(event, attachment)
                stopped = isinstance(event, e.ShutdownRequested) and self.stopped()
                if stopped:
                    error = BrokenContainerPool("the local platform was stopped")
                    event = e.TerminateRequested(error, leave=True)
                event = self._ledger.take_in(event, attachment)
                more = self._more(event) if isinstance(event, _MANY) else ()
                now = time.monotonic()
                for command in self.scheduler.advance(event, now, more):
                    self._log_command(command)
                    self._here.get(type(command), self._begin)(command)
                self._say_how_it_stands(now)
                if stopped:  # whatever is asked of it now is in vain
                    self._finish(e.Finish((), (), ""))
                del event, attachment, more  # or a task's would live until the next event comes
        except BaseException as error:
            _log.critical("the pool %s has a defect", self.pool.name, exc_info=True)
            self._collapse(error)
        finally:
            self._place.leave()
            self._ledger.cancels_done()
            self.deposit.leave()
            self.client.close()  # ends every wait on a lane
            for lane in self._lanes:
                lane.stop()
            self.at_end()
            self._ended.set()
            interpreter_exit.managers.discard(self)
            _log.info("%s: the pool has ended", self.pool.name)

    def _log_event(self, event: e.Event, attachment: _Attachment) -> None:
        """What users would write down of containers, and sums of that, before the ledger knows."""
        pool = self.pool.name
        if _log.isEnabledFor(logging.DEBUG):
            _log.debug("%s: %s", pool, outline(event))
        match event:
            case e.Done(e.Launch(worker) as launch):
                self.containers.started(worker, self._size(launch.resources))
                run, url = attachment.run_id, self.client.job_url(attachment.job)
                _log.info("%s: container %s is started: run %s of %s", pool, worker, run, url)
            case e.Failed(e.Launch(worker), error):
                _log.info("%s: container %s is not started: %s", pool, worker, error)
            case e.Done(e.Look(), e.Looked(reports)):
                for report in reports:
                    if report.run:
                        self.containers.seen(report.worker, report.run)
                    held = self._ledger.held.get(report.worker)
                    if report.run and held and report.run.state is not held.state:
                        said = "%s: container %s, run %s: %s"
                        _log.info(said, pool, report.worker, report.run.id, report.run.state)
            case e.Done(e.Archive(worker)):
                self.containers.gone(worker)

    def _size(self, asked: Resources) -> Resources:
        """What a container has that is started so."""
        own = self.pool.container.required_resources
        return Resources(**own) if asked == ANY_RESOURCES and own else asked

    def _log_command(self, command: e.Command) -> None:
        """What users would write down of tasks, while the ledger still has them."""
        pool = self.pool.name
        if _log.isEnabledFor(logging.DEBUG):
            _log.debug("%s: -> %s", pool, outline(command))
        self._ledger.log_failure(_log, pool, command)

    def _say_how_it_stands(self, now: float) -> None:
        """To futures, to other pools, and to the log if tasks wait for long."""
        standing = self.scheduler.standing(now)
        self.standing = replace(standing, next_start=now + self.client.budget.next_start)
        troubles = dict(standing.troubles)
        # If that has broken the pool, each future says so.
        level = logging.WARNING if self.broken is None else logging.INFO
        for what in troubles.keys() - self._troubles:
            _log.log(level, "%s: %s: %s", self.pool.name, what, troubles[what])
        self._troubles = frozenset(troubles)
        self._place.update(standing.room_wanted_since, now, self.scheduler.fleet.startup)
        if not standing.tasks_wait or not standing.queued:
            self._said = 0.0
        elif now - standing.queued_since > max(LONG_WAIT, 2 * self._said):
            self._said = now - standing.queued_since
            level = logging.INFO if standing.running else logging.WARNING
            _log.log(level, "%s: tasks wait: %s", self.pool.name, why_waiting(standing, now))

    def _next(self) -> tuple[Any, _Attachment]:
        if self._ahead is not None:
            ahead, self._ahead = self._ahead, None
            return ahead
        deadline = self.scheduler.deadline
        try:
            if deadline is None:
                return self._events.get()
            return self._events.get(timeout=max(0.0, deadline - time.monotonic()))
        except queue.Empty:
            return e.Tick(), None

    def _more(self, first: e.Event) -> list[e.Event]:
        """Take in what else has happened: each look at what is to do costs time for each worker."""
        more: list[e.Event] = []
        limited = isinstance(first, e.Submitted) and self.client.budget.pace > 0
        events = coming(self._events, *(TOGETHER if limited else ()))
        for event, attachment in itertools.islice(events, MOST_AT_ONCE):
            if not isinstance(event, _MANY):
                self._ahead = event, attachment
                break
            self._log_event(event, attachment)
            more.append(self._ledger.take_in(event, attachment))
        return more

    def _collapse(self, error: BaseException) -> None:
        """A defect of ours. Never silent: every future fails, and what runs is cancelled."""
        broken = BrokenContainerPool(f"civis_futures itself failed: {error!r}; please report it")
        broken.__cause__ = error
        self._close(broken)
        for task in list(self._ledger.items):
            self._lose(e.Lose(task, None, broken))
        for worker_run in self._ledger.worker_runs.values():
            try:
                self.mailbox.cancel(worker_run)
            except Exception:
                _log.exception("run %s may still be running", worker_run.run_id)

    def _close(self, broken: Exception | None = None) -> None:
        """Take nothing more; a task that was on its way ends with the reason."""
        self.broken = self.broken or broken or BrokenContainerPool("it was shut down")
        self._closed = True
        if self._ahead is not None:
            self._events.put(self._ahead)
        self._refuse_late_tasks(self._settlements.put)

    def _refuse_late_tasks(self, run: Callable[[Callable[[], None]], None]) -> None:
        """End those that will not be taken in; any thread may call. `run` has the user's code."""
        while True:
            try:
                event, attachment = self._events.get_nowait()
            except queue.Empty:
                return
            if isinstance(event, e.Submitted):
                run(partial(settle, attachment[0], self._refusal))
            elif isinstance(event, e.CancelsAwaited):
                attachment.set()

    def _refusal(self) -> Outcome:
        return Outcome(exception=BrokenContainerPool(str(self.broken)))

    # --- commands that a lane performs ---------------------------------------------------------

    def _begin(self, command: e.Command) -> None:
        """Give a command to its lane, which posts `Done` or `Failed`."""
        lane, prepare = self._on_lanes[type(command)]
        work = prepare(command)
        if work is None:
            return
        needed = self._needed(command)
        if needed:
            self.deposit.gather(
                needed, lambda error: lane.put(partial(self._perform, command, work, error))
            )
        else:
            lane.put(partial(self._perform, command, work))

    def _perform(self, command: e.Command, work: _Work, error: BaseException | None = None) -> None:
        """On a lane. `error` is what became of the content that the command needs."""
        try:
            if error is not None:
                raise error
            result = work()
        except _FAILURES as error:
            hopeless = is_hopeless(error) or (isinstance(command, e.Prepare) and is_stranger(error))
            self.post(e.Failed(command, error, hopeless, is_refused(error)))
        except BaseException as error:
            self.post(_Defect(error))
        else:
            brings_news = isinstance(command, e.Prepare | e.Look | e.Diagnose)
            news, attachment = result if brings_news else (None, result)
            self.post(e.Done(command, news), attachment)

    def _needed(self, command: e.Command) -> tuple[Content, ...]:
        """What must be in Files before this command can be performed."""
        match command:
            case e.Prepare():
                return (*self._program, *self._initializer, *self.pool.initializer.contents)
            case e.Launch():
                return self._program
            case e.Upload(task):
                return self._ledger.items[task].contents
            case _:
                return ()

    def _worker_program(self) -> tuple[Content, ...]:
        """What workers run, if their template does not have it. Asked for at each launch, as a pool
        may outlive the File that had it at first.
        """
        given = self.pool.container
        if isinstance(given, Template) and not given.order_in_file:
            return ()
        return (self.contents.keep(bundle().data),)

    # Each of these takes what it needs from the ledger, and returns what the lane has to do.

    def _prepare(self, _: e.Prepare) -> _Work:
        data, contents = self.pool.initializer.data, self._initializer
        number = self.scheduler.fleet.policy.inboxes

        def work() -> tuple[e.Prepared, PoolFiles]:
            inboxes = self.mailbox.prepare(self.pool.name, number)
            initial = _wire.Blob.of(data) if data and not contents else None
            news = e.Prepared(self.client.budget.pace, self.client.clock.ahead)
            return news, PoolFiles(inboxes, contents[0].blob if contents else initial)

        return work

    def _upload(self, command: e.Upload) -> _Work:
        item, name = self._ledger.items[command.task], self._ledger.futures[command.task].task
        fill_in(item, self.scheduler.fleet.policy.inline_bytes)
        call, data = item.blob, item.data or b""
        self._ledger.uploading(command.task)
        return lambda: call or self.mailbox.upload(data, f"call of {name}")

    def _launch(self, command: e.Launch) -> _Work:
        worker, files = command.worker, self._ledger.files
        pool, policy = self.pool, self.scheduler.fleet.policy
        assert files is not None, "no launch before Prepare is done"
        wanted = self._ledger.launch(worker, command.calls, command.processes)
        order = _wire.Order(
            worker=secrets.token_hex(8),
            url=pool.url,
            python=PYTHON,
            letter=self._ledger.letter(command.calls, stop=command.one_shot),
            inbox=files.inboxes[self._ledger.held[worker].inbox],
            initializer=files.initializer,
            initializer_buffers=pool.initializer.blobs,
            initializer_code=pool.initializer.code,
            poll=command.period,
            linger=linger(command.readers, self.client.budget.pace),
            lease=policy.lease,
            idle=max(policy.idle_timeout, policy.keep_alive) + self.scheduler.pacing.late,
            disk=disk_space(command.resources),
            cores=command.resources.cpu / 1000,
            processes=command.processes,
            greets=worker == 1,
            turn=turn(worker),
        )
        program = self._program = self._worker_program()

        def work() -> WorkerRun:
            size, blob = command.resources, program[0].blob if program else None
            job, run = self.mailbox.launch(pool.name, worker, order, blob, wanted, size)
            return WorkerRun(worker, order.worker, job, run.id)

        return work

    def _write_inbox(self, command: e.WriteInbox) -> _Work:
        files = self._ledger.files
        assert files is not None, "no inbox before Prepare is done"
        letters: list[dict[str, _wire.Letter]] = [{} for _ in files.inboxes]
        for letter in command.letters:
            token, held = self._ledger.worker_runs[letter.worker].token, self._ledger.held
            letters[held[letter.worker].inbox][token] = self._ledger.letter(letter.calls, letter)
            self._ledger.give(letter.worker, letter.calls)
        self._beat += 1
        wait = linger(command.workers, self.client.budget.pace)
        said = command.period, wait, self._beat
        inboxes = {
            n: _wire.Inbox(letters_in, *said, lease=command.lease)
            for n, letters_in in zip(files.inboxes, letters, strict=True)
        }
        return partial(self.mailbox.write_inboxes, inboxes, command.whole)

    def _look(self, command: e.Look) -> _Work:
        runs = self._ledger.worker_runs
        asked = [(runs[worker], reading) for worker, reading in command.workers]

        def work() -> tuple[e.Looked, tuple[WorkerRun, ...]]:
            reports, worker_runs, cost = self.mailbox.look(
                asked, command.ask_directly, command.hold
            )
            pace, ahead = self.client.budget.pace, self.client.clock.ahead
            return e.Looked(reports, cost, pace, self.mailbox.long_poll.offered, ahead), worker_runs

        return work

    def _fetch(self, command: e.Fetch) -> _Work:
        blob = command.answer.data
        assert blob is not None, "only answers with data are fetched"
        self._ledger.returned(command.task, command.answer)
        return partial(self.mailbox.fetch, blob)

    def _diagnose(self, command: e.Diagnose) -> _Work:
        worker_run = self._ledger.worker_run(command.worker)
        self.deposit.forget(self._ledger.not_fetched(command))
        program, processes = self._program, self._ledger.processes(command.worker)

        def work() -> tuple[e.Diagnosis, None]:
            news = self.mailbox.diagnose(worker_run, command, processes)
            if any(each.unstarted for _, each in news.verdicts):  # perhaps its File was removed
                self.deposit.forget(program)
            return news, None

        return work

    def _cancel_run(self, command: e.CancelRun) -> _Work | None:
        self._ledger.wanted.get(command.worker, []).clear()
        worker_run = self._ledger.worker_runs.get(command.worker)
        if worker_run is None:
            return None  # the launch that is under way sees that it is not wanted
        return partial(self.mailbox.cancel, worker_run)

    def _archive(self, command: e.Archive) -> _Work:
        worker_run = self._ledger.worker_runs[command.worker]

        def work() -> None:
            try:
                self.mailbox.archive(worker_run)
            except PlatformError as error:
                _log.warning("script %s is not archived: %s", worker_run.job.id, error)

        return work

    # --- commands about the end of a task ------------------------------------------------------

    def _judge(self, command: e.Judge) -> None:
        item, cause = self._ledger.items[command.task], command.cause
        future, wish = self._ledger.futures[command.task], item.retry_on
        fetched = self._ledger.fetched.get(command.task)
        outcome = outcome_from(cause, fetched, self._ledger.place(command.task))

        def judge() -> None:
            again, reason = ask_user(future, wish, outcome)
            self.post(e.Done(command, e.Judgement(again, reason)))

        self._settlements.put(judge)

    def _settle(self, command: e.Settle) -> None:
        fetched = self._ledger.fetched.get(command.task)
        future, place = self._ledger.settle(command)
        self._put_outcome(future, outcome_from(command.answer, fetched, place))

    def _lose(self, command: e.Lose) -> None:
        cause = command.cause
        if isinstance(cause, e.Unmet):
            needed = self._ledger.needed(command.task, cause.task)
            future, place = self._ledger.lose(command)
            self._put_outcome(future, partial(unmet_outcome, needed, place))
        else:
            future, place = self._ledger.lose(command)
            self._put_outcome(future, outcome_from(cause, None, place))

    def _drop(self, command: e.Drop) -> None:
        # `wait` and `as_completed` see a cancelled future only after this; it must happen once,
        # so it happens where every other end of a future does.
        self._put_outcome(self._ledger.drop(command.task), Outcome)

    def _put_outcome(self, future: ContainerFuture[Any], make: Callable[[], Outcome]) -> None:
        self._settlements.put(lambda: settle(future, make))

    def _finish(self, command: e.Finish) -> None:
        known, pool = self._ledger.worker_runs, self.pool.name
        left = {worker: known[worker].run_id for worker in command.abandoned if worker in known}
        ending = [left.pop(worker) for worker in command.cancelled if worker in left]
        if ending:
            said = "%s: runs that were cancelled have not been seen to end: %s (%s)"
            _log.warning(said, pool, ending, command.reason)
        if left:
            runs = list(left.values())
            _log.warning("%s: these runs may go on: %s (%s)", pool, runs, command.reason)
        self.deposit.finish(self.broken)
        self._close()

    def _break(self, command: e.Break) -> None:
        self.broken = command.error
