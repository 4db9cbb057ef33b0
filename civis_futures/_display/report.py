"""`PoolReport`: what a pool has used, what of that was of use, and what would have been enough.

Pure: sums in, text, HTML or plain data out. What is not known is said to be not known.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from .forecast import Forecast
from .markup import page_with
from .panels import Totals, duration, memory, shortened
from .usage import FunctionSums, Used, WorkSums

#: Memory beyond a peak that is proposed: this part of it, and this many MB for the worker and the
#: system. Then it is rounded up to what people ask for.
SPARE_PART, SPARE = 0.2, 100.0
#: Containers that are busy for less than this part of their time are worth a word; from BUSY on
#: they have no time to spare.
IDLE, BUSY = 0.5, 0.8
#: The functions that are listed, those with the most compute first.
MOST_LISTED = 12


@dataclass(frozen=True, slots=True)
class FunctionReport:
    """What the ended tasks of one function (or label) took. None: not known.

    Times are in seconds, memory is in MB. `peak_memory` is the most that one call used.
    `enough_memory` would have been enough for a container, with some to spare, with as many calls
    at once as the pool runs in one.
    """

    function: str
    tasks: int
    failed: int
    compute: float
    longest: float
    peak_memory: float | None
    asked_memory: float | None
    enough_memory: float | None


@dataclass(frozen=True, slots=True)
class PoolReport:
    """What an executor has used so far. You can print it, or display it in a notebook.

    Times are in seconds, memory is in MB. None: not known. It is made by
    `ContainerPoolExecutor.report`.

    Args:
        title: the name of the pool, and its platform.
        tasks: how many tasks are in each state.
        elapsed: the time from the first submission to the last end, of tasks that have ended.
        compute: the sum of the times of the functions themselves.
        speedup: `compute` divided by `elapsed`: how many times longer one worker would have
            computed.
        starts: how many containers were started.
        most_running: how many containers were seen to run at the same time, at most.
        container_hours: the sum of the hours that containers have run until now. `cpu_hours` is
            the same, multiplied by the cores that were asked for, and `memory_hours` by the GB.
        busy: the share of that time, from 0 to 1, in which containers (or their processes) had a
            task.
        requests: how many requests this process has made to the platform for this pool, the
            starts of containers included.
        worker_processes: how many calls one container runs at once.
        slowest: the tasks that have computed for longest, with their seconds.
        functions: the same for each function.
        advice: what would have been enough, and what was too little.
        not_known: what this report cannot tell.
        max_container_hours: the limit for `container_hours`, if there is one.
        forecast: what is left to do, and when it will be done; None if that cannot be told yet, or
            if nothing is left.
    """

    title: str
    tasks: dict[str, int]
    elapsed: float
    compute: float
    speedup: float | None
    max_workers: int
    starts: int
    most_running: int
    running: int
    container_hours: float
    cpu_hours: float | None
    memory_hours: float | None
    busy: float | None
    requests: int
    worker_processes: int
    slowest: tuple[tuple[str, float], ...]
    functions: tuple[FunctionReport, ...]
    advice: tuple[str, ...]
    not_known: tuple[str, ...]
    max_container_hours: float | None = None
    forecast: Forecast | None = None

    def as_dict(self) -> dict[str, Any]:
        """The report as plain data, which can be written as JSON."""
        return dataclasses.asdict(self)

    def __str__(self) -> str:
        """Several lines."""
        lines = [shortened(self.title, 100)]
        lines += [f"  {name:<12}{said}" for name, said in _facts(self)]
        for name, rows in (("slowest", _slowest(self)), ("functions", _functions(self))):
            lines += [f"{name}:", *_columns(rows)] if len(rows) > 1 else []
        for name, texts in (("advice", self.advice), ("not known", self.not_known)):
            lines += [f"{name}:", *(f"  {shortened(said, 200)}" for said in texts)] if texts else []
        return "\n".join(lines)

    def __repr__(self) -> str:
        """As it prints."""
        return str(self)

    def _repr_html_(self) -> str:
        """For notebooks."""
        parts: list[str | list[list[str]]] = [f"{name}: {said}" for name, said in _facts(self)]
        parts += [rows for rows in (_slowest(self), _functions(self)) if len(rows) > 1]
        parts += [f"advice: {said}" for said in self.advice]
        parts += [f"not known: {said}" for said in self.not_known]
        return page_with(self.title, parts)


def report_of(
    title: str,
    max_workers: int,
    totals: Totals,
    work: WorkSums,
    used: Used,
    requests: int,
    processes: int = 1,
    max_hours: float | None = None,
    forecast: Forecast | None = None,
) -> PoolReport:
    """The report of these sums; a container runs `processes` calls at once."""
    seconds = used.hours * 3600 * processes
    busy = min(1.0, work.occupied / seconds) if seconds and work.occupied else None
    sized = not used.unsized
    functions = [_function(name, sums, processes) for name, sums in work.functions.items()]
    functions.sort(key=lambda each: -each.compute)
    return PoolReport(
        title=title,
        tasks={str(state): count for state, count in totals.counts.items() if count},
        elapsed=work.elapsed,
        compute=work.compute,
        speedup=work.compute / work.elapsed if work.elapsed and work.compute else None,
        max_workers=max_workers,
        starts=used.starts,
        most_running=used.most_running,
        running=used.running,
        container_hours=used.hours,
        cpu_hours=used.cpu_hours if sized else None,
        memory_hours=used.memory_hours if sized else None,
        busy=busy,
        requests=requests,
        worker_processes=processes,
        slowest=tuple((task, seconds) for seconds, task in work.slowest),
        functions=tuple(functions),
        advice=tuple(_advice(max_workers, totals, work, used, busy, functions, processes)),
        not_known=tuple(_not_known(totals, used, functions)),
        max_container_hours=max_hours,
        forecast=forecast,
    )


def _function(name: str, sums: FunctionSums, processes: int) -> FunctionReport:
    known = sums.peaks and sums.peaks == sums.tasks - sums.failed
    peak, asked = sums.peak_memory or None, sums.asked_memory or None
    enough = enough_memory(sums.peak_memory * processes) if known and not sums.failed else None
    return FunctionReport(
        name, sums.tasks, sums.failed, sums.compute, sums.longest, peak, asked, enough
    )


def enough_memory(peak: float) -> float:
    """MB to ask for, if tasks had so much at the most."""
    needed, size = peak * (1 + SPARE_PART) + SPARE, 128.0
    while size < needed:
        size += size if size < 4096 else 1024
    return size


def _advice(
    max_workers: int,
    totals: Totals,
    work: WorkSums,
    used: Used,
    busy: float | None,
    functions: list[FunctionReport],
    processes: int,
) -> Iterator[str]:
    yield from _memory_advice(functions, processes)
    enough = work.enough(max_workers) if processes == 1 else max_workers  # it counts containers
    if enough < max_workers and totals.done == totals.tasks:
        plural = "" if enough == 1 else "s"
        yield f"{enough} worker{plural} would have been as fast as {max_workers}"
    if busy is None:
        return
    if busy < IDLE and work.occupied:
        yield (
            f"containers had a task for {busy:.0%} of their time; for the rest they started, or "
            "waited: fewer of them, a smaller idle_timeout or longer tasks cost less"
        )
    waited = totals.queue > work.occupied
    if busy >= BUSY and waited and used.most_running * processes >= max_workers:
        yield f"all {max_workers} workers were busy while tasks waited: more would have been faster"


def _memory_advice(functions: list[FunctionReport], processes: int) -> Iterator[str]:
    at_once = f" ({processes} at once)" if processes > 1 else ""
    for each in functions:
        if each.peak_memory and each.asked_memory:
            peak = each.peak_memory * processes
            if peak > 0.9 * each.asked_memory:  # too little is left
                yield (
                    f"memory: {each.function} has come to {memory(peak)}{at_once} of "
                    f"{memory(each.asked_memory)}: ask for more"
                )
    sizes = [each.enough_memory for each in functions]
    asked = [each.asked_memory for each in functions]
    known = [size for size in sizes if size is not None]
    if known and len(known) == len(sizes) and None not in asked:
        enough, least = max(known), min(each for each in asked if each is not None)
        if enough < least:
            yield f"memory: {enough:.0f} would do, of {least:.0f} MB that were asked for"


def _not_known(totals: Totals, used: Used, functions: list[FunctionReport]) -> Iterator[str]:
    if totals.done < totals.tasks:
        yield f"what the {totals.tasks - totals.done:,} tasks that are not done will have taken"
    if used.unsized:
        yield "the size of containers that a template or another process has chosen"
    if any(each.tasks and each.peak_memory is None for each in functions):
        yield "the peak memory of some functions"
    yield "how much of its cores a task has used, and the requests that containers made themselves"


# --- text ----------------------------------------------------------------------------------------


def _facts(report: PoolReport) -> list[tuple[str, str]]:
    counts = ", ".join(f"{count:,} {state}" for state, count in report.tasks.items())
    speedup = "not known" if report.speedup is None else f"{report.speedup:.1f}"
    busy = "not known" if report.busy is None else f"{report.busy:.0%} of their time"
    return [
        ("tasks", counts or "none"),
        ("time", f"{duration(report.elapsed)} with work, {duration(report.compute)} of compute"),
        ("speed-up", f"{speedup} against one worker"),
        ("containers", _containers(report)),
        ("reserved", _reserved(report)),
        ("busy", busy),
        ("requests", f"{report.requests:,} of this process, starts included"),
        *([] if report.forecast is None else [("forecast", str(report.forecast))]),
    ]


def _containers(report: PoolReport) -> str:
    most = math.ceil(report.max_workers / report.worker_processes)
    each = f", {report.worker_processes} calls in each" if report.worker_processes > 1 else ""
    return (
        f"{report.starts:,} started, {report.most_running:,} at once of {most:,}, "
        f"{report.running:,} running now{each}"
    )


def _reserved(report: PoolReport) -> str:
    cores, size = (
        "not known" if value is None else f"{value:.4g}"
        for value in (report.cpu_hours, report.memory_hours)
    )
    most = report.max_container_hours
    of = "" if most is None else f" of {most:.4g}"
    return f"{report.container_hours:.4g}{of} container hours: cores {cores}, GB {size}"


def _slowest(report: PoolReport) -> list[list[str]]:
    return [["task", "compute"], *([task, duration(took)] for task, took in report.slowest)]


def _functions(report: PoolReport) -> list[list[str]]:
    rows = [["function", "tasks", "failed", "compute", "longest", "peak", "asked for"]]
    for each in report.functions[:MOST_LISTED]:
        rows.append(
            [
                each.function,
                f"{each.tasks:,}",
                f"{each.failed:,}",
                duration(each.compute),
                duration(each.longest),
                memory(each.peak_memory) if each.peak_memory else "not known",
                memory(each.asked_memory) if each.asked_memory else "not known",
            ]
        )
    if more := len(report.functions) - MOST_LISTED:
        rows += [[f"and {more:,} more", *[""] * 6]] if more > 0 else []
    return rows


def _columns(rows: list[list[str]]) -> list[str]:
    rows = [[shortened(cell, 40) for cell in row] for row in rows]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    padded = (
        [cell.rjust(width) if place else cell.ljust(width) for place, (cell, width) in cells]
        for cells in (enumerate(zip(row, widths, strict=True)) for row in rows)
    )
    return ["  " + "  ".join(row).rstrip() for row in padded]
