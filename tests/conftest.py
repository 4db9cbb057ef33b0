"""What all tests have in common: one local platform, executors on it, and that nothing is left."""

from __future__ import annotations

import ast
import contextlib
import http.client
import importlib.util
import json
import os
import re
import signal
import sys
import threading
import time
import weakref
from collections import Counter
from dataclasses import replace
from multiprocessing import resource_tracker
from pathlib import Path

import psutil
import pytest

from civis_futures import ContainerPoolExecutor
from civis_futures._files import contents
from civis_futures._pacing import default_pacing, set_default_pacing
from civis_futures._wire import ScriptName, pool_name
from civis_futures.local import LocalPlatform
from civis_futures.testing import short_waits

# With PYTHONDONTWRITEBYTECODE each of some hundred processes would compile all modules that it
# imports, and each one of pytest-xdist would rewrite the assertions of all tests.
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
sys.dont_write_bytecode = False

# Several processes are at work at once, and threads of numerical libraries spin while they wait.
# Containers have an environment of their own.
os.environ |= {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}

if sys.version_info < (3, 12):  # https://github.com/python/cpython/issues/98257
    _settrace = sys.settrace

    def _settrace_in_turn(function):
        """With coverage, a thread that starts just when another one does would die at once."""
        for _ in range(1000):
            with contextlib.suppress(RuntimeError):
                return _settrace(function)
            time.sleep(0.001)
        return _settrace(function)

    sys.settrace = _settrace_in_turn

#: How long what ends in the background may take. Nothing takes nearly as long.
PATIENCE = 30.0
#: The platform of this session, once a test has asked for it.
_running: list[LocalPlatform] = []


def _until(condition, seconds=PATIENCE):
    end = time.monotonic() + seconds
    while not (found := condition()):
        assert time.monotonic() < end, "it did not happen"
        time.sleep(0.005)
    return found


@pytest.fixture(scope="session")
def until():
    """until(condition, seconds=...): its first true value; a test never just sleeps."""
    return _until


@pytest.fixture(scope="session", autouse=True)
def cache_folder(tmp_path_factory):
    """The user's cache folder, also of the processes that tests start: not the real one."""
    folder = tmp_path_factory.mktemp("cache")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(folder))
        yield folder


# --- the platform ------------------------------------------------------------------------------


@pytest.fixture(scope="session")
def platform(tmp_path_factory):
    """The platform of all tests that do not bring their own: large, since their tasks are tiny.

    At the end all that it answered is held against the official spec.
    """
    record = tmp_path_factory.mktemp("platform") / "exchanges.jsonl"
    record.touch()
    with LocalPlatform(cores=32, record=record) as platform:
        _running.append(platform)
        yield platform
        _running.remove(platform)
    assert _validate(record) == []


@pytest.fixture(scope="session")
def _fallible():
    with LocalPlatform(cores=32) as platform:
        yield platform


@pytest.fixture
def faulty(_fallible):
    """A platform on which a test may make things go wrong; for the next one, nothing does."""
    yield _fallible
    _fallible.faults.clear()


def _validate(record):
    path = Path(__file__).parent / "contract" / "validator.py"
    if not path.exists():
        return []
    spec = importlib.util.spec_from_file_location("session_validator", path)
    validator = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(validator)
    return validator.validate_record(record)


@pytest.fixture
def make_executor(platform):
    """make_executor(max_workers, ...): executors on the platform, which end with the test."""
    made = []  # references are weak: some tests are about executors that nobody holds

    def make(max_workers=2, **options):
        executor = ContainerPoolExecutor(max_workers, **{"platform": platform, **options})
        made.append(weakref.ref(executor))
        return executor

    yield make
    for reference in made:
        end_executor(reference)


def end_executor(reference):
    """Shut down, by force if need be, and fail instead of hanging."""
    executor = reference()
    if executor is None:
        return
    thread = threading.Thread(
        target=executor.shutdown, kwargs={"cancel_futures": True}, name="ending", daemon=True
    )
    thread.start()
    thread.join(5)
    if thread.is_alive():
        executor.terminate_workers()
        thread.join(PATIENCE)
    assert not thread.is_alive(), f"the shutdown of {executor!r} does not return"


@pytest.fixture
def paced():
    """`paced(log_pause=0.01)`: other waits for executors and clients that are made from here."""
    before = default_pacing()
    yield lambda **times: set_default_pacing(replace(default_pacing(), **times))
    set_default_pacing(before)


@pytest.fixture
def new_process(monkeypatch):
    """new_process(): from now on nothing is known but what the cache folder knows."""

    def begin():
        # The one table of this process that outlives its executors.
        monkeypatch.setattr(contents, "_stores", {})

    begin()
    return begin


@pytest.fixture
def new_user(new_process, tmp_path, monkeypatch):
    """From now on nothing is known at all: nothing was ever uploaded."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


@pytest.fixture
def brisk():
    """The pauses after failures, and the patience with a platform that is gone, are short here."""
    with short_waits():
        yield


# --- nothing is left ---------------------------------------------------------------------------

#: Names of the pools that outlive a test, with how many of that name there are.
_spared: Counter[str] = Counter()


class Leftovers:
    """What there is now and was not there before: threads, processes, runs and scripts of ours."""

    def __init__(self):
        self.look()

    def look(self):
        """What there is now was there before."""
        self._threads, self._processes = _threads(), _processes()

    def here(self):
        """Whether a thread or a process is left, without asking the platform."""
        return _threads() - self._threads or _processes() - self._processes

    def __call__(self):
        """Whatever is left, in words."""
        found = [f"thread {thread.name!r}" for thread in _threads() - self._threads]
        spared = {}
        for platform in _running:
            scripts = list(_scripts(platform))
            stats = platform.stats()
            spared |= {run: stats.active.get(run, ()) for pool, _, run in scripts if _spared[pool]}
            found += [f"script {name!r}" for pool, name, _ in scripts if not _spared[pool]]
            found += [f"run {run}" for run in stats.active.keys() - spared.keys()]
            if stats.queued and not _spared:
                found.append(f"{stats.queued} queued runs")
        new = _processes() - self._processes
        if new:
            new -= _trees(pid for pids in spared.values() for pid in pids)
        found += [f"process {_command(pid)}" for pid, _ in new]
        return [what for what in found if what not in _reported]


_leftovers: list[Leftovers] = []
#: What a test has failed for; the next one need not.
_reported: set[str] = set()


@pytest.fixture(autouse=True)
def leftovers(request):
    """Each test cleans up: no thread, process, run or script of ours is left a moment later.

    What wider fixtures have started lives on, see `WiderFixtures`.
    """
    leftovers = Leftovers()
    _leftovers.append(leftovers)
    yield leftovers
    _leftovers.clear()
    if "platform" not in request.fixturenames and not leftovers.here():
        return  # most tests start nothing, and there are thousands of them
    end = time.monotonic() + PATIENCE
    while (left := leftovers()) and time.monotonic() < end:
        time.sleep(0.03)
    _reported.update(left)
    assert not left, f"the test has left behind: {', '.join(left)}"


@pytest.fixture(autouse=True)
def interruptible():
    """A Ctrl-C is a KeyboardInterrupt in each test, whatever the one before has done."""
    signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    left = signal.getsignal(signal.SIGINT)
    assert left is signal.default_int_handler, f"the test has left a handler of SIGINT: {left}"


class WiderFixtures:
    """What a fixture for more than one test starts is its own: servers, threads, runs.

    A plugin and not hooks of this file, since those are not called for fixtures of the session.
    """

    @pytest.hookimpl(wrapper=True)
    def pytest_fixture_setup(self, fixturedef):
        value = yield
        if fixturedef.scope != "function":
            if isinstance(value, ContainerPoolExecutor):
                value.submit(pow, 1, 1).result(PATIENCE)  # so that it has started its threads
                _spared[_name(value)] += 1
            for leftovers in _leftovers:
                leftovers.look()
        return value

    @pytest.hookimpl
    def pytest_fixture_post_finalizer(self, fixturedef):
        cached = fixturedef.cached_result
        if (
            fixturedef.scope != "function"
            and cached
            and isinstance(cached[0], ContainerPoolExecutor)
        ):
            _spared[_name(cached[0])] -= 1


def pytest_configure(config):
    config.pluginmanager.register(WiderFixtures())
    # In the background of a shell it is ignored, here and in all processes that tests start, and
    # the tests of Ctrl-C would wait for ever.
    signal.signal(signal.SIGINT, signal.default_int_handler)


def _name(executor):
    return ast.literal_eval(re.match(r"<\w+ (.*) max_workers=", repr(executor))[1])


def _threads():
    return {thread for thread in threading.enumerate() if thread.name.startswith("civis-futures")}


def _processes():
    """Below us, but for multiprocessing's tracker, which lives as long as the interpreter does."""
    tracker = resource_tracker._resource_tracker._pid
    return {process for process in _below(os.getpid()) if process[0] != tracker}


def _below(pid):
    """(pid, time of its start) of each process below one; psutil would look at the whole machine.

    Of those that begin or end meanwhile some may be missed.
    """
    found = set()
    for path in Path(f"/proc/{pid}/task").glob("*/children"):
        with contextlib.suppress(OSError, psutil.NoSuchProcess):
            for child in map(int, path.read_text().split()):
                found |= {(child, psutil.Process(child).create_time())} | _below(child)
    return found


def _trees(roots):
    found = set()
    for root in roots:
        with contextlib.suppress(psutil.NoSuchProcess):
            found |= {(root, psutil.Process(root).create_time())} | _below(root)
    return found


def _command(pid):
    try:
        process = psutil.Process(pid)
        return f"{pid} ({process.status()}: {' '.join(process.cmdline())[:200]})"
    except psutil.Error:
        return str(pid)


def _scripts(platform):
    """(pool, name, active run or None) of each script of ours that is not archived."""
    for row in _get(platform, "/jobs?hidden=true&archived=false&limit=50&order=updated_at"):
        ours = ScriptName.parsed(row["name"])
        if ours:
            run = row["lastRun"]
            active = run is not None and run["state"] in ("queued", "running")
            yield pool_name(ours.pool, ours.session), row["name"], run["id"] if active else None


def _get(platform, path):
    connection = http.client.HTTPConnection(platform.url.removeprefix("http://"), timeout=10)
    with contextlib.closing(connection):
        key = platform.api_key
        connection.request("GET", path, headers={"Authorization": f"Bearer {key}"})
        response = connection.getresponse()
        body = json.loads(response.read())
    assert response.status == 200, (path, response.status, body)
    return body


@pytest.fixture
def mine(platform):
    """mine(): the runs that are active now and were not before the test, as `stats().active`.

    The platform is shared, with executors that have idle workers on it.
    """
    before = set(platform.stats().active)

    def active():
        return {run: ids for run, ids in platform.stats().active.items() if run not in before}

    return active
