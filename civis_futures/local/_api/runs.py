"""Runs as the API sees them: start, look, cancel, logs, outputs.

Who executes them is `_runs.runner`.
"""

from __future__ import annotations

from typing import Any

from .._schema import tables
from .._schema.exchange import ApiError, Ask, Reply, not_found
from .._schema.fields import read, refuse
from .._site import Site
from .._store import Row
from . import documents
from .scripts import check_complete

ACTIVE = ("queued", "running")
MOST_LINES = 10_000


def begin(site: Site, row: Row, conflict: ApiError) -> Row:
    """Queue a run of a job; one job has one active run at most."""
    if row["run_state"] in ACTIVE:
        raise conflict
    check_complete(documents.effective(site, row))
    now = site.now()
    with site.store.transaction():
        run_id = site.store.insert(
            "runs", script_id=row["id"], state="queued", created_at=now, updated_at=now
        )
        site.store.update("scripts", row["id"], last_run_id=run_id)
    site.counters.runs_started += 1
    site.runner.queue(run_id)
    return documents.run_row(site, row["id"], run_id)


def start_script(family: str, owner_field: str, kind: str | None = None) -> Any:
    """Return the endpoint POST /scripts/{family}/{id}/runs."""
    said = "The script cannot be queued because it is already active."

    def post_run(site: Site, ask: Ask) -> Reply:
        row = documents.job_row(site, ask.id(), kind)
        run = begin(site, row, ApiError(409, "conflict", said))
        where = f"http://{site.api_host}/scripts/{family}/{row['id']}/runs/{run['id']}"
        return Reply(202, documents.script_run(site, run, owner_field), {"Location": where})

    return post_run


def start_job(site: Site, ask: Ask) -> Reply:
    """POST /jobs/{id}/runs."""
    said = "The job cannot be queued because it is already running"
    row = documents.job_row(site, ask.id())
    return Reply(
        201, documents.job_run(site, begin(site, row, ApiError(409, "already_running", said)))
    )


def get_script_run(owner_field: str, kind: str | None = None) -> Any:
    """Return the endpoint GET /scripts/{family}/{id}/runs/{run_id}."""

    def get_run(site: Site, ask: Ask) -> Reply:
        documents.job_row(site, ask.id(), kind)
        run = documents.run_row(site, ask.id(), ask.id("run_id"))
        return Reply(200, documents.script_run(site, run, owner_field))

    return get_run


def get_job_run(site: Site, ask: Ask) -> Reply:
    """GET /jobs/{id}/runs/{run_id}."""
    return Reply(200, documents.job_run(site, documents.run_row(site, ask.id(), ask.id("run_id"))))


def cancel_run(kind: str | None = None) -> Any:
    """Return the endpoint DELETE .../runs/{run_id}; 404 when it is over, like /cancel."""

    def delete_run(site: Site, ask: Ask) -> Reply:
        documents.job_row(site, ask.id(), kind)
        run = documents.run_row(site, ask.id(), ask.id("run_id"))
        _cancel(site, run)
        return Reply(202)

    return delete_run


def cancel_script(site: Site, ask: Ask) -> Reply:
    """POST /scripts/{id}/cancel: the active run, whichever it is."""
    row = documents.job_row(site, ask.id())
    if row["last_run_id"] is None:
        raise not_found("An active run of the script")
    _cancel(site, documents.run_row(site, row["id"], row["last_run_id"]))
    run = documents.run_row(site, row["id"], row["last_run_id"])
    body = {
        "id": run["id"],
        "state": run["state"],
        "isCancelRequested": bool(run["cancel_requested"]),
    }
    return Reply(202, body)


def _cancel(site: Site, run: Row) -> None:
    if run["state"] not in ACTIVE:
        raise not_found("An active run of the script")
    site.runner.cancel(run["id"])


def get_logs(kind: str | None = None) -> Any:
    """Return the endpoint GET .../runs/{run_id}/logs.

    After `last_id` in the order of ids; without it the newest lines, newest first.
    """

    def list_logs(site: Site, ask: Ask) -> Reply:
        documents.job_row(site, ask.id(), kind)
        run = documents.run_row(site, ask.id(), ask.id("run_id"))
        try:
            last = int(ask.query.get("last_id") or 0)
            limit = int(ask.query.get("limit") or MOST_LINES)
        except ValueError:
            raise refuse("last_id or limit is invalid") from None
        if limit < 1:
            raise refuse("limit does not have a valid value")
        order = "id" if ask.query.get("last_id") else "created_at DESC, id DESC"
        site.runner.flush(run["id"])
        rows = site.store.all(
            f"SELECT * FROM logs WHERE run_id = ? AND id > ? ORDER BY {order} LIMIT ?",
            run["id"],
            last,
            min(limit, MOST_LINES),
        )
        return Reply(200, [_line(site, row) for row in rows], _log_headers(site, run))

    return list_logs


def _line(site: Site, row: Row) -> dict[str, Any]:
    return {
        "id": row["id"],
        "createdAt": site.time(row["created_at"]),
        "message": row["message"],
        "level": row["level"],
    }


def _log_headers(site: Site, run: Row) -> dict[str, str]:
    newest = site.store.one("SELECT MAX(id) AS id FROM logs WHERE run_id = ?", run["id"])
    assert newest is not None
    may_grow = run["state"] in ACTIVE
    headers = {"Civis-Cache-Control": "no-store" if may_grow else "private, max-age=31536000"}
    if newest["id"] is not None:
        headers["Civis-Max-Id"] = str(newest["id"])
    return headers


def post_logs(site: Site, ask: Ask) -> Reply:
    """POST /scripts/containers/{id}/runs/{run_id}/logs: one message or a batch."""
    documents.job_row(site, ask.id())
    run = documents.run_row(site, ask.id(), ask.id("run_id"))
    given = read(tables.LOG, ask.body)
    lines = list(given.get("messages") or [])
    if given.get("message") is not None:
        lines.insert(0, {"message": given["message"], "level": given.get("level")})
    if not lines:
        raise refuse("message or messages is missing")
    now = site.now()
    site.runner.flush(run["id"])  # what the run printed before this call stands before it
    site.store.add_logs(
        run["id"],
        [
            (line.get("createdAt") or now, line.get("level") or "info", line["message"])
            for line in lines
        ],
    )
    return Reply(204)


def post_output(kind: str | None = None) -> Any:
    """Return the endpoint POST .../runs/{run_id}/outputs; only an active run takes outputs."""

    def post(site: Site, ask: Ask) -> Reply:
        documents.job_row(site, ask.id(), kind)
        run = documents.run_row(site, ask.id(), ask.id("run_id"))
        given = read(tables.OUTPUT, ask.body)
        if run["state"] not in ACTIVE:
            raise refuse("Run is not active")
        family = {"File": "files", "JSONValue": "json_values"}.get(given["objectType"])
        key = given["objectId"]
        if not family or not site.store.one(f"SELECT 1 FROM {family} WHERE id = ?", key):
            raise not_found(f"The {given['objectType']} with id {key}")
        site.store.insert(
            "outputs",
            run_id=run["id"],
            object_type=given["objectType"],
            object_id=key,
            created_at=site.now(),
        )
        body = documents.output(site, _as_output(site, run["id"]))
        return Reply(202, body)

    return post


def _as_output(site: Site, run_id: int) -> Row:
    row = site.store.one("SELECT * FROM outputs WHERE run_id = ? ORDER BY id DESC", run_id)
    assert row is not None
    return row


def get_job(site: Site, ask: Ask) -> Reply:
    """GET /jobs/{id}."""
    return Reply(200, documents.job(site, documents.job_row(site, ask.id())))


def get_children(site: Site, ask: Ask) -> Reply:
    """GET /jobs/{id}/children."""
    row = documents.job_row(site, ask.id())
    return Reply(200, documents.children(site, row["id"], frozenset()))


def get_parents(site: Site, ask: Ask) -> Reply:
    """GET /jobs/{id}/parents: there is one at most."""
    row = documents.job_row(site, ask.id())
    parent = row["parent_id"]
    found = [] if parent is None else [documents.job(site, documents.job_row(site, parent))]
    return Reply(200, found)
