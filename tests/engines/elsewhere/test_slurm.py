"""Runs as jobs of a real Slurm cluster: how they begin and end, and who is asked how often."""

from __future__ import annotations

import contextlib
import os
import re
import subprocess
import time

import psutil
import pytest
from cluster import SMALL, Elsewhere
from raw import http_call, until

from civis_futures.local import LocalPlatform

FAILED = "Error on job: Process ended with an error, exiting: {}."
#: More than any node has.
HUGE = {"cpu": 64, "memory": 500_000}
#: As much as a node has: three of them, and the cluster is full.
WHOLE = {"cpu": 2048, "memory": 150}


def names_of(cluster, run, prefix):
    """The names of all jobs that one platform has submitted for a run."""
    names = cluster("squeue", "-h", "-t", "all", "-O", "Name:|").replace("|", "").split()
    return [name for name in names if name.startswith(f"{prefix}-{run}-")]


def job_of(cluster, run):
    """The id of a run's job, once it has one."""
    named = until(
        lambda: [
            line.split("|")[0]
            for line in cluster("squeue", "-h", "-O", "JobID:|,Name:|").splitlines()
            if f"-{run}-" in line
        ]
    )
    return named[0]


# --- ends


@pytest.mark.parametrize(
    ("command", "state", "errors"),
    [
        ("echo out; echo err >&2", "succeeded", ["err"]),
        ("exit 3", "failed", [FAILED.format(3), "Failed"]),
        ("kill -9 $$", "failed", [FAILED.format(137), "Failed"]),
    ],
    ids=["0", "3", "137"],
)
def test_ends(slurm, command, state, errors):
    job, run = slurm.run(command)
    assert slurm.wait(job, run)["state"] == state
    assert slurm.logs(job, run, "error") == errors


def test_out_of_memory(slurm):
    command = "python3 -c \"x = b'x' * (400 << 20)\""
    job, run = slurm.run(command, requiredResources={"cpu": 64, "memory": 100})
    done = slurm.wait(job, run)
    assert done["state"] == "failed"
    assert slurm.logs(job, run, "error")[-3:] == [
        "Process ran out of its allowed 100 MiB of memory and was killed.",
        FAILED.format(137),
        "Failed",
    ]
    assert 50 < done["maxMemoryUsage"] <= 101


def test_what_ran_out_of_memory_and_went_on_has_succeeded(slurm):
    """Slurm says OUT_OF_MEMORY; the command's own exit code counts."""
    command = "python3 -c \"x = b'x' * (400 << 20)\"; echo went on"
    job, run = slurm.run(command, requiredResources={"cpu": 64, "memory": 100})
    assert slurm.wait(job, run)["state"] == "succeeded"
    assert "went on" in slurm.logs(job, run)


@pytest.mark.parametrize("trap", ["", "trap '' TERM;"], ids=["", "who ignores it"])
def test_cancel(slurm, cluster, trap):
    job, run = slurm.run(f"{trap} echo ready; while :; do sleep 0.05; done", cancelTimeout=1)
    slurm.says(job, run, "ready")
    slurm.ok("POST", f"/scripts/{job}/cancel")
    assert slurm.wait(job, run)["state"] == "cancelled"


def test_a_full_cluster(slurm, cluster):
    """What finds no room is queued, says why, begins when there is some, and can be cancelled."""
    full = [
        slurm.run("echo ready; exec sleep 1000", requiredResources=WHOLE, name=str(number))
        for number in range(3)
    ]
    for job, run in full:
        slurm.says(job, run, "ready")
    waits, cancelled = (slurm.run("true") for _ in range(2))
    for job, run in (waits, cancelled):
        slurm.says(job, run, "waits (Resources)" if run == waits[1] else "waits (Priority)")
        assert slurm.look(job, run)["state"] == "queued"
    slurm.ok("POST", f"/scripts/{cancelled[0]}/cancel")
    assert slurm.wait(*cancelled)["state"] == "cancelled"
    for job, _ in full:
        slurm.ok("POST", f"/scripts/{job}/cancel")
    assert slurm.wait(*waits)["state"] == "succeeded"


# --- what others do


def test_somebody_elses_scancel(slurm, cluster):
    job, run = slurm.run("echo ready; exec sleep 1000")
    slurm.says(job, run, "ready")
    cluster("scancel", job_of(cluster, run))
    assert slurm.wait(job, run)["state"] == "cancelled"
    assert not slurm.look(job, run)["isCancelRequested"]


def test_somebody_elses_scancel_of_what_waits(slurm, cluster):
    job, run = slurm.run("true", requiredResources=SMALL)
    cluster("scancel", "--state=PENDING", job_of(cluster, run), check=False)
    assert slurm.wait(job, run)["state"] in ("cancelled", "succeeded")


def test_a_signal_from_within_is_no_cancel(slurm, cluster):
    """A TERM that is not ours, of which Slurm knows nothing: the command's exit code counts."""
    job, run = slurm.run("trap 'exit 7' TERM; echo ready; while :; do sleep 0.05; done")
    slurm.says(job, run, "ready")
    cluster("scancel", "--signal=TERM", "--full", job_of(cluster, run))
    assert slurm.wait(job, run)["state"] == "failed"
    assert FAILED.format(7) in slurm.logs(job, run)


def test_a_node_is_set_down(slurm, cluster):
    job, run = slurm.run("echo ready; exec sleep 1000")
    slurm.says(job, run, "ready")
    number = job_of(cluster, run)
    node = cluster("squeue", "-h", "-j", number, "-o", "%N").strip()
    cluster("scontrol", "update", f"NodeName={node}", "State=DOWN", "Reason=test")
    try:
        assert slurm.wait(job, run)["state"] == "failed"
        assert slurm.logs(job, run, "error") == ["Slurm ended it: NODE_FAIL (NodeDown)", "Failed"]
    finally:
        cluster("scontrol", "update", f"NodeName={node}", "State=RESUME", check=False)
        until(lambda: "idle" in cluster("sinfo", "-h", "-n", node, "-o", "%t"), 30)


def test_put_back_into_the_queue(slurm, cluster):
    """An administrator may do so; it is not run twice under one name."""
    job, run = slurm.run("echo ready; exec sleep 1000")
    slurm.says(job, run, "ready")
    number = job_of(cluster, run)
    cluster("scontrol", "update", f"JobId={number}", "Requeue=1")
    cluster("scontrol", "requeue", number)
    assert slurm.wait(job, run)["state"] == "failed"
    assert slurm.printed(job, run, "info") == ["ready"]
    cluster("scancel", number, check=False)


# --- the controller


def test_the_controller_is_away_for_a_while(slurm, cluster):
    """What runs goes on; what was submitted meanwhile is submitted later, once."""
    job, run = slurm.run(
        'echo ready; while [ ! -e "$GATE" ]; do sleep 0.05; done; exit 4',
        params=[{"name": "GATE", "type": "string", "value": str(cluster.folder / "gate")}],
    )
    slurm.says(job, run, "ready")
    (name,) = [name for name in cluster.jobs("Name") if f"-{run}-" in name]
    cluster.stop_controller()
    try:
        later = slurm.run("echo late")
        (cluster.folder / "gate").touch()
        assert slurm.wait(job, run)["state"] == "failed"
        assert FAILED.format(4) in slurm.logs(job, run)
        slurm.says(*later, "Slurm does not answer; this is tried again", seconds=40)
        assert slurm.look(*later)["state"] == "queued"
    finally:
        (cluster.folder / "gate").unlink(missing_ok=True)
        cluster.begin("control")
    assert slurm.wait(*later, seconds=60)["state"] == "succeeded"
    assert slurm.printed(*later) == ["late"]
    assert len(names_of(cluster, later[1], name.rpartition(f"-{run}-")[0])) == 1


# --- refused


@pytest.mark.parametrize(
    ("options", "resources", "words"),
    [
        ({}, HUGE, "Memory specification can not be satisfied"),
        ({"partition": "nowhere"}, SMALL, "invalid partition specified: nowhere"),
        ({"partition": "closed"}, SMALL, "Required partition not available"),
        ({"extra": ("--nonsense",)}, SMALL, "unrecognized option '--nonsense'"),
    ],
    ids=["memory", "partition", "closed", "option"],
)
def test_refused(cluster, options, resources, words):
    with cluster.platform(**options) as platform:
        api = Elsewhere(platform)
        job, run = api.run("true", requiredResources=resources)
        assert api.wait(job, run)["state"] == "failed"
        said = api.logs(job, run, "error")
        assert said[0].startswith("Slurm refused this job: sbatch: ")
        assert words in said[0]
        assert said[1] == "Failed"
        assert platform.stats().active == {}


def test_no_slurm_here(monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(RuntimeError, match="sbatch, squeue, scancel are not on the path"):
        LocalPlatform(engine="slurm").start()


# --- economy


@pytest.fixture
def counted(cluster, tmp_path):
    """counted(name): how often a command of Slurm's was called."""
    folder = tmp_path / "bin"
    folder.mkdir()
    for name in ("sbatch", "squeue", "scancel"):
        real = subprocess.run(["which", name], capture_output=True, text=True, check=True).stdout
        script = f'#!/bin/sh\necho >> {tmp_path}/{name}.calls\nexec {real.strip()} "$@"\n'
        (folder / name).write_text(script)
        (folder / name).chmod(0o755)

    def calls(name):
        file = tmp_path / f"{name}.calls"
        return len(file.read_text()) if file.exists() else 0

    calls.path = f"{folder}:{os.environ['PATH']}"
    return calls


def test_two_hundred_runs_cost_no_more_looks_than_one(cluster, counted, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setenv("PATH", counted.path)
        platform = cluster.platform(extra=("--hold",)).start()
    began = time.monotonic()
    with platform:
        api = Elsewhere(platform)
        runs = [api.run("true") for _ in range(200)]
        for job, run in runs[::50]:
            api.says(job, run, "waits (JobHeldUser)", seconds=60)
        for job, _ in runs:
            api.ok("POST", f"/scripts/{job}/cancel")
        until(lambda: not cluster.jobs(), 60)
        seconds = time.monotonic() - began
    assert counted("sbatch") == 200
    assert 1 <= counted("squeue") <= seconds + 2
    assert counted("scancel") <= seconds + 2


# --- the end of the platform


def test_a_stop_ends_all_jobs(cluster):
    with cluster.platform() as platform:
        api = Elsewhere(platform)
        job, run = api.run("trap '' TERM; echo ready; while :; do sleep 0.05; done")
        waits = api.run("true", requiredResources=HUGE | {"memory": 1900, "cpu": 2048})
        api.says(job, run, "ready")
        assert waits
        platform.stop()
    until(lambda: not cluster.jobs(), 30)


def test_a_stop_is_bounded_while_the_controller_is_away(cluster):
    """Its commands take ten seconds to fail; a stop that waits for them is killed after five."""
    platform = cluster.platform().start()
    api = Elsewhere(platform)
    cluster.stop_controller()
    try:
        job, run = api.run("true")
        server = platform._process
        until(lambda: api.look(job, run)["state"] == "queued")
        platform.stop()
        assert server.returncode == 0
    finally:
        cluster.begin("control")
    until(lambda: "UP" in cluster("scontrol", "ping", check=False))


def test_the_server_and_its_guard_are_killed(cluster):
    """Nothing runs on past its lease."""
    platform = cluster.platform(lease=3).start()
    api = Elsewhere(platform)
    job, run = api.run("trap '' TERM; echo ready; while :; do sleep 0.05; done")
    api.says(job, run, "ready")
    server = psutil.Process(platform._process.pid)
    family = [*server.children(recursive=True), server]
    for process in family:
        with contextlib.suppress(psutil.NoSuchProcess):
            process.kill()
    platform.stop()
    until(lambda: not cluster.jobs(), 40)


def test_jobs_are_adopted(cluster, tmp_path):
    """The server is killed; the next one has the runs, with their lines, and those that wait."""
    state = tmp_path / "state"
    platform = cluster.platform(state=state).start()
    api = Elsewhere(platform)
    gate = tmp_path / "gate"
    runs = [
        api.run(f"echo ready; while [ ! -e {gate} ]; do sleep 0.05; done; echo done; exit 5"),
        api.run("echo then", requiredResources=WHOLE | {"memory": 1900}),
    ]
    api.says(*runs[0], "ready")
    (name,) = [name for name in cluster.jobs("Name") if f"-{runs[0][1]}-" in name]
    platform._process.kill()
    platform.stop()
    with cluster.platform(state=state) as again:
        api = Elsewhere(again)
        assert api.look(*runs[0])["state"] == "running"
        gate.touch()
        assert api.wait(*runs[0])["state"] == "failed"
        assert api.printed(*runs[0], "info") == ["ready", "done"]
        assert FAILED.format(5) in api.logs(*runs[0])
        assert api.wait(*runs[1])["state"] == "succeeded"
        assert api.printed(*runs[1]) == ["then"]
    platform_name = name.rpartition(f"-{runs[0][1]}-")[0]
    assert [len(names_of(cluster, run, platform_name)) for _, run in runs] == [1, 1]


# --- keys


def test_the_key_of_an_ended_run_is_worth_nothing(slurm, cluster):

    job, run = slurm.run("echo ready; exec sleep 1000")
    slurm.says(job, run, "ready")
    texts = [
        path.read_text(errors="replace")
        for path in (cluster.folder / "spool").glob("*/job*/slurm_script")
    ]
    (key,) = {key for text in texts for key in re.findall(r"local-agent-\w+", text)}
    slurm.ok("POST", f"/scripts/{job}/cancel")
    slurm.wait(job, run)
    headers = {"Authorization": f"Bearer {key}"}
    asked = http_call(f"{slurm.url}/_local/agents/order", "POST", '{"agent": "a"}', headers)
    assert asked.status == 401


# --- what Slurm takes a minute to notice


@pytest.mark.repeats
@pytest.mark.timeout(300)
def test_a_time_limit(cluster):
    """Slurm looks at it every half minute, or so."""
    with cluster.platform(time_limit=5) as platform:
        api = Elsewhere(platform)
        job, run = api.run("echo ready; exec sleep 1000")
        assert api.wait(job, run, seconds=150)["state"] == "failed"
        assert "Slurm ended it: TIMEOUT (TimeLimit)" in api.logs(job, run)


@pytest.mark.repeats
@pytest.mark.timeout(300)
def test_a_node_crashes(slurm, cluster):
    job, run = slurm.run("echo ready; exec sleep 1000")
    slurm.says(job, run, "ready")
    node = cluster("squeue", "-h", "-j", job_of(cluster, run), "-o", "%N").strip()
    cluster.kill(f"slurmd-{node}")
    try:
        assert slurm.wait(job, run, seconds=110)["state"] == "failed"
        assert slurm.logs(job, run, "error") == ["Slurm ended it: NODE_FAIL (NodeDown)", "Failed"]
    finally:
        cluster.begin("node", node)
        until(lambda: "idle" in cluster("sinfo", "-h", "-n", node, "-o", "%t"), 60)


def test_somebody_takes_precedence(cluster):
    """A job of a partition with a higher tier takes the place of ours."""
    with cluster.platform(partition="low") as platform:
        api = Elsewhere(platform)
        runs = [
            api.run("echo ready; exec sleep 1000", requiredResources=WHOLE, name=f"n{number}")
            for number in range(3)
        ]
        for run in runs:
            api.says(*run, "ready")
        other = cluster(
            "sbatch", "--parsable", "--partition=high", "--cpus-per-task=2", "--mem=100",
            "--output=/dev/null", "--wrap", "sleep 1",
        )  # fmt: skip
        over = until(lambda: [run for run in runs if api.look(*run)["state"] == "failed"], 40)
        assert "Slurm ended it: PREEMPTED" in api.logs(*over[0], "error")[0]
        until(lambda: other.strip() not in cluster.jobs(), 30)
