"""Who uploads what, and who is told: any number of pools, of which some fail or end."""

from __future__ import annotations

import gc
import random
import threading
import time
import weakref
from collections import deque

import pytest

from civis_futures._files.contents import (
    LEAST_LIFE,
    Carrier,
    ContentStore,
    NamedPiece,
    content_store,
)

LATER = 4e9  # seconds since the epoch


class Pool:
    """A carrier whose work is done when the test says so."""

    def __init__(self, store, fails=False):
        self.store, self.fails = store, fails
        self.work, self.uploads, self.told = deque(), [], []
        self.carrier = Carrier(self.work.append, self.deposit)

    def deposit(self, content):
        if self.fails:
            raise OSError("no way")
        assert content.data is not None
        self.uploads.append(content.data)
        return 7, LATER

    def gather(self, *contents):
        self.store.gather(contents, self.carrier, self.told.append)

    def run(self):
        while self.work:
            self.work.popleft()()


@pytest.fixture
def store():
    return ContentStore("https://api.example.org/")


def test_equal_bytes_are_one_content(store):
    one = store.take(memoryview(b"abc"))
    assert store.take(memoryview(bytearray(b"abc"))) is one is store.keep(b"abc")
    assert store.keep(b"abd") is not one


def test_only_new_bytes_are_copied(store):
    data = bytearray(b"abc")
    one = store.take(memoryview(data))
    data[0] = 0
    assert one.data == b"abc"
    assert store.take(memoryview(data)) is not one


def test_it_goes_up_once_for_all_who_wait_and_the_copy_is_dropped(store):
    pools = [Pool(store) for _ in range(3)]
    contents = [store.keep(b"a"), store.keep(b"b")]
    for pool in pools:
        pool.gather(*contents, contents[0])
        pool.gather(contents[0])
    for pool in pools:
        pool.run()
        pool.run()
    assert [pool.uploads for pool in pools] == [[b"a", b"b"], [], []]
    assert [pool.told for pool in pools] == [[None, None]] * 3
    assert [content.data for content in contents] == [None, None]
    assert contents[0].blob.file_id == 7
    late = Pool(store)
    late.gather(*contents)
    assert (late.told, len(late.work)) == ([None], 0)


def test_a_failure_is_told_to_who_failed_and_another_pool_goes_on(store):
    bad, good = Pool(store, fails=True), Pool(store)
    content = store.keep(b"a")
    bad.gather(content)
    bad.gather(content)
    good.gather(content)
    bad.run()
    assert [str(error) for error in bad.told] == ["no way"] * 2
    assert good.told == []
    good.run()
    assert (good.told, good.uploads) == ([None], [b"a"])


def test_one_failure_of_several_is_told_once(store):
    pool = Pool(store, fails=True)
    pool.gather(store.keep(b"a"), store.keep(b"b"))
    pool.run()
    assert len(pool.told) == 1


def test_a_pool_that_has_ended_is_given_nothing(store):
    bad, ended, good = Pool(store, fails=True), Pool(store), Pool(store)
    content = store.keep(b"a")
    for pool in (bad, ended, good):
        pool.gather(content)
    store.leave(ended.carrier)
    bad.run()
    assert not ended.work
    good.run()
    assert good.told == [None]


def test_after_a_failure_it_can_be_tried_again(store):
    pool = Pool(store, fails=True)
    content = store.keep(b"a")
    pool.gather(content)
    pool.run()
    pool.fails = False
    pool.gather(content)
    pool.run()
    assert pool.told[1:] == [None]
    assert pool.uploads == [b"a"]


def test_what_nobody_needs_any_more_is_not_kept(store):
    content = weakref.ref(store.keep(b"a"))
    gc.collect()
    assert content() is None


def test_what_expires_soon_or_was_lost_is_brought_anew(store):
    pool = Pool(store)
    content = store.keep(b"a")
    pool.gather(content)
    pool.run()
    assert store.keep(b"a") is content
    store.forget(content)
    again = store.keep(b"a")
    assert again is not content
    pool.gather(again)
    pool.run()
    again.expires = time.time() + LEAST_LIFE - 1
    assert store.keep(b"a") is not again
    assert pool.uploads == [b"a"] * 2


def test_a_piece_of_another_process_is_known_by_name_until_its_bytes_turn_up(store):
    digest = store.keep(b"a").sha256
    gc.collect()
    named = store.adopt(NamedPiece(digest, 1, 5))
    assert (named.file_id, named.data, named.ready) == (5, None, False)
    assert store.adopt(NamedPiece(digest, 1, 5)) is named
    assert store.take(memoryview(b"a")) is named
    assert named.data == b"a"


def test_one_store_for_each_platform_and_key():
    assert content_store("a", "k") is content_store("a", "k")
    assert content_store("a", "k") is not content_store("a", "l")
    assert content_store("a", "k") is not content_store("b", "k")


def test_pools_that_fail_and_end_at_random_tell_everybody_once(store):
    chance = random.Random(1)
    uploads, told, asked = [], [], []

    def use(seed):
        mine = random.Random(seed)
        threads = []

        def run(work):
            threads.append(threading.Thread(target=work))
            threads[-1].start()

        def deposit(content):
            if mine.random() < 0.4:
                raise OSError("no way")
            uploads.append(content.sha256)
            return 7, LATER

        carrier = Carrier(run, deposit)
        for _ in range(20):
            contents = [store.keep(bytes([mine.randrange(5)])) for _ in range(2)]
            asked.append(seed)
            store.gather(contents, carrier, lambda _: told.append(seed))
        while told.count(seed) < 20:
            time.sleep(0.001)
        store.leave(carrier)
        for thread in threads:
            thread.join()

    users = [threading.Thread(target=use, args=(chance.random(),)) for _ in range(6)]
    for user in users:
        user.start()
    for user in users:
        user.join()
    assert sorted(told) == sorted(asked)
    assert len(uploads) == len(set(uploads)) <= 5
