"""`CivisBackend`: what joblib asks of a backend, told to one `ContainerPoolExecutor`.

Each call, or each `with Parallel(...)`, has an executor to itself, which is lent to it: the next
one with the same options gets it with its containers warm.

joblib's callback is the future's done-callback, however the future ends: joblib waits for ever for
a callback that does not come. It runs on a thread of the executor and dispatches the next batch
from there, which is allowed: `submit_batch` pickles, and never waits.

joblib keeps what it knows of a call in its `Parallel`, which the next call uses again. So an abort
is a fence: no callback of the call before it has any effect after it.

This module must not know Civis Platform, nor anything of `civis_futures` that is not public.
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from time import monotonic
from typing import Any

from joblib import parallel_config, register_parallel_backend
from joblib.externals.loky.cloudpickle_wrapper import CloudpickledObjectWrapper as Wrapper
from joblib.parallel import BACKENDS, FallbackToBackend, ParallelBackendBase, SequentialBackend

from civis_futures import Container, ContainerPoolExecutor, ProgressBar, WarmPool

from . import _pools

#: What ``n_jobs=-1`` means unless `max_workers` says otherwise.
ALL_JOBS = 50
#: Seconds that a cancelled container has to end those that it started itself.
PARTING_SECONDS = 30
#: What joblib and scikit-learn take for the size of a batch, and for what to read ahead, if nobody
#: says anything.
_UNASKED = ("auto", "2 * n_jobs"), ("auto", "2*n_jobs")
#: What joblib passes to every backend for its own ones, which share this machine.
_NOT_FOR_US = {
    "context", "max_nbytes", "mmap_mode", "parallel", "prefer", "require", "temp_folder", "verbose",
}  # fmt: skip


def _all_jobs(platform: Any) -> int:
    """What ``n_jobs=-1`` means on a platform."""
    usual: Any = os.cpu_count() if platform == "local" else ALL_JOBS
    return max(int(getattr(platform, "cores", usual)), 1)


#: The backend with a cap that has an executor, if any; its one key is only set by `setdefault`,
#: which is atomic: Parallels may begin on several threads.
_capped: dict[str, CivisBackend] = {}


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
        max_workers: what ``n_jobs=-1`` means. If None, 50; on a local platform, as many as that has
            cores.
        progress: show a bar while a call runs; in a notebook, the table of its batches, too.
        executor: the user's own, for all calls, in place of one that is lent to each.
        **options: of `ContainerPoolExecutor`; with a `session`, all calls of one backend are its
            calls, one after the other, each with one task.
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
        progress: bool = False,
        executor: ContainerPoolExecutor | None = None,
        **options: Any,
    ) -> None:
        super().__init__(nesting_level, inner_max_num_threads)
        own = {"remote_backend": remote_backend, "cap": cap, "max_workers": max_workers}
        own["progress"] = progress
        _pools.check_call_options(cap, progress)
        ContainerPoolExecutor.check_options({**options, **own}, also=own)
        if executor is not None:
            _pools.check_executor(executor, options, remote_backend, inner_max_num_threads)
            max_workers = max(executor.max_workers, 2)  # with one job, joblib would run it here
        known = sorted({"civis", *BACKENDS})
        if not isinstance(remote_backend, ParallelBackendBase) and remote_backend not in known:
            raise ValueError(f"remote_backend={remote_backend!r} is none of {', '.join(known)}")
        self._remote, self._cap = remote_backend, cap
        self._all = max_workers or _all_jobs(options.get("platform"))
        self._options, self._given = options, {**options, **own}
        self._lent: ContainerPoolExecutor | None = executor
        self._session = _pools.SessionCalls(options) if options.get("session") else None
        self._pool: _pools.LentPool | None = None
        self._calls = _pools.BoundedCalls()
        self._progress = progress
        self._bar: ProgressBar | None = None
        self._owned = False  # by one Parallel, see `configure`
        self._share_arrays: Any = None
        self._number = self._share = 1  # of containers: for tasks, and for each task's own
        self._call = object()  # another one after each abort; guarded by joblib's lock

    def __reduce__(self) -> tuple[Any, ...]:
        """Its description alone; a container finds platform and key in its environment."""
        given = {name: value for name, value in self._given.items() if name != "platform"}
        return partial(CivisBackend, self.nesting_level, self.inner_max_num_threads, **given), ()

    # --- how many ------------------------------------------------------------------------------

    def effective_n_jobs(self, n_jobs: Any) -> int:
        """How many tasks can run at once."""
        return self._split(n_jobs)[0]

    def _split(self, n_jobs: Any) -> tuple[int, int]:
        """How many containers are for tasks, and how many more for those that each task starts."""
        number = 1 if n_jobs is None else int(n_jobs)
        if number == 0:
            raise ValueError("n_jobs == 0 in Parallel has no meaning")
        if number < 0:
            number = max(self._all + 1 + number, 1)
        number = min(number, self._cap or number, number if self._lent is None else self._all)
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
        options.pop("session", None)  # that has the calls of this process
        return CivisBackend(level, self.inner_max_num_threads, **options), self._share

    # --- from the first call to the last -------------------------------------------------------

    def configure(self, n_jobs: int = 1, **given: Any) -> int:
        """Be ready for `n_jobs` calls at a time; options may come from `Parallel(...)`, too.

        Each Parallel gets a copy: one may feed another, from a callback that waits for results. On
        one executor that would wait for itself.
        """
        self._number, self._share = self._split(n_jobs)
        if self._number == 1:
            raise FallbackToBackend(SequentialBackend(nesting_level=self.nesting_level))
        if not self._owned:
            options = {name: value for name, value in given.items() if name not in _NOT_FOR_US}
            raise FallbackToBackend(self._copy(**options))
        self._parallel = given["parallel"]
        # Read-only in tasks are the arrays that loky would map so.
        own, least = self._options.get("share_arrays", 0), given.get("max_nbytes")
        mapped = None not in (own, least) and given.get("mmap_mode") == "r"
        self._share_arrays = max(own, least) if mapped else None
        self._open()
        return self._number

    @property
    def _executor(self) -> ContainerPoolExecutor | None:
        return None if self._pool is None else self._pool.executor

    def _copy(self, **changes: Any) -> CivisBackend:
        """One for a Parallel, which has an executor to itself, unless that is the user's."""
        given = {**self._given, **changes, "executor": self._lent}
        backend = CivisBackend(self.nesting_level, self.inner_max_num_threads, **given)
        if self._session is not None and backend._options == self._options:
            backend._session = self._session
        backend._owned = True
        return backend

    def start_call(self) -> None:
        """A call begins."""
        if self._executor is None or self._executor.broken:
            self._open()
        if self._progress:
            self._bar = ProgressBar(self._parallel.n_tasks or 0, table=True)

    def stop_call(self) -> None:
        """It has ended."""
        bar, self._bar = self._bar, None
        if bar is not None:
            bar.close()

    def terminate(self) -> None:
        """The next call may have the containers. None of them runs anything of this one."""
        pool, self._pool = self._pool, None
        if pool is not None:
            self._calls.cancel()  # after an abort there may be a batch that came in meanwhile
            pool.give_back()
        if _capped.get("it") is self:
            del _capped["it"]

    def abort_everything(self, ensure_ready: bool = True) -> None:  # noqa: ARG002
        """Cancel all batches, and wait until none runs any more; the executor lives on."""
        with self._parallel._lock:
            self._call = object()
            # joblib 1.6 would run in the next call what it had not yet sent in this one.
            self._parallel._ready_batches.queue.clear()
            self._calls.waiting.clear()
        self._calls.cancel()

    def _open(self) -> None:
        self.terminate()
        if self._lent is not None:
            self._pool = _pools.UsersPool(self._lent)
            self._lent.reset_batch_size()  # it may have had tasks of another kind
            self._calls = _pools.BoundedCalls(self._lent, self._number)
            return
        options = {**self._options, "container": self._container()}
        options["share_arrays"] = self._share_arrays
        options["requires"] = {"joblib": "1.5", **(options.get("requires") or {})}
        begin = WarmPool if self._session is None else self._session.begin
        self._pool = begin(self._number, **options)
        self._calls = _pools.BoundedCalls(self._pool.executor)
        # A cap is for all Parallels of this process: while one has containers, others have none.
        if self._cap and _capped.setdefault("it", self) is not self:
            self.terminate()
            raise FallbackToBackend(SequentialBackend(nesting_level=self.nesting_level))

    def _container(self) -> Any:
        """The container with what these tasks need besides what the user asked for."""
        container, threads = self._options.get("container") or Container(), {}
        if self.inner_max_num_threads is not None:
            threads = dict.fromkeys(self.MAX_NUM_THREADS_VARS, str(self.inner_max_num_threads))
        if isinstance(container, Container):
            grace = container.cancel_timeout or (PARTING_SECONDS if self._remote == "civis" else 0)
            environment = {**container.environment, **threads}
            return replace(container, environment=environment, cancel_timeout=grace)
        if threads:
            raise ValueError("inner_max_num_threads needs a Container: templates fix params")
        return container

    # --- batches -------------------------------------------------------------------------------

    def submit(self, func: Any, callback: Callable[[Any], object]) -> Future[Any]:
        """Run a batch."""
        if self._executor is None:
            raise RuntimeError("this Parallel was terminated")
        first = self._parallel.n_dispatched_tasks - len(func)  # these are counted already
        end = WarmPool.end_all if self._share > 1 else None
        run_item = _item_runner(func.items[0][0], *self.get_nested_backend(), end)
        # joblib's wrapper pickles by itself, and what it sends has lost the names of its files.
        items = [(f._obj if isinstance(f, Wrapper) else f, *rest) for f, *rest in func.items]
        send = partial(self._send, run_item, items, first)
        return self._calls.submit(send, partial(self._ended, self._call, callback, len(items)))

    def _send(self, run_item: Any, items: list[Any], first: int) -> Future[Any]:
        assert self._executor is not None, "who submits has one"
        future = self._executor.submit_batch(run_item, items, first=first)
        if self._bar is not None:
            self._bar.watch(future, len(items))
        return future

    def _ended(self, call: object, callback: Any, tasks: int, batch: Any) -> None:
        """A batch of that call has ended: tell joblib, and let it read and send the next one.

        All under joblib's lock, which it lets go in between: meanwhile the call might be aborted,
        and the next one begin, which this batch would count for. And what is raised in here,
        by the tasks' iterator most likely, fails the call: nobody else would see it.
        """
        with self._parallel._lock:
            if self._call is call:
                try:
                    self._calls.ended(batch)
                    callback(batch)
                    self._send_more(min(tasks / (batch.timings.compute or 1e-9), 1000))
                except BaseException as error:
                    failed: Future[Any] = Future()
                    failed.set_exception(error)
                    tracker = type(callback)(0, 0, self._parallel)
                    self._parallel._register_new_job(tracker)
                    tracker(failed)

    def _send_more(self, speed: float) -> None:
        """A job does so many tasks in a second. joblib lets one batch follow each that has ended;
        of short tasks, that is a wait for the platform for hardly any work: send more, a second's
        work for each job, unless the user says how many go together or are read ahead.
        """
        parallel = self._parallel
        if (parallel.batch_size, parallel.pre_dispatch) in _UNASKED:
            # No result can come meanwhile, and tasks may be slow to read.
            most, end = parallel.n_completed_tasks + self._number * speed, monotonic() + 0.1
            while parallel._iterating and parallel.n_dispatched_tasks < most and monotonic() < end:
                parallel.dispatch_next()

    @contextmanager
    def retrieval_context(self) -> Iterator[None]:
        """While results come. joblib 1.6 looks for an error while it waits for a batch, but not
        where there was none to wait for: where the first tasks could not even be read.
        """
        yield
        self._parallel._raise_error_fast()

    def retrieve_result_callback(self, future: Future[Any]) -> Any:
        """The results of a batch, or the exception of the item that failed."""
        try:
            return future.result()
        finally:
            del future  # the exception has this frame, and the future the exception

    def compute_batch_size(self) -> int:
        """How many items the next batch shall have. joblib's own measure is of no use here: it
        counts the wait for a container as work.
        """
        if self._executor is None or self._session is not None:
            return 1  # those of a session are the same in each process
        return self._executor.batch_size


def _item_runner(first: Any, nested: Any, n_jobs: int | None, end: Any) -> Callable[..., Any]:
    """What runs the items of a batch, called as the first one's function is, for messages.

    Nothing of ours is installed in the container: a function within one is pickled by value.
    """

    def run_item(function: Any, args: Any, kwargs: Any) -> Any:
        register_parallel_backend("civis", lambda **_: nested)  # for tasks that ask for it by name
        try:
            with parallel_config(backend=nested, n_jobs=n_jobs):
                return function(*args, **kwargs)
        finally:
            if end is not None:  # a task's own containers are not for the next one
                end()

    first = getattr(first, "func", first)  # of a partial
    run_item.__qualname__ = getattr(first, "__qualname__", type(first).__qualname__)
    return run_item
