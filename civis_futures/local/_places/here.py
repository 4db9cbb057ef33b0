"""Runs as child processes of the server: started, measured, reaped on SIGCHLD, ended for certain.

What kind of child a run is, a plain process or the client of a container, is not known here. No
thread waits for a run, and nothing polls while nothing runs. Only measurements (`meter.measure`)
are made in a thread; they share nothing.
"""

from __future__ import annotations

import asyncio
import dataclasses
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Protocol

from .guard import kill_marked
from .guard_process import GuardProcess
from .meter import Sample, measure
from .place import Capacity, Ending, LaunchPlan, RunListener
from .plain import own_python
from .process import RunProcess

METER_SECONDS = 0.12  # between two measurements, at least


class Launcher(Protocol):
    """Starts one kind of child."""

    def check(self) -> None:
        """Raise UnusableError if nothing can be started."""

    def launch(self, plan: LaunchPlan, key: str, folder: str, listener: RunListener) -> RunProcess:
        """Start a run, in a folder that is to be made, if it needs one; `begun` when it has begun.

        Raises OSError, ValueError or SubprocessError if that is impossible.
        """

    def close(self) -> bool:
        """Leave nothing behind, when all runs have ended; False, if the guard must do the rest."""


@dataclasses.dataclass(frozen=True)
class RunChild:
    """One run that has a process."""

    plan: LaunchPlan
    folder: str
    process: RunProcess

    @property
    def alive(self) -> bool:
        """Whether the process has not been reaped."""
        return self.process.exit_code is None


class Here:
    """The machine that we are on."""

    def __init__(
        self, launcher: Launcher, capacity: Capacity, guard: GuardProcess, mark: str, work: Path
    ) -> None:
        self._launcher = launcher
        self._capacity = capacity
        self._guard = guard
        self._mark = mark
        self._work = work
        self._listener: RunListener
        self._children: dict[int, RunChild] = {}
        self._loop = asyncio.get_running_loop()
        self._started = 0  # how many processes; a run that is restarted has several
        self._metering = False
        self._closed = False
        self._loop.add_signal_handler(signal.SIGCHLD, self._reap)

    def check(self) -> None:
        """Raise UnusableError if nothing can run here."""
        self._launcher.check()

    def attach(self, listener: RunListener) -> None:
        """Say who is told."""
        self._listener = listener

    def fits(self, plan: LaunchPlan) -> bool:
        """Return whether there is room now."""
        return self._capacity.fits(plan, [child.plan for child in self._children.values()])

    def start(self, plan: LaunchPlan, key: str) -> None:
        """Start a process, at once."""
        # A new folder each time the run is started: that of the time before is being removed.
        self._started += 1
        folder = os.path.join(self._work, f"run-{plan.run_id}-{self._started}")
        try:
            process = self._launcher.launch(plan, key, folder, self._listener)
        except (OSError, ValueError, subprocess.SubprocessError) as error:
            self._remove_soon(folder)
            why = f"The container could not be started: {error}"
            self._listener.ended(plan.run_id, Ending(why=why))
            return
        self._children[plan.run_id] = RunChild(plan, folder, process)
        self._guard.started(process.pid)
        if process.measured:
            self._meter_soon(METER_SECONDS)

    def alive(self, run_id: int) -> bool:
        """Return whether it has begun, and its process has not been reaped."""
        child = self._children.get(run_id)
        return child is not None and child.alive and child.process.begun

    def terminate(self, run_id: int) -> None:
        """Send TERM, and KILL after its `cancel_timeout`."""
        child = self._children[run_id]
        child.process.terminate()
        self._loop.call_later(child.plan.cancel_timeout, child.process.kill)

    def kill(self, run_id: int) -> None:
        """End all its processes."""
        self._children[run_id].process.kill()

    def freeze(self, run_id: int) -> bool:
        """Stop all its processes, if they can be reached."""
        return self._children[run_id].process.stop()

    def go_on(self, run_id: int) -> None:
        """Continue them."""
        child = self._children.get(run_id)
        if child is not None:
            child.process.go_on()

    def pids(self) -> dict[int, list[int]]:
        """Return the pids of each run, as far as they are known."""
        return {
            run_id: child.process.pids()
            for run_id, child in self._children.items()
            if child.process.begun
        }

    def adopt(self, *_: object) -> bool:
        """Refuse: what a server has started ends with it."""
        return False

    # While a run runs.

    def _meter_soon(self, seconds: float) -> None:
        if not self._metering:
            self._metering = True
            self._loop.call_later(seconds, self._meter)

    def _meter(self) -> None:
        self._metering = False
        limits = {
            child.process.pid: child.plan.memory
            for child in self._children.values()
            if child.alive and child.process.measured
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
            for child in list(self._children.values()):
                if child.alive and child.process.pid in samples:
                    child.process.note(samples[child.process.pid])
        else:
            print(f"The meter failed: {error!r}", file=sys.stderr)
        self._meter_soon(pause)

    # From running to its end.

    def _reap(self) -> None:
        self._guard.check()
        for child in list(self._children.values()):
            process = child.process
            if child.alive and process.reap():
                self._guard.ended(process.pid)
                for pipe in process.pipes:
                    pipe.drain()
                # A process that left the session may hold a pipe: its last lines get 0.25 s.
                grace = 0.25 if any(pipe.open for pipe in process.pipes) else 0.0
                self._loop.call_later(grace, self._finish, child)

    def _finish(self, child: RunChild) -> None:
        """Tell how a run ended."""
        if self._closed:
            return
        child.process.close()  # brings the last lines
        ending = child.process.ending()
        del self._children[child.plan.run_id]
        self._remove_soon(child.folder)
        self._listener.ended(child.plan.run_id, ending)

    def _remove_soon(self, folder: str) -> None:
        for path in (folder, own_python(folder)):
            self._loop.run_in_executor(None, _remove, path)

    def close(self) -> frozenset[int]:
        """End every run; none goes on."""
        self._closed = True
        self._loop.remove_signal_handler(signal.SIGCHLD)
        for child in self._children.values():
            child.process.kill()
        latest = time.monotonic() + 3.0
        for child in self._children.values():
            while not child.process.reap() and time.monotonic() < latest:
                time.sleep(0.002)  # it has been sent KILL
                for pipe in child.process.pipes:
                    pipe.drain()  # a client may have more to pass on than a pipe holds
            if child.alive:
                self._guard.finish_later()
            child.process.close()
            child.process.ending()
        if self._children:
            kill_marked(self._mark)
        self._children.clear()
        if not self._launcher.close():
            self._guard.finish_later()
        return frozenset()


def _remove(folder: str) -> None:
    """Remove a run's folder, even where the run took away its own permissions; in a thread."""
    shutil.rmtree(folder, ignore_errors=True)
    if os.path.isdir(folder):
        for path, _, _ in os.walk(folder):
            os.chmod(path, 0o700)
        shutil.rmtree(folder, ignore_errors=True)
