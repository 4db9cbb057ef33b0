"""Arrays in tasks can be written, or not, as with loky; `max_nbytes` and `mmap_mode` say so."""

from __future__ import annotations

import numpy as np
import pytest
from cases import mostly_repeats
from joblib import Parallel, delayed, parallel_config
from tasks import by_value

by_value(__name__)

ARRAY = np.ones(200_000)  # 1.6 MB


def add_one(array):
    array += 1
    return array.sum()


OPTIONS = {
    "default": ({}, False),
    "no limit": ({"max_nbytes": None}, True),
    "large limit": ({"max_nbytes": "10M"}, True),
    "small limit": ({"max_nbytes": 1000}, False),
    "copy on write": ({"mmap_mode": "c"}, True),
    "no memory map": ({"mmap_mode": None}, True),
    "read-only": ({"mmap_mode": "r"}, False),
}


@pytest.mark.parametrize("which", mostly_repeats(OPTIONS, "default", "no limit", "copy on write"))
def test_writing(which):
    options, can_write = OPTIONS[which]
    parallel = Parallel(2, backend="civis", **options)
    tasks = [delayed(add_one)(ARRAY) for _ in range(2)]
    if can_write:
        assert parallel(tasks) == [400_000, 400_000]
    else:
        with pytest.raises(ValueError, match="read-only") as caught:
            parallel(tasks)
        assert "Parallel(max_nbytes=None)" in caught.value.__notes__[-1]
    assert ARRAY.sum() == 200_000


def test_by_configuration():
    with parallel_config("civis", n_jobs=2, max_nbytes=None):
        assert Parallel()([delayed(add_one)(ARRAY)] * 2) == [400_000, 400_000]
