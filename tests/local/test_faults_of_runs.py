"""Every fault of a run is seen to happen: how it ends, and what its log says."""

from __future__ import annotations

import time

import pytest

from civis_futures.testing import Fault

KILLED = ["Error on job: Process ended with an error, exiting: 137.", "Failed"]
SLEEP = "echo begun; sleep 60"


@pytest.fixture
def faulty(platform):
    platform.reset()
    yield platform
    platform.faults.clear()


def test_killed(faulty, api, tools):
    with faulty.fault(Fault.kill(0.2, says="begun", times=1)) as fault:
        job, run = api.run("sleep 60 & echo begun $$ $!; sleep 60")
        over = api.wait(job, run)
        other = api.run("echo begun")
        assert api.wait(*other)["state"] == "succeeded"
    assert over["state"] == "failed"
    assert over["startedAt"]
    said, *ended = api.logs(job, run)
    assert ended == KILLED
    assert not any(map(tools.alive, map(int, said.split()[1:])))
    assert (faulty.faults.hits(fault), faulty.faults.seen(fault)) == (1, 2)


def test_killed_when_it_says_a_word(faulty, api):
    faulty.faults.add(Fault.kill(says="half way"))
    job, run = api.run("echo begun; sleep 0.3; echo we are half way there; sleep 60; echo done")
    assert api.wait(job, run)["state"] == "failed"
    assert api.logs(job, run) == ["begun", "we are half way there", *KILLED]


def test_out_of_memory(faulty, api):
    faulty.faults.add(Fault.out_of_memory(says="begun"))
    job, run = api.run(SLEEP)
    assert api.wait(job, run)["state"] == "failed"
    said = "Process ran out of its allowed 256 MiB of memory and was killed."
    assert api.logs(job, run, "error") == [said, *KILLED]


def test_cancelled_from_outside(faulty, api):
    faulty.faults.add(Fault.cancel(says="begun"))
    job, run = api.run(SLEEP)
    over = api.wait(job, run)
    assert over["state"] == "cancelled"
    assert over["isCancelRequested"]


def test_an_image_that_cannot_be_pulled(faulty, api):
    with faulty.fault(Fault.no_image()) as fault:
        job, run = api.run()
        over = api.wait(job, run)
    assert over["state"] == "failed"
    assert over["startedAt"] is None
    assert over["finishedAt"]
    assert api.logs(job, run) == ["Error on job: The Docker image could not be pulled.", "Failed"]
    assert faulty.faults.hits(fault) == 1


def test_queued_for_ever(faulty, api):
    with faulty.fault(Fault.stay_queued(times=1)):
        job, run = api.run()
        other = api.run()
        assert api.wait(*other)["state"] == "succeeded"
    assert api.look(job, run)["state"] == "queued"
    assert faulty.stats().queued == 1
    api("POST", f"/scripts/{job}/cancel")
    assert api.look(job, run)["state"] == "cancelled"
    assert faulty.stats().queued == 0


def test_a_node_is_lost_with_all_its_runs(faulty, api, tools):
    runs = [api.run(SLEEP) for _ in range(3)]
    for job, run in runs:
        api.says(job, run, "begun")
    faulty.faults.add(Fault.lose_node())
    ends = [api.wait(job, run) for job, run in runs]
    assert {end["state"] for end in ends} == {"failed"}
    assert [api.logs(job, run) for job, run in runs] == [["begun"]] * 3  # no line of the platform
    after = api.run()
    assert api.wait(*after)["state"] == "succeeded"
    assert faulty.faults.hits(Fault.lose_node()) == 1


def test_faults_that_are_added_later_find_the_runs_that_are_there(faulty, api):
    runs = [api.run(SLEEP) for _ in range(2)]
    for job, run in runs:
        api.says(job, run, "begun")
    with faulty.fault(Fault.kill(times=1)) as fault:
        assert api.wait(*runs[0])["state"] == "failed"
        assert api.look(*runs[1])["state"] == "running"
        assert faulty.faults.hits(fault) == 1


def test_faults_that_are_removed_do_not_strike(faulty, api):
    with faulty.fault(Fault.kill(0.8)) as fault:
        job, run = api.run("sleep 1")
    assert api.wait(job, run)["state"] == "succeeded"
    assert faulty.faults.hits(fault) == 0


def test_a_run_that_ends_first_is_not_hit(faulty, api):
    with faulty.fault(Fault.kill(60)) as fault:
        assert api.wait(*api.run())["state"] == "succeeded"
        assert (faulty.faults.hits(fault), faulty.faults.seen(fault)) == (0, 1)


def test_runs_are_chosen_by_script_and_count(faulty, api):
    faulty.faults.add(Fault.no_image(script="bad *", every=2))
    states = []
    for name in ("bad 1", "good 1", "bad 2", "good 2", "bad 3", "bad 4"):
        job = api.create(name=name)
        states.append(api.wait(job, api.start(job))["state"])
    assert states == ["succeeded", "succeeded", "failed", "succeeded", "succeeded", "failed"]


def test_runs_go_on_while_the_platform_is_down(faulty, api, tools):
    job, run = api.run("sleep 0.2")
    with faulty.fault(Fault.down(600)):
        with pytest.raises(ConnectionError):
            api.look(job, run)
        time.sleep(0.5)
    assert api.wait(job, run)["state"] == "succeeded"


def test_runs_are_chosen_by_the_lines_that_they_print(faulty, api):
    fault = Fault.kill(says="bad", skip=2, times=1)
    faulty.faults.add(fault)
    assert api.wait(*api.run("echo bad; echo good"))["state"] == "succeeded"
    job, run = api.run("echo bad; echo good; sleep 0.2; echo bad too; sleep 60")
    assert api.wait(job, run)["state"] == "failed"
    assert api.logs(job, run) == ["bad", "good", "bad too", *KILLED]
    assert api.wait(*api.run("echo bad"))["state"] == "succeeded"
    assert (faulty.faults.seen(fault), faulty.faults.hits(fault)) == (4, 1)
