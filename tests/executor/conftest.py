"""Executors and gates for the tests of the standard library's behaviours."""

from __future__ import annotations

import functools
import itertools
import weakref

import pytest
from cases import MODES

from civis_futures import ContainerPoolExecutor

#: One fresh container for each call, and containers that are reused: all promises hold for both.


@pytest.fixture(params=MODES)
def max_tasks_per_worker(request):
    return request.param


class SharedExecutor(ContainerPoolExecutor):
    """One that many tests use; it knows whether they have left work in it."""

    def __init__(self, *args, **options):
        super().__init__(*args, **options)
        self.submitted = weakref.WeakSet()

    def submit(self, fn, /, *args, **kwargs):
        future = super().submit(fn, *args, **kwargs)
        self.submitted.add(future)
        return future


@pytest.fixture(scope="session")
def fresh(platform):
    """Shared: one container for each call."""
    with SharedExecutor(4, platform=platform, max_tasks_per_worker=1, name="shared, fresh") as it:
        yield it


@pytest.fixture(scope="session")
def reused(platform):
    """Shared: containers are reused."""
    with SharedExecutor(4, platform=platform, idle_timeout=30, name="shared, reused") as it:
        yield it


@pytest.fixture(params=[pytest.param("fresh", marks=pytest.mark.repeats), "reused"])
def executor(request, until, gates):
    """An executor of 4 workers, in each mode. It is shared, so a test must not shut it down."""
    executor = request.getfixturevalue(request.param)
    yield executor
    gates.open_all()
    until(lambda: all(future.done() for future in executor.submitted))


@pytest.fixture
def make(make_executor, max_tasks_per_worker, gates):
    """make(max_workers, ...): an executor of the test's own, in each mode."""
    yield functools.partial(make_executor, max_tasks_per_worker=max_tasks_per_worker)
    gates.open_all()


class Gate:
    """A gate that calls wait at, and the signs that they have got there.

    They are files, as the calls are processes on this machine.
    """

    def __init__(self, folder):
        self._folder = folder
        folder.mkdir()
        #: What a call needs to know.
        self.path = str(folder)

    def open(self):
        """Let all pass."""
        (self._folder / "open").touch()

    @property
    def arrived(self):
        """The names of those that have come to the gate."""
        return {path.name.removeprefix("arrived-") for path in self._folder.glob("arrived-*")}


class Gates:
    def __init__(self, folder):
        self._folder = folder
        self._made = []
        self._numbers = itertools.count()

    def __call__(self):
        self._made.append(Gate(self._folder / f"gate-{next(self._numbers)}"))
        return self._made[-1]

    def open_all(self):
        for gate in self._made:
            gate.open()


@pytest.fixture
def gates(tmp_path):
    """gates(): a new gate; at the end all are opened, so that no failed test hangs."""
    gates = Gates(tmp_path)
    yield gates
    gates.open_all()


@pytest.fixture
def gate(gates):
    return gates()
