"""Who holds a session: one at a time, whatever is slow, asleep or lost on its way."""

from __future__ import annotations

import signal
import threading
from collections import Counter
from contextlib import closing

import pytest
from cases import mostly_repeats
from tasks import by_value

import civis_futures
from civis_futures import BrokenContainerPool, SessionInUseError, _wire
from civis_futures._api.client import PlatformClient
from civis_futures._types import JobKind
from civis_futures.testing import Fault

by_value(__name__)

LAG = 0.3


@pytest.fixture(autouse=True)
def short_lag(paced):
    paced(lag=LAG)


def note(folder, number):
    import time

    with open(folder / "runs", "a") as file:
        file.write(f"{number}\n")
    time.sleep(0.05)
    return number


def executions(folder):
    return Counter(map(int, (folder / "runs").read_text("ascii").split()))


def all_at_once(make_executor, platform, number, name):
    """So many open the session at the same time; the executor of who gets it, and the others."""
    start, got, refused = threading.Barrier(number), [], []

    def attempt():
        start.wait()
        try:
            got.append(make_executor(2, session=name, platform=platform))
        except SessionInUseError as error:
            refused.append(error)

    threads = [threading.Thread(target=attempt) for _ in range(number)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return got, refused


SLOW = {
    "nothing": (),
    "every other request": (Fault.delay(3 * LAG, "*", every=2),),
    "what is written": (Fault.delay(3 * LAG, "PATCH *"),),
    "what is made": (Fault.delay(3 * LAG, "POST *", every=2),),
    "lists": (Fault.stale(LAG * 0.8, "GET *"),),
    "answers": (Fault.drop("POST *", done=True, every=3, origin="client"),),
}


@pytest.mark.parametrize("what", mostly_repeats(SLOW, "every other request", "answers"))
def test_of_several_at_a_time_one_gets_it(make_executor, faulty, tmp_path, what):
    name = f"at once {what}"
    for fault in SLOW[what]:
        faulty.faults.add(fault)
    got, refused = all_at_once(make_executor, faulty, 3, name)
    faulty.faults.clear()
    assert (len(got), len(refused)) == (1, 2)
    with got[0] as executor:
        assert list(executor.map(note, [tmp_path] * 6, range(6))) == [0, 1, 2, 3, 4, 5]
    assert executions(tmp_path) == dict.fromkeys(range(6), 1)
    civis_futures.purge(name, faulty)


def test_one_that_was_asleep_runs_nothing_twice(client, platform, until, monkeypatch, mine):
    """A laptop is closed, and opened again when another machine has long taken over."""
    options = {"session": "asleep", "max_workers": 3}
    first = client.start(40, 0.05, **options)
    until(lambda: len(client.runs) >= 8, 60)
    first.send_signal(signal.SIGSTOP)
    try:
        second = client.start(40, 0.05, functions=IMPATIENT, **options)
        until(lambda: len(client.runs) >= 25, 60)
        first.send_signal(signal.SIGCONT)
        out, errors = second.communicate(timeout=60)
        assert second.returncode == 0, errors
    finally:
        first.send_signal(signal.SIGCONT)
    assert out == str([number * number for number in range(40)]) + "\n"
    assert sorted(client.runs) == list(range(40))
    client.kill(first)
    civis_futures.purge("asleep", platform)
    until(lambda: not mine())


IMPATIENT = """
from civis_futures import _pacing
_pacing.set_default_pacing(_pacing.Pacing(holder_gone=-30.0))  # as if it had given no sign of life

def work(number):
    with open(folder / "runs", "a") as file:
        file.write(f"{number}\\n")
    time.sleep(seconds)
    return number * number
"""


def test_an_inbox_that_the_one_before_has_overwritten_is_mended(
    make_executor, platform, until, paced, tmp_path
):
    """A write that was under way when a laptop fell asleep is sent when it wakes up."""
    paced(sign_of_life=0.2)
    first = make_executor(1, session="overwritten")
    assert first.submit(note, tmp_path, 0).result(30) == 0
    ours = first._intake._opened.session
    inbox = ours.signed(_wire.Inbox())
    paced(holder_gone=-30.0)
    second = make_executor(1, session="overwritten")
    assert second.submit(note, tmp_path, 0).result(30) == 0
    with closing(PlatformClient(platform.url, platform.api_key)) as api:
        now = second._intake._opened.session.holder
        for _ in range(3):  # once it may be written anyway
            api.update_json_value(ours.inbox, _wire.to_json(inbox))
            until(lambda: _wire.inbox_from_json(api.get_json_value(ours.inbox)).holder == now, 10)
    assert second.submit(note, tmp_path, 1).result(30) == 1
    first.shutdown()
    second.shutdown()
    assert executions(tmp_path) == dict.fromkeys(range(2), 1)
    civis_futures.purge("overwritten", platform)


def test_after_a_long_pause_it_is_asked_before_anything_is_written(
    make_executor, platform, paced, tmp_path
):
    first = make_executor(1, session="long pause")
    ours = first._intake._opened.session
    paced(holder_gone=-30.0)
    second = make_executor(1, session="long pause")
    ours._seen -= 100.0  # seconds that it was asleep
    future = first.submit(note, tmp_path, 0)
    with pytest.raises(BrokenContainerPool, match="is held by process"):
        future.result(30)
    first.shutdown()
    named = [script for script in scripts(platform) if "session long pause, worker" in script]
    assert named == []
    assert second.submit(note, tmp_path, 0).result(30) == 0
    second.shutdown()
    civis_futures.purge("long pause", platform)


def scripts(platform):
    """The names of those that had a run."""
    with closing(PlatformClient(platform.url, platform.api_key)) as api:
        rows, _ = api.list_jobs(JobKind.CONTAINER, hidden=True, archived=True)
        return [row.name for row in rows if row.run is not None]
