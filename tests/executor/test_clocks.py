"""Clocks that are wrong, this machine's or the platform's: whoever comes for the first day sees
nothing of it. What expires is reckoned by the platform's time, and so is who holds a session.
"""

from __future__ import annotations

import contextlib
import io
import socket
import time
from contextlib import closing

import numpy
import pytest
from cases import mostly_repeats

import civis_futures as cf
from civis_futures._api.budget import PlatformClock
from civis_futures._api.client import PlatformClient
from civis_futures.testing import Fault
from civis_futures.worker._platform import ServerClock

HOUR, MONTH = 3600.0, 31 * 86400.0
real = time.time


# --- the platform's time -----------------------------------------------------------------------


class Watch:
    def __init__(self):
        self.seconds = 100.0

    def __call__(self):
        return self.seconds


def test_the_time_of_the_last_answer_goes_on():
    here = Watch()
    clock = PlatformClock(here, lambda: 5.0)
    assert clock.now() == 5.0  # nobody else has said anything
    clock.observe({"Date": "Thu, 01 Jan 2026 00:00:00 GMT"})
    here.seconds += 7
    assert clock.now() == 1767225607.0
    clock.observe({"Date": "Wed, 31 Dec 2025 00:00:00 GMT"})  # the last one counts
    assert clock.now() == 1767139200.0


@pytest.mark.parametrize(
    "date",
    ["", "now", "1767225600", "Fri, 31 Dec 9999 23:59:59 GMT",
     "Fri, 32 Dec 2025 00:00:00 GMT", "\u0661"],
)  # fmt: skip
def test_a_date_that_makes_no_sense_says_nothing(date):
    clock = PlatformClock(Watch(), lambda: 5.0)
    clock.observe({"Date": date})
    assert clock.now() == 5.0


@pytest.mark.parametrize("here", [0.0, 1e10])
def test_a_container_without_a_clock_has_the_platforms(monkeypatch, here):
    """It may begin in 1970, say."""
    monkeypatch.setattr(time, "time", lambda: here)
    clock = ServerClock()
    for date in ("Thu, 01 Jan 2026 00:00:00 GMT", "Fri, 31 Dec 9999 23:59:59 GMT", None):
        clock.observe(date, time.monotonic())
        assert 0 <= clock.now() - 1767225600 < 60


# --- the first day -----------------------------------------------------------------------------


def large(number):
    return bytes([number]) * 100_000


def total(array):
    return float(array.sum())


def fail(_):
    print("about to fail")
    raise ValueError("on purpose")


def first_day(platform, name):
    """What people do on their first day, once each."""
    array = numpy.random.default_rng().random(200_000)
    with cf.ContainerPoolExecutor(2, platform=platform, session=name) as executor:
        assert list(executor.map(abs, [-1, -2, 3])) == [1, 2, 3]
        assert executor.submit(large, 7).result(60) == bytes([7]) * 100_000
        futures = [executor.submit(total, array) for _ in range(3)]
        assert {future.result(60) for future in futures} == {array.sum()}
        assert executor.submit(total, executor.put(array)).result(60) == array.sum()
        failed = executor.submit(fail, 1)
        assert type(failed.exception(60)) is ValueError
        assert "about to fail" in [line.message for line in failed.logs()]
        assert executor._repr_html_()
        with pytest.raises(cf.SessionInUseError):
            cf.ContainerPoolExecutor(2, platform=platform, session=name)
    uploads = platform.stats().count("POST", "/files", "client")
    with cf.ContainerPoolExecutor(2, platform=platform) as another:  # it is there already
        assert another.submit(total, array).result(60) == array.sum()
    sent = platform.stats().count("POST", "/files", "client") - uploads
    assert sent == 0, "neither the worker's program nor the array"
    with cf.ContainerPoolExecutor(2, platform=platform, session=name) as executor:
        runs = platform.stats().runs_started
        assert list(executor.map(abs, [-1, -2, 3])) == [1, 2, 3]
        assert platform.stats().runs_started == runs
    cf.purge(name, platform)


def one_of(ahead):
    """The four ways to be wrong; this one is always tried, as each takes seconds."""
    return [
        each if each == ahead else pytest.param(each, marks=pytest.mark.stress)
        for each in (MONTH, -MONTH, HOUR, -HOUR)
    ]


@pytest.mark.repeats
@pytest.mark.parametrize("ahead", one_of(MONTH))
def test_the_first_day_with_a_platform_whose_clock_is_another(faulty, ahead):
    faulty.faults.add(Fault.clock(ahead))
    first_day(faulty, f"clock {ahead:.0f}")


@pytest.mark.parametrize("ahead", [MONTH, -MONTH])
def test_a_large_result_is_the_first_thing_that_a_container_asks_about(faulty, ahead):
    """Its File would have ended before it was there, or a month too late."""

    def made():
        return [each for each in faulty.requests("POST /files") if each.origin == "worker"]

    before = len(made())
    with cf.ContainerPoolExecutor(1, platform=faulty, max_tasks_per_worker=1) as executor:
        assert executor.submit(abs, -1).result(60) == 1
        fault = Fault.clock(ahead)
        faulty.faults.add(fault)
        assert executor.submit(bytes, 100_000).result(60) == bytes(100_000)
    faulty.faults.remove(fault)
    assert len(made()) - before == 2, "once with the right end"


@pytest.mark.parametrize("ahead", one_of(-MONTH))
def test_the_first_day_with_a_clock_that_is_wrong(faulty, monkeypatch, ahead):
    monkeypatch.setattr(time, "time", lambda: real() + ahead)
    first_day(faulty, f"wrong {ahead:.0f}")


@pytest.mark.repeats
def test_the_first_day_with_a_clock_that_stands_still(faulty, monkeypatch):
    monkeypatch.setattr(time, "time", lambda: 1_400_000_000.0)
    first_day(faulty, "frozen")


# --- what is told ------------------------------------------------------------------------------


def nap(_):
    time.sleep(0.2)


CLOCKS = {
    "an hour ahead": lambda: real() + HOUR,
    "a month behind": lambda: real() - MONTH,
    "stopped": lambda: 1_400_000_000.0,
    "set again and again": lambda: real() + time.monotonic() % 7 * HOUR,
}


@pytest.mark.parametrize("clock", mostly_repeats(CLOCKS, "stopped"))
def test_what_took_how_long_is_told_whatever_the_clock_says(faulty, monkeypatch, clock):
    monkeypatch.setattr(time, "time", CLOCKS[clock])
    with cf.ContainerPoolExecutor(1, platform=faulty) as executor:
        begin = time.monotonic()
        futures = [executor.submit(nap, number) for number in range(3)]
        while futures[0].state != "running":
            time.sleep(0.01)
        assert "elapsed 0 s" not in repr(futures[1])
        results = executor.map(nap, range(2))
        list(results)
        took = time.monotonic() - begin
        for seen in executor.status():
            assert 0.2 <= seen["compute"] <= seen["elapsed"] <= took, seen
            # The container's clock is right: what is told of the wait must fit, all the same.
            assert 0.0 < seen["queue"] <= seen["elapsed"] - seen["compute"] + 0.01, seen
        assert 0.4 <= results.elapsed <= took
        report = executor.report()
        assert 1.0 <= report.elapsed <= took
        assert report.speedup


def test_a_named_file_is_as_old_as_it_is(faulty, monkeypatch):
    """It was put there by a machine whose clock is right, and is removed by others."""
    ours = cf.NamedFiles(faulty)
    made = ours.put("a name / old", io.BytesIO(b"data"), 4)
    for ahead in (MONTH, -MONTH):
        monkeypatch.setattr(time, "time", lambda ahead=ahead: real() + ahead)
        theirs = cf.NamedFiles(faulty)
        file = theirs.put(f"a name / {ahead}", io.BytesIO(b"data"), 4)
        assert abs(time.time() - file.created) < 10
        found = theirs.find("a name / ")
        assert abs(time.time() - found["a name / old"].created) < 60
        theirs.remove([file])
        with closing(PlatformClient(faulty.url, faulty.api_key)) as api:
            assert abs(api.get_file(file.file_id).expires - real()) < 60
    monkeypatch.undo()
    ours.remove([made])


# --- sessions ----------------------------------------------------------------------------------


@pytest.mark.parametrize("ahead", [HOUR, -HOUR, MONTH, -MONTH])
def test_a_session_that_is_held_is_held_for_all_clocks(faulty, monkeypatch, ahead):
    """Who opens it has another clock than its holder, and is on another machine."""
    name = f"held {ahead:.0f}"
    with cf.ContainerPoolExecutor(1, platform=faulty, session=name):
        monkeypatch.setattr(time, "time", lambda: real() + ahead)
        monkeypatch.setattr(socket, "gethostname", lambda: "elsewhere")
        with pytest.raises(cf.SessionInUseError):
            cf.ContainerPoolExecutor(1, platform=faulty, session=name)
        assert [each.holder for each in cf.sessions(faulty) if each.name == name] != [None]
    with contextlib.suppress(LookupError):
        cf.purge(name, faulty)


def test_a_holder_who_is_gone_is_gone_for_all_clocks(faulty, monkeypatch, paced):
    paced(holder_gone=-30.0)
    with cf.ContainerPoolExecutor(1, platform=faulty, session="gone") as first:
        monkeypatch.setattr(time, "time", lambda: real() - MONTH)
        monkeypatch.setattr(socket, "gethostname", lambda: "elsewhere")
        with cf.ContainerPoolExecutor(1, platform=faulty, session="gone") as second:
            assert second.submit(abs, -1).result(60) == 1
        first.shutdown(cancel_futures=True)
    cf.purge("gone", faulty)
