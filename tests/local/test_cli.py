"""The command line, as a user has it: by its process, output and exit code."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from signal import SIGHUP, SIGINT, SIGTERM

import pytest

COMMAND = [sys.executable, "-m", "civis_futures.cli", "local"]
SHOW = "import os; print(os.environ['CIVIS_API_ENDPOINT'], os.environ['CIVIS_API_KEY'], flush=True)"


def cli(*arguments, **options):
    return subprocess.run(
        [*COMMAND, *arguments], capture_output=True, text=True, timeout=30, **options
    )


@pytest.fixture
def start():
    started = []

    def begin(*arguments):
        process = subprocess.Popen(
            [*COMMAND, *arguments],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        started.append(process)
        return process

    yield begin
    for process in started:
        if process.poll() is None:
            process.kill()
        process.wait()
        process.stdout.close()


def told(process):
    """Read what a foreground platform says, up to its last line."""
    text = ""
    while "Ctrl-C" not in text:
        line = process.stdout.readline()
        assert line, text
        text += line
    url = re.search(r"^export CIVIS_API_ENDPOINT=(\S+)$", text, re.M)[1]
    key = re.search(r"^export CIVIS_API_KEY=(\S+)$", text, re.M)[1]
    return url, key


@pytest.mark.parametrize("number", [SIGINT, SIGTERM, SIGHUP])
def test_in_the_foreground_until_a_signal(start, tools, number):
    process = start("--cores", "3", "--start-delay", "0.01", "--rate-limit", "civis")
    url, key = told(process)
    api = tools.Api(url, key)
    assert api("GET", "/users/me").headers["x-ratelimit-limit"] == "1000"
    process.send_signal(number)
    assert process.wait(60) == 0
    assert process.stdout.read() == ""
    with pytest.raises(ConnectionRefusedError):
        api("GET", "/users/me")


def test_a_state_folder_keeps_the_key(start, tmp_path):
    keys = []
    for _ in range(2):
        process = start("--state", str(tmp_path / "state"))
        keys.append(told(process)[1])
        process.terminate()
        process.wait(60)
    assert keys[0] == keys[1]


def test_a_server_that_ends_by_itself(start, tools):
    process = start()
    told(process)
    with open(f"/proc/{process.pid}/task/{process.pid}/children") as stream:
        server = int(stream.read().split()[0])
    os.kill(server, signal.SIGKILL)
    assert process.wait(60) == 70
    assert "ended by itself" in process.stdout.read()


def test_a_command_against_a_fresh_platform(tools):
    done = cli("--", sys.executable, "-c", SHOW + "; raise SystemExit(7)")
    assert done.returncode == 7, done.stderr
    url, key = done.stdout.split()
    with pytest.raises(ConnectionRefusedError):  # it ended with the command
        tools.Api(url, key)("GET", "/users/me")


def test_options_of_the_command_are_the_commands():
    done = cli("--", sys.executable, "-c", "import sys; print(sys.argv)", "--port", "--", "-h")
    assert done.stdout == "['-c', '--port', '--', '-h']\n"


def test_signals_and_deaths_pass_through(start):
    code = (
        "import signal, time, sys\n"
        "signal.signal(signal.SIGTERM, lambda *_: sys.exit(9))\n"
        "print('ready', flush=True)\n"
        "time.sleep(3600)"
    )
    process = start("--", sys.executable, "-c", code)
    assert process.stdout.readline() == "ready\n"
    process.terminate()
    assert process.wait(60) == 9
    died = cli("--", sys.executable, "-c", "import os; os.kill(os.getpid(), 9)")
    assert died.returncode == 137


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (["--", "no-such-command"], 127, "no-such-command: command not found"),
        (["--", "/etc/passwd"], 126, "Permission denied"),
        (["--"], 2, "no command after --"),
        (["--cores", "0"], 2, "cores must be positive"),
        (["--port", "99999"], 2, "port must be between"),
        (["--port", "x"], 2, "invalid int value"),
        (["--start-delay", "-1"], 2, "start_delay must not be negative"),
        (["--state", "/dev/null"], 2, "cannot use /dev/null"),
        (["--rate-limit", "x"], 2, "invalid choice"),
        (["--nonsense"], 2, "unrecognized arguments"),
    ],
)
def test_mistakes_are_one_line_and_an_exit_code(capsys, arguments, code, said):
    from civis_futures.cli import main

    before = {number: signal.getsignal(number) for number in (SIGINT, SIGTERM, SIGHUP)}
    try:
        found = main(["local", *arguments])
    except SystemExit as end:  # argparse ends the process itself
        found = end.code
    finally:  # a command has the process for itself, and here it has not
        for number, handler in before.items():
            signal.signal(number, handler)
    assert found == code
    out, err = capsys.readouterr()
    assert said in err
    assert (out, "Traceback" in err) == ("", False)


def test_a_taken_port_is_a_mistake(start):
    port = told(start())[0].rpartition(":")[2]
    done = cli("--port", port)
    assert done.returncode == 2
    assert f"cannot listen on port {port}" in done.stderr


def test_without_the_extra_it_says_what_to_install(tmp_path):
    (tmp_path / "sitecustomize.py").write_text(
        "import importlib.util as u; real = u.find_spec\n"
        "u.find_spec = lambda n, *a: None if n == 'uvicorn' else real(n, *a)\n"
    )
    done = cli(env={**os.environ, "PYTHONPATH": str(tmp_path)})
    assert done.returncode == 2
    assert 'pip install "civis-futures[local]"' in done.stderr


def test_help_names_the_command():
    command = [sys.executable, "-m", "civis_futures.cli", "--help"]
    assert "local" in subprocess.run(command, capture_output=True, text=True, check=True).stdout
    assert subprocess.run(command[:-1], capture_output=True).returncode == 2


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--engine", "podmn"], "did you mean 'podman'"),
        (["--engine", "podman", "--engine-option", "netwrk=host"], "did you mean 'network'"),
        (["--engine", "podman", "--engine-option", "command=nowhere"], "no command nowhere"),
    ],
)
def test_an_engine_that_is_not_there(arguments, message):
    done = cli(*arguments)
    assert done.returncode == 2
    assert message in done.stderr


def test_what_other_machines_need_is_printed(start):
    """Three lines to paste there, of which one is a certificate; or two, and what they risk."""
    process = start("--advertise", "127.0.0.2")
    text = ""
    while "Ctrl-C" not in text:
        text += process.stdout.readline()
    assert "the same three variables" in text
    exports = "".join(re.findall(r"^export \w+=(?:'[^']*'|\S+)$", text, re.M | re.S)).replace(
        "export", "\nexport"
    )
    look = (
        "import os; from contextlib import closing; "
        "from civis_futures._api.client import PlatformClient, access\n"
        "with closing(PlatformClient(*access())) as client: print(client.url, client.me())"
    )
    script = f"{exports}\nexec {sys.executable} -c '{look}'"
    done = subprocess.run(["sh", "-c", script], capture_output=True, text=True, timeout=60)
    assert re.fullmatch(r"https://127\.0\.0\.2:\d+/ 77\n", done.stdout), done

    process = start("--advertise", "127.0.0.2", "--plain-http")
    url, _ = told(process)
    assert url.startswith("http://127.0.0.2:")


def test_a_command_over_tls():
    """It is told the certificate; without TLS, it is told none, not even somebody else's."""
    show = "import os; print(os.environ.get('CIVIS_FUTURES_CA_CERTS', '')[:27])"
    command = ("--", sys.executable, "-c", show)
    environment = {**os.environ, "CIVIS_FUTURES_CA_CERTS": "of another platform"}
    done = cli("--advertise", "127.0.0.2", *command, env=environment)
    assert (done.returncode, done.stdout) == (0, "-----BEGIN CERTIFICATE-----\n")
    done = cli(*command, env=environment)
    assert (done.returncode, done.stdout) == (0, "\n")


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--plain-http"], "for a platform that you advertise"),
        (["--advertise", "127.0.0.2", "--certificate", "a.pem"], "go together"),
        (["--advertise", "127.0.0.2:80"], "without scheme, port or path"),
        (["--advertise", "192.0.2.77"], "this machine does not have this address"),
        (["--advertise", "0.0.0.0", "--plain-http"], "nobody asks for 0.0.0.0"),
        (
            ["--advertise", "127.0.0.2", "--certificate", "no.pem", "--private-key", "no.pem"],
            "cannot read the certificate or its key",
        ),
    ],
)
def test_mistakes_of_those_who_advertise(arguments, said):
    done = cli(*arguments)
    assert done.returncode == 2
    assert said in done.stderr
    assert "Traceback" not in done.stderr
