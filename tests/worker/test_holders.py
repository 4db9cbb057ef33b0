"""A worker of a session: it does what the one who holds the session says, and nobody else."""

import os
import time

import pytest

from civis_futures import _wire

FIRST, SECOND = 501, 502


@pytest.fixture
def holders(stub):
    """The scripts that stand for two processes; the second one takes over with `take`."""
    stub.scripts.update({FIRST: "session s [user 1, head 1]", SECOND: "session s [user 1, head 2]"})

    def take():
        stub.scripts[FIRST] += _wire.TAKEN

    return take


@pytest.fixture
def inbox(put_inbox):
    return put_inbox()


@pytest.fixture
def begin(start, inbox):
    """begin(calls, ...): a worker that the first one has launched."""

    def begin(calls=(), **fields):
        return start(calls, inbox=inbox.id, poll=0.05, holder=FIRST, **fields)

    return begin


def looked(stub, inbox):
    """Wait until the inbox was read again, as it is now."""
    looks = inbox.looks()
    stub.until(lambda: inbox.looks() >= looks + 2)


def test_who_has_lost_the_session_is_not_obeyed(stub, begin, calls, inbox, holders):
    inbox.write(holder=FIRST)
    worker = begin(calls(os.getpid))
    stub.until_answered(1)
    holders()
    inbox.write(calls(os.getpid, os.getpid), stop=True, holder=FIRST)
    looked(stub, inbox)
    assert worker.process.poll() is None
    inbox.write(calls(os.getpid, os.getppid, os.getpid)[::2], stop=True, holder=SECOND)
    worker.end()
    assert set(stub.answers()) == {1, 3}


def test_nor_may_it_end_what_runs(stub, begin, calls, inbox, holders, tmp_path):
    gate = tmp_path / "gate"

    def wait():
        while not gate.exists():
            time.sleep(0.01)

    inbox.write(holder=FIRST)
    worker = begin(calls(wait), pacing={"calm": 0.05})
    stub.until(lambda: b"task 1 begins" in worker.out())
    holders()
    inbox.write(ended=[(1, 1)], stop=True, holder=FIRST)
    looked(stub, inbox)
    gate.touch()
    assert stub.until_answered(1)[1].kind == _wire.RETURNED
    inbox.write(stop=True, holder=SECOND)
    worker.end()


def test_each_word_is_asked_for_once(stub, begin, calls, inbox, holders):
    inbox.write(holder=FIRST)
    worker = begin(calls(os.getpid))
    stub.until_answered(1)
    looked(stub, inbox)
    looked(stub, inbox)
    inbox.write(calls(os.getpid, os.getpid), holder=FIRST)
    stub.until_answered(2)
    looked(stub, inbox)
    inbox.write(stop=True, holder=FIRST)
    worker.end()
    assert stub.count("GET", f"/scripts/containers/{FIRST}") == 3  # the inbox has changed twice


@pytest.mark.parametrize("alone", [False, True], ids=["more may come", "one call alone"])
def test_one_that_starts_too_late_begins_nothing(stub, start, calls, inbox, holders, alone):
    """Who launched it has lost the session meanwhile, and the next one does not know of it."""
    holders()
    inbox.write(worker="another", holder=SECOND)
    fields = {"inbox": inbox.id, "poll": 0.05, "holder": FIRST}
    worker = start(given(calls, alone), stop=alone, **fields)
    worker.end()
    assert {answer.kind for answer in stub.answers().values()} == {_wire.REVOKED}


@pytest.mark.parametrize("alone", [False, True], ids=["more may come", "one call alone"])
def test_one_that_the_next_holder_knows_goes_on(stub, start, calls, inbox, holders, alone):
    holders()
    inbox.write(holder=FIRST)  # as the first one has left it, or has written it again
    fields = {"inbox": inbox.id, "poll": 0.05, "holder": FIRST}
    worker = start(given(calls, alone), stop=alone, **fields)
    looked(stub, inbox)
    assert not stub.answers()
    inbox.write(stop=not alone, holder=SECOND)
    worker.end()
    assert {answer.kind for answer in stub.answers().values()} == {_wire.RETURNED}


def given(calls, alone):
    return calls(*[os.getpid] * (1 if alone else 2))


def test_what_is_revoked_for_one_that_waits_is_not_begun(stub, begin, calls, inbox, holders):
    holders()
    worker = begin(calls(os.getpid, os.getpid))
    inbox.write(revoked=[(2, 1)], stop=True, holder=SECOND)
    worker.end()
    kinds = {task: answer.kind for task, answer in stub.answers().items()}
    assert kinds == {1: _wire.RETURNED, 2: _wire.REVOKED}


def test_where_nobody_may_read_the_script_everybody_is_obeyed(stub, begin, calls, inbox):
    inbox.write(stop=True, holder=FIRST)  # the stub has no such script
    begin(calls(os.getpid)).end()
    assert stub.answers()[1].kind == _wire.RETURNED


def test_without_a_session_nobody_is_asked_for(stub, start, calls, inbox):
    inbox.write(stop=True)
    start(calls(os.getpid), inbox=inbox.id, poll=0.05).end()
    assert stub.count("GET", "/scripts/containers/5") == 0
