"""Platforms whose runs are elsewhere: on the example's scheduler, and on a Slurm cluster."""

from __future__ import annotations

import pytest
from cluster import EXAMPLE, Elsewhere, agents
from raw import until

from civis_futures.local import LocalPlatform, OwnScheduler


@pytest.fixture(scope="module")
def simple(tmp_path_factory):
    """A platform for several tests: the folder of its jobs, and requests to it."""
    folder = tmp_path_factory.mktemp("simple")
    options = (f"folder={folder / 'jobs'}",)
    own = OwnScheduler(str(EXAMPLE), options=options, pause=1)
    with LocalPlatform(engine=own, log=folder / "log") as platform:
        yield folder / "jobs", Elsewhere(platform)


@pytest.fixture
def background(tmp_path):
    """background(...): a platform on the scheduler of the example, and requests to it."""
    running = []

    def start(lease=60, engine=None, **options):
        folder = f"folder={tmp_path / 'jobs'}"
        if engine is None:
            engine = OwnScheduler(str(EXAMPLE), options=(folder,), pause=1, lease=lease)
        platform = LocalPlatform(engine=engine, log=tmp_path / "log", **options)
        platform.start()
        running.append(platform)
        return platform, Elsewhere(platform)

    yield start
    for platform in running:
        platform.stop()
    until(lambda: not agents(tmp_path / "jobs"), 30)


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
