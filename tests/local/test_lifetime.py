"""Starts and ends: nothing is left, whoever dies first; and what a state folder keeps."""

from __future__ import annotations

import contextlib
import gc
import glob
import json
import os
import signal
import stat
import subprocess
import sys
import tempfile
import threading
import time
import warnings
from pathlib import Path

import pytest
from cases import mostly_repeats

from civis_futures.local import LocalPlatform, _owner


def server_of(platform):
    return platform._process.pid


def kids(pid):
    """The processes below one, as the kernel lists them."""
    found = []
    for path in glob.glob(f"/proc/{pid}/task/*/children"):
        try:
            found += [int(kid) for kid in Path(path).read_text().split()]
        except OSError:
            continue
    return found + [grandkid for kid in found for grandkid in kids(kid)]


@pytest.fixture
def temporary(tmp_path, monkeypatch):
    """Where platforms keep their temporary state: a folder that can be looked into."""
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    tempfile.tempdir = None
    yield tmp_path
    tempfile.tempdir = None


def test_start_and_stop_are_quick_and_idempotent(temporary, tools):
    platform = LocalPlatform()
    assert repr(platform) == "<LocalPlatform not running>"
    for name in ("url", "api_key"):
        with pytest.raises(RuntimeError, match="not running"):
            getattr(platform, name)
    platform.stop()
    begin = time.monotonic()
    subprocess.run([sys.executable, "-c", "import civis_futures.local._server"], check=True)
    imported = time.monotonic()
    assert platform.start() is platform
    started = time.monotonic() - imported
    assert started < 8 * (imported - begin)  # most of it are the same imports
    server, url, key = server_of(platform), platform.url, platform.api_key
    assert platform.start().url == url
    assert platform.url in repr(platform)
    assert list(temporary.glob("civis-local-*"))
    family = [server, *kids(server)]
    begin = time.monotonic()
    platform.stop()
    platform.stop()
    assert time.monotonic() - begin < 4 * started
    assert not platform.running
    assert not any(map(tools.alive, family))
    assert list(temporary.glob("civis-local-*")) == []
    with platform:  # once more, with another key
        assert platform.running
        assert platform.api_key != key


def test_stop_ends_active_runs(make, tools):
    platform = make()
    api = tools.Api(platform.url, platform.api_key)
    job, run = api.run("trap '' TERM; echo $$; setsid sleep 300 & wait")
    api.says(job, run, "")
    tools.until(lambda: len(platform.stats().active.get(run, ())) > 1)
    pids = platform.stats().active[run]
    platform.stop()
    assert not any(map(tools.alive, pids))


def test_a_forgotten_platform_ends(tools):
    platform = LocalPlatform().start()
    server = server_of(platform)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        del platform
        gc.collect()
    assert not tools.alive(server)


def test_start_from_many_threads_gives_one_server(make):
    platform = LocalPlatform()
    try:
        urls = set()
        threads = [threading.Thread(target=lambda: urls.add(platform.start().url)) for _ in "abcd"]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert len(urls) == 1
    finally:
        platform.stop()


OWNER = """
import os, sys, time
from civis_futures.local import LocalPlatform
platform = LocalPlatform().start()
{more}
print(platform._process.pid, platform.url, platform.api_key, flush=True)
time.sleep(60)
"""


def start_owner(more=""):
    owner = subprocess.Popen(
        [sys.executable, "-c", OWNER.format(more=more)], stdout=subprocess.PIPE, text=True
    )
    with owner.stdout:
        server, url, key = owner.stdout.readline().split()
    return owner, int(server), url, key


@pytest.mark.parametrize(
    "more",
    [
        "",
        # Whom the owner forked holds the pipe to the server too.
        "if os.fork() == 0: time.sleep(3); os._exit(0)",
    ],
    ids=["alone", "with a fork"],
)
@pytest.mark.parametrize("number", mostly_repeats([signal.SIGKILL, signal.SIGTERM], signal.SIGKILL))
def test_a_dead_owner_leaves_nothing(temporary, tools, more, number):
    owner, server, url, key = start_owner(more)
    api = tools.Api(url, key)
    job, run = api.run("trap '' TERM; echo on; sleep 300 & wait; wait")
    api.says(job, run, "on")
    family = [server, *kids(server)]
    assert len(family) >= 3  # the server, its guard, the run
    owner.send_signal(number)
    assert owner.wait() == -number
    tools.until(lambda: not any(map(tools.alive, family)), seconds=10)
    tools.until(lambda: not list(temporary.glob("civis-local-*")))


def test_an_owner_that_just_exits_leaves_nothing(tools):
    code = OWNER.format(more="").replace("time.sleep(60)", "raise SystemExit(3)")
    done = subprocess.run([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
    assert done.returncode == 3
    assert not tools.alive(int(done.stdout.split()[0]))


def test_a_killed_server_leaves_no_run(temporary, make, tools):
    platform = make()
    api = tools.Api(platform.url, platform.api_key)
    # One in the run's group, one that left for a session of its own.
    job, run = api.run("sleep 300 & echo $!; setsid sleep 300 & echo $!; wait")
    tools.until(lambda: len(api.logs(job, run)) == 2)
    pids = [int(line) for line in api.logs(job, run)]
    family = [*kids(server_of(platform)), *pids]
    os.kill(server_of(platform), signal.SIGKILL)
    tools.until(lambda: not any(map(tools.alive, family)), seconds=10)
    tools.until(lambda: not list(temporary.glob("civis-local-*")))
    tools.until(lambda: not platform.running)
    # The owner may start it again.
    platform.start()
    tools.Api(platform.url, platform.api_key).ok("GET", "/users/me")


def test_a_dead_guard_is_replaced(make, tools):
    platform = make()
    api = tools.Api(platform.url, platform.api_key)
    server = server_of(platform)
    job, run = api.run("echo on; exec sleep 300")
    api.says(job, run, "on")
    guard = next(pid for pid in kids(server) if b"_places/guard" in cmdline(pid))
    os.kill(guard, signal.SIGKILL)
    tools.until(lambda: [p for p in kids(server) if b"_places/guard" in cmdline(p) and p != guard])
    sleeper = platform.stats().active[run][0]
    os.kill(server, signal.SIGKILL)
    tools.until(lambda: not tools.alive(sleeper), seconds=10)


def cmdline(pid):
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return b""


def test_the_key_is_on_no_command_line(make):
    platform = make()
    for pid in (server_of(platform), *kids(server_of(platform))):
        assert platform.api_key.encode() not in cmdline(pid)
        assert platform.api_key.encode() not in Path(f"/proc/{pid}/environ").read_bytes()


def test_a_signal_to_the_server_is_a_clean_end(temporary, make, tools):
    platform = make()
    os.kill(server_of(platform), signal.SIGTERM)
    platform._process.wait(60)
    assert platform._process.returncode == 0
    assert list(temporary.glob("civis-local-*")) == []


# --- a state folder


def test_state_survives_a_restart(make, tools, tmp_path):
    state = tmp_path / "state"
    first = make(state=state, cores=1)
    api = tools.Api(first.url, first.api_key)
    made = api.ok("POST", "/files/multipart", {"name": "x", "numParts": 1})
    tools.call(made["uploadUrls"][0], "PUT", b"bytes")
    api.ok("POST", f"/files/multipart/{made['id']}/complete")
    done_job, done_run = api.run("echo kept")
    api.wait(done_job, done_run)
    wide = {"cpu": 1024, "memory": 64}
    running = api.run("echo on; sleep 300", requiredResources=wide)
    queued = api.run("sleep 300", requiredResources=wide)
    api.says(*running, "on")
    key = first.api_key
    first.stop()
    assert list((state / "work").iterdir()) == []
    second = make(state=state)
    assert second.api_key == key
    api = tools.Api(second.url, key)
    assert api.logs(done_job, done_run) == ["kept"]
    assert tools.call(api.ok("GET", f"/files/{made['id']}")["fileUrl"]).data == b"bytes"
    for pair, was in ((running, "running"), (queued, "queued")):
        look = api.look(*pair)
        assert (look["state"], look["error"]) == ("failed", None)
        assert f"stopped while this run was {was}" in api.logs(*pair)[-2]
        assert api.logs(*pair)[-1] == "Failed"
    assert api.create() > done_job
    assert api.ok("POST", f"/jobs/{running[0]}/runs")["id"] > queued[1]


def test_state_survives_a_kill(make, tools, tmp_path):
    platform = make(state=tmp_path / "state")
    api = tools.Api(platform.url, platform.api_key)
    job, run = api.run("echo on; sleep 300")
    api.says(job, run, "on")
    sleepers = platform.stats().active[run]
    os.kill(server_of(platform), signal.SIGKILL)
    tools.until(lambda: not any(map(tools.alive, sleepers)) and not platform.running)
    platform.start()
    api = tools.Api(platform.url, platform.api_key)
    assert api.look(job, run)["state"] == "failed"
    assert "stopped while this run was running" in api.logs(job, run)[-2]


@pytest.fixture
def open_handed():
    """This process lets all others read and write what it makes."""
    before = os.umask(0)
    yield
    os.umask(before)


@pytest.mark.parametrize("mode", [None, 0o700, 0o755], ids=["none", "700", "755"])
def test_state_is_private(make, tools, tmp_path, open_handed, mode):
    """Whatever the folder was, and whatever this process allows for what it makes."""
    state = tmp_path / "state"
    if mode is not None:
        state.mkdir(mode)
        (state / "platform.sqlite").touch(0o666)
        (state / "blobs").mkdir(0o777)
    platform = make(state=state, log=tmp_path / "log", record=tmp_path / "record")
    api = tools.Api(platform.url, platform.api_key)
    api.wait(*api.run(f"umask > {tmp_path}/umask; touch {tmp_path}/file"))
    assert (tmp_path / "umask").read_text().strip() == "0000"  # runs have the user's
    not_ours = ("umask", "file", "state")
    made = {}
    for folder, folders, files in os.walk(tmp_path):
        for name in {*folders, *files} - {*not_ours}:
            with contextlib.suppress(FileNotFoundError):  # the run's own folder is being removed
                made[name] = os.lstat(os.path.join(folder, name)).st_mode
    assert {"key", "lock", "blobs", "work", "log", "record", "platform.sqlite-wal"} <= made.keys()
    for name, found in made.items():
        assert stat.S_ISLNK(found) or stat.S_IMODE(found) & 0o077 == 0, name


@pytest.mark.parametrize("mode", [0o770, 0o707, 0o777, 0o722], ids=oct)
def test_a_state_folder_that_others_can_write_is_refused(tmp_path, open_handed, mode):
    state = tmp_path / "my state"
    state.mkdir(mode)
    with pytest.raises(RuntimeError, match=r"others can write there.*chmod go-w '.*my state'"):
        LocalPlatform(state=state).start()
    assert list(state.iterdir()) == []


def test_one_server_per_state_folder(make, tmp_path):
    make(state=tmp_path)
    with pytest.raises(RuntimeError, match="another local platform is using"):
        LocalPlatform(state=tmp_path).start()


def test_a_port_that_is_taken_and_one_that_is_not(make):
    taken = int(make().url.rpartition(":")[2])
    with pytest.raises(RuntimeError, match=f"cannot listen on port {taken}"):
        LocalPlatform(port=taken).start()
    other = make()
    port = int(other.url.rpartition(":")[2])
    other.stop()
    assert make(port=port).url.endswith(f":{port}")


def test_folders_and_files_that_cannot_be(tmp_path):
    blocked = tmp_path / "file"
    blocked.write_text("")
    for settings in ({"state": blocked}, {"record": blocked / "x"}, {"log": blocked / "x"}):
        with pytest.raises(RuntimeError, match="the local platform"):
            LocalPlatform(**settings).start()


def test_a_server_that_breaks_shows_why(monkeypatch, tmp_path):
    # A module of its own name in the way of the server's.
    (tmp_path / "uvicorn.py").write_text("raise ZeroDivisionError('on purpose')")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    with pytest.raises(RuntimeError, match="ZeroDivisionError: on purpose"):
        LocalPlatform().start()


def test_a_missing_extra_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "uvicorn", None)  # as if it were not installed
    with pytest.raises(ImportError, match=r"needs uvicorn: .*civis-futures\[local\]"):
        LocalPlatform().start()


def test_the_log_is_where_it_was_asked_for(make, tmp_path):
    log = tmp_path / "server.log"
    make(log=log).stop()
    assert log.exists()


def test_a_fork_of_the_owner_does_not_end_the_platform(make, tools):
    platform = make()
    # What a fork does at its exit, without the fork: it is not the owner.
    from civis_futures.local import _owner

    _owner._end(platform._process, os.getpid() + 1)
    assert platform.running
    tools.Api(platform.url, platform.api_key).ok("GET", "/users/me")


def test_the_package_imports_nothing_else_of_ours():
    code = (
        "import sys; sys.modules['civis_futures'] = type(sys)('civis_futures');"
        "import importlib.machinery as m, os;"
        "sys.modules['civis_futures'].__path__ = [sys.argv[1]];"
        "import civis_futures.local, civis_futures.local._server, civis_futures.local._api.app;"
        "import json; print(json.dumps(sorted(n for n in sys.modules if 'civis' in n)))"
    )
    folder = Path(__file__).parents[2] / "civis_futures"
    out = subprocess.run(
        [sys.executable, "-c", code, str(folder)], capture_output=True, text=True, check=True
    ).stdout
    names = json.loads(out)
    assert all(n == "civis_futures" or n.startswith("civis_futures.local") for n in names), names


def test_the_server_imports_no_client():
    """Which would take as long as all that the server needs; by its own list of imports."""
    main = Path(__file__).parents[2] / "civis_futures" / "local" / "__main__.py"
    command = [sys.executable, "-P", "-X", "importtime", str(main)]
    done = subprocess.run(command, input="", capture_output=True, text=True, check=True)
    names = [line.rpartition("|")[2].strip() for line in done.stderr.splitlines()]
    ours = [name for name in names if name.startswith("civis")]
    assert "civis_futures.local._server" in ours
    assert all(name.startswith("civis_futures.local.") for name in ours), ours


def test_a_start_that_takes_too_long_is_said_to_have(temporary):
    with pytest.raises(RuntimeError, match=r"it had not answered within 0\.01 s"):
        _owner._launch(LocalPlatform()._settings, "the key", None, seconds=0.01)
