"""`@executor.parallel`, `@require` and `options(requires=)`."""

from __future__ import annotations

import os
import pickle

import cloudpickle
import pytest
from tasks import by_value

import civis_futures as cf
from civis_futures import ParallelFunction, require

by_value(__name__)

HERE = os.getpid()


def where(_=None):
    """Which process."""
    return os.getpid()


@require("json", "math")
def area(radius, scale=1.0):
    import math

    return scale * math.pi * radius**2


@require("shop_that_nobody_has")
def sell():
    return "sold"


def test_a_function_on_a_pool(reused):
    f = reused.parallel(where)
    assert f() == HERE
    assert f.submit().result() != HERE
    assert HERE not in f.map(range(3))
    assert (f.__name__, f.__doc__) == ("where", "Which process.")
    assert "where" in repr(f)


def test_as_the_seed_shows_it(reused):
    @reused.parallel()
    def f(x):
        return 10.0 * x**4

    assert list(f.map(range(32))) == [10.0 * x**4 for x in range(32)]


def test_with_options(reused):
    @reused.parallel(label="an area", timeout=60)
    def f(x):
        return x * x

    future = f.submit(3)
    assert future.result() == 9
    assert future.task.startswith("an area")
    results = f.map([1, 2], [3, 4], return_exceptions=True, ordered=False)
    assert [type(each) for each in results] == [TypeError] * 2
    with pytest.raises(TypeError, match="no option 'labels': did you mean 'label'"):
        reused.parallel(labels="x")


def test_in_a_call_it_is_the_function_alone(reused):
    @reused.parallel
    def countdown(n):
        return [n, *(countdown(n - 1) if n else [])]

    assert countdown.submit(2).result() == [2, 1, 0]
    assert reused.submit(countdown, 2).result() == [2, 1, 0]
    assert list(reused.map(lambda f, n: f(n), [countdown], [1])) == [[1, 0]]
    arrived = pickle.loads(cloudpickle.dumps(countdown))
    assert not isinstance(arrived, ParallelFunction)
    assert arrived(1) == [1, 0]


def test_what_a_function_requires(reused):
    assert area(1.0) == pytest.approx(3.14159, rel=1e-4)
    assert area.__name__ == "area"
    assert reused.submit(area, 1.0, scale=2.0).result() == pytest.approx(6.28318, rel=1e-4)
    assert sell() == "sold"  # here, nothing is checked
    with pytest.raises(
        cf.EnvironmentMismatchError, match="needs the module 'shop_that_nobody_has'"
    ):
        reused.submit(sell).result()
    with pytest.raises(cf.EnvironmentMismatchError):
        reused.parallel(sell).submit().result()


def test_it_is_checked_wherever_it_is_in_a_call(reused):
    with pytest.raises(cf.EnvironmentMismatchError, match="shop_that_nobody_has"):
        reused.submit(lambda functions: functions[0](), [sell]).result()


def test_requirements_of_single_calls(reused):
    view = reused.options(requires={"json": "1.0"})
    assert view.submit(pow, 2, 3).result() == 8
    assert list(view.map(pow, [2], [3])) == [8]
    future = reused.options(requires={"json": "99"}).submit(pow, 2, 3)
    with pytest.raises(cf.EnvironmentMismatchError, match="needs json 99 or later"):
        future.result()
    with pytest.raises(ValueError, match="requires is part of the call"):
        future.resubmit(requires=None)


@pytest.mark.parametrize("given", [(), (len,), (1,)])
def test_require_takes_names(given):
    with pytest.raises(TypeError, match="names of modules"):
        require(*given)


def test_requires_is_a_mapping(reused):
    with pytest.raises(TypeError, match="must be a mapping"):
        reused.options(requires=["json"])
