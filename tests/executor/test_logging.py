"""What the log says of a pool: at INFO what a user would write down, at DEBUG each step."""

from __future__ import annotations

import logging
import re

import pytest

from civis_futures.testing import Fault

LOGGER = "civis_futures._pool.manager"


def said(caplog, level):
    return [
        record.getMessage()
        for record in caplog.records
        if record.name == LOGGER and record.levelno == level
    ]


def add(one, two):
    return one + two


def test_containers_from_their_start_to_their_end(make_executor, caplog):
    caplog.set_level(logging.INFO, "civis_futures")
    with make_executor(1) as executor:
        future = executor.submit(add, 1, 2)
        assert future.result() == 3
        run, url = future.run_id, future.job_url
    lines = [line.partition(": ")[2] for line in said(caplog, logging.INFO)]
    assert lines[0].startswith("a pool on http://")
    assert lines[1:3] == [
        f"container 1 is started: run {run} of {url}",
        f"container 1, run {run}: running",
    ]
    assert lines[-2:] == [f"container 1, run {run}: succeeded", "the pool has ended"]


def test_calls_that_are_lost_and_tried_again(make_executor, faulty, caplog):
    caplog.set_level(logging.INFO, "civis_futures")
    options = {"platform": faulty, "max_retries": 1}
    with faulty.fault(Fault("kill", times=2)), make_executor(1, **options) as executor:
        future = executor.submit(add, 1, 2)
        assert future.exception() is not None
    text = "\n".join(said(caplog, logging.INFO))
    assert re.search(r"add \(task 0\) is tried again: .*137", text)
    assert re.search(r"add \(task 0\) is lost: .*137", text)
    assert len(re.findall("is started: run", text)) == 2
    assert len(re.findall(r"container \d+, run \d+: failed", text)) == 2


def test_hundreds_of_calls_are_few_lines(make_executor, caplog):
    caplog.set_level(logging.INFO, "civis_futures")
    with make_executor(2) as executor:
        assert len(list(executor.map(add, range(400), range(400)))) == 400
    assert len(said(caplog, logging.INFO)) < 50


def test_each_step_without_what_is_the_users(make_executor, caplog):
    caplog.set_level(logging.DEBUG, "civis_futures")
    with make_executor(1) as executor:
        assert executor.submit(add, "a secret", " of mine").result() == "a secret of mine"
    text = "\n".join(said(caplog, logging.DEBUG))
    for step in ("Submitted task 0", "-> Launch worker 1", "Done Launch worker 1",
                 "-> Settle task 0", "-> Finish"):  # fmt: skip
        assert step in text
    assert "secret" not in caplog.text


def test_each_task_and_each_container_has_its_own_line(make_executor, caplog):
    caplog.set_level(logging.DEBUG, "civis_futures")
    with make_executor(2) as executor:
        assert list(executor.map(add, range(200), range(200))) == list(range(0, 400, 2))
    lines = [line.partition(": ")[2] for line in said(caplog, logging.DEBUG)]
    for task in range(200):
        assert lines.count(f"Submitted task {task}") == 1
        assert sum(line.startswith(f"-> Settle task {task} ") for line in lines) == 1


@pytest.mark.parametrize("level", [logging.WARNING, logging.ERROR])
def test_nothing_unless_something_is_wrong(make_executor, caplog, level):
    caplog.set_level(level, "civis_futures")
    with make_executor(1) as executor:
        assert executor.submit(add, 1, 2).result() == 3
    assert not said(caplog, logging.INFO)
    assert not said(caplog, logging.DEBUG)
