"""dask's own collections, computed on the pool by dask's scheduler for executors."""

from __future__ import annotations

import operator
import os

import pytest

dask = pytest.importorskip("dask")
import dask.array as da  # noqa: E402
import dask.bag as db  # noqa: E402
import numpy as np  # noqa: E402
from dask.local import get_async  # noqa: E402

HERE = os.getpid()


@pytest.fixture
def on_the_pool(reused):
    with dask.config.set(scheduler=reused):
        yield reused


def test_delayed(on_the_pool):
    inc = dask.delayed(lambda x: x + 1)
    add = dask.delayed(operator.add)
    z = add(inc(1), inc(2))
    assert z.compute() == 5
    assert dask.compute(z, inc(z)) == (5, 6)
    total = dask.delayed(sum)([inc(x) if x % 2 else dask.delayed(abs)(x) for x in range(8)])
    assert total.compute() == 32


def test_it_is_computed_elsewhere(on_the_pool):
    where = dask.compute(*(dask.delayed(os.getpid, pure=False)() for _ in range(4)))
    assert HERE not in where


def test_a_bag(on_the_pool):
    bag = db.from_sequence(range(20), npartitions=4)
    assert bag.filter(lambda n: n % 2).map(lambda n: n * n).sum().compute() == 1330
    counted = bag.groupby(lambda n: n % 3).starmap(lambda key, group: (key, len(group)))
    assert sorted(counted.compute()) == [(0, 7), (1, 7), (2, 6)]


def test_an_array(on_the_pool):
    x = da.from_array(np.arange(10_000.0).reshape(100, 100), chunks=(50, 50))
    y = (x + x.T)[::2, 50:].mean(axis=1)
    plain = np.arange(10_000.0).reshape(100, 100)
    np.testing.assert_allclose(y.compute(), (plain + plain.T)[::2, 50:].mean(axis=1))
    assert float(x.persist().sum().compute()) == plain.sum()


def test_a_failure(on_the_pool):
    bad = dask.delayed(operator.truediv)(1, dask.delayed(abs)(0))
    with pytest.raises(ZeroDivisionError):
        dask.delayed(abs)(bad).compute()


def test_data_that_many_tasks_share_goes_up_once(make_executor, platform):
    x = dask.delayed(np.random.default_rng(1).random(250_000))  # 2 MB
    parts = [dask.delayed(lambda a, n: float(a[n]))(x, n) for n in range(8)]
    before = platform.stats().upload_bytes
    with make_executor(2) as executor:
        assert len(set(dask.compute(*parts, scheduler=executor))) == 8
    assert platform.stats().upload_bytes - before < 4_000_000


def test_options_of_calls(make_executor):
    with make_executor(2) as executor:
        view, futures = executor.options(label="a part"), []

        def submit(*call, **kwargs):
            futures.append(view.submit(*call, **kwargs))
            return futures[-1]

        def get(graph, keys, **options):
            return get_async(submit, 2, graph, keys, **options)

        assert dask.compute(dask.delayed(abs)(-1), scheduler=get) == (1,)
        assert {future.task for future in futures} == {"a part (task 0)"}
