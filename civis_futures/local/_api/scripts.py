"""Container scripts, custom scripts and templates: what a run will be, before it is one."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any

from .._schema import tables
from .._schema.exchange import Ask, Reply, not_found
from .._schema.fields import Table, merge, read, refuse
from .._site import Site
from .._store import Row, document
from . import documents

OWN_COLUMNS = ("name", "parentId", "hidden")
PARAM_NAME = re.compile(r"[A-Za-z0-9]([A-Za-z0-9_]*[A-Za-z0-9])?", re.ASCII)


def create_container(site: Site, ask: Ask) -> Reply:
    """POST /scripts/containers."""
    given = read(tables.NEW_CONTAINER, ask.body)
    row = _add(site, "container", tables.CONTAINER, given)
    return Reply(201, documents.container(site, row))


def get_container(site: Site, ask: Ask) -> Reply:
    """GET /scripts/containers/{id}; a custom script answers here too, as on the Platform."""
    return Reply(200, documents.container(site, documents.job_row(site, ask.id())))


def put_container(site: Site, ask: Ask) -> Reply:
    """PUT /scripts/containers/{id}: what is not given is reset."""
    row = documents.job_row(site, ask.id(), "container")
    row = _change(site, row, tables.CONTAINER, {}, read(tables.CONTAINER, ask.body))
    return Reply(200, documents.container(site, row))


def patch_container(site: Site, ask: Ask) -> Reply:
    """PATCH /scripts/containers/{id}: what is not given stays."""
    row = documents.job_row(site, ask.id(), "container")
    given = read(tables.CONTAINER, ask.body, partial=True)
    row = _change(site, row, tables.CONTAINER, _before(row), given)
    return Reply(200, documents.container(site, row))


def clone_container(site: Site, ask: Ask) -> Reply:
    """POST /scripts/containers/{id}/clone."""
    row = documents.job_row(site, ask.id(), "container")
    wanted = read(tables.CLONE, ask.body)
    given = {**_before(row), "hidden": bool(row["hidden"])}
    given["name"] = f"Clone of Script {row['id']} {row['name']}"
    for flag, name in (("Schedule", "schedule"), ("Triggers", "parentId")):
        if not wanted.get(f"clone{flag}"):
            del given[name]
    if not wanted.get("cloneNotifications"):
        del given["notifications"]
    return Reply(201, documents.container(site, _add(site, "container", tables.CONTAINER, given)))


def archive(kind: str) -> Any:
    """Return the endpoint PUT /scripts/{kind}/{id}/archive."""
    show = documents.container if kind == "container" else documents.custom

    def put_archive(site: Site, ask: Ask) -> Reply:
        row = documents.job_row(site, ask.id(), kind)
        status = read(tables.ARCHIVE, ask.body)["status"]
        site.store.update("scripts", row["id"], archived=status, updated_at=site.now())
        return Reply(200, show(site, documents.job_row(site, row["id"])))

    return put_archive


def delete(kind: str) -> Any:
    """Return the endpoint DELETE /scripts/{kind}/{id}, the older spelling of archive."""

    def delete_script(site: Site, ask: Ask) -> Reply:
        row = documents.job_row(site, ask.id(), kind)
        site.store.update("scripts", row["id"], archived=True, updated_at=site.now())
        return Reply(204)

    return delete_script


def create_custom(site: Site, ask: Ask) -> Reply:
    """POST /scripts/custom."""
    given = read(tables.NEW_CUSTOM, ask.body)
    template = _template_row(site, given["fromTemplateId"])
    row = _add(site, "custom", tables.CUSTOM, given, template)
    return Reply(201, documents.custom(site, row))


def get_custom(site: Site, ask: Ask) -> Reply:
    """GET /scripts/custom/{id}."""
    return Reply(200, documents.custom(site, documents.job_row(site, ask.id(), "custom")))


def put_custom(site: Site, ask: Ask) -> Reply:
    """PUT /scripts/custom/{id}: what is not given is reset."""
    row = documents.job_row(site, ask.id(), "custom")
    row = _change(site, row, tables.CUSTOM, {}, read(tables.CUSTOM, ask.body))
    return Reply(200, documents.custom(site, row))


def patch_custom(site: Site, ask: Ask) -> Reply:
    """PATCH /scripts/custom/{id}: what is not given stays."""
    row = documents.job_row(site, ask.id(), "custom")
    row = _change(site, row, tables.CUSTOM, _before(row), read(tables.CUSTOM, ask.body))
    return Reply(200, documents.custom(site, row))


def create_template(site: Site, ask: Ask) -> Reply:
    """POST /templates/scripts: publish a container script."""
    given = merge(tables.TEMPLATE, {}, read(tables.TEMPLATE, ask.body))
    if site.store.one(_SCRIPT_OF_KIND, given["scriptId"], "container") is None:
        raise refuse("scriptId does not name a container script")
    now = site.now()
    key = site.store.insert(
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
    site.store.update("scripts", given["scriptId"], published_as=key, updated_at=now)
    return Reply(201, documents.template(site, _template_row(site, key)))


def get_template(site: Site, ask: Ask) -> Reply:
    """GET /templates/scripts/{id}."""
    row = site.store.one("SELECT * FROM templates WHERE id = ?", ask.id())
    if row is None:
        raise not_found(f"The template with id {ask.id()}")
    return Reply(200, documents.template(site, row))


_SCRIPT_OF_KIND = "SELECT 1 FROM scripts WHERE id = ? AND kind = ?"


def _template_row(site: Site, key: int) -> Row:
    row = site.store.one("SELECT * FROM templates WHERE id = ?", key)
    if row is None:
        raise refuse("fromTemplateId does not name a template")
    return row


def _before(row: Row) -> dict[str, Any]:
    return {**document(row), "name": row["name"], "parentId": row["parent_id"]}


def _add(
    site: Site, kind: str, table: Table, given: Mapping[str, Any], template: Row | None = None
) -> Row:
    doc = _checked(site, table, {}, given, template)
    now = site.now()
    with site.store.transaction():
        key = site.store.insert(
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
            site.store.update("scripts", key, name=named)
    return documents.job_row(site, key)


def _change(
    site: Site, row: Row, table: Table, old: Mapping[str, Any], given: Mapping[str, Any]
) -> Row:
    template, _ = documents.backing(site, row)
    doc = _checked(site, table, old, given, template)
    site.store.update(
        "scripts",
        row["id"],
        name=doc["name"] or f"Script #{row['id']}",
        parent_id=doc["parentId"],
        doc=_packed(doc),
        updated_at=site.now(),
    )
    return documents.job_row(site, row["id"])


def _packed(doc: Mapping[str, Any]) -> str:
    return json.dumps({name: value for name, value in doc.items() if name not in OWN_COLUMNS})


def _checked(
    site: Site,
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
        params = document(documents.job_row(site, template["script_id"]))["params"]
    problems = [*_param_problems(params), *_argument_problems(params, doc["arguments"])]
    parent = doc["parentId"]
    if parent is not None and not site.store.one("SELECT 1 FROM scripts WHERE id = ?", parent):
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
