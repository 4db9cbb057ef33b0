"""So many tasks of so many seconds through the `civis` package's joblib backend.

Arguments: TASKS WORKERS SECONDS FOLDER.

FOLDER holds the command that its containers run. The polling is as fast as ours is on a platform
without limits; its default, 15 s, would be no fair comparison.
"""

from __future__ import annotations

import sys
import time
import warnings

warnings.simplefilter("ignore")

import civis  # noqa: E402
from civis.parallel import make_backend_factory  # noqa: E402
from joblib import Parallel, delayed, parallel_config, register_parallel_backend  # noqa: E402


def main() -> None:
    tasks, workers, seconds, folder = (*map(int, sys.argv[1:3]), float(sys.argv[3]), sys.argv[4])
    factory = make_backend_factory(
        client=civis.APIClient(),
        polling_interval=1,
        setup_cmd=f"export PATH={folder}:$PATH",
        required_resources={"cpu": 64, "memory": 2000},
    )
    register_parallel_backend("civis", factory)
    with parallel_config("civis", n_jobs=workers):
        found = Parallel(batch_size=1)(delayed(time.sleep)(seconds) for _ in range(tasks))
    assert found == [None] * tasks


main()
