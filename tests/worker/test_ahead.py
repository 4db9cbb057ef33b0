"""Calls that a child is given while it is at another one: what becomes of them if it does not get
to them, or must not.
"""

import os
import signal
import subprocess
import sys
import threading
import time
from dataclasses import replace

import pytest

from civis_futures import _wire


def wait_for(path):
    while not os.path.exists(path):
        time.sleep(0.01)


def touch(path):
    with open(path, "a") as file:
        file.write("x")
    return os.getpid()


@pytest.fixture
def marks(tmp_path):
    """marks(1, 3) -> calls that each leave a mark in a file of their own; marks.left(), those."""
    folder = tmp_path / "marks"
    folder.mkdir()

    def marks(*numbers):
        return [(touch, str(folder / str(number))) for number in numbers]

    marks.left = lambda: {int(each.name): each.read_text() for each in folder.iterdir()}
    return marks


def test_a_child_does_not_wait_for_a_worker_that_posts(stub, start, calls, marks, tmp_path):
    """Of its small calls as many as it is given ahead; and all before the first is answered."""
    posted = threading.Event()
    stub.fault("POST", "/json_values", lambda: posted.wait(60) and None)
    first = (time.sleep, 0.6)  # so that its answer is due as soon as it is there
    worker = start(calls(first, *marks(*range(2, 12))))
    stub.until(lambda: stub.count("POST", "/json_values"))
    stub.until(lambda: len(marks.left()) == 10)
    assert not stub.outputs
    posted.set()
    worker.end()
    assert stub.answers().keys() == set(range(1, 12))


def test_what_is_ahead_can_be_revoked(stub, start, calls, put_inbox, marks, tmp_path):
    gate, inbox = tmp_path / "gate", put_inbox()
    specs = calls((wait_for, str(gate)), *marks(2, 3, 4, 5))
    worker = start(specs, inbox=inbox.id, poll=0.05)
    stub.until(lambda: b"task 1 begins" in worker.out())
    inbox.write(specs, revoked=[(2, 1), (4, 1)])
    answers = stub.until_answered(2, 4)
    assert {answers[task].kind for task in (2, 4)} == {_wire.REVOKED}
    inbox.write((*specs, *calls(*marks(6), first=6)), stop=True)
    gate.touch()
    worker.end()
    assert marks.left() == {3: "x", 5: "x", 6: "x"}
    assert {stub.answers()[task].kind for task in (1, 3, 5, 6)} == {_wire.RETURNED}
    begun = [
        int(m[1]) for m in map(_wire.BEGIN_LINE.search, worker.out().decode().split("\n")) if m
    ]
    assert begun == [1, 3, 5, 6]


def test_only_the_call_that_must_end_is_ended(stub, start, calls, put_inbox, marks, tmp_path):
    inbox = put_inbox()
    specs = calls(*marks(1), (time.sleep, 3600), *marks(3, 4))
    worker = start(specs, inbox=inbox.id, poll=0.05)
    stub.until(lambda: b"task 2 begins" in worker.out())
    inbox.write(specs, ended=[(2, 1)], stop=True)
    worker.end()
    assert stub.answers()[2].kind == _wire.REVOKED
    assert marks.left() == {1: "x", 3: "x", 4: "x"}


def test_a_crash_costs_the_call_that_runs(stub, start, calls, marks):
    def die():
        os.kill(os.getpid(), signal.SIGKILL)

    start(calls(*marks(1, 2), die, *marks(4, 5), die, *marks(7))).end()
    kinds = {task: answer.kind for task, answer in stub.answers().items()}
    assert [task for task, kind in kinds.items() if kind == _wire.CRASHED] == [3, 6]
    assert marks.left() == dict.fromkeys((1, 2, 4, 5, 7), "x")


def test_what_ends_its_process_leaves_the_rest_to_another_one(stub, start, calls, marks):
    """As nothing else can run where a limit cannot be raised again."""

    def spoil():
        import sys

        sys.modules["civis_futures.worker._surroundings"] = None
        return os.getpid()

    start(calls(*marks(1), spoil, *marks(3, 4))).end()
    pids = [stub.outcome(stub.answers()[task]) for task in (1, 2, 3, 4)]
    assert pids[0] == pids[1] != pids[2] == pids[3]
    assert marks.left() == dict.fromkeys((1, 3, 4), "x")


def test_none_begins_after_a_term(stub, start, calls, marks):
    def goes_on():
        caught = []
        signal.signal(signal.SIGTERM, lambda *_: caught.append(1))
        print("ready", flush=True)
        while not caught:
            time.sleep(0.01)

    worker = start(calls(goes_on, *marks(2, 3)))
    stub.until(lambda: b"ready" in worker.out())
    worker.term()
    worker.end(code=143)
    assert marks.left() == {}


def test_a_process_without_a_call_takes_over(stub, start, calls, marks, tmp_path):
    """Of several in one container: nothing is tied to one that is at a long call."""
    gate = tmp_path / "gate"
    specs = calls((wait_for, str(gate)), *marks(*range(2, 12)))
    worker = start(specs, processes=2)
    stub.until(lambda: len(marks.left()) == 10)
    gate.touch()
    worker.end()
    assert set(marks.left().values()) == {"x"}


def test_calls_with_a_limit_are_given_one_by_one(stub, start, calls):
    """A limit counts from when the call begins, which only its child knows."""
    specs = calls((time.sleep, 0.4), (time.sleep, 0.4), (time.sleep, 0.4), (time.sleep, 3600))
    start([replace(call, timeout=0.9) for call in specs]).end()
    kinds = [stub.answers()[task].kind for task in (1, 2, 3, 4)]
    assert kinds == [_wire.RETURNED] * 3 + [_wire.TIMED_OUT]


def test_large_calls_wait_until_there_is_room(run, calls, stub):
    """A pipe holds few of them."""
    data = [bytes([n]) * 60_000 for n in range(6)]
    answers = run(calls(*[(len, each) for each in data], *[(len, b"x" * n) for n in range(300)]))
    assert [stub.outcome(answer) for answer in answers] == [60_000] * 6 + list(range(300))


TAKEN_BACK = """
import pickle, random, sys, time
from civis_futures.worker._pacing import WorkerPacing
from civis_futures.worker._process import Children, Process

process = Process(sys.argv[1], None, (), WorkerPacing(), Children())
process.start(lambda: None)
body, chance, number = pickle.dumps((len, ((),), {})), random.Random(0), 0
header = lambda: {"name": str(number), "path": None, "buffers": []}
for _ in range(1000):
    number, first = number + 1, number + 1
    process.send(header(), body)
    for number in range(first + 1, first + 33):
        assert process.send_ahead(header(), body)
    process.permit()
    time.sleep(chance.random() * 0.002)
    begun = 33 - process.take_back(33)
    names = [process.receive(10)[0]["name"] for _ in range(begun)]
    assert names == [str(first + n) for n in range(begun)], names
process.stop()
"""


def test_a_child_takes_no_permit_between_two_that_are_taken_back(tmp_path):
    """Or it would begin a call that comes after those, and the answer would be taken for another's.
    Not certain to be seen, but likely.
    """
    subprocess.run([sys.executable, "-c", TAKEN_BACK, str(tmp_path)], check=True, timeout=60)


HEARD = """
import os, pickle, sys, time
from civis_futures.worker._pacing import WorkerPacing
from civis_futures.worker._process import Children, DiedError, Process
reads = answers = 0
class Counted(Process):
    def _read(self, timeout):
        global reads
        reads += 1
        return super()._read(timeout)
process = Counted(sys.argv[1], None, (), WorkerPacing(), Children())
process.start(lambda: None)
naps = [pickle.dumps((time.sleep, (0.01,), {}))] * 30
naps.append(pickle.dumps((os._exit, (3,), {})))
header = {"name": "x", "path": None, "buffers": []}
process.send(header, naps[0])
for nap in naps[1:]:
    assert process.send_ahead(header, nap)
process.permit()
try:
    while True:
        answers += process.receive(60, len(naps) - answers - 1) is not None
except DiedError:
    print(answers, reads)
"""


def test_a_child_is_not_heard_after_each_of_its_answers(tmp_path):
    """To be woken for each answer of short calls takes more than these do. Its end wakes us."""
    command = [sys.executable, "-c", HEARD, str(tmp_path)]
    done = subprocess.run(command, check=True, timeout=60, capture_output=True)
    answers, reads = map(int, done.stdout.split())
    assert answers == 30
    assert reads < 22  # of the last few calls, each is heard


def test_a_damaged_answer_costs_its_own_call_and_no_other(stub, start, calls, marks, tmp_path):
    """Although its child has gone on, and although others were read together with it."""

    def spoil():
        import gc

        [pipes] = [each for each in gc.get_objects() if type(each).__name__ == "Pipes"]
        os.write(pipes.answers, pipes.mark + (3).to_bytes(4, "big") + bytes(8) + b"xyz")

    posted, gates = threading.Event(), [tmp_path / "first", tmp_path / "second"]
    stub.fault("POST", "/json_values", lambda: posted.wait(60) and None)
    waits = [(wait_for, str(gate)) for gate in gates]
    worker = start(calls(*marks(1), waits[0], *marks(3), spoil, *marks(5), waits[1], *marks(7, 8)))
    stub.until(lambda: stub.count("POST", "/json_values"))
    gates[0].touch()
    stub.until(lambda: b"task 6 begins" in worker.out())
    posted.set()
    stub.until(lambda: 8 in marks.left())
    worker.end()
    kinds = {task: answer.kind for task, answer in stub.answers().items()}
    assert {task for task, kind in kinds.items() if kind == _wire.RETURNED} == {1, 2, 3, 7, 8}
    assert {kinds[task] for task in (4, 5, 6)} == {_wire.CRASHED}  # these had begun
    assert marks.left() == dict.fromkeys((1, 3, 5, 7, 8), "x")


def test_none_begins_whose_answer_would_not_be_posted(stub, start, calls, put_inbox, tmp_path):
    """A worker that gives up takes back what is ahead, and takes in what has ended."""
    folder, inbox = tmp_path / "marks", put_inbox()
    folder.mkdir()

    def takes_a_while(path):
        time.sleep(0.03)
        touch(path)

    specs = calls(*[(takes_a_while, str(folder / str(number))) for number in range(1, 40)])
    worker = start(specs, inbox=inbox.id, poll=0.05)
    stub.until(lambda: len(os.listdir(folder)) > 3)
    stub.fault("POST", "/json_values", *[lambda: time.sleep(0.3)] * 9)
    stub.fault("GET", f"/json_values/{inbox.id}", *[403] * 9)
    worker.end(code=1)
    left = {int(name) for name in os.listdir(folder)}
    assert len(left - stub.answers().keys()) <= 1, "the one that ran"


def test_what_has_ended_is_answered_at_a_term(stub, start, calls, marks, tmp_path):
    """Also if the worker had no time yet to hear of it."""
    gate = tmp_path / "gate"
    specs = calls(*marks(1), (wait_for, str(gate)), *marks(3, 4, 5), (time.sleep, 3600))
    worker = start(specs)
    stub.until(lambda: b"task 2 begins" in worker.out())
    os.kill(worker.process.pid, signal.SIGSTOP)
    gate.touch()
    stub.until(lambda: marks.left().keys() == {1, 3, 4, 5} and b"task 6 begins" in worker.out())
    worker.term()
    os.kill(worker.process.pid, signal.SIGCONT)
    worker.end(143)
    assert stub.answers().keys() >= {1, 2, 3, 4, 5}


def test_a_term_while_a_call_is_being_ended(stub, start, calls, put_inbox, marks, tmp_path):
    """Its pipes are closed by then: the others' answers are posted all the same."""
    ready, path, inbox = tmp_path / "ready", tmp_path / "told", put_inbox()

    def linger():
        def end(*_):
            signal.signal(signal.SIGTERM, signal.SIG_IGN)
            path.touch()
            time.sleep(1)
            raise SystemExit

        signal.signal(signal.SIGTERM, end)
        ready.touch()
        time.sleep(3600)

    specs = calls(*marks(1), linger, *marks(3))
    worker = start(specs, inbox=inbox.id, poll=0.05, pacing={"child_term": 3600.0})
    stub.until(ready.exists)
    inbox.write(specs, ended=[(2, 1)])
    stub.until(path.exists)
    worker.term()
    worker.end(143)
    assert stub.answers()[1].kind == _wire.RETURNED
