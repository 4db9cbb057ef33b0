"""scikit-learn's many short calls of joblib, in containers and with loky, side by side."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from benchmarks import sklearn_fits
from benchmarks.measure import spending
from benchmarks.sklearn_fits import FITS, JOBS, measure

pytestmark = [pytest.mark.bench, pytest.mark.timeout(600)]

#: Seconds that a container takes to start.
START = 5.0


def with_loky(name):
    """Seconds of a fit with loky, in a process of its own, its start included."""
    command = [sys.executable, str(Path(sklearn_fits.__file__)), name]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=True)
    return float(done.stdout)


@pytest.mark.parametrize("name", FITS)
def test_fits(row, name):
    """Many calls of joblib's, one after the other"""
    import civis_joblib
    from civis_futures.local import LocalPlatform

    row.work = f"{name} of scikit-learn, n_jobs={JOBS}, containers that start in 5 s, real limits"
    loky = with_loky(name)
    with LocalPlatform(cores=32, rate_limit="civis", start_delay=START) as platform:
        civis_joblib.register(platform=platform)
        with spending(platform) as spent:
            seconds = measure(FITS[name], "civis")
        civis_joblib.shutdown()
    row.add("loky", loky, "s")
    row.add("civis_joblib", seconds, "s", most=1.3 * loky + START)
    row.add("run starts", spent.starts, most=JOBS)
    row.add("requests", sum(spent.requests.values()))
    row.add("refused", spent.refused, most=0)
