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
from collections.abc import Callable, Iterable, Iterator, Sized
from concurrent.futures import Executor
from functools import partial
from types import TracebackType
from typing import TYPE_CHECKING, Any, Literal, NoReturn, Protocol, TypeVar

from . import _display, _wire
from ._events import CancelRequested, ShutdownRequested, TerminateRequested
from ._exceptions import BrokenContainerPool, CallPicklingError
from ._future import ContainerFuture, Timings, View
from ._map import Watcher, flat, results
from ._roll import Roll
from ._state import Policy
from ._types import Container, TaskId, TaskState, Template

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
        max_retries: how often a call is started again after its container was lost. Exceptions
            of the function itself are never retried.
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
        name: str | None = None,
    ) -> None:
        policy = _policy(max_workers, max_tasks_per_worker, idle_timeout, max_retries)
        self._max_workers = policy.max_workers
        if initializer is not None and not callable(initializer):
            raise TypeError("initializer must be a callable")
        if not isinstance(initargs, Iterable):
            raise TypeError("initargs must be an iterable")
        if name is not None and not isinstance(name, str):
            raise TypeError("name must be a str")
        if container is not None and not isinstance(container, Container | Template):
            raise TypeError("container must be a Container or a Template")
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
            container=container or Container(),
            initializer=initial,
            policy=policy,
        )
        self._manager, self._url, self._logs = opened.manager, opened.url, opened.logs
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
        self._check_open()
        pickled = partial(self._serialize.call_bytes, fn=fn, args=args, kwargs=kwargs)
        future: ContainerFuture[T] = self._post(fn, pickled)
        return future

    def map(
        self,
        fn: Callable[..., T],
        *iterables: Iterable[Any],
        timeout: float | None = None,
        chunksize: int = 1,
        buffersize: int | None = None,
        progress: bool = False,
    ) -> Iterator[T]:
        """The results of ``map(fn, *iterables)``, in order, computed in containers.

        Args:
            timeout: seconds from now until which each result must be there.
            chunksize: so many items make one call of the pool.
            buffersize: read the iterables so many calls ahead of the results, and not to their
                end at once; so they may be infinite.
            progress: show a bar while results are waited for; see `civis_futures.progress`.

        Raises:
            TimeoutError: from the iterator, when a result is not there in time.
            Exception: from the iterator: whatever a call raised. The rest is cancelled then, and
                when the iterator is dropped half-way.
        """
        if timeout is not None and _number("timeout", timeout) < 0:
            raise ValueError("timeout must not be negative")
        _whole("chunksize", chunksize)
        if buffersize is not None:
            _whole("buffersize", buffersize)
        self._check_open()
        watcher = _meter(iterables, chunksize) if progress else None
        rows = zip(*iterables, strict=False)
        if chunksize == 1:
            return results((self.submit(fn, *row) for row in rows), timeout, buffersize, watcher)
        chunks = iter(lambda: list(itertools.islice(rows, chunksize)), [])
        futures = (self._submit_chunk(fn, chunk) for chunk in chunks)
        lists: Iterator[list[T]] = results(futures, timeout, buffersize, watcher)
        return flat(lists)

    def _submit_chunk(
        self, fn: Callable[..., T], rows: list[tuple[Any, ...]]
    ) -> ContainerFuture[list[T]]:
        self._check_open()
        pickled = partial(self._serialize.chunk_bytes, fn=fn, rows=rows)
        future: ContainerFuture[list[T]] = self._post(fn, pickled)
        return future

    def _post(self, fn: Callable[..., Any], pickled: Callable[[str], bytes]) -> Any:
        task = TaskId(next(self._ids))
        name = f"{_name_of(fn)} (task {task})"
        manager = self._manager
        future: ContainerFuture[Any] = ContainerFuture(
            name,
            View(Timings(time.time())),
            partial(_cancel, manager, task),
            self._logs,
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
        with self._lock:
            self._raise_if_shut_down()
            manager.submit(task, future, blob, None if inline else data)
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


def _meter(iterables: tuple[Iterable[Any], ...], chunksize: int) -> Watcher:
    from ._progress import Meter

    # Where all say how long they are, the bar knows its end before they are read.
    sizes = [len(each) for each in iterables if isinstance(each, Sized)]
    expected = min(sizes) if sizes and len(sizes) == len(iterables) else 0
    return Meter(-(-expected // chunksize))


def _policy(
    max_workers: int | None,
    max_tasks_per_worker: int | None,
    idle_timeout: float,
    max_retries: int,
) -> Policy:
    """The policy that these arguments ask for; TypeError or ValueError if they ask for none."""
    if max_tasks_per_worker is not None:
        _whole("max_tasks_per_worker", max_tasks_per_worker)
    if not 0 <= _number("idle_timeout", idle_timeout) < float("inf"):
        raise ValueError("idle_timeout must be a finite number of seconds, 0 or more")
    return Policy(
        _whole("max_workers", max_workers, DEFAULT_WORKERS),
        max_tasks_per_worker,
        float(idle_timeout),
        _whole("max_retries", max_retries, least=0),
    )


def _whole(name: str, value: int | None, default: int | None = None, *, least: int = 1) -> int:
    """`value` if it is a whole number of at least `least`; TypeError or ValueError otherwise."""
    if value is None and default is not None:
        return default
    if isinstance(value, bool) or not isinstance(value, int):
        raise TypeError(f"{name} must be an integer, not {value!r}")
    if value < least:
        raise ValueError(f"{name} must be {least} or more, not {value}")
    return value


def _number(name: str, value: float) -> float:
    """`value` if it is a number; TypeError otherwise."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise TypeError(f"{name} must be a number of seconds, not {value!r}")
    return value


def _name_of(fn: Callable[..., Any]) -> str:
    while isinstance(fn, partial):
        fn = fn.func
    return getattr(fn, "__qualname__", None) or type(fn).__qualname__
