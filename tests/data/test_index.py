"""The index of content: what was noted is found, and nothing that happens to it is an error."""

from __future__ import annotations

import os
import tempfile
import threading
import time
from pathlib import Path

import pytest
import unhurried  # noqa: F401
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from civis_futures import _wire
from civis_futures._files.deposit import KEEP, Index, cache_folder

PLATFORM = "https://api.example.org/"
LATER = 4e9  # seconds since the epoch
digests = st.sampled_from([_wire.digest(bytes([n])) for n in range(3)])


@pytest.fixture
def root(tmp_path):
    return tmp_path / "cache"


def files(root):
    return [path for path in root.rglob("*") if path.is_file()]


class Machine(RuleBasedStateMachine):
    """Several users of one folder, and one who damages it, against a table in memory."""

    @initialize()
    def begin(self):
        self.folder = tempfile.TemporaryDirectory()
        self.root = Path(self.folder.name)
        self.known = {}

    def index(self, account):
        return Index(self.root, PLATFORM, account)  # a new one each time: as a new process

    @rule(sha=digests, account=st.integers(1, 2), size=st.integers(0, 9), file=st.integers(1, 9))
    def note(self, sha, account, size, file):
        self.index(account).note(sha, size, file, LATER)
        self.known[account, sha] = size, file

    @rule(sha=digests, account=st.integers(1, 2))
    def note_what_has_expired(self, sha, account):
        self.index(account).note(sha, 1, 1, time.time() - 1)
        self.known.pop((account, sha), None)

    @rule(sha=digests, account=st.integers(1, 2))
    def forget(self, sha, account):
        self.index(account).forget(sha)
        self.known.pop((account, sha), None)

    @rule(content=st.binary(max_size=30), sha=digests)
    def damage(self, content, sha):
        for path in files(self.root):
            if path.name == sha:
                path.write_bytes(content)
        for account in (1, 2):
            self.known.pop((account, sha), None)

    @invariant()
    def what_is_found_was_noted(self):
        for number in range(3):
            sha = _wire.digest(bytes([number]))
            for account in (1, 2):
                size, file = self.known.get((account, sha), (1, None))
                assert self.index(account).find(sha, size) == file
                assert self.index(account).find(sha, size + 1) is None

    def teardown(self):
        self.folder.cleanup()


Machine.TestCase.settings = settings(max_examples=30, stateful_step_count=12)
TestMachine = Machine.TestCase


@settings(max_examples=60)
@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=3),
        lambda inner: (
            st.lists(inner, max_size=2)
            | st.dictionaries(st.sampled_from(["file_id", "size", "expires"]), inner)
        ),
        max_leaves=5,
    )
)
def test_any_json_is_an_entry_or_none(value):
    import json

    with tempfile.TemporaryDirectory() as folder:
        index = Index(Path(folder), PLATFORM, 1)
        index.note("a", 1, 1, LATER)
        [path] = files(Path(folder))
        path.write_text(json.dumps(value))
        found = index.find("a", 1)
        assert found is None or (type(found) is int and value["file_id"] == found)


@pytest.mark.parametrize("text", ["", "{", "[]", "\0" * 10, '{"file_id": "7"}', "[" * 10**5])
def test_what_is_damaged_is_no_entry(root, text):
    index = Index(root, PLATFORM, 1)
    index.note("a", 1, 1, LATER)
    [path] = files(root)
    path.write_text(text)
    assert index.find("a", 1) is None


def test_platforms_and_accounts_are_kept_apart(root):
    Index(root, PLATFORM, 1).note("a", 1, 7, LATER)
    assert Index(root, PLATFORM, 1).find("a", 1) == 7
    assert Index(root, PLATFORM, 2).find("a", 1) is None
    assert Index(root, "http://127.0.0.1:4000/", 1).find("a", 1) is None


def test_many_threads_on_one_entry(root):
    wrong = []

    def work(number):
        index = Index(root, PLATFORM, 1)
        for _ in range(30):
            index.note("a", 1, number, LATER)
            if index.find("a", 1) not in range(1, 9):
                wrong.append(number)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(1, 9)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong
    assert [path.name for path in files(root)] == ["a"]


def test_what_is_old_is_removed_in_passing(root):
    Index(root, "http://127.0.0.1:4000/", 1).note("a", 1, 7, LATER)
    Index(root, PLATFORM, 1).note("b", 1, 7, LATER)
    for path in files(root):
        os.utime(path, (0, time.time() - KEEP - 1))
    Index(root, PLATFORM, 1).note("c", 1, 7, LATER)
    assert [path.name for path in files(root)] == ["c"]
    assert len(list((root / "files").iterdir())) == 1


@pytest.mark.parametrize("root", [None, Path("/dev/null/none"), Path("/proc/none")])
def test_without_a_folder_nothing_is_found_and_nothing_fails(root):
    index = Index(root, PLATFORM, 1)
    index.note("a", 1, 7, LATER)
    assert index.find("a", 1) is None
    index.forget("a")


def test_where_it_is(monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert cache_folder() == tmp_path / "civis_futures"
    monkeypatch.setenv("XDG_CACHE_HOME", "not/absolute")
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setattr("sys.platform", "linux")
    assert cache_folder() == tmp_path / ".cache" / "civis_futures"
    monkeypatch.setattr("sys.platform", "darwin")
    assert cache_folder() == tmp_path / "Library" / "Caches" / "civis_futures"


def test_it_is_for_its_user_alone(root):
    Index(root, PLATFORM, 1).note("a", 1, 7, LATER)
    [path] = files(root)
    assert path.parent.stat().st_mode & 0o077 == 0


def test_what_is_noted_is_ours_alone(root):
    before = os.umask(0)
    try:
        Index(root, PLATFORM, 1).note("a", 1, 2, LATER)
    finally:
        os.umask(before)
    for path in [root, *root.rglob("*")]:
        assert path.stat().st_mode & 0o077 == 0, path


@pytest.mark.parametrize("mode", [0o770, 0o777, 0o702], ids=oct)
def test_a_folder_that_others_can_write_is_not_believed(root, mode, caplog):
    Index(root, PLATFORM, 1).note("a", 1, 2, LATER)
    root.chmod(mode)
    index = Index(root, PLATFORM, 1)
    assert index.find("a", 1) is None
    index.note("b", 1, 3, LATER)
    assert [path.name for path in files(root)] == ["a"]
    assert "others can write there" in caplog.text
