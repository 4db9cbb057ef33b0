"""`submit`: what is called comes back, as a result or as the exception that it raised."""

from __future__ import annotations

import concurrent.futures
import functools
import traceback

import pytest
from tasks import SECONDS, by_value, wait_at

from civis_futures import CallPicklingError, OutcomeUnpicklingError, RemoteTraceback

#: For what should take a moment; a test that waits so long fails.

by_value(__name__)


def capture(*args, **kwargs):
    return args, kwargs


def first_of(value):
    return value


def fail(make_error, *args):
    raise make_error(*args)


def fail_because():
    try:
        {}["the reason"]
    except KeyError as error:
        raise ValueError("the consequence") from error


class Adder:
    def __init__(self, number):
        self.number = number

    def __call__(self, other):
        return self.number + other

    def method(self, other):
        return self.number + other

    @classmethod
    def of_class(cls, other):
        return cls(20).number + other

    @staticmethod
    def static(other):
        return 20 + other


class TwoPartsError(Exception):
    """Its `args` are not what its `__init__` takes, but it says how to make it again."""

    def __init__(self, code, *, hint):
        super().__init__(f"{code}: {hint}")
        self.code, self.hint = code, hint

    def __reduce__(self):
        return functools.partial(type(self), self.code, hint=self.hint), ()


class ForgetfulError(Exception):
    """It cannot be made again from its `args`."""

    def __init__(self, code, hint):
        super().__init__(f"{code}: {hint}")


class StubbornError(Exception):
    """Nothing can be set on it, neither a cause nor a note: e.g. a frozen dataclass."""

    def __setattr__(self, name, value):
        raise AttributeError(f"{name} is read-only")


class NoNotesError(Exception):
    """It has an attribute that `add_note` does not expect."""

    def __init__(self, *args):
        super().__init__(*args)
        self.__notes__ = "not a list"


class UnprintableError(Exception):
    def __str__(self):
        raise RuntimeError("no text")


class RoughError(BaseException):
    """Not an Exception."""


# --- calls and their results -------------------------------------------------------------------


def test_a_call_returns_its_result(executor):
    assert executor.submit(pow, 2, 8).result(SECONDS) == 256


def test_keywords_may_have_any_name(executor):
    future = executor.submit(capture, 1, self=2, fn=3, timeout=4)
    assert future.result(SECONDS) == ((1,), {"self": 2, "fn": 3, "timeout": 4})


@pytest.mark.parametrize("kwargs", [{}, {"arg": 1}, {"fn": capture, "arg": 1}])
def test_the_function_is_given_by_position(executor, kwargs):
    with pytest.raises(TypeError):
        executor.submit(**kwargs)


def test_anything_callable_can_be_called(executor):
    offset = 20
    callables = [
        Adder(20),
        Adder(20).method,
        Adder.of_class,
        Adder.static,
        lambda other: offset + other,
        functools.partial(int.__add__, 20),
        (20).__add__,
    ]
    futures = [executor.submit(function, 2) for function in callables]
    assert [future.result(SECONDS) for future in futures] == [22] * len(callables)


def test_every_value_comes_back_as_it_is(executor):
    values = (None, False, (), "", b"\x00", float("inf"), "ü\n'\"💥", {1: {2}}, ...)
    assert executor.submit(capture, *values).result(SECONDS) == (values, {})
    assert executor.submit(first_of, None).result(SECONDS) is None


def test_a_new_future_is_pending(executor, gate):
    future = executor.submit(wait_at, gate.path, "value")
    assert isinstance(future, concurrent.futures.Future)
    assert not future.done()
    assert not future.cancelled()
    gate.open()
    assert future.result(SECONDS) == "value"
    assert future.done()
    assert not future.running()
    assert not future.cancelled()
    assert future.exception() is None


def test_submit_returns_before_any_container_starts(make, platform):
    executor = make(1)
    runs = platform.stats().runs_started
    future = executor.submit(pow, 2, 2)
    assert platform.stats().runs_started == runs or not future.done()
    assert future.result(SECONDS) == 4


def test_arguments_are_taken_as_they_are_now(executor):
    values = [1]
    future = executor.submit(capture, values)
    values.append(2)
    assert future.result(SECONDS) == (([1],), {})


def test_what_cannot_be_pickled_is_the_futures_error(executor):
    future = executor.submit(capture, (x for x in "ab"))
    assert future.done()
    with pytest.raises(CallPicklingError, match="generator"):
        future.result()
    assert executor.submit(pow, 2, 2).result(SECONDS) == 4


@pytest.mark.parametrize("call", ["submit(5)", "map(5, [1])", "map([1], abs)", "parallel(5)"])
def test_what_is_not_callable_is_refused_at_once(executor, call):
    with pytest.raises(TypeError, match=r"not callable: .* as in submit.f, 1. and not submit.f.1"):
        eval(f"executor.{call}", {"executor": executor})


# --- exceptions --------------------------------------------------------------------------------


ERRORS = [
    ValueError("a text", 2),
    OSError(2, "No such file", "name"),
    StopIteration(3),
    TimeoutError("its own"),
    concurrent.futures.CancelledError("its own"),
    ExceptionGroup("both", [ValueError(1), TypeError(2)]),
    GeneratorExit(),
    RoughError(1),
]


def test_every_exception_arrives_as_itself(executor):
    futures = [executor.submit(fail, type(error), *error.args) for error in ERRORS]
    for future, error in zip(futures, ERRORS, strict=True):
        found = future.exception(SECONDS)
        assert type(found) is type(error)
        assert repr(found.args) == repr(error.args)
        with pytest.raises(type(error)):
            future.result()


@pytest.mark.parametrize("error", [SystemExit(3), KeyboardInterrupt("there")], ids=repr)
def test_what_would_end_a_process_does_not_end_the_pool(executor, error):
    raised = executor.submit(fail, type(error), *error.args)
    after = [executor.submit(pow, 2, 2) for _ in range(2)]
    assert type(raised.exception(SECONDS)) is type(error)
    assert raised.exception().args == error.args
    assert [future.result(SECONDS) for future in after] == [4] * 2
    with pytest.raises(type(error)):
        raised.result()


def test_the_remote_traceback_is_the_cause(executor):
    error = executor.submit(fail, RuntimeError, 123).exception(SECONDS)
    assert isinstance(error.__cause__, RemoteTraceback)
    assert "RuntimeError: 123" in str(error.__cause__)
    assert "in fail\n" in str(error.__cause__)


def test_the_remote_traceback_is_printed_with_the_exception(executor):
    with pytest.raises(RuntimeError) as caught:
        executor.submit(fail, RuntimeError, 123).result(SECONDS)
    text = "".join(traceback.format_exception(caught.value))
    assert "in fail\n" in text  # from there
    assert "test_the_remote_traceback_is_printed" in text  # from here


def test_a_chain_of_exceptions_is_told(executor):
    error = executor.submit(fail_because).exception(SECONDS)
    assert type(error) is ValueError
    assert "KeyError: 'the reason'" in str(error.__cause__)
    assert "direct cause" in str(error.__cause__)


def test_each_raise_of_a_result_has_its_own_traceback(executor):
    errors = [executor.submit(fail, ValueError, 1).exception(SECONDS) for _ in range(2)]
    assert errors[0] is not errors[1]
    assert errors[0].__cause__ is not errors[1].__cause__


def test_an_exception_may_say_how_it_is_pickled(executor):
    error = executor.submit(fail, functools.partial(TwoPartsError, 5, hint="x")).exception(SECONDS)
    assert type(error) is TwoPartsError
    assert (error.code, error.hint) == (5, "x")


def test_an_exception_that_cannot_be_made_again_is_told(executor):
    # A process pool is broken by it.
    error = executor.submit(fail, ForgetfulError, 5, "the hint").exception(SECONDS)
    assert isinstance(error, OutcomeUnpicklingError)
    assert "the hint" in "".join(traceback.format_exception(error))
    assert executor.submit(pow, 2, 2).result(SECONDS) == 4


def test_no_exception_hangs_its_future(executor):
    kinds = [StubbornError, NoNotesError, UnprintableError]
    futures = [executor.submit(fail, kind, 1) for kind in kinds]
    for kind, future in zip(kinds, futures, strict=True):
        assert isinstance(future.exception(SECONDS), kind | OutcomeUnpicklingError)
    assert executor.submit(pow, 2, 2).result(SECONDS) == 4


# --- timeouts ----------------------------------------------------------------------------------


def test_waiting_has_its_limit(executor, gate):
    future = executor.submit(wait_at, gate.path, 1)
    for seconds in (0, 0.05, -1):
        with pytest.raises(concurrent.futures.TimeoutError):
            future.result(timeout=seconds)
        with pytest.raises(concurrent.futures.TimeoutError):
            future.exception(timeout=seconds)
    assert not future.done()  # a timeout gives up waiting, not the call
    gate.open()
    assert future.result(SECONDS) == 1
