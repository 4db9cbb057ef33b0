"""A container that is frozen, as with its machine: a call that has a `timeout` ends even so."""

from __future__ import annotations

import time

import pytest
from tasks import by_value

import civis_futures as cf
from civis_futures.testing import Fault

by_value(__name__)


def doomed(seconds):
    print("freeze me", flush=True)
    time.sleep(seconds)


@pytest.mark.parametrize("tasks", [1, pytest.param(2, marks=pytest.mark.stress)])
def test_a_frozen_container_costs_its_call_alone(faulty, paced, max_tasks_per_worker, tasks):
    paced(frozen=0.5)
    faulty.faults.add(freeze := Fault.freeze(says="freeze me", times=1))
    with cf.ContainerPoolExecutor(
        1, platform=faulty, max_tasks_per_worker=max_tasks_per_worker
    ) as executor:
        frozen = executor.options(timeout=1).submit(doomed, 60)
        others = [executor.submit(abs, -n) for n in range(1, tasks)]
        error = frozen.exception(60)
        assert type(error) is cf.TaskTimeoutError
        assert "longer than its timeout of 1 s" in str(error)
        assert str(error.run_id) in str(error)
        assert [future.result(60) for future in others] == list(range(1, tasks))
    assert faulty.faults.hits(freeze)
    assert not faulty.stats().active
