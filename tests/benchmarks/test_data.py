"""The same large array in many calls: how often it travels."""

from __future__ import annotations

import os
import subprocess
import sys
from itertools import repeat
from pathlib import Path

import numpy
import pytest
from benchmarks.measure import pool, running, spending
from tasks import by_value

by_value(__name__)
pytestmark = pytest.mark.bench

MEGABYTES = 100
CALLS = 200
#: An array that is uploaded with each call would fill the disk: that is seen after a few.
ENOUGH = 5
AGAIN = Path(__file__).with_name("same_array.py")


def test_the_same_array_in_many_calls(row):
    """The same array of 100 MB in 200 calls on 4 workers"""
    data = numpy.random.default_rng(0).random(MEGABYTES * 125_000)
    assert data.nbytes == MEGABYTES * 1_000_000
    with running() as platform:
        with pool(platform, 4) as executor, spending(platform) as spent:
            done = _sums(executor, platform, data)
        ratio = spent.upload_bytes / data.nbytes
        row.add("uploaded, times its size", ratio, most=1.05)
        row.add("calls answered", done, least=CALLS)
        row.add("time", spent.seconds, "s")
        if done == CALLS:
            each = spent.download_bytes / data.nbytes / 4
            row.add("fetched by each worker, times its size", each, most=1.05)
            with spending(platform) as again:
                _in_another_process(platform)
            row.add(
                "uploaded by another process, same array", again.upload_bytes / 1e6, "MB", most=1
            )


def _sums(executor, platform, data):
    """How many calls were answered until all were, or the array was uploaded often enough."""
    before, done = platform.stats().upload_bytes, 0
    results = executor.map(_sum, repeat(data, CALLS), buffersize=8, timeout=300)
    for found in results:
        assert abs(found - data.sum()) < 1e-3
        done += 1
        if platform.stats().upload_bytes - before > ENOUGH * data.nbytes:
            results.close()
            break
    return done


def _sum(array):
    return float(array.sum())


def _in_another_process(platform):
    environment = {"CIVIS_API_ENDPOINT": platform.url, "CIVIS_API_KEY": platform.api_key}
    subprocess.run(
        [sys.executable, str(AGAIN), str(MEGABYTES)],
        env={**os.environ, **environment},
        check=True,
        timeout=120,
    )
