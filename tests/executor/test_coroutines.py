"""Coroutine functions run in the container; generator functions are refused."""

from __future__ import annotations

import asyncio
import functools

import pytest
from tasks import SECONDS, by_value

from civis_futures import ContainerPoolExecutor

by_value(__name__)


async def double(number):
    await asyncio.sleep(0)
    return 2 * number


async def fail(number):
    await asyncio.sleep(0)
    return number / 0


class Doubles:
    async def __call__(self, number):
        return await double(number)

    async def method(self, number):
        return await double(number)


def plain(number):
    """Whose wrapper made it so, perhaps."""
    return double(number)


def yields(number):
    yield number


async def yields_and_awaits(number):
    yield number


class Yields:
    def __call__(self, number):
        yield number

    def method(self, number):
        yield number


WHAT_RUNS = [double, functools.partial(double), Doubles(), Doubles().method, plain]
KINDS = ["function", "partial", "object", "method", "other"]
GENERATORS = [yields, functools.partial(yields), Yields(), Yields().method, yields_and_awaits]


@pytest.mark.parametrize("function", WHAT_RUNS, ids=KINDS)
def test_coroutine_functions_run_in_the_container(reused, function):
    assert reused.submit(function, 4).result(SECONDS) == 8
    assert list(reused.map(function, range(3), chunksize=2)) == [0, 2, 4]


def test_what_a_coroutine_raises_is_the_outcome(reused):
    future = reused.submit(fail, 1)
    with pytest.raises(ZeroDivisionError) as caught:
        future.result(SECONDS)
    assert "in fail" in str(caught.value.__cause__)
    with pytest.raises(ZeroDivisionError):
        future.replay()


@pytest.mark.parametrize("function", GENERATORS, ids=KINDS)
def test_generator_functions_are_refused_at_once(reused, function):
    with pytest.raises(TypeError, match=r"generator function.*Return a list"):
        reused.submit(function, 4)
    with pytest.raises(TypeError, match="generator function"):
        reused.options(label="x").submit(function, 4)
    with pytest.raises(TypeError, match="generator function"):
        reused.map(function, [4])
    with pytest.raises(TypeError, match="generator function"):
        reused.submit_batch(function, [(4,)])
    with pytest.raises(TypeError, match="generator function"):
        ContainerPoolExecutor(1, platform="local", initializer=function)


def test_classes_whose_instances_are_iterated_are_called(reused):
    assert reused.submit(list, (1, 2)).result(SECONDS) == [1, 2]
    assert reused.submit(range, 3).result(SECONDS) == range(3)
