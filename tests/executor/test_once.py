"""One task, one execution, whatever happens to requests; and long runs with faults everywhere."""

from __future__ import annotations

import sys
import threading
import uuid
from collections import Counter

import cloudpickle
import pytest

import civis_futures as cf
from civis_futures.testing import Fault, LocalPlatform

# The container cannot import this module: its functions travel by value.
cloudpickle.register_pickle_by_value(sys.modules[__name__])

SECONDS = 300
SCRIPTS, RUNS = "POST /scripts/containers", "POST /scripts/containers/{id}/runs"


def leave_a_trace(folder, number):
    """One file for each execution."""
    (folder / f"{number}-{uuid.uuid4().hex}").touch()
    return number


def executions(folder):
    """How often each call was executed."""
    return Counter(int(path.name.partition("-")[0]) for path in folder.iterdir())


# --- lost replies ------------------------------------------------------------------------------


def run_with_lost_replies(folder, tasks, reuse, bad_seconds):
    """`tasks` tasks, while replies to POSTs are lost, and for some seconds GETs fail."""
    lost = Fault.drop("POST *", done=True, chance=0.2)
    with LocalPlatform(cores=64, seed=5, faults=[lost]) as platform:
        failing = Fault.answer(503, "GET *", chance=0.3)
        platform.faults.add(failing)
        timer = threading.Timer(bad_seconds, platform.faults.remove, [failing])
        timer.start()
        try:
            with cf.ContainerPoolExecutor(
                4, platform=platform, max_tasks_per_worker=reuse
            ) as executor:
                numbers = list(range(tasks))
                assert list(executor.map(leave_a_trace, [folder] * tasks, numbers)) == numbers
        finally:
            timer.cancel()
            timer.join()
        assert platform.faults.hits(lost)
        assert executions(folder) == dict.fromkeys(range(tasks), 1)
        stats = platform.stats()
        assert not stats.active
        # As many as without faults.
        assert stats.runs_started <= (tasks if reuse == 1 else 4)
        scripts = [each.url for each in platform.requests("PUT */archive")]
        assert len(set(scripts)) == stats.runs_started, "a script was made twice, or is left"
        assert stats.count("POST", "/scripts/containers") == stats.runs_started


@pytest.mark.parametrize(("reuse", "tasks"), [(1, 15), (None, 60)], ids=["fresh", "reused"])
def test_lost_replies_cost_no_second_execution(tmp_path, reuse, tasks):
    run_with_lost_replies(tmp_path, tasks, reuse, bad_seconds=5)


@pytest.mark.stress
@pytest.mark.parametrize("reuse", [1, None], ids=["fresh", "reused"])
def test_lost_replies_for_a_minute(tmp_path, reuse):
    run_with_lost_replies(tmp_path, 300, reuse, bad_seconds=60)
