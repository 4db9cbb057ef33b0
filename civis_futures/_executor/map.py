"""The lazy half of `map`: from submissions to results. Knows futures, and no pool.

A `Watcher` sees each future when it is submitted, and does the waiting: a bar, for example. How
many items a batch should have is arithmetic, guided by the compute that is measured in the
container, since the wait for one is no work.
"""

from __future__ import annotations

import contextlib
import itertools
import queue
import time
from collections.abc import Callable, Generator, Iterator
from concurrent.futures import CancelledError, Future
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Literal, Protocol, TypedDict, TypeVar

from .._display import live, markup, panels
from .._futures.future import ContainerFuture, check_process
from .._futures.tables import EndedTasks, panel_of

T = TypeVar("T", covariant=True)


class MapOptions(TypedDict, total=False):
    """For type checkers: the arguments of `map` that do not change what it gives."""

    timeout: float | None
    chunksize: int | Literal["auto"]
    buffersize: int | None
    progress: bool
    ordered: bool
    seed: int | None


class Watcher(Protocol):
    """What sees each future of a `map`, and waits: a progress bar."""

    def watch(self, future: Future[Any]) -> None:
        """It was submitted."""

    def wait(self, future: Any, timeout: float | None) -> None:
        """Return when it is done, or after `timeout` seconds."""

    def finish(self) -> None:
        """All results were given out, or one has failed; nothing is cancelled yet."""

    def close(self) -> None:
        """No result is asked for any more."""


@dataclass(frozen=True, slots=True)
class MapPlace:
    """The place of a call in a map; `count` is told of its end. With `catch` (of a batch), what an
    item raises is its outcome. With a `seed`, each item has a generator of its own.
    """

    count: Callable[[panels.TaskSummary], None]
    item: int | None = None  # None: of a batch
    seed: int | None = None
    catch: bool = False

    def at(self, item: int) -> MapPlace:
        """That of another item."""
        return replace(self, item=item)

    @property
    def said(self) -> str:
        """The end of the name of a call."""
        return "" if self.item is None else f", item {self.item}"

    @property
    def seeded(self) -> dict[str, Any]:
        """The generator of the item."""
        if self.seed is None:
            return {}
        from .._data.generators import SeededGenerator

        return {"rng": SeededGenerator(self.seed, self.item or 0)}

    def identified(self, args: Any, kwargs: Any) -> tuple[Any, ...]:
        """What tells a call from others, in a session."""
        seeded = () if self.seed is None else ((self.seed, self.item),)
        return (args, kwargs, *seeded)


class Pending:
    """The calls of a map whose results were not given out, each with how many items it has.

    Taking one from `calls` is what submits it. `batches` says that the result of a call is a list;
    `catch` that exceptions are given out in place of results, and not raised.
    """

    def __init__(
        self,
        calls: Iterator[tuple[ContainerFuture[Any], int]],
        *,
        ordered: bool = True,
        batches: bool = False,
        catch: bool = False,
        watcher: Watcher | None = None,
    ) -> None:
        self.items = 0  # of all calls, those that were given out as well
        self.over = False  # no more calls will come
        self._calls, self._watcher = calls, watcher
        self._ordered, self._batches, self._catch = ordered, batches, catch
        # By number. It is used in single operations, as other threads may look, or cancel.
        self._open: dict[int, tuple[ContainerFuture[Any], int]] = {}
        self._numbers = itertools.count()
        self._next = 0  # in order, the number of the next one
        self._ends: queue.SimpleQueue[int] = queue.SimpleQueue()  # if not in order
        self._stopped = False

    def take(self, most: int | None = None) -> None:
        """Submit up to `most` more calls; all that there are if None."""
        if self._stopped or self.over:
            return
        taken = 0
        for future, size in itertools.islice(self._calls, most):
            taken += 1
            number = next(self._numbers)
            self._open[number] = future, size
            self.items += size
            if not self._ordered:
                future.add_done_callback(partial(_tell, self._ends, number))
            if self._watcher is not None:
                self._watcher.watch(future)
            if self._stopped:  # by another thread, just now
                future.cancel()
                break
        self.over = most is None or taken < most

    def futures(self) -> list[ContainerFuture[Any]]:
        """Those that are not given out yet."""
        return [future for future, _ in tuple(self._open.values())]

    @property
    def undone(self) -> int:
        """How many items have no outcome yet."""
        return sum(size for future, size in tuple(self._open.values()) if not future.done())

    def __bool__(self) -> bool:
        """Whether there are any."""
        return bool(self._open)

    def done(self) -> bool:
        """Whether the next one is there."""
        if self._ordered:
            return self._open[self._next][0].done()
        return not self._ends.empty()

    def next(self, end: float | None) -> list[Any]:
        """The items of the next call, the last one first; waits for it until `end` (monotonic).

        Raises:
            TimeoutError: it is not there in time.
            Exception: what the call raised, unless exceptions are given out.
        """
        if self._watcher is not None:
            self._watcher.wait(self, _left(end))
        if self._ordered:
            number = self._next
            _await(self._open[number][0], _left(end))
            self._next += 1
        else:
            number = self._await_any(_left(end))
        return self._given(*self._open.pop(number))

    def _await_any(self, timeout: float | None) -> int:
        check_process(self.futures()[:1])
        try:
            return self._ends.get(timeout=timeout)
        except queue.Empty:
            raise TimeoutError from None

    def _given(self, future: ContainerFuture[Any], size: int) -> list[Any]:
        error = _error_of(future) if self._catch else None
        if error is not None:
            return [error] * size
        try:
            result = future.result(timeout=0)
        finally:
            del future  # this frame becomes a part of the exception, which the future has
        if not self._batches:
            return [result]
        if self._catch:
            result = [each.result if each.exception is None else each.exception for each in result]
        return list(reversed(result))

    def cancel(self) -> None:
        """Cancel those that are not done, and submit no more."""
        self._stopped = self.over = True
        for future in self.futures():
            future.cancel()

    def finish(self) -> None:
        """All results were given out, or one has failed."""
        if self._watcher is not None:
            self._watcher.finish()

    def close(self) -> None:
        """No result is asked for any more."""
        self.cancel()
        if self._watcher is not None:
            self._watcher.close()


class MapResult(Iterator[T]):
    """The results of a `map`: an iterator that also tells how far the work is.

    Its length is the number of items that were submitted so far. Its properties make no request.
    If you drop it after you have taken its first result, the calls that are not done are
    cancelled.

    It is made by `ContainerPoolExecutor.map` only.
    """

    def __init__(
        self,
        name: str,
        pending: Pending,
        ended: EndedTasks,
        timeout: float | None,
        ahead: int | None,
    ) -> None:
        self._name, self._pending, self._ended = name, pending, ended
        self._began = time.time()
        end = None if timeout is None else timeout + time.monotonic()
        try:
            pending.take(ahead)
        except BaseException:  # of the user's iterable: no one will ever hold these futures
            pending.close()
            raise
        self._results: Generator[T, None, None] = _results(pending, end)

    def __iter__(self) -> MapResult[T]:
        """Itself."""
        return self

    def __next__(self) -> T:
        """The next result; waits for it."""
        return next(self._results)

    def __len__(self) -> int:
        """How many items were submitted so far."""
        return self._pending.items

    @property
    def progress(self) -> int:
        """How many of the items have ended, successfully or not."""
        return self._pending.items - self._pending.undone

    @property
    def elapsed(self) -> float:
        """Seconds from the call of `map` until now, or until the last item ended."""
        _, span = self._ended.sums()
        if self._pending.over and not self._pending.undone:
            return max(0.0, (self._began if span is None else span[1]) - self._began)
        return max(0.0, time.time() - self._began)

    @property
    def serial_time(self) -> float:
        """The sum of the seconds that all items have computed so far, measured in containers."""
        return self._ended.sums()[0].compute

    @property
    def speedup(self) -> float:
        """`serial_time` divided by `elapsed`."""
        elapsed = self.elapsed
        return self.serial_time / elapsed if elapsed else 0.0

    def cancel(self) -> None:
        """Cancel all calls that are not done, including those that run; read no more input.

        You can still take the results that exist; after them, the iterator raises
        `CancelledError`.
        """
        self._pending.cancel()

    def close(self) -> None:
        """End the iterator, as dropping it would."""
        self._results.close()

    def __repr__(self) -> str:
        """How far it is, from memory."""
        return (
            f"<{type(self).__name__} of {self._name}: {self.progress:,} of {len(self):,} done, "
            f"elapsed {panels.duration(self.elapsed)}, "
            f"serial time {panels.duration(self.serial_time)}>"
        )

    def _panel(self, most: int) -> panels.Panel:
        futures = self._pending.futures()
        waiting = next((f.reason for f in futures if not (f.running() or f.done())), "")
        title = f"{len(self):,} items of {self._name}, speed-up {self.speedup:.1f}"
        return panel_of(title, self._ended, futures, waiting, most)

    def _is_over(self) -> bool:
        return self._pending.over and not self._pending.undone

    def _repr_html_(self) -> str:
        """For notebooks; from memory."""
        return markup.html(self._panel(panels.MOST_PAGED), panels.MOST_PAGED)

    def _ipython_display_(self) -> None:
        """For notebooks, where it changes."""
        live.show_live(self, keep=False)  # to drop it cancels its calls


def _results(pending: Pending, end: float | None) -> Generator[Any, None, None]:
    try:
        while pending:
            pending.take(1)
            items = pending.next(end)
            while items:
                yield items.pop()  # no name for it: the generator must not keep it alive
    except Exception:  # and not if it was dropped, or interrupted
        pending.finish()
        raise
    else:
        pending.finish()
    finally:
        pending.close()


def _await(future: ContainerFuture[Any], timeout: float | None) -> None:
    """Return when it is done; TimeoutError if that is too late."""
    with contextlib.suppress(CancelledError):
        future.exception(timeout)


def _error_of(future: ContainerFuture[Any]) -> BaseException | None:
    """What a future that is done would raise."""
    try:
        return future.exception(timeout=0)
    except CancelledError:
        return CancelledError(f"{future!r} was cancelled")


def _tell(ends: queue.SimpleQueue[int], number: int, _: Future[Any]) -> None:
    ends.put(number)


def _left(end: float | None) -> float | None:
    return None if end is None else max(0.0, end - time.monotonic())


class BatchSize:
    """The size for the next batch is `items`, 1 at first; it learns by `took`."""

    def __init__(self, seconds: float) -> None:
        self.ideal_seconds = seconds  # of compute, that a batch should take
        self.items = 1
        self._seconds = 0.0  # of one item, smoothed

    def took(self, items: int, compute: float) -> None:
        """A batch of `items` took `compute` seconds in the container."""
        seconds = max(compute / items, 1e-4)
        self._seconds = 0.7 * self._seconds + 0.3 * seconds if self._seconds else seconds
        ideal = int(self.ideal_seconds / self._seconds)
        # Twice what was measured, at the most: the first items may not be like the others.
        self.items = max(1, min(ideal, max(self.items, 2 * items)))
