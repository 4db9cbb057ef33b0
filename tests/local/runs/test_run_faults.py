"""Every fault of a run is seen to happen: how it ends, and what its log says."""

from __future__ import annotations

import time

import pytest

from civis_futures.testing import Fault

KILLED = ["Error on job: Process ended with an error, exiting: 137.", "Failed"]
SLEEP = "echo begun; sleep 60"


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


LIFE = 'echo life $$ "$CIVIS_API_KEY"; ls; touch mark; sleep 60 & sleep 60'


def test_a_run_is_restarted_in_place(faulty, api, tools):
    with faulty.fault(Fault.restart(says="life", times=1)) as fault:
        job, run = api.run(LIFE)
        lives = tools.until(lambda: len(found := lives_of(api, job, run)) == 2 and found)
    (first, first_key), (second, second_key) = lives
    assert first != second
    assert not tools.alive(int(first))
    assert first_key != second_key
    assert "mark" not in api.logs(job, run)  # its folder is new
    seen = api.look(job, run)
    assert (seen["state"], seen["isCancelRequested"]) == ("running", False)
    assert seen["startedAt"]
    assert [row["id"] for row in api.ok("GET", f"/jobs/{job}/runs")] == [run]
    assert faulty.faults.hits(fault) == 1
    old = tools.Api(faulty.url, first_key)
    assert old("GET", "/users/me").status == 401
    assert tools.Api(faulty.url, second_key)("GET", "/users/me").status == 200
    api("POST", f"/scripts/{job}/cancel")
    assert api.wait(job, run)["state"] == "cancelled"
    assert faulty.stats().runs_started == 1


def lives_of(api, job, run):
    return [tuple(line.split()[1:]) for line in api.logs(job, run) if line.startswith("life")]


def test_a_run_that_is_restarted_waits_for_its_turn(make, tools):
    platform = make(start_delay=0.4)
    api = tools.Api(platform.url, platform.api_key)
    job, run = api.run("echo life; sleep 0.3")
    platform.faults.add(Fault.restart(says="life", times=1))
    api.says(job, run, "life")
    assert api.wait(job, run, ("queued",))["startedAt"] is None
    assert api.wait(job, run)["state"] == "succeeded"
    assert api.logs(job, run) == ["life", "life"]


@pytest.mark.parametrize("when", ["queued", "killed"])
def test_a_run_that_is_restarted_can_be_cancelled(make, tools, when):
    platform = make(start_delay=0.4)
    api = tools.Api(platform.url, platform.api_key)
    job, run = api.run("echo life; sleep 60")
    api.says(job, run, "life")
    platform.faults.add(Fault.restart())
    if when == "queued":
        api.wait(job, run, ("queued",))
    api("POST", f"/scripts/{job}/cancel")
    assert api.wait(job, run)["state"] == "cancelled"


COUNT = """echo begun
python3 -c 'import os, time
if os.fork() == 0: os.setpgid(0, 0)
while True: print("tick", os.getpid(), flush=True); time.sleep(0.02)'
"""


@pytest.mark.parametrize("lasting", [None, 0.5])
def test_a_run_that_is_frozen(faulty, api, tools, lasting):
    with faulty.fault(Fault.freeze(says="tick", lasting=lasting, times=1)) as fault:
        job, run = api.run(COUNT)
        tools.until(lambda: faulty.faults.hits(fault))

    def ticks():
        return len(api.logs(job, run))

    if lasting is None:
        [pids] = faulty.stats().active.values()
        tools.until(lambda: all(stopped(pid) for pid in pids[1:]))
        before = ticks()
        time.sleep(0.3)
        assert ticks() <= before + 2  # what was in the pipe
    else:
        tools.until(lambda: len(set(api.logs(job, run)[-2:])) == 2)  # both go on
        before = ticks()
        tools.until(lambda: ticks() > before + 20)
    assert api.look(job, run)["state"] == "running"
    api("POST", f"/scripts/{job}/cancel")
    assert api.wait(job, run)["state"] == "cancelled"


def stopped(pid):
    with open(f"/proc/{pid}/stat") as stream:
        return stream.read().rpartition(")")[2].split()[0] == "T"


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
