"""Where we run ourselves, if that is a container of the platform: `this_container`."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from contextlib import closing
from dataclasses import fields
from typing import TYPE_CHECKING, Any

from .._container.container import Container
from .._exceptions import PlatformError
from .._types import Job, JobKind

if TYPE_CHECKING:
    from .._api.client import PlatformClient

#: Fields of `Container` that are read from the script; the others are about us, not about it.
_INHERITED = {field.name for field in fields(Container)} - {
    "environment", "hidden", "notifications", "running_as_id", "setup_cmd",
}  # fmt: skip
#: What a custom script says itself; the rest is its template's.
_OF_CUSTOM = ("arguments", "partitionLabel", "requiredResources", "targetProjectId", "timeZone")
_RESOURCES = {"cpu": "cpu", "memory": "memory", "diskSpace": "disk_space"}
#: Parameters that we add to our scripts: the next ones get them anew.
_OURS = ("CIVIS_FUTURES_", "CIVIS_PARENT_")


def this_container(platform: Any = None, **changes: Any) -> Container:
    """The `Container` that this code runs in, to start more of the same kind.

    It is read from the script of this run, as the script is now; of a custom script, from its
    template's script, with the custom script's arguments. What is not read: the command (and so
    `setup_cmd`), whether the script is hidden, its notifications, and the parameters that this
    package adds.

    Args:
        platform: as for `ContainerPoolExecutor`; ``"local"`` is not possible.
        **changes: fields of `Container` to change; None means no change. Values in
            ``required_resources``, ``params`` and ``arguments`` are added to those that were
            found, and replace those of the same name.

    Raises:
        TypeError: `Container` has no field of that name.
        RuntimeError: this process is not in a container of the platform, or the script of its
            template cannot be read.
        CredentialsError: there is no key.
        PlatformError: the platform cannot be reached, or refuses.
    """
    number = os.environ.get("CIVIS_JOB_ID", "")
    if not number.isdigit():
        raise RuntimeError("this does not run in a container of Civis Platform: no CIVIS_JOB_ID")
    from .._api.client import PlatformClient, access  # slow to import

    job = Job(int(number), JobKind.CONTAINER)
    with closing(PlatformClient(*access(platform))) as client:
        script = client.get_script(job)
        template = script.get("fromTemplateId")
        if template is not None:
            own = {name: script[name] for name in _OF_CUSTOM if script.get(name) is not None}
            script = {**_backing_script(client, job, template), **own}
    return _container(script, {name: x for name, x in changes.items() if x is not None})


def _backing_script(client: PlatformClient, job: Job, template: int) -> dict[str, Any]:
    script = client.template_script(template)
    try:
        return client.get_script(script)
    except PlatformError as error:
        if error.status not in (403, 404):
            raise
        raise RuntimeError(
            f"job {job.id} is made from template {template}, whose script {script.id} cannot be "
            f"read; perhaps you may not see it: {error}"
        ) from error


def _container(script: dict[str, Any], changes: dict[str, Any]) -> Container:
    given = {
        name: value
        for name in _INHERITED
        if (value := script.get(re.sub("_([a-z])", lambda m: m[1].upper(), name))) is not None
    }
    resources = given.get("required_resources", {})
    given["required_resources"] = {
        name: resources[key] for key, name in _RESOURCES.items() if resources.get(key) is not None
    }
    given["params"] = [
        {key: value for key, value in param.items() if value is not None}
        for param in given.get("params", ())
        if not _is_ours(param["name"])
    ]
    given["arguments"] = {
        name: value
        for name, value in given.get("arguments", {}).items()
        if value is not None and not _is_ours(name)
    }
    for name in changes.keys() & {"required_resources", "arguments"}:
        changes[name] = {**given.get(name, {}), **changes[name]}
    if "params" in changes:
        changes["params"] = _with_params(given["params"], changes["params"])
    return Container(**{**given, **changes})


def _with_params(found: Any, more: Any) -> list[Mapping[str, Any]]:
    """Both; what is said of a parameter again, its name in capitals or not, changes it."""
    by_name: dict[str, Mapping[str, Any]] = {}
    for param in [*found, *more]:
        name = str(param["name"]).upper()
        by_name[name] = {**by_name.get(name, {}), **param}
    return list(by_name.values())


def _is_ours(name: str) -> bool:
    return name.upper().startswith(_OURS)
