"""The examples of Civis's page "Parallel Computation", and scikit-learn: as when run in sequence.

In the examples only the import has changed, and how long things take.
"""

from __future__ import annotations

import time

import numpy as np
import pytest
from cases import mostly_repeats
from joblib import Parallel, delayed, parallel_config, register_parallel_backend
from tasks import by_value

from civis_futures import ContainerPoolExecutor
from civis_joblib import make_backend_factory

by_value(__name__)


# --- the page ----------------------------------------------------------------------------------


def expensive_calculation(num1, num2):
    return 2 * num1 + num2


def test_expensive_calculation():
    register_parallel_backend(
        "civis", make_backend_factory(required_resources={"cpu": 512, "memory": 256})
    )
    args = [(0, 1), (1, 2), (2, 3), (3, 4), (4, 5), (5, 6), (6, 7)]
    with parallel_config("civis"):
        parallel = Parallel(n_jobs=5, pre_dispatch="n_jobs")
        results = parallel(delayed(expensive_calculation)(*a) for a in args)
    assert results == [expensive_calculation(*a) for a in args] == [1, 4, 7, 10, 13, 16, 19]


def sleep_and_return(seconds, value):
    time.sleep(seconds)
    return value


def test_generator_unordered():
    register_parallel_backend("civis", make_backend_factory())
    arguments = [(1.6, "foo"), (0.8, "bar"), (0.0, "baz")]
    with parallel_config("civis"):
        parallel = Parallel(n_jobs=3, return_as="generator_unordered")
        results = parallel(delayed(sleep_and_return)(*a) for a in arguments)
    assert list(results) == ["baz", "bar", "foo"]


def test_grid_search():
    from sklearn.datasets import load_digits
    from sklearn.ensemble import GradientBoostingClassifier
    from sklearn.model_selection import GridSearchCV

    digits = load_digits()
    x, y = digits.data[:300], digits.target[:300]
    param_grid = {"max_depth": [1, 3], "learning_rate": [0.1, 0.01]}

    def search(n_jobs):
        return GridSearchCV(
            GradientBoostingClassifier(n_estimators=4, random_state=42, max_features="sqrt"),
            param_grid=param_grid, cv=2, n_jobs=n_jobs, pre_dispatch="n_jobs",
        )  # fmt: skip

    register_parallel_backend(
        "civis", make_backend_factory(required_resources={"cpu": 512, "memory": 256})
    )
    with parallel_config("civis"):
        there = search(2).fit(x, y)
    here = search(None).fit(x, y)
    assert there.best_params_ == here.best_params_
    for name in ("mean_test_score", "std_test_score", "rank_test_score"):
        np.testing.assert_array_equal(there.cv_results_[name], here.cv_results_[name])
    np.testing.assert_array_equal(there.predict(x), here.predict(x))


# --- more of scikit-learn ----------------------------------------------------------------------


@pytest.fixture(scope="module")
def data():
    from sklearn.datasets import load_breast_cancer

    x, y = load_breast_cancer(return_X_y=True)
    return x[:200, :8], y[:200]


def test_cross_val_score(data):
    from sklearn.model_selection import cross_val_score
    from sklearn.tree import DecisionTreeClassifier

    tree = DecisionTreeClassifier(random_state=0)
    with parallel_config("civis", n_jobs=2, inner_max_num_threads=1):
        there = cross_val_score(tree, *data, cv=4, pre_dispatch=1)  # one container does it all
    np.testing.assert_array_equal(there, cross_val_score(tree, *data, cv=4))


@pytest.mark.repeats
def test_random_forest(data, platform):
    from sklearn.ensemble import RandomForestClassifier

    here = RandomForestClassifier(8, random_state=0).fit(*data)
    before = platform.stats().runs_started
    with parallel_config("civis", n_jobs=2):
        there = RandomForestClassifier(8, random_state=0).fit(*data)
        assert platform.stats().runs_started > before
        # To predict it asks for shared memory: joblib gives it threads of this machine.
        np.testing.assert_array_equal(here.predict_proba(data[0]), there.predict_proba(data[0]))
    np.testing.assert_array_equal(here.feature_importances_, there.feature_importances_)


@pytest.mark.repeats
def test_many_random_forests(data):
    from sklearn.ensemble import RandomForestClassifier
    from sklearn.model_selection import cross_validate

    forest = RandomForestClassifier(5, random_state=0, n_jobs=2)
    with parallel_config("civis", n_jobs=2, remote_backend="threading"):
        there = cross_validate(forest, *data, cv=2, return_train_score=True)
    here = cross_validate(forest, *data, cv=2, return_train_score=True)
    for name in ("test_score", "train_score"):
        np.testing.assert_array_equal(there[name], here[name])


@pytest.mark.repeats
def test_permutation_importance(data):
    from sklearn.inspection import permutation_importance
    from sklearn.linear_model import LogisticRegression

    model = LogisticRegression(max_iter=5000).fit(*data)
    options = {"n_repeats": 3, "random_state": 0}
    with parallel_config("civis", n_jobs=2):
        there = permutation_importance(model, *data, **options)
    here = permutation_importance(model, *data, **options)
    np.testing.assert_array_equal(there.importances, here.importances)


def stacked(x, y, n_jobs):
    """Each of its calls gets a copy of one generator: all of them are to split in the same way."""
    from sklearn.ensemble import StackingClassifier
    from sklearn.model_selection import KFold
    from sklearn.tree import DecisionTreeClassifier

    trees = [(str(n), DecisionTreeClassifier(max_depth=n, random_state=0)) for n in (1, 2)]
    folds = KFold(3, shuffle=True, random_state=np.random.RandomState(0))
    final = DecisionTreeClassifier(random_state=0)
    return StackingClassifier(trees, final, cv=folds, n_jobs=n_jobs).fit(x, y).predict(x)


def bagged(x, y, n_jobs):
    from sklearn.ensemble import BaggingClassifier

    return BaggingClassifier(n_estimators=6, random_state=0, n_jobs=n_jobs).fit(x, y).predict(x)


def predicted(x, y, n_jobs):
    from sklearn.model_selection import cross_val_predict
    from sklearn.tree import DecisionTreeClassifier

    tree = DecisionTreeClassifier(random_state=0)
    return cross_val_predict(tree, x, y, cv=3, n_jobs=n_jobs)


def calibrated(x, y, n_jobs):
    from sklearn.calibration import CalibratedClassifierCV
    from sklearn.tree import DecisionTreeClassifier

    tree = DecisionTreeClassifier(random_state=0)
    return CalibratedClassifierCV(tree, cv=3, n_jobs=n_jobs).fit(x, y).predict_proba(x)


@pytest.mark.parametrize("fit", mostly_repeats([stacked, bagged, predicted, calibrated], stacked))
def test_all_jobs_are_as_many_as_the_backend_has(fit, data, platform):
    before = platform.stats().runs_started
    with parallel_config("civis", max_workers=2):
        there = fit(*data, n_jobs=-1)
    assert 1 <= platform.stats().runs_started - before <= 2
    np.testing.assert_array_equal(there, fit(*data, n_jobs=None))


def test_a_failing_fit_is_scikit_learns_own_affair(data):
    from sklearn.model_selection import cross_val_score
    from sklearn.tree import DecisionTreeClassifier

    with parallel_config("civis", n_jobs=2), pytest.raises(ValueError, match="All the 3 fits"):
        cross_val_score(DecisionTreeClassifier(max_depth=0), *data, cv=3, pre_dispatch=1)


def total(array):
    return float(array.sum())


def test_grid_search_uploads_its_data_once(platform):
    from sklearn.linear_model import Ridge
    from sklearn.model_selection import GridSearchCV

    x = np.random.default_rng().normal(size=(4_000, 250))  # 8 MB
    y = x[:, 0] + x[:, 1]
    search = GridSearchCV(Ridge(), {"alpha": [0.1, 1.0, 10.0, 100.0]}, cv=3, refit=False)
    before = platform.stats()
    with parallel_config("civis", n_jobs=2):
        there = search.fit(x, y).cv_results_["mean_test_score"]
    stats = platform.stats()
    assert 8_000_000 < stats.upload_bytes - before.upload_bytes < 1.05 * 8_000_000 + 1_000_000
    np.testing.assert_array_equal(there, search.fit(x, y).cv_results_["mean_test_score"])


def test_shared_data_in_a_batch(platform):
    words = [f"word {n}" for n in range(100_000)]
    with ContainerPoolExecutor(1, platform=platform) as executor:
        handle = executor.put(words)
    found = Parallel(2, backend="civis")(delayed(len)(handle) for _ in range(6))
    assert found == [100_000] * 6


def test_large_arrays():
    # Above 1 MB loky would map them from this machine's disk.
    array = np.arange(400_000, dtype=float)
    found = Parallel(2, backend="civis", max_nbytes="1K")(delayed(total)(array) for _ in range(3))
    assert found == [array.sum()] * 3
