"""Calls one after the other run in the same containers; what ends these, and what does not."""

from __future__ import annotations

import inspect
import os
import subprocess
import sys
import threading

import numpy as np
import pytest
from joblib import Parallel, delayed, parallel_config
from tasks import HOUR, by_value, raise_or_sleep, square

import civis_futures as cf
import civis_joblib

by_value(__name__)


def where():
    return os.environ["CIVIS_RUN_ID"]


def squares(n=4, n_jobs=2, **options):
    return Parallel(n_jobs, backend="civis", **options)(delayed(square)(x) for x in range(n))


def runs(n_jobs=2, **options):
    with parallel_config("civis", n_jobs=n_jobs, **options):
        return set(Parallel(batch_size=1)(delayed(where)() for _ in range(2 * n_jobs)))


@pytest.fixture
def started(platform):
    """started(): how many runs have been started since the test began."""
    before = platform.stats().runs_started
    return lambda: platform.stats().runs_started - before


@pytest.fixture
def uploads(platform, new_user):
    """uploads(): how many Files have been uploaded since the test began, as by a new user."""
    before = platform.stats().uploads
    return lambda: platform.stats().uploads - before


# --- what scikit-learn does --------------------------------------------------------------------


def sequential_feature_selector(x, y):
    from sklearn.feature_selection import SequentialFeatureSelector
    from sklearn.linear_model import LogisticRegression

    SequentialFeatureSelector(LogisticRegression(), n_features_to_select=2, cv=2, n_jobs=2).fit(
        x, y
    )


def halving_grid_search(x, y):
    from sklearn.experimental import enable_halving_search_cv  # noqa: F401
    from sklearn.model_selection import HalvingGridSearchCV
    from sklearn.tree import DecisionTreeClassifier

    grid = {"max_depth": [1, 2, 3, 4], "min_samples_leaf": [1, 5]}
    HalvingGridSearchCV(
        DecisionTreeClassifier(random_state=0), grid, cv=2, n_jobs=2, random_state=0
    ).fit(x, y)


def recursive_elimination(x, y):
    from sklearn.feature_selection import RFECV
    from sklearn.linear_model import LogisticRegression

    for step in (1, 2):
        RFECV(LogisticRegression(), step=step, cv=3, n_jobs=2).fit(x, y)


def cross_validation_in_a_loop(x, y):
    from sklearn.model_selection import cross_val_score
    from sklearn.tree import DecisionTreeClassifier

    for depth in range(1, 5):
        tree = DecisionTreeClassifier(max_depth=depth, random_state=0)
        cross_val_score(tree, x, y, cv=2, n_jobs=2)


@pytest.mark.parametrize(
    "fit",
    [
        sequential_feature_selector,
        pytest.param(halving_grid_search, marks=pytest.mark.repeats),
        pytest.param(recursive_elimination, marks=pytest.mark.repeats),
        pytest.param(cross_validation_in_a_loop, marks=pytest.mark.repeats),
    ],
)
def test_a_fit_starts_its_containers_once(fit, started, uploads):
    rng = np.random.default_rng(0)
    x = rng.normal(size=(80, 4))
    y = (x[:, 0] > 0).astype(int)
    with parallel_config("civis", n_jobs=2):
        fit(x, y)
    assert started() == 2
    assert uploads() == 1  # the worker program


# --- what is kept, and for whom ----------------------------------------------------------------


def test_calls_one_after_the_other_have_the_same_containers(started):
    found = [runs() for _ in range(3)]
    assert len(set.union(*found)) == started() == 2


def test_other_options_end_the_containers(platform, mine, started):
    first = runs()
    second = runs(max_retries=1)
    assert not first & second
    assert set(map(str, platform.stats().active)).isdisjoint(first)
    assert runs(max_retries=1) <= second
    assert started() == 4


def test_another_size_is_no_other_option(started, most):
    small, large = runs(2), runs(3)
    assert started() == 3
    assert small <= large
    assert len(runs(2)) == 2
    assert started() == 3
    assert most() == 3


def remember(value):
    os.environ["REMEMBERED"] = value[0]


def test_what_an_initializer_is_given_is_looked_at(started):
    value = ["a"]
    for text, expected in (("a", 2), ("a", 2), ("b", 4)):
        value[0] = text
        runs(initializer=remember, initargs=(value,))
        assert started() == expected


LARGE = np.arange(250_000.0)  # 2 MB: content


def test_a_large_initializer_is_uploaded_once(started, uploads):
    for retries in (0, 1, 2):  # other options: an executor of its own each time
        runs(initializer=len, initargs=(LARGE,), max_retries=retries)
    assert started() == 6
    assert uploads() == 2, "the worker's program, and the array"


def test_an_idle_pool_ends_after_a_minute():
    default = inspect.signature(cf.ContainerPoolExecutor).parameters["idle_timeout"].default
    assert default == 60.0


def test_blocks_with_other_options_at_the_same_time(started):
    """Each has its containers, and keeps them for as long as it has calls."""
    barrier, found = threading.Barrier(2), {}

    def block(retries):
        with parallel_config("civis", n_jobs=2, max_retries=retries):
            for number in range(3):
                with Parallel() as parallel:
                    parallel(delayed(square)(x) for x in range(4))
                    barrier.wait()  # both have containers now
                    found[retries, number] = parallel(delayed(square)(x) for x in range(4))
                barrier.wait()

    threads = [threading.Thread(target=block, args=(retries,)) for retries in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert list(found.values()) == [[0, 1, 4, 9]] * 6


def test_one_fresh_container_for_each_batch(started):
    with parallel_config("civis", n_jobs=2, max_tasks_per_worker=1):
        found = [
            run
            for _ in range(2)
            for run in Parallel(batch_size=1)(delayed(where)() for _ in range(3))
        ]
    assert len(set(found)) == started() == 6


def test_idle_containers_end_by_themselves(until, started, platform):
    before = set(platform.stats().active)
    runs(idle_timeout=0.1)
    until(lambda: set(platform.stats().active) <= before)
    runs(idle_timeout=0.1)
    assert started() == 4


def test_calls_at_the_same_time_have_each_their_own(started, most):
    barrier, found = threading.Barrier(3), []

    def call():
        barrier.wait()
        found.append(squares())

    threads = [threading.Thread(target=call) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == [[0, 1, 4, 9]] * 3
    assert started() <= 6
    before = started()
    squares()
    assert started() == before


def test_batches_of_the_next_call_begin_with_one_task():
    sizes = []
    for _ in range(2):
        with Parallel(2, backend="civis") as parallel:
            sizes.append(parallel._backend.compute_batch_size())
            parallel(delayed(square)(x) for x in range(40))
            sizes.append(parallel._backend.compute_batch_size())
    assert sizes[0] == sizes[2] == 1
    assert min(sizes[1], sizes[3]) > 1


def test_one_that_is_given_back_twice_has_one_user(platform):
    pool = cf.WarmPool(1, platform=platform)
    pool.give_back()
    pool.give_back()
    first, second = cf.WarmPool(1, platform=platform), cf.WarmPool(1, platform=platform)
    assert first.executor is pool.executor
    assert second.executor is not first.executor
    first.give_back()
    second.give_back()


# --- failures ----------------------------------------------------------------------------------


@pytest.mark.parametrize("error", [ZeroDivisionError("no"), KeyboardInterrupt()], ids=repr)
def test_a_failure_takes_nothing_from_the_calls_around_it(error, started):
    for _ in range(3):
        assert squares() == [0, 1, 4, 9]
        with pytest.raises(type(error)):
            Parallel(2, backend="civis")([delayed(raise_or_sleep)(error)])
    assert squares() == [0, 1, 4, 9]
    assert started() == 2


def test_an_abort_leaks_no_batch_into_the_next_call(mine, tmp_path):
    for number in range(2):
        with pytest.raises(ZeroDivisionError):
            Parallel(2, backend="civis", batch_size=1, pre_dispatch="all")(
                delayed(raise_or_sleep)(x) for x in (ZeroDivisionError(), HOUR, HOUR, HOUR)
            )
        assert squares() == [0, 1, 4, 9], number
    assert not mine()


def test_a_generator_left_half_read_does_not_block_the_next_call(mine):
    output = Parallel(2, backend="civis", return_as="generator", batch_size=1)(
        delayed(raise_or_sleep)(x) for x in (0.0, HOUR, HOUR)
    )
    assert next(output) is None
    assert squares() == squares() == [0, 1, 4, 9]
    with pytest.warns(UserWarning, match="cancelled"):
        output.close()
    assert squares() == [0, 1, 4, 9]
    assert not mine()


def test_a_broken_pool_is_not_kept(monkeypatch, started):
    squares()
    with monkeypatch.context() as patch:
        patch.setenv("CIVIS_API_KEY", "another")
        for _ in range(2):
            with pytest.raises(cf.BrokenContainerPool, match="401"):
                squares()
    assert squares() == [0, 1, 4, 9]


# --- the end -----------------------------------------------------------------------------------


def test_shutdown_ends_what_waits(platform):
    before = set(platform.stats().active)
    squares()
    assert set(platform.stats().active) > before
    civis_joblib.shutdown()
    assert set(platform.stats().active) <= before
    civis_joblib.shutdown()
    assert squares() == [0, 1, 4, 9]


def test_what_is_lent_at_a_shutdown_ends_when_it_comes_back(platform):
    before = set(platform.stats().active)
    with Parallel(2, backend="civis") as parallel:
        parallel(delayed(square)(x) for x in range(2))
        civis_joblib.shutdown()
        assert parallel(delayed(square)(x) for x in range(2)) == [0, 1]
    assert set(platform.stats().active) <= before


SCRIPT = """
import os, sys, threading, civis_joblib
from joblib import Parallel, delayed

def call():
    return Parallel(2, backend="civis")(delayed(abs)(x) for x in (-1, -2))

civis_joblib.register()
assert call() == call() == [1, 2]
{more}
"""
FORK = """
child = os.fork()
if not child:
    assert call() == [1, 2]
    sys.exit(0)
assert os.waitpid(child, 0)[1] == 0
assert call() == [1, 2]
"""
INTERRUPT = """
import signal
try:
    os.kill(os.getpid(), signal.SIGINT)
    threading.Event().wait(20)
except KeyboardInterrupt:
    assert call() == [1, 2]
"""


LOKY = """
from joblib.externals.loky import get_reusable_executor
def within():
    civis_joblib.register()
    return call(), call()
pool = get_reusable_executor(max_workers=1)
assert pool.submit(within).result() == ([1, 2], [1, 2])
pool.shutdown()
assert call() == [1, 2]
"""
#: Its children end by themselves. Of those that are killed, containers are left for a `lease`.
POOL = """
import multiprocessing
pool = multiprocessing.get_context("fork").Pool(1)
assert pool.apply(call) == pool.apply(call) == [1, 2]
pool.close()
pool.join()
assert call() == [1, 2]
"""


@pytest.mark.parametrize(
    ("more", "starts"),
    [
        ("", 2),
        (FORK, 4),
        (INTERRUPT, 2),
        pytest.param(LOKY, 4, marks=pytest.mark.repeats),
        pytest.param(POOL, 4, marks=pytest.mark.repeats),
    ],
)
def test_nothing_is_left_at_the_exit(more, starts, platform, started, tmp_path):
    before = set(platform.stats().active)
    done = subprocess.run(
        # Since Python 3.12 a fork warns if there are threads.
        [sys.executable, "-W", "error", "-W", "ignore:This process:DeprecationWarning",
         "-c", SCRIPT.format(more=more)],
        cwd=tmp_path, capture_output=True, text=True, timeout=60,
    )  # fmt: skip
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    assert set(platform.stats().active) <= before
    assert started() == starts


SUITE = """
import os
import civis_joblib, pytest
from joblib import Parallel, delayed
civis_joblib.register()

@pytest.mark.parametrize("n", range(6))
def test_one(n):
    assert Parallel(2, backend="civis")(delayed(abs)(x) for x in (-n, n)) == [n, n]
    with open(f"worker {os.environ['PYTEST_XDIST_WORKER']}", "a") as file:
        file.write(f"{n}\\n")
"""


def test_each_process_of_xdist_has_its_own(platform, started, tmp_path):
    before = set(platform.stats().active)
    (tmp_path / "test_suite.py").write_text(SUITE)
    command = "-m pytest -q -n 2 -W error -p no:cacheprovider --dist loadgroup test_suite.py"
    done = subprocess.run(
        [sys.executable, *command.split()],
        cwd=tmp_path, capture_output=True, text=True, timeout=110,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    assert "6 passed" in done.stdout
    assert "warning" not in done.stdout + done.stderr
    assert set(platform.stats().active) <= before
    used = [path.read_text().split() for path in tmp_path.glob("worker *")]
    assert sorted(number for each in used for number in each) == list("012345")
    assert started() == 2 * len(used)
