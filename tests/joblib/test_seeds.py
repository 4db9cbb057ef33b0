"""What talks and tutorials about joblib show, with the backend changed: among them the slides on
joblib in the cloud, of which each example is here that has one (loops, memoizing, persistence,
other backends, scikit-learn).
"""

from __future__ import annotations

import io
import math

import joblib
import numpy as np
import pytest
from joblib import Memory, Parallel, delayed, parallel_backend, parallel_config
from tasks import by_value

import civis_joblib
from civis_futures import ContainerPoolExecutor, NamedFiles

by_value(__name__)


def test_roots():
    with parallel_config("civis", n_jobs=2):
        roots = Parallel()(delayed(math.sqrt)(i**2) for i in range(10))
    assert roots == [float(i) for i in range(10)]


def test_roots_with_much_said(capfd):
    with parallel_config("civis"):
        roots = Parallel(n_jobs=3, verbose=50)(delayed(math.sqrt)(i**2) for i in range(6))
    assert roots == [0.0, 1.0, 2.0, 3.0, 4.0, 5.0]
    said = "".join(capfd.readouterr())
    assert "3 concurrent workers" in said
    assert "Done   6 out of   6" in said


@pytest.mark.parametrize("using", [parallel_config, parallel_backend])
def test_a_pool_that_is_there(platform, using):
    """Where ipyparallel's backend is given a view of its engines."""
    with ContainerPoolExecutor(2, platform=platform) as executor:
        with using("civis", executor=executor):
            assert Parallel(n_jobs=2)(delayed(pow)(i, 2) for i in range(10)) == [
                i**2 for i in range(10)
            ]
        assert executor.submit(math.sqrt, 4).result() == 2.0


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


def test_memoize_in_the_cloud(platform):
    """Where the slides have a store on S3, or on Hadoop."""
    civis_joblib.register_store()
    memory = Memory(
        "the slides", backend="civis", verbose=0, backend_options={"platform": platform}
    )
    square = memory.cache(np.square)
    a = np.vander(np.arange(3)).astype(float)
    assert not square.check_call_in_cache(a)
    assert (square(a) == a**2).all()
    assert square.check_call_in_cache(a)  # so it is not computed again
    assert (square(a) == a**2).all()
    memory.clear(warn=False)


def test_persistence_in_the_cloud(platform):
    """An object with arrays, through a file object, and compressed."""
    files, sent = NamedFiles(platform), io.BytesIO()
    joblib.dump([("a", [1, 2, 3]), ("b", np.arange(10))], sent, compress=("gzip", 3))
    size = sent.tell()
    sent.seek(0)
    files.put("the slides/obj.pkl.gz", sent, size)
    [(name, file)] = files.find("the slides/").items()
    files.read(file, back := io.BytesIO())
    back.seek(0)
    (_, numbers), (_, array) = joblib.load(back)
    assert (name, numbers, array.tolist()) == ("the slides/obj.pkl.gz", [1, 2, 3], [*range(10)])
    files.remove([file])


def test_a_randomized_search():
    pytest.importorskip("sklearn")
    from sklearn.datasets import load_digits
    from sklearn.model_selection import RandomizedSearchCV
    from sklearn.svm import SVC

    digits = load_digits()
    space = {
        "C": np.logspace(-2, 2, 5),
        "gamma": np.logspace(-4, -2, 3),
        "class_weight": [None, "balanced"],
    }
    search = RandomizedSearchCV(SVC(), space, n_iter=3, cv=2, random_state=0)
    some = slice(None, None, 9)
    with parallel_config("civis", n_jobs=2):
        search.fit(digits.data[some], digits.target[some])
    assert search.score(digits.data, digits.target) > 0.5


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
