"""What the platform's JSON says: from decoded bodies to values of `_types`, and back for moments.

Pure. A body that lacks what is needed raises ArithmeticError, AttributeError, LookupError,
TypeError or ValueError, of which the client makes an error of ours. Where it may add words
(run states), any is taken. This module must not know HTTP.
"""

from __future__ import annotations

import json
from datetime import UTC, datetime
from typing import Any

from .._types import Job, JobKind, JobRow, LogLine, Output, Run, RunState, StoredFile

_STATES = {state.value: state for state in RunState} | {"success": RunState.SUCCEEDED}


def array(value: Any) -> list[Any]:
    """`value`, which must be an array."""
    if not isinstance(value, list):
        raise TypeError(f"an array was expected, not {type(value).__name__}")
    return value


def integer(value: Any) -> int:
    """`value`, which must be a whole number."""
    if isinstance(value, bool) or not isinstance(value, int):
        raise TypeError(f"a whole number was expected, not {type(value).__name__}")
    return value


def number(value: Any) -> float | None:
    """`value` if it is a number that can be of anything; else None."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value < 1e15:
        return None
    return float(value)


def text(value: Any) -> str:
    """`value`, which must be a string that is not empty."""
    if not isinstance(value, str) or not value:
        raise TypeError(f"a text was expected, not {type(value).__name__}")
    return value


def document(value: Any) -> dict[str, Any]:
    """An object as a whole: one that has an id."""
    identity(value)
    return dict(value)


def template_script(value: Any) -> Job:
    """The script that a template is made from."""
    return Job(integer(value["scriptId"]), JobKind.CONTAINER)


def identity(value: Any) -> int:
    """The id of any object."""
    return integer(value["id"])


def run(value: Any) -> Run:
    """A run, of the scripts endpoints or as the ``lastRun`` of a row."""
    said = str(value["state"])
    error = value.get("error")
    return Run(
        id=identity(value),
        state=_STATES.get(said, RunState.UNKNOWN),
        said=said,
        created=seconds(value.get("createdAt")),
        started=seconds(value.get("startedAt")),
        finished=seconds(value.get("finishedAt")),
        error=None if error is None else str(error),
        max_memory=number(value.get("maxMemoryUsage")),
    )


def job_row(value: Any) -> JobRow:
    """A row of a list of jobs or scripts. Outputs are taken out: each is told once."""
    last, outputs = value["lastRun"], value.pop("outputs", ())
    told = tuple(map(output, outputs))
    return JobRow(identity(value), str(value["name"]), None if last is None else run(last), told)


def output(value: Any) -> Output:
    """An output of a run."""
    object_id = integer(value["objectId"])
    return Output(value["objectType"], object_id, str(value.get("name")), value.get("value"))


def log_line(value: Any) -> LogLine:
    """A line of a log."""
    level = str(value.get("level") or "unknown")
    return LogLine(identity(value), str(value["createdAt"]), level, str(value["message"] or ""))


def json_value(value: Any) -> Any:
    """What a JSON value holds, decoded."""
    return value["value"]


def upload_form(value: Any) -> tuple[int, str, dict[str, str]]:
    """A new File: its id, where to post it, and the fields of the form."""
    fields = {name: str(field) for name, field in value["uploadFields"].items()}
    return identity(value), text(value["uploadUrl"]), fields


def upload_parts(value: Any) -> tuple[int, list[str]]:
    """A new File: its id, and where to put each part."""
    return identity(value), [text(url) for url in array(value["uploadUrls"])]


def file_link(value: Any) -> tuple[str | None, int | None]:
    """Where to get a File (None: it is empty or has expired), and its size if it is known."""
    url, size = value["fileUrl"], value.get("fileSize")
    return text(url) if url else None, size if isinstance(size, int) and size > 0 else None


def stored_file(value: Any) -> StoredFile:
    """A File as it is; one that is empty or has expired has no link."""
    url, size = file_link(value)
    return StoredFile(str(value["name"]), size, seconds(value.get("expiresAt")), url is not None)


def seconds(moment: Any) -> float | None:
    """Seconds since the epoch of an ISO 8601 text; None for what is none. No offset means UTC."""
    try:
        when = datetime.fromisoformat(moment)
    except (TypeError, ValueError):
        return None
    return (when if when.tzinfo else when.replace(tzinfo=UTC)).timestamp()


def moment(when: datetime) -> str:
    """`when` as the platform gets it: always with its offset, as it takes a bare time for UTC."""
    if when.tzinfo is None:
        raise ValueError("a time without a zone does not say when it is")
    return when.astimezone(UTC).isoformat(timespec="seconds")


def reason(body: str, otherwise: str) -> str:
    """Why the platform refused, in its words if `body` is its JSON."""
    try:
        value = json.loads(body)
    except (ValueError, RecursionError):
        return otherwise
    if not isinstance(value, dict):
        return otherwise
    return str(value.get("errorDescription") or value.get("error") or otherwise)[:2000]
