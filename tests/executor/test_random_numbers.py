"""A generator that several calls carry in one state gives all of them the same numbers."""

from __future__ import annotations

import copy
import random
import re
import warnings
from functools import partial

import numpy as np
import pytest
from tasks import SECONDS, by_value

by_value(__name__)

gen = np.random.default_rng(123)


def of_a_global(_):
    return gen.random()


def of_a_default(_, rng=np.random.default_rng(2)):  # noqa: B008
    return rng.random()


def of_an_argument(rng):
    return rng.random()


def in_a_list(given):
    return given[0].random()


class Model:
    def __init__(self):
        self.rng = np.random.default_rng(3)

    def draw(self):
        return self.rng.random()


def of_a_closure():
    rng = random.Random(4)

    def draw():
        return rng.random()

    return draw


WAYS = {
    "global": (partial(of_a_global, 0), "global 'gen' -> numpy.random._generator.Generator"),
    "default": (partial(of_a_default, 0), "default of 'rng' -> numpy"),
    "argument": (partial(of_an_argument, np.random.RandomState(1)), "numpy.random.mtrand.Random"),
    "list": (partial(in_a_list, [random.Random(1)]), r"\[0\] -> random.Random"),
    "attribute": (Model().draw, "attribute 'rng' -> numpy"),
    "closure": (of_a_closure(), "closure 'rng' -> random.Random"),
    "method": (np.random.default_rng(5).random, "Generator"),
}


@pytest.mark.parametrize("way", WAYS)
def test_a_cloned_generator_is_told_once(reused, way):
    is_told_once(reused, *WAYS[way])


@pytest.mark.repeats
def test_a_cloned_generator_of_an_estimator_is_told_once(reused):
    from sklearn.ensemble import RandomForestClassifier

    forest = RandomForestClassifier(random_state=np.random.RandomState(6))
    is_told_once(reused, forest.get_params, "'random_state'")


def is_told_once(reused, function, where):
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        futures = [reused.submit(function) for _ in range(3)]
    for future in futures:
        future.result(SECONDS)
    (one,) = told
    assert issubclass(one.category, UserWarning)
    assert "/tests/" in one.filename  # not a line of ours
    pattern = r"\(task \d+\) carries a generator .* in which .* \(task \d+\) has carried it"
    assert re.search(pattern, str(one.message))
    assert re.search(where, str(one.message))


def test_a_map_that_clones_is_told(reused):
    def draw(_):
        return gen.random()

    with pytest.warns(UserWarning, match="draw .*global 'gen'"):
        list(reused.map(draw, range(4), chunksize=2))


def test_what_is_large_is_looked_at_too(reused):
    rng, data = np.random.default_rng(7), bytes(range(256)) * 400

    def draw(_):
        return rng.random(), len(data)

    with pytest.warns(UserWarning, match="closure 'rng'"):
        futures = [reused.submit(draw, number) for number in range(3)]
    for future in futures:
        future.result(SECONDS)


def test_states_that_differ_are_no_clones(reused):
    rng = np.random.default_rng(8)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        futures = []
        for seed in range(3):
            rng.random()  # it goes on between the calls
            futures.append(reused.submit(of_an_argument, rng))
            futures.append(reused.submit(of_an_argument, np.random.RandomState(seed)))
        futures += [reused.submit(abs, 1)] * 2
        results = list(reused.map(lambda _, rng: rng.random(), range(3), seed=1))
    values = [future.result(SECONDS) for future in futures[:6]]
    assert len({*values, *results}) == 9


def test_copies_in_one_state_draw_the_same_numbers_here_too(reused):
    """As scikit-learn gives each of its calls a copy, for them to split data in the same way."""
    rng = np.random.RandomState(9)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        futures = [reused.submit(of_an_argument, copy.deepcopy(rng)) for _ in range(3)]
    assert {future.result(SECONDS) for future in futures} == {rng.random()}


def test_who_means_it_can_filter_it(reused):
    def draw(_):
        return gen.random()

    with warnings.catch_warnings():
        warnings.simplefilter("error")
        warnings.filterwarnings("ignore", ".*carries a generator of random numbers")
        assert len(list(reused.map(draw, range(3)))) == 3
