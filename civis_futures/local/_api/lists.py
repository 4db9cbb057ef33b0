"""Everything that answers with pages: filters, order and the paging headers; and the tables as they
were at an earlier time, for the fault that makes lists stale.

What may be filtered and ordered by is in tables; a name from a request is only looked up in them.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

from .._schema.exchange import ApiRequest, Page, Reply
from .._schema.fields import refuse, truth
from .._state import USER, Platform
from .._store import Row
from . import documents

Condition = tuple[str, list[Any]]

# These hide the real tables, which can still be read as main.*. What a run's state was follows from
# its times. What a script's own fields were is not known any more, so they are as they are now.
TABLES_AS_OF = """
WITH runs AS (
  SELECT id, script_id, cancel_requested, created_at, error, max_memory, max_cpu,
    CASE WHEN finished_at <= {then} THEN state WHEN started_at <= {then} THEN 'running'
      ELSE 'queued' END AS state,
    CASE WHEN finished_at <= {then} THEN updated_at WHEN started_at <= {then} THEN started_at
      ELSE created_at END AS updated_at,
    CASE WHEN started_at <= {then} THEN started_at END AS started_at,
    CASE WHEN finished_at <= {then} THEN finished_at END AS finished_at
  FROM main.runs WHERE created_at <= {then}),
scripts AS (
  SELECT id, kind, name, created_at, MIN(updated_at, {then}) AS updated_at, hidden, archived,
    parent_id, template_id, published_as, last_success_id, doc,
    (SELECT MAX(runs.id) FROM main.runs AS runs
      WHERE runs.script_id = ours.id AND runs.created_at <= {then}) AS last_run_id
  FROM main.scripts AS ours WHERE created_at <= {then}),
outputs AS (SELECT * FROM main.outputs WHERE created_at <= {then}),
templates AS (SELECT * FROM main.templates WHERE created_at <= {then})
"""


@dataclasses.dataclass(frozen=True)
class Ordering:
    """How one list may be paged; the first order is the default."""

    orders: Mapping[str, str]  # what a request may name: the column
    limit: int  # rows in a page if the request does not say
    most: int  # rows in a page
    descending: bool = True


BY_ID = Ordering({"id": "id"}, 20, 100)
OUTPUTS = Ordering({"created_at": "created_at", "id": "id"}, 50, 50)
SCRIPTS = Ordering(
    {
        "updated_at": "shown_updated_at",
        "name": "name",
        "created_at": "created_at",
        "last_run.updated_at": "run_updated_at",
    },
    20,
    50,
)
JOBS = Ordering({"updated_at": "shown_updated_at", "last_run_updated_at": "run_updated_at"}, 50, 50)
CUSTOM = Ordering(
    {"updated_at": "shown_updated_at", "name": "name", "created_at": "created_at"}, 50, 50, False
)
TEMPLATES = Ordering(
    {"name": "name", "updated_at": "updated_at", "created_at": "created_at"}, 50, 1000, False
)


def page(request: ApiRequest, ordering: Ordering) -> Page:
    """Return the page that was asked for; a limit above the maximum gives the maximum."""
    try:
        limit = int(request.query.get("limit") or ordering.limit)
        number = int(request.query.get("page_num") or 1)
    except ValueError:
        raise refuse("limit or page_num is invalid") from None
    order = request.query.get("order") or next(iter(ordering.orders))
    way = request.query.get("order_dir") or ("desc" if ordering.descending else "asc")
    if limit < 1 or not 1 <= number < 2**31 or way not in ("asc", "desc"):
        raise refuse("limit, page_num or order_dir does not have a valid value")
    if order not in ordering.orders:
        raise refuse(f"order must be one of: {', '.join(ordering.orders)}")
    limit = min(limit, ordering.most)
    asked = bool(request.query.get("page_num"))
    moved = request.moved if number > 1 else 0
    return Page(limit, number, asked, ordering.orders[order], way == "desc", moved)


def paged(
    platform: Platform,
    request: ApiRequest,
    select: str,
    conditions: list[Condition],
    ordering: Ordering,
    show: Callable[[Platform, Row], Any],
    *,
    blank_when_unasked: bool = False,
) -> Reply:
    """Return one page of the rows that fulfil all conditions."""
    part = page(request, ordering)
    where = " AND ".join(f"({sql})" for sql, _ in conditions) or "1"
    values = [value for _, bound in conditions for value in bound]
    past = "" if request.as_of is None else as_of(request.as_of)
    rows = platform.store.all(
        f"{past}SELECT * FROM ({select}) WHERE {where}{part.clause()}", *values
    )
    total = len(rows)
    if part.number > 1 or total >= part.limit:  # there may be more
        counted = f"{past}SELECT COUNT(*) FROM ({select}) WHERE {where}"
        total = platform.store.count(counted, *values)
    headers = part.headers(total, blank_when_unasked=blank_when_unasked)
    return Reply(200, [show(platform, row) for row in rows], headers)


def _flag(request: ApiRequest, name: str) -> bool | None:
    given = request.query.get(name)
    if not given:
        return None
    try:
        return truth(given)
    except ValueError:
        raise refuse(f"{name} is invalid") from None


def _one_of(
    request: ApiRequest, name: str, column: str, valid: tuple[str, ...] = ()
) -> list[Condition]:
    given = [value for value in request.query.get(name, "").split(",") if value]
    if not given:
        return []
    for value in given:
        if valid and value not in valid:
            raise refuse(f"{name} does not have a valid value")
    return [(f"{column} IN ({', '.join('?' * len(given))})", [*given])]


def _visible(platform: Platform, request: ApiRequest) -> list[Condition]:
    """Return the conditions that all lists share: hidden, archived, author."""
    conditions: list[Condition] = []
    if not _flag(request, "hidden"):
        conditions.append(("NOT hidden", []))
    elif platform.settings.hidden_lists == "only":
        conditions.append(("hidden", []))
    archived = (request.query.get("archived") or "false").lower()
    if archived not in ("true", "false", "all"):
        raise refuse("archived does not have a valid value")
    if archived != "all":
        conditions.append(("archived = ?", [archived == "true"]))
    authors = request.query.get("author")
    if authors and str(USER["id"]) not in authors.split(","):
        conditions.append(("0", []))
    return conditions


def _status(request: ApiRequest) -> list[Condition]:
    """Return the filter on `status`, which knows neither queued nor cancelled."""
    valid = ("running", "failed", "succeeded", "idle", "scheduled")
    state = "IFNULL(run_state, 'idle')"
    found = _one_of(request, "status", state, valid)
    if "scheduled" in request.query.get("status", "").split(","):
        found = [(f"({found[0][0]}) OR {_SCHEDULED}", found[0][1])]
    return found


_SCHEDULED = "IFNULL(json_extract(doc, '$.schedule.scheduled'), 0)"


def list_scripts(platform: Platform, request: ApiRequest) -> Reply:
    """GET /scripts."""
    conditions = _visible(platform, request) + _status(request)
    types = [value for value in request.query.get("type", "").split(",") if value]
    if types:
        conditions.append(("kind = 'container'" if "containers" in types else "0", []))
    category = request.query.get("category")
    if category and category not in ("script", "import", "export", "enhancement"):
        raise refuse("category does not have a valid value")
    if category and category != "script":
        conditions.append(("0", []))
    return paged(
        platform,
        request,
        documents.jobs_sql(platform),
        conditions,
        SCRIPTS,
        documents.script_summary,
        blank_when_unasked=True,
    )


def list_custom(platform: Platform, request: ApiRequest) -> Reply:
    """GET /scripts/custom."""
    conditions: list[Condition] = [("kind = 'custom'", [])]
    conditions += _visible(platform, request) + _status(request)
    conditions += _one_of(request, "from_template_id", "CAST(template_id AS TEXT)")
    select = documents.jobs_sql(platform)
    return paged(platform, request, select, conditions, CUSTOM, documents.custom_summary)


def list_jobs(platform: Platform, request: ApiRequest) -> Reply:
    """GET /jobs."""
    states = ("queued", "running", "succeeded", "failed", "cancelled")
    conditions = _visible(platform, request) + _one_of(request, "state", "run_state", states)
    conditions += _one_of(request, "type", "'JobTypes::ContainerDocker'")
    if request.query.get("permission") not in (None, "", "read", "write", "manage"):
        raise refuse("permission does not have a valid value")
    scheduled = _flag(request, "scheduled")
    if scheduled is not None:
        conditions.append((_SCHEDULED if scheduled else f"NOT {_SCHEDULED}", []))
    if request.query.get("q"):
        sought = "instr(lower(name || ' ' || id || ' JobTypes::ContainerDocker'), lower(?))"
        conditions.append((sought, [request.query["q"]]))
    select = documents.jobs_sql(platform)
    return paged(platform, request, select, conditions, JOBS, documents.job_summary)


def list_templates(platform: Platform, request: ApiRequest) -> Reply:
    """GET /templates/scripts."""
    conditions = _visible(platform, request)
    if request.query.get("category") not in (None, "", "script"):
        conditions.append(("0", []))
    select = "SELECT * FROM templates"
    return paged(platform, request, select, conditions, TEMPLATES, documents.template_summary)


def list_runs(platform: Platform, request: ApiRequest) -> Reply:
    """GET .../runs: as JobRuns below /jobs, else as the runs of a script."""
    row = documents.job_of(platform, request)
    show = documents.job_run
    if not request.template.startswith("/jobs/"):
        show = partial(documents.script_run, kind=request.kind)
    mine: list[Condition] = [("script_id = ?", [row["id"]])]
    return paged(platform, request, "SELECT * FROM runs", mine, BY_ID, show)


def list_outputs(platform: Platform, request: ApiRequest) -> Reply:
    """GET .../runs/{run_id}/outputs."""
    run = documents.run_of(platform, request)
    mine: list[Condition] = [("run_id = ?", [run["id"]])]
    select = "SELECT * FROM outputs"
    return paged(platform, request, select, mine, OUTPUTS, documents.output)


def newest_output(platform: Platform) -> int:
    """Return the id of the output that was made last."""
    return platform.store.count("SELECT IFNULL(MAX(id), 0) FROM outputs")


def add_outputs(platform: Platform, shown: Any, since: int) -> bool:
    """Add to the scripts of a page, or to a single one, what their last runs have put out since the
    output `since`: the oldest of that, not too much. Tell whether there was any.
    """
    rows = shown if isinstance(shown, list) else [shown]
    runs = {row["lastRun"]["id"]: row for row in rows if row["lastRun"]}
    sql = f"""SELECT * FROM outputs WHERE id > ? AND run_id IN ({", ".join("?" * len(runs))})
        ORDER BY id LIMIT {OUTPUTS.most}"""
    found = platform.store.all(sql, since, *runs)
    for output in found:
        row = runs[output["run_id"]]
        row.setdefault("outputs", []).append(documents.output(platform, output))
    return bool(found)


def as_of(then: float) -> str:
    """Return what goes before a SELECT so that it sees the tables as they were then."""
    return TABLES_AS_OF.format(then=repr(float(then)))
