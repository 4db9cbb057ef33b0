"""The budget, by a clock of ours: whatever the arrivals and whatever is reported."""

from __future__ import annotations

import threading

import pytest
import unhurried  # noqa: F401
from hypothesis import given
from hypothesis import strategies as st

from civis_futures._api.budget import (
    KEPT_FROM_LOOKS,
    LONGEST_RETRY_AFTER,
    Kind,
    RateBudget,
    retry_after,
)


class Clock:
    """Time that passes when we say so."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


def spend(budget: RateBudget, clock: Clock, kind: Kind) -> float:
    """Wait as long as the budget says, then go; the moment of going."""
    for _ in range(10_000):
        delay = budget.delay(kind)
        if delay == 0.0:
            return clock.now
        clock.now += delay
    raise AssertionError("it never may go")


def most_in_a_window(moments: list[float], window: float) -> int:
    # A hair less than the window: two moments exactly one window apart are not in one window.
    return max(
        (sum(start <= m < start + window - 1e-6 for m in moments) for start in moments), default=0
    )


ARRIVALS = st.lists(
    st.tuples(st.floats(0, 40), st.sampled_from(Kind)), max_size=120
)  # seconds since the one before, kind


@given(ARRIVALS, st.integers(1, 20), st.integers(1, 8))
def test_never_more_than_the_limits_in_any_window(
    arrivals: list[tuple[float, Kind]], limit: int, runs: int
) -> None:
    clock = Clock()
    budget = RateBudget(limit, runs, 100.0, clock)
    sent: list[tuple[float, Kind]] = []
    for gap, kind in arrivals:
        clock.now += gap
        sent.append((spend(budget, clock, kind), kind))
    assert most_in_a_window([moment for moment, _ in sent], 100.0) <= limit
    assert most_in_a_window([m for m, kind in sent if kind is Kind.RUN], 100.0) <= runs


@given(ARRIVALS, st.lists(st.tuples(st.integers(-5, 30), st.integers(-5, 30)), min_size=1))
def test_whatever_is_reported_nobody_waits_longer_than_a_window(
    arrivals: list[tuple[float, Kind]], reports: list[tuple[int, int]]
) -> None:
    clock = Clock()
    budget = RateBudget(20, 20, 100.0, clock)
    highest = 20
    sent = []
    for number, (gap, kind) in enumerate(arrivals):
        clock.now += gap
        limit, remaining = reports[number % len(reports)]
        budget.observe(limit, remaining)
        highest = max(highest, limit)
        asked = clock.now
        sent.append(spend(budget, clock, kind))
        assert sent[-1] - asked <= 100.0 + 0.01
    assert most_in_a_window(sent, 100.0) <= highest


def test_looks_leave_a_share_to_the_others(clock: Clock) -> None:
    budget = RateBudget(100, 100, 300.0, clock)
    looks = 0
    while budget.delay(Kind.LOOK) == 0.0:
        looks += 1
    assert looks == 100 * (1 - KEPT_FROM_LOOKS)
    assert budget.delay(Kind.LOOK) == pytest.approx(300.0)
    starts = 0
    while budget.delay(Kind.RUN if starts % 2 else Kind.GENERAL) == 0.0:
        starts += 1
    assert starts == 100 * KEPT_FROM_LOOKS


def test_a_run_start_counts_in_both(clock: Clock) -> None:
    budget = RateBudget(5, 2, 300.0, clock)
    assert [budget.delay(Kind.RUN) for _ in range(2)] == [0.0, 0.0]
    assert budget.delay(Kind.RUN) == 300.0
    assert [budget.delay(Kind.GENERAL) for _ in range(3)] == [0.0] * 3
    clock.now += 100
    assert budget.delay(Kind.GENERAL) == 200.0


def test_others_spend_the_same_budget(clock: Clock) -> None:
    budget = RateBudget(100, 100, 300.0, clock)
    budget.observe(100, 2)
    assert [budget.delay(Kind.GENERAL) for _ in range(2)] == [0.0, 0.0]
    assert budget.delay(Kind.GENERAL) == pytest.approx(3.0)  # the pace of the regain
    assert budget.delay(Kind.LOOK) == pytest.approx(9.0)  # 3 of them
    clock.now += 3.0
    assert budget.delay(Kind.GENERAL) == 0.0
    clock.now += 297.0  # an old report says nothing any more
    assert budget.delay(Kind.LOOK) == 0.0


def test_a_report_of_plenty_does_not_overrule_our_own_count(clock: Clock) -> None:
    budget = RateBudget(10, 10, 300.0, clock)
    for _ in range(10):
        budget.delay(Kind.GENERAL)
        budget.observe(10, 10)
    assert budget.delay(Kind.GENERAL) == 300.0


def test_the_limit_may_change(clock: Clock) -> None:
    budget = RateBudget(10, 10, 300.0, clock)
    assert budget.pace == 15.0
    for _ in range(10):
        budget.delay(Kind.GENERAL)
    budget.observe(5, 0)
    assert budget.pace == 150.0
    assert 0.0 < budget.delay(Kind.GENERAL) <= 300.0
    budget.observe(20, 10)
    assert budget.delay(Kind.GENERAL) == 0.0


@pytest.mark.parametrize(("limit", "remaining"), [(0, 0), (-1, -1), (10, 11), (10, -1)])
def test_nonsense_is_ignored(clock: Clock, limit: int, remaining: int) -> None:
    budget = RateBudget(10, 10, 300.0, clock)
    budget.observe(limit, remaining)
    assert [budget.delay(Kind.GENERAL) for _ in range(10)] == [0.0] * 10
    assert budget.pace == 150.0


def test_the_pace_is_fast_while_the_budget_is_fresh_and_slows_down(clock: Clock) -> None:
    budget = RateBudget(1000, 100, 300.0, clock)
    assert budget.pace == pytest.approx(0.15)
    paces = []
    for _ in range(2000):  # a client that keeps to the pace
        clock.now += budget.pace
        assert budget.delay(Kind.GENERAL) == 0.0
        paces.append(budget.pace)
    assert 0.3 <= sum(paces[1000:]) / 1000 < 0.5  # not more than what comes back
    assert max(paces) < 1.5


def test_no_limit_costs_nothing(clock: Clock) -> None:
    budget = RateBudget(10, 2, 300.0, clock)
    while budget.delay(Kind.RUN) == 0.0:
        pass
    budget.observe(1_000_000_000, 1_000_000_000)
    assert budget.pace == 0.0
    assert not any(budget.delay(Kind.RUN) for _ in range(10_000))
    assert len(budget._sent) == len(budget._sent_runs) == 0


@pytest.mark.parametrize("wrong", [(0, 1, 1.0), (1, 0, 1.0), (1, 1, 0.0)])
def test_a_budget_of_nothing(wrong: tuple[int, int, float]) -> None:
    with pytest.raises(ValueError, match="at least one"):
        RateBudget(*wrong)


def test_threads_share_a_budget(clock: Clock) -> None:
    budget = RateBudget(500, 500, 300.0, clock)
    passed: list[float] = []

    def run() -> None:
        passed.extend(d for _ in range(200) if (d := budget.delay(Kind.GENERAL)) == 0.0)

    threads = [threading.Thread(target=run) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(passed) == 500


@pytest.mark.parametrize(
    ("headers", "seconds"),
    [
        ({}, 0),
        ({"Retry-After": "12"}, 12),
        ({"Retry-After": " 1.5 "}, 1.5),
        ({"Retry-After": "-3"}, 0),
        ({"Retry-After": "nan"}, 0),
        ({"Retry-After": "inf"}, 0),
        ({"Retry-After": "soon"}, 0),
        ({"Retry-After": "1e300"}, LONGEST_RETRY_AFTER),
        ({"Retry-After": "9" * 5000}, 0),
        ({"Retry-After": "\u0661\u0662"}, 12),  # Python's float takes any digits
        ({"Retry-After": "\xe9\u2028"}, 0),
        ({"Retry-After": "Fri, 99 Foo 2025 10:00:30 GMT"}, 0),
        ({"Retry-After": "Fri, 21 Nov 99999999999 10:00:30 GMT"}, 0),
        ({"Retry-After": "Fri, 31 Dec 9999 23:59:59 -9999"}, 0),
        (
            {
                "Retry-After": "Fri, 21 Nov 2025 10:00:30 GMT",
                "Date": "Fri, 21 Nov 2025 10:00:00 GMT",
            },
            30,
        ),
        ({"Retry-After": "Fri, 21 Nov 2025 10:00:30 -0000", "Date": "x"}, 0),  # long ago
    ],
)
def test_retry_after(headers: dict[str, str], seconds: float) -> None:
    assert retry_after(headers) == seconds


def test_retry_after_a_date_by_our_own_clock() -> None:
    assert retry_after({"Retry-After": "Fri, 21 Nov 2225 10:00:30 GMT"}) == LONGEST_RETRY_AFTER
