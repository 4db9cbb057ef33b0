"""`depend`, `dependent` and `UnmetDependency`: a call may refuse its container."""

from __future__ import annotations

import os
import pickle
import sys
from pathlib import Path

import numpy as np
import pytest
from tasks import by_value, wait_at

import civis_futures as cf
from civis_futures import DependencyError, UnmetDependency, _wire, depend, dependent, require
from civis_futures._pool.outcomes import CallPlace, outcome_of
from civis_futures._wire import PYTHON

by_value(__name__)


def run_id():
    return int(os.environ["CIVIS_RUN_ID"])


def is_not_the_first(folder):
    """Whether another container came before this one."""
    path = Path(folder, "first")
    if not path.exists():
        path.write_text(str(run_id()))
    return path.read_text() != str(run_id())


def never():
    return False


def refuse(*said):
    raise UnmetDependency(*said)


def item(folder, n):
    """An item for which the first container will not do, if it is the third."""
    Path(folder, f"{n} in {run_id()}").touch()
    if n == 2 and not is_not_the_first(folder):
        raise UnmetDependency
    return n * n


@pytest.mark.parametrize("fresh", [None, 1])
def test_a_call_that_does_not_like_its_container_gets_another_one(make_executor, tmp_path, fresh):
    @depend(is_not_the_first, str(tmp_path))
    def work(x):
        return x * x, run_id()

    executor = make_executor(2, max_tasks_per_worker=fresh)
    future = executor.submit(work, 7)
    assert future.result() == (49, future.run_id)
    assert (tmp_path / "first").read_text() != str(future.run_id)
    assert [each.run_id for each in future.attempts] == [future.run_id]
    first_run = executor.submit(run_id).result()  # it is good for other calls
    assert fresh or first_run in {future.run_id, int((tmp_path / "first").read_text())}


@pytest.mark.parametrize("fresh", [None, 1])
def test_one_that_no_container_suits_ends(make_executor, fresh):
    """It is no failure to try again, and others go on."""
    asked = []
    executor = make_executor(1, max_tasks_per_worker=fresh)
    view = executor.options(max_retries=3, retry_on=asked.append)
    future = view.submit(dependent(pow, never), 2, 3)
    with pytest.raises(DependencyError) as caught:
        future.result()
    error = caught.value
    assert asked == []
    assert error.dependency is error.root is None
    assert (error.task, error.run_id) == (future.task, future.run_id)
    text = str(error)
    assert text.startswith(f"pow (task 0) in run {future.run_id} of job")
    assert "was not run: never returned False. It has refused 2 containers" in text
    [first] = text.partition("before this run: ")[2].partition(")")[0].split(", ")
    assert first != str(future.run_id)
    assert type(error.__cause__) is UnmetDependency
    assert str(error.__cause__) == "never returned False"
    assert "in call" in str(error.__cause__.__cause__)
    assert "no room" in str(executor.submit(refuse, "no room").exception())
    assert executor.submit(pow, 2, 3).result() == 8
    assert executor.report().starts == (5 if fresh else 3)


def test_what_needs_a_refused_call_is_not_run_either(make_executor):
    executor = make_executor(1)
    refused = executor.submit(refuse)
    needs_it = executor.submit(abs, refused)
    with pytest.raises(DependencyError, match="it needs refuse"):
        needs_it.result()
    assert needs_it.exception().root is refused
    assert type(needs_it.resubmit().exception()) is DependencyError


@pytest.mark.parametrize("catch", [False, True])
def test_a_chunk_goes_back_as_a_whole(make_executor, tmp_path, catch):
    executor = make_executor(1)
    results = executor.map(
        item, [str(tmp_path)] * 6, range(6), chunksize=6, return_exceptions=catch
    )
    assert list(results) == [0, 1, 4, 9, 16, 25]
    times = [len(list(tmp_path.glob(f"{n} in *"))) for n in range(6)]
    assert times == [2, 2, 2, 1, 1, 1]  # it was left at the third


def test_the_items_of_a_chunk_that_no_container_suits(make_executor):
    results = make_executor(1).map(
        dependent(abs, never), [1, 2, 3], chunksize=2, return_exceptions=True
    )
    assert [type(each) for each in results] == [DependencyError] * 3


def test_several_processes_are_one_container(make_executor, tmp_path):
    @depend(is_not_the_first, str(tmp_path))
    def work(_):
        return run_id()

    executor = make_executor(4, worker_processes=2)
    assert str(set(executor.map(work, range(8)))) != f"{{{(tmp_path / 'first').read_text()}}}"


def test_a_coroutine_function(make_executor, tmp_path):
    @depend(is_not_the_first, str(tmp_path))
    async def work(x):
        return x * x

    async def late(folder):
        if not is_not_the_first(folder):
            raise UnmetDependency("not here")
        return run_id()

    executor = make_executor(2)
    assert executor.submit(work, 7).result() == 49
    (tmp_path / "first").unlink()
    assert executor.submit(late, str(tmp_path)).result() > 0


def refused_behind_another(executor, gate, folder, **options):
    """A call that its container has refused, which is at another one since."""
    refused = executor.options(**options).submit(dependent(pow, is_not_the_first, folder), 2, 3)
    return refused, executor.submit(wait_at, gate.path, "other")


def test_it_can_be_cancelled_while_it_waits(make_executor, until, gate, tmp_path):
    refused, other = refused_behind_another(make_executor(1), gate, str(tmp_path))
    until(lambda: gate.arrived)
    until(lambda: refused.reason == "a container has refused it, and it waits for another one")
    assert refused.cancel()
    gate.open()
    assert other.result() == "other"


def test_its_queue_timeout_goes_on(make_executor, gate, tmp_path):
    refused, other = refused_behind_another(make_executor(1), gate, str(tmp_path), queue_timeout=3)
    with pytest.raises(cf.TaskTimeoutError, match="had not begun after its queue_timeout of 3 s"):
        refused.result()
    gate.open()
    other.result()


def test_a_session_does_not_run_again_what_was_done_elsewhere(make_executor, platform, tmp_path):
    @depend(is_not_the_first, str(tmp_path))
    def work(x):
        (tmp_path / f"run {run_id()}").touch(exist_ok=False)
        return x * x

    for _ in range(2):
        executor = make_executor(1, session="refused")
        hopeless = executor.submit(dependent(pow, never), 2, 3)
        assert executor.submit(work, 7).result() == 49
        assert type(hopeless.exception()) is DependencyError  # this one is tried again
        executor.shutdown()
    assert len(list(tmp_path.glob("run *"))) == 1
    cf.purge("refused", platform=platform)


def hide_civis_futures():
    sys.modules["civis_futures"] = None


def test_nothing_of_ours_is_installed_there(make_executor):
    executor = make_executor(1, initializer=hide_civis_futures)
    for function in (refuse, dependent(refuse, never)):
        assert type(executor.submit(function).exception()) is DependencyError
    group = executor.submit(raise_group).exception()
    assert [type(each).__name__ for each in group.exceptions] == ["UnmetDependency"]


def raise_group():
    raise ExceptionGroup("two", [UnmetDependency("a")])


def test_the_answer_of_a_worker_that_does_not_know_it():
    """One of an earlier version, in a template or of a session: it is an exception like others."""
    data = pickle.dumps(UnmetDependency("no room"))
    answer = _wire.Answer(0, _wire.RAISED, _wire.Blob.of(data), "no room")
    outcome = outcome_of(answer, data, CallPlace("work", "its image"), PYTHON)
    assert type(outcome.exception) is UnmetDependency


@pytest.mark.parametrize(
    ("found", "fits"),
    [(False, False), (np.False_, False), (None, True), (0, True), (True, True), (np.ones(2), True)],
)
def test_only_false_is_false(found, fits):
    inner, *parts = dependent(abs, lambda: found).__reduce__()
    checked = inner(*parts[0])
    if fits:
        assert checked(-1) == 1
    else:
        with pytest.raises(UnmetDependency, match=r"lambda.* returned False"):
            checked(-1)


def test_with_other_decorators(reused):
    def fits(least):
        return least < 3

    @reused.parallel
    @depend(fits, 2)
    @require("json")
    def double(x):
        """Twice."""
        return 2 * x

    assert (double.__name__, double.__doc__) == ("double", "Twice.")
    assert double(4) == 8
    assert double.submit(4).result() == 8
    assert list(double.map([1, 2])) == [2, 4]
    lacks = require("shop_that_nobody_has")(dependent(abs, never))
    assert lacks(-1) == 1  # here, nothing is checked
    with pytest.raises(cf.EnvironmentMismatchError, match="shop_that_nobody_has"):
        reused.submit(lacks, -1).result()


def test_a_check_that_fails_fails_the_call(reused):
    with pytest.raises(ZeroDivisionError):
        reused.submit(dependent(abs, lambda: 1 / 0), -1).result()


async def later():
    return True


def each():
    yield True


@pytest.mark.parametrize("check", [None, "numpy", later, each, True])
def test_a_check_is_a_function(check):
    with pytest.raises(TypeError):
        depend(check)(abs)
    if check is not later:
        with pytest.raises(TypeError):
            dependent(check, never)
