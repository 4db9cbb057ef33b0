"""Sessions: the client dies, the same cell is run again, and nothing is run twice."""

from __future__ import annotations

import pytest


@pytest.mark.parametrize("limit", [None, 1], ids=["reused", "fresh"])
def test_a_killed_client_loses_nothing_and_repeats_nothing(client, until, limit):
    options = {"session": f"killed {limit}", "max_workers": 10, "max_tasks_per_worker": limit}
    first = client.start(100, 0.3, **options)
    until(lambda: len(client.runs) >= 50, 60)  # some 40 have ended, 10 run
    client.kill(first)
    assert client(100, 0.3, **options) == [number * number for number in range(100)]
    assert sorted(client.runs) == list(range(100))
