"""Large arrays and shared data: uploaded once, fetched once per worker, the same for all calls.

Counts do not flicker. Arrays are of 3 MB here; `make bench` has them of 100 MB.
"""

from __future__ import annotations

import functools
import json
import os
import pickle
import subprocess
import sys
import threading
from datetime import UTC, datetime, timedelta

import numpy as np
import pytest
from by_hand import ask, get
from cases import mostly_repeats
from tasks import by_value

import civis_futures as cf
from civis_futures._pool.launch import bundle
from civis_futures.local import LocalPlatform

by_value(__name__)

LENGTH = 360_000
SIZE = 8 * LENGTH
#: The worker's program, small calls and results: more than that besides data is too much.
REST = 1_000_000


@pytest.fixture(scope="module")
def quiet():
    """A platform that nobody else uses meanwhile."""
    with LocalPlatform(cores=32) as platform:
        yield platform


@pytest.fixture
def counted(quiet):
    quiet.reset()
    return quiet


@pytest.fixture
def cache(tmp_path, monkeypatch):
    """A cache folder of the test's own."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def array(cache, new_process):
    """One that no test has uploaded."""
    return np.random.default_rng().random(LENGTH)


@pytest.fixture
def pool(counted):
    """pool(workers): an executor on the platform that counts."""
    made = []

    def make(workers=1, **options):
        made.append(cf.ContainerPoolExecutor(workers, **{"platform": counted, **options}))
        return made[-1]

    yield make
    for executor in made:
        executor.shutdown(cancel_futures=True)


def entries(cache):
    """Of all content but the worker's program."""
    return [path for path in cache.rglob("*") if path.is_file() and path.name != bundle().sha256]


def set_expiry(platform, cache, when):
    """All Files that the cache folder knows of expire then; their ids."""
    found = [json.loads(path.read_text())["file_id"] for path in entries(cache)]
    for file_id in found:
        ask(platform, "PATCH", f"/files/{file_id}", {"expiresAt": when})
    return found


def expire_data(platform, cache):
    """They are gone, as if they had been deleted."""
    set_expiry(platform, cache, "2020-01-01T00:00:00Z")


def total(array, _=None):
    return float(array.sum())


def first(array, _=None):
    return float(array[0])


def poke(array):
    array[0] = -1.0


def kind(array):
    return array.flags.writeable, type(array).__name__


# --- once ----------------------------------------------------------------------------------------


def test_an_array_goes_up_once_and_to_each_worker_once(counted, pool, array):
    with pool(4) as executor:
        found = list(executor.map(total, [array] * 24, range(24)))
    assert found == [float(array.sum())] * 24
    stats = counted.stats()
    assert SIZE <= stats.upload_bytes <= 1.05 * SIZE + REST
    assert stats.count("POST", "/files", "client") == 2  # the worker's program, the array
    assert stats.downloads == 2 * stats.runs_started
    assert stats.runs_started <= 4
    assert stats.download_bytes <= (1.05 * SIZE + REST) * stats.runs_started


def test_a_second_executor_uploads_nothing_of_it(counted, pool, array):
    assert pool().submit(total, array).result(60) == total(array)
    counted.reset()
    assert pool().submit(total, array.copy()).result(60) == total(array)
    stats = counted.stats()
    assert stats.upload_bytes < REST
    assert stats.count("GET", "/files/{id}", "client") == 0  # it is known to be there


SECOND = """
import sys, numpy
from civis_futures import ContainerPoolExecutor

class Platform:
    url, api_key = sys.argv[1:3]

with ContainerPoolExecutor(1, platform=Platform) as executor:
    print(executor.submit(sum, numpy.load(sys.argv[3])[:200_000]).result())
"""


def test_a_new_process_uploads_nothing_of_it(counted, pool, cache, array, tmp_path):
    np.save(tmp_path / "array.npy", array)
    arguments = [counted.url, counted.api_key, str(tmp_path / "array.npy")]
    expected = pool().submit(sum, array[:200_000]).result(60)
    counted.reset()
    environment = {**os.environ, "XDG_CACHE_HOME": str(cache)}
    done = subprocess.run(
        [sys.executable, "-c", SECOND, *arguments],
        env=environment, capture_output=True, text=True, timeout=60, check=True,
    )  # fmt: skip
    assert float(done.stdout) == float(expected)
    stats = counted.stats()
    assert stats.upload_bytes < REST
    assert stats.count("GET", "/files/{id}", "client") == 2  # are they there, program and array?
    assert counted.api_key not in "".join(str(path) + path.read_text() for path in entries(cache))


def test_changed_in_place_is_uploaded_again_and_no_earlier_call_sees_it(counted, pool, array):
    executor = pool(2)
    was = first(array)
    early = executor.submit(first, array)
    array[0] = 42.0
    late = executor.submit(first, array)
    assert (early.result(60), late.result(60)) == (was, 42.0)
    assert 2 * SIZE <= counted.stats().upload_bytes <= 2 * 1.05 * SIZE + REST


def test_many_threads_upload_once(counted, pool, array):
    executor, futures = pool(2), []

    def submit():
        futures.append(executor.submit(total, array.copy()))

    threads = [threading.Thread(target=submit) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [future.result(60) for future in futures] == [total(array)] * 8
    assert counted.stats().upload_bytes <= 1.05 * SIZE + REST


def test_two_executors_at_once_upload_once(counted, pool, array):
    futures = [executor.submit(total, array) for executor in (pool(), pool(), pool())]
    assert [future.result(60) for future in futures] == [total(array)] * 3
    assert counted.stats().count("POST", "/files", "client") == 2  # the worker's program, the array


def test_a_cancelled_call_does_not_take_the_upload_along(counted, pool, array):
    executor = pool()
    gone = executor.submit(total, array)
    stays = executor.submit(total, array)
    assert gone.cancel()
    assert stays.result(60) == total(array)
    assert counted.stats().upload_bytes <= 1.05 * SIZE + REST


def test_a_chunk_has_its_array_once(counted, pool, array):
    assert list(pool().map(total, [array] * 6, range(6), chunksize=3)) == [total(array)] * 6
    assert counted.stats().upload_bytes <= 1.05 * SIZE + REST


def test_a_function_may_bring_an_array(counted, pool, array):
    executor = pool()
    futures = [executor.submit(lambda n: array[n], n) for n in range(3)]
    assert [future.result(60) for future in futures] == list(array[:3])
    assert counted.stats().upload_bytes <= 1.05 * SIZE + REST


# --- in the task ---------------------------------------------------------------------------------


def test_writing_into_it_is_an_error_and_no_sibling_sees_it(pool, array):
    executor = pool(2)
    futures = [executor.submit(poke if n % 2 else total, array) for n in range(6)]
    for future in futures[1::2]:
        with pytest.raises(ValueError, match="read-only"):
            future.result(60)
    assert [future.result(60) for future in futures[::2]] == [total(array)] * 3


def whole_and_parts(array):
    return array, array[:100_000], array[5:10], array[::3], {"in a dict": array.reshape(600, -1).T}


def in_an_exception(array):
    raise ValueError(array[:10])


def with_a_function(array):
    return array[:10], lambda: array


def test_what_a_task_returns_of_it_is_the_callers_own(pool, array):
    executor = pool()
    *arrays, nested = executor.submit(whole_and_parts, array).result(60)
    error = executor.submit(in_an_exception, array).exception(60)
    small, function = executor.submit(with_a_function, array).result(60)
    arrays += [*nested.values(), error.args[0], small, function()]
    for each, same in zip(arrays, whole_and_parts(array)[:4], strict=False):
        np.testing.assert_array_equal(each, same)
    assert nested["in a dict"].flags.f_contiguous
    for each in arrays:
        each[...] = 0


def test_a_failed_call_can_be_replayed_here_with_its_arrays(pool, array):
    executor = pool()
    future = executor.submit(poke, array)
    assert isinstance(future.exception(60), ValueError)
    with pytest.raises(ValueError, match="read-only"):
        future.replay()
    words = executor.put(["word"] * 100_000)
    future = executor.submit(lambda x, w: {}[len(x) + len(w)], array, words)
    assert isinstance(future.exception(60), KeyError)
    with pytest.raises(KeyError, match="460000"):
        future.replay()


def test_arrays_of_all_sorts(pool, array):
    table = array.reshape(600, 600)
    executor = pool()
    for given in (table, table.T, table[::2], array.astype("f4"), np.asfortranarray(table)):
        there, layout = executor.submit(lambda x: (x.sum(axis=0), x.flags.forc), given).result(60)
        np.testing.assert_array_equal(there, given.sum(axis=0))
        assert layout == (given.flags.forc or not given.flags.contiguous)
    assert executor.submit(kind, array).result(60) == (False, "ndarray")
    assert executor.submit(kind, array[:100]).result(60) == (True, "ndarray")
    same = executor.submit(lambda pair: pair[0] is pair[1], [array, array])
    assert same.result(60)


def test_what_a_task_returns_of_it_is_whole(pool, array):
    np.testing.assert_array_equal(pool().submit(np.asarray, array).result(60), array)


def test_a_list_of_arrays_costs_no_request_for_each(counted, pool, new_process):
    arrays = [np.full(130_000, n, dtype=float) for n in range(20)]
    assert pool().submit(lambda some: [x[0] for x in some], arrays).result(60) == list(range(20))
    assert counted.stats().count("POST", "/files", "client") <= 16 + 2


def keep(array, handle):
    global kept
    kept = array, handle


def test_an_initializer_may_have_both(counted, pool, array):
    handle = pool().put({"name": "x"})
    for _ in range(2):
        executor = pool(2, initializer=keep, initargs=(array, handle))
        found = list(executor.map(lambda _: (total(kept[0]), kept[1]["name"]), range(4)))
        assert found == [(total(array), "x")] * 4
        with pytest.raises(ValueError, match="read-only"):
            executor.submit(lambda: poke(kept[0])).result(60)
        executor.shutdown()
    assert counted.stats().upload_bytes <= 1.05 * SIZE + REST


# --- what a function carries ---------------------------------------------------------------------

TABLE = {f"key {number}": list(range(number, number + 20)) for number in range(15_000)}


def of_global(number):
    return len(TABLE[f"key {number}"]), id(TABLE)


def closure():
    table = list(TABLE.values())
    return lambda number: (len(table[number]), 0)


def default(number, table=TABLE):
    return len(table[f"key {number}"]), 0


class Looking:
    def __init__(self):
        self.table = TABLE

    def look(self, number):
        return len(self.table[f"key {number}"]), 0

    __call__ = look


CARRIERS = {
    "global": of_global, "closure": closure(), "default": default, "method": Looking().look,
    "callable": Looking(), "partial": functools.partial(default, table=TABLE),
}  # fmt: skip


@pytest.mark.parametrize("carrier", mostly_repeats(CARRIERS, "global", "method"))
def test_what_each_call_of_a_function_carries_goes_up_once(counted, pool, new_process, carrier):
    size = len(pickle.dumps(TABLE))
    with pool(2) as executor:
        assert executor.submit(abs, -1).result(60) == 1  # now the worker's program is there
        before = counted.stats()
        futures = [executor.submit(CARRIERS[carrier], n) for n in range(8)]
        assert [future.result(60)[0] for future in futures] == [20] * 8
        assert list(executor.map(CARRIERS[carrier], range(8), chunksize=4))
    assert size > 1_000_000
    assert counted.stats().upload_bytes - before.upload_bytes < 1.2 * size
    assert counted.stats().uploads - before.uploads == 1


def test_such_a_global_is_unpickled_once_in_a_process_and_again_if_it_changes(pool, monkeypatch):
    executor = pool(1)
    assert len(set(executor.map(of_global, range(4)))) == 1
    monkeypatch.setitem(TABLE, "key 1", [1])
    assert executor.submit(of_global, 1).result(60)[0] == 1
    monkeypatch.undo()
    assert executor.submit(of_global, 1).result(60)[0] == 20


# --- what is remembered may be wrong -------------------------------------------------------------


def test_an_expired_file_is_uploaded_again(counted, pool, cache, array, new_process):
    assert pool().submit(total, array).result(60) == total(array)
    expire_data(counted, cache)
    new_process()
    counted.reset()
    assert pool().submit(total, array).result(60) == total(array)
    assert counted.stats().upload_bytes >= SIZE


def test_a_file_near_its_end_is_given_more_time(counted, pool, cache, array, new_process):
    assert pool().submit(total, array).result(60) == total(array)
    soon = datetime.now(UTC) + timedelta(days=2)
    [file_id] = set_expiry(counted, cache, soon.isoformat())
    new_process()
    counted.reset()
    assert pool().submit(total, array).result(60) == total(array)
    assert counted.stats().upload_bytes < REST
    expires = datetime.fromisoformat(get(counted, f"/files/{file_id}")["expiresAt"])
    assert expires - soon > timedelta(days=10)


def test_a_file_that_expires_under_our_eyes_costs_the_calls_that_need_it(
    counted, pool, cache, array
):
    assert pool().submit(total, array).result(60) == total(array)
    expire_data(counted, cache)
    with pytest.raises(cf.CallLostError, match="expired"):
        pool().submit(total, array).result(60)
    assert pool().submit(total, array).result(60) == total(array)


def test_a_damaged_index_is_no_index(pool, cache, array, new_process):
    assert pool().submit(total, array).result(60) == total(array)
    for path in entries(cache):
        path.write_text("{")  # more ways to be damaged are in test_index.py
    new_process()
    assert pool().submit(total, array).result(60) == total(array)


def test_an_index_that_names_another_file_is_not_believed(counted, pool, cache, array, new_process):
    executor = pool()
    other = array + 1
    assert executor.submit(total, array).result(60) == total(array)
    assert executor.submit(total, other).result(60) == total(other)
    one, two = entries(cache)
    one_text, two_text = one.read_text(), two.read_text()
    one.write_text(two_text)
    two.write_text(one_text)
    new_process()
    executor = pool()
    assert executor.submit(total, array).result(60) == total(array)
    assert executor.submit(total, other).result(60) == total(other)


@pytest.mark.parametrize("folder", ["/dev/null/none", "relative"])
def test_without_a_cache_folder(counted, pool, array, monkeypatch, folder):
    monkeypatch.setenv("XDG_CACHE_HOME", folder)
    monkeypatch.setenv("HOME", "/dev/null")
    executor = pool()
    assert list(executor.map(total, [array] * 3)) == [total(array)] * 3
    assert counted.stats().upload_bytes <= 1.05 * SIZE + REST


# --- the worker's program ------------------------------------------------------------------------


def test_the_program_goes_up_once_for_all_executors(counted, pool, cache, new_process):
    for _ in range(2):
        assert pool().submit(abs, -1).result(60) == 1
    assert counted.stats().uploads == 1
    assert counted.stats().count("GET", "/files/{id}", "client") == 0
    new_process()
    assert pool().submit(abs, -2).result(60) == 2
    assert counted.stats().uploads == 1
    assert counted.stats().count("GET", "/files/{id}", "client") == 1  # is it there?


@pytest.mark.parametrize("same", [True, False], ids=["the same process", "another process"])
def test_a_program_that_is_gone_goes_up_again(counted, pool, cache, new_process, same):
    assert pool().submit(abs, -1).result(60) == 1
    entry = next(path for path in cache.rglob("*") if path.is_file())
    assert entry.name == bundle().sha256
    file_id = json.loads(entry.read_text())["file_id"]
    ask(counted, "PATCH", f"/files/{file_id}", {"expiresAt": "2020-01-01T00:00:00Z"})
    if not same:
        new_process()
    assert pool().submit(abs, -2).result(60) == 2
    assert counted.stats().uploads == 2
    # In the same process nobody asks whether it is there: the first container tells.
    assert counted.stats().runs_started == (3 if same else 2)


def set_up(data):
    os.environ["SET_UP"] = str(len(data))


def test_a_large_initializer_goes_up_once(counted, pool, cache, new_process):
    text = "x".join(map(str, range(30_000)))
    for _ in range(2):
        executor = pool(initializer=set_up, initargs=(text,))
        assert executor.submit(os.getenv, "SET_UP").result(60) == str(len(text))
    assert counted.stats().uploads == 2  # the program, the initializer


# --- by hand -------------------------------------------------------------------------------------


@pytest.fixture
def words():
    return [os.urandom(8).hex() for _ in range(100_000)]


def test_shared_data_is_in_its_place_in_each_call(counted, pool, words, new_process):
    executor = pool(2)
    handle = executor.put({"words": words, "n": 3})
    assert handle.size > 1_000_000
    assert len(pickle.dumps(handle)) < 1000
    assert repr(handle).startswith(f"<SharedData of {handle.size:,} bytes")
    with pytest.raises(AttributeError):
        handle.size = 3

    def look(given, key):
        return given["deep"][0][key][-1], given["again"] is given["deep"][0]

    given = {"deep": [handle], "again": handle}
    futures = [executor.submit(look, given, key="words") for _ in range(6)]
    assert [future.result(60) for future in futures] == [(words[-1], True)] * 6
    assert executor.submit(lambda: handle["n"]).result(60) == 3  # a global or a closure, too
    assert counted.stats().upload_bytes <= 1.05 * handle.size + REST


def test_what_a_call_does_to_shared_data_no_other_call_sees(pool, new_process):
    executor = pool()
    handle = executor.put([1, 2])
    for _ in range(2):
        assert executor.submit(lambda some: some.append(3) or some, handle).result(60) == [1, 2, 3]


def test_what_changes_after_put_does_not_reach_the_calls(pool, words):
    executor = pool()
    handle = executor.put(words)
    words.clear()
    assert executor.submit(len, handle).result(60) == 100_000


def test_arrays_in_shared_data_are_shared_with_those_in_calls(counted, pool, array):
    executor = pool()
    handle = executor.put({"x": array, "names": ["a", "b"]})
    outer = executor.put([handle, "more"])
    assert executor.submit(lambda d: (total(d["x"]), d["names"]), handle).result(60) == (
        total(array), ["a", "b"],
    )  # fmt: skip
    assert executor.submit(lambda o: total(o[0]["x"]), outer).result(60) == total(array)
    assert executor.submit(lambda d: kind(d["x"]), handle).result(60) == (False, "ndarray")
    assert executor.submit(total, array).result(60) == total(array)
    assert counted.stats().upload_bytes <= 1.05 * SIZE + REST


def test_an_array_that_was_put_costs_one_file(counted, pool, array):
    executor = pool()
    handle = executor.put(array)
    assert [executor.submit(total, handle).result(60) for _ in range(2)] == [total(array)] * 2
    stats = counted.stats()
    assert (stats.uploads, stats.downloads) == (2, 2)  # with the worker's program


def test_shared_data_in_another_executor_and_another_process(counted, pool, words, new_process):
    first = pool()
    handle = first.put(words)
    first.shutdown()  # it may not have been uploaded by then
    assert pool().submit(len, handle).result(60) == 100_000
    pickled = pickle.dumps(handle)
    new_process()
    counted.reset()
    again = pickle.loads(pickled)
    assert (again, again.size) == (handle, handle.size)
    assert pool().submit(len, again).result(60) == 100_000
    assert counted.stats().upload_bytes < REST


def test_shared_data_that_is_gone(counted, pool, cache, words, new_process):
    executor = pool()
    handle = executor.put(words)
    assert executor.submit(len, handle).result(60) == 100_000
    expire_data(counted, cache)
    new_process()
    with pytest.raises(cf.CallLostError, match="no longer on the platform"):
        pool().submit(len, handle).result(60)


def test_shared_data_of_another_platform_is_refused(pool, platform, make_executor):
    handle = make_executor().put([1])
    future = pool().submit(len, handle)
    with pytest.raises(cf.CallPicklingError, match=f"on {platform.url}/> is not on http"):
        future.result(60)


def test_what_cannot_be_put(pool):
    executor = pool()
    with pytest.raises(cf.CallPicklingError, match="the lock to share cannot be sent"):
        executor.put(threading.Lock())
    executor.shutdown()
    with pytest.raises(RuntimeError, match="after shutdown"):
        executor.put(1)


# --- arrays that can be written ------------------------------------------------------------------


def written(array):
    array[0] = -1.0
    return float(array[0]), array.flags.owndata, array.flags.f_contiguous


LAYOUTS = {
    "plain": lambda: np.arange(300_000.0),
    "fortran": lambda: np.asfortranarray(np.ones((1000, 200))),
    "strided": lambda: np.arange(600_000.0)[::2],
    "read-only": lambda: np.broadcast_to(np.float64(1), (200_000,)),
}


@pytest.mark.parametrize("share_arrays", [None, 10**9])
def test_each_call_has_its_own_that_it_can_write(counted, pool, new_process, share_arrays):
    executor = pool(1, share_arrays=share_arrays)
    arrays = {name: make() for name, make in LAYOUTS.items()}
    for array in arrays.values():
        for _ in range(2):
            found = executor.submit(lambda a: (a[0].tolist(), a.flags.writeable), array).result(60)
            assert found == (array[0].tolist(), True)
            if array.ndim == 1:
                assert executor.submit(written, array).result(60)[0] == -1.0
    assert executor.submit(written, {"a": arrays["plain"]}["a"]).result(60)[1]
    assert counted.stats().upload_bytes < 1.1 * sum(a.nbytes for a in arrays.values()) + REST


def test_an_initializer_and_globals_have_such_arrays_too(pool, array):
    executor = pool(1, initializer=keep, initargs=(array, None), share_arrays=None)
    assert executor.submit(lambda: written(kept[0])).result(60)[0] == -1.0
    assert executor.submit(lambda: first(kept[0])).result(60) == -1.0


def test_so_many_bytes_are_shared(pool):
    executor = pool(1, share_arrays=2_000_000)
    assert executor.submit(kind, np.zeros(249_000)).result(60)[0]
    assert not executor.submit(kind, np.zeros(250_000)).result(60)[0]


@pytest.mark.parametrize(
    "work", [poke, lambda array: array.sort(), lambda array: np.add(array, 1, array)]
)
def test_the_error_says_what_to_do(pool, array, work):
    error = pool().submit(work, array).exception(60)
    assert type(error) is ValueError
    assert "share_arrays=None" in error.__notes__[-1]
    assert "max_nbytes=None" in error.__notes__[-1]
