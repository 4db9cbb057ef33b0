"""What people see of tasks: frozen summaries in, plain data or text out.

Pure: no clock, no terminal, no I/O. What comes from the user (names, messages of exceptions,
addresses) has its control characters shown.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, fields
from heapq import nsmallest
from typing import Any

from .._types import TaskState

#: How many tasks a panel lists; the others are counted.
MOST_ROWS = 12
#: How many it lists where the rest of them can be opened; each is some 500 bytes of HTML.
MOST_PAGED = 300
#: The characters of a message that are shown.
REASON_LENGTH = 200
#: The order of the states in all displays, and which of them the bar counts as done.
STATES = (
    TaskState.FAILED, TaskState.RUNNING, TaskState.QUEUED, TaskState.PENDING,
    TaskState.CANCELLED, TaskState.SUCCEEDED,
)  # fmt: skip
DONE = (TaskState.SUCCEEDED, TaskState.FAILED, TaskState.CANCELLED)
WAITING = (TaskState.PENDING, TaskState.QUEUED)
#: What the two states mean in which nothing runs.
EXPLAINED = {
    TaskState.PENDING: "no container has it yet",
    TaskState.QUEUED: "a container has it, and has not begun it",
}
#: The order in which tasks are listed, as far as there is room.
_LISTED = (
    TaskState.FAILED, TaskState.RUNNING, TaskState.QUEUED,
    TaskState.SUCCEEDED, TaskState.CANCELLED, TaskState.PENDING,
)  # fmt: skip
#: Our own errors begin with the task and the place, which a row of a table has already.
_PLACE = re.compile(r"^.{1,300}? in run \d+ of job \d+( \(\S*\))?:? ")
_MARKS = {
    TaskState.SUCCEEDED: "#",
    TaskState.FAILED: "x",
    TaskState.CANCELLED: "-",
    TaskState.RUNNING: ">",
}


@dataclass(frozen=True, slots=True)
class TaskSummary:
    """One task at one moment. Times are in seconds, memory in MB; None: not known."""

    task: str
    number: int
    state: TaskState
    reason: str = ""
    attempts: int = 0
    elapsed: float = 0.0
    queue: float | None = None
    compute: float | None = None
    peak_memory: float | None = None
    submitted: float = 0.0
    worker: int | None = None
    job_id: int | None = None
    run_id: int | None = None
    job_url: str | None = None
    running: float | None = None  # for how long it was seen to run, while it does
    occupied: float | None = None  # for how long it had a container at the end, imports included
    asked_memory: float | None = None


#: The names of what is known of each task.
COLUMNS = tuple(each.name for each in fields(TaskSummary))


@dataclass(slots=True)
class Totals:
    """Counts and sums of any number of tasks."""

    counts: dict[TaskState, int] = field(default_factory=lambda: dict.fromkeys(STATES, 0))
    queue: float = 0.0
    compute: float = 0.0
    peak_memory: float = 0.0

    def add(self, summary: TaskSummary) -> None:
        """Count one more."""
        self.counts[summary.state] += 1
        self.queue += summary.queue or 0.0
        self.compute += summary.compute or 0.0
        self.peak_memory = max(self.peak_memory, summary.peak_memory or 0.0)

    def copy(self) -> Totals:
        """Counts that go on by themselves."""
        return Totals(dict(self.counts), self.queue, self.compute, self.peak_memory)

    @property
    def tasks(self) -> int:
        """How many there are."""
        return sum(self.counts.values())

    @property
    def done(self) -> int:
        """How many have ended."""
        return sum(self.counts[state] for state in DONE)

    def __str__(self) -> str:
        """The states that there are, with their numbers."""
        found = (f"{count:,} {state}" for state in STATES if (count := self.counts[state]))
        return ", ".join(found) or "no tasks"


@dataclass(frozen=True, slots=True)
class Panel:
    """Many tasks at one moment; `summaries` are all of them, or the first of `chosen`; if they are
    `ordered`, that is how they are listed.
    """

    title: str
    totals: Totals
    summaries: tuple[TaskSummary, ...]
    elapsed: float = 0.0
    waiting: str = ""  # what its waiting tasks wait for
    page: str = ""  # a link to the platform's page
    rows: int | None = None  # how many there are to choose from, if not one for each task
    ordered: bool = False
    forecast: str = ""  # what is left, and when it will be done

    def listed(self, most: int) -> list[TaskSummary]:
        """Those to list."""
        return list(self.summaries[:most]) if self.ordered else chosen(self.summaries, most)

    def unlisted(self, listed: int) -> int:
        """How many rows are left out."""
        return (self.totals.tasks if self.rows is None else self.rows) - listed


def panel_of(
    title: str, summaries: Iterable[TaskSummary], now: float, ordered: bool = False
) -> Panel:
    """The panel of exactly these tasks."""
    listed = tuple(summaries)
    totals = Totals()
    for summary in listed:
        totals.add(summary)
    begin = min((summary.submitted for summary in listed), default=now)
    end = max((summary.submitted + summary.elapsed for summary in listed), default=now)
    return Panel(title, totals, listed, end - begin, ordered=ordered)


def records(summaries: Iterable[TaskSummary]) -> list[dict[str, Any]]:
    """Plain data, one dict for each task, in the order of their submission."""
    ordered = sorted(summaries, key=lambda summary: (summary.submitted, summary.number))
    return [
        {name: getattr(summary, name) for name in COLUMNS} | {"state": str(summary.state)}
        for summary in ordered
    ]


def one_line(error: BaseException) -> str:
    """An exception as a line: its type, and the beginning of what it says."""
    name = type(error).__name__
    try:
        said = str(error)
    except BaseException:  # it is the user's class
        said = ""
    first = next((line for line in said[:2000].splitlines() if line.strip()), "")
    first = _PLACE.sub("", first)
    return shortened(f"{name}: {first}" if first else name, REASON_LENGTH)


def shortened(text: str, width: int) -> str:
    """`text` in at most `width` columns, with its control characters made visible."""
    text = "".join(char if char.isprintable() else "\N{REPLACEMENT CHARACTER}" for char in text)
    return text if len(text) <= width else text[: max(0, width - 1)] + "…"


def duration(seconds: float | None) -> str:
    """Seconds for people: ``0.42 s``, ``12 s``, ``3:05``, ``1:02:03``."""
    if seconds is None:
        return "-"
    if seconds < 10:
        return f"{seconds:.2g} s" if seconds >= 0.01 or not seconds else "<0.01 s"
    if seconds < 60:
        return f"{seconds:.0f} s"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


def memory(megabytes: float | None) -> str:
    """MB for people."""
    if not megabytes:
        return "-"
    return f"{megabytes:.0f} MB" if megabytes < 1024 else f"{megabytes / 1024:.1f} GB"


def rank(state: TaskState, number: int) -> tuple[int, int]:
    """By which tasks are listed: failures, what runs, what has ended, what waits; latest first."""
    return _LISTED.index(state), -number


def chosen(summaries: Iterable[TaskSummary], most: int = MOST_ROWS) -> list[TaskSummary]:
    """Those to list."""
    return nsmallest(most, summaries, key=lambda summary: rank(summary.state, summary.number))


def legend(totals: Totals) -> list[str]:
    """What the states of waiting tasks mean, of those that there are."""
    return [f"{state}: {said}" for state, said in EXPLAINED.items() if totals.counts[state]]


# --- text ----------------------------------------------------------------------------------------


def text(panel: Panel, width: int = 80) -> str:
    """The panel as lines of at most `width` columns; links are never cut."""
    lines = [shortened(panel.title, width), _bar(panel.totals, width)]
    lines += _wrapped(str(panel.totals).split(", "), ", ", width)
    lines += _wrapped([f"{name} {value}" for name, value in sums(panel)], ", ", width)
    lines += [shortened(f"waiting: {panel.waiting}", width)] if panel.waiting else []
    lines += [shortened(panel.forecast, width)] if panel.forecast else []
    listed = panel.listed(MOST_ROWS)
    for summary in listed:
        lines.append(shortened(f"  {summary.state:<10}{summary.task}{_took(summary)}", width))
        if summary.reason and summary.reason != panel.waiting:
            lines.append(shortened(f"    {summary.reason}", width))
        if summary.state is TaskState.FAILED and summary.job_url:
            lines.append(f"    {visible(summary.job_url)}")
    lines += [f"  and {more:,} more"] if (more := panel.unlisted(len(listed))) else []
    lines += [shortened(said, width) for said in legend(panel.totals)]
    lines += [f"runs and logs: {panel.page}"] if panel.page else []
    return "\n".join(lines)


def _bar(totals: Totals, width: int) -> str:
    room = max(4, min(24, width - 24))
    # One failure in a thousand is seen, too; what is too much then is taken from the most.
    sizes = {
        state: max(1, count * room // totals.tasks)
        for state in _MARKS
        if (count := totals.counts[state])
    }
    while sum(sizes.values()) > room:
        sizes[max(sizes, key=lambda state: sizes[state])] -= 1
    if sizes and totals.done == totals.tasks:  # what rounding has left out
        sizes[max(sizes, key=lambda state: sizes[state])] += room - sum(sizes.values())
    bar = "".join(_MARKS[state] * size for state, size in sizes.items())
    return f"[{bar:.<{room}}] {totals.done:,} of {totals.tasks:,} done"


def _wrapped(pieces: Sequence[str], glue: str, width: int) -> list[str]:
    lines = [pieces[0]]
    for piece in pieces[1:]:
        if len(lines[-1]) + len(glue) + len(piece) <= width:
            lines[-1] += glue + piece
        else:
            lines.append(piece)
    return lines


def _took(summary: TaskSummary) -> str:
    parts = [duration(summary.elapsed)]
    parts += [] if summary.running is None else [f"running for {duration(summary.running)}"]
    parts += [memory(summary.peak_memory)] if summary.peak_memory else []
    parts += [f"attempt {summary.attempts}"] if summary.attempts > 1 else []
    return f"  {', '.join(parts)}"


def sums(panel: Panel) -> list[tuple[str, str]]:
    """What the tasks took together, by name."""
    totals = panel.totals
    return [
        ("elapsed", duration(panel.elapsed)),
        ("total queue", duration(totals.queue)),
        ("total compute", duration(totals.compute)),
        ("highest peak memory", memory(totals.peak_memory)),
    ]


def visible(value: str) -> str:
    """A text with its control characters shown."""
    return shortened(value, len(value))
