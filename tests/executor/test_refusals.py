"""One endpoint refuses for ever, whichever it is: a warning at once, and then the truth.

Each endpoint that the client asks, with each status. Where nothing can go on without it, the pool
breaks with that very error, as soon as it would if it could not look at its runs any more. Where
it costs single calls, these say so; and where it costs nothing, the results are right.
"""

from __future__ import annotations

import dataclasses
import logging
import re
import time
from collections.abc import Callable
from contextlib import closing

import pytest
from tasks import by_value

import civis_futures as cf
from civis_futures._api.client import PlatformClient
from civis_futures._types import Job
from civis_futures.testing import Fault

by_value(__name__)

STATUSES = (401, 403, 404, 422, 500)
BOUND = 60  # seconds; only a hang takes so long
JOB = "/scripts/containers/{id}"
RUN = f"{JOB}/runs/{{run_id}}"


def nap(seconds):
    time.sleep(seconds)


def large(byte):
    return bytes([byte]) * 100_000


def die(_):
    import os
    import signal

    os.kill(os.getppid(), signal.SIGKILL)
    os.kill(os.getpid(), signal.SIGKILL)


# --- what is done while an endpoint refuses ----------------------------------------------------


#: Scripts whose runs could not be cancelled.
LEFT = []


def sleep_in_two(executor):
    return [executor.submit(nap, BOUND) for _ in range(2)]


def ask(executor):
    return [executor.submit(abs, -1)]


def ask_for_much(executor):
    return [executor.submit(large, 1)]


def send_more(executor):
    assert executor.submit(abs, -1).result(BOUND) == 1
    return [executor.submit(nap, BOUND) for _ in range(3)]


def cancel_one(executor):
    first = executor.submit(nap, BOUND)
    until_running(first)
    first.cancel()
    LEFT.append(Job(first.job_id))
    return [executor.submit(abs, -1)]


def be_killed(executor):
    return [executor.submit(die, 1)]


def until_running(future):
    end = time.monotonic() + BOUND
    while not future.running():
        assert time.monotonic() < end
        time.sleep(0.005)


# --- the rows ----------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class Row:
    """An endpoint, what is done meanwhile, and what comes of it."""

    on: str
    do: Callable
    raises: type | None = cf.BrokenContainerPool
    workers: int = 2
    but: tuple[int, ...] = ()  # statuses that do no harm
    quiet: bool = False  # the error alone tells


ROWS = [
    Row("GET /users/me", ask),
    Row("POST /files", ask),
    Row("POST link", ask),
    Row("POST /json_values", ask),
    Row("POST /scripts/containers", ask),
    Row(f"POST {JOB}/runs", ask),
    Row("PATCH /json_values/{id}", send_more, workers=1),
    Row("GET /scripts", sleep_in_two),
    # A script that is gone is asked for by its run.
    Row(f"GET {JOB}", ask, workers=1, but=(404,)),
    Row(f"GET {RUN}/outputs", ask),
    Row(f"DELETE {RUN}", cancel_one, workers=1),
    Row(f"PUT {JOB}/archive", ask, None),
    Row("GET /files/{id}", ask_for_much, cf.CallLostError, quiet=True),
    Row("GET link", ask_for_much, cf.CallLostError, quiet=True),
    Row(f"GET {RUN}", be_killed, cf.CallLostError),
    Row(f"GET {RUN}/logs", be_killed, cf.CallLostError),
]


@pytest.fixture(autouse=True)
def tidy(faulty):
    """What a pool had to leave is ended once it can be."""
    yield
    faulty.faults.clear()
    with closing(PlatformClient(faulty.url, faulty.api_key)) as client:
        while LEFT:
            job = LEFT.pop()
            client.cancel_run(job, client.latest_run(job).id)


@pytest.fixture(autouse=True)
def nothing_is_known(new_user):
    """Each pool has to upload the worker's program."""


@pytest.fixture
def hasty(paced):
    """All pauses and patience are short."""
    paced(
        first_backoff=0.02, request_backoff=0.01, longest_request_backoff=0.02, outage=0.2,
        last_patience=0.5, last_patience_refused=0.2, lag=0.1,
    )  # fmt: skip


CELLS = [
    pytest.param(
        row, status, id=f"{row.on} {status}",
        marks=[] if (number + place) % 3 == 0 else pytest.mark.stress,
    )
    for number, row in enumerate(ROWS)
    for place, status in enumerate(STATUSES)
]  # fmt: skip


@pytest.mark.parametrize(("row", "status"), CELLS)
def test_an_endpoint_that_refuses_for_ever(faulty, hasty, caplog, row, status):
    caplog.set_level(logging.INFO, "civis_futures")
    fault = Fault.answer(status, row.on, origin="client")
    faulty.faults.add(fault)
    with cf.ContainerPoolExecutor(row.workers, platform=faulty) as executor:
        futures = row.do(executor)
        errors = [future.exception(BOUND) for future in futures]
    assert faulty.faults.hits(fault)
    harmless = status in row.but
    raises = None if harmless else row.raises
    assert {type(error) for error in errors} == {raises or type(None)}
    said = re.compile(rf"{_address(row.on)}.* {status}\b", re.DOTALL)
    for error in errors:
        assert error is None or said.search(str(error)), error
        assert raises is not cf.BrokenContainerPool or type(error.__cause__) is cf.PlatformError
    # It is a warning unless the pool has broken at once: then each future says so.
    least = logging.INFO if raises is cf.BrokenContainerPool else logging.WARNING
    warnings = [r.getMessage() for r in caplog.records if r.levelno >= least]
    assert row.quiet or harmless or any(map(said.search, warnings)), warnings
    told = [text for text in warnings if re.match(r"[^:]*: [a-z ]* cannot be [a-z]*:", text)]
    assert len(told) <= 1, "once is enough"


def _address(on):
    """The path of an endpoint with any ids; what is said of a link names none."""
    path = on.partition(" ")[2]
    return "answered" if path == "link" else re.sub(r"\{\w+\}", r"\\d+", path)


# --- the same for workers ------------------------------------------------------------------------


def give_much(executor):
    return [executor.submit(len, bytes(200_000))]


def need_more(executor):
    assert executor.submit(abs, -1).result(BOUND) == 1
    return [executor.submit(nap, 0.01) for _ in range(3)]


#: Answers that workers cannot do without cost the calls; what only saves requests costs nothing.
OF_WORKERS = [
    Row("GET link", give_much, cf.BrokenContainerPool),  # the program, too
    Row("GET /files/{id}", give_much, cf.CallLostError),
    Row("GET /json_values/{id}", ask, cf.CallLostError),
    Row("POST /json_values", ask, cf.CallLostError),
    Row(f"POST {RUN}/outputs", ask, cf.CallLostError),
    Row("POST /files", ask_for_much, cf.OutcomePicklingError),
    Row("POST link", ask_for_much, cf.OutcomePicklingError),
    Row(f"GET {RUN}/logs", ask, None),
    Row(f"GET {RUN}/outputs", ask, None),
    Row(f"PATCH {JOB}", need_more, None),
]


@pytest.mark.parametrize(
    ("row", "status"),
    [
        pytest.param(
            row, status, id=f"{row.on} {status}",
            marks=[] if (number + place) % 3 == 0 else pytest.mark.stress,
        )
        for number, row in enumerate(OF_WORKERS)
        for place, status in enumerate(STATUSES[:-1])  # 500: see worker/test_inbox
    ],
)  # fmt: skip
def test_an_endpoint_that_refuses_workers_for_ever(faulty, hasty, row, status):
    fault = Fault.answer(status, row.on, origin="worker")
    faulty.faults.add(fault)
    if row.on.endswith("/outputs") and row.raises is None:  # it is asked where the log is not there
        faulty.faults.add(Fault.answer(status, f"GET {RUN}/logs", origin="worker"))
    with cf.ContainerPoolExecutor(1, platform=faulty) as executor:
        futures = row.do(executor)
        errors = [future.exception(BOUND) for future in futures]
    assert faulty.faults.hits(fault)
    for error in errors:
        assert type(error) is (row.raises or type(None))
        assert error is None or re.search(rf"HTTP {status}\b", str(error)), error
        where = _address(row.on)
        assert error is None or where == "answered" or re.search(where, str(error)), error
