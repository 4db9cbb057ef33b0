"""What only containers have: an image, a network, a user, a repository; and what stays hidden."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess

import psutil
import pytest
from raw import Api, until
from tasks import SECONDS, identity

import civis_futures as cf
from civis_futures.local import Docker, LocalPlatform, Podman

#: How docker is called in these tests: podman understands the same commands.
AS_DOCKER = "podman --runtime runc"


@pytest.fixture
def started(podman):
    """started(engine, **settings): a platform on it, and requests; both end with the test."""
    made = []

    def start(engine, **settings):
        platform = LocalPlatform(engine=engine, **settings).start()
        made.append(platform)

        class OwnApi(Api):
            def create(self, command="true", **fields):
                return super().create(command, **(podman.fields() | fields))

        return platform, OwnApi(platform.url, platform.api_key)

    yield start
    for platform in made:
        platform.stop()
    until(lambda: not podman.left())


@pytest.fixture(scope="module")
def own(podman):
    with LocalPlatform(engine="podman") as platform:
        yield platform
    until(lambda: not podman.left())


@pytest.fixture
def api(podman, own):
    class OwnApi(Api):
        def create(self, command="true", **fields):
            return super().create(command, **(podman.fields() | fields))

    return OwnApi(own.url, own.api_key)


# --- image -------------------------------------------------------------------------------------


def test_an_image_that_is_not_there(own, podman):
    container = cf.Container(
        docker_image_name="registry.invalid/nothing", docker_image_tag="there",
        required_resources={"cpu": 64, "memory": 100},
    )  # fmt: skip
    with cf.ContainerPoolExecutor(1, platform=own, container=container) as executor:
        error = executor.submit(identity, 1).exception(SECONDS)
    assert isinstance(error, cf.BrokenContainerPool)
    assert "its container, of registry.invalid/nothing:there, did not start" in str(error)
    assert "initializing source docker://registry.invalid/nothing:there" in str(error), "its words"


def test_no_image_and_no_command(api):
    job, run = api.run(dockerImageName=None)
    assert api.wait(job, run)["state"] == "failed"
    assert "the script has no dockerImageName" in api.logs(job, run)[0]
    job, run = api.run(None)  # the image's own, which ends at once
    assert api.wait(job, run, seconds=SECONDS)["state"] == "succeeded"


# --- what it sees ------------------------------------------------------------------------------

INTERFACES = "exec python3 -c 'import socket; print([name for _, name in socket.if_nameindex()])'"


def test_there_is_no_network_but_the_platform(api):
    job, run = api.run(INTERFACES)
    assert api.wait(job, run, seconds=SECONDS)["state"] == "succeeded"
    assert api.logs(job, run) == ["['lo']"]


def test_the_network_of_this_machine_a_user_and_other_options(started):
    engine = Podman(network="host", user="1234:5678", extra=("--env=NORTH=7",))
    _, api = started(engine)
    job, run = api.run(f"echo $(id -u) $(id -g) $NORTH; {INTERFACES}")
    assert api.wait(job, run, seconds=SECONDS)["state"] == "succeeded"
    first, second = api.logs(job, run)
    assert first == "1234 5678 7"
    assert len(second.split()) == len(psutil.net_if_addrs())


def test_variables_that_would_tell_podman_something(api):
    names = ("tmpdir", "ld_library_path", "docker_host", "containers_conf")
    params = [{"name": name, "type": "string", "value": f"a '{name}'\n $b"} for name in names]
    job, run = api.run(
        'echo "$TMPDIR $LD_LIBRARY_PATH $DOCKER_HOST $CONTAINERS_CONF"', params=params
    )
    assert api.wait(job, run, seconds=SECONDS)["state"] == "succeeded"
    assert "\n".join(api.logs(job, run)) == " ".join(f"a '{name}'\n $b" for name in names)


def test_command_lines_show_neither_keys_nor_commands_nor_values(own, api):
    params = [{"name": "secret", "type": "string", "value": "s3cret"}]
    job, run = api.run("echo here; . /dev/null; sleep 3600; echo $SECRET", params=params)
    api.says(job, run, "here", SECONDS)
    mine = psutil.Process(own._process.pid)
    words = [word for child in mine.children(True) for word in child.cmdline()]
    assert any("podman" in word for word in words)
    for hidden in ("s3cret", "sleep 3600;", "local-run"):
        assert not any(hidden in word for word in words)
    api.ok("DELETE", f"/scripts/containers/{job}/runs/{run}")


# --- its end -----------------------------------------------------------------------------------


def test_files_that_were_read_are_no_want_of_memory(podman, own, api):
    """What the kernel keeps of files fills the memory, and is given up when it is needed."""
    fills = "head -c 200000000 /dev/zero >/large; cat /large >/large2; echo here; exec sleep 3600"
    job, run = api.run(fills, requiredResources={"cpu": 64, "memory": 50})
    api.says(job, run, "here", SECONDS)
    podman.kill(own, run)
    assert api.wait(job, run, seconds=SECONDS)["maxMemoryUsage"] == pytest.approx(50, abs=2)
    assert api.logs(job, run)[1:] == [
        "Error on job: Process ended with an error, exiting: 137.",
        "Failed",
    ]


@pytest.mark.parametrize("end", ["killed", "stopped"])
def test_nothing_is_left_of_a_server(podman, started, end):
    platform, api = started("podman")
    job, run = api.run("echo here; exec sleep 3600")
    api.says(job, run, "here", SECONDS)
    (pid,) = platform.stats().active[run]
    assert podman.left()
    if end == "stopped":
        platform.stop()
    else:  # its guard does it
        os.kill(platform._process.pid, signal.SIGKILL)
    until(lambda: not psutil.pid_exists(pid) and not podman.left(), SECONDS)


def test_a_client_that_is_killed_takes_its_container_along(podman, own, api):
    job, run = api.run("echo here; exec sleep 3600")
    api.says(job, run, "here", SECONDS)
    server = psutil.Process(own._process.pid)
    for child in server.children(True):
        if child.name() == "podman":
            child.kill()
    assert api.wait(job, run, seconds=SECONDS)["state"] == "failed"
    assert api.logs(job, run)[-1] == "Failed"
    until(lambda: not own.stats().active)


# --- a repository ------------------------------------------------------------------------------


@pytest.fixture
def repository(tmp_path):
    """A bare one, with a branch `main` and a tag `old`."""
    if shutil.which("git") is None:
        pytest.skip("there is no git")
    work = tmp_path / "work"
    who = ["-c", "user.name=n", "-c", "user.email=n@example.org"]

    def git(*arguments, folder=work):
        subprocess.run(["git", *who, *arguments], cwd=folder, check=True, capture_output=True)

    work.mkdir()
    git("init", "-q", "-b", "main")
    for text in ("old", "new"):
        (work / "file").write_text(text)
        git("add", "file")
        git("commit", "-q", "-m", text)
        if text == "old":
            git("tag", "old")
    git("clone", "-q", "--bare", str(work), str(tmp_path / "it.git"))
    return str(tmp_path / "it.git")


@pytest.mark.parametrize(("reference", "text"), [(None, "new"), ("old", "old")])
def test_a_repository_is_cloned(api, repository, reference, text):
    job, run = api.run("cat /app/file", repoHttpUri=repository, repoRef=reference)
    assert api.wait(job, run, seconds=SECONDS)["state"] == "succeeded"
    assert api.logs(job, run) == [text]


def test_a_repository_that_cannot_be_cloned(api, repository):
    job, run = api.run("cat /app/file", repoHttpUri=repository, repoRef="nowhere")
    assert api.wait(job, run)["startedAt"] is None
    assert "nowhere" in api.logs(job, run)[0], "git's own words"
    assert api.logs(job, run)[-1] == "Failed"


# --- where it cannot run -----------------------------------------------------------------------


def test_a_command_that_is_not_there():
    with pytest.raises(RuntimeError, match="podman is not here: there is no command podmann"):
        LocalPlatform(engine=Podman(command="podmann")).start()


def test_a_client_that_fails(tmp_path):
    client = tmp_path / "client"
    client.write_text("#!/bin/sh\necho cannot connect to the daemon >&2; exit 1\n")
    client.chmod(0o755)
    with pytest.raises(RuntimeError, match="docker cannot be used: cannot connect to the daemon"):
        LocalPlatform(engine=Docker(command=str(client))).start()


# --- what is done with docker ------------------------------------------------------------------


def test_the_way_of_docker(podman, started):
    """No group of ours: the engine is asked how a container ended, ends it, and removes it."""
    _, api = started(Docker(command=AS_DOCKER, extra=podman.limits))
    job, run = api.run("echo $HOME; exit 3")
    assert api.wait(job, run, seconds=SECONDS)["state"] == "failed"
    last = ["Error on job: Process ended with an error, exiting: 3.", "Failed"]
    assert api.logs(job, run) == ["/root", *last]
    job, run = api.run("echo here; exec sleep 3600", cancelTimeout=0)
    api.says(job, run, "here", SECONDS)
    api.ok("DELETE", f"/scripts/containers/{job}/runs/{run}")
    assert api.wait(job, run, seconds=SECONDS)["state"] == "cancelled"
    assert podman.left() == []
