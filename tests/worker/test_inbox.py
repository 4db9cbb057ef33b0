"""A worker with an inbox: news, rubbish, silence, faults."""

import os
import re
import threading
import time

import pytest

from civis_futures import _wire
from civis_futures.worker._inbox import InboxReader
from civis_futures.worker._pacing import WorkerPacing


@pytest.fixture
def inbox(put_inbox):
    return put_inbox()


def test_calls_come_until_stop_and_none_is_run_twice(stub, start, calls, inbox):
    worker = start(calls(os.getpid), inbox=inbox.id, poll=0.1)
    stub.until_answered(1)
    inbox.write(calls(*[os.getpid] * 3))  # the first again
    stub.until_answered(1, 2, 3)
    inbox.write(calls(*[os.getpid] * 4), stop=True)
    worker.end()
    pids = {stub.outcome(answer) for answer in stub.answers().values()}
    assert len(pids) == 1
    assert len(stub.answers()) == 4


def test_a_second_attempt_at_a_task_is_another_call(stub, start, calls, inbox):
    [call] = calls(os.getpid)
    start([call], inbox=inbox.id, poll=0.1)
    stub.until_answered(1)
    again = _wire.Call(1, call.data, attempt=2)
    inbox.write([call, again], stop=True)
    letters = stub.until(
        lambda: len(stub.outputs) == 2 and [stub.values[number] for number in stub.outputs]
    )
    attempts = [letter["answers"][0]["attempt"] for letter in letters]
    assert attempts == [1, 2]


def test_stop_answers_what_is_known_first(stub, start, calls, inbox):
    inbox.write(calls(*[lambda: time.sleep(0.05)] * 3), stop=True)
    start((), inbox=inbox.id, poll=0.05).end()
    assert len(stub.answers()) == 3


def test_rubbish_is_no_news(stub, start, calls, inbox):
    good = _wire.to_json(_wire.Inbox({"w": _wire.Letter((), True)}))
    worker = start((), inbox=inbox.id, poll=0.05)
    rubbish = [None, 7, "text", [], {"version": 99}, {"version": 1, "letters": 3}]
    rubbish += [{"version": 1, "letters": {"w": {}}}, {"version": 1, "letters": {}, "x": 1}]
    rubbish += [{"version": 1, "letters": {"w": {"calls": [{"task": 1}], "stop": False}}}]
    for value in rubbish:
        inbox.put(value)
        looks = inbox.looks()
        stub.until(lambda looks=looks: inbox.looks() >= looks + 2)
    assert worker.process.poll() is None
    inbox.put(good)  # as a text within JSON, too
    worker.end()


def test_a_platform_that_stumbles(stub, start, calls, inbox):
    path = f"/json_values/{inbox.id}"
    limited = (429, {"Retry-After": "0.5"})
    stub.fault("GET", path, limited, None, b"<html>", 500, None, "drop", 502, None, b"{}", None)
    stub.fault("GET", path, (503, {"Retry-After": "soon"}), 404, 403)
    stub.fault("POST", "/json_values", limited)
    stub.fault("POST", "/scripts", "drop", 504, b"<html>", 503)
    worker = start((), inbox=inbox.id, poll=0.05, pacing={"first_pause": 0.03})
    stub.until(lambda: not stub.faults["GET", path])
    inbox.write(calls(os.getpid), stop=True)
    worker.end()
    assert len(stub.answers()) == 1
    assert 'outputs: HTTP 503 ({"error": "a fault"}); trying again' in worker.log()
    times = [at for method, p, at in stub.log if p == path]
    assert times[1] - times[0] >= 0.5  # never sooner than Retry-After


@pytest.mark.parametrize("status", [404, 401])
def test_an_inbox_that_is_refused_for_good(stub, start, inbox, status):
    stub.fault("GET", f"/json_values/{inbox.id}", *[status] * 20)
    worker = start((), inbox=inbox.id, poll=0.05).end(1)
    [line] = worker.log().splitlines()
    assert f"gives up: GET /json_values/{inbox.id}: HTTP {status}" in line
    assert inbox.looks() == 5


@pytest.mark.parametrize("refused", ["the inbox", "a call's bytes", "the answers, once"])
def test_what_has_ended_is_posted_when_it_gives_up(stub, start, calls, inbox, refused):
    """Whatever it gives up for: a call that has ended would run twice, or be lost."""
    first, second = calls(lambda: "done", (time.sleep, 3600))
    path, fault = {
        "the inbox": (f"/json_values/{inbox.id}", 404),
        "a call's bytes": ("/files", "drop"),
        "the answers, once": ("/json_values", 403),
    }[refused]
    if refused == "a call's bytes":  # of one that comes while answers wait
        second = _wire.Call(2, _wire.Blob.in_file(stub.put_file(b"x" * 9), "0" * 64, 9))

    def once_the_first_has_ended():
        return None if path != "/files" and b"task 2 begins" not in worker.out() else fault

    method = "POST" if refused == "the answers, once" else "GET"
    stub.fault(method, path, *[once_the_first_has_ended] * (1 if method == "POST" else 1000))
    worker = start(
        [first, second], inbox=inbox.id, poll=0.01, linger=3600.0, lease=2.0,
        pacing={"calm": 0.01, "first_pause": 0.01, "longest_pause": 0.05, "request": 0.2,
                "child_end": 0.1, "child_term": 0.1},
    )  # fmt: skip
    worker.end(1)
    assert "gives up" in worker.log()
    assert stub.outcome(stub.answers()[1]) == "done"


def test_silence_for_a_lease_ends_the_worker(stub, start, inbox):
    lease, path = 0.8, f"/json_values/{inbox.id}"

    def news():  # of other workers, which are a sign of life too
        inbox.write((), worker=f"other {time.monotonic()}")

    stub.fault("GET", path, *[news] * 30)
    worker = start((), inbox=inbox.id, poll=0.05, lease=lease)
    worker.end()
    assert b"no word from the client" in worker.out()
    times = [at for _, asked, at in stub.log if asked == path]
    assert times[29] - times[0] > lease  # it lived on news for longer than that
    assert time.monotonic() - times[29] > lease


def test_an_outage_is_no_silence(stub, start, calls, inbox):
    def down():
        time.sleep(0.4)
        return 503

    worker = start(
        calls((time.sleep, 0.5)), inbox=inbox.id, poll=0.05, lease=1.0,
        pacing={"first_pause": 0.03, "request": 0.1},
    )  # fmt: skip
    stub.until(inbox.looks)
    stub.fault("GET", f"/json_values/{inbox.id}", *[down] * 2)
    stub.until(lambda: not stub.faults["GET", f"/json_values/{inbox.id}"])
    time.sleep(0.5)  # the client, too, finds out a little later that all is well again
    inbox.write(calls(os.getpid, first=2), stop=True)
    worker.end()
    assert stub.answers().keys() == {1, 2}


def test_the_pause_grows_to_poll_and_the_inbox_may_change_it(stub, start, inbox):
    inbox.write(poll=0.2)
    worker = start((), inbox=inbox.id, poll=3600.0)  # the first pause would be 180 s then
    stub.until(lambda: inbox.looks() >= 8)
    times = [at for method, path, at in stub.log if path == f"/json_values/{inbox.id}"]
    assert times[7] - times[6] >= 0.15
    inbox.write(stop=True)
    worker.end()


class Empty:
    """A platform whose inbox has nothing for anybody; its clock is this machine's."""

    http = clock = property(lambda self: self)
    stalled, offered = 0.0, 0.0

    def now(self):
        return time.monotonic()

    def json_value(self, _):
        return {"version": 1, "letters": {}}


def reader(poll):
    order = _wire.Order("w", "", "", _wire.Letter(), inbox=1, poll=poll)
    return InboxReader(Empty(), order, WorkerPacing())


def test_who_has_done_its_last_call_gives_the_client_time_to_see_that():
    """It has read the inbox meanwhile; what answers its answer cannot be there yet."""
    inbox = reader(poll=12.0)
    time.sleep(0.2)
    inbox.look()
    inbox.restart()
    due = [inbox.due_in(eager=True)]
    assert 0.5 < due[0] <= 1.0  # a twelfth
    time.sleep(0.05)
    inbox.look()
    due.append(inbox.due_in(eager=True))
    assert due[0] < due[1] < 1.5  # and longer each time


@pytest.mark.parametrize(("poll", "times"), [(20.0, 2), (8.0, 1)])
def test_who_has_further_calls_reads_half_as_often_where_periods_are_long(poll, times):
    inbox = reader(poll)
    inbox._idle_since -= 1000.0  # long ago
    inbox.look()
    turn = (time.monotonic() + inbox.due_in(eager=True, busy=True)) / (times * poll)
    assert turn == pytest.approx(round(turn), abs=0.05)


def test_no_look_while_a_call_runs(stub, start, calls, inbox):
    release = threading.Event()
    inbox.write(calls(lambda: time.sleep(0.5)), poll=0.05)
    worker = start((), inbox=inbox.id, poll=0.05)
    stub.until(lambda: worker.children())
    looks = inbox.looks()
    release.wait(0.4)
    assert inbox.looks() <= looks + 1
    stub.until_answered(1)
    inbox.write(stop=True)
    worker.end()


def test_finished_answers_do_not_wait_for_a_long_call(stub, start, calls, inbox):
    start(calls(os.getpid, lambda: time.sleep(3600)), inbox=inbox.id)
    assert set(stub.until_answered(1)) == {1}


def nap():
    time.sleep(0.6)


def test_calls_that_are_revoked_never_begin(stub, start, calls, inbox):
    first, *rest = calls(nap, os.getpid, os.getpid, os.getpid)
    inbox.write(revoked=[(4, 1)])  # while the container waited for its start
    worker = start([first, *rest], inbox=inbox.id, poll=0.05)
    stub.until(lambda: b"task 1 begins" in worker.out())
    inbox.write(revoked=[(2, 1), (4, 1), (1, 1)])  # the first one runs already
    answers = stub.until_answered(1, 2, 3, 4)
    kinds = {task: answer.kind for task, answer in answers.items()}
    revoked, returned = _wire.REVOKED, _wire.RETURNED
    assert kinds == {1: returned, 2: revoked, 3: returned, 4: revoked}
    inbox.write(stop=True)
    worker.end()
    assert b"task 2 begins" not in worker.out()


def test_a_call_may_be_ended_while_it_runs_and_the_others_go_on(stub, start, calls, inbox):
    sleeper, *rest = calls(lambda: time.sleep(60), os.getpid, os.getpid)
    worker = start([sleeper, *rest], inbox=inbox.id, poll=0.05)
    stub.until(lambda: b"task 1 begins" in worker.out())
    inbox.write(ended=[(1, 1), (2, 1)], stop=True)
    worker.end()
    kinds = {task: answer.kind for task, answer in stub.answers().items()}
    assert kinds == {1: _wire.REVOKED, 2: _wire.REVOKED, 3: _wire.RETURNED}


def test_a_call_may_be_revoked_before_it_is_known(stub, start, calls, inbox):
    inbox.write(revoked=[(1, 1)])
    worker = start((), inbox=inbox.id, poll=0.05)
    assert stub.until_answered(1)[1].kind == _wire.REVOKED
    inbox.write(calls(os.getpid), stop=True)
    worker.end()
    assert b"task 1 begins" not in worker.out()


def test_the_lease_ends_a_running_call_too(stub, start, calls, inbox):
    worker = start(calls(lambda: time.sleep(3600)), inbox=inbox.id, poll=0.05, lease=0.6)
    worker.end()
    assert b"no word from the client" in worker.out()
    assert not stub.answers()


def test_without_calls_silence_ends_it_sooner(stub, start, calls, inbox):
    """The client would have ended it long ago. While it runs a call, it is as patient as ever."""
    worker = start(
        calls(lambda: time.sleep(1.2)), inbox=inbox.id, poll=0.05, lease=3600.0, idle=0.6
    )
    stub.until_answered(1)
    answered = time.monotonic()
    worker.end()
    assert time.monotonic() - answered > 0.4
    assert worker.out().splitlines()[-1] == _wire.IDLE_SILENCE.encode()


def test_without_calls_it_stays_as_long_as_the_inbox_says(stub, start, inbox):
    """For the next process of a session; and news of others tell that somebody is there."""
    worker = start((), inbox=inbox.id, poll=0.05, lease=3600.0, idle=0.5)
    for number in range(4):
        inbox.write((), worker=f"other {number}")
        time.sleep(0.25)
    inbox.write((), lease=1.5)
    written = time.monotonic()
    worker.end()
    assert time.monotonic() - written > 1.4


def test_who_greets_shows_its_count_before_it_has_an_answer(stub, start, calls, inbox):
    start(calls(lambda: time.sleep(30)), inbox=inbox.id, name="worker 1", greets=True)
    stub.until(lambda: stub.names == ["worker 1 #0"])
    assert not stub.outputs


def test_the_name_of_the_script_tells_how_many_letters_there_are(stub, start, calls, inbox):
    inbox.write(calls(*[lambda: time.sleep(0.3)] * 4), stop=True)
    start((), inbox=inbox.id, name="worker 1").end()
    assert stub.names == [f"worker 1 #{n + 1}" for n in range(len(stub.outputs))]
    assert len(stub.outputs) >= 2


def test_answers_wait_for_others_as_long_as_the_client_says(stub, start, calls, inbox):
    inbox.write(calls(*[lambda: time.sleep(0.06)] * 30), stop=True, linger=5.0)
    start((), inbox=inbox.id, poll=0.05).end()
    assert len(stub.answers()) == 30
    assert len(stub.outputs) <= 4  # after 0.5 s, after 1 s more, at the end


@pytest.mark.parametrize("value", [float("inf"), float("nan"), 1e300, -1, True])
def test_pauses_have_a_bound_whatever_the_inbox_says(stub, start, calls, inbox, value):
    start((), inbox=inbox.id, poll=0.05, lease=20.0)
    inbox.write(calls(os.getpid), poll=value, linger=value)
    stub.until_answered(1)
    inbox.write(calls(os.getpid, first=2), stop=True)
    stub.until_answered(1, 2)


def test_a_time_limit_beyond_all_clocks_is_none(stub, start, calls, inbox):
    [call] = calls(os.getpid)
    start([_wire.Call(1, call.data, timeout=1e300)]).end()
    assert stub.answers()[1].kind == _wire.RETURNED


def test_a_name_that_is_never_changed_costs_little(stub, start, calls, inbox):
    """It only saves the client requests: where it fails for ever, the worker goes on without."""
    stub.fault("PATCH", "/scripts/containers/11", *[500] * 1000)
    worker = start(
        calls(os.getpid), pacing={"naming": 0.5}, inbox=inbox.id, poll=0.05, name="it", greets=True
    )
    for number in range(2, 6):
        stub.until_answered(number - 1)
        inbox.write(calls(*[os.getpid] * number), stop=number == 5)
    worker.end()
    assert len(stub.answers()) == 5
    assert stub.names == []
    assert 3 <= stub.count("PATCH", "/scripts/containers/11") <= 15, "three times, for 0.5 s"


ENDPOINTS = [
    ("GET", "/json_values"), ("POST", "/json_values"), ("POST", "/scripts"), ("GET", "/files"),
    ("GET", "/store"), ("POST", "/files"), ("POST", "/store"),
]  # fmt: skip


@pytest.mark.parametrize(("method", "path"), ENDPOINTS, ids=map(" ".join, ENDPOINTS))
def test_an_endpoint_that_fails_for_ever_is_named_at_the_end(
    stub, start, calls, inbox, method, path
):
    stub.fault(method, path, *[500] * 1000)
    large = _wire.Blob.in_file(stub.put_file(b"x"), _wire.digest(b"x"), 1)
    made = [_wire.Call(1, large)] if method == "GET" and path != "/json_values" else None
    worker = start(
        made or calls(lambda: bytes(200_000) if "/files" in path or "/store" in path else 1),
        pacing={"request": 0.5, "first_pause": 0.01, "longest_pause": 0.1},
        inbox=inbox.id, poll=0.05, lease=0.4,
    )  # fmt: skip
    worker.end(1)
    assert re.search(rf"this worker gives up: {method} {path}.*HTTP 500", worker.log())


def test_a_busy_worker_reads_at_its_turn_alone(stub, start, calls, inbox):
    """It has calls: as at the start, when it imports what the first one needs."""
    worker = start(calls(lambda: time.sleep(2.5), os.getpid), inbox=inbox.id, poll=3.0)
    stub.until_answered(1)
    assert inbox.looks() <= 3  # it was 4 or more: after 0.25, 0.75 and 1.75 s, besides the first
    inbox.write((), stop=True)
    worker.end()
