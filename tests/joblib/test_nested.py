"""A Parallel within a task: what it runs on, and that it never multiplies containers."""

from __future__ import annotations

import os
import threading
import time

import pytest
from cases import mostly_repeats
from joblib import Parallel, delayed, parallel_config
from joblib.parallel import LokyBackend, SequentialBackend, ThreadingBackend
from tasks import by_value

import civis_futures as cf
import civis_joblib
from civis_joblib._backend import CivisBackend

by_value(__name__)


def where(seconds=0.0):
    time.sleep(seconds)
    return os.environ.get("CIVIS_RUN_ID"), os.getpid(), threading.get_ident()


def nest(tasks, **options):
    """What runs the tasks in here: (backend, n_jobs), where they ran, and where this is."""
    parallel = Parallel(**options)
    places = parallel(delayed(where)(0.1) for _ in range(tasks))
    return type(parallel._backend).__name__, parallel.n_jobs, places, where()


def run(cap, remote_backend, outer=2, tasks=3, **options):
    civis_joblib.register(remote_backend=remote_backend)
    with parallel_config("civis", n_jobs=cap):
        return Parallel()(delayed(nest)(tasks, **options) for _ in range(outer))


def test_sequential_by_default():
    with parallel_config("civis", n_jobs=2):
        for name, _, places, here in Parallel()(delayed(nest)(2, n_jobs=4) for _ in range(2)):
            assert name == "SequentialBackend"
            assert set(places) == {here}


@pytest.mark.parametrize("name", mostly_repeats(["threading", "loky"], "threading"))
def test_the_cores_of_the_container(name):
    for backend, _, places, here in run(2, name, tasks=4, n_jobs=2):
        assert backend.lower() == f"{name}backend"
        assert {run for run, _, _ in places} == {here[0]}
        assert (here[1] in {pid for _, pid, _ in places}) == (name == "threading")
        assert here[1:] not in {place[1:] for place in places}


def block_within(name):
    with parallel_config(name, n_jobs=2):
        return nest(2)


@pytest.mark.parametrize("name", mostly_repeats(["threading", "loky"], "threading"))
def test_a_block_within_a_task(name):
    with parallel_config("civis", n_jobs=2):
        for backend, n_jobs, places, here in Parallel()(delayed(block_within)(name) for _ in "ab"):
            assert (backend.lower(), n_jobs) == (f"{name}backend", 2)
            assert {run for run, _, _ in places} == {here[0]}


def test_blocks_on_the_threads_of_another_backend(most):
    with parallel_config("threading", n_jobs=2):
        found = Parallel()(delayed(block_within)("civis") for _ in range(4))
    assert {(backend, n_jobs) for backend, n_jobs, _, _ in found} == {("CivisBackend", 2)}
    assert all(run is not None for _, _, places, _ in found for run, _, _ in places)
    assert most() <= 4


def pids_within():
    return Parallel(2)(delayed(os.getpid)() for _ in range(4)), os.getpid()


def test_multiprocessing():
    # Its own pickler takes functions by name only.
    civis_joblib.register(remote_backend="multiprocessing")
    with parallel_config("civis", n_jobs=2):
        for pids, here in Parallel()(delayed(pids_within)() for _ in range(2)):
            assert here not in pids


def test_all_cores_unless_told_otherwise():
    assert run(2, "threading", outer=1)[0][1] == -1


def test_a_backend_as_an_object():
    assert run(2, ThreadingBackend(), outer=1)[0][0] == "ThreadingBackend"


@pytest.mark.parametrize(("n_jobs", "outer", "inner"), [
    (2, 2, 1), (3, 3, 1), (5, 5, 1), (6, 2, 2), (8, 2, 3), (9, 3, 2), (12, 3, 3), (20, 4, 4),
    (50, 7, 6), (-1, 7, 6), (1, 1, 1),
])  # fmt: skip
def test_the_cap_is_shared_out(n_jobs, outer, inner):
    backend = CivisBackend(remote_backend="civis")
    assert backend.effective_n_jobs(n_jobs) == outer
    assert outer + outer * (inner if inner > 1 else 0) <= (n_jobs if n_jobs > 0 else 50)
    if outer > 1:
        with Parallel(n_jobs, backend=backend) as parallel:
            nested, jobs = parallel._backend.get_nested_backend()
        if inner == 1:
            assert (type(nested), jobs) == (SequentialBackend, None)
        else:
            assert jobs == inner
            # Whatever it is asked for, and however deep.
            assert [nested.effective_n_jobs(n) for n in (1, 2, 99, -1)] == [1, 2, inner, inner]
            assert type(nested.get_nested_backend()[0]) is SequentialBackend
            assert nested.nesting_level == 1


def test_more_containers_under_one_cap(most):
    outcomes = run(6, "civis", outer=3, tasks=4, n_jobs=99)
    assert {name for name, *_ in outcomes} == {"CivisBackend"}
    parents = {here[0] for *_, here in outcomes}
    runs = {run for _, _, places, _ in outcomes for run, _, _ in places}
    assert not parents & runs
    assert len(parents) <= 2
    assert most() <= 6


def overlap_within():
    first = Parallel(return_as="generator")
    # The last one keeps it going while the second Parallel runs.
    output = first(delayed(where)(seconds) for seconds in (0, 0, 1))
    next(output)
    second = Parallel()
    second(delayed(where)() for _ in range(3))
    list(output)
    return type(first._backend).__name__, type(second._backend).__name__


@pytest.mark.repeats
def test_calls_within_that_overlap(most):
    civis_joblib.register(remote_backend="civis")
    with parallel_config("civis", n_jobs=6):
        names = Parallel()(delayed(overlap_within)() for _ in range(2))
    assert names == [("CivisBackend", "SequentialBackend")] * 2
    assert most() <= 6


def test_a_cap_is_for_all_parallels_of_a_process(monkeypatch):
    """Each batch of tasks brings a backend of its own, and may leave a generator behind."""

    def parallel():
        return Parallel(2, backend=CivisBackend(cap=2))

    with monkeypatch.context() as patch:
        patch.delenv("CIVIS_API_KEY")
        with pytest.raises(cf.CredentialsError):
            parallel().__enter__()
    with parallel() as first, parallel() as second:
        kinds = [type(each._backend) for each in (first, second)]
        assert kinds == [CivisBackend, SequentialBackend]
    with parallel() as third:
        assert type(third._backend) is CivisBackend


def ask_by_name():
    with parallel_config("civis", n_jobs=2):
        places = Parallel()(delayed(where)() for _ in range(2))
    return type(Parallel(2, backend="civis")._backend).__name__, places, where()


@pytest.mark.parametrize("remote_backend", ["threading", "civis"])
def test_tasks_that_ask_for_the_backend_by_its_name(remote_backend):
    civis_joblib.register(remote_backend=remote_backend)
    with parallel_config("civis", n_jobs=6):
        ((name, places, here),) = Parallel()([delayed(ask_by_name)()])
    assert name == f"{remote_backend.title()}Backend"
    assert (here[0] in {run for run, _, _ in places}) == (remote_backend != "civis")


def fail_within():
    Parallel()(delayed(divide)(1, y) for y in (1, 0, 1))


def divide(x, y):
    return x / y


def test_a_failure_within(platform, mine):
    civis_joblib.register(remote_backend="civis")
    with parallel_config("civis", n_jobs=6), pytest.raises(ZeroDivisionError) as caught:
        Parallel()(delayed(fail_within)() for _ in range(2))
    assert "Raised by divide" in "\n".join(caught.value.__notes__)
    assert not mine()


def rest_within():
    Parallel()(delayed(where)(60) for _ in range(2))


def test_an_abort_reaches_the_containers_within(platform, until, mine):
    """The tasks that are cancelled have containers of their own: these must not stay."""
    civis_joblib.register(remote_backend="civis")
    with parallel_config("civis", n_jobs=6):
        output = Parallel(return_as="generator")([delayed(rest_within)()])
        until(lambda: len([pids for pids in mine().values() if pids]) >= 3)
        with pytest.warns(UserWarning, match="cancelled"):
            output.close()
    until(lambda: not mine())


@pytest.mark.parametrize("make", [
    civis_joblib.register, civis_joblib.make_backend_factory,
    lambda **options: civis_joblib.make_backend_template_factory(1, **options),
])  # fmt: skip
def test_a_backend_that_nobody_knows(make):
    with pytest.raises(ValueError, match=r"'treading' is none of civis, loky, .*, threading"):
        make(remote_backend="treading")


def test_loky_is_what_it_says():
    backend = CivisBackend(remote_backend="loky")
    nested, n_jobs = backend.get_nested_backend()
    assert (type(nested), nested.nesting_level, n_jobs) == (LokyBackend, 1, -1)
