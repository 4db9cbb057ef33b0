"""joblib's own tests of process backends are the yardstick; the cases anew, in our words.

What cannot apply: shared memory and memmapping (a container has neither this machine's memory nor
its disk), the choice of a start method or of a pickler, `main_thread_renamed` and everything else
about processes of this machine.
"""

from __future__ import annotations

import os
import sys
import threading
from functools import partial
from multiprocessing import TimeoutError as JoblibTimeoutError
from pathlib import Path

import cloudpickle
import pytest
from joblib import Parallel, delayed, effective_n_jobs, parallel_backend, parallel_config
from joblib.parallel import BACKENDS, SequentialBackend, ThreadingBackend
from tasks import by_value, slept, square

import civis_futures as cf
import civis_joblib
from civis_joblib._backend import CivisBackend

by_value(__name__)

MODES = ("list", "generator", "generator_unordered")
#: How long a task sleeps that must not be waited for, in seconds: the test's time limit is shorter.
HOUR = 3600.0


def divide(x, y):
    return x / y


def variable(name):
    return os.environ.get(name)


def pid(_=None):
    return os.getpid()


# --- results -----------------------------------------------------------------------------------


@pytest.mark.parametrize("return_as", MODES)
def test_results(return_as):
    output = Parallel(2, backend="civis", return_as=return_as)(delayed(square)(x) for x in range(6))
    assert (output if return_as == "list" else sorted(output)) == [0, 1, 4, 9, 16, 25]


@pytest.mark.parametrize("options", [
    {"pre_dispatch": "all", "batch_size": 4},
    {"pre_dispatch": 1},
    {"batch_size": 100, "max_nbytes": "1M", "mmap_mode": "c", "temp_folder": "/nowhere"},
])  # fmt: skip
def test_options_of_joblib(options):
    assert Parallel(2, backend="civis", **options)(delayed(square)(x) for x in range(10)) == list(
        map(square, range(10))
    )


def test_lambdas_partials_keywords_and_bound_methods():
    offset = 10
    calls = [
        delayed(lambda x: x + offset)(1),
        delayed(partial(divide, y=2))(6),
        delayed(divide)(x=1, y=4),
        delayed("-".join)(["a", "b"]),
    ]
    assert Parallel(2, backend="civis")(calls) == [11, 3.0, 0.25, "a-b"]


def test_no_tasks():
    assert Parallel(2, backend="civis")([]) == []
    assert list(Parallel(2, backend="civis", return_as="generator")(iter(()))) == []


def test_ordered_generators_wait_for_the_first():
    output = Parallel(3, backend="civis", return_as="generator", batch_size=1)(
        delayed(slept)(x) for x in (0.6, 0.3, 0.0)
    )
    assert list(output) == [0.6, 0.3, 0.0]


def test_results_come_before_the_last_task_has_ended():
    output = Parallel(2, backend="civis", return_as="generator_unordered", batch_size=1)(
        delayed(slept)(x) for x in (0.0, HOUR)
    )
    assert next(output) == 0.0
    with pytest.warns(UserWarning, match="cancelled"):
        output.close()


# --- n_jobs ------------------------------------------------------------------------------------


def test_one_job_runs_here(platform):
    before = platform.stats().runs_started
    for n_jobs in (1, None):
        assert (
            Parallel(n_jobs, backend="civis")(delayed(pid)() for _ in range(2)) == [os.getpid()] * 2
        )
    with Parallel(1, backend="civis") as parallel:
        assert parallel(delayed(pid)() for _ in range(2)) == [os.getpid()] * 2
    assert platform.stats().runs_started == before


def test_no_job_is_an_error():
    with pytest.raises(ValueError, match="n_jobs == 0"):
        Parallel(0, backend="civis")(delayed(square)(x) for x in range(2))


@pytest.mark.parametrize(("options", "n_jobs", "expected"), [
    ({}, -1, 50), ({}, -2, 49), ({}, -99, 1), ({}, 7, 7), ({}, "4", 4), ({}, None, 1),
    ({"max_workers": 8}, -1, 8), ({"max_workers": 8}, -3, 6), ({"max_workers": 8}, 20, 20),
])  # fmt: skip
def test_effective_n_jobs(options, n_jobs, expected):
    civis_joblib.register(**options)
    with parallel_config("civis"):
        assert effective_n_jobs(n_jobs) == expected
    with parallel_config("civis", n_jobs=n_jobs):
        assert effective_n_jobs(None) == expected


def test_n_jobs_as_text():
    assert Parallel("2", backend="civis")(delayed(square)(x) for x in range(3)) == [0, 1, 4]
    with pytest.raises(ValueError, match="n_jobs could not be converted to int"):
        Parallel("two", backend="civis")


def test_never_more_containers_than_jobs(most):
    Parallel(2, backend="civis", pre_dispatch="all", batch_size=1)(
        delayed(slept)(0.05) for _ in range(12)
    )
    Parallel(2, backend="civis")(delayed(slept)(0.05) for _ in range(2))
    assert most() == 2


# --- configuration -----------------------------------------------------------------------------


def test_configurations_nest_and_end():
    with parallel_config("civis", n_jobs=2):
        assert type(Parallel()._backend) is CivisBackend
        with parallel_config("threading"):
            assert type(Parallel()._backend) is ThreadingBackend
        assert Parallel().n_jobs == 2
        assert os.getpid() not in Parallel()(delayed(pid)() for _ in range(2))
    assert type(Parallel()._backend) is not CivisBackend


def test_the_older_way_of_configuration():
    with parallel_backend("civis", n_jobs=2):
        assert Parallel()(delayed(square)(x) for x in range(3)) == [0, 1, 4]


def test_executor_options_in_each_place():
    civis_joblib.register(max_tasks_per_worker=5)
    one_each = {"max_tasks_per_worker": 1}
    with parallel_config("civis", n_jobs=2, **one_each):
        assert len(set(Parallel(batch_size=1)(delayed(pid)(x) for x in range(3)))) == 3
    parallel = Parallel(2, backend="civis", batch_size=1, **one_each)
    assert len(set(parallel(delayed(pid)(x) for x in range(3)))) == 3


def test_a_platform_of_its_own():
    civis_joblib.register(platform="local")
    with parallel_config("civis", n_jobs=2):
        for _ in range(2):
            assert Parallel()(delayed(square)(x) for x in range(3)) == [0, 1, 4]


def test_a_backend_object():
    backend = CivisBackend()
    assert Parallel(2, backend=backend)(delayed(square)(x) for x in range(3)) == [0, 1, 4]


def test_what_is_not_known():
    with pytest.raises(
        TypeError, match="'max_task_per_worker': did you mean 'max_tasks_per_worker'"
    ):
        civis_joblib.register(max_task_per_worker=1)
    with (
        pytest.raises(TypeError, match="'idletimeout': did you mean 'idle_timeout'"),
        parallel_config("civis", idletimeout=1),
    ):
        pass
    with pytest.raises(TypeError, match="'plattform': did you mean 'platform'"):
        Parallel(2, backend="civis", plattform=1)(delayed(square)(x) for x in range(3))
    for cap, error in ((0, ValueError), (-1, ValueError), ("2", TypeError), (True, TypeError)):
        with pytest.raises(error, match="cap must be"), parallel_config("civis", cap=cap):
            pass
    with pytest.raises(TypeError, match="progress must be"):
        civis_joblib.register(progress="yes")
    # Values as well as names, and before anything is run.
    with pytest.raises(TypeError, match="max_tasks_per_worker must be an integer"):
        civis_joblib.register(max_tasks_per_worker="1")
    with pytest.raises(ValueError, match="max_workers must be 1 or more"):
        civis_joblib.register(max_workers=0)
    with (
        pytest.raises(TypeError, match="container must be a Container"),
        parallel_config("civis", container="python"),
    ):
        pass
    with pytest.raises(TypeError, match="max_tasks_per_worker must be an integer"):
        Parallel(2, backend="civis", max_tasks_per_worker="1")([delayed(square)(1)])


def test_no_key(monkeypatch):
    monkeypatch.delenv("CIVIS_API_KEY")
    with pytest.raises(cf.CredentialsError, match="CIVIS_API_KEY"):
        Parallel(2, backend="civis")([delayed(square)(1)])


def test_shared_memory():
    with pytest.raises(ValueError, match="does not support shared memory"):
        Parallel(2, backend="civis", require="sharedmem")
    with parallel_config("civis", n_jobs=2):
        parallel = Parallel(require="sharedmem")
        assert type(parallel._backend) is ThreadingBackend
        assert parallel(delayed(pid)() for _ in range(2)) == [os.getpid()] * 2


def test_hints_do_not_matter():
    with parallel_config("civis", n_jobs=2):
        for prefer in ("threads", "processes"):
            assert type(Parallel(prefer=prefer)._backend) is CivisBackend


def test_verbose(capsys):
    Parallel(2, backend="civis", verbose=51)(delayed(square)(x) for x in range(4))
    said = capsys.readouterr().out
    assert "Using backend CivisBackend with 2 concurrent workers." in said
    assert "Done   4 out of   4" in said


@pytest.mark.parametrize("fails", [False, True])
def test_progress(capsys, fails):
    with parallel_config("civis", n_jobs=2, progress=True):
        tasks = [delayed(divide)(x, 0 if fails else 1) for x in range(6)]
        if fails:
            with pytest.raises(ZeroDivisionError):
                Parallel(batch_size=3)(tasks)
        else:
            assert Parallel(batch_size=3)(tasks) == list(range(6))
    *_, last = capsys.readouterr().err.splitlines()
    assert " of 6 tasks done" in last
    assert ("failed" in last) == fails
    assert fails or "6 of 6" in last


def test_threads_of_numerical_libraries():
    with parallel_config("civis", n_jobs=2, inner_max_num_threads=3):
        found = Parallel()(delayed(variable)("OMP_NUM_THREADS") for _ in range(2))
    assert found == ["3"] * 2
    assert Parallel(2, backend="civis")([delayed(variable)("OMP_NUM_THREADS")]) == ["1"]


def test_threads_of_numerical_libraries_in_a_template():
    template = cf.Template(from_template_id=1)
    with (
        parallel_config("civis", n_jobs=2, inner_max_num_threads=1, container=template),
        pytest.raises(ValueError, match="templates fix params"),
    ):
        Parallel()([delayed(square)(1)])


def remember(value):
    os.environ["REMEMBERED"] = value


def test_initializer():
    with parallel_config("civis", n_jobs=2, initializer=remember, initargs=("yes",)):
        assert Parallel()(delayed(variable)("REMEMBERED") for _ in range(3)) == ["yes"] * 3


# --- several calls -----------------------------------------------------------------------------


def test_one_parallel_keeps_its_containers():
    with Parallel(2, backend="civis", batch_size=1) as parallel:
        first = set(parallel(delayed(pid)(x) for x in range(6)))
        second = set(parallel(delayed(pid)(x) for x in range(6)))
    assert second <= first
    assert parallel(delayed(square)(x) for x in range(2)) == [0, 1]


def test_a_parallel_without_a_call():
    with Parallel(2, backend="civis"):
        pass


def test_a_generator_feeds_another_call():
    with parallel_config("civis", n_jobs=2):
        first = Parallel(return_as="generator")(delayed(square)(x) for x in range(6))
        assert Parallel()(delayed(square)(x) for x in first) == [x**4 for x in range(6)]


def test_calls_of_two_parallels_overlap():
    with parallel_config("civis", n_jobs=2):
        first = Parallel(return_as="generator", pre_dispatch=2)(
            delayed(square)(x) for x in range(6)
        )
        assert next(first) == 0
        assert Parallel()(delayed(square)(x) for x in range(3)) == [0, 1, 4]
        assert list(first) == [1, 4, 9, 16, 25]


def test_a_parallel_runs_one_call_at_a_time():
    with Parallel(2, backend="civis", return_as="generator") as parallel:
        output = parallel(delayed(square)(x) for x in range(4))
        with pytest.raises(RuntimeError, match="already running"):
            parallel(delayed(square)(x) for x in range(4))
        assert list(output) == [0, 1, 4, 9]
        assert list(parallel(delayed(square)(x) for x in range(2))) == [0, 1]


@pytest.mark.parametrize(("return_as", "managed"), [(MODES[1], True), (MODES[2], False)])
def test_a_generator_dropped_half_way(platform, managed, return_as, mine):
    parallel = Parallel(2, backend="civis", return_as=return_as, batch_size=1)
    if managed:
        parallel.__enter__()
    output = parallel(delayed(slept)(x) for x in (0.0, HOUR, HOUR))
    assert next(output) == 0.0
    with pytest.warns(UserWarning, match="have been cancelled"):
        del output
    assert sorted(parallel(delayed(square)(x) for x in range(2))) == [0, 1]
    if managed:
        parallel.__exit__(None, None, None)
    assert not mine()


def test_calls_from_threads():
    results = {}

    def call(n):
        with parallel_config("civis", n_jobs=2):
            results[n] = Parallel()(delayed(square)(x) for x in range(n))

    threads = [threading.Thread(target=call, args=(n,)) for n in (2, 3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert results == {2: [0, 1], 3: [0, 1, 4]}


# --- what is read, and when --------------------------------------------------------------------


def test_tasks_are_read_as_results_come():
    read = []

    def tasks():
        for x in range(12):
            read.append(x)
            yield delayed(slept)(0.01, x)

    output = Parallel(2, backend="civis", pre_dispatch=3, batch_size=1, return_as="generator")(
        tasks()
    )
    assert len(read) <= 3 + 2 * 2
    assert list(output) == read == list(range(12))


@pytest.mark.parametrize(("good", "pre_dispatch"), [(0, 2), (3, 2), (0, "all"), (1, "all")])
def test_reading_the_tasks_fails(good, pre_dispatch):
    def tasks():
        for x in range(good):
            yield delayed(square)(x)
        raise LookupError("no more")

    with Parallel(2, backend="civis", pre_dispatch=pre_dispatch) as parallel:
        with pytest.raises(LookupError, match="no more"):
            parallel(tasks())
        assert parallel(delayed(square)(x) for x in range(2)) == [0, 1]


def test_tasks_that_are_none():
    with (
        Parallel(2, backend="civis") as parallel,
        pytest.raises(TypeError, match="not iterable"),
    ):
        parallel(5)


# --- time --------------------------------------------------------------------------------------


@pytest.mark.parametrize("return_as", [MODES[0], MODES[2]])
def test_timeout(return_as, platform, mine):
    with pytest.raises(JoblibTimeoutError):
        list(
            Parallel(2, backend="civis", timeout=1, return_as=return_as)(
                delayed(slept)(HOUR) for _ in range(3)
            )
        )
    assert not mine()


def test_timeout_that_is_long_enough():
    output = Parallel(2, backend="civis", timeout=30)(delayed(slept)(0.1) for _ in range(3))
    assert output == [0.1] * 3


def test_interrupt(platform, mine):
    def interrupt():
        yield delayed(slept)(HOUR)
        yield delayed(slept)(HOUR)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        Parallel(2, backend="civis", pre_dispatch="all", batch_size=1)(interrupt())
    assert not mine()


SCRIPT = """
import time, civis_joblib
from joblib import Parallel, delayed
civis_joblib.register()
print("begun", flush=True)
Parallel(2, backend="civis")(delayed(time.sleep)(60) for _ in range(3))
"""


def test_control_c(platform, until, tmp_path):
    import signal
    import subprocess

    before = set(platform.stats().active)
    process = subprocess.Popen(
        [sys.executable, "-c", SCRIPT], cwd=tmp_path, stderr=subprocess.PIPE, text=True
    )
    until(lambda: len(set(platform.stats().active) - before) == 2)
    process.send_signal(signal.SIGINT)
    said = process.communicate(timeout=20)[1]
    assert process.returncode in (1, -signal.SIGINT)
    assert "KeyboardInterrupt" in said
    assert set(platform.stats().active) == before


# --- the backend itself ------------------------------------------------------------------------


def test_it_pickles_without_platform_key_and_threads(platform):
    backend = CivisBackend(platform=platform, max_tasks_per_worker=3, max_workers=7)
    with Parallel(2, backend=backend) as parallel:
        parallel([delayed(square)(1)])
        data = cloudpickle.dumps(backend)
    assert platform.api_key.encode() not in data
    copy = cloudpickle.loads(data)
    assert copy._options == {"max_tasks_per_worker": 3}
    assert copy.effective_n_jobs(-1) == 7


def test_all_registered_names_are_gone_after_each_test():
    assert set(BACKENDS) == {"civis", "loky", "multiprocessing", "sequential", "threading"}
    assert SequentialBackend is BACKENDS["sequential"]


def test_docstring():
    import doctest

    failures, tests = doctest.testmod(civis_joblib)
    assert (failures, tests) == (0, 8)
    assert Path(civis_joblib.__file__).exists()


def test_several_jobs_in_one_container():
    with parallel_config("civis", n_jobs=4, worker_processes=4):
        workers = Parallel(batch_size=1)(delayed(os.getppid)() for _ in range(12))
    assert len(set(workers)) == 1
