"""How a worker ends: told to, killed, without a platform, without an order."""

import os
import signal
import sys
import threading
import time

import pytest

from civis_futures import _wire


def gone(pid):
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return True
    with open(f"/proc/{pid}/stat") as file:
        return file.read().rpartition(")")[2].split()[0] == "Z"


def clean_up(path):
    """A function that uses the time between TERM and KILL."""

    def term(*_):
        with open(path, "a") as file:
            file.write("cleaned ")
        time.sleep(0.2)
        raise SystemExit

    signal.signal(signal.SIGTERM, term)
    with open(path, "w") as file:
        file.write("started ")
    time.sleep(3600)


def test_term_reaches_user_code_once_and_the_child_ends_first(stub, start, calls, tmp_path):
    path = tmp_path / "cleaned"
    # Who waited for the call, or for its patience to end, would take an hour.
    patience = {"child_end": 3600.0, "child_term": 3600.0}
    worker = start(calls(lambda: "done", (clean_up, str(path))), pacing=patience)
    stub.until(lambda: path.exists() and path.read_text())
    [child] = worker.children()
    worker.term()
    worker.end(143)
    assert path.read_text() == "started cleaned "
    assert gone(child)
    assert stub.outcome(stub.answers()[1]) == "done"  # posted at the last moment


def test_term_kills_a_call_that_does_not_listen(stub, start, calls):
    worker = start(calls(lambda: time.sleep(3600)))
    stub.until(worker.children)
    worker.term()
    worker.end(143)
    assert stub.answers() == {}


def test_term_while_idle_and_in_mid_request(stub, start, put_inbox):
    answered = threading.Event()

    def slow():
        answered.wait(60)

    inbox = put_inbox()
    stub.fault("GET", "/json_values", slow)
    worker = start((), inbox=inbox.id)
    stub.until(inbox.looks)
    worker.term()
    worker.end(143)  # though its request has no answer yet
    answered.set()


def test_last_words_do_not_wait_for_a_dead_platform(stub, start, calls, tmp_path):
    path = tmp_path / "started"
    stub.fault("POST", "/json_values", *[503] * 100)
    specs = calls(os.getpid, (clean_up, str(path)))
    worker = start(specs, pacing={"last_post": 0.5})
    stub.until(path.exists)
    worker.term()
    worker.end(143)
    assert "answers were lost" in worker.log()


def test_no_process_is_left_by_a_child_that_ignores_its_end(stub, start, calls):
    def hold_on():
        import atexit

        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        atexit.register(time.sleep, 60)
        return os.getpid()

    worker = start(calls(hold_on), pacing={"child_end": 0.3, "child_term": 0.3})
    pid = stub.outcome(stub.until_answered(1)[1])
    worker.end()
    assert gone(pid)


def test_a_key_that_is_refused(stub, start, calls):
    stub.fault("POST", "/json_values", 401)
    worker = start(calls(os.getpid)).end(1)
    [line] = worker.log().splitlines()
    assert "gives up: POST /json_values: HTTP 401" in line
    assert "the key" not in worker.log()


@pytest.fixture
def start_with(launch, environment):
    def start_with(**changes):
        command = [sys.executable, "-m", "civis_futures.worker"]
        changed = {k: v for k, v in {**environment, **changes}.items() if v is not None}
        return launch(command, changed)

    return start_with


def test_an_order_in_a_file(stub, start_with, order, calls):
    text = _wire.to_json(order(calls(os.getpid)))
    file_id = stub.put_file(text.encode())
    for value in (str(file_id), f"file:{file_id}"):
        start_with(**{_wire.ORDER_VARIABLE: value}).end()
    assert len(stub.outputs) == 2


@pytest.mark.parametrize(
    ("changes", "code", "text"),
    [
        ({}, 2, "CIVIS_FUTURES_ORDER is not set"),
        ({"CIVIS_FUTURES_ORDER": "{}"}, 2, "cannot be read"),
        ({"CIVIS_FUTURES_ORDER": "what?"}, 2, "not JSON"),
        ({"CIVIS_FUTURES_ORDER": "999"}, 1, "GET /files/999: HTTP 404"),
        ({"CIVIS_FUTURES_ORDER": "999", "CIVIS_API_KEY": None}, 2, "CIVIS_API_KEY is not set"),
    ],
)
def test_without_an_order(start_with, changes, code, text):
    worker = start_with(**changes).end(code)
    [line] = worker.log().splitlines()
    assert line.startswith("civis_futures: ")
    assert text in line


def leave_a_mark(folder):
    with open(os.path.join(folder, "runs"), "a") as file:
        file.write(".")


def test_a_container_that_is_started_again_runs_nothing_twice(
    stub, start, calls, put_inbox, tmp_path
):
    """Its node was lost, say, and the platform has started it on another one, within its run."""
    inbox = put_inbox()
    made = calls((leave_a_mark, str(tmp_path)), (time.sleep, 1000))
    first = start(made, inbox=inbox.id, poll=0.1)
    stub.until_answered(1)
    stub.until(lambda: b"task 2 begins" in first.out())
    for pid in [first.process.pid, *first.children()]:
        os.kill(pid, signal.SIGKILL)
    first.process.wait()
    again = start(made, inbox=inbox.id, poll=0.1).end(1)
    assert again.out().decode().splitlines() == [_wire.STARTED_AGAIN]
    assert (tmp_path / "runs").read_text() == "."
    assert set(stub.answers()) == {1}


def test_if_nobody_can_tell_whether_it_was_started_before_it_works(stub, start, calls, put_inbox):
    stub.fault("GET", "/scripts", 403)
    inbox = put_inbox()
    inbox.write(stop=True)
    start(calls(os.getpid), inbox=inbox.id, poll=0.1).end()
    assert set(stub.answers()) == {1}


def test_what_the_log_tells_of_an_earlier_life_is_enough(stub, start, calls, put_inbox, tmp_path):
    """It had begun a call, and posted no answer yet."""
    inbox = put_inbox()
    made = calls((time.sleep, 1000), (leave_a_mark, str(tmp_path)))
    stub.lines += ["fetching ...", "civis_futures: task 1 begins (attempt 1)"]
    again = start(made, inbox=inbox.id, poll=0.1).end(1)
    assert again.out().decode().splitlines() == [_wire.STARTED_AGAIN]
    assert not (tmp_path / "runs").exists()


def test_one_that_had_begun_nothing_before_begins_now(stub, start, calls, put_inbox):
    inbox = put_inbox()
    inbox.write(stop=True)
    stub.lines += ["fetching ...", "a line of setup_cmd"]
    start(calls(os.getpid, os.getpid), inbox=inbox.id, poll=0.1).end()
    assert set(stub.answers()) == {1, 2}
    assert stub.count("GET", "/scripts/containers/11/runs/22/outputs") == 0
