"""References: what is over is let go, here and in the workers."""

from __future__ import annotations

import gc
import os
import threading
import weakref
from concurrent.futures import wait

import pytest
from tasks import SECONDS, by_value

from civis_futures import ContainerFuture, ContainerPoolExecutor, MapResult

by_value(__name__)


class Thing:
    """It can be referred to weakly."""

    def __init__(self, *content):
        self.content = content

    def method(self):
        return len(self.content)


def make_thing(number=0):
    return Thing(number)


def count_things():
    """How many there are in this process."""
    gc.collect()
    return sum(type(thing).__name__ == "Thing" for thing in gc.get_objects())


def gone(reference):
    gc.collect()
    return reference() is None


def test_arguments_are_let_go_at_once(executor, until):
    thing = Thing()
    reference = weakref.ref(thing)
    future = executor.submit(thing.method)
    del thing
    until(lambda: gone(reference))
    assert future.result(SECONDS) == 0


def test_arguments_of_a_forgotten_future_are_let_go(reused, until):
    thing = Thing()
    reference = weakref.ref(thing)
    reused.submit(thing.method)
    del thing
    until(lambda: gone(reference))


def test_arguments_of_a_map_are_let_go(reused, until):
    references = []

    def things():
        for number in range(3):
            thing = Thing(number)
            references.append(weakref.ref(thing))
            yield thing

    results = reused.map(Thing.method, things())
    until(lambda: all(map(gone, references)))
    assert list(results) == [1, 1, 1]


def test_a_result_lives_as_long_as_its_future(executor, until):
    future = executor.submit(make_thing)
    reference = weakref.ref(future.result(SECONDS))
    assert not gone(reference)
    del future
    until(lambda: gone(reference))


def test_a_forgotten_future_is_let_go_when_it_is_done(executor, until):
    future = executor.submit(make_thing)
    ended = threading.Event()
    future.add_done_callback(lambda _: ended.set())
    reference = weakref.ref(future)
    del future
    assert ended.wait(SECONDS)
    until(lambda: gone(reference))


def test_an_exception_lives_as_long_as_its_future(reused, until):
    future = reused.submit(divmod, 1, 0)
    wait([future], SECONDS)
    reference = weakref.ref(future)
    del future
    until(lambda: gone(reference))


@pytest.fixture
def no_collector():
    """Only what nobody refers to is let go, and no cycle."""
    gc.collect()
    gc.disable()
    yield
    gc.enable()


FAILURES = {
    "raised": lambda pool: pool.submit(divmod, 1, 0),
    "crashed": lambda pool: pool.submit(os._exit, 3),
    "never sent": lambda pool: ContainerPoolExecutor.submit(pool, len, (each for each in [])),
    "no pickle": lambda pool: pool.submit(eval, "(each for each in [])"),
    "of another": lambda pool: pool.submit(abs, pool.submit(divmod, 1, 0)),
    "batch": lambda pool: pool.submit_batch(divmod, [(1, 0), (2, 0)]),
    "map": lambda pool: pool.map(divmod, [1, 2], [0, 0]),
    "chunks": lambda pool: pool.map(divmod, [1, 2], [0, 0], chunksize=2),
    "as they come": lambda pool: pool.map(divmod, [1, 2], [0, 0], ordered=False),
}


def locals_of_who_asked(failing, ask):
    """A variable of somebody who caught what `ask` raises, and the future."""
    thing, reference = Thing(), weakref.ref(failing)
    try:
        ask(failing)
    except Exception:
        del failing, ask
    return weakref.ref(thing), reference


@pytest.mark.parametrize("failure", FAILURES.values(), ids=FAILURES.keys())
def test_what_failed_keeps_nobody_alive(executor, until, no_collector, failure):
    """Neither a future nor those who asked for its result, as nobody waits for the collector."""
    ask = list if isinstance(failure(executor), MapResult) else ContainerFuture.result
    references = locals_of_who_asked(failure(executor), ask)
    until(lambda: not any(reference() for reference in references))


def test_a_result_that_travels_by_value_is_let_go(executor, until, no_collector):
    reference = weakref.ref(executor.submit(make_thing).result(SECONDS))
    until(lambda: reference() is None)


@pytest.mark.parametrize("options", [{}, {"chunksize": 3}, {"buffersize": 2}], ids=str)
def test_a_map_keeps_no_result_that_was_taken(executor, options):
    for thing in executor.map(make_thing, range(3), **options):
        reference = weakref.ref(thing)
        del thing
        gc.collect()
        assert reference() is None


def test_a_cancelled_future_is_let_go(make, until):
    executor = make(1)
    futures = [executor.submit(make_thing) for _ in range(5)]
    references = [weakref.ref(future) for future in futures]
    for future in futures:
        future.cancel()
    del future, futures
    until(lambda: all(map(gone, references)))


def test_a_worker_lets_go_of_arguments_and_results(reused, make_executor):
    executor = make_executor(1)
    assert executor.submit(Thing.method, Thing(1)).result(SECONDS) == 1
    assert executor.submit(make_thing).result(SECONDS).content == (0,)
    assert executor.submit(count_things).result(SECONDS) == 0


def test_an_executor_lets_go_of_its_platform(make, until):
    executor = make(1)
    executor.submit(pow, 2, 2).result(SECONDS)
    manager = weakref.ref(executor._manager)
    executor.shutdown()
    del executor
    until(lambda: gone(manager))
