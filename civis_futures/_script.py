"""From what the user asked for to the body of the request that creates a script.

Knows the API's field names; sends nothing. What is assumed of Platform without evidence is here:
that a parameter of type `file` gives its link in `<NAME>_URL` (the bootstrap falls back to the
API), and that a `multi_line_string` holds an order of some tens of kB.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import fields
from typing import Any

from ._bundle import docker_command
from ._types import Container, JobKind, Template
from ._wire import BUNDLE_VARIABLE, ORDER_VARIABLE

#: Parent variables that civis-python's executors set, and scripts look for -> where we read them.
PARENT_VARIABLES = {
    "CIVIS_PARENT_JOB_ID": "CIVIS_JOB_ID",
    "CIVIS_PARENT_RUN_ID": "CIVIS_RUN_ID",
}
#: Fields of `Container` and `Template` that are not sent as they are.
_OURS = {"setup_cmd", "params", "arguments", "environment", "order_param", "order_in_file"}
_REPOSITORY_SETUP = "cd /app && pip install . && cd /"


def job_kind(container: Container | Template) -> JobKind:
    """Which kind of script runs it."""
    return JobKind.CUSTOM if isinstance(container, Template) else JobKind.CONTAINER


def script_body(
    container: Container | Template,
    *,
    name: str,
    order: str | int,
    bundle_id: int,
    bundle_sha256: str,
    url: str,
) -> dict[str, Any]:
    """The body of ``POST /scripts/containers`` or ``POST /scripts/custom`` for one worker."""
    body = {
        field.name: value
        for field in fields(container)
        if field.name not in _OURS and (value := getattr(container, field.name)) is not None
    }
    body["name"] = name
    if isinstance(container, Template):
        # Its parameters are fixed by the template; those it does not have are refused.
        body["arguments"] = {**container.arguments, container.order_param: order}
        return body
    setup = container.setup_cmd
    if setup is None and container.repo_http_uri:
        setup = _REPOSITORY_SETUP
    body["docker_command"] = docker_command(url, bundle_sha256, bundle_id, setup)
    own: dict[str, tuple[str, str | int]] = {
        **{name.upper(): ("string", value) for name, value in container.environment.items()},
        ORDER_VARIABLE: ("multi_line_string", str(order)),
        BUNDLE_VARIABLE: ("file", bundle_id),
        **_parents(),
    }
    # These replace params of the same name: Platform refuses a script with duplicates.
    params = [param for param in container.params if str(param.get("name")).upper() not in own]
    body["params"] = params + [{"name": name, "type": kind} for name, (kind, _) in own.items()]
    arguments = {
        name: value for name, value in container.arguments.items() if name.upper() not in own
    }
    body["arguments"] = {**arguments, **{name: value for name, (_, value) in own.items()}}
    return body


def _parents(environment: Mapping[str, str] = os.environ) -> dict[str, tuple[str, str | int]]:
    """The job and run that we run in ourselves, if we do."""
    found: dict[str, tuple[str, str | int]] = {}
    for name, source in PARENT_VARIABLES.items():
        value = environment.get(source, "")
        if value.isdigit():
            found[name] = ("integer", int(value))
    return found
