"""One request and one answer, as the endpoints of the API see them.

Nothing here knows the wire (that is `_api.app`) or what the answers mean.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any, Literal

Origin = Literal["client", "worker"]


class ApiError(Exception):
    """A refusal in the Platform's error form."""

    def __init__(self, status: int, slug: str, description: str | None) -> None:
        super().__init__(description)
        self.status = status
        self.slug = slug
        self.description = description

    def body(self) -> dict[str, Any]:
        """Return the JSON of the refusal; 429 has no description, as on the Platform."""
        said = {} if self.description is None else {"errorDescription": self.description}
        return {"error": self.slug, **said, "code": self.status}


def not_found(what: str = "The requested resource") -> ApiError:
    """Return the error for an id that does not exist, or that is of another kind."""
    return ApiError(404, "not_found", f"{what} could not be found.")


@dataclasses.dataclass(frozen=True)
class ApiRequest:
    """A request that passed authentication."""

    method: str
    template: str
    ids: Mapping[str, int]
    query: Mapping[str, str]  # snake_case names; a list is joined by commas
    body: Mapping[str, Any]
    origin: Origin
    # Two faults of lists.
    as_of: float | None = None  # the list as it was at this time (seconds since the epoch)
    moved: int = 0  # by how many rows the pages after the first one are moved
    run: int | None = None  # the run whose agent asks

    def id(self, name: str = "id") -> int:
        """Return an id from the path."""
        return self.ids[name]

    @property
    def kind(self) -> str | None:
        """Return the kind of script that the path is for; None if it is for any kind.

        A custom script's id is valid below /scripts/containers too, but not the other way round.
        """
        return "custom" if self.template.startswith("/scripts/custom/") else None


@dataclasses.dataclass(frozen=True)
class Reply:
    """What is said back. `body` None means no body; `raw` is JSON that is encoded already."""

    status: int = 200
    body: Any = None
    headers: Mapping[str, str] = dataclasses.field(default_factory=dict)
    raw: bytes | None = None


@dataclasses.dataclass(frozen=True)
class Page:
    """Which part of a list was asked for."""

    limit: int  # rows in a page
    number: int  # of this page; the first one is 1
    asked: bool  # whether the request named a page
    order: str  # the column to order by
    descending: bool
    moved: int = 0  # by how many rows a fault moves this page

    def clause(self) -> str:
        """Return the SQL for this page; `order` came from a table of ours, never from outside."""
        way = "DESC" if self.descending else "ASC"
        start = max(0, (self.number - 1) * self.limit + self.moved)
        return f" ORDER BY {self.order} {way}, id {way} LIMIT {self.limit} OFFSET {start}"

    def headers(self, total: int, *, blank_when_unasked: bool = False) -> dict[str, str]:
        """Return the paging headers; `/scripts` leaves the page blank when none was asked for."""
        current = "" if blank_when_unasked and not self.asked else str(self.number)
        return {
            "X-Pagination-Per-Page": str(self.limit),
            "X-Pagination-Current-Page": current,
            "X-Pagination-Total-Pages": str(-(-total // self.limit)),
            "X-Pagination-Total-Entries": str(total),
            "Access-Control-Expose-Headers": "X-Pagination-Per-Page, X-Pagination-Current-Page, "
            "X-Pagination-Total-Pages, X-Pagination-Total-Entries",
        }
