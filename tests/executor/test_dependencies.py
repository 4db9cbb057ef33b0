"""Calls that need others: futures in calls, `after=`, `Dependency`, and what comes of failures."""

from __future__ import annotations

import concurrent.futures
import contextlib
import functools
import json
import pickle
import random
import sys
import urllib.request
from concurrent.futures import CancelledError

import networkx as nx
import numpy as np
import pytest
from tasks import SECONDS, by_value, square, wait_at

from civis_futures import (
    CallLostError,
    CallPicklingError,
    ContainerPoolExecutor,
    Dependency,
    DependencyError,
    TaskState,
    TaskTimeoutError,
)
from civis_futures.testing import Fault

by_value(__name__)

LARGE = 200_000  # bytes: a File, on the way there and back


def add(x, y=0):
    return x + y


def total(*parts, **more):
    """The sum of all numbers in there."""
    parts = [*parts, *more.values()]
    return sum(
        total(*part) if isinstance(part, (list, tuple)) else
        total(*part.values()) if isinstance(part, dict) else part
        for part in parts
    )  # fmt: skip


def fail(message):
    raise ValueError(message)


def length(*values):
    return sum(len(value) for value in values)


def repeated(value, times):
    return value * times


def is_same(first, second):
    return first is second


class Point:
    def __init__(self, x):
        self.x = x


def is_point(value):
    return isinstance(value, Point) and value.x


@pytest.fixture
def waiting(reused, gate):
    """waiting(value): a future of it that is not done before the gate is opened."""
    return lambda value: reused.submit(wait_at, gate.path, value)


# --- results as arguments ----------------------------------------------------------------------


def test_futures_may_be_anywhere_in_a_call(reused, waiting, gate):
    one = waiting(1)
    two = reused.submit(add, one, y=1)
    nested = reused.submit(total, [one, (two, [two])], deep={"a": {"b": one}}, more=two)

    def closure(x):
        return x + one_there + two_there

    one_there, two_there = one, two
    closed = reused.submit(closure, 10)
    bound = reused.submit(functools.partial(add, y=two), 1)
    assert (two.done(), two.state) == (False, TaskState.PENDING)
    assert two.reason == f"waits for {one.task}"
    gate.open()
    assert [f.result(SECONDS) for f in (two, nested, closed, bound)] == [2, 8, 13, 3]


def test_a_future_that_is_done_is_its_result(reused):
    one = reused.submit(add, 1)
    text = reused.submit(str, "x" * 20_000)
    large = reused.submit(bytes, LARGE)
    assert len(text.result(SECONDS)) + len(large.result(SECONDS)) + one.result(SECONDS) == 220_001
    assert reused.submit(length, text, large, [one]).result(SECONDS) == 220_001


def test_the_same_future_twice_is_one_object(reused, waiting, gate):
    some = waiting([1, 2])
    same = reused.submit(is_same, some, some)
    gate.open()
    assert same.result(SECONDS)


def test_classes_of_the_script_and_arrays_arrive_as_they_are(reused, gate):
    point = reused.submit(Point, 7)
    array = reused.submit(np.arange, 50_000.0)  # 400 kB
    found = reused.submit(is_point, point)
    summed = reused.submit(np.sum, array)
    assert (found.result(SECONDS), summed.result(SECONDS)) == (7, 1249975000.0)


@pytest.mark.parametrize("size", [20_000, LARGE], ids=["inline", "file"])
def test_values_of_all_sizes_with_large_arguments_beside(reused, waiting, gate, size):
    value = reused.submit(repeated, waiting(b"v"), size)
    array = np.ones(1_500_000, "u1")
    alone = reused.submit(length, value)
    beside = reused.submit(length, b"a" * LARGE, value, array, value)
    many = reused.submit(length, *[reused.submit(repeated, waiting(b"w"), size) for _ in range(5)])
    gate.open()
    assert alone.result(SECONDS) == size
    assert beside.result(SECONDS) == LARGE + 2 * size + 1_500_000
    assert many.result(SECONDS) == 5 * size


def test_items_of_a_map(reused, waiting, gate):
    futures = [waiting(number) for number in range(6)]
    results = reused.map(square, futures)
    chunks = reused.map(add, futures, futures, chunksize=4)
    gate.open()
    assert list(results) == [0, 1, 4, 9, 16, 25]
    assert list(chunks) == [0, 2, 4, 6, 8, 10]


def test_a_diamond_and_a_chain_and_a_fan(make_executor):
    executor = make_executor(2)
    first = executor.submit(add, 1)
    left, right = executor.submit(add, first, 1), executor.submit(add, first, 2)
    assert executor.submit(add, left, right).result(SECONDS) == 5
    link = first
    for _ in range(30):
        link = executor.submit(add, link, 1)
    fan = executor.submit(total, [executor.submit(add, number) for number in range(100)])
    assert (link.result(SECONDS), fan.result(SECONDS)) == (31, 4950)


def test_one_worker_is_enough_for_what_waits(make_executor, gate):
    """What waits holds no container, so nothing can wait for ever."""
    executor = make_executor(1)
    first = executor.submit(wait_at, gate.path, 1)
    rest = [executor.submit(add, first, number) for number in range(5)]
    gate.open()
    assert [future.result(SECONDS) for future in rest] == [1, 2, 3, 4, 5]


def test_a_list_that_holds_itself_is_no_cycle(reused):
    items = [reused.submit(add, 1)]
    future = reused.submit(len, items)
    items.append(future)  # too late: the call was sent as it was
    assert reused.submit(len, items).result(SECONDS) == 2
    assert future.result(SECONDS) == 1
    circle = [reused.submit(add, 1)]
    circle.append(circle)
    assert reused.submit(lambda there: there[1] is there and there[0], circle).result(SECONDS) == 1


def test_futures_of_others_are_refused(reused, make_executor):
    ours = make_executor(1).submit(add, 1)
    theirs = concurrent.futures.Future()
    for future in (ours, theirs):
        error = reused.submit(total, [future]).exception(SECONDS)
        assert isinstance(error, CallPicklingError)
        assert "is not of this executor: pass its result" in str(error)
        assert "argument 1 -> [0]" in str(error)
    with pytest.raises(CallPicklingError, match="pass its result"):
        reused.put([ours])
    with pytest.raises(ValueError, match="another executor"):
        reused.options(after=ours)
    with pytest.raises(TypeError, match="futures of its executor"):
        reused.options(after=[theirs])


# --- after -------------------------------------------------------------------------------------


def test_order_without_data(reused, waiting, gate, tmp_path):
    first = waiting(1)
    future = reused.options(after=[first, first]).submit(gate_is_open, gate.path)
    alone = reused.options(after=first).submit(gate_is_open, gate.path)
    free = reused.options(after=[]).submit(add, 1)
    assert free.result(SECONDS) == 1
    gate.open()
    assert future.result(SECONDS)
    assert alone.result(SECONDS)
    assert reused.options(after=first).submit(add, 2).result(SECONDS) == 2  # it has ended


def gate_is_open(gate):
    import os

    return os.path.exists(f"{gate}/open")


def test_any_and_failures_as_the_dependency_says(reused, waiting, gate):
    bad, good, slow = reused.submit(fail, "bad"), reused.submit(add, 1), waiting(1)

    def run(*futures, **how):
        return reused.options(after=Dependency(futures, **how)).submit(add, 1)

    assert run(slow, good, all=False).result(SECONDS) == 1
    assert run(bad, failure=True).result(SECONDS) == 1
    assert run(good, bad, failure=True).result(SECONDS) == 1
    assert run(bad, success=False, failure=True).result(SECONDS) == 1
    unmet = run(good, success=False, failure=True).exception(SECONDS)
    assert isinstance(unmet, DependencyError)
    assert str(unmet).endswith("was not run: it needs " + good.task + ", which has succeeded")
    assert isinstance(run(bad, slow).exception(SECONDS), DependencyError)
    either = run(bad, slow, all=False)
    gate.open()
    assert either.result(SECONDS) == 1


@pytest.mark.parametrize(
    ("make", "error"),
    [
        (lambda f: Dependency([]), ValueError),
        (lambda f: Dependency([f], success=False), ValueError),
        (lambda f: Dependency([f], all=1), TypeError),
        (lambda f: Dependency([1]), TypeError),
        (lambda f: Dependency(1), TypeError),
    ],
)
def test_a_dependency_that_makes_no_sense(reused, make, error):
    with pytest.raises(error):
        make(reused.submit(add, 1))
    with pytest.raises(TypeError):
        reused.options(after=1)


def random_dag(nodes, edges):
    """A random graph without circles: "DAG Dependencies" in the documentation of ipyparallel."""
    chance = random.Random(1)
    G = nx.DiGraph()
    for i in range(nodes):
        G.add_node(i)
    while edges > 0:
        a = b = chance.randint(0, nodes - 1)
        while b == a:
            b = chance.randint(0, nodes - 1)
        if G.has_edge(a, b):
            continue
        G.add_edge(a, b)
        if nx.is_directed_acyclic_graph(G):
            edges -= 1
        else:
            G.remove_edge(a, b)
    return G


def randomwait():
    import random
    import time

    time.sleep(0.02 * random.random())


def test_the_example_of_ipython(reused):
    """Its loops and its check, as they are there but for the names of timings."""
    G = random_dag(32, 128)
    jobs = {}
    for node in G:
        jobs[node] = randomwait
    results = {}
    for node in nx.topological_sort(G):
        deps = [results[n] for n in G.predecessors(node)]
        results[node] = reused.options(after=deps).submit(jobs[node])
    concurrent.futures.wait(results.values(), SECONDS)

    def validate_tree(G, results):
        for node in G:
            started = results[node].timings.started
            for parent in G.predecessors(node):
                finished = results[parent].timings.finished
                assert started > finished, f"{node} should have happened after {parent}"

    validate_tree(G, results)


# --- many --------------------------------------------------------------------------------------


@pytest.mark.parametrize("length", [100, pytest.param(1000, marks=pytest.mark.stress)])
def test_a_long_chain(make_executor, length):
    executor = make_executor(2)
    link = executor.submit(add, 0)
    for _ in range(length):
        link = executor.submit(add, link, 1)
    assert link.result(20 * SECONDS) == length


def test_a_chain_costs_no_request_more_than_its_calls_one_by_one(make_executor, platform):
    """Of those that change something: how often is looked is a matter of time."""
    executor = make_executor(1)
    executor.submit(add, 1).result(SECONDS)

    def changes():
        stats = platform.stats()
        return sum(stats.count(method) for method in ("POST", "PUT", "PATCH")) + stats.uploads

    before = changes()
    value = 0
    for _ in range(30):
        value = executor.submit(add, value, 1).result(SECONDS)
    middle = changes()
    link = executor.submit(add, 0, 1)
    for _ in range(29):
        link = executor.submit(add, link, 1)
    assert link.result(SECONDS) == value == 30
    assert changes() - middle <= 1.1 * (middle - before) + 3


def test_a_graph_costs_no_request_more_than_its_calls(make_executor, platform):
    """A hundred calls that need nothing, and one that needs all of them."""
    executor = make_executor(2)
    stats = platform.stats()
    some = [executor.submit(add, number) for number in range(100)]
    assert executor.submit(total, some).result(SECONDS) == 4950
    after = platform.stats()
    assert after.uploads - stats.uploads <= 1  # the program of the workers, if it was not there
    assert after.count("POST", "/files") - stats.count("POST", "/files") <= 1


# --- failure -----------------------------------------------------------------------------------


def test_what_cannot_be_run_any_more_fails_at_once_and_down_the_line(reused, waiting, gate):
    never = waiting(1)
    bad = reused.submit(fail, "bad depth")
    line = [reused.submit(total, never, bad)]
    for _ in range(20):
        line.append(reused.submit(add, line[-1]))
    last = line[-1].exception(SECONDS)
    first, cause = line[0].exception(), bad.exception()
    assert not never.done()
    assert (first.dependency, first.root, first.__cause__) == (bad, bad, cause)
    assert str(first) == (
        f"{line[0].task} was not run: it needs {bad.task}, which failed: ValueError: bad depth"
    )
    assert (last.dependency, last.root, last.__cause__) == (line[-2], bad, cause)
    said = f"it needs {line[-2].task}, which was not run; in the end, {bad.task} failed"
    assert said in str(last)
    assert (line[-1].attempts, last.job_id) == ((), None)
    copy = pickle.loads(pickle.dumps(last))
    assert (str(copy), copy.task, copy.dependency) == (str(last), line[-1].task, None)


def test_a_call_that_was_cancelled_or_never_sent(reused, waiting, gate):
    cancelled, unsent = waiting(1), reused.submit(add, sys._getframe())
    needs = reused.submit(add, cancelled)
    assert cancelled.cancel()
    after = reused.options(after=cancelled).submit(add, 1)
    for future in (needs, after):
        error = future.exception(SECONDS)
        assert isinstance(error, DependencyError)
        assert isinstance(error.__cause__, CancelledError)
        assert str(error).endswith(f"it needs {cancelled.task}, which was cancelled")
        assert future.state is TaskState.FAILED
    error = reused.submit(add, unsent).exception(SECONDS)
    assert error.__cause__ is unsent.exception()
    also = Dependency(unsent, failure=True)
    assert reused.options(after=also).submit(add, 1).result(SECONDS) == 1


def test_what_waits_can_be_cancelled(reused, waiting, gate):
    first = waiting(1)
    future = reused.submit(add, first)
    assert future.cancel()
    gate.open()
    assert first.result(SECONDS) == 1
    assert future.cancelled()


def test_a_shutdown_waits_for_what_waits(make_executor, gate):
    with make_executor(1) as executor:
        link = executor.submit(add, 1)
        for _ in range(5):
            link = executor.submit(add, link, 1)
    assert link.result(0) == 6


def test_a_shutdown_that_cancels(make_executor, gate, until):
    executor = make_executor(1)
    first = executor.submit(wait_at, gate.path, 1)
    second = executor.submit(add, first)
    until(lambda: gate.arrived)
    until(first.running)
    executor.shutdown(wait=False, cancel_futures=True)
    assert second.cancelled()
    gate.open()
    assert first.result(SECONDS) == 1


def test_its_queue_timeout_goes_on_while_it_waits(reused, waiting, gate):
    first = waiting(1)
    future = reused.options(queue_timeout=0.2).submit(add, first)
    error = future.exception(SECONDS)
    assert isinstance(error, TaskTimeoutError)
    assert f"it waited for task {first._number}" in str(error)


def test_a_dependant_waits_while_what_it_needs_is_tried_again(reused, tmp_path):
    first = reused.options(max_retries=2, retry_on=OSError).submit(third_time, str(tmp_path))
    assert reused.submit(add, first, 1).result(SECONDS) == 4
    assert len(first.attempts) == 3


def third_time(folder):
    import os

    number = len(os.listdir(folder)) + 1
    open(f"{folder}/{number}", "w").close()
    if number < 3:
        raise OSError(number)
    return number


# --- once more ---------------------------------------------------------------------------------


def fail_once(folder, name, *values):
    import os

    if not os.path.exists(f"{folder}/{name}"):
        open(f"{folder}/{name}", "w").close()
        raise OSError(name)
    return sum(values) + 1


def count(folder, value):
    """How often it was called, in files."""
    import tempfile

    tempfile.mkstemp(dir=folder)
    return value


def test_the_last_future_of_a_graph_is_the_only_one_to_name(reused, tmp_path):
    once = tmp_path / "once"
    once.mkdir()
    steady = reused.submit(count, str(once), 10)
    flaky = reused.submit(fail_once, str(tmp_path), "a", steady)
    middle = [reused.submit(add, flaky, number) for number in range(2)]
    last = reused.submit(total, middle, steady)
    assert isinstance(last.exception(SECONDS), DependencyError)
    with pytest.raises(RuntimeError, match="only a call that failed can be replayed"):
        last.replay()
    again = last.resubmit(label="anew")
    assert again.result(SECONDS) == 11 + 12 + 10
    assert (again.label, flaky.exception().args) == ("anew", ("a",))
    assert len(list(once.iterdir())) == 1  # what had succeeded is not run again
    assert again.resubmit().result(SECONDS) == 33


def test_a_call_with_results_of_others_is_replayed_and_run_again(reused, tmp_path, waiting, gate):
    small, large = waiting(4), reused.submit(bytes, LARGE)
    failed = reused.submit(fail_once, str(tmp_path), "b", small, reused.submit(len, large))
    gate.open()
    assert failed.exception(SECONDS).args == ("b",)
    assert failed.replay() == LARGE + 5
    assert failed.resubmit().result(SECONDS) == LARGE + 5
    unsent = reused.submit(add, reused.submit(add, sys._getframe()))
    assert unsent.exception(SECONDS)
    with pytest.raises(RuntimeError, match="never sent"):
        unsent.resubmit()


# --- what goes wrong on the platform -----------------------------------------------------------


def say(word, value):
    import time

    print(word, flush=True)
    time.sleep(1 if word == "stay" else 0)
    return value


@pytest.fixture
def frail(faulty):
    """frail(...): an executor where things go wrong."""
    with contextlib.ExitStack() as stack:
        yield lambda **options: stack.enter_context(
            ContainerPoolExecutor(2, platform=faulty, **options)
        )


def test_the_container_of_what_is_needed_is_killed(frail, faulty):
    executor = frail(max_tasks_per_worker=1)
    faulty.faults.add(Fault.kill(says="stay", times=1))
    retried = executor.options(max_retries=1).submit(say, "stay", 1)
    assert executor.submit(add, retried, 1).result(SECONDS) == 2
    assert len(retried.attempts) == 2
    faulty.faults.add(Fault.kill(says="stay", times=1))
    lost = executor.submit(say, "stay", 1)
    needs = executor.submit(add, lost, 1)
    error = needs.exception(SECONDS)
    assert isinstance(error, DependencyError)
    assert (error.root, error.__cause__) == (lost, lost.exception())
    assert isinstance(error.__cause__, CallLostError)
    assert str(error).endswith("was lost: its container failed with exit code 137")
    assert needs.resubmit().result(SECONDS) == 2


def test_the_container_of_what_needs_is_killed(frail, faulty):
    executor = frail(max_tasks_per_worker=1)
    faulty.faults.add(Fault.kill(says="stay", times=2))
    values = executor.submit(add, 1), executor.submit(bytes, LARGE)
    needs = executor.options(max_retries=2).submit(say, "stay", values)
    assert needs.result(SECONDS) == (1, bytes(LARGE))
    assert len(needs.attempts) == 3


def test_the_file_of_a_result_has_expired(frail, faulty):
    executor = frail()
    large = executor.submit(bytes, LARGE)
    assert len(large.result(SECONDS)) == LARGE
    file_id = large._sent.came.file_id
    request = urllib.request.Request(
        f"{faulty.url}/files/{file_id}",
        json.dumps({"expiresAt": "2020-01-01T00:00:00Z"}).encode("ascii"),
        {"Authorization": f"Bearer {faulty.api_key}", "Content-Type": "application/json"},
        method="PATCH",
    )
    urllib.request.urlopen(request).close()
    error = executor.submit(len, large).exception(SECONDS)
    assert isinstance(error, CallLostError)
    assert f"File {file_id}" in str(error) or "/files/" in str(error)
    assert executor.submit(len, large.resubmit()).result(SECONDS) == LARGE


def test_a_result_that_cannot_be_read_here_is_of_use_there(frail, faulty):
    """Its function has returned: only we have not got it."""
    executor = frail()
    large = executor.submit(bytes, LARGE)
    needs = executor.submit(len, large)
    faulty.faults.add(Fault.answer(404, "GET /files/*", origin="client"))
    assert needs.result(SECONDS) == LARGE
    assert isinstance(large.exception(SECONDS), CallLostError)
    assert executor.options(after=large).submit(add, 1).result(SECONDS) == 1
