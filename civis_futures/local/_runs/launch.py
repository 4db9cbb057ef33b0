"""What a run needs to start: its command, its environment, its limits. It starts nothing."""

from __future__ import annotations

import json
import shlex
from collections.abc import Iterator, Mapping
from typing import Any

from .._api import documents
from .._api.files import download_url
from .._places.place import LaunchPlan
from .._state import Platform
from .._storage.links import DOWNLOAD_SECONDS

DUMMY = "local-dummy"  # there are no credentials here


def make_plan(platform: Platform, run_id: int) -> LaunchPlan:
    """Return what to start for a run, by its script as it is now."""
    row = platform.store.one("SELECT script_id FROM runs WHERE id = ?", run_id)
    assert row is not None
    job = documents.job_row(platform, row["script_id"])
    doc = documents.effective(platform, job)
    image = doc["dockerImageName"]
    return LaunchPlan(
        run_id=run_id,
        job_id=job["id"],
        command=doc["dockerCommand"],
        environment={
            **platform.settings.environment,
            **dict(_variables(platform, doc)),
            "CIVIS_JOB_ID": str(job["id"]),
            "CIVIS_RUN_ID": str(run_id),
            # Not so on the Platform: there the default address is the right one.
            **platform.way_here(),
        },
        cpu=doc["requiredResources"]["cpu"],
        memory=doc["requiredResources"]["memory"],
        cancel_timeout=doc["cancelTimeout"],
        image=f"{image}:{doc['dockerImageTag'] or 'latest'}" if image else None,
        repository=doc["repoHttpUri"],
        reference=doc["repoRef"],
    )


def _variables(platform: Platform, doc: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """Give each param that has a value as the variables that the Platform makes of it."""
    for param in doc["params"]:
        name = param["name"].upper()
        candidates = (param["value"], doc["arguments"].get(param["name"]), param["default"])
        value = next((found for found in candidates if found is not None), None)
        if value is None:
            continue
        kind = param["type"]
        if kind.startswith("credential_"):
            words = ("ACCESS_KEY_ID", "SECRET_ACCESS_KEY")
            for word in words if kind == "credential_aws" else ("USERNAME", "PASSWORD"):
                yield f"{name}_{word}", DUMMY
        elif kind == "database":
            chosen = value.get("database") if isinstance(value, dict) else value
            yield f"{name}_ID", _text(chosen)
            yield f"{name}_CREDENTIAL_USERNAME", DUMMY
            yield f"{name}_CREDENTIAL_PASSWORD", DUMMY
        else:
            yield name, _text(value)
            if kind == "string":
                yield f"{name}_SHELL_ESCAPED", shlex.quote(_text(value))
            if kind == "file":
                url = _file_url(platform, value)
                if url is not None:
                    yield f"{name}_URL", url


def _text(value: Any) -> str:
    if isinstance(value, str):
        return value
    return json.dumps(value)  # true, 1.5, and lists as the Platform's own JSON


def _file_url(platform: Platform, key: Any) -> str | None:
    row = platform.store.one("SELECT * FROM files WHERE id = ?", str(key))
    return (
        None
        if row is None
        else download_url(platform, row, platform.now() + DOWNLOAD_SECONDS, "worker")
    )
