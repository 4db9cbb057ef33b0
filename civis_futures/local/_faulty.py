"""The owner's side of faults: add them to a running platform, take them away, ask how often."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

from ._faults import Fault

Ask = Callable[..., Any]  # (method, path, body) -> what the server answers
PATH = "/_local/faults"


class Faults:
    """The faults of a running platform, in the order in which they were added."""

    def __init__(self, ask: Ask) -> None:
        self._ask = ask

    def add(self, *faults: Fault) -> None:
        """Let these happen from now on, after those that are there.

        Raises ValueError for a path that is none of the API's.
        """
        self._ask("POST", PATH, {"add": [fault.to_json() for fault in faults]})

    def remove(self, *faults: Fault) -> None:
        """Let these happen no more; what has begun goes on, but for an outage."""
        self._ask("POST", PATH, {"remove": [fault.to_json() for fault in faults]})

    def clear(self) -> None:
        """Remove all."""
        self._ask("POST", PATH, {"remove": None})

    def hits(self, fault: Fault) -> int:
        """How often a fault has happened so far; one that was removed is remembered.

        A run that ended by itself before its fault was due does not count.
        """
        return self._sum(fault, "hits")

    def seen(self, fault: Fault) -> int:
        """How many requests, runs or lines have matched so far, whether they met it or not."""
        return self._sum(fault, "seen")

    def _sum(self, fault: Fault, what: str) -> int:
        return sum(int(book[what]) for book in self._ask("GET", PATH) if _fault(book) == fault)

    def __iter__(self) -> Iterator[Fault]:
        """The faults that can happen now."""
        return iter([_fault(book) for book in self._ask("GET", PATH) if not book["removed"]])

    def __repr__(self) -> str:
        return "<the faults of a LocalPlatform>"


def _fault(book: dict[str, Any]) -> Fault:
    return Fault.from_json(book["fault"])
