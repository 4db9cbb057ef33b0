"""Public names say where they are public, so that a pickle outlives a move of private modules."""

from __future__ import annotations

import inspect
import pickle
import subprocess
import sys
import traceback
import typing
from datetime import UTC, datetime

import cloudpickle
import pytest
from joblib.parallel import BACKENDS

import civis_futures
import civis_futures.local
import civis_futures.testing
import civis_joblib
from civis_futures import Attempt, Container, SharedData, TaskState
from civis_futures._files.contents import NamedPiece

MODULES = (civis_futures, civis_futures.local, civis_futures.testing, civis_joblib)
NAMES = [(module, name) for module in MODULES for name in module.__all__]
IDS = [f"{module.__name__}.{name}" for module, name in NAMES]
ERRORS = [
    kind
    for _, kind in inspect.getmembers(civis_futures, inspect.isclass)
    if issubclass(kind, Exception)
]


def made():
    """Of everything public that can be pickled, one."""
    for kind in ERRORS:
        if issubclass(kind, civis_futures.CallLostError):
            yield kind("gone", task="f(1)", job_id=1, state="failed", exit_code=-9, log_tail=("a",))
        elif issubclass(kind, civis_futures.TaskError):
            yield kind("gone", task="f(1)", job_id=1)
        else:
            yield kind("gone")
    yield Attempt(1, state=TaskState.FAILED)
    yield Container(environment={"A": "b"}, required_resources={"cpu": 500})
    yield civis_futures.LogLine(1, str(datetime.now(UTC)), "info", "hello")
    yield civis_futures.SessionInfo("nightly", 1.0, None, 1, 2, 3)
    yield SharedData._of("http://platform", b"head", (NamedPiece("0" * 64, 10, 7),))
    yield TaskState.RUNNING
    yield civis_futures.Template(from_template_id=1)
    yield civis_futures.Timings(1.0, compute=2.0)
    yield civis_futures.testing.Fault.drop("GET *", times=1)
    yield civis_futures.testing.Stats({}, 0, 0, 0, 0, 0, 0, 0, {})
    yield from (Container, SharedData, TaskState, civis_futures.ContainerPoolExecutor)
    yield from (civis_futures.as_completed, civis_futures.sessions, civis_joblib.register)


def parts_of(value):
    """What can be compared, of an exception too, and of a handle all of it."""
    if isinstance(value, Exception):
        return type(value), value.args, vars(value)
    if isinstance(value, SharedData):
        return value, value.size, value._pieces
    return value


@pytest.mark.parametrize(("module", "name"), NAMES, ids=IDS)
def test_it_says_where_it_is_public(module, name):
    value = getattr(module, name)
    # The local platform is in both; one error has the name of another package, too.
    here = civis_futures.local if name == "LocalPlatform" else module
    if name == "JobSubmissionError":
        here, name = civis_futures, "BrokenContainerPool"
    assert (value.__module__, value.__qualname__) == (here.__name__, name)


@pytest.mark.parametrize("dumps", [pickle.dumps, cloudpickle.dumps], ids=["pickle", "cloudpickle"])
def test_pickles_have_public_names_only(dumps):
    for value in made():
        for protocol in (2, 5):
            pickled = dumps(value, protocol)
            assert b"civis_futures" in pickled or b"civis_joblib" in pickled
            assert b"civis_futures._" not in pickled, value
            assert b".local._" not in pickled, value
            assert parts_of(pickle.loads(pickled)) == parts_of(value)


def test_a_backend_that_travels_names_nothing_private_of_the_pool():
    civis_joblib.register()
    try:
        backend = BACKENDS["civis"](
            container=Container(), retry_on=civis_futures.CallLostError, remote_backend="civis"
        )
    finally:
        del BACKENDS["civis"]
    pickled = cloudpickle.dumps(backend)
    assert b"Container" in pickled
    assert b"civis_futures._" not in pickled


def test_another_process_needs_nothing_but_the_package():
    """And it tells what it got by public names."""
    values = [value for value in made() if b"testing" not in pickle.dumps(value)]
    code = """
import pickle, sys
import civis_futures
sys.stdout.buffer.write(pickle.dumps(pickle.load(sys.stdin.buffer)))
"""
    done = subprocess.run(
        [sys.executable, "-c", code],
        input=pickle.dumps(values),
        capture_output=True,
        check=True,
    )
    assert list(map(parts_of, pickle.loads(done.stdout))) == list(map(parts_of, values))


@pytest.mark.parametrize("kind", ERRORS)
def test_tracebacks_have_public_names(kind):
    lines = traceback.format_exception_only(kind("it is gone"))
    assert lines[0].startswith(f"civis_futures.{kind.__name__}: ")


@pytest.mark.parametrize(("module", "name"), NAMES, ids=IDS)
def test_annotations_can_be_evaluated(module, name):
    value = getattr(module, name)
    typing.get_type_hints(value)
    inspect.get_annotations(value, eval_str=True)


def test_the_source_is_found_of_functions_and_methods():
    assert "def sessions(" in inspect.getsource(civis_futures.sessions)
    assert "def submit(" in inspect.getsource(civis_futures.ContainerPoolExecutor.submit)
    assert "def register(" in inspect.getsource(civis_joblib.register)
