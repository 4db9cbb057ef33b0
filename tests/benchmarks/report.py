"""The table of the benchmarks: rows to Markdown, with the machine and the versions it is of; and
the paragraph of `docs/cost.md` that has some of its figures.
"""

from __future__ import annotations

import os
import platform
import re
import subprocess
import sys
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from benchmarks.measure import Row, said

PACKAGES = (
    "civis-futures", "civis", "joblib", "distributed", "ipyparallel", "httpx", "cloudpickle",
    "uvicorn", "starlette",
)  # fmt: skip

INTRODUCTION = """\
# Benchmarks

What the pool spends, and how long it takes, measured by `make bench` on a local platform: real
processes, real HTTP, the rate limits of Civis Platform where a row says so. Requests are those of
the client and of all workers together, unless a row says otherwise; transfers over file links are
not API requests. The `civis` package and the other pools ran in the same run on the same machine.

This page is generated; figures of time depend on the machine, counts do not.
"""

#: Between its two marks, `docs/cost.md` has this paragraph.
COSTS = """\
A thousand empty calls on ten containers took {thousand_requests} requests and {thousand_starts} run
starts. Ten thousand calls of 0.1 s took {ten_thousand_requests} requests. With
`max_tasks_per_worker=1`, each call took {single_requests} requests, not counting the client's
looks, and the starts of a thousand calls alone would take 45 minutes. These figures are those of
the last [benchmark](benchmarks.md).
"""
COST_MARKS = re.compile(r"(?<=<!-- measured -->\n\n).*?(?=\n<!-- end -->)", re.DOTALL)
#: Its figures: how their rows begin, and which figure of the row it is.
COST_FIGURES = {
    "thousand_requests": ("1,000 no-op tasks on 10 workers", "API requests"),
    "thousand_starts": ("1,000 no-op tasks on 10 workers", "run starts"),
    "ten_thousand_requests": ("10,000 tasks of 0.1 s on 10 workers", "API requests"),
    "single_requests": (
        "Small call, small result",
        "API requests for each task, looks not counted",
    ),
}


def cost_page(page: str, benchmarks: str) -> str:
    """`docs/cost.md` with the figures of the page of benchmarks."""
    measured, work = {}, ""
    for line in benchmarks.splitlines():
        cells = [cell.strip() for cell in line.split("|")]
        if len(cells) > 3:
            work = cells[1] or work
            measured[work, cells[2]] = cells[3]
    found = {
        name: next(
            value
            for (work, each), value in measured.items()
            if work.startswith(beginning) and each == figure
        )
        for name, (beginning, figure) in COST_FIGURES.items()
    }
    return COST_MARKS.sub(COSTS.format(**found), page, count=1)


def page(rows: Sequence[Row], seconds: float, load: float) -> str:
    """The whole page; `load` is the machine's load average before the run."""
    table = "\n".join(_lines(rows))
    facts = "\n".join(f"- {fact}" for fact in _facts(seconds, load))
    return f"{INTRODUCTION}\n{table}\n\n## Where and with what\n\n{facts}\n"


def _lines(rows: Sequence[Row]) -> Iterator[str]:
    yield "| work | figure | measured | goal | |"
    yield "|---|---|---:|---|---|"
    for row in rows:
        work = row.work
        if not row.figures:
            yield f"| {work} | | did not come to its end | | |"
        for figure in row.figures:
            verdict = {None: "", True: "met", False: "**not met**"}[figure.met]
            value = said(figure.value, figure.unit)
            yield f"| {work} | {figure.name} | {value} | {figure.goal} | {verdict} |"
            work = ""


def _facts(seconds: float, load: float) -> Iterator[str]:
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    yield f"Machine: {os.cpu_count()} cores ({_processor()}), {memory:.0f} GB of memory"
    yield f"System: {_system()}, kernel {platform.release()}"
    yield f"Python {platform.python_version()}; {', '.join(_versions())}"
    minutes = f"{seconds / 60:.0f} minutes"
    yield f"Run of {datetime.now(UTC):%Y-%m-%d}, which took {minutes}; load before it: {load:.1f}"


def _processor() -> str:
    info = Path("/proc/cpuinfo")
    if info.exists():
        for line in info.read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    if sys.platform == "darwin":
        command = ["sysctl", "-n", "machdep.cpu.brand_string"]
        return subprocess.run(command, capture_output=True, text=True).stdout.strip()
    return platform.processor() or platform.machine()


def _system() -> str:
    try:
        return platform.freedesktop_os_release()["PRETTY_NAME"]
    except (OSError, KeyError):
        return platform.system()


def _versions() -> Iterator[str]:
    for name in PACKAGES:
        try:
            yield f"{name} {version(name)}"
        except PackageNotFoundError:
            yield f"{name} is not installed"
