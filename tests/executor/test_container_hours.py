"""`max_container_hours`: when containers have run for so long, what has not begun is given up."""

from __future__ import annotations

import pytest
from joblib import Parallel, delayed, parallel_config
from tasks import SECONDS, square, wait_at

import civis_joblib
from civis_futures import ContainerHoursError, TaskState, WarmPool

#: Less than any call takes that waits for its gate to be opened after it.
SOON = 0.2 / 3600


def test_what_runs_goes_on_and_the_rest_is_given_up(make_executor, gate, until, mine):
    executor = make_executor(1, max_container_hours=SOON)
    first = executor.submit(wait_at, gate.path, 1)
    rest = [executor.submit(square, number) for number in range(3)]
    waits = executor.submit(square, first)
    errors = [future.exception(SECONDS) for future in (*rest, waits)]
    assert [type(error) for error in errors] == [ContainerHoursError] * 4
    error = errors[0]
    assert error.limit == SOON <= error.used
    assert str(error).startswith(f"{rest[0].task}")  # and its run, if it was given to one
    assert (
        f" was given up: containers have run for {error.used:.4g} hours, and "
        f"max_container_hours is {SOON:.4g}. "
    ) in str(error)
    assert "open another executor, with more hours" in str(error)
    assert not first.done()
    gate.open()
    assert first.result(SECONDS) == 1
    assert isinstance(executor.submit(square, 2).exception(SECONDS), ContainerHoursError)
    until(lambda: not mine())  # an idle container ends at once
    assert executor.broken is None
    assert rest[0].resubmit().exception(SECONDS).limit == SOON


def test_calls_in_hand_are_all_that_it_goes_beyond(make_executor, gate, until):
    """Those that a worker has ahead of time come back."""
    executor = make_executor(2, max_container_hours=SOON)
    futures = [executor.submit(wait_at, gate.path, number) for number in range(40)]
    until(lambda: sum(future.done() for future in futures) >= 38)
    gate.open()
    ends = [future.exception(SECONDS) for future in futures]
    assert ends.count(None) <= 2 < len(ends) - ends.count(None)
    assert {type(end) for end in ends if end} == {ContainerHoursError}


def test_what_fails_after_that_fails_with_its_own_error(make_executor, gate, until):
    executor = make_executor(1, max_container_hours=SOON)
    view = executor.options(max_retries=3, retry_on=ZeroDivisionError)
    failing = view.submit(fail_at, gate.path)
    needs = executor.options(after=failing).submit(square, 1)
    assert isinstance(needs.exception(SECONDS), ContainerHoursError)
    gate.open()
    assert isinstance(failing.exception(SECONDS), ZeroDivisionError)
    assert len(failing.attempts) == 1


def fail_at(gate):
    return wait_at(gate, 1) / 0


def test_a_session_goes_on_with_what_is_missing(make_executor, gate, until):
    name = "used up"
    with make_executor(1, session=name, max_container_hours=SOON) as executor:
        first = executor.submit(wait_at, gate.path, 1)
        second = executor.submit(square, 7)
        assert isinstance(second.exception(SECONDS), ContainerHoursError)
        gate.open()
        assert first.result(SECONDS) == 1
    with make_executor(1, session=name) as executor:
        assert executor.submit(wait_at, gate.path, 1).result(SECONDS) == 1
        assert executor.submit(square, 7).result(SECONDS) == 49
    assert len(gate.arrived) == 1


def test_joblib_has_it_too(platform, gate):
    civis_joblib.register()
    with (
        parallel_config("civis", n_jobs=2, platform=platform, max_container_hours=SOON),
        pytest.raises(ContainerHoursError, match="max_container_hours"),
    ):
        Parallel()(delayed(wait_at)(gate.path, number) for number in range(8))
    gate.open()
    WarmPool.end_all()
    with pytest.raises(ValueError, match="max_container_hours must be a finite number"):
        parallel_config("civis", max_container_hours=0)


def test_without_a_limit_there_is_none(make_executor):
    future = make_executor(1, max_container_hours=None).submit(square, 2)
    assert (future.result(SECONDS), future.state) == (4, TaskState.SUCCEEDED)


@pytest.mark.parametrize(
    ("hours", "error", "text"),
    [
        (0, ValueError, "a finite number of hours, above 0"),
        (-1, ValueError, "a finite number of hours, above 0"),
        (float("inf"), ValueError, "a finite number of hours, above 0"),
        (float("nan"), ValueError, "a finite number of hours, above 0"),
        ("3", TypeError, "a number, not '3'"),
        (True, TypeError, "a number, not True"),
        ([1], TypeError, r"a number, not \[1\]"),
    ],
)
def test_what_cannot_be_a_limit(make_executor, hours, error, text):
    with pytest.raises(error, match=f"max_container_hours must be {text}"):
        make_executor(1, max_container_hours=hours)
