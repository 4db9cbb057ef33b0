"""The queue of runs, and the life of each one: its state, log, faults, verdict and triggers.

Where a run runs is the affair of a place (`_places.place`), which starts it, and tells how
it went. All of it happens on the event loop's thread.
"""

from __future__ import annotations

import asyncio
import collections
import dataclasses
import sys

from .._api import documents
from .._api.runs import begin
from .._faults.fault import Fault
from .._faults.rules import Rule
from .._places.place import Ending, LaunchPlan, Line, RunPlace
from .._schema.exchange import ApiError
from .._state import Platform
from .launch import make_plan
from .run_faults import RunFaults


@dataclasses.dataclass
class ActiveRun:
    """One run that was given to its place."""

    run_id: int
    plan: LaunchPlan
    key: str
    begun: bool = False
    kept: bool = False  # in the store, for another server
    lines: list[Line] = dataclasses.field(default_factory=list)  # not in the store yet
    flushing: asyncio.TimerHandle | None = None
    cancelled: bool = False
    # What a fault has done to it, of which its place knows nothing.
    out_of_memory: bool = False
    node_lost: bool = False
    restarts: bool = False


class Runner:
    """Gives the runs to their place, and keeps what it tells of them."""

    def __init__(self, platform: Platform, place: RunPlace) -> None:
        self._platform = platform
        self._place = place
        self._delayed: dict[int, asyncio.TimerHandle] = {}  # queued, before their `start_delay`
        self._waiting: collections.deque[int] = collections.deque()  # queued, for room
        self._active: dict[int, ActiveRun] = {}
        self._loop = asyncio.get_running_loop()
        self._start_due = False
        self._closed = False
        self._faults = RunFaults(platform, self._apply_fault)
        place.attach(self)
        self._adopt()

    # What the API asks.

    def queue(self, run_id: int) -> None:
        """Take a new run; it starts when its delay is over and there is room, first come first."""
        self._faults.run_queued(run_id)
        self._wait_for_start(run_id)

    def _wait_for_start(self, run_id: int) -> None:
        delay = self._platform.settings.start_delay
        if delay > 0:
            self._delayed[run_id] = self._loop.call_later(delay, self._delay_over, run_id)
        else:
            self._delay_over(run_id)

    def cancel(self, run_id: int) -> None:
        """End a run: at once if it waits; else TERM, and KILL after its `cancelTimeout`."""
        now = self._platform.now()
        active = self._active.get(run_id)
        self._platform.store.update("runs", run_id, cancel_requested=True, updated_at=now)
        if active is None:
            timer = self._delayed.pop(run_id, None)
            if timer is not None:
                timer.cancel()
            else:
                self._waiting.remove(run_id)
            self._faults.run_ended(run_id)
            self._platform.store.update("runs", run_id, state="cancelled", finished_at=now)
            self._start_soon()
        elif not active.cancelled:
            # One that has ended by itself is not cancelled, though its end may not be told yet.
            active.cancelled = (
                active.restarts or not active.begun or self._place.alive(active.run_id)
            )
            self._place.terminate(run_id)

    def add_faults(self, rules: list[Rule]) -> None:
        """Let the runs that there are meet new faults."""
        begun = [run_id for run_id, active in self._active.items() if active.begun]
        waiting = [run_id for run_id, active in self._active.items() if not active.begun]
        self._faults.rules_added(rules, [*self._delayed, *self._waiting, *waiting], begun)

    def flush(self, run_id: int) -> None:
        """Write what a run has printed so far."""
        active = self._active.get(run_id)
        if active is not None and active.lines:
            lines, active.lines = active.lines, []
            self._platform.store.add_logs(run_id, lines)

    def queued(self) -> int:
        """Return how many runs wait."""
        waiting = sum(not active.begun for active in self._active.values())
        return len(self._delayed) + len(self._waiting) + waiting

    def active(self) -> dict[int, list[int]]:
        """Return the runs that have begun, each with its pids on this machine, if it has any."""
        return self._place.pids()

    # From queued to its place.

    def _delay_over(self, run_id: int) -> None:
        self._delayed.pop(run_id, None)
        self._waiting.append(run_id)
        self._start_soon()

    def _start_soon(self) -> None:
        """Start runs from the loop, one at a time, so that requests pass in between."""
        if not self._start_due:
            self._start_due = True
            self._loop.call_soon(self._start_next)

    def _start_next(self) -> None:
        self._start_due = False
        if self._closed or not self._waiting:
            return
        plan = make_plan(self._platform, self._waiting[0])
        if not self._place.fits(plan):
            return
        run_id = self._waiting.popleft()
        fault = self._faults.instead_of_start(run_id)
        if fault == "stay_queued":
            # Ten years from now, unless it is cancelled before.
            for_ever = 10 * 365 * 24 * 3600.0
            self._delayed[run_id] = self._loop.call_later(for_ever, self._delay_over, run_id)
        elif fault == "no_image":
            self._fail_unstarted(run_id)
        else:
            key = self._platform.keys.for_run(run_id)
            self._active[run_id] = ActiveRun(run_id, plan, key)
            self._place.start(plan, key)
        self._start_soon()

    def _fail_unstarted(self, run_id: int) -> None:
        now = self._platform.now()
        lines = ("Error on job: The Docker image could not be pulled.", "Failed")
        self._platform.store.add_logs(run_id, [(now, "error", line) for line in lines])
        self._platform.store.update("runs", run_id, state="failed", finished_at=now, updated_at=now)
        self._faults.run_ended(run_id)

    # What the place tells.

    def begun(self, run_id: int, where: str | None) -> None:
        """Note that a run has begun."""
        active = self._active[run_id]
        if not active.begun:  # a run that was adopted may begin twice, for its place
            active.begun = True
            now = self._platform.now()
            changes = {"state": "running", "started_at": now, "updated_at": now}
            self._platform.store.update("runs", run_id, **changes)
            self._faults.run_started(run_id)
            if where is not None:
                self.flush(run_id)
                line = f"The container runs at {where}."
                self._platform.store.add_logs(run_id, [(now, "info", line)])

    def printed(self, run_id: int, lines: list[Line]) -> None:
        """Keep what a run has printed; it is in the store some moments later."""
        active = self._active[run_id]
        ahead = self._platform.rules.ahead
        active.lines += [(when + ahead, level, text) for when, level, text in lines]
        self._faults.run_printed(run_id, lines)
        if len(active.lines) >= 2_000:
            self.flush(run_id)
        elif active.flushing is None:
            active.flushing = self._loop.call_later(0.05, self._flush_due, active)

    def _flush_due(self, active: ActiveRun) -> None:
        active.flushing = None
        self.flush(active.run_id)

    def keep(self, run_id: int, note: str) -> None:
        """Keep what the place needs to find a run again, if there will be another server.

        With what it has printed: a place may note up to where that was told.
        """
        active = self._active[run_id]
        lines, active.lines = active.lines, []
        self._platform.store.place_run(run_id, active.key, note, lines)

    def ended(self, run_id: int, ending: Ending) -> None:
        """Store how a run ended, and make room for the next."""
        self.flush(run_id)
        self._faults.run_ended(run_id)
        active = self._active.pop(run_id)
        self._platform.keys.forget(active.key)
        if active.kept:
            self._platform.store.run("DELETE FROM placed WHERE run_id = ?", run_id)
        if active.flushing is not None:
            active.flushing.cancel()
        if active.restarts and not active.cancelled:
            self._requeue(run_id)
        else:
            self._write_end(active, ending)
            self._start_soon()

    def _requeue(self, run_id: int) -> None:
        """Queue a run whose container was taken away, as if it had never started."""
        now = self._platform.now()
        self._platform.store.update("runs", run_id, state="queued", started_at=None, updated_at=now)
        self._wait_for_start(run_id)

    def _write_end(self, active: ActiveRun, ending: Ending) -> None:
        run_id, now = active.run_id, self._platform.now()
        if active.out_of_memory:
            ending = dataclasses.replace(ending, out_of_memory=True)
        state, lines = _verdict(active, ending)
        self._platform.store.add_logs(run_id, [(now, "error", line) for line in lines])
        self._platform.store.update(
            "runs",
            run_id,
            state=state,
            finished_at=now,
            updated_at=now,
            max_memory=round(ending.max_memory, 2),
            max_cpu=round(ending.max_cpu * 1000, 1),
        )
        if state == "succeeded":
            self._succeeded(active)

    def _succeeded(self, active: ActiveRun) -> None:
        """Note it, and start the jobs that this one's success triggers."""
        store = self._platform.store
        store.update("scripts", active.plan.job_id, last_success_id=active.run_id)
        sql = f"{documents.jobs_sql(self._platform)} WHERE parent_id = ? AND NOT archived"
        for row in store.all(sql, active.plan.job_id):
            try:
                begin(self._platform, row, ApiError(409, "conflict", "already active"))
            except ApiError as error:
                print(f"Job {row['id']} was not triggered: {error}", file=sys.stderr)

    # What is made to go wrong.

    def _apply_fault(self, fault: Fault, run_id: int) -> bool:
        """Let a fault happen to a run, unless that has ended; return whether it did."""
        kind = fault.kind
        if run_id not in self._active or not self._place.alive(run_id):
            return False
        if kind == "cancel":
            self.cancel(run_id)
            return True
        if kind == "freeze":
            if not self._place.freeze(run_id):
                return False
            if fault.lasting is not None:
                self._loop.call_later(fault.lasting, self._place.go_on, run_id)
            return True
        for met in list(self._active) if kind == "lose_node" else [run_id]:
            if self._place.alive(met):
                active = self._active[met]
                active.node_lost = kind == "lose_node"
                active.out_of_memory |= kind == "out_of_memory"
                active.restarts = kind == "restart"
                self._place.kill(met)
        return True

    # From server to server.

    def _adopt(self) -> None:
        """Go on with what a server before this one has left, as far as its place can."""
        adopted = []
        for row in self._platform.store.all("SELECT * FROM placed ORDER BY run_id"):
            run_id, key = row["run_id"], row["key"]
            plan = make_plan(self._platform, run_id)
            active = self._active[run_id] = ActiveRun(run_id, plan, key, kept=True)
            run = self._platform.store.one("SELECT * FROM runs WHERE id = ?", run_id)
            assert run is not None
            active.begun = run["state"] == "running"
            active.cancelled = bool(run["cancel_requested"])
            self._platform.keys.runs[key] = run_id
            if self._place.adopt(plan, key, row["note"]):
                adopted.append(run_id)
                if active.cancelled:
                    self._place.terminate(run_id)
            else:
                del self._active[run_id]
                self._platform.keys.forget(key)
        self._platform.store.fail_unfinished(but=adopted)

    def close(self) -> None:
        """End every run, but those that go on and can be adopted; store that the others failed."""
        self._closed = True
        left = self._place.close()
        for run_id in self._active:
            self.flush(run_id)
        self._active.clear()
        self._platform.store.fail_unfinished(but=left)


def _verdict(active: ActiveRun, ending: Ending) -> tuple[str, list[str]]:
    """Return the final state, and the log lines that the Platform gives a failure."""
    if active.cancelled or ending.cancelled_outside:
        return "cancelled", []
    if active.node_lost:
        return "failed", []  # the node is gone, and has written nothing
    code = 137 if ending.out_of_memory else ending.exit_code
    if code == 0:
        return "succeeded", []
    lines = [] if ending.why is None else ending.why.splitlines()
    if ending.out_of_memory:
        allowed = f"{active.plan.memory} MiB"
        lines.append(f"Process ran out of its allowed {allowed} of memory and was killed.")
    if code is not None:
        lines.append(f"Error on job: Process ended with an error, exiting: {code}.")
    return "failed", [*lines, "Failed"]
