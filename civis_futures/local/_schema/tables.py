"""The fields of every body that the API accepts: names, types and what is required, from the cut of
the official spec beside this module; defaults, bounds and choices, which no spec says, from here.

Data only. What a table cannot say (a param that is required and has a default, ...) is in the
module that uses it.
"""

from __future__ import annotations

import json
from importlib import resources
from typing import Any

from .fields import Field, Table

SPEC = resources.files(__package__).joinpath("spec.json").read_bytes()

# Names that the Platform sets itself or that would break the command (help centre).
RESERVED_NAMES = frozenset({
    "PATH", "HOME", "HOSTNAME", "PWD", "CIVIS_API_KEY", "DATABASE", "RUNNER_USER", "RUNNER_USER_ID",
})  # fmt: skip

_LEVELS = ("unknown", "fatal", "error", "warn", "info", "debug")
_OUTPUT_TYPES = ("File", "Table", "Report", "Project", "Credential", "JSONValue")
_PARAM_TYPES = (
    "string", "multi_line_string", "integer", "float", "bool", "file", "table", "database",
    "credential_aws", "credential_redshift", "credential_custom",
)  # fmt: skip
# What is true of every property of this name; or of one definition's alone, then instead of it.
# The default is what stands in a document where nothing was given: null if not said here, and an
# empty list or object if it is one.
UNSAID: dict[str, dict[str, Any]] = {
    "userContext": {"default": "runner", "choices": ("runner", "author")},
    "CustomScriptCreateRequest.requiredResources": {"default": None},
    "CustomScriptUpdateRequest.requiredResources": {"default": None},
    "cpu": {"least": 2},  # millicores
    "memory": {"least": 4},  # MB
    "ScriptRequiredResourcesCreateRequest.diskSpace": {"default": 1.0},  # GB
    "cancelTimeout": {"default": 0, "least": 0},  # seconds
    "timeZone": {"default": "America/Chicago"},
    "hidden": {"default": False},
    "archived": {"default": False},
    "successOn": {"default": True},
    "failureOn": {"default": True},
    "ScriptParamCreateRequest.type": {"choices": _PARAM_TYPES},
    "ScriptParamCreateRequest.required": {"default": False},
    # The spec says string; the Platform takes and gives what the param's own type is.
    "ScriptParamCreateRequest.value": {"kind": "any"},
    "ScriptParamCreateRequest.default": {"kind": "any"},
    "level": {"default": "info", "choices": _LEVELS},
    "objectType": {"choices": _OUTPUT_TYPES},
    "numParts": {"least": 1},
    "FilePostCreateRequest.description": {"longest": 512},  # characters
    "FileMultipartFilePostParamsCreateRequest.description": {"longest": 512},
    "FilePutPatchParamsPatchRequest.description": {"longest": 512},
}
_DEFINITIONS = json.loads(SPEC)["definitions"]
_KINDS = {
    ("string", None): "text",
    ("string", "date-time"): "time",
    ("integer", None): "integer",
    ("number", "float"): "number",
    ("boolean", None): "bool",
    ("object", None): "mapping",
}
_LISTS = {"text": "texts", "integer": "integers", "mapping": "array"}  # of values of these kinds


def _table(definition: str) -> Table:
    """Return the fields of one definition of the spec."""
    schema = _DEFINITIONS[definition]
    required = schema.get("required", ())
    return {
        name: _field(definition, name, said, required=name in required)
        for name, said in schema["properties"].items()
    }


def _field(definition: str, name: str, said: dict[str, Any], *, required: bool) -> Field:
    many = said.get("type") == "array"
    kind = _kind(said["items"] if many else said)
    default: Any = [] if many else {} if kind == "mapping" or "$ref" in said else None
    if many and isinstance(kind, str):
        kind, many = _LISTS[kind], False
    found = {"kind": kind, "default": default, "required": required, "many": many}
    return Field(**found | UNSAID.get(f"{definition}.{name}", UNSAID.get(name, {})))


def _kind(said: dict[str, Any]) -> str | Table:
    if "$ref" in said:
        return _table(said["$ref"].removeprefix("#/definitions/"))
    return _KINDS[said["type"], said.get("format")]


CONTAINER = _table("ContainerScriptUpdateRequest")
NEW_CONTAINER: Table = {**CONTAINER, **_table("ContainerScriptCreateRequest")}
CLONE = _table("ScriptCloneParamsCreateRequest")
CUSTOM = _table("CustomScriptUpdateRequest")
NEW_CUSTOM: Table = {**CUSTOM, **_table("CustomScriptCreateRequest")}
ARCHIVE = _table("ArchiveUpdateRequest23")
TEMPLATE = _table("ScriptTemplateCreateRequest")
LOG = _table("ScriptRunLogCreateRequest")
OUTPUT = _table("JobOutputCreateRequest")
NEW_FILE = _table("FilePostCreateRequest")
NEW_MULTIPART = _table("FileMultipartFilePostParamsCreateRequest")
FILE_CHANGE = _table("FilePutPatchParamsPatchRequest")
NEW_JSON_VALUE = _table("JsonValueCreateRequest")
JSON_VALUE_CHANGE = _table("JsonValuePatchRequest")
