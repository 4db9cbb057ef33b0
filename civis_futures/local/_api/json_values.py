"""JSON values: made, read and changed."""

from __future__ import annotations

import json
from typing import NoReturn

from .._schema import tables
from .._schema.exchange import ApiRequest, Reply, not_found
from .._schema.fields import read, refuse
from .._settings import MAX_JSON_VALUE_BYTES
from .._state import Platform
from .._store import Row
from . import documents


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


def _value_row(platform: Platform, key: int) -> Row:
    row = platform.store.one("SELECT * FROM json_values WHERE id = ?", key)
    if row is None:
        raise not_found(f"The JSON value with id {key}")
    return row


def create_json_value(platform: Platform, request: ApiRequest) -> Reply:
    """POST /json_values."""
    given = read(tables.NEW_JSON_VALUE, request.body)
    value = _checked(given["valueStr"])
    key = platform.store.insert("json_values", name=given.get("name"), value=value)
    return Reply(201, {"id": key}, raw=documents.json_value(_value_row(platform, key)))


def get_json_value(platform: Platform, request: ApiRequest) -> Reply:
    """GET /json_values/{id}."""
    return Reply(200, raw=documents.json_value(_value_row(platform, request.id())))


def patch_json_value(platform: Platform, request: ApiRequest) -> Reply:
    """PATCH /json_values/{id}: the last write wins."""
    row = _value_row(platform, request.id())
    given = read(tables.JSON_VALUE_CHANGE, request.body)
    if given.get("valueStr") is not None:
        platform.store.update("json_values", row["id"], value=_checked(given["valueStr"]))
    if "name" in given:
        platform.store.update("json_values", row["id"], name=given["name"])
    return Reply(200, raw=documents.json_value(_value_row(platform, row["id"])))
