"""Rows of the store as the documents of the API.

Every field is always present, null where unset, as the Platform answers. This module reads the
store but never changes it.
"""

from __future__ import annotations

import json
from typing import Any

from .._schema import tables
from .._schema.exchange import ApiRequest, not_found
from .._state import USER, Platform
from .._store import Row, document

# A job with its last run. `shown_updated_at` is a reading of the contract that can be chosen.
JOBS = """
SELECT scripts.*, runs.id AS run_id, runs.state AS run_state, runs.created_at AS run_created_at,
  runs.started_at AS run_started_at, runs.finished_at AS run_finished_at,
  runs.error AS run_error, runs.updated_at AS run_updated_at,
  CASE WHEN {follows} THEN MAX(scripts.updated_at, IFNULL(runs.updated_at, 0))
    ELSE scripts.updated_at END AS shown_updated_at
FROM scripts LEFT JOIN runs ON runs.id = scripts.last_run_id
"""


def jobs_sql(platform: Platform) -> str:
    """Return the SELECT of jobs with their last runs, as one table to filter and order."""
    chosen = JOBS.format(follows=int(platform.settings.updated_at_follows_runs))
    return f"SELECT * FROM ({chosen})"


def job_row(platform: Platform, key: int, kind: str | None = None) -> Row:
    """Return one job, or raise 404."""
    row = platform.store.one(f"{jobs_sql(platform)} WHERE id = ?", key)
    if row is None or (kind is not None and row["kind"] != kind):
        raise not_found(f"The script with id {key}")
    return row


def run_row(platform: Platform, script_id: int, run_id: int) -> Row:
    """Return one run of a script, or raise 404."""
    row = platform.store.one("SELECT * FROM runs WHERE id = ? AND script_id = ?", run_id, script_id)
    if row is None:
        raise not_found(f"The run with id {run_id}")
    return row


def job_of(platform: Platform, request: ApiRequest) -> Row:
    """Return the job that a path names, or raise 404."""
    return job_row(platform, request.id(), request.kind)


def run_of(platform: Platform, request: ApiRequest) -> Row:
    """Return the run that a path names, or raise 404."""
    job_of(platform, request)
    return run_row(platform, request.id(), request.id("run_id"))


def job_run(platform: Platform, row: Row, prefix: str = "") -> dict[str, Any]:
    """Return a JobRun; `prefix` is that of its columns in the row."""
    return {
        "id": row[f"{prefix}id"],
        "state": row[f"{prefix}state"],
        "createdAt": platform.time(row[f"{prefix}created_at"]),
        "startedAt": platform.time(row[f"{prefix}started_at"]),
        "finishedAt": platform.time(row[f"{prefix}finished_at"]),
        "error": row[f"{prefix}error"],
    }


def script_run(platform: Platform, row: Row, kind: str | None) -> dict[str, Any]:
    """Return a CustomRun if `kind` is "custom", or else a ContainerRun."""
    return {
        **job_run(platform, row),
        "customId" if kind == "custom" else "containerId": row["script_id"],
        "isCancelRequested": bool(row["cancel_requested"]),
        "maxMemoryUsage": row["max_memory"],
        "maxCpuUsage": row["max_cpu"],
    }


def last_run(platform: Platform, row: Row) -> dict[str, Any] | None:
    """Return the JobRun that a row of `jobs_sql` carries."""
    return None if row["run_id"] is None else job_run(platform, row, "run_")


def last_success(platform: Platform, row: Row) -> dict[str, Any] | None:
    """Return the JobRun of the last run that succeeded."""
    found = platform.store.one("SELECT * FROM runs WHERE id = ?", row["last_success_id"])
    return None if found is None else job_run(platform, found)


def backing(platform: Platform, row: Row) -> tuple[Row | None, Row]:
    """Return the template and the script that a job takes its code from; a container: itself."""
    if row["kind"] != "custom":
        return None, row
    template = platform.store.one("SELECT * FROM templates WHERE id = ?", row["template_id"])
    assert template is not None, "templates are never deleted"
    return template, job_row(platform, template["script_id"])


def effective(platform: Platform, row: Row) -> dict[str, Any]:
    """Return what a run of this job executes: code of the backing script, its own arguments."""
    own = document(row)
    _, source = backing(platform, row)
    if source is row:
        return own
    resources = {k: v for k, v in (own["requiredResources"] or {}).items() if v is not None}
    code = document(source)
    return {
        **code,
        **{name: value for name, value in own.items() if name != "requiredResources"},
        "requiredResources": {**code["requiredResources"], **resources},
    }


def _common(platform: Platform, row: Row) -> dict[str, Any]:
    run = last_run(platform, row)
    return {
        "id": row["id"],
        "name": row["name"],
        "createdAt": platform.time(row["created_at"]),
        "updatedAt": platform.time(row["shown_updated_at"]),
        "author": USER,
        "state": "idle" if run is None else run["state"],
        "fromTemplateId": row["template_id"],
        "lastRun": run,
        "archived": bool(row["archived"]),
    }


def _listed(platform: Platform, row: Row) -> dict[str, Any]:
    return {
        **_common(platform, row),
        "type": "Custom" if row["kind"] == "custom" else "Container",
        "finishedAt": platform.time(row["run_finished_at"]),
        "projects": [],
        "parentId": row["parent_id"],
    }


def script_summary(platform: Platform, row: Row) -> dict[str, Any]:
    """Return a row of GET /scripts."""
    template, source = backing(platform, row)
    return {
        **_listed(platform, row),
        "isTemplate": row["published_as"] is not None,
        "links": _links(platform, row, "custom" if row["kind"] == "custom" else "containers"),
        "timeZone": document(row)["timeZone"],
        "templateScriptId": None if template is None else source["id"],
    }


def custom_summary(platform: Platform, row: Row) -> dict[str, Any]:
    """Return a row of GET /scripts/custom."""
    return {
        **_listed(platform, row),
        "backingScriptType": "Container",
        "timeZone": document(row)["timeZone"],
        "lastSuccessfulRun": last_success(platform, row),
    }


def _links(platform: Platform, row: Row, family: str) -> dict[str, str]:
    details = f"{platform.listening.api_host}/scripts/{family}/{row['id']}"
    return {"details": details, "runs": f"{details}/runs"}


def _script(platform: Platform, row: Row) -> dict[str, Any]:
    template, source = backing(platform, row)
    return {
        **_listed(platform, row),
        "fromTemplateAliases": [],
        "category": "script",
        "isTemplate": row["published_as"] is not None,
        "publishedAsTemplateId": row["published_as"],
        "templateScriptName": None if template is None else source["name"],
        "runningAs": USER,
        "runningAsId": USER["id"],
        "myPermissionLevel": "manage",
        "hidden": bool(row["hidden"]),
    }


def container(platform: Platform, row: Row) -> dict[str, Any]:
    """Return a ContainerScript; a custom script backed by one is answered too."""
    fields = effective(platform, row)
    template_id = row["published_as"]
    return {
        **{name: value for name, value in fields.items() if name in _CONTAINER_DOC},
        **_script(platform, row),
        "templateDependentsCount": None if template_id is None else _uses(platform, template_id),
        "links": _links(platform, row, "containers"),
    }


def _uses(platform: Platform, template_id: int) -> int:
    """Return how many scripts a template has; this looks at all scripts."""
    sql = "SELECT COUNT(*) FROM scripts WHERE template_id = ?"
    return platform.store.count(sql, template_id)


_CONTAINER_DOC = frozenset(tables.CONTAINER) - {"name", "parentId", "runningAsId"}


def custom(platform: Platform, row: Row) -> dict[str, Any]:
    """Return a CustomScript."""
    template, source = backing(platform, row)
    assert template is not None
    code = document(source)
    return {
        **document(row),
        **_script(platform, row),
        "backingScriptType": "Container",
        "params": code["params"],
        "uiReportUrl": None,
        "uiReportId": template["ui_report_id"],
        "uiReportProvideAPIKey": None,
        "templateNote": template["note"],
        "codePreview": code["dockerCommand"],
        "lastSuccessfulRun": last_success(platform, row),
    }


def template_summary(platform: Platform, row: Row) -> dict[str, Any]:
    """Return a row of GET /templates/scripts."""
    script = job_row(platform, row["script_id"])
    return {
        "id": row["id"],
        "public": False,
        "scriptId": row["script_id"],
        "userContext": document(script)["userContext"],
        "name": row["name"],
        "category": "script",
        "createdAt": platform.time(row["created_at"]),
        "updatedAt": platform.time(row["updated_at"]),
        "useCount": _uses(platform, row["id"]),
        "uiReportId": row["ui_report_id"],
        "techReviewed": False,
        "archived": bool(row["archived"]),
        "author": USER,
    }


def template(platform: Platform, row: Row) -> dict[str, Any]:
    """Return a ScriptTemplate."""
    return {
        **template_summary(platform, row),
        "scriptType": "Container",
        "params": document(job_row(platform, row["script_id"]))["params"],
        "note": row["note"],
        "hidden": bool(row["hidden"]),
        "myPermissionLevel": "manage",
    }


def job_summary(platform: Platform, row: Row) -> dict[str, Any]:
    """Return a row of GET /jobs."""
    common = _common(platform, row)
    return {
        **common,
        "type": "JobTypes::ContainerDocker",
        # Not in the older spec that the contract was cut from; documented since civis 2.10.
        "lastRunUpdatedAt": platform.time(row["run_updated_at"]),
        "schedule": document(row)["schedule"],
    }


def recent_runs(platform: Platform, row: Row) -> list[dict[str, Any]]:
    """Return the runs that a job's own document shows, newest first."""
    sql = "SELECT * FROM runs WHERE script_id = ? ORDER BY id DESC LIMIT 10"
    return [job_run(platform, run) for run in platform.store.all(sql, row["id"])]


def job(platform: Platform, row: Row) -> dict[str, Any]:
    """Return a Job."""
    notifications = document(row)["notifications"]
    return {
        **job_summary(platform, row),
        "runs": recent_runs(platform, row),
        "hidden": bool(row["hidden"]),
        "myPermissionLevel": "manage",
        "successEmailSubject": notifications["successEmailSubject"],
        "successEmailBody": notifications["successEmailBody"],
        "runningAsUser": USER["username"],
        "runByUser": None if row["last_run_id"] is None else USER["username"],
    }


NESTED = ("id", "name", "type", "fromTemplateId", "state", "createdAt", "updatedAt", "lastRun")


def nested_job(platform: Platform, row: Row, above: frozenset[int]) -> dict[str, Any]:
    """Return a job with the jobs that its success triggers; a circle is cut where it closes."""
    summary = job_summary(platform, row)
    return {
        **{name: summary[name] for name in NESTED},
        "runs": recent_runs(platform, row),
        "children": children(platform, row["id"], above),
    }


def children(platform: Platform, key: int, above: frozenset[int]) -> list[dict[str, Any]]:
    """Return the nested jobs below a job."""
    above |= {key}
    rows = platform.store.all(f"{jobs_sql(platform)} WHERE parent_id = ? ORDER BY id", key)
    return [nested_job(platform, row, above) for row in rows if row["id"] not in above]


def json_value(row: Row) -> bytes:
    """Return a JSONValue as text: to decode and encode what it holds takes longer than all else."""
    return f'{{"id":{row["id"]},"name":{json.dumps(row["name"])},"value":{row["value"]}}}'.encode()


def output(platform: Platform, row: Row) -> dict[str, Any]:
    """Return a JobOutput; a JSON value travels inside."""
    key, kind = row["object_id"], row["object_type"]
    family = {"File": "files", "JSONValue": "json_values"}[kind]
    found = platform.store.one(f"SELECT * FROM {family} WHERE id = ?", key)
    assert found is not None, "files and JSON values are never deleted"
    return {
        "objectType": kind,
        "objectId": key,
        "name": found["name"],
        "link": f"{platform.listening.api_host}/{family}/{key}",
        "value": json.loads(found["value"]) if kind == "JSONValue" else None,
    }
