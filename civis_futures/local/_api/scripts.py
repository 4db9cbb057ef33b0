"""Container scripts, custom scripts and templates: what a run will be, before it is one."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any

from .._schema import tables
from .._schema.exchange import ApiRequest, Reply, not_found
from .._schema.fields import Table, merge, read, refuse
from .._state import Platform
from .._store import Row, document
from . import documents

OWN_COLUMNS = ("name", "parentId", "hidden")
PARAM_NAME = re.compile(r"[A-Za-z0-9]([A-Za-z0-9_]*[A-Za-z0-9])?", re.ASCII)


def create_container(platform: Platform, request: ApiRequest) -> Reply:
    """POST /scripts/containers."""
    given = read(tables.NEW_CONTAINER, request.body)
    row = _add(platform, "container", tables.CONTAINER, given)
    return Reply(201, documents.container(platform, row))


def create_custom(platform: Platform, request: ApiRequest) -> Reply:
    """POST /scripts/custom."""
    given = read(tables.NEW_CUSTOM, request.body)
    template = _template_row(platform, given["fromTemplateId"])
    row = _add(platform, "custom", tables.CUSTOM, given, template)
    return Reply(201, documents.custom(platform, row))


def get_script(platform: Platform, request: ApiRequest) -> Reply:
    """GET /scripts/{family}/{id}; below containers custom ones are answered too, as documented."""
    return _shown(platform, request, documents.job_of(platform, request))


def put_script(platform: Platform, request: ApiRequest) -> Reply:
    """PUT /scripts/{family}/{id}: what is not given is reset."""
    row, table = _own(platform, request)
    row = _change(platform, row, table, {}, read(table, request.body))
    return _shown(platform, request, row)


def patch_script(platform: Platform, request: ApiRequest) -> Reply:
    """PATCH /scripts/{family}/{id}: what is not given stays."""
    row, table = _own(platform, request)
    given = read(table, request.body, partial=True)
    return _shown(platform, request, _change(platform, row, table, _before(row), given))


def put_archive(platform: Platform, request: ApiRequest) -> Reply:
    """PUT /scripts/{family}/{id}/archive."""
    row, _ = _own(platform, request)
    status = read(tables.ARCHIVE, request.body)["status"]
    platform.store.update("scripts", row["id"], archived=status, updated_at=platform.now())
    return _shown(platform, request, documents.job_row(platform, row["id"]))


def delete_script(platform: Platform, request: ApiRequest) -> Reply:
    """DELETE /scripts/{family}/{id}, the older spelling of archive."""
    row, _ = _own(platform, request)
    platform.store.update("scripts", row["id"], archived=True, updated_at=platform.now())
    return Reply(204)


def _own(platform: Platform, request: ApiRequest) -> tuple[Row, Table]:
    """Return the script that a path of its own family names, and the fields that it may change."""
    row = documents.job_row(platform, request.id(), request.kind or "container")
    return row, tables.CUSTOM if request.kind else tables.CONTAINER


def _shown(platform: Platform, request: ApiRequest, row: Row) -> Reply:
    return Reply(200, (documents.custom if request.kind else documents.container)(platform, row))


def clone_container(platform: Platform, request: ApiRequest) -> Reply:
    """POST /scripts/containers/{id}/clone."""
    row, _ = _own(platform, request)
    wanted = read(tables.CLONE, request.body)
    given = {**_before(row), "hidden": bool(row["hidden"])}
    given["name"] = f"Clone of Script {row['id']} {row['name']}"
    for flag, name in (("Schedule", "schedule"), ("Triggers", "parentId")):
        if not wanted.get(f"clone{flag}"):
            del given[name]
    if not wanted.get("cloneNotifications"):
        del given["notifications"]
    return Reply(
        201, documents.container(platform, _add(platform, "container", tables.CONTAINER, given))
    )


def create_template(platform: Platform, request: ApiRequest) -> Reply:
    """POST /templates/scripts: publish a container script."""
    given = merge(tables.TEMPLATE, {}, read(tables.TEMPLATE, request.body))
    if platform.store.one(_SCRIPT_OF_KIND, given["scriptId"], "container") is None:
        raise refuse("scriptId does not name a container script")
    now = platform.now()
    key = platform.store.insert(
        "templates",
        script_id=given["scriptId"],
        name=given["name"],
        note=given["note"],
        ui_report_id=given["uiReportId"],
        archived=given["archived"],
        hidden=given["hidden"],
        created_at=now,
        updated_at=now,
    )
    platform.store.update("scripts", given["scriptId"], published_as=key, updated_at=now)
    return Reply(201, documents.template(platform, _template_row(platform, key)))


def get_template(platform: Platform, request: ApiRequest) -> Reply:
    """GET /templates/scripts/{id}."""
    row = platform.store.one("SELECT * FROM templates WHERE id = ?", request.id())
    if row is None:
        raise not_found(f"The template with id {request.id()}")
    return Reply(200, documents.template(platform, row))


_SCRIPT_OF_KIND = "SELECT 1 FROM scripts WHERE id = ? AND kind = ?"


def _template_row(platform: Platform, key: int) -> Row:
    row = platform.store.one("SELECT * FROM templates WHERE id = ?", key)
    if row is None:
        raise refuse("fromTemplateId does not name a template")
    return row


def _before(row: Row) -> dict[str, Any]:
    return {**document(row), "name": row["name"], "parentId": row["parent_id"]}


def _add(
    platform: Platform,
    kind: str,
    table: Table,
    given: Mapping[str, Any],
    template: Row | None = None,
) -> Row:
    doc = _checked(platform, table, {}, given, template)
    now = platform.now()
    with platform.store.transaction():
        key = platform.store.insert(
            "scripts",
            kind=kind,
            name=doc["name"] or "",
            created_at=now,
            updated_at=now,
            hidden=bool(given.get("hidden")),
            parent_id=doc["parentId"],
            template_id=None if template is None else template["id"],
            doc=_packed(doc),
        )
        if not doc["name"]:
            named = f"Script #{key}" if template is None else f"{template['name']} #{key}"
            platform.store.update("scripts", key, name=named)
    return documents.job_row(platform, key)


def rename(platform: Platform, key: int, name: str) -> None:
    """Give a script another name, and nothing else."""
    platform.store.update("scripts", key, name=name, updated_at=platform.now())


def _change(
    platform: Platform, row: Row, table: Table, old: Mapping[str, Any], given: Mapping[str, Any]
) -> Row:
    template, _ = documents.backing(platform, row)
    doc = _checked(platform, table, old, given, template)
    platform.store.update(
        "scripts",
        row["id"],
        name=doc["name"] or f"Script #{row['id']}",
        parent_id=doc["parentId"],
        doc=_packed(doc),
        updated_at=platform.now(),
    )
    return documents.job_row(platform, row["id"])


def _packed(doc: Mapping[str, Any]) -> str:
    return json.dumps({name: value for name, value in doc.items() if name not in OWN_COLUMNS})


def _checked(
    platform: Platform,
    table: Table,
    old: Mapping[str, Any],
    given: Mapping[str, Any],
    template: Row | None,
) -> dict[str, Any]:
    """Return the whole document, or raise 400 for what no table can say."""
    doc = merge(table, old, given)
    if template is None:
        params = doc["params"]
        if doc["dockerImageName"] and not doc["dockerImageTag"]:
            doc["dockerImageTag"] = "latest"  # the Platform fills in a tag too
    else:
        params = document(documents.job_row(platform, template["script_id"]))["params"]
    problems = [*_param_problems(params), *_argument_problems(params, doc["arguments"])]
    parent = doc["parentId"]
    if parent is not None and not platform.store.one("SELECT 1 FROM scripts WHERE id = ?", parent):
        problems.append("parentId does not name a job")
    if problems:
        raise refuse(*problems)
    return doc


def _param_problems(params: list[dict[str, Any]]) -> list[str]:
    problems = []
    seen: set[str] = set()
    for param in params:
        name = param["name"]
        if param["required"] and param["default"] is not None:
            # The words are the Platform's own, as recorded.
            text = f"Code.Parameters {name} cannot have a default value since it is required."
            problems.append(text)
        if not PARAM_NAME.fullmatch(name):
            problems.append(f"Code.Parameters {name} is not a valid name")
        if name.upper() in tables.RESERVED_NAMES:
            problems.append(f"Code.Parameters {name} is a reserved name")
        if name.upper() in seen:
            problems.append(f"Code.Parameters {name} is duplicated")
        seen.add(name.upper())
    return problems


def _argument_problems(params: list[dict[str, Any]], arguments: Mapping[str, Any]) -> list[str]:
    known = {param["name"] for param in params}
    return [f"Arguments {name} is not a defined param" for name in arguments if name not in known]


def check_complete(doc: Mapping[str, Any]) -> None:
    """Refuse to run a script whose required params have no value.

    Checked at the start of a run and not at creation: a script that is to be published as a
    template is created without arguments (and the recorded 400 for params does not name it).
    """
    missing = [
        f"Arguments {param['name']} is missing"
        for param in doc["params"]
        if param["required"]
        and param["value"] is None
        and doc["arguments"].get(param["name"]) is None
    ]
    if missing:
        raise refuse(*missing)
