"""A worker's read of its inbox that the platform holds until there is news."""

import os

import pytest

from civis_futures import _wire

#: Seconds between two reads of the inbox: a worker that waits for those comes too late.
NEVER = 3600


@pytest.fixture
def inbox(stub, put_inbox):
    return put_inbox()


@pytest.fixture
def idle(stub, start, calls, inbox):
    """idle(hold) -> a worker that has answered its first call."""

    def idle(hold=3600.0, poll=NEVER, **options):
        stub.hold = hold
        worker = start(calls(os.getpid), inbox=inbox.id, poll=poll, **options)
        stub.until_answered(1)
        return worker

    return idle


def test_news_is_not_waited_for(stub, idle, calls, inbox):
    worker = idle(lease=4 * 3600.0)
    stub.until(lambda: stub.held)
    looks = inbox.looks()
    for number in (2, 3):
        inbox.write(calls(*[os.getpid] * number))
        stub.until_answered(number)
    stub.until(lambda: inbox.looks() == looks + 2)  # one for each piece of news
    inbox.write(calls(*[os.getpid] * 3), stop=True)
    worker.end()
    assert len(stub.answers()) == 3
    assert stub.waiting_for == {"w"}  # what is written for others need not wake it
    # Less than the requests are patient, and than the client's silence is.
    assert max(stub.held) <= 30


def test_it_ends_as_often_as_the_lease_asks_for(stub, idle, inbox):
    worker = idle(lease=0.8)
    stub.until(lambda: len(stub.held) >= 2)
    assert max(stub.held) == pytest.approx(0.2)
    worker.end()
    assert _wire.IDLE_SILENCE.encode() in worker.out()


def test_where_nothing_is_offered_it_looks_as_ever(stub, idle, calls, inbox):
    worker = idle(hold=0.0, poll=0.05)
    looks = inbox.looks()
    stub.until(lambda: inbox.looks() > looks + 3)
    inbox.write(calls(os.getpid), stop=True)
    worker.end()
    assert not stub.held


@pytest.mark.parametrize("cut", ["drop", 504, "early", "swallowed"])
def test_what_cannot_be_held_is_given_up(stub, idle, calls, inbox, cut):
    """By somebody in between, who hangs up, answers in time, or does not pass the request on."""
    stub.cut = cut
    worker = idle(poll=0.05, lease=3600.0)
    stub.until(lambda: len(stub.held) == 3)
    looks = inbox.looks()
    stub.until(lambda: inbox.looks() > looks + 5)
    inbox.write(calls(os.getpid, os.getpid), stop=True)
    worker.end()
    assert len(stub.held) == 3
    assert len(stub.answers()) == 2


def test_a_platform_that_was_away_holds_again(stub, idle, calls, inbox):
    path = f"/json_values/{inbox.id}"
    worker = idle(lease=3600.0, pacing={"first_pause": 0.01})
    for _ in range(5):  # each time it cuts off what it holds, and then is away
        stub.until(lambda: stub.held)
        stub.held.clear()
        stub.fault("GET", path, 503, 503)
        stub.hang_up = True
        stub.until(lambda: not stub.faults["GET", path])
    stub.until(lambda: stub.held)
    inbox.write(calls(os.getpid), stop=True)
    worker.end()


def test_a_term_ends_it(stub, idle):
    worker = idle(lease=4 * 3600.0)
    stub.until(lambda: stub.held)
    worker.term()
    worker.end(code=143)


@pytest.mark.parametrize("at_once", [True, False], ids=["at once", "one by one"])
def test_answers_are_posted_in_one_request_if_that_works(stub, idle, calls, inbox, at_once):
    """Where requests are held. An answer that does not say that all is done is followed by the
    other requests, as ever: somebody in between may have taken away what was asked.
    """
    stub.at_once = at_once
    worker = idle(lease=4 * 3600.0, name="w\u00f6rker, 1")
    stub.until(lambda: stub.held)
    before = {way: stub.count(*way) for way in (("POST", "/"), ("PATCH", "/"))}
    inbox.write(calls(os.getpid, os.getpid), stop=True)
    stub.until_answered(2)
    worker.end()
    assert stub.names[-1] == "w\u00f6rker, 1 #2"
    asked = [stub.count(*way) - number for way, number in before.items()]
    assert asked == ([1, 0] if at_once else [2, 1])


def test_where_nothing_is_held_nothing_is_asked_to_be_done_at_once(stub, idle, calls, inbox):
    stub.at_once = True
    worker = idle(hold=0.0, poll=0.05)
    inbox.write(calls(os.getpid, os.getpid), stop=True)
    worker.end()
    assert stub.count("POST", "/json_values") == 2
    assert stub.count("POST", "/scripts/containers/11/runs/22/outputs") == 2
