"""joblib's calls in an executor of the user's own, and in a session."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest
from joblib import Parallel, delayed, effective_n_jobs, parallel_config
from tasks import HOUR, by_value, raise_or_sleep, square

import civis_futures as cf
import civis_joblib

by_value(__name__)


def calls(n=4):
    return (delayed(square)(x) for x in range(n))


@pytest.fixture
def pool(make_executor):
    return make_executor(2)


# --- an executor of one's own ------------------------------------------------------------------


def test_calls_run_in_it_and_it_lives_on(pool, platform):
    before = platform.stats().runs_started
    with civis_joblib.using(pool):
        assert Parallel()(calls()) == Parallel()(calls()) == [0, 1, 4, 9]
    assert platform.stats().runs_started - before <= 2
    assert len(pool.status()) == 0
    assert pool.submit(square, 3).result() == 9


def test_for_all_calls(pool):
    civis_joblib.register(executor=pool)
    assert Parallel(2, backend="civis")(calls()) == [0, 1, 4, 9]
    civis_joblib.shutdown()
    assert pool.submit(square, 3).result() == 9


def test_how_many_jobs_there_are(make_executor):
    executor = make_executor(3)
    with civis_joblib.using(executor):
        assert effective_n_jobs(-1) == effective_n_jobs(50) == 3
        assert effective_n_jobs(-2) == 2
        executor.scale(1)
        with civis_joblib.using(executor):  # joblib would run a single job here
            assert effective_n_jobs(-1) == 2


def pid_of_run():
    return os.environ["CIVIS_RUN_ID"]


def test_a_pool_of_one_container(make_executor):
    with civis_joblib.using(make_executor(1)):
        assert len(set(Parallel()(delayed(pid_of_run)() for _ in range(3)))) == 1


def arrive(folder, name, most):
    """How many others are at it."""
    path = os.path.join(folder, name)
    open(path, "w").close()
    time.sleep(0.3)
    found = len(os.listdir(folder))
    os.unlink(path)
    assert found <= most, found
    return found


def test_n_jobs_is_the_cap_of_a_call(make_executor, tmp_path):
    executor = make_executor(4)
    executor.submit_batch(square, [(1,)] * 4).result()
    with civis_joblib.using(executor, n_jobs=2):
        found = Parallel(batch_size=1, pre_dispatch="all")(
            delayed(arrive)(str(tmp_path), str(n), 2) for n in range(6)
        )
    assert max(found) <= 2
    with civis_joblib.using(executor, n_jobs=2), pytest.raises(ZeroDivisionError):
        Parallel(batch_size=1, pre_dispatch="all")(
            delayed(raise_or_sleep)(x) for x in (ZeroDivisionError(), *[HOUR] * 5)
        )
    with civis_joblib.using(executor, n_jobs=2):
        assert sorted(Parallel(return_as="generator_unordered")(calls(9))) == [
            x * x for x in range(9)
        ]


def test_an_abort_takes_nothing_of_others(pool, gates):
    gate = gates()
    mine = pool.submit(wait_at, gate.path)
    with civis_joblib.using(pool), pytest.raises(ZeroDivisionError):
        Parallel(batch_size=1)(delayed(raise_or_sleep)(x) for x in (ZeroDivisionError(), 0.0))
    gate.open()
    assert mine.result() == "through"


def wait_at(path):
    while not os.path.exists(os.path.join(path, "open")):
        time.sleep(0.01)
    return "through"


@pytest.fixture
def gates(tmp_path):
    made = []

    class Gate:
        def __init__(self, folder):
            folder.mkdir()
            self.path, self.open = str(folder), (folder / "open").touch
            made.append(self)

    yield lambda: Gate(tmp_path / f"gate-{len(made)}")
    for gate in made:
        gate.open()


@pytest.mark.parametrize(("options", "error", "text"), [
    ({"executor": 3}, TypeError, "must be a ContainerPoolExecutor, not int"),
    ({"idle_timeout": 3.0}, TypeError, "options of its own: idle_timeout cannot be set"),
    ({"inner_max_num_threads": 3}, TypeError, "inner_max_num_threads cannot be set"),
    ({"remote_backend": "civis"}, ValueError, "has its max_workers"),
])  # fmt: skip
def test_what_does_not_go_with_it(pool, options, error, text):
    with pytest.raises(error, match=text):
        civis_joblib.register(**{"executor": pool, **options})


@pytest.mark.parametrize("other", [None, "local", ThreadPoolExecutor], ids=str)
def test_what_is_none(other):
    with pytest.raises(TypeError, match="executor must be a ContainerPoolExecutor, not"):
        civis_joblib.using(other)


def test_one_that_is_over(pool):
    pool.shutdown()
    with civis_joblib.using(pool), pytest.raises((RuntimeError, cf.BrokenContainerPool)):
        Parallel()(calls())


def nested():
    parallel = Parallel(2)
    return type(parallel._backend).__name__, parallel(calls(2))


def test_a_parallel_within_a_task(pool):
    with civis_joblib.using(pool):
        assert Parallel()([delayed(nested)()]) == [("SequentialBackend", [0, 1])]
    with civis_joblib.using(pool, remote_backend="threading"):
        assert Parallel()([delayed(nested)()]) == [("ThreadingBackend", [0, 1])]


# --- sessions ----------------------------------------------------------------------------------


@pytest.fixture
def name(platform):
    yield "joblib tests"
    civis_joblib.shutdown()
    cf.purge("joblib tests", platform=platform)


def count(folder, x):
    """Each run of a call leaves a file."""
    open(os.path.join(folder, f"{x}-{time.time_ns()}"), "w").close()
    if x == 13:
        raise ZeroDivisionError
    return x * x


def run_of(folder):
    return sorted(name.partition("-")[0] for name in os.listdir(folder))


def test_the_same_calls_again_have_their_results(name, tmp_path):
    for _ in range(2):
        with parallel_config("civis", n_jobs=2, session=name):
            for n in (0, 10):
                found = Parallel()(delayed(count)(str(tmp_path), x + n) for x in range(3))
                assert found == [(x + n) ** 2 for x in range(3)]
    assert run_of(tmp_path) == ["0", "1", "10", "11", "12", "2"]


def test_what_differs_is_told(name, tmp_path):
    def changed(folder, x):
        return x

    changed.__qualname__ = count.__qualname__
    with parallel_config("civis", n_jobs=2, session=name):
        Parallel()(delayed(count)(str(tmp_path), x) for x in range(3))
    with parallel_config("civis", n_jobs=2, session=name):
        others = Parallel()(delayed(count)(str(tmp_path), x) for x in (5, 1, 2))
        assert others == [25, 1, 4]
        with pytest.raises(cf.SessionMismatchError, match="count does something else now"):
            Parallel()(delayed(changed)(str(tmp_path), x) for x in range(3))
    assert run_of(tmp_path) == ["0", "1", "2", "5"]


def test_one_call_after_the_other(name, gates):
    gate = gates()
    with parallel_config("civis", n_jobs=2, session=name):
        tasks = [delayed(square)(2), delayed(wait_at)(gate.path)]
        output = Parallel(return_as="generator")(tasks)
        assert next(output) == 4
        with pytest.raises(RuntimeError, match="one Parallel runs after the other"):
            Parallel()(calls())
        gate.open()
        assert list(output) == ["through"]
        assert Parallel()(calls()) == [0, 1, 4, 9]


def test_a_session_is_for_a_block():
    with pytest.raises(ValueError, match="give it to the parallel_config around them"):
        civis_joblib.register(session="mine")


SEARCH = """
import os, sys, time
import numpy as np
import civis_joblib
from joblib import parallel_config
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.model_selection import GridSearchCV

class Slow(ClassifierMixin, BaseEstimator):
    def __init__(self, depth=1, folder="", gate=""):
        self.depth, self.folder, self.gate = depth, folder, gate

    def fit(self, x, y):
        open(os.path.join(self.folder, f"{self.depth}-{time.time_ns()}"), "w").close()
        while self.depth > 2 and not os.path.exists(self.gate):
            time.sleep(0.02)
        self.classes_ = np.unique(y)
        return self

    def predict(self, x):
        return np.full(len(x), self.depth % 2)

x, y = np.arange(40.0).reshape(20, 2), np.arange(20) % 2
civis_joblib.register()
grid = {"depth": [1, 2, 3, 4], "folder": [sys.argv[1]], "gate": [sys.argv[2]]}
with parallel_config("civis", n_jobs=2, session=sys.argv[3]):
    search = GridSearchCV(Slow(), grid, cv=2, refit=False, pre_dispatch=8).fit(x, y)
print(search.cv_results_["mean_test_score"].tolist())
"""


def test_a_search_goes_on_after_its_process_was_killed(name, tmp_path, until):
    folder, gate, script = tmp_path / "runs", tmp_path / "gate", tmp_path / "search.py"
    folder.mkdir()
    script.write_text(SEARCH)
    command = [sys.executable, str(script), str(folder), str(gate), name]
    first = subprocess.Popen(command, start_new_session=True)
    until(lambda: {"1", "2", "3"} <= set(run_of(folder)))
    threading.Event().wait(0.5)
    first.send_signal(signal.SIGKILL)
    first.wait()
    gate.touch()
    done = subprocess.run(command, capture_output=True, text=True, timeout=100)
    assert done.returncode == 0, done.stderr
    assert done.stdout == "[0.5, 0.5, 0.5, 0.5]\n"
    # Two fits of each; those that were under way went on, and none began anew.
    assert run_of(folder) == ["1", "1", "2", "2", "3", "3", "4", "4"]
