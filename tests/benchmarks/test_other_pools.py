"""Other pools on this machine, and ours on a local platform, doing the same: each in a process."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.bench

SCRIPT = Path(__file__).with_name("other_pools.py")
WORKERS = 4


@pytest.fixture(scope="module")
def measured():
    """measured(pool): its figures, by (work, figure)."""
    known = {}

    def measure(pool):
        if pool not in known:
            command = [sys.executable, str(SCRIPT), pool, str(WORKERS)]
            done = subprocess.run(command, capture_output=True, text=True, timeout=300)
            assert done.returncode == 0, done.stderr[-4000:]
            known[pool] = json.loads(done.stdout.splitlines()[-1])
        return known[pool]

    return measure


OURS = "civis_futures"
POOLS = (OURS, "loky", "dask.distributed", "ipyparallel")


def test_no_ops(row, measured):
    """No-op tasks on 4 warm workers of each pool on this machine: tasks per second"""
    for pool in POOLS:
        row.add(pool, measured(pool)["no-op"], "/s", least=4000 if pool == OURS else None)


def test_ten_milliseconds(row, measured):
    """Tasks of 10 ms on 4 warm workers (400 a second would be ideal): tasks per second"""
    for pool in POOLS:
        row.add(pool, measured(pool)["10 ms"], "/s", least=380 if pool == OURS else None)


def test_one_call(row, measured):
    """One call on a warm pool, from submit to result: median"""
    for pool in POOLS:
        row.add(pool, measured(pool)["latency"] * 1000, "ms", most=10 if pool == OURS else None)


def test_first_call(row, measured):
    """The first call, the start of the pool included"""
    for pool in POOLS:
        row.add(pool, measured(pool)["first"], "s")
