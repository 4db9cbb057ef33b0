"""What a task printed: cut from made-up logs, and read from real ones."""

from __future__ import annotations

import itertools
import logging
import os
import random
import sys
import threading
import time
from dataclasses import replace

import pytest
from tasks import by_value

from civis_futures import Container
from civis_futures._futures import logs
from civis_futures._types import LogLine, LogPage

by_value(__name__)


def begins(task, attempt=1):
    return f"civis_futures: task {task} begins (attempt {attempt})"


def at(task, process, attempt=1):
    return f"civis_futures: task {task} begins (attempt {attempt}, process {process})"


def on(task):
    return f"civis_futures: task {task} goes on"


class Log:
    """A made-up log as a source; it counts what is asked of it."""

    pace = 0.0

    def __init__(self, messages, complete=True):
        self.lines = [
            LogLine(10 * n, f"2026-01-01T00:00:{n / 1e6:09.6f}Z", "info", text)
            for n, text in enumerate(messages, 1)
        ]
        self.complete = complete
        self.asked, self.most, self.closed = 0, 0, False

    def page(self, job_id, run_id, last_id, limit):
        assert (job_id, run_id) == (1, 2)
        self.asked += 1
        if last_id is None:
            found = self.lines[-limit:]
        else:
            found = sorted((x for x in self.lines if x.id > last_id), key=lambda x: x.id)[:limit]
        self.most = max(self.most, sum(len(line.message) for line in found))
        return LogPage(found, self.complete)

    def close(self):
        self.closed = True


def call(number=3, done=True):
    over = threading.Event()
    if done:
        over.set()
    made = logs.LoggedCall(number, lambda: (1, 2), over.is_set, over.wait)
    return made, over


def texts(log, number=3, tail=None, reused=True, done=True):
    found = logs.read(logs.LogAccess(lambda: log, reused), call(number, done)[0], tail)
    assert log.closed
    return [str(line) for line in found]


@pytest.mark.parametrize(
    ("messages", "expected"),
    [
        (["a", "b"], ["a", "b"]),  # no marks: all is the call's
        (["start", begins(3), "a"], ["a"]),
        ([begins(1), "x", begins(3), "a", "b", begins(4), "y"], ["a", "b"]),
        ([begins(1), "x"], []),  # not begun
        ([begins(3), "a", begins(1), "x", begins(3, 2), "b"], ["b"]),  # the last attempt
        ([begins(3), begins(3), "a"], ["a"]),
        ([begins(33), "x", begins(3), "a " + begins(4)], ["a " + begins(4)]),
        ([], []),
        ([begins(1), "x", "", begins(3), "a", "", begins(4), "y"], ["a"]),  # a mark's own newline
        ([begins(3), "a", "", "b", "", "", begins(4)], ["a", "", "b", ""]),
        ([begins(3), "a", ""], ["a", ""]),
        # of a worker that runs several calls at once
        ([at(3, 1), "a", at(4, 2), "x", on(3), "b", on(4), "y"], ["a", "b"]),
        ([at(4, 2), "x", at(3, 1), "a", "", on(4), "y", "", on(3), "", "b"], ["a", "", "b"]),
        ([at(3, 1), "a", at(4, 2), "x", at(5, 1), "y", on(4), "z"], ["a"]),  # over
        ([at(3, 1), "a", at(4, 2), at(5, 2), "x", on(3), "b"], ["a", "b"]),  # not over
        ([at(3, 1), "a", "civis_futures: process 2 goes on", "x", on(3), "b"], ["a", "b"]),
        ([at(3, 1), "a", at(4, 2), "x", at(3, 2, 2), "b"], ["b"]),  # the last attempt
    ],
)
def test_a_log_is_cut_at_the_calls_borders(messages, expected):
    assert texts(Log(messages)) == expected
    assert texts(Log(messages), tail=1) == expected[-1:]


def test_two_streams_come_in_any_order():
    out = [begins(1), "x", begins(3), "a", "b", begins(4), "y"]
    err = [begins(1), begins(3), "e", begins(4), "f"]
    for places in itertools.combinations(range(len(out) + len(err)), len(err)):
        log = Log(out + err)
        streams = {"info": iter(out), "error": iter(err)}
        for place, line in enumerate(log.lines):
            level = "error" if place in places else "info"
            log.lines[place] = replace(line, level=level, message=next(streams[level]))
        made = logs.read(logs.LogAccess(lambda log=log: log, True), call()[0], None)
        assert [str(line) for line in made if line.level == "info"] == ["a", "b"]
        assert [str(line) for line in made if line.level == "error"] == ["e"]


def test_a_container_for_one_call_has_its_log_for_itself():
    messages = ["start", begins(9), "a"]
    assert texts(Log(messages), reused=False) == messages
    assert texts(Log(messages), number=None) == messages


@pytest.fixture
def long():
    """A log of 300,000 lines and 30 MB; task 3 is early in it, task 5 late."""
    return [
        begins(1), *["x" * 100] * 1000,
        begins(3), *(f"three {n} {'x' * 90}" for n in range(50_000)),
        begins(4), *["y" * 100] * 200_000,
        begins(5), *(f"five {n} {'x' * 90}" for n in range(49_000)),
    ]  # fmt: skip


def test_a_log_of_many_pages_is_never_in_memory_as_a_whole(long):
    log = Log(long)
    found = texts(log, 3, tail=7)
    assert [text.split()[1] for text in found] == [str(n) for n in range(49_993, 50_000)]
    assert log.most < 2 * logs.PAGE_CHARACTERS
    assert log.asked < 10  # it stops where the next call begins
    found = texts(log, 5)
    assert len(found) == logs.MOST_LINES
    assert found[-1].startswith("five 48999 ")


def test_lines_of_the_call_before_are_not_those_of_one_that_waits(long):
    # Both are with the same worker; task 6 has not begun, and the newest lines do not say so.
    log = Log(long, complete=False)
    assert texts(log, 6, tail=2, done=False) == []
    assert [text.split()[1] for text in texts(log, 5, tail=2, done=False)] == ["48998", "48999"]
    assert log.asked < 80


def test_the_end_of_a_container_for_one_call_costs_one_request(long):
    log = Log(long)
    assert [text.split()[1] for text in texts(log, 5, tail=2, reused=False)] == ["48998", "48999"]
    assert log.asked == 1


def test_a_call_that_began_some_pages_ago_is_found_in_a_larger_page():
    log = Log([begins(1), *["x"] * 5000, begins(3), *["y"] * 3000])
    assert texts(log) == ["y"] * 3000
    assert log.asked == 2


def test_long_lines_are_read_in_smaller_pages():
    log = Log(["z" * 50_000] * 3000)
    found = texts(log, reused=False)
    assert log.most <= 51_000_000
    assert sum(map(len, found)) <= logs.MOST_CHARACTERS


def test_a_growing_log_is_followed(paced):
    paced(log_pause=0.01)
    log = Log(["start", begins(3), "a"], complete=False)
    made, over = call(done=False)
    lines = logs.follow(logs.LogAccess(lambda: log, True), made, None)
    assert str(next(lines)) == "a"
    log.lines.append(LogLine(400, "", "info", "c"))
    assert str(next(lines)) == "c"
    log.lines.append(LogLine(395, "", "info", "b, late, of a lower id"))
    assert str(next(lines)) == "b, late, of a lower id"
    log.lines += [LogLine(500 + n, "", "info", f"{n}") for n in range(2500)]
    over.set()
    assert [str(next(lines)) for _ in range(2500)] == [str(n) for n in range(2500)]
    log.lines.append(LogLine(4000, "", "info", begins(4)))
    log.lines.append(LogLine(4001, "", "info", "x"))
    assert list(lines) == []
    assert log.closed


@pytest.mark.parametrize("end", ["complete", "silent"])
def test_following_ends(paced, end):
    paced(log_pause=0.01, log_grace=0.05)
    log = Log([begins(3), *"abcde"], complete=end == "complete")
    lines = logs.follow(logs.LogAccess(lambda: log, True), call()[0], 2)
    assert [str(line) for line in lines] == ["d", "e"]


def test_start_up_is_held_back_until_the_call_begins(paced):
    paced(log_pause=0.01)
    log = Log(["pip install"], complete=False)
    made, _ = call(done=False)
    lines = logs.follow(logs.LogAccess(lambda: log, True), made, None)
    timer = threading.Timer(
        0.1,
        lambda: log.lines.extend(
            [LogLine(50, "", "info", begins(3)), LogLine(51, "", "info", "mine")]
        ),
    )
    timer.start()
    assert str(next(lines)) == "mine"
    timer.join()
    lines.close()
    assert log.closed


@pytest.mark.parametrize(
    ("text", "level"),
    [
        ("WARNING:root:careful", "warn"),
        ("INFO:a.b:x", "info"),
        ("2026-01-02 10:11:12,345 ERROR x", "error"),
        ("2026-01-02 10:11:12,345 - a.b - DEBUG - x", "debug"),
        ("[CRITICAL] x", "fatal"),
        ("INFORMATION", "unknown"),
        ("an ERROR: in the middle", "unknown"),
        ("", "unknown"),
    ],
)
def test_levels_of_records(text, level):
    assert logs.leveled(LogLine(1, "", "unknown", text)).level == level


def test_the_pattern_of_levels_is_quick():
    def seconds(length):
        """Of CPU, for the worst lines of a length: the least of three attempts."""
        spent = []
        for _ in range(3):
            begin = time.thread_time()
            for text in ("1" * length, "1-" * length, "a." * length, "[12-" + " |-" * length):
                logs.leveled(LogLine(1, "", "info", text))
            spent.append(time.thread_time() - begin)
        return min(spent)

    # Ten times the length takes ten times as long, or less; not a hundred times.
    assert seconds(50_000) < 40 * seconds(5_000)


# --- real ones -----------------------------------------------------------------------------------


def say(*words):
    for word in words:
        print(word)


def test_the_log_of_one_call_of_a_reused_worker(make_executor):
    with make_executor(1) as executor:
        futures = [executor.submit(say, f"a{n}", f"b{n}") for n in range(3)]
    assert [[str(line) for line in future.logs()] for future in futures] == [
        [f"a{n}", f"b{n}"] for n in range(3)
    ]
    assert [str(line) for line in futures[1].logs(tail=1)] == ["b1"]
    assert [str(line) for line in futures[1].logs(follow=True)] == ["a1", "b1"]
    for wrong, error in ((-1, ValueError), (1.5, TypeError), (True, TypeError)):
        with pytest.raises(error):
            futures[0].logs(tail=wrong)


def test_the_log_of_the_whole_container(make_executor):
    container = Container(required_resources={"cpu": 64}, setup_cmd="echo made ready")
    with make_executor(1, container=container) as executor:
        futures = [executor.submit(say, word) for word in ("one", "two")]
    texts = [str(line) for line in futures[1].container_logs()]
    assert [text for text in texts if text in ("made ready", "one", "two")] == [
        "made ready", "one", "two",
    ]  # fmt: skip
    assert [str(line) for line in futures[1].container_logs(tail=1)] == texts[-1:]
    assert [str(line) for line in futures[1].logs()] == ["two"]
    with pytest.raises(ValueError, match="tail"):
        futures[0].container_logs(tail=-1)


def say_on_both(number):
    print("out", number)
    print("err", number, file=sys.stderr)


def test_both_streams_of_short_calls_are_theirs(make_executor):
    with make_executor(1) as executor:
        futures = [executor.submit(say_on_both, n) for n in range(20)]
    for number, future in enumerate(futures):
        lines = [(line.level, line.message) for line in future.logs()]
        assert sorted(lines) == [("error", f"err {number}"), ("info", f"out {number}")]


UNFINISHED = {
    "print": lambda number: print(number, end=""),
    "bytes": lambda number: sys.stdout.buffer.write(str(number).encode()),
    "descriptor": lambda number: os.write(1, str(number).encode()),
    "process": lambda number: os.system(f"printf {number}"),
    "a line": print,
    "an empty line": lambda number: print(f"{number}\n"),
    "dies": lambda number: (os.write(1, str(number).encode()), os._exit(3)),
}


@pytest.mark.parametrize("way", UNFINISHED.values(), ids=UNFINISHED.keys())
def test_output_without_a_newline_hides_no_call(make_executor, way):
    executor = make_executor(1)
    futures = [executor.submit(way, number) for number in range(1, 4)]
    executor.shutdown()  # what has no newline at the end of a log becomes a line at its end
    empty = [""] if way is UNFINISHED["an empty line"] else []
    for number, future in enumerate(futures, 1):
        assert [str(line) for line in future.logs()] == [str(number), *empty]


def talk(folder):
    for number in range(3):
        print("word", number)
        while not os.path.exists(f"{folder}/{number}"):
            time.sleep(0.005)
    return "end"


@pytest.mark.parametrize("tasks", [1, None], ids=["fresh", "reused"])
def test_a_real_log_is_followed(make_executor, tmp_path, tasks, paced):
    paced(log_grace=0.5)  # all lines have been read by then
    executor = make_executor(1, max_tasks_per_worker=tasks)
    future = executor.submit(talk, str(tmp_path))
    lines = future.logs(follow=True)
    for number in range(3):
        assert str(next(lines)) == f"word {number}"
        (tmp_path / str(number)).touch()
    assert list(lines) == []
    assert future.result(10) == "end"


def test_there_is_no_log_before_there_is_a_run(make_executor):
    executor = make_executor(1)
    future = executor.submit(print, threading.Lock())
    assert future.logs() == []
    assert list(future.logs(follow=True)) == []


def record():
    log = logging.getLogger("mine")
    log.setLevel(logging.DEBUG)
    log.debug("d")
    log.info("i")
    log.warning("w")
    log.critical("c")
    print("plain")


def configured():
    logging.basicConfig(level="INFO", format="%(asctime)s %(levelname)s %(message)s", force=True)
    logging.info("set up by the user")


def test_records_of_logging_have_their_level(make_executor):
    with make_executor(1, max_tasks_per_worker=1) as executor:
        future, other = executor.submit(record), executor.submit(configured)
    levels = {line.message: line.level for line in future.logs()}
    assert levels == {
        "DEBUG:mine:d": "debug",
        "INFO:mine:i": "info",
        "WARNING:mine:w": "warn",
        "CRITICAL:mine:c": "fatal",
        "plain": "info",
    }
    (line,) = other.logs()
    assert (line.level, line.message.rpartition(" INFO ")[2]) == ("info", "set up by the user")


def flood(lines, width):
    text = "".join(random.choices("abcdefgh", k=width))
    for number in range(lines):
        print(number, text)


@pytest.mark.stress
def test_a_log_of_100_mb(make_executor):
    import tracemalloc

    with make_executor(1) as executor:
        future = executor.submit(flood, 200_000, 500)
    tracemalloc.start()
    (line,) = future.logs(tail=1)
    assert line.message.startswith("199999 ")
    assert sum(1 for _ in future.logs(follow=True)) == logs.MOST_LINES
    assert tracemalloc.get_traced_memory()[1] < 150e6
    tracemalloc.stop()
