"""`CivisBackend`: what joblib asks of a backend, told to one `ContainerPoolExecutor`.

joblib's callback is the future's done-callback, however the future ends: joblib waits for ever for
a callback that does not come. It runs on a thread of the executor and dispatches the next batch
from there, which is allowed: `submit` pickles, and never waits.

This room must not know Civis Platform, nor anything of `civis_futures` that is not public.
"""

from __future__ import annotations

import dataclasses
import difflib
import inspect
import math
import signal
import sys
from collections.abc import Callable, Iterable
from concurrent.futures import BrokenExecutor, CancelledError, Future
from functools import partial
from typing import Any, NoReturn

from joblib.parallel import BACKENDS, FallbackToBackend, ParallelBackendBase, SequentialBackend

from civis_futures import Container, ContainerPoolExecutor

from ._batch import CheckJoblib, runner

#: What ``n_jobs=-1`` means unless `max_workers` says otherwise.
ALL_JOBS = 50
#: Seconds of compute that a batch should take: some ten times what a call costs besides.
BATCH_SECONDS = 2.0
#: What a cancelled container has to end those that it started itself.
PARTING_SECONDS = 30
EXECUTOR_OPTIONS = frozenset(inspect.signature(ContainerPoolExecutor).parameters)
_DEFAULT = signal.SIG_DFL
#: What joblib passes to every backend for its own ones, which share this machine.
_NOT_FOR_US = frozenset(
    (
        "context",
        "max_nbytes",
        "mmap_mode",
        "parallel",
        "prefer",
        "require",
        "temp_folder",
        "verbose",
    )
)


def check_names(given: Iterable[str], known: Iterable[str]) -> None:
    """Raise TypeError for the first name that is not known; it tells the nearest one that is."""
    known = sorted(known)
    for name in given:
        if name not in known:
            nearest = difflib.get_close_matches(name, known, 1, 0.0)[0]
            raise TypeError(f"there is no option {name!r}: did you mean {nearest!r}?")


def _leave(*_: object) -> NoReturn:
    signal.signal(signal.SIGTERM, signal.SIG_IGN)  # it may come twice: from platform and worker
    sys.exit(143)


class CivisBackend(ParallelBackendBase):  # type: ignore[misc]
    """Runs joblib's batches in the containers of one `ContainerPoolExecutor`.

    Args:
        nesting_level: joblib's.
        inner_max_num_threads: of each numerical library in a container.
        remote_backend: what a `Parallel` within a task runs on: "sequential"; another backend of
            joblib, by its name or itself, with the cores of the container; or "civis": containers
            again, with `n_jobs` as the cap for all of them together. Then ``s = isqrt(n_jobs)``
            are for tasks, and each task may have ``(n_jobs - s) // s`` more for its own tasks,
            which nest no further. With less than 6 there is nothing to share out: sequential.
        cap: there are never more containers than that, whatever `n_jobs` is.
        max_workers: what ``n_jobs=-1`` means; 50 if None.
        **options: of `ContainerPoolExecutor`.
    """

    supports_retrieve_callback = True
    supports_inner_max_num_threads = True
    supports_sharedmem = uses_threads = False

    def __init__(
        self,
        nesting_level: int | None = None,
        inner_max_num_threads: int | None = None,
        *,
        remote_backend: Any = "sequential",
        cap: int | None = None,
        max_workers: int | None = None,
        **options: Any,
    ) -> None:
        super().__init__(nesting_level=nesting_level, inner_max_num_threads=inner_max_num_threads)
        check_names(options, EXECUTOR_OPTIONS | {"remote_backend"})
        known = sorted({"civis", *BACKENDS})
        if not isinstance(remote_backend, ParallelBackendBase) and remote_backend not in known:
            raise ValueError(f"remote_backend={remote_backend!r} is none of {', '.join(known)}")
        self._remote, self._cap, self._options = remote_backend, cap, options
        self._all = ALL_JOBS if max_workers is None else max_workers
        self._owned = False  # by one Parallel, see `configure`
        self._last: CivisBackend | None = None  # the last one that was made for a Parallel
        # The executor of `_opened`, and what it should be: its size, and options of `Parallel`.
        self._executor: ContainerPoolExecutor | None = None
        self._opened: tuple[int, dict[str, Any]] | None = None
        self._wanted: tuple[int, dict[str, Any]] = (1, {})
        self._share = 1  # containers for each nested call
        self._items = 0  # of this call, that have come
        self._aborted = self._on_term = False
        self._outstanding: set[Future[Any]] = set()
        self._batch_size, self._seconds = 1, 0.0  # the latter of one item, smoothed

    def __reduce__(self) -> tuple[Any, ...]:
        """Its description alone; a container finds platform and key in its environment."""
        options = {name: value for name, value in self._options.items() if name != "platform"}
        return self._described(options), ()

    def _described(self, options: dict[str, Any]) -> Callable[[], CivisBackend]:
        own = {"remote_backend": self._remote, "cap": self._cap, "max_workers": self._all}
        return partial(
            CivisBackend, self.nesting_level, self.inner_max_num_threads, **own, **options
        )

    # --- how many ------------------------------------------------------------------------------

    def effective_n_jobs(self, n_jobs: Any) -> int:
        """How many tasks can run at once."""
        return self._split(n_jobs)[0]

    def _split(self, n_jobs: Any) -> tuple[int, int]:
        """So many containers are for tasks, and so many more for each task's own."""
        number = 1 if n_jobs is None else int(n_jobs)
        if number == 0:
            raise ValueError("n_jobs == 0 in Parallel has no meaning")
        if number < 0:
            number = max(self._all + 1 + number, 1)
        number = min(number, self._cap or number)
        outer = math.isqrt(number)
        inner = (number - outer) // outer
        return (outer, inner) if self._remote == "civis" and min(outer, inner) > 1 else (number, 1)

    def get_nested_backend(self) -> tuple[Any, int | None]:
        """The backend and `n_jobs` of a Parallel within a task; they travel with each batch."""
        level = (self.nesting_level or 0) + 1
        if isinstance(self._remote, ParallelBackendBase):
            self._remote.nesting_level = level
            return self._remote, -1
        if self._remote != "civis":
            return BACKENDS[self._remote](nesting_level=level), -1
        if self._share == 1:
            return SequentialBackend(nesting_level=level), None
        options = {**self._options, "cap": self._share, "max_workers": self._share}
        return CivisBackend(level, self.inner_max_num_threads, **options), self._share

    # --- from the first call to the last -------------------------------------------------------

    def configure(self, n_jobs: int = 1, **given: Any) -> int:
        """Be ready for so many; executor options may come from `Parallel(...)`, too.

        Each Parallel gets a copy: one may feed another, from a callback that waits for results. On
        one executor that would wait for itself.
        """
        options = {name: value for name, value in given.items() if name not in _NOT_FOR_US}
        check_names(options, EXECUTOR_OPTIONS - {"max_workers"})
        number, share = self._split(n_jobs)
        # Within a task the cap is for all Parallels together: a second one has no containers.
        taken = self._cap and self._last is not None and self._last._executor is not None
        if number == 1 or taken:
            raise FallbackToBackend(SequentialBackend(nesting_level=self.nesting_level))
        if not self._owned:
            self._last = self._described(self._options)()
            self._last._owned = True
            raise FallbackToBackend(self._last)
        self._wanted, self._share = (number, options), share
        self._open()
        return number

    def start_call(self) -> None:
        """A call begins."""
        self._open()  # again, if the pool has broken
        self._items = 0
        if self._cap and self.in_main_thread() and signal.getsignal(signal.SIGTERM) is _DEFAULT:
            # Our container is being cancelled: that must abort this call, and so end its own.
            signal.signal(signal.SIGTERM, _leave)
            self._on_term = True

    def terminate(self) -> None:
        """End the containers, and wait for that."""
        if self._on_term:  # this is what a TERM would ask for
            signal.signal(signal.SIGTERM, signal.SIG_IGN)
        self._close()
        if self._on_term:
            signal.signal(signal.SIGTERM, _DEFAULT)
        self._batch_size, self._seconds, self._on_term = 1, 0.0, False

    def abort_everything(self, ensure_ready: bool = True) -> None:  # noqa: ARG002
        """Cancel all batches, and stop the containers that have them; the executor lives on."""
        self._aborted = True
        for future in list(self._outstanding):
            future.cancel()

    def _open(self) -> None:
        if self._opened != self._wanted:
            self._close()
        if self._executor is None:
            number, options = self._wanted
            options = {**self._options, **options}
            options["container"] = self._prepared(options.get("container") or Container())
            self._executor = ContainerPoolExecutor(number, **options)
            self._aborted, self._opened = False, self._wanted

    def _prepared(self, container: Any) -> Any:
        """The container with what these tasks need besides what the user asked for."""
        given: dict[str, Any] = {}
        if self.inner_max_num_threads is not None:
            if not isinstance(container, Container):
                raise ValueError("inner_max_num_threads needs a Container: templates fix params")
            names = self.MAX_NUM_THREADS_VARS
            params = [{"name": name, "type": "integer"} for name in names]
            given["params"] = [*container.params, *params]
            limits = dict.fromkeys(names, self.inner_max_num_threads)
            given["arguments"] = {**container.arguments, **limits}
        if self._remote == "civis" and getattr(container, "cancel_timeout", None) == 0:
            given["cancel_timeout"] = PARTING_SECONDS
        return dataclasses.replace(container, **given) if given else container

    def _close(self) -> None:
        executor, self._executor = self._executor, None
        if executor is not None:
            if self._aborted:  # a batch may have come in while the others were cancelled
                executor.terminate_workers()
            executor.shutdown()

    # --- batches -------------------------------------------------------------------------------

    def submit(self, func: Any, callback: Callable[[Any], object] | None = None) -> Future[Any]:
        """Run a batch. What is wrong is in the future: in a callback, joblib would not see it."""
        before, size = self._items, len(func)
        self._items += size
        future: Future[Any]
        try:
            if self._executor is None:
                raise RuntimeError("this Parallel was terminated")
            future = self._executor.submit(runner(func), CheckJoblib(), func, before)
        except RuntimeError as error:
            future = Future()
            future.set_exception(error)
        self._outstanding.add(future)
        future.add_done_callback(partial(self._ended, size))  # before joblib asks for the next
        if callback is not None:
            future.add_done_callback(callback)
        return future

    def _ended(self, size: int, future: Any) -> None:
        self._outstanding.discard(future)
        error = None if future.cancelled() else future.exception()
        if isinstance(error, BrokenExecutor):
            self._opened = None  # the next call opens another one
        elif error is None and not future.cancelled():
            self._took(size, future.timings.compute or 0.0)

    def retrieve_result_callback(self, future: Future[Any]) -> Any:
        """The results of a batch, or the exception of the item that failed."""
        try:
            return future.result()
        except CancelledError:
            raise CancelledError(f"{future!r} was cancelled") from None

    # --- the size of batches -------------------------------------------------------------------

    def compute_batch_size(self) -> int:
        """How many items the next batch shall have."""
        return self._batch_size

    def batch_completed(self, batch_size: int, duration: float) -> None:
        """Of no use: `duration` counts the wait for a container as work. See `_took`."""

    def _took(self, size: int, compute: float) -> None:
        """A batch took so many seconds of compute in its container."""
        seconds = max(compute / size, 1e-4)
        self._seconds = 0.7 * self._seconds + 0.3 * seconds if self._seconds else seconds
        ideal = int(BATCH_SECONDS / self._seconds)
        # Twice what was measured, at the most: the first items may not be like the others.
        self._batch_size = max(1, min(ideal, max(self._batch_size, 2 * size)))
