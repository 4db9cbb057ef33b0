"""Runs with agents, on the scheduler of the documentation's example: no cluster is needed."""

from __future__ import annotations

import ast
import glob
import json
import os
import signal
import sys
import time
from pathlib import Path

import pytest
from cases import mostly_repeats
from cluster import EXAMPLE, agents
from raw import http_call, until

from civis_futures.local import _elsewhere

AGENT = Path(_elsewhere.__file__).with_name("agent.py")


def test_the_agent_is_for_old_pythons():
    tree = ast.parse(AGENT.read_text(), feature_version=(3, 8))
    imported = {
        name.name for node in ast.walk(tree) if isinstance(node, ast.Import) for name in node.names
    }
    imported |= {node.module for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
    assert {name.split(".")[0] for name in imported} <= sys.stdlib_module_names


def test_a_run_and_its_lines(simple):
    _, api = simple
    job, run = api.run("echo out; echo err >&2; printf 'no newline'; exit 3")
    done = api.wait(job, run)
    assert done["state"] == "failed"
    assert sorted(api.printed(job, run, "info"))[-2:] == ["no newline", "out"]
    assert api.logs(job, run, "error") == [
        "err",
        "Error on job: Process ended with an error, exiting: 3.",
        "Failed",
    ]


def test_its_surroundings(background):
    _, api = background(environment={"A": "b"})
    params = [{"name": "P", "type": "string", "value": "x y"}]
    command = (
        'echo "$A $P $CIVIS_RUN_ID $(stat -c %a .) $(umask) [$PWD = $HOME]"; touch f; ls "$TMPDIR"'
    )
    job, run = api.run(command, params=params)
    assert api.wait(job, run)["state"] == "succeeded"
    (line,) = [line for line in api.printed(job, run) if line.startswith("b")]
    assert line.startswith(f"b x y {run} 700 ")
    folder = line.partition("[")[2].partition(" ")[0]
    assert line.endswith(f"[{folder} = {folder}]")
    until(lambda: not os.path.exists(folder))


def test_many_lines_arrive_once_and_in_order(simple):
    _, api = simple
    job, run = api.run("seq 30000")
    assert api.wait(job, run)["state"] == "succeeded"
    found, last = [], 0
    path = f"/scripts/containers/{job}/runs/{run}/logs?limit=10000&last_id="
    while page := api.ok("GET", f"{path}{last}"):
        found += [line["message"] for line in page]
        last = page[-1]["id"]
    assert found[1:] == [str(number) for number in range(1, 30001)]


def test_cancel(simple):
    jobs, api = simple
    job, run = api.run(
        "trap 'echo told; exit 0' TERM; echo ready; while :; do sleep 0.05; done", cancelTimeout=20
    )
    api.says(job, run, "ready")
    api.ok("POST", f"/scripts/{job}/cancel")
    assert api.wait(job, run)["state"] == "cancelled"
    assert "told" in api.printed(job, run)
    until(lambda: not agents(jobs))


def test_who_ignores_a_term_is_killed(simple):
    jobs, api = simple
    job, run = api.run("trap '' TERM; echo ready; while :; do sleep 0.05; done", cancelTimeout=1)
    api.says(job, run, "ready")
    api.ok("POST", f"/scripts/{job}/cancel")
    assert api.wait(job, run)["state"] == "cancelled"
    until(lambda: not agents(jobs))


def test_what_left_the_session_ends_with_the_run(simple, tmp_path):
    _, api = simple
    job, run = api.run(f"setsid sleep 1000 & echo $! > {tmp_path}/pid")
    assert api.wait(job, run)["state"] == "succeeded"
    pid = int((tmp_path / "pid").read_text())
    until(lambda: not os.path.exists(f"/proc/{pid}/cwd"))


@pytest.mark.parametrize("whom", ["it alone", "its group"])
def test_of_a_killed_agent_nothing_runs_on(simple, tmp_path, whom):
    """Nor does its folder stay. The scheduler does not end what is no process of the job's own."""
    _, api = simple
    said = f"echo $$ $! $PPID $HOME > {tmp_path}/said; echo ready"
    command = f"trap '' TERM; setsid sleep 1000 & {said}; wait"
    job, run = api.run(command)
    api.says(job, run, "ready")
    *pids, agent, home = (tmp_path / "said").read_text().split()
    if whom == "it alone":
        os.kill(int(agent), signal.SIGKILL)
    else:
        os.killpg(os.getpgid(int(agent)), signal.SIGKILL)
    until(lambda: not any(os.path.exists(f"/proc/{each}/cwd") for each in pids))
    until(lambda: not os.path.exists(os.path.dirname(home)))
    assert api.wait(job, run)["state"] == "failed"
    said = "it was killed" if whom == "its group" else "exiting: 137"
    assert said in " ".join(api.logs(job, run, "error"))


def test_nothing_watches_over_what_has_ended(simple, tmp_path):
    _, api = simple
    job, run = api.run(f"cat /proc/$PPID/task/$PPID/children > {tmp_path}/pids")
    assert api.wait(job, run)["state"] == "succeeded"
    pids = (tmp_path / "pids").read_text().split()
    until(lambda: not any(map(os.path.exists, (f"/proc/{pid}" for pid in pids))))
    assert len(pids) >= 2  # the command, and what would end it


@pytest.mark.parametrize("version", mostly_repeats(["3.8", "3.9", "3.10"], "3.8"))
def test_an_agent_on_an_old_python(background, tmp_path, version):
    """If there is one: named by `CIVIS_TEST_PYTHON3_8`, or among those of pyenv."""
    from civis_futures.local import OwnScheduler

    named = os.environ.get("CIVIS_TEST_PYTHON" + version.replace(".", "_"))
    found = (
        [named] if named else glob.glob(f"{Path.home()}/.pyenv/versions/{version}.*/bin/python3")
    )
    if not found:
        pytest.skip(f"there is no Python {version}")
    folder = tmp_path / "bin"
    folder.mkdir()
    (folder / "python3").symlink_to(found[0])
    setup = f"PATH={folder}:$PATH"
    engine = OwnScheduler(
        str(EXAMPLE), options=(f"folder={tmp_path / 'jobs'}",), pause=1, setup=setup
    )
    _, api = background(engine=engine)
    job, run = api.run("readlink -f /proc/$PPID/exe; echo err >&2; exit 3")
    assert api.wait(job, run)["state"] == "failed"
    assert f"python{version}" in api.printed(job, run, "info")[0]
    assert api.logs(job, run, "error")[:1] == ["err"]
    told = "trap 'echo told; exit 0' TERM; echo ready; while :; do sleep 0.05; done"
    job, run = api.run(told, cancelTimeout=20)
    api.says(job, run, "ready")
    api.ok("POST", f"/scripts/{job}/cancel")
    assert api.wait(job, run)["state"] == "cancelled"
    assert "told" in api.printed(job, run)


def test_refused(simple):
    _, api = simple
    job, run = api.run(requiredResources={"cpu": 1024 * 5000, "memory": 10})
    assert api.wait(job, run)["state"] == "failed"
    assert "refused this job: this machine has no 5000 cores" in api.printed(job, run)[0]


@pytest.mark.parametrize(
    ("program", "said"),
    [
        ("def submit(): pass", "lacks these functions: look, end"),
        ("nonsense", "cannot be loaded: NameError: name 'nonsense' is not defined"),
        ("def submit(:", r"cannot be loaded: SyntaxError: invalid syntax \(own.py, line 1\)"),
    ],
)
def test_a_file_that_is_no_scheduler(background, tmp_path, program, said):
    from civis_futures.local import OwnScheduler

    (tmp_path / "own.py").write_text(program)
    with pytest.raises(RuntimeError, match=said):
        background(engine=OwnScheduler(str(tmp_path / "own.py")))


# --- the lease


def test_nothing_runs_on_past_its_lease(background, tmp_path):
    """The server is killed, and nobody comes back."""
    platform, api = background(lease=2)
    job, run = api.run("echo ready; trap '' TERM; while :; do sleep 0.1; done")
    api.says(job, run, "ready")
    platform._process.kill()
    until(lambda: not agents(tmp_path / "jobs"), 30)
    platform.stop()


def test_a_platform_that_was_away_for_less_loses_nothing(background, tmp_path):
    """Stopped, it is silent; what was printed meanwhile is there afterwards, once."""
    platform, api = background(lease=60)
    gate = tmp_path / "gate"
    command = f"echo 1; while [ ! -e {gate} ]; do sleep 0.05; done; seq 2 2000; sleep 1; exit 4"
    job, run = api.run(command)
    api.says(job, run, "1")
    os.kill(platform._process.pid, signal.SIGSTOP)
    gate.touch()
    time.sleep(2)
    os.kill(platform._process.pid, signal.SIGCONT)
    assert api.wait(job, run)["state"] == "failed"
    printed = api.printed(job, run, "info")
    assert printed == [str(number) for number in range(1, 2001)]


# --- restart


@pytest.mark.parametrize("kills", [False, True], ids=["stopped", "killed"])
def test_runs_are_adopted(background, tmp_path, kills):
    """What goes on elsewhere goes on for the next server: no line is lost or doubled."""
    platform, api = background(state=tmp_path / "state")
    gate = tmp_path / "gate"
    job, run = api.run(
        f"i=0; while [ ! -e {gate} ]; do i=$((i+1)); echo $i; sleep 0.02; done; exit 5"
    )
    api.says(job, run, "10")
    if kills:
        platform._process.kill()
    platform.stop()
    _, api = background(state=tmp_path / "state")
    assert api.look(job, run)["state"] == "running"
    here = int(api.printed(job, run)[-1])
    api.says(job, run, str(here + 20))
    gate.touch()
    done = api.wait(job, run)
    assert done["state"] == "failed"
    assert "exiting: 5" in api.logs(job, run, "error")[0]
    printed = api.printed(job, run, "info")
    assert printed == [str(number) for number in range(1, len(printed) + 1)]
    assert len(list((tmp_path / "jobs").glob("*.pid"))) == 1


def test_a_run_that_ended_meanwhile(background, tmp_path):
    platform, api = background(state=tmp_path / "state")
    job, run = api.run(
        f"echo ready; while [ ! -e {tmp_path}/gate ]; do sleep 0.05; done; echo done"
    )
    api.says(job, run, "ready")
    platform._process.kill()
    platform.stop()
    (tmp_path / "gate").touch()
    _, api = background(state=tmp_path / "state")
    assert api.wait(job, run)["state"] == "succeeded"
    assert api.printed(job, run) == ["ready", "done"]


def test_a_cancel_outlives_a_restart(background, tmp_path):
    platform, api = background(state=tmp_path / "state")
    job, run = api.run("trap '' TERM; echo ready; while :; do sleep 0.05; done", cancelTimeout=3)
    api.says(job, run, "ready")
    api.ok("POST", f"/scripts/{job}/cancel")
    platform._process.kill()
    platform.stop()
    _, api = background(state=tmp_path / "state")
    assert api.wait(job, run)["state"] == "cancelled"


def test_a_stop_ends_all_where_there_is_no_state(background, tmp_path):
    platform, api = background()
    job, run = api.run("echo ready; trap '' TERM; while :; do sleep 0.05; done", cancelTimeout=1)
    api.says(job, run, "ready")
    platform.stop()
    until(lambda: not agents(tmp_path / "jobs"))


# --- what agents may ask


@pytest.fixture
def agent(background, tmp_path):
    """agent(what, body): a request with the key of a run's agent; a job that is none."""
    platform, api = background()
    job, run = api.run("sleep 1000")
    (script,) = until(lambda: list((tmp_path / "jobs").glob("*.sh")))
    text = until(lambda: "local-agent-" in script.read_text() and script.read_text())
    key = "local-agent-" + text.partition("local-agent-")[2][:48]

    def ask(what, body, key=key):
        headers = {"Authorization": f"Bearer {key}"}
        path = what if what.startswith("/") else f"/_local/agents/{what}"
        return http_call(platform.url + path, "POST", json.dumps(body), headers)

    ask.platform, ask.api, ask.job, ask.run = platform, api, job, run
    yield ask
    api.ok("POST", f"/scripts/{job}/cancel")
    api.wait(job, run)


def test_a_second_agent_gets_nothing(agent):
    agent.api.wait(agent.job, agent.run, states=("running",))
    refused = agent("order", {"agent": "another", "host": "h"})
    assert refused.status == 409
    refused = agent("report", {"agent": "another", "first": 0, "lines": [], "termed": False})
    assert refused.status == 409
    assert agent.api.look(agent.job, agent.run)["state"] == "running"


def test_its_key_opens_nothing_else(agent):
    for path in ("/scripts/containers", "/files", "/_local/faults", "/_local/reset"):
        assert agent(path, {}).status == 403
    order = {"agent": "a", "host": "h"}
    for key in (agent.platform.api_key, "local-agent-0", ""):
        assert agent("order", order, key).status in (401, 403)


WRONG = [
    {"agent": 5},
    {"agent": ""},
    {"agent": "x" * 1000},
    {"agent": "a\nb"},
    {"first": -1},
    {"first": 1.5},
    {"first": True},
    {"first": 10**30},
    {"lines": "abc"},
    {"lines": [["now", "info", "x"]]},
    {"lines": [[float("nan"), "info", "x"]]},
    {"lines": [[1.0, "debug", "x"]]},
    {"lines": [[1.0, "info", 5]]},
    {"lines": [[1.0, "info", "x" * 50_000]]},
    {"lines": [[1.0, "info", "x"]] * 6_000},
    {"termed": 1},
    {"ended": "yes"},
    {"ended": {"exit_code": 500, "out_of_memory": False, "memory": 1, "cpu": 1}},
    {"ended": {"exit_code": 0, "out_of_memory": False, "memory": -1, "cpu": 1}},
    {"ended": {"exit_code": 0}},
]


def test_what_is_no_report_is_refused(agent):
    right = {"agent": "a", "first": 0, "lines": [], "termed": False, "ended": None}
    got = {str(wrong)[:80]: agent("report", right | wrong).status for wrong in WRONG}
    assert set(got.values()) == {400}, got
    assert agent("word", {"agent": "a", "known": "rm -rf"}).status == 400
    assert agent("order", {"agent": "a"}).status == 400
