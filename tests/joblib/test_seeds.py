"""What talks and tutorials about joblib show, with the backend changed."""

from __future__ import annotations

import math

import numpy as np
import pytest
from joblib import Memory, Parallel, delayed, parallel_config
from tasks import by_value

by_value(__name__)


def test_roots():
    with parallel_config("civis", n_jobs=2):
        roots = Parallel()(delayed(math.sqrt)(i**2) for i in range(10))
    assert roots == [float(i) for i in range(10)]


def test_one_parallel_for_loops_of_ones_own():
    accumulator, n_iter = 0.0, 0
    with parallel_config("civis", n_jobs=2), Parallel() as parallel:
        while accumulator < 100:
            results = parallel(delayed(math.sqrt)(accumulator + i**2) for i in range(5))
            accumulator += sum(results)
            n_iter += 1
    assert (round(accumulator, 2), n_iter) == (151.28, 5)


def test_a_generator_of_results():
    with parallel_config("civis", n_jobs=2):
        squares = Parallel(return_as="generator")(delayed(pow)(i, 2) for i in range(6))
        assert list(squares) == [0, 1, 4, 9, 16, 25]


def test_memoize_what_is_slow(tmp_path):
    memory = Memory(tmp_path / "cache", verbose=0)

    @memory.cache
    def fit(seed):
        (tmp_path / f"fitted {seed}").touch(exist_ok=False)
        return float(np.random.default_rng(seed).normal(size=100).mean())

    with parallel_config("civis", n_jobs=2):
        first = Parallel()(delayed(fit)(seed) for seed in range(3))
        again = Parallel()(delayed(fit)(seed) for seed in range(3))
    assert first == again


def test_a_search_with_cross_validation():
    pytest.importorskip("sklearn")
    from sklearn.linear_model import Ridge
    from sklearn.model_selection import GridSearchCV

    rng = np.random.default_rng(0)
    x = rng.normal(size=(60, 4))
    y = x @ [1.0, 2.0, 0.0, -1.0] + rng.normal(size=60) / 10
    search = GridSearchCV(Ridge(), {"alpha": [0.1, 1000.0]}, cv=3)
    with parallel_config("civis", n_jobs=2):
        search.fit(x, y)
    assert search.best_params_ == {"alpha": 0.1}
