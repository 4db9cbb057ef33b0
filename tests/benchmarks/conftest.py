"""Each benchmark gets a `row`; at the end the table is printed, and written if asked for."""

from __future__ import annotations

import inspect
import os
import time
from pathlib import Path

import pytest
from benchmarks.measure import Row
from benchmarks.report import cost_page, page

#: Where to write the page to. Not set when single benchmarks are run: half a table is none.
TARGET = "BENCHMARKS_PAGE"

_rows: list[Row] = []
_began, _load = time.monotonic(), os.getloadavg()[0]


@pytest.fixture
def row(request):
    """The row of this benchmark; its docstring says what the work is."""
    row = Row(" ".join(inspect.getdoc(request.function).split()))
    _rows.append(row)
    return row


@pytest.fixture(autouse=True)
def leftovers():
    """Each benchmark ends what it has started by force, so nothing is held against it."""


def pytest_terminal_summary(terminalreporter):
    if not _rows:
        return
    text = page(_rows, time.monotonic() - _began, _load)
    terminalreporter.section("benchmarks")
    terminalreporter.write_line(text)
    if target := os.environ.get(TARGET):
        Path(target).write_text(text)
        costs = Path(target).with_name("cost.md")
        costs.write_text(cost_page(costs.read_text(), text))
        terminalreporter.write_line(f"written to {target}, with figures for {costs}")
