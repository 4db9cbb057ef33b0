"""From a function and its arguments to a task that the manager has, and its future.

All in the caller's thread, and without a request: what is pickled here is a snapshot, and so are
the user's modules, whose files are looked at. Shared by an executor and the views of it that have
other options; it knows no executor.
"""

from __future__ import annotations

import importlib.util
import itertools
import os
import sys
import time
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any, Literal, TypeVar, cast

from .. import _wire
from .._container.container import DEFAULT_RESOURCES, Container, Template
from .._data import pickling
from .._data.generators import Carried
from .._display.forecast import Forecast, PoolSize
from .._display.panels import TaskSummary
from .._exceptions import CallPicklingError, SessionMismatchError
from .._files.contents import SentCall, SharedData, Value
from .._futures.future import ContainerFuture, Timings, View, number_of, value_in
from .._futures.tables import EndedTasks, PoolFutures
from .._pacing import default_pacing, present
from .._scheduling.events import (
    CancelRequested,
    Claimed,
    FoundTask,
    Need,
    NotSent,
    Resized,
    ShutdownRequested,
    Submitted,
    TerminateRequested,
)
from .._types import ANY_RESOURCES, PLAIN_TERMS, Resources, TaskId, Terms, seconds, whole
from .dependencies import (
    Replaced,
    check_owner,
    failed_before,
    needs_of,
    replaced,
    sent_of,
    taken_apart,
    upstream,
    with_requirements,
)  # fmt: skip
from .map import BatchSize, MapPlace, MapResult, Pending, Watcher
from .options import CallOptions, PoolOptions, check_function

if TYPE_CHECKING:
    from .._data.pickling import Payload
    from .._files.contents import ContentStore
    from .opening import Opened

T = TypeVar("T")


class Intake:
    """What `submit` and `map` of an executor do."""

    def __init__(self, opened: Opened, options: PoolOptions) -> None:
        self._process = os.getpid()
        self.pool_futures = PoolFutures()
        self.reset_batches()
        self._opened = opened
        self._manager = opened.manager
        self._contents = opened.manager.contents
        self._resources = resources_of(options.runs_in)
        self._policy = options.policy
        self.resize(options.policy.max_workers)
        self._shared_from = options.shared_from
        #: How futures read their logs, and load their calls.
        self.logs, self.load = opened.logs, opened.load
        self.why_waiting = self._manager.why_waiting
        # Made once: what each future has of its own is work for the garbage collector, and that is
        # half of what a submit costs.
        self._count = self.pool_futures.count
        self._terms: tuple[CallOptions | None, Terms] = None, PLAIN_TERMS  # those of the last call
        # No lock: a signal's handler may use the pool while `submit` is at any line. What is posted
        # at the moment of the shutdown is work like other work, or the manager refuses it.
        self.closed = False
        self._ids = itertools.count()
        self._clones = Clones()
        #: Sets of modules that calls name: most calls have the same.
        self._modules: dict[frozenset[str], frozenset[str]] = {}
        self._least: dict[str, int] = {}  # the smallest call of each function; a guess will do

    def reset_batches(self) -> None:
        """How many rows make a batch is to be learned anew."""
        self.batches = BatchSize(default_pacing().batch)

    def resize(self, max_workers: int) -> None:
        """From now on there may be this many workers, which share the room in the inbox."""
        self._check_process()
        self._inline = replace(self._policy, max_workers=max_workers).inline_bytes

    def scale(self, max_workers: int) -> None:
        """So many calls may run at once from now on."""
        self.resize(max_workers)
        self._manager.post(Resized(max_workers))

    def close(self) -> None:
        """Take no more."""
        self.closed = True

    def shut_down(self) -> None:
        """End the pool when all is done."""
        self._manager.post(ShutdownRequested())

    def terminate(self, reason: Exception) -> None:
        """End the pool now, and all that it does."""
        self._manager.post(TerminateRequested(reason))

    def submit(
        self,
        options: CallOptions,
        fn: Callable[..., T],
        args: Any,
        kwargs: Any,
        place: MapPlace | None = None,
    ) -> ContainerFuture[T]:
        """One call; `place` is its place in a map, if it has one."""
        self._check_open()
        fn, needed = taken_apart(fn)
        check_function(fn)
        seeded = {} if place is None else place.seeded
        pickled = partial(
            pickling.call_payload,
            fn=with_requirements(fn, {**(options.requires or {}), **needed}),
            args=args,
            kwargs={**kwargs, **seeded} if seeded else kwargs,
            contents=self._contents,
            shared_from=self._shared_from,
            upstream=self._upstream,
        )
        what = fn, (args, kwargs) if place is None else place.identified(args, kwargs)
        return cast(ContainerFuture[T], self._post(options, _name_of(fn), pickled, what, place))

    def map(
        self,
        options: CallOptions,
        fn: Callable[..., T],
        iterables: Sequence[Iterable[Any]],
        *,
        timeout: float | None = None,
        chunksize: int | Literal["auto"] = "auto",
        buffersize: int | None = None,
        progress: bool = False,
        logs: bool = False,
        ordered: bool = True,
        return_exceptions: bool = False,
        seed: int | None = None,
    ) -> MapResult[T]:
        """As `ContainerPoolExecutor.map`."""
        timeout = seconds(timeout)
        if timeout is not None and timeout < 0:
            raise ValueError("timeout must not be negative")
        if buffersize is not None:
            buffersize = whole("buffersize", buffersize)
        check_function(taken_apart(fn)[0])
        size = 1 if chunksize == "auto" else whole("chunksize", chunksize)
        seed = checked_seed(seed)
        for name, value in (("ordered", ordered), ("return_exceptions", return_exceptions)):
            if not isinstance(value, bool):
                raise TypeError(f"{name} must be True or False")
        self._check_open()
        watcher: Watcher | None = None
        if progress or logs:
            from .._futures.progress import meter_for_map

            watcher = meter_for_map(iterables, size, progress, logs)
        ended = EndedTasks()
        place = MapPlace(
            _both(ended.count, self._count), None, seed, return_exceptions and size > 1
        )
        rows = zip(*iterables, strict=False)
        pending = Pending(
            self._single(options, fn, rows, place)
            if size == 1
            else self._chunks(options, fn, rows, place, size),
            ordered=ordered,
            batches=size > 1,
            catch=return_exceptions,
            watcher=watcher,
        )
        return MapResult(_name_of(fn), pending, ended, timeout, buffersize)

    def _single(
        self, options: CallOptions, fn: Callable[..., Any], rows: Iterator[Any], place: MapPlace
    ) -> Iterator[tuple[ContainerFuture[Any], int]]:
        """Each item is a call."""
        for item, row in enumerate(rows):
            yield self.submit(options, fn, row, {}, place.at(item)), 1

    def _chunks(
        self,
        options: CallOptions,
        fn: Callable[..., Any],
        rows: Iterator[Any],
        place: MapPlace,
        size: int,
    ) -> Iterator[tuple[ContainerFuture[Any], int]]:
        """Each `size` items are a call."""
        chunks = iter(lambda: list(itertools.islice(rows, size)), [])
        for first, chunk in zip(itertools.count(0, size), chunks, strict=False):
            future = self.submit_batch(options, fn, chunk, first, place)
            yield future, len(chunk)

    def submit_batch(
        self,
        options: CallOptions,
        fn: Callable[..., T],
        rows: Sequence[Sequence[Any]],
        first: int,
        place: MapPlace | None = None,
    ) -> ContainerFuture[list[T]]:
        """As `ContainerPoolExecutor.submit_batch`."""
        self._check_open()
        fn, needed = taken_apart(fn)
        check_function(fn)
        catch, seed = (False, None) if place is None else (place.catch, place.seed)
        pickled = partial(
            pickling.chunk_payload,
            fn=with_requirements(fn, {**(options.requires or {}), **needed}),
            rows=rows,
            first=whole("first", first, least=0),
            contents=self._contents,
            shared_from=self._shared_from,
            upstream=self._upstream,
            catch=catch,
            seed=seed,
        )
        more = f" and {len(rows) - 1} more" if len(rows) > 1 else ""
        name = _name_of(fn) + more
        learn = partial(_learn, self.batches, len(rows))
        differs = catch or seed is not None
        what = fn, (rows, first, catch, seed) if differs else rows
        return cast(
            ContainerFuture[list[T]],
            self._post(options, name, pickled, what, place, at_end=learn),
        )

    def _upstream(self, future: Any) -> Value | None:
        return upstream(self, future)

    def forecast(self) -> Forecast | None:
        """When all will be done, if that can be told; from memory."""
        used, standing = self._manager.containers.used(), self._manager.standing
        policy = self._manager.scheduler.fleet.policy  # frozen, and replaced as a whole
        workers = policy.max_workers
        # A container that is queued for 30 s counts for nothing.
        if standing.queued and time.monotonic() - standing.queued_since > 30.0:
            workers = max(standing.running, 1) * policy.worker_processes
        seconds_left = None
        if policy.max_seconds < float("inf"):
            seconds_left = policy.max_seconds - used.hours * 3600
        limits = policy.max_tasks_per_worker, seconds_left, policy.worker_processes
        size = PoolSize(workers, standing.containers, *limits)
        return self.pool_futures.forecast(used, size)

    def put(self, value: Any) -> SharedData:
        """As `ContainerPoolExecutor.put`."""
        self._check_open()
        handle, contents = pickling.shared(value, self._contents)
        self._check_open()
        self._manager.deposit.put(contents)
        return handle

    def _post(
        self,
        options: CallOptions,
        name: str,
        pickled: Callable[[str], Payload],
        what: tuple[Callable[..., Any], Any],
        place: MapPlace | None = None,
        at_end: Callable[[Any], None] | None = None,
    ) -> Any:
        session = self._opened.session
        claimed = self._new() if session is None else session.claim(*what)
        task = claimed.task
        item = "" if place is None else place.said
        function, name = name, f"{options.label or name} (task {task}{item})"
        count = self._count if place is None else place.count
        future = self._future(name, task, options, count)
        if at_end is not None:
            future.add_done_callback(at_end)
        try:
            payload = pickling.with_modules(name, pickled(name), self._opened.own_modules)
            if claimed.error is not None:
                raise claimed.error
            if payload.carried:
                self._clones.meet(name, function, payload, self._contents, self._upstream)
        except (CallPicklingError, SessionMismatchError) as reason:
            try:
                return self._unsent(future, reason)
            finally:
                del future  # what led to the error has this frame, and the future the error
        data = payload.data
        inline = len(data) <= self._inline
        blob = _wire.Blob.of(data) if inline and not payload.futures else None
        size = payload.extent + (self._novel(function, len(data)) if inline else 0)
        left = data if blob is None else None
        sent = SentCall(blob, left, payload.buffers, payload.code, claimed.key)
        sent.needs = needs_of(payload.futures, options.after)
        sent.modules = self._modules.setdefault(payload.modules, payload.modules)
        return self._send(future, options, sent, size, claimed.found)

    def _new(self) -> Claimed:
        """A task of an executor without a session."""
        return Claimed(TaskId(next(self._ids)))

    def _unsent(self, future: ContainerFuture[Any], error: Exception) -> ContainerFuture[Any]:
        """The future of a call that cannot be sent."""
        future.set_running_or_notify_cancel()
        future.set_exception(error.with_traceback(None))
        self._manager.post(NotSent(TaskId(future._number)))
        self.pool_futures.add(future)
        return future

    def _send(
        self,
        future: ContainerFuture[Any],
        options: CallOptions,
        sent: SentCall,
        size: int,
        found: FoundTask | None,
    ) -> ContainerFuture[Any]:
        """Give it to the manager; `size` as of `Submitted`."""
        future._sent, sent.timeout, sent.retry_on = sent, options.timeout, options.wants_retry
        terms = self._terms_of(options)
        needs, data = _scheduler_needs(sent) if sent.needs else (), 0
        if sent.data is not None and needs and needs[0].values:
            data = len(sent.data)
        upload = sent.blob is None and not 0 < data <= self._inline
        upload = upload or not all(content.ready for content in sent.contents)
        number = TaskId(future._number)
        event = Submitted(number, upload, size, terms, sent.key, found, needs, data)
        self._raise_if_shut_down()
        try:
            self.pool_futures.add(future)
            self._manager.submit(event, future, sent)
            return future
        except BaseException:  # a Ctrl-C, perhaps after it was sent: no one will have this future
            future.cancel()
            raise

    def resubmit(
        self, future: ContainerFuture[T], changes: Mapping[str, Any]
    ) -> ContainerFuture[T]:
        """As `ContainerFuture.resubmit`, of one that is done and has a call."""
        self._check_open()
        again: dict[ContainerFuture[Any], tuple[ContainerFuture[Any], Value]] = {}
        for each in failed_before(future):
            again[each] = self._resubmit(each, changes if each is future else {}, again)
        return again[future][0]

    def _resubmit(
        self,
        future: ContainerFuture[Any],
        changes: Mapping[str, Any],
        before: Replaced,
    ) -> tuple[ContainerFuture[Any], Value]:
        """One call once more, after those that it needs; and what stands for its result."""
        options, sent = future._options, sent_of(future)
        assert isinstance(options, CallOptions), "it is of this pool"
        assert sent is not None, "that was looked at"
        if changes.get("requires", options.requires) != options.requires:
            raise ValueError("requires is part of the call that was sent: submit it anew")
        options, session = options.changed(changes), self._opened.session
        check_owner(self, options.after)
        buffers, needs = replaced(sent, before)
        if "after" in changes:
            needs = (*needs[: bool(needs and sent.values)], *options.after)
        claimed = self._new() if session is None else session.claim_again(sent.key)
        task = claimed.task
        name = options.label or future.task.rpartition(" (task ")[0]
        again = self._future(f"{name} (task {task})", task, options, self._count)
        value: Value = value_in(again, Value(sent.modules))
        if claimed.error is not None:
            return self._unsent(again, claimed.error), value
        # A File may have expired since; of content it is looked at, and other bytes are sent anew.
        adopt = self._contents.adopt
        buffers = tuple(x if isinstance(x, Value) else adopt(x) for x in buffers)
        copy = SentCall(sent.blob, sent.data, buffers, sent.code, sent.key)
        copy.needs, copy.modules = needs, sent.modules
        inline = "" if sent.blob is None else sent.blob.inline or ""
        size = len(inline) + _wire.BUFFER_NAME * len(buffers)
        return self._send(again, options, copy, size, claimed.found), value

    def _future(
        self,
        name: str,
        task: TaskId,
        options: CallOptions,
        count: Callable[[TaskSummary], None],
    ) -> ContainerFuture[Any]:
        return ContainerFuture(
            name,
            task,
            View(Timings(present()), asked_memory=self._terms_of(options).resources.memory),
            self,
            options,
            count,
        )

    def cancel(self, number: int) -> None:
        """The task with this number is cancelled."""
        self._manager.post(CancelRequested(TaskId(number)))

    def _terms_of(self, options: CallOptions) -> Terms:
        known, terms = self._terms
        if options is not known:
            terms = options.terms(self._resources)
            self._terms = options, terms
        return terms

    def _novel(self, function: str, size: int) -> int:
        """How much of a pickled call is new, as text: letters are packed, and the rest of it has
        been in other calls of that function.
        """
        least = self._least.get(function, 0)
        self._least[function] = min(size, least or size)
        return (size - min(size, least)) * 4 // 3

    def _check_process(self) -> None:
        if os.getpid() != self._process:
            raise RuntimeError(
                f"this executor works in process {self._process}, of which this one is a fork: "
                "make another one here"
            )

    def _check_open(self) -> None:
        self._check_process()
        self._raise_if_shut_down()
        self._manager.raise_if_closed()

    def _raise_if_shut_down(self) -> None:
        if self.closed:
            raise RuntimeError("cannot schedule new futures after shutdown")


class Clones:
    """Which generators of random numbers calls have carried, and in what state: in a second call,
    one in that state draws the same numbers once more, where it would have gone on here. Another
    one in the same state, a copy for example, would have drawn the same numbers here, too.
    """

    def __init__(self) -> None:
        self._tasks: dict[Carried, tuple[str, Carried]] = {}  # that has, and as what
        self._warned: set[tuple[str, str]] = set()

    def meet(
        self,
        task: str,
        function: str,
        payload: Payload,
        contents: ContentStore,
        upstream: pickling.Upstream,
    ) -> None:
        """A call of that function is about to be sent. Warns, once for each function and kind."""
        if len(self._tasks) > 1_000:  # then all are forgotten, with their generators
            self._tasks.clear()
        for each in payload.carried:
            before, met = self._tasks.pop(each, (task, each))
            self._tasks[each] = task, each
            if met.value is not each.value or met is each or (function, each.kind) in self._warned:
                continue
            self._warned.add((function, each.kind))
            where = pickling.way_to_carried(each, payload, contents, upstream)
            warnings.warn(
                f"{task} carries a generator of random numbers in the state in which {before} has "
                f"carried it, so both may draw the same numbers ({where}). Give each call its own: "
                "map(..., seed=42) does, as the argument `rng`; or pass a number to make one of. "
                "If the same numbers are meant, filter this warning.",
                UserWarning,
                stacklevel=_levels_up(),
            )


def _levels_up() -> int:
    """How far up the stack, from who asks, the user's line is."""
    level, frame = 0, sys._getframe(1)
    ours = __name__.partition(".")[0]
    while frame.f_back is not None and frame.f_globals.get("__name__", "").startswith(ours):
        level, frame = level + 1, frame.f_back
    return level + 1


def _scheduler_needs(sent: SentCall) -> tuple[Need, ...]:
    """What a call needs, for the scheduler."""
    values = bool(sent.needs) and bool(sent.values)
    return tuple(
        Need(
            tuple(TaskId(number_of(future)) for future in need.futures),
            need.all,
            need.success,
            need.failure,
            values and not number,
        )
        for number, need in enumerate(sent.needs)
    )


def checked_seed(seed: Any) -> int | None:
    """What a map was given as its seed.

    Raises:
        TypeError, ValueError: it is no whole number from 0 on.
        ModuleNotFoundError: NumPy is not installed here, whose generators are asked for.
    """
    if seed is None:
        return None
    checked = whole("seed", seed, least=0)
    if importlib.util.find_spec("numpy") is None:
        raise ModuleNotFoundError("seed= gives generators of NumPy, which is missing", name="numpy")
    return checked


def _both(
    first: Callable[[TaskSummary], None], second: Callable[[TaskSummary], None]
) -> Callable[[TaskSummary], None]:
    def count(summary: TaskSummary) -> None:
        first(summary)
        second(summary)

    return count


def _learn(batches: BatchSize, rows: int, future: Any) -> None:
    """A batch has ended; by how long it took, the next one may have another size."""
    if rows and not future.cancelled() and future.exception() is None:
        batches.took(rows, future.timings.compute or 0.0)


def resources_of(container: Container | Template) -> Resources:
    """What a container of the pool has, unless more is asked for."""
    given = container.required_resources
    return ANY_RESOURCES if given is None else Resources(**{**DEFAULT_RESOURCES, **given})


def _name_of(fn: Callable[..., Any]) -> str:
    while isinstance(fn, partial):
        fn = fn.func
    return getattr(fn, "__qualname__", None) or type(fn).__qualname__
