"""What a start takes on a cluster of one's own, beside what the cluster takes for anything."""

from __future__ import annotations

import statistics
import tempfile
import time
from pathlib import Path

import pytest
from benchmarks.measure import pool, wait_until
from cluster import SMALL, Cluster, missing_slurm
from tasks import by_value

from civis_futures import Container

pytestmark = pytest.mark.bench
by_value(__name__)

ATTEMPTS = 9


@pytest.fixture
def cluster(monkeypatch):
    """An idle one, which ends with the benchmark."""
    if reason := missing_slurm():
        pytest.skip(f"not measured with slurm: {reason}")
    cluster = Cluster(tempfile.mkdtemp(prefix="slurm-of-benchmarks-", dir="/tmp"))
    try:
        cluster.begin("3", SLURM_APART="1", SLURM_PREFIX=cluster.prefix)
        monkeypatch.setenv("SLURM_CONF", cluster.environment["SLURM_CONF"])
        yield cluster
    finally:
        cluster.end()


def now() -> float:
    """When it begins: all nodes are on this machine, and have its clock."""
    return time.time()


def plain_start(cluster: Cluster, file: Path) -> float:
    """Seconds from `sbatch` to the first command of its script."""
    write = f"date +%s.%N > {file}.part; mv {file}.part {file}"
    began = time.time()
    cluster("sbatch", f"--mem={SMALL['memory']}", "--output=/dev/null", "--wrap", write)
    wait_until(file.exists)
    return float(file.read_text()) - began


def test_a_start_on_slurm(row, cluster, tmp_path):
    """A call on an idle Slurm cluster, from `submit` to its start, beside `sbatch`"""
    plain, ours = [], []
    small = Container(required_resources=SMALL)
    with cluster.platform(log=tmp_path / "log") as platform:
        for number in range(ATTEMPTS):
            plain.append(plain_start(cluster, tmp_path / str(number)))
            wait_until(lambda: not cluster.jobs())
            with pool(platform, 1, container=small) as executor:
                began = time.time()
                ours.append(executor.submit(now).result(60) - began)
            wait_until(lambda: not cluster.jobs())
    row.add("sbatch, median", statistics.median(plain), "s")
    row.add("civis_futures, median", statistics.median(ours), "s")
    longer = [mine - theirs for mine, theirs in zip(ours, plain, strict=True)]
    row.add("longer than sbatch, median", statistics.median(longer), "s", most=3)
    row.add("longer than sbatch, at the most", max(longer), "s")
