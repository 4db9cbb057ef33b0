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
from .._types import UNCHANGED, RetryOn, TaskState, given, whole
from .options import After, PoolOptions
from .views import ParallelFunction, WithOptions, parallel

if TYPE_CHECKING:
    from .map import MapOptions, MapResult

T = TypeVar("T")
P = ParamSpec("P")


class PlatformAddress(Protocol):
    """The address of a platform and a key for it; a `LocalPlatform` is one."""

    @property
    def url(self) -> str:
        """The base URL of the API."""

    @property
    def api_key(self) -> str:
        """The API key."""


class ContainerPoolExecutor(Executor):
    """A pool of containers on Civis Platform, used as the standard library's pools are.

    Args:
        max_workers: how many calls may run at once, each in a container of its own unless
            `worker_processes` says otherwise. If None, 10; on a `LocalPlatform`, the number of its
            cores. Containers are started when there is work for them, and are reused.
        container: what each worker runs in: a `Container` or a `Template`.
        platform: None for Civis Platform, with ``CIVIS_API_KEY`` (and ``CIVIS_API_ENDPOINT``);
            ``"local"`` for a local platform that lives as long as the executor; a
            `civis_futures.local.LocalPlatform`, or any object with ``url`` and ``api_key`` (and
            ``ca_certs``: the only certificates to trust there, as PEM text); or a
            `civis.APIClient`, whose key is used.
        max_tasks_per_worker: after this many calls a container ends, and another one takes its
            place. 1 means a fresh container for each call; None means no limit.
        idle_timeout: seconds without work after which a container ends.
        initializer, initargs: called once in each process of a worker, before its first call. If
            it raises, or its process dies in it, the pool is broken, as in the standard library.
        max_retries: how often a call is started again after its container was lost, or after an
            exception that `retry_on` names. Each time the pause before it is longer. A call that
            had certainly not begun is started again without counting.
        retry_on: the exceptions of the function after which the call is tried again: a type, a
            tuple of types, or a function that takes the exception. By default, none.
        memory_growth: if a container is killed because it ran out of memory, its call is started
            again in a container with this many times the memory, up to the `max_memory` of its
            `options` (64,000 MB). This does not count as a retry.
        lease: seconds. Containers end by themselves, together with what they run, if this process
            gives no sign of life for that long. They also end if they cannot reach the platform
            for that long, but not before ten minutes. Containers without a call end five minutes
            after the `idle_timeout` (or `keep_alive`, if that is longer), if that is sooner.
        name: the name of the scripts on the platform.
        requires: modules that the image must have, and the lowest version of each (``""`` for
            any), such as ``{"sklearn": "1.5"}``. They are checked before a call is unpickled in
            the container. If one is missing, the call fails with `EnvironmentMismatchError`.
        session: the name of a session, which the platform keeps. If this process ends or dies,
            another one can make an executor with the same session and submit the same calls, in
            any order. It gets the results that exist, and takes over the calls that run. To open
            a session, the executor makes requests to the platform.
        include: modules (or their names), files and folders to send with every call, besides
            those of your own modules that the call refers to.
        exclude: modules, paths and patterns of names (``"*.parquet"``) that are not sent.
        code: if False, no modules are sent; then the image must have all of them.
        share_arrays: size in bytes. NumPy arrays of this size or more (but at least 1 MB) are
            shared by the calls in a container, and are read-only there. Each call has its own,
            writable copy of smaller arrays; if None, of all arrays.
        keep_alive: seconds for which idle containers stay when the executor ends, for the next
            process that opens its `session`. They cost as much as containers that work.
        max_container_hours: how many hours containers may run, added up; None means no limit.
            When they are used up, no call begins and no container is started any more. Calls that
            run go on to their end, and the others fail with `ContainerHoursError`. The time of a
            container counts from when it was seen to run, for as long as this executor has it.
            With a `session`, each process counts from zero.
        worker_processes: how many calls one container runs at once, each in a process of its own.
            The processes share the container's resources: for 4 of them, choose a container with
            four times the memory and cores. Then a quarter as many containers are started.

    Raises:
        SessionInUseError: another process has the session open.
        SessionMismatchError: the session was begun with a `Template` and is opened with a
            `Container`, or the other way round.
        PlatformError: a `session` was given, and the platform cannot be reached.
        CredentialsError: there is neither an API key nor a `platform`.
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
        self._finalizer = weakref.finalize(self, self._intake.shut_down)
        self._finalizer.atexit = False  # the manager has a hook of its own, which waits

    @classmethod
    def check_options(cls, options: Mapping[str, Any], also: Collection[str] = ()) -> None:
        """Raise the errors that the constructor would raise for these arguments; open no pool.

        It is for callers who get the options now and open the pool later.

        Args:
            options: arguments of the constructor, by name.
            also: names of options that the caller uses itself; they are not checked.

        Raises:
            TypeError: there is no argument of this name (the message proposes the nearest name),
                or an argument has the wrong type.
            ValueError: an argument is out of range.
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
        """Call ``fn(*args, **kwargs)`` in a container. Returns a future at once.

        The function and its arguments are pickled immediately, so later changes to them do not
        reach the call. If they cannot be pickled, the future has a `CallPicklingError`. An array
        of 1 MB or more is uploaded once, however many calls use it, and is read-only in the
        container.

        A future of this executor may be an argument, or be anywhere within one, or in what the
        function refers to. In the container, its result takes its place. The call waits for that
        future. If that one fails, the call is not run, and fails with a `DependencyError`. Large
        results go from container to container, not through this process.

        A coroutine function is run to its end in the container, by `asyncio.run`: with
        ``async def fetch(url)``, the result of ``submit(fetch, url)`` is what `fetch` returns.

        Raises:
            TypeError: `fn` is not callable; or it is a generator function, and a generator cannot
                be sent back.
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
            max_retries, retry_on, memory_growth, requires: as for the executor, whose values are
                the defaults.
            max_memory: the most memory to which `memory_growth` may lead, in MB.
            timeout: seconds that the call may run, unpickling included. After that it is stopped,
                and fails with `TaskTimeoutError`. Other calls in its container are not affected.
            queue_timeout: seconds after `submit` within which the call must begin. If it does
                not, it is never run, and fails with `TaskTimeoutError`.
            label: a name for the call, in place of the function's.
            required_resources: the least that its container must have, as in `Container`. The
                call never runs in a smaller container.
            priority: of the calls that wait, those with a higher priority begin first. The
                default is 0. Calls of the same priority begin in the order in which they were
                submitted. A call that a container has already been given is not held back.
            after: one or more futures of this executor. The call begins when all of them have
                succeeded. If one fails, the call is not run, and fails with `DependencyError`. A
                `Dependency` sets other conditions. While the call waits, it takes up no
                container, but its `queue_timeout` runs.

        Raises:
            TypeError, ValueError: there is no such option, or its value is not allowed.
        """
        return WithOptions(self, self._intake, self._options.changed(given(locals())))

    @overload
    def parallel(self, function: Callable[P, T], /) -> ParallelFunction[P, T]: ...

    @overload
    def parallel(self, /, **options: Any) -> Callable[[Callable[P, T]], ParallelFunction[P, T]]: ...

    def parallel(self, function: Callable[..., Any] | None = None, /, **options: Any) -> Any:
        """A decorator for scripts and notebooks: gives a function this pool's `submit` and `map`.

        Write ``@executor.parallel``, or ``@executor.parallel(timeout=60)`` with arguments of
        `options`. To call the function itself runs it as usual: in this process, or within a task
        in the task's process.

        Raises:
            TypeError, ValueError: there is no such option, or its value is not allowed.
        """
        return parallel(self.options(**options), function)

    def submit_batch(
        self, fn: Callable[..., T], rows: Sequence[Sequence[Any]], *, first: int = 0
    ) -> ContainerFuture[list[T]]:
        """Run ``[fn(*row) for row in rows]`` in a container, as one call.

        If a row fails, the rows after it are not run. A note on the exception says which row it
        was, by its number in `rows` and by its number counted from `first`. `batch_size` tells how
        many rows make a good batch.

        Raises:
            RuntimeError, BrokenContainerPool: as for `submit`.
        """
        return self._intake.submit_batch(self._options, fn, rows, first)

    @property
    def max_workers(self) -> int:
        """How many calls may run at once."""
        return self._max_workers

    @property
    def batch_size(self) -> int:
        """How many rows make a batch that computes for about 2 seconds.

        It is learned from the batches that have ended, by their time in the containers, without
        any waiting. It is 1 until the first of them has ended.
        """
        return self._intake.batches.items

    def reset_batch_size(self) -> None:
        """Forget how long rows took, because those that follow are of another kind."""
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
            timeout: seconds from now within which each result must arrive.
            chunksize: how many items make one call, and so fail together. By default each item is
                a call of its own, and the pool decides how many calls to send together.
            buffersize: how many calls to submit ahead of the results. Then the iterables may be
                infinite; by default they are read to their end at once.
            progress: show a bar while you wait for results, as `civis_futures.progress` does.
            logs: while you wait for results, print what the calls print, as
                `civis_futures.progress` does.
            ordered: if False, results come as soon as they are ready, in any order.
            return_exceptions: if True, an exception that an item raises takes the place of its
                result, as in `asyncio.gather`, and nothing is cancelled. All items of a chunk are
                run, then.
            seed: a whole number. With it, each item gets a random number generator of NumPy, as
                the keyword argument ``rng``. The generators are independent of each other, and
                the same in each run of this map, whatever the number of workers, the chunks and
                the retries.

        Raises:
            TimeoutError: by the iterator, if a result does not arrive in time.
            Exception: by the iterator, whatever a call raised. All other calls are cancelled then,
                as they are when you drop the iterator before its end.
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

        Returns a handle at once. Pass it to calls, as an argument or anywhere within one: in the
        task, the value takes its place. Later changes to the value do not reach the calls. This
        is for large objects that are not arrays, such as a model or a table of texts. (Arrays of
        1 MB or more are uploaded once anyway; with a handle, they are not read again for each
        call to see whether they have changed.) `shutdown` waits for the upload. If the upload
        fails, it is tried again for the calls that need it; they fail if it fails again.

        Raises:
            CallPicklingError: the value cannot be pickled.
            RuntimeError: the executor is shut down.
            BrokenContainerPool: the pool can do no more work.
        """
        return self._intake.put(value)

    def scale(self, max_workers: int) -> None:
        """Change how many calls may run at once.

        If it is more, containers are started when there is work for them. If it is less, the
        containers that are too many get no new calls, and end after those that they have.

        Raises:
            ValueError, TypeError: as for the constructor's argument.
            RuntimeError: this process is a fork of the one that made the executor.
        """
        most = whole("max_workers", max_workers)
        self._intake.scale(most)
        self._max_workers = most

    # --- the end -------------------------------------------------------------------------------

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """Accept no more calls, finish those that were submitted, and end the containers.

        Args:
            wait: return only when all futures are done and all containers have ended.
            cancel_futures: cancel the calls that no running container has been given.
        """
        self._intake.close()
        if cancel_futures:
            self._cancel_waiting()
        self._intake.shut_down()
        if wait:
            self._manager.join()

    def cancel_all(
        self, futures: Iterable[Future[Any]] | None = None, *, wait: bool = False
    ) -> None:
        """Cancel all calls that are not done, including those that run. The executor stays open.

        It is as if `ContainerFuture.cancel` were called on each future.

        Args:
            futures: cancel only these, which must be of this executor.
            wait: return only when no container runs a cancelled call any more.
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
        """Stop everything now: cancel the calls that wait, and stop the containers.

        Calls that run fail with `BrokenContainerPool`. Returns at once; use `shutdown` to wait
        until the containers have ended.
        """
        self._end_now("terminate_workers")

    def kill_workers(self) -> None:
        """The same as `terminate_workers`, since a container can be stopped in one way only.

        It gets a SIGTERM, and a SIGKILL after the `cancel_timeout` of its `Container`. The
        standard library has both methods since Python 3.14; here they exist on every Python.
        """
        self._end_now("kill_workers")

    def _end_now(self, method: str) -> None:
        self._intake.close()
        self._cancel_waiting()
        self._intake.terminate(BrokenContainerPool(f"{method} was called"))

    def _cancel_waiting(self) -> None:
        for future in self._intake.pool_futures.futures():
            if future.state in (TaskState.PENDING, TaskState.QUEUED):
                future.cancel()

    # --- looking -------------------------------------------------------------------------------

    def status(self) -> Status:
        """The state of each call whose future you hold, as plain data. Makes no request.

        It is a list with one dict for each call, in the order of submission, which pandas takes
        as it is. Its keys, whose values are None where nothing is known:

        - ``task``, ``number``, ``state``, ``attempts``, and ``reason``: why the call failed or
          what it waits for, in one line;
        - ``submitted`` in seconds since the epoch;
        - in seconds: ``elapsed``, ``queue``, ``compute``; ``running``: for how long a call that
          runs was seen to do so; ``occupied``: for how long its last attempt took up its
          container, imports included;
        - in MB: ``peak_memory`` and ``asked_memory``;
        - ``worker``, ``job_id``, ``run_id``, ``job_url``.

        The list also has an attribute ``forecast``, as `report` has.
        """
        status = Status(panels.records(self._intake.pool_futures.summaries()))
        status.forecast = self._intake.forecast()
        return status

    def report(self) -> PoolReport:
        """What this pool has used so far, and what would have been enough. Makes no request.

        It has container hours, starts and requests; the speed-up; the share of time in which
        containers were busy; the slowest tasks; and for each function its peak memory beside the
        memory asked for. From these follows its advice. You can print or display it, and
        `as_dict()` gives plain data.

        While tasks are not done, it has a `forecast`: how many are left, how many more container
        hours they will take, and when the last one will be done. It is based on the tasks that
        have ended, so it exists once some tasks of each function have. Displays and bars show it
        as well.
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
