"""A real Slurm cluster on this machine, and the scheduler of the documentation's example."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
from pathlib import Path

import psutil
from raw import Api, until

from civis_futures.local import LocalPlatform, Slurm

HERE = Path(__file__).parent / "engines"
EXAMPLE = HERE.parents[1] / "docs" / "examples" / "background.py"
NEEDED = ("sbatch", "squeue", "scancel", "scontrol", "slurmctld", "slurmd", "munged")
BEGUN = "The container runs at "
SMALL = {"cpu": 64, "memory": 150}


class Elsewhere(Api):
    """Requests to a platform, for runs that are small enough for its machines."""

    def __init__(self, platform):
        super().__init__(platform.url, platform.api_key)

    def create(self, command="true", **fields):
        return super().create(command, **{"requiredResources": SMALL, **fields})

    def printed(self, job, run, level=None):
        """Without what the platform itself says before a run begins."""
        lines = self.logs(job, run, level)
        begun = [number for number, line in enumerate(lines) if line.startswith(BEGUN)]
        return lines[begun[0] + 1 :] if begun else lines


def agents(folder):
    """The jobs of the example's scheduler that run."""
    groups = {int(file.read_text()): file.stem for file in Path(folder).glob("*.pid")}
    found = set()
    for process in psutil.process_iter(["status"]):
        with contextlib.suppress(OSError):
            if process.info["status"] != psutil.STATUS_ZOMBIE:
                found.add(groups.get(os.getpgid(process.pid)))
    return found - {None}


class Cluster:
    """Three nodes, each a small machine of its own, on this one; for one process of tests."""

    def __init__(self, folder):
        self.folder = Path(folder)
        # So that several processes may have one each.
        self.prefix = f"t{os.getpid()}n"
        self.environment = {"SLURM_CONF": str(self.folder / "slurm.conf")}
        # Folders of runs on a node that crashes are left to whoever clears up after the machine.
        self.setup = f"TMPDIR={self.folder}/tmp; export TMPDIR; mkdir -p -m 1777 $TMPDIR"

    def begin(self, *arguments, **environment):
        command = [HERE / "start-slurm.sh", self.folder, *arguments]
        subprocess.run(
            command,
            check=True,
            capture_output=True,
            timeout=120,
            env={**os.environ, **environment},
        )

    @property
    def address(self):
        """Where its nodes find us: their 127.0.0.1 is not ours."""
        hosts = (self.folder / "hosts").read_text().split("\n")
        return next(line.split()[0] for line in hosts if line.endswith(" ctl"))

    def platform(self, tls=False, **options):
        """A platform on this cluster; options of the engine that are not the platform's."""
        own = {name: options.pop(name) for name in ("state", "log") if name in options}
        engine = Slurm(**{"pause": 1, "setup": self.setup, **options})
        return LocalPlatform(engine=engine, advertise=self.address, plain_http=not tls, **own)

    def end(self):
        command = [HERE / "stop-slurm.sh", self.folder, "--remove"]
        subprocess.run(command, check=True, capture_output=True, timeout=60)

    def __call__(self, *command, check=True):
        done = subprocess.run(
            command,
            check=check,
            capture_output=True,
            text=True,
            timeout=60,
            env={**os.environ, **self.environment},
        )
        return done.stdout

    def jobs(self, column="JobID"):
        """Of all jobs of ours that wait or run."""
        return self("squeue", "--noheader", f"--Format={column}:|").replace("|", "").split()

    def kill(self, name, number=signal.SIGKILL):
        """End a daemon, by the pid that it was started with."""
        pid = int((self.folder / "pids" / name).read_text().split()[0])
        os.kill(pid, number)
        until(lambda: not psutil.pid_exists(pid) or psutil.Process(pid).status() == "zombie")

    def stop_controller(self):
        """As for an update. (One that is killed forgets the jobs of the last seconds.)"""
        self.kill("slurmctld", signal.SIGTERM)


def missing_slurm():
    """Why no cluster can be had here, or None."""
    path = f"{os.environ['PATH']}:/usr/sbin:/sbin"
    missing = [name for name in NEEDED if shutil.which(name, path=path) is None]
    if missing:
        return f"there is no {', '.join(missing)}: make engines"
    return None if os.geteuid() == 0 else "a cluster for tests needs root"
