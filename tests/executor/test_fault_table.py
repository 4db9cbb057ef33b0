"""Every task ends, once, with the truth: each fault, on each surface, in each mode.

A row is a fault, and what becomes of the call that meets it; the columns are the five ways to get
at a result. `docs/reference/faults.md` is made of the same rows, so that it cannot drift:
WRITE_FAULT_TABLE=1 writes it anew.
"""

from __future__ import annotations

import dataclasses
import os
import re
import signal
import sys
import threading
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import nullcontext
from functools import partial
from pathlib import Path

import pytest
from joblib import Parallel, delayed
from joblib.parallel import BACKENDS
from tasks import by_value

import civis_futures as cf
import civis_joblib
from civis_futures.testing import Fault, LocalPlatform

by_value(__name__)

pytestmark = pytest.mark.usefixtures("brisk")

PAGE = Path(__file__).parents[2] / "docs" / "reference" / "faults.md"
BOUND = 60  # seconds for a whole row, where one is a few looks; only a hang takes so long
LARGE = 100_000  # bytes; a result of this size travels as a File
SIBLINGS = ("before", "after")
GET = "GET /*"
LOOK = "GET /scripts*"
POSTS = (
    "POST /scripts/containers",
    "POST /scripts/containers/{id}/runs",
    "POST /scripts/containers/{id}/runs/{run_id}/outputs",
    "POST /json_values",
    "POST /files",
    "POST link",
)


# --- what calls do -----------------------------------------------------------------------------


def fine(value):
    return value


def doomed(word):
    import time

    print(word, flush=True)
    time.sleep(BOUND)


def large(byte):
    return bytes([byte]) * LARGE


def fail(_):
    raise ValueError("on purpose")


def leave(_):
    sys.exit("enough")


def exit_hard(_):
    os._exit(3)


def kill_itself(_):
    os.kill(os.getpid(), signal.SIGKILL)


def lock(_):
    return threading.Lock()


class Peculiar(Exception):
    """An exception that cannot be unpickled."""

    def __init__(self, one, two):
        super().__init__(f"{one} and {two}")


class Stubborn(Exception):
    """An exception that cannot be pickled."""

    def __reduce__(self):
        raise RuntimeError("on purpose")


def raise_peculiar(_):
    raise Peculiar(1, 2)


def raise_stubborn(_):
    raise Stubborn


class Distant:
    """Of a module that is here alone."""

    def __reduce__(self):
        return __import__, ("module_of_this_machine_alone",)


class Breaks:
    """Something that breaks while it is unpickled, on one side."""

    def __init__(self, where):
        self.where = where

    def __reduce__(self):
        return arrive, (self.where,)


def arrive(where):
    if where == ("there" if "CIVIS_RUN_ID" in os.environ else "here"):
        raise LookupError("on purpose")
    return Breaks(where)


def make_breaks(where):
    return Breaks(where)


# --- the rows ----------------------------------------------------------------------------------

# Containers are struck a second after the call began: a worker may keep the answers of the calls
# before it for a moment, to send them together.


@dataclasses.dataclass(frozen=True)
class Row:
    """A fault, the call that meets it, and what becomes of that call."""

    name: str
    call: tuple = (fine, 1)
    raises: type | None = None  # None: the pool gets over it
    says: str = ""
    faults: tuple = ()
    container: cf.Container | None = None
    alone: bool = False  # no call of the pool can do better
    travelled: bool = True  # it surely had a run
    options: tuple = ()  # of the call: pairs
    told: str = ""  # what the page has in place of `says`, where that is a text of these tests

    def calls(self, surface, fresh):
        """The call and its siblings: as few as will do, since each may cost a container, and does
        if calls have `fresh` ones: then two surfaces show that the others are unharmed.
        """
        if self.alone or (fresh and surface not in ("result()", "map")):
            return [self.call]
        before, after = [(fine, each) for each in SIBLINGS]
        if surface == "joblib, list" and self.raises:
            return [self.call]  # all that it shows is the error
        return [self.call, after] if surface == "as_completed" else [before, self.call]


ROWS = [
    Row(
        "the function raises `ValueError`", (fail, 1), ValueError, "on purpose",
        told="what the function said",
    ),
    Row(
        "`sys.exit(...)`", (leave, 1), SystemExit, "enough", told="what was given to `exit`",
    ),
    Row("`os._exit(3)`", (exit_hard, 1), cf.WorkerCrashedError, "exit code 3"),
    Row("its process is killed", (kill_itself, 1), cf.WorkerCrashedError, "SIGKILL"),
    Row(
        "its container is killed", (doomed, "kill me"), cf.CallLostError,
        "failed with exit code 137", (Fault.kill(1.0, says="kill me"),),
    ),
    Row(
        "its container runs out of memory", (doomed, "eat me"), cf.WorkerMemoryError,
        "used more memory than it had asked for", (Fault.out_of_memory(1.0, says="eat me"),),
    ),
    Row(
        "its run is cancelled by somebody else", (doomed, "cancel me"), cf.CallLostError,
        "cancelled, and not by this pool", (Fault.cancel(1.0, says="cancel me"),),
    ),
    Row(
        "the machine is lost", (doomed, "lose me"), cf.CallLostError,
        "its container failed, and the reason is not known: perhaps its machine was lost",
        (Fault.lose_node(says="lose me", times=None),), alone=True,
    ),
    Row(
        "the image cannot be pulled", raises=cf.BrokenContainerPool, says="could not be pulled",
        faults=(Fault.no_image(),), alone=True, travelled=False,
    ),
    Row(
        "`setup_cmd` fails", raises=cf.BrokenContainerPool, says="failed with exit code 7",
        container=cf.Container(setup_cmd="exit 7"), alone=True, travelled=False,
        told="`failed with exit code`, and which",
    ),
    Row(
        "it runs for longer than its `timeout`", (doomed, "late"), cf.TaskTimeoutError,
        "longer than its timeout of 1 s", options=(("timeout", 1),),
        told="`longer than its timeout of`, and which",
    ),
    Row(
        "no container starts within its `queue_timeout`", raises=cf.TaskTimeoutError,
        says="had not begun after its queue_timeout of 1 s", faults=(Fault.stay_queued(),),
        options=(("queue_timeout", 1),), alone=True, travelled=False,
        told="`had not begun after its queue_timeout of`, and which",
    ),
    Row(
        "the image lacks a module", (fine, Distant()), cf.EnvironmentMismatchError,
        "needs the module 'module_of_this_machine_alone'", told="`needs the module`, and which",
    ),
    Row(
        "the image has no Python", raises=cf.BrokenContainerPool, says="could not run python3",
        container=cf.Container(setup_cmd="PATH=/nonexistent"), alone=True, travelled=False,
    ),
    Row(
        "the call cannot be pickled", (fine, threading.Lock()), cf.CallPicklingError,
        "cannot pickle '_thread.lock' object", travelled=False,
        told="`cannot pickle`, what, and where it was found",
    ),
    Row(
        "the call cannot be unpickled", (fine, Breaks("there")), cf.CallUnpicklingError,
        "LookupError: on purpose", told="the error in the container",
    ),
    Row("the result cannot be pickled", (lock, 1), cf.OutcomePicklingError, "the result of"),
    Row(
        "the result cannot be unpickled", (make_breaks, "here"), cf.OutcomeUnpicklingError,
        "on purpose", told="the error that unpickling it raised",
    ),
    Row(
        "the exception cannot be pickled", (raise_stubborn, 1), cf.OutcomePicklingError,
        "This Stubborn cannot be pickled", told="which exception `cannot be pickled`",
    ),
    Row(
        "the exception cannot be unpickled", (raise_peculiar, 1), cf.OutcomeUnpicklingError,
        "cannot be unpickled here",
    ),
    Row(
        "the file of a result is corrupted", (large, 1), cf.CallLostError,
        "are not those that were sent", (Fault.corrupt("GET link", origin="client"),),
    ),
    Row(
        "the file of a result is missing", (large, 1), cf.CallLostError,
        "its result cannot be read",
        (Fault.answer(404, "GET /files/{id}", origin="client"),),
    ),
    Row(
        "the file of a result is cut short, once", (large, 1),
        faults=(Fault.cut("GET link", origin="client", every=2),),
    ),
    Row("one GET in ten is answered with 500", faults=(Fault.answer(500, GET, chance=0.1),)),
    Row("one GET in ten is answered with 503", faults=(Fault.answer(503, GET, chance=0.1),)),
    Row("one GET in ten is reset", faults=(Fault.drop(GET, chance=0.1),)),
    Row("one look in ten is answered with HTML", faults=(Fault.garbage(LOOK, every=10),)),
    Row("a storm of 429", faults=(Fault.answer(429, "/*", every=3, times=20),)),
    Row(
        "the first reply to each kind of POST is lost",
        faults=tuple(Fault.drop(on, done=True, times=1) for on in POSTS),
    ),
    Row("the platform is down for a second", faults=(Fault.down(1.0, LOOK, skip=2),)),
]  # fmt: skip


# --- the surfaces ------------------------------------------------------------------------------


def by_result(pool, options, calls):
    with pool() as executor:
        futures = [executor.options(**options).submit(*call) for call in calls]
        return [future.exception(BOUND) or future.result() for future in futures]


def by_as_completed(pool, options, calls):
    found = {}
    with pool() as executor:
        futures = {
            executor.options(**options).submit(*call): index for index, call in enumerate(calls)
        }
        for future in as_completed(futures, BOUND):
            assert futures[future] not in found
            found[futures[future]] = future.exception() or future.result()
    return [found[index] for index in range(len(calls))]


def by_map(pool, options, calls):
    functions, arguments = zip(*calls, strict=True)
    found = []
    with pool() as executor:
        try:
            for result in executor.options(**options).map(
                lambda call, it: call(it), functions, arguments
            ):
                found.append(result)
        except BaseException as error:
            found.append(error)
    return found


def by_joblib(return_as, options, calls):
    parallel = Parallel(2, backend="civis", return_as=return_as, batch_size=1, **options)
    found = []
    try:
        for result in parallel(delayed(function)(argument) for function, argument in calls):
            found.append(result)
    except BaseException as error:
        found.append(error)
    civis_joblib.shutdown()  # the faults are for the containers of one call
    return found


# --- the table ---------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def faulty():
    with LocalPlatform(cores=64, seed=7) as platform:
        yield platform


@pytest.fixture(autouse=True)
def civis():
    civis_joblib.register()
    yield
    civis_joblib.shutdown()
    BACKENDS.pop("civis", None)


@pytest.fixture
def meet(faulty, max_tasks_per_worker, tmp_path, new_user):
    """meet(row): what each surface gives, by its name; all of them at the same time."""

    def meet(row):
        options = {"platform": faulty, "max_tasks_per_worker": max_tasks_per_worker}
        if row.container is not None:
            options["container"] = row.container
        faulty.reset()
        faulty.faults.add(*row.faults)
        with ThreadPoolExecutor(5) as threads:
            try:
                with cf.ContainerPoolExecutor(2, **options) as shared:

                    def pool():
                        if row.alone:  # it may break, and be of no use to the next surface
                            return cf.ContainerPoolExecutor(2, **options)
                        return nullcontext(shared)

                    ask = {
                        "result()": partial(by_result, pool, dict(row.options)),
                        "as_completed": partial(by_as_completed, pool, dict(row.options)),
                        "map": partial(by_map, pool, dict(row.options)),
                        "joblib, list": partial(by_joblib, "list", options),
                        "joblib, generator_unordered": partial(
                            by_joblib, "generator_unordered", options
                        ),
                    }
                    if row.options:  # joblib has no options of single calls
                        ask = {name: way for name, way in ask.items() if "joblib" not in name}
                    surfaces = {
                        name: threads.submit(ask[name], row.calls(name, max_tasks_per_worker == 1))
                        for name in ask
                    }
                    return {name: future.result(BOUND) for name, future in surfaces.items()}
            finally:
                faulty.faults.clear()

    return meet


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.name)
def test_the_table(faulty, meet, row, max_tasks_per_worker):
    found = meet(row)
    right = [row.call[0](row.call[1])] if row.raises is None else []
    for surface, outcomes in found.items():
        siblings = [
            argument
            for _, argument in row.calls(surface, max_tasks_per_worker == 1)
            if argument in SIBLINGS
        ]
        errors = [each for each in outcomes if isinstance(each, BaseException)]
        values = [each for each in outcomes if not isinstance(each, BaseException)]
        if row.raises is None:
            assert not errors, (surface, errors)
            assert sorted(map(repr, values)) == sorted(map(repr, [*siblings, *right])), surface
            continue
        assert len(errors) == 1, (surface, outcomes)
        check(row, errors[0], surface)
        if (
            surface == "joblib, generator_unordered"
        ):  # what comes before the error is a matter of luck
            assert set(values) <= set(siblings)
        else:
            assert values == siblings, surface
    for fault in row.faults:
        assert faulty.faults.hits(fault), f"{fault} has not happened"


def check(row, error, surface):
    assert type(error) is row.raises, (surface, error)
    message = "\n".join([str(error), *getattr(error, "__notes__", ())])
    assert row.says in message, surface
    assert re.search(r"\(task \d+(, items? [^)]+)?\)", message), (surface, message)
    if row.travelled:
        assert re.search(r"\brun \d+\b", message), (surface, message)


# --- the page ----------------------------------------------------------------------------------

HEAD = """\
<!-- Made by tests/executor/test_fault_table.py; WRITE_FAULT_TABLE=1 writes it anew. -->
# What can go wrong, and what you get

Each line of this table is a test on a [local platform](../testing-your-code.md): with one container
for each task and with containers that are reused, and by `future.result()`, `as_completed`,
`executor.map`, and joblib's `Parallel` with `return_as="list"` and `"generator_unordered"`.

Every time, the call that met the fault ended once, with the error in the middle column. The
error's message names the task, its run if it had one, and the reason. The other calls gave their
right results, except that `map` and joblib end with the first error. (joblib has no time limits for
single calls, so those lines are about the other three.)

| what goes wrong | what you get | the message says |
|---|---|---|
"""


def page():
    lines = []
    for row in ROWS:
        said = row.told or (f"`{row.says}`" if row.says else "")
        if row.raises is None:
            got, said = "the right result", ""
        else:
            got = f"`{row.raises.__name__}`"
        also = " (all calls of the pool)" if row.alone else ""
        lines.append(f"| {row.name}{also} | {got} | {said} |\n")
    return HEAD + "".join(lines)


def test_the_page_says_what_the_table_says():
    if os.environ.get("WRITE_FAULT_TABLE"):
        PAGE.parent.mkdir(exist_ok=True)
        PAGE.write_text(page(), "utf-8")
    assert PAGE.read_text("utf-8") == page()
