"""Sessions: the client dies, the same cell is run again, and nothing is run twice."""

from __future__ import annotations

import contextlib
import os
import signal
import time
import types
from functools import partial

import pytest
from cases import mostly_repeats
from tasks import by_value

import civis_futures
from civis_futures import BrokenContainerPool, SessionInUseError, SessionMismatchError, cli

by_value(__name__)

SQUARES = [number * number for number in range(100)]


def double(number):
    return 2 * number


def fail(number):
    raise ValueError(f"no {number}")


@pytest.fixture
def purged(platform):
    """purged(name): a session that is removed at the end."""
    names = []

    def note(name):
        names.append(name)
        return name

    yield note
    for name in names:
        civis_futures.purge(name, platform)


@pytest.mark.parametrize(
    ("limit", "tasks", "workers"),
    [(None, 60, 6), pytest.param(1, 18, 3, marks=pytest.mark.repeats)],
    ids=["reused", "fresh"],
)
def test_a_killed_client_loses_nothing_and_repeats_nothing(client, until, limit, tasks, workers):
    options = {"session": f"killed {limit}", "max_workers": workers, "max_tasks_per_worker": limit}
    first = client.start(tasks, 0.2, **options)
    until(lambda: len(client.runs) >= tasks // 2, 60)  # most of these have ended, the others run
    client.kill(first)
    assert client(tasks, 0.2, **options) == SQUARES[:tasks]
    assert sorted(client.runs) == list(range(tasks))


def test_killed_again_and_again(client, until):
    options = {"session": "again and again", "max_workers": 3}
    for number in (4, 9):
        process = client.start(15, 0.1, **options)
        until(lambda number=number: len(client.runs) >= number, 60)
        client.kill(process)
    assert client(15, 0.1, **options) == SQUARES[:15]
    assert sorted(client.runs) == list(range(15))


def test_after_a_clean_end_the_results_are_there_without_any_run(client, platform):
    options = {"session": "clean", "max_workers": 3}
    assert client(9, 0, **options) == SQUARES[:9]
    before = platform.stats()
    assert client(9, 0, **options) == SQUARES[:9]
    after = platform.stats()
    assert after.runs_started == before.runs_started
    # A container that has ended is asked for its answers, and for nothing else.
    asked = "GET", "/scripts/containers/{id}/runs", "client"
    assert after.count(*asked) == before.count(*asked)
    assert sorted(client.runs) == list(range(9))


LARGE = """
import hashlib
def work(text):
    with open(folder / "runs", "a") as file:
        file.write(f"{len(text) % 1000}\\n")
    time.sleep(seconds)
    return text * 2
"""
LARGE_CELL = """
texts = [str(n) * (300_000 + n) for n in range(8)]
print(json.dumps([len(text) for text in executor.map(work, texts)]))
"""


def test_large_calls_and_results(client, until):
    options = {"session": "large", "max_workers": 2, "cell": LARGE_CELL, "functions": LARGE}
    first = client.start(8, 0.3, **options)
    until(lambda: len(client.runs) >= 4, 60)
    client.kill(first)
    assert client(8, 0.3, **options) == [2 * (300_000 + n) for n in range(8)]
    assert sorted(client.runs) == list(range(8))


FAILING = """
def work(number):
    with open(folder / "runs", "a") as file:
        file.write(f"{number}\\n")
    if number == 1:
        raise KeyError("as it must")
"""
FAILING_CELL = """
futures = [executor.submit(work, n) for n in range(3)]
print(json.dumps([repr(future.exception()) for future in futures]))
"""


def test_a_function_that_raised_is_not_run_again(client):
    options = {"session": "failing", "cell": FAILING_CELL, "functions": FAILING}
    expected = ["None", "KeyError('as it must')", "None"]
    assert client(3, 0, **options) == expected
    assert client(3, 0, **options) == expected
    assert sorted(client.runs) == [0, 1, 2]


def test_a_container_that_was_lost_meanwhile_is_told_as_ever(client, platform, until):
    options = {"session": "lost meanwhile", "max_workers": 2, "max_retries": 1}
    first = client.start(8, 0.5, **options)
    until(lambda: len(client.runs) >= 3, 60)
    client.kill(first)
    [pids, *_] = platform.stats().active.values()
    for pid in pids:
        os.kill(pid, signal.SIGKILL)
    assert client(8, 0.5, **options) == SQUARES[:8]
    assert set(client.runs) == set(range(8))
    assert len(client.runs) <= 12  # answers that it had not posted went with it, too


def test_the_second_one_is_told_who_holds_it(make_executor, platform, purged):
    name = purged("held")
    with make_executor(session=name), pytest.raises(SessionInUseError) as caught:
        make_executor(session=name)
    assert f"process {os.getpid()} (this process) on " in str(caught.value)
    [info] = [each for each in civis_futures.sessions(platform) if each.name == name]
    assert info.holder is None


def test_a_function_that_changed_is_not_run_at_all(make_executor, purged):
    name = purged("changed")
    with make_executor(session=name) as executor:
        assert list(executor.map(double, range(3))) == [0, 2, 4]
    with make_executor(session=name) as executor:
        changed = types.FunctionType(fail.__code__, globals(), "double")
        changed.__qualname__ = double.__qualname__
        futures = [executor.submit(double, 2), executor.submit(changed, 1), executor.submit(abs, 3)]
        assert futures[0].result(10) == 4
        for future in futures[1:]:
            with pytest.raises(SessionMismatchError, match=r"task 1 .* double does something else"):
                future.result(10)
        assert executor.submit(changed, 9).exception(10) is not None
    with make_executor(session=name) as executor:
        assert list(executor.map(double, range(4))) == [0, 2, 4, 6]


def tenfold(number, by=10):
    return number * by


def test_calls_are_found_by_what_they_are(make_executor, platform, purged):
    """Wherever they are submitted, and whatever is submitted besides."""
    name = purged("shuffled")
    with make_executor(session=name) as executor:
        first = [executor.submit(tenfold, n) for n in range(6)]
        first += [executor.submit(partial(tenfold, by=n), 1) for n in range(3)]
        assert [future.result(20) for future in first] == [0, 10, 20, 30, 40, 50, 0, 1, 2]
    runs = platform.stats().runs_started
    numbers = [5, 2, 0, 3]
    with make_executor(session=name) as executor:
        again = [executor.submit(tenfold, n) for n in numbers]
        again += [executor.submit(partial(tenfold, by=n), 1) for n in (2, 1)]
        assert [future.result(20) for future in again] == [50, 20, 0, 30, 2, 1]
        assert platform.stats().runs_started == runs
        more = executor.submit(tenfold, 7), executor.submit(partial(tenfold, by=7), 1)
        assert [future.result(20) for future in more] == [70, 7]
    assert [future.task for future in again] == [f"tenfold (task {n})" for n in (5, 2, 0, 3, 8, 7)]
    assert [future.task for future in more] == ["tenfold (task 9)", "tenfold (task 10)"]
    runs = platform.stats().runs_started
    with make_executor(session=name) as executor:
        assert list(executor.map(tenfold, [7, 5, 4])) == [70, 50, 40]
        assert executor.submit(partial(tenfold, by=7), 1).result(20) == 7
    assert platform.stats().runs_started == runs


def drawn():
    return os.urandom(8)


def test_equal_calls_have_their_results_in_their_order(make_executor, purged):
    name = purged("equal")
    with make_executor(session=name) as executor:
        drawn_then = [executor.submit(drawn).result(20) for _ in range(3)]
    with make_executor(session=name) as executor:
        futures = [executor.submit(drawn) for _ in range(4)]
        drawn_now = [future.result(20) for future in futures]
    assert drawn_now[:3] == drawn_then
    assert drawn_now[3] not in drawn_then


SHUFFLED_CELL = """
import random
order = [n for n in range(tasks) if tasks == 60 or n not in (5, 50)]
random.Random(tasks).shuffle(order)
print(json.dumps(sorted(executor.map(work, order))))
"""


def test_of_an_edited_cell_only_the_difference_is_run(client, platform, until):
    """60 calls, killed after some 30; two are left out, three are new, the order is another."""
    options = {"session": "edited", "max_workers": 6, "cell": SHUFFLED_CELL}
    first = client.start(60, 0.2, **options)
    until(lambda: len(client.runs) >= 30, 60)
    client.kill(first)
    requests = platform.stats().count(origin="client")
    assert client(63, 0.2, **options) == [n * n for n in range(63) if n not in (5, 50)]
    assert platform.stats().count(origin="client") - requests < 250
    assert len(client.runs) == len(set(client.runs)), "none is run twice"
    assert {*client.runs, 5, 50} == set(range(63))


def crash(number):
    os._exit(number)


def test_a_function_that_was_lost_with_its_container_may_be_mended(make_executor, purged):
    name = purged("mended")
    with make_executor(1, session=name) as executor:
        assert executor.submit(double, 2).result(20) == 4
        assert isinstance(executor.submit(crash, 3).exception(20), civis_futures.CallLostError)
    with make_executor(1, session=name) as executor:
        futures = [executor.submit(double, 2), executor.submit(double, 3)]
        assert [future.result(20) for future in futures] == [4, 6]


def test_what_was_cancelled_is_sent_again(make_executor, purged, tmp_path, until):
    name = purged("cancelled")
    gate = tmp_path / "gate"
    with make_executor(1, session=name) as executor:
        futures = [executor.submit(wait_for, str(gate), n) for n in range(3)]
        until(futures[0].running)
        executor.cancel_all()
    gate.touch()
    with make_executor(1, session=name) as executor:
        again = [executor.submit(wait_for, str(gate), n) for n in range(3)]
        assert [future.result(20) for future in again] == [0, 1, 2]


def wait_for(path, number):
    import os
    import time

    while not os.path.exists(path):
        time.sleep(0.01)
    return number


def test_calls_that_nobody_asks_for_are_ended(client, make_executor, until, mine):
    first = client.start(20, 60, session="shorter", max_workers=2)
    until(lambda: len(client.runs) == 2, 60)
    client.kill(first)
    with make_executor(2, session="shorter"):
        pass  # as if the cell were empty now
    assert mine() == {}
    assert len(client.runs) == 2


@pytest.mark.parametrize("name", ["a/b", "", " a", "a\N{SNOWMAN}", "x" * 300, "a\n"])
def test_names_that_cannot_be(make_executor, name):
    with pytest.raises(ValueError, match="cannot be the name of a session"):
        make_executor(session=name)
    with pytest.raises(ValueError, match="cannot be the name of a session"):
        civis_futures.purge(name)
    with pytest.raises(TypeError):
        make_executor(session=3)


def test_sessions_and_purge(make_executor, platform):
    with make_executor(session="listed") as executor:
        assert list(executor.map(double, range(3))) == [0, 2, 4]
        [info] = [each for each in civis_futures.sessions(platform) if each.name == "listed"]
        assert (info.answered, info.held, info.runs > 0) == (3, 0, True)
        assert str(os.getpid()) in info.holder
        with pytest.raises(SessionInUseError):
            civis_futures.purge("listed", platform)
    civis_futures.purge("listed", platform)
    assert "listed" not in [each.name for each in civis_futures.sessions(platform)]
    with pytest.raises(LookupError):
        civis_futures.purge("listed", platform)


def test_the_commands(client, platform, until, mine, monkeypatch, capsys):
    monkeypatch.setenv("CIVIS_API_ENDPOINT", platform.url)
    monkeypatch.setenv("CIVIS_API_KEY", platform.api_key)
    first = client.start(20, 60, session="by command", max_workers=2)
    until(lambda: len(client.runs) == 2, 60)

    def command(*words):
        capsys.readouterr()
        code = cli.main(list(words))
        return code, *capsys.readouterr()

    code, _, said = command("purge", "by command")
    assert code == 2
    assert f"held by process {first.pid} on" in said
    code, would, _ = command("purge", "by command", "--dry-run")
    assert code == 0
    assert f"would not be removed: it is open in process {first.pid} on" in would
    client.kill(first)
    assert command("purge", "by command", "--dry-run")[1].endswith("runs that would end: 2\n")
    assert command("purge", "by commander", "--dry-run")[0] == 2
    assert "by command" in command("sessions")[1]
    assert '"name": "by command"' in command("sessions", "--json")[1]
    assert command("purge", "by command")[1] == "session by command is removed\n"
    until(lambda: not mine())
    assert command("purge", "by command")[0] == 2
    assert command("purge", "a/b")[0] == 2


def test_who_loses_the_session_leaves_the_containers(make_executor, purged, gate_file, paced):
    name = purged("lost")
    paced(sign_of_life=0.1)
    first = make_executor(1, session=name)
    future = first.submit(wait_for, str(gate_file), 7)
    while not future.running():
        time.sleep(0.01)
    paced(holder_gone=-30.0)  # as if it had given no sign of life
    second = None
    while second is None:  # the first one lives, and the last to write wins: it is told so
        with contextlib.suppress(SessionInUseError):
            second = make_executor(1, session=name)
    again = second.submit(wait_for, str(gate_file), 7)
    with pytest.raises(BrokenContainerPool, match="is held by process"):
        future.result(20)
    first.shutdown()
    gate_file.touch()
    assert again.result(20) == 7
    assert again.run_id == future.run_id
    second.shutdown()


@pytest.fixture
def gate_file(tmp_path):
    gate = tmp_path / "gate"
    yield gate
    gate.touch()


GRAPH = """
firsts = [executor.submit(work, number) for number in range(tasks)]
seconds_ = [executor.submit(add, first, 100) for first in firsts]
last = executor.submit(collect, seconds_)
print(json.dumps(last.result()))
"""
GRAPH_FUNCTIONS = """
def note(number):
    with open(folder / "runs", "a") as file:  # one line for each execution
        file.write(f"{number}\\n")
    time.sleep(seconds)

def work(number):
    note(number)
    return number

def add(number, more):
    note(number + more)
    return number + more

def collect(numbers):
    note(1000)
    return numbers
"""


@pytest.mark.parametrize("ended", mostly_repeats([3, 8, 13], 8))  # upstream, between, downstream
def test_a_client_that_is_killed_within_a_graph(client, until, ended):
    """What had ended, or is in a container's hands, is not run again, nor waits again."""
    options = {"session": f"graph {ended}", "max_workers": 2, "idle_timeout": 5}
    graph = {"cell": GRAPH, "functions": GRAPH_FUNCTIONS}
    first = client.start(8, 0.1, **graph, **options)
    until(lambda: len(client.runs) >= ended, 60)
    client.kill(first)
    sums = [number + 100 for number in range(8)]
    assert client(8, 0.1, **graph, **options) == sums
    assert sorted(client.runs) == [*range(8), *sums, 1000]
