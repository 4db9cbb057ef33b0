"""What the benchmarks measure with: what a platform was asked for, seconds, threads; and rows.

A benchmark describes its work in its docstring, measures, and adds figures to its `Row`::

    def test_no_ops(row):
        "1,000 no-op tasks, 10 workers"
        with running(rate_limit="civis") as platform, pool(platform, 10) as executor:
            with spending(platform) as spent:
                ...
        row.add("run starts", spent.starts, most=10)

Used by tests of counts too, so nothing in here knows of pytest, or of a particular row.
"""

from __future__ import annotations

import statistics
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, wait
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import cloudpickle

from civis_futures import ContainerPoolExecutor
from civis_futures.local import LocalPlatform

# No container has this module: what is defined here travels by value.
cloudpickle.register_pickle_by_value(sys.modules[__name__])

#: Requests that tell of many runs at once: there is one in each look of a pool with some workers.
LISTS = ("/scripts", "/scripts/custom", "/jobs")
#: How our threads are called.
OURS = "civis-futures"


# --- what was spent ----------------------------------------------------------------------------


@dataclass
class Spent:
    """What happened on a platform, and in this process, while something was measured."""

    seconds: float = 0.0
    #: By method, path template, and "client" or "worker".
    requests: Counter[tuple[str, str, str]] = field(default_factory=Counter)
    refused: int = 0
    starts: int = 0
    uploads: int = 0
    upload_bytes: int = 0
    downloads: int = 0
    download_bytes: int = 0
    #: The most threads that there were at once, besides those that there were before.
    threads: int = 0
    #: Threads of ours among all that there were at that moment.
    own_threads: int = 0

    def count(
        self, method: str | None = None, path: str | None = None, origin: str | None = None
    ) -> int:
        """How many requests there were of one method, path template or origin."""
        wanted = (method, path, origin)
        return sum(
            count
            for key, count in self.requests.items()
            if all(want in (None, have) for want, have in zip(wanted, key, strict=True))
        )

    @property
    def looks(self) -> int:
        """How many looks there were: the lists that the client has read."""
        return sum(self.count("GET", path, "client") for path in LISTS)

    @property
    def watching(self) -> int:
        """How many requests those looks took, answers not included: lists and single runs."""
        singles = ("/scripts/containers/{id}", "/scripts/containers/{id}/runs/{run_id}")
        return self.looks + sum(self.count("GET", path, "client") for path in singles)


def threads_of_ours() -> int:
    """How many threads of ours there are."""
    return sum(thread.name.startswith(OURS) for thread in threading.enumerate())


@contextmanager
def spending(platform: LocalPlatform) -> Iterator[Spent]:
    """Measure what is done on `platform` within the block; the figures are there after it.

    Threads are looked at twenty times a second.
    """
    spent, over = Spent(), threading.Event()
    known = set(threading.enumerate())

    def look_at_threads() -> None:
        while not over.wait(0.05):
            now = [thread for thread in threading.enumerate() if thread is not watcher]
            spent.threads = max(spent.threads, len(set(now) - known))
            spent.own_threads = max(spent.own_threads, threads_of_ours())

    watcher = threading.Thread(target=look_at_threads, name="benchmark", daemon=True)
    watcher.start()
    before, began = platform.stats(), time.perf_counter()
    try:
        yield spent
    finally:
        spent.seconds = time.perf_counter() - began
        after = platform.stats()
        over.set()
        watcher.join()
        spent.requests = Counter(after.requests)
        spent.requests.subtract(before.requests)
        spent.refused = after.refused - before.refused
        spent.starts = after.runs_started - before.runs_started
        for name in ("uploads", "upload_bytes", "downloads", "download_bytes"):
            setattr(spent, name, getattr(after, name) - getattr(before, name))


class LookWatch:
    """When the looks of the only pool on a platform were, to some 20 ms, by `time.time`."""

    def __init__(self, platform: LocalPlatform) -> None:
        self.moments: list[float] = []
        self._platform = platform
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._run, name="benchmark", daemon=True)

    def __enter__(self) -> LookWatch:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()

    def _run(self) -> None:
        known = self._count()
        while not self._over.wait(0.02):
            count = self._count()
            if count > known:
                self.moments.append(time.time())
            known = count

    def _count(self) -> int:
        stats = self._platform.stats()
        return sum(stats.count("GET", path, "client") for path in LISTS)

    @property
    def interval(self) -> float:
        """The median of the seconds between two looks."""
        pauses = [b - a for a, b in zip(self.moments, self.moments[1:], strict=False)]
        return statistics.median(pauses)


# --- platforms and pools -----------------------------------------------------------------------


@contextmanager
def running(**options: Any) -> Iterator[LocalPlatform]:
    """A platform of the benchmark's own; its runs are not limited by this machine's cores."""
    with LocalPlatform(**{"cores": 64, **options}) as platform:
        yield platform


@contextmanager
def pool(
    platform: Any, max_workers: int, *, patience: float = 20.0, **options: Any
) -> Iterator[ContainerPoolExecutor]:
    """An executor that surely ends, whatever is left of its work and of its budget."""
    executor = ContainerPoolExecutor(max_workers, platform=platform, **options)
    try:
        yield executor
    finally:
        executor.terminate_workers()
        ending = threading.Thread(target=executor.shutdown, name="benchmark", daemon=True)
        ending.start()
        ending.join(patience)
        if ending.is_alive():  # it waits for a budget that it has spent
            executor._manager.client.close()
            ending.join(patience)


def done_within(futures: Iterable[Future[Any]], seconds: float) -> int:
    """How many of the futures are done, as soon as all are, or after so many seconds."""
    return len(wait(list(futures), seconds).done)


def wait_until(condition: Callable[[], object], seconds: float = 60.0) -> None:
    """Wait for a condition; TimeoutError if it does not come true in time."""
    end = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > end:
            raise TimeoutError("it did not happen")
        time.sleep(0.02)


def most_at_once(spans: Iterable[tuple[float, float]]) -> int:
    """How many of these (start, end) overlapped at the most."""
    edges = sorted(edge for start, end in spans for edge in ((start, 1), (end, -1)))
    most = now = 0
    for _, step in edges:
        now += step
        most = max(most, now)
    return most


# --- rows --------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Figure:
    """One thing that was measured, with its goal if it has one."""

    name: str
    value: float | str
    unit: str = ""
    most: float | None = None
    least: float | None = None

    @property
    def met(self) -> bool | None:
        """Whether the goal is reached; None if there is none."""
        if self.most is None and self.least is None:
            return None
        if isinstance(self.value, str):
            return False
        return (self.most is None or self.value <= self.most) and (
            self.least is None or self.value >= self.least
        )

    @property
    def goal(self) -> str:
        """The goal in words."""
        bounds = (("at most", self.most), ("at least", self.least))
        return " and ".join(
            f"{word} {said(bound, self.unit)}" for word, bound in bounds if bound is not None
        )


@dataclass
class Row:
    """One row of the table: a kind of work, and what was measured of it."""

    work: str
    figures: list[Figure] = field(default_factory=list)

    def add(
        self,
        name: str,
        value: float | str,
        unit: str = "",
        *,
        most: float | None = None,
        least: float | None = None,
    ) -> None:
        """Add a figure; `most` and `least` are its goal."""
        self.figures.append(Figure(name, value, unit, most, least))

    def add_finished(self, done: int, total: int, seconds: float, limit: float) -> None:
        """Add how long all of the work took, or how much of it was done when time was up."""
        if done == total:
            self.add("time for all", seconds, "s", most=limit)
        else:
            self.add("time for all", f"{done:,} of {total:,} in {limit:,.0f} s", "s", most=limit)


def said(value: float | str, unit: str = "") -> str:
    """A figure as text, with three digits that matter."""
    if isinstance(value, str):
        return value
    if isinstance(value, int) or abs(value) >= 1000:
        text = f"{value:,.0f}"
    else:
        text = f"{value:.3g}"
    return f"{text} {unit}".strip()


# --- work for containers -----------------------------------------------------------------------


def no_op() -> None:
    """Do nothing."""


def pause(seconds: float, value: Any = None) -> Any:
    """Take so long."""
    time.sleep(seconds)
    return value


def wait_for_file(path: str, seconds: float = 120.0) -> None:
    """Hold a worker until the benchmark has seen enough."""
    import os

    end = time.monotonic() + seconds
    while not os.path.exists(path) and time.monotonic() < end:
        time.sleep(0.1)


def settled(futures: Iterable[Future[Any]]) -> dict[Future[Any], float]:
    """When each future settles, by `time.time`; filled as they do."""
    moments: dict[Future[Any], float] = {}

    def note(future: Future[Any]) -> None:
        moments[future] = time.time()

    for future in futures:
        with suppress(Exception):
            future.add_done_callback(note)
    return moments


def submit_all(executor: ContainerPoolExecutor, number: int, fn: Any, *args: Any) -> list[Any]:
    """So many futures of one call."""
    call = partial(executor.submit, fn, *args)
    return [call() for _ in range(number)]
