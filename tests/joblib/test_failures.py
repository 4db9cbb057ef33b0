"""A task fails, its container dies, its result cannot travel: raised, and soon; never a hang.

civis.parallel told joblib of successes only, so that it waited for ever for a task that failed.
"""

from __future__ import annotations

import os
import signal
import threading
import time
import traceback
from concurrent.futures import CancelledError

import pytest
from cases import mostly_repeats
from joblib import Parallel, delayed, parallel_config, wrap_non_picklable_objects
from tasks import by_value, square

import civis_futures as cf
import civis_joblib

by_value(__name__)

pytestmark = pytest.mark.usefixtures("brisk")

MODES = ("list", "generator", "generator_unordered")
SOON = 20.0  # seconds
#: How long a task sleeps that must not be waited for, in seconds: the test's time limit is shorter.
HOUR = 3600


class Peculiar(Exception):
    """Takes more to make than it has in `args`."""

    def __init__(self, code, text):
        super().__init__(text)
        self.code = code

    def __reduce__(self):
        return type(self), (self.code, self.args[0])


def halve(x):
    return 1 / x  # of a test


def raise_or_sleep(error):
    if isinstance(error, BaseException):
        raise error
    time.sleep(error)


def die(how):
    if how:
        how()
    time.sleep(0.2)


def kill():
    os.kill(os.getpid(), signal.SIGKILL)


class Sent:
    """An argument or a result that breaks at one end."""

    def __init__(self, breaks):
        self.breaks = breaks

    def __reduce__(self):
        if self.breaks == "here":
            raise LookupError("cannot be pickled")
        return Sent.arrive, (self.breaks, os.getpid())

    @staticmethod
    def arrive(breaks, origin):
        if breaks == "there" and origin != os.getpid():
            raise LookupError("cannot be unpickled")
        return Sent(breaks)


def lock_or_square(x):
    return threading.Lock() if x == 3 else x * x


@pytest.mark.parametrize("return_as", mostly_repeats(MODES, *MODES[::2]))
def test_the_first_failure_is_raised_soon(platform, return_as, mine):
    with pytest.raises(Peculiar, match="this one") as caught:
        list(
            Parallel(3, backend="civis", return_as=return_as, batch_size=1)(
                delayed(raise_or_sleep)(x)
                for x in (HOUR, Peculiar(7, "this one"), HOUR, HOUR, HOUR)
            )
        )
    assert not mine()
    error = caught.value
    assert error.code == 7
    assert isinstance(error.__cause__, cf.RemoteTraceback)
    text = "".join(traceback.format_exception(error))
    assert "in raise_or_sleep" in text
    assert "number 1 of the call, number 0 of a batch of 1" in text
    assert "Raised by raise_or_sleep (task 1) in run" in text


@pytest.mark.parametrize("return_as", mostly_repeats(MODES, *MODES[::2]))
def test_after_a_failure_at_once(return_as):
    with Parallel(2, backend="civis", return_as=return_as, batch_size=1) as parallel:
        with pytest.raises(ZeroDivisionError):
            list(parallel(delayed(raise_or_sleep)(x) for x in (ZeroDivisionError(), HOUR, HOUR)))
        assert sorted(parallel(delayed(square)(x) for x in range(3))) == [0, 1, 4]


@pytest.mark.parametrize("error", [KeyboardInterrupt(), SystemExit(3)], ids=repr)
def test_any_exception_comes_as_itself(error):
    with pytest.raises(type(error)):
        Parallel(2, backend="civis")(delayed(raise_or_sleep)(x) for x in (error, HOUR))


def test_a_failure_in_a_batch_names_the_item():
    calls = [delayed(square)(x) for x in range(17)] + [delayed(raise_or_sleep)(KeyError("k"))]
    with pytest.raises(KeyError) as caught:
        Parallel(2, backend="civis", batch_size=5, pre_dispatch="all")(calls * 2)
    notes = "\n".join(caught.value.__notes__)
    assert "The item that failed is number 17 of the call" in notes
    assert "number 2 of a batch of 5; the first is number 0" in notes
    assert "Raised by square and 4 more (task 3)" in notes


@pytest.mark.parametrize("how", [kill, lambda: os._exit(3)], ids=["killed", "exits"])
def test_a_process_dies(how):
    with Parallel(2, backend="civis", batch_size=1) as parallel:
        with pytest.raises(cf.WorkerCrashedError):
            parallel(delayed(die)(x) for x in (None, how, None, None))
        assert parallel(delayed(square)(x) for x in range(3)) == [0, 1, 4]


@pytest.mark.parametrize("end", ["kill", "cancel"])
def test_a_container_ends_in_the_middle(platform, until, ask, end, mine):
    def strike():
        runs = until(lambda: {k: v for k, v in mine().items() if v})
        if end == "kill":
            os.kill(min(next(iter(runs.values()))), signal.SIGKILL)
        else:
            rows = ask("GET", "/jobs?hidden=true&archived=false&limit=50&order=updated_at")
            job = next(row["id"] for row in rows if (row["lastRun"] or {}).get("id") in runs)
            ask("POST", f"/scripts/{job}/cancel")

    thread = threading.Thread(target=strike)
    thread.start()
    with pytest.raises(cf.CallLostError) as caught:
        Parallel(2, backend="civis", batch_size=1)(delayed(raise_or_sleep)(HOUR) for _ in range(4))
    thread.join()
    assert caught.value.run_id
    assert not mine()


def die_the_first_time(path):
    try:
        os.mkdir(path)
        kill()
    except FileExistsError:
        return "done"


def test_a_lost_call_is_tried_again(tmp_path):
    with parallel_config("civis", n_jobs=2, max_retries=1):
        assert Parallel()([delayed(die_the_first_time)(str(tmp_path / "d"))]) == ["done"]


@pytest.mark.parametrize(("breaks", "error"), [
    ("here", cf.CallPicklingError), ("there", cf.CallUnpicklingError),
])  # fmt: skip
def test_an_argument_cannot_travel(breaks, error):
    with Parallel(2, backend="civis", batch_size=1) as parallel:
        with pytest.raises(error, match="LookupError: cannot be"):
            parallel(delayed(raise_or_sleep)(x) for x in (0.0, 0.0, 0.0, Sent(breaks), 60))
        assert parallel(delayed(square)(x) for x in range(2)) == [0, 1]


def test_an_argument_that_cannot_travel_comes_late():
    # By then joblib dispatches from a callback, where nobody sees what is raised.
    calls = [delayed(raise_or_sleep)(0.01)] * 20 + [delayed(raise_or_sleep)(Sent("here"))]
    with pytest.raises(cf.CallPicklingError, match="cannot be pickled"):
        Parallel(2, backend="civis", batch_size=1)(calls)


def test_a_result_cannot_travel():
    with Parallel(2, backend="civis", batch_size=1) as parallel:
        with pytest.raises(cf.OutcomePicklingError, match="lock"):
            parallel(delayed(lock_or_square)(x) for x in range(6))
        assert parallel(delayed(square)(x) for x in range(2)) == [0, 1]


def test_what_a_failure_left_behind_is_not_the_next_calls():
    # joblib makes batches for all containers at a time, and sends one: here two, and one of them.
    with Parallel(2, backend="civis", batch_size=1, pre_dispatch=1) as parallel:
        with pytest.raises(cf.OutcomePicklingError, match="lock"):
            parallel(delayed(lock_or_square)(x) for x in (0, 3, 5))
        assert parallel(delayed(square)(x) for x in range(2)) == [0, 1]


@pytest.mark.parametrize("return_as", mostly_repeats(MODES[1:], MODES[1]))
@pytest.mark.parametrize("late", ["told joblib", "did not yet"])
def test_a_batch_of_an_aborted_call_does_not_count_for_the_next(return_as, late, tmp_path):
    """It ends while the call is aborted, and comes between two steps of the next one."""
    ended, begun = threading.Event(), threading.Event()

    def hold(*_):
        if not ended.is_set():
            ended.set()
            begun.wait(0.5 if late == "told joblib" else SOON)

    with Parallel(2, backend="civis", batch_size=1, return_as=return_as) as parallel:
        backend = parallel._backend
        effective_n_jobs = backend.effective_n_jobs
        if late == "told joblib":
            backend.batch_completed = hold  # joblib calls it before it counts
        else:
            backend._executor._intake.batches.took = hold  # the callback before joblib's
        output = parallel(delayed(raise_or_sleep)(seconds) for seconds in (0, 60))
        assert ended.wait(SOON)
        with pytest.warns(UserWarning, match="cancelled"):
            output.close()

        def begin(n_jobs):
            begun.set()
            time.sleep(0.1)  # all flags are reset, and it is not yet another call
            return effective_n_jobs(n_jobs)

        backend.effective_n_jobs = begin
        go = tmp_path / "go"
        calls = [delayed(square)(2)] * 3 + [delayed(wait_for)(str(go))]
        output = parallel(calls)
        assert [next(output) for _ in range(3)] == [4, 4, 4]
        go.touch()
        assert list(output) == ["there"]  # had one more been counted, joblib would not wait for it


def wait_for(path):
    while not os.path.exists(path):
        time.sleep(0.01)
    return "there"


@pytest.mark.parametrize("error", [KeyboardInterrupt, SystemExit])
def test_reading_the_tasks_fails_late(error):
    """On the executor's thread, that is; joblib itself would take it for the end of the tasks."""

    def calls():
        for x in range(5):
            yield delayed(square)(x)
        raise error("of the tasks")

    with Parallel(2, backend="civis", pre_dispatch=2, batch_size=1) as parallel:
        with pytest.raises(error, match="of the tasks"):
            parallel(calls())
        assert parallel(delayed(square)(x) for x in range(2)) == [0, 1]


def test_a_broken_pool_is_replaced():
    flag = []

    def initializer():
        raise OSError("no disk")

    with parallel_config("civis", n_jobs=2, initializer=initializer):
        parallel = Parallel()
        for _ in range(2):
            flag.append(1)
            with parallel, pytest.raises(cf.BrokenContainerPool, match="no disk"):
                parallel(delayed(square)(x) for x in range(3))
            with pytest.raises(cf.BrokenContainerPool, match="no disk"):
                parallel(delayed(square)(x) for x in range(3))


def test_a_key_that_is_refused(monkeypatch):
    monkeypatch.setenv("CIVIS_API_KEY", "another")
    with pytest.raises(cf.BrokenContainerPool, match="401"):
        Parallel(2, backend="civis")(delayed(square)(x) for x in range(3))


def test_after_the_end_nothing_is_run(platform):
    with Parallel(2, backend="civis") as parallel:
        backend = parallel._backend
    with pytest.raises(RuntimeError, match="terminated"):
        backend.submit([(square, (1,), {})], print)


def test_a_failure_is_nothing_to_another_parallel(platform, until, mine):
    with parallel_config("civis", n_jobs=2):
        other = Parallel(return_as="generator")([delayed(raise_or_sleep)(1.5)])
        with pytest.raises(ZeroDivisionError):
            Parallel()([delayed(raise_or_sleep)(ZeroDivisionError())])
        assert list(other) == [None]
    until(lambda: not mine())


def test_a_batch_that_was_cancelled():
    parallel = Parallel(2, backend="civis")

    def cancel():
        time.sleep(0.5)
        parallel._backend._executor.cancel_all()

    thread = threading.Thread(target=cancel)
    thread.start()
    with pytest.raises(CancelledError, match=r"raise_or_sleep.*was cancelled"):
        parallel(delayed(raise_or_sleep)(HOUR) for _ in range(2))
    thread.join()


# --- images that are not fit -------------------------------------------------------------------


@pytest.mark.parametrize(("source", "error", "text"), [
    ("__version__ = '1.2.0'", cf.EnvironmentMismatchError,
     "joblib 1.5 or later, and the image has joblib 1.2.0 .* setup_cmd=.*joblib>=1.5"),
    ("raise ModuleNotFoundError('no', name='joblib')", cf.EnvironmentMismatchError,
     "needs the module 'joblib'.* install it with setup_cmd"),
], ids=["too old", "missing"])  # fmt: skip
def test_joblib_of_the_image(tmp_path, source, error, text):
    (tmp_path / "joblib").mkdir()
    (tmp_path / "joblib" / "__init__.py").write_text(source)
    factory = civis_joblib.make_backend_factory(setup_cmd=f"export PYTHONPATH={tmp_path}")
    with pytest.raises(error, match=text):
        Parallel(2, backend=factory())(delayed(square)(x) for x in range(3))


@pytest.mark.parametrize(
    "wrap", [lambda x: x, wrap_non_picklable_objects], ids=["plain", "wrapped"]
)
def test_the_source_of_what_failed(wrap):
    with parallel_config("civis", n_jobs=2), pytest.raises(ZeroDivisionError) as caught:
        Parallel()(delayed(wrap(halve))(x) for x in (1, 0))
    text = caught.value.__cause__.text
    assert f'File "{__file__}", line ' in text
    assert "in halve\n    return 1 / x  # of a test\n" in text
