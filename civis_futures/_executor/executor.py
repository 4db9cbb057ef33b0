"""`ContainerPoolExecutor`: arguments, `submit`, `map`, `shutdown`; all else is the manager's.

httpx and cloudpickle are imported when the first executor is made, so that importing the package
stays cheap.
"""

from __future__ import annotations

import dataclasses
import os
import shutil
import weakref
from collections.abc import Callable, Collection, Coroutine, Iterable, Mapping, Sequence
from concurrent.futures import Executor, Future
from types import ModuleType, TracebackType
from typing import (
    TYPE_CHECKING,
    Any,
    Literal,
    Never,
    NoReturn,
    ParamSpec,
    Protocol,
    TypeVar,
    Unpack,
    overload,
)

from .._container.container import Container, Template
from .._display import live, markup, panels
from .._display.forecast import Status
from .._display.report import PoolReport, report_of
from .._exceptions import BrokenContainerPool
from .._files.contents import SharedData
from .._futures.future import ContainerFuture
from .._scheduling.events import Resized, ShutdownRequested, TerminateRequested
from .._types import UNCHANGED, RetryOn, TaskState, given, whole
from .options import After, PoolOptions
from .views import ParallelFunction, WithOptions, parallel

if TYPE_CHECKING:
    from .._pool.manager import Manager
    from .map import MapOptions, MapResult

T = TypeVar("T")
P = ParamSpec("P")


class PlatformAddress(Protocol):
    """Anything that says where the API is and with which key: e.g. a `LocalPlatform`."""

    @property
    def url(self) -> str:
        """The base URL of the API."""

    @property
    def api_key(self) -> str:
        """The key."""


class ContainerPoolExecutor(Executor):
    """A pool of containers on Civis Platform, used as the standard library's pools are.

    Args:
        max_workers: how many calls may run at once, each in a container of its own unless
            `worker_processes` says otherwise. If None, 10; on a `LocalPlatform`, as many as that
            has cores. Containers start when there is work for them, and are reused.
        container: what each worker runs in: a `Container`, or a `Template`.
        platform: None for Civis Platform, by ``CIVIS_API_KEY`` (and ``CIVIS_API_ENDPOINT``);
            ``"local"`` for a local platform that lives as long as the executor; a
            `civis_futures.local.LocalPlatform`, or any object with ``url`` and ``api_key`` (and
            ``ca_certs``, PEM that alone is believed there); or a `civis.APIClient`, for its key.
        max_tasks_per_worker: after this many calls a container ends and another one takes its
            place; 1 is one fresh container for each call, None is no limit.
        idle_timeout: the seconds after which a container without work ends.
        initializer, initargs: called once in each process of a worker, before its first call. If
            it raises, or its process dies in it, the pool is broken, as in the standard library.
        max_retries: how often a call is started again after its container was lost, or after an
            exception that `retry_on` names; after a pause, longer each time. A call that
            cannot have begun is started again without counting.
        retry_on: which exceptions of the function are a reason to try again: a type, a tuple of
            types, or a function of the exception. None of them, by default.
        memory_growth: a call whose container was killed for want of memory is started again in
            one with this many times the memory, without counting, up to `max_memory` of its
            `options` (64,000 MB).
        lease: containers end by themselves, with what they run, when this process has given no
            sign of life for this many seconds; or when they have not reached the platform for
            that long, and for ten minutes at least.
        name: what the scripts are called on the platform.
        requires: modules that the image must have, with the least version of each ("" is any),
            e.g. ``{"sklearn": "1.5"}``. It is checked before a call is unpickled there, and what
            it lacks is an `EnvironmentMismatchError`.
        session: the name of a session, kept on the platform. Another process that makes an
            executor with the same name, after this one has ended or died, and submits the same
            calls, in any order, gets what there is of them. Opening it asks the platform.
        include: modules (or their names), files and folders that go along with every call,
            besides those of your own modules that it refers to.
        exclude: modules, paths and patterns of names (``"*.parquet"``) that do not go along.
        code: False to send no modules along; the image must have them all then.
        share_arrays: arrays of NumPy of this many bytes (and at least 1 MB) are shared by the
            calls of a container, and read-only there. Of smaller ones, or of all if None, each
            call has its own, which it can write.
        keep_alive: with a `session`, containers that are idle at the end stay for this many
            seconds, and the next process that opens the session begins with them. They cost what
            running containers cost.
        max_container_hours: for how many hours containers may run, all together; None is no limit.
            Then no call begins any more and no container is started: what runs goes on to its end,
            and the rest fails with `ContainerHoursError`. A container counts from when it was seen
            to run, and as long as this executor has it; with a `session`, each process begins anew.
        worker_processes: how many calls one container runs at once, each in a process of its own.
            These share what the container has: with 4, choose one with four times the memory and
            the cores. There are a quarter as many starts then.

    Raises:
        SessionInUseError: another process has the session open.
        SessionMismatchError: the session was begun with a `Template`, and this is none; or the
            other way round.
        PlatformError: there is a session, and the platform cannot be reached.
        CredentialsError: there is no key, and no `platform` either.
        CallPicklingError: `initializer` or `initargs` cannot be pickled.
        ValueError, TypeError: an argument is out of range, or of the wrong type.
    """

    def __init__(
        self,
        max_workers: int | None = None,
        *,
        container: Container | Template | None = None,
        platform: PlatformAddress | Literal["local"] | None = None,
        max_tasks_per_worker: int | None = None,
        idle_timeout: float = 60.0,
        initializer: Callable[..., object] | None = None,
        initargs: Iterable[Any] = (),
        max_retries: int = 0,
        retry_on: RetryOn = None,
        memory_growth: float | None = None,
        lease: float = 3600.0,
        name: str | None = None,
        requires: Mapping[str, str] | None = None,
        session: str | None = None,
        include: Collection[ModuleType | str | os.PathLike[str]] = (),
        exclude: Collection[ModuleType | str | os.PathLike[str]] = (),
        code: bool = True,
        share_arrays: float | None = 1_000_000,
        keep_alive: float = 0.0,
        max_container_hours: float | None = None,
        worker_processes: int = 1,
    ) -> None:
        options = PoolOptions(**given(locals()))
        from .opening import open_pool
        from .submission import Intake

        opened = open_pool(options)
        self._options = options.calls
        self._max_workers, self._name = options.policy.max_workers, options.title
        self._max_hours = options.max_container_hours
        self._processes = options.worker_processes
        self._manager, self._url, self._page = opened.manager, opened.url, opened.page
        self._intake = Intake(opened, options)
        # A forgotten executor finishes its work and goes; the manager does not hold it.
        self._finalizer = weakref.finalize(self, _abandon, self._manager)
        self._finalizer.atexit = False  # the manager has a hook of its own, which waits

    @classmethod
    def check_options(cls, options: Mapping[str, Any], also: Collection[str] = ()) -> None:
        """Raise what the constructor would for these arguments, but open no pool.

        For callers that get the options now and open the pool later. `also` are names that mean
        something to them: these are let through.

        Raises:
            TypeError: no argument has that name (the message has the nearest one that there is); or
                one is of the wrong type.
            ValueError: one is out of range.
        """
        PoolOptions.check(options, also)

    # --- work ----------------------------------------------------------------------------------

    @overload
    def submit(
        self, fn: Callable[P, Coroutine[Any, Any, T]], /, *args: P.args, **kwargs: P.kwargs
    ) -> ContainerFuture[T]: ...

    @overload
    def submit(
        self, fn: Callable[..., T], future: ContainerFuture[Any], /, *args: Any, **kwargs: Any
    ) -> ContainerFuture[T]: ...

    @overload
    def submit(
        self, fn: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs
    ) -> ContainerFuture[T]: ...

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> ContainerFuture[Any]:
        """Call ``fn(*args, **kwargs)`` in a container; returns at once with its future.

        Function and arguments are pickled here and now: what is changed later does not reach the
        call. If they cannot be pickled, the future has a `CallPicklingError`. Arrays of 1 MB and
        more are uploaded once, however many calls have them, and are read-only in the container.

        A future of this executor may be an argument, or anywhere in one, or in what the function
        refers to: in the container there is its result. The call waits for it, and if it fails,
        is not run, and fails with a `DependencyError`. A large result does not come through here.

        A coroutine function is run there to its end, by `asyncio.run`: ``submit(fetch, url)`` with
        ``async def fetch(url)`` gives what `fetch` returns.

        Raises:
            TypeError: `fn` is a generator function, and a generator cannot be sent back.
            RuntimeError: the executor is shut down.
            BrokenContainerPool: the pool can do no more work.
        """
        return self._intake.submit(self._options, fn, args, kwargs)

    def options(
        self,
        *,
        max_retries: int = UNCHANGED,
        retry_on: RetryOn = UNCHANGED,
        timeout: float | None = UNCHANGED,
        queue_timeout: float | None = UNCHANGED,
        label: str | None = UNCHANGED,
        required_resources: Mapping[str, float] | None = UNCHANGED,
        memory_growth: float | None = UNCHANGED,
        max_memory: float = UNCHANGED,
        priority: float = UNCHANGED,
        after: After = UNCHANGED,
        requires: Mapping[str, str] | None = UNCHANGED,
        **unknown: Never,
    ) -> WithOptions:
        """A view of this pool whose `submit` and `map` give each call these options.

        Args:
            max_retries, retry_on, memory_growth, requires: as of the executor, whose values are
                the defaults.
            max_memory: the most that `memory_growth` leads to, in MB.
            timeout: seconds that the call may run, unpickling included; then it is ended, and
                fails with `TaskTimeoutError`. Other calls of its container are not touched.
            queue_timeout: seconds from `submit` until it must have begun; otherwise it never
                begins, and fails with `TaskTimeoutError`.
            label: what to call it, in place of the function's name.
            required_resources: what its container must have at the least, as in `Container`; it
                runs in no smaller one.
            priority: calls with a higher one begin first, of those that wait; 0 if not given.
                Calls of one priority begin in the order of their submission. What a container
                has been given already is not put off.
            after: futures of this executor, one or some. The call begins when all of them have
                succeeded; if that cannot be any more, it is not run, and fails with
                `DependencyError`. A `Dependency` says what else will do. No container is held
                meanwhile, and `queue_timeout` goes on.

        Raises:
            TypeError, ValueError: there is no such option, or it is out of range.
        """
        return WithOptions(self, self._intake, self._options.changed(given(locals())))

    @overload
    def parallel(self, function: Callable[P, T], /) -> ParallelFunction[P, T]: ...

    @overload
    def parallel(self, /, **options: Any) -> Callable[[Callable[P, T]], ParallelFunction[P, T]]: ...

    def parallel(self, function: Callable[..., Any] | None = None, /, **options: Any) -> Any:
        """A decorator, for scripts and notebooks: the function gets the `submit` and the `map` of
        this pool. A plain call of it runs here, as does one within a task.

        ``@executor.parallel``, or with the arguments of `options`:
        ``@executor.parallel(timeout=60)``.

        Raises:
            TypeError, ValueError: there is no such option, or it is out of range.
        """
        return parallel(self.options(**options), function)

    def submit_batch(
        self, fn: Callable[..., T], rows: Sequence[Sequence[Any]], *, first: int = 0
    ) -> ContainerFuture[list[T]]:
        """Call ``fn(*row)`` for one row after the other, as one call; its result is their list.

        If a row fails, the exception has a note that says which one: its number in `rows`, and
        counted from `first`. The rest of the rows is not called. How many rows make a good batch
        is in `batch_size`.

        Raises:
            RuntimeError, BrokenContainerPool: as of `submit`.
        """
        return self._intake.submit_batch(self._options, fn, rows, first)

    @property
    def max_workers(self) -> int:
        """How many calls may run at once."""
        return self._max_workers

    @property
    def batch_size(self) -> int:
        """How many rows make a batch of about 2 seconds of compute, as far as batches have shown.

        1 before the first one is back; measured in the containers, so that no wait counts.
        """
        return self._intake.batches.items

    def reset_batch_size(self) -> None:
        """Forget how long rows took: those that come now are of another kind."""
        self._intake.reset_batches()

    @property
    def broken(self) -> Exception | None:
        """Why the pool can do no more work, or None if it can."""
        return self._manager.broken

    @overload
    def map(
        self,
        fn: Callable[..., T],
        *iterables: Iterable[Any],
        return_exceptions: Literal[False] = False,
        **how: Unpack[MapOptions],
    ) -> MapResult[T]: ...

    @overload
    def map(
        self,
        fn: Callable[..., T],
        *iterables: Iterable[Any],
        return_exceptions: bool,
        **how: Unpack[MapOptions],
    ) -> MapResult[T | BaseException]: ...

    def map(
        self,
        fn: Callable[..., Any],
        *iterables: Iterable[Any],
        timeout: float | None = None,
        chunksize: int | Literal["auto"] = "auto",
        buffersize: int | None = None,
        progress: bool = False,
        logs: bool = False,
        ordered: bool = True,
        return_exceptions: bool = False,
        seed: int | None = None,
    ) -> MapResult[Any]:
        """The results of ``map(fn, *iterables)``, in order, computed in containers.

        Args:
            timeout: seconds from now until which each result must be there.
            chunksize: how many items make one call of the pool, and fail together. By default
                each is a call of its own, and as many of them travel together as is good.
            buffersize: read the iterables this many calls ahead of the results, and not to their
                end at once; so they may be infinite.
            progress: show a bar while results are waited for; see `civis_futures.progress`.
            logs: print what the calls print while results are waited for; see there, too.
            ordered: False to give results as they come, and not in the order of the items.
            return_exceptions: True to give what a call raises in its place among the results, as
                `asyncio.gather` does; nothing is cancelled for it. Of a chunk, all items are run.
            seed: a whole number. Each item has a generator of random numbers then, as the keyword
                argument ``rng``: NumPy's default one, the same for each run of this map, whatever
                the number of workers, the chunks and the retries, and independent of all others.

        Raises:
            TimeoutError: from the iterator, when a result is not there in time.
            Exception: from the iterator: whatever a call raised. The rest is cancelled then, and
                when the iterator is dropped half-way.
        """
        return self._intake.map(
            self._options,
            fn,
            iterables,
            timeout=timeout,
            chunksize=chunksize,
            buffersize=buffersize,
            progress=progress,
            logs=logs,
            ordered=ordered,
            return_exceptions=return_exceptions,
            seed=seed,
        )

    def put(self, value: Any) -> SharedData:
        """Upload a value once, for use in many calls of any executor on this platform.

        Pass the handle to calls, as an argument or anywhere in one: in the task the value is in
        its place. It is for what is large and not an array: a model, a table of texts. (Arrays
        of 1 MB and more are uploaded once anyway; with a handle they need not be read for each
        call, to see whether they have changed.) Returns at once, with a snapshot taken, and
        `shutdown` waits for the upload. If it fails, the calls that need it try again, and fail
        if that does.

        Raises:
            CallPicklingError: the value cannot be pickled.
            RuntimeError: the executor is shut down.
            BrokenContainerPool: the pool can do no more work.
        """
        return self._intake.put(value)

    def scale(self, max_workers: int) -> None:
        """Have up to this many calls at once from now on.

        More containers start when there is work for them. Those that are too many get no more
        calls, and end when they have done what they have.

        Raises:
            ValueError, TypeError: as for the constructor's argument.
            RuntimeError: this process is a fork of the one that made the executor.
        """
        most = whole("max_workers", max_workers)
        self._intake.resize(most)
        self._max_workers = most
        self._manager.post(Resized(most))

    # --- the end -------------------------------------------------------------------------------

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """Take no more calls, finish those that there are, and end the containers.

        Args:
            wait: return only when all futures are done, and no container runs any more.
            cancel_futures: cancel the calls that no running container has in hand.
        """
        self._intake.close()
        if cancel_futures:
            self._cancel_waiting()
        self._manager.post(ShutdownRequested())
        if wait:
            self._manager.join()

    def cancel_all(
        self, futures: Iterable[Future[Any]] | None = None, *, wait: bool = False
    ) -> None:
        """Cancel all calls that are not done, also those that run; the executor stays open.

        As if `ContainerFuture.cancel` were called on each.

        Args:
            futures: only these, of this executor.
            wait: return only when no container runs a call any more that was cancelled.
        """
        pool_futures = self._intake.pool_futures
        for future in pool_futures.futures() if futures is None else tuple(futures):
            future.cancel()
        if wait:
            self._manager.await_cancels()

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc_value: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Shut down and wait; after a Ctrl-C, cancel what is not done before."""
        if exc_type is not None and issubclass(exc_type, KeyboardInterrupt):
            self._intake.close()
            self.cancel_all()
        self.shutdown(wait=True)

    def terminate_workers(self) -> None:
        """Stop everything now: waiting calls are cancelled, and the containers are stopped.

        Calls that run fail with `BrokenContainerPool`. Returns at once; `shutdown` waits until
        the containers have ended.
        """
        self._end_now("terminate_workers")

    def kill_workers(self) -> None:
        """The same as `terminate_workers`: a container has only one way to be stopped.

        (It gets a TERM, and a KILL after the `cancel_timeout` of its `Container`.) The standard
        library has both methods since Python 3.14, and here they are on every Python.
        """
        self._end_now("kill_workers")

    def _end_now(self, method: str) -> None:
        self._intake.close()
        self._cancel_waiting()
        self._manager.post(TerminateRequested(BrokenContainerPool(f"{method} was called")))

    def _cancel_waiting(self) -> None:
        for future in self._intake.pool_futures.futures():
            if future.state in (TaskState.PENDING, TaskState.QUEUED):
                future.cancel()

    # --- looking -------------------------------------------------------------------------------

    def status(self) -> Status:
        """How the calls are whose futures you hold, as plain data; from memory, at once.

        One dict for each, in the order of submission, that pandas takes as it is: ``task``,
        ``number``, ``state``, ``reason`` (of a failure, or of a wait, in one line), ``attempts``;
        ``elapsed``, ``queue`` and ``compute`` in seconds, ``peak_memory`` in MB, ``submitted`` in
        seconds since the epoch; ``worker``, ``job_id``, ``run_id``, ``job_url``; for how many
        seconds it was seen ``running``, while it does, and how long its last attempt had
        ``occupied`` its container, imports included; ``asked_memory`` in MB. None is what is not
        known. The list has an attribute, too: ``forecast``, as `report` has it.
        """
        status = Status(panels.records(self._intake.pool_futures.summaries()))
        status.forecast = self._intake.forecast()
        return status

    def report(self) -> PoolReport:
        """What this pool has used so far, and what would have been enough; from memory, at once.

        Container hours, starts and requests; the speed-up, and which part of their time containers
        were busy; the slowest tasks, and the peak memory of each function beside what was asked
        for; and what follows from that. It prints, displays, and is data by `as_dict()`.

        While tasks are not done: how many, for how many container hours more, and when the last
        one will be done (`forecast`). That is said once some tasks of each function have ended, by
        the time that these took. The display and the bars have it, too.
        """
        futures, manager = self._intake.pool_futures, self._manager
        title, used = f"{self._name} on {self._url}", manager.containers.used()
        requests = manager.client.budget.requests
        totals, work = futures.totals(), futures.work()
        hours, forecast = self._max_hours, self._intake.forecast()
        return report_of(
            title, self._max_workers, totals, work, used, requests, self._processes, hours, forecast
        )

    def __repr__(self) -> str:
        """Name, size, platform (without the key), and how many calls are how."""
        return (
            f"<{type(self).__name__} {self._name!r} max_workers={self._max_workers} "
            f"platform={self._url!r}: {self._intake.pool_futures.totals()}>"
        )

    def _panel(self, most: int = panels.MOST_ROWS) -> panels.Panel:
        each = f", {self._processes} in a container," if self._processes > 1 else ""
        title = f"{self._name}, up to {self._max_workers} workers{each} on {self._url}"
        panel = self._intake.pool_futures.panel(title, self._manager.why_waiting(), most)
        page, forecast = self._page and self._page(), self._intake.forecast()
        return dataclasses.replace(panel, page=page or "", forecast=str(forecast or ""))

    def _repr_html_(self) -> str:
        """For notebooks; from memory."""
        return markup.html(self._panel(panels.MOST_PAGED), panels.MOST_PAGED)

    def _is_over(self) -> bool:
        totals = self._intake.pool_futures.totals()
        return self._intake.closed and totals.done == totals.tasks

    def _ipython_display_(self) -> None:
        """For notebooks, where it changes."""
        live.show_live(self, keep=False)

    def _repr_pretty_(self, printer: Any, cycle: bool) -> None:
        """For IPython in a terminal."""
        del cycle
        printer.text(panels.text(self._panel(), shutil.get_terminal_size().columns))

    def __reduce__(self) -> NoReturn:
        """Executors hold threads and a key; neither travels."""
        raise TypeError(f"cannot pickle a {type(self).__name__}")


def _abandon(manager: Manager) -> None:
    """The executor is gone without a shutdown."""
    manager.post(ShutdownRequested())
