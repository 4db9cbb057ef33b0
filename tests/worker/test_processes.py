"""An order for several processes: what becomes of one of them is none of the others' business."""

import os
import signal
import time
from pathlib import Path

from civis_futures import _wire

MARKS = _wire.BEGIN_LINE, _wire.GO_ON_LINE


def meet(folder, name, number):
    """Come to a place, and wait until so many have come."""
    Path(folder, name).write_text(str(os.getpid()))
    while len(os.listdir(folder)) < number:
        time.sleep(0.01)
    return os.getpid()


def meet_and_wait(folder, name, number):
    meet(folder, name, number)
    time.sleep(3600)


def wait_for(path):
    while not os.path.exists(path):
        time.sleep(0.01)


def test_calls_overlap_and_processes_are_used_again(run, calls, tmp_path):
    (tmp_path / "here").mkdir()
    specs = [(meet, str(tmp_path / "here"), str(n), 3) for n in range(6)]
    answers = run(calls(*specs), processes=3, stop=True)
    assert {answer.kind for answer in answers} == {_wire.RETURNED}
    assert max(a.started for a in answers[:3]) < min(a.finished for a in answers[:3])


def test_calls_begin_in_their_order_whatever_one_process_is_at(stub, start, calls, tmp_path):
    """Of the calls that it has not answered, the client takes the first ones for those that run."""
    gate = tmp_path / "gate"
    worker = start(calls((wait_for, str(gate)), *[(time.sleep, 0)] * 79), processes=2)

    def begun():
        lines = worker.out().decode().split("\n")
        return [int(match[1]) for match in map(_wire.BEGIN_LINE.search, lines) if match]

    stub.until(lambda: len(begun()) == 80)
    gate.touch()
    worker.end()
    assert begun() == [*range(1, 81)]


def test_one_call_alone_needs_no_more_than_today(run, calls):
    [answer] = run(calls(os.getpid), processes=3, stop=True)
    assert answer.kind == _wire.RETURNED


def killed_for_memory(folder, name, counter):
    meet(folder, name, 3)
    Path(counter).write_text("1")  # as the kernel counts
    os.kill(os.getpid(), signal.SIGKILL)


def killed_after(folder, name, counter):
    meet(folder, name, 3)
    wait_for(counter)
    time.sleep(0.3)
    os.kill(os.getpid(), signal.SIGKILL)


def test_out_of_memory_is_told_of_as_many_calls_as_the_kernel_has_killed(run, calls, tmp_path):
    folder, counter = tmp_path / "here", tmp_path / "kills"
    folder.mkdir()
    prelude = (
        "import os, civis_futures.worker._process as it\n"
        f"path = {str(counter)!r}\n"
        "it._oom_kills = lambda _: int(open(path).read() or 0) if os.path.exists(path) else 0\n"
    )
    specs = [
        (killed_for_memory, str(folder), "1", str(counter)),
        (killed_after, str(folder), "2", str(counter)),
        (meet, str(folder), "3", 3),
    ]
    answers = run(calls(*specs), processes=3, stop=True, prelude=prelude)
    assert [a.kind for a in answers] == [_wire.MEMORY, _wire.CRASHED, _wire.RETURNED]


def test_one_is_ended_by_the_inbox_and_the_others_go_on(stub, start, calls, put_inbox, tmp_path):
    inbox = put_inbox()
    folder, path = tmp_path / "here", tmp_path / "open"
    folder.mkdir()
    first = calls((meet_and_wait, str(folder), "1", 2), (meet_and_go, str(folder), str(path)))
    worker = start(first, processes=2, inbox=inbox.id, poll=0.05, pacing={"calm": 0.05})
    stub.until(lambda: len(os.listdir(folder)) == 2)
    inbox.write(first, ended=[(1, 1)])
    assert stub.until_answered(1)[1].kind == _wire.REVOKED
    inbox.write((*first, *calls(os.getpid, first=3)))
    stub.until_answered(3)
    assert 2 not in stub.answers()
    path.touch()
    assert stub.until_answered(2)[2].kind == _wire.RETURNED
    inbox.write(stop=True)
    worker.end()


def meet_and_go(folder, path):
    meet(folder, "2", 2)
    wait_for(path)


def test_a_term_reaches_all(stub, start, calls, tmp_path):
    def last_words(name):
        signal.signal(signal.SIGTERM, lambda *_: (print(f"{name} ends", flush=True), os._exit(0)))
        meet_and_wait(str(tmp_path / "here"), name, 2)

    (tmp_path / "here").mkdir()
    worker = start(calls((last_words, "1"), (last_words, "2")), processes=2, stop=True)
    stub.until(lambda: len(os.listdir(tmp_path / "here")) == 2)
    worker.term()
    worker.end(143)
    assert {b"1 ends", b"2 ends"} <= set(worker.out().split(b"\n"))


def test_a_lease_ends_all(stub, start, calls, put_inbox, tmp_path):
    (tmp_path / "here").mkdir()
    specs = [(meet_and_wait, str(tmp_path / "here"), str(n), 2) for n in range(2)]
    inbox = put_inbox()
    worker = start(calls(*specs), processes=2, inbox=inbox.id, lease=1.0, poll=0.1)
    here = tmp_path / "here"
    stub.until(lambda: sum(bool(each.read_text()) for each in here.iterdir()) == 2)
    pids = [int((tmp_path / "here" / str(n)).read_text()) for n in range(2)]
    worker.end()
    assert not any(os.path.exists(f"/proc/{pid}") for pid in pids)
    assert worker.out().splitlines()[-1] == _wire.SILENCE.encode()


def speak(folder, name):
    meet(folder, name, 2)
    print(end=f"{name} begins ")
    for number in range(3):
        print(f"{name} says {number}", flush=True)
        time.sleep(0.02)
    print()
    print("", flush=True)
    os.write(1, f"{name} has not".encode())


def test_the_log_says_whose_each_line_is(stub, start, calls, tmp_path):
    (tmp_path / "here").mkdir()
    specs = [(speak, str(tmp_path / "here"), str(n)) for n in (1, 2)]
    worker = start(calls(*specs), processes=2, stop=True).end()
    assert stub.answers().keys() == {1, 2}
    said, task = {1: [], 2: []}, 0
    lines = worker.out().decode().split("\n")
    for place, line in enumerate(lines):
        begun, goes_on = (mark.match(line) for mark in MARKS)
        if begun or goes_on:
            task = int((begun or goes_on)[1])
            assert place == 0 or lines[place - 1] == ""
        elif task:
            said[task].append(line)
    for name, its_lines in said.items():
        text = [line for line in its_lines if line]
        words = [f"{name} begins {name} says 0", f"{name} says 1", f"{name} says 2"]
        assert text == [*words, f"{name} has not"]


def test_an_order_for_one_process_says_nothing_of_it(order):
    assert "processes" not in _wire.to_json(order())
    text = _wire.to_json(order(processes=2))
    assert _wire.order_from_json(text).processes == 2
