"""When a pool will be done, and for how long its containers run until then."""

from __future__ import annotations

import dataclasses
import heapq
import io
import json
import math
import random
import sys
import time

import pytest
from summaries import ended, work_of
from tasks import SECONDS, slept, wait_at

from civis_futures import ContainerFuture, Forecast, Timings
from civis_futures._display.forecast import PoolSize, Undone, forecast_of
from civis_futures._display.markup import html
from civis_futures._display.panels import Panel, Totals, text
from civis_futures._display.usage import MOST_FUNCTIONS, Used
from civis_futures._futures.future import View
from civis_futures._futures.progress import Meter
from civis_futures._types import TaskState

#: 14:00 of some day, here.
NOON = time.mktime((2026, 3, 2, 14, 0, 0, 0, 0, -1))


def seen(*seconds, function="f"):
    """Sums of tasks that took these seconds."""
    return work_of(*(ended(n, took=took, function=function) for n, took in enumerate(seconds)))


def forecast(undone, work, done=3, used=None, **size):
    size = PoolSize(**{"workers": 10, "started": 10, **size})
    return forecast_of(undone, done, work, used or Used(), size, NOON)


def test_it_says_how_many_for_how_long_and_until_when():
    found = forecast({"f": Undone(497)}, seen(23.2, 23.2, 23.2))
    assert str(found) == "497 of 500 to go, about 3.2 container hours, done at 14:19"
    assert found.seconds == pytest.approx(497 * 23.2 / 10)
    assert found.done_at - NOON == pytest.approx(found.seconds)


@pytest.mark.parametrize(
    ("each", "said"),
    [
        (1.0, "less than 0.01 container hours, done at 14:00"),
        (240.0, "about 0.7 container hours, done at 14:04"),
        (36_000.0, "about 100 container hours, done on Tue at 00:00"),
        (360_000.0, "about 1,000 container hours, done on Fri at 18:00"),
        (3_600_000.0, "about 10,000 container hours, done on 2026-04-13"),
    ],
)
def test_numbers_and_times_are_for_people(each, said):
    assert forecast({"f": Undone(10)}, seen(each, each, each)).brief == said


@pytest.mark.parametrize(
    ("undone", "work"),
    [
        ({"f": Undone(5)}, seen()),
        ({"f": Undone(5)}, seen(1.0, 1.0)),
        ({"f": Undone(5), "g": Undone(1)}, seen(1.0, 1.0, 1.0)),
        ({}, seen(1.0, 1.0, 1.0)),
        ({"f": Undone(5)}, work_of(*(ended(n, occupied=None) for n in range(9)))),
    ],
    ids=["none has ended", "too few have", "another function", "all is done", "no times"],
)
def test_nothing_is_said_where_nothing_is_known(undone, work):
    assert forecast(undone, work) is None


def test_each_function_takes_its_own_time():
    work = work_of(
        *(ended(n, took=1.0, function="f") for n in range(50)),
        *(ended(n, took=100.0, function="g") for n in range(3)),
    )
    found = forecast({"f": Undone(100), "g": Undone(10)}, work)
    assert found.container_hours == pytest.approx((100 + 1000) / 3600)


def test_functions_without_sums_of_their_own_take_what_the_others_took():
    work = work_of(*(ended(n, took=2.0, function=f"f{n}") for n in range(MOST_FUNCTIONS + 3)))
    assert forecast({f"f{MOST_FUNCTIONS + 1}": Undone(100)}, work).seconds == pytest.approx(20)


def test_what_runs_has_done_some_of_it():
    work = seen(10.0, 10.0, 10.0)
    assert forecast({"f": Undone(0, [4.0])}, work).seconds == pytest.approx(6, abs=0.1)
    assert forecast({"f": Undone(1, [4.0])}, work).seconds == pytest.approx(10, abs=0.1)
    assert 0 <= forecast({"f": Undone(0, [1000.0])}, work).seconds < math.inf


def test_containers_that_are_to_start_take_what_the_others_took_for_that():
    used = Used(starts=2, hours=2 * (20 + 15) / 3600)  # 20 s each for a start, 30 s of tasks
    work = seen(10.0, 10.0, 10.0)
    fresh = forecast({"f": Undone(10)}, work, used=used, started=0, tasks_each=1)
    assert fresh.container_hours == pytest.approx(10 * (20 + 10) / 3600)
    warm = forecast({"f": Undone(10)}, work, used=used, started=10)
    assert warm.container_hours == pytest.approx(10 * 10 / 3600)


def test_several_at_once_in_a_container():
    """Forty at once, in ten containers: there is a tenth of the containers' time left."""
    found = forecast({"f": Undone(360)}, seen(*[100.0] * 40), workers=40, processes=4)
    assert found.container_hours == pytest.approx(360 * 100 / 4 / 3600)
    assert found.seconds == pytest.approx(900)


def test_a_limit_that_comes_before_the_end_is_told():
    work, undone = seen(3600.0, 3600.0, 3600.0), {"f": Undone(20)}
    short = forecast(undone, work, seconds_left=4 * 3600)
    assert str(short) == (
        "20 of 23 to go, about 20 container hours, and max_container_hours leaves 4.0"
    )
    assert "leaves 0" in str(forecast(undone, work, seconds_left=-1))
    assert str(forecast(undone, work, seconds_left=30 * 3600)).endswith("done at 16:00")


def play(chance, spread, tasks=200, workers=10):
    """Tasks with such times on so many workers: what is forecast when 5 % have ended, by what it
    is in the end; the time until then, and the hours of containers.
    """
    free, spans = [0.0] * workers, []
    for _ in range(tasks):
        begin = heapq.heappop(free)
        spans.append((begin, begin + chance.lognormvariate(3.0, spread)))
        heapq.heappush(free, spans[-1][1])
    now = sorted(end for _, end in spans)[tasks // 20 - 1]
    past = [(begin, end) for begin, end in spans if end <= now]
    work = work_of(*(ended(n, queue=b, took=end - b) for n, (b, end) in enumerate(past)))
    running = [now - begin for begin, end in spans if begin <= now < end]
    undone = {"f": Undone(tasks - len(past) - len(running), running)}
    used = Used(starts=workers, hours=workers * now / 3600)
    found = forecast(undone, work, used=used)
    hours = sum(end - max(begin, now) for begin, end in spans if end > now) / 3600
    return found.seconds / (max(free) - now), found.container_hours / hours


def test_it_is_right_within_a_fifth_after_the_first_twentieth():
    """Though those that end first are the short ones."""
    chance = random.Random(1)
    plays = [play(chance, 0.3) for _ in range(100)]
    for kind in (0, 1):
        assert sum(abs(each[kind] - 1) <= 0.2 for each in plays) >= 90


def test_it_is_not_too_low_on_the_whole_where_times_differ_much():
    chance = random.Random(2)
    hours = [play(chance, 0.8)[1] for _ in range(100)]
    assert 0.85 < sum(hours) / len(hours) < 1.15


def test_it_is_a_number_whatever_has_been_seen():
    chance = random.Random(3)
    for _ in range(1000):
        times = [chance.choice([0.0, 1e-9, 1e9, chance.expovariate(1)]) for _ in range(5)]
        running = [chance.choice([0.0, 1e-9, 1e9, chance.expovariate(1)]) for _ in range(4)]
        undone = {"f": Undone(chance.choice([0, 1, 10**6]), running)}
        used = Used(starts=chance.choice([0, 3]), hours=chance.choice([0.0, 1.0]))
        found = forecast(undone, seen(*times), used=used, started=chance.choice([0, 50]))
        for value in (found.seconds, found.container_hours):
            assert 0 <= value < math.inf, (times, running)
        assert "nan" not in str(found)


def test_displays_have_it():
    panel = Panel("mine", Totals(), (), forecast="1 of 2 to go, <soon>")
    assert "1 of 2 to go, <soon>" in text(panel).splitlines()
    assert "1 of 2 to go, &lt;soon&gt;" in html(panel)


def test_status_report_and_display_of_a_pool(make_executor, tmp_path, until):
    executor = make_executor(2, max_container_hours=2)
    assert executor.status().forecast is None
    held = executor.submit(wait_at, str(tmp_path))
    futures = [executor.submit(slept, 0.1) for _ in range(4)]
    until(lambda: all(future.done() for future in futures))
    assert executor.status().forecast is None  # of `wait_at` nothing is known
    (tmp_path / "open").touch()
    assert held.result(SECONDS) is None
    assert executor.report().forecast is None
    assert executor.report().max_container_hours == 2
    assert " of 2 container hours" in str(executor.report())
    executor.map(slept, [0.5] * 20)
    until(lambda: executor.status().forecast)
    status, report = executor.status(), executor.report()
    assert isinstance(status.forecast, Forecast)
    assert 0 < report.forecast.seconds < 60
    assert report.forecast.tasks == 25
    assert json.loads(json.dumps(report.as_dict()))["forecast"]["tasks"] == 25
    assert f"{report.forecast}" in str(report)
    assert " to go, less than 0.01 container hours, done at " in executor._repr_html_()
    assert status == [dict(row) for row in status]  # and a list of dicts as before


class Pool:
    """As much of an executor as a future needs to tell when all will be done."""

    def __init__(self, seconds):
        self._seconds = seconds

    def forecast(self):
        return Forecast(1, 2, 3.2, self._seconds, NOON + self._seconds)

    def future(self):
        view = View(Timings(time.time()), state=TaskState.RUNNING)
        return ContainerFuture("f (task 1)", 1, view, self, None)


class Terminal(io.StringIO):
    def isatty(self):
        return True


def drawn(monkeypatch, *futures):
    """What a bar of these futures has drawn before they are done."""
    monkeypatch.setattr(sys, "stderr", Terminal())
    meter = Meter()
    for future in futures:
        meter.watch(future)
    meter.wait(futures[0], 0.0)
    said = sys.stderr.getvalue()
    meter.close()
    return said


def test_bars_say_when_it_is_not_soon(monkeypatch):
    pool = Pool(3600)
    said = drawn(monkeypatch, pool.future(), pool.future())
    assert "2 running, about 3.2 container hours, done at 15:00" in said
    assert "container hours" not in drawn(monkeypatch, Pool(59).future())


def test_a_bar_of_two_pools_says_nothing_of_that(monkeypatch):
    assert "hours" not in drawn(monkeypatch, Pool(3600).future(), Pool(3600).future())


def test_a_forecast_is_plain_data():
    found = forecast({"f": Undone(1)}, seen(1.0, 1.0, 1.0))
    assert json.dumps(dataclasses.asdict(found))
