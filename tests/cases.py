"""Cases of a test, for `pytest.mark.parametrize`."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import pytest


def mostly_repeats(cases: Iterable[Any], *first: Any) -> list[Any]:
    """All cases; those that are not among the `first` show in another mode what these show."""
    return [
        case if case in first else pytest.param(case, marks=pytest.mark.repeats) for case in cases
    ]


#: `max_tasks_per_worker`: each task in a container of its own, or many in one.
MODES = [pytest.param(1, id="fresh", marks=pytest.mark.repeats), pytest.param(None, id="reused")]
