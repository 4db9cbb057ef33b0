"""The queue of runs, the capacity of the platform, and each run's way from queued to its end.

All of it happens on the event loop's thread, but for measurements (`meter.measure`), which share
nothing. Processes are reaped on SIGCHLD; no thread waits for a run, and nothing polls while nothing
runs.
"""

from __future__ import annotations

import asyncio
import collections
import dataclasses
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

from .._api import documents
from .._api.runs import begin
from .._faults.fault import Fault
from .._faults.rules import Rule
from .._schema.exchange import ApiError
from .._state import Platform
from .guard import kill_marked
from .guard_process import GuardProcess
from .launch import LaunchPlan, plan, process_environment
from .meter import Sample, measure
from .private import make as make_private
from .private import may_install
from .process import Line, RunProcess
from .run_faults import RunFaults

METER_SECONDS = 0.12  # between two measurements, at least


@dataclasses.dataclass
class ActiveRun:
    """One run that has a process."""

    run_id: int
    launch: LaunchPlan
    key: str
    folder: str
    process: RunProcess | None = None
    lines: list[Line] = dataclasses.field(default_factory=list)  # not in the store yet
    flushing: asyncio.TimerHandle | None = None
    cancelled: bool = False
    out_of_memory: bool = False
    node_lost: bool = False
    restarts: bool = False
    max_memory: float = 0.0  # MB
    max_cpu: float = 0.0  # cores
    measured: tuple[float, float] | None = None  # time (monotonic, s), seconds of CPU until then


class Runner:
    """Runs the containers. What they write has the file mode mask `umask`."""

    def __init__(self, platform: Platform, guard: GuardProcess, umask: int) -> None:
        self._platform = platform
        self._umask = umask
        self._guard = guard
        self._delayed: dict[int, asyncio.TimerHandle] = {}  # queued, before their `start_delay`
        self._waiting: collections.deque[int] = collections.deque()  # queued, for room
        self._active: dict[int, ActiveRun] = {}
        self._loop = asyncio.get_running_loop()
        self._started = 0  # how many processes; a run that is restarted has several
        self._metering = False
        self._start_due = False
        self._closed = False
        self._faults = RunFaults(platform, self._apply_fault)
        self._loop.add_signal_handler(signal.SIGCHLD, self._reap)

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
        elif active.process is not None and not active.cancelled:
            active.cancelled = active.restarts or active.process.exit_code is None
            active.process.terminate()
            self._loop.call_later(active.launch.cancel_timeout, active.process.kill)

    def add_faults(self, rules: list[Rule]) -> None:
        """Let the runs that there are meet new faults."""
        self._faults.rules_added(rules, [*self._delayed, *self._waiting], self._active)

    def flush(self, run_id: int) -> None:
        """Write what a run has printed so far."""
        active = self._active.get(run_id)
        if active is not None and active.lines:
            lines, active.lines = active.lines, []
            self._platform.store.add_logs(run_id, lines)

    def queued(self) -> int:
        """Return how many runs wait."""
        return len(self._delayed) + len(self._waiting)

    def active(self) -> dict[int, list[int]]:
        """Return the pids of each run that has any."""
        return {
            active.run_id: active.process.pids()
            for active in self._active.values()
            if active.process is not None
        }

    # From queued to running.

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
        launch = plan(self._platform, self._waiting[0])
        if not self._fits(launch):
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
            self._start(run_id, launch)
        self._start_soon()

    def _fail_unstarted(self, run_id: int) -> None:
        now = self._platform.now()
        lines = ("Error on job: The Docker image could not be pulled.", "Failed")
        self._platform.store.add_logs(run_id, [(now, "error", line) for line in lines])
        self._platform.store.update("runs", run_id, state="failed", finished_at=now, updated_at=now)
        self._faults.run_ended(run_id)

    def _fits(self, launch: LaunchPlan) -> bool:
        """Return whether there is room; a run that asks for more than there is runs alone."""
        if not self._active:
            return True
        settings = self._platform.settings
        running = [active.launch for active in self._active.values()]
        cpu = launch.cpu + sum(other.cpu for other in running)
        memory = launch.memory + sum(other.memory for other in running)
        enough = settings.memory is None or memory <= settings.memory
        return enough and cpu <= settings.capacity_millicores()

    def _start(self, run_id: int, launch: LaunchPlan) -> None:
        now = self._platform.now()
        self._platform.store.update("runs", run_id, state="running", started_at=now, updated_at=now)
        # A new folder each time the run is started: that of the time before is being removed.
        self._started += 1
        folder = os.path.join(self._platform.store.work, f"run-{run_id}-{self._started}")
        active = ActiveRun(run_id, launch, self._platform.keys.for_run(run_id), folder)
        self._active[run_id] = active
        self._note(active, [("info", note) for note in launch.notes])
        try:
            if launch.command is None:
                raise ValueError("the script has no dockerCommand, and there is no image here")
            os.makedirs(os.path.join(folder, "tmp"), mode=0o700)
            environment = self._environment(active, launch.command)
            active.process = RunProcess(
                launch.command,
                environment,
                folder,
                self._umask,
                lambda lines: self._gather(active, lines),
            )
        except (OSError, ValueError, subprocess.SubprocessError) as error:
            self._note(active, [("error", f"The container could not be started: {error}")])
            self._finish(active, None)
            return
        self._guard.started(active.process.pid)
        self._faults.run_started(run_id)
        self._meter_soon(METER_SECONDS)

    def _environment(self, active: ActiveRun, command: str) -> dict[str, str]:
        """The variables of a run; one that may install something gets a Python of its own."""
        found = process_environment(active.folder, active.key)
        if may_install(command):
            commands = Path(self._platform.store.work, "commands")
            found |= make_private(Path(_own_python(active)), commands, found["PATH"])
        return {**found, **active.launch.environment}

    # While it runs.

    def _gather(self, active: ActiveRun, lines: list[Line]) -> None:
        ahead = self._platform.rules.ahead
        active.lines += [(when + ahead, level, text) for when, level, text in lines]
        self._faults.run_printed(active.run_id, lines)
        if len(active.lines) >= 2_000:
            self.flush(active.run_id)
        elif active.flushing is None:
            active.flushing = self._loop.call_later(0.05, self._flush_due, active)

    def _flush_due(self, active: ActiveRun) -> None:
        active.flushing = None
        self.flush(active.run_id)

    def _note(self, active: ActiveRun, lines: list[tuple[str, str]]) -> None:
        """Write the platform's own lines, after all that the run printed."""
        self.flush(active.run_id)
        now = self._platform.now()
        self._platform.store.add_logs(active.run_id, [(now, *line) for line in lines])

    def _meter_soon(self, seconds: float) -> None:
        if not self._metering:
            self._metering = True
            self._loop.call_later(seconds, self._meter)

    def _meter(self) -> None:
        self._metering = False
        limits = {
            active.process.pid: active.launch.memory
            for active in self._active.values()
            if active.process is not None and active.process.exit_code is None
        }
        if not limits or self._closed:
            return
        self._metering = True
        measurement = self._loop.run_in_executor(None, measure, limits)
        measurement.add_done_callback(self._measured)

    def _measured(self, measurement: asyncio.Future[tuple[dict[int, Sample], float]]) -> None:
        self._metering = False
        if self._closed or measurement.cancelled():
            return
        pause = METER_SECONDS
        error = measurement.exception()
        if error is None:
            samples, cost = measurement.result()
            pause = max(METER_SECONDS, 10 * cost)  # at most a tenth of the time is spent on it
            for active in list(self._active.values()):
                process = active.process
                if process is not None and process.exit_code is None and process.pid in samples:
                    self._note_sample(active, process, samples[process.pid])
        else:
            print(f"The meter failed: {error!r}", file=sys.stderr)
        self._meter_soon(pause)

    def _note_sample(self, active: ActiveRun, process: RunProcess, sample: Sample) -> None:
        now = time.monotonic()
        process.sample = sample
        active.max_memory = max(active.max_memory, sample.memory)
        if active.measured is not None:
            then, before = active.measured
            active.max_cpu = max(active.max_cpu, (sample.cpu_seconds - before) / (now - then))
        active.measured = now, sample.cpu_seconds
        if sample.over and not active.out_of_memory:
            active.out_of_memory = True
            process.kill()

    def _apply_fault(self, fault: Fault, run_id: int) -> bool:
        """Let a fault happen to a run, unless that has ended; return whether it did."""
        kind = fault.kind
        running = {
            active.run_id: (active, active.process)
            for active in self._active.values()
            if active.process is not None and active.process.exit_code is None
        }
        if run_id not in running:
            return False
        if kind == "cancel":
            self.cancel(run_id)
            return True
        if kind == "freeze":
            process = running[run_id][1]
            process.stop()
            if fault.lasting is not None:
                self._loop.call_later(fault.lasting, process.go_on)
            return True
        for active, process in running.values() if kind == "lose_node" else [running[run_id]]:
            active.node_lost = kind == "lose_node"
            active.out_of_memory |= kind == "out_of_memory"
            active.restarts = kind == "restart"
            process.kill()
        return True

    # From running to its end.

    def _reap(self) -> None:
        self._guard.check()
        for active in list(self._active.values()):
            process = active.process
            if process is not None and process.exit_code is None and process.reap():
                self._guard.ended(process.pid)
                for pipe in process.pipes:
                    pipe.drain()
                # A process that left the session may hold a pipe: its last lines get 0.25 s.
                grace = 0.25 if any(pipe.open for pipe in process.pipes) else 0.0
                self._loop.call_later(grace, self._finish, active, process)

    def _finish(self, active: ActiveRun, process: RunProcess | None) -> None:
        """Store how a run ended, and make room for the next."""
        run_id = active.run_id
        if run_id not in self._active:
            return
        code: int | None = None
        if process is not None:
            process.close()  # brings the last lines
            code = process.exit_code
            wall = max(time.monotonic() - process.started, 0.001)
            active.max_memory = max(active.max_memory, process.own_memory)
            active.max_cpu = max(active.max_cpu, process.cpu_seconds / wall)
        self.flush(run_id)
        self._faults.run_ended(run_id)
        del self._active[run_id]
        self._platform.keys.forget(active.key)
        if active.flushing is not None:
            active.flushing.cancel()
        for folder in (active.folder, _own_python(active)):
            self._loop.run_in_executor(None, _remove, folder)
        if active.restarts and not active.cancelled:
            self._requeue(run_id)
        else:
            self._write_end(active, code)
            self._start_soon()

    def _requeue(self, run_id: int) -> None:
        """Queue a run whose container was taken away, as if it had never started."""
        now = self._platform.now()
        self._platform.store.update("runs", run_id, state="queued", started_at=None, updated_at=now)
        self._wait_for_start(run_id)

    def _write_end(self, active: ActiveRun, code: int | None) -> None:
        run_id, state, now = active.run_id, self._final_state(active, code), self._platform.now()
        self._platform.store.update(
            "runs",
            run_id,
            state=state,
            finished_at=now,
            updated_at=now,
            max_memory=round(active.max_memory, 2),
            max_cpu=round(active.max_cpu * 1000, 1),
        )
        if state == "succeeded":
            self._succeeded(active)

    def _final_state(self, active: ActiveRun, code: int | None) -> str:
        """Return the final state, with the log lines that the Platform gives a failure."""
        if active.cancelled:
            return "cancelled"
        if active.node_lost:
            return "failed"  # the node is gone, and has written nothing
        if active.out_of_memory:
            code = 137
        if code == 0:
            return "succeeded"
        lines = ["Failed"]
        if code is not None:
            lines.insert(0, f"Error on job: Process ended with an error, exiting: {code}.")
        if active.out_of_memory:
            allowed = f"{active.launch.memory} MiB"
            lines.insert(0, f"Process ran out of its allowed {allowed} of memory and was killed.")
        now = self._platform.now()
        self._platform.store.add_logs(active.run_id, [(now, "error", line) for line in lines])
        return "failed"

    def _succeeded(self, active: ActiveRun) -> None:
        """Note it, and start the jobs that this one's success triggers."""
        store = self._platform.store
        store.update("scripts", active.launch.job_id, last_success_id=active.run_id)
        sql = f"{documents.jobs_sql(self._platform)} WHERE parent_id = ? AND NOT archived"
        for row in store.all(sql, active.launch.job_id):
            try:
                begin(self._platform, row, ApiError(409, "conflict", "already active"))
            except ApiError as error:
                print(f"Job {row['id']} was not triggered: {error}", file=sys.stderr)

    def close(self) -> None:
        """End every run; what was active is written down as failed by the store."""
        self._closed = True
        self._loop.remove_signal_handler(signal.SIGCHLD)
        for active in self._active.values():
            if active.process is not None:
                active.process.kill()
        for active in self._active.values():
            if active.process is not None:
                while not active.process.reap():
                    time.sleep(0.002)  # it has been sent KILL
                active.process.close()
                self.flush(active.run_id)
        if self._active:
            kill_marked(self._platform.keys.mark)
        self._active.clear()


def _own_python(active: ActiveRun) -> str:
    """Where a run's own Python is, if it has one: beside its home, which is empty at first."""
    return f"{active.folder}-python"


def _remove(folder: str) -> None:
    """Remove a run's folder, even where the run took away its own permissions; in a thread."""
    shutil.rmtree(folder, ignore_errors=True)
    if os.path.isdir(folder):
        for path, _, _ in os.walk(folder):
            os.chmod(path, 0o700)
        shutil.rmtree(folder, ignore_errors=True)
