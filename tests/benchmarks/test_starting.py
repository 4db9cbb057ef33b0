"""What a start costs, beside what any program costs that reads JSON and speaks HTTP."""

from __future__ import annotations

import os
import subprocess
import sys
import time

import pytest
from benchmarks.measure import pool, running
from tasks import by_value

pytestmark = pytest.mark.bench
by_value(__name__)

#: In turn, and the least of each counts: what others do on the machine makes some dearer.
ATTEMPTS = 15
TELL = "; import time; print(time.process_time())"
BARE = "import json, http.client"


def cpu_of(code: str) -> float:
    """Seconds of CPU of a fresh interpreter that runs this."""
    done = subprocess.run([sys.executable, "-c", code + TELL], capture_output=True, check=True)
    return float(done.stdout)


def cpu_so_far() -> float:
    """Seconds of CPU of this process and of its parent, which is all there is of a worker."""
    clock_of_parent = (~os.getppid() << 3) | 2  # as clock_getcpuclockid(3) makes it on Linux
    return time.process_time() + time.clock_gettime(clock_of_parent)


def test_a_container(row):
    """A container's start, to its first call, beside `python3 -c 'import json, http.client'`"""
    bare, ours = [], []
    with running() as platform, pool(platform, 1, max_tasks_per_worker=1) as executor:
        for _ in range(ATTEMPTS):
            bare.append(cpu_of(BARE))
            ours.append(executor.submit(cpu_so_far).result(60))
    _add(row, "a container", min(ours), min(bare), most=4)


def test_the_import(row):
    """`import civis_futures`, beside `python3 -c 'import json, http.client'`"""
    pairs = [(cpu_of("import civis_futures"), cpu_of(BARE)) for _ in range(ATTEMPTS)]
    ours, bare = map(min, zip(*pairs, strict=True))
    _add(row, "the import", ours, bare, most=3)


def _add(row, what, ours, bare, most):
    row.add(f"CPU, times that of the bare imports ({bare * 1000:.0f} ms)", ours / bare, most=most)
    row.add(f"CPU of {what}", ours * 1000, "ms")
