"""What the documents of other pools show, with imports and set-up changed: IPython's task
interface, and the tutorial of dask's futures. (Its collections are in `test_dask`.)
"""

from __future__ import annotations

import math
import os
import random
import time
from concurrent.futures import as_completed, wait

import pytest
from tasks import by_value

import civis_futures as cf
from civis_futures import DependencyError, UnmetDependency, depend, dependent, require

by_value(__name__)


# --- IPython: the task interface ---------------------------------------------------------------


def test_a_parallel_map_is_the_serial_one(reused):
    serial_result = [x**10 for x in range(32)]
    parallel_result = list(reused.map(lambda x: x**10, range(32)))
    assert serial_result == parallel_result


def test_a_function_decorator(reused):
    @reused.parallel()
    def f(x):
        return 10.0 * x**4

    assert list(f.map(range(32)))[:3] == [0.0, 10.0, 160.0]


def test_names_that_must_be_importable(reused):
    @require("numpy", "pickle")
    def norm(values):
        import numpy

        return float(numpy.linalg.norm(values))

    assert reused.submit(norm, [3.0, 4.0]).result() == 5.0


def test_results_as_they_arrive(reused):
    def sleep_here(t):
        time.sleep(t)
        return t

    naps = [0.3, 0.0, 0.1, 0.0]
    amr = reused.map(sleep_here, naps, ordered=False)
    assert sorted(amr) == sorted(naps)
    assert amr.progress == len(amr) == 4
    assert amr.serial_time >= 0.4
    assert amr.elapsed > 0
    assert amr.speedup == pytest.approx(amr.serial_time / amr.elapsed)


def test_stop_at_the_first_affirmative_result(reused):
    """A search of which one hit is enough."""

    def found(n):
        return n if n % 7 == 3 else None

    amr = reused.map(found, range(50), ordered=False)
    hit = next(each for each in amr if each is not None)
    amr.cancel()
    assert hit % 7 == 3


def test_one_failure_does_not_lose_the_others(reused):
    amr = reused.map(lambda x: 1 / x, [1, 0, 2], return_exceptions=True)
    one, error, half = amr
    assert (one, half) == (1.0, 0.5)
    assert isinstance(error, ZeroDivisionError)


def test_retries_and_resubmit(reused, tmp_path):
    def fails_once(folder):
        path = f"{folder}/tried"
        try:
            open(path, "x").close()
        except FileExistsError:
            return "fine"
        raise RuntimeError("the first time")

    future = reused.submit(fails_once, str(tmp_path))
    with pytest.raises(RuntimeError):
        future.result()
    assert future.resubmit().result() == "fine"
    (tmp_path / "tried").unlink()
    view = reused.options(max_retries=2, retry_on=RuntimeError)
    assert view.submit(fails_once, str(tmp_path)).result() == "fine"


def test_functional_dependencies(make_executor):
    """Of IPython's example: where its engines have numbers of processes, containers have runs."""

    def run_id():
        return os.environ["CIVIS_RUN_ID"]

    def check_run(run):
        return os.environ["CIVIS_RUN_ID"] == run

    def other_run(run):
        if os.environ["CIVIS_RUN_ID"] == run:
            raise UnmetDependency("not here again")
        return os.environ["CIVIS_RUN_ID"]

    executor = make_executor(3)
    first = executor.submit(run_id).result()
    there = depend(check_run, first)(run_id)
    # this will only run there:
    assert [executor.submit(there).result() for _ in range(3)] == [first] * 3
    assert executor.submit(other_run, first).result() != first
    assert executor.submit(dependent(run_id, check_run, first)).result() == first
    with pytest.raises(DependencyError):
        executor.submit(dependent(run_id, check_run, "none")).result()


def test_digits_and_darts(reused):
    """Work in parts, each of which is summed up here."""

    def count_digits(start):
        digits = str(10 ** (start + 5) // 7)
        return [digits.count(each) for each in "0123456789"]

    def inside(seed, throws=2000):
        rng = random.Random(seed)
        return sum(rng.random() ** 2 + rng.random() ** 2 <= 1 for _ in range(throws))

    totals = [sum(column) for column in zip(*reused.map(count_digits, range(8)), strict=True)]
    assert totals == [sum(column) for column in zip(*map(count_digits, range(8)), strict=True)]
    pi = 4 * sum(reused.map(inside, range(8))) / (8 * 2000)
    assert pi == pytest.approx(math.pi, abs=0.1)


# --- dask: futures -----------------------------------------------------------------------------


def inc(x):
    return x + 1


def add(x, y):
    return x + y


def test_submit_map_and_gather(reused):
    a, b = reused.submit(inc, 1), reused.submit(inc, 2)
    assert reused.submit(add, a.result(), b.result()).result() == 5
    futures = [reused.submit(inc, n) for n in range(8)]
    assert wait(futures).not_done == set()
    assert sum(future.result() for future in futures) == 36
    assert sorted(future.result() for future in as_completed(futures)) == list(range(1, 9))


def test_data_is_scattered_once(reused):
    table = {n: n * n for n in range(20_000)}
    shared = reused.put(table)
    assert list(reused.map(lambda t, n: t[n], [shared] * 3, [1, 2, 3])) == [1, 4, 9]


def test_a_batch_of_work_that_nobody_waits_for(reused):
    done = []
    future = reused.submit(inc, 1)
    future.add_done_callback(lambda each: done.append(each.result()))
    assert cf.as_completed([future]).__next__() is future
    reused.submit(inc, 1).result()  # callbacks come in order
    assert done == [2]
