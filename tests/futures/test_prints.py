"""What tasks print while somebody waits for them: which lines are whose, and what that costs."""

from __future__ import annotations

import io
import sys
import threading
import time

import pytest
from tasks import by_value

from civis_futures import ContainerPoolExecutor, progress
from civis_futures._futures.prints import Borders
from civis_futures._types import LogLine
from civis_futures.local import LocalPlatform

by_value(__name__)


def begins(task, attempt=1):
    return f"civis_futures: task {task} begins (attempt {attempt})"


def goes_on(what):
    return f"civis_futures: {what} goes on"


def labelled(lines, alone=None, known=(1, 2, 3)):
    """The lines as `N:text`; those that begin with "!" came by stderr."""
    borders = Borders(alone, known.__contains__)
    made = [
        LogLine(n, "", "error" if text.startswith("!") else "info", text.removeprefix("!"))
        for n, text in enumerate(lines)
    ]
    return [f"{number}:{line.message}" for one in made for number, line in borders.label([one])]


@pytest.mark.parametrize(
    ("lines", "expected"),
    [
        ([], []),
        (["set-up", begins(1), "a", "", "b", "", begins(2), "c"], ["1:a", "1:", "1:b", "2:c"]),
        ([begins(1), "!" + begins(1), "a", begins(2), "!late", "b"], ["1:a", "1:late", "2:b"]),
        ([begins(1), "no end" + begins(2), "b"], ["1:no end", "2:b"]),
        ([begins(1), "it says: " + begins(7), "b"], ["1:it says: " + begins(7), "1:b"]),
        ([begins(1), begins(1, 2), "again"], ["1:again"]),
        (
            [
                begins(1),
                "a",
                "",
                goes_on("task 2"),
                "b",
                "!c",
                goes_on("process 3"),
                "x",
                "",
                goes_on("task 1"),
                "d",
            ],
            ["1:a", "2:b", "1:d"],
        ),
    ],
)
def test_each_line_is_of_the_call_that_has_begun_last_on_its_stream(lines, expected):
    assert labelled(lines) == expected


def test_a_call_with_a_log_of_its_own_has_all_of_it():
    assert labelled(["pip: installed", "", begins(9)], alone=3) == [
        "3:pip: installed", "3:", f"3:{begins(9)}",
    ]  # fmt: skip


# --- real ones -----------------------------------------------------------------------------------


def talk(name):
    print(f"hello from {name}")
    print("and bye", file=sys.stderr)
    return name


def fail(name):
    print(f"about to fail: {name}")
    raise ValueError(name)


@pytest.fixture
def streams(monkeypatch):
    """streams(): what goes to stdout and stderr from now on. (Pytest would undo it in here.)"""

    def put():
        pair = io.StringIO(), io.StringIO()
        monkeypatch.setattr(sys, "stdout", pair[0])
        monkeypatch.setattr(sys, "stderr", pair[1])
        return pair

    return put


def no_thread_is_left():
    return not [each for each in threading.enumerate() if each.name == "civis-futures prints"]


def test_lines_have_the_name_of_their_task(make_executor, streams, paced):
    paced(log_pause=0.05, log_grace=0.5)
    executor = make_executor(2, name="talking")
    assert executor.submit(talk, "nobody").result(60) == "nobody"  # is not waited for
    futures = [executor.submit(talk, name) for name in "abc"]
    said, told = streams()
    progress(futures, logs=True)
    expected = [
        f"{each.task}: hello from {name}" for each, name in zip(futures, "abc", strict=True)
    ]
    expected += [f"{each.task}: and bye" for each in futures]
    assert sorted(said.getvalue().splitlines()) == sorted(expected)
    assert "civis_futures: reading what tasks print has taken " in told.getvalue()
    assert no_thread_is_left()


@pytest.mark.parametrize("bar", [False, True])
def test_a_map_prints_also_what_was_before_a_failure(make_executor, streams, paced, bar):
    paced(log_pause=0.05, log_grace=0.5)
    executor = make_executor(1, max_tasks_per_worker=1)
    said, told = streams()
    with pytest.raises(ValueError, match="x"):
        list(executor.map(fail, ["x"], logs=True, progress=bar))
    lines = [each for each in said.getvalue().splitlines() if "about to" in each]
    assert lines == ["fail (task 0, item 0): about to fail: x"]
    assert ("tasks done" in told.getvalue()) is bar
    assert no_thread_is_left()


def test_dropping_a_map_reads_no_more(make_executor):
    executor = make_executor(1)
    results = executor.map(pow, [1, 2], [1, 60], logs=True)
    assert next(results) == 1
    results.close()
    assert no_thread_is_left()


def sleep(seconds):
    print("asleep")
    time.sleep(seconds)


def test_it_keeps_to_its_part_of_the_rate_limit(streams, paced):
    """By the pace of a platform that allows little, most of it is left to others."""
    paced(log_pause=0.01, log_grace=0.5)
    with (
        LocalPlatform(cores=4, rate_limit=(400, 100, 60)) as platform,
        ContainerPoolExecutor(3, platform=platform) as executor,
    ):
        budget = executor._manager.client.budget
        futures = [executor.submit(sleep, 1.0) for _ in range(3)]
        _, told = streams()
        begun, pace = time.monotonic(), budget.pace
        progress(futures, logs=True)
        took = time.monotonic() - begun
        [line] = [x for x in told.getvalue().splitlines() if "reading what tasks" in x]
        requests = int(line.split()[-2])
        assert 1 <= requests <= 2 + took / (4 * pace)
    assert no_thread_is_left()
