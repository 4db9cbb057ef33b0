"""What can go wrong with containers, platform and data: a clear error, nothing lost or hung."""

from __future__ import annotations

import logging
import os
import signal
import sys
import threading
import time
from contextlib import closing

import pytest
from cases import MODES
from tasks import by_value, identity

import civis_futures as cf
from civis_futures import _wire
from civis_futures._api.client import PlatformClient
from civis_futures._types import Job
from civis_futures.local import LocalPlatform

by_value(__name__)

pytestmark = pytest.mark.usefixtures("brisk")


def wait_for(condition, seconds=20.0):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it never came to that"
        time.sleep(0.02)


def sleep(seconds):
    time.sleep(seconds)
    return seconds


# --- containers that fail ----------------------------------------------------------------------


def lost(platform, container, function=identity, argument=1, **options):
    with cf.ContainerPoolExecutor(2, platform=platform, container=container, **options) as executor:
        future = executor.submit(function, argument)
        error = future.exception(timeout=60)
        assert str(error.run_id) in str(error)
        assert future.state is cf.TaskState.FAILED
    return error


def unstarted(container):
    """The message of a pool whose containers never start."""
    with (
        LocalPlatform() as platform,
        cf.ContainerPoolExecutor(10, platform=platform, container=container) as executor,
    ):
        futures = [executor.submit(identity, n) for n in range(50)]
        errors = [future.exception(timeout=60) for future in futures]
        assert platform.stats().runs_started == 2
    assert {type(error) for error in errors} == {cf.BrokenContainerPool}
    return str(errors[0])


def test_a_setup_that_fails():
    message = unstarted(cf.Container(setup_cmd="echo cannot set up >&2 && exit 7"))
    assert "setup_cmd failed" in message
    assert "  cannot set up\n  civis_futures: setup_cmd failed with exit code 7" in message


def test_an_image_without_python():
    message = unstarted(cf.Container(setup_cmd="PATH=/nonexistent"))
    assert "could not run python3" in message
    assert cf.Container().image in message


def eat_memory(megabytes):
    eaten = []
    for _ in range(megabytes // 10):
        eaten.append(bytearray(os.urandom(1) * 10_000_000))
        time.sleep(0.03)
    return len(eaten)


def test_too_much_memory(platform):
    container = cf.Container(required_resources={"memory": 150})
    error = lost(platform, container, eat_memory, 2_000)
    assert type(error) is cf.WorkerMemoryError
    assert error.exit_code == 137
    assert "used more memory than it had asked for" in str(error)
    assert any(line.startswith("Process ran out of its allowed 150 MiB") for line in error.log_tail)


def kill_the_container(_):
    os.kill(os.getppid(), signal.SIGKILL)
    os.kill(os.getpid(), signal.SIGKILL)


@pytest.mark.parametrize("reuse", MODES)
def test_a_container_killed_in_the_middle(platform, reuse):
    error = lost(platform, None, kill_the_container, max_tasks_per_worker=reuse)
    assert type(error) is cf.CallLostError
    assert (error.state, error.exit_code) == ("failed", 137)


def test_siblings_of_a_lost_container_are_right(platform):
    with cf.ContainerPoolExecutor(3, platform=platform) as executor:
        futures = [executor.submit(identity, n) for n in range(10)]
        futures.insert(5, executor.submit(kill_the_container, 0))
        futures += [executor.submit(identity, n) for n in range(10, 20)]
        with pytest.raises(cf.CallLostError):
            futures.pop(5).result(60)
        assert [future.result(60) for future in futures] == list(range(20))


def crash_at_first(path):
    with open(path, "a") as file:
        file.write("x")
        tries = file.tell()
    if tries < 3:
        os._exit(1)
    return tries


@pytest.mark.parametrize("reuse", MODES)
def test_retries_of_lost_calls(platform, tmp_path, reuse):
    with cf.ContainerPoolExecutor(
        1, platform=platform, max_retries=2, max_tasks_per_worker=reuse
    ) as executor:
        assert executor.submit(crash_at_first, tmp_path / "tries").result(60) == 3


def test_exceptions_of_the_function_are_not_retried(platform, tmp_path):
    def fail_once(path):
        with open(path, "x"):
            raise ValueError("once")

    with cf.ContainerPoolExecutor(1, platform=platform, max_retries=5) as executor:
        future = executor.submit(fail_once, tmp_path / "once")
        assert type(future.exception(60)) is ValueError


def test_cancelled_from_outside(platform):
    with cf.ContainerPoolExecutor(1, platform=platform, max_retries=3) as executor:
        future = executor.submit(sleep, 60)
        wait_for(future.running)
        with closing(PlatformClient(platform.url, platform.api_key)) as client:
            client.cancel_run(Job(future.job_id), future.run_id)
        error = future.exception(30)
    assert type(error) is cf.CallLostError
    assert error.state == "cancelled"
    assert "cancelled, and not by this pool" in str(error)


# --- cancel ------------------------------------------------------------------------------------


def beat(path):
    while True:
        with open(path, "a") as file:
            file.write(".")
        time.sleep(0.02)


@pytest.mark.parametrize("reuse", MODES)
def test_cancelled_means_stopped(platform, tmp_path, reuse, mine):
    path = tmp_path / "beats"
    with cf.ContainerPoolExecutor(1, platform=platform, max_tasks_per_worker=reuse) as executor:
        future = executor.submit(beat, path)
        wait_for(lambda: future.running() and path.exists())
        assert future.cancel()
        assert future.cancelled()
        assert future.state is cf.TaskState.CANCELLED
        assert executor.submit(identity, 1).result(30) == 1  # the pool goes on
    size = path.stat().st_size
    time.sleep(0.1)
    assert path.stat().st_size == size
    assert not mine()


def test_cancel_before_the_container_starts():
    with (
        LocalPlatform(cores=8, start_delay=1.5) as slow,
        cf.ContainerPoolExecutor(1, platform=slow) as executor,
    ):
        future = executor.submit(sleep, 60)
        wait_for(lambda: future.state is cf.TaskState.QUEUED)
        assert not future.running()
        assert future.cancel()
        executor.shutdown()
        assert not slow.stats().active
        assert slow.stats().count("POST", "/json_values", "worker") == 0


# --- data --------------------------------------------------------------------------------------

TEXT = "quotes ' \" `whoami` $(whoami) \\ \n newline \t \x00 \u2028 \N{SNOWMAN} \U0001f600 ;"


@pytest.mark.parametrize("reuse", MODES)
def test_awkward_text_arrives_as_it_is(platform, reuse):
    with cf.ContainerPoolExecutor(1, platform=platform, max_tasks_per_worker=reuse) as executor:
        assert executor.submit(identity, TEXT).result(60) == TEXT
        large = TEXT * 40_000
        assert executor.submit(identity, large).result(60) == large


def variables(*names):
    return [os.environ.get(name) for name in names]


def test_awkward_arguments_of_the_container(platform):
    text = TEXT.replace("\x00", "")
    container = cf.Container(
        params=[{"name": "NOTE", "type": "multi_line_string"}], arguments={"NOTE": text}
    )
    with cf.ContainerPoolExecutor(1, platform=platform, container=container) as executor:
        assert executor.submit(variables, "NOTE").result(60) == [text]


def test_an_argument_too_large_for_an_environment(platform):
    container = cf.Container(
        params=[{"name": "NOTE", "type": "multi_line_string"}],
        arguments={"NOTE": "x" * 1_000_000},
    )
    with cf.ContainerPoolExecutor(2, platform=platform, container=container) as executor:
        error = executor.submit(identity, 1).exception(60)
    assert type(error) is cf.BrokenContainerPool  # no container of it can ever start
    assert "could not be started" in str(error)
    assert "Argument list too long" in str(error)


model = None


def load_model(value):
    global model
    model = value


def use_model(index):
    return len(model), model[index]


@pytest.mark.parametrize("size", [10, 60_000, 3_000_000])
def test_initializers_of_any_size(platform, size):
    value = os.urandom(size)
    with cf.ContainerPoolExecutor(
        1, platform=platform, initializer=load_model, initargs=(value,)
    ) as executor:
        assert executor.submit(use_model, 7).result(60) == (size, value[7])
        assert executor.submit(zeros, 50_000).result(60) == bytes(50_000)
    assert model is None


def zeros(size):
    return bytes(size)


@pytest.mark.parametrize("size", [0, 1, 64_001, 2_000_000])
def test_results_of_any_size(platform, size):
    with cf.ContainerPoolExecutor(1, platform=platform) as executor:
        assert executor.submit(zeros, size).result(60) == bytes(size)


def test_a_result_that_goes_up_in_parts(platform):
    container = cf.Container(required_resources={"memory": 3000})
    with cf.ContainerPoolExecutor(1, platform=platform, container=container) as executor:
        assert len(executor.submit(zeros, 80_000_000).result(100)) == 80_000_000


def test_a_call_over_the_size_limit_fails_alone():
    with (
        LocalPlatform(max_file_size=1_000_000) as small,
        cf.ContainerPoolExecutor(1, platform=small) as executor,
    ):
        error = executor.submit(identity, os.urandom(2_000_000)).exception(60)
        assert type(error) is cf.CallLostError
        assert "could not be sent" in str(error)
        assert executor.submit(identity, 1).result(60) == 1


def shout(size):
    sys.stdout.write(("x" * 99 + "\n") * (size // 100))
    return size


def close_stdout():
    sys.stdout.close()
    os.close(1)
    return "closed"


def write_binary():
    os.write(1, bytes(range(256)) * 10)
    sys.stderr.buffer.write(b"\xff\xfe\x00")
    return "written"


def test_what_a_task_does_to_its_streams(platform):
    with cf.ContainerPoolExecutor(1, platform=platform) as executor:
        assert executor.submit(shout, 10_000_000).result(60) == 10_000_000
        assert executor.submit(close_stdout).result(60) == "closed"
        assert executor.submit(write_binary).result(60) == "written"
        after = executor.submit(print, "still here")
        assert after.result(60) is None
        wait_for(lambda: any("still here" in str(line) for line in after.logs()))


# --- environments ------------------------------------------------------------------------------


def test_a_missing_module_is_named(platform):
    import types

    module = types.ModuleType("left_at_home")
    exec("def here(): return 1", module.__dict__)
    sys.modules["left_at_home"] = module
    try:
        with cf.ContainerPoolExecutor(1, platform=platform) as executor:
            error = executor.submit(module.here).exception(60)
    finally:
        del sys.modules["left_at_home"]
    assert type(error) is cf.EnvironmentMismatchError
    for part in ("'left_at_home'", cf.Container().image, "pip install",
                 "register_pickle_by_value(left_at_home)"):  # fmt: skip
        assert part in str(error)


#: A Python that says that it is a later one.
OTHER_PYTHON = """
import collections, sys
names = "major minor micro releaselevel serial"
sys.version_info = collections.namedtuple("version_info", names)(3, 99, 0, "final", 0)
"""


def test_another_python_version_is_named(tmp_path):
    (tmp_path / "sitecustomize.py").write_text(OTHER_PYTHON)
    with (
        LocalPlatform(environment={"PYTHONPATH": str(tmp_path)}) as platform,
        cf.ContainerPoolExecutor(1, platform=platform) as executor,
    ):
        error = executor.submit(identity, 1).exception(60)
    assert type(error) is cf.EnvironmentMismatchError
    assert "has Python 3.99" in str(error)
    assert f"this is Python {_wire.PYTHON}" in str(error)


def nest(values):
    with cf.ContainerPoolExecutor(2) as executor:
        return list(executor.map(parents, values)), variables("CIVIS_JOB_ID", "CIVIS_RUN_ID")


def parents(value):
    return value, variables("CIVIS_PARENT_JOB_ID", "CIVIS_PARENT_RUN_ID")


def test_an_executor_within_a_task(platform):
    with cf.ContainerPoolExecutor(1, platform=platform) as executor:
        answers, ours = executor.submit(nest, [1, 2]).result(60)
    assert answers == [(1, ours), (2, ours)]


# --- platforms that misbehave ------------------------------------------------------------------


class Elsewhere:
    api_key = "secret-key-1234"

    def __init__(self, url):
        self.url = url


def test_a_platform_that_is_down(caplog):
    caplog.set_level(logging.DEBUG)
    with cf.ContainerPoolExecutor(2, platform=Elsewhere("http://127.0.0.1:9")) as executor:
        futures = [executor.submit(identity, n) for n in range(3)]
        errors = [future.exception(60) for future in futures]
        with pytest.raises(cf.BrokenContainerPool, match="cannot be used"):
            executor.submit(identity, 1)
    for error in errors:
        assert type(error) is cf.BrokenContainerPool
        assert isinstance(error.__cause__, cf.PlatformError)
        assert "/users/me" in str(error)
        assert "secret-key" not in str(error)
    assert "secret-key" not in caplog.text


def test_a_platform_that_answers_html(httpserver_html):
    with cf.ContainerPoolExecutor(1, platform=Elsewhere(httpserver_html)) as executor:
        error = executor.submit(identity, 1).exception(60)
    assert type(error) is cf.BrokenContainerPool
    assert "not JSON" in str(error)


def test_a_key_that_is_refused(platform):
    with cf.ContainerPoolExecutor(1, platform=Elsewhere(platform.url)) as executor:
        error = executor.submit(identity, 1).exception(60)
    assert type(error) is cf.BrokenContainerPool
    assert "401" in str(error)
    assert "secret-key" not in str(error)


@pytest.fixture
def httpserver_html():
    from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

    class Page(BaseHTTPRequestHandler):
        def do_GET(self):
            body = b"<html>maintenance</html>"
            self.send_response(200)
            self.send_header("Content-Type", "text/html")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        do_POST = do_GET

        def log_message(self, *args):
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Page)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()
    thread.join()


def test_a_state_nobody_has_heard_of(platform, monkeypatch):
    from dataclasses import replace

    from civis_futures._types import RunState

    real = PlatformClient.get_run
    calls = iter(range(1000))

    def sometimes(self, job, run_id, **options):
        run = real(self, job, run_id, **options)
        if next(calls) % 2 == 0:
            return replace(run, state=RunState.UNKNOWN, said="pondering", finished=None)
        return run

    monkeypatch.setattr(PlatformClient, "get_run", sometimes)
    with cf.ContainerPoolExecutor(1, platform=platform) as executor:
        assert executor.submit(identity, 1).result(60) == 1
