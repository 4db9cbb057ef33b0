"""What was asked, in order: for tests that assert on it. Knows no wire and keeps no bodies."""

from __future__ import annotations

import collections
import dataclasses
from typing import Any, Self

from ._faults.fault import Fault
from ._schema.exchange import Origin


@dataclasses.dataclass(frozen=True)
class Request:
    """A request that was made to the platform.

    Attributes:
        method: such as ``"POST"``.
        path: the path in the API's form, such as ``"/scripts/containers/{id}/runs"``; ``"link"``
            for a link to a file.
        url: the path as it was requested, without the query, since that of a link is secret.
        origin: who made it: ``"client"``, ``"worker"``, or None if the key was not valid.
        status: the status of the answer; None if there was none.
        fault: the fault that it met, if any.
    """

    method: str
    path: str
    url: str
    origin: Origin | None
    status: int | None
    fault: Fault | None = None

    def to_json(self) -> list[Any]:
        """Return what `from_json` understands; a list, as there are many of them."""
        fault = None if self.fault is None else self.fault.to_json()
        return [self.method, self.path, self.url, self.origin, self.status, fault]

    @classmethod
    def from_json(cls, given: list[Any]) -> Self:
        """Read what `to_json` wrote."""
        method, path, url, origin, status, fault = given
        met = None if fault is None else Fault.from_json(fault)
        return cls(method, path, url, origin, status, met)


class Journal:
    """The last 100,000 requests, in the order in which they were answered."""

    def __init__(self) -> None:
        self._entries: collections.deque[Request] = collections.deque(maxlen=100_000)

    def add(self, request: Request) -> None:
        """Add a request, before its answer is sent: a client that has the answer finds it here."""
        self._entries.append(request)

    def to_json(self) -> list[list[Any]]:
        """Return all requests, for `Request.from_json`."""
        return [entry.to_json() for entry in self._entries]
