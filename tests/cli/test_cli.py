"""The commands about runs and images, against a real platform."""

from __future__ import annotations

import contextlib
import importlib.metadata
import json
import os
import socket
import subprocess
import sys
import time

import pytest
from tasks import by_value

import civis_futures
from civis_futures._types import LogLine
from civis_futures.cli import _image, main
from civis_futures.local import LocalPlatform

by_value(__name__)


def environment(platform, **more):
    return {"CIVIS_API_ENDPOINT": platform.url, "CIVIS_API_KEY": platform.api_key, **more}


@pytest.fixture
def cli(platform, monkeypatch, capsys):
    """cli(*arguments, columns=...): its exit code, and what it printed."""
    for name, value in environment(platform).items():
        monkeypatch.setenv(name, value)

    def run(*arguments, columns=120):
        monkeypatch.setenv("COLUMNS", str(columns))
        capsys.readouterr()
        try:
            code = main(list(map(str, arguments)))
        except SystemExit as end:  # argparse ends the process itself
            code = end.code
        out, err = capsys.readouterr()
        assert "Traceback" not in err
        return code, out, err

    return run


def talk(count):
    for number in range(count):
        print("word", number)
    print("oh", file=sys.stderr)
    time.sleep(60)


@pytest.fixture
def busy(make_executor, until):
    """A future whose call has printed three words and an oh, and runs."""
    executor = make_executor(1, name="busy pool")
    future = executor.submit(talk, 3)
    until(lambda: future.running() and len(future.logs()) >= 4)
    yield future
    future.cancel()


def test_ps_shows_what_runs(cli, busy):
    code, out, _ = cli("ps", "--json")
    assert code == 0
    (mine,) = [record for record in json.loads(out) if record["pool"] == "busy pool"]
    assert (mine["run_id"], mine["job_id"]) == (busy.run_id, busy.job_id)
    assert (mine["state"], mine["worker"], mine["url"]) == (
        "running",
        busy.worker,
        busy.job_url,
    )
    code, out, _ = cli("ps")
    head, *lines = out.splitlines()
    assert head.split() == ["RUN", "JOB", "STATE", "FOR", "SESSION", "WORKER", "POOL"]
    assert any(line.startswith(str(busy.run_id)) and "busy pool" in line for line in lines)


def test_ps_goes_by_session(cli, busy, make_executor, platform, until):
    names = ["by b", "by a"]
    pools = [make_executor(1, session=name, name="two, pools") for name in names]
    futures = [pool.submit(time.sleep, 60) for pool in pools]
    until(lambda: all(future.running() for future in futures))
    records = json.loads(cli("ps", "--json")[1])
    ours = [(each["session"], each["pool"]) for each in records if each["pool"] == "two, pools"]
    assert ours == [("by a", "two, pools"), ("by b", "two, pools")]
    sessions = [record["session"] for record in records]
    assert sessions == sorted(sessions, key=lambda name: name or "")
    assert sessions[0] is None
    for name, pool in zip(names, pools, strict=True):
        pool.terminate_workers()
        pool.shutdown()
        assert cli("purge", name)[0] == 0


@pytest.mark.parametrize("columns", [40, 20])
def test_ps_fits_a_narrow_terminal(cli, busy, columns):
    code, out, _ = cli("ps", columns=columns)
    assert code == 0
    assert str(busy.run_id) in out
    assert all(len(line) <= columns for line in out.splitlines()), out


def test_ps_all_shows_what_has_ended_newest_first(cli, make_executor):
    with make_executor(1, name="over pool", max_tasks_per_worker=1) as executor:
        for number in range(2):
            executor.submit(abs, number)
    code, out, _ = cli("ps", "--json")
    assert "over pool" not in out
    code, out, _ = cli("ps", "--all", "--json")
    mine = [record for record in json.loads(out) if record["pool"] == "over pool"]
    assert code == 0
    assert [record["state"] for record in mine] == ["succeeded"] * 2
    assert mine[0]["run_id"] > mine[1]["run_id"]
    assert cli("logs", mine[0]["job_id"])[0] == 0  # archived, and still found


def test_scripts_of_others_are_none_of_ours(platform, cli, until):
    from contextlib import closing

    from civis_futures._api.client import PlatformClient
    from civis_futures._types import JobKind

    with closing(PlatformClient(platform.url, platform.api_key)) as client:
        body = {
            "name": "somebody, worker 1 [else]",
            "docker_command": "sleep 60",
            "hidden": True,
            "required_resources": {"cpu": 100, "memory": 100},
        }
        job = client.create_script(JobKind.CONTAINER, body)
        run = client.start_run(job)
        try:
            assert "somebody" not in cli("ps", "--all")[1]
            for wanted in (job.id, f"run:{run.id}"):
                assert cli("cancel", wanted)[0] == 2
            assert cli("cancel", "--all")[0] == 0
            assert not client.get_run(job, run.id).state.over
        finally:
            client.cancel_run(job, run.id)
            until(lambda: client.get_run(job, run.id).state.over)
            client.archive(job)


@pytest.mark.parametrize("way", ["run", "job", "run:", "job:"])
def test_logs(cli, busy, way):
    number = busy.run_id if way.startswith("run") else busy.job_id
    which = f"{way}{number}" if way.endswith(":") else number
    code, out, err = cli("logs", which)
    assert (code, err) == (0, "")
    assert [line for line in out.splitlines() if line.startswith("word")] == [
        "word 0", "word 1", "word 2",
    ]  # fmt: skip
    assert cli("logs", which, "--tail", 1)[1].count("\n") == 1
    lines = [json.loads(line) for line in cli("logs", which, "--json")[1].splitlines()]
    assert {"oh": "error", "word 0": "info"}.items() <= {
        line["message"]: line["level"] for line in lines
    }.items()
    begins = "civis_futures: task 0 begins (attempt 1)"
    assert cli("logs", which)[1].count(begins) == 1
    assert cli("logs", which, "--container")[1].count(begins) == 2  # on both of its streams


def test_logs_follow_until_the_run_is_over(platform, busy):
    command = [sys.executable, "-m", "civis_futures.cli", "logs", "--follow", str(busy.run_id)]
    with subprocess.Popen(
        command,
        env={**os.environ, **environment(platform)},
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        found = [process.stdout.readline() for _ in range(3)]
        assert sum(line.startswith("word") for line in found) >= 2
        busy.cancel()
        process.stdout.read()
    assert process.returncode == 0


def test_a_pipe_that_is_closed_is_no_traceback(platform, busy):
    command = f"{sys.executable} -m civis_futures.cli logs --follow {busy.run_id} | head -n 1"
    busy._pool.cancel(busy._number)  # its run ends, and so does its log
    done = subprocess.run(
        ["sh", "-c", command],
        env={**os.environ, **environment(platform)},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.stdout.count("\n") == 1
    assert "Traceback" not in done.stderr
    assert "Exception" not in done.stderr


def test_what_another_program_reads_is_not_cut(platform, make_executor):
    name = "a pool with a name that no terminal has room for " + 3 * "word " + "end"
    future = make_executor(1, name=name).submit(time.sleep, 60)
    env = {key: value for key, value in os.environ.items() if key != "COLUMNS"}
    command = [sys.executable, "-m", "civis_futures", "ps"]
    while not future.running():
        time.sleep(0.01)
    done = subprocess.run(
        command,
        env={**env, **environment(platform)},
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    future.cancel()
    assert name in done.stdout


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="no /dev/full here")
def test_a_full_disk_is_no_traceback(platform):
    with open("/dev/full", "w") as full:
        done = subprocess.run(
            [sys.executable, "-m", "civis_futures", "ps", "--json"],
            env={**os.environ, **environment(platform)},
            stdout=full,
            stderr=subprocess.PIPE,
            text=True,
            timeout=60,
        )
    assert done.returncode == 2
    assert done.stderr == "civis-futures: the output cannot be written: No space left on device\n"


def test_the_version(cli):
    code, out, _ = cli("--version")
    assert (code, out) == (0, f"civis-futures {civis_futures.__version__}\n")


def test_cancel_on_trial(cli, busy):
    said = f"run {busy.run_id} of busy pool: would be asked to stop\n"
    for which in (busy.run_id, "--all"):
        code, out, _ = cli("cancel", which, "--dry-run")
        assert code == 0
        assert said in out
    records = json.loads(cli("cancel", busy.run_id, "--dry-run", "--json")[1])
    assert [record["cancelled"] for record in records] == [False]
    assert busy.running()
    assert str(busy.run_id) in cli("ps")[1]


def test_cancel_one(cli, busy, until):
    code, out, _ = cli("cancel", busy.run_id)
    assert (code, out) == (0, f"run {busy.run_id} of busy pool: asked to stop\n")
    assert "cancelled" in str(busy.exception(30))
    until(lambda: str(busy.run_id) not in cli("ps")[1])
    code, out, _ = cli("cancel", busy.run_id)
    assert code == 1
    assert "is over: cancelled" in out


def test_cancel_json_and_nothing_to_cancel(make_executor, cli, until):
    with LocalPlatform() as empty:
        for name, value in environment(empty).items():
            os.environ[name] = value  # the fixture cli restores it
        assert cli("cancel", "--all")[:2] == (0, "No run is active.\n")
        assert cli("cancel", "--all", "--json")[:2] == (0, "[]\n")
        assert cli("ps")[:2] == (0, "No run is active.\n")
        assert cli("ps", "--all", "--json")[:2] == (0, "[]\n")
        with make_executor(2, platform=empty, name="two") as executor:
            futures = [executor.submit(time.sleep, 60) for _ in range(2)]
            until(lambda: all(future.running() for future in futures))
            code, out, _ = cli("cancel", "--all", "--json")
            assert code == 0
            assert sorted(record["run_id"] for record in json.loads(out)) == sorted(
                future.run_id for future in futures
            )
            assert all(future.exception(30) for future in futures)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["logs", "999999999"], "there is no run or job 999999999"),
        (["logs", "run:999999999"], "there is no run or job 999999999"),
        (["logs", "abc"], "'abc' is no run or job"),
        (["logs", "pod:7"], "'pod:7' is no run or job"),
        (["logs", "٣"], "is no run or job"),
        (["logs", "1", "--tail", "-1"], "--tail must be 0 or more"),
        (["cancel"], "say which runs to cancel"),
        (["cancel", "--all", "1"], "say which runs to cancel"),
        (["cancel", "999999999"], "there is no run or job"),
        (["check-image", "a b"], "is no image"),
        (["check-image", ":x"], "is no image"),
        (["check-image", "https://a.example/b"], "is no image"),
        (["check-image", "Python:3"], "say NAME or NAME:TAG, in lower case"),
        (["check-platform", "--image", "Python:3"], "say NAME or NAME:TAG, in lower case"),
        (["check-image", "x", "--timeout", "nan"], "--timeout must be a number of seconds"),
        (["ps", "--", "x"], "takes nothing after --"),
        (["ps", "extra"], "unrecognized arguments"),
        ([], "COMMAND"),
    ],
)
def test_mistakes(cli, arguments, said):
    code, out, err = cli(*arguments)
    assert (code, out) == (2, "")
    assert said in err


@pytest.mark.parametrize(
    ("changes", "code", "said"),
    [
        ({"CIVIS_API_KEY": ""}, 2, "there is no API key: set CIVIS_API_KEY\n"),
        ({"CIVIS_API_KEY": "wrong"}, 2, "refuses the key in CIVIS_API_KEY"),
        ({"CIVIS_API_KEY": "wr öng"}, 2, "no API key has"),
        ({"CIVIS_API_ENDPOINT": "http://127.0.0.1:9/"}, 2, "there is no platform at"),
        ({"CIVIS_API_ENDPOINT": "ftp://x/"}, 2, "must begin with http"),
    ],
)
def test_wrong_keys_and_addresses_are_one_line(cli, monkeypatch, paced, changes, code, said):
    paced(command=0.5)
    for name, value in changes.items():
        monkeypatch.setenv(name, value)
    for command in (["ps"], ["check-image", "x"]):
        found, out, err = cli(*command)
        assert (found, out) == (code, "")
        assert err.count("\n") == 1
        assert said in err


def test_what_is_no_platform_is_told_as_such(cli, monkeypatch, httpx_mock):
    monkeypatch.setenv("CIVIS_API_ENDPOINT", "http://elsewhere.test/base")
    httpx_mock.add_response(status_code=404, is_reusable=True)
    for command in ("ps", "sessions", "check-image x"):
        code, out, err = cli(*command.split())
        assert (code, out) == (2, "")
        assert "there is no platform at http://elsewhere.test/base/: GET" in err


def test_a_holder_is_told_whole_in_a_narrow_terminal(cli, make_executor):
    with make_executor(1, session="narrow"):
        out = cli("sessions", columns=40)[1]
        assert all(len(line) <= 40 for line in out.splitlines())
        holder = f"process {os.getpid()} (this process) on {socket.gethostname()}, since 20"
        assert holder.replace(" ", "") in "".join(out.split())
    assert cli("purge", "narrow")[0] == 0


def test_trouble_of_the_platform_is_not_the_users(cli, monkeypatch, paced, httpx_mock):
    paced(command=0.0)
    monkeypatch.setenv("CIVIS_API_ENDPOINT", "http://trouble.test/")
    httpx_mock.add_response(status_code=503, is_reusable=True)
    code, out, err = cli("ps")
    assert (code, out, err.count("\n")) == (69, "", 1)
    assert "the platform has trouble" in err


# --- images --------------------------------------------------------------------------------------


def test_an_image_like_here_fits(cli):
    code, out, err = cli("check-image", "some/image:1.0")
    assert (code, err) == (0, "")
    assert out.startswith("some/image:1.0 fits.")
    code, out, _ = cli("check-image", "some/image", "--json")
    record = json.loads(out)
    assert record["image"] == "some/image:latest"
    assert record["fit"] is True
    assert record["packages"] == []
    assert record["python"]["here"] == record["python"]["there"]
    assert "check-image" not in cli("ps", "--all")[1]


def test_an_image_that_differs(cli, monkeypatch):
    real = _image.contents_here()
    here = _image.Contents((3, 2, 1), {**real.packages, "httpx": "0.0.1", "only-here": "1"})
    monkeypatch.setattr(_image, "contents_here", lambda: here)
    code, out, _ = cli("check-image", "x", columns=40)
    assert code == 1
    assert "does not fit" in out
    assert "(3.2: no official image is known to have it" in out
    assert all(len(line) <= 40 for line in out.splitlines()[1:])
    code, out, _ = cli("check-image", "x", "--json")
    record = json.loads(out)
    assert (code, record["fit"]) == (1, False)
    there = importlib.metadata.version("httpx")
    assert record["packages"] == [{"name": "httpx", "here": "0.0.1", "there": there}]


@pytest.fixture
def odd_image(tmp_path, monkeypatch, cli):
    """odd_image(source): from now on the platform's Python runs this before anything else."""
    with contextlib.ExitStack() as stack:

        def begin(source):
            (tmp_path / "sitecustomize.py").write_text(source)
            odd = LocalPlatform(environment={"PYTHONPATH": str(tmp_path)})
            for name, value in environment(stack.enter_context(odd)).items():
                monkeypatch.setenv(name, value)
            return odd

        yield begin


def test_an_image_without_python(cli, odd_image):
    odd_image("import os; os.write(2, b'no such thing\\n'); os._exit(127)")
    code, out, err = cli("check-image", "x")
    assert (code, out) == (1, "")
    assert "told nothing" in err
    assert "no such thing" in err


def test_an_image_that_takes_too_long_is_stopped(cli, odd_image, until):
    platform = odd_image("import time; time.sleep(60)")
    code, out, err = cli("check-image", "x", "--timeout", "0.3")
    assert (code, out) == (69, "")
    assert "after 0.3 seconds" in err
    until(lambda: not platform.stats().active)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("a", ("a", "latest")),
        ("a/b:c", ("a/b", "c")),
        ("host:5000/a", ("host:5000/a", "latest")),
        ("host:5000/a:1.2", ("host:5000/a", "1.2")),
    ],
)
def test_images_are_split(text, expected):
    assert _image.split_image(text) == expected


def test_contents_come_in_any_order_among_other_lines():
    text = '{"python":[3,11,2],"packages":[["A_b.c","1"],["a-b-c","2"],[null,"3"]]}'
    lines = [f"civis_futures: image {n} {text[n * 9 : n * 9 + 9]}" for n in range(9)]
    mixed = [LogLine(n, "", "info", line) for n, line in enumerate([*lines[::-1], "hello"])]
    assert _image.contents_of(mixed) == _image.Contents((3, 11, 2), {"a-b-c": "1"})
    assert _image.contents_of(mixed[2:]) is None
    assert _image.contents_of([]) is None
