"""Pools on a real cluster, over TLS: what the contract of all engines (test_contract) lacks."""

from __future__ import annotations

import time
from concurrent.futures import as_completed
from pathlib import Path

import pytest
from raw import until
from tasks import HOUR, SECONDS, slept, square

import civis_joblib
from civis_futures import (
    CallLostError,
    Container,
    ContainerPoolExecutor,
)

SMALL = Container(required_resources={"cpu": 128, "memory": 200})


@pytest.fixture(scope="session")
def secure(cluster, tmp_path_factory):
    """A platform that speaks TLS, with a certificate that it has made."""
    log = tmp_path_factory.mktemp("secure") / "log"
    with cluster.platform(tls=True, log=log) as platform:
        assert platform.url.startswith("https://")
        yield platform


@pytest.fixture
def pool(secure, cluster):
    """pool(max_workers, ...): executors on it; no job is left."""
    made = []

    def make(max_workers=2, **options):
        executor = ContainerPoolExecutor(
            max_workers, **{"platform": secure, "container": SMALL, **options}
        )
        made.append(executor)
        return executor

    yield make
    for executor in made:
        executor.shutdown(cancel_futures=True)
    until(lambda: not cluster.jobs(), 40)


def hostname():
    import socket

    return socket.gethostname()


def test_map_and_as_completed(pool, cluster):
    executor = pool(2)
    assert list(executor.map(square, range(20), timeout=SECONDS)) == [x * x for x in range(20)]
    futures = [executor.submit(slept, seconds) for seconds in (0.5, 0.01)]
    found = [future.result() for future in as_completed(futures, timeout=SECONDS)]
    assert sorted(found) == [0.01, 0.5]
    assert executor.submit(hostname).result(SECONDS).startswith(cluster.prefix)


def test_somebody_elses_scancel(pool, cluster):
    executor = pool(1)
    future = executor.submit(slept, HOUR)
    until(future.running, SECONDS)
    cluster("scancel", *cluster.jobs())
    with pytest.raises(CallLostError, match="cancelled, and not by this pool"):
        future.result(SECONDS)


@pytest.mark.stress
def test_a_node_crashes_and_another_one_does_the_call(pool, cluster, tmp_path):
    """Slurm needs half a minute to believe it; then the call runs again, elsewhere."""
    executor = pool(1, max_retries=1)
    future = executor.submit(first_host_then_wait, str(tmp_path))
    first = until(lambda: (tmp_path / "first").exists() and (tmp_path / "first").read_text(), 60)
    cluster.kill(f"slurmd-{first}")
    try:
        assert future.result(180) != first
    finally:
        cluster.begin("node", first)
        until(lambda: "idle" in cluster("sinfo", "-h", "-n", first, "-o", "%t"), 60)


def first_host_then_wait(folder):
    import socket

    own = Path(folder) / "first"
    if own.exists():
        return socket.gethostname()
    (Path(folder) / "tmp").write_text(socket.gethostname())
    (Path(folder) / "tmp").rename(own)
    time.sleep(3600)
    return None


def test_a_search_with_scikit_learn(pool):
    from sklearn.datasets import make_classification
    from sklearn.model_selection import GridSearchCV
    from sklearn.tree import DecisionTreeClassifier

    x, y = make_classification(200, random_state=0)
    search, here = (
        GridSearchCV(DecisionTreeClassifier(random_state=0), {"max_depth": [1, 3]}, cv=2)
        for _ in range(2)
    )
    large = Container(required_resources={"cpu": 128, "memory": 400})
    with civis_joblib.using(pool(2, container=large)):
        search.fit(x, y)
    assert search.best_params_ == here.fit(x, y).best_params_
