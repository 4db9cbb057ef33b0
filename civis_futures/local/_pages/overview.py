"""What the pages show, as plain data: read from the store, which is never changed here."""

from __future__ import annotations

import collections
import re
from collections.abc import Mapping
from typing import Any

from .._state import Platform
from .._store import Row, document

MOST_RUNS = 200  # in the table; the newest
MOST_LINES = 1000  # of a log, in one answer
#: The newest runs of which the chart is made, and how many points it has.
CHARTED_RUNS = 2000
POINTS = 120
#: What a worker of `civis_futures` prints where a task begins.
TASK_BEGINS = re.compile(r"civis_futures: task (\d+) begins (\(attempt \d+)(?:, process \d+)?\)")

_RUNS = """
SELECT runs.*, scripts.name, scripts.kind, scripts.doc FROM runs
JOIN scripts ON scripts.id = runs.script_id
"""


class Overview:
    """What happens on the platform. What it has read of logs is remembered: each line once."""

    def __init__(self, platform: Platform) -> None:
        self._platform = platform
        self._read = 0  # the last id of a log's line that was looked at
        self._begun: dict[int, int] = collections.defaultdict(int)  # run -> tasks
        self._last: dict[int, str] = {}  # run -> the task that began last, with its attempt
        self._times: list[float] = []  # when tasks began

    def whole(self) -> dict[str, Any]:
        """Return the newest runs, how many there are in each state, and the chart."""
        store = self._platform.store
        self._read_on()
        rows = store.all(f"{_RUNS} ORDER BY runs.id DESC LIMIT ?", MOST_RUNS)
        counts = store.all("SELECT state, COUNT(*) AS number FROM runs GROUP BY state")
        return {
            "now": self._platform.now(),
            "counts": {row["state"]: row["number"] for row in counts},
            "runs": self._shown(rows),
            "chart": self._chart(),
        }

    def job(self, script_id: int) -> dict[str, Any] | None:
        """Return the newest runs of one job, None if there is no such job."""
        store = self._platform.store
        script = store.one("SELECT name FROM scripts WHERE id = ?", script_id)
        if script is None:
            return None
        self._read_on()
        sql = f"{_RUNS} WHERE runs.script_id = ? ORDER BY runs.id DESC LIMIT ?"
        rows = store.all(sql, script_id, MOST_RUNS)
        return {"now": self._platform.now(), "name": script["name"], "runs": self._shown(rows)}

    def run(self, run_id: int, after: int | None) -> dict[str, Any] | None:
        """Return one run with the lines of its log after an id, or else its newest ones."""
        store = self._platform.store
        row = store.one(f"{_RUNS} WHERE runs.id = ?", run_id)
        if row is None:
            return None
        self._platform.runner.flush(run_id)
        self._read_on()
        if after is None:
            newest = "SELECT * FROM logs WHERE run_id = ? ORDER BY id DESC LIMIT ?"
            lines = store.all(newest, run_id, MOST_LINES)[::-1]
            # Lines are numbered over all runs, so how many come before has to be counted.
            first = lines[0]["id"] if lines else 0
            earlier = "SELECT COUNT(*) FROM logs WHERE run_id = ? AND id < ?"
            left_out = store.count(earlier, run_id, first)
        else:
            newer = "SELECT * FROM logs WHERE run_id = ? AND id > ? ORDER BY id LIMIT ?"
            lines, left_out = store.all(newer, run_id, after, MOST_LINES), 0
        return {
            "now": self._platform.now(),
            "run": self._shown([row])[0],
            "left_out": left_out,
            "lines": [[line["id"], line["created_at"], line["level"], line["message"]]
                      for line in lines],
        }  # fmt: skip

    def _shown(self, rows: list[Row]) -> list[dict[str, Any]]:
        active = self._platform.runner.active()
        return [self._run(row, active) for row in rows]

    def _run(self, row: Row, active: Mapping[int, list[int]]) -> dict[str, Any]:
        run_id, pids = row["id"], active.get(row["id"], [])
        resources = document(row).get("requiredResources") or {}
        return {
            "id": run_id,
            "job": row["script_id"],
            "kind": row["kind"],
            "name": row["name"],
            "state": row["state"],
            "created": row["created_at"],
            "started": row["started_at"],
            "finished": row["finished_at"],
            "memory": row["max_memory"],
            "allowed": resources.get("memory"),
            "cpu": row["max_cpu"],
            "where": f"process {pids[0]}" if pids else "",
            "tasks": self._begun.get(run_id, 0),
            "task": self._last.get(run_id, ""),
        }

    def _read_on(self) -> None:
        """Look where tasks begin, in what was printed since the last time."""
        sql = "SELECT * FROM logs WHERE id > ? ORDER BY id LIMIT ?"
        lines = self._platform.store.all(sql, self._read, 50_000)  # the rest with the next question
        for line in lines:
            # A worker prints it on both of its streams.
            begins = TASK_BEGINS.match(line["message"])
            if line["level"] == "info" and begins is not None:
                self._begun[line["run_id"]] += 1
                self._last[line["run_id"]] = f"{begins[1]} {begins[2]})"
                self._times.append(line["created_at"])
        if lines:
            self._read = lines[-1]["id"]

    def _chart(self) -> dict[str, Any]:
        """Return, for `POINTS` moments, how many runs are queued or run, and how many have ended;
        and how many tasks have begun until then.
        """
        now = self._platform.now()
        sql = "SELECT * FROM runs ORDER BY id DESC LIMIT ?"
        rows = self._platform.store.all(sql, CHARTED_RUNS)
        first = min((row["created_at"] for row in rows), default=now)
        span = max(now - first, 1.0)
        queued, running, ended, begun = ([0] * (POINTS + 2) for _ in range(4))

        def point(moment: float) -> int:
            return min(max(int((moment - first) / span * POINTS + 0.999), 0), POINTS + 1)

        def between(series: list[int], since: float, until: float | None) -> None:
            series[point(since)] += 1
            if until is not None:
                series[point(until)] -= 1

        for row in rows:
            begins, ends = row["started_at"], row["finished_at"]
            between(queued, row["created_at"], begins or ends)
            if begins is not None:
                between(running, begins, ends)
            if ends is not None:
                between(ended, ends, None)
        for moment in self._times:
            between(begun, moment, None)
        return {"start": first, "seconds": span, **{
            name: _sums(series)[: POINTS + 1]
            for name, series in (
                ("queued", queued), ("running", running), ("ended", ended), ("begun", begun),
            )
        }}  # fmt: skip


def _sums(changes: list[int]) -> list[int]:
    total, sums = 0, []
    for change in changes:
        total += change
        sums.append(total)
    return sums
