"""What a pool has used: sums of made-up tasks and containers, and the report of a real one."""

from __future__ import annotations

import json
import re
import time

import pytest
from summaries import ended, work_of
from tasks import by_value

from civis_futures import Container, ContainerPoolExecutor, PoolReport
from civis_futures._display import usage
from civis_futures._display.panels import Totals
from civis_futures._display.report import enough_memory, report_of
from civis_futures._display.usage import ContainerSums, Used, WorkSums
from civis_futures._types import Resources, Run, RunState, TaskState
from civis_futures.local import LocalPlatform

by_value(__name__)


def report(work, used=None, max_workers=10, **counts):
    totals = Totals()
    tasks = sum(each.tasks for each in work.functions.values())
    totals.counts[TaskState.SUCCEEDED] = tasks
    for state, count in counts.items():
        totals.counts[TaskState(state)] = count
    return report_of("mine", max_workers, totals, work, used or Used(), 7)


def test_time_without_work_is_none():
    work = work_of(ended(at=0, took=10), ended(at=5, took=20), ended(at=1000, took=5))
    assert work.elapsed == 30
    assert report(work).speedup == 35 / 30


def test_a_task_that_spans_gaps_closes_them():
    work = work_of(ended(at=0, took=1), ended(at=5, took=1), ended(at=0, took=100))
    assert work.elapsed == 100


def test_the_slowest_are_named():
    work = work_of(*(ended(n, took=n) for n in range(20)))
    assert report(work).slowest[:2] == (("f (task 19)", 19), ("f (task 18)", 18))
    assert len(report(work).slowest) == usage.MOST_SLOWEST


def test_memory_does_not_grow_with_tasks():
    work = work_of(*(ended(n, at=10 * n, function=f"label {n}") for n in range(1000)))
    assert len(work.functions) == usage.MOST_FUNCTIONS + 1
    assert work.functions[usage.OTHERS].tasks == 1000 - usage.MOST_FUNCTIONS
    assert len(work.stretches) == usage.MOST_STRETCHES
    assert work.elapsed == 1000


def test_batches_are_of_their_function():
    work = work_of(ended(function="f and 9 more"), ended(function="f"))
    assert [(each.function, each.tasks) for each in report(work).functions] == [("f", 2)]


@pytest.mark.parametrize(
    ("tasks", "workers", "enough"),
    [
        (12, 10, 6),  # two rounds of ten, or of six
        (20, 10, 10),  # two full rounds
        (1, 1, 1),
        (5, 5, 5),
    ],
)
def test_fewer_workers_would_have_been_as_fast(tasks, workers, enough):
    """Tasks of ten seconds each, in rounds; containers take five seconds to start."""
    rounds = [divmod(n, workers) for n in range(tasks)]
    work = work_of(
        *(ended(n, 0, 5 + 10 * turn, 10, worker) for n, (turn, worker) in enumerate(rounds))
    )
    assert work.enough(10) == enough
    said = [each for each in report(work).advice if "as fast" in each]
    plural = "" if enough == 1 else "s"
    expected = [f"{enough} worker{plural} would have been as fast as 10"] if enough < 10 else []
    assert said == expected


def test_what_depends_on_the_order_is_not_promised():
    """One of 100 s, and nine of 10 s beside it: with two workers, if the long one came last?"""
    work = work_of(ended(0, 0, 0, 100, 0), *(ended(n, 0, 0, 10, n) for n in range(1, 10)))
    assert work.enough(10) == 10


def test_no_advice_of_fewer_where_containers_run_several_at_once():
    work = work_of(*(ended(n, 0, 0, 10, n % 3) for n in range(12)))
    said = report_of("mine", 12, Totals(), work, Used(), 7, 4)
    assert not [each for each in said.advice if "as fast" in each]


@pytest.mark.parametrize(
    "fields", [{"attempts": 2}, {"occupied": None}, {"worker": None}, {"queue": None}]
)
def test_no_advice_of_what_is_not_known(fields):
    tasks = [ended(n, took=10, worker=n) for n in range(3)]
    assert work_of(*tasks).enough(10) == 3
    assert work_of(*tasks, ended(took=1, **fields)).enough(10) == 10
    assert not [x for x in report(work_of(*tasks), running=1).advice if "as fast" in x]


@pytest.mark.parametrize(("peak", "enough"), [(10, 128), (120, 256), (330, 512), (4000, 5120)])
def test_some_memory_to_spare(peak, enough):
    assert enough_memory(peak) == enough


def test_advice_of_memory():
    small = [ended(peak_memory=200.0, asked_memory=2048.0)]
    assert "memory: 512 would do, of 2048 MB that were asked for" in report(work_of(*small)).advice
    near = [*small, ended(function="g", peak_memory=2000.0, asked_memory=2048.0)]
    assert report(work_of(*near)).advice == (
        "memory: g has come to 2.0 GB of 2.0 GB: ask for more",
        "1 worker would have been as fast as 10",
    )
    for unknown in (
        ended(asked_memory=2048.0),
        ended(peak_memory=200.0),
        ended(peak_memory=200.0, asked_memory=2048.0, state=TaskState.FAILED),
    ):
        said = report(work_of(*small, unknown)).advice
        assert not [each for each in said if "memory" in each], unknown


def run(state, started=None, finished=None):
    return Run(1, RunState(state), started=started, finished=finished)


def test_containers_are_summed_by_the_platforms_times():
    now = [0.0]
    sums = ContainerSums(lambda: now[0])
    size = Resources(cpu=2000, memory=4096)
    for worker in (1, 2):
        sums.started(worker, size)
    sums.seen(1, run("running"))
    now[0] = 3600.0
    sums.seen(2, run("running"))
    sums.seen(1, run("succeeded", 1000.0, 1000.0 + 7200))
    sums.seen(1, run("succeeded", 1000.0, 1000.0 + 7200))  # lists say so again
    now[0] = 5400.0
    used = sums.used()
    assert (used.starts, used.running, used.most_running) == (2, 1, 2)
    assert (used.hours, used.cpu_hours, used.memory_hours) == (2.5, 5.0, 10.0)
    sums.gone(1)
    sums.gone(2)  # it was never seen to end
    assert sums.used().hours == 2.5
    assert sums.used().running == 0


def test_what_has_no_known_size_is_not_known():
    now = [0.0]
    sums = ContainerSums(lambda: now[0])
    sums.seen(1, run("running"))  # of an earlier process of a session
    now[0] = 3600.0
    sums.seen(1, run("failed", 0.0, 3600.0))
    made = report(WorkSums(), sums.used())
    assert (made.starts, made.container_hours, made.cpu_hours) == (0, 1.0, None)
    assert "1 container hours: cores not known, GB not known" in str(made)
    assert "the size of containers that a template or another process has chosen" in made.not_known


def test_what_an_earlier_process_has_had_of_a_container_is_not_counted():
    now = [0.0]
    sums = ContainerSums(lambda: now[0])
    sums.seen(1, run("running", -7200.0))
    now[0] = 1800.0
    assert sums.used().hours == 0.5
    sums.seen(1, run("succeeded", -7200.0, 1800.0))
    assert sums.used().hours == 0.5
    sums.seen(2, run("succeeded", -7200.0, 0.0))  # it had ended before anybody looked
    assert sums.used().hours == 0.5


def test_it_is_text_html_and_data():
    evil = "<script>alert(1)</script>"
    made = report(work_of(ended(function=evil), ended(function="g", took=2)), running=1)
    page = made._repr_html_()
    assert "<script" not in page
    assert "&lt;script&gt;" in page
    assert "what the 1 tasks that are not done will have taken" in str(made)
    assert json.loads(json.dumps(made.as_dict()))["tasks"] == {"succeeded": 2, "running": 1}
    assert re.search(r"\n  <script>.* +1 +0 +1 s +1 s +not known +not known\n", str(made))
    assert str(report(WorkSums())).startswith("mine\n  tasks       none\n")


def work_hard(seconds):
    time.sleep(seconds)
    return bytes(1)


def test_the_report_of_a_pool():
    container = Container(required_resources={"cpu": 500, "memory": 1024})
    with LocalPlatform(cores=8) as platform:
        with ContainerPoolExecutor(2, container=container, platform=platform) as executor:
            list(executor.map(work_hard, [0.2, 0.2, 0.7, 0.2]))
            executor.submit(pow, 0, -1).exception()
            middle = executor.report()
            assert (middle.starts, middle.running) == (2, 2)
        made = executor.report()
        requests = platform.stats().count(origin="client")
    assert isinstance(made, PoolReport)
    assert made.tasks == {"failed": 1, "succeeded": 4}
    assert [each.function for each in made.functions] == ["work_hard", "pow"]
    first = made.functions[0]
    assert (first.tasks, first.failed, first.asked_memory) == (4, 0, 1024)
    assert 0 < first.peak_memory < 1024
    assert first.enough_memory < 1024
    assert made.slowest[0][0] == "work_hard (task 2, item 2)"
    assert 1.3 <= made.compute <= 1.3 + made.elapsed
    assert (made.starts, made.most_running, made.running) == (2, 2, 0)
    assert made.container_hours >= middle.container_hours > 0
    assert made.cpu_hours == pytest.approx(made.container_hours / 2)
    assert made.memory_hours == pytest.approx(made.container_hours)
    assert 0 < made.busy <= 1
    assert 0 < made.requests <= requests
