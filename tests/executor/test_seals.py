"""What is unpickled here was written by a worker of this pool: nobody else knows its key."""

from __future__ import annotations

import logging
import os
import pickle
import time
from contextlib import closing

import pytest
from tasks import by_value

from civis_futures import _wire
from civis_futures._api.client import PlatformClient
from civis_futures._types import Job, JobKind

by_value(__name__)


class Harm:
    """Unpickling it makes a folder."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


def wait_for(path):
    while not os.path.exists(path):
        time.sleep(0.01)
    return "the truth"


def forge(api, future, key, outcome):
    """Post an answer in the name of the worker, as anybody can who may write its outputs."""
    job = Job(future.job_id, JobKind.CONTAINER)
    ours = _wire.ScriptName.parsed(api.get_row(job).name)
    answer = _wire.Answer(future._number, _wire.RETURNED, _wire.Blob.of(pickle.dumps(outcome)))
    answer = _wire.sealed(answer, ours.token, key)
    text = _wire.to_json(_wire.Answers(ours.token, (answer,)))
    value = api.create_json_value(_wire.answers_name(ours.token, 0), text)
    path = f"scripts/containers/{job.id}/runs/{future.run_id}/outputs"
    body = {"objectType": "JSONValue", "objectId": value}
    api._ask("POST", path, dict, json=body)


@pytest.fixture
def api(platform):
    with closing(PlatformClient(platform.url, platform.api_key)) as client:
        yield client


@pytest.mark.parametrize("limit", [1, None], ids=["fresh", "reused"])
@pytest.mark.parametrize("key", ["", "another key"])
def test_what_others_post_is_not_unpickled(make_executor, api, until, tmp_path, limit, key, caplog):
    gate, harm = tmp_path / "gate", tmp_path / "harm"
    executor = make_executor(1, max_tasks_per_worker=limit)
    future = executor.submit(wait_for, str(gate))
    until(future.running)
    forge(api, future, key, Harm(harm))
    if limit is None:  # its answers are looked at while it runs
        until(lambda: "is not from the worker of this pool" in caplog.text)
    gate.touch()
    assert future.result(30) == "the truth"
    assert not harm.exists()


def environment():
    with open("/proc/self/environ") as file:
        return file.read() + repr(os.environ)


def test_the_key_is_told_nobody(make_executor, caplog):
    caplog.set_level(logging.DEBUG)
    executor = make_executor(1)
    future = executor.submit(environment)
    said = future.result(30)
    manager = executor._intake._opened.manager
    key = manager.mailbox._key
    assert len(key) == 64
    order = _wire.Order("w", "http://x/", "3.11", _wire.Letter(), key=key)
    shown = [repr(x) for x in (executor, future, manager.mailbox, manager.pool, order)]
    for text in (caplog.text, *shown):
        assert key not in text
    assert _wire.ORDER_VARIABLE not in said.partition("environ({")[2]
