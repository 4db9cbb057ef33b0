"""The engines that the contract is tested on: each one is a `Kit`, which says what is its own.

Where an engine is not there its tests are skipped, and say so; an engine that is named in the
variable CIVIS_TEST_ENGINES ("podman slurm") must be there, and its tests fail.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import joblib
import psutil
import pytest
from cluster import Cluster, missing_slurm
from raw import Api, until

from civis_futures import Container, ContainerPoolExecutor
from civis_futures.local import Docker, LocalPlatform, Podman, Slurm

IMAGE = os.environ.get("CIVIS_TEST_IMAGE", "localhost/civis-test:latest")
#: MB; what a worker with a child needs is some 40.
MEMORY = 150


class Kit:
    """What tests need to know of one engine."""

    name = "process"
    freezes = True
    #: How a run has ended that somebody killed, and not us: its state, and what its log says.
    killed = ("failed", "Error on job: Process ended with an error, exiting: 137.")
    #: How lines of a run's log begin that are the platform's, and not the run's.
    says: tuple[str, ...] = ()
    #: The cluster that it is on, if it is on one.
    cluster: Cluster | None = None
    #: Why calls cannot be run there by this Python, if they cannot.
    no_pool: str | None = None

    def missing(self) -> str | None:
        """Why it cannot be tested here, if it cannot."""
        return None

    def engine(self):
        """What `LocalPlatform` is given."""
        return "process"

    def platform(self) -> dict[str, object]:
        """What else `LocalPlatform` is given."""
        return {}

    def fields(self) -> dict[str, object]:
        """What a script needs."""
        return {}

    def container(self, **fields) -> Container:
        """What a pool needs."""
        return Container(required_resources={"cpu": 64, "memory": MEMORY}, **fields)

    def kill(self, platform, run_id) -> None:
        """End a run as somebody would who knows nothing of us."""
        for pid in platform.stats().active[run_id]:
            with contextlib.suppress(psutil.Error):
                psutil.Process(pid).kill()

    def left(self) -> list[str]:
        """What is left of ended platforms that should not be."""
        return []


class ContainerKit(Kit):
    """Of an engine for containers, which is called by its name."""

    #: How it is started, besides.
    limits: tuple[str, ...] = ()

    def engine(self):
        kind = {"podman": Podman, "docker": Docker}[self.name]
        # The image has nothing but Python.
        folder = Path(joblib.__file__).parent
        return kind(extra=(f"--volume={folder}:/usr/lib/python3/dist-packages/joblib:ro",))

    def fields(self):
        name, _, tag = IMAGE.rpartition(":")
        return {"dockerImageName": name, "dockerImageTag": tag}

    def container(self, **fields):
        name, _, tag = IMAGE.rpartition(":")
        image = {"docker_image_name": name, "docker_image_tag": tag}
        return super().container(**(image | fields))

    def kill(self, platform, run_id):
        name = self("ps", "--filter", f"name=-{run_id}-", "--format", "{{.Names}}").strip()
        self("kill", name)

    def left(self):
        return self("ps", "-a", "--filter", "label=civis-futures", "--format", "{{.Names}}").split()

    def look_into_the_image(self):
        """Note why this Python's calls cannot be run there, if they cannot."""
        version = f"{sys.version_info.major}.{sys.version_info.minor}"
        inside = self("run", "--rm", "--network=none", *self.limits, IMAGE, "python3", "-V")
        if not inside.startswith(f"Python {version}."):
            self.no_pool = f"the image of the tests has {inside.strip()}, and this is {version}"

    def __call__(self, *arguments):
        command = [self.name, *arguments]
        return subprocess.run(
            command, capture_output=True, text=True, check=True, timeout=60
        ).stdout


class PodmanKit(ContainerKit):
    name = "podman"
    # Of files and processes: it asks for more than root in a container may have.
    limits = ("--ulimit=nofile=1024:1024", "--ulimit=nproc=1024:1024")

    def missing(self):
        if shutil.which("podman") is None:
            return "there is no podman"
        if subprocess.run(["podman", "image", "exists", IMAGE], check=False).returncode:
            return f"podman has no image {IMAGE}: make engines"
        return None

    def left(self):
        top = Path("/sys/fs/cgroup")
        groups = [*top.glob("civis-futures-*"), *top.glob("*/civis-futures-*")]
        return [*super().left(), *map(str, groups)]


class DockerKit(ContainerKit):
    name = "docker"
    freezes = False

    def missing(self):
        path = f"{os.environ['PATH']}:/usr/sbin:/sbin"
        missing = [name for name in ("docker", "dockerd") if shutil.which(name, path=path) is None]
        if missing:
            return f"there is no {' and no '.join(missing)}: make engines"
        if os.geteuid() != 0:
            return "a daemon for tests needs root"
        return PodmanKit().missing()  # who has the image


class SlurmKit(Kit):
    name = "slurm"
    says = ("The container runs at ", "Slurm: ")

    def missing(self):
        return missing_slurm()

    def engine(self):
        return Slurm(pause=1, setup=self.cluster.setup)

    def platform(self):
        return {"advertise": self.cluster.address, "plain_http": True}

    def kill(self, platform, run_id):
        listed = self.cluster("squeue", "-h", "-O", "JobID:|,Name:|").splitlines()
        (job,) = [line.split("|")[0] for line in listed if f"-{run_id}-" in line]
        self.cluster("scancel", "--signal=KILL", "--batch", job)

    def left(self):
        return self.cluster.jobs()


KITS = {kit.name: kit for kit in (Kit, PodmanKit, DockerKit, SlurmKit)}


def ready(name: str, reason: str | None) -> None:
    """Skip, unless it must not be skipped."""
    if reason is not None:
        if name in os.environ.get("CIVIS_TEST_ENGINES", "").split():
            pytest.fail(f"{name} must be tested, and {reason}")
        pytest.skip(f"not tested with {name}: {reason}")


REPEATS = {"docker": pytest.mark.repeats}  # it is called as podman is


@pytest.fixture(
    scope="session", params=[pytest.param(name, marks=REPEATS.get(name, ())) for name in KITS]
)
def kit(request):
    kit = KITS[request.param]()
    ready(kit.name, kit.missing())
    if kit.name == "slurm":
        kit.cluster = request.getfixturevalue("cluster")
    if kit.name == "docker":
        request.getfixturevalue("docker")
    if isinstance(kit, ContainerKit):
        kit.look_into_the_image()
    return kit


@pytest.fixture(scope="session")
def docker():
    """A daemon of the tests' own; it is where the client looks for it."""
    folder = tempfile.mkdtemp(prefix="docker-of-tests-", dir="/tmp")
    script = Path(__file__).with_name("start-docker.sh")
    try:
        subprocess.run([script, folder, IMAGE], check=True, capture_output=True, timeout=100)
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("DOCKER_HOST", f"unix://{folder}/docker.sock")
            yield
    finally:
        subprocess.run([script, folder, "stop"], check=True, capture_output=True, timeout=100)


@pytest.fixture(scope="session")
def podman():
    kit = PodmanKit()
    ready(kit.name, kit.missing())
    return kit


@pytest.fixture(scope="session")
def own(kit):
    """A platform of our own, on the engine."""
    with LocalPlatform(engine=kit.engine(), cores=4, **kit.platform()) as platform:
        yield platform
    until(lambda: not kit.left())


@pytest.fixture
def api(kit, own):
    class OwnApi(Api):
        def create(self, command="true", **fields):
            return super().create(command, **(kit.fields() | fields))

        def logs(self, job, run, level=None):
            lines = super().logs(job, run, level)
            return [line for line in lines if not line.startswith(kit.says)] if kit.says else lines

    api = OwnApi(own.url, own.api_key)
    yield api
    until(lambda: not own.stats().active)


@pytest.fixture
def pool(kit, own):
    """pool(max_workers, ...): executors on it, which end with the test."""
    if kit.no_pool is not None:  # its runs are tested all the same
        pytest.skip(kit.no_pool)
    with contextlib.ExitStack() as made:

        def make(max_workers=1, **options):
            wanted = {"platform": own, "container": kit.container()} | options
            executor = ContainerPoolExecutor(max_workers, **wanted)
            made.callback(executor.shutdown, cancel_futures=True)
            return executor

        yield make


@pytest.fixture(scope="session")
def cluster():
    ready("slurm", missing_slurm())
    # Not below a folder of pytest's: other users have to get there.
    cluster = Cluster(tempfile.mkdtemp(prefix="slurm-of-tests-", dir="/tmp"))
    nodes = f"Nodes={cluster.prefix}[1-3]"
    extra = (
        f"PartitionName=closed {nodes} State=INACTIVE\n"
        f"PartitionName=low {nodes} PriorityTier=1 PreemptMode=CANCEL State=UP\n"
        f"PartitionName=high {nodes} PriorityTier=9 PreemptMode=OFF State=UP\n"
        "PreemptType=preempt/partition_prio\nPreemptMode=CANCEL"
    )
    cluster.begin(
        "3", SLURM_APART="1", SLURM_EXTRA=extra, SLURM_KILL_WAIT="2", SLURM_PREFIX=cluster.prefix
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SLURM_CONF", cluster.environment["SLURM_CONF"])
        yield cluster
    cluster.end()
