"""Bodies in, documents out: which fields the API has, what they may be and what they default to.

The tables are in the API's own camelCase; a body may spell a field in camelCase or snake_case.
A document is stored and returned under the camelCase names, so nothing is ever re-cased, and the
user's own keys (`arguments`, names of params) pass untouched. Unknown keys are ignored. Everything
wrong with a body is collected into one answer in the Platform's 400 form. This module knows nothing
of HTTP or of the store.
"""

from __future__ import annotations

import dataclasses
import datetime
import functools
import re
from collections.abc import Callable, Mapping
from typing import Any

from .exchange import ApiError


@functools.lru_cache(maxsize=1024)
def snake(name: str) -> str:
    """Return `someName` as `some_name`."""
    return re.sub(r"(?<=[a-z0-9])([A-Z])", lambda match: "_" + match[1].lower(), name)


def refuse(*problems: str) -> ApiError:
    """Return the error that the Platform gives for a body that does not fit."""
    said = "The given request was not as expected: Validation failed: " + ", ".join(problems)
    return ApiError(400, "bad_request", said)


@functools.lru_cache(maxsize=10_000)  # most of what a list shows has been shown before
def iso(moment: float | None, *, whole_seconds: bool = False) -> str | None:
    """Return seconds since the epoch as the API writes a time."""
    if moment is None:
        return None
    if whole_seconds:
        moment = int(moment)
    stamp = datetime.datetime.fromtimestamp(moment, datetime.UTC)
    return stamp.strftime("%Y-%m-%dT%H:%M:%S.") + f"{stamp.microsecond // 1000:03d}Z"


def moment(value: Any) -> float:
    """Return the time that a client wrote; a naive one is UTC, as recorded from the Platform."""
    if not isinstance(value, str):
        raise ValueError(value)
    # The Platform reads nanoseconds, Python's parser at most microseconds.
    stamp = datetime.datetime.fromisoformat(re.sub(r"(\.\d{6})\d+", r"\1", value.strip()))
    if stamp.tzinfo is None:
        stamp = stamp.replace(tzinfo=datetime.UTC)
    return stamp.timestamp()


def _text(value: Any) -> str:
    if isinstance(value, bool) or not isinstance(value, str | int | float):
        raise ValueError(value)
    return str(value)


def _integer(value: Any) -> int:
    if isinstance(value, bool) or not isinstance(value, int | float | str) or value != value:
        raise ValueError(value)
    number = int(value)
    if isinstance(value, float) and number != value:
        raise ValueError(value)
    if abs(number) >= 2**63:  # more than the store can hold
        raise ValueError(value)
    return number


def _number(value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        raise ValueError(value)
    return float(value)


def truth(value: Any) -> bool:
    """Return a boolean as a body or a query may spell it."""
    if isinstance(value, bool):
        return value
    known = {"true": True, "1": True, "false": False, "0": False}
    if isinstance(value, str | int) and str(value).lower() in known:
        return known[str(value).lower()]
    raise ValueError(value)


def _mapping(value: Any) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise ValueError(value)
    return value


def _array(value: Any) -> list[Any]:
    if not isinstance(value, list):
        raise ValueError(value)
    return value


KINDS: dict[str, Callable[[Any], Any]] = {
    "text": _text,
    "integer": _integer,
    "number": _number,
    "bool": truth,
    "mapping": _mapping,
    "texts": lambda value: [_text(item) for item in _array(value)],
    "integers": lambda value: [_integer(item) for item in _array(value)],
    "array": _array,
    "time": moment,
    "any": lambda value: value,
}


@dataclasses.dataclass(frozen=True)
class Field:
    """One field of a body: what it may be, and what stands there when it is not given."""

    kind: str | Mapping[str, Field]
    default: Any = None
    required: bool = False
    many: bool = False
    choices: tuple[str, ...] = ()
    least: float | None = None
    longest: int | None = None


Table = Mapping[str, Field]


def read(table: Table, body: Mapping[str, Any], *, partial: bool = False) -> dict[str, Any]:
    """Return the fields that a body gives, under their camelCase names; None where it says null.

    With `partial` a required field may be missing (PATCH).
    """
    problems: list[str] = []
    values = _read(table, body, partial, "", problems)
    if problems:
        raise refuse(*problems)
    return values


def _read(
    table: Table, body: Mapping[str, Any], partial: bool, path: str, problems: list[str]
) -> dict[str, Any]:
    values: dict[str, Any] = {}
    for name, field in table.items():
        given = name if name in body else snake(name)
        value = body.get(given)
        if value is None:
            if given in body:
                values[name] = None
            if field.required and (given in body or not partial):
                problems.append(f"{path}{name} is missing")
            continue
        try:
            values[name] = _value(field, value, partial, f"{path}{name}", problems)
        except (ValueError, OverflowError):
            problems.append(f"{path}{name} is invalid")
    return values


def _value(field: Field, value: Any, partial: bool, path: str, problems: list[str]) -> Any:
    if isinstance(field.kind, str):
        found = KINDS[field.kind](value)
        if field.choices and found not in field.choices:
            problems.append(f"{path} does not have a valid value")
        if field.least is not None and found < field.least:
            problems.append(f"{path} must be greater than or equal to {field.least:g}")
        if field.longest is not None and len(found) > field.longest:
            problems.append(f"{path} is too long (maximum is {field.longest} characters)")
        return found
    if not field.many:
        return _read(field.kind, _mapping(value), partial, f"{path}.", problems)
    rows = [
        _read(field.kind, _mapping(item), False, f"{path}[{index}].", problems)
        for index, item in enumerate(_array(value))
    ]
    return [{**defaults(field.kind), **row} for row in rows]


def defaults(table: Table) -> dict[str, Any]:
    """Return a document in which nothing was given."""
    return merge(table, {}, {})


def merge(table: Table, old: Mapping[str, Any], given: Mapping[str, Any]) -> dict[str, Any]:
    """Return `old` with what was `given`; null, or never given, is the field's default."""
    merged: dict[str, Any] = {}
    for name, field in table.items():
        value = given.get(name) if name in given else old.get(name)
        if isinstance(field.kind, str) or field.many:
            merged[name] = field.default if value is None else value
        elif value is None:
            merged[name] = None if field.default is None else defaults(field.kind)
        else:
            before = old.get(name) or {}
            merged[name] = merge(field.kind, before, given.get(name) or {})
    return merged
