"""One kind of pool, measured: POOL WORKERS. Prints JSON: tasks per second, and seconds.

Each pool is what its users have: its futures, its own batching if it does any by itself.
"""

from __future__ import annotations

import json
import statistics
import sys
import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

warnings.simplefilter("ignore")


@contextmanager
def civis_futures(workers: int) -> Iterator[Any]:
    from civis_futures import ContainerPoolExecutor
    from civis_futures.local import LocalPlatform

    with (
        LocalPlatform(cores=64) as platform,
        ContainerPoolExecutor(workers, platform=platform) as executor,
    ):
        yield executor


@contextmanager
def loky(workers: int) -> Iterator[Any]:
    from joblib.externals.loky import get_reusable_executor

    executor = get_reusable_executor(workers)
    yield executor
    executor.shutdown()


@contextmanager
def dask(workers: int) -> Iterator[Any]:
    from distributed import Client, LocalCluster

    # No worker of it may take an equal call for one that it has done: `pure=False`.
    with (
        LocalCluster(
            n_workers=workers, threads_per_worker=1, dashboard_address=None, silence_logs=50
        ) as cluster,
        Client(cluster) as client,
    ):
        client.submit = partial(client.submit, pure=False)
        yield client


@contextmanager
def ipyparallel(workers: int) -> Iterator[Any]:
    import ipyparallel

    with ipyparallel.Cluster(n=workers, log_level=50) as client:
        client.wait_for_engines(workers, timeout=60)
        view = client.load_balanced_view()

        class View:
            submit = staticmethod(view.apply_async)

        yield View


POOLS = {
    "civis_futures": civis_futures,
    "loky": loky,
    "dask.distributed": dask,
    "ipyparallel": ipyparallel,
}


def rate(pool: Any, number: int, fn: Any, *args: Any) -> float:
    """Tasks per second."""
    began = time.perf_counter()
    for future in [pool.submit(fn, *args) for _ in range(number)]:
        future.result()
    return number / (time.perf_counter() - began)


def latency(pool: Any) -> float:
    """Seconds of one call."""
    took = []
    for _ in range(20):
        began = time.perf_counter()
        pool.submit(abs, -1).result()
        took.append(time.perf_counter() - began)
    return statistics.median(took)


def main() -> None:
    name, workers = sys.argv[1], int(sys.argv[2])
    began = time.perf_counter()
    with POOLS[name](workers) as pool:
        pool.submit(abs, -1).result()
        first = time.perf_counter() - began
        rate(pool, 5 * workers, time.sleep, 0.05)  # all workers are there now
        figures = {
            "first": first,
            "no-op": rate(pool, 1000, abs, -1),
            "10 ms": rate(pool, 1000, time.sleep, 0.01),
            "latency": latency(pool),
        }
    print(json.dumps(figures))


if __name__ == "__main__":  # the workers of some pools import this file
    main()
