"""Many calls on a few workers: starts, requests, and seconds beside what would be ideal."""

from __future__ import annotations

import operator
import os
import subprocess
import sys
import tempfile
from contextlib import suppress
from itertools import repeat
from pathlib import Path

import pytest
from benchmarks.measure import (
    done_within,
    most_at_once,
    no_op,
    pause,
    pool,
    running,
    spending,
    submit_all,
    wait_until,
)

pytestmark = pytest.mark.bench

CIVIS = Path(__file__).with_name("civis_parallel.py")


def test_a_thousand_no_ops(row):
    """1,000 no-op tasks on 10 workers, real rate limits"""
    limit = 120.0
    with (
        running(rate_limit="civis") as platform,
        pool(platform, 10) as executor,
        spending(platform) as spent,
    ):
        done = done_within(submit_all(executor, 1000, no_op), limit)
        if done == 1000:
            executor.shutdown()
    row.add_finished(done, 1000, spent.seconds, limit)
    row.add("run starts", spent.starts, most=10)
    row.add("API requests", spent.count(), most=250)
    row.add("API requests of the workers", spent.count(origin="worker"))
    row.add("transfers over file links", spent.uploads + spent.downloads)
    row.add("refused requests", spent.refused, most=0)


def test_no_ops_beside_civis(row):
    """100 no-op tasks on 8 workers, no start-up delay, beside `civis.parallel`"""
    with running() as platform:
        with spending(platform) as ours, pool(platform, 8) as executor:
            assert done_within(submit_all(executor, 100, no_op), 120) == 100
            executor.shutdown()
        with spending(platform) as theirs:
            _civis_parallel(platform, tasks=100, workers=8, seconds=0)
    with (
        running(rate_limit="civis") as platform,
        spending(platform) as limited,
        pool(platform, 8) as executor,
    ):
        assert done_within(submit_all(executor, 100, no_op), 120) == 100
        executor.shutdown()
    row.add("time, start and end of the pool included", ours.seconds, "s")
    row.add("time of civis.parallel", theirs.seconds, "s")
    row.add("times faster than civis.parallel", theirs.seconds / ours.seconds, least=15)
    row.add("API requests, with real rate limits", limited.count(), most=100)
    row.add("API requests", ours.count())
    row.add("API requests of civis.parallel", theirs.count())
    row.add("run starts", ours.starts)
    row.add("run starts of civis.parallel", theirs.starts)
    row.add("API requests of civis.parallel for each task", theirs.count() / 100)


def _civis_parallel(platform, tasks, workers, seconds):
    """The same work through the `civis` package, in a process of its own."""
    with tempfile.TemporaryDirectory() as folder:
        # As the script that `civis` installs, which need not be on the PATH of a run here.
        command = Path(folder, "civis_joblib_worker")
        command.write_text(
            f"#!{sys.executable}\nimport runpy\n"
            'runpy.run_module("civis.run_joblib_func", run_name="__main__")\n'
        )
        command.chmod(0o755)
        subprocess.run(
            [sys.executable, str(CIVIS), str(tasks), str(workers), str(seconds), folder],
            env={
                **os.environ,
                "CIVIS_API_ENDPOINT": platform.url,
                "CIVIS_API_KEY": platform.api_key,
            },
            check=True,
            timeout=600,
        )


def test_ten_thousand_short_tasks(row):
    """10,000 tasks of 0.1 s on 10 workers, start-up 5 s, real rate limits"""
    limit, tasks = 300.0, 10_000
    options = {"rate_limit": "civis", "start_delay": 5.0}
    with (
        running(**options) as platform,
        pool(platform, 10) as executor,
        spending(platform) as spent,
    ):
        results = executor.map(pause, repeat(0.1), range(tasks), timeout=limit)
        found = []
        with suppress(TimeoutError):
            for result in results:
                found.append(result)  # what came before the timeout counts
        results.close()
        assert found == list(range(len(found))), "results out of order"
    row.add_finished(len(found), tasks, spent.seconds, limit)
    row.add("ideal time", 5 + tasks * 0.1 / 10, "s")
    row.add("run starts", spent.starts, most=10)
    row.add("API requests", spent.count(), most=1000)
    row.add("refused requests", spent.refused, most=0)


def test_five_hundred_after_a_long_start(row):
    """500 tasks of 0.2 s on 10 workers, start-up 30 s, real rate limits"""
    ideal, limit = 30 + 500 * 0.2 / 10, 100.0
    options = {"rate_limit": "civis", "start_delay": 30.0}
    with (
        running(**options) as platform,
        pool(platform, 10) as executor,
        spending(platform) as spent,
    ):
        done = done_within(submit_all(executor, 500, pause, 0.2), limit)
    row.add_finished(done, 500, spent.seconds, 1.5 * ideal if done == 500 else limit)
    row.add("times the ideal time", spent.seconds / ideal, most=1.5)
    row.add("run starts", spent.starts, most=10)
    row.add("API requests", spent.count())


def test_twenty_long_tasks(row):
    """20 tasks of ten minutes (here 15 s, 1:40) on 20 workers, beside `civis.parallel`"""
    options = {"rate_limit": "civis", "start_delay": 0.5}  # the limits are real
    with running(**options) as platform, spending(platform) as theirs:
        _civis_parallel(platform, tasks=20, workers=20, seconds=15.0)
    with running(**options) as platform, pool(platform, 20) as executor:
        with spending(platform) as spent:
            futures = submit_all(executor, 20, pause, 15.0)
            assert done_within(futures, 120) == 20
        timings = [future.timings for future in futures]
    spans = [(one.started, one.finished) for one in timings]
    row.add("tasks at once", most_at_once(spans), least=20)
    row.add("time for all", spent.seconds, "s")
    row.add("time of civis.parallel", theirs.seconds, "s")
    row.add("run starts", spent.starts, most=20)
    row.add("API requests", spent.count())
    row.add("API requests of civis.parallel", theirs.count())


def test_one_container_for_each_task(row):
    """Small call, small result, one container for each task"""
    tasks = 20
    with running() as platform, pool(platform, 4, max_tasks_per_worker=1) as executor:
        executor.submit(operator.add, 1, 1).result(60)
        wait_until(lambda: platform.stats().count("PUT"))  # its script is archived
        with spending(platform) as spent:
            assert done_within(submit_all(executor, tasks, operator.add, 1, 1), 120) == tasks
            executor.shutdown()
    each = (spent.count() - spent.watching) / tasks
    row.add("API requests for each task, looks not counted", each, most=6)
    row.add("run starts", spent.starts, most=tasks)
