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
from pathlib import Path

import joblib
import psutil
import pytest
from raw import Api, until

from civis_futures import Container, ContainerPoolExecutor
from civis_futures.local import LocalPlatform, Podman

IMAGE = os.environ.get("CIVIS_TEST_IMAGE", "localhost/civis-test:latest")
#: MB; what a worker with a child needs is some 40.
MEMORY = 150


class Kit:
    """What tests need to know of one engine."""

    name = "process"
    freezes = True
    #: How a run has ended that somebody killed, and not us: its state, and what its log says.
    killed = ("failed", "Error on job: Process ended with an error, exiting: 137.")
    #: Why calls cannot be run there by this Python, if they cannot.
    no_pool: str | None = None

    def missing(self) -> str | None:
        """Why it cannot be tested here, if it cannot."""
        return None

    def engine(self):
        """What `LocalPlatform` is given."""
        return "process"

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


class PodmanKit(Kit):
    name = "podman"

    def __init__(self):
        version = f"{sys.version_info.major}.{sys.version_info.minor}"
        if self.missing() is None:
            inside = self.podman("run", "--rm", *LIMITS, "--network=none", IMAGE, "python3", "-V")
            if not inside.startswith(f"Python {version}."):
                self.no_pool = f"the image of the tests has {inside.strip()}, and this is {version}"

    def missing(self):
        if shutil.which("podman") is None:
            return "there is no podman"
        if subprocess.run(["podman", "image", "exists", IMAGE], check=False).returncode:
            return f"podman has no image {IMAGE}: make engines"
        return None

    def engine(self):
        # The image has nothing but Python.
        folder = Path(joblib.__file__).parent
        return Podman(extra=(f"--volume={folder}:/usr/lib/python3/dist-packages/joblib:ro",))

    def fields(self):
        name, _, tag = IMAGE.rpartition(":")
        return {"dockerImageName": name, "dockerImageTag": tag}

    def container(self, **fields):
        name, _, tag = IMAGE.rpartition(":")
        image = {"docker_image_name": name, "docker_image_tag": tag}
        return super().container(**(image | fields))

    def kill(self, platform, run_id):
        (name,) = self.podman(
            "ps", "--filter", f"name=-{run_id}-", "--format", "{{.Names}}"
        ).split()
        self.podman("kill", name)

    def left(self):
        names = self.podman("ps", "-a", "--filter", "label=civis-futures", "--format", "{{.Names}}")
        top = Path("/sys/fs/cgroup")
        groups = [*top.glob("civis-futures-*"), *top.glob("*/civis-futures-*")]
        return [*names.split(), *map(str, groups)]

    @staticmethod
    def podman(*arguments):
        command = ["podman", *arguments]
        return subprocess.run(
            command, capture_output=True, text=True, check=True, timeout=60
        ).stdout


#: Of files and processes: podman asks for more than root in a container may have.
LIMITS = ("--ulimit=nofile=1024:1024", "--ulimit=nproc=1024:1024")
KITS = {kit.name: kit for kit in (Kit, PodmanKit)}


def ready(kit: Kit, reason: str | None) -> None:
    """Skip, unless it must not be skipped."""
    if reason is not None:
        if kit.name in os.environ.get("CIVIS_TEST_ENGINES", "").split():
            pytest.fail(f"{kit.name} must be tested, and {reason}")
        pytest.skip(f"not tested with {kit.name}: {reason}")


@pytest.fixture(scope="session", params=KITS)
def kit(request):
    kit = KITS[request.param]()
    ready(kit, kit.missing())
    return kit


@pytest.fixture(scope="session")
def podman():
    kit = PodmanKit()
    ready(kit, kit.missing())
    return kit


@pytest.fixture(scope="session")
def own(kit):
    """A platform of our own, on the engine."""
    with LocalPlatform(engine=kit.engine(), cores=4) as platform:
        yield platform
    until(lambda: not kit.left())


@pytest.fixture
def api(kit, own):
    class OwnApi(Api):
        def create(self, command="true", **fields):
            return super().create(command, **(kit.fields() | fields))

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
