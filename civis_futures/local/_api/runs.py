"""Runs as the API sees them: start, look, cancel, logs, outputs.

Who executes them is `_runs.runner`.
"""

from __future__ import annotations

from typing import Any

from .._schema import tables
from .._schema.exchange import ApiError, ApiRequest, Reply, not_found
from .._schema.fields import read, refuse
from .._state import Platform
from .._store import Row
from . import documents
from .scripts import check_complete

ACTIVE = ("queued", "running")
MOST_LINES = 10_000  # of a log, in one answer


def begin(platform: Platform, row: Row, conflict: ApiError) -> Row:
    """Queue a run of a job; one job has one active run at most."""
    if row["run_state"] in ACTIVE:
        raise conflict
    check_complete(documents.effective(platform, row))
    now = platform.now()
    with platform.store.transaction():
        run_id = platform.store.insert(
            "runs", script_id=row["id"], state="queued", created_at=now, updated_at=now
        )
        platform.store.update("scripts", row["id"], last_run_id=run_id)
    platform.counters.runs_started += 1
    platform.runner.queue(run_id)
    return documents.run_row(platform, row["id"], run_id)


def start_run(platform: Platform, request: ApiRequest) -> Reply:
    """POST /scripts/{family}/{id}/runs."""
    said = "The script cannot be queued because it is already active."
    row = documents.job_of(platform, request)
    run = begin(platform, row, ApiError(409, "conflict", said))
    family = request.kind or "containers"
    where = f"{platform.api_url}/scripts/{family}/{row['id']}/runs/{run['id']}"
    return Reply(202, documents.script_run(platform, run, request.kind), {"Location": where})


def start_job(platform: Platform, request: ApiRequest) -> Reply:
    """POST /jobs/{id}/runs."""
    said = "The job cannot be queued because it is already running"
    row = documents.job_of(platform, request)
    run = begin(platform, row, ApiError(409, "already_running", said))
    return Reply(201, documents.job_run(platform, run))


def get_run(platform: Platform, request: ApiRequest) -> Reply:
    """GET /scripts/{family}/{id}/runs/{run_id}."""
    run = documents.run_of(platform, request)
    return Reply(200, documents.script_run(platform, run, request.kind))


def get_job_run(platform: Platform, request: ApiRequest) -> Reply:
    """GET /jobs/{id}/runs/{run_id}."""
    run = documents.run_row(platform, request.id(), request.id("run_id"))
    return Reply(200, documents.job_run(platform, run))


def cancel_run(platform: Platform, request: ApiRequest) -> Reply:
    """DELETE .../runs/{run_id}; 404 when it is over, like /cancel."""
    run = documents.run_of(platform, request)
    _cancel(platform, run)
    return Reply(202)


def cancel_script(platform: Platform, request: ApiRequest) -> Reply:
    """POST /scripts/{id}/cancel: the active run, whichever it is."""
    row = documents.job_row(platform, request.id())
    if row["last_run_id"] is None:
        raise not_found("An active run of the script")
    _cancel(platform, documents.run_row(platform, row["id"], row["last_run_id"]))
    run = documents.run_row(platform, row["id"], row["last_run_id"])
    body = {
        "id": run["id"],
        "state": run["state"],
        "isCancelRequested": bool(run["cancel_requested"]),
    }
    return Reply(202, body)


def _cancel(platform: Platform, run: Row) -> None:
    if run["state"] not in ACTIVE:
        raise not_found("An active run of the script")
    platform.runner.cancel(run["id"])


def get_logs(platform: Platform, request: ApiRequest) -> Reply:
    """GET .../runs/{run_id}/logs.

    After `last_id` in the order of ids; without it the newest lines, newest first.
    """
    run = documents.run_of(platform, request)
    try:
        last = int(request.query.get("last_id") or 0)
        limit = int(request.query.get("limit") or MOST_LINES)
    except ValueError:
        raise refuse("last_id or limit is invalid") from None
    if limit < 1:
        raise refuse("limit does not have a valid value")
    order = "id" if request.query.get("last_id") else "created_at DESC, id DESC"
    platform.runner.flush(run["id"])
    rows = platform.store.all(
        f"SELECT * FROM logs WHERE run_id = ? AND id > ? ORDER BY {order} LIMIT ?",
        run["id"],
        last,
        min(limit, MOST_LINES),
    )
    return Reply(200, [_line(platform, row) for row in rows], _log_headers(platform, run))


def _line(platform: Platform, row: Row) -> dict[str, Any]:
    return {
        "id": row["id"],
        "createdAt": platform.time(row["created_at"]),
        "message": row["message"],
        "level": row["level"],
    }


def _log_headers(platform: Platform, run: Row) -> dict[str, str]:
    newest = platform.store.one("SELECT MAX(id) AS id FROM logs WHERE run_id = ?", run["id"])
    assert newest is not None
    may_grow = run["state"] in ACTIVE
    headers = {"Civis-Cache-Control": "no-store" if may_grow else "private, max-age=31536000"}
    if newest["id"] is not None:
        headers["Civis-Max-Id"] = str(newest["id"])
    return headers


def post_logs(platform: Platform, request: ApiRequest) -> Reply:
    """POST /scripts/containers/{id}/runs/{run_id}/logs: one message or a batch."""
    run = documents.run_of(platform, request)
    given = read(tables.LOG, request.body)
    lines = list(given.get("messages") or [])
    if given.get("message") is not None:
        lines.insert(0, {"message": given["message"], "level": given.get("level")})
    if not lines:
        raise refuse("message or messages is missing")
    now = platform.now()
    platform.runner.flush(run["id"])  # what the run printed before this call stands before it
    platform.store.add_logs(
        run["id"],
        [
            (line.get("createdAt") or now, line.get("level") or "info", line["message"])
            for line in lines
        ],
    )
    return Reply(204)


def post_output(platform: Platform, request: ApiRequest) -> Reply:
    """POST .../runs/{run_id}/outputs; only an active run takes outputs."""
    run = documents.run_of(platform, request)
    given = read(tables.OUTPUT, request.body)
    if run["state"] not in ACTIVE:
        raise refuse("Run is not active")
    family = {"File": "files", "JSONValue": "json_values"}.get(given["objectType"])
    key = given["objectId"]
    if not family or not platform.store.one(f"SELECT 1 FROM {family} WHERE id = ?", key):
        raise not_found(f"The {given['objectType']} with id {key}")
    platform.store.insert(
        "outputs",
        run_id=run["id"],
        object_type=given["objectType"],
        object_id=key,
        created_at=platform.now(),
    )
    body = documents.output(platform, _as_output(platform, run["id"]))
    return Reply(202, body)


def _as_output(platform: Platform, run_id: int) -> Row:
    row = platform.store.one("SELECT * FROM outputs WHERE run_id = ? ORDER BY id DESC", run_id)
    assert row is not None
    return row


def get_job(platform: Platform, request: ApiRequest) -> Reply:
    """GET /jobs/{id}."""
    return Reply(200, documents.job(platform, documents.job_row(platform, request.id())))


def get_children(platform: Platform, request: ApiRequest) -> Reply:
    """GET /jobs/{id}/children."""
    row = documents.job_row(platform, request.id())
    return Reply(200, documents.children(platform, row["id"], frozenset()))


def get_parents(platform: Platform, request: ApiRequest) -> Reply:
    """GET /jobs/{id}/parents: there is one at most."""
    row = documents.job_row(platform, request.id())
    parent = row["parent_id"]
    found = [] if parent is None else [documents.job(platform, documents.job_row(platform, parent))]
    return Reply(200, found)
