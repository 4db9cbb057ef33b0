"""Bars: how many of some futures are done, failed, running and queued, while the caller waits.

The one module that knows tqdm. The bar is drawn by the thread that waits; where that is not ours,
as in joblib, by one of its own (`ProgressBar`). The futures' callbacks only put a word into a
queue, since they run where futures are settled, and a terminal may block. It knows futures of any
kind.
"""

from __future__ import annotations

import contextlib
import queue
import sys
import threading
import time
import warnings
from collections.abc import Iterable, Sized
from concurrent.futures import Future
from heapq import nsmallest
from typing import Any, Protocol

from .._display.live import Handle, is_notebook
from .._display.markup import html
from .._display.panels import MOST_ROWS, Panel, TaskSummary, Totals, chosen, duration, rank, text
from .._types import TaskState, whole
from .future import ContainerFuture, number_of, pool_of, state_soon_of, summary_of
from .prints import Prints
from .tables import Table

#: Seconds between two drawings: the least, and the most when nothing ends (what runs may change).
LEAST, MOST = 0.1, 0.5
#: A log gets a line when STEP more of the whole is done, or after SILENCE seconds.
STEP, SILENCE = 0.1, 60.0
#: Seconds; when all will be done sooner than that, it is not said.
SOON = 60.0


class Awaited(Protocol):
    """What may be done: a future, or the next result of a map."""

    def done(self) -> bool:
        """Whether it is there."""


class Bar(Protocol):
    """Something that shows counts."""

    def show(self, totals: Totals, expected: int, waiting: str, forecast: str) -> None:
        """Show them if it is time: the bar decides. `waiting` is what tasks wait for,
        and `forecast` when they will be done.
        """

    def close(self, totals: Totals, expected: int) -> None:
        """Show the last ones and end."""

    def write(self, line: str) -> None:
        """Print a line of a task's."""


class Meter:
    """Counts futures as they end, and draws while it waits for them; holds none that has ended.

    Args:
        expected: how many there will be, if that is known before all are watched.
        table: in a notebook, show their table below the bar while a call waits; what is left
            there in the end are failures.
        bar: whether there is a bar.
        logs: print what they print, while a call waits.

    Raises:
        ModuleNotFoundError: tqdm is not installed, and there is to be a bar.
    """

    def __init__(
        self, expected: int = 0, table: bool = False, *, bar: bool = True, logs: bool = False
    ) -> None:
        self._bar = _bar(expected) if bar else _NoBar()
        self._prints = Prints(self.wake) if logs else None
        self._table = _LiveTable() if table and is_notebook(sys.stderr) else None
        self._expected = expected
        self._watched = 0
        self._open: dict[Future[Any], int] = {}  # with their numbers of tasks
        self._ends: queue.SimpleQueue[tuple[TaskState, int, TaskSummary | None]]
        self._ends = queue.SimpleQueue()
        self._totals = Totals()
        self._drawn, self._cost = 0.0, 0.0

    def watch(self, future: Future[Any], tasks: int = 1) -> None:
        """Count this one too, as this many tasks."""
        self._watched += tasks
        self._open[future] = tasks
        future.add_done_callback(self._end)
        if self._prints is not None and isinstance(future, ContainerFuture):
            self._prints.watch(future)

    def draw_until(self, over: threading.Event) -> None:
        """Draw until that is set and `wake` was called."""
        while not over.is_set():
            self._step(MOST)

    def wake(self) -> None:
        """Let the thread that waits look at what has changed."""
        self._ends.put((TaskState.SUCCEEDED, 0, None))

    def wait(self, future: Awaited, timeout: float | None = None) -> None:
        """Return when it is done, or after `timeout` seconds; draw meanwhile."""
        end = None if timeout is None else time.monotonic() + timeout
        self._step(0.0)
        while not future.done():
            left = MOST if end is None else min(MOST, end - time.monotonic())
            if left <= 0:
                return
            self._step(left)

    def wait_for_all(self) -> None:
        """Return when all are done; draw meanwhile."""
        while self._totals.done < self._watched:
            self._step(MOST)

    def finish(self) -> None:
        """Wait for the last lines that the tasks that have ended have printed."""
        if self._prints is not None:
            self._prints.finish()

    def close(self) -> None:
        """Draw for the last time."""
        self._count(0.0)
        if self._prints is not None:
            self._prints.close()
            self._print()
            _say(f"reading what tasks print has taken {self._prints.requests:,} requests")
        totals = self._look()
        self._bar.close(totals, max(self._expected, self._watched))
        if self._table is not None:
            self._table.close(totals)

    def _end(self, future: Future[Any]) -> None:
        if future.cancelled():
            state = TaskState.CANCELLED
        else:
            failed = future.exception(timeout=0) is not None
            state = TaskState.FAILED if failed else TaskState.SUCCEEDED
        row = None
        if self._table is not None and isinstance(future, ContainerFuture):
            row = summary_of(future)
        self._ends.put((state, self._open.pop(future, 1), row))

    def _step(self, seconds: float) -> None:
        """Wait for the next end, but not longer than this; then draw if it is time."""
        self._count(seconds)
        self._print()
        now = time.monotonic()
        # Drawing takes 5 % of the time, at most.
        if now - self._drawn >= max(LEAST, self._cost / 0.05):
            totals, waiting = self._look(), self._waiting()
            self._bar.show(totals, max(self._expected, self._watched), waiting, self._forecast())
            if self._table is not None:
                self._table.show(list(self._open), totals, waiting)
            self._drawn = time.monotonic()
            self._cost = self._drawn - now

    def _count(self, seconds: float) -> None:
        try:
            while True:
                state, tasks, row = self._ends.get(seconds > 0, seconds or None)
                self._totals.counts[state] += tasks
                if row is not None and self._table is not None:
                    self._table.add(row)
                seconds = 0.0
        except queue.Empty:
            pass

    def _print(self) -> None:
        """What tasks have printed, above the bar."""
        if self._prints is not None:
            with contextlib.suppress(queue.Empty):
                while True:
                    self._bar.write(self._prints.lines.get_nowait())

    def _waiting(self) -> str:
        """What the first of those waits for that no container has begun."""
        for future in list(self._open):
            if isinstance(future, ContainerFuture) and not future.running():
                return future.reason
        return ""

    def _forecast(self) -> str:
        """When all will be done, if that is not soon, can be told, and they are of one executor."""
        ours = (each for each in list(self._open) if isinstance(each, ContainerFuture))
        pools = set(map(pool_of, ours))
        pool = pools.pop() if len(pools) == 1 else None
        forecast = None if pool is None else pool.forecast()
        return "" if forecast is None or forecast.seconds < SOON else forecast.brief

    def _look(self) -> Totals:
        totals = self._totals.copy()
        undone = max(self._expected, self._watched) - totals.done
        open_ = list(self._open.items())
        running = min(undone, sum(tasks for future, tasks in open_ if future.running()))
        totals.counts[TaskState.RUNNING] = running
        totals.counts[TaskState.QUEUED] = undone - running
        return totals


def meter_for_map(
    iterables: Iterable[Iterable[Any]], chunksize: int, bar: bool, logs: bool
) -> Meter:
    """One for the calls of a `map`; where all say how long they are, it knows how many."""
    sizes = [len(each) if isinstance(each, Sized) else None for each in iterables]
    known = [size for size in sizes if size is not None]
    expected = min(known) if known and len(known) == len(sizes) else 0
    return Meter(-(-expected // chunksize), bar=bar, logs=logs)


class ProgressBar:
    """A bar for futures for which other code waits; a thread of its own draws it until `close`.

    Args:
        expected: how many tasks there will be, if that is known.
        table: in a notebook, show a table of the tasks below the bar. In the end, only failures
            are left in it.

    Raises:
        ModuleNotFoundError: tqdm is not installed.
    """

    def __init__(self, expected: int = 0, *, table: bool = False) -> None:
        self._meter = Meter(whole("expected", expected, least=0), table)
        self._over = threading.Event()
        self._thread = threading.Thread(
            target=self._meter.draw_until, args=(self._over,), name="civis-futures bar", daemon=True
        )
        self._thread.start()

    def watch(self, future: Future[Any], tasks: int = 1) -> None:
        """Add a future to the bar, where it counts as this many tasks."""
        self._meter.watch(future, tasks)

    def close(self) -> None:
        """Draw the bar once more, and end the thread."""
        self._over.set()
        self._meter.wake()
        self._thread.join()
        self._meter.close()


def progress(futures: Iterable[ContainerFuture[Any]], *, logs: bool = False) -> Table:
    """Wait until all futures are done, with a bar. Return them as `table` does.

    In a terminal and in a notebook, the bar is tqdm's (the extra ``progress``). In a log file, it
    is a line now and then. A Ctrl-C ends the waiting, and leaves the futures alone.

    Args:
        futures: the futures to wait for.
        logs: meanwhile, print what the tasks print, each line after the name of its task. This
            uses at most a quarter of the requests that the rate limit allows, so with many
            containers the lines come late. At the end, it tells how many requests it made.

    Raises:
        ModuleNotFoundError: tqdm is not installed.
        TypeError: one of them is not a `ContainerFuture`.
    """
    shown = Table(futures)
    meter = Meter(len(shown), logs=logs)
    try:
        for future in shown:
            meter.watch(future)
        meter.wait_for_all()
        meter.finish()
    finally:
        meter.close()
    return shown


def _bar(expected: int) -> Bar:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of a notebook without widgets: its bar is text
            from tqdm.auto import tqdm
    except ModuleNotFoundError as error:
        if error.name not in ("tqdm", "tqdm.auto"):
            raise
        raise ModuleNotFoundError(
            "a progress bar needs tqdm: pip install 'civis-futures[progress]'", name="tqdm"
        ) from None
    return _Drawn(tqdm, expected) if _is_looked_at(sys.stderr) else _Lines()


def _is_looked_at(stream: Any) -> bool:
    """Whether it is a terminal, or the output of a notebook's cell."""
    if is_notebook(stream):
        return True
    try:
        return bool(stream.isatty())
    except (AttributeError, ValueError):  # None, or closed
        return False


class _LiveTable:
    """A table in a notebook that changes where it is: the tasks of a bar, while a call waits.

    It keeps rows of those that have ended, no futures: as many as are listed, and how many others
    there were.
    """

    def __init__(self) -> None:
        self._begun = time.monotonic()
        self._ended: list[TaskSummary] = []
        self._others = 0
        self._sums = Totals()
        self._handle = Handle()
        self._handle.open({"text/plain": ""})

    def add(self, row: TaskSummary) -> None:
        """One has ended like this."""
        self._sums.add(row)
        before = len(self._ended) + 1
        self._ended = chosen([*self._ended, row])
        self._others += before - len(self._ended)

    def show(self, futures: list[Future[Any]], totals: Totals, waiting: str) -> None:
        """These have not ended yet."""
        ours = [future for future in futures if isinstance(future, ContainerFuture)]
        # Without a summary of each: there may be many thousands.
        first = nsmallest(MOST_ROWS, ours, lambda each: rank(state_soon_of(each), number_of(each)))
        others = self._others + len(ours) - len(first)
        self._draw([*self._ended, *map(summary_of, first)], totals, waiting, others)

    def close(self, totals: Totals) -> None:
        """Leave what has failed, or nothing: the bar says the rest."""
        failed = [row for row in self._ended if row.state is TaskState.FAILED]
        if failed:
            self._draw(failed, totals, "", totals.counts[TaskState.FAILED] - len(failed))
        else:
            self._handle.update({"text/plain": ""})

    def _draw(self, rows: list[TaskSummary], totals: Totals, waiting: str, others: int) -> None:
        totals.queue, totals.compute = self._sums.queue, self._sums.compute
        totals.peak_memory = self._sums.peak_memory
        title, elapsed = f"{totals.tasks:,} tasks", time.monotonic() - self._begun
        panel = Panel(title, totals, tuple(rows), elapsed, waiting, rows=len(rows) + others)
        self._handle.update({"text/html": html(panel), "text/plain": text(panel)})


class _Drawn:
    """A bar of tqdm's."""

    def __init__(self, tqdm: Any, expected: int) -> None:
        # A class of our own, without the thread that tqdm has for bars that are not refreshed.
        quiet = type("tqdm", (tqdm,), {"monitor_interval": 0})
        # Nor does it need tqdm's lock between processes, which may start a process of its own.
        if not hasattr(tqdm, "_lock"):
            quiet.set_lock(threading.RLock())  # type: ignore[attr-defined]
        self._bar = quiet(total=expected or None, unit="task", dynamic_ncols=True)

    def show(self, totals: Totals, expected: int, waiting: str, forecast: str) -> None:
        """Draw it."""
        self._bar.total = expected
        self._bar.n = totals.done
        self._bar.set_postfix_str(_rest(totals, waiting, forecast), refresh=False)
        self._bar.refresh()

    def close(self, totals: Totals, expected: int) -> None:
        """Draw it and leave it there."""
        self.show(totals, expected, "", "")
        self._bar.close()

    def write(self, line: str) -> None:
        """Print it above the bar."""
        self._bar.write(line)


class _NoBar:
    """For those who have asked for no bar."""

    def show(self, totals: Totals, expected: int, waiting: str, forecast: str) -> None:
        """Nothing."""

    def close(self, totals: Totals, expected: int) -> None:
        """Nothing."""

    def write(self, line: str) -> None:
        """Print it."""
        print(line, flush=True)  # without a stdout, that does nothing


class _Lines(_NoBar):
    """For a log file: a line for each tenth, and one when there was none for long."""

    def __init__(self) -> None:
        self._begun = self._last = time.monotonic()
        self._shown = 0.0

    def show(self, totals: Totals, expected: int, waiting: str, forecast: str) -> None:
        """Write a line if it is time for one."""
        part = totals.done / max(1, expected)
        if part >= self._shown + STEP or time.monotonic() >= self._last + SILENCE:
            self._write(totals, expected, waiting, forecast)
            self._shown = part

    def close(self, totals: Totals, expected: int) -> None:
        """Write the last line, unless it is there already."""
        if self._shown < 1:
            self._write(totals, expected)

    def _write(self, totals: Totals, expected: int, waiting: str = "", forecast: str = "") -> None:
        self._last = time.monotonic()
        rest = _rest(totals, waiting, forecast)
        said = f"{totals.done:,} of {expected:,} tasks done{', ' if rest else ''}{rest}"
        _say(f"{said}, {duration(self._last - self._begun)}")


def _say(text: str) -> None:
    """To who reads the log."""
    if sys.stderr is not None:
        print(f"civis_futures: {text}", file=sys.stderr, flush=True)


def _rest(totals: Totals, waiting: str, forecast: str) -> str:
    """The counts that a bar does not show itself, what is waited for, and when all is done."""
    states = (TaskState.FAILED, TaskState.CANCELLED, TaskState.RUNNING, TaskState.QUEUED)
    rest = ", ".join(f"{count:,} {state}" for state in states if (count := totals.counts[state]))
    rest = f"{rest} ({waiting})" if waiting and rest else rest
    return f"{rest}, {forecast}" if forecast and rest else rest
