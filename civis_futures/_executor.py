"""`ContainerPoolExecutor`: arguments, `submit`, `map`, `shutdown`; all else is the manager's.

httpx and cloudpickle are imported when the first executor is made, so that importing the package
stays cheap.
"""

from __future__ import annotations

import itertools
import shutil
import socket
import threading
import time
import weakref
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Executor
from dataclasses import replace
from functools import partial
from types import TracebackType
from typing import TYPE_CHECKING, Any, Literal, NoReturn, Protocol, TypeVar

from . import _display, _wire
from ._events import CancelRequested, ShutdownRequested, Submitted, TerminateRequested
from ._exceptions import BrokenContainerPool, CallPicklingError
from ._future import ContainerFuture, Timings, View
from ._map import Watcher, flat, results
from ._options import CallOptions, RetryOn, WithOptions, number, whole
from ._roll import Roll
from ._state import Policy
from ._types import (
    ANY_RESOURCES,
    DEFAULT_RESOURCES,
    Container,
    Resources,
    TaskId,
    TaskState,
    Template,
)

if TYPE_CHECKING:
    from ._manager import Manager

T = TypeVar("T")

#: `max_workers` unless told otherwise. Containers cost money: not the size of this machine.
DEFAULT_WORKERS = 10
#: Calls travel inline up to `_wire.INLINE_LIMIT` bytes, and all workers' together so many.
INLINE_TOTAL = 600_000


class Platform(Protocol):
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
        max_workers: how many containers there may be at any moment; 10 if None. They start when
            there is work for them, and are reused.
        container: what each worker runs in: a `Container`, or a `Template`.
        platform: None for Civis Platform, by ``CIVIS_API_KEY`` (and ``CIVIS_API_ENDPOINT``);
            ``"local"`` for a local platform that lives as long as the executor; or a
            `civis_futures.local.LocalPlatform`, or any object with ``url`` and ``api_key``.
        max_tasks_per_worker: after so many calls a container ends and another one takes its
            place; 1 is one fresh container for each call, None is no limit.
        idle_timeout: a container without work ends after so many seconds.
        initializer, initargs: called once in each worker, before its first call. If it raises,
            the pool is broken.
        max_retries: how often a call is started again after its container was lost, or after an
            exception that `retry_on` names; after a pause, longer each time. What surely never
            began is started again without counting.
        retry_on: which exceptions of the function are a reason to try again: a type, a tuple of
            types, or a function of the exception. None of them, by default.
        memory_growth: a call whose container was killed for want of memory is started again in
            one with so many times the memory, without counting, up to `max_memory` of its
            `options` (64,000 MB).
        lease: containers end by themselves, with what they run, when this process has given no
            sign of life for so many seconds.
        name: what the scripts are called on the platform.

    Raises:
        CredentialsError: there is no key, and no `platform` either.
        CallPicklingError: `initializer` or `initargs` cannot be pickled.
        ValueError, TypeError: an argument is out of range, or of the wrong type.
    """

    def __init__(
        self,
        max_workers: int | None = None,
        *,
        container: Container | Template | None = None,
        platform: Platform | Literal["local"] | None = None,
        max_tasks_per_worker: int | None = None,
        idle_timeout: float = 60.0,
        initializer: Callable[..., object] | None = None,
        initargs: Iterable[Any] = (),
        max_retries: int = 0,
        retry_on: RetryOn = None,
        memory_growth: float | None = None,
        lease: float = 3600.0,
        name: str | None = None,
    ) -> None:
        policy = _policy(max_workers, max_tasks_per_worker, idle_timeout, lease)
        self._options = CallOptions(max_retries, retry_on, memory_growth=memory_growth)
        self._max_workers = policy.max_workers
        if initializer is not None and not callable(initializer):
            raise TypeError("initializer must be a callable")
        if not isinstance(initargs, Iterable):
            raise TypeError("initargs must be an iterable")
        if name is not None and not isinstance(name, str):
            raise TypeError("name must be a str")
        if container is not None and not isinstance(container, Container | Template):
            raise TypeError("container must be a Container or a Template")
        container = container or Container()
        self._name = name or f"civis_futures on {socket.gethostname()}"

        from . import _serialize
        from ._pool import open_pool

        self._serialize = _serialize
        initial = None
        if initializer is not None:
            initial = _serialize.call_bytes("the initializer", initializer, tuple(initargs), {})
        self._inline = min(_wire.INLINE_LIMIT, INLINE_TOTAL // self._max_workers)
        opened = open_pool(
            platform=platform,
            name=self._name,
            container=container,
            initializer=initial,
            policy=policy,
        )
        self._manager, self._url, self._opened = opened.manager, opened.url, opened
        self._resources = resources_of(container)
        # Guards `_shutdown`, and the order "check, then post": a task is never posted after the
        # shutdown. No I/O, pickling or user code under it.
        self._lock = threading.Lock()
        self._shutdown = False
        self._roll = Roll()
        self._ids = itertools.count()
        # A forgotten executor finishes its work and goes; the manager does not hold it.
        self._finalizer = weakref.finalize(self, _abandon, self._manager)
        self._finalizer.atexit = False  # the manager has a hook of its own, which waits

    # --- work ----------------------------------------------------------------------------------

    def submit(self, fn: Callable[..., T], /, *args: Any, **kwargs: Any) -> ContainerFuture[T]:
        """Call ``fn(*args, **kwargs)`` in a container; returns at once with its future.

        Function and arguments are pickled here and now: what is changed later does not reach the
        call. If they cannot be pickled, the future has a `CallPicklingError`.

        Raises:
            RuntimeError: the executor is shut down.
            BrokenContainerPool: the pool can do no more work.
        """
        return self._submit(self._options, fn, args, kwargs)

    def options(self, **changes: Any) -> WithOptions:
        """A view of this pool whose `submit` and `map` give each call these options.

        Args:
            max_retries, retry_on, memory_growth: as of the executor, whose values are the
                defaults.
            max_memory: the most that `memory_growth` leads to, in MB.
            timeout: seconds that the call may run, unpickling included; then it is ended, and
                fails with `TaskTimeoutError`. Other calls of its container are not touched.
            queue_timeout: seconds from `submit` until it must have begun; otherwise it never
                begins, and fails with `TaskTimeoutError`.
            label: what to call it, in place of the function's name.
            required_resources: what its container must have at the least, as in `Container`; it
                runs in no smaller one.

        Raises:
            TypeError, ValueError: there is no such option, or it is out of range.
        """
        return WithOptions(self, replace(self._options, **changes))

    def map(
        self,
        fn: Callable[..., T],
        *iterables: Iterable[Any],
        timeout: float | None = None,
        chunksize: int | Literal["auto"] = "auto",
        buffersize: int | None = None,
        progress: bool = False,
    ) -> Iterator[T]:
        """The results of ``map(fn, *iterables)``, in order, computed in containers.

        Args:
            timeout: seconds from now until which each result must be there.
            chunksize: so many items make one call of the pool, and fail together. By default
                each is a call of its own, and as many of them travel together as is good.
            buffersize: read the iterables so many calls ahead of the results, and not to their
                end at once; so they may be infinite.
            progress: show a bar while results are waited for; see `civis_futures.progress`.

        Raises:
            TimeoutError: from the iterator, when a result is not there in time.
            Exception: from the iterator: whatever a call raised. The rest is cancelled then, and
                when the iterator is dropped half-way.
        """
        return self._map(
            self._options,
            fn,
            iterables,
            timeout=timeout,
            chunksize=chunksize,
            buffersize=buffersize,
            progress=progress,
        )

    def _submit(
        self, options: CallOptions, fn: Callable[..., T], args: Any, kwargs: Any, item: str = ""
    ) -> ContainerFuture[T]:
        self._check_open()
        pickled = partial(self._serialize.call_bytes, fn=fn, args=args, kwargs=kwargs)
        future: ContainerFuture[T] = self._post(options, fn, pickled, item)
        return future

    def _map(
        self,
        options: CallOptions,
        fn: Callable[..., T],
        iterables: Sequence[Iterable[Any]],
        *,
        timeout: float | None = None,
        chunksize: int | Literal["auto"] = "auto",
        buffersize: int | None = None,
        progress: bool = False,
    ) -> Iterator[T]:
        if timeout is not None and number("timeout", timeout) < 0:
            raise ValueError("timeout must not be negative")
        if buffersize is not None:
            whole("buffersize", buffersize)
        size = 1 if chunksize == "auto" else whole("chunksize", chunksize)
        self._check_open()
        watcher: Watcher | None = None
        if progress:
            from ._progress import meter_for_map

            watcher = meter_for_map(iterables, size)
        rows = zip(*iterables, strict=False)
        if size == 1:
            calls = (
                self._submit(options, fn, row, {}, f", item {item}")
                for item, row in enumerate(rows)
            )
            return results(calls, timeout, buffersize, watcher)
        chunks = iter(lambda: list(itertools.islice(rows, size)), [])
        futures = (
            self._submit_chunk(options, fn, chunk, number * size)
            for number, chunk in enumerate(chunks)
        )
        lists: Iterator[list[T]] = results(futures, timeout, buffersize, watcher)
        return flat(lists)

    def _submit_chunk(
        self, options: CallOptions, fn: Callable[..., T], rows: list[tuple[Any, ...]], first: int
    ) -> ContainerFuture[list[T]]:
        self._check_open()
        pickled = partial(self._serialize.chunk_bytes, fn=fn, rows=rows)
        items = f", items {first} to {first + len(rows) - 1}"
        future: ContainerFuture[list[T]] = self._post(options, fn, pickled, items)
        return future

    def _post(
        self,
        options: CallOptions,
        fn: Callable[..., Any],
        pickled: Callable[[str], bytes],
        item: str,
    ) -> Any:
        task = TaskId(next(self._ids))
        name = f"{options.label or _name_of(fn)} (task {task}{item})"
        future: ContainerFuture[Any] = ContainerFuture(
            name,
            View(Timings(time.time())),
            partial(_cancel, self._manager, task),
            self._opened.logs,
            self._opened.load,
            options.label,
            task,
            self._roll.count,
        )
        try:
            data = pickled(name)
        except CallPicklingError as error:
            future.set_running_or_notify_cancel()
            future.set_exception(error)
            self._roll.add(future)
            return future
        inline = len(data) <= self._inline
        blob = _wire.Blob.of(data) if inline else None
        size = len(blob.inline or "") if blob else 0
        event = Submitted(task, not inline, size, options.terms(self._resources))
        with self._lock:
            self._raise_if_shut_down()
            self._manager.submit(event, future, blob, None if inline else data, options.wants_retry)
            self._roll.add(future)
        return future

    def _check_open(self) -> None:
        with self._lock:
            self._raise_if_shut_down()
        self._manager.raise_if_closed()

    def _raise_if_shut_down(self) -> None:
        if self._shutdown:
            raise RuntimeError("cannot schedule new futures after shutdown")

    # --- the end -------------------------------------------------------------------------------

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """Take no more calls, finish those that there are, and end the containers.

        Args:
            wait: return only when all futures are done, and no container runs any more.
            cancel_futures: cancel the calls that no running container has in hand.
        """
        self._no_more()
        if cancel_futures:
            self._cancel_waiting()
        self._manager.post(ShutdownRequested())
        if wait:
            self._manager.join()

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc_value: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Shut down and wait; after a Ctrl-C, cancel what is not done before."""
        if exc_type is not None and issubclass(exc_type, KeyboardInterrupt):
            self._no_more()
            for future in self._roll.futures():
                future.cancel()
        self.shutdown(wait=True)

    def terminate_workers(self) -> None:
        """Stop everything now: waiting calls are cancelled, and the containers are stopped.

        Calls that run fail with `BrokenContainerPool`. Returns at once; `shutdown` waits until
        the containers have ended.
        """
        self._no_more()
        self._cancel_waiting()
        reason = BrokenContainerPool("terminate_workers was called")
        self._manager.post(TerminateRequested(reason))

    def _no_more(self) -> None:
        with self._lock:
            self._shutdown = True

    def _cancel_waiting(self) -> None:
        for future in self._roll.futures():
            if future.state in (TaskState.PENDING, TaskState.QUEUED):
                future.cancel()

    # --- looking -------------------------------------------------------------------------------

    def status(self) -> list[dict[str, Any]]:
        """How the calls are whose futures you hold, as plain data; from memory, at once.

        One dict for each, in the order of submission, that pandas takes as it is: ``task``,
        ``number``, ``state``, ``reason`` (of a failure, in one line), ``attempts``; ``elapsed``,
        ``queue`` and ``compute`` in seconds, ``peak_memory`` in MB, ``submitted`` in seconds since
        the epoch; ``worker``, ``job_id``, ``run_id``, ``job_url``. None is what nobody knows.
        """
        return _display.records(self._roll.glances())

    def __repr__(self) -> str:
        """Name, size, platform (without the key), and how many calls are how."""
        return (
            f"<{type(self).__name__} {self._name!r} max_workers={self._max_workers} "
            f"platform={self._url!r}: {self._roll.totals()}>"
        )

    def _panel(self) -> _display.Panel:
        title = f"{self._name}, up to {self._max_workers} workers on {self._url}"
        return self._roll.panel(title)

    def _repr_html_(self) -> str:
        """For notebooks; from memory."""
        return _display.html(self._panel())

    def _repr_pretty_(self, printer: Any, cycle: bool) -> None:
        """For IPython in a terminal."""
        del cycle
        printer.text(_display.text(self._panel(), shutil.get_terminal_size().columns))

    def __reduce__(self) -> NoReturn:
        """Executors hold threads and a key; neither travels."""
        raise TypeError(f"cannot pickle a {type(self).__name__}")


def _cancel(manager: Manager, task: TaskId) -> None:
    manager.post(CancelRequested(task))


def _abandon(manager: Manager) -> None:
    """The executor is gone without a shutdown."""
    manager.post(ShutdownRequested())


def _policy(
    max_workers: int | None,
    max_tasks_per_worker: int | None,
    idle_timeout: float,
    lease: float,
) -> Policy:
    """The policy that these arguments ask for; TypeError or ValueError if they ask for none."""
    if max_tasks_per_worker is not None:
        whole("max_tasks_per_worker", max_tasks_per_worker)
    if not 0 <= number("idle_timeout", idle_timeout) < float("inf"):
        raise ValueError("idle_timeout must be a finite number of seconds, 0 or more")
    if not 0 < number("lease", lease) < float("inf"):
        raise ValueError("lease must be a finite number of seconds, above 0")
    return Policy(
        whole("max_workers", max_workers, DEFAULT_WORKERS),
        max_tasks_per_worker,
        float(idle_timeout),
        lease=float(lease),
    )


def resources_of(container: Container | Template) -> Resources:
    """What a container of the pool has, unless more is asked for."""
    given = container.required_resources
    return ANY_RESOURCES if given is None else Resources(**{**DEFAULT_RESOURCES, **given})


def _name_of(fn: Callable[..., Any]) -> str:
    while isinstance(fn, partial):
        fn = fn.func
    return getattr(fn, "__qualname__", None) or type(fn).__qualname__
