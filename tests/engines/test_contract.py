"""What holds on every engine: how runs begin, print, end, are ended, and how a pool sees it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from concurrent.futures import as_completed

import joblib
import pytest
from raw import until
from tasks import HOUR, SECONDS, by_value, identity, slept, square

import civis_futures as cf
import civis_joblib
from civis_futures.testing import Fault

by_value(__name__)

EXIT = "Error on job: Process ended with an error, exiting: {}."
WAITS = "echo here; exec sleep 3600"
DEAF = "trap '' TERM; echo here; sleep 3600; sleep 3600"
TIDY = "trap 'echo bye; exit 0' TERM; echo here; sleep 3600 & wait"
#: It does not end before a meter has looked, which it does now and then.
EATS = "echo here; exec python3 -c 'import time; b = b\"x\" * 400_000_000; time.sleep(60)'"


def eat(megabytes, pause):
    eaten = [os.urandom(1) * 1_000_000 for _ in range(megabytes)]
    time.sleep(pause)  # a meter looks now and then
    return len(eaten)


def say(number):
    print("this is", number, flush=True)
    os.write(2, f"and {number}\n".encode())
    return number


# --- runs --------------------------------------------------------------------------------------


def test_both_streams_and_the_variables(api):
    names = "$CIVIS_JOB_ID $CIVIS_RUN_ID $NORTH"
    params = [{"name": "north", "type": "string", "value": "a 'b'\n$c"}]
    job, run = api.run(f'printf "%s\\n" "{names}"; echo err >&2', params=params)
    done = api.wait(job, run, seconds=SECONDS)
    assert (done["state"], done["error"]) == ("succeeded", None)
    assert done["createdAt"] <= done["startedAt"] <= done["finishedAt"]
    assert api.logs(job, run, "info") == [f"{job} {run} a 'b'", "$c"]
    assert api.logs(job, run, "error") == ["err"]


@pytest.mark.parametrize("code", [3, 125, 137])
def test_exit_codes(api, code):
    job, run = api.run(f"exit {code}")
    assert api.wait(job, run, seconds=SECONDS)["state"] == "failed"
    assert api.logs(job, run) == [EXIT.format(code), "Failed"]


def test_cancelled_before_it_begins(kit, api):
    if kit.cluster is not None:
        pytest.skip("a cluster is filled otherwise: elsewhere/test_slurm.py")
    first, second = api.run(WAITS, requiredResources={"cpu": 4096, "memory": 64}), api.run(WAITS)
    api.ok("DELETE", f"/scripts/containers/{second[0]}/runs/{second[1]}")
    done = api.wait(*second, seconds=SECONDS)
    assert (done["state"], done["startedAt"]) == ("cancelled", None)
    api.ok("DELETE", f"/scripts/containers/{first[0]}/runs/{first[1]}")
    assert api.wait(*first, seconds=SECONDS)["state"] == "cancelled"
    assert "here" not in api.logs(*second)


@pytest.mark.parametrize(
    ("command", "timeout", "lines"), [(DEAF, 1, ["here"]), (TIDY, 600, ["here", "bye"])]
)
def test_cancelled_while_it_runs(api, command, timeout, lines):
    job, run = api.run(command, cancelTimeout=timeout)
    api.says(job, run, "here", SECONDS)
    api.ok("DELETE", f"/scripts/containers/{job}/runs/{run}")
    assert api.wait(job, run, seconds=SECONDS)["state"] == "cancelled"
    assert api.logs(job, run, "info") == lines


def test_out_of_memory(api):
    job, run = api.run(EATS, requiredResources={"cpu": 64, "memory": 100})
    done = api.wait(job, run, seconds=SECONDS)
    assert (done["state"], api.logs(job, run, "info")) == ("failed", ["here"])
    assert api.logs(job, run)[-3:] == [
        "Process ran out of its allowed 100 MiB of memory and was killed.",
        EXIT.format(137),
        "Failed",
    ]


def test_killed_by_somebody_else(kit, own, api):
    job, run = api.run(WAITS)
    api.says(job, run, "here", SECONDS)
    kit.kill(own, run)
    state, line = kit.killed
    assert api.wait(job, run, seconds=SECONDS)["state"] == state
    assert line in api.logs(job, run)
    assert not any("memory" in line for line in api.logs(job, run))


def test_restarted_in_its_place(own, api):
    job = api.create("echo here; exec sleep 1", name="again")
    with own.fault(Fault.restart(says="here", script="again", times=1)) as fault:
        run = api.start(job)
        assert api.wait(job, run, seconds=SECONDS)["state"] == "succeeded"
        assert own.faults.hits(fault) == 1
    assert api.logs(job, run, "info") == ["here", "here"]


def test_frozen(kit, own, api):
    if not kit.freezes:
        pytest.skip(f"{kit.name} cannot freeze a run")
    job = api.create("echo here; while :; do sleep 0.01; done", name="frozen", cancelTimeout=1)
    with own.fault(Fault.freeze(says="here", script="frozen")) as fault:
        run = api.start(job)
        api.says(job, run, "here", SECONDS)
        while not own.faults.hits(fault):
            pass
    api.ok("DELETE", f"/scripts/containers/{job}/runs/{run}")
    assert api.wait(job, run, seconds=SECONDS)["state"] == "cancelled"


# --- pools -------------------------------------------------------------------------------------


def test_map_as_completed_and_logs(pool):
    executor = pool(2)
    assert list(executor.map(square, range(20), timeout=SECONDS)) == [n * n for n in range(20)]
    futures = [executor.submit(say, n) for n in (1, 2)]
    assert {future.result() for future in as_completed(futures, SECONDS)} == {1, 2}
    for number, future in enumerate(futures, 1):
        said = {f"this is {number}", f"and {number}"}
        # A result may be there before the lines of the same moment, which have another way.
        until(lambda future=future, said=said: said <= {line.message for line in future.logs()})


def test_a_running_call_is_cancelled(pool):
    executor = pool(1)
    future = executor.submit(slept, HOUR)
    while not future.running():
        pass
    assert future.cancel()
    assert executor.submit(identity, 7).result(SECONDS) == 7


def test_more_memory_for_a_call_that_ran_out_of_it(kit, pool, brisk):
    pause = 1.0 if kit.name == "process" else 0.0
    executor = pool(1)
    call = executor.options(memory_growth=4.0)
    future = call.submit(eat, 200, pause)
    assert future.result(SECONDS) == 200
    killed, good = future.attempts
    assert (killed.exit_code, good.state) in ((137, "succeeded"), (-9, "succeeded"))
    assert good.peak_memory > 200
    lost = executor.submit(eat, 1000, pause)
    assert type(lost.exception(SECONDS)) is cf.WorkerMemoryError


def test_a_killed_container_costs_its_call_which_is_tried_again(kit, own, pool, brisk):
    executor = pool(1, max_retries=1)
    future = executor.submit(slept, 3.0, "done")
    while not future.running():
        pass
    kit.kill(own, future.run_id)
    assert future.result(SECONDS) == "done"
    assert len(future.attempts) == 2


def test_joblib(pool):
    executor = pool(2)
    with civis_joblib.using(executor):
        assert joblib.Parallel()(joblib.delayed(square)(n) for n in range(10)) == [
            n * n for n in range(10)
        ]


CLIENT = """
import json, os, sys, time
from civis_futures import Container, ContainerPoolExecutor

def work(number):
    print("working", flush=True)
    time.sleep(3)
    return number * number

fields = json.loads(sys.argv[2])
with ContainerPoolExecutor(1, container=Container(**fields), session="contract") as executor:
    future = executor.submit(work, 7)
    if sys.argv[1] == "dies":
        while not future.running():
            time.sleep(0.01)
        os.kill(os.getpid(), 9)
    print(future.result(60), [line.message for line in future.logs()].count("working"))
"""


def test_a_session_goes_on_when_its_client_is_killed(kit, own, pool):
    container = kit.container()
    names = ("docker_image_name", "docker_image_tag", "required_resources")
    fields = json.dumps({name: getattr(container, name) for name in names})
    surroundings = {**os.environ, "CIVIS_API_ENDPOINT": own.url, "CIVIS_API_KEY": own.api_key}

    def client(how):
        command = [sys.executable, "-c", CLIENT, how, fields]
        return subprocess.run(
            command, env=surroundings, capture_output=True, text=True, timeout=SECONDS, check=False
        )

    assert client("dies").returncode == -9
    again = client("lives")
    assert again.stdout == "49 1\n", again.stderr
