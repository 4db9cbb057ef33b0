"""What the calls of a session have given, read from elsewhere."""

from __future__ import annotations

from contextlib import closing

import pytest
from tasks import wait_at

import civis_futures as cf
from civis_futures._api.client import PlatformClient
from civis_futures._sessions import registry


def divided(one, other):
    return one / other


@pytest.fixture
def remove(platform):
    names = []
    yield names.append
    for name in names:
        cf.purge(name, platform)


def test_while_it_is_open_and_afterwards(make_executor, platform, tmp_path, remove):
    with make_executor(2, session="read me") as executor:
        remove("read me")
        done = [executor.submit(divided, 6, 3), executor.submit(divided, 1, 0)]
        large = executor.submit(bytes, 200_000)
        waiting = executor.submit(wait_at, str(tmp_path), "late")
        assert done[0].result() == 2
        assert done[1].exception() is not None
        assert large.result() == bytes(200_000)
        found = cf.results("read me", platform)
        assert list(found) == [0, 1, 2]
        assert found[0].result() == 2
        assert found[2].result() == bytes(200_000)
        with pytest.raises(ZeroDivisionError) as caught:
            found[1].result()
        assert "divided (task 1) in run" in caught.value.__notes__[0]
        (tmp_path / "open").touch()
        assert waiting.result() == "late"
        assert executor.submit(divided, 8, 2).result() == 4  # it is still ours
    after = cf.results("read me", platform)
    assert list(after) == [0, 1, 2, 3, 4]
    assert (after[3].result(), after[4].result()) == ("late", 4)


def test_no_such_session(platform):
    with pytest.raises(LookupError, match="no session 'never begun'"):
        cf.results("never begun", platform)
    with pytest.raises(LookupError, match="no session 'never begun' of user 77"):
        cf.results("never begun", platform, user=77)
    with pytest.raises(ValueError, match="cannot be the name"):
        cf.results("/", platform)


def test_of_a_colleague(make_executor, platform, monkeypatch, remove):
    name = "of a colleague"
    with make_executor(1, session=name) as executor:
        remove(name)
        assert executor.submit(abs, -1).result() == 1
    with closing(registry._client(platform)) as client:
        mine = client.me()
    with monkeypatch.context() as patch:  # whoever asks has another key
        patch.setattr(PlatformClient, "me", lambda self: 4711)
        with pytest.raises(LookupError):
            cf.results(name, platform)
        assert cf.results(name, platform, user=mine)[0].result() == 1
