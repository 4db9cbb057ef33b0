"""The array of `test_data.py` in one call, in a process that has not sent it: MEGABYTES."""

from __future__ import annotations

import sys

import numpy

from civis_futures import ContainerPoolExecutor

if __name__ == "__main__":
    data = numpy.random.default_rng(0).random(int(sys.argv[1]) * 125_000)
    with ContainerPoolExecutor(1) as executor:
        assert abs(executor.submit(numpy.sum, data).result(100) - data.sum()) < 1e-3
