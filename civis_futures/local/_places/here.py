"""Runs as child processes of the server: started, measured, reaped on SIGCHLD, ended for certain.

No thread waits for a run, and nothing polls while nothing runs. Only measurements (`meter.measure`)
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

from .._settings import KEY_VARIABLE
from .guard import kill_marked
from .guard_process import GuardProcess
from .meter import Sample, measure
from .place import Capacity, Ending, LaunchPlan, Told
from .private import make as make_private
from .private import may_install
from .process import RunProcess

METER_SECONDS = 0.12  # between two measurements, at least
LOCALE = "C.UTF-8" if sys.platform.startswith("linux") else "en_US.UTF-8"


@dataclasses.dataclass
class RunChild:
    """One run that has a process."""

    plan: LaunchPlan
    folder: str
    process: RunProcess
    out_of_memory: bool = False
    max_memory: float = 0.0  # MB
    max_cpu: float = 0.0  # cores
    measured: tuple[float, float] | None = None  # time (monotonic, s), seconds of CPU until then

    @property
    def alive(self) -> bool:
        """Whether the process has not been reaped."""
        return self.process.exit_code is None


class Here:
    """The machine that we are on. What runs write has the file mode mask `umask`."""

    def __init__(
        self, capacity: Capacity, guard: GuardProcess, mark: str, work: Path, umask: int
    ) -> None:
        self._capacity = capacity
        self._guard = guard
        self._mark = mark
        self._work = work
        self._umask = umask
        self._told: Told
        self._children: dict[int, RunChild] = {}
        self._loop = asyncio.get_running_loop()
        self._started = 0  # how many processes; a run that is restarted has several
        self._metering = False
        self._closed = False
        self._loop.add_signal_handler(signal.SIGCHLD, self._reap)

    def check(self) -> None:
        """Nothing is needed that is not here."""

    def attach(self, told: Told) -> None:
        """Say who is told."""
        self._told = told

    def fits(self, plan: LaunchPlan) -> bool:
        """Return whether there is room now."""
        return self._capacity.fits(plan, [child.plan for child in self._children.values()])

    def start(self, plan: LaunchPlan, key: str) -> None:
        """Start a process, at once."""
        # A new folder each time the run is started: that of the time before is being removed.
        self._started += 1
        folder = os.path.join(self._work, f"run-{plan.run_id}-{self._started}")
        if plan.repository is not None:
            note = f"The local platform does not clone {plan.repository}: there is no /app."
            self._told.printed(plan.run_id, [(time.time(), "info", note)])
        try:
            process = self._launch(plan, key, folder)
        except (OSError, ValueError, subprocess.SubprocessError) as error:
            self._remove_soon(folder)
            why = f"The container could not be started: {error}"
            self._told.ended(plan.run_id, Ending(why=why))
            return
        self._children[plan.run_id] = RunChild(plan, folder, process)
        self._guard.started(process.pid)
        self._told.begun(plan.run_id, None)
        self._meter_soon(METER_SECONDS)

    def _launch(self, plan: LaunchPlan, key: str, folder: str) -> RunProcess:
        if plan.command is None:
            raise ValueError("the script has no dockerCommand, and there is no image here")
        os.makedirs(os.path.join(folder, "tmp"), mode=0o700)
        environment = _environment(folder, key)
        if may_install(plan.command):  # then it gets a Python of its own
            commands, own = Path(self._work, "commands"), Path(_own_python(folder))
            environment |= make_private(own, commands, environment["PATH"])
        environment |= plan.environment
        run_id = plan.run_id
        return RunProcess(
            plan.command,
            environment,
            folder,
            self._umask,
            lambda lines: self._told.printed(run_id, lines),
        )

    def alive(self, run_id: int) -> bool:
        """Return whether its process has not been reaped."""
        child = self._children.get(run_id)
        return child is not None and child.alive

    def terminate(self, run_id: int) -> None:
        """Send TERM to its process group, and KILL after its `cancel_timeout`."""
        child = self._children[run_id]
        child.process.terminate()
        self._loop.call_later(child.plan.cancel_timeout, child.process.kill)

    def kill(self, run_id: int) -> None:
        """End all processes of its session and its tree."""
        self._children[run_id].process.kill()

    def freeze(self, run_id: int) -> bool:
        """Stop all processes of its session."""
        self._children[run_id].process.stop()
        return True

    def go_on(self, run_id: int) -> None:
        """Continue them."""
        child = self._children.get(run_id)
        if child is not None:
            child.process.go_on()

    def pids(self) -> dict[int, list[int]]:
        """Return the pids of each run, as the meter found them last."""
        return {run_id: child.process.pids() for run_id, child in self._children.items()}

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
            child.process.pid: child.plan.memory for child in self._children.values() if child.alive
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
                    _note_sample(child, samples[child.process.pid])
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
        process = child.process
        process.close()  # brings the last lines
        wall = max(time.monotonic() - process.started, 0.001)
        del self._children[child.plan.run_id]
        self._remove_soon(child.folder)
        ending = Ending(
            exit_code=process.exit_code,
            out_of_memory=child.out_of_memory,
            max_memory=max(child.max_memory, process.own_memory),
            max_cpu=max(child.max_cpu, process.cpu_seconds / wall),
        )
        self._told.ended(child.plan.run_id, ending)

    def _remove_soon(self, folder: str) -> None:
        for path in (folder, _own_python(folder)):
            self._loop.run_in_executor(None, _remove, path)

    def close(self) -> frozenset[int]:
        """End every run; none goes on."""
        self._closed = True
        self._loop.remove_signal_handler(signal.SIGCHLD)
        for child in self._children.values():
            child.process.kill()
        for child in self._children.values():
            while not child.process.reap():
                time.sleep(0.002)  # it has been sent KILL
            child.process.close()
        if self._children:
            kill_marked(self._mark)
        self._children.clear()
        return frozenset()


def _note_sample(child: RunChild, sample: Sample) -> None:
    now = time.monotonic()
    child.process.sample = sample
    child.max_memory = max(child.max_memory, sample.memory)
    if child.measured is not None:
        then, before = child.measured
        child.max_cpu = max(child.max_cpu, (sample.cpu_seconds - before) / (now - then))
    child.measured = now, sample.cpu_seconds
    if sample.over and not child.out_of_memory:
        child.out_of_memory = True
        child.process.kill()


def _environment(folder: str, key: str) -> dict[str, str]:
    """Return the variables that depend on the process: where it is at home, and its key."""
    here = os.path.dirname(sys.executable)
    return {
        "PATH": f"{here}{os.pathsep}/usr/local/bin:/usr/local/sbin:/usr/bin:/usr/sbin:/bin:/sbin",
        "HOME": folder,
        "TMPDIR": os.path.join(folder, "tmp"),
        "LANG": LOCALE,
        "LC_ALL": LOCALE,
        KEY_VARIABLE: key,
    }


def _own_python(folder: str) -> str:
    """Where a run's own Python is, if it has one: beside its home, which is empty at first."""
    return f"{folder}-python"


def _remove(folder: str) -> None:
    """Remove a run's folder, even where the run took away its own permissions; in a thread."""
    shutil.rmtree(folder, ignore_errors=True)
    if os.path.isdir(folder):
        for path, _, _ in os.walk(folder):
            os.chmod(path, 0o700)
        shutil.rmtree(folder, ignore_errors=True)
