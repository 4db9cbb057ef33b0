"""Platforms whose runs are elsewhere: on a scheduler of our own, and on a real Slurm cluster."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
from pathlib import Path

import psutil
import pytest
from local.conftest import Api, until

from civis_futures.local import LocalPlatform, OwnEngine, Slurm

HERE = Path(__file__).parent
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


# --- a scheduler of our own


@pytest.fixture
def background(tmp_path):
    """background(...): a platform on the scheduler of the example, and requests to it."""
    running = []

    def start(lease=60, engine=None, **options):
        folder = f"folder={tmp_path / 'jobs'}"
        if engine is None:
            engine = OwnEngine(str(EXAMPLE), options=(folder,), pause=1, lease=lease)
        platform = LocalPlatform(engine=engine, log=tmp_path / "log", **options)
        platform.start()
        running.append(platform)
        return platform, Elsewhere(platform)

    yield start
    for platform in running:
        platform.stop()
    until(lambda: not agents(tmp_path / "jobs"), 30)


def agents(folder):
    """The jobs of the example's scheduler that run."""
    groups = {int(file.read_text()): file.stem for file in Path(folder).glob("*.pid")}
    found = set()
    for process in psutil.process_iter(["status"]):
        with contextlib.suppress(OSError):
            if process.info["status"] != psutil.STATUS_ZOMBIE:
                found.add(groups.get(os.getpgid(process.pid)))
    return found - {None}


# --- a real cluster


class Cluster:
    """Three nodes, each a small machine of its own, on this one; for one process of tests."""

    def __init__(self, folder):
        self.folder = Path(folder)
        # So that several processes may have one each.
        self.prefix = f"t{os.getpid()}n"
        self.environment = {"SLURM_CONF": str(self.folder / "slurm.conf")}

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
        engine = Slurm(**{"pause": 1, **options})
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


def needs_slurm():
    """Skip, where Slurm is not there; fail where it has to be."""
    path = f"{os.environ['PATH']}:/usr/sbin:/sbin"
    missing = [name for name in NEEDED if shutil.which(name, path=path) is None]
    why = f"not installed: {', '.join(missing)}" if missing else ""
    if not why and os.geteuid() != 0:
        why = "a cluster for tests needs root"
    if why and os.environ.get("CIVIS_FUTURES_ENGINES") == "required":
        pytest.fail(f"Slurm has to be tested here, and it is {why}")
    if why:
        pytest.skip(f"Slurm is not tested here ({why}); `make engines` installs it")


@pytest.fixture(scope="session")
def cluster(tmp_path_factory):
    needs_slurm()
    cluster = Cluster(tmp_path_factory.mktemp("slurm"))
    extra = f"PartitionName=closed Nodes={cluster.prefix}1 State=INACTIVE"
    cluster.begin(
        "3", SLURM_APART="1", SLURM_EXTRA=extra, SLURM_KILL_WAIT="2", SLURM_PREFIX=cluster.prefix
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SLURM_CONF", cluster.environment["SLURM_CONF"])
        yield cluster
    cluster.end()


@pytest.fixture(scope="session")
def on_slurm(cluster, tmp_path_factory):
    """A platform on that cluster."""
    log = tmp_path_factory.mktemp("platform") / "log"
    with cluster.platform(log=log) as platform:
        yield platform


@pytest.fixture
def slurm(on_slurm, cluster):
    """Requests to it; no job is left."""
    yield Elsewhere(on_slurm)
    until(lambda: not cluster.jobs(), 30)
