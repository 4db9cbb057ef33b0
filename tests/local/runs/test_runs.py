"""Runs: their environment, output, ends, cancels, memory, and who waits for whom."""

from __future__ import annotations

import json
import os
import sys

import pytest

FAILED = "Error on job: Process ended with an error, exiting: {}."


def python(code):
    """A command line that runs some Python."""
    return f"exec python - <<'EOF'\n{code}\nEOF"


# --- states


def test_success(api):
    job, run = api.run("echo out; echo err >&2")
    done = api.wait(job, run)
    assert (done["state"], done["error"], done["isCancelRequested"]) == ("succeeded", None, False)
    assert done["createdAt"] <= done["startedAt"] <= done["finishedAt"]
    assert (api.logs(job, run, "info"), api.logs(job, run, "error")) == (["out"], ["err"])
    assert api.ok("GET", f"/jobs/{job}")["lastRun"]["state"] == "succeeded"


@pytest.mark.parametrize(
    ("command", "code"),
    [("exit 3", 3), ("kill -9 $$", 137), ("exec sleep 30 & kill -15 $$", 143), ("nonsense", 127)],
)
def test_failure(api, command, code):
    job, run = api.run(command)
    done = api.wait(job, run)
    assert (done["state"], done["error"]) == ("failed", None)
    assert api.logs(job, run, "error")[-2:] == [FAILED.format(code), "Failed"]


def test_a_second_active_run_is_409(api):
    job, run = api.run("sleep 30")
    conflict = api("POST", f"/scripts/containers/{job}/runs")
    assert (conflict.status, conflict["error"]) == (409, "conflict")
    running = api("POST", f"/jobs/{job}/runs")
    assert (running.status, running["error"]) == (409, "already_running")
    api.ok("POST", f"/scripts/{job}/cancel")
    api.wait(job, run)
    assert api.ok("POST", f"/jobs/{job}/runs")["id"] != run


def test_location_of_a_new_run(api, platform):
    job = api.create()
    reply = api("POST", f"/scripts/containers/{job}/runs")
    where = f"{platform.url}/scripts/containers/{job}/runs/{reply['id']}"
    assert reply.headers["location"] == where
    assert reply["state"] == "queued"


# --- environment


def test_environment(api, platform, tools):
    made = api.ok("POST", "/files/multipart", {"name": "x", "numParts": 1})
    tools.call(made["uploadUrls"][0], "PUT", b"contents")
    api.ok("POST", f"/files/multipart/{made['id']}/complete")
    text = "a 'quoted'\n\"text\" with $HOME, 🐍"
    values = [
        ("my_text", "string", text),
        ("lines", "multi_line_string", "a\nb"),
        ("number", "integer", 5),
        ("real", "float", 1.5),
        ("flag", "bool", True),
        ("data", "file", made["id"]),
        ("cred", "credential_custom", 1),
        ("aws", "credential_aws", 1),
        ("db", "database", {"database": 3, "credential": 4}),
        ("unset", "string", None),
    ]
    params = [{"name": name, "type": kind} for name, kind, _ in values]
    params.append({"name": "fixed", "type": "string", "value": "f"})
    params.append({"name": "preset", "type": "string", "default": "d"})
    arguments = {name: value for name, _, value in values}
    code = "import os, json; print(json.dumps(dict(os.environ) | {'cwd': os.getcwd()}))"
    job, run = api.run(python(code), params=params, arguments=arguments)
    api.wait(job, run)
    found = json.loads(api.logs(job, run)[0])
    home = found.pop("cwd")
    url = found.pop("DATA_URL")
    assert tools.call(url).data == b"contents"
    assert found.pop("CIVIS_API_KEY").startswith("local-run-")
    assert found.pop("PATH").split(":")[0] == os.path.dirname(sys.executable)
    for shells_own in ("PWD", "SHLVL", "_", "OLDPWD", "__CF_USER_TEXT_ENCODING", "LC_CTYPE"):
        found.pop(shells_own, None)
    quoted = "'a '\"'\"'quoted'\"'\"'\n\"text\" with $HOME, 🐍'"
    assert found == {
        "HOME": home,
        "TMPDIR": f"{home}/tmp",
        "LANG": found["LANG"],
        "LC_ALL": found["LANG"],
        "CIVIS_JOB_ID": str(job),
        "CIVIS_RUN_ID": str(run),
        "CIVIS_API_ENDPOINT": platform.url,
        "MY_TEXT": text,
        "MY_TEXT_SHELL_ESCAPED": quoted,
        "LINES": "a\nb",
        "NUMBER": "5",
        "REAL": "1.5",
        "FLAG": "true",
        "DATA": str(made["id"]),
        "CRED_USERNAME": found["CRED_USERNAME"],
        "CRED_PASSWORD": found["CRED_PASSWORD"],
        "AWS_ACCESS_KEY_ID": found["AWS_ACCESS_KEY_ID"],
        "AWS_SECRET_ACCESS_KEY": found["AWS_SECRET_ACCESS_KEY"],
        "DB_ID": "3",
        "DB_CREDENTIAL_USERNAME": found["DB_CREDENTIAL_USERNAME"],
        "DB_CREDENTIAL_PASSWORD": found["DB_CREDENTIAL_PASSWORD"],
        "FIXED": "f",
        "FIXED_SHELL_ESCAPED": "f",
        "PRESET": "d",
        "PRESET_SHELL_ESCAPED": "d",
    }


def test_folders_are_fresh_and_removed(api, tools):
    command = "ls -A; touch left; mkdir shut; touch shut/x; chmod 0 shut; pwd"
    job, run = api.run(command)
    api.wait(job, run)
    first = api.logs(job, run)
    run = api.start(job)
    api.wait(job, run)
    second = api.logs(job, run)
    assert first[0] == second[0] == "tmp"
    assert len(first) == len(second) == 2
    assert first[1] != second[1]
    tools.until(lambda: not os.path.exists(first[1]) and not os.path.exists(second[1]))


def test_extra_variables(make, tools):
    platform = make(environment={"EXTRA": "x"})
    api = tools.Api(platform.url, platform.api_key)
    job, run = api.run("echo $EXTRA")
    api.wait(job, run)
    assert api.logs(job, run) == ["x"]


@pytest.mark.parametrize(
    "fields",
    [
        # More than the system lets a process have in one variable.
        {"params": [{"name": "a", "type": "string"}], "arguments": {"a": "x" * 1_000_000}},
        {"params": [{"name": "a", "type": "string"}], "arguments": {"a": "\0"}},
        {"dockerCommand": "echo " + "x" * 1_000_000},
        {"dockerCommand": "echo \0"},
        {"dockerCommand": None},
    ],
    ids=["long argument", "NUL argument", "long command", "NUL command", "no command"],
)
def test_a_run_that_cannot_start_is_a_failed_run(api, fields):
    job, run = api.run(**fields)
    done = api.wait(job, run)
    assert (done["state"], done["error"]) == ("failed", None)
    lines = api.logs(job, run, "error")
    assert lines[0].startswith("The container could not be started: ")
    assert lines[-1] == "Failed"
    assert api("GET", "/users/me").status == 200


def test_a_repository_is_not_cloned_and_the_log_says_so(api):
    job, run = api.run("true", repoHttpUri="github.com/a/b")
    assert api.wait(job, run)["state"] == "succeeded"
    assert "does not clone github.com/a/b" in api.logs(job, run)[0]


# --- output


def test_ten_megabytes_of_output(make, tools):
    platform = make(record=None)  # or it is in the record, several times
    api = tools.Api(platform.url, platform.api_key)
    code = "import sys\nfor i in range(100_000): sys.stdout.write(f'{i:099d}\\n')"
    job, run = api.run(python(code), requiredResources={"cpu": 64, "memory": 1000})
    assert api.wait(job, run)["state"] == "succeeded"
    path = f"/scripts/containers/{job}/runs/{run}/logs"
    last, found = 0, []
    while lines := api.ok("GET", f"{path}?last_id={last}"):
        assert len(lines) <= 10_000
        found += [int(line["message"]) for line in lines]
        last = lines[-1]["id"]
    assert found == list(range(100_000))
    assert api("GET", path).headers["civis-max-id"] == str(last)


def test_strange_output(api):
    code = (
        "import os\n"
        "os.write(1, b'\\xff\\xfe\\0binary\\r\\n')\n"
        "os.write(1, 'é'.encode()[:1]); os.write(1, 'é'.encode()[1:] + b'\\n\\n')\n"
        "os.write(1, b'x' * 100_000 + b'\\n')\n"
        "os.write(1, b'no end')"
    )
    job, run = api.run(python(code))
    assert api.wait(job, run)["state"] == "succeeded"
    lines = api.logs(job, run)
    assert lines[:3] == ["\ufffd\ufffd\0binary", "é", ""]
    assert "".join(lines[3:-1]) == "x" * 100_000
    assert max(map(len, lines)) == 32_768
    assert lines[-1] == "no end"


def test_a_run_that_closes_its_output(api):
    code = "import os, time\nos.close(1); os.close(2)\ntime.sleep(0.3)\nraise SystemExit(4)"
    job, run = api.run(python(code))
    api.wait(job, run, states=("running",))
    assert api.wait(job, run)["state"] == "failed"
    assert FAILED.format(4) in api.logs(job, run)


def test_logs_are_there_while_it_runs(api):
    job, run = api.run("echo first; read forever < /dev/zero; sleep 30 || true")
    path = f"/jobs/{job}/runs/{run}/logs"
    empty = api("GET", f"/jobs/{job}/runs/{run}/logs?last_id=999999999")
    assert (empty.body, empty.headers["civis-cache-control"]) == ([], "no-store")
    api.says(job, run, "first")
    assert "civis-max-id" in api("GET", path).headers
    api.ok("POST", f"/scripts/{job}/cancel")
    api.wait(job, run)
    assert api("GET", path).headers["civis-cache-control"] != "no-store"


def test_no_max_id_before_the_first_line(api):
    job, run = api.run("sleep 30")
    assert "civis-max-id" not in api("GET", f"/jobs/{job}/runs/{run}/logs").headers


def test_order_and_limits_of_logs(api):
    job, run = api.run("for i in 1 2 3 4 5; do echo $i; done")
    api.wait(job, run)
    path = f"/scripts/containers/{job}/runs/{run}/logs"
    newest = api.ok("GET", f"{path}?limit=2")
    assert [line["message"] for line in newest] == ["5", "4"]
    after = api.ok("GET", f"{path}?last_id={newest[1]['id'] - 2}&limit=2")
    assert [line["message"] for line in after] == ["3", "4"]
    assert api("GET", f"{path}?limit=0").status == 400
    assert api("GET", f"{path}?last_id=x").status == 400


def test_posted_lines(api):
    job, run = api.run()
    api.wait(job, run)
    path = f"/scripts/containers/{job}/runs/{run}/logs"
    assert api("POST", path, {"message": "one", "level": "warn"}).status == 204
    lines = [
        {"message": "old", "created_at": "2020-01-01T00:00:00.123456789Z"},
        {"message": "new", "level": "debug"},
    ]
    assert api("POST", path, {"messages": lines, "childJobId": 1}).status == 204
    assert [line["message"] for line in api.ok("GET", path)] == ["new", "one", "old"]
    assert api.ok("GET", path)[2]["createdAt"] == "2020-01-01T00:00:00.123Z"
    for wrong in ({}, {"message": "x", "level": "loud"}, {"messages": [{}]}):
        assert api("POST", path, wrong).status == 400


# --- outputs


def test_outputs(api):
    job, run = api.run("sleep 30")
    path = f"/scripts/containers/{job}/runs/{run}/outputs"
    values = [
        api.ok("POST", "/json_values", {"name": f"v{i}", "valueStr": str(i)})["id"]
        for i in range(53)
    ]
    for key in values:
        made = api.ok("POST", path, {"objectType": "JSONValue", "objectId": key})
    assert (made["value"], made["name"]) == (52, "v52")
    file = api.ok("POST", "/files", {"name": "f"})["id"]
    api.ok("POST", path, {"object_type": "File", "object_id": file})
    newest = api("GET", path + "?limit=1000")
    assert len(newest.body) == 50
    assert (newest.body[0]["objectType"], newest.body[1]["value"]) == ("File", 52)
    assert newest.headers["x-pagination-total-entries"] == "54"
    oldest = f"/jobs/{job}/runs/{run}/outputs?order=id&order_dir=asc&page_num=2"
    assert [row["value"] for row in api.ok("GET", oldest)] == [50, 51, 52, None]
    for kind, key, status in (("File", 1, 404), ("Report", 1, 404), ("Other", 1, 400)):
        assert api("POST", path, {"objectType": kind, "objectId": key}).status == status
    api.ok("POST", f"/scripts/{job}/cancel")
    api.wait(job, run)
    late = api("POST", path, {"objectType": "File", "objectId": file})
    assert (late.status, late["error"]) == (400, "bad_request")


# --- cancel


def test_cancel_keeps_running_until_the_process_ends(api):
    stubborn = "trap 'echo told' TERM; echo ready; while true; do sleep 0.05; done"
    job, run = api.run(stubborn, cancelTimeout=1)
    api.says(job, run, "ready")
    told = api.ok("POST", f"/scripts/{job}/cancel")
    assert told == {"id": run, "state": "running", "isCancelRequested": True}
    api.says(job, run, "told")
    look = api.look(job, run)
    assert (look["state"], look["isCancelRequested"]) == ("running", True)
    assert api("POST", f"/scripts/{job}/cancel").status == 202  # again, while it goes on
    assert api("POST", f"/jobs/{job}/runs").status == 409
    done = api.wait(job, run)
    assert (done["state"], done["error"]) == ("cancelled", None)


def test_cancel_with_time_to_clean_up(api):
    job, run = api.run(
        "trap 'echo bye; exit 0' TERM; echo ready; sleep 30 & wait", cancelTimeout=20
    )
    api.says(job, run, "ready")
    assert api("DELETE", f"/jobs/{job}/runs/{run}").status == 202
    assert api.wait(job, run)["state"] == "cancelled"
    assert api.logs(job, run) == ["ready", "bye"]


def test_cancel_of_what_is_not_active_is_404(api):
    job = api.create()
    assert api("POST", f"/scripts/{job}/cancel").status == 404
    run = api.start(job)
    api.wait(job, run)
    assert api("POST", f"/scripts/{job}/cancel").status == 404
    assert api("DELETE", f"/jobs/{job}/runs/{run}").status == 404
    assert api("DELETE", f"/scripts/containers/{job}/runs/{run}").status == 404


@pytest.mark.parametrize("delay", [0.0, 60.0])
def test_cancel_of_a_queued_run_is_at_once(make, tools, delay):
    platform = make(cores=0.1, start_delay=delay)
    api = tools.Api(platform.url, platform.api_key)
    first = api.create("sleep 30")
    if not delay:
        api.wait(first, api.start(first), states=("running",))
    job, run = api.run("true", requiredResources={"cpu": 64, "memory": 64})
    told = api.ok("POST", f"/scripts/{job}/cancel")
    assert told == {"id": run, "state": "cancelled", "isCancelRequested": True}
    assert api.look(job, run)["startedAt"] is None
    assert platform.stats().queued == 0


# --- what a run leaves


def test_nothing_of_a_run_is_left(api, tools, platform):
    command = (
        "sleep 300 & echo $!; "  # in its group
        "setsid sleep 300 & echo $!; "  # in a session of its own
        "python -c 'import os; os.setpgid(0, 0); print(os.getpid(), flush=True); "
        'os.execvp("sleep", ["sleep", "300"])\' & '  # in a group of its own
        "read line < ready; echo over"
    )
    job, run = api.run("mkfifo ready; " + command.replace("'", "'"))
    tools.until(lambda: len(api.logs(job, run)) == 3)
    pids = [int(line) for line in api.logs(job, run)]
    # The meter has seen them: the one that left the session is known by that alone.
    tools.until(lambda: set(pids) <= set(platform.stats().active.get(run, ())))
    assert all(map(tools.alive, pids))
    home = f"/proc/{platform.stats().active[run][0]}/cwd/ready"
    with open(home, "w") as ready:
        ready.write("go\n")
    assert api.wait(job, run, seconds=5)["state"] == "succeeded"
    tools.until(lambda: not any(map(tools.alive, pids)))


def test_who_holds_the_output_does_not_hold_the_run(api, tools):
    # It leaves before the meter can see it, and keeps the pipe open.
    job, run = api.run("setsid sleep 20 & echo $!")
    assert api.wait(job, run, seconds=5)["state"] == "succeeded"
    os.kill(int(api.logs(job, run)[0]), 9)


# --- memory and cpu


def test_out_of_memory(api):
    code = "x = []\nwhile True: x.append(bytearray(5_000_000))"
    job, run = api.run(python(code), requiredResources={"cpu": 64, "memory": 100})
    done = api.wait(job, run)
    assert (done["state"], done["error"]) == ("failed", None)
    assert api.logs(job, run, "error")[-3:] == [
        "Process ran out of its allowed 100 MiB of memory and was killed.",
        FAILED.format(137),
        "Failed",
    ]
    assert done["maxMemoryUsage"] > 100


def test_memory_is_that_of_the_whole_tree(api):
    code = (
        "import subprocess, sys\n"
        "hold = 'x = bytearray(40_000_000); import time; time.sleep(30)'\n"
        "[subprocess.Popen([sys.executable, '-c', hold]) for _ in range(3)]\n"
        "import time; time.sleep(30)"
    )
    job, run = api.run(python(code), requiredResources={"cpu": 64, "memory": 110})
    api.wait(job, run)
    assert "ran out of its allowed 110 MiB" in api.logs(job, run, "error")[0]


def test_shared_memory_counts_once(api):
    # A hundred MB, shared by five processes: by the resident sets it would be far too much.
    code = (
        "import os, time\n"
        "x = os.urandom(100_000_000)\n"
        "kids = [os.fork() for _ in range(4) if os.getpid() == os.getsid(0)]\n"
        "time.sleep(0.7)"
    )
    job, run = api.run(python(code), requiredResources={"cpu": 64, "memory": 300})
    assert api.wait(job, run)["state"] == "succeeded", api.logs(job, run)


def test_peaks_are_known_after_the_end(api):
    # How much CPU it gets depends on the machine, so it says how many cores it had on average.
    code = (
        "import time\n"
        "x, begun = bytearray(50_000_000), time.monotonic()\n"
        "while time.process_time() < 0.6: 0\n"
        "print(time.process_time() / (time.monotonic() - begun))"
    )
    job, run = api.run(python(code))
    assert api.wait(job, run, states=("running",))["maxMemoryUsage"] is None
    done = api.wait(job, run)
    assert 50 < done["maxMemoryUsage"] < 150
    cores = float(next(line for line in api.logs(job, run, "info") if line.startswith("0.")))
    assert 1000 * cores / 3 < done["maxCpuUsage"] < 1500


# --- capacity


def test_runs_queue_first_come_first_when_cores_are_full(make, tools):
    platform = make(cores=2)
    api = tools.Api(platform.url, platform.api_key)
    wide = {"cpu": 1024, "memory": 100}
    runs = [api.run("sleep 30", requiredResources=wide) for _ in range(3)]
    # A small one would fit beside, but it came later.
    runs.append(api.run("sleep 30", requiredResources={"cpu": 2, "memory": 4}))
    for pair in runs[:2]:
        api.wait(*pair, states=("running",))
    states = [api.look(*pair)["state"] for pair in runs]
    assert states == ["running", "running", "queued", "queued"]
    assert platform.stats().queued == 2
    assert len(platform.stats().active) == 2
    api.ok("POST", f"/scripts/{runs[0][0]}/cancel")
    api.wait(*runs[2], states=("running",))
    assert api.look(*runs[3])["state"] == "queued"


def test_memory_is_a_capacity_too_and_a_giant_runs_alone(make, tools):
    platform = make(memory=1000)
    api = tools.Api(platform.url, platform.api_key)
    giant = api.run("sleep 0.2", requiredResources={"cpu": 999_999, "memory": 5000})
    small = api.run("sleep 0.2", requiredResources={"cpu": 2, "memory": 600})
    other = api.run("true", requiredResources={"cpu": 2, "memory": 600})
    ends = [api.wait(*pair) for pair in (giant, small, other)]
    assert {done["state"] for done in ends} == {"succeeded"}
    assert ends[0]["finishedAt"] <= ends[1]["startedAt"]
    assert ends[1]["finishedAt"] <= ends[2]["startedAt"]


def test_start_delay(make, tools):
    from datetime import datetime

    platform = make(start_delay=0.5)
    api = tools.Api(platform.url, platform.api_key)
    job, run = api.run()
    assert api.look(job, run)["state"] == "queued"
    done = api.wait(job, run)
    waited = datetime.fromisoformat(done["startedAt"]) - datetime.fromisoformat(done["createdAt"])
    assert waited.total_seconds() >= 0.5


def test_many_short_runs(make, tools):
    import time

    platform = make(cores=2)
    api = tools.Api(platform.url, platform.api_key)
    jobs = [api.create("true") for _ in range(70)]

    def spent(jobs):
        begin = time.monotonic()
        pairs = [(job, api.start(job)) for job in jobs]
        tools.until(lambda: api("GET", "/jobs?state=queued,running").body == [])
        assert {api.look(*pair)["state"] for pair in pairs} == {"succeeded"}
        return time.monotonic() - begin

    alone = sum(spent(jobs[number : number + 1]) for number in range(10))
    assert spent(jobs[10:]) < 2 * 6 * alone  # a run that waits for its turn starts at once, then
