"""Fits of scikit-learn that call joblib many times, one call after the other: with loky if run.

FIT: one of FITS. Prints seconds.
"""

from __future__ import annotations

import sys
import time

JOBS = 2


def sequential_feature_selector(x, y):
    from sklearn.ensemble import RandomForestClassifier
    from sklearn.feature_selection import SequentialFeatureSelector

    forest = RandomForestClassifier(12, random_state=0)
    SequentialFeatureSelector(forest, n_features_to_select=2, cv=4).fit(x, y)


def halving_grid_search(x, y):
    from sklearn.ensemble import RandomForestClassifier
    from sklearn.experimental import enable_halving_search_cv  # noqa: F401
    from sklearn.model_selection import HalvingGridSearchCV

    grid = {"max_depth": [1, 2, 3, 4], "min_samples_leaf": [1, 5]}
    forest = RandomForestClassifier(12, random_state=0)
    HalvingGridSearchCV(forest, grid, cv=4, random_state=0).fit(x, y)


def recursive_elimination(x, y):
    from sklearn.ensemble import RandomForestClassifier
    from sklearn.feature_selection import RFECV

    for step in (1, 2):
        RFECV(RandomForestClassifier(12, random_state=0), step=step, cv=4).fit(x, y)


def cross_validation_in_a_loop(x, y):
    from sklearn.ensemble import RandomForestClassifier
    from sklearn.model_selection import cross_val_score

    for depth in range(1, 11):
        cross_val_score(RandomForestClassifier(12, max_depth=depth, random_state=0), x, y, cv=4)


FITS = {
    "SequentialFeatureSelector": sequential_feature_selector,
    "HalvingGridSearchCV": halving_grid_search,
    "RFECV, twice": recursive_elimination,
    "10 times cross_val_score": cross_validation_in_a_loop,
}


def measure(fit, backend):
    """Seconds of a fit."""
    import numpy as np
    from joblib import parallel_config

    rng = np.random.default_rng(0)
    x = rng.normal(size=(400, 5))
    y = (x[:, 0] + rng.normal(size=400) > 0).astype(int)
    began = time.perf_counter()
    with parallel_config(backend, n_jobs=JOBS):
        fit(x, y)
    return time.perf_counter() - began


if __name__ == "__main__":
    print(measure(FITS[sys.argv[1]], "loky"))
