"""Platforms whose runs are elsewhere: on the example's scheduler, and on a Slurm cluster."""

from __future__ import annotations

import os
import tempfile

import pytest
from cluster import EXAMPLE, Cluster, Elsewhere, agents, missing_slurm
from local.conftest import until

from civis_futures.local import LocalPlatform, OwnEngine


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


@pytest.fixture(scope="session")
def cluster():
    why = missing_slurm()
    if why is not None and "slurm" in os.environ.get("CIVIS_TEST_ENGINES", "").split():
        pytest.fail(f"slurm must be tested, and {why}")
    if why is not None:
        pytest.skip(f"not tested with slurm: {why}")
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
