"""JSON values, the user, the spec, and our own two endpoints that look at the platform itself."""

from __future__ import annotations

import functools
import importlib.util
import json
from pathlib import Path
from typing import Any, NoReturn

from .._schema import tables
from .._schema.exchange import ApiError, Ask, Reply, not_found
from .._schema.fields import read, refuse
from .._settings import MAX_JSON_VALUE_BYTES
from .._site import USER, Site
from .._store import Row
from . import documents

ME: dict[str, Any] = {
    **{name: USER[name] for name in ("id", "name", "username", "initials")},
    "email": "localuser@localhost",
    "lastCheckedAnnouncements": "2026-01-01T00:00:00.000Z",
    "featureFlags": {},
    "roles": ["sdm"],
    "preferences": {
        "default_success_notifications_on": True,
        "default_failure_notifications_on": True,
        "query_preview_rows": 50,
    },
    "customBranding": None,
    "primaryGroupId": 7,
    "groups": [
        {
            "id": 7,
            "name": "Local Group",
            "slug": "local_group",
            "organizationId": 1,
            "organizationName": "Local Organization",
        }
    ],
    "organizationName": "Local Organization",
    "organizationSlug": "local_organization",
    "organizationDefaultThemeId": None,
    "createdAt": "2026-01-01T00:00:00.000Z",
    "signInCount": 0,
    "assumingRole": False,
    "roleAssumer": {},
    "assumingAdmin": False,
    "assumingAdminExpiration": None,
    "superadminModeExpiration": None,
    "disableNonCompliantFedrampFeatures": False,
    "personaRole": None,
    "createdById": None,
    "lastUpdatedById": None,
}


def get_me(_site: Site, _ask: Ask) -> Reply:
    """GET /users/me: there is one user."""
    return Reply(200, ME)


def get_endpoints(_site: Site, _ask: Ask) -> Reply:
    """GET /endpoints: the official spec if the official client is here, else our cut of it."""
    return Reply(200, raw=_spec())


@functools.cache
def _spec() -> bytes:
    official = importlib.util.find_spec("civis")
    for folder in (official and official.submodule_search_locations) or []:
        path = Path(folder) / "resources" / "civis_api_spec.json"
        if path.exists():
            return path.read_bytes()
    return tables.SPEC


def get_notifications(_site: Site, _ask: Ask) -> Reply:
    """GET /notifications: its payload is undocumented, so nothing here pretends to know it."""
    said = "The local platform has no notifications."
    raise ApiError(501, "not_implemented", said)


def _constant(name: str) -> NoReturn:
    raise ValueError(name)


def _checked(text: str) -> str:
    if len(text.encode()) > MAX_JSON_VALUE_BYTES:
        raise refuse(f"valueStr is too large (maximum is {MAX_JSON_VALUE_BYTES} bytes)")
    try:
        json.loads(text, parse_constant=_constant)
    except (ValueError, RecursionError):
        raise refuse("valueStr is not valid JSON") from None
    return text


def _value_row(site: Site, key: int) -> Row:
    row = site.store.one("SELECT * FROM json_values WHERE id = ?", key)
    if row is None:
        raise not_found(f"The JSON value with id {key}")
    return row


def create_json_value(site: Site, ask: Ask) -> Reply:
    """POST /json_values."""
    given = read(tables.NEW_JSON_VALUE, ask.body)
    value = _checked(given["valueStr"])
    key = site.store.insert("json_values", name=given.get("name"), value=value)
    return Reply(201, documents.json_value(_value_row(site, key)))


def get_json_value(site: Site, ask: Ask) -> Reply:
    """GET /json_values/{id}."""
    return Reply(200, documents.json_value(_value_row(site, ask.id())))


def patch_json_value(site: Site, ask: Ask) -> Reply:
    """PATCH /json_values/{id}: the last write wins."""
    row = _value_row(site, ask.id())
    given = read(tables.JSON_VALUE_CHANGE, ask.body)
    if given.get("valueStr") is not None:
        site.store.update("json_values", row["id"], value=_checked(given["valueStr"]))
    if "name" in given:
        site.store.update("json_values", row["id"], name=given["name"])
    return Reply(200, documents.json_value(_value_row(site, row["id"])))
