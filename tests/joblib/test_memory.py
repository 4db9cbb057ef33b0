"""`joblib.Memory` on the platform: what is there is found, by others too; what it costs."""

from __future__ import annotations

import datetime
import os
import subprocess
import sys
import threading

import numpy as np
import pytest
from joblib import Memory, Parallel, delayed, expires_after, parallel_config
from tasks import by_value

import civis_futures as cf
import civis_joblib
from civis_futures.testing import Fault

by_value(__name__)


@pytest.fixture
def ran():
    """What has really been called."""
    return []


@pytest.fixture
def memory(platform, request):
    """memory(...): a Memory of the test's own, on the platform."""
    civis_joblib.register_store()
    name = request.node.name

    def make(**options):
        return Memory(name, backend="civis", verbose=0, **options)

    yield make
    make().clear(warn=False)


def double(ran):
    def double(x):
        ran.append(x)
        return 2 * x

    double.__module__ = "some.module"
    return double


@pytest.fixture
def spent(platform):
    """spent(): the API requests of this process since the last time."""
    last = [platform.stats().requests]

    def count():
        before, last[0] = last[0], platform.stats().requests
        return sum(last[0].values()) - sum(before.values())

    return count


def test_what_was_computed_is_found(memory, ran):
    for _ in range(2):  # as in two processes: they share nothing
        cached = memory().cache(double(ran))
        assert [cached(x) for x in (1, 2, 1)] == [2, 4, 2]
    assert ran == [1, 2]
    assert cached.check_call_in_cache(1)
    assert not cached.check_call_in_cache(3)


def test_what_it_costs(memory, ran, spent):
    cached = memory().cache(double(ran))
    for x in range(6):
        cached(x)
    spent()
    cached(7)
    assert spent() <= 5  # a question, and two requests each for the result and for its metadata
    spent()
    again = memory().cache(double(ran))
    assert [again(x) for x in range(6)] == [2 * x for x in range(6)]
    assert spent() == 1 + 1 + 1 + 6  # who asks; for all calls; the function's code; each result
    assert ran == [0, 1, 2, 3, 4, 5, 7]


SCRIPT = """
import sys
from joblib import Memory
import civis_joblib
civis_joblib.register_store()

def slow(x):
    print("computed")
    return x + 1

print(Memory(sys.argv[1], backend="civis", verbose=0).cache(slow)(4))
"""


def test_in_another_process(memory, tmp_path):
    script = tmp_path / "script.py"
    script.write_text(SCRIPT)
    name = memory().location
    said = [
        subprocess.run(
            [sys.executable, "-W", "error", str(script), str(name)],
            capture_output=True, text=True, timeout=60, check=True,
        ).stdout
        for _ in range(2)
    ]  # fmt: skip
    assert said == ["computed\n5\n", "5\n"]


def in_a_task(memory, folder, x):
    def slow(x):
        open(os.path.join(folder, f"{x}-{os.getpid()}"), "w").close()
        return x * x

    slow.__module__ = "of.a.task"
    return memory.cache(slow)(x)


def test_in_tasks(memory, tmp_path):
    for _ in range(2):
        with parallel_config("civis", n_jobs=2):
            tasks = [delayed(in_a_task)(memory(), str(tmp_path), x) for x in range(3)]
            assert Parallel(batch_size=1)(tasks) == [0, 1, 4]
        civis_joblib.shutdown()
    assert len(os.listdir(tmp_path)) == 3


@pytest.mark.parametrize("options", [
    {}, {"compress": True}, {"compress": ("zlib", 6)}, {"mmap_mode": "r"},
], ids=str)  # fmt: skip
def test_arrays(memory, options):
    array = np.arange(1000.0)
    for _ in range(2):
        found = memory(**options).cache(np.sqrt)(array)
        np.testing.assert_array_equal(found, np.sqrt(array))
    assert isinstance(found, np.memmap) == ("mmap_mode" in options)


def test_compressed_items_are_not_mapped(memory):
    with pytest.warns(UserWarning, match="cannot be memmapped"):
        made = memory(compress=True, mmap_mode="r")
    assert made.cache(np.sqrt)(np.arange(3.0))[0] == made.cache(np.sqrt)(np.arange(3.0))[0] == 0


def test_a_function_that_has_changed(memory, ran):
    assert memory().cache(double(ran))(3) == 6

    def double_(x):
        ran.append(x)
        return x + x + 0

    double_.__module__, double_.__qualname__, double_.__name__ = "some.module", "double", "double"
    assert memory().cache(double_)(3) == 6
    assert ran == [3, 3]


def test_clear(memory, ran):
    cached, other = memory().cache(double(ran)), memory().cache(np.sqrt)
    cached(1)
    cached(2)
    other(4.0)
    cached.call_and_shelve(1).clear()
    assert not cached.check_call_in_cache(1)
    assert cached.check_call_in_cache(2)
    cached.clear(warn=False)
    assert not cached.check_call_in_cache(2)
    assert other.check_call_in_cache(4.0)
    memory().clear(warn=False)
    assert not memory().cache(np.sqrt).check_call_in_cache(4.0)


def test_limits(memory, ran):
    cached = memory().cache(double(ran))
    for x in range(4):
        cached(x)
    memory().reduce_size(items_limit=3)
    again = memory().cache(double(ran))
    assert [again.check_call_in_cache(x) for x in range(4)] == [False, True, True, True]
    size = sum(item.size for item in memory().store_backend.get_items())
    memory().reduce_size(bytes_limit=size - 1)
    assert len(memory().store_backend.get_items()) == 2
    memory().reduce_size(age_limit=datetime.timedelta(hours=1))
    assert len(memory().store_backend.get_items()) == 2
    memory().reduce_size(age_limit=datetime.timedelta(0))
    assert memory().store_backend.get_items() == []


def test_results_that_are_too_old(memory, ran):
    cached = memory().cache(double(ran), cache_validation_callback=expires_after(days=1))
    assert [cached(1), cached(1)] == [2, 2]
    assert ran == [1]
    cached = memory().cache(double(ran), cache_validation_callback=lambda _: False)
    assert [cached(1), cached(1)] == [2, 2]
    assert ran == [1, 1, 1]


def test_several_writers_at_once(memory, ran):
    barrier, found = threading.Barrier(4), []

    def work():
        cached = memory().cache(double(ran))
        barrier.wait()
        found.extend(cached(x) for x in range(3))

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(found) == sorted([0, 2, 4] * 4)
    del ran[:]
    assert [memory().cache(double(ran))(x) for x in range(3)] == [0, 2, 4]
    assert ran == []


def test_half_of_an_item_is_never_found(memory, ran, platform):
    cached = memory().cache(double(ran))
    cached(4)
    platform.faults.add(refused := Fault.answer(403, "POST /scripts/containers"))
    try:
        with pytest.warns(Warning, match="403"):
            assert cached(5) == 10
    finally:
        platform.faults.remove(refused)
    assert not memory().cache(double(ran)).check_call_in_cache(5)


def test_what_is_removed_while_others_read_it(memory, ran):
    """They have the result in any case: it is found, or computed anew."""
    over, read = threading.Event(), [0, 0]

    def work(number):
        cached = memory().cache(double(ran))
        while not over.is_set():
            read[number] += sum(cached(x) == 2 * x for x in range(3))

    threads = [threading.Thread(target=work, args=(number,)) for number in range(2)]
    for thread in threads:
        thread.start()
    for _ in range(6):
        before = min(read)
        memory().reduce_size(items_limit=1)
        while min(read) < before + 3 and all(thread.is_alive() for thread in threads):
            over.wait(0.01)
    over.set()
    for thread in threads:
        thread.join()
    assert read[0] % 3 == read[1] % 3 == 0
    assert min(read) >= 18


class Scaled:
    """Equal ones have equal pickles, by which joblib knows them."""

    def __init__(self, factor, ran):
        self.factor, self._ran = factor, ran

    def __reduce__(self):
        return Scaled, (self.factor, [])

    def times(self, x):
        self._ran.append(x)
        return self.factor * x


def test_methods(memory, ran):
    first, equal, other = Scaled(2, ran), Scaled(2, ran), Scaled(3, ran)
    assert [memory().cache(each.times)(5) for each in (first, equal, other)] == [10, 10, 15]
    assert ran == [5, 5]


def test_a_file_that_is_gone_is_computed_again(memory, ran):
    cached, other = memory().cache(double(ran)), memory().cache(double(ran))
    assert cached(1) == other(1) == 2
    other.clear(warn=False)
    assert cached(1) == 2
    assert ran == [1, 1]


def test_names_of_any_kind(memory, platform):
    files = cf.NamedFiles(platform)
    with pytest.raises(ValueError, match="without brackets"):
        files.put("a[b]", None, 0)

    def odd(x):
        return x

    odd.__module__ = "a [very] odd name " * 20
    for _ in range(2):
        assert memory().cache(odd)(1) == 1
    assert memory().cache(odd).check_call_in_cache(1)
    memory().reduce_size(items_limit=0)
    assert not memory().cache(odd).check_call_in_cache(1)


def test_what_is_no_place(memory):
    with pytest.raises(TypeError, match="platform must be"):
        civis_joblib.register_store(platform=3)
    with pytest.raises(ValueError, match="ends with its executor"):
        civis_joblib.register_store(platform="local")


def test_without_a_key(monkeypatch):
    monkeypatch.delenv("CIVIS_API_KEY")
    civis_joblib.register_store()
    with pytest.raises(cf.CredentialsError):
        Memory("nobody", backend="civis")
