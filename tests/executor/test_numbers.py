"""Numbers of NumPy, and others that are whole or real, wherever a number is taken."""

from __future__ import annotations

import json
from dataclasses import replace
from fractions import Fraction

import numpy as np
import pytest

import civis_futures as cf
from civis_futures._executor.options import CallOptions, PoolOptions
from civis_futures._types import number, whole
from civis_futures.testing import Fault, LocalPlatform

INTEGERS = [np.int64(3), np.uint8(3), np.int32(3)]
REALS = [np.float32(2.5), np.float64(2.5), Fraction(5, 2)]


@pytest.mark.parametrize("value", INTEGERS)
def test_whole(value):
    assert type(whole("it", value)) is int
    assert type(number("it", value)) is int


@pytest.mark.parametrize("value", REALS)
def test_real(value):
    assert type(number("it", value)) is float
    with pytest.raises(TypeError, match="it must be an integer, not"):
        whole("it", value)


@pytest.mark.parametrize("value", [True, np.bool_(True), "3", None, 3j, [3]])
def test_no_number(value):
    with pytest.raises(TypeError, match="it must be an integer, not"):
        whole("it", value)
    with pytest.raises(TypeError, match="it must be a number, not"):
        number("it", value)


def plain(value):
    json.dumps(value)  # which takes no number of NumPy's
    return value


@pytest.mark.parametrize(("three", "real"), [(np.int64(3), np.float32(2.5))])
def test_options(three, real):
    pool = PoolOptions(
        three, max_tasks_per_worker=three, idle_timeout=real, max_retries=three,
        memory_growth=real, lease=real,
    )  # fmt: skip
    policy = pool.policy
    assert plain([policy.max_workers, policy.max_tasks_per_worker, policy.lease]) == [3, 3, 2.5]
    call = CallOptions(three, None, real, real, None, {"memory": three * 100}, real, real)
    call = replace(call, priority=three)
    terms = call.terms(cf._types.Resources(1000, 2048, 1.0))
    plain([terms.max_retries, terms.timeout, terms.queue_timeout, terms.max_memory, terms.priority])
    assert plain(terms.resources.memory) == 300


@pytest.mark.parametrize("make", [cf.Container, cf.Template])
def test_containers(make):
    one = np.int64(1)
    more = {"from_template_id": one, "credential_id": one} if make is cf.Template else {}
    if make is cf.Container:
        more = {"git_credential_id": one, "cancel_timeout": np.float32(1), "repo_ref": "x"}
    resources = {"cpu": np.int64(500), "memory": np.float32(1024)}
    made = make(
        required_resources=resources, arguments={"n": one, "x": np.float32(1), "on": True},
        target_project_id=one, **more,
    )  # fmt: skip
    fields = [getattr(made, name) for name in made.__dataclass_fields__ if name != "params"]
    assert plain(fields)
    assert made.arguments["on"] is True


def test_of_a_pool(make_executor):
    executor = make_executor(np.int64(1), idle_timeout=np.float32(5))
    assert executor.submit(pow, 2, 3).result(np.float32(60)) == 8
    assert executor.submit(pow, 2, 3).exception(np.int64(60)) is None
    options = executor.options(timeout=np.float32(50), max_retries=np.int32(1))
    assert options.submit(pow, 2, 3).result() == 8
    found = executor.map(
        pow, range(3), range(3), timeout=np.float32(60), chunksize=np.int64(2),
        buffersize=np.int64(2),
    )  # fmt: skip
    assert list(found) == [1, 1, 4]
    batch = executor.submit_batch(pow, [(2, 3)], first=np.int64(4))
    assert [*cf.as_completed([batch], np.float32(60))] == [batch]
    assert batch.logs(tail=np.int64(2)) == []


def test_of_a_local_platform():
    platform = LocalPlatform(
        cores=np.float32(1), memory=np.int64(1000), start_delay=np.float32(0), seed=np.int64(1),
        rate_limit=(np.int64(1000), np.int64(1000)), max_file_size=np.int64(10**9),
        faults=[Fault.delay(np.float32(0.5), "POST /files", times=np.int64(1))],
    )  # fmt: skip
    with platform:
        assert platform.stats().queued == 0
