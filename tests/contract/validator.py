"""Hold what a local platform answered against the official spec that ships with `civis`.

`validate_record(path)` reads a record (`LocalPlatform(record=...)`) and returns what is wrong, a
line each. Everything may be null, although Swagger 2 cannot say so; a key that the spec does not
have is a problem as well. Where the Platform itself is known to answer otherwise than its spec
says, the table `TRAPS` says so, and why; nothing else is allowed.
"""

from __future__ import annotations

import functools
import importlib.util
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jsonschema

# (definition, property) -> schema that the Platform really fulfils.
ANYTHING: dict[str, Any] = {}
TRAPS: dict[tuple[str, str], dict[str, Any]] = {
    # `value` is any JSON (8 and objects are recorded), the spec says string.
    ("JsonValue", "value"): ANYTHING,
    ("JobOutput", "value"): ANYTHING,
    ("JobOutput6", "value"): ANYTHING,
    ("JobOutputSummary7", "value"): ANYTHING,
    # A default is recorded as a boolean, so it has its param's type; the spec says string.
    ("ScriptParam", "default"): ANYTHING,
    ("ScriptParam", "value"): ANYTHING,
    # `archived` is a boolean, the spec says string.
    ("ContainerScript", "archived"): {"type": "boolean"},
    ("CustomScript", "archived"): {"type": "boolean"},
    ("CustomScriptSummary", "archived"): {"type": "boolean"},
    ("ScriptSummary", "archived"): {"type": "boolean"},
    ("Job", "archived"): {"type": "boolean"},
    ("JobSummary", "archived"): {"type": "boolean"},
}
# Keys that came with civis 2.10's spec, for whoever tests with 2.9's.
NEWER = {"Job": ("lastRunUpdatedAt",), "JobSummary": ("lastRunUpdatedAt",)}
# Arrays that the spec calls objects.
ARRAYS = frozenset({("GET", "/jobs/{id}/children"), ("GET", "/jobs/{id}/parents")})
UNDESCRIBED = frozenset({"/endpoints"})  # their answers have no schema


@functools.cache
def _spec() -> dict[str, Any]:
    found = importlib.util.find_spec("civis")
    assert found is not None
    assert found.submodule_search_locations is not None
    path = Path(found.submodule_search_locations[0]) / "resources" / "civis_api_spec.json"
    spec: dict[str, Any] = json.loads(path.read_text())
    return spec


def _nullable(schema: Any, definition: str | None = None) -> Any:
    """Return a schema that allows null everywhere and no unknown keys."""
    if not isinstance(schema, dict):
        return schema
    if "$ref" in schema:
        return {"anyOf": [{"$ref": schema["$ref"]}, {"type": "null"}]}
    new = {name: value for name, value in schema.items() if name in ("required", "items")}
    if isinstance(schema.get("type"), str):
        new["type"] = [schema["type"], "null"]
    if "enum" in schema:
        new["enum"] = [*schema["enum"], None]
    if "items" in schema:
        new["items"] = _nullable(schema["items"])
    if "properties" in schema:
        new["properties"] = {
            name: _nullable(TRAPS.get((definition or "", name), value))
            for name, value in schema["properties"].items()
        }
        new["properties"].update(dict.fromkeys(NEWER.get(definition or "", ()), ANYTHING))
        new["additionalProperties"] = False
    return new


@functools.cache
def _definitions() -> dict[str, Any]:
    return {name: _nullable(schema, name) for name, schema in _spec()["definitions"].items()}


@functools.cache
def _operation(method: str, path: str) -> tuple[str, dict[str, Any]] | None:
    """Return the template and the operation of a path, with or without a slash at its end."""
    wanted = path.strip("/").split("/")
    for template, operations in _spec()["paths"].items():
        parts = template.strip("/").split("/")
        fits = len(parts) == len(wanted) and all(
            have.isdigit() if part.startswith("{") else part == have
            for part, have in zip(parts, wanted, strict=True)
        )
        if fits and method.lower() in operations:
            return template.rstrip("/"), operations[method.lower()]
    return None


def validate_record(path: str | Path) -> list[str]:
    """Return every way in which the recorded answers differ from the official spec."""
    seen: set[Any] = set()
    problems = []
    with Path(path).open() as lines:
        for number, line in enumerate(lines, 1):
            exchange = json.loads(line)
            asked = re.sub(r"\d+", "1", exchange["path"])
            shape = _shape(exchange["response_body"])
            key = (exchange["kind"], exchange["method"], asked, exchange["status"], shape)
            if key not in seen:
                seen.add(key)
                problems += [f"line {number}: {problem}" for problem in _problems(exchange)]
    return problems


@functools.cache
def _enumerated() -> frozenset[str]:
    """Return the names of all properties that have only certain values."""
    return frozenset(
        name
        for definition in _spec()["definitions"].values()
        for name, schema in definition.get("properties", {}).items()
        if "enum" in schema or "enum" in schema.get("items", {})
    )


def _shape(body: Any, name: str = "") -> Any:
    """Return all that a schema of this spec looks at: keys, types, and values of enumerations.

    Thousands of answers have a few dozen shapes; each is validated once.
    """
    if isinstance(body, dict):
        return frozenset((key, _shape(value, key)) for key, value in body.items())
    if isinstance(body, list):
        return ("list", frozenset(_shape(item, name) for item in body))
    return body if isinstance(body, str) and name in _enumerated() else type(body).__name__


def _problems(exchange: dict[str, Any]) -> Iterator[str]:
    status = exchange["status"]
    if exchange["kind"] != "api" or not 200 <= status < 300:
        return
    asked = f"{exchange['method']} {exchange['path']}"
    found = _operation(exchange["method"], exchange["path"])
    if found is None:
        yield f"{asked}: not in the spec"
        return
    template, operation = found
    response = operation["responses"].get(str(status))
    if response is None:
        yield f"{asked}: the spec knows no status {status}"
        return
    body, schema = exchange["response_body"], response.get("schema")
    if template in UNDESCRIBED:
        return
    if schema is None:
        if body is not None:
            yield f"{asked}: the spec has no body for {status}"
        return
    schema = _nullable(schema)
    if (exchange["method"], template) in ARRAYS:
        schema = {"type": "array", "items": schema}
    elif body is None:
        yield f"{asked}: there is no body"
        return
    validator = jsonschema.Draft4Validator({**schema, "definitions": _definitions()})
    for error in validator.iter_errors(body):
        yield f"{asked}: {_said(error)}"


def _said(error: jsonschema.ValidationError) -> str:
    """Return the innermost reason: that of an anyOf with null says nothing by itself."""
    while error.context:
        error = max(error.context, key=lambda inner: len(inner.absolute_path))
    return f"{error.json_path}: {error.message[:300]}"
