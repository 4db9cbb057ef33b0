"""Tasks that have ended, made up, and the sums of them."""

from __future__ import annotations

from civis_futures._display.panels import TaskSummary
from civis_futures._display.usage import WorkSums
from civis_futures._types import TaskState


def ended(number=0, at=0.0, queue=0.0, took=1.0, worker=1, function="f", **fields):
    """A task that was submitted at that time, waited, and ran; all in seconds."""
    known = {
        "task": f"{function} (task {number})",
        "number": number,
        "state": TaskState.SUCCEEDED,
        "attempts": 1,
        "submitted": at,
        "elapsed": (queue or 0.0) + took,
        "queue": queue,
        "compute": took,
        "occupied": took,
        "worker": worker,
    }
    return TaskSummary(**{**known, **fields})


def work_of(*summaries):
    work = WorkSums()
    for summary in sorted(summaries, key=lambda each: each.submitted + each.elapsed):
        work.add(summary)
    return work
