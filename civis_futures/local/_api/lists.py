"""Everything that answers with pages: filters, order and the paging headers; and the tables as they
were, for lists that lag behind.

What may be filtered and ordered by is data; a name from a request is only ever looked up in it.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

from .._schema.exchange import Ask, Page, Reply
from .._schema.fields import refuse, truth
from .._site import USER, Site
from .._store import Row
from . import documents

Condition = tuple[str, list[Any]]

# Tables of these names stand in front of the real ones, which are still there as main.*. A run's
# moments tell what its state was. What a script's own fields were is not known any more.
PAST = """
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

    orders: Mapping[str, str]
    limit: int
    most: int
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


def page(ask: Ask, ordering: Ordering) -> Page:
    """Return the page that was asked for; a limit above the maximum gives the maximum."""
    try:
        limit = int(ask.query.get("limit") or ordering.limit)
        number = int(ask.query.get("page_num") or 1)
    except ValueError:
        raise refuse("limit or page_num is invalid") from None
    order = ask.query.get("order") or next(iter(ordering.orders))
    way = ask.query.get("order_dir") or ("desc" if ordering.descending else "asc")
    if limit < 1 or not 1 <= number < 2**31 or way not in ("asc", "desc"):
        raise refuse("limit, page_num or order_dir does not have a valid value")
    if order not in ordering.orders:
        raise refuse(f"order must be one of: {', '.join(ordering.orders)}")
    limit = min(limit, ordering.most)
    asked = bool(ask.query.get("page_num"))
    moved = ask.moved if number > 1 else 0
    return Page(limit, number, asked, ordering.orders[order], way == "desc", moved)


def paged(
    site: Site,
    ask: Ask,
    select: str,
    conditions: list[Condition],
    ordering: Ordering,
    show: Callable[[Row], Any],
    *,
    blank_when_unasked: bool = False,
) -> Reply:
    """Return one page of the rows that fulfil all conditions."""
    part = page(ask, ordering)
    where = " AND ".join(f"({sql})" for sql, _ in conditions) or "1"
    values = [value for _, bound in conditions for value in bound]
    past = "" if ask.as_of is None else as_of(ask.as_of)
    total = site.store.count(f"{past}SELECT COUNT(*) FROM ({select}) WHERE {where}", *values)
    rows = site.store.all(f"{past}SELECT * FROM ({select}) WHERE {where}{part.clause()}", *values)
    headers = part.headers(total, blank_when_unasked=blank_when_unasked)
    return Reply(200, [show(row) for row in rows], headers)


def _flag(ask: Ask, name: str) -> bool | None:
    given = ask.query.get(name)
    if not given:
        return None
    try:
        return truth(given)
    except ValueError:
        raise refuse(f"{name} is invalid") from None


def _one_of(ask: Ask, name: str, column: str, valid: tuple[str, ...] = ()) -> list[Condition]:
    given = [value for value in ask.query.get(name, "").split(",") if value]
    if not given:
        return []
    for value in given:
        if valid and value not in valid:
            raise refuse(f"{name} does not have a valid value")
    return [(f"{column} IN ({', '.join('?' * len(given))})", [*given])]


def _visible(site: Site, ask: Ask) -> list[Condition]:
    """Return the conditions that all lists share: hidden, archived, author."""
    conditions: list[Condition] = []
    if not _flag(ask, "hidden"):
        conditions.append(("NOT hidden", []))
    elif site.settings.hidden_lists == "only":
        conditions.append(("hidden", []))
    archived = (ask.query.get("archived") or "false").lower()
    if archived not in ("true", "false", "all"):
        raise refuse("archived does not have a valid value")
    if archived != "all":
        conditions.append(("archived = ?", [archived == "true"]))
    authors = ask.query.get("author")
    if authors and str(USER["id"]) not in authors.split(","):
        conditions.append(("0", []))
    return conditions


def _status(ask: Ask) -> list[Condition]:
    """Return the filter on `status`, which knows neither queued nor cancelled."""
    valid = ("running", "failed", "succeeded", "idle", "scheduled")
    state = "IFNULL(run_state, 'idle')"
    found = _one_of(ask, "status", state, valid)
    if "scheduled" in ask.query.get("status", "").split(","):
        found = [(f"({found[0][0]}) OR {_SCHEDULED}", found[0][1])]
    return found


_SCHEDULED = "IFNULL(json_extract(doc, '$.schedule.scheduled'), 0)"


def list_scripts(site: Site, ask: Ask) -> Reply:
    """GET /scripts."""
    conditions = _visible(site, ask) + _status(ask)
    types = [value for value in ask.query.get("type", "").split(",") if value]
    if types:
        conditions.append(("kind = 'container'" if "containers" in types else "0", []))
    category = ask.query.get("category")
    if category and category not in ("script", "import", "export", "enhancement"):
        raise refuse("category does not have a valid value")
    if category and category != "script":
        conditions.append(("0", []))
    return paged(
        site,
        ask,
        documents.jobs_sql(site),
        conditions,
        SCRIPTS,
        lambda row: documents.script_summary(site, row),
        blank_when_unasked=True,
    )


def list_custom(site: Site, ask: Ask) -> Reply:
    """GET /scripts/custom."""
    conditions: list[Condition] = [("kind = 'custom'", [])]
    conditions += _visible(site, ask) + _status(ask)
    conditions += _one_of(ask, "from_template_id", "CAST(template_id AS TEXT)")
    select = documents.jobs_sql(site)
    return paged(
        site, ask, select, conditions, CUSTOM, lambda row: documents.custom_summary(site, row)
    )


def list_jobs(site: Site, ask: Ask) -> Reply:
    """GET /jobs."""
    states = ("queued", "running", "succeeded", "failed", "cancelled")
    conditions = _visible(site, ask) + _one_of(ask, "state", "run_state", states)
    conditions += _one_of(ask, "type", "'JobTypes::ContainerDocker'")
    if ask.query.get("permission") not in (None, "", "read", "write", "manage"):
        raise refuse("permission does not have a valid value")
    scheduled = _flag(ask, "scheduled")
    if scheduled is not None:
        conditions.append((_SCHEDULED if scheduled else f"NOT {_SCHEDULED}", []))
    if ask.query.get("q"):
        sought = "instr(lower(name || ' ' || id || ' JobTypes::ContainerDocker'), lower(?))"
        conditions.append((sought, [ask.query["q"]]))
    select = documents.jobs_sql(site)
    return paged(site, ask, select, conditions, JOBS, lambda row: documents.job_summary(site, row))


def list_templates(site: Site, ask: Ask) -> Reply:
    """GET /templates/scripts."""
    conditions = _visible(site, ask)
    if ask.query.get("category") not in (None, "", "script"):
        conditions.append(("0", []))
    select = "SELECT * FROM templates"
    return paged(
        site, ask, select, conditions, TEMPLATES, lambda row: documents.template_summary(site, row)
    )


def runs_of(owner_field: str | None, kind: str | None = None) -> Any:
    """Return the endpoint that lists runs: as JobRuns, or as the runs of a script."""

    def list_runs(site: Site, ask: Ask) -> Reply:
        row = documents.job_row(site, ask.id(), kind)

        def show(run: Row) -> dict[str, Any]:
            if owner_field is None:
                return documents.job_run(site, run)
            return documents.script_run(site, run, owner_field)

        mine: list[Condition] = [("script_id = ?", [row["id"]])]
        return paged(site, ask, "SELECT * FROM runs", mine, BY_ID, show)

    return list_runs


def outputs_of(kind: str | None = None) -> Any:
    """Return the endpoint that lists the outputs of a run."""

    def list_outputs(site: Site, ask: Ask) -> Reply:
        documents.job_row(site, ask.id(), kind)
        run = documents.run_row(site, ask.id(), ask.id("run_id"))
        mine: list[Condition] = [("run_id = ?", [run["id"]])]
        select = "SELECT * FROM outputs"
        return paged(site, ask, select, mine, OUTPUTS, lambda row: documents.output(site, row))

    return list_outputs


def as_of(then: float) -> str:
    """Return what goes before a SELECT so that it sees the tables as they were then."""
    return PAST.format(then=repr(float(then)))
